"""Runs a part of a graph once more, on many versions of one tensor, stacked on the batch."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxcam.errors import OpError
from onnxcam.graph.axes import counts_batch
from onnxcam.graph.emit import Emitter
from onnxcam.graph.paths import every_input, path_nodes


def rerun(
    e: Emitter, source: gs.Tensor, stack: gs.Tensor, sink: gs.Tensor, but: str | None = None
) -> gs.Tensor:
    """Emits `sink` for every version of `source` in `stack`.

    In a graph whose batch is fixed, the stack must hold one version.

    Args:
        e: emitter of the graph, its shapes annotated.
        source: the tensor replaced, (N, …).
        stack: its versions, (B, N, …).
        sink: what is computed from it, (N, M).
        but: name of a tensor that stays as it was, although it depends on `source`.

    Returns:
        (B, N, M).

    Raises:
        OpError: a node on the way holds a subgraph.
    """
    rows = stacked_rows(e, stack, source)
    return unstacked(e, rerun_rows(e, source, rows, sink, but), source)


def stacked_rows(e: Emitter, stack: gs.Tensor, like: gs.Tensor) -> gs.Tensor:
    """(B, N, …) → (B · N, …), shaped as `like`."""
    tail = e.Slice(e.Shape(stack), [2], [1 << 30])
    rows = e.Reshape(stack, e.Concat([-1], tail, axis=0))
    rows.shape, rows.dtype = like.shape, stack.dtype
    return rows


def unstacked(e: Emitter, rows: gs.Tensor, like: gs.Tensor) -> gs.Tensor:
    """(B · N, …) → (B, N, …), N being the batch of `like`."""
    batch = e.Slice(e.Shape(like), [0], [1])
    tail = e.Slice(e.Shape(rows), [1], [1 << 30])
    return e.Reshape(rows, e.Concat([-1], batch, tail, axis=0))


def rerun_rows(
    e: Emitter, source: gs.Tensor, rows: gs.Tensor, sink: gs.Tensor, but: str | None = None
) -> gs.Tensor:
    """As `rerun`, on rows (B · N, …) that become (B · N, M)."""
    path = path_nodes(e.graph, source.name, sink.name, but, every_input)
    behind = {t.name for n in path for t in n.outputs} | {source.name}
    versions = e.Div(_rows_of(e, rows), _rows_of(e, source))
    done: dict[str, gs.Tensor] = {source.name: rows}
    for node in path:
        if any(isinstance(a, gs.Graph) for a in node.attrs.values()):
            raise OpError(
                f"node {node.name!r} ({node.op}) holds a subgraph, which cannot be run on many "
                "versions of a tensor at once"
            )
        if counts_batch(node) and node.inputs[1].name not in behind:
            raise OpError(
                f"node {node.name!r} ({node.op}) numbers the images of the batch, so it cannot be "
                "run on many versions of a tensor at once"
            )
        inputs = [done[t.name] if t.name in behind else _copies(e, t, versions)
                  for t in node.inputs]  # fmt: skip
        outputs = e.again(node, inputs)
        outputs[0].inputs[0].name = e.name(node.name or node.op)  # errors name it
        for old, new in zip(node.outputs, outputs, strict=True):
            done[old.name], new.shape = new, old.shape
    return done[sink.name]


def _rows_of(e: Emitter, t: gs.Tensor) -> gs.Tensor:
    return e.Slice(e.Shape(t), [0], [1])


def _copies(e: Emitter, t: gs.Tensor, versions: gs.Tensor) -> gs.Tensor:
    """A tensor that goes around the source, once for every version; constants stay single."""
    axis = next((i for i, n in enumerate(t.shape or ()) if not isinstance(n, int)), None)
    if isinstance(t, gs.Constant) or axis is None:
        return t
    ones = [1] * len(t.shape)
    repeats = e.Concat(*([ones[:axis]] if axis else []), versions, *(
        [ones[axis + 1 :]] if ones[axis + 1 :] else []
    ), axis=0)  # fmt: skip
    rows = e.Tile(t, repeats)
    rows.shape = t.shape
    return rows
