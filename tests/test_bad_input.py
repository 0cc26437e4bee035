"""Files that are broken, hostile, or no classifiers: one clear line, never another exception."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper
from PIL import Image

import models
from models import LIGHT, images, tiny, weight
from onnxcam import Explainer, LayerError, ModelError, OnnxcamError, OptionError, TargetError, load
from onnxcam.errors import OpError, RuntimeFailure


def one_line(error: BaseException) -> None:
    text = str(error)
    assert text and "\n" not in text and len(text) < 600, text
    assert "Traceback" not in text and "object at 0x" not in text


def refused(source: Any, match: str, kind: type[OnnxcamError] = ModelError, **options: Any) -> None:
    """Asserts that loading, or explaining, is refused with one line that matches."""
    with pytest.raises(kind, match=match) as caught:
        Explainer(source, provider="cpu", **options)
    one_line(caught.value)


# What is no ONNX file at all.


def test_no_file(tmp_path: Path) -> None:
    refused(tmp_path / "none.onnx", r"there is no file .*none\.onnx; check the path")


def test_a_folder(tmp_path: Path) -> None:
    refused(tmp_path, "is a folder; give the .onnx file inside it")


def test_a_file_as_a_folder(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"x")
    refused(tmp_path / "m.onnx" / "m.onnx", "cannot read|there is no file")


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"")
    refused(tmp_path / "m.onnx", "is empty; export or download the model again")


def test_empty_bytes_and_an_empty_message() -> None:
    refused(b"", "empty")
    refused(ModelProto(), "empty")


@pytest.mark.parametrize("name", ["m\0.onnx", "a" * 5000, ""])
def test_odd_paths(name: str) -> None:
    refused(name, ".")


def jpeg() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(stream, "JPEG")
    return stream.getvalue()


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02")
    return stream.getvalue()


OTHERS = {
    "JPEG picture": jpeg(),
    "zip archive": zipped(),
    "HDF5 file": b"\x89HDF\r\n\x1a\n" + bytes(64),
    "PNG picture": b"\x89PNG\r\n\x1a\n" + bytes(64),
    "JSON file": b'{"model": 1}',
    "TensorFlow Lite": b"\x1c\0\0\0TFL3" + bytes(64),
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n",
    "no ONNX model": b"hello, world\n" * 9,
    "(no ONNX model|no graph)": bytes(1000),
}


@pytest.mark.parametrize("what", OTHERS)
def test_other_files(tmp_path: Path, what: str) -> None:
    (tmp_path / "m.onnx").write_bytes(OTHERS[what])
    refused(tmp_path / "m.onnx", what)
    refused(OTHERS[what], what)


# Damaged files. Whatever happens, it is an OnnxcamError, or the model still works.


@cache
def real() -> bytes:
    """A small real model: 4 KB of graph, weights made by ConstantOfShape."""
    return (LIGHT / "light_bvlc_alexnet.onnx").read_bytes()


@cache
def little() -> bytes:
    return tiny().SerializeToString()


def survives(content: bytes, x: np.ndarray) -> str:
    """Loads and explains; the error as one line, or "" if it worked."""
    try:
        explainer = Explainer(content, provider="cpu", threads=1)
        image = explainer.classifier.image
        if np.prod(image.shape(), dtype=np.float64) > 1e6:
            return ""
        explainer(np.resize(x, image.shape(1)).astype(image.dtype))
    except OnnxcamError as error:
        one_line(error)
        return str(error)
    return ""


X = images(1, 3, 8, 8)


@pytest.mark.parametrize("part", range(1, 40))
def test_truncated(part: int) -> None:
    content = real()[: len(real()) * part // 40]
    assert survives(content, X)
    assert survives(little()[: len(little()) * part // 40], X)


@settings(max_examples=60)
@given(st.binary(min_size=1, max_size=300))
@example(b"\x08\x07")
@example(b"\x3a\x00")
@example(b"\x3a\x02\x0a\x00")
def test_random_bytes(content: bytes) -> None:
    assert survives(content, X)


@settings(max_examples=200)
@given(st.data())
def test_flipped_bits(data: st.DataObject) -> None:
    content = bytearray(little())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    survives(bytes(content), X)


def structural() -> list[int]:
    """Positions of a small model that do not lie in the data of its weights."""
    content = little()
    held = set()
    for tensor in tiny().graph.initializer:
        start = content.index(tensor.raw_data)
        held |= set(range(start, start + len(tensor.raw_data)))
    return [i for i in range(len(content)) if i not in held]


@settings(max_examples=200)
@given(st.sampled_from(structural()), st.integers(0, 255))
def test_changed_structure(at: int, byte: int) -> None:
    content = bytearray(little())
    content[at] = byte
    survives(bytes(content), X)


# Models that are no image classifiers.


def graph(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, Any],
    outputs: dict[str, Any],
    weights: dict[str, np.ndarray] | None = None,
    opsets: dict[str, int] | None = None,
) -> ModelProto:
    def infos(tensors: dict[str, Any]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in tensors.items()]

    held = [numpy_helper.from_array(a, n) for n, a in (weights or {}).items()]
    made = helper.make_graph(nodes, "g", infos(inputs), infos(outputs), held)
    imports = [helper.make_opsetid(d, v) for d, v in (opsets or {"": 18}).items()]
    return helper.make_model(made, opset_imports=imports, ir_version=8)


def test_no_picture() -> None:
    weights = {"v": weight(8, 4)}
    body = "f = Relu(x) y = MatMul(f, v)"
    refused(models.model(body, weights, "float[N,8] x", "float[N,4] y"), "no image input.*'x'")


def test_a_picture_without_batch_that_is_flattened() -> None:
    body = "f = Flatten <axis = 0> (x) y = MatMul(f, v)"
    proto = models.model(body, {"v": weight(192, 4)}, "float[3,8,8] x", "float[1,4] y")
    refused(proto, "no spatial feature map")


def test_a_dense_network_has_no_map() -> None:
    body = "f = Flatten(x) h = MatMul(f, w) r = Relu(h) y = MatMul(r, v)"
    weights = {"w": weight(192, 8), "v": weight(8, 4)}
    proto = models.model(body, weights, "float[N,3,8,8] x", "float[N,4] y")
    refused(proto, "no spatial feature map.*--layer")


def test_a_segmenter() -> None:
    proto = models.model(
        "p = Conv(x, w) r = Relu(p) y = Conv(r, v)",
        {"w": weight(6, 3, 1, 1), "v": weight(4, 6, 1, 1)},
        "float[N,3,8,8] x",
        "float[N,4,8,8] y",
    )
    refused(proto, r"shape \('?N'?, 4, 8, 8\): no single axis of classes.*--output")


def test_a_detector() -> None:
    proto = models.model(
        "p = Conv(x, w) b = Conv(x, w) r = Reshape(p, s) q = Reshape(b, s)",
        {"w": weight(6, 3, 1, 1), "s": np.array([0, 64, 6])},
        "float[N,3,8,8] x",
        "float[N,64,6] r, float[N,64,6] q",
    )
    refused(proto, "class|scores")


def test_a_regressor_of_one_number_is_explained() -> None:
    """One output is a class axis of one: the only score is the target."""
    proto = tiny(classes=1)
    found = Explainer(proto, provider="cpu")(X)
    assert found.scores.shape == (1, 1) and (found.target == 0).all()


def test_a_sequence_model() -> None:
    proto = models.model(
        "e = Gather(table, ids) y = MatMul(e, v)",
        {"table": weight(100, 8), "v": weight(8, 4)},
        "int64[N,L] ids",
        "float[N,L,4] y",
    )
    refused(proto, "no image input")


def test_an_input_that_is_a_sequence() -> None:
    proto = tiny()
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, [1, 3, 8, 8]))
    proto.graph.input[0].CopyFrom(helper.make_value_info("x", kind))
    refused(proto, "image input|sequence|no ")


def test_scores_that_do_not_see_the_picture() -> None:
    proto = models.model(
        "p = Conv(x, w) a = Relu(p) y = Identity(c)",
        {"w": weight(6, 3, 1, 1), "c": weight(1, 4)},
        "float[N,3,8,8] x",
        "float[N,4] y",
    )
    refused(proto, "does not depend on the image|image")


# Operators that nobody knows.


def with_op(op: str, domain: str = "", version: int = 1) -> ModelProto:
    proto = tiny()
    at = next(i for i, n in enumerate(proto.graph.node) if n.op_type == "Relu")
    proto.graph.node[at].op_type = op
    proto.graph.node[at].domain = domain
    proto.graph.node[at].name = "the_node"
    if domain:
        proto.opset_import.add(domain=domain, version=version)
    return proto


@pytest.mark.parametrize(
    ("op", "domain"),
    [("Nonexistent", ""), ("Fancy", "my.company"), ("Nonexistent", "com.microsoft")],
)
def test_unknown_operators(op: str, domain: str) -> None:
    with pytest.raises(OnnxcamError, match=op) as caught:
        Explainer(with_op(op, domain), provider="cpu")(X)
    one_line(caught.value)
    assert isinstance(caught.value, OpError | ModelError)
    assert "the_node" in str(caught.value) or op in str(caught.value)


def test_a_domain_that_is_not_imported() -> None:
    proto = with_op("Fancy", "my.company")
    del proto.opset_import[1:]
    with pytest.raises(OnnxcamError) as caught:
        Explainer(proto, provider="cpu")(X)
    one_line(caught.value)


def test_an_opset_of_the_future() -> None:
    proto = tiny(opset=18)
    proto.opset_import[0].version = 999
    with pytest.raises(OnnxcamError) as caught:
        Explainer(proto, provider="cpu")(X)
    one_line(caught.value)


def test_an_image_scaler_without_its_attribute() -> None:
    """It then scales by 1 and adds nothing."""
    proto = tiny()
    plain = Explainer(proto, provider="cpu")(X)
    node = helper.make_node("ImageScaler", ["x"], ["x1"])
    proto.graph.node[0].input[0] = "x1"
    proto.graph.node.insert(0, node)
    found = Explainer(proto, provider="cpu")(X)
    assert np.array_equal(found.scores, plain.scores)


# Hostile sizes.


def limited(code: str, megabytes: int = 3000) -> str:
    """Runs `code` in an interpreter of its own that may have only so much memory."""
    lines = [
        "import resource, sys",
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})",
        "import models, numpy as np, onnx",
        "from onnxcam import Explainer, OnnxcamError",
        f"resource.setrlimit(resource.RLIMIT_AS, ({megabytes} << 20, {megabytes} << 20))",
        code,
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


HUGE = """
proto = models.model({body!r}, {{
    "w": models.weight(6, 3, 1, 1), "v": models.weight(6, 4), "big": np.array({size})
}}, "float[N,3,8,8] x", "float[N,4] y")
try:
    Explainer(proto, provider="cpu")(models.images(1, 3, 8, 8))
    print("worked")
