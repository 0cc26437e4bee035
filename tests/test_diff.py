"""The walk: gradients of whole models, for every tensor asked for, and what cannot be answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx.reference import ReferenceEvaluator
from whole_gradients import Gradients

import onnxcam
from models import (
    close,
    each_golden,
    golden_arrays,
    golden_classifier,
    golden_index,
    images,
    model,
    rng,
    run,
    tiny,
    weight,
)
from onnxcam.diff import VARIANTS, gradients
from onnxcam.errors import OpError, OptionError
from onnxcam.graph.emit import Emitter

FLOAT64 = onnx.TensorProto.DOUBLE


def same(got: np.ndarray, want: np.ndarray, tolerance: float = 1e-4) -> None:
    """Within `tolerance` of max|want|, for each image and each class by itself."""
    assert got.shape == want.shape
    axes = tuple(range(2, want.ndim))
    worst = np.abs(got - want).max(axes) / np.abs(want).max(axes)
    assert (worst <= tolerance).all(), f"off by {worst}"


def of_golden(
    name: str, file: str, arrays: str, wrt: list[str], variant: str = "standard"
) -> list[np.ndarray]:
    """Gradients of the score that a golden set is about, for its classes."""
    score, golden = golden_classifier(name, file).score, golden_arrays(name, arrays)
    entry = golden_index()[name]["goldens"][arrays]
    of = score.logit if entry["score"] == "logits" else score.probability or score.logit
    computed = Gradients(golden_classifier(name, file), wrt, variant, of)
    return computed.of_classes(golden["x"], golden["classes"])


@each_golden(sets=True)
def test_goldens(goldens: Path, name: str, file: str, arrays: str) -> None:
    """Gradients of logits and of probabilities, for the feature map and the image at once."""
    golden, entry = golden_arrays(name, arrays), golden_index()[name]
    classifier = golden_classifier(name, file)
    cam = entry["goldens"][arrays]["cam"]
    tensor = classifier.default.tensor if cam == "cam" else entry["files"][file][cam]
    of_map, of_image = of_golden(name, file, arrays, [tensor, classifier.image.name])
    want = golden["dA_tokens"] if "dA_tokens" in golden else golden["dA"]
    same(of_map.reshape(want.shape), want)
    if "grad_x" in golden:  # not in a set that only cuts at another tensor
        same(of_image, golden["grad_x"])


@each_golden(sets=True)
def test_golden_variants(goldens: Path, name: str, file: str, arrays: str) -> None:
    """Guided backpropagation and deconvnet, at Relu and at every rectifier-like activation."""
    golden, image = golden_arrays(name, arrays), golden_classifier(name, file).image.name
    for variant in VARIANTS:
        want = golden.get(variant.replace("-", "_"))
        if want is not None:
            (found,) = of_golden(name, file, arrays, [image], variant)
            same(found, want)


# A square of tensors to differentiate for: a → b → d, a → c → d, and e that stands beside.
SQUARE = """
    a = Conv <pads = [1, 1, 1, 1]> (x, w)
    b = Tanh(a) c = Sigmoid(a) m = Mul(b, c) d = Add(m, b)
    p = ReduceMean <keepdims = 0> (d, i) y = Gemm(p, v, k)
    e = Exp(d)
