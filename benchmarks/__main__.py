"""Runs the benchmarks: ``python -m benchmarks --help``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from benchmarks import _harness as harness
from benchmarks import _report as report
from benchmarks import (
    ar_training,
    dag,
    distillation,
    entanglement,
    hypersphere,
    linear_attention,
    linear_log_probs,
    mesa_layer,
    preference_losses,
)
from benchmarks._harness import Result

BENCHMARKS = {
    "linear_attention": linear_attention.cases,
    "ar_training": ar_training.cases,
    "mesa_layer": mesa_layer.cases,
    "linear_log_probs": linear_log_probs.cases,
    "preference_losses": preference_losses.cases,
    "entanglement": entanglement.cases,
    "distillation": distillation.cases,
    "hypersphere": hypersphere.cases,
    "dag": dag.cases,
}
PRESETS = ("small", "full", "accelerator")


def main(arguments: Sequence[str] | None = None) -> dict[str, list[list[Result]]]:
    """Runs what the command line asks for; returns and prints the results."""
    options = _parser().parse_args(arguments)
    on_cpu = jax.default_backend() == "cpu"
    preset = options.preset or ("small" if on_cpu else "accelerator")
    results: dict[str, list[list[Result]]] = {}
    goals: list[str] = []
    for name in options.only or BENCHMARKS:
        cases = BENCHMARKS[name](preset, options.max_length)
        for case, measured in harness.measure(
            cases, budget=options.seconds, progress=_say
        ):
            results.setdefault(name, []).append(measured)
            goals += report.goal_lines(case, measured)
            if not options.markdown:
                report.print_case(measured)
        if options.markdown and name in results:
            print(f"\n## {name}")
            report.print_markdown(results[name])
    print("\n" + "\n".join(goals))
    report.write_json(options.json, results)
    return results


def _say(case: harness.Case) -> None:
    print(case.title, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Ratios of run time against peers; see docs/benchmarks.md.",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=BENCHMARKS,
        metavar="NAME",
        help=f"which of {', '.join(BENCHMARKS)}; all if left out",
    )
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        help="the sizes; small on a CPU, accelerator elsewhere",
    )
    parser.add_argument(
        "--max-length", type=int, help="cap on the sequence lengths, for a trial run"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=2.0,
        help="time for the rounds of each case; slow programs still get 5 rounds",
    )
    parser.add_argument(
        "--markdown", action="store_true", help="print the tables of the documentation"
    )
    parser.add_argument(
        "--json",
        type=Path,
        default=Path("outputs/benchmarks.json"),
        help="where to write everything, raw seconds too",
    )
    return parser


if __name__ == "__main__":
    main()
