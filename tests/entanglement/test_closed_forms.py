import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import entanglement
from jaxkit.entanglement import Coefficients, PairGram

pytestmark = pytest.mark.usefixtures("x64")


def softmax(logits):
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def dots(left, right):
    return np.einsum("...vd,...vd->...", left, right)


def test_one_token_by_hand():
    gram = entanglement.softmax_pair_gram(jnp.array([0.4, 0.3, 0.3]), 0, 1)
    np.testing.assert_allclose(gram, (0.54, -0.36, 0.74), rtol=1e-14)
    cosine = entanglement.pair_cosine(gram)
    np.testing.assert_allclose(cosine, -0.569494797, atol=5e-10)
    share = entanglement.chosen_share(gram, Coefficients(0.7, 0.7))
    np.testing.assert_allclose(share, 0.45, rtol=1e-14)
    changes = entanglement.softmax_step_changes(0.4, 0.3, 1.0)
    np.testing.assert_allclose(changes, (0.596085050, -1.403914950), atol=5e-10)


def test_one_token_equals_the_gradients_of_the_output_layer():
    rng = np.random.default_rng(0)
    weight, hidden = rng.standard_normal((5, 3)), rng.standard_normal((4, 3))
    chosen, rejected = np.array([0, 1, 2, 3]), np.array([4, 0, 2, 1])

    def log_probs(weight, labels):
        logits = jax.nn.log_softmax(hidden @ weight.T)
        return jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]

    g_w, g_l = (jax.jacobian(log_probs)(weight, y) for y in (chosen, rejected))
    gram = entanglement.softmax_pair_gram(
        softmax(hidden @ weight.T),
        chosen,
        rejected,
        hidden_sq_norm=np.sum(hidden**2, axis=-1),
    )
    np.testing.assert_allclose(gram.chosen, dots(g_w, g_w), rtol=1e-11)
    np.testing.assert_allclose(gram.cross, dots(g_w, g_l), rtol=1e-11)
    np.testing.assert_allclose(gram.rejected, dots(g_l, g_l), rtol=1e-11)
    # Equal answers included, every pair of one token is ideal or does not move.
    regimes = entanglement.entanglement_regime(gram, Coefficients(1.0, 1.0))
    np.testing.assert_array_equal(regimes, [0, 0, 4, 0])


def test_a_finite_step_on_the_output_layer():
    rng = np.random.default_rng(1)
    logits, c = rng.standard_normal((6, 5)), np.array([1e-9, 0.1, 2, 40, -3, -40])
    moved = logits + c[:, None] * (np.eye(5)[0] - np.eye(5)[1])
    log_p = lambda x: x - np.log(np.exp(x).sum(-1, keepdims=True))
    change = log_p(moved) - log_p(logits)
    p = softmax(logits)
    got = entanglement.softmax_step_changes(p[:, 0], p[:, 1], c)
    np.testing.assert_allclose(got.chosen[1:], change[1:, 0], rtol=1e-12)
    np.testing.assert_allclose(got.rejected[1:], change[1:, 1], rtol=1e-12)
    # Subtraction of logarithms has lost the digits of the smallest step; to first
    # order it is 1 - p_w + p_l.
    np.testing.assert_allclose(got.chosen[0], 1e-9 * (1 - p[0, 0] + p[0, 1]), rtol=1e-8)
    assert (np.asarray(got.chosen)[:4] > 0).all()


def test_a_sure_token_loses_no_digits():
    gap = 1e-9
    probs = np.array([1 - gap, gap / 2, gap / 2])
    gram = entanglement.softmax_pair_gram(probs, 0, 1)
    np.testing.assert_allclose(gram.chosen, 1.5 * gap**2, rtol=1e-6)


def sequence_gram(chosen_probs, rejected_probs, chosen, rejected, cosine):
    """The Gram of explicit gradients of an output layer, prefix and all.

    Position t of either answer has a unit hidden state; the two states of one
    position have the given cosine, those of different positions are orthogonal.
    """
    length = len(chosen)
    states = np.zeros((2, length, 2 * length))
    for t in range(length):
        states[0, t, 2 * t] = 1.0
        states[1, t, 2 * t : 2 * t + 2] = cosine[t], np.sqrt(1 - cosine[t] ** 2)
    vocab = chosen_probs.shape[-1]
    grads = [
        np.einsum("tv,td->vd", np.eye(vocab)[y] - p, h)
        for y, p, h in zip(
            (chosen, rejected), (chosen_probs, rejected_probs), states, strict=True
        )
    ]
    dot = lambda x, y: np.sum(x * y)
    return dot(grads[0], grads[0]), dot(grads[0], grads[1]), dot(grads[1], grads[1])


