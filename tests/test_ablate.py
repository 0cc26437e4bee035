"""The exact ablation: every row of its op table, and whole heads, against masking and rerunning."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import models
from models import close, drops, images, run, weight
from onnxcam import Explainer
from onnxcam.ablate.rules import RULES
from onnxcam.ablate.state import Batch, Delta, Lane, Outer

K, H, W = 6, 6, 5  # units and grid of the feature map `a`
C = 5  # classes
TARGETS = [3, 0, 4]


# What the operator under test is given: the feature map itself or something behind it.
BEFORE = {
    "zero": "x0 = Identity(a)",  # switched-off elements are 0
    "off": "x0 = Sigmoid(a)",  # … are something else
    "delta": "x0 = Conv(a, w1)",  # the units are mixed by an affine operator
    "batch": "d0 = Conv(a, w1) x0 = Softplus(d0)",  # … and a non-linear one came behind
}
KIND = {Lane: "lane", Delta: "delta", Outer: "delta", Batch: "batch", type(None): "-"}


@dataclass
class Case:
    """An operator with attributes, and the state that its rule gives for each state before it.

    Attributes:
        body: its nodes: `x0`, of shape (N, 6, 6, 5), to `z`; `u` is an untouched tensor of the same
            shape, `s` an untouched (N, 6, 1, 1).
        states: what the rule gives, as the four keys of BEFORE: l(ane), d(elta), - (no answer: the
            operator runs on the stack), or a space where there is no such run to be had.
        weights: constants that `body` names.
        positive: the values are all above zero.
        opset: of the model.
        output: which node's rule is meant, if not the last of its kind in `body`: its output.
        direct: `body` starts at the feature map `a` itself.
    """

    body: str
    states: str
    weights: dict[str, Any] = field(default_factory=dict)
    positive: bool = False
    opset: int = 18
    output: str = ""
    direct: bool = False


def number(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


CHANNEL = weight(K, 1, 1, seed=20) + 2
SCALE, ZERO = number(0.05), np.array(100, np.uint8)


def pointwise(op: str, states: str = "ll--", attributes: str = "", **options: Any) -> list[Case]:
    return [Case(f"z = {op} {attributes} (x0)", states, **options)]


def binary(op: str, scalar: str, untouched: str, **options: Any) -> list[Case]:
    """With a number, a constant for each channel, an untouched tensor, from both sides, itself."""
    return [
        Case(f"z = {op}(x0, c)", scalar, {"c": number(1.7)}, **options),
        Case(f"z = {op}(x0, c)", scalar, {"c": CHANNEL}, **options),
        Case(f"z = {op}(x0, u)", untouched, **options),
        Case(f"z = {op}(x0, s)", untouched, **options),
    ]


def views(op: str, states: str, *rest: Case) -> list[Case]:
    return [Case(op, states), *rest]


POOL = "kernel_shape = [3, 2], strides = [2, 1], pads = [1, 0, 1, 1]"

SPECS: dict[str, list[Case]] = {
    # f(0) = 0
    **{
        op: pointwise(op)
        for op in (
            *("Relu", "Elu", "Selu", "Celu", "HardSwish", "Mish", "Tanh", "Erf", "Softsign"),
            *("Abs", "Sign", "Floor", "Ceil", "Round", "Sin", "Atan"),
        )
    },
    "Identity": pointwise("Identity", "lld-"),
    "Neg": pointwise("Neg", "lld-"),
    "Dropout": [*pointwise("Dropout", "lld-"), Case("z, m = Dropout(x0)", "lld-")],
    "Cast": [
        Case("h = Cast <to = 11> (x0) z = Cast <to = 1> (h)", "lld-"),
        Case("h = Cast <to = 6> (x0) z = Cast <to = 1> (h)", "ll--", output="h"),
        Case("h = Cast <to = 9> (x0) z = Cast <to = 1> (h)", "ll--", output="h"),
    ],
    "LeakyRelu": pointwise("LeakyRelu", attributes="<alpha = 0.3>"),
    "Gelu": [
        *pointwise("Gelu", opset=20),
        *pointwise("Gelu", attributes='<approximate = "tanh">', opset=20),
    ],
    "Sqrt": pointwise("Sqrt", positive=True),
    "ThresholdedRelu": pointwise("ThresholdedRelu", attributes="<alpha = 0.2>"),
    "Swish": pointwise("Swish", attributes="<alpha = 1.5>", opset=24),
    # f(0) ≠ 0
    **{op: pointwise(op) for op in ("Sigmoid", "HardSigmoid", "Softplus", "Exp", "Cos")},
    "Log": pointwise("Log", " l--", positive=True),
    "Reciprocal": pointwise("Reciprocal", " l--", positive=True),
    "Clip": [
        Case("z = Clip(x0, low, high)", "ll--", {"low": number(-0.5), "high": number(0.5)}),
        Case("z = Clip(x0, low, high)", "ll--", {"low": number(0.1), "high": number(0.7)}),
        Case("z = Clip(x0, low, high)", "ll--", {"low": number(-0.7), "high": number(-0.2)}),
        Case("z = Clip(x0, , high)", "ll--", {"high": number(0.2)}),
        Case("z = Clip(x0, low)", "ll--", {"low": number(0.3)}),
    ],
    "Shrink": pointwise("Shrink", attributes="<bias = 0.1, lambd = 0.2>"),
    "QuantizeLinear": [
        Case(
            "q = QuantizeLinear(x0, t, o) z = DequantizeLinear(q, t, o)",
            "ll--",
            {"t": SCALE, "o": ZERO},
        ),
        Case(
            "q = QuantizeLinear <axis = 1> (x0, t, o) z = DequantizeLinear <axis = 1> (q, t, o)",
            "----",
            {"t": np.linspace(0.02, 0.07, K, dtype=np.float32), "o": np.full(K, 99, np.uint8)},
        ),
    ],
    "DequantizeLinear": [
        Case(
            "q = QuantizeLinear(x0, t, o) z = DequantizeLinear(q, t, o)",
            "ll--",
            {"t": SCALE, "o": np.array(-5, np.int8)},
        ),
    ],
    # two operands
    "Add": [
        *binary("Add", "lld-", "lld-"),
        Case("z = Add(u, x0)", "lld-"),
        Case("z = Add(x0, x0)", "lld-"),
        Case("t = Relu(x0) z = Add(x0, t)", "ll--"),
        Case("g = GlobalAveragePool(x0) z = Add(g, u)", "ll--"),
        Case("p = Conv(x0, w2) z = Add(p, x0)", "--d-", {"w2": weight(K, K, 1, 1, seed=21)}),
    ],
    "Sum": [
        *binary("Sum", "lld-", "lld-"),
        Case("z = Sum(x0, u, s)", "----"),
        Case("z = Sum(x0)", "----"),
    ],
    "Sub": [
        *binary("Sub", "lld-", "lld-"),
        Case("z = Sub(u, x0)", "lld-"),
        Case("t = Neg(x0) z = Sub(x0, t)", "lld-"),
    ],
    "Mul": [
        *binary("Mul", "lld-", "lld-"),
        Case("z = Mul(s, x0)", "lld-"),
        Case("z = Mul(x0, x0)", "ll--"),
        Case("g = GlobalAveragePool(x0) z = Mul(x0, g)", "ll--"),
        Case("g = GlobalAveragePool(x0) z = Mul(u, g)", "ll--"),
    ],
    "Div": [
        *binary("Div", "lld-", "lld-", positive=True),
        Case("z = Div(u, x0)", " l--", positive=True),
        Case("t = Exp(x0) z = Div(x0, t)", "ll--"),
    ],
    "Max": [*binary("Max", "ll--", "ll--"), Case("z = Max(x0, u, s)", "----")],
    "Min": [*binary("Min", "ll--", "ll--"), Case("z = Min(u, s, x0)", "----")],
    "Pow": [
        Case("z = Pow(x0, c)", "ll--", {"c": number(2)}),
        Case("z = Pow(x0, c)", "ll--", {"c": number(0.5)}, positive=True),
        Case("z = Pow(c, x0)", "ll--", {"c": number(1.5)}),
    ],
    "PRelu": [
        Case("z = PRelu(x0, c)", "ll--", {"c": number(0.3).reshape(1, 1, 1)}),
        Case("z = PRelu(x0, c)", "ll--", {"c": weight(K, 1, 1, seed=22)}),
    ],
    # channel by channel
    "MaxPool": [
        Case(f"z = MaxPool <{POOL}> (x0)", "ll--"),
        Case("z = MaxPool <kernel_shape = [4, 4], strides = [3, 3], ceil_mode = 1> (x0)", "ll--"),
        Case("z, i = MaxPool <kernel_shape = [2, 2]> (x0)", "ll--"),
    ],
    "AveragePool": [
        Case(f"z = AveragePool <{POOL}, count_include_pad = 1> (x0)", "lld-"),
        Case(f"z = AveragePool <{POOL}> (x0)", "lld-"),
        Case('z = AveragePool <kernel_shape = [2, 2], auto_pad = "SAME_UPPER"> (x0)', "lld-"),
    ],
    "LpPool": [Case("z = LpPool <kernel_shape = [2, 2], p = 2> (x0)", "ll--", positive=True)],
    "GlobalAveragePool": pointwise("GlobalAveragePool", "lld-"),
    "GlobalMaxPool": pointwise("GlobalMaxPool"),
    "GlobalLpPool": pointwise("GlobalLpPool", attributes="<p = 3>", positive=True),
    "BatchNormalization": [
        Case(
            "z = BatchNormalization <epsilon = 0.01> (x0, g, b, m, v)",
            "lld-",
            {
                "g": weight(K, seed=23),
                "b": weight(K, seed=24),
                "m": weight(K, seed=25),
                "v": np.abs(weight(K, seed=26)) + 0.5,
            },
        )
    ],
    # the same elements in another order
    "Flatten": [
        Case("z = Flatten(x0)", "lld-"),
        Case("t = Transpose <perm = [0, 2, 3, 1]> (x0) z = Flatten(t)", "lld-"),
        Case("z = Flatten <axis = 2> (x0)", "--d-"),
    ],
    "Reshape": [
        Case("z = Reshape(x0, r)", "lld-", {"r": ints(0, K, H * W)}),
        Case("z = Reshape(x0, r)", "lld-", {"r": ints(-1, K * H, W)}),
        Case("z = Reshape(x0, r)", "lld-", {"r": ints(0, K, H * W, 1)}),
        Case("z = Reshape(x0, r)", "--d-", {"r": ints(0, 2, K // 2, H, W)}),
        Case("z = Reshape(x0, r)", "--d-", {"r": ints(-1, H, W)}),
        Case("f = Flatten(x0) z = Reshape(f, r)", "lld-", {"r": ints(0, K, H, W)}),
        Case(
            "t = Transpose <perm = [0, 2, 3, 1]> (x0) f = Flatten(t) z = Reshape(f, r)",
            "lld-",
            {"r": ints(0, H, W * K)},
        ),
        Case(
            "t = Transpose <perm = [0, 2, 3, 1]> (x0) f = Flatten(t) z = Reshape(f, r)",
            "lld-",
            {"r": ints(0, H * W, K)},
        ),
        Case(
            "t = Transpose <perm = [0, 2, 3, 1]> (x0) f = Flatten(t) z = Reshape(f, r)",
            "--d-",
            {"r": ints(0, 20, 9)},
        ),
    ],
    "Squeeze": [
        Case("g = GlobalAveragePool(x0) z = Squeeze(g, i)", "lld-", {"i": ints(2, 3)}),
        Case("g = GlobalAveragePool(x0) z = Squeeze(g, i)", "lld-", {"i": ints(-1)}),
    ],
    "Unsqueeze": [
        Case("z = Unsqueeze(x0, i)", "lld-", {"i": ints(1)}),
        Case("z = Unsqueeze(x0, i)", "lld-", {"i": ints(2, -1)}),
    ],
    "Transpose": [
        Case("z = Transpose <perm = [0, 2, 3, 1]> (x0)", "lld-"),
        Case("z = Transpose <perm = [0, 3, 1, 2]> (x0)", "lld-"),
        Case(
            "t = Transpose <perm = [2, 0, 3, 1]> (x0) r = Relu(t)"
            " z = Transpose <perm = [1, 3, 0, 2]> (r)",
            "lld-",
            output="t",
        ),
    ],
    # sums over axes
    **{
        op: [
            Case(f"z = {op} <keepdims = 0> (x0, i)", states, {"i": ints(2, 3)}, positive=True),
            Case(f"z = {op} (x0, i)", states, {"i": ints(-1)}, positive=True),
            Case(f"z = {op} <keepdims = 0> (x0, i)", over, {"i": ints(1)}, positive=True),
            Case(
                f"t = Transpose <perm = [0, 2, 3, 1]> (x0) z = {op} <keepdims = 0> (t, i)",
                states,
                {"i": ints(1)},
                positive=True,
            ),
        ]
        for op, states, over in (
            ("ReduceMean", "lld-", "--d-"),
            ("ReduceSum", "lld-", "--d-"),
            ("ReduceMax", "ll--", "----"),
            ("ReduceMin", "ll--", "----"),
            ("ReduceL2", "ll--", "----"),
            ("ReduceSumSquare", "ll--", "----"),
        )
    },
    # parts
    "Gather": [
        Case("z = Gather <axis = 2> (x0, i)", "lld-", {"i": ints(4, 1, 1)}),
        Case("z = Gather <axis = -1> (x0, i)", "lld-", {"i": np.array(2)}),
        Case("z = Gather <axis = 2> (x0, i)", "lld-", {"i": ints(0, 5, 2, 3).reshape(2, 2)}),
        Case("z = Gather <axis = 1> (x0, i)", "--d-", {"i": ints(5, 0)}),
        Case(
            "t = Transpose <perm = [0, 2, 3, 1]> (x0) z = Gather <axis = 1> (t, i)",
            "lld-",
            {"i": np.array(3)},
        ),
    ],
    "Slice": [
        Case(
            "z = Slice(x0, b, e, i, t)",
            "lld-",
            {"b": ints(4, 1), "e": ints(-99, 4), "i": ints(2, 3), "t": ints(-2, 1)},
        ),
        Case("z = Slice(x0, b, e, i)", "--d-", {"b": ints(1), "e": ints(4), "i": ints(1)}),
        Case("z = Slice(x0, b, e, i)", "lld-", {"b": ints(1), "e": ints(9), "i": ints(-1)}),
        Case("z = Slice(x0, b, e)", "----", {"b": ints(0, 0, 1, 1), "e": ints(1 << 40, 99, 5, 4)}),
    ],
    "GatherElements": [
        Case(
            "f = Flatten(x0) v = Flatten(u) i = ArgMax <axis = 1> (v)"
            " z = GatherElements <axis = 1> (f, i)",
            "--d-",
        )
    ],
    # sums over the units
    "MatMul": [
        Case("z = MatMul(x0, c)", "--d-", {"c": weight(W, 4, seed=30)}),
        Case("z = MatMul(c, x0)", "--d-", {"c": weight(4, H, seed=31)}),
        Case("z = MatMul(x0, ut)", "--d-"),
        Case(
            "t = Transpose <perm = [0, 2, 3, 1]> (x0) z = MatMul(t, c)",
            "ddd-",
            {"c": weight(K, 4, seed=32)},
        ),
        Case(
            "t = Transpose <perm = [0, 2, 1, 3]> (x0) z = MatMul(c, t)",
            "ddd-",
            {"c": weight(4, K, seed=33)},
        ),
        Case("f = Flatten(x0) z = MatMul(f, c)", "ddd-", {"c": weight(K * H * W, 7, seed=34)}),
        Case(
            "t = Transpose <perm = [0, 2, 3, 1]> (x0) f = Flatten(t) z = MatMul(f, c)",
            "ddd-",
            {"c": weight(K * H * W, 7, seed=34)},
        ),
        Case("t = Transpose <perm = [0, 1, 3, 2]> (x0) z = MatMul(x0, t)", "----"),
        Case("t = Transpose <perm = [0, 2, 3, 1]> (x0) z = MatMul(t, flat)", "ddd-"),
    ],
    "Gemm": [
        Case(
            "f = Flatten(x0) z = Gemm <alpha = 0.5, beta = 2.0> (f, c, b)",
            "ddd-",
            {"c": weight(K * H * W, 7, seed=35), "b": weight(7, seed=36)},
        ),
        Case(
            "f = Flatten(x0) n = Neg(c) z = Gemm <transB = 1> (f, n)",
            "ddd-",
            {"c": weight(7, K * H * W, seed=37)},
        ),
        Case(
            "f = Flatten(x0) z = Gemm <transB = 1> (f, c)",
            "ddd-",
            {"c": weight(7, K * H * W, seed=37)},
        ),
        Case(
            "g = GlobalMaxPool(x0) f = Flatten(g) z = Gemm <alpha = -1.5, transB = 1> (f, c)",
            "dd--",
            {"c": weight(7, K, seed=38)},
        ),
    ],
    "Conv": [
        Case("z = Conv(x0, c, b)", "ddd-", {"c": weight(4, K, 1, 1), "b": weight(4, seed=39)}),
        Case(
            "z = Conv <pads = [1, 0, 1, 2], strides = [2, 1]> (x0, c, b)",
            "ddd-",
            {"c": weight(4, K, 3, 3, seed=40), "b": weight(4, seed=39)},
        ),
        Case("z = Conv <dilations = [2, 2]> (x0, c)", "ddd-", {"c": weight(4, K, 2, 2, seed=41)}),
        Case(
            "z = Conv <strides = [2, 3]> (x0, c, b)",
            "ddd-",
            {"c": weight(4, K, 1, 1), "b": weight(4, seed=39)},
        ),
        Case(
            'z = Conv <auto_pad = "SAME_LOWER", strides = [2, 2]> (x0, c)',
            "ddd-",
            {"c": weight(3, K, 3, 3, seed=42)},
        ),
        Case("z = Conv <group = 2> (x0, c)", "--d-", {"c": weight(4, K // 2, 1, 1, seed=43)}),
        Case(
            "z = Conv <group = 6, pads = [1, 1, 1, 1]> (x0, c, b)",
            "lld-",
            {"c": weight(2 * K, 1, 3, 3, seed=44), "b": weight(2 * K, seed=45)},
        ),
        Case("z = Conv(x0, c)", "ddd-", {"c": weight(8, K, H, W, seed=46)}),
        Case(
            "t = Reshape(x0, r) z = Conv <pads = [1, 1]> (t, c)",
            "ddd-",
            {"r": ints(0, K, H * W), "c": weight(4, K, 3, seed=47)},
        ),
    ],
}

# Operators without a row: they run on the stack, and so does what comes before them.
OTHERS: dict[str, Case] = {
    "Softmax": Case("z = Softmax <axis = 1> (x0)", ""),
    "LogSoftmax": Case("z = LogSoftmax (x0)", ""),
    "LayerNormalization": Case(
        "t = Transpose <perm = [0, 2, 3, 1]> (x0) z = LayerNormalization (t, g, b)",
        "",
        {"g": weight(K, seed=50), "b": weight(K, seed=51)},
    ),
    "InstanceNormalization": Case(
        "z = InstanceNormalization (x0, g, b)", "", {"g": weight(K, seed=50), "b": weight(K)}
    ),
    "GroupNormalization": Case(
        "z = GroupNormalization <num_groups = 2> (x0, g, b)",
        "",
        {"g": weight(K, seed=50), "b": weight(K)},
        opset=21,
    ),
    "LRN": Case("z = LRN <size = 3, alpha = 0.5> (x0)", ""),
    "Concat": Case("z = Concat <axis = 1> (u, x0, u)", ""),
    "Concat on the grid": Case("z = Concat <axis = 3> (x0, u)", ""),
    "Split": Case("z0, z1 = Split <axis = 1, num_outputs = 2> (x0) z = Mul(z0, z1)", ""),
    "Split, one part left": Case("z, z1 = Split <axis = 2> (x0, i)", "", {"i": ints(2, 4)}),
    "Pad": Case("z = Pad(x0, i, c)", "", {"i": ints(0, 1, 2, 0, 0, 0, 1, 1), "c": number(0.5)}),
    "Where": Case("t = Greater(u, c) z = Where(t, x0, s)", "", {"c": number(0)}),
    "Where on itself": Case("t = Greater(x0, c) z = Where(t, u, x0)", "", {"c": number(0.1)}),
    "Resize": Case('z = Resize <mode = "linear"> (x0, , i)', "", {"i": number([1, 1, 2, 2])}),
    "Mean": Case("z = Mean(x0, u)", ""),
    "Einsum": Case('z = Einsum <equation = "nkhw,nlhw->nkl"> (x0, u)', ""),
    "DepthToSpace": Case("t = Concat <axis = 1> (x0, x0) z = DepthToSpace <blocksize = 2> (t)", ""),
    "ConvTranspose": Case(
        "z = ConvTranspose <strides = [2, 2]> (x0, c)", "", {"c": weight(K, 4, 2, 2, seed=52)}
    ),
    "ReduceProd": Case("z = ReduceProd(x0, i)", "", {"i": ints(3)}, positive=True),
    "ReduceLogSumExp": Case("z = ReduceLogSumExp(x0, i)", "", {"i": ints(1)}),
    "CumSum": Case("z = CumSum(x0, i)", "", {"i": np.array(2)}),
    "Expand": Case("g = GlobalMaxPool(x0) z = Expand(g, i)", "", {"i": ints(1, 1, 4, 3)}),
    "Expand to a shape": Case("g = GlobalMaxPool(x0) t = Shape(x0) z = Expand(g, t)", ""),
    "Tile": Case("z = Tile(x0, i)", "", {"i": ints(1, 1, 2, 1)}),
    "TopK": Case("z, i = TopK <axis = 1> (x0, c)", "", {"c": ints(3)}),
    "Hardmax": Case("t = Hardmax <axis = 1> (x0) z = Mul(t, u)", ""),
    "ScatterND": Case("f = Flatten(x0) t = Shape(f) q = ConstantOfShape(t) z = Sub(f, q)", ""),
}

WEIGHTS = {
    "wa": weight(K, 3, 3, 3, seed=10),
    "ba": weight(K, seed=11),
    "w1": weight(K, K, 1, 1, seed=12),
    "wu": weight(K, 3, 1, 1, seed=13),
    "shape": ints(0, 1, K, H * W),
}
BRANCHES = {  # untouched tensors, made from the picture alone
    "u": "u = Conv(x, wu)",
    "s": "su = Conv(x, wu) sg = GlobalAveragePool(su) s = Sigmoid(sg)",
    "ut": "vu = Conv(x, wu) ut = Transpose <perm = [0, 1, 3, 2]> (vu)",
    "flat": "pu = Conv(x, wu) flat = Reshape(pu, shape)",
}


def words(body: str) -> set[str]:
    return set(re.findall(r"\w+", body))


def build(before: str, case: Case) -> onnx.ModelProto:
    """A classifier whose feature map is `a`, with `case` behind BEFORE[before]."""
    branches = " ".join(nodes for name, nodes in BRANCHES.items() if name in words(case.body))
    ahead = "" if case.direct else BEFORE[before]
    body = f"a = Conv <pads = [1, 1, 1, 1]> (x, wa, ba) {branches} {ahead} {case.body}"
    weights = {**WEIGHTS, **case.weights}
    if case.positive:
        weights |= {k: np.abs(WEIGHTS[k]) + np.float32(0.05) for k in ("wa", "ba", "w1", "wu")}
    weights = {k: v for k, v in weights.items() if k in words(body)}
    open_end = models.model(body, weights, outputs="z", opset=case.opset, ir=10)
    (z,) = run(open_end, {"x": picture(1, case.positive)}, ["z"])
    weights["back"] = ints(-1, z.size)
    weights["wy"] = weight(z.size, C, seed=60)
    # The bias keeps scores away from 0, so that weight × score is the drop to full precision.
    weights["by"] = np.array([3, -2, 4, 2.5, -3], np.float32)
    tail = "yf = Reshape(z, back) y = Gemm(yf, wy, by)"
    if before == "off":  # an operator that asks for every switched-off run in full
        weights["back"], weights["wy"] = ints(-1, 2 * z.size), weight(2 * z.size, C, seed=60)
        tail = "z2 = Concat <axis = -1> (z, z) yf = Reshape(z2, back) y = Gemm(yf, wy, by)"
    return models.model(f"{body} {tail}", weights, opset=case.opset, ir=10)


def picture(count: int, positive: bool = False) -> np.ndarray:
    x = images(count, 3, H, W)
    return np.abs(x) + np.float32(0.1) if positive else x


def check(
    proto: onnx.ModelProto,
    x: np.ndarray,
    targets: list[int] = TARGETS,
    layer: str = "a",
    tolerance: float = 1e-5,
    **options: Any,
) -> None:
    """Asserts that the weights give back what masking unit after unit gives."""
    units = options.get("units")
    value, y, want = drops(proto, layer, "y", {"x": x}, units)
    # With weight="slope" the weights are drops over norms, well conditioned whatever the score.
    explainer = Explainer(proto, layer=layer, provider="cpu", threads=1, weight="slope", **options)
    found = explainer(x, [targets] * len(x))
    close(found.scores, y)
    norms = np.sqrt((value.astype(np.float64) ** 2).sum((2, 3)))
    norms = norms if units is None else norms[:, units]
    close(found.weights * norms[:, None], want[:, targets], base=y, tolerance=tolerance)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Records which state each rule gave, by the name of its node's output."""
    found: dict[str, str] = {}

    def recording(rule: Any) -> Any:
        def record(w: Any, node: Any, states: Any) -> Any:
            state = rule(w, node, states)
            found[node.outputs[0].name] = KIND[type(state)]
            return state

        return record

    for op, rule in list(RULES.items()):
        monkeypatch.setitem(RULES, op, recording(rule))
    yield found


