"""Normalisations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxcam.diff.vjp.table import Answer, dims, fixed, known, unbroadcast, vjp
from onnxcam.errors import OpError
from onnxcam.graph.emit import Emitter

T: TypeAlias = gs.Tensor
Answers: TypeAlias = Sequence[Answer]


@vjp("BatchNormalization", many=True)
def batch_normalization(
    e: Emitter, gs_: list[T | None], ys: list[T], x: T, scale: T, b: T, mean: T, var: T,
    epsilon: float = 1e-5, momentum: float = 0.9, training_mode: int = 0, spatial: int = 1,
) -> Answers:  # fmt: skip
    if training_mode or not spatial:
        raise OpError("BatchNormalization in training mode has no gradient rule")
    g = gs_[0]
    if g is None:
        return [None] * 5
    column = [1, -1] + [1] * (len(known(x)) - 2)
    space = [0, *range(2, len(known(x)))]
    inverse = e.Reciprocal(e.Sqrt(e.Add(e.cast(var, g.dtype), epsilon)))
    factor = e.Mul(e.cast(scale, g.dtype), inverse)

    def summed(t: T) -> T:
        return e.axes("ReduceSum", t, space, keepdims=0)

    def share() -> T:
        return summed(e.Mul(g, e.Sub(x, e.Reshape(e.cast(mean, g.dtype), column))))

    return [
        lambda: e.Mul(g, e.Reshape(factor, column)),
        lambda: e.Mul(share(), inverse),
        lambda: summed(g),
        lambda: e.Neg(e.Mul(summed(g), factor)),
        lambda: e.Mul(e.Mul(share(), factor), e.Mul(e.Mul(inverse, inverse), -0.5)),
    ]


@vjp("LayerNormalization", many=True)
def layer_normalization(
    e: Emitter, gs_: list[T | None], ys: list[T], x: T, scale: T, b: T | None = None,
    axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1,
) -> Answers:  # fmt: skip
    (g, *others), node = gs_, ys[0].inputs[0]
    rank = len(known(x))
    axes = list(range(axis % rank, rank))
    shape = [1 if i in axes else n for i, n in enumerate(known(x))]
    stash = onnx.helper.tensor_dtype_to_np_dtype(stash_type)
    for i, hint in ((1, "Mean"), (2, "InvStdDev")):  # the operator itself gives these two
        if len(node.outputs) <= i:
            node.outputs.append(gs.Variable(e.name(hint), stash, shape))
        elif not node.outputs[i].name:
            node.outputs[i] = gs.Variable(e.name(hint), stash, shape)
    mean, inverse = (e.cast(t, x.dtype) for t in node.outputs[1:3])
    normed = e.Mul(e.Sub(x, mean), inverse)

    def of_x() -> T:
        cells = int(np.prod([fixed(x, a) for a in axes]))
        of_mean, of_inverse = ([None if t is None else e.cast(t, x.dtype) for t in others]
                               + [None, None])[:2]  # fmt: skip
        parts = [] if g is None else [centred(e, e.Mul(g, scale), normed, inverse, axes)]
        if of_mean is not None:
            parts.append(e.Expand(e.Mul(of_mean, 1 / cells), e.Shape(x)))
        if of_inverse is not None:
            slope = e.Mul(of_inverse, e.Mul(e.Mul(inverse, inverse), -1 / cells))
            parts.append(e.Mul(slope, normed))
        return e.Sum(*parts) if len(parts) > 1 else parts[0]

    if g is None:
        return [of_x, None, None]
    return [
        of_x,
        lambda: unbroadcast(e, e.Mul(g, normed), known(x), scale),
        (lambda: unbroadcast(e, g, known(x), b)) if b is not None else None,
    ]


def centred(e: Emitter, g: T, normed: T, inverse: T, axes: list[int]) -> T:
    """The gradient through (x − mean) · inverse deviation over `axes`."""
    mean = e.axes("ReduceMean", g, axes, keepdims=1)
    share = e.axes("ReduceMean", e.Mul(g, normed), axes, keepdims=1)
    return e.Mul(e.Sub(e.Sub(g, mean), e.Mul(normed, share)), inverse)


@vjp("InstanceNormalization")
def instance_normalization(
    e: Emitter, g: T, y: T, x: T, scale: T, b: T, epsilon: float = 1e-5
) -> Answers:
    axes = list(range(2, len(known(x))))
    column = [1, -1] + [1] * len(axes)
    offset = e.Sub(x, e.axes("ReduceMean", x, axes, keepdims=1))
    variance = e.axes("ReduceMean", e.Mul(offset, offset), axes, keepdims=1)
    inverse = e.Reciprocal(e.Sqrt(e.Add(variance, epsilon)))
    normed = e.Mul(offset, inverse)
    return [
        lambda: centred(e, e.Mul(g, e.Reshape(scale, column)), normed, inverse, axes),
        lambda: e.axes("ReduceSum", e.Mul(g, normed), [0, *axes], keepdims=0),
        lambda: e.axes("ReduceSum", g, [0, *axes], keepdims=0),
    ]


@vjp("LpNormalization")
def lp_normalization(e: Emitter, g: T, y: T, x: T, axis: int = -1, p: int = 2) -> Answers:
    axes = [axis % len(known(x))]
    if p == 1:
        norm = e.axes("ReduceSum", e.Abs(x), axes, keepdims=1)
        slope = e.Sign(x)
    else:
        norm = e.Sqrt(e.axes("ReduceSum", e.Mul(x, x), axes, keepdims=1))
        slope = y
    share = e.axes("ReduceSum", e.Mul(g, y), axes, keepdims=1)
    none = e.Equal(norm, 0.0)  # the result of zeros is zeros
    whole = e.Div(e.Sub(g, e.Mul(slope, share)), e.Where(none, 1.0, norm))
    return [e.Where(none, 0.0, whole)]


@vjp("LRN")
def lrn(
    e: Emitter, g: T, y: T, x: T, size: int, alpha: float = 0.0001, beta: float = 0.75,
    bias: float = 1.0,
) -> Answers:  # fmt: skip
    # y = x · d^−β with d = bias + α/size · Σ x² over a window of channels: a band matrix.
    channels, shape = fixed(x, 1), dims(known(x))
    place = np.arange(channels)
    near = place[None] - place[:, None]
    band = ((near >= -((size - 1) // 2)) & (near <= size // 2)).astype(g.dtype) * (alpha / size)

    def over(t: T, matrix: np.ndarray) -> T:
        return e.Reshape(e.MatMul(matrix.astype(g.dtype), e.Reshape(t, [0, 0, -1])), shape)

    d = e.Add(over(e.Mul(x, x), band), bias)
    scaled = e.Mul(g, e.Pow(d, e.tensor(-beta, g.dtype)))
    back = over(e.Div(e.Mul(scaled, x), d), band.T)
    return [e.Sub(scaled, e.Mul(e.Mul(x, back), 2 * beta))]
