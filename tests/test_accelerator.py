"""Equality of the default device in float32 with the CPU in float64.

On a machine with a GPU or TPU, ``pytest -m gpu`` compares that device at full matrix
precision; elsewhere the same tests bound the error of float32 on the CPU.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import mesa, ops

pytestmark = [pytest.mark.gpu, pytest.mark.slow]
HIGHEST = jax.lax.Precision.HIGHEST


def compare(
    function: Callable[..., Any], args: tuple[np.ndarray, ...], tol: float
) -> None:
    """Compares value and gradient of `function` in the two precisions."""

    def scalar(*args: jax.Array) -> jax.Array:
        out = function(*args)
        weights = np.random.default_rng(9).standard_normal(out.shape)
        return jnp.sum(jnp.asarray(weights, out.real.dtype) * out.real)

    run = jax.value_and_grad(scalar, argnums=tuple(range(len(args))))
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        want = jax.jit(run)(*(jnp.asarray(a) for a in args))
        want = jax.tree.map(np.asarray, want)
    narrow = {np.dtype(np.complex128): np.complex64, np.dtype(float): np.float32}
    got = jax.jit(run)(*(jnp.asarray(a.astype(narrow[a.dtype])) for a in args))
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        scale = max(1.0, float(np.max(np.abs(w))))
        np.testing.assert_allclose(np.asarray(g), w, rtol=0, atol=tol * scale)


def attention_inputs(*, tokens: int = 200) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    query, key = rng.standard_normal((2, tokens, 2, 16)) / 4
    return query, key, rng.standard_normal((tokens, 2, 16))


@pytest.mark.parametrize("implementation", ["chunked", "parallel", "recurrent"])
@pytest.mark.parametrize("decayed", [False, True])
def test_linear_attention(implementation: str, decayed: bool):
    decay = np.log(0.97) * np.ones((200, 2), np.float32) if decayed else None

    def function(query, key, value):
        return ops.linear_attention(
            query,
            key,
            value,
            log_decay=decay if decay is None else jnp.asarray(decay, query.dtype),
            implementation=implementation,
            precision=HIGHEST,
        )

    compare(function, attention_inputs(), 5e-6)


@pytest.mark.parametrize("implementation", ["chunked", "recurrent"])
def test_delta_rule(implementation: str):
    def function(query, key, value):
        beta = jnp.full(key.shape[:-1], 0.5, key.dtype)
        return ops.delta_rule(
            query, key, value, beta, implementation=implementation, precision=HIGHEST
        )

    compare(function, attention_inputs(), 2e-5)


@pytest.mark.parametrize("solver", ["rls", "solve", "cg"])
def test_mesa_attention(solver: str):
    def function(query, key, value):
        return ops.mesa_attention(
            query, key, value, ridge=0.5, solver=solver, precision=HIGHEST
        )

    compare(function, attention_inputs(tokens=64), 5e-5)


def test_the_loss_of_the_layer_and_its_gradient():
    rng = np.random.default_rng(1)
    x = np.exp(2j * np.pi * rng.random((8, 3))[:, None, :] * np.arange(20)[:, None])
    x = x * rng.standard_normal((8, 1, 3))

    def function(kq, pv, x):
        return mesa.ar_loss(mesa.LSAParams(kq, pv), x, precision=HIGHEST)

    kq, pv = rng.standard_normal((6, 6)) / 6, rng.standard_normal((3, 6)) / 6
    compare(function, (kq, pv, x), 1e-5)


def test_the_population_loss_and_the_closed_form():
    rng = np.random.default_rng(2)
    moments = mesa.Moments(1.0, 3.0, 15.0, 12.0, 3.0, 1.0)
    a, b = rng.standard_normal((2, 5, 5)) / 5
    loss = lambda a, b: mesa.population_loss(a, b, moments, length=100)
    compare(loss, (a, b), 1e-5)
    times = np.linspace(0.0, 0.02, 7)
    flow = lambda a0, b0: jnp.stack(
        mesa.reduced_flow_solution(
            a0, b0, 1532.007318, 294.0, jnp.asarray(times, a0.dtype)
        )
    )
    for a0, b0 in ((0.1, 0.1), (0.5, 1.5), (0.5, -0.5)):
        compare(flow, (np.full(7, a0), np.full(7, b0)), 1e-5)


@pytest.mark.parametrize("vocab_axis", [0, 1])
@pytest.mark.parametrize("options", [{}, {"chunk_size": 300}, {"skip_masked": True}])
def test_log_probs_of_tokens(vocab_axis: int, options: dict[str, Any]):
    rng = np.random.default_rng(3)
    hidden, weight = rng.standard_normal((300, 32)), rng.standard_normal((1009, 32)) / 4
    labels = rng.integers(0, 1009, 300)

    def function(hidden, weight):
        out = ops.token_statistics(
            hidden,
            weight if vocab_axis == 0 else weight.T,
            jnp.asarray(labels, jnp.int32),
            vocab_axis=vocab_axis,
            logit_softcap=10.0,
            precision=HIGHEST,
            where=jnp.asarray(labels % 3 > 0),
            **options,
        )
        return jnp.stack(out[:3])

    compare(function, (hidden, weight), 1e-5)
