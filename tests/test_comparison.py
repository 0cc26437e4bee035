"""Comparisons: several explanations of one picture, what they share, and the files they make."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import onnxcam
from onnxcam.image import CELL, panel
from onnxcam.resources import resource

METHODS = ("ablation-cam", "grad-cam", "saliency", "integrated-gradients")


@pytest.fixture(scope="module")
def explainer() -> onnxcam.Explainer:
    return onnxcam.Explainer(resource("demo_vgg.onnx"))


@pytest.fixture(scope="module")
def found(explainer: onnxcam.Explainer) -> onnxcam.Comparison:
    return explainer.compare(
        resource("demo_scene.png"), METHODS, ["cat", "tree"], (-1, -3), weight="slope", steps=4
    )


def test_each_is_what_its_method_gives_alone(found: onnxcam.Comparison) -> None:
    asked = [(one.method, one.layer) for one in found]
    layers = [asked[0][1], asked[1][1]]
    assert len(set(layers)) == 2 and None not in layers
    assert asked == [
        *((method, layer) for method in METHODS[:2] for layer in layers),
        *((method, None) for method in METHODS[2:]),
    ]
    assert len(found) == 6 and found[-1].method == METHODS[-1]
    assert [one.method for one in found[:2]] == ["ablation-cam"] * 2
    for one in (found[1], found[4]):
        alone = onnxcam.explain(
            resource("demo_vgg.onnx"), resource("demo_scene.png"), ["cat", "tree"],
            method=one.method, layer=one.layer, **one.options,
        )  # fmt: skip
        np.testing.assert_allclose(one.map, alone.map, rtol=1e-4, atol=1e-5 * alone.map.max())
        assert one.options == alone.options


def test_facts(found: onnxcam.Comparison) -> None:
    facts = json.loads(json.dumps(found.facts()))
    single = found[0].facts()
    assert facts["model"] == "demo_vgg.onnx" and facts["preset"] == single["preset"]
    assert [one["label"] for one in facts["targets"]] == ["cat", "tree"]
    assert all("peak" not in target and "gap" not in target for target in facts["targets"])
    each = facts["explanations"]
    assert [(one["method"], one["layer"]) for one in each] == [(o.method, o.layer) for o in found]
    assert each[0]["options"] == {"weight": "slope"} and each[-1]["options"]["steps"] == 4
    for one, told in zip(found, each, strict=True):
        assert told["peaks"] == pytest.approx(one.map.max(axis=(-2, -1)).reshape(-1).tolist())
        assert ("gaps" in told) == (one.method == "integrated-gradients")
    assert each[-1]["gaps"] == pytest.approx(found[-1].gap.reshape(-1).tolist())


def test_the_sheet_has_a_row_for_each_class_and_layer(found: onnxcam.Comparison) -> None:
    sheet = np.asarray(found.figure())

    def place(shown: np.ndarray) -> tuple[int, int]:
        """Row and column at which a panel stands on the sheet, by an exact match."""
        high, wide = shown.shape[:2]
        for top in range(sheet.shape[0] - high + 1):
            for left in columns:
                if np.array_equal(sheet[top : top + high, left : left + wide], shown):
                    return top, left
        raise AssertionError("not on the sheet")

    one = found[0]
    step = CELL + 16
    columns = [20 + i * step for i in range(len(METHODS) + 1)]
    places = {}
    for number, one in enumerate(found):
        for target in (0, 1):
            alpha = None if one.fine else 0.5
            shown = panel(one.picture, one.heat(target), longest=CELL, alpha=alpha, seen=one.seen)
            places[number, target] = place(shown)
    rows = sorted({top for top, _ in places.values()})
    assert len(rows) == 4  # two classes, two feature maps each
    for (number, target), (top, left) in places.items():
        method = METHODS.index(found[number].method)
        layer = 1 if number in (1, 3) else 0
        assert (rows.index(top), columns.index(left)) == (2 * target + layer, 1 + method)


def test_files(found: onnxcam.Comparison, tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "a.webp"):
        with Image.open(found.save(tmp_path / name)) as image:
            assert image.size == found.figure().size
    with Image.open(tmp_path / "a.png") as image:
        assert json.loads(image.info["onnxcam"]) == found.facts()
    assert json.loads(found.save(tmp_path / "a.json").read_text()) == found.facts()
    with np.load(found.save(tmp_path / "a.npz")) as arrays:
        assert {"scores", "target"} < set(arrays)
        for number, one in enumerate(found):
            np.testing.assert_array_equal(arrays[f"{number}.{one.method}.map"], one.map)
            np.testing.assert_array_equal(arrays[f"{number}.{one.method}.raw"], one.raw)
        assert f"0.{METHODS[0]}.weights" in arrays and f"4.{METHODS[2]}.weights" not in arrays
    with pytest.raises(onnxcam.OutputError, match=r"\.npz, \.json, \.png"):
        found.save(tmp_path / "a.bmp")
    with pytest.raises(onnxcam.OutputError, match="--force"):
        found.save(tmp_path / "a.png")
    assert found._repr_png_().startswith(b"\x89PNG")


def test_what_cannot_be_compared(explainer: onnxcam.Explainer) -> None:
    picture = resource("demo_scene.png")
    with pytest.raises(onnxcam.OptionError, match="no method was named"):
        explainer.compare(picture, [])
    with pytest.raises(onnxcam.OptionError, match="saliency, rise work on pixels"):
        explainer.compare(picture, ["saliency", "rise"], layers=[-1])
    with pytest.raises(onnxcam.OptionError, match="none of saliency has an option 'weight'"):
        explainer.compare(picture, ["saliency"], weight="slope")


def test_fine_maps_are_drawn_up_to_a_percentile(found: onnxcam.Comparison) -> None:
    fine, coarse = found[4], found[0]
    assert fine.fine and not coarse.fine
    assert fine.map.shape[-2:] == (96, 96)
    before = fine.of(0).copy()
    scale = np.percentile(before, 99.5)
    assert scale < 0.7 * before.max()
    assert fine.heat(0).max() == 1
    assert np.median(fine.heat(0)) == pytest.approx(np.median(before) / scale, rel=0.15)
    assert np.median(coarse.heat(0)) == pytest.approx(
        np.median(coarse.of(0)) / coarse.of(0).max(), abs=0.02
    )
    np.testing.assert_array_equal(fine.of(0), before)  # the data keep their extremes
    assert fine.peak.reshape(-1)[0] == before.max()


def test_smoothing_is_told_and_counted_as_one(explainer: onnxcam.Explainer) -> None:
    smooth = onnxcam.Explainer(explainer.classifier, "score-cam", smooth="pca+tta", memory=1 << 22)
    reports: list[tuple[int, int]] = []
    found = smooth.explain(
        resource("demo_scene.png"), "cat", lambda done, every: reports.append((done, every))
    )
    assert found.facts()["smooth"] == "pca+tta"
    assert {every for _, every in reports} == {6 * 80}  # six views of eighty units
    assert [done for done, _ in reports] == sorted({done for done, _ in reports})
    assert reports[-1] == (480, 480)
    assert explainer.explain(resource("demo_scene.png")).facts()["smooth"] == "none"
