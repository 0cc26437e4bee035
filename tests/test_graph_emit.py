"""The tools of the graph layer: emitting, folding, shapes, memory, narrowing, wire format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper, numpy_helper

import models
import onnxcam
from models import LIGHT, close, golden_index, images, run, tiny, weight
from onnxcam import ModelError, load
from onnxcam.graph import model as graph_model
from onnxcam.graph import weights as graph_weights
from onnxcam.graph.cost import peak_bytes
from onnxcam.graph.emit import Emitter
from onnxcam.graph.fold import FOLD, MOST_BYTES, fold
from onnxcam.graph.model import Model, array_of, constant, to_graph, to_model
from onnxcam.graph.narrow import narrow
from onnxcam.graph.shapes import bound, marked, static_shapes
from onnxcam.graph.split import extract
from onnxcam.graph.wire import Malformed, skim


def empty(opset: int = 18) -> tuple[Emitter, gs.Variable]:
    """An emitter of a graph with nothing in it but an input x (N, 3, 4)."""
    x = gs.Variable("x", np.dtype(np.float32), ["N", 3, 4])
    domains = [helper.make_opsetid("", opset)]
    graph = gs.Graph(inputs=[x], opset=opset, import_domains=domains)
    return Emitter(graph), x


def made(e: Emitter, *outputs: gs.Tensor) -> onnx.ModelProto:
    """The model of what was emitted, checked."""
    e.graph.outputs = list(outputs)
    for t in outputs:
        t.dtype = t.dtype or np.dtype(np.float32)
    like = Model(tiny(), {})
    return to_model(e.graph.toposort(), like).complete()


X = images(2, 3, 4)


def test_operators_are_methods() -> None:
    e, x = empty()
    y = e.Add(e.Mul(x, 2.0), e.Relu(e.Neg(x)))
    close(run(made(e, y), {"x": X})[0], 2 * X + np.maximum(-X, 0), tolerance=1e-6)
    with pytest.raises(AttributeError):
        e.relu(x)


def test_numbers_take_the_type_of_the_tensor() -> None:
    e, x = empty()
    half = e.Cast(x, to=TensorProto.FLOAT16)
    half.dtype = np.dtype(np.float16)
    y = e.Mul(half, 2)
    assert y.dtype == np.float16 and array_of(e.graph.nodes[-1].inputs[1]).dtype == np.float16
    shape = e.Shape(x)
    assert shape.dtype == np.int64
    assert array_of(e.Add(shape, 1).inputs[0].inputs[1]).dtype == np.int64
    close(run(made(e, y), {"x": X})[0], (X.astype(np.float16) * 2), tolerance=1e-3)


def test_lists_are_int64_and_optional_inputs_may_be_left_out() -> None:
    e, x = empty()
    y = e.Clip(x, None, 0.5)
    assert [t.name != "" for t in y.inputs[0].inputs] == [True, False, True]
    z = e.Reshape(y, [0, 12])
    assert array_of(z.inputs[0].inputs[1]).dtype == np.int64
    close(run(made(e, z), {"x": X})[0], np.minimum(X, 0.5).reshape(2, 12), tolerance=1e-7)
    w = e.Clip(x, 0.0, None)
    assert len(w.inputs[0].inputs) == 2  # nothing trails


@pytest.mark.parametrize("opset", [11, 12, 13, 17, 18, 21])
@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMean", "ReduceMax", "Squeeze", "Unsqueeze"])
def test_axes_in_the_form_of_the_opset(opset: int, op: str) -> None:
    e, x = empty(opset)
    if op == "Squeeze":
        y = e.axes(op, e.axes("Unsqueeze", x, [1]), [1])
    elif op == "Unsqueeze":
        y = e.axes(op, x, [0, 2])
    else:
        y = e.axes(op, x, [1], keepdims=0)
    want = {
        "ReduceSum": X.sum(1),
        "ReduceMean": X.mean(1),
        "ReduceMax": X.max(1),
        "Squeeze": X,
        "Unsqueeze": X[None, :, None],
    }[op]
    proto = made(e, y)
    assert proto.opset_import[0].version == opset
    close(run(proto, {"x": X})[0], want, tolerance=1e-6)


def test_views_of_constants_are_folded() -> None:
    e, x = empty()
    w = weight(4, 5)
    t = e.Reshape(e.Transpose(e.tensor(w), perm=[1, 0]), [5, 2, 2])
    assert not e.graph.nodes
    assert (array_of(t) == w.T.reshape(5, 2, 2)).all()
    assert array_of(e.Transpose(e.Relu(x), perm=[1, 0, 2])) is None


def test_names_are_new() -> None:
    e, x = empty()
    x.name = "onnxcam/Relu_1"
    e = Emitter(e.graph)
    names = [e.Relu(x).name for _ in range(5)] + [e.name("const") for _ in range(3)]
    assert len({*names, x.name}) == 9
    other = Emitter(e.graph)
    assert other.Relu(x).name not in names


def test_a_node_once_more() -> None:
    e, x = empty()
    first, second = e.op("Split", [x], {"axis": 2, "num_outputs": 2}, outputs=2)
    again = e.again(e.graph.nodes[0], [e.Neg(x)])
    found = run(made(e, first, second, *again), {"x": X})
    for got, want in zip(found, [X[..., :2], X[..., 2:], -X[..., :2], -X[..., 2:]], strict=True):
        close(got, want, tolerance=1e-7)


# Folding: the same numbers as ONNX Runtime's.

F = images(2, 3, 4)
I3 = np.array([7, -7, 5])
FOLDS: dict[str, list[tuple[list[np.ndarray | None], dict[str, Any]]]] = {
    "Identity": [([F], {})],
    "Transpose": [([F], {"perm": [2, 0, 1]}), ([F], {})],
    "Reshape": [
        ([F, np.array([0, -1])], {}),
        ([F, np.array([4, 0, -1])], {}),
        ([np.zeros((0, 3), np.float32), np.array([0, 5])], {"allowzero": 1}),
    ],
    "Unsqueeze": [([F, np.array([0, 3])], {}), ([F, np.array([-1])], {})],
    "Squeeze": [([F[:, :1], np.array([1])], {}), ([F[:1, :1]], {})],
    "Gather": [
        ([F, np.array([1, 0])], {"axis": 1}),
        ([F, np.array(-1)], {"axis": 2}),
        ([F, np.array([[0, 1]])], {}),
    ],
    "Concat": [([F, F * 2], {"axis": 1}), ([F, F, F], {"axis": -1})],
    "Slice": [
        ([F, np.array([1]), np.array([9]), np.array([1])], {}),
        ([F, np.array([-1]), np.array([-99]), np.array([2]), np.array([-1])], {}),
        ([F, np.array([3, 0]), np.array([0, 2]), np.array([2, 1]), np.array([-2, 1])], {}),
        ([F, np.array([0, 1]), np.array([1, 2**62])], {}),
    ],
    "Cast": [([F * 9], {"to": TensorProto.INT64}), ([I3], {"to": TensorProto.FLOAT})],
    "Add": [([F, F[0]], {}), ([I3, np.array(2)], {})],
    "Sub": [([F, F[0]], {})],
    "Mul": [([F, F[0]], {})],
    "Div": [([F, F[0]], {}), ([I3, np.array(2)], {}), ([I3, np.array(-2)], {})],
    "Mod": [
        ([I3, np.array(3)], {}),
        ([I3, np.array(-3)], {}),
        ([I3, np.array(3)], {"fmod": 1}),
        ([F, np.float32(0.3)], {"fmod": 1}),
    ],
    "Neg": [([F], {})],
    "Floor": [([F * 3], {})],
    "Ceil": [([F * 3], {})],
    "Sqrt": [([np.abs(F)], {})],
    "Min": [([F, F[0], np.float32(0)], {})],
    "Max": [([F, F[0], np.float32(0)], {}), ([F], {})],
    "Equal": [([I3, np.array([7, 0, 5])], {})],
    "Clip": [
        ([F, np.array(0, np.float32), np.array(0.5, np.float32)], {}),
        ([F, np.array(0.5, np.float32), np.array(0, np.float32)], {}),
    ],
    "OneHot": [
        ([np.array([1, -1, 5]), np.array(3), np.float32([0, 2])], {}),
        ([np.array([[1, 0]]), np.array(2), np.float32([1, 0])], {"axis": 0}),
    ],
    "Less": [([F, F[0]], {})],
    "Greater": [([F, F[0]], {})],
    "Not": [([F > 0], {})],
    "And": [([F > 0, F[0] > 0], {})],
    "Or": [([F > 0, F[0] > 0], {})],
    "Where": [([F > 0, F, np.float32(7)], {})],
    "Expand": [([F[:, :1], np.array([2, 1, 3, 4])], {}), ([F, np.array([1])], {})],
    "ConstantOfShape": [
        ([np.array([2, 3])], {}),
        ([np.array([2])], {"value": np.array([5], np.int64)}),
        ([np.array([], np.int64)], {"value": np.array([5], np.int64)}),
    ],
    "Range": [
        ([np.array(2), np.array(11), np.array(3)], {}),
        ([np.array(5), np.array(-5), np.array(-2)], {}),
        ([np.float32(0), np.float32(1), np.float32(0.25)], {}),
    ],
    "ReduceProd": [([I3, np.array([0])], {"keepdims": 0})],
    "ReduceSum": [
        ([F, np.array([1])], {}),
        ([F], {"keepdims": 0}),
        ([F], {"noop_with_empty_axes": 1}),
    ],
    "ReduceMax": [([F, np.array([0, -1])], {"keepdims": 0})],
    "ReduceMin": [([F, np.array([0, -1])], {})],
}


def test_every_fold_has_a_case() -> None:
    assert set(FOLDS) == set(FOLD)


@pytest.mark.parametrize("op", FOLDS)
def test_fold(op: str) -> None:
    for arrays, attributes in FOLDS[op]:
        names = [f"i{k}" for k in range(len(arrays))]
        given = dict(attributes)
        if "value" in given:
            given["value"] = numpy_helper.from_array(given["value"])
        node = helper.make_node(op, names, ["o"], **given)
        held = [
            numpy_helper.from_array(np.asarray(a), n) for n, a in zip(names, arrays, strict=True)
        ]
        graph = helper.make_graph([node], "g", [], [onnx.ValueInfoProto(name="o")], held)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        (want,) = models.session(proto).run(None, {})
        got = fold(op, arrays, attributes)
        assert got is not None, (op, attributes)
        assert got.dtype == want.dtype and got.shape == want.shape
        assert np.allclose(got, want, rtol=1e-6, atol=1e-6), (op, attributes)


def test_what_cannot_be_folded_is_left_alone() -> None:
    assert fold("Conv", [F, F], {}) is None
    assert fold("Reshape", [F, np.array([5, 5])], {}) is None
    assert fold("Gather", [F, np.array([99])], {}) is None
    assert fold("ConstantOfShape", [np.array([10**6, 10**6])], {}) is None
    assert fold("Expand", [F, np.array([10**6, 2, 3, 4])], {}) is None
    assert fold("Range", [np.array(0), np.array(10**12), np.array(1)], {}) is None
    assert fold("Range", [np.array(0), np.array(5), np.array(0)], {}) is None
    assert fold("Mul", [F], {}) is None
    assert MOST_BYTES < 1 << 24


# Shapes.

FILES = [
    ("tiny_vit", "ts17.onnx"),
    ("tiny_vit", "dy20.onnx"),
    ("tiny_convnext", "dy18.onnx"),
    ("tiny_inception", "ts17.onnx"),
    ("tiny_densenet", "ts17_bn.onnx"),
]


@pytest.mark.parametrize(("name", "file"), FILES)
def test_shapes_are_what_the_run_gives(goldens: Path, name: str, file: str) -> None:
    classifier = models.golden_classifier(name, file)
    image = classifier.image
    proto = classifier.model.complete()
    tensors = [o for n in proto.graph.node for o in n.output if o]
    for batch in (1, 2, 3):
        shape = image.shape(batch)
        found = static_shapes(classifier.model, {image.name: shape})
        values = run(proto, {image.name: images(*shape)}, tensors)
        for tensor, value in zip(tensors, values, strict=True):
            assert found.shapes[tensor] == value.shape, tensor
            assert found.dtypes[tensor] == value.dtype, tensor
            if tensor in found.values and value.dtype.kind in "iub":
                assert (found.values[tensor] == value).all(), tensor
        for node in classifier.graph().nodes:  # the marks hold for any batch
            for t in node.outputs:
                want = dict(zip(tensors, values, strict=True))[t.name].shape
                assert bound(t.shape, batch) == want, t.name
    assert len(golden_index()) == 11


def test_marks() -> None:
    assert marked((1, 3, 4), (2, 3, 4)) == ["N", 3, 4]
    assert marked((6, 4), (12, 4)) == ["6N", 4]
    assert marked((3, 1), (3, 2)) == [3, "N"]
    assert marked((3,), (3,)) == [3]
    for one, two in (((1, 2), (2, 4)), ((1,), (2, 1)), ((4,), (5,))):
        with pytest.raises(ValueError, match="at batch 2"):
            marked(one, two)


def test_shapes_of_foreign_operators_are_probed() -> None:
    """com.microsoft operators have no inference in onnx: one run tells."""
    proto = models.model(
        "p = Conv(x, w) a = com.microsoft.Gelu(p) g = GlobalAveragePool(a) f = Flatten(g)"
        " y = MatMul(f, v)",
        {"w": weight(6, 3, 3, 3), "v": weight(6, 4)},
        "float[N,3,8,8] x",
        "float[N,4] y",
        imports=', "com.microsoft" : 1',
    )
    found = load(proto)
    assert found.default.tensor == "a" and found.default.grid == (6, 6)
    (a,) = [t for n in found.graph().nodes for t in n.outputs if t.name == "a"]
    assert a.shape == ["N", 6, 6, 6]


# Memory.


def test_peak_bytes() -> None:
    """x (100 floats) → a, b, c: two are alive at once, then the sum of both and a third."""
    proto = models.model(
        "a = Relu(x) b = Neg(a) c = Add(a, b) d = Exp(c) y = ReduceSum <keepdims = 0> (d, i)",
        {"i": np.array([1])},
        "float[N,100] x",
        "float[N] y",
    )
    held = Model(proto, {})
    every = {"a", "b", "c", "d", "y"}
    assert peak_bytes(held, every) == 3 * 400  # a, b and c at once
    assert peak_bytes(held, {"a", "c"}) == 2 * 400
    assert peak_bytes(held, {"b"}) == 400
    assert peak_bytes(held, {"y"}) == 4
    assert peak_bytes(held, set()) == 0


def test_peak_bytes_where_sizes_are_computed_in_floats() -> None:
    """As TorchScript writes DINOv2: without help a tensor of unknown shape counts for nothing."""
    proto = models.model(
        "s = Shape(x) f = Cast <to = 1> (s) r = Log(f) q = Exp(r) t = Cast <to = 7> (q)"
        "a = Reshape(x, t) y = Relu(a)",
        {},
        "float[N,100] x",
        "float[N,100] y",
    )
    held = Model(proto, {})
    assert peak_bytes(held, {"a", "y"}) < 100
    assert peak_bytes(held, {"a", "y"}, {"a": (1, 100)}) == 2 * 400


# Narrowing.

TAILS: dict[str, tuple[str, dict[str, np.ndarray], bool]] = {
    # name: (nodes from a (N, 6, 4, 4) to y, weights, whether the choice moves above the last layer)
    "gemm": ("f = Flatten(a) y = Gemm(f, v, c)", {"v": weight(96, 5), "c": weight(5)}, True),
    "gemm, transposed": (
        "f = Flatten(a) y = Gemm <transB = 1> (f, v)", {"v": weight(5, 96)}, True),
    "gemm with alpha": (
        "f = Flatten(a) y = Gemm <alpha = 0.5> (f, v, c)", {"v": weight(96, 5), "c": weight(5)},
        False),
    "gemm with one bias": (
        "f = Flatten(a) y = Gemm(f, v, c)", {"v": weight(96, 5), "c": weight(1)}, True),
    "matmul and bias": (
        "f = Flatten(a) m = MatMul(f, v) y = Add(m, c)", {"v": weight(96, 5), "c": weight(5)},
        True),
    "bias first": (
        "f = Flatten(a) m = MatMul(f, v) y = Add(c, m)", {"v": weight(96, 5), "c": weight(1, 5)},
        True),
    "class maps and a global mean": (
        "m = Conv(a, v, c) r = Relu(m) g = GlobalAveragePool(r) y = Flatten(g)",
        {"v": weight(5, 6, 1, 1), "c": weight(5)}, True),
    "class maps and a pool of their size": (
        "m = Conv(a, v) r = LeakyRelu <alpha = 0.2> (m) g = AveragePool <kernel_shape = [4, 4]> (r)"
        " y = Reshape(g, s)", {"v": weight(5, 6, 1, 1), "s": np.array([0, -1])}, True),
    "class maps and a smaller pool": (
        "m = Conv(a, v) g = AveragePool <kernel_shape = [2, 2], strides = [4, 4]> (m)"
        " y = Flatten(g)", {"v": weight(5, 6, 1, 1)}, False),
    "class maps, padded": (
        "m = Conv <pads = [1, 1, 1, 1]> (a, v) g = GlobalAveragePool(m) y = Flatten(g)",
        {"v": weight(5, 6, 1, 1)}, False),
    "class maps and a width of as many classes": (
        "q = Conv(a, w) t = Concat <axis = 3> (q, q) s1 = Slice(t, b, e, i) m = Conv(s1, v)"
        " h = Add(m, c) g = GlobalAveragePool(h) y = Flatten(g)",
        {"w": weight(6, 6, 1, 1), "v": weight(5, 6, 1, 1), "c": weight(5),
         "b": np.array([0]), "e": np.array([5]), "i": np.array([3])}, False),
    "a kernel over the whole map": (
        "m = Conv(a, v) y = Flatten(m)", {"v": weight(5, 6, 4, 4)}, True),
    "grouped": (
        "q = Conv(a, w) m = Conv <group = 5> (q, v) g = GlobalAveragePool(m) y = Flatten(g)",
        {"w": weight(5, 6, 1, 1), "v": weight(5, 1, 1, 1)}, False),
    "squeezed": (
        "g = GlobalAveragePool(a) m = Conv(g, v, c) y = Squeeze(m, s)",
        {"v": weight(5, 6, 1, 1), "c": weight(5), "s": np.array([2, 3])}, True),
    "rectified and shifted": (
        "f = Flatten(a) m = MatMul(f, v) r = Relu(m) h = Add(r, one) y = Sigmoid(h)",
        {"v": weight(96, 5), "one": np.array([1], np.float32)}, True),
    "a softmax": ("f = Flatten(a) m = MatMul(f, v) y = Softmax(m)", {"v": weight(96, 5)}, False),
    "scaled": (
        "f = Flatten(a) m = MatMul(f, v) y = Mul(m, c)", {"v": weight(96, 5), "c": weight(5)},
        False),
    "weights that are computed": (
        "f = Flatten(a) w = Neg(v) y = MatMul(f, w)", {"v": weight(96, 5)}, False),
}  # fmt: skip


@pytest.mark.parametrize("name", TAILS)
def test_narrow(name: str) -> None:
    """The scores of chosen classes are those of all, picked; in any order, also repeated."""
    tail, weights, moved = TAILS[name]
    proto = models.model(
        f"p = Conv(x, k) a = Sigmoid(p) {tail}",
        {**weights, "k": weight(6, 3, 3, 3)},
        "float[N,3,6,6] x",
    )
    classifier = load(proto, output="y")
    graph = classifier.graph()
    graph.outputs = []
    e = Emitter(graph)
    target = gs.Variable("target", np.dtype(np.int64), ["N", 3])
    graph.inputs.append(target)
    full = graph.tensors()["y"]
    chosen = narrow(e, full, target, 3)
    chosen.dtype = np.dtype(np.float32)
    graph.outputs = [chosen]
    graph.toposort()
    part = extract(graph, ["x", "target"], [chosen.name], classifier.model)
    x = images(3, 3, 6, 6)
    classes = np.array([[4, 0, 0], [1, 2, 3], [3, 3, 1]])
    (y,) = run(proto, {"x": x})
    (got,) = run(part.complete(), {"x": x, "target": classes})
    close(got, np.take_along_axis(y, classes, 1), tolerance=2e-6)
    assert chosen.shape == ["N", 3]
    assert moved == ("GatherElements" not in {n.op_type for n in part.proto.graph.node})


# Models and their weights.


def big() -> onnx.ModelProto:
    weights = {"w": weight(6, 3, 3, 3), "v": weight(216, 64), "o": weight(64, 4)}
    return models.model(
        "p = Conv(x, w) a = Relu(p) f = Flatten(a) h = Gemm(f, v) r = Relu(h) y = Gemm(r, o)",
        weights,
        "float[N,3,8,8] x",
        "float[N,4] y",
    )


def test_a_model_beyond_the_limit_of_a_message(tmp_path: Path, monkeypatch: Any) -> None:
    """Beyond 2 GiB (here: 1 KB) the weights go into a second file, which anyone can read."""
    held = load(big()).model
    assert list(held.files("m.onnx")) == ["m.onnx"]
    monkeypatch.setattr(graph_model, "_PROTO_LIMIT", 1000)
    with pytest.raises(ModelError, match="2 GiB"):
        held.complete()
    files = held.files("m.onnx")
    assert list(files) == ["m.onnx.data", "m.onnx"]
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.undo()
    x = images(2, 3, 8, 8)
    (want,) = run(big(), {"x": x})
    onnx.checker.check_model(tmp_path / "m.onnx")
    (got,) = models.session(tmp_path / "m.onnx").run(None, {"x": x})
    close(got, want, tolerance=1e-6)
    close(onnxcam.Explainer(tmp_path / "m.onnx", provider="cpu")(x).scores, want, tolerance=1e-6)


def test_weights_are_shared_not_copied() -> None:
    classifier = load(big())
    features, head = onnxcam.graph.split(classifier)
    assert head.weights["v"] is classifier.model.weights["v"]
    assert "v" not in features.weights
    again = to_model(to_graph(classifier.model), classifier.model)
    assert again.weights["v"] is classifier.model.weights["v"]


def test_small_constants_stay_in_the_graph() -> None:
    edge = graph_weights.INLINE_BYTES // 4
    small = constant("s", np.zeros(edge, np.float32))
    large = constant("l", np.zeros(edge + 1, np.float32))
    assert isinstance(small._values, np.ndarray) and not isinstance(large._values, np.ndarray)
    assert array_of(large).shape == (edge + 1,)
    assert array_of(gs.Variable("v")) is None


def test_metadata_and_versions_are_kept() -> None:
    proto = tiny(opset=9, ir=4)
    proto.metadata_props.add(key="labels", value="a,b")
    classifier = load(proto)
    assert classifier.source.metadata == {"labels": "a,b"}
    assert classifier.model.metadata["labels"] == "a,b"
    assert classifier.model.proto.ir_version >= 8


# Files read past their weights.


def refilled(content: bytes, least: int) -> onnx.ModelProto:
    light, spans = skim(memoryview(content), least)
    proto = onnx.ModelProto.FromString(light)
    for i, span in spans.items():
        assert not proto.graph.initializer[i].raw_data and span.length >= least
        proto.graph.initializer[i].raw_data = content[span.start : span.start + span.length]
    return proto


@pytest.mark.parametrize("least", [1, 64, 700, 10**9])
def test_skim_and_refill(least: int) -> None:
    for proto in (tiny(), big(), models.model("y = Relu(x)", {}, "float[1,5] x", "float[1,5] y")):
        content = proto.SerializeToString()
        assert refilled(content, least) == proto
    content = (LIGHT / "light_squeezenet.onnx").read_bytes()
    assert refilled(content, least) == onnx.ModelProto.FromString(content)
    light, spans = skim(memoryview(big().SerializeToString()), 700)
    assert len(spans) == 2 if least == 700 else spans
    assert len(light) < 2000


def test_skim_refuses_what_is_no_message() -> None:
    content = big().SerializeToString()
    for cut in (1, 3, 50, 1000, len(content) - 1):
        with pytest.raises(Malformed):
            skim(memoryview(content[:cut]), 64)
    for other in (
        b"\xff" * 40,
        b"\x0b",
        b"\x00\x00",
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    ):
        with pytest.raises(Malformed):
            skim(memoryview(other), 64)
    with pytest.raises(Malformed, match="two graphs"):
        skim(memoryview(content + content), 64)


def test_a_message_in_an_unusual_order() -> None:
    """Fields may come in any order, and the graph's fields too: weights before nodes."""
    proto = big()
    pieces = []
    for field in ("initializer", "output", "input", "node"):
        part = onnx.GraphProto()
        getattr(part, field).extend(getattr(proto.graph, field))
        pieces.append(part.SerializeToString())
    inner = b"".join([*pieces, onnx.GraphProto(name="g").SerializeToString()])
    outer = onnx.ModelProto()
    outer.CopyFrom(proto)
    outer.ClearField("graph")
    length = bytearray()
    left = len(inner)
    while left > 127:
        length.append(left & 127 | 128)
        left >>= 7
    length.append(left)
    content = b"\x3a" + bytes(length) + inner + outer.SerializeToString()
    assert refilled(content, 64) == onnx.ModelProto.FromString(content)
    x = images(2, 3, 8, 8)
    close(onnxcam.Explainer(content, provider="cpu")(x).scores, run(proto, {"x": x})[0])
