"""Prints results as tables, for the terminal or for the documentation."""

import json
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks._harness import Case, Result

__all__ = ["goal_lines", "print_case", "print_markdown", "write_json"]

_COLUMNS = ("program", "time / ours", "quartiles", "temp MiB", "flops", "bytes")


def print_case(results: Sequence[Result]) -> None:
    """One table: a line per program."""
    rows = [
        (
            r.program,
            _ratio(r.ratio),
            f"{_ratio(r.low)} - {_ratio(r.high)}",
            _memory(r),
            f"{r.flop_share:.0%}",
            f"{r.byte_share:.0%}",
        )
        for r in results
    ]
    _print_table(results[0].case, _COLUMNS, rows)


def _print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print(f"\n{title}")
        widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
        for row in (columns, *rows):
            print("  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)))
        return
    table = Table(title=title, title_justify="left")
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i else "left")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def goal_lines(case: Case, results: Sequence[Result]) -> list[str]:
    """Says of each goal whether it was met."""
    found = {r.program: r for r in results}
    lines = []
    for goal in case.goals:
        if goal.peer not in found:
            continue
        result = found[goal.peer]
        if goal.ratio:
            met = result.ratio >= goal.ratio
            text = f"{goal.peer} {_ratio(result.ratio)}x, goal {_ratio(goal.ratio)}x"
        elif goal.at_most:
            met = result.ratio <= goal.at_most
            limit = _ratio(goal.at_most)
            text = f"{goal.peer} {_ratio(result.ratio)}x, goal at most {limit}x"
        else:
            met = (result.temp_bytes or 0) <= goal.temp_bytes
            limit = goal.temp_bytes / 2**20
            text = f"{goal.peer} {_memory(result)} MiB, goal at most {limit:.0f}"
        lines.append(f"{case.title}: {text}: {'met' if met else 'not met'}")
    return lines


def print_markdown(results: Sequence[Sequence[Result]]) -> None:
    """Three tables for each of our programs: ratios, shares of the limit, memory."""
    ratio = lambda r: f"{_ratio(r.ratio)} ({_ratio(r.low)} to {_ratio(r.high)})"
    for ours in dict.fromkeys(case[0].program for case in results):
        cases = [case for case in results if case[0].program == ours]
        peers = [case[1:] for case in cases]
        print(f"\nTime over the time of `{ours}` (quartiles of the rounds):\n")
        _pivot(peers, ratio)
        print("\nShare of the limit, f by counted flops or b by counted bytes:\n")
        _pivot(cases, _share)
        print("\nTemporary memory of the compiled program, MiB:\n")
        _pivot(cases, _memory)


def _pivot(results: Sequence[Sequence[Result]], cell: Callable[[Result], str]) -> None:
    rows = [(case[0].case, {r.program: cell(r) for r in case}) for case in results]
    names = dict.fromkeys(r.program for case in results for r in case)
    columns = [name for name in names if any(cells.get(name) for _, cells in rows)]
    print(f"| case | {' | '.join(columns)} |")
    print(f"| --- |{' ---: |' * len(columns)}")
    for title, cells in rows:
        print(f"| {title} | {' | '.join(cells.get(name, '') for name in columns)} |")


def _share(result: Result) -> str:
    letter = "f" if result.flop_share >= result.byte_share else "b"
    return f"{max(result.flop_share, result.byte_share):.0%} {letter}"


def _ratio(value: float) -> str:
    return (
        f"{value:.0f}"
        if value >= 20
        else f"{value:.1f}"
        if value >= 2
        else f"{value:.2f}"
    )


def _memory(result: Result) -> str:
    if result.temp_bytes is None:
        return ""
    size = result.temp_bytes / 2**20
    return f"{size:.0f}" if size >= 20 else f"{size:.1f}"


def write_json(path: Path, results: dict[str, list[list[Result]]]) -> None:
    """Writes everything measured, raw seconds too."""
    content: dict[str, Any] = {
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "results": {
            name: [
                r._asdict() | {"work": r.work._asdict()} for case in cases for r in case
            ]
            for name, cases in results.items()
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
