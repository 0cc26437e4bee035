"""Gives pictures without a batch axis one: `(H, W, 3)` → `(N, H, W, 3)`.

Models that prepare pictures themselves often take a single one and add the batch axis on the way.
Up to there each operator is rewritten to leave a first axis alone, and what added the axis goes;
where an operator is not in the table, the axis is put on and taken off again at the start, and the
batch is 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.graph.emit import Emitter
from onnxcam.graph.model import constant
from onnxcam.graph.score import held

Change = Callable[[Emitter, gs.Node], None]

_ALIKE = {
    "Cast", "Identity", "Add", "Sub", "Mul", "Div", "Clip", "Min", "Max", "Pow", "Relu", "Round",
    "Floor", "Dropout",
}  # fmt: skip


def add_batch(graph: gs.Graph, image: gs.Tensor, notes: list[str]) -> None:
    """Makes `image`, of rank 3, an input of rank 4, in place."""
    steps, e = _lifted(graph, image), Emitter(graph, "onnxcam/batched")
    consumers = [(n, i) for n in image.outputs for i, t in enumerate(n.inputs) if t is image]
    image.shape = [1, *image.shape]
    if steps is None:
        single = e.axes("Squeeze", image, [0])
        for node, position in consumers:
            node.inputs[position] = single
    for node, change in steps or ():
        for t in node.outputs:
            t.shape = None
        change(e, node)
    notes.append("the image input has no batch axis: it was given one")
    _keep_batch(graph)
    graph.toposort()


def _lifted(graph: gs.Graph, image: gs.Tensor) -> list[tuple[gs.Node, Change]] | None:
    """What to change at each node up to where the batch axis is added; None where not known."""
    single, steps = {image.name}, list[tuple[gs.Node, Change]]()
    ended = False
    for node in graph.nodes:
        if not any(t.name in single for t in node.inputs):
            continue
        if _ends(node):
            steps.append((node, _unwrapped))
            ended = True
            continue
        change = _CHANGES.get(node.op)
        others = [held(t) for t in node.inputs if t.name and t.name not in single]
        if change is None or node.inputs[0].name not in single | set(_names(node)):
            return None
        ranks = [a.ndim for a in others if a is not None]
        if len(ranks) < len(others) or (node.op in _ALIKE and max(ranks, default=0) > 3):
            return None
        if (node.op == "Concat" and ranks) or (node.op == "Gather" and ranks != [1]):
            return None
        steps.append((node, change))
        single.update(t.name for t in node.outputs)
    return steps if ended else None


def _names(node: gs.Node) -> list[str]:
    """The first input of operators that treat all of theirs alike: it may be a constant."""
    return [node.inputs[0].name] if node.op in _ALIKE else []


def _ends(node: gs.Node) -> bool:
    """Whether a node adds the batch axis."""
    if node.op == "Unsqueeze":
        return _axes(node) == {0}
    target = held(node.inputs[1]) if node.op == "Reshape" else None
    return target is not None and len(target) == 4 and target[0] == 1


def _axes(node: gs.Node, rank: int = 4) -> set[int] | None:
    axes = node.attrs.get("axes")
    if axes is None and len(node.inputs) > 1:
        axes = held(node.inputs[1])
    return None if axes is None else {int(a) % rank for a in np.ravel(axes)}


def _alike(e: Emitter, node: gs.Node) -> None:
    """Nothing: a constant of rank 3 or less lines up at the end of the shape as before."""


def _unwrapped(e: Emitter, node: gs.Node) -> None:
    if node.op == "Unsqueeze":
        node.op, node.attrs, node.inputs = "Identity", {}, node.inputs[:1]
        return
    target = np.array(_known(node.inputs[1]), np.int64)
    target[0] = 0 if -1 in target[1:] else -1
    node.inputs[1] = constant(e.name("shape"), target)


def _transposed(e: Emitter, node: gs.Node) -> None:
    node.attrs["perm"] = [0, *(p + 1 for p in node.attrs.get("perm", [2, 1, 0]))]


def _along(e: Emitter, node: gs.Node) -> None:
    axis = node.attrs.get("axis", 0)
    node.attrs["axis"] = axis + 1 if axis >= 0 else axis


def _behind_batch(axes: np.ndarray | list[int] | range) -> list[int]:
    return [int(a) + 1 if a >= 0 else int(a) for a in axes]


def _known(t: gs.Tensor) -> np.ndarray:
    """The array of an input that was seen to be constant."""
    array = held(t)
    assert array is not None
    return array


def _sliced(e: Emitter, node: gs.Node) -> None:
    if len(node.inputs) == 1:  # before opset 10
        axes = node.attrs.get("axes", range(len(node.attrs["starts"])))
        node.attrs["axes"] = _behind_batch(axes)
        return
    given = len(node.inputs) > 3 and node.inputs[3].name
    axes = _known(node.inputs[3]) if given else range(_known(node.inputs[1]).size)
    moved = constant(e.name("axes"), np.array(_behind_batch(axes), np.int64))
    node.inputs = [*node.inputs[:3], moved, *node.inputs[4:]]


def _resized(e: Emitter, node: gs.Node) -> None:
    if "axes" in node.attrs:
        node.attrs["axes"] = _behind_batch(node.attrs["axes"])
        return
    for place, t in enumerate(list(node.inputs)[1:], 1):
        array = held(t) if t.name else None
        if array is None or not array.size:
            continue
        parts: list[Any] = [[1], array]
        if place == 1 and len(node.inputs) > 2:  # the region: starts, then ends
            half = array.size // 2
            parts = [[0], array[:half], [1], array[half:]]
        node.inputs[place] = constant(e.name("resize"), np.concatenate(parts).astype(array.dtype))


def _padded(e: Emitter, node: gs.Node) -> None:
    inner = len(node.inputs) > 1
    pads = np.ravel(_known(node.inputs[1]) if inner else node.attrs["pads"])
    half = pads.size // 2
    whole = np.concatenate([[0], pads[:half], [0], pads[half:]]).astype(np.int64)
    if inner:
        node.inputs[1] = constant(e.name("pads"), whole)
    else:
        node.attrs["pads"] = whole.tolist()


_CHANGES: dict[str, Change] = {
    **dict.fromkeys(_ALIKE, _alike),
    **dict.fromkeys(("Gather", "Concat", "Split"), _along),
    **dict.fromkeys(("Resize", "Upsample"), _resized),
    "Transpose": _transposed,
    "Slice": _sliced,
    "Pad": _padded,
}


def _keep_batch(graph: gs.Graph) -> None:
    """Keeps the batch axis where the outputs drop it, in place."""
    for output in graph.outputs:
        tensor: gs.Tensor = output
        while tensor.inputs:
            node = tensor.inputs[0]
            if _drops_batch(node):
                node.op, node.attrs, node.inputs = "Identity", {}, node.inputs[:1]
                output.shape = None
            elif node.op in ("Softmax", "LogSoftmax") and output.shape and len(output.shape) == 1:
                node.attrs["axis"] = -1
            elif node.op not in ("Identity", "Cast", "Sigmoid"):
                break
            tensor = node.inputs[0]


def _drops_batch(node: gs.Node) -> bool:
    if node.op == "Squeeze":
        return _axes(node) in (None, {0})
    given = held(node.inputs[1]) if node.op in ("Gather", "Reshape") else None
    if given is None or given.size != 1:
        return False
    first = given.ndim == 0 and not given.item() and not node.attrs.get("axis", 0)
    return first if node.op == "Gather" else True
