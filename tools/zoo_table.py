"""The page of the zoo: what the rows of `zoo.py` say, as Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatch
from typing import Any

Row = dict[str, Any]
CLOSE = 1e-3
"""Largest difference from the framework, relative to the largest value, that counts as equal."""

NEAR = 0.9
"""Least cosine between gradients of a variant and those of the model that it was made from, where
their feature maps correlate at SAME or more."""

SAME = 0.999

DECIDES = {"gradient": "slope64", "gradcam": "gradcam64"}
"""What may be off by rounding in float32 → the number from float64 that then decides."""

ROUNDING = 2e-3
"""Of a score: two roundings to half precision."""


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
        names = {"gradcam_alike": "Grad-CAM"}
        names |= {"gradient_alike": "gradient"} if row["exporter"] == "fp16" else {}
        close = row.get("alike", 0) >= SAME  # else the variant is another function
        found += [
            f"{n} at a cosine of {row[k]:.2f}"
            for k, n in names.items()
            if close and row.get(k, 1) < NEAR
        ]
        limits = {"split": 1e-2}
        if row.get("ablation_of_score", 1) > ROUNDING:  # else both ways are as fine as the scores
            limits["ablation"] = 1e-2
        return "; ".join(found + _off(row, limits))
    limits = {"split": 1e-4, "ablation": CLOSE}
    asked = ["gradcam", *(["gradient"] if _judged(row) else [])]
    limits |= {what: CLOSE for what in asked if row.get(DECIDES[what], 1) > CLOSE}
    return "; ".join(found + _off(row, limits))


def _held(row: Row) -> bool:
    """Whether there is a gradient of the framework's for the image: a variant has none."""
    return "gradient" in row and "near" not in row


def _judged(row: Row) -> bool:
    """Whether it is known if the image gradient is right: close, or held against float64."""
    found = ("slope64" in row, "double_failed" in row, row.get("gradient", 1) <= CLOSE)
    return _held(row) and any(found)


def _off(row: Row, limits: dict[str, float]) -> list[str]:
    return [f"{k} off by {row[k]:.1e}" for k, most in limits.items() if row.get(k, 0) > most]


def line(row: Row) -> str:
    """One row for the terminal."""
    numbers = [
        f"{k} {row[k]:.0e}" for k in ("split", "ablation", "gradcam", "gradient") if k in row
    ]
    name = f"{row['family']}/{row['model']} {row['exporter']}-{row['opset']}"
    return f"{'ok  ' if good(row) else 'MISS'} {name}: {', '.join(numbers)} {remark(row)}"


def kept(rows: Iterable[Row]) -> list[Row]:
    """The rows in order, each with what the page is made of."""
    rows = sorted(rows, key=lambda r: (r["family"], r["model"], r["exporter"], r["opset"]))
    return [{name: row[name] for name in _KEPT if name in row} for row in rows]


_KEPT = (
    *("family", "model", "exporter", "opset", "date", "framework", "export_error", "failed"),
    *("origin", "batch", "expert_layer", "expert", "layer", "right", "alike", "near", "split"),
    *("ablation", "ablation_of_score", "gradcam", "gradcam64", "gradcam_alike", "gradient", "own"),
    *("slope64", "double_failed", "gradient_alike", "methods", "times", "memory", "bytes", "peak"),
)


def page(rows: Iterable[Row]) -> str:
    """The whole page: the sum of each family, every miss with its reason, and all rows."""
    rows = kept(rows)
    found = [_HEAD, *_summary(rows), *_misses(rows)]
    for family, own in _by(rows, "family").items():
        found += [f"\n## {family}\n", *_lines(_ROW, own)]
    return "\n".join(found) + "\n"


_HEAD = f"""# The zoo

Whole model zoos, exported with random weights (rescaled, so that signals neither die out nor
explode) and explained without a hint. Made by `python tools/zoo.py`, row by row, each model in a
process of its own that may take 8 GiB; a run that was stopped goes on where it was, and the page
has what was run. The column *run* has the days of a family's oldest and newest rows, and
`zoo.jsonl` beside this page the day of each.

- *layer*: the default feature map, and whether it is the one that an expert names (*expert's*).
  Told by its values; of a quantised variant, by no tensor in the file being more like the expert's.
- *split*: head(features(x)) against the model. *ablation*: exact against literal Ablation-CAM.
  *Grad-CAM*, *gradient*: against the framework's own autograd, the latter for the image. All are
  the largest difference over the largest value, the median of three pictures; up to {CLOSE:g} is
  equal.
- In float32 a rectifier within rounding of zero may fall to either side and turn a whole gradient.
  In brackets stands what that does to the framework itself, its float32 against its float64. Where
  Grad-CAM or the gradient is off by more than {CLOSE:g}, the same graph is therefore run in
  float64: the number behind the stroke, which decides. There the map of Grad-CAM is held against
  the framework's in float64, the gradient against differences of the model's own score.
- *methods*: how many of all methods can explain the model, and those that cannot (`inspect` says
  why). *time*, *memory*: Ablation-CAM over plain inference of one picture on one thread; memory is
  the peak including all that is done to load, analyse and compile.
- A variant (quantised, half precision) is another function than its full model, the more so with
  random weights; its Grad-CAM is held against the full model's by their cosine, and only where
  the feature maps correlate at {SAME:g} or more. The image gradient of a quantised one has nothing
  to be held against: ties between few levels lead it elsewhere.
"""


def _ran(row: Row) -> bool:
    return not ({"load", "check"} & {*row.get("failed", {"load": ""})})


def _differentiable(row: Row) -> bool:
    return _ran(row) and not ({"grad-cam", "saliency", "gradients"} & {*row["failed"]})


