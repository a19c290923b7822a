"""NOTEARS: least squares under a smooth constraint of acyclicity."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.dag._acyclicity import h_expm, h_expm_grad
from jaxkit.dag._owlqn import minimize_l1
from jaxkit.dag._scores import least_squares_grad, least_squares_loss
from jaxkit.dag._stats import GramStats, checked_stats
from jaxkit.dag._validate import warn_if_scaled
from jaxkit.typing import ArrayLike

__all__ = [
    "Multipliers",
    "NotearsConfig",
    "NotearsResult",
    "advance",
    "first_multipliers",
    "notears",
    "notears_objective",
]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class NotearsConfig:
    r"""Settings of :func:`notears` and :func:`notears_mlp`.

    Attributes:
      l1: the weight :math:`\lambda_1` of the sum of absolute weights; None means the
        paper's, 0.1 for linear models and 0.01 for networks.
      l2: the weight of squared weights of networks, which enter with half of it; linear
        models have none.
      h_tol: the value of the constraint that is taken for 0.
      penalty_max: the largest weight :math:`\rho` of the quadratic penalty.
      max_outer: the most updates of the multiplier, an integer.
      max_inner: the most quasi-Newton steps between them, an integer.
      tol: the largest entry of the least subgradient that ends these.
    """

    l1: ArrayLike | None = None
    l2: ArrayLike = 0.01
    h_tol: ArrayLike = 1e-8
    penalty_max: ArrayLike = 1e16
    max_outer: ArrayLike = 100
    max_inner: ArrayLike = 2000
    tol: ArrayLike = 1e-5


class NotearsResult(NamedTuple):
    """What :func:`notears` found.

    Attributes:
      weights: before any threshold, shape ``[d, d]``; :func:`threshold_to_dag` and
        :func:`order_from_adjacency` take them.
      loss: the least-squares loss plus the L1 term, a scalar.
      h: :func:`h_expm` of the squared weights, a scalar.
      num_steps: how often the multiplier was updated, int32.
      converged: whether ``h`` fell below its tolerance, bool.
    """

    weights: jax.Array
    loss: jax.Array
    h: jax.Array
    num_steps: jax.Array
    converged: jax.Array


class Multipliers(NamedTuple):
    """Where the method of multipliers stands."""

    point: jax.Array
    h: jax.Array
    rho: jax.Array
    alpha: jax.Array
    count: jax.Array
    running: jax.Array


def first_multipliers(point: jax.Array) -> Multipliers:
    """The state before the first solution."""
    number = lambda value: jnp.asarray(value, point.dtype)
    return Multipliers(
        point=point,
        h=number(jnp.inf),
        rho=number(1.0),
        alpha=number(0.0),
        count=jnp.asarray(0, jnp.int32),
        running=jnp.asarray(True),
    )


def advance(
    state: Multipliers, point: jax.Array, h: jax.Array, config: NotearsConfig
) -> Multipliers:
    """Accepts a solution, or asks for another one under a larger penalty."""
    dtype = state.rho.dtype
    largest = jnp.asarray(config.penalty_max).astype(dtype)
    tol = jnp.asarray(config.h_tol).astype(dtype)
    slow = h > 0.25 * state.h
    rho = jnp.where(slow, 10.0 * state.rho, state.rho)
    accept = ~slow | (rho >= largest)
    count = state.count + accept.astype(jnp.int32)
    done = accept & ((h <= tol) | (rho >= largest))
    return Multipliers(
        point=jnp.where(accept, point, state.point),
        h=jnp.where(accept, h, state.h),
        rho=rho,
        alpha=state.alpha + jnp.where(accept, rho * h, 0.0),
        count=count,
        running=~done & (count < config.max_outer),
    )


@jit()
def notears_objective(
    stats: GramStats, weights: ArrayLike, *, rho: ArrayLike, alpha: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    r"""The smooth part of the augmented Lagrangian, and its gradient.

    .. math:: Q(W) + \tfrac\rho2 h(W)^2 + \alpha h(W), \qquad
        h(W) = \operatorname{tr} e^{W \circ W} - d

    .. math:: \nabla = -G (I - W) + (\rho h + \alpha)\; 2 W \circ (e^{W \circ W})^\top

    Args:
      stats: the moments, from :func:`gram_stats`.
      weights: entry ``[i, j]`` is the weight of ``i -> j``, shape ``[d, d]``.
      rho: the weight of the quadratic penalty, a scalar.
      alpha: the multiplier, a scalar.

    Returns:
      The value, a scalar, and the gradient, shape ``[d, d]``; at least float32.

    Raises:
      TypeError: if ``weights`` is not floating.
      ValueError: if a shape does not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> stats = dag.covariance_stats(jnp.array([[1.0, 2.0], [2.0, 5.0]]))
      >>> w = jnp.array([[0.0, 2.0], [0.0, 0.0]])
      >>> value, gradient = dag.notears_objective(stats, w, rho=1.0, alpha=0.0)
      >>> print(value)
      1.0

    References:
      Zheng et al., *DAGs with NO TEARS*, NeurIPS 2018, section 4.
    """
    stats = checked_stats(stats)
    score = least_squares_loss(stats, weights)
    slope = least_squares_grad(stats, weights)
    weights, rho, alpha = checks.floating(weights=weights, rho=rho, alpha=alpha)
    weights, rho, alpha = (a.astype(score.dtype) for a in (weights, rho, alpha))
    squares = weights * weights
    h = h_expm(squares)
    value = score + 0.5 * rho * h * h + alpha * h
    return value, slope + (rho * h + alpha) * 2.0 * weights * h_expm_grad(squares)


def notears(
    stats: GramStats,
    config: NotearsConfig | None = None,
    *,
    weights: ArrayLike | None = None,
    minimize: Callable[..., Any] | None = None,
) -> NotearsResult:
    r"""Fits a linear model under a smooth constraint of acyclicity.

    .. math:: \min_W\; Q(W) + \lambda_1 \|W\|_1 \quad\text{subject to}\quad
        \operatorname{tr} e^{W \circ W} = d

    by the method of multipliers: a solution that does not cut ``h`` to a quarter is
    thrown away and sought again under ten times the penalty, any other is kept and
    updates the multiplier. The inner problems are solved by quasi-Newton steps that stay
    in one orthant, which compiles and maps; or on the host by a function like that of
    SciPy, on the positive and negative parts of the weights.

    Least squares depends on the scale of the columns, and equal variances raise a
    warning where they are known. The last stages are badly conditioned: use float64.

    Args:
      stats: the moments, from :func:`gram_stats`.
      config: the settings; None means the defaults, which are those of the paper.
      weights: where to start, shape ``[d, d]``; None means at zero.
      minimize: None, or a function with the signature of ``scipy.optimize.minimize``,
        called with ``method="L-BFGS-B"``, a gradient and bounds; the whole then runs on
        the host and cannot be compiled.

    Returns:
      The weights and what they reach.

    Raises:
      TypeError: if ``stats`` is not a :class:`GramStats`.
      ValueError: if a shape does not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> stats = dag.covariance_stats(jnp.array([[1.0, 2.0], [2.0, 5.0]]))
      >>> found = dag.notears(stats)
      >>> print((dag.threshold_to_dag(found.weights) != 0).astype(int))
      [[0 1]
       [0 0]]

    References:
      Zheng et al., *DAGs with NO TEARS*, NeurIPS 2018, algorithm 1; Andrew and Gao,
      *Scalable Training of L1-Regularized Log-Linear Models*, ICML 2007, for the steps.
    """
    stats, config = checked_stats(stats), config or NotearsConfig()
    warn_if_scaled(stats.gram, stacklevel=3)
    d, dtype = stats.gram.shape[0], stats.gram.dtype
    start = jnp.zeros((d, d), dtype)
    if weights is not None:
        (weights,) = checks.floating(weights=weights)
        checks.shape("weights", weights, (d, d))
        start = jnp.where(jnp.eye(d, dtype=bool), 0.0, weights.astype(dtype))
    if minimize is None:
        return _notears(stats, start, config)
    return _notears_on_host(stats, start, config, minimize)


def _l1(config: NotearsConfig, dtype: jnp.dtype) -> jax.Array:
    (l1,) = checks.floating(l1=0.1 if config.l1 is None else config.l1)
    return l1.astype(dtype)


@jit()
def _smooth(
    stats: GramStats, weights: jax.Array, rho: jax.Array, alpha: jax.Array
) -> tuple[jax.Array, jax.Array]:
    value, gradient = notears_objective(stats, weights, rho=rho, alpha=alpha)
    # Nodes have no edge to themselves: their entries stay where they start, at 0.
    return value, jnp.where(jnp.eye(weights.shape[0], dtype=bool), 0.0, gradient)


@jit()
def _summary(
    stats: GramStats, state: Multipliers, config: NotearsConfig
) -> NotearsResult:
    weights = state.point
    l1 = _l1(config, weights.dtype)
    h = h_expm(weights * weights)
    return NotearsResult(
        weights=weights,
        loss=least_squares_loss(stats, weights) + l1 * jnp.sum(jnp.abs(weights)),
        h=h,
        num_steps=state.count,
        converged=h <= jnp.asarray(config.h_tol).astype(h.dtype),
    )


@jit()
def _notears(
    stats: GramStats, start: jax.Array, config: NotearsConfig
) -> NotearsResult:
    shape, dtype = start.shape, start.dtype
    l1 = jnp.full(start.size, 1.0, dtype) * _l1(config, dtype)

    def step(state: Multipliers) -> Multipliers:
        def function(flat: jax.Array) -> tuple[jax.Array, jax.Array]:
            value, gradient = _smooth(
                stats, flat.reshape(shape), state.rho, state.alpha
            )
            return value, gradient.ravel()

        flat = minimize_l1(
            function,
            state.point.ravel(),
            l1,
            max_steps=jnp.asarray(config.max_inner).astype(jnp.int32),
            tol=jnp.asarray(config.tol).astype(dtype),
        )
        weights = flat.reshape(shape)
        return advance(state, weights, h_expm(weights * weights), config)

    state = first_multipliers(start)
    state = jax.lax.while_loop(lambda state: state.running, step, state)
    return _summary(stats, state, config)


def _notears_on_host(
    stats: GramStats,
    start: jax.Array,
    config: NotearsConfig,
    minimize: Callable[..., Any],
) -> NotearsResult:
    d, dtype = start.shape[0], start.dtype
    l1 = float(_l1(config, dtype))
    free = np.tile(~np.eye(d, dtype=bool).ravel(), 2)
    bounds = [(0.0, None if entry else 0.0) for entry in free]
    state = first_multipliers(start)
    while bool(state.running):

        def function(
            parts: np.ndarray, state: Multipliers = state
        ) -> tuple[float, np.ndarray]:
            weights = (parts[: d * d] - parts[d * d :]).reshape(d, d)
            value, gradient = _smooth(
                stats, jnp.asarray(weights, dtype), state.rho, state.alpha
            )
            slope = np.asarray(gradient, np.float64).ravel()
            slopes = np.concatenate([slope, -slope]) + l1 * free
            return float(value) + l1 * float(parts.sum()), slopes

        weights = np.asarray(state.point, np.float64).ravel()
        parts = np.concatenate([np.maximum(weights, 0.0), np.maximum(-weights, 0.0)])
        parts = minimize(function, parts, method="L-BFGS-B", jac=True, bounds=bounds).x
        weights = jnp.asarray((parts[: d * d] - parts[d * d :]).reshape(d, d), dtype)
        state = advance(state, weights, h_expm(weights * weights), config)
    return _summary(stats, state, config)
