"""The networks are those of the formulas, and pure functions of their variables."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxkit import distillation, nn


@pytest.fixture(
    params=[True, pytest.param(False, marks=pytest.mark.slow)], ids=["graph", "tree"]
)
def mode(request: pytest.FixtureRequest) -> Iterator[bool]:
    with nnx.set_graph_mode(request.param):
        yield request.param


def convnet(rngs: nnx.Rngs, **options: Any) -> nn.ConvNet:
    return nn.ConvNet(1, (6, 5), 3, **{"widths": (2, 4), **options}, rngs=rngs)


def images_of(shape: tuple[int, ...] = (3, 6, 5, 1)) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def conv_numpy(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1:3]
    out = sum(
        padded[:, a : a + height, b : b + width] @ kernel[a, b]
        for a in range(3)
        for b in range(3)
    )
    return out + bias


def embed_numpy(params: Any, stats: Any, x: np.ndarray, train: bool) -> np.ndarray:
    for index in range(2):
        conv, norm = params["convs"][index], params["norms"][index]
        x = conv_numpy(x, np.asarray(conv["kernel"]), np.asarray(conv["bias"]))
        if train:
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        else:
            mean, var = (np.asarray(stats["norms"][index][n]) for n in ("mean", "var"))
        x = (x - mean) / np.sqrt(var + 1e-5)
        x = np.maximum(x * np.asarray(norm["scale"]) + np.asarray(norm["bias"]), 0)
        rows, columns = x.shape[1] // 2, x.shape[2] // 2
        x = x[:, : 2 * rows, : 2 * columns]
        x = x.reshape(len(x), rows, 2, columns, 2, -1).mean((2, 4))
    return x.reshape(len(x), -1)


def test_the_convnet_is_the_formula_in_both_modes(mode: bool):
    network = nn.network_functions(convnet)
    params, stats = jax.jit(network.init)(jax.random.key(0))
    images = images_of()
    apply = jax.jit(network.apply, static_argnums=3)
    outputs, new = apply(params, stats, images, True)
    features = embed_numpy(params, stats, images, True)
    head = lambda x: x @ params["linear"]["kernel"] + params["linear"]["bias"][None]
    np.testing.assert_allclose(outputs, head(features), rtol=1e-4, atol=1e-5)
    # A tenth of each statistic is replaced; the variance is the biased one.
    first = params["convs"][0]
    seen = conv_numpy(images, np.asarray(first["kernel"]), np.asarray(first["bias"]))
    for name, value in (("mean", seen.mean((0, 1, 2))), ("var", seen.var((0, 1, 2)))):
        start = {"mean": 0.0, "var": 1.0}[name]
        np.testing.assert_allclose(
            new["norms"][0][name], 0.9 * start + 0.1 * value, rtol=1e-4, atol=1e-6
        )
    # Evaluation reads the statistics and leaves them alone.
    outputs, same = apply(params, new, images, False)
    features = embed_numpy(params, new, images, False)
    np.testing.assert_allclose(outputs, head(features), rtol=1e-4, atol=1e-5)
    for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(same), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(
        jax.jit(network.embed)(params, new, images), features, rtol=1e-4, atol=1e-5
    )


def shape_of(make: Any, shape: tuple[int, ...], method: str = "__call__") -> Any:
    run = lambda: getattr(make(nnx.Rngs(0)), method)(jnp.zeros(shape))
    return jax.eval_shape(run).shape


def test_features_of_the_paper():
    # 8,192 features both at 32 and at 64 pixels.
    for size, widths in ((32, (128, 256, 512)), (64, (64, 128, 256, 512))):
        make = lambda rngs, s=size, w=widths: nn.ConvNet(3, s, 10, widths=w, rngs=rngs)
        assert shape_of(make, (2, size, size, 3), "embed") == (2, 8192)
    # FRePo pads images of one channel.
    make = lambda rngs: nn.ConvNet(1, 28, 10, first_padding=3, rngs=rngs)
    assert shape_of(make, (2, 28, 28, 1), "embed") == (2, 512 * 4 * 4)


def count(module: Any) -> int:
    variables = nnx.eval_shape(lambda: nnx.state(module(), nnx.Param))
    return sum(leaf.size for leaf in jax.tree.leaves(variables))


def test_the_residual_network_has_the_parameters_of_the_known_one():
    conv = lambda size, a, b: size * size * a * b
    total = conv(3, 3, 64) + 2 * 64
    channels = 64
    for stage, features in enumerate((64, 128, 256, 512)):
        for block in range(2):
            total += conv(3, channels, features) + conv(3, features, features)
            total += 4 * features
            if stage and not block:
                total += conv(1, channels, features) + 2 * features
            channels = features
    assert count(lambda: nn.ResNet18(rngs=nnx.Rngs(0))) == total == 11_168_832
    assert shape_of(lambda rngs: nn.ResNet18(rngs=rngs), (2, 32, 32, 3)) == (2, 512)
    with_head = lambda rngs: nn.ResNet18(3, 7, rngs=rngs)
    assert shape_of(with_head, (2, 8, 8, 3)) == (2, 7)


@pytest.mark.slow
def test_the_head_of_barlow_twins():
    assert count(lambda: nn.BarlowTwinsHead(512, rngs=nnx.Rngs(0))) == (
        512 * 8192 + 2 * 8192**2 + 2 * 2 * 8192
    )
    plain = nn.BarlowTwinsHead(
        4, widths=(16, 16), first_relu=True, affine=False, rngs=nnx.Rngs(0)
    )
    x = images_of((5, 4, 1, 1))[:, :, 0, 0]
    hidden = np.maximum(x, 0) @ plain.linears[0].kernel[...]
    hidden = np.asarray(hidden)
    hidden = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + 1e-5)
    expected = np.maximum(hidden, 0) @ np.asarray(plain.linears[1].kernel[...])
    np.testing.assert_allclose(plain(x, train=True), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_kernels_start_uniform_within_the_root_of_their_inputs():
    params, _ = nn.network_functions(convnet).init(jax.random.key(1))
    for kernel, inputs in (
        (params["convs"][1]["kernel"], 9 * 2),
        (params["linear"]["kernel"], 4),
    ):
        largest = float(jnp.max(jnp.abs(kernel)))
        assert 0.8 / np.sqrt(inputs) < largest <= 1 / np.sqrt(inputs)
    assert not np.any(params["convs"][0]["bias"])


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["group", "instance", None])
def test_other_norms_have_no_statistics(norm: str | None):
    make = lambda rngs: convnet(rngs, norm=norm, widths=(4, 4))
    network = nn.network_functions(make)
    params, stats = network.init(jax.random.key(0))
    assert not jax.tree.leaves(stats)
    run = jax.jit(network.apply, static_argnums=3)
    images = images_of()
    np.testing.assert_allclose(
        run(params, stats, images, True)[0], run(params, stats, images, False)[0]
    )


PARTS = {
    "network": nn.network_functions(convnet),
    "outer_optimizer": optax.adam(1e-2),
    "inner_optimizer": optax.sgd(0.1, momentum=0.9),
    "config": distillation.DistillConfig(num_models=2, inner_steps=3),
}


def convolutions(jaxpr: Any, inside: bool = False) -> Iterator[bool]:
    """Yields for every convolution whether it stands in a loop or a branch."""
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name == "conv_general_dilated":
            yield inside
        for part in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr")
        ):
            part = getattr(part, "jaxpr", part)
            if hasattr(part, "eqns"):
                yield from convolutions(
                    part, inside or name in ("scan", "while", "cond")
                )


def test_no_convolution_of_a_step_stands_in_a_loop_or_a_branch():
    # On a CPU their gradients are many times slower there.
    images = jnp.zeros((4, 6, 5, 1))

    def run(key: jax.Array) -> Any:
        model = distillation.Pool(
            *PARTS["network"].init(key), age=jnp.int32(1), opt_state=()
        )
        model = model._replace(opt_state=PARTS["inner_optimizer"].init(model.params))
        pool = jax.tree.map(lambda x: jnp.stack([x, x]), model)
        pairs = distillation.Synthetic(images[:2], jnp.zeros((2, 3)))
        memory = PARTS["outer_optimizer"].init(pairs._asdict())
        state = distillation.DistillState(pairs, memory, pool, key, jnp.int32(0))
        return distillation.distill_step(state, images, jnp.zeros((4, 3)), **PARTS)

    found = list(convolutions(jax.make_jaxpr(run)(jax.random.key(0)).jaxpr))
    # Two layers: real, synthetic and its gradient; the inner step with the gradients
    # of both kernels and of the image between them.
    assert len(found) >= 2 + 4 + 5
    assert not any(found)
    looped = lambda key: jax.lax.scan(lambda c, _: (c, run(c)[1].loss), key, length=2)
    assert any(convolutions(jax.make_jaxpr(looped)(jax.random.key(0)).jaxpr))


@pytest.mark.slow
def test_a_pool_of_convnets_distills():
    images = jnp.asarray(images_of((12, 6, 5, 1)))
    targets = images[:, 0, :3, 0]
    state = distillation.init_distill_state(
        jax.random.key(0), images[:4], targets[:4], **PARTS
    )
    state, metrics = distillation.run_distillation(
        state, images, targets, num_steps=8, batch_size=12, **PARTS
    )
    assert np.all(metrics.finite)
    assert np.all(metrics.grad_norm_images > 0)
    assert set(np.asarray(state.pool.age).tolist()) <= {0, 1, 2, 3}


@pytest.mark.slow
def test_a_convnet_runs_as_a_linen_module():
    linen = nnx.bridge.to_linen(nn.ConvNet, 1, 6, 3, widths=(2,))
    images = images_of((2, 6, 6, 1))
    variables = linen.init(jax.random.key(0), images)
    assert linen.apply(variables, images).shape == (2, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: convnet(nnx.Rngs(0), widths=(2, 2, 2)), "leave a pixel after 3 halv"),
        (lambda: convnet(nnx.Rngs(0), norm="layer"), "`norm` must be one of 'batch'"),
        (
            lambda: convnet(nnx.Rngs(0), widths=(2, 0)),
            r"`widths\[1\]` must be at least",
        ),
        (lambda: nn.ResNet18(0, rngs=nnx.Rngs(0)), "`in_channels` must be at least 1"),
        (
            lambda: nn.BarlowTwinsHead(2, widths=(), rngs=nnx.Rngs(0)),
            "`widths` must not be empty",
        ),
        (
            lambda: nn.network_functions(lambda rngs: nnx.Dropout(0.5, rngs=rngs)),
            "parameters and batch statistics only.*rngs",
        ),
    ],
)
def test_bad_sizes_are_refused(call: Any, message: str):
    with pytest.raises(ValueError, match=message):
        call()
