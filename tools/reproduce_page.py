"""The page of the reproduction: tables in the papers' form, and what they say of the papers."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date

from reproduce_lines import (
    AGREES,
    DIFFERS,
    PAIRS,
    SURE,
    VERDICTS,
    WIN,
    Found,
    Line,
    chosen,
    gains,
    lines_of,
)
from reproduce_papers import ABLATION_CAM, GRAD_CAM_PP, KEPT, PLACED
from reproduce_words import ABOUT, INTRO, WHY

NAMES = {
    "drop-soft": "Average Drop %",
    "increase-soft": "% Increase",
    f"{WIN}-drop-soft": "Win %",
    "drop-soft-score": "Average Drop % of the score",
    "drop-30": "Average Drop %, top 30 %",
    "reached": "instances reached %",
    "pointing": "pointing game %",
    "energy": "energy %",
    "maxboxacc-v2": "MaxBoxAccV2 %",
    **{f"loc-{share}": f"Loc(δ = {share / 100:g})" for share in (0, 25, 50)},
    **{f"iou-{share}": f"IoU at {share} %" for share in (25, 50)},
}


# --- words ----------------------------------------------------------------------------------------


def number(value: float) -> str:
    """Three digits of a small number, two places of a large one."""
    small = f"{value:.1e}" if abs(value) < 1e-3 else f"{value:.3f}"
    text = "0" if not value else small if abs(value) < 0.1 else f"{value:.2f}"
    return text.replace("-", "−")


def signed(value: float) -> str:
    """The same with its sign."""
    return ("+" if value > 0 else "") + number(value)


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def cell(line: Line | None) -> str:
    """Both means, the difference with its interval, its p and the verdict."""
    if line is None:
        return ""
    pair = line.pair
    p = "p < 0.001" if pair.p < 0.001 else f"p {pair.p:.3f}"
    if line.metric.startswith(WIN):
        a, ties, b = (100 * n / pair.count for n in (pair.wins, pair.ties, pair.losses))
        return f"{a:.1f} / {b:.1f}<br>ties {ties:.1f}<br>{p}, {line.verdict}"
    interval = f"[{signed(pair.low)}, {signed(pair.high)}]"
    means = f"{number(line.a.mean)} / {number(line.b.mean)}"
    return f"{means}<br>{signed(pair.difference)} {interval}<br>{p}, {line.verdict}"


def ours(lines: Sequence[Line], names: Sequence[str], first: str = "model, pictures") -> str:
    """A row for each place, a column for each metric; n is that of the first metric."""
    metrics = list(dict.fromkeys(line.metric for line in lines))
    rows: dict[str, dict[str, Line]] = {}
    for line in lines:
        rows.setdefault(line.where, {})[line.metric] = line
    return table(
        [first, "n", *names],
        [
            (where, str(next(iter(own.values())).pair.count), *(cell(own.get(m)) for m in metrics))
            for where, own in rows.items()
        ],
    )


def counts(lines: Sequence[Line]) -> list[int]:
    """How many agree, do not agree, are open."""
    return [sum(line.verdict == kind for line in lines) for kind in VERDICTS]


def tally(what: str, lines: Sequence[Line]) -> str:
    """The same in words."""
    agree, differ, still = counts(lines)
    return f"- {what}: {agree} of {len(lines)} agree, {differ} do not, {still} open"


def told(name: str, lines: Sequence[Line], parts: dict[str, Sequence[Line]]) -> str:
    """What the lines say: counts of each part, and the reasons that apply."""
    found = {line.verdict for line in lines}
    why = [WHY[name][kind] for kind in VERDICTS if kind in found and kind in WHY[name]]
    return "\n".join([*(tally(what, own) for what, own in parts.items()), "", "\n\n".join(why), ""])


def by_metric(lines: Sequence[Line]) -> dict[str, Sequence[Line]]:
    """Lines by the name of their metric."""
    metrics = dict.fromkeys(line.metric for line in lines)
    return {NAMES[metric]: [one for one in lines if one.metric == metric] for metric in metrics}


def span(values: Sequence[float]) -> str:
    """From the least to the largest."""
    return f"{signed(min(values))} to {signed(max(values))}" if values else "none"


# --- sections -------------------------------------------------------------------------------------

_KEPT = ("drop-soft", "increase-soft", f"{WIN}-drop-soft", "drop-soft-score", "drop-30")
_PLACED = ("loc-0", "loc-25", "loc-50", "reached")
_GAINS = ("drop-soft", "loc-25", "loc-50", "reached")
_LOCATED = ("loc-25", "loc-50", "iou-25", "iou-50", "maxboxacc-v2", "energy", "pointing")
_MODELS = ("drop-soft", "drop-30", "drop-soft-score", "iou-25", "energy", "pointing")


def kept(found: Sequence[Found]) -> str:
    """Grad-CAM++ against Grad-CAM by what is left of the score."""
    lines = lines_of(found, _KEPT, "grad-cam++")
    rows = [
        (row.table, f"{row.model} ({row.head}), {row.pictures}",
         *(f"{a:.2f} / {b:.2f}" for a, b in (row.drop, row.increase, row.win)))
        for row in KEPT
    ]  # fmt: skip
    paper = table(("", "model, pictures", "Average Drop %", "% Increase", "Win %"), rows)
    at = [line for line in lines if line.metric == "drop-soft"]
    heads = {head: [line for line in at if f"({head})" in line.where] for head in ("FC", "GAP")}
    theirs = {head: [row.drop[0] - row.drop[1] for row in KEPT if row.head == head]
              for head in heads}  # fmt: skip
    own = {head: [line.pair.difference for line in one] for head, one in heads.items()}
    words = [
        f"The paper's differences in Average Drop are {span(theirs['FC'])} points with FC heads "
        f"and {span(theirs['GAP'])} with a GAP head; ours {span(own['FC'])} and "
        f"{span(own['GAP'])}.",
        area(lines), means_and_wins(lines),
    ]  # fmt: skip
    names = [NAMES[metric] for metric in _KEPT]
    text = told("kept", lines, by_metric(lines))
    return "\n".join((paper, ours(lines, names), text, "\n\n".join(filter(None, words)), ""))


def area(lines: Sequence[Line]) -> str:
    """Whether the advantage by L∘I is there at equal area."""
    soft, equal = ([one for one in lines if one.metric == metric] for metric in
                   ("drop-soft", "drop-30"))  # fmt: skip
    a, b = counts(soft), counts(equal)
    if a[0] <= b[0]:
        return (
            "With the hottest 30 % of the pixels kept, which gives both maps the same area, "
            "Grad-CAM++ is ahead as often: width is not what decides."
        )
    return (
        "With the hottest 30 % of the pixels kept both maps have the same area, and Grad-CAM++ is "
        f"ahead in {b[0]} studies, behind in {b[1]}, where it is ahead in {a[0]} and behind in "
        f"{a[1]} by L∘I: much of what L∘I measures is how wide a map is."
    )


def means_and_wins(lines: Sequence[Line]) -> str:
    """Studies whose mean says one thing and whose pictures another."""
    wins = {line.where for line in lines if line.metric.startswith(WIN) and line.verdict == AGREES}
    odd = [line.where for line in lines if line.metric == "drop-soft" and line.verdict == DIFFERS
           and line.where in wins]  # fmt: skip
    return (
        f"In {'; '.join(odd)} Grad-CAM++ has the larger Average Drop and yet wins on most "
        "pictures: a few that lose nearly everything rule the mean."
        if odd
        else ""
    )


def placed(found: Sequence[Found]) -> str:
    """Grad-CAM++ against Grad-CAM by place, with one instance and with several."""
    lines = lines_of(found, _PLACED, "grad-cam++")
    paper = table(
        ("", "model, pictures", "δ", "Grad-CAM++", "Grad-CAM"),
        [
            (row.table, f"{row.model}, {row.pictures}", f"{row.threshold:g}",
             *(f"{value:.2f}" for value in row.overlap))
            for row in PLACED
        ],
    )  # fmt: skip
    names = [NAMES[metric] for metric in _PLACED]
    parts = [paper, ours(lines, names), told("placed", lines, by_metric(lines)), widths(found)]
    pairs = [(a, b) for a in found for b in found
             if a.net == b.net and (a.data, b.data) == ("one", "several")]  # fmt: skip
    if pairs:
        reached = [b.mean("grad-cam", "reached") for _, b in pairs]
        parts.append(
            f"Of three instances Grad-CAM reaches {min(reached):.0f} to {max(reached):.0f} %, "
            "net by net.\n"
        )
    more = [line for a, b in pairs for m in _GAINS if (line := gains(a, b, m)) is not None]
    if more:
        parts += [
            "What Grad-CAM++ gains over Grad-CAM, with three instances / with one:\n",
            ours(more, [NAMES[metric] for metric in _GAINS], "model"),
            told("gains", more, {"a larger gain with three instances": more}),
        ]
    return "\n".join(parts)


def widths(found: Sequence[Found]) -> str:
    """How wide maps and objects are, and whether that tells the sign of the difference."""
    own = [one for one in found if one.has("loc-25")]
    rows, foreseen = [], 0
    for one in own:
        plus, plain = (one.mean(method, "wide") for method in ("grad-cam++", "grad-cam"))
        boxes = one.mean("grad-cam", "covered")
        gain = one.mean("grad-cam++", "loc-25") - one.mean("grad-cam", "loc-25")
        foreseen += (gain > 0) == ((plain < boxes) == (plus > plain))
        rows.append((one.name, *(f"{v:.1f}" for v in (plus, plain, boxes)), signed(gain)))
    heading = ("model, pictures", "Grad-CAM++", "Grad-CAM", "boxes", "gain in Loc(δ = 0.25)")
    return (
        "Share of the picture, in %, that is hotter than a quarter of the largest heat, and that "
        f"the boxes cover:\n\n{table(heading, rows)}\n"
        "A wider map should gain where Grad-CAM's is narrower than the boxes, and lose where it is "
        f"wider: that is so in {foreseen} of {len(own)} studies.\n"
    )


def heads(found: Sequence[Found]) -> str:
    """Ablation-CAM against Grad-CAM by head."""
    parts = []
    for head in ("FC", "GAP"):
        every: list[Line] = []
        own = [one for one in found if one.head == head]
        for one in own:
            for share in (20, 30, 50):
                metrics = (f"drop-{share}", f"increase-{share}", f"{WIN}-drop-{share}",
                           f"drop-{share}-score")  # fmt: skip
                for line in lines_of([one], metrics, "ablation-cam"):
                    kind = line.metric.replace(f"-{share}", "-soft")
                    every.append(replace(line, where=f"{line.where}, top {share} %", metric=kind))
        names = [NAMES[metric] for metric in _KEPT[:4]]
        parts += [f"### {head} heads\n", ours(every, names), told(head, every, by_metric(every))]
        parts.append(scattered(own))
    return "\n".join(parts)


def scattered(found: Sequence[Found]) -> str:
    """Studies in which more pixels make the drop larger."""
    odd = [
        f"{one.name} ({b:.2f} after {a:.2f})" for one in found if one.has("drop-50")
        and (b := one.mean("grad-cam", "drop-50")) > (a := one.mean("grad-cam", "drop-30"))
    ]  # fmt: skip
    if not odd:
        return "Nowhere does Grad-CAM's Average Drop grow when 50 % are kept in place of 30 %.\n"
    return (
        f"Grad-CAM's Average Drop grows when 50 % are kept in place of 30 % in {'; '.join(odd)}. "
        "Where a map is 0 on more than half of the picture, pixels of equal heat are drawn by "
        "chance, and what is added is scattered. A difference there is one of how much of a map "
        "is 0, and not of where it is hot.\n"
    )


def located(found: Sequence[Found]) -> str:
    """Ablation-CAM against Grad-CAM by place."""
    lines = lines_of(found, _LOCATED, "ablation-cam")
    names = [NAMES[metric] for metric in _LOCATED]
    energy = {
        f"energy, {head} heads": [
            line for line in lines if line.metric == "energy" and f"({head})" in line.where
        ]
        for head in ("FC", "GAP")
    }
    return "\n".join((ours(lines, names), told("located", lines, by_metric(lines) | energy)))


def selection(found: Sequence[Found]) -> str:
    """Two models by their maps."""
    share = {
        one.name: f"{len(one.right)} of {len(one.rows)}" for one in found if one.data != "coco"
    }
    lines = chosen(found, _MODELS, ("ablation-cam", "grad-cam"))
    right = table(("model, pictures", "right"), [row for row in share.items()
                  if any(row[0].startswith(net) for pair in PAIRS for net in pair)])  # fmt: skip
    names = [NAMES[metric] for metric in _MODELS]
    text = told("selection", lines, by_metric(lines))
    return "\n".join((right, ours(lines, names, "models, maps, pictures"), text))


def theory(found: Sequence[Found]) -> str:
    """How alike the maps are."""
    methods = ("cam", "ablation-cam", "grad-cam++")
    rows = [
        (one.name, *("" if one.like[m] is None else f"{one.like[m]:.3f}" for m in methods))
        for one in found
    ]
    return table(("model, pictures", "CAM", "Ablation-CAM", "Grad-CAM++"), rows)


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        title: its heading.
        data: the sets that it needs.
        made: its tables and what they say, from the studies.
    """

    title: str
    data: tuple[str, ...]
    made: Callable[[Sequence[Found]], str]


