"""Regressions on features against direct solves and exhaustive search."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats as scipy_stats

from jaxkit import dag

D, N, B, RIDGE = 4, 300, 3, 1e-3


def data(seed: int) -> jax.Array:
    upper = np.triu(np.ones((D, D)), 1)
    upper[0, 3] = 0
    shuffle = np.random.default_rng(seed).permutation(D)
    return dag.sample_nonlinear_sem(
        jax.random.key(seed),
        jnp.asarray(upper[np.ix_(shuffle, shuffle)]),
        N,
        function="mim",
        dtype=jnp.float64,
    )


@pytest.fixture(scope="module")
def samples() -> tuple[np.ndarray, np.ndarray, dag.BasisStats]:
    with jax.enable_x64(True):
        x = data(0)
        features = dag.basis_features(x, num_features=B)
        return np.asarray(x), np.asarray(features), dag.basis_stats(x, num_features=B)


def left(x: np.ndarray, features: np.ndarray, node: int, parents: list[int]) -> float:
    """The minimum of the ridge regression by one direct solve."""
    y = x[:, node] - x[:, node].mean()
    if not parents:
        return y @ y / N
    phi = features[:, parents].reshape(N, -1)
    w = np.linalg.solve(phi.T @ phi / N + RIDGE * np.eye(phi.shape[1]), phi.T @ y / N)
    return ((y - phi @ w) ** 2).mean() + RIDGE * w @ w


def loss(x: np.ndarray, features: np.ndarray, order: tuple, variance: str) -> float:
    total = 0.0
    for m, node in enumerate(order):
        v = left(x, features, node, list(order[:m])) * N / (N - B * m)
        total += 0.5 * (np.log(v) if variance == "nv" else v)
    return total


def test_features_are_orthonormal_and_span_what_they_should(x64: None):
    x = data(1)
    features = np.asarray(dag.basis_features(x, num_features=B))
    for j in range(D):
        z = np.asarray(x[:, j])
        z = (z - z.mean()) / z.std()
        knots = np.quantile(z, [1 / 3, 2 / 3])
        raw = np.stack([z, *(np.tanh(1.5 * (z - q)) for q in knots)], 1)
        raw -= raw.mean(0)
        phi = features[:, j]
        np.testing.assert_allclose(phi.T @ phi / N, np.eye(B), atol=1e-10)
        np.testing.assert_allclose(phi @ (phi.T @ raw) / N, raw, atol=1e-9)
        # Nearest: the product with what they came from is symmetric and positive.
        product = phi.T @ raw
        np.testing.assert_allclose(product, product.T, atol=1e-8)
        assert np.linalg.eigvalsh(product)[0] > 0
    moved = dag.basis_features(
        x * jnp.array([[3.0, 0.1, 7.0, 1.0]]) - 5.0, num_features=B
    )
    np.testing.assert_allclose(moved, features, atol=1e-8)


@pytest.mark.slow
def test_a_column_of_two_values_has_one_direction(x64: None):
    x = data(2)
    x = x.at[:, 1].set((x[:, 1] > 0).astype(x.dtype)).at[:, 2].set(4.0)
    stats = dag.basis_stats(x, num_features=B)
    assert stats.ranks.tolist() == [3.0, 1.0, 0.0, 3.0]
    assert bool(jnp.all(jnp.isfinite(stats.gram)))
    kept = dag.basis_prune(stats, jnp.array([2, 0, 1, 3]))
    assert not np.any(kept[2])


@pytest.mark.parametrize("variance", ["nv", pytest.param("ev", marks=pytest.mark.slow)])
def test_losses_and_search_against_all_orders(variance: str, samples: tuple, x64: None):
    x, features, stats = samples
    orders = list(itertools.permutations(range(D)))
    want = [loss(x, features, order, variance) for order in orders]
    of_order = lambda order: dag.basis_order_loss(stats, order, variance=variance)
    got = jax.jit(jax.vmap(of_order))(jnp.asarray(orders))
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-10)
    found = dag.basis_order_search(
        jax.random.key(0), stats, variance=variance, num_restarts=4
    )
    np.testing.assert_allclose(found.loss, min(want), rtol=1e-9)
    assert tuple(found.order.tolist()) == orders[int(np.argmin(want))]
    assert bool(found.converged)
    # Every end is an order that no insertion improves.
    assert found.losses.shape == (4,)
    assert np.all(np.asarray(found.losses) >= min(want) - 1e-9)


@pytest.mark.slow
def test_unequal_variances_do_not_know_the_scale(samples: tuple, x64: None):
    x, _, stats = samples
    scales = np.array([5.0, 0.2, 1.0, 30.0])
    other = dag.basis_stats(jnp.asarray(x * scales), num_features=B)
    order = jnp.array([1, 3, 0, 2])
    change = dag.basis_order_loss(other, order) - dag.basis_order_loss(stats, order)
    np.testing.assert_allclose(change, np.log(scales).sum(), rtol=1e-8)
    first, second = (
        dag.basis_order_search(jax.random.key(0), s, num_restarts=4).order
        for s in (stats, other)
    )
    assert first.tolist() == second.tolist()


def test_pruning_is_backward_elimination_by_f_tests(samples: tuple, x64: None):
    x, features, stats = samples
    sizes = set()
    prune = jax.jit(
        lambda order, level: dag.basis_prune(stats, order, significance=level)
    )
    for level, order in (
        (1e-3, (0, 1, 2, 3)),
        (0.3, (3, 1, 0, 2)),
        (1e-12, (1, 2, 3, 0)),
    ):
        want = np.zeros((D, D), bool)
        for m, node in enumerate(order):
            parents = list(order[:m])
            while parents:
                full = left(x, features, node, parents)
                free = N - 1 - B * len(parents)
                p = []
                for k in parents:
                    less = left(x, features, node, [q for q in parents if q != k])
                    p.append(
                        scipy_stats.f.sf((less - full) / B / (full / free), B, free)
                    )
                if max(p) <= level:
                    break
                parents.pop(int(np.argmax(p)))
            want[parents, node] = True
            sizes.add(len(parents))
        got = prune(jnp.asarray(order), level)
        assert np.array_equal(np.asarray(got), want)
    assert len(sizes) > 2


@pytest.mark.slow
def test_more_features_than_samples_cannot_be_searched(x64: None):
    x = data(3)[:8]
    stats = dag.basis_stats(x, num_features=B)
    assert float(dag.basis_order_loss(stats, jnp.arange(D))) == np.inf
    found = dag.basis_order_search(jax.random.key(0), stats, num_restarts=4)
    assert not bool(found.converged)


@pytest.mark.slow
@pytest.mark.parametrize("variance", ["nv", "ev"])
def test_graphs_of_networks_are_found(variance: str, x64: None):
    search = jax.jit(
        lambda key, stats: dag.basis_order_search(key, stats, variance=variance)
    )
    wrong = 0
    for seed in range(2):
        keys = jax.random.split(jax.random.key(seed), 3)
        truth = dag.sample_er_dag(keys[0], 10, edges_per_node=1)
        x = dag.sample_nonlinear_sem(
            keys[1], truth, 500, function="gp_add", dtype=jnp.float64
        )
        stats = dag.basis_stats(x)
        found = dag.basis_prune(stats, search(keys[2], stats).order)
        wrong += int(dag.count_accuracy(found, truth).shd)
    assert wrong <= 4
