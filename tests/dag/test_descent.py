"""DAGMA and GOLEM against plain loops in NumPy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkit import dag

D = 4
CHAIN = np.diag([1.5, -0.8, 1.2], 1)


def moments(seed: int, n: int = 400) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, D)) @ np.linalg.inv(np.eye(D) - CHAIN)
    x -= x.mean(0)
    return x.T @ x / n


class Adam:
    def __init__(self, b1: float, b2: float):
        self.b1, self.b2, self.m, self.v, self.t = b1, b2, 0.0, 0.0, 0

    def __call__(self, g: np.ndarray) -> np.ndarray:
        self.t += 1
        self.m = self.b1 * self.m + (1 - self.b1) * g
        self.v = self.b2 * self.v + (1 - self.b2) * g * g
        m, v = self.m / (1 - self.b1**self.t), self.v / (1 - self.b2**self.t)
        return m / (np.sqrt(v) + 1e-8)


def dagma_stage(gram, w, mu, s, rate, steps, l1, pull, keep, every, tol, log):
    adam, eye, last = Adam(0.99, 0.999), np.eye(len(w)), 1e16
    count, before, direction = 0, w, None
    while count < steps:
        inverse = np.linalg.inv(s * eye - w * w)
        if np.any(inverse < -1e-15 * np.abs(inverse).max()):
            if count == 0 or s <= 0.9:
                log.append("again")
                return None
            log.append("shorter")
            rate /= 2
            w = (before - rate * direction) * keep
            continue
        g = mu * (gram @ (w - eye) + l1 * pull * np.sign(w)) + 2 * w * inverse.T
        direction, before = adam(g), w
        w = (w - rate * direction) * keep
        count += 1
        if count % every == 0 or count == steps:
            score = (
                0.5 * np.trace((eye - w).T @ gram @ (eye - w)) + l1 * np.abs(w).sum()
            )
            h = -np.linalg.slogdet(s * eye - w * w)[1] + len(w) * np.log(s)
            if abs(last - (mu * score + h)) <= tol * abs(last):
                log.append("early")
                break
            last = mu * score + h
    return w


def dagma(
    gram, *, rate, scales, barriers, warm, last, l1, every, tol, pull=1.0, keep=1.0
):
    w, log = np.zeros_like(gram), []
    keep = keep * (1 - np.eye(len(gram)))
    for t, (mu, s) in enumerate(zip(barriers, scales, strict=True)):
        steps, step, found = (warm, last)[t == len(scales) - 1], rate, None
        while found is None:
            found = dagma_stage(
                gram, w, mu, s, step, steps, l1, pull, keep, every, tol, log
            )
            step, s = step / 2, s + 0.1
        w = found
    return w, log


def settings(rate: float, **kwargs: object) -> dict:
    return {
        "rate": rate,
        "scales": (1.0, 0.9, 0.8),
        "barriers": (1.0, 0.1, 0.01),
        "warm": 120,
        "last": 150,
        "l1": 0.03,
        "every": 40,
        "tol": 1e-3,
        **kwargs,
    }


def run(gram: np.ndarray, given: dict, **kwargs: object) -> dag.DagmaResult:
    config = dag.DagmaConfig(
        l1=given["l1"],
        learning_rate=given["rate"],
        barriers=given["barriers"],
        scales=given["scales"],
        warm_steps=given["warm"],
        last_steps=given["last"],
        tol=given["tol"],
        check_every=given["every"],
        **kwargs,
    )
    return dag.dagma(dag.covariance_stats(jnp.asarray(gram)), config)


def test_dagma_takes_the_steps_of_the_plain_loop(x64: None):
    seen = set()
    for rate, seed in ((0.05, 3), (1.0, 2), (2.0, 3)):
        gram = moments(seed)
        want, log = dagma(gram, **settings(rate))
        seen |= set(log)
        found = run(gram, settings(rate))
        # Many steps with divisions by small second moments: rounding grows a little.
        np.testing.assert_allclose(found.weights, want, rtol=1e-6, atol=1e-8)
        residual = np.eye(D) - want
        loss = 0.5 * np.trace(residual.T @ gram @ residual) + 0.03 * np.abs(want).sum()
        np.testing.assert_allclose(found.loss, loss, rtol=1e-6)
    assert seen == {"again", "shorter", "early"}


@pytest.mark.slow
def test_dagma_leaves_out_and_favors_edges(x64: None):
    gram = moments(4)
    exclude = np.zeros((D, D))
    exclude[0, 1] = 1.0
    include = np.zeros((D, D))
    include[0, 2] = 1.0
    given = settings(0.02)
    found = run(gram, given, include=jnp.asarray(include), exclude=jnp.asarray(exclude))
    want, _ = dagma(gram, **given, pull=1 - 2 * include, keep=1 - exclude)
    np.testing.assert_allclose(found.weights, want, rtol=1e-6, atol=1e-8)
    assert found.weights[0, 1] == 0
    plain = run(gram, given, exclude=jnp.asarray(exclude))
    assert abs(found.weights[0, 2]) > abs(plain.weights[0, 2])


@pytest.mark.slow
def test_dagma_on_nan_ends_with_nan(x64: None):
    found = run(np.full((D, D), np.nan), settings(0.02))
    assert bool(jnp.all(jnp.isnan(found.weights)))


@pytest.mark.slow
def test_dagma_takes_an_optimizer_and_a_start(x64: None):
    gram = moments(5)
    stats = dag.covariance_stats(jnp.asarray(gram))
    config = dag.DagmaConfig(
        barriers=(0.1,), scales=(1.0,), last_steps=150, check_every=1000
    )
    start = jnp.asarray(0.9 * CHAIN)
    found = dag.dagma(stats, config, weights=start, optimizer=optax.sgd(0.05))
    w, eye = np.asarray(start), np.eye(D)
    for _ in range(150):
        inverse = np.linalg.inv(eye - w * w)
        g = 0.1 * (gram @ (w - eye) + 0.03 * np.sign(w)) + 2 * w * inverse.T
        w = (w - 0.05 * g) * (1 - eye)
    np.testing.assert_allclose(found.weights, w, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("variance", ["ev", pytest.param("nv", marks=pytest.mark.slow)])
def test_golem_takes_the_steps_of_the_plain_loop(variance: str, x64: None):
    gram, eye = moments(6), np.eye(D)
    config = dag.GolemConfig(
        variance=variance, l1=0.03, acyclicity=2.0, learning_rate=0.01, num_steps=60
    )
    stats = dag.covariance_stats(jnp.asarray(gram), num_samples=400.0)
    start = jnp.asarray(0.3 * np.random.default_rng(7).standard_normal((D, D)))
    found = dag.golem(stats, config, weights=start)

    def objective(w: jax.Array) -> jax.Array:
        left = jnp.diagonal((eye - w).T @ gram @ (eye - w)) * 400.0
        fit = 0.5 * (
            D * jnp.log(jnp.sum(left)) if variance == "ev" else jnp.sum(jnp.log(left))
        )
        fit = fit - jnp.linalg.slogdet(eye - w)[1] + 0.03 * jnp.sum(jnp.abs(w))
        return fit + 2.0 * (jnp.trace(jax.scipy.linalg.expm(w * w)) - D)

    gradient = jax.jit(jax.grad(objective))
    w, adam = np.asarray(start) * (1 - eye), Adam(0.9, 0.999)
    for _ in range(60):
        w = w - 0.01 * adam(np.asarray(gradient(jnp.asarray(w))) * (1 - eye))
    np.testing.assert_allclose(found.weights, w, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(found.loss, objective(jnp.asarray(w)), rtol=1e-9)


@pytest.mark.slow
def test_both_find_a_chain_and_give_an_order(x64: None):
    gram = moments(8)
    stats = dag.covariance_stats(jnp.asarray(gram), num_samples=400.0)
    fast = dag.DagmaConfig(learning_rate=3e-3, warm_steps=3000, last_steps=6000)
    even = dag.golem(stats, dag.GolemConfig(learning_rate=5e-3, num_steps=4000))
    own = dag.golem(
        stats,
        dag.GolemConfig(variance="nv", learning_rate=5e-3, num_steps=4000),
        weights=even.weights,
    )
    for found in (dag.dagma(stats, fast), even, own):
        kept = dag.threshold_to_dag(found.weights)
        assert np.array_equal(np.asarray(kept != 0), CHAIN != 0)
        order = dag.order_from_adjacency(found.weights)
        assert order.tolist() == [0, 1, 2, 3]
        assert bool(dag.topo_search(stats, order).converged)


@pytest.mark.slow
def test_a_new_learning_rate_does_not_compile_again(x64: None):
    stats = dag.covariance_stats(jnp.asarray(moments(9)), num_samples=400.0)

    @jax.jit
    @chex.assert_max_traces(1)
    def search(rate: jax.Array, steps: jax.Array) -> jax.Array:
        config = dag.GolemConfig(learning_rate=rate, num_steps=steps)
        return dag.golem(stats, config).loss

    losses = [search(jnp.asarray(0.01), jnp.asarray(n)) for n in (10, 50)]
    assert losses[1] < losses[0]


def test_settings_are_checked():
    with pytest.raises(ValueError, match="same length, at least 1, got 1 and 2"):
        dag.DagmaConfig(barriers=(1.0,), scales=(1.0, 0.9))
    with pytest.raises(ValueError, match="`variance` must be one of"):
        dag.GolemConfig(variance="v")
