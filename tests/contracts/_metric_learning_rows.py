"""Contract rows of hypersphere: pairs, proxies, verification and noisy labels."""

from typing import Any

import numpy as np

from jaxkit import hypersphere
from tests.contracts._contract import Bad, Contract

__all__ = ["ELSEWHERE", "ROWS"]

LABELS = np.array([0, 1, 0, 1, 2])
MASK = np.array([True, True, True, True, False])


def _ones(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


_X, _Y = _ones(3, 2), np.zeros(3, np.int32)


def _bad(error: type[Exception], match: str, *args: Any, **kwargs: Any) -> Bad:
    return Bad(error=error, match=match, args=args or None, kwargs=kwargs)


def _pair_row(function: Any, hyper: Any, **options: Any) -> Contract:
    """The row of a loss of the pairs of a batch."""
    defaults = {
        "samples": lambda rng: (rng.standard_normal((5, 3)), LABELS),
        "differentiable": (0,),
        "mask": lambda: MASK,
        "poisoned": (0,),
        "loss": True,
        "extremes": (
            (np.zeros((3, 2)), np.array([0, 0, 1])),
            (np.ones((3, 2)), np.array([0, 1, 2])),
            (np.ones((3, 2)), np.array([0, 0, 0])),
            (np.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]]), np.array([0, 0, 1])),
        ),
    }
    return Contract(
        function=function,
        hyper=hyper,
        bad=(
            _bad(ValueError, r"`embeddings`.*\(3,\)", _ones(3), _Y),
            _bad(TypeError, r"`labels`.*float32", _X, _X[:, 0]),
            _bad(ValueError, r"`labels`.*\(2,\)", _X, _Y[:2]),
            _bad(ValueError, r"`where`.*\(2,\)", _X, _Y, where=_ones(2, dtype=bool)),
            *(
                _bad(ValueError, rf"`{name}`.*\(2,\)", _X, _Y, **{name: _ones(2)})
                for name in hyper
            ),
        ),
        **{**defaults, **options},
    )


PAIRS = {
    # The weights of the circle loss are constants for differentiation: its slopes are
    # tested in tests/hypersphere/test_pair_losses.py.
    "circle_pair_loss": _pair_row(
        hypersphere.circle_pair_loss,
        {"margin": (0.4, 0.25), "scale": (10.0, 80.0)},
        differentiable=(),
        poisoned=(0,),
        low=6e-2,
    ),
    "supcon_loss": _pair_row(hypersphere.supcon_loss, {"temperature": (0.5, 0.1)}),
    "multi_similarity_loss": _pair_row(
        hypersphere.multi_similarity_loss,
        {"positive_scale": (2.0, 3.0), "negative_scale": (5.0, 50.0), "base": (0.5, 0)},
        low=6e-2,
    ),
    "alignment": Contract(
        function=hypersphere.alignment,
        samples=lambda rng: (rng.standard_normal((5, 3)), rng.standard_normal((5, 3))),
        hyper={"power": (2.0, 0.5)},
        differentiable=(0, 1),
        mask=lambda: MASK,
        poisoned=(0, 1),
        loss=True,
        extremes=((_ones(2, 3), _ones(2, 3)), (np.zeros((2, 3)), np.zeros((2, 3)))),
        bad=(
            _bad(ValueError, r"`embeddings` and `others`.*\(3, 3\)", _X, _ones(3, 3)),
            _bad(TypeError, r"`others`.*int32", _X, _X.astype(np.int32)),
            _bad(ValueError, r"`where`.*\(2,\)", _X, _X, where=_ones(2, dtype=bool)),
        ),
    ),
    "uniformity": Contract(
        function=hypersphere.uniformity,
        samples=lambda rng: (rng.standard_normal((5, 3)),),
        hyper={"scale": (2.0, 5.0)},
        differentiable=(0,),
        mask=lambda: MASK,
        poisoned=(0,),
        loss=True,
        extremes=((np.zeros((3, 2)),), (_ones(1, 2),), (_ones(3, 2),)),
        bad=(
            _bad(ValueError, r"`embeddings`.*\(3,\)", _ones(3)),
            _bad(ValueError, r"`scale`.*\(2,\)", _X, scale=_ones(2)),
        ),
    ),
}

