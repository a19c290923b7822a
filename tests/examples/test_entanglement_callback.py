import json

import jax.numpy as jnp
import pytest
from _entanglement_callback import EntanglementLog

from jaxkit import preference
from jaxkit.entanglement import PairGram

CHOSEN = jnp.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
REJECTED = jnp.array([[2.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
REFS = (jnp.zeros(3), jnp.zeros(3))


def test_a_line_of_json_every_so_many_steps(tmp_path):
    path = tmp_path / "new" / "log.jsonl"
    watch = EntanglementLog(jnp.vdot, preference.dpo_loss, path, every=2)
    for step in range(4):
        due = watch(step, jnp.zeros(2), CHOSEN, REJECTED, *REFS)
        assert (due is None) == bool(step % 2)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == watch.records
    assert [line["step"] for line in lines] == [0, 2]
    third = pytest.approx(1 / 3)
    # (1, 0) against (2, 1), (0, 1) and itself: both down, ideal, nothing moves.
    expected = {"both_down": third, "ideal": third, "undetermined": third}
    regimes = lines[0]["regimes"]
    assert {k: v for k, v in regimes.items() if v} == expected
    assert lines[0]["loss"] == pytest.approx(0.6931472)
    assert lines[0]["cosine"]["0.5"] == pytest.approx(2 / 5**0.5)
    assert lines[0]["chosen share"]["0.5"] == pytest.approx(0.0, abs=1e-6)


def test_a_given_gram_is_used():
    ones = lambda params, chosen, rejected: PairGram(*jnp.ones((3, 3)))
    watch = EntanglementLog(jnp.vdot, preference.dpo_loss, gram=ones)
    record = watch(0, jnp.zeros(2), CHOSEN, REJECTED, *REFS)
    assert record["cosine"]["0.1"] == pytest.approx(1.0)
    assert record["regimes"]["undetermined"] == 1.0


def test_steps_must_be_positive():
    with pytest.raises(ValueError, match="every"):
        EntanglementLog(jnp.vdot, preference.dpo_loss, every=0)