"""


def square(batch: int | str = "N") -> onnx.ModelProto:
    weights = {"w": weight(4, 3, 3, 3, seed=1), "v": weight(4, 5, seed=2), "k": weight(5, seed=3)}
    return model(
        SQUARE,
        {**weights, "i": np.array([2, 3])},
        inputs=f"float[{batch},3,6,5] x",
        outputs=f"float[{batch},5] y",
    )


X = images(3, 3, 6, 5).astype(np.float32)
G = images(3, 5, seed=5)


def by_hand(x: np.ndarray = X, g: np.ndarray = G) -> dict[str, np.ndarray]:
    """The gradients of the square from its formula, y = mean(tanh a · σ(a) + tanh a) @ v + k."""
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in square().graph.initializer}
    (a,) = run(square(), {"x": x}, ["a"])
    b, c = np.tanh(a), 1 / (1 + np.exp(-a))
    d = np.broadcast_to((g @ weights["v"].T)[:, :, None, None] / 30, a.shape)
    found = {"d": d, "m": d, "b": d * (c + 1), "c": d * b}
    found["a"] = found["b"] * (1 - b * b) + found["c"] * c * (1 - c)
    padded = np.zeros((len(x), 3, 8, 7))
    for i in range(3):
        for j in range(3):
            padded[:, :, i : i + 6, j : j + 5] += np.einsum(
                "nkhw,kc->nchw", found["a"], weights["w"][:, :, i, j]
            )
    found["x"] = padded[:, :, 1:-1, 1:-1]
    return found


def test_several_tensors_at_once() -> None:
    """They may depend on each other; each answer is the whole derivative for that tensor."""
    want, classifier = by_hand(), onnxcam.load(square())
    for names in (["x"], ["a", "x"], ["x", "d", "b", "c", "a", "m"], ["c", "b"], ["b", "b"]):
        found = Gradients(classifier, names)(X, G)
        for name, value in zip(names, found, strict=True):
            close(value, want[name], tolerance=2e-6)


def test_the_score_itself() -> None:
    (found,) = Gradients(onnxcam.load(square()), ["y"])(X, G)
    np.testing.assert_array_equal(found, G)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_images_of_a_batch_do_not_meet(count: int) -> None:
    want = by_hand()
    (found,) = Gradients(onnxcam.load(square()))(X[:count], G[:count])
    close(found, want["x"][:count], tolerance=2e-6)


def test_fixed_batch() -> None:
    """A batch that the loader cannot free: the gradient works at that size."""
    weights = {"w": weight(4, 3, 3, 3, seed=1), "v": weight(4, 5, seed=2)}
    body = """
        a = Conv <pads = [1, 1, 1, 1]> (x, w) b = Tanh(a) p = ReduceMean <keepdims = 0> (b, i)
        z = MatMul(p, v) s = ReduceMean <keepdims = 1> (z, o) y = Sub(z, s)
    """
    fixed = model(
        body,
        {**weights, "i": np.array([2, 3]), "o": np.array([0])},
        inputs="float[3,3,6,5] x",
        outputs="float[3,5] y",
    )
    classifier = onnxcam.load(fixed)
    assert classifier.batch == 3
    short = body.replace("s = ReduceMean <keepdims = 1> (z, o) y = Sub(z, s)", "y = Identity(z)")
    weights["i"] = np.array([2, 3])
    free = Gradients(onnxcam.load(model(short, weights, "float[N,3,6,5] x", "float[N,5] y")))
    (want,) = free(X, G - G.mean(0))  # the mean over the batch goes back to every image
    (found,) = Gradients(classifier)(X, G)
    close(found, want, tolerance=2e-6)


def test_weights() -> None:
    """Constants can be differentiated for as well; the images of the batch add up."""
    found = Gradients(onnxcam.load(square()), ["v", "k"]).model
    (p,) = run(square(), {"x": X}, ["p"])
    dv, dk = run(found, {"x": X, "cotangent": G})[1:]
    close(dv, p.T @ G, tolerance=2e-6)
    close(dk, G.sum(0), tolerance=2e-6)


def test_nothing_depends() -> None:
    """Where the score does not depend on a tensor the answer is None, not zeros."""
    classifier = onnxcam.load(square())
    graph = classifier.graph()
    tensors = graph.tensors()
    e = Emitter(graph)
    beside = e.Exp(tensors["a"])
    beside.shape = tensors["a"].shape
    cotangent = gs.Variable("cotangent", np.dtype(np.float32), tensors["m"].shape)
    wrt = [beside, tensors["d"], tensors["v"], tensors["a"]]
    found = gradients(e, tensors["m"], cotangent, wrt)
    assert [t is not None for t in found] == [False, False, False, True]
    assert gradients(e, tensors["m"], cotangent, []) == []


def test_what_is_cut_off_has_no_gradient() -> None:
    """Decisions and positions pass nothing; rounding passes nothing and says so."""
    decided = model(
        "big = Greater(x, half) z = Cast <to = 1> (big) f = Flatten(z) y = MatMul(f, v)",
        {"half": np.float32(0.5), "v": weight(90, 4)},
        outputs="float[N,4] y",
    )
    assert Gradients(onnxcam.load(decided)).names == [None]
    rounded = model(
        "a = Relu(x) r = Round(a) f = Flatten(r) y = MatMul(f, v)",
        {"v": weight(90, 4)},
        outputs="float[N,4] y",
    )
    computed = Gradients(onnxcam.load(rounded))
    assert computed.names == [None]
    (note,) = computed.notes
    assert "(Round)" in note and "derivative is 0" in note


def test_the_model_is_not_altered() -> None:
    """Differentiating works on a copy; what it returns computes the same scores as before."""
    classifier = onnxcam.load(tiny(size=6))
    before = classifier.model.proto.SerializeToString()
    computed = Gradients(classifier)
    assert classifier.model.proto.SerializeToString() == before
    x = images(2, 3, 6, 6)
    feeds = {"x": x, "cotangent": images(2, 4)}
    scores = run(computed.model, feeds)[0]
    np.testing.assert_array_equal(scores, run(classifier.model.complete(), {"x": x})[0])


def test_what_comes_out_is_valid_and_standard() -> None:
    for proto in (tiny(), square()):
        built = Gradients(onnxcam.load(proto)).model
        onnx.checker.check_model(built, full_check=True)
        assert {n.domain for n in built.graph.node} <= {"", "ai.onnx"}
        assert not [o.domain for o in built.opset_import if o.domain not in ("", "ai.onnx")]


def test_in_float64() -> None:
    """Against central differences of the whole model, which float64 makes sharp."""
    built = onnx.ModelProto()
    built.CopyFrom(Gradients(onnxcam.load(tiny(size=6))).model)
    for t in built.graph.initializer:
        if t.data_type == onnx.TensorProto.FLOAT:
            array = onnx.numpy_helper.to_array(t).astype(np.float64)
            t.CopyFrom(onnx.numpy_helper.from_array(array, t.name))
    for value in built.graph.input:
        value.type.tensor_type.elem_type = FLOAT64
    evaluator = ReferenceEvaluator(built)
    x, g = rng(1).normal(size=(2, 3, 6, 6)), rng(2).normal(size=(2, 4))
    _, found = evaluator.run(None, {"x": x, "cotangent": g})
    for seed in range(5):
        way = rng(10 + seed).normal(size=x.shape)
        ends = [
            (evaluator.run(None, {"x": x + s * 1e-6 * way, "cotangent": g})[0] * g).sum()
            for s in (1, -1)
        ]
        want = (ends[0] - ends[1]) / 2e-6
        assert abs((found * way).sum() - want) <= 1e-6 * np.linalg.norm(found)


@pytest.mark.parametrize("kind", ["float16", "uint8"])
def test_element_types(kind: str) -> None:
    """A cotangent has its tensor's type, and float32 where that holds integers."""
    cast = "h = Cast <to = 10> (x)" if kind == "float16" else "h = Cast <to = 1> (x)"
    dtype = np.float16 if kind == "float16" else np.float32
    weights = {"w": weight(4, 3, 3, 3).astype(dtype), "v": weight(4, 5).astype(dtype)}
    proto = model(
        f"{cast} a = Conv(h, w) b = Tanh(a) p = GlobalAveragePool(b) f = Flatten(p)"
        " y = MatMul(f, v)",
        weights,
        inputs=f"{'float' if kind == 'float16' else 'uint8'}[N,3,6,5] x",
        outputs=f"{'float16' if kind == 'float16' else 'float'}[N,5] y",
    )
    of_image, of_map = Gradients(onnxcam.load(proto), ["x", "a"]).of_classes(X, [0, 3])
    assert of_image.dtype == np.float32
    assert of_map.dtype == dtype
    x = X if kind == "float16" else X.astype(np.uint8)
    (a,) = run(proto, {"x": x}, ["a"])
    want = (1 - np.tanh(a.astype(np.float64)) ** 2) / 12 * weights["v"][None, :, 0, None, None]
    close(of_map[:, 0], want, tolerance=5e-3 if kind == "float16" else 2e-6)


