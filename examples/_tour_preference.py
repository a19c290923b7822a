"""The claims about preference losses and exploration in the tour."""

from typing import Any

import _common as common
import jax
import jax.numpy as jnp
import numpy as np
import preference_selm_bandit as bandit
from _claims import Claim, Picture

from jaxkit import ops, preference

# log pi_w, log pi_l, log ref_w, log ref_l; 5 and 8 tokens; beta 0.1 unless said.
PAIR = (-10.0, -14.0, -11.0, -13.0)
LENGTHS = (5, 8)
# With 30 digits, outside of this library.
REFERENCE = {
    "dpo": 0.598138869382,
    "robust_dpo": 0.573138869382,
    "ipo": 21.855625,
    "exo": 2.42201462066,
    "nca": 1.33879332015,
    "bco": 1.28879332015,
    "sppo": 32.0,
    "apo_zero": 0.950041625042,
    "apo_down": 0.975145190166,
    "discopop": 0.814763141142,
    "simpo": 1.70141327798,
    "cpo": 0.5130152524,
    "odds_ratio": 0.851757483081,
    "selm": 0.596138869382,
    "xpo": 0.578138869382,
}


def run(config: common.TrainConfig) -> tuple[list[Claim], list[Picture]]:
    """Measures every claim of the system."""
    with jax.enable_x64(True):
        claims = [values(), *heads(), *theory(), *slopes()]
    more, picture = explored(config)
    return [*claims, *more], [picture]


def _claim(statement: str, *values: Any, **options: Any) -> Claim:
    return Claim("preference", statement, *map(float, values), **options)


def values() -> Claim:
    """Losses against numbers of high precision."""
    pair, explore = PAIR, (-20.0, -18.0)
    policy, lengths = PAIR[:2], (*PAIR[:2], *LENGTHS)
    measured = {
        name: getattr(preference, f"{name}_loss")(*pair)
        for name in ("dpo", "robust_dpo", "exo", "nca", "bco", "sppo", "discopop")
    }
    measured |= {
        "apo_zero": preference.apo_zero_loss(*pair),
        "apo_down": preference.apo_down_loss(*pair),
        "ipo": preference.ipo_loss(*pair, *LENGTHS),
        "cpo": preference.cpo_loss(*policy),
        "simpo": preference.simpo_loss(*lengths),
        "odds_ratio": preference.odds_ratio_loss(*lengths),
        "selm": preference.selm_loss(
            *policy, explore[0], *pair[2:], explore[1], alpha=0.01, beta=0.1
        ),
        "xpo": preference.xpo_loss(*policy, explore[0], *pair[2:], alpha=1e-3),
    }
    error = max(abs(measured[name] / x - 1) for name, x in REFERENCE.items())
    title = f"{len(REFERENCE)} losses against 12 digits (largest relative error)"
    return _claim(title, 0.0, error, 1e-11, kind="absolute")


def heads() -> list[Claim]:
    """Log-probabilities by tiles of the vocabulary against all logits at once."""
    keys = jax.random.split(jax.random.key(0), 3)
    hidden = jax.random.normal(keys[0], (256, 32))
    weight = jax.random.normal(keys[1], (16_384, 32))
    labels = jax.random.randint(keys[2], (256,), 0, 16_384)

    def tiled(hidden: jax.Array, weight: jax.Array) -> jax.Array:
        return ops.linear_selected_log_probs(hidden, weight, labels, chunk_size=1024)

    def dense(hidden: jax.Array, weight: jax.Array) -> jax.Array:
        return ops.selected_log_probs(hidden @ weight.T, labels)

    def compiled(function: Any) -> Any:
        both = lambda h, w: (function(h, w), jax.grad(_total(function), (0, 1))(h, w))
        return jax.jit(both).lower(hidden, weight).compile()

    programs = compiled(tiled), compiled(dense)
    results = [jax.tree.leaves(program(hidden, weight)) for program in programs]
    error = max(jnp.max(jnp.abs(x - y)) for x, y in zip(*results, strict=True))
    memory = [p.memory_analysis().temp_size_in_bytes for p in programs]
    # Policy and reference through the same program: their ratio is exactly 0.
    policy, reference = (
        programs[0](hidden, weight)[0].reshape(2, -1) for _ in range(2)
    )
    first = preference.dpo_loss(*policy, *reference)
    gap = jnp.max(jnp.abs(first - jnp.log(2.0)))
    return [
        _claim(
            "tiled head = dense head, values and gradients (largest difference)",
            *(0.0, error, 1e-11),
            kind="absolute",
        ),
        _claim(
            "tiles of 1024 of 16384: bytes of temporaries against the dense head",
            *(memory[1], memory[0], 0.25),
            kind="bound",
        ),
        _claim(
            "the first loss of DPO is log 2, to the last bit (difference)",
            *(0.0, gap, 0.0),
            kind="absolute",
        ),
    ]


