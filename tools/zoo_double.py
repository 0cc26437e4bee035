"""The image gradient of one model in float64, against the framework's: what rounding hides.

    python tools/zoo_double.py model.onnx reference.npz     # one line of JSON

In float32 a rectifier whose input lies within rounding of zero may fall to either side, and the
gradient of a whole picture with it; such a difference says nothing about the rules. So the gradient
graph that onnxcam derives is evaluated once more, with every float in it made a double, by the onnx
package's own evaluator (slow: seconds to minutes), for the first picture.
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


def gradient(path: str, held: dict[str, Any]) -> float:
    """Largest difference of the first picture's gradient, over the largest value."""
    from onnx.reference import ReferenceEvaluator

    import onnxcam

    explainer = onnxcam.Explainer(path, "saliency", provider="cpu", threads=1)
    image = explainer.classifier.image
    evaluator = ReferenceEvaluator(doubled(explainer.program(1).inline.whole.complete()))
    feeds = {image.name: held["x"][:1].astype(np.float64)}
    feeds["onnxcam/target"] = held["target"][:1].reshape(1, 1)
    found: Any = evaluator.run(["onnxcam/0/raw"], feeds)
    golden = held["dx"][0].astype(np.float64)
    if image.layout == "NHWC":
        golden = golden.transpose(2, 0, 1)
    return float(np.abs(found[0][0, 0] - golden).max() / np.abs(golden).max())


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    print(json.dumps({"gradient64": gradient(sys.argv[1], dict(np.load(sys.argv[2])))}))
