"""Log-probabilities of tokens and sequences against their formulas."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

from jaxkit import ops
from tests.ops._log_softmax_formula import (
    Head,
    draw,
    gradients,
    log_probs,
    probabilities,
)

VOCABULARY = 23
MASK = np.arange(13) % 3 > 0


def options(x: Head, **kwargs: Any) -> dict[str, Any]:
    return {
        "temperature": x.temperature,
        "logit_softcap": x.logit_softcap,
        "where": jnp.asarray(MASK),
        **kwargs,
    }


@pytest.mark.parametrize(
    ("chunk_size", "vocab_axis", "skip_masked"),
    [
        (1, 0, False),
        (7, 0, True),
        (22, 1, False),
        (22, 1, True),
        (VOCABULARY, 0, False),
    ],
)
def test_values_and_gradients_equal_the_formula(
    chunk_size: int | None, vocab_axis: int, skip_masked: bool, x64: None
):
    x = draw()
    labels = np.where(np.arange(13) == 4, -100, x.labels)
    mask = MASK & (labels >= 0)
    cotangent = np.random.default_rng(0).standard_normal(13)

    @jax.jit
    def pull(hidden: jax.Array, weight: jax.Array, bias: jax.Array) -> Any:
        function = lambda h, w, b: ops.linear_selected_log_probs(
            h,
            w if vocab_axis == 0 else w.T,
            jnp.asarray(labels),
            bias=b,
            **options(
                x,
                vocab_axis=vocab_axis,
                chunk_size=chunk_size,
                skip_masked=skip_masked,
            ),
        )
        out, back = jax.vjp(function, hidden, weight, bias)
        return out, back(jnp.asarray(cotangent))

    # Tokens that do not count may be anything.
    hidden = np.where(mask[:, None], x.hidden, np.nan)
    out, grads = pull(hidden, x.weight, x.bias)
    np.testing.assert_allclose(out, log_probs(x, mask), rtol=0, atol=1e-13)
    for got, want in zip(grads, gradients(x, mask, cotangent), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-13)


def test_logits_at_hand_give_the_same_numbers(x64: None):
    x = draw()
    logits = jnp.asarray(np.log(probabilities(x)[0]) + 5.0)
    out = ops.selected_log_probs(logits, x.labels, where=MASK)
    np.testing.assert_allclose(out, log_probs(x, MASK), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("chunk_size", "skip_masked"), [(5, False), (5, True), (VOCABULARY, False)]
)
def test_statistics_equal_the_formula(chunk_size: int, skip_masked: bool, x64: None):
    x = draw()
    given = options(x, chunk_size=chunk_size, skip_masked=skip_masked, bias=x.bias)
    out = ops.token_statistics(x.hidden, x.weight, x.labels, **given)
    probs, _ = probabilities(x)
    want = (
        log_probs(x, MASK),
        np.where(MASK, -np.sum(probs * np.log(probs), 1), 0.0),
        np.where(MASK, np.log(np.sum(probs**2, 1)), 0.0),
    )
    for got, expected in zip(out[:3], want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(out.is_top1, MASK & (probs.argmax(1) == x.labels))
    alone = ops.linear_selected_log_probs(x.hidden, x.weight, x.labels, **given)
    np.testing.assert_allclose(out.log_probs, alone, rtol=0, atol=1e-14)


def test_a_tie_counts_as_top1():
    weight = jnp.array([[1.0], [1.0], [0.0]])
    out = ops.token_statistics(jnp.ones((3, 1)), weight, jnp.arange(3), chunk_size=1)
    assert out.is_top1.tolist() == [True, True, False]


def test_a_class_ruled_out_by_its_bias_changes_nothing():
    hidden, weight = jnp.ones((2, 1)), jnp.array([[0.3], [0.0], [-0.5], [9.0]])
    bias = jnp.array([0.0, 0.0, 0.0, -jnp.inf])
    labels = jnp.array([0, 2])

    def total(hidden: jax.Array, weight: jax.Array, bias: jax.Array | None) -> Any:
        out = ops.token_statistics(hidden, weight, labels, bias=bias, chunk_size=2)
        return jnp.sum(out.entropy + out.log_sum_sq_probs + 2 * out.log_probs)

    run = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))
    value, (d_hidden, d_weight) = run(hidden, weight, bias)
    want, (want_hidden, want_weight) = run(hidden, weight[:3], None)
    np.testing.assert_allclose(value, want, rtol=1e-6)
    np.testing.assert_allclose(d_hidden, want_hidden, rtol=1e-5)
    np.testing.assert_allclose(d_weight[:3], want_weight, rtol=1e-5)
    assert d_weight[3] == 0


def test_huge_logits_keep_values_and_gradients_finite():
    hidden = jnp.array([[1e4], [-1e4], [1.0]])
    weight = jnp.array([[1.0], [1.0], [-1.0], [0.5]])

    def total(hidden: jax.Array, weight: jax.Array) -> tuple[jax.Array, Any]:
        out = ops.token_statistics(hidden, weight, jnp.array([0, 2, 3]), chunk_size=2)
        return sum(jnp.sum(leaf) for leaf in out[:3]), out

    run = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)
    (_, out), grads = run(hidden, weight)
    np.testing.assert_allclose(out.log_probs[:2], [-np.log(2.0), 0.0], rtol=1e-6)
    np.testing.assert_allclose(out.entropy[:2], [np.log(2.0), 0.0], rtol=1e-6)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in grads)


def test_a_label_out_of_range_is_nan_and_found_by_checkify():
    hidden, weight = jnp.ones((2, 1)), jnp.ones((3, 1))
    labels = jnp.array([2, 3])
    linear = lambda labels: ops.linear_selected_log_probs(hidden, weight, labels)
    dense = lambda labels: ops.selected_log_probs(jnp.ones((2, 3)), labels)
    for function in (linear, dense):
        np.testing.assert_array_equal(jnp.isnan(function(labels)), [False, True])
        error, _ = checkify.checkify(function)(labels)
        with pytest.raises(ValueError, match="`labels` must be less than"):
            error.throw()
        # Where nothing counts there is nothing to complain about.
        assert checkify.checkify(function)(labels - 4)[0].get() is None


def test_leading_axes_and_empty_batches():
    x = draw(tokens=12)
    flat = ops.linear_selected_log_probs(x.hidden, x.weight, x.labels)
    boxed = ops.linear_selected_log_probs(
        x.hidden.reshape(2, 6, 5), x.weight, x.labels.reshape(2, 6)
    )
    np.testing.assert_allclose(boxed, flat.reshape(2, 6), rtol=1e-6)
    scalar = ops.linear_selected_log_probs(x.hidden[0], x.weight, x.labels[0])
    np.testing.assert_allclose(scalar, flat[0], rtol=1e-6)
    for skip in (False, True):
        empty = ops.linear_selected_log_probs(
            x.hidden[:0], x.weight, x.labels[:0], skip_masked=skip
        )
        assert empty.shape == (0,)


def test_a_single_class_is_certain():
    out = ops.token_statistics(
        jnp.full((2, 3), 0.7), jnp.full((1, 3), 0.9), jnp.zeros(2, int)
    )
    for leaf in out[:3]:
        np.testing.assert_array_equal(leaf, 0.0)
    assert bool(jnp.all(out.is_top1))


def test_sequences_add_up_what_counts():
    token_log_probs = jnp.array([[-1.0, -2.0, -3.0], [jnp.nan, jnp.inf, jnp.nan]])
    answer = jnp.array([[False, True, True], [False, False, False]])
    for normalize, want in ((False, -5.0), (True, -2.5)):
        total = lambda x, normalize=normalize: ops.sequence_log_probs(
            x, length_normalize=normalize, where=answer
        )
        out, back = jax.vjp(total, token_log_probs)
        np.testing.assert_array_equal(out, [want, 0.0])
        (slope,) = back(jnp.ones(2))
        weight = 0.5 if normalize else 1.0
        np.testing.assert_array_equal(slope, weight * np.asarray(answer))
    columns = ops.sequence_log_probs(token_log_probs.T, axis=0, where=answer.T)
    np.testing.assert_array_equal(columns, [-5.0, 0.0])


def test_segments_add_up_and_padding_goes_nowhere():
    token_log_probs = jnp.array([[-1.0, -2.0, -4.0, jnp.nan], [-8.0, -1.0, -1.0, -1.0]])
    ids = jnp.array([[1, 1, 0, -1], [0, 2, 5, -7]])
    where = jnp.array([[True, False, True, True], [True, True, True, True]])
    function = lambda x: ops.segment_log_probs(x, ids, num_segments=3, where=where)
    out, back = jax.vjp(function, token_log_probs)
    np.testing.assert_array_equal(out, [[-4.0, -1.0, 0.0], [-8.0, 0.0, -1.0]])
    (slope,) = back(jnp.ones((2, 3)))
    np.testing.assert_array_equal(slope, [[1, 0, 1, 0], [1, 1, 0, 0]])
    assert ops.segment_log_probs(
        jnp.ones(4, jnp.bfloat16), ids[0], num_segments=1
    ).shape == (1,)


def test_a_thousand_small_terms_do_not_vanish_in_low_precision():
    token_log_probs = jnp.full((1, 1000), -1.0, jnp.bfloat16)
    np.testing.assert_array_equal(ops.sequence_log_probs(token_log_probs), [-1000.0])
    ids = jnp.zeros((1, 1000), int)
    out = ops.segment_log_probs(token_log_probs, ids, num_segments=1)
    np.testing.assert_array_equal(out, [[-1000.0]])
