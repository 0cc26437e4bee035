"""Frees a batch that an export has fixed, so that many switched-off units run at once.

A model exported for a batch of 1 hides that 1 in constants: targets of Reshape and Expand, sizes
of Resize, a class token stored as (1, 1, C) that is concatenated to the tokens. Each is rewritten
here to follow the batch of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.errors import ModelError
from onnxcam.graph.emit import Emitter
from onnxcam.graph.model import array_of, constant
from onnxcam.graph.shapes import Shape, Static, batch_axes


def free_batch(graph: gs.Graph, image: gs.Variable, shapes: dict[str, Shape]) -> None:
    """Rewrites `graph` in place so that its batch is that of `image`.

    Args:
        graph: the graph, its nodes in topological order.
        image: its image input, the batch on axis 0.
        shapes: the shapes of all tensors at the fixed batch.

    Raises:
        ModelError: an operator mixes or drops the batch.
    """
    axes = batch_axes(graph, image.name, shapes)
    image.shape = ["N", *image.shape[1:]]
    e = Emitter(graph, "onnxcam/batch")
    nodes, graph.nodes = list(graph.nodes), []
    for node in nodes:
        fix = _FIX.get(node.op)
        if fix is not None and node.outputs[0].name in axes:
            fix(e, node, image, shapes, axes)
        graph.nodes.append(node)
    for output in graph.outputs:
        output.shape = None


def unstride(graph: gs.Graph, one: Static, two: Static) -> None:
    """Replaces a gather from a flattened tensor that only reshapes it by that Reshape, in place.

    PyTorch's dynamo exporter writes `as_strided` so, with positions counted over the whole batch;
    no part of a batch could be run on its own. `one` and `two`: what is known at batch 1 and 2.
    """
    e = Emitter(graph, "onnxcam/view")
    for node in [n for n in graph.nodes if n.op == "Gather" and not n.attrs.get("axis", 0)]:
        flat, positions = node.inputs
        out = node.outputs[0]
        source = flat.inputs[0] if flat.inputs else None
        known = [s.values.get(positions.name) for s in (one, two)]
        if source is None or source.op != "Reshape" or flat.shape is None or len(flat.shape) != 1:
            continue
        if any(v is None or (v.reshape(-1) != np.arange(v.size)).any() for v in known):
            continue
        target = [n if isinstance(n, int) else -1 for n in out.shape]
        node.op, node.attrs = "Reshape", {}
        node.inputs = [source.inputs[0], constant(e.name("shape"), np.array(target, np.int64))]


def unscatter(graph: gs.Graph, one: Static, two: Static) -> None:
    """Replaces a ScatterND that overwrites all of its data, in order, by what it writes, in place.

    Exporters write `x[:, :, 0:, 0:] += y` so, with positions counted over the whole batch.
    """
    for node in [n for n in graph.nodes if n.op == "ScatterND" and not n.attrs.get("reduction")]:
        data, positions, updates = node.inputs
        if data.shape is not None and data.shape == updates.shape:
            known = [s.values.get(positions.name) for s in (one, two)]
            if all(v is not None and _in_order(v) for v in known):
                node.op, node.attrs, node.inputs = "Identity", {}, [updates]


def unslice(graph: gs.Graph, one: Static, two: Static) -> None:
    """Lets a Slice that takes the whole batch, up to its size, go "to the end" there, in place.

    JAX states where each axis ends: what it keeps whole as well as what it cuts.
    """
    e = Emitter(graph, "onnxcam/ends")
    for node in [n for n in graph.nodes if n.op == "Slice"]:
        known = [s.values.get(node.inputs[2].name) for s in (one, two)]
        shapes = [s.shapes.get(node.inputs[0].name) for s in (one, two)]
        starts, axes, steps = (
            array_of(node.inputs[i]) if len(node.inputs) > i and node.inputs[i].name else None
            for i in (1, 3, 4)
        )
        first, second = known
        if starts is None or first is None or second is None or None in shapes:
            continue
        sizes = [np.array(s)[range(len(starts)) if axes is None else axes] for s in shapes]
        free = np.not_equal(first, second)
        whole = (starts == 0) & (first == sizes[0]) & (second == sizes[1])
        if free.any() and whole[free].all() and (steps is None or (steps[free] == 1).all()):
            ends = np.where(free, np.iinfo(np.int64).max, first).astype(np.int64)
            node.inputs[2] = constant(e.name("ends"), ends)


def _in_order(positions: np.ndarray) -> bool:
    """Whether positions (…, r) over a tensor are each element's own."""
    grid = positions.shape[:-1]
    if len(grid) != positions.shape[-1]:
        return False
    return np.array_equal(positions, np.moveaxis(np.indices(grid), 0, -1))


