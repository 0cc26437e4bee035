"""LSTM, GRU and RNN: differences in float64, free batches, size, and forms that are refused."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from gradcheck import Spec, along, check_again, gradient_model, node_model
from onnx.reference import ReferenceEvaluator

import models
import onnxcam
from models import rng, session, weight
from onnxcam.diff.bodies import BODIES
from onnxcam.diff.recurrent import CELLS
from onnxcam.errors import OpError
from onnxcam.explainer.ways import availability
from onnxcam.graph.model import Model
from onnxcam.graph.shapes import static_shapes

STEPS, BATCH, WIDE, HIDDEN = 4, 2, 5, 3
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
FORMS: list[tuple[str, dict[str, Any]]] = [
    ("LSTM", {}),
    ("GRU", {}),
    ("GRU", {"linear_before_reset": 1}),
    ("RNN", {}),
]
DIRECTIONS = ("forward", "reverse", "bidirectional")


def arrays(op: str, directions: int = 1, steps: int = STEPS) -> tuple[np.ndarray | None, ...]:
    """The inputs: sequence, weights, recurrent weights, bias, none, h, c; small as trained ones."""
    rows = GATES[op] * HIDDEN
    shapes: list[tuple[int, ...] | None] = [
        (steps, BATCH, WIDE), (directions, rows, WIDE), (directions, rows, HIDDEN),
        (directions, 2 * rows), None, (directions, BATCH, HIDDEN), (directions, BATCH, HIDDEN),
    ]  # fmt: skip
    random = rng(3)
    given = [None if s is None else random.normal(scale=0.6, size=s) for s in shapes]
    return tuple(given if op == "LSTM" else given[:-1])


def spec(
    op: str, form: dict[str, Any], direction: str, given: int | None = None, **options: Any
) -> Spec:
    """A row of the table; `given`: how many inputs."""
    count = 2 if direction == "bidirectional" else 1
    attributes = {"hidden_size": HIDDEN, "direction": direction, **form}
    if op == "RNN":
        attributes.setdefault("activations", ["Tanh"] * count)  # the evaluator wants one for each
    note = f"{direction} {given or 'all'} {''.join(form)} {options.get('output', 0)}"
    return Spec(op, arrays(op, count)[:given], attributes, note, **options)


def specs() -> Iterator[Spec]:
    ways = [("bidirectional", 3), ("bidirectional", 4), *((d, None) for d in DIRECTIONS)]
    for (op, form), (direction, given) in itertools.product(FORMS, ways):
        outputs = 3 if op == "LSTM" else 2
        for output in range(outputs):
            yield spec(op, form, direction, given, outputs=outputs, output=output)


@pytest.mark.parametrize("row", [*specs()], ids=lambda row: row.id)
def test_against_differences(row: Spec) -> None:
    row.check()


def test_every_cell_is_checked() -> None:
    here = {("linear GRU" if form else op) for op, form in FORMS}
    assert {kind for kind, *_ in CELLS} == here
    assert {op for domain, op in BODIES if not domain} >= set(GATES)
    assert {a for kind, *a in CELLS if kind == "RNN" for a in a} == {"Tanh", "Relu"}


def test_rnn_with_relu() -> None:
    """The evaluator has none: here are the equations of the standard."""
    x, w, r, b, _, h0 = arrays("RNN", 2)
    given = [t for t in (x, w, r, b, h0) if t is not None]

    def f(values: list[np.ndarray]) -> np.ndarray:
        x, w, r, b, h0 = values
        rows = []
        for d, order in enumerate((range(STEPS), range(STEPS)[::-1])):
            h, shown = h0[d], {}
            for t in order:
                h = x[t] @ w[d].T + h @ r[d].T + b[d, :HIDDEN] + b[d, HIDDEN:]
                h = shown[t] = np.maximum(h, 0) if d else np.tanh(h)
            rows.append(np.stack([shown[t] for t in range(STEPS)]))
        return np.stack(rows, 1)

    attributes = {"hidden_size": HIDDEN, "direction": "bidirectional",
                  "activations": ["Tanh", "Relu"]}  # fmt: skip
    proto = node_model("RNN", arrays("RNN", 2), attributes)
    y = f(given)
    assert 0.2 < (y[:, 1] > 0).mean() < 0.8
    cotangent = rng(7).normal(size=y.shape)
    names = [t.name for t in proto.graph.input]
    feeds = dict(zip(names, given, strict=True)) | {"cotangent": cotangent}
    found = ReferenceEvaluator(gradient_model(proto)).run(None, feeds)
    for i, g in enumerate(found):
        ways = rng(9).normal(size=(8, *g.shape))
        want = along(f, given, cotangent, i, ways, 1e-6)
        np.testing.assert_allclose((ways * g).reshape(8, -1).sum(1), want, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("op", "form"), FORMS)
def test_gradients_have_gradients(op: str, form: dict[str, Any]) -> None:
    row = spec(op, form, "bidirectional", 4)
    inputs = tuple(None if t is None else t[:2] if i == 0 else t for i, t in enumerate(row.inputs))
    check_again(Spec(op, inputs, row.attributes, step=1e-5))


@pytest.mark.parametrize(("op", "form"), FORMS)
@pytest.mark.parametrize("start", [False, True])
def test_a_free_batch(op: str, form: dict[str, Any], start: bool) -> None:
    """The images of a batch do not meet, and there may be any number of them."""
    row = spec(op, form, "bidirectional", None if start else 4)
    constant = (1, 2, 3)
    proto = node_model(op, row.inputs, row.attributes, constant=constant)
    fed = {t.name: row.inputs[int(t.name[1:])] for t in proto.graph.input}
    feeds: dict[str, np.ndarray] = {n: a for n, a in fed.items() if a is not None}
    feeds["cotangent"] = rng(4).normal(size=(STEPS, 2, BATCH, HIDDEN))
    want = ReferenceEvaluator(gradient_model(proto)).run(None, feeds)
    free = {n: [a.shape[0], "N", a.shape[2]] for n, a in feeds.items() if n != "cotangent"}
    evaluator = ReferenceEvaluator(gradient_model(proto, free))
    for wanted, g in zip(want, evaluator.run(None, feeds), strict=True):
        np.testing.assert_allclose(g, wanted, atol=1e-12)
    one = {n: a[:, :, :1] if n == "cotangent" else a[:, :1] for n, a in feeds.items()}
    for wanted, g in zip(want, evaluator.run(None, one), strict=True):
        np.testing.assert_allclose(g, wanted[:, :1], atol=1e-12)


def everything(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph, and of those in it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from everything(attribute.g)


def built(op: str, form: dict[str, Any], steps: int, constant: tuple[int, ...]) -> onnx.ModelProto:
    attributes = {"hidden_size": HIDDEN, "direction": "bidirectional", **form}
    inputs = arrays(op, 2, steps)[:4]
    return gradient_model(node_model(op, inputs, attributes, constant=constant))


@pytest.mark.parametrize(("op", "form"), FORMS)
def test_the_size_does_not_follow_the_steps(op: str, form: dict[str, Any]) -> None:
    few, many = (len([*everything(built(op, form, n, ()).graph)]) for n in (4, 32))
    assert few == many


@pytest.mark.parametrize(("op", "form"), FORMS)
def test_what_is_not_asked_for_is_not_computed(op: str, form: dict[str, Any]) -> None:
    """The gradient of a recurrent weight is a sum over the steps, made in the Scan if at all."""

    def sums(constant: tuple[int, ...]) -> int:
        nodes = everything(built(op, form, 4, constant).graph)
        turned = (a for n in nodes if n.op_type == "Gemm" for a in n.attribute)
        return sum(a.name == "transA" and a.i == 1 for a in turned)

    assert sums((1, 2, 3)) == 0
    assert sums(()) > 0


@pytest.mark.parametrize(("op", "form"), FORMS)
def test_all_shapes_are_known(op: str, form: dict[str, Any]) -> None:
    """What a model takes in memory is told from them."""
    model = Model(built(op, form, 4, ()))
    inputs = {t.name: tuple(d.dim_value for d in t.type.tensor_type.shape.dim)
              for t in model.proto.graph.input}  # fmt: skip
    inputs["cotangent"] = (4, 2, BATCH, HIDDEN)
    known = static_shapes(model, inputs)
    made = {t for node in model.proto.graph.node for t in node.output}
    assert made <= set(known.shapes)
    assert any(len(known.shapes[t]) == 3 for n in model.proto.graph.node if n.op_type == "Scan"
               for t in n.output)  # fmt: skip


@pytest.mark.parametrize(("op", "form"), FORMS)
def test_in_a_head(op: str, form: dict[str, Any]) -> None:
    """Rows of the feature map as a sequence: every method but CAM, and it is the right gradient."""
    cells = GATES[op] * 3
    attributes = ", ".join(["hidden_size = 3", *(f"{k} = {v}" for k, v in form.items())])
    proto = models.model(
        f"p = Conv <pads = [1, 1, 1, 1]> (x, w) a = Tanh(p) r = ReduceMean <keepdims = 0> (a, wide)"
        f" t = Transpose <perm = [2, 0, 1]> (r) s, last = {op} <{attributes}> (t, gw, gr)"
        " q = Squeeze(last, zero) y = Gemm(q, v)",
        {
            "w": weight(4, 3, 3, 3), "wide": np.array([3]), "gw": weight(1, cells, 4, seed=8),
            "gr": weight(1, cells, 3, seed=9), "zero": np.array([0]), "v": weight(3, 5),
        },
    )  # fmt: skip
    classifier = onnxcam.load(proto)
    assert [name for name, why in availability(classifier).items() if why] == ["cam"]
    x = rng(5).normal(size=(2, 3, 6, 5)).astype(np.float32)
    found = onnxcam.Explainer(classifier, "saliency", provider="cpu")(x, [1, 4]).raw
    forward, way = session(proto), rng(6).normal(size=x.shape).astype(np.float32)
    h = 0.02
    ends = [forward.run(None, {"x": x + s * h * way})[0][[0, 1], [1, 4]] for s in (1, -1)]
    want = (ends[0] - ends[1]) / (2 * h)
    np.testing.assert_allclose((found * way).sum((1, 2, 3)), want, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize(
    ("op", "options", "why"),
    [
        ("LSTM", {"clip": 1.0}, "an LSTM with clip"),
        ("LSTM", {"input_forget": 1}, "an LSTM with input_forget"),
        ("LSTM", {"layout": 1}, "an LSTM with layout"),
        ("LSTM", {"activations": ["Sigmoid", "Relu", "Tanh"]}, "an LSTM with activations"),
        ("GRU", {"clip": 1.0}, "a GRU with clip"),
        ("GRU", {"layout": 1}, "a GRU with layout"),
        ("GRU", {"activations": ["Sigmoid", "Relu"]}, "a GRU with activations"),
        ("GRU", {"activations": ["Tanh", "Tanh"], "linear_before_reset": 1}, "a GRU with activ"),
        ("RNN", {"activations": ["Sigmoid"]}, "an RNN with activations"),
        ("RNN", {"clip": 1.0}, "an RNN with clip"),
    ],
)
def test_what_no_exporter_writes_is_refused(op: str, options: dict[str, Any], why: str) -> None:
    proto = node_model(op, arrays(op)[:3], {"hidden_size": HIDDEN, **options})
    with pytest.raises(OpError, match=rf"node 'it' \({op}\): {why}\w* has no gradient rule"):
        gradient_model(proto)


@pytest.mark.parametrize(
    ("op", "at", "why"),
    [("LSTM", 4, "sequence_lens"), ("GRU", 4, "sequence_lens"), ("LSTM", 7, "peepholes")],
)
def test_inputs_that_are_refused(op: str, at: int, why: str) -> None:
    inputs: list[np.ndarray | None] = [*arrays(op)[:4], *[None] * 4]
    inputs[at] = np.full(BATCH, 2, np.int32) if at == 4 else np.ones((1, 9))
    proto = node_model(op, inputs[: at + 1], {"hidden_size": HIDDEN})
    with pytest.raises(OpError, match=rf"\({op}\): an? {op} with {why} has no gradient rule"):
        gradient_model(proto, constant=["x7"])
