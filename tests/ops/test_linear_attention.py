import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import ops
from tests.ops._recurrences import complex_normal, linear

FORMS = ("chunked", "parallel", "recurrent", "quadratic", "associative")
T, H, K, V = 13, 2, 3, 2
# With chunks of 4: a change at a chunk boundary, two within one chunk, a segment
# over several chunks, and an id that comes back.
IDS = np.array([7, 7, 7, 7, 2, 2, 5, 7, 7, 7, 7, 7, 3])


def _decay(rng, kind):
    shape = {"none": None, "head": (T, H), "channel": (T, H, K)}[kind]
    return None if shape is None else -rng.uniform(0.0, 2.0, shape)


def _sequences(seed=0):
    rng = np.random.default_rng(seed)
    q, k = complex_normal(rng, T, H, K), complex_normal(rng, T, H, K)
    return rng, q, k, complex_normal(rng, T, H, V), complex_normal(rng, H, K, V)


@pytest.mark.parametrize("kind", ["none", "head", "channel"])
@pytest.mark.parametrize("form", FORMS)
def test_equals_the_numpy_recurrence(x64, form, kind):
    rng, q, k, v, state = _sequences()
    log_decay = _decay(rng, kind)
    out, last = ops.linear_attention(
        q,
        k,
        v,
        log_decay=log_decay,
        initial_state=state,
        segment_ids=IDS,
        scale=0.7,
        chunk_size=4,
        implementation=form,
        return_state=True,
    )
    want, want_last = linear(q, k, v, log_decay, state, IDS)
    np.testing.assert_allclose(out, 0.7 * want, rtol=0, atol=1e-12)
    np.testing.assert_allclose(last, want_last, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("form", "kind"), [("chunked", "channel"), ("parallel", "head")]
)
@pytest.mark.parametrize(("length", "size"), [(1, 64), (13, 1), (13, 6), (13, 64)])
def test_any_length_and_chunk_size(x64, form, kind, length, size):
    rng, q, k, v, state = _sequences()
    log_decay = _decay(rng, kind)
    arrays = [a if a is None else a[:length] for a in (q, k, v, log_decay)]
    out, last = ops.linear_attention(
        *arrays[:3],
        log_decay=arrays[3],
        initial_state=state,
        chunk_size=size,
        implementation=form,
        return_state=True,
    )
    want, want_last = linear(*arrays, state)
    np.testing.assert_allclose(out, want, rtol=0, atol=1e-12)
    np.testing.assert_allclose(last, want_last, rtol=0, atol=1e-12)


def test_key_is_conjugated_as_in_the_hand_example(x64):
    # Spec 9.1: out_t = G_t x_t (t - 1) with G_t = mean of x_{i+1} x_i* over i < t.
    x = np.array([[1, 2], [1j, -2], [-1, 2], [-1j, -2]])[:, None]
    previous = np.concatenate([np.zeros((1, 1, 2)), x[:-1]])
    for form in FORMS:
        out = ops.linear_attention(x, previous, x, implementation=form)[:, 0]
        np.testing.assert_allclose(out[1], [-1 - 4j, 8 - 2j], atol=1e-13)
        np.testing.assert_allclose(out[2] / 2, [2 + 1j, -7 + 1j], atol=1e-13)


