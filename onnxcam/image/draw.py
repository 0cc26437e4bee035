"""What a user looks at: the overlay, and the figure of picture, heat map and overlay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from onnxcam.errors import OptionError
from onnxcam.image.heat import colormap_names, colour, lay_on, most_seen, normalise, seen
from onnxcam.image.read import Picture
from onnxcam.image.save import save_image
from onnxcam.image.text import CAPTION_SIZE, FAINT, font, height_of, title, write

__all__ = [
    "colormap_names",
    "colour",
    "figure",
    "lay_on",
    "most_seen",
    "normalise",
    "overlay",
    "panel",
    "save_image",
    "seen",
]

PANEL = 400  # longest side of a panel, in pixels
TINY = 100  # longest side of a picture whose single pixels are worth seeing
MARGIN, GAP, BAR = 20, 16, 12
PAPER = (255, 255, 255)
UNSEEN = (208, 208, 212)

Mask = NDArray[np.bool_]


def overlay(
    picture: Picture,
    heat: NDArray[Any],
    colormap: str | None = None,
    alpha: float = 0.5,
    *,
    seen: Mask | None = None,
    signed: bool = False,
) -> Image.Image:
    """The heat map's colours over the picture.

    Args:
        picture: The original.
        heat: (H, W) in 0..1 (-1..1 where signed), of the picture's size: `lay_on`, `normalise`.
        colormap: See `colour`.
        alpha: Share of the colours, 0 (picture only) to 1 (heat map only).
        seen: (H, W), which pixels the model saw; the others are greyed and faded, so that the
            crop shows. None: all.
        signed: See `colour`.

    Returns:
        An RGB image of the picture's size.
    """
    _check(picture, heat, alpha)
    return Image.fromarray(_blend(picture.pixels, heat, colormap, alpha, seen, signed))


def _check(picture: Picture, heat: NDArray[Any], alpha: float) -> None:
    if heat.shape != (picture.height, picture.width):
        raise OptionError(
            f"the heat map is {heat.shape}, the picture {(picture.height, picture.width)};"
            " lay the map on the picture first (lay_on)"
        )
    if not 0 <= alpha <= 1:
        raise OptionError(f"alpha must lie from 0 (picture only) to 1 (colours only), not {alpha}")


def _blend(
    pixels: NDArray[np.uint8],
    heat: NDArray[Any],
    colormap: str | None,
    alpha: float,
    seen: Mask | None,
    signed: bool,
) -> NDArray[np.uint8]:
    out, weight = np.empty_like(pixels), np.float32(alpha)
    for top in range(0, len(pixels), 256):  # in blocks: floats of a large picture fill the memory
        rows = slice(top, top + 256)
        mixed = pixels[rows] * (1 - weight)
        mixed += colour(heat[rows], colormap, signed=signed) * weight
        if seen is not None:
            mixed[~seen[rows]] = _faded(pixels[rows][~seen[rows]])
        out[rows] = np.rint(mixed)
    return out


def _faded(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(n, 3) pixels drained of colour and mixed with a light grey.

    Lighter, not darker: cold parts of the map darken the picture, and the two must not be confused.
    """
    grey = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    mixed = pixels * np.float32(0.1) + grey[:, None] * np.float32(0.3)
    return np.asarray(mixed + np.float32(0.6 * 215))


