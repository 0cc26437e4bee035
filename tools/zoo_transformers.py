"""Image classifiers of transformers for the zoo, through both torch exporters.

    python tools/zoo_transformers.py make ViT out/zoo/vit

Runs in an environment of its own: torch, transformers, onnx, onnxscript. Nothing is downloaded: the
models are built from their default configurations.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

from zoo_maker import Group, Made, run
from zoo_torch import made, started

EXPORTS = (("torchscript", 17), ("dynamo", 23))

MODELS = {  # name → configuration, the expert's layer
    "ViT": ("ViT", "vit.layers[-1].layernorm_before"),
    "DeiT": ("DeiT", "deit.layers[-1].layernorm_before"),
    "BEiT": ("Beit", "beit.layers[-1].layernorm_before"),
    "DINOv2": ("Dinov2", "dinov2.encoder.layer[-1].norm1"),
    "Swin": ("Swin", "swin.encoder.layers[-1].blocks[-1].layernorm_before"),
    "ConvNeXt": ("ConvNext", "convnext.encoder.stages[-1]"),
    "ResNet": ("ResNet", "resnet.encoder.stages[-1]"),
    "RegNet": ("RegNet", "regnet.encoder.stages[-1]"),
    "MobileViT": ("MobileViT", "mobilevit.conv_1x1_exp"),
    "MobileNetV2": ("MobileNetV2", "mobilenet_v2.conv_1x1"),
    "PoolFormer": ("PoolFormer", "norm"),
}


def groups() -> list[Group]:
    """The models and their exports."""
    return [Group("transformers", name, EXPORTS, layer) for name, (_, layer) in MODELS.items()]


def build(group: Group) -> Made:
    """One model with random weights, giving its logits alone."""
    torch, _ = started()
    import transformers

    name = MODELS[group.model][0]
    config = getattr(transformers, f"{name}Config")(num_labels=1000, attn_implementation="eager")
    kind = getattr(transformers, f"{name}ForImageClassification")

    def logits(self: Any, pixels: Any) -> Any:
        return kind.forward(self, pixel_values=pixels).logits

    with warnings.catch_warnings(action="ignore"):
        net = type("Logits", (kind,), {"forward": logits})(config).eval()
    side = getattr(config, "image_size", None) or 224
    return made(torch, net, side, group.layer, f"transformers {transformers.__version__}")


if __name__ == "__main__":
    sys.exit(run(groups(), build, __doc__ or ""))
