"""Many panels on one sheet: a block of captioned cells for each class, under a common title."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from onnxcam.image.draw import GAP, MARGIN, PAPER
from onnxcam.image.text import CAPTION_SIZE, Line, height_of, title, write

CELL = 220  # longest side of a panel, in pixels
NARROWEST = 150  # captions need room, however narrow the picture
COLUMNS = 7  # of a line at most
LEADING = 4  # of captions


class Cell(NamedTuple):
    """A panel and its caption, whose first line stands out.

    Attributes:
        panel: (H, W, 3) uint8; None leaves the place empty.
        lines: The caption.
    """

    panel: NDArray[np.uint8] | None
    lines: Sequence[str] = ()


def grid(
    blocks: Sequence[Sequence[Cell]], lines: Sequence[str] = (), columns: int = COLUMNS
) -> Image.Image:
    """A sheet of cells, every block beginning on a new line.

    Where the cells of a block do not fit on one line they go on below, the first column, which is
    that of the block's first cell, left empty.

    Args:
        blocks: Rows of cells; all panels are of one size.
        lines: The first is the title, the others are set smaller below it.
        columns: Cells of a line at most, two or more.

    Returns:
        An RGB image.
    """
    panels = [cell.panel for block in blocks for cell in block if cell.panel is not None]
    high, wide = (max(panel.shape[axis] for panel in panels) for axis in (0, 1))
    room = max(wide, NARROWEST)
    across = max(2, min(columns, max(map(len, blocks))))
    width = across * (room + GAP) - GAP
    said = title(lines, width)
    head = height_of(said) + (8 if said else 0)
    rows = [_captioned(row, room) for block in blocks for row in _broken(block, across)]
    heights = [high + 6 + max(height_of(said, LEADING) for _, said in row) for row in rows]
    height = head + sum(heights) + GAP * (len(rows) - 1)

    sheet = Image.new("RGB", (width + 2 * MARGIN, height + 2 * MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    write(draw, MARGIN, MARGIN, said)
    y = MARGIN + head
    for row, row_height in zip(rows, heights, strict=True):
        for number, (panel, caption) in enumerate(row):
            x = MARGIN + number * (room + GAP)
            if panel is not None:
                sheet.paste(Image.fromarray(panel), (x + (room - wide) // 2, y))
            write(draw, x, y + high + 6, caption, LEADING)
        y += row_height + GAP
    return sheet


def _broken(block: Sequence[Cell], across: int) -> list[list[Cell]]:
    """The cells of a block in lines."""
    first, rest = block[0], block[1:]
    step = across - 1
    lines = [list(rest[i : i + step]) for i in range(0, len(rest), step)] or [[]]
    return [[first if not i else Cell(None), *line] for i, line in enumerate(lines)]


def _captioned(
    row: Sequence[Cell], width: int
) -> list[tuple[NDArray[np.uint8] | None, list[Line]]]:
    return [(panel, title(lines, width, CAPTION_SIZE, CAPTION_SIZE - 1)) for panel, lines in row]
