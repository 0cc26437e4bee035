"""Class names: where they come from, and which class a user means by one."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from onnxcam.errors import OptionError, TargetError, close_matches

IMAGENET = 1000


def imagenet_labels(classes: int) -> list[str] | None:
    """The ImageNet-1k names for a model of 1000 classes, or of 1001 with a leading background.

    Args:
        classes: How many classes the model has.

    Returns:
        The names in index order; None where the count is neither 1000 nor 1001.
    """
    if classes not in (IMAGENET, IMAGENET + 1):
        return None
    text = resources.files("onnxcam").joinpath("data/imagenet_1000.txt").read_text("utf-8")
    return ["background"] * (classes - IMAGENET) + text.splitlines()


def read_labels(path: str | os.PathLike[str], classes: int | None = None) -> list[str]:
    """Class names from a file: one per line, a JSON list, an index→name object, or `id2label`.

    Args:
        path: The file, in UTF-8.
        classes: How many names there must be; None takes any number.

    Raises:
        OptionError: The file cannot be read, or does not hold that many names.
    """
    try:
        text = Path(path).read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise OptionError(f"labels {path}: not a text file in UTF-8") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OptionError(f"labels {path}: {reason}") from None
    if text.lstrip()[:1] in ("[", "{"):
        try:
            held = json.loads(text)
        except ValueError as error:
            raise OptionError(f"labels {path}: not valid JSON ({error})") from None
        names = _from_json(held, f"labels {path}")
    else:
        names = [line.strip() for line in text.rstrip().splitlines()]
    if not any(names):
        raise OptionError(f"labels {path}: the file holds no names")
    if classes is not None and len(names) != classes:
        raise OptionError(
            f"labels {path}: {len(names)} names, but the model has {classes} classes;"
            " the file needs one name per class, in index order"
        )
    return names


def fits(names: Sequence[str], classes: int) -> bool:
    """Whether there are as many names as classes; a head of one unit may have two.

    Of two the first is the name of the negative decision, as generators of training data for such
    heads number them: 0 and 1, and the unit gives the probability of 1.
    """
    return len(names) == classes or (classes == 1 and len(names) == 2)


def check_count(names: Sequence[str], classes: int) -> None:
    """Refuses names that are not as many as the classes.

    Raises:
        OptionError: they are too few or too many.
    """
    if not fits(names, classes):
        held = f"{classes} classes"
        if classes == 1:
            held = "one unit: give its name, or two, that of the negative decision first"
        raise OptionError(f"{len(names)} class names were given, but the model has {held}")


def split(names: list[str] | None, classes: int) -> tuple[list[str] | None, str | None]:
    """The names of the classes, and that of the negative decision where there is one."""
    return (names[1:], names[0]) if names and len(names) > classes else (names, None)


def from_metadata(props: Mapping[str, str], classes: int | None = None) -> list[str] | None:
    """Class names out of an ONNX file's `metadata_props`, or None where it holds none.

    Read are `onnxcam.labels` (JSON) and `names` (an index→name dict, as Ultralytics writes it).

    Args:
        props: The metadata, key to text.
        classes: How many names there must be; other counts belong to something else than the
            class axis and give None, except under our own key, where they are an error.
    """
    if own := props.get("onnxcam.labels"):
        try:
            names = _from_json(json.loads(own), "metadata onnxcam.labels")
        except ValueError as error:
            raise OptionError(f"metadata onnxcam.labels: not usable ({error})") from None
        if classes is not None and not fits(names, classes):
            raise OptionError(
                f"metadata onnxcam.labels: {len(names)} names, but the model has {classes}"
                " classes; give the right ones with --labels"
            )
        return names
    try:  # Ultralytics writes Python's repr of a dict, which literal_eval reads without running it
        names = _from_json(ast.literal_eval(props.get("names", "")), "metadata names")
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None
    return names if classes is None or fits(names, classes) else None


def from_nodes(proto: Any, classes: int) -> list[str] | None:
    """Class names that a classifier of ai.onnx.ml or a ZipMap in the graph holds, or None."""
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.name == "classlabels_strings" and len(attribute.strings) == classes:
                return [text.decode("utf-8", "replace") for text in attribute.strings]
    return None


def _from_json(held: Any, where: str) -> list[str]:
    if isinstance(held, dict):
        held = held.get("id2label", held.get("labels", held.get("names", held)))
    if isinstance(held, dict):
        try:
            by_index = {int(key): name for key, name in held.items()}
        except (TypeError, ValueError):
            raise OptionError(f"{where}: the keys must be class indices, 0 and up") from None
        missing = [i for i in range(len(by_index)) if i not in by_index]
        if missing:
            raise OptionError(
                f"{where}: {len(by_index)} names, but none for index {missing[0]};"
                f" the keys must run from 0 to {len(by_index) - 1}"
            )
        held = [by_index[i] for i in range(len(by_index))]
    if not isinstance(held, list):
        raise OptionError(f"{where}: expected a list of names or an index-to-name object")
    if any(isinstance(name, (dict, list)) for name in held):
        raise OptionError(f"{where}: each class needs one plain name")
    return [str(name) for name in held]


def is_name(text: str, labels: Sequence[str] | None) -> bool:
    """Whether `text` is the full name of a class; case and `_` for a space do not matter."""
    return fold(text) in map(fold, labels or ())


def resolve_target(text: str | int, labels: Sequence[str] | None, classes: int) -> int:
    """The class index that a user means: an index, a full name, or one synonym of a name.

    Names compare without regard to case, and `_` counts as a space. A whole number is always an
    index.

    Args:
        text: `207`, `"207"`, `"golden retriever"`, or one of the names in `"tabby, tabby cat"`.
        labels: The class names in index order, where known.
        classes: How many classes the model has.

    Raises:
        TargetError: No class, or more than one, answers to `text`.
    """
    word = str(text).strip()
    try:
        index = int(word)
    except ValueError:
        return _named(word, labels, classes)
    if not 0 <= index < classes:
        held = f"{classes} classes, 0 to {classes - 1}" if classes != 1 else "one class, 0"
        raise TargetError(f"class {index} does not exist: the model has {held}")
    return index


def _named(word: str, labels: Sequence[str] | None, classes: int) -> int:
    if labels is None:
        raise TargetError(
            f"class {word!r}: the class names are not known; give an index from 0 to"
            f" {classes - 1}, or the names with --labels"
        )
    names = list(labels)[:classes]
    found = [i for i, name in enumerate(names) if fold(name) == fold(word)]
    if not found:
        found = [i for i, name in enumerate(names) if fold(word) in map(fold, name.split(","))]
    if len(found) == 1:
        return found[0]
    if found:
        rivals = ", ".join(f"{i} ({names[i]})" for i in found[:5])
        raise TargetError(f"class {word!r} is ambiguous: {rivals}; give the index")
    near = close_matches(word, [part.strip() for name in names for part in name.split(",")])
    raise TargetError(f"class {word!r} is not among the model's {classes} classes{near}")


def fold(name: str) -> str:
    """A name as names are compared: without case, `_` as a space, single spaces."""
    return " ".join(name.replace("_", " ").casefold().split())
