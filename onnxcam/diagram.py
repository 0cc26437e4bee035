"""Draws the chain of a classifier as one SVG that needs nothing but a browser.

Every text is measured before it is drawn and shortened in its middle where it would not fit; the
whole of it is a tooltip. Names come from files of other people: they are escaped.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from xml.sax.saxutils import escape

from onnxcam.graph.chain import Chain, Run, Section, Step, Stretch

WIDTH, MARGIN, SIDE = 860, 24, 96  # of the page; its border; the column on either side of the boxes
LEFT, RIGHT = MARGIN + SIDE, WIDTH - MARGIN - SIDE
SPINE = LEFT + 24
PAD, GAP, CHIP, LINE = 12, 6, 22, 30  # within a box; between chips; height of a chip; of a link
EM = (
    0.62  # width of a character over the size of the font, a little more than monospaced fonts have
)
MOST_BRANCHES, MOST_CHIPS, AROUND = 5, 40, 76

_STYLE = """
text { font: 12px ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace; fill: #1f2328; }
.page { fill: #ffffff; }
.title { font-size: 17px; font-weight: bold; }
.faint { fill: #59636e; }
.op { font-size: 11px; }
.box { fill: #f6f8fa; stroke: #d1d9e0; }
.chip { fill: #ffffff; stroke: #c4ccd4; }
.map { stroke: #0969da; stroke-width: 1.5; }
.end { fill: #ddf4ff; stroke: #54aeff; }
.link { stroke: #818b98; fill: none; }
.tip { fill: #818b98; }
.fence { stroke: #d1d9e0; fill: none; }
.cut { stroke: #cf222e; stroke-width: 2; stroke-dasharray: 7 4; fill: none; }
.taken { fill: #ffebe9; stroke: #cf222e; stroke-width: 2; }
.loud { fill: #cf222e; font-weight: bold; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; }
.page { fill: #0d1117; }
.faint { fill: #9198a1; }
.box { fill: #151b23; stroke: #3d444d; }
.chip { fill: #212830; stroke: #4d5661; }
.map { stroke: #4493f8; }
.end { fill: #11294a; stroke: #316dca; }
.link { stroke: #656c76; }
.tip { fill: #656c76; }
.fence { stroke: #3d444d; }
.cut { stroke: #f85149; }
.taken { fill: #3d1a1d; stroke: #f85149; }
.loud { fill: #ff7b72; }
}
"""


def svg(chain: Chain, title: str, facts: Sequence[str] = (), score: Sequence[str] = ()) -> str:
    """The picture of a chain.

    Args:
        chain: what is drawn.
        title: the first line.
        facts: lines below it.
        score: lines below the score.
    """
    return _Page(chain).drawn(title, facts, score)


def shortened(text: str, most: int) -> str:
    """`text` in one line and at most `most` characters wide, cut in its middle."""
    text = "".join(c if c.isprintable() else "\ufffd" for c in text)
    if _columns(text) <= most:
        return text
    head, tail = list[str](), list[str]()
    room = max(most - 1, 0)
    while text and room > 0:  # from both ends in turn
        at_end = len(head) > len(tail)
        letter = text[-1] if at_end else text[0]
        if _columns(letter) > room:
            break
        room -= _columns(letter)
        (tail if at_end else head).append(letter)
        text = text[:-1] if at_end else text[1:]
    return "".join(head) + "…" + "".join(reversed(tail))


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _shape(step_shape: Sequence[int | str] | None) -> str:
    return "" if step_shape is None else " × ".join(map(str, step_shape))


class _Page:
    """What is drawn so far, and how far down it reaches."""

    def __init__(self, chain: Chain) -> None:
        self.chain, self.parts = chain, list[str]()
        self.y, self.cut_at = float(MARGIN), 0.0

    def drawn(self, title: str, facts: Sequence[str], score: Sequence[str]) -> str:
        """The whole document."""
        self._heading(title, facts)
        name, shape = self.chain.image
        self._end("image", name, _shape(shape))
        for run in self.chain.runs:
            self._run(run)
        self._arrow()
        last = self.chain.runs[-1].sections[-1].end
        self._end("score", last.tensor, _shape(last.shape))
        if self.chain.final:
            self._arrow()
            self._box(lambda: self._chips(self.chain.final, LEFT + PAD, RIGHT - PAD))
            self._arrow()
            last = self.chain.final[-1]
            self._end("probability", last.tensor, _shape(last.shape))
        self.y += 4
        for line in score:
            self.y += 18
            self._write(LEFT, self.y, line, RIGHT - LEFT, "faint")
        height = round(self.y + MARGIN)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" height="{height}" role="img">\n'
            f"<title>{escaped(title)}</title>\n<style>{_STYLE}</style>\n"
            f'<rect class="page" width="{WIDTH}" height="{height}"/>\n'
            + "\n".join(self.parts)
            + "\n</svg>\n"
        )

    def _heading(self, title: str, facts: Sequence[str]) -> None:
        room = WIDTH - 2 * MARGIN
        self.y += 14
        self._write(MARGIN, self.y, title, room, "title", size=17)
        for line in facts:
            self.y += 18
            self._write(MARGIN, self.y, line, room, "faint")
        self.y += 28
        signs = [("chip", "operator"), ("chip map", "gives a feature map (--layer takes it)")]
        if self.chain.split is not None:
            signs.append(("taken", "gives the feature map taken"))
        x = float(MARGIN)
        for kind, text in signs:
            self._rect(x, self.y - 11, 18, 14, kind, 3)
            self._write(x + 25, self.y, text, WIDTH, "faint")
            x += 25 + (len(text) + 2) * 12 * EM
        self.y += 20

    def _end(self, what: str, name: str, shape: str) -> None:
        """The image, the score or the probabilities."""
        self._rect(LEFT, self.y, RIGHT - LEFT, 34, "end", 8)
        base, start = self.y + 21, LEFT + PAD + (len(what) + 2) * 12 * EM
        self._write(LEFT + PAD, base, what, RIGHT - LEFT)
        side = _columns(shape) * 12 * EM
        self._write(start, base, name, RIGHT - PAD - side - 14 - start, "faint")
        self._write(RIGHT - PAD, base, shape, RIGHT - LEFT, anchor="end")
        self.y += 34

    def _run(self, run: Run) -> None:
        top = self.y + 16
        for number, section in enumerate(run.sections):
            self._arrow()
            self._box(lambda section=section: self._section(section))  # type: ignore[misc]
            if number == len(run.sections) - 1 and run.times > 1:
                self._repeated(top, self.y, run)
            if section is not self.chain.runs[-1].sections[-1]:  # the score says it
                self._behind(section.end)

    def _repeated(self, top: float, bottom: float, run: Run) -> None:
        self._path(f"M{RIGHT + 5} {top:g}h7V{bottom:g}h-7", "link")
        what = f"{run.times} times in a row; the last is shown"
        self._write(RIGHT + 20, (top + bottom) / 2 + 4, f"× {run.times}", SIDE, whole=what)

    def _behind(self, end: Step) -> None:
        """The tensor that a section gives, and the cut if it is there."""
        self._path(f"M{SPINE} {self.y:g}v{LINE}", "link")
        self.y += LINE
        shown, x = _shape(end.shape), SPINE + 12
        number = "" if end.position is None else f"map {end.position}: "
        room = RIGHT - x - (_columns(shown) + 2) * 12 * EM
        self._write(x, self.y - 9, f"{number}{end.tensor}", room, "faint")
        self._write(RIGHT, self.y - 9, shown, RIGHT - x, "faint", anchor="end")
        if end.split:
            self._path(f"M{SPINE} {self.y:g}v20", "link")
            self._cut()

    def _cut(self) -> None:
        """The line between features and head."""
        self.y += 8
        self._path(f"M{MARGIN} {self.y:g}H{WIDTH - MARGIN}", "cut")
        self._write(MARGIN, self.y - 7, "features", SIDE, "loud")
        self._write(MARGIN, self.y + 16, "head", SIDE, "loud")
        self.y += 12

    def _arrow(self) -> None:
        self._path(f"M{SPINE} {self.y:g}v16", "link")
        self.y += 16
        self.parts.append(f'<path class="tip" d="M{SPINE - 4} {self.y - 6:g}h8l-4 6z"/>')

    def _box(self, inside: Callable[[], None]) -> None:
        at, top = len(self.parts), self.y
        self.y += PAD
        inside()
        self.y += PAD
        self._rect(LEFT, top, RIGHT - LEFT, self.y - top, "box", 8)
        self.parts.insert(at, self.parts.pop())

    def _section(self, section: Section) -> None:
        row: list[Step] = []
        for stretch in section.stretches:
            if stretch.branches:
                self._flush(row)
                self._branches(stretch)
            row += stretch.steps
        self._flush(row)

    def _flush(self, row: list[Step]) -> None:
        if row:
            self._chips(row, LEFT + PAD, RIGHT - PAD)
            row.clear()

    def _branches(self, stretch: Stretch) -> None:
        """Branches side by side; where the model is cut within one, the line goes between."""
        shown = [list(b) for b in stretch.branches[:MOST_BRANCHES]]
        left_out = len(stretch.branches) - len(shown)
        aside = AROUND if stretch.around else 0
        width = (RIGHT - LEFT - 2 * PAD - aside) / len(shown)
        top, x = self.y, float(LEFT + PAD)
        cut = next((b for b in shown if any(s.split for s in b)), None)
        rest: list[Step] = []
        bottoms = []
        for branch in shown:
            if branch is cut:
                at = next(i for i, s in enumerate(branch) if s.split) + 1
                branch, rest = branch[:at], branch[at:]
            self.y = top
            self._chips(branch, x, x + width - 2 * PAD)
            bottoms.append(self.y)
            x += width
        self.y = max(bottoms)
        if cut is not None:
            self.y += PAD
            self._cut()
            self._chips(rest, LEFT + PAD, RIGHT - 2 * PAD - aside)
        for i in range(1, len(shown)):
            at_x = LEFT + PAD + i * width - 1.5 * PAD
            self._path(f"M{at_x:g} {top:g}V{max(bottoms):g}", "fence")
        if stretch.around:
            x = RIGHT - PAD - 14
            self._path(f"M{x} {top:g}V{self.y:g}", "link")
            self._write(x - 8, top + 15, "around", aside, "faint op", 11, anchor="end")
        if left_out:
            self.y += 14
            self._write(LEFT + PAD, self.y, f"and {left_out} more branches", 300, "faint op", 11)
        self.y += PAD

    def _chips(self, steps: Sequence[Step], left: float, right: float) -> None:
        """Operators in reading order, in lines."""
        x, size = left, 11
        for step, times in _counted(steps)[:MOST_CHIPS]:
            text = shortened(step.op, 40) + (f" ×{times}" if times > 1 else "")
            wide = min(_columns(text) * size * EM + 14, right - left)
            if x > left and x + wide > right:
                x, self.y = left, self.y + CHIP + GAP
            kind = "taken" if step.split else "chip map" if step.position is not None else "chip"
            self.parts.append("<g>")
            self._rect(x, self.y, wide, CHIP, kind, 5)
            whole = f"{step.op} {step.node}: {step.tensor} ({_shape(step.shape)})"
            whole += "" if step.position is None else f", feature map {step.position}"
            self.parts.append(f"<title>{escaped(whole)}</title>")
            self._write(x + wide / 2, self.y + 15, text, wide - 8, "op", size, "middle")
            self.parts.append("</g>")
            x += wide + GAP
        if len(_counted(steps)) > MOST_CHIPS:
            text = f"… {len(steps)} operators in all"
            self.y += CHIP + GAP
            self._write(left, self.y + 15, text, right - left, "faint op", size)
        self.y += CHIP if steps else 0

    def _rect(self, x: float, y: float, w: float, h: float, kind: str, round_by: int) -> None:
        self.parts.append(
            f'<rect class="{kind}" x="{x:.4g}" y="{y:.6g}" width="{w:.4g}" height="{h:.6g}" '
            f'rx="{round_by}"/>'
        )

    def _path(self, d: str, kind: str) -> None:
        self.parts.append(f'<path class="{kind}" d="{d}"/>')

    def _write(
        self, x: float, y: float, text: str, room: float, kind: str = "", size: int = 12,
        anchor: str = "start", whole: str = "",
    ) -> None:  # fmt: skip
        """Writes what fits into `room`; if that is not all, the whole text is a tooltip."""
        shown = shortened(text, int(room / (size * EM)))
        tip = whole or (text if shown != text else "")
        self.parts.append(
            f'<text class="{kind}" x="{x:.4g}" y="{y:.6g}" text-anchor="{anchor}">'
            + (f"<title>{escaped(tip)}</title>" if tip else "")
            + f"{escaped(shown)}</text>"
        )


def _counted(steps: Sequence[Step]) -> list[tuple[Step, int]]:
    """Steps, the same operator several times in a row but once, unless a step has a mark."""
    found: list[tuple[Step, int]] = []
    for step in steps:
        before = found[-1][0] if found else step
        marked = any(s.position is not None or s.split for s in (before, step))
        if found and before.op == step.op and not marked:
            found[-1] = (step, found[-1][1] + 1)
            continue
        found.append((step, 1))
    return found


def escaped(text: str) -> str:
    """`text` for XML; characters that no XML may hold are shown as unknown."""
    return escape("".join(c if c.isprintable() else "\ufffd" for c in text))
