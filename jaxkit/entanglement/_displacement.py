"""What a parameter update did to log-probabilities, and which part of it is to blame."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit.entanglement._coefficients import loss_coefficients
from jaxkit.entanglement._inputs import float_leaves, same_batch
from jaxkit.entanglement._regimes import predicted_changes
from jaxkit.entanglement._types import Changes, Coefficients, PairGram
from jaxkit.ops import masked_fill, safe_divide
from jaxkit.typing import ArrayLike, PyTree

__all__ = ["DisplacementReport", "displacement_report", "update_changes"]

PairFn = Callable[[Any], Changes]


class DisplacementReport(NamedTuple):
    """The change of each log-probability in one update, split into four parts.

    ``own_pair + batch + optimizer + curvature`` is ``actual``, pair by pair. Each part
    is a :class:`Changes` of shape ``[pairs]``.

    Attributes:
      own_pair: first-order effect of the gradient of the pair itself, the only part
        that the same-pair condition knows.
      batch: first-order effect of the gradients of all other pairs.
      optimizer: what replaces the gradient by the actual update: momentum, the metric
        of Adam, weight decay, clipping; other terms of the loss as well.
      curvature: everything beyond the first order.
      actual: the change that happened.
      step_size: length of the update over the length of the gradient, a scalar; the
        scale at which the first two parts are taken.
    """

    own_pair: Changes
    batch: Changes
    optimizer: Changes
    curvature: Changes
    actual: Changes
    step_size: jax.Array


def update_changes(
    log_prob_batch: Callable[[Any, Any], Any],
    params: PyTree,
    update: PyTree,
    batch: PyTree,
    *,
    order: int = 1,
) -> Any:
    r"""Predicts how an update of the parameters changes every log-probability.

    .. math:: f' = \left.\frac{d}{d\epsilon}\right|_0 \log \pi(\theta + \epsilon u),
       \qquad f'' = \left.\frac{d^2}{d\epsilon^2}\right|_0 \log \pi(\theta + \epsilon u)

    One forward-mode product for a whole batch, about 0.6 times the cost of its
    gradient, without any gradient per example. It takes the update of any optimizer,
    so it covers what the inner products of a pair cannot: the rest of the batch,
    momentum, the metric of Adam. Along the descent direction of one pair it gives
    :func:`predicted_changes` without their loss of digits. Not compiled, since it
    takes a callable.

    Args:
      log_prob_batch: ``log_prob_batch(params, batch)``, log-probabilities of any shape
        or pytree. What it closes over does not move: pass one layer as ``params`` to
        see the effect of that layer alone.
      params: the parameters, a pytree of real floating arrays.
      update: what :func:`optax.apply_updates` adds to them, of the same structure.
      batch: whatever ``log_prob_batch`` reads.
      order: 1 or 2; static. With 2, :func:`trust_step` tells how far the sign of the
        first order can be trusted.

    Returns:
      The first derivatives, like the output of ``log_prob_batch``; with ``order=2``
      the pair of first and second derivatives, at about twice the cost.

    Raises:
      TypeError: if a leaf of ``params`` or ``update`` is not real, naming it.
      ValueError: if the two trees differ in structure or shapes, or ``order`` is
        neither 1 nor 2.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import entanglement
      >>> log_probs = lambda params, batch: -batch * jnp.square(params)
      >>> first, second = entanglement.update_changes(
      ...     log_probs, jnp.array(3.0), jnp.array(0.5), jnp.arange(1.0, 3.0), order=2
      ... )
      >>> print(first, second)
      [-3. -6.] [-0.5 -1. ]

    References:
      Derived; see the theory page.
    """
    if order not in (1, 2):
        raise ValueError(f"`order` must be 1 or 2, got {order!r}.")
    direction = _direction(params, update)
    model = lambda params: log_prob_batch(params, batch)
    first = lambda params: jax.jvp(model, (params,), (direction,))[1]
    if order == 1:
        return first(params)
    return jax.jvp(first, (params,), (direction,))


def displacement_report(
    log_prob_batch: Callable[[Any, Any], jax.Array],
    loss: Callable[..., jax.Array],
    params: PyTree,
    new_params: PyTree,
    chosen: PyTree,
    rejected: PyTree,
    *loss_args: Any,
    gram: PairGram | None = None,
    chunk_size: int | None = None,
    where: ArrayLike | None = None,
) -> DisplacementReport:
    r"""Explains why each log-probability of a training batch rose or fell.

    With :math:`G` the gradient of the mean loss over :math:`B` pairs, :math:`u` the
    update and :math:`c = \lVert u \rVert / \lVert G \rVert`,

    .. math::
       \Delta \log \pi_i =
       \underbrace{\tfrac{c}{B} D_i}_{\text{own pair}} +
       \underbrace{\bigl\langle g_i, -c G \bigr\rangle - \tfrac{c}{B} D_i}_{\text{batch}}
       + \underbrace{\bigl\langle g_i, u + c G \bigr\rangle}_{\text{optimizer}} +
       \underbrace{\Delta \log \pi_i - \langle g_i, u \rangle}_{\text{curvature}}

    where :math:`D_i` are the :func:`predicted_changes` of the pair. The same-pair
    condition looks at the first part only; in training the others often outweigh it.

    Costs about two gradients of the batch with ``gram`` and up to four without, when
    every pair is differentiated on its own, ``chunk_size`` pairs at a time. Not
    compiled: jit the function that calls it.

    Args:
      log_prob_batch: ``log_prob_batch(params, examples) -> [batch]``, each entry a
        function of its own example.
      loss: ``loss(chosen_logps, rejected_logps, *loss_args) -> [batch]``, the loss
        whose mean was descended.
      params: the parameters before the update, a pytree of real floating arrays; a
        part of the model if the function closes over the rest.
      new_params: those after it.
      chosen: the chosen examples, a pytree whose leaves have a leading axis ``batch``.
      rejected: the rejected examples.
      loss_args: further arguments of ``loss``, such as reference log-probabilities.
      gram: the inner products of each pair, where already known, each ``[batch]``.
      chunk_size: pairs differentiated at a time where ``gram`` is None; None means one
        at a time. Static.
      where: which pairs count, bool ``[batch]``; the others add nothing to the mean
        and report 0. A loss that couples pairs must be given its own mask.

    Returns:
      The report; its first four fields add up to the fifth.

    Raises:
      TypeError: if a leaf of the parameters is not real, naming it, or ``where`` not
        bool.
      ValueError: if the batches differ in size, the parameters in structure, or
        ``log_prob_batch`` does not give one number per example.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import entanglement, preference
      >>> log_probs = lambda params, features: features @ params
      >>> report = entanglement.displacement_report(
      ...     log_probs,
      ...     lambda chosen, rejected: preference.cpo_loss(chosen, rejected, beta=1.0),
      ...     jnp.zeros(2),
      ...     jnp.array([-0.5, -0.5]),
      ...     jnp.array([[1.0, 0.0]]),
      ...     jnp.array([[2.0, 1.0]]),
      ... )
      >>> print(f"{report.own_pair.chosen[0]:.2f} {report.actual.chosen[0]:.2f}")
      -0.50 -0.50

    References:
      Derived; see the theory page. The first part is that of Yuan et al., *A Common
      Pitfall of Margin-based Language Model Alignment: Gradient Entanglement*, ICLR
      2025.
    """
    size = same_batch(chosen=chosen, rejected=rejected)
    float_leaves(params=params, new_params=new_params)
    update = jax.tree.map(lambda new, old: new - old, new_params, params)
    update = _direction(params, update)
    keep = checks.mask("where", where, (size,))
    pairs = _replaced((chosen, rejected), keep)
    model = _pair_model(log_prob_batch, pairs, size)
    logps, pull_back = jax.vjp(model, params)
    pushes = _mean_coefficients(loss, logps, loss_args, keep)
    (descent,) = pull_back(Changes(pushes.chosen, -pushes.rejected))
    step_size = _length_ratio(update, descent)
    along = lambda direction: jax.jvp(model, (params,), (direction,))[1]
    if gram is None:
        own = _own_changes(log_prob_batch, params, pairs, pushes, chunk_size)
    else:
        own = predicted_changes(gram, pushes, where=keep)
    own = _scaled(own, step_size)
    descended = along(_scaled(descent, step_size))
    moved = along(update)
    actual = _minus(model(new_params), logps)
    return DisplacementReport(
        own_pair=_masked(own, keep),
        batch=_masked(_minus(descended, own), keep),
        optimizer=_masked(_minus(moved, descended), keep),
        curvature=_masked(_minus(actual, moved), keep),
        actual=_masked(actual, keep),
        step_size=step_size,
    )


def _direction(params: PyTree, update: PyTree) -> PyTree:
    """The update in the dtypes of the parameters, as forward mode demands."""
    float_leaves(params=params, update=update)
    if jax.tree.structure(params) != jax.tree.structure(update):
        raise ValueError(
            "`params` and `update` must have the same structure, got "
            f"{jax.tree.structure(params)} and {jax.tree.structure(update)}."
        )

    def one(leaf: ArrayLike, step: ArrayLike) -> jax.Array:
        leaf, step = jnp.asarray(leaf), jnp.asarray(step)
        checks.same_shape(params=leaf, update=step)
        return step.astype(leaf.dtype)

    return jax.tree.map(one, params, update)


def _replaced(examples: PyTree, keep: jax.Array) -> PyTree:
    """Puts an example that counts in the place of each that does not.

    Whatever stood there, the model is then differentiated at sound inputs only.
    """
    first = jnp.argmax(keep)

    def one(leaf: ArrayLike) -> jax.Array:
        leaf = jnp.asarray(leaf)
        counts = keep.reshape(keep.shape + (1,) * (leaf.ndim - 1))
        return jnp.where(counts, leaf, jnp.broadcast_to(leaf[first], leaf.shape))

    return jax.tree.map(one, examples)


def _pair_model(
    log_prob_batch: Callable[[Any, Any], jax.Array], pairs: PyTree, size: int
) -> PairFn:
    """Both log-probabilities of each pair as one function of the parameters."""

    def log_probs(params: Any, examples: Any) -> jax.Array:
        out = jnp.asarray(log_prob_batch(params, examples))
        if out.shape != (size,):
            raise ValueError(
                f"`log_prob_batch` must give one number per example, shape ({size},), "
                f"got {out.shape}."
            )
        return out.astype(accumulation_dtype(out))

    return lambda params: Changes(*(log_probs(params, side) for side in pairs))


def _mean_coefficients(
    loss: Callable[..., jax.Array], logps: Changes, loss_args: Any, keep: jax.Array
) -> Coefficients:
    """The coefficients of the mean over the pairs that count."""
    pushes = loss_coefficients(loss, logps.chosen, logps.rejected, *loss_args)
    count = jnp.maximum(jnp.sum(keep, dtype=jnp.int32), 1)
    return Coefficients(*(masked_fill(d, keep) / count.astype(d.dtype) for d in pushes))


def _own_changes(
    log_prob_batch: Callable[[Any, Any], jax.Array],
    params: PyTree,
    pairs: PyTree,
    pushes: Coefficients,
    chunk_size: int | None,
) -> Changes:
    """The predicted changes, as products with the descent direction of each pair.

    Differences of the inner products would lose digits where answers almost agree.
    """

    def one(inputs: tuple[PyTree, Coefficients]) -> Changes:
        pair, push = jax.tree.map(lambda leaf: leaf[None], inputs)
        model = _pair_model(log_prob_batch, pair, 1)
        _, pull_back = jax.vjp(model, params)
        (direction,) = pull_back(Changes(push.chosen, -push.rejected))
        changes = jax.jvp(model, (params,), (direction,))[1]
        return Changes(*(change[0] for change in changes))

    if chunk_size is not None:
        checks.at_least("chunk_size", chunk_size, 1)
    return jax.lax.map(one, (pairs, pushes), batch_size=chunk_size)


def _length_ratio(tree: PyTree, other: PyTree) -> jax.Array:
    """The ratio of two Euclidean norms, 0 where the second vanishes."""

    def squared(tree: PyTree) -> jax.Array:
        leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]
        dtype = accumulation_dtype(*leaves)
        return sum(
            (jnp.sum(jnp.square(leaf.astype(dtype))) for leaf in leaves),
            start=jnp.zeros((), dtype),
        )

    ratio = safe_divide(squared(tree), squared(other))
    return masked_fill(jnp.sqrt(masked_fill(ratio, ratio > 0, fill=1.0)), ratio > 0)


def _scaled(tree: PyTree, factor: jax.Array) -> Any:
    return jax.tree.map(lambda leaf: leaf * factor.astype(leaf.dtype), tree)


def _minus(left: Changes, right: Changes) -> Changes:
    return Changes(left.chosen - right.chosen, left.rejected - right.rejected)


def _masked(changes: Changes, keep: jax.Array) -> Changes:
    return Changes(*(masked_fill(change, keep) for change in changes))
