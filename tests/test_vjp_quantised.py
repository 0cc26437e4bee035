"""Gradients through quantised operators, against float64 models that clip and do not round.

Differences cannot see through rounding. So inputs lie on the grid of their quantiser, where
rounding changes nothing, and the model that is differenced is written here by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from gradcheck import differences, gradient_model
from numpy.lib.stride_tricks import sliding_window_view

from models import model, rng, run, session
from onnxcam.errors import OpError

QUANTISED = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
"""The rules that are tested here and not in the table of test_vjp."""

RANGES = {np.uint8: (0, 255), np.int8: (-128, 127), np.int16: (-32768, 32767)}


def real(x: np.ndarray, scale: Any, zero: Any, low: float = 0, high: float = 255) -> np.ndarray:
    """What comes out of a quantiser and its inverse: clipped, not rounded."""
    return (np.clip(x / scale + zero, low, high) - zero) * scale


def grid(shape: tuple[int, ...], scale: Any, zero: Any, low: float, high: float) -> np.ndarray:
    """Numbers on the grid of a quantiser, some beyond its ends, none at one."""
    levels = np.round(rng(3).uniform(low - 20, high + 20, shape))
    levels = np.where(levels == low, low + 1, np.where(levels == high, high - 1, levels))
    levels.reshape(-1)[:4] = low - 1, low + 1, high - 1, high + 1
    return np.asarray((levels - zero) * scale, np.float32)


def inner(shape: tuple[int, ...], scale: Any, zero: Any, seed: int = 3) -> np.ndarray:
    """Numbers on the grid of an uint8 quantiser, all within its range."""
    levels = rng(seed).integers(30, 225, shape)
    return np.asarray((levels - np.asarray(zero, float)) * scale, np.float32)


def compare(
    proto: onnx.ModelProto, x: np.ndarray, plain: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """The gradient of `proto` for `x`, compared with the differences of `plain`."""
    names = [t for n in proto.graph.node for t in n.output]
    for name, value in zip(names, run(proto, {"x": x}, names), strict=True):
        if name != proto.graph.output[0].name:
            kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
            shape = onnx.helper.make_tensor_value_info(name, kind, value.shape)
            proto.graph.value_info.append(shape)
    wide = x.astype(np.float64)
    y = plain(wide)
    np.testing.assert_allclose(run(proto, {"x": x})[0], y, rtol=1e-4, atol=np.abs(y).max() / 50)
    cotangent = rng(4).normal(size=y.shape)
    want = differences(lambda xs: plain(xs[0]), [wide], cotangent, 0)
    feeds = {"x": x, "cotangent": cotangent.astype(np.float32)}
    got = session(gradient_model(proto)).run(None, feeds)[0]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())
    return np.asarray(got)


def shaped(name: str, *shape: int) -> str:
    """A declaration in ONNX text."""
    return f"float[{','.join(map(str, shape))}] {name}"


@pytest.mark.parametrize("dtype", RANGES)
@pytest.mark.parametrize("zero", [0, 7])
def test_a_pair_passes_the_gradient_where_it_does_not_clip(dtype: type, zero: int) -> None:
    low, high = RANGES[dtype]
    weights = {"s": np.float32(0.25), "z": dtype(zero)}
    proto = model("q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)", weights,
                  shaped("x", 4, 9), shaped("y", 4, 9), opset=21, ir=10)  # fmt: skip
    x = grid((4, 9), 0.25, zero, low, high)
    if high < 1000:
        assert (real(x, 0.25, zero, low, high) != x).any(), "nothing is clipped"
    compare(proto, x, lambda v: real(v, 0.25, zero, low, high))


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("zeros", [True, False])
def test_scales_of_each_channel(axis: int, zeros: bool) -> None:
    shape = (3, 4, 5)
    size = shape[axis]
    scale = np.linspace(0.1, 0.7, size, dtype=np.float32)
    zero = np.arange(size, dtype=np.uint8) * (20 if zeros else 0)
    column = [size if i == axis % 3 else 1 for i in range(3)]
    s, z = scale.astype(float).reshape(column), zero.astype(float).reshape(column)
    given = "q = QuantizeLinear <axis = {0}> (x, s{1}) y = DequantizeLinear <axis = {0}> (q, s{1})"
    body = given.format(axis, ", z" if zeros else "")
    proto = model(body, {"s": scale, "z": zero}, shaped("x", *shape), shaped("y", *shape))
    compare(proto, grid(shape, s, z, 0, 255), lambda v: real(v, s, z))


def test_scales_of_each_block() -> None:
    scale = np.array([[0.5, 0.25], [1, 2], [0.125, 1]], np.float32)
    zero = np.array([[0, 10], [20, 30], [40, 50]], np.uint8)
    body = (
        "q = QuantizeLinear <axis = 1, block_size = 2> (x, s, z)"
        " y = DequantizeLinear <axis = 1, block_size = 2> (q, s, z)"
    )
    proto = model(body, {"s": scale, "z": zero}, shaped("x", 3, 4), shaped("y", 3, 4), 21, 10)
    s, z = (np.repeat(t.astype(float), 2, axis=1) for t in (scale, zero))
    compare(proto, grid((3, 4), s, z, 0, 255), lambda v: real(v, s, z))


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [("INT4", -8, 7), ("UINT4", 0, 15), ("FLOAT8E4M3FN", -448, 448), ("FLOAT8E5M2", -57344, 57344)],
)
def test_types_of_few_bits(kind: str, low: float, high: float) -> None:
    zero = onnx.helper.make_tensor("z", getattr(onnx.TensorProto, kind), [], [0])
    proto = model("q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)",
                  {"s": np.float32(0.5)}, shaped("x", 6), shaped("y", 6), 21, 10)  # fmt: skip
    proto.graph.initializer.append(zero)
    x = np.array([2 * low - 1, low / 4, 0.5, high / 8, high / 4, 2 * high], np.float32)
    cotangent = np.arange(1, 7, dtype=np.float32)
    got = session(gradient_model(proto)).run(None, {"x": x, "cotangent": cotangent})[0]
    inside = (x / 0.5 > low) & (x / 0.5 < high)
    assert inside.sum() == 4 - (low == 0)
    assert got.tolist() == np.where(inside, cotangent, 0).tolist()


def test_dynamic_ranges_count_as_given() -> None:
    body = "q, s, z = DynamicQuantizeLinear(x) y = DequantizeLinear(q, s, z)"
    proto = model(body, {}, shaped("x", 2, 3), shaped("y", 2, 3))
    x = np.array([[0, 51, 255], [102, 153, 204]], np.float32) / 255
    compare(proto, x, lambda v: v)
    weight = np.array([[1, -2], [3, 4], [-5, 6]], np.int8)
    body = (
        "q, s, z = DynamicQuantizeLinear(x) i = MatMulInteger(q, w, z)"
        " r = Cast <to = 1> (i) t = Mul(s, ws) y = Mul(r, t)"
    )
    weights = {"w": weight, "ws": np.array([0.5, 0.25], np.float32)}
    proto = model(body, weights, shaped("x", 2, 3), shaped("y", 2, 2))
    compare(proto, x, lambda v: v @ weight * np.array([0.5, 0.25]))


X = {"xs": np.float32(0.5), "xz": np.uint8(128)}
QUANTISE = "q = QuantizeLinear(x, xs, xz) "


def from_x(v: np.ndarray) -> np.ndarray:
    """The input behind its quantiser."""
    return real(v, 0.5, 128)


def convolved(x: np.ndarray, w: np.ndarray, group: int = 1) -> np.ndarray:
    """A convolution over (N, C, H, W) with a frame of one cell of zeros."""
    framed = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)])
    windows = sliding_window_view(framed, w.shape[2:], (2, 3))
    n, c, h, width = windows.shape[:4]
    windows = windows.reshape(n, group, c // group, h, width, *w.shape[2:])
    y = np.einsum("ngchwij,gocij->ngohw", windows, w.reshape(group, -1, *w.shape[1:]))
    return y.reshape(n, -1, h, width)


@pytest.mark.parametrize("group", [1, 2])
def test_convolution_with_scales_of_each_channel(group: int) -> None:
    weight = rng(5).integers(-9, 9, (4, 2 // group, 3, 3)).astype(np.int8)
    scales = np.array([0.1, 0.2, 0.05, 0.3], np.float32)
    bias = np.array([40, -30, 0, 10], np.int32)
    weights = X | {"w": weight, "ws": scales, "wz": np.zeros(4, np.int8), "b": bias}
    weights |= {"ys": np.float32([0.4]), "yz": np.uint8([60])}
    body = QUANTISE + (
        f"r = QLinearConv <pads = [1, 1, 1, 1], group = {group}>"
        "(q, xs, xz, w, ws, wz, ys, yz, b) y = DequantizeLinear(r, ys1, yz1)"
    )
    weights |= {"ys1": np.float32(0.4), "yz1": np.uint8(60)}
    proto = model(body, weights, shaped("x", 2, 2, 4, 3), shaped("y", 2, 4, 4, 3))
    reals = weight * scales.astype(float).reshape(-1, 1, 1, 1)

    def plain(v: np.ndarray) -> np.ndarray:
        y = convolved(from_x(v), reals, group)
        return real(y + (bias * 0.5 * scales.astype(float)).reshape(-1, 1, 1), 0.4, 60)

    got = compare(proto, inner((2, 2, 4, 3), 0.5, 128), plain)
    assert got.any()


def test_convolution_of_integers() -> None:
    weight = rng(5).integers(0, 9, (3, 2, 3, 3)).astype(np.uint8)
    zeros = np.array([1, 4, 7], np.uint8)
    weights = X | {"w": weight, "wz": zeros}
    body = QUANTISE + "i = ConvInteger <pads = [1, 1, 1, 1]> (q, w, xz, wz) y = Cast <to = 1> (i)"
    proto = model(body, weights, shaped("x", 1, 2, 4, 3), shaped("y", 1, 3, 4, 3))
    reals = weight - zeros.astype(float).reshape(-1, 1, 1, 1)
    # ONNX Runtime takes one zero point for all weights only: the gradient alone is compared.
    x = inner((1, 2, 4, 3), 0.5, 128)
    cotangent = rng(4).normal(size=(1, 3, 4, 3))
    want = differences(lambda v: convolved(from_x(v[0]) / 0.5, reals), [x.astype(float)],
                       cotangent, 0)  # fmt: skip
    feeds = {"x": x, "cotangent": cotangent.astype(np.float32)}
    got = session(gradient_model(proto)).run(None, feeds)[0]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_products_of_integers() -> None:
    weight, zero = rng(5).integers(-9, 9, (3, 4)).astype(np.int8), np.array([1, -2, 3, 4], np.int8)
    body = QUANTISE + "i = MatMulInteger(q, w, xz, wz) y = Cast <to = 1> (i)"
    proto = model(body, X | {"w": weight, "wz": zero}, shaped("x", 2, 3), shaped("y", 2, 4))
    compare(
        proto, inner((2, 3), 0.5, 128), lambda v: from_x(v) / 0.5 @ (weight - zero.astype(float))
    )


def test_zero_points_of_each_row() -> None:
    body = (
        "q = QuantizeLinear <axis = 0> (x, s, z) i = MatMulInteger(q, w, z) y = Cast <to = 1> (i)"
    )
    scale, zero = np.array([0.5, 0.25], np.float32), np.array([100, 150], np.uint8)
    weight = rng(5).integers(-9, 9, (3, 4)).astype(np.int8)
    proto = model(body, {"s": scale, "z": zero, "w": weight}, shaped("x", 2, 3), shaped("y", 2, 4))
    x = inner((2, 3), scale[:, None], zero[:, None].astype(float))
    cotangent = rng(4).normal(size=(2, 4)).astype(np.float32)
    got = session(gradient_model(proto)).run(None, {"x": x, "cotangent": cotangent})[0]
    np.testing.assert_allclose(got, cotangent @ weight.T / scale[:, None], rtol=1e-5)


@pytest.mark.parametrize("shape", [(2, 3), (2, 2, 3)])
@pytest.mark.parametrize("columns", [True, False])
def test_matrix_products(shape: tuple[int, ...], columns: bool) -> None:
    weight = rng(5).integers(0, 200, (3, 4)).astype(np.uint8)
    scale = np.linspace(0.01, 0.05, 4, dtype=np.float32) if columns else np.float32([0.02])
    zero = np.array([90, 100, 110, 80] if columns else [100], np.uint8)
    weights = X | {"w": weight, "ws": scale, "wz": zero, "ys": np.float32(0.5), "yz": np.uint8(90)}
    weights |= {"xs1": np.float32([0.5]), "xz1": np.uint8([128])}
    body = QUANTISE + (
        "r = QLinearMatMul(q, xs1, xz1, w, ws, wz, ys, yz) y = DequantizeLinear(r, ys, yz)"
    )
    out = (*shape[:-1], 4)
    proto = model(body, weights, shaped("x", *shape), shaped("y", *out), 21, 10)
    reals = (weight - zero.astype(float)) * scale.astype(float)
    compare(proto, inner(shape, 0.5, 128), lambda v: real(from_x(v) @ reals, 0.5, 90))


B = rng(6).integers(30, 225, (2, 3, 4, 4)).astype(np.uint8)
REAL_B = (B.astype(float) - 100) * 0.02
AVERAGE = "<kernel_shape = [2, 2], strides = [2, 2]>"


def softmax(v: np.ndarray) -> np.ndarray:
    """Along the last axis."""
    powers = np.exp(v - v.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def averaged(v: np.ndarray) -> np.ndarray:
    """Means of 2 × 2 cells."""
    return v.reshape(2, 3, 2, 2, 2, 2).mean((3, 5))


@pytest.mark.parametrize(
    ("node", "plain", "scale"),
    [
        ("QLinearAdd(q, xs, xz, b, bs, bz, ys, yz)", lambda v: v + REAL_B, 0.3),
        ("QLinearMul(q, xs, xz, b, bs, bz, ys, yz)", lambda v: v * REAL_B, 0.4),
        ("QLinearConcat <axis = 1> (ys, yz, q, xs, xz, b, bs, bz)",
         lambda v: np.concatenate([v, REAL_B], 1), 0.3),
        ("QLinearWhere(c, q, xs, xz, b, bs, bz, ys, yz)",
         lambda v: np.where(B > 120, v, REAL_B), 0.3),
        ("QLinearSigmoid(q, xs, xz, ys, yz)", lambda v: 1 / (1 + np.exp(-v)), 0.006),
        ("QLinearLeakyRelu <alpha = 0.1> (q, xs, xz, ys, yz)",
         lambda v: np.where(v > 0, v, 0.1 * v), 0.3),
        ("QLinearSoftmax <axis = -1, opset = 13> (q, xs, xz, ys, yz)", softmax, 0.008),
        (f"QLinearAveragePool {AVERAGE} (q, xs, xz, ys, yz)", averaged, 0.3),
        ("QLinearGlobalAveragePool(q, xs, xz, ys, yz)",
         lambda v: v.mean((2, 3), keepdims=True), 0.3),
    ],
)  # fmt: skip
def test_operators_of_onnx_runtime(
    node: str, plain: Callable[[np.ndarray], np.ndarray], scale: float
) -> None:
    spread = 0.06 if "Soft" in node or "Sigmoid" in node else 0.5  # where these are not flat
    weights = {"xs": np.float32(spread), "xz": np.uint8(128), "b": B, "bs": np.float32(0.02)}
    weights |= {"bz": np.uint8(100), "ys": np.float32(scale), "yz": np.uint8(90), "c": B > 120}

    def whole(v: np.ndarray) -> np.ndarray:
        return real(plain(real(v, spread, 128)), scale, 90)

    x = inner((2, 3, 4, 4), spread, 128)
    out = whole(x.astype(float)).shape
    body = f"q = QuantizeLinear(x, xs, xz) r = com.microsoft.{node} y = DequantizeLinear(r, ys, yz)"
    proto = model(body, weights, shaped("x", *x.shape), shaped("y", *out), imports=MICROSOFT)
    got = compare(proto, x, whole)
    assert got.any()


MICROSOFT = ', "com.microsoft": 1'


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("whole", [True, False])
def test_dense_layers_of_onnx_runtime(transposed: int, whole: bool) -> None:
    weight = rng(5).integers(0, 200, (3, 4)).astype(np.uint8)
    scale = np.linspace(0.01, 0.05, 4, dtype=np.float32)
    zero, bias = np.array([90, 100, 110, 80], np.uint8), np.array([50, -90, 100, 0], np.int32)
    weights = X | {"w": weight.T.copy() if transposed else weight, "ws": scale, "wz": zero}
    weights |= {"ys": np.float32(0.5), "yz": np.uint8(90), "b": bias}
    last = "r = {}, ys, yz) y = DequantizeLinear(r, ys, yz)" if whole else "y = {})"
    gemm = f"com.microsoft.QGemm <alpha = 0.5, transB = {transposed}> (q, xs, xz, w, ws, wz, b"
    proto = model(QUANTISE + last.format(gemm), weights, shaped("x", 2, 3), shaped("y", 2, 4),
                  imports=MICROSOFT)  # fmt: skip
    reals = (weight - zero.astype(float)) * scale.astype(float)

    def plain(v: np.ndarray) -> np.ndarray:
        y = 0.5 * (from_x(v) @ reals + bias * 0.5 * scale.astype(float))
        return real(y, 0.5, 90) if whole else y

    compare(proto, inner((2, 3), 0.5, 128), plain)


def test_16_bits_of_onnx_runtime() -> None:
    body = "q = com.microsoft.QuantizeLinear(x, s, z) y = com.microsoft.DequantizeLinear(q, s, z)"
    weights = {"s": np.float32(0.5), "z": np.uint16(1000)}
    proto = model(body, weights, shaped("x", 5), shaped("y", 5), imports=MICROSOFT)
    x = np.array([-501, -400, 0, 30000, 40000], np.float32)
    got = compare(proto, x, lambda v: real(v, 0.5, 1000, 0, 65535))
    assert (got != 0).tolist() == [False, True, True, True, False]


@pytest.mark.parametrize(
    ("node", "what"),
    [
        ("QLinearGlobalAveragePool <channels_last = 1> (q, xs, xz, ys, yz)", "channels last"),
        ("QLinearSoftmax <axis = 1, opset = 11> (q, xs, xz, ys, yz)", "several axes"),
        ("QLinearReduceMean <axes = [1]> (q, xs, xz, ys, yz)", "no gradient rule"),
    ],
)
def test_forms_without_a_rule_are_named(node: str, what: str) -> None:
    body = f"q = QuantizeLinear(x, xs, xz) r = com.microsoft.{node} y = DequantizeLinear(r, ys, yz)"
    weights = X | {"ys": np.float32(0.5), "yz": np.uint8(90)}
    proto = model(body, weights, shaped("x", 2, 3, 4, 4), shaped("y", 2, 3, 4, 4),
                  imports=MICROSOFT)  # fmt: skip
    info = onnx.helper.make_tensor_value_info("r", onnx.TensorProto.UINT8, (2, 3, 4, 4))
    proto.graph.value_info.append(info)
    with pytest.raises(OpError, match=f"{node.split()[0].partition('(')[0]}.*{what}"):
        gradient_model(proto)
