"""Which tensor is the feature map: dominators of the path from the image to the score.

No name is looked at. A tensor that every path passes through is a *cut*; cuts are found in one
sweep, because right after a cut is computed nothing else is alive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from onnxcam.errors import LayerError, ModelError, close_matches
from onnxcam.graph.model import array_of


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
    """

    tensor: str
    layout: str
    units: int
    grid: tuple[int, int]
    prefix: int
    node: str
    reason: str

    @property
    def axis(self) -> int:
        """The axis of the units."""
        return 1 if self.layout == "NCHW" else -1


_MIXING = {  # operators that mix the channels of a map
    "Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "ConvInteger", "MatMulInteger",
    "QLinearConv", "QLinearMatMul", "QGemm", "FusedConv", "FusedMatMul", "DeformConv",
}
_VIEWS = {
    "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Dropout", "Cast",
    "Slice", "Concat", "Split", "Gather", "Pad", "Expand",
}
_POOLS = {
    "MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool",
    "ReduceMean", "ReduceMax", "ReduceSum", "Resize", "Upsample", "DepthToSpace", "SpaceToDepth",
    "QLinearAveragePool", "QLinearGlobalAveragePool",
}
_THROUGH = (_VIEWS - {"Concat"}) | _POOLS | {"QuantizeLinear", "DequantizeLinear"}
_ATTENTION = {"Attention", "MultiHeadAttention", "GroupQueryAttention", "QAttention"}
_LAST_AXIS = {"LayerNormalization", "MatMul", "Gemm", "RMSNormalization", "SkipLayerNormalization",
              "SimplifiedLayerNormalization"}


Inputs = Callable[[gs.Node], Iterable[gs.Tensor]]


def data_inputs(node: gs.Node) -> Iterable[gs.Tensor]:
    """The inputs through which picture data flows: none where only a shape is taken."""
    return () if node.op in ("Shape", "Size") else node.inputs


def every_input(node: gs.Node) -> Iterable[gs.Tensor]:
    """All inputs of a node, whatever it takes from them."""
    return node.inputs


def reached(
    graph: gs.Graph, source: str, but: str | None = None, through: Inputs = data_inputs
) -> set[str]:
    """Names of `source` and of every tensor computed from its data, unless through `but`."""
    names = {source}
    for node in graph.nodes:
        if any(t.name in names for t in through(node)):
            names.update(t.name for t in node.outputs if t.name and t.name != but)
    return names


def path_nodes(
    graph: gs.Graph,
    source: str,
    sink: str,
    but: str | None = None,
    through: Inputs = data_inputs,
) -> list[gs.Node]:
    """The nodes on the paths of data from `source` to `sink`, in topological order.

    Paths through the tensor `but` do not count; with `through=every_input` paths through shapes do.
    """
    forward = reached(graph, source, but, through)
    wanted, path = {sink}, []
    for node in reversed(graph.nodes):
        if any(t.name in wanted and t.name in forward for t in node.outputs):
            if any(t.name in forward for t in through(node)):
                path.append(node)
            wanted.update(t.name for t in through(node) if t.name in forward)
    return path[::-1]


def cuts(path: list[gs.Node], source: str) -> list[gs.Tensor]:
    """The tensors that every path of data passes through, in order; without `source`."""
    uses: dict[str, int] = {}
    for node in path:
        for tensor in data_inputs(node):
            uses[tensor.name] = uses.get(tensor.name, 0) + 1
    alive = {source}
    found = []
    for node in path:
        for tensor in data_inputs(node):
            if tensor.name in uses:
                uses[tensor.name] -= 1
                if not uses[tensor.name]:
                    alive.discard(tensor.name)
        produced = [t for t in node.outputs if t.name in uses]
        alive.update(t.name for t in produced)
        if len(alive) == 1 and produced and produced[0].name in alive:
            found.append(produced[0])
    if path:  # nothing consumes the sink
        found.append(path[-1].outputs[0])
    return found


def feature_maps(
    graph: gs.Graph, image: str, size: tuple[int, int], score: str
) -> tuple[list[FeatureMap], FeatureMap]:
    """All candidates, in the order of the path, and the default among them.

    Args:
        graph: shapes annotated ("N" at the batch axis), nodes in topological order.
        image: name of the image input.
        size: its height and width.
        score: name of the score tensor.

    Raises:
        ModelError: nothing between image and score has a spatial grid.
    """
    path = path_nodes(graph, image, score)
    if not path:
        raise ModelError(f"the score {score!r} does not depend on the image input {image!r}")
    found = cuts(path, image)
    position = {t.name: i for i, n in enumerate(path) for t in n.outputs}
    mixing = [i for i, n in enumerate(path) if n.op in _MIXING]
    last_mixing = max(mixing, default=-1)
    maps: dict[str, FeatureMap] = {}
    for tensor in found:
        node = tensor.inputs[0]
        after_mixing = mixing and mixing[0] <= position[tensor.name]
        if not after_mixing or (node.op in _THROUGH and not _rectifies(node)):
            continue
        spatial = _spatial(tensor)
        if spatial is None or position[tensor.name] >= last_mixing:
            continue
        maps[tensor.name] = _map(tensor, *spatial, 0, _why(node, path, position))
    tokens = _token_maps(path, image, size, maps, position)
    default = list(maps.values())[-1] if maps else None
    if tokens:
        last = list(tokens.values())[-1]
        convs = [i for i, n in enumerate(path) if n.op in ("Conv", "QLinearConv", "ConvInteger")]
        attended = position[last.tensor]
        later = default is not None and position[default.tensor] > attended and any(
            attended < i <= position[default.tensor] for i in convs
        )
        if not later:
            default = last
    if default is None:
        raise ModelError(
            "the model has no spatial feature map between image and score: no tensor with a grid "
            "larger than 1×1 that every path passes through; name one with --layer if there is one"
        )
    every = sorted({**maps, **tokens}.values(), key=lambda m: position[m.tensor])
    return every, default


