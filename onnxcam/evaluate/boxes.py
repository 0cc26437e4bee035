"""Boxes around the parts of a heat map, at every threshold at once, and how well they fit."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from onnxcam.evaluate.annotations import Box
from onnxcam.image import normalise

THRESHOLDS = (np.arange(100) / 100).astype(np.float32)
"""Shares of the largest heat. Choe et al. step by 0.001, on maps of 256 different values."""
SAME = 0.9
"""IoU from which on boxes of two classes are taken for one object's."""
GRID = 224
"""Cells on the longer side of the grid that parts are found on, as large as Choe et al.'s maps."""


def parts(marked: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The connected parts of many masks; pixels that touch by a corner are connected.

    Works on runs, stretches of a row that are marked: all runs of all masks are joined to those
    that touch them in the next row by giving both the lower of their two names, until no names
    differ.

    Args:
        marked: (T, H, W), bool.

    Returns:
        For each part its mask's index (P,), ascending; its box (P, 4), edges x0, y0, x1, y1; and
        how many pixels it has (P,).
    """
    # An empty column and an empty row keep lines and masks apart; an empty mask ends the last.
    padded = np.pad(marked, ((0, 1), (1, 0), (1, 0)))
    _, lines, line = padded.shape
    flat = padded.reshape(-1)
    steps = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts, stops = steps[::2], steps[1::2]
    first = np.searchsorted(stops, starts + line, "left")
    touching = np.searchsorted(starts, stops + line, "right") - first
    a = np.repeat(np.arange(len(starts)), touching)
    ends = np.cumsum(touching)
    b = np.arange(len(a)) + np.repeat(first - (ends - touching), touching)
    name = np.arange(len(starts))
    while len(a):
        low = np.minimum(name[a], name[b])
        np.minimum.at(name, name[a], low)
        np.minimum.at(name, name[b], low)
        while not np.array_equal(deeper := name[name], name):
            name = deeper
        apart = name[a] != name[b]
        a, b = a[apart], b[apart]
    heads, part = np.unique(name, return_inverse=True)
    row, column = starts // line % lines - 1, starts % line - 1
    boxes = np.zeros((len(heads), 4), np.intp)
    boxes[:, :2] = max(lines, line)
    for edge, values in enumerate((column, row)):
        np.minimum.at(boxes[:, edge], part, values)
    for edge, values in ((2, column + stops - starts), (3, row + 1)):
        np.maximum.at(boxes[:, edge], part, values)
    sizes = np.bincount(part, stops - starts, len(heads)).astype(np.intp)
    return starts[heads] // (line * lines), boxes, sizes


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union (A, B) of boxes (A, 4) and (B, 4)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (high - low).clip(0).prod(axis=2)
    areas = [(one[:, 2:] - one[:, :2]).prod(axis=1) for one in (a, b)]
    return np.asarray(shared / (areas[0][:, None] + areas[1][None] - shared))


def inside(boxes: Sequence[Box], size: tuple[int, int]) -> np.ndarray:
    """Boxes (B, 4) cut at the edges of a picture (height, width); those outside are left out."""
    cut = np.array(boxes, np.float64).reshape(-1, 4).clip(0, [*size[::-1]] * 2)
    return np.asarray(cut[(cut[:, 2] > cut[:, 0]) & (cut[:, 3] > cut[:, 1])])


def unlike(boxes: Collection[Box], own: Sequence[Box]) -> tuple[Box, ...]:
    """Those of the boxes that are not, with an IoU of SAME or more, one of `own`."""
    mine = np.array(own, np.float64).reshape(-1, 4)
    near = [iou(np.array([box], np.float64), mine).max(initial=0) >= SAME for box in boxes]
    return tuple(box for box, same in zip(boxes, near, strict=True) if not same)


def fits(heat: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How well boxes around what is hotter than each threshold fit the boxes of objects.

    A picture larger than GRID is looked at on a grid of so many cells, each with the heat at its
    centre: an edge moves by half a cell at most.

    Args:
        heat: (height, width), from 0 on.
        boxes: (B, 4) of the objects, B > 0.

    Returns:
        At each of THRESHOLDS the IoU of the box around the largest part (of equals the topmost)
        with the object that it fits best, (T,), and the best IoU of any part with any object, (T,);
        0 where nothing is hotter.
    """
    size = np.array(heat.shape)
    cells = np.maximum(1, np.rint(size * min(1.0, GRID / size.max())).astype(int))
    rows, columns = (
        ((np.arange(n) + 0.5) * length / n).astype(int)
        for n, length in zip(cells, size, strict=True)
    )
    seen = normalise(heat[rows][:, columns])
    place, found, sizes = parts(seen[None] > THRESHOLDS[:, None, None])
    best = iou(found * np.tile(size / cells, 2)[[1, 0, 3, 2]], boxes).max(axis=1)
    largest, most = np.zeros(len(THRESHOLDS)), np.zeros(len(THRESHOLDS))
    order = np.lexsort((-np.arange(len(place)), sizes))
    largest[place[order]] = best[order]  # the last one that is written stays
    np.maximum.at(most, place, best)
    return largest, most


def levels(fit: np.ndarray, limits: Sequence[float]) -> str:
    """How many of the ascending limits are reached, one digit for each threshold: short in a row.

    Args:
        fit: IoU (T,).
        limits: at most nine.
    """
    reached = np.searchsorted(limits, fit, "right")
    return "".join(map(str, reached))


def resolved(values: Sequence[float | str | None], limits: int) -> np.ndarray:
    """A method's values over a data set, at the thresholds that are best for all of it.

    MaxBoxAcc(δ) = max_τ mean [IoU(τ) ≥ δ], each limit δ with its own best τ, the lowest of equals
    (Choe et al., CVPR 2020, Sec. 4.1; V2 averages over limits).

    Args:
        values: numbers are left as they are; text is of `levels`; None is no value.
        limits: how many limits that text counts.

    Returns:
        (N,); of text 100 · the share of limits that the picture reaches. NaN where no value is.
    """
    found = np.array([np.nan if isinstance(v, str) or v is None else v for v in values], np.float64)
    held = [place for place, value in enumerate(values) if isinstance(value, str)]
    if held:
        digits = np.array([[int(digit) for digit in str(values[place])] for place in held])
        reached = [digits >= limit for limit in range(1, limits + 1)]
        own = [one[:, one.mean(axis=0).argmax()] for one in reached]
        found[held] = 100 * np.mean(own, axis=0)
    return found