def made_by(op: str, case: Case, proto: onnx.ModelProto) -> str:
    """The tensor that the operator under test makes: the last of its kind in `case`."""
    inside = words(case.body)
    made = [n.output[0] for n in proto.graph.node if n.op_type == op and n.output[0] in inside]
    return case.output or made[-1]


def test_every_rule_has_a_case() -> None:
    assert set(SPECS) == set(RULES)


@pytest.mark.parametrize("op", SPECS)
def test_rule(op: str, seen: dict[str, str]) -> None:
    for case in SPECS[op]:
        for before, state in zip(BEFORE, case.states, strict=True):
            if state == " ":
                continue
            proto = build(before, case)
            x = picture(3, case.positive)
            seen.clear()
            check(proto, x)
            given = seen[made_by(op, case, proto)]
            assert given[0] == state, f"{case.body} behind {before!r}: {given}"
            if before in ("zero", "off"):  # the other code path: units by number, in blocks
                check(proto, x[:1], units=[4, 1, 2], memory=1)


@pytest.mark.parametrize("name", OTHERS)
def test_operators_without_a_rule(name: str) -> None:
    case = OTHERS[name]
    for before in BEFORE:
        proto = build(before, case)
        x = picture(3, case.positive)
        check(proto, x)
        check(proto, x[:1], ablation="literal")