except OnnxcamError as error:
    print(type(error).__name__, str(error))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is enforced on Linux")
@pytest.mark.parametrize(
    ("body", "size"),
    [
        (
            "p = Conv(x, w) c = ConstantOfShape(big) m = ReduceMean <keepdims = 0> (c)"
            " q = Add(p, m) a = Relu(q) g = GlobalAveragePool(a) f = Flatten(g) y = MatMul(f, v)",
            [1000000, 1000000],
        ),
        (
            "p = Conv(x, w) a = Relu(p) e = Expand(a, big) m = ReduceMax(e)"
            " q = Add(a, m) g = GlobalAveragePool(q) f = Flatten(g) y = MatMul(f, v)",
            [1000000, 1, 1, 1000, 1, 1],
        ),
        (
            "p = Conv(x, w) a = Relu(p) t = Tile(a, big) g = GlobalAveragePool(t)"
            " f = Flatten(g) y = MatMul(f, v)",
            [1, 1, 100000, 100000],
        ),
    ],
)
def test_huge_tensors_computed(body: str, size: list[int]) -> None:
    out = limited(HUGE.format(body=body, size=size))
    assert re.match("(ModelError|RuntimeFailure|OpError) ", out), out
    assert len(out.splitlines()) == 1


def test_a_weight_with_less_data_than_its_shape() -> None:
    for dims in ([6, 3, 3, 4], [6, 3], [10**6, 10**6], [2**62, 4], [-1, 3], [6, 3, 3, 3, 2**40]):
        proto = tiny()
        tensor = proto.graph.initializer[0]
        tensor.dims[:] = dims
        with pytest.raises(OnnxcamError, match=r"'w'|damaged|valid|refuses") as caught:
            Explainer(proto, provider="cpu")(X)
        one_line(caught.value)


