"""Class activation maps on tiny models, against formulas written out in numpy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explained import (
    BIASES,
    BLOCKS,
    CLASS,
    DENSE,
    ON_LAYER,
    OUT,
    PICTURES,
    bending,
    equal,
    explain,
    few,
    small,
    values,
)
from test_methods import A, C, V, X, two_units

import models
from models import close, golden_classifier, images, weight
from onnxcam import Explainer, ModelError, OpError, OptionError
from onnxcam.methods import METHODS

# `two_units`: A is two units on a grid of 1 × 2, y = mean(A) @ V + C.
HALF = V[None, :, CLASS] / 2


def by_hand(method: str, proto: Any = None, x: np.ndarray = X, **k: Any) -> Any:
    return explain(method, proto or two_units(), x, **k)


def test_weights_by_hand() -> None:
    """g = V / 2 everywhere, so the mean of g is V / 2, and CAM's weight is V itself."""
    product = np.array([[[1 * 1 + 1.5 * 2, 1 * 3 + 1.5 * -4]]])  # Σ g ⊙ A: 4, −3
    close(by_hand("grad-cam").weights, HALF, tolerance=1e-6)
    close(by_hand("grad-cam").raw, product, tolerance=1e-6)
    close(by_hand("grad-cam").map, np.array([[[4.0, 0]]]), tolerance=1e-6)
    close(by_hand("cam").weights, 2 * HALF, tolerance=1e-6)
    close(by_hand("cam").raw, 2 * product, tolerance=1e-6)
    close(by_hand("xgrad-cam").weights, HALF, tolerance=1e-6)
    close(by_hand("hires-cam").raw, product, tolerance=1e-6)
    close(by_hand("shapley-cam").weights, HALF, tolerance=1e-6)  # a linear head does not bend
    assert by_hand("hires-cam").weights is None


def test_layer_cam_by_hand() -> None:
    """Of class 0 the second unit's gradient is −½: it is left out, and the first one's is ½."""
    close(by_hand("layer-cam", target=0).raw, np.array([[[0.5, 1.5]]]), tolerance=1e-6)
    close(by_hand("hires-cam", target=0).raw, np.array([[[-0.5, 3.5]]]), tolerance=1e-6)


def test_gradients_that_differ_from_cell_to_cell() -> None:
    """Where g is not the same in all cells, the methods part: each by its formula."""
    proto = bending()
    (a, s) = values(proto, "a", "s")
    g = ((s * (1 - s) * OUT[:, CLASS]) @ DENSE.T).reshape(a.shape)
    means, sums = g.mean((2, 3)), a.sum((2, 3))
    assert (sums > 0).all()
    shares = (g * a).sum((2, 3)) / sums
    closed = (np.maximum(g, 0) / (2 + sums[..., None, None] * np.maximum(g, 0))).sum((2, 3))
    for method, w in (("grad-cam", means), ("xgrad-cam", shares), ("grad-cam++", closed)):
        found = explain(method, proto)
        close(found.weights, w, tolerance=1e-5)
        close(found.raw, (w[..., None, None] * a).sum(1), tolerance=1e-5)
        assert (found.map == np.maximum(found.raw, 0)).all()
    close(explain("hires-cam", proto).raw, (g * a).sum(1), tolerance=1e-5)
    close(explain("layer-cam", proto).raw, (np.maximum(g, 0) * a).sum(1), tolerance=1e-5)
    assert np.abs(means - shares).max() > 0.1 * np.abs(means).max()  # they do part


def test_units_that_cancel_out_weigh_nothing() -> None:
    """XGrad-CAM divides by the sum of a unit: 0 where that is 0, and for a dead unit."""
    x = X.copy()
    x[0, 0], x[0, 1] = [2, -2], -1
    found = by_hand("xgrad-cam", x=x)
    assert (found.weights == 0).all() and (found.raw == 0).all()


