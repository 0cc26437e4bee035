"""Bodies for the odd models that users bring, and how their explanations are checked."""

from __future__ import annotations

from typing import Any

import numpy as np

import models
from models import images, run, weight
from onnxcam import Explainer, load
from onnxcam.explanation import Explanation

WEIGHTS: dict[str, np.ndarray] = {
    "w1": weight(6, 3, 3, 3, seed=1),
    "b1": weight(6, seed=2),
    "w2": weight(8, 6, 3, 3, seed=3),
    "b2": weight(8, seed=4),
    "v": weight(8, 4, seed=5) * 3,
    "c": weight(4, seed=6),
    "half": np.array(0.5, np.float32),
    "hundred": np.array(100, np.float32),
    "nought": np.array(0, np.float32),
    "one": np.array(1, np.float32),
}
X = images(2, 3, 12, 12)


def body(x: str, y: str, s: str = "", w: str = "") -> str:
    """Two convolutions (the last map is `r2<s>`), mean (features `f<s>`), and four classes."""
    return (
        f" p1{s} = Conv <pads = [1, 1, 1, 1]> ({x}, w1{w}, b1) r1{s} = Relu(p1{s})"
        f" m1{s} = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r1{s})"
        f" p2{s} = Conv <pads = [1, 1, 1, 1]> (m1{s}, w2, b2) r2{s} = Relu(p2{s})"
        f" g{s} = GlobalAveragePool(r2{s}) f{s} = Flatten(g{s}) {y} = Gemm(f{s}, v, c) "
    )


def net(
    text: str,
    inputs: str = "float[N,3,12,12] x",
    outputs: str = "float[N,4] y",
    opset: int = 18,
    imports: str = "",
    **weights: Any,
) -> Any:
    """A model with the weights of `body` as far as they are used."""
    held = {k: v for k, v in {**WEIGHTS, **weights}.items() if k in text.replace(",", " ")}
    return models.model(text, held, inputs, outputs, opset=opset, imports=imports)


def explain(proto: Any, x: np.ndarray = X, method: str = "ablation-cam", **options: Any) -> Any:
    """The explanation of class 1, on one thread."""
    return Explainer(proto, method, provider="cpu", threads=1, **options)(x, 1)


def same(found: Explanation, want: Explanation, tolerance: float = 1e-4) -> None:
    """Asserts equal maps, and scores that were not zero everywhere."""
    assert np.abs(want.raw).max() > 0
    models.close(found.raw, want.raw, tolerance=tolerance)


def exact_is_literal(proto: Any, x: np.ndarray = X, **options: Any) -> Explanation:
    """Asserts that both ways to switch units off give the same map; gives it."""
    exact: Explanation = explain(proto, x, **options)
    same(exact, explain(proto, x, ablation="literal", **options))
    return exact


def scores_kept(proto: Any, feeds: dict[str, np.ndarray], output: str, **options: Any) -> None:
    """Asserts that the loaded model gives what ONNX Runtime gives for the original."""
    classifier = load(proto, **options)
    (image, x), *_ = feeds.items()
    if x.ndim == 3:
        x = x[None]
    name = classifier.score.probability or classifier.score.logit
    (got,) = run(classifier.model.complete(), {classifier.image.name: x}, [name])
    (want,) = run(proto, feeds, [output])
    models.close(got.reshape(-1), want.astype(np.float32).reshape(-1), tolerance=1e-5)
    assert image is not None


def saliency_is_difference(proto: Any, x: np.ndarray, output: str, **options: Any) -> None:
    """Asserts the largest gradient times input of one image against a central difference."""
    found = Explainer(proto, "input-x-gradient", provider="cpu", threads=1, **options)(x, 1)
    place = np.unravel_index(np.abs(found.raw).argmax(), found.raw.shape)
    ends = []
    for step in (2e-3, -2e-3):
        moved = x.copy()
        moved[place] += step
        ends.append(float(run(proto, {"x": moved}, [output])[0].reshape(len(x), -1)[0, 1]))
    slope = (ends[0] - ends[1]) / 4e-3
    want = slope * float(x[place])
    assert abs(want - found.raw[place]) < 3e-2 * abs(want)
