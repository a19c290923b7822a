import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import ops
from tests.ops._recurrences import complex_normal, delta, unit

FORMS = ("chunked", "recurrent")
T, H, K, V = 13, 2, 3, 2
IDS = np.array([7, 7, 7, 7, 2, 2, 5, 7, 7, 7, 7, 7, 3])


def _decay(rng, kind):
    shape = {"none": None, "head": (T, H), "channel": (T, H, K)}[kind]
    return None if shape is None else -rng.uniform(0.0, 2.0, shape)


def _sequences(seed=0):
    rng = np.random.default_rng(seed)
    q, k = complex_normal(rng, T, H, K), unit(complex_normal(rng, T, H, K))
    v, beta = complex_normal(rng, T, H, V), rng.uniform(0.0, 2.0, (T, H))
    return rng, (q, k, v, beta), complex_normal(rng, H, K, V)


@pytest.mark.parametrize("kind", ["none", "head", "channel"])
@pytest.mark.parametrize("form", FORMS)
def test_equals_the_numpy_recurrence(x64, form, kind):
    rng, args, state = _sequences()
    log_decay = _decay(rng, kind)
    out, last = ops.delta_rule(
        *args,
        log_decay=log_decay,
        initial_state=state,
        segment_ids=IDS,
        scale=0.7,
        chunk_size=4,
        implementation=form,
        return_state=True,
    )
    want, want_last = delta(*args, log_decay, state, IDS)
    np.testing.assert_allclose(out, 0.7 * want, rtol=0, atol=1e-12)
    np.testing.assert_allclose(last, want_last, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("length", "size"), [(1, 64), (13, 1), (13, 6), (13, 64)])
def test_any_length_and_chunk_size(x64, length, size):
    _, args, state = _sequences()
    args = [a[:length] for a in args]
    out, last = ops.delta_rule(
        *args, initial_state=state, chunk_size=size, return_state=True
    )
    want, want_last = delta(*args, state=state)
    np.testing.assert_allclose(out, want, rtol=0, atol=1e-12)
    np.testing.assert_allclose(last, want_last, rtol=0, atol=1e-12)


def test_orthonormal_keys_are_recalled_exactly():
    key = jnp.eye(4)[:, None, :]
    value = jnp.arange(8.0).reshape(4, 1, 2)
    ones = jnp.ones((4, 1))
    _, state = ops.delta_rule(key, key, value, ones, return_state=True)
    np.testing.assert_allclose(state[0], value[:, 0], atol=1e-6)
    # A second value for the same key replaces the first.
    again = ops.delta_rule(key, key, -value, ones, initial_state=state)
    np.testing.assert_allclose(again, -value, atol=1e-6)


@functools.cache
def _derivatives(form, kind):
    rng, args, state = _sequences(1)
    log_decay = _decay(rng, kind)
    weights = complex_normal(rng, T, H, V)
    args = (*args, state, log_decay)

    def loss(q, k, v, beta, state, log_decay):
        out, last = ops.delta_rule(
            q,
            k,
            v,
            beta,
            log_decay=log_decay,
            initial_state=state,
            segment_ids=IDS,
            chunk_size=4,
            implementation=form,
            return_state=True,
        )
        return jnp.sum((weights * out).real) + jnp.sum(ops.abs_squared(last))

    tangents = jax.tree.map(
        lambda a: (
            complex_normal(rng, *a.shape)
            if np.iscomplexobj(a)
            else rng.standard_normal(a.shape)
        ),
        args,
    )

    @jax.jit
    def everything(args, tangents):
        gradient = jax.value_and_grad(loss, argnums=range(6))
        (value, grad), (slope, hvp) = jax.jvp(gradient, args, tangents)
        return value, slope, grad, hvp

    return jax.tree.map(np.asarray, everything(args, tangents))


