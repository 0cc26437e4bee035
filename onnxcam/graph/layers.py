"""Which tensor is the feature map: dominators of the path from the image to the score.

No name is looked at.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.errors import LayerError, ModelError, close_matches
from onnxcam.graph.feature import (
    MIXING,
    POOLS,
    VIEWS,
    FeatureMap,
    Spatial,
    area,
    feature_map,
    spatial_of,
)
from onnxcam.graph.model import array_of
from onnxcam.graph.paths import cuts, path_nodes
from onnxcam.graph.quantised import QUANTISERS
from onnxcam.graph.tokens import mixed_maps, token_maps
from onnxcam.graph.trunks import trunk_maps

_THROUGH = (VIEWS - {"Concat"}) | POOLS | {*QUANTISERS}


def feature_maps(
    graph: gs.Graph,
    image: str,
    size: tuple[int, int],
    score: str,
    only: list[gs.Node] | None = None,
) -> tuple[list[FeatureMap], FeatureMap | None]:
    """All candidates, in the order of the path, and the default among them if there is one.

    Args:
        graph: shapes annotated ("N" at the batch axis), nodes in topological order.
        image: name of the image input.
        size: its height and width.
        score: name of the score tensor.
        only: of the nodes from image to score those that count (default: all).

    Raises:
        ModelError: the score does not depend on the image.
    """
    path = path_nodes(graph, image, score) if only is None else only
    if not path:
        raise ModelError(f"the score {score!r} does not depend on the image input {image!r}")
    found = cuts(path, image)
    position = {t.name: i for i, n in enumerate(path) for t in n.outputs}
    mixing = [i for i, n in enumerate(path) if n.op in MIXING]
    last_mixing = max(mixing, default=-1)
    maps: dict[str, FeatureMap] = {}
    folded = False  # whether the grid lies folded in what a view would show: windows, tokens
    for tensor in found:
        node = tensor.inputs[0]
        last = next(reversed(maps.values()), None)
        if node.op == "Reshape" and len(tensor.shape or ()) > 4 and last and last.layout == "NHWC":
            folded = True  # windows that are put together: the map before was none
            del maps[last.tensor]
        after_mixing = mixing and mixing[0] <= position[tensor.name]
        through = (node.op in _THROUGH and not _rectifies(node)) or _scales(node)
        if not after_mixing or (through and not (folded and node.op in VIEWS)):
            continue
        spatial = spatial_of(tensor)
        if spatial is not None and spatial.layout == "NHWC" and 1 in spatial.grid:
            spatial = None  # 1×n are blocks of tokens, not a grid
        folded = spatial is None
        if spatial is None or position[tensor.name] >= last_mixing or _integer(tensor):
            continue
        maps[tensor.name] = feature_map(tensor, spatial, 0, _why(node, path, position))
    tokens = token_maps(path, image, size)
    if not tokens and mixing:
        late = [t for t in found if position[t.name] < last_mixing]
        last_map = max((position[name] for name in maps), default=-1)
        tokens = {n: m for n, m in mixed_maps(path, late).items() if position[n] > last_map}
    default = list(maps.values())[-1] if maps else None
    if tokens:
        last = list(tokens.values())[-1]
        convs = [i for i, n in enumerate(path) if n.op in ("Conv", "QLinearConv", "ConvInteger")]
        attended = position[last.tensor]
        later = (
            default is not None
            and position[default.tensor] > attended
            and any(attended < i <= position[default.tensor] for i in convs)
        )
        if not later:
            default = last
    every = sorted({**maps, **tokens}.values(), key=lambda m: position[m.tensor])
    trunks, best = trunk_maps(path, image, partial(feature_maps, graph, image, size, score))
    return (every, default) if best is None else (trunks, best)


def find_tensor(
    graph: gs.Graph, candidates: list[FeatureMap], image: str, score: str, layer: str | int
) -> gs.Tensor:
    """The tensor that `layer` names: a tensor, a node, or a candidate's position such as -2.

    Raises:
        LayerError: there is none, or it does not lie between image and score.
    """
    text = str(layer)
    tensors = graph.tensors()
    if text not in tensors and text.lstrip("-").isdigit():
        index = int(text)
        if not -len(candidates) <= index < len(candidates):
            raise LayerError(
                f"there is no feature map {index}: the model has {len(candidates)}, "
                f"numbered {-len(candidates)} to -1 ('onnxcam inspect' lists them)"
            )
        return tensors[candidates[index].tensor]
    nodes = {n.name: n for n in graph.nodes if n.name and n.outputs}
    if text not in tensors and text in nodes:
        text = nodes[text].outputs[0].name
    if text not in tensors:
        near = close_matches(text, [*(m.tensor for m in candidates), *nodes])
        raise LayerError(
            f"there is no tensor or node {text!r} in the model{near}; "
            "'onnxcam inspect' lists the feature maps"
        )
    path = path_nodes(graph, image, score)
    if not any(text in (t.name for t in n.outputs) for n in path):
        raise LayerError(
            f"{text!r} does not lie between the image and the score, so the score cannot depend "
            "on it; 'onnxcam inspect' lists the feature maps"
        )
    return tensors[text]


def find_layer(
    graph: gs.Graph, candidates: list[FeatureMap], image: str, score: str, layer: str | int
) -> FeatureMap:
    """The feature map that `layer` names; see `find_tensor`.

    Raises:
        LayerError: there is none, it does not lead to the score, or it has no grid.
    """
    tensor = find_tensor(graph, candidates, image, score, layer)
    known = {m.tensor: m for m in candidates}
    if tensor.name in known:
        return known[tensor.name]
    spatial, shape, prefix = spatial_of(tensor), list(tensor.shape or []), 0
    if spatial is None:
        like = next((m for m in candidates if m.layout == "NTC"), None)
        if like is not None and len(shape) == 3 and shape[1] == like.prefix + area(like.grid):
            spatial, prefix = Spatial("NTC", shape[2], like.grid), like.prefix
    if spatial is None or tensor.dtype not in (np.float16, np.float32, np.float64):
        shown = "unknown" if not shape else f"({', '.join(map(str, shape))})"
        raise LayerError(
            f"{tensor.name!r} has shape {shown} and type {tensor.dtype}, not those of a feature "
            "map (N, units, height, width); 'onnxcam inspect' lists the feature maps"
        )
    return feature_map(tensor, spatial, prefix, "named by the user")


def _rectifies(node: gs.Node) -> bool:
    """A dequantised tensor that shows a map for the first time.

    Either the operator ahead computes in integers, or the quantiser ahead clips at zero what a
    layer gives: that clipping is the activation.
    """
    if node.op != "DequantizeLinear" or not node.inputs[0].inputs:
        return False
    quantiser = node.inputs[0].inputs[0]
    if quantiser.op != "QuantizeLinear":
        return quantiser.op not in _THROUGH
    source = quantiser.inputs[0].inputs[0].op if quantiser.inputs[0].inputs else ""
    zero = array_of(node.inputs[2]) if len(node.inputs) > 2 else None
    if source in _THROUGH or zero is None or zero.size != 1:
        return False
    lowest = {"uint8": 0, "int8": -128, "uint16": 0, "int16": -32768}.get(str(zero.dtype))
    return lowest is not None and int(zero.reshape(-1)[0]) == lowest


def _integer(tensor: gs.Tensor) -> bool:
    """Whether a tensor holds quantised numbers: zero is not "off" in it."""
    return tensor.dtype is not None and np.dtype(tensor.dtype).kind in "iu"


def _scales(node: gs.Node) -> bool:
    """A finished map times a number: how some exporters write dropout at inference."""
    if node.op not in ("Mul", "Div"):
        return False
    arrays = [array_of(t) for t in node.inputs]
    makers = [t.inputs[0] for t in node.inputs if t.inputs]
    while makers and makers[0].op in ("Identity", "Cast", "Dropout") and makers[0].inputs[0].inputs:
        makers = [makers[0].inputs[0].inputs[0]]
    numbers = sum(a is not None and a.size == 1 for a in arrays)
    return numbers == 1 and {n.op for n in makers} <= _FINISHED


_FINISHED = {"Relu", "Clip", "LeakyRelu", "PRelu", "HardSwish", "Concat"}


def _why(node: gs.Node, path: list[gs.Node], position: dict[str, int]) -> str:
    behind = [n for n in path[: position[node.outputs[0].name] + 1] if n.op in MIXING]
    ahead = next(
        (
            n.op
            for n in path[position[node.outputs[0].name] + 1 :]
            if n.op not in ("Identity", "Dropout", "Cast")
        ),
        "the score",
    )
    last = behind[-1]
    made = f"{node.op} after the {_ordinal(len(behind))} of its mixing layers ({last.op})"
    if node is last:
        made = f"{node.op}, the {_ordinal(len(behind))} mixing layer"
    return f"every path to the score passes through it; {made}; {ahead} comes next"


def _ordinal(n: int) -> str:
    suffix = "th" if 10 <= n % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{suffix}"
