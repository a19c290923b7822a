import dataclasses
import json

import _entanglement_runs as runs
import _entanglement_tasks as tasks
import entanglement_audit as example
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import entanglement

CONFIG = example.Config(
    num_pairs=64,
    length=16,
    prompt=8,
    features=8,
    layers=1,
    heads=2,
    start_steps=20,
    steps=6,
    descent_rate=1e-3,
    num_features=256,
)


@pytest.fixture(scope="module")
def audit():
    return example.audit(CONFIG)


@pytest.mark.slow
def test_exact_predictions_are_sums_of_inner_products(audit):
    pairs = audit.data.pairs
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, leaf.shape[-1]), pairs)
    gram = jax.jit(
        lambda params: entanglement.batch_gram(audit.model.log_probs, params, flat)
    )(audit.params)
    gram = np.asarray(gram, np.float64).reshape(64, 2, 64, 2)
    # At the reference, DPO pushes with beta / 2 on either side.
    pushes = runs.BETA / 2 * (gram[:, 0, :, 0] - gram[:, 0, :, 1])
    scale = np.abs(pushes).max()
    np.testing.assert_allclose(
        audit.predicted["own pair, exact"], np.diag(pushes), atol=1e-4 * scale
    )
    np.testing.assert_allclose(
        audit.predicted["all pairs, exact"], pushes.sum(1), atol=1e-3 * scale
    )


def test_sketches_rank_almost_as_the_exact_products(audit):
    for name in ("own pair", "all pairs"):
        both = (audit.predicted[f"{name}, {way}"] for way in ("sketch", "exact"))
        assert example.rank_correlation(*both) > 0.9


def test_small_steps_of_descent_do_what_all_pairs_predict(audit):
    rank = {
        name: example.rank_correlation(values, audit.changes["descent"])
        for name, values in audit.predicted.items()
    }
    assert rank["all pairs, exact"] > 0.9
    assert rank["all pairs, exact"] > rank["own pair, exact"]
    assert np.abs(audit.changes["Adam"]).max() > 1e-3


def test_hidden_similarity_reads_the_states_before_the_answer(audit):
    pairs = audit.data.pairs
    states = np.asarray(jax.jit(audit.model.states)(audit.params, pairs), np.float64)
    answer = np.asarray(pairs.answer)
    for name, normalize in (("CHES", False), ("CHES per token", True)):
        want = []
        for state, where in zip(states, answer, strict=True):
            sums = [
                sum(h[t - 1] for t in np.flatnonzero(w)) / (w.sum() if normalize else 1)
                for h, w in zip(state, where, strict=True)
            ]
            want.append(-(sums[0] @ sums[1] - sums[0] @ sums[0]))
        np.testing.assert_allclose(audit.predicted[name], want, atol=1e-4)
    # One state predicts both labels: without a suffix there is nothing to compare.
    alone = audit.data.kinds < 2
    np.testing.assert_array_equal(audit.predicted["CHES"][alone], 0.0)


def test_padding_changes_nothing(audit):
    tokens = jnp.arange(12).reshape(1, 2, 6) % 7
    answer = jnp.broadcast_to(jnp.array([0, 0, 1, 1, 0, 0], bool), tokens.shape)
    text = jnp.broadcast_to(jnp.arange(6) < 4, tokens.shape)
    score = jax.jit(audit.model.log_probs)
    base = score(audit.params, runs.Answers(tokens, answer, text))
    other = jnp.where(text, tokens, 9)
    again = score(audit.params, runs.Answers(other, answer, text))
    np.testing.assert_array_equal(base, again)


def test_formats_are_mixed_in_equal_parts(audit):
    counts = np.asarray(audit.data.pairs.answer).sum(-1)
    assert np.bincount(counts[:, 0]).tolist() == [0, 22, 21, 0, 0, 0, 21]
    np.testing.assert_array_equal(counts[:, 0], counts[:, 1])
    chosen = np.asarray(audit.data.pairs.tokens)[:, 0, tasks.LABEL_PLACE]
    for number, name in enumerate(audit.data.names):
        form, _, label = name.rpartition(" ")
        here = audit.data.kinds == number
        assert np.all(counts[here] == 1 + tasks.SUFFIXES[form])
        assert np.all(chosen[here] == tasks.FIRST_LABEL + int(label))


def test_both_tables_are_written(audit, tmp_path, capsys):
    config = dataclasses.replace(CONFIG, output=tmp_path)
    measured = example.finish(config, audit)
    record = json.loads((tmp_path / "entanglement_audit.json").read_text())
    assert record["results"] == measured
    assert (tmp_path / "entanglement_audit.png").exists()
    assert all(np.isfinite(value) for value in measured.values())
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*example.PREDICTORS, *audit.data.names))


def test_rank_correlation_by_hand():
    values = np.array([1.0, 2.0, 3.0, 4.0])
    assert example.rank_correlation(values, np.exp(values)) == pytest.approx(1.0)
    assert example.rank_correlation(values, -(values**3)) == pytest.approx(-1.0)
    assert example.rank_correlation(values, values[[1, 0, 3, 2]]) == pytest.approx(0.6)
    assert example.rank_correlation(np.zeros(4), values) == 0.0


def test_found_by_hand():
    measured = np.array([-5.0, -4.0, 0.0, 1.0])
    assert example.found(np.array([-2.0, 3.0, -1.0, 4.0]), measured, part=0.5) == 0.5
    assert example.found(measured, measured, part=0.5) == 1.0
    # One place is sure and right; three pairs tie for the other, one of them right.
    tied = np.array([-1.0, 0.0, 0.0, 0.0])
    assert example.found(tied, measured, part=0.5) == pytest.approx((1 + 1 / 3) / 2)
    assert example.found(np.zeros(4), measured, part=0.5) == 0.5


def records(count):
    return [
        {"prompt": f"{i}:", "chosen": f" yes {i}", "rejected": " no"}
        for i in range(count)
    ]


def write(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_a_file_of_pairs_is_read(tmp_path):
    tie = {"prompt": "tie:", "chosen": " so", "rejected": " so"}
    path = write(tmp_path / "pairs.jsonl", [*records(12), tie])
    data = example.load(dataclasses.replace(CONFIG, data=path))
    assert data.pairs.tokens.shape == (12, 2, 16)
    chosen = data.pairs.take(slice(None), 0)
    texts = [
        bytes(row[where].tolist()[:-1]).decode()
        for row, where in zip(*map(np.asarray, chosen[:2]), strict=True)
    ]
    assert sorted(texts) == sorted(f" yes {i}" for i in range(12))
    assert not np.any(data.pairs.answer & ~data.pairs.text)


def test_what_cannot_be_ranked_is_refused(tmp_path):
    few = write(tmp_path / "few.jsonl", records(9))
    with pytest.raises(ValueError, match="at least ten pairs, got 9"):
        example.load(dataclasses.replace(CONFIG, data=few))
    with pytest.raises(FileNotFoundError, match="no file"):
        example.load(dataclasses.replace(CONFIG, data=tmp_path / "none.jsonl"))


@pytest.mark.slow
@pytest.mark.parametrize("source", ["file", "documentation"])
def test_text_is_audited(tmp_path, source):
    config = dataclasses.replace(CONFIG, length=64, prompt=24)
    if source == "file":
        path = write(tmp_path / "pairs.jsonl", records(30))
        config = dataclasses.replace(config, data=path)
    else:
        config = dataclasses.replace(config, source="documentation")
    measured = example.main(config)
    assert all(np.isfinite(value) for value in measured.values())
