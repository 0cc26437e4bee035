"""All classifiers of torchvision for the zoo, through both of torch's exporters.

    python tools/zoo_torchvision.py make resnet50 out/zoo/resnet50

Runs in an environment of its own: torch, torchvision, onnx, onnxscript. Nothing is downloaded.
"""

from __future__ import annotations

import re
import sys

from export_torchvision import OPTIONS, SIZES
from zoo_maker import Group, Made, run
from zoo_torch import made, started

EXPORTS = (("torchscript", 17), ("torchscript", 20), ("dynamo", 18), ("dynamo", 23))

_LAYERS = {  # pattern of the name → the expert's layer; the first that fits
    "alexnet": "features[11]",
    "vgg.*": "features[-2]",
    "squeezenet.*": "features[-1]",
    "(resnet|resnext|wide_resnet).*": "layer4[-1]",
    "densenet.*": "features",
    "googlenet": "inception5b",
    "inception_v3": "Mixed_7c",
    "(mobilenet|efficientnet|convnext).*": "features[-1]",
    "mnasnet.*": "layers[-1]",
    "shufflenet.*": "conv5",
    "regnet.*": "trunk_output",
    "vit.*": "encoder.layers[-1].ln_1",
    "swin_v2.*": "features[-1][-2]",  # its blocks normalise behind the attention
    "swin_.*": "features[-1][-1].norm1",
    "maxvit_t": "blocks[-1]",
}


def layer_of(name: str) -> str:
    """The expert's layer of a torchvision classifier."""
    return next(layer for pattern, layer in _LAYERS.items() if re.fullmatch(pattern, name))


def groups() -> list[Group]:
    """Every classifier that torchvision has."""
    _, models = started()
    names = models.list_models(module=models)
    return [Group("torchvision", name, EXPORTS, layer_of(name)) for name in names]


def build(group: Group) -> Made:
    """One classifier with random weights."""
    torch, models = started()
    net = models.get_model(group.model, weights=None, **OPTIONS.get(group.model, {})).eval()
    import torchvision

    framework = f"torchvision {torchvision.__version__.partition('+')[0]}"
    return made(torch, net, SIZES.get(group.model, 224), group.layer, framework)


if __name__ == "__main__":
    sys.exit(run(groups(), build, __doc__ or ""))