_ALL, _PLACES = ("one", "several", "imagenet", "coco", "cifar10"), ("one", "several", "coco")
SECTIONS = {
    "kept": Section("Grad-CAM++ against Grad-CAM: what the map keeps", _ALL, kept),
    "placed": Section("Grad-CAM++ against Grad-CAM: one instance and several", _PLACES, placed),
    "heads": Section("Ablation-CAM against Grad-CAM: FC and GAP heads", _ALL, heads),
    "located": Section("Ablation-CAM against Grad-CAM: localisation", _PLACES, located),
    "selection": Section("Model selection", _ALL[:4], selection),
    "theory": Section("How alike the maps are", _ALL, theory),
}


def section(name: str, found: Sequence[Found]) -> str:
    """One section, from the studies that it needs."""
    row = SECTIONS[name]
    own = [one for one in found if one.data in row.data]
    return f"## {row.title}\n\n{ABOUT[name]}\n\n{row.made(own).strip()}\n"


def short(found: Sequence[Found]) -> str:
    """Every claim with how many of our comparisons bear it out."""
    plus, ablation = "grad-cam++", "ablation-cam"
    kept_at = [f"{kind}-{share}" for kind in ("drop", "increase") for share in (20, 30, 50)]
    models = chosen(found, _MODELS, (ablation, "grad-cam"))
    faithful = [line for line in models if line.metric.startswith("drop")]
    rows = [
        ("Grad-CAM++ keeps more than Grad-CAM (L∘I)", lines_of(found, _KEPT[:3], plus)),
        ("the same at equal area", lines_of(found, _KEPT[-1:], plus)),
        ("Grad-CAM++ overlaps boxes more", lines_of(found, _PLACED[:3], plus)),
        ("Grad-CAM++ reaches more instances", lines_of(found, _PLACED[3:], plus)),
        *(
            (f"Ablation-CAM keeps more than Grad-CAM, {head} heads",
             lines_of([one for one in found if one.head == head], kept_at, ablation))
            for head in ("FC", "GAP")
        ),
        ("Ablation-CAM is better placed than Grad-CAM", lines_of(found, _LOCATED, ablation)),
        ("the better model's maps keep more", faithful),
        ("the better model's maps are better placed", [m for m in models if m not in faithful]),
    ]  # fmt: skip
    return table(
        ("claim", "comparisons", *VERDICTS),
        [(claim, str(len(lines)), *map(str, counts(lines))) for claim, lines in rows],
    )


