"""Contract rows of jaxkit.entanglement."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxkit import entanglement
from jaxkit.entanglement import Coefficients, PairGram
from tests.contracts._contract import Bad, Contract

__all__ = ["ELSEWHERE", "ROWS"]

MASK = np.array([True, False, True])
VOCAB = 4


def _entries(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """The three entries of the Gram of random vectors."""
    chosen, rejected = rng.standard_normal((2, 3, 4))
    dot = lambda x, y: np.sum(x * y, axis=-1)
    return dot(chosen, chosen), dot(chosen, rejected), dot(rejected, rejected)


def _pushes(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    return tuple(rng.uniform(0.2, 2.0, (2, 3)))


def _flat(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of plain arrays, which the suite can poison one by one."""

    def call(
        chosen: Any, cross: Any, rejected: Any, *pushes: Any, where: Any = None
    ) -> Any:
        gram = PairGram(chosen, cross, rejected)
        return function(
            gram, *((Coefficients(*pushes),) if pushes else ()), where=where
        )

    return call


def _gram_bad(pushes: int) -> tuple[Bad, ...]:
    """The refusals that every function of a pair Gram shares."""
    ones = np.ones(3, np.float32)
    extra = (ones,) * pushes
    return (
        Bad(
            error=ValueError,
            match=r"must broadcast together, got `gram.chosen` \(3,\), `gram.cross` \(2,",
            args=(ones, ones[:2], ones, *extra),
        ),
        Bad(
            error=TypeError,
            match=r"`gram.rejected`.*int32",
            args=(ones, ones, jnp.ones(3, jnp.int32), *extra),
        ),
        Bad(
            error=TypeError,
            match=r"`where` must have dtype bool, got float32",
            args=(ones, ones, ones, *extra),
            kwargs={"where": ones},
        ),
    )


# No gradient, equal gradients, opposite gradients, sizes far from 1.
_EDGES = tuple(
    tuple(np.full(2, x) for x in entries)
    for entries in (
        (0.0, 0.0, 0.0, 1.0, 1.0),
        (2.0, 2.0, 2.0, 0.5, 0.5),
        (1.0, -1.0, 1.0, 0.0, 0.0),
        (1e-20, 0.0, 1e-20, 1e-30, 1e-30),
        (1e15, 1e15, 1e15, -1e10, 1e10),
    )
)


