"""Pipelines of ai.onnx.ml behind a network: rewritten, with the values of ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from kinds import X, body, exact_is_literal, explain, net, saliency_is_difference, scores_kept
from onnx import helper

import models
from models import weight
from onnxcam import Explainer, OpError, load

FEATURES = body("x", "unused").rpartition("unused")[0]
ROWS = (weight(3, 8, seed=40) * 4).reshape(-1).tolist()
BIAS = [0.2, -0.1, 0.4]
Step = tuple[str, dict[str, Any]]


def pipeline(*steps: Step, outputs: int = 1) -> onnx.ModelProto:
    """Two convolutions and a mean, then operators of ai.onnx.ml one after the other."""
    proto = net(FEATURES, outputs="float[N,8] f")
    proto.opset_import.add(domain="ai.onnx.ml", version=3)
    last = "f"
    for number, (op, attributes) in enumerate(steps):
        made = [f"t{number}"] if number < len(steps) - 1 or outputs == 1 else ["label", "y"]
        node = helper.make_node(op, [last], made, domain="ai.onnx.ml", **attributes)
        proto.graph.node.append(node)
        last = made[-1]
    del proto.graph.output[:]
    kind = onnx.TensorProto
    if outputs == 2:
        text = "classlabels_strings" in steps[-1][1]
        proto.graph.output.append(
            helper.make_tensor_value_info("label", kind.STRING if text else kind.INT64, ["N"])
        )
    proto.graph.output.append(helper.make_tensor_value_info(last, kind.FLOAT, ["N", None]))
    return proto


def classifier(post: str, rows: int = 3, strings: bool = False, names: int = 3) -> Step:
    labels: dict[str, Any] = {"classlabels_ints": list(range(names))}
    if strings:
        labels = {"classlabels_strings": ["cat", "dog", "fish"][:names]}
    attributes = {"coefficients": ROWS[: 8 * rows], "intercepts": BIAS[:rows]}
    return "LinearClassifier", {**attributes, "post_transform": post, **labels}


SCALER: Step = ("Scaler", {"offset": [0.1] * 8, "scale": np.linspace(1, 3, 8).tolist()})
REGRESSOR: Step = (
    "LinearRegressor", {"coefficients": ROWS, "intercepts": BIAS, "targets": 3},
)  # fmt: skip
PIPELINES: dict[str, tuple[list[Step], int]] = {
    "scaler, softmax": ([SCALER, classifier("SOFTMAX")], 2),
    "one scale for all": ([("Scaler", {"offset": [0.3], "scale": [2.0]}), REGRESSOR], 1),
    "logistic": ([classifier("LOGISTIC")], 2),
    "no transform": ([classifier("NONE")], 2),
    "names": ([classifier("SOFTMAX", strings=True)], 2),
    "two classes, two rows": ([classifier("LOGISTIC", rows=2, names=2)], 2),
    "two classes, one row": ([classifier("LOGISTIC", rows=1, names=2)], 2),
    "two classes, one row, bare": ([classifier("NONE", rows=1, names=2)], 2),
    "two classes, one row, softmax": ([classifier("SOFTMAX", rows=1, names=2)], 2),
    "normalizer L1": ([("Normalizer", {"norm": "L1"}), REGRESSOR], 1),
    "normalizer L2": ([("Normalizer", {"norm": "L2"}), REGRESSOR], 1),
    "normalizer max": ([("Normalizer", {"norm": "MAX"}), REGRESSOR], 1),
    "imputer": (
        [("Imputer", {"imputed_value_floats": [0.5] * 8, "replaced_value_float": float("nan")}),
         classifier("SOFTMAX")],
        2,
    ),
    "imputer of zeros": (
        [("Imputer", {"imputed_value_floats": [0.5] * 8, "replaced_value_float": 0.0}), REGRESSOR],
        1,
    ),
    "vectorizer": ([("FeatureVectorizer", {"inputdimensions": [8]}), REGRESSOR], 1),
    "regressor, softmax": ([("LinearRegressor", {**REGRESSOR[1], "post_transform": "SOFTMAX"})], 1),
}  # fmt: skip


@pytest.mark.parametrize("kind", PIPELINES)
def test_scores_and_ablation(kind: str) -> None:
    steps, outputs = PIPELINES[kind]
    proto = pipeline(*steps, outputs=outputs)
    score = proto.graph.output[-1].name
    scores_kept(proto, {"x": X}, score)
    found = load(proto)
    assert found.layer().tensor == "r2"
    assert not any(n.op_type == steps[-1][0] for n in found.model.proto.graph.node)
    assert any(steps[-1][0] in note for note in found.notes)
    exact_is_literal(proto)


@pytest.mark.parametrize("kind", ["scaler, softmax", "normalizer max", "two classes, one row"])
def test_gradients(kind: str) -> None:
    steps, outputs = PIPELINES[kind]
    proto = pipeline(*steps, outputs=outputs)
    score = proto.graph.output[-1].name
    options = {"score": "probability"} if outputs == 2 else {}
    saliency_is_difference(proto, X[:1].copy(), score, **options)


def test_names_come_from_the_classifier() -> None:
    proto = pipeline(*PIPELINES["names"][0], outputs=2)
    explainer = Explainer(proto, provider="cpu")
    assert explainer.labels == ["cat", "dog", "fish"]
    assert (explainer(X, "dog").target == 1).all()


def test_a_step_that_binarizes_lets_no_gradient_through() -> None:
    proto = pipeline(("Binarizer", {"threshold": 0.2}), REGRESSOR)
    scores_kept(proto, {"x": X}, "t1")
    exact_is_literal(proto)
    with pytest.raises(OpError, match=r"no gradient of the score arrives.*methods that do not"):
        explain(proto, method="grad-cam")


def test_features_picked_by_position() -> None:
    proto = pipeline(REGRESSOR)
    proto.graph.node[-1].input[0] = "few"
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([[2, 0, 5]]), "at"))
    del proto.graph.node[-1].attribute[:]
    attributes = {"coefficients": ROWS[:9], "intercepts": BIAS, "targets": 3}
    proto.graph.node[-1].attribute.extend(
        helper.make_attribute(k, v) for k, v in attributes.items()
    )
    proto.graph.node.insert(
        len(proto.graph.node) - 1,
        helper.make_node("ArrayFeatureExtractor", ["f", "at"], ["few"], domain="ai.onnx.ml"),
    )
    scores_kept(proto, {"x": X}, "t0")
    exact_is_literal(proto)


def trees() -> onnx.ModelProto:
    """One tree for each of three classes, of one split at the feature that is greatest."""
    count = 3
    (features,) = models.run(net(FEATURES, outputs="float[N,8] f"), {"x": X})
    best = int(features.min(0).argmax())
    half = float(features[:, best].min()) / 2
    step: Step = ("TreeEnsembleClassifier", {
        "nodes_treeids": [t for t in range(count) for _ in range(3)],
        "nodes_nodeids": [0, 1, 2] * count,
        "nodes_featureids": [best, 0, 0] * count,
        "nodes_values": [half, 0.0, 0.0] * count,
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"] * count,
        "nodes_truenodeids": [1, 0, 0] * count,
        "nodes_falsenodeids": [2, 0, 0] * count,
        "class_treeids": [t for t in range(count) for _ in range(2)],
        "class_nodeids": [1, 2] * count,
        "class_ids": [t for t in range(count) for _ in range(2)],
        "class_weights": [0.1, 0.8, 0.2, 0.9, 0.4, 0.6],
        "classlabels_int64s": [0, 1, 2],
        "post_transform": "NONE",
    })  # fmt: skip
    return pipeline(step, outputs=2)


def test_trees_are_explained_without_gradients() -> None:
    proto = trees()
    found = load(proto)
    assert (found.score.logit, found.layer().tensor, found.classes) == ("y", "r2", 3)
    assert any("left out behind the score" in n for n in found.notes) is False
    for method in ("score-cam", "occlusion", "rise"):
        options = {"masks": 8} if method == "rise" else {}
        assert explain(proto, method=method, **options).map.shape[0] == 2
    with pytest.raises(OpError, match=r"TreeEnsembleClassifier.*no gradient rule.*ablation-cam"):
        explain(proto, method="grad-cam")
    _, y, drops = models.drops(proto, "r2", "y", {"x": X})
    weights = explain(proto).weights
    assert weights is not None and np.abs(drops[:, 1]).max() > 0
    models.close(weights, drops[:, 1] / y[:, 1, None], tolerance=1e-4)