@pytest.mark.parametrize(
    "kind", ["head", pytest.param("channel", marks=pytest.mark.slow)]
)
def test_derivatives_of_both_forms_agree(x64, kind):
    got, want = _derivatives("chunked", kind), _derivatives("recurrent", kind)
    chex.assert_trees_all_close(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
def test_a_split_sequence_continues(x64, form):
    rng, args, state = _sequences(3)
    log_decay = _decay(rng, "head")
    run = functools.partial(
        ops.delta_rule, implementation=form, chunk_size=4, return_state=True
    )
    want, last = delta(*(a[:12] for a in (*args, log_decay)), state)
    outs = []
    for part in (slice(0, 6), slice(6, 12)):
        out, state = run(
            *(a[part] for a in args), log_decay=log_decay[part], initial_state=state
        )
        outs.append(out)
    np.testing.assert_allclose(jnp.concatenate(outs), want, rtol=0, atol=1e-12)
    np.testing.assert_allclose(state, last, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "form", ["chunked", pytest.param("recurrent", marks=pytest.mark.slow)]
)
def test_low_precision_and_extreme_decays(form):
    rng = np.random.default_rng(4)
    q, v = rng.standard_normal((2, 64, 1, 4))
    k, beta = unit(rng.standard_normal((64, 1, 4))), rng.uniform(0, 1, (64, 1))
    log_decay = -rng.uniform(0.0, 0.1, (64, 1))
    log_decay[[3, 40]] = -1e4
    log_decay[[20, 32]] = -np.inf
    args = [a.astype(np.float32) for a in (q, k, v, beta, log_decay)]
    want, _ = delta(*(a.astype(np.float64) for a in args))

    @jax.jit
    def run(q, k, v, beta, log_decay):
        out = ops.delta_rule(
            q, k, v, beta, log_decay=log_decay, chunk_size=16, implementation=form
        )
        return jnp.sum(jnp.square(out)), out

    grads, out = jax.grad(run, argnums=range(5), has_aux=True)(*args)
    np.testing.assert_allclose(out, want, rtol=0, atol=3e-6 * np.abs(want).max())
    chex.assert_tree_all_finite(grads)
    low = [jnp.asarray(a, jnp.bfloat16) for a in args]
    want, _ = delta(*(np.asarray(a, np.float64) for a in low))
    out = run(*low)[1]
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        np.asarray(out, np.float64), want, rtol=0, atol=4e-3 * np.abs(want).max()
    )


@pytest.mark.parametrize("size", [40, 64])
def test_repeated_keys_at_the_edge_of_stability_stay_accurate(size):
    # The triangular matrix is all twos; its powers would overflow the digits.
    rng = np.random.default_rng(5)
    q, v = rng.standard_normal((2, 130, 1, 4)).astype(np.float32)
    k = np.broadcast_to(np.float32([0.5, -0.5, 0.5, 0.5]), q.shape)
    beta = np.full((130, 1), 2.0, np.float32)
    want, _ = delta(*(a.astype(np.float64) for a in (q, k, v, beta)))
    out = ops.delta_rule(q, k, v, beta, chunk_size=size)
    np.testing.assert_allclose(out, want, rtol=0, atol=2e-5 * np.abs(want).max())


def test_batch_axes_vmap_and_shards_give_the_same():
    rng = np.random.default_rng(8)
    q, v = rng.standard_normal((4, T, H, K)), rng.standard_normal((4, T, H, V))
    k, beta = unit(rng.standard_normal((4, T, H, K))), rng.uniform(0, 1, (4, T, H))
    batch = tuple(a.astype(np.float32) for a in (q, k, v, beta))
    want = np.stack([delta(*(a[i] for a in batch))[0] for i in range(4)])
    run = functools.partial(ops.delta_rule, chunk_size=4)
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


def test_gradient_memory_is_linear_in_length():
    def loss(*args):
        return jnp.sum(jnp.square(ops.delta_rule(*args)))

    x = jax.ShapeDtypeStruct((16384, 1, 64), jnp.float32)
    beta = jax.ShapeDtypeStruct((16384, 1), jnp.float32)
    program = jax.jit(jax.grad(loss, argnums=range(4))).lower(x, x, x, beta).compile()
    assert program.memory_analysis().temp_size_in_bytes <= 16 * 2**20


X = jnp.ones((4, 2, 3))


@pytest.mark.parametrize(
    ("error", "match", "change"),
    [
        (ValueError, "`query` and `key`", {"query": jnp.ones((4, 2, 2))}),
        (ValueError, "`value`", {"value": jnp.ones((5, 2, 3))}),
        (ValueError, "`beta`", {"beta": jnp.ones((4, 1))}),
        (TypeError, "`beta`.*complex64", {"beta": jnp.ones((4, 2), jnp.complex64)}),
        (ValueError, "`initial_state`", {"initial_state": jnp.ones((2, 3, 4))}),
        (ValueError, "`chunk_size`", {"chunk_size": 0}),
        (ValueError, "`implementation`", {"implementation": "quadratic"}),
    ],
)
def test_refuses(error, match, change):
    args = {"query": X, "key": X, "value": X, "beta": jnp.ones((4, 2))}
    with pytest.raises(error, match=match):
        ops.delta_rule(**{**args, **change})
