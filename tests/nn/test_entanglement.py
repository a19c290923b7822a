"""The transformer counts what its layers do, and padding changes nothing."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxkit import entanglement, nn, preference

VOCABULARY, FEATURES, LENGTH, PAIRS = 7, 8, 6, 2
PAD = VOCABULARY - 1


@pytest.fixture(params=[True, False], ids=["graph", "tree"])
def mode(request: pytest.FixtureRequest) -> Iterator[bool]:
    with nnx.set_graph_mode(request.param):
        yield request.param


def make(dtype: Any = jnp.float32, **options: Any) -> nn.CausalTransformer:
    defaults = {"num_layers": 2, "num_heads": 2, "max_length": 8}
    return nn.CausalTransformer(
        VOCABULARY,
        FEATURES,
        **{**defaults, **options},
        param_dtype=dtype,
        rngs=nnx.Rngs(0),
    )


def batch() -> dict[str, jax.Array]:
    """Answers of other lengths, padded on the right."""
    rng = np.random.default_rng(0)
    lengths = jnp.array([6, 4, 5, 6])[:, None]
    places = jnp.arange(LENGTH)[None, :]
    mask = places < lengths
    tokens = jnp.asarray(rng.integers(0, PAD, (2 * PAIRS, LENGTH)))
    return {
        "tokens": jnp.where(mask, tokens, PAD),
        "mask": mask,
        "where": mask & (places >= 2),
    }


def pieces(model: nn.CausalTransformer) -> tuple[Any, dict]:
    graphdef, variables = nnx.split(model, nnx.Param)
    return graphdef, nnx.to_pure_dict(variables)


def dpo(chosen: jax.Array, rejected: jax.Array) -> jax.Array:
    return preference.dpo_loss(chosen, rejected, 0 * chosen, 0 * rejected, beta=0.1)


@pytest.mark.slow
def test_one_backward_pass_counts_the_whole_model(x64: None):
    graphdef, params = pieces(make(jnp.float64, num_layers=1))

    def log_prob(params: dict, accumulator: Any, batch: dict) -> jax.Array:
        model = nnx.merge(graphdef, params)
        return model.log_probs(**batch, accumulator=accumulator)

    def of_one(params: dict, example: dict) -> jax.Array:
        return log_prob(params, None, jax.tree.map(lambda x: x[None], example))[0]

    def mean_loss(params: dict, batch: dict) -> jax.Array:
        return jnp.mean(dpo(*jnp.split(log_prob(params, None, batch), 2)))

    @jax.jit
    def everything(params: dict, batch: dict) -> tuple:
        half = lambda index: jax.tree.map(lambda x: jnp.split(x, 2)[index], batch)
        return (
            entanglement.accumulated_value_and_grad(log_prob, dpo)(params, batch),
            entanglement.pair_gram(of_one, params, half(0), half(1), method="scan"),
            jax.value_and_grad(mean_loss)(params, batch),
        )

    ((value, report), gradient), want, (loss, plain) = everything(params, batch())
    np.testing.assert_allclose(value, loss, rtol=1e-12)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-13),
        gradient,
        plain,
    )
    size = float(jnp.max(want.chosen))
    np.testing.assert_allclose(
        jnp.stack(report.gram), jnp.stack(want), atol=1e-10 * size
    )


def test_padding_may_name_a_row_of_nan():
    graphdef, params = pieces(make(num_layers=1))

    def log_prob(params: dict, accumulator: Any, batch: dict) -> jax.Array:
        model = nnx.merge(graphdef, params)
        return model.log_probs(**batch, accumulator=accumulator)

    run = jax.jit(entanglement.accumulated_value_and_grad(log_prob, dpo))
    spoiled = params | {"embedding": params["embedding"].at[PAD].set(jnp.nan)}
    clean, got = run(params, batch()), run(spoiled, batch())
    jax.tree.map(np.testing.assert_array_equal, got, clean)
    assert float(jnp.min(clean[0][1].gram.chosen)) > 0


@pytest.mark.slow
def test_named_groups_alone_are_counted():
    graphdef, params = pieces(make(num_layers=1))
    groups = ("head", "block_0")

    def log_prob(params: dict, accumulator: Any, batch: dict) -> jax.Array:
        model = nnx.merge(graphdef, params)
        return model.log_probs(**batch, accumulator=accumulator)

    def grams(params: dict, batch: dict) -> tuple:
        # The rest is frozen: what is counted must be what is differentiated.
        some = {"head": params["head"], "blocks": params["blocks"]}

        def of_some(some: dict, accumulator: Any, batch: dict) -> jax.Array:
            return log_prob(params | some, accumulator, batch)

        def of_one(some: dict, example: dict) -> jax.Array:
            return of_some(some, None, jax.tree.map(lambda x: x[None], example))[0]

        half = lambda index: jax.tree.map(lambda x: jnp.split(x, 2)[index], batch)
        table = entanglement.accumulated_pair_gram(of_some, some, batch, groups=groups)
        want = entanglement.leaf_pair_gram(of_one, some, half(0), half(1))
        return table, want

    table, want = jax.jit(grams)(params, batch())
    assert set(table) == set(groups)
    np.testing.assert_allclose(
        jnp.stack(table["head"]), jnp.stack(want["head"]), rtol=1e-4, atol=1e-4
    )
    of_block = jax.tree.leaves(want["blocks"])
    sums = [sum(of_block[i::3]) for i in range(3)]
    np.testing.assert_allclose(jnp.stack(table["block_0"]), sums, rtol=1e-4, atol=1e-4)


def test_the_modules_are_functions_of_their_parameters(mode: bool):
    model, gate = make(num_layers=1), nn.TokenGate(FEATURES, rngs=nnx.Rngs(0))
    inputs = batch()

    @jax.jit
    def score(model: nn.CausalTransformer, gate: nn.TokenGate) -> tuple[jax.Array, ...]:
        hidden = model(inputs["tokens"], where=inputs["mask"])
        gates = gate(hidden[:, :-1], where=inputs["where"][:, 1:])
        # The adapter of the preference system scores the same model the same way.
        adapted = preference.answer_token_log_probs(
            lambda tokens, places, mask: model(tokens, positions=places, where=mask),
            model.head_weight(),
            **inputs,
        )
        return model.token_log_probs(**inputs), gates, adapted

    log_probs, gates, adapted = score(model, gate)
    where = np.asarray(inputs["where"][:, 1:])
    np.testing.assert_array_equal(np.asarray(log_probs)[~where], 0.0)
    assert np.all(np.asarray(log_probs)[where] < 0)
    np.testing.assert_allclose(gates, where / (1 + np.exp(-2.0)), rtol=1e-6)
    np.testing.assert_allclose(log_probs, adapted, rtol=1e-5, atol=1e-6)


def test_tokens_see_only_those_before_them():
    model, tokens = make(), batch()["tokens"]
    hidden = jax.jit(lambda tokens: model(tokens))
    changed = tokens.at[:, 3].set((tokens[:, 3] + 1) % VOCABULARY)
    before, after = hidden(tokens), hidden(changed)
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert float(jnp.min(jnp.max(jnp.abs(before - after)[:, 3:], axis=-1))) > 1e-3


def test_a_gate_learns_to_close_on_a_direction():
    gate = nn.TokenGate(2, bias_init=1.0, rngs=nnx.Rngs(0))
    hidden = jnp.array([[[1.0, 0.0], [0.0, 1.0], [jnp.nan, 0.0]]])
    where = jnp.array([[True, True, False]])
    graphdef, params = nnx.split(gate, nnx.Param)

    def total(params: Any) -> jax.Array:
        gates = nnx.merge(graphdef, params)(hidden, where=where)
        return gates[0, 0] - gates[0, 1] + gates[0, 2]

    slope = jax.grad(total)(params)["linear"]["kernel"][...][:, 0]
    known = 1 / (1 + np.exp(-1.0))
    np.testing.assert_allclose(
        slope, known * (1 - known) * np.array([1, -1]), rtol=1e-6
    )


def test_half_precision_keeps_float32_parameters_and_results():
    model = make(num_layers=1)
    low = nn.CausalTransformer(
        VOCABULARY,
        FEATURES,
        num_layers=1,
        num_heads=2,
        max_length=8,
        dtype=jnp.bfloat16,
        rngs=nnx.Rngs(0),
    )
    assert low.head[...].dtype == jnp.float32
    score = jax.jit(lambda model: model.log_probs(**batch()))
    got = score(low)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, score(model), rtol=0.1, atol=0.2)


def test_bad_input():
    with pytest.raises(ValueError, match=r"`features` must be a multiple.*8 and 3"):
        make(num_heads=3)
    with pytest.raises(ValueError, match=r"`num_layers` must be at least 1, got 0"):
        make(num_layers=0)
    with pytest.raises(
        ValueError, match=r"`tokens` must have shape \(N, T\), got \(3,\)"
    ):
        make()(jnp.zeros(3, jnp.int32))
    with pytest.raises(ValueError, match=r"`table` must have at least 9 rows, got 8"):
        make()(jnp.zeros((2, 9), jnp.int32))
    with pytest.raises(ValueError, match=r"`features` must be at least 1, got 0"):
        nn.TokenGate(0, rngs=nnx.Rngs(0))