DENSITIES = {
    "vmf_log_normalizer": Contract(
        function=hypersphere.vmf_log_normalizer,
        samples=lambda rng: (rng.uniform(0.1, 20.0, 4),),
        kwargs={"dim": 5},
        differentiable=(0,),
        low=2e-2,
        loss=True,
        extremes=((np.array([0.0, 1e-20, 1e9]),),),
        bad=(
            _bad(TypeError, r"`kappa`.*int32", _Y),
            _bad(ValueError, r"`dim` must be at least 2, got 1", _ones(1), dim=1),
            _bad(TypeError, r"`dim` must be an integer, got float", _ones(1), dim=2.0),
        ),
    ),
    "vmf_mean_resultant": Contract(
        function=hypersphere.vmf_mean_resultant,
        samples=lambda rng: (rng.uniform(0.1, 20.0, 4),),
        kwargs={"dim": 5},
        differentiable=(0,),
        low=2e-2,
        loss=True,
        extremes=((np.array([0.0, 1e-20, 1e9]),),),
        bad=(
            _bad(TypeError, r"`kappa`.*int32", _Y),
            _bad(ValueError, r"`dim` must be at least 2, got 0", _ones(1), dim=0),
        ),
    ),
    "vmf_log_prob": Contract(
        function=hypersphere.vmf_log_prob,
        samples=lambda rng: (
            rng.standard_normal((5, 3)),
            rng.standard_normal((5, 3)),
            rng.uniform(0.1, 20.0, 5),
        ),
        differentiable=(0, 1, 2),
        mask=lambda: MASK,
        poisoned=(0, 1, 2),
        low=2e-1,
        loss=True,
        extremes=(
            (np.zeros((2, 3)), _ones(2, 3), np.array([0.0, 1e6])),
            (_ones(2, 3), _ones(1, 3), np.array([0.0, 1e9])),
        ),
        bad=(
            _bad(ValueError, r"`mean`.*\(2, 2\)", _X, _ones(2, 2), 1.0),
            _bad(ValueError, r"`kappa`.*\(2,\)", _X, _X, _ones(2)),
            _bad(ValueError, r"`embeddings`.*\(3, 1\)", _ones(3, 1), _ones(3, 1), 1.0),
        ),
    ),
    "vmf_fit": Contract(
        function=hypersphere.vmf_fit,
        samples=lambda rng: (rng.standard_normal((5, 3)) + 1.0,),
        differentiable=(0,),
        mask=lambda: MASK,
        poisoned=(0,),
        low=2e-1,
        loss=True,
        extremes=((np.zeros((2, 3)),), (np.array([[1.0, 0.0], [-1.0, 0.0]]),)),
        bad=(
            _bad(ValueError, r"`embeddings`.*\(3,\)", _ones(3)),
            _bad(ValueError, r"`embeddings`.*\(3, 1\)", _ones(3, 1)),
        ),
    ),
}

_GENUINE = np.array([True, False, True, False, True, False])


