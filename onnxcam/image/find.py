"""Which picture files a user's arguments mean: files, folders, patterns."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from onnxcam.errors import PictureError, close_matches

_NAMES = "avif bmp dib gif ico j2k jfif jp2 jpe jpeg jpg mpo pbm pcx pgm png pnm ppm psd qoi tga"
EXTENSIONS = frozenset(f".{name}" for name in f"{_NAMES} tif tiff webp".split())


def find_pictures(
    arguments: Iterable[str | os.PathLike[str]], *, recursive: bool = True
) -> list[Path]:
    """Expand files, folders and glob patterns to picture files.

    A file named outright is taken whatever its extension. Folders and patterns yield the files
    with a known extension, sorted, hidden ones left out. A file that is met twice counts once.

    Args:
        arguments: Paths and patterns (`photos/**/*.jpg`).
        recursive: Descend into the folders of a folder.

    Raises:
        PictureError: An argument matches nothing.
    """
    found: dict[Path, None] = {}
    for argument in arguments:
        found.update(dict.fromkeys(_expand(Path(argument), recursive)))
    return list(found)


def _expand(path: Path, recursive: bool) -> list[Path]:
    if path.is_dir():
        inside = _in_folder(path, recursive)
        if not inside:
            raise PictureError(
                f"{path}: no pictures in this folder (looked for {' '.join(sorted(EXTENSIONS))})"
            )
        return inside
    if path.exists():
        return [path]
    if glob.has_magic(str(path)):
        matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        pictures = [match for match in matches if _is_picture(match)]
        if not pictures:
            what = f"{len(matches)} files, none of them a picture" if matches else "nothing"
            raise PictureError(f"pattern {str(path)!r} matches {what}")
        return pictures
    near = ""
    if path.parent.is_dir():
        near = close_matches(path.name, [entry.name for entry in path.parent.iterdir()])
    raise PictureError(f"{path}: there is no such file or folder{near}")


def _in_folder(folder: Path, recursive: bool) -> list[Path]:
    found: list[Path] = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
        found += [Path(root, name) for name in files if _is_picture(Path(root, name))]
    return sorted(found)


def _is_picture(path: Path) -> bool:
    hidden = path.name.startswith(".")
    return path.suffix.lower() in EXTENSIONS and not hidden and path.is_file()
