"""Picks the token that is read at the end before the work on all the others is done.

A vision transformer computes its last block for every token and then reads one of them. Most of
that block treats tokens alone (projections, normalisation, MLP, rows of the attention), so the
choice commutes with it and is moved up, until something mixes tokens. The result is the same; what
is switched off behind the feature map then costs one token instead of all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.graph.axes import axes_of
from onnxcam.graph.emit import Emitter
from onnxcam.graph.model import array_of, constant
from onnxcam.graph.paths import path_nodes, reached
from onnxcam.graph.quantised import QUANTISERS

_ELEMENTWISE = {
    "Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Erf", "Gelu", "Relu", "Sigmoid", "Tanh", "Identity",
    "Dropout", "Cast", "Neg", "Exp", "Clip", "HardSwish", "Where", "Reciprocal", "LeakyRelu",
    "QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearLeakyRelu",
}  # fmt: skip
Dims: TypeAlias = "Sequence[int | str | None]"
_BY_ROW = {"Gemm", "QGemm", *QUANTISERS}


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
            if not isinstance(result, gs.Constant):  # a cut of weights is folded, and knows its own
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
    inputs = list(node.inputs)
    quantised = node.op == "QLinearMatMul"  # each factor with its scale and zero point
    second = 3 if quantised else 1
    if quantised and any(np.prod(t.shape) != 1 for t in (*inputs[1:3], *inputs[6:])):
        return None  # of each row its own
    x, y = inputs[0], inputs[second]
    rank = len(node.outputs[0].shape)
    if axis == rank - 1 or len(x.shape) != rank:
        return None
    if axis == rank - 2:
        inputs[0] = p.cut(x, axis)
    else:
        inputs[0], inputs[second] = p.operand(x, axis, rank), p.operand(y, axis, rank)
    return p.again(node, inputs)


def _quantiser(p: _Push, node: gs.Node, axis: int) -> gs.Tensor | None:
    x, scale = node.inputs[:2]
    if scale.shape is None or (scale.shape and node.attrs.get("axis", 1) % len(x.shape) == axis):
        return None
    return p.again(node, [p.cut(node.inputs[0], axis), *node.inputs[1:]])


def _transpose(p: _Push, node: gs.Node, axis: int) -> gs.Tensor | None:
    perm = node.attrs.get("perm", list(range(len(node.inputs[0].shape)))[::-1])
    return p.again(node, [p.cut(node.inputs[0], perm[axis])])


def _reshape(p: _Push, node: gs.Node, axis: int) -> gs.Tensor | None:
    source, out = node.inputs[0], node.outputs[0]
    if not _static(source):
        return None
    target = [n if isinstance(n, int) else -1 for n in out.shape]
    target[axis] = 1
    own = _same_axis(p, source.shape, out.shape, axis)
    cut = _rows(p, source, out.shape, axis) if own is None else p.cut(source, own)
    return None if cut is None else p.e.Reshape(cut, target)


def _same_axis(p: _Push, before: Dims, after: Dims, axis: int) -> int | None:
    """Where the axis of `after` lies in `before`, of which it is a view."""
    behind = _behind(after[axis + 1 :])
    same = (i for i, n in enumerate(before) if n == p.size and _behind(before[i + 1 :]) == behind)
    return next(same, None)


def _rows(p: _Push, rows: gs.Tensor, shape: Dims, axis: int) -> gs.Tensor | None:
    """`rows`, (tokens and batch, features), of one token, where each is made of the same row.

    `shape` is what they are laid out to afterwards; ahead of all stands a Reshape of such tokens.
    """
    chain: list[gs.Node] = []
    t = rows
    while t.inputs and t.inputs[0].op in _BY_ROW and _by_row(t.inputs[0]):
        chain.append(t.inputs[0])
        t = t.inputs[0].inputs[0]
    if not chain or not t.inputs or t.inputs[0].op != "Reshape" or axis == len(shape) - 1:
        return None
    tokens = t.inputs[0].inputs[0]
    if not _static(tokens) or not _static(t) or len(t.shape) != 2 or shape[-1] != rows.shape[-1]:
        return None
    own = _same_axis(p, tokens.shape, [*shape[:-1], t.shape[-1]], axis)
    if own is None:
        return None
    result: gs.Tensor = p.e.Reshape(p.cut(tokens, own), [-1, t.shape[-1]])
    many, marks = _behind([n for i, n in enumerate(shape[:-1]) if i != axis])
    height = many if not marks else "N" if many == 1 else f"{many}N"
    result.shape = [height, t.shape[-1]]
    for node in reversed(chain):
        result = p.again(node, [result, *node.inputs[1:]])
        result.shape = [height, node.outputs[0].shape[-1]]
    return result


def _by_row(node: gs.Node) -> bool:
    """Whether an operator on a matrix treats all rows alike."""
    if node.op in QUANTISERS:
        scale = node.inputs[1]
        return scale.shape is not None and (not scale.shape or node.attrs.get("axis", 1) % 2 == 1)
    bias = node.inputs[2 if node.op == "Gemm" else 6 :][:1]
    return not node.attrs.get("transA") and all(len(t.shape or ()) <= 1 for t in bias)


def _behind(shape: Dims) -> tuple[int, int]:
    """What lies behind an axis: elements for one image, and how often the batch is among it."""
    marks = [str(n or "N") for n in shape if not isinstance(n, int)]
    sizes = [n if isinstance(n, int) else int(str(n or "N")[:-1] or 1) for n in shape]
    return int(np.prod(sizes, dtype=np.int64)), len(marks)


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
    **dict.fromkeys(QUANTISERS, _quantiser),
    **dict.fromkeys(("Softmax", "QLinearSoftmax", "LayerNormalization"), _along),
    **dict.fromkeys(("ReduceMean", "ReduceSum"), _along),
    **dict.fromkeys(("MatMul", "QLinearMatMul"), _matmul),
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Gather": _gather,
}
