"""Methods beside Ablation-CAM on tiny models, against formulas written out in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_methods import A, C, V, X, two_units

import models
from models import close, images, weight
from onnxcam import Explainer, ModelError, OpError, OptionError
from onnxcam.methods import METHODS
from onnxcam.perturb import items

# `two_units`: A is two units on a grid of 1 × 2, y = mean(A) @ V + C.
BLOCKS: list[dict[str, Any]] = [{}, {"memory": 1}]
in_blocks = pytest.mark.parametrize("mode", BLOCKS, ids=["together", "blocks"])
CLASS = 1


def explain(
    method: str, proto: Any = None, x: np.ndarray = X, target: Any = CLASS, **k: Any
) -> Any:
    if METHODS[method].on_layer:
        k.setdefault("layer", "a")
    return Explainer(proto or two_units(), method, provider="cpu", threads=1, **k)(x, target)


def slope() -> np.ndarray:
    """∂y/∂A of class 1: V / 2 in both cells, as (1, units, 1, 2)."""
    return np.broadcast_to((V[:, CLASS] / 2).reshape(1, 2, 1, 1), A.shape)


def small(tail: str = "y = Gemm(r, v, c)", output: str = "y", **extra: Any) -> Any:
    """A convolution with bias, Relu (tensor `a`), mean, dense: 3 units on 4 × 5, 3 classes."""
    weights = {"w": weight(3, 3, 3, 3, seed=2), "b": weight(3, seed=3), "i": np.array([2, 3])}
    weights |= {"v": weight(3, 3, seed=4), "c": weight(3, seed=5), **extra}
    return models.model(
        f"p = Conv <pads = [1, 1, 1, 1]> (x, w, b) a = Relu(p) r = ReduceMean <keepdims = 0> (a, i)"
        f" {tail}",
        weights,
        inputs="float[N,3,4,5] x",
        outputs=f"float[N,3] {output}",
    )


PICTURES = images(2, 3, 4, 5)


def values(proto: Any, *names: str, x: np.ndarray = PICTURES) -> list[np.ndarray]:
    return [v.astype(np.float64) for v in models.run(proto, {"x": x}, list(names))]


# --- on a feature map -----------------------------------------------------------------------------


def test_weights_by_hand() -> None:
    """g = V / 2 everywhere, so the mean of g is V / 2, and CAM's weight is V itself."""
    g, half = slope(), V[None, :, CLASS] / 2
    close(explain("grad-cam").weights, half, tolerance=1e-6)
    close(explain("grad-cam").raw, (g * A).sum(1), tolerance=1e-6)
    close(explain("cam").weights, V[None, :, CLASS], tolerance=1e-6)
    close(explain("xgrad-cam").weights, half, tolerance=1e-6)
    close(explain("hires-cam").raw, (g * A).sum(1), tolerance=1e-6)
    close(
        explain("layer-cam", target=0).raw,
        (np.maximum(V[:, 0] / 2, 0)[None, :, None, None] * A).sum(1),
    )
    assert explain("hires-cam").weights is None
    close(explain("shapley-cam").weights, half, tolerance=1e-6)  # a linear head does not bend


def test_grad_cam_plus_plus_by_hand() -> None:
    """Unit 0: g = 1, S = 4: 2 · 1 / (2 + 4); unit 1: g = 1.5, S = −2: 2 · 1.5 / (2 − 3)."""
    want = np.array([[2 / 6, 3 / -1]])
    close(explain("grad-cam++").weights, want, tolerance=1e-6)
    close(explain("grad-cam++", form="general").weights, want, tolerance=1e-6)
    # 2 + S g = 0 for the second unit: its share is 0, and nothing is added to the denominator.
    v = np.array([[1, 2], [-1, 2]], np.float32)
    close(explain("grad-cam++", two_units(v=v)).weights, np.array([[2 / 6, 0]]), tolerance=1e-6)


