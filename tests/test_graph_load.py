"""One normal form for many kinds of files: each loads, keeps its scores, and is explained right."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import models
from models import close, drops, images, run, tiny, weight
from onnxcam import Explainer, ModelError, load
from onnxcam.graph import load as analysed

NEWEST = 23
"""Newest operator set that these models are made for; both onnx and ONNX Runtime know it."""


def explained(
    source: Any,
    proto: ModelProto,
    x: np.ndarray,
    layer: str = "a",
    score: str = "y",
    tolerance: float = 2e-5,
    **options: Any,
) -> Explainer:
    """Asserts that scores and drops are those of `proto`, units masked one after another."""
    explainer = Explainer(source, provider="cpu", threads=1, weight="slope", **options)
    assert explainer.classifier.default.tensor == layer
    name = explainer.classifier.image.name.removeprefix("its-")
    value, y, want = drops(proto, layer, score, {name: x})
    classes = list(range(y.shape[1]))
    found = explainer(x, [classes] * len(x))
    close(found.scores, y, tolerance=tolerance)
    norms = np.sqrt((value.astype(np.float64) ** 2).sum((2, 3)))[:, None]
    close(found.weights * norms, want, base=y, tolerance=tolerance)
    return explainer


X = images(3, 3, 8, 8)


@pytest.mark.parametrize("opset", [*range(7, 22), NEWEST])
def test_opsets(opset: int) -> None:
    proto = tiny(opset=opset, ir=3 if opset < 9 else 8)
    if opset < 9:
        as_inputs(proto)
    explainer = explained(proto, proto, X)
    assert explainer.classifier.model.opset == max(opset, 18)


def as_inputs(proto: ModelProto) -> None:
    """Lists every weight among the graph's inputs, as IR 3 wants it."""
    for t in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(t.name, t.data_type, t.dims))


def test_weights_listed_as_inputs() -> None:
    proto = tiny(opset=9, ir=3)
    as_inputs(proto)
    found = explained(proto, proto, X).classifier
    assert [i.name for i in found.model.proto.graph.input] == ["x"]


def test_attributes_that_became_inputs() -> None:
    """Clip, Squeeze, Unsqueeze, ReduceMean, Pad and Dropout of old operator sets."""
    body = (
        "p = Conv(x, w) q = Pad <pads = [0, 0, 1, 1, 0, 0, 1, 1], value = 0.5> (p)"
        " a = Clip <min = 0.0, max = 0.8> (q)"
        " g = ReduceMean <axes = [2, 3], keepdims = 1> (a) s = Squeeze <axes = [2, 3]> (g)"
        " u = Unsqueeze <axes = [1]> (s) v1 = Squeeze <axes = [1]> (u) "
        " d = Dropout <ratio = 0.5> (v1) y = Gemm(d, v, c)"
    )
    weights = {"w": weight(6, 3, 3, 3), "v": weight(6, 4), "c": weight(4)}
    for opset in (7, 9, 10):
        proto = models.model(body, weights, "float[N,3,8,8] x", "float[N,4] y", opset=opset, ir=4)
        explained(proto, proto, X)


@pytest.mark.parametrize("ir", [4, 6, 8, 10])
def test_ir_versions(ir: int) -> None:
    proto = tiny(opset=15, ir=ir)
    explained(proto, proto, X)


def test_bytes_message_and_path_are_the_same(tmp_path: Path) -> None:
    proto = tiny()
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    want = Explainer(proto, provider="cpu")(X).weights
    for source in (proto.SerializeToString(), path, str(path)):
        assert (Explainer(source, provider="cpu")(X).weights == want).all()
    assert load(path).name == "m.onnx"


def test_the_callers_message_is_left_alone() -> None:
    proto = tiny(opset=9, ir=3, batch=1)
    as_inputs(proto)
    before = proto.SerializeToString(deterministic=True)
    explainer = Explainer(proto, provider="cpu")
    explainer(X)
    assert proto.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("batch", [1, 8])
def test_a_fixed_batch_is_freed(batch: int) -> None:
    """Reshape, Expand and Concat constants that hide the batch follow it."""
    body = (
        "p = Conv(x, w) a = Relu(p) r = Reshape(a, flat) t = Transpose <perm = [0, 2, 1]> (r)"
        " k = Expand(token, tokens) q = Concat <axis = 1> (k, t) m = MatMul(q, mix)"
        " first = Gather <axis = 1> (m, zero) h = Relu(first) b = Reshape(h, back)"
        " y = Gemm(b, v)"
    )
    weights = {
        "w": weight(6, 3, 1, 1),
        "flat": np.array([batch, 6, 64]),
        "tokens": np.array([batch, 1, 6]),
        "token": weight(1, 1, 6, seed=3),
        "mix": weight(6, 6, seed=4),
        "zero": np.array(3),
        "back": np.array([batch, 6]),
        "v": weight(6, 4, seed=5),
    }
    proto = models.model(body, weights, f"float[{batch},3,8,8] x", f"float[{batch},4] y")
    free = models.model(
        body,
        {**weights, "flat": np.array([-1, 6, 64]), "tokens": np.array([3, 1, 6])}
        | {"back": np.array([-1, 6])},
        "float[N,3,8,8] x",
        "float[N,4] y",
    )
    found = explained(proto, free, X).classifier
    assert found.batch is None
    assert any(f"fixed to {batch}" in note for note in found.notes)


