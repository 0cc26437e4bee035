"""Quantised operators, straight through: rounding counts as no change, clipping as clipping.

The cotangent of an integer tensor is the derivative for its integers, as if they were reals. So
every scale is an ordinary factor, and a quantiser that clips at zero (a fused Relu) keeps its kink.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.diff.vjp.table import Answer, fixed, known, vjp
from onnxcam.graph.emit import Emitter

T: TypeAlias = gs.Tensor
Answers: TypeAlias = Sequence[Answer]


_FLOATS = {
    **{"float8_e4m3fn": 448.0, "float8_e4m3fnuz": 240.0, "float4_e2m1fn": 6.0},
    **{"float8_e5m2": 57344.0, "float8_e5m2fnuz": 57344.0},
}
"""The largest number of each type of few bits."""


@vjp("QuantizeLinear")
def quantize_linear(
    e: Emitter, g: T, y: T, x: T, scale: T, zero: T | None = None, axis: int = 1,
    block_size: int = 0, output_dtype: int = 0, saturate: int = 1, precision: int = 0,
) -> Answers:  # fmt: skip
    steps = column(e, scale, x, axis, g.dtype, block_size)
    level = e.Div(e.cast(x, g.dtype), steps)
    if zero is not None and np.dtype(y.dtype).name not in _FLOATS:  # there it only says the type
        level = e.Add(level, column(e, zero, x, axis, g.dtype, block_size))
    low, high = _limits(np.dtype(y.dtype))
    inside = e.And(e.Greater(level, low), e.Less(level, high))
    return [e.Where(inside, e.Div(g, steps), 0.0), None, None]


@vjp("DequantizeLinear")
def dequantize_linear(
    e: Emitter, g: T, y: T, x: T, scale: T, zero: T | None = None, axis: int = 1,
    block_size: int = 0, output_dtype: int = 0,
) -> Answers:  # fmt: skip
    return [e.Mul(g, column(e, scale, x, axis, g.dtype, block_size)), None, None]


@vjp("DynamicQuantizeLinear", many=True)
def dynamic_quantize_linear(e: Emitter, gs_: list[T | None], ys: list[T], x: T) -> Answers:
    g = gs_[0]
    return [None if g is None else e.Div(g, ys[1])]  # the range itself is taken as given


def _limits(dtype: np.dtype) -> tuple[float, float]:
    """The range of an integer type or of a float type of few bits."""
    if dtype.name in _FLOATS:
        return -_FLOATS[dtype.name], _FLOATS[dtype.name]
    unsigned = dtype.name.startswith("u")
    bits = int(dtype.name.removeprefix("u").removeprefix("int"))
    return (0.0, 2.0**bits - 1) if unsigned else (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1)


def column(e: Emitter, t: T, x: T, axis: int, dtype: np.dtype, block: int = 0) -> T:
    """A scale or zero point shaped to be broadcast to `x`: one number for all, for each place on
    `axis`, or for each block of places there."""
    t, rank = e.cast(t, dtype), len(known(x))
    if block:
        return e.Gather(t, np.arange(fixed(x, axis % rank)) // block, axis=axis)
    if len(known(t)) != 1 or known(t)[0] == 1:
        return t
    return e.Reshape(t, [-1 if i == axis % rank else 1 for i in range(rank)])
