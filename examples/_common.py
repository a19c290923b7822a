"""What every example shares: options, tables, progress, files and checkpoints."""

import argparse
import dataclasses
import json
import re
import shutil
import sys
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

C = TypeVar("C", bound="BaseConfig")


def option(default: Any, help: str, *, paper: Any = dataclasses.MISSING) -> Any:
    """Declares one option: its small default, its help, its value at paper size."""
    metadata = {"help": help}
    if paper is not dataclasses.MISSING:
        metadata["paper"] = paper
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaseConfig:
    """The options of every example."""

    output: Path | None = dataclasses.field(
        default=None, metadata={"help": "folder to write JSON and PNG files to"}
    )
    seed: int = option(1, "seed of every random draw")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(BaseConfig):
    """The options of an example that trains for long."""

    resume: bool = option(False, "continue from the newest checkpoint in --output")
    block: int = option(50, "steps in one compiled block, and between checkpoints")


def preset(config: type[C], name: str, **changes: Any) -> C:
    """Builds a configuration at one of the two sizes."""
    values = {
        field.name: field.metadata["paper"]
        for field in dataclasses.fields(config)
        if name == "paper" and "paper" in field.metadata
    }
    return config(**(values | changes))


def parse(config: type[C], arguments: Sequence[str] | None = None) -> C:
    """Turns the command line into a configuration.

    Every field becomes an option; `--preset` picks the defaults of the others.
    """
    program = sys.modules[config.__module__]
    parser = argparse.ArgumentParser(
        description=program.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sizes = ("small", "paper")
    parser.add_argument("--preset", choices=sizes, default="small", help="the size")
    kinds = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        defaults = f"small {_show(field.default)}"
        if "paper" in field.metadata:
            defaults += f", paper {_show(field.metadata['paper'])}"
        parser.add_argument(
            "--" + field.name.replace("_", "-"),
            default=argparse.SUPPRESS,
            help=f"{field.metadata.get('help', '')} ({defaults})".replace("%", "%%"),
            **_argument(kinds[field.name]),
        )
    values = vars(parser.parse_args(arguments))
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    size = values.pop("preset")
    if values.get("resume") and values.get("output") is None:
        parser.error("--resume needs the --output folder of the interrupted run")
    return preset(config, size, **values)


def _argument(kind: Any) -> dict[str, Any]:
    """Translates a type annotation into arguments of `add_argument`."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _argument(next(part for part in inner if part is not type(None)))
    if origin is typing.Literal:
        return {"choices": inner, "type": type(inner[0])}
    if origin is tuple:
        return {"nargs": "+", **_argument(inner[0])}
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    if kind in (int, float, str, Path):
        return {"type": kind, "metavar": kind.__name__.upper()}
    raise TypeError(f"No option can be made of a field of type {kind}.")


def _show(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def console() -> Console:
    """Returns a console on the present standard output, wide where it is a file."""
    screen = Console()
    return screen if screen.is_terminal else Console(width=max(screen.width, 132))


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    caption: str | None = None,
) -> None:
    """Prints a table; floats get six significant digits, numbers align right."""
    table = Table(title=title, caption=caption, title_justify="left")
    numeric = [
        any(isinstance(row[i], int | float | np.generic | jax.Array) for row in rows)
        for i in range(len(columns))
    ]
    for name, is_number in zip(columns, numeric, strict=True):
        table.add_column(name, justify="right" if is_number else "left")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    console().print(table)


def _cell(value: Any) -> str:
    if isinstance(value, str | int | np.integer):
        return str(value)
    return "" if value is None else f"{float(value):.6g}"


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows a bar that the yielded function advances; silent outside a terminal."""
    screen = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=screen, transient=True, disable=not screen.is_terminal
    ) as bar:
        task = bar.add_task(label, total=total)
        yield lambda count: bar.update(task, advance=count)


def save_json(config: BaseConfig, name: str, results: dict[str, Any]) -> None:
    """Writes the results and how they were made, if an output folder was given."""
    if config.output is None:
        return
    config.output.mkdir(parents=True, exist_ok=True)
    record = {
        "config": _settings(config),
        "jax": jax.__version__,
        "backend": jax.default_backend(),
        "results": jax.tree.map(float, results),
    }
    path = config.output / f"{name}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")