def test_a_batch_that_cannot_be_freed() -> None:
    """A head that squeezes its batch of one away: images one by one, units one by one."""
    body = (
        "p = Conv(x, w) a = Relu(p) g = GlobalAveragePool(a) s = Squeeze(g, axes)"
        " t = MatMul(s, v) y = Unsqueeze(t, axis)"
    )
    weights = {"w": weight(6, 3, 1, 1), "v": weight(6, 4)}
    weights |= {"axes": np.array([0, 2, 3]), "axis": np.array([0])}
    proto = models.model(body, weights, "float[1,3,8,8] x", "float[1,4] y")
    explainer = Explainer(proto, provider="cpu", weight="slope")
    assert explainer.classifier.batch == 1
    found = explainer(X, [[0, 1, 2, 3]] * 3)
    assert any("fixed" in note for note in found.notes)
    for i in range(3):
        value, y, want = drops(proto, "a", "y", {"x": X[i : i + 1]})
        norms = np.sqrt((value**2).sum((2, 3)))[:, None]
        close(found.scores[i : i + 1], y)
        close(found.weights[i : i + 1] * norms, want, base=y)


def test_symbolic_sizes() -> None:
    """One explainer for pictures of several sizes, each analysed at its own."""
    proto = tiny(size="S")
    explainer = Explainer(proto, provider="cpu", weight="slope")
    assert explainer.classifier.image.free
    for h, w in ((8, 8), (12, 7), (5, 9), (8, 8)):
        x = images(2, 3, h, w, seed=h)
        value, y, want = drops(proto, "a", "y", {"x": x})
        found = explainer(x, [[0, 1, 2, 3]] * 2)
        assert found.map.shape == (2, 4, h, w)
        norms = np.sqrt((value**2).sum((2, 3)))[:, None]
        close(found.weights * norms, want, base=y)


def nhwc(kind: str = "float", **options: Any) -> ModelProto:
    """x (N, H, W, 3) of type `kind` → Transpose → the usual classifier."""
    weights = {"w": weight(6, 3, 3, 3, seed=2), "v": weight(6, 4, seed=4)}
    cast = "i = Cast <to = 1> (x)" if kind != "float" else "i = Identity(x)"
    return models.model(
        f"{cast} t = Transpose <perm = [0, 3, 1, 2]> (i) p = Conv(t, w) a = Relu(p)"
        " g = GlobalAveragePool(a) f = Flatten(g) y = Gemm(f, v)",
        weights,
        inputs=f"{kind}[N,8,8,3] x",
        outputs="float[N,4] y",
        **options,
    )


def test_nhwc() -> None:
    proto = nhwc()
    found = explained(proto, proto, np.ascontiguousarray(X.transpose(0, 2, 3, 1))).classifier
    assert (found.image.layout, found.image.channels) == ("NHWC", 3)


def test_uint8_pictures() -> None:
    proto = nhwc("uint8")
    x = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    found = explained(proto, proto, x).classifier
    assert found.image.dtype == np.uint8


def test_float16() -> None:
    """Half precision throughout: weights and drops to three digits."""
    weights = {"w": weight(6, 3, 3, 3, seed=2), "v": weight(6, 4, seed=4)}
    proto = models.model(
        "p = Conv(x, w) a = Relu(p) g = GlobalAveragePool(a) f = Flatten(g) y = Gemm(f, v)",
        {k: v.astype(np.float16) for k, v in weights.items()},
        inputs="float16[N,3,8,8] x",
        outputs="float16[N,4] y",
    )
    found = explained(proto, proto, X.astype(np.float16), tolerance=4e-3)
    assert found.classifier.image.dtype == np.float16
    result = found(X.astype(np.float16))
    assert result.map.dtype == result.scores.dtype == result.weights.dtype == np.float32


