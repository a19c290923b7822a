"""DAGMA: descent with the log-determinant as a barrier against cycles."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.dag._acyclicity import h_logdet
from jaxkit.dag._descent import adam, as_pairs, move
from jaxkit.dag._scores import least_squares_grad, least_squares_loss
from jaxkit.dag._stats import GramStats, check_type, checked_stats
from jaxkit.dag._validate import warn_if_scaled
from jaxkit.typing import ArrayLike, PyTree

__all__ = ["DagmaConfig", "DagmaResult", "dagma"]

# Restarts of a stage, each with half the step and more room: only NaN needs so many.
_MOST_RESTARTS = 64
# Halvings of a step after which a stage gives up.
_LEAST_SHRINK = 2.0**-40


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class DagmaConfig:
    r"""Settings of :func:`dagma`.

    Attributes:
      l1: the weight :math:`\lambda` of the sum of absolute weights.
      learning_rate: the step of Adam.
      barriers: the weights :math:`\mu_t` of the score at each stage, decreasing.
      scales: the bounds :math:`s_t` of the spectral radius, of the same length.
      warm_steps: the most steps at each stage but the last, an integer.
      last_steps: the most steps at the last stage, an integer.
      tol: the relative change of the objective between checks that ends a stage.
      check_every: how many steps lie between checks, an integer.
      include: entry ``[i, j]`` not zero where the pull of the L1 term is reversed,
        shape ``[d, d]``: favors an edge, does not promise it. None for none.
      exclude: entry ``[i, j]`` not zero where no edge may be, shape ``[d, d]``.

    Raises:
      ValueError: if ``barriers`` and ``scales`` differ in length.
    """

    l1: ArrayLike = 0.03
    learning_rate: ArrayLike = 3e-4
    barriers: tuple[ArrayLike, ...] = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
    scales: tuple[ArrayLike, ...] = (1.0, 0.9, 0.8, 0.7, 0.6)
    warm_steps: ArrayLike = 30_000
    last_steps: ArrayLike = 60_000
    tol: ArrayLike = 1e-6
    check_every: ArrayLike = 1000
    include: ArrayLike | None = None
    exclude: ArrayLike | None = None

    def __post_init__(self) -> None:
        if len(self.barriers) != len(self.scales) or not self.barriers:
            raise ValueError(
                "`barriers` and `scales` must have the same length, at least 1, got "
                f"{len(self.barriers)} and {len(self.scales)}."
            )


class DagmaResult(NamedTuple):
    """What :func:`dagma` found.

    Attributes:
      weights: before any threshold, shape ``[d, d]``; :func:`threshold_to_dag` and
        :func:`order_from_adjacency` take them.
      loss: the least-squares loss plus the L1 term, a scalar.
      h: :func:`h_logdet` of the squared weights at ``s = 1``, a scalar; 0 for a graph
        without cycles.
      num_steps: the steps of the accepted run of each stage, int32.
    """

    weights: jax.Array
    loss: jax.Array
    h: jax.Array
    num_steps: jax.Array


class _Problem(NamedTuple):
    """What does not change during the search."""

    stats: GramStats
    l1: jax.Array
    pull: jax.Array
    allowed: jax.Array
    tol: jax.Array
    check_every: jax.Array


class _Stage(NamedTuple):
    """What one step of a stage hands to the next."""

    weights: jax.Array
    previous: jax.Array
    updates: jax.Array
    memory: PyTree
    shrink: jax.Array
    count: jax.Array
    objective: jax.Array
    running: jax.Array
    failed: jax.Array


def _objective(
    problem: _Problem, weights: jax.Array, barrier: jax.Array, s: jax.Array
) -> jax.Array:
    score = least_squares_loss(problem.stats, weights)
    score = score + problem.l1 * jnp.sum(jnp.abs(weights))
    return barrier * score + h_logdet(weights * weights, s=s)


def _advance(
    problem: _Problem,
    optimizer: optax.GradientTransformation,
    stage: _Stage,
    barrier: jax.Array,
    s: jax.Array,
    most: jax.Array,
) -> _Stage:
    """A step from a point of the domain, or a retreat from one outside."""
    weights = stage.weights
    eye = jnp.eye(weights.shape[0], dtype=weights.dtype)
    inverse = jnp.linalg.inv(s * eye - weights * weights)
    rounding = jnp.finfo(weights.dtype).eps * jnp.max(jnp.abs(inverse))
    sound = jnp.all(inverse >= -rounding)

    pull = barrier * problem.pull * jnp.sign(weights)
    gradient = barrier * least_squares_grad(problem.stats, weights) + pull
    gradient = gradient + 2.0 * weights * inverse.T
    updates, memory = move(optimizer, gradient, stage.memory, weights)
    step = lambda origin, updates, shrink: jnp.where(
        problem.allowed, origin + shrink * updates, 0.0
    )
    moved = step(weights, updates, stage.shrink)
    count = stage.count + 1
    due = (count % problem.check_every == 0) | (count == most)
    look = lambda: _objective(problem, moved, barrier, s)
    objective = jax.lax.cond(due & sound, look, lambda: stage.objective)
    change = jnp.abs(stage.objective - objective)
    still = due & (change <= problem.tol * jnp.abs(stage.objective))
    forward = _Stage(
        weights=moved,
        previous=weights,
        updates=updates,
        memory=memory,
        shrink=stage.shrink,
        count=count,
        objective=objective,
        running=~still & (count < most),
        failed=stage.failed,
    )
    # With little room, or at the very start, the whole stage is to be run again.
    hopeless = (stage.count == 0) | (s < 0.95)
    shrink = 0.5 * stage.shrink
    exhausted = shrink < _LEAST_SHRINK
    shorter = step(stage.previous, stage.updates, shrink)
    retreat = stage._replace(
        weights=jnp.where(exhausted, stage.previous, shorter),
        shrink=shrink,
        running=~hopeless & ~exhausted,
        failed=hopeless,
    )
    return jax.tree.map(lambda a, b: jnp.where(sound, a, b), forward, retreat)


def _run_stage(
    problem: _Problem,
    optimizer: optax.GradientTransformation,
    weights: jax.Array,
    inputs: tuple[jax.Array, jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array]:
    barrier, scale, most = inputs
    unit = jnp.ones_like(scale)

    def attempt(state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        _, _, s, shrink, tries, _ = state
        start = _Stage(
            weights=weights,
            previous=weights,
            updates=jnp.zeros_like(weights),
            memory=optimizer.init(weights),
            shrink=shrink,
            count=jnp.asarray(0, jnp.int32),
            objective=jnp.asarray(1e16, weights.dtype),
            running=jnp.asarray(True),
            failed=jnp.asarray(False),
        )
        stage = jax.lax.while_loop(
            lambda stage: stage.running,
            lambda stage: _advance(problem, optimizer, stage, barrier, s, most),
            start,
        )
        return (
            stage.weights,
            stage.count,
            s + 0.1,
            0.5 * shrink,
            tries + 1,
            stage.failed,
        )

    zero = jnp.asarray(0, jnp.int32)
    first = (weights, zero, scale, unit, zero, jnp.asarray(True))
    going = lambda state: state[5] & (state[4] < _MOST_RESTARTS)
    found, count, *_, failed = jax.lax.while_loop(going, attempt, first)
    return jnp.where(failed, jnp.nan, found), count


def dagma(
    stats: GramStats,
    config: DagmaConfig | None = None,
    *,
    weights: ArrayLike | None = None,
    optimizer: optax.GradientTransformation | None = None,
) -> DagmaResult:
    r"""Descends on a score with the log-determinant as a barrier against cycles.

    .. math:: \min_W\; \mu_t \bigl[ Q(W) + \lambda \|W\|_1 \bigr]
        - \log\det(s_t I - W \circ W) + d \log s_t, \qquad t = 1, 2, \dots

    with :math:`\mu_t \to 0`, each stage started where the last one ended. The barrier
    is defined where the spectral radius of :math:`W \circ W` is below :math:`s_t`. A
    step out of that domain is taken back and halved; at the first step, or for
    :math:`s_t \le 0.9`, the stage is run again with half the step and :math:`s_t` raised
    by 0.1. Stages that never get into the domain give NaN.

    The score is least squares: the result depends on the scale of the columns, and
    equal variances raise a warning where they are known.

    Args:
      stats: the moments, from :func:`gram_stats`.
      config: the settings; None means the defaults, which are those of the paper.
      weights: where to start, shape ``[d, d]``; None means at zero.
      optimizer: an optax transformation, such as ``optax.adam(3e-4, 0.99, 0.999)``,
        used instead of ``learning_rate``; compiled anew for each object. Static.

    Returns:
      The weights and what they reach. Not differentiable in reverse mode.

    Raises:
      TypeError: if ``stats`` is not a :class:`GramStats`.
      ValueError: if a shape does not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> stats = dag.covariance_stats(jnp.array([[1.0, 2.0], [2.0, 5.0]]))
      >>> config = dag.DagmaConfig(
      ...     learning_rate=3e-3, warm_steps=300, last_steps=300, check_every=100
      ... )
      >>> found = dag.dagma(stats, config)
      >>> print((dag.threshold_to_dag(found.weights) != 0).astype(int))
      [[0 1]
       [0 0]]

    References:
      Bello, Aragam and Ravikumar, *DAGMA: Learning DAGs via M-matrices and a
      Log-Determinant Acyclicity Characterization*, NeurIPS 2022, algorithm 1.
    """
    check_type(stats)
    warn_if_scaled(stats.gram, stacklevel=3)
    return _dagma(stats, config or DagmaConfig(), weights=weights, optimizer=optimizer)


@jit(static_argnames=("optimizer",))
def _dagma(
    stats: GramStats,
    config: DagmaConfig,
    *,
    weights: ArrayLike | None,
    optimizer: optax.GradientTransformation | None,
) -> DagmaResult:
    stats = checked_stats(stats)
    d, dtype = stats.gram.shape[0], stats.gram.dtype
    (l1,) = checks.floating(l1=config.l1)
    include = as_pairs("include", config.include, d)
    problem = _Problem(
        stats=stats,
        l1=l1.astype(dtype),
        pull=l1.astype(dtype) * jnp.where(include, -1.0, 1.0).astype(dtype),
        allowed=~as_pairs("exclude", config.exclude, d) & ~jnp.eye(d, dtype=bool),
        tol=jnp.asarray(config.tol).astype(dtype),
        check_every=jnp.asarray(config.check_every).astype(jnp.int32),
    )
    optimizer = optimizer or adam(config.learning_rate, dtype, 0.99, 0.999)
    start = jnp.zeros((d, d), dtype)
    if weights is not None:
        (weights,) = checks.floating(weights=weights)
        checks.shape("weights", weights, (d, d))
        start = jnp.where(problem.allowed, weights.astype(dtype), 0.0)
    table = lambda values: jnp.stack([jnp.asarray(v).astype(dtype) for v in values])
    most = [config.warm_steps] * (len(config.scales) - 1) + [config.last_steps]
    inputs = (
        table(config.barriers),
        table(config.scales),
        jnp.stack([jnp.asarray(v).astype(jnp.int32) for v in most]),
    )
    run = lambda weights, inputs: _run_stage(problem, optimizer, weights, inputs)
    found, counts = jax.lax.scan(run, start, inputs)
    loss = least_squares_loss(stats, found) + problem.l1 * jnp.sum(jnp.abs(found))
    # Moments that are not finite never let a step into the domain.
    found = jnp.where(jnp.isnan(loss), jnp.nan, found)
    return DagmaResult(found, loss, h_logdet(found * found), counts)
