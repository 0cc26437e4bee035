"""Operators that stand for several others: written out, so that the rules of those apply.

The ONNX standard defines many operators by a function body; quantised operators are their plain
form between a DequantizeLinear and a QuantizeLinear. The walk keeps the operator itself for the
values and differentiates the body written beside it; what of the body is not needed falls away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from onnxcam.diff.recurrent import recurrent
from onnxcam.diff.vjp.quantised import column
from onnxcam.diff.vjp.table import known
from onnxcam.errors import OpError
from onnxcam.graph.emit import Emitter
from onnxcam.graph.fold import MOST_BYTES
from onnxcam.graph.model import Model, array_of, constant
from onnxcam.graph.quantised import QUANTISERS
from onnxcam.graph.shapes import bound, marked, static_shapes

Body = Callable[[Emitter, gs.Node], list[gs.Tensor]]


def written_out(e: Emitter, node: gs.Node) -> list[gs.Tensor] | None:
    """The outputs of `node` made by its body, in plain operators; None where it has no body.

    The new nodes stand at the end of the graph, shapes annotated.
    """
    start = len(e.graph.nodes)
    own = BODIES.get((node.domain or "", node.op))
    outputs = own(e, node) if own is not None else _standard(e, node)
    _settle(e, start)
    return outputs


def _standard(e: Emitter, node: gs.Node) -> list[gs.Tensor] | None:
    """By the function body that the standard gives the operator."""
    if node.domain not in (None, "", "ai.onnx"):
        return None
    try:
        schema = onnx.defs.get_schema(node.op, e.graph.opset, "")
    except onnx.defs.SchemaError:
        return None
    body = _function(schema, node, e.graph.opset)
    if body is None:
        return None
    given = {a.name: a for a in body.attribute_proto}
    for name, attribute in schema.attributes.items():
        if attribute.default_value.type:
            given[name] = attribute.default_value
    given.update((a.name, a) for a in OnnxExporter.export_node(node).attribute)
    inputs = dict(zip(body.input, node.inputs, strict=False))
    values = dict.fromkeys(["", *body.input], gs.Variable.empty()) | inputs
    _emit(e, body.node, values, given, len(e.graph.nodes))
    return [values.get(name, values[""]) for name in body.output[: len(node.outputs)]]


def _emit(
    e: Emitter,
    nodes: Sequence[onnx.NodeProto],
    values: dict[str, gs.Tensor],
    given: dict[str, onnx.AttributeProto],
    start: int,
) -> None:
    """Emits the nodes of a function, whose tensors are in `values` by their names there."""
    for inner in nodes:
        attributes: dict[str, Any] = {}
        for a in inner.attribute:
            found = given.get(a.ref_attr_name) if a.ref_attr_name else a
            if found is not None:
                attributes[a.name] = _plain(onnx.helper.get_attribute_value(found))
        inputs = [values[name] for name in inner.input]
        if inner.op_type == "If":
            condition = array_of(inputs[0])
            if condition is None:  # it may follow from shapes
                _settle(e, start, values)
                condition = array_of(values[inner.input[0]])
            if condition is None:
                raise OpError("its definition decides something only when the model runs")
            branch = attributes["then_branch" if condition.all() else "else_branch"]
            _emit(e, branch.node, values, given, start)
            made = [values[t.name] for t in branch.output]
        elif inner.op_type == "Constant":
            made = [e.tensor(_constant(attributes))]
        elif inner.op_type == "Split" and array_of(inputs[0]) is not None:
            made = [e.Gather(inputs[0], [i], axis=0) for i in range(len(inner.output))]
        else:
            if inner.op_type == "Range":  # AffineGrid's definition gives it vectors
                inputs = [e.Reshape(t, []) for t in inputs]
            made = [*e.op(inner.op_type, inputs, attributes, len(inner.output))]
            for t in made:
                if isinstance(t, gs.Variable):
                    t.dtype = None  # what comes out is found from the whole body
        values |= zip(inner.output, made, strict=True)


def _settle(e: Emitter, start: int, values: dict[str, gs.Tensor] | None = None) -> None:
    """Notes shapes and types in the nodes from `start` on, and makes constant what shapes decide.

    It stands in for the tensor as an input of these nodes, and in `values`.
    """
    nodes = e.graph.nodes[start:]
    made = {t.name: t for n in nodes for t in n.outputs}
    graph = onnx.GraphProto(name="body", node=[OnnxExporter.export_node(n) for n in nodes])
    outside = {t.name: t for n in nodes for t in n.inputs if t.name and t.name not in made}
    for t in outside.values():
        array = array_of(t)
        if array is not None and array.nbytes <= MOST_BYTES:
            graph.initializer.append(onnx.numpy_helper.from_array(array, t.name))
        else:
            graph.input.append(onnx.ValueInfoProto(name=t.name, type=_type(t)))
    version = onnx.helper.make_opsetid("", e.graph.opset)
    model = Model(onnx.helper.make_model(graph, opset_imports=[version]))
    free = [outside[info.name] for info in graph.input]
    one, two = (
        static_shapes(model, {t.name: bound(t.shape, batch) or () for t in free if known(t)})
        for batch in (1, 2)
    )
    settled: dict[str, gs.Tensor] = {}
    for name, t in made.items():
        try:
            if name in one.shapes and name in two.shapes:
                t.shape = marked(one.shapes[name], two.shapes[name])
        except ValueError as error:
            raise OpError(f"its definition mixes the images of a batch: {error}") from error
        t.dtype = one.dtypes.get(name, t.dtype)
        a, b = one.values.get(name), two.values.get(name)
        if a is not None and b is not None and np.array_equal(a, b):
            settled[name] = constant(e.name("settled"), a)
    for n in nodes:
        for i, t in enumerate(n.inputs):
            if t.name in settled:
                n.inputs[i] = settled[t.name]
    for name, t in (values or {}).items():
        if values is not None and t.name in settled:
            values[name] = settled[t.name]


def _function(schema: Any, node: gs.Node, opset: int) -> onnx.FunctionProto | None:
    if schema.has_context_dependent_function:
        types = [_type(t).SerializeToString() for t in node.inputs]
        proto = OnnxExporter.export_node(node).SerializeToString()
        versions = [v for v in schema.context_dependent_function_opset_versions if v <= opset]
        data = schema.get_context_dependent_function_with_opset_version(versions[-1], proto, types)
    elif schema.has_function:
        versions = [v for v in schema.function_opset_versions if v <= opset]
        data = schema.get_function_with_opset_version(versions[-1])
    else:
        return None
    function: onnx.FunctionProto = data
    if isinstance(data, bytes):
        function = onnx.FunctionProto.FromString(data)
    return function


def _type(t: gs.Tensor) -> onnx.TypeProto:
    if not t.name:
        return onnx.TypeProto()
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(t.dtype or np.float32))
    return onnx.helper.make_tensor_type_proto(element, None if t.shape is None else t.shape)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, onnx.TensorProto):
        return gs.Constant("value", onnx.numpy_helper.to_array(value))
    return value


def _constant(attributes: dict[str, Any]) -> np.ndarray:
    (kind, value), *_ = attributes.items()
    if isinstance(value, gs.Constant):
        return np.asarray(value.values)
    dtype = np.float32 if kind.startswith("value_float") else np.int64
    return np.asarray(value, dtype)


def _real(e: Emitter, node: gs.Node, x: int, scale: int, zero: int, axis: int = 0) -> gs.Tensor:
    """The real numbers that the integer input at position `x` stands for.

    `axis`: where a scale of one axis lies. Scales of more axes are in the shape of the input.
    """
    value, factor, offset = (node.inputs[i] for i in (x, scale, zero))
    factor, offset = _number(e, factor), _number(e, offset)
    if len(known(factor)) > 1:
        whole = e.cast(value, factor.dtype)
        whole = e.Sub(whole, e.cast(offset, factor.dtype)) if offset.name else whole
        return e.Mul(whole, factor)
    real = e.DequantizeLinear(value, factor, offset, axis=axis if known(factor) else None)
    real.dtype = factor.dtype
    return real


def _number(e: Emitter, t: gs.Tensor) -> gs.Tensor:
    """A vector of one number as a number."""
    return e.Reshape(t, []) if t.name and known(t) == [1] else t


def _whole(
    e: Emitter, node: gs.Node, y: gs.Tensor, scale: int, zero: int, axis: int = 0
) -> list[gs.Tensor]:
    """`y` as the integers that the node's output holds."""
    factor, offset = _number(e, node.inputs[scale]), _number(e, node.inputs[zero])
    y.dtype = factor.dtype
    result = e.QuantizeLinear(y, factor, offset, axis=axis if known(factor) else None)
    result.dtype = node.outputs[0].dtype
    return [result]