def test_functions_are_inlined() -> None:
    proto = onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["" : 18, "local" : 1]>
        test (float[N,3,8,8] x) => (float[N,4] y) {
            p = Conv(x, w)
            a = local.act <slope = 0.1> (p)
            y = local.head(a, v)
        }
        <domain: "local", opset_import: ["" : 18]>
        act <slope> (i) => (o) { o = LeakyRelu <alpha : float = @slope> (i) }
        <domain: "local", opset_import: ["" : 18, "local" : 1]>
        head (i, m) => (o) { g = GlobalAveragePool(i) f = local.flat(g) o = MatMul(f, m) }
        <domain: "local", opset_import: ["" : 18]>
        flat (i) => (o) { o = Flatten(i) }
        """
    )
    for name, array in {"w": weight(6, 3, 3, 3), "v": weight(6, 4)}.items():
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    found = explained(proto, proto, X).classifier
    assert not found.model.proto.functions
    assert {n.op_type for n in found.model.proto.graph.node} <= {
        "Conv", "LeakyRelu", "GlobalAveragePool", "Flatten", "MatMul"
    }  # fmt: skip


def test_functions_whose_domain_has_two_versions() -> None:
    """jax2onnx writes them so; which version a model's own functions have means nothing."""
    proto = onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["" : 18, "local" : 1, "inner" : 1]>
        test (float[N,3,8,8] x) => (float[N,4] y) {
            p = Conv(x, w)
            a = Relu(p)
            y = local.head(a, v)
        }
        <domain: "local", opset_import: ["" : 18, "local" : 18, "inner" : 18]>
        head (i, m) => (o) { g = GlobalAveragePool(i) f = inner.flat(g) o = MatMul(f, m) }
        <domain: "inner", opset_import: ["" : 18, "inner" : 18]>
        flat (i) => (o) { o = Flatten(i) }
        """
    )
    for name, array in {"w": weight(6, 3, 3, 3), "v": weight(6, 4)}.items():
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    found = explained(proto, proto, X).classifier
    assert [o.domain for o in found.model.proto.opset_import] == [""]


def test_constants_of_functions() -> None:
    """Axes that a function holds itself; were they not known, images might meet in the mean."""
    proto = onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["" : 18, "local" : 1]>
        test (float[N,3,8,8] x) => (float[N,4] y) {
            p = Conv(x, w)
            a = Relu(p)
            m = local.mean(a)
            y = MatMul(m, v)
        }
        <domain: "local", opset_import: ["" : 18]>
        mean (i) => (o) {
            axes = Constant <value_ints = [2, 3]> ()
            o = ReduceMean <keepdims = 0> (i, axes)
        }
        """
    )
    for name, array in {"w": weight(6, 3, 3, 3), "v": weight(6, 4)}.items():
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    classifier = explained(proto, proto, X).classifier
    assert classifier.batch is None and not classifier.notes
    assert Explainer(proto, "grad-cam", provider="cpu", threads=1)(X).raw.shape == (3, 6, 6)


def test_an_operator_set_that_is_named_twice() -> None:
    """As in a file that onnx.compose joined from two; older than 18, so that it is raised."""
    proto = tiny(opset=17)
    proto.opset_import.add(domain="", version=17)
    classifier = load(proto)
    assert [(o.domain, o.version) for o in classifier.model.proto.opset_import] == [("", 18)]
    found = Explainer(proto, "grad-cam", provider="cpu", threads=1)(X)
    want = Explainer(tiny(opset=17), "grad-cam", provider="cpu", threads=1)(X)
    close(found.raw, want.raw)


def test_a_slice_that_ends_at_the_size_of_the_batch() -> None:
    """JAX states an end for each axis: here the first token is cut off, the batch is kept."""
    tokens = {"w": weight(4, 3, 2, 2), "h": weight(4, 5), "m": np.array([1])}
    tokens |= {"g": np.array([0, 4, -1]), "o": np.array([0]), "f": np.array([0, 1, 0])}
    tokens |= {"t": np.array([16]), "u": np.array([4]), "q": np.array([0, 1, 2])}
    body = (
        "p = Conv <strides = [2, 2]> (x, w) a = Relu(p) r = Reshape(a, g)"
        " s = Transpose <perm = [0, 2, 1]> (r) d = Shape(s) b = Gather(d, o)"
        " e = Concat <axis = 0> (b, t, u) z = Slice(s, f, e, q)"
        " c = ReduceMean <keepdims = 0> (z, m) y = MatMul(c, h)"
    )
    proto = models.model(body, tokens, inputs="float[N,3,8,8] x", outputs="float[N,5] y")
    classifier = load(proto)
    assert classifier.batch is None and not classifier.notes
    explained(proto, proto, X)
    assert Explainer(proto, "grad-cam", provider="cpu", threads=1)(X).raw.shape == (3, 4, 4)


def two_inputs() -> ModelProto:
    weights = {"w": weight(6, 3, 3, 3, seed=2), "v": weight(6, 4, seed=4)}
    return models.model(
        "i = Mul(x, scale) j = Add(i, z) p = Conv(j, w) a = Relu(p) g = GlobalAveragePool(a)"
        " f = Flatten(g) y = Gemm(f, v)",
        weights,
        inputs="float[N,3,8,8] x, float scale, float[1,3,8,8] z",
        outputs="float[N,4] y",
    )


def test_an_input_of_one_position_is_no_image() -> None:
    """As converters leave the mean that a Keras model takes off its pictures."""
    proto = models.model(
        "i = Sub(x, m) p = Conv(i, w) a = Relu(p) g = GlobalAveragePool(a) f = Flatten(g)"
        " y = Gemm(f, v)",
        {"w": weight(6, 3, 3, 3, seed=2), "v": weight(6, 4, seed=4)},
        inputs="float[1,3,1,1] m, float[N,3,8,8] x",
        outputs="float[N,4] y",
    )
    with pytest.raises(ModelError, match=r"further inputs: 'm' \(1, 3, 1, 1\).*--feed"):
        load(proto)
    mean = np.full((1, 3, 1, 1), 0.5, np.float32)
    assert load(proto, inputs={"m": mean}).layer().tensor == "a"


