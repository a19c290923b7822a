"""What the exploration term of SELM does, where everything can be counted.

Paper: Zhang et al., *Self-Exploring Language Models*, TMLR 2025, algorithm 1 and
equation 4.2, on a table instead of a language model: 256 prompts, 32 answers each.
Ordinary rewards are uniform on [0, 0.6]; one answer per prompt has reward 1 and the
reference gives it probability e^rho, the other 31 share the rest by the softmax of
standard normal logits. Each of 40 rounds draws one on-policy pair per prompt, labels
it, takes 20 plain gradient steps on tabular logits (beta 0.1), and makes the policy
the next reference. All methods see the same problems, the same number of labels, and
alpha falls linearly to 0.

The rows: iterative DPO; SELM with one greedy answer y' of the reference, as in the
published code; with a sampled y', and with the exact expectation over y', as in
equation 4.2; the bounded bonuses; a plain entropy bonus, alpha beta sum pi log pi.
"prob_ratio + slope" goes on with slope 1 above the reference, where "prob_ratio" is
flat. Labels of a noisy judge are Bradley-Terry at scale 10.

How to read the numbers: greedy y' explores, because its gradient is a steady push off
the mode of the reference. Sampled y' does not: at the start of each round the expected
gradient of its term is 0, and later it amplifies what DPO already did. The table says
so, and also that a plain entropy bonus beats every row of SELM unless the best answer
is easy to find. Rates and strengths were tuned on another seed at rho = -4 and reused.

Command: python examples/preference_selm_bandit.py --output outputs/bandit
Time: under 20 seconds on two CPU cores.
"""

import dataclasses
from typing import Any, NamedTuple

import _common as common
import _plots as plots
import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from jaxkit import preference

BETA = 0.1
TERMS = ("log_ratio", "prob_ratio", "prob", "expectation", "sloped ratio", "entropy")


class Method(NamedTuple):
    """One row of the table.

    Attributes:
      name: what the table shows.
      term: the exploration term, one of `TERMS`.
      alpha: its strength at the start.
      rate: the step of gradient descent on the sum over prompts.
      greedy: whether y' is the greedy answer of the reference or a sampled one.
      label_scale: how reliable the judge is.
    """

    name: str
    term: str = "log_ratio"
    alpha: float = 0.0
    rate: float = 1.0
    greedy: bool = True
    label_scale: float = float("inf")


