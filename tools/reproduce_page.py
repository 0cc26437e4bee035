"""The page of the reproduction: tables in the papers' form, and what they say of the papers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from reproduce_papers import ABLATION_CAM, GRAD_CAM_PP, KEPT, PLACED

from onnxcam.evaluate.metrics import METRICS
from onnxcam.evaluate.statistics import Mean, Paired, mean_of, paired
from onnxcam.evaluate.study import columns

Row = Mapping[str, Any]
SURE = 0.01
"""Differences with a p below it are told apart from chance; the page has over a hundred of them."""
AGREES, DIFFERS, OPEN = "agrees", "does not agree", "open"
TITLES = {"ablation-cam": "Ablation-CAM", "grad-cam": "Grad-CAM", "grad-cam++": "Grad-CAM++"}
LESS = "less"


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


@dataclass(frozen=True)
class Line:
    """Two columns of values of the same pictures, and what the papers say of their order.

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
        first = (self.pair.difference < 0) == (self.better == LESS)
        return AGREES if first else DIFFERS


def better_of(metric: str) -> str:
    """Which way a metric is better."""
    return METRICS[metric].better if metric in METRICS else "more"


def compared(
    where: str, metric: str, a: np.ndarray, b: np.ndarray, seed: int = 0
) -> Line | None:
    """Two columns (N,) of a metric; None where no picture has both."""
    both = ~(np.isnan(a) | np.isnan(b))
    means = mean_of(a[both], seed), mean_of(b[both], seed)
    pair = paired(a, b, better_of(metric), seed)
    if pair is None or means[0] is None or means[1] is None:
        return None
    return Line(where, metric, means[0], means[1], pair, better_of(metric))


def methods_on(found: Found, metric: str, first: str, second: str = "grad-cam") -> Line | None:
    """Two methods on the pictures whose class the model gives."""
    rows = found.said
    if not rows or metric not in rows[0]["methods"][first]["values"]:
        return None
    return compared(
        found.name, metric, columns(rows, first, metric), columns(rows, second, metric)
    )


def lines_of(found: Iterable[Found], metrics: Sequence[str], first: str) -> list[Line]:
    """All comparisons of a method with Grad-CAM that there are."""
    made = (methods_on(one, metric, first) for one in found for metric in metrics)
    return [line for line in made if line is not None]


# --- words ----------------------------------------------------------------------------------------

HEADINGS = {
    "drop-soft": "Average Drop %",
    "increase-soft": "% Increase",
    "drop-soft-score": "Average Drop %, score",
    "reached": "Instances reached %",
    "pointing": "Pointing game %",
    "energy": "Energy in the mask or boxes %",
    **{f"loc-{share}": f"Loc(δ = {share / 100:g})" for share in (0, 25, 50)},
    **{f"iou-{share}": f"IoU at {share} %" for share in (25, 50)},
    **{
        f"{kind}-{share}{score}": f"{title}, top {share} %{said}"
        for kind, title in (("drop", "Average Drop %"), ("increase", "% Increase"))
        for share in (20, 30, 50)
        for score, said in (("", ""), ("-score", ", score"))
    },
}


def number(value: float) -> str:
    """Four digits of a small number, two places of a large one."""
    return f"{value:.3g}" if abs(value) < 0.1 else f"{value:.2f}"


def signed(value: float) -> str:
    """The same with its sign."""
    return ("+" if value > 0 else "") + number(value).replace("-", "−")


def chance(p: float) -> str:
    """A p-value."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def shares(pair: Paired) -> str:
    """Wins, ties and losses in % of the pictures."""
    parts = pair.wins, pair.ties, pair.losses
    return " / ".join(f"{100 * part / pair.count:.1f}" for part in parts)


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def ours(lines: Sequence[Line], first: str, second: str) -> str:
    """Our table of comparisons; a study's name stands on its first line only."""
    heading = [
        "model, pictures", "n", "", first, second, "difference [95 %]", "p", "win / tie / loss %",
        "the paper's order",
    ]  # fmt: skip
    rows, before = [], ""
    for line in lines:
        pair = line.pair
        interval = f"[{signed(pair.low)}, {signed(pair.high)}]"
        rows.append((
            line.where if line.where != before else "", str(pair.count), HEADINGS[line.metric],
            number(line.a.mean), number(line.b.mean), f"{signed(pair.difference)} {interval}",
            chance(pair.p), shares(pair), line.verdict,
        ))  # fmt: skip
        before = line.where
    return table(heading, rows)


def tally(lines: Sequence[Line]) -> str:
    """How many comparisons agree with the paper's order."""
    count = {kind: sum(line.verdict == kind for line in lines) for kind in (AGREES, DIFFERS, OPEN)}
    return (
        f"Of {len(lines)} comparisons {count[AGREES]} agree with the paper's order, "
        f"{count[DIFFERS]} do not, and {count[OPEN]} are open."
    )


