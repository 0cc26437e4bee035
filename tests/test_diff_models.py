"""Gradients of real architectures against differences of ONNX Runtime's own scores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxcam
from models import LIGHT, images, rng, run, session
from onnxcam.graph import Classifier
from whole_gradients import COTANGENT, Gradients


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
            if user.op_type == "BatchNormalization" and position in (1, 4):  # scale and variance
                array = random.uniform(0.5, 1.5, shape)
            else:
                fan = np.prod(shape[1:]) if len(shape) > 1 else 10
                array = random.normal(size=shape) * np.sqrt(2 / fan)
            graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    kept = [n for n in graph.node if n.op_type != "ConstantOfShape"]
    del graph.node[:]
    graph.node.extend(kept)
    return proto


def ways(g: np.ndarray) -> Iterator[np.ndarray]:
    """Directions to move the image in: along the gradient, in parts of the picture chosen thrice.

    Along the whole gradient an error of the gradient shows in second order only; in parts of it,
    in first order.
    """
    yield np.ones_like(g)
    for seed in range(3):
        yield (rng(seed).random(g.shape) < 0.5).astype(g.dtype)


def agrees(
    classifier: Classifier, x: np.ndarray, steps: tuple[float, ...], tolerance: float
) -> Gradients:
    """Asserts that the gradient foretells how the scores change; one of the steps must do.

    A step is a share of the length of `x`: long ones cross kinks, short ones drown in rounding.
    """
    computed = Gradients(classifier)
    cotangent = np.zeros((1, *computed.width), computed.dtype)
    cotangent.reshape(-1)[: min(cotangent.size, 10)] = rng(5).normal(size=min(cotangent.size, 10))
    (g,) = computed(x, cotangent)
    assert g is not None
    g = g.astype(np.float64)
    assert np.isfinite(g).all() and np.abs(g).max() > 0
    score, runner = classifier.score.logit, session(computed.model)

    def f(image: np.ndarray) -> float:
        feeds = {classifier.image.name: image.astype(x.dtype), COTANGENT: cotangent}
        feeds = {t.name: feeds[t.name] for t in runner.get_inputs()}
        return float((runner.run([score], feeds)[0].astype(np.float64) * cotangent).sum())

    for mask in ways(g):
        way = g * mask
        want = (g * way).sum()
        length = np.linalg.norm(x.astype(np.float64)) / np.linalg.norm(way)
        found = [
            (f(x + s * length * way) - f(x - s * length * way)) / (2 * s * length) for s in steps
        ]
        errors = [abs(d / want - 1) for d in found]
        assert min(errors) <= tolerance, f"off by {errors} at steps {steps}"
    return computed


@pytest.mark.parametrize("name", sorted(p.stem for p in LIGHT.glob("*.onnx")))
def test_light_models(name: str) -> None:
    proto = with_weights(LIGHT / f"{name}.onnx")
    classifier = onnxcam.load(proto)
    agrees(classifier, images(*classifier.image.shape(1)), (1e-3, 1e-4, 1e-5), 1e-2)