@pytest.mark.parametrize("kind", [0, 99, TensorProto.STRING, TensorProto.INT4])
def test_a_weight_of_another_type_than_its_data(kind: int) -> None:
    proto = tiny()
    proto.graph.initializer[0].data_type = kind
    with pytest.raises(OnnxcamError) as caught:
        Explainer(proto, provider="cpu")(X)
    one_line(caught.value)


def test_a_huge_picture() -> None:
    proto = tiny(size=10**6)
    with pytest.raises(OnnxcamError) as caught:
        Explainer(proto, provider="cpu")(X)
    one_line(caught.value)


# Graphs that are no graphs.


def relinked(edit: Callable[[onnx.GraphProto], None]) -> ModelProto:
    proto = tiny()
    edit(proto.graph)
    return proto


def cycle(g: onnx.GraphProto) -> None:
    g.node[0].input[0] = "a"


def self_loop(g: onnx.GraphProto) -> None:
    g.node[1].input[0] = "a"


def dangling(g: onnx.GraphProto) -> None:
    g.node[1].input[0] = "nobody"


def twice(g: onnx.GraphProto) -> None:
    g.node.add().CopyFrom(g.node[1])


def no_output(g: onnx.GraphProto) -> None:
    del g.output[:]


def unknown_output(g: onnx.GraphProto) -> None:
    g.output[0].name = "nobody"


