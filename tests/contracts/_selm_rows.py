"""Contract rows of the exploration, ranking and loop of jaxkit.preference."""

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


def _ones(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


def _tables(rng: np.random.Generator, count: int) -> tuple[np.ndarray, ...]:
    """Normalized log-probabilities over four answers to two prompts."""
    logits = (rng.standard_normal((2, 4)) for _ in range(count))
    return tuple(x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in logits)


def _edges(count: int) -> tuple[tuple[np.ndarray, ...], ...]:
    """Certain and impossible answers, alike and mixed."""
    sides = ((0.0, -1e4), (-1e4, 0.0), (0.0, 0.0), (-1e4, -1e4))
    return tuple(tuple(np.full(2, side[i % 2]) for i in range(count)) for side in sides)


def _explore_bad(count: int, first: str, second: str) -> tuple[Bad, ...]:
    good = (_ones(2, 3),) * count
    return (
        Bad(
            error=ValueError,
            match=rf"`{first}` and `{second}`.*must have the same shape.*\(3,\)",
            args=(*good[:-1], _ones(3)),
        ),
        Bad(
            error=TypeError,
            match=rf"`{first}`.*int32",
            args=(_ones(2, 3, dtype=np.int32), *good[1:]),
        ),
        Bad(
            error=ValueError,
            match=r"`alpha` must broadcast to shape \(2, 3\), got \(2,\)",
            args=good,
            kwargs={"alpha": _ones(2)},
        ),
    )


_BONUS_BAD = Bad(
    error=ValueError,
    match=r"`bonus` must be one of 'log_ratio', 'log_prob', 'sigmoid', 'prob_ratio', "
    r"'prob', got 'curiosity'",
    kwargs={"bonus": "curiosity"},
)


def _loss(function: Any, count: int, *extra: Bad) -> Contract:
    return Contract(
        function=function,
        samples=lambda rng: _logps(rng, count),
        hyper={
            "alpha": (0.3, 0.01),
            "beta": (0.1, 0.5),
            "label_smoothing": (0.1, 0.0),
        },
        differentiable=(0, 1, 2),
        mask=lambda: MASK,
        poisoned=(0, 1),
        loss=True,
        extremes=_edges(count),
        bad=(*_explore_bad(count, "chosen_logps", "rejected_logps"), *extra),
    )


def _bonus(name: str) -> Contract:
    return Contract(
        function=preference.exploration_bonus,
        samples=lambda rng: _logps(rng, 2),
        kwargs={"bonus": name},
        hyper={"alpha": (0.3, 0.01), "beta": (0.1, 0.5)},
        differentiable=(0,),
        mask=lambda: MASK,
        poisoned=(0,),
        loss=True,
        extremes=_edges(2),
        bad=(*_explore_bad(2, "explore_logps", "ref_explore_logps"), _BONUS_BAD),
    )


_REWARD_BAD = (
    Bad(
        error=ValueError,
        match=r"`reward` and `ref_log_probs`.*\(2, 4\) and \(4,\)",
        args=(_ones(2, 4), _ones(4)),
    ),
    Bad(
        error=ValueError,
        match=r"`reward` must have at least 1 entries along axis -1.*\(2, 0\)",
        args=(_ones(2, 0), _ones(2, 0)),
    ),
    Bad(
        error=ValueError,
        match=r"`beta` must broadcast to shape \(2,\), got \(3,\)",
        kwargs={"beta": _ones(3)},
    ),
)

ROWS = {
    **{
        f"exploration_bonus:{name}": _bonus(name)
        for name in ("log_ratio", "log_prob", "sigmoid", "prob_ratio", "prob")
    },
    "selm_loss": _loss(preference.selm_loss, 6, _BONUS_BAD),
    "xpo_loss": _loss(preference.xpo_loss, 5),
    "vpo_loss": _loss(preference.vpo_loss, 6),
    "se_popo_loss": _loss(preference.se_popo_loss, 6),
    "optimal_policy": Contract(
        function=preference.optimal_policy,
        samples=lambda rng: (rng.standard_normal((2, 4)), *_tables(rng, 1)),
        hyper={"beta": (0.5, 2.0)},
        differentiable=(0, 1),
        loss=True,
        extremes=(
            (np.full(2, 1e4), np.array([-1e4, 0.0])),
            (np.array([1e4, -1e4]), np.log([0.5, 0.5])),
        ),
        bad=_REWARD_BAD,
    ),
    "selm_value_gap": Contract(
        function=preference.selm_value_gap,
        samples=lambda rng: (rng.standard_normal((2, 4)), *_tables(rng, 1)),
        hyper={"beta": (0.5, 2.0)},
        differentiable=(0, 1),
        loss=True,
        extremes=(
            (np.full(2, 1e4), np.array([-np.inf, 0.0])),
            (np.array([1e4, -1e4]), np.log([0.5, 0.5])),
        ),
        bad=_REWARD_BAD,
    ),
    "selm_population_loss": Contract(
        function=preference.selm_population_loss,
        samples=lambda rng: (*_tables(rng, 2), rng.standard_normal((2, 4))),
        hyper={"alpha": (0.3, 0.01), "beta": (0.1, 0.5)},
        differentiable=(0, 2),
        loss=True,
        extremes=(
            (np.array([-1e4, 0.0]), np.array([-1e4, 0.0]), np.array([1e4, -1e4])),
            (np.array([0.0, -1e4]), np.log([0.5, 0.5]), np.array([1e4, -1e4])),
        ),
        bad=(
            Bad(
                error=ValueError,
                match=r"`log_probs` and `ref_log_probs`.*\(2, 4\) and \(4,\)",
                args=(_ones(2, 4), _ones(4), _ones(2, 4)),
            ),
            Bad(
                error=ValueError,
                match=r"`alpha` must broadcast to shape \(2,\), got \(2, 4\)",
                kwargs={"alpha": _ones(2, 4)},
            ),
        ),
    ),
    "selm_rates": Contract(
        function=preference.selm_rates,
        samples=lambda rng: (rng.uniform(1.0, 9.0, 3),),
        hyper={
            "log_ratio_bound": (0.5, 1.0),
            "eluder_coefficient": (2.0, 3.0),
            "log_class_size": (1.0, 2.0),
        },
        differentiable=(0,),
        bad=(
            Bad(
                error=TypeError,
                match=r"`num_rounds`.*int32",
                args=(_ones(2, dtype=np.int32),),
            ),
            Bad(
                error=ValueError,
                match=r"`log_ratio_bound` must broadcast to shape \(\), got \(2,\)",
                args=(1.0,),
                kwargs={"log_ratio_bound": _ones(2)},
            ),
        ),
    ),
    "rank_responses": Contract(
        function=preference.rank_responses,
        samples=lambda rng: (rng.standard_normal((2, 3)),),
        low=None,
        bad=(
            Bad(
                error=ValueError,
                match=r"`scores` must have at least 2 entries along axis -1.*\(3, 1\)",
                args=(_ones(3, 1),),
            ),
            Bad(
                error=TypeError,
                match=r"`scores`.*int32",
                args=(_ones(2, 3, dtype=np.int32),),
            ),
            Bad(
                error=ValueError,
                match=r"`where` must broadcast to shape \(2, 3\), got \(2,\)",
                kwargs={"where": jnp.ones(2, bool)},
            ),
        ),
    ),
    "bradley_terry_labels": Contract(
        function=preference.bradley_terry_labels,
        samples=lambda rng: (rng.standard_normal(3), rng.standard_normal(3)),
        hyper={"scale": (1.0, 5.0)},
        random=True,
        low=None,
        bad=(
            Bad(
                error=TypeError,
                match=r"`key` must be a typed key.*uint32",
                args=(np.zeros(2, np.uint32), _ones(2), _ones(2)),
            ),
            Bad(
                error=ValueError,
                match=r"`rewards_a` and `rewards_b`.*\(2,\) and \(3,\)",
                args=(jax.random.key(0), _ones(2), _ones(3)),
            ),
        ),
    ),
}

_TESTED = "takes callables; see tests/preference/test_loop.py"

ELSEWHERE = {
    "RankedPair": "a tuple; see tests/preference/test_ranking.py",
    "SelmBatch": "a tuple; see tests/preference/test_loop.py",
    "SelmConfig": "settings; see tests/preference/test_loop.py",
    "SelmRates": "a tuple; see tests/preference/test_selm_theory.py",
    "SelmState": "a tuple; see tests/preference/test_loop.py",
    "collect": _TESTED,
    "init_replay": "shapes only; see tests/preference/test_loop.py",
    "init_selm": _TESTED,
    "run_selm": _TESTED,
    "train_round": _TESTED,
    "update_reference": "acts on a state; see tests/preference/test_loop.py",
}
