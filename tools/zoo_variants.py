"""Quantised and half-precision variants of torchvision classifiers for the zoo.

    python tools/zoo_variants.py make resnet50 out/zoo/resnet50-variants

Runs in an environment of its own: torch, torchvision, onnx, onnxruntime, sympy. Each variant is
made from the TorchScript export in opset 17 by ONNX Runtime's own tools: static quantisation (QDQ
and QOperator, on random pictures), dynamic quantisation, conversion to float16. The reference is
that of the model in full precision: a variant is near it, not equal to it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import zoo_torchvision
from export_torchvision import images
from zoo_maker import Array, Group, Made, run
from zoo_torch import started

EXPORTS = (("qdq", 17), ("qoperator", 17), ("dynamic", 17), ("fp16", 17))
MODELS = (
    "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "vgg11",
    "densenet121", "squeezenet1_1", "googlenet", "vit_b_16",
)  # fmt: skip
PICTURES = 8


def groups() -> list[Group]:
    """The models and their variants."""
    layer = zoo_torchvision.layer_of
    return [Group("variants", name, EXPORTS, layer(name)) for name in MODELS]


def build(group: Group) -> Made:
    """One classifier; its variants are made when they are written."""
    full = zoo_torchvision.build(group)
    torch, _ = started()

    def write(kind: str, opset: int, path: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "full.onnx"
            full.write("torchscript", opset, source)
            convert(kind, source, path, images(torch, PICTURES, 224).numpy())

    return replace(full, write=write)


def convert(kind: str, source: Path, path: Path, pictures: Array) -> None:
    """Writes a variant of the model in `source`."""
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if kind == "fp16":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        onnx.save(convert_float_to_float16(onnx.load(source)), path)
        return
    if kind == "dynamic":
        quantization.quantize_dynamic(source, path)
        return
    prepared = source.with_name("prepared.onnx")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    styles = {"qdq": quantization.QuantFormat.QDQ, "qoperator": quantization.QuantFormat.QOperator}
    quantization.quantize_static(
        prepared, path, _Pictures(pictures), quant_format=styles[kind], per_channel=kind == "qdq"
    )


class _Pictures:
    """Pictures one by one, as the calibration of ONNX Runtime asks for them."""

    def __init__(self, pictures: Array) -> None:
        self.left: Iterator[Any] = iter(pictures[:, None])

    def get_next(self) -> dict[str, Array] | None:
        """The next one, or None at the end."""
        one = next(self.left, None)
        return None if one is None else {"image": one}


if __name__ == "__main__":
    sys.exit(run(groups(), build, __doc__ or ""))