def refused(body: str, **options: Any) -> str:
    """What is said of a model (x: 3 × 3, four classes by v) that cannot be differentiated."""
    proto = model(
        f"{body} l = Flatten(f) y = MatMul(l, v)",
        {"v": weight(9, 4), "one": np.array([1]), "zero": np.zeros((1, 1, 3, 3), np.int64)},
        inputs="float[N,1,3,3] x",
        outputs="float[N,4] y",
        **options,
    )
    with pytest.raises(OpError) as error:
        Gradients(onnxcam.load(proto))
    return str(error.value)


def test_an_operator_without_a_rule() -> None:
    """The message names the operator and its node."""
    text = refused("[volume] d = Det(x) u = Unsqueeze(d, one) w = Unsqueeze(u, one) f = Mul(x, w)")
    assert text == "node 'volume' (Det): there is no gradient rule for this operator"


@pytest.mark.parametrize("op", ["Inverse(x)", "Trilu(x)"])
def test_an_operator_of_another_domain(op: str) -> None:
    """One that shares its name with a standard operator is another operator all the same."""
    text = refused(f"[theirs] f = com.microsoft.{op}", imports=', "com.microsoft" : 1')
    name = op.partition("(")[0]
    assert text == f"node 'theirs' ({name}): there is no gradient rule for this operator"