def find_layer(
    graph: gs.Graph,
    candidates: list[FeatureMap],
    default: FeatureMap,
    image: str,
    score: str,
    layer: str | int | None,
) -> FeatureMap:
    """The feature map that `layer` names: tensor, node, or position such as -2 from the end.

    Raises:
        LayerError: there is none, it does not lead to the score, or it has no grid.
    """
    if layer is None:
        return default
    text = str(layer)
    known = {m.tensor: m for m in candidates}
    tensors = graph.tensors()
    if text not in tensors and text.lstrip("-").isdigit():
        index = int(text)
        if not -len(candidates) <= index < len(candidates):
            raise LayerError(
                f"there is no feature map {index}: the model has {len(candidates)}, "
                f"numbered {-len(candidates)} to -1 ('onnxcam inspect' lists them)"
            )
        return candidates[index]
    nodes = {n.name: n for n in graph.nodes if n.name and n.outputs}
    if text not in tensors and text in nodes:
        text = nodes[text].outputs[0].name
    if text in known:
        return known[text]
    if text not in tensors:
        near = close_matches(text, [*known, *nodes])
        raise LayerError(
            f"there is no tensor or node {text!r} in the model{near}; "
            "'onnxcam inspect' lists the feature maps"
        )
    path = path_nodes(graph, image, score)
    tensor = tensors[text]
    if not any(tensor.name in (t.name for t in n.outputs) for n in path):
        raise LayerError(
            f"{text!r} does not lie between the image and the score, so the score cannot depend "
            "on it; 'onnxcam inspect' lists the feature maps"
        )
    spatial = _spatial(tensor)
    if spatial is None:
        like = next((m for m in candidates if m.layout == "NTC"), None)
        shape = tensor.shape or ()
        if like is not None and len(shape) == 3 and shape[1] == like.prefix + _area(like.grid):
            return _map(tensor, "NTC", shape[2], like.grid, like.prefix, "named by the user")
        raise LayerError(
            f"{text!r} has shape {_shown(tensor.shape)}, not that of a feature map "
            "(N, units, height, width); 'onnxcam inspect' lists the feature maps"
        )
    return _map(tensor, *spatial, 0, "named by the user")


def _map(
    tensor: gs.Tensor, layout: str, units: int, grid: tuple[int, int], prefix: int, reason: str
) -> FeatureMap:
    node = tensor.inputs[0]
    shown = f"{node.name} ({node.op})" if node.name else node.op
    return FeatureMap(tensor.name, layout, units, grid, prefix, shown, reason)


def _spatial(tensor: gs.Tensor) -> tuple[str, int, tuple[int, int]] | None:
    """Layout, units and grid of a tensor of rank 4 with more than one position, else None."""
    shape = tensor.shape
    if shape is None or len(shape) != 4 or not all(isinstance(n, int) for n in shape[1:]):
        return None
    layout = _layout(tensor)
    units, grid = (shape[1], shape[2:]) if layout == "NCHW" else (shape[3], shape[1:3])
    return (layout, units, (grid[0], grid[1])) if _area(grid) > 1 else None


def _layout(tensor: gs.Tensor) -> str:
    """The layout that the nearest operator behind `tensor` works in."""
    flip = {"NCHW": "NHWC", "NHWC": "NCHW"}
    flips = 0
    for _ in range(64):
        if not tensor.inputs:
            break
        node = tensor.inputs[0]
        if node.op in _LAST_AXIS:
            return "NHWC" if flips % 2 == 0 else "NCHW"
        if node.op in ("Conv", "BatchNormalization", "InstanceNormalization", "QLinearConv",
                       "GroupNormalization") or node.op in _POOLS:
            break
        if node.op == "Transpose" and len(node.attrs.get("perm", ())) == 4:
            perm = list(node.attrs["perm"])
            flips += perm in ([0, 2, 3, 1], [0, 3, 1, 2])
        if node.op == "Concat":
            layout = "NHWC" if node.attrs["axis"] in (3, -1) else "NCHW"
            return layout if flips % 2 == 0 else flip[layout]
        tensor = next((t for t in node.inputs if not isinstance(t, gs.Constant)), tensor)
    return "NCHW" if flips % 2 == 0 else "NHWC"


