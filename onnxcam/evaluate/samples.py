"""Data sets: the pictures that explanations are measured on, with class, boxes and masks."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, count
from pathlib import Path

from onnxcam.errors import OptionError, PictureError, TargetError
from onnxcam.evaluate.annotations import Box, Entry, Listing, read_list
from onnxcam.evaluate.boxes import unlike
from onnxcam.evaluate.class_names import Classes
from onnxcam.evaluate.voc import read_voc, voc_files
from onnxcam.files import reason
from onnxcam.image import find_pictures
from onnxcam.image.find import EXTENSIONS

__all__ = ["Box", "DataSet", "Sample", "by_picture", "data_set", "limited"]

FEW = 3
"""Reasons in the message of a set without a usable picture."""
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True)
class Sample:
    """One picture of a data set.

    Attributes:
        name: unique in the set and the same in each run: the path relative to the set's folder,
            `#2` and so on appended where a picture is listed for several classes.
        path: the file, which has not been opened.
        label: index of the class that is asked about; None for the model's best decision. Of a
            head of one unit 0 is that unit and 1 the decision against it, as `targets` codes them.
        boxes: edges of that class's objects, in pixels of the picture as it is shown.
        mask: a picture of the object: pixels other than zero belong to it.
        others: boxes of other classes' objects in the same picture, see `_among`.
        other_masks: masks of other classes, whose boxes are then not among `others`.
        also: samples of the same picture for other classes, where only one of all is judged.
    """

    name: str
    path: Path
    label: int | None = None
    boxes: tuple[Box, ...] = ()
    mask: Path | None = None
    others: tuple[Box, ...] = ()
    other_masks: tuple[Path, ...] = ()
    also: tuple[Sample, ...] = ()

    @property
    def entries(self) -> tuple[Sample, ...]:
        """This one and those of other classes."""
        return self, *self.also

    def has(self, what: str) -> bool:
        """Whether its "object" is known, and whether "others", too, are in the picture."""
        own = bool(self.boxes or self.mask)
        return own and (what == "object" or bool(self.others or self.other_masks))


@dataclass(frozen=True)
class DataSet:
    """The pictures that a user named.

    Attributes:
        source: as the user named it.
        kind: "folder" (of class folders), "pictures", "csv", "json", "coco" or "voc".
        samples: in the order in which they are listed, folders sorted.
        skipped: name and reason of entries that cannot be used.
    """

    source: str
    kind: str
    samples: tuple[Sample, ...]
    skipped: tuple[tuple[str, str], ...] = ()


def data_set(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    names: Sequence[str] | None,
    classes: int,
    *,
    pictures: str | os.PathLike[str] | None = None,
    label_offset: int = 0,
    opposite: str | None = None,
) -> DataSet:
    """The data set that `source` is; what it is, is told from what it holds.

    - A folder of class folders. A folder's name is a class's index, name or synonym, or starts
      with its index or ImageNet id: `207`, `golden retriever`, `207_golden retriever`.
    - A folder, a pattern or several of them, of pictures without classes.
    - A `.csv` or `.tsv`, see `annotations.read_table`; a `.json` or `.jsonl` with the same keys,
      or with COCO's instances, see `annotations.read_json`.
    - A folder of Pascal VOC's annotations, see `voc.read_voc`.

    An entry that cannot be used is noted and left out. Entries of one picture and class are one
    sample, with the boxes of all.

    Args:
        source: a path or pattern, or several of pictures.
        names: the class names in index order, where known.
        classes: how many classes the model has.
        pictures: a folder to look for a list's pictures in, before the list's own folder.
        label_offset: added to classes given as numbers (1 for a model with a background class).
        opposite: of a head of one unit the name of the decision against it, where known. The data
            set's class 0 is that decision, its class 1 the unit's.

    Raises:
        OptionError: the source is no data set, or nothing in it can be used.
        PictureError: there is no such file or folder, or no picture in it.
    """
    if isinstance(source, str | os.PathLike):
        shown, paths = str(source), [Path(source)]
    else:
        shown, paths = ", ".join(map(str, source)), [Path(one) for one in source]
    if not paths:
        raise OptionError("no data set was named; give a folder, a list or pictures")
    folder = None if pictures is None else Path(pictures)
    if folder is not None and not folder.is_dir():
        raise OptionError(f"pictures {folder}: there is no such folder")
    known = Classes(names, classes, label_offset, opposite)
    try:
        found = _alone(paths[0], folder, known) if len(paths) == 1 else _pictures(paths)
    except OSError as error:  # a folder that this user may not read
        raise OptionError(f"{error.filename or shown}: {reason(error)}") from None
    if not found.samples:
        raise OptionError(_nothing(shown, found, folder))
    if folder is not None and found.kind in ("folder", "pictures"):
        raise OptionError(f"pictures {folder}: {shown} is no list whose pictures lie elsewhere")
    return replace(found, source=shown)


def limited(samples: Sequence[Sample], limit: int | None, seed: int) -> tuple[Sample, ...]:
    """At most `limit` samples, chosen at random and spread evenly over the classes.

    Each class gives one in turn until there are enough. The choice is by a hash of seed and name,
    so it is the same everywhere, and a higher limit adds to what a lower one chose.

    Args:
        samples: of a set.
        limit: how many; None is all.
        seed: of the choice.

    Returns:
        Them, in the order of the set.

    Raises:
        OptionError: the limit is less than 1.
    """
    if limit is None:
        return tuple(samples)
    if limit < 1:
        raise OptionError(f"limit {limit}: it must be 1 or more")

    def drawn(*what: object) -> bytes:
        text = "\0".join(map(str, (seed, *what)))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()

    by_class: defaultdict[int | None, list[int]] = defaultdict(list)
    for place, sample in enumerate(samples):
        by_class[sample.label].append(place)
    turns = [
        (turn, drawn("class", label), place)
        for label, places in by_class.items()
        for turn, place in enumerate(sorted(places, key=lambda p: drawn(samples[p].name)))
    ]
    return tuple(samples[place] for place in sorted(place for *_, place in sorted(turns)[:limit]))


def by_picture(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """One sample for each picture, the first: with those of its other classes in `also`."""
    found: dict[Path, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.path, []).append(sample)
    return tuple(replace(first, also=tuple(others)) for first, *others in found.values())


# --- what a user can name ------------------------------------------------------------------------


def _alone(path: Path, pictures: Path | None, known: Classes) -> DataSet:
    if path.is_dir():
        if files := voc_files(path):
            return _listed(read_voc(files, pictures), known)
        return _folder(path, known)
    if path.is_file():
        if path.suffix.lower() == ".xml":
            return _listed(read_voc([path], pictures), known)
        if listing := read_list(path, pictures):
            return _listed(listing, known)
        if path.suffix.lower() not in EXTENSIONS:
            raise OptionError(
                f"{path}: neither a picture nor a list of pictures (.csv, .tsv, .json, .jsonl)"
            )
    return _pictures([path])


def _pictures(paths: Sequence[Path]) -> DataSet:
    samples = _Samples([_fixed(paths[0])] if len(paths) == 1 else [])
    others = [p for p in paths if p.is_file() and p.suffix.lower() not in EXTENSIONS]
    for path in others:
        samples.skip(path.as_posix(), "no picture; a list of pictures is a data set of its own")
    for path in find_pictures([path for path in paths if path not in others]):
        samples.add(path, None)
    return samples.as_set("pictures")


def _fixed(pattern: Path) -> Path:
    """The folder that all pictures lie in which a pattern can match."""
    while glob.has_magic(str(pattern)):
        pattern = pattern.parent
    return pattern.parent if pattern.is_file() else pattern


def _folder(path: Path, known: Classes) -> DataSet:
    """The pictures of class folders; where none is a class's, those that lie beside them."""
    samples = _Samples([path])
    for folder in sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")):
        try:
            inside = find_pictures([folder])
        except PictureError:
            samples.skip(folder.name, "no pictures in this folder")
            continue
        try:
            label = known.of_folder(folder.name)
        except TargetError as error:
            deeper = any(picture.parent != folder for picture in inside)
            way = "; if the folders in it are the classes, name it instead" if deeper else ""
            samples.skip(folder.name, f"{error}; {len(inside)} pictures{way}")
            continue
        for picture in inside:
            samples.add(picture, label)
    try:
        beside = find_pictures([path], recursive=False)
    except PictureError:
        if not samples.made and not samples.skipped:
            raise
        beside = []
    if beside and not samples.made:
        for picture in beside:
            samples.add(picture, None)
        return samples.as_set("pictures")
    if beside:
        more = f", as do {len(beside) - 1} more" if len(beside) > 1 else ""
        samples.skip(beside[0].name, f"lies outside of the class folders{more}")
    return samples.as_set("folder")


