"""Gradients of real architectures against differences of ONNX Runtime's own scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from whole_gradients import Gradients

import onnxcam
from models import LIGHT, images, rng, session
from onnxcam.graph import Classifier
from onnxcam.graph.split import extract


def with_weights(path: Path) -> onnx.ModelProto:
    """A light model of the onnx package with random weights in place of its constant ones."""
    proto = onnx.load(path)
    graph, random = proto.graph, rng(3)
    sizes = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    fills = {n.output[0]: n for n in graph.node if n.op_type == "ConstantOfShape"}
    for user in graph.node:
        for position, name in enumerate(user.input):
            if name not in fills:
                continue
            shape = tuple(sizes[fills.pop(name).input[0]])
            scales = user.op_type == "BatchNormalization" and position in (1, 4)
            if scales or user.op_type not in ("BatchNormalization", "Conv", "Gemm"):
                array = random.uniform(0.5, 1.5, shape).astype(np.float32)
            else:
                spread = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
                array = random.standard_normal(shape, np.float32) * np.float32(spread)
            graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    kept = [n for n in graph.node if n.op_type != "ConstantOfShape"]
    del graph.node[:]
    graph.node.extend(kept)
    return proto


def unrounded(path: Path) -> onnx.ModelProto:
    """A quantised model whose quantisers only clip; weights stay as they are."""
    proto = onnx.load(path)
    known = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    makers = {n.output[0]: n for n in proto.graph.node}
    for node in proto.graph.node:
        quantiser = makers.get(node.input[0])
        if node.op_type != "DequantizeLinear" or quantiser is None:
            continue
        scale, zero = known[node.input[1]], known[node.input[2]].astype(np.float32)
        kind = np.iinfo(known[node.input[2]].dtype)
        names = [f"{node.output[0]}/{side}" for side in ("low", "high")]
        for name, level in zip(names, (kind.min, kind.max), strict=True):
            limit = np.asarray((level - zero) * scale, np.float32)
            proto.graph.initializer.append(onnx.numpy_helper.from_array(limit, name))
        node.op_type = "Clip"
        node.input[:] = [quantiser.input[0], *names]
    return proto


def agrees(
    classifier: Classifier, x: np.ndarray, steps: tuple[float, ...], tolerance: float
) -> None:
    """Asserts that the gradient foretells how the scores change; one of the steps must do.

    The image moves along the gradient in two halves of its numbers, drawn by lot: along all of it
    an error of the gradient would show in second order only. A step is a share of the length of
    `x`: long ones cross kinks, short ones drown in rounding.
    """
    computed = Gradients(classifier)
    cotangent = np.zeros((1, *computed.width), computed.dtype)
    few = cotangent.reshape(-1)[:10]
    few[:] = rng(5).normal(size=few.size)
    (g,) = computed(x, cotangent)
    assert g is not None
    g = g.astype(np.float64)
    assert np.isfinite(g).all()
    image, score = classifier.image.name, classifier.score.logit
    forward = extract(classifier.graph(), [image], [score], classifier.model)
    runner = session(forward.complete())

    def f(picture: np.ndarray) -> float:
        (y,) = runner.run(None, {image: picture.astype(classifier.image.dtype)})
        return float((y.astype(np.float64) * cotangent).sum())

    half = rng(6).random(g.shape) < 0.5
    for way in (g * half, g * ~half):
        way = way * (np.linalg.norm(x.astype(np.float64)) / np.linalg.norm(way))
        want = (g * way).sum()
        errors = [abs((f(x + s * way) - f(x - s * way)) / (2 * s) / want - 1) for s in steps]
        assert min(errors) <= tolerance, f"off by {errors} at steps {steps}"


@pytest.mark.parametrize("name", sorted(p.stem for p in LIGHT.glob("*.onnx")))
def test_light_models(name: str) -> None:
    path = LIGHT / f"{name}.onnx"
    # Half a gigabyte of weights would take its time; with its constant ones all channels are alike.
    proto = onnx.load(path) if name == "light_vgg19" else with_weights(path)
    classifier = onnxcam.load(proto)
    agrees(classifier, images(*classifier.image.shape(1)), (1e-3, 1e-4), 2e-2)


@pytest.mark.parametrize("name", ["alexnet", "residual", "shortcut", "vgg"])
def test_demo_models(root: Path, name: str) -> None:
    classifier = onnxcam.load(root / "models" / f"demo_{name}.onnx")
    agrees(classifier, images(*classifier.image.shape(1)), (1e-3, 1e-4), 1e-2)


SHARED = {  # steps, tolerance
    "cifar10_vit_pgd_2_3_16": ((1e-2, 1e-3), 1e-2),
    "cifar10_winml_cnn_fc": ((1e-3, 1e-4), 1e-2),
    "customvision_computer_multilabel": ((1e-3, 1e-4), 1e-2),
    "imagenet_mobilenetv2_tf_nhwc_fp32": ((1e-3, 1e-4), 1e-2),
    "imagenet_squeezenet1.1_fp32": ((1e-3, 1e-4), 1e-2),
    "imagenet_squeezenet_caffe2_fp16": ((1e-2, 3e-3, 1e-3), 1e-1),
    "leafsnap30_cnn_fc": ((1e-3, 1e-4), 1e-2),
    "mnist-8_cntk": ((1e-3, 1e-4), 1e-2),
}


@pytest.mark.parametrize("name", SHARED)
def test_shared_models(shared_data: Path, name: str) -> None:
    classifier = onnxcam.load(shared_data / "models" / f"{name}.onnx")
    agrees(classifier, images(*classifier.image.shape(1)), *SHARED[name])


def test_a_quantised_model(shared_data: Path) -> None:
    """Rounding counts as no change: the scores follow the gradient over steps that are not small.

    A network that clips its activations but does not round them has nearly the same gradient.
    """
    path = shared_data / "models" / "imagenet_mobilenetv2-12-qdq.onnx"
    classifier = onnxcam.load(path)
    x = images(*classifier.image.shape(1))
    agrees(classifier, x, (0.01, 0.003), 0.3)
    (rounded,), (clipped,) = (
        Gradients(c).of_classes(x, [1, 5]) for c in (classifier, onnxcam.load(unrounded(path)))
    )
    cosine = (rounded * clipped).sum() / np.linalg.norm(rounded) / np.linalg.norm(clipped)
    assert cosine > 0.6
    assert 0.8 < np.linalg.norm(rounded) / np.linalg.norm(clipped) < 1.25


def test_every_model_has_its_row(shared_data: Path) -> None:
    names = {p.stem for p in (shared_data / "models").glob("*.onnx")}
    assert names - {"imagenet_mobilenetv2-12-qdq"} == set(SHARED)