def page(found: Sequence[Found], command: str) -> str:
    """The whole page."""
    facts = [
        (one.name, str(len(one.rows)), str(len(one.said)),
         "" if one.data == "coco" else f"{100 * len(one.right) / len(one.rows):.0f} %")
        for one in found if one.rows
    ]  # fmt: skip
    studies = table(("model (head), pictures", "asked about", "in the tables", "right"), facts)
    intro = INTRO.format(
        command=command, date=date.today(), ablation=ABLATION_CAM, plus=GRAD_CAM_PP, sure=SURE,
        studies=studies, short=short(found),
    )  # fmt: skip
    return wrapped("\n".join([intro, *(section(name, found) for name in SECTIONS)]))


def wrapped(text: str) -> str:
    """The same with lines of prose of at most 100 characters."""
    parts = []
    for part in text.split("\n\n"):
        if part.startswith(("|", "#")):
            parts.append(part)
            continue
        items = re.split(r"\n(?=- )", part)
        indents = ["  " if item.startswith("- ") else "" for item in items]
        parts.append("\n".join(
            textwrap.fill(" ".join(item.split()), 100, subsequent_indent=indent,
                          break_long_words=False, break_on_hyphens=False)
            for item, indent in zip(items, indents, strict=True)
        ))  # fmt: skip
    return "\n\n".join(parts) + "\n"
