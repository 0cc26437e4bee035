"""Ablation-CAM by hand, on models small enough to follow with a pencil."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import models
from models import close
from onnxcam import Explainer, OptionError
from onnxcam.methods import METHODS, method_named

MODES: list[dict[str, Any]] = [{}, {"ablation": "literal"}, {"memory": 1}]
each_mode = pytest.mark.parametrize("mode", MODES, ids=["exact", "literal", "blocks"])

# Two units on a grid of 1 × 2; the features are the picture itself plus a bias of 1 on unit 1.
BIAS = np.array([0, 1], np.float32)
A = np.array([[[[1, 3]], [[2, -4]]]], np.float32)  # (1, 2, 1, 2)
X = A - BIAS.reshape(1, 2, 1, 1)
V = np.array([[1, 2], [-1, 3]], np.float32)  # (units, classes)
C = np.array([0.5, 1], np.float32)


def two_units(tail: str = "", output: str = "y", v: np.ndarray = V) -> Any:
    """x → a (two units) → mean → y = mean @ v + c."""
    weights = {"w": np.eye(2, dtype=np.float32).reshape(2, 2, 1, 1), "b": BIAS, "v": v, "c": C}
    return models.model(
        f"a = Conv(x, w, b) r = ReduceMean <keepdims = 0> (a, i) y = Gemm(r, v, c) {tail}",
        {**weights, "i": np.array([2, 3])},
        inputs="float[N,2,1,2] x",
        outputs=f"float[N,2] {output}",
    )


def explain(proto: Any, x: np.ndarray = X, target: Any = ((0, 1),), **options: Any) -> Any:
    return Explainer(proto, layer="a", provider="cpu", threads=1, **options)(x, target)


@each_mode
def test_drop(mode: dict[str, Any]) -> None:
    """w_k = (y − y_k) / y, map = ReLU(Σ w_k A_k).

    Means: 2 and −1. y_0 = 2·1 + (−1)(−1) + 0.5 = 3.5, y_1 = 2·2 + (−1)·3 + 1 = 2.
    Without unit 0: 1.5 and −2; without unit 1: 2.5 and 5.
    """
    found = explain(two_units(), **mode)
    close(found.scores, np.array([[3.5, 2]]), tolerance=1e-6)
    w = np.array([[[2 / 3.5, 1 / 3.5], [4 / 2, -3 / 2]]])
    close(found.weights, w, tolerance=1e-6)
    raw = [[w[0, c, 0] * A[0, 0] + w[0, c, 1] * A[0, 1] for c in (0, 1)]]
    close(found.raw, np.array(raw), tolerance=1e-6)
    close(found.raw[0, 1], np.array([[2 * 1 - 1.5 * 2, 2 * 3 + 1.5 * 4]]), tolerance=1e-6)
    close(found.map[0, 1], np.array([[0.0, 12.0]]), tolerance=1e-6)


@each_mode
def test_slope(mode: dict[str, Any]) -> None:
    """w_k = (y − y_k) / ‖A_k‖, and 0 for a unit that is zero everywhere."""
    found = explain(two_units(), weight="slope", **mode)
    norms = np.sqrt([1 + 9, 4 + 16])
    close(found.weights, np.array([[[2, 1] / norms, [4, -3] / norms]]), tolerance=1e-6)
    dead = X.copy()
    dead[0, 0] = 0
    found = explain(two_units(), dead, weight="slope", **mode)
    assert (found.weights[0, :, 0] == 0).all()
    close(found.weights[0, :, 1], np.array([1, -3]) / norms[1], tolerance=1e-6)


@each_mode
def test_blank_baseline(mode: dict[str, Any]) -> None:
    """The drop times 1 − min(1, ‖A⁰_k‖ / ‖A_k‖).

    On a blank picture unit 0 is 0 and unit 1 is 1 twice, so ‖A⁰_1‖ = √2.
    """
    found = explain(two_units(), weight="blank-baseline", **mode)
    keep = np.array([1, 1 - np.sqrt(2 / 20)])
    close(found.weights, np.array([[[2 / 3.5, 1 / 3.5], [2, -1.5]]]) * keep, tolerance=1e-6)
    quiet = X.copy()
    quiet[0, 1] = np.array([[0.5, 0.5]]) - 1  # ‖A_1‖ < ‖A⁰_1‖: the factor stays at 0
    assert (explain(two_units(), quiet, weight="blank-baseline", **mode).weights[..., 1] == 0).all()


@each_mode
def test_probability(mode: dict[str, Any]) -> None:
    """The same with the probability as the score: p = softmax(y)."""

    def p(y: list[float]) -> np.ndarray:
        e = np.exp(np.array(y))
        return e / e.sum()

    proto = two_units("q = Softmax(y)", "q")
    found = explain(proto, score="probability", **mode)
    y, y_0, y_1 = p([3.5, 2]), p([1.5, -2]), p([2.5, 5])
    want = np.stack([(y - y_0) / y, (y - y_1) / y], -1)
    close(found.scores, y[None], tolerance=1e-6)
    close(found.weights, want[None], tolerance=1e-5)
    # By default the score is the logit, of the same model.
    close(explain(proto, **mode).weights[0, 0], np.array([2, 1]) / 3.5, tolerance=1e-6)


@each_mode
def test_a_negative_score_turns_the_signs_and_is_said(mode: dict[str, Any]) -> None:
    found = explain(two_units(v=-V), target=[1], **mode)
    assert found.scores[0, 1] == 0 - 1 + 1 or found.scores[0, 1] < 0.5
    proto = two_units(v=np.array([[-1, 2], [-1, 3]], np.float32))
    x = X + np.float32(2)  # means 4 and 1: y_0 = −5 + 0.5 = −4.5
    found = explain(proto, x, target=[0], **mode)
    close(found.weights, np.array([[-4, -1]]) / -4.5, tolerance=1e-6)
    assert any("negative" in note and "-4.5" in note for note in found.notes)
    assert not explain(two_units(), **mode).notes
    slope = explain(proto, x, target=[0], weight="slope", **mode)
    assert not any("negative" in note for note in slope.notes)


@each_mode
def test_a_score_of_zero_does_not_divide_and_is_said(mode: dict[str, Any]) -> None:
    """y = 0: the weights are the drops themselves; nothing is NaN or infinite."""
    proto = two_units(v=np.array([[-0.5, 2], [-0.5, 3]], np.float32))  # y_0 = −1 + 0.5 + 0.5
    found = explain(proto, **mode)
    assert found.scores[0, 0] == 0
    close(found.weights[0, 0], np.array([-1, 0.5]), tolerance=1e-6)
    close(found.raw[0, 0], -1 * A[0, 0] + 0.5 * A[0, 1], tolerance=1e-6)
    assert any("0" in note and "drop" in note for note in found.notes)


@each_mode
def test_no_unit_matters(mode: dict[str, Any]) -> None:
    """A score that does not move gives weights and a map of exact zeros."""
    found = explain(two_units(v=np.zeros((2, 2), np.float32)), **mode)
    assert (found.weights == 0).all() and (found.map == 0).all()
    close(found.scores, C[None], tolerance=1e-7)


def test_the_table_and_its_options() -> None:
    assert next(iter(METHODS)) == "ablation-cam"
    row = method_named("Ablation_CAM")
    assert row is METHODS["ablation-cam"] and row.title == "Ablation-CAM"
    assert row.options["weight"] == ("drop", "slope", "blank-baseline")
    assert row.summary.startswith("Weights each unit by what the class score loses")
    with pytest.raises(OptionError, match=r"did you mean 'ablation-cam'"):
        Explainer(two_units(), method="ablation", provider="cpu")
    with pytest.raises(OptionError, match=r"no option 'wieght' \(did you mean 'weight'\?\)"):
        Explainer(two_units(), wieght="drop", provider="cpu")
    with pytest.raises(OptionError, match=r"drop \| slope"):
        Explainer(two_units(), weight="eq3", provider="cpu")