def test_the_probability_as_a_score() -> None:
    """∂q/∂A is that of the logits through the softmax."""
    y = A[0].mean((1, 2)) @ V + C
    e = np.exp(y - y.max())
    q = e / e.sum()
    slope = q[CLASS] * (V[:, CLASS] - V @ q) / 2
    found = by_hand("grad-cam", two_units("q = Softmax(y)", "q"), score="probability")
    close(found.weights, slope[None], tolerance=1e-5)
    logit = by_hand("grad-cam", two_units("q = Softmax(y)", "q"))
    close(logit.weights, HALF, tolerance=1e-6)


# --- heads of a global average and one linear layer -----------------------------------------------

AVERAGES = {
    "GlobalAveragePool": "g = GlobalAveragePool(a) f = Flatten(g) y = Gemm(f, v, c)",
    "ReduceMean": "f = ReduceMean <keepdims = 0> (a, i) h = MatMul(f, v) y = Add(h, c)",
    "AveragePool": "g = AveragePool <kernel_shape = [4, 5]> (a) f = Flatten(g) y = Gemm(f, v, c)",
    "Conv": "g = GlobalAveragePool(a) h = Conv(g, k, c) y = Flatten(h)",
}


@pytest.mark.parametrize("head", AVERAGES)
def test_cam_is_grad_cam_times_the_cells(head: str) -> None:
    """CAM's weights are those of the linear layer; Grad-CAM and HiResCAM give CAM / 20."""
    proto = small(AVERAGES[head], k=weight(3, 3, seed=4).T.reshape(3, 3, 1, 1).copy())
    cam = explain("cam", proto)
    want = np.tile(weight(3, 3, seed=4)[:, CLASS], (2, 1))
    close(cam.weights, want, tolerance=1e-6)
    (a,) = values(proto, "a")
    close(cam.raw, (want[..., None, None] * a).sum(1), tolerance=1e-5)
    for method in ("grad-cam", "hires-cam"):
        close(explain(method, proto).raw * 20, cam.raw, tolerance=1e-5)


def test_cam_on_maps_of_the_classes() -> None:
    """A head that is a mean and nothing more: the map of class c is unit c itself."""
    proto = small("m = GlobalAveragePool(a) y = Flatten(m)")
    (a,) = values(proto, "a")
    found = explain("cam", proto, target=[[0, 1, 2], [2, 1, 0]])
    close(found.weights[0], np.eye(3), tolerance=1e-6)
    close(found.raw[1], a[1, ::-1], tolerance=1e-6)


REFUSED = {
    "hidden": ("h = Gemm(r, v, c) s = Relu(h) y = Gemm(s, v, c)", "Relu"),
    "largest": ("m = GlobalMaxPool(a) f = Flatten(m) y = Gemm(f, v, c)", "GlobalMaxPool"),
    "part": ("m = AveragePool <kernel_shape = [2, 2]> (a) f = Flatten(m) y = Gemm(f, w36, c)",
             "AveragePool"),
    "squared": ("m = Mul(r, r) y = Gemm(m, v, c)", "Mul"),
    "row means": ("m = ReduceMean <keepdims = 0> (a, i3) f = Flatten(m) y = Gemm(f, w12, c)",
                  "ReduceMean"),
}  # fmt: skip


@pytest.mark.parametrize("head", REFUSED)
def test_cam_says_why_not(head: str) -> None:
    tail, op = REFUSED[head]
    extra = {"w36": weight(36, 3), "w12": weight(12, 3), "i3": np.array([3])}
    text = rf"CAM needs .* one linear layer, and behind 'a' stands node .* \({op}\); grad-cam gives"
    with pytest.raises(ModelError, match=text):
        explain("cam", small(tail, **extra))


@pytest.mark.parametrize(
    ("name", "op"), [("tiny_vgg", "MaxPool"), ("tiny_mobilenetv3", "HardSwish"), ("tiny_vit", "")]
)
def test_cam_refuses_other_networks(goldens: Path, name: str, op: str) -> None:
    with pytest.raises(ModelError, match=rf"CAM needs a head .* stands node .*\({op}"):
        Explainer(golden_classifier(name, "ts17.onnx"), "cam", provider="cpu").program()


