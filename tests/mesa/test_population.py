import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import mesa

pytestmark = pytest.mark.usefixtures("x64")

SKEWED = (
    np.array(list(itertools.product([2.0, -1.0], repeat=2))),
    np.array([1, 2, 2, 4]) / 9,
)


def dense(dim=2, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(2, dim, dim)))


def as_params(a, b):
    dim = a.shape[-1]
    kq = jnp.zeros((2 * dim, 2 * dim)).at[dim:, :dim].set(a)
    return mesa.LSAParams(kq, jnp.zeros((dim, 2 * dim)).at[:, :dim].set(b))


def quadrature_loss(ab, x, weights):
    return jnp.sum(weights * mesa.ar_loss(as_params(*ab), x))


def atoms_of(law, dim):
    if not isinstance(law, str):
        return law
    nodes = {
        "gaussian": (
            np.sqrt(3 + np.array([1, -1]) * np.sqrt(6)),
            [3 - 6**0.5, 3 + 6**0.5],
        ),
        "ones": ([1.0], [1.0]),
    }
    if law == "sparse":
        return np.concatenate([np.eye(dim), -np.eye(dim)]), np.full(2 * dim, 0.5 / dim)
    node, weight = nodes[law]
    if law == "gaussian":
        node, weight = np.concatenate([node, -node]), np.tile(weight, 2) / 12
    points = np.array(list(itertools.product(node, repeat=dim)))
    return points, np.array(list(itertools.product(weight, repeat=dim))).prod(axis=1)


def tensor_of(law, *, length, dim, scale=1.0):
    points, weights = atoms_of(law, dim)
    moment_fn = lambda i: weights @ np.prod(scale * points[:, i], axis=-1)
    return mesa.population_tensor(moment_fn, length=length, dim=dim)


@pytest.mark.parametrize("length", [3, 4, 5])
@pytest.mark.parametrize("law", ["gaussian", "sparse", "ones", SKEWED])
def test_dense_loss_equals_quadrature(law, length):
    x, weights = mesa.quadrature_batch(length=length, dim=2, law=law, scale=0.8)
    ab = dense(seed=length)
    expected, grads = jax.jit(jax.value_and_grad(quadrature_loss))(ab, x, weights)
    tensor = tensor_of(law, length=length, dim=2, scale=0.8)
    general = lambda ab: mesa.population_loss_general(ab[0], ab[1], tensor)
    got, got_grads = jax.jit(jax.value_and_grad(general))(ab)
    chex.assert_trees_all_close(
        (got, got_grads), (expected, grads), rtol=1e-10, atol=1e-10
    )
    if law in ("gaussian", "sparse"):
        moments = getattr(mesa, f"{law}_moments")(2, scale=0.8)
        fast = lambda ab: mesa.population_loss(ab[0], ab[1], moments, length=length)
        got, got_grads = jax.jit(jax.value_and_grad(fast))(ab)
        chex.assert_trees_all_close(
            (got, got_grads), (expected, grads), rtol=1e-10, atol=1e-10
        )


def test_three_coordinates_equal_quadrature():
    # Three distinct indices need d = 3: here m222 and every S2 pattern act.
    x, weights = mesa.quadrature_batch(length=4, dim=3, law="rademacher", scale=1.1)
    ab = dense(3)
    expected = quadrature_loss(ab, x, weights)
    moments = mesa.rademacher_moments(3, scale=1.1)
    fast = mesa.population_loss(ab[0], ab[1], moments, length=4)
    chex.assert_trees_all_close(fast, expected, rtol=1e-11)
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=3)))
    tensor = tensor_of((signs, np.full(8, 1 / 8)), length=4, dim=3, scale=1.1)
    general = mesa.population_loss_general(ab[0], ab[1], tensor)
    chex.assert_trees_all_close(general, expected, rtol=1e-11)
    one = jnp.asarray([[1.0, -1.0, 1.0]])
    fixed, fixed_weights = mesa.quadrature_batch(
        length=4, dim=3, law=(np.asarray(one), np.ones(1))
    )
    tensor = tensor_of((np.asarray(one), np.ones(1)), length=4, dim=3)
    chex.assert_trees_all_close(
        mesa.population_loss_general(ab[0], ab[1], tensor),
        quadrature_loss(ab, fixed, fixed_weights),
        rtol=1e-11,
    )


def test_four_coordinates_equal_quadrature():
    # One pattern has four distinct indices; only laws without sign symmetry see it.
    point = (np.array([[1.0, -0.7, 1.2, 0.9]]), np.ones(1))
    x, weights = mesa.quadrature_batch(length=4, dim=4, law=point)
    ab = dense(4)
    got = mesa.population_loss_general(ab[0], ab[1], tensor_of(point, length=4, dim=4))
    chex.assert_trees_all_close(got, quadrature_loss(ab, x, weights), rtol=1e-11)


