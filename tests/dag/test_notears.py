"""NOTEARS against SciPy, and its pieces against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg, optimize

from jaxkit import dag

D = 5
L1 = 0.1


def moments(seed: int, d: int = D, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    w = np.triu(rng.random((d, d)) < 0.5, 1) * rng.uniform(0.5, 2, (d, d))
    w *= rng.choice([-1, 1], (d, d))
    shuffle = rng.permutation(d)
    w = w[np.ix_(shuffle, shuffle)]
    x = rng.standard_normal((n, d)) @ np.linalg.inv(np.eye(d) - w)
    x -= x.mean(0)
    return x.T @ x / n, w


def test_objective_is_the_augmented_lagrangian(x64: None):
    gram, _ = moments(0)
    stats = dag.covariance_stats(jnp.asarray(gram))
    w = jnp.asarray(0.5 * np.random.default_rng(1).standard_normal((D, D)))

    def value(w: jax.Array) -> jax.Array:
        rest = jnp.eye(D) - w
        h = jnp.trace(jax.scipy.linalg.expm(w * w)) - D
        return 0.5 * jnp.trace(rest.T @ gram @ rest) + 1.5 * h * h + 0.7 * h

    got, gradient = dag.notears_objective(stats, w, rho=3.0, alpha=0.7)
    np.testing.assert_allclose(got, value(w), rtol=1e-12)
    np.testing.assert_allclose(gradient, jax.grad(value)(w), rtol=1e-9, atol=1e-10)


def published_loop(gram: np.ndarray) -> tuple[np.ndarray, int]:
    """The method of multipliers in plain NumPy, on SciPy's quasi-Newton steps."""
    d = len(gram)
    w, rho, alpha, h = np.zeros(2 * d * d), 1.0, 0.0, np.inf
    free = np.tile(~np.eye(d, dtype=bool).ravel(), 2)
    bounds = [(0.0, None if entry else 0.0) for entry in free]

    def constraint(parts: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
        m = (parts[: d * d] - parts[d * d :]).reshape(d, d)
        e = linalg.expm(m * m)
        return m, np.trace(e) - d, e.T * m * 2

    def function(parts: np.ndarray) -> tuple[float, np.ndarray]:
        m, value, slope = constraint(parts)
        rest = np.eye(d) - m
        loss = 0.5 * np.trace(rest.T @ gram @ rest)
        gradient = ((rho * value + alpha) * slope - gram @ rest).ravel()
        gradient = np.concatenate([gradient, -gradient]) + L1
        return loss + 0.5 * rho * value**2 + alpha * value + L1 * parts.sum(), gradient

    count = 0
    while count < 100:
        count += 1
        while rho < 1e16:
            new = optimize.minimize(
                function, w, method="L-BFGS-B", jac=True, bounds=bounds
            ).x
            if constraint(new)[1] <= 0.25 * h:
                break
            rho *= 10
        w, h = new, constraint(new)[1]
        alpha += rho * h
        if h <= 1e-8 or rho >= 1e16:
            break
    return constraint(w)[0], count


@pytest.mark.slow
def test_both_solvers_reach_the_same_objective(x64: None):
    seed, d = 2, 4
    gram, _ = moments(seed, d)
    stats = dag.covariance_stats(jnp.asarray(gram))
    found = dag.notears(stats)
    host = dag.notears(stats, minimize=optimize.minimize)
    for result in (found, host):
        assert bool(result.converged)
        assert float(result.h) <= 1e-8
        w = np.asarray(result.weights)
        rest = np.eye(d) - w
        loss = 0.5 * np.trace(rest.T @ gram @ rest) + L1 * np.abs(w).sum()
        np.testing.assert_allclose(result.loss, loss, rtol=1e-10)
        assert np.all(np.diagonal(w) == 0)
        better = dag.topo_search(stats, dag.order_from_adjacency(result.weights))
        assert float(better.loss) <= loss
    np.testing.assert_allclose(found.loss, host.loss, rtol=1e-3)
    want, count = published_loop(gram)
    assert int(host.num_steps) == count
    np.testing.assert_allclose(host.weights, want, atol=1e-3)
    assert np.array_equal(np.abs(found.weights) >= 0.3, np.abs(host.weights) >= 0.3)


@pytest.mark.slow
def test_the_constraint_vanishes_with_its_gradient_on_acyclic_graphs(x64: None):
    gram, _ = moments(5)
    order = np.array([3, 0, 4, 1, 2])
    stats = dag.covariance_stats(jnp.asarray(gram))
    lasso = dag.lasso_given_order(stats, jnp.asarray(order), l1=L1)
    value, gradient = dag.notears_objective(stats, lasso.weights, rho=1.0, alpha=0.0)
    w = np.asarray(lasso.weights)
    rest = np.eye(D) - w
    np.testing.assert_allclose(value, 0.5 * np.trace(rest.T @ gram @ rest), rtol=1e-10)
    np.testing.assert_allclose(gradient, -gram @ rest, atol=1e-9)


@pytest.mark.slow
def test_a_start_at_the_solution_stays_there(x64: None):
    gram, _ = moments(6)
    stats = dag.covariance_stats(jnp.asarray(gram))
    found = dag.notears(stats)
    again = dag.notears(stats, weights=found.weights)
    assert float(again.loss) <= float(found.loss) * (1 + 1e-3)


def test_bootstrap_is_a_mean_over_resampled_fits(x64: None):
    key = jax.random.key(0)
    x = jax.random.normal(jax.random.key(1), (40, 3), jnp.float64)
    x = x.at[:, 1].add(0.5 * x[:, 0])

    def fit(stats: dag.GramStats) -> jax.Array:
        return dag.prune(stats, jnp.arange(3), significance=0.3)

    got = dag.bootstrap_edges(jax.random.clone(key), x, fit, num_resamples=8)
    total = np.zeros((3, 3))
    for one in jax.random.split(jax.random.clone(key), 8):
        rows = np.asarray(jax.random.randint(one, (40,), 0, 40, dtype=jnp.int32))
        total += np.asarray(fit(dag.gram_stats(x[rows]))) != 0
    np.testing.assert_allclose(got, total / 8, atol=1e-12)
    assert 0 < got[0, 1] <= 1
    batched = dag.bootstrap_edges(
        jax.random.clone(key), x, fit, num_resamples=8, batch_size=3
    )
    np.testing.assert_allclose(batched, got, atol=1e-12)


@pytest.mark.parametrize("bad", ["key", "count", "shape"])
def test_bootstrap_refuses(bad: str):
    key, x, count = jax.random.key(0), jnp.ones((10, 3)), 4
    fit = lambda stats: stats.gram
    with pytest.raises((TypeError, ValueError), match=r"key|num_resamples|shape"):
        dag.bootstrap_edges(
            jnp.zeros(2) if bad == "key" else key,
            jnp.ones(3) if bad == "shape" else x,
            fit,
            num_resamples=0 if bad == "count" else count,
        )
