"""What the commands print: facts in two columns, tables, and a bar for long work."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Sequence
from typing import Any

import click

PATIENCE = 0.7  # seconds of work before a bar appears
BAR, SHORT = 24, 30  # characters of a bar, and of a class name that is printed in full


def width() -> int | None:
    """Columns of the terminal; None where the output goes to a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def clean(text: str) -> str:
    """`text` in one line, control characters spelt out: names come from files of other people."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def line(text: str) -> None:
    """Prints one line."""
    click.echo(clean(text))


def paragraph(text: str, indent: int = 2) -> None:
    """Prints text, indented; wrapped on a terminal, names left whole."""
    columns, lines = width(), [clean(text)]
    if columns is not None:
        room = max(columns - indent, 30)
        lines = textwrap.wrap(lines[0], room, break_long_words=False, break_on_hyphens=False)
    for one in lines:
        click.echo(f"{'':<{indent}}{one}")


def facts(rows: Iterable[tuple[str, str]]) -> None:
    """Prints names and values in two columns; long values are wrapped on a terminal."""
    rows = [(name, clean(value)) for name, value in rows]
    indent = max(len(name) for name, _ in rows) + 2
    columns = width()
    for name, value in rows:
        lines = [value]
        if columns is not None:  # tensor names stay whole, so that they can be copied
            room = max(columns - indent, 30)
            lines = textwrap.wrap(value, room, break_long_words=False, break_on_hyphens=False)
        click.echo(f"{name:<{indent}}" + f"\n{'':<{indent}}".join(lines))


def table(header: Sequence[str], rows: Iterable[Sequence[str]], right: str = "") -> None:
    """Prints a table; the columns whose header is in `right` are aligned to the right.

    On a terminal, lines are cut at its edge.
    """
    lines, columns = [[clean(cell) for cell in row] for row in (header, *rows)], width()
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    for line in lines:
        cells = [
            f"{cell:>{wide}}" if title in right.split() else f"{cell:<{wide}}"
            for cell, wide, title in zip(line, widths, header, strict=True)
        ]
        text = "  ".join(cells).rstrip()
        cut = columns is not None and len(text) > columns
        click.echo(text[: columns - 1] + "…" if cut and columns else text)


def label(name: str, index: int, negated: bool = False) -> str:
    """A class in a line of text: "bee (309)"; of many synonyms the first; "not bee (not:309)"."""
    plain = f"{'not ' if negated else ''}class {index}"
    if not name or name == plain:
        return plain
    short = name if len(name) <= SHORT else name.split(",")[0]
    return f"{short} ({'not:' if negated else ''}{index})"


def document(value: Any) -> None:
    """Prints JSON."""
    click.echo(json.dumps(value, indent=2))


class Bar:
    """A line on the terminal that says how far the work is; elsewhere nothing.

    Calling it with (done, all) reports the items of the picture at hand.
    """

    def __init__(self, pictures: int, quiet: bool, item: str = "item") -> None:
        """A bar for so many pictures; it shows itself only when the work takes long.

        Args:
            pictures: how many there are.
            quiet: show nothing.
            item: what is counted within a picture: "unit", "mask", …
        """
        self.pictures, self.done, self.name, self.item = pictures, 0, "", item
        self._live = sys.stderr.isatty() and not quiet
        self._shown = False
        self._next = time.monotonic() + PATIENCE
        self._began, self._before = time.monotonic(), 0

    def skip(self, done: int) -> None:
        """Says that so many pictures were done before the work began: they tell nothing of it."""
        self._began, self._before = time.monotonic(), done

    def start(self, done: int, name: str) -> None:
        """Says which picture is begun and how many are done."""
        self.done, self.name = done, clean(name)
        self(0, 0)

    def __call__(self, done: int, every: int) -> None:
        """Reports that `done` of `every` item are done."""
        now = time.monotonic()
        if not self._live or now < self._next:
            return
        self._next = now + 0.1
        share = (self.done + (done / every if every else 0)) / self.pictures
        full = "#" * round(BAR * share)
        text = f"[{full:<{BAR}}] {share:4.0%}"
        text += f"  picture {self.done + 1} of {self.pictures}" if self.pictures > 1 else ""
        text += f"  {self.item} {done} of {every}" if every else ""
        text += self._left(now)
        columns = shutil.get_terminal_size().columns
        self.clear()
        click.echo(f"{text}  {self.name}"[: columns - 1], err=True, nl=False)
        self._shown = True

    def _left(self, now: float) -> str:
        """What the rest of the pictures will take, once some are done."""
        done = self.done - self._before
        if done < 2:
            return ""
        each = (now - self._began) / done
        left, rate = each * (self.pictures - self.done), f"{1 / each:.2g} a second"
        if each > 1:
            rate = f"{each:.2g} s each"
        shown = f"{left:.0f} s" if left < 100 else f"{left / 60:.0f} min"
        return f"  {rate}, {shown if left < 6000 else f'{left / 3600:.1f} h'} left"

    def clear(self) -> None:
        """Takes the bar off the terminal, so that other lines can be printed."""
        if self._shown:
            blank = " " * (shutil.get_terminal_size().columns - 1)
            click.echo(f"\r{blank}\r", err=True, nl=False)
            self._shown = False

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()