def test_the_general_form_of_grad_cam_plus_plus() -> None:
    """With a softmax behind the head, against differences of the probability, cell by cell."""
    proto, x = two_units("q = Softmax(y)", "q"), X / 2

    def p(a: np.ndarray) -> float:
        y = a.mean((2, 3))[0] @ V.astype(np.float64) + C
        e = np.exp(y - y.max())
        return float((e / e.sum())[CLASS])

    a = x.astype(np.float64) + np.array([0, 1]).reshape(1, 2, 1, 1)
    total, weights, step = a.sum((2, 3))[0], np.zeros(2), 1e-2
    for k in range(2):
        for j in range(2):
            at = np.zeros_like(a)
            at[0, k, 0, j] = step
            f = {n: p(a + n * at) for n in range(-3, 4)}
            first = (f[1] - f[-1]) * 0.75 - (f[2] - f[-2]) * 0.15 + (f[3] - f[-3]) / 60
            g = first / step
            second = (-(f[2] + f[-2]) + 16 * (f[1] + f[-1]) - 30 * f[0]) / 12 / step**2
            third = ((f[3] - f[-3]) / -8 + (f[2] - f[-2]) - (f[1] - f[-1]) * 13 / 8) / step**3
            top, last = g * g + second, g**3 + 3 * g * second + third
            weights[k] += top / (2 * top + total[k] * last) * max(g, 0)
    for mode in BLOCKS:
        found = explain("grad-cam++", proto, x, score="probability", form="general", **mode)
        close(found.weights, weights[None], tolerance=1e-4)
    closed = explain("grad-cam++", proto, x, score="probability")
    assert np.abs(closed.weights - weights).max() > 0.01 * np.abs(weights).max()


def test_shapley_cam_bends_with_the_score() -> None:
    """w = mean(g − ½ H·A), H·A by differences of the gradient along A."""
    proto, x = two_units("q = Softmax(y)", "q"), X / 2

    def g(a: np.ndarray) -> np.ndarray:
        y = a.mean((2, 3)) @ V.astype(np.float64) + C
        e = np.exp(y - y.max())
        q = e / e.sum()
        slope = q[:, CLASS, None] * (V[None, :, CLASS] - q @ V.T)
        return np.broadcast_to((slope / 2)[:, :, None, None], a.shape)

    a = x.astype(np.float64) + np.array([0, 1]).reshape(1, 2, 1, 1)
    bent = (g(a * (1 + 1e-5)) - g(a * (1 - 1e-5))) / 2e-5
    found = explain("shapley-cam", proto, x, score="probability")
    close(found.weights, (g(a) - bent / 2).mean((2, 3)), tolerance=1e-4)


@pytest.mark.parametrize("centre", ["no", "yes"])
@pytest.mark.parametrize("method", ["eigen-cam", "eigengrad-cam"])
@pytest.mark.parametrize("shape", [(3, 4, 4), (40, 3, 3)])  # more cells than units, and fewer
def test_principal_components(method: str, centre: str, shape: tuple[int, int, int]) -> None:
    k, h, w = shape
    proto = models.model(
        "a = Relu(x) r = ReduceMean <keepdims = 0> (a, i) y = MatMul(r, v)",
        {"i": np.array([2, 3]), "v": weight(k, 2, seed=4)},
        inputs=f"float[N,{k},{h},{w}] x", outputs="float[N,2] y",
    )  # fmt: skip
    x = images(2, k, h, w)
    a, v = np.maximum(x, 0).astype(np.float64), weight(k, 2, seed=4)[:, CLASS]
    if method == "eigengrad-cam":
        a = a * (v / (h * w)).reshape(1, k, 1, 1)
    found = explain(method, proto, x, centre=centre)
    for n in range(2):
        rows = a[n].reshape(k, -1).T
        rows = rows - rows.mean(0) if centre == "yes" else rows
        want = rows @ np.linalg.svd(rows)[2][0]
        along = a[n].sum(0).ravel() - a[n].sum(0).mean() if centre == "yes" else np.ones(h * w)
        want *= np.sign(want @ along)
        close(found.raw[n].ravel(), want, tolerance=1e-4)