@functools.cache
def _derivatives(form, kind):
    """Value, gradient, directional derivative and Hessian-vector product."""
    rng, q, k, v, state = _sequences(1)
    log_decay = np.zeros((T, H)) if kind == "none" else _decay(rng, kind)
    weights = complex_normal(rng, T, H, V)
    args = (q, k, v, state, log_decay)

    def loss(q, k, v, state, log_decay):
        out, last = ops.linear_attention(
            q,
            k,
            v,
            log_decay=None if kind == "none" else log_decay,
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
        gradient = jax.value_and_grad(loss, argnums=range(5))
        (value, grad), (slope, hvp) = jax.jvp(gradient, args, tangents)
        return value, slope, grad, hvp

    return jax.tree.map(np.asarray, everything(args, tangents))


SLOW_DERIVATIVES = [
    pytest.param(form, kind, marks=pytest.mark.slow)
    for form, kind in (
        ("chunked", "none"),
        ("quadratic", "channel"),
        ("associative", "channel"),
    )
]


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        ("chunked", "head"),
        ("chunked", "channel"),
        ("parallel", "head"),
        ("parallel", "channel"),
        ("quadratic", "head"),
        ("associative", "head"),
        *SLOW_DERIVATIVES,
    ],
)
def test_derivatives_of_all_forms_agree(x64, form, kind):
    got, want = _derivatives(form, kind), _derivatives("recurrent", kind)
    chex.assert_trees_all_close(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_gradient_equals_finite_differences(x64):
    rng, q, k, v, _ = _sequences(2)
    log_decay = _decay(rng, "channel")
    arrays = (q, k, v, log_decay)
    direction = [rng.standard_normal(a.shape).astype(a.dtype) for a in arrays]

    @jax.jit
    def along(step):
        moved = [
            a + jnp.asarray(step, d.dtype) * d
            for a, d in zip(arrays, direction, strict=True)
        ]
        out = ops.linear_attention(*moved[:3], log_decay=moved[3], chunk_size=4)
        return jnp.sum(ops.abs_squared(out))

    step = 1e-5
    want = (along(step) - along(-step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(along)(0.0), want, rtol=1e-7)


@pytest.mark.parametrize("form", FORMS)
def test_a_split_sequence_continues(x64, form):
    rng, q, k, v, state = _sequences(3)
    log_decay = _decay(rng, "head")
    run = functools.partial(
        ops.linear_attention, implementation=form, chunk_size=4, return_state=True
    )
    want, last = linear(*(a[:12] for a in (q, k, v, log_decay)), state)
    outs = []
    for part in (slice(0, 6), slice(6, 12)):
        out, state = run(
            q[part], k[part], v[part], log_decay=log_decay[part], initial_state=state
        )
        outs.append(out)
    np.testing.assert_allclose(jnp.concatenate(outs), want, rtol=0, atol=1e-12)
    np.testing.assert_allclose(state, last, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["none", "head", "channel"])
def test_step_equals_the_sequence(x64, kind):
    rng, q, k, v, state = _sequences(4)
    log_decay = _decay(rng, kind)
    want, last = linear(q, k, v, log_decay, state)
    for t in range(T):
        out, state = ops.linear_attention_step(
            state,
            q[t],
            k[t],
            v[t],
            log_decay=None if log_decay is None else log_decay[t],
            scale=0.5,
        )
        np.testing.assert_allclose(out, 0.5 * want[t], rtol=0, atol=1e-12)
    np.testing.assert_allclose(state, last, rtol=0, atol=1e-12)


def test_position_counts_within_the_segment(x64):
    _, q, k, v, _ = _sequences(5)
    raw, _ = linear(q, k, v, ids=IDS)
    count = np.array([1, 2, 3, 4, 1, 2, 1, 1, 2, 3, 4, 5, 1])
    out = ops.linear_attention(q, k, v, segment_ids=IDS, normalize="position")
    np.testing.assert_allclose(out, raw / count[:, None, None], atol=1e-12)
    raw, _ = linear(q, k, v)
    batch = ops.linear_attention(*(a[None] for a in (q, k, v)), normalize="position")
    np.testing.assert_allclose(
        batch[0], raw / np.arange(1, T + 1)[:, None, None], atol=1e-12
    )


@pytest.mark.parametrize("form", ["chunked", "parallel", "recurrent"])
def test_key_sum_divides_by_the_attended_mass(x64, form):
    rng, q, k, v, _ = _sequences(6)
    log_decay = _decay(rng, "head")
    numerator, _ = linear(q, k, v, log_decay)
    mass, _ = linear(q, k, np.ones((T, H, 1)), log_decay)
    assert (mass.real < 0).any()
    assert (mass.real > 0).any()
    want = numerator / (mass + np.where(mass.real < 0, -0.1, 0.1))
    run = functools.partial(
        ops.linear_attention,
        normalize="key_sum",
        eps=0.1,
        chunk_size=4,
        implementation=form,
        return_state=True,
    )
    first, state = run(q[:7], k[:7], v[:7], log_decay=log_decay[:7])
    assert state.shape == (H, K, V + 1)
    second, _ = run(q[7:], k[7:], v[7:], log_decay=log_decay[7:], initial_state=state)
    np.testing.assert_allclose(jnp.concatenate([first, second]), want, atol=1e-11)


@pytest.mark.parametrize("form", FORMS)
def test_bfloat16_sums_in_float32(form):
    # A bfloat16 sum of ones stops at 256.
    ones = jnp.ones((600, 1, 2), jnp.bfloat16)
    out, state = ops.linear_attention(
        ones, ones, ones, implementation=form, return_state=True
    )
    assert out.dtype == jnp.bfloat16
    assert state.dtype == jnp.float32
    np.testing.assert_array_equal(state, 600.0)
    want = jnp.asarray(2.0 * np.arange(1, 601), jnp.bfloat16)
    np.testing.assert_array_equal(out[:, 0, 0], want)


def test_dtypes_promote():
    q, k = jnp.ones((3, 1, 2), jnp.bfloat16), jnp.ones((3, 1, 2), jnp.complex64)
    v = jnp.ones((3, 1, 2), jnp.float32)
    assert ops.linear_attention(q, k, v).dtype == jnp.complex64
    assert ops.linear_attention(q, q, v).dtype == jnp.float32
    state = jnp.ones((1, 2, 2), jnp.complex64)
    out, last = ops.linear_attention(v, v, v, initial_state=state, return_state=True)
    assert out.dtype == last.dtype == jnp.complex64


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        ("chunked", "channel"),
        ("quadratic", "head"),
        pytest.param("parallel", "head", marks=pytest.mark.slow),
        pytest.param("chunked", "head", marks=pytest.mark.slow),
        pytest.param("parallel", "channel", marks=pytest.mark.slow),
        pytest.param("quadratic", "channel", marks=pytest.mark.slow),
    ],
)
def test_float32_error_stays_small_next_to_extreme_decays(form, kind):
    rng = np.random.default_rng(7)
    length = 72
    q, k, v = (rng.standard_normal((length, 1, 4)) for _ in range(3))
    shape = (length, 1, 4) if kind == "channel" else (length, 1)
    log_decay = -rng.uniform(0.0, 0.1, shape)
    # Differences of running sums would lose all digits behind these.
    log_decay[[3, 40, 41, 63]] = -1e4
    log_decay[[20, 32, 65]] = -np.inf
    q, k, v, log_decay = (a.astype(np.float32) for a in (q, k, v, log_decay))
    want, _ = linear(*(a.astype(np.float64) for a in (q, k, v, log_decay)))

    @jax.jit
    def run(*args):
        def loss(q, k, v, log_decay):
            out = ops.linear_attention(
                q, k, v, log_decay=log_decay, chunk_size=16, implementation=form
            )
            return jnp.sum(jnp.square(out)), out

        return jax.grad(loss, argnums=(0, 1, 2, 3), has_aux=True)(*args)

    grads, out = run(q, k, v, log_decay)
    np.testing.assert_allclose(out, want, rtol=0, atol=2e-6 * np.abs(want).max())
    chex.assert_tree_all_finite(grads)
    # What was forgotten completely has no influence.
    np.testing.assert_array_equal(grads[3][np.isinf(log_decay)], 0.0)


