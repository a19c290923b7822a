import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import mesa

FORMS = ("auto", "chunked", "parallel", "recurrent", "quadratic", "associative")


def reference_predictions(kq, pv, x):
    """The definition, position by position, in float64 NumPy."""
    kq, pv, x = (np.asarray(v, np.complex128) for v in (kq, pv, x))
    before = np.concatenate([np.zeros_like(x[:1]), x[:-1]])
    e = np.concatenate([x, before], axis=1).T
    columns = [
        pv @ (e[:, :t] @ e[:, :t].conj().T) / (t - 1) @ kq @ e[:, t - 1]
        for t in range(2, x.shape[0])
    ]
    return np.array(columns)


def generic(seed=0, *, batch=(2,), length=7, dim=3):
    """Generic complex parameters and sequences that obey no recursion."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=shape) + 1j * rng.normal(size=shape)
    params = mesa.LSAParams(
        jnp.asarray(draw(2 * dim, 2 * dim)), jnp.asarray(draw(dim, 2 * dim))
    )
    return params, jnp.asarray(draw(*batch, length, dim))


@pytest.mark.usefixtures("x64")
def test_hand_example():
    x = mesa.ar_sequences(jnp.array([1.0, 2.0]), jnp.array([1j, -1.0]), length=4)
    params = mesa.init_diagonal(2, a=0.5, b=0.4, dtype=jnp.float64)
    # B G_t A x_t with G_2 x_2 and G_3 x_3 worked out by hand; without the
    # conjugate the last row would be (2 + 2i, -7 - i).
    expected = 0.2 * np.array([[-1 - 4j, 8 - 2j], [2 + 1j, -7 + 1j]])
    chex.assert_trees_all_close(mesa.lsa_predict(params, x), expected, atol=1e-12)
    chex.assert_trees_all_close(mesa.ar_loss(params, x), np.array(1.8), atol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("form", FORMS)
def test_all_forms_equal_the_definition(form):
    params, x = generic()
    expected = np.stack([reference_predictions(*params, row) for row in x])
    got = mesa.lsa_predict(params, x, implementation=form)
    assert got.shape == (2, 5, 3)
    chex.assert_trees_all_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("x64")
def test_full_layer_with_residual_and_output_slot():
    # The 3d-row layer f_t = e_t + W_PV E_t E_t^* W_KQ e_t / (t-1) of the paper.
    params, x = generic(1)
    kq, pv, row = *map(np.asarray, params), np.asarray(x[0])
    d = 3
    w_kq, w_pv = np.zeros((2, 3 * d, 3 * d), complex)
    w_kq[d:, d:], w_pv[:d, d:] = kq, pv
    before = np.concatenate([np.zeros_like(row[:1]), row[:-1]])
    e = np.concatenate([np.zeros_like(row), row, before], axis=1).T
    t = 6
    f = e[:, t - 1] + w_pv @ e[:, :t] @ (e[:, :t].conj().T @ w_kq @ e[:, t - 1]) / (
        t - 1
    )
    got = mesa.lsa_predict(params, x)[0, t - 2]
    chex.assert_trees_all_close(got, f[:d], rtol=1e-11)


@pytest.mark.usefixtures("x64")
def test_loss_is_a_sum_over_time_and_matches_the_definition():
    params, x = generic(2)
    expected = [
        0.5 * np.sum(np.abs(reference_predictions(*params, row) - row[2:]) ** 2)
        for row in np.asarray(x)
    ]
    loss = mesa.ar_loss(params, x)
    assert loss.dtype == jnp.float64
    chex.assert_trees_all_close(loss, np.array(expected), rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_real_parameters_get_a_real_gradient():
    params, x = generic(3)
    real = jax.tree.map(jnp.real, params)
    loss = lambda p: jnp.sum(mesa.ar_loss(p, x))
    grads = jax.grad(loss)(real)
    complex_grads = jax.grad(loss)(jax.tree.map(lambda p: p.astype(complex), real))
    assert grads.kq.dtype == jnp.float64
    chex.assert_trees_all_close(grads, jax.tree.map(jnp.real, complex_grads), rtol=1e-9)
    tangent = mesa.LSAParams(jnp.ones_like(real.kq), jnp.ones_like(real.pv))
    _, slope = jax.jvp(loss, (real,), (tangent,))
    np.testing.assert_allclose(slope, sum(g.sum() for g in grads), rtol=1e-9)


@pytest.mark.usefixtures("x64")
def test_gradient_of_complex_parameters_against_differences():
    params, x = generic(4)
    loss = lambda p: jnp.sum(mesa.ar_loss(p, x))
    grads = jax.grad(loss)(params)
    for direction in (1.0, 1j):
        step = jax.tree.map(lambda p, d=direction: jnp.full_like(p, d), params)
        up = loss(jax.tree.map(lambda p, s: p + 1e-6 * s, params, step))
        down = loss(jax.tree.map(lambda p, s: p - 1e-6 * s, params, step))
        # jax.grad returns dL/dRe - i dL/dIm.
        expected = sum(jnp.sum(g * direction).real for g in grads)
        np.testing.assert_allclose((up - down) / 2e-6, expected, rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_masked_sequences_change_neither_value_nor_gradient():
    params, x = generic(5)
    poisoned = x.at[0].set(jnp.nan)
    where = jnp.array([False, True])
    total = lambda p, x, where: jnp.sum(mesa.ar_loss(p, x, where=where))
    value, grads = jax.value_and_grad(total)(params, poisoned, where)
    expected, expected_grads = jax.value_and_grad(total)(params, x[1:], where[1:])
    chex.assert_trees_all_close((value, grads), (expected, expected_grads), rtol=1e-12)
    assert mesa.ar_loss(params, poisoned, where=where)[0] == 0


def test_where_of_a_single_sequence():
    x = mesa.ar_sequences(jnp.ones(2), jnp.array([1j, -1.0]), length=4)
    params = mesa.init_diagonal(2)
    assert mesa.ar_loss(params, x, where=jnp.asarray(False)) == 0
    assert mesa.ar_loss(params, x, where=jnp.asarray(True)) > 0


def test_vmap_over_parameters_is_a_loop():
    x = mesa.sample_ar_sequences(jax.random.key(0), batch_shape=(2,), length=7, dim=3)
    a, b = jnp.array([0.1, 0.5, 2.0]), jnp.array([0.1, 1.5, 2.0])
    params = mesa.init_diagonal(3, a=a, b=b)
    batched = jax.vmap(lambda p: mesa.ar_loss(p, x))(params)
    single = lambda i: jax.tree.map(lambda leaf: leaf[i], params)
    looped = jnp.stack([mesa.ar_loss(single(i), x) for i in range(3)])
    chex.assert_trees_all_close(batched, looped, rtol=1e-5)
    assert params.kq.shape == (3, 6, 6)


def test_one_trace_per_shape():
    loss = jax.jit(chex.assert_max_traces(lambda p, x: mesa.ar_loss(p, x), n=1))
    for seed, a in ((0, 0.1), (1, 0.7)):
        x = mesa.sample_ar_sequences(
            jax.random.key(seed), batch_shape=(2,), length=7, dim=3
        )
        loss(mesa.init_diagonal(3, a=a), x)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_low_precision_parameters_accumulate_in_float32(dtype):
    x = mesa.ar_sequences(jnp.ones(2), jnp.array([1j, -1.0]), length=6)
    params = mesa.init_diagonal(2, a=0.5, b=0.25, dtype=dtype)
    exact = mesa.init_diagonal(2, a=0.5, b=0.25)
    loss = mesa.ar_loss(params, x)
    assert loss.dtype == jnp.float32
    assert mesa.lsa_predict(params, x).dtype == jnp.complex64
    chex.assert_trees_all_close(loss, mesa.ar_loss(exact, x), rtol=1e-6)


def test_real_bfloat16_sequences():
    x = mesa.ar_sequences(jnp.ones(2), jnp.array([1.0, -1.0]), length=5)
    params = mesa.init_diagonal(2)
    low = mesa.ar_loss(params, x.astype(jnp.bfloat16))
    chex.assert_trees_all_close(low, mesa.ar_loss(params, x), rtol=1e-6)


def test_embedding_joins_neighbors():
    x = jnp.arange(6.0).reshape(3, 2)
    expected = np.array([[0, 1, 0, 0], [2, 3, 0, 1], [4, 5, 2, 3]])
    np.testing.assert_array_equal(mesa.embed_ar(x), expected)


def test_initializers_fill_the_right_blocks():
    params = mesa.init_diagonal(2, a=0.5, b=0.25)
    np.testing.assert_array_equal(params.kq[2:, :2], 0.5 * np.eye(2))
    np.testing.assert_array_equal(params.pv[:, :2], 0.25 * np.eye(2))
    assert jnp.sum(jnp.abs(params.kq)) == 1.0
    assert jnp.sum(jnp.abs(params.pv)) == 0.5
    dense = mesa.init_gaussian(jax.random.key(0), 20, stddev=0.1)
    assert abs(jnp.std(dense.kq) - 0.1) < 0.01
    assert abs(jnp.std(dense.pv) - 0.1) < 0.01
    assert abs(jnp.vdot(dense.kq[:20].ravel(), dense.pv.ravel())) < 1.5
    complex_params = mesa.init_gaussian(
        jax.random.key(1), 20, stddev=0.1, dtype=jnp.complex64
    )
    assert abs(jnp.std(complex_params.kq) - 0.1) < 0.01
    assert abs(jnp.std(complex_params.kq.imag) - 0.1 / np.sqrt(2)) < 0.01


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3), "`x` must have at least 3 entries along axis -2"),
        ((0, 4, 3), r"`x` must not be empty, got shape \(0, 4, 3\)"),
        ((4,), "`x` must have at least 3 entries along axis -2"),
        ((4, 2), r"`params.kq` must have shape \(4, 4\)"),
    ],
)
def test_bad_shapes(shape, message):
    with pytest.raises(ValueError, match=message):
        mesa.ar_loss(mesa.init_diagonal(3), jnp.zeros(shape, jnp.complex64))


def test_bad_options():
    params, x = mesa.init_diagonal(3), jnp.zeros((4, 3), jnp.complex64)
    with pytest.raises(ValueError, match="`implementation` must be one of"):
        mesa.lsa_predict(params, x, implementation="magic")
    with pytest.raises(TypeError, match="`x` must have a floating"):
        mesa.lsa_predict(params, jnp.zeros((4, 3), jnp.int32))
    with pytest.raises(TypeError, match="`where` must have dtype bool"):
        mesa.ar_loss(params, x, where=jnp.ones(()))
    with pytest.raises(ValueError, match="`where` must broadcast to shape"):
        mesa.ar_loss(params, x, where=jnp.ones(3, bool))
    with pytest.raises(ValueError, match=r"`params.pv` must have shape \(3, 6\)"):
        mesa.lsa_predict(params._replace(pv=params.kq), x)
    with pytest.raises(ValueError, match="`dim` must be at least 1"):
        mesa.init_diagonal(0)
    with pytest.raises(ValueError, match="`dim` must be at least 1"):
        mesa.init_gaussian(jax.random.key(0), 0)


class VariantsTest(chex.TestCase):
    """The same numbers compiled, not compiled, and on a chosen device."""

    @chex.variants(with_jit=True, without_jit=True, with_device=True)
    def test_loss(self):
        x = mesa.ar_sequences(jnp.array([1.0, 2.0]), jnp.array([1j, -1.0]), length=4)
        loss = self.variant(mesa.ar_loss)(mesa.init_diagonal(2, a=0.5, b=0.4), x)
        chex.assert_trees_all_close(loss, np.float32(1.8), rtol=1e-6)

    @chex.variants(with_jit=True, without_jit=True, with_device=True)
    def test_flow(self):
        solve = self.variant(mesa.reduced_flow_solution)
        a, b = solve(0.4, -0.4, 34.5, 6.0, jnp.inf)
        chex.assert_trees_all_close((a, b), (np.float32(0), np.float32(0)), atol=1e-15)
