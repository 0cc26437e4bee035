"""What is asked about: names of decisions, codes, and the sign of the score in every method."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from explained import DENSE, OUT, PICTURES, bending, equal, explain, few, small

import models
from models import (
    ONE_UNIT,
    close,
    drops,
    each_golden,
    golden_arrays,
    golden_classifier,
    images,
    one_unit,
    run,
    weight,
)
from onnxcam import Explainer, OptionError, TargetError
from onnxcam.explainer import TARGET
from onnxcam.labels import from_metadata
from onnxcam.methods import METHODS
from onnxcam.runtime import Session, choose
from onnxcam.targets import coded, for_each, is_top, negative, one_for_all, signed

V, C = weight(3, 3, seed=4), weight(3, seed=5)
NAMES = ["cat", "red fox, fox", "not:cat"]
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in METHODS),
    ("ablation-cam", {"ablation": "literal"}),
    ("ablation-cam", {"weight": "slope"}),
    ("ablation-cam", {"weight": "blank-baseline"}),
    ("ablation-cam", {"units": [2, 0]}),
    ("ablation-cam", {"memory": 1}),
    ("ablation-cam", {"smooth": "pca", "weight": "slope"}),
    ("grad-cam++", {"form": "general"}),
    ("guided-grad-cam++", {"form": "general", "rectifiers": "all"}),
    ("smoothgrad", {"squared": "yes"}),
    ("integrated-gradients", {"baseline": "mean", "memory": 1}),
    ("recipro-cam", {"kernel": "single"}),
    ("score-cam", {"memory": 1}),
    ("grad-cam", {"smooth": "tta"}),
    ("layer-cam", {"smooth": "pca"}),
]


def linear(method: str) -> bool:
    """Whether a method is for linear heads only."""
    return method.removeprefix("guided-") == "cam"


def each(variants: list[tuple[str, dict[str, Any]]]) -> Any:
    ids = [" ".join([name, *map(str, options.values())]) for name, options in variants]
    return pytest.mark.parametrize(("method", "options"), variants, ids=ids)


each_variant = each(VARIANTS)
each_bending = each([v for v in VARIANTS if not linear(v[0])])


@each_variant
def test_not_is_the_class_of_the_negated_model(method: str, options: dict[str, Any]) -> None:
    """not:K of y is K of −y, beside ordinary targets and for different classes of each image."""
    if linear(method):
        plain, turned = small(), small(v=-V, c=-C)
    else:
        plain, turned = bending(), bending(o=-OUT)
    options = {**few(method), **options}
    found = explain(method, plain, target=[["not:1", 2], [0, "not:2"]], **options)
    assert found.target.tolist() == [[1, 2], [0, 2]]
    assert found.negated.tolist() == [[True, False], [False, True]]
    no = explain(method, turned, target=[[1, 2], [0, 2]], **options)
    yes = explain(method, plain, target=[[1, 2], [0, 2]], **options)
    mixed = found.negated
    close(found.target_score, np.where(mixed, no.target_score, yes.target_score), base=yes.scores)
    close(found.scores, yes.scores)
    for kind in ("raw", "map", "weights", "gap"):
        one, other, got = (getattr(e, kind) for e in (no, yes, found))
        assert (got is None) == (other is None)
        if got is not None:
            wide = mixed.reshape(*mixed.shape, *[1] * (got.ndim - 2))
            close(got, np.where(wide, one, other), base=other, tolerance=1e-4)


@pytest.mark.parametrize("activation", ["Sigmoid", "Softmax"])
@each_bending
def test_not_of_a_probability_is_one_minus_it(
    method: str, options: dict[str, Any], activation: str
) -> None:
    tail = f"f = Flatten(a) h = MatMul(f, d) t = Sigmoid(h) z = MatMul(t, o) y = {activation}(z)"
    plain = small(tail, d=DENSE, o=OUT)
    one = np.array(1, np.float32)
    turned = small(f"{tail} u = Sub(one, y)", "u", d=DENSE, o=OUT, one=one)
    options = {**few(method), **options}
    found = explain(method, plain, target="not:1", score="probability", **options)
    want = explain(method, turned, target=1, **options)
    assert found.negated.all() and found.score == "probability"
    close(found.target_score, want.scores[:, 1])
    close(found.target_score, 1 - found.scores[:, 1], tolerance=1e-6)
    equal(found, want, 1e-4)


def test_weights_by_hand() -> None:
    """(−y + y_k) / −y of a logit, (p_k − p) / (1 − p) of a probability."""
    tail = "z = Gemm(r, v, c) y = Sigmoid(z)"
    x = {"x": PICTURES}
    _, y, d = drops(small(tail, v=V * 3), "a", "z", x)
    _, p, change = drops(small(tail, v=V * 3), "a", "y", x)
    for ablation in ("exact", "literal"):
        ask = {"target": "not:2", "ablation": ablation}
        logit = explain("ablation-cam", small(tail, v=V * 3), **ask)
        close(logit.weights, d[:, 2] / y[:, 2, None], tolerance=1e-4)
        close(logit.target_score, -y[:, 2])
        slope = explain("ablation-cam", small(tail, v=V * 3), weight="slope", **ask)
        norm = np.sqrt((run(small(tail, v=V * 3), x, ["a"])[0] ** 2).sum((2, 3)))
        close(slope.weights, -d[:, 2] / norm, tolerance=1e-4)
        share = explain("ablation-cam", small(tail, v=V * 3), score="probability", **ask)
        close(share.weights, -change[:, 2] / (1 - p[:, 2, None]), tolerance=1e-4)


def test_log_softmax_gives_probabilities() -> None:
    model = small("z = Gemm(r, v, c) y = LogSoftmax(z)")
    z = run(small("z = Gemm(r, v, c) y = LogSoftmax(z)"), {"x": PICTURES}, ["z"])[0]
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    found = explain("grad-cam", model, target=[0, "not:2"], score="probability")
    close(found.scores, p)
    close(found.target_score, np.array([p[0, 0], 1 - p[1, 2]]))
    want = explain("grad-cam", small("z = Gemm(r, v, c) y = Softmax(z)"),
                   target=[0, "not:2"], score="probability")  # fmt: skip
    equal(found, want)


def test_not_the_best_of_each_image() -> None:
    model = bending()
    y = run(model, {"x": PICTURES})[0]
    ranked = np.argsort(-y, axis=1)
    found = explain("hires-cam", model, target="not:top2")
    assert (found.target == ranked[:, :2]).all() and found.negated.all()
    close(found.target_score, -np.take_along_axis(y, ranked[:, :2], 1))
    one = explain("hires-cam", model, target="NOT: top1")
    assert (one.target == ranked[:, 0]).all() and one.negated.all()
    close(one.raw, found.raw[:, 0])
    close(one.raw, -explain("hires-cam", model, target="top1").raw)


def test_several_methods_in_one_comparison() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    preset = {"size": [4, 5], "mean": [0.5] * 3, "std": [0.25] * 3}
    explainer = Explainer(bending(), layer="a", preset=preset, class_names=["cat", "dog", "eel"])
    methods = ["ablation-cam", "grad-cam", "eigen-cam", "saliency", "guided-grad-cam"]
    both = explainer.compare(pixels, methods, ["dog", "not:dog"], layers=["a"], weight="slope")
    for one in both:
        alone = Explainer(
            bending(), one.method, one.layer, preset=preset, **one.options
        ).explain(pixels, "not:1")  # fmt: skip
        close(one.raw[:, 1], alone.raw, tolerance=1e-4)
        assert one.decisions == ["dog", "not dog"]
    assert [t["label"] for t in both.facts()["targets"]] == ["dog", "not dog"]
    assert both.arrays()["negated"].tolist() == [[False, True]]
    assert any("Eigen-CAM asks about no class" in note for note in both[2].notes)
    assert not any("asks about no class" in n for one in both if one is not both[2]
                   for n in one.notes)  # fmt: skip


def test_the_code_is_one_number_of_the_graph() -> None:
    """C + k, and −C − r, as other runtimes feed them."""
    program = Explainer(bending(), "hires-cam", layer="a").program()
    form = program.inline
    session = Session(form.whole.proto.SerializeToString(), form.whole.weights, choose("cpu"))
    y = run(bending(), {"x": PICTURES})[0]

    def raw(codes: list[int]) -> tuple[np.ndarray, np.ndarray]:
        feeds = {"x": PICTURES, TARGET: np.array(codes, np.int64)[:, None]}
        got = dict(zip(form.outputs, session.run(feeds, form.outputs), strict=True))
        return got["onnxcam/chosen"][:, 0], got["onnxcam/0/raw"]

    ranked = np.argsort(-y, axis=1)
    for codes, classes, sign in [
        ([0, 2], [0, 2], 1), ([3, 5], [0, 2], -1),
        ([-1, -1], ranked[:, 0], 1), ([-4, -4], ranked[:, 0], -1),
    ]:  # fmt: skip
        chosen, got = raw(codes)
        assert (chosen == classes).all()
        close(got, sign * raw(list(map(int, classes)))[1])


def test_codes() -> None:
    codes = np.array([0, 3, 4, 7, -1, -4, -5, -8])
    assert negative(codes, 4).tolist() == [False, False, True, True, False, False, True, True]
    target, no = np.array([0, 3, 2]), np.array([False, True, True])
    assert coded(target, no, 4).tolist() == [0, 7, 6]
    assert signed(np.array([3.0, 3.0]), np.array([False, True]), "logit").tolist() == [3, -3]
    shares = signed(np.array([0.25, 0.25]), np.array([False, True]), "probability")
    assert shares.tolist() == [0.25, 0.75]
    assert [is_top(t) for t in ("top5", " not : TOP2 ", "top", "not:cat")] == [True] * 2 + [
        False
    ] * 2


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("cat", 0),
        ("not:0", 3),
        ("Not: 2", 5),
        ("not:red_fox, fox", 4),
        ("not:fox", 4),
        ("not:cat", 2),  # a class of that very name goes before
        ("not:not:cat", 5),
        (2, 2),
        ("top1", -1),
        ("not:top1", -4),
        ("not:top3", [-4, -5, -6]),
        (["cat", "not:fox", 2, "not:0"], [0, 4, 2, 3]),
        (np.array([["cat", "not:1"]]), [[0, 4]]),
    ],
    ids=str,
)
def test_names_to_codes(target: Any, code: Any) -> None:
    assert one_for_all(target, NAMES, 3).tolist() == code


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("not:3", "class 3 does not exist: the model has 3 classes, 0 to 2"),
        ("not:-1", "class -1 does not exist"),
        ("not:rex fox", r"class 'rex fox' is not among the model's 3 classes.*red fox"),
        ("not:", "class '' is not among"),
        ("not:top4", "'not:top4' is more than there is: the model has 3 classes"),
        (["not:top1"], "class 'top1' is not among"),
        (3, "class 3 does not exist"),
        (5, "class 5 does not exist"),
        ([0.5], "a class is an index or a name"),
    ],
    ids=str,
)
def test_what_does_not_exist(target: Any, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        one_for_all(target, NAMES, 3)


def test_one_unit_has_one_class() -> None:
    with pytest.raises(TargetError, match="the model has one class; write top1"):
        one_for_all("top2", None, 1)
    with pytest.raises(TargetError, match="class 1 does not exist: the model has one class, 0"):
        one_for_all(1, None, 1)
    for target, code in [("dog", 0), ("cat", 1), ("not:dog", 1), ("not:cat", 0), ("not:0", 1)]:
        assert one_for_all(target, ["dog"], 1, "cat") == code
    assert for_each(["cat", "dog"], ["dog"], 1, 2, "cat").tolist() == [1, 0]


X = images(2, 3, 8, 8)


@pytest.mark.parametrize("batch", ["N", "1"])
@pytest.mark.parametrize("tail", ONE_UNIT)
def test_heads_of_one_unit(tail: str, batch: str) -> None:
    text, shape, ends = ONE_UNIT[tail]
    model = one_unit(text, shape, batch)
    explainer = Explainer(model, provider="cpu")
    assert explainer.classifier.classes == 1
    assert explainer.classifier.kind == "one unit (binary)"
    value, z, d = drops(one_unit("y = Identity(z)", "N,1"), "a", "z", {"x": X})
    p = 1 / (1 + np.exp(-z))
    close(explainer.probabilities(X), p.astype(np.float64))
    for target, sign in [(None, 1), (0, 1), ("not:0", -1)]:
        found = explainer(X, target)
        assert found.target.tolist() == [0, 0] and (found.negated == (sign < 0)).all()
        close(found.scores, z)
        close(found.target_score, sign * z[:, 0])
        weights = d[:, 0] / z
        close(found.raw, np.einsum("nk,nkhw->nhw", weights, value), base=value, tolerance=1e-4)
        grad = Explainer(model, "grad-cam", provider="cpu")(X, target)
        slope = np.einsum("k,nkhw->nhw", weight(6, 1, seed=4)[:, 0] / 64, value)
        close(grad.raw, sign * slope, tolerance=1e-4)
    if ends:
        found = Explainer(model, "score-cam", provider="cpu", score="probability")(X, "not:0")
        close(found.target_score, 1 - p[:, 0])


def test_a_vector_without_batch_is_no_head_of_one_unit() -> None:
    from onnxcam import ModelError, load

    model = models.model(
        "g = GlobalAveragePool(x) y = Reshape(g, s)",
        {"s": np.array([3])},
        inputs="float[1,3,8,8] x",
        outputs="float[3] y",
    )
    with pytest.raises(ModelError, match="no single axis of classes"):
        load(model)


def test_a_head_of_one_unit_says_no() -> None:
    low, high = (one_unit("y = Sigmoid(z)", "N,1", bias=b) for b in (-9, 9))
    says = "below 0: the model says no; target not:0 explains that decision"
    assert sum(says in n for n in Explainer(low, "grad-cam")(X[:1]).notes) == 1
    assert not any("says no" in n for n in Explainer(low, "grad-cam")(X[:1], "not:0").notes)
    assert not any("says no" in n for n in Explainer(high, "grad-cam")(X[:1]).notes)
    share = Explainer(low, "grad-cam", score="probability")
    assert any("is below 0.5: the model says no" in n for n in share(X[:1]).notes)
    many = Explainer(small(), "grad-cam", layer="a")(PICTURES, "top3")
    assert many.target_score.min() < 0 and not any("says no" in n for n in many.notes)


def test_the_note_on_negative_scores_is_about_the_score_explained() -> None:
    low, high = (Explainer(one_unit("y = Sigmoid(z)", "N,1", bias=b)) for b in (-9, 9))
    z = low(X[:1]).scores[0, 0]
    turned = "is negative: dividing by it turns the signs"
    assert any(f"the score {z:.4g} {turned}" in n for n in low(X[:1]).notes)
    assert not any(turned in n for n in low(X[:1], "not:0").notes)
    assert not any(turned in n for n in high(X[:1]).notes)
    z = high(X[:1]).scores[0, 0]
    assert any(f"the score {-z:.4g} {turned}" in n for n in high(X[:1], "not:0").notes)


def test_names_of_a_head_of_one_unit() -> None:
    model = one_unit("y = Sigmoid(z)", "N,1")
    one = Explainer(model, class_names=["dog"])
    assert one(X, ["dog", "not:dog"]).decisions == ["dog", "not dog"]
    two = Explainer(model, class_names=["cat", "dog"])
    assert (two.labels, two.opposite) == (["dog"], "cat")
    found = two(X, ["dog", "cat"])
    assert found.negated.tolist() == [False, True] and found.decisions == ["dog", "cat"]
    facts = found.facts()["targets"]
    assert [(t["index"], t["negated"], t["label"]) for t in facts] == [
        (0, False, "dog"), (0, True, "cat")
    ]  # fmt: skip
    both = two(X[:1], [["dog", "cat"]])  # more decisions than there are classes
    close(both.target_score, both.scores * [1, -1])
    assert Explainer(model)(X, "not:0").decisions == ["not class 0"] * 2
    with pytest.raises(OptionError, match="3 class names were given, but the model has one unit"):
        Explainer(model, class_names=["a", "b", "c"])
    held = {"onnxcam.labels": '["cat", "dog"]'}
    assert from_metadata(held, 1) == ["cat", "dog"]
    with pytest.raises(OptionError, match="2 names, but the model has 3"):
        from_metadata(held, 3)


def test_kinds_of_heads() -> None:
    kinds = {"Sigmoid": "multi-label (sigmoid)", "Softmax": "softmax", "Identity": "logits"}
    for op, kind in kinds.items():
        assert Explainer(small(f"z = Gemm(r, v, c) y = {op}(z)")).classifier.kind == kind


@each_golden(sets=True, of={"tiny_multilabel", "tiny_softmax"})
def test_goldens_of_several_answers(goldens: Any, name: str, file: str, arrays: str) -> None:
    """not:K of the golden values: gradients turn round, ablation weights are (s_k − s) / (…)."""
    held = golden_arrays(name, arrays)
    share = "prob" in arrays
    score, x = "probability" if share else "logit", held["x"]
    asked = [[f"not:{c}" for c in held["classes"]]] * len(x)
    classifier = golden_classifier(name, file)
    made = [
        Explainer(classifier, m, provider="cpu", score=score, threads=1)(x, asked)
        for m in ("grad-cam", "hires-cam", "ablation-cam", "saliency")
    ]
    y = held["y"]
    want = 1 - y if share else -y
    close(made[0].target_score, want, base=1.0, tolerance=1e-4)
    for found, raw in zip(made, ("gradcam_raw", "hirescam_raw", None, "grad_x"), strict=True):
        if raw is not None:
            close(found.raw, -held[raw], tolerance=2e-4)
    weights = made[2].weights
    assert weights is not None
    off = held["ablation_yk"] - y[..., None]
    close(weights, off / want[..., None], tolerance=5e-4)
