"""Ridge regression against exact fractions, NumPy and its own autodiff form."""

import functools
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


def test_example_in_fractions(x64: None):
    with_bias = 29 / 18, [29 / 27, 29 / 27], [-7 / 9, -5 / 3]
    cases = {
        # Method, bias, live trace: the loss, its slopes in features and targets.
        **{(method, True, False): with_bias for method in EXPLICIT},
        ("qr", True, True): (29 / 18, [83 / 63, 295 / 189], [-7 / 9, -5 / 3]),
        ("cholesky", False, False): (13 / 8, [1, 5 / 4], [-3 / 4, -3 / 2]),
    }

    @jax.jit
    def run(feat_s, y_s):
        def mean_loss(feat_s, y_s, method, bias, live):
            return jnp.mean(
                distillation.krr_loss(
                    *(feat_s, y_s, FEAT_T, Y_T),
                    coef=1 / 7 if bias else 1 / 5,
                    bias=bias,
                    stop_gradient_ridge=not live,
                    method=method,
                )
            )

        slopes = jax.value_and_grad(mean_loss, (0, 1))
        return [slopes(feat_s, y_s, *case) for case in cases]

    for got, want in zip(run(FEAT_S, Y_S), cases.values(), strict=True):
        value, (feat_bar, y_bar) = got
        np.testing.assert_allclose(value, want[0], rtol=1e-13)
        np.testing.assert_allclose(feat_bar[:, 0], want[1], rtol=1e-12)
        np.testing.assert_allclose(y_bar[:, 0], want[2], rtol=1e-12)


@pytest.mark.parametrize(("n", "p", "k"), [(3, 5, 2), (4, 4, 1), (6, 3, 2), (1, 3, 1)])
def test_value_and_cotangents_equal_numpy(x64: None, n: int, p: int, k: int):
    feat_s, y_s, feat_t = problem(n, p, k)
    p_bar = np.random.default_rng(1).standard_normal((4, k))
    args = (*map(jnp.asarray, (feat_s, y_s, feat_t)), jnp.asarray(0.3))

    @jax.jit
    def all_methods(*args):
        out = []
        for method in METHODS if n == 3 else EXPLICIT:
            function = lambda *a, m=method: distillation.ridge_predict(*a, method=m)
            value, pull = jax.vjp(function, *args)
            out.append((value, *pull(jnp.asarray(p_bar))))
        return out

    want = cotangents(feat_s, y_s, feat_t, 0.3, p_bar)
    for got in all_methods(*args):
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
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


SCALES = ("trace", "mean_trace")


def relative_errors(num_s: int, width: int) -> dict[tuple[str, str], list[float]]:
    features = relu_features(num_s + 32, width)
    rng = np.random.default_rng(1)
    targets = features @ rng.standard_normal((width, 4)) / np.sqrt(width)
    y_s = targets[:num_s] + 0.1 * rng.standard_normal((num_s, 4))
    data = features[:num_s], y_s, features[num_s:], targets[num_s:]

    @functools.partial(jax.jit, static_argnums=0)
    def gradients(methods, *args):
        def mean_loss(feat_s, y_s, scale, method):
            losses = distillation.krr_loss(
                feat_s, y_s, *args[2:], scale=scale, method=method
            )
            return jnp.mean(losses)

        slope = jax.grad(mean_loss, (0, 1))
        return {(s, m): slope(*args[:2], s, m) for s in SCALES for m in methods}

    cast = lambda dtype: [jnp.asarray(a, dtype) for a in data]
    exact = gradients(("cholesky",), *cast(jnp.float64))
    error = lambda got, want: float(np.linalg.norm(got - want) / np.linalg.norm(want))
    return {
        (scale, method): [
            error(np.asarray(a, np.float64), np.asarray(b))
            for a, b in zip(got, exact[scale, "cholesky"], strict=True)
        ]
        for (scale, method), got in gradients(EXPLICIT, *cast(jnp.float32)).items()
    }


def test_float32_gradients_by_qr(x64: None):
    # More examples than features: the condition number is that of the ridge.
    errors = relative_errors(100, 40)
    # 7e5: digits are lost.
    assert max(errors["trace", "qr"]) < 1e-4
    assert min(errors["trace", "cholesky"]) > 3e-3
    # 7e7: more than float32 can factorize.
    assert max(errors["mean_trace", "qr"]) < 1e-4
    assert not np.isfinite(errors["mean_trace", "cholesky"]).all()


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


def test_masked_examples_have_no_loss(x64: None):
    feat_s, y_s, feat_t = problem(3, 4, 2)
    y_t = np.ones((4, 2))
    mask = np.array([True, False, True, False])
    loss = distillation.krr_loss(feat_s, y_s, feat_t, y_t, where=mask)
    kept = distillation.krr_loss(feat_s, y_s, feat_t, y_t)
    np.testing.assert_allclose(loss, np.where(mask, kept, 0.0), rtol=1e-12)


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
