"""The normal form: opset 18 or later, batch free, shapes known, shape arithmetic folded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import version_converter

from onnxcam.errors import ModelError
from onnxcam.graph.axes import axes_of
from onnxcam.graph.batch import by_axes, free_batch, unscatter, unslice, unstride
from onnxcam.graph.emit import Emitter
from onnxcam.graph.model import Model, array_of, constant, to_graph, to_model
from onnxcam.graph.paths import path_nodes
from onnxcam.graph.prepared import Prepared
from onnxcam.graph.shapes import Probe, Static, marked, static_shapes
from onnxcam.graph.weights import constants_to_initializers

OPSET = 18
"""Operator set that older models are raised to."""

_ACROSS_BATCH = {  # operators that let the images of a batch change each other's result
    "DynamicQuantizeLinear": "DynamicQuantizeLinear takes its range from the whole batch",
}

_ALONG = {  # operators that work along one axis, and their default for it
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax", "LpNormalization", "TopK"), -1),
    **dict.fromkeys(("Gather", "GatherElements", "Concat", "Split", "ArgMax", "ArgMin"), 0),
    **dict.fromkeys(("ScatterElements",), 0),
}

NOMINAL = 224
"""Height and width that a model with free image size is analysed at unless another is asked for."""


@dataclass(frozen=True)
class Image:
    """The image input: `name`, `layout` ("NCHW" or "NHWC"), `channels`, `size` (h, w), `dtype`.

    `free` says that the model takes other sizes as well; `prepared`, what it does to pictures.
    """

    name: str
    layout: str
    channels: int
    size: tuple[int, int]
    dtype: np.dtype
    free: bool = False
    prepared: Prepared = field(default_factory=Prepared)

    def shape(self, batch: int = 1) -> tuple[int, ...]:
        """The shape of a batch of images."""
        h, w = self.size
        return (
            (batch, self.channels, h, w) if self.layout == "NCHW" else (batch, h, w, self.channels)
        )


def raised(model: Model, notes: list[str], opset: int | None = None) -> Model:
    """`model` in opset 18 or later; in its own where onnx cannot convert it.

    Raises:
        ModelError: `opset` was asked for, and it cannot be had.
    """
    wanted = opset or OPSET
    if model.opset == wanted or (opset is None and model.opset > wanted):
        return model
    if model.opset > wanted:
        raise ModelError(
            f"the model is in opset {model.opset} and cannot be lowered to {wanted}: its framework "
            "can export it in that one"
        )
    # The converter does not know external data: weights go through it as inputs.
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    outside = [t for t in proto.graph.initializer if t.name in model.weights]
    inside = [t for t in proto.graph.initializer if t.name not in model.weights]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(inside)
    for t in outside:
        proto.graph.input.append(onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims))
    for output in proto.graph.output:  # an exporter's word on it may contradict the converter's
        output.type.tensor_type.ClearField("shape")
    try:
        converted = version_converter.convert_version(proto, wanted)
    except Exception as error:  # its C++ side raises plain RuntimeError and worse
        reason = str(error).strip().splitlines()[-1]
        if opset is not None:
            raise ModelError(f"onnx cannot bring the model to opset {opset}: {reason}") from error
        notes.append(f"stays in opset {model.opset}, which onnx cannot raise: {reason}")
        return model
    kept = [i for i in converted.graph.input if i.name not in model.weights]
    del converted.graph.input[:]
    converted.graph.input.extend(kept)
    converted.graph.initializer.extend(outside)
    notes.append(f"raised from opset {model.opset} to {wanted}")
    weights = dict(model.weights)
    constants_to_initializers(converted.graph, weights)  # the converter writes axes as nodes
    return Model(converted, weights)


def normalised(
    model: Model, size: tuple[int, int] | None, probe: Probe | None, notes: list[str]
) -> tuple[Model, Image, int | None]:
    """Frees the batch and annotates every tensor with its shape.

    Args:
        model: one input (the image), one output.
        size: height and width to analyse a model with free image size at.
        probe: runs a model, for operators whose shapes onnx cannot infer.
        notes: what was done is added here.

    Returns:
        The model, its image input, and the batch size where it could not be freed.
    """
    source = model.proto.graph.input[0]
    info = _image(model, size)
    batch = source.type.tensor_type.shape.dim[0].dim_value
    model = _decided(model, info, (batch,) if batch > 0 else (1, 2), probe)
    for node in model.proto.graph.node:
        if node.op_type in _ACROSS_BATCH:
            notes.append(f"the batch is held at {batch or 1}: {_ACROSS_BATCH[node.op_type]}")
            return _annotated_fixed(model, info, batch or 1, probe), info, batch or 1
    if batch > 0:
        try:
            free = _freed(model, info, batch, probe)
            notes.append(f"batch freed (it was fixed to {batch})")
            return free, info, None
        except (ModelError, ValueError) as error:
            notes.append(f"the batch stays fixed to {batch}: {error}")
        return _annotated_fixed(model, info, batch, probe), info, batch
    try:
        return _annotated(model, info, probe), info, None
    except ValueError as error:
        notes.append(f"the batch is held at 1: {error}")
        return _annotated_fixed(model, info, 1, probe), info, 1


def _freed(model: Model, image: Image, batch: int, probe: Probe | None) -> Model:
    static = static_shapes(model, {image.name: image.shape(batch)}, probe)
    graph = to_graph(model)
    free_batch(graph, graph.inputs[0], static.shapes)
    return _annotated(to_model(graph, model), image, probe)


def _image(model: Model, size: tuple[int, int] | None) -> Image:
    graph = to_graph(model)
    source = graph.inputs[0]
    dims = [n if isinstance(n, int) and n > 0 else None for n in source.shape]
    last = channels_last(dims)
    if dims[1] is None and dims[3] is None:  # nothing stated: a Transpose to NCHW tells
        first = source.outputs[0] if source.outputs else None
        last = first is not None and first.op == "Transpose"
    channels, grid = (dims[3], dims[1:3]) if last else (dims[1], dims[2:4])
    free = grid[0] is None or grid[1] is None
    if size is not None and not free and tuple(grid) != tuple(size):
        raise ModelError(f"the model takes images of {grid[0]}×{grid[1]}, not {size[0]}×{size[1]}")
    wanted = size or (NOMINAL, NOMINAL)
    h, w = grid[0] or wanted[0], grid[1] or wanted[1]
    dtype = np.dtype(source.dtype or np.float32)
    return Image(source.name, "NHWC" if last else "NCHW", channels or 3, (h, w), dtype, free)


def channels_last(dims: Sequence[int | None]) -> bool:
    """Whether an image input with these dimensions has its channels last."""
    return dims[3] in (1, 3, 4) and dims[1] not in (1, 3)


def _annotated(model: Model, image: Image, probe: Probe | None) -> Model:
    one = static_shapes(model, {image.name: image.shape(1)}, probe)
    two = static_shapes(model, {image.name: image.shape(2)}, probe)
    graph = to_graph(model)
    _fold_shapes(graph, one, two)
    for node in graph.nodes:
        for tensor in node.outputs:
            known = tensor.name in one.shapes and tensor.name in two.shapes
            shapes = (one.shapes[tensor.name], two.shapes[tensor.name]) if known else None
            tensor.shape = marked(*shapes) if shapes is not None else None
            tensor.dtype = one.dtypes.get(tensor.name, tensor.dtype)
    graph.inputs[0].shape = marked(image.shape(1), image.shape(2))
    output = graph.outputs[0]
    if output.shape is not None and output.shape[:1] != ["N"]:
        raise ValueError(f"{output.name!r} has shape {output.shape}")
    unstride(graph, one, two)
    unscatter(graph, one, two)
    unslice(graph, one, two)
    e = Emitter(graph, "onnxcam/size")
    _settle_reshapes(e)
    for node in graph.nodes:
        shape = node.outputs[0].shape if node.op == "Resize" else None
        if shape is not None and [i for i, n in enumerate(shape) if not isinstance(n, int)] == [0]:
            by_axes(e, node, shape, 0)
    graph.toposort()
    _refuse_across_batch(graph, image.name)
    return to_model(graph, model)


def _settle_reshapes(e: Emitter) -> None:
    """Writes -1 for the batch into targets of Reshape that were computed from shapes elsewhere.

    A part of the graph then runs on any number of rows, whatever the batch of the image.
    """
    for node in e.graph.nodes:
        shape = node.outputs[0].shape if node.op == "Reshape" else None
        if shape is None or array_of(node.inputs[1]) is not None:
            continue
        if sum(not isinstance(n, int) for n in shape) == 1 and 0 not in shape:
            target = [n if isinstance(n, int) else -1 for n in shape]
            node.inputs[1] = constant(e.name("shape"), np.array(target, np.int64))
            node.attrs.pop("allowzero", None)
    e.graph.cleanup(remove_unused_graph_inputs=False)


def _refuse_across_batch(graph: gs.Graph, image: str) -> None:
    """Says so if a node works along the batch: images, and runs stacked on it, would mix."""
    for node in path_nodes(graph, image, graph.outputs[0].name):
        for t in node.inputs[:1]:
            marks = [i for i, n in enumerate(t.shape or ()) if not isinstance(n, int)]
            if marks and marks[0] in _worked_axes(node, len(t.shape)):
                raise ValueError(f"node {node.name!r} ({node.op}) works along it")


def _worked_axes(node: gs.Node, rank: int) -> set[int]:
    """The axes along which a node lets elements of its first input meet."""
    if node.op == "Slice":
        return _sliced_axes(node, rank)
    if node.op.startswith("Reduce"):
        axes = axes_of(node, rank)
        if axes is None:
            return set() if node.attrs.get("noop_with_empty_axes") else set(range(rank))
        return axes
    if node.op == "CumSum":
        axis = array_of(node.inputs[1])
        return set(range(rank)) if axis is None else {int(axis.reshape(-1)[0]) % rank}
    if node.op == "Gemm" and node.attrs.get("transA"):
        return {0}
    if node.op in _ALONG:
        return {node.attrs.get("axis", _ALONG[node.op]) % rank}
    return set()


def _sliced_axes(node: gs.Node, rank: int) -> set[int]:
    given = [array_of(t) if t.name else None for t in node.inputs[1:5]]
    starts, ends, axes, steps = (given + [None] * 4)[:4]
    if starts is None or ends is None:
        return set(range(rank)) if axes is None else {int(a) % rank for a in axes}
    axes = np.arange(len(starts)) if axes is None else axes
    steps = np.ones(len(starts), np.int64) if steps is None else steps
    whole = (starts == 0) & (ends >= 2**31 - 1) & (steps == 1)
    return {int(a) % rank for a, all_of_it in zip(axes, whole, strict=True) if not all_of_it}


def _decided(model: Model, image: Image, batches: tuple[int, ...], probe: Probe | None) -> Model:
    """`model` with every If replaced by the branch that its shapes decide for."""
    asked: Probe | None = None  # a run of the model is dear: first what is known without
    while any(n.op_type == "If" for n in model.proto.graph.node):
        known = [static_shapes(model, {image.name: image.shape(b)}, asked).values for b in batches]
        graph = to_graph(model)
        found = False
        for node in [n for n in graph.nodes if n.op == "If"]:
            verdicts = [values.get(node.inputs[0].name) for values in known]
            if any(v is None or v.size != 1 for v in verdicts):
                continue
            if len({bool(v) for v in verdicts}) == 1:
                _inline(graph, node, node.attrs["then_branch" if verdicts[0] else "else_branch"])
                found = True
        if found:
            model = to_model(graph.cleanup(remove_unused_graph_inputs=False).toposort(), model)
            constants_to_initializers(model.proto.graph, model.weights)  # those of the branches
        elif asked is probe:
            break
        else:
            asked = probe
    return model


def _inline(graph: gs.Graph, node: gs.Node, branch: gs.Graph) -> None:
    outputs = list(node.outputs)
    node.outputs.clear()
    graph.nodes.remove(node)
    graph.nodes.extend(branch.nodes)
    made = {id(n) for n in branch.nodes}
    for outer, inner in zip(outputs, branch.outputs, strict=True):
        if inner.inputs and id(inner.inputs[0]) in made:
            inner.name = outer.name  # the branch's own tensor takes the place of the If's output
            for user in list(outer.outputs):
                user.inputs = [inner if t is outer else t for t in user.inputs]
            graph.outputs = [inner if t is outer else t for t in graph.outputs]
        else:
            graph.nodes.append(gs.Node("Identity", "", {}, [inner], [outer]))


def _fold_shapes(graph: gs.Graph, one: Static, two: Static) -> None:
    """Makes constants of what follows from constants and shapes, whatever the batch."""
    outputs = {t.name for t in graph.outputs}
    for node in graph.nodes:
        held = node.inputs[0] if node.op == "Identity" and not node.domain else None
        if isinstance(held, gs.Constant) and node.outputs[0].name not in outputs:
            value = array_of(held)
        elif len(node.outputs) == 1 and node.outputs[0].name not in outputs:
            a, b = (s.values.get(node.outputs[0].name) for s in (one, two))
            value = a if a is not None and b is not None and np.array_equal(a, b) else None
        else:
            continue
        if value is not None:
            result = node.outputs[0]
            node.outputs.clear()
            result.to_constant(value)
            result._values = constant(result.name, value)._values
    graph.cleanup(remove_unused_graph_inputs=False).toposort()


def _annotated_fixed(model: Model, image: Image, batch: int, probe: Probe | None) -> Model:
    static = static_shapes(model, {image.name: image.shape(batch)}, probe)
    graph = to_graph(model)
    for node in graph.nodes:
        for tensor in node.outputs:
            known = tensor.name in static.shapes
            tensor.shape = list(static.shapes[tensor.name]) if known else None
            tensor.dtype = static.dtypes.get(tensor.name, tensor.dtype)
    graph.inputs[0].shape = list(image.shape(batch))
    return to_model(graph, model)
