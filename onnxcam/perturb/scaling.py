"""Maps brought to another size, and to the range from 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import onnx_graphsurgeon as gs

from onnxcam.graph.emit import Emitter

T: TypeAlias = gs.Tensor


def resized(e: Emitter, x: T, size: Sequence[int]) -> T:
    """Maps (N, M, h, w) brought to `size` (H, W): bilinear, pixel centres aligned (half-pixel)."""
    return e.Resize(
        x, None, None, list(size), axes=[2, 3], mode="linear",
        coordinate_transformation_mode="half_pixel",
    )  # fmt: skip


def min_max(e: Emitter, x: T, axes: list[int]) -> T:
    """x brought to 0 … 1 along `axes`; 0 where it is constant."""
    low = e.axes("ReduceMin", x, axes, keepdims=1)
    span = e.Sub(e.axes("ReduceMax", x, axes, keepdims=1), low)
    flat = e.Equal(span, 0.0)
    return e.Where(flat, 0.0, e.Div(e.Sub(x, low), e.Where(flat, 1.0, span)))
