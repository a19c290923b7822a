"""The head calls the pure functions and keeps their states; the network is im2col."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxkit import hypersphere, nn, ops

DIM, CLASSES = 4, 5
X = np.random.default_rng(0).standard_normal((6, DIM)).astype(np.float32)
Y = np.array([0, 1, 2, 3, 4, -1])


@pytest.fixture(params=[True, False], ids=["graph", "tree"])
def mode(request: pytest.FixtureRequest):
    with nnx.set_graph_mode(request.param):
        yield request.param


def head(config=None, **options) -> nn.HypersphereHead:
    return nn.HypersphereHead(DIM, CLASSES, config=config, **options, rngs=nnx.Rngs(0))


def test_losses_are_those_of_the_functions():
    config = hypersphere.MarginConfig.arcface(scale=16.0)
    dense, streamed = head(config), head(config, class_chunk=2)
    want = hypersphere.hypersphere_loss(X, dense.weight[...], Y, config)
    np.testing.assert_allclose(dense.losses(X, Y), want, rtol=1e-6)
    np.testing.assert_allclose(streamed.losses(X, Y), want, rtol=1e-5)
    losses, metrics = dense(X, Y)
    np.testing.assert_allclose(losses, want, rtol=1e-5)
    angle = hypersphere.target_angle(X, dense.weight[...], Y)
    mean = ops.masked_mean(angle.cos, where=Y >= 0)
    np.testing.assert_allclose(metrics.mean_target_cos, mean, rtol=1e-5)
    # Without slices a call has forward derivatives, those of `losses`.
    call, alone = lambda x: dense(x, Y)[0], lambda x: dense.losses(x, Y)
    slope = jax.jvp(call, (X,), (X[::-1],))[1]
    np.testing.assert_allclose(slope, jax.jvp(alone, (X,), (X[::-1],))[1], rtol=1e-5)


def test_the_default_is_sface():
    model = head()
    want = hypersphere.sface_loss(X, model.weight[...], Y)
    np.testing.assert_allclose(model.losses(X, Y), want, rtol=1e-6)


def test_training_in_the_functional_style(mode):
    model = head(hypersphere.MarginConfig.normface(scale=4.0))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    @chex.assert_max_traces(1)
    def step(params):
        def loss(params):
            losses = nnx.merge(graphdef, params, rest).losses(X, Y)
            return ops.masked_mean(losses, where=Y >= 0)

        value, gradient = jax.value_and_grad(loss)(params)
        down = jax.tree.map(lambda g: -0.1 * g, gradient)
        return optax.apply_updates(params, down), value

    chex.clear_trace_counter()
    params, first = step(params)
    for _ in range(4):
        params, last = step(params)
    assert last < first


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "update", "first"),
    [
        (
            hypersphere.AdaCosConfig(),
            hypersphere.adacos_update,
            hypersphere.adacos_init(CLASSES),
        ),
        (
            hypersphere.CurricularFaceConfig(),
            hypersphere.curricularface_update,
            hypersphere.curricularface_init(),
        ),
        (
            hypersphere.AdaFaceConfig(),
            lambda state, x, w, y: hypersphere.adaface_update(state, x, y),
            hypersphere.adaface_init(),
        ),
    ],
    ids=["adacos", "curricularface", "adaface"],
)
def test_states_advance_before_the_loss(config, update, first, mode):
    model = head(config)
    graphdef, variables = nnx.split(model)

    @jax.jit
    def call(variables):
        model = nnx.merge(graphdef, variables)
        losses = model.losses(X, Y)
        return losses, nnx.state(model)

    losses, variables = call(variables)
    model = nnx.merge(graphdef, variables)
    weight = model.weight[...]
    state = update(first, X, weight, Y)
    chex.assert_trees_all_close(model.state.get_value(), state, rtol=1e-5)
    want = hypersphere.hypersphere_loss(X, weight, Y, config, state=state)
    np.testing.assert_allclose(losses, want, rtol=1e-5)
    before = model.state.get_value()
    model.losses(X, Y, train=False)
    chex.assert_trees_all_equal(model.state.get_value(), before)


@pytest.mark.slow
def test_sphereface_anneals_from_its_first_step():
    config = hypersphere.SphereFaceConfig()
    model = head(config)
    first = hypersphere.sphereface_annealing(0)
    want = hypersphere.sphereface_loss(X, model.weight[...], Y, annealing=first)
    np.testing.assert_allclose(model.losses(X, Y, train=False), want, rtol=1e-5)
    for step in range(2):
        annealing = hypersphere.sphereface_annealing(step)
        want = hypersphere.sphereface_loss(X, model.weight[...], Y, annealing=annealing)
        np.testing.assert_allclose(model.losses(X, Y), want, rtol=1e-5)
    assert model.state.get_value() == 1
    assert head(hypersphere.SphereFaceConfig.revised()).state is None


@pytest.mark.slow
def test_the_bias_of_sphereface2_is_trained():
    model = head(hypersphere.SphereFace2Config())
    want = hypersphere.sphereface2_initial_bias(CLASSES)
    np.testing.assert_allclose(model.bias[...], want, rtol=1e-6)
    graphdef, params = nnx.split(model, nnx.Param)
    loss = lambda params: jnp.sum(nnx.merge(graphdef, params).losses(X, Y))
    gradient = nnx.to_pure_dict(jax.grad(loss)(params))
    assert gradient["bias"] != 0.0


@pytest.mark.slow
def test_logits_have_no_margin():
    model = head(hypersphere.MarginConfig.arcface(scale=8.0))
    cos = hypersphere.cosine_similarity_matrix(X, model.weight[...])
    np.testing.assert_allclose(model.logits(X), 8.0 * cos, rtol=1e-5)
    plain = head(hypersphere.SoftmaxConfig())
    want = X @ np.asarray(plain.weight[...]).T
    np.testing.assert_allclose(plain.logits(X), want, rtol=1e-4, atol=1e-5)
    adaptive = head(hypersphere.AdaCosConfig())
    scale = hypersphere.adacos_init(CLASSES).scale
    cos = hypersphere.cosine_similarity_matrix(X, adaptive.weight[...])
    np.testing.assert_allclose(adaptive.logits(X), scale * cos, rtol=1e-5)


@pytest.mark.slow
def test_several_centers():
    config = hypersphere.MarginConfig.arcface(scale=8.0)
    model = head(config, sub_centers=3)
    assert model.weight.shape == (CLASSES, 3, DIM)
    want = hypersphere.subcenter_arcface_loss(X, model.weight[...], Y, scale=8.0)
    np.testing.assert_allclose(model.losses(X, Y), want, rtol=1e-5)
    with pytest.raises(ValueError, match="call `losses` instead"):
        model(X, Y)


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="`num_classes` must be at least 1, got 0"):
        nn.HypersphereHead(DIM, 0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="`class_chunk` must be None"):
        head(sub_centers=2, class_chunk=2)
    with pytest.raises(ValueError, match="`active_limit` needs `class_chunk`"):
        head(active_limit=2)
    with pytest.raises(ValueError, match=r"`widths\[1\]` must be at least 1, got 0"):
        nn.EmbeddingNet(1, 8, 4, widths=(4, 0), rngs=nnx.Rngs(0))


def test_a_stage_of_the_network_is_a_convolution():
    net = nn.EmbeddingNet(2, 7, 4, widths=(3,), rngs=nnx.Rngs(0))
    images = np.random.default_rng(1).standard_normal((2, 7, 7, 2)).astype(np.float32)
    kernel = net.convolutions[0].kernel[...].reshape(3, 3, 2, 3)
    out = jax.lax.conv_general_dilated(
        images,
        kernel,
        window_strides=(2, 2),
        padding=((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    # Norms that have seen nothing divide by sqrt(1 + 1e-5).
    hidden = jax.nn.relu(out / jnp.sqrt(1.0 + 1e-5)).reshape(2, -1)
    want = hidden @ net.linear.kernel[...] / jnp.sqrt(1.0 + 1e-5)
    np.testing.assert_allclose(net(images), want, rtol=1e-4, atol=1e-5)


def test_the_network_learns_its_statistics(mode):
    net = nn.EmbeddingNet(1, 8, 4, widths=(3, 4), affine=False, rngs=nnx.Rngs(0))
    graphdef, params, stats = nnx.split(net, nnx.Param, nnx.BatchStat)
    images = np.random.default_rng(1).random((16, 8, 8, 1)).astype(np.float32)

    @jax.jit
    def run(params, stats):
        net = nnx.merge(graphdef, params, stats)
        return net(images, train=True), nnx.state(net, nnx.BatchStat)

    out, after = run(params, stats)
    np.testing.assert_allclose(jnp.mean(out, axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(jnp.std(out, axis=0), 1.0, atol=1e-2)
    moved = jax.tree.map(lambda a, b: jnp.any(a != b), stats, after)
    assert all(map(bool, jax.tree.leaves(moved)))
