"""Offline preference training of a small language model, on your pairs or on ours.

Paper: Rafailov et al., *Direct Preference Optimization: Your Language Model is
Secretly a Reward Model*, NeurIPS 2023; the other losses by --loss-type.

Two stages: supervised training on the chosen answers, then preference training
against the model of the first stage, whose log-probs of all answers are computed once
(two numbers a pair, kept in --output).

--data takes a JSONL file (or .jsonl.gz) with the layout of HH-RLHF, of UltraFeedback,
or plain `prompt`, `chosen`, `rejected`. Without it the pairs are made of real text
that is on this machine: descriptions from the docstrings of NumPy, SciPy, JAX and
Optax. The prompt is the name of a function, the chosen answer the first sentence of
its description, the rejected one that of another function (--docs other), or the two
are its first two sentences in their true and in the other order (--docs order). Names
are held out with all their descriptions. This shows that the training works; it says
nothing about what people prefer.

How to read the numbers: accuracy by likelihood compares the two answers under one
model, as a whole or per token, so the supervised start has one, little above chance.
Accuracy by reward compares how far each answer moved from there, which takes out what
has nothing to do with the prompt, such as the length. On 493 held-out pairs (standard
errors 0.02; the texts depend on the versions installed) the accuracy per token rose
from 0.58 to 0.69 and that by reward reached 0.76. It has a price: the chosen log-prob
falls, by 20 nats, and the answers that the policy writes are 23 nats from its start.
DPO asks for a gap only. The model has seen 2000 sentences, and its spelling shows it.

The tokens are bytes, or those of a `tokenizer.json` of Hugging Face (--tokenizer, with
the extra `tokenizers`). Several devices share each batch; with --vocab-shards they
also share the head.

Command: python examples/preference_offline_dpo.py --output outputs/dpo
Time: under two minutes on two CPU cores; the paper preset wants an accelerator.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import _common as common
import _plots as plots
import _preference_data as pair_data
import _preference_docs as docs
import _preference_offline as offline
import _preference_samples as sampling
import jax
import numpy as np
import rich.markup
from flax import nnx
from jax.sharding import Mesh
from matplotlib.figure import Figure

from jaxkit import preference


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(common.TrainConfig):
    """The options."""

    data: Path | None = dataclasses.field(
        default=None, metadata={"help": "JSONL file of pairs; none for docstrings"}
    )
    held_out_data: Path | None = dataclasses.field(
        default=None, metadata={"help": "its held-out pairs, if apart"}
    )
    held_out: float = common.option(0.2, "fraction of the prompts to hold out")
    docs: Literal["order", "other"] = common.option("other", "pairs of docstrings")
    tokenizer: Path | None = dataclasses.field(
        default=None, metadata={"help": "tokenizer.json; none for bytes"}
    )
    end_token: str | None = dataclasses.field(
        default=None, metadata={"help": "the end token of that file"}
    )
    length: int = common.option(128, "longest row in tokens", paper=1024)
    prompt: int = common.option(40, "longest prompt in tokens", paper=512)
    buckets: tuple[int, ...] = common.option((80,), "lower lengths", paper=(256, 512))
    too_long: Literal["cut", "drop"] = common.option("cut", "what to do with more")
    features: int = common.option(96, "width of the model", paper=768)
    layers: int = common.option(2, "its depth", paper=12)
    heads: int = common.option(3, "its heads", paper=12)
    dtype: Literal["float32", "bfloat16"] = common.option(
        "float32", "dtype of the computation", paper="bfloat16"
    )
    sft_steps: int = common.option(250, "supervised steps", paper=2000)
    sft_learning_rate: float = common.option(3e-3, "their rate", paper=3e-4)
    steps: int = common.option(200, "preference steps", paper=2000)
    learning_rate: float = common.option(3e-4, "their rate", paper=1e-5)
    weight_decay: float = common.option(0.01, "decay of matrices")
    batch_size: int = common.option(32, "pairs per step", paper=128)
    accumulate: int = common.option(1, "parts of a batch, one after another", paper=4)
    loss_type: tuple[str, ...] = common.option(("sigmoid",), "a loss, or a mixture")
    loss_weights: tuple[float, ...] = common.option((), "weights; none for 1 each")
    beta: float | None = dataclasses.field(
        default=None, metadata={"help": "how much the reference holds; none for usual"}
    )
    label_smoothing: float | None = dataclasses.field(
        default=None, metadata={"help": "rate of wrong labels; none for the usual"}
    )
    devices: int = common.option(0, "how many devices; 0 for all")
    vocab_shards: int = common.option(1, "devices that share the head")
    skip_masked: bool = common.option(False, "skip the head at prompt and padding")
    samples: int = common.option(32, "answers to sample for the divergence")


def load(config: Config, tokenizer: pair_data.Tokenizer) -> list[pair_data.PairData]:
    """Reads the pairs to train on and those held out."""
    if config.data is None:
        parts = docs.split_entries(
            docs.read_entries(), held_out=config.held_out, seed=config.seed
        )
        room = config.length - config.prompt
        options = {"kind": config.docs, "max_bytes": room, "seed": config.seed}
        pairs = [docs.make_pairs(part, **options) for part in parts]
    elif config.held_out_data is None:
        pairs = pair_data.split_pairs(
            pair_data.read_pairs(config.data),
            held_out=config.held_out,
            seed=config.seed,
        )
    else:
        files = (config.data, config.held_out_data)
        pairs = [pair_data.read_pairs(file) for file in files]
    limits = pair_data.Limits(
        length=config.length,
        prompt=config.prompt,
        too_long=config.too_long,
        buckets=config.buckets,
    )
    return [pair_data.PairData(part, tokenizer, limits) for part in pairs]


def make_tokenizer(config: Config) -> pair_data.Tokenizer:
    """Makes the tokenizer that the options ask for."""
    if config.tokenizer is None:
        return pair_data.ByteTokenizer()
    return pair_data.FileTokenizer(config.tokenizer, end=config.end_token)


def check(config: Config) -> None:
    """Refuses options that do not fit together."""
    if config.batch_size % config.accumulate:
        raise ValueError(
            f"`accumulate` must divide the batch size {config.batch_size}, "
            f"got {config.accumulate}."
        )
    if config.steps < 1:
        raise ValueError(f"`steps` must be at least 1, got {config.steps}.")
    loss_config(config)


def loss_config(config: Config) -> preference.PreferenceConfig:
    """Builds the settings of the loss from the options."""
    return preference.PreferenceConfig(
        loss_type=config.loss_type,
        weights=config.loss_weights or None,
        beta=config.beta,
        label_smoothing=config.label_smoothing,
    )


class Setup(NamedTuple):
    """What both stages use."""

    tokenizer: pair_data.Tokenizer
    train: pair_data.PairData
    held_out: pair_data.PairData
    mesh: Mesh
    graphdef: nnx.GraphDef
    params: offline.Params
    score: offline.Score
    score_data: Callable[[offline.Params, pair_data.PairData], np.ndarray]


def prepare(config: Config) -> Setup:
    """Reads the pairs and builds the model."""
    check(config)
    tokenizer = make_tokenizer(config)
    train, held_out = load(config, tokenizer)
    mesh = offline.make_mesh(config.devices, config.vocab_shards)
    graphdef, params = offline.make_policy(
        tokenizer.vocab_size,
        config.features,
        seed=config.seed,
        num_layers=config.layers,
        num_heads=config.heads,
        max_length=config.length,
        dtype=config.dtype,
    )
    score = offline.make_score(graphdef, params, mesh, skip_masked=config.skip_masked)
    compiled = jax.jit(score)
    size = config.batch_size // config.accumulate

    def score_data(some: offline.Params, data: pair_data.PairData) -> np.ndarray:
        return offline.score_data(compiled, some, data, batch_size=size, mesh=mesh)

    return Setup(tokenizer, train, held_out, mesh, graphdef, params, score, score_data)


def train(
    config: Config,
    setup: Setup,
    name: str,
    objective: offline.Objective,
    start: offline.Params,
    references: Sequence[np.ndarray],
    *,
    num_steps: int,
    learning_rate: float,
) -> tuple[offline.Params, offline.History]:
    """Runs one stage; `references` score the training and the held-out pairs."""
    parts = {"batch_size": config.batch_size, "accumulate": config.accumulate}

    def evaluate(params: offline.Params) -> np.ndarray:
        logps = setup.score_data(params, setup.held_out)
        return offline.measure(logps, references[1], setup.held_out)

    return offline.fit(
        config,
        name,
        objective=objective,
        params=start,
        optimizer=offline.accumulated(
            offline.adamw(
                learning_rate, num_steps=num_steps, weight_decay=config.weight_decay
            ),
            config.accumulate,
        ),
        batches=offline.make_batches(
            setup.train, references[0], seed=config.seed, **parts
        ),
        num_steps=num_steps,
        mesh=setup.mesh,
        evaluate=evaluate,
    )


class Result(NamedTuple):
    """What both stages gave."""

    setup: Setup
    params: offline.Params
    supervised: offline.History
    preference: offline.History
    ratios: np.ndarray
    samples: sampling.Samples


def run(config: Config) -> Result:
    """Trains on the chosen answers, then on the pairs."""
    setup = prepare(config)
    sides = {"train": setup.train, "held_out": setup.held_out}
    ref_params, supervised = train(
        config,
        setup,
        "supervised",
        offline.supervised_objective(setup.score),
        setup.params,
        [np.zeros((len(data), 2), np.float32) for data in sides.values()],
        num_steps=config.sft_steps,
        learning_rate=config.sft_learning_rate,
    )
    references = [
        offline.cached_reference(config, name, setup.score_data, ref_params, data)
        for name, data in sides.items()
    ]
    params, history = train(
        config,
        setup,
        "preference",
        offline.preference_objective(setup.score, loss_config(config)),
        ref_params,
        references,
        num_steps=config.steps,
        learning_rate=config.learning_rate,
    )
    ratios = setup.score_data(params, setup.held_out) - references[1]
    samples = sampling.sample_answers(
        setup.graphdef,
        params,
        ref_params,
        setup.held_out,
        limit=config.samples,
        prompt=config.prompt,
        end=setup.tokenizer.end,
        key=jax.random.key(config.seed),
    )
    return Result(setup, params, supervised, history, ratios, samples)


def report(config: Config, result: Result) -> None:
    """Prints what the data were, what training changed, and some answers."""
    for name in ("train", "held_out"):
        counts = getattr(result.setup, name).counts._asdict()
        parts = (f"{value} {key.replace('_', ' ')}" for key, value in counts.items())
        common.console().print(f"{name.replace('_', ' ')}: {', '.join(parts)}")
    if config.data is None:
        common.console().print(
            "The pairs are made of docstrings; the chosen text is the true one."
        )
    rows = [
        [name, *values]
        for name, values in zip(
            offline.METRICS,
            np.stack([result.preference.metrics[i] for i in (0, -1)], axis=1),
            strict=True,
        )
    ]
    samples = result.samples
    rows.append(["KL to the start, on samples", 0.0, samples.kl])
    rows.append(["its standard error", None, samples.standard_error])
    common.print_table(
        f"Held-out pairs, {' + '.join(config.loss_type)}",
        ["metric", "supervised start", "after preference training"],
        rows,
        caption="accuracy by reward: 0 at the start, where all rewards are ties",
    )
    print_answers(result)


def print_answers(result: Result, count: int = 3) -> None:
    """Prints the held-out pairs that the policy is least and most sure of."""
    margins = result.ratios[:, 0] - result.ratios[:, 1]
    order = np.argsort(margins)
    places = [*order[:count], *order[-count:]]
    texts = [result.setup.held_out.texts[place] for place in places]
    common.print_table(
        "The pairs with the least and the greatest log-ratio of the answers",
        ["log-ratio", "prompt", "chosen", "rejected"],
        [
            [margins[place], show(text[0][-60:]), *(show(t[:80]) for t in text[1:])]
            for place, text in zip(places, texts, strict=True)
        ],
    )
    decode = result.setup.tokenizer.decode
    samples = result.samples
    common.print_table(
        "Answers the policy wrote",
        ["prompt", "answer"],
        [
            [show(decode(prompt)[-60:]), show(decode(answer)[:160])]
            for prompt, answer in zip(
                samples.prompts[:count], samples.answers[:count], strict=True
            )
        ],
    )


def show(text: str) -> str:
    """Makes text safe to print in a table: one line, no control codes, no markup."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    return rich.markup.escape(printable)


