"""Any model with hidden states gives the log-probs of its full logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import preference

VOCAB, DIM = 6, 4
TOKENS = np.array([[1, 2, 3, 4, 5], [5, 1, 1, 2, 0], [2, 3, 4, 0, 0]])
WHERE = np.array(
    [
        [False, False, True, True, True],
        [False, True, True, True, False],
        [False, False, True, False, False],
    ]
)
RNG = np.random.default_rng(0)
TABLE = RNG.standard_normal((VOCAB, DIM))
PLACES = RNG.standard_normal((8, DIM))
HEAD = RNG.standard_normal((VOCAB, DIM))


def hidden_fn(tokens: jax.Array, positions: jax.Array, mask: jax.Array) -> jax.Array:
    """A running sum over the tokens that are no padding."""
    parts = jnp.asarray(TABLE)[tokens] * jnp.asarray(PLACES)[positions]
    return jnp.cumsum(jnp.where(mask[..., None], parts, 0.0), axis=1)


def expected_log_probs(tokens: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Entry t belongs to token t + 1; rows without padding before their answer."""
    out = np.zeros((len(tokens), tokens.shape[1] - 1))
    for b, row in enumerate(tokens):
        state = np.zeros(DIM)
        for t in range(len(row) - 1):
            state = state + TABLE[row[t]] * PLACES[t]
            z = HEAD @ state
            if where[b, t + 1]:
                out[b, t] = z[row[t + 1]] - np.log(np.exp(z - z.max()).sum()) - z.max()
    return out


def test_token_log_probs_are_those_of_the_full_logits(x64: None):
    expected = expected_log_probs(TOKENS, WHERE)
    for weight, options in ((HEAD, {}), (HEAD.T, {"vocab_axis": 1})):
        got = preference.answer_token_log_probs(
            hidden_fn, weight, TOKENS, where=WHERE, **options
        )
        np.testing.assert_allclose(got, expected, rtol=1e-10)


def test_answers_are_sums_or_means_of_their_tokens(x64: None):
    expected = expected_log_probs(TOKENS, WHERE)
    got = preference.answer_log_probs(hidden_fn, HEAD, TOKENS, where=WHERE)
    np.testing.assert_allclose(got, expected.sum(1), rtol=1e-10)
    mean = preference.answer_log_probs(
        hidden_fn, HEAD, TOKENS, where=WHERE, length_normalize=True
    )
    np.testing.assert_allclose(mean, expected.sum(1) / WHERE.sum(1), rtol=1e-10)


@pytest.mark.parametrize("fill", [0, -100])
def test_padding_on_the_left_shifts_no_position(fill: int, x64: None):
    widths = ((0, 0), (3, 0))
    mask = np.pad(np.ones_like(WHERE), widths)
    got = preference.answer_log_probs(
        hidden_fn,
        HEAD,
        np.pad(TOKENS, widths, constant_values=fill),
        mask=mask,
        where=np.pad(WHERE, widths),
    )
    np.testing.assert_allclose(
        got, expected_log_probs(TOKENS, WHERE).sum(1), rtol=1e-10
    )


def test_tokens_after_the_answer_are_padding(x64: None):
    tokens = np.where(np.cumsum(WHERE[:, ::-1], axis=1)[:, ::-1] > 0, TOKENS, -100)
    got = preference.answer_log_probs(hidden_fn, HEAD, tokens, where=WHERE)
    np.testing.assert_allclose(
        got, expected_log_probs(TOKENS, WHERE).sum(1), rtol=1e-10
    )


def test_an_empty_answer_gives_zero_and_a_finite_gradient():
    def total(table: jax.Array) -> jax.Array:
        logps = preference.answer_log_probs(
            lambda tokens, positions, mask: table[tokens],
            jnp.asarray(HEAD, jnp.float32),
            TOKENS,
            where=np.zeros_like(WHERE),
        )
        return jnp.sum(logps)

    value, gradient = jax.value_and_grad(total)(jnp.asarray(TABLE, jnp.float32))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0.0)


