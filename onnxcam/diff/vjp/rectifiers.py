"""Activations.

At a kink the derivative is that of the flat side, as for Relu at 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.diff.vjp.table import Answer, dims, known, vjp
from onnxcam.graph.emit import Emitter
from onnxcam.graph.model import array_of

T: TypeAlias = gs.Tensor
Answers: TypeAlias = Sequence[Answer]


@vjp("Relu")
def relu(e: Emitter, g: T, y: T, x: T) -> Answers:
    return [e.Where(e.Greater(y, 0.0), g, 0.0)]


@vjp("Clip")
def clip(e: Emitter, g: T, y: T, x: T, low: T | None = None, high: T | None = None) -> Answers:
    inside = [e.Greater(y, low)] if _bounds(low) else []
    inside += [e.Less(y, high)] if _bounds(high) else []
    kept = e.And(*inside) if len(inside) == 2 else inside[0] if inside else None

    def of(bound: T) -> T:  # all that lies there moves with it
        there = e.Where(e.Equal(y, bound), g, 0.0)
        return e.Reshape(e.ReduceSum(there, keepdims=0), dims(known(bound)))

    return [
        g if kept is None else e.Where(kept, g, 0.0),
        None if low is None else lambda: of(low),
        None if high is None else lambda: of(high),
    ]


def _bounds(limit: T | None) -> bool:
    if limit is None:
        return False
    value = array_of(limit)
    return value is None or abs(float(value.item())) < float(np.finfo(np.float32).max)


@vjp("LeakyRelu")
def leaky_relu(e: Emitter, g: T, y: T, x: T, alpha: float = 0.01) -> Answers:
    return [e.Where(e.Greater(x, 0.0), g, e.Mul(g, alpha))]


@vjp("PRelu", broadcasts=True)
def prelu(e: Emitter, g: T, y: T, x: T, slope: T) -> Answers:
    positive = e.Greater(x, 0.0)
    return [
        e.Where(positive, g, e.Mul(g, slope)),
        lambda: e.Where(positive, e.tensor(0.0, g.dtype), e.Mul(g, x)),
    ]


@vjp("ThresholdedRelu")
def thresholded_relu(e: Emitter, g: T, y: T, x: T, alpha: float = 1.0) -> Answers:
    return [e.Where(e.Greater(x, alpha), g, 0.0)]


@vjp("Shrink")
def shrink(e: Emitter, g: T, y: T, x: T, lambd: float = 0.5, bias: float = 0.0) -> Answers:
    return [e.Where(e.Greater(e.Abs(x), lambd), g, 0.0)]


@vjp("Elu")
def elu(e: Emitter, g: T, y: T, x: T, alpha: float = 1.0) -> Answers:
    return [e.Where(e.Greater(x, 0.0), g, e.Mul(g, e.Add(y, alpha)))]


@vjp("Selu")
def selu(
    e: Emitter, g: T, y: T, x: T, alpha: float = 1.67326319217681884765625,
    gamma: float = 1.05070102214813232421875,
) -> Answers:  # fmt: skip
    return [e.Mul(g, e.Where(e.Greater(x, 0.0), e.tensor(gamma, y.dtype), e.Add(y, alpha * gamma)))]


@vjp("Celu")
def celu(e: Emitter, g: T, y: T, x: T, alpha: float = 1.0) -> Answers:
    return [e.Where(e.Greater(x, 0.0), g, e.Mul(g, e.Add(e.Mul(y, 1 / alpha), 1.0)))]


@vjp("HardSigmoid")
def hard_sigmoid(e: Emitter, g: T, y: T, x: T, alpha: float = 0.2, beta: float = 0.5) -> Answers:
    return [e.Where(e.And(e.Greater(y, 0.0), e.Less(y, 1.0)), e.Mul(g, alpha), 0.0)]


@vjp("HardSwish")
def hard_swish(e: Emitter, g: T, y: T, x: T) -> Answers:
    bend = e.Less(e.Abs(x), 3.0)
    slope = e.Where(bend, e.Add(e.Mul(x, 1 / 3), 0.5), e.HardSigmoid(x, alpha=1.0, beta=0.0))
    return [e.Mul(g, slope)]


@vjp("Swish")
def swish(e: Emitter, g: T, y: T, x: T, alpha: float = 1.0) -> Answers:
    s = e.Sigmoid(e.Mul(x, alpha))
    return [e.Mul(g, e.Add(s, e.Mul(e.Mul(y, alpha), e.Sub(1.0, s))))]


@vjp("Mish")
def mish(e: Emitter, g: T, y: T, x: T) -> Answers:
    t = e.Tanh(e.Softplus(x))
    bent = e.Mul(e.Mul(x, e.Sigmoid(x)), e.Sub(1.0, e.Mul(t, t)))
    return [e.Mul(g, e.Add(t, bent))]


@vjp("Gelu")
def gelu(e: Emitter, g: T, y: T, x: T, approximate: str = "none") -> Answers:
    square = e.Mul(x, x)
    if approximate == "tanh":
        root, cubic = math.sqrt(2 / math.pi), 0.044715
        t = e.Tanh(e.Mul(e.Mul(x, e.Add(e.Mul(square, cubic), 1.0)), root))
        share = e.Mul(e.Add(t, 1.0), 0.5)
        inner = e.Add(e.Mul(square, 3 * cubic * root), root)
        bent = e.Mul(e.Mul(e.Mul(x, e.Sub(1.0, e.Mul(t, t))), inner), 0.5)
    else:
        share = e.Mul(e.Add(e.Erf(e.Mul(x, math.sqrt(0.5))), 1.0), 0.5)
        bent = e.Mul(e.Mul(x, e.Exp(e.Mul(square, -0.5))), 1 / math.sqrt(2 * math.pi))
    return [e.Mul(g, e.Add(share, bent))]
