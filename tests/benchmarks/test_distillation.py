"""The programs of a case compute one thing, and the table of errors has its order."""

import jax
import numpy as np
import pytest

from benchmarks import distillation, ridge_accuracy
from benchmarks._harness import Case


def agree(case: Case) -> None:
    programs = [program for program in case.build() if program.same]
    results = [jax.tree.leaves(program.run()) for program in programs]
    assert len(results) > 1
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_allclose(b, a, rtol=case.tolerance, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("title", ["ridge", "conv NTK", "KRR-ST step"])
def test_the_programs_of_a_case_agree(title):
    cases = distillation.cases("small", max_length=6)
    agree(next(case for case in cases if case.title.startswith(title)))


@pytest.mark.slow
def test_the_stable_method_has_the_smallest_error(capsys):
    errors = ridge_accuracy.main([(50, 20, "trace")])
    worst = {
        method: max(errors[f"50, 20, trace, {method}"]) for method in ("cholesky", "qr")
    }
    assert worst["qr"] < 1e-4
    assert worst["cholesky"] > 10 * worst["qr"]
    assert "| 50 | 20 | trace |" in capsys.readouterr().out
