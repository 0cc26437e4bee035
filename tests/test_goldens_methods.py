"""Every golden array of every method, on every golden file, signs of components included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import each_golden, golden_arrays, golden_classifier, golden_index
from onnxcam import Explainer

pytestmark = pytest.mark.shared
TOLERANCE = 1e-4
ON_A_KINK = {"tiny_resnet"}
"""One of the 32 steps of `ig` lies on a kink of these models, so near that rounding of the weights
(batch norms folded by the exporter) or of values decides on which side: hence a looser bound."""

# method → (golden of raw, golden of weights or None)
ON_LAYER: dict[str, tuple[str, str | None]] = {
    "grad-cam": ("gradcam_raw", "gradcam_w"),
    "grad-cam++": ("gradcampp_raw", "gradcampp_w"),
    "xgrad-cam": ("xgradcam_raw", "xgradcam_w"),
    "hires-cam": ("hirescam_raw", None),
    "layer-cam": ("layercam_raw", None),
    "score-cam": ("scorecam_raw", "scorecam_w"),
}
ON_PIXELS = {
    "saliency": "grad_x",
    "guided-backprop": "guided",
    "deconvnet": "deconv",
    "integrated-gradients": "ig",
}
ALL = {"guided-backprop": "guided_all", "deconvnet": "deconv_all"}
EIGEN = {"no": ("eigencam_uncentred", 0), "yes": ("eigencam_centred", 1)}


def explainer(name: str, file: str, arrays: str) -> Explainer:
    score = "probability" if "prob" in arrays else "logit"
    return Explainer(golden_classifier(name, file), provider="cpu", score=score, threads=1)


def cam_layer(name: str, file: str, arrays: str) -> str | None:
    if "pool" not in arrays:
        return None
    return str(golden_index()[name]["files"][file]["cam_pool"])


def off(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """The largest difference of each (image, class) over the largest golden value there."""
    assert got.shape == want.shape
    rest = tuple(range(2, want.ndim))
    scale = np.abs(want).max(rest)
    return np.abs(got - want).max(rest) / np.where(scale == 0, 1, scale)


@each_golden(sets=True)
def test_methods(goldens: Path, name: str, file: str, arrays: str) -> None:
    want = golden_arrays(name, arrays)
    explain = explainer(name, file, arrays)
    layer = cam_layer(name, file, arrays)
    classes = np.tile(want["classes"], (len(want["x"]), 1))
    asked = [(m, layer, ()) for m in ON_LAYER if ON_LAYER[m][0] in want]
    asked += [("eigen-cam", layer, (("centre", c),)) for c in EIGEN]
    found = {
        (one.method, one.options.get("centre")): one
        for one in explain._run(want["x"], classes, None, asked)
    }
    for method, (raw, weights) in ON_LAYER.items():
        if raw not in want:
            continue
        sound = np.ones(classes.shape, bool)
        if method == "grad-cam++":
            sound = want["gradcampp_cond"] > 0.05
        one = found[method, None]
        assert (off(one.raw, want[raw])[sound] <= TOLERANCE).all(), method
        assert (one.map == np.maximum(one.raw, 0)).all()
        if weights is not None:
            assert (off(one.weights, want[weights])[sound] <= TOLERANCE).all(), method
    for centre, (key, column) in EIGEN.items():
        sound = want["eigencam_ratio"][:, column] < 0.95
        for m in range(classes.shape[1]):  # the same for every class
            got = found["eigen-cam", centre].raw[:, m]
            assert (off(got[:, None], want[key][:, None])[sound] <= TOLERANCE).all(), centre


@each_golden(sets=True)
def test_pixels(goldens: Path, name: str, file: str, arrays: str) -> None:
    if "pool" in arrays:
        pytest.skip("the goldens of pixels are those of the other set")
    want = golden_arrays(name, arrays)
    explain = explainer(name, file, arrays)
    classes = np.tile(want["classes"], (len(want["x"]), 1))
    asked: list[Any] = [(m, None, ()) for m in ON_PIXELS]
    asked += [(m, None, (("rectifiers", "all"),)) for m, key in ALL.items() if key in want]
    results = explain._run(want["x"], classes, None, asked)
    for one in results:
        whole = one.options.get("rectifiers") == "all"
        key = ALL[one.method] if whole else ON_PIXELS[one.method]
        worst = off(one.raw, want[key]).max()
        kink = key == "ig" and name in ON_A_KINK
        assert worst <= (5e-3 if kink else TOLERANCE), (one.method, key, worst)
    gaps = next(one for one in results if one.method == "integrated-gradients").gap
    assert gaps is not None
    scale = np.abs(want["ig"]).sum((2, 3, 4)).max()
    assert np.abs(gaps - want["ig_delta"]).max() <= (5e-3 if name in ON_A_KINK else 1e-5) * scale
