"""Models in float16: what ONNX Runtime does with the casts that it puts in for the CPU."""

from __future__ import annotations

import numpy as np

import models
from models import images, weight
from onnxcam import Explainer


def test_units_are_switched_off_in_one_run() -> None:
    """Copies of a feature map are more rows than there are images: memory may not be shared."""
    body = (
        "p = Conv(x, k) q = Relu(p) r = Conv <pads = [1, 1, 1, 1]> (q, l) a = Add(q, r)"
        " g = GlobalAveragePool(a) f = Flatten(g) h = Gemm(f, m) b = Relu(h) y = Gemm(b, c)"
    )
    held = {"k": weight(8, 3, 3, 3), "l": weight(8, 8, 3, 3), "m": weight(8, 8), "c": weight(8, 4)}
    half = {name: array.astype(np.float16) for name, array in held.items()}
    proto = models.model(body, half, "float16[N,3,10,10] x", "float16[N,4] y")
    full = models.model(body, held, "float[N,3,10,10] x", "float[N,4] y")
    x = images(1, 3, 10, 10)
    want = Explainer(full, provider="cpu", threads=1, weight="slope")(x)
    for way in ("literal", "exact"):
        explainer = Explainer(proto, provider="cpu", threads=1, ablation=way, weight="slope")
        found = explainer(x.astype(np.float16), want.target)
        models.close(found.weights, want.weights, base=want.weights.max(), tolerance=2e-2)


def test_a_product_with_a_transposed_batch() -> None:
    """ONNX Runtime, left to fuse the two, ends the process when it makes the session."""
    body = (
        "p = Conv <strides = [4, 4]> (x, k) f = Reshape(p, s) o = Transpose <perm = [0, 2, 1]> (f)"
        " l = LayerNormalization(o, q) t = Transpose <perm = [1, 0, 2]> (l) m = MatMul(t, w)"
        " b = Relu(m) n = Transpose <perm = [1, 2, 0]> (b) u = Reshape(n, z) a = Relu(u)"
        " g = GlobalAveragePool(a) h = Flatten(g) y = Gemm(h, c)"
    )
    held = {"k": weight(24, 3, 4, 4), "w": weight(24, 40), "c": weight(40, 4), "q": weight(24)}
    sizes = {"s": np.array([0, 24, 16]), "z": np.array([0, 40, 4, 4])}
    half = {name: array.astype(np.float16) for name, array in held.items()}
    proto = models.model(body, half | sizes, "float16[N,3,16,16] x", "float16[N,4] y")
    full = models.model(body, held | sizes, "float[N,3,16,16] x", "float[N,4] y")
    x = images(2, 3, 16, 16)
    want, found = (Explainer(one, provider="cpu", threads=1) for one in (full, proto))
    models.close(
        found.probabilities(x.astype(np.float16)), want.probabilities(x), base=1.0, tolerance=1e-2
    )
