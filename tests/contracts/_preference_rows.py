"""Contract rows of the losses of jaxkit.preference."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit import preference
from tests.contracts._contract import Bad, Contract

__all__ = ["ELSEWHERE", "ROWS"]

MASK = np.array([[True, False, True], [True, True, False]])


def _logps(rng: np.random.Generator, count: int) -> tuple[np.ndarray, ...]:
    return tuple(-rng.uniform(1.0, 9.0, (2, 3)) for _ in range(count))


def _lengths(rng: np.random.Generator, count: int) -> tuple[np.ndarray, ...]:
    return tuple(rng.integers(1, 9, (2, 3)) for _ in range(count))


def _ones(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


_WHERE_BAD = {"where": jnp.ones(2, bool)}


def _pair_row(
    function: Callable[..., jax.Array],
    *,
    references: bool = True,
    lengths: bool = False,
    bad: tuple[Bad, ...] = (),
    **options: Any,
) -> Contract:
    """The row of a loss of pairs."""
    count = 4 if references else 2
    counts = 2 if lengths else 0
    good = (*(_ones(2, 3),) * count, *(_ones(2, 3, dtype=np.int32),) * counts)
    refusals = [
        Bad(
            error=ValueError,
            match=r"`chosen_logps` and `rejected_logps`.*\(2, 3\) and \(3,\)",
            args=(good[0], _ones(3), *good[2:]),
        ),
        Bad(
            error=TypeError,
            match=r"`rejected_logps`.*int32",
            args=(good[0], _ones(2, 3, dtype=np.int32), *good[2:]),
        ),
    ]
    if lengths:
        refusals += [
            Bad(
                error=ValueError,
                match=r"`rejected_lengths` must broadcast to shape \(2, 3\), got \(2,\)",
                args=(*good[:-1], _ones(2, dtype=np.int32)),
            ),
            Bad(
                error=ValueError,
                match=r"`chosen_lengths` is needed.*got None",
                args=(*good[:-2], None, None),
            ),
        ]
    hyper = {"beta": (0.1, 0.5)} if "hyper" not in options else options.pop("hyper")
    refusals += [
        Bad(
            error=ValueError,
            match=rf"`{name}` must broadcast to shape \(2, 3\), got \(2,\)",
            args=good,
            kwargs={name: _ones(2)},
        )
        for name in hyper
    ]
    defaults = {
        "mask": lambda: MASK,
        "poisoned": (0, 1),
        # The ends of the range: tests/preference/test_stability.py, all losses at once.
    }
    if options.get("mask", MASK) is not None:
        refusals.append(
            Bad(
                error=ValueError,
                match=r"`where` must broadcast to shape \(2, 3\), got \(2,\)",
                args=good,
                kwargs=_WHERE_BAD,
            )
        )
    return Contract(
        function=function,
        samples=lambda rng: (*_logps(rng, count), *_lengths(rng, counts)),
        hyper=hyper,
        differentiable=(0, 1),
        loss=True,
        bad=(*refusals, *bad),
        **{**defaults, **options},
    )


_DIVERGENCE_BAD = Bad(
    error=ValueError,
    match=r"`divergence` must be one of 'reverse_kl'.*got 'hellinger'",
    kwargs={"divergence": "hellinger"},
)
_SMOOTHED = {"beta": (0.1, 0.5), "label_smoothing": (0.1, 0.0)}
_ROBUST = {"beta": (0.1, 0.5), "label_smoothing": (0.1, 0.2)}
_MIXTURE = ("sigmoid", "bco_pair", "sft", "ipo")


def _mixture(
    chosen: Any,
    rejected: Any,
    ref_chosen: Any,
    ref_rejected: Any,
    lengths: Any,
    *,
    weights: Any = (0.8, 0.2, 1.0, 0.1),
    where: Any = None,
    loss_type: Any = _MIXTURE,
    **numbers: Any,
) -> jax.Array:
    config = preference.PreferenceConfig(
        loss_type=loss_type, weights=weights, **numbers
    )
    pair = preference.PairLogps(chosen, rejected, ref_chosen, ref_rejected)
    return preference.preference_loss(
        pair, config, chosen_lengths=lengths, rejected_lengths=lengths, where=where
    )


ROWS = {
    "alphapo_loss": _pair_row(
        preference.alphapo_loss,
        references=False,
        lengths=True,
        hyper={"beta": (2.0, 1.0), "gamma": (1.0, 0.5), "alpha": (0.25, 0.0)},
    ),
    "aot_loss": _pair_row(
        preference.aot_loss,
        hyper=_SMOOTHED,
        mask=None,
        poisoned=(),
        bad=(
            Bad(
                error=ValueError,
                match=r"`chosen_logps` must have at least 1 axes, got shape \(\)",
                args=(_ones(),) * 4,
            ),
        ),
    ),
    "apo_down_loss": _pair_row(preference.apo_down_loss),
    "apo_zero_loss": _pair_row(preference.apo_zero_loss),
    "bco_loss": _pair_row(
        preference.bco_loss, hyper={"beta": (0.1, 0.5), "reward_shift": (0.0, 1.0)}
    ),
    "cpo_loss": _pair_row(preference.cpo_loss, references=False, hyper=_SMOOTHED),
    "discopop_loss": _pair_row(
        preference.discopop_loss,
        hyper={"beta": (0.1, 0.5), "tau": (0.5, 0.05)},
        bad=(_DIVERGENCE_BAD,),
    ),
    "dpo_loss": _pair_row(preference.dpo_loss, hyper=_SMOOTHED, bad=(_DIVERGENCE_BAD,)),
    "exo_loss": _pair_row(preference.exo_loss, hyper=_ROBUST, bad=(_DIVERGENCE_BAD,)),
    "f_divergence_score": Contract(
        function=preference.f_divergence_score,
        samples=lambda rng: (rng.uniform(-2.0, 2.0, (2, 3)),),
        kwargs={"divergence": "alpha"},
        hyper={"alpha": (0.5, 1.0)},
        differentiable=(0,),
        loss=True,
        extremes=((np.array([-1e4, 0.0, 1e4]),),),
        bad=(
            _DIVERGENCE_BAD,
            Bad(error=TypeError, match=r"`log_ratio`.*int32", args=(jnp.arange(3),)),
        ),
    ),
    "hinge_loss": _pair_row(preference.hinge_loss, bad=(_DIVERGENCE_BAD,)),
    "implicit_reward": Contract(
        function=preference.implicit_reward,
        samples=lambda rng: _logps(rng, 2),
        hyper={"beta": (0.1, 0.5)},
        differentiable=(0,),
        loss=True,
        bad=(
            Bad(
                error=ValueError,
                match=r"`logps` and `ref_logps`.*\(2,\) and \(3,\)",
                args=(_ones(2), _ones(3)),
            ),
        ),
    ),
    "ipo_loss": _pair_row(preference.ipo_loss, lengths=True, bad=(_DIVERGENCE_BAD,)),
    "kto_kl_estimate": Contract(
        function=preference.kto_kl_estimate,
        samples=lambda rng: _logps(rng, 2),
        loss=True,
        low=6e-2,
        bad=(
            Bad(
                error=ValueError,
                match=r"`logps` and `ref_logps`.*\(2,\) and \(3,\)",
                args=(_ones(2), _ones(3)),
            ),
        ),
    ),
    "kto_loss": Contract(
        function=preference.kto_loss,
        samples=lambda rng: (*_logps(rng, 2), rng.integers(0, 2, (2, 3)) > 0),
        hyper={
            "kl_estimate": (0.5, 0.0),
            "beta": (0.1, 0.5),
            "desirable_weight": (1.0, 1.5),
            "undesirable_weight": (1.0, 0.5),
        },
        differentiable=(0,),
        mask=lambda: MASK,
        poisoned=(0,),
        loss=True,
        extremes=(
            (np.array([-1e4, 0.0]), np.array([0.0, -1e4]), np.array([True, False])),
        ),
        bad=(
            Bad(
                error=TypeError,
                match=r"`desirable` must have dtype bool, got float32",
                args=(_ones(2), _ones(2), _ones(2)),
            ),
            Bad(
                error=ValueError,
                match=r"`logps` and `desirable`.*\(2,\) and \(3,\)",
                args=(_ones(2), _ones(2), _ones(3, dtype=np.bool_)),
            ),
        ),
    ),
    "length_decomposed_log_probs": Contract(
        function=preference.length_decomposed_log_probs,
        samples=lambda rng: (*_logps(rng, 1), np.array([2, 1])),
        hyper={"alpha": (0.5, 1.0)},
        differentiable=(0,),
        mask=lambda: MASK,
        poisoned=(0,),
        loss=True,
        bad=(
            Bad(
                error=ValueError,
                match=r"`other_lengths` must broadcast to shape \(2,\), got \(3,\)",
                args=(_ones(2, 3), _ones(3)),
            ),
            Bad(
                error=ValueError,
                match=r"`token_logps` must have at least 1 axes",
                args=(_ones(), _ones()),
            ),
        ),
    ),
    "length_normalized_dpo_loss": _pair_row(
        preference.length_normalized_dpo_loss, lengths=True, bad=(_DIVERGENCE_BAD,)
    ),
    "nash_md_loss": Contract(
        function=preference.nash_md_loss,
        samples=lambda rng: (*_logps(rng, 2), rng.uniform(0.0, 1.0, 2)),
        hyper={"beta": (0.1, 0.5)},
        mask=lambda: MASK,
        poisoned=(0,),
        loss=True,
        low=6e-2,
        bad=(
            Bad(
                error=ValueError,
                match=r"`preference_probs` must broadcast to shape \(2,\), got \(3,\)",
                args=(_ones(2, 3), _ones(2, 3), _ones(3)),
            ),
        ),
    ),
    "nca_loss": _pair_row(preference.nca_loss),
    "odds_ratio_loss": _pair_row(
        preference.odds_ratio_loss, references=False, lengths=True, hyper={}
    ),
    "orpo_loss": _pair_row(
        preference.orpo_loss,
        references=False,
        lengths=True,
        hyper={"weight": (0.1, 1.0)},
    ),
    "preference_loss": Contract(
        function=_mixture,
        samples=lambda rng: (*_logps(rng, 4), *_lengths(rng, 1)),
        hyper=_SMOOTHED,
        differentiable=(0, 1),
        mask=lambda: MASK,
        poisoned=(0, 1),
        loss=True,
        bad=(
            Bad(
                error=ValueError,
                match=r"`loss_type` must be one of 'sigmoid'.*got 'dpo'",
                kwargs={"loss_type": "dpo"},
            ),
            Bad(
                error=ValueError,
                match=r"`chosen_lengths` is needed",
                args=(*(_ones(2, 3),) * 4, None),
            ),
            Bad(
                error=ValueError,
                match=r"needs `pair.ref_chosen`, got None",
                args=(_ones(3), _ones(3), None, None, _ones(3)),
            ),
            Bad(
                error=ValueError,
                match=r"`where` has no meaning for 'aot'",
                kwargs={
                    "loss_type": "aot",
                    "weights": None,
                    "where": jnp.ones(3, bool),
                },
            ),
        ),
    ),
    "preference_metrics": Contract(
        function=lambda chosen, rejected, ref_chosen, ref_rejected, **options: (
            preference.preference_metrics(
                preference.PairLogps(chosen, rejected, ref_chosen, ref_rejected),
                **options,
            )
        ),
        samples=lambda rng: _logps(rng, 4),
        hyper={"beta": (0.1, 0.5)},
        differentiable=(0, 1),
        mask=lambda: MASK,
        poisoned=(0, 1),
        loss=True,
        bad=(
            Bad(
                error=ValueError,
                match=r"need `pair.ref_chosen`",
                args=(_ones(2), _ones(2), None, None),
            ),
        ),
    ),
    "robust_dpo_loss": _pair_row(
        preference.robust_dpo_loss, hyper=_ROBUST, bad=(_DIVERGENCE_BAD,)
    ),
    "sft_loss": Contract(
        function=preference.sft_loss,
        samples=lambda rng: (*_logps(rng, 1), *_lengths(rng, 1)),
        kwargs={"token_average": True},
        differentiable=(0,),
        mask=lambda: MASK,
        poisoned=(0,),
        loss=True,
        extremes=((np.array([-1e4, 0.0]), np.array([0, 0])),),
        bad=(
            Bad(
                error=ValueError,
                match=r"`chosen_lengths` must broadcast to shape \(2,\), got \(3,\)",
                args=(_ones(2), _ones(3)),
            ),
        ),
    ),
    "simpo_loss": _pair_row(
        preference.simpo_loss,
        references=False,
        lengths=True,
        hyper={
            "beta": (2.0, 1.0),
            "gamma": (1.0, 0.5),
            "label_smoothing": (0.1, 0.0),
        },
    ),
    "sppo_loss": _pair_row(preference.sppo_loss),
    "wpo_weights": Contract(
        function=preference.wpo_weights,
        samples=lambda rng: tuple(x / 9 for x in _logps(rng, 2)),
        loss=True,
        bad=(
            Bad(
                error=ValueError,
                match=r"`token_logps` and `log_sum_sq_probs`.*\(2,\) and \(3,\)",
                args=(_ones(2), _ones(3)),
            ),
        ),
    ),
}

ELSEWHERE = {
    "LOSS_TYPES": "a table: tests/preference/test_config.py",
    "PairLogps": "a container: tests/preference/test_losses.py",
    "PairSlopes": "a container: tests/preference/test_losses.py",
    "PreferenceConfig": "a container: tests/preference/test_config.py",
    "loss_slopes": "takes a callable: tests/preference/test_losses.py",
}
