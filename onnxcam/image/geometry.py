"""Which part of a picture a model's input covers, and the pixels that land in it."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from onnxcam.errors import PresetError

# The size that a recipe of "resize, then crop" falls back to where neither it nor the model
# states one: what nearly every such network was trained at.
FREE_SIZE = 224

# A picture is resized whole and then cropped, to the very pixels of the usual pipelines, unless
# that would make more pixels than this (a long strip); then only the crop is resampled.
WHOLE = 2**24

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Geometry:
    """How picture and model input lie on each other: cut, resize, crop or pad.

    Attributes:
        cut: (left, top, right, bottom) of the part of the picture that is resized.
        scaled: (height, width) that it is resized to.
        offset: (top, left) of the input in the resized part; negative where the input is padded.
        size: (height, width) of the input.
    """

    cut: tuple[int, int, int, int]
    scaled: tuple[int, int]
    offset: tuple[int, int]
    size: tuple[int, int]

    @property
    def box(self) -> Box:
        """The picture rectangle that the whole input covers; exceeds the picture at padding.

        (left, top, right, bottom) in the picture's pixels.
        """
        left, top, right, bottom = self.cut
        y, x = self.offset
        wide, high = right - left, bottom - top
        return (  # multiplied before divided, so that an uncropped picture gives whole numbers
            left + x * wide / self.scaled[1],
            top + y * high / self.scaled[0],
            left + (x + self.size[1]) * wide / self.scaled[1],
            top + (y + self.size[0]) * high / self.scaled[0],
        )

    @property
    def seen(self) -> Box:
        """The part of `box` that holds pixels of the picture."""
        left, top, right, bottom = self.box
        cut = self.cut
        return max(left, cut[0]), max(top, cut[1]), min(right, cut[2]), min(bottom, cut[3])


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
    offset = (_offset(scaled[0], size[0]), _offset(scaled[1], size[1]))
    return Geometry((left, top, left + used_w, top + used_h), scaled, offset, size)


def _offset(scaled: int, size: int) -> int:
    return round((scaled - size) / 2) if scaled >= size else -((size - scaled) // 2)


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


def sample(
    image: Image.Image, geometry: Geometry, interpolation: str, fill: int | tuple[int, ...]
) -> Image.Image:
    """The pixels of the model's input: the picture cut, resampled and cropped, the rest filled."""
    method = Image.Resampling[interpolation.upper()]
    if geometry.cut != (0, 0, *image.size):
        image = image.crop(geometry.cut)
    (height, width), (top, left) = geometry.size, geometry.offset
    scaled_h, scaled_w = geometry.scaled
    # The crop within the resized picture, without the padding.
    crop = (max(left, 0), max(top, 0), min(left + width, scaled_w), min(top + height, scaled_h))
    if scaled_h * scaled_w <= WHOLE:
        part = image.resize((scaled_w, scaled_h), method).crop(crop)
    else:
        unit_x, unit_y = image.width / scaled_w, image.height / scaled_h
        box = (crop[0] * unit_x, crop[1] * unit_y, crop[2] * unit_x, crop[3] * unit_y)
        part = image.resize((crop[2] - crop[0], crop[3] - crop[1]), method, box=box)
    if part.size == (width, height):
        return part
    canvas = Image.new(image.mode, (width, height), fill)
    canvas.paste(part, (max(-left, 0), max(-top, 0)))
    return canvas
