"""LSTMs by differences of ONNX Runtime's own results: the evaluator of onnx has only some."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from gradcheck import gradient_model, node_model

from models import rng, session
from onnxcam.errors import OpError

STEPS, BATCH, WIDE, HIDDEN = 4, 2, 5, 3
NAMES = ["x", "w", "r", "b", "lengths", "h", "c", "p"]


def arrays(directions: int) -> list[np.ndarray | None]:
    """The inputs of an LSTM, as small as trained ones are."""
    shapes: list[tuple[int, ...] | None] = [
        (STEPS, BATCH, WIDE), (directions, 4 * HIDDEN, WIDE), (directions, 4 * HIDDEN, HIDDEN),
        (directions, 8 * HIDDEN), None, (directions, BATCH, HIDDEN), (directions, BATCH, HIDDEN),
    ]  # fmt: skip
    random = rng(3)
    return [
        None if s is None else random.normal(scale=0.6, size=s).astype(np.float32) for s in shapes
    ]


def lstm(inputs: list[np.ndarray | None], **attributes: Any) -> onnx.ModelProto:
    return node_model("LSTM", inputs, {"hidden_size": HIDDEN, **attributes}, outputs=3)


@pytest.mark.parametrize("output", [0, 1, 2], ids=["Y", "last h", "last c"])
@pytest.mark.parametrize("given", [3, 4, 7], ids=["weights", "and bias", "and a start"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_lstm(direction: str, given: int, output: int) -> None:
    inputs = arrays(2 if direction == "bidirectional" else 1)[:given]
    proto = lstm(inputs, direction=direction)
    names = [t.name for t in proto.graph.input]
    feeds = {n: a for n in names if (a := inputs[int(n[1:])]) is not None}
    forward, random = session(proto), rng(4)
    y = forward.run(None, feeds)[output]
    cotangent = random.normal(size=y.shape).astype(np.float32)
    shapes = {"x0": [STEPS, "N", WIDE], **({"x5": [y.shape[0] if output else len(inputs[5]), "N",
              HIDDEN], "x6": [len(inputs[6]), "N", HIDDEN]} if given == 7 else {})}  # fmt: skip
    model = gradient_model(proto, shapes, output)
    found = session(model).run(None, {**feeds, "cotangent": cotangent})
    for name, g in zip(names, found, strict=True):
        assert g.shape == feeds[name].shape
        way = random.normal(size=g.shape)
        way /= np.linalg.norm(way)

        def f(step: float, name: str = name, way: np.ndarray = way) -> float:
            moved = {**feeds, name: (feeds[name] + step * way).astype(np.float32)}
            return float((forward.run(None, moved)[output] * cotangent).sum(dtype=np.float64))

        h = 0.05  # four points: the error is of the order h⁴, and rounding stays small beside h
        want = (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h)
        assert abs((g * way).sum() - want) <= 1e-4 * np.linalg.norm(g)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"clip": 1.0}, "clip"),
        ({"input_forget": 1}, "input_forget"),
        ({"layout": 1}, "layout"),
        ({"activations": ["Sigmoid", "Relu", "Tanh"]}, "activations"),
    ],
)
def test_what_no_exporter_writes_is_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(OpError, match=rf"\(LSTM\): an LSTM with {why} has no gradient rule"):
        gradient_model(lstm(arrays(1)[:3], **options))


@pytest.mark.parametrize("at", [4, 7], ids=["sequence_lens", "peepholes"])
def test_inputs_that_are_refused(at: int) -> None:
    inputs = [*arrays(1)[:4], *[None] * 4]
    inputs[at] = np.full(BATCH, 2, np.int32) if at == 4 else np.ones((1, 9), np.float32)
    with pytest.raises(OpError, match=r"an LSTM with (sequence_lens|peepholes)"):
        gradient_model(lstm(inputs[: at + 1]), constant=["x7"])