def _scores(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws scores that every precision holds, so that none of them changes places."""
    return rng.permutation(6) / 8.0, _GENUINE


def _scored(function: Any, **options: Any) -> Contract:
    """The row of a metric of scores; masks: tests/hypersphere/test_verification.py."""
    return Contract(
        function=function,
        samples=_scores,
        bad=(
            _bad(TypeError, r"`scores`.*int32", _Y, _Y == 0),
            _bad(ValueError, r"`is_genuine`.*\(2,\)", _X[:, 0], _Y[:2] == 0),
            _bad(TypeError, r"`is_genuine` must have dtype bool", _X[:, 0], _Y),
            *options.pop("bad", ()),
        ),
        **options,
    )


METRICS = {
    # Its first threshold is infinite, to which no tolerance can be relative.
    "roc_curve": _scored(hypersphere.roc_curve, low=None),
    "tar_at_far": _scored(hypersphere.tar_at_far, hyper={"far": (0.4, 0.01)}),
    "auc": _scored(hypersphere.auc),
    "equal_error_rate": _scored(hypersphere.equal_error_rate),
    "fold_accuracy": _scored(
        hypersphere.fold_accuracy,
        kwargs={"num_folds": 3},
        bad=(
            _bad(ValueError, r"`scores` must have shape \(N,\)", _X, _X > 0),
            _bad(ValueError, r"`num_folds`.*got 1", num_folds=1),
            _bad(ValueError, r"`scores`.*at least 7 entries", num_folds=7),
        ),
    ),
    "rank1_accuracy": Contract(
        function=hypersphere.rank1_accuracy,
        samples=lambda rng: (rng.standard_normal((5, 3)), LABELS),
        low=None,
        bad=(_bad(ValueError, r"`labels`.*\(2,\)", _X, _Y[:2]),),
    ),
    "one_shot_accuracy": Contract(
        function=hypersphere.one_shot_accuracy,
        samples=lambda rng: (
            rng.standard_normal((4, 3)),
            rng.standard_normal((3, 3)),
            np.array([0, 1, 2, 0]),
        ),
        low=None,
        bad=(
            _bad(ValueError, r"`gallery`.*\(2, 3\)", _X, _ones(2, 3), _Y),
            _bad(ValueError, r"`answers`.*\(2,\)", _X, _X, _Y[:2]),
            _bad(TypeError, r"`answers`.*float32", _X, _X, _X[:, 0]),
        ),
    ),
    "open_set_dir": Contract(
        function=hypersphere.open_set_dir,
        samples=lambda rng: (
            rng.permutation(15).reshape(5, 3) / 16.0,
            np.array([0, 1, 2, -1, 7]),
            np.array([0, 1, 2]),
        ),
        hyper={"fpir": (0.5, 0.01)},
        bad=(
            _bad(ValueError, r"`probe_labels`.*\(2,\)", _X, _Y[:2], _Y[:2]),
            _bad(ValueError, r"`gallery_labels`.*\(3,\)", _X, _Y, _Y),
            _bad(TypeError, r"`gallery_labels`.*float32", _X, _Y, _X[:2, 0]),
        ),
    ),
}

NOISE = {
    "flip_labels": Contract(
        function=hypersphere.flip_labels,
        samples=lambda rng: (rng.integers(-1, 3, 50),),
        kwargs={"num_classes": 3},
        hyper={"rate": (0.4, 0.1)},
        random=True,
        low=None,
        bad=(
            Bad(error=TypeError, match=r"`key`", args=(0, _Y)),
            Bad(
                error=ValueError,
                match=r"`num_classes` must be at least 2, got 1",
                kwargs={"num_classes": 1},
            ),
        ),
    ),
    "clean_label_probability": Contract(
        function=hypersphere.clean_label_probability,
        samples=lambda rng: (np.concatenate([rng.random(4), 1.5 + rng.random(3)]),),
        kwargs={"num_steps": 5},
        mask=lambda: np.array([True, True, True, False, True, True, True]),
        poisoned=(0,),
        loss=True,
        low=1e-1,
        extremes=((np.zeros(3),), (np.full(2, 3.0),), (np.array([0.0, 3.1]),)),
        bad=(
            _bad(ValueError, r"`angles` must have shape \(N,\)", _X),
            _bad(ValueError, r"`num_steps` must be at least 1, got 0", num_steps=0),
        ),
    ),
}


def _proxy_anchor(embeddings: Any, weights: Any, **options: Any) -> Any:
    return hypersphere.proxy_anchor_loss(embeddings, weights, LABELS, **options)


PROXIES = {
    "proxy_anchor_loss": Contract(
        function=_proxy_anchor,
        samples=lambda rng: (rng.standard_normal((5, 3)), rng.standard_normal((4, 3))),
        hyper={"scale": (4.0, 32.0), "margin": (0.1, 0.3)},
        differentiable=(0, 1),
        mask=lambda: MASK,
        poisoned=(0,),
        loss=True,
        extremes=(
            (np.zeros((5, 3)), np.zeros((4, 3))),
            (_ones(5, 3), _ones(4, 3)),
        ),
        bad=(
            _bad(ValueError, r"`class_weights`.*\(4, 2\)", _ones(5, 3), _ones(4, 2)),
            _bad(ValueError, r"`labels` must be -1 or.*\[0, 2\)", _X[:1], _ones(2, 2)),
            _bad(ValueError, r"`scale` must be positive, got 0", scale=0.0),
        ),
    ),
}

_ALL = {**PAIRS, **PROXIES, **DENSITIES, **METRICS, **NOISE}
# One of each kind is checked quickly, the others among the slow tests.
_QUICK = {"auc", "flip_labels", "proxy_anchor_loss", "vmf_log_normalizer"}
ROWS: dict[str, Contract] = {
    name if name in _QUICK else f"{name}:full": row for name, row in _ALL.items()
}
ELSEWHERE: dict[str, str] = {
    "EqualErrorRate": "a container: what equal_error_rate returns",
    "FlippedLabels": "a container: what flip_labels returns",
    "FoldAccuracy": "a container: what fold_accuracy returns",
    "OpenSetDir": "a container: what open_set_dir returns",
    "RocCurve": "a container: what roc_curve returns",
    "TarAtFar": "a container: what tar_at_far returns",
    "VonMisesFisher": "a container: what vmf_fit returns",
    "ntxent_loss": "that of jaxkit.ops",
}
