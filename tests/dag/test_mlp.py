"""Networks for nodes: formulas, constraint, search over orders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import dag

D, M, N = 3, 4, 80


def networks(seed: int, *, bias: bool = True) -> dag.MlpParams:
    return dag.init_mlp(
        jax.random.key(seed), D, num_hidden=M, bias=bias, dtype=jnp.float64
    )


def chain(seed: int) -> jax.Array:
    """2 -> 0 -> 1, not linear."""
    a, b, c = np.random.default_rng(seed).standard_normal((3, N))
    first = 2.0 * np.sin(1.5 * c) + 0.3 * a
    second = 2.0 * np.cos(first) + 0.3 * b
    return jnp.asarray(np.stack([first, second, c], 1))


def test_predictions_and_losses_by_hand(x64: None):
    params, x = networks(0), np.asarray(chain(0))
    edges = np.array([[1, 1, 0], [0, 0, 1], [1, 1, 0]])
    hidden, out = np.asarray(params.hidden), np.asarray(params.out)
    want, losses = np.zeros((N, D)), np.zeros(D)
    for j in range(D):
        first = hidden[:, j] * edges[:, j, None] * (np.arange(D) != j)[:, None]
        unit = 1 / (1 + np.exp(-(x @ first + np.asarray(params.hidden_bias)[j])))
        want[:, j] = unit @ out[j] + float(params.out_bias[j])
        losses[j] = (
            0.5 * ((x[:, j] - want[:, j]) ** 2).mean()
            + 0.02 * np.abs(first).sum()
            + 0.5 * 0.03 * ((first**2).sum() + (out[j] ** 2).sum())
        )
    marks = jnp.asarray(edges)
    np.testing.assert_allclose(dag.mlp_predict(params, jnp.asarray(x), marks), want)
    got = dag.mlp_loss(params, jnp.asarray(x), marks, l1=0.02, l2=0.03)
    np.testing.assert_allclose(got, losses, rtol=1e-10)
    np.testing.assert_allclose(
        dag.mlp_adjacency(params), np.linalg.norm(hidden, axis=-1), rtol=1e-12
    )
    assert np.all(np.asarray(jnp.diagonal(dag.mlp_adjacency(params))) == 0)


@pytest.mark.slow
def test_the_constraint_holds_and_nodes_do_not_feed_themselves(x64: None):
    config = dag.NotearsConfig(h_tol=1e-6, max_inner=300)
    x = chain(1)
    found = dag.notears_mlp(networks(1), x + 5.0, config)
    assert bool(found.converged)
    assert float(found.h) <= 1e-6
    assert np.all(np.asarray(jnp.diagonal(found.weights)) == 0)
    centered = x - x.mean(0)[None]
    loss = jnp.sum(dag.mlp_loss(found.params, centered))
    np.testing.assert_allclose(found.loss, loss, rtol=1e-9)
    empty = jax.tree.map(jnp.zeros_like, found.params)
    assert float(loss) < 0.7 * float(jnp.sum(dag.mlp_loss(empty, centered)))
    order = dag.order_from_adjacency(found.weights)
    kept = dag.threshold_to_dag(found.weights) != 0
    assert bool(dag.is_dag(kept))
    assert order.shape == (D,)


@pytest.mark.slow
def test_swaps_lower_the_loss_that_is_reported(x64: None):
    x = chain(2)
    search = jax.jit(
        lambda order, steps, moves: dag.mlp_order_search(
            networks(2, bias=False),
            x - x.mean(0)[None],
            order,
            dag.MlpSearchConfig(
                max_steps=steps, max_moves=moves, check_every=50, batch_size=2
            ),
        )
    )
    start = jnp.array([1, 0, 2])
    still = search(start, 1000, 0)
    found = search(start, 1000, 100)
    assert int(still.num_moves) == 0
    assert still.order.tolist() == [1, 0, 2]
    assert float(found.loss) < 0.9 * float(still.loss)
    assert int(found.order[0]) == 2
    # The loss is that of the networks that come back, after their last step.
    position = np.argsort(np.asarray(found.order))
    edges = jnp.asarray(position[:, None] < position[None, :])
    centered = x - x.mean(0)[None]
    own = dag.mlp_loss(found.params, centered, edges)
    np.testing.assert_allclose(found.loss, jnp.sum(own), rtol=1e-9)
    assert not np.any(np.asarray(found.weights)[~np.asarray(edges)])
    # Training goes on past the first look.
    assert float(still.loss) < 0.95 * float(search(start, 50, 0).loss)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
        dag.MlpSearchConfig(batch_size=0)
    with pytest.raises(ValueError, match="`x` must have shape"):
        dag.notears_mlp(dag.init_mlp(jax.random.key(0), 3), jnp.ones((5, 2)))
