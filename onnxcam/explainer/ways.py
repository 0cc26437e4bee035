"""What else explains a model in which an operator stands in the way of a method."""

from __future__ import annotations

from typing import Any

import onnx
import onnx_graphsurgeon as gs

from onnxcam.diff import reverse
from onnxcam.diff.bodies import BODIES
from onnxcam.diff.vjp import CONSTANT, STEPS, VJP
from onnxcam.explainer.bench import Bench
from onnxcam.explainer.recipe import Recipe
from onnxcam.graph.feature import FeatureMap
from onnxcam.graph.paths import every_input, path_nodes
from onnxcam.methods import METHODS

_GRADIENTS = {  # needs made by gradients: for the feature map, and for the image
    **dict.fromkeys(("gradient", "curvature", "derivatives", "linear"), "head"),
    **dict.fromkeys(("pixels", "guided", "deconv", "terms", "path", "noisy"), "model"),
}
_RUNS = {  # needs made by running the head, or the whole model, on many versions of a tensor
    **dict.fromkeys(("drop", "placed", "derivatives"), "head"),
    **dict.fromkeys(("masked", "occluded", "sampled", "path", "gain", "noisy"), "model"),
}


def other_methods(b: Bench, what: Recipe, met: str) -> list[str]:
    """The methods that no operator rules out, where `met`, an error, rules out that of `what`."""
    layer: FeatureMap | None = what.layer or b.classifier.default
    ways = {"model": path_nodes(b.e.graph, b.image.name, b.asked.name, through=every_input)}
    if layer is not None:
        head = path_nodes(b.e.graph, layer.tensor, b.asked.name, b.chosen.name, every_input)
        ways["head"] = head
    runs = {part for part, nodes in ways.items() if not any(map(_holds_graph, nodes))}
    smooth = {
        part
        for part in runs
        if b.e.graph.opset >= reverse.OPSET
        and not any(_named(n, met) or not _has_rule(b, n) for n in ways[part])
    }
    return [
        row.name
        for row in METHODS.values()
        if not row.fused
        and row is not what.method
        and (layer is not None or not row.on_layer)
        and all(_RUNS.get(need, "model") in runs for need in row.needs if need in _RUNS)
        and all(_GRADIENTS[need] in smooth for need in row.needs if need in _GRADIENTS)
        and "linear" not in row.needs  # that the head suits it is not known
    ]


def _holds_graph(node: gs.Node) -> bool:
    return any(isinstance(a, gs.Graph) for a in node.attrs.values())


def _named(node: gs.Node, met: str) -> bool:
    """Whether an error names the node, or a copy of it."""
    return f"{node.name!r} ({node.op})" in met or bool(node.name and f"/{node.name}_" in met)


def _has_rule(b: Bench, node: gs.Node) -> bool:
    domain = "" if node.domain in (None, "", "ai.onnx") else node.domain
    if (domain, node.op) in BODIES:
        return True
    if domain:
        return False
    if node.op in VJP or node.op in CONSTANT or node.op in STEPS:
        return True
    schema: Any = onnx.defs.get_schema(node.op, b.e.graph.opset, domain)
    return bool(schema.has_function or schema.has_context_dependent_function)
