import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import mesa

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize(
    ("law", "rows"), [("gaussian", 3600), ("sparse", 900), ("ones", 225)]
)
def test_number_of_rows(law, rows):
    x, weights = mesa.quadrature_batch(length=5, dim=2, law=law)
    assert x.shape == (rows, 5, 2)
    assert x.dtype == jnp.complex128
    np.testing.assert_allclose(jnp.sum(weights), 1.0, rtol=1e-13)


@pytest.mark.parametrize(
    ("law", "moment"),
    [
        ("gaussian", {2: 1.0, 4: 3.0, 6: 15.0}),
        ("uniform", {2: 1 / 3, 4: 1 / 5, 6: 1 / 7}),
        ("rademacher", {2: 1.0, 4: 1.0, 6: 1.0}),
    ],
)
def test_first_tokens_have_the_moments_of_the_law(law, moment):
    x, weights = mesa.quadrature_batch(length=3, dim=2, law=law, scale=1.3)
    u = np.asarray(x[:, 0].real)
    for p, q in itertools.product((0, 2, 4, 6), repeat=2):
        if 0 < p + q <= 6:
            expected = moment.get(p, 1.0) * moment.get(q, 1.0) * 1.3 ** (p + q)
            got = np.sum(weights * u[:, 0] ** p * u[:, 1] ** q)
            np.testing.assert_allclose(got, expected, rtol=1e-12)
    for p, q in ((1, 0), (1, 1), (3, 1), (3, 3), (5, 1)):
        assert abs(np.sum(weights * u[:, 0] ** p * u[:, 1] ** q)) < 1e-13


def test_law_given_by_atoms():
    atoms = (np.array([[2.0], [-1.0]]), np.array([1 / 3, 2 / 3]))
    x, weights = mesa.quadrature_batch(length=3, dim=1, law=atoms)
    assert x.shape == (18, 3, 1)
    np.testing.assert_allclose(jnp.sum(weights * x[:, 0, 0].real ** 3), 2.0)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"law": "cauchy"}, "`law` must be one of"),
        ({"law": (np.ones((2, 3)), np.ones(2))}, r"`law\[0\]` must have shape"),
        ({"law": (np.ones((2, 2)), np.ones(3))}, r"`law\[1\]` must have shape"),
        ({"dim": 0}, "`dim` must be at least 1, got 0"),
        ({"length": 0}, "`length` must be at least 1, got 0"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        mesa.quadrature_batch(**({"length": 3, "dim": 2} | kwargs))
