import dataclasses
import functools
import json

import _entanglement_report as reports
import _entanglement_tasks as tasks
import _entanglement_training as training
import entanglement_suffix as example
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _entanglement_training import Recipe

from jaxkit import entanglement, preference

TINY = example.Config(
    num_seeds=1,
    features=8,
    num_layers=1,
    num_heads=2,
    num_pairs=16,
    num_held_out=8,
    batch_size=4,
    format_steps=2,
    num_points=1,
    share=1e-3,
)


@pytest.fixture(scope="module")
def results():
    return example.run_all(TINY)


def test_answers_differ_in_the_label_alone():
    chosen, rejected = tasks.sample_pairs(jax.random.key(0), 500)
    assert chosen.shape == (500, 16)
    differ = np.argwhere(np.asarray(chosen[0] != rejected[0]))
    np.testing.assert_array_equal(differ, [[tasks.LABEL_PLACE]])
    labels = np.asarray(chosen[:, tasks.LABEL_PLACE]) - tasks.FIRST_LABEL
    kinds = (np.asarray(chosen[:, 1:9]) - 1) // 16
    telling = kinds == labels[:, None]
    assert abs(telling.mean() - 0.6) < 0.03
    assert ((kinds == 2) | telling).all()
    np.testing.assert_array_equal(
        tasks.answer_mask(1), [False] * 10 + [True] * 2 + [False] * 4
    )


def test_the_mixed_loss_is_each_of_its_parts():
    logps = jnp.array([[-3.0], [-2.0], [-2.5], [-2.2]])
    length = jnp.array(6)
    alone = {
        "DPO": preference.dpo_loss(*logps),
        "DPOP": preference.dpop_loss(*logps),
        "DPO + NLL": preference.rpo_loss(*logps, length),
        "SPPO": preference.sppo_loss(*logps),
    }
    for name, loss in alone.items():
        weights = Recipe.of(name, "SGD", 0.1, "sum").weights
        mixed = training.mixed_loss(*logps, length, weights)
        np.testing.assert_allclose(mixed, loss, rtol=1e-6)


def made_up() -> reports.Results:
    """What a run of one seed may have measured."""
    curve = reports.Curve(*np.linspace([0.0, 0.0, 0.0], [-1.0, -2.0, 0.5], 3).T)
    sides = entanglement.Changes(np.ones(4), np.ones(4))
    split = entanglement.DisplacementReport(*[sides] * 5, np.ones(()))
    pairs = dict.fromkeys(("batch cosine", "cosine", "share"), np.full(4, 0.5))
    pairs["regime"] = np.zeros(4, int)
    rows = {(row.name, form, 0) for row in example.ROWS for form in tasks.SUFFIXES}
    rows |= {(row.name, "long suffix", 0) for row in example.LONG}
    return reports.Results(
        runs=dict.fromkeys(rows, curve),
        reports={key: [split] for key in rows if key[0] == "SGD: DPO"},
        entangled={(form, 0): pairs for form in tasks.SUFFIXES},
        tokens=np.zeros((2, 6, 2, 6)),
    )


def test_everything_is_reported(tmp_path, capsys):
    check_reports(made_up(), tmp_path, capsys)


@pytest.mark.slow
def test_every_row_and_format_is_run(results, tmp_path, capsys):
    check_reports(results, tmp_path, capsys)


def test_a_run_starts_at_the_reference_and_leaves_it():
    programs = example.Programs(TINY)
    start = programs.prepare(jax.random.key(0), 5)
    curve, found = example.run(programs, example.ROWS[3], start, 0)
    assert curve.chosen[0] == curve.rejected[0] == 0.0 != curve.chosen[-1]
    assert found == []


def check_reports(results, tmp_path, capsys):
    rows = len(example.ROWS) * len(tasks.SUFFIXES) + len(example.LONG)
    assert len(results.runs) == rows
    reports.print_tables(results)
    text = capsys.readouterr().out
    for row in example.ROWS + example.LONG:
        assert row.name in text
    config = dataclasses.replace(TINY, output=tmp_path)
    measured = reports.summary(results)
    example.common.save_json(config, "x", measured)
    assert json.loads((tmp_path / "x.json").read_text())["results"] == measured
    assert np.isfinite(list(measured.values())).all()
    example.common.save_figure(config, "x", reports.draw(results))
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_curves_start_at_the_reference(results):
    for curve in results.runs.values():
        assert len(curve.chosen) == TINY.num_points + 1
        assert curve.chosen[0] == curve.rejected[0] == 0.0
        assert curve.chosen[-1] != 0.0


@pytest.mark.slow
def test_the_four_parts_add_up(results):
    assert {key[0] for key in results.reports} == {row.name for row in example.SPLIT}
    for report in results.reports["SGD: DPO", "long suffix", 0]:
        for side in (0, 1):
            total = sum(part[side] for part in report[:4])
            np.testing.assert_allclose(total, report.actual[side], atol=1e-5)
        # Plain descent follows the gradient: the optimizer adds nothing.
        np.testing.assert_allclose(report.optimizer.chosen, 0.0, atol=1e-4)


@pytest.mark.slow
def test_the_token_map_holds_cosines(results):
    places = results.tokens.reshape(12, 12)
    np.testing.assert_allclose(np.diagonal(places), 1.0, atol=1e-5)
    np.testing.assert_allclose(places, places.T, atol=1e-5)


def test_half_of_the_random_models_fall_at_seven_tokens():
    falls = reports.suffix_curve(jax.random.key(0))
    assert (falls[:4] == 0.0).all()
    assert falls[6] < 0.5 < falls[7]
    assert falls[-1] == 1.0


@pytest.mark.experiment
def test_the_table_of_three_seeds():
    measured = example.main(example.Config())
    seeds = range(3)

    def ends(row, form, key="chosen"):
        return [measured[f"{row}/{form}/seed {seed}/{key}"] for seed in seeds]

    longs = functools.partial(ends, form="long suffix")
    assert max(longs("SGD: DPO")) < 0.0
    assert min(longs("SGD: DPO, normalized per pair", key="up")) >= 0.95
    assert min(ends("SGD: DPO", "one token")) > 0.0
    by_format = [ends("Adam: DPO", form) for form in tasks.SUFFIXES]
    assert (np.diff(by_format, axis=0) < 0.0).all()
    for loss in ("DPOP", "DPO + NLL", "SPPO"):
        assert min(longs(f"Adam: {loss}")) > 0.0
