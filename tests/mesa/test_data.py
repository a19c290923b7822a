import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import mesa


def sample(seed=0, **kwargs):
    options = {"batch_shape": (50,), "length": 6, "dim": 3} | kwargs
    return mesa.sample_ar_sequences(jax.random.key(seed), **options)


def test_hand_example_tokens():
    x = mesa.ar_sequences(jnp.array([1.0, 2.0]), jnp.array([1j, -1.0]), length=4)
    expected = np.array([[1, 2], [1j, -2], [-1, 2], [-1j, -2]])
    np.testing.assert_allclose(x, expected, atol=1e-6)


def test_sequences_follow_one_unitary_diagonal_matrix():
    x = sample()
    ratio = x[:, 1:] / x[:, :-1]
    np.testing.assert_allclose(jnp.abs(ratio), 1.0, rtol=1e-5)
    np.testing.assert_allclose(ratio, jnp.broadcast_to(ratio[:, :1], ratio.shape), 1e-4)
    np.testing.assert_array_equal(x[:, 0].imag, 0.0)


def test_long_float32_sequences_keep_their_step():
    # H4: powers of a rounded angle would miss by 5e-4 here.
    angle = np.linspace(0.1, 3.0, 8)
    lam = jnp.asarray(np.exp(1j * angle), jnp.complex64)
    x = mesa.ar_sequences(jnp.ones(8), lam, length=1000)
    residual = jnp.abs(x[1:] - lam[None] * x[:-1])
    assert residual.max() < 2e-6
    assert jnp.abs(jnp.abs(x) - 1).max() < 1e-4


@pytest.mark.parametrize(
    ("initial", "check"),
    [
        ("gaussian", lambda u: abs(u.std() - 2) < 0.3),
        ("uniform", lambda u: np.abs(u).max() <= 2 < np.abs(u).max() * 1.2),
        ("sparse", lambda u: np.allclose(np.sort(np.abs(u), -1), [0, 0, 2])),
        ("rademacher", lambda u: np.allclose(np.abs(u), 2) and u.min() < 0 < u.max()),
        ("ones", lambda u: np.allclose(u, 2)),
        (lambda key, shape, dtype: jnp.full(shape, 3, dtype), lambda u: (u == 6).all()),
    ],
)
def test_initial_laws(initial, check):
    u = np.asarray(sample(initial=initial, scale=2.0)[:, 0].real)
    assert check(u)


def test_eigenvalues_are_uniform_on_the_circle():
    x = sample(batch_shape=(4000,), length=2, initial="ones")[:, 1]
    for power in (1, 2, 3):
        assert jnp.abs(jnp.mean(x**power)) < 5 / np.sqrt(x.size)


@pytest.mark.usefixtures("x64")
def test_dtype_and_vmap_over_keys():
    keys = jax.random.split(jax.random.key(3), 2)
    draw = lambda key: mesa.sample_ar_sequences(
        key, length=4, dim=2, dtype=jnp.complex128
    )
    batched = jax.vmap(draw)(jax.random.clone(keys))
    looped = jnp.stack([draw(key) for key in keys])
    assert batched.dtype == jnp.complex128
    np.testing.assert_allclose(batched, looped, rtol=1e-14)


def test_real_eigenvalues_keep_real_sequences_and_low_precision_is_upcast():
    u = jnp.ones(2, jnp.bfloat16)
    x = mesa.ar_sequences(u, -u, length=3)
    assert x.dtype == jnp.float32
    np.testing.assert_array_equal(x[:, 0], [1, -1, 1])


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"dtype": jnp.float32}, TypeError, "`dtype` must be complex, got float32"),
        ({"initial": "cauchy"}, ValueError, "`initial` must be one of .* 'cauchy'"),
        ({"length": 0}, ValueError, "`length` must be at least 1, got 0"),
        ({"dim": 0}, ValueError, "`dim` must be at least 1, got 0"),
        (
            {"initial": lambda key, shape, dtype: jnp.ones(7, dtype)},
            ValueError,
            r"`initial` must return shape \(50, 3\), got \(7,\)",
        ),
    ],
)
def test_bad_arguments(kwargs, error, message):
    with pytest.raises(error, match=message):
        sample(**kwargs)


def test_bad_sequences():
    with pytest.raises(TypeError, match="`key` must be a typed key"):
        mesa.sample_ar_sequences(jnp.zeros(2, jnp.uint32), length=3, dim=2)
    with pytest.raises(ValueError, match="`eigenvalues` must have shape"):
        mesa.ar_sequences(jnp.ones(2), jnp.ones(3), length=3)
