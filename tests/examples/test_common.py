import dataclasses
import json
from pathlib import Path
from typing import Literal, NamedTuple

import _common as common
import _plots as plots
import jax
import jax.numpy as jnp
import numpy as np
import pytest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(common.TrainConfig):
    epochs: int = common.option(3, "how many epochs", paper=200)
    rates: tuple[float, ...] = common.option((0.1, 0.2), "step sizes, in 1%")
    law: Literal["gaussian", "sparse"] = common.option("gaussian", "the law")


def test_parse_gives_the_small_defaults():
    assert common.parse(Config, []) == Config()


def test_parse_gives_the_paper_defaults():
    config = common.parse(Config, ["--preset", "paper"])
    assert config == Config(epochs=200)


def test_options_override_the_preset():
    line = "--preset paper --epochs 7 --rates 1 2 3 --law sparse --output here --resume"
    config = common.parse(Config, line.split())
    assert config == Config(
        epochs=7, rates=(1.0, 2.0, 3.0), law="sparse", output=Path("here"), resume=True
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--law cauchy", "invalid choice"),
        ("--epochs many", "invalid int value"),
        ("--unknown 1", "unrecognized arguments"),
        ("--resume", "--output"),
    ],
)
def test_bad_options_exit_with_a_message(line, message, capsys):
    with pytest.raises(SystemExit):
        common.parse(Config, line.split())
    assert message in capsys.readouterr().err


def test_help_shows_text_and_both_defaults(capsys):
    with pytest.raises(SystemExit):
        common.parse(Config, ["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "how many epochs (small 3, paper 200)" in text
    assert "step sizes, in 1% (small 0.1 0.2)" in text


def test_nothing_is_written_without_output(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    figure, _ = plots.new_figure("title")
    common.save_json(Config(), "name", {"a": 1.0})
    common.save_figure(Config(), "name", figure)
    assert list(tmp_path.iterdir()) == []


def test_json_holds_results_and_settings(tmp_path):
    config = Config(output=tmp_path / "new", seed=5)
    common.save_json(config, "name", {"a": jnp.float32(0.5)})
    record = json.loads((tmp_path / "new" / "name.json").read_text())
    assert record["results"] == {"a": 0.5}
    assert record["config"]["seed"] == 5


def test_figure_is_a_png(tmp_path):
    figure, axes = plots.new_figure("title", 1, 2)
    plots.heat_map(axes[0, 0], np.eye(4), title="matrix", split=True)
    axes[0, 1].plot([0, 1], label="line")
    plots.label(axes[0, 1], title="title", x="x", y="y")
    plots.legend(axes[0, 1])
    common.save_figure(Config(output=tmp_path), "name", figure)
    assert (tmp_path / "name.png").read_bytes().startswith(b"\x89PNG")


def test_table_shows_six_digits(capsys):
    common.print_table("title", ["name", "value"], [["pi", jnp.pi], ["none", None]])
    assert "3.14159" in capsys.readouterr().out


def test_progress_is_silent_outside_a_terminal(capsys):
    with common.progress("label", 2) as advance:
        advance(2)
    assert capsys.readouterr().out == ""


class State(NamedTuple):
    x: jax.Array
    count: jax.Array


def step(state: State) -> tuple[State, jax.Array]:
    return State(jnp.sin(3 * state.x), state.count + 1), state.x[0]


def run(config: Config, num_steps: int) -> tuple[State, jax.Array]:
    return common.train(
        step,
        State(jnp.linspace(0.1, 1.0, 4), jnp.zeros((), jnp.int32)),
        num_steps=num_steps,
        checkpoints=common.Checkpoints(config, "run"),
        block=config.block,
        label="run",
    )


def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path):
    config = Config(block=2)
    expected, expected_records = run(config, 7)
    config = dataclasses.replace(config, output=tmp_path)
    run(config, 6)
    kept = tmp_path / "checkpoints" / "run" / "6"
    written = kept.stat().st_mtime_ns
    state, records = run(dataclasses.replace(config, resume=True), 7)
    assert kept.stat().st_mtime_ns == written
    names = {path.name for path in kept.parent.iterdir()}
    assert names == {"6", "7", "settings.json"}
    np.testing.assert_array_equal(state.x, expected.x)
    np.testing.assert_array_equal(records, expected_records)
    assert int(state.count) == 7
    assert records.shape == (7,)


def test_a_finished_run_resumes_to_itself(tmp_path):
    config = Config(output=tmp_path, block=2)
    expected = run(config, 3)
    again = run(dataclasses.replace(config, resume=True), 3)
    np.testing.assert_array_equal(again[0].x, expected[0].x)
    np.testing.assert_array_equal(again[1], expected[1])


def test_resume_without_a_checkpoint_starts_anew(tmp_path):
    state, _ = run(Config(output=tmp_path, resume=True), 3)
    assert int(state.count) == 3


def test_resume_refuses_other_settings(tmp_path):
    config = Config(output=tmp_path, block=2)
    run(config, 2)
    with pytest.raises(ValueError, match="seed: 1 -> 2"):
        run(dataclasses.replace(config, resume=True, seed=2), 2)