def per_metric(lines: Sequence[Line]) -> str:
    """The same for each metric."""
    metrics = dict.fromkeys(line.metric for line in lines)
    return "\n".join(
        f"- {HEADINGS[metric]}: " + tally([line for line in lines if line.metric == metric])
        for metric in metrics
    )


# --- sections -------------------------------------------------------------------------------------


def kept(found: Sequence[Found]) -> str:
    """Grad-CAM++ against Grad-CAM by what is left of the score."""
    lines = lines_of(found, ("drop-soft", "increase-soft", "drop-soft-score"), "grad-cam++")
    paper = table(
        ("", "model, pictures", "Average Drop %", "% Increase", "Win %"),
        [
            (row.table, f"{row.model} ({row.head}), {row.pictures}",
             *(f"{a:.2f} / {b:.2f}" for a, b in (row.drop, row.increase, row.win)))
            for row in KEPT
        ],
    )  # fmt: skip
    return "\n".join((paper, ours(lines, "Grad-CAM++", "Grad-CAM"), per_metric(lines)))


def placed(found: Sequence[Found]) -> str:
    """Grad-CAM++ against Grad-CAM by place, with one instance and with several."""
    metrics = ("loc-0", "loc-25", "loc-50", "reached")
    lines = lines_of(found, metrics, "grad-cam++")
    paper = table(
        ("", "model, pictures", "δ", "Grad-CAM++", "Grad-CAM"),
        [
            (row.table, f"{row.model}, {row.pictures}", f"{row.threshold:g}",
             *(f"{value:.2f}" for value in row.overlap))
            for row in PLACED
        ],
    )  # fmt: skip
    return "\n".join((paper, ours(lines, "Grad-CAM++", "Grad-CAM"), per_metric(lines)))


def heads(found: Sequence[Found]) -> str:
    """Ablation-CAM against Grad-CAM by head."""
    metrics = [f"{kind}-{share}{score}" for score in ("", "-score") for share in (20, 30, 50)
               for kind in ("drop", "increase")]  # fmt: skip
    parts = []
    for head in ("FC", "GAP"):
        lines = lines_of([one for one in found if one.head == head], metrics, "ablation-cam")
        parts += [f"### {head} heads\n", ours(lines, "Ablation-CAM", "Grad-CAM"), tally(lines), ""]
    return "\n".join(parts)


def located(found: Sequence[Found]) -> str:
    """Ablation-CAM against Grad-CAM by place."""
    metrics = ("loc-25", "loc-50", "iou-25", "iou-50", "energy", "pointing", "reached")
    lines = lines_of(found, metrics, "ablation-cam")
    return "\n".join((ours(lines, "Ablation-CAM", "Grad-CAM"), per_metric(lines)))


def selection(found: Sequence[Found]) -> str:
    """Two models by their maps."""
    return ""


@dataclass(frozen=True)
class Section:
    """A table of the page.

    Attributes:
        title: its heading.
        about: what the paper measured, and what stands for it here.
        data: the sets that it needs.
        made: the table from the studies.
    """

    title: str
    about: str
    data: tuple[str, ...]
    made: Callable[[Sequence[Found]], str]


_ALL, _PLACES = ("one", "several", "imagenet", "coco", "cifar10"), ("one", "several", "coco")
SECTIONS = {
    "kept": Section("Grad-CAM++ against Grad-CAM: what the map keeps", "", _ALL, kept),
    "placed": Section("Grad-CAM++ against Grad-CAM: one instance and several", "", _PLACES, placed),
    "heads": Section("Ablation-CAM against Grad-CAM: FC and GAP heads", "", _ALL, heads),
    "located": Section("Ablation-CAM against Grad-CAM: localisation", "", _PLACES, located),
    "selection": Section("Model selection", "", ("one", "imagenet", "coco"), selection),
}


def section(name: str, found: Sequence[Found]) -> str:
    """One section, from the studies that it needs."""
    row = SECTIONS[name]
    own = [one for one in found if one.data in row.data]
    return f"## {row.title}\n\n{row.about}\n{row.made(own)}\n"


def page(found: Sequence[Found], command: str) -> str:
    """The whole page."""
    parts = [f"# Reproduction\n\n{command} {date.today()} {ABLATION_CAM} {GRAD_CAM_PP}\n"]
    for one in found:
        parts.append(f"{one.name}: {len(one.rows)} said {len(one.said)} right {len(one.right)} {one.like}\n")
    return "\n".join([*parts, *(section(name, found) for name in SECTIONS)])