def test_several_inputs() -> None:
    proto = two_inputs()
    with pytest.raises(ModelError, match=r"several inputs that could be the image.*--input"):
        load(proto)
    with pytest.raises(ModelError, match=r"further inputs: 'scale' \(\), 'z'"):
        load(proto, image="x")
    with pytest.raises(ModelError, match=r"no input 'y2'.*inputs are"):
        load(proto, image="y2")
    z = images(1, 3, 8, 8, seed=9)
    given = {"scale": 2.0, "z": z}
    found = Explainer(proto, image="x", inputs=given, provider="cpu", weight="slope")
    fixed = models.model(
        "i = Mul(x, scale) j = Add(i, z) p = Conv(j, w) a = Relu(p) g = GlobalAveragePool(a)"
        " f = Flatten(g) y = Gemm(f, v)",
        {
            "w": weight(6, 3, 3, 3, seed=2),
            "v": weight(6, 4, seed=4),
            "scale": np.float32(2),
            "z": z,
        },
        inputs="float[N,3,8,8] x",
        outputs="float[N,4] y",
    )
    explained(proto, fixed, X, image="x", inputs=given)
    assert "z" not in [i.name for i in found.classifier.model.proto.graph.input]


@pytest.mark.parametrize("value", ["abc", [[1, 2], [3]], object(), {"a": 1}])
def test_a_value_that_does_not_fit_an_input(value: Any) -> None:
    with pytest.raises(ModelError, match="scale"):
        load(two_inputs(), image="x", inputs={"scale": value, "z": np.zeros((1, 3, 8, 8))})


def with_outputs(tail: str, outputs: str, imports: str = "") -> ModelProto:
    weights = {"w": weight(6, 3, 3, 3, seed=2), "v": weight(6, 4, seed=4), "m": weight(6, 4)}
    return models.model(
        "p = Conv(x, w) a = Relu(p) g = GlobalAveragePool(a) f = Flatten(g) y = Gemm(f, v) " + tail,
        {k: w for k, w in weights.items() if k != "m" or "m)" in tail},
        inputs="float[N,3,8,8] x",
        outputs=outputs,
        imports=imports,
    )


def test_logits_and_probabilities_both_given() -> None:
    proto = with_outputs("q = Softmax(y)", "float[N,4] y, float[N,4] q")
    score = explained(proto, proto, X).classifier.score
    assert (score.logit, score.probability) == ("y", "q")


def test_an_auxiliary_classifier() -> None:
    """Of two classifiers the one at the end of the longer path is the model's word."""
    weights = {"w": weight(6, 3, 1, 1), "k": weight(6, 6, 1, 1), "v": weight(6, 4, seed=4)}
    proto = models.model(
        "p = Conv(x, w) r = Relu(p) ag = GlobalAveragePool(r) af = Flatten(ag) aux = Gemm(af, v)"
        " c = Conv(r, k) c1 = Relu(c) c2 = Conv(c1, k) a = Relu(c2) g = GlobalAveragePool(a)"
        " f = Flatten(g) y = Gemm(f, v)",
        weights,
        inputs="float[N,3,8,8] x",
        outputs="float[N,4] aux, float[N,4] y",
    )
    explained(proto, proto, X)
    other = load(proto, output="aux")
    assert (other.score.logit, other.default.tensor) == ("aux", "r")
    with pytest.raises(ModelError, match=r"no output 'auks' \(did you mean 'aux'\?\)"):
        load(proto, output="auks")


def test_two_heads_of_equal_depth_must_be_chosen() -> None:
    proto = with_outputs("z = Gemm(f, m)", "float[N,4] y, float[N,4] z")
    with pytest.raises(ModelError, match=r"several look like class scores.*--output"):
        load(proto)
    explained(proto, proto, X, output="y")
    explained(proto, proto, X, score="z", output="z")


def test_features_as_a_second_output() -> None:
    proto = with_outputs("", "float[N,4] y, float[N,6,6,6] a, float[N,6] f")
    explained(proto, proto, X, output="y")


def test_zipmap_and_argmax_tails() -> None:
    """A scikit-style tail: label and a sequence of dictionaries; both are cut off, and named."""
    proto = with_outputs(
        "q = Softmax(y) i = ArgMax <axis = 1, keepdims = 0> (q)"
        " label = ai.onnx.ml.ArrayFeatureExtractor(names, i)"
        " maps = ai.onnx.ml.ZipMap <classlabels_int64s = [1, 2, 3, 4]> (q)",
        "float[N,4] q0",
        ', "ai.onnx.ml" : 2',
    )
    del proto.graph.output[:]
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1, 2, 3, 4]), "names"))
    label = helper.make_tensor_value_info("label", TensorProto.INT64, None)
    entry = helper.make_map_type_proto(
        TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    )
    maps = helper.make_value_info("maps", helper.make_sequence_type_proto(entry))
    proto.graph.output.extend([label, maps])
    plain = with_outputs("", "float[N,4] y")
    found = explained(proto, plain, X).classifier
    assert (found.score.logit, found.score.probability) == ("y", "q")
    assert any("ZipMap" in note or "ArgMax" in note for note in found.notes)