# --- heads that bend ------------------------------------------------------------------------------


def head_of(proto: str) -> tuple[Any, Callable[[np.ndarray], np.ndarray], np.ndarray]:
    """A model, its score of class 1 from the feature map in float64, and the feature map."""
    if proto == "softmax":
        built, x = two_units("q = Softmax(y)", "q"), X / 2

        def probability(a: np.ndarray) -> np.ndarray:
            y = a.mean((2, 3)) @ V.astype(np.float64) + C
            e = np.exp(y - y.max(1, keepdims=True))
            return np.asarray((e / e.sum(1, keepdims=True))[:, CLASS])

        return built, probability, x + np.array([0, 1.0]).reshape(1, 2, 1, 1)
    built = bending()

    def logit(a: np.ndarray) -> np.ndarray:
        return np.asarray(1 / (1 + np.exp(-a.reshape(len(a), -1) @ DENSE)) @ OUT[:, CLASS])

    return built, logit, values(built, "a")[0]


def derivatives(f: Callable[[np.ndarray], np.ndarray], a: np.ndarray) -> np.ndarray:
    """First to third derivatives of f for every cell of a, by central differences."""
    step, found = 2e-2, np.zeros((3, *a.shape))
    for cell in np.ndindex(*a.shape[1:]):
        at = np.zeros(a.shape)
        at[(slice(None), *cell)] = step
        y = {n: f(a + n * at) for n in range(-3, 4)}
        place = (slice(None), *cell)
        first = (y[1] - y[-1]) * 0.75 - (y[2] - y[-2]) * 0.15 + (y[3] - y[-3]) / 60
        second = (y[1] + y[-1]) * 1.5 - (y[2] + y[-2]) * 0.15 + (y[3] + y[-3]) / 90 - y[0] * 49 / 18
        third = (y[1] - y[-1]) * -13 / 8 + (y[2] - y[-2]) - (y[3] - y[-3]) / 8
        for order, value in enumerate((first, second, third)):
            found[(order, *place)] = value / step ** (order + 1)
    return found


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_the_general_form_of_grad_cam_plus_plus(name: str) -> None:
    """α = Y″ / (2 Y″ + S Y‴) with Y = exp(y), against differences of the score, cell by cell."""
    proto, f, a = head_of(name)
    g, second, third = derivatives(f, a)
    options: dict[str, Any] = {"form": "general"}
    if name == "softmax":
        options["score"] = "probability"
    x = X / 2 if name == "softmax" else PICTURES
    top, last = g * g + second, g**3 + 3 * g * second + third
    total = a.sum((2, 3), keepdims=True)
    weights = (top / (2 * top + total * last) * np.maximum(g, 0)).sum((2, 3))
    for mode in (*BLOCKS, {"memory": 100_000}):
        found = explain("grad-cam++", proto, x, **options, **mode)
        close(found.weights, weights, tolerance=2e-4)
    closed = explain("grad-cam++", proto, x, score=options.get("score", "logit"))
    assert np.abs(closed.weights - weights).max() > 0.01 * np.abs(weights).max()
    units = [1] if name == "softmax" else [2, 0]
    part = explain("grad-cam++", proto, x, units=units, **options)
    close(part.weights, weights[:, units], tolerance=2e-4)


def test_the_general_form_costs_nothing_where_nothing_bends() -> None:
    """A head that is linear in pieces: no derivative is computed, and the closed form is exact."""
    proto = small("h = Gemm(r, v, c) s = Relu(h) y = Gemm(s, v, c)")
    explainer = Explainer(proto, "grad-cam++", provider="cpu", layer="a", form="general")
    assert not explainer.program().inline.stacks
    assert Explainer(
        bending(), "grad-cam++", provider="cpu", layer="a", form="general"
    ).program().inline.stacks  # fmt: skip
    equal(explainer(PICTURES, CLASS), explain("grad-cam++", proto), tolerance=0)


