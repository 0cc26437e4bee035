"""One normal form for every classifier: image in, scores out, batch free, opset 18 or later."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import version_converter

from onnxcam.errors import ModelError, close_matches
from onnxcam.graph.batch import free_batch, unstride
from onnxcam.graph.emit import Emitter
from onnxcam.graph.feature import FeatureMap
from onnxcam.graph.layers import feature_maps, find_layer, find_tensor
from onnxcam.graph.model import Model, array_of, constant, to_graph, to_model
from onnxcam.graph.quantised import show_floats
from onnxcam.graph.read import MAX_BYTES, read_model
from onnxcam.graph.score import Score, find_score
from onnxcam.graph.shapes import Probe, Static, marked, static_shapes
from onnxcam.graph.weights import constants_to_initializers

OPSET = 18
"""Operator set that older models are raised to."""

NOMINAL = 224
"""Height and width that a model with free image size is analysed at unless another is asked for."""


@dataclass(frozen=True)
class Image:
    """The image input: `name`, `layout` ("NCHW" or "NHWC"), `channels`, `size` (h, w), `dtype`.

    `free` says that the model takes other sizes as well.
    """

    name: str
    layout: str
    channels: int
    size: tuple[int, int]
    dtype: np.dtype
    free: bool = False

    def shape(self, batch: int = 1) -> tuple[int, ...]:
        """The shape of a batch of images."""
        h, w = self.size
        return (
            (batch, self.channels, h, w) if self.layout == "NCHW" else (batch, h, w, self.channels)
        )


@dataclass(frozen=True)
class Classifier:
    """A normalised model and what was learnt about it.

    Attributes:
        model: image → class scores (probabilities where the model gives them).
        image: the image input.
        score: the score tensors.
        classes: number of classes.
        batch: None if the batch is free, else the size that the model insists on.
        maps: feature maps, in the order of the path.
        default: the one that explanations are drawn on unless another is asked for.
        notes: what loading changed or could not change, in sentences.
        source: the model as it was read (its metadata, its producer).
        name: file name, or "model".
    """

    model: Model
    image: Image
    score: Score
    classes: int
    batch: int | None
    maps: list[FeatureMap]
    default: FeatureMap
    notes: list[str]
    source: Model
    name: str
    options: dict[str, Any] = field(default_factory=dict, repr=False)

    def graph(self) -> gs.Graph:
        """A fresh editable copy of the graph, shapes annotated."""
        return to_graph(self.model)

    def layer(self, layer: str | int | None = None) -> FeatureMap:
        """The feature map that `layer` names (tensor, node or position); see `find_layer`."""
        if layer is None:
            return self.default
        return find_layer(self.graph(), self.maps, self.image.name, self.score.logit, layer)

    def tensor(self, layer: str | int | None = None) -> str:
        """The name of any tensor between image and score that `layer` names; see `find_tensor`."""
        if layer is None:
            return self.default.tensor
        graph = self.graph()
        return str(find_tensor(graph, self.maps, self.image.name, self.score.logit, layer).name)

    def resized(self, size: tuple[int, int]) -> Classifier:
        """The same classifier for images of another `size` (height, width)."""
        return self if size == self.image.size else load(self.source, size=size, **self.options)


def load(
    source: str | os.PathLike[str] | bytes | onnx.ModelProto | Model,
    *,
    image: str | None = None,
    output: str | None = None,
    inputs: Mapping[str, Any] | None = None,
    size: tuple[int, int] | None = None,
    probe: Probe | None = None,
    max_bytes: int = MAX_BYTES,
) -> Classifier:
    """Loads a classifier into the normal form.

    Args:
        source: path, bytes or message of an ONNX model.
        image: name of the image input, where there are several.
        output: name of the output (or any tensor) that holds the class scores.
        inputs: values for the other inputs of the model.
        size: height and width to analyse a model with free image size at.
        probe: runs a model, for operators whose shapes onnx cannot infer.
        max_bytes: largest file, and largest tensor of the model, accepted.

    Raises:
        ModelError: what was met, at which node, and what to do.
    """
    read = source if isinstance(source, Model) else read_model(source, max_bytes)
    notes: list[str] = []
    graph = _graph(read)
    _legacy(graph)
    _bind(graph, image, inputs or {}, notes)
    score = find_score(graph, output)
    if score.stripped:
        notes.append(f"left out behind the score: {', '.join(score.stripped)}")
    _cut(graph, [score.probability or score.logit])
    model = _raised(_checked(graph, read), notes)
    model, info, batch = _normal(model, image, size, probe, notes, score)
    graph = to_graph(model)
    if show_floats(graph, info.name, score.logit):
        model = to_model(graph, model, model.metadata)
    tensors = graph.tensors()
    shape = tensors[score.logit].shape if score.logit in tensors else None
    if shape is None:
        raise ModelError(f"the shape of the score {score.logit!r} cannot be told; use --output")
    wide = [n for n in shape[1:] if n != 1]
    if len(shape) < 2 or len(wide) > 1:
        shown = tuple("N" if n == "N" else n for n in shape)
        raise ModelError(
            f"the output {score.logit!r} has shape {shown}: no single axis of classes, so this is "
            "no image classifier (a detector or segmenter?); name a score tensor with --output"
        )
    _bounded(graph, max_bytes)
    maps, default = feature_maps(graph, info.name, info.size, score.logit)
    return Classifier(
        model=model,
        image=info,
        score=score,
        classes=int(wide[0]) if wide else 1,
        batch=batch,
        maps=maps,
        default=default,
        notes=notes,
        source=read,
        name=Path(source).name if isinstance(source, str | os.PathLike) else "model",
        options={
            "image": image,
            "output": output,
            "inputs": inputs,
            "probe": probe,
            "max_bytes": max_bytes,
        },
    )


def _bounded(graph: gs.Graph, most: int) -> None:
    for node in graph.nodes:
        for t in node.outputs:
            shape = [n for n in t.shape or () if isinstance(n, int)]
            size = np.prod(shape, dtype=np.float64) * np.dtype(t.dtype or np.uint8).itemsize
            if size > most:
                raise ModelError(
                    f"tensor {t.name!r} of node {node.name!r} ({node.op}) would take {size:,.0f} "
                    f"bytes for one image, more than the limit of {most:,}; raise it with "
                    "--max-model-bytes if the model is to be trusted"
                )


def _graph(model: Model) -> gs.Graph:
    try:
        graph = to_graph(model)
        graph.toposort()
    except Exception as error:  # the importer raises whatever a damaged graph provokes
        raise ModelError(f"the graph is damaged: {str(error).splitlines()[0]}") from error
    return graph


def _checked(graph: gs.Graph, like: Model) -> Model:
    try:
        return to_model(graph, like, like.metadata)
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ModelError(f"the graph is damaged: {error}") from error


def _legacy(graph: gs.Graph) -> None:
    """Rewrites operators that old exporters used and that the standard has dropped."""
    for node in [n for n in graph.nodes if n.op == "ImageScaler"]:
        scale = np.array(node.attrs.get("scale", 1.0), np.float32)
        bias = np.array(node.attrs["bias"], np.float32).reshape(1, -1, 1, 1)
        e = Emitter(graph, "onnxcam/legacy")
        output = node.outputs[0]
        node.outputs.clear()
        result = e.Add(e.Mul(node.inputs[0], scale), bias)
        result.inputs[0].outputs = [output]
        graph.nodes.remove(node)
    graph.toposort()


def _bind(graph: gs.Graph, image: str | None, values: Mapping[str, Any], notes: list[str]) -> None:
    """Leaves the image as the only input; the others get their values as constants."""
    names = {t.name: t for t in graph.inputs}
    for name in (*values, *([image] if image is not None else [])):
        if name not in names:
            raise ModelError(
                f"the model has no input {name!r}{close_matches(name, names)}; "
                f"its inputs are {', '.join(map(repr, names))}"
            )
    for name, value in values.items():
        dtype = names[name].dtype
        names.pop(name).to_constant(np.asarray(value, dtype))
        notes.append(f"input {name!r} is held at a constant")
    graph.inputs = list(names.values())
    pictures = [t for t in names.values() if t.shape is not None and len(t.shape) == 4]
    if image is not None:
        pictures = [names[image]]
    used = [t for t in pictures if t.outputs] or pictures
    if len(used) != 1:
        shown = ", ".join(f"{t.name!r} {_dims(t)}" for t in names.values())
        what = "several inputs that could be the image" if used else "no image input"
        raise ModelError(
            f"the model has {what} (rank 4: batch, channels, height, width): {shown}; "
            + ("name it with --input" if used else "onnxcam explains image classifiers only")
        )
    others = [t.name for t in names.values() if t is not used[0] and t.outputs]
    if others:
        raise ModelError(
            f"the model has further inputs: {', '.join(map(repr, others))}; "
            "give each a value with --feed NAME=VALUE"
        )
    graph.inputs = used


def _dims(tensor: gs.Tensor) -> str:
    return "of unknown rank" if tensor.shape is None else f"({', '.join(map(str, tensor.shape))})"


def _cut(graph: gs.Graph, outputs: list[str]) -> None:
    tensors = graph.tensors()
    graph.outputs = [tensors[name] for name in outputs]
    graph.cleanup().toposort()


def _raised(model: Model, notes: list[str]) -> Model:
    """`model` in opset 18 or later; in its own where onnx cannot convert it."""
    if model.opset >= OPSET:
        return model
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
        raised = version_converter.convert_version(proto, OPSET)
    except Exception as error:  # its C++ side raises plain RuntimeError and worse
        reason = str(error).strip().splitlines()[-1]
        notes.append(f"stays in opset {model.opset}, which onnx cannot raise: {reason}")
        return model
    kept = [i for i in raised.graph.input if i.name not in model.weights]
    del raised.graph.input[:]
    raised.graph.input.extend(kept)
    raised.graph.initializer.extend(outside)
    notes.append(f"raised from opset {model.opset} to {OPSET}")
    for key, value in model.metadata.items():
        if not any(p.key == key for p in raised.metadata_props):
            raised.metadata_props.add(key=key, value=value)
    weights = dict(model.weights)
    constants_to_initializers(raised.graph, weights)  # the converter writes axes as nodes
    return Model(raised, weights)


def _normal(
    model: Model,
    image: str | None,
    size: tuple[int, int] | None,
    probe: Probe | None,
    notes: list[str],
    score: Score,
) -> tuple[Model, Image, int | None]:
    """Frees the batch and annotates every tensor with its shape."""
    graph = to_graph(model)
    graph.toposort()
    source = graph.inputs[0]
    info = _image(source, size)
    declared = source.shape[0]
    batch = declared if isinstance(declared, int) and declared > 0 else None
    fixed: int | None = None
    if batch is not None:
        static = static_shapes(model, {source.name: info.shape(batch)}, probe)
        try:
            free_batch(graph, source, static.shapes)
            freed = to_model(graph, model, model.metadata)
            _annotated(freed, info, probe)
            notes.append(f"batch freed (it was fixed to {batch})")
            model = freed
        except (ModelError, ValueError) as error:
            notes.append(f"the batch stays fixed to {batch}: {error}")
            fixed = batch
    if fixed is not None:
        return _annotated_fixed(model, info, fixed, probe), info, fixed
    try:
        return _annotated(model, info, probe), info, None
    except ValueError as error:
        notes.append(f"the batch is held at 1: the graph does not follow it ({error})")
        return _annotated_fixed(model, info, 1, probe), info, 1


def _image(source: gs.Variable, size: tuple[int, int] | None) -> Image:
    dims = [n if isinstance(n, int) and n > 0 else None for n in source.shape]
    last = dims[3] in (1, 3, 4) and dims[1] not in (1, 3)
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
    return to_model(graph, model, model.metadata)


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
    return to_model(graph, model, model.metadata)
