"""The harness relates programs to one another and notices a wrong peer."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import __main__ as program
from benchmarks import _harness as harness


def case(*functions, **options) -> harness.Case:
    x = jnp.ones((64, 64))
    work = harness.Work(flops=2.0 * 64**3, bytes=3.0 * x.nbytes)

    def build() -> list[harness.Program]:
        return [
            harness.jax_program(f"program {i}", f, x, work=work)
            for i, f in enumerate(functions)
        ]

    return harness.Case("case", build, **options)


def test_ratios_are_over_the_first_program():
    slow = lambda x: jax.lax.fori_loop(0, 200, lambda _, y: y @ x / 64, x)
    one = lambda x: slow(x) * 0 + x
    ((_, results),) = harness.measure([case(lambda x: x, one)], budget=0.05)
    assert results[0].ratio == 1.0
    assert results[1].ratio > 1.0
    assert results[1].low <= results[1].high


def test_a_peer_with_other_numbers_is_refused():
    wrong = case(lambda x: x, lambda x: x + 1)
    with pytest.raises(RuntimeError, match=r"program 1 differs from program 0"):
        list(harness.measure([wrong], budget=0.01))


@pytest.mark.slow
def test_the_command_runs_and_writes_what_it_measured(tmp_path: Path):
    path = tmp_path / "results.json"
    results = program.main(
        [
            "--only",
            "ar_training",
            "--max-length",
            "6",
            "--seconds",
            "0.01",
            "--json",
            str(path),
        ]
    )
    names = {r.program for measured in results["ar_training"] for r in measured}
    assert {"auto", "NumPy loop", "sampling"} <= names
    written = json.loads(path.read_text())["results"]["ar_training"]
    assert all(np.isfinite(row["seconds"]) for row in written)


def test_the_losses_agree_with_their_peers(tmp_path: Path):
    arguments = [
        "--only",
        "preference_losses",
        "--max-length",
        "8",
        "--seconds",
        "0.01",
        "--json",
    ]
    results = program.main([*arguments, str(tmp_path / "results.json")])
    values, slopes = results["preference_losses"]
    assert {"dpo_loss", "plain jit", "preference_loss", "op by op"} <= {
        r.program for r in values
    }
    assert slopes[0].program == "loss_slopes, jit"


def test_temporary_memory_is_that_of_the_compiler():
    x = jnp.ones((64, 64))
    chain = jax.jit(lambda x: jnp.sin(x @ x) @ x).lower(x).compile()
    assert harness.temp_bytes(chain) >= x.nbytes
