"""The models of structure learning call the pure functions, in both Flax modes."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxkit import dag, nn

D = 3


@pytest.fixture(params=[True, False], ids=["graph", "tree"])
def mode(request: pytest.FixtureRequest) -> Iterator[bool]:
    with nnx.set_graph_mode(request.param):
        yield request.param


def test_networks_are_those_of_the_functions(mode: bool):
    x = jax.random.normal(jax.random.key(0), (6, D))
    edges = jnp.eye(D, k=1)
    for bias in (True, False):
        model = nn.MaskedMLP(D, num_hidden=4, use_bias=bias, rngs=nnx.Rngs(0))
        want = dag.mlp_predict(model.params, x, edges)
        np.testing.assert_array_equal(model(x, edges), want)
        np.testing.assert_array_equal(model.weights(), dag.mlp_adjacency(model.params))
        graphdef, state = nnx.split(model)
        copy = nnx.merge(graphdef, state)
        np.testing.assert_array_equal(copy(x), model(x))
        other = jax.tree.map(lambda leaf: leaf + 1.0, model.params)
        copy.load_params(other)
        jax.tree.map(np.testing.assert_array_equal, copy.params, other)
        with pytest.raises(ValueError, match=r"`params\.hidden_bias`"):
            copy.load_params(other._replace(hidden_bias=None if bias else other.out))


def test_a_linear_model_trains_to_least_squares(mode: bool):
    x = jax.random.normal(jax.random.key(1), (50, D))
    x = x.at[:, 1].add(0.8 * x[:, 0])
    x = x - x.mean(0)[None]
    order = jnp.array([0, 1, 2])
    edges = jnp.triu(jnp.ones((D, D)), 1)
    graphdef, params = nnx.split(nn.LinearSEM(D, rngs=nnx.Rngs(0)))
    tx = optax.sgd(0.3)

    @jax.jit
    def train(params: nnx.State) -> nnx.State:
        def step(carry: tuple, _: None) -> tuple[tuple, None]:
            params, memory = carry
            loss = lambda params: (
                0.5
                * jnp.mean(
                    jnp.sum((x - nnx.merge(graphdef, params)(x, edges)) ** 2, axis=1)
                )
            )
            updates, memory = tx.update(jax.grad(loss)(params), memory, params)
            return (optax.apply_updates(params, updates), memory), None

        return jax.lax.scan(step, (params, tx.init(params)), None, length=200)[0][0]

    model = nnx.merge(graphdef, train(params))
    want = dag.ols_given_order(dag.gram_stats(x), order)
    np.testing.assert_allclose(model.weights(edges), want, atol=1e-4)
    assert float(model.weights()[1, 0]) == 0.0


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="num_nodes"):
        nn.LinearSEM(1, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="`adjacency`"):
        nn.LinearSEM(3, rngs=nnx.Rngs(0))(jnp.ones((2, 3)), jnp.ones((2, 2)))
