"""What one descent step on a pair does to its two log-probabilities."""

import enum

import jax
import jax.numpy as jnp

from jaxkit._core.jit import jit
from jaxkit.entanglement._inputs import (
    broadcast_real,
    real_coefficients,
    real_gram,
    unit_scale,
)
from jaxkit.entanglement._types import Changes, Coefficients, PairGram
from jaxkit.ops import masked_fill, safe_divide
from jaxkit.typing import ArrayLike

__all__ = [
    "Regime",
    "chosen_share",
    "entanglement_regime",
    "ideal_ratio_interval",
    "pair_cosine",
    "predicted_changes",
    "trust_step",
]


class Regime(enum.IntEnum):
    """What happens to the two log-probabilities of a pair.

    Attributes:
      IDEAL: the chosen one rises, the rejected one falls.
      BOTH_DOWN: both fall.
      BOTH_UP: both rise.
      INVERTED: the chosen one falls, the rejected one rises; impossible while both
        coefficients are positive.
      UNDETERMINED: a change is exactly 0, or not a number.
    """

    IDEAL = 0
    BOTH_DOWN = 1
    BOTH_UP = 2
    INVERTED = 3
    UNDETERMINED = 4


def _changes(gram: PairGram, coefficients: Coefficients) -> Changes:
    # Not d_w s_ww - d_l s_wl: for equal coefficients this form subtracts the entries
    # themselves, which is exact where they are close, and gives 0 for equal answers
    # even where the compiler fuses a product with the subtraction.
    excess = coefficients.chosen - coefficients.rejected
    return Changes(
        chosen=excess * gram.chosen
        + coefficients.rejected * (gram.chosen - gram.cross),
        rejected=excess * gram.cross
        - coefficients.rejected * (gram.rejected - gram.cross),
    )


def _unit_changes(
    gram: PairGram, coefficients: Coefficients
) -> tuple[Changes, Coefficients]:
    """The changes up to a positive factor, from coefficients that have underflowed."""
    unit = Coefficients(*unit_scale(coefficients))
    return _changes(PairGram(*unit_scale(gram)), unit), unit


@jit()
def predicted_changes(
    gram: PairGram, coefficients: Coefficients, *, where: ArrayLike | None = None
) -> Changes:
    r"""Predicts the changes of both log-probabilities under descent on ONE pair.

    .. math:: D_w = d_w s_{ww} - d_l s_{wl}, \qquad D_l = d_w s_{wl} - d_l s_{ll}

    per unit of step size, to first order. **In training this says little:** other
    pairs of the batch, the optimizer and the curvature often decide the sign. See
    :func:`displacement_report` for all four parts.

    Where the two gradients almost coincide (a cosine above 0.999) the difference loses
    digits; :func:`update_changes` along the step does not.

    Args:
      gram: the inner products of each pair, each of shape ``[...]``.
      coefficients: those of the loss, from :func:`loss_coefficients`; all arrays
        broadcast together.
      where: which pairs count, bool, broadcastable to ``[...]``; the others give 0.

    Returns:
      The changes, each of shape ``[...]``, at least float32.

    Raises:
      TypeError: if an array is not real, or ``where`` not bool.
      ValueError: if the shapes do not broadcast.

    Examples:
      >>> from jaxkit import entanglement
      >>> gram = entanglement.PairGram(chosen=1.0, cross=2.0, rejected=5.0)
      >>> changes = entanglement.predicted_changes(
      ...     gram, entanglement.Coefficients(chosen=1.0, rejected=1.0)
      ... )
      >>> print(changes.chosen, changes.rejected)
      -1.0 -3.0

    References:
      Yuan et al., *A Common Pitfall of Margin-based Language Model Alignment: Gradient
      Entanglement*, ICLR 2025.
    """
    gram, coefficients = real_coefficients(gram, coefficients, where)
    return Changes(*(masked_fill(c, where) for c in _changes(gram, coefficients)))