def test_answers_that_differ_in_one_token_equal_explicit_gradients():
    rng = np.random.default_rng(2)
    prefix, suffix, vocab = 3, 4, 5
    shared = softmax(rng.standard_normal((prefix + 1, vocab)))
    after = softmax(rng.standard_normal((2, suffix, vocab)))
    probs = [np.concatenate([shared, after[i]]) for i in range(2)]
    tokens = rng.integers(0, vocab, prefix + 1 + suffix)
    chosen, rejected = tokens.copy(), tokens.copy()
    chosen[prefix], rejected[prefix] = 1, 3
    cosine = np.concatenate([np.ones(prefix + 1), rng.uniform(-1, 1, suffix)])
    s_ww, s_wl, s_ll = sequence_gram(*probs, chosen, rejected, cosine)
    gram = entanglement.suffix_pair_gram(
        shared[-1],
        1,
        3,
        after[0],
        after[1],
        tokens[prefix + 1 :],
        hidden_cosine=cosine[prefix + 1 :],
    )
    np.testing.assert_allclose(gram.chosen - gram.cross, s_ww - s_wl, rtol=1e-12)
    np.testing.assert_allclose(gram.rejected - gram.cross, s_ll - s_wl, rtol=1e-12)
    want = 1 - shared[-1, 1] + shared[-1, 3]
    residual = np.eye(vocab)[tokens[prefix + 1 :]] - after
    for t in range(suffix):
        want += residual[0, t] @ residual[0, t]
        want -= cosine[prefix + 1 + t] * (residual[0, t] @ residual[1, t])
    np.testing.assert_allclose(gram.chosen - gram.cross, want, rtol=1e-12)
    # The prefix adds the same to all three entries.
    before = sequence_gram(
        shared[:-1], shared[:-1], tokens[:prefix], tokens[:prefix], cosine[:prefix]
    )
    np.testing.assert_allclose(gram.cross + before[1], s_wl, rtol=1e-12)


def test_short_suffixes_are_safe_and_long_ones_dangerous():
    rng = np.random.default_rng(7)
    draws, longest, vocab, gamma = 200, 8, 11, 0.95
    tokens = rng.integers(0, vocab, (draws, longest))
    # One random head reads hidden states of cosine gamma; the model is surer of the
    # right token after the chosen answer.
    logits, noise = 0.5 * rng.standard_normal((2, draws, longest, vocab))
    other = gamma * logits + np.sqrt(1 - gamma**2) * noise
    right = np.eye(vocab)[tokens]
    after = softmax(logits + 3 * right), softmax(other + right)
    probs = softmax(0.5 * rng.standard_normal((draws, vocab)))
    falls = []
    for length in (0, 1, 2, 3, 4, 6, 8):
        gram = entanglement.suffix_pair_gram(
            probs,
            np.zeros(draws, int),
            np.ones(draws, int),
            *after,
            tokens,
            hidden_cosine=gamma,
            where=np.arange(longest) < length,
        )
        falls.append(np.mean(np.asarray(gram.cross > gram.chosen)))
    # Other draws gave 0, 0, 0, 0, 0.015, 0.235, 0.965.
    assert max(falls[:5]) < 0.03
    assert 0.1 < falls[5] < 0.4
    assert falls[6] > 0.9


def test_a_suffix_token_costs_at_most_one_half():
    rng = np.random.default_rng(4)
    vocab, draws = 4, 500
    probs = np.full(vocab, 0.25)
    after = softmax(3 * rng.standard_normal((2, draws, 1, vocab)))
    gram = entanglement.suffix_pair_gram(
        np.tile(probs, (draws, 1)),
        np.zeros(draws, int),
        np.ones(draws, int),
        after[0],
        after[1],
        np.zeros((draws, 1), int),
    )
    # The differing token adds 1 here.
    cost = 1.0 - np.asarray(gram.chosen - gram.cross)
    residual = np.eye(vocab)[0] - after[1][:, 0]
    assert (cost <= np.sum(residual**2, axis=-1) / 4 + 1e-12).all()
    assert cost.max() <= 0.5
    assert cost.max() > 0.2


