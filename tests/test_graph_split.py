"""Both halves of a model, run on their own: `head(features(x))` is `model(x)`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import models
import onnxcam
from models import LIGHT, close, each_golden, golden_arrays, golden_index, images, run, weight
from onnxcam import LayerError

ROUNDING = 2e-5  # of the largest value


def halves(
    source: Any, layer: str | int | None, x: np.ndarray, **options: Any
) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """What the features give, by name, and what the head makes of it; both are checked."""
    features, head = onnxcam.split(source, layer, **options)
    for half in (features, head):
        onnx.checker.check_model(half, full_check=True)
    names = [o.name for o in features.graph.output]
    assert [i.name for i in head.graph.input] == names
    assert len(features.graph.input) == 1
    middle = dict(zip(names, run(features, {features.graph.input[0].name: x}), strict=True))
    return middle, run(head, middle)


def whole(path: Path, x: np.ndarray, names: Sequence[str] | None = None) -> list[np.ndarray]:
    """The model itself, image by image, as its batch may be fixed."""
    proto = onnx.load(path)
    weights = {t.name for t in proto.graph.initializer}
    image = next(i for i in proto.graph.input if i.name not in weights)
    batch = image.type.tensor_type.shape.dim[0].dim_value
    if names is not None:
        known = {o.name for o in proto.graph.output}
        proto.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in known)
    session = models.session(proto)
    step = batch or len(x)
    runs = [session.run(names, {image.name: x[i : i + step]}) for i in range(0, len(x), step)]
    return [np.concatenate(parts) for parts in zip(*runs, strict=True)]


@each_golden()
def test_goldens(goldens: Path, name: str, file: str) -> None:
    """Feature map and scores of both halves against the reference in float64, three images."""
    path = goldens / name / file
    about = golden_index()[name]
    golden = golden_arrays(name, next(iter(about["goldens"])))
    x = np.concatenate([golden["x"], golden["x"][:1]])
    middle, (scores,) = halves(path, None, x)
    want = np.concatenate([golden["out"], golden["out"][:1]])
    close(scores, want, tolerance=ROUNDING)
    features = golden["A_tokens"] if "A_tokens" in golden else golden["A"]
    a = next(iter(middle.values()))
    close(a[:2], features, tolerance=ROUNDING)
    close(a[2], features[0], tolerance=ROUNDING)


@pytest.mark.parametrize("name", ["tiny_resnet", "tiny_convnext", "tiny_vit", "tiny_inception"])
def test_every_candidate_of_a_golden(goldens: Path, name: str) -> None:
    for file in ("ts17.onnx", "dy20.onnx"):
        golden = golden_arrays(name, "golden.npz")
        classifier = models.golden_classifier(name, file)
        for layer in range(len(classifier.maps)):
            _, (scores,) = halves(classifier, layer, golden["x"])
            close(scores, golden["out"], tolerance=ROUNDING)


def test_any_tensor_of_a_residual_net(goldens: Path) -> None:
    """In the middle of a block the skip connection becomes a second input of the head."""
    golden = golden_arrays("tiny_resnet", "golden.npz")
    classifier = models.golden_classifier("tiny_resnet", "ts17.onnx")
    x = np.concatenate([golden["x"], golden["x"][::-1]])
    want = np.concatenate([golden["out"], golden["out"][::-1]])
    inputs = []
    for node in classifier.graph().nodes:
        tensor = node.outputs[0]
        if len(tensor.shape) != 4 or tensor.shape[2:] == [1, 1]:
            continue
        middle, (scores,) = halves(classifier, tensor.name, x)
        assert next(iter(middle)) == tensor.name
        close(scores, want, tolerance=ROUNDING)
        inputs.append(len(middle))
    assert inputs.count(2) > 4 and inputs.count(1) > 4 and max(inputs) == 2


def test_tensors_between_attention_blocks(goldens: Path) -> None:
    """Token tensors named by the user, with the residual stream around them."""
    golden = golden_arrays("tiny_vit", "golden.npz")
    classifier = models.golden_classifier("tiny_vit", "ts17.onnx")
    tokens = golden["A_tokens"].shape[1]
    named = 0
    for node in classifier.graph().nodes:
        tensor = node.outputs[0]
        if tensor.shape is None or len(tensor.shape) != 3 or tensor.shape[1] != tokens:
            continue
        _, (scores,) = halves(classifier, tensor.name, golden["x"])
        close(scores, golden["out"], tolerance=ROUNDING)
        named += 1
    assert named > 20


@pytest.mark.parametrize("name", ["alexnet", "residual", "shortcut", "vgg"])
def test_demo_models(root: Path, name: str) -> None:
    path = root / "models" / f"demo_{name}.onnx"
    x = images(3, 3, 96, 96)
    middle, (scores,) = halves(path, None, x)
    (a,) = whole(path, x, ["features"])
    close(middle["features"], a, tolerance=ROUNDING)
    (want,) = whole(path, x, [onnx.load(path).graph.output[-1].name])
    assert scores.shape == want.shape
    known = whole(path, x)
    assert any(np.allclose(scores, k, atol=1e-5) for k in known)


LIGHT_LAYERS = {
    "bvlc_alexnet": [None, "r9", -3],
    "inception_v1": [None, -3],
    "resnet50": [None, "r163"],
    "shufflenet": [None, "r192"],
    "squeezenet": [None, "r50"],
    "zfnet512": [None],
}


@pytest.mark.parametrize("name", LIGHT_LAYERS)
def test_light_models(name: str) -> None:
    path = LIGHT / f"light_{name}.onnx"
    x = images(2, 3, 224, 224)
    want = whole(path, x)[0]
    classifier = onnxcam.load(path)
    for layer in LIGHT_LAYERS[name]:
        _, (scores,) = halves(classifier, layer, x)
        close(scores, want.reshape(scores.shape), tolerance=ROUNDING)


SHARED = {  # a second layer to cut at, and the input
    "cifar10_vit_pgd_2_3_16": (0, (3, 32, 32)),
    "cifar10_winml_cnn_fc": (-3, (3, 32, 32)),
    "customvision_computer_multilabel": ("fire8_squeeze1x1", (3, 227, 227)),
    "imagenet_mobilenetv2-12-qdq": (-20, (3, 224, 224)),
    "imagenet_mobilenetv2_tf_nhwc_fp32": ("Relu6__67:0", (224, 224, 3)),
    "imagenet_squeezenet1.1_fp32": ("squeezenet0_conv23_relu", (3, 224, 224)),
    "imagenet_squeezenet_caffe2_fp16": ("fire5/expand3x3_2", (3, 224, 224)),
    "leafsnap30_cnn_fc": (-1, (3, 128, 128)),
    "mnist-8_cntk": ("Plus30_Output_0", (1, 28, 28)),
}


@pytest.mark.parametrize("name", SHARED)
def test_shared_models(shared_data: Path, name: str) -> None:
    path = next(shared_data.rglob(f"{name}.onnx"))
    layer, shape = SHARED[name]
    classifier = onnxcam.load(path)
    x = np.abs(images(2, *shape)).astype(classifier.image.dtype)
    last = classifier.score.probability or classifier.score.logit
    default = classifier.default.tensor
    want, a = whole(path, x, [last, default])
    # Half precision keeps three digits; quantised values may fall on another step.
    tolerance = {"fp16": 2e-2, "qdq": 5e-2}.get(name.split("_")[-1].split("-")[-1], ROUNDING)
    for cut in (None, layer):
        middle, (scores,) = halves(classifier, cut, x)
        close(scores, want.reshape(scores.shape), tolerance=tolerance)
        if cut is None:
            close(middle[default], a, tolerance=tolerance)


def test_external_and_large_weights_are_inside_the_halves(tmp_path: Path) -> None:
    """Both halves are whole models: saved, loaded and run elsewhere they give the scores."""
    proto = models.tiny(size=16)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight(4096, 4), "unused"))
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    x = images(3, 3, 16, 16)
    (want,) = run(models.tiny(size=16), {"x": x})
    features, head = onnxcam.split(tmp_path / "m.onnx")
    for half, file in ((features, "f.onnx"), (head, "h.onnx")):
        assert not any(t.external_data for t in half.graph.initializer)
        onnx.save(half, tmp_path / file)
        assert "unused" not in {t.name for t in half.graph.initializer}
    for file in tmp_path.iterdir():
        if file.name[0] not in "fh":
            file.unlink()
    (a,) = run(onnx.load(tmp_path / "f.onnx"), {"x": x})
    (scores,) = run(onnx.load(tmp_path / "h.onnx"), {"a": a})
    close(scores, want, tolerance=1e-6)


def test_what_crosses_twice_is_one_input() -> None:
    """A tensor around the layer that the head uses three times is one input, under its name."""
    body = (
        "c = Conv(x, w) r = Relu(c) a = Conv(r, k) b = Add(a, r) d = Mul(b, r) q = Sub(d, r)"
        " g = GlobalAveragePool(q) f = Flatten(g) y = MatMul(f, v)"
    )
    weights = {"w": weight(6, 3, 1, 1), "k": weight(6, 6, 1, 1), "v": weight(6, 5)}
    proto = models.model(body, weights)
    x = images(3, 3, 6, 5)
    middle, (scores,) = halves(proto, "a", x)
    assert list(middle) == ["a", "r"]
    close(scores, run(proto, {"x": x})[0], tolerance=1e-6)


def test_the_image_itself_may_cross() -> None:
    body = (
        "c = Conv(x, w) a = Relu(c) m = ReduceMean <keepdims = 0> (x, i) s = MatMul(m, u)"
        " g = ReduceMean <keepdims = 0> (a, i) b = MatMul(g, v) y = Add(b, s)"
    )
    weights = {"w": weight(6, 3, 1, 1), "u": weight(3, 5), "v": weight(6, 5), "i": np.array([2, 3])}
    proto = models.model(body, weights)
    x = images(3, 3, 6, 5)
    middle, (scores,) = halves(proto, "a", x)
    assert list(middle) == ["a", "x"] or list(middle) == ["a", "m"] or list(middle) == ["a", "s"]
    close(scores, run(proto, {"x": x})[0], tolerance=1e-6)


def test_the_shape_of_the_picture_may_cross() -> None:
    """A head that resizes to the size of an earlier tensor needs that tensor, or its shape."""
    body = (
        "c = Conv(x, w) a = Relu(c) s = Shape(c) n = Gather(s, two) t = Cast <to = 1> (n)"
        " p = MaxPool <kernel_shape = [2, 2]> (a) m = Mul(p, t)"
        " g = GlobalAveragePool(m) f = Flatten(g) y = MatMul(f, v)"
    )
    weights = {"w": weight(6, 3, 1, 1), "v": weight(6, 5), "two": np.array(2)}
    proto = models.model(body, weights)
    x = images(2, 3, 6, 5)
    _, (scores,) = halves(proto, "a", x)
    close(scores, run(proto, {"x": x})[0], tolerance=1e-6)


def test_errors() -> None:
    proto = models.tiny()
    with pytest.raises(LayerError, match="no tensor or node 'nothing'"):
        onnxcam.split(proto, "nothing")
    with pytest.raises(LayerError, match="does not lie between"):
        onnxcam.split(proto, "w")
