"""GOLEM: likelihood of a linear Gaussian model with soft acyclicity."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.dag._acyclicity import h_expm, h_expm_grad
from jaxkit.dag._descent import adam, move
from jaxkit.dag._scores import (
    golem_ev_loss,
    golem_nv_loss,
    least_squares_grad,
)
from jaxkit.dag._stats import GramStats, check_type, checked_stats
from jaxkit.dag._validate import warn_if_scaled
from jaxkit.typing import ArrayLike

__all__ = ["GolemConfig", "GolemResult", "golem"]

VARIANCES = ("ev", "nv")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class GolemConfig:
    r"""Settings of :func:`golem`.

    Attributes:
      variance: ``"ev"`` for noise of equal variances or ``"nv"`` for variances of their
        own; static.
      l1: the weight :math:`\lambda_1` of the sum of absolute weights; None means the
        paper's, 0.02 for ``"ev"`` and 0.002 for ``"nv"``.
      acyclicity: the weight :math:`\lambda_2` of the acyclicity function.
      learning_rate: the step of Adam.
      num_steps: how many steps, an integer.

    Raises:
      ValueError: if ``variance`` is unknown.
    """

    variance: str = dataclasses.field(default="ev", metadata={"static": True})
    l1: ArrayLike | None = None
    acyclicity: ArrayLike = 5.0
    learning_rate: ArrayLike = 1e-3
    num_steps: ArrayLike = 100_000

    def __post_init__(self) -> None:
        checks.one_of("variance", self.variance, VARIANCES)


class GolemResult(NamedTuple):
    """What :func:`golem` found.

    Attributes:
      weights: before any threshold, shape ``[d, d]``; :func:`threshold_to_dag` and
        :func:`order_from_adjacency` take them.
      loss: the objective, a scalar.
      h: :func:`h_expm` of the squared weights, a scalar; not 0, as acyclicity is soft.
    """

    weights: jax.Array
    loss: jax.Array
    h: jax.Array


def _moments(stats: GramStats, weights: jax.Array) -> jax.Array:
    """The mean squared residual of each node."""
    rest = jnp.eye(weights.shape[0], dtype=weights.dtype) - weights
    # The gradient of least squares is minus the moments times the rest.
    return -jnp.sum(rest * least_squares_grad(stats, weights), axis=0)


def _likelihood_grad(stats: GramStats, weights: jax.Array, variance: str) -> jax.Array:
    left = _moments(stats, weights)
    if variance == "ev":
        share = jnp.full_like(left, weights.shape[0]) / jnp.sum(left)
    else:
        share = 1.0 / left
    rest = jnp.eye(weights.shape[0], dtype=weights.dtype) - weights
    return least_squares_grad(stats, weights) * share[None, :] + jnp.linalg.inv(rest).T


def golem(
    stats: GramStats,
    config: GolemConfig | None = None,
    *,
    weights: ArrayLike | None = None,
    optimizer: optax.GradientTransformation | None = None,
) -> GolemResult:
    r"""Descends on a Gaussian likelihood with penalties of weights and cycles.

    .. math:: \min_W\; L(W) + \lambda_1 \|W\|_1
        + \lambda_2 \bigl[ \operatorname{tr} e^{W \circ W} - d \bigr]

    with the likelihood :func:`golem_ev_loss` or :func:`golem_nv_loss`. That for unequal
    variances has many poor minima; start it from the result of the other. The first
    finds directions from variances: with it, columns of equal variance raise a warning
    where they are known.

    Args:
      stats: the moments, from :func:`gram_stats`.
      config: the settings; None means the defaults, which are those of the paper.
      weights: where to start, shape ``[d, d]``; None means at zero.
      optimizer: an optax transformation used instead of Adam with ``learning_rate``;
        compiled anew for each object. Static.

    Returns:
      The weights and what they reach; the loss is infinite for the moments of a
      population.

    Raises:
      TypeError: if ``stats`` is not a :class:`GramStats`.
      ValueError: if a shape does not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> gram = jnp.array([[1.0, 2.0], [2.0, 5.0]])
      >>> stats = dag.covariance_stats(gram, num_samples=100)
      >>> config = dag.GolemConfig(learning_rate=0.02, num_steps=500)
      >>> found = dag.golem(stats, config)
      >>> print((dag.threshold_to_dag(found.weights) != 0).astype(int))
      [[0 1]
       [0 0]]

    References:
      Ng, Ghassami and Zhang, *On the Role of Sparsity and DAG Constraints for Learning
      Linear DAGs*, NeurIPS 2020, sections 3 and 4.
    """
    check_type(stats)
    config = config or GolemConfig()
    if config.variance == "ev":
        warn_if_scaled(stats.gram, stacklevel=3)
    return _golem(stats, config, weights=weights, optimizer=optimizer)


@jit(static_argnames=("optimizer",))
def _golem(
    stats: GramStats,
    config: GolemConfig,
    *,
    weights: ArrayLike | None,
    optimizer: optax.GradientTransformation | None,
) -> GolemResult:
    stats = checked_stats(stats)
    d, dtype = stats.gram.shape[0], stats.gram.dtype
    standard = 0.02 if config.variance == "ev" else 0.002
    l1, soft = checks.floating(
        l1=standard if config.l1 is None else config.l1, acyclicity=config.acyclicity
    )
    l1, soft = l1.astype(dtype), soft.astype(dtype)
    optimizer = optimizer or adam(config.learning_rate, dtype, 0.9, 0.999)
    off = ~jnp.eye(d, dtype=bool)
    start = jnp.zeros((d, d), dtype)
    if weights is not None:
        (weights,) = checks.floating(weights=weights)
        checks.shape("weights", weights, (d, d))
        start = jnp.where(off, weights.astype(dtype), 0.0)

    def step(_: jax.Array, state: tuple) -> tuple:
        weights, memory = state
        gradient = _likelihood_grad(stats, weights, config.variance)
        gradient = gradient + l1 * jnp.sign(weights)
        cycles = 2.0 * weights * h_expm_grad(weights * weights)
        gradient = jnp.where(off, gradient + soft * cycles, 0.0)
        updates, memory = move(optimizer, gradient, memory, weights)
        return weights + updates, memory

    most = jnp.asarray(config.num_steps).astype(jnp.int32)
    state = (start, optimizer.init(start))
    found, _ = jax.lax.fori_loop(jnp.zeros_like(most), most, step, state)
    likelihood = golem_ev_loss if config.variance == "ev" else golem_nv_loss
    h = h_expm(found * found)
    loss = likelihood(stats, found) + l1 * jnp.sum(jnp.abs(found)) + soft * h
    return GolemResult(found, loss, h)
