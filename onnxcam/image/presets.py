"""The table of known presets, looking one up, and fitting it to a model's input."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from onnxcam.errors import PresetError, close_matches
from onnxcam.image.geometry import Geometry
from onnxcam.image.recipe import RESIZES, Preset
from onnxcam.image.sidecar import find_sidecar, from_any, from_config, from_metadata, read_json

__all__ = [
    "PRESETS",
    "RESIZES",
    "Geometry",
    "Preset",
    "adapt",
    "find_sidecar",
    "from_config",
    "from_metadata",
    "load_preset",
]

BYTE = 1 / 255
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CAFFE_MEAN = (103.939, 116.779, 123.68)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# The ways in which a picture is brought to size.
CROP_256: dict[str, Any] = {"resize": "shortest_side", "crop_fraction": 0.875, "crop": "center"}
CROP_ALL: dict[str, Any] = {"resize": "shortest_side", "crop": "center"}
STRETCH: dict[str, Any] = {"resize": "stretch"}

# name: (where the numbers come from, fields)
_ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "imagenet": (
        "torchvision's ImageNet models: shortest side 256, centre crop 224, mean and std",
        CROP_256 | {"scale": BYTE, "mean": IMAGENET_MEAN, "std": IMAGENET_STD},
    ),
    "imagenet-bicubic": (
        "timm's default (DeiT, Swin, ConvNeXt, RegNet): as imagenet, bicubic",
        CROP_256
        | {"scale": BYTE, "mean": IMAGENET_MEAN, "std": IMAGENET_STD, "interpolation": "bicubic"},
    ),
    "imagenet-stretch": (
        "ImageNet mean and std on the whole picture, aspect not kept",
        STRETCH | {"scale": BYTE, "mean": IMAGENET_MEAN, "std": IMAGENET_STD},
    ),
    "imagenet-bgr": (
        "ImageNet mean and std on BGR, for exports fed by OpenCV without a channel swap",
        CROP_256
        | {
            "scale": BYTE,
            "mean": IMAGENET_MEAN[::-1],
            "std": IMAGENET_STD[::-1],
            "channel_order": "BGR",
        },
    ),
    "inception": (
        "timm's Inception and ViT (augreg): mean and std 0.5, crop 0.875, bicubic",
        CROP_256 | {"scale": BYTE, "mean": (0.5,), "std": (0.5,), "interpolation": "bicubic"},
    ),
    "vit": (
        "Hugging Face's ViT: stretched, mean and std 0.5",
        STRETCH | {"scale": BYTE, "mean": (0.5,), "std": (0.5,)},
    ),
    "clip": (
        "OpenAI's CLIP: shortest side to the input, centre crop, bicubic, CLIP's mean and std",
        CROP_ALL | {"scale": BYTE, "mean": CLIP_MEAN, "std": CLIP_STD, "interpolation": "bicubic"},
    ),
    "keras-tf": (
        "keras.applications mode 'tf' (MobileNet, Inception, Xception, NASNet): x / 127.5 - 1",
        CROP_256 | {"mean": (127.5,), "std": (127.5,), "layout": "NHWC"},
    ),
    "keras-caffe": (
        "keras.applications mode 'caffe' (VGG, ResNet) and Caffe's models: BGR minus its mean",
        CROP_256 | {"mean": CAFFE_MEAN, "channel_order": "BGR", "layout": "NHWC"},
    ),
    "keras-torch": (
        "keras.applications mode 'torch' (DenseNet): ImageNet mean and std, channels last",
        CROP_256 | {"scale": BYTE, "mean": IMAGENET_MEAN, "std": IMAGENET_STD, "layout": "NHWC"},
    ),
    "caffe": (
        "Caffe and Caffe2 models: BGR, 0 to 255, minus the ImageNet mean",
        CROP_256 | {"mean": CAFFE_MEAN, "channel_order": "BGR"},
    ),
    "caffe-scaled": (
        "Caffe's DenseNet and MobileNet: BGR minus the mean, times 0.017",
        CROP_256 | {"mean": (103.94, 116.78, 123.68), "std": (1 / 0.017,), "channel_order": "BGR"},
    ),
    "efficientnet-lite": (
        "TensorFlow's EfficientNet-Lite: (x - 127) / 128, crop 0.875, bicubic",
        CROP_256
        | {"mean": (127.0,), "std": (128.0,), "layout": "NHWC", "interpolation": "bicubic"},
    ),
    "raw-1": ("pixels from 0 to 1, stretched to the input", STRETCH | {"scale": BYTE}),
    "raw-1-crop": ("pixels from 0 to 1, ImageNet's resize and crop", CROP_256 | {"scale": BYTE}),
    "raw-1-bgr": (
        "BGR pixels from 0 to 1, stretched to the input",
        STRETCH | {"scale": BYTE, "channel_order": "BGR"},
    ),
    "raw-255": ("pixels from 0 to 255, stretched to the input", STRETCH),
    "raw-255-crop": ("pixels from 0 to 255, ImageNet's resize and crop", CROP_256),
    "raw-255-bgr": (
        "BGR pixels from 0 to 255, stretched to the input",
        STRETCH | {"channel_order": "BGR"},
    ),
    "signed": (
        "pixels from -1 to 1, stretched to the input",
        STRETCH | {"mean": (127.5,), "std": (127.5,)},
    ),
    "custom-vision": (
        "Azure Custom Vision: centre square, BGR pixels from 0 to 255",
        {"resize": "center_square_then_stretch", "channel_order": "BGR"},
    ),
    "teachable-machine": (
        "Google's Teachable Machine: centre square, pixels from -1 to 1",
        {"resize": "center_square_then_stretch", "mean": (127.5,), "std": (127.5,)}
        | {"layout": "NHWC"},
    ),
    "ultralytics": (
        "Ultralytics' classifiers (YOLO -cls): shortest side, centre crop, pixels from 0 to 1",
        CROP_ALL | {"scale": BYTE},
    ),
    "letterbox": (
        "the whole picture with grey bars, pixels from 0 to 1",
        {"resize": "letterbox", "scale": BYTE, "fill": 114},
    ),
    "cifar10": (
        "CIFAR-10's mean and std as the common PyTorch recipe (kuangliu/pytorch-cifar) has them",
        STRETCH
        | {"scale": BYTE, "mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)},
    ),
    "cifar100": (
        "CIFAR-100's own mean and std",
        STRETCH
        | {"scale": BYTE, "mean": (0.5071, 0.4865, 0.4409), "std": (0.2673, 0.2564, 0.2762)},
    ),
    "grey-1": (
        "one grey channel from 0 to 1",
        STRETCH | {"scale": BYTE, "channel_order": "GRAY"},
    ),
    "grey-255": ("one grey channel from 0 to 255", STRETCH | {"channel_order": "GRAY"}),
    "grey-signed": (
        "one grey channel from -1 to 1",
        STRETCH | {"mean": (127.5,), "std": (127.5,), "channel_order": "GRAY"},
    ),
    "mnist": (
        "PyTorch's MNIST example: grey, mean 0.1307, std 0.3081",
        STRETCH | {"scale": BYTE, "mean": (0.1307,), "std": (0.3081,), "channel_order": "GRAY"},
    ),
}

PRESETS: dict[str, Preset] = {
    name: Preset(name=name, source=source, **fields) for name, (source, fields) in _ROWS.items()
}


def load_preset(name_or_file: str | os.PathLike[str]) -> Preset:
    """A preset by its name in the table, or out of a JSON file.

    The file holds a preset's fields, at the top or beneath "preprocessing", or is a Hugging Face
    or timm config.

    Raises:
        PresetError: There is neither such a name nor such a file, or the file is no preset.
    """
    word = os.fspath(name_or_file)
    if word in PRESETS:
        return PRESETS[word]
    path = Path(word)
    if not path.is_file():
        if path.suffix == ".json" or os.sep in word:
            raise PresetError(f"preset {word}: there is no such file")
        near = close_matches(word, PRESETS)
        raise PresetError(
            f"there is no preset {word!r}{near}; choose of {', '.join(PRESETS)}, or give a JSON"
            " file"
        )
    preset = from_any(read_json(path), str(path))
    if preset is None:
        raise PresetError(f"{path}: the file says nothing about preprocessing")
    return preset


def adapt(
    preset: Preset,
    channels: int | None,
    size: tuple[int | None, int | None],
    layout: str,
    dtype: str,
) -> Preset:
    """Fit a preset to a model's input.

    Layout and dtype become the model's. A preset without a size takes the model's. For a model of
    one channel a colour preset turns grey, with its mean and std averaged. A model that takes
    8-bit integers normalises inside itself, so it gets the pixels as they are.

    Args:
        preset: What the user named or onnxcam found.
        channels: Channels of the model's input; None where they are free.
        size: (height, width) of the model's input, None where free.
        layout: "NCHW" or "NHWC".
        dtype: The input's type by its numpy name.

    Raises:
        PresetError: Preset and model contradict each other.
    """
    known = {
        "size": _fitting_size(preset, size),
        "layout": layout,
        "dtype": dtype,
        **_fitting_channels(preset, channels),
    }
    if dtype in ("uint8", "int8"):
        pixels = {"scale": 1.0, "mean": (128.0 if dtype == "int8" else 0.0,), "std": (1.0,)}
        if any(getattr(preset, key) != value for key, value in pixels.items()):
            known["source"] = f"{preset.source}; without scaling, since the model takes {dtype}"
        known |= pixels
    return preset.replace(**known)


def _fitting_size(preset: Preset, size: tuple[int | None, int | None]) -> tuple[int, int] | None:
    height, width = size
    if preset.size is None:
        both = height or width, width or height  # one side free: a square
        return None if both[0] is None or both[1] is None else (both[0], both[1])
    if any(own and own != made for own, made in zip(size, preset.size, strict=True)):
        raise PresetError(
            f"preset {preset.name!r} ({preset.source}) makes an input of {preset.size[0]} x"
            f" {preset.size[1]} (height x width), but the model takes {height or 'any'} x"
            f" {width or 'any'}; leave `size` out of the preset, or give the model's"
        )
    return preset.size


def _fitting_channels(preset: Preset, channels: int | None) -> dict[str, Any]:
    if channels in (None, preset.channels):
        return {}
    if channels == 1:
        mean, std = (sum(v) / len(v) for v in (preset.mean, preset.std))
        return {"channel_order": "GRAY", "mean": (mean,), "std": (std,)}
    if channels == 3:
        raise PresetError(
            f"preset {preset.name!r} makes one grey channel, but the model takes 3; choose a"
            " colour preset, or set channel_order to RGB or BGR"
        )
    raise PresetError(
        f"the model's input has {channels} channels; onnxcam makes 1 (grey) or 3 (colour)."
        " Is the layout right?"
    )


def describe(preset: Preset) -> str:
    """The whole recipe in one JSON line, for reports and result files."""
    return json.dumps(preset.to_json())
