"""Drawings of the report, as SVG within its page; classes of its style give the colours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from onnxcam.diagram import shortened
from onnxcam.evaluate.markup import text

COLOURS = 7
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "12 4")  # no divisor of COLOURS: 42 different lines
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 290, 56, 14, 12, 46
KINDS = {
    "insertion": ("Insertion", "share of pixels put in"),
    "deletion": ("Deletion", "share of pixels taken away"),
    "most": ("ROAD, most relevant first", "share of pixels removed"),
    "least": ("ROAD, least relevant first", "share of pixels removed"),
    "road": ("ROAD", "share of pixels removed"),
    "cascading": ("", "layers randomised, each with all to its left"),
    "independent": ("", "the layer randomised, alone"),
}
"""By the first part of a curve's name, "insertion" of "insertion-blur": how its title begins, and
what its horizontal axis counts."""
NAMES, MOST_NAME = 96, 16
"""What names along the horizontal axis take, and how many of their characters are shown."""

Line = tuple[int, str, Mapping[str, Any]]
"""The method's place among all, its title as HTML, and its curve."""


def whisker(low: float, mean: float, high: float, least: float, most: float) -> str:
    """An interval and its mean as a line with a dot, on a scale from `least` to `most`."""
    width, room = 96.0, 4.0

    def at(value: float) -> float:
        share = (value - least) / (most - least) if most > least else 0.5
        return room + (width - 2 * room) * share

    return (
        f'<svg width="{width:g}" height="10" viewBox="0 0 {width:g} 10" aria-hidden="true">'
        f'<path class="whisker" d="M{at(low):.1f} 5H{at(high):.1f}"/>'
        f'<circle class="dot" cx="{at(mean):.1f}" cy="5" r="3"/></svg>'
    )


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers in equal steps, from the last one ≤ `low` to the first one ≥ `high`."""
    if not high > low:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    raw = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def curve_title(name: str) -> str:
    """ "insertion-blur" as people call it."""
    kind, _, rest = name.partition("-")
    first = KINDS[kind][0] if kind in KINDS else kind[:1].upper() + kind[1:]
    return f"{first} ({rest.replace('-', ' ')})" if rest else first


def curve_figure(
    name: str, title: str, lines: Sequence[Line], names: Sequence[str] = (), up: str = ""
) -> str:
    """One plot: a line for each method with its interval as a band, axes, and a legend.

    Args:
        name: of the curve; says what the horizontal axis counts.
        title: of the plot, as HTML.
        lines: what is drawn; numbers that are None or NaN are gaps.
        names: of the places 0, 1, … on a horizontal axis that counts nothing; a dot marks each
            value, and the vertical axis reaches 1.
        up: what the vertical axis counts; the mean probability unless it is said.

    Returns:
        A figure element, or nothing where there is no point to draw.
    """
    points = {i: _points(curve) for i, _, curve in lines}
    drawn = [(i, label, curve) for i, label, curve in lines if points[i]]
    if not drawn:
        return ""
    every = [point for i, _, _ in drawn for run in points[i] for point in run]
    heights = [value for _, *values in every for value in values]
    xs = ticks(min(x for x, *_ in every), max(x for x, *_ in every))
    ys = ticks(min(0.0, *heights), max(1.0 if names else 0.0, *heights))
    left, right = (-0.5, len(names) - 0.5) if names else (xs[0], xs[-1])

    def px(x: float) -> str:
        return f"{LEFT + (x - left) / (right - left) * (WIDTH - LEFT - RIGHT):.1f}"

    def py(y: float) -> str:
        return f"{HEIGHT - BOTTOM - (y - ys[0]) / (ys[-1] - ys[0]) * (HEIGHT - TOP - BOTTOM):.1f}"

    parts = []
    for y in ys:
        parts.append(f'<path class="grid" d="M{LEFT} {py(y)}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{float(py(y)) + 4:.1f}" text-anchor="end">'
                     f"{_tick(y)}</text>")  # fmt: skip
    for x in range(len(names)) if names else xs:
        parts.append(f'<path class="axis" d="M{px(x)} {HEIGHT - BOTTOM}v5"/>')
        parts.append(_named(px(x), names[int(x)]) if names else
                     f'<text x="{px(x)}" y="{HEIGHT - BOTTOM + 19}" text-anchor="middle">'
                     f"{_tick(x)}</text>")  # fmt: skip
    parts.append(f'<path class="axis" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    for i, _, _ in drawn:
        for run in points[i]:
            edge = [(x, high) for x, _, _, high in run] + [(x, low) for x, _, low, _ in run[::-1]]
            path = "L".join(f"{px(x)} {py(y)}" for x, y in edge)
            parts.append(f'<path class="band c{i % COLOURS}" d="M{path}Z"/>')
    for i, label, _ in drawn:
        for run in points[i]:
            path = "L".join(f"{px(x)} {py(y)}" for x, y, _, _ in run)
            parts.append(f'<path class="curve c{i % COLOURS}"{_dash(i)} d="M{path}">'
                         f"<title>{label}</title></path>")  # fmt: skip
            parts += [f'<circle class="c{i % COLOURS}" cx="{px(x)}" cy="{py(y)}" r="3">'
                      f"<title>{label}, {text(names[int(x)])}: {y:.2f}</title></circle>"
                      for x, y, _, _ in run if names]  # fmt: skip
    counted = KINDS.get(name.partition("-")[0], ("", "share of pixels replaced"))[1]
    middle = (TOP + HEIGHT - BOTTOM) / 2
    height = HEIGHT + (NAMES if names else 0)
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2:g}" y="{height - 8}" '
                 f'text-anchor="middle">{counted}</text>')  # fmt: skip
    parts.append(f'<text transform="translate(14 {middle:g}) rotate(-90)" '
                 f'text-anchor="middle">{up or "mean probability"}</text>')  # fmt: skip
    legend = "".join(
        f'<li><svg viewBox="0 0 30 10" aria-hidden="true"><path class="curve c{i % COLOURS}"'
        f'{_dash(i)} d="M0 5H30"/></svg>{label}</li>'
        for i, label, _ in drawn
    )
    who = ", ".join(label for _, label, _ in drawn)
    said = f"{title}: {up or 'mean class score'} over {counted}, for {who}"
    return (
        f"<figure><figcaption>{title}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{said}">{"".join(parts)}</svg>'
        f'<ul class="legend">{legend}</ul></figure>'
    )


def _named(x: str, name: str) -> str:
    """A name below the horizontal axis; of a long one the whole is its tip."""
    return (
        f'<text transform="translate({float(x) + 4:.1f} {HEIGHT - BOTTOM + 14}) rotate(-55)" '
        f'text-anchor="end"><title>{text(name)}</title>{text(shortened(name, MOST_NAME))}</text>'
    )


def _dash(i: int) -> str:
    dash = DASHES[i % len(DASHES)]
    return f' stroke-dasharray="{dash}"' if dash else ""


def _points(curve: Mapping[str, Any]) -> list[list[tuple[float, float, float, float]]]:
    """Runs of x, y and the ends of y's interval without a gap; no interval is one of no width."""
    x, y = curve["x"], curve["y"]
    low, high = (curve.get(key) or [None] * len(y) for key in ("low", "high"))
    found = []
    for at, mean, *ends in zip(x, y, low, high, strict=True):
        least, most = (mean if end is None or not math.isfinite(end) else end for end in ends)
        whole = all(value is not None and math.isfinite(value) for value in (at, mean))
        found.append((at, mean, least, most) if whole else None)
    runs = groupby(found, key=lambda point: point is not None)
    return [[point for point in run if point is not None] for held, run in runs if held]


def _tick(value: float) -> str:
    return f"{value:g}".replace("-", "−")