def test_cam_says_why_not() -> None:
    hidden = "h = Gemm(r, v, c) s = Relu(h) y = Gemm(s, v, c)"
    with pytest.raises(ModelError, match=r"CAM needs .* stands node .* \(Relu\); grad-cam"):
        explain("cam", small(hidden), PICTURES)


@in_blocks
def test_score_cam(mode: dict[str, Any]) -> None:
    """The map has the image's size here, so the mask is the unit itself, brought to 0 … 1."""
    proto = small()
    (a,) = values(proto, "a")
    scores = np.zeros((2, 3))
    for k in range(3):
        low, high = a[:, k].min((1, 2), keepdims=True), a[:, k].max((1, 2), keepdims=True)
        mask = (a[:, k] - low) / np.where(high > low, high - low, 1)
        masked = (PICTURES * mask[:, None]).astype(np.float32)
        scores[:, k] = values(proto, "y", x=masked)[0][:, CLASS]
    e = np.exp(scores - scores.max(1, keepdims=True))
    found = explain("score-cam", proto, PICTURES, **mode)
    close(found.weights, e / e.sum(1, keepdims=True), tolerance=1e-5)


@in_blocks
@pytest.mark.parametrize("kernel", ["gaussian", "single"])
def test_recipro_cam(kernel: str, mode: dict[str, Any]) -> None:
    """The head is linear: the score at a place is mean(A ⊙ M) @ V + C."""
    found = explain("recipro-cam", kernel=kernel, **mode)
    share = np.array([[0.25, 0.125], [0.125, 0.25]]) if kernel == "gaussian" else np.eye(2)
    want = [(A[0, :, 0] * m).mean(1) @ V[:, CLASS] + C[CLASS] for m in share]
    close(found.raw.ravel(), np.array(want), tolerance=1e-6)
    span = np.ptp(want)
    close(found.map.ravel(), (np.array(want) - min(want)) / span, tolerance=1e-6)


def test_pca_smoothing() -> None:
    proto = small()
    (a,) = values(proto, "a")
    found = explain("grad-cam", proto, PICTURES, smooth="pca")
    plain = explain("grad-cam", proto, PICTURES)
    for n in range(2):
        product = a[n] * plain.weights[n][:, None, None]
        rows = product.reshape(3, -1).T
        rows = rows - rows.mean(0)
        want = rows @ np.linalg.svd(rows)[2][0]
        along = product.sum(0).ravel()
        want *= np.sign(want @ (along - along.mean()))
        close(found.raw[n].ravel(), want, tolerance=1e-4)
    with pytest.raises(OptionError, match="smooth 'pca' needs a sum over units"):
        explain("eigen-cam", proto, PICTURES, smooth="pca")


@pytest.mark.parametrize("method", ["grad-cam", "saliency", "ablation-cam"])
def test_views_are_averaged(method: str) -> None:
    proto = small()
    found = explain(method, proto, PICTURES, None, smooth="tta")
    target = explain(method, proto, PICTURES, None).target
    total: Any = 0
    for turn in (1, -1):
        for factor in (0.9, 1, 1.1):
            view = (PICTURES * np.float32(factor))[..., ::turn]
            total = total + explain(method, proto, view, target).raw[..., ::turn] / 6
    assert (found.target == target).all()
    close(found.raw, total, tolerance=1e-5)


# --- on pixels ------------------------------------------------------------------------------------