def test_given_positions_reach_the_model(x64: None):
    shifted = np.broadcast_to(np.arange(1, 6), TOKENS.shape)
    seen = []

    def record(tokens: jax.Array, positions: jax.Array, mask: jax.Array) -> jax.Array:
        seen.append((tokens, positions, mask))
        return hidden_fn(tokens, positions, mask)

    preference.answer_log_probs(record, HEAD, TOKENS, where=WHERE, positions=shifted)
    ((_, positions, mask),) = seen
    np.testing.assert_array_equal(positions, shifted)
    np.testing.assert_array_equal(mask[1], [True, True, True, True, False])


def test_pairs_take_one_forward_pass(x64: None):
    batches = []

    def count(tokens: jax.Array, positions: jax.Array, mask: jax.Array) -> jax.Array:
        batches.append(tokens.shape)
        return hidden_fn(tokens, positions, mask)

    chosen, rejected = preference.pair_log_probs(
        count,
        HEAD,
        TOKENS,
        TOKENS[::-1],
        chosen_where=WHERE,
        rejected_where=WHERE[::-1],
    )
    assert batches == [(6, 5)]
    expected = expected_log_probs(TOKENS, WHERE).sum(1)
    np.testing.assert_allclose(chosen, expected, rtol=1e-10)
    np.testing.assert_allclose(rejected, expected[::-1], rtol=1e-10)


@pytest.mark.parametrize("masks", [False, True])
def test_a_data_set_is_scored_batch_by_batch(masks: bool, x64: None):
    full = np.ones_like(WHERE)
    options = {"chosen_mask": full, "rejected_mask": full} if masks else {}

    @jax.jit
    def run(head: jax.Array) -> tuple[jax.Array, jax.Array]:
        return preference.precompute_ref_logps(
            hidden_fn,
            head,
            TOKENS,
            TOKENS[::-1],
            chosen_where=WHERE,
            rejected_where=WHERE[::-1],
            batch_size=2,
            **options,
        )

    chosen, rejected = run(jnp.asarray(HEAD))
    expected = expected_log_probs(TOKENS, WHERE).sum(1)
    np.testing.assert_allclose(chosen, expected, rtol=1e-10)
    np.testing.assert_allclose(rejected, expected[::-1], rtol=1e-10)
    gradient = jax.grad(lambda head: jnp.sum(run(head)[0]))(jnp.asarray(HEAD))
    np.testing.assert_array_equal(gradient, 0.0)


BAD = [
    (TypeError, "`tokens` must have an integer", {"tokens": TOKENS * 1.0}),
    (ValueError, "`tokens` must have shape", {"tokens": TOKENS[0]}),
    (ValueError, "`tokens` and `where`", {"where": WHERE[:2]}),
    (TypeError, "`where` must have dtype bool", {"where": WHERE * 1}),
    (ValueError, "`tokens` and `mask`", {"mask": WHERE[:, 1:]}),
    (ValueError, "`tokens` and `positions`", {"positions": TOKENS[0]}),
]


@pytest.mark.parametrize(("error", "message", "changes"), BAD)
def test_bad_input_is_refused(error: type[Exception], message: str, changes: dict):
    inputs = {"tokens": TOKENS, "where": WHERE, **changes}
    with pytest.raises(error, match=message):
        preference.answer_log_probs(hidden_fn, HEAD, **inputs)


def test_pairs_that_do_not_match_are_refused():
    where = {"chosen_where": WHERE, "rejected_where": WHERE}
    with pytest.raises(ValueError, match="`chosen` and `rejected`"):
        preference.pair_log_probs(hidden_fn, HEAD, TOKENS, TOKENS[:2], **where)
    with pytest.raises(ValueError, match="together"):
        preference.pair_log_probs(
            hidden_fn, HEAD, TOKENS, TOKENS, **where, chosen_mask=WHERE
        )
    with pytest.raises(ValueError, match="`batch_size`"):
        preference.precompute_ref_logps(
            hidden_fn, HEAD, TOKENS, TOKENS, **where, batch_size=0
        )
