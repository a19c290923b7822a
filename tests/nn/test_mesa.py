"""The modules call the pure functions, in both Flax modes and through Linen."""

from collections.abc import Callable, Iterator

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxkit import mesa, nn, ops

DIM = 3
LENGTH = 6


@pytest.fixture(params=[True, False], ids=["graph", "tree"])
def mode(request: pytest.FixtureRequest) -> Iterator[bool]:
    with nnx.set_graph_mode(request.param):
        yield request.param


def linear_self_attention() -> nn.LinearSelfAttention:
    return nn.LinearSelfAttention(DIM, a=0.3, b=0.2, rngs=nnx.Rngs(0))


def linear_attention(**kwargs: object) -> nn.CausalLinearAttention:
    return nn.CausalLinearAttention(
        DIM,
        num_heads=2,
        key_features=3,
        value_features=2,
        out_features=4,
        rngs=nnx.Rngs(1),
        **kwargs,
    )


def mesa_layer(**kwargs: object) -> nn.MesaLayer:
    return nn.MesaLayer(
        DIM,
        num_heads=2,
        key_features=3,
        value_features=2,
        out_features=4,
        rngs=nnx.Rngs(2),
        **kwargs,
    )


MODULES = {
    "LinearSelfAttention": linear_self_attention,
    "CausalLinearAttention": linear_attention,
    "CausalLinearAttention_gated": lambda: linear_attention(gated=True),
    "MesaLayer": mesa_layer,
    "MesaLayer_gated": lambda: mesa_layer(gated=True, solver="cg"),
}


def tokens(*lead: int) -> jax.Array:
    return jax.random.normal(jax.random.key(0), (*lead, LENGTH, DIM))


def test_every_module_is_tested():
    assert {name.split("_")[0] for name in MODULES} == set(nn.mesa.__all__)


@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES.keys())
def test_functional_training_lowers_the_loss(make: Callable, mode: bool):
    model = make()
    x = tokens(4)
    target = jnp.sin(model(x)) + 0.1
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    @chex.assert_max_traces(1)
    def step(params):
        def loss(params):
            out = nnx.merge(graphdef, params, rest)(x)
            return jnp.mean(ops.abs_squared(out - target))

        value, grads = jax.value_and_grad(loss)(params)
        return optax.apply_updates(params, jax.tree.map(lambda g: -0.05 * g, grads)), (
            value,
            grads,
        )

    chex.clear_trace_counter()
    first, grads = step(params)[1]
    assert all(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(grads))
    for _ in range(5):
        params, (last, _) = step(params)
    assert last < first


@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES.keys())
def test_modules_are_pytrees(make: Callable, mode: bool):
    model = make()
    x = tokens(2)
    compiled = jax.jit(lambda model, x: model(x))(model, x)
    np.testing.assert_allclose(compiled, model(x), rtol=1e-5, atol=1e-6)


def test_linear_self_attention_is_the_function_of_the_theory():
    model = linear_self_attention()
    x = mesa.sample_ar_sequences(
        jax.random.key(1), batch_shape=(2,), length=LENGTH, dim=DIM
    )
    params = mesa.init_diagonal(DIM, a=0.3, b=0.2)
    chex.assert_trees_all_equal(model.params, params)
    np.testing.assert_allclose(model(x), mesa.lsa_predict(params, x), rtol=1e-6)
    assert model(x).shape == (2, LENGTH - 2, DIM)


def test_linear_self_attention_draws_normal_weights():
    model = nn.LinearSelfAttention(20, initial="normal", stddev=0.5, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(jnp.std(model.kq[...]), 0.5, rtol=0.05)
    assert float(jnp.max(jnp.abs(jnp.mean(model.pv[...], axis=0)))) < 0.5


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gated": True},
        {"feature_map": lambda x: jax.nn.elu(x) + 1, "scale": 0.5},
    ],
    ids=["plain", "gated", "features"],
)
def test_decoding_equals_the_whole_sequence(options: dict):
    model = linear_attention(**options)
    x = tokens(2)
    state = model.init_state((2,))
    rows = []
    for t in range(LENGTH):
        row, state = model.decode(state, x[:, t])
        rows.append(row)
    np.testing.assert_allclose(jnp.stack(rows, axis=1), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gated", [False, True])
def test_mesa_layer_decoding_equals_the_whole_sequence(gated: bool):
    model = mesa_layer(gated=gated)
    x = tokens(2)
    state = model.init_state((2,))
    rows = []
    for t in range(LENGTH):
        row, state = model.decode(state, x[:, t])
        rows.append(row)
    np.testing.assert_allclose(jnp.stack(rows, axis=1), model(x), rtol=1e-4, atol=1e-5)


def test_the_computation_is_the_one_of_the_functions():
    model = linear_attention(feature_map=jax.nn.relu, normalize="key_sum")
    x = tokens(2)
    p = model.projections
    split = lambda linear, y: (y @ linear.kernel[...]).reshape(2, LENGTH, 2, -1)
    out = ops.linear_attention(
        jax.nn.relu(split(p.query, x)),
        jax.nn.relu(split(p.key, x)),
        split(p.value, x),
        normalize="key_sum",
    )
    want = out.reshape(2, LENGTH, -1) @ p.out.kernel[...]
    np.testing.assert_allclose(model(x), want, rtol=1e-5, atol=1e-6)


def test_the_ridge_of_the_mesa_layer_starts_where_asked():
    model = mesa_layer(ridge=0.25)
    np.testing.assert_allclose(jnp.exp(model.log_ridge[...]), 0.25, rtol=1e-6)


def test_linen_users_get_the_layer_through_the_bridge():
    layer = nnx.bridge.to_linen(nn.CausalLinearAttention, DIM, num_heads=1)
    x = tokens(2)
    variables = layer.init(jax.random.key(0), x)
    out = layer.apply(variables, x)
    assert out.shape == x.shape
    gradient = jax.grad(lambda v: jnp.sum(layer.apply(v, x)))(variables)
    assert any(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(gradient))


def test_bfloat16_computation_keeps_float32_parameters():
    model = linear_attention(dtype=jnp.bfloat16)
    assert model(tokens(2)).dtype == jnp.bfloat16
    assert model.projections.query.kernel[...].dtype == jnp.float32


def test_bad_input():
    rngs = nnx.Rngs(0)
    with pytest.raises(ValueError, match=r"`initial` must be one of.*got 'uniform'"):
        nn.LinearSelfAttention(DIM, initial="uniform", rngs=rngs)
    with pytest.raises(ValueError, match=r"`dim` must be at least 1, got 0"):
        nn.LinearSelfAttention(0, rngs=rngs)
    with pytest.raises(ValueError, match=r"`in_features` must be a multiple.*3 and 2"):
        nn.CausalLinearAttention(DIM, num_heads=2, rngs=rngs)
    with pytest.raises(ValueError, match=r"`num_heads` must be at least 1, got 0"):
        nn.MesaLayer(DIM, num_heads=0, rngs=rngs)
    with pytest.raises(ValueError, match=r"`gated=True` needs `solver`.*got 'rls'"):
        mesa_layer(gated=True, solver="rls")
    with pytest.raises(ValueError, match=r"`ridge` must be positive, got 0"):
        mesa_layer(ridge=0.0)
    with pytest.raises(ValueError, match=r"`solver` must be one of.*got 'qr'"):
        mesa_layer(solver="qr")
    normalized = linear_attention(normalize="position")
    with pytest.raises(ValueError, match=r"`decode` needs `normalize=None`"):
        normalized.decode(normalized.init_state(), jnp.ones(DIM))
