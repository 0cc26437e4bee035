"""Any picture, from a file, bytes, Pillow or numpy, as upright 8-bit RGB pixels."""

from __future__ import annotations

import contextlib
import io
import os
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnxcam.errors import PictureError

Source = str | os.PathLike[str] | bytes | IO[bytes] | Image.Image | NDArray[Any]

MAX_PIXELS = 100_000_000

# What is tried, most likely first. Left out on purpose: EPS and WMF, which start other programs,
# and formats that hold no photographs.
FORMATS: tuple[str, ...] = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO", "MPO"),
    *("TGA", "DIB", "PCX", "DDS", "PSD", "SGI", "QOI", "ICNS", "MSP", "XBM", "IM"),
)

# EXIF orientation → how to turn the stored pixels upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ORIENTATION = 0x0112

# What Pillow raises from inside a few plugins (the warning where warnings are errors).
BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)

_warnings_lock = threading.Lock()


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as the rest of onnxcam sees it.

    Attributes:
        pixels: (H, W, 3) uint8, RGB, upright.
        name: The file's stem, or "picture".
    """

    pixels: NDArray[np.uint8]
    name: str = "picture"

    @property
    def width(self) -> int:
        """In pixels."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """In pixels."""
        return int(self.pixels.shape[0])


def read_picture(source: Source, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read a picture as upright 8-bit RGB.

    EXIF orientation is applied; transparency is laid on white; of an animation the first frame is
    taken. 16-bit grey keeps its scale (65535 is white). Integer greys beyond 16 bits, and float
    files beyond 0 to 1, have no agreed white, so they are stretched from their least to their
    greatest value. An embedded ICC profile is ignored, as the training pipelines of practically
    all classifiers do: the numbers in the file are taken as sRGB.

    Args:
        source: A path, the bytes of a file, a binary file object, a Pillow image, or a numpy array
            of shape (H, W) or (H, W, 1 | 3 | 4), uint8, uint16, bool or float in 0 to 1.
        max_pixels: Larger pictures are refused before they are decoded.

    Raises:
        PictureError: The picture is missing, unreadable, damaged or too large.
    """
    if isinstance(source, np.ndarray):
        return Picture(_from_array(source, max_pixels), "picture")
    if isinstance(source, Image.Image):
        where, name = "the Pillow image", _stem(getattr(source, "filename", ""))
        _check_size(source.size, max_pixels, where)
        return Picture(_decode(source, where), name)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _read_stream(io.BytesIO(source), "the picture's bytes", "picture", max_pixels)
    if isinstance(source, (str, os.PathLike)):
        return _read_file(Path(source), max_pixels)
    if not hasattr(source, "read"):
        kind = type(source).__name__
        raise PictureError(
            f"cannot read a picture from {kind}; give a path, bytes, a binary file object,"
            " a Pillow image or a numpy array"
        )
    name = _stem(getattr(source, "name", ""))
    where = f"file object {name!r}" if name != "picture" else "the file object"
    data = source.read()
    if not isinstance(data, bytes):
        raise PictureError(f"{where} yields text; open it in binary mode ('rb')")
    return _read_stream(io.BytesIO(data), where, name, max_pixels)