def draw(config: Config, result: Result) -> Figure:
    """Draws losses, accuracies and log-probs against the steps."""
    figure, axes = plots.new_figure(
        f"Offline preference training, {' + '.join(config.loss_type)}", 1, 3
    )
    loss, accuracy, logps = axes[0]
    history = result.preference
    loss.plot(history.loss, color=plots.COLORS[0], linewidth=0.8)
    plots.label(loss, title="training loss", x="step", y="loss of a batch")
    steps = np.minimum(config.block * np.arange(len(history.metrics)), config.steps)
    columns = dict(zip(offline.METRICS, history.metrics.T, strict=True))
    # At the start every reward is a tie, so its accuracy says nothing there.
    lines = (("likelihood", "by likelihood", 0), ("per-token", "the same per token", 0))
    lines = (*lines, ("reward", "by reward", 1))
    for i, (name, text, first) in enumerate(lines):
        style = {"color": plots.COLORS[i], "marker": "o", "markersize": 3.5}
        values = columns[f"{name} accuracy"][first:]
        accuracy.plot(steps[first:], values, label=text, **style)
    plots.label(accuracy, title="held-out pairs", x="step", y="accuracy")
    plots.legend(accuracy)
    for i, name in enumerate(("chosen log-prob", "rejected log-prob")):
        change = columns[name] - columns[name][0]
        style = {"color": plots.COLORS[i], "marker": "o", "markersize": 3.5}
        logps.plot(steps, change, label=name, **style)
    plots.label(
        logps, title="held-out pairs", x="step", y="change since the start, nats"
    )
    plots.legend(logps)
    return figure


def main(config: Config) -> dict[str, float]:
    """Trains, reports, and returns the metrics of the held-out pairs."""
    result = run(config)
    report(config, result)
    measured = {"KL": result.samples.kl, "first loss": result.preference.loss[0]}
    for when, place in (("start", 0), ("end", -1)):
        for name, value in zip(
            offline.METRICS, result.preference.metrics[place], strict=True
        ):
            measured[f"{when}/{name}"] = float(value)
    common.save_json(config, "preference_offline_dpo", measured)
    common.save_figure(config, "preference_offline_dpo", draw(config, result))
    return measured


if __name__ == "__main__":
    main(common.parse(Config))
