"""Search over orders of models with a network for each node."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.dag._acyclicity import h_logdet_grad
from jaxkit.dag._descent import move
from jaxkit.dag._mlp import (
    MlpParams,
    checked_mlp,
    mlp_adjacency,
    node_losses,
)
from jaxkit.dag._order import as_order
from jaxkit.typing import ArrayLike, PyTree

__all__ = ["MlpOrderResult", "MlpSearchConfig", "mlp_order_search"]

_STATIC = {"static": True}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class MlpSearchConfig:
    """Settings of :func:`mlp_order_search`.

    Attributes:
      l1: the weight of absolute first-layer weights.
      l2: the weight of squared weights, which enter with half of it.
      learning_rate: the first step of Adam; it falls by a fifth every 500 steps.
      max_steps: the most steps of one training, an integer.
      check_every: how many steps lie between looks at the loss, an integer.
      tol: the relative change between looks that ends a training, and the relative gain
        that a swap must bring.
      num_small: how many swaps to try first; None means ``d``; static.
      num_large: how many to try when those fail; None means three times ``d``; static.
      num_large_moves: how many moves the larger set may make, an integer.
      max_moves: the most moves, an integer.
      batch_size: how many swaps are trained side by side; static.

    Raises:
      ValueError: if a size is less than 1.
    """

    l1: ArrayLike = 0.01
    l2: ArrayLike = 0.01
    learning_rate: ArrayLike = 0.01
    max_steps: ArrayLike = 2000
    check_every: ArrayLike = 100
    tol: ArrayLike = 1e-4
    num_small: int | None = dataclasses.field(default=None, metadata=_STATIC)
    num_large: int | None = dataclasses.field(default=None, metadata=_STATIC)
    num_large_moves: ArrayLike = 1
    max_moves: ArrayLike = 1000
    batch_size: int = dataclasses.field(default=1, metadata=_STATIC)

    def __post_init__(self) -> None:
        for name in ("num_small", "num_large", "batch_size"):
            value = getattr(self, name)
            if value is not None:
                checks.at_least(name, value, 1)


class MlpOrderResult(NamedTuple):
    """What :func:`mlp_order_search` found.

    Attributes:
      order: the nodes, parents first, int32, shape ``[d]``.
      params: the networks; weights against the order are 0.
      weights: :func:`mlp_adjacency` of them, shape ``[d, d]``.
      loss: :func:`mlp_loss` summed over nodes, a scalar.
      num_moves: how many swaps were made, int32.
      num_trainings: how many swaps were tried, int32.
    """

    order: jax.Array
    params: MlpParams
    weights: jax.Array
    loss: jax.Array
    num_moves: jax.Array
    num_trainings: jax.Array


class _Training(NamedTuple):
    params: MlpParams
    memory: PyTree
    losses: jax.Array
    count: jax.Array
    running: jax.Array


class _Place(NamedTuple):
    """An order, its trained networks and the losses of its nodes."""

    order: jax.Array
    params: MlpParams
    losses: jax.Array


class _Search(NamedTuple):
    place: _Place
    large: jax.Array
    moves: jax.Array
    trials: jax.Array
    running: jax.Array


def _numbers(config: MlpSearchConfig, dtype: jnp.dtype) -> dict[str, jax.Array]:
    real = ("l1", "l2", "learning_rate", "tol")
    whole = ("max_steps", "check_every", "num_large_moves", "max_moves")
    values = {name: jnp.asarray(getattr(config, name)) for name in (*real, *whole)}
    return {
        name: value.astype(dtype if name in real else jnp.int32)
        for name, value in values.items()
    }


def _edges(order: jax.Array) -> jax.Array:
    position = jnp.argsort(order)
    return position[:, None] < position[None, :]


def _train(
    params: MlpParams,
    x: jax.Array,
    order: jax.Array,
    free: jax.Array,
    numbers: dict[str, jax.Array],
) -> _Place:
    """Trains the networks of some nodes, each on all nodes before it."""
    edges = _edges(order)
    params = params._replace(hidden=jnp.where(edges[..., None], params.hidden, 0.0))
    losses = lambda params: node_losses(params, x, edges, numbers["l1"], numbers["l2"])
    optimizer = optax.scale_by_adam(b1=0.99, b2=0.999)
    tree: PyTree = params

    def live(leaf: jax.Array) -> jax.Array:
        # The axis of nodes is the last but the one of hidden units, if there is one.
        shape = {3: (1, -1, 1), 2: (-1, 1), 1: (-1,)}[leaf.ndim]
        return jnp.where(free.reshape(shape), leaf, 0.0)

    def step(state: _Training) -> _Training:
        gradient = jax.grad(lambda params: jnp.sum(losses(params)))(state.params)
        gradient = jax.tree.map(live, gradient)
        updates, memory = move(optimizer, gradient, state.memory, state.params)
        tier = (state.count // 500).astype(x.dtype)
        rate = numbers["learning_rate"] * 0.8**tier
        moved = jax.tree.map(
            lambda leaf, update: leaf - rate * live(update), state.params, updates
        )
        count = state.count + 1
        last = count >= numbers["max_steps"]
        due = (count % numbers["check_every"] == 0) | last
        now = jax.lax.cond(due, losses, lambda params: state.losses, moved)
        before, after = jnp.sum(state.losses), jnp.sum(now)
        still = due & (jnp.abs(before - after) <= numbers["tol"] * before)
        return _Training(moved, memory, now, count, ~still & ~last)

    start = _Training(
        params=params,
        memory=optimizer.init(tree),
        losses=losses(params),
        count=jnp.asarray(0, jnp.int32),
        running=numbers["max_steps"] > 0,
    )
    end = jax.lax.while_loop(lambda state: state.running, step, start)
    return _Place(order, end.params, end.losses)


def _candidates(place: _Place) -> tuple[jax.Array, jax.Array]:
    """All pairs of positions, those first whose swap closes the least walk."""
    d = place.order.shape[0]
    walks = h_logdet_grad(mlp_adjacency(place.params))
    walks = walks[place.order[:, None], place.order[None, :]]
    later, earlier = jnp.tril_indices(d, -1)
    ranks = jnp.argsort(walks[later, earlier], stable=True)
    return earlier[ranks].astype(jnp.int32), later[ranks].astype(jnp.int32)


def _step(
    state: _Search, x: jax.Array, config: MlpSearchConfig, numbers: dict[str, jax.Array]
) -> _Search:
    """Makes the first swap that improves, if any of those to be tried does."""
    place, d = state.place, x.shape[1]
    num_pairs, size = d * (d - 1) // 2, config.batch_size
    small = min(d if config.num_small is None else config.num_small, num_pairs)
    large = min(3 * d if config.num_large is None else config.num_large, num_pairs)
    limit = jnp.where(
        state.large < numbers["num_large_moves"], max(small, large), small
    ).astype(jnp.int32)
    firsts, seconds = _candidates(place)
    bound = jnp.sum(place.losses) * (1.0 - numbers["tol"])

    def attempt(index: jax.Array) -> tuple[_Place, jax.Array]:
        first, second = (
            at[jnp.minimum(index, num_pairs - 1)] for at in (firsts, seconds)
        )
        order = place.order.at[first].set(place.order[second])
        order = order.at[second].set(place.order[first])
        position = jnp.argsort(order).astype(jnp.int32)
        free = (position >= first) & (position <= second)
        new = _train(place.params, x, order, free, numbers)
        better = (jnp.sum(new.losses) < bound) & (index < limit)
        return new, better

    def chunk(carry: tuple) -> tuple:
        start, *_ = carry
        indices = start + jnp.arange(size, dtype=jnp.int32)
        places, better = jax.vmap(attempt)(indices)
        which = jnp.argmax(better)
        pick = lambda leaf: leaf[which]
        return start + size, indices[which], jax.tree.map(pick, places), better[which]

    zero = jnp.asarray(0, jnp.int32)
    first = (zero, zero, place, jnp.asarray(False))
    tried, index, new, found = jax.lax.while_loop(
        lambda carry: ~carry[3] & (carry[0] < limit), chunk, first
    )
    keep = lambda a, b: jnp.where(found, a, b)
    moves = state.moves + found.astype(jnp.int32)
    return _Search(
        place=jax.tree.map(keep, new, place),
        large=state.large + (found & (index >= small)).astype(jnp.int32),
        moves=moves,
        trials=state.trials + jnp.minimum(tried, limit),
        running=found & (moves < numbers["max_moves"]),
    )


@jit()
def mlp_order_search(
    params: MlpParams,
    x: ArrayLike,
    order: ArrayLike,
    config: MlpSearchConfig | None = None,
) -> MlpOrderResult:
    r"""Swaps nodes of an order as long as trained networks fit better.

    A network for each node is trained on all nodes before it. Then pairs of nodes are
    exchanged, those first between which the fewest walks run, by the gradient
    :math:`(I - W)^{-\top}` of the log-determinant at the strengths ``W`` of the
    networks. After each exchange only the nodes between the two are trained again, from
    where they are; the first exchange that lowers the loss is kept. When a small set of
    pairs brings nothing a larger one is tried, a limited number of times.

    A training ends when the loss no longer changes between two looks; the loss reported
    is that of the networks returned. Far slower than :func:`basis_order_search`.

    Args:
      params: where to start, from :func:`init_mlp` or the ``params`` of a
        :class:`jaxkit.nn.MaskedMLP`, which loads those of the result as well.
      x: the data, one row per sample, shape ``[n, d]``.
      order: where to start, integers, shape ``[d]``.
      config: the settings; None means the defaults.

    Returns:
      The order and its networks. Edges are weights above 0.5 in the paper.

    Raises:
      TypeError: if ``order`` does not hold integers or ``x`` is not floating.
      ValueError: if a shape does not fit.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import dag
      >>> x = jax.random.normal(jax.random.key(0), (200, 2))
      >>> x = x.at[:, 1].add(3.0 * jnp.sin(x[:, 0]))
      >>> params = dag.init_mlp(jax.random.key(1), 2, num_hidden=5)
      >>> found = dag.mlp_order_search(params, x, jnp.array([1, 0]))
      >>> print(found.order)
      [0 1]

    References:
      Deng et al., *Optimizing NOTEARS Objectives via Topological Swaps*, ICML 2023,
      algorithm 1 with the networks of its experiments.
    """
    params, config = checked_mlp(params), config or MlpSearchConfig()
    (x,) = checks.floating(x=x)
    d = params.hidden.shape[0]
    if x.ndim != 2 or x.shape[1] != d:
        raise ValueError(f"`x` must have shape (n, {d}), got {x.shape}.")
    order = as_order(order, d)
    dtype = accumulation_dtype(x, params.hidden)
    x = x.astype(dtype)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    numbers = _numbers(config, dtype)
    zero = jnp.asarray(0, jnp.int32)
    first = _train(params, x, order, jnp.ones(d, bool), numbers)
    state = _Search(first, zero, zero, zero, numbers["max_moves"] > 0)
    state = jax.lax.while_loop(
        lambda state: state.running,
        lambda state: _step(state, x, config, numbers),
        state,
    )
    place = state.place
    return MlpOrderResult(
        order=place.order,
        params=place.params,
        weights=mlp_adjacency(place.params),
        loss=jnp.sum(place.losses),
        num_moves=state.moves,
        num_trainings=state.trials,
    )
