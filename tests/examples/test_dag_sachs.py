import dataclasses

import dag_sachs as example
import jax
import numpy as np
import pytest

CONFIG = example.Config(num_resamples=2, num_restarts=1)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A file of positive numbers, in another order of columns and with one too many."""
    path = tmp_path_factory.mktemp("sachs") / "cells.csv"
    rng = np.random.default_rng(0)
    names = (*reversed(example.NAMES), "time")
    lines = [",".join(names)]
    lines += [",".join(f"{v:.4f}" for v in row) for row in rng.uniform(1, 9, (60, 12))]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_reference_graphs_are_those_of_the_literature():
    graphs = example.reference_graphs()
    assert {name: int(graph.sum()) for name, graph in graphs.items()} == {
        "17 edges": 17,
        "20 edges": 20,
    }
    both = graphs["17 edges"] & graphs["20 edges"]
    assert both.sum() == 16
    raf, mek = example.NAMES.index("raf"), example.NAMES.index("mek")
    assert both[raf, mek]
    assert not both[mek, raf]


def test_columns_are_found_by_name(table):
    data = example.load(table, seed=0)
    assert data.values.shape == (60, 11)
    first = table.read_text().splitlines()[1].split(",")
    np.testing.assert_allclose(data.values[0], [float(x) for x in first[10::-1]])


def test_files_that_do_not_fit_are_refused(table, tmp_path):
    with pytest.raises(FileNotFoundError, match="cmu-phil/example-causal-datasets"):
        example.load(tmp_path / "none.csv", seed=0)
    lines = table.read_text().replace("raf", "rab")
    (tmp_path / "renamed.csv").write_text(lines)
    with pytest.raises(ValueError, match=r"has no column raf\."):
        example.load(tmp_path / "renamed.csv", seed=0)
    (tmp_path / "negative.csv").write_text(
        ",".join(example.NAMES) + "\n" + ",".join(["-1"] * 11) + "\n"
    )
    with pytest.raises(ValueError, match="positive numbers, got -1"):
        example.load(tmp_path / "negative.csv", seed=0)


def test_a_stand_in_says_what_it_is(monkeypatch, tmp_path):
    monkeypatch.setattr(example, "BESIDE", tmp_path / "none.csv")
    data = example.load(None, seed=0)
    assert data.values.shape == (853, 11)
    assert "NOT the proteins" in data.description


@pytest.mark.slow
def test_every_search_runs_on_every_scale(table, tmp_path):
    config = dataclasses.replace(CONFIG, data=table, output=tmp_path)
    measured = example.main(config)
    for scale in ("raw", "standardized", "logarithms", "standardized logarithms"):
        best = measured[f"{scale}/best of all orders/loss"]
        assert best <= measured[f"{scale}/eqvar, then insertions/loss"] * (1 + 1e-9)
        assert best <= measured[f"{scale}/variance sort/loss"] * (1 + 1e-9)
    assert measured["raw/no edge at all/SHD to 17 edges"] == 17
    assert {path.name for path in tmp_path.iterdir()} == {
        "dag_sachs.json",
        "dag_sachs.png",
    }


@pytest.mark.slow
def test_the_best_orders_of_the_proteins():
    if not example.BESIDE.exists():
        pytest.skip("the measurements are not beside the repository")
    references = example.reference_graphs()
    data = example.load(None, seed=0)
    with jax.enable_x64(True):
        losses = {
            scale: float(example.dag.exact_order(example.dag.gram_stats(values)).loss)
            for scale, values in example.scales(data.values).items()
        }
        raw = example.least_squares(data.values, references)["best of all orders"]
    # By a dynamic program over subsets in NumPy, outside of this library.
    want = {
        "raw": 73964.552279,
        "standardized": 4.159683,
        "logarithms": 2.819591,
        "standardized logarithms": 4.575405,
    }
    for scale, value in want.items():
        np.testing.assert_allclose(losses[scale], value, rtol=2e-7)
    assert (raw["edges"], raw["SHD to 17 edges"], raw["SHD to 20 edges"]) == (
        15,
        11,
        15,
    )