def _listed(listing: Listing, known: Classes) -> DataSet:
    """The samples of a list: files found, classes known, entries of one picture joined."""
    samples = _Samples(listing.homes)
    for name, why in listing.skipped:
        samples.skip(name, why)
    find = cache(listing.find)
    unknown: dict[str, list[Entry]] = {}
    for entry in listing.entries:
        try:
            label = None if entry.label is None else known.index(entry.label)
        except TargetError as error:
            unknown.setdefault(str(error), []).append(entry)
            continue
        path, mask = find(entry.file), entry.mask and find(entry.mask)
        if path is None:
            samples.skip(entry.file, "there is no such file")
        elif entry.mask and not mask:
            samples.skip(entry.file, f"mask {entry.mask}: there is no such file")
        else:
            samples.add(path, label, entry.boxes, mask or None)
    for why, entries in unknown.items():  # once for each class: there may be thousands
        more = f"; {len(entries) - 1} more entries of this class" if len(entries) > 1 else ""
        samples.skip(entries[0].file, why + more)
    return samples.as_set(listing.kind)


def _nothing(shown: str, found: DataSet, pictures: Path | None) -> str:
    reasons = [f"{name}: {why}" for name, why in found.skipped[:FEW]]
    more = f"; and {len(found.skipped) - FEW} more" if len(found.skipped) > FEW else ""
    what = "; ".join(reasons) + more if reasons else "it lists none"
    way = ""
    if pictures is None and any(why == "there is no such file" for _, why in found.skipped):
        way = "; name the folder that holds the pictures with --pictures"
    elif found.kind == "folder":
        way = f"; to ask about each picture's top class, name the pictures: '{shown}/**/*.jpg'"
    return f"{shown}: no picture can be used: {what}{way}"


