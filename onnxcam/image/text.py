"""Text on pictures: the font, fitting lines to a width, and setting them."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from PIL import ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

TITLE_SIZE, LINE_SIZE, CAPTION_SIZE = 20, 14, 13
LEADING = 7
INK, FAINT = (24, 24, 28), (96, 96, 104)


UNKNOWN = "\uffff"
"""No character: the font draws it as what it lacks."""
_PLAIN = {
    **{"×": "x", "−": "-", "–": "-", "—": "-", "→": "->", "°": "deg"},
    **{"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "Æ": "Ae", "Ø": "O"},
}


class Line(NamedTuple):
    """A line as it is set: what, how large, in which colour."""

    text: str
    size: int
    ink: tuple[int, int, int]


def title(
    lines: Sequence[str], width: int, first: int = TITLE_SIZE, rest: int = LINE_SIZE, most: int = 2
) -> list[Line]:
    """The lines broken to `width`, each into `most` at most: the first in ink, the rest faint."""
    styles = [(first, INK)] + [(rest, FAINT)] * len(lines)
    return [
        Line(text, size, ink)
        for long, (size, ink) in zip(lines, styles, strict=False)
        for text in fit(long, size, width, most)
    ]


def height_of(lines: Sequence[Line], leading: int = LEADING) -> int:
    """The height that the lines take, in pixels."""
    return sum(line.size + leading for line in lines)


def write(
    draw: ImageDraw.ImageDraw, x: int, y: int, lines: Sequence[Line], leading: int = LEADING
) -> None:
    """Sets the lines, one below the other, their left top corner at (x, y)."""
    for text, size, ink in lines:
        draw.text((x, y), text, ink, font(size))
        y += size + leading


@functools.lru_cache(maxsize=8)
def font(size: int) -> Font:
    """Pillow's built-in font; scalable where Pillow has FreeType, else its one bitmap size."""
    return ImageFont.load_default(size)


def fit(text: str, size: int, width: int, most: int = 2) -> list[str]:
    """Break a text into at most `most` lines of `width` pixels, with an ellipsis at a cut.

    Args:
        text: Any text; control characters become spaces.
        size: Of the font, in pixels.
        width: To fit into.
        most: Lines; the last one takes the ellipsis.
    """
    clean = "".join(_drawable(c) if c.isprintable() else " " for c in text)
    if not isinstance(font(size), ImageFont.FreeTypeFont):
        clean = clean.encode("latin-1", "replace").decode("latin-1")  # all the bitmap font knows
    lines: list[str] = []
    words = clean.split()
    while words and len(lines) < most:
        count = 1
        while count < len(words) and _length(" ".join(words[: count + 1]), size) <= width:
            count += 1
        line, words = " ".join(words[:count]), words[count:]
        last = len(lines) == most - 1
        lines.append(_cut(line, size, width, more=bool(words) and last))
    return lines


@functools.lru_cache(maxsize=4096)
def _drawable(character: str) -> str:
    """A character, or where the font lacks it, what stands for it in ASCII: "é" → "e", "×" → "x".

    Other alphabets have no such stand-in; their letters stay, and the font draws boxes.
    """
    if character.isascii() or not isinstance(font(CAPTION_SIZE), ImageFont.FreeTypeFont):
        return character
    if bytes(font(CAPTION_SIZE).getmask(character)) != bytes(font(CAPTION_SIZE).getmask(UNKNOWN)):
        return character
    plain = unicodedata.normalize("NFKD", _PLAIN.get(character, character))
    return "".join(c for c in plain if c.isascii()) or character


def _cut(line: str, size: int, width: int, more: bool) -> str:
    """`line` with its end replaced by an ellipsis where it is too long or has `more` to say."""
    if not more and _length(line, size) <= width:
        return line
    mark = "..."
    low, high = 0, len(line)  # the longest beginning that fits, by bisection
    while low < high:
        middle = (low + high + 1) // 2
        if _length(line[:middle].rstrip() + mark, size) <= width:
            low = middle
        else:
            high = middle - 1
    return line[:low].rstrip() + mark


def _length(text: str, size: int) -> float:
    return font(size).getlength(text)
