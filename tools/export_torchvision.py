"""Export torchvision classifiers with random weights as ONNX: real graphs to measure and test on.

    python tools/export_torchvision.py resnet50 vgg16 --to zoo

Needs torch, torchvision and onnx, and onnxscript for `--exporter dynamo`. Nothing is downloaded.
Weights are seeded, and scaled layer by layer on one calibration batch (unit variance behind every
convolution and linear layer, the batch's own statistics in every batch norm): signals neither die
out nor explode, and feature maps look like those of trained networks: half zero, units unlike.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EXPORTERS = ("torchscript", "dynamo")
OPTIONS: dict[str, dict[str, Any]] = {  # what a model's maker must be told
    "googlenet": {"aux_logits": False, "init_weights": False},
    "inception_v3": {"aux_logits": False, "init_weights": False},
}
SIZES = {"inception_v3": 299}
NEEDS = ("torch", "torchvision", "onnx")
INLINE_BYTES = 1_900_000_000  # beyond it weights go into a file beside the graph
INSTALL = (
    "pip install -e '.[export]', and pip install --no-deps torchvision; "
    "torch and torchvision must be releases that belong together"
)


class Missing(ImportError):
    """What exporting needs is not installed; the message says what to do."""


def load_torchvision(needs: Sequence[str] = NEEDS) -> tuple[Any, Any]:
    """The modules torch and torchvision.models, once the packages `needs` are seen.

    Raises:
        Missing: one of them is not installed.
    """
    for name in needs:
        if importlib.util.find_spec(name) is None:
            raise Missing(f"exporting needs {name}, which is not installed: {INSTALL}")
    import torch

    _declare_ops(torch)
    torch.backends.mha.set_fastpath_enabled(False)  # its fused attention has no ONNX form
    try:
        from torchvision import models
    except Exception as error:
        raise Missing(f"torchvision cannot be imported ({error}): {INSTALL}") from error
    return torch, models


def _declare_ops(torch: Any) -> None:
    """Names the two ops that torchvision looks for, where its own library of ops does not load.

    That is so for a CPU torch beside torchvision's CUDA wheel; no classifier uses them.
    """
    spec = importlib.util.find_spec("torchvision")
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    for library in (*folder.glob("_C.*"), *folder.glob("_C_stable.*")):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            continue
    declared = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declare_ops.library = declared  # type: ignore[attr-defined]  # they live as long as it does


def calibrate(torch: Any, net: Any, images: Any) -> None:
    """Draws new weights and scales them, layer by layer in the order they run, on `images`."""
    nn = torch.nn
    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

    def statistics(norm: Any, inputs: tuple[Any, ...]) -> None:
        x = inputs[0].transpose(0, 1).flatten(1)
        norm.running_mean.copy_(x.mean(1))
        norm.running_var.copy_(x.var(1).clamp_min(1e-6))

    def unit_variance(layer: Any, inputs: tuple[Any, ...], output: Any) -> Any:
        scale = 1 / output.std().clamp_min(1e-6)
        layer.weight.mul_(scale)
        if layer.bias is not None:
            layer.bias.mul_(scale)
        return output * scale

    handles = []
    drawn = (nn.Conv2d, nn.Linear, *norms)
    own = {id(p) for m in net.modules() if isinstance(m, drawn) for p in m.parameters(False)}
    with torch.no_grad():
        for parameter in net.parameters():  # scales of 1e-6, tokens of zeros: made to matter
            if id(parameter) not in own and parameter.abs().max() < 1e-3:
                parameter.normal_(0.2, 0.05)
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0, math.sqrt(2 / fan_in))
                if module.bias is not None:
                    module.bias.normal_(0, 0.05)
                handles.append(module.register_forward_hook(unit_variance))
            elif isinstance(module, norms):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
                handles.append(module.register_forward_pre_hook(statistics))
        net(images)
    for handle in handles:
        handle.remove()


def images(torch: Any, count: int, size: int) -> Any:
    """Random pictures (count, 3, size, size): patches of colour under fine grain, calm to loud."""
    patches = torch.nn.functional.interpolate(
        torch.randn(count, 3, 7, 7), (size, size), mode="bicubic"
    )
    patches *= torch.linspace(0, 2, count).view(-1, 1, 1, 1)
    return patches + torch.linspace(1, 0.3, count).view(-1, 1, 1, 1) * torch.randn(patches.shape)


def export(
    name: str,
    folder: Path,
    opset: int = 18,
    exporter: str = "torchscript",
    batch: str = "free",
    seed: int = 0,
    size: int | None = None,
) -> Path:
    """Writes one model and returns its path: NAME.onnx, or NAME.dynamo.onnx.

    Raises:
        Missing: torch or torchvision is not installed.
        ValueError: torchvision has no classifier of that name.
    """
    if exporter == "dynamo" and importlib.util.find_spec("onnxscript") is None:
        raise Missing(f"the dynamo exporter needs onnxscript, which is not installed: {INSTALL}")
    torch, net, side = drawn(name, seed, size)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (f"{name}.dynamo.onnx" if exporter == "dynamo" else f"{name}.onnx")
    # Two pictures: a batch of one would be taken for a constant by the dynamo exporter.
    sample = images(torch, 2 if batch == "free" else int(batch), side)
    write_onnx(torch, net, sample, path, opset, exporter, batch == "free")
    return path


def drawn(name: str, seed: int = 0, size: int | None = None) -> tuple[Any, Any, int]:
    """The module torch, a classifier with the weights of its export, the side of its pictures.

    Raises:
        Missing: torch or torchvision is not installed.
        ValueError: torchvision has no classifier of that name.
    """
    torch, models = load_torchvision()
    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(f"torchvision has no classifier {name!r}; it has {', '.join(known)}")
    torch.manual_seed(seed)
    side = size or SIZES.get(name, 224)
    net = models.get_model(name, weights=None, **OPTIONS.get(name, {})).eval()
    calibrate(torch, net, images(torch, 8, side))
    return torch, net, side


def write_onnx(
    torch: Any, net: Any, sample: Any, path: Path, opset: int, exporter: str, free: bool = True
) -> None:
    """Exports a classifier in eval mode; with `free` the batch is a free dimension."""
    axes: dict[str, Any] = {}
    if exporter == "dynamo":
        shapes = {"x": {0: torch.export.Dim("batch")}} if free else None
        axes = {"verbose": False, "dynamic_shapes": _first_argument(net, shapes)}
        axes["external_data"] = _bytes_of(net) > INLINE_BYTES
    elif free:
        axes["dynamic_axes"] = {"image": {0: "batch"}, "scores": {0: "batch"}}
    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        torch.onnx.export(
            net,
            (sample,),
            path,
            input_names=["image"],
            output_names=["scores"],
            opset_version=opset,
            dynamo=exporter == "dynamo",
            **axes,
        )


def _bytes_of(net: Any) -> int:
    return sum(t.numel() * t.element_size() for t in net.state_dict().values())


def _first_argument(net: Any, shapes: dict[str, Any] | None) -> dict[str, Any] | None:
    """`shapes` under the name that the network's own forward gives to its picture."""
    if shapes is None:
        return None
    import inspect

    first = next(iter(inspect.signature(net.forward).parameters))
    return {first: shapes["x"]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exports the models named on the command line."""
    parser = argparse.ArgumentParser(
        description="Exports torchvision classifiers with seeded random weights as ONNX.",
        epilog="example: python tools/export_torchvision.py resnet50 vit_b_16 --to zoo",
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help="torchvision's name of a model")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder to write to")
    parser.add_argument("--opset", type=int, default=18, help="default: %(default)s")
    parser.add_argument("--exporter", choices=EXPORTERS, default="torchscript")
    parser.add_argument("--batch", default="free", help="'free' (default), or a fixed number")
    parser.add_argument("--size", type=int, help="side of the picture (default: the model's own)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    if given.batch != "free" and not (given.batch.isdigit() and int(given.batch) > 0):
        parser.error(f"--batch is 'free' or a number of pictures, not {given.batch!r}")
    for name in given.names:
        try:
            path = export(
                name, given.to, given.opset, given.exporter, given.batch, given.seed, given.size
            )
        except (Missing, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
