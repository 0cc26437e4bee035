"""Sheets of many panels: every panel in its place, captions that fit, text the font can draw."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from onnxcam.errors import OptionError
from onnxcam.image import Cell, Picture, grid, most_seen, panel
from onnxcam.image.draw import GAP, MARGIN, UNSEEN
from onnxcam.image.grid import NARROWEST
from onnxcam.image.text import CAPTION_SIZE, fit, font

RED, GREEN, BLUE, GOLD, PINK = (200, 0, 0), (0, 160, 0), (0, 0, 200), (200, 160, 0), (220, 90, 160)


def cell(colour: tuple[int, int, int], *lines: str, high: int = 40, wide: int = 160) -> Cell:
    return Cell(np.full((high, wide, 3), colour, np.uint8), lines)


def box(image: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Left, top, width and height of everything in a colour, which must fill that box."""
    found = (np.asarray(image) == colour).all(2)
    rows, columns = np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))
    assert found[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    return int(columns[0]), int(rows[0]), len(columns), len(rows)


def test_cells_stand_in_rows_and_columns() -> None:
    image = grid([[cell(RED, "a"), cell(GREEN, "b")], [cell(BLUE), cell(GOLD)]], ["title"])
    left, top, wide, high = box(image, RED)
    assert (left, wide, high) == (MARGIN, 160, 40)
    assert top > MARGIN  # the title stands above
    assert box(image, GREEN) == (left + 160 + GAP, top, 160, 40)
    below = box(image, BLUE)
    assert below[0] == left and below[1] > top + 40 + CAPTION_SIZE
    assert box(image, GOLD) == (left + 160 + GAP, below[1], 160, 40)
    assert image.width == 2 * 160 + GAP + 2 * MARGIN


def test_many_cells_go_on_below_the_first_column_left_empty() -> None:
    image = grid([[cell(RED), cell(GREEN), cell(BLUE), cell(GOLD), cell(PINK)]], columns=3)
    places = [box(image, colour) for colour in (RED, GREEN, BLUE, GOLD, PINK)]
    assert [place[0] for place in places] == [
        MARGIN + column * (160 + GAP) for column in (0, 1, 2, 1, 2)
    ]
    assert len({place[1] for place in places[:3]}) == 1 < len({place[1] for place in places})


def test_an_empty_cell_keeps_its_place() -> None:
    image = grid([[cell(RED), Cell(None), cell(BLUE)]])
    assert box(image, BLUE)[0] == MARGIN + 2 * (160 + GAP)


def test_captions_stay_in_their_columns() -> None:
    long = "a caption that goes on and on without an end " * 5
    image = grid([[cell(RED, long, long, wide=30), cell(GREEN, "b", wide=30)]])
    left, _, wide, _ = box(image, GREEN)
    assert left == MARGIN + NARROWEST + GAP + (NARROWEST - 30) // 2 and wide == 30
    ink = np.asarray(image).min(2) < 150
    gap = ink[:, MARGIN + NARROWEST : MARGIN + NARROWEST + GAP]
    assert not gap.any() and ink[:, MARGIN : MARGIN + NARROWEST].any()


def test_a_panel_alone_over_the_picture_and_unseen() -> None:
    picture = Picture(np.full((100, 200, 3), 100, np.uint8))
    heat = np.zeros((100, 200), np.float32)
    heat[:, :100] = 1
    seen = np.ones((100, 200), bool)
    seen[:, 150:] = False
    plain = panel(picture, None, longest=50)
    assert plain.shape == (25, 50, 3) and (plain == 100).all()
    over = panel(picture, heat, longest=50, colormap="gray", alpha=0.5, seen=seen)
    assert over[10, 2].tolist() == [178] * 3 and over[10, 35].tolist() == [50] * 3
    alone = panel(picture, heat, longest=50, colormap="gray", alpha=None, seen=seen)
    assert alone[10, 2].tolist() == [255] * 3 and alone[10, 35].tolist() == [0] * 3
    assert alone[10, 48].tolist() == list(UNSEEN)
    with pytest.raises(OptionError, match="lay the map on the picture first"):
        panel(picture, heat[:7, :7])


def test_what_is_drawn_in_the_last_colour() -> None:
    raw = np.arange(1000.0).reshape(20, 50)
    assert most_seen(raw) == pytest.approx(994, abs=0.5)
    sparse = np.zeros((20, 50))
    sparse[3, 4] = 7  # fewer than one in two hundred: it is all there is to see
    assert most_seen(sparse) == 7
    assert most_seen(np.zeros((4, 4))) == 0


def test_letters_that_the_font_lacks_have_stand_ins() -> None:
    assert fit("Input × Gradient – é Größe Øl", CAPTION_SIZE, 900) == [
        "Input x Gradient - e Grosse Ol"
    ]
    assert fit("plain (ASCII) ~text~", CAPTION_SIZE, 900) == ["plain (ASCII) ~text~"]
    assert fit("日本", CAPTION_SIZE, 900) == ["日本"]  # no stand-in: boxes of the right number
    lacking = bytes(font(CAPTION_SIZE).getmask("\uffff"))
    for character in "".join(fit("Schäferhund ×2 − 3°", CAPTION_SIZE, 900)).replace(" ", ""):
        assert bytes(font(CAPTION_SIZE).getmask(character)) != lacking
