import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import mesa

pytestmark = pytest.mark.usefixtures("x64")

N, D, LAYERS = 7, 3, 4


def prompt(batch=(2,)):
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape))
    return draw(*batch, N, D), draw(*batch, N), draw(*batch, D)


def matrices(scale, seed):
    rng = np.random.default_rng(seed)
    return jnp.asarray(scale * rng.normal(size=(LAYERS, D, D)))


def reference_layers(x, y, query, a, b):
    """The layers on the matrix Z, written out as Ahn et al. do."""
    z = np.concatenate([np.vstack([x.T, y]), np.append(query, 0.0)[:, None]], axis=1)
    mask = np.diag(np.append(np.ones(N), 0.0))
    for a_l, b_l in zip(a, b, strict=True):
        p, q = np.zeros((2, D + 1, D + 1))
        p[:D, :D], p[D, D], q[:D, :D] = b_l, 1.0, -a_l
        z = z + p @ z @ mask @ (z.T @ q @ z) / N
    return -z[D, N]


@pytest.mark.parametrize("scale", [0.0, 0.1])
def test_layers_are_the_construction(scale):
    x, y, query = prompt()
    a, b = matrices(0.2, 1), matrices(scale, 2)
    got = mesa.few_shot_layers_predict(
        x, y, query, preconditioners=a, transforms=b if scale else None
    )
    rows = zip(*map(np.asarray, (x, y, query)), strict=True)
    expected = [reference_layers(*row, np.asarray(a), np.asarray(b)) for row in rows]
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_layers_are_preconditioned_steps():
    x, y, query = prompt()
    a = matrices(0.2, 1)
    f = lambda w, i: jnp.sum((x[i] @ w - y[i]) ** 2) / (2 * N)
    weights = mesa.few_shot_gradient_descent(x, y, preconditioners=a)
    chex.assert_shape(weights, (LAYERS, 2, D))
    for i in range(2):
        w = jnp.zeros(D)
        for layer in range(LAYERS):
            w = w - a[layer].T @ jax.grad(f)(w, i)
            np.testing.assert_allclose(weights[layer, i], w, rtol=1e-12)
    predicted = mesa.few_shot_layers_predict(x, y, query, preconditioners=a)
    by_steps = jnp.sum(weights[-1] * query, axis=-1)
    np.testing.assert_allclose(predicted, by_steps, rtol=1e-12)


def test_transforming_layers_are_steps_too():
    x, y, query = prompt()
    options = {"preconditioners": matrices(0.2, 1), "transforms": matrices(0.1, 2)}
    predicted = mesa.few_shot_layers_predict(x, y, query, **options)
    weights = mesa.few_shot_gradient_descent(x, y, **options)
    np.testing.assert_allclose(
        predicted, jnp.sum(weights[-1] * query, axis=-1), rtol=1e-11
    )
    plain = mesa.few_shot_layers_predict(
        x, y, query, preconditioners=options["preconditioners"]
    )
    assert jnp.abs(plain - predicted).min() > 5e-4


def test_one_layer_is_the_single_step_and_the_trained_layer():
    x, y, query = prompt()
    covariance = jnp.diag(jnp.array([0.4, 1.0, 2.5]))
    gamma = mesa.few_shot_gamma(covariance, num_examples=N, noise_variance=0.5)
    inverse = jnp.linalg.inv(gamma)
    single = mesa.few_shot_predict(inverse, x, y, query)
    layer = mesa.few_shot_layers_predict(x, y, query, preconditioners=inverse[None])
    np.testing.assert_allclose(layer, single, rtol=1e-12)
    kq, pv = mesa.few_shot_lsa_params(gamma)
    trained = mesa.few_shot_lsa_predict(kq, pv, x, y, query)
    np.testing.assert_allclose(trained, single, rtol=1e-12)
    # The scaling that balances the two norms.
    theta = np.trace(np.linalg.matrix_power(np.asarray(inverse), 2))
    np.testing.assert_allclose(kq[:D, :D], theta**-0.25 * inverse, rtol=1e-12)
    np.testing.assert_allclose(pv[D, D], theta**0.25, rtol=1e-12)
    np.testing.assert_allclose(jnp.sum(kq**2), jnp.sum(pv**2), rtol=1e-12)


def test_dense_layer_against_the_definition():
    x, y, query = prompt(())
    rng = np.random.default_rng(3)
    kq, pv = rng.normal(size=(2, D + 1, D + 1))
    e = np.concatenate([np.vstack([x.T, y]), np.append(query, 0.0)[:, None]], axis=1)
    expected = (pv @ e @ e.T @ kq @ e[:, -1] / N)[-1]
    got = mesa.few_shot_lsa_predict(jnp.asarray(kq), jnp.asarray(pv), x, y, query)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_many_steps_solve_the_regression():
    x, y, _ = prompt()
    a = jnp.broadcast_to(0.8 * jnp.eye(D)[None], (400, D, D))
    weights = mesa.few_shot_gradient_descent(x, y, preconditioners=a)[-1]
    for i in range(2):
        exact = np.linalg.lstsq(np.asarray(x[i]), np.asarray(y[i]), rcond=None)[0]
        np.testing.assert_allclose(weights[i], exact, rtol=1e-8)


def test_gradients_reach_the_layers():
    x, y, query = prompt()
    loss = lambda a: jnp.sum(
        mesa.few_shot_layers_predict(x, y, query, preconditioners=a) ** 2
    )
    grads = jax.grad(loss)(matrices(0.2, 1))
    assert (jnp.abs(grads).sum(axis=(1, 2)) > 0).all()


def test_bad_arguments():
    x, y, query = prompt()
    a = matrices(0.2, 1)
    with pytest.raises(ValueError, match="`preconditioners` must have shape"):
        mesa.few_shot_layers_predict(x, y, query, preconditioners=a[0])
    with pytest.raises(ValueError, match="`transforms` must have the shape of"):
        mesa.few_shot_gradient_descent(x, y, preconditioners=a, transforms=a[:1])
    with pytest.raises(ValueError, match=r"`kq` must have shape \(..., 4, 4\)"):
        mesa.few_shot_lsa_predict(a[0], a[0], x, y, query)
    with pytest.raises(ValueError, match="`gamma` must have shape"):
        mesa.few_shot_lsa_params(x)