def numeric(proto: Any, x: np.ndarray, step: float = 1e-2) -> np.ndarray:
    """∂y/∂x of class 1 by differences: exact for a model that is linear in pieces."""
    found = np.zeros(x.shape)
    for index in np.ndindex(x.shape[1:]):
        ends = []
        for sign in (1, -1):
            moved = x.copy()
            moved[(slice(None), *index)] += sign * step
            ends.append(values(proto, "y", x=moved)[0][:, CLASS])
        found[(slice(None), *index)] = (ends[0] - ends[1]) / (2 * step)
    return found


def test_gradients_for_pixels() -> None:
    proto = small()
    want = numeric(proto, PICTURES, 1e-2)
    found = explain("saliency", proto, PICTURES)
    close(found.raw, want, tolerance=2e-3)
    assert (found.map == np.abs(found.raw).max(1)).all()
    product = explain("input-x-gradient", proto, PICTURES)
    close(product.raw, found.raw * PICTURES, tolerance=1e-6)
    close(product.map, np.abs(product.raw.sum(1)), tolerance=1e-6)


@in_blocks
def test_integrated_gradients_add_up(mode: dict[str, Any]) -> None:
    proto = small()
    y, blank = (values(proto, "y", x=x)[0][:, CLASS] for x in (PICTURES, 0 * PICTURES))
    found = explain("integrated-gradients", proto, PICTURES, steps=500, **mode)
    total = found.raw.astype(np.float64).sum((1, 2, 3))
    close(found.gap, total - (y - blank), base=y, tolerance=1e-5)
    assert np.abs(found.gap).max() < 5e-3 * np.abs(y - blank).max()
    coarse = explain("integrated-gradients", proto, PICTURES, steps=2, **mode)
    assert np.abs(coarse.gap).max() > np.abs(found.gap).max()
    assert "completeness gap" in coarse.notes[-1]
    mean = explain("integrated-gradients", proto, PICTURES, steps=500, baseline="mean", **mode)
    flat = np.broadcast_to(PICTURES.mean((2, 3), keepdims=True), PICTURES.shape).astype(np.float32)
    base = values(proto, "y", x=flat)[0][:, CLASS]
    close(mean.raw.astype(np.float64).sum((1, 2, 3)), y - base, base=y, tolerance=2e-2)


def test_full_gradient_is_complete() -> None:
    """x ⊙ g and bias ⊙ g of every layer add up to the score (without the last layer's bias)."""
    proto = small(c=np.zeros(3, np.float32))
    y = values(proto, "y")[0][:, CLASS]
    g = explain("saliency", proto, PICTURES).raw
    by_input = (g * PICTURES).sum((1, 2, 3))
    (a,) = values(proto, "a")
    v, b = weight(3, 3, seed=4)[:, CLASS], weight(3, seed=3)
    by_bias = ((a > 0).sum((2, 3)) / 20 * v * b).sum(1)
    close(by_input + by_bias, y, tolerance=1e-5)
    found = explain("fullgrad", proto, PICTURES)
    term = np.abs((a > 0) / 20 * (v * b).reshape(1, 3, 1, 1))
    low, high = term.min((2, 3), keepdims=True), term.max((2, 3), keepdims=True)
    term = ((term - low) / np.where(high > low, high - low, 1)).sum(1)
    first = np.abs((g * PICTURES).sum(1))
    low, high = first.min((1, 2), keepdims=True), first.max((1, 2), keepdims=True)
    close(found.map, (first - low) / (high - low) + term, tolerance=1e-4)


@in_blocks
def test_smoothgrad(mode: dict[str, Any]) -> None:
    proto = small()
    quiet = explain("smoothgrad", proto, PICTURES, samples=3, noise=0, **mode)
    close(quiet.raw, explain("saliency", proto, PICTURES).raw, tolerance=1e-5)
    draws = items.noise(4, (3, 4, 5), seed=7).make(0, 4)
    for squared in ("no", "yes"):
        found = explain(
            "smoothgrad", proto, PICTURES, samples=4, noise=0.2, seed=7, squared=squared, **mode
        )
        want: Any = 0
        for n in range(2):
            level = 0.2 * np.ptp(PICTURES[n])
            noisy = (PICTURES[n] + level * draws).astype(np.float32)
            g = explain("saliency", proto, noisy).raw
            want = (g**2 if squared == "yes" else g).mean(0)
            close(found.raw[n], want, tolerance=1e-4)