def test_an_operator_beside_the_way_needs_no_rule() -> None:
    proto = model(
        "f = Flatten(x) y = MatMul(f, v) d = Det(x) z = Sub(d, d)",
        {"v": weight(9, 4)},
        inputs="float[N,1,3,3] x",
        outputs="float[N,4] y",
    )
    (found,) = Gradients(onnxcam.load(proto))(X[:, :1, :3, :3], G[:, :4])
    close(found.reshape(3, 9), G[:, :4] @ weight(9, 4).T, tolerance=1e-6)


def test_a_rule_that_refuses_says_where() -> None:
    text = refused('[laid] f = ScatterElements <axis = 1, reduction = "mul"> (x, zero, x)')
    assert text == "node 'laid' (ScatterElements): ScatterElements with reduction 'mul' has no " \
        "gradient rule"  # fmt: skip


def test_an_attribute_that_the_rule_does_not_know() -> None:
    """An operator may get new attributes in a later standard: they may change the derivative."""
    graph = onnxcam.load(tiny()).graph()
    node = next(n for n in graph.nodes if n.op == "Relu")
    node.attrs["slope"] = 0.5
    e, y = Emitter(graph), graph.outputs[0]
    with pytest.raises(OpError, match=rf"node '{node.name}' \(Relu\): .* attribute 'slope'"):
        gradients(e, y, gs.Variable("cotangent", np.dtype(np.float32), y.shape), graph.inputs)


def test_an_old_operator_set() -> None:
    graph = onnxcam.load(tiny()).graph()
    graph.opset, y = 15, graph.outputs[0]
    with pytest.raises(OpError, match=r"opset 15, and gradients need 16 or later; export"):
        gradients(Emitter(graph), y, y, graph.inputs)


def test_no_such_variant() -> None:
    with pytest.raises(OptionError, match=r"'guidde' .* 'guided'.*choose standard, guided, deconv"):
        Gradients(onnxcam.load(tiny()), variant="guidde")