@pytest.mark.parametrize("length", [6, 12, 100])
def test_fast_form_equals_the_tensor(length):
    ab = dense(4, seed=7)
    tensor = tensor_of("gaussian", length=length, dim=4)
    general = mesa.population_loss_general(ab[0], ab[1], tensor)
    fast = mesa.population_loss(ab[0], ab[1], mesa.gaussian_moments(4), length=length)
    chex.assert_trees_all_close(fast, general, rtol=1e-12)


def test_all_gradients_on_the_diagonal_manifold():
    # Quadrature of the full model with all blocks: reduced formulas, rest zero.
    for law, length in (("gaussian", 4), ("sparse", 5)):
        x, weights = mesa.quadrature_batch(length=length, dim=2, law=law)
        params = mesa.init_diagonal(2, a=0.6, b=0.35, dtype=jnp.float64)
        loss = lambda p, x=x, w=weights: jnp.sum(w * mesa.ar_loss(p, x))
        value, grads = jax.value_and_grad(loss)(params)
        moments = getattr(mesa, f"{law}_moments")(2)
        expected = mesa.diagonal_loss(0.6, 0.35, moments, length=length, dim=2)
        chex.assert_trees_all_close(value, expected, rtol=1e-12)
        c1, c2 = mesa.flow_constants(moments, length=length)
        rate = float(c2 - c1 * 0.6 * 0.35)
        slope = mesa.init_diagonal(2, a=-0.35 * rate, b=-0.6 * rate, dtype=jnp.float64)
        chex.assert_trees_all_close(grads, slope, atol=1e-12)


@pytest.mark.parametrize(
    ("law", "scale", "length", "loss", "slope_a", "slope_b"),
    [
        ("gaussian", 1.0, 4, 1.00145, 0.43575, 0.747),
        ("ones", 1.0, 4, 1.31435, -0.44275, -0.759),
        ("sparse", 0.8, 4, 0.4795285504, -0.124092416, -0.212729856),
        ("gaussian", 1.3, 5, 5.02348698345, 8.91919330575, 15.290045667),
        ("sparse", 0.8, 5, 0.7192928256, -0.186138624, -0.319094784),
        ("ones", 1.0, 5, 1.95315, -0.69475, -1.191),
    ],
)
def test_table_against_reference_values(law, scale, length, loss, slope_a, slope_b):
    x, weights = mesa.quadrature_batch(length=length, dim=2, law=law, scale=scale)
    params = mesa.init_diagonal(2, a=0.6, b=0.35, dtype=jnp.float64)
    total = lambda p: jnp.sum(weights * mesa.ar_loss(p, x))
    value, grads = jax.value_and_grad(total)(params)
    np.testing.assert_allclose(value, loss, rtol=1e-11)
    np.testing.assert_allclose(jnp.diagonal(grads.kq[2:, :2]), slope_a, rtol=1e-9)
    np.testing.assert_allclose(jnp.diagonal(grads.pv[:, :2]), slope_b, rtol=1e-9)
    if (law, length) == ("ones", 5):
        np.testing.assert_allclose(grads.kq[2, 1], -0.372166667, atol=6e-10)
        np.testing.assert_allclose(grads.pv[0, 1], 0.231, rtol=1e-11)


@pytest.mark.parametrize(("length", "dim"), [(5, 2), (12, 4)])
def test_full_one_gradients(length, dim):
    # Appendix A.7 of the paper.
    a, b = 0.6, 0.35
    t = np.arange(2, length)
    s0, s1 = length - 2, np.sum(1 / (t - 1))
    diagonal = s0 + (dim - 1) * s1
    expected_b = a**2 * b * s1 * np.ones((dim, dim))
    np.fill_diagonal(expected_b, a**2 * b * diagonal - a * s0)
    off = np.sum(a * b**2 * (2 * (t - 1) + dim - 2) / (t - 1) ** 2 - b / (t - 1))
    expected_a = off * np.ones((dim, dim))
    np.fill_diagonal(expected_a, a * b**2 * diagonal - b * s0)
    tensor = tensor_of("ones", length=length, dim=dim)
    grads = jax.grad(mesa.population_loss_general, argnums=(0, 1))(
        a * jnp.eye(dim), b * jnp.eye(dim), tensor
    )
    chex.assert_trees_all_close(grads, (expected_a, expected_b), rtol=1e-11)


