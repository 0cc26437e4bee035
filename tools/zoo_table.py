"""The page of the zoo: what the rows of `zoo.py` say, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Row = dict[str, Any]
CLOSE = 1e-3
"""Largest difference from the framework, relative to the largest value, that counts as equal."""

NEAR = 0.9
"""Least cosine between gradients of a variant and those of the model that it was made from, where
their feature maps correlate at SAME or more."""

SAME = 0.999


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
    if row.get("near"):
        names = {"gradcam_alike": "Grad-CAM", "gradient_alike": "gradient"}
        close = row.get("alike", 0) >= SAME  # else the variant is another function
        found += [
            f"{n} at a cosine of {row[k]:.2f}"
            for k, n in names.items()
            if close and row.get(k, 1) < NEAR
        ]
        limits = {"split": 1e-2, "ablation": 1e-2}
        return "; ".join(found + _off(row, limits))
    limits = {"split": 1e-4, "ablation": CLOSE, "gradcam": CLOSE}
    if row.get("slope64", 1) > CLOSE:  # else it is rounding in float32, and the rules are right
        limits["gradient"] = CLOSE
    return "; ".join(found + _off(row, limits))


def _off(row: Row, limits: dict[str, float]) -> list[str]:
    return [f"{k} off by {row[k]:.1e}" for k, most in limits.items() if row.get(k, 0) > most]


def line(row: Row) -> str:
    """One row for the terminal."""
    numbers = [
        f"{k} {row[k]:.0e}" for k in ("split", "ablation", "gradcam", "gradient") if k in row
    ]
    name = f"{row['family']}/{row['model']} {row['exporter']}-{row['opset']}"
    return f"{'ok  ' if good(row) else 'MISS'} {name}: {', '.join(numbers)} {remark(row)}"


def page(rows: Sequence[Row]) -> str:
    """The whole page: what was run, family by family, and what is wrong with each miss."""
    rows = sorted(rows, key=lambda r: (r["family"], r["model"], r["exporter"], r["opset"]))
    found = [_HEAD, *_summary(rows)]
    for family, own in _by(rows, "family").items():
        found += [f"\n## {family}\n", _COLUMNS, "|---|---|---|---|---|---|---|---|---|"]
        found += [_row(row) for row in own]
    return "\n".join(found) + "\n"


_HEAD = f"""# The zoo

Made by `tools/zoo.py`, row by row; it goes on where it was stopped, and this page has what was run
so far. Weights are random, rescaled so that signals neither die out nor explode. *Layer* says
whether the default feature map has the values of the one that an expert names. *Split* is
head(features(x)) against the model, *ablation* the exact against the literal way, *Grad-CAM* and
*gradient* (for the image) are held against the framework's own autograd, in float64 where the model
is not too large; all are largest differences over the largest value, the median of three pictures.
Up to {CLOSE:g} counts as equal. In float32 a rectifier within rounding of zero may fall to either
side and turn a whole gradient; what that does in the framework itself, its float32 against its
float64, stands in brackets. Where the gradient is off by more than {CLOSE:g}, it is therefore held
against differences of the same graph in float64 (the number behind the stroke), and counts if that
agrees. *Time* is an Ablation-CAM explanation over plain inference, on one thread.
"""

_COLUMNS = (
    "| model, export | expert's layer | layer | split | ablation | Grad-CAM "
    "| gradient / by differences (framework's float32) | time | miss |"
)


def _summary(rows: Sequence[Row]) -> list[str]:
    lines = ["| family | models | exports | explained | right layer | gradient equal |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for family, own in _by(rows, "family").items():
        made = [r for r in own if "export_error" not in r]
        ran = [r for r in made if "load" not in r["failed"] and "check" not in r["failed"]]
        right = [r for r in ran if r.get("right")]
        equal = [r for r in ran if "gradient" in r and "gradient off" not in remark(r)]
        models = len(_by(own, "model"))
        cells = (family, models, len(made), len(ran), len(right), len(equal))
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def _row(row: Row) -> str:
    name = f"{row['model']}, {row['exporter']} {row['opset']}"
    values = [f"{row[k]:.0e}" if k in row else "" for k in ("split", "ablation", "gradcam")]
    gradient = f"{row['gradient']:.0e}" if "gradient" in row else ""
    gradient += f" / {row['slope64']:.0e}" if "slope64" in row else ""
    gradient += f" ({row['own']:.0e})" if "own" in row else ""
    times = row.get("times", {}).get("ablation-cam")
    layer = {True: "yes", False: "no"}.get(row.get("right"), "")  # type: ignore[arg-type]
    miss = remark(row).replace("|", "/")[:160]
    cells = [name, f"`{row['expert_layer']}`", layer, *values, gradient,
             f"{times:.2f}" if times else "", miss]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _by(rows: Iterable[Row], name: str) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row[name], []).append(row)
    return found
