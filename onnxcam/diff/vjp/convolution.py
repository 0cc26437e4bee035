"""Convolutions. The gradient for the image is a convolution again wherever weights are constant.

ONNX Runtime's Conv is much faster than its ConvTranspose, so strides are undone by hand: every
phase of the input grid sees its own part of the kernel (sub-pixel convolution).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.diff.vjp.table import Answer, fixed, known, vjp
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
        """Cells at the end of each padded axis that no window reaches (negative: it reaches out)."""
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
    weights = array_of(w)
    if weights is None or min(at.begins) < 0:
        return _transposed(e, g, w, at, group)
    one = all(s == 1 for s in at.strides)
    reach = [span - 1 - b for span, b in zip(at.spans, at.begins, strict=True)]
    ends = [span - 1 + n for span, n in zip(at.spans, at.left, strict=True)]
    if one and min(reach + ends) >= 0:
        turned = e.tensor(_turned(weights, group))
        return e.Conv(g, turned, pads=[*reach, *ends], dilations=at.dilations, group=group)
    if all(k == 1 for k in at.kernel) and not any(at.begins):
        return _apart(e, e.Conv(g, e.tensor(_turned(weights, group)), group=group), at)
    if at.strides == [2, 2] and at.dilations == [1, 1] and group in (1, len(weights)):
        return _by_phases(e, g, weights, at, group)
    return _transposed(e, g, w, at, group)


def _turned(weights: np.ndarray, group: int) -> np.ndarray:
    """Weights (M, C/group, *kernel) → (C, M/group, *kernel), every axis of the kernel reversed."""
    m, c, *kernel = weights.shape
    grouped = weights.reshape(group, m // group, c, *kernel).swapaxes(1, 2)
    flipped = np.flip(grouped, axis=tuple(range(3, 3 + len(kernel))))
    return np.ascontiguousarray(flipped.reshape(group * c, m // group, *kernel))


def _apart(e: Emitter, g: T, at: Window) -> T:
    """Zeros between the cells of `g`, up to the size of the input grid (a kernel of one cell)."""
    if not all(s == 1 for s in at.strides):
        tall = [0, 0]
        for o in at.out:
            tall += [o, 1]
        pads = [0] * len(tall) + [0, 0]
        for s in at.strides:
            pads += [0, s - 1]
        wide = [o * s for o, s in zip(at.out, at.strides, strict=True)]
        g = e.Reshape(e.Pad(e.Reshape(g, tall), pads), [0, 0, *wide])
    missing = [n - o * s for n, o, s in zip(at.size, at.out, at.strides, strict=True)]
    return framed(e, g, [0, 0, *[0] * len(missing)], [0, 0, *missing])


def _by_phases(e: Emitter, g: T, weights: np.ndarray, at: Window, group: int) -> T:
    """Stride 2: cell i of the input is in phase r = (i + begin) mod 2, and sees every 2nd tap.

    With q = (i + begin) // 2 it is Σ_u g[q − u] · w[r + 2u]: for each phase a convolution of `g`
    at its own resolution; DepthToSpace weaves the four phases together.
    """
    m, c, *kernel = weights.shape
    taps = [-(-k // 2) for k in kernel]
    cells = [-(-(n + b) // 2) for n, b in zip(at.size, at.begins, strict=True)]
    padded = np.zeros((m, c, *(2 * t for t in taps)), weights.dtype)
    padded[:, :, : kernel[0], : kernel[1]] = weights
    ends = [n - o for n, o in zip(cells, at.out, strict=True)]
    if min(ends) < 0:  # output cells that no input cell reaches
        g = e.Slice(g, [0, 0], cells, [2, 3])
        ends = [max(0, n) for n in ends]
    pads = [taps[0] - 1, taps[1] - 1, *ends]
    phases = [padded[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    if group == 1:
        woven = np.stack([_turned(p, 1) for p in phases], 1)  # (C, 4, M, taps)
        rows = woven.reshape(4 * c, m, *taps)
        fine = e.DepthToSpace(e.Conv(g, e.tensor(rows), pads=pads), blocksize=2, mode="CRD")
    else:  # depthwise: one convolution for each phase keeps the fast depthwise kernel
        parts = [e.Conv(g, e.tensor(_turned(p, group)), pads=pads, group=group) for p in phases]
        fine = e.DepthToSpace(e.Concat(*parts, axis=1), blocksize=2, mode="DCR")
    if [2 * n for n in cells] == at.size and not any(at.begins):
        return fine
    last = [b + n for b, n in zip(at.begins, at.size, strict=True)]
    return e.Slice(fine, at.begins, last, [2, 3])


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
    swap = [1, 0, *range(2, rank + 2)]
    ends = [max(0, -n) for n in at.left]
    parts = []
    m, c = fixed(w, 0) // group, fixed(w, 1)
    for i in range(group):
        image = x if group == 1 else e.Slice(x, [i * c], [(i + 1) * c], [1])
        kernel = g if group == 1 else e.Slice(g, [i * m], [(i + 1) * m], [1])
        product = e.Conv(
            e.Transpose(image, perm=swap), e.Transpose(kernel, perm=swap),
            pads=[*at.begins, *ends], strides=at.dilations, dilations=at.strides,
        )  # fmt: skip
        parts.append(e.Transpose(product, perm=swap))
    whole = parts[0] if group == 1 else e.Concat(*parts, axis=0)
    return e.Slice(whole, [0] * rank, at.kernel, list(range(2, rank + 2)))
