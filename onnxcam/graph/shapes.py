"""Static shapes of every tensor, and where the batch lies in them.

Batch and image size are bound to numbers on a copy of the graph, so that onnx's shape inference
and the folding of shape arithmetic settle every dimension, however an exporter wrote it. Doing it
for a batch of 1 and of 2 shows where the batch lies, whatever the operators on the way: a shape
then holds integers, and at the batch axis "N", or "8N" where the batch is merged with something
else (N · heads). Where an export fixed the batch, `batch_axes` follows it operator by operator.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from onnxcam.errors import ModelError
from onnxcam.graph.axes import axes_of
from onnxcam.graph.fold import MOST_BYTES, fold
from onnxcam.graph.model import Model, array_of

Shape = tuple[int, ...]
Probe = Callable[[Model, dict[str, np.ndarray], list[str]], list[np.ndarray]]
"""Runs a model: (model, feeds, output names) → arrays. The runtime gives it to the loader."""

MOST_FOLDED = 1 << 28
"""Bytes of folded values kept at most: a graph that folds to more was made to exhaust memory."""


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

    def note(self, name: str, shape: Shape | None, element: int) -> None:
        """Keeps what was found out about a tensor; `element` is an ONNX element type."""
        if shape is not None:
            self.shapes[name] = shape
        if element:
            self.dtypes[name] = onnx.helper.tensor_dtype_to_np_dtype(element)

    def type_of(self, name: str) -> onnx.TypeProto:
        """Type and shape of a tensor as a message."""
        element = onnx.helper.np_dtype_to_tensor_dtype(self.dtypes[name])
        return onnx.helper.make_tensor_type_proto(element, self.shapes.get(name))


def static_shapes(
    model: Model,
    inputs: dict[str, Shape],
    probe: Probe | None = None,
    known: Mapping[str, Shape] | None = None,
) -> Static:
    """Shapes, element types and shape arithmetic when the inputs have the shapes `inputs`.

    One pass over the nodes: each is folded if its inputs are known, else onnx infers its outputs.
    Where inference stops (operators outside the standard, sizes computed in floats), `known` shapes
    help it on, or one run through `probe` settles it.
    """
    found = Static({}, {}, {})
    graph = model.proto.graph
    for info in graph.input:
        kind = info.type.tensor_type
        declared = tuple(d.dim_value for d in kind.shape.dim)
        found.note(info.name, inputs.get(info.name, declared), kind.elem_type)
    for tensor in graph.initializer:
        found.note(tensor.name, tuple(tensor.dims), tensor.data_type)
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            found.values[tensor.name] = _values(tensor)
    for name, array in model.weights.items():  # positions and shapes are integers
        if np.issubdtype(array.dtype, np.integer) and array.nbytes <= MOST_BYTES:
            found.values[name] = array
    _sweep(model, found, known or {})
    unknown = [t for node in graph.node for t in node.output if t and t not in found.shapes]
    if unknown and probe is not None:
        _probed(model, inputs, unknown, probe, found)
    return found


def _values(tensor: onnx.TensorProto) -> np.ndarray:
    try:
        return np.asarray(onnx.numpy_helper.to_array(tensor))
    except (ValueError, TypeError) as error:
        raise ModelError(f"weight {tensor.name!r} is damaged: {error}") from error


def _sweep(model: Model, found: Static, known: Mapping[str, Shape]) -> None:
    versions = {
        "" if o.domain == "ai.onnx" else o.domain: o.version for o in model.proto.opset_import
    }
    folded = 0
    for node in model.proto.graph.node:
        domain = "" if node.domain == "ai.onnx" else node.domain
        value = _known_value(node, domain, found)
        if value is not None and value.nbytes <= MOST_BYTES and folded < MOST_FOLDED:
            name = node.output[0]
            folded += value.nbytes
            found.values[name] = value
            found.note(name, value.shape, onnx.helper.np_dtype_to_tensor_dtype(value.dtype))
        elif all(t in found.dtypes for t in node.input if t):
            _infer(node, domain, versions.get(domain, 1), found)
            for name in node.output:
                if name in known and name not in found.shapes:
                    found.shapes[name] = known[name]


def _known_value(node: onnx.NodeProto, domain: str, found: Static) -> np.ndarray | None:
    """The output of a node that follows from constants and shapes alone."""
    if domain or len(node.output) != 1:
        return None
    if node.op_type in ("Shape", "Size") and node.input[0] in found.shapes:
        dims = found.shapes[node.input[0]]
        if node.op_type == "Size":
            return np.array(np.prod(dims, dtype=np.int64), np.int64)
        attributes = _attributes(node)
        return np.array(dims[slice(attributes.get("start"), attributes.get("end"))], np.int64)
    arrays = [found.values.get(t) for t in node.input]
    if any(a is None and t for a, t in zip(arrays, node.input, strict=True)):
        return None
    return fold(node.op_type, arrays, _attributes(node))


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        is_tensor = isinstance(value, onnx.TensorProto)
        plain[attribute.name] = _values(value) if is_tensor else value
    return plain


@functools.cache
def _schema(op: str, version: int, domain: str) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(op, version, domain)
    except onnx.defs.SchemaError:
        return None


def _infer(node: onnx.NodeProto, domain: str, version: int, found: Static) -> None:
    schema = _schema(node.op_type, version, domain)
    if schema is None:
        return
    types = {t: found.type_of(t) for t in node.input if t}
    data = {
        t: onnx.numpy_helper.from_array(found.values[t], t) for t in node.input if t in found.values
    }
    try:
        outputs = onnx.shape_inference.infer_node_outputs(
            schema, node, types, data, opset_imports=[onnx.helper.make_opsetid(domain, version)]
        )
    except Exception:  # its C++ side raises plain RuntimeError and worse; the shape stays unknown
        return
    for name, kind in outputs.items():
        if not kind.HasField("tensor_type"):
            continue
        dims = kind.tensor_type.shape.dim
        known = kind.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims)
        shape = tuple(d.dim_value for d in dims) if known else None
        if shape is not None and node.op_type.endswith("Pool"):
            shape = _without_idle_windows(node, found.shapes.get(node.input[0]), shape)
        found.note(name, shape, kind.tensor_type.elem_type)


def _without_idle_windows(node: onnx.NodeProto, before: Shape | None, after: Shape) -> Shape:
    """The output of a pool without windows that begin in the end's padding.

    onnx counts them in ceil mode before opset 22; runtimes never had them.
    """
    attributes = _attributes(node)
    if not attributes.get("ceil_mode") or before is None:
        return after
    count = len(after) - 2
    steps, pads = attributes.get("strides", [1] * count), attributes.get("pads", [0] * 2 * count)
    cells = zip(after[2:], steps, before[2:], pads[:count], strict=True)
    return (*after[:2], *(o - ((o - 1) * s >= n + begin) for o, s, n, begin in cells))


def _probed(
    model: Model, inputs: dict[str, Shape], unknown: list[str], probe: Probe, found: Static
) -> None:
    rng = np.random.default_rng(0)
    feeds = {name: rng.random(shape).astype(found.dtypes[name]) for name, shape in inputs.items()}
    for name, array in zip(unknown, probe(model, feeds, unknown), strict=True):
        if isinstance(array, np.ndarray):
            found.shapes[name], found.dtypes[name] = array.shape, array.dtype


def annotate(nodes: Sequence[gs.Node], opset: int) -> None:
    """Notes shape and type of what new `nodes` make, from those of their inputs, where unknown.

    Args:
        nodes: in topological order; shapes that hold the batch do so as `marked` writes it.
        opset: version of the standard operators.
    """
    protos = [OnnxExporter.export_node(node) for node in nodes]
    found = [_inferred(nodes, protos, opset, batch) for batch in (1, 2)]
    for tensor in (t for node in nodes for t in node.outputs):
        shapes = [f.shapes.get(tensor.name) for f in found]
        if tensor.shape is None and shapes[0] is not None and shapes[1] is not None:
            with contextlib.suppress(ValueError):  # a stack has two free axes: left unknown
                tensor.shape = marked(shapes[0], shapes[1])
        if tensor.dtype is None:
            tensor.dtype = found[0].dtypes.get(tensor.name)


def _inferred(
    nodes: Sequence[gs.Node], protos: list[onnx.NodeProto], opset: int, batch: int
) -> Static:
    static = Static({}, {}, {})
    for node, proto in zip(nodes, protos, strict=True):
        for t in node.inputs:
            array = array_of(t)
            if array is not None and (t.name not in static.dtypes):
                if np.issubdtype(array.dtype, np.integer) or array.size <= 16:
                    static.values[t.name] = array
                element = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
                static.note(t.name, array.shape, element)
            elif t.name and t.name not in static.shapes and t.dtype is not None:
                element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(t.dtype))
                static.note(t.name, bound(t.shape, batch), element)
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        value = _known_value(proto, domain, static)
        if value is not None and value.nbytes <= MOST_BYTES:
            static.values[proto.output[0]] = value
            element = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
            static.note(proto.output[0], value.shape, element)
        elif all(t in static.dtypes for t in proto.input if t):
            _infer(proto, domain, opset, static)
        for t in node.outputs:  # what is noted counts: of a stack on the batch it says "N"
            noted = bound(t.shape, batch)
            if noted is not None:
                static.shapes[t.name] = noted
    return static


def bound(shape: Sequence[int | str] | None, batch: int) -> Shape | None:
    """A marked shape at a batch size; any other free axis gets that size, too."""
    if shape is None:
        return None
    factors = [n.removesuffix("N") if isinstance(n, str) else "" for n in shape]
    return tuple(
        n if isinstance(n, int) else int(f) * batch if f.isdigit() else batch
        for n, f in zip(shape, factors, strict=True)
    )


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
    gone = axes_of(node, len(before))
    if gone is None:
        gone = {i for i, n in enumerate(before) if n == 1}
    return None if axis in gone else axis - sum(g < axis for g in gone)


def _unsqueeze(node: gs.Node, axis: int, before: Shape, after: Shape) -> int | None:
    new = axes_of(node, len(after)) or set()
    return [i for i in range(len(after)) if i not in new][axis]


def _reduce(node: gs.Node, axis: int, before: Shape, after: Shape) -> int | None:
    gone = axes_of(node, len(before))
    gone = set(range(len(before))) if gone is None else gone
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


def marked(one: Shape, two: Shape) -> list[int | str]:
    """A shape at batch 1 and the same at batch 2, as one shape with the batch axis marked.

    Raises:
        ValueError: more than one axis follows the batch, or one not in proportion.
    """
    if len(one) != len(two) or sum(a != b for a, b in zip(one, two, strict=True)) > 1:
        raise ValueError(f"{one} at batch 1, {two} at batch 2")
    marks: list[int | str] = list(one)
    for axis, (a, b) in enumerate(zip(one, two, strict=True)):
        if a != b:
            if b != 2 * a:
                raise ValueError(f"{one} at batch 1, {two} at batch 2")
            marks[axis] = "N" if a == 1 else f"{a}N"
    return marks
