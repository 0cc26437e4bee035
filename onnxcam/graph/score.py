"""Which tensor is the class score: the walk back from an output over what only dresses it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.errors import ModelError, close_matches
from onnxcam.graph.model import array_of
from onnxcam.graph.quantised import QUANTISERS

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
            *QUANTISERS,
        ),
        0,
    ),
}
_DECISIONS = {  # decisions taken from the scores: they carry no score themselves
    **dict.fromkeys(("ZipMap", "ArgMax", "TopK", "Hardmax", "Round", "Floor", "Ceil", "Sign"), 0),
    **dict.fromkeys(("Not", "OneHot", "LabelEncoder", "Binarizer"), 0),
    "ArrayFeatureExtractor": 1,
}
_COMPARISONS = {"Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "And", "Or"}
_DRESS = {  # what keeps the order of probabilities: left out, but only right behind them
    *("Mul", "Div", "Add", "Sub", "Clip", "Min", "Max", "ReduceMax", "Exp", "LpNormalization"),
}
_LABELLED = {  # classifiers of ai.onnx.ml: their outputs are labels and scores
    *("TreeEnsembleClassifier", "SVMClassifier", "LinearClassifier"),
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
    if not outputs:
        raise ModelError("the model has no outputs; name a tensor of it with --output")
    scores: dict[str, Score] = {}  # by the tensor where the walk from an output ends
    named: dict[str, str] = {}
    for tensor in graph.outputs:
        score, root = _walk(tensor)
        known = scores.get(root)
        if known is None or _plainness(score) < _plainness(known):
            scores[root], named[root] = score, tensor.name
    if len(scores) > 1:
        scores = {k: s for k, s in scores.items() if _class_like(graph, s.logit)} or scores
    if len(scores) > 1:
        scores = _deepest(graph, scores)
    if len(scores) != 1:
        shown = ", ".join(f"{named[k]!r} {dims_of(outputs[named[k]])}" for k in scores)
        raise ModelError(
            f"the model has {len(graph.outputs)} outputs, and several look like class scores: "
            f"{shown}; name one with --output, such as --output {named[next(iter(scores))]}"
        )
    return next(iter(scores.values()))


def _plainness(score: Score) -> tuple[bool, int]:
    """Of outputs of the same scores, the one with probabilities is taken, and least behind it."""
    return score.probability is None, len(score.stripped)


def score_of(tensor: gs.Tensor) -> Score:
    """Walks back from `tensor` to the score: over tails, views and one final non-linearity."""
    return _walk(tensor)[0]


def _walk(tensor: gs.Tensor) -> tuple[Score, str]:
    """The score behind `tensor`, and the name of the tensor where the walk to it ended."""
    stripped: list[str] = []
    dress: list[str] = []
    after: gs.Tensor = tensor
    while tensor.inputs:
        node = tensor.inputs[0]
        if node.op in ACTIVATIONS:
            activation = ACTIVATIONS[node.op]
            exponent = dress == ["Exp"] and activation == "log-softmax"
            if dress and not exponent:
                stripped, after = stripped + dress, tensor
            kind = "softmax" if exponent else activation
            logit = node.inputs[0].name
            return Score(logit, after.name, kind, tuple(stripped)), logit
        source, decides = _behind(node, tensor)
        if source is None:
            break
        if decides:
            stripped, dress = stripped + dress + [node.op], []
            after = source
        elif node.op in _DRESS:
            dress.append(node.op)
        tensor = source
    return Score(after.name, None, None, tuple(stripped)), tensor.name


def _behind(node: gs.Node, tensor: gs.Tensor) -> tuple[gs.Tensor | None, bool]:
    """The tensor to follow from `tensor`, that `node` makes, and whether `node` decides."""
    if node.op in _DECISIONS:
        return node.inputs[_DECISIONS[node.op]], True
    if node.op in _LABELLED and tensor is node.outputs[0] and len(node.outputs) > 1:
        return node.outputs[1], True
    if node.op in _VIEWS:
        return node.inputs[_VIEWS[node.op]], False
    given = [t for t in node.inputs if t.name and held(t) is None]
    if node.op == "Gather" and held(node.inputs[0]) is not None:  # names of classes, looked up
        return node.inputs[1], True
    if node.op == "Where":
        values = [t for t in given if t is not node.inputs[0]]
        if held(node.inputs[0]) is not None or len(values) > 1:
            return None, False
        return _agreed(given, values[0] if values else None), True
    if node.op in _COMPARISONS:
        return _agreed(given), True
    if node.op not in _DRESS:
        return None, False
    if len(given) == 1 and _keeps_order(node, given[0]):
        return given[0], False
    if node.op == "Mul" and len(given) == 2:  # a probability times "it is above the threshold"
        decided = [t for t in given if score_of(t).stripped]
        plain = [t for t in given if t not in decided]
        if decided and plain:
            return _agreed(given, plain[0]), True
    return None, False


def _agreed(tensors: list[gs.Tensor], wanted: gs.Tensor | None = None) -> gs.Tensor | None:
    """`wanted` (default: the first) where all of `tensors` come from the same score, else None."""
    if len({_walk(t)[1] for t in tensors}) != 1:
        return None
    return tensors[0] if wanted is None else wanted


def _keeps_order(node: gs.Node, given: gs.Tensor) -> bool:
    """Whether a node of `_DRESS` leaves greater scores greater, the same way for every class."""
    if node.op == "LpNormalization":
        return int(node.attrs.get("p", 2)) == 1
    arrays = [held(t) for t in node.inputs if t is not given and t.name]
    if node.op == "ReduceMax":
        return True
    if any(a is None or a.size != 1 for a in arrays):
        return False
    if node.op in ("Div", "Sub") and node.inputs[0] is not given:
        return False
    return node.op not in ("Mul", "Div") or all(a is not None and a.item() > 0 for a in arrays)


def held(tensor: gs.Tensor) -> np.ndarray | None:
    """The array of a constant, of a Constant node, or of a view of these; else None."""
    array = array_of(tensor)
    if array is not None or not tensor.inputs:
        return array
    node = tensor.inputs[0]
    if node.op == "Constant":
        value = node.attrs.get("value")
        if value is None:
            value = next((v for k, v in node.attrs.items() if k.startswith("value_")), None)
        return array_of(value) if isinstance(value, gs.Tensor) else np.asarray(value)
    return held(node.inputs[0]) if node.op in _VIEWS else None


def dims_of(tensor: gs.Tensor) -> str:
    """The shape of a tensor as it is shown to users."""
    return "of unknown rank" if tensor.shape is None else f"({', '.join(map(str, tensor.shape))})"


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
