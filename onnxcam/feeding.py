"""Values for the other inputs of a model, out of files: arrays, and pictures that are prepared."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onnxcam.errors import OptionError
from onnxcam.graph.normal import channels_last
from onnxcam.graph.read import MAX_BYTES
from onnxcam.image import Preset, adapt, candidates, find_sidecar, load_preset, read_picture
from onnxcam.loading import inputs_of_model


def fed(
    model: Any,
    values: Mapping[str, Any],
    preset: Any = None,
    path: Path | None = None,
    max_bytes: int = MAX_BYTES,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """`values` with files read, and sentences that say how pictures among them were prepared.

    Args:
        model: path, bytes or message of an ONNX model.
        values: by input: an array, a number, or the path of a .npy or .npz file or of a picture.
        preset, path: how pictures become tensors, as for `given_preset`; where nothing says it, as
            is usual for an input of that shape.
        max_bytes: largest model file accepted.

    Raises:
        OnnxcamError: a file cannot be read, or does not fit the input.
    """
    files = {n: Path(v) for n, v in values.items() if isinstance(v, str | os.PathLike)}
    found, notes = dict(values), []
    inputs = inputs_of_model(model, max_bytes) if files else {}
    stated = given_preset(preset, path) if files else None
    for name, file in files.items():
        if file.suffix.lower() in (".npy", ".npz"):
            found[name] = array_in(file)
        elif name in inputs:  # a name that does not exist is said when the model is loaded
            dtype, shape = inputs[name]
            own = _fitting(name, dtype, shape, stated)
            tensor = own.tensor(read_picture(file))
            found[name] = tensor[0] if len(shape) == 3 else tensor
            notes.append(f"input {name!r} is held at {file.name}, prepared as {own.name!r}")
    return found, tuple(notes)


def given_preset(preset: Any, path: Path | None) -> Preset | None:
    """The preset asked for, by name, file, fields or itself; else that of a file beside the model.

    Raises:
        PresetError: there is no such preset.
    """
    if isinstance(preset, Mapping):
        return Preset.from_json(dict(preset), "the fields given")
    if isinstance(preset, str | os.PathLike):
        return load_preset(preset)
    if isinstance(preset, Preset):
        return preset
    return find_sidecar(path) if path is not None else None


def array_in(path: Path) -> np.ndarray:
    """The array of a .npy file, or the only one of a .npz file.

    Raises:
        OptionError: there is none, or it cannot be read.
    """
    try:
        held = np.load(path, allow_pickle=False)
        arrays = [held] if isinstance(held, np.ndarray) else [held[k] for k in held.files]
    except (OSError, ValueError, EOFError) as error:
        raise OptionError(f"{path}: no array can be read from it ({error})") from None
    if len(arrays) != 1:
        raise OptionError(f"{path} holds {len(arrays)} arrays; give a file with one")
    return np.asarray(arrays[0])


def _fitting(name: str, dtype: str, shape: list[int | None], preset: Preset | None) -> Preset:
    dims = [None, *shape] if len(shape) == 3 else shape
    if len(dims) != 4:
        raise OptionError(
            f"input {name!r} has {len(shape)} axes: it takes no picture; give an array (.npy) or "
            "a number"
        )
    last = channels_last(dims)
    channels, sides = (dims[3], dims[1:3]) if last else (dims[1], dims[2:4])
    size, layout = (sides[0], sides[1]), "NHWC" if last else "NCHW"
    if preset is None:
        return candidates(channels, size, layout, dtype)[0]
    return adapt(preset, channels, size, layout, dtype)
