"""What a model does to a picture before its first layer: the normalisation that is baked in.

From the image up to the first operator that mixes channels, constants are followed as one linear
function, averaged over the channels. Where it divides by something like 255, or takes off a mean
of such a size, the model wants pixels as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.graph.feature import MIXING, VIEWS
from onnxcam.graph.model import array_of
from onnxcam.graph.paths import path_nodes

_SMALL_FACTOR = 0.05  # 1/255 is 0.004, 1/58 (std 0.229 on bytes) is 0.017
_LARGE_MEAN = 20.0  # means of bytes are about 100
_CENTRE, _FACTOR = (0.2, 0.8), 1.5  # pixels of 0 to 1: mean about 0.5, over a std of at most 0.5


@dataclass(frozen=True)
class Prepared:
    """What a model does to pictures itself.

    Attributes:
        pixels: the white that it takes off: 255 or 1; None where it does not normalise.
        resizes: it brings pictures to size.
    """

    pixels: int | None = None
    resizes: bool = False


def prepared(graph: gs.Graph, image: str, score: str) -> Prepared:
    """What the nodes before the first mixing layer do to `image`."""
    known = {image: (1.0, 0.0)}  # factor and summand, by tensor
    resizes = normed = False
    for node in path_nodes(graph, image, score):
        inputs = [known.get(t.name) for t in node.inputs]
        held = [array_of(t) for t in node.inputs]
        if node.op in MIXING or node.op == "MaxPool":
            factor, summand = inputs[0] or (1.0, 0.0)
            return Prepared(_white(factor, summand, normed), resizes)
        found = _step(node, inputs, held)
        if found is None:
            return Prepared(None, resizes)
        resizes = resizes or node.op in ("Resize", "Upsample")
        normed = normed or node.op == "BatchNormalization"
        known.update(dict.fromkeys((t.name for t in node.outputs), found))
    return Prepared(None, resizes)


def _white(factor: float, summand: float, normed: bool) -> int | None:
    centre = -summand / factor if factor else 0.0
    if 0 < factor < _SMALL_FACTOR or centre > _LARGE_MEAN:
        return 255
    # A normalisation that was learnt says nothing about small values: they may be normalised twice.
    unit = factor >= _FACTOR and _CENTRE[0] <= centre <= _CENTRE[1] and not normed
    return 1 if unit else None


def _step(
    node: gs.Node, inputs: list[tuple[float, float] | None], held: list[np.ndarray | None]
) -> tuple[float, float] | None:
    """Factor and summand behind a node; None where it is no such linear function."""
    if node.op in VIEWS or node.op in ("Resize", "Upsample"):
        ways = [w for w in inputs if w is not None]
        mean = np.mean(ways, axis=0) if ways else (1.0, 0.0)
        return float(mean[0]), float(mean[1])
    if node.op == "BatchNormalization" and inputs[0] and all(a is not None for a in held[1:5]):
        scale, bias, mean, var = (np.asarray(a, np.float64) for a in held[1:5])
        factor = scale / np.sqrt(var + node.attrs.get("epsilon", 1e-5))
        f, s = inputs[0]
        return f * float(factor.mean()), float((factor * (s - mean) + bias).mean())
    if node.op not in ("Add", "Sub", "Mul", "Div") or len(held) != 2:
        return None
    first = inputs[0] is not None
    constant, way = (held[1], inputs[0]) if first else (held[0], inputs[1])
    if constant is None or way is None or not constant.size:
        return None
    c, (f, s) = float(np.mean(constant, dtype=np.float64)), way
    if node.op == "Add":
        return f, s + c
    if node.op == "Mul":
        return f * c, s * c
    if not first:
        return (-f, c - s) if node.op == "Sub" else None
    if node.op == "Sub":
        return f, s - c
    return (f / c, s / c) if c else None
