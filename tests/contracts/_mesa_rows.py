"""Contract rows of jaxkit.mesa."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit import mesa
from tests.contracts._contract import Bad, Contract, complex_normal

__all__ = ["ELSEWHERE", "ROWS"]

DIM = 2
LENGTH = 6


def _moments(rng: np.random.Generator) -> mesa.Moments:
    return mesa.Moments(*rng.uniform(0.5, 2.0, 6))


def _params(rng: np.random.Generator, dim: int = DIM) -> mesa.LSAParams:
    return mesa.LSAParams(
        kq=rng.standard_normal((2 * dim, 2 * dim)) / 2,
        pv=rng.standard_normal((dim, 2 * dim)) / 2,
    )


def _blocks(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return rng.standard_normal((3, 3)), rng.standard_normal((3, 3))


def _few_shot(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    return (
        rng.standard_normal((4, DIM)),
        rng.standard_normal(4),
        rng.standard_normal(DIM),
    )


def _covariance(rng: np.random.Generator) -> np.ndarray:
    root = rng.standard_normal((DIM, DIM))
    return root @ root.T + np.eye(DIM)


def _ones(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


def _zero_params(dim: int = DIM) -> mesa.LSAParams:
    return mesa.LSAParams(np.zeros((2 * dim, 2 * dim)), np.zeros((dim, 2 * dim)))


_HALF_ZERO = mesa.Moments(*np.full(6, 0.5))
_DEGENERATE = mesa.Moments(*np.zeros(6, np.float32))


def _law(function: Any) -> Contract:
    """The row of one of the moment constructors."""
    return Contract(
        function=lambda scale, dim=3: function(dim, scale=scale),
        samples=lambda rng: (rng.uniform(0.5, 1.5, (2,)),),
        differentiable=(0,),
        loss=True,
        low=6e-2,
        extremes=((np.zeros(2),),),
        bad=(
            Bad(
                error=ValueError,
                match=r"`dim` must be at least 1, got 0",
                kwargs={"dim": 0},
            ),
            Bad(
                error=TypeError,
                match=r"`scale`.*complex64",
                args=(_ones(2, dtype=np.complex64),),
            ),
        ),
    )


_SEQUENCES_BAD = (
    Bad(
        error=ValueError,
        match=r"`x` must have at least 3 entries along axis -2, got shape \(2, 2\)",
        args=(_zero_params(), _ones(2, 2, dtype=np.complex64)),
    ),
    Bad(
        error=ValueError,
        match=r"`params.kq` must have shape \(6, 6\).*got \(4, 4\)",
        args=(_zero_params(), _ones(4, 3, dtype=np.complex64)),
    ),
    Bad(
        error=ValueError,
        match=r"`x` must not be empty, got shape \(0, 4, 2\)",
        args=(_zero_params(), _ones(0, 4, 2, dtype=np.complex64)),
    ),
    Bad(
        error=TypeError,
        match=r"`x`.*int32",
        args=(_zero_params(), _ones(4, 2, dtype=np.int32)),
    ),
    Bad(
        error=ValueError,
        match=r"`implementation` must be one of.*got 'loop'",
        kwargs={"implementation": "loop"},
    ),
)
_LENGTH_BAD = Bad(
    error=ValueError, match=r"`length` must be at least 3, got 2", kwargs={"length": 2}
)
_NOISE_BAD = Bad(
    error=ValueError,
    match=r"`num_examples` must be at least 1, got 0",
    kwargs={"num_examples": 0},
)

ROWS = {
    "ar_loss": Contract(
        function=mesa.ar_loss,
        samples=lambda rng: (_params(rng), complex_normal(rng, 3, LENGTH, DIM)),
        differentiable=(0, 1),
        mask=lambda: np.array([True, False, True]),
        poisoned=(1,),
        loss=True,
        low=6e-2,
        extremes=(
            (_zero_params(), np.zeros((1, 4, DIM), np.complex64)),
            (_zero_params(), np.full((1, 4, DIM), 1e9, np.complex64)),
        ),
        bad=(
            *_SEQUENCES_BAD,
            Bad(
                error=ValueError,
                match=r"`where` must broadcast to shape \(3,\), got \(2,\)",
                kwargs={"where": jnp.ones(2, bool)},
            ),
        ),
    ),
    "ar_sequences": Contract(
        function=mesa.ar_sequences,
        samples=lambda rng: (
            rng.standard_normal((2, DIM)),
            np.exp(1j * rng.standard_normal((2, DIM))),
        ),
        kwargs={"length": LENGTH},
        differentiable=(0, 1),
        bad=(
            Bad(
                error=ValueError,
                match=r"`length` must be at least 1, got 0",
                kwargs={"length": 0},
            ),
        ),
    ),
    "asymptotic_risk": Contract(
        function=mesa.asymptotic_risk,
        samples=lambda rng: (_moments(rng),),
        differentiable=(0,),
        loss=True,
        low=6e-2,
        extremes=((_HALF_ZERO,),),
        bad=(
            Bad(
                error=ValueError,
                match=r"`moments.m2` must be positive, got 0",
                args=(_DEGENERATE,),
            ),
        ),
    ),
    "balance": Contract(
        function=mesa.balance,
        samples=lambda rng: (_params(rng),),
        differentiable=(0,),
        loss=True,
        low=6e-2,
        extremes=((_zero_params(),),),
        bad=(
            Bad(
                error=TypeError,
                match=r"`kq`.*int32",
                args=(mesa.LSAParams(_ones(4, 4, dtype=np.int32), _ones(2, 4)),),
            ),
        ),
    ),
    "check_emergence_moments": Contract(
        function=mesa.check_emergence_moments,
        samples=lambda rng: (rng.standard_normal((50, 3)),),
        hyper={"tol": (6.0, 3.0)},
        # The verdict compares a z-score with a threshold: rounding may turn it.
        low=None,
        bad=(
            Bad(
                error=ValueError,
                match=r"`samples`.*got \(3,\)",
                args=(_ones(3),),
            ),
        ),
    ),
    "context_risk": Contract(
        function=mesa.context_risk,
        samples=lambda rng: (
            _moments(rng),
            rng.uniform(0.1, 0.5, (4,)),
            rng.uniform(2.0, 9.0, (4,)),
        ),
        differentiable=(0, 1, 2),
        loss=True,
        low=6e-2,
        extremes=((_HALF_ZERO, np.zeros(1), np.full(1, 2.0)),),
        bad=(
            Bad(
                error=TypeError,
                match=r"`product`.*complex64",
                args=(_HALF_ZERO, _ones(1, dtype=np.complex64), _ones(1)),
            ),
        ),
    ),
    "diagonal_loss": Contract(
        function=mesa.diagonal_loss,
        samples=lambda rng: (
            rng.standard_normal(3),
            rng.standard_normal(3),
            _moments(rng),
        ),
        kwargs={"length": LENGTH, "dim": DIM},
        differentiable=(0, 1, 2),
        loss=True,
        low=6e-2,
        bad=(
            _LENGTH_BAD,
            Bad(
                error=ValueError,
                match=r"`dim` must be at least 1, got 0",
                kwargs={"dim": 0},
            ),
        ),
    ),
    "embed_ar": Contract(
        function=mesa.embed_ar,
        samples=lambda rng: (complex_normal(rng, LENGTH, DIM),),
        differentiable=(0,),
        bad=(
            Bad(error=ValueError, match=r"`x`.*got shape \(3,\)", args=(_ones(3),)),
            Bad(error=TypeError, match=r"`x`.*int32", args=(np.ones((3, 2), int),)),
        ),
    ),
    "empirical_moments": Contract(
        function=mesa.empirical_moments,
        samples=lambda rng: (rng.uniform(-1.0, 1.0, (20, 3)),),
        differentiable=(0,),
        loss=True,
        extremes=((np.zeros((2, 1)),),),
        bad=(
            Bad(
                error=ValueError,
                match=r"`samples` must have shape.*got \(3,\)",
                args=(_ones(3),),
            ),
        ),
    ),
    "expected_ratio": Contract(
        function=mesa.expected_ratio,
        samples=lambda rng: (_moments(rng), rng.uniform(0.1, 0.5, (4,))),
        differentiable=(0, 1),
        loss=True,
        bad=(
            Bad(
                error=TypeError,
                match=r"`product`.*complex64",
                args=(_HALF_ZERO, _ones(1, dtype=np.complex64)),
            ),
        ),
    ),
    "few_shot_gamma": Contract(
        function=mesa.few_shot_gamma,
        samples=lambda rng: (_covariance(rng),),
        kwargs={"num_examples": 4},
        hyper={"noise_variance": (0.5, 1.0)},
        differentiable=(0,),
        loss=True,
        bad=(
            _NOISE_BAD,
            Bad(
                error=ValueError,
                match=r"`covariance`.*got \(2, 3\)",
                args=(_ones(2, 3),),
            ),
        ),
    ),
    "few_shot_gradient_descent": Contract(
        function=lambda x, y, a, b, **kw: mesa.few_shot_gradient_descent(
            x, y, preconditioners=a, transforms=b, **kw
        ),
        samples=lambda rng: (
            *_few_shot(rng)[:2],
            rng.standard_normal((2, DIM, DIM)) / 4,
            rng.standard_normal((2, DIM, DIM)) / 4,
        ),
        differentiable=(0, 1, 2, 3),
        loss=True,
        low=6e-2,
        bad=(
            Bad(
                error=ValueError,
                match=r"`targets`.*got \(3,\)",
                args=(_ones(4, 2), _ones(3), _ones(1, 2, 2), _ones(1, 2, 2)),
            ),
        ),
    ),
    "few_shot_layers_predict": Contract(
        function=lambda x, y, q, a, b, **kw: mesa.few_shot_layers_predict(
            x, y, q, preconditioners=a, transforms=b, **kw
        ),
        samples=lambda rng: (
            *_few_shot(rng),
            rng.standard_normal((2, DIM, DIM)) / 4,
            rng.standard_normal((2, DIM, DIM)) / 4,
        ),
        differentiable=(0, 1, 2, 3, 4),
        loss=True,
        low=6e-2,
        bad=(
            Bad(
                error=ValueError,
                match=r"`preconditioners`.*got \(1, 3, 3\)",
                args=(
                    _ones(4, 2),
                    _ones(4),
                    _ones(2),
                    _ones(1, 3, 3),
                    _ones(1, 2, 2),
                ),
            ),
        ),
    ),
    "few_shot_learning_rate": Contract(
        function=lambda noise, dim=3, **kw: mesa.few_shot_learning_rate(
            dim, noise_variance=noise, **kw
        ),
        samples=lambda rng: (rng.uniform(0.1, 1.0, (2,)),),
        kwargs={"num_examples": 4},
        differentiable=(0,),
        loss=True,
        bad=(_NOISE_BAD,),
    ),
    "few_shot_loss": Contract(
        function=mesa.few_shot_loss,
        samples=lambda rng: (rng.standard_normal((DIM, DIM)), _covariance(rng)),
        kwargs={"num_examples": 4},
        hyper={"noise_variance": (0.5, 1.0)},
        differentiable=(0, 1),
        loss=True,
        low=6e-2,
        extremes=((np.zeros((2, 2)), np.eye(2)),),
        bad=(
            _NOISE_BAD,
            Bad(
                error=ValueError,
                match=r"`preconditioner`.*got \(3, 3\)",
                args=(_ones(3, 3), _ones(2, 2)),
            ),
        ),
    ),
    "few_shot_lsa_params": Contract(
        function=mesa.few_shot_lsa_params,
        samples=lambda rng: (_covariance(rng),),
        # The inverse of a symmetric matrix, read from one triangle: generic
        # directions are no derivative of it. Its values are golden-tested.
        loss=True,
        low=6e-2,
        bad=(
            Bad(error=ValueError, match=r"`gamma`.*got \(2, 3\)", args=(_ones(2, 3),)),
        ),
    ),
    "few_shot_lsa_predict": Contract(
        function=mesa.few_shot_lsa_predict,
        samples=lambda rng: (
            rng.standard_normal((DIM + 1, DIM + 1)),
            rng.standard_normal((DIM + 1, DIM + 1)),
            *_few_shot(rng),
        ),
        differentiable=(0, 1, 2, 3, 4),
        loss=True,
        low=1e-1,
        bad=(
            Bad(
                error=ValueError,
                match=r"`kq`.*got \(2, 2\)",
                args=(_ones(2, 2), _ones(3, 3), _ones(4, 2), _ones(4), _ones(2)),
            ),
        ),
    ),
    "few_shot_optimal_loss": Contract(
        function=mesa.few_shot_optimal_loss,
        samples=lambda rng: (_covariance(rng),),
        kwargs={"num_examples": 4},
        hyper={"noise_variance": (0.5, 1.0)},
        loss=True,
        low=6e-2,
        bad=(
            _NOISE_BAD,
            Bad(
                error=ValueError,
                match=r"`covariance`.*got \(2, 3\)",
                args=(_ones(2, 3),),
            ),
        ),
    ),
    "few_shot_predict": Contract(
        function=mesa.few_shot_predict,
        samples=lambda rng: (rng.standard_normal((DIM, DIM)), *_few_shot(rng)),
        differentiable=(0, 1, 2, 3),
        loss=True,
        low=6e-2,
        bad=(
            Bad(
                error=ValueError,
                match=r"`query`.*got \(3,\)",
                args=(_ones(2, 2), _ones(4, 2), _ones(4), _ones(3)),
            ),
        ),
    ),
    "flow_constants": Contract(
        function=mesa.flow_constants,
        samples=lambda rng: (_moments(rng),),
        kwargs={"length": LENGTH},
        differentiable=(0,),
        loss=True,
        low=6e-2,
        extremes=((_DEGENERATE,),),
        bad=(_LENGTH_BAD,),
    ),
    "gaussian_moments": _law(mesa.gaussian_moments),
    "init_diagonal": Contract(
        function=lambda a, b, dim=DIM: mesa.init_diagonal(dim, a=a, b=b, dtype=a.dtype),
        samples=lambda rng: (rng.standard_normal(2), rng.standard_normal(2)),
        differentiable=(0, 1),
        bad=(
            Bad(
                error=ValueError,
                match=r"`dim` must be at least 1, got 0",
                kwargs={"dim": 0},
            ),
        ),
    ),
    "init_gaussian": Contract(
        function=lambda key, stddev, dim=DIM: mesa.init_gaussian(
            key, dim, stddev=stddev, dtype=stddev.dtype
        ),
        samples=lambda rng: (rng.uniform(0.5, 1.0, ()),),
        random=True,
        differentiable=(1,),
        low=None,
        bad=(
            Bad(
                error=TypeError,
                match=r"`key` must be a typed key.*uint32",
                args=(np.zeros(2, np.uint32), _ones()),
            ),
            Bad(
                error=ValueError,
                match=r"`dim` must be at least 1, got 0",
                args=(jax.random.key(0), _ones()),
                kwargs={"dim": 0},
            ),
        ),
    ),
    "limit_product": Contract(
        function=mesa.limit_product,
        samples=lambda rng: (_moments(rng),),
        kwargs={"length": LENGTH},
        differentiable=(0,),
        loss=True,
        low=6e-2,
        extremes=((_HALF_ZERO,),),
        bad=(
            _LENGTH_BAD,
            Bad(
                error=ValueError,
                match=r"`moments.k2` must be positive, got 0",
                args=(_DEGENERATE,),
            ),
        ),
    ),
    "lsa_predict": Contract(
        function=mesa.lsa_predict,
        samples=lambda rng: (_params(rng), complex_normal(rng, LENGTH, DIM)),
        differentiable=(0, 1),
        loss=True,
        low=6e-2,
        bad=_SEQUENCES_BAD,
    ),
    "ols_gradient_step": Contract(
        function=mesa.ols_gradient_step,
        samples=lambda rng: (complex_normal(rng, LENGTH, DIM),),
        hyper={"step_size": (0.2, 0.4)},
        differentiable=(0,),
        loss=True,
        low=6e-2,
        bad=(
            Bad(
                error=ValueError,
                match=r"`x` must have at least 3 entries",
                args=(_ones(2, 2),),
            ),
            Bad(
                error=ValueError,
                match=r"`initial`.*got \(3, 3\)",
                kwargs={"initial": _ones(3, 3)},
            ),
        ),
    ),
    "ones_moments": _law(mesa.ones_moments),
    "population_loss": Contract(
        function=mesa.population_loss,
        samples=lambda rng: (*_blocks(rng), _moments(rng)),
        kwargs={"length": LENGTH},
        differentiable=(0, 1, 2),
        loss=True,
        low=1e-1,
        extremes=((np.zeros((3, 3)), np.zeros((3, 3)), _HALF_ZERO),),
        bad=(
            _LENGTH_BAD,
            Bad(
                error=ValueError,
                match=r"`b`.*\(2, 2\)",
                args=(_ones(3, 3), _ones(2, 2), _HALF_ZERO),
            ),
            Bad(
                error=TypeError,
                match=r"`a`.*complex64",
                args=(_ones(2, 2, dtype=np.complex64), _ones(2, 2), _HALF_ZERO),
            ),
        ),
    ),
    "population_loss_diagonal": Contract(
        function=lambda a, b, m2, m4, m6, m24, **kw: mesa.population_loss_diagonal(
            a, b, m2=m2, m4=m4, m6=m6, m24=m24, **kw
        ),
        samples=lambda rng: (
            *rng.standard_normal((2, 3)),
            *rng.uniform(0.5, 2.0, (3, 3)),
            rng.uniform(0.5, 2.0, (3, 3)),
        ),
        kwargs={"length": LENGTH},
        differentiable=(0, 1, 2, 3, 4, 5),
        loss=True,
        low=6e-2,
        bad=(
            _LENGTH_BAD,
            Bad(
                error=ValueError,
                match=r"`m24`.*\(2, 2\)",
                args=(*(_ones(3),) * 5, _ones(2, 2)),
            ),
        ),
    ),
    "population_loss_general": Contract(
        function=mesa.population_loss_general,
        samples=lambda rng: (
            *rng.standard_normal((2, DIM, DIM)),
            mesa.PopulationTensor(
                quadratic=rng.standard_normal((DIM,) * 6),
                linear=rng.standard_normal((DIM,) * 4),
                constant=rng.standard_normal(()),
            ),
        ),
        differentiable=(0, 1, 2),
        loss=True,
        low=1e-1,
        bad=(
            Bad(
                error=ValueError,
                match=r"quadratic.*\(2, 2, 2\)",
                args=(
                    _ones(2, 2),
                    _ones(2, 2),
                    mesa.PopulationTensor(_ones(2, 2, 2), _ones(2, 2, 2, 2), _ones()),
                ),
            ),
        ),
    ),
    "project_diagonal": Contract(
        function=mesa.project_diagonal,
        samples=lambda rng: (_params(rng),),
        differentiable=(0,),
        bad=(
            Bad(
                error=ValueError,
                match=r"kq.*got \(3, 3\)|kq.*\(3, 3\)",
                args=(mesa.LSAParams(_ones(3, 3), _ones(2, 4)),),
            ),
        ),
    ),
    "rademacher_moments": _law(mesa.rademacher_moments),
    "reduced_flow_rhs": Contract(
        function=mesa.reduced_flow_rhs,
        samples=lambda rng: tuple(rng.uniform(0.5, 2.0, (4, 3))),
        differentiable=(0, 1, 2, 3),
        loss=True,
        low=6e-2,
        bad=(
            Bad(
                error=ValueError,
                match=r"broadcast.*`a` \(2,\), `b` \(3,\)",
                args=(_ones(2), _ones(3), _ones(), _ones()),
            ),
        ),
    ),
    "reduced_flow_solution": Contract(
        function=mesa.reduced_flow_solution,
        samples=lambda rng: tuple(rng.uniform(0.5, 2.0, (5, 3))),
        differentiable=(0, 1, 2, 3, 4),
        loss=True,
        low=6e-2,
        extremes=tuple(
            tuple(np.full(1, value) for value in (a0, b0, 1.5, 0.7, time))
            for a0, b0 in ((0.3, 0.3), (0.3, -0.3), (0.0, 0.0), (0.0, 0.4), (-1.0, 0.2))
            for time in (0.0, 1.0, 1e4)
        ),
        bad=(
            Bad(
                error=ValueError,
                match=r"`c1` must be positive, got 0",
                args=(_ones(), _ones(), np.float32(0.0), _ones(), _ones()),
            ),
        ),
    ),
    "sample_ar_sequences": Contract(
        function=lambda key, scale, **kw: mesa.sample_ar_sequences(
            key,
            scale=scale,
            dtype=jnp.complex128 if scale.dtype == jnp.float64 else jnp.complex64,
            **{"length": LENGTH, "dim": DIM, "batch_shape": (2,), **kw},
        ),
        samples=lambda rng: (rng.uniform(0.5, 1.0, ()),),
        random=True,
        differentiable=(1,),
        low=None,
        bad=(
            Bad(
                error=ValueError,
                match=r"`initial` must be one of.*got 'cauchy'",
                args=(jax.random.key(0), _ones()),
                kwargs={"initial": "cauchy"},
            ),
            Bad(
                error=TypeError,
                match=r"`key` must be a typed key",
                args=(np.zeros(2, np.uint32), _ones()),
            ),
        ),
    ),
    "sample_few_shot": Contract(
        function=mesa.sample_few_shot,
        samples=lambda rng: (_covariance(rng),),
        kwargs={"num_examples": 4, "batch_shape": (2,)},
        hyper={"noise_variance": (0.5, 1.0)},
        random=True,
        low=None,
        bad=(
            Bad(
                error=ValueError,
                match=r"`num_examples` must be at least 1, got 0",
                args=(jax.random.key(0), _ones(2, 2)),
                kwargs={"num_examples": 0},
            ),
        ),
    ),
    "sparse_moments": _law(mesa.sparse_moments),
    "uniform_moments": _law(mesa.uniform_moments),
}

ELSEWHERE = {
    "EmergenceReport": "a container: tests/mesa/test_emergence.py",
    "FewShotBatch": "a container: tests/mesa/test_few_shot.py",
    "LSAParams": "a container: tests/mesa/test_model.py",
    "MomentCheck": "a container: tests/mesa/test_emergence.py",
    "Moments": "a container: tests/mesa/test_moments.py",
    "PopulationTensor": "a container: tests/mesa/test_population.py",
    "Trajectory": "a container: tests/mesa/test_training.py",
    "conjugate_updates": "makes an optax transformation: tests/mesa/test_updates.py",
    "gradient_descent": "takes a callable: tests/mesa/test_training.py",
    "gradient_flow": "takes a callable: tests/mesa/test_training.py",
    "keep_diagonal_updates": "makes an optax transformation: tests/mesa/test_updates.py",
    "population_tensor": "runs on the host: tests/mesa/test_population.py",
    "quadrature_batch": "runs on the host: tests/mesa/test_quadrature.py",
}
