"""Which input is the image: the others get values, pictures without a batch axis get one.

What stands in front of the picture and cannot run (a JPEG decoder inside the graph) is said here,
and can be cut off: the image may be any tensor inside the graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxcam.errors import ModelError, OpError, close_matches
from onnxcam.graph.emit import Emitter
from onnxcam.graph.model import Model
from onnxcam.graph.paths import reached
from onnxcam.graph.score import dims_of
from onnxcam.graph.unbatched import add_batch

_EXTENSIONS = ("ai.onnx.contrib", "com.microsoft.extensions")
_DECODERS = ("DecodeImage", "ImageDecoder")  # of the extensions: they give (height, width, 3) bytes
_CHANNELS = (1, 3, 4)


def bind(
    graph: gs.Graph, image: str | None, values: Mapping[str, Any], notes: list[str], model: Model
) -> None:
    """Leaves the image as the only input, in place; the others get their values as constants.

    Args:
        graph: what is worked on.
        image: name of the image input, or of a tensor inside the graph to start from.
        values: values of other inputs.
        notes: what was done is added here.
        model: where the graph came from, for shapes of tensors inside.

    Raises:
        ModelError: there is no image input, or what else the model needs is not given.
    """
    names = {t.name: t for t in graph.inputs}
    inside = graph.tensors().get(image) if image is not None and image not in names else None
    if inside is not None and inside.inputs:
        _enter(graph, inside, model, notes)
        names = {t.name: t for t in graph.inputs if t.outputs or t is inside or t.name in values}
    for name in (*values, *([image] if image is not None else [])):
        if name not in names:
            raise ModelError(
                f"the model has no input {name!r}{close_matches(name, names)}; "
                f"its inputs are {', '.join(map(repr, names))}"
            )
    _refuse_extensions(graph)
    fed = {name: names.pop(name) for name in values}
    picture = _picture(names, image)
    others = [t for t in names.values() if t is not picture and t.outputs]
    if others:
        few = all(t.shape is not None and len(t.shape) < 3 for t in others)
        kinds = "a number, JSON, or a .npy file" if few else "a picture, a .npy file, or a number"
        shown = ", ".join(f"{t.name!r} {dims_of(t)}" for t in others)
        feeds = " ".join(f"--feed {t.name}=VALUE" for t in others)
        raise ModelError(
            f"the model has further inputs: {shown}; give each a value ({kinds}): {feeds}"
        )
    for name, tensor in fed.items():
        _feed(graph, tensor, values[name], picture)
        notes.append(f"input {name!r} is held at a constant")
    graph.inputs = [picture]
    if picture.shape is not None and len(picture.shape) == 3:
        add_batch(graph, picture, notes)


def _picture(names: dict[str, gs.Tensor], image: str | None) -> gs.Tensor:
    """The image among the inputs."""
    if image is not None:
        found = names.get(image)
        if found is None:
            raise ModelError(f"input {image!r} is the image: leave out --feed {image}=…")
        if found.shape is not None and (len(found.shape) == 4 or _unbatched(found)):
            return found
        raise ModelError(
            f"input {image!r} {dims_of(found)} is no image: its rank must be 4, or 3 without a "
            "batch axis"
        )
    pictures = [t for t in names.values() if t.shape is not None and len(t.shape) == 4]
    pictures = [t for t in pictures if t.outputs] or pictures
    # (1, 1, 1, 3): a mean for each channel, left as an input by converters of Keras models
    pictures = [t for t in pictures if t.shape[1:].count(1) < 2] or pictures
    if not pictures:
        pictures = [t for t in names.values() if t.outputs and _unbatched(t)]
    if len(pictures) == 1:
        return pictures[0]
    shown = ", ".join(f"{t.name!r} {dims_of(t)}" for t in names.values())
    if pictures:
        feeds = " ".join(f"--feed {t.name}=VALUE" for t in pictures[1:])
        raise ModelError(
            f"the model has several inputs that could be the image: {shown}; name the one that is "
            "to be explained, and give the others values (a picture, a .npy file, or a number): "
            f"--input {pictures[0].name} {feeds}"
        )
    raise ModelError(
        f"the model has no image input (rank 4: batch, channels, height, width): {shown}; "
        "onnxcam explains image classifiers only"
    )


def _unbatched(tensor: gs.Tensor) -> bool:
    """Whether an input is a picture without a batch axis: (H, W, channels) or (channels, H, W)."""
    shape = tensor.shape
    if shape is None or len(shape) != 3:
        return False
    sides = {0: shape[1:], 2: shape[:2]}
    return any(
        shape[at] in _CHANNELS and all(not isinstance(n, int) or n > 4 for n in sides[at])
        for at in (0, 2)
    )


def _enter(graph: gs.Graph, tensor: gs.Tensor, model: Model, notes: list[str]) -> None:
    """Makes a tensor inside the graph an input; what is in front of it goes, in place."""
    node = tensor.inputs[0]
    if node.op in _DECODERS and node.domain in _EXTENSIONS:
        tensor.dtype, tensor.shape = np.dtype(np.uint8), ["height", "width", 3]
    elif tensor.shape is None or tensor.dtype is None:
        _look_up(tensor, model)
    if tensor.shape is None or tensor.dtype is None:
        raise ModelError(
            f"shape and type of {tensor.name!r} cannot be told from the model, so it cannot be "
            "the image; name another tensor, or export the model from there"
        )
    tensor.inputs.clear()
    graph.inputs = [*graph.inputs, tensor]
    graph.cleanup(remove_unused_graph_inputs=False).toposort()
    notes.append(f"the image is {tensor.name!r} inside the model, made by {node.op}")


def _look_up(tensor: gs.Tensor, model: Model) -> None:
    try:
        inferred = onnx.shape_inference.infer_shapes(model.proto)
    except Exception:  # its C++ side raises plain RuntimeError and worse
        return
    for info in inferred.graph.value_info:
        kind = info.type.tensor_type
        if info.name == tensor.name and kind.HasField("shape") and kind.elem_type:
            tensor.dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            tensor.shape = [
                d.dim_value if d.HasField("dim_value") else d.dim_param or f"dim{i}"
                for i, d in enumerate(kind.shape.dim)
            ]


def _refuse_extensions(graph: gs.Graph) -> None:
    """Says so if a node needs ONNX Runtime Extensions, and what to name instead."""
    foreign = [n for n in graph.nodes if n.domain in _EXTENSIONS]
    if not foreign:
        return
    node = foreign[0]
    met = (
        f"node {node.name!r} ({node.op}, domain {node.domain}) belongs to ONNX Runtime "
        "Extensions, which onnxcam does not load"
    )
    pictures = [t for t in graph.inputs if t.shape is not None and len(t.shape) in (3, 4)]
    behind = set().union(*(reached(graph, p.name) for p in pictures))
    if any(t.name in behind for t in node.outputs):
        raise OpError(f"{met}; name the class scores in front of it with --output")
    decoded = [n for n in foreign if n.op in _DECODERS]
    if not decoded:
        raise OpError(
            f"{met}; if it prepares a picture, name the tensor behind it with --input, else this "
            "is no image classifier"
        )
    raise OpError(
        f"{met}; start behind it, at the decoded picture: --input {decoded[-1].outputs[0].name} "
        "(--input may name any tensor inside the model)"
    )


def _feed(graph: gs.Graph, tensor: gs.Tensor, value: Any, image: gs.Tensor) -> None:
    """Gives an input its value, in place: a number fills it, one picture serves a whole batch."""
    name, dims = tensor.name, list(tensor.shape or [])
    try:
        array = np.asarray(value, tensor.dtype)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"the value for input {name!r} is no array of {tensor.dtype} ({error})"
        ) from error
    if len(dims) < 2 or (array.ndim == len(dims) and array.shape[0] != 1):
        if array.ndim == 0 and dims and all(isinstance(n, int) and n > 0 for n in dims):
            array = np.broadcast_to(array, dims).copy()
        tensor.to_constant(array)
        return
    try:
        array = array.reshape((1,) * (len(dims) - array.ndim) + array.shape)
        known = [n if isinstance(n, int) and n > 0 else m for n, m in zip(dims, array.shape)]  # noqa: B905
        array = np.broadcast_to(array, [1, *known[1:]]).copy()
    except ValueError:
        raise ModelError(
            f"the value for input {name!r} has shape {np.shape(value)}, and the input takes "
            f"{dims_of(tensor)}"
        ) from None
    consumers = [(n, i) for n in tensor.outputs for i, t in enumerate(n.inputs) if t is tensor]
    e = Emitter(graph, "onnxcam/fed")
    whole = e.tensor(array)
    free = [i for i, n in enumerate(dims) if not isinstance(n, int) or n < 1]
    if 0 in free or dims[0] == (image.shape or [None])[0]:
        # As many as there are images; sides that are free and filled follow the image's.
        follow = {0, *(i for i in free if array.shape[i] == 1 and len(dims) == 4)}
        target = [
            e.Gather(e.Shape(image), [i], axis=0) if i in follow else e.tensor([n])
            for i, n in enumerate(array.shape)
        ]
        whole = e.Expand(whole, e.Concat(*target, axis=0))
        whole.dtype = array.dtype
    for node, position in consumers:
        node.inputs[position] = whole
    graph.toposort()
