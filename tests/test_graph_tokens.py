"""Token models: the grid of their tokens, no attention, batches read off the image."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import models
import onnxcam
from models import images, weight
from onnxcam import Explainer

EMBED = (
    "p = Conv <strides = [2, 2]> (x, w) f = Reshape(p, flat) t = Transpose <perm = [0, 2, 1]> (f)"
)
GRID = {"w": weight(12, 3, 2, 2), "flat": np.array([0, 12, -1])}  # 6×8 pixels: a grid of 3×4
INPUT = "float[N,3,6,8] x"
X = images(2, 3, 6, 8)


def assert_exact_is_literal(proto: onnx.ModelProto) -> None:
    """Weights of all units, found both ways."""
    exact, literal = (
        Explainer(proto, provider="cpu", threads=1, ablation=way, weight="slope")(X).weights
        for way in ("exact", "literal")
    )
    np.testing.assert_allclose(exact, literal, atol=1e-5 * np.abs(literal).max())


def test_tokens_mixed_without_attention_are_laid_on_the_grid() -> None:
    body = (
        f"{EMBED} u = Transpose <perm = [0, 2, 1]> (t) v = MatMul(u, mix) g = Relu(v)"
        " b = Transpose <perm = [0, 2, 1]> (g) r = Add(t, b)"
        " a = LayerNormalization(r, one) m = ReduceMean <keepdims = 0> (a, ax) y = Gemm(m, c)"
    )
    extra = {"mix": weight(12, 12), "one": np.ones(12, np.float32), "ax": np.array([1])}
    proto = models.model(body, {**GRID, **extra, "c": weight(12, 4)}, INPUT, "float[N,4] y")
    layer = onnxcam.load(proto).layer()
    assert (layer.tensor, layer.layout, layer.grid, layer.prefix) == ("a", "NTC", (3, 4), 0)
    assert_exact_is_literal(proto)


@pytest.mark.parametrize("batch", ["free", "of the image"])
def test_heads_of_an_attention_are_no_grid(batch: str) -> None:
    """13 tokens, 2 heads of 6: 2×6 are as many as the 3×4 patches."""
    first, last = "h = Reshape(q, heads)", "k = Reshape(z, back)"
    if batch != "free":  # as exporters write it: the batch is read off the image
        first = (
            "s = Shape(x) n = Gather(s, zero) hs = Concat <axis = 0> (n, l13, l2, l6)"
            " h = Reshape(q, hs)"
        )
        last = "ks = Concat <axis = 0> (n, l13, l12) k = Reshape(z, ks)"
    body = (
        f"{EMBED} b = Reshape(t, split) u = Relu(b) v = Reshape(u, joined)"
        " o = ReduceSum <keepdims = 1> (v, one_axis) e = Concat <axis = 1> (o, v)"
        f" a = LayerNormalization(e, ones) q = MatMul(a, wq) {first}"
        " i = Transpose <perm = [0, 2, 1, 3]> (h) j = Transpose <perm = [0, 2, 3, 1]> (h)"
        " d = MatMul(i, j) soft = Softmax(d) zz = MatMul(soft, i)"
        f" z = Transpose <perm = [0, 2, 1, 3]> (zz) {last}"
        " r = Add(e, k) g = Gather <axis = 1> (r, place) y = Gemm(g, c)"
    )
    extra = {
        "split": np.array([0, 12, 2, 6]), "joined": np.array([0, 12, 12]),
        "one_axis": np.array([1]), "ones": np.ones(12, np.float32), "wq": weight(12, 12),
        "heads": np.array([0, 13, 2, 6]), "back": np.array([0, 13, 12]), "zero": np.array([0]),
        "place": np.array(0), "l13": np.array([13]), "l2": np.array([2]), "l6": np.array([6]),
        "l12": np.array([12]), "c": weight(12, 4),
    }  # fmt: skip
    used = {n: v for n, v in {**GRID, **extra}.items() if f"{n})" in body or f"{n}," in body}
    proto = models.model(body, used, INPUT, "float[N,4] y")
    layer = onnxcam.load(proto).layer()
    assert (layer.tensor, layer.layout, layer.grid, layer.prefix) == ("a", "NTC", (3, 4), 1)
    assert_exact_is_literal(proto)


@pytest.mark.parametrize("written", ["Softmax", "out"])
def test_tokens_that_each_projection_flattens(written: str) -> None:
    """As Flax's linear layers are exported: rows (N · T, C) for the queries, keys and values."""
    softmax = "soft = Softmax(d)"
    if written == "out":  # as exporters of JAX leave it
        softmax = (
            "top = ReduceMax <keepdims = 1> (d, last) low = Sub(d, top) ex = Exp(low)"
            " sum = ReduceSum <keepdims = 0> (ex, last) col = Unsqueeze(sum, last)"
            " soft = Div(ex, col)"
        )
    body = (
        f"{EMBED} a = LayerNormalization(t, ones)"
        " qr = Reshape(a, rows) qg = Gemm(qr, wq) q = Reshape(qg, back)"
        " kr = Reshape(a, rows) kg = Gemm(kr, wk) k = Reshape(kg, back)"
        " vr = Reshape(a, rows) vg = Gemm(vr, wv) v = Reshape(vg, back)"
        " h = Transpose <perm = [0, 2, 1]> (k) d = MatMul(q, h)"
        f" {softmax} z = MatMul(soft, v) r = Add(t, z)"
        " m = ReduceMean <keepdims = 0> (r, ax) y = Gemm(m, c)"
    )
    extra = {"rows": np.array([-1, 12]), "back": np.array([-1, 12, 12]), "c": weight(12, 4)}
    extra |= {name: weight(12, 12, seed=i) for i, name in enumerate(("wq", "wk", "wv"))}
    extra |= {"ones": np.ones(12, np.float32), "ax": np.array([1])}
    if written == "out":
        extra["last"] = np.array([2])
    proto = models.model(body, {**GRID, **extra}, INPUT, "float[N,4] y")
    layer = onnxcam.load(proto).layer()
    assert (layer.tensor, layer.layout, layer.grid, layer.prefix) == ("a", "NTC", (3, 4), 0)
    assert_exact_is_literal(proto)


