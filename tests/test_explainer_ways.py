"""What is said about the methods is what happens when they are compiled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import models
import onnxcam
from models import LIGHT, tiny, weight
from onnxcam.errors import OnnxcamError
from onnxcam.explainer import compile_program, recipe
from onnxcam.explainer.ways import NO_MAP, availability
from onnxcam.graph import Classifier, normal
from onnxcam.methods import METHODS

PLAIN = [row for row in METHODS.values() if not row.fused]
WEIGHTS = {
    "w": weight(3, 3, 3, 3),
    "v": weight(3, 5),
    "z": np.array([0]),
    "gw": weight(1, 9, 3, seed=8),
    "gr": weight(1, 9, 3, seed=9),
}
HEAD = "r0 = GlobalAveragePool(a) r = Flatten(r0)"
GRU = (
    "h = Unsqueeze(r, z) s, t = GRU <hidden_size = 3, clip = 9.0> (h, gw, gr) q = Squeeze(t, z)"
    " y = Gemm(q, v)"
)


def agrees(classifier: Classifier, layer: str | int | None = None) -> dict[str, str | None]:
    """The answer, after every method was compiled to see whether it is right."""
    asked = None if layer is None else classifier.layer(layer)
    found = availability(classifier, asked)
    assert list(found) == [row.name for row in PLAIN]
    for row in PLAIN:
        met = None
        try:
            given = layer if row.on_layer else None
            compile_program(classifier, [recipe(classifier, row.name, given)])
        except OnnxcamError as error:
            met = str(error)
        why = found[row.name]
        assert (why is None) == (met is None), (row.name, why, met)
        assert why is None or ("\n" not in why and why)
    return found


def without(found: dict[str, str | None]) -> list[str]:
    return [name for name, why in found.items() if why is not None]


@pytest.mark.parametrize("kind", ["ts17", "dy18"])
@pytest.mark.parametrize("net", ["tiny_resnet", "tiny_vit", "tiny_softmax", "tiny_mobilenetv3"])
def test_the_goldens(goldens: Path, net: str, kind: str) -> None:
    found = agrees(onnxcam.load(goldens / net / f"{kind}.onnx"))
    assert without(found) == ([] if net == "tiny_resnet" else ["cam"])


@pytest.mark.parametrize(
    "file",
    ["imagenet_mobilenetv2-12-qdq", "imagenet_squeezenet_caffe2_fp16", "mnist-8_cntk",
     "customvision_computer_multilabel", "imagenet_mobilenetv2_tf_nhwc_fp32"],
)  # fmt: skip
def test_real_models(shared_data: Path, file: str) -> None:
    agrees(onnxcam.load(shared_data / f"models/{file}.onnx"))


def test_a_large_model_at_another_layer() -> None:
    found = agrees(onnxcam.load(LIGHT / "light_resnet50.onnx"), -5)
    assert without(found) == ["cam"]


def test_an_operator_without_a_rule_in_the_head() -> None:
    body = f"p = Conv <pads = [1, 1, 1, 1]> (x, w) a = Relu(p) {HEAD} {GRU}"
    proto = models.model(body, WEIGHTS)
    for node in proto.graph.node:
        node.name = f"/head/{node.op_type}"
    found = agrees(onnxcam.load(proto))
    able = ["ablation-cam", "eigen-cam", "score-cam", "recipro-cam", "occlusion", "rise"]
    assert [name for name in found if found[name] is None] == able
    rule = "node '/head/GRU' (GRU): a GRU with clip has no gradient rule"
    assert {found[name] for name in found if name not in (*able, "cam")} == {rule}


def test_an_operator_without_a_rule_before_the_feature_map() -> None:
    """What needs the gradient of the head alone works; what goes on to the pixels does not."""
    body = (
        "m = ReduceMean <keepdims = 0> (x, axes) h = Unsqueeze(m, z)"
        " s, t = GRU <hidden_size = 3, clip = 9.0> (h, gw, gr) q = Squeeze(t, z)"
        " e = Reshape(q, tall) u = Add(x, e)"
        f" p = Conv <pads = [1, 1, 1, 1]> (u, w) a = Relu(p) {HEAD} y = Gemm(r, v)"
    )
    extra = {"axes": np.array([2, 3]), "tall": np.array([0, 3, 1, 1])}
    found = agrees(onnxcam.load(models.model(body, WEIGHTS | extra)))
    gone = ["saliency", "input-x-gradient", "guided-backprop", "deconvnet",
            "integrated-gradients", "smoothgrad", "fullgrad"]  # fmt: skip
    assert without(found) == gone


@pytest.mark.parametrize("place", ["before", "behind"])
def test_a_subgraph_cannot_be_run_again(place: str) -> None:
    fork = (
        "{0} = If (yes) <then_branch = g1 () => (o1) {{ o1 = Relu({1}) }},"
        " else_branch = g2 () => (o2) {{ o2 = Identity({1}) }}>"
    )
    start = "m = ReduceMax <keepdims = 0> (x) yes = Greater(m, m)"
    body = f"{start} p = Conv <pads = [1, 1, 1, 1]> (x, w)"
    if place == "before":
        body += f" {fork.format('u', 'p')} k = Conv <pads = [1, 1, 1, 1]> (u, w) a = Relu(k)"
        body += f" {HEAD} y = Gemm(r, v)"
    else:
        body += f" a = Relu(p) {HEAD} {fork.format('q', 'r')} y = Gemm(q, v)"
    found = agrees(onnxcam.load(models.model(body, WEIGHTS)), "a")
    holds = [why for why in found.values() if why is not None and "(If) holds a subgraph" in why]
    assert holds
    on_layer = [row.name for row in PLAIN if row.on_layer]
    able = [n for n in on_layer if n != "score-cam"] if place == "before" else ["eigen-cam"]
    assert [name for name, why in found.items() if why is None] == able


def test_without_a_feature_map_pixels_are_left() -> None:
    classifier = onnxcam.load(models.model("f = Flatten(x) y = Gemm(f, v)", {"v": weight(90, 5)}))
    assert classifier.default is None
    found = agrees(classifier)
    for row in PLAIN:
        assert found[row.name] == (NO_MAP if row.on_layer else None)


def test_a_model_that_stays_in_an_old_opset(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no adapter")

    monkeypatch.setattr(normal.version_converter, "convert_version", fail)
    classifier = onnxcam.load(tiny(opset=11, ir=6))
    assert classifier.model.opset == 11
    found = agrees(classifier)
    assert found["saliency"] == found["grad-cam"] == found["cam"]
    assert str(found["saliency"]).startswith("the model stays in opset 11, and gradients need 16")
    assert found["ablation-cam"] is found["eigen-cam"] is found["rise"] is None


def test_an_explainer_says_it_of_its_own_layer(goldens: Path) -> None:
    explainer = onnxcam.Explainer(goldens / "tiny_resnet/ts17.onnx", "grad-cam", provider="cpu")
    assert explainer.methods()["cam"] is None
    assert "CAM needs a head" in str(explainer.methods(-4)["cam"])
    deep = onnxcam.Explainer(explainer.classifier, "grad-cam", layer=-4, provider="cpu")
    assert deep.methods() == explainer.methods(-4)
    pixels = onnxcam.Explainer(explainer.classifier, "rise", provider="cpu")
    assert pixels.methods() == explainer.methods()
