"""Picks the token that is read at the end before the work on all the others is done.

A vision transformer computes its last block for every token and then reads one of them. Most of
that block treats tokens alone (projections, normalisation, MLP, rows of the attention), so the
choice commutes with it and is moved up, until something mixes tokens. The result is the same; what
is switched off behind the feature map then costs one token instead of all.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.graph.axes import axes_of
from onnxcam.graph.emit import Emitter
from onnxcam.graph.model import array_of, constant
from onnxcam.graph.paths import path_nodes, reached

_ELEMENTWISE = {
    "Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Erf", "Gelu", "Relu", "Sigmoid", "Tanh", "Identity",
    "Dropout", "Cast", "Neg", "Exp", "Clip", "HardSwish", "Where", "Reciprocal", "LeakyRelu",
}  # fmt: skip


def pick_early(e: Emitter, source: str, sink: str) -> None:
    """Moves the picks of one token between `source` and `sink` up, in place; shapes annotated."""
    for node in path_nodes(e.graph, source, sink):
        _unflatten(e, node)
    e.graph.toposort()
    behind = reached(e.graph, source)
    for node in path_nodes(e.graph, source, sink):
        found = _picked(node)
        data = node.inputs[0]
        if found is None or data.name == source or not _static(data):
            continue
        axis, index = found
        pushed = _Push(e, source, behind, data.shape[axis], index).of(data, axis)
        if pushed is None:
            continue
        node.inputs[0] = pushed
        if node.op == "Gather":
            held = array_of(node.inputs[1])
            node.inputs[1] = constant(e.name("first"), np.zeros_like(held))
        else:
            node.inputs[1] = constant(e.name("first"), np.array([0], np.int64))
            node.inputs[2] = constant(e.name("second"), np.array([1], np.int64))
    e.graph.toposort()


def _unflatten(e: Emitter, node: gs.Node) -> None:
    """Makes Reshape, Gemm, Reshape a MatMul on the tokens as they lay, where that is what it is."""
    first = node.inputs[0].inputs[0] if node.op == "Gemm" and node.inputs[0].inputs else None
    after = node.outputs[0].outputs
    attrs = node.attrs
    if first is None or first.op != "Reshape" or len(after) != 1 or after[0].op != "Reshape":
        return
    plain = attrs.get("alpha", 1.0) == 1.0 == attrs.get("beta", 1.0) and not attrs.get("transA")
    out, source, weight = after[0].outputs[0], first.inputs[0], node.inputs[1]
    if not plain or not out.outputs or array_of(weight) is None or not _static(source):
        return
    lead, features = list(out.shape or [])[:-1], node.inputs[0].shape[-1]
    if (
        not _static(out)
        or source.shape[: len(lead)] != lead
        or out.shape[-1] != node.outputs[0].shape[-1]
    ):
        return
    if _volume(source.shape[len(lead) :]) != features:
        return
    rows = e.Reshape(source, [n if isinstance(n, int) else -1 for n in lead] + [features])
    rows.shape = [*lead, features]
    if attrs.get("transB"):
        weight = e.Transpose(weight, perm=[1, 0])
    result = e.MatMul(rows, weight)
    result.shape = list(out.shape)
    if len(node.inputs) > 2 and node.inputs[2].name:
        result = e.Add(result, node.inputs[2])
        result.shape = list(out.shape)
    for consumer in list(out.outputs):
        consumer.inputs = [result if t is out else t for t in consumer.inputs]


def _static(t: gs.Tensor) -> bool:
    return t.shape is not None and sum(not isinstance(n, int) for n in t.shape) <= 1


def _picked(node: gs.Node) -> tuple[int, int] | None:
    """Axis and index, where the node picks one element along an axis of several."""
    shape = node.inputs[0].shape if node.inputs else None
    if shape is None or len(shape) < 3:
        return None
    if node.op == "Gather":
        index = array_of(node.inputs[1])
        axis = node.attrs.get("axis", 0) % len(shape)
        start = None if index is None or index.size != 1 else int(index.reshape(-1)[0])
    elif node.op == "Slice":
        held = [array_of(t) if t.name else None for t in node.inputs[1:]]
        if len(held) < 3 or any(a is None or a.size != 1 for a in held):
            return None
        first, last, at = (int(a.reshape(-1)[0]) for a in held[:3])  # type: ignore[union-attr]
        axis = at % len(shape)
        end_of_it = first == -1 and last >= 2**31 - 1
        start = first if last - first == 1 or end_of_it else None
    else:
        return None
    size = shape[axis]
    if start is None or not isinstance(size, int) or size < 2:
        return None
    return axis, start % size


class _Push:
    """One choice on its way up: element `index` of an axis of `size` elements."""

    def __init__(self, e: Emitter, source: str, behind: set[str], size: int, index: int) -> None:
        self.e, self.source, self.behind = e, source, behind
        self.size, self.index = size, index
        self.done: dict[tuple[str, int], gs.Tensor] = {}

    def of(self, t: gs.Tensor, axis: int) -> gs.Tensor | None:
        """`t` with `axis` cut down to the element; None where nothing is won by it."""
        if not t.inputs or t.name == self.source or t.inputs[0].op not in _RULES:
            return None
        return self.cut(t, axis)

    def cut(self, t: gs.Tensor, axis: int) -> gs.Tensor:
        """`t` with `axis` cut down to the element."""
        key = (t.name, axis)
        if key not in self.done:
            rule = _RULES.get(t.inputs[0].op) if t.inputs else None
            stop = t.name == self.source or t.name not in self.behind or not _static(t)
            result = None if stop or rule is None else rule(self, t.inputs[0], axis)
            if result is None:
                i = self.index
                result = self.e.Slice(t, [i], [i + 1], [axis])
            result.dtype = t.dtype
            result.shape = [1 if a == axis else n for a, n in enumerate(t.shape)]
            self.done[key] = result
        return self.done[key]

    def operand(self, t: gs.Tensor, axis: int, rank: int) -> gs.Tensor:
        """An operand of an elementwise operator: cut if it extends along `axis` of the result."""
        own = axis - rank + len(t.shape) if t.name and t.shape is not None else -1
        return self.cut(t, own) if own >= 0 and t.shape[own] == self.size else t

    def again(self, node: gs.Node, inputs: list[gs.Tensor]) -> gs.Tensor:
        """`node` on the cut inputs."""
        return self.e.again(node, inputs)[0]


def _elementwise(p: _Push, node: gs.Node, axis: int) -> gs.Tensor | None:
    rank = len(node.outputs[0].shape)
    if any(t.name and t.shape is None for t in node.inputs):
        return None
    return p.again(node, [p.operand(t, axis, rank) for t in node.inputs])


def _along(p: _Push, node: gs.Node, axis: int) -> gs.Tensor | None:
    """Operators that work along one other axis: softmax, normalisation, reduction with keepdims."""
    rank = len(node.inputs[0].shape)
    worked = {node.attrs.get("axis", -1) % rank}
    if node.op.startswith("Reduce"):
        axes = axes_of(node, rank)
        if axes is None or not node.attrs.get("keepdims", 1):
            return None
        worked = axes
    elif node.op == "LayerNormalization":
        worked = set(range(min(worked), rank))
    if axis in worked:
        return None
    return p.again(node, [p.cut(node.inputs[0], axis), *node.inputs[1:]])


def _matmul(p: _Push, node: gs.Node, axis: int) -> gs.Tensor | None:
    x, y = node.inputs
    rank = len(node.outputs[0].shape)
    if axis == rank - 1 or len(x.shape) != rank:
        return None
    if axis == rank - 2:
        return p.again(node, [p.cut(x, axis), y])
    return p.again(node, [p.operand(x, axis, rank), p.operand(y, axis, rank)])


def _transpose(p: _Push, node: gs.Node, axis: int) -> gs.Tensor | None:
    perm = node.attrs.get("perm", list(range(len(node.inputs[0].shape)))[::-1])
    return p.again(node, [p.cut(node.inputs[0], perm[axis])])


def _reshape(p: _Push, node: gs.Node, axis: int) -> gs.Tensor | None:
    source, out = node.inputs[0], node.outputs[0]
    if not _static(source):
        return None
    after = _behind(out.shape[axis + 1 :])
    for own, size in enumerate(source.shape):
        if size == p.size and _behind(source.shape[own + 1 :]) == after:
            target = [n if isinstance(n, int) else -1 for n in out.shape]
            target[axis] = 1
            return p.e.Reshape(p.cut(source, own), target)
    return None


def _behind(shape: list[int | str | None]) -> tuple[int, list[str | None]]:
    """What lies behind an axis: elements for one image, and whether the batch is among it."""
    sizes = [n for n in shape if isinstance(n, int)]
    return int(np.prod(sizes, dtype=np.int64)), [n for n in shape if not isinstance(n, int)]


def _volume(shape: list[int | str | None]) -> int | None:
    """Elements behind an axis, or None if the batch is among them."""
    if not all(isinstance(n, int) for n in shape):
        return None
    return int(np.prod(np.array(shape, np.int64)))


def _gather(p: _Push, node: gs.Node, axis: int) -> gs.Tensor | None:
    source, index = node.inputs[0], array_of(node.inputs[1])
    at = node.attrs.get("axis", 0) % len(source.shape)
    if index is None or index.ndim:
        return None
    own = axis + 1 if axis >= at else axis
    return p.again(node, [p.cut(source, own), node.inputs[1]])


_RULES: dict[str, Callable[[_Push, gs.Node, int], gs.Tensor | None]] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(("Softmax", "LayerNormalization", "ReduceMean", "ReduceSum"), _along),
    "MatMul": _matmul,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Gather": _gather,
}
