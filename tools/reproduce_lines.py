"""The comparisons of the reproduction: two columns of values, and whether the papers are right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxcam.evaluate.metrics import METRICS
from onnxcam.evaluate.statistics import Mean, Paired, mean_of, paired
from onnxcam.evaluate.study import columns

Row = Mapping[str, Any]
SURE = 0.01
"""Differences with a p below it are told apart from chance; the page has hundreds of them."""
AGREES, DIFFERS, OPEN = "agrees", "does not agree", "open"
VERDICTS = (AGREES, DIFFERS, OPEN)
WIN = "win"
"""In place of a metric: the share of pictures on which the first is better, as `WIN`-metric."""
PAIRS = (("demo VGG", "demo AlexNet"), ("MobileNetV2", "SqueezeNet 1.1"))
"""Models of one task, the one that is right more often first."""
TITLES = {"ablation-cam": "Ablation-CAM", "grad-cam": "Grad-CAM"}


@dataclass(frozen=True)
class Found:
    """A study's rows.

    Attributes:
        net, head: the model's title, and "FC" or "GAP".
        set, data: the set's title and name.
        rows: of the judge, all pictures.
        truth: the class of each picture, where the one asked about is the model's best.
        like: by method, the mean cosine of its maps with Grad-CAM's.
    """

    net: str
    head: str
    set: str
    data: str
    rows: tuple[Row, ...]
    truth: Mapping[str, int]
    like: Mapping[str, float | None]

    @property
    def right(self) -> list[Row]:
        """The rows whose picture the model gives the class that the picture shows."""
        if self.truth:
            return [row for row in self.rows if row["predicted"] == self.truth[row["picture"]]]
        if self.data == "coco":  # asked about only where the class is among the five best
            return list(self.rows)
        return [row for row in self.rows if row["probability"] >= 0.5]

    @property
    def said(self) -> list[Row]:
        """The rows whose class the model gives the picture: what the papers' tables are about."""
        return list(self.rows) if self.truth else self.right

    @property
    def name(self) -> str:
        """Model, head and set, for a table."""
        return f"{self.net} ({self.head}), {self.set}"

    def has(self, metric: str) -> bool:
        """Whether the rows hold the metric."""
        plain = metric.removeprefix(f"{WIN}-")
        return bool(self.said) and plain in self.rows[0]["methods"]["grad-cam"]["values"]

    def mean(self, method: str, metric: str) -> float:
        """Of a method, over the pictures whose class the model gives."""
        return float(np.nanmean(columns(self.said, method, metric)))


@dataclass(frozen=True)
class Line:
    """Two columns of values of the same pictures.

    Attributes:
        where, metric: of the values.
        a, b, pair: means, and the comparison a − b.
        better: "less" or "more".
    """

    where: str
    metric: str
    a: Mean
    b: Mean
    pair: Paired
    better: str

    @property
    def verdict(self) -> str:
        """Whether the first is better, as the papers say: the sign, if it is not chance."""
        if self.pair.p >= SURE or not self.pair.difference:
            return OPEN
        return AGREES if (self.pair.difference < 0) == (self.better == "less") else DIFFERS


def better_of(metric: str) -> str:
    """Which way a metric is better."""
    return METRICS[metric].better if metric in METRICS else "more"


def compared(where: str, metric: str, a: np.ndarray, b: np.ndarray) -> Line | None:
    """Two columns (N,) of a metric; None where no picture has both.

    Of `WIN` the columns are 100 where the one, and where the other is better: their difference is
    tested as any other, which makes it a sign test.
    """
    both = ~(np.isnan(a) | np.isnan(b))
    a, b = a[both], b[both]
    plain = metric.removeprefix(f"{WIN}-")
    better = better_of(plain)
    if plain != metric:
        gain = b - a if better == "less" else a - b
        a, b, better = 100.0 * (gain > 0), 100.0 * (gain < 0), "more"
    means, pair = (mean_of(a), mean_of(b)), paired(a, b, better)
    if pair is None or means[0] is None or means[1] is None:
        return None
    return Line(where, metric, means[0], means[1], pair, better)


def methods_on(found: Found, metric: str, first: str, second: str = "grad-cam") -> Line | None:
    """Two methods on the pictures whose class the model gives; None where there are no values."""
    if not found.has(metric):
        return None
    plain = metric.removeprefix(f"{WIN}-")
    own = (columns(found.said, method, plain) for method in (first, second))
    return compared(found.name, metric, *own)


def lines_of(found: Iterable[Found], metrics: Sequence[str], first: str) -> list[Line]:
    """All comparisons of a method with Grad-CAM that there are."""
    made = (methods_on(one, metric, first) for one in found for metric in metrics)
    return [line for line in made if line is not None]


def gains(one: Found, several: Found, metric: str) -> Line | None:
    """What Grad-CAM++ gains over Grad-CAM: with several instances against with one.

    Scenes of the two sets share nothing; those of one number are taken as pairs.
    """
    if not (one.has(metric) and several.has(metric)):
        return None
    sign = -1 if better_of(metric) == "less" else 1
    found: list[dict[str, float]] = []
    for study in (several, one):
        a, b = (columns(study.said, method, metric) for method in ("grad-cam++", "grad-cam"))
        names = (row["picture"].split("-")[-1] for row in study.said)
        found.append(dict(zip(names, sign * (a - b), strict=True)))
    both = [name for name in found[0] if name in found[1]]
    own = [np.array([column[name] for name in both]) for column in found]
    line = compared(f"{one.net} ({one.head})", metric, *own)
    return line and Line(line.where, metric, line.a, line.b, line.pair, "more")


def two_models(a: Found, b: Found, method: str, metric: str) -> Line | None:
    """The maps of two models on the pictures that both give the right class."""
    own, other = ({row["picture"]: row for row in one.right} for one in (a, b))
    both = [name for name in own if name in other]
    if not both or not a.has(metric):
        return None
    values = (columns([one[name] for name in both], method, metric) for one in (own, other))
    where = f"{a.net} / {b.net}, {TITLES[method]}, {a.set}"
    return compared(where, metric, *values)


def chosen(found: Sequence[Found], metrics: Sequence[str], methods: Sequence[str]) -> list[Line]:
    """The comparisons of the models of `PAIRS`."""
    lines = []
    for names in PAIRS:
        for data in dict.fromkeys(one.data for one in found):
            own = [one for one in found if one.net in names and one.data == data]
            if len(own) == 2:
                own.sort(key=lambda one: names.index(one.net))
                made = (
                    two_models(own[0], own[1], m, metric) for m in methods for metric in metrics
                )
                lines += [line for line in made if line is not None]
    return lines
