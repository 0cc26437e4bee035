"""What several methods share: sums over units, principal components, quotients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.graph.emit import Emitter
from onnxcam.methods.table import Needs, Result

T: TypeAlias = gs.Tensor

SQUARINGS = 12
"""Matrix squarings of the power method: of an eigenvalue ratio of 0.99 nothing is left."""


def weighted(e: Emitter, needs: Needs, weights: T) -> Result:
    """Σ_k w_k A_k: weights (N, M, K) and the feature map (N, K, h, w) give (N, M, h, w)."""
    feature = needs.feature
    assert feature is not None
    if needs.smooth == "pca":
        tall = e.axes("Unsqueeze", weights, [3, 4])
        return Result(summed(e, needs, e.Mul(tall, e.axes("Unsqueeze", feature, [1]))), weights)
    flat = e.Reshape(feature, [0, 0, -1])
    raw = e.Reshape(e.MatMul(weights, flat), [0, 0, *feature.shape[2:]])
    return Result(raw, weights)


def summed(e: Emitter, needs: Needs, products: T) -> T:
    """Σ_k of products (N, M, K, h, w); with `smooth="pca"` their first principal component.

    The component is centred, as in pytorch-grad-cam's eigen smoothing, and has the sign that goes
    along with the sum.
    """
    total = e.axes("ReduceSum", products, [2], keepdims=0)
    if needs.smooth != "pca":
        return total
    assert needs.feature is not None
    return principal(e, products, needs.feature.shape[1:], centre=True, along=total)


def principal(e: Emitter, x: T, sizes: Sequence[int], centre: bool, along: T | None = None) -> T:
    """The projection of each position on the first right singular vector of positions × units.

    Args:
        e: the emitter.
        x: (N, M, K, h, w).
        sizes: K, h, w.
        centre: subtract the mean over positions from each unit first.
        along: (N, M, h, w) which the result shall correlate with; None: its sum is not negative.

    Returns:
        (N, M, h, w).
    """
    k, h, w = sizes
    rows = e.Transpose(e.Reshape(x, [0, 0, k, h * w]), perm=[0, 1, 3, 2])  # (N, M, P, K)
    if centre:
        rows = e.Sub(rows, e.axes("ReduceMean", rows, [2], keepdims=1))
    turned = e.Transpose(rows, perm=[0, 1, 3, 2])
    by_position = h * w <= k
    gram = e.MatMul(rows, turned) if by_position else e.MatMul(turned, rows)
    vector = _dominant(e, gram, min(h * w, k))
    if by_position:  # rows · v for v = rowsᵀ u / ‖rowsᵀ u‖
        vector = _unit(e, e.MatMul(turned, vector))
    projected = e.MatMul(rows, vector)
    like = projected
    if along is not None:
        like = e.Reshape(along, [0, 0, h * w, 1])
        like = e.Mul(projected, e.Sub(like, e.axes("ReduceMean", like, [2], keepdims=1)))
    agreement = e.axes("ReduceSum", like, [2], keepdims=1)
    signed = e.Where(e.Less(agreement, 0.0), e.Neg(projected), projected)
    return e.Reshape(signed, [0, 0, h, w])


def _dominant(e: Emitter, gram: T, size: int) -> T:
    """The eigenvector of the largest eigenvalue: (…, S, S) → (…, S, 1)."""
    power = gram
    for _ in range(SQUARINGS):
        power = _scaled(e, power, [2, 3])
        power = e.MatMul(power, power)
    # What is left is u · uᵀ: of its columns the one with the largest element on the diagonal.
    diagonal = e.axes("ReduceSum", e.Mul(power, np.eye(size, dtype=np.float32)), [3], keepdims=0)
    best = e.ArgMax(diagonal, axis=2, keepdims=0)
    depth = e.tensor(np.array(size, np.int64))
    pick = e.OneHot(best, depth, np.array([0, 1], np.float32), axis=-1)
    pick.dtype = np.dtype(np.float32)
    vector = _unit(e, e.MatMul(power, e.axes("Unsqueeze", pick, [3])))
    for _ in range(2):  # and what the squarings rounded off
        vector = _unit(e, e.MatMul(gram, vector))
    return vector


def _scaled(e: Emitter, x: T, axes: list[int]) -> T:
    """x over its largest magnitude along `axes`; zeros stay zeros."""
    top = e.axes("ReduceMax", e.Abs(x), axes, keepdims=1)
    return e.Div(x, e.Where(e.Equal(top, 0.0), 1.0, top))


def _unit(e: Emitter, vector: T) -> T:
    scaled = _scaled(e, vector, [2, 3])  # its squares neither vanish nor overflow
    norm = e.Sqrt(e.axes("ReduceSum", e.Mul(scaled, scaled), [2, 3], keepdims=1))
    return e.Div(scaled, e.Where(e.Equal(norm, 0.0), 1.0, norm))


def over(e: Emitter, x: T, y: T) -> T:
    """x / y, and 0 where y is 0."""
    none = e.Equal(y, 0.0)
    return e.Where(none, 0.0, e.Div(x, e.Where(none, 1.0, y)))