def test_grad_cam_plus_plus_by_hand() -> None:
    """Unit 0: g = 1, S = 4: 2 · 1 / (2 + 4); unit 1: g = 1.5, S = −2: 2 · 1.5 / (2 − 3)."""
    want = np.array([[2 / 6, 3 / -1]])
    close(by_hand("grad-cam++").weights, want, tolerance=1e-6)
    close(by_hand("grad-cam++", form="general").weights, want, tolerance=1e-6)
    # 2 + S g = 0 for the second unit: its share is 0, and nothing is added to the denominator.
    v = np.array([[1, 2], [-1, 2]], np.float32)
    close(by_hand("grad-cam++", two_units(v=v)).weights, np.array([[2 / 6, 0]]), tolerance=1e-6)
    # Gradients below 0 count for nothing.
    close(by_hand("grad-cam++", target=0).weights, np.array([[1 / 4, 0]]), tolerance=1e-6)


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_shapley_cam_bends_with_the_score(name: str) -> None:
    """w = mean(g − ½ H·A), H·A by differences of the gradient along A."""
    proto, f, a = head_of(name)
    score = "probability" if name == "softmax" else "logit"
    near, far = (derivatives(f, a * (1 + s))[0] for s in (1e-4, -1e-4))
    bent = (near - far) / 2e-4
    found = explain("shapley-cam", proto, X / 2 if name == "softmax" else PICTURES, score=score)
    want = (derivatives(f, a)[0] - bent / 2).mean((2, 3))
    close(found.weights, want, tolerance=2e-4)
    plain = explain("grad-cam", proto, X / 2 if name == "softmax" else PICTURES, score=score)
    assert np.abs(plain.weights - want).max() > 0.05 * np.abs(want).max()


def test_shapley_cam_is_grad_cam_where_nothing_bends() -> None:
    proto = small("h = Gemm(r, v, c) s = Relu(h) y = Gemm(s, v, c)")
    equal(explain("shapley-cam", proto), explain("grad-cam", proto), tolerance=0)


# --- principal components -------------------------------------------------------------------------


def component(rows: np.ndarray, centre: bool, along: np.ndarray | None = None) -> np.ndarray:
    """positions × units, projected on the first right singular vector, with its sign."""
    if centre:
        rows = rows - rows.mean(0)
    found = rows @ np.linalg.svd(rows)[2][0]
    like = found if along is None else found * (along - along.mean())
    return np.asarray(found if like.sum() >= 0 else -found)


@pytest.mark.parametrize("centre", ["no", "yes"])
@pytest.mark.parametrize("method", ["eigen-cam", "eigengrad-cam"])
@pytest.mark.parametrize("shape", [(3, 4, 4), (40, 3, 3), (5, 1, 7), (1, 3, 3)])
def test_principal_components(method: str, centre: str, shape: tuple[int, int, int]) -> None:
    """More cells than units, and fewer; a single row; a single unit. Each image by itself."""
    k, h, w = shape
    proto = models.model(
        "a = Conv(x, one) r = ReduceMean <keepdims = 0> (a, i) y = MatMul(r, v)",
        {
            "one": np.eye(k, dtype=np.float32).reshape(k, k, 1, 1),
            "i": np.array([2, 3]),
            "v": weight(k, 2, seed=4),
        },
        inputs=f"float[N,{k},{h},{w}] x",
        outputs="float[N,2] y",
    )
    x = images(2, k, h, w) + np.float32(0.3)
    found = explain(method, proto, x, [[0, 1], [1, 0]], centre=centre)
    for n, (m, c) in [(n, (m, (n + m) % 2)) for n in range(2) for m in range(2)]:
        a = x[n].astype(np.float64)
        if method == "eigengrad-cam":
            a = a * (weight(k, 2, seed=4)[:, c] / (h * w)).reshape(k, 1, 1)
        along = a.sum(0).ravel() if centre == "yes" else None
        want = component(a.reshape(k, -1).T, centre == "yes", along)
        close(found.raw[n, m].ravel(), want, tolerance=1e-4)
    assert (found.map == np.maximum(found.raw, 0)).all()
    assert found.weights is None


