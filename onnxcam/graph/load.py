"""One normal form for every classifier: image in, scores out, batch free, opset 18 or later."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxcam.errors import ModelError
from onnxcam.graph.borders import keep_zeros
from onnxcam.graph.classic import modernise
from onnxcam.graph.feature import FeatureMap
from onnxcam.graph.inputs import bind
from onnxcam.graph.layers import feature_maps, find_layer, find_tensor
from onnxcam.graph.model import Model, to_graph, to_model
from onnxcam.graph.normal import Image, normalised, raised
from onnxcam.graph.prepared import prepared
from onnxcam.graph.quantised import show_floats
from onnxcam.graph.read import MAX_BYTES, read_model
from onnxcam.graph.refusal import no_classes
from onnxcam.graph.score import Score, dims_of, find_score
from onnxcam.graph.shapes import Probe


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
        default: the one that explanations are drawn on unless another is asked for; None where
            no tensor with a grid lies on every path from image to score.
        notes: what loading changed or could not change, in sentences.
        source: the model as it was read (its metadata, its producer).
        name: file name, or "model".
        options: what `load` was told.
        address: what it is kept under in a cache: a digest of all that it was made of; empty
            where it was not looked up in one.
    """

    model: Model
    image: Image
    score: Score
    classes: int
    batch: int | None
    maps: list[FeatureMap]
    default: FeatureMap | None
    notes: list[str]
    source: Model
    name: str
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    address: str = field(default="", repr=False)

    @property
    def kind(self) -> str:
        """What kind of head it is: "one unit (binary)", "multi-label (sigmoid)", …"""
        if self.classes == 1:
            return "one unit (binary)"
        kinds = {"sigmoid": "multi-label (sigmoid)", None: "logits"}
        return kinds.get(self.score.activation, "softmax")

    def graph(self) -> gs.Graph:
        """A fresh editable copy of the graph, shapes annotated."""
        return to_graph(self.model)

    def layer(self, layer: str | int | None = None) -> FeatureMap:
        """The feature map that `layer` names (tensor, node or position); see `find_layer`."""
        if layer is not None:
            return find_layer(self.graph(), self.maps, self.image.name, self.score.logit, layer)
        if self.default is None:
            raise ModelError(
                "the model has no spatial feature map: no tensor with a grid larger than 1×1 that "
                "every path from image to score passes through; if there is one, name it with "
                "--layer"
            )
        return self.default

    def tensor(self, layer: str | int | None = None) -> str:
        """The name of any tensor between image and score that `layer` names; see `find_tensor`."""
        if layer is None:
            return self.layer().tensor
        graph = self.graph()
        return str(find_tensor(graph, self.maps, self.image.name, self.score.logit, layer).name)

    def resized(self, size: tuple[int, int]) -> Classifier:
        """The same classifier for images of another `size` (height, width)."""
        return self if size == self.image.size else load(self.source, size=size, **self.options)


def logits(classifier: Classifier) -> Model:
    """The model from the image to the logits: what it does with them is left out."""
    graph = classifier.graph()
    graph.outputs = [graph.tensors()[classifier.score.logit]]
    return to_model(graph.cleanup(), classifier.model)


