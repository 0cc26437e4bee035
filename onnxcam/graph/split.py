"""Cuts a graph: the part between given tensors, and a classifier into features and head."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from onnxcam.graph.load import Classifier
from onnxcam.graph.model import Model, to_model
from onnxcam.graph.paths import every_input, reached


def extract(graph: gs.Graph, inputs: Sequence[str], outputs: Sequence[str], like: Model) -> Model:
    """The model that computes `outputs` from `inputs`, both names of tensors in `graph`.

    `graph` is left as it is.
    """
    part = graph.copy()
    tensors = part.tensors()
    for name in inputs:
        tensors[name].inputs.clear()
    part.inputs = [tensors[name] for name in inputs]
    part.outputs = [tensors[name] for name in outputs]
    part.cleanup(remove_unused_graph_inputs=False).toposort()
    return to_model(part, like)


def crossing(graph: gs.Graph, image: str, layer: str, outputs: Sequence[str]) -> list[str]:
    """Names of the tensors that go around `layer`: what a head needs from the picture besides it.

    They depend on the image, not on `layer`, and nodes behind `layer` use them.
    """
    behind = reached(graph, layer, through=every_input)
    pictured = reached(graph, image, through=every_input)
    needed, around = set(outputs), []
    for node in reversed(graph.nodes):
        if not any(t.name in needed for t in node.outputs):
            continue
        if not any(t.name in behind for t in node.outputs) or layer in {
            t.name for t in node.outputs
        }:
            continue
        for tensor in node.inputs:
            if tensor.name in behind:
                needed.add(tensor.name)
            elif tensor.name in pictured and tensor.name not in around:
                around.append(tensor.name)
    return around[::-1]


def split(classifier: Classifier, layer: str | int | None = None) -> tuple[Model, Model]:
    """Splits a classifier at a tensor into features (image → A) and head (A → scores).

    `head(features(x)) == model(x)`; tensors that go around the feature map (skip connections) are
    further outputs of the features and inputs of the head, under their own names. The batch is
    free in both where it is in the classifier.

    Args:
        classifier: what to split.
        layer: any tensor between image and score, by name, by its node, or by position among the
            feature maps (-2); None for the default feature map.

    Raises:
        LayerError: `layer` names no such tensor.
    """
    found = classifier.tensor(layer)
    graph = classifier.graph()
    outputs = [t.name for t in graph.outputs]
    middle = [found, *crossing(graph, classifier.image.name, found, outputs)]
    features = extract(graph, [classifier.image.name], middle, classifier.model)
    head = extract(graph, middle, outputs, classifier.model)
    return features, head
