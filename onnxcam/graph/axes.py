"""Which axes a node names, in an attribute (older opsets) or an input (later ones)."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.graph.model import array_of


def axes_of(node: gs.Node, rank: int, place: int = 1) -> set[int] | None:
    """The axes, counted from 0, or None where none are given or they are not constant.

    Args:
        node: a Reduce…, Squeeze, Unsqueeze or Slice.
        rank: of the tensor that the axes belong to.
        place: position of the input that holds them.
    """
    axes = node.attrs.get("axes")
    if axes is None and len(node.inputs) > place and node.inputs[place].name:
        axes = array_of(node.inputs[place])
    return None if axes is None else {int(a) % rank for a in np.atleast_1d(axes)}


def counts_batch(node: gs.Node) -> bool:
    """Whether positions of a ScatterND or GatherND name images of the batch, by number."""
    if node.op not in ("ScatterND", "GatherND") or node.attrs.get("batch_dims", 0):
        return False
    shape = node.inputs[0].shape
    return shape is None or not isinstance(shape[0], int)
