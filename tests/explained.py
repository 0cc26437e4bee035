"""Small models, and how the tests of methods explain them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import models
from models import images, weight
from onnxcam import Explainer
from onnxcam.explanation import Explanation
from onnxcam.methods import METHODS

BLOCKS: list[dict[str, Any]] = [{}, {"memory": 1}]
in_blocks = pytest.mark.parametrize("mode", BLOCKS, ids=["together", "blocks"])
PICTURES = images(2, 3, 4, 5)
CLASS = 1
BIASES = weight(3, seed=3) / 4
DENSE, OUT = weight(60, 5, seed=6) * 3, weight(5, 3, seed=7)
"""Of `bending`: y = Sigmoid(A @ DENSE) @ OUT."""
FEW: dict[str, Any] = {"masks": 5, "samples": 3, "steps": 4}
"""Options that make few runs of many."""
ON_LAYER = [name for name, row in METHODS.items() if row.on_layer and not row.fused]
PLAIN = [name for name, row in METHODS.items() if not row.fused]


def small(tail: str = "y = Gemm(r, v, c)", output: str = "y", **extra: Any) -> Any:
    """A convolution with bias, Relu (tensor `a`), mean `r`, dense: 3 units on 4 × 5, 3 classes."""
    weights = {"w": weight(3, 3, 3, 3, seed=2), "b": BIASES, "i": np.array([2, 3])}
    weights |= {"v": weight(3, 3, seed=4), "c": weight(3, seed=5), **extra}
    return models.model(
        f"p = Conv <pads = [1, 1, 1, 1]> (x, w, b) a = Relu(p) r = ReduceMean <keepdims = 0> (a, i)"
        f" {tail}",
        weights,
        inputs="float[N,3,4,5] x",
        outputs=f"float[N,3] {output}",
    )


def bending(**extra: Any) -> Any:
    """As `small`, with a head in which every cell counts for itself, and bends the score."""
    weights = {"d": DENSE, "o": OUT, **extra}
    return small("f = Flatten(a) h = MatMul(f, d) s = Sigmoid(h) y = MatMul(s, o)", **weights)


def explain(
    method: str, proto: Any, x: np.ndarray = PICTURES, target: Any = CLASS, **options: Any
) -> Explanation:
    """The explanation of an array, at the tensor `a`, on one thread."""
    if METHODS[method].on_layer:
        options.setdefault("layer", "a")
    return Explainer(proto, method, provider="cpu", threads=1, **options)(x, target)


def few(method: str) -> dict[str, Any]:
    """The options of a method that keep the number of its runs small."""
    return {key: value for key, value in FEW.items() if key in METHODS[method].options}


def values(proto: Any, *names: str, x: np.ndarray = PICTURES) -> list[np.ndarray]:
    """Tensors of a model in float64."""
    return [v.astype(np.float64) for v in models.run(proto, {"x": x}, list(names))]


def unit_range(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """x brought to 0 … 1 along `axes`; 0 where it is constant."""
    low, high = x.min(axes, keepdims=True), x.max(axes, keepdims=True)
    return (x - low) / np.where(high > low, high - low, 1)


def equal(found: Explanation, want: Explanation, tolerance: float = 1e-5) -> None:
    """Asserts that two explanations say the same, each array on its own scale."""
    assert (found.target == want.target).all()
    models.close(found.raw, want.raw, tolerance=tolerance)
    models.close(found.map, want.map, base=want.raw, tolerance=tolerance)
    for one, other in ((found.weights, want.weights), (found.gap, want.gap)):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            models.close(one, other, base=want.raw, tolerance=tolerance)
