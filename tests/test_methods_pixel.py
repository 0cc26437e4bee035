"""Attributions to pixels on tiny models: by hand, and against derivatives in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from explained import (
    BIASES,
    CLASS,
    DENSE,
    OUT,
    PICTURES,
    bending,
    equal,
    explain,
    few,
    in_blocks,
    small,
    unit_range,
    values,
)

import models
from models import close, images, weight
from onnxcam import Explainer
from onnxcam.diff.model import gradient_model
from onnxcam.methods import METHODS
from onnxcam.perturb import items


def score(x: np.ndarray) -> np.ndarray:
    """The score of class 1 of `bending` in float64, (N,)."""
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    w = weight(3, 3, 3, 3, seed=2).astype(np.float64)
    p = np.einsum("nchwij,kcij->nkhw", windows, w) + BIASES[:, None, None]
    f = np.maximum(p, 0).reshape(len(x), -1)
    return np.asarray(1 / (1 + np.exp(-f @ DENSE)) @ OUT[:, CLASS])


def slopes(x: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Its gradient by central differences, (N, C, H, W)."""
    found = np.zeros(x.shape)
    for cell in np.ndindex(*x.shape[1:]):
        at = np.zeros(x.shape)
        at[(slice(None), *cell)] = step
        found[(slice(None), *cell)] = (score(x + at) - score(x - at)) / (2 * step)
    return found


# --- by perturbation of a feature map -----------------------------------------------------------


def test_the_reference_is_the_model() -> None:
    close(score(PICTURES), values(bending(), "y")[0][:, CLASS], tolerance=1e-5)


def test_saliency_and_input_x_gradient() -> None:
    g = slopes(PICTURES)
    found = explain("saliency", bending())
    close(found.raw, g, tolerance=1e-5)
    close(found.map, np.abs(g).max(1), tolerance=1e-5)
    product = explain("input-x-gradient", bending())
    close(product.raw, g * PICTURES, tolerance=1e-5)
    close(product.map, np.abs((g * PICTURES).sum(1)), tolerance=1e-5)


# --- other rules for rectifiers -------------------------------------------------------------------


def two_layers(first: str) -> Any:
    """x → first → a mix of the two channels → Relu → mean → y = r₀ − r₁."""
    return models.model(
        f"q = {first} p = Conv(q, w) a = Relu(p) r = ReduceMean <keepdims = 0> (a, i)"
        " y = MatMul(r, v)",
        {
            "w": np.array([[2, -1], [-1, 1]], np.float32).reshape(2, 2, 1, 1),
            "i": np.array([2, 3]),
            "v": np.array([[1, 0], [-1, 1]], np.float32),
        },
        inputs="float[N,2,1,2] x",
        outputs="float[N,2] y",
    )


RULES = {  # first layer, method and options → what comes back to the two pixels of both channels
    # x = (3, −2), (1, 4); p = (5, −4), (−2, 4) behind Relu, (5, −6), (−2, 5) behind LeakyRelu.
    # ∂y/∂a = (½, ½), (−½, −½); through the second Relu: (½, 0), (0, −½); if guided (½, 0), (0, 0);
    # by deconvnet (½, ½), (0, 0). Through the mix: (1, ½), (−½, −½); (1, 0), (−½, 0); and
    # (1, 1), (−½, −½).
    ("Relu(x)", "saliency"): [[1, 0], [-0.5, -0.5]],
    ("Relu(x)", "guided-backprop"): [[1, 0], [0, 0]],
    ("Relu(x)", "deconvnet"): [[1, 1], [0, 0]],
    ("LeakyRelu <alpha = 0.5> (x)", "saliency"): [[1, 0.25], [-0.5, -0.5]],
    ("LeakyRelu <alpha = 0.5> (x)", "guided-backprop"): [[1, 0], [-0.5, 0]],
    ("LeakyRelu <alpha = 0.5> (x)", "deconvnet"): [[1, 0.5], [-0.5, -0.5]],
    ("LeakyRelu <alpha = 0.5> (x)", "guided-backprop", "all"): [[1, 0], [0, 0]],
    ("LeakyRelu <alpha = 0.5> (x)", "deconvnet", "all"): [[1, 1], [0, 0]],
    ("Identity(x)", "guided-backprop", "all"): [[1, 0], [-0.5, 0]],
}


