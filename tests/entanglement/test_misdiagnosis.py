"""How often the condition on the pair alone tells what training did to the pair.

The numbers of the theory page come from here:
``pytest -m slow -s tests/entanglement/test_misdiagnosis.py``.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxkit import entanglement, preference
from jaxkit.nn import PreferencePolicy

WORDS, LABEL, PAIRS, BATCH = 8, 10, 1024, 32
LOSS = functools.partial(preference.dpo_loss, beta=0.1)
LOGGED = (0, 10, 30, 60, 119)


def make_pairs(key, suffix):
    """Words of one of two classes, a separator, its label and a fixed suffix.

    The rejected answer holds the other label.
    """
    keys = jax.random.split(key, 3)
    label = jax.random.bernoulli(keys[0], 0.5, (PAIRS, 1)).astype(jnp.int32)
    word = jax.random.randint(keys[1], (PAIRS, WORDS), 0, 16)
    telling = jax.random.bernoulli(keys[2], 0.6, (PAIRS, WORDS))
    prompt = jnp.where(telling, 1 + 16 * label, 33) + word

    def build(label):
        tail = jnp.broadcast_to(jnp.arange(52, 52 + suffix), (PAIRS, suffix))
        start, stop = jnp.zeros_like(label), jnp.full_like(label, 49)
        return jnp.concatenate([start, prompt, stop, 50 + label, tail], axis=1)

    return build(label), build(1 - label)


class Run:
    """Supervised steps on the format alone, then DPO with reports on the way."""

    def __init__(self, suffix, optimizer, seed=0):
        keys = jax.random.split(jax.random.key(seed), 2)
        self.length = LABEL + 1 + suffix
        self.chosen, self.rejected = make_pairs(keys[0], suffix)
        policy = PreferencePolicy(
            60, 32, num_layers=2, num_heads=4, max_length=16, rngs=nnx.Rngs(seed)
        )
        self.graphdef, variables = nnx.split(policy, nnx.Param)
        self.reference = self.supervised(nnx.to_pure_dict(variables), keys[1])
        self.optimizer = optimizer

    def log_probs(self, params, tokens):
        where = jnp.broadcast_to(jnp.arange(self.length) >= LABEL, tokens.shape)
        return nnx.merge(self.graphdef, params).log_probs(tokens, where=where)

    def supervised(self, params, key):
        optimizer = optax.adam(3e-3)

        def step(carry, key):
            params, state = carry
            rows, coin = jax.random.split(key)
            rows = jax.random.randint(rows, (64,), 0, PAIRS)
            coin = jax.random.bernoulli(coin, 0.5, (64, 1))
            tokens = jnp.where(coin, self.chosen[rows], self.rejected[rows])
            mean = lambda params: -self.log_probs(params, tokens).mean()
            update, state = optimizer.update(jax.grad(mean)(params), state)
            return (optax.apply_updates(params, update), state), None

        start = (params, optimizer.init(params))
        keys = jax.random.split(key, 100)
        return jax.jit(lambda: jax.lax.scan(step, start, keys)[0][0])()

    def step(self, params, state, rows):
        sides = self.chosen[rows], self.rejected[rows]
        refs = tuple(self.log_probs(self.reference, side) for side in sides)

        def mean_loss(params):
            return LOSS(*(self.log_probs(params, s) for s in sides), *refs).mean()

        update, state = self.optimizer.update(jax.grad(mean_loss)(params), state)
        return optax.apply_updates(params, update), state

    def report(self, params, new, rows):
        sides = self.chosen[rows], self.rejected[rows]
        refs = tuple(self.log_probs(self.reference, side) for side in sides)
        return entanglement.displacement_report(
            self.log_probs, LOSS, params, new, *sides, *refs, chunk_size=8
        )

    def reports(self):
        """The reports of the logged steps, and the change of the whole data set."""
        step, report = jax.jit(self.step), jax.jit(self.report)
        params, state = self.reference, self.optimizer.init(self.reference)
        rng, found = np.random.default_rng(0), []
        for index in range(LOGGED[-1] + 1):
            rows = jnp.asarray(rng.integers(0, PAIRS, BATCH))
            new, state = step(params, state, rows)
            if index in LOGGED:
                found.append(jax.device_get(report(params, new, rows)))
            params = new
        change = self.log_probs(params, self.chosen) - self.log_probs(
            self.reference, self.chosen
        )
        return found, float(change.mean())


def agreement(reports):
    """Shares of pairs whose chosen change has the sign that each sum predicts."""
    signs = {"own_pair": [], "batch": [], "optimizer": []}
    rises, rose = [], []
    for report in reports:
        total, actual = 0.0, report.actual.chosen
        for name, shares in signs.items():
            total = total + getattr(report, name).chosen
            shares.append(np.mean(np.sign(total) == np.sign(actual)))
        rises.append(np.mean(report.own_pair.chosen > 0))
        rose.append(np.mean(actual > 0))
    means = {name: float(np.mean(shares)) for name, shares in signs.items()}
    return means | {"rises": float(np.mean(rises)), "rose": float(np.mean(rose))}


@pytest.mark.experiment
@pytest.mark.parametrize("suffix", [0, 5])
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_the_condition_on_the_pair_alone_misleads(name, suffix):
    make = {"sgd": lambda: optax.sgd(0.02), "adam": lambda: optax.adam(3e-4)}
    with jax.numpy_dtype_promotion("standard"):
        reports, change = Run(suffix, make[name]()).reports()
    found = agreement(reports)
    numbers = ", ".join(f"{key} {value:.2f}" for key, value in found.items())
    print(f"\n{name}, suffix {suffix}: {numbers}, change {change:+.2f}")
    assert found["rises"] > 0.8
    assert found["own_pair"] < 0.8
    assert found["optimizer"] > 0.9
    for report in reports:
        for side in (0, 1):
            total = sum(part[side] for part in report[:4])
            np.testing.assert_allclose(total, report.actual[side], atol=1e-5)
