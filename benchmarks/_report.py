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
            text = f"{goal.peer} {_ratio(result.ratio)}x, goal {goal.ratio:.0f}x"
        else:
            met = (result.temp_bytes or 0) <= goal.temp_bytes
            limit = goal.temp_bytes / 2**20
            text = f"{goal.peer} {_memory(result)} MiB, goal at most {limit:.0f}"
        lines.append(f"{case.title}: {text}: {'met' if met else 'not met'}")
    return lines


def print_markdown(name: str, results: Sequence[Sequence[Result]]) -> None:
    """Three tables a benchmark: ratios, shares of the limit, memory."""
    ratio = lambda r: f"{_ratio(r.ratio)} ({_ratio(r.low)} to {_ratio(r.high)})"
    for title, cell in (
        ("Time over the time of the first column (quartiles over rounds)", ratio),
        ("Share of the limit: f counted flops, b counted bytes", _share),
        ("Temporary memory, MiB", _memory),
    ):
        print(f"\n**`{name}`: {title}**\n")
        _pivot(results, cell)


def _pivot(results: Sequence[Sequence[Result]], cell: Callable[[Result], str]) -> None:
    columns = list(dict.fromkeys(r.program for case in results for r in case))
    print(f"| case | {' | '.join(columns)} |")
    print(f"| --- |{' ---: |' * len(columns)}")
    for case in results:
        cells = {r.program: cell(r) for r in case}
        line = " | ".join(cells.get(name, "") for name in columns)
        print(f"| {case[0].case} | {line} |")


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
