"""Feature maps of token models: the normalised inputs of the attention blocks, on their grid.

Where tokens are mixed without attention (MLP models), what comes before the mean over them.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.graph.feature import (
    ATTENTION,
    MIXING,
    POOLS,
    VIEWS,
    FeatureMap,
    Spatial,
    area,
    feature_map,
    spatial_of,
)
from onnxcam.graph.paths import cuts, data_inputs
from onnxcam.graph.quantised import QUANTISERS


def token_maps(path: list[gs.Node], image: str, size: tuple[int, int]) -> dict[str, FeatureMap]:
    """The normalised inputs of the attention blocks, by tensor name.

    Args:
        path: the nodes from image to score, in order.
        image: name of the image input.
        size: its height and width.
    """
    on_path = {t.name for n in path for t in n.outputs} | {image}
    batch = next(t for n in path for t in n.inputs if t.name == image).shape[0]
    reason = "the normalised input of an attention block; class and register tokens left out"
    tokens: dict[str, FeatureMap] = {}
    for attention in _attentions(path):
        ahead = _between(path, attention.outputs[0].name)
        tensor = _projected(cuts(ahead, image), ahead, on_path, batch)
        if tensor is None or tensor.name in tokens:
            continue
        spatial, prefix, shape = spatial_of(tensor), 0, tensor.shape
        if spatial is None and len(shape) == 3 and all(isinstance(n, int) for n in shape[1:]):
            laid = _grid(shape[1], _grids(ahead, tensor), size)
            if laid is not None:
                spatial, prefix = Spatial("NTC", shape[2], laid[0]), laid[1]
        if spatial is not None and 1 not in spatial.grid:  # 1×n are blocks of tokens, not a grid
            tokens[tensor.name] = feature_map(tensor, spatial, prefix, reason)
    return tokens


def mixed_maps(path: list[gs.Node], found: list[gs.Tensor]) -> dict[str, FeatureMap]:
    """Tokens (N, T, C) that everything passes through, where no attention mixes them, by name.

    Args:
        path: the nodes from image to score, in order.
        found: the tensors that every path passes through.
    """
    reason = "tokens on their grid, which every path to the score passes through; no attention"
    maps: dict[str, FeatureMap] = {}
    for tensor in found:
        shape = tensor.shape
        if shape is None or len(shape) != 3 or not all(isinstance(n, int) for n in shape[1:]):
            continue
        grids = _grids(path, tensor)
        laid = _grid(shape[1], grids[:1], grids[0]) if grids else None
        if laid is not None and tensor.inputs[0].op not in VIEWS and _mixed(path, tensor):
            spatial = Spatial("NTC", shape[2], laid[0])
            maps[tensor.name] = feature_map(tensor, spatial, laid[1], reason)
    return maps


def _mixed(path: list[gs.Node], tensor: gs.Tensor) -> bool:
    """Whether a linear layer ahead of (N, T, C) works along the tokens."""
    place = next(i for i, n in enumerate(path) if n is tensor.inputs[0])
    linear = (n for n in path[:place] if n.op in ("MatMul", "Gemm"))
    return any((n.inputs[0].shape or [None])[-1] == tensor.shape[1] for n in linear)


def _grids(path: list[gs.Node], before: gs.Tensor) -> list[tuple[int, int]]:
    """The grids of the convolutions and pools ahead of a tensor, the nearest first."""
    place = next(i for i, n in enumerate(path) if n is before.inputs[0])
    made = (t for n in path[:place] if n.op in POOLS or "Conv" in n.op for t in n.outputs)
    return [s.grid for s in map(spatial_of, made) if s is not None][::-1]


def _attentions(path: list[gs.Node]) -> list[gs.Node]:
    """The nodes at which probabilities meet values: softmax → … → MatMul, or a fused operator."""
    found = []
    for node in path:
        if node.op in ATTENTION:
            found.append(node)
        if (node.op in ("Softmax", "QLinearSoftmax") or _shares(node)) and node.outputs:
            tensor = node.outputs[0]
            for _ in range(6):
                consumer = next(iter(tensor.outputs), None)
                if consumer is None or not consumer.outputs:
                    break
                if consumer.op in ("MatMul", "Einsum", "QLinearMatMul"):
                    if not any(isinstance(t, gs.Constant) for t in _factors(consumer)):
                        found.append(consumer)
                    break
                tensor = consumer.outputs[0]
    return [n for n in found if n in path]


def _factors(node: gs.Node) -> list[gs.Tensor]:
    """The inputs of an operator without scales and zero points, which are constants as a rule."""
    places = _FACTORS.get(node.op)
    return list(node.inputs) if places is None else [node.inputs[i] for i in places]


_FACTORS = {
    **dict.fromkeys(("QLinearMatMul", "QLinearConv", "QGemm"), (0, 3)),
    **dict.fromkeys(("MatMulInteger", "ConvInteger"), (0, 1)),
}


def _shares(node: gs.Node) -> bool:
    """Whether a node is the last of a softmax that is written out: exp(x) over its own sum."""
    if node.op != "Div" or not node.inputs[0].inputs or node.inputs[0].inputs[0].op != "Exp":
        return False
    total = node.inputs[1]
    while total.inputs and total.inputs[0].op in (*VIEWS, "Expand"):
        total = total.inputs[0].inputs[0]
    summed = bool(total.inputs) and total.inputs[0].op == "ReduceSum"
    return summed and total.inputs[0].inputs[0] is node.inputs[0]


def _between(path: list[gs.Node], sink: str) -> list[gs.Node]:
    wanted, kept = {sink}, []
    for node in reversed(path):
        if any(t.name in wanted for t in node.outputs):
            kept.append(node)
            wanted.update(t.name for t in data_inputs(node))
    return kept[::-1]


def _projected(
    found: list[gs.Tensor], ahead: list[gs.Node], on_path: set[str], batch: object
) -> gs.Tensor | None:
    """The last cut before an attention that a linear layer projects, seen through views.

    Of a chain of views the earliest is taken that still has the batch first and the features that
    are projected last: windows, sequence-first and flattened forms are looked through.
    """
    inside = {id(n) for n in ahead}
    for i in range(len(found) - 1, -1, -1):
        consumers = [n for n in _takers(found[i]) if id(n) in inside]
        projected = any(
            n.op in ATTENTION
            or (n.op in MIXING and any(t.name and t.name not in on_path for t in _factors(n)))
            for n in consumers
        )
        if not projected or not found[i].shape:
            continue
        features, best = found[i].shape[-1], None
        for tensor in found[i::-1]:
            shape = tensor.shape or (None,)
            floats = tensor.dtype is None or np.issubdtype(tensor.dtype, np.floating)
            if len(shape) in (3, 4) and shape[0] == batch and shape[-1] == features and floats:
                best = tensor
            if tensor.inputs[0].op not in (*VIEWS, *QUANTISERS):
                break
        return best
    return None


def _takers(tensor: gs.Tensor) -> list[gs.Node]:
    """What takes a tensor, be it as rows or in integers.

    Flax's exports flatten it once for each projection; dynamic quantisation stands ahead of them.
    """
    features = (tensor.shape or [None])[-1]
    found = []
    for node in tensor.outputs:
        if node.op == "DynamicQuantizeLinear":
            found += node.outputs[0].outputs
            continue
        shape = node.outputs[0].shape if node.op == "Reshape" else None
        rows = shape is not None and len(shape) == 2 and shape[1] == features
        found += [n for n in node.outputs[0].outputs if n.op == "Gemm"] if rows else [node]
    return found


def _grid(
    tokens: int, grids: list[tuple[int, int]], size: tuple[int, int]
) -> tuple[tuple[int, int], int] | None:
    """Grid and number of tokens before it: the nearest map's grid, else the image's aspect."""
    for grid in grids:
        if 0 <= tokens - area(grid) <= 16 and area(grid) > 1:
            return grid, tokens - area(grid)
    for prefix in range(6):  # a class token, one of distillation, four registers
        for h in range(2, tokens):
            w, rest = divmod(tokens - prefix, h)
            if not rest and w > 1 and h * size[1] == w * size[0]:
                return (h, w), prefix
    return None