def _rectifies(node: gs.Node) -> bool:
    """A dequantised tensor whose quantiser clips at zero: that clipping is the activation."""
    if node.op != "DequantizeLinear" or not node.inputs[0].inputs:
        return False
    quantise = node.inputs[0].inputs[0]
    zero = array_of(quantise.inputs[2]) if len(quantise.inputs) > 2 else None
    if quantise.op != "QuantizeLinear" or zero is None or zero.size != 1:
        return False
    lowest = {"uint8": 0, "int8": -128, "uint16": 0, "int16": -32768}.get(str(zero.dtype))
    return lowest is not None and int(zero.reshape(-1)[0]) == lowest


def _why(node: gs.Node, path: list[gs.Node], position: dict[str, int]) -> str:
    behind = [n for n in path[: position[node.outputs[0].name] + 1] if n.op in _MIXING]
    ahead = next((n.op for n in path[position[node.outputs[0].name] + 1 :]
                  if n.op not in ("Identity", "Dropout", "Cast")), "the score")
    last = behind[-1]
    made = f"{node.op} after the {_ordinal(len(behind))} of its mixing layers ({last.op})"
    if node is last:
        made = f"{node.op}, the {_ordinal(len(behind))} mixing layer"
    return f"every path to the score passes through it; {made}; {ahead} comes next"


def _ordinal(n: int) -> str:
    suffix = "th" if 10 <= n % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{suffix}"


def _token_maps(
    path: list[gs.Node],
    image: str,
    size: tuple[int, int],
    maps: dict[str, FeatureMap],
    position: dict[str, int],
) -> dict[str, FeatureMap]:
    """The normalised inputs of the attention blocks, as feature maps."""
    on_path = {t.name for n in path for t in n.outputs} | {image}
    batch = next(t for n in path for t in n.inputs if t.name == image).shape[0]
    tokens: dict[str, FeatureMap] = {}
    for attention in _attentions(path):
        sink = attention.outputs[0].name
        ahead = _between(path, sink)
        tensor = _projected(cuts(ahead, image), ahead, on_path, batch)
        if tensor is None or tensor.name in tokens:
            continue
        reason = "the normalised input of an attention block; class and register tokens left out"
        spatial = _spatial(tensor)
        if spatial is not None:
            tokens[tensor.name] = _map(tensor, *spatial, 0, reason)
            continue
        shape = tensor.shape or ()
        if len(shape) != 3 or not all(isinstance(n, int) for n in shape[1:]):
            continue
        grids = [m.grid for m in maps.values() if position[m.tensor] < position[tensor.name]]
        grids += [_grid_of(t) for n in path[: position[tensor.name]] for t in n.outputs]
        laid = _grid(shape[1], [g for g in grids if g][::-1], size)
        if laid is not None:
            tokens[tensor.name] = _map(tensor, "NTC", shape[2], *laid, reason)
    return tokens


def _attentions(path: list[gs.Node]) -> list[gs.Node]:
    """The nodes at which probabilities meet values: Softmax → … → MatMul, or a fused operator."""
    found = []
    for node in path:
        if node.op in _ATTENTION:
            found.append(node)
        if node.op == "Softmax" and node.outputs:
            tensor = node.outputs[0]
            for _ in range(6):
                consumer = next(iter(tensor.outputs), None)
                if consumer is None or not consumer.outputs:
                    break
                if consumer.op in ("MatMul", "Einsum"):
                    if not any(isinstance(t, gs.Constant) for t in consumer.inputs):
                        found.append(consumer)
                    break
                tensor = consumer.outputs[0]
    return [n for n in found if n in path]


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
        consumers = [n for n in found[i].outputs if id(n) in inside]
        projected = any(
            n.op in _ATTENTION
            or (n.op in _MIXING and any(t.name and t.name not in on_path for t in n.inputs))
            for n in consumers
        )
        if not projected or not found[i].shape:
            continue
        features, best = found[i].shape[-1], None
        for tensor in found[i::-1]:
            shape = tensor.shape or (None,)
            if len(shape) in (3, 4) and shape[0] == batch and shape[-1] == features:
                best = tensor
            if tensor.inputs[0].op not in _VIEWS:
                break
        return best
    return None


def _grid_of(tensor: gs.Tensor) -> tuple[int, int] | None:
    spatial = _spatial(tensor)
    return spatial[2] if spatial else None


def _grid(
    tokens: int, grids: list[tuple[int, int]], size: tuple[int, int]
) -> tuple[tuple[int, int], int] | None:
    """Grid and number of tokens before it: the nearest map's grid, else the image's aspect."""
    for grid in grids:
        if 0 <= tokens - _area(grid) <= 16 and _area(grid) > 1:
            return grid, tokens - _area(grid)
    for prefix in range(17):
        for h in range(2, tokens):
            w, rest = divmod(tokens - prefix, h)
            if not rest and w > 1 and h * size[1] == w * size[0]:
                return (h, w), prefix
    return None


def _area(grid: Iterable[int]) -> int:
    h, w = grid
    return h * w


def _shown(shape: object) -> str:
    return "unknown" if shape is None else f"({', '.join(map(str, shape))})"  # type: ignore[call-overload]