def save_figure(config: BaseConfig, name: str, figure: Any) -> None:
    """Writes a figure as PNG, if an output folder was given."""
    if config.output is None:
        return
    config.output.mkdir(parents=True, exist_ok=True)
    figure.savefig(config.output / f"{name}.png", dpi=150)


def _settings(config: BaseConfig) -> dict[str, Any]:
    values = dataclasses.asdict(config)
    return {k: str(v) if isinstance(v, Path) else v for k, v in values.items()}


class Checkpoints:
    """The newest two states of a run in one folder; does nothing without a folder."""

    def __init__(self, config: TrainConfig, name: str):
        """Names the folder `OUTPUT/checkpoints/name` and remembers the settings."""
        self._folder = None
        if config.output is not None:
            self._folder = (config.output / "checkpoints" / name).absolute()
        self._resume = config.resume
        free = {"output", "resume", "epochs"}
        settings = _settings(config).items()
        self._settings = {k: v for k, v in settings if k not in free}

    def save(self, step: int, tree: Any) -> None:
        """Writes a pytree as the state after `step` steps."""
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "settings.json").write_text(json.dumps(self._settings))
        with orbax.checkpoint.StandardCheckpointer() as writer:
            writer.save(self._folder / str(step), _pure_dict(tree), force=True)
        # The one before stays, should this one be damaged.
        for old in sorted(s for s in self._steps() if s <= step)[:-2]:
            shutil.rmtree(self._folder / str(old))

    def newest(self, limit: int) -> int:
        """Finds the newest step, at most `limit`, to resume from; 0 for none."""
        if not self._resume or self._folder is None or not self._folder.exists():
            return 0
        old = json.loads((self._folder / "settings.json").read_text())
        new = json.loads(json.dumps(self._settings))
        changed = [k for k in new if old.get(k) != new[k]]
        if changed:
            names = ", ".join(f"{k}: {old.get(k)} -> {new[k]}" for k in changed)
            raise ValueError(f"The checkpoint was made with other settings: {names}.")
        return max((step for step in self._steps() if step <= limit), default=0)

    def _steps(self) -> list[int]:
        assert self._folder is not None
        names = (path.name for path in self._folder.iterdir())
        return [int(name) for name in names if re.fullmatch(r"\d+", name)]

    def restore(self, step: int, like: Any) -> Any:
        """Reads the state after `step` steps into the structure of `like`."""
        assert self._folder is not None
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), like
        )
        with orbax.checkpoint.StandardCheckpointer() as reader:
            leaves = reader.restore(self._folder / str(step), _pure_dict(target))
        return jax.tree.unflatten(jax.tree.structure(like), list(leaves.values()))


def _pure_dict(tree: Any) -> dict[str, Any]:
    """Flattens any pytree into a dictionary that orbax stores as it is."""
    return {f"leaf_{i:04d}": leaf for i, leaf in enumerate(jax.tree.leaves(tree))}


def train(
    step: Callable[[Any], tuple[Any, Any]],
    state: Any,
    *,
    num_steps: int,
    checkpoints: Checkpoints,
    block: int,
    label: str,
) -> tuple[Any, Any]:
    """Repeats a step in compiled blocks, with a checkpoint after each block.

    Args:
      step: maps the state to the next state and a record of the one it was given.
      state: the start, any pytree of arrays.
      num_steps: how often to step.
      checkpoints: where to store and whether to resume.
      block: steps per compiled scan.
      label: what the progress bar shows.

    Returns:
      The final state and the records with a leading axis `num_steps`.
    """

    @jax.jit(static_argnames="length")
    def run(state: Any, length: int) -> tuple[Any, Any]:
        return jax.lax.scan(lambda s, _: step(s), state, length=length)

    record = jax.eval_shape(step, state)[1]
    done = checkpoints.newest(num_steps)
    records = jax.tree.map(lambda x: jnp.zeros((done, *x.shape), x.dtype), record)
    if done:
        state, records = checkpoints.restore(done, (state, records))
    with progress(label, num_steps) as advance:
        advance(done)
        while done < num_steps:
            # Blocks end at multiples of `block`, so that a resumed run is cut as
            # the uninterrupted one was.
            length = min(block - done % block, num_steps - done)
            state, new = run(state, length)
            records = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), records, new)
            done += length
            checkpoints.save(done, (state, records))
            advance(length)
    return state, records
