"""Convolutions.

The gradient for the image is a ConvTranspose. Where weights are constant and that is faster, it is
written as a Conv with the kernel turned around: without strides, for kernels of one cell, and for
depthwise kernels, where ConvTranspose goes through the channels one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.diff.vjp.table import Answer, fixed, ints, known, shaped, vjp
from onnxcam.diff.vjp.views import framed
from onnxcam.graph.emit import Emitter
from onnxcam.graph.model import array_of

T: TypeAlias = gs.Tensor
Answers: TypeAlias = Sequence[Answer]


@dataclass(frozen=True)
class Window:
    """How a window slides over a grid: sizes along each spatial axis.

    `size` of the input grid, `out` of the output grid, `kernel`, `strides`, `dilations`, and the
    padding at the begin and at the end of each axis.
    """

    size: list[int]
    out: list[int]
    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    begins: list[int]
    ends: list[int]

    @property
    def spans(self) -> list[int]:
        """Extent of the dilated kernel along each axis."""
        return [d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]

    @property
    def left(self) -> list[int]:
        """Cells at the end of each padded axis that no window reaches; negative: it reaches out."""
        cells = zip(self.size, self.begins, self.out, self.strides, self.spans, strict=True)
        return [n + b - ((o - 1) * s + span) for n, b, o, s, span in cells]


def window(
    x: T, y: T, kernel: Sequence[int], strides: Sequence[int] | None,
    dilations: Sequence[int] | None, pads: Sequence[int] | None, auto_pad: str,
) -> Window:  # fmt: skip
    """The window of a convolution or pool from its attributes, automatic padding settled."""
    rank = len(known(x))
    size, out = ([fixed(t, i) for i in range(2, rank)] for t in (x, y))
    count = rank - 2
    steps, gaps = list(strides or [1] * count), list(dilations or [1] * count)
    begins, ends = list(pads or [0] * 2 * count)[:count], list(pads or [0] * 2 * count)[count:]
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        for i in range(count):
            span = gaps[i] * (kernel[i] - 1) + 1
            whole = max(0, (out[i] - 1) * steps[i] + span - size[i])
            small, large = whole // 2, whole - whole // 2
            begins[i], ends[i] = (small, large) if auto_pad == "SAME_UPPER" else (large, small)
    elif auto_pad == "VALID":
        begins, ends = [0] * count, [0] * count
    return Window(size, out, list(kernel), steps, gaps, begins, ends)


@vjp("Conv")
def conv(
    e: Emitter, g: T, y: T, x: T, w: T, b: T | None = None, auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None, group: int = 1,
    kernel_shape: Sequence[int] | None = None, pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Answers:  # fmt: skip
    kernel = [fixed(w, i) for i in range(2, len(known(w)))]
    at = window(x, y, kernel, strides, dilations, pads, auto_pad)
    space = [0, *range(2, len(known(y)))]
    return [
        lambda: spread(e, g, w, at, group),
        lambda: for_weights(e, g, x, w, at, group),
        lambda: e.axes("ReduceSum", g, space, keepdims=0),
    ]


@vjp("ConvTranspose")
def conv_transpose(
    e: Emitter, g: T, y: T, x: T, w: T, b: T | None = None, auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None, group: int = 1,
    kernel_shape: Sequence[int] | None = None, output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None, pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Answers:  # fmt: skip
    # It is the spread of a convolution from y to x: its gradient is that convolution.
    kernel = [fixed(w, i) for i in range(2, len(known(w)))]
    at = window(y, x, kernel, strides, dilations, pads, "NOTSET")
    if output_shape is not None or auto_pad != "NOTSET":
        extra = output_padding or [0] * len(kernel)
        cells = zip(at.out, at.strides, at.spans, extra, at.size, strict=True)
        whole = [(o - 1) * s + span + p - n for o, s, span, p, n in cells]
        upper = auto_pad == "SAME_UPPER"
        at.begins[:] = [t // 2 if upper else t - t // 2 for t in whole]
        at.ends[:] = [t - begin for t, begin in zip(whole, at.begins, strict=True)]
    low, high = [min(0, b) for b in at.begins], [min(0, -n) for n in at.left]
    cut = framed(e, g, [0, 0, *low], [0, 0, *high])
    gathered = {"strides": at.strides, "dilations": at.dilations, "group": group}
    space = [0, *range(2, len(known(y)))]

    def image() -> T:
        ends = [max(0, -n) for n in at.left]
        begins = [max(0, b) for b in at.begins]
        return e.Conv(cut, w, pads=[*begins, *ends], kernel_shape=kernel, **gathered)

    return [
        image,
        lambda: for_weights(e, x, g, w, at, group),
        lambda: e.axes("ReduceSum", g, space, keepdims=0),
    ]


def spread(e: Emitter, g: T, w: T, at: Window, group: int) -> T:
    """The gradient of a convolution for its image: (N, M, *out) → (N, C, *size)."""
    if array_of(w) is None or min(at.begins) < 0:
        return _transposed(e, g, w, at, group)
    if all(k == 1 for k in at.kernel) and not any(at.begins):
        g = e.Conv(g, _turned(e, w, group), group=group)
        missing = [n - s * o for n, o, s in zip(at.size, at.out, at.strides, strict=True)]
        space = [0] * len(missing)
        return framed(e, _apart(e, g, at), [0, 0, *space], [0, 0, *missing])
    if any(s > 1 for s in at.strides) and fixed(w, 0) > group:
        return _transposed(e, g, w, at, group)
    reach = [span - 1 - b for span, b in zip(at.spans, at.begins, strict=True)]
    cells = zip(at.size, at.out, at.strides, at.begins, strict=True)
    ends = [n - s * o + b for n, o, s, b in cells]
    if min(reach + ends) < 0:
        return _transposed(e, g, w, at, group)
    pads = [*reach, *ends]
    turned = _turned(e, w, group)
    return e.Conv(_apart(e, g, at), turned, pads=pads, dilations=at.dilations, group=group)


def _turned(e: Emitter, w: T, group: int) -> T:
    """Weights (M, C/group, *kernel) → (C, M/group, *kernel), every axis of the kernel reversed."""
    m, c, *kernel = (fixed(w, i) for i in range(len(known(w))))
    n, axes = len(kernel), [i + 2 for i, k in enumerate(kernel) if k > 1]
    if group == 1:
        turned = e.Transpose(w, perm=[1, 0, *range(2, 2 + n)])
    elif m == group:
        turned = w if c == 1 else e.Reshape(w, [group * c, 1, *kernel])
    else:
        grouped = e.Reshape(w, [group, m // group, c, *kernel])
        swapped = e.Transpose(grouped, perm=[0, 2, 1, *range(3, 3 + n)])
        turned = e.Reshape(swapped, [group * c, m // group, *kernel])
    if not axes:
        return turned
    last, before = [-1] * len(axes), [-(1 << 30)] * len(axes)
    return e.Slice(turned, last, before, axes, last)


def _apart(e: Emitter, g: T, at: Window) -> T:
    """`g` with strides − 1 zeros behind each cell, along every spatial axis."""
    if all(s == 1 for s in at.strides):
        return g
    every = np.ones([1, 1] + [1] * len(at.out), g.dtype)
    for axis, (o, s) in enumerate(zip(at.out, at.strides, strict=True), 2):
        line = np.arange(o * s) % s == 0
        every = every * line.reshape([-1 if i == axis else 1 for i in range(every.ndim)])
    return e.Mul(repeated(e, g, at.strides), every.astype(g.dtype))


def repeated(e: Emitter, g: T, times: Sequence[int]) -> T:
    """Every cell of `g` as a block of cells, `times` of them along each spatial axis."""
    scales = e.tensor(np.array([1, 1, *times], np.float32))
    how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return e.Resize(g, None, scales, mode="nearest", **how)


def _transposed(e: Emitter, g: T, w: T, at: Window, group: int) -> T:
    begins = [max(0, b) for b in at.begins]
    over = [max(0, -n) for n in at.left]
    result = e.ConvTranspose(
        g, w, strides=at.strides, dilations=at.dilations, group=group, kernel_shape=at.kernel,
        pads=[*begins, *over],
    )  # fmt: skip
    low, high = [max(0, -b) for b in at.begins], [max(0, n) for n in at.left]
    return framed(e, result, [0, 0, *(-n for n in low)], [0, 0, *high])


def for_weights(e: Emitter, g: T, x: T, w: T, at: Window, group: int) -> T:
    """The gradient of a convolution for its weights, (M, C/group, *kernel).

    A convolution over the batch: channels of the image as its batch, the cotangent as its kernel,
    strides and dilations in each other's place.
    """
    rank = len(at.size)
    space = list(range(2, rank + 2))
    ends = [max(0, -n) for n in at.left]
    m, c = fixed(w, 0) // group, fixed(w, 1)
    if group == 1:
        image, kernel = (e.Transpose(t, perm=[1, 0, *space]) for t in (x, g))
    else:  # the groups stay apart: image (C, group · N), kernel (group · M, N)
        last = [n + 1 for n in space]
        image = e.Transpose(e.Reshape(x, [-1, group, c, *at.size]), perm=[2, 1, 0, *last])
        kernel = e.Transpose(e.Reshape(g, [-1, group, m, *at.out]), perm=[1, 2, 0, *last])
        image = e.Reshape(image, [c, -1, *at.size])
        kernel = e.Reshape(kernel, [group * m, -1, *at.out])
    product = e.Conv(
        image, kernel, pads=[*at.begins, *ends], strides=at.dilations, dilations=at.strides,
        group=group,
    )  # fmt: skip
    whole = e.Transpose(product, perm=[1, 0, *space])
    return e.Slice(whole, [0] * rank, at.kernel, space)


@vjp("Col2Im")
def col2im(
    e: Emitter, g: T, y: T, x: T, image: T, block: T, dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None, strides: Sequence[int] | None = None,
) -> Answers:  # fmt: skip
    # Blocks are cut out again by a convolution with one output channel for each cell of a block.
    kernel, channels = ints(block) or [], fixed(y, 1)
    taps = int(np.prod(kernel))
    cells = np.tile(np.eye(taps, dtype=g.dtype), (channels, 1)).reshape(-1, 1, *kernel)
    blocks = e.Conv(g, cells, pads=pads, strides=strides, dilations=dilations, group=channels)
    return [shaped(e, blocks, x), None, None]
