"""Losses of pairs and proxies against plain loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import hypersphere, ops

LABELS = np.array([0, 1, 0, 1, 2, 0, -1])


def softplus(x: float) -> float:
    return float(np.logaddexp(0.0, x))


def problem(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(seed).standard_normal((7, 3))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    return x, unit @ unit.T


def sets(i: int) -> tuple[list[int], list[int]]:
    known = [j for j in range(7) if LABELS[j] >= 0 and j != i]
    if LABELS[i] < 0:
        return [], []
    same = [j for j in known if LABELS[j] == LABELS[i]]
    return same, [j for j in known if LABELS[j] != LABELS[i]]


def circle(c: np.ndarray, p: list[int], n: list[int]) -> float:
    if not p or not n:
        return 0.0
    m, gamma = 0.25, 16.0
    pull = sum(np.exp(-gamma * max(0, 1 + m - c[j]) * (c[j] - 1 + m)) for j in p)
    push = sum(np.exp(gamma * max(0, c[j] + m) * (c[j] - m)) for j in n)
    return float(np.log1p(pull * push))


def supcon(c: np.ndarray, p: list[int], n: list[int]) -> float:
    total = sum(np.exp(c[j] / 0.3) for j in p + n)
    return -float(np.mean([np.log(np.exp(c[j] / 0.3) / total) for j in p] or [0.0]))


def ntxent(c: np.ndarray, p: list[int], n: list[int]) -> float:
    negatives = sum(np.exp(c[j] / 0.3) for j in n)
    terms = [np.log(np.exp(c[j] / 0.3) + negatives) - c[j] / 0.3 for j in p]
    return float(np.mean(terms or [0.0]))


def multi_similarity(c: np.ndarray, p: list[int], n: list[int]) -> float:
    pull = sum(np.exp(-2.0 * (c[j] - 0.4)) for j in p)
    push = sum(np.exp(20.0 * (c[j] - 0.4)) for j in n)
    return float(np.log1p(pull) / 2.0 + np.log1p(push) / 20.0)


CASES = {
    "circle": (
        circle,
        lambda x, y: hypersphere.circle_pair_loss(x, y, margin=0.25, scale=16.0),
    ),
    "supcon": (supcon, lambda x, y: hypersphere.supcon_loss(x, y, temperature=0.3)),
    "ntxent": (ntxent, lambda x, y: hypersphere.ntxent_loss(x, y, temperature=0.3)),
    "multi_similarity": (
        multi_similarity,
        lambda x, y: hypersphere.multi_similarity_loss(
            x, y, negative_scale=20.0, base=0.4
        ),
    ),
}


@pytest.fixture(scope="module")
def results():
    x, _ = problem()
    with jax.enable_x64(True):

        @jax.jit
        def run(x):
            total = lambda loss: lambda x: jnp.sum(loss(x, jnp.asarray(LABELS)))
            return {
                name: (loss(x, jnp.asarray(LABELS)), jax.grad(total(loss))(x))
                for name, (_, loss) in CASES.items()
            }

        return jax.tree.map(np.asarray, run(jnp.asarray(x)))


@pytest.mark.parametrize("name", CASES)
def test_loss_equals_the_loop(name, results):
    _, cos = problem()
    want = [CASES[name][0](cos[i], *sets(i)) for i in range(7)]
    np.testing.assert_allclose(results[name][0], want, rtol=1e-12, atol=1e-14)
    assert results[name][0][6] == 0.0


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_tangent_and_skip_unlabeled_examples(name, results):
    x, _ = problem()
    gradient = results[name][1]
    np.testing.assert_allclose(np.sum(x * gradient, axis=1), 0.0, atol=1e-12)
    np.testing.assert_array_equal(gradient[6], 0.0)
    assert np.all(np.any(gradient[:4] != 0.0, axis=1))


def test_the_weights_of_circle_loss_are_constants(results):
    """Differences of values with the weights frozen give the gradient."""
    x, cos = problem()
    m, gamma = 0.25, 16.0
    weight_p, weight_n = np.maximum(0, 1 + m - cos), np.maximum(0, cos + m)

    def frozen(x: np.ndarray) -> float:
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        c, total = unit @ unit.T, 0.0
        for i in range(7):
            p, n = sets(i)
            if p and n:
                pull = sum(
                    np.exp(-gamma * weight_p[i, j] * (c[i, j] - 1 + m)) for j in p
                )
                push = sum(np.exp(gamma * weight_n[i, j] * (c[i, j] - m)) for j in n)
                total += np.log1p(pull * push)
        return total

    direction = np.random.default_rng(1).standard_normal(x.shape)
    slope = (frozen(x + 1e-6 * direction) - frozen(x - 1e-6 * direction)) / 2e-6
    got = np.sum(results["circle"][1] * direction)
    np.testing.assert_allclose(got, slope, rtol=1e-7)


def test_uniformity_of_three_directions(x64):
    x = jnp.array([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [jnp.nan, 1.0]])
    got = hypersphere.uniformity(x, where=jnp.array([True, True, True, False]))
    want = np.log((2 * np.exp(-4.0) + np.exp(-8.0)) / 3)
    np.testing.assert_allclose(got, want, rtol=1e-12)
    np.testing.assert_allclose(got, -4.39634896723, rtol=1e-11)


@pytest.mark.slow
def test_alignment_is_a_power_of_the_distance(x64):
    x, y = jnp.array([[2.0, 0.0]]), jnp.array([[1.0, 1.0]])
    distance = np.sqrt(2 - np.sqrt(2.0))
    for power in (2.0, 1.0, 0.5):
        got = hypersphere.alignment(x, y, power=power)
        np.testing.assert_allclose(got, distance**power, rtol=1e-12)


def test_proxy_anchor_on_two_samples(x64):
    at = lambda angles, norms: jnp.stack(
        [norms * jnp.cos(angles), norms * jnp.sin(angles)], axis=-1
    )
    x = at(jnp.array([0.9, 0.75]), jnp.array([2.0, 3.0]))
    w = at(jnp.array([0.0, 1.2, 2.5]), jnp.array([1.0, 2.0, 0.5]))
    got = hypersphere.proxy_anchor_loss(x, w, jnp.array([0, 1]))
    np.testing.assert_allclose(ops.masked_mean(got), 20.9189375372, rtol=1e-11)


def test_proxy_anchor_equals_the_loop(x64):
    rng = np.random.default_rng(3)
    x, w = rng.standard_normal((7, 3)), rng.standard_normal((4, 3))
    unit = lambda v: v / np.linalg.norm(v, axis=1, keepdims=True)
    c = unit(x) @ unit(w).T
    pull, push = [], []
    for j in range(4):
        own = [i for i in range(7) if LABELS[i] == j]
        rest = [i for i in range(7) if LABELS[i] >= 0 and LABELS[i] != j]
        if own:
            pull.append(np.log1p(sum(np.exp(-32 * (c[i, j] - 0.1)) for i in own)))
        push.append(np.log1p(sum(np.exp(32 * (c[i, j] + 0.1)) for i in rest)))
    got = hypersphere.proxy_anchor_loss(jnp.asarray(x), jnp.asarray(w), LABELS)
    want = np.where(LABELS >= 0, np.mean(pull) + np.sum(push) / 4, 0.0)
    np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.slow
def test_a_traced_label_out_of_range_spoils_its_own_sample_only():
    x, w = jnp.eye(3), jnp.eye(3)
    run = jax.jit(lambda labels: hypersphere.proxy_anchor_loss(x, w, labels))
    got = run(jnp.array([0, 3, -1]))
    np.testing.assert_array_equal(np.isnan(got), [False, True, False])
    np.testing.assert_allclose(got[0], run(jnp.array([0, -1, -1]))[0], rtol=1e-6)
