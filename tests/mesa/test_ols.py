import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import mesa

pytestmark = pytest.mark.usefixtures("x64")


def sequences(length=6, dim=3):
    return mesa.sample_ar_sequences(
        jax.random.key(0),
        batch_shape=(2,),
        length=length,
        dim=dim,
        dtype=jnp.complex128,
    )


def test_trained_layer_is_one_gradient_step():
    x = sequences()
    params = mesa.init_diagonal(3, a=0.6, b=0.35, dtype=jnp.float64)
    estimate = mesa.ols_gradient_step(x, step_size=0.6 * 0.35)
    assert estimate.shape == (2, 4, 3, 3)
    by_step = jnp.einsum("...tij,...tj->...ti", estimate, x[:, 1:-1])
    chex.assert_trees_all_close(mesa.lsa_predict(params, x), by_step, rtol=1e-12)


def test_step_is_that_of_the_gradient():
    x, start = sequences(), jnp.asarray(np.random.default_rng(0).normal(size=(3, 3)))
    got = mesa.ols_gradient_step(x, step_size=0.2, initial=start)

    def problem(m, row, t):
        residual = row[1:t] - jnp.einsum("ij,tj->ti", m, row[: t - 1])
        return 0.5 * jnp.sum(jnp.abs(residual) ** 2)

    for t in (2, 3, 5):
        # jax.grad returns the conjugate of d/dRe + i d/dIm.
        grad = jax.grad(problem)(start.astype(complex), x[1], t).conj()
        expected = np.asarray(start) - 0.2 / (t - 1) * np.asarray(grad)
        chex.assert_trees_all_close(got[1, t - 2], expected, rtol=1e-12)


def test_bad_arguments():
    with pytest.raises(ValueError, match="`x` must have at least 3 entries"):
        mesa.ols_gradient_step(jnp.ones((2, 3)), step_size=0.1)
    with pytest.raises(ValueError, match="`initial` must broadcast to shape"):
        mesa.ols_gradient_step(
            jnp.ones((4, 3)), step_size=0.1, initial=jnp.ones((2, 2))
        )
    with pytest.raises(TypeError, match="`step_size` must have a real"):
        mesa.ols_gradient_step(jnp.ones((4, 3)), step_size=jnp.array(1j))
