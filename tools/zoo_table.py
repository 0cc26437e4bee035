"""The page of the zoo: what the rows of `zoo.py` say, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Row = dict[str, Any]
CLOSE = 1e-3
"""Largest difference from the framework, relative to the largest value, that counts as equal."""

ROUNDING = 3
"""How many times the framework's own float32 may be off its float64, and ours still count as equal:
a rectifier that rounding flips changes a gradient in one picture or the other."""


def good(row: Row) -> bool:
    """Whether a row is right in everything that was asked of it."""
    return not remark(row)


def remark(row: Row) -> str:
    """What is wrong with a row, in a line; empty where nothing is."""
    if row.get("export_error"):
        return f"not exported: {row['export_error']}"
    failed = [f"{what}: {why}" for what, why in row.get("failed", {}).items()]
    if failed:
        return "; ".join(failed)
    found = []
    if row.get("right") is False:
        layer = row["layer"]
        shape = [layer["units"], *layer["grid"]]
        found.append(f"layer {layer['tensor']} {shape} is not the expert's {row.get('expert')}")
    limits = {"split": 1e-4, "ablation": CLOSE, "gradcam": CLOSE}
    limits["gradient"] = max(CLOSE, ROUNDING * row.get("own", 0))
    found += [f"{k} off by {row[k]:.1e}" for k, most in limits.items() if row.get(k, 0) > most]
    return "; ".join(found)


def line(row: Row) -> str:
    """One row for the terminal."""
    numbers = [
        f"{k} {row[k]:.0e}" for k in ("split", "ablation", "gradcam", "gradient") if k in row
    ]
    name = f"{row['family']}/{row['model']} {row['exporter']}-{row['opset']}"
    return f"{'ok  ' if good(row) else 'MISS'} {name}: {', '.join(numbers)} {remark(row)}"


def page(rows: Sequence[Row]) -> str:
    """The whole page."""
    return ""


def _by(rows: Iterable[Row], name: str) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row[name], []).append(row)
    return found
