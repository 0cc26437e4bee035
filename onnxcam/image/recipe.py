"""A preset: everything that turns a picture into a model's input tensor, as plain data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnxcam.errors import PresetError, close_matches
from onnxcam.image.geometry import Geometry, place, sample
from onnxcam.image.read import Picture

RESIZES = ("none", "stretch", "shortest_side", "center_square_then_stretch", "letterbox")
CHOICES = {
    "resize": RESIZES,
    "crop": ("none", "center"),
    "interpolation": ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"),
    "channel_order": ("RGB", "BGR", "GRAY"),
    "layout": ("NCHW", "NHWC"),
    "dtype": ("float32", "float16", "float64", "uint8", "int8", "uint16", "int16", "int32"),
}
ALIASES = {
    "grey": "GRAY",
    "l": "GRAY",
    "centre": "center",
    "centre_square_then_stretch": "center_square_then_stretch",
    "linear": "bilinear",
    "cubic": "bicubic",
}
LARGEST_SIDE = 16384

# Keys of a JSON recipe that say nothing about the pixels.
REMARKS = ("formula", "description", "notes", "comment", "$schema")


@dataclass(frozen=True)
class Preset:
    """How a picture becomes a tensor: x = (pixel * scale - mean) / std.

    Pixels go from 0 to 255, in `channel_order`; then come layout, batch axis and dtype (integers
    are rounded and clipped).

    Attributes:
        resize: "none", "stretch" to the size, "shortest_side" (keeps the aspect), the centre
            square stretched, or "letterbox" (all of the picture, with bars).
        resize_to: The resized shortest side, or side of the square; None derives it from `size`.
        crop_fraction: In place of `resize_to`: the share of the resized side that the crop keeps
            (224 of 256: 0.875).
        crop: "center" cuts `size` out of the resized picture, or pads it with `fill`.
        size: (height, width) of the input; None takes the model's.
        interpolation: Pillow's resampling, antialiased when shrinking (except "nearest").
        mean, std: One number per channel, or one for all.
        fill: Padding's grey, 0 to 255, before the normalisation.
        name, source: What it is called, and where it came from, for people.
    """

    name: str = "custom"
    source: str = "given"
    resize: str = "stretch"
    resize_to: int | None = None
    crop_fraction: float | None = None
    crop: str = "none"
    size: tuple[int, int] | None = None
    interpolation: str = "bilinear"
    channel_order: str = "RGB"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str = "NCHW"
    dtype: str = "float32"
    fill: int = 0

    def __post_init__(self) -> None:
        for key in dataclasses.fields(self):
            value = CHECKS[key.name](key.name, getattr(self, key.name))
            object.__setattr__(self, key.name, value)
        for key_name in ("mean", "std"):
            values = getattr(self, key_name)
            if len(values) not in (1, self.channels):
                raise PresetError(
                    f"preset {self.name!r}: {key_name} has {len(values)} numbers, but"
                    f" {self.channel_order} has {self.channels} channel(s)"
                )
        if self.resize_to is not None and self.crop_fraction is not None:
            raise PresetError(
                f"preset {self.name!r}: resize_to and crop_fraction say the same thing in two"
                " ways; give one of them"
            )

    @property
    def channels(self) -> int:
        """How many channels the tensor has."""
        return 1 if self.channel_order == "GRAY" else 3

    def geometry(self, width: int, height: int) -> Geometry:
        """Where the model's input lies on a picture of `width` x `height`."""
        try:
            return place(
                width,
                height,
                resize=self.resize,
                resize_to=self.resize_to,
                crop_fraction=self.crop_fraction,
                crop=self.crop,
                size=self.size,
            )
        except PresetError as error:
            raise PresetError(f"preset {self.name!r}: {error}") from None

    def tensor(self, picture: Picture) -> NDArray[Any]:
        """The model's input for one picture.

        Returns:
            (1, C, h, w) or (1, h, w, C), after the layout, of `dtype`.
        """
        image = Image.fromarray(picture.pixels)
        if self.channel_order == "GRAY":
            image = image.convert("L")  # ITU-R 601: 0.299 R + 0.587 G + 0.114 B
        fill = self.fill if self.channel_order == "GRAY" else (self.fill,) * 3
        seen = sample(image, self.geometry(*image.size), self.interpolation, fill)
        return self.normalised(np.asarray(seen))

    def normalised(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """Pixels (h, w, 3) RGB or (h, w), already of the input's size, as the input tensor."""
        x = pixels.reshape(*pixels.shape[:2], -1).astype(np.float64)
        if self.channel_order == "BGR":
            x = x[:, :, ::-1]
        x = (x * self.scale - np.array(self.mean)) / np.array(self.std)
        if self.layout == "NCHW":
            x = x.transpose(2, 0, 1)
        kind = np.dtype(self.dtype)
        if kind.kind in "iu":
            limits = np.iinfo(kind)
            x = np.clip(np.rint(x), limits.min, limits.max)
        return np.ascontiguousarray(x[None], dtype=kind)

    def replace(self, **options: Any) -> Preset:
        """A copy with some fields changed, checked like a new one."""
        # Setting one of the pair means that the other no longer holds.
        for key, rival in (("resize_to", "crop_fraction"), ("crop_fraction", "resize_to")):
            if options.get(key) is not None:
                options.setdefault(rival, None)
        _known(options, f"preset {self.name!r}")
        return dataclasses.replace(self, **options)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict that `from_json` reads back."""
        held = dataclasses.asdict(self)
        del held["source"]
        return {key: list(v) if isinstance(v, tuple) else v for key, v in held.items()}

    @classmethod
    def from_json(cls, held: Mapping[str, Any], source: str) -> Preset:
        """A preset from the JSON form; remarks such as "formula" are passed over.

        Args:
            held: Field names and values; what is missing has the default.
            source: Where it came from, for people.

        Raises:
            PresetError: A key or a value that no preset has.
        """
        if not isinstance(held, Mapping):
            raise PresetError(f"{source}: expected a JSON object, got {type(held).__name__}")
        fields = {key: value for key, value in held.items() if key not in REMARKS}
        _known(fields, source)
        try:
            return cls(**{**fields, "source": source})
        except PresetError as error:
            raise PresetError(f"{source}: {error}") from None


def _known(options: Mapping[str, Any], where: str) -> None:
    names = [field.name for field in dataclasses.fields(Preset)]
    for key in options:
        if key not in names:
            near = close_matches(str(key), names)
            raise PresetError(f"{where}: there is no field {key!r}{near}")


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise PresetError(f"{key} must be text, not {value!r}")
    return value


def _choice(key: str, value: Any) -> str:
    word = str(value).casefold()
    word = ALIASES.get(word, word)
    for choice in CHOICES[key]:
        if choice.casefold() == word.casefold():
            return choice
    near = close_matches(word, CHOICES[key])
    raise PresetError(f"{key} cannot be {value!r}{near}; choose of {', '.join(CHOICES[key])}")


def _whole(key: str, value: Any, least: int = 1, most: int = LARGEST_SIDE) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer)):
        raise PresetError(f"{key} must be a whole number, not {value!r}")
    if value != value or int(value) != value or not least <= value <= most:
        raise PresetError(f"{key} must be a whole number from {least} to {most}, not {value!r}")
    return int(value)


def _side(key: str, value: Any) -> int | None:
    return None if value is None else _whole(key, value)


def _size(key: str, value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    pair = [value, value] if isinstance(value, int) else value
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        raise PresetError(f"{key} must be [height, width], not {value!r}")
    return _whole(key, pair[0]), _whole(key, pair[1])


def _number(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise PresetError(f"{key} must be a number, not {value!r}")
    if not math.isfinite(value):
        raise PresetError(f"{key} must be a finite number, not {value!r}")
    return float(value)


def _scale(key: str, value: Any) -> float:
    if _number(key, value) == 0:
        raise PresetError(f"{key} must not be 0: every picture would become the same tensor")
    return float(value)


def _fraction(key: str, value: Any) -> float | None:
    if value is not None and not 0.01 <= _number(key, value) <= 1:
        raise PresetError(f"{key} must lie from 0.01 to 1, not {value!r}")
    return None if value is None else float(value)


def _numbers(key: str, value: Any) -> tuple[float, ...]:
    several = value if isinstance(value, (list, tuple)) else [value]
    numbers = tuple(_number(key, number) for number in several)
    if not numbers:
        raise PresetError(f"{key} must hold a number per channel")
    if key == "std" and any(number <= 0 for number in numbers):
        raise PresetError(f"std must be positive, not {value!r}")
    return numbers


CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "name": _text,
    "source": _text,
    **dict.fromkeys(CHOICES, _choice),
    "resize_to": _side,
    "crop_fraction": _fraction,
    "size": _size,
    "scale": _scale,
    "mean": _numbers,
    "std": _numbers,
    "fill": lambda key, value: _whole(key, value, 0, 255),
}
