"""Times programs alternately and relates each to the peers and to the machine.

Wall time on a shared machine says little; three numbers survive it. The *ratio* of
two programs that run in turn, round after round; the temporary memory the compiler
reserves; and the *share of the limit*: the time the machine would need at least, from
counted flops and bytes and from the rates of a large matrix product and a large copy
timed in the very same rounds, over the time that passed.
"""

import functools
import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

__all__ = [
    "Case",
    "Goal",
    "Program",
    "Result",
    "Work",
    "jax_program",
    "measure",
    "temp_bytes",
]

_WARM_BELOW = 0.25
"""Programs faster than this, in seconds, run once untimed before every sample."""
_SAMPLE = 0.002
"""Shortest sample in seconds; faster programs run several times for one."""


class Work(NamedTuple):
    """What a program cannot do without, counted by formula."""

    flops: float
    """Floating-point operations of its algorithm; recomputation does not count."""
    bytes: float
    """Every input read once and every output written once."""


class Program(NamedTuple):
    """Something to time. ``run`` returns when the results are there."""

    name: str
    run: Callable[[], Any]
    work: Work
    temp_bytes: int | None = None
    same: bool = True
    """Whether the results must equal those of the first program of the case."""


class Goal(NamedTuple):
    """What we set out to reach against one peer, or in memory where it has no name."""

    peer: str
    ratio: float = 0.0
    """Its time over ours, at least."""
    temp_bytes: float = 0.0
    at_most: float = 0.0
    """The same where the peer is the more useful program: what it may cost."""


class Case(NamedTuple):
    """Programs that do one job; the first is ours, the others are its peers."""

    title: str
    build: Callable[[], list[Program]]
    goals: tuple[Goal, ...] = ()
    dtype: Any = jnp.float32
    tolerance: float = 1e-3


class Result(NamedTuple):
    """One program of one case; ratios are its time over that of our program."""

    case: str
    program: str
    ratio: float
    low: float
    high: float
    temp_bytes: int | None
    flop_share: float
    byte_share: float
    seconds: float
    work: Work


def temp_bytes(compiled: Any) -> int | None:
    """Temporary memory of a compiled program, where the backend tells."""
    analysis = compiled.memory_analysis()
    return None if analysis is None else int(analysis.temp_size_in_bytes)


def jax_program(
    name: str, function: Callable, *args: Any, work: Work, same: bool = True
) -> Program:
    """Compiles a JAX function for the given arguments."""
    compiled = jax.jit(function).lower(*args).compile()
    run = lambda: jax.block_until_ready(compiled(*args))
    return Program(name, run, work, temp_bytes(compiled), same)


def measure(
    cases: Sequence[Case],
    *,
    budget: float,
    progress: Callable[[Case], None] = lambda case: None,
) -> Iterator[tuple[Case, list[Result]]]:
    """Yields the results of each case, in order."""
    for case in cases:
        progress(case)
        yield case, _run_case(case, budget)
        gc.collect()


def _run_case(case: Case, budget: float) -> list[Result]:
    programs = case.build()
    _check_agreement(case, programs)
    probes = _probes(jnp.dtype(case.dtype))
    samples = _alternate([*programs, *probes], budget)
    seconds = {name: statistics.median(times) for name, times in samples.items()}
    # A peak is the best rate seen; what programs reach is their median.
    product, copy = probes
    flop_rate = product.work.flops / min(samples[product.name])
    byte_rate = copy.work.bytes / min(samples[copy.name])
    ours = programs[0].name
    results = []
    for program in programs:
        spent = seconds[program.name]
        each = np.divide(samples[program.name], samples[ours])
        low, high = np.quantile(each, [0.25, 0.75])
        results.append(
            Result(
                case=case.title,
                program=program.name,
                ratio=spent / seconds[ours],
                low=float(low),
                high=float(high),
                temp_bytes=program.temp_bytes,
                flop_share=program.work.flops / flop_rate / spent,
                byte_share=program.work.bytes / byte_rate / spent,
                seconds=spent,
                work=program.work,
            )
        )
    return results


def _check_agreement(case: Case, programs: Sequence[Program]) -> None:
    """Peers that compute another thing are no peers."""
    first = jax.tree.leaves(programs[0].run())
    for program in programs[1:]:
        if not program.same:
            continue
        leaves = jax.tree.leaves(program.run())
        for a, b in zip(first, leaves, strict=True):
            a, b = (np.asarray(x).astype(np.complex128) for x in (a, b))
            error = np.abs(a - b).max() / (np.abs(a).max() + 1e-30)
            if not error <= case.tolerance:
                raise RuntimeError(
                    f"{case.title}: {program.name} differs from {programs[0].name} "
                    f"by {error:.1e} of the largest entry."
                )


@functools.cache
def _probes(dtype: np.dtype) -> tuple[Program, Program]:
    """A matrix product and a copy, large enough to run at the machine's peak."""
    on_cpu = jax.default_backend() == "cpu"
    size, length = (1024, 2**25) if on_cpu else (8192, 2**29)
    square = jnp.ones((size, size), dtype)
    line = jnp.ones(length, dtype)
    product = Work(2.0 * size**3, 3.0 * square.nbytes)
    copy = Work(float(length), 2.0 * line.nbytes)
    return (
        jax_program("(matrix product)", jnp.matmul, square, square, work=product),
        jax_program("(copy)", jnp.negative, line, work=copy),
    )


def _alternate(programs: Sequence[Program], budget: float) -> dict[str, list[float]]:
    """Seconds per run of each program, one sample a round, all in turn."""
    estimates = [_once(program.run) for program in programs]
    estimates = [
        first if first > 1.0 else _once(program.run)
        for first, program in zip(estimates, programs, strict=True)
    ]
    repeats = [max(1, min(50, math.ceil(_SAMPLE / e))) for e in estimates]
    spent = sum((r + 1) * e for r, e in zip(repeats, estimates, strict=True))
    rounds = max(5, min(40, int(budget / spent)))
    samples: dict[str, list[float]] = {program.name: [] for program in programs}
    for _ in range(rounds):
        for program, repeat, estimate in zip(programs, repeats, estimates, strict=True):
            if estimate < _WARM_BELOW:
                program.run()
            samples[program.name].append(_once(program.run, repeat))
    return samples


def _once(run: Callable[[], Any], repeat: int = 1) -> float:
    start = time.perf_counter()
    for _ in range(repeat):
        run()
    return (time.perf_counter() - start) / repeat
