"""The weights of a model: taken out of its message, and found again as arrays."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
from onnx import numpy_helper

from onnxcam.errors import ModelError

INLINE_BYTES = 1024
"""Weights up to this size stay in the graph: shapes and axes among them are read by passes."""

KEPT_OUT = {  # element types that both numpy and ONNX Runtime's Python binding know
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.DOUBLE,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.INT8,
    onnx.TensorProto.UINT8,
    onnx.TensorProto.INT32,
    onnx.TensorProto.INT64,
}
_CONSTANT_TYPES = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}
_MARK = "onnxcam:weights"

Fetch: TypeAlias = Callable[[np.dtype, tuple[int, ...]], np.ndarray | None]
"""Reads data of a type and shape from where it lies in the file; None if it does not fit."""


def detach(
    proto: onnx.ModelProto, folder: Path | None, fetch: Mapping[int, Fetch]
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Takes the large weights out of `proto`: a light message and the arrays, `proto` being spent.

    Args:
        proto: the model.
        folder: external data is read from here only, memory-mapped.
        fetch: for initializers (by position) whose data was left in the file, how to get it.

    Raises:
        ModelError: data is missing, too short, or lies outside the model's folder.
    """
    weights: dict[str, np.ndarray] = {}
    light = onnx.ModelProto()
    graph = proto.graph
    kept: list[onnx.TensorProto] = []
    for i, tensor in enumerate(graph.initializer):
        array = None
        if i in fetch:
            array = _fetched(tensor, fetch[i])
        elif tensor.data_location == onnx.TensorProto.EXTERNAL:
            array = _mapped(tensor, folder)
        elif tensor.data_type in KEPT_OUT and _count(tensor) * 8 > INLINE_BYTES:
            array = _to_array(tensor)
        if array is None:
            kept.append(tensor)
        elif array.nbytes > INLINE_BYTES and tensor.data_type in KEPT_OUT:
            weights[tensor.name] = array
            kept.append(external(tensor.name, array))
        else:
            kept.append(numpy_helper.from_array(np.array(array), tensor.name))
    # A field cleared in a protobuf arena keeps its memory: build a new message and drop the old.
    kept = [onnx.TensorProto.FromString(t.SerializeToString()) for t in kept]
    del graph.initializer[:]
    light.ParseFromString(proto.SerializeToString())
    light.graph.initializer.extend(kept)
    constants_to_initializers(light.graph, weights)
    return light, weights


def _count(tensor: onnx.TensorProto) -> int:
    return int(np.prod(tensor.dims, dtype=np.float64)) if tensor.dims else 1


def _fetched(tensor: onnx.TensorProto, fetch: Fetch) -> np.ndarray:
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        array = fetch(dtype, tuple(tensor.dims))
    except (KeyError, TypeError, ValueError):
        array = None
    if array is None:
        raise _damaged(tensor)
    return array


def _damaged(tensor: onnx.TensorProto) -> ModelError:
    return ModelError(
        f"weight {tensor.name!r} is damaged: its data does not fill the shape "
        f"{tuple(tensor.dims)}; the file may be cut short, export or download it again"
    )


def constants_to_initializers(graph: onnx.GraphProto, weights: dict[str, np.ndarray]) -> None:
    """Turns Constant nodes into initializers, so that there is one form of a constant."""
    nodes = []
    for node in graph.node:
        given = node.attribute[0] if node.op_type == "Constant" and node.attribute else None
        value = onnx.helper.get_attribute_value(given) if given is not None else None
        if isinstance(value, onnx.TensorProto) and value.data_type in KEPT_OUT:
            array = _to_array(value)
        elif isinstance(value, onnx.TensorProto):
            graph.initializer.add().CopyFrom(value)
            graph.initializer[-1].name = node.output[0]
            continue
        elif given is not None and given.name in _CONSTANT_TYPES:
            array = np.array(value, _CONSTANT_TYPES[given.name])
        else:
            nodes.append(node)
            continue
        name = node.output[0]
        if array.nbytes > INLINE_BYTES:
            weights[name] = array
            graph.initializer.append(external(name, array))
        else:
            graph.initializer.append(numpy_helper.from_array(array, name))
    kept = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def external(name: str, array: np.ndarray) -> onnx.TensorProto:
    """A tensor message for `array` that says that its data is elsewhere."""
    tensor = onnx.TensorProto(
        name=name,
        dims=array.shape,
        data_type=onnx.helper.np_dtype_to_tensor_dtype(array.dtype),
        data_location=onnx.TensorProto.EXTERNAL,
    )
    tensor.external_data.add(key="location", value=_MARK)
    return tensor


def fill(tensor: onnx.TensorProto, array: np.ndarray) -> None:
    """Puts the data of `array` into its message."""
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    tensor.raw_data = np.ascontiguousarray(array).tobytes()


def _to_array(tensor: onnx.TensorProto) -> np.ndarray:
    try:
        array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise _damaged(tensor) from error
    return np.asarray(array)


def _mapped(tensor: onnx.TensorProto, folder: Path | None) -> np.ndarray:
    entries = {e.key: e.value for e in tensor.external_data}
    location = entries.get("location", "")
    where = f"weight {tensor.name!r} is kept in {location[:200]!r}"
    if folder is None:
        raise ModelError(f"{where}, but the model came from memory; give the model as a path")
    try:
        path = folder / location
        inside = os.path.realpath(path).startswith(os.path.realpath(folder) + os.sep)
        size = path.stat().st_size if inside and path.is_file() else None
    except (OSError, ValueError) as error:  # a name that no file can have
        raise ModelError(f"{where}, which no file can be called; the model is damaged") from error
    if not location or os.path.isabs(location) or not inside:
        raise ModelError(f"{where}, outside the model's folder; refused for safety, move the file")
    if size is None:
        raise ModelError(f"{where}, which is missing; put that file beside the model")
    shape = tuple(tensor.dims)
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        offset = int(entries.get("offset", 0) or 0)
        if offset < 0 or offset + _count(tensor) * dtype.itemsize > size:
            raise ValueError("too short")
        if not _count(tensor):
            return np.empty(shape, dtype)
        return np.memmap(path, dtype, mode="r", offset=offset, shape=shape)
    except (KeyError, ValueError, OSError) as error:
        raise ModelError(
            f"{where}, which is too short for the shape {shape}; "
            "the file may be cut short, export or download it again"
        ) from error