def _bias(e: Emitter, node: gs.Node, at: int, factor: float = 1.0) -> list[gs.Tensor]:
    """The bias at an input's position, if any; it counts steps of input · weight scales."""
    if len(node.inputs) <= at or not node.inputs[at].name:
        return []
    steps = e.Mul(_number(e, node.inputs[1]), _number(e, node.inputs[4]))
    steps = e.Mul(steps, factor) if factor != 1 else steps
    return [e.Mul(e.cast(node.inputs[at], node.inputs[1].dtype), steps)]


def _qlinear_conv(e: Emitter, node: gs.Node) -> list[gs.Tensor]:
    # x, x scale, x zero, w, w scale, w zero, y scale, y zero, bias
    inputs = [_real(e, node, 0, 1, 2), _real(e, node, 3, 4, 5), *_bias(e, node, 8)]
    return _whole(e, node, e.op("Conv", inputs, dict(node.attrs))[0], 6, 7)


def _qlinear_matmul(e: Emitter, node: gs.Node) -> list[gs.Tensor]:
    rank = [len(known(node.inputs[i])) for i in (0, 3)]  # scales of rows, and of columns
    a = _real(e, node, 0, 1, 2, max(0, rank[0] - 2))
    b = _real(e, node, 3, 4, 5, rank[1] - 1)
    return _whole(e, node, e.MatMul(a, b), 6, 7, max(0, rank[0] - 2))


