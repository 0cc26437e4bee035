"""How alike two maps are: structure, order, edges.

The three measures of Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018, section 4. Each
takes two maps (h, w) of one shape. A map that is the same everywhere has no order and no edges:
what cannot be told is None, never NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnxcam.errors import OptionError

WINDOW = 7
"""Side of SSIM's window, in cells of the map; smaller maps take the largest odd one that fits."""
K1, K2 = 0.01, 0.03
"""SSIM's constants, as in the paper: C = (K · range)², the range being 1."""
ORIENTATIONS, MOST_CELL, BLOCK = 9, 16, 2
"""Of the histograms: bins over 180°, largest side of a cell, cells along a side of a block."""
_CLIPPED, _SMALL = 0.2, 1e-5

Floats: TypeAlias = NDArray[np.float64]


def ssim(a: Any, b: Any) -> float:
    """Structural similarity, from −1 to 1, of maps brought to 0 … 1.

    Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity, 2004,
    Eq. 13, averaged over all places of a uniform window of 7×7 cells that lies wholly inside:
    (2 μa μb + C1)(2 σab + C2) / ((μa² + μb² + C1)(σa² + σb² + C2)), variances over n − 1. That is
    scikit-image's `structural_similarity(a, b, win_size=7, data_range=1)`. The constants keep it
    defined for maps that are the same everywhere, which count as 0.

    Args:
        a, b: maps (h, w) in any units; each is normalised to 0 … 1 first.

    Raises:
        OptionError: they are no maps of one shape, or hold NaN or infinity.
    """
    x, y = map(scaled, _pair(a, b))
    side = min(WINDOW, *x.shape)
    side -= 1 - side % 2
    cells = side * side
    mean_x, mean_y = _means(x, side), _means(y, side)
    sample = cells / max(cells - 1, 1)
    var_x = sample * (_means(x * x, side) - mean_x**2)
    var_y = sample * (_means(y * y, side) - mean_y**2)
    both = sample * (_means(x * y, side) - mean_x * mean_y)
    c1, c2 = K1**2, K2**2
    top = (2 * mean_x * mean_y + c1) * (2 * both + c2)
    return float((top / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean())


def rank_correlation(a: Any, b: Any, absolute: bool = False) -> float | None:
    """Spearman's rank correlation, from −1 to 1: Pearson's of the ranks, ties sharing their mean.

    Args:
        a, b: maps (h, w), or attributions of any one shape.
        absolute: rank the magnitudes, as the paper does besides for signed attributions.

    Returns:
        The correlation; None where one of them is the same everywhere.

    Raises:
        OptionError: they differ in shape, or hold NaN or infinity.
    """
    x, y = _pair(a, b, None)
    if absolute:
        x, y = np.abs(x), np.abs(y)
    return _pearson(_ranks(x), _ranks(y))


def hog_similarity(a: Any, b: Any) -> float | None:
    """Pearson's correlation, from −1 to 1, of the maps' histograms of oriented gradients.

    The maps are brought to 0 … 1 first; see `hog` for the histograms.

    Args:
        a, b: maps (h, w) in any units.

    Returns:
        The correlation; None where a map has no edge: it is the same everywhere, or has fewer than
        three cells in each direction, and so no gradient.

    Raises:
        OptionError: they are no maps of one shape, or hold NaN or infinity.
    """
    x, y = (hog(scaled(m)) for m in _pair(a, b))
    return _pearson(x, y)


def hog(values: Floats) -> Floats:
    """Histograms of oriented gradients of a map (h, w), as one vector.

    Dalal & Triggs, Histograms of Oriented Gradients for Human Detection, CVPR 2005: centred
    differences (0 on the border), 9 bins over 0 … 180° weighted by magnitude, cells of c×c, blocks
    of 2×2 cells at every place, normalised L2-Hys (clipped at 0.2). c is an eighth of the shorter
    side, from 2 to 16, for maps from 7×7 to full pictures. That is scikit-image's `hog(values, 9,
    (c, c), (2, 2), "L2-Hys")`; where there are fewer than 2 cells a block has as many as there are.
    """
    down, right = np.zeros_like(values), np.zeros_like(values)
    down[1:-1] = values[2:] - values[:-2]
    right[:, 1:-1] = values[:, 2:] - values[:, :-2]
    size, angle = np.hypot(down, right), np.rad2deg(np.arctan2(down, right)) % 180
    side = cell_of(values.shape)
    rows, columns = values.shape[0] // side, values.shape[1] // side
    if not rows or not columns:
        return np.zeros(ORIENTATIONS)
    wide = 180 / ORIENTATIONS
    bins = np.empty((rows, columns, ORIENTATIONS))
    for i in range(ORIENTATIONS):
        inside = np.where((angle >= wide * i) & (angle < wide * (i + 1)), size, 0)
        cut = inside[: rows * side, : columns * side].reshape(rows, side, columns, side)
        bins[:, :, i] = cut.mean(axis=(1, 3))
    block = (min(BLOCK, rows), min(BLOCK, columns))
    blocks = np.lib.stride_tricks.sliding_window_view(bins, block, (0, 1))
    flat = blocks.transpose(0, 1, 3, 4, 2).reshape(-1, block[0] * block[1] * ORIENTATIONS)
    return _unit(np.minimum(_unit(flat), _CLIPPED)).reshape(-1)


def scaled(values: Floats) -> Floats:
    """A map from its smallest value, 0, to its largest, 1; all 0 if it is the same everywhere."""
    most = np.abs(values).max()
    values = values / (most or 1)  # first: the difference of two huge values is infinite
    low, high = values.min(), values.max()
    return np.asarray((values - low) / ((high - low) or 1))


def cell_of(shape: tuple[int, ...]) -> int:
    """Side of the cells that `hog` takes on a map of this shape."""
    return min(max(min(shape) // 8, 2), MOST_CELL)


MEASURES: dict[str, Callable[[Any, Any], float | None]] = {
    "ssim": ssim,
    "rank": rank_correlation,
    "hog": hog_similarity,
}
"""The measures by name."""
TITLES = {"ssim": "SSIM", "rank": "rank correlation", "hog": "HOG correlation"}
"""What people call them."""


def _pair(a: Any, b: Any, axes: int | None = 2) -> tuple[Floats, Floats]:
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.shape != y.shape or not x.size or x.ndim != (axes or x.ndim):
        raise OptionError(
            f"maps of shape {x.shape} and {y.shape} cannot be compared: give two of one shape"
            + (", (h, w) each" if axes else "")
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise OptionError("a map to be compared holds NaN or infinity; leave that picture out")
    return x, y


def _means(values: Floats, side: int) -> Floats:
    """The means over a square window at all places inside, (h − side + 1, w − side + 1)."""
    for axis in (0, 1):
        windows = np.lib.stride_tricks.sliding_window_view(values, side, axis)
        values = windows.mean(axis=-1)
    return values


def _ranks(values: Floats) -> Floats:
    _, place, times = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(times) - (times - 1) / 2)[place.reshape(-1)], np.float64)


def _pearson(x: Floats, y: Floats) -> float | None:
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip(x @ y / np.sqrt((x @ x) * (y @ y)), -1, 1))


def _unit(rows: Floats) -> Floats:
    return np.asarray(rows / np.sqrt((rows**2).sum(axis=1, keepdims=True) + _SMALL**2))
