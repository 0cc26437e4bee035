"""Feature maps that a quantised graph holds as integers, made visible as the floats they mean.

In QOperator graphs (QLinearConv, …) the tensor between two operators is an integer one whose scale
and zero point are inputs of the operator that makes it. A DequantizeLinear and a QuantizeLinear
with these very values are put behind it: they change nothing, and between them lies a float map.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.graph.emit import Emitter
from onnxcam.graph.feature import MIXING, area
from onnxcam.graph.paths import cuts, path_nodes

QUANTISERS = ("QuantizeLinear", "DequantizeLinear")
"""The pair that leads into integers and back."""

_SCALE_OF = {  # op → positions of the output's scale and zero point among its inputs
    "QLinearConv": (6, 7),
    "QLinearAdd": (6, 7),
    "QLinearMul": (6, 7),
    "QLinearConcat": (0, 1),
    "QLinearSigmoid": (3, 4),
    "QLinearLeakyRelu": (3, 4),
    "QuantizeLinear": (1, 2),
}


def show_floats(graph: gs.Graph, image: str, score: str) -> bool:
    """Puts the pair behind the last integer map that everything passes through, in place.

    It is looked for ahead of the last mixing layer: a convolution whose channels are the classes
    belongs to the head. Says whether there was one; shapes must be annotated.
    """
    path = path_nodes(graph, image, score)
    position = {t.name: i for i, n in enumerate(path) for t in n.outputs}
    mixing = max((i for i, n in enumerate(path) if n.op in MIXING), default=-1)
    maps = [
        t
        for t in cuts(path, image)
        if position[t.name] < mixing
        and t.dtype in (np.uint8, np.int8)
        and t.inputs[0].op in _SCALE_OF
        and t.inputs[0].op != "QuantizeLinear"
        and t.shape is not None
        and len(t.shape) == 4
        and area(t.shape[2:]) > 1
        and t.outputs
    ]
    if not maps:
        return False
    tensor = maps[-1]
    node, e = tensor.inputs[0], Emitter(graph, "onnxcam/quantised")
    scale, zero = (node.inputs[i] for i in _SCALE_OF[node.op])
    consumers = [(n, i) for n in tensor.outputs for i, t in enumerate(n.inputs) if t is tensor]
    real = e.DequantizeLinear(tensor, scale, zero)
    real.dtype, real.shape = np.dtype(np.float32), list(tensor.shape)
    again = e.QuantizeLinear(real, scale, zero)
    again.dtype, again.shape = tensor.dtype, list(tensor.shape)
    for consumer, place in consumers:
        consumer.inputs[place] = again
    graph.toposort()
    return True
