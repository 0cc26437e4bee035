"""The whole explainer against references in float64, in one run, in blocks, and literally."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import models
import onnxcam
from models import close, each_golden, golden_arrays, golden_classifier, golden_index
from onnxcam import Explainer, OptionError
from onnxcam.explanation import Explanation

TOLERANCE = 1e-4  # of max|golden|, for each image and class, as the goldens' README has it
AGREE = 1e-5  # exact against literal, of the largest weight


class Case:
    """A golden set with the settings of the explainer that it belongs to."""

    def __init__(self, name: str, file: str, arrays: str) -> None:
        about = golden_index()[name]
        self.golden = golden_arrays(name, arrays)
        self.entry, self.set = about["files"][file], about["goldens"][arrays]
        self.classifier = golden_classifier(name, file)
        self.layer = None if self.set["cam"] == "cam" else self.entry[self.set["cam"]]
        self.classes = self.golden["classes"]
        self.x = self.golden["x"]
        same = self.entry["logits"] == self.entry["output"]
        self.score = "logit" if self.set["score"] == "logits" or same else "probability"

    def explain(self, progress: Any = None, **options: Any) -> Explanation:
        explainer = Explainer(
            self.classifier,
            layer=self.layer,
            score=self.score,
            provider="cpu",
            threads=1,
            **options,
        )
        return explainer(self.x, np.tile(self.classes, (len(self.x), 1)), progress)


def agree(found: Explanation, golden: dict[str, np.ndarray], prefix: str = "ablation") -> None:
    """Asserts scores, weights, y_k, map and raw map, each on its scale for each image and class."""
    y, raw = golden["y"], golden[f"{prefix}_raw"]
    for n, c in np.ndindex(*y.shape):
        close(found.target_score[n, c], y[n, c], tolerance=TOLERANCE)
        close(found.weights[n, c], golden[f"{prefix}_w"][n, c], tolerance=TOLERANCE)
        off = found.target_score[n, c] * (1 - found.weights[n, c].astype(np.float64))
        close(off, golden[f"{prefix}_yk"][n, c], tolerance=TOLERANCE)
        close(found.raw[n, c], raw[n, c], tolerance=TOLERANCE)
        close(found.map[n, c], golden[prefix][n, c], base=raw[n, c], tolerance=TOLERANCE)


def nearest(found: Explanation, other: Explanation) -> None:
    """Asserts equal weights, to `AGREE` of the largest one, for each image and class."""
    for n, c in np.ndindex(*found.weights.shape[:2]):
        close(found.weights[n, c], other.weights[n, c], tolerance=AGREE)


@each_golden(sets=True)
def test_goldens(goldens: Path, name: str, file: str, arrays: str) -> None:
    case = Case(name, file, arrays)
    exact = case.explain()
    agree(exact, case.golden)
    assert exact.layer == case.entry[case.set["cam"]]
    assert (exact.target == case.classes).all()

    literal = case.explain(ablation="literal")
    agree(literal, case.golden)
    nearest(exact, literal)

    steps: list[tuple[int, int]] = []
    blocks = case.explain(lambda *step: steps.append(step), memory=small_memory(case))
    agree(blocks, case.golden)
    nearest(blocks, literal)
    total = case.golden["ablation_w"].shape[2] * len(case.x)
    done = [0, *(d for d, _ in steps)]
    assert done == sorted(set(done)) and len(done) > 3 and steps[-1] == (total, total)


def small_memory(case: Case) -> int:
    """A budget that one image's units pass, so that they go in blocks."""
    explainer = Explainer(case.classifier, layer=case.layer, score=case.score, provider="cpu")
    program = explainer.program(len(case.classes))
    return min(7 * program.blocked.bodies[0].item_bytes, program.inline.bytes - 1)


@each_golden()
def test_golden_probabilities_and_logits(goldens: Path, name: str, file: str) -> None:
    """`scores` are the logits or the probabilities of all classes, as `score` says."""
    classifier = golden_classifier(name, file)
    golden = golden_arrays(name, next(iter(golden_index()[name]["goldens"])))
    logits = Explainer(classifier, provider="cpu")(golden["x"])
    close(logits.scores, golden["logits"], tolerance=TOLERANCE)
    assert (logits.target == golden["logits"].argmax(1)).all()
    if classifier.score.probability is None:
        with pytest.raises(OptionError, match="logit"):
            Explainer(classifier, score="probability", provider="cpu")
    else:
        found = Explainer(classifier, score="probability", provider="cpu")(golden["x"])
        close(found.scores, golden["out"], tolerance=TOLERANCE)


