"""What moves elements about without changing them, and resizing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

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

T: TypeAlias = gs.Tensor
Answers: TypeAlias = Sequence[Answer]
LAST = 2**63 - 1
"""As an end of a Slice: the end of the axis."""


@vjp("Reshape")
def reshape(e: Emitter, g: T, y: T, x: T, shape: T, allowzero: int = 0) -> Answers:
    return [shaped(e, g, x), None]


@vjp("Flatten")
def flatten(e: Emitter, g: T, y: T, x: T, axis: int = 1) -> Answers:
    return [shaped(e, g, x)]


@vjp("Squeeze", "Unsqueeze")
def squeeze(e: Emitter, g: T, y: T, x: T, axes: T | None = None) -> Answers:
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
    ends = np.cumsum([0] + [fixed(x, at) for x in xs])
    return [
        lambda a=int(a), b=int(b): e.Slice(g, [a], [b], [at])  # type: ignore[misc]
        for a, b in itertools.pairwise(ends)
    ]


@vjp("Split", many=True)
def split(
    e: Emitter, gs_: list[T | None], ys: list[T], x: T, sizes: T | None = None, axis: int = 0,
    num_outputs: int | None = None,
) -> Answers:  # fmt: skip
    dtype = next(g.dtype for g in gs_ if g is not None)
    parts = [zeros(e, y, dtype) if g is None else g for g, y in zip(gs_, ys, strict=True)]
    return [e.Concat(*parts, axis=axis) if len(parts) > 1 else parts[0], None]


def framed(e: Emitter, g: T, low: Sequence[int], high: Sequence[int]) -> T:
    """`g` with zeros before and after it along each axis; negative numbers take cells away."""
    # Negative pads are in the standard, but not every runtime has them.
    cut = [axis for axis, ends in enumerate(zip(low, high, strict=True)) if min(ends) < 0]
    if cut:
        starts = [max(0, -low[axis]) for axis in cut]
        g = e.Slice(g, starts, [high[axis] if high[axis] < 0 else LAST for axis in cut], cut)
    wide = [max(0, n) for n in (*low, *high)]
    return e.Pad(g, wide) if any(wide) else g


@vjp("Slice")
def slice_(
    e: Emitter, g: T, y: T, x: T, starts: T, ends: T, axes: T | None = None,
    steps: T | None = None,
) -> Answers:  # fmt: skip
    if array_of(starts) is None or array_of(ends) is None:
        return [_unsliced(e, g, x, starts, axes, steps), *[None] * 4]
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
    return [framed(e, g, low, high), *[None] * 4]


def _unsliced(e: Emitter, g: T, x: T, starts: T, axes: T | None, steps: T | None) -> T:
    """`g` with zeros where a Slice left cells out from or up to a place computed in the run."""
    if set(ints(steps) or [1]) != {1}:
        raise OpError("a Slice with steps has no gradient rule where its ends are computed")
    where = [a % len(known(x)) for a in ints(axes) or range(*dims(known(starts)))]
    for axis in where:
        fixed(x, axis)  # not along the batch
    shape = e.Shape(x)
    sizes, first = e.Gather(shape, where), e.cast(starts, np.int64)
    first = e.Where(e.Less(first, 0), e.Add(first, sizes), first)
    first = e.Min(e.Max(first, 0), sizes)
    low = e.ScatterElements(np.zeros(len(known(x)), np.int64), where, first)
    return e.Pad(g, e.Concat(low, e.Sub(e.Sub(shape, e.Shape(g)), low), axis=0))


@vjp("Pad")
def pad(
    e: Emitter, g: T, y: T, x: T, pads: T, value: T | None = None, axes: T | None = None,
    mode: str = "constant",
) -> Answers:  # fmt: skip
    if mode == "constant" and array_of(pads) is None:
        return _unpadded(e, g, x, pads, value, axes)
    rank = len(known(x))
    given, where = ints(pads) or [], ints(axes)
    where = list(range(rank)) if where is None else [a % rank for a in where]
    low, high = [0] * rank, [0] * rank
    for i, axis in enumerate(where):
        low[axis], high[axis] = given[i], given[i + len(where)]
    if mode == "constant":
        inside = framed(e, g, [-n for n in low], [-n for n in high])

        def of_value() -> T:  # all that does not fall on the image
            kept = framed(e, g, [-max(0, n) for n in low], [-max(0, n) for n in high])
            outside = e.Sub(e.ReduceSum(g, keepdims=0), e.ReduceSum(kept, keepdims=0))
            return outside if value is None else e.Reshape(outside, dims(known(value)))

        return [inside, None, of_value, None]
    for axis in range(rank):
        if low[axis] or high[axis]:  # every cell of the frame is a copy of one inside
            size = fixed(x, axis)
            cells = np.arange(size)[max(0, -low[axis]) : size - max(0, -high[axis])]
            wide = (max(low[axis], 0), max(high[axis], 0))
            copies = np.pad(cells, wide, mode=mode)  # type: ignore[call-overload]
            g = along(e, g, axis, np.eye(size)[copies], rank)
    return [g, None, None, None]


def _unpadded(e: Emitter, g: T, x: T, pads: T, value: T | None, axes: T | None) -> Answers:
    """The gradient of a Pad whose widths are computed in the run; negative ones took cells away."""
    where = ints(axes) or list(range(len(known(x))))
    low, high = (e.Slice(pads, [a], [b], [0]) for a, b in ((0, len(where)), (len(where), LAST)))
    first, after = e.Max(low, 0), e.Max(high, 0)
    size = e.Gather(e.Shape(x), where)
    whole = e.Pad(g, e.Max(e.Neg(pads), 0), None, axes)
    inside = e.Slice(whole, first, e.Add(first, size), where)

    def of_value() -> T:  # all that does not fall on the image
        last = e.Sub(e.Gather(e.Shape(g), where), after)
        kept = e.ReduceSum(e.Slice(g, first, last, where), keepdims=0)
        outside = e.Sub(e.ReduceSum(g, keepdims=0), kept)
        return outside if value is None else e.Reshape(outside, dims(known(value)))

    return [inside, None, of_value, None]


@vjp("DepthToSpace")
def depth_to_space(e: Emitter, g: T, y: T, x: T, blocksize: int, mode: str = "DCR") -> Answers:
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
    rank, crop = len(known(x)), coordinate_transformation_mode == "tf_crop_and_resize"
    where = [a % rank for a in axes] if axes is not None else list(range(rank))
    factors = _factors(x, y, where, scales, sizes, keep_aspect_ratio_policy)
    box = _numbers(roi) if crop else [0.0] * len(where) + [1.0] * len(where)
    for axis, factor, *ends in zip(where, factors, box, box[len(where) :], strict=False):
        if not isinstance(known(x)[axis], int) and known(x)[axis] == known(y)[axis]:
            continue  # the batch is never resized
        before, after = fixed(x, axis), fixed(y, axis)
        if (before, factor, ends) == (after, 1, [0, 1]):
            continue
        at = _places(before, after, factor, coordinate_transformation_mode, ends, mode)
        if mode == "nearest":
            cells = np.clip(_ROUND[nearest_mode](at), 0, before - 1).astype(int)
            matrix = np.eye(before)[cells]
        else:
            blur = min(1.0, factor) if antialias else 1.0
            matrix = _weights(at, before, mode, blur, cubic_coeff_a, bool(exclude_outside))
        if crop:
            matrix[(at < 0) | (at > before - 1)] = 0
        g = along(e, g, axis, matrix, rank)
    return [g, None, None, None]


_ROUND: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda v: np.asarray(np.ceil(v - 0.5)),
    "round_prefer_ceil": lambda v: np.asarray(np.floor(v + 0.5)),
}


def _numbers(t: T | None) -> list[float]:
    """The numbers of a constant; none for none."""
    if t is None:
        return []
    array = array_of(t)
    if array is None:
        raise OpError(f"{t.name!r} must be constant for a gradient")
    return [float(n) for n in array.reshape(-1)]


def _factors(
    x: T, y: T, where: list[int], scales: T | None, sizes: T | None, policy: str
) -> list[float]:
    """How much longer each axis becomes, before lengths are rounded to cells."""
    stated = _numbers(scales)
    if stated:
        return stated
    if policy == "stretch":
        pairs = [(known(x)[a], known(y)[a]) for a in where]
        return [m / n if isinstance(m, int) and isinstance(n, int) else 1.0 for n, m in pairs]
    ratios = [n / fixed(x, a) for a, n in zip(where, ints(sizes) or [], strict=True)]
    return [(min if policy == "not_larger" else max)(ratios)] * len(where)


def _places(
    before: int, after: int, factor: float, how: str, ends: list[float], mode: str
) -> np.ndarray:
    """Where in the input the centre of each output cell lies, counted in cells."""
    # ONNX Runtime reckons in float32, and which cell is nearest may hang on that.
    kind: Any = np.float32 if mode == "nearest" else np.float64
    scale = kind(factor)
    i: Any = np.arange(after, dtype=kind)
    at = (i + 0.5) / scale
    if how in ("align_corners", "tf_crop_and_resize"):
        start, end = (n * (before - 1) for n in ends)
        single = start if how == "align_corners" else (start + end) / 2
        at = i * (end - start) / (after - 1) + start if after > 1 else i + single
    elif how == "asymmetric":
        at = i / scale
    elif how == "pytorch_half_pixel" and after == 1:
        at = 0 * i
    elif how == "half_pixel_symmetric":
        offset = before / 2 * (1 - after / (scale * before))
        at = float(offset) + (i.astype(np.float64) + 0.5) / float(scale) - 0.5  # this in float64
    else:
        at = at - 0.5
    return np.asarray(at, kind)


def _weights(
    at: np.ndarray, before: int, mode: str, blur: float, a: float, exclude: bool
) -> np.ndarray:
    """What each input cell (columns) gives to each place (rows): by distance, then summing to 1."""
    reach = int(np.ceil((2 if mode == "cubic" else 1) / blur))
    cells = np.floor(at)[:, None] + np.arange(1 - reach, reach + 1)
    d = np.abs(cells - at[:, None]) * blur
    if mode == "linear":
        shares = np.maximum(0, 1 - d)
    else:
        far = np.where(d < 2, ((a * d - 5 * a) * d + 8 * a) * d - 4 * a, 0)
        shares = np.where(d <= 1, ((a + 2) * d - (a + 3)) * d * d + 1, far)
    if exclude:
        shares = np.where((cells >= 0) & (cells < before), shares, 0)
    shares /= shares.sum(1, keepdims=True)
    matrix = np.zeros((len(at), before))
    columns = np.clip(cells, 0, before - 1).astype(int)
    np.add.at(matrix, (np.arange(len(at))[:, None], columns), shares)
    return matrix
