"""What entries are kept under: digests of all that they were made of."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxcam import __version__, runtime
from onnxcam.cache.store import Store
from onnxcam.explainer import Recipe
from onnxcam.graph import Model

_JUST_NOW = 2.0
"""Seconds within which a file can change again without its times saying so."""

_MAKERS = ("ablate", "cache", "diff", "explainer", "graph", "loading.py", "methods", "perturb")
"""The parts of the package that what is kept depends on."""


def address(*facts: Any) -> str:
    """The digest of facts: numbers, texts, lists and mappings of them, and arrays.

    Raises:
        TypeError: a fact is of another kind.
    """
    return _digest([json.dumps([_told(fact) for fact in facts], sort_keys=True).encode()])


def recipe_facts(what: Recipe) -> dict[str, Any]:
    """All that a recipe says; its method by name."""
    plain = {name: getattr(what, name) for name in what.__dataclass_fields__}
    layer = None if what.layer is None else asdict(what.layer)
    return {**plain, "method": what.method.name, "layer": layer}


def address_of_model(model: Model, path: Path | None, store: Store, started: float) -> str:
    """The digest of a model as it was read: of its graph and all of its weights.

    A file of hundreds of megabytes takes as long to digest as to read. So `store` keeps the digest
    of weights by what the system says of the files that hold them; a file that was changed has
    another size or time, and the graph is looked at every time.

    Args:
        model: what was read.
        path: of its file; None: it came from memory.
        started: when reading began, by the clock of the system.
    """
    files = _stamped(model, path)
    known = None if files is None else address("weights of files", files)
    held = None if known is None else store.get(known)
    weights = held.decode() if held is not None else _of_weights(model.weights)
    if files and known and held is None:
        latest = max(time for *_, modified, changed in files for time in (modified, changed))
        if latest / 1e9 < started - _JUST_NOW:
            store.put(known, weights.encode())
    graph = model.proto.SerializeToString(deterministic=True)
    return address("model", _digest([graph]), weights, versions())


@functools.cache
def versions() -> tuple[str, ...]:
    """The versions of what makes entries; of onnxcam also the text of its sources.

    In a checkout these change without the version, and entries of other sources are stale.
    """
    package = Path(__file__).parent.parent
    texts: list[bytes] = []
    for part in _MAKERS:
        for file in sorted([package / part, *(package / part).rglob("*.py")]):
            if file.is_file():
                texts += [file.relative_to(package).as_posix().encode(), file.read_bytes()]
    modules = (np, onnx, gs)
    return (__version__, _digest(texts), runtime.VERSION, *(m.__version__ for m in modules))


def _stamped(model: Model, path: Path | None) -> list[list[Any]] | None:
    """Name, place, size and times of each file that the weights come from."""
    if path is None:
        return None
    outside = {str(w.filename) for w in model.weights.values() if isinstance(w, np.memmap)}
    found: list[list[Any]] = []
    try:
        for file in sorted({os.path.realpath(name) for name in (str(path), *outside)}):
            about = os.stat(file)
            place = [about.st_dev, about.st_ino, about.st_size]
            found.append([file, *place, about.st_mtime_ns, about.st_ctime_ns])
    except OSError:
        return None
    return found


def _of_weights(weights: Mapping[str, np.ndarray]) -> str:
    parts: list[Any] = []
    for name, array in sorted(weights.items()):
        parts += [f"{name}\0{array.dtype.str}{array.shape}".encode(), _bytes(array)]
    return _digest(parts)


def _bytes(array: np.ndarray) -> Any:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _digest(parts: list[Any]) -> str:
    made = hashlib.blake2b(digest_size=32)
    for part in parts:
        made.update(len(part).to_bytes(8, "little"))  # so that parts cannot run into each other
        made.update(part)
    return made.hexdigest()


def _told(fact: Any) -> Any:
    """A fact as JSON that no other fact has."""
    if fact is None or isinstance(fact, bool | int | float | str):
        return fact
    if isinstance(fact, np.ndarray | np.generic):
        array = np.asarray(fact)
        if array.dtype.hasobject:
            raise TypeError(f"an array of {array.dtype} has no address")
        return {"array": [array.dtype.str, list(array.shape), _digest([_bytes(array)])]}
    if isinstance(fact, list | tuple):
        return [_told(one) for one in fact]
    if isinstance(fact, Mapping):
        return {"mapping": sorted([str(key), _told(value)] for key, value in fact.items())}
    raise TypeError(f"{type(fact).__name__} has no address")
