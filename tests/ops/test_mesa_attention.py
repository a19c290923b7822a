import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

from jaxkit import ops
from tests.ops._recurrences import complex_normal, mesa

SOLVERS = ("rls", "solve", "cg")
T, H, K, V = 11, 2, 3, 2
RIDGE = np.array([[0.3, 0.5, 0.9], [1.0, 0.2, 0.4]])


def _sequences(seed=0):
    rng = np.random.default_rng(seed)
    q, k = complex_normal(rng, T, H, K), complex_normal(rng, T, H, K)
    v, beta = complex_normal(rng, T, H, V), rng.uniform(0.0, 2.0, (T, H))
    beta[2] = 0.0
    past = complex_normal(rng, H, 2, K)
    gram = np.einsum("hna,hnb->hab", past, past.conj())
    state = ops.MesaState(gram, complex_normal(rng, H, K, V))
    return rng, (q, k, v), beta, state


@pytest.mark.parametrize(
    ("solver", "decayed"),
    [("rls", False), ("solve", False), ("solve", True), ("cg", False), ("cg", True)],
)
def test_equals_a_direct_solve_at_each_token(x64, solver, decayed):
    rng, args, beta, state = _sequences()
    log_decay = -rng.uniform(0.0, 1.0, (T, H)) if decayed else None
    out, last = ops.mesa_attention(
        *args,
        ridge=RIDGE,
        log_decay=log_decay,
        beta=beta,
        initial_state=state,
        scale=0.7,
        solver=solver,
        chunk_size=4,
        return_state=True,
    )
    want, gram, key_value = mesa(*args, RIDGE, log_decay, beta, state)
    np.testing.assert_allclose(out, 0.7 * want, rtol=0, atol=1e-11)
    np.testing.assert_allclose(last.key_gram, gram, rtol=0, atol=1e-11)
    np.testing.assert_allclose(last.key_value, key_value, rtol=0, atol=1e-11)


@pytest.mark.parametrize("solver", SOLVERS)
def test_is_the_ridge_regression_of_the_past(x64, solver):
    rng = np.random.default_rng(1)
    q, k, v = (complex_normal(rng, T, 1, K) for _ in range(3))
    out = ops.mesa_attention(q, k, v, ridge=0.3, solver=solver)
    # The normal equations of min_W sum |v - W k|^2 + 0.3 |W|^2, written out.
    rows = np.concatenate([k[:, 0], np.sqrt(0.3) * np.eye(K)])
    targets = np.concatenate([v[:, 0], np.zeros((K, K))])
    weight = np.linalg.lstsq(rows, targets, rcond=None)[0].T
    np.testing.assert_allclose(out[-1, 0], weight @ q[-1, 0], rtol=0, atol=1e-11)


@functools.cache
def _derivatives(solver, decayed):
    rng, args, beta, state = _sequences(2)
    log_decay = -rng.uniform(0.0, 1.0, (T, H))
    weights = complex_normal(rng, T, H, V)
    args = (*args, np.asarray(0.4), beta, state, log_decay)

    def loss(q, k, v, ridge, beta, state, log_decay):
        gram = (state.key_gram + jnp.swapaxes(state.key_gram, -1, -2).conj()) / 2
        out, last = ops.mesa_attention(
            q,
            k,
            v,
            ridge=ridge,
            log_decay=log_decay if decayed else None,
            beta=beta,
            initial_state=state._replace(key_gram=gram),
            solver=solver,
            chunk_size=4,
            return_state=True,
        )
        return sum(jnp.sum(ops.abs_squared(a)) for a in (out - weights, *last))

    tangents = jax.tree.map(
        lambda a: (
            complex_normal(rng, *a.shape)
            if np.iscomplexobj(a)
            else np.asarray(rng.standard_normal(a.shape))
        ),
        args,
    )

    @jax.jit
    def everything(args, tangents):
        gradient = jax.value_and_grad(loss, argnums=range(7))
        (value, grad), (slope, hvp) = jax.jvp(gradient, args, tangents)
        return value, slope, grad, hvp

    return jax.tree.map(np.asarray, everything(args, tangents))


