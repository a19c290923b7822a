"""Halves of a gradient, their normalized combinations, running calibration."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkit import entanglement, preference
from jaxkit.entanglement import Coefficients, PairGram

PAIRS = 3


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def log_prob(params: dict, x: jax.Array) -> jax.Array:
    return jax.nn.log_sigmoid(jnp.tanh(x @ params["in"]) @ params["out"])


def params() -> dict[str, jax.Array]:
    return {"in": normal(0, 4, 5), "out": normal(1, 5)}


def dpo(chosen: jax.Array, rejected: jax.Array) -> jax.Array:
    return preference.dpo_loss(chosen, rejected, 0 * chosen, 0 * rejected, beta=0.7)


def sppo(chosen: jax.Array, rejected: jax.Array) -> jax.Array:
    """Its coefficients differ, and here are negative for some answers of both kinds."""
    reference = 0 * chosen - 2.0
    return preference.sppo_loss(chosen, rejected, reference, 0 * rejected, beta=1.0)


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def examples() -> tuple[jax.Array, jax.Array]:
    return normal(2, PAIRS, 4), normal(3, PAIRS, 4)


def gradients_of_pairs(x: jax.Array) -> np.ndarray:
    """One flat gradient for each example."""
    return np.stack([flat(jax.grad(log_prob)(params(), row)) for row in x])


@pytest.mark.parametrize("loss", [dpo, sppo])
def test_the_two_parts_are_weighted_sums_of_gradients(loss: Any, x64: None):
    chosen, rejected = examples()
    where = jnp.array([True, True, False])
    split = jax.jit(entanglement.split_value_and_grad(log_prob, loss))
    (value, report), parts = split(
        params(), chosen.at[2].set(jnp.nan), rejected, where=where
    )
    whole = lambda p: jnp.mean(loss(log_prob(p, chosen), log_prob(p, rejected))[:2])
    want, gradient = jax.value_and_grad(whole)(params())
    np.testing.assert_allclose(value, want, rtol=1e-12)
    combined = entanglement.combine_gradients(*parts, method="sum")
    np.testing.assert_allclose(flat(combined), flat(gradient), rtol=1e-10, atol=1e-13)

    slopes = Coefficients(*(np.asarray(c)[:2] for c in report.coefficients))
    for part, x, slope in zip(parts, examples(), slopes, strict=True):
        np.testing.assert_allclose(
            flat(part), slope @ gradients_of_pairs(x[:2]) / 2, rtol=1e-9, atol=1e-12
        )
    w, l = (flat(part) for part in parts)
    np.testing.assert_allclose(report.gram, [w @ w, w @ l, l @ l], rtol=1e-10)
    assert report.coefficients.chosen[2] == report.coefficients.rejected[2] == 0


def test_normalized_parts_are_equally_long(x64: None):
    w, l = normal(0, 6), 5 * normal(1, 6)
    norm = np.linalg.norm
    geometric = entanglement.combine_gradients(w, l)
    alpha = np.sqrt(norm(l) / norm(w))
    np.testing.assert_allclose(geometric, l / alpha - alpha * w, rtol=1e-9)
    unit = entanglement.combine_gradients(w, l, form="unit")
    np.testing.assert_allclose(unit, l / norm(l) - w / norm(w), rtol=1e-9)
    # Both log-probabilities move as they should, by the same share of their norm.
    rho = (w @ l) / (norm(w) * norm(l))
    np.testing.assert_allclose(-unit @ w / norm(w), 1 - rho, rtol=1e-9)
    np.testing.assert_allclose(-unit @ l / norm(l), rho - 1, rtol=1e-9)


def test_equal_or_absent_parts_give_no_direction():
    g = jnp.array([1.0, -2.0])
    for form in ("geometric", "unit"):
        combine = functools.partial(entanglement.combine_gradients, form=form)
        np.testing.assert_array_equal(combine(g, g), 0.0)
        np.testing.assert_array_equal(combine(0 * g, 0 * g), 0.0)
        assert bool(jnp.all(jnp.isfinite(combine(0 * g, g))))
        slope = jax.jacobian(combine)(0 * g, 0 * g)
        assert bool(jnp.all(jnp.isfinite(slope)))


@pytest.mark.parametrize("form", ["geometric", "unit"])
@pytest.mark.parametrize("loss", [dpo, sppo])
def test_each_pair_is_normalized_by_itself(loss: Any, form: str, x64: None):
    chosen, rejected = examples()
    gram = functools.partial(entanglement.pair_gram, log_prob)
    step = jax.jit(
        entanglement.normalized_pair_value_and_grad(log_prob, loss, gram, form=form)
    )
    (value, report), gradient = step(params(), chosen, rejected)
    logps = (log_prob(params(), chosen), log_prob(params(), rejected))
    np.testing.assert_allclose(value, jnp.mean(loss(*logps)), rtol=1e-12)
    np.testing.assert_allclose(report.chosen_logps, logps[0], rtol=1e-12)

    d_w, d_l = (np.asarray(d) for d in entanglement.loss_coefficients(loss, *logps))
    assert (loss is sppo) == (d_w.min() < 0) == (d_l.min() < 0)
    w, l = gradients_of_pairs(chosen), gradients_of_pairs(rejected)
    lengths = [np.linalg.norm(g, axis=1, keepdims=True) for g in (w, l)]
    direction = np.sign(d_w)[:, None] * w / lengths[0]
    direction -= np.sign(d_l)[:, None] * l / lengths[1]
    if form == "geometric":
        size = np.sqrt(np.abs(d_w * d_l))[:, None]
        direction *= size * np.sqrt(lengths[0] * lengths[1])
    np.testing.assert_allclose(
        flat(gradient), -direction.mean(axis=0), rtol=1e-8, atol=1e-12
    )


def test_the_normalized_step_is_ideal_where_dpo_lowers_both(x64: None):
    # The pair (1, 0), (2, 1): along its difference both log-probabilities fall.
    w = jnp.zeros(2)
    pair = (jnp.array([[1.0, 0.0]]), jnp.array([[2.0, 1.0]]))
    linear = lambda w, x: x @ w
    gram = functools.partial(entanglement.pair_gram, jnp.vdot)
    _, parts = entanglement.split_value_and_grad(linear, dpo)(w, *pair)
    plain = entanglement.combine_gradients(*parts, method="sum")
    both = jnp.concatenate(pair)
    assert bool(jnp.all(both @ -plain < 0))
    step = entanglement.normalized_pair_value_and_grad(linear, dpo, gram)
    for gradient in (step(w, *pair)[1], entanglement.combine_gradients(*parts)):
        np.testing.assert_array_equal(jnp.sign(both @ -gradient), [1.0, -1.0])


def test_saturated_and_empty_pairs_give_finite_steps():
    linear = lambda w, x: x @ w
    gram = functools.partial(entanglement.pair_gram, jnp.vdot)

    @jax.jit
    def gradient(w: jax.Array, chosen: jax.Array, rejected: jax.Array) -> jax.Array:
        step = entanglement.normalized_pair_value_and_grad(linear, dpo, gram)
        return step(w, chosen, rejected)[1]

    # A slope of 0, two equal gradients, two gradients of 0.
    chosen = jnp.array([[1e3, 0.0], [1.0, 2.0], [0.0, 0.0]])
    rejected = jnp.array([[-1e3, 0.0], [1.0, 2.0], [0.0, 0.0]])
    got = gradient(jnp.ones(2), chosen, rejected)
    np.testing.assert_array_equal(got, 0.0)
    through = jax.grad(lambda w: jnp.sum(gradient(w, chosen, rejected)))(jnp.ones(2))
    assert bool(jnp.all(jnp.isfinite(through)))


def test_alternating_halves_are_two_steps(x64: None):
    chosen, rejected = examples()
    optimizer = optax.sgd(0.1)
    step = jax.jit(entanglement.alternating_update(log_prob, dpo, optimizer))
    got, _, value = step(params(), optimizer.init(params()), chosen, rejected)
    split = entanglement.split_value_and_grad(log_prob, dpo)
    (want, _), (up, _) = split(params(), chosen, rejected)
    half = jax.tree.map(lambda p, g: p + 0.1 * g, params(), up)
    _, (_, down) = split(half, chosen, rejected)
    end = jax.tree.map(lambda p, g: p - 0.1 * g, half, down)
    np.testing.assert_allclose(value, want, rtol=1e-12)
    np.testing.assert_allclose(flat(got), flat(end), rtol=1e-12)
    assert np.max(np.abs(flat(half) - flat(end))) > 1e-4


def test_calibration_averages_logarithms_without_bias(x64: None):
    rng = np.random.default_rng(0)
    state = entanglement.init_calibration()
    logs = []
    for _ in range(3):
        chosen, rejected = rng.uniform(0.5, 2.0, (2, PAIRS))
        d_w, d_l = rng.uniform(0.1, 1.0, (2, PAIRS)) * np.array([[1.0], [-1.0]])
        norm_ratio = np.mean(np.log(np.sqrt(rejected / chosen)))
        logs.append(norm_ratio - np.mean(np.log(np.abs(d_w / d_l))))
        scale, state = entanglement.calibrate(
            state,
            PairGram(*map(jnp.asarray, (chosen, chosen, rejected))),
            Coefficients(jnp.asarray(d_w), jnp.asarray(d_l)),
            decay=0.9,
        )
        weights = 0.9 ** np.arange(len(logs))[::-1]
        want = np.exp(np.average(logs, weights=weights) / 2)
        np.testing.assert_allclose(scale, want, rtol=1e-12)


def test_the_calibrated_ratio_is_that_of_the_norms(x64: None):
    one = jnp.ones(1)
    gram, slopes = PairGram(one, one, 9 * one), Coefficients(one / 2, one)
    scale, state = entanglement.calibrate(entanglement.init_calibration(), gram, slopes)

    def loss(chosen: jax.Array, rejected: jax.Array) -> jax.Array:
        chosen, rejected = entanglement.calibrated_log_probs(chosen, rejected, scale)
        return rejected - 0.5 * chosen

    got = entanglement.loss_coefficients(loss, jnp.array([-3.3]), jnp.array([-0.7]))
    np.testing.assert_allclose(got.chosen / got.rejected, np.sqrt(9.0), rtol=1e-12)
    assert len(jax.tree.leaves(state)) == 3


def test_calibration_leaves_values_alone_and_is_a_loop_carry():
    chosen, rejected = jnp.linspace(-90.0, 10.0, 999).reshape(3, -1)[:2]
    scaled = entanglement.calibrated_log_probs(chosen, rejected, 1.7)
    chex.assert_trees_all_equal(scaled, (chosen, rejected))
    total = lambda scale: sum(
        map(jnp.sum, entanglement.calibrated_log_probs(chosen, rejected, scale))
    )
    assert float(jax.grad(total)(1.7)) == 0.0

    def step(state: Any, factor: jax.Array) -> tuple[Any, jax.Array]:
        one = jnp.ones(2)
        gram = PairGram(factor * one, one, one)
        scale, state = entanglement.calibrate(state, gram, Coefficients(one, one))
        return state, scale

    start = entanglement.init_calibration()
    state, scales = jax.lax.scan(step, start, jnp.array([0.0, 4.0, 4.0]))
    # Nothing is known at first; then a chosen gradient twice as long.
    np.testing.assert_allclose(scales, [1.0, 2**-0.5, 2**-0.5], rtol=1e-6)
    assert isinstance(state, entanglement.CalibrationState)


def test_bad_input():
    x = jnp.ones((2, 4))
    split = entanglement.split_value_and_grad(log_prob, dpo)
    with pytest.raises(ValueError, match=r"`chosen` and `rejected`.*2 and 1"):
        split(params(), x, x[:1])
    with pytest.raises(TypeError, match=r"params\['step'\].*int32"):
        split(params() | {"step": jnp.zeros((), jnp.int32)}, x, x)
    with pytest.raises(ValueError, match=r"must have shape \(2,\), got \(\)"):
        entanglement.split_value_and_grad(lambda p, x: jnp.sum(x), dpo)(params(), x, x)
    with pytest.raises(ValueError, match=r"`loss` must give one value per pair"):
        entanglement.split_value_and_grad(log_prob, lambda a, b: jnp.sum(a - b))(
            params(), x, x
        )
    with pytest.raises(ValueError, match=r"`form` must be one of.*got 'mean'"):
        entanglement.normalized_pair_value_and_grad(log_prob, dpo, None, form="mean")
