"""What a more useful program may cost is a goal with an upper bound."""

import pytest

from benchmarks import _report as report
from benchmarks import entanglement
from benchmarks._harness import Result, Work


@pytest.mark.parametrize(("ratio", "verdict"), [(1.1, "met"), (1.3, "not met")])
def test_the_bounds_are_upper_bounds(ratio: float, verdict: str):
    case, *_ = entanglement.cases("small", max_length=None)
    result = Result(
        case=case.title,
        program="gram and gradient",
        ratio=ratio,
        low=ratio,
        high=ratio,
        temp_bytes=None,
        flop_share=0.0,
        byte_share=0.0,
        seconds=1.0,
        work=Work(1.0, 1.0),
    )
    (line,) = report.goal_lines(case, [result])
    assert line.endswith(f"goal at most 1.20x: {verdict}")
