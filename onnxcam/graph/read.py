"""From a file to a `Model`: what is no ONNX model, or not a safe one, is said here."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import inliner

from onnxcam.errors import ModelError
from onnxcam.graph.model import Model, detach

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
    folder = None
    if isinstance(source, onnx.ModelProto):
        proto, name = onnx.ModelProto(), "the model"
        proto.CopyFrom(source)
    elif isinstance(source, bytes):
        proto, name = _parse(source, "the model"), "the model"
    else:
        path = Path(source)
        proto, name, folder = _parse(_content(path, max_bytes), str(path)), str(path), path.parent
    if not proto.graph.node:
        raise ModelError(f"{name} holds no graph: it is empty, damaged, or no ONNX model")
    if not any(o.domain in ("", "ai.onnx") for o in proto.opset_import):
        version = 1 if proto.ir_version < 3 else onnx.defs.onnx_opset_version()
        proto.opset_import.add(domain="", version=version)
    model = detach(proto, folder)
    del proto
    constants = {t.name for t in model.proto.graph.initializer}
    inputs = [i for i in model.proto.graph.input if i.name not in constants]
    del model.proto.graph.input[:]  # weights that are also listed as inputs: IR 3 wanted it so
    model.proto.graph.input.extend(inputs)
    model.proto.ir_version = max(model.proto.ir_version, 4)
    if model.proto.functions:
        model = Model(inliner.inline_local_functions(model.proto), model.weights)
    return model


def _content(path: Path, max_bytes: int) -> bytes:
    if path.is_dir():
        raise ModelError(f"{path} is a folder; give the .onnx file inside it")
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise ModelError(
                f"{path} has {size:,} bytes, more than the limit of {max_bytes:,}; "
                "raise it with --max-model-bytes if the file is to be trusted"
            )
        content = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"there is no file {path}; check the path") from None
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    if not content:
        raise ModelError(f"{path} is empty; export or download the model again")
    return content


def _parse(content: bytes, name: str) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except DecodeError:
        for offset, magic, what in _OTHERS:
            if content[offset : offset + len(magic)] == magic:
                raise ModelError(f"{name} is no ONNX model but {what}; export it to ONNX") from None
        raise ModelError(
            f"{name} is no ONNX model, or is cut short or damaged; export or download it again"
        ) from None
    return proto
