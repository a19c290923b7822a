"""Kernels against numbers worked out by hand, loops in NumPy and random networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import distillation
from tests.distillation._dense_kernels import conv_by_loops, relu_pair

POOLED = ("conv", "relu", "avg_pool", "conv", "relu", "global_avg_pool", "dense")
READ_OUT = ("conv", "relu", "avg_pool", "flatten", "dense", "relu", "dense")
FLAT = ("conv", "relu", "conv", "relu", "flatten", "dense")


def dense_by_loops(x, y, depth, w, b):
    """The same for vectors."""
    k = {
        n: w * p @ q / len(x) + b
        for n, p, q in (("xx", x, x), ("xy", x, y), ("yy", y, y))
    }
    theta = k["xy"]
    for _ in range(depth):
        value, slope = relu_pair(k["xy"], theta, k["xx"], k["yy"])
        k = {"xx": w * k["xx"] / 2 + b, "xy": w * value + b, "yy": w * k["yy"] / 2 + b}
        theta = k["xy"] + w * slope
    return k["xy"], theta


def test_one_hidden_layer_by_hand(x64: None):
    x, y = jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 1.0]])
    points = jnp.concatenate([x, y])
    nngp, ntk = distillation.fc_nngp_ntk(points, points, bias_variance=0.0)
    want = (1 + 3 * np.pi / 4) / np.pi
    np.testing.assert_allclose(nngp, [[1.0, want], [want, 2.0]], rtol=1e-14)
    np.testing.assert_allclose(ntk[0, 1], want + 0.75, rtol=1e-14)


@pytest.mark.parametrize(
    ("w", "b", "nngp", "ntk"),
    [
        (
            2.0,
            0.01,
            [[3.35333333, 1.77401275], [1.77401275, 1.52]],
            [[6.69666667, 3.06191838], [3.06191838, 3.03]],
        ),
        (1.0, 0.0, [[None, 0.43851062]], [[1.66666667, 0.75839415]]),
    ],
)
def test_reference_numbers(x64: None, w: float, b: float, nngp: list, ntk: list):
    points = jnp.array([[1.0, 0.0, 2.0], [0.5, -1.0, 1.0]])
    got = distillation.fc_nngp_ntk(points, points, weight_variance=w, bias_variance=b)
    for matrix, want in zip(got, (nngp, ntk), strict=True):
        for i, row in enumerate(want):
            for j, value in enumerate(row):
                if value is not None:
                    np.testing.assert_allclose(matrix[i, j], value, atol=6e-9)


def test_deep_dense_network_equals_loops(x64: None):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((3, 4)), rng.standard_normal((2, 4))
    # A zero input without bias, and opposite inputs.
    x[2], y[1] = 0.0, -x[1]
    got = distillation.fc_nngp_ntk(
        x, y, depth=3, weight_variance=1.5, bias_variance=0.1
    )
    want = [[dense_by_loops(p, q, 3, 1.5, 0.1) for q in y] for p in x]
    np.testing.assert_allclose(np.stack(got, -1), want, rtol=1e-12)


def test_without_bias_zero_and_opposite_inputs_share_nothing(x64: None):
    x = jnp.array([[0.0, 0.0], [1.0, 2.0]])
    weights = jnp.array([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]])

    @jax.jit
    def run(x):
        kernels = lambda x: jnp.stack(
            distillation.fc_nngp_ntk(x, -x, bias_variance=0.0)
        )
        return kernels(x), jax.grad(lambda x: jnp.sum(kernels(x) * weights))(x)

    # No unit is alive for both of two opposite inputs, and none for zero.
    value, gradient = run(x)
    np.testing.assert_allclose(value, 0.0, atol=1e-15)
    assert bool(jnp.all(jnp.isfinite(gradient)))


@pytest.mark.parametrize(
    "layers",
    [
        ("conv", "relu", "avg_pool", "global_avg_pool"),
        FLAT,
        pytest.param(POOLED, marks=pytest.mark.slow),
        pytest.param(READ_OUT, marks=pytest.mark.slow),
    ],
)
def test_convolutional_network_equals_loops(x64: None, layers: tuple[str, ...]):
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((2, 5, 4, 2)), rng.standard_normal((3, 5, 4, 2))
    y[2] = x[1]
    got = distillation.conv_nngp_ntk(
        x, y, layers=layers, weight_variance=1.7, bias_variance=0.3
    )
    pairs = [(0, 1), (1, 2)]
    want = [conv_by_loops(x[i], y[j], layers, 1.7, 0.3) for i, j in pairs]
    for (i, j), (nngp, ntk) in zip(pairs, want, strict=True):
        np.testing.assert_allclose(got.nngp[i, j], nngp, rtol=1e-12)
        # arccos turns rounding of 1e-16 at coincident pixels into 1e-8.
        np.testing.assert_allclose(got.ntk[i, j], ntk, rtol=1e-12 if i == 0 else 1e-7)


def test_flattened_images_are_a_dense_network(x64: None):
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((2, 5, 4, 2)), rng.standard_normal((3, 5, 4, 2))
    layers = ("flatten", "dense", "relu", "dense")
    got = distillation.conv_nngp_ntk(x, y, layers=layers)
    want = distillation.fc_nngp_ntk(x.reshape(2, -1), y.reshape(3, -1))
    np.testing.assert_allclose(got, want, rtol=1e-13)


def test_tiles_change_neither_values_nor_gradients(x64: None):
    rng = np.random.default_rng(3)
    x, y = (jnp.asarray(rng.standard_normal((n, 4))) for n in (3, 5))
    weights = jnp.asarray(rng.standard_normal((2, 3, 5)))

    def value(x, y, tile_size):
        kernels = distillation.fc_nngp_ntk(x, y, tile_size=tile_size)
        return jnp.sum(jnp.stack(kernels) * weights)

    run = jax.jit(jax.value_and_grad(value, (0, 1)), static_argnums=2)
    whole, tiles = run(x, y, None), run(x, y, 2)
    for a, b in zip(jax.tree.leaves(tiles), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_tiles_of_images(x64: None):
    rng = np.random.default_rng(3)
    x, y = (rng.standard_normal((n, 4, 4, 1)) for n in (3, 5))
    whole = distillation.conv_nngp_ntk(x, y, layers=POOLED)
    tiles = distillation.conv_nngp_ntk(x, y, layers=POOLED, tile_size=2)
    np.testing.assert_allclose(tiles, whole, rtol=1e-12)


def test_tiles_bound_the_memory():
    def temporary(tile_size):
        total = lambda x, y: jnp.sum(
            distillation.fc_nngp_ntk(x, y, tile_size=tile_size).ntk
        )
        points = jnp.zeros((512, 8))
        program = jax.jit(jax.value_and_grad(total)).lower(points, points).compile()
        return program.memory_analysis().temp_size_in_bytes

    # The results stay, two arrays of all pairs; without tiles others join them.
    assert temporary(64) < 2.6 * 4 * 512**2
    assert temporary(None) > 4 * 4 * 512**2


@pytest.mark.parametrize(
    "dtype", [jnp.float32, pytest.param(jnp.float64, marks=pytest.mark.slow)]
)
def test_slopes_on_the_diagonal(x64: None, dtype: jnp.dtype):
    rng = np.random.default_rng(4)
    points = jnp.asarray(rng.standard_normal((4, 6)), dtype)
    points = points.at[3].set(points[0])
    # K(x, x) is |x|^2 / 3 + b after each layer: no angle is left there.
    traces = lambda x: [jnp.trace(k) for k in distillation.fc_nngp_ntk(x, x, depth=2)]
    slopes = jax.jit(jax.jacrev(traces))(points)
    rtol = 1e-4 if dtype == jnp.float32 else 1e-6
    for slope, factor in zip(slopes, (1.0, 3.0), strict=True):
        np.testing.assert_allclose(slope, factor * 2 * points / 3, rtol=rtol)


@pytest.mark.slow
def test_gradients_of_images_that_coincide_are_finite():
    rng = np.random.default_rng(8)
    images = jnp.asarray(rng.standard_normal((2, 3, 2, 1)), jnp.float32)
    images = images.at[1].set(images[0])
    layers = ("conv", "relu", "global_avg_pool", "dense")
    total = lambda x: jnp.sum(distillation.conv_nngp_ntk(x, x, layers=layers).ntk)
    assert bool(jnp.all(jnp.isfinite(jax.jit(jax.grad(total))(images))))


def test_slope_of_the_first_kernel_near_coincidence(x64: None):
    # K is smooth: its slope at distance 1e-5 is that at 0 up to 1e-5.
    x = jnp.array([[1.0, 2.0, 0.5]])
    slope = jax.jit(jax.grad(lambda y: distillation.fc_nngp_ntk(x, y).nngp[0, 0]))
    here, near = slope(x), slope(x + 1e-5)
    np.testing.assert_allclose(near, here, atol=2e-5)
    np.testing.assert_allclose(here, 2 * x / 3, rtol=1e-10)


def test_size_of_the_inputs_scales_kernels_and_slopes():
    @jax.jit
    def run(scale):
        x, y = scale * jnp.array([[1.0, 0.0]]), scale * jnp.array([[1.0, 1.0]])
        one = lambda x: distillation.fc_nngp_ntk(x, y, bias_variance=0.0).nngp[0, 0]
        return one(x) / scale**2, jax.grad(one)(x) / scale

    want = (1 + 3 * np.pi / 4) / np.pi
    for scale in (1e-10, 1.0, 1e10):
        value, slope = run(scale)
        np.testing.assert_allclose(value, want, rtol=1e-5)
        np.testing.assert_allclose(slope, [[want, 0.75]], rtol=1e-5)


@pytest.mark.slow
def test_a_wide_random_network_has_these_kernels(x64: None):
    rng = np.random.default_rng(5)
    x = jnp.asarray(rng.standard_normal((3, 4, 4, 2)))
    width, w, b = 384, 2.0, 0.1
    layers = ("conv", "relu", "avg_pool", "conv", "relu", "flatten", "dense")

    def network(params, x):
        dims = ("NHWC", "HWIO", "NHWC")
        for kernel, bias in params[:2]:
            scale = jnp.sqrt(w / (9 * kernel.shape[2]))
            x = jax.lax.conv_general_dilated(
                x, scale * kernel, (1, 1), "SAME", dimension_numbers=dims
            )
            x = jax.nn.relu(x + jnp.sqrt(b) * bias[None, None, None])
            if kernel.shape[2] == 2:
                x = x.reshape(len(x), 2, 2, 2, 2, width).mean((2, 4))
        flat = x.reshape(len(x), -1)
        kernel, bias = params[2]
        return flat @ kernel * jnp.sqrt(w / flat.shape[1]) + jnp.sqrt(b) * bias

    shapes = (
        ((3, 3, 2, width), (width,)),
        ((3, 3, width, width), (width,)),
        ((4 * width,), ()),
    )
    normal = lambda shape: jnp.asarray(rng.standard_normal(shape))
    rows = jax.jit(jax.jacrev(network))
    estimate = 0.0
    for _ in range(4):
        params = [(normal(kernel), normal(bias)) for kernel, bias in shapes]
        flat = [leaf.reshape(3, -1) for leaf in jax.tree.leaves(rows(params, x))]
        estimate += sum(leaf @ leaf.T for leaf in flat) / 4
    want = distillation.conv_nngp_ntk(
        x, x, layers=layers, weight_variance=w, bias_variance=b
    ).ntk
    np.testing.assert_allclose(estimate, want, rtol=0.1)


def test_random_features_approach_the_nngp_kernel():
    rng = np.random.default_rng(6)
    x = jnp.asarray(rng.standard_normal((3, 4)), jnp.float32)
    params = jnp.asarray(rng.standard_normal((16, 4, 2048)), jnp.float32)
    embed = lambda w, x: jax.nn.relu(x @ w * jnp.sqrt(2.0 / 4))
    got = distillation.random_feature_kernel(embed, params, x, x)
    # The last layer of the infinite network multiplies by its weight variance of 2.
    want = distillation.fc_nngp_ntk(x, x, bias_variance=0.0).nngp / 2
    np.testing.assert_allclose(got, want, rtol=0.05)
    one = distillation.random_feature_kernel(embed, params[:1], x, x)
    by_hand = embed(params[0], x) @ embed(params[0], x).T / 2048
    np.testing.assert_allclose(one, by_hand, rtol=1e-5)


def test_random_features_refuse_parameters_that_are_not_stacked():
    embed = lambda w, x: x * w
    for params in ({}, jnp.ones(()), [jnp.ones(2), jnp.ones(3)]):
        with pytest.raises(ValueError, match="`params` must have leaves stacked"):
            distillation.random_feature_kernel(
                embed, params, jnp.ones((1, 2)), jnp.ones((1, 2))
            )


def test_rbf_kernel_equals_the_formula(x64: None):
    rng = np.random.default_rng(7)
    x, y = rng.standard_normal((3, 2)), rng.standard_normal((4, 2))
    want = np.exp(-0.3 * ((x[:, None] - y[None]) ** 2).sum(-1))
    np.testing.assert_allclose(
        distillation.rbf_kernel(x, y, gamma=0.3), want, rtol=1e-12
    )
    slope = jax.grad(lambda x: distillation.rbf_kernel(x, x).sum())(jnp.asarray(x[:1]))
    np.testing.assert_array_equal(slope, 0.0)
