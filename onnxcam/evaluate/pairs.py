"""The report's tables of paired tests: of methods on each model, and of models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from onnxcam.evaluate.markup import NOTHING, Study, counted, interval, known, number, table, text
from onnxcam.evaluate.statistics import ALPHA

Cells = Callable[[Mapping[str, Any], str], Sequence[str]]
"""From a test and its metric's unit to cells in HTML."""


def method_tests(study: Study) -> str:
    """Every pair of methods on every metric, folded away."""
    titles = {m["name"]: text(m["title"]) for m in study["methods"]}
    several = len(study["models"]) > 1

    def left(test: Mapping[str, Any], unit: str) -> list[str]:
        a, b = (titles.get(test[key], text(test[key])) for key in "ab")
        return [f"{a} − {b}", *([text(test["model"])] if several else [])]

    shown = _folded(
        study, study["tests"], ["Methods a − b", *["Model"] * several], left, [], lambda *_: []
    )
    return shown and (
        "<p>Picture by picture: the mean difference, the two-sided p of no difference (not "
        "corrected for the number of tests), and on how many pictures a was the better one.</p>\n"
        f"{shown}"
    )


def model_tests(study: Study) -> str:
    """What tells the models apart, in sentences; and every test behind them, folded away."""
    tests = study.get("selection", ())
    titles = {m["name"]: text(m["title"]) for m in study["methods"]}
    models = [text(model["name"]) for model in study["models"]]
    each = "" if len(models) > 2 else f" a is {models[0]}, b is {models[-1]}."

    def left(test: Mapping[str, Any], unit: str) -> list[str]:
        named = [] if each else [text(test["a"]), text(test["b"])]
        return [titles.get(test["method"], text(test["method"])), *named]

    def means(test: Mapping[str, Any], unit: str) -> list[str]:
        return [number(test[key], unit) for key in ("mean_a", "mean_b")]

    heads = ["Method", *([] if each else ["Model a", "Model b"])]
    shown = _folded(study, tests, heads, left, ["Mean of a", "Mean of b"], means)
    if not shown:
        return ""
    said = "".join(f"<li>{text(one['sentence'])}</li>" for one in study["verdicts"])
    known_right = any(one.get("right") is not None for one in study["models"])
    which = "that both models classify correctly" if known_right else "that both models have"
    return (
        f"<p>On the pictures {which}, the tests of a sentence corrected for their number (Holm), "
        f"those of the table not.{each}</p>\n<ul>{said}</ul>\n{shown}"
    )


def _folded(
    study: Study, tests: Sequence[Mapping[str, Any]], left: Sequence[str], names: Cells,
    more: Sequence[str], values: Cells,
) -> str:  # fmt: skip
    """Tests by metric: who is compared, further numbers, and the test itself."""
    metrics = {m["name"]: m for m in study["metrics"]}
    rows: dict[str, list[str]] = {}
    clear = 0
    for test in tests:
        unit = metrics[test["metric"]]["unit"] if test["metric"] in metrics else ""
        first, *others = names(test, unit)
        sure = known(test["p"]) and test["p"] < ALPHA
        clear += sure
        p = _chance(test["p"])
        ends = interval(test["low"], test["high"], unit)
        cells = [*values(test, unit), number(test["difference"], unit), ends]
        cells += [f"<b>{p}</b>" if sure else p]
        cells += [text(test[key]) for key in ("wins", "ties", "losses", "count")]
        rows.setdefault(test["metric"], []).append(
            f'<tr><th scope="row">{first}</th>'
            + "".join(f"<td>{cell}</td>" for cell in others)
            + "".join(f'<td class="n">{cell}</td>' for cell in cells)
            + "</tr>"
        )
    if not rows:
        return ""
    right = ["Difference", "95\u00a0% interval", "p", "Wins of a", "Ties", "Losses", "Pictures"]
    heads = [f'<th scope="col">{name}</th>' for name in left]
    heads += [f'<th scope="col" class="n">{name}</th>' for name in (*more, *right)]
    bodies = [
        f'<tbody><tr class="group"><th colspan="{len(heads)}" scope="rowgroup">'
        f"{text(metrics[name]['title'] if name in metrics else name)}</th></tr>"
        f"{''.join(own)}</tbody>"
        for name, own in rows.items()
    ]
    count = counted(sum(map(len, rows.values())), "test")
    shown = table(heads, bodies, "tests", "Pairwise tests")
    return f"<details><summary>{count}, {clear} with p &lt; {ALPHA}</summary>{shown}</details>"


def _chance(p: Any) -> str:
    if not known(p):
        return NOTHING
    return "&lt; 0.001" if p < 0.001 else f"{p:.3f}"
