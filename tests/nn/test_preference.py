"""The policy is the transformer of the formula, causal and deaf to padding."""

from collections.abc import Iterator
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxkit import nn

VOCAB, FEATURES, LENGTH = 7, 8, 5
TOKENS = jnp.array([[1, 2, 3, 4, 5], [6, 5, 1, 1, 2]])
ANSWER = jnp.array(
    [[False, False, True, True, True], [False, True, True, False, False]]
)


@pytest.fixture(params=[True, False], ids=["graph", "tree"])
def mode(request: pytest.FixtureRequest) -> Iterator[bool]:
    with nnx.set_graph_mode(request.param):
        yield request.param


def make_policy(**options: Any) -> nn.PreferencePolicy:
    defaults = {
        "vocab_size": VOCAB,
        "features": FEATURES,
        "num_layers": 2,
        "num_heads": 2,
        "max_length": 8,
        # Large weights: with small ones attention is uniform and hides its mask.
        "kernel_init": nnx.initializers.normal(0.5),
    }
    return nn.PreferencePolicy(**{**defaults, **options}, rngs=nnx.Rngs(0))


def split(policy: nn.PreferencePolicy) -> tuple[nnx.GraphDef, Any]:
    graphdef, variables = nnx.split(policy, nnx.Param)
    return graphdef, nnx.to_pure_dict(variables)


@jax.jit
def hidden_of(policy: nn.PreferencePolicy, tokens: jax.Array) -> jax.Array:
    return policy(tokens)


@jax.jit
def score(policy: nn.PreferencePolicy, tokens: jax.Array) -> jax.Array:
    return policy.log_probs(tokens, where=ANSWER)


@jax.jit
def logits_of(policy: nn.PreferencePolicy, tokens: jax.Array) -> jax.Array:
    return policy.logits(policy(tokens))