@pytest.mark.parametrize("case", RULES, ids=lambda c: "-".join(c).split(" ")[0] + "-" + c[1])
def test_rules_of_rectifiers_by_hand(case: tuple[str, ...]) -> None:
    first, method, *rest = case
    options = {"rectifiers": rest[0]} if rest else {}
    x = np.array([[[[3, -2]], [[1, 4]]]], np.float32)
    found = explain(method, two_layers(first), x, 0, **options)
    want = np.array(RULES[case], np.float64).reshape(1, 2, 1, 2)
    close(found.raw, want, tolerance=1e-6)
    close(found.map, np.abs(want).max(1), tolerance=1e-6)


@pytest.mark.parametrize("method", ["guided-backprop", "deconvnet"])
def test_it_is_said_where_there_is_no_relu(method: str) -> None:
    proto = models.model(
        "a = Conv(x, w) s = Sigmoid(a) r = ReduceMean <keepdims = 0> (s, i) y = MatMul(r, v)",
        {"w": weight(3, 3, 1, 1), "i": np.array([2, 3]), "v": weight(3, 3)},
        inputs="float[N,3,4,5] x",
        outputs="float[N,3] y",
    )
    found = explain(method, proto)
    assert any("no Relu" in note and "rectifiers=all" in note for note in found.notes)
    equal(found, explain("saliency", proto), tolerance=0)
    assert not explain(method, small()).notes