@pytest.mark.parametrize("centre", ["no", "yes"])
@pytest.mark.parametrize("method", ["eigen-cam", "eigengrad-cam"])
def test_components_of_nothing_are_nothing(method: str, centre: str) -> None:
    """A feature map of zeros, and one of equal cells with their mean taken away."""
    dead = small(b=np.full(3, -100, np.float32))
    assert (explain(method, dead, centre=centre).raw == 0).all()
    if centre == "yes":
        flat = small(w=np.zeros((3, 3, 3, 3), np.float32), b=np.array([1, 2, 3], np.float32))
        found = explain(method, flat, centre=centre).raw
        assert np.isfinite(found).all() and np.abs(found).max() < 1e-5


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_components_of_small_and_large_numbers(scale: float) -> None:
    """Squares of them would vanish, or be infinite."""
    proto = small(w=weight(3, 3, 3, 3, seed=2) * np.float32(scale), b=np.zeros(3, np.float32))
    (a,) = values(proto, "a")
    found = explain("eigen-cam", proto)
    for n in range(2):
        close(found.raw[n].ravel(), component(a[n].reshape(3, -1).T, False), tolerance=1e-4)


@pytest.mark.parametrize("method", [m for m in ON_LAYER if METHODS[m].smooths])
def test_pca_smoothing(method: str) -> None:
    """The first centred component of the products that are summed up else."""
    proto = small() if method == "cam" else bending()
    (a,) = values(proto, "a")
    found, plain = explain(method, proto, smooth="pca"), explain(method, proto)
    if plain.weights is None:
        (s,) = values(proto, "s")
        g = ((s * (1 - s) * OUT[:, CLASS]) @ DENSE.T).reshape(a.shape)
    for n in range(2):
        if plain.weights is not None:
            product = a[n] * plain.weights[n][:, None, None]
        else:
            product = a[n] * (np.maximum(g[n], 0) if method == "layer-cam" else g[n])
        rows, total = product.reshape(3, -1).T, product.sum(0)
        close(plain.raw[n], total, tolerance=1e-4)
        close(found.raw[n].ravel(), component(rows, True, total.ravel()), tolerance=2e-4)
    if plain.weights is not None:
        close(found.weights, plain.weights, tolerance=1e-6)


def test_pca_needs_a_sum_over_units() -> None:
    for method in ("eigen-cam", "eigengrad-cam", "recipro-cam", "saliency", "rise"):
        with pytest.raises(OptionError, match=f"smooth 'pca' needs a sum .* {method} has none"):
            Explainer(small(), method, provider="cpu", smooth="pca")


@pytest.mark.parametrize("smooth", ["tta", "pca+tta"])
@pytest.mark.parametrize("method", ["grad-cam", "saliency", "ablation-cam"])
def test_views_are_averaged(method: str, smooth: str) -> None:
    if method == "saliency" and smooth != "tta":
        return
    proto, one = small(), "pca" if smooth == "pca+tta" else "none"
    found = explain(method, proto, PICTURES, None, smooth=smooth)
    target = explain(method, proto, PICTURES, None).target
    raw: Any = 0
    shown: Any = 0
    for turn in (1, -1):
        for factor in (0.9, 1, 1.1):
            view = (PICTURES * np.float32(factor))[..., ::turn]
            part = explain(method, proto, view, target, smooth=one)
            raw, shown = raw + part.raw[..., ::turn] / 6, shown + part.map[..., ::turn] / 6
    assert (found.target == target).all()
    close(found.raw, raw, tolerance=1e-5)
    close(found.map, shown, tolerance=1e-5)


