"""Appends operators to a graph: `e.Mul(x, 2.0)` adds a node and gives its output back.

Only standard operators of opset 11 and later come out. Where an operator changed its form since
(axes that moved from an attribute to an input), the emitter writes the form of the graph's opset.
Views of constants are computed here, so that a transposed weight is stored transposed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxcam.graph.fold import FOLD, fold
from onnxcam.graph.model import array_of, constant

Operand: TypeAlias = "gs.Tensor | np.ndarray | Sequence[int] | float | int | None"

_AXES_INPUT_SINCE = {  # opset from which `axes` is an input of the operator
    "Squeeze": 13,
    "Unsqueeze": 13,
    "ReduceSum": 13,
    **dict.fromkeys(("ReduceMax", "ReduceMean", "ReduceMin", "ReduceL2", "ReduceSumSquare"), 18),
}
_BOOL = dict.fromkeys(
    ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Not", "And", "Or", "IsNaN"),
    np.dtype(bool),
)
_INT = dict.fromkeys(("Shape", "Size", "ArgMax", "NonZero"), np.dtype(np.int64))
_RESULT = {**_BOOL, **_INT}
_TYPED_BY = {"Where": 1, "OneHot": 2}  # the input whose type the output has, if not the first

_VIEWS = ("Transpose", "Reshape", "Unsqueeze", "Squeeze", "Slice")
_FOLDED = (*_VIEWS, "Gather", "Mul", "Add", "Sub", "Div", "Sqrt", "Concat")


class View(NamedTuple):
    """How a constant was made of another one: operator, inputs, attributes."""

    op: str
    inputs: list[gs.Tensor]
    attributes: dict[str, Any]


class Emitter:
    """Appends operators to `graph`, giving nodes and tensors names that are not taken.

    Any operator is a method: `e.Concat(a, b, axis=1)`. Operands are tensors, numpy arrays, lists of
    integers (int64), numbers (taken in the type of the first tensor operand), or None for an
    optional input left out.

    Attributes:
        views: by name, how constants were made that are the same weights in another order.
    """

    def __init__(self, graph: gs.Graph, prefix: str = "onnxcam") -> None:
        """Starts to append to `graph`; new names begin with `prefix`."""
        self.graph = graph
        self.prefix = prefix
        parts = [graph, *graph.subgraphs(recursive=True)]
        self.taken = {n for part in parts for n in (*part.tensors(), *(n.name for n in part.nodes))}
        self._count = 0
        self.views: dict[str, View] = {}
        self._viewed: dict[Hashable, gs.Constant] = {}

    def __getattr__(self, op: str) -> Callable[..., gs.Variable]:
        if not op[:1].isupper():
            raise AttributeError(op)
        return lambda *operands, **attributes: self.op(op, operands, attributes)[0]

    def op(
        self,
        op: str,
        operands: Sequence[Operand],
        attributes: dict[str, Any] | None = None,
        outputs: int = 1,
        domain: str | None = None,
    ) -> list[gs.Variable]:
        """Appends one node and returns its outputs; folds it if it is a view of constants."""
        attributes = {k: v for k, v in (attributes or {}).items() if v is not None}
        typed = operands[_TYPED_BY.get(op, 0) :]
        like = next((t.dtype for t in typed if isinstance(t, gs.Tensor) and t.name), None)
        inputs = [self.tensor(t, like) for t in operands]
        while inputs and not inputs[-1].name:
            inputs.pop()
        arrays = [array_of(t) for t in inputs]
        if op in _FOLDED and domain is None and all(a is not None for a in arrays):
            folded = fold(op, arrays, attributes)
            if folded is not None:
                return [self._constant(View(op, inputs, attributes), arrays, folded)]
        typing = inputs[_TYPED_BY.get(op, 0) :]
        dtype = _RESULT.get(op, next((t.dtype for t in typing if t.name), like))
        if op == "Cast":
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(attributes["to"]))
        results = [gs.Variable(self.name(op), dtype) for _ in range(outputs)]
        node = gs.Node(op, results[0].name, attributes, inputs, results, domain)
        self.graph.nodes.append(node)
        return results

    def _constant(self, view: View, arrays: Sequence[Any], folded: np.ndarray) -> gs.Constant:
        """The result of folding; weights seen in the same way are made once."""
        if view.op not in _VIEWS:
            return constant(self.name(view.op), folded)
        rest = tuple(None if a is None else a.tobytes() for a in arrays[1:])
        key = (view.op, view.inputs[0].name, rest, repr(sorted(view.attributes.items())))
        if key not in self._viewed:
            self._viewed[key] = constant(self.name(view.op), folded)
            self.views[self._viewed[key].name] = view
        return self._viewed[key]

    def name(self, hint: str) -> str:
        """A name that nothing in the graph has yet."""
        while True:
            self._count += 1
            name = f"{self.prefix}/{hint}_{self._count}"
            if name not in self.taken:
                self.taken.add(name)
                return name

    def tensor(self, operand: Operand, like: Any = None) -> gs.Tensor:
        """`operand` as a tensor of the graph."""
        if operand is None:
            return gs.Variable.empty()
        if isinstance(operand, gs.Tensor):
            return operand
        if isinstance(operand, int | float):
            array = np.array(operand, like if isinstance(like, np.dtype | type) else np.float32)
        elif isinstance(operand, np.ndarray):
            array = operand
        else:
            array = np.array(operand, np.int64)
        return constant(self.name("const"), array)

    def cast(self, x: gs.Tensor, dtype: Any) -> gs.Tensor:
        """`x` in another element type; `x` itself where it has it."""
        wanted = np.dtype(dtype)
        if x.dtype is not None and np.dtype(x.dtype) == wanted:
            return x
        cast = self.Cast(x, to=onnx.helper.np_dtype_to_tensor_dtype(wanted))
        cast.shape = x.shape
        return cast

    def axes(self, op: str, x: gs.Tensor, axes: Sequence[int], **attributes: Any) -> gs.Variable:
        """`op` (Squeeze, Unsqueeze, Reduce…) over `axes`, as the graph's opset writes it."""
        if self.graph.opset >= _AXES_INPUT_SINCE[op]:
            return self.op(op, [x, list(axes)], attributes)[0]
        if isinstance(x, gs.Constant):
            return self.tensor(FOLD[op](array_of(x), np.array(axes), **attributes))
        return self.op(op, [x], {"axes": list(axes), **attributes})[0]

    def again(
        self, node: gs.Node, inputs: Sequence[gs.Tensor], **attributes: Any
    ) -> list[gs.Variable]:
        """`node` once more with other inputs (and some other attributes)."""
        attributes = {**node.attrs, **attributes}
        results = self.op(node.op, inputs, attributes, len(node.outputs), node.domain)
        for new, old in zip(results, node.outputs, strict=True):
            if isinstance(new, gs.Variable):  # a view of constants is one itself
                new.dtype = old.dtype
        return results
