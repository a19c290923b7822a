"""Which pairs will lose their chosen answer? A data set ranked before training on it.

A short DPO run lowers the chosen log-probability of some pairs far more than of others.
This example ranks all pairs by a prediction made at the reference and compares the
ranking with what the run then does, once with plain descent and once with Adam:

- own pair: first-order change if the pair were trained on alone (Yuan et al., *A Common
  Pitfall of Margin-based Language Model Alignment: Gradient Entanglement*, ICLR 2025),
  from sketches of the gradients and exactly;
- all pairs: first-order change along the gradient of the whole set. With sketches of
  k numbers per answer it costs O(k) per pair once they are there, for any subset;
  exactly it takes one gradient and one forward-mode product;
- first Adam step: the same along the first update that Adam would take on the whole set;
- CHES (Razin et al., *Unintentional Unalignment*, ICLR 2025), from hidden states alone,
  and its form per token;
- two that know nothing of gradients: the length of the chosen answer, longest first,
  and its log-probability under the reference, most likely first.

The default pairs are synthetic: eight words and a label, in equal parts without suffix,
with one and with five fixed tokens after it. "Documentation" takes sentences of installed
packages, right against wrong. --data takes any JSONL file of pairs in the layouts of
`_preference_data`, read as bytes. The reference is trained from scratch on both answers
alike, so it knows what answers look like and not which one is better.

How to read the tables: "rank" is Spearman's correlation between the predicted and the
measured change of the chosen log-probability; "found" is the share of the tenth that
fell the most among the tenth that was predicted to (0.1 by chance).

On the synthetic pairs the high ranks of the first table are mostly one fact: the short
run first learns to prefer one label to the other, so half of the pairs fall. Any number
that knows which label the reference prefers sees that, the log-probability too (rank
0.79, own pair 0.81). The second table has the ranks within each format and chosen label:
there, under descent, only the prediction from all pairs holds (0.57 to 0.90; own pair
-0.49 to 0.74), and under Adam, after 240 steps, none does for the pairs that fall.

On documentation (256 pairs, 120 steps, rows of 80 bytes), where pairs differ in
everything: all pairs 0.78 by sketches and 0.83 exactly under descent, 0.69 and 0.77 under
Adam, own pair 0.13 and 0.10, CHES 0.07 and 0.02. That is while the run stays near the
reference (the chosen answers gain 0.3 to 0.5). At rates of 0.1 and 3e-4, where they lose
40 and 14, no prediction made at the reference has a rank above 0.2. One seed each.

Command: python examples/entanglement_audit.py --output outputs/audit
Time: under a minute on two CPU cores.
"""

import dataclasses
from pathlib import Path
from typing import Literal, NamedTuple

import _common as common
import _entanglement_runs as runs
import _entanglement_tasks as tasks
import _plots as plots
import _preference_data as pair_data
import _preference_docs as docs
import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from scipy import stats

from jaxkit import entanglement
from jaxkit.typing import Key, PyTree

PREDICTORS = (
    "own pair, sketch",
    "own pair, exact",
    "all pairs, sketch",
    "all pairs, exact",
    "first Adam step",
    "CHES",
    "CHES per token",
    "length",
    "log-probability",
)
SHOWN = ("own pair, sketch", "all pairs, sketch", "CHES", "log-probability")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(common.BaseConfig):
    """The options."""

    data: Path | None = dataclasses.field(
        default=None, metadata={"help": "JSONL file of pairs; none for --source"}
    )
    source: Literal["synthetic", "documentation"] = common.option(
        "synthetic", "the pairs where there is no file"
    )
    num_pairs: int = common.option(512, "pairs at most", paper=20_000)
    length: int = common.option(96, "bytes of a row of text", paper=512)
    prompt: int = common.option(40, "bytes of them for the prompt", paper=256)
    features: int = common.option(32, "width of the transformer", paper=256)
    layers: int = common.option(2, "blocks", paper=6)
    heads: int = common.option(4, "heads", paper=8)
    start_steps: int = common.option(100, "steps on either answer", paper=2000)
    steps: int = common.option(240, "steps on pairs", paper=500)
    descent_rate: float | None = common.option(
        None, "rate of descent; none for 0.1 on synthetic pairs, 0.002 on text"
    )
    adam_rate: float | None = common.option(
        None, "rate of Adam; none for 3e-4 on synthetic pairs, 3e-5 on text"
    )
    num_features: int = common.option(1024, "numbers in the sketch of a gradient")