@pytest.mark.parametrize("mode", [{}, {"ablation": "literal"}, {"memory": 100_000}])
@pytest.mark.parametrize("file", golden_index().get("tiny_vit", {}).get("files", [""]))
def test_golden_patches(goldens: Path, file: str, mode: dict[str, Any]) -> None:
    """With `patches_only` the class token keeps what it holds."""
    case = Case("tiny_vit", file, "golden.npz")
    agree(case.explain(patches_only=True, **mode), case.golden, "ablation_patch")


def test_goldens_differ_where_they_should(goldens: Path) -> None:
    """The comparisons above can fail: tokens and patches, logits and probabilities differ."""
    vit = Case("tiny_vit", "ts17.onnx", "golden.npz")
    with pytest.raises(AssertionError):
        agree(vit.explain(patches_only=True), vit.golden)
    soft = Case("tiny_softmax", "ts17.onnx", "golden_prob.npz")
    soft.score = "logit"
    with pytest.raises(AssertionError):
        agree(soft.explain(), soft.golden)


def test_units_of_a_subset_in_their_order(goldens: Path) -> None:
    case = Case("tiny_vgg", "ts17.onnx", "golden.npz")
    chosen = [30, 2, 17, 0]
    want = case.golden["ablation_w"][:, :, chosen]
    partial = np.einsum("nck,nkhw->nchw", want, case.golden["A"][:, chosen])
    for mode in ({}, {"memory": 1}, {"ablation": "literal"}):
        found = case.explain(units=chosen, **mode)
        close(found.weights, want, tolerance=TOLERANCE)
        close(found.raw, partial, tolerance=TOLERANCE)
        close(found.map, np.maximum(partial, 0), base=partial, tolerance=TOLERANCE)


def test_batches_equal_single_images(goldens: Path) -> None:
    """Images do not influence one another, whatever classes each is asked about."""
    for name in ("tiny_vit", "tiny_densenet", "tiny_softmax"):
        classifier = golden_classifier(name, "ts17.onnx")
        shape = classifier.image.shape(5)
        x = models.images(*shape)
        explainer = Explainer(classifier, provider="cpu")
        target = [0, 3, 2, 3, 1]
        together = explainer(x, target)
        for i in range(5):
            alone = explainer(x[i : i + 1], target[i])
            close(alone.weights[0], together.weights[i], tolerance=2e-5)
            close(alone.raw[0], together.raw[i], tolerance=2e-5)


def test_a_fixed_batch_is_freed(goldens: Path) -> None:
    """`ts17_batch1` takes two images at once, like the export with a free batch."""
    for name in ("tiny_resnet", "tiny_vit"):
        golden = golden_arrays(name, "golden.npz")
        free = Explainer(golden_classifier(name, "ts17.onnx"), provider="cpu")(golden["x"])
        fixed = Explainer(golden_classifier(name, "ts17_batch1.onnx"), provider="cpu")(golden["x"])
        assert fixed.weights.shape[0] == 2
        close(fixed.weights, free.weights, tolerance=2e-5)


def test_progress_counts_to_the_end() -> None:
    """Blocks report units done of all; every step grows."""
    head = "p = Conv(x, w) a = Relu(p) f = Flatten(a) h = Gemm(f, v) r = Relu(h) y = Gemm(r, o)"
    weights = {"w": models.weight(12, 3, 1, 1), "v": models.weight(12 * 16, 9, seed=1)}
    weights["o"] = models.weight(9, 4, seed=2)
    proto = models.model(head, weights, inputs="float[N,3,4,4] x", outputs="float[N,4] y")
    seen: list[tuple[int, int]] = []
    explainer = Explainer(proto, provider="cpu", memory=1)
    explainer(models.images(2, 3, 4, 4), progress=lambda *step: seen.append(step))
    assert seen == [(i, 24) for i in range(1, 25)]


