"""The programs of a case compute one thing, and the table of errors has its order."""

import jax
import numpy as np
import pytest

from benchmarks import distillation, ridge_accuracy
from benchmarks._harness import Case


def agree(case: Case) -> None:
    results = [jax.tree.leaves(program.run()) for program in case.build()]
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_ridge_regressions_agree():
    case, *_ = distillation.cases("small", max_length=6)
    agree(case)


@pytest.mark.slow
def test_the_stable_method_has_the_smallest_error(capsys):
    errors = ridge_accuracy.main([(50, 20, "trace")])
    worst = {
        method: max(errors[f"50, 20, trace, {method}"]) for method in ("cholesky", "qr")
    }
    assert worst["qr"] < 1e-4
    assert worst["cholesky"] > 10 * worst["qr"]
    assert "| 50 | 20 | trace |" in capsys.readouterr().out
