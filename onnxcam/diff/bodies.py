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

from onnxcam.graph.emit import Emitter
from onnxcam.graph.shapes import annotate

Body = Callable[[Emitter, gs.Node], list[gs.Tensor]]


def written_out(e: Emitter, node: gs.Node) -> list[gs.Tensor] | None:
    """The outputs of `node` made by its body, in plain operators; None where it has no body.

    The new nodes stand at the end of the graph, shapes annotated.
    """
    start = len(e.graph.nodes)
    own = BODIES.get((node.domain or "", node.op))
    outputs = own(e, node) if own is not None else _standard(e, node)
    annotate(e.graph.nodes[start:], e.graph.opset)
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
    values: dict[str, gs.Tensor] = {"": gs.Variable.empty()}
    absent = len(body.input) - len(node.inputs)
    values |= zip(body.input, [*node.inputs, *[values[""]] * absent], strict=True)
    given = {**{a.name: onnx.helper.get_attribute_value(a) for a in body.attribute_proto}}
    for name, attribute in schema.attributes.items():
        if attribute.default_value.type:
            given[name] = onnx.helper.get_attribute_value(attribute.default_value)
    given.update(node.attrs)
    for inner in body.node:
        attributes: dict[str, Any] = {}
        for a in inner.attribute:
            if not a.ref_attr_name:
                attributes[a.name] = _plain(onnx.helper.get_attribute_value(a))
            elif a.ref_attr_name in given:
                attributes[a.name] = _plain(given[a.ref_attr_name])
        if inner.op_type == "Constant":
            made: Sequence[gs.Tensor] = [e.tensor(_constant(attributes))]
        else:
            inputs = [values[name] for name in inner.input]
            made = e.op(inner.op_type, inputs, attributes, len(inner.output), inner.domain or None)
            for t in made:
                t.dtype = None  # what comes out is for `annotate` to say
        values |= zip(inner.output, made, strict=True)
    return [values[name] for name in body.output[: len(node.outputs)]]


def _function(schema: Any, node: gs.Node, opset: int) -> onnx.FunctionProto | None:
    if schema.has_context_dependent_function:
        types = [_type(t).SerializeToString() for t in node.inputs]
        proto = OnnxExporter.export_node(node).SerializeToString()
        known = [v for v in schema.context_dependent_function_opset_versions if v <= opset]
        data = schema.get_context_dependent_function_with_opset_version(known[-1], proto, types)
    elif schema.has_function:
        known = [v for v in schema.function_opset_versions if v <= opset]
        data = schema.get_function_with_opset_version(known[-1])
    else:
        return None
    return onnx.FunctionProto.FromString(data) if isinstance(data, bytes) else data


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


def _real(e: Emitter, node: gs.Node, x: int, scale: int, zero: int) -> gs.Tensor:
    """The real numbers that the integer input at position `x` stands for."""
    value, factor, offset = (node.inputs[i] for i in (x, scale, zero))
    axis = 0 if factor.shape is not None and len(factor.shape) == 1 else None
    real = e.DequantizeLinear(value, factor, offset, axis=axis)
    real.dtype = np.dtype(np.float32)
    return real


def _whole(e: Emitter, node: gs.Node, y: gs.Tensor, scale: int, zero: int) -> list[gs.Tensor]:
    y.dtype = np.dtype(np.float32)
    result = e.QuantizeLinear(y, node.inputs[scale], node.inputs[zero])
    result.dtype = node.outputs[0].dtype
    return [result]


def _qlinear_conv(e: Emitter, node: gs.Node) -> list[gs.Tensor]:
    # x, x scale, x zero, w, w scale, w zero, y scale, y zero, bias (in steps of x · w scales)
    inputs = [_real(e, node, 0, 1, 2), _real(e, node, 3, 4, 5)]
    if len(node.inputs) > 8 and node.inputs[8].name:
        steps = e.Mul(node.inputs[1], node.inputs[4])
        inputs.append(e.Mul(e.cast(node.inputs[8], np.float32), steps))
    return _whole(e, node, e.op("Conv", inputs, dict(node.attrs))[0], 6, 7)


def _qlinear_matmul(e: Emitter, node: gs.Node) -> list[gs.Tensor]:
    product = e.MatMul(_real(e, node, 0, 1, 2), _real(e, node, 3, 4, 5))
    return _whole(e, node, product, 6, 7)


def _qgemm(e: Emitter, node: gs.Node) -> list[gs.Tensor]:
    # a, a scale, a zero, b, b scale, b zero, c (in steps of a · b scales), y scale, y zero
    inputs = [_real(e, node, 0, 1, 2), _real(e, node, 3, 4, 5)]
    if node.inputs[6].name:
        steps = e.Mul(node.inputs[1], node.inputs[4])
        inputs.append(e.Mul(e.cast(node.inputs[6], np.float32), steps))
    y = e.op("Gemm", inputs, dict(node.attrs))[0]
    y.dtype = np.dtype(np.float32)
    return _whole(e, node, y, 7, 8) if len(node.inputs) > 7 and node.inputs[7].name else [y]


def _integers(op: str) -> Body:
    def body(e: Emitter, node: gs.Node) -> list[gs.Tensor]:
        x, w, *zeros = node.inputs
        reals = []
        for t, zero in zip((x, w), [*zeros, None, None][:2], strict=True):
            real = e.cast(t, np.float32)
            if zero is not None and zero.name:
                real = e.Sub(real, e.cast(zero, np.float32))
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
        attributes = {k: v for k, v in node.attrs.items() if k != "channels_last"}
        return _whole(e, node, e.op(op, [_real(e, node, 0, 1, 2)], attributes)[0], 3, 4)

    return body


def _qlinear_concat(e: Emitter, node: gs.Node) -> list[gs.Tensor]:
    parts = [_real(e, node, i, i + 1, i + 2) for i in range(2, len(node.inputs), 3)]
    return _whole(e, node, e.Concat(*parts, **node.attrs), 0, 1)


BODIES: dict[tuple[str, str], Body] = {
    ("", "QLinearConv"): _qlinear_conv,
    ("", "QLinearMatMul"): _qlinear_matmul,
    ("", "ConvInteger"): _integers("Conv"),
    ("", "MatMulInteger"): _integers("MatMul"),
    ("com.microsoft", "QGemm"): _qgemm,
    ("com.microsoft", "QLinearAdd"): _pair("Add"),
    ("com.microsoft", "QLinearMul"): _pair("Mul"),
    ("com.microsoft", "QLinearConcat"): _qlinear_concat,
    **{
        ("com.microsoft", f"QLinear{op}"): _single(op)
        for op in ("Sigmoid", "LeakyRelu", "Softmax", "AveragePool", "GlobalAveragePool")
    },
}
"""Bodies of quantised operators; those of com.microsoft are what ONNX Runtime's quantiser writes."""