class PairSet(NamedTuple):
    """Pairs with the size of their vocabulary, and the kind of each, by number."""

    pairs: runs.Answers
    vocab_size: int
    kinds: np.ndarray
    names: tuple[str, ...]


class Audit(NamedTuple):
    """The pairs, the reference, and both rankings of the pairs.

    Attributes:
      data: the pairs.
      model: the functions of the parameters.
      params: the reference.
      predicted: by predictor, an array `[pairs]`, the lowest for the largest fall.
      changes: by optimizer, the measured changes `[pairs]`.
    """

    data: PairSet
    model: runs.Model
    params: PyTree
    predicted: dict[str, np.ndarray]
    changes: dict[str, np.ndarray]


def load(config: Config) -> PairSet:
    """Reads or draws the pairs.

    Raises:
      FileNotFoundError: if there is no file of that name.
      ValueError: if it is malformed or holds fewer than ten pairs to rank.
    """
    if config.data is None and config.source == "synthetic":
        return synthetic(config)
    if config.data is None:
        entries = docs.read_entries()
        limit = {"max_bytes": config.length - config.prompt - 1, "seed": config.seed}
        pairs = docs.make_pairs(entries, kind="other", **limit)
    elif config.data.is_file():
        pairs = pair_data.read_pairs(config.data)
    else:
        raise FileNotFoundError(f"There is no file {config.data}.")
    return from_text(config, pairs)


def synthetic(config: Config) -> PairSet:
    """Draws prompts and labels; a third of the pairs has each format."""
    draw = jax.jit(tasks.sample_pairs, static_argnames="num_pairs")
    drawn = draw(jax.random.key(config.seed), num_pairs=config.num_pairs)
    tokens = jnp.stack([drawn.chosen, drawn.rejected], axis=1)
    formats = np.arange(config.num_pairs) % len(tasks.SUFFIXES)
    num_suffix = jnp.asarray(list(tasks.SUFFIXES.values()))[formats]
    label = np.asarray(drawn.chosen[:, tasks.LABEL_PLACE]) - tasks.FIRST_LABEL
    names = tuple(f"{name} {y}" for name in tasks.SUFFIXES for y in (0, 1))
    where = tasks.answer_mask(num_suffix[:, None])
    answer = jnp.broadcast_to(where[:, None], tokens.shape)
    pairs = runs.Answers(tokens, answer, jnp.ones(tokens.shape, bool))
    return PairSet(pairs, tasks.VOCAB_SIZE, 2 * formats + label, names)


def from_text(config: Config, texts: list[pair_data.Pair]) -> PairSet:
    """Encodes some of the pairs as bytes; those whose answers agree are left out."""
    order = np.random.default_rng(config.seed).permutation(len(texts))
    tokenizer = pair_data.ByteTokenizer()
    limits = pair_data.Limits(length=config.length, prompt=config.prompt)
    texts = [texts[i] for i in order[: config.num_pairs]]
    data = pair_data.PairData(texts, tokenizer, limits)
    (batch,) = data.in_order(len(data))
    tokens, where = batch.tokens[batch.valid], batch.where[batch.valid]
    if len(tokens) < 10:
        raise ValueError(f"Ranking takes at least ten pairs, got {len(tokens)}.")
    pairs = runs.Answers(*map(jnp.asarray, (tokens, where, tokens != tokenizer.pad)))
    return PairSet(pairs, tokenizer.vocab_size, np.zeros(len(tokens), int), ("all",))


def start(config: Config, data: PairSet) -> tuple[runs.Model, PyTree]:
    """Builds the model and teaches it what answers look like."""
    keys = jax.random.split(jax.random.key(config.seed), 2)
    model, params = runs.build_model(
        keys[0],
        data.vocab_size,
        data.pairs.tokens.shape[-1],
        features=config.features,
        num_layers=config.layers,
        num_heads=config.heads,
    )

    @jax.jit
    def learn(key: Key, params: PyTree, pairs: runs.Answers) -> PyTree:
        steps = config.start_steps
        return runs.learn_answers(key, model, params, pairs, num_steps=steps)

    return model, learn(keys[1], params, data.pairs)