def _states(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    return rng.standard_normal((3, 2)), rng.standard_normal((2, 2))


def _probs(rng: np.random.Generator, *shape: int) -> np.ndarray:
    weights = rng.uniform(0.2, 1.0, (*shape, VOCAB))
    return weights / weights.sum(axis=-1, keepdims=True)


def _lazy(
    chosen: Any, cross: Any, rejected: Any, start: Any, times: Any, **options: Any
) -> Any:
    gram = PairGram(chosen, cross, rejected)
    return entanglement.lazy_dpo_flow(gram, start, times, **options)


ROWS = {
    "ches_score": Contract(
        function=lambda chosen, rejected, *, where=None, **options: (
            entanglement.ches_score(
                chosen, rejected, chosen_where=where, rejected_where=None, **options
            )
        ),
        samples=_states,
        kwargs={"length_normalize": True},
        differentiable=(0, 1),
        mask=lambda: MASK,
        poisoned=(0,),
        loss=True,
        extremes=((np.zeros((3, 2)), np.zeros((2, 2))),),
        bad=(
            Bad(
                error=ValueError,
                match=r"`rejected_hidden` must have shape \(\.\.\., any, 2\).*\(2, 3\)",
                args=(np.ones((3, 2), np.float32), np.ones((2, 3), np.float32)),
            ),
            Bad(
                error=ValueError,
                match=r"the mask of chosen_hidden` must broadcast to shape \(3,\)",
                kwargs={"where": jnp.ones(2, bool)},
            ),
            Bad(
                error=TypeError,
                match=r"mask of `chosen_hidden` must be bool, got float32",
                kwargs={"where": jnp.ones(3)},
            ),
        ),
    ),
    "chosen_share": Contract(
        function=_flat(entanglement.chosen_share),
        samples=lambda rng: (*_entries(rng), *_pushes(rng)),
        differentiable=(0, 1, 2, 3, 4),
        mask=lambda: MASK,
        poisoned=(0, 1, 2, 3, 4),
        loss=True,
        low=0.1,
        extremes=_EDGES,
        bad=_gram_bad(2),
    ),
    "entanglement_regime": Contract(
        function=_flat(entanglement.entanglement_regime),
        samples=lambda rng: (*_entries(rng), *_pushes(rng)),
        low=None,
        extremes=_EDGES,
        bad=_gram_bad(2),
    ),
    "ideal_ratio_interval": Contract(
        function=lambda *entries: entanglement.ideal_ratio_interval(PairGram(*entries)),
        # A positive cosine: otherwise the upper end is infinite.
        samples=lambda rng: tuple(
            x + shift for x, shift in zip(_entries(rng), (4.0, 9.0, 30.0), strict=True)
        ),
        differentiable=(0, 1, 2),
        loss=True,
        extremes=(
            tuple(np.zeros(2) for _ in range(3)),
            tuple(np.full(2, 2.0) for _ in range(3)),
        ),
        bad=_gram_bad(0)[:2],
    ),
    "lazy_dpo_flow": Contract(
        function=_lazy,
        samples=lambda rng: (
            *_entries(rng),
            rng.standard_normal(3),
            rng.uniform(0.5, 3.0, 3),
        ),
        hyper={"beta": (0.5, 1.0)},
        differentiable=(0, 1, 2, 3, 4),
        loss=True,
        low=0.1,
        extremes=tuple(
            (*(np.full(2, x) for x in entries), np.full(2, start), np.full(2, time))
            for entries, start, time in (
                ((1.0, 1.0, 1.0), 0.0, 1.0),
                ((0.0, 0.0, 0.0), 0.0, 1.0),
                ((2.0, 1.0, 3.0), -1e3, 1e6),
                ((2.0, 1.0, 3.0), 1e3, 1e6),
                ((2.0, 1.0, 3.0), 0.0, 0.0),
            )
        ),
        bad=(
            Bad(
                error=ValueError,
                match=r"must broadcast together.*`times` \(2,\)",
                args=(*(np.ones(3, np.float32),) * 4, np.ones(2, np.float32)),
            ),
            Bad(
                error=TypeError,
                match=r"`initial_margin`.*int32",
                args=(
                    *(np.ones(3, np.float32),) * 3,
                    jnp.ones(3, jnp.int32),
                    np.ones(3, np.float32),
                ),
            ),
        ),
    ),
    "output_layer_token_gram": Contract(
        function=lambda hidden, other, weight, bias, tokens, others, *, where=None: (
            entanglement.output_layer_token_gram(
                hidden, other, weight, tokens, others, bias=bias, where=where
            )
        ),
        samples=lambda rng: (
            *_states(rng),
            rng.standard_normal((VOCAB, 2)),
            rng.standard_normal(VOCAB),
            jnp.array([1, 0, 3]),
            jnp.array([1, 2]),
        ),
        differentiable=(0, 1, 2, 3),
        vmapped=(0, 1),
        mask=lambda: MASK,
        poisoned=(0,),
        loss=True,
        low=5e-2,
        extremes=(
            (
                np.full((1, 2), 1e2),
                np.full((1, 2), 1e2),
                np.array([[1e2, 1e2], [0.0, 0.0]]),
                np.zeros(2),
                jnp.array([0]),
                jnp.array([1]),
            ),
        ),
        bad=(
            Bad(
                error=ValueError,
                match=r"`tokens` must have shape \(1,\), got \(2,\)",
                args=(
                    *(np.ones((1, 2), np.float32),) * 2,
                    np.ones((3, 2), np.float32),
                    np.ones(3, np.float32),
                    jnp.array([0, 1]),
                    jnp.array([1]),
                ),
            ),
            Bad(
                error=ValueError,
                match=r"`weight` must have shape \(\.\.\., any, 2\), got \(3, 4\)",
                args=(
                    *(np.ones((1, 2), np.float32),) * 2,
                    np.ones((3, 4), np.float32),
                    np.ones(3, np.float32),
                    jnp.array([0]),
                    jnp.array([1]),
                ),
            ),
            Bad(
                error=TypeError,
                match=r"`other_tokens`.*float32",
                args=(
                    *(np.ones((1, 2), np.float32),) * 2,
                    np.ones((3, 2), np.float32),
                    np.ones(3, np.float32),
                    jnp.array([0]),
                    jnp.array([1.0]),
                ),
            ),
        ),
    ),
    "pair_cosine": Contract(
        function=_flat(entanglement.pair_cosine),
        samples=_entries,
        differentiable=(0, 1, 2),
        mask=lambda: MASK,
        poisoned=(0, 1, 2),
        loss=True,
        extremes=tuple(edge[:3] for edge in _EDGES[:3]),
        bad=_gram_bad(0),
    ),
    "predicted_changes": Contract(
        function=_flat(entanglement.predicted_changes),
        samples=lambda rng: (*_entries(rng), *_pushes(rng)),
        differentiable=(0, 1, 2, 3, 4),
        mask=lambda: MASK,
        poisoned=(0, 1, 2, 3, 4),
        loss=True,
        low=5e-2,
        extremes=_EDGES,
        bad=_gram_bad(2),
    ),
    "softmax_pair_gram": Contract(
        function=entanglement.softmax_pair_gram,
        samples=lambda rng: (_probs(rng, 2), jnp.array([0, 1]), jnp.array([1, 1])),
        hyper={"hidden_sq_norm": (1.0, 2.5)},
        differentiable=(0,),
        vmapped=(0,),
        loss=True,
        extremes=((np.array([1.0, 0.0]), jnp.array(0), jnp.array(1)),),
        bad=(
            Bad(
                error=ValueError,
                match=r"`rejected_index` must have shape \(\), got \(1,\)",
                args=(np.ones(3, np.float32), jnp.array(0), jnp.array([1])),
            ),
            Bad(
                error=ValueError,
                match=r"`hidden_sq_norm` must broadcast to shape \(2,\), got \(3,\)",
                kwargs={"hidden_sq_norm": np.ones(3, np.float32)},
            ),
            Bad(
                error=TypeError,
                match=r"`chosen_index`.*float32",
                args=(np.ones(3, np.float32), jnp.array(0.0), jnp.array(1)),
            ),
        ),
    ),
    "softmax_step_changes": Contract(
        function=entanglement.softmax_step_changes,
        samples=lambda rng: (
            rng.uniform(0.1, 0.5, 3),
            rng.uniform(0.1, 0.5, 3),
            np.array([0.3, -2.0, 4.0]),
        ),
        differentiable=(0, 1, 2),
        loss=True,
        extremes=(
            (np.array([1.0, 0.0]), np.array([0.0, 1.0]), np.array([1e3, 0.0])),
            (np.array([0.2, 0.4]), np.array([0.3, 0.6]), np.array([-1e3, 0.0])),
        ),
        bad=(
            Bad(
                error=ValueError,
                match=r"must broadcast together.*`logit_change` \(2,\)",
                args=(*(np.ones(3, np.float32),) * 2, np.ones(2, np.float32)),
            ),
        ),
    ),
    "suffix_pair_gram": Contract(
        function=lambda probs, after, other, *indices, where=None, **options: (
            entanglement.suffix_pair_gram(
                probs, *indices[:2], after, other, indices[2], where=where, **options
            )
        ),
        samples=lambda rng: (
            _probs(rng),
            _probs(rng, 3),
            _probs(rng, 3),
            jnp.array(0),
            jnp.array(2),
            jnp.array([1, 1, 3]),
        ),
        hyper={"hidden_cosine": (0.9, 0.5)},
        differentiable=(0, 1, 2),
        vmapped=(0, 1, 2),
        mask=lambda: MASK,
        poisoned=(1, 2),
        loss=True,
        bad=(
            Bad(
                error=ValueError,
                match=r"`chosen_suffix_probs` and `rejected_suffix_probs`.*\(3, 4\) and",
                args=(
                    np.ones(4, np.float32),
                    np.ones((3, 4), np.float32),
                    np.ones((2, 4), np.float32),
                    jnp.array(0),
                    jnp.array(1),
                    jnp.array([0, 0, 0]),
                ),
            ),
            Bad(
                error=ValueError,
                match=r"`probs` must have shape \(\.\.\., 4\), got \(5,\)",
                args=(
                    np.ones(5, np.float32),
                    *(np.ones((3, 4), np.float32),) * 2,
                    jnp.array(0),
                    jnp.array(1),
                    jnp.array([0, 0, 0]),
                ),
            ),
        ),
    ),
    "trust_step": Contract(
        function=entanglement.trust_step,
        samples=lambda rng: (rng.uniform(0.5, 2.0, 3), -rng.uniform(0.5, 2.0, 3)),
        differentiable=(0, 1),
        loss=True,
        bad=(
            Bad(
                error=ValueError,
                match=r"must broadcast together, got `first` \(3,\), `second` \(2,\)",
                args=(np.ones(3, np.float32), np.ones(2, np.float32)),
            ),
        ),
    ),
}

ELSEWHERE: dict[str, str] = {
    "Changes": "a container: tests/entanglement/test_regimes.py",
    "Coefficients": "a container: tests/entanglement/test_regimes.py",
    "DisplacementReport": "a container: tests/entanglement/test_displacement.py",
    "PairGram": "a container: tests/entanglement/test_regimes.py",
    "Regime": "names of integers: tests/entanglement/test_regimes.py",
    "displacement_report": "takes callables: tests/entanglement/test_displacement.py",
    "loss_coefficients": "takes a callable: tests/entanglement/test_coefficients.py",
    "update_changes": "takes a callable: tests/entanglement/test_displacement.py",
}
