"""Any loss with class weights, with the cosines of one slice of classes in memory."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import promoted_dtype
from jaxkit._core.jit import jit
from jaxkit.hypersphere._dense import finish
from jaxkit.hypersphere._geometry import read_sample
from jaxkit.hypersphere._inputs import Batch, read_batch, refuse_labels
from jaxkit.hypersphere._protocol import ClassLoss, Sample, Terms, cast_leaves
from jaxkit.hypersphere._separable_sums import other_total
from jaxkit.hypersphere._slices import Classes, Plan
from jaxkit.hypersphere._softmax_sums import excess, other_exponentials
from jaxkit.ops import l2_normalize
from jaxkit.typing import ArrayLike, DTypeLike, Key, PyTree

__all__ = [
    "Prepared",
    "check_plan",
    "losses",
    "prepare",
    "product_dtype",
    "read_large",
    "streaming_loss",
    "take_own",
]


def streaming_loss(
    embeddings: ArrayLike,
    class_weights: ArrayLike,
    labels: ArrayLike,
    config: ClassLoss,
    *,
    class_chunk: int | None = None,
    active_limit: int = 0,
    active_eps: ArrayLike = 1e-6,
    state: PyTree = None,
    key: Key | None = None,
    compute_dtype: DTypeLike | None = None,
    all_derivatives: bool = False,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Computes the loss of :func:`hypersphere_loss` without the matrix of cosines.

    The classes are taken a slice at a time; neither all cosines nor normalized class
    weights ever exist, and temporary memory does not depend on the number of classes.
    The gradient of a separable loss such as SFace comes out of the one pass that
    computes its value: it is that of the mean over the samples that count, which reverse
    mode keeps as it is, rescales, or, where the samples turn out to be weighted,
    computes again. Softmax losses need a second pass.

    Where a class gets no gradient to speak of from any sample, its two products may be
    left out: with ``active_limit=128`` a slice that has at most 128 active classes costs
    the product of its cosines and little else. Active are the classes with

    .. math::

        \frac{1}{s} \left| \frac{\partial \ell_i}{\partial c_{ij}} \right| \ge \epsilon
        \qquad \text{or} \qquad p_{ij} \ge \epsilon

    for some sample, for separable and for softmax losses. A slice with more of them is
    computed as a whole, so that the gradient is always right up to :math:`\epsilon`, and
    exact with ``active_eps=0``.

    A batch may be spread over devices under :func:`jax.jit`; class weights that are would
    be gathered, and belong to :func:`make_sharded_loss`.

    Args:
      embeddings: real array, shape ``[batch, dim]``, of any length.
      class_weights: real array, one row for each class, shape ``[classes, dim]``, of any
        length.
      labels: the class of each embedding, integers, shape ``[batch]``; -1 marks a sample
        without a class, which has value 0 and no gradient.
      config: the loss and its hyper-parameters, such as :class:`SFaceConfig` or
        :class:`MarginConfig`. Its numbers are traced.
      class_chunk: most classes of a slice; None takes as many as stay in the cache of a
        CPU or fill an accelerator.
      active_limit: most classes of a slice that are computed as active ones; 0 computes
        all. The value of a separable loss lacks the classes left out, too. With smoothed
        labels every class has a slope, and all are computed.
      active_eps: the bound :math:`\epsilon`, from 0 up to 1.
      state: what an adaptive loss has learned of earlier batches; None for its start.
      key: a typed random key, for losses with random margins.
      compute_dtype: the dtype of the factors of the products with the class weights,
        such as bfloat16; sums stay wide. None keeps the precision of the inputs.
      all_derivatives: whether to leave the gradients to JAX, which then has them in
        forward mode and of every order, at the price of a pass more over the classes.
        Otherwise there is reverse mode alone, of the first order. ``active_limit`` does
        not apply.
      where: which samples count, bool, shape ``[batch]``; the others give 0 and no
        gradient.

    Returns:
      The loss of each sample, shape ``[batch]``, at least float32. A traced label that
      is out of range gives NaN for that sample, and no gradient.

    Raises:
      TypeError: if an array has the wrong kind of dtype, or a key is missing.
      ValueError: if shapes do not fit, or a size, a known label or a known
        hyper-parameter is out of range.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> x = jnp.array([[0.0, 2.0], [1.0, 1.0]])
      >>> w, labels = jnp.eye(2), jnp.array([1, 0])
      >>> config = hypersphere.MarginConfig.normface(scale=1.0)
      >>> print(hypersphere.streaming_loss(x, w, labels, config, class_chunk=1))
      [0.3132617 0.6931472]

    References:
      Zhong et al., *SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face
      Recognition*, IEEE Transactions on Image Processing 2021; Milakov and Gimelshein,
      *Online normalizer calculation for softmax*, 2018.
    """
    config.check()
    refuse_labels(labels, class_weights)
    plan = check_plan(class_chunk, active_limit, active_eps, all_derivatives)
    return _streaming_loss(
        embeddings,
        class_weights,
        labels,
        config,
        active_eps,
        state,
        key,
        where,
        plan=plan,
        compute_dtype=compute_dtype,
    )


