"""Whole experiments of the paper, small enough for every test run."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkit import mesa


@functools.cache
def ones_tensor(length, dim):
    moment_fn = lambda index: np.ones(len(index))
    return mesa.population_tensor(moment_fn, length=length, dim=dim)


def full_one_flow(length, dim, a, b, stop):
    tensor = ones_tensor(length, dim)
    loss_fn = lambda p: mesa.population_loss_general(p.kq, p.pv, tensor)
    eye = jnp.eye(dim)

    @jax.jit
    def run(start):
        return mesa.gradient_flow(
            loss_fn, start, jnp.array([0.0, stop]), method="dopri5",
            rtol=1e-12, atol=1e-13,
        )  # fmt: skip

    flow = run(mesa.LSAParams(a * eye, b * eye))
    return jax.tree.map(lambda leaf: leaf[-1], flow.params), flow


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("length", "dim", "start", "limit", "loss", "masked"),
    [
        (
            100, 5, (0.1, 0.1),
            (0.9223778480, -0.0485004710, 0.9254686552, -0.0304049565),
            38.179578740, 42.672698454,
        ),
        (
            100, 5, (0.5, 1.5),
            (0.5617587079, -0.0295383958, 1.5195701901, -0.0499233174),
            38.179578740, 42.672698454,
        ),
        (
            20, 3, (0.1, 0.1),
            (0.8929004, -0.0907896, 0.8929253, -0.0906672),
            6.3231062621, 7.5523891,
        ),
        (
            5, 2, (0.1, 0.1),
            (0.9058172, -0.0889080, 0.8573200, -0.3056335),
            0.8100160877, 1.1379310345,
        ),
    ],
)  # fmt: skip
def test_full_one_limits_without_and_with_masking(
    length, dim, start, limit, loss, masked
):
    end, flow = full_one_flow(length, dim, *start, stop=40.0)
    off = ~np.eye(dim, dtype=bool)
    for matrix, on, other in ((end.kq, *limit[:2]), (end.pv, *limit[2:])):
        digits = 6e-8 if on in (0.8929004, 0.8929253, 0.9058172, 0.8573200) else 6e-11
        np.testing.assert_allclose(jnp.diagonal(matrix), on, rtol=0, atol=digits)
        np.testing.assert_allclose(matrix[off], other, rtol=0, atol=digits)
    np.testing.assert_allclose(flow.loss[-1], loss, rtol=0, atol=6e-10)
    assert flow.grad_sq_norm[-1] < 1e-18
    moments = mesa.ones_moments(dim)
    product = mesa.limit_product(moments, length=length)
    least = mesa.diagonal_loss(product, 1.0, moments, length=length, dim=dim)
    np.testing.assert_allclose(least, masked, rtol=0, atol=6e-8 if dim == 3 else 6e-10)
    if length == 100:
        alpha_beta = end.kq[0, 0] * end.pv[0, 0]
        np.testing.assert_allclose(alpha_beta, 0.8536317866, rtol=0, atol=6e-11)


@pytest.mark.usefixtures("x64")
def test_masked_full_one_training_reaches_its_limit():
    tensor = ones_tensor(5, 2)
    loss_fn = lambda p: mesa.population_loss_general(p.kq[2:, :2], p.pv[:, :2], tensor)
    optimizer = optax.chain(mesa.keep_diagonal_updates(), optax.sgd(0.1))
    start = mesa.init_diagonal(2, a=0.1, b=0.1, dtype=jnp.float64)
    run = lambda p: mesa.gradient_descent(loss_fn, p, optimizer, num_steps=400)
    end, losses = jax.jit(run)(start)
    np.testing.assert_allclose(losses[-1], 1.1379310345, rtol=0, atol=6e-11)
    limit = mesa.limit_product(mesa.ones_moments(2), length=5)
    product = jnp.diagonal(end.kq[2:, :2]) * jnp.diagonal(end.pv[:, :2])
    np.testing.assert_allclose(product, limit, rtol=1e-10)


def mean_product(params):
    """The metric of the paper: the mean over j of A_jj B_jj."""
    dim = params.pv.shape[-2]
    a, b = params.kq[dim:, :dim], params.pv[:, :dim]
    return jnp.mean(jnp.diagonal(a) * jnp.diagonal(b))


@pytest.mark.parametrize(("law", "rate"), [("rademacher", 3e-3), ("sparse", 1e-2)])
def test_sampled_training_reaches_the_theory(law, rate):
    # In float32, from the three inits of the paper at once.
    x = mesa.sample_ar_sequences(
        jax.random.key(0), batch_shape=(256,), length=50, dim=5, initial=law
    )
    loss_fn = lambda p: jnp.mean(mesa.ar_loss(p, x))

    @jax.jit
    @jax.vmap
    def run(start):
        return mesa.gradient_descent(
            loss_fn, start, optax.sgd(rate), num_steps=120, record=mean_product
        )

    a, b = jnp.array([[0.1, 0.5, 2.0], [0.1, 1.5, 2.0]])
    params, products = run(mesa.init_diagonal(5, a=a, b=b))
    chex.assert_type(params.kq, jnp.float32)
    limit = mesa.limit_product(getattr(mesa, f"{law}_moments")(5), length=50)
    np.testing.assert_allclose(products[:, -1], limit, rtol=0.03)


def test_sampled_training_on_gaussian_streams_reaches_the_theory():
    # The sixth moment of 256 Gaussian tokens is off by a fifth: it takes a new batch
    # each step, and the mean over the last ones, to see the law itself.
    moments = mesa.gaussian_moments(5)
    _, c2 = mesa.flow_constants(moments, length=50)

    def step(params, key):
        x = mesa.sample_ar_sequences(key, batch_shape=(256,), length=50, dim=5)
        grads = jax.grad(lambda p: jnp.mean(mesa.ar_loss(p, x)))(params)
        params = jax.tree.map(lambda p, g: p - 0.1 / c2 * g, params, grads)
        return params, mean_product(params)

    keys = jax.random.split(jax.random.key(1), 240)
    start = mesa.init_diagonal(5, a=0.5, b=0.5)
    _, products = jax.jit(lambda p, k: jax.lax.scan(step, p, k))(start, keys)
    limit = mesa.limit_product(moments, length=50)
    np.testing.assert_allclose(jnp.mean(products[-160:]), limit, rtol=0.03)


@pytest.mark.usefixtures("x64")
def test_gaussian_start_ends_on_signed_diagonals():
    # Gaussian tokens and a small dense start: A = diag(+-alpha), B = diag(+-beta)
    # with equal signs and one product for all coordinates.
    moments = mesa.gaussian_moments(4)
    loss_fn = lambda ab: mesa.population_loss(ab[0], ab[1], moments, length=20)
    start = 0.1 * jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4)))
    times = jnp.array([0.0, 400.0])
    run = lambda ab: mesa.gradient_flow(
        loss_fn, ab, times, method="dopri5", rtol=1e-10, atol=1e-12
    )
    a, b = jax.jit(run)(start).params[-1]
    off = ~np.eye(4, dtype=bool)
    assert max(jnp.abs(a[off]).max(), jnp.abs(b[off]).max()) < 1e-6
    products = jnp.diagonal(a) * jnp.diagonal(b)
    limit = mesa.limit_product(moments, length=20)
    np.testing.assert_allclose(products, limit, rtol=1e-6)
    sizes = jnp.abs(jnp.diagonal(a))
    np.testing.assert_allclose(sizes, sizes[0], rtol=1e-6)
    assert len(set(np.sign(np.diagonal(a)))) == 2
