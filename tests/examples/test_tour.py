import base64
import html.parser
import subprocess
import sys

import _claims as claims
import _plots as plots
import _tour_distillation
import _tour_entanglement
import _tour_hypersphere
import _tour_mesa
import _tour_preference
import pytest
import tour
from _claims import Claim, Picture

GOOD = Claim("toy", "two & two <is> four", 4.0, 4.01, 0.01)
BAD = Claim("toy", "two and two is five", 5.0, 4.0, 0.01)


def toy_system(*rows: Claim):
    def run(config: tour.Config) -> tuple[list[Claim], list[Picture]]:
        figure, _ = plots.new_figure("toy")
        return list(rows), [Picture("a <toy> figure", figure)]

    return run


class Page(html.parser.HTMLParser):
    """Collects tags, what they refer to, and the cells of the claims."""

    def __init__(self):
        super().__init__()
        self.opened, self.closed, self.links, self.rows = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.opened.append(tag)
        attributes = dict(attrs)
        self.links += [attributes[k] for k in ("src", "href") if k in attributes]
        if attributes.get("class") == "claim":
            self.rows.append("")

    def handle_endtag(self, tag):
        self.closed.append(tag)

    def handle_data(self, data):
        if self.rows:
            self.rows[-1] += data + "|"


def test_criteria():
    absolute = {"kind": "absolute", "theory": 0.0, "tolerance": 1e-3}
    bound = {"kind": "bound", "theory": 2.0, "tolerance": 0.5}
    assert GOOD.passed
    assert not BAD.passed
    assert GOOD._replace(measured=4.0 + 1e-3, **absolute).passed is False
    assert GOOD._replace(measured=-1e-3, **absolute).passed
    assert GOOD._replace(measured=1.0, **bound).passed
    assert not GOOD._replace(measured=1.1, **bound).passed


@pytest.mark.parametrize("kind", ["relative", "absolute", "bound"])
def test_nan_never_passes(kind):
    assert not GOOD._replace(measured=float("nan"), kind=kind).passed


def test_tour_prints_one_row_per_claim_and_counts_failures(monkeypatch, capsys):
    monkeypatch.setitem(tour.SYSTEMS, "toy", toy_system(GOOD, BAD))
    measured = tour.main(tour.Config(systems=("toy", "toy")))
    assert measured["failed"] == 2.0
    assert measured["toy/two and two is five"] == 4.0
    text = capsys.readouterr().out
    assert text.count("FAIL") == 2
    assert text.count("pass") == 2 + 1
    assert "2 of 4 claims pass" in text


def test_unknown_systems_are_refused():
    with pytest.raises(ValueError, match="mesa"):
        tour.main(tour.Config(systems=("unknown",)))


def test_the_page_needs_nothing_else(monkeypatch, tmp_path):
    monkeypatch.setitem(tour.SYSTEMS, "toy", toy_system(GOOD, BAD, GOOD))
    tour.main(tour.Config(systems=("toy",), output=tmp_path / "new"))
    text = (tmp_path / "new" / "tour.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    prefix = "data:image/png;base64,"
    assert [link[: len(prefix)] for link in page.links] == [prefix]
    picture = base64.b64decode(page.links[0][len(prefix) :])
    assert picture.startswith(b"\x89PNG")
    for outside in ("http:", "https:", "url(", "@import", "<script", "<link"):
        assert outside not in text
    assert len(page.rows) == 3
    assert page.rows[0].startswith("toy|two & two <is> four|4|4.01|within 1 %|pass|")
    assert "|FAIL|" in page.rows[1]
    open_only = {"meta", "img"}
    assert sorted(t for t in page.opened if t not in open_only) == sorted(page.closed)
    assert (tmp_path / "new" / "tour.json").exists()


def test_the_exit_code_tells_of_failures():
    assert tour.exit_code({"x": 1.0, "failed": 0.0}) == 0
    assert tour.exit_code({"x": 1.0, "failed": 3.0}) == 1


def test_a_script_runs_from_any_folder(tmp_path):
    command = [sys.executable, tour.__file__, "--help"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "--preset" in result.stdout


def test_exact_claims_pass(x64):
    for claim in (
        _tour_mesa.closed_form(),
        _tour_mesa.corollary(),
        *_tour_preference.theory(),
        _tour_distillation.by_hand(),
        _tour_distillation.derivative(),
        _tour_distillation.infinite_network(),
        *_tour_distillation.toys(),
        _tour_entanglement.coefficients(),
        _tour_entanglement.regimes(),
        _tour_entanglement.flow(),
        _tour_entanglement.output_layer(),
        _tour_hypersphere.two_samples(),
    ):
        assert claim.passed, claim


@pytest.mark.experiment
def test_every_claim_of_the_tour_passes(tmp_path):
    measured = tour.main(tour.Config(output=tmp_path))
    assert measured["failed"] == 0.0
    page = Page()
    page.feed((tmp_path / "tour.html").read_text(encoding="utf-8"))
    assert len(page.rows) == len(measured) - 1 >= 20
    assert len(page.links) >= 5


def test_the_report_is_readable_in_both_schemes():
    page = claims.to_html("title", "subtitle", [GOOD], [])
    assert "prefers-color-scheme: dark" in page
