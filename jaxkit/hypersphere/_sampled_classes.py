"""A random part of the classes that holds those of the batch (Partial-FC)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.typing import ArrayLike, Key

__all__ = ["SampledClasses", "sample_classes"]


class SampledClasses(NamedTuple):
    """Some of the classes, and the labels counted among them.

    Attributes:
      indices: the classes, in ascending order, shape ``[num_sampled]``.
      labels: the position of each label in ``indices``, shape ``[batch]``.
    """

    indices: jax.Array
    labels: jax.Array


@jit(static_argnames=("num_classes", "num_sampled"))
def sample_classes(
    key: Key,
    labels: ArrayLike,
    *,
    num_classes: int,
    num_sampled: int,
    where: ArrayLike | None = None,
) -> SampledClasses:
    r"""Draws classes without replacement, those of the batch first.

    .. math:: \{y_i\} \subseteq \mathcal S \subseteq \{0, \dots, C - 1\}, \qquad
        |\mathcal S| = S

    where the classes that are not in the batch are equally likely to fill the rest. A
    loss of ``class_weights[indices]`` and the new labels then costs the share
    :math:`S / C` of the whole; its gradient reaches the rows drawn and no others.

    On classes that are spread over devices draw for each device inside
    :func:`jax.shard_map`, from the labels less the first class of the device, with
    ``where`` telling which of them it holds.

    Args:
      key: a typed random key.
      labels: the class of each sample, integers, shape ``[batch]``; -1 for none.
      num_classes: how many classes there are.
      num_sampled: how many to draw; room for all classes of a batch.
      where: which samples count, bool, shape ``[batch]``; the others get the label -1,
        and their classes no privilege.

    Returns:
      The :class:`SampledClasses`. The label -1 stays -1; one that is out of range
      becomes ``num_sampled``, out of range again, so that losses give NaN.

    Raises:
      TypeError: if ``key`` is no typed key, ``labels`` are no integers or a size is
        none.
      ValueError: if ``labels`` have no single axis, or ``num_sampled`` is less than
        both the batch and the number of classes, or more than the latter.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> drawn = hypersphere.sample_classes(
      ...     jax.random.key(0), jnp.array([7, 2]), num_classes=1000, num_sampled=10
      ... )
      >>> print(drawn.indices.shape, drawn.indices[drawn.labels])
      (10,) [7 2]

    References:
      An et al., *Partial FC: Training 10 Million Identities on a Single Machine*, ICCV
      workshops 2021.
    """
    checks.typed_key(key)
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"`labels` must have an integer dtype, got {labels.dtype}.")
    if labels.ndim != 1:
        raise ValueError(f"`labels` must have shape (batch,), got {labels.shape}.")
    # Wide enough for -1 and for the number of classes.
    with jax.numpy_dtype_promotion("standard"):
        labels = labels.astype(jnp.promote_types(labels.dtype, jnp.int32))
    mask = checks.mask("where", where, labels.shape)
    checks.at_least("num_classes", num_classes, 1)
    checks.at_least("num_sampled", num_sampled, min(labels.size, num_classes))
    if num_sampled > num_classes:
        raise ValueError(
            f"`num_sampled` must be at most `num_classes` = {num_classes}, "
            f"got {num_sampled}."
        )
    known = mask & (labels >= 0) & (labels < num_classes)
    # Uniform numbers are below 1: classes of the batch come before all others.
    rank = jax.random.uniform(key, (num_classes,))
    place = jnp.where(known, labels, num_classes)
    rank = rank.at[place].set(jnp.full(labels.shape, 2.0, rank.dtype), mode="drop")
    indices = jnp.sort(jax.lax.top_k(rank, num_sampled)[1]).astype(labels.dtype)
    position = jnp.searchsorted(indices, labels).astype(labels.dtype)
    new = jnp.where(known, position, num_sampled)
    return SampledClasses(indices, jnp.where(mask & (labels != -1), new, -1))