def predict(
    key: Key,
    model: runs.Model,
    params: PyTree,
    pairs: runs.Answers,
    *,
    num_features: int,
) -> dict[str, jax.Array]:
    """Predicts, up to scale, how the chosen log-probability of each pair changes.

    Returns:
      By the names in `PREDICTORS`, arrays `[pairs]`.
    """
    log_probs = lambda params, pairs: runs.score(model, params, pairs)
    refs, pull_back = jax.vjp(lambda params: log_probs(params, pairs), params)
    counts = runs.lengths(pairs)[:, 0]
    loss = lambda *logps: runs.pair_loss(*logps, *refs.T, counts, anchor=0.0)
    pushes = entanglement.loss_coefficients(loss, *refs.T)
    weights = jnp.stack([pushes.chosen, -pushes.rejected], axis=1)
    (ascent,) = pull_back(weights)
    adam = optax.scale_by_adam()
    adam_step, _ = adam.update(ascent, adam.init(params))

    sketches = entanglement.sketch_gradients(
        key,
        model.log_probs,
        params,
        jax.tree.map(lambda leaf: leaf.reshape(-1, leaf.shape[-1]), pairs),
        num_features=num_features,
        chunk_size=runs.CHUNK,
    ).reshape(*refs.shape, -1)
    own = sketches[:, 0], jnp.einsum("ns,nsk->nk", weights, sketches)
    along = jax.vmap(
        lambda step: entanglement.update_changes(log_probs, params, step, pairs)
    )
    moves = along(jax.tree.map(lambda *leaves: jnp.stack(leaves), ascent, adam_step))
    exact = entanglement.predicted_changes(
        runs.pair_grams(model, params, pairs), pushes
    )
    predictions = (
        jnp.einsum("nk,nk->n", *own),
        exact.chosen,
        own[0] @ jnp.sum(own[1], axis=0),
        *moves[..., 0],
        *(-score for score in hidden_similarity(model, params, pairs)),
        -counts,
        -refs[:, 0],
    )
    return dict(zip(PREDICTORS, predictions, strict=True))


def hidden_similarity(
    model: runs.Model, params: PyTree, pairs: runs.Answers
) -> list[jax.Array]:
    """The CHES score of each pair, high where the chosen answer should fall.

    Returns:
      The score and its form per token.
    """

    def one(pair: runs.Answers) -> list[jax.Array]:
        # The state before a token predicts it.
        states, where = model.states(params, pair)[:, :-1], pair.answer[:, 1:]
        return [
            entanglement.ches_score(
                *states,
                chosen_where=where[0],
                rejected_where=where[1],
                length_normalize=normalize,
            )
            for normalize in (False, True)
        ]

    return jax.lax.map(one, pairs, batch_size=runs.CHUNK)


def measure(
    config: Config, model: runs.Model, params: PyTree, pairs: runs.Answers
) -> dict[str, np.ndarray]:
    """Trains with either optimizer and measures the chosen answers, `[pairs]`."""

    @jax.jit
    def train(
        key: Key, params: PyTree, pairs: runs.Answers, recipe: runs.Recipe
    ) -> jax.Array:
        refs = runs.score(model, params, pairs)
        steps = config.steps
        args = (key, model, params, pairs, refs, recipe)
        return runs.learn_preferences(*args, num_steps=steps)[1][-1, :, 0]

    key = jax.random.key(config.seed + 1)
    # Log-probabilities of texts are sums over many more tokens.
    short = config.data is None and config.source == "synthetic"
    usual = (0.1, 3e-4) if short else (0.002, 3e-5)
    rates = (config.descent_rate, config.adam_rate)
    rates = [u if rate is None else rate for rate, u in zip(rates, usual, strict=True)]
    recipes = {
        "descent": runs.Recipe(rates[0], adam=False),
        "Adam": runs.Recipe(rates[1], adam=True),
    }
    return {
        # The same batches for both.
        name: np.asarray(train(jax.random.clone(key), params, pairs, recipe))
        for name, recipe in recipes.items()
    }


def rank_correlation(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Spearman's correlation; 0 where one side is constant."""
    ranks = [stats.rankdata(values) for values in (predicted, measured)]
    if any(np.ptp(rank) == 0.0 for rank in ranks):
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])


def found(predicted: np.ndarray, measured: np.ndarray, *, part: float = 0.1) -> float:
    """The share of the lowest part of one ranking in that of the other.

    Where several pairs tie for the last places, it is the expectation over which of
    them get in.
    """
    count = max(1, round(part * len(measured)))
    hit = stats.rankdata(measured, method="ordinal") <= count
    bound = np.sort(predicted)[count - 1]
    below, tied = predicted < bound, predicted == bound
    share = (count - below.sum()) * hit[tied].mean()
    return float((hit[below].sum() + share) / count)


