"""Ensembles: which branches are trunks, which map is taken, and what is said about it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kinds import WEIGHTS, X, body, exact_is_literal, explain, net, saliency_is_difference

import models
from models import weight
from onnxcam import LayerError, ModelError, load, split

OTHER = {"w1b": weight(6, 3, 3, 3, seed=31)}
PAIR = body("x", "y1", "A") + body("x", "y2", "B", "b")
MEETS = {
    "added": ("y = Add(y1, y2)", {}),
    "averaged": ("y = Mean(y1, y2)", {}),
    "probabilities": ("s1 = Softmax(y1) s2 = Softmax(y2) t = Add(s1, s2) y = Mul(t, half)", {}),
    "concatenated": (
        "k = Concat <axis = 1> (fA, fB) y = Gemm(k, v2, c)",
        {"v2": weight(16, 4, seed=9) * 3},
    ),
    "stacked": (
        "u1 = Unsqueeze(y1, zero) u2 = Unsqueeze(y2, zero) k = Concat <axis = 0> (u1, u2)"
        " y = ReduceMean <keepdims = 0> (k, zero)",
        {"zero": np.array([0])},
    ),
}


def ensemble(kind: str = "added", text: str = PAIR) -> Any:
    tail, more = MEETS[kind]
    return net(text + tail, **{**more, **OTHER})


@pytest.mark.parametrize("kind", MEETS)
def test_ensembles(kind: str) -> None:
    proto = ensemble(kind)
    classifier = load(proto)
    first, second = classifier.layer(), classifier.layer("r2B")
    assert first.tensor == "r2A"  # as much work as the other: the first
    assert {m.tensor for m in classifier.maps} >= {"r1A", "r2A", "r1B", "r2B"}
    assert "one of 2 trunks" in first.reason and "--layer r2B" in first.reason
    for layer in (first, second):
        found = exact_is_literal(proto, layer=layer.tensor)
        assert any(f"'{layer.tensor}' is a map of one of 2 trunks" in n for n in found.notes)
    if kind != "probabilities":  # their slopes are too small for differences in float32
        saliency_is_difference(proto, X[:1].copy(), "y")
    assert not any("trunk" in n for n in explain(proto, method="saliency").notes)


def test_drops_of_one_trunk() -> None:
    proto = ensemble()
    _, y, drops = models.drops(proto, "r2A", "y", {"x": X})
    found = explain(proto, weight="drop")
    assert found.weights is not None
    models.close(found.weights, drops[:, 1] / y[:, 1, None], tolerance=1e-4)


def test_the_trunk_that_does_most() -> None:
    large = body("x", "y2", "B").replace("w2", "w2b").replace("b2", "b2b").replace(", v,", ", vb,")
    proto = net(
        body("x", "y1", "A") + large + "y = Add(y1, y2)",
        w2b=weight(16, 6, 3, 3), b2b=weight(16), vb=weight(16, 4),
    )  # fmt: skip
    assert load(proto).layer().tensor == "r2B"


def test_three_trunks_and_nested_sums() -> None:
    text = PAIR + body("x", "y3", "C")
    for tail in ("y = Sum(y1, y2, y3)", "t = Add(y1, y2) y = Add(t, y3)"):
        classifier = load(net(text + tail, **OTHER))
        assert {m.tensor for m in classifier.maps} >= {"r2A", "r2B", "r2C"}
        assert "trunks" in classifier.layer().reason
        exact_is_literal(net(text + tail, **OTHER))


def test_a_shared_preprocessing() -> None:
    text = "q = Mul(x, half) " + PAIR.replace("(x,", "(q,")
    assert load(ensemble(text=text)).layer().tensor == "r2A"


def test_split_keeps_the_scores() -> None:
    proto = ensemble()
    features, head = split(proto)
    names = [o.name for o in features.graph.output]
    middle = dict(zip(names, models.run(features, {"x": X}), strict=True))
    models.close(models.run(head, middle)[0], models.run(proto, {"x": X})[0])


CONV = "Conv <pads = [1, 1, 1, 1]>"
STEM = f"p = {CONV} (x, w1, b1) a = Relu(p) "
K = {"k": weight(6, 6, 3, 3, seed=8), "l": weight(6, 6, 3, 3, seed=9), "o": weight(6, 4, seed=10)}
NO_TRUNKS = {
    "an SE gate": (
        STEM + "m = GlobalAveragePool(a) e = Conv(m, k1) r = Relu(e) d = Conv(r, k1) s = Sigmoid(d)"
        " y0 = Mul(a, s) g = GlobalAveragePool(y0) f = Flatten(g) y = MatMul(f, o)",
        "y0",
    ),
    "two pools": (
        STEM + f"q = {CONV} (a, k) b = Relu(q) g = GlobalAveragePool(b) h = GlobalMaxPool(b)"
        " c2 = Concat <axis = 1> (g, h) f = Flatten(c2) y = MatMul(f, oo)",
        "b",
    ),
    "a block of two branches, each pooled": (
        STEM + f"q = {CONV} (a, k) b = Relu(q) q2 = {CONV} (b, l) d2 = Relu(q2)"
        f" q3 = {CONV} (d2, k) d3 = Relu(q3) s1 = {CONV} (d3, l) t1 = Relu(s1)"
        f" s2 = {CONV} (d3, k) t2 = Relu(s2) g = GlobalAveragePool(t1) h = GlobalAveragePool(t2)"
        " c2 = Concat <axis = 1> (g, h) f = Flatten(c2) y = MatMul(f, oo)",
        "d3",
    ),
}


@pytest.mark.parametrize("kind", NO_TRUNKS)
def test_what_is_no_trunk(kind: str) -> None:
    text, tensor = NO_TRUNKS[kind]
    more = {**K, "k1": weight(6, 6, 1, 1), "oo": weight(12, 4)}
    held = {k: v for k, v in {**WEIGHTS, **more}.items() if f"{k})" in text or f"{k}," in text}
    found = load(models.model(text, held, "float[N,3,12,12] x", "float[N,4] y")).layer()
    assert found.tensor == tensor
    assert "trunk" not in found.reason and not found.note


def test_branches_of_one_layer_are_no_trunks() -> None:
    text = (
        f"p = {CONV} (x, w1, b1) a = Relu(p) g = GlobalAveragePool(a) q = {CONV} (x, w1, b1)"
        " s = Sigmoid(q) h = GlobalMaxPool(s) t = Add(g, h) f = Flatten(t) y = MatMul(f, o)"
    )
    proto = net(text, o=K["o"])
    with pytest.raises(ModelError, match="--layer"):
        load(proto).layer()
    with pytest.raises(LayerError):
        load(proto).layer(-1)
