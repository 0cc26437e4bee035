"""What the makers of torch models share: the reference, the feature map of an expert, exports.

A layer is written as a path to a module of the model, whose output is meant; `PATH, its input` is
what goes into the module, and `forward_features` what timm's method of that name returns: the last
feature map before the pool.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from export_torchvision import calibrate, images, load_torchvision, write_onnx
from zoo_maker import COUNT, Array, Made

DOUBLE = 120_000_000
"""Parameters up to which the reference is computed in float64."""

Write = Callable[[str, int, Path], None]


def started() -> tuple[Any, Any]:
    """The modules torch and torchvision.models, seeded, on one thread."""
    torch, models = load_torchvision()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return torch, models


def made(
    torch: Any, net: Any, side: int, layer: str, framework: str, width: int | None = None
) -> Made:
    """A network with calibrated weights, its reference, and torch's own two exporters.

    Args:
        torch: the module.
        net: the network, in eval mode.
        side: of its pictures.
        layer: the expert's feature map.
        framework: names and releases, torch's aside.
        width: channels of the feature map, where that tells channels first from last.
    """
    few = 4 if count(net) > DOUBLE else 8
    calibrate(torch, net, images(torch, few, side))
    x = images(torch, COUNT, side)

    def write(exporter: str, opset: int, path: Path) -> None:
        try:
            write_onnx(torch, net, x, path, opset, exporter)
        except torch.onnx.errors.SymbolicValueError:  # TorchScript needs sizes for some operators
            write_onnx(torch, net, x[:1], path, opset, exporter, free=False)

    names = [framework, f"torch {torch.__version__.partition('+')[0]}"]
    reference = differentiated(torch, net, x, layer, width)
    return Made(" / ".join(filter(None, names)), layer, reference, write)


def count(net: Any) -> int:
    """The number of parameters."""
    return sum(p.numel() for p in net.parameters())


def differentiated(torch: Any, net: Any, x: Any, layer: str, width: int | None) -> dict[str, Array]:
    """Logits, the feature map at `layer`, and the gradients of the top class of each picture.

    In float64 where the network is not too large; `dx32` is then the image gradient in float32.
    """
    found = _one_by_one(torch, net, x, layer, width)
    if count(net) > DOUBLE:
        return found
    double = _one_by_one(torch, copy.deepcopy(net).double(), x.double(), layer, width)
    return {**double, "dx32": found["dx"]}


def _one_by_one(torch: Any, net: Any, x: Any, layer: str, width: int | None) -> dict[str, Array]:
    """Picture by picture: all activations of all pictures at once would be too much memory."""
    each = [_backward(torch, net, one[None], layer, width) for one in x]
    return {name: np.concatenate([found[name] for found in each]) for name in each[0]}


def _backward(torch: Any, net: Any, x: Any, layer: str, width: int | None) -> dict[str, Array]:
    x = x.clone().requires_grad_()
    feature, logits = _run(net, x, layer)
    target = logits.argmax(1)
    # Kept, for TinyViT and LeViT hold what they made of their weights for the next picture.
    logits.gather(1, target[:, None]).sum().backward(retain_graph=True)
    slope = torch.zeros_like(feature) if feature.grad is None else feature.grad
    found = {
        "x": x,
        "logits": logits,
        "out": logits,
        "A": gridded(feature, width),
        "dA": gridded(slope, width),
        "dx": x.grad,
        "target": target,
    }
    return {name: t.detach().numpy() for name, t in found.items()}


def _run(net: Any, x: Any, layer: str) -> tuple[Any, Any]:
    if layer == "forward_features":
        feature = net.forward_features(x)
        feature.retain_grad()
        return feature, net.forward_head(feature)
    path, _, what = layer.partition(", ")
    held: list[Any] = []

    def keep(_: Any, given: Any, result: Any = None) -> None:
        tensor = given if result is None else result
        tensor = tensor[0] if isinstance(tensor, tuple) else tensor
        tensor.retain_grad()
        held.append(tensor)

    module = at(net, path)
    hook = module.register_forward_pre_hook if what == "its input" else module.register_forward_hook
    handle = hook(keep)
    logits = net(x)
    handle.remove()
    return held[-1], logits


def at(net: Any, path: str) -> Any:
    """The module at a path such as `layers[-1].norm1`, read as Python would."""
    for step in re.findall(r"\w+|\[-?\d+\]", path):
        net = net[int(step[1:-1])] if step.startswith("[") else getattr(net, step)
    return net


def gridded(t: Any, width: int | None) -> Any:
    """A map as (N, K, h, w), whether it came channels first, last or as tokens."""
    if t.ndim == 3:
        side = math.isqrt(t.shape[1])
        t = t[:, t.shape[1] - side * side :]
        return t.transpose(1, 2).unflatten(2, (side, side))
    last = t.shape[3] == width != t.shape[1] or t.shape[1] == t.shape[2] != t.shape[3]
    return t.permute(0, 3, 1, 2) if last else t
