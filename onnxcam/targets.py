"""Which classes are asked about: from what users write to an array of class indices.

In the result −r stands for the class with the r-th highest score of each image; the explainer's
graph looks it up, so that one run suffices.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from onnxcam.errors import TargetError
from onnxcam.labels import resolve_target

Target: TypeAlias = "int | str | Sequence[int | str] | np.ndarray | None"

_TOP = re.compile(r"top\s*(\d+)", re.IGNORECASE)


def one_for_all(target: Target, names: Sequence[str] | None, classes: int) -> np.ndarray:
    """The classes asked about of any image: () for one class, (M,) for several.

    Args:
        target: None for the top class, "top5", an index, a name, or a sequence of these two.
        names: class names, where known.
        classes: number of classes.

    Raises:
        TargetError: a class does not exist.
    """
    if target is None:
        return np.array(-1, np.int64)
    if isinstance(target, str):
        top = _TOP.fullmatch(target.strip())
        if top is not None:
            number = int(top[1])
            if not 1 <= number <= classes:
                raise TargetError(
                    f"{target!r} is more than there is: the model has {classes} classes; "
                    f"write top1 to top{classes}"
                )
            ranks = -np.arange(1, number + 1, dtype=np.int64)
            return ranks if number > 1 else ranks[0]
    if isinstance(target, str | int | np.integer):
        return np.array(resolve_target(_plain(target), names, classes), np.int64)
    array = np.asarray(target, dtype=object)
    if not array.size:
        raise TargetError("no class was named; give at least one")
    found = [resolve_target(_plain(t), names, classes) for t in array.reshape(-1)]
    return np.array(found, np.int64).reshape(array.shape)


def for_each(target: Target, names: Sequence[str] | None, classes: int, images: int) -> np.ndarray:
    """The classes asked about of each of `images`: (N,) for one, (N, M) for several.

    Args:
        target: as in `one_for_all`, but a sequence gives one class for each image, (N,), or
            several, (N, M).
        names, classes: as in `one_for_all`.
        images: N.

    Raises:
        TargetError: a class does not exist, or the sequence does not fit the images.
    """
    found = one_for_all(target, names, classes)
    if target is None or isinstance(target, str | int | np.integer):
        return np.broadcast_to(found, (images, *found.shape)).copy()
    if found.ndim > 2 or len(found) != images:
        raise TargetError(
            f"classes of shape {found.shape} for {images} images: give one class for each image, "
            "or an array (images, classes)"
        )
    return found


def _plain(one: Any) -> int | str:
    if isinstance(one, bool) or not isinstance(one, str | int | np.integer):
        raise TargetError(f"a class is an index or a name, not {one!r}")
    return one if isinstance(one, str) else int(one)
