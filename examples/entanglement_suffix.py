"""When preference training lowers the good answer: the length of a fixed suffix.

Paper: Yuan et al., *A Common Pitfall of Margin-based Language Model Alignment: Gradient
Entanglement*, ICLR 2025, its sentiment task, on sequences small enough for a CPU. A
prompt of eight words belongs to one of two classes; the answer is a label and then 0, 1
or 5 fixed tokens, and the rejected answer has the other label. A transformer of two
layers first learns the format of the answers with labels drawn at random; then it is
trained on the preferences.

What is shown: (1) inner products of token gradients of one pair; (2) cosines and chosen
shares of the pairs where training starts; (3) how far the held-out log-probabilities
have moved at the end, for each loss, remedy, optimizer and format; (4) the change of
the chosen answers in one update, split into own pair, batch, optimizer and curvature;
(5) the bound for a model of one layer against the length of the suffix.

How to read the numbers: under plain descent, DPO raises the chosen answer where it is
one token and lowers it where a long suffix follows, and normalizing the two gradients
of each pair cures that. Under Adam nothing guarantees it, though at the rate here it
holds; a loss with an anchor holds them (DPOP, DPO + NLL, SPPO). Leaving the suffix out
of the loss does not.
"One token up" is a statement about a model that knows the format only; rates and numbers
of steps were chosen on seed 0 so that the labels are learned, and with one token they
barely are on seed 1. The rates of the paper preset are untried.

Command: python examples/entanglement_suffix.py --output outputs/suffix
Time: about two minutes on two CPU cores.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import _common as common
import _entanglement_report as reports
import _entanglement_tasks as tasks
import _entanglement_training as training
import jax
import jax.numpy as jnp
import numpy as np
from _entanglement_report import Curve, Results
from _entanglement_tasks import SUFFIXES, Model
from _entanglement_training import Recipe, State, Task

from jaxkit import entanglement, preference
from jaxkit.typing import Key, PyTree


class Row(NamedTuple):
    """One row of the table.

    Attributes:
      loss: one of `_entanglement_training.LOSSES`.
      method: how gradients are put together: their sum, or normalized by pair or batch;
        "mask" leaves all tokens but the label out of the loss.
      optimizer: plain descent or Adam.
      steps: how many.
    """

    loss: str
    method: str = "sum"
    optimizer: str = "SGD"
    steps: int = 320

    @property
    def name(self) -> str:
        """What the table shows."""
        method = f", normalized per {self.method}"
        method = {"sum": "", "mask": ", label alone"}.get(self.method, method)
        return f"{self.optimizer}: {self.loss}{method}"


ROWS = (
    Row("DPO"),
    Row("DPO", "pair"),
    Row("DPO", "batch"),
    Row("DPO", "sum", "Adam", 160),
    Row("DPOP", "sum", "Adam", 160),
    Row("DPO + NLL", "sum", "Adam", 160),
    Row("SPPO", "sum", "Adam", 160),
    Row("DPO", "batch", "Adam", 160),
)
LONG = (
    Row("DPO", "pair", "Adam", 160),
    Row("DPO", "mask"),
    Row("DPO", "mask", "Adam", 160),
)
"""More rows, for the long suffix alone."""
SPLIT = (ROWS[0], ROWS[3])
"""The rows whose updates are split into four parts."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(common.BaseConfig):
    """The options."""

    seed: int = common.option(0, "first seed of the runs")
    num_seeds: int = common.option(3, "seeds per cell")
    features: int = common.option(32, "width of the transformer", paper=768)
    num_layers: int = common.option(2, "its layers", paper=12)
    num_heads: int = common.option(4, "its heads", paper=12)
    num_pairs: int = common.option(1024, "pairs to train on")
    num_held_out: int = common.option(256, "pairs to measure on")
    batch_size: int = common.option(32, "pairs per step")
    format_steps: int = common.option(100, "steps that teach the format")
    format_rate: float = common.option(3e-3, "their rate, under Adam", paper=3e-4)
    sgd_rate: float = common.option(0.2, "rate of plain descent", paper=0.01)
    adam_rate: float = common.option(3e-4, "rate of Adam", paper=5e-6)
    num_points: int = common.option(8, "points of each curve")
    share: float = common.option(1.0, "share of the steps of each row to take")


