"""Zeros padded ahead of a MaxPool, written so that no runtime takes them for its own padding.

The padding of a MaxPool never wins; zeros from a Pad do where all of a window is negative. ONNX
Runtime nevertheless folds the one into the other (its PadFusion, at every level of optimisation,
seen in release 1.31), and so answers wrongly for Keras' ResNet V2, which pools before it
rectifies. So the pool gets the padding, and what its windows at the border saw besides, a zero, is
taken in afterwards: max(pool(x), border), where the border is 0 at those windows and −∞ elsewhere.
"""

from __future__ import annotations

from functools import reduce

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.graph.emit import Emitter
from onnxcam.graph.model import array_of, constant


def keep_zeros(graph: gs.Graph, notes: list[str]) -> bool:
    """Rewrites every such pair, in place; whether there was one. Shapes must be annotated."""
    found = False
    e = Emitter(graph, "onnxcam/border")
    for pool in [n for n in graph.nodes if n.op == "MaxPool" and not n.domain]:
        pad = pool.inputs[0].inputs[0] if pool.inputs[0].inputs else None
        frame = _frame(pad) if pad is not None and len(pool.inputs[0].outputs) == 1 else None
        border = _border(pool, pad.inputs[0], frame) if pad is not None and frame else None
        if pad is None or frame is None or border is None:
            continue
        result = pool.outputs[0]
        inner = gs.Variable(e.name("MaxPool"), result.dtype, result.shape)
        pool.inputs, pool.outputs = [pad.inputs[0]], [inner]
        pool.attrs["pads"] = [n for ends in zip(*frame, strict=True) for n in ends]
        edge = constant(e.name("const"), border.astype(result.dtype))
        graph.nodes.append(gs.Node("Max", e.name("Max"), {}, [inner, edge], [result]))
        notes.append(
            f"the zeros that node {pad.name!r} (Pad) puts around what {pool.name!r} (MaxPool) "
            "gets count, as the standard says; ONNX Runtime leaves them out of the model itself"
        )
        found = True
    if found:
        graph.cleanup(remove_unused_graph_inputs=False).toposort()
    return found


def _frame(pad: gs.Node) -> list[tuple[int, int]] | None:
    """How many zeros a Pad puts before and after each spatial axis; None if it is another."""
    shape = pad.inputs[0].shape
    if pad.op != "Pad" or pad.domain or len(pad.inputs) < 2 or shape is None:
        return None
    if pad.attrs.get("mode", "constant") != "constant" or _rectified(pad.inputs[0]):
        return None
    pads, value, axes = (
        array_of(t) if t is not None and t.name else np.array(default)
        for t, default in zip(
            [*pad.inputs[1:], None, None][:3], (None, 0.0, range(len(shape))), strict=True
        )
    )
    if pads is None or axes is None or value is None or value.any() or (pads < 0).any():
        return None
    frame = [(0, 0)] * len(shape)
    for axis, *ends in zip(axes.tolist(), *pads.reshape(2, -1).tolist(), strict=True):
        frame[axis] = (ends[0], ends[1])
    return frame[2:] if not any(map(any, frame[:2])) else None


def _rectified(x: gs.Tensor) -> bool:
    """Nothing below zero, so that it makes no difference."""
    return bool(x.inputs) and x.inputs[0].op in ("Relu", "Sigmoid")


def _border(pool: gs.Node, x: gs.Tensor, frame: list[tuple[int, int]]) -> np.ndarray | None:
    """0 where a window of the pool reaches into the frame around x, −∞ elsewhere: (1, 1, h, w)."""
    before, after = x.shape, pool.outputs[0].shape
    own = any(pool.attrs.get("pads", ())) or pool.attrs.get("ceil_mode", 0)
    kind = pool.outputs[0].dtype
    if own or pool.attrs.get("auto_pad", "NOTSET") != "NOTSET" or len(pool.outputs) > 1:
        return None
    if after is None or kind is None or np.dtype(kind).kind != "f" or not any(map(any, frame)):
        return None
    if not all(isinstance(n, int) for n in (*before[2:], *after[2:])):
        return None
    kernel = pool.attrs["kernel_shape"]
    if any(n >= k for ends, k in zip(frame, kernel, strict=True) for n in ends):
        return None  # more padding than ONNX Runtime's pools take
    steps, gaps = (pool.attrs.get(name, [1] * len(kernel)) for name in ("strides", "dilations"))
    reaches = []
    for n, m, (low, _), k, s, d in zip(
        before[2:], after[2:], frame, kernel, steps, gaps, strict=True
    ):
        cells = np.arange(m)[:, None] * s - low + np.arange(k) * d
        reaches.append(((cells < 0) | (cells >= n)).any(1))
    touched = reduce(np.logical_or.outer, reaches)
    return np.where(touched, 0.0, -np.inf)[None, None]
