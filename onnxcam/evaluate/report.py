"""What an evaluation found as one HTML file that needs nothing but a browser.

The page's frame, style and script are `data/evaluation.html`. Names of files, classes and models
come from other people: they are escaped where they are written, and the page's
Content-Security-Policy runs no script and loads no address but its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from onnxcam.evaluate.gallery import Pictures, gallery
from onnxcam.evaluate.markup import (
    ARROWS,
    NOTHING,
    Study,
    arrow,
    as_json,
    counted,
    digest,
    interval,
    known,
    lasted,
    number,
    sections,
    table,
    text,
)
from onnxcam.evaluate.pairs import method_tests, model_tests
from onnxcam.evaluate.plots import curve_figure, curve_title, whisker
from onnxcam.evaluate.sanity_page import section
from onnxcam.evaluate.statistics import ALPHA
from onnxcam.resources import resource

UNSCRIPTED = "<noscript><p>The pictures are shown by a script.</p></noscript>"


def page(study: Study, pictures: Pictures) -> str:
    """The report of a study.

    Args:
        study: what was found, as plain data: `onnxcam`, `made`, `command`, `models`, `data`,
            `settings`, `metrics`, `methods`, `summary`, `tests`, `selection` and `verdicts` (of
            several models), `bands` (see `bands.bands`), `curves`, `rows`, `failures`,
            `inferences`, `seconds`, `throughput`, and `sanity` (facts of `Sanity`) where weights
            were randomised. Numbers may be None or NaN: nothing was found.
        pictures: gives for the name of a picture and of a method its overlay as JPEG, for the
            method "" the photograph itself; None where there is none. With several models a row
            may say in `overlay` what to ask for in place of the method's name; without it only
            rows of the first model have overlays.

    Returns:
        HTML that can be written as UTF-8, whatever characters the names hold.
    """
    names = [model["name"] for model in study["models"]]
    title = f"Faithfulness of explanations of {', '.join(names)}"
    before = {
        "summary": ("Summary", _summary(study)),
        "selection": ("Models compared", model_tests(study)),
        "metrics": ("Metrics", _metrics(study)),
        "curves": ("Curves", _curves(study)),
        "tests": ("Pairwise tests", method_tests(study)),
        "bands": ("By confidence", _bands(study)),
        "sanity": ("Sanity checks", section(study)),
    }
    after = {
        "failures": ("Pictures left out", _failures(study)),
        "setting": ("Models and settings", _setting(study)),
        "repeat": ("To repeat it", f"<pre><code>{text(study['command'])}</code></pre>"),
    }
    cards, sources, note = gallery(study, pictures)
    shown = {"gallery": ("Pictures", "in the template")} if cards["pictures"] else {}
    held = {key: name for key, (name, inside) in (before | shown | after).items() if inside}
    template = resource("evaluation.html").read_text("utf-8")
    parts = {
        "title": text(title),
        "version": text(study["onnxcam"]),
        "lead": _lead(study),
        "contents": " ".join(f'<a href="#{key}">{name}</a>' for key, name in held.items()),
        "sections": sections(before),
        "sections_after": sections(after),
        "gallery_note": note,
        "gallery_fallback": UNSCRIPTED if shown else "",
        "data": as_json(cards),
        "pictures": "\n".join(
            f'<script type="application/json" id="p{i}">{as_json(one)}</script>'
            for i, one in enumerate(sources)
        ),
        "style_hash": digest(template, "<style>", "</style>"),
        "script_hash": digest(template, "<script>", "</script>"),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def _lead(study: Study) -> str:
    """What was measured, in two lines."""
    data, models = study["data"], study["models"]
    methods = ", ".join(text(method["title"]) for method in study["methods"])
    where = ", ".join(
        f"{text(m['name'])}" + (f" (feature map {text(m['layer'])})" if m.get("layer") else "")
        for m in models
    )
    boxes = f", {data['with_boxes']} with boxes" if data.get("with_boxes") else ""
    price = []
    if study["inferences"]:  # none where all rows are of earlier runs
        price.append(f"{study['inferences']:,} inferences".replace(",", "\u202f"))
    if price and known(study["seconds"]):
        price.append(f"in {lasted(study['seconds'])}")
    if known(study["throughput"]):
        price.append(f"at {100 * study['throughput']:.0f}\u00a0% of the speed of plain inference")
    return (
        f"<p>{methods or 'No method'} on {where}, explaining {text(data['explained'])}.</p>\n"
        f"<p>{counted(data['pictures'], 'picture')} of {text(data['source'])} "
        f"({text(data['kind'])}{boxes}){'; ' if price else ''}{' '.join(price)}.</p>\n"
        f"<p><small>{text(study['made'].replace('T', ' '))}, onnxcam {text(study['onnxcam'])}"
        "</small></p>"
    )


def _by_group(metrics: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, Any]]]:
    groups: dict[str, list[tuple[int, Any]]] = {}
    for number_of, metric in enumerate(metrics):
        groups.setdefault(metric["group"], []).append((number_of, metric))
    return groups


def best_and_near(study: Study, model: str, metric: Mapping[str, Any]) -> tuple[set[str], set[str]]:
    """The methods with the best mean, and those that no test tells apart from it.

    Args:
        study: see `page`.
        model: the model's name.
        metric: a row of the study's metrics.

    Returns:
        Names of the best, more than one only if they are equal, and of those that have a test
        against a best one with p ≥ 0.05. Both empty where there is nothing to choose from.
    """
    shown = {method["name"] for method in study["methods"]}
    means = {
        row["method"]: row["mean"]
        for row in study["summary"]
        if (row["model"], row["metric"]) == (model, metric["name"])
        and row["method"] in shown
        and known(row["mean"])
    }
    if len(means) < 2 or metric["better"] not in ARROWS:
        return set(), set()
    top = min(means.values()) if metric["better"] == "less" else max(means.values())
    best = {name for name, mean in means.items() if mean == top}
    near = set()
    for test in study["tests"]:
        if test["model"] == model and test["metric"] == metric["name"] and known(test["p"]):
            pair = {test["a"], test["b"]}
            if test["p"] >= ALPHA and len(pair & best) == 1:
                near |= pair - best
    return best, near & means.keys()


def _summary(study: Study) -> str:
    """A block for each model: a row for each metric, a column for each method."""
    if not study["metrics"] or not study["methods"]:
        return ""
    found = {(row["model"], row["method"], row["metric"]): row for row in study["summary"]}
    blocks = []
    for model in study["models"]:
        name = model["name"]
        rows = []
        for group, metrics in _by_group(study["metrics"]).items():
            across = len(study["methods"]) + 1
            rows.append(
                f'<tbody><tr class="group"><th colspan="{across}" scope="rowgroup">'
                f"{text(group)}</th></tr>"
            )
            for index, metric in metrics:
                cells = [found.get((name, m["name"], metric["name"])) for m in study["methods"]]
                best, near = best_and_near(study, name, metric)
                held = [cell for cell in cells if cell is not None]
                tip = f"{text(metric['formula'])} ({text(metric['source'])})"
                rows.append(
                    f'<tr><th scope="row"><a href="#metric-{index}" title="{tip}">'
                    f"{text(metric['title'])}</a>{arrow(metric)}</th>"
                    + "".join(_cell(c, metric["unit"], held, best, near) for c in cells)
                    + "</tr>"
                )
            rows.append("</tbody>")
        heads = ['<th scope="col">Metric</th>']
        heads += [f'<th scope="col" class="n">{text(m["title"])}</th>' for m in study["methods"]]
        head = f"<h3>{text(name)}</h3>\n" if len(study["models"]) > 1 else ""
        blocks.append(head + table(heads, rows, "summary", f"Means on {text(name)}"))
    several = len(study["methods"]) > 1
    key = ["<li>↓ less is better, ↑ more is better</li>"]
    if several:
        key.append("<li><b>best mean</b></li>")
        key.append(
            '<li><span class="near">not told apart</span> from the best by a test '
            f"(p ≥ {ALPHA}, not corrected for the number of tests)</li>"
        )
    key.append("<li>small print: 95\u00a0% bootstrap interval, and the pictures it rests on</li>")
    return f'<ul class="key">{"".join(key)}</ul>\n' + "\n".join(blocks)


def _cell(
    cell: Mapping[str, Any] | None,
    unit: str,
    row: Sequence[Mapping[str, Any]],
    best: set[str],
    near: set[str],
) -> str:
    """A mean with its interval; the interval is drawn too, on the scale of the row."""
    if cell is None or not known(cell["mean"]):
        return f'<td class="n">{NOTHING}</td>'
    mean, small = number(cell["mean"], unit), [f"n = {cell['count']}"]
    if cell["method"] in best:
        mean = f"<b>{mean}</b>"
    elif cell["method"] in near:
        mean = f'<span class="near">{mean}</span><span class="unseen"> (not told apart)</span>'
    drawn = ""
    if known(cell["low"]) and known(cell["high"]):
        small.insert(0, interval(cell["low"], cell["high"], unit))
        ends = [one[key] for one in row for key in ("low", "mean", "high") if known(one[key])]
        drawn = whisker(cell["low"], cell["mean"], cell["high"], min(ends), max(ends))
    kind = "n best" if cell["method"] in best else "n"
    return f'<td class="{kind}">{mean}{drawn}<small>{", ".join(small)}</small></td>'


def _metrics(study: Study) -> str:
    """What each metric is: formula and source."""
    rows = [
        f'<dt id="metric-{index}">{text(metric["title"])}{arrow(metric)}</dt>'
        f"<dd>{text(metric['formula'])} <small>{text(metric['source'])}</small></dd>"
        for metrics in _by_group(study["metrics"]).values()
        for index, metric in metrics
    ]
    return f'<dl class="metrics">{"".join(rows)}</dl>' if rows else ""


def _curves(study: Study) -> str:
    """A plot for each model and curve, a line for each method."""
    place = {method["name"]: index for index, method in enumerate(study["methods"])}
    titles = {method["name"]: text(method["title"]) for method in study["methods"]}
    plots: dict[tuple[str, str], list[tuple[int, str, Mapping[str, Any]]]] = {}
    for curve in study["curves"]:
        method = curve["method"]
        line = (place.setdefault(method, len(place)), titles.get(method, text(method)), curve)
        plots.setdefault((curve["name"], curve["model"]), []).append(line)
    figures = []
    for (name, model), lines in plots.items():
        on = f", {text(model)}" if len(study["models"]) > 1 else ""
        figures.append(curve_figure(name, f"{text(curve_title(name))}{on}", lines))
    if not any(figures):
        return ""
    note = "<p>Means over the pictures, with their 95\u00a0% bootstrap intervals.</p>"
    return f'{note}\n<div class="plots">{"".join(figures)}</div>'


def _bands(study: Study) -> str:
    """A table for each model, folded away: methods within metrics, a column for each band."""
    found = []
    for model in study["models"]:
        name = model["name"]
        own = [
            {**study, **band}
            | {key: [{"model": name, **row} for row in band[key]] for key in ("summary", "tests")}
            for band in study["bands"]
            if band["model"] == name
        ]
        if not own:
            continue
        heads = ['<th scope="col">Method</th>']
        for band in own:
            few = ", too few" if band["few"] else ""
            heads.append(
                f'<th scope="col" class="n">{band["low"]:g} to {band["high"]:g}'
                f"<small>{counted(band['pictures'], 'picture')}{few}</small></th>"
            )
        bodies = []
        for metric in study["metrics"]:
            means = [
                {row["method"]: row for row in band["summary"] if row["metric"] == metric["name"]}
                for band in own
            ]
            held = [row for rows in means for row in rows.values()]
            if not held:
                continue
            nobody: tuple[set[str], set[str]] = set(), set()
            marks = [nobody if b["few"] else best_and_near(b, name, metric) for b in own]
            rows = [
                f'<tr><th scope="row">{text(method["title"])}</th>'
                + "".join(
                    _cell(rows.get(method["name"]), metric["unit"], held, *mark)
                    for rows, mark in zip(means, marks, strict=True)
                )
                + "</tr>"
                for method in study["methods"]
            ]
            bodies.append(
                f'<tbody><tr class="group"><th colspan="{len(heads)}" scope="rowgroup">'
                f"{text(metric['title'])}{arrow(metric)}</th></tr>{''.join(rows)}</tbody>"
            )
        shown = table(heads, bodies, "summary bands", f"Means by confidence on {text(name)}")
        on = f" on {text(name)}" if len(study["models"]) > 1 else ""
        found.append(f"<details><summary>{len(own)} bands{on}</summary>{shown}</details>")
    if not found:
        return ""
    return (
        "<p>Means of the pictures whose class has such a probability; near 1 the gradient of a "
        "probability vanishes. Marked as in the summary, by the tests within a band, where there "
        "are not too few pictures for them.</p>\n" + "\n".join(found)
    )


def _failures(study: Study) -> str:
    rows = [
        f'<tr><th scope="row" class="long">{text(one["picture"])}</th>'
        f'<td class="long">{text(one["reason"])}</td></tr>'
        for one in study["failures"]
    ]
    if not rows:
        return ""
    heads = ['<th scope="col">Picture</th>', '<th scope="col">Reason</th>']
    shown = table(heads, ["<tbody>", *rows, "</tbody>"], "facts", "Pictures left out")
    return f"<p>{counted(len(rows), 'picture')} could not be used.</p>\n{shown}"


def _setting(study: Study) -> str:
    models = []
    for model in study["models"]:
        facts = {key: value for key, value in model.items() if key != "name"}
        models.append((model["name"], facts))
    tables = [_facts(name, facts) for name, facts in [*models, ("Data", study["data"])]]
    return "\n".join([*tables, _facts("Settings", study["settings"])])


def _facts(name: str, facts: Mapping[str, Any]) -> str:
    if not facts:
        return ""
    rows = [
        f'<tr><th scope="row">{text(key.replace("_", " "))}</th>'
        f'<td class="long">{text(value)}</td></tr>'
        for key, value in facts.items()
    ]
    return f"<h3>{text(name)}</h3>\n" + table(
        [], ["<tbody>", *rows, "</tbody>"], "facts", text(name)
    )
