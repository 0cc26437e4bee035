"""Maps brought to another size, and to the range from 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.graph.emit import Emitter

T: TypeAlias = gs.Tensor


def resized(e: Emitter, x: T, grid: Sequence[int], size: Sequence[int]) -> T:
    """Maps (N, M, h, w) of `grid` (h, w) brought to `size` (H, W): bilinear, half-pixel centres.

    By scales: an attribute `axes`, which sizes would need, is unknown to opset 17 and to OpenCV.
    """
    scales = [1.0, 1.0, *(_scale(s, t) for s, t in zip(grid, size, strict=True))]
    return e.Resize(
        x, None, np.array(scales, np.float32), mode="linear",
        coordinate_transformation_mode="half_pixel",
    )  # fmt: skip


def _scale(source: int, target: int) -> np.float32:
    """The least scale in float32 that makes `target` of `source`, the product rounded down."""
    scale = np.float32(target / source)
    return scale if float(scale) * source >= target else np.nextafter(scale, np.float32(np.inf))


def min_max(e: Emitter, x: T, axes: list[int]) -> T:
    """x brought to 0 … 1 along `axes`; 0 where it is constant."""
    low = e.axes("ReduceMin", x, axes, keepdims=1)
    span = e.Sub(e.axes("ReduceMax", x, axes, keepdims=1), low)
    flat = e.Equal(span, 0.0)
    return e.Where(flat, 0.0, e.Div(e.Sub(x, low), e.Where(flat, 1.0, span)))
