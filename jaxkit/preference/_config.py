"""A loss chosen by its name, or a weighted sum of several."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping

import jax
import numpy as np

from jaxkit._core import checks
from jaxkit._core.jit import jit
from jaxkit.preference._aot import aot_loss
from jaxkit.preference._apo import apo_down_loss, apo_zero_loss
from jaxkit.preference._arguments import pair_arguments
from jaxkit.preference._bco import bco_loss
from jaxkit.preference._cpo import cpo_loss
from jaxkit.preference._discopop import discopop_loss
from jaxkit.preference._divergence import DIVERGENCES
from jaxkit.preference._dpo import (
    dpo_loss,
    length_normalized_dpo_loss,
    robust_dpo_loss,
)
from jaxkit.preference._exo import exo_loss
from jaxkit.preference._hinge import hinge_loss
from jaxkit.preference._ipo import ipo_loss
from jaxkit.preference._nca import nca_loss
from jaxkit.preference._orpo import orpo_loss
from jaxkit.preference._pairs import PairLogps, hyper
from jaxkit.preference._sft import sft_loss
from jaxkit.preference._simpo import alphapo_loss, simpo_loss
from jaxkit.preference._sppo import sppo_loss
from jaxkit.typing import ArrayLike

__all__ = ["LOSS_TYPES", "PreferenceConfig", "preference_loss"]


class _LossTable(dict[str, Callable[..., jax.Array]]):
    """Losses of pairs by name."""


# A class of its own, for a dict has no docstring but that of all dicts.
LOSS_TYPES: Mapping[str, Callable[..., jax.Array]] = _LossTable(
    {
        "sigmoid": dpo_loss,
        "robust": robust_dpo_loss,
        "hinge": hinge_loss,
        "ipo": ipo_loss,
        "sigmoid_norm": length_normalized_dpo_loss,
        "exo_pair": exo_loss,
        "nca_pair": nca_loss,
        "bco_pair": bco_loss,
        "sppo_hard": sppo_loss,
        "apo_zero": apo_zero_loss,
        "apo_down": apo_down_loss,
        "discopop": discopop_loss,
        "aot": aot_loss,
        "aot_unpaired": functools.partial(aot_loss, paired=False),
        "sft": sft_loss,
        "cpo": cpo_loss,
        "simpo": simpo_loss,
        "alphapo": alphapo_loss,
        "orpo": orpo_loss,
    }
)
"""The losses of pairs by the names that configuration files use."""

# Fields of the configuration that a loss knows by another name.
_FIELDS = {"weight": "orpo_weight"}


_STATIC = {"static": True}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class PreferenceConfig:
    """Which losses to sum, and their hyper-parameters.

    A pytree: the names are static, numbers may be traced, so that a schedule drives
    them without compiling again. Numbers left None take the default of each loss;
    fields that a loss does not have are not read by it. Numbers that are Python's are
    checked here; traced ones are left to ``checkify``.

    Attributes:
      loss_type: a name of :data:`LOSS_TYPES`, or a tuple of them; static.
      weights: the factor of each loss; None means 1 each.
      beta: how closely to stay to the reference, or the steepness; positive.
      label_smoothing: the fraction of labels taken to be wrong, from 0 to 1/2.
      gamma: the target margin of ``"simpo"`` and ``"alphapo"``.
      alpha: the power of ``"alphapo"``.
      tau: the width of ``"discopop"``; positive.
      reward_shift: the threshold of ``"bco_pair"``.
      orpo_weight: the weight of the odds ratio in ``"orpo"``.
      divergence: see :func:`f_divergence_score`; static. Only for losses of the
        difference of two log-ratios.
      divergence_alpha: the order of the divergence ``"alpha"``.
      length_normalize: whether ``"ipo"`` divides by lengths; static.
      token_average: whether ``"sft"`` averages over the tokens of the batch; static.

    Raises:
      TypeError: if ``loss_type`` is neither a string nor a tuple.
      ValueError: if a name is unknown, a Python number out of range, the number of
        weights wrong, or a loss cannot take the divergence.
    """

    loss_type: str | tuple[str, ...] = dataclasses.field(
        default="sigmoid", metadata=_STATIC
    )
    weights: tuple[ArrayLike, ...] | None = None
    beta: ArrayLike | None = None
    label_smoothing: ArrayLike | None = None
    gamma: ArrayLike | None = None
    alpha: ArrayLike | None = None
    tau: ArrayLike | None = None
    reward_shift: ArrayLike | None = None
    orpo_weight: ArrayLike | None = None
    divergence: str = dataclasses.field(default="reverse_kl", metadata=_STATIC)
    divergence_alpha: ArrayLike = 0.5
    length_normalize: bool = dataclasses.field(default=True, metadata=_STATIC)
    token_average: bool = dataclasses.field(default=False, metadata=_STATIC)

    def __post_init__(self) -> None:
        names = self.loss_types
        for name in names:
            checks.one_of("loss_type", name, tuple(LOSS_TYPES))
        self._check_divergence()
        self._check_numbers()
        # Unflattening with something else than a tuple in its place is legitimate.
        if isinstance(self.weights, tuple) and len(self.weights) != len(names):
            raise ValueError(
                f"`weights` must have one entry per loss, got {len(self.weights)} "
                f"for {len(names)}."
            )

    @property
    def loss_types(self) -> tuple[str, ...]:
        """The names of the losses, always as a tuple."""
        if isinstance(self.loss_type, str):
            return (self.loss_type,)
        if not isinstance(self.loss_type, tuple):
            raise TypeError(
                "`loss_type` must be a string or a tuple of strings, "
                f"got {type(self.loss_type).__name__}."
            )
        if not self.loss_type:
            raise ValueError("`loss_type` must name at least one loss, got ().")
        return self.loss_type

    def _check_divergence(self) -> None:
        checks.one_of("divergence", self.divergence, DIVERGENCES)
        able = [name for name, loss in LOSS_TYPES.items() if _has(loss, "divergence")]
        unable = [name for name in self.loss_types if name not in able]
        if self.divergence != "reverse_kl" and unable:
            raise ValueError(
                f"`divergence` {self.divergence!r} needs losses of the difference of "
                f"two log-ratios ({', '.join(able)}), got {', '.join(unable)}."
            )

    def _check_numbers(self) -> None:
        for field in ("beta", "tau"):
            value = _known_number(getattr(self, field))
            if value is not None and not value > 0:
                raise ValueError(f"`{field}` must be positive, got {value:g}.")
        value = _known_number(self.label_smoothing)
        if value is None:
            return
        low_open, high_open = "exo_pair" in self.loss_types, "robust" in self.loss_types
        above = value > 0 if low_open else value >= 0
        below = value < 0.5 if high_open else value <= 0.5
        if not (above and below):
            interval = f"{'(' if low_open else '['}0, 0.5{')' if high_open else ']'}"
            raise ValueError(
                f"`label_smoothing` must lie in {interval} for "
                f"{', '.join(self.loss_types)}, got {value:g}."
            )


def _known_number(value: object) -> float | None:
    """Gives a number of Python or NumPy; None for arrays, which may be traced."""
    return float(value) if isinstance(value, int | float | np.number) else None


def _has(loss: Callable[..., jax.Array], parameter: str) -> bool:
    return parameter in inspect.signature(loss).parameters


def _one_loss(
    name: str,
    pair: PairLogps,
    config: PreferenceConfig,
    lengths: dict[str, ArrayLike | None],
    where: ArrayLike | None,
) -> jax.Array:
    loss = LOSS_TYPES[name]
    if where is not None and not _has(loss, "where"):
        raise ValueError(
            f"`where` has no meaning for {name!r}, which compares sorted batches."
        )
    given = {**lengths, "where": where}
    for parameter in inspect.signature(loss).parameters:
        value = getattr(config, _FIELDS.get(parameter, parameter), None)
        if value is not None:
            given[parameter] = value
    _, named = pair_arguments(loss, pair)
    return loss(**named, **{k: v for k, v in given.items() if _has(loss, k)})


@jit()
def preference_loss(
    pair: PairLogps,
    config: PreferenceConfig,
    *,
    chosen_lengths: ArrayLike | None = None,
    rejected_lengths: ArrayLike | None = None,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Computes the loss that a configuration names, or a weighted sum of several.

    .. math:: \ell = \sum_k \omega_k \ell_k

    A mixture of a logistic loss, a binary classification and the likelihood of the
    chosen answers, for example, is
    ``PreferenceConfig(loss_type=("sigmoid", "bco_pair", "sft"), weights=(0.8, 0.2, 1.0))``.

    Args:
      pair: the log-probabilities, shape ``[...]``.
      config: the names, weights and hyper-parameters.
      chosen_lengths: number of tokens of each chosen answer, integers or reals,
        broadcastable to ``[...]``; needed by losses per token.
      rejected_lengths: the same of the rejected answers.
      where: which pairs count, bool, broadcastable to ``[...]``; the others give 0 and
        no gradient. Refused for ``"aot"`` and ``"aot_unpaired"``.

    Returns:
      The loss of each pair, shape ``[...]``, at least float32.

    Raises:
      TypeError: if an argument is not real, or ``where`` not bool.
      ValueError: if shapes differ, lengths or a reference are missing, or a loss cannot
        take ``where``.

    Examples:
      >>> from jaxkit import preference
      >>> pair = preference.PairLogps(-10.0, -14.0, -11.0, -13.0)
      >>> config = preference.PreferenceConfig(loss_type="hinge", beta=0.1)
      >>> print(f"{preference.preference_loss(pair, config):.4f}")
      0.8000

    References:
      Wang et al., *Enhancing the Reasoning Ability of Multimodal Large Language Models
      via Mixed Preference Optimization*, 2024, for the weighted sum.
    """
    names = config.loss_types
    lengths = {"chosen_lengths": chosen_lengths, "rejected_lengths": rejected_lengths}
    losses = [_one_loss(name, pair, config, lengths, where) for name in names]
    if config.weights is not None:
        weights = (hyper(losses[0], weights=w)[0] for w in config.weights)
        losses = [w * loss for w, loss in zip(weights, losses, strict=True)]
    return sum(losses[1:], start=losses[0])
