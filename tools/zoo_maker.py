"""What the makers of the zoo share: groups, pictures, the files that a made model consists of.

A maker is a module `zoo_FRAMEWORK.py` that runs in an environment of its own: it imports its
framework, numpy and, if it must, onnx, and nothing of onnxcam. All have the same command line:

    python tools/zoo_keras.py list
    python tools/zoo_keras.py make Xception FOLDER [EXPORTER-OPSET ...]

`list` prints the groups as JSON: a group is one architecture with the exports asked for. `make`
builds the model once, with seeded random weights, and writes into the folder

    reference.npz   x, logits, out, target and, where the framework differentiates, A, dA, dx
    NAME.onnx       one file for each export, NAME being EXPORTER-OPSET
    made.json       framework, layer, and for each export its file or the reason why there is none
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
COUNT = 3  # pictures in a reference
ONE_FILE = 1_900_000_000  # bytes; a protobuf message ends at 2 GiB


@dataclass(frozen=True)
class Group:
    """One architecture, and the exports of it that are asked for."""

    family: str
    model: str
    exports: tuple[tuple[str, int], ...]  # (exporter, opset)
    layer: str  # the feature map that an expert would name


@dataclass(frozen=True)
class Made:
    """A model that was built: what it answers, and how it is written.

    Attributes:
        framework: Names and releases of what built it.
        layer: The feature map that `A` holds, in the framework's words.
        reference: Arrays by name. `x` is as the ONNX file takes it, `logits` (N, classes) come
            before a softmax, `target` (N,) is each picture's class, `A` (N, K, h, w) the feature
            map; `dA` and `dx` are the derivatives of the target's logit, shaped like `A` and `x`.
        write: Writes one export to a path: `write(exporter, opset, path)`.
    """

    framework: str
    layer: str
    reference: Mapping[str, Array]
    write: Callable[[str, int, Path], None]


def generator(name: str) -> np.random.Generator:
    """Random numbers that are the same for the same name."""
    return np.random.default_rng(zlib.crc32(name.encode()))


def images(random: np.random.Generator, count: int, side: int) -> Array:
    """Random pictures (count, side, side, 3): patches of colour under fine grain, calm to loud.

    Values are centred on 0 with a deviation of about 1, as after the usual preparation.
    """
    blend = _blend(7, side)
    patches: Array = random.normal(size=(count, 7, 7, 3))
    patches = np.einsum("yi,xj,nijc->nyxc", blend, blend, patches)
    patches *= np.linspace(0.4, 2, count)[:, None, None, None]
    grain = np.linspace(1, 0.3, count)[:, None, None, None]
    patches += grain * random.normal(size=patches.shape)
    return patches


def _blend(few: int, many: int) -> Array:
    """A (many, few) matrix that interpolates smoothly."""
    at = np.linspace(0, few - 1, many)
    low = np.minimum(at.astype(int), few - 2)
    part = (1 - np.cos(np.pi * (at - low))) / 2
    blend = np.zeros((many, few))
    blend[np.arange(many), low] = 1 - part
    blend[np.arange(many), low + 1] += part
    return blend


def bytes_of(pictures: Array) -> Array:
    """The same pictures as whole grey values from 0 to 255, in floats."""
    return np.clip(np.round(pictures * 55 + 118), 0, 255)


def centred(kernel: Array, inputs: Array) -> Array:
    """The kernel (inputs, classes) of a last layer, blind to what all the pictures have in common.

    The means of hundreds of random units are much the same for every picture, and so would be the
    class; a bias against it would leave the classes without evidence of their own.

    Args:
        kernel: Random weights.
        inputs: What the layer gets for some pictures: (N, inputs).
    """
    mean = inputs.mean(0).astype(np.float64)
    kernel = kernel - np.outer(mean, mean @ kernel) / (mean @ mean)
    return np.asarray(kernel * 2 / (inputs @ kernel).std())


def softmax(logits: Array) -> Array:
    """Shares of one along the last axis."""
    shares: Array = np.exp(logits - logits.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    return shares


def save(model: Any, path: Path) -> None:
    """Writes an `onnx.ModelProto`, with its weights in a file beside it where it is too large."""
    import onnx

    beside: dict[str, Any] = {}
    if model.ByteSize() > ONE_FILE:
        beside = {"save_as_external_data": True, "location": path.name + ".data"}
    onnx.save(model, str(path), **beside)


def make(made: Made, folder: Path, exports: Sequence[tuple[str, int]]) -> bool:
    """Writes reference, exports and `made.json`; whether any export worked."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        name: np.asarray(value, np.float32) if value.dtype == np.float64 else np.asarray(value)
        for name, value in made.reference.items()
    }
    np.savez(folder / "reference.npz", **arrays)  # type: ignore[arg-type]
    rows: list[dict[str, Any]] = []
    for exporter, opset in exports:
        name = f"{exporter}-{opset}.onnx"
        row: dict[str, Any] = {"exporter": exporter, "opset": opset}
        try:
            with warnings.catch_warnings(action="ignore"):
                made.write(exporter, opset, folder / name)
            row["file"] = name
        except Exception as error:  # whatever an exporter raises is what the row says
            (folder / name).unlink(missing_ok=True)
            row["error"] = one_line(error)
        rows.append(row)
        facts = {"framework": made.framework, "layer": made.layer, "exports": rows}
        (folder / "made.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        print(f"{exporter}-{opset}: {row.get('file') or 'error: ' + row['error']}", flush=True)
    return any("file" in row for row in rows)


def one_line(error: BaseException) -> str:
    """What an exception says, in one line of at most 300 characters."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300]


def run(
    groups: Sequence[Group],
    build: Callable[[Group], Made],
    about: str,
    arguments: Sequence[str] | None = None,
) -> int:
    """The command line of a maker; its exit code.

    Args:
        groups: All that the maker can make.
        build: Builds the model of a group and computes its reference.
        about: What is made, for `--help`.
        arguments: The words of the command line; `sys.argv` if None.
    """
    parser = argparse.ArgumentParser(description=about)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="print the groups as JSON")
    one = commands.add_parser("make", help="build one model and write it")
    one.add_argument("model", metavar="MODEL", choices=[group.model for group in groups])
    one.add_argument("folder", metavar="FOLDER", type=Path)
    one.add_argument("exports", metavar="EXPORTER-OPSET", nargs="*", type=_export)
    given = parser.parse_args(arguments)
    if given.command == "list":
        print(json.dumps([vars(group) for group in groups]))
        return 0
    group = next(group for group in groups if group.model == given.model)
    return 0 if make(build(group), given.folder, given.exports or group.exports) else 1


def _export(text: str) -> tuple[str, int]:
    """`tf2onnx-15` → ("tf2onnx", 15)."""
    exporter, _, opset = text.rpartition("-")
    if not exporter or not opset.isdigit():
        raise argparse.ArgumentTypeError(f"not EXPORTER-OPSET, as in tf2onnx-15: {text!r}")
    return exporter, int(opset)


if __name__ == "__main__":
    sys.exit("this module is shared by the makers: run one of tools/zoo_*.py")