def _qgemm(e: Emitter, node: gs.Node) -> list[gs.Tensor]:
    # a, a scale, a zero, b, b scale, b zero, c, y scale, y zero
    columns = 0 if node.attrs.get("transB") else 1
    inputs = [_real(e, node, 0, 1, 2), _real(e, node, 3, 4, 5, columns)]
    inputs += _bias(e, node, 6, node.attrs.get("alpha", 1.0))
    y = e.op("Gemm", inputs, dict(node.attrs))[0]
    y.dtype = inputs[0].dtype
    return _whole(e, node, y, 7, 8) if len(node.inputs) > 7 and node.inputs[7].name else [y]


def _integers(op: str, *axes: int) -> Body:
    """The product of integers; `axes`: where the zero points of each operand lie."""

    def body(e: Emitter, node: gs.Node) -> list[gs.Tensor]:
        x, w, *zeros = node.inputs
        reals = []
        for t, zero, axis in zip((x, w), [*zeros, None, None][:2], axes, strict=True):
            real = e.cast(t, np.float32)
            if zero is not None and zero.name:
                real = e.Sub(real, column(e, zero, t, axis, np.dtype(np.float32)))
            reals.append(real)
        return [e.cast(e.op(op, reals, dict(node.attrs))[0], np.int32)]

    return body


def _pair(op: str) -> Body:
    def body(e: Emitter, node: gs.Node) -> list[gs.Tensor]:
        result = e.op(op, [_real(e, node, 0, 1, 2), _real(e, node, 3, 4, 5)])[0]
        return _whole(e, node, result, 6, 7)

    return body


def _single(op: str) -> Body:
    def body(e: Emitter, node: gs.Node) -> list[gs.Tensor]:
        attributes = dict(node.attrs)
        if attributes.pop("channels_last", 0):
            raise OpError("there is no gradient rule for it with the channels last")
        rank = len(known(node.inputs[0]))
        older = attributes.pop("opset", 13) < 13  # then it normalises over all axes from `axis` on
        if older and attributes.get("axis", -1) % rank != rank - 1:
            raise OpError("there is no gradient rule for it over several axes")
        return _whole(e, node, e.op(op, [_real(e, node, 0, 1, 2)], attributes)[0], 3, 4)

    return body


def _qlinear_where(e: Emitter, node: gs.Node) -> list[gs.Tensor]:
    either = _real(e, node, 1, 2, 3), _real(e, node, 4, 5, 6)
    return _whole(e, node, e.Where(node.inputs[0], *either), 7, 8)


def _qlinear_concat(e: Emitter, node: gs.Node) -> list[gs.Tensor]:
    parts = [_real(e, node, i, i + 1, i + 2) for i in range(2, len(node.inputs), 3)]
    return _whole(e, node, e.Concat(*parts, **node.attrs), 0, 1)


def _plainly(e: Emitter, node: gs.Node) -> list[gs.Tensor]:
    """The standard operator of the same name."""
    made = e.op(node.op, list(node.inputs), dict(node.attrs))
    for new, old in zip(made, node.outputs, strict=True):
        new.dtype, new.shape = old.dtype, old.shape
    return [*made]


BODIES: dict[tuple[str, str], Body] = {
    ("", "QLinearConv"): _qlinear_conv,
    ("", "QLinearMatMul"): _qlinear_matmul,
    **{("", op): recurrent for op in ("LSTM", "GRU", "RNN")},
    ("", "ConvInteger"): _integers("Conv", 1, 0),
    ("", "MatMulInteger"): _integers("MatMul", -2, -1),
    ("com.microsoft", "QGemm"): _qgemm,
    ("com.microsoft", "QLinearAdd"): _pair("Add"),
    ("com.microsoft", "QLinearMul"): _pair("Mul"),
    ("com.microsoft", "QLinearConcat"): _qlinear_concat,
    ("com.microsoft", "QLinearWhere"): _qlinear_where,
    **{("com.microsoft", op): _plainly for op in QUANTISERS},
    **{
        ("com.microsoft", f"QLinear{op}"): _single(op)
        for op in ("Sigmoid", "LeakyRelu", "Softmax", "AveragePool", "GlobalAveragePool")
    },
}
"""Bodies of recurrent and quantised operators; those of com.microsoft: what ONNX Runtime writes."""
