"""DPO on real sentences: the longer the shared suffix, the further the answer falls.

Yuan et al., *A Common Pitfall of Margin-based Language Model Alignment: Gradient
Entanglement*, ICLR 2025, study sentiment answers of one token and with a suffix. Here a
transformer of two layers and width 32 reads the first 16 words of a sentence (the
1,500 most frequent words, the rest as one unknown word) and answers with a label token,
alone or followed by five fixed tokens. It first learns the format from answers whose
label is drawn at random. Then 512 pairs, right label against wrong one, are trained on
with Adam, by DPO and by DPO with the negative log-likelihood of the chosen answer.

--data takes a file of lines `label<TAB>text` with labels 0 and 1, compressed if its
name ends in .gz, such as the sentence polarity dataset of Pang and Lee (ACL 2005) in one
file. Without it the sentences are documentation of installed packages, and the label
says whether SciPy ships the sentence, or NumPy, JAX or Optax does: real text with a real
property, but not sentiment. Nothing is downloaded.

How to read the table: changes of log-probabilities since the start of the preference
training, means over the TRAINING pairs. The model is too small to read sentiment, as its
held-out accuracy says; what the loss does to the answers it was given is another
question, and the one asked here. "Looks ideal" is the share of pairs whose own two
gradients predict at the start that the chosen answer rises and the rejected one falls.

On movie reviews, means of three seeds, the chosen answer changes by -1.74 under DPO with
one token (up in 18 % of the pairs) and by -6.89 with the suffix (0 %); with the NLL by
+0.62 (98 %) and +0.67 (99 %). Every pair looks ideal at the start. The reference gives
the label about half the probability, so a one-token answer cannot gain more than about
log 2 on average. Held-out accuracy is 0.53 to 0.54.

Command: python examples/entanglement_real_text.py --data FILE --output outputs/text
Time: about a minute on two CPU cores.
"""

import collections
import dataclasses
import gzip
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import _common as common
import _entanglement_runs as runs
import _plots as plots
import _preference_docs as docs
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from jaxkit import entanglement

