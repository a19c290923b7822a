import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import mesa

pytestmark = pytest.mark.usefixtures("x64")

N, NOISE = 12, 0.5
DIAGONAL = np.array([0.4, 1.0, 1.7, 2.5])


def rotated():
    """A covariance that is not diagonal, with the same spectrum."""
    q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))
    return jnp.asarray(q @ np.diag(DIAGONAL) @ q.T)


@pytest.mark.parametrize("rotate", [False, True])
def test_optimal_loss_against_reference_values(rotate):
    covariance = rotated() if rotate else jnp.diag(jnp.asarray(DIAGONAL))
    options = {"num_examples": N, "noise_variance": NOISE}
    loss = mesa.few_shot_optimal_loss(covariance, **options)
    np.testing.assert_allclose(loss, 1.6290238288, rtol=0, atol=1e-10)
    gamma = mesa.few_shot_gamma(covariance, **options)
    expected = (1 + 1 / N) * covariance + (DIAGONAL.sum() + NOISE) / N * np.eye(4)
    chex.assert_trees_all_close(gamma, expected, rtol=1e-13)
    at_optimum = mesa.few_shot_loss(jnp.linalg.inv(gamma), covariance, **options)
    np.testing.assert_allclose(at_optimum, loss, rtol=1e-12)


def test_optimum_is_stationary_and_least():
    covariance = rotated()
    options = {"num_examples": N, "noise_variance": NOISE}
    best = jnp.linalg.inv(mesa.few_shot_gamma(covariance, **options))
    loss = lambda p: mesa.few_shot_loss(p, covariance, **options)
    np.testing.assert_allclose(jax.grad(loss)(best), 0.0, atol=1e-12)
    moves = 0.01 * np.random.default_rng(1).normal(size=(20, 4, 4))
    assert (loss(best[None] + moves) > loss(best)).all()


def test_monte_carlo_agrees_with_the_exact_losses():
    covariance = rotated()
    options = {"num_examples": N, "noise_variance": NOISE}
    batch = mesa.sample_few_shot(
        jax.random.key(0), covariance, batch_shape=(40_000,), **options
    )
    best = jnp.linalg.inv(mesa.few_shot_gamma(covariance, **options))
    other = 0.3 * jnp.asarray(np.random.default_rng(2).normal(size=(4, 4)))
    for p, exact in ((best, 1.6290238288), (other, None)):
        predicted = mesa.few_shot_predict(p, *batch[:3])
        error = (predicted - batch.query_target) ** 2
        spread = jnp.std(error) / np.sqrt(error.size)
        exact = mesa.few_shot_loss(p, covariance, **options) if exact is None else exact
        assert abs(jnp.mean(error) - exact) < 4 * spread


def test_sampled_tasks_have_their_moments():
    covariance = rotated()
    batch = mesa.sample_few_shot(
        jax.random.key(1), covariance, batch_shape=(4000,), num_examples=6,
        noise_variance=0.25,
    )  # fmt: skip
    chex.assert_shape(batch.inputs, (4000, 6, 4))
    chex.assert_shape((batch.targets, batch.query), [(4000, 6), (4000, 4)])
    flat = batch.inputs.reshape(-1, 4)
    np.testing.assert_allclose(flat.T @ flat / len(flat), covariance, atol=0.1)
    np.testing.assert_allclose(jnp.var(batch.targets), DIAGONAL.sum() + 0.25, rtol=0.05)
    np.testing.assert_allclose(jnp.var(batch.query_target), DIAGONAL.sum(), rtol=0.1)


def test_isotropic_learning_rate():
    for d, n, noise in ((3, 4, 0.0), (5, 20, 0.7)):
        rate = mesa.few_shot_learning_rate(d, num_examples=n, noise_variance=noise)
        np.testing.assert_allclose(rate, n / (n + d + 1 + noise), rtol=1e-14)
        gamma = mesa.few_shot_gamma(jnp.eye(d), num_examples=n, noise_variance=noise)
        np.testing.assert_allclose(jnp.linalg.inv(gamma), rate * np.eye(d), atol=1e-14)


def test_optimal_loss_keeps_its_digits_with_many_examples():
    # tr L - tr(L L / G) itself would lose everything here.
    loss = mesa.few_shot_optimal_loss(jnp.eye(3, dtype=jnp.float32), num_examples=10**8)
    np.testing.assert_allclose(loss, 3 * 4e-8, rtol=1e-6)
    assert loss.dtype == jnp.float32


def test_low_precision():
    covariance = jnp.eye(3, dtype=jnp.bfloat16)
    batch = mesa.sample_few_shot(jax.random.key(0), covariance, num_examples=4)
    assert {leaf.dtype for leaf in batch} == {jnp.dtype("float32")}
    low = [leaf.astype(jnp.bfloat16) for leaf in batch[:3]]
    assert mesa.few_shot_predict(covariance, *low).dtype == jnp.float32


def test_bad_arguments():
    x, y, q = jnp.ones((5, 3)), jnp.ones(5), jnp.ones(3)
    eye = jnp.eye(3)
    with pytest.raises(ValueError, match=r"`targets` must have shape \(5,\)"):
        mesa.few_shot_predict(eye, x, q, q)
    with pytest.raises(ValueError, match=r"`query` must have shape \(3,\)"):
        mesa.few_shot_predict(eye, x, y, y)
    with pytest.raises(ValueError, match="`preconditioner` must have shape"):
        mesa.few_shot_predict(jnp.eye(2), x, y, q)
    with pytest.raises(ValueError, match="`covariance` must have shape"):
        mesa.few_shot_gamma(x, num_examples=4)
    with pytest.raises(ValueError, match="`num_examples` must be at least 1, got 0"):
        mesa.few_shot_gamma(eye, num_examples=0)
    with pytest.raises(ValueError, match="`noise_variance` must"):
        mesa.few_shot_gamma(eye, num_examples=4, noise_variance=jnp.ones(2))
    with pytest.raises(TypeError, match="`key` must be a typed key"):
        mesa.sample_few_shot(jnp.zeros(2), eye, num_examples=4)