@in_blocks
@pytest.mark.parametrize("muted", ["zero", "mean"])
def test_occlusion(muted: str, mode: dict[str, Any]) -> None:
    proto = small()
    found = explain("occlusion", proto, PICTURES, window=0.5, stride=0.25, muted=muted, **mode)
    (y,) = values(proto, "y")
    total, count = np.zeros((2, 4, 5)), np.zeros((4, 5))
    ground = PICTURES.mean((2, 3), keepdims=True) if muted == "mean" else 0 * PICTURES[:, :, :1, :1]
    for top in range(3):
        for left in range(4):
            at = (slice(None), slice(None), slice(top, top + 2), slice(left, left + 2))
            without = PICTURES.copy()
            without[at] = ground
            drop = (y - values(proto, "y", x=without)[0])[:, CLASS]
            total[(at[0], *at[2:])] += drop[:, None, None]
            count[at[2:]] += 1
    close(found.raw, total / count, tolerance=1e-4)


@in_blocks
def test_rise(mode: dict[str, Any]) -> None:
    proto = small()
    settings: dict[str, Any] = {"masks": 9, "cells": 2, "keep": 0.4, "seed": 3}
    found = explain("rise", proto, PICTURES, **settings, **mode)
    masks = items.random_masks(9, (4, 5), 2, 0.4, 3).make(0, 9)
    want = np.zeros((2, 4, 5))
    for mask in masks:
        want += values(proto, "y", x=PICTURES * mask)[0][:, CLASS, None, None] * mask
    close(found.raw, want / (9 * 0.4), tolerance=1e-5)
    other = explain("rise", proto, PICTURES, **{**settings, "seed": 4}, **mode)
    assert np.abs(other.raw - found.raw).max() > 0.01 * np.abs(found.raw).max()


def test_random_masks() -> None:
    masks = items.random_masks(400, (21, 30), 7, 0.5, 0).make(0, 400)
    assert masks.shape == (400, 21, 30) and masks.min() >= 0 and masks.max() <= 1
    assert abs(masks.mean() - 0.5) < 0.02
    assert np.abs(masks.mean(0) - 0.5).max() < 0.12
    part = items.random_masks(400, (21, 30), 7, 0.5, 0).make(17, 19)
    assert (part == masks[17:19]).all()


def test_windows_cover_everything() -> None:
    for size in (1, 5, 224):
        for window, stride in ((0.15, 0.05), (1.0, 1.0), (0.001, 0.001), (0.3, 0.3)):
            cover = items.cover(size, window, stride)
            assert (cover.sum(0) >= 1).all() and len(set(map(tuple, cover))) == len(cover)


# --- fusions, comparisons, errors -----------------------------------------------------------------


def test_guided_fusion() -> None:
    """The map is of the image's size here: nothing is resized."""
    proto = small()
    guided = explain("guided-backprop", proto, PICTURES).raw
    for method in ("grad-cam", "ablation-cam", "recipro-cam"):
        coarse = explain(method, proto, PICTURES).map
        found = explain(f"guided-{method}", proto, PICTURES)
        close(found.raw, guided * coarse[:, None], tolerance=1e-5)
        assert (found.map == np.abs(found.raw).max(1)).all()


