"""Quantised operators, straight through: rounding counts as no change, clipping as clipping.

The cotangent of an integer tensor is the derivative for its integers, as if they were reals. So
every scale is an ordinary factor, and a quantiser that clips at zero (a fused Relu) keeps its kink.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.diff.vjp.table import Answer, known, vjp
from onnxcam.errors import OpError
from onnxcam.graph.emit import Emitter

T: TypeAlias = gs.Tensor
Answers: TypeAlias = Sequence[Answer]


@vjp("QuantizeLinear")
def quantize_linear(
    e: Emitter, g: T, y: T, x: T, scale: T, zero: T | None = None, axis: int = 1,
    block_size: int = 0, output_dtype: int = 0, saturate: int = 1, precision: int = 0,
) -> Answers:  # fmt: skip
    if block_size:
        raise OpError("QuantizeLinear in blocks has no gradient rule")
    steps = _column(e, scale, x, axis)
    limits = np.iinfo(y.dtype)
    level = e.Div(x, steps)
    if zero is not None:
        level = e.Add(level, _column(e, e.cast(zero, x.dtype), x, axis))
    inside = e.And(e.Greater(level, float(limits.min)), e.Less(level, float(limits.max)))
    return [e.Where(inside, e.Div(g, steps), 0.0), None, None]


@vjp("DequantizeLinear")
def dequantize_linear(
    e: Emitter, g: T, y: T, x: T, scale: T, zero: T | None = None, axis: int = 1,
    block_size: int = 0, output_dtype: int = 0,
) -> Answers:  # fmt: skip
    if block_size:
        raise OpError("DequantizeLinear in blocks has no gradient rule")
    return [e.Mul(g, _column(e, scale, x, axis)), None, None]


@vjp("DynamicQuantizeLinear", many=True)
def dynamic_quantize_linear(e: Emitter, gs_: list[T | None], ys: list[T], x: T) -> Answers:
    g = gs_[0]
    return [None if g is None else e.Div(g, ys[1])]  # the range itself is taken as given


def _column(e: Emitter, t: T, x: T, axis: int) -> T:
    """A scale or zero point for each channel, shaped to be broadcast along `axis`."""
    if t.shape is None or len(t.shape) != 1 or t.shape[0] == 1:
        return t
    rank = len(known(x))
    return e.Reshape(t, [-1 if i == axis % rank else 1 for i in range(rank)])
