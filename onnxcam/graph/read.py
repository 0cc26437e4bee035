"""From a file to a `Model`: what is no ONNX model, or not a safe one, is said here."""

from __future__ import annotations

import mmap
import os
import stat
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import inliner

from onnxcam.errors import ModelError
from onnxcam.graph.model import Model
from onnxcam.graph.weights import INLINE_BYTES, Fetch, constants_to_initializers, detach
from onnxcam.graph.wire import Malformed, Span, skim

MAX_BYTES = 8 << 30
"""Largest model file that is read unless the caller allows more."""

_OTHERS = (  # (offset, magic, what it is)
    (0, b"PK\x03\x04", "a zip archive: a PyTorch checkpoint or a Keras model"),
    (0, b"\x89HDF", "an HDF5 file: a Keras model or weights"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (4, b"ORTM", "a model in ONNX Runtime's own .ort format"),
    (0, b"\x89PNG", "a PNG picture"),
    (0, b"\xff\xd8\xff", "a JPEG picture"),
    (0, b"{", "a JSON file"),
    (0, b"version https://git-lfs", "a Git LFS pointer; run 'git lfs pull' first"),
)


def read_model(
    source: str | os.PathLike[str] | bytes | onnx.ModelProto, max_bytes: int = MAX_BYTES
) -> Model:
    """Reads an ONNX model; its functions are inlined, its weights stand beside the graph.

    Args:
        source: path of an .onnx file, its bytes, or a message (left as it is).
        max_bytes: largest file accepted.

    Raises:
        ModelError: not a file, not ONNX, damaged, too large, or with weights that are missing.
    """
    folder: Path | None = None
    fetch: dict[int, Fetch] = {}
    if isinstance(source, onnx.ModelProto):
        proto, name = onnx.ModelProto(), "the model"
        proto.CopyFrom(source)
    elif isinstance(source, bytes):
        name = "the model"
        proto, fetch = _parse(memoryview(source), name, None)
    else:
        path = Path(source)
        name, folder = str(path), path.parent
        proto, fetch = _read_file(path, max_bytes)
    if not proto.graph.node:
        raise ModelError(f"{name} holds no graph: it is empty, damaged, or no ONNX model")
    _import_each_once(proto)
    if not any(o.domain in ("", "ai.onnx") for o in proto.opset_import):
        version = 1 if proto.ir_version < 3 else onnx.defs.onnx_opset_version()
        proto.opset_import.add(domain="", version=version)
    model = Model(*detach(proto, folder, fetch))
    del proto
    constants = {t.name for t in model.proto.graph.initializer}
    inputs = [i for i in model.proto.graph.input if i.name not in constants]
    del model.proto.graph.input[:]  # weights that are also listed as inputs: IR 3 wanted it so
    model.proto.graph.input.extend(inputs)
    model.proto.ir_version = max(model.proto.ir_version, 4)
    if model.proto.functions:
        model = Model(inliner.inline_local_functions(model.proto), model.weights)
        constants_to_initializers(model.proto.graph, model.weights)  # those of the functions
    return model


def _import_each_once(proto: onnx.ModelProto) -> None:
    """Leaves one entry for each domain, and one version for those of the model's own functions.

    `onnx.compose.merge_models` writes domains twice, and a converter raises the first alone.
    jax2onnx gives the functions' domains one version in the model and another in the functions
    that call them, which are then not inlined.
    """
    found: dict[str, int] = {}
    for entry in proto.opset_import:
        found.setdefault("" if entry.domain == "ai.onnx" else entry.domain, entry.version)
    for function in proto.functions:
        found.setdefault(function.domain, 1)
    del proto.opset_import[:]
    proto.opset_import.extend(onnx.helper.make_opsetid(*entry) for entry in found.items())
    own = {function.domain for function in proto.functions}
    for entry in [o for function in proto.functions for o in function.opset_import]:
        if entry.domain in own:
            entry.version = found[entry.domain]


def _read_file(path: Path, max_bytes: int) -> tuple[onnx.ModelProto, dict[int, Fetch]]:
    try:
        if path.is_dir():
            raise ModelError(f"{path} is a folder; give the .onnx file inside it")
        size = path.stat().st_size
        if size > max_bytes:
            raise ModelError(
                f"{path} has {size:,} bytes, more than the limit of {max_bytes:,}; "
                "raise it with --max-model-bytes if the file is to be trusted"
            )
        if not size:
            raise ModelError(f"{path} is empty; export or download the model again")
        with path.open("rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise ModelError(f"{path} is a device, not a file; give an .onnx file")
            with (
                mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
                memoryview(mapped) as view,
            ):
                return _parse(view, str(path), path)
    except FileNotFoundError:
        raise ModelError(f"there is no file {path}; check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"cannot read {str(path)[:200]!r}: {reason}") from error


def _parse(
    buffer: memoryview, name: str, path: Path | None
) -> tuple[onnx.ModelProto, dict[int, Fetch]]:
    proto = onnx.ModelProto()
    try:
        light, spans = skim(buffer, INLINE_BYTES)
        proto.ParseFromString(light)
    except (Malformed, DecodeError):
        for offset, magic, what in _OTHERS:
            if bytes(buffer[offset : offset + len(magic)]) == magic:
                raise ModelError(f"{name} is no ONNX model but {what}; export it to ONNX") from None
        raise ModelError(
            f"{name} is no ONNX model, or is cut short or damaged; export or download it again"
        ) from None
    held = None if path is not None else bytes(buffer)
    return proto, {i: partial(_data, path, held, span) for i, span in spans.items()}


def _data(
    path: Path | None, held: bytes | None, span: Span, dtype: np.dtype, shape: tuple[int, ...]
) -> np.ndarray | None:
    """The array of a span: read from the file, or a copy of what is held in memory."""
    count = int(np.prod(shape, dtype=np.float64))
    if count * dtype.itemsize != span.length:
        return None
    if held is not None:
        return np.frombuffer(held, dtype, count, span.start).reshape(shape).copy()
    assert path is not None
    array = np.empty(shape, dtype)
    with path.open("rb") as stream:
        stream.seek(span.start)
        if stream.readinto(array.reshape(-1).view(np.uint8).data) != span.length:
            return None
    return array
