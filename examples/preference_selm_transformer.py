"""What the exploration term of SELM does to a small transformer.

Paper: Zhang et al., *Self-Exploring Language Models*, TMLR 2025, algorithm 1 and
figures 3 to 5, where 7B models learn from a reward model. Here everything can be
counted: prompts of 4 tokens whose first one is the class (of 16) and the others mean
nothing; answers of one token (of 32). Ordinary answers have rewards uniform on
[0, 0.6]; one per class has reward 1, and the reference gives it probability e^rho.

A supervised start fits the transformer to the reference. Each of 80 rounds draws 64
fresh prompts, one pair of on-policy answers per prompt and its label, takes 20 steps of
Adam, and makes the policy the next reference. The rows: iterative DPO; SELM with one
greedy answer y' of the reference, as in the published code; with a sampled y', as in
the equation; and the bounded bonus alpha beta min(pi / ref, 1) of a greedy y'. All see
equally many labels; alpha falls linearly to 0.

Figures: the final reward against alpha (too much optimism spoils the policy, as in the
left of figure 3), the rewards of sampled answers round by round (its right), and the
implicit reward of SELM less that of DPO (figures 4 and 5).

How to read the numbers: runs with the unbounded term are chaotic; the last digit of
one sum moves a seed by 0.08. Compare means over seeds. An entropy bonus explores as
well with less effort, see `preference_selm_bandit.py`.

`--preset paper` takes the paper's three rounds, beta, alpha and batch for a larger
transformer trained from scratch, which its learning rate of 5e-7 would not move. For
pretrained models the same functions take `examples/_tunix.py`.

Command: python examples/preference_selm_transformer.py --output outputs/transformer
Time: about 2 minutes on two CPU cores.
"""

import dataclasses
from typing import Any, NamedTuple

import _common as common
import _plots as plots
import _selm_transformer as lab
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from jaxkit import preference