@pytest.mark.parametrize(
    ("solver", "decayed"),
    [("rls", False), ("cg", False), pytest.param("cg", True, marks=pytest.mark.slow)],
)
def test_derivatives_of_all_solvers_agree(x64, solver, decayed):
    got, want = _derivatives(solver, decayed), _derivatives("solve", decayed)
    chex.assert_trees_all_close(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_split_sequence_continues(x64, solver):
    _, args, beta, _ = _sequences(3)
    run = functools.partial(
        ops.mesa_attention, ridge=0.3, solver=solver, chunk_size=4, return_state=True
    )
    want, gram, _ = mesa(*args, 0.3, beta=beta)
    outs, state = [], None
    for part in (slice(0, 5), slice(5, 11)):
        out, state = run(*(a[part] for a in args), beta=beta[part], initial_state=state)
        outs.append(out)
    np.testing.assert_allclose(jnp.concatenate(outs), want, rtol=0, atol=1e-11)
    np.testing.assert_allclose(state.key_gram, gram, rtol=0, atol=1e-11)


def test_converged_conjugate_gradients_stay_put():
    # The first query is 0 and the others are eigenvectors: 0 / 0 without a guard.
    q = jnp.eye(3)[jnp.array([0, 0, 1, 2])][:, None].at[0].set(0.0)
    k, v = jnp.eye(3)[jnp.array([0, 1, 2, 0])][:, None], jnp.ones((4, 1, 2))

    def run(args, ridge):
        out = ops.mesa_attention(*args, ridge=ridge, solver="cg", num_steps=20)
        return jnp.sum(jnp.square(out)), out

    grads, out = jax.grad(run, argnums=(0, 1), has_aux=True)((q, k, v), 1.0)
    want, _, _ = mesa(*(np.asarray(a, np.float64) for a in (q, k, v)), 1.0)
    np.testing.assert_allclose(out, want, atol=1e-6)
    chex.assert_tree_all_finite(grads)


@pytest.mark.parametrize("solver", SOLVERS)
def test_float32_error_with_a_small_ridge(solver):
    rng = np.random.default_rng(5)
    q, k = rng.standard_normal((2, 60, 1, 5)).astype(np.float32)
    v = k @ rng.standard_normal((5, 2)).astype(np.float32)
    want, _, _ = mesa(*(a.astype(np.float64) for a in (q, k, v)), 1e-3)
    out = ops.mesa_attention(q, k, v, ridge=1e-3, solver=solver)
    error = np.abs(out - want) / np.abs(want).max()
    assert error.max() < 1e-4
    # The inverse itself, updated in float32, still errs by 2e-6 here.
    assert error[-10:].max() < 6e-7


@pytest.mark.parametrize("solver", SOLVERS)
def test_bfloat16_keeps_its_state_in_float32(solver):
    rng = np.random.default_rng(6)
    low = [jnp.asarray(rng.standard_normal((40, 1, 4)), jnp.bfloat16) for _ in range(3)]
    out, state = ops.mesa_attention(*low, ridge=1.0, solver=solver, return_state=True)
    assert out.dtype == jnp.bfloat16
    assert state.key_gram.dtype == state.key_value.dtype == jnp.float32
    want, gram, _ = mesa(*(np.asarray(a, np.float64) for a in low), 1.0)
    np.testing.assert_allclose(state.key_gram, gram, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.asarray(out, np.float64), want, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize(
    "solver", ["rls", pytest.param("solve", marks=pytest.mark.slow), "cg"]
)
def test_batch_axes_vmap_and_shards_give_the_same(solver):
    rng = np.random.default_rng(7)
    batch = tuple(
        rng.standard_normal((4, T, H, n)).astype(np.float32) for n in (K, K, V)
    )
    want = np.stack([mesa(*(a[i] for a in batch), RIDGE)[0] for i in range(4)])
    run = functools.partial(
        ops.mesa_attention,
        ridge=RIDGE.astype(np.float32),
        solver=solver,
        chunk_size=4,
        num_steps=8,
    )
    mesh, spec = ops.data_mesh(4), jax.P("data")
    sharded = ops.shard_batch(batch, mesh)
    manual = jax.shard_map(run, mesh=mesh, in_specs=spec, out_specs=spec)
    for out in (
        run(*batch),
        jax.vmap(run)(*batch),
        run(*sharded),
        jax.jit(manual)(*sharded),
    ):
        np.testing.assert_allclose(out, want, rtol=0, atol=3e-5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_gradient_keeps_a_matrix_per_chunk_not_per_token(solver):
    length, features = 2048, 32

    def loss(q, k, v):
        out = ops.mesa_attention(q, k, v, ridge=1.0, solver=solver, num_steps=8)
        return jnp.sum(jnp.square(out))

    x = jax.ShapeDtypeStruct((length, 1, features), jnp.float32)
    program = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(x, x, x).compile()
    per_token = length * features * features * 4
    assert program.memory_analysis().temp_size_in_bytes < per_token


def test_a_ridge_that_is_not_positive_is_found_by_checkify():
    key = jnp.ones((2, 1, 1))
    solve = lambda ridge: ops.mesa_attention(key, key, key, ridge=ridge)
    checked = checkify.checkify(jax.jit(solve))
    assert checked(1.0)[0].get() is None
    with pytest.raises(checkify.JaxRuntimeError, match="`ridge` must be positive"):
        checked(0.0)[0].throw()


def test_the_ridge_is_traced():
    _, args, _, _ = _sequences()
    ops.mesa_attention(*args, ridge=0.5)
    before = ops.mesa_attention._cache_size()
    ops.mesa_attention(*args, ridge=1.5)
    assert ops.mesa_attention._cache_size() == before


X = jnp.ones((4, 2, 3))


@pytest.mark.parametrize(
    ("error", "match", "change"),
    [
        (ValueError, "`query` and `key`", {"query": jnp.ones((4, 2, 2))}),
        (ValueError, "`value`", {"value": jnp.ones((5, 2, 3))}),
        (ValueError, "`ridge`", {"ridge": jnp.ones((4,))}),
        (TypeError, "`ridge`", {"ridge": 1j}),
        (ValueError, "`beta`", {"beta": jnp.ones((4, 1))}),
        (ValueError, "`log_decay`.*ridge", {"log_decay": jnp.zeros((4, 2))}),
        (
            ValueError,
            "`log_decay`.*Hermitian",
            {"log_decay": jnp.zeros((4, 2, 3)), "solver": "cg"},
        ),
        (
            ValueError,
            r"`initial_state.key_gram`.*\(2, 3, 3\)",
            {"initial_state": ops.MesaState(X, jnp.ones((2, 3, 3)))},
        ),
        (ValueError, "`solver`", {"solver": "lu"}),
        (ValueError, "`num_steps`", {"num_steps": 0}),
        (ValueError, "`chunk_size`", {"chunk_size": 0}),
    ],
)
def test_refuses(error, match, change):
    args = {"query": X, "key": X, "value": X, "ridge": 1.0}
    with pytest.raises(error, match=match):
        ops.mesa_attention(**{**args, **change})