@in_blocks
def test_several_at_once_equal_each_alone(mode: dict[str, Any]) -> None:
    proto = small()
    small_numbers: dict[str, Any] = {"masks": 5, "samples": 3, "steps": 4}
    asked = []
    for name, row in METHODS.items():
        own = tuple((k, v) for k, v in small_numbers.items() if k in row.options)
        asked.append((name, None, own))
    explainer = Explainer(proto, provider="cpu", threads=1, **mode)
    wanted = np.array([[0, 2, 1], [1, 0, 2]])
    together = explainer._run(PICTURES, wanted, None, asked)
    for (name, _, own), one in zip(asked, together, strict=True):
        alone = Explainer(proto, name, provider="cpu", threads=1, **dict(own))(PICTURES, wanted)
        assert one.method == name and (one.target == alone.target).all()
        close(one.raw, alone.raw, tolerance=1e-4)
        close(one.map, alone.map, base=alone.raw, tolerance=1e-4)
        assert one.map.shape[:2] == (2, 3)


@pytest.mark.parametrize("batch", [1, 2])
def test_fixed_batches(batch: int) -> None:
    for name in ("grad-cam", "saliency", "score-cam", "smoothgrad", "rise", "recipro-cam"):
        proto = models.tiny(batch=batch)
        x = images(2, 3, 8, 8)
        own = {k: 4 for k in ("masks", "samples") if k in METHODS[name].options}
        fixed = Explainer(proto, name, provider="cpu", threads=1, **own)(x, CLASS)
        want = Explainer(models.tiny(), name, provider="cpu", threads=1, **own)(x, CLASS)
        close(fixed.raw, want.raw, tolerance=1e-5)


def test_options_are_checked() -> None:
    for method, options, text in (
        ("rise", {"masks": 0}, "a whole number, 1 or more"),
        ("rise", {"masks": 2.5}, "a whole number"),
        ("rise", {"keep": float("nan")}, "a number, 0.01 to 0.99"),
        ("rise", {"masks": True}, "a whole number"),
        ("grad-cam", {"steps": 3}, "grad-cam has no option 'steps'"),
        ("saliency", {"layer": "a"}, "works on pixels, not on a feature map"),
        ("saliency", {"units": [0]}, "it has no units"),
        ("grad-cam", {"smooth": "much"}, "smooth is none, pca, tta, pca"),
    ):
        with pytest.raises(OptionError, match=text):
            Explainer(small(), method, provider="cpu", **options)
    with pytest.raises(OptionError, match="did you mean 'grad-cam'"):
        Explainer(small(), "gradcamm", provider="cpu")
    assert Explainer(small(), "Grad_CAM++", provider="cpu").recipe.method.name == "grad-cam++"


def test_an_operator_without_a_rule_is_named_with_a_way_out() -> None:
    tail = (
        "h = Unsqueeze(r, o) s, t = GRU <hidden_size = 3> (h, gw, gr) q = Squeeze(t, o2)"
        " y = Gemm(q, v, c)"
    )
    extra = {
        "o": np.array([0]), "o2": np.array([0]),
        "gw": weight(1, 9, 3, seed=8), "gr": weight(1, 9, 3, seed=9),
    }  # fmt: skip
    proto = small(tail, **extra)
    with pytest.raises(
        OpError, match=r"\(GRU\): there is no gradient rule.*need no gradient: .*rise"
    ):
        explain("grad-cam", proto, PICTURES)
    assert np.isfinite(explain("ablation-cam", proto, PICTURES).raw).all()
    assert np.isfinite(explain("score-cam", proto, PICTURES).raw).all()


def test_guided_rules_say_where_there_is_no_relu() -> None:
    proto = models.model(
        "a = Conv(x, w) s = Sigmoid(a) r = ReduceMean <keepdims = 0> (s, i) y = MatMul(r, v)",
        {"w": weight(3, 3, 1, 1), "i": np.array([2, 3]), "v": weight(3, 3)},
        inputs="float[N,3,4,5] x", outputs="float[N,3] y",
    )  # fmt: skip
    assert any("no Relu" in note for note in explain("guided-backprop", proto, PICTURES).notes)
    assert not explain("guided-backprop", small(), PICTURES).notes