def quantise(tmp_path: Path, kind: str) -> ModelProto:
    """A golden-sized net, quantised by ONNX Runtime's own tool."""
    from onnxruntime import quantization as q

    weights = {
        "w": weight(8, 3, 3, 3, seed=2),
        "b": weight(8, seed=3),
        "k": weight(8, 8, 3, 3, seed=6),
        "v": weight(8, 4, seed=4),
        "c": weight(4, seed=5),
    }
    proto = models.model(
        "p = Conv(x, w, b) r = Relu(p) p2 = Conv(r, k) r2 = Relu(p2) g = GlobalAveragePool(r2)"
        " f = Flatten(g) y = Gemm(f, v, c)",
        weights,
        inputs="float[N,3,8,8] x",
        outputs="float[N,4] y",
    )
    source, target = tmp_path / "f.onnx", tmp_path / f"{kind}.onnx"
    onnx.save(proto, source)

    class Reader(q.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [{"x": images(4, 3, 8, 8, seed=s)} for s in range(4)]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    if kind == "dynamic":
        q.quantize_dynamic(source, target)
    else:
        form = q.QuantFormat.QDQ if kind == "qdq" else q.QuantFormat.QOperator
        q.quantize_static(source, target, Reader(), quant_format=form)
    return onnx.load(target)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["qdq", "qoperator"])
def test_quantised(tmp_path: Path, kind: str) -> None:
    """Scores are those of the quantised model; exact and literal weights agree."""
    proto = quantise(tmp_path, kind)
    (y,) = run(proto, {"x": X})
    exact = Explainer(proto, provider="cpu", weight="slope")
    assert exact.classifier.default.grid == (4, 4)
    assert exact.classifier.default.units == 8
    found = exact(X, [[0, 1, 2, 3]] * 3)
    close(found.scores, y, tolerance=2e-2)  # a value next to a rounding step may fall either way
    literal = Explainer(proto, provider="cpu", weight="slope", ablation="literal")
    close(found.weights, literal(X, [[0, 1, 2, 3]] * 3).weights, tolerance=2e-2)
    assert (np.abs(found.raw).reshape(12, -1).max(1) > 0).all()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ablation", ["exact", "literal"])
def test_dynamically_quantised(tmp_path: Path, ablation: str) -> None:
    """DynamicQuantizeLinear takes its range from the whole batch: runs must not share one."""
    proto = quantise(tmp_path, "dynamic")
    assert "DynamicQuantizeLinear" in {n.op_type for n in proto.graph.node}
    found = Explainer(proto, provider="cpu", weight="slope", ablation=ablation)(
        X, [[0, 1, 2, 3]] * 3
    )
    for i in range(3):
        value, y, want = drops(proto, "r2", "y", {"x": X[i : i + 1]})
        close(found.scores[i : i + 1], y, tolerance=1e-4)
        norms = np.sqrt((value**2).sum((2, 3)))[:, None]
        close(found.weights[i : i + 1] * norms, want, base=y, tolerance=1e-4)


@pytest.mark.parametrize("level", ["extended", "all"])
def test_contrib_operators_are_carried_through(tmp_path: Path, level: str) -> None:
    """What ONNX Runtime writes after its own fusions: FusedConv, Gelu of com.microsoft, …"""
    weights = {
        "w": weight(8, 3, 3, 3, seed=2),
        "k": weight(8, 8, 1, 1, seed=6),
        "v": weight(8, 4, seed=4),
        **{"two": np.float32(np.sqrt(2)), "one": np.float32(1), "half": np.float32(0.5)},
    }
    proto = models.model(
        "p = Conv(x, w) r = Relu(p) c = Conv(r, k) d = Div(c, two) e = Erf(d) e1 = Add(e, one)"
        " m = Mul(c, e1) a = Mul(m, half) c2 = Conv(a, k) r2 = Relu(c2)"
        " g = GlobalAveragePool(r2) f = Flatten(g) y = Gemm(f, v)",
        weights,
        inputs="float[N,3,8,8] x",
        outputs="float[N,4] y",
        opset=17,
    )
    options = ort.SessionOptions()
    options.log_severity_level = 4
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = {
        "extended": levels.ORT_ENABLE_EXTENDED,
        "all": levels.ORT_ENABLE_ALL,
    }[level]
    path = tmp_path / "fused.onnx"
    options.optimized_model_filepath = str(path)
    ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    fused = onnx.load(path)
    assert {n.domain for n in fused.graph.node} - {""}
    (y,) = run(fused, {"x": X})
    exact = Explainer(path, provider="cpu", weight="slope")
    found = exact(X, [[0, 1, 2, 3]] * 3)
    close(found.scores, y)
    literal = Explainer(path, provider="cpu", weight="slope", ablation="literal")
    close(found.weights, literal(X, [[0, 1, 2, 3]] * 3).weights)
    value, _, want = drops(proto, "r2", "y", {"x": X})
    norms = np.sqrt((value**2).sum((2, 3)))[:, None]
    close(found.weights * norms, want, base=y, tolerance=2e-5)


