"""The online loop of self-exploration: pure functions, the model passed as callables."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from jaxkit._core import checks
from jaxkit.ops import masked_fill
from jaxkit.preference._dpo import dpo_loss
from jaxkit.preference._exploration import selm_loss
from jaxkit.preference._pairs import hyper
from jaxkit.typing import ArrayLike, PyTree

__all__ = [
    "SelmBatch",
    "SelmConfig",
    "SelmState",
    "init_replay",
    "init_selm",
    "train_round",
    "update_reference",
]

LogProbFn: TypeAlias = Callable[[Any, Any], jax.Array]
BonusFn: TypeAlias = Callable[[Any, Any, "SelmBatch"], jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class SelmConfig:
    """The settings of a loop; map over the numbers with ``jax.vmap``.

    Attributes:
      alpha: strength of the exploration.
      beta: how closely to stay to the reference, positive.
      label_smoothing: fraction of labels taken to be wrong.
      sign: 1 for optimism, -1 for pessimism.
      mix: how far the reference moves to the policy after a round; 1 copies it.
      label_scale: how reliable the judge is, see :func:`bradley_terry_labels`; None
        for one who never errs.
      bonus: the form of the exploration term, see :func:`exploration_bonus`; static.
      alpha_schedule: multiplies ``alpha`` by its value at the number of the round, an
        optax schedule such as ``optax.linear_schedule(1.0, 0.0, num_rounds)``; None
        means 1; static.
      num_steps: optimizer steps per round; static.
      num_samples: answers drawn from the policy per prompt; static.
      rank_explore: whether the exploration answer is ranked with the others, as in
        the paper's algorithm 1; static.
      update_reference: whether the reference moves after each round; static. The
        paper's algorithm 1 moves it, the proof behind algorithm 2 keeps it.
      replay: whether a round trains on the pairs of all former rounds too, as in the
        paper's algorithm 2; static.
    """

    alpha: ArrayLike = 1e-3
    beta: ArrayLike = 0.01
    label_smoothing: ArrayLike = 0.0
    sign: ArrayLike = 1.0
    mix: ArrayLike = 1.0
    label_scale: ArrayLike | None = None
    bonus: str = dataclasses.field(default="log_ratio", metadata={"static": True})
    alpha_schedule: optax.Schedule | None = dataclasses.field(
        default=None, metadata={"static": True}
    )
    num_steps: int = dataclasses.field(default=1, metadata={"static": True})
    num_samples: int = dataclasses.field(default=2, metadata={"static": True})
    rank_explore: bool = dataclasses.field(default=False, metadata={"static": True})
    update_reference: bool = dataclasses.field(default=True, metadata={"static": True})
    replay: bool = dataclasses.field(default=False, metadata={"static": True})

    def __post_init__(self):
        checks.at_least("num_steps", self.num_steps, 1)
        checks.at_least("num_samples", self.num_samples, 0)
        if isinstance(self.beta, int | float) and self.beta <= 0:
            raise ValueError(f"`beta` must be positive, got {self.beta}.")


class SelmBatch(NamedTuple):
    """The pairs of one round.

    An answer is whatever the model's callables read, prompt included: a pytree whose
    leaves have a leading axis ``batch``.

    Attributes:
      chosen: the better answers.
      rejected: the worse answers.
      explore: the exploration answers; None if a ``bonus_fn`` takes their place.
      where: which pairs count, bool ``[batch]``.
      explore_where: which exploration answers count, bool ``[batch]``.
    """

    chosen: PyTree
    rejected: PyTree
    explore: PyTree
    where: jax.Array
    explore_where: jax.Array


class SelmState(NamedTuple):
    """What one round hands to the next.

    Attributes:
      params: the policy.
      ref_params: the reference, of the same structure.
      opt_state: the memory of the optimizer; None if each round starts without one.
      round: the number of rounds done, int32.
      replay: former pairs, a :class:`SelmBatch` with a leading axis of rounds, or
        None.
    """

    params: PyTree
    ref_params: PyTree
    opt_state: PyTree
    round: jax.Array
    replay: SelmBatch | None


def init_selm(
    params: PyTree,
    *,
    optimizer: optax.GradientTransformation | None = None,
    replay: SelmBatch | None = None,
) -> SelmState:
    r"""Starts a loop: the reference is the policy.

    .. math:: \pi_{\mathrm{ref}} = \pi_0

    Args:
      params: the parameters of the start, any pytree of arrays.
      optimizer: keeps its memory over the rounds; None gives each round a new one, as
        in the paper.
      replay: an empty buffer made by :func:`init_replay`; None trains each round on
        its own pairs.

    Returns:
      The state before the first round.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import preference
      >>> state = preference.init_selm({"logits": jnp.zeros(4)})
      >>> print(state.round, state.ref_params["logits"])
      0 [0. 0. 0. 0.]

    References:
      Zhang et al., *Self-Exploring Language Models*, TMLR 2025, algorithm 1.
    """
    opt_state = None if optimizer is None else optimizer.init(params)
    return SelmState(params, params, opt_state, jnp.zeros((), jnp.int32), replay)


def init_replay(batch: SelmBatch, *, num_rounds: int) -> SelmBatch:
    """Makes an empty buffer for the pairs of several rounds.

    Args:
      batch: a batch of the shapes to come, arrays or ``jax.ShapeDtypeStruct``.
      num_rounds: how many rounds to keep; older ones are overwritten.

    Returns:
      A batch with a leading axis ``num_rounds`` in which nothing counts.

    Raises:
      ValueError: if ``num_rounds`` is not positive.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import preference
      >>> answers, mask = jnp.arange(3), jnp.ones(3, bool)
      >>> batch = preference.SelmBatch(answers, answers, answers, mask, mask)
      >>> buffer = preference.init_replay(batch, num_rounds=5)
      >>> print(buffer.chosen.shape, buffer.where.any())
      (5, 3) False
    """
    checks.at_least("num_rounds", num_rounds, 1)
    return jax.tree.map(lambda x: jnp.zeros((num_rounds, *x.shape), x.dtype), batch)


def update_reference(state: SelmState, *, mix: ArrayLike = 1.0) -> SelmState:
    r"""Moves the reference to the policy.

    .. math:: \theta_{\mathrm{ref}} \leftarrow \mathrm{mix} \cdot \theta +
       (1 - \mathrm{mix}) \, \theta_{\mathrm{ref}}

    Args:
      state: the state of the loop.
      mix: how far to move, between 0 and 1; 1 copies the policy.

    Returns:
      The state with its new reference.

    Raises:
      TypeError: if ``mix`` is not real.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import preference
      >>> state = preference.init_selm(jnp.zeros(2))._replace(params=jnp.ones(2))
      >>> print(preference.update_reference(state, mix=0.25).ref_params)
      [0.25 0.25]

    References:
      Zhang et al., *Self-Exploring Language Models*, TMLR 2025, algorithm 1, line 6;
      Gorbatovski et al., *Learn your reference model for real good alignment*, 2024,
      for the incremental form.
    """
    (mix,) = checks.floating(mix=mix)

    def move(new: jax.Array, old: jax.Array) -> jax.Array:
        if not jnp.issubdtype(new.dtype, jnp.inexact):
            return new
        share = mix.astype(new.dtype)
        # A copy stays exact, also of -inf, which 0 * -inf would turn into NaN.
        return jnp.where(share == 1, new, share * new + (1 - share) * old)

    moved = jax.tree.map(move, state.params, state.ref_params)
    return state._replace(ref_params=moved)


def train_round(
    state: SelmState,
    batch: SelmBatch,
    *,
    log_prob_fn: LogProbFn,
    optimizer: optax.GradientTransformation,
    config: SelmConfig,
    bonus_fn: BonusFn | None = None,
) -> tuple[SelmState, jax.Array]:
    r"""Trains on the pairs of one round, then moves the reference.

    .. math::

        L = \frac1B \sum_{i=1}^B \ell_{\mathrm{SELM}}(i), \qquad
        \alpha_t = \alpha \cdot \mathrm{schedule}(t)

    The mean runs over the rows where the pair or the exploration answer counts. All
    answers go through the model in one batch, and all rows enter every step; the
    reference is scored once. For minibatches call it once per minibatch with
    ``update_reference=False``, then :func:`update_reference`; the schedule then counts
    minibatches. Not compiled: jit the function that calls it.

    Args:
      state: the state of the loop.
      batch: the pairs, as :func:`collect` makes them.
      log_prob_fn: ``log_prob_fn(params, answers)`` gives the log-probabilities of
        answers, shape ``[batch]``, for any size of the leading axis.
      optimizer: an optax transformation; it starts without memory unless the state
        carries one.
      config: the settings; read are ``alpha``, ``beta``, ``label_smoothing``,
        ``sign``, ``mix``, ``bonus``, ``alpha_schedule``, ``num_steps`` and
        ``update_reference``.
      bonus_fn: ``bonus_fn(params, ref_params, batch)`` gives a term of one's own per
        row, shape ``[batch]``; it takes the place of the log-ratio and is multiplied
        by ``sign * alpha * beta``.

    Returns:
      The state after the round, and the loss before each step, ``[num_steps]``.

    Raises:
      ValueError: if ``log_prob_fn`` or ``bonus_fn`` returns a wrong shape, or
        ``bonus`` is unknown.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from jaxkit import preference
      >>> log_prob_fn = lambda logits, answers: jax.nn.log_softmax(logits)[answers]
      >>> better, worse, mask = jnp.array([0]), jnp.array([1]), jnp.array([True])
      >>> batch = preference.SelmBatch(better, worse, worse, mask, mask)
      >>> state, losses = preference.train_round(
      ...     preference.init_selm(jnp.zeros(3)), batch, log_prob_fn=log_prob_fn,
      ...     optimizer=optax.sgd(1.0), config=preference.SelmConfig(beta=0.1))
      >>> print(losses, state.params.round(3))
      [0.6931472] [ 0.05 -0.05  0.  ]

    References:
      Zhang et al., *Self-Exploring Language Models*, TMLR 2025, algorithm 1, lines 6
      to 8.
    """
    if state.replay is not None:
        state = state._replace(replay=_remember(state.replay, batch, state.round))
        batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), state.replay)
    loss_fn = _objective(state, batch, log_prob_fn, config, bonus_fn)

    def step(carry: tuple[PyTree, PyTree], _: None) -> Any:
        params, memory = carry
        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, memory = optimizer.update(grads, memory, params)
        return (optax.apply_updates(params, updates), memory), loss

    fresh = state.opt_state is None
    memory = optimizer.init(state.params) if fresh else state.opt_state
    (params, memory), losses = jax.lax.scan(
        step, (state.params, memory), length=config.num_steps
    )
    state = state._replace(
        params=params, opt_state=None if fresh else memory, round=state.round + 1
    )
    if config.update_reference:
        state = update_reference(state, mix=config.mix)
    return state, losses


def _objective(
    state: SelmState,
    batch: SelmBatch,
    log_prob_fn: LogProbFn,
    config: SelmConfig,
    bonus_fn: BonusFn | None,
) -> Callable[[PyTree], jax.Array]:
    """Gives the loss of the policy's parameters, with the reference scored once."""
    score = _score_fn(log_prob_fn, batch, explore=bonus_fn is None)
    ref_params = jax.lax.stop_gradient(state.ref_params)
    reference = score(ref_params)
    alpha = _alpha(config, state.round)
    pair = {
        "beta": config.beta,
        "label_smoothing": config.label_smoothing,
        "where": batch.where,
    }
    rows = jnp.sum(batch.where | batch.explore_where, dtype=jnp.int32)

    def losses(params: PyTree) -> jax.Array:
        logps = (*score(params), *reference)
        if bonus_fn is None:
            term = {"alpha": alpha, "bonus": config.bonus, "sign": config.sign}
            where = batch.explore_where
            return selm_loss(*logps, explore_where=where, **term, **pair)
        loss = dpo_loss(*logps, **pair)
        term = bonus_fn(params, ref_params, batch)
        checks.same_shape(bonus_fn=term, where=batch.where)
        factors = hyper(loss, alpha=alpha, beta=config.beta, sign=config.sign)
        weight = factors[0] * factors[1] * factors[2]
        return loss + masked_fill(weight * term.astype(loss.dtype), batch.explore_where)

    def mean(params: PyTree) -> jax.Array:
        values = losses(params)
        return jnp.sum(values) / jnp.maximum(rows, 1).astype(values.dtype)

    return mean