# Whole heads, from the feature map `a` (N, 6, 6, 5) to `z`; each is closed by a dense layer.
HEADS = {
    "mean and dense": "z = GlobalAveragePool(a)",
    "dense on NCHW": "r = Relu(a) f = Flatten(r) h = Gemm(f, w9, b9) z = Relu(h)",
    "dense on NHWC": "r = Relu(a) t = Transpose <perm = [0, 2, 3, 1]> (r) f = Flatten(t)"
    " h = Gemm(f, w9, b9) z = Relu(h)",
    "max pool, then dense": "m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a)"
    " f = Flatten(m) h = Gemm(f, w36, b9) z = Tanh(h)",
    "residual block": "c1 = Conv <pads = [1, 1, 1, 1]> (a, k3) r1 = Relu(c1)"
    " c2 = Conv <pads = [1, 1, 1, 1]> (r1, k3) s1 = Add(c2, a) z = Relu(s1)",
    "residual around an affine block": "c1 = Conv <pads = [1, 1, 1, 1]> (a, k3)"
    " c2 = Conv(c1, k1) s1 = Add(a, c2) g = GlobalAveragePool(s1) z = Flatten(g)",
    "residual from before the map": "c1 = Conv(a, k1) s1 = Add(u, c1) r1 = Relu(s1)"
    " z = GlobalAveragePool(r1)",
    "squeeze and excite": "g = GlobalAveragePool(a) e1 = Conv(g, k1) e2 = Relu(e1)"
    " e3 = Conv(e2, k1) e4 = Sigmoid(e3) m = Mul(a, e4) z = GlobalAveragePool(m)",
    "gate of an untouched branch": "m = Mul(a, s) r = Relu(m) z = GlobalAveragePool(r)",
    "concatenated with other tensors": "c1 = Conv(a, k1) q = Concat <axis = 1> (u, a, c1)"
    " c2 = Conv(q, k18) r = Relu(c2) z = GlobalAveragePool(r)",
    "branches of several sizes": "c1 = Conv(a, k1) c2 = Conv <pads = [1, 1, 1, 1]> (a, k3)"
    " m = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (a)"
    " q = Concat <axis = 1> (c1, c2, m) z = Relu(q)",
    "grouped convolutions and a shuffle": "c1 = Conv <group = 2> (a, kg) q = Reshape(c1, r23)"
    " t = Transpose <perm = [0, 2, 1, 3, 4]> (q) c2 = Reshape(t, r6)"
    " c3 = Conv <group = 6, pads = [1, 1, 1, 1]> (c2, kd) z = Relu(c3)",
    "a shuffle of the units": "q = Reshape(a, r23) t = Transpose <perm = [0, 2, 1, 3, 4]> (q)"
    " c2 = Reshape(t, r6) c3 = Conv <group = 6, pads = [1, 1, 1, 1]> (c2, kd) z = Relu(c3)",
    "depthwise separable": "c1 = Conv <group = 6, pads = [1, 1, 1, 1]> (a, kd, b6)"
    " l1 = Clip(c1, zero, six) c2 = Conv(l1, k1) z = Clip(c2, zero, six)",
    "strided convolution": "c1 = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (a, k3, b6)"
    " z = Relu(c1)",
    "self-attention over positions": "q = Reshape(a, rt) t = Transpose <perm = [0, 2, 1]> (q)"
    " qq = MatMul(t, m6) kk = MatMul(t, n6) vv = MatMul(t, m6)"
    " kt = Transpose <perm = [0, 2, 1]> (kk) aw = MatMul(qq, kt) ap = Softmax <axis = -1> (aw)"
    " o = MatMul(ap, vv) o2 = MatMul(o, n6) z = Add(o2, t)",
    "LayerNorm of tokens": "q = Reshape(a, rt) t = Transpose <perm = [0, 2, 1]> (q)"
    " n = LayerNormalization(t, g6, b6) c = Gather <axis = 1> (n, first) z = MatMul(c, m6)",
    "one token": "q = Reshape(a, rt) t = Transpose <perm = [0, 2, 1]> (q)"
    " c = Gather <axis = 1> (t, first) h = Gemm(c, m6, b6) z = Relu(h)",
    "split and gate": "z0, z1 = Split <axis = 1, num_outputs = 2> (a) s0 = Sigmoid(z0)"
    " z = Mul(s0, z1)",
    "padded": "q = Pad(a, pads) c1 = Conv(q, k3) z = Relu(c1)",
    "chosen by a mask": "t = Less(a, zero) z = Where(t, u, a)",
    "a slice": "q = Slice(a, one, five, axes) c1 = Conv(q, k1) z = Relu(c1)",
    "batch normalised": "n = BatchNormalization(a, g6, b6, m1, v1) c1 = Conv(n, k1)"
    " n2 = BatchNormalization(c1, g6, b6, m1, v1) z = Relu(n2)",
    "maps of the classes": "c1 = Conv(a, k1, b6) r = Relu(c1) z = GlobalAveragePool(r)",
    "two heads, added": "g = GlobalAveragePool(a) m = GlobalMaxPool(a) c1 = Conv(g, k1)"
    " c2 = Conv(m, k1) z = Add(c1, c2)",
    "log of a softmax of pooled": "g = GlobalAveragePool(a) f = Flatten(g) p = Softmax(f)"
    " z = Log(p)",
    **{
        f"one token of two attention blocks, {name}": (
            "q = Reshape(a, rt) t0 = Transpose <perm = [0, 2, 1]> (q)"
            + "".join(
                f" l{i} = LayerNormalization(t{i}, g6, b6) qq{i} = MatMul(l{i}, m6)"
                f" kk{i} = MatMul(l{i}, n6) vv{i} = MatMul(l{i}, m6) qh{i} = Reshape(qq{i}, heads)"
                f" kh{i} = Reshape(kk{i}, heads) vh{i} = Reshape(vv{i}, heads)"
                f" qt{i} = Transpose <perm = [0, 2, 1, 3]> (qh{i})"
                f" kt{i} = Transpose <perm = [0, 2, 3, 1]> (kh{i})"
                f" vt{i} = Transpose <perm = [0, 2, 1, 3]> (vh{i}) aw{i} = MatMul(qt{i}, kt{i})"
                f" ap{i} = Softmax(aw{i}) o{i} = MatMul(ap{i}, vt{i})"
                f" ot{i} = Transpose <perm = [0, 2, 1, 3]> (o{i}) om{i} = Reshape(ot{i}, join)"
                f" op{i} = MatMul(om{i}, n6) s{i} = Add(t{i}, op{i})"
                f" n{i} = LayerNormalization(s{i}, g6, b6) h{i} = MatMul(n{i}, m6)"
                f" e{i} = Gelu(h{i}) d{i} = MatMul(e{i}, n6) t{i + 1} = Add(s{i}, d{i})"
                for i in range(2)
            )
            + " nf = LayerNormalization(t2, g6, b6) "
            + pick
            + " z = MatMul(c, m6)"
        )
        for name, pick in {
            "by Gather": "c = Gather <axis = 1> (nf, first)",
            "by Gather from the end": "c = Gather <axis = 1> (nf, last)",
            "by Gather of a list": "c1 = Gather <axis = 1> (nf, second) c = Squeeze(c1, one1)",
            "by Slice": "c1 = Slice(nf, third, fourth, one1) c = Squeeze(c1, one1)",
            "two of them": "c1 = Gather <axis = 1> (nf, first) c2 = Gather <axis = 1> (nf, last)"
            " c = Sub(c1, c2)",
            "and the mean of all": "c1 = Gather <axis = 1> (nf, first)"
            " c2 = ReduceMean <keepdims = 0> (nf, one1) c = Mul(c1, c2)",
        }.items()
    },
    "NHWC throughout": "t = Transpose <perm = [0, 2, 3, 1]> (a) h = MatMul(t, m6) r = Relu(h)"
    " n = LayerNormalization(r, g6, b6) z = ReduceMean <keepdims = 0> (n, hw)",
}
SHARED_WEIGHTS = {
    **{"w9": weight(180, 9, seed=70), "b9": weight(9, seed=71), "w36": weight(36, 9, seed=72)},
    **{"k3": weight(K, K, 3, 3, seed=73), "k1": weight(K, K, 1, 1, seed=74)},
    **{"k18": weight(7, 18, 1, 1, seed=75), "kg": weight(K, 3, 1, 1, seed=76)},
    **{"kd": weight(K, 1, 3, 3, seed=77), "b6": weight(K, seed=78), "g6": weight(K, seed=79) + 1},
    **{"m6": weight(K, K, seed=80), "n6": weight(K, K, seed=81), "m1": weight(K, seed=82)},
    **{"v1": np.abs(weight(K, seed=83)) + 0.3, "zero": number(0), "six": number(1.5)},
    **{"r23": ints(0, 2, 3, H, W), "r6": ints(0, 6, H, W), "rt": ints(0, K, H * W)},
    **{"first": np.array(0), "pads": ints(0, 0, 1, 1, 0, 0, 0, 2), "one": ints(1, 0)},
    **{"five": ints(5, 4), "axes": ints(2, 3), "hw": ints(1, 2)},
    **{"heads": ints(0, H * W, 2, 3), "join": ints(0, H * W, K), "last": np.array(-1)},
    **{"second": ints(1), "one1": ints(1), "third": ints(2), "fourth": ints(3)},
}