UNKNOWN, FILL, START, SEPARATOR, FIRST_LABEL, FIRST_SUFFIX = 0, 1, 2, 3, 4, 6
MAX_SUFFIX = 5
FIRST_WORD = FIRST_SUFFIX + MAX_SUFFIX
FORMATS = {"one token": 0, "long suffix": MAX_SUFFIX}
ANCHORS = {"DPO": 0.0, "DPO + NLL": 1.0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(common.BaseConfig):
    """The options."""

    data: Path | None = dataclasses.field(
        default=None, metadata={"help": "file of label<TAB>text; none for docstrings"}
    )
    num_pairs: int = common.option(512, "training pairs", paper=8192)
    held_out: int = common.option(512, "held-out sentences")
    vocabulary: int = common.option(1500, "words that have a token", paper=8000)
    words: int = common.option(16, "words read of a sentence", paper=48)
    features: int = common.option(32, "width of the transformer", paper=256)
    layers: int = common.option(2, "blocks", paper=6)
    heads: int = common.option(4, "heads", paper=8)
    format_steps: int = common.option(100, "steps on random labels")
    steps: int = common.option(300, "steps on pairs")
    records: int = common.option(10, "measurements on the way; must divide the steps")
    rate: float = common.option(3e-4, "learning rate of Adam on pairs")
    num_seeds: int = common.option(1, "repetitions, from the sentences drawn on")


class Sentence(NamedTuple):
    """A text split into words, and its label, 0 or 1."""

    label: int
    words: tuple[str, ...]


class Outcome(NamedTuple):
    """What one run does to the answers.

    Attributes:
      before: log-probabilities of both answers at the start, training pairs first,
        then held-out ones, `[all pairs, 2]`.
      after: the same at the end.
      moved: changes of those of the training pairs on the way, `[records, pairs, 2]`.
    """

    before: jax.Array
    after: jax.Array
    moved: jax.Array


def read_sentences(path: Path) -> list[Sentence]:
    """Reads a file of lines `label<TAB>text`.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if a line has another form, with the file and the line.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no file {path}. --data takes lines of label<TAB>text; without "
            "it the example reads documentation instead."
        )
    sentences = []
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                label, tab, text = line.decode().rstrip("\r\n").partition("\t")
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
            if label not in ("0", "1") or not tab or not text.split():
                raise ValueError(
                    f"{path}, line {number}: expected 0 or 1, a tab and a text, got "
                    f"{line[:60]!r}."
                )
            sentences.append(Sentence(int(label), tuple(text.split())))
    return sentences


def documentation() -> list[Sentence]:
    """The stand-in: sentences of docstrings; label 1 for those that SciPy ships."""
    found: dict[str, set[bool]] = collections.defaultdict(set)
    for entry in docs.read_entries():
        for sentence in entry.sentences:
            found[sentence].add(entry.module.startswith("scipy"))
    return [
        Sentence(int(label), tuple(text.lower().split()))
        for text, (label, *others) in found.items()
        if not others
    ]


def split(
    sentences: Sequence[Sentence], config: Config, seed: int
) -> tuple[list[Sentence], list[Sentence], list[str]]:
    """Draws training and held-out sentences, and the words that get a token.

    The words are counted in all sentences that are not held out.

    Raises:
      ValueError: if there are too few sentences.
    """
    wanted = config.num_pairs + config.held_out
    if len(sentences) < wanted:
        raise ValueError(
            f"{config.num_pairs} training pairs and {config.held_out} held-out "
            f"sentences need {wanted} sentences, got {len(sentences)}."
        )
    order = np.random.default_rng(seed).permutation(len(sentences))
    shuffled = [sentences[place] for place in order]
    held_out, rest = shuffled[: config.held_out], shuffled[config.held_out :]
    counts = collections.Counter(word for _, words in rest for word in words)
    known = [word for word, _ in counts.most_common(config.vocabulary)]
    return rest[: config.num_pairs], held_out, known


def encode(
    sentences: Sequence[Sentence], known: Sequence[str], num_words: int
) -> tuple[jax.Array, jax.Array]:
    """Writes prompts and both answers as tokens.

    Returns:
      Tokens `[sentences, 2, time]`, the right label first, and the places of the
      suffix: 0 at the label, negative before it.
    """
    table = {word: FIRST_WORD + i for i, word in enumerate(known)}
    suffix = list(range(FIRST_SUFFIX, FIRST_SUFFIX + MAX_SUFFIX))

    def build(words: tuple[str, ...], label: int) -> list[int]:
        read = [table.get(word, UNKNOWN) for word in words[:num_words]]
        read += [FILL] * (num_words - len(read))
        return [START, *read, SEPARATOR, FIRST_LABEL + label, *suffix]

    rows = [[build(words, y) for y in (label, 1 - label)] for label, words in sentences]
    tokens = jnp.asarray(rows, jnp.int32)
    return tokens, jnp.arange(tokens.shape[-1]) - (num_words + 2)


def as_answers(place: jax.Array, tokens: jax.Array, num_suffix: Any) -> runs.Answers:
    """Marks the label and so many tokens of the suffix.

    A causal model does not see what follows, so the tokens after them do no harm.
    """
    where = (place >= 0) & (place <= num_suffix)
    everywhere = jnp.ones(tokens.shape, bool)
    return runs.Answers(tokens, jnp.broadcast_to(where, tokens.shape), everywhere)


def build(config: Config, key: jax.Array, length: int) -> tuple[runs.Model, Any]:
    """Builds the transformer and draws its parameters."""
    return runs.build_model(
        key,
        FIRST_WORD + config.vocabulary,
        length,
        features=config.features,
        num_layers=config.layers,
        num_heads=config.heads,
    )


class Programs(NamedTuple):
    """What is compiled once; format, loss and seed are arguments."""

    learn_format: Callable[..., Any]
    score: Callable[..., jax.Array]
    share_ideal: Callable[..., jax.Array]
    learn_preferences: Callable[..., Any]


def make_programs(config: Config, model: runs.Model, place: jax.Array) -> Programs:
    """Makes the programs; each takes tokens and the length of the suffix last."""

    def learn_format(key: Any, params: Any, *task: Any) -> Any:
        steps = config.format_steps
        return runs.learn_answers(
            key, model, params, as_answers(place, *task), num_steps=steps
        )

    def score(params: Any, *task: Any) -> jax.Array:
        return runs.score(model, params, as_answers(place, *task))

    def share_ideal(params: Any, *task: Any) -> jax.Array:
        grams = runs.pair_grams(model, params, as_answers(place, *task))
        equal = entanglement.Coefficients(*jnp.ones((2, *grams.cross.shape)))
        regimes = entanglement.entanglement_regime(grams, equal)
        return jnp.mean(regimes == entanglement.Regime.IDEAL)

    def learn_preferences(
        key: Any, params: Any, refs: Any, anchor: Any, *task: Any
    ) -> Any:
        return runs.learn_preferences(
            key,
            model,
            params,
            as_answers(place, *task),
            refs,
            runs.Recipe(config.rate, anchor=anchor),
            num_steps=config.steps,
            num_records=config.records,
        )

    functions = (learn_format, score, share_ideal, learn_preferences)
    return Programs(*map(jax.jit, functions))


def run_all(
    config: Config, sentences: Sequence[Sentence]
) -> tuple[dict[str, Outcome], dict[str, np.ndarray]]:
    """Runs formats x losses x seeds.

    Returns:
      By run, the outcomes with a leading axis of seeds; by format, the share of pairs
      that look ideal at the start.
    """
    outcomes = collections.defaultdict(list)
    ideal = collections.defaultdict(list)
    programs = None
    for seed in range(config.seed, config.seed + config.num_seeds):
        train, held_out, known = split(sentences, config, seed)
        tokens, place = encode([*train, *held_out], known, config.words)
        seen = tokens[: len(train)]
        init_key, format_key, batch_key = jax.random.split(jax.random.key(seed), 3)
        model, params = build(config, init_key, len(place))
        programs = programs or make_programs(config, model, place)
        # The same batches for every loss and format.
        again = jax.random.clone
        for name, suffix in FORMATS.items():
            start = programs.learn_format(again(format_key), params, seen, suffix)
            before = programs.score(start, tokens, suffix)
            ideal[name].append(programs.share_ideal(start, seen, suffix))
            for loss, anchor in ANCHORS.items():
                args = (start, before[: len(train)], anchor, seen, suffix)
                end, moved = programs.learn_preferences(again(batch_key), *args)
                after = programs.score(end, tokens, suffix)
                outcomes[f"{loss}, {name}"].append(Outcome(before, after, moved))
    stack = lambda *leaves: np.stack(leaves)
    stacked = {k: jax.tree.map(stack, *v) for k, v in outcomes.items()}
    return stacked, {name: np.stack(shares) for name, shares in ideal.items()}


def summarize(
    outcomes: dict[str, Outcome], ideal: dict[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """Averages over pairs and seeds."""
    rows = {}
    for name, outcome in outcomes.items():
        num_pairs = outcome.moved.shape[2]
        before = outcome.before[:, :num_pairs]
        change = outcome.after[:, :num_pairs] - before
        right = outcome.after[..., 0] > outcome.after[..., 1]
        quantities = {
            "chosen before": before[..., 0],
            "chosen": change[..., 0],
            "rejected": change[..., 1],
            "chosen up": change[..., 0] > 0,
            "looks ideal": ideal[name.split(", ")[1]],
            "accuracy": right[:, :num_pairs],
            "held-out accuracy": right[:, num_pairs:],
        }
        rows[name] = {key: float(np.mean(x)) for key, x in quantities.items()}
    return rows


def report(config: Config, rows: dict[str, dict[str, float]]) -> None:
    """Prints the table."""
    number = lambda value: f"{value:+.2f}"
    percent = lambda share: f"{100 * share:.0f} %"
    cells = (number,) * 3 + (percent,) * 4
    names = list(next(iter(rows.values())))
    common.print_table(
        f"Adam {config.rate:g}, {config.steps} steps, {config.num_pairs} training pairs",
        ["run", *names],
        [
            [name, *(cell(row[n]) for cell, n in zip(cells, names, strict=True))]
            for name, row in rows.items()
        ],
        caption=f"log-probabilities before and their changes; {config.num_seeds} seed(s)",
    )


def draw(config: Config, outcomes: dict[str, Outcome]) -> Figure:
    """Draws the changes of both answers against steps, a panel per format."""
    figure, axes = plots.new_figure("DPO on real sentences", 1, len(FORMATS))
    steps = config.steps // config.records * np.arange(config.records + 1)
    for ax, name in zip(axes[0], FORMATS, strict=True):
        for loss, color in zip(ANCHORS, plots.COLORS, strict=False):
            curves = outcomes[f"{loss}, {name}"].moved.mean(axis=(0, 2))
            curves = np.concatenate([np.zeros((1, 2)), curves])
            ax.plot(steps, curves[:, 0], color=color, label=f"{loss}: chosen")
            ax.plot(steps, curves[:, 1], ":", color=color, label=f"{loss}: rejected")
        plots.label(ax, title=name, x="steps", y="change of log-probability")
    plots.legend(axes[0, 0])
    return figure


def main(config: Config) -> dict[str, float]:
    """Runs everything and returns what the table shows."""
    if config.steps % config.records:
        raise ValueError(
            f"`records` must divide `steps`, got {config.records} and {config.steps}."
        )
    if config.data is None:
        sentences = documentation()
        print("No --data: sentences of documentation; label 1 if SciPy ships them.")
    else:
        sentences = read_sentences(config.data)
    outcomes, ideal = run_all(config, sentences)
    rows = summarize(outcomes, ideal)
    report(config, rows)
    measured = {
        f"{name}/{quantity}": value
        for name, row in rows.items()
        for quantity, value in row.items()
    }
    common.save_json(config, "entanglement_real_text", measured)
    if config.output is not None:
        figure = draw(config, outcomes)
        common.save_figure(config, "entanglement_real_text", figure)
    return measured


if __name__ == "__main__":
    main(common.parse(Config))
