"""Classifiers of paddle.vision for the zoo, exported by paddle2onnx.

    python tools/zoo_paddle.py make mobilenet_v2 out/zoo/mobilenet_v2

Runs in an environment of its own: paddlepaddle, paddle2onnx. Nothing is downloaded: weights are
drawn and scaled, layer by layer, on a batch. The reference is Paddle's autograd in float32. Some
models end in a softmax, as PaddleClas' inference models do.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from zoo_maker import COUNT, Array, Group, Made, generator, images, run, softmax

FAMILY = "paddle"
MODELS = {  # name → the expert's layer: a path to a layer of the model
    "alexnet": "_conv5.relu",
    "densenet121": "batch_norm",
    "googlenet": "_ince5b",
    "inception_v3": "inception_block_list.10",
    "mobilenet_v1": "conv6",
    "mobilenet_v2": "features",
    "mobilenet_v3_small": "lastconv",
    "mobilenet_v3_large": "lastconv",
    "resnet18": "layer4",
    "resnet50": "layer4",
    "resnext50_32x4d": "layer4",
    "shufflenet_v2_x1_0": "_last_conv",
    "vgg11": "features.19",
    "squeezenet1_1": "_conv8",
    "wide_resnet50_2": "layer4",
}
SOFTMAX = {"resnet18", "mobilenet_v1"}
SIDES = {"inception_v3": 299}


def groups() -> list[Group]:
    """The models and their exports."""
    return [Group(FAMILY, name, (("paddle2onnx", 17),), layer) for name, layer in MODELS.items()]


def calibrate(paddle: Any, net: Any, name: str, batch: Any) -> None:
    """Draws weights and scales them, layer by layer in the order they run, on a batch."""
    random = generator(f"weights {name}")
    nn = paddle.nn

    def statistics(layer: Any, given: Any) -> None:
        x = given[0].transpose([1, 0, *range(2, given[0].ndim)]).reshape([given[0].shape[1], -1])
        layer._mean.set_value(x.mean(1))
        layer._variance.set_value(x.var(1).clip(1e-6))

    def unit_variance(layer: Any, given: Any, result: Any) -> Any:
        scale = 1 / max(float(result.std()), 1e-6)
        layer.weight.set_value(layer.weight * scale)
        if layer.bias is not None:
            layer.bias.set_value(layer.bias * scale)
        return result * scale

    def drawn(parameter: Any, low: float, high: float) -> None:
        parameter.set_value(random.uniform(low, high, parameter.shape).astype(np.float32))

    handles = []
    for layer in net.sublayers():
        if isinstance(layer, nn.Conv2D | nn.Linear):
            shape = layer.weight.shape
            fan_in = np.prod(shape[1:]) if isinstance(layer, nn.Conv2D) else shape[0]
            weight = random.normal(0, np.sqrt(2 / fan_in), shape)
            layer.weight.set_value(weight.astype(np.float32))
            if layer.bias is not None:
                drawn(layer.bias, -0.1, 0.1)
            handles.append(layer.register_forward_post_hook(unit_variance))
        elif isinstance(layer, nn.BatchNorm2D | nn.BatchNorm):
            drawn(layer.weight, 0.5, 1.5)
            drawn(layer.bias, -0.5, 0.5)
            handles.append(layer.register_forward_pre_hook(statistics))
    with paddle.no_grad():
        net(batch)
    for handle in handles:
        handle.remove()


def build(group: Group) -> Made:
    """One model with random weights."""
    import paddle

    paddle.set_device("cpu")
    side = SIDES.get(group.model, 224)
    net = getattr(paddle.vision.models, group.model)(pretrained=False)
    net.eval()
    drawn = images(generator(group.model), COUNT + 4, side).transpose(0, 3, 1, 2)
    x = drawn.astype(np.float32)
    calibrate(paddle, net, group.model, paddle.to_tensor(x[COUNT:]))
    ended = paddle.nn.Sequential(net, paddle.nn.Softmax()) if group.model in SOFTMAX else net
    ended.eval()

    def write(exporter: str, opset: int, path: Path) -> None:
        spec = [paddle.static.InputSpec([None, 3, side, side], "float32", "image")]
        paddle.onnx.export(ended, str(path.with_suffix("")), input_spec=spec, opset_version=opset)

    reference = differentiated(paddle, net, x[:COUNT], group.layer)
    reference["out"] = softmax(reference["logits"]) if ended is not net else reference["logits"]
    return Made(f"paddlepaddle {paddle.__version__}", group.layer, reference, write)


def differentiated(paddle: Any, net: Any, x: Array, layer: str) -> dict[str, Array]:
    """Logits, the feature map and the gradients of the top class of each picture."""
    held: list[Any] = []

    def keep(_: Any, __: Any, result: Any) -> None:
        held.append(result[0] if isinstance(result, tuple | list) else result)

    handle = dict(net.named_sublayers())[layer].register_forward_post_hook(keep)
    image = paddle.to_tensor(x, stop_gradient=False)
    found = net(image)
    handle.remove()
    logits = found[0] if isinstance(found, tuple | list) else found
    target = logits.argmax(1)
    score = paddle.take_along_axis(logits, target.unsqueeze(1), 1).sum()
    slope, image_slope = paddle.grad(score, [held[-1], image])
    arrays = {"logits": logits, "A": held[-1], "dA": slope, "dx": image_slope, "target": target}
    return {"x": x, **{name: np.asarray(t.numpy()) for name, t in arrays.items()}}


if __name__ == "__main__":
    sys.exit(run(groups(), build, __doc__ or ""))
