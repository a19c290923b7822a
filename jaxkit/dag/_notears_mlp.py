"""NOTEARS with a network for each node."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.dag._acyclicity import h_expm, h_expm_grad
from jaxkit.dag._mlp import (
    MlpParams,
    checked_mlp,
    mlp_adjacency,
    node_losses,
)
from jaxkit.dag._notears import (
    Multipliers,
    NotearsConfig,
    advance,
    first_multipliers,
)
from jaxkit.dag._owlqn import minimize_l1
from jaxkit.typing import ArrayLike

__all__ = ["NotearsMlpResult", "notears_mlp"]


class NotearsMlpResult(NamedTuple):
    """What :func:`notears_mlp` found.

    Attributes:
      params: the networks.
      weights: :func:`mlp_adjacency` of them, before any threshold, shape ``[d, d]``.
      loss: :func:`mlp_loss` summed over nodes, a scalar.
      h: :func:`h_expm` of the squared weights, a scalar.
      num_steps: how often the multiplier was updated, int32.
      converged: whether ``h`` fell below its tolerance, bool.
    """

    params: MlpParams
    weights: jax.Array
    loss: jax.Array
    h: jax.Array
    num_steps: jax.Array
    converged: jax.Array


def _strengths(params: MlpParams) -> jax.Array:
    return jnp.sum(params.hidden**2, axis=-1)


@jit()
def notears_mlp(
    params: MlpParams, x: ArrayLike, config: NotearsConfig | None = None
) -> NotearsMlpResult:
    r"""Trains a network for each node under a smooth constraint of acyclicity.

    .. math:: \min\; \sum_j \ell_j \quad\text{subject to}\quad
        \operatorname{tr} e^{S} = d, \qquad S_{kj} = \|A_{kj}\|_2^2

    with the losses of :func:`mlp_loss` on centered data, by the method of
    :func:`notears`. A node has no weight to itself, and never gets one.

    Args:
      params: where to start, from :func:`init_mlp`. At zero nothing would move.
      x: the data, one row per sample, shape ``[n, d]``; column means are subtracted.
      config: the settings; None means the defaults, which are those of the paper.

    Returns:
      The networks and what they reach. Edges are weights above 0.3, say.

    Raises:
      TypeError: if an argument is not floating.
      ValueError: if a shape does not fit.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> x = jax.random.normal(jax.random.key(0), (100, 2))
      >>> x = x.at[:, 1].add(2.0 * jnp.sin(x[:, 0]))
      >>> params = dag.init_mlp(jax.random.key(1), 2, num_hidden=4)
      >>> config = dag.NotearsConfig(max_outer=3, max_inner=100)
      >>> found = dag.notears_mlp(params, x, config)
      >>> print(found.weights[0, 1] > found.weights[1, 0])
      True

    References:
      Zheng et al., *Learning Sparse Nonparametric DAGs*, AISTATS 2020, sections 3 and 4.
    """
    params, config = checked_mlp(params), config or NotearsConfig()
    (x,) = checks.floating(x=x)
    d = params.hidden.shape[0]
    if x.ndim != 2 or x.shape[1] != d:
        raise ValueError(f"`x` must have shape (n, {d}), got {x.shape}.")
    dtype = accumulation_dtype(x, params.hidden)
    x = x.astype(dtype)
    x = x - jnp.mean(x, axis=0)[None, :]
    l1, l2 = checks.floating(l1=0.01 if config.l1 is None else config.l1, l2=config.l2)
    l1, l2 = l1.astype(dtype), l2.astype(dtype)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    off = ~jnp.eye(d, dtype=bool)[..., None]
    params = params._replace(hidden=jnp.where(off, params.hidden, 0.0))
    flat, unravel = ravel_pytree(params)
    idle = jax.tree.map(jnp.zeros_like, params)
    shares, _ = ravel_pytree(idle._replace(hidden=jnp.where(off, l1, idle.hidden)))

    def smooth(params: MlpParams) -> jax.Array:
        return jnp.sum(node_losses(params, x, None, jnp.zeros_like(l1), l2))

    def step(state: Multipliers) -> Multipliers:
        def function(flat: jax.Array) -> tuple[jax.Array, jax.Array]:
            params = unravel(flat)
            value, slope = jax.value_and_grad(smooth)(params)
            strengths = _strengths(params)
            h = h_expm(strengths)
            pull = (state.rho * h + state.alpha) * h_expm_grad(strengths)
            hidden = slope.hidden + 2.0 * params.hidden * pull[..., None]
            value = value + 0.5 * state.rho * h * h + state.alpha * h
            return value, ravel_pytree(slope._replace(hidden=hidden))[0]

        point = minimize_l1(
            function,
            state.point,
            shares,
            max_steps=jnp.asarray(config.max_inner).astype(jnp.int32),
            tol=jnp.asarray(config.tol).astype(dtype),
        )
        return advance(state, point, h_expm(_strengths(unravel(point))), config)

    state = first_multipliers(flat)
    state = jax.lax.while_loop(lambda state: state.running, step, state)
    found = unravel(state.point)
    h = h_expm(_strengths(found))
    return NotearsMlpResult(
        params=found,
        weights=mlp_adjacency(found),
        loss=jnp.sum(node_losses(found, x, None, l1, l2)),
        h=h,
        num_steps=state.count,
        converged=h <= jnp.asarray(config.h_tol).astype(dtype),
    )
