"""The definition, taken at its word: mask the units, run the head again on the masked copies.

The reference that `exact` is tested against, and the way for heads that `exact` does not
understand. It shares no rule with it.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.errors import OpError
from onnxcam.graph.emit import Emitter
from onnxcam.graph.feature import FeatureMap
from onnxcam.graph.paths import every_input, path_nodes


def literal(
    e: Emitter,
    layer: FeatureMap,
    score: gs.Tensor,
    target: gs.Tensor,
    units: gs.Tensor,
    patches_only: bool = False,
) -> gs.Tensor:
    """Emits the drop of the score for the switched-off `units`, y − y_k, by running the head.

    Args and result as for `exact`; `units` must be given. In a graph whose batch is fixed, one
    unit at a time can be switched off, for one image.
    """
    feature = e.graph.tensors()[layer.tensor]
    path = path_nodes(e.graph, layer.tensor, score.name, target.name, every_input)
    behind = {t.name for n in path for t in n.outputs} | {layer.tensor}
    rank = len(feature.shape)
    shape = [1] * (rank + 1)
    shape[layer.axis % rank + 1] = layer.units
    column = e.Reshape(units, [-1] + [1] * rank)
    off = e.Equal(column, np.arange(layer.units, dtype=np.int64).reshape(shape))
    if patches_only and layer.prefix:
        token = np.arange(layer.prefix + layer.grid[0] * layer.grid[1])
        off = e.And(off, (token >= layer.prefix).reshape(1, 1, -1, 1))
    count = e.Shape(units)
    stacked: dict[str, gs.Tensor] = {
        layer.tensor: _rows(e, e.Where(off, e.tensor(0.0, feature.dtype), feature))
    }
    for node in path:
        if any(isinstance(a, gs.Graph) for a in node.attrs.values()):
            raise OpError(
                f"node {node.name!r} ({node.op}) behind the feature map holds a subgraph, in which "
                "units cannot be switched off; name a --layer behind it"
            )
        inputs = [
            stacked[t.name] if t.name in behind else _copies(e, t, count) for t in node.inputs
        ]
        outputs = e.again(node, inputs)
        stacked.update({t.name: new for t, new in zip(node.outputs, outputs, strict=True)})
    target = e.Concat(count, [-1], e.Gather(e.Shape(score), [1], axis=0), axis=0)
    drop = e.Sub(score, e.Reshape(stacked[score.name], target))
    return e.Transpose(drop, perm=[1, 2, 0])


def _rows(e: Emitter, t: gs.Tensor) -> gs.Tensor:
    """(B, N, …) → (B · N, …)."""
    tail = e.Slice(e.Shape(t), [2], [1 << 30])
    return e.Reshape(t, e.Concat([-1], tail, axis=0))


def _copies(e: Emitter, t: gs.Tensor, count: gs.Tensor) -> gs.Tensor:
    """A tensor that goes around the feature map, once for every unit; constants stay single."""
    if isinstance(t, gs.Constant) or not t.name or not t.shape or t.shape[0] != "N":
        return t
    tall = e.axes("Unsqueeze", t, [0])
    return _rows(e, e.Expand(tall, e.Concat(count, [1] * len(t.shape), axis=0)))
