"""The sanity checks in the report: verdicts, plots and a table for each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onnxcam.evaluate.markup import NOTHING, Study, counted, known, number, table, text
from onnxcam.evaluate.plots import curve_figure
from onnxcam.evaluate.similarity import TITLES

MODES = {
    "cascading": (
        "Layers randomised one after the other",
        "From the output on, each layer together with all before it (cascading). A method that "
        "says what the model has learnt cannot keep its maps.",
    ),
    "independent": (
        "Each layer randomised alone",
        "One layer at a time, the others as they were (independent).",
    ),
}
"""By mode: the heading, and what was done."""
UP = "likeness to the model's own maps"


def section(study: Study) -> str:
    """The sanity checks of a study as HTML, nothing where there are none.

    Args:
        study: see `report.page`; its `sanity` holds `Sanity.facts()` of each method, mode and
            model. Checks of one model and mode are of the same layers.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for check in study.get("sanity", ()):
        groups.setdefault((check["model"], check["mode"]), []).append(check)
    several = len(study["models"]) > 1
    return "\n".join(
        _group(study, checks, several) for checks in groups.values() if checks[0]["steps"]
    )


def _group(study: Study, checks: Sequence[Mapping[str, Any]], several: bool) -> str:
    first = checks[0]
    heading, done = MODES[first["mode"]]
    on = f" ({text(first['model'])})" if several else ""
    return (
        f"<h3>{heading}{on}</h3>\n"
        f"<p>{done} The maps of {counted(first['pictures'], 'picture')} are compared with those of "
        f"the model itself, at {len(first['steps'])} of {first['layers']} layers; bands are one "
        "standard error wide on either side. “Same class” counts the pictures that the model "
        "still puts where it did, “blank” the maps that are the same everywhere.</p>\n"
        f'<ul class="verdicts">{"".join(map(_verdict, checks))}</ul>\n'
        f'<div class="plots">{"".join(_plots(study, checks))}</div>\n'
        + "\n".join(_steps(study, check) for check in checks)
    )


def _verdict(check: Mapping[str, Any]) -> str:
    kind = ' class="wrong"' if check["notices"] is False else ""
    return f"<li{kind}>{text(check['verdict'])}</li>"


def _plots(study: Study, checks: Sequence[Mapping[str, Any]]) -> list[str]:
    """A plot for each measure, a line for each method in the colour of its curves."""
    place = {method["name"]: index for index, method in enumerate(study["methods"])}
    names = [step["layer"] for step in checks[0]["steps"]]
    figures = []
    for measure, title in TITLES.items():
        lines = []
        for check in checks:
            found = [step["alike"][measure] for step in check["steps"]]
            means = [one["mean"] for one in found]
            errors = [one["error"] or 0.0 for one in found]
            pairs = list(zip(means, errors, strict=True))
            line = {
                "x": list(range(len(found))),
                "y": means,
                "low": [None if m is None else max(m - e, -1.0) for m, e in pairs],
                "high": [None if m is None else min(m + e, 1.0) for m, e in pairs],
            }
            index = place.setdefault(check["method"], len(place))
            lines.append((index, _title(study, check["method"]), line))
        figures.append(curve_figure(checks[0]["mode"], text(_capital(title)), lines, names, UP))
    return figures


def _title(study: Study, method: str) -> str:
    return next((text(m["title"]) for m in study["methods"] if m["name"] == method), text(method))


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _steps(study: Study, check: Mapping[str, Any]) -> str:
    """The numbers of a method, folded away."""
    columns = ["Random layers", *map(_capital, TITLES.values()), "Same class", "Blank", "Failed"]
    heads = ['<th scope="col">Layer</th>']
    heads += [f'<th scope="col" class="n">{text(name)}</th>' for name in columns]
    rows = ["<tbody>"]
    for step in check["steps"]:
        cells = [_alike(step["alike"].get(measure)) for measure in TITLES]
        cells += [text(step[key]) for key in ("kept", "blank", "failed")]
        rows.append(
            f'<tr><th scope="row">{text(step["layer"])}</th><td class="n">{step["randomised"]}</td>'
            + "".join(f'<td class="n">{cell}</td>' for cell in cells)
            + "</tr>"
        )
    rows.append("</tbody>")
    if any(known(one.get("mean")) for one in check["unrelated"].values()):
        cells = [_alike(check["unrelated"].get(measure)) for measure in TITLES]
        rows.append(
            '<tfoot><tr><th scope="row">the model itself, maps of different pictures</th>'
            '<td class="n">0</td>' + "".join(f'<td class="n">{cell}</td>' for cell in cells)
            + f'<td class="n">{NOTHING}</td>' * 3 + "</tr></tfoot>"
        )  # fmt: skip
    title = _title(study, check["method"])
    shown = table(heads, rows, "steps", f"Sanity check of {title}, {check['mode']}")
    return f"<details><summary>{title}, layer by layer</summary>{shown}</details>"


def _alike(found: Mapping[str, Any] | None) -> str:
    """A mean with its standard error."""
    if found is None or not known(found["mean"]):
        return NOTHING
    error = f" <small>± {number(found['error'])}</small>" if known(found["error"]) else ""
    return number(found["mean"]) + error
