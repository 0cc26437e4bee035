"""The definition, taken at its word: mask the units, run the head again on the masked copies.

The reference that `exact` is tested against, and the way for heads that `exact` does not
understand. It shares no rule with it.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.graph.emit import Emitter
from onnxcam.graph.feature import FeatureMap
from onnxcam.graph.rerun import rerun


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
    rank = len(feature.shape)
    shape = [1] * (rank + 1)
    shape[layer.axis % rank + 1] = layer.units
    column = e.Reshape(units, [-1] + [1] * rank)
    off = e.Equal(column, np.arange(layer.units, dtype=np.int64).reshape(shape))
    if patches_only and layer.prefix:
        token = np.arange(layer.prefix + layer.grid[0] * layer.grid[1])
        off = e.And(off, (token >= layer.prefix).reshape(1, 1, -1, 1))
    stack = e.Where(off, e.tensor(0.0, feature.dtype), feature)
    again = rerun(e, feature, stack, score, but=target.name)
    return e.Transpose(e.Sub(score, again), perm=[1, 2, 0])