Fix = Callable[[Emitter, gs.Node, gs.Variable, dict[str, Shape], dict[str, int]], None]


def _reshape(
    e: Emitter, node: gs.Node, image: gs.Variable, shapes: dict[str, Shape], axes: dict[str, int]
) -> None:
    if array_of(node.inputs[1]) is None:
        return
    before, after = node.inputs[0].name, node.outputs[0].name
    target, axis = list(shapes[after]), axes[after]
    same = axes.get(before) == axis and shapes[before][axis] == shapes[after][axis]
    target[axis] = 0 if same and 0 not in target else -1
    node.inputs[1] = constant(e.name("shape"), np.array(target, np.int64))
    node.attrs.pop("allowzero", None)


def _expand(
    e: Emitter, node: gs.Node, image: gs.Variable, shapes: dict[str, Shape], axes: dict[str, int]
) -> None:
    target = array_of(node.inputs[1])
    if target is not None:
        after = node.outputs[0].name
        target = np.array(target, np.int64)
        target[axes[after] - len(shapes[after])] = 1
        node.inputs[1] = constant(e.name("shape"), target)


def _concat(
    e: Emitter, node: gs.Node, image: gs.Variable, shapes: dict[str, Shape], axes: dict[str, int]
) -> None:
    after = node.outputs[0].name
    axis, rank = axes[after], len(shapes[after])
    if node.attrs["axis"] % rank == axis:
        return
    for i, tensor in enumerate(list(node.inputs)):
        if tensor.name not in axes and tensor.name in shapes:
            batch = e.Gather(e.Shape(image), [0], axis=0)
            ones = [1] * axis, [1] * (rank - axis - 1)
            parts = [e.tensor(o) if o else None for o in ones]
            parts.insert(1, batch)
            target = e.Concat(*(p for p in parts if p is not None), axis=0)
            node.inputs[i] = e.Expand(_one_row(e, tensor, axis, shapes), target)


def _one_row(e: Emitter, tensor: gs.Tensor, axis: int, shapes: dict[str, Shape]) -> gs.Tensor:
    """A constant that holds the same for every image of the fixed batch, for one image."""
    if shapes[tensor.name][axis] == 1:
        return tensor
    array = array_of(tensor)
    if array is not None and (array != array.take([0], axis)).any():
        raise ModelError(f"{tensor.name!r} holds other values for each image of the fixed batch")
    return e.Slice(tensor, [0], [1], [axis])


def _resize(
    e: Emitter, node: gs.Node, image: gs.Variable, shapes: dict[str, Shape], axes: dict[str, int]
) -> None:
    by_axes(e, node, shapes[node.outputs[0].name], axes[node.outputs[0].name])


def by_axes(e: Emitter, node: gs.Node, after: Sequence[int | str | None], batch: int) -> None:
    """Makes a Resize to sizes, batch among them, one of the other axes; opset 18 and later."""
    if e.graph.opset >= 18 and len(node.inputs) == 4 and "axes" not in node.attrs:
        moved = [i for i in range(len(after)) if i != batch]
        sizes = np.array([after[i] for i in moved], np.int64)
        node.attrs["axes"] = moved
        node.inputs[3] = constant(e.name("sizes"), sizes)


_FIX: dict[str, Fix] = {
    "Reshape": _reshape,
    "Expand": _expand,
    "Concat": _concat,
    "Resize": _resize,
}