def load(
    source: str | os.PathLike[str] | bytes | onnx.ModelProto | Model,
    *,
    image: str | None = None,
    output: str | None = None,
    inputs: Mapping[str, Any] | None = None,
    size: tuple[int, int] | None = None,
    probe: Probe | None = None,
    max_bytes: int = MAX_BYTES,
    every_output: bool = False,
    opset: int | None = None,
) -> Classifier:
    """Loads a classifier into the normal form.

    Args:
        source: path, bytes or message of an ONNX model.
        image: name of the image input, where there are several.
        output: name of the output (or any tensor) that holds the class scores.
        inputs: values for the other inputs of the model.
        size: height and width to analyse a model with free image size at.
        probe: runs a model, for operators whose shapes onnx cannot infer.
        max_bytes: largest file accepted; a higher one than the default holds for tensors, too.
        every_output: keep the other outputs of the model, too, as far as they are tensors made by
            standard operators; the score stays the first one.
        opset: version of the operator set that is worked in; None for 18, or the model's if higher.

    Raises:
        ModelError: what was met, at which node, and what to do.
    """
    read = source if isinstance(source, Model) else read_model(source, max_bytes)
    if method := read.metadata.get("onnxcam.method"):
        raise ModelError(
            f"the model is an explainer itself ({method}), which 'onnxcam export' wrote: run it as "
            "it is in any ONNX runtime, or explain the model that it was made from"
        )
    notes: list[str] = []
    graph = _graph(read)
    modernise(graph, notes)
    bind(graph, image, inputs or {}, notes, read)
    stated = [(t.name, dims_of(t)) for t in graph.outputs]
    score = _rename(graph, find_score(graph, output))
    if score.stripped:
        notes.append(f"left out behind the score: {', '.join(score.stripped)}")
    first = score.probability or score.logit
    others = [t.name for t in graph.outputs if t.name != first and _plain(t)]
    _cut(graph, [first, *(others if every_output else [])])
    model, info, batch = normalised(raised(_checked(graph, read), notes, opset), size, probe, notes)
    graph = to_graph(model)
    if show_floats(graph, info.name, score.logit):
        model = to_model(graph, model)
    tensors = graph.tensors()
    shape = tensors[score.logit].shape if score.logit in tensors else None
    if shape is None:
        raise ModelError(f"the shape of the score {score.logit!r} cannot be told; use --output")
    wide = [n for n in shape[1:] if n != 1]
    rows = "N" if batch is None else batch
    if not shape or (len(shape) == 1 and shape[0] != rows) or len(wide) > 1:
        raise no_classes(score.logit, shape, info, stated, {n.op for n in graph.nodes})
    _bounded(graph, max(max_bytes, MAX_BYTES))
    info = replace(info, prepared=prepared(graph, info.name, score.logit))
    maps, default = feature_maps(graph, info.name, info.size, score.logit)
    if keep_zeros(graph, notes):
        model = to_model(graph, model)
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
            "every_output": every_output,
            "opset": opset,
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
    names = [n.name for n in graph.nodes] + [n.op for n in graph.nodes] + list(graph.tensors())
    if not all(isinstance(name, str) for name in names):  # protobuf gives bytes for no UTF-8
        raise ModelError("the graph is damaged: a name in it is no text")
    return graph


def _rename(graph: gs.Graph, score: Score) -> Score:
    """Frees the names that explainers use, and node names that stand twice."""
    for tensor in graph.tensors().values():
        tensor.name = _free(tensor.name)
    seen: set[str] = set()
    for node in graph.nodes:
        if node.name in seen:
            node.name = ""
        seen.add(node.name)
    probability = None if score.probability is None else _free(score.probability)
    return replace(score, logit=_free(score.logit), probability=probability)


def _free(name: str) -> str:
    return f"its-{name}" if name.startswith("onnxcam/") else name


def _checked(graph: gs.Graph, like: Model) -> Model:
    try:
        return to_model(graph, like)
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ModelError(f"the graph is damaged: {error}") from error


def _plain(output: gs.Tensor) -> bool:
    """Whether an output is a tensor that standard operators make."""
    seen: set[int] = set()
    todo = list(output.inputs)
    while todo:
        node = todo.pop()
        if node.domain not in (None, "", "ai.onnx") or node.op == "ZipMap":
            return False
        if id(node) not in seen:
            seen.add(id(node))
            todo += [n for t in node.inputs for n in t.inputs]
    return True


def _cut(graph: gs.Graph, outputs: list[str]) -> None:
    tensors = graph.tensors()
    graph.outputs = [tensors[name] for name in outputs]
    graph.cleanup().toposort()
