"""Order search: closed-form moves against regressions, and against the limit."""

import functools
from collections.abc import Callable

import jax
import numpy as np

from benchmarks._harness import Case, Goal, Program, Work, jax_program
from benchmarks._peers import within
from benchmarks._regression_loop import search_by_regressions
from benchmarks._structure_peers import structure_peers
from jaxkit import dag

__all__ = ["cases"]

SEARCHES = {"small": (20,), "full": (20, 50), "accelerator": ()}
"""Numbers of nodes at which the loop over regressions can be waited for."""
TABLES = {"small": (100, 200), "full": (100, 500, 1000), "accelerator": (500, 2000)}
STARTS = {"small": (), "full": ((100, 16),), "accelerator": ((100, 256),)}
METHODS = {"small": (20,), "full": (20,), "accelerator": ()}
GOAL_NODES = 50


def cases(preset: str, max_length: int | None) -> list[Case]:
    """Whole searches, one round of moves, many starts, and other methods."""
    double = np.dtype(np.float64)
    made = []
    for d in SEARCHES[preset]:
        (d,) = within((d,), max_length)
        goals = (Goal(LOOP, 1000.0),) if d == GOAL_NODES else ()
        made.append(
            Case(
                f"search from a random order, d={d}",
                _in_double(functools.partial(_searches, d)),
                goals,
                double,
            )
        )
    for d in TABLES[preset]:
        (d,) = within((d,), max_length)
        build = _in_double(functools.partial(_tables, d))
        made.append(Case(f"one round of moves, d={d}", build, dtype=double))
    for d, count in STARTS[preset]:
        build = _in_double(functools.partial(_starts, d, count))
        made.append(Case(f"{count} starts, d={d}", build, dtype=double))
    for d in METHODS[preset]:
        (d,) = within((d,), max_length)
        build = _in_double(functools.partial(_methods, d))
        made.append(Case(f"other methods, d={d}", build, dtype=double))
    return made


LOOP = "swaps by regressions"


def _in_double(build: Callable[[], list[Program]]) -> Callable[[], list[Program]]:
    """Compiles and runs in float64, which the moments of many nodes need."""

    def double() -> list[Program]:
        with jax.enable_x64(True):
            programs = build()
        return [
            program._replace(run=functools.partial(_run_double, program.run))
            for program in programs
        ]

    return double


def _run_double(run: Callable[[], object]) -> object:
    with jax.enable_x64(True):
        return run()


def _problem(d: int, num_samples: int = 1000) -> tuple[jax.Array, jax.Array]:
    """Data of a random graph with two edges per node, and a random order."""
    keys = jax.random.split(jax.random.key(d), 4)
    edges = dag.sample_er_dag(keys[0], d, edges_per_node=2)
    weights = dag.sample_edge_weights(keys[1], edges)
    x = dag.sample_linear_sem(keys[2], weights, max(num_samples, 2 * d))
    return x, dag.sample_order(keys[3], d)


def _factor_flops(d: int) -> float:
    """A Cholesky factor and the inverse of a triangular matrix."""
    return 2.0 * d**3 / 3.0


def _searches(d: int) -> list[Program]:
    x, order = _problem(d)
    stats = dag.gram_stats(x)
    swaps = dag.gram_stats(x, center=False)
    steps = int(dag.topo_search(stats, order).num_steps)
    work = Work(steps * _factor_flops(d), float(stats.gram.nbytes))
    small, large, budget = dag.topo_paper_sizes(d)
    data, start = np.asarray(x), np.asarray(order)

    def loop() -> np.ndarray:
        found = search_by_regressions(
            data, start, small=small, large=large, budget=budget
        )
        return found.order

    def reach(search: Callable) -> Callable:
        return lambda stats, order: search(stats, order).order

    config = dag.TopoConfig(moves="swap")
    forms: dict[str, tuple[Callable, dag.GramStats]] = {
        "insertions": (dag.topo_search, stats),
        "swaps, all pairs": (functools.partial(_search, config), stats),
        "swaps, as published": (dag.topo_paper, swaps),
        "eqvar, then insertions": (_from_eqvar, stats),
    }
    programs = [
        jax_program(name, reach(search), moments, order, work=work, same=False)
        for name, (search, moments) in forms.items()
    ]
    published = np.asarray(programs[2].run())
    if not np.array_equal(loop(), published):
        raise RuntimeError(f"d={d}: regressions end in another order than the tables.")
    return [*programs, Program(LOOP, loop, work, same=False)]


def _search(
    config: dag.TopoConfig, stats: dag.GramStats, order: jax.Array
) -> dag.TopoResult:
    return dag.topo_search(stats, order, config)


def _from_eqvar(stats: dag.GramStats, order: jax.Array) -> dag.TopoResult:
    return dag.topo_search(stats, dag.eqvar_order(stats))


def _tables(d: int) -> list[Program]:
    x, order = _problem(d)
    stats = dag.gram_stats(x)
    square = float(stats.gram.nbytes)
    forms: dict[str, tuple[Callable, float]] = {
        "insertions": (dag.insertion_deltas, _factor_flops(d)),
        "swaps": (dag.swap_deltas, _factor_flops(d) + 4.0 * d**3),
        "the factor alone": (lambda *factor: factor, _factor_flops(d)),
    }

    def from_moments(table: Callable) -> Callable:
        return lambda stats, order: table(*dag.order_cholesky(stats, order))

    return [
        jax_program(
            name,
            from_moments(table),
            stats,
            order,
            work=Work(flops, 2.0 * square),
            same=False,
        )
        for name, (table, flops) in forms.items()
    ]


def _starts(d: int, count: int) -> list[Program]:
    x, _ = _problem(d)
    stats = dag.gram_stats(x)
    keys = jax.random.split(jax.random.key(0), count)
    orders = jax.vmap(lambda key: dag.sample_order(key, d))(keys)
    search = lambda stats, order: dag.topo_search(stats, order).loss
    together = jax.vmap(search, in_axes=(None, 0))
    in_turn = lambda stats, orders: jax.lax.map(
        functools.partial(search, stats), orders
    )
    # How many steps a start needs is a guess: one for each node.
    work = Work(count * d * _factor_flops(d), float(stats.gram.nbytes))
    return [
        jax_program(name, form, stats, orders, work=work)
        for name, form in (("side by side", together), ("one by one", in_turn))
    ]


def _methods(d: int) -> list[Program]:
    """Methods that end elsewhere: what each costs, and in other packages."""
    x, _ = _problem(d)
    stats = dag.gram_stats(x)
    rate, steps, penalty = 3e-3, 2000, 2.0
    schedule = dag.DagmaConfig(
        learning_rate=rate, warm_steps=steps, last_steps=2 * steps
    )
    key = jax.random.key(0)
    sparse = lambda stats: dag.boss_search(key, stats, penalty=penalty, num_restarts=1)
    forms: dict[str, Callable] = {
        "topo_search from eqvar": lambda stats: (
            dag.topo_search(stats, dag.eqvar_order(stats)).weights
        ),
        "dagma": lambda stats: dag.dagma(stats, schedule).weights,
        "boss_search": lambda stats: sparse(stats).weights,
        "notears": lambda stats: dag.notears(stats).weights,
    }
    # What they cannot do without is not counted, but for reading the moments.
    work = Work(0.0, float(stats.gram.nbytes))
    programs = [
        jax_program(name, form, stats, work=work, same=False)
        for name, form in forms.items()
    ]
    peers = structure_peers(
        np.asarray(x), rate=rate, steps=steps, penalty=penalty, work=work
    )
    return [*programs, *peers]
