"""Draws sanity checks as one SVG: a panel for each measure, a line for each method."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence

from onnxcam.diagram import EM, escaped, shortened
from onnxcam.errors import OptionError
from onnxcam.evaluate.sanity import Alike, Sanity
from onnxcam.evaluate.similarity import TITLES

WIDTH, MARGIN, LEFT = 860, 24, 70  # of the page; its border; what the scale takes
HIGH, BETWEEN, NAMES, LINE = 190, 46, 140, 18  # a panel; above each; layer names; a line of text
MOST_NAME, SIZE, INDENT = 20, 11, 16  # characters of a layer's name; its font; of further lines

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7f3fbf", "#666666")
"""Of Okabe & Ito's palette, which the colour-blind can tell apart, two of them darkened."""
DASHES = ("none", "6 3", "2 3")
"""Of the lines, once the colours are used up."""

_STYLE = """
text { font: 12px ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace; fill: #1f2328; }
.page { fill: #ffffff; }
.title { font-size: 17px; font-weight: bold; }
.head { font-weight: bold; }
.faint { fill: #59636e; font-size: 11px; }
.grid { stroke: #e4e8ec; }
.zero { stroke: #818b98; }
.line { fill: none; stroke-width: 2; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; }
.page { fill: #0d1117; }
.faint { fill: #9198a1; }
.grid { stroke: #262c36; }
.zero { stroke: #656c76; }
}
"""


def plot(checks: Sequence[Sanity], title: str = "Sanity checks: randomised weights") -> str:
    """The SVG of checks of several methods on one model: likeness by layer, with standard errors.

    Left is the output, right the input of the model. Steps at which nothing could be compared leave
    a gap in the line. The verdicts stand below.

    Args:
        checks: of one model, one mode, and the same layers.
        title: the first line.

    Raises:
        OptionError: there are none, or they are not about the same layers.
    """
    if not checks:
        raise OptionError("there is no sanity check to be drawn; give at least one")
    first = checks[0]
    layers = [step.layer for step in first.steps]
    for other in checks[1:]:
        if (other.mode, [s.layer for s in other.steps]) != (first.mode, layers):
            raise OptionError(
                f"the checks of {first.method} and {other.method} are not about the same layers in "
                "the same mode; draw them apart"
            )
    parts, y = list[str](), MARGIN + 14.0
    parts.append(_text(MARGIN, y, title, "title", size=17))
    sort = "all layers from the output to the one named are random"
    sort = sort if first.mode == "cascading" else "the layer named is random, alone"
    y += LINE + 4
    parts.append(_text(MARGIN, y, f"{first.model}, {first.pictures} pictures; {sort}", "faint"))
    x = float(MARGIN)
    y += LINE + 6
    for number, check in enumerate(checks):
        wide = 34 + (len(check.method) + 3) * 12 * EM
        if x + wide > WIDTH - MARGIN and x > MARGIN:
            x, y = float(MARGIN), y + LINE
        parts.append(
            f'<path class="line" {_stroke(number)} {_dash(number)} d="M{x:g} {y - 4:g}h26"/>'
        )
        parts.append(_text(x + 32, y, check.method))
        x += wide
    places = [_across(i, len(layers)) for i in range(len(layers))]
    for measure, name in TITLES.items():
        y += BETWEEN
        parts.append(_text(LEFT, y - 12, name, "head"))
        parts += _panel(checks, measure, places, y)
        y += HIGH
    for place, layer in zip(places, layers, strict=True):
        shown = _text(0, 0, layer, "faint", MOST_NAME, "end", SIZE)
        parts.append(
            f'<g transform="translate({place + 4:.5g} {y + 14:g}) rotate(-65)">{shown}</g>'
        )
    y += NAMES
    for check in checks:
        lines = textwrap.wrap(check.verdict, int((WIDTH - 2 * MARGIN - INDENT) / (12 * EM)))
        for number, line in enumerate(lines):
            y += LINE
            parts.append(_text(MARGIN + (INDENT if number else 0), y, line))
    height = round(y + MARGIN)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img">\n'
        f"<title>{escaped(title)}</title>\n<style>{_STYLE}</style>\n"
        f'<rect class="page" width="{WIDTH}" height="{height}"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _panel(
    checks: Sequence[Sanity], measure: str, places: Sequence[float], top: float
) -> list[str]:
    """The scale, and for each method its line with bars of one standard error up and down."""
    rows = [[step.alike[measure] for step in check.steps] for check in checks]
    ends = [a.mean - (a.error or 0) for row in rows for a in row if a.mean is not None]
    low = -0.25 * -(-max(0.0, -min(ends, default=0.0)) // 0.25)
    low = max(low, -1.0)

    def down(value: float) -> float:
        return top + HIGH * (1 - (min(max(value, low), 1) - low) / (1 - low))

    parts = []
    for quarter in range(round(low * 4), 5):
        at, kind = down(quarter / 4), "grid" if quarter else "zero"
        parts.append(f'<path class="{kind}" d="M{LEFT} {at:.5g}H{WIDTH - MARGIN}"/>')
        parts.append(_text(LEFT - 8, at + 4, f"{quarter / 4:.2f}", "faint", anchor="end"))
    for number, (check, row) in enumerate(zip(checks, rows, strict=True)):
        parts.append(f"<g {_stroke(number)}><title>{escaped(check.method)}</title>")
        way = _way(row, places, down)
        parts.append(f'<path class="line" {_dash(number)} d="{way}"/>')
        for place, alike in zip(places, row, strict=True):
            if alike.mean is None:
                continue
            at = down(alike.mean)
            tip = f"{alike.mean:.2f} ± {alike.error or 0:.2f}, {alike.count} pictures"
            if alike.error:
                ends_at = down(alike.mean + alike.error), down(alike.mean - alike.error)
                parts.append(f'<path d="M{place:.5g} {ends_at[0]:.5g}V{ends_at[1]:.5g}"/>')
            parts.append(
                f'<circle cx="{place:.5g}" cy="{at:.5g}" r="2.5"><title>{tip}</title></circle>'
            )
        parts.append("</g>")
    return parts


def _way(row: Sequence[Alike], places: Sequence[float], down: Callable[[float], float]) -> str:
    """The path of a line, broken where nothing could be compared."""
    way, pen = "", "M"
    for place, alike in zip(places, row, strict=True):
        if alike.mean is None:
            pen = "M"
            continue
        way += f"{pen}{place:.5g} {down(alike.mean):.5g}"
        pen = "L"
    return way


def _across(number: int, of: int) -> float:
    return LEFT + 14 + (WIDTH - MARGIN - LEFT - 28) * (number / max(of - 1, 1))


def _stroke(number: int) -> str:
    colour = COLOURS[number % len(COLOURS)]
    return f'stroke="{colour}" fill="{colour}"'


def _dash(number: int) -> str:
    return f'stroke-dasharray="{DASHES[number // len(COLOURS) % len(DASHES)]}"'


def _text(
    x: float, y: float, text: str, kind: str = "", most: int = 0, anchor: str = "start",
    size: int = 12,
) -> str:  # fmt: skip
    """A line of text, shortened to `most` characters, or to the page; then all of it is its tip."""
    shown = shortened(text, most or int((WIDTH - x - MARGIN) / (size * EM)))
    tip = f"<title>{escaped(text)}</title>" if shown != text else ""
    return (
        f'<text class="{kind}" x="{x:.5g}" y="{y:.5g}" text-anchor="{anchor}">{tip}'
        f"{escaped(shown)}</text>"
    )