# --- samples -------------------------------------------------------------------------------------


class _Samples:
    """Samples as they are put together: one for each picture and class, under one name each."""

    def __init__(self, homes: Iterable[Path]) -> None:
        self.made: dict[tuple[str, int | None], Sample] = {}
        self.skipped: dict[tuple[str, str], None] = {}
        self._homes = [os.path.normpath(home) for home in homes]
        self._names: set[str] = set()

    def add(
        self, path: Path, label: int | None, boxes: tuple[Box, ...] = (), mask: Path | None = None
    ) -> None:
        """Adds a sample, or boxes and mask to the one of the same picture and class."""
        key = os.path.normpath(path), label
        before = self.made.get(key)
        if before is None:
            self.made[key] = Sample(self._name(key[0]), path, label, boxes, mask)
            return
        if mask and before.mask and os.path.normpath(mask) != os.path.normpath(before.mask):
            self.skip(before.name, f"mask {mask.name}: the picture has the mask {before.mask.name}")
            return
        boxes = tuple(dict.fromkeys(before.boxes + boxes))
        self.made[key] = replace(before, boxes=boxes, mask=before.mask or mask)

    def skip(self, name: str, reason: str) -> None:
        """Notes an entry that cannot be used, once."""
        self.skipped[_printable(name), _printable(reason)] = None

    def as_set(self, kind: str) -> DataSet:
        """All of them; the set's source is still to be filled in."""
        by_picture: defaultdict[str, list[Sample]] = defaultdict(list)
        for (path, label), sample in self.made.items():
            if label is not None:
                by_picture[path].append(sample)
        made = (_among(one, by_picture[path]) for (path, _), one in self.made.items())
        return DataSet("", kind, tuple(made), tuple(self.skipped))

    def _name(self, path: str) -> str:
        name = Path(path)
        for home in self._homes:
            if name.is_relative_to(home):
                name = name.relative_to(home)
                break
        plain = _printable(name.as_posix())
        numbered = (f"{plain}#{number}" for number in count(2))
        unique = next(n for n in chain([plain], numbered) if n not in self._names)
        self._names.add(unique)
        return unique


def _printable(text: str) -> str:
    """The text as reports can hold it: names of files need be neither Unicode nor one line."""
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _among(sample: Sample, every: Sequence[Sample]) -> Sample:
    """The sample with what other classes have in the same picture.

    A box that is one of its own, or nearly so, is the same object under another name: a car of
    COCO is listed as several of ImageNet's classes. So is a mask that is the same file.
    """
    if sample.label is None:
        return sample
    rivals = [one for one in every if one.label != sample.label]
    boxes = dict.fromkeys(box for one in rivals if one.mask is None for box in one.boxes)
    masks = dict.fromkeys(one.mask for one in rivals if one.mask not in (None, sample.mask))
    return replace(
        sample, others=unlike(boxes, sample.boxes), other_masks=tuple(filter(None, masks))
    )
