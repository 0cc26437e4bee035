"""Where results go: names of files that collide with nothing, checked before any work is done."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from onnxcam.errors import OutputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".npz", ".npy", ".json")
PICTURES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Place:
    """Where the results of one picture go.

    Attributes:
        base: path of the files without what tells them apart.
        picture: suffix of the drawn picture, or None for none.
        raw: suffix of the arrays, or None for none.
    """

    base: str
    picture: str | None
    raw: str | None

    def files(self, slugs: Sequence[str]) -> list[Path]:
        """The files for these classes: a picture for each class, then one with the arrays."""
        found: list[Path] = []
        if self.picture:
            several = len(slugs) > 1
            found = [
                Path(f"{self.base}.{slug}{self.picture}" if several else self.base + self.picture)
                for slug in slugs
            ]
        return found + ([Path(self.base + self.raw)] if self.raw else [])


def places(
    pictures: Sequence[Path], to: str | None, method: str, kind: str, raw: str | None
) -> list[Place]:
    """A place for each picture.

    Raises:
        UsageError: `to` is a file, but there are several pictures, or none to be drawn.
        OutputError: `to` is a picture of a kind that cannot be written.
    """
    suffix = None if kind == "none" else ".png"
    raw = f".{raw}" if raw else None
    if to is not None and _is_file(to):
        if len(pictures) > 1:
            raise click.UsageError(
                f"--to {to} names a file, but there are {len(pictures)} pictures; name a folder"
            )
        base, ending = os.path.splitext(to)
        if ending.lower() not in SUFFIXES:
            raise OutputError(f"cannot write {to}: the ending must be one of {', '.join(SUFFIXES)}")
        if ending.lower() not in PICTURES:
            return [Place(base, None, ending)]
        if suffix is None:
            raise click.UsageError(f"--to {to} names a picture, but --kind none draws none")
        return [Place(base, ending, raw)]
    folder = Path(to or "")
    return [Place(str(folder / f"{stem}.{method}"), suffix, raw) for stem in stems(pictures)]


def _is_file(to: str) -> bool:
    if to.endswith(("/", os.sep)) or Path(to).is_dir():
        return False
    from onnxcam.image.find import EXTENSIONS

    return Path(to).suffix.lower() in EXTENSIONS.union(SUFFIXES)


def stems(paths: Sequence[Path]) -> list[str]:
    """A name for each picture, all different: the stem, with folder, ending or number if need."""
    names = [path.stem for path in paths]
    fuller: tuple[Callable[[Path], str], ...] = (
        lambda path: f"{path.absolute().parent.name}-{path.stem}",
        lambda path: f"{path.absolute().parent.name}-{path.stem}-{path.suffix[1:]}",
    )
    for more in fuller:
        count = Counter(map(str.casefold, names))  # some file systems do not tell Dog from dog
        names = [
            more(path) if count[old.casefold()] > 1 else old
            for path, old in zip(paths, names, strict=True)
        ]
    used: set[str] = set()
    for i, name in enumerate(names):
        number, unique = 2, name
        while unique.casefold() in used:
            unique, number = f"{name}-{number}", number + 1
        used.add(unique.casefold())
        names[i] = unique
    return names


def slugs(
    labels: Sequence[str] | None,
    classes: Sequence[int],
    negated: Sequence[bool] | None = None,
    opposite: str | None = None,
) -> list[str]:
    """File-name forms of class names: "tabby, tabby cat" → "tabby"; with index where ambiguous.

    Of negated ones "not-tabby", or the form of the name that the opposite has.
    """
    made = [_slug(label) for label in labels or ()]
    count = Counter(made)

    def one(index: int) -> str:
        if not (0 <= index < len(made) and made[index]):
            return f"class-{index}"
        return made[index] if count[made[index]] == 1 else f"{made[index]}-{index}"

    def no(index: int) -> str:
        name = _slug(opposite or "") or f"not-{one(index)}"
        return name if name not in count else f"not-class-{index}"

    pairs = zip(classes, negated or [False] * len(classes), strict=True)
    return [no(index) if denied else one(index) for index, denied in pairs]


def _slug(label: str) -> str:
    first = unicodedata.normalize("NFKC", label).split(",")[0].casefold()
    return re.sub(r"[\W_]+", "-", first).strip("-")[:40].rstrip("-")


def is_result(path: Path, methods: Sequence[str]) -> bool:
    """Whether a file bears the name of a result: <picture>.<method>.png, <picture>.compare.png."""
    return any(f".{what}." in path.name for what in (*methods, "compare"))


def check(files: Sequence[Path], inputs: Sequence[Path], force: bool) -> None:
    """Whether all files can be written, none of them being one that is read.

    Raises:
        OutputError: a file exists, or its folder cannot be written to or made.
    """
    from onnxcam.files import check_writable

    read = {os.path.realpath(path) for path in inputs}
    for file in files:
        if os.path.realpath(file) in read:
            raise OutputError(f"{file} would replace what is read; name another file")
        check_folder(file.parent)
        if file.parent.is_dir():
            check_writable(file, force)


def check_folder(folder: Path) -> None:
    """Whether `folder` can be written to, or made where it does not exist.

    Raises:
        OutputError: it is a file, or the system will refuse.
    """
    above = folder.absolute()
    while not os.path.lexists(above):
        above = above.parent
    if not above.is_dir():
        raise OutputError(f"cannot write to {folder}: {above} is a file, not a folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write to {folder}: no permission to write to {above}")