def no_input(g: onnx.GraphProto) -> None:
    del g.input[:]


def output_is_input(g: onnx.GraphProto) -> None:
    g.output[0].name = "x"


def node_without_output(g: onnx.GraphProto) -> None:
    del g.node[1].output[:]


def node_without_input(g: onnx.GraphProto) -> None:
    del g.node[1].input[:]


def weightless(g: onnx.GraphProto) -> None:
    del g.initializer[:]


def untyped_input(g: onnx.GraphProto) -> None:
    g.input[0].ClearField("type")


def string_input(g: onnx.GraphProto) -> None:
    g.input[0].type.tensor_type.elem_type = TensorProto.STRING


def empty_names(g: onnx.GraphProto) -> None:
    for node in g.node:
        node.output[:] = [""]


def zero_size(g: onnx.GraphProto) -> None:
    g.input[0].type.tensor_type.shape.dim[2].dim_value = 0


def negative_size(g: onnx.GraphProto) -> None:
    g.input[0].type.tensor_type.shape.dim[2].dim_value = -5


def wrong_channels(g: onnx.GraphProto) -> None:
    g.input[0].type.tensor_type.shape.dim[1].dim_value = 7


def wrong_weight_shape(g: onnx.GraphProto) -> None:
    g.initializer[2].CopyFrom(numpy_helper.from_array(weight(5, 4), "v"))


def bad_attribute(g: onnx.GraphProto) -> None:
    g.node[0].attribute[0].ints[:] = [1, 1]


def attribute_of_another_kind(g: onnx.GraphProto) -> None:
    g.node[0].attribute[0].CopyFrom(helper.make_attribute("pads", "same"))


@pytest.mark.parametrize(
    "edit",
    [
        cycle, self_loop, dangling, twice, no_output, unknown_output, no_input, output_is_input,
        node_without_output, node_without_input, weightless, untyped_input, string_input,
        empty_names, wrong_channels, wrong_weight_shape, bad_attribute, attribute_of_another_kind,
    ],
    ids=lambda edit: edit.__name__,
)  # fmt: skip
def test_broken_graphs(edit: Callable[[onnx.GraphProto], None]) -> None:
    with pytest.raises(OnnxcamError) as caught:
        Explainer(relinked(edit), provider="cpu")(X)
    one_line(caught.value)