@pytest.mark.parametrize("name", HEADS)
def test_head(name: str) -> None:
    proto = build("zero", Case(HEADS[name], "", SHARED_WEIGHTS, direct=True, opset=20))
    x = picture(3)
    check(proto, x)
    check(proto, x, ablation="literal")
    check(proto, x, memory=1)
    check(proto, x[:1], [1], units=[5, 2])


def test_a_map_of_one_unit() -> None:
    """Its axis of one element is broadcast by what it meets."""
    for body in (
        "q = Add(a, u) r = Relu(q) z = GlobalAveragePool(r)",
        "r = Sigmoid(a) q = Mul(u, r) z = GlobalMaxPool(q)",
        "q = Conv <pads = [1, 1, 1, 1]> (a, k) z = Relu(q)",
        "f = Flatten(a) z = Gemm(f, v)",
        "q = Mul(a, u) z = Conv(q, k6)",
        "g = GlobalAveragePool(a) z = Sub(u, g)",
    ):
        weights = {"wa": weight(1, 3, 3, 3, seed=1), "ba": weight(1), "k": weight(3, 1, 3, 3)}
        weights["k6"] = weight(4, K, 1, 1, seed=5)
        proto = build("zero", Case(body, "", {**weights, "v": weight(30, 4)}, direct=True))
        check(proto, picture(3))
        check(proto, picture(1), ablation="literal")
        check(proto, picture(1), memory=1)


