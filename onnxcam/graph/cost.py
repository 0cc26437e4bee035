"""What a graph needs in memory, told from its shapes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxcam.graph.model import Model
from onnxcam.graph.shapes import Shape, static_shapes


def peak_bytes(model: Model, counted: set[str], known: Mapping[str, Shape] | None = None) -> int:
    """The most bytes that the tensors named in `counted` take at once while `model` runs.

    Free dimensions (the batch, a block of units) are bound to 1: it is the price of one image, or
    of one unit of one image. Where shapes cannot be inferred, `known` ones are taken: a tensor of
    unknown shape would count for nothing, and so would all that is made from it.
    """
    inputs: dict[str, Shape] = {
        i.name: tuple(d.dim_value or 1 for d in i.type.tensor_type.shape.dim)
        for i in model.proto.graph.input
    }
    static = static_shapes(model, inputs, known=known)

    def size(name: str) -> int:
        if name not in counted:
            return 0
        dtype = static.dtypes.get(name, np.dtype(np.float32))
        return int(np.prod(static.shapes.get(name, ()), dtype=np.float64)) * dtype.itemsize

    left: dict[str, int] = {}
    for node in model.proto.graph.node:
        for name in node.input:
            left[name] = left.get(name, 0) + 1
    alive = peak = 0
    for node in model.proto.graph.node:
        alive += sum(map(size, node.output))
        peak = max(peak, alive)
        for name in node.input:
            left[name] -= 1
            if not left[name]:
                alive -= size(name)
    return peak