def _score_fn(
    log_prob_fn: LogProbFn, batch: SelmBatch, *, explore: bool
) -> Callable[[PyTree], list[jax.Array]]:
    """Gives a function that scores all answers in one batch of the model."""
    parts = [batch.chosen, batch.rejected, *([batch.explore] if explore else [])]
    answers = jax.tree.map(lambda *xs: jnp.concatenate(xs), *parts)
    shape = (batch.where.shape[0] * len(parts),)

    def score(params: PyTree) -> list[jax.Array]:
        logps = log_prob_fn(params, answers)
        if logps.shape != shape:
            raise ValueError(f"`log_prob_fn` must return {shape}, got {logps.shape}.")
        return jnp.split(logps, len(parts))

    return score


def _alpha(config: SelmConfig, index: jax.Array) -> jax.Array:
    (alpha,) = checks.floating(alpha=config.alpha)
    if config.alpha_schedule is None:
        return alpha
    return alpha * jnp.asarray(config.alpha_schedule(index), alpha.dtype)


def _remember(replay: SelmBatch, batch: SelmBatch, index: jax.Array) -> SelmBatch:
    """Writes a batch into the buffer, over the oldest if it is full."""
    slot = index % replay.where.shape[0]
    return jax.tree.map(
        lambda old, new: jax.lax.dynamic_update_index_in_dim(old, new, slot, 0),
        replay,
        batch,
    )
