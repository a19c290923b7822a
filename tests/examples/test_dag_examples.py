import dag_postprocess
import dag_scale
import dag_topological_swaps
import pytest


@pytest.fixture(scope="module")
def swaps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("swaps")
    config = dag_topological_swaps.Config(
        graphs=("ER2", "SF2"), sizes=(8,), num_graphs=3, output=folder
    )
    return folder, dag_topological_swaps.main(config)


@pytest.mark.slow
def test_insertions_are_no_worse_than_published_swaps(swaps):
    _, measured = swaps
    for graph in ("ER2 d=8", "SF2 d=8"):
        row = lambda method, graph=graph: measured[f"{graph}/{method}/loss"]
        published = row(dag_topological_swaps.PAPER)
        assert row(dag_topological_swaps.INSERTIONS) <= published * (1 + 1e-6)
        assert row(dag_topological_swaps.FROM_EQVAR) <= row("eqvar") * (1 + 1e-12)
        assert measured[f"{graph}/{dag_topological_swaps.INSERTIONS}/time"] == 1.0


@pytest.mark.slow
def test_without_its_scale_the_order_is_lost(swaps):
    _, measured = swaps
    for graph in ("ER2 d=8", "SF2 d=8"):
        assert measured[f"{graph}/scale/var_sortability"] > 0.7
        raw, scaled = (measured[f"{graph}/scale/{x}"] for x in ("raw", "standardized"))
        assert raw <= 2 < scaled


@pytest.mark.slow
def test_both_files_are_written(swaps):
    folder, _ = swaps
    assert {path.name for path in folder.iterdir()} == {
        "dag_topological_swaps.json",
        "dag_topological_swaps.png",
    }


@pytest.mark.slow
def test_a_larger_graph_is_found(tmp_path):
    config = dag_scale.Config(sizes=(20, 40), restarts=4, output=tmp_path)
    measured = dag_scale.main(config)
    for size in (20, 40):
        assert measured[f"d={size}/SHD"] <= 2
        assert -0.01 < measured[f"d={size}/gap"] < 1e-4
    assert 0.0 < measured["restarts/share at the best"] <= 1.0
    assert (tmp_path / "dag_scale.png").exists()


@pytest.mark.slow
def test_every_ending_is_improved(tmp_path):
    config = dag_postprocess.Config(
        num_nodes=8,
        degree=2,
        num_graphs=2,
        dagma_steps=200,
        golem_steps=500,
        output=tmp_path,
    )
    measured = dag_postprocess.main(config)
    for start in ("NOTEARS", "DAGMA", "GOLEM-EV", "random order", "eqvar"):
        before, after = (measured[f"{start}/gap_{x}"] for x in ("before", "after"))
        assert after <= before + 1e-12
        assert measured[f"{start}/kkt_after"] < 1e-8
    assert measured["NOTEARS/kkt_before"] > 1e-3
    assert (tmp_path / "dag_postprocess.json").exists()
