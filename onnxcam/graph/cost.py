"""What a graph needs in memory, told from its shapes."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.graph.model import Model, to_graph
from onnxcam.graph.shapes import Shape, Static, static_shapes


def stack_bytes(model: Model, prefix: str = "") -> int:
    """The most bytes that tensors named `prefix…` take at once while `model` runs for one image.

    Free dimensions (the batch, a block of units) are bound to 1; weights do not count.
    """
    inputs: dict[str, Shape] = {
        t.name: tuple(n if isinstance(n, int) else 1 for n in t.shape or ())
        for t in to_graph(model).inputs
    }
    static = static_shapes(model, inputs)
    return peak_bytes(to_graph(model), static, prefix)


def peak_bytes(graph: gs.Graph, static: Static, prefix: str = "") -> int:
    """The most bytes alive at once in tensors named `prefix…` while the nodes run in order."""

    def size(t: gs.Tensor) -> int:
        if not t.name.startswith(prefix):
            return 0
        dtype = static.dtypes.get(t.name, np.dtype(np.float32))
        return int(np.prod(static.shapes.get(t.name, ()), dtype=np.float64)) * dtype.itemsize

    given = {t.name for t in graph.inputs}
    left: dict[str, int] = {}
    for node in graph.nodes:
        for t in node.inputs:
            left[t.name] = left.get(t.name, 0) + 1
    alive = peak = 0
    for node in graph.nodes:
        alive += sum(size(t) for t in node.outputs)
        peak = max(peak, alive)
        for t in node.inputs:
            left[t.name] -= 1
            if not left[t.name] and t.name not in given and not isinstance(t, gs.Constant):
                alive -= size(t)
    return peak
