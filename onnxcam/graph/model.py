"""The container that every stage passes on: a light graph, and its weights beside it.

An ONNX file mixes a few kilobytes of graph with hundreds of megabytes of weights. Every pass over
the file (shape inference, checks, export, a session) would copy all of them. So large weights
leave the graph once, when it is read, and stand in it as external tensors; `Model.weights` holds
the arrays, shared by all models made from one file, and ONNX Runtime takes them without a copy.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER

from onnxcam.errors import ModelError, OpError
from onnxcam.graph.weights import INLINE_BYTES, KEPT_OUT, external, fill

G_LOGGER.severity = G_LOGGER.CRITICAL + 1  # it prints; what matters comes as exceptions

_PROTO_LIMIT = 2**31 - 2**20


@dataclass
class Model:
    """An ONNX model whose large weights stand beside the graph.

    Attributes:
        proto: the graph; large initializers are external tensors without data.
        weights: their arrays, by initializer name.
    """

    proto: onnx.ModelProto
    weights: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def opset(self) -> int:
        """Version of the standard operator set that the graph uses."""
        return next((o.version for o in self.proto.opset_import if o.domain in ("", "ai.onnx")), 1)

    @property
    def metadata(self) -> dict[str, str]:
        """The `metadata_props` of the model."""
        return {p.key: p.value for p in self.proto.metadata_props}

    @property
    def file_bytes(self) -> int:
        """The size of the model as a file, its weights included."""
        return int(self.proto.ByteSize()) + sum(w.nbytes for w in self.weights.values())

    def complete(self) -> onnx.ModelProto:
        """The whole model in one message, weights inside.

        Raises:
            ModelError: it would pass the 2 GiB that protobuf can hold; `save` it instead.
        """
        if sum(w.nbytes for w in self.weights.values()) > _PROTO_LIMIT:
            raise ModelError(
                "the model is larger than 2 GiB and does not fit one protobuf message; "
                "save it to a file, its weights then go into a second file beside it"
            )
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        for tensor in proto.graph.initializer:
            if tensor.name in self.weights:
                fill(tensor, self.weights[tensor.name])
        return proto

    def unnoted(self) -> bytes:
        """The graph without the shapes noted in it, serialised, for a session.

        "N" stands for the images and for copies of them as well, and ONNX Runtime takes one name
        for one size: it lets tensors share memory by it.
        """
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        del proto.graph.value_info[:]
        light: bytes = proto.SerializeToString()
        return light

    def files(self, name: str) -> dict[str, bytes]:
        """What has to be written to keep the model: file name → content.

        One file, or, beyond 2 GiB, `name` and `name.data` with the weights (ONNX external data).
        """
        if sum(w.nbytes for w in self.weights.values()) <= _PROTO_LIMIT:
            return {name: self.complete().SerializeToString()}
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        data = bytearray()
        for tensor in proto.graph.initializer:
            if tensor.name not in self.weights:
                continue
            raw = np.ascontiguousarray(self.weights[tensor.name]).tobytes()
            data.extend(b"\0" * (-len(data) % 4096))
            entries = {"location": f"{name}.data", "offset": len(data), "length": len(raw)}
            del tensor.external_data[:]
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=str(value))
            data.extend(raw)
        return {f"{name}.data": bytes(data), name: proto.SerializeToString()}


class Weight(gs.ir.tensor.LazyValues):
    """A constant of a graph whose array lives in `Model.weights`, never in the graph."""

    def __init__(self, array: np.ndarray) -> None:
        """Wraps `array`; nothing is copied."""
        self.array = array
        self.tensor = external("", array)
        super().__init__(self.tensor)

    def load(self) -> np.ndarray:
        """The array."""
        return self.array


def constant(name: str, array: np.ndarray) -> gs.Constant:
    """A graph constant for `array`, kept beside the graph if it is large."""
    data_type = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    large = array.nbytes > INLINE_BYTES and data_type in KEPT_OUT
    return gs.Constant(name, Weight(array) if large else np.asarray(array, order="C"))


def array_of(tensor: gs.Tensor) -> np.ndarray | None:
    """The array of a constant, or None if `tensor` is not constant.

    Unlike `Constant.values` it leaves a large weight outside the graph.
    """
    if not isinstance(tensor, gs.Constant):
        return None
    values = tensor._values
    array: np.ndarray = values.load() if isinstance(values, gs.ir.tensor.LazyValues) else values
    return array


def to_graph(model: Model) -> gs.Graph:
    """The editable graph of `model`."""
    graph = gs.import_onnx(model.proto)
    for part in (graph, *graph.subgraphs(recursive=True)):
        for name, tensor in part.tensors().items():
            if not isinstance(tensor, gs.Constant):
                continue
            if name in model.weights:
                tensor._values = Weight(model.weights[name])
            elif not isinstance(tensor._values, gs.ir.tensor.SparseValues):
                tensor.values  # noqa: B018  small: load it now, free of the message
            tensor.data_location = None
    return graph


def to_model(graph: gs.Graph, like: Model) -> Model:
    """The model of `graph`, with the metadata of `like` and at least its IR version.

    Raises:
        ModelError: the graph that came out is not valid ONNX.
    """
    weights = {
        name: tensor._values.array
        for part in (graph, *graph.subgraphs(recursive=True))
        for name, tensor in part.tensors().items()
        if isinstance(tensor, gs.Constant) and isinstance(tensor._values, Weight)
    }
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Variable) and tensor.dtype is None:
            tensor.shape = None  # a shape without a type cannot be written down
    used = {node.domain or "" for node in _all_nodes(graph)} | {""}
    graph.import_domains = [
        o for o in graph.import_domains or () if ("" if o.domain == "ai.onnx" else o.domain) in used
    ]
    graph.name = graph.name or "model"
    proto = gs.export_onnx(graph, do_type_check=False)
    _outside(proto.graph, weights)
    # Initializers are no graph inputs from IR 4 on; opset 18 wants IR 8.
    proto.ir_version = max(
        like.proto.ir_version,
        onnx.helper.find_min_ir_version_for(proto.opset_import, ignore_unknown=True),
        4,
    )
    proto.producer_name, proto.producer_version = "onnxcam", ""
    proto.metadata_props.extend(like.proto.metadata_props)
    model = Model(proto, weights)
    check(model)
    return model


def _outside(graph: onnx.GraphProto, weights: dict[str, np.ndarray]) -> None:
    """Makes external tensors of `weights`, all in the outermost graph: subgraphs see them there."""
    _without(graph, weights)
    graph.initializer.extend(external(name, array) for name, array in weights.items())


def _without(graph: onnx.GraphProto, names: Container[str]) -> None:
    kept = [t for t in graph.initializer if t.name not in names]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for attribute in (a for node in graph.node for a in node.attribute):
        for inner in (attribute.g, *attribute.graphs):
            if inner.node or inner.initializer:
                _without(inner, names)


def check(model: Model) -> None:
    """Runs onnx.checker on the graph, weights standing in as inputs of the same type.

    Raises:
        ModelError: the checker's finding.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    light = [t for t in proto.graph.initializer if t.name not in model.weights]
    for tensor in proto.graph.initializer:
        if tensor.name in model.weights:
            proto.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(light)
    for info in (*proto.graph.input, *proto.graph.output):
        kind = info.type.tensor_type  # an unknown rank or type on the way is no fault
        kind.shape.SetInParent()
        kind.elem_type = kind.elem_type or onnx.TensorProto.FLOAT
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        text = " ".join(str(error).split())
        kind = OpError if "No Op registered" in text else ModelError
        raise kind(f"not a valid ONNX graph: {text}") from error


def _all_nodes(graph: gs.Graph) -> list[gs.Node]:
    return [*graph.nodes, *(n for sub in graph.subgraphs(recursive=True) for n in sub.nodes)]
