"""Text on pictures: the font, and fitting lines to a width."""

from __future__ import annotations

import functools

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


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
    clean = "".join(c if c.isprintable() else " " for c in text)
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
