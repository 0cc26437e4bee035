"""The rule table against the test tables: every rule by differences, and what has no rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
import vjp_elementwise
import vjp_expanded
import vjp_structural
from gradcheck import Spec, check_again, gradient_model
from test_vjp_quantised import QUANTISED

from models import model, run, session
from onnxcam.diff import VJP, gradients
from onnxcam.diff.vjp import CONSTANT, STEPS
from onnxcam.errors import OpError
from onnxcam.graph.emit import Emitter
from onnxcam.graph.shapes import annotate

TABLES = [*vjp_elementwise.SPECS, *vjp_structural.SPECS]
EXPANDED = vjp_expanded.EXPANDED
FIRST = list({s.op: s for s in reversed(vjp_elementwise.SPECS) if s.evaluator}.values())
"""One row of each operator."""


def test_every_rule_has_rows_and_every_row_a_rule() -> None:
    assert {s.op for s in TABLES} | QUANTISED == set(VJP)
    assert not {s.op for s in EXPANDED} & set(VJP)


def test_no_two_rows_have_one_name() -> None:
    names = [s.id for s in (*TABLES, *EXPANDED)]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("spec", TABLES, ids=lambda s: s.id)
def test_rule(spec: Spec) -> None:
    spec.check()


@pytest.mark.parametrize("spec", EXPANDED, ids=lambda s: s.id)
def test_definition(spec: Spec) -> None:
    spec.check()


@pytest.mark.parametrize("spec", FIRST, ids=lambda s: s.op)
def test_gradients_have_gradients(spec: Spec) -> None:
    check_again(spec)


def gradient(body: str, weights: dict[str, Any] | None = None, **options: Any) -> list[str]:
    """Differentiates a model of (N, 3) → (N, 3); the notes made on the way."""
    proto = model(body, weights, "float[N,3] x", "float[N,3] y", **options)
    graph = gs.import_onnx(proto)
    annotate(graph.nodes, graph.opset)
    y, notes = graph.outputs[0], []
    cotangent = gs.Variable("cotangent", y.dtype, y.shape)
    gradients(Emitter(graph), y, cotangent, graph.inputs, notes=notes)
    return notes


def test_the_kinds_of_operator_are_apart() -> None:
    assert not CONSTANT & STEPS
    assert not (CONSTANT | STEPS) & set(VJP)
    known = {s.name for s in onnx.defs.get_all_schemas_with_history() if s.domain == ""}
    assert known >= CONSTANT | STEPS | set(VJP)


@pytest.mark.parametrize("op", sorted(STEPS))
def test_a_step_passes_nothing_and_is_noted(op: str) -> None:
    notes = gradient(f"[steps] s = {op}(x) y = Add(x, s)")
    assert notes == [f"node 'steps' ({op}) passes no gradient: its derivative is 0 everywhere"]
    proto = model(f"s = {op}(x) y = Add(x, s)", None, "float[N,3] x", "float[N,3] y")
    g = np.float32([[1, -2, 3]])
    found = session(gradient_model(proto)).run(None, {"x": g / 2, "cotangent": g})[0]
    assert found.tolist() == g.tolist()


def test_a_step_met_twice_is_noted_once() -> None:
    assert len(gradient("[a] s = Floor(x) t = Mul(s, x) y = Add(s, t)")) == 1


@pytest.mark.parametrize(
    "decision",
    [
        "c = Greater(x, k) d = Cast <to = 1> (c)",
        "c = LessOrEqual(x, k) n = Not(c) d = Where(n, k, k)",
        "c = Cast <to = 9> (x) d = Cast <to = 1> (c)",
        "d = Hardmax(x)",
        "i = ArgMax <axis = 1> (x) d = Cast <to = 1> (i)",
        "s = Shape(x) d = ConstantOfShape(s)",
        "c = IsNaN(x) d = CastLike(c, k)",
    ],
)
def test_decisions_and_shapes_pass_nothing_in_silence(decision: str) -> None:
    body = f"{decision} y = Mul(x, d)"
    weights = {"k": np.float32([0.5])}
    assert gradient(body, weights) == []
    proto = model(body, weights, "float[N,3] x", "float[N,3] y")
    feeds = {"x": np.float32([[1, -2, 3]])}
    factor = run(proto, feeds, ["d"])[0]
    g = np.float32([[5, 7, 11]])
    found = session(gradient_model(proto)).run(None, {**feeds, "cotangent": g})[0]
    assert found.tolist() == (g * factor).tolist()


def test_what_does_not_depend_on_it_has_no_gradient() -> None:
    proto = model("c = Greater(x, k) y = Cast <to = 1> (c)", {"k": np.float32([0.5])},
                  "float[N,3] x", "float[N,3] y")  # fmt: skip
    with pytest.raises(AssertionError, match="no gradient for x"):
        gradient_model(proto)


@pytest.mark.parametrize(
    ("node", "op"), [("Det(t)", "Det"), ("com.example.Swirl(t)", "Swirl"), ("Compress(t, c)", "C")]
)
def test_an_operator_without_a_rule_is_named(node: str, op: str) -> None:
    with pytest.raises(OpError, match=rf"node 'odd' \({op}.*\): there is no gradient rule for th"):
        body = f"t = Relu(x) [odd] y = {node}"
        gradient(body, {"c": np.array([True, False, True])}, imports=', "com.example": 1')


def test_off_the_path_any_operator_may_stand() -> None:
    gradient("u = com.example.Swirl(k) y = Add(x, u)", {"k": np.float32([1])},
             imports=', "com.example": 1')  # fmt: skip


def test_a_strange_attribute_is_named() -> None:
    with pytest.raises(OpError, match=r"node 'odd' \(Relu\): the gradient rule does not know its "
                       r"attribute 'slope'"):  # fmt: skip
        gradient("[odd] y = Relu <slope = 0.5> (x)")


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("[it] y = Dropout(x, r, yes)", "Dropout in training mode"),
        ("[it] y, m, v = BatchNormalization <training_mode = 1> (x, k, k, k, k)", "training mode"),
        ("[it] m = ReduceMean(x, zero) y = Add(x, m)", "along the batch"),
        ("[it] m = ReduceMean(x) y = Add(x, m)", "along the batch"),
    ],
)
def test_forms_without_a_rule_are_named(body: str, what: str) -> None:
    weights = {"r": np.float32(0.5), "yes": np.array(True), "k": np.float32([1, 2, 3])}
    weights["zero"] = np.int64([0])
    with pytest.raises(OpError, match=rf"node 'it' \(\w+\): .*{what}"):
        gradient(body, weights)


def test_an_opset_below_that_of_the_rules_is_refused() -> None:
    with pytest.raises(OpError, match="stays in opset 15, and gradients need 16"):
        gradient("y = Relu(x)", opset=15)


@pytest.mark.parametrize(
    ("body", "x", "want"),
    [
        ("y = Relu(x)", [-1, 0, 1], [0, 0, 1]),
        ("y = Clip(x, zero, six)", [0, 3, 6], [0, 1, 0]),
        ("y = Clip(x, zero, six)", [-1, 7, 5], [0, 0, 1]),
        ("y = LeakyRelu <alpha = 0.5> (x)", [-1, 0, 1], [0.5, 0.5, 1]),
        ("y = Elu(x)", [-20, 0, 1], [0, 1, 1]),
        ("y = HardSigmoid <alpha = 0.25> (x)", [-2, 0, 2], [0, 0.25, 0]),
        ("y = HardSwish(x)", [-3, 0, 3], [0, 0.5, 1]),
        ("y = ThresholdedRelu(x)", [0, 1, 2], [0, 0, 1]),
        ("y = Abs(x)", [-2, 0, 2], [-1, 0, 1]),
        ("y = Max(x, zero)", [-1, 0, 1], [0, 1, 1]),
        ("y = Min(six, x)", [5, 6, 7], [1, 0, 0]),
        ("m = ReduceMax <keepdims = 1> (x, one) y = Add(m, nothing)", [2, 5, 5], [0, 1.5, 1.5]),
        ("y = LpNormalization <p = 2> (x)", [0, 0, 0], [0, 0, 0]),
        ("y = LpNormalization <p = 1> (x)", [-1, 2, 1], [0.375, 0.125, 0.125]),
        ("m = ReduceL2 (x, one) y = Add(m, nothing)", [0, 0, 0], [0, 0, 0]),
    ],
)
def test_at_kinks_and_ties(body: str, x: list[float], want: list[float]) -> None:
    weights = {"zero": np.float32(0), "six": np.float32(6), "one": np.int64([1])}
    weights["nothing"] = np.float32([0, 0, 0])
    proto = model(body, weights, "float[N,3] x", "float[N,3] y", opset=21, ir=10)
    feeds = {"x": np.float32([x]), "cotangent": np.float32([[1, 1, 1]])}
    found = session(gradient_model(proto)).run(None, feeds)[0]
    np.testing.assert_allclose(found, [want], atol=1e-7)
