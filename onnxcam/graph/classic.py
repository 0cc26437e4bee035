"""Operators of classic machine learning and of old exporters, written in standard operators.

A scikit-learn pipeline behind a network (scaler, principal components, logistic regression) comes
as operators of the domain `ai.onnx.ml`, which have no gradient and no rule for ablation. Those that
are linear algebra are rewritten here when a model is loaded; trees and the like stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.graph.emit import Emitter
from onnxcam.graph.score import held

T: TypeAlias = gs.Tensor
Rewrite: TypeAlias = "Callable[[Emitter, gs.Node], Sequence[T] | None]"
ML = "ai.onnx.ml"


def modernise(graph: gs.Graph, notes: list[str]) -> None:
    """Rewrites what the table knows, in place; a form that it does not know is left alone."""
    e = Emitter(graph, "onnxcam/classic")
    done: list[str] = []
    nodes, graph.nodes = list(graph.nodes), []
    for node in nodes:
        rule = _REWRITES.get(node.op) if node.domain in (None, "", "ai.onnx", ML) else None
        results = rule(e, node) if rule is not None and node.inputs else None
        if results is None:
            graph.nodes.append(node)
            continue
        if node.domain == ML:
            done.append(node.op)
        outputs = list(node.outputs)
        node.outputs.clear()
        node.inputs.clear()
        for output, result in zip(outputs, results, strict=False):
            output.dtype = result.dtype or output.dtype
            graph.nodes.append(gs.Node("Identity", "", {}, [result], [output]))
    graph.toposort()
    if done:
        shown = ", ".join(dict.fromkeys(done))
        notes.append(f"written in standard operators: {shown} of {ML}")


def _attribute(node: gs.Node, name: str) -> np.ndarray | None:
    value = node.attrs.get(name)
    return None if value is None or not len(value) else np.array(value, np.float32)


def _image_scaler(e: Emitter, node: gs.Node) -> Sequence[T]:
    scale = np.array(node.attrs.get("scale", 1.0), np.float32)
    bias = np.array(node.attrs.get("bias", [0.0]), np.float32).reshape(1, -1, 1, 1)
    return [e.Add(e.Mul(node.inputs[0], scale), bias)]


def _scaler(e: Emitter, node: gs.Node) -> Sequence[T]:
    x = e.cast(node.inputs[0], np.float32)
    offset, scale = _attribute(node, "offset"), _attribute(node, "scale")
    x = x if offset is None else e.Sub(x, offset)
    return [x if scale is None else e.Mul(x, scale)]


def _normalizer(e: Emitter, node: gs.Node) -> Sequence[T]:
    x, norm = e.cast(node.inputs[0], np.float32), node.attrs.get("norm", "MAX")
    if norm in ("L1", "L2"):
        return [e.LpNormalization(x, p=int(norm[1]), axis=-1)]
    largest = e.axes("ReduceMax", x, [-1], keepdims=1)
    none = e.Equal(largest, np.zeros(1, np.float32))
    return [e.Div(x, e.Where(none, np.ones(1, np.float32), largest))]


def _imputer(e: Emitter, node: gs.Node) -> Sequence[T] | None:
    values = _attribute(node, "imputed_value_floats")
    missing = node.attrs.get("replaced_value_float", 0.0)
    if values is None:
        return None
    x = e.cast(node.inputs[0], np.float32)
    where = e.IsNaN(x) if np.isnan(missing) else e.Equal(x, np.array([missing], np.float32))
    return [e.Where(where, values, x)]


def _vectorizer(e: Emitter, node: gs.Node) -> Sequence[T]:
    return [e.Concat(*(e.cast(t, np.float32) for t in node.inputs), axis=1)]


def _binarizer(e: Emitter, node: gs.Node) -> Sequence[T]:
    x = e.cast(node.inputs[0], np.float32)
    limit = np.array([node.attrs.get("threshold", 0.0)], np.float32)
    return [e.cast(e.Greater(x, limit), np.float32)]


def _picked(e: Emitter, node: gs.Node) -> Sequence[T] | None:
    """Features picked by constant positions; class names picked by a decision stay a tail."""
    index = held(node.inputs[1])
    if index is None or held(node.inputs[0]) is not None:
        return None
    return [e.Gather(node.inputs[0], index.reshape(-1).astype(np.int64), axis=-1)]


def _transformed(e: Emitter, z: T, how: str) -> T | None:
    """Scores behind the `post_transform` of ai.onnx.ml."""
    if how == "NONE":
        return z
    if how == "SOFTMAX":
        return e.Softmax(z, axis=1)
    return e.Sigmoid(z) if how == "LOGISTIC" else None


def _linear(e: Emitter, x: T, weights: np.ndarray, bias: np.ndarray | None) -> T:
    """x @ weights' + bias; weights (rows, features)."""
    z = e.MatMul(e.cast(x, np.float32), np.ascontiguousarray(weights.T))
    return z if bias is None else e.Add(z, bias)


def _regressor(e: Emitter, node: gs.Node) -> Sequence[T] | None:
    weights, bias = _attribute(node, "coefficients"), _attribute(node, "intercepts")
    if weights is None:
        return None
    z = _linear(e, node.inputs[0], weights.reshape(node.attrs.get("targets", 1), -1), bias)
    result = _transformed(e, z, node.attrs.get("post_transform", "NONE"))
    return None if result is None else [result]


def _classifier(e: Emitter, node: gs.Node) -> Sequence[T] | None:
    """Scores of every class, and as the label the best of them."""
    weights, bias = _attribute(node, "coefficients"), _attribute(node, "intercepts")
    names = node.attrs.get("classlabels_strings") or node.attrs.get("classlabels_ints") or ()
    how = node.attrs.get("post_transform", "NONE")
    if weights is None or len(names) < 2:
        return None
    rows = len(names) if bias is None else len(bias)
    if weights.size % rows or rows not in (1, len(names)) or (rows == 1 and len(names) != 2):
        return None
    weights = weights.reshape(rows, -1)
    bias = np.zeros(rows, np.float32) if bias is None else bias
    if rows == 1:  # one row for two classes: ONNX Runtime gives sigmoids of −z and z, else 1 − z, z
        lift = 0 if how == "LOGISTIC" else 1
        weights = np.concatenate([-weights, weights])
        bias = np.concatenate([lift - bias, bias]).astype(np.float32)
        how = how if how == "LOGISTIC" else "NONE"
    z = _linear(e, node.inputs[0], weights, bias)
    scores = _transformed(e, z, how)
    return None if scores is None else [_label(e, scores, names), scores]


def _label(e: Emitter, scores: T, names: Sequence[int | str]) -> T:
    """The name of the best class; an operator of ai.onnx.ml, since it may be a text."""
    best = e.ArgMax(scores, axis=1, keepdims=0)
    text = isinstance(names[0], str | bytes)
    attributes = {
        "keys_int64s": list(range(len(names))),
        "values_strings" if text else "values_int64s": list(names),
    }
    label = e.op("LabelEncoder", [best], attributes, domain=ML)[0]
    label.dtype = np.dtype(object if text else np.int64)
    return label


_REWRITES: dict[str, Rewrite] = {
    "ImageScaler": _image_scaler,
    "Scaler": _scaler,
    "Normalizer": _normalizer,
    "Imputer": _imputer,
    "FeatureVectorizer": _vectorizer,
    "Binarizer": _binarizer,
    "ArrayFeatureExtractor": _picked,
    "LinearRegressor": _regressor,
    "LinearClassifier": _classifier,
}
