"""Explainer files: the same numbers as the library, in ONNX Runtime and in the onnx evaluator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from onnx.reference import ReferenceEvaluator

import models
import onnxcam
from models import (
    each_golden,
    golden_arrays,
    golden_classifier,
    golden_index,
    images,
    tiny,
    weight,
)
from onnxcam.cli import main
from onnxcam.errors import ModelError, OnnxcamError, OptionError
from onnxcam.explainer.loops import _divisor
from onnxcam.exporting import exported
from onnxcam.graph.emit import Emitter
from onnxcam.image import read_picture
from onnxcam.methods import METHODS
from onnxcam.perturb import items, stacks
from onnxcam.perturb.scaling import _scale

FEW: dict[str, dict[str, Any]] = {
    "rise": {"masks": 12, "cells": 3},
    "smoothgrad": {"samples": 4},
    "integrated-gradients": {"steps": 6},
    "occlusion": {"window": 0.4, "stride": 0.3},
}
DEMO = Path(__file__).parent.parent / "models"


def bending(size: int | str = 8, batch: int | str = "N") -> onnx.ModelProto:
    """Two convolutions and a head of two dense layers: the score bends."""
    w = {"w1": weight(4, 3, 3, 3, seed=1), "w2": weight(6, 4, 3, 3, seed=2)}
    w |= {"v": weight(6 * 16, 7, seed=3), "u": weight(7, 5, seed=4)}
    body = (
        "p = Conv <pads = [1, 1, 1, 1]> (x, w1) a1 = Relu(p) q = Conv <strides = [2, 2],"
        " pads = [1, 1, 1, 1]> (a1, w2) a = Relu(q) f = Flatten(a) h0 = MatMul(f, v) h = Relu(h0)"
        " z = MatMul(h, u) y = Softmax(z)"
    )
    ends = f"float[{batch},3,{size},{size}] x", f"float[{batch},5] y"
    return models.model(body, w, *ends)


def run(model: onnx.ModelProto, feeds: dict[str, Any]) -> dict[str, np.ndarray]:
    """All outputs by name, in ONNX Runtime."""
    session = ort.InferenceSession(model.SerializeToString())
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))


def near(found: np.ndarray, wanted: np.ndarray, most: float = 1e-4) -> None:
    """Equal to `most` of the largest value."""
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= most * max(np.abs(wanted).max(), 1e-9)


@pytest.mark.parametrize("method", [m for m in METHODS if m.removeprefix("guided-") != "cam"])
def test_a_file_gives_what_the_library_gives(method: str) -> None:
    model, x, few = bending(), images(3, 3, 8, 8), FEW.get(method.removeprefix("guided-"), {})
    target = np.array([-1, 2, 4])
    file = exported(model, method, heatmap=True, **few).model.complete()
    onnx.checker.check_model(file, full_check=True)
    found = run(file, {"x": x, "target": target})
    best = run(model, {"x": x})["y"]
    assert list(found)[:1] == ["y"]
    np.testing.assert_array_equal(found["y"], best)
    chosen = [int(best[0].argmax()), 2, 4]
    assert found["class"].tolist() == chosen and found["class"].dtype == np.int64
    own = onnxcam.Explainer(model, method, **few)(x, chosen)
    near(found["map"], own.map)
    for one, wanted in zip(found["heatmap"], own.map, strict=True):
        assert one.shape == (8, 8) and one.min() >= 0
        assert one.max() == pytest.approx(1.0 if wanted.any() else 0.0)
    again = ReferenceEvaluator(file).run(None, {"x": x, "target": target})
    near(np.asarray(again[1]), own.map)


@pytest.mark.parametrize("smooth", ["none", "pca"])
def test_blocks_of_units_are_a_loop(smooth: str) -> None:
    model, x = bending(), images(2, 3, 8, 8)
    file = exported(model, memory=1, weights=True, smooth=smooth).model.complete()
    assert "Loop" in {n.op_type for n in file.graph.node}
    own = onnxcam.Explainer(model, smooth=smooth)(x, [1, 3])
    assert own.weights is not None
    for found in (
        run(file, {"x": x, "target": np.array([1, 3])}),
        dict(zip((o.name for o in file.graph.output),
                 ReferenceEvaluator(file).run(None, {"x": x, "target": np.array([1, 3])}),
                 strict=True)),
    ):  # fmt: skip
        near(found["map"], own.map)
        near(found["weights"], own.weights)


def test_literal_ablation_runs_in_a_loop() -> None:
    model, x = bending(), images(2, 3, 8, 8)
    file = exported(model, ablation="literal", units=[4, 1, 2]).model.complete()
    own = onnxcam.Explainer(model, ablation="literal", units=[4, 1, 2])(x, [1, 3])
    near(run(file, {"x": x, "target": np.array([1, 3])})["map"], own.map)


@pytest.mark.parametrize("targets", ["top1", None, "top3", 2, [0, "not:3"], "not:top1"])
@pytest.mark.parametrize("method", ["ablation-cam", "grad-cam", "score-cam"])
def test_what_is_explained_can_be_fixed(targets: Any, method: str) -> None:
    model, x = bending(), images(2, 3, 8, 8)
    file = exported(model, method, targets=targets, score="probability").model.complete()
    assert [i.name for i in file.graph.input] == ["x"]
    explainer, found = onnxcam.Explainer(model, method, score="probability"), run(file, {"x": x})
    several = isinstance(targets, list)
    own = explainer(x, np.array([targets] * 2, object) if several else targets)
    near(found["map"], own.map)
    assert found["class"].tolist() == own.target.tolist()


def test_the_file_takes_any_number_of_images() -> None:
    file = exported(bending(), targets="top1").model.complete()
    whole = run(file, {"x": images(5, 3, 8, 8)})["map"]
    single = np.concatenate([run(file, {"x": images(5, 3, 8, 8)[i : i + 1]})["map"]
                             for i in range(5)])  # fmt: skip
    near(whole, single)


def test_free_sizes_are_fixed() -> None:
    model = tiny(size="S")
    file = exported(model, targets="top1", size=(10, 14)).model.complete()
    dims = file.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in dims[1:]] == [3, 10, 14]
    x = images(2, 3, 10, 14)
    near(run(file, {"x": x})["map"], onnxcam.Explainer(model)(x).map)
    with pytest.raises(OptionError, match="takes images of 8×8 only"):
        exported(tiny(), size=(10, 14))


def test_weights_stand_in_the_file_once(shared_data: Path) -> None:
    path = shared_data / "models" / "imagenet_squeezenet1.1_fp32.onnx"
    for method in ("ablation-cam", "grad-cam", "saliency", "guided-layer-cam"):
        made = exported(path, method)
        size = sum(map(len, made.contents("e.onnx").values()))
        assert size <= 1.02 * path.stat().st_size, method


def test_a_dense_head_is_not_doubled() -> None:
    made = exported(DEMO / "demo_vgg.onnx")
    assert sum(w.nbytes for w in made.model.weights.values()) <= made.source.file_bytes


def test_a_square_weight_is_read_in_one_order() -> None:
    """What OpenVINO mixes up does not come up: not in products, nor in those of a loop."""
    w = {"w": weight(4, 3, 3, 3), "v": weight(4, 6, seed=2), "s": weight(6, 6, seed=3)}
    w |= {"u": weight(6, 5, seed=4)}
    body = (
        "p = Conv(x, w) a = Relu(p) g = GlobalAveragePool(a) f = Flatten(g) h0 = MatMul(f, v)"
        " h1 = Relu(h0) h2 = {} h3 = Relu(h2) y = MatMul(h3, u)"
    )
    x, target = images(2, 3, 8, 8), np.array([1, 3])
    for product in ("MatMul(h1, s)", "Gemm <transB = 1> (h1, s)", "Gemm (h1, s)"):
        model = models.model(body.format(product), w, "float[N,3,8,8] x", "float[N,5] y")
        for method, few in (("saliency", {}), ("integrated-gradients", {"steps": 3})):
            file = exported(model, method, **few).model.complete()
            assert len(read_in(file.graph, {"s": ("s", 0)})) == 1, (product, method)
            found = run(file, {"x": x, "target": target})["map"]
            near(found, onnxcam.Explainer(model, method, **few)(x, target).map)


def read_in(graph: onnx.GraphProto, views: dict[str, tuple[str, int]]) -> set[int]:
    """The orders, 0 or 1, in which products read a weight: it itself, or it transposed."""
    orders = set()
    for node in graph.node:
        if node.op_type == "Transpose" and node.input[0] in views:
            views[node.output[0]] = "s", 1 - views[node.input[0]][1]
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in views:
            turned = sum(a.i for a in node.attribute if a.name == "transB")
            orders.add(views[node.input[1]][1] ^ turned)
        for attribute in node.attribute:
            orders |= read_in(attribute.g, views)
    return orders


def test_scales_give_whole_sizes() -> None:
    """Rounded down, in float32 as in float64; and no larger than need be."""
    for source in range(1, 65):
        for target in (*range(1, 65), 96, 224, 227, 299, 384, 512):
            scale = _scale(source, target)
            for kind in (np.float32, np.float64):
                assert int(kind(source) * kind(scale)) == target
            assert float(np.nextafter(scale, np.float32(0))) * source < target


def test_the_real_thing(shared_data: Path) -> None:
    """A quantised net from the model zoo, on noise, the top three classes."""
    path = shared_data / "models" / "imagenet_mobilenetv2-12-qdq.onnx"
    x = images(2, 3, 224, 224)
    own = onnxcam.Explainer(path)(x, "top3")
    found = run(exported(path, targets="top3").model.complete(), {"input": x})
    assert found["class"].tolist() == own.target.tolist()
    near(found["map"], own.map)
    np.testing.assert_array_equal(found["output"], own.scores)


@each_golden(sets=True)
def test_files_of_the_goldens(goldens: Path, name: str, file: str, arrays: str) -> None:
    want, classifier = golden_arrays(name, arrays), golden_classifier(name, file)
    score = "probability" if "prob" in arrays else "logit"
    layer = str(golden_index()[name]["files"][file]["cam_pool"]) if "pool" in arrays else None
    made = exported(classifier, layer=layer, score=score, targets=want["classes"].tolist(),
                    weights=True)  # fmt: skip
    assert len(made.model.weights) <= len(classifier.source.weights) + 1
    found = run(made.model.complete(), {classifier.image.name: want["x"]})
    assert (found["class"] == want["classes"]).all()
    near(found["weights"], want["ablation_w"])


def test_outputs_keep_their_order() -> None:
    w = {"w": weight(4, 3, 3, 3), "v": weight(4, 5)}
    body = (
        "p = Conv(x, w) a = Relu(p) g = GlobalAveragePool(a) f = Flatten(g) z = MatMul(f, v)"
        " s = Softmax(z) best = ArgMax <axis = 1, keepdims = 0> (s)"
    )
    model = models.model(body, w, "float[N,3,8,8] x", "int64[N] best, float[N,5] s, float[N,4] f")
    x = images(2, 3, 8, 8)
    file = exported(model, output="s").model.complete()
    assert [o.name for o in file.graph.output] == ["best", "s", "f", "map", "class"]
    found = run(file, {"x": x, "target": np.array([0, 1])})
    for name, wanted in run(model, {"x": x}).items():
        np.testing.assert_allclose(found[name], wanted, atol=1e-6)


def test_names_that_are_taken() -> None:
    w = {"w": weight(4, 3, 3, 3), "v": weight(4, 5)}
    body = (
        "p = Conv(x, w) map = Relu(p) g = GlobalAveragePool(map) f = Flatten(g) {} = MatMul(f, v)"
    )
    inner = models.model(body.format("y"), w, "float[N,3,8,8] x", "float[N,5] y")
    x = images(1, 3, 8, 8)
    found = run(exported(inner).model.complete(), {"x": x, "target": np.array([1])})
    near(found["map"], onnxcam.Explainer(inner)(x, 1).map)
    outer = models.model(body.format("class"), w, "float[N,3,8,8] x", "float[N,5] class")
    with pytest.raises(ModelError, match="'class' already; give --prefix"):
        exported(outer)
    named = exported(outer, prefix="why_").model.proto.graph
    assert [o.name for o in named.output] == ["class", "why_map", "why_class"]
    assert [i.name for i in named.input] == ["x", "why_target"]


def test_the_operator_set() -> None:
    model = tiny(opset=16)
    assert exported(model).model.opset == 18
    x, target = images(2, 3, 8, 8), np.array([0, 3])
    for opset in (16, 17, 21):
        file = exported(model, "grad-cam", opset=opset).model
        assert file.opset == opset
        near(run(file.complete(), {"x": x, "target": target})["map"],
             onnxcam.Explainer(model, "grad-cam")(x, target).map)  # fmt: skip
    with pytest.raises(ModelError, match="is in opset 18 and cannot be lowered to 17"):
        exported(tiny(opset=18), opset=17)


def test_the_metadata_say_what_it_is() -> None:
    preset = {"size": 8, "resize": "stretch", "scale": 1 / 255}
    made = exported(tiny(), "grad-cam", preset=preset, class_names=list("abcd"), targets="b")
    held = {p.key: p.value for p in made.model.proto.metadata_props}
    assert held["onnxcam.method"] == "grad-cam" and held["onnxcam.layer"] == "a"
    assert held["onnxcam.version"] == onnxcam.__version__ and held["onnxcam.targets"] == "b"
    assert json.loads(held["onnxcam.labels"]) == list("abcd")
    assert json.loads(held["onnxcam.preset"])["scale"] == pytest.approx(1 / 255)
    with pytest.raises(ModelError, match="an explainer itself \\(grad-cam\\)"):
        onnxcam.load(made.model.complete())


def test_a_fixed_batch_stays() -> None:
    model = models.mixed()
    made = exported(model, "grad-cam").model
    file = made.complete()
    assert file.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2
    x, target = images(2, 3, 8, 8), np.array([1, 3])
    near(run(file, {"x": x, "target": target})["map"],
         onnxcam.Explainer(model, "grad-cam")(x, target).map)  # fmt: skip


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "saliency", "weights": True}, "gives no weights of units"),
        ({"smooth": "tta"}, "an explainer file has one run"),
        ({"targets": "top9"}, "more than there is"),
        ({"method": "no-cam"}, "no method"),
    ],
)
def test_what_cannot_be(options: dict[str, Any], said: str) -> None:
    with pytest.raises(OnnxcamError, match=said):
        exported(tiny(), **options)


@pytest.mark.parametrize("net", ["demo_residual", "demo_vgg"])
@pytest.mark.parametrize("method", ["ablation-cam", "grad-cam", "layer-cam"])
def test_half_precision_up_to_the_feature_map(net: str, method: str) -> None:
    path, explainer = DEMO / f"{net}.onnx", onnxcam.Explainer(DEMO / f"{net}.onnx", method)
    assert explainer.preset is not None
    x = explainer.preset.tensor(read_picture(DEMO / "demo_scene.png")).repeat(3, 0)
    made = exported(path, method, float16=True, weights=method != "layer-cam")
    assert made.model.file_bytes < (0.52 if net == "demo_residual" else 0.81) * path.stat().st_size
    file, target = made.model.complete(), np.array([0, 4, 9])
    ends = (*file.graph.input, *file.graph.output)
    kinds = [end.type.tensor_type.elem_type for end in ends]
    assert onnx.TensorProto.FLOAT16 not in kinds
    near(run(file, {"image": x, "target": target})["map"], explainer(x, target).map, 1e-2)
    assert not made.notes


def test_half_precision_of_pixels_and_of_quantised_models(shared_data: Path) -> None:
    made = exported(DEMO / "demo_vgg.onnx", "saliency", float16=True)
    assert any("some percent off" in note for note in made.notes)
    x = images(1, 3, 96, 96)
    found = run(made.model.complete(), {"image": x, "target": np.array([1])})["map"]
    own = onnxcam.Explainer(DEMO / "demo_vgg.onnx", "saliency")(x, 1).map
    assert np.corrcoef(found.ravel(), own.ravel())[0, 1] > 0.99
    half = shared_data / "models" / "imagenet_squeezenet_caffe2_fp16.onnx"
    with pytest.raises(ModelError, match="in half precision already; leave out --float16"):
        exported(half, float16=True)


def test_weights_beyond_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxcam.graph.model._PROTO_LIMIT", 1000)
    path = onnxcam.export(bending(), tmp_path / "e.onnx", targets="top1")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e.onnx", "e.onnx.data"]
    x = images(1, 3, 8, 8)
    found = ort.InferenceSession(path).run(["map"], {"x": x})[0]
    near(found, onnxcam.Explainer(bending())(x).map)


def test_the_command(tmp_path: Path) -> None:
    model, out = DEMO / "demo_vgg.onnx", tmp_path / "e.onnx"
    asked = ["export", str(model), str(out), "--targets", "top2", "--heatmap"]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 0, done.output
    assert "map (N, 2, 12, 12), class (N, 2), heatmap (N, 2, 96, 96)" in done.output
    assert "Ablation-CAM at features" in done.output and "× the model" in done.output
    before = out.read_bytes()
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 1 and "exists already" in done.output and out.read_bytes() == before
    told = CliRunner().invoke(main, [*asked, "--force", "--json"])
    assert json.loads(told.output)["layer"] == "features"


@pytest.mark.parametrize(("count", "most", "found"), [(12, 5, 4), (7, 5, 1), (7, 9, 7), (4, 0, 1)])
def test_all_turns_are_alike(count: int, most: int, found: int) -> None:
    assert _divisor(count, most) == found


def unpacked(emit: Any, packed: np.ndarray) -> np.ndarray:
    """What `emit` makes of packed items."""
    proto = models.model("y = Identity(x)", inputs="float[B,W] x", outputs="float[B,H,W] y")
    import onnx_graphsurgeon as gs

    graph = gs.import_onnx(proto)
    made = emit(Emitter(graph), graph.inputs[0])
    graph.nodes[0].inputs = [made]
    return run(gs.export_onnx(graph.cleanup().toposort()), {"x": packed})["y"]


def test_windows() -> None:
    rows, columns = items.cover(7, 0.4, 0.3), items.cover(5, 0.5, 0.4)
    every = items.windows(rows, columns)
    found = unpacked(lambda e, x: stacks.windows(e, x, (7, 5)), every.make(0, every.count))
    wanted = [1 - np.outer(r, c) for r in rows for c in columns]
    np.testing.assert_array_equal(found, wanted)


def test_random_masks_are_those_of_the_paper() -> None:
    """Enlarged by interpolation between cell centres, then cut out at the offset."""
    size, cells = (11, 9), 3
    every = items.random_masks(6, size, cells, 0.5, seed=4)
    packed = every.make(0, 6)
    np.testing.assert_array_equal(packed[2:4], every.make(2, 4))
    found = unpacked(lambda e, x: stacks.random_masks(e, x, size, cells), packed)
    for mask, row in zip(found, packed, strict=True):
        grid, offsets = row[: cells**2].reshape(cells, cells), row[cells**2 :]
        lines = []
        for length, offset in zip(size, offsets, strict=True):
            step = -(-length // cells)
            at = np.arange(length) + offset + 0.5
            lines.append((at * cells / ((cells + 1) * step) - 0.5).clip(0, cells - 1))
        wide = np.array([np.interp(lines[1], np.arange(cells), r) for r in grid])
        wanted = np.array([np.interp(lines[0], np.arange(cells), c) for c in wide.T]).T
        np.testing.assert_allclose(mask, wanted, atol=1e-6)
