"""The walk: switches every unit off at once and follows what that changes, down to the score."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.ablate.outer import OUTER_RULES, written_out
from onnxcam.ablate.rules import RULES, on_stack
from onnxcam.ablate.state import Delta, Lane, Outer, State, Stuck, Walk
from onnxcam.graph.axes import counts_batch
from onnxcam.graph.emit import Emitter
from onnxcam.graph.feature import FeatureMap
from onnxcam.graph.paths import path_nodes


def exact(
    e: Emitter,
    layer: FeatureMap,
    score: gs.Tensor,
    target: gs.Tensor,
    units: gs.Tensor | None = None,
    patches_only: bool = False,
) -> gs.Tensor:
    """Emits the drop of the score for every switched-off unit, y − y_k.

    Args:
        e: emitter of the graph that holds the classifier.
        layer: the feature map whose units are switched off.
        score: the scores asked about, (N, M).
        target: the classes asked about; they stay as they are whatever is switched off.
        units: int64 (B,), the units to switch off; None for all of them in order.
        patches_only: on tokens, leave class and register tokens untouched.

    Returns:
        The drop, float (N, M, B).

    Raises:
        Stuck: the shapes on the way are not known; take `literal`.
    """
    w = Walk(e, layer.units, units)
    feature = e.graph.tensors()[layer.tensor]
    off = None
    if patches_only and layer.prefix:
        tokens = layer.prefix + layer.grid[0] * layer.grid[1]
        stays = (np.arange(tokens) < layer.prefix).astype(feature.dtype).reshape(1, -1, 1)
        off = e.Mul(feature, stays)
    states: dict[str, State] = {layer.tensor: Lane(off, layer.axis % len(feature.shape))}
    path = path_nodes(e.graph, layer.tensor, score.name, but=target.name)
    for node in path:
        if any(isinstance(a, gs.Graph) for a in node.attrs.values()):
            raise Stuck(f"node {node.name!r} holds a subgraph")
        if counts_batch(node):
            raise Stuck(f"node {node.name!r} ({node.op}) numbers the images of the batch")
        given = [states.get(t.name) for t in node.inputs]
        after = _after(w, node, given)
        states.update({t.name: s for t, s in zip(node.outputs, after, strict=False)})
    final = states[score.name]
    if isinstance(final, Outer):
        final = written_out(w, score, final)
    if isinstance(final, Delta):  # the drop itself: no difference of two near numbers
        drop = w.unmerge(final.part, score)
    else:
        drop = e.Sub(score, w.unmerge(w.full(score, final), score))
    return e.Transpose(drop, perm=[1, 2, 0])


def _after(w: Walk, node: gs.Node, states: list[State]) -> list[State]:
    """The states of the node's outputs: by the cheapest rule that has an answer."""
    if any(isinstance(s, Outer) for s in states):
        outer = OUTER_RULES.get(node.op) if not node.domain else None
        found = outer(w, node, states) if outer is not None else None
        if found is not None:
            return found
        if node.op in RULES:  # they know parts, not factors
            states = [
                written_out(w, t, s) if isinstance(s, Outer) else s
                for t, s in zip(node.inputs, states, strict=True)
            ]
    rule = RULES.get(node.op) if not node.domain and _one_output(node) else None
    state = rule(w, node, states) if rule is not None else None
    return [state] if state is not None else on_stack(w, node, states)


def _one_output(node: gs.Node) -> bool:
    return not any(t.outputs for t in node.outputs[1:])
