"""What a feature map is, and the kinds of operators that decide it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import onnx_graphsurgeon as gs

from onnxcam.graph.axes import axes_of


@dataclass(frozen=True)
class FeatureMap:
    """A tensor that a map can be drawn on.

    Attributes:
        tensor: its name.
        layout: "NCHW", "NHWC", or "NTC" for tokens.
        units: the number of channels.
        grid: height and width.
        prefix: for tokens, how many stand before the grid (class and register tokens).
        node: name and op of the node that makes it, e.g. "/layer4/Relu (Relu)".
        reason: why it is a candidate, in words.
        note: what results on it should say, or nothing.
    """

    tensor: str
    layout: str
    units: int
    grid: tuple[int, int]
    prefix: int
    node: str
    reason: str
    note: str = ""

    @property
    def axis(self) -> int:
        """The axis of the units."""
        return 1 if self.layout == "NCHW" else -1


MIXING = {  # operators that mix the channels of a map
    "Conv",
    "ConvTranspose",
    "Gemm",
    "MatMul",
    "Einsum",
    "ConvInteger",
    "MatMulInteger",
    "QLinearConv",
    "QLinearMatMul",
    "QGemm",
    "FusedConv",
    "FusedMatMul",
    "DeformConv",
    # Of ai.onnx.ml, where they could not be written in standard operators:
    "LinearClassifier",
    "LinearRegressor",
    "SVMClassifier",
    "SVMRegressor",
    "TreeEnsemble",
    "TreeEnsembleClassifier",
    "TreeEnsembleRegressor",
}
VIEWS = {
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Transpose",
    "Identity",
    "Dropout",
    "Cast",
    "Slice",
    "Concat",
    "Split",
    "Gather",
    "Pad",
    "Expand",
}
POOLS = {
    "MaxPool",
    "AveragePool",
    "LpPool",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "GlobalLpPool",
    "ReduceMean",
    "ReduceMax",
    "ReduceSum",
    "Resize",
    "Upsample",
    "DepthToSpace",
    "SpaceToDepth",
    "QLinearAveragePool",
    "QLinearGlobalAveragePool",
}
ATTENTION = {"Attention", "MultiHeadAttention", "GroupQueryAttention", "QAttention"}
_LAST_AXIS = {
    "LayerNormalization",
    "MatMul",
    "Gemm",
    "RMSNormalization",
    "SkipLayerNormalization",
    "SimplifiedLayerNormalization",
}


class Spatial(NamedTuple):
    """How a tensor of rank 4 lies: its layout, number of units, and grid (h, w)."""

    layout: str
    units: int
    grid: tuple[int, int]


_SECOND_AXIS = {
    "Conv",
    "BatchNormalization",
    "InstanceNormalization",
    "GroupNormalization",
    "QLinearConv",
}


def feature_map(tensor: gs.Tensor, spatial: Spatial, prefix: int, reason: str) -> FeatureMap:
    """The feature map that `tensor` is."""
    node = tensor.inputs[0]
    shown = f"{node.name} ({node.op})" if node.name else node.op
    return FeatureMap(tensor.name, *spatial, prefix, shown, reason)


def spatial_of(tensor: gs.Tensor) -> Spatial | None:
    """Layout, units and grid of a tensor of rank 4 with more than one position, else None."""
    shape = tensor.shape
    if shape is None or len(shape) != 4 or not all(isinstance(n, int) for n in shape[1:]):
        return None
    layout = _layout(tensor)
    units, grid = (shape[1], shape[2:]) if layout == "NCHW" else (shape[3], shape[1:3])
    return Spatial(layout, units, (grid[0], grid[1])) if area(grid) > 1 else None


def _layout(tensor: gs.Tensor) -> str:
    """The layout that the nearest operator behind `tensor` works in, else the nearest ahead."""
    last, ends = _nearest(tensor, behind=True)
    if last is None and ends:
        last = ends[0]  # an input is taken for channels first
    if last is None:
        last, _ = _nearest(tensor, behind=False)
    return "NHWC" if last else "NCHW"


def _nearest(tensor: gs.Tensor, behind: bool) -> tuple[bool | None, list[bool]]:
    """Whether the nearest operator that tells says that `tensor` has its channels last.

    Breadth first: of several ways (a residual connection) the nearest operator counts. With it come
    the ends of the ways that were walked: whether the tensor is turned against each.
    """
    ways: list[tuple[gs.Tensor, bool]] = [(tensor, False)]  # a tensor, and whether it was turned
    ends: list[bool] = []
    for _ in range(64):
        if not ways:
            break
        (t, turned), *ways = ways
        nodes = t.inputs[:1] if behind else t.outputs
        if not nodes:
            ends.append(turned)
        for node in nodes:
            last = _last_axis(node)
            if last is not None:
                return last != turned, ends
            turns = list(node.attrs.get("perm", ())) in _TURNS
            onward = _sources(node) if behind else node.outputs[:1]
            ways += [(other, turned ^ turns) for other in onward]
    return None, ends


def _sources(node: gs.Node) -> list[gs.Tensor]:
    """The tensors through which a layout can be followed back."""
    data = [t for t in node.inputs if not isinstance(t, gs.Constant) and t.name]
    if node.op == "Reshape" and data and len(data[0].shape or ()) > 4:
        return []  # windows put together again: what lies where is not to be seen from here
    return data if len(data) < 3 else data[:1]


def _last_axis(node: gs.Node) -> bool | None:
    """Whether an operator takes the last axis for the channels; None where it does not tell."""
    if node.op == "Concat":
        return node.attrs["axis"] in (3, -1)
    if node.op in ("ReduceMean", "ReduceMax", "ReduceSum"):
        axes = axes_of(node, 4)
        return True if axes == {1, 2} else False if axes == {2, 3} else None
    if node.op in _LAST_AXIS:
        return True
    return False if node.op in _SECOND_AXIS or node.op in POOLS else None


_TURNS = ([0, 2, 3, 1], [0, 3, 1, 2], [0, 2, 1])


def area(grid: Iterable[int]) -> int:
    """The number of positions of a grid."""
    h, w = grid
    return h * w
