"""Models in and models out: loading a classifier, cutting it, differentiating it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx

from onnxcam import graph, runtime
from onnxcam.diff.model import gradient_model
from onnxcam.graph import Classifier, Model
from onnxcam.graph.read import read_model

Source: TypeAlias = "str | os.PathLike[str] | bytes | onnx.ModelProto | Classifier"


def probe(model: Model, feeds: dict[str, np.ndarray], outputs: list[str]) -> list[np.ndarray]:
    """Runs `model` on the CPU with any of its tensors as outputs; how shapes are told at last."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    known = {o.name for o in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=n) for n in outputs if n not in known)
    session = runtime.Session(proto.SerializeToString(), model.weights, runtime.Device("cpu"))
    return session.run(feeds, outputs)


def load(source: Source, **options: Any) -> Classifier:
    """A classifier from a path, bytes or message; see `onnxcam.graph.load` for the options."""
    if isinstance(source, Classifier):
        return source
    return graph.load(source, probe=probe, **options)


def load_read(model: Model, **options: Any) -> Classifier:
    """As `load`, of a model that was read."""
    return graph.load(model, probe=probe, **options)


def inputs_of(classifier: Classifier) -> list[tuple[str, str, list[int | str]]]:
    """Name, type and shape of every input of the model, as its file states them."""
    found = []
    for value in classifier.source.proto.graph.input:
        kind = value.type.tensor_type
        shape = [d.dim_param or (d.dim_value if d.HasField("dim_value") else "?")
                 for d in kind.shape.dim]  # fmt: skip
        found.append((value.name, onnx.TensorProto.DataType.Name(kind.elem_type).lower(), shape))
    return found


def inputs_of_model(source: Any, max_bytes: int) -> dict[str, tuple[str, list[int | None]]]:
    """Type and shape of every input of a model that is not loaded; None where a side is free."""
    proto = read_model(source, max_bytes).proto
    kinds = {i.name: i.type.tensor_type for i in proto.graph.input}
    return {
        name: (
            str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type or 1))),
            [d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim],
        )
        for name, kind in kinds.items()
    }


def split(
    model: Source, layer: str | int | None = None, **options: Any
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Features and head of a classifier as complete ONNX models; options as for `onnxcam.load`."""
    features, head = graph.split(load(model, **options), layer)
    return features.complete(), head.complete()


def gradient(
    model: Source,
    of: str | None = None,
    wrt: Sequence[str | int] | str = (),
    variant: str = "standard",
    *,
    cotangent: bool = False,
    **options: Any,
) -> onnx.ModelProto:
    """A classifier with its gradients as further outputs, in standard operators, the batch free.

    Args:
        model: path, bytes or message of an ONNX classifier, or one already loaded.
        of: name of the tensor differentiated; None for the class scores before a final softmax or
            sigmoid.
        wrt: what to differentiate for: tensors by name, by node, or by position among the feature
            maps (-1), or weights by name; none: the image.
        variant: "standard", "guided", "deconv", or "guided-all", "deconv-all".
        cotangent: an input `cotangent` in the shape of `of` takes the place of `target`.
        options: as for `onnxcam.load`.

    Returns:
        The model: image and `target` (int64, one class for each image) in; the old outputs, and
        `<tensor>/gradient` for each of `wrt` out.

    Raises:
        ModelError: the model is not usable, or has no such tensor.
        OpError: an operator on the way has no gradient rule.
    """
    return differentiated(model, of, wrt, variant, cotangent=cotangent, **options).complete()


def differentiated(
    model: Source,
    of: str | None = None,
    wrt: Sequence[str | int] | str = (),
    variant: str = "standard",
    *,
    cotangent: bool = False,
    **options: Any,
) -> Model:
    """As `gradient`, with the weights beside the graph, for models of any size."""
    classifier = load(model, every_output=True, **options)
    names = [wrt] if isinstance(wrt, str | int) else list(wrt)
    wanted = [tensor_named(classifier, name) for name in names]
    return gradient_model(classifier, of, wanted, variant, cotangent)


def tensor_named(classifier: Classifier, what: str | int) -> str:
    """The name of the image, a weight, or any tensor between image and score."""
    held = {classifier.image.name, *(t.name for t in classifier.model.proto.graph.initializer)}
    return str(what) if what in held else classifier.tensor(what)
