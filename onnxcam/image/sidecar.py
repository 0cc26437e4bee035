"""Presets that a model brings along: metadata inside its file, configs beside it."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxcam.errors import PresetError
from onnxcam.image.recipe import Preset

# Pillow's resampling numbers, as Hugging Face's configs write them.
RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}

WINDOWS_ORDER = {"Bgr8": "BGR", "Bgra8": "BGR", "Rgb8": "RGB", "Rgba8": "RGB", "Gray8": "GRAY"}
# Windows ML's range: scale, mean, std.
WINDOWS_RANGE = {
    "NominalRange_0_255": (1.0, 0.0, 1.0),
    "Normalized_0_1": (1 / 255, 0.0, 1.0),
    "Normalized_1_1": (1.0, 127.5, 127.5),
    # Studio swing: 16 is black, 235 is white.
    "NominalRange_16_235": (219 / 255, -16.0, 1.0),
}

# Image processors whose plain number `size` means the shortest side, not a square.
SHORTEST_SIDE = ("CLIP", "Chinese", "MobileNetV", "ConvNext", "LeViT", "Levit", "PoolFormer", "Bit")


def from_metadata(props: Mapping[str, str]) -> Preset | None:
    """A preset out of an ONNX file's `metadata_props`, or None where it states none.

    Read are `onnxcam.preset` (a preset's JSON), Windows ML's `Image.*` keys, which Azure Custom
    Vision writes, and what Ultralytics writes for its classifiers.
    """
    if own := props.get("onnxcam.preset"):
        try:
            held = json.loads(own)
        except ValueError as error:
            raise PresetError(f"metadata onnxcam.preset: not valid JSON ({error})") from None
        return Preset.from_json(held, "metadata onnxcam.preset")
    if "Image.BitmapPixelFormat" in props:
        return _from_windows(props)
    if props.get("task") == "classify" and "imgsz" in props:
        return _from_ultralytics(props)
    return None


def _from_windows(props: Mapping[str, str]) -> Preset:
    order, spread = props["Image.BitmapPixelFormat"], props.get("Image.NominalPixelRange")
    gamma = props.get("Image.ColorSpaceGamma", "SRGB")
    spread = spread or "NominalRange_0_255"
    if order not in WINDOWS_ORDER or spread not in WINDOWS_RANGE or gamma.upper() != "SRGB":
        raise PresetError(
            f"metadata Image.*: cannot make {order}, {spread}, gamma {gamma}; state the"
            " preprocessing with --preset"
        )
    scale, mean, std = WINDOWS_RANGE[spread]
    return Preset(
        name="windows-ml",
        source="metadata Image.* (Windows ML, Custom Vision)",
        resize="center_square_then_stretch",
        channel_order=WINDOWS_ORDER[order],
        scale=scale,
        mean=(mean,),
        std=(std,),
    )


def _from_ultralytics(props: Mapping[str, str]) -> Preset:
    try:
        sides = ast.literal_eval(props["imgsz"])
        size = (int(sides[0]), int(sides[-1])) if isinstance(sides, (list, tuple)) else int(sides)
    except (ValueError, SyntaxError, TypeError, IndexError):
        raise PresetError(f"metadata imgsz: {props['imgsz']!r} is no size") from None
    fields = {"resize": "shortest_side", "crop": "center", "size": size, "scale": 1 / 255}
    return Preset.from_json(fields | {"name": "ultralytics"}, "metadata of Ultralytics")


def from_config(config: Mapping[str, Any], source: str) -> Preset | None:
    """A preset out of a Hugging Face `preprocessor_config.json` or a timm `config.json`.

    Args:
        config: The parsed file.
        source: Where it came from, for people.

    Returns:
        None where the config says nothing about preprocessing.
    """
    timm = config.get("pretrained_cfg") or config.get("default_cfg") or config
    if isinstance(timm, Mapping) and {"mean", "std", "input_size"} <= timm.keys():
        return Preset.from_json(_timm_fields(timm, source), source)
    if {"do_normalize", "do_resize", "do_rescale", "image_mean"} & config.keys():
        return Preset.from_json(_hugging_face_fields(config, source), source)
    return None


def _timm_fields(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    sides = config["input_size"]
    mode, share = config.get("crop_mode") or "center", float(config.get("crop_pct") or 0.875)
    resize = {"center": "shortest_side", "squash": "stretch", "border": "letterbox"}.get(mode)
    if resize is None or (resize == "letterbox" and share != 1):
        raise PresetError(
            f"{source}: crop_mode {mode!r} with crop_pct {share} is not known; state the"
            " preprocessing with --preset"
        )
    interpolation = config.get("interpolation") or "bicubic"
    return {
        "name": "timm",
        "resize": resize,
        "crop_fraction": None if resize == "letterbox" else share,
        "crop": "none" if resize == "letterbox" else "center",
        "size": list(sides[1:]) if isinstance(sides, list) else sides,
        # "random" is a training augmentation; timm evaluates such models with bicubic.
        "interpolation": "bicubic" if interpolation == "random" else interpolation,
        "channel_order": "GRAY" if isinstance(sides, list) and sides[0] == 1 else "RGB",
        "scale": 1 / 255,
        "mean": config["mean"],
        "std": config["std"],
    }


def _hugging_face_fields(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    resample = config.get("resample", 2)
    fields: dict[str, Any] = {
        "name": "hugging-face",
        "interpolation": RESAMPLE.get(resample, resample),
        "scale": config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0,
        "channel_order": "BGR" if config.get("do_flip_channel_order") else "RGB",
    }
    if config.get("do_normalize", True) and "image_mean" in config:
        fields |= {"mean": config["image_mean"], "std": config.get("image_std", 1.0)}
    if config.get("rescale_offset"):  # EfficientNet: x * scale - 1 before the normalisation
        raise PresetError(
            f"{source}: rescale_offset is not supported; state the preprocessing with --preset"
        )
    return fields | _hugging_face_size(config, kind)


def _hugging_face_size(config: Mapping[str, Any], kind: str) -> dict[str, Any]:
    size, crop = config.get("size"), config.get("crop_size")
    cropped = bool(config.get("do_center_crop")) and crop is not None
    by_side = isinstance(size, Mapping) and "shortest_edge" in size
    if isinstance(size, (int, float)):
        by_side = kind.startswith(SHORTEST_SIDE) or (cropped and not kind.startswith("Deit"))
    share = config.get("crop_pct")
    if kind.startswith("ConvNext") and share is None:
        share = 224 / 256
    target = _pair(size)
    if not config.get("do_resize", True) or target is None:
        fields: dict[str, Any] = {"resize": "none"}
    elif share is not None and by_side and target[0] < 384:  # ConvNeXt crops below 384 only
        fields = {"resize": "shortest_side", "crop_fraction": share, "crop": "center"}
        return fields | {"size": target}
    elif share is not None and by_side:
        return {"resize": "stretch", "size": target}
    elif by_side:
        fields = {"resize": "shortest_side", "resize_to": target[0]}
    else:
        fields = {"resize": "stretch", "size": target}
    if cropped:
        if fields["resize"] == "stretch" and target is not None:
            fields["resize_to"] = target[0]
        fields |= {"crop": "center", "size": _pair(crop)}
    return fields


def _pair(size: Any) -> Any:
    """[height, width] of a config's size in any of its forms; the Preset checks the numbers."""
    if isinstance(size, Mapping):
        if "shortest_edge" in size:
            return [size["shortest_edge"]] * 2
        return [size["height"], size["width"]] if {"height", "width"} <= size.keys() else None
    return [size, size] if isinstance(size, (int, float)) else size


def from_any(held: Any, source: str) -> Preset | None:
    """A preset out of any of the JSON forms: our own, beneath "preprocessing", or a config."""
    if not isinstance(held, Mapping):
        raise PresetError(f"{source}: expected a JSON object, got {type(held).__name__}")
    if isinstance(held.get("preprocessing"), Mapping):
        return Preset.from_json(held["preprocessing"], source)
    return from_config(held, source) or Preset.from_json(held, source)


def read_json(path: Path) -> Any:
    """The content of a JSON file; a PresetError where it cannot be read."""
    try:
        return json.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise PresetError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    except (ValueError, RecursionError) as error:
        raise PresetError(f"{path}: not valid JSON ({error})") from None


def find_sidecar(model_path: Path) -> Preset | None:
    """The preset in a file beside a model, or None where there is none.

    Looked for, first found: `<model>.preset.json`, `<stem>.preset.json`,
    `preprocessor_config.json`, `config.json`; the latter two also one folder up where the model's
    folder is named `onnx`, as on the Hugging Face hub.
    """
    folder = model_path.parent
    for name in (f"{model_path.name}.preset.json", f"{model_path.stem}.preset.json"):
        if (folder / name).is_file():
            return from_any(read_json(folder / name), str(folder / name))
    above = [folder.parent] if folder.name == "onnx" else []
    for place in (folder, *above):
        for name in ("preprocessor_config.json", "config.json"):
            if not (place / name).is_file():
                continue
            # Anybody's config.json may lie there: one that says nothing of pixels is passed over.
            held = read_json(place / name)
            preset = from_config(held, str(place / name)) if isinstance(held, Mapping) else None
            if preset is not None:
                return preset
    return None