def check_plan(
    class_chunk: int | None,
    active_limit: int,
    active_eps: ArrayLike,
    all_derivatives: bool,
) -> Plan:
    """Refuses sizes out of range."""
    if class_chunk is None:
        class_chunk = 1024 if jax.default_backend() == "cpu" else 8192
    checks.at_least("class_chunk", class_chunk, 1)
    checks.at_least("active_limit", active_limit, 0)
    checks.within("active_eps", active_eps, low=0.0, high=1.0, high_open=True)
    return Plan(class_chunk, active_limit, not all_derivatives)


@jit(static_argnames=("plan", "compute_dtype"))
def _streaming_loss(
    embeddings: ArrayLike,
    class_weights: ArrayLike,
    labels: ArrayLike,
    config: ClassLoss,
    active_eps: ArrayLike,
    state: PyTree,
    key: Key | None,
    where: ArrayLike | None,
    *,
    plan: Plan,
    compute_dtype: DTypeLike | None,
) -> jax.Array:
    ready = prepare(
        plan,
        read_large(embeddings, class_weights, labels, where),
        config,
        state=state,
        key=key,
        active_eps=active_eps,
        dtype=product_dtype(embeddings, class_weights, compute_dtype),
    )
    return losses(plan, ready)[0]


class Prepared(NamedTuple):
    """All that a loss needs before it goes through the classes."""

    batch: Batch
    sample: Sample
    terms: Terms
    classes: Classes
    eps: jax.Array


def prepare(
    plan: Plan,
    batch: Batch,
    config: ClassLoss,
    *,
    state: PyTree,
    key: Key | None,
    active_eps: ArrayLike,
    dtype: jax.Array,
) -> Prepared:
    """Evaluates what depends on the own classes alone."""
    x = batch.embeddings
    config, state, eps = cast_leaves((config, state, active_eps), x.dtype)
    own, class_weights = take_own(plan, batch.class_weights, batch.rows)
    sample = read_sample(batch, own.astype(x.dtype), config.normalized)
    terms = config.terms(sample, len(batch.class_weights), state=state, key=key)
    classes = Classes(
        loss=config,
        unit=l2_normalize(x) if config.normalized else x,
        class_weights=class_weights,
        context=terms.context,
        own=batch.rows.astype(jnp.int32),
        count=None,
        dtype=dtype,
    )
    return Prepared(batch, sample, terms, classes, eps)


def losses(plan: Plan, ready: Prepared) -> tuple[jax.Array, jax.Array | None]:
    """Goes through the classes; gives the losses and, of a softmax, the normalizers.

    Normalizers are logarithms, relative to the anchor.
    """
    batch, _, terms, classes, eps = ready
    if terms.anchor is None:
        count = jnp.maximum(jnp.sum(batch.where, dtype=jnp.int32), 1)
        guess = batch.where.astype(eps.dtype) / count.astype(eps.dtype)
        value = terms.value + other_total(plan, classes, guess, eps)
        return finish(value, batch), None
    plain = terms.smoothing is not None
    sums = other_exponentials(plan, classes, terms.anchor, eps, plain=plain)
    normalizer = excess(sums)
    value = terms.value + normalizer
    if terms.smoothing is not None:
        value -= terms.smoothing * sums.plain
    return finish(value, batch), normalizer


def product_dtype(
    embeddings: ArrayLike, class_weights: ArrayLike, compute_dtype: DTypeLike | None
) -> jax.Array:
    """Gives an empty array of the dtype in which products are formed."""
    embeddings, class_weights = checks.floating(
        embeddings=embeddings, class_weights=class_weights
    )
    if compute_dtype is None:
        return jnp.zeros(0, promoted_dtype(embeddings, class_weights))
    (probe,) = checks.floating(compute_dtype=jnp.zeros(0, compute_dtype))
    return probe


def read_large(
    embeddings: ArrayLike,
    class_weights: ArrayLike,
    labels: ArrayLike,
    where: ArrayLike | None,
) -> Batch:
    """Checks the arguments; the class weights keep their dtype, and are not copied."""
    batch = read_batch(embeddings, class_weights, labels, where)
    if batch.class_weights.ndim != 2:
        raise ValueError(
            "`class_weights` must have shape (classes, dim), "
            f"got {batch.class_weights.shape}."
        )
    return batch._replace(class_weights=jnp.asarray(class_weights))


def take_own(
    plan: Plan, weights: jax.Array, rows: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Gathers rows, and hands the weights on.

    Whoever uses the weights handed on leaves one gradient of all rows, to which that of
    the gathered ones is added in place. Two gradients of that size would not fit.
    """
    return _take(weights, rows) if plan.by_hand else (weights[rows], weights)


@jax.custom_vjp
def _take(weights: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    return weights[rows], weights


def _take_forward(
    weights: jax.Array, rows: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
    return (weights[rows], weights), rows


def _take_backward(
    rows: jax.Array, cotangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, None]:
    taken, whole = cotangents
    return whole.at[rows].add(taken.astype(whole.dtype)), None


_take.defvjp(_take_forward, _take_backward)
