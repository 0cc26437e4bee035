"""The features of a classifier in half precision: half the weights, and fast on GPUs.

Only what lies before the feature map is turned. The head and the explanation stay in float32: what
ablation weighs is by how little two scores of the head differ.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxcam.errors import ModelError
from onnxcam.graph.emit import Emitter
from onnxcam.graph.model import Model, array_of, constant, to_graph, to_model
from onnxcam.graph.paths import path_nodes

FULL, HALF = np.dtype(np.float32), np.dtype(np.float16)
MOST = float(np.finfo(HALF).max)

_FULL_INPUTS = {"Resize": (1, 2), "Upsample": (1,)}
"""Inputs of an operator that are float32 whatever the type of its data."""

_STAY = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
"""Operators that are left as they are: theirs is not a plain change of type."""


def halved(model: Model, image: str, until: str) -> Model:
    """`model` with all in half precision that makes the tensor `until` of the image.

    Inputs, outputs and `until` keep their types; weights beyond the range of half precision are cut
    to it.

    Raises:
        ModelError: there is nothing in float32 before `until`.
    """
    graph = to_graph(model)
    way = path_nodes(graph, image, until)
    turn = _Turn(Emitter(graph, "half"))
    for node in way:
        inner = any(isinstance(a, gs.Graph) for a in node.attrs.values())
        if node.op not in _STAY and not inner and node.domain in (None, "", "ai.onnx"):
            turn.node(node)
    if not turn.done:
        raise ModelError(
            f"nothing before {until!r} is in float32: the model is quantised, or in half precision "
            "already; leave out --float16"
        )
    graph.cleanup(remove_unused_graph_inputs=False).toposort()
    return to_model(graph, model)


class _Turn:
    """Turns nodes one after the other, in topological order."""

    def __init__(self, e: Emitter) -> None:
        self.e = e
        self.done: dict[str, gs.Tensor] = {}

    def node(self, node: gs.Node) -> None:
        """Has a node work in half precision; whoever else takes its outputs gets them in full."""
        full = _FULL_INPUTS.get(node.op, ())
        node.inputs = [
            t if i in full or t.dtype != FULL else self.half(t) for i, t in enumerate(node.inputs)
        ]
        if node.op == "Cast" and node.attrs["to"] == onnx.TensorProto.FLOAT:
            node.attrs["to"] = onnx.TensorProto.FLOAT16
        # Means and deviations that a norm also gives stay in float32.
        for i, t in enumerate(node.outputs[:1] if "Norm" in node.op else node.outputs):
            if t.dtype != FULL:
                continue
            made = self.done[t.name] = gs.Variable(self.e.name("half"), HALF, t.shape)
            node.outputs[i] = made
            cast = gs.Node("Cast", self.e.name("full"), {"to": onnx.TensorProto.FLOAT}, [made], [t])
            self.e.graph.nodes.append(cast)

    def half(self, t: gs.Tensor) -> gs.Tensor:
        """A tensor in half precision, made once."""
        if t.name not in self.done:
            array = array_of(t)
            if array is None:
                self.done[t.name] = self.e.cast(t, HALF)
            else:
                held = array.clip(-MOST, MOST, where=np.isfinite(array), out=array.copy())
                self.done[t.name] = constant(self.e.name("half"), held.astype(HALF))
        return self.done[t.name]
