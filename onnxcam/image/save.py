"""Saving pictures with the facts of how they came about."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from onnxcam.errors import OutputError
from onnxcam.files import check_writable, write_atomic

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
SETTINGS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 92, "subsampling": 0},  # subsampled colours smear a heat map's edges
    "WEBP": {"quality": 92},
}
IMAGE_DESCRIPTION, SOFTWARE = 0x010E, 0x0131


def save_image(
    image: Image.Image,
    path: str | os.PathLike[str],
    facts: Mapping[str, str] | None = None,
    force: bool = False,
) -> Path:
    """Write an image as PNG, JPEG or WebP, by the extension, whole or not at all.

    Args:
        image: What to save, RGB.
        path: The file; its folder must exist.
        facts: How it came about. PNG holds them as text chunks, one per fact; JPEG and WebP hold
            them as JSON in EXIF's ImageDescription.
        force: Replace an existing file.

    Raises:
        OutputError: Another extension, an existing file without `force`, or a refused write.
    """
    kind = FORMATS.get(Path(path).suffix.lower())
    if kind is None:
        raise OutputError(f"cannot save {path}: the extension must be one of {', '.join(FORMATS)}")
    check_writable(path, force)  # before the work of compressing
    options = SETTINGS[kind] | _facts(kind, dict(facts or {}))
    stream = io.BytesIO()
    try:
        image.save(stream, kind, **options)
    except (OSError, ValueError) as error:  # a format's limits: 65535 pixels a side, EXIF's 64 KiB
        raise OutputError(f"cannot save {path} as {kind}: {error}; try .png") from None
    return write_atomic(path, stream.getvalue(), force)


def jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels (H, W, 3) as a JPEG file, small rather than fine: for pages of many pictures."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=82)
    return stream.getvalue()


def _facts(kind: str, facts: dict[str, str]) -> dict[str, Any]:
    if not facts:
        return {}
    if kind == "PNG":
        text = PngImagePlugin.PngInfo()
        for key, value in facts.items():
            # A keyword is 1 to 79 Latin-1 characters; the value goes as UTF-8 where it needs to.
            keyword = key.encode("latin-1", "replace").decode("latin-1")[:79] or "fact"
            if value.isascii():
                text.add_text(keyword, value)
            else:
                text.add_itxt(keyword, value)
        return {"pnginfo": text}
    exif = Image.Exif()
    exif[IMAGE_DESCRIPTION] = json.dumps(facts)  # JSON escapes what EXIF's ASCII cannot hold
    exif[SOFTWARE] = facts.get("Software", "onnxcam")
    return {"exif": exif}
