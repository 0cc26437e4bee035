"""Elements taken from, and laid at, places that an index says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.diff.vjp.table import Answer, addable, fixed, known, vjp, zeros
from onnxcam.errors import OpError
from onnxcam.graph.emit import Emitter
from onnxcam.graph.model import array_of

T: TypeAlias = gs.Tensor
Answers: TypeAlias = Sequence[Answer]


@vjp("Gather")
def gather(e: Emitter, g: T, y: T, x: T, indices: T, axis: int = 0) -> Answers:
    rank, at = len(known(x)), axis % len(known(x))
    size, places = fixed(x, at), array_of(indices)
    if places is not None and places.size == 1:  # one element of the axis: zeros around it
        at_most = int(places.reshape(-1)[0]) % size
        wide = e.axes("Unsqueeze", g, [at]) if not places.shape else g
        if len(places.shape) > 1:
            wide = e.Reshape(g, [1 if i == at else n if isinstance(n, int) else -1
                                 for i, n in enumerate(known(x))])  # fmt: skip
        pads = [0] * 2 * rank
        pads[at], pads[rank + at] = at_most, size - 1 - at_most
        return [e.Pad(wide, pads), None]
    if any(not isinstance(n, int) for n in known(indices)):
        raise OpError("a Gather with other places for each image has no gradient rule")
    # Each place as a row that is 1 there: what lands on a place is a matrix product.
    count = int(np.prod([n for n in known(indices) if isinstance(n, int)], dtype=np.int64))
    values = np.array([0, 1], g.dtype)
    line = e.cast(e.Reshape(indices, [-1]), np.int64)  # few types have a kernel
    rows = e.OneHot(line, e.tensor(np.array(size, np.int64)), values, axis=-1)
    rows.dtype = g.dtype
    flat = [n if isinstance(n, int) else -1 for n in known(x)]
    flat[at] = count
    last = [i for i in range(rank) if i != at] + [at]
    tall = e.Transpose(e.Reshape(g, flat), perm=last)
    return [e.Transpose(e.MatMul(tall, rows), perm=list(np.argsort(last))), None]


@vjp("GatherElements")
def gather_elements(e: Emitter, g: T, y: T, x: T, indices: T, axis: int = 0) -> Answers:
    g = addable(e, g)
    base, at = zeros(e, x, g.dtype), axis % len(known(x))
    return [e.ScatterElements(base, indices, g, axis=at, reduction="add"), None]


@vjp("GatherND")
def gather_nd(e: Emitter, g: T, y: T, x: T, indices: T, batch_dims: int = 0) -> Answers:
    rank, places = len(known(indices)), [indices]
    for axis in reversed(range(batch_dims)):  # the place along each axis that is gone through
        shape = e.Shape(indices)
        size = e.Gather(shape, e.tensor(np.array(axis, np.int64)))
        line = e.Range(e.tensor(np.array(0, np.int64)), size, e.tensor(np.array(1, np.int64)))
        line = e.Reshape(line, [-1 if i == axis else 1 for i in range(rank)])
        places = [e.Expand(line, e.Concat(e.Slice(shape, [0], [rank - 1]), [1], axis=0)), *places]
    whole = e.Concat(*places, axis=rank - 1) if batch_dims else indices
    g = addable(e, g)
    return [e.ScatterND(zeros(e, x, g.dtype), whole, g, reduction="add"), None]


@vjp("ScatterND")
def scatter_nd(
    e: Emitter, g: T, y: T, x: T, indices: T, updates: T, reduction: str = "none"
) -> Answers:
    _sum_or_none("ScatterND", reduction)
    kept = g
    if reduction == "none":
        kept = e.ScatterND(g, indices, zeros(e, updates, g.dtype))
    return [kept, None, lambda: e.GatherND(g, indices)]


@vjp("ScatterElements")
def scatter_elements(
    e: Emitter, g: T, y: T, x: T, indices: T, updates: T, axis: int = 0, reduction: str = "none"
) -> Answers:
    _sum_or_none("ScatterElements", reduction)
    kept, at = g, axis % len(known(x))
    if reduction == "none":
        kept = e.ScatterElements(g, indices, zeros(e, updates, g.dtype), axis=at)
    return [kept, None, lambda: e.GatherElements(g, indices, axis=at)]


def _sum_or_none(op: str, reduction: str) -> None:
    if reduction not in ("none", "add"):
        raise OpError(f"{op} with reduction {reduction!r} has no gradient rule")
