"""The scale of AdaCos, from the batches so far."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.hypersphere._adaptive_config import AdaCosState, fixed_adacos_scale
from jaxkit.hypersphere._geometry import own_angle, scores
from jaxkit.hypersphere._inputs import read_batch, refuse_labels
from jaxkit.hypersphere._protocol import cast_leaves
from jaxkit.ops import l2_normalize
from jaxkit.typing import ArrayLike

__all__ = ["adacos_init", "adacos_update", "next_adacos"]


def adacos_init(num_classes: int) -> AdaCosState:
    r"""Gives the state in which AdaCos starts.

    .. math:: s_0 = \sqrt 2 \ln(C - 1)

    Args:
      num_classes: the number :math:`C` of classes, at least 3.

    Returns:
      The :class:`AdaCosState`, in float32.

    Raises:
      ValueError: if there are fewer than 3 classes.

    Examples:
      >>> from jaxkit import hypersphere
      >>> print(hypersphere.adacos_init(1000).scale)
      9.767626

    References:
      Zhang et al., *AdaCos: Adaptively Scaling Cosine Logits for Effectively Learning
      Deep Face Representations*, CVPR 2019.
    """
    checks.at_least("num_classes", num_classes, 3)
    return AdaCosState(jnp.asarray(fixed_adacos_scale(num_classes), jnp.float32))


def adacos_update(
    state: AdaCosState,
    embeddings: ArrayLike,
    class_weights: ArrayLike,
    labels: ArrayLike,
    *,
    axis_name: str | None = None,
    where: ArrayLike | None = None,
) -> AdaCosState:
    r"""Gives AdaCos the scale that fits a batch, before the loss of that batch.

    .. math::

        s_n = \frac{\ln S}{\cos \min(\pi/4, \theta_{\mathrm{med}})}, \qquad
        S = \frac1B \sum_i \sum_{j \ne y_i} e^{s_{n-1} \cos\theta_{ij}}

    with the lower median :math:`\theta_{\mathrm{med}}` of the angles to the own class. No
    gradient flows through it. A batch in which nothing counts changes nothing.

    Args:
      state: the state before the batch.
      embeddings: real array, shape ``[batch, dim]``, of any length.
      class_weights: real array, one row for each class, shape ``[classes, dim]``, of any
        length; or ``[classes, centers, dim]``, where the closest center counts.
      labels: the class of each embedding, integers, shape ``[batch]``; -1 for none.
      axis_name: the mesh axis over which the batch is spread, inside of ``shard_map``;
        the class weights are whole on every device, so weights that are spread over
        devices have to be gathered first. None for a batch in one piece.
      where: which samples count, bool, shape ``[batch]``.

    Returns:
      The :class:`AdaCosState` for the loss of this batch and the next update.

    Raises:
      TypeError: if an array has the wrong kind of dtype.
      ValueError: if shapes do not fit, a known label is out of range, or there are fewer
        than 3 classes.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import hypersphere
      >>> state = hypersphere.adacos_init(3)
      >>> x, w = jnp.eye(3)[:2], jnp.eye(3)
      >>> state = hypersphere.adacos_update(state, x, w, jnp.array([0, 1]))
      >>> print(state.scale)
      0.6931472

    References:
      Zhang et al., *AdaCos: Adaptively Scaling Cosine Logits for Effectively Learning
      Deep Face Representations*, CVPR 2019.
    """
    refuse_labels(labels, class_weights)
    return _adacos_update(state, embeddings, class_weights, labels, axis_name, where)


@jit(static_argnames=("axis_name",))
def _adacos_update(
    state: AdaCosState,
    embeddings: ArrayLike,
    class_weights: ArrayLike,
    labels: ArrayLike,
    axis_name: str | None,
    where: ArrayLike | None,
) -> AdaCosState:
    batch = read_batch(embeddings, class_weights, labels, where)
    num_classes = batch.class_weights.shape[0]
    fixed_adacos_scale(num_classes)
    unit, centers = l2_normalize(batch.embeddings), l2_normalize(batch.class_weights)
    scale = cast_leaves(state.scale, unit.dtype)
    is_other = jnp.arange(num_classes)[None, :] != batch.rows[:, None]
    push = jax.nn.logsumexp(
        scale * scores(unit, centers, None), axis=-1, where=is_other
    )
    theta = own_angle(batch).theta
    return next_adacos(state, push, theta, batch.where, axis_name)


def next_adacos(
    state: AdaCosState,
    push: jax.Array,
    theta: jax.Array,
    where: jax.Array,
    axis_name: str | None,
) -> AdaCosState:
    """Gives the next scale from each sample's log-sum-exp of the other logits."""
    if axis_name is not None:
        gather = lambda leaf: jax.lax.all_gather(leaf, axis_name, tiled=True)
        push, theta, where = jax.tree.map(gather, (push, theta, where))
    count = jnp.sum(where, dtype=jnp.int32)
    angles = jnp.sort(jnp.where(where, theta, jnp.inf))
    median = angles[jnp.maximum(count - 1, 0) // 2]
    total = jax.nn.logsumexp(push, where=where)
    mean = total - jnp.log(jnp.maximum(count, 1).astype(total.dtype))
    scale = mean / jnp.cos(jnp.minimum(jnp.pi / 4, median))
    if axis_name is not None:
        # The same on every device already, but only a reduction is known to be.
        scale, count = jax.lax.pmean((scale, count.astype(scale.dtype)), axis_name)
    kept = jnp.asarray(state.scale)
    scale = jnp.where(count > 0, scale, kept.astype(scale.dtype))
    # The dtype of a state does not change, so that a scan can carry it.
    return AdaCosState(jax.lax.stop_gradient(scale).astype(kept.dtype))
