"""The image gradient of one model in float64, held against differences of the same graph.

    python tools/zoo_double.py model.onnx reference.npz     # one line of JSON

In float32 a rectifier whose input lies within rounding of zero may fall to either side, and the
gradient of a whole picture with it; rounded weights, into which exporters fold norms, do the same
in float64. Such a difference from the framework says nothing about the rules. So the gradient graph
that onnxcam derives is evaluated with every float in it made a double, by the onnx package's own
evaluator (slow: seconds to minutes), and its slope along a direction is compared with the
difference of two scores of the model itself, a tiny step apart.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, numpy_helper


def doubled(proto: onnx.ModelProto) -> onnx.ModelProto:
    """`proto` with every float32 as float64."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    graph = copy.graph
    del graph.value_info[:]
    for tensor in graph.initializer:
        _widen(tensor)
    for attribute in (a for node in graph.node for a in node.attribute):
        if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.DOUBLE
        elif attribute.type == AttributeProto.TENSOR:
            _widen(attribute.t)
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    return copy


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        array = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


STEP = 1e-8
"""How far the pixels are moved, at most: short enough to cross hardly any kink."""


def slope_error(path: str, held: dict[str, Any]) -> float:
    """How far the slope of the first picture's score is off its central difference, relatively.

    The direction is the gradient itself and as much of noise.
    """
    from onnx.reference import ReferenceEvaluator

    import onnxcam
    from onnxcam.graph.split import extract

    explainer = onnxcam.Explainer(path, "saliency", provider="cpu", threads=1)
    classifier = explainer.classifier
    image, logit = classifier.image, classifier.score.logit
    whole = explainer.program(1).inline.whole
    plain = extract(classifier.graph(), [image.name], [logit], classifier.model)
    gradient, model = (ReferenceEvaluator(doubled(m.complete())) for m in (whole, plain))
    x, target = held["x"][:1].astype(np.float64), held["target"][:1]
    feeds = {image.name: x, "onnxcam/target": target.reshape(1, 1)}
    found: Any = gradient.run(["onnxcam/0/raw"], feeds)
    raw = found[0][:, 0]
    if image.layout == "NHWC":
        raw = raw.transpose(0, 2, 3, 1)
    noise = np.random.default_rng(0).standard_normal(raw.shape)
    direction = raw / np.abs(raw).max() + noise / np.abs(noise).max()
    ahead, behind = (
        np.asarray(model.run([logit], {image.name: x + side * STEP * direction})).reshape(-1)
        for side in (1, -1)
    )
    difference = (ahead - behind)[int(target[0])] / (2 * STEP)
    return float(abs((raw * direction).sum() - difference) / abs(difference))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    print(json.dumps({"slope64": slope_error(sys.argv[1], dict(np.load(sys.argv[2])))}))
