"""Which part of a picture a model's input covers, and the pixels that land in it."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from onnxcam.errors import PresetError

# The size that a recipe of "resize, then crop" falls back to where neither it nor the model
# states one: what nearly every such network was trained at.
FREE_SIZE = 224

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Geometry:
    """How picture and model input lie on each other.

    Attributes:
        source: (left, top, right, bottom) of the part of the picture that is used, in its pixels.
        target: (left, top, right, bottom) of where that part lands in the model's input.
        size: (height, width) of the model's input. What `target` leaves free is padding.
    """

    source: Box
    target: tuple[int, int, int, int]
    size: tuple[int, int]

    @property
    def box(self) -> Box:
        """The picture rectangle that the whole input covers; exceeds the picture at padding."""
        left, top, right, bottom = self.source
        start_x, start_y, stop_x, stop_y = self.target
        unit_x, unit_y = (right - left) / (stop_x - start_x), (bottom - top) / (stop_y - start_y)
        left, top = left - start_x * unit_x, top - start_y * unit_y
        return left, top, left + self.size[1] * unit_x, top + self.size[0] * unit_y


def place(
    width: int,
    height: int,
    *,
    resize: str,
    resize_to: int | None,
    crop_fraction: float | None,
    crop: str,
    size: tuple[int, int] | None,
) -> Geometry:
    """Lay a picture of `width` x `height` on a model's input; the fields are a Preset's.

    The roundings are torchvision's: a resize cuts the longer side to an integer, a crop's offset
    is rounded half to even, a crop larger than the picture pads.
    """
    size = size or _free_size(width, height, resize, resize_to, crop_fraction, crop)
    scaled = size  # (height, width) of the resized picture, before the crop
    left, top, used_w, used_h = 0, 0, width, height
    if resize == "none":
        scaled = (height, width)
    elif resize == "letterbox":
        factor = min(size[0] / height, size[1] / width)
        scaled = (max(1, round(height * factor)), max(1, round(width * factor)))
    elif resize == "shortest_side":
        scaled = _shortest_side(width, height, size, resize_to, crop_fraction)
    else:  # stretch, center_square_then_stretch
        if resize == "center_square_then_stretch":
            used_w = used_h = min(width, height)
            left, top = (width - used_w) // 2, (height - used_h) // 2
        if resize_to is not None:
            scaled = (resize_to, resize_to)
        elif crop_fraction is not None:
            scaled = (int(size[0] / crop_fraction), int(size[1] / crop_fraction))
    if crop == "none" and resize != "letterbox" and scaled != size:
        raise PresetError(
            f"the preset makes {scaled[1]} x {scaled[0]} of a {width} x {height} picture, but the"
            f" model takes {size[1]} x {size[0]}: choose another resize (stretch,"
            " center_square_then_stretch, letterbox) or crop=center"
        )
    x0, x1, to_x0, to_x1 = _axis(used_w, scaled[1], size[1], floor=resize == "letterbox")
    y0, y1, to_y0, to_y1 = _axis(used_h, scaled[0], size[0], floor=resize == "letterbox")
    source = (left + x0, top + y0, left + x1, top + y1)
    return Geometry(source, (to_x0, to_y0, to_x1, to_y1), size)


def _free_size(
    width: int,
    height: int,
    resize: str,
    resize_to: int | None,
    crop_fraction: float | None,
    crop: str,
) -> tuple[int, int]:
    if resize == "shortest_side" and crop == "none":
        least = resize_to or FREE_SIZE
        return _shortest_side(width, height, (least, least), least, None)
    if resize_to is not None:
        return resize_to, resize_to
    if resize == "shortest_side" or crop_fraction is not None:
        return FREE_SIZE, FREE_SIZE
    if resize == "center_square_then_stretch":
        return min(width, height), min(width, height)
    return height, width


def _shortest_side(
    width: int,
    height: int,
    size: tuple[int, int],
    resize_to: int | None,
    crop_fraction: float | None,
) -> tuple[int, int]:
    """(height, width) after a resize that keeps the aspect and just covers its target."""
    share = crop_fraction or 1.0
    cover_h, cover_w = int(size[0] / share), int(size[1] / share)
    if resize_to is not None:
        cover_h = cover_w = resize_to
    if cover_h * width >= cover_w * height:  # the height decides
        return cover_h, max(1, int(cover_h * width / height))
    return max(1, int(cover_w * height / width)), cover_w


def _axis(length: int, scaled: int, size: int, floor: bool) -> tuple[float, float, int, int]:
    """(from, to) in the picture and (from, to) in the input, along one axis."""
    if scaled >= size:
        unit, offset = length / scaled, round((scaled - size) / 2)
        return offset * unit, (offset + size) * unit, 0, size
    pad = (size - scaled) // 2
    return 0.0, float(length), pad, pad + scaled


def sample(
    image: Image.Image, geometry: Geometry, interpolation: str, fill: int | tuple[int, ...]
) -> Image.Image:
    """The pixels of the model's input: `geometry.source` resampled, the rest filled.

    One resampling with a box, not a resize and then a crop: the pixels are the same, but a very
    long picture is never blown up whole.
    """
    method = Image.Resampling[interpolation.upper()]
    left, top, right, bottom = geometry.target
    part = image.resize((right - left, bottom - top), method, box=geometry.source)
    if part.size == (geometry.size[1], geometry.size[0]):
        return part
    canvas = Image.new(image.mode, (geometry.size[1], geometry.size[0]), fill)
    canvas.paste(part, (left, top))
    return canvas