@pytest.mark.parametrize("method", ["grad-cam", "ablation-cam", "recipro-cam", "eigen-cam"])
def test_fusions_multiply_with_the_enlarged_map(method: str) -> None:
    """Bilinear, pixel centres aligned: of 2 × 2 cells on 4 × 6 pixels."""
    proto = models.model(
        "p = Conv <strides = [2, 3]> (x, w, b) a = Relu(p) r = ReduceMean <keepdims = 0> (a, i)"
        " y = MatMul(r, v)",
        {
            **{"w": weight(4, 3, 2, 3, seed=2), "b": weight(4, seed=3) / 4, "v": weight(4, 3)},
            "i": np.array([2, 3]),
        },
        inputs="float[N,3,4,6] x",
        outputs="float[N,3] y",
    )
    x = images(2, 3, 4, 6)
    coarse, guided = explain(method, proto, x).map, explain("guided-backprop", proto, x).raw
    rows = np.array([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    thirds = [1, 1, 2 / 3, 1 / 3, 0, 0]
    columns = np.array([[t, 1 - t] for t in thirds])
    fine = rows @ coarse @ columns.T
    found = explain(f"guided-{method}", proto, x)
    close(found.raw, guided * fine[:, None], tolerance=1e-5)
    assert (found.map == np.abs(found.raw).max(1)).all()
    part = explain(f"guided-{method}", proto, x, rectifiers="all")
    close(part.raw, found.raw, tolerance=1e-6)  # there are no other rectifiers
    if METHODS[method].smooths:
        close(found.weights, explain(method, proto, x).weights, tolerance=1e-6)


# --- sums of gradients ----------------------------------------------------------------------------


@in_blocks
@pytest.mark.parametrize("baseline", ["zero", "mean"])
def test_integrated_gradients_step_by_step(baseline: str, mode: dict[str, Any]) -> None:
    """(x − x′) times the mean gradient at x′ + α (x − x′), α = ⅙, ½, ⅚."""
    ground = PICTURES.mean((2, 3), keepdims=True) if baseline == "mean" else np.zeros(1)
    way = PICTURES.astype(np.float64) - ground
    mean = np.mean([slopes(ground + a * way) for a in (1 / 6, 1 / 2, 5 / 6)], 0)
    found = explain("integrated-gradients", bending(), steps=3, baseline=baseline, **mode)
    close(found.raw, way * mean, tolerance=1e-5)
    close(found.map, np.abs((way * mean).sum(1)), tolerance=1e-5)
    gain = score(PICTURES) - score(np.broadcast_to(ground, PICTURES.shape))
    assert found.gap is not None
    close(found.gap, (way * mean).sum((1, 2, 3)) - gain, base=gain, tolerance=1e-5)
    assert f"{np.abs(found.gap).max():.3g}" in found.notes[-1]
    assert "completeness gap" in found.notes[-1]


def test_integrated_gradients_add_up() -> None:
    """The gap closes with the number of steps."""
    gain = score(PICTURES) - score(0 * PICTURES)
    gaps = [explain("integrated-gradients", bending(), steps=n).gap for n in (1, 8, 400)]
    worst = [np.abs(gap).max() for gap in gaps if gap is not None]
    assert worst[0] > worst[1] > worst[2] and worst[2] < 2e-3 * np.abs(gain).max()


def test_a_linear_model_leaves_no_gap() -> None:
    proto = models.model(
        "a = Conv(x, w) r = ReduceMean <keepdims = 0> (a, i) y = MatMul(r, v)",
        {"w": weight(3, 3, 1, 1), "i": np.array([2, 3]), "v": weight(3, 3)},
        inputs="float[N,3,4,5] x",
        outputs="float[N,3] y",
    )
    found = explain("integrated-gradients", proto, steps=1)
    close(found.raw, explain("input-x-gradient", proto).raw, tolerance=1e-5)
    assert found.gap is not None and np.abs(found.gap).max() < 1e-6


@in_blocks
@pytest.mark.parametrize("squared", ["no", "yes"])
def test_smoothgrad(squared: str, mode: dict[str, Any]) -> None:
    draws = items.noise(4, (3, 4, 5), seed=7).make(0, 4)
    options: dict[str, Any] = {"samples": 4, "noise": 0.2, "seed": 7, "squared": squared}
    found = explain("smoothgrad", bending(), **options, **mode)
    for n in range(2):
        g = slopes(PICTURES[n] + 0.2 * np.ptp(PICTURES[n]) * draws.astype(np.float64))
        want = (g**2 if squared == "yes" else g).mean(0)
        close(found.raw[n], want, tolerance=1e-4)
        close(found.map[n], np.abs(want).max(0), tolerance=1e-4)


@in_blocks
def test_smoothgrad_without_noise_and_with_other_noise(mode: dict[str, Any]) -> None:
    plain = explain("saliency", bending()).raw
    quiet = explain("smoothgrad", bending(), samples=3, noise=0, **mode)
    close(quiet.raw, plain, tolerance=1e-5)
    quiet = explain("smoothgrad", bending(), samples=3, noise=0, squared="yes", **mode)
    close(quiet.raw, plain**2, tolerance=1e-5)
    one, same, other = (explain("smoothgrad", bending(), samples=3, seed=s).raw for s in (0, 0, 1))
    assert (one == same).all() and np.abs(one - other).max() > 0.01 * np.abs(one).max()


def test_the_noise_does_not_depend_on_the_layout() -> None:
    nhwc = models.model(
        "t = Transpose <perm = [0, 3, 1, 2]> (x) p = Conv <pads = [1, 1, 1, 1]> (t, w, b)"
        " a = Relu(p) f = Flatten(a) h = MatMul(f, d) s = Sigmoid(h) y = MatMul(s, o)",
        {"w": weight(3, 3, 3, 3, seed=2), "b": BIASES, "d": DENSE, "o": OUT},
        inputs="float[N,4,5,3] x",
        outputs="float[N,3] y",
    )
    turned = np.ascontiguousarray(PICTURES.transpose(0, 2, 3, 1))
    for method in ("smoothgrad", "rise", "occlusion", "integrated-gradients", "fullgrad"):
        options = few(method)
        equal(explain(method, nhwc, turned, **options), explain(method, bending(), **options))


# --- the full gradient ----------------------------------------------------------------------------


def deep(**extra: Any) -> Any:
    """Convolutions with biases, a batch norm and a transposed convolution; no bias behind them."""
    return models.model(
        "p = Conv <pads = [1, 1, 1, 1]> (x, w1, b1) a1 = Relu(p)"
        " q = Conv <pads = [1, 1, 1, 1]> (a1, w2) n = BatchNormalization(q, s, o, m, u)"
        " a2 = Relu(n) c = ConvTranspose <strides = [2, 2]> (a2, w3, b3) a3 = Relu(c)"
        " g = GlobalAveragePool(a3) k = Conv(g, w4, b4) f = Flatten(k) y = MatMul(f, v)",
        {
            "w1": weight(4, 3, 3, 3, seed=1), "b1": weight(4, seed=2),
            "w2": weight(5, 4, 3, 3, seed=3), "s": 1 + weight(5, seed=4) / 3,
            "o": weight(5, seed=5), "m": weight(5, seed=6), "u": 1 + weight(5, seed=7) ** 2,
            "w3": weight(5, 4, 2, 2, seed=8), "b3": weight(4, seed=9),
            "w4": weight(6, 4, 1, 1, seed=10), "b4": weight(6, seed=12) * 0,
            "v": weight(6, 3, seed=11), **extra,
        },
        inputs="float[N,3,4,5] x", outputs="float[N,3] y",
    )  # fmt: skip


def test_the_full_gradient_is_complete() -> None:
    """x ⊙ g and bias ⊙ g of every layer add up to the score, and the map is their ψ summed up."""
    proto = deep()
    y = values(proto, "y")[0][:, CLASS]
    classifier = Explainer(proto, provider="cpu").classifier
    graph = gradient_model(classifier, wrt=["x", "p", "n", "c"]).complete()
    names = [f"{n}/gradient" for n in ("x", "p", "n", "c")]
    feeds = {"x": PICTURES, "target": np.full(2, CLASS)}
    by_x, *by_layer = (g.astype(np.float64) for g in models.run(graph, feeds, names))
    held = {t.name: onnx_array(t) for t in proto.graph.initializer}
    spread = np.sqrt(held["u"] + 1e-5)
    biases = [held["b1"], held["o"] - held["m"] * held["s"] / spread, held["b3"]]
    terms = [g * b[:, None, None] for g, b in zip(by_layer, biases, strict=True)]
    total = (by_x * PICTURES).sum((1, 2, 3)) + sum(t.sum((1, 2, 3)) for t in terms)
    close(total, y, tolerance=1e-5)
    want = unit_range(np.abs((by_x * PICTURES).sum(1)), (1, 2))
    for term in terms:
        each = unit_range(np.abs(term), (2, 3)).sum(1)
        want = want + (each if each.shape[1:] == (4, 5) else shrunk(each))
    found = explain("fullgrad", proto)
    close(found.map, want, tolerance=1e-4)
    close(found.raw, by_x * PICTURES, tolerance=1e-5)


def onnx_array(tensor: Any) -> np.ndarray:
    return models.numpy_helper.to_array(tensor).astype(np.float64)


def shrunk(x: np.ndarray) -> np.ndarray:
    """(N, 8, 10) to (N, 4, 5), bilinear with pixel centres aligned: means of 2 × 2."""
    return np.asarray(x.reshape(len(x), 4, 2, 5, 2).mean((2, 4)))


def test_biases_of_layers_without_a_grid_are_left_out() -> None:
    """ψ of a single cell is 0; and the last layer's bias changes no map."""
    plain = explain("fullgrad", deep())
    biased = explain("fullgrad", deep(b4=weight(6, seed=12)))
    equal(plain, biased, tolerance=1e-6)
    other = explain("fullgrad", deep(b3=weight(4, seed=13)))
    assert np.abs(other.map - plain.map).max() > 0.01 * plain.map.max()


def test_a_last_convolution_that_gives_the_classes() -> None:
    """Its bias has a grid and counts; the class asked about is chosen behind it."""
    proto = models.model(
        "p = Conv <pads = [1, 1, 1, 1]> (x, w, b) a = Relu(p) m = GlobalAveragePool(a)"
        " y = Flatten(m)",
        {"w": weight(3, 3, 3, 3), "b": np.array([0.5, 0.3, -1], np.float32)},
        inputs="float[N,3,4,5] x",
        outputs="float[N,3] y",
    )
    found = Explainer(proto, "fullgrad", provider="cpu")(PICTURES, CLASS)
    live = values(proto, "a")[0][:, CLASS] > 0
    assert live.any((1, 2)).all() and not live.all((1, 2)).any()
    close(found.map, unit_range(np.abs(found.raw.sum(1)), (1, 2)) + live, tolerance=1e-5)
