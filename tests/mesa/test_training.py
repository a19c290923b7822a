import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkit import mesa

pytestmark = pytest.mark.usefixtures("x64")


def generic(dtype=float, dim=2):
    """A finite batch that obeys no recursion, and dense parameters."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape) + 1j * rng.normal(size=shape)
    params = (0.4 * draw(2 * dim, 2 * dim), 0.3 * draw(dim, 2 * dim))
    cast = (lambda v: v.real) if dtype is float else (lambda v: v)
    params = mesa.LSAParams(*(jnp.asarray(cast(p)) for p in params))
    x = jnp.asarray(0.7 * draw(3, 5, dim))
    return params, lambda p: jnp.mean(mesa.ar_loss(p, x))


def surrogate(c1, c2):
    return lambda ab: (c2 - c1 * ab[0] * ab[1]) ** 2 / (2 * c1)


def reduced_loss():
    c1, c2 = mesa.flow_constants(mesa.gaussian_moments(5), length=100)
    return surrogate(float(c1), float(c2)), float(c1), float(c2)


@pytest.mark.parametrize("dtype", [float, complex])
def test_flow_conserves_the_balance_and_dissipates_the_loss(dtype):
    params, loss_fn = generic(dtype)
    times = jnp.linspace(0.0, 0.2, 5)
    run = lambda p: mesa.gradient_flow(loss_fn, p, times, substeps=160)
    flow = jax.jit(run)(params)
    chex.assert_shape(flow.params.kq, (5, 4, 4))
    values = mesa.balance(flow.params)
    scale = jnp.sum(jnp.abs(params.kq) ** 2)
    np.testing.assert_allclose(values, values[0], rtol=0, atol=1e-9 * scale)
    assert flow.loss[-1] < 0.9 * flow.loss[0]
    for i in (0, 4):
        point = jax.tree.map(lambda leaf, i=i: leaf[i], flow.params)
        value, grads = jax.value_and_grad(loss_fn)(point)
        velocity = jax.tree.map(lambda g: -g.conj(), grads)
        _, slope = jax.jvp(loss_fn, (point,), (velocity,))
        norm = sum(jnp.sum(jnp.abs(g) ** 2) for g in grads)
        np.testing.assert_allclose(flow.loss[i], value, rtol=1e-12)
        np.testing.assert_allclose(flow.grad_sq_norm[i], norm, rtol=1e-12)
        np.testing.assert_allclose(slope, -norm, rtol=1e-12)


@pytest.mark.parametrize("dtype", [float, complex])
def test_balance_of_one_gradient_step(dtype):
    params, loss_fn = generic(dtype)
    eta = 0.03
    step = mesa.gradient_descent(loss_fn, params, optax.sgd(eta), num_steps=1)[0]
    grads = jax.grad(loss_fn)(params)
    square = lambda m: jnp.sum(jnp.abs(m) ** 2)
    expected = eta**2 * (square(grads.kq) - square(grads.pv))
    change = mesa.balance(step) - mesa.balance(params)
    np.testing.assert_allclose(change, expected, rtol=1e-12, atol=1e-12)


def test_balance_of_reduced_descent():
    loss_fn, c1, c2 = reduced_loss()
    eta = 5e-4
    _, points = mesa.gradient_descent(
        loss_fn,
        jnp.array([0.5, 1.5]),
        optax.sgd(eta),
        num_steps=20,
        record=lambda ab: ab,
    )
    a, b = points.T
    d, r = a**2 - b**2, c2 - c1 * a * b
    np.testing.assert_allclose(d[1:], (d * (1 - eta**2 * r**2))[:-1], rtol=1e-12)


def test_order_of_descent_and_of_rk4():
    # Spec 4.4: a0 = b0 = .1, tau = 2e-3.
    loss_fn, c1, c2 = reduced_loss()
    start, tau = jnp.array([0.1, 0.1]), 2e-3
    exact = mesa.reduced_flow_solution(0.1, 0.1, c1, c2, tau)[0]
    descent, rk4 = [], []
    for n in (10, 20, 40, 80):
        end, _ = mesa.gradient_descent(loss_fn, start, optax.sgd(tau / n), num_steps=n)
        descent.append(abs(end[0] - exact))
        times = jnp.array([0.0, tau])
        flow = mesa.gradient_flow(loss_fn, start, times, substeps=n)
        rk4.append(abs(flow.params[-1, 0] - exact))
    np.testing.assert_allclose(
        descent, [1.760e-3, 8.888e-4, 4.466e-4, 2.239e-4], rtol=5e-4
    )
    np.testing.assert_allclose(rk4, [6.25e-9, 3.95e-10, 2.48e-11, 1.56e-12], rtol=5e-3)
    descent, rk4 = np.array(descent), np.array(rk4)
    np.testing.assert_allclose(descent[:-1] / descent[1:], 2, atol=0.1)
    np.testing.assert_allclose(rk4[:-1] / rk4[1:], 16, atol=1.5)


def test_descent_follows_the_flow_of_the_modified_loss():
    # L + (eta/4) |grad L|^2: the distance falls by four when eta halves.
    loss_fn, _, _ = reduced_loss()
    start, tau = jnp.array([0.1, 0.3]), 1e-3
    distance = []
    for n in (20, 40):
        eta = tau / n
        modified = lambda ab, eta=eta: (
            loss_fn(ab) + eta / 4 * jnp.sum(jax.grad(loss_fn)(ab) ** 2)
        )
        end, _ = mesa.gradient_descent(loss_fn, start, optax.sgd(eta), num_steps=n)
        flow = mesa.gradient_flow(modified, start, jnp.array([0, tau]), substeps=200)
        distance.append(jnp.abs(end - flow.params[-1]).max())
    assert abs(distance[0] / distance[1] - 4) < 0.2
    assert distance[1] < 1e-5


def test_flow_of_the_population_loss_is_the_closed_form():
    moments = mesa.gaussian_moments(2)
    c1, c2 = mesa.flow_constants(moments, length=4)
    eye, times = jnp.eye(2), jnp.array([0.0, 0.05, 0.2])
    start = mesa.LSAParams(0.3 * eye, -0.1 * eye)
    loss_fn = lambda p: mesa.population_loss(p.kq, p.pv, moments, length=4)
    flow = mesa.gradient_flow(
        loss_fn, start, times, method="dopri5", rtol=1e-12, atol=1e-13
    )
    a, b = mesa.reduced_flow_solution(0.3, -0.1, c1, c2, times)
    expected = jax.tree.map(lambda v: v[:, None, None] * eye[None], (a, b))
    chex.assert_trees_all_close(tuple(flow.params), expected, atol=1e-10)


def test_diagonal_start_stays_diagonal_on_the_full_model():
    x, weights = mesa.quadrature_batch(length=4, dim=2, law="gaussian")
    start = mesa.init_diagonal(2, a=0.3, b=0.1, dtype=jnp.float64)
    loss_fn = lambda p: jnp.sum(weights * mesa.ar_loss(p, x))
    times = jnp.array([0.0, 0.2])
    run = lambda p: mesa.gradient_flow(loss_fn, p, times, substeps=20)
    end = jax.tree.map(lambda leaf: leaf[-1], jax.jit(run)(start).params)
    c1, c2 = mesa.flow_constants(mesa.gaussian_moments(2), length=4)
    a, b = mesa.reduced_flow_solution(0.3, 0.1, c1, c2, 0.2)
    expected = mesa.init_diagonal(2, a=a, b=b, dtype=jnp.float64)
    chex.assert_trees_all_close(end, expected, atol=1e-6)
    mask = mesa.init_diagonal(2, a=1.0, b=1.0, dtype=jnp.float64)
    off = jax.tree.map(lambda leaf, m: jnp.abs(leaf * (1 - m)).max(), end, mask)
    assert max(off) < 1e-12


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_a_saddle_stays(method):
    loss_fn, c1, c2 = reduced_loss()
    flow = mesa.gradient_flow(
        loss_fn, jnp.zeros(2), jnp.array([0.0, 0.5, 1.0]), method=method
    )
    np.testing.assert_array_equal(flow.params, 0.0)
    np.testing.assert_allclose(flow.loss, c2**2 / (2 * c1))
    np.testing.assert_array_equal(flow.grad_sq_norm, 0.0)


def test_complex_parameters_descend():
    # Without the conjugate the imaginary part would run away from 2j.
    loss_fn = lambda w: jnp.abs(w - 2j) ** 2
    w, losses = mesa.gradient_descent(
        loss_fn, jnp.asarray(0j), optax.sgd(0.1), num_steps=50
    )
    np.testing.assert_allclose(w, 2j, atol=1e-4)
    assert losses.shape == (51,)
    np.testing.assert_allclose(losses, 4 * 0.8 ** (2 * np.arange(51)), rtol=1e-9)
    flow = mesa.gradient_flow(
        loss_fn, jnp.asarray(0j), jnp.array([0.0, 1.0]), substeps=50
    )
    np.testing.assert_allclose(flow.params[-1], 2j * (1 - np.exp(-2.0)), atol=1e-7)


@pytest.mark.parametrize(
    ("law", "scale", "eta", "epochs", "expected"),
    [
        ("gaussian", 0.5, 1e-3, 200, [0.732561, 0.767620, 0.767951]),
        ("gaussian", 1.0, 1e-4, 150, [0.191455, 0.191905, 0.191921]),
        ("gaussian", 2.0, 2e-6, 200, [0.044142, 0.047976, 0.048809]),
        ("sparse", 0.5, 3e-2, 200, [3.999472, 3.999998, 4.000000]),
        ("sparse", 1.0, 1e-3, 200, [0.963200, 0.999997, 1.000242]),
        ("sparse", 2.0, 1e-4, 120, [0.247076, 0.250000, 0.250081]),
        ("ones", 1.0, 5e-4, 200, [0.825826, 0.825826, 0.825826]),
    ],
)
def test_population_descent_against_reference_values(law, scale, eta, epochs, expected):
    # Section 6, from the three inits of the paper; one program for all laws.
    moments = getattr(mesa, f"{law}_moments")(5, scale=scale)
    constants = mesa.flow_constants(moments, length=100)
    starts = jnp.array([[0.1, 0.5, 2.0], [0.1, 1.5, 2.0]])
    products = descend(starts, *constants, eta)
    np.testing.assert_allclose(products[epochs], expected, rtol=0, atol=6e-7)


@jax.jit
def descend(starts, c1, c2, eta):
    # The step multiplies the loss, so that it may differ between the laws.
    loss_fn = lambda ab: eta * jnp.sum(surrogate(c1, c2)(ab))
    record = lambda ab: ab[0] * ab[1]
    return mesa.gradient_descent(
        loss_fn, starts, optax.sgd(1.0), num_steps=201, record=record
    )[1]


def test_stability_limit_of_descent():
    loss_fn, c1, c2 = reduced_loss()
    start = jnp.full(2, np.sqrt(c2 / c1) + 1e-6)
    for factor, grows in ((0.95, False), (1.05, True)):
        _, losses = mesa.gradient_descent(
            loss_fn, start, optax.sgd(factor / c2), num_steps=30
        )
        assert bool(losses[-1] > losses[0]) is grows


def test_descent_records_and_traces():
    loss_fn = chex.assert_max_traces(lambda x: 0.5 * jnp.sum(x**2), n=8)
    run = jax.jit(
        lambda x, eta: mesa.gradient_descent(
            loss_fn, x, optax.sgd(eta), num_steps=2, record=lambda x: {"first": x[0]}
        )
    )
    end, records = run(jnp.ones(2), 0.5)
    np.testing.assert_allclose(records["first"], [1.0, 0.5, 0.25])
    np.testing.assert_allclose(end, 0.25)
    run(jnp.ones(2), 0.1)
    none, losses = mesa.gradient_descent(
        lambda x: jnp.sum(x), jnp.ones(2), optax.sgd(1.0), num_steps=0
    )
    np.testing.assert_array_equal(none, 1.0)
    np.testing.assert_array_equal(losses, [2.0])


def test_flow_under_vmap_and_jvp():
    times = jnp.array([0.0, 0.5])
    run = lambda x: mesa.gradient_flow(
        lambda y: 0.5 * jnp.sum(y**2), x, times, substeps=20
    ).params[-1]
    starts = jnp.array([[1.0], [2.0]])
    batched = jax.vmap(run)(starts)
    np.testing.assert_allclose(batched, np.exp(-0.5) * starts, rtol=1e-8)
    _, tangent = jax.jvp(run, (starts[0],), (jnp.ones(1),))
    np.testing.assert_allclose(tangent, np.exp(-0.5), rtol=1e-8)


@pytest.mark.parametrize(
    "call",
    [
        lambda f, p: mesa.gradient_flow(f, p, jnp.array([0.0, 1.0])),
        lambda f, p: mesa.gradient_descent(f, p, optax.sgd(0.1), num_steps=1),
    ],
)
def test_bad_losses(call):
    with pytest.raises(ValueError, match=r"`loss_fn` must return one scalar, got \(2,"):
        call(lambda x: x, jnp.ones(2))
    with pytest.raises(TypeError, match="`loss_fn` must return a real value, got comp"):
        call(lambda x: jnp.sum(x), jnp.ones(2, complex))
    with pytest.raises(TypeError, match="must have a floating or complex dtype"):
        call(lambda x: 1.0 * jnp.sum(x), jnp.ones(2, int))


def test_bad_options():
    with pytest.raises(ValueError, match="`num_steps` must be at least 0, got -1"):
        mesa.gradient_descent(jnp.sum, jnp.ones(2), optax.sgd(1.0), num_steps=-1)
    with pytest.raises(ValueError, match="`method` must be one of"):
        mesa.gradient_flow(jnp.sum, jnp.ones(2), jnp.arange(2.0), method="verlet")
    with pytest.raises(TypeError, match="`kq` must have a floating"):
        mesa.balance(mesa.LSAParams(jnp.ones((2, 2), int), jnp.ones((1, 2))))


def test_balance_of_low_precision():
    low = mesa.init_diagonal(2, a=1.0, b=0.5, dtype=jnp.bfloat16)
    assert mesa.balance(low).dtype == jnp.float32
    assert mesa.balance(low) == 1.5
