"""Static shapes of every tensor, and where the batch lies in them.

Batch and image size are bound to numbers on a copy of the graph, so that onnx's shape inference
and the folding of shape arithmetic settle every dimension, however an exporter wrote it. Doing it
for a batch of 1 and of 2 shows where the batch lies, whatever the operators on the way: a shape
then holds integers, and at the batch axis "N", or None where the batch is merged with something
else (N · heads). Where an export fixed the batch, `batch_axes` follows it operator by operator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxcam.errors import ModelError
from onnxcam.graph.fold import MOST_BYTES, fold
from onnxcam.graph.model import Model, array_of, to_graph

Shape = tuple[int, ...]
Probe = Callable[[Model, dict[str, np.ndarray], list[str]], list[np.ndarray]]
"""Runs a model: (model, feeds, output names) → arrays. The runtime gives it to the loader."""

_ROUNDS = 24


@dataclass(frozen=True)
class Static:
    """What is known once the inputs have fixed shapes, by tensor name.

    Attributes:
        shapes: shape.
        dtypes: element type.
        values: the values of (small) tensors that follow from shapes alone.
    """

    shapes: dict[str, Shape]
    dtypes: dict[str, np.dtype]
    values: dict[str, np.ndarray]


def static_shapes(model: Model, inputs: dict[str, Shape], probe: Probe | None = None) -> Static:
    """Shapes, element types and shape arithmetic when the inputs have the shapes `inputs`.

    Where inference stops (operators outside the standard), one run through `probe` settles it.
    """
    graph = to_graph(model)
    for node in graph.nodes:
        for tensor in node.outputs:
            tensor.shape = None
    for tensor in graph.inputs:
        tensor.shape = list(inputs.get(tensor.name, tensor.shape or ()))
    shapes: dict[str, Shape] = {}
    dtypes: dict[str, np.dtype] = {}
    for _ in range(_ROUNDS):
        shapes, dtypes = _infer(graph)
        if not _fold_known(graph, shapes):
            break
    named = [t for n in graph.nodes for t in n.outputs if t.name and not isinstance(t, gs.Constant)]
    unknown = [t for t in named if t.name not in shapes]
    if unknown and probe is not None:
        _probed(model, inputs, [t.name for t in unknown], probe, shapes, dtypes)
    folded = [t for t in graph.tensors().values() if isinstance(t, gs.Constant)]
    small = {t.name: _small(t) for t in folded}
    return Static(shapes, dtypes, {name: v for name, v in small.items() if v is not None})


def _infer(graph: gs.Graph) -> tuple[dict[str, Shape], dict[str, np.dtype]]:
    proto = gs.export_onnx(graph, do_type_check=False)
    for output in proto.graph.output:
        output.type.tensor_type.ClearField("shape")
    try:
        proto = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except Exception as error:  # its C++ side raises plain RuntimeError and worse
        raise ModelError(f"the graph's shapes contradict each other: {error}") from error
    shapes, dtypes = {}, {}
    graph_proto = proto.graph
    for info in (*graph_proto.input, *graph_proto.value_info, *graph_proto.output):
        kind = info.type.tensor_type
        if not info.type.HasField("tensor_type"):
            continue
        if kind.elem_type:
            dtypes[info.name] = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        dims = kind.shape.dim
        if kind.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            shapes[info.name] = tuple(d.dim_value for d in dims)
    for tensor in graph_proto.initializer:
        shapes[tensor.name] = tuple(tensor.dims)
        dtypes[tensor.name] = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return shapes, dtypes


def _fold_known(graph: gs.Graph, shapes: dict[str, Shape]) -> bool:
    """Turns what is constant by now into constants; says whether anything changed."""
    changed = False
    for node in graph.nodes:
        if len(node.outputs) != 1 or isinstance(node.outputs[0], gs.Constant):
            continue
        value: np.ndarray | None = None
        if node.op == "Shape" and node.inputs[0].name in shapes:
            dims = shapes[node.inputs[0].name]
            value = np.array(dims[slice(node.attrs.get("start"), node.attrs.get("end"))], np.int64)
        elif node.op == "Size" and node.inputs[0].name in shapes:
            value = np.array(np.prod(shapes[node.inputs[0].name]), np.int64)
        elif not node.domain:
            arrays = [_small(t) for t in node.inputs]
            if all(a is not None or not t.name for a, t in zip(arrays, node.inputs, strict=True)):
                value = fold(node.op, arrays, _plain(node.attrs))
        if value is not None and value.nbytes <= MOST_BYTES:
            output = node.outputs[0]
            node.outputs.clear()
            output.to_constant(value)
            changed = True
    graph.nodes = [n for n in graph.nodes if n.outputs]
    return changed


def _small(tensor: gs.Tensor) -> np.ndarray | None:
    if isinstance(tensor, gs.Constant) and np.prod(tensor.shape, dtype=np.float64) <= MOST_BYTES:
        return array_of(tensor)
    return None


def _plain(attributes: dict[str, Any]) -> dict[str, Any]:
    return {k: array_of(v) if isinstance(v, gs.Tensor) else v for k, v in attributes.items()}


def _probed(
    model: Model,
    inputs: dict[str, Shape],
    unknown: list[str],
    probe: Probe,
    shapes: dict[str, Shape],
    dtypes: dict[str, np.dtype],
) -> None:
    rng = np.random.default_rng(0)
    feeds = {
        name: rng.random(shape).astype(dtypes.get(name, np.dtype(np.float32)))
        for name, shape in inputs.items()
    }
    for name, array in zip(unknown, probe(model, feeds, unknown), strict=True):
        if isinstance(array, np.ndarray):
            shapes[name], dtypes[name] = array.shape, array.dtype


def batch_axes(graph: gs.Graph, image: str, shapes: dict[str, Shape]) -> dict[str, int]:
    """For every tensor that holds the batch, the axis on which it lies.

    Raises:
        ModelError: an operator mixes or drops the batch (squeezes it, reduces over it).
    """
    axes = {image: 0}
    for node in graph.nodes:
        source = next((t for t in node.inputs if t.name in axes), None)
        if source is None or node.op in ("Shape", "Size"):
            continue
        rule = _AXIS.get(node.op, _aligned)
        for output in node.outputs:
            if output.name in shapes and source.name in shapes:
                axis = rule(node, axes[source.name], shapes[source.name], shapes[output.name])
                if axis is None or not 0 <= axis < len(shapes[output.name]):
                    raise ModelError(
                        f"the batch is lost at node {node.name!r} ({node.op}): it must be kept "
                        "as an axis of its own; export the model with a free batch dimension"
                    )
                axes[output.name] = axis
    return axes


def _attr_axes(node: gs.Node, rank: int) -> list[int] | None:
    axes = node.attrs.get("axes")
    if axes is None and len(node.inputs) > 1:
        axes = array_of(node.inputs[1])
    return None if axes is None else [int(a) % rank for a in np.atleast_1d(axes)]


def _aligned(node: gs.Node, axis: int, before: Shape, after: Shape) -> int | None:
    return axis + len(after) - len(before)  # broadcasting aligns shapes at their end


def _transpose(node: gs.Node, axis: int, before: Shape, after: Shape) -> int | None:
    perm = node.attrs.get("perm", list(range(len(before)))[::-1])
    return int(list(perm).index(axis))


def _reshape(node: gs.Node, axis: int, before: Shape, after: Shape) -> int | None:
    ahead = int(np.prod(before[:axis], dtype=np.int64))
    product, best = 1, None
    for position, size in enumerate(after):
        if product == ahead and size % before[axis] == 0:
            # An axis of exactly the batch's size is the batch; else the first that it divides.
            if size == before[axis]:
                return position
            best = position if best is None else best
        product *= size
    return best


def _squeeze(node: gs.Node, axis: int, before: Shape, after: Shape) -> int | None:
    gone = _attr_axes(node, len(before))
    if gone is None:
        gone = [i for i, n in enumerate(before) if n == 1]
    return None if axis in gone else axis - sum(g < axis for g in gone)


def _unsqueeze(node: gs.Node, axis: int, before: Shape, after: Shape) -> int | None:
    new = set(_attr_axes(node, len(after)) or ())
    return [i for i in range(len(after)) if i not in new][axis]


def _reduce(node: gs.Node, axis: int, before: Shape, after: Shape) -> int | None:
    gone = _attr_axes(node, len(before))
    gone = list(range(len(before))) if gone is None else gone
    if axis in gone:
        return None
    return axis if len(after) == len(before) else axis - sum(g < axis for g in gone)


def _gather(node: gs.Node, axis: int, before: Shape, after: Shape) -> int | None:
    at = node.attrs.get("axis", 0) % len(before)
    if at == axis:
        return None
    return axis if at > axis else axis + len(after) - len(before)


def _arg(node: gs.Node, axis: int, before: Shape, after: Shape) -> int | None:
    at = node.attrs.get("axis", 0) % len(before)
    if at == axis:
        return None
    return axis - (len(after) < len(before) and at < axis)


_AXIS: dict[str, Callable[[gs.Node, int, Shape, Shape], int | None]] = {
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Gather": _gather,
    "ArgMax": _arg,
    "ArgMin": _arg,
    **dict.fromkeys(
        (
            "ReduceMean",
            "ReduceSum",
            "ReduceMax",
            "ReduceMin",
            "ReduceProd",
            "ReduceL1",
            "ReduceL2",
            "ReduceSumSquare",
            "ReduceLogSum",
            "ReduceLogSumExp",
        ),
        _reduce,
    ),
}


def marked(one: Shape, two: Shape) -> list[int | str | None]:
    """A shape at batch 1 and the same at batch 2, as one shape with the batch axis marked.

    Raises:
        ValueError: more than one axis follows the batch, or one not in proportion.
    """
    if len(one) != len(two) or sum(a != b for a, b in zip(one, two, strict=True)) > 1:
        raise ValueError(f"{one} at batch 1, {two} at batch 2")
    marks: list[int | str | None] = list(one)
    for axis, (a, b) in enumerate(zip(one, two, strict=True)):
        if a != b:
            if b != 2 * a:
                raise ValueError(f"{one} at batch 1, {two} at batch 2")
            marks[axis] = "N" if a == 1 else None
    return marks
