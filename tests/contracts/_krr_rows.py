"""Contract rows of distillation: kernel ridge regression, kernels and self-supervised losses."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxkit import distillation
from tests.contracts._contract import Bad, Contract

__all__ = ["ELSEWHERE", "ROWS"]


def _ones(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


def _normal(*shapes: tuple[int, ...]) -> Any:
    return lambda rng: tuple(rng.standard_normal(shape) for shape in shapes)


def _fit_sample(rng: np.random.Generator) -> tuple[Any, ...]:
    return *_normal((3, 4), (3, 2))(rng), 0.3


def _predict_sample(rng: np.random.Generator) -> tuple[Any, ...]:
    return *_normal((3, 4), (3, 2), (2, 4))(rng), 0.3


def _kernel_sample(rng: np.random.Generator) -> tuple[Any, ...]:
    root, y_s, k_ts = _normal((3, 5), (3, 2), (2, 3))(rng)
    return root @ root.T, y_s, k_ts, 0.3


_RIDGE_BAD = (
    Bad(
        error=ValueError,
        match=r"`ridge` must be positive, got 0",
        args=(_ones(3, 4), _ones(3, 2), _ones(2, 4), 0.0),
    ),
    Bad(
        error=ValueError,
        match=r"`ridge`.*got.* \(2,\)",
        args=(_ones(3, 4), _ones(3, 2), _ones(2, 4), _ones(2)),
    ),
    Bad(
        error=ValueError,
        match=r"`feat_s` and `y_s` must have as many rows, got \(3, 4\) and \(2, 2\)",
        args=(_ones(3, 4), _ones(2, 2), _ones(2, 4), 1.0),
    ),
    Bad(
        error=ValueError,
        match=r"`feat_s` must have at least 1 entries along axis 0, got shape \(0, 4\)",
        args=(_ones(0, 4), _ones(0, 2), _ones(2, 4), 1.0),
    ),
    Bad(
        error=TypeError,
        match=r"`feat_s`.*int32",
        args=(_ones(3, 4, dtype=np.int32), _ones(3, 2), _ones(2, 4), 1.0),
    ),
    Bad(
        error=ValueError,
        match=r"`method` must be one of 'auto'.*got 'lu'",
        kwargs={"method": "lu"},
    ),
)
_PREDICT_BAD = (
    Bad(
        error=ValueError,
        match=r"`feat_s` and `feat_t`.*columns, got \(3, 4\) and \(2, 5\)",
        args=(_ones(3, 4), _ones(3, 2), _ones(2, 5), 1.0),
    ),
    Bad(
        error=ValueError,
        match=r"`feat_t` must have at least 1 entries along axis 0, got shape \(0, 4\)",
        args=(_ones(3, 4), _ones(3, 2), _ones(0, 4), 1.0),
    ),
)


def _fit_bad(bad: Bad) -> Bad:
    """The same refusal of the function without `feat_t`."""
    args = None if bad.args is None else (*bad.args[:2], *bad.args[3:])
    return Bad(error=bad.error, match=bad.match, args=args, kwargs=bad.kwargs)


def _two_views_row(function: Any, **options: Any) -> Contract:
    """The row of a loss of two views, with four examples that may be masked."""
    return Contract(
        function=function,
        samples=_normal((4, 3), (4, 3)),
        differentiable=(0, 1),
        mask=lambda: np.array([True, True, False, True]),
        poisoned=(0, 1),
        loss=True,
        bad=(
            Bad(
                error=ValueError,
                match=r"`first` and `second`.*\(4, 3\) and \(3, 3\)",
                args=(_ones(4, 3), _ones(3, 3)),
            ),
            Bad(
                error=ValueError,
                match=r"`first` must have 2 axes, got shape \(4,\)",
                args=(_ones(4), _ones(4)),
            ),
            Bad(
                error=ValueError,
                match=r"`first` must hold at least 2 examples, got shape \(1, 3\)",
                args=(_ones(1, 3), _ones(1, 3)),
            ),
            Bad(
                error=TypeError,
                match=r"`second`.*int32",
                args=(_ones(4, 3), _ones(4, 3, dtype=np.int32)),
            ),
        ),
        **options,
    )


def _label_row(num_real: int) -> Contract:
    return Contract(
        function=distillation.label_solve,
        samples=lambda rng: (*_normal((3, 4), (num_real, 4), (num_real, 2))(rng), 0.3),
        hyper={"rcond": (1e-6, 1e-5)},
        differentiable=(0, 1, 2, 3),
        loss=True,
        low=0.1,
        bad=(
            Bad(
                error=ValueError,
                match=r"`ridge` must be positive, got 0",
                args=(_ones(3, 4), _ones(5, 4), _ones(5, 2), 0.0),
            ),
            Bad(
                error=ValueError,
                match=r"`feat_s` and `feat_t`.*columns, got \(3, 4\) and \(5, 3\)",
                args=(_ones(3, 4), _ones(5, 3), _ones(5, 2), 1.0),
            ),
            Bad(
                error=ValueError,
                match=r"`feat_t` and `y_t`.*rows, got \(5, 4\) and \(4, 2\)",
                args=(_ones(3, 4), _ones(5, 4), _ones(4, 2), 1.0),
            ),
        ),
    )


_PAIR_BAD = (
    Bad(
        error=ValueError,
        match=r"`x` and `y`.*columns, got \(2, 3\) and \(2, 4\)",
        args=(_ones(2, 3), _ones(2, 4)),
    ),
    Bad(
        error=ValueError,
        match=r"`x` must have at least 1 entries along axis 0, got shape \(0, 3\)",
        args=(_ones(0, 3), _ones(2, 3)),
    ),
    Bad(
        error=TypeError,
        match=r"`y`.*int32",
        args=(_ones(2, 3), _ones(2, 3, dtype=np.int32)),
    ),
)
_NETWORK_HYPER = {"weight_variance": (2.0, 1.5), "bias_variance": (0.01, 0.1)}


def _layers_bad(match: str, *layers: str) -> Bad:
    return Bad(error=ValueError, match=match, kwargs={"layers": layers})


def _conv_row(*layers: str, **options: Any) -> Contract:
    return Contract(
        function=distillation.conv_nngp_ntk,
        samples=_normal((2, 3, 2, 1), (1, 3, 2, 1)),
        kwargs={"layers": layers},
        hyper=_NETWORK_HYPER,
        differentiable=(0, 1),
        twice=False,
        loss=True,
        **options,
    )


_CONV_BAD = (
    Bad(
        error=ValueError,
        match=r"`x` must have 4 axes, got shape \(2, 3\)",
        args=(_ones(2, 3), _ones(2, 3)),
    ),
    Bad(
        error=ValueError,
        match=r"`x` and `y` must hold images of one shape, got \(2, 2, 1\)",
        args=(_ones(1, 2, 2, 1), _ones(1, 2, 3, 1)),
    ),
    Bad(
        error=TypeError,
        match=r"`x`.*uint8",
        args=(_ones(1, 2, 2, 1, dtype=np.uint8), _ones(1, 2, 2, 1)),
    ),
    _layers_bad(r"`layers\[1\]` must be one of 'conv'.*got 'tanh'", "conv", "tanh"),
    _layers_bad(r"'dense' after \"flatten\"", "conv", "dense"),
    _layers_bad(r"'conv' before \"flatten\"", "flatten", "conv"),
    _layers_bad(r"before each \"relu\"", "relu", "flatten"),
    _layers_bad(r"before each \"relu\"", "conv", "flatten", "relu"),
    _layers_bad(r"before each \"relu\"", "conv", "relu", "avg_pool", "relu", "flatten"),
    _layers_bad(r"must contain \"flatten\"", "conv", "relu"),
    _layers_bad(r"pool images of one pixel", "avg_pool", "avg_pool", "flatten"),
    Bad(
        error=ValueError,
        match=r"`tile_size` must be at least 1, got 0",
        kwargs={"tile_size": 0},
    ),
)


def _predict_row(method: str, bad: tuple[Bad, ...]) -> Contract:
    return Contract(
        function=distillation.ridge_predict,
        samples=_predict_sample,
        kwargs={"method": method},
        differentiable=(0, 1, 2, 3),
        loss=True,
        bad=bad,
    )


def _loss_row(**options: Any) -> Contract:
    return Contract(
        function=distillation.krr_loss,
        samples=_normal((3, 4), (3, 2), (4, 4), (4, 2)),
        kwargs=options,
        hyper={"coef": (1e-2, 1e-3)},
        differentiable=(0, 1, 2, 3),
        mask=lambda: np.array([True, False, True, False]),
        poisoned=(2, 3),
        loss=True,
        # Constant features: a Gram matrix of rank one.
        extremes=((_ones(3, 4), _ones(3, 2), _ones(4, 4), _ones(4, 2)),),
        bad=(
            Bad(
                error=ValueError,
                match=r"`y_s` and `y_t`.*columns, got \(3, 2\) and \(4, 1\)",
                args=(_ones(3, 4), _ones(3, 2), _ones(4, 4), _ones(4, 1)),
            ),
            Bad(
                error=ValueError,
                match=r"`feat_t` and `y_t`.*rows, got \(4, 4\) and \(3, 2\)",
                args=(_ones(3, 4), _ones(3, 2), _ones(4, 4), _ones(3, 2)),
            ),
            Bad(
                error=ValueError,
                match=r"`feat_t` must have at least 1 entries.*\(0, 4\)",
                args=(_ones(3, 4), _ones(3, 2), _ones(0, 4), _ones(0, 2)),
            ),
            Bad(
                error=ValueError,
                match=r"`scale` must be one of 'trace'.*got 'median'",
                kwargs={"scale": "median"},
            ),
            Bad(
                error=ValueError,
                match=r"`where` must broadcast to shape \(4,\), got \(2,\)",
                kwargs={"where": jnp.ones(2, bool)},
            ),
        ),
    )


ROWS: dict[str, Contract] = {
    "barlow_twins_loss": _two_views_row(
        distillation.barlow_twins_loss,
        hyper={"off_diagonal_weight": (0.0051, 0.1), "eps": (1e-5, 1e-3)},
        # A dead network: all examples alike.
        extremes=((_ones(4, 3), _ones(4, 3)),),
    ),
    # Compiling a ReLU of all pixels is slow.
    "conv_nngp_ntk": _conv_row("conv", "flatten", "dense", bad=_CONV_BAD),
    "conv_nngp_ntk:relu": _conv_row("conv", "relu", "flatten", "dense", bad=_CONV_BAD),
    "conv_nngp_ntk:pool": _conv_row(
        "conv",
        "relu",
        "avg_pool",
        "global_avg_pool",
        "dense",
        bad=_CONV_BAD,
        # Black images without bias, and images that are all alike.
        extremes=((np.zeros((2, 3, 2, 1)),) * 2, (_ones(2, 3, 2, 1),) * 2),
    ),
    "fc_nngp_ntk": Contract(
        function=distillation.fc_nngp_ntk,
        samples=_normal((2, 3), (2, 3)),
        hyper=_NETWORK_HYPER,
        differentiable=(0, 1),
        loss=True,
        extremes=(
            (np.zeros((2, 3)), np.zeros((2, 3))),
            (_ones(2, 3), _ones(2, 3)),
            (_ones(2, 3), -_ones(2, 3)),
            (1e-6 * _ones(2, 3), 1e6 * _ones(2, 3)),
            # The product of two variances is beyond float32.
            (1e-10 * _ones(2, 3), 1e-10 * _ones(2, 3)),
            (1e10 * _ones(2, 3), 1e10 * _ones(2, 3)),
        ),
        bad=(
            *_PAIR_BAD,
            Bad(
                error=ValueError,
                match=r"`depth` must be at least 0, got -1",
                kwargs={"depth": -1},
            ),
            Bad(
                error=ValueError,
                match=r"`tile_size` must be at least 1, got 0",
                kwargs={"tile_size": 0},
            ),
        ),
    ),
    "kernel_ridge_predict": Contract(
        function=distillation.kernel_ridge_predict,
        samples=_kernel_sample,
        # One triangle is read, so only symmetric directions have a derivative: see
        # tests/distillation/test_ridge.py.
        differentiable=(1, 2, 3),
        loss=True,
        bad=(
            Bad(
                error=ValueError,
                match=r"`k_ss` must have shape \(\.\.\., 2, 2\), got \(2, 3\)",
                args=(_ones(2, 3), _ones(2, 1), _ones(4, 3), 1.0),
            ),
            Bad(
                error=ValueError,
                match=r"`k_ss` and `k_ts`.*columns, got \(2, 2\) and \(4, 3\)",
                args=(_ones(2, 2), _ones(2, 1), _ones(4, 3), 1.0),
            ),
            Bad(
                error=ValueError,
                match=r"`ridge` must be positive, got -1",
                args=(_ones(2, 2), _ones(2, 1), _ones(4, 2), -1.0),
            ),
        ),
    ),
    "krr_fit": Contract(
        function=distillation.krr_fit,
        samples=_fit_sample,
        differentiable=(0, 1, 2),
        loss=True,
        bad=tuple(_fit_bad(bad) for bad in _RIDGE_BAD),
    ),
    # A ridge without gradient, the default: tests/distillation/test_ridge.py.
    "krr_loss": _loss_row(stop_gradient_ridge=False),
    "krr_loss:frepo": _loss_row(
        scale="mean_trace", bias=False, stop_gradient_ridge=False, method="cholesky"
    ),
    "label_solve": _label_row(5),
    # Fewer real examples than synthetic ones: many targets meet all.
    "label_solve:wide": _label_row(2),
    "linear_kernel": Contract(
        function=distillation.linear_kernel,
        samples=_normal((2, 3), (2, 3)),
        differentiable=(0, 1),
        loss=True,
        bad=_PAIR_BAD,
    ),
    "ntxent_loss": _two_views_row(
        distillation.ntxent_loss,
        hyper={"temperature": (0.5, 0.1)},
        extremes=(
            (np.zeros((4, 3)), np.zeros((4, 3))),
            (1e6 * _ones(4, 3), 1e-6 * _ones(4, 3)),
        ),
    ),
    "rbf_kernel": Contract(
        function=distillation.rbf_kernel,
        samples=_normal((2, 3), (2, 3)),
        hyper={"gamma": (1.0, 0.1)},
        differentiable=(0, 1),
        loss=True,
        extremes=(
            (_ones(2, 3), _ones(2, 3)),
            (1e6 * _ones(2, 3), -1e6 * _ones(2, 3)),
        ),
        bad=_PAIR_BAD,
    ),
    "ridge_from_trace": Contract(
        function=distillation.ridge_from_trace,
        samples=lambda rng: (rng.uniform(1.0, 2.0, 3),),
        kwargs={"scale": "mean_trace", "num_examples": 5},
        hyper={"coef": (0.1, 0.5)},
        differentiable=(0,),
        loss=True,
        bad=(
            Bad(
                error=ValueError,
                match=r"`scale` must be one of.*got 'median'",
                kwargs={"scale": "median"},
            ),
            Bad(
                error=ValueError,
                match=r"`num_examples` is needed",
                kwargs={"num_examples": None},
            ),
            Bad(
                error=ValueError,
                match=r"`num_examples` must be at least 1, got 0",
                kwargs={"num_examples": 0},
            ),
        ),
    ),
    "ridge_predict": _predict_row("auto", (*_RIDGE_BAD, *_PREDICT_BAD)),
    "ridge_predict:primal": _predict_row("primal", _PREDICT_BAD),
    "ridge_predict:qr": _predict_row("qr", _PREDICT_BAD),
    "ridge_predict:autodiff": _predict_row("autodiff", _PREDICT_BAD),
    "vicreg_loss": _two_views_row(
        distillation.vicreg_loss,
        hyper={
            "invariance_weight": (25.0, 10.0),
            "variance_weight": (25.0, 10.0),
            "covariance_weight": (1.0, 2.0),
            "eps": (1e-4, 1e-3),
        },
        extremes=((_ones(4, 3), _ones(4, 3)),),
    ),
}
ELSEWHERE: dict[str, str] = {
    "NetworkKernels": "a plain tuple of arrays",
    "random_feature_kernel": "takes a callable: tests/distillation/test_kernels.py",
}