def test_duplicated_and_missing_names() -> None:
    proto = tiny()
    for name in ("same", ""):  # ONNX Runtime refuses the first, and would name the second
        for node in proto.graph.node:
            node.name = name
        explained(proto, tiny(), X)


def test_a_graph_without_a_name() -> None:
    proto = tiny()
    proto.graph.name = ""
    explained(proto, proto, X)


def test_names_that_the_explainer_uses_itself() -> None:
    """Tensors called like the explainer's own inputs, outputs and intermediate results."""
    proto = tiny()
    names = {
        "x": "onnxcam/target",
        "p": "onnxcam/Mul_1",
        "g": "onnxcam/map",
        "f": "onnxcam/units",
        "y": "onnxcam/scores",
        "v": "onnxcam/const_1",
    }
    graph = proto.graph
    for node in graph.node:
        for part in (node.input, node.output):
            part[:] = [names.get(n, n) for n in part]
    for info in (*graph.input, *graph.output, *graph.initializer):
        info.name = names.get(info.name, info.name)
    explained(proto, proto, X, score="onnxcam/scores")


def test_constant_nodes() -> None:
    """Weights, shapes and numbers as Constant nodes in all their forms."""
    body = (
        "p = Conv(x, w) a = Relu(p) shape = Constant <value_ints = [0, 6, 36]> () "
        "r = Reshape(a, shape) axes = Constant <value_ints = [2]> ()"
        " m = ReduceMean <keepdims = 0> (r, axes) two = Constant <value_float = 2.0> ()"
        " t = Mul(m, two) y = MatMul(t, v)"
    )
    proto = models.model(body, {}, "float[N,3,8,8] x", "float[N,4] y")
    for name, array in {"w": weight(6, 3, 3, 3), "v": weight(6, 4)}.items():
        node = helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))
        proto.graph.node.insert(0, node)
    explained(proto, proto, X)


def test_shape_arithmetic_of_exporters() -> None:
    """Shape → Gather → Unsqueeze → Concat → Reshape, instead of Flatten."""
    body = (
        "p = Conv(x, w) a = Relu(p) s = Shape(a) n = Gather(s, zero) u = Unsqueeze(n, axis)"
        " q = Concat <axis = 0> (u, rest) r = Reshape(a, q) y = MatMul(r, v)"
    )
    weights = {"w": weight(6, 3, 3, 3), "v": weight(216, 4)}
    weights |= {"zero": np.array(0), "axis": np.array([0]), "rest": np.array([-1])}
    proto = models.model(body, weights, "float[N,3,8,8] x", "float[N,4] y")
    explained(proto, proto, X)


def test_large_weights_stay_beside_the_graph() -> None:
    weights = {"w": weight(32, 3, 3, 3), "v": weight(32 * 36, 64), "o": weight(64, 4)}
    proto = models.model(
        "p = Conv(x, w) a = Relu(p) f = Flatten(a) h = Gemm(f, v) r = Relu(h) y = Gemm(r, o)",
        weights,
        "float[N,3,8,8] x",
        "float[N,4] y",
    )
    found = explained(proto, proto, X).classifier
    assert len(found.model.proto.SerializeToString()) < 10_000
    assert found.model.weights["v"].shape == (32 * 36, 64)
    complete = found.model.complete()
    close(run(complete, {"x": X})[0], run(proto, {"x": X})[0], tolerance=1e-6)


def test_weights_of_every_element_type_survive() -> None:
    """Double, int8, bfloat16 and raw or typed fields alike."""
    body = (
        "p = Conv(x, w) a = Relu(p) d = Cast <to = 11> (a) m = Mul(d, big) b = Cast <to = 1> (m)"
        " g = GlobalAveragePool(b) f = Flatten(g) c = Cast <to = 1> (small) y = MatMul(f, c)"
    )
    weights = {
        "w": weight(6, 3, 3, 3),
        "big": np.linspace(0.5, 2, 6 * 36).reshape(6, 6, 6),
        "small": np.arange(-12, 12, dtype=np.int8).reshape(6, 4),
    }
    proto = models.model(body, weights, "float[N,3,8,8] x", "float[N,4] y")
    typed = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[6, 3, 3, 3])
    typed.float_data.extend(weights["w"].ravel().tolist())
    proto.graph.initializer[0].CopyFrom(typed)
    explained(proto, proto, X, layer="m")


# External data.


