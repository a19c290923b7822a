"""The checks name the argument, what came and what was expected."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

from jaxkit._core import checks
from jaxkit._core.dtypes import accumulation_dtype, promoted_dtype
from jaxkit._core.jit import jit


def test_python_integers_are_numbers_and_integer_arrays_are_not():
    (scalar,) = checks.floating(beta=1)
    assert scalar.dtype == jnp.float32
    traced = jax.jit(lambda beta: checks.floating(beta=beta)[0])(2)
    assert traced.dtype == jnp.float32
    with pytest.raises(
        TypeError, match=r"`x` must have a real floating dtype, got int"
    ):
        checks.floating(x=np.arange(3))
    with pytest.raises(TypeError, match=r"`x`.*got bool"):
        checks.floating(x=jnp.ones(2, bool))
    with pytest.raises(TypeError, match=r"`x` must be a number or an array, got True"):
        checks.floating(x=True)
    with pytest.raises(TypeError, match=r"`x` must be an array, got str"):
        checks.floating(x="text")


def test_complex_is_refused_where_real_is_needed():
    with pytest.raises(TypeError, match=r"`x` must have a real.*got complex64"):
        checks.floating(x=jnp.ones(2, jnp.complex64))
    (ok,) = checks.inexact(x=jnp.ones(2, jnp.complex64))
    assert ok.dtype == jnp.complex64


def test_shapes():
    x = jnp.ones((4, 2, 3))
    checks.shape("x", x, (2, 3))
    checks.shape("x", x, (None, 3))
    with pytest.raises(ValueError, match=r"`x` must have shape \(\.\.\., any, 2\)"):
        checks.shape("x", x, (None, 2))
    with pytest.raises(ValueError, match=r"got \(4, 2, 3\)"):
        checks.shape("x", x, (1, 4, 2, 3))
    with pytest.raises(ValueError, match=r"`a` and `b`.*got \(1,\) and \(2,\)"):
        checks.same_shape(a=jnp.ones(1), b=jnp.ones(2))
    with pytest.raises(ValueError, match=r"`x` must broadcast to shape \(3,\), got"):
        checks.broadcastable("x", x, (3,))
    with pytest.raises(ValueError, match=r"`x` must have at least 4 axes"):
        checks.min_ndim("x", x, 4)
    with pytest.raises(ValueError, match=r"`x` must have at least 5 entries along"):
        checks.axis_size("x", x, -1, 5)


def test_static_values():
    with pytest.raises(ValueError, match=r"`n` must be at least 1, got 0"):
        checks.at_least("n", 0, 1)
    for wrong in (1.5, True):
        with pytest.raises(TypeError, match=r"`n` must be an integer"):
            checks.at_least("n", wrong, 1)
    with pytest.raises(ValueError, match=r"`kind` must be one of 'a', 'b', got 'c'"):
        checks.one_of("kind", "c", ("a", "b"))


def test_keys():
    checks.typed_key(jax.random.key(0))
    with pytest.raises(TypeError, match=r"`key` must be a typed key.*uint32"):
        checks.typed_key(jax.random.PRNGKey(0))
    with pytest.raises(TypeError, match=r"got int"):
        checks.typed_key(0)
    with pytest.raises(ValueError, match=r"a single key, got shape \(2,\)"):
        checks.typed_key(jax.random.split(jax.random.key(0)))


def test_dtypes_do_not_depend_on_the_promotion_mode():
    half, single = jnp.ones(1, jnp.bfloat16), jnp.ones(1)
    assert promoted_dtype(half, half) == jnp.bfloat16
    assert promoted_dtype(half, single) == jnp.float32
    assert accumulation_dtype(half) == jnp.float32
    assert accumulation_dtype(single, jnp.ones(1, jnp.complex64)) == jnp.complex64


def test_jit_keeps_the_signature_and_the_documentation():
    @jit(static_argnames=("power",))
    def raised(x: jax.Array, *, power: int = 2) -> jax.Array:
        """Raises to a power."""
        return x**power

    assert raised.__doc__ == "Raises to a power."
    assert raised.__wrapped__.__kwdefaults__ == {"power": 2}
    np.testing.assert_allclose(raised(jnp.array(3.0), power=3), 27.0)


def test_values_are_refused_where_they_are_known():
    with pytest.raises(ValueError, match=r"`beta` must be positive, got 0"):
        checks.positive(beta=0)
    with pytest.raises(ValueError, match=r"`x` must lie in \[0, 1\), got 0.5 to 1"):
        checks.within("x", jnp.array([0.5, 1.0]), low=0, high=1, high_open=True)
    with pytest.raises(ValueError, match=r"`n` must be at least 2, got 1"):
        checks.within("n", 1.0, low=2)
    checks.within("x", jnp.zeros(0), low=1)


def test_traced_values_are_offered_to_checkify():
    def root(x: jax.Array) -> jax.Array:
        checks.positive(x=x)
        return jnp.sqrt(jnp.asarray(x))

    assert bool(jnp.isnan(jax.jit(root)(-1.0)))
    error, _ = checkify.checkify(jax.jit(root), errors=checkify.user_checks)(-1.0)
    assert "`x` must be positive, got -1" in (error.get() or "")


def test_masks_become_bool_arrays_of_the_target_shape():
    assert checks.mask("where", None, (2, 3)).all()
    assert checks.mask("where", jnp.array([True, False, True]), (2, 3)).shape == (2, 3)
    with pytest.raises(TypeError, match=r"`where` must have dtype bool, got int32"):
        checks.mask("where", jnp.ones(3, jnp.int32), (3,))
    with pytest.raises(ValueError, match=r"`where` must broadcast to shape \(2, 3\)"):
        checks.mask("where", jnp.ones(2, bool), (2, 3))