def _summary(rows: Sequence[Row]) -> list[str]:
    return _lines(_SUM, [*_by(rows, "family").items(), ("all", rows)])


Family = tuple[str, Sequence[Row]]


def _share(part: Callable[[Row], bool], of: Callable[[Row], bool]) -> Callable[[Family], str]:
    def cell(family: Family) -> str:
        asked = [row for row in family[1] if of(row)]
        return f"{sum(map(part, asked))} of {len(asked)}"

    return cell


_SUM: dict[str, Callable[[Family], str]] = {
    "family": lambda f: f[0],
    "models": lambda f: str(len({(r["family"], r["model"]) for r in f[1]})),
    "exported": _share(lambda r: "export_error" not in r, lambda r: True),
    "explained": _share(_ran, lambda r: "export_error" not in r),
    "expert's layer": _share(lambda r: r["right"], lambda r: "right" in r),
    "differentiable": _share(_differentiable, lambda r: "export_error" not in r),
    "gradient equal": _share(lambda r: "gradient off" not in remark(r), _judged),
    "exporter told": _share(lambda r: bool(r["origin"]), lambda r: "origin" in r),
    "run": lambda f: " to ".join(sorted({d(r["date"] for r in f[1]) for d in (min, max)})),
}


def _misses(rows: Sequence[Row]) -> list[str]:
    """Every row that is not right with its reason, and what the framework could not export."""
    refused = [row for row in rows if "export_error" in row]
    made = [row for row in rows if "export_error" not in row]
    found = ["\n## Misses\n", *(_reasons(made) or ["None."])]
    return [*found, "\n## Not exported\n", *_reasons(refused)] if refused else found


def _reasons(rows: Sequence[Row]) -> list[str]:
    """What is wrong with those that are not right; exports of a model with one reason share it."""
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        if not good(row):
            what = (row["family"], row["model"], _reason(row))
            reasons.setdefault(what, []).append(f"{row['exporter']} {row['opset']}")
    undecided = {(r["family"], r["model"]) for r in rows if "double_failed" in r}
    return [f"- {family} `{model}` ({', '.join(exports)}): {why}"
            f"{_looked_into(family, model, (family, model) in undecided)}"
            for (family, model, why), exports in reasons.items()]  # fmt: skip


def _looked_into(family: str, model: str, undecided: bool) -> str:
    found = [why for name, why in LOOKED_INTO.items() if fnmatch(f"{family} {model}", name)]
    if undecided:
        found.append("The check in float64, which would decide, takes too much memory or time.")
    return f" **{found[0]}**" if found else ""


LOOKED_INTO = {
    "timm efficientvim_m1": "Every stage has a classifier of its own: the last map that all ways "
    "to the score pass is the first stage's.",
    "torchvision vit_h_14": "Its weights alone are 2.5 GB, of which the check needs four copies; "
    "one explanation, Ablation-CAM or Grad-CAM, takes 7 GiB.",
    "keras.applications VGG16": "tf2onnx holds the weights many times over while it converts: of "
    "the 0.55 GB of this one it makes 13.5 GiB.",
    "timm *nas*large": "Its own float32 gradient is off as far; the check in float64 takes "
    "more than 8 GiB.",
}
"""What is known about misses, by family and model."""


def _reason(row: Row) -> str:
    plain = re.sub(r"\x1b?\[\d+m", "", remark(row))  # colours of a terminal
    why = " ".join(plain.replace("|", "/").split()).removeprefix("not exported: ")
    return why if len(why) <= LONGEST else f"{why[:LONGEST]} …"


LONGEST = 200
"""Characters of a reason."""


def _lines(columns: Mapping[str, Callable[[Any], str]], things: Iterable[Any]) -> list[str]:
    """A table of a row for each thing."""
    lines = [[*columns], ["---"] * len(columns)]
    lines += [[cell(thing) for cell in columns.values()] for thing in things]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _value(name: str) -> Callable[[Row], str]:
    """A number, and behind a stroke the one that decides in its place."""
    names = [name, *([DECIDES[name]] if name in DECIDES else [])]
    return lambda row: " / ".join(f"{row[n]:.0e}" for n in names if n in row)


def _layer(row: Row) -> str:
    if "layer" not in row:
        return ""
    layer, told = row["layer"], {True: "", False: " **no**"}
    shape = "×".join(map(str, [layer["units"], *layer["grid"]]))
    return f"`{layer['tensor']}` {shape}{told.get(row.get('right', True))}"


def _gradient(row: Row) -> str:
    return _value("gradient")(row) + (f" ({row['own']:.0e})" if "own" in row else "")


def _methods(row: Row) -> str:
    if "methods" not in row:
        return ""
    cannot = [name for name, why in row["methods"].items() if why]
    many = len(row["methods"])
    return f"{many - len(cannot)} of {many}" + (f", not {', '.join(cannot)}" if cannot else "")


def _ratio(number: float | None) -> str:
    return "" if number is None else f"{number:.2f}"


def _verdict(row: Row) -> str:
    if not good(row):
        return "no"
    return "gradient not judged" if _held(row) and not _judged(row) else "yes"


_ROW: dict[str, Callable[[Row], str]] = {
    "model": lambda r: r["model"],
    "export": lambda r: f"{r['exporter']} {r['opset']}",
    "layer": _layer,
    "expert's": lambda r: f"`{r['expert_layer']}`",
    "split": _value("split"),
    "ablation": _value("ablation"),
    "Grad-CAM": _value("gradcam"),
    "gradient": _gradient,
    "methods": _methods,
    "time": lambda r: _ratio(r.get("times", {}).get("ablation-cam")),
    "memory": lambda r: _ratio(r.get("memory")),
    "right": _verdict,
}


def _by(rows: Iterable[Row], name: str) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row[name], []).append(row)
    return found
