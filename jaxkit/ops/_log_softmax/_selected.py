"""Log-probabilities of labels from logits that are already there."""

import jax
import jax.numpy as jnp

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype
from jaxkit._core.jit import jit
from jaxkit.ops._log_softmax._inputs import as_labels, as_mask, check_labels
from jaxkit.ops._masking import masked_fill
from jaxkit.typing import ArrayLike

__all__ = ["selected_log_probs"]


@jit()
def selected_log_probs(
    logits: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None
) -> jax.Array:
    r"""Log-probabilities of given classes under the softmax of logits.

    .. math:: y = z_\ell - \log \sum_v e^{z_v}

    Args:
      logits: ``z``, shape ``[..., V]``.
      labels: the classes, integers ``[...]``. Negative ones are masked; one of ``V``
        or more gives NaN.
      where: which entries count, bool, broadcastable to ``[...]``; None means all.
        The logits of the others may be NaN and get no gradient.

    Returns:
      The log-probabilities ``[...]``, at least float32; 0 where masked.

    Raises:
      TypeError: if an argument has a wrong dtype.
      ValueError: if the shapes do not fit or ``V`` is 0.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import ops
      >>> logits = jnp.log(jnp.array([[0.2, 0.8], [0.5, 0.5]]))
      >>> print(jnp.exp(ops.selected_log_probs(logits, jnp.array([1, 0]))))
      [0.8 0.5]
    """
    (logits,) = checks.floating(logits=logits)
    checks.axis_size("logits", logits, -1, 1)
    labels = as_labels(labels, logits.shape[:-1])
    mask = as_mask(where, labels)
    check_labels(labels, mask, logits.shape[-1])
    logits = masked_fill(logits, mask[..., None]).astype(accumulation_dtype(logits))
    index = jnp.where(mask, labels, 0)[..., None]
    target = jnp.take_along_axis(logits, index, axis=-1, mode="fill")[..., 0]
    return masked_fill(target - jax.nn.logsumexp(logits, axis=-1), mask)
