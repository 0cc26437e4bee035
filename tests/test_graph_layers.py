"""Which tensor is the feature map, and which the score: against what an expert would choose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import models
import onnxcam
from models import LIGHT, each_golden, golden_classifier, golden_index, weight
from onnxcam import LayerError, ModelError, load

# file → (feature map, its units and grid, score tensor). The choice is the last map before pooling,
# flattening or the class-wise convolution: rectified, after normalisation, residual sum, concat.
EXPERT = {
    # Relu after the fifth convolution; MaxPool and three dense layers follow.
    "light_bvlc_alexnet": ("r13", 256, (12, 12), "r24"),
    # Relu of the last BatchNormalization over the concatenated dense block.
    "light_densenet121": ("r907", 1024, (7, 7), "fc6_1"),
    # Concat of the four branches of inception 5b.
    "light_inception_v1": ("r137", 1024, (6, 6), "r143"),
    "light_inception_v2": ("r504", 1024, (7, 7), "r507"),
    # Relu of the last residual sum.
    "light_resnet50": ("r171", 2048, (7, 7), "r174"),
    "light_shufflenet": ("r198", 544, (7, 7), "r201"),
    # Concat of the last fire module: the convolution behind it has the classes as channels.
    "light_squeezenet": ("r60", 512, (13, 13), "r65"),
    # Relu of conv5_4, before pool5.
    "light_vgg19": ("r35", 512, (14, 14), "r46"),
    "light_zfnet512": ("r13", 512, (12, 12), "r20"),
    # The normalised (BatchNormalization between transposes) input of the last attention.
    "cifar10_vit_pgd_2_3_16": (
        "/1/1.1/1.1.0/fn/fn.0/Transpose_1_output_0",
        48,
        (2, 2),
        "output",
    ),
    "cifar10_winml_cnn_fc": ("43", 24, (10, 10), "modelOutput"),
    # Concat of the last fire module; GlobalAveragePool, Gemm and Sigmoid follow.
    "customvision_computer_multilabel": ("fire9_concat", 512, (14, 14), "fc"),
    # Dequantised ReLU6 of the last 1×1 convolution; ReLU6 became the quantiser's saturation.
    "imagenet_mobilenetv2-12-qdq": ("627", 1280, (7, 7), "output"),
    "imagenet_mobilenetv2_tf_nhwc_fp32": (
        "Relu6__90:0",
        1280,
        (7, 7),
        "MobilenetV2/Logits/Squeeze1_prequant",
    ),
    "imagenet_squeezenet1.1_fp32": (
        "squeezenet0_concat7",
        512,
        (13, 13),
        "squeezenet0_flatten0_reshape0",
    ),
    "imagenet_squeezenet_caffe2_fp16": ("fire9/concat_1", 512, (13, 13), "pool10_1"),
    "leafsnap30_cnn_fc": ("45", 42, (16, 16), "output"),
    "mnist-8_cntk": ("ReLU114_Output_0", 16, (14, 14), "Plus214_Output_0"),
    "demo_alexnet": ("features", 48, (12, 12), "logits"),
    "demo_residual": ("features", 96, (12, 12), "logits"),
    "demo_shortcut": ("features", 72, (12, 12), "logits"),
    "demo_vgg": ("features", 80, (12, 12), "logits"),
}


def right(path: Path) -> None:
    found = load(path)
    tensor, units, grid, score = EXPERT[path.stem]
    assert (found.default.tensor, found.score.logit) == (tensor, score)
    assert (found.default.units, found.default.grid) == (units, grid)
    assert found.default in found.maps
    assert found.batch is None


@pytest.mark.parametrize("name", [n for n in EXPERT if n.startswith("light")])
def test_light_models(name: str) -> None:
    right(LIGHT / f"{name}.onnx")


@pytest.mark.parametrize("name", [n for n in EXPERT if n.startswith("demo")])
def test_demo_models(root: Path, name: str) -> None:
    right(root / "models" / f"{name}.onnx")


SHARED = [n for n in EXPERT if not n.startswith(("light", "demo"))]


@pytest.mark.parametrize("name", SHARED)
def test_shared_models(shared_data: Path, name: str) -> None:
    right(next(shared_data.rglob(f"{name}.onnx")))


def test_no_model_is_forgotten(root: Path, shared_data: Path) -> None:
    paths = [*LIGHT.glob("*.onnx"), *shared_data.rglob("*.onnx"), *root.glob("models/*.onnx")]
    assert {p.stem for p in paths} == set(EXPERT)


@each_golden()
def test_goldens(goldens: Path, name: str, file: str) -> None:
    """Every export of a model gives the tensor that its author had in mind."""
    entry = golden_index()[name]["files"][file]
    found = golden_classifier(name, file)
    assert found.default.tensor in (entry["cam"], *entry["cam_aliases"])
    assert found.score.logit == entry["logits"]
    assert (found.score.probability or entry["logits"]) == entry["output"]
    assert found.classes == golden_index()[name]["num_classes"]
    layout = golden_index()[name]["layout"]
    assert found.default.prefix == layout.get("prefix_tokens", 0)
    assert found.default.layout == {"NKhw": "NCHW", "NTK": "NTC"}[layout["cam"]]
    stats = golden_index()[name]["A_stats"]["shape"]
    assert [found.default.units, *found.default.grid] == (
        [stats[1], *stats[2:]] if len(stats) == 4 else [stats[-1], *layout["grid"]]
    )


W = {
    "w": weight(6, 3, 3, 3),
    "k": weight(6, 6, 3, 3),
    "one": weight(6, 6, 1, 1),
    "v": weight(6, 5),
    "t": np.array([0, 6, 64]),
}
PAD = "<pads = [1, 1, 1, 1]>"


def chosen(body: str, **weights: np.ndarray) -> str:
    used = {k: v for k, v in {**W, **weights}.items() if k in body.replace("(", " ")}
    proto = models.model(body, used, inputs="float[N,3,8,8] x")
    return load(proto).default.tensor


@pytest.mark.parametrize(
    ("body", "tensor"),
    [
        # Names mean nothing: the last map is the one before pooling, whatever others are called.
        (f"features = Conv {PAD} (x, w) q = Relu(features) last = Conv {PAD} (q, k)"
         " z = Relu(last) g = GlobalAveragePool(z) f = Flatten(g) y = MatMul(f, v)", "z"),
        # Dropout and Identity after the activation are looked through.
        (f"c = Conv {PAD} (x, w) r = Relu(c) d = Dropout(r) i = Identity(d)"
         " g = GlobalAveragePool(i) f = Flatten(g) y = MatMul(f, v)", "r"),
        # A residual sum: what the sum's rectifier makes, not a branch of it.
        (f"c = Conv {PAD} (x, w) r = Relu(c) c2 = Conv {PAD} (r, k) s = Add(c2, r) r2 = Relu(s)"
         " g = GlobalAveragePool(r2) f = Flatten(g) y = MatMul(f, v)", "r2"),
        # Without a rectifier the sum itself.
        (f"c = Conv {PAD} (x, w) r = Relu(c) c2 = Conv {PAD} (r, k) s = Add(c2, r)"
         " g = GlobalAveragePool(s) f = Flatten(g) y = MatMul(f, v)", "s"),
        # The classes as channels: the map before that convolution.
        (f"c = Conv {PAD} (x, w) r = Relu(c) m = Conv(r, cls) q = Relu(m)"
         " g = GlobalAveragePool(q) y = Flatten(g)", "r"),
        # Squeeze and excite gates: the gated product, since the gate goes around the map.
        (f"c = Conv {PAD} (x, w) r = Relu(c) g0 = GlobalAveragePool(r) h = Conv(g0, one)"
         " s = Sigmoid(h) m = Mul(r, s) g = GlobalAveragePool(m) f = Flatten(g)"
         " y = MatMul(f, v)", "m"),
        # Pooling by ReduceMean, Resize before it.
        (f"c = Conv {PAD} (x, w) r = Relu(c) u = Resize(r, , scales) g = ReduceMean(u, hw)"
         " f = Flatten(g) y = MatMul(f, v)", "r"),
        # A transpose to NHWC before flattening.
        (f"c = Conv {PAD} (x, w) r = Relu(c) p = Transpose <perm = [0, 2, 3, 1]> (r)"
         " f = Flatten(p) y = MatMul(f, big)", "r"),
    ],
)  # fmt: skip
def test_rule(body: str, tensor: str) -> None:
    assert (
        chosen(
            body,
            cls=weight(5, 6, 1, 1),
            scales=np.array([1, 1, 2, 2], np.float32),
            hw=np.array([2, 3]),
            big=weight(384, 5),
        )
        == tensor
    )


def test_naming_a_layer() -> None:
    body = (
        f"c = Conv {PAD} (x, w) r = Relu(c) c2 = Conv {PAD} (r, k) r2 = Relu(c2)"
        " g = GlobalAveragePool(r2) f = Flatten(g) y = MatMul(f, v)"
    )
    proto = models.model(body, {k: W[k] for k in ("w", "k", "v")}, inputs="float[N,3,8,8] x")
    for i, node in enumerate(proto.graph.node):
        node.name = f"node{i}"
    found = load(proto)
    assert [m.tensor for m in found.maps] == ["c", "r", "c2", "r2"]
    assert found.layer().tensor == found.layer(-1).tensor == found.layer("r2").tensor == "r2"
    assert found.layer(-2).tensor == found.layer("-2").tensor == found.layer(2).tensor == "c2"
    assert found.layer("node1").tensor == "r"
    assert found.layer("c").grid == (8, 8) and found.layer("c").units == 6
    assert all(m.reason and m.node for m in found.maps)
    cases = {
        4: r"no feature map 4.*has 4",
        "-9": "no feature map -9",
        "r3": r"no tensor or node 'r3' in the model \(did you mean 'r', 'r2'\?\)",
        "f": r"'f' has shape \(N, 6\)",
        "g": "'g' has shape",
        "w": "'w' does not lie between the image and the score",
        "x": "'x' does not lie between the image and the score",
    }
    for name, message in cases.items():
        with pytest.raises(LayerError, match=message):
            found.layer(name)


def test_a_tensor_number_as_name_wins_over_the_position() -> None:
    """Exports of old PyTorch name tensors by numbers."""
    proto = models.tiny()
    for node in proto.graph.node:
        for names in (node.input, node.output):
            names[:] = ["7" if n == "p" else n for n in names]
    found = load(proto)
    assert found.layer("7").tensor == "7"
    assert found.layer(7).tensor == "7"
    assert found.layer(-1).tensor == "a"


def test_a_layer_that_does_not_lead_to_the_score() -> None:
    body = (
        f"c = Conv {PAD} (x, w) r = Relu(c) g = GlobalAveragePool(r) f = Flatten(g)"
        f" y = MatMul(f, v) side = Conv {PAD} (r, k)"
    )
    proto = models.model(
        body,
        {k: W[k] for k in ("w", "k", "v")},
        inputs="float[N,3,8,8] x",
        outputs="float[N,5] y, float[N,6,8,8] side",
    )
    found = load(proto, output="y")
    with pytest.raises(LayerError, match="side"):
        found.layer("side")


def test_a_map_that_no_cut_is_can_still_be_named() -> None:
    """Two branches from the picture to the score: neither is on every path, both are maps."""
    body = (
        f"c = Conv {PAD} (x, w) r = Relu(c) g = GlobalAveragePool(r) d = Conv {PAD} (x, w)"
        " s = Sigmoid(d) h = GlobalMaxPool(s) q = Add(g, h) f = Flatten(q) y = MatMul(f, v)"
    )
    proto = models.model(body, {k: W[k] for k in ("w", "v")}, inputs="float[N,3,8,8] x")
    assert load(proto).layer("r").tensor == "r"
    with pytest.raises(ModelError, match="--layer"):
        load(proto).layer()


@pytest.mark.parametrize(
    ("tail", "score"),
    [
        ("o = Softmax(y)", ("y", "o", "softmax")),
        ("o = Sigmoid(y)", ("y", "o", "sigmoid")),
        ("o = LogSoftmax(y)", ("y", "o", "log-softmax")),
        ("p = Softmax(y) o = Identity(p)", ("y", "o", "softmax")),
        ("p = Softmax(y) q = Cast <to = 11> (p) o = Cast <to = 1> (q)", ("y", "o", "softmax")),
        ("o = Identity(y)", ("o", None, None)),
        ("o = Relu(y)", ("o", None, None)),
        ("p = Identity(y) o = Softmax(p)", ("p", "o", "softmax")),
    ],
)
def test_score(tail: str, score: tuple[str, str | None, str | None]) -> None:
    proto = models.model(
        f"c = Conv {PAD} (x, w) r = Relu(c) g = GlobalAveragePool(r) f = Flatten(g)"
        f" y = MatMul(f, v) {tail}",
        {"w": W["w"], "v": W["v"]},
        inputs="float[N,3,8,8] x",
        outputs="float[N,5] o",
    )
    found = load(proto).score
    assert (found.logit, found.probability, found.activation) == score


def test_expected_names_exist() -> None:
    """The table names real tensors of the files."""
    for path in LIGHT.glob("*.onnx"):
        proto = onnx.load(path)
        tensors = {o for n in proto.graph.node for o in n.output}
        assert {EXPERT[path.stem][0], EXPERT[path.stem][3]} <= tensors


@pytest.mark.parametrize(
    ("body", "layer"),
    [
        ("a = Relu(p) s = Mul(a, half)", "a"),  # dropout of training frameworks that scale later
        ("a = Relu(p) i = Identity(a) s = Mul(half, i)", "a"),
        ("e = Erf(p) f = Add(e, one) m = Mul(p, f) s = Mul(m, half)", "s"),  # the end of a GELU
    ],
)
def test_a_finished_map_times_a_number_is_looked_through(body: str, layer: str) -> None:
    body = f"p = Conv(x, w) {body} c = Conv(s, k) g = GlobalAveragePool(c) y = Flatten(g)"
    held = {"w": weight(6, 3, 3, 3), "k": weight(4, 6, 1, 1)}
    held |= {"half": np.array(0.5, np.float32), "one": np.array(1, np.float32)}
    used = {n: v for n, v in held.items() if f"{n})" in body or f"({n}," in body}
    proto = models.model(body, used, "float[N,3,8,8] x", "float[N,4] y")
    assert load(proto).layer().tensor == layer


@pytest.mark.parametrize("zero", [-128, 3])
def test_integer_maps_are_shown_as_floats(zero: int) -> None:
    """A map of QLinearConv, read by a convolution to the classes: as floats, 0 being "off"."""
    body = (
        "q = QuantizeLinear(x, s, z) a = QLinearConv(q, s, z, w, s, o, s, out)"
        " c = QLinearConv(a, s, out, k, s, o, s, z) d = DequantizeLinear(c, s, z)"
        " g = GlobalAveragePool(d) y = Flatten(g)"
    )
    random = models.rng(0)
    held = {
        "s": np.array(0.05, np.float32), "z": np.array(1, np.int8), "o": np.array(0, np.int8),
        "out": np.array(zero, np.int8),
        "w": random.integers(-20, 20, (6, 3, 3, 3)).astype(np.int8),
        "k": random.integers(-20, 20, (4, 6, 1, 1)).astype(np.int8),
    }  # fmt: skip
    proto = models.model(body, held, "float[N,3,8,8] x", "float[N,4] y")
    classifier = load(proto)
    layer = classifier.layer()
    assert (layer.units, layer.grid) == (6, (6, 6))
    tensor = classifier.graph().tensors()[layer.tensor]
    assert tensor.dtype == np.float32
    x = models.images(2, 3, 8, 8)
    (whole,) = models.run(proto, {"x": x}, ["a"])
    features = onnxcam.split(classifier)[0]
    (shown,) = models.run(features, {"x": x}, [layer.tensor])
    np.testing.assert_allclose(shown, 0.05 * (whole.astype(np.float32) - zero), rtol=1e-6)


def test_tokens_that_become_a_grid_again() -> None:
    """As DaViT ends: the linear layers ahead work on the last axis, which is turned and folded."""
    body = (
        "c = Conv(x, w) f = Reshape(c, flat) t = Transpose <perm = [0, 2, 1]> (f)"
        " n = LayerNormalization(t, one) m = MatMul(n, k)"
        " u = Transpose <perm = [0, 2, 1]> (m) a = Reshape(u, grid)"
        " g = GlobalAveragePool(a) v = Flatten(g) y = MatMul(v, out)"
    )
    held = {
        "w": weight(6, 3, 3, 3), "k": weight(6, 6), "out": weight(6, 4),
        "one": np.ones(6, np.float32),
        "flat": np.array([0, 6, 36]), "grid": np.array([0, 6, 6, 6]),
    }  # fmt: skip
    layer = load(models.model(body, held, "float[N,3,8,8] x", "float[N,4] y")).layer()
    assert (layer.tensor, layer.layout, layer.units, layer.grid) == ("a", "NCHW", 6, (6, 6))
