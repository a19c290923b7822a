"""Contract rows of hypersphere: the losses with class weights.

The losses share one core, so that one stands for all in the quick checks. Each also has a
full row, after a colon, among the slow ones; masks, poles and formulas of all of them are
in tests/hypersphere/test_family.py.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit import hypersphere
from tests.contracts._contract import Bad, Contract

__all__ = ["ELSEWHERE", "ROWS"]

LABELS = np.array([0, 2])


def _vectors(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    return rng.standard_normal((2, 3)), rng.standard_normal((3, 3))


def _problem(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    return *_vectors(rng), LABELS


def _centers(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    return rng.standard_normal((2, 3)), rng.standard_normal((3, 2, 3)), LABELS


# Parallel and opposite to the own class, beside a class of length zero; then zero and
# very long embeddings with very short and equal class weights.
_X, _W = np.eye(3)[[0, 0]], np.array([[1.0, 0, 0], [0, 0, 0], [-1.0, 0, 0]])
_FAR = np.array([[0.0, 0, 0], [1e15, 1e15, 0]])
_TWINS = np.array([[1e-15, 0, 0], [1.0, 1.0, 0], [1.0, 1.0, 0]])
_POLES = (_X, _W, LABELS)
_EXTREMES = (_POLES, (_FAR, _TWINS, LABELS))

_SMALL = (np.ones((2, 3), np.float32), np.ones((3, 3), np.float32), LABELS)
_X_BAD = Bad(
    error=ValueError,
    match=r"`embeddings` must have shape \(batch, dim\), got \(3,\)",
    args=(_SMALL[0][0], *_SMALL[1:]),
)
_W_BAD = Bad(
    error=ValueError,
    match=r"`class_weights` must have shape \(classes, 3\).*got \(3, 2\)",
    args=(_SMALL[0], _SMALL[1][:, :2], LABELS),
)
_Y_BAD = Bad(
    error=ValueError,
    match=r"`labels` must be -1 or lie in \[0, 3\), got 0 to 3",
    args=(*_SMALL[:2], LABELS + np.array([0, 1])),
)
_Y_KIND_BAD = Bad(
    error=TypeError,
    match=r"`labels` must have an integer dtype, got float32",
    args=(*_SMALL[:2], jnp.ones(2)),
)
_Y_SHAPE_BAD = Bad(
    error=ValueError,
    match=r"`labels` must have shape \(2,\).*got \(3,\)",
    args=(*_SMALL[:2], np.zeros(3, int)),
)
_WHERE_BAD = Bad(
    error=ValueError,
    match=r"`where` must broadcast to shape \(2,\), got \(3,\)",
    args=_SMALL,
    kwargs={"where": jnp.ones(3, bool)},
)


def _number_bad(name: str, value: float, words: str) -> Bad:
    return Bad(
        error=ValueError,
        match=rf"`{name}` must {words}, got",
        args=_SMALL,
        kwargs={name: value},
    )


_SCALE_BAD = _number_bad("scale", 0.0, "be positive")
_MARGIN_BAD = _number_bad("margin", 1.6, r"lie in \[0, 1.5708\)")
_SMOOTHING_BAD = _number_bad("label_smoothing", 1.0, r"lie in \[0, 1\)")

_FULL: dict[str, Contract] = {}


def _loss_row(
    function: Callable[..., jax.Array],
    *,
    bad: tuple[Bad, ...] = (),
    quick: bool = False,
    **options: Any,
) -> Contract:
    """The row of a loss with class weights; unless it is quick, the full one is slow."""
    defaults = {
        "samples": _problem,
        "hyper": {"scale": (8.0, 4.0)},
        "differentiable": (0, 1),
        "mask": lambda: np.array([True, False]),
        "poisoned": (0,),
        "loss": True,
        "low": 6e-2,
        "extremes": _EXTREMES,
    }
    refusals = (_X_BAD, _W_BAD, _Y_BAD, _Y_KIND_BAD, _Y_SHAPE_BAD, _WHERE_BAD, *bad)
    row = Contract(function=function, bad=refusals, **{**defaults, **options})
    if quick:
        return row
    _FULL[function.__name__ + ":full"] = dataclasses.replace(
        row,
        vmapped=(),
        mask=None,
        poisoned=(),
        extremes=(),
        bad=(bad or refusals)[:1],
    )
    return dataclasses.replace(
        row,
        hyper={},
        differentiable=(),
        vmapped=(),
        mask=None,
        poisoned=(),
        low=None,
        extremes=(),
    )


def _sface(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    def loss(
        embeddings: Any,
        class_weights: Any,
        labels: Any,
        *,
        where: Any = None,
        **hyper: Any,
    ) -> jax.Array:
        config = hypersphere.SFaceConfig(**hyper)
        return function(embeddings, class_weights, labels, config=config, where=where)

    loss.__name__ = function.__name__
    return loss


_SFACE_HYPER = {
    "scale": (8.0, 4.0),
    "intra_sharpness": (6.0, 10.0),
    "inter_sharpness": (5.0, 10.0),
    "intra_angle": (0.8, 0.7),
    "inter_angle": (1.4, 1.2),
}
_SFACE_BAD = (
    _SCALE_BAD,
    _number_bad("inter_sharpness", -1.0, "be positive"),
    _number_bad("intra_angle", 3.2, r"lie in \(0, 3.14159\)"),
    _number_bad("inter_angle", 0.0, r"lie in \(0, 3.14159\)"),
)
_BOUNDARY_BAD = Bad(
    error=ValueError,
    match=r"`boundary` must be one of 'linear'.*got 'hard'",
    args=_SMALL,
    kwargs={"boundary": "hard"},
)
_ARC_HYPER = {"scale": (8.0, 4.0), "margin": (0.5, 0.3)}


def _with_state(
    function: Callable[..., jax.Array], state: Callable[..., Any]
) -> Callable[..., jax.Array]:
    def loss(*args: Any, state_values: Any = (0.3, 0.2), **kwargs: Any) -> jax.Array:
        count = len(state._fields)
        return function(*args, state=state(*state_values[:count]), **kwargs)

    loss.__name__ = function.__name__
    return loss


def _config_loss(*args: Any, label_smoothing: Any = None, **kwargs: Any) -> jax.Array:
    config = hypersphere.MarginConfig(
        angle_factor=1.2,
        angle_margin=0.2,
        cosine_margin=0.1,
        boundary="clip",
        label_smoothing=label_smoothing,
        scale=kwargs.pop("scale", 8.0),
    )
    return hypersphere.hypersphere_loss(*args, config, **kwargs)


def _elastic(key: Any, *args: Any, **kwargs: Any) -> jax.Array:
    return hypersphere.elasticface_loss(key, *args, **kwargs)


def _with_key(bad: Bad) -> Bad:
    return dataclasses.replace(bad, args=(jax.random.key(0), *(bad.args or _SMALL)))


_KEYED = tuple(
    _with_key(bad) for bad in (_X_BAD, _W_BAD, _Y_BAD, _WHERE_BAD, _SCALE_BAD)
)
_THETA_BAD = (
    Bad(error=TypeError, match=r"`theta`.*int32", args=(np.ones(2, np.int32),)),
)
_COS_BAD = (Bad(error=TypeError, match=r"`cos`.*int32", args=(np.ones(2, np.int32),)),)


def _curve_row(
    function: Callable[..., Any], name: str, *, full: bool = False
) -> Contract:
    def curve(values: Any, **hyper: Any) -> Any:
        return function(values, hypersphere.SFaceConfig(**hyper))

    return Contract(
        function=curve,
        samples=lambda rng: (rng.uniform(-0.9, 0.9, (2, 3)) + (name == "theta"),),
        hyper=_SFACE_HYPER if full else {},
        differentiable=(0,) if full else (),
        vmapped=None if full else (),
        loss=True,
        low=6e-2 if full else None,
        extremes=((np.array([-1.0, 0.0, 1.0]),),) if full else (),
        bad=_THETA_BAD if name == "theta" else _COS_BAD,
    )


ROWS: dict[str, Contract] = {
    "adacos_init": Contract(
        function=hypersphere.adacos_init,
        samples=lambda rng: (5,),
        vmapped=(),
        low=None,
        bad=(Bad(error=ValueError, match=r"`num_classes`.*at least 3", args=(2,)),),
    ),
    "adacos_loss": _loss_row(
        hypersphere.adacos_loss,
        hyper={},
        bad=(
            Bad(
                error=ValueError,
                match=r"`class_weights` must hold at least 3 classes.*got 2",
                args=(_SMALL[0], _SMALL[1][:2], LABELS // 2),
            ),
        ),
    ),
    "adacos_update": Contract(
        function=lambda *args, **kwargs: hypersphere.adacos_update(
            hypersphere.AdaCosState(2.0), *args, **kwargs
        ),
        samples=_problem,
        vmapped=(),
        low=None,
        bad=(_X_BAD, _W_BAD, _Y_BAD, _WHERE_BAD),
    ),
    "adaface_init": Contract(
        function=hypersphere.adaface_init, samples=lambda rng: (), vmapped=(), low=None
    ),
    "adaface_loss": _loss_row(
        _with_state(hypersphere.adaface_loss, hypersphere.AdaFaceState),
        hyper={"scale": (8.0, 4.0), "margin": (0.4, 0.3), "concentration": (0.3, 0.4)},
        # The margin follows the length of the embedding, but is not differentiated.
        differentiable=(1,),
        bad=(_SCALE_BAD, _MARGIN_BAD),
    ),
    "adaface_update": Contract(
        function=lambda x, y, **kwargs: hypersphere.adaface_update(
            hypersphere.AdaFaceState(2.0, 1.0), x, y, **kwargs
        ),
        samples=lambda rng: (rng.standard_normal((2, 3)), LABELS),
        hyper={"momentum": (0.5, 0.1)},
        vmapped=(),
        low=None,
        bad=(
            Bad(
                error=ValueError,
                match=r"`momentum` must lie in \[0, 1\], got 2",
                args=(_SMALL[0], LABELS),
                kwargs={"momentum": 2.0},
            ),
        ),
    ),
    "arcface_loss": _loss_row(
        hypersphere.arcface_loss,
        quick=True,
        hyper={**_ARC_HYPER, "label_smoothing": (0.1, 0.0)},
        extremes=(),
        bad=(_SCALE_BAD, _MARGIN_BAD, _SMOOTHING_BAD, _BOUNDARY_BAD),
    ),
    "arcface_loss:easy": _loss_row(
        hypersphere.arcface_loss, quick=True, kwargs={"boundary": "easy"}
    ),
    "arcface_loss:none": _loss_row(
        hypersphere.arcface_loss, quick=True, kwargs={"boundary": "none"}
    ),
    "circle_class_loss": _loss_row(
        hypersphere.circle_class_loss,
        differentiable=(),
        bad=(_SCALE_BAD, _number_bad("margin", -0.1, "be at least 0")),
    ),
    "combined_margin_loss": _loss_row(
        hypersphere.combined_margin_loss,
        hyper={
            "scale": (8.0, 4.0),
            "angle_factor": (1.2, 1.0),
            "angle_margin": (0.3, 0.2),
            "cosine_margin": (0.2, 0.1),
        },
        bad=(
            _number_bad("angle_factor", 0.9, "be at least 1"),
            Bad(
                error=ValueError,
                match=r"`boundary` must be 'clip' or 'none' with an `angle_factor`",
                args=_SMALL,
                kwargs={"boundary": "linear", "angle_factor": 1.1},
            ),
        ),
    ),
    "cosface_loss": _loss_row(
        hypersphere.cosface_loss,
        hyper={
            "scale": (8.0, 4.0),
            "margin": (0.35, 0.2),
            "filter_threshold": (0.4, 0.5),
        },
        bad=(_SCALE_BAD, _number_bad("margin", -0.1, "be at least 0")),
    ),
    "cosine_similarity_matrix": Contract(
        function=hypersphere.cosine_similarity_matrix,
        samples=_vectors,
        differentiable=(0, 1),
        loss=True,
        bad=(
            dataclasses.replace(_X_BAD, args=(_SMALL[0][0], _SMALL[1])),
            dataclasses.replace(_W_BAD, args=(_SMALL[0], _SMALL[1][:, :2])),
            Bad(
                error=TypeError,
                match=r"`compute_dtype` must have a real floating dtype, got int8",
                args=_SMALL[:2],
                kwargs={"compute_dtype": jnp.int8},
            ),
        ),
    ),
    "curricularface_init": Contract(
        function=hypersphere.curricularface_init,
        samples=lambda rng: (),
        vmapped=(),
        low=None,
    ),
    "curricularface_loss": _loss_row(
        _with_state(hypersphere.curricularface_loss, hypersphere.CurricularFaceState),
        hyper=_ARC_HYPER,
        bad=(_SCALE_BAD, _MARGIN_BAD),
    ),
    "curricularface_update": Contract(
        function=lambda *args, **kwargs: hypersphere.curricularface_update(
            hypersphere.CurricularFaceState(0.5), *args, **kwargs
        ),
        samples=_problem,
        hyper={"momentum": (0.5, 0.1)},
        vmapped=(),
        low=None,
        bad=(_X_BAD, _W_BAD, _Y_BAD, _number_bad("momentum", -1.0, r"lie in \[0, 1\]")),
    ),
    "d_softmax_loss": _loss_row(
        hypersphere.d_softmax_loss,
        hyper={"scale": (8.0, 4.0), "target": (0.9, 0.8)},
        bad=(_SCALE_BAD, _number_bad("target", 1.1, r"lie in \[-1, 1\]")),
    ),
    "elasticface_loss": Contract(
        function=_elastic,
        samples=_problem,
        random=True,
        vmapped=(),
        low=None,
        bad=(
            *_KEYED,
            _with_key(
                Bad(
                    error=ValueError,
                    match=r"`on` must be one of 'angle', 'cosine', got 'sine'",
                    args=_SMALL,
                    kwargs={"on": "sine"},
                )
            ),
            Bad(error=TypeError, match=r"`key` must be a typed key", args=(0, *_SMALL)),
        ),
    ),
    "elasticface_loss:ranked": Contract(
        function=_elastic,
        samples=_problem,
        kwargs={"ranked": True, "on": "cosine"},
        hyper={"scale": (8.0, 4.0), "margin": (0.3, 0.2), "margin_std": (0.1, 0.2)},
        random=True,
        differentiable=(1, 2),
        vmapped=(1, 2, 3),
        loss=True,
        low=6e-2,
        bad=_KEYED[:1],
    ),
    "hypersphere_loss": _loss_row(
        _config_loss,
        hyper={"scale": (8.0, 4.0), "label_smoothing": (0.1, 0.0)},
        bad=(_SCALE_BAD, _SMOOTHING_BAD),
    ),
    "magface_loss": _loss_row(
        hypersphere.magface_loss,
        hyper={
            "scale": (8.0, 4.0),
            "min_norm": (0.5, 0.6),
            "max_norm": (4.0, 5.0),
            "min_margin": (0.3, 0.2),
            "max_margin": (0.6, 0.5),
            "norm_weight": (2.0, 1.0),
        },
        bad=(
            _SCALE_BAD,
            _number_bad("max_margin", 1.6, r"lie in \[0, 1.5708\)"),
            _number_bad("norm_weight", -1.0, "be at least 0"),
            Bad(
                error=ValueError,
                match=r"`max_norm` must be above 10.0, got 9.0",
                args=_SMALL,
                kwargs={"max_norm": 9.0},
            ),
        ),
    ),
    "normface_loss": _loss_row(
        hypersphere.normface_loss, bad=(_SCALE_BAD, _SMOOTHING_BAD)
    ),
    "sface_cosine_loss": _loss_row(
        _sface(hypersphere.sface_cosine_loss), hyper=_SFACE_HYPER, bad=_SFACE_BAD
    ),
    "sface_force": _curve_row(hypersphere.sface_force, "theta"),
    "sface_force:full": _curve_row(hypersphere.sface_force, "theta", full=True),
    "sface_inter_potential": _curve_row(hypersphere.sface_inter_potential, "cos"),
    "sface_inter_potential:full": _curve_row(
        hypersphere.sface_inter_potential, "cos", full=True
    ),
    "sface_intra_potential": _curve_row(hypersphere.sface_intra_potential, "cos"),
    "sface_intra_potential:full": _curve_row(
        hypersphere.sface_intra_potential, "cos", full=True
    ),
    # The gates are constants for the derivative: no finite difference shows it.
    "sface_loss": _loss_row(
        _sface(hypersphere.sface_loss),
        hyper=_SFACE_HYPER,
        differentiable=(),
        bad=_SFACE_BAD,
    ),
    "sface_potential_loss": _loss_row(
        _sface(hypersphere.sface_potential_loss),
        hyper=_SFACE_HYPER,
        bad=_SFACE_BAD,
    ),
    "sface_rescale": _curve_row(hypersphere.sface_rescale, "theta"),
    "sface_rescale:full": _curve_row(hypersphere.sface_rescale, "theta", full=True),
    "softmax_loss": _loss_row(
        hypersphere.softmax_loss,
        hyper={"label_smoothing": (0.1, 0.0)},
        bad=(_SMOOTHING_BAD,),
    ),
    "sphereface2_initial_bias": Contract(
        function=hypersphere.sphereface2_initial_bias,
        samples=lambda rng: (5,),
        vmapped=(),
        low=None,
        bad=(
            Bad(error=ValueError, match=r"`num_classes`.*at least 2", args=(1,)),
            Bad(
                error=ValueError,
                match=r"`positive_weight` must lie in \(0, 1\)",
                args=(5,),
                kwargs={"positive_weight": 1.0},
            ),
        ),
    ),
    "sphereface2_loss": _loss_row(
        hypersphere.sphereface2_loss,
        hyper={
            "scale": (8.0, 4.0),
            "margin": (0.4, 0.3),
            "positive_weight": (0.7, 0.6),
            "exponent": (3.0, 2.0),
            "loss_weight": (5.0, 1.0),
            "bias": (0.1, 0.2),
        },
        # The derivative is that without the power.
        differentiable=(),
        bad=(_SCALE_BAD, _number_bad("positive_weight", 0.0, r"lie in \(0, 1\)")),
    ),
    "sphereface_annealing": Contract(
        function=hypersphere.sphereface_annealing,
        samples=lambda rng: (rng.uniform(0.0, 100.0, (2, 3)),),
        hyper={"start": (1000.0, 100.0), "end": (5.0, 4.0), "decay": (0.12, 0.2)},
        vmapped=(),
        low=None,
        bad=(Bad(error=TypeError, match=r"`step`.*complex", args=(1j,)),),
    ),
    "sphereface_loss": _loss_row(
        hypersphere.sphereface_loss,
        hyper={"margin": (4.0, 3.0), "annealing": (5.0, 0.0)},
        bad=(_number_bad("margin", 0.5, "be at least 1"), _SCALE_BAD),
    ),
    "subcenter_arcface_loss": _loss_row(
        hypersphere.subcenter_arcface_loss,
        samples=_centers,
        extremes=(),
        hyper=_ARC_HYPER,
    ),
    "target_angle": Contract(
        function=hypersphere.target_angle,
        samples=_problem,
        differentiable=(0, 1),
        mask=lambda: np.array([True, False]),
        poisoned=(0,),
        loss=True,
        low=None,
        bad=(_X_BAD, _W_BAD, _Y_BAD, _Y_KIND_BAD, _Y_SHAPE_BAD, _WHERE_BAD),
    ),
}
# Sub-centers need a third axis, and say so before anything else.
ROWS["subcenter_arcface_loss"] = dataclasses.replace(
    ROWS["subcenter_arcface_loss"],
    bad=(
        Bad(
            error=ValueError,
            match=r"`class_weights` must have shape \(classes, centers, dim\), got \(3, 3\)",
            args=_SMALL,
        ),
    ),
)
_FULL["subcenter_arcface_loss:full"] = dataclasses.replace(
    _FULL["subcenter_arcface_loss:full"], bad=ROWS["subcenter_arcface_loss"].bad
)
_FULL["hypersphere_loss:full"] = _FULL.pop("_config_loss:full")
ROWS |= _FULL

_CONFIG = "a configuration: tests/hypersphere/test_reference_values.py"
ELSEWHERE: dict[str, str] = {
    "AdaCosConfig": _CONFIG,
    "AdaCosState": "a container: tests/hypersphere/test_states.py",
    "AdaFaceConfig": _CONFIG,
    "AdaFaceState": "a container: tests/hypersphere/test_states.py",
    "CircleClassConfig": _CONFIG,
    "CurricularFaceConfig": _CONFIG,
    "CurricularFaceState": "a container: tests/hypersphere/test_states.py",
    "DSoftmaxConfig": _CONFIG,
    "ElasticFaceConfig": _CONFIG,
    "IntraInter": "a container: tests/hypersphere/test_potential.py",
    "MagFaceConfig": _CONFIG,
    "MarginConfig": _CONFIG,
    "SFaceConfig": _CONFIG,
    "SoftmaxConfig": _CONFIG,
    "SphereFace2Config": _CONFIG,
    "SphereFaceConfig": _CONFIG,
    "TargetAngle": "a container: tests/hypersphere/test_geometry.py",
    "l2_normalize": "that of jaxkit.ops: tests/contracts/_ops_rows.py",
}