def test_token_gram_equals_the_gradients_of_the_output_layer():
    rng = np.random.default_rng(5)
    hidden, other = rng.standard_normal((3, 2)), rng.standard_normal((4, 2))
    bias = np.linspace(-1.0, 1.0, 5)
    params = {"weight": rng.standard_normal((5, 2)), "bias": bias}
    tokens, others = np.array([0, 4, 2]), np.array([2, 2, 1, 0])

    def token_log_probs(params, hidden, tokens):
        logits = hidden @ params["weight"].T + params["bias"][None]
        return jax.nn.log_softmax(logits)[np.arange(len(tokens)), tokens]

    rows = [
        np.concatenate(
            [
                leaf.reshape(len(y), -1)
                for leaf in jax.tree.leaves(
                    jax.jacobian(token_log_probs)(params, jnp.asarray(h), y)
                )
            ],
            axis=1,
        )
        for h, y in ((hidden, tokens), (other, others))
    ]
    gram = entanglement.output_layer_token_gram(
        hidden, other, params["weight"], tokens, others, bias=bias
    )
    np.testing.assert_allclose(gram, rows[0] @ rows[1].T, atol=1e-12)
    masked = entanglement.output_layer_token_gram(
        np.where(np.arange(3)[:, None] < 2, hidden, np.nan),
        other,
        params["weight"],
        np.where(np.arange(3) < 2, tokens, -100),
        others,
        bias=bias,
        where=np.arange(3) < 2,
        other_where=np.arange(4) > 0,
    )
    want = np.asarray(gram).copy()
    want[2], want[:, 0] = 0.0, 0.0
    np.testing.assert_allclose(masked, want, atol=1e-12)


def test_bigram_tables_by_hand():
    states = np.eye(3)
    weight = np.zeros((3, 3))

    def pair(chosen, rejected):
        answers = [(states[[0, *y[:-1]]], np.array(y)) for y in (chosen, rejected)]
        return [
            entanglement.output_layer_token_gram(h, k, weight, y, z)
            for (h, y), (k, z) in (
                (answers[0], answers[0]),
                (answers[0], answers[1]),
                (answers[1], answers[1]),
            )
        ]

    short = pair([1, 2], [1, 0])
    np.testing.assert_allclose(short[1], [[2 / 3, 0], [0, -1 / 3]], atol=1e-15)
    gram = PairGram(*(k.sum() for k in short))
    np.testing.assert_allclose(gram, (4 / 3, 1 / 3, 4 / 3), rtol=1e-12)
    equal = Coefficients(1.0, 1.0)
    np.testing.assert_allclose(entanglement.chosen_share(gram, equal), 0.5, rtol=1e-12)
    long = PairGram(*(k.sum() for k in pair([1, 2, 2], [0, 2, 2])))
    np.testing.assert_allclose(long, (2, 0, 4 / 3), atol=1e-12)
    np.testing.assert_allclose(entanglement.chosen_share(long, equal), 0.6, rtol=1e-12)


def test_ches_score_by_hand():
    rng = np.random.default_rng(6)
    chosen, rejected = rng.standard_normal((2, 4, 3)), rng.standard_normal((2, 5, 3))
    keep = np.array([[True, True, True, False], [True, False, False, False]])
    total = np.sum(np.where(keep[..., None], chosen, 0.0), axis=1)
    other = rejected.sum(axis=1)
    plain = (total * other).sum(-1) - (total**2).sum(-1)
    poisoned = np.where(keep[..., None], chosen, np.nan)
    got = entanglement.ches_score(poisoned, rejected, chosen_where=keep)
    np.testing.assert_allclose(got, plain, rtol=1e-12)
    counts = keep.sum(axis=1)
    mean = (total * other).sum(-1) / (5 * counts) - (total**2).sum(-1) / counts**2
    got = entanglement.ches_score(
        chosen, rejected, length_normalize=True, chosen_where=keep
    )
    np.testing.assert_allclose(got, mean, rtol=1e-12)
    empty = entanglement.ches_score(
        chosen, rejected, length_normalize=True, chosen_where=np.zeros((2, 4), bool)
    )
    np.testing.assert_array_equal(empty, [0, 0])