class Start(NamedTuple):
    """Where the runs of one seed and format begin; `masked` counts labels alone."""

    params: PyTree
    train: Task
    held_out: Task
    masked: Task


class Programs:
    """The compiled programs; seeds, formats, losses and rates are their arguments."""

    def __init__(self, config: Config):
        """Declares them; each compiles at its first call."""
        self.config = config
        self.model = self.build(jax.random.key(config.seed))[0]
        self.prepare = jax.jit(self._prepare)
        self.advance = jax.jit(self._advance, static_argnames="per_pair")
        self.split = jax.jit(self._split)
        self.entangled = jax.jit(self._entangled)
        self.tokens = jax.jit(self._tokens)

    def build(self, key: Key) -> tuple[Model, PyTree]:
        """Draws a transformer."""
        config = self.config
        sizes = {
            name: getattr(config, name)
            for name in ("features", "num_layers", "num_heads")
        }
        return tasks.build_model(key, **sizes)

    def _prepare(self, key: Key, num_suffix: jax.Array) -> Start:
        """Draws pairs and parameters of a seed and teaches the format."""
        config, keys = self.config, jax.random.split(key, 4)
        _, params = self.build(keys[0])
        train, held_out = (
            tasks.sample_pairs(k, size)
            for k, size in zip(
                keys[1:3], (config.num_pairs, config.num_held_out), strict=True
            )
        )
        params = tasks.learn_format(
            keys[3],
            self.model,
            params,
            train,
            tasks.answer_mask(num_suffix),
            num_steps=config.format_steps,
            rate=config.format_rate,
        )
        measured = functools.partial(training.make_task, self.model, params)
        return Start(
            params,
            train=measured(train, num_suffix),
            held_out=measured(held_out, num_suffix),
            masked=measured(train, 0),
        )

    def _step(self, task: Task, recipe: Recipe, per_pair: bool) -> Any:
        size = self.config.batch_size
        return training.make_step(
            self.model, task, recipe, batch_size=size, per_pair=per_pair
        )

    def _advance(
        self, state: State, start: Start, recipe: Recipe, steps: Any, per_pair: bool
    ) -> tuple[State, Curve]:
        """Takes some steps and measures."""
        step = self._step(start.train, recipe, per_pair)
        state = jax.lax.fori_loop(0, steps, lambda _, s: step(s)[0], state)
        moved = training.changes(self.model, state.params, start.held_out)
        up = jnp.mean(moved.chosen > 0)
        return state, Curve(moved.chosen.mean(), moved.rejected.mean(), up)

    def _split(
        self, state: State, start: Start, recipe: Recipe
    ) -> entanglement.DisplacementReport:
        """Splits what the next step does to the pairs of its batch."""
        new, (_, batch, args) = self._step(start.train, recipe, False)(state)
        where = start.train.where
        gram = training.pair_grams(self.model, where, state.params, *batch)
        return entanglement.displacement_report(
            lambda params, tokens: self.model.log_probs(params, tokens, where),
            training.mixed_loss,
            *(state.params, new.params, *batch, *args),
            gram=gram,
        )

    def _entangled(self, start: Start) -> dict[str, jax.Array]:
        """How entangled held-out pairs are under the reference, `[pairs]`."""
        task = start.held_out
        gram = training.pair_grams(self.model, task.where, start.params, *task.pairs)
        equal = entanglement.Coefficients(*jnp.ones((2, 1)))
        log_probs = lambda params, tokens: self.model.log_probs(
            params, tokens, task.where
        )
        halves = entanglement.split_value_and_grad(log_probs, preference.dpo_loss)
        (_, whole), _ = halves(start.params, *task.pairs, *task.refs)
        return {
            "batch cosine": entanglement.pair_cosine(whole.gram)[None],
            "cosine": entanglement.pair_cosine(gram),
            "share": entanglement.chosen_share(gram, equal),
            "regime": entanglement.entanglement_regime(gram, equal),
        }

    def _tokens(self, start: Start) -> jax.Array:
        """Cosines of all token gradients of one pair, `[2, places, 2, places]`."""
        pair = jnp.stack(start.held_out.pairs)[:, 0]

        def log_probs(params: PyTree, pair: jax.Array) -> jax.Array:
            values = self.model.token_log_probs(params, pair, start.held_out.where)
            return values[:, tasks.LABEL_PLACE - 1 :].reshape(-1)

        gram = entanglement.token_gram(log_probs, start.params, pair, pair)
        norms = jnp.sqrt(jnp.diagonal(gram))
        cosines = gram / (norms[:, None] * norms)
        return cosines.reshape(2, cosines.shape[0] // 2, 2, -1)


def run(
    programs: Programs, row: Row, start: Start, seed: int, *, split: bool = False
) -> tuple[Curve, list[entanglement.DisplacementReport]]:
    """Trains one row on one format and seed, and may split updates on the way."""
    config = programs.config
    rate = config.adam_rate if row.optimizer == "Adam" else config.sgd_rate
    recipe = Recipe.of(row.loss, row.optimizer, rate, row.method)
    steps = max(1, round(config.share * row.steps / config.num_points))
    if row.method == "mask":
        start = start._replace(train=start.masked)
    key = jax.random.fold_in(jax.random.key(seed), 1)
    state, found = training.start(key, start.params), []
    curve = [Curve(*jnp.zeros(3))]
    for _ in range(config.num_points):
        if split:
            # The very step that comes next: its batch is to be the same.
            same = state._replace(key=jax.random.clone(state.key))
            found.append(programs.split(same, start, recipe))
        state, point = programs.advance(
            state, start, recipe, steps, per_pair=row.method == "pair"
        )
        curve.append(point)
    return jax.tree.map(lambda *x: np.stack(x), *curve), jax.device_get(found)


def run_all(config: Config) -> Results:
    """Trains every row on every format and seed, two runs at a time."""
    programs = Programs(config)
    seeds = range(config.seed, config.seed + config.num_seeds)
    starts = {
        (form, seed): programs.prepare(jax.random.key(seed), num_suffix)
        for form, num_suffix in SUFFIXES.items()
        for seed in seeds
    }
    # Neighbors differ in the row: two programs then compile side by side.
    last = tuple(SUFFIXES)[-1]
    cells = [
        (row, *place)
        for place in starts
        for row in ROWS + (LONG if place[0] == last else ())
    ]

    def one(cell: tuple[Row, str, int]) -> Any:
        row, *place = cell
        start = starts[tuple(place)]
        return run(programs, row, start, place[1], split=row in SPLIT)

    with common.progress("runs", len(cells)) as advance:
        found, done = {}, training.two_at_a_time(one, cells)
        for (row, *place), result in zip(cells, done, strict=True):
            found[row.name, *place] = result
            advance(1)
    order = [(row.name, *p) for row in ROWS + LONG for p in starts]
    order = [key for key in order if key in found]
    tokens = programs.tokens(starts[last, config.seed])
    return Results(
        runs={key: found[key][0] for key in order},
        reports={key: found[key][1] for key in order if found[key][1]},
        entangled={k: jax.device_get(programs.entangled(v)) for k, v in starts.items()},
        tokens=np.asarray(tokens),
    )


def main(config: Config) -> dict[str, float]:
    """Runs every row and returns where it ends."""
    results = run_all(config)
    reports.print_tables(results)
    measured = reports.summary(results)
    common.save_json(config, "entanglement_suffix", measured)
    if config.output is not None:
        common.save_figure(config, "entanglement_suffix", reports.draw(results))
    return measured


if __name__ == "__main__":
    main(common.parse(Config))
