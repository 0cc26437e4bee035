"""Pools: a window slides over the grid of every channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.diff.vjp.convolution import Window, repeated, spread, window
from onnxcam.diff.vjp.table import Answer, addable, dims, fixed, known, shaped, vjp, zeros
from onnxcam.diff.vjp.views import framed
from onnxcam.graph.emit import Emitter

T: TypeAlias = gs.Tensor
Answers: TypeAlias = Sequence[Answer]


@vjp("MaxPool", many=True)
def max_pool(
    e: Emitter, gs_: list[T | None], ys: list[T], x: T, kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET", ceil_mode: int = 0, dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None, storage_order: int = 0,
    strides: Sequence[int] | None = None,
) -> Answers:  # fmt: skip
    g, node = gs_[0], ys[0].inputs[0]
    if g is None:
        return [None]
    if storage_order:  # its places are counted column by column: once more, row by row
        node = e.op("MaxPool", [x], {**node.attrs, "storage_order": 0}, 2)[0].inputs[0]
        node.outputs[1].dtype = np.dtype(np.int64)
    if len(node.outputs) == 1:  # the pool itself says where each maximum was: the first one
        node.outputs.append(gs.Variable(e.name("Indices"), np.dtype(np.int64), ys[0].shape))
    steps, gaps = strides or [1] * len(kernel_shape), dilations or [1] * len(kernel_shape)
    apart = all(d * (k - 1) < s for k, d, s in zip(kernel_shape, gaps, steps, strict=True))
    return [scattered(e, g, node.outputs[1], x, "none" if apart else "add")]


def scattered(e: Emitter, g: T, places: T, x: T, reduction: str) -> T:
    """`g` laid at its places in a tensor like `x`, all counted from the first element."""
    g = addable(e, g) if reduction == "add" else g
    nothing = e.ConstantOfShape(e.Reshape(e.Size(x), [1]), value=gs.Constant("value",
                                np.zeros(1, g.dtype)))  # fmt: skip
    nothing.dtype = g.dtype
    flat = e.ScatterElements(
        nothing, e.Reshape(places, [-1]), e.Reshape(g, [-1]), axis=0, reduction=reduction
    )
    return shaped(e, flat, x)


@vjp("MaxUnpool")
def max_unpool(
    e: Emitter, g: T, y: T, x: T, places: T, shape: T | None = None,
    kernel_shape: Sequence[int] = (), pads: Sequence[int] = (), strides: Sequence[int] = (),
) -> Answers:  # fmt: skip
    return [e.Reshape(e.Gather(e.Reshape(g, [-1]), e.Reshape(places, [-1])), dims(known(x))), None]


@vjp("AveragePool")
def average_pool(
    e: Emitter, g: T, y: T, x: T, kernel_shape: Sequence[int], auto_pad: str = "NOTSET",
    ceil_mode: int = 0, count_include_pad: int = 0, dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None, strides: Sequence[int] | None = None,
) -> Answers:  # fmt: skip
    at = window(x, y, kernel_shape, strides, dilations, pads, auto_pad)
    counts = np.ones([1] * len(at.size))
    for i, line in enumerate(_counts(at, bool(count_include_pad))):
        counts = counts * line.reshape([-1 if j == i else 1 for j in range(len(at.size))])
    share = (1 / np.maximum(counts, 1)).astype(g.dtype)  # some windows lie beside the grid
    share = share.reshape(-1)[:1] if np.all(counts == counts.flat[0]) else share
    return [spread_evenly(e, e.Mul(g, share), x, at)]


def _counts(at: Window, padding: bool) -> list[np.ndarray]:
    """How many cells each window counts along each axis."""
    lines = []
    for n, o, k, s, d, begin, end in zip(
        at.size, at.out, at.kernel, at.strides, at.dilations, at.begins, at.ends, strict=True
    ):
        cells = np.arange(o)[:, None] * s + np.arange(k) * d - begin
        low, high = (-begin, n + end) if padding else (0, n)
        lines.append(((cells >= low) & (cells < high)).sum(1).astype(np.float64))
    return lines


def spread_evenly(e: Emitter, g: T, x: T, at: Window) -> T:
    """Every cell of the output given to all cells of its window: (N, C, *out) → (N, C, *size)."""
    plain = at.kernel == at.strides and set(at.dilations) == {1} and not any(at.begins)
    if plain and min(at.left) >= 0:
        space = [0] * len(at.size)
        return framed(e, repeated(e, g, at.kernel), [0, 0, *space], [0, 0, *at.left])
    channels = fixed(x, 1)
    ones = e.tensor(np.ones((channels, 1, *at.kernel), g.dtype))
    return spread(e, g, ones, at, channels)


@vjp("LpPool")
def lp_pool(
    e: Emitter, g: T, y: T, x: T, kernel_shape: Sequence[int], auto_pad: str = "NOTSET",
    ceil_mode: int = 0, dilations: Sequence[int] | None = None, p: int = 2,
    pads: Sequence[int] | None = None, strides: Sequence[int] | None = None,
) -> Answers:  # fmt: skip
    at = window(x, y, kernel_shape, strides, dilations, pads, auto_pad)
    return [e.Mul(spread_evenly(e, _by_norm(e, g, y, p), x, at), _signed_power(e, x, p))]


@vjp("GlobalLpPool")
def global_lp_pool(e: Emitter, g: T, y: T, x: T, p: int = 2) -> Answers:
    return [e.Mul(_by_norm(e, g, y, p), _signed_power(e, x, p))]


def _by_norm(e: Emitter, g: T, y: T, p: int) -> T:
    """g · y^(1 − p), 0 where the norm is 0."""
    if p == 1:
        return g
    none = e.Equal(y, 0.0)
    below = e.Pow(e.Where(none, 1.0, y), e.tensor(float(p - 1), g.dtype))
    return e.Where(none, 0.0, e.Div(g, below))


def _signed_power(e: Emitter, x: T, p: int) -> T:
    """sign(x) · |x|^(p − 1)."""
    if p == 1:
        return e.Sign(x)
    return x if p == 2 else e.Mul(x, e.Pow(e.Abs(x), e.tensor(p - 2.0, x.dtype)))


@vjp("GlobalAveragePool")
def global_average_pool(e: Emitter, g: T, y: T, x: T) -> Answers:
    cells = int(np.prod([fixed(x, i) for i in range(2, len(known(x)))]))
    return [e.Expand(e.Mul(g, 1 / cells), e.Shape(x))]


@vjp("GlobalMaxPool")
def global_max_pool(e: Emitter, g: T, y: T, x: T) -> Answers:
    flat = e.Reshape(x, [0, 0, -1])
    first = e.ArgMax(flat, axis=2, keepdims=1)
    tall = e.Reshape(g, [0, 0, 1])
    return [shaped(e, e.ScatterElements(zeros(e, flat, g.dtype), first, tall, axis=2), x)]