def report(
    data: PairSet, predicted: dict[str, np.ndarray], changes: dict[str, np.ndarray]
) -> dict[str, float]:
    """Prints both tables and returns what they show."""
    measured = {}
    for name, values in predicted.items():
        for run, change in changes.items():
            measured[f"{name}/{run}/rank"] = rank_correlation(values, change)
            measured[f"{name}/{run}/found"] = found(values, change)
    for name in ("own pair", "all pairs"):
        both = (predicted[f"{name}, {way}"] for way in ("sketch", "exact"))
        measured[f"{name}/sketch against exact"] = rank_correlation(*both)
    columns = [f"{run}: {what}" for run in changes for what in ("rank", "found")]
    common.print_table(
        f"Chosen log-probabilities of {len(data.kinds)} pairs, predicted and measured",
        ["ranked by", *columns],
        [
            [name]
            + [
                f"{measured[f'{name}/{run}/{what}']:.2f}"
                for run in changes
                for what in ("rank", "found")
            ]
            for name in predicted
        ],
        caption="sketch against exact, rank: own pair {:.3f}, all pairs {:.3f}".format(
            *(measured[f"{n}/sketch against exact"] for n in ("own pair", "all pairs"))
        ),
    )
    rows = []
    for number, kind in enumerate(data.names):
        here = data.kinds == number
        for run, change in changes.items():
            ranks = {
                n: rank_correlation(predicted[n][here], change[here]) for n in SHOWN
            }
            measured |= {f"{kind}/{n}/{run}/rank": rank for n, rank in ranks.items()}
            mean, up = float(change[here].mean()), float((change[here] > 0).mean())
            measured |= {f"{kind}/{run}/change": mean, f"{kind}/{run}/up": up}
            row = [kind, run, int(here.sum()), f"{mean:+.2f}", f"{100 * up:.0f} %"]
            rows.append(row + [f"{rank:.2f}" for rank in ranks.values()])
    common.print_table(
        "What happened, and the ranks within each kind of pair",
        ["pairs", "run", "number", "change", "up", *(f"rank: {n}" for n in SHOWN)],
        rows,
    )
    return measured


def draw(
    data: PairSet, predicted: dict[str, np.ndarray], changes: dict[str, np.ndarray]
) -> Figure:
    """Draws measured changes against three of the predictions."""
    figure, axes = plots.new_figure(
        "Chosen log-probabilities: predicted at the start, measured at the end",
        len(changes),
        len(SHOWN),
    )
    for row, (run, change) in zip(axes, changes.items(), strict=True):
        for ax, name in zip(row, SHOWN, strict=True):
            for number, kind in enumerate(data.names):
                here = data.kinds == number
                color = plots.COLORS[number]
                x, y = predicted[name][here], change[here]
                ax.plot(x, y, ".", markersize=3, color=color, label=kind)
            plots.label(ax, title=run, x=f"predicted: {name}", y="measured change")
    plots.legend(axes[0, 0])
    return figure


def audit(config: Config) -> Audit:
    """Ranks the pairs, then trains on them."""
    data = load(config)
    model, params = start(config, data)

    @jax.jit
    def program(key: Key, params: PyTree, pairs: runs.Answers) -> dict[str, jax.Array]:
        return predict(key, model, params, pairs, num_features=config.num_features)

    predicted = program(jax.random.key(config.seed + 2), params, data.pairs)
    predicted = {name: np.asarray(predicted[name]) for name in PREDICTORS}
    changes = measure(config, model, params, data.pairs)
    return Audit(data, model, params, predicted, changes)


def finish(config: Config, audit: Audit) -> dict[str, float]:
    """Prints and writes what an audit found."""
    tables = audit.data, audit.predicted, audit.changes
    measured = report(*tables)
    common.save_json(config, "entanglement_audit", measured)
    if config.output is not None:
        common.save_figure(config, "entanglement_audit", draw(*tables))
    return measured


def main(config: Config) -> dict[str, float]:
    """Ranks, trains, compares, and returns what the tables show."""
    return finish(config, audit(config))


if __name__ == "__main__":
    main(common.parse(Config))