# --- layouts, classes, units ----------------------------------------------------------------------


@pytest.mark.parametrize("method", [m for m in ON_LAYER if m != "cam"])
def test_the_layout_of_a_layer_does_not_matter(method: str) -> None:
    head = "f = Flatten(t) h = MatMul(f, d) s = Sigmoid(h) y = MatMul(s, o)"

    def net(between: str) -> Any:
        return models.model(
            f"p = Conv <pads = [1, 1, 1, 1]> (x, w, b) {between} {head}",
            {"w": weight(3, 3, 3, 3, seed=2), "b": BIASES, "d": DENSE, "o": OUT},
            inputs="float[N,3,4,5] x",
            outputs="float[N,3] y",
        )

    first = net("a = Relu(p) t = Identity(a)")
    last = net(
        "q = Transpose <perm = [0, 2, 3, 1]> (p) a = Relu(q)"
        " t = Transpose <perm = [0, 3, 1, 2]> (a)"
    )
    options = [{}, {"units": [2, 0]}, {"memory": 1}]
    options += [{"form": "general"}] if method == "grad-cam++" else []
    options += [{"kernel": "single"}] if method == "recipro-cam" else []
    for more in options:
        assert Explainer(last, method, layer="a", provider="cpu").classifier.layer("a").layout == (
            "NHWC"
        )
        wanted = [[0, 2], [1, 1]]
        equal(
            explain(method, last, target=wanted, **more),
            explain(method, first, target=wanted, **more),
        )


@pytest.mark.parametrize("method", ON_LAYER)
def test_units_are_left_out(method: str) -> None:
    """The weights of some units are those they have among all; the map is of them alone."""
    proto = small() if method == "cam" else bending()
    (a,) = values(proto, "a")
    chosen = [2, 0]
    part, whole = explain(method, proto, units=chosen), explain(method, proto)
    if whole.weights is not None:
        want = whole.weights[:, chosen]
        if method == "score-cam":  # a softmax over the units asked about
            want = want / want.sum(1, keepdims=True)
        close(part.weights, want, tolerance=1e-5)
        close(part.raw, (want[..., None, None] * a[:, chosen]).sum(1), tolerance=1e-5)
    elif method == "recipro-cam":
        equal(part, whole)
    else:
        both = [explain(method, proto, units=u).raw for u in ([0], [2])]
        if method in ("hires-cam", "layer-cam"):
            close(part.raw, both[0] + both[1], tolerance=1e-5)
        else:
            assert np.abs(part.raw - whole.raw).max() > 1e-3 * np.abs(whole.raw).max()


@pytest.mark.parametrize("method", METHODS)
def test_several_classes_and_the_best(method: str) -> None:
    proto = small()
    (y,) = values(proto, "y")
    order = np.argsort(-y, 1)
    best = explain(method, proto, target="top3", **few(method))
    assert (best.target == order).all()
    equal(best, explain(method, proto, target=order, **few(method)), tolerance=1e-6)
    for m in range(3):
        alone = explain(method, proto, target=order[:, m], **few(method))
        close(best.raw[:, m], alone.raw, tolerance=1e-5)
        close(best.map[:, m], alone.map, base=alone.raw, tolerance=1e-5)
    equal(explain(method, proto, target=None, **few(method)),
          explain(method, proto, target=order[:, 0], **few(method)), tolerance=1e-6)  # fmt: skip


# --- tokens ---------------------------------------------------------------------------------------

D = 6  # features of a token; four patches on a grid of 2 × 2 behind one class token
TOKEN_WEIGHTS: dict[str, np.ndarray] = {
    "w": weight(D, 3, 2, 2, seed=1),
    "cls": weight(1, 1, D, seed=2),
    "wq": weight(D, D, seed=3) * 2,
    "wk": weight(D, D, seed=4) * 2,
    "wv": weight(D, D, seed=5),
    "u": weight(D, 3, seed=6),
}