@pytest.mark.parametrize("form", ["recurrent", "associative"])
def test_token_forms_forget_completely(form):
    ones = jnp.ones((3, 1, 1))
    log_decay = jnp.array([0.0, -jnp.inf, -1e4])[:, None]

    def run(log_decay):
        out = ops.linear_attention(
            ones, ones, ones, log_decay=log_decay, implementation=form
        )
        return jnp.sum(out), out

    grad, out = jax.grad(run, has_aux=True)(log_decay)
    np.testing.assert_array_equal(out[:, 0, 0], [1.0, 1.0, 1.0])
    np.testing.assert_array_equal(grad[:, 0], 0.0)


def test_auto_is_chunked_on_cpu():
    _, q, k, v, _ = _sequences()
    run = functools.partial(ops.linear_attention, q, k, v, chunk_size=4)
    jaxprs = {
        form: str(jax.make_jaxpr(lambda form=form: run(implementation=form))())
        for form in ("auto", "chunked", "parallel")
    }
    assert jaxprs["auto"] == jaxprs["chunked"] != jaxprs["parallel"]


def test_hyperparameters_do_not_retrace():
    _, q, k, v, _ = _sequences()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(scale, eps):
        return ops.linear_attention(q, k, v, scale=scale, eps=eps, normalize="key_sum")

    for value in (0.5, 1.0):
        run(value, value)
    before = ops.linear_attention._cache_size()
    ops.linear_attention(q, k, v, scale=0.5)
    ops.linear_attention(q, k, v, scale=2.0)
    assert ops.linear_attention._cache_size() == before + 1


