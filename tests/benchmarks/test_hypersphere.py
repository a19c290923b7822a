"""The benchmark of many classes runs, and its programs agree."""

from pathlib import Path

import pytest

from benchmarks import __main__ as program


@pytest.mark.slow
def test_programs_agree_on_few_classes(tmp_path: Path):
    arguments = ["--only", "hypersphere", "--max-length", "24", "--seconds", "0.01"]
    out = program.main([*arguments, "--json", str(tmp_path / "results.json")])
    first = out["hypersphere"][0]
    names = {"active set", "streaming", "all cosines", "one product"}
    assert names <= {result.program for result in first}