def test_sparse_tokens_leave_the_off_diagonal_of_a_alone():
    moments = mesa.sparse_moments(4)
    grads = jax.grad(mesa.population_loss)(*dense(4), moments, length=9)
    np.testing.assert_array_equal(grads - jnp.diag(jnp.diagonal(grads)), 0.0)


def test_anisotropic_diagonal_form():
    # Two coordinates with their own law: points of an asymmetric sign-flip grid.
    sizes = np.array(list(itertools.product([0.5, 2.0], [1.0, 1.5])))
    prob = np.array([0.1, 0.2, 0.3, 0.4])
    signs = np.array(list(itertools.product([-1, 1], repeat=2)))
    points = (sizes[:, None] * signs[None]).reshape(-1, 2)
    weights = np.repeat(prob / 4, 4)
    a, b = jnp.array([0.6, -0.2]), jnp.array([0.35, 0.9])
    x, w = mesa.quadrature_batch(length=5, dim=2, law=(points, weights))
    expected = quadrature_loss((jnp.diag(a), jnp.diag(b)), x, w)
    power = lambda n: jnp.asarray(weights @ points**n)
    mixed = jnp.asarray((weights[:, None] * points**2).T @ points**4)
    got = mesa.population_loss_diagonal(
        a, b, m2=power(2), m4=power(4), m6=power(6), m24=mixed, length=5
    )
    chex.assert_trees_all_close(got, expected, rtol=1e-12)
    batched = mesa.population_loss_diagonal(
        jnp.stack([a, a]), jnp.stack([b, 0 * b]),
        m2=power(2)[None], m4=power(4)[None], m6=power(6)[None], m24=mixed, length=5,
    )  # fmt: skip
    assert batched.shape == (2,)


def test_batches_vmap_and_scalar_moments():
    ab = dense(3)
    moments = mesa.gaussian_moments(3, scale=jnp.array([0.5, 1.0]))
    a, b = (jnp.stack([m, 2 * m]) for m in ab)
    batched = mesa.population_loss(a, b, moments, length=6)
    looped = jax.vmap(
        lambda a, b, m: mesa.population_loss(a, b, m, length=6)
    )(a, b, moments)  # fmt: skip
    chex.assert_trees_all_close(batched, looped, rtol=1e-13)
    tensor = tensor_of("gaussian", length=6, dim=3)
    general = mesa.population_loss_general(a, b, tensor)
    chex.assert_trees_all_close(
        general[1], mesa.population_loss_general(a[1], b[1], tensor)
    )
    low = mesa.population_loss(
        *ab.astype(jnp.bfloat16), mesa.Moments(1, 3, 15, 6, 3, 1), length=6
    )
    assert low.dtype == jnp.float32
    one = jnp.ones((1, 1))
    assert mesa.population_loss(one, one, mesa.gaussian_moments(1), length=4) == (
        0.5 * 2 * 15 - 2 * 3 + 0.5 * 2
    )


def test_hessian_is_symmetric_and_finite():
    moments = mesa.gaussian_moments(2)
    loss = lambda ab: mesa.population_loss(ab[0], ab[1], moments, length=4)
    hessian = jax.jit(jax.hessian(loss))(dense()).reshape(8, 8)
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-12)


def test_bad_arguments():
    moments = mesa.gaussian_moments(2)
    square, wide = jnp.ones((2, 2)), jnp.ones((2, 3))
    with pytest.raises(ValueError, match=r"`a` must have shape \(..., 3, 3\)"):
        mesa.population_loss(wide, wide, moments, length=4)
    with pytest.raises(ValueError, match="`a` and `b` must have the same shape"):
        mesa.population_loss(square, jnp.ones((3, 3)), moments, length=4)
    with pytest.raises(ValueError, match="`length` must be at least 3, got 2"):
        mesa.population_loss(square, square, moments, length=2)
    with pytest.raises(ValueError, match="`dim` must be at most 10, got 11"):
        mesa.population_tensor(lambda i: i[:, 0], length=4, dim=11)
    with pytest.raises(ValueError, match="`moment_fn` must return shape"):
        mesa.population_tensor(lambda i: 1.0, length=4, dim=2)
    tensor = tensor_of("ones", length=4, dim=3)
    with pytest.raises(ValueError, match=r"`tensor.quadratic` must have shape"):
        mesa.population_loss_general(square, square, tensor)
    with pytest.raises(ValueError, match=r"`m24` must have shape \(2, 2\)"):
        mesa.population_loss_diagonal(
            jnp.ones(2), jnp.ones(2), m2=1.0, m4=1.0, m6=1.0, m24=wide, length=4
        )