def external(folder: Path, edit: Callable[[TensorProto], None] = lambda t: None) -> Path:
    """The little classifier with its weights in a second file; `edit` changes their entries."""
    path = folder / "m.onnx"
    onnx.save(tiny(), path, save_as_external_data=True, location="m.bin", size_threshold=0)
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        edit(tensor)
    path.write_bytes(proto.SerializeToString())
    return path


def entry(key: str, value: str) -> Callable[[TensorProto], None]:
    def edit(tensor: TensorProto) -> None:
        kept = [(e.key, e.value) for e in tensor.external_data if e.key != key]
        del tensor.external_data[:]
        for k, v in [*kept, (key, value)]:
            tensor.external_data.add(key=k, value=v)

    return edit


def test_external_data(tmp_path: Path) -> None:
    explained(external(tmp_path), tiny(), X)


def test_external_data_in_a_folder_inside(tmp_path: Path) -> None:
    path = external(tmp_path, entry("location", "data/sub/m.bin"))
    (tmp_path / "data" / "sub").mkdir(parents=True)
    (tmp_path / "m.bin").rename(tmp_path / "data" / "sub" / "m.bin")
    explained(path, tiny(), X)


def refused(path: Path, match: str) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        load(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_external_data_missing(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "m.bin").unlink()
    refused(path, r"'m\.bin', which is missing; put that file beside the model")


def test_external_data_cut_short(tmp_path: Path) -> None:
    path = external(tmp_path)
    content = (tmp_path / "m.bin").read_bytes()
    (tmp_path / "m.bin").write_bytes(content[:-8])
    refused(path, "too short")


@pytest.mark.parametrize("location", ["../m.bin", "sub/../../m.bin", "ABSOLUTE", "..", ".", ""])
def test_external_data_outside(tmp_path: Path, location: str) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    where = str(tmp_path / "m.bin") if location == "ABSOLUTE" else location
    path = external(inside, entry("location", where))
    (inside / "m.bin").rename(tmp_path / "m.bin")
    refused(path, "outside the model's folder|missing")


def test_external_data_behind_a_link(tmp_path: Path) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    path = external(inside)
    (inside / "m.bin").rename(tmp_path / "m.bin")
    (inside / "m.bin").symlink_to(tmp_path / "m.bin")
    refused(path, "outside the model's folder")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("offset", "-4"),
        ("offset", "999999999999"),
        ("offset", "abc"),
        ("offset", "1e3"),
        ("location", "\0"),
        ("location", "a" * 5000),
    ],
)
def test_external_data_with_damaged_entries(tmp_path: Path, key: str, value: str) -> None:
    refused(external(tmp_path, entry(key, value)), "weight")


def test_external_data_from_memory(tmp_path: Path) -> None:
    path = external(tmp_path)
    with pytest.raises(ModelError, match="came from memory; give the model as a path"):
        load(path.read_bytes())
    with pytest.raises(ModelError, match="came from memory"):
        load(onnx.load(path, load_external_data=False))


def test_external_data_of_a_relative_path(tmp_path: Path, monkeypatch: Any) -> None:
    external(tmp_path)
    monkeypatch.chdir(tmp_path)
    explained("m.onnx", tiny(), X)
    assert os.getcwd() == str(tmp_path)


def test_a_file_larger_than_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(tiny(), path)
    with pytest.raises(ModelError, match="more than the limit of 1,000; raise it with"):
        load(path, max_bytes=1000)
    assert load(path, max_bytes=path.stat().st_size).classes == 4


# Heads that more than the values of one image go into.


ALONG_THE_BATCH = {
    "maximum": "mm = ReduceMax <keepdims = 0> (f) q = Div(f, mm)",
    "mean": "mm = ReduceMean(f, zero) q = Mul(f, mm)",
    "norm": "q = LpNormalization <axis = 0> (f)",
    "running sum": "q = CumSum(f, start)",
    "softmax": "n = Softmax <axis = 0> (f) q = Mul(n, f)",
}


@pytest.mark.parametrize("name", ALONG_THE_BATCH)
def test_operators_along_the_batch(name: str) -> None:
    """What works along the batch is right for one image: its units must not share a run."""
    tail = ALONG_THE_BATCH[name]
    body = f"p = Conv(x, w) a = Relu(p) g = GlobalAveragePool(a) f = Flatten(g) {tail}"
    weights = {"w": weight(6, 3, 3, 3), "v": weight(6, 4)}
    weights |= {"zero": np.array([0])} if "zero" in body else {}
    weights |= {"start": np.array(0)} if "start" in body else {}
    proto = models.model(f"{body} y = MatMul(q, v)", weights, "float[N,3,8,8] x", "float[N,4] y")
    for ablation in ("exact", "literal"):
        explained(proto, proto, X[:1], layer="a", ablation=ablation)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_a_resize_to_computed_sizes(mode: str) -> None:
    """Batch and channels come from Shape, height and width from a constant, as exporters do."""
    weights = {"w": weight(6, 3, 3, 3), "k": weight(6, 6, 3, 3, seed=3), "v": weight(6, 4)}
    weights |= {"zero": np.array([0]), "two": np.array([2]), "hw": np.array([12, 9])}
    proto = models.model(
        "p = Conv(x, w) a = Relu(p) s = Shape(a) s2 = Slice(s, zero, two)"
        f' q = Concat <axis = 0> (s2, hw) r = Resize <mode = "{mode}"> (a, , , q) c = Conv(r, k)'
        " r2 = Relu(c) g = GlobalAveragePool(r2) f = Flatten(g) y = MatMul(f, v)",
        weights,
        "float[N,3,8,8] x",
        "float[N,4] y",
    )
    value, y, want = drops(proto, "a", "y", {"x": X})
    norms = np.sqrt((value**2).sum((2, 3)))[:, None]
    for ablation in ("literal", "exact"):
        explainer = Explainer(proto, layer="a", provider="cpu", weight="slope", ablation=ablation)
        close(explainer(X, [[0, 1, 2, 3]] * 3).weights * norms, want, base=y)


