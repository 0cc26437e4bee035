"""Which tensor is the class score: the walk back from an output over what only dresses it."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from onnxcam.errors import ModelError, close_matches

_VIEWS = {  # op → which input to follow: operators that keep every class score as it is
    **dict.fromkeys(
        (
            "Identity",
            "Cast",
            "Squeeze",
            "Unsqueeze",
            "Reshape",
            "Flatten",
            "Dropout",
            "Transpose",
            "DequantizeLinear",
            "QuantizeLinear",
        ),
        0,
    ),
}
_TAILS = {  # decisions taken from the scores: they carry no score themselves
    "ZipMap": 0,
    "ArgMax": 0,
    "TopK": 0,
    "ArrayFeatureExtractor": 1,
}
ACTIVATIONS = {"Softmax": "softmax", "LogSoftmax": "log-softmax", "Sigmoid": "sigmoid"}


@dataclass(frozen=True)
class Score:
    """The class scores of a classifier.

    Attributes:
        logit: name of the tensor before the final non-linearity.
        probability: name of the tensor after it, or None where the model ends in its logits.
        activation: "softmax", "log-softmax", "sigmoid" or None.
        stripped: operators behind the score that were left out, e.g. ("ArgMax", "ZipMap").
    """

    logit: str
    probability: str | None
    activation: str | None
    stripped: tuple[str, ...] = ()


def find_score(graph: gs.Graph, output: str | None = None) -> Score:
    """The score behind `output` (default: the only output that leads to class scores).

    Raises:
        ModelError: no such output, no score, or several.
    """
    outputs = {t.name: t for t in graph.outputs}
    if output is not None:
        tensor = outputs.get(output) or graph.tensors().get(output)
        if tensor is None:
            raise ModelError(
                f"the model has no output {output!r}{close_matches(output, outputs)}; "
                f"its outputs are {', '.join(map(repr, outputs))}"
            )
        return score_of(tensor)
    scores: dict[str, Score] = {}
    for tensor in graph.outputs:
        score = score_of(tensor)
        known = scores.get(score.logit)
        if known is None or (known.probability is None and score.probability is not None):
            scores[score.logit] = score
    if len(scores) > 1:
        scores = {k: s for k, s in scores.items() if _class_like(graph, k)} or scores
    if len(scores) > 1:
        scores = _deepest(graph, scores)
    if len(scores) != 1:
        raise ModelError(
            f"the model has {len(graph.outputs)} outputs, and several look like class scores: "
            f"{', '.join(map(repr, outputs))}; name one with --output"
        )
    return next(iter(scores.values()))


def score_of(tensor: gs.Tensor) -> Score:
    """Walks back from `tensor` to the score: over tails, views and one final non-linearity."""
    stripped: list[str] = []
    after: gs.Tensor = tensor
    probability = activation = None
    while tensor.inputs:
        node = tensor.inputs[0]
        if node.op in _TAILS:
            stripped.append(node.op)
            tensor = after = node.inputs[_TAILS[node.op]]
        elif node.op in ACTIVATIONS:
            probability, activation = after.name, ACTIVATIONS[node.op]
            tensor = node.inputs[0]
            break
        elif node.op in _VIEWS:
            tensor = node.inputs[_VIEWS[node.op]]
        else:
            break
    logit = tensor.name if activation else after.name
    return Score(logit, probability, activation, tuple(stripped))


def _class_like(graph: gs.Graph, name: str) -> bool:
    tensor = graph.tensors()[name]
    if tensor.shape is None:
        return True
    wide = [d for d in tensor.shape[1:] if d != 1]
    return len(tensor.shape) >= 2 and len(wide) <= 1


def _deepest(graph: gs.Graph, scores: dict[str, Score]) -> dict[str, Score]:
    """Of auxiliary classifiers and the main one, the one that uses most of the graph."""
    depth: dict[str, int] = {}
    for node in graph.nodes:
        step = 1 + max((depth.get(t.name, 0) for t in node.inputs), default=0)
        depth.update({t.name: step for t in node.outputs})
    ranked = sorted(scores, key=lambda name: depth.get(name, 0))
    if depth.get(ranked[-1], 0) > depth.get(ranked[-2], 0) + 1:
        return {ranked[-1]: scores[ranked[-1]]}
    return scores
