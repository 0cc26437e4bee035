"""Lists of pictures with their classes and boxes, as written: CSV, JSON, and COCO's."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from onnxcam.errors import OptionError
from onnxcam.files import reason
from onnxcam.image.find import EXTENSIONS

Box: TypeAlias = tuple[float, float, float, float]
"""x0, y0, x1, y1: edges in pixels of the picture as it is shown, EXIF orientation applied."""

FILE = ("file", "path", "image", "filename", "file_name")
LABEL = ("label", "class", "target", "category")
CORNERS = (("x0", "y0", "x1", "y1"), ("xmin", "ymin", "xmax", "ymax"))
SIZED = ("x", "y", "width", "height")


@dataclass(frozen=True)
class Entry:
    """One line of a list as it is written: neither is the file looked for nor the class known."""

    file: str
    label: str | int | None = None
    boxes: tuple[Box, ...] = ()
    mask: str | None = None


@dataclass
class Listing:
    """What a list holds.

    Attributes:
        kind: "csv", "json", "coco" or "voc".
        homes: the folders that files are looked for in, in this order.
        entries: as listed.
        skipped: name and reason of entries that cannot be read.
        loose: a file may also be found by its name without folders.
    """

    kind: str
    homes: tuple[Path, ...]
    entries: list[Entry] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    loose: bool = False

    def skip(self, name: object, reason: object) -> None:
        """Notes an entry that cannot be used."""
        self.skipped.append((str(name), str(reason)))

    def find(self, file: str) -> Path | None:
        """The file behind a name in the list, or None; absolute names are taken as they are."""
        names = [file, file.replace("\\", "/")]  # lists written on Windows
        names += [PurePosixPath(names[1]).name] if self.loose else []
        names += [unicodedata.normalize(form, name) for form in ("NFC", "NFD") for name in names]
        for name in dict.fromkeys(filter(None, names)):
            for home in self.homes:
                if os.path.isfile(home / name):  # unlike Path's, False for names of any length
                    return home / name
        return None


def read_list(path: Path, pictures: Path | None) -> Listing | None:
    """What the list holds, or None if the file's name is not that of a list.

    Args:
        path: a .csv, .tsv, .json, .jsonl or .ndjson.
        pictures: a folder to look for pictures in, before that of the list.

    Raises:
        OptionError: the file cannot be read or is not what its name says.
    """
    homes = (pictures, path.parent) if pictures else (path.parent,)
    match path.suffix.lower():
        case ".csv" | ".tsv":
            return read_table(path, homes)
        case ".json":
            return read_json(path, homes)
        case ".jsonl" | ".ndjson":
            return read_lines(path, homes)
    return None


# --- tables --------------------------------------------------------------------------------------


def read_table(path: Path, homes: tuple[Path, ...]) -> Listing:
    """A .csv or .tsv, in UTF-8: with a header, or two columns, file and class.

    Columns (case does not matter, others are ignored): `file`, `label`, a box as `x0, y0, x1, y1`
    (pixel edges) or `x, y, width, height`, and `mask`; for the other names see `FILE`, `LABEL`
    and `CORNERS`. Where corners are there, `width` and `height` are the picture's.

    Raises:
        OptionError: it cannot be read, or has no column of files.
    """
    listing, text = Listing("csv", homes), _text(path)
    first = text.lstrip("\r\n").partition("\n")[0]
    marks = "\t" if path.suffix.lower() == ".tsv" else ",;\t"
    mark = next((mark for mark in marks if mark in first), marks[0])
    rows = csv.reader(
        io.StringIO(text, newline=""), delimiter=mark, skipinitialspace=True, strict=True
    )
    header: list[str] | None = None
    try:
        for cells in rows:
            row = [cell.strip() for cell in cells]
            if not any(row):
                continue
            where = f"line {rows.line_num}"
            if header is None:
                names = [cell.casefold() for cell in row]
                if set(FILE) & set(names):
                    header = names
                    continue
                header = _no_header(path, row)
            if len(row) > len(header):
                listing.skip(row[0], f"{where}: {len(row)} columns instead of {len(header)}")
            else:
                _add(listing, dict(zip(header, row, strict=False)), where)
    except csv.Error as error:
        raise OptionError(f"{path}, line {rows.line_num}: not valid CSV ({error})") from None
    return listing


def _no_header(path: Path, row: list[str]) -> list[str]:
    is_header = set(LABEL) & {cell.casefold() for cell in row} and not any(
        PurePosixPath(cell).suffix.lower() in EXTENSIONS for cell in row
    )
    if is_header or len(row) > 2:
        what = f"columns {', '.join(row)}" if is_header else f"{len(row)} columns and no header"
        raise OptionError(
            f"{path}: {what}; the first line must name the columns, one of them {FILE[0]!r}"
            f" (or {', '.join(FILE[1:])})"
        )
    return [FILE[0], LABEL[0]]


def _add(listing: Listing, row: Mapping[str, Any], where: str) -> None:
    """Adds the entry that a row of a table or an object in JSON describes."""
    file, label = _first(row, FILE), _first(row, LABEL)
    mask = _first(row, ("mask",))
    if not isinstance(file, str):
        return listing.skip(where, f"names no file (as {FILE[0]!r})")
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if isinstance(label, bool) or not isinstance(label, str | int | None):
        return listing.skip(
            file, f"{where}: the class must be a name or an index, not {short(label)}"
        )
    if not isinstance(mask, str | None):
        return listing.skip(file, f"{where}: the mask must be the name of a picture")
    if "bbox" in row:
        return listing.skip(
            file, f"{where}: 'bbox' may hold corners or a size; use 'boxes': [[x0, y0, x1, y1]]"
        )
    boxes, bad = [], 0
    for values, sized in _boxes(row):
        try:
            boxes.append(box(values, sized))
        except ValueError as error:
            bad += 1
            listing.skip(file, f"{where}: {error}")
    if boxes or not bad:
        listing.entries.append(Entry(file, label, tuple(boxes), mask))
    return None


def _first(row: Mapping[str, Any], names: Iterable[str]) -> Any:
    """The value under the first of the names that has one."""
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def _boxes(row: Mapping[str, Any]) -> Iterator[tuple[Any, bool]]:
    """What `box` takes, for each box of a row."""
    for names in (*CORNERS, SIZED):
        values = [row.get(name) for name in names]
        there = [name in row for name in names]
        if all(there) or (any(there) and names is not SIZED):
            if any(value not in (None, "") for value in values):
                yield values, names is SIZED
            break
    held = row.get("boxes")
    if isinstance(held, list):
        yield from ((one, False) for one in held)
    elif held is not None:
        yield held, False


def box(values: Any, sized: bool = False) -> Box:
    """Four numbers as a box.

    Args:
        values: x0, y0, x1, y1, as numbers or text.
        sized: they are x, y, width, height.

    Raises:
        ValueError: they are no numbers, or a box without area or outside of any picture.
    """
    if not isinstance(values, list | tuple) or len(values) != 4:
        raise ValueError(f"box {short(values)}: expected four numbers")
    try:
        if any(isinstance(value, bool) for value in values):
            raise TypeError
        x0, y0, x1, y1 = (float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"box {short(values)}: expected four numbers") from None
    if sized:
        x1, y1 = x0 + x1, y0 + y1
    shown = f"box ({x0:g}, {y0:g}, {x1:g}, {y1:g})"
    if not all(map(math.isfinite, (x0, y0, x1, y1))):
        raise ValueError(f"{shown}: not all of them are finite numbers")
    if x0 >= x1 or y0 >= y1:
        raise ValueError(f"{shown}: it has no area; x0 < x1 and y0 < y1 are needed")
    if x1 <= 0 or y1 <= 0:
        raise ValueError(f"{shown}: it lies outside of the picture")
    return x0, y0, x1, y1


def short(value: Any, most: int = 60) -> str:
    """The value as it can stand in a message."""
    text = repr(value)
    return text if len(text) <= most else text[:most] + "…"


# --- JSON ----------------------------------------------------------------------------------------


def read_json(path: Path, homes: tuple[Path, ...]) -> Listing:
    """A list of objects with the keys of a table, and `boxes`; or instances as COCO has them.

    `boxes` is `[[x0, y0, x1, y1], …]`. An entry may also be just the name of a file.

    Raises:
        OptionError: it cannot be read, or holds neither.
    """
    try:
        held = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{path}: not valid JSON ({first_line(error)})") from None
    if isinstance(held, dict) and all(isinstance(held.get(k), list) for k in _COCO):
        return _coco(held, homes)
    if not isinstance(held, list):
        raise OptionError(
            f"{path}: expected a list of objects with {FILE[0]!r} and {LABEL[0]!r}, or COCO's"
            f" object of the lists {', '.join(_COCO)}"
        )
    listing = Listing("json", homes)
    for number, one in enumerate(held, 1):
        _add_object(listing, one, f"entry {number}")
    return listing


def read_lines(path: Path, homes: tuple[Path, ...]) -> Listing:
    """A .jsonl: one JSON object on each line, with the keys of `read_json`.

    Raises:
        OptionError: it cannot be read.
    """
    listing = Listing("json", homes)
    for number, line in enumerate(_text(path).split("\n"), 1):
        if line.strip():
            try:
                _add_object(listing, json.loads(line), f"line {number}")
            except (ValueError, RecursionError) as error:
                listing.skip(f"line {number}", f"not valid JSON ({first_line(error)})")
    return listing


def _add_object(listing: Listing, one: Any, where: str) -> None:
    if isinstance(one, str):
        one = {FILE[0]: one}
    if isinstance(one, dict):
        _add(listing, {key.casefold(): value for key, value in one.items()}, where)
    else:
        listing.skip(where, "expected an object with 'file' and 'label'")


_COCO = ("images", "annotations", "categories")


def _coco(held: Mapping[str, Any], homes: tuple[Path, ...]) -> Listing:
    """An entry for each object that is no crowd, picture by picture in the order of `images`.

    A category counts by its name, a bbox is x, y, width, height; see COCO's data format,
    https://cocodataset.org/#format-data.
    """
    listing = Listing("coco", homes)
    files, categories = (
        {
            _number(one.get("id")): name
            for one in held[part]
            if isinstance(one, dict) and isinstance(name := one.get(key), str) and name
        }
        for part, key in (("images", "file_name"), ("categories", "name"))
    )
    objects: dict[str, list[Entry]] = {number: [] for number in files}
    for number, one in enumerate(held["annotations"], 1):
        if not isinstance(one, dict):
            listing.skip(f"annotation {number}", "expected an object")
            continue
        image, category = _number(one.get("image_id")), _number(one.get("category_id"))
        if image not in files:
            listing.skip(f"annotation {number}", f"there is no image {image} with a file_name")
        elif category not in categories:
            listing.skip(files[image], f"there is no category {category} with a name")
        elif not one.get("iscrowd"):
            try:
                found = box(one.get("bbox"), sized=True)
                objects[image].append(Entry(files[image], categories[category], (found,)))
            except ValueError as error:
                listing.skip(files[image], f"{categories[category]}: {error}")
    listing.entries = [entry for entries in objects.values() for entry in entries]
    # Two pictures of one name must not stand for each other.
    bare = [PurePosixPath(file.replace("\\", "/")).name for file in set(files.values())]
    listing.loose = len(set(bare)) == len(bare)
    return listing


def _number(held: Any) -> str:
    """An identifier; tools that go through tables of floats write 7 as 7.0."""
    return str(int(held) if isinstance(held, float) and held.is_integer() else held)


# --- files ---------------------------------------------------------------------------------------


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise OptionError(f"{path}: not a text file in UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise OptionError(f"{path}: {reason(error)}") from None


def first_line(error: BaseException) -> str:
    """An error of another library, in one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]
