import jax
import numpy as np
import pytest

from benchmarks import _regression_loop as loop
from benchmarks import _structure_peers as peers
from benchmarks import dag as benchmark
from benchmarks._harness import Work
from jaxkit import dag


@pytest.mark.slow
def test_regressions_and_tables_end_in_the_same_order():
    # Building the case compares the two.
    case, *tables = benchmark.cases("small", max_length=8)
    programs = {program.name: program for program in case.build()}
    assert set(programs) == {
        "insertions",
        "swaps, all pairs",
        "swaps, as published",
        "eqvar, then insertions",
        benchmark.LOOP,
    }
    assert sorted(np.asarray(programs["insertions"].run()).tolist()) == list(range(8))
    assert tables[-1].title == "other methods, d=8"
    first = tables[0].build()[0]
    assert np.asarray(first.run()).shape == (8, 8)
    assert np.asarray(first.run()).dtype == np.float64


def test_the_loop_ends_where_no_candidate_pays():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 5)) @ np.triu(rng.uniform(0.5, 2.0, (5, 5)))
    every = {"small": 10, "large": 10, "budget": 1}
    found = loop.search_by_regressions(x, np.array([4, 3, 2, 1, 0]), **every)
    with jax.enable_x64(True):
        stats = dag.gram_stats(x, center=False)
        want = float(dag.order_loss(stats, found.order))
        left = np.asarray(dag.swap_deltas(*dag.order_cholesky(stats, found.order)))
    np.testing.assert_allclose(found.loss, want, rtol=1e-10)
    assert left.min() > -1e-9 * want


def test_packages_that_are_absent_are_left_out(monkeypatch: pytest.MonkeyPatch):
    class Fake:
        @staticmethod
        def boss(x: np.ndarray, **options):
            found = Fake()
            found.graph = x * options["parameters"]["lambda_value"]
            return found

    only = lambda name: Fake if name.startswith("causallearn") else None
    monkeypatch.setattr(peers, "optional_module", only)
    settings = {"rate": 0.1, "steps": 1, "penalty": 2.0, "work": Work(0.0, 1.0)}
    (program,) = peers.structure_peers(np.ones((3, 2)), **settings)
    assert not program.same
    np.testing.assert_array_equal(program.run(), np.full((3, 2), 2.0))
