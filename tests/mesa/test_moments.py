import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import mesa

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        # m2, k1, k2, k3, m42, m222 for dim 5 and scale 2.
        (mesa.gaussian_moments, [4, 48, 960, 768, 192, 64]),
        (mesa.uniform_moments, [4 / 3, 16 / 5, 64 / 7, 256 / 15, 64 / 15, 64 / 27]),
        (mesa.sparse_moments, [4 / 5, 16 / 5, 64 / 5, 0, 0, 0]),
        (mesa.rademacher_moments, [4, 16, 64, 256, 64, 64]),
        (mesa.ones_moments, [4, 16, 64, 256, 64, 64]),
    ],
)
def test_laws(build, expected):
    np.testing.assert_allclose(build(5, scale=2.0), expected, rtol=1e-14)
    many = build(5, scale=jnp.array([2.0, 4.0]))
    growth = np.array([4, 16, 64, 64, 64, 64])
    np.testing.assert_allclose(
        np.array(many)[:, 1], np.array(expected) * growth, rtol=1e-14
    )
    assert build(3, scale=jnp.float32(1.0)).k2.dtype == jnp.float32
    assert build(3, scale=jnp.bfloat16(1.0)).k2.dtype == jnp.float32
    with pytest.raises(ValueError, match="`dim` must be at least 1, got 0"):
        build(0)


@pytest.mark.parametrize("law", ["gaussian", "uniform", "sparse", "rademacher", "ones"])
def test_atoms_of_a_law_have_its_moments(law):
    # Repeating each atom by its weight turns the quadrature into a sample.
    dim = 3
    nodes = {
        "gaussian": np.sqrt(3) * np.array([-1.0, 0, 0, 0, 0, 1]),
        "uniform": None,
        "rademacher": np.array([-1.0, 1.0]),
        "ones": np.array([1.0]),
    }.get(law)
    if law == "sparse":
        points = np.concatenate([np.eye(dim), -np.eye(dim)])
    elif law == "uniform":
        # Midpoints: exact up to the square of their distance.
        nodes = (np.arange(60) + 0.5) / 30 - 1
        points = np.array(list(itertools.product(nodes, repeat=dim)))
    else:
        points = np.array(list(itertools.product(nodes, repeat=dim)))
    got = mesa.empirical_moments(jnp.asarray(points))
    expected = getattr(mesa, f"{law}_moments")(dim)
    if law == "gaussian":
        # Three nodes are exact to degree 5 only.
        expected = expected._replace(k2=got.k2)
    np.testing.assert_allclose(got, expected, rtol=1e-12 if law != "uniform" else 2e-3)


def test_empirical_moments_against_loops():
    u = np.random.default_rng(0).normal(size=(7, 4))
    got = mesa.empirical_moments(jnp.asarray(u))
    pairs = list(itertools.permutations(range(4), 2))
    triples = list(itertools.permutations(range(4), 3))
    m42 = np.mean([np.mean(u[:, p] ** 4 * u[:, q] ** 2) for p, q in pairs])
    m222 = np.mean([np.mean((u[:, p] * u[:, q] * u[:, r]) ** 2) for p, q, r in triples])
    expected = [np.mean(u**2), np.mean(u**4), np.mean(u**6), 3 * m42, m42, m222]
    np.testing.assert_allclose(got, expected, rtol=1e-13)


def test_empirical_moments_of_few_coordinates_and_bad_samples():
    assert mesa.empirical_moments(jnp.ones((3, 1)))[3:] == (0, 0, 0)
    assert mesa.empirical_moments(jnp.ones((3, 2))).m222 == 0
    assert mesa.empirical_moments(jnp.ones((3, 2), jnp.bfloat16)).m2.dtype == "float32"
    for bad in (jnp.ones(3), jnp.ones((0, 3))):
        with pytest.raises(ValueError, match="`samples` must have shape"):
            mesa.empirical_moments(bad)
    with pytest.raises(TypeError, match="`samples` must have a real"):
        mesa.empirical_moments(jnp.ones((2, 2), complex))


def test_empirical_moments_converge():
    u = jax.random.normal(jax.random.key(0), (200_000, 3))
    got = mesa.empirical_moments(u)
    np.testing.assert_allclose(got, mesa.gaussian_moments(3), rtol=0.05)