@pytest.mark.parametrize("place", ["head", "features"])
def test_an_if_that_shapes_decide(place: str) -> None:
    """PyTorch's squeeze comes out so: If(size == 1) then Squeeze else Identity."""
    then, other = (
        helper.make_graph(
            [helper.make_node(op, [taken, *extra], [out])],
            out,
            [],
            [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)],
        )
        for op, taken, extra, out in (
            ("Squeeze" if place == "head" else "Relu", "g" if place == "head" else "p",
             ["three"] if place == "head" else [], "then_out"),
            ("Identity", "g" if place == "head" else "p", [], "else_out"),
        )
    )  # fmt: skip
    choice = helper.make_node("If", ["yes"], ["h" if place == "head" else "a"])
    for key, graph in (("then_branch", then), ("else_branch", other)):
        choice.attribute.append(helper.make_attribute(key, graph))
    weights = {"w": weight(6, 3, 3, 3), "v": weight(6, 4), "three": np.array([3])}
    weights |= {"axis": np.array(3), "one": np.array(1)}
    shaped = "s = Shape({t}) n = Gather(s, axis) yes = Equal(n, {size})"
    if place == "head":
        body = (
            f"p = Conv(x, w) a = Relu(p) g = GlobalAveragePool(a) {shaped} h = Identity(g)"
            " f = Flatten(h) y = MatMul(f, v)"
        ).format(t="g", size="one")
    else:
        weights["one"] = np.array(6)
        body = (
            f"p = Conv(x, w) {shaped} a = Identity(p) g = GlobalAveragePool(a) f = Flatten(g)"
            " y = MatMul(f, v)"
        ).format(t="p", size="one")
    if place == "features":
        del weights["three"]
    proto = models.model(body, weights, "float[N,3,8,8] x", "float[N,4] y")
    at = next(i for i, n in enumerate(proto.graph.node) if n.op_type == "Identity")
    proto.graph.node[at].CopyFrom(choice)
    assert run(proto, {"x": X})[0].shape == (3, 4)
    plain = models.model(
        "p = Conv(x, w) a = Relu(p) g = GlobalAveragePool(a) f = Flatten(g) y = MatMul(f, v)",
        {"w": weights["w"], "v": weights["v"]},
        "float[N,3,8,8] x",
        "float[N,4] y",
    )
    explained(proto, plain, X)


def test_sizes_that_a_branch_computes() -> None:
    """The constants of the branch count, and nothing needs to run for it."""

    def refused(*_: Any) -> list[np.ndarray]:
        raise AssertionError("the shapes tell enough")

    then, other = (
        helper.make_graph(
            [
                helper.make_node("Constant", [], [f"{out}_by"], value_int=by),
                helper.make_node("Sub", ["n", f"{out}_by"], [out]),
            ],
            out,
            [],
            [helper.make_tensor_value_info(out, TensorProto.INT64, None)],
        )
        for out, by in (("then_out", 2), ("else_out", 3))
    )
    choice = helper.make_node("If", ["yes"], ["end"], then_branch=then, else_branch=other)
    weights = {"w": weight(6, 3, 3, 3), "v": weight(6, 4), "i0": np.array([0]), "i3": np.array([3])}
    proto = models.model(
        "p = Conv(x, w) s = Shape(p) n = Gather(s, i3) yes = Greater(n, i3) end = Identity(n)"
        " q = Slice(p, i0, end, i3) a = Relu(q) g = GlobalAveragePool(a) f = Flatten(g)"
        " y = MatMul(f, v)",
        weights,
        "float[N,3,8,8] x",
        "float[N,4] y",
    )
    at = next(i for i, n in enumerate(proto.graph.node) if n.op_type == "Identity")
    proto.graph.node[at].CopyFrom(choice)
    found = analysed(proto, probe=refused)
    assert found.default.grid == (6, 4)
    (slice_,) = (n for n in found.graph().nodes if n.op == "Slice")
    assert [t.values.tolist() for t in slice_.inputs[1:]] == [[0], [4], [3]]
    explained(proto, proto, X)
