"""From a raw map to a heat map: laid on the picture, normalised, coloured."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxcam.errors import OptionError, close_matches
from onnxcam.image.geometry import Geometry

DEFAULT_COLORMAP = "inferno"
SIGNED_COLORMAP = "colorbrewer:RdBu_r"
EXTREME = 99.5
"""Percentile above which the values of a map of pixels all look the same."""


def lay_on(raw: NDArray[Any], geometry: Geometry, width: int, height: int) -> NDArray[np.float32]:
    """Lay a raw map on the original picture, undoing resize and crop.

    The map's cells tile the model's input evenly; between their centres the values are
    interpolated linearly, outside the outermost centres they are constant.

    Args:
        raw: (h, w) map over the model's input.
        geometry: Where that input lies on the picture (`Preset.geometry`).
        width, height: Of the picture.

    Returns:
        (height, width); 0 where the model saw nothing, see `seen`.
    """
    if raw.ndim != 2:
        raise OptionError(f"a map of one picture is (h, w), not {raw.shape}; take it out first")
    left, top, right, bottom = geometry.box
    x_low, x_high, x_share = _between(width, left, right, raw.shape[1])
    y_low, y_high, y_share = _between(height, top, bottom, raw.shape[0])
    values = raw.astype(np.float32)
    wide = values[:, x_low] + (values[:, x_high] - values[:, x_low]) * x_share
    full = wide[y_low]
    full += (wide[y_high] - full) * y_share[:, None]
    if geometry.seen != (0, 0, width, height):
        full *= seen(geometry, width, height)
    return full


def _between(
    length: int, start: float, stop: float, cells: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """For each of `length` pixels: the cells on either side of its centre, and how far between."""
    centres = (np.arange(length) + 0.5 - start) / (stop - start) * cells - 0.5
    centres = centres.clip(0, cells - 1)
    low = np.floor(centres).astype(np.intp)
    return low, np.minimum(low + 1, cells - 1), (centres - low).astype(np.float32)


def seen(geometry: Geometry, width: int, height: int) -> NDArray[np.bool_]:
    """(height, width): which pixels of the picture lie, by their centre, in the model's input."""
    left, top, right, bottom = geometry.seen
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    columns, rows = (x >= left) & (x <= right), (y >= top) & (y <= bottom)
    return np.asarray(rows[:, None] & columns[None, :])


def most_seen(raw: NDArray[Any], percentile: float = EXTREME) -> float:
    """The value from which on a map of pixels is drawn in the last colour.

    Args:
        raw: A map of any shape.
        percentile: Share of its values, in percent, that stay below.

    Returns:
        That percentile; the greatest value where the percentile is not positive, since of a map
        that is zero almost everywhere the rest is all there is to see.
    """
    most = float(np.percentile(raw, percentile))
    return most if most > 0 else float(raw.max())


def normalise(raw: NDArray[Any], *, signed: bool = False) -> NDArray[np.float32]:
    """Scale a map to 0..1 by its greatest value; negative values, if any, become 0.

    Args:
        raw: A map of any shape.
        signed: Keep the signs: -1..1 by the greatest magnitude, 0 stays 0.

    Returns:
        The map; all zero where it was all zero (nothing spoke for the class).
    """
    values = np.asarray(raw, dtype=np.float32)
    if not np.isfinite(values).all():
        raise OptionError("the map holds NaN or infinite values and cannot be drawn")
    if not signed:
        values = np.maximum(values, 0)
    most = float(np.abs(values).max(initial=0.0))
    return np.zeros_like(values) if most == 0 else np.asarray(values / np.float32(most))


def colour(
    heat: NDArray[Any], colormap: str | None = None, *, signed: bool = False
) -> NDArray[np.uint8]:
    """Colours of a heat map.

    Args:
        heat: (H, W) in 0..1, or in -1..1 where signed.
        colormap: A name of the `cmap` library ("inferno", "viridis", "turbo", "RdBu_r", ...);
            None takes inferno, and a diverging one where signed.
        signed: 0 is the middle of the colormap.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    table = _table(colormap or (SIGNED_COLORMAP if signed else DEFAULT_COLORMAP))
    share = (heat + 1) / 2 if signed else heat
    return table[np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)]


@functools.lru_cache(maxsize=16)
def _table(colormap: str) -> NDArray[np.uint8]:
    """(256, 3) uint8 for a colormap's name."""
    import cmap  # lazily: it costs 100 ms, and a run without pictures needs no colours

    try:
        found = cmap.Colormap(colormap)
    except (ValueError, KeyError, TypeError):
        near = close_matches(colormap, colormap_names())
        raise OptionError(
            f"there is no colormap {colormap!r}{near}; see https://cmap-docs.readthedocs.io"
        ) from None
    return np.asarray(np.rint(np.asarray(found.lut(256))[:, :3] * 255), dtype=np.uint8)


def colormap_names() -> list[str]:
    """The short names of all colormaps, sorted."""
    import cmap

    return sorted(cmap.Catalog().short_keys())