METHODS = (
    Method("iterative DPO"),
    Method("SELM greedy y', alpha 0.5", alpha=0.5),
    Method("SELM greedy y', alpha 0.9", alpha=0.9),
    Method("SELM sampled y', alpha 0.5", alpha=0.5, greedy=False),
    Method("SELM sampled y', alpha 0.9", alpha=0.9, greedy=False),
    Method("SELM expectation, alpha 0.5", "expectation", alpha=0.5),
    Method("prob_ratio, greedy", "prob_ratio", alpha=1.0),
    Method("prob_ratio + slope, greedy", "sloped ratio", alpha=1.0),
    Method("prob, greedy", "prob", alpha=10.0, rate=3.0),
    Method("entropy bonus", "entropy", alpha=1.0, rate=3.0),
    Method("iterative DPO, noisy judge", label_scale=10.0),
    Method("SELM greedy 0.9, noisy judge", alpha=0.9, label_scale=10.0),
)
SHOWN = (
    "iterative DPO",
    "SELM greedy y', alpha 0.9",
    "SELM sampled y', alpha 0.5",
    "prob, greedy",
    "entropy bonus",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(common.BaseConfig):
    """The options."""

    rhos: tuple[float, ...] = common.option(
        (-3.0, -4.0, -5.0), "log-probability of the best answer under the reference"
    )
    alphas: tuple[float, ...] = common.option(
        (0.1, 0.3, 0.7, 1.2, 2.0), "more strengths of SELM with greedy y'"
    )
    num_seeds: int = common.option(4, "independent problems per cell", paper=16)
    num_prompts: int = common.option(256, "prompts")
    num_answers: int = common.option(32, "answers per prompt")
    num_rounds: int = common.option(40, "rounds of one pair per prompt")
    num_steps: int = common.option(20, "gradient steps per round")


class Problem(NamedTuple):
    """Rewards, reference and best answers, each `[num_prompts, num_answers]`."""

    reward: jax.Array
    ref_log_probs: jax.Array
    best: jax.Array


class Curves(NamedTuple):
    """What happened after each round, means over prompts, `[..., num_rounds]`."""

    reward: jax.Array
    found: jax.Array
    coverage: jax.Array


def sample_problem(key: jax.Array, rho: jax.Array, config: Config) -> Problem:
    """Draws rewards and the reference of one run."""
    best_key, reward_key, logit_key = jax.random.split(key, 3)
    shape = (config.num_prompts, config.num_answers)
    place = jax.random.randint(best_key, shape[:1], 0, shape[1])
    best = jax.nn.one_hot(place, shape[1], dtype=bool)
    reward = jnp.where(best, 1.0, 0.6 * jax.random.uniform(reward_key, shape))
    logits = jnp.where(best, -jnp.inf, jax.random.normal(logit_key, shape))
    rest = jax.nn.log_softmax(logits) + jnp.log1p(-jnp.exp(rho))
    return Problem(reward, jnp.where(best, rho, rest), best)


def pick(table: jax.Array, answers: jax.Array) -> jax.Array:
    """Reads one entry per prompt, for any number of answers to all prompts."""
    rows = answers.reshape(-1, table.shape[0])
    entries = jnp.take_along_axis(table[None], rows[..., None], axis=-1)
    return entries.reshape(answers.shape)


def log_prob_fn(logits: jax.Array, answers: jax.Array) -> jax.Array:
    """The model: a table of logits."""
    return pick(jax.nn.log_softmax(logits), answers)


def exploration_term(
    weights: jax.Array, logits: jax.Array, ref_logits: jax.Array, explore: jax.Array
) -> jax.Array:
    """Mixes all `TERMS`, so that one program serves every method."""
    policy, ref = jax.nn.log_softmax(logits), jax.nn.log_softmax(ref_logits)
    logps, ref_logps = pick(policy, explore), pick(ref, explore)
    terms = [
        preference.exploration_bonus(logps, ref_logps, alpha=1.0, beta=1.0, bonus=name)
        for name in TERMS[:3]
    ]
    terms.append(jnp.sum(jnp.exp(ref) * (policy - ref), axis=-1))
    terms.append(terms[1] + jnp.maximum(logps - ref_logps, 0.0))
    terms.append(jnp.sum(jnp.exp(policy) * policy, axis=-1))
    return weights @ jnp.stack(terms)


def run(
    key: jax.Array, rho: jax.Array, method: dict[str, jax.Array], config: Config
) -> Curves:
    """Plays all rounds of one method on one problem."""
    problem_key, key = jax.random.split(key)
    problem = sample_problem(problem_key, rho, config)

    def explore_fn(key: jax.Array, logits: jax.Array, _: None) -> jax.Array:
        sampled = jax.random.categorical(key, logits)
        return jnp.where(method["greedy"], jnp.argmax(logits, axis=-1), sampled)

    _, (chosen, rejected, greedy) = preference.run_selm(
        key,
        preference.init_selm(problem.ref_log_probs),
        num_rounds=config.num_rounds,
        prompt_fn=lambda key, round: None,
        sample_fn=lambda key, logits, _: jax.random.categorical(key, logits),
        score_fn=lambda answers: pick(problem.reward, answers),
        explore_fn=explore_fn,
        log_prob_fn=log_prob_fn,
        bonus_fn=lambda logits, ref, batch: exploration_term(
            method["weights"], logits, ref, batch.explore
        ),
        # The loss is a mean over prompts, the rate belongs to their sum.
        optimizer=optax.sgd(method["rate"] * config.num_prompts),
        config=preference.SelmConfig(
            alpha=method["alpha"],
            beta=BETA,
            label_scale=method["label_scale"],
            num_steps=config.num_steps,
            alpha_schedule=optax.linear_schedule(1.0, 0.0, config.num_rounds),
        ),
        record=lambda state, batch: (
            batch.chosen,
            batch.rejected,
            jnp.argmax(state.params, axis=-1),
        ),
    )

    def count(seen: jax.Array, pair: tuple) -> tuple[jax.Array, Any]:
        for answers in pair:
            seen |= jax.nn.one_hot(answers, config.num_answers, dtype=bool)
        return seen, (jnp.any(seen & problem.best, axis=-1).mean(), seen.mean())

    _, (found, coverage) = jax.lax.scan(
        count, jnp.zeros_like(problem.best), (chosen, rejected)
    )
    reward = jax.vmap(lambda answers: pick(problem.reward, answers).mean())(greedy)
    return Curves(reward, found, coverage)


def all_methods(config: Config) -> tuple[Method, ...]:
    """Gives the rows of the table, then the sweep over alpha."""
    sweep = tuple(Method(f"alpha {a:g}", alpha=a) for a in config.alphas)
    return METHODS + sweep


def run_all(config: Config, methods: tuple[Method, ...]) -> Curves:
    """Runs methods x rhos x seeds as one compiled program."""
    table = {
        "weights": jnp.array([[m.term == name for name in TERMS] for m in methods])
        * 1.0,
        "alpha": jnp.array([m.alpha for m in methods]),
        "rate": jnp.array([m.rate for m in methods]),
        "greedy": jnp.array([m.greedy for m in methods]),
        "label_scale": jnp.array([m.label_scale for m in methods]),
    }
    keys = jax.random.split(jax.random.key(config.seed), config.num_seeds)

    @jax.jit
    def everything(
        keys: jax.Array, rhos: jax.Array, table: dict[str, jax.Array]
    ) -> Curves:
        play = lambda key, rho, method: run(key, rho, method, config)
        for axes in ((0, None, None), (None, 0, None), (None, None, 0)):
            play = jax.vmap(play, in_axes=axes)
        return play(keys, rhos, table)

    return everything(keys, jnp.array(config.rhos), table)


def report(config: Config, curves: Curves) -> None:
    """Prints the table of every method and the sweep over alpha."""
    final = jax.tree.map(lambda x: np.asarray(x[..., -1]), curves)
    rows = []
    for i, rho in enumerate(config.rhos):
        for m, method in enumerate(METHODS):
            reward = final.reward[m, i]
            rows.append(
                [
                    f"{rho:g}" if m == 0 else "",
                    method.name,
                    f"{reward.mean():.3f}",
                    f"{standard_error(reward):.3f}",
                    f"{100 * final.found[m, i].mean():.0f} %",
                    f"{100 * final.coverage[m, i].mean():.0f} %",
                ]
            )
    names = ["rho", "method", "reward of the greedy policy", "+-"]
    labels = config.num_rounds * config.num_prompts
    common.print_table(
        f"After {labels} labels, mean of {config.num_seeds} seeds",
        [*names, "best answer ever sampled", "answers sampled"],
        rows,
        caption="+-: standard error over seeds; alpha falls linearly to 0",
    )
    sweep = sorted(zip(*sweep_of(config, final.reward.mean(-1)), strict=True))
    common.print_table(
        "Reward of SELM with greedy y' against alpha",
        ["alpha", *(f"rho {rho:g}" for rho in config.rhos)],
        [[f"{alpha:g}", *(f"{x:.3f}" for x in values)] for alpha, values in sweep],
    )


def standard_error(values: np.ndarray) -> float:
    """Gives the standard error of the mean over seeds; 0 for a single seed."""
    ddof = min(1, values.size - 1)
    return float(values.std(ddof=ddof) / np.sqrt(values.size))


def sweep_of(config: Config, values: np.ndarray) -> tuple[list[float], list[Any]]:
    """Picks the rows that differ in alpha alone: DPO, the two of SELM, the sweep."""
    rows = [0, 1, 2, *range(len(METHODS), len(METHODS) + len(config.alphas))]
    strengths = [METHODS[i].alpha for i in rows[:3]] + list(config.alphas)
    return strengths, [tuple(values[i]) for i in rows]


def draw(config: Config, curves: Curves) -> Figure:
    """Draws reward and coverage against labels, and reward against alpha."""
    mean = jax.tree.map(lambda x: np.asarray(x.mean(axis=2)), curves)
    figure, axes = plots.new_figure(
        "A greedy exploration answer explores, a sampled one does not",
        len(config.rhos),
        3,
        height=2.6,
    )
    labels = config.num_prompts * np.arange(1, config.num_rounds + 1)
    strengths, sweep = sweep_of(config, mean.reward[..., -1])
    order = np.argsort(strengths)
    names = [method.name for method in METHODS]
    for i, rho in enumerate(config.rhos):
        for name, color in zip(SHOWN, plots.COLORS, strict=False):
            m = names.index(name)
            axes[i, 0].plot(labels, mean.reward[m, i], color=color, label=name)
            axes[i, 1].plot(labels, mean.found[m, i], color=color)
            axes[i, 1].plot(labels, mean.coverage[m, i], color=color, linestyle=":")
        points = np.array([values[i] for values in sweep])[order]
        axes[i, 2].plot(np.array(strengths)[order], points, "o-", color="0.3")
        title = f"rho = {rho:g}"
        plots.label(axes[i, 0], title=title, x="labels", y="reward, greedy policy")
        plots.label(axes[i, 1], title=title, x="labels", y="share")
        plots.label(axes[i, 2], title=title, x="alpha, greedy y'", y="final reward")
    axes[0, 1].plot([], [], "k", label="prompts with best answer sampled")
    axes[0, 1].plot([], [], "k:", label="answers sampled")
    plots.legend(axes[0, 0], loc="lower right")
    plots.legend(axes[0, 1])
    return figure


def main(config: Config) -> dict[str, float]:
    """Runs every method and returns where it ends."""
    methods = all_methods(config)
    curves = run_all(config, methods)
    report(config, curves)
    measured = {}
    for i, rho in enumerate(config.rhos):
        for m, method in enumerate(methods):
            for name, values in curves._asdict().items():
                measured[f"rho {rho:g}/{method.name}/{name}"] = float(
                    values[m, i, :, -1].mean()
                )
    common.save_json(config, "preference_selm_bandit", measured)
    if config.output is not None:
        figure = draw(config, curves)
        common.save_figure(config, "preference_selm_bandit", figure)
    return measured


if __name__ == "__main__":
    main(common.parse(Config))
