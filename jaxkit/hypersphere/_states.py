"""What adaptive losses learn of a batch: state in, state out."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.hypersphere._adaptive_config import (
    AdaFaceState,
    CurricularFaceState,
    clipped_norm,
)
from jaxkit.hypersphere._geometry import own_angle
from jaxkit.hypersphere._hyperparameters import SHARE, check_number
from jaxkit.hypersphere._inputs import (
    read_arrays,
    read_batch,
    read_labels,
    refuse_labels,
)
from jaxkit.ops import masked_fill, masked_sum, safe_norm
from jaxkit.typing import ArrayLike, PyTree

__all__ = [
    "adaface_init",
    "adaface_update",
    "curricularface_init",
    "curricularface_update",
]


def curricularface_init() -> CurricularFaceState:
    r"""Gives the state in which CurricularFace starts.

    .. math:: T_0 = 0

    Returns:
      The :class:`CurricularFaceState`, in float32.

    Examples:
      >>> from jaxkit import hypersphere
      >>> print(hypersphere.curricularface_init().mean_cos)
      0.0

    References:
      Huang et al., *CurricularFace: Adaptive Curriculum Learning Loss for Deep Face
      Recognition*, CVPR 2020.
    """
    return CurricularFaceState(jnp.zeros((), jnp.float32))


def curricularface_update(
    state: CurricularFaceState,
    embeddings: ArrayLike,
    class_weights: ArrayLike,
    labels: ArrayLike,
    *,
    momentum: ArrayLike = 0.01,
    axis_name: str | None = None,
    where: ArrayLike | None = None,
) -> CurricularFaceState:
    r"""Moves the running mean of CurricularFace, before the loss of a batch.

    .. math:: T_n = \alpha \frac1B \sum_i \cos\theta_{i, y_i} + (1 - \alpha)\, T_{n-1}

    No gradient flows through it. A batch in which nothing counts changes nothing.

    Args:
      state: the state before the batch.
      embeddings: real array, shape ``[batch, dim]``, of any length.
      class_weights: real array, one row for each class, shape ``[classes, dim]``, of any
        length; or ``[classes, centers, dim]``, where the closest center counts.
      labels: the class of each embedding, integers, shape ``[batch]``; -1 for none.
      momentum: the weight :math:`\alpha` of the batch, from 0 to 1.
      axis_name: the mesh axis over which the batch is spread, inside of ``shard_map``;
        the class weights are whole on every device, so weights that are spread over
        devices have to be gathered first. None for a batch in one piece.
      where: which samples count, bool, shape ``[batch]``.

    Returns:
      The :class:`CurricularFaceState` for the loss of this batch and the next update.

    Raises:
      TypeError: if an array has the wrong kind of dtype.
      ValueError: if shapes do not fit, or a known label is out of range.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> state = hypersphere.curricularface_init()
      >>> x = jnp.eye(2)
      >>> state = hypersphere.curricularface_update(state, x, x, jnp.array([0, 1]))
      >>> print(state.mean_cos)
      0.01

    References:
      Huang et al., *CurricularFace: Adaptive Curriculum Learning Loss for Deep Face
      Recognition*, CVPR 2020.
    """
    check_number("momentum", momentum, SHARE)
    refuse_labels(labels, class_weights)
    return _curricularface_update(
        state, embeddings, class_weights, labels, momentum, axis_name, where
    )


@jit(static_argnames=("axis_name",))
def _curricularface_update(
    state: CurricularFaceState,
    embeddings: ArrayLike,
    class_weights: ArrayLike,
    labels: ArrayLike,
    momentum: ArrayLike,
    axis_name: str | None,
    where: ArrayLike | None,
) -> CurricularFaceState:
    batch = read_batch(embeddings, class_weights, labels, where)
    cos = own_angle(batch).cos
    total, count = _sums(axis_name, cos, batch.where)
    mean = total / jnp.maximum(count, 1.0)
    return _moved(state, CurricularFaceState(mean), momentum, count > 0)


def adaface_init() -> AdaFaceState:
    r"""Gives the state in which AdaFace starts.

    .. math:: \mu_0 = 20, \qquad \sigma_0 = 100

    Returns:
      The :class:`AdaFaceState`, in float32.

    Examples:
      >>> from jaxkit import hypersphere
      >>> print(hypersphere.adaface_init().mean)
      20.0

    References:
      Kim et al., *AdaFace: Quality Adaptive Margin for Face Recognition*, CVPR 2022.
    """
    number = lambda value: jnp.asarray(value, jnp.float32)
    return AdaFaceState(number(20.0), number(100.0))


def adaface_update(
    state: AdaFaceState,
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    momentum: ArrayLike = 0.01,
    axis_name: str | None = None,
    where: ArrayLike | None = None,
) -> AdaFaceState:
    r"""Moves the running length statistics of AdaFace, before the loss of a batch.

    .. math::

        \mu_n = \alpha\, \mathrm{mean}_i\, n_i + (1 - \alpha) \mu_{n-1}, \qquad
        \sigma_n = \alpha\, \mathrm{std}_i\, n_i + (1 - \alpha) \sigma_{n-1}

    for the lengths :math:`n_i` of the embeddings, clipped to [0.001, 100], and their
    unbiased standard deviation, which is 0 for a single sample. No gradient flows
    through it. A batch in which nothing counts changes nothing.

    Args:
      state: the state before the batch.
      embeddings: real array, shape ``[batch, dim]``.
      labels: the class of each embedding, integers, shape ``[batch]``; those below 0 do
        not count.
      momentum: the weight :math:`\alpha` of the batch, from 0 to 1.
      axis_name: the mesh axis over which the batch is spread, inside of ``shard_map``.
        None for a batch in one piece.
      where: which samples count, bool, shape ``[batch]``.

    Returns:
      The :class:`AdaFaceState` for the loss of this batch and the next update.

    Raises:
      TypeError: if an array has the wrong kind of dtype.
      ValueError: if shapes do not fit.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> state = hypersphere.adaface_init()
      >>> x = jnp.array([[3.0, 4.0], [6.0, 8.0]])
      >>> state = hypersphere.adaface_update(state, x, jnp.array([0, 1]), momentum=1.0)
      >>> print(state.mean)
      7.5

    References:
      Kim et al., *AdaFace: Quality Adaptive Margin for Face Recognition*, CVPR 2022.
    """
    check_number("momentum", momentum, SHARE)
    return _adaface_update(state, embeddings, labels, momentum, axis_name, where)


@jit(static_argnames=("axis_name",))
def _adaface_update(
    state: AdaFaceState,
    embeddings: ArrayLike,
    labels: ArrayLike,
    momentum: ArrayLike,
    axis_name: str | None,
    where: ArrayLike | None,
) -> AdaFaceState:
    vectors, _ = read_arrays(embeddings, embeddings)
    classes = read_labels(labels, vectors.shape[0])
    counts = checks.mask("where", where, classes.shape) & (classes >= 0)
    norm = clipped_norm(safe_norm(masked_fill(vectors, counts[:, None])))
    total, count = _sums(axis_name, norm, counts)
    mean = total / jnp.maximum(count, 1.0)
    squares, _ = _sums(axis_name, jnp.square(norm - mean), counts)
    std = jnp.sqrt(squares / jnp.maximum(count - 1.0, 1.0))
    return _moved(state, AdaFaceState(mean, std), momentum, count > 0)


def _sums(
    axis_name: str | None, values: jax.Array, where: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Gives the sum of the values that count, and their number, over all devices."""
    sums = (masked_sum(values, where=where), jnp.sum(where, dtype=values.dtype))
    return sums if axis_name is None else jax.lax.psum(sums, axis_name)


def _moved(
    state: PyTree, batch: PyTree, momentum: ArrayLike, anything: jax.Array
) -> PyTree:
    """Moves a state towards the one of a batch, if anything in it counts."""

    def moved(new: jax.Array, old: ArrayLike) -> jax.Array:
        before, share = (jnp.asarray(leaf, new.dtype) for leaf in (old, momentum))
        mixed = share * new + (1.0 - share) * before
        kept = jax.lax.stop_gradient(jnp.where(anything, mixed, before))
        # The dtype of a state does not change, so that a scan can carry it.
        return kept.astype(jnp.asarray(old).dtype)

    return jax.tree.map(moved, batch, state)
