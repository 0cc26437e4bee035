"""Annotations of Pascal VOC: one small XML file for each picture."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn
from xml.etree import ElementTree
from xml.parsers import expat

from onnxcam.evaluate.annotations import Box, Entry, Listing, box, first_line, short
from onnxcam.files import reason
from onnxcam.image.find import EXTENSIONS

MAX_XML = 1 << 20
"""Bytes of one annotation; a picture with a hundred objects takes some 30,000."""

XML_FOLDERS = ("Annotations", "annotations")
PICTURE_FOLDERS = ("JPEGImages", "images", ".")
HARD = ("1", "true", "True")
EDGES = ("xmin", "ymin", "xmax", "ymax")


def voc_files(folder: Path) -> list[Path]:
    """The .xml files of a folder laid out as Pascal VOC is, or with each beside its picture."""
    for name in XML_FOLDERS:
        if found := _with_extension(folder / name, {".xml"}):
            return found
    beside = {path.stem for path in _with_extension(folder, EXTENSIONS)}
    found = _with_extension(folder, {".xml"})
    return found if any(path.stem in beside for path in found) else []


def _with_extension(folder: Path, extensions: Iterable[str]) -> list[Path]:
    if not folder.is_dir():
        return []
    found = (p for p in folder.iterdir() if p.suffix.lower() in extensions)
    return sorted(p for p in found if p.is_file() and not p.name.startswith("."))


def read_voc(paths: Iterable[Path], pictures: Path | None) -> Listing:
    """Annotations of Pascal VOC, one .xml for each picture.

    Its coordinates are pixels counted from 1, the last one included, so (1, 1, W, H) is all of a
    picture: x0 = xmin − 1, x1 = xmax. Objects marked `difficult` count only in pictures that have
    no others.
    """
    paths = list(paths)
    above = paths[0].parent if paths else Path()
    roots = [above.parent] if above.name in XML_FOLDERS else [above, above.parent]
    homes = [pictures] if pictures else []
    homes += [root / name for root in roots for name in PICTURE_FOLDERS] + [above]
    listing = Listing("voc", tuple(homes), loose=True)
    for path in paths:
        try:
            _voc(listing, path)
        except ValueError as error:
            listing.skip(path.name, error)
    return listing


def _voc(listing: Listing, path: Path) -> None:
    root = _xml(path)
    if root.tag != "annotation":
        raise ValueError(f"no annotation of Pascal VOC: its root is <{short(root.tag)}>")
    named = (root.findtext("filename") or "").strip()
    # The annotation's own name goes first: `filename` may be from before the files were renamed.
    tries = [path.stem + end for end in sorted(EXTENSIONS | {".JPEG", ".JPG", ".PNG"})] + [named]
    if Path(named).stem == path.stem:
        tries.insert(0, named)
    file = next((name for name in tries if name and listing.find(name)), named or path.stem)
    objects = root.findall("object")
    easy = [one for one in objects if (one.findtext("difficult") or "").strip() not in HARD]
    for one in easy or objects:
        name = (one.findtext("name") or "").strip()
        corners = [one.findtext(f"bndbox/{edge}") for edge in EDGES]
        try:
            listing.entries.append(Entry(file, name, (_from_one(corners),)))
        except ValueError as error:
            listing.skip(file, f"{path.name}: {name}: {error}")


def _from_one(corners: list[str | None]) -> Box:
    try:
        x0, y0, x1, y1 = (float(edge or "") for edge in corners)
    except ValueError:
        return box(corners)  # which says what is wrong
    x0, y0, x1, y1 = box([x0 - 1, y0 - 1, x1, y1])
    return max(x0, 0.0), max(y0, 0.0), x1, y1  # some tools count from 0


def _xml(path: Path) -> ElementTree.Element:
    """The root of a small document without a DOCTYPE: entities are the way to harm a reader.

    Raises:
        ValueError: it cannot be read, or is not such a document.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_XML + 1)
    except OSError as error:
        raise ValueError(reason(error)) from None
    if len(data) > MAX_XML:
        raise ValueError(f"more than {MAX_XML} bytes, too many for one annotation")
    scanner = expat.ParserCreate()  # sees a DOCTYPE in every encoding, and stops at it
    scanner.StartDoctypeDeclHandler = _refuse_doctype
    try:
        scanner.Parse(data, True)
        return ElementTree.fromstring(data)
    except (expat.ExpatError, ElementTree.ParseError, LookupError) as error:
        raise ValueError(f"not valid XML ({first_line(error)})") from None


def _refuse_doctype(*_: object) -> NoReturn:
    raise ValueError("the XML has a DOCTYPE, which annotations do not need; remove it")
