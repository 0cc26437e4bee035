"""What moves elements about without changing them, and resizing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.diff.vjp.table import (
    Answer,
    along,
    dims,
    fixed,
    ints,
    known,
    shaped,
    unbroadcast,
    vjp,
    zeros,
)
from onnxcam.errors import OpError
from onnxcam.graph.emit import Emitter
from onnxcam.graph.model import array_of

T = gs.Tensor
Answers = Sequence[Answer]


@vjp("Reshape")
def reshape(e: Emitter, g: T, y: T, x: T, shape: T, allowzero: int = 0) -> Answers:
    return [shaped(e, g, x), None]


@vjp("Flatten")
def flatten(e: Emitter, g: T, y: T, x: T, axis: int = 1) -> Answers:
    return [shaped(e, g, x)]


@vjp("Squeeze", "Unsqueeze")
def squeeze(e: Emitter, g: T, y: T, x: T, axes: T | Sequence[int] | None = None) -> Answers:
    return [shaped(e, g, x), None]


@vjp("Transpose")
def transpose(e: Emitter, g: T, y: T, x: T, perm: Sequence[int] | None = None) -> Answers:
    order = list(perm) if perm is not None else list(range(len(known(x))))[::-1]
    return [e.Transpose(g, perm=[int(i) for i in np.argsort(order)])]


@vjp("Expand")
def expand(e: Emitter, g: T, y: T, x: T, shape: T) -> Answers:
    return [unbroadcast(e, g, known(y), x), None]


@vjp("Tile")
def tile(e: Emitter, g: T, y: T, x: T, repeats: T) -> Answers:
    times, tall = ints(repeats) or [], []
    for n, r in zip(dims(known(x)), times, strict=True):
        tall += [r, n]
    summed = e.axes("ReduceSum", e.Reshape(g, tall), list(range(0, len(tall), 2)), keepdims=0)
    return [summed, None]


@vjp("Concat")
def concat(e: Emitter, g: T, y: T, *xs: T, axis: int) -> Answers:
    at = axis % len(known(y))
    ends = np.cumsum([fixed(x, at) for x in xs])
    return [
        lambda a=int(end) - fixed(x, at), b=int(end): e.Slice(g, [a], [b], [at])  # type: ignore[misc]
        for x, end in zip(xs, ends, strict=True)
    ]


@vjp("Split", many=True)
def split(
    e: Emitter, gs_: list[T | None], ys: list[T], x: T, sizes: T | Sequence[int] | None = None,
    axis: int = 0, num_outputs: int | None = None, split: Sequence[int] | None = None,
) -> Answers:  # fmt: skip
    dtype = next(g.dtype for g in gs_ if g is not None)
    parts = [zeros(e, y, dtype) if g is None else g for g, y in zip(gs_, ys, strict=True)]
    return [e.Concat(*parts, axis=axis) if len(parts) > 1 else parts[0], None]


@vjp("Slice")
def slice_(
    e: Emitter, g: T, y: T, x: T, starts: T, ends: T, axes: T | None = None,
    steps: T | None = None,
) -> Answers:  # fmt: skip
    first, last = ints(starts) or [], ints(ends) or []
    rank = len(known(x))
    where = [a % rank for a in ints(axes) or range(len(first))]
    by = ints(steps) or [1] * len(first)
    low, high = [0] * rank, [0] * rank
    for axis, start, end, step in zip(where, first, last, by, strict=True):
        if not isinstance(known(x)[axis], int):
            if (start, step) == (0, 1) and end >= 2**31 - 1:
                continue
            raise OpError("a Slice along the batch has no gradient rule; fix the batch")
        size = fixed(x, axis)
        cells = np.arange(size)[slice(start, None if step < 0 and end < -size else end, step)]
        if step == 1:
            begin = int(cells[0]) if len(cells) else 0
            low[axis], high[axis] = begin, size - begin - len(cells)
        else:
            g = along(e, g, axis, np.eye(size)[cells], rank)
    if any(low) or any(high):
        g = e.Pad(g, [*low, *high])
    return [g, *[None] * 4]


@vjp("Pad")
def pad(
    e: Emitter, g: T, y: T, x: T, pads: T, value: T | None = None, axes: T | None = None,
    mode: str = "constant",
) -> Answers:  # fmt: skip
    rank = len(known(x))
    given, where = ints(pads) or [], ints(axes)
    where = list(range(rank)) if where is None else [a % rank for a in where]
    low, high = [0] * rank, [0] * rank
    for i, axis in enumerate(where):
        low[axis], high[axis] = given[i], given[i + len(where)]
    if mode == "constant":
        return [e.Pad(g, [*(-n for n in low), *(-n for n in high)]), None, None, None]
    for axis in range(rank):
        if low[axis] or high[axis]:  # every cell of the frame is a copy of one inside
            cells = np.arange(fixed(x, axis))
            numpys = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}[mode]
            wide = (max(low[axis], 0), max(high[axis], 0))
            copies = np.pad(cells, wide, mode=numpys)  # type: ignore[call-overload]
            copies = copies[max(0, -low[axis]) : len(copies) - max(0, -high[axis])]
            g = along(e, g, axis, np.eye(len(cells))[copies], rank)
    return [g, None, None, None]


@vjp("DepthToSpace")
def depth_to_space(
    e: Emitter, g: T, y: T, x: T, blocksize: int, mode: str = "DCR"
) -> Answers:
    if mode == "DCR":
        return [e.SpaceToDepth(g, blocksize=blocksize)]
    _, c, h, w = dims(known(x))
    b = blocksize
    tall = e.Reshape(g, [0, c // (b * b), h, b, w, b])
    return [shaped(e, e.Transpose(tall, perm=[0, 1, 3, 5, 2, 4]), x)]


@vjp("SpaceToDepth")
def space_to_depth(e: Emitter, g: T, y: T, x: T, blocksize: int, mode: str = "DCR") -> Answers:
    return [e.DepthToSpace(g, blocksize=blocksize, mode=mode)]


@vjp("Trilu")
def trilu(e: Emitter, g: T, y: T, x: T, k: T | None = None, upper: int = 1) -> Answers:
    return [e.Trilu(g, k, upper=upper), None]


@vjp("Resize")
def resize(
    e: Emitter, g: T, y: T, x: T, roi: T | None = None, scales: T | None = None,
    sizes: T | None = None, antialias: int = 0, axes: Sequence[int] | None = None,
    coordinate_transformation_mode: str = "half_pixel", cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0, extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch", mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Answers:  # fmt: skip
    if antialias or coordinate_transformation_mode == "tf_crop_and_resize":
        raise OpError("Resize with antialias or tf_crop_and_resize has no gradient rule")
    rank = len(known(x))
    where = [a % rank for a in axes] if axes is not None else list(range(rank))
    factors = array_of(scales) if scales is not None else None
    for i, axis in enumerate(where):
        before, after = known(x)[axis], known(y)[axis]
        if not isinstance(before, int) or not isinstance(after, int):
            continue  # the batch is never resized
        stated = factors is not None and factors.size == len(where)
        scale = float(factors[i]) if stated and factors is not None else after / before
        if before == after and scale == 1:
            continue
        matrix = _resize_matrix(
            before, after, scale, mode, coordinate_transformation_mode, nearest_mode,
            cubic_coeff_a, bool(exclude_outside),
        )  # fmt: skip
        g = along(e, g, axis, matrix, rank)
    return [g, None, None, None]


def _resize_matrix(
    before: int, after: int, scale: float, mode: str, transform: str, nearest: str, cubic: float,
    exclude: bool,
) -> np.ndarray:  # fmt: skip
    """What each input cell (columns) gives to each output cell (rows) along one axis."""
    i = np.arange(after, dtype=np.float64)
    if transform == "align_corners":
        length = after if after == scale * before else scale * before
        at = i * (before - 1) / (length - 1) if length > 1 else np.zeros(after)
    elif transform == "asymmetric":
        at = i / scale
    elif transform == "pytorch_half_pixel":
        at = (i + 0.5) / scale - 0.5 if scale * before > 1 else np.zeros(after)
    elif transform == "half_pixel_symmetric":
        adjust = after / (scale * before)
        centre = before / 2
        at = centre * (1 - adjust) + (i + 0.5) / scale - 0.5
    else:
        at = (i + 0.5) / scale - 0.5
    if mode == "nearest":
        rounding = {
            "floor": np.floor,
            "ceil": np.ceil,
            "round_prefer_floor": lambda v: np.ceil(v - 0.5),
            "round_prefer_ceil": lambda v: np.floor(v + 0.5),
        }[nearest]
        cells = np.clip(rounding(at), 0, before - 1).astype(int)
        return np.eye(before)[cells]
    base = np.floor(at)
    t = at - base
    if mode == "linear":
        taps = {0: 1 - t, 1: t}
    else:
        a = cubic
        taps = {
            -1: ((a * (t + 1) - 5 * a) * (t + 1) + 8 * a) * (t + 1) - 4 * a,
            0: ((a + 2) * t - (a + 3)) * t * t + 1,
            1: ((a + 2) * (1 - t) - (a + 3)) * (1 - t) ** 2 + 1,
            2: ((a * (2 - t) - 5 * a) * (2 - t) + 8 * a) * (2 - t) - 4 * a,
        }
    matrix = np.zeros((after, before))
    rows = np.arange(after)
    for offset, weight in taps.items():
        cells = (base + offset).astype(int)
        inside = (cells >= 0) & (cells < before)
        weight = np.where(inside, weight, 0) if exclude else weight
        np.add.at(matrix, (rows, np.clip(cells, 0, before - 1)), weight)
    return matrix / matrix.sum(1, keepdims=True) if exclude else matrix
