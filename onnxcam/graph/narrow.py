"""The scores of the target classes alone, without computing the others again and again.

A classifier ends in a linear layer with a row for each of a thousand classes; a question about one
class needs one row. Choosing classes commutes with what comes behind that layer (biases, views,
activations, pooling of class maps), so the choice is moved up to it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.graph.emit import Emitter
from onnxcam.graph.model import array_of

_POINTWISE = {"Relu", "LeakyRelu", "Sigmoid", "Identity", "Dropout", "HardSigmoid", "Tanh"}
_VIEWS = {"Reshape", "Flatten", "Squeeze", "Unsqueeze"}


def narrow(
    e: Emitter, score: gs.Tensor, target: gs.Tensor, targets: int, stop: Collection[str] = ()
) -> gs.Tensor:
    """The scores of `target`, (N, M), from the smallest computation that gives them.

    Args:
        e: emitter of the graph.
        score: all class scores, (N, C) or (N, C, 1, 1).
        target: int64 (N, M), class indices.
        targets: M.
        stop: names of tensors above which the choice must not be moved (feature maps).
    """
    n = _Narrow(e, target, targets, _classes(score), stop)
    chosen = n.of(score)
    if chosen is not None:
        return _shaped(e.axes("Squeeze", chosen, [2]), "N", targets)
    flat = score if len(score.shape) == 2 else _shaped(e.Flatten(score, axis=1), "N", n.classes)
    return _shaped(e.GatherElements(flat, target, axis=1), "N", targets)


class _Narrow:
    """Follows the classes up; every tensor that comes out is (N, M, positions), shapes noted."""

    def __init__(
        self, e: Emitter, target: gs.Tensor, targets: int, classes: int, stop: Collection[str]
    ) -> None:
        self.e, self.target, self.targets, self.classes = e, target, targets, classes
        self.stop = stop

    def of(self, t: gs.Tensor) -> gs.Tensor | None:
        """`t` for the target classes alone, or None where the choice cannot be moved."""
        shape = t.shape
        if (
            not t.inputs
            or t.name in self.stop
            or shape is None
            or len(shape) not in (2, 4)
            or shape[0] != "N"
        ):
            return None
        if shape[1] != self.classes or not all(isinstance(n, int) for n in shape[1:]):
            return None
        rule = _RULES.get(t.inputs[0].op)
        return rule(self, t.inputs[0]) if rule and not t.inputs[0].domain else None

    def rows(self, weight: gs.Tensor, x: gs.Tensor, features: int, positions: int) -> gs.Variable:
        """W[target] @ x for a weight (C, F) and x (N, F, positions)."""
        chosen = _shaped(self.e.Gather(weight, self.target, axis=0), "N", self.targets, features)
        return _shaped(self.e.MatMul(chosen, x), "N", self.targets, positions)

    def biased(self, y: gs.Tensor, bias: gs.Tensor) -> gs.Tensor | None:
        """y + bias[target] for a bias with one element a class."""
        if not isinstance(bias, gs.Constant) or np.prod(bias.shape) not in (1, self.classes):
            return None
        if np.prod(bias.shape) == 1:
            return _like(self.e.Add(y, self.e.Reshape(bias, [1])), y)
        row = self.e.Gather(self.e.Reshape(bias, [self.classes]), self.target, axis=0)
        row = _shaped(self.e.axes("Unsqueeze", row, [2]), "N", self.targets, 1)
        return _like(self.e.Add(y, row), y)


def _classes(score: gs.Tensor) -> int:
    return int(np.prod([n for n in score.shape[1:] if isinstance(n, int)], dtype=np.int64))


def _shaped(t: gs.Tensor, *shape: int | str) -> gs.Tensor:
    t.shape = list(shape)
    return t


def _like(t: gs.Tensor, other: gs.Tensor) -> gs.Tensor:
    t.shape = list(other.shape)
    return t


def _column(n: _Narrow, x: gs.Tensor) -> gs.Tensor:
    return _shaped(n.e.axes("Unsqueeze", x, [2]), "N", x.shape[1], 1)


def _gemm(n: _Narrow, node: gs.Node) -> gs.Tensor | None:
    x, weight, *rest = node.inputs
    attrs = node.attrs
    plain = attrs.get("alpha", 1.0) == 1.0 == attrs.get("beta", 1.0) and not attrs.get("transA")
    if not plain or array_of(weight) is None or not isinstance(x.shape[1], int):
        return None
    if not attrs.get("transB"):
        weight = n.e.Transpose(weight, perm=[1, 0])
    y = n.rows(weight, _column(n, x), x.shape[1], 1)
    return n.biased(y, rest[0]) if rest and rest[0].name else y


def _matmul(n: _Narrow, node: gs.Node) -> gs.Tensor | None:
    x, weight = node.inputs
    if array_of(weight) is None or len(weight.shape) != 2 or len(x.shape) != 2:
        return None
    return n.rows(n.e.Transpose(weight, perm=[1, 0]), _column(n, x), x.shape[1], 1)


def _conv(n: _Narrow, node: gs.Node) -> gs.Tensor | None:
    x, weight, *bias = node.inputs
    if array_of(weight) is None or node.attrs.get("group", 1) != 1 or len(x.shape) != 4:
        return None
    taps, grid = list(weight.shape[2:]), list(x.shape[2:])
    strides = set(node.attrs.get("strides", [1]))
    if any(node.attrs.get("pads", [0])) or node.attrs.get("auto_pad", "NOTSET") not in (
        "NOTSET",
        "VALID",
    ):
        return None
    if taps == [1, 1] and strides == {1}:
        features, positions = x.shape[1], int(np.prod(grid))
    elif taps == grid:  # the kernel covers the whole map: a dense layer in disguise
        features, positions = x.shape[1] * int(np.prod(grid)), 1
    else:
        return None
    flat = _shaped(n.e.Reshape(x, [0, features, positions]), "N", features, positions)
    y = n.rows(n.e.Reshape(weight, [n.classes, features]), flat, features, positions)
    return n.biased(y, bias[0]) if bias and bias[0].name else y


def _add(n: _Narrow, node: gs.Node) -> gs.Tensor | None:
    for x, other in (node.inputs, node.inputs[::-1]):
        if array_of(other) is not None:
            one_each = [1, n.classes, 1, 1][: len(x.shape or ())]
            padded = [1] * (len(one_each) - len(other.shape)) + list(other.shape)
            if np.prod(other.shape) != 1 and padded != one_each:
                return None
            y = n.of(x)
            return None if y is None else n.biased(y, other)
    return None


def _pointwise(n: _Narrow, node: gs.Node) -> gs.Tensor | None:
    y = n.of(node.inputs[0])
    return None if y is None else _like(n.e.again(node, [y, *node.inputs[1:]])[0], y)


def _view(n: _Narrow, node: gs.Node) -> gs.Tensor | None:
    before = node.inputs[0].shape
    if before is None or len(before) not in (2, 4) or any(m != 1 for m in before[2:]):
        return None
    return n.of(node.inputs[0])


def _mean(n: _Narrow, node: gs.Node) -> gs.Tensor | None:
    """Pooling of whole class maps: by a global pool, a mean, or a window of the map's size."""
    x = node.inputs[0]
    if x.shape is None or len(x.shape) != 4 or not all(m == 1 for m in node.outputs[0].shape[2:]):
        return None
    if any(node.attrs.get("pads", [0])) or x.shape[1] != node.outputs[0].shape[1]:
        return None
    if node.op == "AveragePool" and list(node.attrs["kernel_shape"]) != list(x.shape[2:]):
        return None
    y = n.of(x)
    if y is None:
        return None
    mean = n.e.axes("ReduceMean", y, [2], keepdims=1)
    return _shaped(mean, "N", n.targets, 1)


_RULES: dict[str, Callable[[_Narrow, gs.Node], gs.Tensor | None]] = {
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Conv": _conv,
    "Add": _add,
    **dict.fromkeys(_POINTWISE, _pointwise),
    **dict.fromkeys(_VIEWS, _view),
    **dict.fromkeys(("GlobalAveragePool", "AveragePool", "ReduceMean"), _mean),
}
