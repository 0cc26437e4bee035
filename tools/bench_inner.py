"""Ablation-CAM at an inner layer, against the operations that it would take unit by unit.

    python tools/bench_inner.py inner JOB   # JOB is JSON, and so is the answer

The floor is the arithmetic alone: the head behind the layer, as many times as there are units, at
the speed of a large matrix product on that device (`bench_sessions.py rate`). The exact way may
stay below it, for it computes once what the switched-off heads share; the literal way cannot.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Mapping
from typing import Any

from bench_measure import timed
from bench_sessions import feeds_of


def operations(model: Any, inputs: Mapping[str, tuple[int, ...]]) -> int:
    """Multiplications and additions of the convolutions and matrix products of a model.

    Args:
        model: an `onnxcam.graph.Model`.
        inputs: shapes of its inputs.
    """
    from onnxcam.graph.shapes import static_shapes

    shapes = static_shapes(model, dict(inputs)).shapes
    total = 0
    for node in model.proto.graph.node:
        if node.op_type == "Conv":
            weight = shapes[node.input[1]]
            total += 2 * math.prod(shapes[node.output[0]]) * math.prod(weight[1:])
        elif node.op_type in ("Gemm", "MatMul"):
            turned = any(a.name == "transA" and a.i for a in node.attribute)
            inner = shapes[node.input[0]][0 if turned else -1]
            total += 2 * math.prod(shapes[node.output[0]]) * inner
    return total


def inner_layer(classifier: Any) -> str:
    """The last feature map on a finer grid than the default one: ResNet-50's layer3."""
    fine = [m for m in classifier.maps if math.prod(m.grid) > math.prod(classifier.default.grid)]
    if not fine:
        raise SystemExit("the model has no feature map on a finer grid: name one with --inner")
    tensor: str = fine[-1].tensor
    return tensor


def measure_inner(job: dict[str, Any]) -> dict[str, Any]:
    """One explanation of one picture at the inner layer, and the operations of the head."""
    import onnxcam
    from onnxcam.graph import split

    classifier = onnxcam.load(job["model"])
    layer = classifier.layer(job["layer"] or inner_layer(classifier))
    _, head = split(classifier, layer.tensor)
    inputs = {
        i.name: tuple(d.dim_value or 1 for d in i.type.tensor_type.shape.dim)
        for i in head.proto.graph.input
    }
    explainer = onnxcam.Explainer(
        classifier, layer=layer.tensor, provider=job["provider"], threads=job["threads"],
        ablation=job["way"],
    )  # fmt: skip
    image = classifier.image
    shape = {"image": image.name, "dtype": str(image.dtype), "input": [*image.shape(1)]}
    images = feeds_of({**job, **shape, "batch": 1})[image.name]
    explainer(images, target=0)
    seconds = [timed(lambda: explainer(images, target=0))[0] for _ in range(job["repeats"])]
    return {
        "layer": layer.tensor,
        "units": layer.units,
        "grid": [*layer.grid],
        "dtype": str(image.dtype),
        "operations": operations(head, inputs),
        "seconds": statistics.median(seconds),
        "notes": list(explainer.program(1).notes),
    }


if __name__ == "__main__":
    print(json.dumps({"inner": measure_inner}[sys.argv[1]](json.loads(sys.argv[2]))))
