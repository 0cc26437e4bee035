"""Which decisions are asked about: from what users write to an array of codes.

A code is one whole number, as the explainer's graph takes it, C being the number of classes:

    k         the class k, from 0 on
    −r        the class with the r-th highest score of each image, which the graph looks up
    C + k     the negative decision, that it is not k
    −C − r    that it is not the r-th best

The score of a negative decision is −y for a logit, and 1 − p for a probability.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from onnxcam.errors import TargetError
from onnxcam.labels import is_name, resolve_target

Target: TypeAlias = "int | str | Sequence[int | str] | np.ndarray | None"

_NOT = re.compile(r"\s*not\s*:\s*(.*)", re.IGNORECASE | re.DOTALL)
_TOP = re.compile(r"\s*(not\s*:\s*)?top\s*(\d+)\s*", re.IGNORECASE)


def negative(codes: np.ndarray, classes: int) -> np.ndarray:
    """Which codes ask about negative decisions."""
    return np.asarray((codes >= classes) | (codes < -classes))


def coded(target: np.ndarray, negated: np.ndarray, classes: int) -> np.ndarray:
    """The codes of class indices, some of them negated."""
    return np.asarray(target + classes * negated)


def signed(scores: np.ndarray, negated: np.ndarray, kind: str) -> np.ndarray:
    """The scores of decisions, from those of their classes; `kind`: "logit" or "probability"."""
    return np.where(negated, (1 if kind == "probability" else 0) - scores, scores)


def is_top(text: str) -> bool:
    """Whether a target is "top5" or "not:top5", which stands alone."""
    return _TOP.fullmatch(text) is not None


def one_for_all(
    target: Target, names: Sequence[str] | None, classes: int, opposite: str | None = None
) -> np.ndarray:
    """The codes of what is asked about any image: () for one decision, (M,) for several.

    Args:
        target: None for the top class, "top5", an index, a name, or a sequence of these two;
            "not:" before any of them (not None) asks about the negative decision. A name that
            begins with it itself goes before.
        names: class names, where known.
        classes: number of classes.
        opposite: of a head of one unit, the name of the negative decision, where it has one.

    Raises:
        TargetError: a class does not exist.
    """
    if target is None:
        return np.array(-1, np.int64)
    top = _TOP.fullmatch(target) if isinstance(target, str) else None
    if top is not None and not is_name(top.string, names):
        number = int(top[2])
        if not 1 <= number <= classes:
            held = "one class; write top1" if classes == 1 else (
                f"{classes} classes; write top1 to top{classes}"
            )  # fmt: skip
            raise TargetError(f"{target!r} is more than there is: the model has {held}")
        ranks = -np.arange(1, number + 1, dtype=np.int64) - (classes if top[1] else 0)
        return ranks if number > 1 else ranks[0]
    if isinstance(target, str | int | np.integer):
        return np.array(_code(target, names, classes, opposite), np.int64)
    array = np.asarray(target, dtype=object)
    if not array.size:
        raise TargetError("no class was named; give at least one")
    found = [_code(t, names, classes, opposite) for t in array.reshape(-1)]
    return np.array(found, np.int64).reshape(array.shape)


def for_each(
    target: Target,
    names: Sequence[str] | None,
    classes: int,
    images: int,
    opposite: str | None = None,
) -> np.ndarray:
    """The codes of what is asked about each of `images`: (N,) for one, (N, M) for several.

    Args:
        target: as in `one_for_all`, but a sequence gives one decision for each image, (N,), or
            several, (N, M).
        names, classes, opposite: as in `one_for_all`.
        images: N.

    Raises:
        TargetError: a class does not exist, or the sequence does not fit the images.
    """
    found = one_for_all(target, names, classes, opposite)
    if target is None or isinstance(target, str | int | np.integer):
        return np.broadcast_to(found, (images, *found.shape)).copy()
    if found.ndim > 2 or len(found) != images:
        raise TargetError(
            f"classes of shape {found.shape} for {images} images: give one class for each image, "
            "or an array (images, classes)"
        )
    return found


def _code(one: Any, names: Sequence[str] | None, classes: int, opposite: str | None) -> int:
    if isinstance(one, bool) or not isinstance(one, str | int | np.integer):
        raise TargetError(f"a class is an index or a name, not {one!r}")
    if not isinstance(one, str):
        return resolve_target(int(one), names, classes)
    denied = None if is_name(one, names) else _NOT.fullmatch(one)
    code = _positive(denied[1] if denied else one, names, classes, opposite)
    return (code + classes) % (2 * classes) if denied else code


def _positive(word: str, names: Sequence[str] | None, classes: int, opposite: str | None) -> int:
    """The code of what carries no "not:"; the name of a negative decision is one itself."""
    if opposite is not None and is_name(word, [opposite]) and not is_name(word, names):
        return classes
    return resolve_target(word, names, classes)