def tokens() -> Any:
    """Patches and a class token `a`, one attention, and the class token read."""
    shapes = {"s": np.array([0, D, 4]), "one": np.array([1]), "zero": np.array(0)}
    return models.model(
        "p = Conv <strides = [2, 2]> (x, w) q = Reshape(p, s) t = Transpose <perm = [0, 2, 1]> (q)"
        " n = Shape <start = 0, end = 1> (x) n3 = Concat <axis = 0> (n, one, one)"
        " e = Expand(cls, n3) a = Concat <axis = 1> (e, t)"
        " aq = MatMul(a, wq) ak = MatMul(a, wk) av = MatMul(a, wv)"
        " kt = Transpose <perm = [0, 2, 1]> (ak) l = MatMul(aq, kt)"
        " m = Softmax <axis = -1> (l) z = MatMul(m, av) h = Gather <axis = 1> (z, zero)"
        " y = MatMul(h, u)",
        {**TOKEN_WEIGHTS, **shapes},
        inputs="float[N,3,4,4] x",
        outputs="float[N,3] y",
    )


def read(a: np.ndarray) -> np.ndarray:
    """The score of class 1 from tokens (N, 5, D)."""
    w = {name: array.astype(np.float64) for name, array in TOKEN_WEIGHTS.items()}
    logits = (a[:, 0] @ w["wq"])[:, None] @ (a @ w["wk"]).transpose(0, 2, 1)
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(((e / e.sum(-1, keepdims=True)) @ (a @ w["wv"]))[:, 0] @ w["u"][:, CLASS])


TOKEN_PICTURES = images(2, 3, 4, 4, seed=9)


def of_patches(t: np.ndarray) -> np.ndarray:
    """(N, 5, D) → (N, D, 2, 2), without the class token."""
    return t[:, 1:].transpose(0, 2, 1).reshape(len(t), D, 2, 2)


# --- errors ---------------------------------------------------------------------------------------


def test_options_are_checked() -> None:
    for method, options, text in (
        ("rise", {"masks": 0}, "a whole number, 1 or more"),
        ("rise", {"masks": 2.5}, "a whole number, 1 or more, not 2.5"),
        ("rise", {"masks": float("inf")}, "a whole number"),
        ("rise", {"keep": float("nan")}, "a number, 0.01 to 0.99, not nan"),
        ("rise", {"keep": 1}, "a number, 0.01 to 0.99, not 1"),
        ("rise", {"masks": True}, "a whole number"),
        ("rise", {"masks": "many"}, "a whole number, 1 or more, not 'many'"),
        ("rise", {"seed": -1}, "a whole number, 0 or more"),
        ("occlusion", {"window": 0}, "a number, 0.001 to 1, not 0"),
        ("smoothgrad", {"noise": float("inf")}, "a number, 0 to 10"),
        ("smoothgrad", {"squared": True}, r"squared = no \| yes, not True"),
        ("eigen-cam", {"centre": "maybe"}, r"centre = no \| yes, not 'maybe'"),
        ("grad-cam", {"steps": 3}, "grad-cam has no option 'steps'; its options: none"),
        ("grad-cam++", {"from": 1}, r"no option 'from' \(did you mean 'form'\?\)"),
        ("saliency", {"layer": "a"}, "works on pixels, not on a feature map: leave out --layer"),
        ("saliency", {"units": [0]}, "works on pixels: it has no units"),
        ("grad-cam", {"units": [3]}, "units must be different numbers from 0 to 2"),
        ("grad-cam", {"smooth": "much"}, "smooth is none, pca, tta, pca"),
    ):
        with pytest.raises(OptionError, match=text):
            Explainer(small(), method, provider="cpu", **options)


def test_numbers_of_numpy_are_numbers() -> None:
    explainer = Explainer(small(), "rise", provider="cpu", masks=np.int64(3), keep=np.float32(0.5))
    assert dict(explainer.recipe.settings)["masks"] == 3
    with pytest.raises(OptionError, match="masks"):
        Explainer(small(), "rise", provider="cpu", masks=np.bool_(True))


