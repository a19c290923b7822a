"""A claim of a paper beside what was measured, and the report of many."""

import html
from collections.abc import Sequence
from typing import Literal, NamedTuple

import _common as common
import _plots as plots
from matplotlib.figure import Figure


class Claim(NamedTuple):
    """One row of the tour.

    Attributes:
      system: the part of jaxkit it belongs to.
      statement: what is claimed.
      theory: the value by theory.
      measured: the value found.
      tolerance: how far apart they may be.
      kind: whether the tolerance is relative, absolute, or an upper `bound` on the
        measured value as a multiple of the theory.
    """

    system: str
    statement: str
    theory: float
    measured: float
    tolerance: float
    kind: Literal["relative", "absolute", "bound"] = "relative"

    @property
    def passed(self) -> bool:
        """Whether the measurement is close enough; NaN never is."""
        gap = abs(self.measured - self.theory)
        if self.kind == "bound":
            return bool(self.measured <= self.tolerance * self.theory)
        scale = abs(self.theory) if self.kind == "relative" else 1.0
        return bool(gap <= self.tolerance * scale)

    @property
    def criterion(self) -> str:
        """The tolerance in words."""
        if self.kind == "bound":
            return f"at most {self.tolerance:g} x theory"
        if self.kind == "relative":
            return f"within {100 * self.tolerance:.2g} %"
        return f"within {self.tolerance:.2g}"

    @property
    def verdict(self) -> str:
        """Pass or fail."""
        return "pass" if self.passed else "FAIL"


class Picture(NamedTuple):
    """A figure with its caption."""

    caption: str
    figure: Figure


COLUMNS = ("system", "claim", "theory", "measured", "tolerance", "verdict")


def cells(claim: Claim) -> tuple[str, ...]:
    """Gives the row of a claim as text."""
    numbers = (f"{claim.theory:.6g}", f"{claim.measured:.6g}")
    return claim.system, claim.statement, *numbers, claim.criterion, claim.verdict


def print_claims(title: str, claims: Sequence[Claim]) -> None:
    """Prints one row per claim."""
    failed = sum(not claim.passed for claim in claims)
    caption = f"{len(claims) - failed} of {len(claims)} claims pass"
    common.print_table(title, COLUMNS, [cells(c) for c in claims], caption=caption)


STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5b6470; --line: #d8dee4;
  --page: #fbfbfa; --card: #ffffff; --good: #0b6b3a; --goodbg: #dff3e6;
  --bad: #a11212; --badbg: #fbe0e0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a4adb8;
  --line: #343b44; --page: #15181c; --card: #1d2126; --good: #8fe0b0;
  --goodbg: #173725; --bad: #ff9d9d; --badbg: #4a1d1d; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
p { color: var(--soft); margin: .25rem 0; }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line);
  border-radius: .6rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { padding: .5rem .8rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
tr:last-child td { border-bottom: 0; }
th { font-weight: 600; color: var(--soft); white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.badge { border-radius: 1rem; padding: .1rem .65rem; font-weight: 600;
  font-size: .8rem; }
.pass { color: var(--good); background: var(--goodbg); }
.fail { color: var(--bad); background: var(--badbg); }
figure { margin: 0 0 1.5rem; background: var(--card); border: 1px solid var(--line);
  border-radius: .6rem; overflow: hidden; }
figure img { display: block; width: 100%; background: #ffffff; }
figcaption { padding: .7rem 1rem; color: var(--soft); font-size: .9rem;
  border-top: 1px solid var(--line); }
"""


def to_html(
    title: str, subtitle: str, claims: Sequence[Claim], pictures: Sequence[Picture]
) -> str:
    """Writes one HTML page that needs no other file and no network."""
    failed = sum(not claim.passed for claim in claims)
    state = "fail" if failed else "pass"
    summary = f"{len(claims) - failed} of {len(claims)} claims pass"
    head = "".join(
        f'<th class="number">{name}</th>'
        if name in COLUMNS[2:4]
        else f"<th>{name}</th>"
        for name in COLUMNS
    )
    rows = "\n".join(_row(claim) for claim in claims)
    shown = "\n".join(
        f'<figure><img alt="{html.escape(picture.caption)}" '
        f'src="data:image/png;base64,{plots.to_png(picture.figure)}">'
        f"<figcaption>{html.escape(picture.caption)}</figcaption></figure>"
        for picture in pictures
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{html.escape(title)}</h1>
<p>{html.escape(subtitle)}</p>
<p><span class="badge {state}">{summary}</span></p>
<h2>Claims</h2>
<div class="scroll"><table>
<thead><tr>{head}</tr></thead>
<tbody>
{rows}
</tbody>
</table></div>
<h2>Figures</h2>
{shown}
</main>
</body>
</html>
"""


def _row(claim: Claim) -> str:
    texts = [html.escape(text) for text in cells(claim)]
    columns = [
        f'<td class="number">{text}</td>' if 2 <= i < 4 else f"<td>{text}</td>"
        for i, text in enumerate(texts[:-1])
    ]
    state = "pass" if claim.passed else "fail"
    badge = f'<td><span class="badge {state}">{texts[-1]}</span></td>'
    return f'<tr class="claim">{"".join(columns)}{badge}</tr>'
