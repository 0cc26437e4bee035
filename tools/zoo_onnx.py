"""The light models that the onnx package ships for its tests, for the zoo.

    python tools/zoo_onnx.py make light_resnet50 out/zoo/light_resnet50

Classic networks of Caffe, Caffe2 and others as the exporters of 2018 wrote them; their weights are
left out of the files and drawn here. Needs onnx, numpy and onnxruntime. There is no
framework behind them: no gradients are given, the feature map is what ONNX Runtime computes.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from zoo_maker import COUNT, Array, Group, Made, generator, images, run, save

MODELS = {  # name → the tensor that an expert would name: the last map before pooling
    "light_bvlc_alexnet": "r13",
    "light_densenet121": "r907",
    "light_inception_v1": "r137",
    "light_inception_v2": "r504",
    "light_resnet50": "r171",
    "light_shufflenet": "r198",
    "light_squeezenet": "r60",
    "light_vgg19": "r35",
    "light_zfnet512": "r13",
}


def groups() -> list[Group]:
    """All of them."""
    return [Group("onnx", name, (("onnx", 9),), layer) for name, layer in MODELS.items()]


def build(group: Group) -> Made:
    """One model with random weights in place of its constants."""
    import onnx

    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    model = onnx.load(str(folder / f"{group.model}.onnx"))
    _weights(model, generator(group.model))
    drawn = {t.name for t in model.graph.initializer}
    name, side = next(
        (value.name, value.type.tensor_type.shape.dim[-1].dim_value)
        for value in model.graph.input
        if value.name not in drawn  # old files list their weights as inputs, too
    )
    x = images(generator("pictures"), COUNT, side).transpose(0, 3, 1, 2).astype(np.float32)
    rows = [_run(model, group.layer, {name: one[None]}) for one in x]
    feature, out = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    out = out.reshape(COUNT, -1)
    reference = {"x": x, "A": feature, "out": out, "logits": out, "target": out.argmax(1)}
    return Made(f"onnx {onnx.__version__}", group.layer, reference, lambda *to: save(model, to[2]))


def _weights(model: Any, random: np.random.Generator) -> None:
    """Puts random weights where the file has a ConstantOfShape of a constant shape."""
    from onnx import numpy_helper

    graph = model.graph
    held = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    used = {t: (node.op_type, place) for node in graph.node for place, t in enumerate(node.input)}
    for node in [n for n in graph.node if n.op_type == "ConstantOfShape" and n.input[0] in held]:
        shape = [int(n) for n in held[node.input[0]]]
        array = _drawn(random, shape, *used.get(node.output[0], ("", 0)))
        graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
        graph.node.remove(node)


def _drawn(random: np.random.Generator, shape: list[int], op: str, place: int) -> Array:
    if op == "BatchNormalization" and place in (1, 4):  # scale and variance
        array = random.uniform(0.5, 1.5, shape)
    elif len(shape) > 1:
        fan_in = math.prod(shape[1:]) if op != "MatMul" else shape[0]
        array = random.normal(0, math.sqrt(2 / fan_in), shape)
    else:
        array = random.normal(0, 0.1, shape)
    return np.asarray(array, np.float32)


def _run(model: Any, layer: str, feeds: dict[str, Array]) -> list[Array]:
    import onnx
    import onnxruntime as ort

    ort.set_default_logger_severity(4)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.append(onnx.ValueInfoProto(name=layer))
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        copy.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found = session.run([layer, model.graph.output[0].name], feeds)
    return [np.asarray(t) for t in found]


if __name__ == "__main__":
    sys.exit(run(groups(), build, __doc__ or ""))