@jit()
def entanglement_regime(
    gram: PairGram, coefficients: Coefficients, *, where: ArrayLike | None = None
) -> jax.Array:
    r"""Classifies pairs by the signs of their :func:`predicted_changes`.

    With :math:`r = d_w / d_l`, both coefficients positive, the inner product
    :math:`s_{wl}` lies

    - below both :math:`r s_{ww}` and :math:`s_{ll} / r`: ideal (0);
    - between them, :math:`r s_{ww}` the smaller: both fall (1);
    - between them, :math:`s_{ll} / r` the smaller: both rise (2).

    Signs of the changes cover negative coefficients too, where the fourth case (3,
    inverted) can occur. To summarize a batch count the pairs of each regime; do not
    average cosines. The regime of the pair alone is not what training does to it: see
    :func:`displacement_report`.

    Args:
      gram: the inner products of each pair, each of shape ``[...]``.
      coefficients: those of the loss, from :func:`loss_coefficients`; all arrays
        broadcast together. Only their ratio matters, so that saturated pairs, whose
        coefficients are tiny, are classified as well.
      where: which pairs count, bool, broadcastable to ``[...]``; the others give 4.

    Returns:
      Codes of :class:`Regime`, int32, shape ``[...]``; 4 where a change is exactly 0
      (equal answers, a zero gradient) or an entry not finite.

    Raises:
      TypeError: if an array is not real, or ``where`` not bool.
      ValueError: if the shapes do not broadcast.

    Examples:
      >>> import jax.numpy as jnp
      >>> from jaxkit import entanglement
      >>> gram = entanglement.PairGram(chosen=1.0, cross=2.0, rejected=5.0)
      >>> ratios = jnp.array([1.0, 2.2, 3.0])
      >>> print(
      ...     entanglement.entanglement_regime(
      ...         gram, entanglement.Coefficients(chosen=ratios, rejected=1.0)
      ...     )
      ... )
      [1 0 2]

    References:
      Yuan et al., *A Common Pitfall of Margin-based Language Model Alignment: Gradient
      Entanglement*, ICLR 2025.
    """
    gram, coefficients = real_coefficients(gram, coefficients, where)
    changes, _ = _unit_changes(gram, coefficients)
    up, down = changes.chosen > 0, changes.chosen < 0
    other_up, other_down = changes.rejected > 0, changes.rejected < 0
    cases = {
        Regime.IDEAL: up & other_down,
        Regime.BOTH_DOWN: down & other_down,
        Regime.BOTH_UP: up & other_up,
        Regime.INVERTED: down & other_up,
    }
    finite = jnp.isfinite(gram.chosen + gram.cross + gram.rejected)
    code = jnp.full(finite.shape, int(Regime.UNDETERMINED), jnp.int32)
    for regime, holds in cases.items():
        code = jnp.where(holds & finite, int(regime), code)
    return code


@jit()
def chosen_share(
    gram: PairGram, coefficients: Coefficients, *, where: ArrayLike | None = None
) -> jax.Array:
    r"""Gives the part of the growth of the margin that the chosen answer carries.

    .. math:: \phi = \frac{d_w D_w}{\lVert d_w g_w - d_l g_l \rVert^2}

    The margin :math:`d_w \log \pi_w - d_l \log \pi_l` always grows to first order; the
    share says through which answer. While both coefficients are positive, the pair is
    ideal for :math:`0 < \phi < 1`, both fall for :math:`\phi < 0` and both rise for
    :math:`\phi > 1`. The best single number per pair to log.

    Args:
      gram: the inner products of each pair, each of shape ``[...]``.
      coefficients: those of the loss, from :func:`loss_coefficients`; all arrays
        broadcast together, and only their ratio matters.
      where: which pairs count, bool, broadcastable to ``[...]``; the others give 0.

    Returns:
      The share, shape ``[...]``, at least float32; 0 where the step is zero.

    Raises:
      TypeError: if an array is not real, or ``where`` not bool.
      ValueError: if the shapes do not broadcast.

    Examples:
      >>> from jaxkit import entanglement
      >>> share = entanglement.chosen_share(
      ...     entanglement.PairGram(chosen=1.0, cross=2.0, rejected=5.0),
      ...     entanglement.Coefficients(chosen=1.0, rejected=1.0),
      ... )
      >>> print(share)
      -0.5

    References:
      Derived; see the theory page.
    """
    gram, coefficients = real_coefficients(gram, coefficients, where)
    changes, unit = _unit_changes(gram, coefficients)
    grown = unit.chosen * changes.chosen
    total = grown - unit.rejected * changes.rejected
    # Rounding may leave a total of the wrong sign where the two gradients coincide.
    share = safe_divide(grown, jnp.maximum(total, 0.0))
    return masked_fill(share, where)