@pytest.mark.parametrize("edit", [zero_size, negative_size], ids=lambda edit: edit.__name__)
def test_odd_sizes(edit: Callable[[onnx.GraphProto], None]) -> None:
    """Sizes below one mean an unknown size."""
    found = Explainer(relinked(edit), provider="cpu")(X)
    assert np.isfinite(found.weights).all()


def test_deeply_nested_subgraphs() -> None:
    """An If within an If within …: neither the stack nor the clock runs out."""

    same = helper.make_node("Identity", ["p"], ["same"])
    other = helper.make_graph(
        [same], "other", [], [helper.make_tensor_value_info("same", TensorProto.FLOAT, None)]
    )

    def branch(depth: int) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(f"o{depth}", TensorProto.FLOAT, None)
        node = helper.make_node("Identity", ["p"], ["o0"])
        if depth:
            node = helper.make_node(
                "If", ["yes"], [f"o{depth}"], then_branch=branch(depth - 1), else_branch=other
            )
        return helper.make_graph([node], f"b{depth}", [], [out])

    for depth in (1, 3, 20):
        proto = tiny()
        proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
        inner = branch(depth)
        at = next(i for i, n in enumerate(proto.graph.node) if n.op_type == "Relu")
        proto.graph.node[at].CopyFrom(
            helper.make_node("If", ["yes"], ["a"], then_branch=inner, else_branch=inner)
        )
        try:
            found = Explainer(proto, provider="cpu")(X)
            assert np.isfinite(found.map).all()
        except OnnxcamError as error:
            one_line(error)


def nested_message(depth: int) -> bytes:
    """A graph in an attribute in a node in a graph …, as bytes."""
    inner = b""
    for _ in range(depth):
        for tag in (b"\x32", b"\x2a", b"\x0a"):  # attribute.g, node.attribute, graph.node
            size, value = len(inner), b""
            while True:
                value += bytes([size & 127 | (128 if size > 127 else 0)])
                size >>= 7
                if not size:
                    break
            inner = tag + value + inner
    return inner


@pytest.mark.parametrize("depth", [20, 50, 5000])
def test_deeply_nested_messages(depth: int) -> None:
    inner = nested_message(depth)
    size, value = len(inner), b""
    while True:
        value += bytes([size & 127 | (128 if size > 127 else 0)])
        size >>= 7
        if not size:
            break
    refused(b"\x08\x08\x3a" + value + inner + b"\x42\x04\x0a\x00\x10\x12", ".", OnnxcamError)


# Numbers that are none.


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers(value: float) -> None:
    proto = tiny()
    array = weight(6, 3, 3, 3)
    array[2] = value
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, "w"))
    explainer = Explainer(proto, provider="cpu")
    with pytest.raises(RuntimeFailure, match="NaN or infinity as a score") as caught:
        explainer(X)
    one_line(caught.value)


def test_pictures_that_are_no_numbers() -> None:
    explainer = Explainer(tiny(), provider="cpu")
    x = X.copy()
    x[0, 0, 0, 0] = np.nan
    with pytest.raises(RuntimeFailure, match="NaN or infinity"):
        explainer(x)


def test_scores_that_only_switched_off_units_break() -> None:
    """log(Σ) is −inf when the only unit is off: said, not drawn."""
    proto = models.model(
        "p = Conv(x, w) a = Exp(p) g = GlobalAveragePool(a) l = Log(g) f = Flatten(l)"
        " y = MatMul(f, v)",
        {"w": weight(6, 3, 3, 3), "v": weight(6, 4)},
        "float[N,3,8,8] x",
        "float[N,4] y",
    )
    for mode in ({}, {"ablation": "literal"}, {"memory": 1}):
        with pytest.raises(RuntimeFailure, match="switched-off units are NaN or infinite"):
            Explainer(proto, layer="a", provider="cpu", **mode)(X)