@pytest.mark.parametrize("kind", ["qdq", "dynamic", "qoperator"])
def test_tokens_that_are_quantised_ahead_of_an_attention(kind: str) -> None:
    """Sequence first, as torchvision's attention: in integers to the projection, or at its door."""
    quantised = " aq = QuantizeLinear(a, s, zp) ad = DequantizeLinear(aq, s, zp)"
    projected = (
        " b = Transpose <perm = [1, 0, 2]> (ad) bq = QuantizeLinear(b, s, zp)"
        " bd = DequantizeLinear(bq, s, zp) q = MatMul(bd, wq)"
    )
    if kind == "dynamic":
        quantised = " b = Transpose <perm = [1, 0, 2]> (a) bq, bs, bz = DynamicQuantizeLinear(b)"
        projected = " iq = MatMulInteger(bq, wq, bz) fq = Cast <to = 1> (iq) q = Mul(fq, bs)"
    attended = (
        " h = Transpose <perm = [1, 0, 2]> (q) k = Transpose <perm = [0, 2, 1]> (h)"
        " d = MatMul(h, k) soft = Softmax(d) z = MatMul(soft, h)"
    )
    if kind == "qoperator":
        quantised = " b = Transpose <perm = [1, 0, 2]> (a) bq = QuantizeLinear(b, s, zp)"
        projected = " q = QLinearMatMul(bq, s, zp, wq, s, zp, s, zp)"
        attended = (
            " h = Transpose <perm = [1, 0, 2]> (q) k = Transpose <perm = [0, 2, 1]> (h)"
            " d = QLinearMatMul(h, s, zp, k, s, zp, s, zp)"
            " soft = com.microsoft.QLinearSoftmax <opset = 13> (d, s, zp, s, zp)"
            " zq = QLinearMatMul(soft, s, zp, h, s, zp, s, zp) z = DequantizeLinear(zq, s, zp)"
        )
    body = (
        f"{EMBED} a = LayerNormalization(t, ones) {quantised} {projected} {attended}"
        " r = Add(t, z) m = ReduceMean <keepdims = 0> (r, ax) y = Gemm(m, c)"
    )
    extra = {"ones": np.ones(12, np.float32), "ax": np.array([1]), "c": weight(12, 4)}
    extra["wq"] = weight(12, 12) if kind == "qdq" else (100 * weight(12, 12)).astype(np.int8)
    if kind != "dynamic":
        extra |= {"s": np.array(0.02, np.float32), "zp": np.array(0, np.int8)}
    imports = ', "com.microsoft" : 1' if kind == "qoperator" else ""
    proto = models.model(body, {**GRID, **extra}, INPUT, "float[N,4] y", imports=imports)
    layer = onnxcam.load(proto).layer()
    assert (layer.tensor, layer.layout, layer.grid, layer.prefix) == ("a", "NTC", (3, 4), 0)


