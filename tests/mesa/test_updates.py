import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkit import mesa

pytestmark = pytest.mark.usefixtures("x64")

DIM = 2
OFF = ~np.eye(DIM, dtype=bool)


def skewed_batch():
    """A batch on which the off-diagonal gradients of A and B do not vanish."""
    return mesa.sample_ar_sequences(
        jax.random.key(0),
        batch_shape=(8,),
        length=5,
        dim=DIM,
        initial="ones",
        dtype=jnp.complex128,
    )


def dense_params():
    rng = np.random.default_rng(0)
    return mesa.LSAParams(
        jnp.asarray(rng.normal(size=(4, 4))), jnp.asarray(rng.normal(size=(2, 4)))
    )


def train(optimizer, params, *, masked, num_steps=3):
    """Masks gradients, or projects parameters after each step, as in the code."""
    x = skewed_batch()
    mask = mesa.keep_diagonal_updates()
    gradient = jax.jit(jax.grad(lambda p: jnp.mean(mesa.ar_loss(p, x))))
    state = optimizer.init(params)
    for _ in range(num_steps):
        grads = gradient(params)
        if masked:
            grads, _ = mask.update(grads, mask.init(params))
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        if not masked:
            params = mesa.project_diagonal(params)
    return params


def test_masks_touch_only_the_two_blocks():
    params = dense_params()
    kept = mesa.project_diagonal(params)
    a, b = kept.kq[DIM:, :DIM], kept.pv[:, :DIM]
    np.testing.assert_array_equal(a[OFF], 0.0)
    np.testing.assert_array_equal(b[OFF], 0.0)
    np.testing.assert_array_equal(jnp.diagonal(a), jnp.diagonal(params.kq[DIM:, :DIM]))
    np.testing.assert_array_equal(jnp.diagonal(b), jnp.diagonal(params.pv[:, :DIM]))
    np.testing.assert_array_equal(kept.kq[:DIM], params.kq[:DIM])
    np.testing.assert_array_equal(kept.kq[:, DIM:], params.kq[:, DIM:])
    np.testing.assert_array_equal(kept.pv[:, DIM:], params.pv[:, DIM:])


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.sgd(0.05),
        optax.sgd(0.05, momentum=0.9),
        optax.adam(0.05),
        optax.lion(0.05),
    ],
)
def test_masks_agree_entry_by_entry_from_a_diagonal_start(optimizer):
    params = mesa.init_diagonal(DIM, a=0.3, b=0.2, dtype=jnp.float64)
    by_mask = train(optimizer, params, masked=True)
    by_projection = train(optimizer, params, masked=False)
    chex.assert_trees_all_close(by_mask, by_projection, atol=1e-14)
    assert jnp.abs(by_mask.kq - params.kq).max() > 1e-3


def test_masks_differ_for_a_dense_start():
    plain, params = optax.sgd(0.01), dense_params()
    by_mask = train(plain, params, masked=True)
    by_projection = train(plain, params, masked=False)
    np.testing.assert_array_equal(by_mask.pv[:, :DIM][OFF], params.pv[:, :DIM][OFF])
    np.testing.assert_array_equal(by_projection.pv[:, :DIM][OFF], 0.0)


def test_masks_differ_when_the_optimizer_mixes_entries():
    optimizer = optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.05))
    params = mesa.init_diagonal(DIM, a=0.3, b=0.2, dtype=jnp.float64)
    by_mask = train(optimizer, params, masked=True)
    by_projection = train(optimizer, params, masked=False)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(by_mask, by_projection, atol=1e-6)


@pytest.mark.parametrize("optimizer", [optax.adam(0.05), optax.sgd(0.05, 0.9)])
def test_memory_of_masked_entries(optimizer):
    # The parameters agree; what a later unmasked step would use does not.
    params = mesa.init_diagonal(DIM, a=0.3, b=0.2, dtype=jnp.float64)
    x = skewed_batch()
    grads = jax.grad(lambda p: jnp.mean(mesa.ar_loss(p, x)))(params)
    mask = mesa.keep_diagonal_updates()
    masked, _ = mask.update(grads, mask.init(params))
    moments = []
    for g in (masked, grads):
        with jax.numpy_dtype_promotion("standard"):
            _, state = optimizer.update(g, optimizer.init(params), params)
        moments.append(optax.tree.get(state, "mu", default=None) or state[0].trace)
    assert jnp.abs(moments[0].pv[:, :DIM][OFF]).max() == 0
    assert jnp.abs(moments[1].pv[:, :DIM][OFF]).min() > 1e-3


def test_mask_chains_batches_and_accepts_dictionaries():
    optimizer = optax.chain(mesa.keep_diagonal_updates(), optax.sgd(1.0))
    params = dense_params()
    updates, _ = optimizer.update(params, optimizer.init(params))
    negative = jax.tree.map(jnp.negative, mesa.project_diagonal(params))
    chex.assert_trees_all_equal(updates, negative)
    batch = jax.tree.map(lambda p: jnp.stack([p, 2 * p]), params)
    kept = mesa.project_diagonal(batch)
    chex.assert_trees_all_equal(kept, jax.vmap(mesa.project_diagonal)(batch))
    as_dict = mesa.project_diagonal({"layer": params._asdict()})
    chex.assert_trees_all_equal(as_dict["layer"]["kq"], kept.kq[0])
    complex_params = jax.tree.map(lambda p: p.astype(complex), params)
    assert mesa.project_diagonal(complex_params).kq.dtype == complex


def test_non_finite_masked_entries_are_dropped():
    params = dense_params()
    bad = params._replace(pv=params.pv.at[0, 1].set(jnp.nan))
    assert jnp.isfinite(mesa.project_diagonal(bad).pv).all()


def test_bad_trees():
    with pytest.raises(ValueError, match="must hold leaves named kq and pv"):
        mesa.project_diagonal({"weight": jnp.ones((2, 4))})
    with pytest.raises(ValueError, match="must hold leaves named kq and pv, got the"):
        mesa.project_diagonal(jnp.ones((2, 4)))
    with pytest.raises(ValueError, match=r"`kq` must have shape \(..., 4, 4\)"):
        mesa.project_diagonal({"kq": jnp.ones((2, 4))})


def test_conjugate_updates():
    conjugate = mesa.conjugate_updates()
    tree = {"z": jnp.array([1 + 2j]), "x": jnp.array([3.0])}
    updates, _ = conjugate.update(tree, conjugate.init(tree))
    np.testing.assert_array_equal(updates["z"], [1 - 2j])
    np.testing.assert_array_equal(updates["x"], [3.0])
    assert updates["x"].dtype == jnp.float64


def test_one_parameter_demo_against_reference_values():
    # H1: |w - 2j|^2 by SGD; without the conjugate the imaginary part runs away.
    loss = lambda w: jnp.abs(w - 2j) ** 2
    ends = []
    for optimizer in (
        optax.sgd(0.1),
        optax.chain(mesa.conjugate_updates(), optax.sgd(0.1)),
    ):
        w = jnp.asarray(0j)
        state = optimizer.init(w)
        for _ in range(50):
            updates, state = optimizer.update(jax.grad(loss)(w), state)
            w = optax.apply_updates(w, updates)
        ends.append(w)
    np.testing.assert_allclose(ends[0], (2 - 2 * 1.2**50) * 1j, rtol=1e-12)
    assert int(ends[0].imag) == -18198
    np.testing.assert_allclose(ends[1], 2j, atol=1e-3)