def test_names_of_methods() -> None:
    with pytest.raises(OptionError, match=r"no method 'gradcamm' .*did you mean 'grad-cam'"):
        Explainer(small(), "gradcamm", provider="cpu")
    assert Explainer(small(), "Grad_CAM++", provider="cpu").recipe.method.name == "grad-cam++"
    assert Explainer(small(), "HIRESCAM", provider="cpu").recipe.method.name == "hires-cam"


GRU = (
    "h = Unsqueeze(r, z) s, t = GRU <hidden_size = 3, clip = 9.0> (h, gw, gr) q = Squeeze(t, z)"
    " y = Gemm(q, v, c)"
)
IF = (
    "{0} = If (yes) <then_branch = g1 () => (o1) {{ o1 = Relu({1}) }},"
    " else_branch = g2 () => (o2) {{ o2 = Identity({1}) }}>"
)


def others(text: str) -> list[str]:
    """The methods that an error says would do."""
    named = text.partition("methods that do not: ")[2]
    return [] if named == "none" else named.split(", ")


@pytest.mark.parametrize("method", [m for m in METHODS if METHODS[m].needs != ("feature",)])
def test_an_operator_without_a_rule_is_named_with_a_way_out(method: str) -> None:
    """A GRU that clips, in the head: methods without gradients work, and the error lists them."""
    extra = {"z": np.array([0]), "gw": weight(1, 9, 3, seed=8), "gr": weight(1, 9, 3, seed=9)}
    proto = small(GRU, **extra)
    for node in proto.graph.node:
        node.name = f"the_{node.op_type}"
    able = ["ablation-cam", "eigen-cam", "score-cam", "recipro-cam", "occlusion", "rise"]
    if method in able:
        assert np.isfinite(explain(method, proto, **few(method)).raw).all()
    elif method != "cam" and method != "guided-cam":
        with pytest.raises(
            OpError, match=r"the_GRU\w*' \(GRU\): a GRU with clip has no gradient rule"
        ) as error:
            explain(method, proto, **few(method))
        assert others(str(error.value)) == able
        assert f"and {method} needs it" in str(error.value)


@pytest.mark.parametrize("place", ["before", "behind"])
def test_a_subgraph_is_named_with_a_way_out(place: str) -> None:
    """An If that the picture decides: what is listed works, and what is not listed does not."""
    first = "p = Conv <pads = [1, 1, 1, 1]> (x, w, b) m = ReduceMax <keepdims = 0> (x) "
    first += "yes = Greater(m, m) "
    if place == "before":
        body = first + IF.format("u", "p")
        body += " k = Conv(u, k3) a = Relu(k) r = GlobalAveragePool(a)"
    else:
        body = first + "a = Relu(p) g = GlobalAveragePool(a) " + IF.format("r", "g")
    proto = models.model(
        f"{body} f = Flatten(r) y = Gemm(f, v, c)",
        {
            "w": weight(3, 3, 3, 3, seed=2), "b": BIASES, "k3": weight(3, 3, 1, 1),
            "v": weight(3, 3, seed=4), "c": weight(3, seed=5),
        },
        inputs="float[N,3,4,5] x", outputs="float[N,3] y",
    )  # fmt: skip
    works, listed = set(), []
    for method, row in METHODS.items():
        if row.fused:
            continue
        try:
            explain(method, proto, **few(method))
            works.add(method)
        except OpError as error:
            assert r"(If)" in str(error) and f"{method} needs it" in str(error)
            if row.on_layer:
                listed.append(others(str(error)))
        except ModelError:
            assert method == "cam" and place == "behind"
    assert works == ({*ON_LAYER} - {"score-cam"} if place == "before" else {"eigen-cam"})
    assert listed and all(set(one) == works for one in listed)