def _read_file(path: Path, max_pixels: int) -> Picture:
    try:
        if path.is_dir():
            raise PictureError(f"{path} is a folder; give a picture file in it")
        with path.open("rb") as stream:
            held: IO[bytes] = stream if stream.seekable() else io.BytesIO(stream.read())
            return _read_stream(held, str(path), path.stem or "picture", max_pixels)
    except FileNotFoundError:
        remote = str(path).startswith(("http:", "https:"))
        hint = "; onnxcam reads local files only, download it first" if remote else ""
        raise PictureError(f"{path}: there is no such file{hint}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        raise PictureError(f"{path}: cannot be opened ({_first_line(error)})") from None


def _read_stream(stream: IO[bytes], where: str, name: str, max_pixels: int) -> Picture:
    if not stream.read(1):
        raise PictureError(f"{where} is empty (0 bytes); is the download or copy complete?")
    image = _open(stream, where)
    _check_size(image.size, max_pixels, where)
    return Picture(_decode(image, where), name)


def _open(stream: IO[bytes], where: str) -> Image.Image:
    """Find the plugin that accepts the file and let it read the header.

    Not `Image.open`, which compares the size with a global of Pillow's and warns or raises before
    our own limit is asked; that global is the caller's, and changing it would race with threads.
    """
    stream.seek(0)
    prefix = stream.read(16)
    Image.preinit()
    if not all(name in Image.OPEN for name in FORMATS):
        Image.init()
    claimed: list[str] = []
    for name in FORMATS:
        factory, accept = Image.OPEN.get(name, (None, None))
        try:
            accepted = factory and (accept is None or accept(prefix))
            if not accepted or isinstance(accepted, str):
                continue
            assert factory is not None
            stream.seek(0)
            return factory(stream, "")
        except BOMBS:
            raise _too_large_for_pillow(where) from None
        except Exception:  # a plugin that took the prefix for its own; the next may know better
            claimed += [name] if accept is not None else []
    if claimed:
        raise PictureError(
            f"{where} begins like {claimed[0]}, but is damaged or incomplete; copy or download it"
            " again"
        )
    raise PictureError(
        f"{where} is not a picture that can be read; onnxcam reads JPEG, PNG, WebP, GIF, BMP, TIFF,"
        " AVIF, JPEG 2000, PNM and a few more"
    )


def _check_size(size: tuple[int, int], max_pixels: int, where: str) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise PictureError(f"{where} has no pixels ({width} x {height})")
    if width * height > max_pixels:
        raise PictureError(
            f"{where} has {width} x {height} = {width * height:,} pixels, more than the"
            f" {max_pixels:,} allowed; shrink it, or raise --max-pixels"
        )


def _too_large_for_pillow(where: str) -> PictureError:
    return PictureError(
        f"{where} is larger than Pillow decodes in this format; shrink it, or save it as PNG"
    )


def _decode(image: Image.Image, where: str) -> NDArray[np.uint8]:
    try:
        with _quiet(image.size):
            image.load()
            return _to_rgb(_turn_upright(image), where)
    except PictureError:
        raise
    except BOMBS:
        raise _too_large_for_pillow(where) from None
    except MemoryError:
        raise PictureError(f"{where}: not enough memory to decode {image.size}") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise PictureError(
            f"{where} is damaged or incomplete ({_first_line(error)}); copy or download it again"
        ) from None


@contextlib.contextmanager
def _quiet(size: tuple[int, int]) -> Iterator[None]:
    """Silence the size warnings that a few plugins give while decoding; our limit has spoken."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is None or size[0] * size[1] <= limit:
        yield
        return
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def _turn_upright(image: Image.Image) -> Image.Image:
    try:
        turn = UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF says nothing about orientation; the pixels are still good
        turn = None
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image, where: str) -> NDArray[np.uint8]:
    """Pixels of any Pillow mode as (H, W, 3) uint8."""
    if image.mode.startswith(("I", "F")):
        grey = _grey_to_bytes(np.asarray(image), image.mode, where)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "La":  # Pillow knows no direct way from premultiplied grey
        image = image.convert("LA")
    if image.mode.endswith(("A", "a")) or "transparency" in image.info:
        return _on_white(np.asarray(image.convert("RGBA")))
    return np.array(image.convert("RGB"))


def _on_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lay (H, W, 4) pixels on white, in rows' blocks so that large pictures stay affordable."""
    out = np.empty((*rgba.shape[:2], 3), np.uint8)
    for top in range(0, len(rgba), 256):
        block = rgba[top : top + 256].astype(np.uint32)
        alpha = block[:, :, 3:]
        out[top : top + 256] = (block[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255
    return out


def _grey_to_bytes(grey: NDArray[Any], mode: str, where: str) -> NDArray[np.uint8]:
    """Greys of more than 8 bits, (H, W), to uint8; see `read_picture` for the rule."""
    values = grey.astype(np.float64)
    if not np.isfinite(values).all():
        raise PictureError(f"{where} holds NaN or infinite values; replace them first")
    least, most = float(values.min()), float(values.max())
    white = 1.0 if mode == "F" else 65535.0
    if least < 0 or most > white:
        values, white = values - least, (most - least) or 1.0
    return np.asarray(np.rint(values * (255.0 / white)), dtype=np.uint8)


def _from_array(array: NDArray[Any], max_pixels: int) -> NDArray[np.uint8]:
    where = "the array"
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise PictureError(
            f"{where} has shape {array.shape}; a picture is (H, W), (H, W, 1), (H, W, 3) or"
            " (H, W, 4), channels last"
        )
    _check_size((array.shape[1], array.shape[0]), max_pixels, where)
    scale: float
    if array.dtype == np.uint8:
        scale = 1
    elif array.dtype.kind == "u" and array.dtype.itemsize == 2:  # either byte order
        scale = 255 / 65535
    elif array.dtype == np.bool_:
        scale = 255
    elif np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise PictureError(f"{where} holds NaN or infinite values; replace them first")
        if array.min() < 0 or array.max() > 1:
            raise PictureError(
                f"{where} holds floats from {array.min():g} to {array.max():g}, but float pixels"
                " go from 0 to 1; divide by their white, or convert to uint8"
            )
        scale = 255
    else:
        raise PictureError(f"{where} is {array.dtype}; give uint8, uint16, or float from 0 to 1")
    pixels = array if scale == 1 else np.rint(array.astype(np.float64) * scale).astype(np.uint8)
    if pixels.shape[2] == 4:
        return _on_white(pixels)
    return np.array(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def _stem(name: object) -> str:
    """A display name for what a file object or image says of itself (may be a descriptor)."""
    return (Path(name).stem if isinstance(name, str) and name else "") or "picture"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
