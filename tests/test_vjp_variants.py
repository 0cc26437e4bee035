"""Guided backpropagation and deconvnet, by values computed by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gradcheck import gradient_model

from models import model, session
from onnxcam.diff import VARIANTS, VJP
from onnxcam.errors import OptionError

X = np.array([[-3.0, -1.0, 0.0, 0.5, 2.0, 4.0, 2.0, -1.0]], np.float32)
G = np.array([[1.0, 2.0, 3.0, -4.0, 5.0, 6.0, -7.0, -8.0]], np.float32)
POSITIVE = np.array([[1.0, 2.0, 3.0, 0.0, 5.0, 6.0, 0.0, 0.0]])
"""max(g, 0)"""


def gradient(
    body: str,
    variant: str,
    weights: dict[str, Any] | None = None,
    x: np.ndarray = X,
    g: np.ndarray = G,
    opset: int = 21,
) -> np.ndarray:
    """The gradient of a model of one input."""
    shapes = [",".join(["N", *map(str, t.shape[1:])]) for t in (x, g)]
    proto = model(body, weights, f"float[{shapes[0]}] x", f"float[{shapes[1]}] y", opset, ir=10)
    found = session(gradient_model(proto, variant=variant)).run(None, {"x": x, "cotangent": g})
    return np.asarray(found[0])


def equal(got: np.ndarray, want: np.ndarray) -> None:
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_the_papers_change_relu_and_nothing_else() -> None:
    assert set(VARIANTS) == {"standard", "guided", "deconv", "guided-all", "deconv-all"}
    assert VARIANTS["standard"] == {}
    assert set(VARIANTS["guided"]) == set(VARIANTS["deconv"]) == {"Relu"}
    assert set(VARIANTS["guided-all"]) == set(VARIANTS["deconv-all"])
    assert set(VARIANTS["guided-all"]) <= set(VJP)


@pytest.mark.parametrize(
    ("variant", "want"),
    [
        ("standard", [0, 0, 0, -4, 5, 6, -7, 0]),
        ("guided", [0, 0, 0, 0, 5, 6, 0, 0]),
        ("guided-all", [0, 0, 0, 0, 5, 6, 0, 0]),
        ("deconv", [1, 2, 3, 0, 5, 6, 0, 0]),
        ("deconv-all", [1, 2, 3, 0, 5, 6, 0, 0]),
    ],
)
def test_relu(variant: str, want: list[float]) -> None:
    equal(gradient("y = Relu(x)", variant), np.array([want]))


def test_two_layers() -> None:
    # x = (1, 2) → z = (1 − 2, 1 + 2·2) = (−1, 5) → Relu (0, 5) → y = (5, −5)
    # g = (1, 3) → back through the second matrix (1·2 − 3·1, 1 − 3) = (−1, −2)
    weights = {"a": np.float32([[1, 1], [-1, 2]]), "b": np.float32([[2, -1], [1, -1]])}
    body = "h = Relu(x) z = MatMul(h, a) r = Relu(z) y = MatMul(r, b)"
    x, g = np.float32([[1, 2]]), np.float32([[1, 3]])
    equal(gradient(body, "standard", weights, x, g), np.array([[-2, -4]]))
    equal(gradient(body, "guided", weights, x, g), np.array([[0, 0]]))
    equal(gradient(body, "deconv", weights, x, g), np.array([[0, 0]]))
    # g = (1, 0): back (2, 1); standard and guided keep (0, 1), deconv both.
    g = np.float32([[1, 0]])
    equal(gradient(body, "standard", weights, x, g), np.array([[1, 2]]))
    equal(gradient(body, "guided", weights, x, g), np.array([[1, 2]]))
    equal(gradient(body, "deconv", weights, x, g), np.array([[3, 0]]))


RECTIFIERS = {
    "LeakyRelu": ("y = LeakyRelu <alpha = 0.1> (x)", {}),
    "PRelu": ("y = PRelu(x, a)", {"a": np.float32([0.25])}),
    "ThresholdedRelu": ("y = ThresholdedRelu(x)", {}),
    "Elu": ("y = Elu(x)", {}),
    "Selu": ("y = Selu(x)", {}),
    "Celu": ("y = Celu(x)", {}),
    "HardSwish": ("y = HardSwish(x)", {}),
    "Mish": ("y = Mish(x)", {}),
    "Gelu": ("y = Gelu(x)", {}),
    "Clip": ("y = Clip(x, low, high)", {"low": np.float32(0), "high": np.float32(6)}),
}


@pytest.mark.parametrize("op", RECTIFIERS)
def test_every_rectifier(op: str) -> None:
    body, weights = RECTIFIERS[op]
    slope = gradient(body, "standard", weights, g=np.ones_like(X))
    assert slope.any()
    equal(gradient(body, "guided", weights), slope * G)
    equal(gradient(body, "deconv", weights), slope * G)
    equal(gradient(body, "guided-all", weights), slope * POSITIVE)
    equal(gradient(body, "deconv-all", weights), POSITIVE)


def test_no_rectifier_is_left_out() -> None:
    assert {*RECTIFIERS, "Relu", "Swish", "Mul"} == set(VARIANTS["guided-all"])


SWISH = "s = Sigmoid(x) y = Mul(x, s)"
HARD = "a = Add(x, three) c = Clip(a, low, six) "
ROOT = {"root": np.float32(np.sqrt(2)), "one": np.float32(1), "half": np.float32(0.5)}
LIMITS = {"three": np.float32(3), "low": np.float32(0), "six": np.float32(6)}
CUBIC = {"third": np.float32(0.044715), "k": np.float32(np.sqrt(2 / np.pi)), "p": np.float32(3)}
IN_PARTS = {
    "swish": (SWISH, {}),
    "swish, turned": ("s = Sigmoid(x) y = Mul(s, x)", {}),
    "quick gelu": ("t = Mul(x, k) s = Sigmoid(t) y = Mul(x, s)", {"k": np.float32(1.702)}),
    "mish": ("p = Softplus(x) t = Tanh(p) y = Mul(x, t)", {}),
    "gelu": ("d = Div(x, root) e = Erf(d) f = Add(e, one) m = Mul(x, f) y = Mul(m, half)", ROOT),
    "gelu, halved before": (
        "h = Mul(x, half) d = Div(x, root) e = Erf(d) f = Add(e, one) y = Mul(h, f)",
        ROOT,
    ),
    "gelu by tanh": (
        "q = Pow(x, p) a = Mul(q, third) b = Add(x, a) c = Mul(b, k) t = Tanh(c)"
        " f = Add(t, one) m = Mul(x, f) y = Mul(m, half)",
        ROOT | CUBIC,
    ),
    "hard swish": (HARD + "m = Mul(x, c) y = Div(m, six)", LIMITS),
    "hard swish, turned": (HARD + "m = Mul(c, x) y = Div(m, six)", LIMITS),
    "hard swish, divided before": (HARD + "d = Div(c, six) y = Mul(x, d)", LIMITS),
    "hard swish by HardSigmoid": ("c = HardSigmoid <alpha = 0.1666667> (x) y = Mul(x, c)", {}),
}


@pytest.mark.parametrize("name", IN_PARTS)
def test_an_activation_in_parts_is_one_activation(name: str) -> None:
    body, weights = IN_PARTS[name]
    slope = gradient(body, "standard", weights, g=np.ones_like(X))
    equal(gradient(body, "guided", weights), slope * G)
    equal(gradient(body, "guided-all", weights), slope * POSITIVE)
    equal(gradient(body, "deconv-all", weights), POSITIVE)


@pytest.mark.parametrize(
    "body", ["y = Mul(x, x)", "q = Mul(x, x) y = Mul(x, q)", "t = Neg(x) y = Mul(t, x)"]
)
@pytest.mark.parametrize("variant", ["guided-all", "deconv-all"])
def test_products_without_a_gate_keep_their_gradient(body: str, variant: str) -> None:
    equal(gradient(body, variant), gradient(body, "standard"))


def squeezed(gate: str) -> str:
    """Squeeze and excitation of 2 channels with 2 cells each."""
    return f"m = ReduceMean(x, two) h = Mul(m, w) {gate} y = Mul(x, s)"


@pytest.mark.parametrize(
    "gate", ["s = Sigmoid(h)", "s = HardSigmoid(h)", "a = Add(h, three) c = Clip(a, low, six)"
             " s = Div(c, six)"]
)  # fmt: skip
@pytest.mark.parametrize("variant", ["guided-all", "deconv-all"])
def test_gates_of_squeeze_and_excitation_keep_their_gradient(gate: str, variant: str) -> None:
    weights = LIMITS | {"two": np.int64([2]), "w": np.float32([[[-0.5], [2.0]]])}
    x, g = X.reshape(2, 2, 2), G.reshape(2, 2, 2)
    standard = gradient(squeezed(gate), "standard", weights, x, g)
    assert (standard < 0).any()
    equal(gradient(squeezed(gate), variant, weights, x, g), standard)


def test_a_clip_before_a_gate_is_a_rectifier() -> None:
    body = "r = Clip(x, low, six) m = ReduceMean(r, two) s = Sigmoid(m) y = Mul(r, s)"
    weights = LIMITS | {"two": np.int64([2])}
    x, g = X.reshape(2, 2, 2), np.float32([[[1, 2], [3, -40]], [[5, 6], [-7, -8]]])
    inner = gradient(body.replace("Clip(x, low, six)", "Identity(x)"), "standard", weights,
                     np.clip(x, 0, 6), g)  # fmt: skip
    assert (inner < 0).any()
    inside = (x > 0) & (x < 6)
    equal(gradient(body, "guided-all", weights, x, g), inside * np.maximum(inner, 0))
    equal(gradient(body, "deconv-all", weights, x, g), np.maximum(inner, 0))


def test_swish_of_opset_24() -> None:
    proto = model("y = Swish(x)", {}, "float[N,8] x", "float[N,8] y", 24, ir=10)
    made = gradient_model(proto, variant="deconv-all")
    assert [n.op_type for n in made.graph.node] == ["Relu", "Identity"]
    made = gradient_model(proto, variant="guided-all")
    s = 1 / (1 + np.exp(-X))
    got = session(made).run(None, {"x": X, "cotangent": G})[0]
    equal(got, (s + X * s * (1 - s)) * POSITIVE)


def test_an_unknown_variant_is_named_with_those_there_are() -> None:
    with pytest.raises(OptionError, match=r"'guide'.*did you mean 'guided.*choose standard"):
        gradient("y = Relu(x)", "guide")