@jit()
def pair_cosine(gram: PairGram, *, where: ArrayLike | None = None) -> jax.Array:
    r"""Gives the cosine between the two gradients of each pair.

    .. math:: \rho = \frac{s_{wl}}{\sqrt{s_{ww} s_{ll}}}

    Args:
      gram: the inner products of each pair; its arrays broadcast together.
      where: which pairs count, bool, broadcastable to ``[...]``; the others give 0.

    Returns:
      The cosine, shape ``[...]``, at least float32; 0, with a zero gradient, where a
      gradient vanishes.

    Raises:
      TypeError: if an array is not real, or ``where`` not bool.
      ValueError: if the shapes do not broadcast.

    Examples:
      >>> from jaxkit import entanglement
      >>> gram = entanglement.PairGram(chosen=0.54, cross=-0.36, rejected=0.74)
      >>> print(f"{entanglement.pair_cosine(gram):.6f}")
      -0.569495

    References:
      Yuan et al., *A Common Pitfall of Margin-based Language Model Alignment: Gradient
      Entanglement*, ICLR 2025.
    """
    gram, _ = real_gram(gram, where)
    alive = (gram.chosen > 0) & (gram.rejected > 0)
    # A product of two roots: the product of the entries may overflow or underflow.
    norm = jnp.sqrt(masked_fill(gram.chosen, alive, fill=1.0))
    other_norm = jnp.sqrt(masked_fill(gram.rejected, alive, fill=1.0))
    return masked_fill(gram.cross / norm / other_norm, alive)


@jit()
def ideal_ratio_interval(gram: PairGram) -> tuple[jax.Array, jax.Array]:
    r"""Gives the open interval of coefficient ratios for which a pair is ideal.

    .. math:: \rho \kappa = \frac{s_{wl}}{s_{ww}} < \frac{d_w}{d_l} <
       \frac{s_{ll}}{s_{wl}} = \frac{\kappa}{\rho}

    with the cosine :math:`\rho` and the ratio of norms :math:`\kappa = \lVert g_l
    \rVert / \lVert g_w \rVert`, the geometric center of the interval. Every positive
    ratio is ideal where the cosine is not positive.

    Args:
      gram: the inner products of each pair; its arrays broadcast together.

    Returns:
      ``(lower, upper)``, each of shape ``[...]``, at least float32. ``(0, inf)`` where
      the cosine is not positive; the empty ``(0, 0)`` where a gradient vanishes.

    Raises:
      TypeError: if an array is not real.
      ValueError: if the shapes do not broadcast.

    Examples:
      >>> from jaxkit import entanglement
      >>> gram = entanglement.PairGram(chosen=1.0, cross=2.0, rejected=5.0)
      >>> lower, upper = entanglement.ideal_ratio_interval(gram)
      >>> print(lower, upper)
      2.0 2.5

    References:
      Yuan et al., *A Common Pitfall of Margin-based Language Model Alignment: Gradient
      Entanglement*, ICLR 2025; Chen et al., ICML 2026, who call it the
      disentanglement band.
    """
    gram, _ = real_gram(gram)
    alive = (gram.chosen > 0) & (gram.rejected > 0)
    cross = jnp.maximum(gram.cross, 0.0)
    lower = masked_fill(safe_divide(cross, gram.chosen), alive)
    upper = safe_divide(gram.rejected, cross, fill=jnp.inf)
    return lower, masked_fill(upper, alive)


@jit()
def trust_step(first: ArrayLike, second: ArrayLike) -> jax.Array:
    r"""Gives the step size at which a predicted change turns its sign.

    .. math:: \eta^* = -2\, \frac{f'}{f''} \quad\text{if } f' f'' < 0,
       \qquad \infty \text{ otherwise}

    where :math:`\eta f' + \tfrac12 \eta^2 f''` is the change after a step of size
    :math:`\eta`. Below it, the sign of the first order is the sign of the second-order
    prediction.

    Args:
      first: first derivatives along the step, shape ``[...]``.
      second: second derivatives, see :func:`update_changes` with ``order=2``;
        broadcasts with ``first``.

    Returns:
      The step size, shape ``[...]``, at least float32.

    Raises:
      TypeError: if an argument is not real.
      ValueError: if the shapes do not broadcast.

    Examples:
      >>> from jaxkit import entanglement
      >>> print(f"{entanglement.trust_step(104.07, -5604.0):.4f}")
      0.0371

    References:
      Derived; see the theory page.
    """
    first, second = broadcast_real(first=first, second=second)
    turns = jnp.sign(first) * jnp.sign(second) < 0
    quotient = -2 * first / masked_fill(second, turns, fill=1.0)
    return jnp.where(turns, quotient, jnp.inf)
