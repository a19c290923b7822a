"""What the functions on pairs of answers exchange: small tuples of arrays."""

from typing import NamedTuple

import jax

__all__ = ["Changes", "Coefficients", "PairGram"]


class PairGram(NamedTuple):
    r"""Inner products of the two gradients of each pair.

    With :math:`g_w` and :math:`g_l` the gradients of the log-probabilities of the
    chosen and of the rejected answer, summed over every parameter asked for.

    Attributes:
      chosen: :math:`\langle g_w, g_w \rangle`, shape ``[...]``.
      cross: :math:`\langle g_w, g_l \rangle`, shape ``[...]``.
      rejected: :math:`\langle g_l, g_l \rangle`, shape ``[...]``.
    """

    chosen: jax.Array
    cross: jax.Array
    rejected: jax.Array


class Coefficients(NamedTuple):
    r"""How strongly a loss pushes on the two log-probabilities of each pair.

    The gradient of the loss is :math:`-(d_w g_w - d_l g_l)`. Both are positive for
    a loss that raises the chosen answer and lowers the rejected one; either may be
    negative.

    Attributes:
      chosen: :math:`d_w = -\partial \ell / \partial \log \pi_w`, shape ``[...]``.
      rejected: :math:`d_l = +\partial \ell / \partial \log \pi_l`, shape ``[...]``.
    """

    chosen: jax.Array
    rejected: jax.Array


class Changes(NamedTuple):
    """Changes of the two log-probabilities of each pair.

    Attributes:
      chosen: change of the log-probability of the chosen answer, shape ``[...]``.
      rejected: change of that of the rejected answer, shape ``[...]``.
    """

    chosen: jax.Array
    rejected: jax.Array
