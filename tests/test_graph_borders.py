"""Zeros padded ahead of a MaxPool: they count, whatever a runtime's optimiser makes of them."""

from __future__ import annotations

import numpy as np
import pytest

import models
from models import close, images, run, weight
from onnxcam import Explainer

X = images(2, 3, 9, 8)
W = {
    "w": weight(6, 3, 3, 3),
    "b": np.full(6, -2, np.float32),  # nearly all of the map lies below zero
    "k": weight(6, 6, 3, 3, seed=2),
    "v": weight(6, 5, seed=3),
    "p": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "odd": np.array([0, 0, 2, 0, 0, 0, 1, 1]),
    "two": np.array([1, 0, 1, 2]),
    "axes": np.array([2, -1]),
    "zero": np.zeros((), np.float32),
}
TAIL = "q = Conv <pads = [1, 1, 1, 1]> (m, k) a = Relu(q) g = GlobalAveragePool(a) " \
    "f = Flatten(g) y = MatMul(f, v)"  # fmt: skip


def net(pool: str, head: str = "c = Conv <pads = [1, 1, 1, 1]> (x, w, b)") -> models.ModelProto:
    body = f"{head} {pool} {TAIL}"
    words = set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())
    used = {name: array for name, array in W.items() if name in words}
    return models.model(body, used, "float[N,3,9,8] x")


POOLS = {
    "as Keras writes it": "z = Pad(c, p) m = MaxPool <kernel_shape = [3, 3], strides = [2, 2]> (z)",
    "zero stated": "z = Pad(c, p, zero) m = MaxPool <kernel_shape = [2, 2]> (z)",
    "one side each": "z = Pad(c, odd) m = MaxPool <kernel_shape = [3, 2], strides = [3, 1]> (z)",
    "by axes": "z = Pad(c, two, zero, axes) m = MaxPool <kernel_shape = [3, 3]> (z)",
    "dilated": "z = Pad(c, p) m = MaxPool <kernel_shape = [3, 2], dilations = [2, 3]> (z)",
}


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_zeros_count(pool: str) -> None:
    proto = net(pool)
    explainer = Explainer(proto, "saliency", provider="cpu", threads=1)
    ops = [n.op_type for n in explainer.classifier.model.proto.graph.node]
    assert "Pad" not in ops and "Max" in ops
    assert any("(Pad)" in note for note in explainer.classifier.notes)
    found = explainer(X, [2, 2])
    close(found.scores, run(proto, {"x": X})[0], tolerance=1e-6)
    direction = found.raw / np.abs(found.raw).max((1, 2, 3), keepdims=True)
    ahead, behind = (
        run(proto, {"x": X + np.float32(step) * direction})[0][:, 2].astype(np.float64)
        for step in (1e-3, -1e-3)
    )
    slope = (found.raw.astype(np.float64) * direction).sum((1, 2, 3))
    np.testing.assert_allclose((ahead - behind) / 2e-3, slope, rtol=2e-2)


@pytest.mark.parametrize(
    "pool",
    [
        "r = Relu(c) z = Pad(r, p) m = MaxPool <kernel_shape = [3, 3]> (z)",
        "z = Pad <mode = \"edge\"> (c, p) m = MaxPool <kernel_shape = [3, 3]> (z)",
        "z = Pad(c, p) m = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (z)",
        "z = Pad(c, p) m = MaxPool <kernel_shape = [1, 1], strides = [2, 2]> (z)",
    ],
)  # fmt: skip
def test_others_stay_as_they_are(pool: str) -> None:
    explainer = Explainer(net(pool), provider="cpu", threads=1)
    assert "Pad" in [n.op_type for n in explainer.classifier.model.proto.graph.node]


def test_the_default_layer_is_ahead_of_the_pad() -> None:
    head = f"c = Conv <pads = [1, 1, 1, 1]> (x, w, b) {POOLS['as Keras writes it']}"
    used = {name: W[name] for name in ("w", "b", "p")} | {"u": weight(120, 5)}
    proto = models.model(f"{head} f = Flatten(m) y = MatMul(f, u)", used, "float[N,3,9,8] x")
    explainer = Explainer(proto, provider="cpu", threads=1)
    assert explainer.classifier.default.tensor == "c"
    close(explainer(X).scores, run(proto, {"x": X})[0], tolerance=1e-6)