def test_a_weight_that_only_a_branch_uses() -> None:
    """Large weights lie outside the graph; a branch of an If finds them there."""
    body = (
        "m = ReduceMax <keepdims = 0> (x) yes = Greater(m, m)"
        " s = If (yes) <then_branch = g1 () => (o1) { o1 = Mul(x, big) },"
        " else_branch = g2 () => (o2) { o2 = Add(x, big) }>"
        " p = Conv(s, k) a = Relu(p) g = GlobalAveragePool(a) f = Flatten(g) y = Gemm(f, c)"
    )
    held = {"big": weight(3, 16, 16), "k": weight(6, 3, 3, 3), "c": weight(6, 4)}
    proto = models.model(body, held, "float[N,3,16,16] x", "float[N,4] y")
    x = images(2, 3, 16, 16)
    found = Explainer(proto, provider="cpu", threads=1)(x)
    np.testing.assert_allclose(found.scores, models.run(proto, {"x": x})[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pool", ["GlobalAveragePool(o)", "ReduceMean <keepdims = 1> (o, hw)"])
def test_windows_put_together_again(pool: str) -> None:
    """(N, 4, 6, 12), four windows of 2×3, is no map of four units; what it becomes is one."""
    body = (
        "p = Conv <strides = [2, 2]> (x, w) a = Relu(p) b = Reshape(a, cut)"
        " c = Transpose <perm = [0, 2, 4, 3, 5, 1]> (b) d = Reshape(c, windows)"
        " e = LayerNormalization(d, ones) f = MatMul(e, mix) g = Relu(f)"
        " h = Reshape(g, apart) i = Transpose <perm = [0, 5, 1, 3, 2, 4]> (h)"
        f" o = Reshape(i, whole) q = {pool} r = Flatten(q) y = Gemm(r, k)"
    )
    held = {
        "w": weight(12, 3, 2, 2), "mix": weight(12, 12), "ones": np.ones(12, np.float32),
        "cut": np.array([0, 12, 2, 2, 2, 3]), "windows": np.array([0, 4, 6, 12]),
        "apart": np.array([-1, 2, 2, 2, 3, 12]), "whole": np.array([0, 12, 4, 6]),
        "hw": np.array([2, 3]), "k": weight(12, 4),
    }  # fmt: skip
    used = {n: v for n, v in held.items() if f"{n})" in body}
    proto = models.model(body, used, "float[N,3,8,12] x", "float[N,4] y")
    layer = onnxcam.load(proto).layer()
    assert (layer.tensor, layer.layout, layer.units, layer.grid) == ("o", "NCHW", 12, (4, 6))


HEAD = "p = Conv(x, k) a = Relu(p) g = GlobalAveragePool(a) f = Flatten(g) s = Shape({0})"
HELD = {"k": weight(6, 3, 3, 3), "c": weight(6, 4)}


def test_a_scatter_that_writes_all_is_left_out() -> None:
    """`x[:, 0:] = …`, its positions counted over the batch: only what is written counts."""
    body = (
        f"{HEAD.format('f')} n = Gather(s, zero) r = Range(zero, n, one) r2 = Unsqueeze(r, tall)"
        " rows = Expand(r2, s) columns = Expand(across, s) r3 = Unsqueeze(rows, deep)"
        " c3 = Unsqueeze(columns, deep) i = Concat <axis = 2> (r3, c3)"
        " u = Relu(f) d = ScatterND(f, i, u) y = Gemm(d, c)"
    )
    held = {"zero": np.array(0), "one": np.array(1), "tall": np.array([1]), "deep": np.array([2])}
    held |= {**HELD, "across": np.arange(6).reshape(1, 6)}
    proto = models.model(body, held, INPUT, "float[N,4] y")
    classifier = onnxcam.load(proto)
    assert "ScatterND" not in {n.op_type for n in classifier.model.proto.graph.node}
    assert_exact_is_literal(proto)


@pytest.mark.parametrize("of", ["f", "x"])
def test_positions_that_number_the_images(of: str) -> None:
    body = (
        f"{HEAD.format('f')} n = Shape <end = 1> ({of}) e = Concat <axis = 0> (n, six)"
        " o = ConstantOfShape <value = int64[1] {1}> (e) z = NonZero(o) i = Transpose(z)"
        " m = Mul(f, f) u = Reshape(m, all) d = ScatterND(f, i, u) y = Gemm(d, c)"
    )
    held = {**HELD, "six": np.array([6]), "all": np.array([-1])}
    proto = models.model(body, held, INPUT, "float[N,4] y")
    explainer = Explainer(proto, provider="cpu", threads=1, weight="slope")
    if of == "x":
        with pytest.raises(onnxcam.OpError, match="numbers the images of the batch"):
            explainer(X)
        return
    found = explainer(X)
    assert any("numbers the images" in note for note in found.notes)
    value, y, want = models.drops(proto, "a", "y", {"x": X})
    norms = np.sqrt((value.astype(np.float64) ** 2).sum((2, 3)))
    top = want[np.arange(len(X)), y.argmax(1)] if want.shape[1] == 4 else None
    assert top is not None
    models.close(found.weights * norms, top, base=y.max(), tolerance=2e-5)