def figure(
    picture: Picture,
    heat: NDArray[Any],
    lines: Sequence[str] = (),
    *,
    colormap: str | None = None,
    alpha: float = 0.5,
    seen: Mask | None = None,
    signed: bool = False,
) -> Image.Image:
    """Picture, heat map with its scale, and overlay, with a title above.

    Side by side; one below the other where the picture is much wider than high. Every panel has
    the same longest side; tiny pictures are enlarged pixel by pixel.

    Args:
        picture, heat, colormap, alpha, seen, signed: As in `overlay`.
        lines: The first is the title (class and score), the others are set smaller below it.

    Returns:
        An RGB image.
    """
    _check(picture, heat, alpha)
    pixels, shown_heat, shown_seen = _to_panel(picture, heat, seen)
    map_pixels = _alone(shown_heat, colormap, shown_seen, signed)
    mixed = _blend(pixels, shown_heat, colormap, alpha, shown_seen, signed)
    named = {"picture": pixels, "heat map": map_pixels, "overlay": mixed}
    high, wide = pixels.shape[:2]
    stacked = wide > 2.5 * high
    cell = max(wide, 150)  # a narrow picture still needs room for captions and title
    bar = BAR + 22  # the scale and its numbers
    width = cell + bar if stacked else 3 * cell + 2 * GAP + bar
    said = title(lines, width)
    head = height_of(said) + (8 if said else 0)
    row = high + CAPTION_SIZE + 8
    height = head + (3 * row + 2 * GAP if stacked else row)

    sheet = Image.new("RGB", (width + 2 * MARGIN, height + 2 * MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    write(draw, MARGIN, MARGIN, said)
    x, y = MARGIN, MARGIN + head
    for name, shown in named.items():
        left = x + (cell - wide) // 2
        sheet.paste(Image.fromarray(shown), (left, y))
        draw.text((left, y + high + 6), name, FAINT, font(CAPTION_SIZE))
        if name == "heat map":
            _scale(sheet, (left + wide + 8, y, BAR, high), colormap, signed)
        if stacked:
            y += row + GAP
        else:
            x += cell + GAP + (bar if name == "heat map" else 0)
    return sheet


def panel(
    picture: Picture,
    heat: NDArray[Any] | None,
    *,
    longest: int = PANEL,
    colormap: str | None = None,
    alpha: float | None = 0.5,
    seen: Mask | None = None,
) -> NDArray[np.uint8]:
    """A small overlay, as the figure and the grid show it.

    Args:
        picture: The original.
        heat: As in `overlay`; None for the picture alone.
        longest: The longest side of the panel, in pixels.
        colormap, seen: As in `overlay`.
        alpha: As in `overlay`; None for the heat map alone.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    if heat is None:
        return _to_panel(picture, np.zeros((1, 1)), None, longest)[0]
    _check(picture, heat, 0.5 if alpha is None else alpha)
    pixels, shown, mask = _to_panel(picture, heat, seen, longest)
    if alpha is None:
        return _alone(shown, colormap, mask, False)
    return _blend(pixels, shown, colormap, alpha, mask, False)


def _alone(heat: NDArray[Any], colormap: str | None, seen: Mask, signed: bool) -> NDArray[np.uint8]:
    pixels = colour(heat, colormap, signed=signed)
    pixels[~seen] = UNSEEN
    return pixels


def _to_panel(
    picture: Picture, heat: NDArray[Any], mask: Mask | None, side: int = PANEL
) -> tuple[NDArray[np.uint8], NDArray[np.float32], Mask]:
    """Picture, heat map and mask at the size in which a panel shows them."""
    longest = max(picture.width, picture.height)
    # Whole steps keep the pixels of a tiny picture square and sharp; a 1 x 1 stays visible, too.
    tiny = longest < TINY
    factor = max(1, side // longest) if tiny else side / longest
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    sharp = Image.Resampling.NEAREST
    how, heat_how = (
        (sharp, sharp) if tiny else (Image.Resampling.LANCZOS, Image.Resampling.BILINEAR)
    )
    heat_image = Image.fromarray(np.asarray(heat, dtype=np.float32))
    whole = np.ones(heat.shape, bool) if mask is None else mask
    return (
        np.asarray(Image.fromarray(picture.pixels).resize(size, how)),
        np.asarray(heat_image.resize(size, heat_how)),
        np.asarray(Image.fromarray(whole.astype(np.uint8)).resize(size, sharp)) > 0,
    )


def _scale(
    sheet: Image.Image, box: tuple[int, int, int, int], colormap: str | None, signed: bool
) -> None:
    """The colour bar, with its ends named."""
    left, top, width, height = box
    ramp = np.linspace(1, -1 if signed else 0, height)[:, None].repeat(width, axis=1)
    sheet.paste(Image.fromarray(colour(ramp, colormap, signed=signed)), (left, top))
    draw = ImageDraw.Draw(sheet)
    marks = [("1", 0.0), ("-1" if signed else "0", 1.0)]
    if signed and height > 3 * CAPTION_SIZE:
        marks.append(("0", 0.5))
    for text, share in marks:
        y = top + share * (height - CAPTION_SIZE)
        draw.text((left + width + 5, y - 1), text, FAINT, font(CAPTION_SIZE))