def test_squeezenet_ground_truth(shared_data: Path) -> None:
    """Each class score of SqueezeNet 1.1 is the mean of one channel of its last ReLU, no more.

    So the drop of unit c is y_c where class c is asked about, and 0 everywhere else.
    """
    path = next(shared_data.rglob("imagenet_squeezenet1.1_fp32.onnx"))
    layer = "squeezenet0_conv25_relu"
    x = models.images(1, 3, 224, 224)
    (top,) = models.run(models.onnx.load(path), {"data": x})
    units = np.argsort(-top[0])[[4, 0, 3, 1]].tolist()
    for mode in ({}, {"ablation": "literal"}, {"memory": 1}):
        found = Explainer(path, layer=layer, units=units, provider="cpu", **mode)(x, [units])
        y = found.target_score[0]
        assert (y > 1).all()
        close(found.weights[0], np.eye(4), tolerance=1e-6)
        slope = Explainer(path, layer=layer, units=units, provider="cpu", weight="slope", **mode)(
            x, [units]
        )
        a = models.run(models.onnx.load(path), {"data": x}, [layer])[0][0, units]
        close(slope.weights[0], np.diag(y / np.sqrt((a**2).sum((1, 2)))), tolerance=1e-5)
        close(found.raw[0], a, tolerance=1e-5)


LIGHT = {  # a few units of the default layer, and the largest error allowed
    "light_resnet50": [0, 7, 2047],
    "light_shufflenet": [1, 500],
    "light_squeezenet": [3, 511],
    "light_zfnet512": [0, 300],
    "light_inception_v1": [9, 1000],
    "light_bvlc_alexnet": [0, 255],
}


@pytest.mark.parametrize("name", LIGHT)
def test_light_models_exact_and_literal(name: str) -> None:
    """Their weights are constants, so classes differ little; drops must agree all the same."""
    path = models.LIGHT / f"{name}.onnx"
    classifier = onnxcam.load(path)
    x = np.abs(models.images(*classifier.image.shape(1)))
    options = {"units": LIGHT[name], "weight": "slope", "provider": "cpu"}
    exact = Explainer(classifier, **options)(x, "top2")
    literal = Explainer(classifier, ablation="literal", **options)(x, "top2")
    close(exact.scores, literal.scores, tolerance=1e-5)
    norm = np.abs(exact.scores).max() / np.sqrt(np.prod(classifier.default.grid))
    close(exact.weights, literal.weights, base=norm * 1e-2, tolerance=1e-3)


SHARED = {  # file → (units, tolerance of the weights)
    "cifar10_winml_cnn_fc": (None, 1e-5),
    "mnist-8_cntk": (None, 1e-5),
    "leafsnap30_cnn_fc": (None, 1e-5),
    "cifar10_vit_pgd_2_3_16": (None, 1e-5),
    "customvision_computer_multilabel": ([0, 100, 511], 1e-4),
    "imagenet_mobilenetv2_tf_nhwc_fp32": ([0, 100, 1279], 1e-4),
    "imagenet_squeezenet1.1_fp32": ([0, 100, 511], 1e-4),
}


@pytest.mark.parametrize("name", SHARED)
def test_shared_models_against_masking(shared_data: Path, name: str) -> None:
    """Exact and literal drops of real models are those of masking in the original file."""
    path = next(shared_data.rglob(f"{name}.onnx"))
    units, tolerance = SHARED[name]
    classifier = onnxcam.load(path)
    layer, score = classifier.default, classifier.score.logit
    x = np.abs(models.images(*classifier.image.shape(1)))
    feeds = {classifier.image.name: x}
    value, y, want = models.drops(
        models.onnx.load(path),
        layer.tensor,
        score,
        feeds,
        units,
        layer.axis % 4 if layer.layout != "NTC" else 2,
    )
    classes = np.argsort(-y[0])[:3]
    places = tuple(a for a in range(1, value.ndim) if a != (2 if value.ndim == 3 else 1))
    drawn = value[:, layer.prefix :] if layer.layout == "NTC" else value
    norms = np.sqrt((drawn.astype(np.float64) ** 2).sum(places))
    norms = norms if units is None else norms[:, units]
    for ablation in ("exact", "literal"):
        explainer = Explainer(
            classifier, units=units, ablation=ablation, weight="slope", provider="cpu"
        )
        found = explainer(x, classes[None])
        close(found.scores, y, tolerance=1e-5)
        close(found.weights * norms[:, None], want[:, classes], base=y, tolerance=tolerance)