@pytest.mark.parametrize("form", ["chunked", "parallel", "recurrent"])
def test_batch_axes_vmap_and_shards_give_the_same(form):
    rng = np.random.default_rng(8)
    q, k = (rng.standard_normal((4, T, H, K)).astype(np.float32) for _ in range(2))
    v = rng.standard_normal((4, T, H, V)).astype(np.float32)
    log_decay = -rng.uniform(0, 1, (4, T, H)).astype(np.float32)
    batch = (q, k, v, log_decay)

    def run(q, k, v, log_decay):
        return ops.linear_attention(
            q, k, v, log_decay=log_decay, chunk_size=4, implementation=form
        )

    want = np.stack([linear(*(a[i] for a in batch))[0] for i in range(4)])
    mesh = ops.data_mesh(4)
    sharded = ops.shard_batch(batch, mesh)
    spec = jax.P("data")
    manual = jax.shard_map(run, mesh=mesh, in_specs=spec, out_specs=spec)
    for out in (
        run(*batch),
        jax.vmap(run)(*batch),
        run(*sharded),
        jax.jit(manual)(*sharded),
    ):
        np.testing.assert_allclose(out, want, rtol=0, atol=3e-5)


def _gradient_program(length, **options):
    def loss(q, k, v):
        return jnp.sum(jnp.square(ops.linear_attention(q, k, v, **options)))

    x = jax.ShapeDtypeStruct((length, 1, 64), jnp.float32)
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))).lower(x, x, x).compile()


def test_gradient_memory_is_linear_in_length():
    program = _gradient_program(16384)
    assert program.memory_analysis().temp_size_in_bytes <= 16 * 2**20
    assert "16384,16384" not in program.as_text()
    # The same search finds the square buffer where there is one.
    assert "2048,2048" in _gradient_program(2048, implementation="quadratic").as_text()


X = jnp.ones((4, 2, 3))


@pytest.mark.parametrize(
    ("error", "match", "change"),
    [
        (ValueError, "`query` and `key`", {"query": jnp.ones((4, 2, 2))}),
        (ValueError, "`value`", {"value": jnp.ones((5, 2, 3))}),
        (ValueError, "`query`.*3 axes", {"query": jnp.ones((4, 3))}),
        (ValueError, "`query`.*1 entries", {"query": X[:0], "key": X[:0]}),
        (TypeError, "`key`.*int32", {"key": jnp.ones((4, 2, 3), jnp.int32)}),
        (
            TypeError,
            "`log_decay`.*complex64",
            {"log_decay": jnp.ones((4, 2), jnp.complex64)},
        ),
        (ValueError, "`log_decay`", {"log_decay": jnp.ones((4, 1))}),
        (ValueError, "`initial_state`", {"initial_state": jnp.ones((2, 3, 4))}),
        (TypeError, "`segment_ids`", {"segment_ids": jnp.ones(4)}),
        (ValueError, "`segment_ids`", {"segment_ids": jnp.ones(5, jnp.int32)}),
        (TypeError, "`scale`", {"scale": 1j}),
        (ValueError, "`chunk_size`", {"chunk_size": 0}),
        (ValueError, "`implementation`", {"implementation": "fast"}),
        (ValueError, "`normalize`", {"normalize": "sum"}),
        (
            ValueError,
            "`initial_state`.*position",
            {"initial_state": jnp.ones((2, 3, 3)), "normalize": "position"},
        ),
    ],
)
def test_refuses(error, match, change):
    with pytest.raises(error, match=match):
        ops.linear_attention(**{"query": X, "key": X, "value": X, **change})


@pytest.mark.parametrize(
    ("match", "change"),
    [
        ("`state`", {"state": jnp.ones((2, 3, 4))}),
        ("`query` and `key`", {"query": jnp.ones((2, 2))}),
        ("`log_decay`", {"log_decay": jnp.ones((3,))}),
    ],
)
def test_step_refuses(match, change):
    args = {"state": jnp.ones((2, 3, 3)), "query": X[0], "key": X[0], "value": X[0]}
    with pytest.raises(ValueError, match=match):
        ops.linear_attention_step(**{**args, **change})
