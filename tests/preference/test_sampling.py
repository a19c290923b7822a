"""Sampling follows the softmax, and the end token ends an answer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import preference

TABLE = jnp.asarray(np.random.default_rng(0).standard_normal((4, 4)), jnp.float32)


def step_fn(state: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    return state + 1, TABLE[tokens]


def sample(key: jax.Array, start: jax.Array, **options: object) -> tuple:
    return preference.sample_tokens(
        key, step_fn, jnp.zeros((), jnp.int32), TABLE[start], num_tokens=3, **options
    )


def test_frequencies_are_those_of_the_softmax_at_the_temperature():
    rows = 20_000
    start = jnp.zeros(rows, jnp.int32)
    run = jax.jit(lambda key, temperature: sample(key, start, temperature=temperature))
    for seed, temperature in enumerate((1.0, 0.5)):
        drawn = run(jax.random.key(seed), jnp.float32(temperature))
        table = np.asarray(TABLE, np.float64) / temperature
        chances = np.exp(table) / np.exp(table).sum(1, keepdims=True)
        first, second = np.asarray(drawn.tokens[:, 0]), np.asarray(drawn.tokens[:, 1])
        joint = np.zeros((4, 4))
        np.add.at(joint, (first, second), 1 / rows)
        np.testing.assert_allclose(joint, chances[0][:, None] * chances, atol=0.012)
        log_probs = np.asarray(TABLE) - np.log(np.exp(TABLE).sum(1, keepdims=True))
        np.testing.assert_allclose(
            drawn.log_probs[:, 0], log_probs[0][first], rtol=1e-4
        )
        np.testing.assert_allclose(
            drawn.log_probs[:, 1], log_probs[first, second], rtol=1e-4, atol=1e-6
        )


def test_greedy_takes_the_first_of_the_largest_logits():
    logits = jnp.array([[0.0, 2.0, 2.0], [-1.0, -3.0, -2.0]])
    drawn = preference.sample_tokens(
        jax.random.key(0),
        lambda state, tokens: (state, logits),
        (),
        logits,
        num_tokens=1,
        greedy=True,
    )
    np.testing.assert_array_equal(drawn.tokens, [[1], [0]])


def test_an_answer_ends_with_its_end_token():
    start = jnp.arange(4)
    drawn = sample(jax.random.key(3), jnp.tile(start, 50), end_token=2)
    tokens, where = np.asarray(drawn.tokens), np.asarray(drawn.where)
    for row, kept in zip(tokens, where, strict=True):
        ends = np.flatnonzero(row == 2)
        length = ends[0] + 1 if len(ends) else 3
        np.testing.assert_array_equal(kept, np.arange(3) < length)
    assert 0 < where.sum() < where.size
    np.testing.assert_array_equal(tokens[~where], 0)
    np.testing.assert_array_equal(np.asarray(drawn.log_probs)[~where], 0.0)


@pytest.mark.parametrize(
    ("error", "message", "changes"),
    [
        (TypeError, "`key` must be a typed key", {"key": jnp.zeros(2, jnp.uint32)}),
        (ValueError, "`num_tokens` must be at least 1", {"num_tokens": 0}),
        (ValueError, "`logits` must have shape", {"logits": TABLE[0]}),
        (TypeError, "`logits` must have a real floating", {"logits": TABLE > 0}),
    ],
)
def test_bad_input_is_refused(error: type[Exception], message: str, changes: dict):
    inputs = {"key": jax.random.key(0), "logits": TABLE, "num_tokens": 2, **changes}
    with pytest.raises(error, match=message):
        preference.sample_tokens(step_fn=step_fn, state=0, **inputs)
