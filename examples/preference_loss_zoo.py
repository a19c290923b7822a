"""Every preference loss: its shape, and what it makes of one offline data set.

The first figure shows the value of each loss against the margin of a pair, and how
hard it pulls on the chosen and on the rejected answer. They pull alike only in the
losses of the difference; the others can hold the chosen answer up, or let it fall.

The second part trains one policy with each loss on the same pairs. The policy is
log-linear: 16 answers a prompt, each with a vector of features, log pi proportional to
weights times features. The reward is linear in the same features, so the best policy
is within reach; the pairs are two draws of the reference, and a Bradley-Terry judge
labels them, wrongly in about one case of six. Everything is exact: rewards and
divergences are sums over the answers of held-out prompts, not samples.

Each loss runs in one compiled program, vectorized over a grid of `beta` (for `orpo`
its weight) and of the learning rate, or over seeds. The grid is searched with one
seed, and the best by the reward of the greedy policy on held-out prompts runs with
fresh seeds. A star marks a value at the edge of the grid: a wider one might do better.

How to read the table: rewards have standard errors of 0.005 to 0.009, up to 0.03 in
the last three rows. The losses of the difference end between 0.93 and 0.96, those that
judge each answer for itself near 0.89. Three stand apart: `sft` (0.67) never sees the
rejected answer; `apo_down` (0.66) means to push the chosen answer down too; and
`aot_unpaired` (0.79) compares the sorted rewards of all chosen answers with those of
all rejected ones, and so forgets which two belong to one prompt. What differs among
the best is the way: from -58 to -2 nats for the chosen answers at nearly the same
reward. The data reward long training: many rates, the best among them, stand at the
upper edge. The lengths of the answers are drawn at random and carry no reward, so
losses per token pay a price here that says nothing about text, where length means
something.

Paper: the losses are those of the reference pages, under the names of TRL.
Command: python examples/preference_loss_zoo.py --output outputs/zoo
Time: about half a minute on two CPU cores.
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

NAMES = tuple(preference.LOSS_TYPES)
FAMILIES = {
    "log-likelihood of a difference": ("sigmoid", "robust", "cpo", "aot", "discopop"),
    "other losses of the difference": ("hinge", "ipo", "exo_pair"),
    "each answer for itself": (
        "nca_pair",
        "bco_pair",
        "sppo_hard",
        "apo_zero",
        "apo_down",
    ),
    "per token": ("sigmoid_norm", "simpo", "alphapo", "orpo", "sft"),
}
"""What is drawn together; "aot_unpaired" is "aot" for a single pair."""

BETAS = (0.01, 0.03, 0.1, 0.3, 1.0)
OTHER_BETAS = {
    "sigmoid_norm": (0.1, 0.3, 1.0, 3.0, 10.0),
    "simpo": (0.3, 1.0, 3.0, 10.0, 30.0),
    "alphapo": (0.3, 1.0, 3.0, 10.0, 30.0),
    "orpo": (0.1, 1.0, 10.0, 100.0, 1000.0),
}
RATES = (0.01, 0.03, 0.1, 0.3, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(common.BaseConfig):
    """The options."""

    losses: tuple[str, ...] = common.option(NAMES, "which losses to train with")
    prompts: int = common.option(128, "prompts to train on, and held out", paper=2048)
    answers: int = common.option(16, "answers per prompt")
    features: int = common.option(12, "features of an answer")
    pairs: int = common.option(2, "pairs per prompt")
    judge: float = common.option(2.0, "how reliable the judge is")
    steps: int = common.option(150, "full-batch steps of Adam", paper=1000)


class Task(NamedTuple):
    """Prompts with all their answers and known rewards, and labelled pairs.

    Arrays of answers have shape `[prompts, answers]`; those of pairs
    `[prompts, pairs, 2]`, the answer that the judge prefers first.
    """

    features: jax.Array
    rewards: jax.Array
    ref_log_probs: jax.Array
    pair_features: jax.Array
    pair_log_probs: jax.Array
    pair_lengths: jax.Array


def make_task(config: Config, key: jax.Array) -> tuple[Task, Task]:
    """Draws prompts to train on and prompts to test on, with the same reward."""
    keys = jax.random.split(key, 3)
    true, biased = jax.random.normal(keys[0], (2, config.features))
    scale = config.features**-0.5
    weights = (scale * true, scale * (0.5 * true + biased))

    def draw(key: jax.Array) -> Task:
        keys = jax.random.split(key, 4)
        shape = (config.prompts, config.answers)
        features = jax.random.normal(keys[0], (*shape, config.features))
        rewards, logits = (features @ w for w in weights)
        ref_log_probs = jax.nn.log_softmax(logits)
        # The two greatest after Gumbel noise are two different draws.
        noise = jax.random.gumbel(keys[1], (config.prompts, config.pairs, shape[1]))
        places = jax.lax.top_k(ref_log_probs[:, None] + noise, 2)[1]
        pick = jax.vmap(lambda values, at: values[at])
        both = pick(rewards, places)
        labels = preference.bradley_terry_labels(
            keys[2], both[..., 0], both[..., 1], scale=config.judge
        )
        places = jnp.where(labels[..., None], places, places[..., ::-1])
        lengths = jax.random.randint(keys[3], places.shape, 4, 13)
        return Task(
            features,
            rewards,
            ref_log_probs,
            pick(features, places),
            pick(ref_log_probs, places),
            lengths.astype(jnp.float32),
        )

    return draw(keys[1]), draw(keys[2])


def log_policy(task: Task, weights: jax.Array) -> jax.Array:
    """The log-linear policy; with weights 0 it is the reference."""
    return jax.nn.log_softmax(task.ref_log_probs + task.features @ weights)


def pair_logps(task: Task, weights: jax.Array) -> preference.PairLogps:
    """Gives the log-probs of all pairs under the policy, in one row."""
    total = jax.nn.logsumexp(task.ref_log_probs + task.features @ weights, axis=-1)
    logps = task.pair_log_probs + task.pair_features @ weights - total[:, None, None]
    return preference.PairLogps(
        *(x[..., i].ravel() for x in (logps, task.pair_log_probs) for i in (0, 1))
    )


class Outcome(NamedTuple):
    """What a trained policy is worth on prompts it has not seen."""

    greedy: jax.Array
    expected: jax.Array
    accuracy: jax.Array
    kl: jax.Array
    chosen: jax.Array


def measure(train: Task, test: Task, weights: jax.Array) -> Outcome:
    """Computes the outcome exactly, by sums over all answers.

    Rewards are relative: 0 for the reference, 1 for the best answer to each prompt.
    """
    log_probs = log_policy(test, weights)
    probs = jnp.exp(log_probs)
    start = jnp.mean(jnp.sum(jnp.exp(test.ref_log_probs) * test.rewards, axis=-1))
    best = jnp.mean(jnp.max(test.rewards, axis=-1))
    first = jnp.argmax(log_probs, axis=-1, keepdims=True)
    greedy = jnp.mean(jnp.take_along_axis(test.rewards, first, axis=-1))
    expected = jnp.mean(jnp.sum(probs * test.rewards, axis=-1))
    found = preference.preference_metrics(pair_logps(test, weights))
    seen = pair_logps(train, weights)
    return Outcome(
        (greedy - start) / (best - start),
        (expected - start) / (best - start),
        found["accuracy"],
        jnp.mean(jnp.sum(probs * (log_probs - test.ref_log_probs), axis=-1)),
        jnp.mean(seen.chosen - seen.ref_chosen),
    )


def settings(name: str, beta: Any) -> preference.PreferenceConfig:
    """Puts the number that is searched into its place."""
    if name == "orpo":
        return preference.PreferenceConfig(loss_type=name, orpo_weight=beta)
    return preference.PreferenceConfig(loss_type=name, beta=beta)


def train(
    config: Config,
    name: str,
    task: Task,
    test: Task,
    beta: jax.Array,
    rate: jax.Array,
) -> Outcome:
    """Trains one policy from the reference and measures it."""
    lengths = task.pair_lengths.reshape(-1, 2)
    optimizer = optax.adam(rate)

    def loss_fn(weights: jax.Array) -> jax.Array:
        losses = preference.preference_loss(
            pair_logps(task, weights),
            settings(name, beta),
            chosen_lengths=lengths[:, 0],
            rejected_lengths=lengths[:, 1],
        )
        return jnp.mean(losses)

    def step(state: tuple, _: None) -> tuple[tuple, None]:
        weights, memory = state
        updates, memory = optimizer.update(jax.grad(loss_fn)(weights), memory)
        return (optax.apply_updates(weights, updates), memory), None

    weights = jnp.zeros(config.features)
    state = (weights, optimizer.init(weights))
    (weights, _), _ = jax.lax.scan(step, state, length=config.steps)
    return measure(task, test, weights)


class Row(NamedTuple):
    """One loss: the chosen numbers and the outcomes of the fresh seeds."""

    beta: float
    rate: float
    at_edge: tuple[bool, bool]
    outcome: Outcome


LANES = len(BETAS) * len(RATES)
"""How many settings are tried, and with how many fresh seeds the best one runs."""


def make_tasks(config: Config) -> tuple[Any, Any]:
    """Draws the task of the search, repeated, and those of the fresh seeds."""
    tuning, fresh = jax.random.split(jax.random.key(config.seed))
    draw = jax.jit(jax.vmap(lambda key: make_task(config, key)))
    repeated = jnp.broadcast_to(tuning, (LANES,))
    return draw(repeated), draw(jax.random.split(fresh, LANES))


def search(config: Config, name: str, tasks: tuple[Any, Any]) -> Row:
    """Picks the numbers on one task, and trains again on the fresh ones.

    There are as many settings as fresh tasks, so one program does both.
    """
    betas = (1.0,) if name == "sft" else OTHER_BETAS.get(name, BETAS)
    rates = np.geomspace(0.001, 1.0, LANES) if name == "sft" else RATES
    beta, rate = (x.ravel() for x in np.meshgrid(betas, rates, indexing="ij"))
    run = jax.jit(jax.vmap(lambda *lane: train(config, name, *lane)))
    tried = run(*tasks[0], jnp.float32(beta), jnp.float32(rate))
    best = int(np.argmax(np.nan_to_num(tried.greedy, nan=-np.inf)))
    chosen = (jnp.full(LANES, x[best], jnp.float32) for x in (beta, rate))
    outcome = Outcome(*map(np.asarray, run(*tasks[1], *chosen)))
    at_edge = (
        len(betas) > 1 and beta[best] in (betas[0], betas[-1]),
        rate[best] in (rates[0], rates[-1]),
    )
    return Row(float(beta[best]), float(rate[best]), at_edge, outcome)


@jax.jit(static_argnames="name")
def curve(name: str, difference: jax.Array) -> tuple[jax.Array, preference.PairSlopes]:
    """Gives the value of a loss and its slopes along a symmetric path.

    Both answers have ten tokens and log-prob -20 under the reference; the policy
    moves them apart by half the difference each. `beta` is 1.
    """
    half = 0.5 * difference[:, None]
    same = jnp.full_like(half, -20.0)
    pair = preference.PairLogps(same + half, same - half, same, same)
    lengths = {f"{side}_lengths": 10.0 for side in ("chosen", "rejected")}

    def loss_fn(*logps: jax.Array) -> jax.Array:
        return preference.preference_loss(
            preference.PairLogps(*logps), settings(name, 1.0), **lengths
        )

    slopes = preference.loss_slopes(loss_fn, pair)
    return loss_fn(*pair)[:, 0], preference.PairSlopes(*(x[:, 0] for x in slopes))


def draw_shapes() -> Figure:
    """Draws values and slopes of every loss by family."""
    figure, axes = plots.new_figure(
        "Losses of a pair, and how they pull on its two answers",
        2,
        len(FAMILIES),
        width=3.9,
        height=3.0,
    )
    difference = np.linspace(-8.0, 8.0, 321, dtype=np.float32)
    for (top, bottom), (family, names) in zip(axes.T, FAMILIES.items(), strict=True):
        for color, name in zip(plots.COLORS, names, strict=False):
            value, slopes = curve(name, difference)
            top.plot(difference, value, color=color, label=name)
            bottom.plot(difference, slopes.chosen, color=color)
            bottom.plot(difference, slopes.rejected, color=color, linestyle=":")
        if family != "per token":
            top.set_ylim(-1.0, 8.0)
            bottom.set_ylim(-2.2, 2.2)
        plots.label(top, title=family, x="", y="loss")
        plots.label(
            bottom,
            title="",
            x="log-ratio difference d, nats (beta = 1)",
            y="slope: chosen (lines), rejected (dots)",
        )
        plots.legend(top)
    return figure


COLUMNS = {
    "greedy": "greedy reward",
    "expected": "expected reward",
    "accuracy": "accuracy",
    "kl": "KL to reference",
    "chosen": "chosen log-prob",
}


def report(config: Config, rows: dict[str, Row]) -> None:
    """Prints one row per loss, the best first."""

    def concise(values: np.ndarray) -> str:
        error = values.std(ddof=1) / np.sqrt(len(values))
        return f"{values.mean():.3f} ± {error:.3f}"

    cells = []
    for name, row in sorted(
        rows.items(), key=lambda item: -item[1].outcome.greedy.mean()
    ):
        beta, rate = (
            f"{value:.3g}{'*' if edge else ''}"
            for value, edge in zip((row.beta, row.rate), row.at_edge, strict=True)
        )
        cells.append(
            [name, "" if name == "sft" else beta, rate, *map(concise, row.outcome)]
        )
    common.print_table(
        "One offline data set, every loss",
        ["loss", "beta", "rate", *COLUMNS.values()],
        cells,
        caption="Rewards on held-out prompts, 0 for the reference and 1 for the best "
        "answer; accuracy on held-out pairs with noisy labels; chosen log-prob: its "
        "mean change on the training pairs, nats; mean and standard error over 25 "
        "seeds. * at the edge of the grid; the number of orpo is its weight.",
    )


def draw_outcomes(rows: dict[str, Row]) -> Figure:
    """Draws reward against divergence and the fate of the chosen answers."""
    figure, axes = plots.new_figure(
        "The same pairs, every loss: held-out prompts, mean of 25 seeds",
        1,
        2,
        width=6.0,
        height=4.4,
    )
    for ax, field, text in (
        (axes[0, 0], "kl", "KL to the reference, nats"),
        (axes[0, 1], "chosen", "change of the chosen log-prob, nats"),
    ):
        ranked = sorted(rows.items(), key=lambda item: -item[1].outcome.greedy.mean())
        for i, (name, row) in enumerate(ranked):
            x, y = (getattr(row.outcome, f).mean() for f in (field, "greedy"))
            color = plots.COLORS[i % len(plots.COLORS)]
            ax.plot(x, y, marker="o", color=color, markersize=4)
            ax.annotate(
                name,
                (x, y),
                textcoords="offset points",
                xytext=((4, 2), (-4, -7))[i % 2],
                ha=("left", "right")[i % 2],
                fontsize=6.5,
                color=color,
            )
        plots.label(ax, title="", x=text, y="relative reward of the greedy policy")
    return figure


def main(config: Config) -> dict[str, float]:
    """Trains with every loss and returns the mean outcomes."""
    unknown = [name for name in config.losses if name not in NAMES]
    if unknown:
        raise ValueError(
            f"`losses` must name some of {', '.join(NAMES)}, got {', '.join(unknown)}."
        )
    rows, tasks = {}, make_tasks(config)
    with common.progress("losses", len(config.losses)) as advance:
        for name in config.losses:
            rows[name] = search(config, name, tasks)
            advance(1)
    report(config, rows)
    measured = {}
    for name, row in rows.items():
        measured |= {f"{name}/beta": row.beta, f"{name}/rate": row.rate}
        for field, values in row.outcome._asdict().items():
            measured[f"{name}/{field}"] = float(values.mean())
    common.save_json(config, "preference_loss_zoo", measured)
    if config.output is not None:
        common.save_figure(config, "preference_loss_zoo_shapes", draw_shapes())
        common.save_figure(config, "preference_loss_zoo", draw_outcomes(rows))
    return measured


if __name__ == "__main__":
    main(common.parse(Config))
