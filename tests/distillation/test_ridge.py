"""Ridge regression against exact fractions, NumPy and its own autodiff form."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxkit import distillation, ops

EXPLICIT = ("cholesky", "primal", "qr")
METHODS = (*EXPLICIT, "autodiff")
FEAT_S, FEAT_T = np.array([[1.0], [2.0]]), np.array([[3.0], [0.0]])
Y_S, Y_T = np.array([[1.0], [3.0]]), np.array([[5.0], [1.0]])


def problem(n: int, p: int, k: int, batch: int = 4) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(10 * n + p)
    shapes = ((n, p), (n, k), (batch, p))
    return tuple(rng.standard_normal(shape) for shape in shapes)


def cotangents(feat_s, y_s, feat_t, ridge, p_bar):
    """Value and all cotangents, by inverses."""
    inverse = np.linalg.inv(feat_s @ feat_s.T + ridge * np.eye(len(feat_s)))
    alpha = inverse @ y_s
    weights = feat_s.T @ alpha
    h = feat_t.T @ p_bar
    b = inverse @ feat_s @ h
    feat_bar = alpha @ (h - feat_s.T @ b).T - b @ weights.T
    return feat_t @ weights, feat_bar, b, p_bar @ weights.T, -np.sum(b * alpha)


@pytest.mark.parametrize("method", METHODS)
def test_example_in_fractions(x64: None, method: str):
    data = FEAT_S, Y_S, FEAT_T, Y_T

    def mean_loss(feat_s, y_s, bias, live):
        loss = distillation.krr_loss(
            *(feat_s, y_s, FEAT_T, Y_T),
            coef=1 / 7 if bias else 1 / 5,
            bias=bias,
            stop_gradient_ridge=not live,
            method=method,
        )
        return jnp.mean(loss)

    run = jax.jit(jax.value_and_grad(mean_loss, (0, 1)), static_argnums=(2, 3))
    value, (feat_bar, y_bar) = run(*data[:2], True, False)
    np.testing.assert_allclose(value, 29 / 18, rtol=1e-13)
    np.testing.assert_allclose(feat_bar[:, 0], [29 / 27, 29 / 27], rtol=1e-12)
    np.testing.assert_allclose(y_bar[:, 0], [-7 / 9, -5 / 3], rtol=1e-12)
    _, (feat_bar, y_bar) = run(*data[:2], True, True)
    np.testing.assert_allclose(feat_bar[:, 0], [83 / 63, 295 / 189], rtol=1e-12)
    np.testing.assert_allclose(y_bar[:, 0], [-7 / 9, -5 / 3], rtol=1e-12)
    value, (feat_bar, y_bar) = run(*data[:2], False, False)
    np.testing.assert_allclose(value, 13 / 8, rtol=1e-13)
    np.testing.assert_allclose(feat_bar[:, 0], [1, 5 / 4], rtol=1e-12)
    np.testing.assert_allclose(y_bar[:, 0], [-3 / 4, -3 / 2], rtol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("n", "p", "k"), [(3, 5, 2), (4, 4, 1), (6, 3, 2), (1, 3, 1)])
def test_value_and_cotangents_equal_numpy(
    x64: None, n: int, p: int, k: int, method: str
):
    feat_s, y_s, feat_t = problem(n, p, k)
    p_bar = np.random.default_rng(1).standard_normal((4, k))
    args = (*map(jnp.asarray, (feat_s, y_s, feat_t)), jnp.asarray(0.3))

    @jax.jit
    def both(*args):
        value, pull = jax.vjp(
            lambda *a: distillation.ridge_predict(*a, method=method), *args
        )
        return value, *pull(jnp.asarray(p_bar))

    want = cotangents(feat_s, y_s, feat_t, 0.3, p_bar)
    for a, b in zip(both(*args), want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_derivatives_of_both_modes(x64: None):
    # Second derivatives: the contract rows.
    args = (*map(jnp.asarray, problem(2, 3, 1, batch=2)), jnp.asarray(0.5))

    @jax.jit
    def all_methods(feat_s, y_s, feat_t, ridge):
        tall = jnp.concatenate([feat_s, feat_t]), jnp.concatenate([y_s, 2 * y_s])
        wide = feat_s, y_s
        return [
            distillation.ridge_predict(*given, feat_t, ridge, method=method)
            for given in (wide, tall)
            for method in EXPLICIT
        ]

    check_grads(all_methods, args, order=1, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("method", EXPLICIT)
def test_one_factorization_serves_value_and_gradient(method: str):
    args = (jnp.ones((3, 4)), jnp.ones((3, 2)), jnp.ones((2, 4)), jnp.ones(()))
    total = lambda *a: jnp.sum(distillation.ridge_predict(*a, method=method))
    program = str(jax.make_jaxpr(jax.value_and_grad(total, (0, 1, 2, 3)))(*args))
    count = lambda name: len(re.findall(rf"= {name}\b", program))
    assert count("cholesky") + count("qr") == 1
    assert count("triangular_solve") <= 4
    assert count("dot_general") <= 9


def relu_features(count: int, width: int) -> np.ndarray:
    """Two random layers on inputs of decaying variance, as of smooth images."""
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((count, 64)) / np.arange(1, 65)
    hidden = np.maximum(inputs @ rng.standard_normal((64, 256)) / 4, 0)
    return np.maximum(hidden @ rng.standard_normal((256, width)) / 16, 0)


def relative_errors(scale: str, num_s: int, width: int) -> dict[str, list[float]]:
    features = relu_features(num_s + 32, width)
    rng = np.random.default_rng(1)
    targets = features @ rng.standard_normal((width, 4)) / np.sqrt(width)
    y_s = targets[:num_s] + 0.1 * rng.standard_normal((num_s, 4))
    data = features[:num_s], y_s, features[num_s:], targets[num_s:]

    def gradients(method, dtype):
        loss = lambda *a: jnp.mean(
            distillation.krr_loss(*a, scale=scale, method=method)
        )
        args = [jnp.asarray(a, dtype) for a in data]
        return [
            np.asarray(g, np.float64) for g in jax.jit(jax.grad(loss, (0, 1)))(*args)
        ]

    exact = gradients("cholesky", jnp.float64)
    norm = np.linalg.norm
    return {
        method: [
            float(norm(got - want) / norm(want))
            for got, want in zip(gradients(method, jnp.float32), exact, strict=True)
        ]
        for method in EXPLICIT
    }


def test_float32_gradients_by_qr(x64: None):
    # More examples than features: the condition number is that of the ridge, 6e5.
    errors = relative_errors("trace", 100, 40)
    assert max(errors["qr"]) < 1e-4
    assert min(errors["cholesky"]) > 3e-3


def test_a_ridge_below_rounding_is_solved_by_qr(x64: None):
    # The condition number, 6e7, is more than float32 can factorize.
    errors = relative_errors("mean_trace", 100, 40)
    assert max(errors["qr"]) < 1e-4
    assert not np.isfinite(errors["cholesky"]).all()


@pytest.mark.parametrize("scale", ["trace", "mean_trace", "absolute"])
def test_conventions_of_the_family(x64: None, scale: str):
    rng = np.random.default_rng(2)
    feat_s, y_s, feat_t = problem(3, 4, 2)
    y_t = rng.standard_normal((4, 2))
    loss = distillation.krr_loss(
        *(feat_s, y_s, feat_t, y_t), coef=0.2, scale=scale, bias=False
    )
    trace = np.sum(feat_s**2)
    ridge = {"trace": 0.2 * trace, "mean_trace": 0.2 * trace / 3, "absolute": 0.2}[
        scale
    ]
    predicted = cotangents(feat_s, y_s, feat_t, ridge, np.zeros((4, 2)))[0]
    np.testing.assert_allclose(loss, ((predicted - y_t) ** 2).mean(1), rtol=1e-11)
    # FRePo: half the sum over outputs, of each example.
    half_sum = 0.5 * ((predicted - y_t) ** 2).sum(1).mean()
    np.testing.assert_allclose(y_t.shape[1] / 2 * loss.mean(), half_sum, rtol=1e-11)


def test_the_bias_is_a_column_of_ones(x64: None):
    feat_s, y_s, feat_t = problem(3, 4, 2)
    y_t = np.zeros((4, 2))
    ones = lambda a: np.concatenate([a, np.ones((len(a), 1))], axis=1)
    with_bias = distillation.krr_loss(feat_s, y_s, feat_t, y_t)
    by_hand = distillation.krr_loss(ones(feat_s), y_s, ones(feat_t), y_t, bias=False)
    np.testing.assert_allclose(with_bias, by_hand, rtol=1e-12)


def test_any_kernel_gives_the_regression_on_its_features(x64: None):
    feat_s, y_s, feat_t = (jnp.asarray(a) for a in problem(3, 5, 2))

    def by_kernel(feat_s, y_s, feat_t, ridge):
        k_ss, k_ts = feat_s @ feat_s.T, feat_t @ feat_s.T
        return jnp.sum(
            jnp.sin(distillation.kernel_ridge_predict(k_ss, y_s, k_ts, ridge))
        )

    def by_features(*args):
        return jnp.sum(jnp.sin(distillation.ridge_predict(*args)))

    point = feat_s, y_s, feat_t, jnp.asarray(0.3)
    both = [
        jax.jit(jax.value_and_grad(f, (0, 1, 2, 3)))(*point)
        for f in (by_kernel, by_features)
    ]
    for a, b in zip(*map(jax.tree.leaves, both), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_a_traced_ridge_that_is_not_positive_gives_nan():
    feat_s, y_s, feat_t = (a.astype(np.float32) for a in problem(2, 3, 1))
    run = jax.jit(
        lambda ridge: [
            *(
                distillation.ridge_predict(feat_s, y_s, feat_t, ridge, method=m)
                for m in METHODS
            ),
            distillation.kernel_ridge_predict(
                feat_s @ feat_s.T, y_s, feat_t @ feat_s.T, ridge
            ),
            distillation.label_solve(feat_s, feat_t, y_s[[0, 1, 0, 1]], ridge),
        ]
    )
    for ridge in (0.0, -1e-3):
        assert all(bool(jnp.all(jnp.isnan(out))) for out in run(jnp.float32(ridge)))


def test_gradients_come_back_in_the_dtype_of_the_inputs():
    args = [jnp.asarray(a, jnp.bfloat16) for a in problem(2, 3, 1)]
    total = lambda *a: jnp.sum(distillation.ridge_predict(*a, 0.5))
    assert total(*args).dtype == jnp.float32
    assert {g.dtype for g in jax.grad(total, (0, 1, 2))(*args)} == {jnp.bfloat16.dtype}


def test_devices_exchange_one_matrix_of_weights():
    feat_s, y_s, feat_t = (
        jnp.asarray(a, jnp.float32) for a in problem(3, 5, 2, batch=8)
    )
    y_t = feat_t[:, :2]
    mesh = ops.data_mesh(4)
    spread, same = jax.P("data"), jax.P()

    def gradient(feat_s, y_s, feat_t, y_t):
        # Each device sums over its part; the divisor is the size of the whole batch.
        loss = lambda f, y: jnp.sum(distillation.krr_loss(f, y, feat_t, y_t)) / 8
        return jax.grad(loss, (0, 1))(feat_s, y_s)

    sharded = jax.jit(
        jax.shard_map(
            gradient, mesh=mesh, in_specs=(same, same, spread, spread), out_specs=same
        )
    )
    args = feat_s, y_s, feat_t, y_t
    for a, b in zip(sharded(*args), jax.jit(gradient)(*args), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    program = sharded.lower(*args).compile().as_text()
    exchanged = [line for line in program.splitlines() if " all-reduce(" in line]
    # H, six features with the bias times two outputs; not the gradients.
    assert len(exchanged) == 1
    assert "f32[6,2]" in exchanged[0]