def numpy_hidden(params: Any, tokens: np.ndarray) -> np.ndarray:
    """The transformer of one sequence, written out in NumPy."""

    def norm(p: Any, x: np.ndarray) -> np.ndarray:
        centered = x - x.mean(-1, keepdims=True)
        return (
            centered / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]
        )

    def linear(p: Any, x: np.ndarray) -> np.ndarray:
        return x @ p["kernel"] + p["bias"]

    def softmax(z: np.ndarray) -> np.ndarray:
        e = np.exp(z - z.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    def gelu(x: np.ndarray) -> np.ndarray:
        return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    time = len(tokens)
    x = params["embedding"][tokens] + params["positions"][:time]
    future = np.triu(np.ones((time, time), bool), 1)
    for block in params["blocks"].values():
        parts = linear(block["query_key_value"], norm(block["attention_norm"], x))
        out = np.zeros_like(x)
        width = FEATURES // 2
        for head in range(2):
            q, k, v = (
                parts[:, i * FEATURES + head * width :][:, :width] for i in range(3)
            )
            scores = np.where(future, -np.inf, q @ k.T / np.sqrt(width))
            out[:, head * width : (head + 1) * width] = softmax(scores) @ v
        x = x + linear(block["out"], out)
        up = linear(block["up"], norm(block["network_norm"], x))
        x = x + linear(block["down"], gelu(up))
    return norm(params["norm"], x)


def numpy_log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


@pytest.mark.parametrize("tie_head", [False, True])
def test_hidden_states_and_log_probs_are_those_of_the_formula(
    tie_head: bool, x64: None
):
    policy = make_policy(param_dtype=jnp.float64, tie_head=tie_head)
    params = jax.tree.map(np.asarray, split(policy)[1])
    assert ("head" in params) != tie_head
    head = params["embedding" if tie_head else "head"]
    tokens, answer = np.asarray(TOKENS, np.int64), np.asarray(ANSWER)
    hidden = np.stack([numpy_hidden(params, row) for row in tokens])
    np.testing.assert_allclose(hidden_of(policy, tokens), hidden, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(logits_of(policy, tokens), hidden @ head.T, atol=1e-9)
    everything = numpy_log_softmax(hidden @ head.T)
    # The state at t predicts the token at t + 1.
    expected = np.array(
        [
            [
                everything[b, t - 1, tokens[b, t]] * answer[b, t]
                for t in range(1, LENGTH)
            ]
            for b in range(2)
        ]
    )
    got = jax.jit(type(policy).token_log_probs)(policy, tokens, where=ANSWER)
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)
    sums = score(policy, tokens)
    np.testing.assert_allclose(sums, expected.sum(1), rtol=1e-9)


def test_a_later_token_changes_no_earlier_state():
    policy = make_policy()
    other = TOKENS.at[:, 3:].set(0)
    before, after = hidden_of(policy, TOKENS), hidden_of(policy, other)
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert np.all(np.any(np.asarray(before != after)[:, 3:], axis=-1))


def padded(left: int, right: int, fill: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    widths = ((0, 0), (left, right))
    tokens = jnp.pad(TOKENS, widths, constant_values=fill)
    return tokens, jnp.pad(ANSWER, widths), jnp.pad(jnp.ones_like(ANSWER), widths)


def test_padding_on_either_side_changes_neither_value_nor_gradient():
    graphdef, params = split(make_policy())
    # The padding token, and only it, has an embedding that is not a number.
    params["embedding"] = params["embedding"].at[0].set(jnp.nan)

    @jax.jit
    def run(params: Any, tokens: jax.Array, answer: jax.Array, mask: jax.Array) -> Any:
        def total(params: Any) -> tuple[jax.Array, jax.Array]:
            policy = nnx.merge(graphdef, params)
            logps = policy.log_probs(tokens, where=answer, mask=mask)
            return jnp.sum(logps), policy(tokens, where=mask)

        return jax.value_and_grad(total, has_aux=True)(params)

    sides = [padded(left, 3 - left, fill) for left, fill in ((0, 0), (3, 0), (1, -100))]
    results = [run(params, *side) for side in sides]
    whole = make_policy()
    plain = jnp.sum(score(whole, TOKENS))
    for ((value, hidden), gradient), (_, _, mask) in zip(results, sides, strict=True):
        np.testing.assert_allclose(value, plain, rtol=1e-5)
        assert not np.any(np.asarray(hidden)[~np.asarray(mask)])
        np.testing.assert_allclose(
            np.asarray(hidden)[np.asarray(mask)].reshape(2, LENGTH, FEATURES),
            hidden_of(whole, TOKENS),
            rtol=1e-4,
            atol=1e-5,
        )
        assert not jnp.any(gradient["embedding"][0])
        chex.assert_trees_all_close(gradient, results[0][1], rtol=1e-3, atol=1e-5)


def test_padding_on_the_right_needs_no_mask():
    graphdef, params = split(make_policy())
    params["embedding"] = params["embedding"].at[0].set(jnp.nan)
    tokens, answer, _ = padded(0, 3, 0)
    run = jax.jit(
        lambda params: nnx.merge(graphdef, params).log_probs(tokens, where=answer)
    )
    logps, expected = run(params), score(make_policy(), TOKENS)
    np.testing.assert_allclose(logps, expected, rtol=1e-5)


def test_functional_training_raises_the_log_probs(mode: bool):
    graphdef, params = split(make_policy())

    @jax.jit
    @chex.assert_max_traces(1)
    def step(params: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            return -jnp.sum(nnx.merge(graphdef, params).log_probs(TOKENS, where=ANSWER))

        value, grads = jax.value_and_grad(loss)(params)
        return optax.apply_updates(params, jax.tree.map(lambda g: -0.02 * g, grads)), (
            value,
            grads,
        )

    chex.clear_trace_counter()
    first, grads = step(params)[1]
    assert all(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(grads))
    for _ in range(5):
        params, (last, _) = step(params)
    assert last < first


def test_the_module_is_a_pytree(mode: bool):
    policy = make_policy()
    graphdef, params = split(policy)
    run = jax.jit(lambda params: nnx.merge(graphdef, params)(TOKENS))
    np.testing.assert_allclose(hidden_of(policy, TOKENS), run(params), rtol=1e-5)


def test_a_reference_of_arrays_stays_when_the_policy_moves(mode: bool):
    policy = make_policy()
    graphdef, reference = split(policy)
    score = jax.jit(lambda params: nnx.merge(graphdef, params).log_probs(TOKENS))
    before = score(reference)
    np.testing.assert_array_equal(score(split(policy)[1]) - before, 0.0)
    nnx.update(policy, jax.tree.map(lambda x: x + 0.1, nnx.state(policy, nnx.Param)))
    assert np.all(np.asarray(score(split(policy)[1])) != before)
    np.testing.assert_array_equal(score(reference), before)


def test_the_policy_runs_as_a_linen_module():
    linen = nnx.bridge.to_linen(
        nn.PreferencePolicy, VOCAB, FEATURES, 1, 2, max_length=LENGTH
    )
    variables = linen.init(jax.random.key(0), TOKENS)
    assert linen.apply(variables, TOKENS).shape == (*TOKENS.shape, FEATURES)


def test_bfloat16_states_give_float32_log_probs():
    low = make_policy(dtype=jnp.bfloat16)
    assert hidden_of(low, TOKENS).dtype == jnp.bfloat16
    assert low.embedding[...].dtype == jnp.float32
    logps = score(low, TOKENS)
    assert logps.dtype == jnp.float32
    expected = score(make_policy(), TOKENS)
    np.testing.assert_allclose(logps, expected, rtol=0.05, atol=0.05)


def padded_prompts() -> list[tuple[jax.Array, jax.Array]]:
    """The same prompts with two places of padding: left, right and both sides."""
    sides = [padded(left, 2 - left, 0) for left in (2, 0, 1)]
    return [(tokens, mask) for tokens, _, mask in sides]


def test_decoding_with_a_cache_equals_the_whole_sequence():
    policy = make_policy(max_length=9)
    extra = jnp.array([[3, 6], [4, 0]])

    @jax.jit
    def run(tokens: jax.Array, mask: jax.Array) -> jax.Array:
        cache, first = policy.prefill(tokens, num_tokens=2, where=mask)
        cache, second = policy.decode(cache, extra[:, 0])
        return jnp.stack([first, second, policy.decode(cache, extra[:, 1])[1]], axis=1)

    whole = jnp.concatenate([TOKENS, extra], axis=1)
    expected = logits_of(policy, whole)[:, LENGTH - 1 :]
    for prompt in padded_prompts():
        np.testing.assert_allclose(run(*prompt), expected, rtol=1e-4, atol=1e-4)


def test_greedy_answers_are_the_most_likely_tokens():
    policy = make_policy(max_length=9)

    @jax.jit
    def run(tokens: jax.Array, mask: jax.Array) -> tuple:
        key = jax.random.key(0)
        return policy.sample(key, tokens, num_tokens=2, greedy=True, where=mask)

    answers = run(*padded_prompts()[0])
    rows = jnp.concatenate([TOKENS, answers.tokens], axis=1)
    logits = np.asarray(logits_of(policy, rows))[:, LENGTH - 1 : -1]
    np.testing.assert_array_equal(answers.tokens, logits.argmax(-1))
    scored = np.max(numpy_log_softmax(logits), axis=-1)
    np.testing.assert_allclose(answers.log_probs, scored, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_policy(num_heads=3), "multiple of `num_heads`"),
        (lambda: make_policy(num_layers=0), "`num_layers` must be at least 1"),
        (lambda: make_policy()(jnp.ones((2, 9), jnp.int32)), "max_length=8"),
        (lambda: make_policy()(jnp.ones(4, jnp.int32)), r"got \(4,\)"),
        (lambda: make_policy()(TOKENS, where=ANSWER[:1]), "same shape"),
        (lambda: make_policy().prefill(TOKENS, num_tokens=4), "max_length=8"),
        (lambda: make_policy().log_probs(TOKENS, where=ANSWER[:1]), "same shape"),
    ],
)
def test_bad_sizes_are_refused(call: Any, message: str):
    with pytest.raises(ValueError, match=message):
        call()
