"""Model selection: whose maps are more faithful and better placed, on the same pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np

from onnxcam.evaluate.markup import counted
from onnxcam.evaluate.metric import Metric
from onnxcam.evaluate.metrics import METRICS
from onnxcam.evaluate.statistics import ALPHA, holm, paired
from onnxcam.evaluate.study import columns

Table = Sequence[Mapping[str, Any]]
"""Rows of one model, as `judge.Judge` makes them."""


def both_right(a: Table, b: Table) -> tuple[Table, Table]:
    """The rows of the pictures that two models both classify correctly, in the same order.

    A model that is wrong explains another class, or a class that it does not see: maps of such
    pictures say little of the model's attention. Where a data set names no classes nobody is known
    to be right, and all pictures that both have are compared.
    """
    right_of_b = {row["picture"]: row for row in b if row["right"] in (True, None)}
    pairs = [
        (row, right_of_b[row["picture"]])
        for row in a
        if row["right"] in (True, None) and row["picture"] in right_of_b
    ]
    return [row for row, _ in pairs], [row for _, row in pairs]


def compared(
    tables: Mapping[str, Table], methods: Sequence[str], metrics: Sequence[str], seed: int
) -> list[dict[str, Any]]:
    """Every two models compared in each metric of each method, picture by picture.

    Args:
        tables: the rows of each model, by its name.
        methods, metrics: names of those that all have.
        seed: of the resampling.

    Returns:
        Rows of `metric`, `method`, the models `a` and `b`, how many `pictures` count for these (see
        `both_right`), the means on them `mean_a` and `mean_b`, and what `statistics.Paired` has.
    """
    found = []
    for a, b in combinations(tables, 2):
        of_a, of_b = both_right(tables[a], tables[b])
        for metric in metrics:
            for method in methods:
                values = columns(of_a, method, metric), columns(of_b, method, metric)
                pair = paired(*values, METRICS[metric].better, seed)
                if pair is not None:
                    both = ~np.isnan(values[0] + values[1])
                    found.append({
                        "metric": metric, "method": method, "a": a, "b": b, "pictures": len(of_a),
                        "mean_a": float(values[0][both].mean()),
                        "mean_b": float(values[1][both].mean()), **asdict(pair),
                    })  # fmt: skip
    return found


def kind_of(metric: Metric) -> str:
    """What a metric says of a map: "faithful", "localised", or "" for how it looks."""
    return "localised" if metric.needs else "faithful" if metric.probes else ""


WORDS = {"faithful": "more faithful", "localised": "better localised"}


def verdicts(rows: Table) -> list[dict[str, Any]]:
    """Which of two models has the more faithful and the better localised maps.

    All tests of one kind between two models are one family, corrected after Holm (1979): the
    better model is the one that wins more of those with p < 0.05.

    Args:
        rows: of `compared`.

    Returns:
        For each two models and kind: `a`, `b`, `kind`, `pictures`, `better` (None where no test
        or as many on either side tell them apart), `wins` of each, `tests`, and all in a sentence.
    """
    found = []
    for (a, b), count in {(row["a"], row["b"]): row["pictures"] for row in rows}.items():
        for kind, words in WORDS.items():
            own = [row for row in rows if (row["a"], row["b"]) == (a, b)
                   and kind_of(METRICS[row["metric"]]) == kind]  # fmt: skip
            if not own:
                continue
            wins = {a: 0, b: 0}
            for row, p in zip(own, holm([row["p"] for row in own]), strict=True):
                if p < ALPHA:
                    less = METRICS[row["metric"]].better == "less"
                    wins[a if (row["difference"] < 0) == less else b] += 1
            first, then = sorted(wins, key=wins.__getitem__, reverse=True)
            better = first if wins[first] > wins[then] else None
            tally = (
                f"{wins[first]} of {len(own)} tests for it, {wins[then]} for {then}"
                if better else
                f"{wins[first]} of {len(own)} tests for either" if wins[first] else
                f"none of {len(own)} tests does"
            )  # fmt: skip
            said = f"maps of {better} are {words} than those of {then}" if better else (
                f"nothing tells which of {a} and {b} has the {words} maps"
            )  # fmt: skip
            found.append({
                "a": a, "b": b, "kind": kind, "pictures": count, "better": better, "wins": wins,
                "tests": len(own), "sentence": f"{said}: {tally}, on {counted(count, 'picture')}",
            })  # fmt: skip
    return found
