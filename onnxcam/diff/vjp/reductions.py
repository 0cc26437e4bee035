"""Reductions along axes, and what works along one axis: softmax, running sums, the largest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.diff.vjp.table import Answer, dims, fixed, ints, known, vjp, zeros
from onnxcam.graph.emit import Emitter

T: TypeAlias = gs.Tensor
Answers: TypeAlias = Sequence[Answer]
Axes = T | Sequence[int] | None


def _kept(e: Emitter, x: T, axes: Axes, noop: int, *ts: T) -> tuple[list[int], list[T]]:
    """The axes reduced, and tensors of the result's shape with these axes kept as 1."""
    given = ints(axes)
    rank = len(known(x))
    if not given:
        given = [] if noop else list(range(rank))
    reduced = sorted({a % rank for a in given})
    shape = [1 if i in reduced else n for i, n in enumerate(known(x))]
    return reduced, [t if len(known(ts[-1])) == rank else e.Reshape(t, dims(shape)) for t in ts]


def _reduction(op: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """A row for a reduction: `formula(e, g, y, x, axes)`, `g` and `y` with the axes kept as 1."""

    def add(formula: Callable[..., T]) -> Callable[..., T]:
        def rule(
            e: Emitter, g: T, y: T, x: T, axes: Axes = None, keepdims: int = 1,
            noop_with_empty_axes: int = 0,
        ) -> Answers:  # fmt: skip
            reduced, (tall, value) = _kept(e, x, axes, noop_with_empty_axes, g, y)
            return [formula(e, tall, value, x, reduced)] + ([None] if axes is not None else [])

        vjp(op)(rule)
        return formula

    return add


@_reduction("ReduceSum")
def _reduce_sum(e: Emitter, g: T, y: T, x: T, axes: list[int]) -> T:
    return e.Expand(g, e.Shape(x))


@_reduction("ReduceMean")
def _reduce_mean(e: Emitter, g: T, y: T, x: T, axes: list[int]) -> T:
    cells = int(np.prod([fixed(x, a) for a in axes]))
    return e.Expand(e.Mul(g, 1 / cells), e.Shape(x))


@_reduction("ReduceMax")
@_reduction("ReduceMin")
def _reduce_extreme(e: Emitter, g: T, y: T, x: T, axes: list[int]) -> T:
    hit = e.Equal(x, y)  # equals share the gradient
    count = e.axes("ReduceSum", e.cast(hit, g.dtype), axes, keepdims=1) if axes else 1.0
    return e.Where(hit, e.Div(g, count), 0.0)


@vjp("ReduceProd")
def reduce_prod(
    e: Emitter, g: T, y: T, x: T, axes: Axes = None, keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Answers:  # fmt: skip
    # The product of all others is y / x where no factor is 0; beside a single 0 nothing passes, but
    # the 0 itself passes the product of the others.
    reduced, (tall, _) = _kept(e, x, axes, noop_with_empty_axes, g, y)
    node, zero = y.inputs[0], e.Equal(x, 0.0)
    whole = e.Where(zero, 1.0, x)
    product = e.again(node, [whole, *node.inputs[1:]], keepdims=1)[0]
    count = e.cast(zero, g.dtype)
    others = e.Sub(e.axes("ReduceSum", count, reduced, keepdims=1) if reduced else count, count)
    return [e.Mul(tall, e.Where(e.Equal(others, 0.0), e.Div(product, whole), 0.0)), None]


@_reduction("ReduceL1")
def _reduce_l1(e: Emitter, g: T, y: T, x: T, axes: list[int]) -> T:
    return e.Mul(g, e.Sign(x))


@_reduction("ReduceL2")
def _reduce_l2(e: Emitter, g: T, y: T, x: T, axes: list[int]) -> T:
    none = e.Equal(y, 0.0)
    return e.Mul(e.Where(none, 0.0, e.Div(g, e.Where(none, 1.0, y))), x)


@_reduction("ReduceSumSquare")
def _reduce_sum_square(e: Emitter, g: T, y: T, x: T, axes: list[int]) -> T:
    return e.Mul(e.Mul(g, 2.0), x)


@_reduction("ReduceLogSum")
def _reduce_log_sum(e: Emitter, g: T, y: T, x: T, axes: list[int]) -> T:
    return e.Expand(e.Div(g, e.Exp(y)), e.Shape(x))


@_reduction("ReduceLogSumExp")
def _reduce_log_sum_exp(e: Emitter, g: T, y: T, x: T, axes: list[int]) -> T:
    return e.Mul(g, e.Exp(e.Sub(x, y)))


@vjp("Softmax")
def softmax(e: Emitter, g: T, y: T, x: T, axis: int = -1) -> Answers:
    both = e.Mul(g, y)
    mean = e.axes("ReduceSum", both, [axis % len(known(x))], keepdims=1)
    return [e.Sub(both, e.Mul(y, mean))]


@vjp("LogSoftmax")
def log_softmax(e: Emitter, g: T, y: T, x: T, axis: int = -1) -> Answers:
    total = e.axes("ReduceSum", g, [axis % len(known(x))], keepdims=1)
    return [e.Sub(g, e.Mul(e.Exp(y), total))]


@vjp("CumSum")
def cumsum(e: Emitter, g: T, y: T, x: T, axis: T, exclusive: int = 0, reverse: int = 0) -> Answers:
    return [e.CumSum(g, axis, exclusive=exclusive, reverse=1 - reverse), None]


@vjp("TopK", many=True)
def top_k(
    e: Emitter, gs_: list[T | None], ys: list[T], x: T, k: T, axis: int = -1, largest: int = 1,
    sorted: int = 1,
) -> Answers:  # fmt: skip
    g = gs_[0]
    if g is None:
        return [None, None]
    at = axis % len(known(x))
    return [e.ScatterElements(zeros(e, x, g.dtype), ys[1], g, axis=at), None]