DPO, GREEDY, SAMPLED, BOUNDED = (
    "iterative DPO",
    "SELM greedy y'",
    "SELM sampled y'",
    "bounded ratio, greedy y'",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(common.TrainConfig):
    """The options."""

    block: int = common.option(20, "rounds per compiled block and between checkpoints")
    num_seeds: int = common.option(4, "independent worlds and starts", paper=3)
    rho: float = common.option(-4.0, "log-probability of the best answer at the start")
    num_classes: int = common.option(16, "classes of prompts", paper=256)
    num_answers: int = common.option(32, "answers", paper=256)
    prompt_length: int = common.option(4, "tokens of a prompt", paper=64)
    features: int = common.option(48, "width of the transformer", paper=512)
    num_layers: int = common.option(2, "blocks of the transformer", paper=8)
    num_heads: int = common.option(2, "heads of each block", paper=8)
    start_steps: int = common.option(500, "steps of the supervised start", paper=5000)
    start_rate: float = common.option(3e-3, "its learning rate", paper=3e-4)
    start_batch: int = common.option(128, "its prompts per step")
    num_rounds: int = common.option(80, "rounds of one pair per prompt", paper=3)
    batch: int = common.option(64, "fresh prompts per round", paper=128)
    num_steps: int = common.option(20, "Adam steps per round", paper=160)
    rate: float = common.option(2e-4, "their learning rate")
    beta: float = common.option(0.1, "how close to stay to the reference", paper=0.01)
    alpha: float = common.option(0.3, "strength of SELM, falls to 0", paper=1e-3)
    bounded_alpha: float = common.option(1.0, "strength of the bounded bonus")
    alphas: tuple[float, ...] = common.option(
        (1.0, 3.0), "more strengths of SELM with greedy y'", paper=(5e-3, 5e-4, 1e-4)
    )


class Result(NamedTuple):
    """The runs of one method, with a leading axis of seeds.

    Attributes:
      record: what was kept of each round, `[seeds, num_rounds, ...]`.
      log_probs: log-probs of all answers to the test prompts after the last round.
    """

    record: lab.Record
    log_probs: np.ndarray


class Start(NamedTuple):
    """Where all methods start, with a leading axis of seeds.

    Attributes:
      world: rewards and reference.
      params: policies that were fitted to the reference.
      divergence: what is left of KL(reference || policy).
      keys: the keys of the rounds.
    """

    world: lab.World
    params: Any
    divergence: jax.Array
    keys: jax.Array


class Variant(NamedTuple):
    """One run of the exploration term: its strength, and which y' it takes."""

    alpha: float
    greedy: bool = True


def make_start(config: Config, model: lab.Model, test: jax.Array) -> Start:
    """Draws the worlds and trains the supervised starts."""

    def one(key: jax.Array) -> tuple[lab.World, Any, jax.Array]:
        world_key, start_key = jax.random.split(key)
        world = lab.sample_world(world_key, config)
        params = lab.supervised_start(start_key, model, world)
        return world, params, lab.divergence(params, model, world, test)

    start_key, key = jax.random.split(jax.random.key(config.seed))
    # One after the other: small matrix products of several models at once are slow.
    run = jax.jit(lambda keys: jax.lax.map(one, keys))
    starts = run(jax.random.split(start_key, config.num_seeds))
    return Start(*starts, jax.random.split(key, config.num_seeds))


def run_variants(
    config: Config,
    model: lab.Model,
    start: Start,
    test: jax.Array,
    variants: list[Variant],
    *,
    bonus: str,
) -> list[Result]:
    """Trains all seeds with each variant of one exploration term."""
    count = config.num_seeds

    def repeat(tree: Any) -> Any:
        return jax.tree.map(lambda x: jnp.concatenate([x] * len(variants)), tree)

    settings = (jnp.repeat(jnp.array(x), count) for x in zip(*variants, strict=True))
    fixed = (*repeat((start.keys, start.world)), *settings)

    def one(inputs: tuple) -> tuple[preference.SelmState, lab.Record]:
        state, key, world, alpha, greedy = inputs
        options = {"alpha": alpha, "greedy": greedy, "bonus": bonus}
        return lab.round_step(key, state, model, world, test, **options)

    optimizer = lab.make_optimizer(config)
    begin = lambda params: preference.init_selm(params, optimizer=optimizer)
    state, record = common.train(
        lambda states: jax.lax.map(one, (states, *fixed)),
        jax.vmap(begin)(repeat(start.params)),
        num_steps=config.num_rounds,
        checkpoints=common.Checkpoints(config, bonus),
        block=config.block,
        label=f"train with {bonus}",
    )
    score = jax.jit(jax.vmap(lambda p: jax.nn.log_softmax(model.logits(p, test))))
    whole = Result(
        jax.tree.map(lambda x: np.swapaxes(np.asarray(x), 0, 1), record),
        np.asarray(score(state.params)),
    )
    cut = lambda i: lambda x: x[i * count : (i + 1) * count]
    return [jax.tree.map(cut(i), whole) for i in range(len(variants))]


class Runs(NamedTuple):
    """All that was run.

    Attributes:
      methods: the methods of the table, by name.
      swept: SELM with greedy y', by strength.
      rewards: true rewards of all answers to the test prompts, per seed.
      divergence: what the supervised start left, per seed.
    """

    methods: dict[str, Result]
    swept: dict[float, Result]
    rewards: np.ndarray
    divergence: np.ndarray


def run(config: Config) -> Runs:
    """Runs all methods, and SELM with other strengths."""
    model = lab.Model(config)
    test = lab.held_out_prompts(jax.random.key(config.seed + 1), config, repeats=8)
    start = make_start(config, model, test)
    shared = (config, model, start, test)
    strengths = (0.0, config.alpha, *config.alphas)
    variants = [Variant(config.alpha, greedy=False), *map(Variant, strengths)]
    sampled, *results = run_variants(*shared, variants, bonus="log_ratio")
    bounded = Variant(config.bounded_alpha)
    (bounded,) = run_variants(*shared, [bounded], bonus="prob_ratio")
    return Runs(
        methods={
            DPO: results[0],
            GREEDY: results[1],
            SAMPLED: sampled,
            BOUNDED: bounded,
        },
        swept=dict(zip(strengths, results, strict=True)),
        rewards=np.asarray(start.world.reward)[:, np.asarray(test)[:, 0]],
        divergence=np.asarray(start.divergence),
    )


def final(result: Result) -> np.ndarray:
    """Takes the reward of the greedy policy after the last round, per seed."""
    return result.record.greedy[:, -1]


def report(methods: dict[str, Result], config: Config) -> dict[str, float]:
    """Prints and returns means over seeds."""
    base = final(methods[DPO])
    rows, measured = [], {}
    for name, result in methods.items():
        reward = final(result)
        gain = reward - base
        error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else 0.0
        found = result.record.found.any(axis=1).mean()
        values = {
            "reward": reward.mean(),
            "lowest": reward.min(),
            "highest": reward.max(),
            "best": result.record.best[:, -1].mean(),
            "found": found,
            "gain": gain.mean(),
            "gain error": error,
        }
        strength = {DPO: 0.0, BOUNDED: config.bounded_alpha}.get(name, config.alpha)
        rows.append([name, strength, *values.values()])
        measured |= {f"{name}/{key}": float(value) for key, value in values.items()}
        for seed, value in enumerate(reward):
            measured[f"{name}/seed {seed}"] = float(value)
    common.print_table(
        f"After {config.num_rounds} rounds of {config.batch} labels, rho {config.rho:g}",
        [
            "method",
            "alpha",
            "greedy reward",
            "lowest seed",
            "highest",
            "best answer",
            "found",
            "less DPO",
            "std. error",
        ],
        rows,
        caption="best answer: how often the greedy answer is the best one; found: for "
        f"how many classes it was ever sampled; {config.num_seeds} seeds",
    )
    return measured


def report_strengths(swept: dict[float, Result]) -> dict[str, float]:
    """Prints and returns the final rewards against alpha."""
    rows = [
        [a, final(r).mean(), final(r).min(), final(r).max()] for a, r in swept.items()
    ]
    common.print_table(
        "SELM with greedy y': the final reward against alpha",
        ["alpha", "greedy reward", "lowest seed", "highest"],
        sorted(rows),
    )
    return {f"alpha {alpha:g}": float(mean) for alpha, mean, *_ in rows}


def implicit_difference(
    methods: dict[str, Result], name: str, config: Config
) -> np.ndarray:
    """Subtracts the implicit reward of DPO; the reference is that of the start."""
    difference = methods[name].log_probs - methods[DPO].log_probs
    return config.beta * difference


def draw(runs: Runs, config: Config) -> Figure:
    """Draws curves, the sweep, the rewards of rounds and implicit rewards."""
    methods = runs.methods
    figure, axes = plots.new_figure(
        "Exploration in preference optimization, a small transformer", 2, 3
    )
    rounds = np.arange(1, config.num_rounds + 1)
    for i, (name, result) in enumerate(methods.items()):
        color = plots.COLORS[i]
        axes[0, 0].plot(rounds, result.record.greedy.mean(0), color=color, label=name)
        found = np.maximum.accumulate(result.record.found, axis=1).mean((0, 2))
        axes[0, 1].plot(rounds, found, color=color, label=name)
    plots.label(axes[0, 0], title="reward", x="round", y="greedy reward")
    title = "classes whose best answer was sampled"
    plots.label(axes[0, 1], title=title, x="round", y="fraction")
    plots.legend(axes[0, 0])
    draw_strengths(axes[0, 2], runs.swept)
    for ax, name in zip(axes[1, :2], (DPO, BOUNDED), strict=True):
        draw_rounds(ax, name, methods[name].record.histogram.mean(0))
    draw_implicit(axes[1, 2], methods, runs.rewards, config)
    return figure


def draw_strengths(ax: Any, swept: dict[float, Result]) -> None:
    """Draws every seed and the mean against alpha."""
    alphas = np.array(sorted(swept))
    values = np.stack([final(swept[alpha]) for alpha in alphas])
    ax.plot(range(len(alphas)), values, "o", color=plots.COLORS[1], markersize=3)
    ax.plot(range(len(alphas)), values.mean(1), color=plots.COLORS[1], label="mean")
    ax.set_xticks(range(len(alphas)), [f"{alpha:g}" for alpha in alphas])
    plots.label(ax, title="SELM greedy y'", x="alpha", y="final greedy reward")
    plots.legend(ax)


def draw_rounds(ax: Any, name: str, histogram: np.ndarray) -> None:
    """Draws how the rewards of sampled answers are spread in some rounds."""
    some = np.unique(np.linspace(0, len(histogram) - 1, 5).astype(int))
    centers = (np.arange(lab.NUM_BINS) + 0.5) / lab.NUM_BINS
    for i, number in enumerate(some):
        shade = 0.25 + 0.75 * i / max(len(some) - 1, 1)
        line = {"color": plots.COLORS[0], "alpha": shade, "drawstyle": "steps-mid"}
        ax.plot(centers, histogram[number], label=f"round {number + 1}", **line)
    plots.label(ax, title=f"{name}: rewards of samples", x="reward", y="probability")
    plots.legend(ax)


def draw_implicit(
    ax: Any, methods: dict[str, Result], rewards: np.ndarray, config: Config
) -> None:
    """Draws the mean difference of implicit rewards against the true reward."""
    bins = np.minimum(rewards * lab.NUM_BINS, lab.NUM_BINS - 1).astype(int)
    used = np.unique(bins)
    for i, name in enumerate((GREEDY, BOUNDED), start=1):
        difference = implicit_difference(methods, name, config)
        means = [difference[bins == b].mean() for b in used]
        style = {"color": plots.COLORS[2 * i - 1], "marker": "o", "markersize": 3}
        ax.plot((used + 0.5) / lab.NUM_BINS, means, label=name, **style)
    ax.axhline(0.0, color="0.4", linewidth=0.8)
    plots.label(ax, title="implicit reward less DPO's", x="true reward", y="difference")
    plots.legend(ax)


def main(config: Config) -> dict[str, float]:
    """Trains with every method and returns means over seeds."""
    runs = run(config)
    measured = report(runs.methods, config) | report_strengths(runs.swept)
    measured["start/divergence"] = float(runs.divergence.mean())
    for name in (GREEDY, BOUNDED):
        difference = implicit_difference(runs.methods, name, config)
        for who, some in (("best", runs.rewards == 1.0), ("others", runs.rewards < 1)):
            mean = float(difference[some].mean())
            measured[f"{name}/implicit reward less DPO's, {who}"] = mean
    for name, result in runs.methods.items():
        for when, index in (("first", 0), ("last", -1)):
            mean = float(result.record.reward[:, index].mean())
            measured[f"{name}/{when} round, reward of samples"] = mean
    common.save_json(config, "preference_selm_transformer", measured)
    figure = draw(runs, config)
    common.save_figure(config, "preference_selm_transformer", figure)
    return measured


if __name__ == "__main__":
    main(common.parse(Config))
