"""Gradients of Scans as a model may hold them: states of every kind, directions, and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from gradcheck import along, gradient_model
from onnx.reference import ReferenceEvaluator

from models import model, rng, run, session
from onnxcam.errors import OpError

T, N, C = 4, 2, 3
X = rng(1).normal(size=(T, N, C))
START = rng(2).normal(size=(N, C))
R = rng(3).normal(size=(C, C))
STEP = "(double[2,3] s, double[3,3] r, double[2,3] u) => (double[2,3] s2, double[3,3] r2"
RECURRENT = "k = MatMul(s, r) l = Add(k, u) s2 = Tanh(l) r2 = Identity(r)"


def scan(
    body: str, outputs: str, weights: dict[str, Any] | None = None, y: str = "double[4,2,3] y",
    **options: Any,
) -> onnx.ModelProto:  # fmt: skip
    """A model of a sequence x, a start h and a matrix m that stays, or changes."""
    attributes = "".join(f"{name} = {value}, " for name, value in options.items())
    return model(
        f"[it] {outputs} = Scan <num_scan_inputs = 1, {attributes}body = step {body}> (h, m, x)",
        weights, "double[4,2,3] x, double[2,3] h, double[3,3] m", y, opset=21, ir=10,
    )  # fmt: skip


FEEDS = {"x": X, "h": START, "m": R}

BODIES = {
    "recurrent": f"{STEP}, double[2,3] o) {{ {RECURRENT} o = Mul(l, s) }}",
    "sum": f"{STEP}, double[2,3] o) {{ s2 = Add(s, u) r2 = Identity(r) o = Identity(s2) }}",
    "output is the old state": f"{STEP}, double[2,3] o) {{ {RECURRENT} o = Identity(s) }}",
    "state is forgotten": f"{STEP}, double[2,3] o) {{ s2 = Sin(u) r2 = Neg(r) o = MatMul(s, r) }}",
    "matrix changes": f"{STEP}, double[2,3] o) {{ k = MatMul(s, r) s2 = Add(k, u)"
    " t = Tanh(r) r2 = Mul(t, half) o = Mul(s2, u) }",
    "no state used": f"{STEP}, double[2,3] o) {{ s2 = Identity(s) r2 = Identity(r) o = Exp(u) }}",
    "start alone": f"{STEP}, double[2,3] o) {{ s2 = Identity(s) r2 = Identity(r) o = Exp(s) }}",
    "an operator that is written out": f"{STEP}, double[2,3] o) {{ {RECURRENT}"
    " o = RMSNormalization <epsilon = 0.0> (l, one) }",
    "a Scan in the Scan": f"{STEP}, double[2,3] o) {{ {RECURRENT} f, o = Scan <num_scan_inputs = 2,"
    " body = inner (double[3] a, double[3] b, double[3] c) => (double[3] a2, double[3] d)"
    " { d = Mul(b, a) e = Sin(c) a2 = Add(a, e) }> (one, l, s) }",
}


@pytest.mark.parametrize("output", ["y", "last"])
@pytest.mark.parametrize("kind", BODIES)
def test_against_differences(kind: str, output: str) -> None:
    weights = {"half": np.float64(0.5), "one": np.array([1.0, 2.0, 3.0])}
    proto = scan(BODIES[kind], "last, mm, y" if output == "y" else "y, mm, shown", weights,
                 y=f"double[{'4,' * (output == 'y')}2,3] y")  # fmt: skip
    proto.opset_import[0].version = 23
    forward = ReferenceEvaluator(proto)
    (y,) = forward.run(None, FEEDS)
    cotangent = rng(4).normal(size=y.shape)
    derived = gradient_model(proto, whole=False)
    names = [t.name.removeprefix("d_cotangent_") for t in derived.graph.output]
    got = ReferenceEvaluator(derived).run(None, {**FEEDS, "cotangent": cotangent})
    found = dict(zip(names, got, strict=True))
    assert found
    ran = session(derived).run(None, {**FEEDS, "cotangent": cotangent})
    for mine, theirs in zip(got, ran, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-12)

    def f(values: list[np.ndarray]) -> np.ndarray:
        return np.asarray(forward.run(None, dict(zip(FEEDS, values, strict=True)))[0])

    for i, (name, value) in enumerate(FEEDS.items()):
        ways = rng(9).normal(size=(4, *value.shape))
        want = along(f, [*FEEDS.values()], cotangent, i, ways, 1e-6)
        g = found.get(name, np.zeros(value.shape))
        np.testing.assert_allclose((ways * g).reshape(4, -1).sum(1), want, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("into", [0, 1])
@pytest.mark.parametrize("out", [0, 1])
def test_directions(into: int, out: int) -> None:
    """A sequence taken or given backwards is one turned by hand."""
    body = BODIES["recurrent"]
    plain = scan(body, "last, mm, y")
    turned = scan(body, "last, mm, y", scan_input_directions=[into], scan_output_directions=[out])
    cotangent = rng(4).normal(size=(T, N, C))
    want = run(gradient_model(plain), {
        **FEEDS, "x": X[:: -1 if into else 1], "cotangent": cotangent[:: -1 if out else 1]
    })  # fmt: skip
    want[0] = want[0][:: -1 if into else 1]
    feeds = {**FEEDS, "cotangent": cotangent}
    for way in (run, lambda p, f: ReferenceEvaluator(p).run(None, f)):
        for wanted, g in zip(want, way(gradient_model(turned), feeds), strict=True):
            np.testing.assert_allclose(g, wanted, atol=1e-12)


def test_a_state_that_counts() -> None:
    """A state of integers, which nothing flows to, weighs what is shown."""
    proto = model(
        "h, n, y = Scan <num_scan_inputs = 1, body = step (double[3] s, int64 i, double[3] u)"
        " => (double[3] s2, int64 i2, double[3] o) { s2 = Add(s, u) i2 = Add(i, one)"
        " w = Cast <to = 11> (i2) o = Mul(s2, w) }> (start, none, x)",
        {"start": np.zeros(3), "none": np.int64(0), "one": np.int64(1)},
        "double[4,3] x", "double[4,3] y", opset=21, ir=10,
    )  # fmt: skip
    g = rng(5).normal(size=(4, 3))
    (found,) = run(gradient_model(proto), {"x": X[:, 0], "cotangent": g})
    weighed = g * np.arange(1, 5)[:, None]
    np.testing.assert_allclose(found, weighed[::-1].cumsum(0)[::-1], atol=1e-12)


def test_variants_and_notes_reach_the_body() -> None:
    proto = scan(f"{STEP}, double[2,3] o) {{ s2 = Identity(s) r2 = Identity(r) o = Relu(u) }}",
                 "last, mm, y")  # fmt: skip
    g = rng(5).normal(size=(T, N, C))
    feeds = {**FEEDS, "cotangent": g}
    for variant, want in (
        ("standard", g * (X > 0)),
        ("guided", np.maximum(g, 0) * (X > 0)),
        ("deconv", np.maximum(g, 0)),
    ):
        (found,) = run(gradient_model(proto, variant=variant, whole=False), feeds)
        np.testing.assert_allclose(found, want)
    lost = scan(f"{STEP}, double[2,3] o) {{ s2 = Identity(s) r2 = Identity(r) o = Floor(u) }}",
                "last, mm, y")  # fmt: skip
    assert not gradient_model(lost, whole=False).graph.output


@pytest.mark.parametrize(
    ("body", "options", "why"),
    [
        (BODIES["sum"], {"scan_input_axes": [1]}, "a Scan along other axes than the first"),
        (f"{STEP}, double[2,3] o) {{ s2 = Add(s, h) r2 = Identity(r) o = Add(s2, u) }}", {},
         "a Scan whose body takes 'h' from outside has no gradient rule"),
        (f"{STEP}, double[2,3] o) {{ s2 = Identity(s) r2 = Identity(r) [odd] d = Det(r)"
         " o = Mul(u, d) }", {},
         r"node 'odd' \(Det\): there is no gradient rule for this operator"),
    ],
)  # fmt: skip
def test_refusals(body: str, options: dict[str, Any], why: str) -> None:
    with pytest.raises(OpError, match=rf"node 'it' \(Scan\): .*{why}"):
        gradient_model(scan(body, "last, mm, y", **options))


def test_steps_along_the_batch_are_refused() -> None:
    with pytest.raises(OpError, match=r"\(Scan\): tensor 'x' works along the batch, which is free"):
        gradient_model(scan(BODIES["sum"], "last, mm, y"), {"x": ["N", 2, 3]})
