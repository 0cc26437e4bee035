"""What the classes of a data set are called."""

from __future__ import annotations

import re
from collections.abc import Sequence

from onnxcam.errors import TargetError
from onnxcam.labels import fold, resolve_target

LONG = 200
"""Characters; no class has a longer name."""
NEAR = 20
"""Unknown classes that close matches are suggested for; to find them takes a while."""


class Classes:
    """What the classes of a data set are called, each looked up once."""

    def __init__(
        self,
        names: Sequence[str] | None,
        classes: int,
        offset: int,
        opposite: str | None = None,
    ) -> None:
        self._two = classes == 1
        if self._two and names:
            names = [opposite or f"not {names[0]}", names[0]]
        self._names = names
        self._classes = 2 if self._two else classes
        self._offset = offset
        self._known: dict[str, int | str] = {}
        self._unknown = 0
        self._words = {fold(part) for name in names or () for part in (name, *name.split(","))}

    def index(self, text: str | int) -> int:
        """The class's index.

        Raises:
            TargetError: there is no such class, or more than one.
        """
        found = self._found(str(text))
        if isinstance(found, str):
            raise TargetError(found)
        return found

    def of_folder(self, name: str) -> int:
        """The index of the class that a folder is named after.

        Raises:
            TargetError: there is none, or the number and the name in it are different classes'.
        """
        parts = re.fullmatch(r"(\d+|n\d{8})[ _.-]+(\S.*)", name, re.DOTALL)
        if parts is None or isinstance(self._found(name), int):
            return self.index(name)
        known = [index for index in map(self._found, parts.groups()) if isinstance(index, int)]
        if not known:
            return self.index(name)
        if known[0] != known[-1]:
            raise TargetError(
                f"{parts[1]} and {parts[2]!r} are different classes, {known[0]} and {known[1]}; if"
                " the numbers are counted differently, --label-offset is added to them"
            )
        return known[0]

    def _found(self, text: str) -> int | str:
        """The index, or why there is none."""
        word = text.strip()
        if word not in self._known:
            try:
                index = self._resolve(word)
                self._known[word] = 1 - index if self._two else index
            except TargetError as error:
                self._known[word] = str(error)
                self._unknown += 1
        return self._known[word]

    def _resolve(self, word: str) -> int:
        if not word:
            raise TargetError("the class has no name")
        if len(word) > LONG:
            raise TargetError(f"class {word[:20] + '…'!r}: a name of {len(word)} characters")
        if number := re.fullmatch(r"([+-]?\d+)(\.0+)?", word):  # tables of floats write 7 as 7.0
            index = int(number[1])
            try:
                return resolve_target(index + self._offset, self._names, self._classes)
            except TargetError as error:
                moved = f" ({index} with the offset {self._offset:+d})" if self._offset else ""
                raise TargetError(f"{error}{moved}") from None
        if re.fullmatch(r"n\d{8}", word):
            for index, name in enumerate((self._names or ())[: self._classes]):
                if name.split(maxsplit=1)[:1] == [word]:  # "n01440764 tench", as in synset lists
                    return index
        if self._names and self._unknown >= NEAR and fold(word) not in self._words:
            raise TargetError(f"class {word!r} is not among the model's {self._classes} classes")
        return resolve_target(word, self._names, self._classes)