def _total(function: Any) -> Any:
    return lambda hidden, weight: jnp.sum(jnp.sin(function(hidden, weight)))


def theory() -> list[Claim]:
    """The identity behind optimism and theorem 5.1, on random tables."""
    keys = jax.random.split(jax.random.key(1), 3)
    reward = jax.random.normal(keys[0], (100, 8))
    ref, policy = (
        jax.nn.log_softmax(jax.random.normal(key, (100, 8))) for key in keys[1:]
    )
    beta = 0.3
    gap = preference.selm_value_gap(reward, ref, beta=beta)
    best = preference.optimal_policy(reward, ref, beta=beta)
    forward = beta * jnp.sum(jnp.exp(ref) * (ref - best), axis=-1)
    implicit = beta * (policy - ref)
    least = preference.optimal_policy(-implicit, policy, beta=beta)
    errors = {
        "F(pi_r; r) = beta KL(ref || pi_r)": jnp.max(jnp.abs(gap - forward)),
        "theorem 5.1: the reference has the least implicit reward": jnp.max(
            jnp.abs(least - ref)
        ),
    }
    return [
        _claim(f"{statement} (largest difference)", 0.0, x, 1e-12, kind="absolute")
        for statement, x in errors.items()
    ]


def slopes() -> list[Claim]:
    """The gradient of the exploration term where a round starts."""
    logits = jax.random.normal(jax.random.key(2), (8,))
    ref = jax.nn.log_softmax(logits)
    greedy = jax.nn.one_hot(jnp.argmax(ref), 8)

    def term(logits: jax.Array, weights: jax.Array) -> jax.Array:
        policy = jax.nn.log_softmax(logits)
        bonus = preference.exploration_bonus(policy, ref, alpha=0.5, beta=0.1)
        return jnp.sum(weights * bonus)

    sampled, pushed = (
        jax.grad(term)(logits, weights) for weights in (jnp.exp(ref), greedy)
    )
    exact = 0.05 * (greedy - jnp.exp(ref))
    return [
        _claim(
            "y' sampled, at the reference: the expected gradient is 0 (largest entry)",
            *(0.0, jnp.max(jnp.abs(sampled)), 1e-15),
            kind="absolute",
        ),
        _claim(
            "y' greedy: alpha beta (e_y' - pi) (largest difference)",
            *(0.0, jnp.max(jnp.abs(pushed - exact)), 1e-15),
            kind="absolute",
        ),
    ]


def explored(config: common.TrainConfig) -> tuple[list[Claim], Picture]:
    """Coverage and reward of the bandit at rho = -4, ten thousand labels each."""
    small = bandit.Config(rhos=(-4.0,), seed=config.seed)
    curves = bandit.run_all(small, bandit.all_methods(small))
    names = [method.name for method in bandit.METHODS]

    def final(method: str, curve: str = "reward") -> float:
        values = np.asarray(getattr(curves, curve))
        return float(values[names.index(method), 0, :, -1].mean())

    dpo, greedy = "iterative DPO", "SELM greedy y', alpha 0.9"
    ratio = final(greedy, "found") / final(dpo, "found")
    gain = final(greedy) - final(dpo)
    sampled = final("SELM sampled y', alpha 0.5") - final(dpo)
    claims = [
        _claim("bandit: reward of SELM with greedy y' over DPO", 0.191, gain, 0.071),
        _claim("bandit: best answers sampled, SELM greedy / DPO", 2.6, ratio, 0.23),
        _claim("bandit: y' sampled gains nothing over DPO", 0.0, sampled, 0.03),
        _claim("bandit: entropy bonus, reward", 0.85, final("entropy bonus"), 0.04),
    ]
    kinds = ("absolute", "relative", "absolute", "absolute")
    claims = [c._replace(kind=kind) for c, kind in zip(claims, kinds, strict=True)]
    caption = (
        "A table of 256 prompts and 32 answers, best answer of reference probability "
        "e^-4. Left: reward of the greedy policy. Middle: how many answers were ever "
        "sampled. Right: too much optimism loses again."
    )
    return claims, Picture(caption, bandit.draw(small, curves))
