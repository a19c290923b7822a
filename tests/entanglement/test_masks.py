"""Gated tokens, and the tokens in which two answers differ."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxkit import entanglement, preference


def test_loss_against_numpy(x64: None):
    rng = np.random.default_rng(0)
    chosen, rejected = rng.standard_normal((2, 4)), rng.standard_normal((2, 3))
    open_w, open_l = rng.uniform(0, 1, (2, 4)), rng.uniform(0, 1, (2, 3))
    got = entanglement.token_mask_loss(
        *map(jnp.asarray, (chosen, rejected, open_w, open_l)), beta=0.3, sparsity=0.2
    )
    margin = 0.3 * ((open_w * chosen).sum(1) - (open_l * rejected).sum(1))
    price = 0.2 * (np.abs(open_w).sum(1) + np.abs(open_l).sum(1))
    np.testing.assert_allclose(got, np.log1p(np.exp(-margin)) + price, rtol=1e-12)


def test_open_gates_without_a_price_are_dpo(x64: None):
    rng = np.random.default_rng(1)
    chosen, rejected = jnp.asarray(rng.standard_normal((2, 2, 4)))
    ones = jnp.ones((2, 4))
    got = entanglement.token_mask_loss(chosen, rejected, ones, ones, sparsity=0.0)
    zero = jnp.zeros(2)
    want = preference.dpo_loss(chosen.sum(-1), rejected.sum(-1), zero, zero, beta=0.1)
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_a_gate_stays_open_while_its_token_pays(x64: None):
    ratios = jnp.array([[2.0, 0.0]])
    zeros, gates = jnp.zeros((1, 2)), jnp.full((1, 2), 0.5)
    slope = jax.grad(
        lambda gates: entanglement.token_mask_loss(
            ratios, zeros, gates, gates, beta=0.1, sparsity=0.01
        ).sum()
    )(gates)
    # 0.1 sigmoid(-0.1) 2 = 0.095 is more than the price of two gates, 0 is less.
    assert float(slope[0, 0]) < 0 < float(slope[0, 1])


def contrast(chosen: list, rejected: list, of_chosen: list, of_rejected: list) -> list:
    masks = entanglement.contrast_mask(
        jnp.array(chosen),
        jnp.array(rejected),
        chosen_where=jnp.array(of_chosen) == 1,
        rejected_where=jnp.array(of_rejected) == 1,
    )
    return [mask.astype(jnp.int32).tolist() for mask in masks]


def test_answers_of_one_length_differ_token_by_token():
    got = contrast([9, 1, 2, 3, 0], [9, 1, 5, 3, 7], [0, 1, 1, 1, 0], [0, 1, 1, 1, 0])
    assert got == [[0, 0, 1, 0, 0]] * 2


def test_answers_of_two_lengths_differ_from_their_common_beginning_on():
    got = contrast([9, 1, 2, 3, 4], [9, 1, 5, 3, 0], [0, 1, 1, 1, 1], [0, 1, 1, 1, 0])
    assert got == [[0, 0, 1, 1, 1], [0, 0, 1, 1, 0]]
    # One answer is the beginning of the other.
    got = contrast([1, 2, 0], [1, 2, 3], [1, 1, 0], [1, 1, 1])
    assert got == [[0, 0, 0], [0, 0, 1]]


def test_answers_meet_wherever_they_stand_in_their_rows():
    got = contrast([0, 0, 1, 2], [1, 3, 0, 0], [0, 0, 1, 1], [1, 1, 0, 0])
    assert got == [[0, 0, 0, 1], [0, 1, 0, 0]]


def test_batches_and_empty_answers():
    got = contrast([[1, 2], [1, 2]], [[1, 3], [4, 2]], [[1, 1], [0, 0]], [[1, 1]] * 2)
    assert got == [[[0, 1], [0, 0]], [[0, 1], [1, 1]]]