# Steps that keep the shape (N, 6, 6, 5); `{x}` and `{y}` are tensors, `{i}` makes names unique.
STEPS = (
    "{y} = Relu({x})",
    "{y} = Sigmoid({x})",
    "{y} = HardSwish({x})",
    "{y} = Conv(  {x}, k1, b6)",
    "{y} = Conv <pads = [1, 1, 1, 1]> ({x}, k3)",
    "{y} = Conv <group = 2> ({x}, kg)",
    "{y} = Conv <group = 6, pads = [1, 1, 1, 1]> ({x}, kd, b6)",
    "{y} = BatchNormalization({x}, g6, b6, m1, v1)",
    "{y} = Add({x}, u)",
    "{y} = Sub(u, {x})",
    "{y} = Mul(s, {x})",
    "{y} = Add({x}, a)",
    "g{i} = GlobalAveragePool({x}) h{i} = Conv(g{i}, k1) j{i} = Sigmoid(h{i}) {y} = Mul({x}, j{i})",
    "g{i} = GlobalAveragePool({x}) {y} = Sub({x}, g{i})",
    "{y} = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> ({x})",
    "{y} = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> ({x})",
    "q{i} = Concat <axis = 1> ({x}, u, a) {y} = Conv(q{i}, k18s)",
    "t{i} = Transpose <perm = [0, 2, 3, 1]> ({x}) mm{i} = MatMul(t{i}, m6)"
    " {y} = Transpose <perm = [0, 3, 1, 2]> (mm{i})",
    "t{i} = Transpose <perm = [0, 2, 3, 1]> ({x}) mm{i} = LayerNormalization(t{i}, g6, b6)"
    " {y} = Transpose <perm = [0, 3, 1, 2]> (mm{i})",
    "q{i} = Reshape({x}, r23) t{i} = Transpose <perm = [0, 2, 1, 3, 4]> (q{i})"
    " {y} = Reshape(t{i}, r6)",
    "f{i} = Flatten({x}) {y} = Reshape(f{i}, r6)",
    "{y} = Softmax <axis = 1> ({x})",
    "{y} = Clip({x}, zero, six)",
)
ENDS = (
    "z = GlobalAveragePool({x})",
    "z = GlobalMaxPool({x})",
    "z = Flatten({x})",
    "t = Transpose <perm = [0, 2, 3, 1]> ({x}) z = Flatten(t)",
    "f = Flatten({x}) h = Gemm(f, w9, b9) z = Relu(h)",
    "z = ReduceMean <keepdims = 0> ({x}, hw)",
)


@settings(max_examples=40)
@given(st.lists(st.sampled_from(STEPS), min_size=1, max_size=5), st.sampled_from(ENDS))
def test_random_heads(steps: list[str], end: str) -> None:
    body, x = [], "a"
    for i, step in enumerate(steps):
        body.append(step.format(x=x, y=f"y{i}", i=i))
        x = f"y{i}"
    weights = {**SHARED_WEIGHTS, "k18s": weight(K, 18, 1, 1, seed=90)}
    proto = build("zero", Case(" ".join([*body, end.format(x=x)]), "", weights, direct=True))
    check(proto, picture(2))
    check(proto, picture(1), ablation="literal")
    check(proto, picture(1), units=[3, 0, 4], memory=1)