# Calls that cannot be answered.


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer(tiny(), provider="cpu", class_names=["cat", "dog", "red fox", "eel"])


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((1, 3, 8, 9), np.float32),
        np.zeros((1, 1, 8, 8), np.float32),
        np.zeros((0, 3, 8, 8), np.float32),
        np.zeros((8, 8), np.float32),
        np.zeros((1, 1, 3, 8, 8), np.float32),
        np.zeros((1, 8, 8, 3), np.float32),
        np.float32(3),
        None,
        "picture.jpg",
        [[1, 2], [3]],
        np.array([["a"]]),
        np.zeros((1, 3, 8, 8), complex),
        np.zeros((1, 3, 8, 8), object),
        np.full((1, 3, 8, 8), "x"),
    ],
    ids=str,
)
def test_arrays_that_do_not_fit(explainer: Explainer, x: Any) -> None:
    with pytest.raises(ModelError, match=r"takes|images") as caught:
        explainer(x)
    one_line(caught.value)


@pytest.mark.parametrize(
    "target",
    [4, -1, -5, 10**30, "wolf", "top5", "top0", "topx", "", [0, 9], [], [[]], [0, 1, 2], 1.5, [0.5],
     {"a": 1}, [[0], [1]], True, np.zeros((1, 1, 1), int), [[0, 1], [2]]],
    ids=str,
)  # fmt: skip
def test_targets_that_do_not_exist(explainer: Explainer, target: Any) -> None:
    with pytest.raises(TargetError) as caught:
        explainer(X, target)
    one_line(caught.value)


def test_near_names_are_suggested(explainer: Explainer) -> None:
    with pytest.raises(TargetError, match="did you mean 'red fox'"):
        explainer(X, "red foxx")


@pytest.mark.parametrize(
    ("options", "kind", "match"),
    [
        ({"layer": "nope"}, LayerError, "no tensor or node 'nope'"),
        ({"layer": 9}, LayerError, "no feature map 9"),
        ({"layer": "f"}, LayerError, "shape"),
        ({"score": "logits"}, OptionError, "score is logit or probability"),
        ({"score": "probability"}, OptionError, "take 'logit'"),
        ({"ablation": "fast"}, OptionError, "ablation is exact or literal"),
        ({"method": "grad"}, OptionError, "no method 'grad'"),
        ({"units": []}, OptionError, "units"),
        ({"units": [6]}, OptionError, "units must be different numbers from 0 to 5"),
        ({"units": [-1]}, OptionError, "units"),
        ({"units": [1, 1]}, OptionError, "units"),
        ({"memory": -1}, OptionError, "memory"),
        ({"threads": -2}, OptionError, "threads"),
        ({"class_names": ["a"]}, OptionError, "1 class names.*4 classes"),
        ({"provider": "gpu"}, OptionError, "no provider 'gpu'"),
        ({"preset": "imagnet"}, OnnxcamError, "imagnet"),
        ({"weight": "x"}, OptionError, "weight"),
        ({"nothing": 1}, OptionError, "no option 'nothing'"),
    ],
    ids=str,
)
def test_options(options: dict[str, Any], kind: type[OnnxcamError], match: str) -> None:
    with pytest.raises(kind, match=match) as caught:
        Explainer(tiny(), **{"provider": "cpu", **options})
    one_line(caught.value)


def test_a_size_that_the_model_does_not_take() -> None:
    with pytest.raises(ModelError, match="takes images of 8×8, not 9×9"):
        load(tiny(), size=(9, 9))


def test_a_picture_too_small_for_a_model_of_any_size() -> None:
    """A free size that leaves nothing for the kernels."""
    explainer = Explainer(
        models.model(
            "p = Conv(x, w) m = MaxPool <kernel_shape = [5, 5], strides = [5, 5]> (p)"
            " a = Conv(m, k) r = Relu(a) g = GlobalAveragePool(r) f = Flatten(g) y = MatMul(f, v)",
            {"w": weight(6, 3, 3, 3), "k": weight(6, 6, 3, 3), "v": weight(6, 4)},
            "float[N,3,H,W] x",
            "float[N,4] y",
        ),
        provider="cpu",
    )
    assert explainer(images(1, 3, 40, 40)).map.shape == (1, 5, 5)
    for h, w in ((1, 1), (4, 4), (12, 12), (40, 2)):
        with pytest.raises(OnnxcamError) as caught:
            explainer(images(1, 3, h, w))
        one_line(caught.value)
