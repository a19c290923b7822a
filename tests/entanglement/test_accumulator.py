"""The gradient of the accumulator is the Gram, whatever the operation."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import entanglement, ops, preference

PAIRS = 3


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def tokens(length: int) -> jax.Array:
    rng = np.random.default_rng(9)
    return jnp.asarray(rng.integers(0, 4, (2 * PAIRS, length)), jnp.int32)


def where(length: int) -> jax.Array:
    return jnp.arange(2 * PAIRS * length).reshape(2 * PAIRS, length) % 3 != 1


# The operation, its parameter and the batch. Few long sequences of few features are
# multiplied by pairs of gradients, the others by pairs of tokens.
OPERATIONS: dict[str, Callable[[], tuple[Callable, Any, Any]]] = {
    "dense by tokens": lambda: (
        lambda p, a, x: entanglement.accumulator_dense(x, p, a),
        normal(1, 4, 5),
        normal(2, 2 * PAIRS, 3, 4),
    ),
    "dense by pairs": lambda: (
        lambda p, a, x: entanglement.accumulator_dense(x, p, a),
        normal(1, 2, 3),
        normal(2, 2 * PAIRS, 12, 2),
    ),
    "dense by tokens, two axes, masked": lambda: (
        lambda p, a, b: entanglement.accumulator_dense(b[0], p, a, where=b[1]),
        normal(1, 4, 5),
        (normal(2, 2 * PAIRS, 3, 1, 4), where(3)[..., None]),
    ),
    "dense by pairs, masked": lambda: (
        lambda p, a, b: entanglement.accumulator_dense(b[0], p, a, where=b[1]),
        normal(1, 2, 3),
        (normal(2, 2 * PAIRS, 12, 2), where(12)),
    ),
    "bias": lambda: (
        lambda p, a, x: entanglement.accumulator_bias(x, p, a),
        normal(1, 4),
        normal(2, 2 * PAIRS, 3, 4),
    ),
    "scale": lambda: (
        lambda p, a, b: entanglement.accumulator_scale(b[0], p, a, where=b[1]),
        normal(1, 4),
        (normal(2, 2 * PAIRS, 3, 4), where(3)),
    ),
    "embedding": lambda: (
        lambda p, a, b: entanglement.accumulator_embedding(b[0], p, a, where=b[1]),
        normal(1, 4, 5),
        (tokens(6), where(6)),
    ),
    "positions": lambda: (
        lambda p, a, x: entanglement.accumulator_positions(x, p, a),
        normal(1, 5, 4),
        normal(2, 2 * PAIRS, 3, 4),
    ),
    "given positions": lambda: (
        lambda p, a, b: entanglement.accumulator_positions(b[0], p, a, positions=b[1]),
        normal(1, 4, 4),
        (normal(2, 2 * PAIRS, 6, 4), tokens(6)),
    ),
}


def as_log_prob(operation: Callable) -> Callable:
    """A log-probability of each sequence, not linear in the parameter."""

    def log_prob(param: Any, accumulator: Any, batch: Any) -> jax.Array:
        out = operation(param, accumulator, batch)
        weights = jnp.cos(jnp.arange(out[0].size, dtype=out.dtype))
        return jnp.sin(out).reshape(out.shape[0], -1) @ weights

    return log_prob


def of_one(log_prob: Callable) -> Callable:
    """The ordinary form, for one example."""
    expand = lambda example: jax.tree.map(lambda x: x[None], example)
    return lambda params, example: log_prob(params, None, expand(example))[0]


def halves(batch: Any) -> tuple[Any, Any]:
    half = lambda index: jax.tree.map(lambda x: jnp.split(x, 2)[index], batch)
    return half(0), half(1)


def dpo(chosen: jax.Array, rejected: jax.Array, reference: jax.Array) -> jax.Array:
    return preference.dpo_loss(chosen, rejected, reference, -reference, beta=0.3)


@pytest.mark.parametrize("make", OPERATIONS.values(), ids=OPERATIONS.keys())
def test_one_backward_pass_gives_gram_and_gradient(make: Callable, x64: None):
    operation, params, batch = make()
    log_prob = as_log_prob(operation)
    reference = normal(4, PAIRS)

    def mean_loss(params: Any) -> jax.Array:
        chosen, rejected = jnp.split(log_prob(params, None, batch), 2)
        return jnp.mean(dpo(chosen, rejected, reference))

    @jax.jit
    def everything(params: Any) -> tuple:
        step = entanglement.accumulated_value_and_grad(log_prob, dpo)
        return (
            entanglement.pair_gram(of_one(log_prob), params, *halves(batch)),
            jax.value_and_grad(mean_loss)(params),
            entanglement.accumulated_pair_gram(log_prob, params, batch),
            step(params, batch, reference),
        )

    want, (value, gradient), gram, ((loss, report), accumulated) = everything(params)
    size = float(jnp.max(jnp.stack(want)))
    for got in (gram, report.gram):
        np.testing.assert_allclose(jnp.stack(got), jnp.stack(want), atol=1e-10 * size)
    assert bool(jnp.all(report.valid))
    assert float(jnp.max(jnp.abs(want.cross))) > 1e-3 * size
    np.testing.assert_allclose(loss, value, rtol=1e-12)
    np.testing.assert_allclose(accumulated, gradient, rtol=1e-10, atol=1e-12)
    assert report.coefficients.chosen.shape == (PAIRS,)


LAYERS = {"first": (3, 4), "second": (4, 3), "head": (3, 2)}


def layers() -> dict[str, jax.Array]:
    return {k: normal(i, *s) for i, (k, s) in enumerate(LAYERS.items())}


def network(params: dict, accumulator: Any, x: jax.Array) -> jax.Array:
    """Three layers; a dict of accumulators counts those it names."""
    for name in LAYERS:
        of = accumulator.get(name) if isinstance(accumulator, dict) else accumulator
        x = jnp.tanh(entanglement.accumulator_dense(x, params[name], of))
    return jnp.sum(x, axis=(1, 2))


step_of_network = jax.jit(entanglement.accumulated_value_and_grad(network, dpo))
gram_of_network = jax.jit(
    lambda params, x: entanglement.accumulated_pair_gram(network, params, x)
)


def test_groups_give_a_table_by_layer(x64: None):
    @jax.jit
    def tables(params: dict, x: jax.Array) -> tuple[dict, dict]:
        return (
            entanglement.accumulated_pair_gram(
                network, params, x, groups=tuple(LAYERS)
            ),
            entanglement.leaf_pair_gram(of_one(network), params, *halves(x)),
        )

    table, want = tables(layers(), normal(5, 2 * PAIRS, 4, 3))
    for name in LAYERS:
        np.testing.assert_allclose(
            jnp.stack(table[name]), jnp.stack(want[name]), rtol=1e-10
        )


def test_one_layer_or_an_adapter_alone(x64: None):
    x, frozen = normal(5, 2 * PAIRS, 4, 3), layers()
    adapter = {"down": normal(6, 4, 2), "up": normal(7, 2, 3)}

    def adapted(adapter: dict, accumulator: Any, x: jax.Array) -> jax.Array:
        x = jnp.tanh(x @ frozen["first"])
        down = entanglement.accumulator_dense(x, adapter["down"], accumulator)
        change = entanglement.accumulator_dense(down, adapter["up"], accumulator)
        x = entanglement.accumulator_dense(x, frozen["second"]) + change
        return jnp.sum(jnp.tanh(x) @ frozen["head"], axis=(1, 2))

    one = {"second": frozen["second"]}
    only = lambda p, a, x: network(frozen | p, {"second": a}, x)

    @jax.jit
    def grams(x: jax.Array) -> list:
        return [
            (
                entanglement.accumulated_pair_gram(log_prob, params, x),
                entanglement.pair_gram(of_one(log_prob), params, *halves(x)),
            )
            for log_prob, params in ((adapted, adapter), (only, one))
        ]

    for got, want in grams(x):
        np.testing.assert_allclose(jnp.stack(got), jnp.stack(want), rtol=1e-10)


def repeated(params: Any, accumulator: Any, x: jax.Array) -> jax.Array:
    layer = lambda x, _: (
        jnp.tanh(entanglement.accumulator_dense(x, params["w"], accumulator)),
        None,
    )
    return jnp.sum(jax.lax.scan(layer, x, None, length=2)[0], axis=(1, 2))


def tied(params: Any, accumulator: Any, x: jax.Array) -> jax.Array:
    x = jnp.tanh(entanglement.accumulator_dense(x, params["w"], accumulator))
    x = entanglement.accumulator_dense(x, params["w"].T, accumulator)
    return jnp.sum(x, axis=(1, 2))


def regularized(params: Any, accumulator: Any, x: jax.Array) -> jax.Array:
    out = entanglement.accumulator_dense(x, params["w"], accumulator)
    return jnp.sum(out, axis=(1, 2)) + jnp.sum(params["w"])


def rescaled(params: Any, accumulator: Any, x: jax.Array) -> jax.Array:
    return jnp.sum(
        entanglement.accumulator_dense(x, 2 * params["w"], accumulator), axis=(1, 2)
    )


def frozen(params: Any, accumulator: Any, x: jax.Array) -> jax.Array:
    x = entanglement.accumulator_dense(x, params["w"], accumulator)
    return jnp.sum(
        entanglement.accumulator_dense(x, jnp.ones((3, 2)), accumulator), axis=(1, 2)
    )


@pytest.mark.parametrize(
    ("log_prob", "match"),
    [
        (tied, r"`params\['w'\]` is used 2 times"),
        (repeated, r"`params\['w'\]` is used 2 times"),
        (regularized, r"`params\['w'\]`.*would miss its use by 'reduce_sum'"),
        (rescaled, r"`params\['w'\]`.*would miss its use by 'mul'"),
        (frozen, r"not a leaf of `params`"),
    ],
    ids=["tied", "repeated", "regularized", "rescaled", "frozen"],
)
def test_what_would_give_wrong_numbers_is_refused(log_prob: Callable, match: str):
    params, x = {"w": jnp.ones((3, 3))}, jnp.ones((2, 2, 3))
    with pytest.raises(ValueError, match=match):
        entanglement.accumulated_pair_gram(log_prob, params, x)
    with pytest.raises(ValueError, match=match):
        jax.jit(entanglement.accumulated_value_and_grad(log_prob, dpo))(
            params, x, jnp.zeros(1)
        )


def test_other_ways_of_writing_one_use_are_accepted(x64: None):
    def written(params: dict, accumulator: Any, x: jax.Array) -> jax.Array:
        @jax.checkpoint
        def layer(x: jax.Array, w: jax.Array) -> tuple[jax.Array, None]:
            return jnp.tanh(entanglement.accumulator_dense(x, w, accumulator)), None

        x, _ = jax.lax.scan(layer, x, params["stack"])
        weight = jax.jit(lambda w: w.T)(params["head"].reshape(2, 3))
        return jnp.sum(
            entanglement.accumulator_dense(x, weight, accumulator), axis=(1, 2)
        )

    params = {"stack": normal(1, 2, 3, 3), "head": normal(2, 6)}
    x = normal(3, 2 * PAIRS, 4, 3)
    got, want = jax.jit(
        lambda p: (
            entanglement.accumulated_pair_gram(written, p, x),
            entanglement.pair_gram(of_one(written), p, *halves(x)),
        )
    )(params)
    np.testing.assert_allclose(jnp.stack(got), jnp.stack(want), rtol=1e-10)


def test_saturated_pairs_are_reported_and_not_divided_by_nothing(x64: None):
    params, x = layers(), normal(5, 2 * PAIRS, 4, 3)
    # The square of the second slope is no number of full precision any more, the
    # third slope itself is 0.
    reference = jnp.array([0.0, -600.0, -1e6])
    (value, report), gradient = step_of_network(params, x, reference)
    np.testing.assert_array_equal(report.valid, [True, False, False])
    assert float(report.coefficients.chosen[1]) > 0.0
    assert float(report.coefficients.chosen[2]) == 0.0
    leaves = jax.tree.leaves((value, report, gradient))
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in leaves)
    gram = gram_of_network(params, x)
    np.testing.assert_allclose(report.gram.cross[0], gram.cross[0], rtol=1e-10)
    np.testing.assert_array_equal(jnp.stack(report.gram)[:, 1:], 0.0)
    regime = entanglement.entanglement_regime(report.gram, report.coefficients)
    np.testing.assert_array_equal(regime[1:], 4)
    assert float(jnp.min(gram.chosen)) > 0


def test_pairs_that_do_not_count_leave_loss_and_gradient(x64: None):
    x, reference = normal(5, 2 * PAIRS, 4, 3), normal(4, PAIRS)
    where = jnp.array([True, False, True])
    spoiled = x.at[1].set(jnp.nan).at[1 + PAIRS].set(jnp.inf)
    (value, report), gradient = step_of_network(
        layers(), spoiled, reference, where=where
    )
    np.testing.assert_array_equal(report.valid, where)

    def of_pairs(*pairs: int) -> tuple:
        rows = np.array([*pairs, *(i + PAIRS for i in pairs)])
        (value, _), gradient = step_of_network(
            layers(), x[rows], reference[np.array(pairs)]
        )
        return value, gradient

    # Each of the two pairs that count is three times in these six.
    first, second = of_pairs(0, 0, 2), of_pairs(0, 2, 2)
    jax.tree.map(
        lambda got, a, b: np.testing.assert_allclose(got, (a + b) / 2, rtol=1e-10),
        (value, gradient),
        first,
        second,
    )


def test_identical_answers_are_fully_entangled(x64: None):
    x = jnp.concatenate([normal(5, PAIRS, 4, 3)] * 2)
    gram = gram_of_network(layers(), x)
    np.testing.assert_allclose(gram.chosen, gram.cross, rtol=1e-12)
    np.testing.assert_allclose(gram.chosen, gram.rejected, rtol=1e-12)


def test_the_gram_has_derivatives(x64: None):
    x = normal(5, 2 * PAIRS, 4, 3)

    def total(gram: entanglement.PairGram) -> jax.Array:
        return sum(jnp.sum(leaf * (i + 1)) for i, leaf in enumerate(gram))

    @jax.jit
    def gradients(params: dict) -> tuple[dict, dict]:
        return jax.grad(
            lambda p: total(entanglement.accumulated_pair_gram(network, p, x))
        )(params), jax.grad(
            lambda p: total(entanglement.pair_gram(of_one(network), p, *halves(x)))
        )(params)

    got, want = gradients(layers())
    for name in LAYERS:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-9, atol=1e-11)


def test_half_precision_is_summed_in_float32():
    cast = lambda tree, dtype: jax.tree.map(lambda w: w.astype(dtype), tree)
    x = cast(normal(5, 2 * PAIRS, 4, 3), jnp.bfloat16)
    got = entanglement.accumulated_pair_gram(network, cast(layers(), jnp.bfloat16), x)
    assert {leaf.dtype for leaf in got} == {jnp.dtype(jnp.float32)}
    want = gram_of_network(cast(layers(), jnp.float32), cast(x, jnp.float32))
    size = float(jnp.max(jnp.stack(want)))
    np.testing.assert_allclose(jnp.stack(got), jnp.stack(want), atol=0.05 * size)


def test_sharded_batch_equals_unsharded():
    operation, params, _ = OPERATIONS["dense by pairs"]()
    x, reference = normal(5, 2, 4, 12, 2), normal(4, 4)
    mesh = ops.data_mesh(4)

    def step(params: jax.Array, x: jax.Array, reference: jax.Array) -> tuple:
        run = entanglement.accumulated_value_and_grad(as_log_prob(operation), dpo)
        (value, report), gradient = run(params, x.reshape(-1, 12, 2), reference)
        return value, report.gram, gradient

    def by_device(params: jax.Array, x: jax.Array, reference: jax.Array) -> tuple:
        value, gram, gradient = step(params, x, reference)
        # The derivative by what all devices hold is their sum already.
        gradient /= jax.lax.axis_size("data")
        return jax.lax.pmean(value, "data"), gram, gradient

    data, all_pairs = jax.P("data"), jax.P(None, "data")
    sharded = (
        params,
        jax.device_put(x, jax.NamedSharding(mesh, all_pairs)),
        ops.shard_batch(reference, mesh),
    )
    manual = jax.shard_map(
        by_device,
        mesh=mesh,
        in_specs=(jax.P(), all_pairs, data),
        out_specs=(jax.P(), data, jax.P()),
    )
    want = jax.jit(step)(params, x, reference)
    for run in (step, manual):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6),
            jax.jit(run)(*sharded),
            want,
        )


@pytest.mark.parametrize("length", [4, 64], ids=["by tokens", "by pairs"])
def test_no_gradient_of_each_example_is_kept(length: int):
    pairs, features = 16, 128
    params = {name: jnp.ones((features, features)) for name in LAYERS}
    x = jnp.ones((2 * pairs, length, features))
    step = entanglement.accumulated_value_and_grad(network, dpo)
    compiled = jax.jit(step).lower(params, x, jnp.zeros(pairs)).compile()
    temporary = compiled.memory_analysis().temp_size_in_bytes
    kept = (2 * len(LAYERS) + 3) * x.nbytes
    all_gradients = 2 * pairs * sum(leaf.nbytes for leaf in params.values())
    assert temporary < kept + 6 * features**2 * 4
    if length == 4:
        assert temporary < all_gradients / 4


def test_bad_input():
    x, params = jnp.ones((3, 2, 3)), {"w": jnp.ones((3, 3))}
    with pytest.raises(ValueError, match=r"`batch` must hold the chosen.*odd.*3"):
        entanglement.accumulated_pair_gram(tied, params, x)
    with pytest.raises(TypeError, match=r"params\['w'\].*int32"):
        entanglement.accumulated_pair_gram(
            tied, {"w": jnp.ones((3, 3), jnp.int32)}, x[:2]
        )
    with pytest.raises(ValueError, match=r"must have shape \(2,\), got \(2, 2, 3\)"):
        entanglement.accumulated_pair_gram(
            lambda p, a, x: entanglement.accumulator_dense(x, p["w"], a), params, x[:2]
        )
    zeros = jnp.zeros((3, 1))
    with pytest.raises(ValueError, match=r"`tokens` must have shape \(2B, T\)"):
        entanglement.accumulator_embedding(
            jnp.zeros(2, jnp.int32), jnp.ones((3, 2)), zeros
        )
    with pytest.raises(ValueError, match=r"`x` must have shape \(2B, T, D\)"):
        entanglement.accumulator_positions(jnp.ones((2, 3)), jnp.ones((2, 3)), zeros)
    with pytest.raises(ValueError, match=r"`positions` must have shape \(2, 3\)"):
        entanglement.accumulator_positions(
            jnp.ones((2, 3, 4)),
            jnp.ones((3, 4)),
            positions=jnp.zeros((2, 2), jnp.int32),
        )
