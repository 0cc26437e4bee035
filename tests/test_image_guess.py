"""Guessing a preset: what is usual decides, until the model's behaviour speaks against it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from onnxcam.errors import PresetError
from onnxcam.image import PRESETS, Picture, Preset, candidates, choose, read_picture
from onnxcam.image.guess import MOST_PICTURES, ORDERS, VIEWS

CLASSES = 1000


def smooth(seed: int) -> Picture:
    """A picture of broad, bright shapes, which shuffling breaks up."""
    small = np.random.default_rng(seed).integers(150, 256, (3, 3, 3), np.uint8)
    return Picture(np.asarray(Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC)))


def one_hot(index: int, sure: float) -> np.ndarray:
    p = np.full(CLASSES, (1 - sure) / (CLASSES - 1))
    p[index] = sure
    return p


def classifier(scale: float) -> Any:
    """A stand-in for a network that was trained on pixels from 0 to `scale`.

    Within its range it is sure of whole pictures and unsure of broken ones; below it is unsure of
    everything; above it is sure of anything, another class at each little change.
    """

    def run(batch: np.ndarray) -> np.ndarray:
        rows = []
        for x in batch:
            edges = np.abs(np.diff(x[0], axis=1)).mean() / scale
            if x.max() > 4 * scale:
                rows.append(one_hot(int(np.abs(x).sum() * 7) % CLASSES, 0.9999))
            elif x.max() < scale / 4:
                rows.append(one_hot(5, 0.002))
            else:
                rows.append(one_hot(7, 0.8 if edges < 0.02 else 0.05))
        return np.array(rows)

    return run


def test_the_models_behaviour_decides_between_scales() -> None:
    tried = [PRESETS[name].replace(size=(64, 64)) for name in ("raw-255", "raw-1")]
    pictures = [smooth(seed) for seed in range(4)]
    for order in (tried, tried[::-1]):
        assert choose(order, pictures, classifier(255)).preset.name == "raw-255"
        choice = choose(order, pictures, classifier(1))
        assert choice.preset.name == "raw-1"
        assert [row.name for row in choice.rows] == ["raw-1", "raw-255"]
        assert choice.rows[0].top == 7
        assert choice.rows[0].probability == pytest.approx(0.8)
        assert sum(row.share for row in choice.rows) == pytest.approx(1)
        assert "4 pictures" in choice.reason and "'raw-1' fits best" in choice.reason


def test_what_is_usual_decides_where_the_model_does_not() -> None:
    tried = candidates(3, (64, 64), "NCHW", "float32", CLASSES)
    same = choose(tried, [smooth(0)], lambda batch: np.full((len(batch), 1000), 1e-3))
    assert same.preset == tried[0]
    assert [row.name for row in same.rows] == [preset.name for preset in tried]


def test_one_run_per_candidate_and_few_views() -> None:
    sizes: list[int] = []

    def run(batch: np.ndarray) -> np.ndarray:
        sizes.append(len(batch))
        assert batch.dtype == np.float16 and batch.shape[1:] == (32, 48, 3)
        return np.full((len(batch), 10), 0.1)

    tried = candidates(3, (32, 48), "NHWC", "float16", 10)
    choose(tried, [smooth(0)] * 50, run)
    assert sizes == [MOST_PICTURES * (VIEWS + 1)] * len(tried)


def test_independent_classes() -> None:
    """Sigmoid scores do not sum to 1; a candidate that is decided on yes and no wins."""

    def run(batch: np.ndarray) -> np.ndarray:
        return np.array([[0.02, 0.97, 0.96] if x.max() > 2 else [0.5, 0.5, 0.5] for x in batch])

    tried = [PRESETS[name].replace(size=(16, 16)) for name in ("raw-1", "raw-255")]
    blind = choose(tried, [smooth(0)], lambda batch: np.full((len(batch), 3), 0.5))
    steady = choose(tried, [smooth(0)], run)
    assert blind.preset.name == "raw-1" and blind.rows[1].share == pytest.approx(0.09 / 0.81)
    # One picture does not outweigh what is usual, but raises the share; log-odds by hand:
    # DECIDED and DISCERNING nearly cancel, STEADY adds half of the agreement's gain.
    assert 1.3 < (steady.rows[1].share / steady.rows[0].share) / (0.09 / 0.72) < 2.0
    assert steady.rows[1].top == 1


def test_candidates_without_finite_probabilities_are_out() -> None:
    def run(batch: np.ndarray) -> np.ndarray:
        p = np.full((len(batch), 10), 0.1)
        return np.where(batch.max() > 2, np.nan, p)

    tried = [PRESETS[name].replace(size=(16, 16)) for name in ("raw-255", "raw-1")]
    choice = choose(tried, [smooth(0)], run)
    assert choice.preset.name == "raw-1" and choice.rows[1].share == 0
    with pytest.raises(PresetError, match="--preset"):
        choose(tried[:1], [smooth(0)], run)
    with pytest.raises(PresetError, match="at least one picture"):
        choose(tried, [], run)


@pytest.mark.parametrize(
    ("facts", "first"),
    [
        ((3, (224, 224), "NCHW", "float32", 1000, "pytorch"), "imagenet"),
        ((3, (None, None), "NCHW", "float32", 1000, ""), "imagenet"),
        ((3, (224, 224), "NHWC", "float32", 1000, "tf2onnx"), "keras-tf"),
        ((3, (224, 224), "NCHW", "float32", 1001, ""), "keras-tf"),
        ((3, (224, 224), "NCHW", "float16", 1000, "onnx-caffe2"), "caffe"),
        ((3, (227, 227), "NCHW", "float32", 5, "OnnxMLTools"), "custom-vision"),
        ((3, (32, 32), "NCHW", "float32", 10, "pytorch"), "cifar10"),
        ((3, (128, 128), "NCHW", "float32", 30, "pytorch"), "imagenet-stretch"),
        ((1, (28, 28), "NCHW", "float32", 10, "CNTK"), "grey-255"),
        ((1, (28, 28), "NCHW", "float32", 10, "pytorch"), "grey-1"),
        ((3, (224, 224), "NHWC", "uint8", 1000, "tf2onnx"), "raw-255-crop"),
        ((1, (28, 28), "NHWC", "uint8", 10, ""), "grey-255"),
    ],
)
def test_what_is_usual(facts: tuple[Any, ...], first: str) -> None:
    tried = candidates(*facts)
    assert tried[0].name == first
    for preset in tried:
        assert preset.channels == facts[0]
        assert (preset.layout, preset.dtype) == (facts[2], facts[3])


def test_every_guess_can_be_repeated_by_name() -> None:
    for names in ORDERS.values():
        assert set(names) <= PRESETS.keys()
        assert 1 <= len(names) == len(set(names)) <= 8


MODELS = {  # what each expects: channel order, and what 0, 128 and 255 become in the first channel
    "imagenet_mobilenetv2-12-qdq": ("RGB", [-2.118, 0.074, 2.249]),
    "imagenet_mobilenetv2_tf_nhwc_fp32": ("RGB", [-1, 0, 1]),
    "imagenet_squeezenet1.1_fp32": ("RGB", [-2.118, 0.074, 2.249]),
    "imagenet_squeezenet_caffe2_fp16": ("BGR", [-103.9, 24.06, 151.1]),
    "customvision_computer_multilabel": ("BGR", [0, 128, 255]),
    "mnist-8_cntk": ("GRAY", [0, 128, 255]),
}


@pytest.mark.parametrize("name", MODELS)
def test_real_models(name: str, shared_data: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    entries = json.loads((shared_data / "manifest.json").read_text())["entries"]
    entry = next(entry for entry in entries if entry["file"] == f"models/{name}.onnx")
    held = entry["preprocessing"]
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(
        shared_data / entry["file"], options, providers=["CPUExecutionProvider"]
    )
    node = session.get_inputs()[0].name
    output = "loss" if "ZipMap" in entry["head"] else entry["output_used"]

    def run(batch: np.ndarray) -> np.ndarray:
        rows = []
        for x in batch:
            y = session.run([output], {node: x[None]})[0]
            y = np.array(list(y[0].values()) if isinstance(y, list) else y, np.float64).reshape(-1)
            rows.append(y if "logits" not in entry["scores"] else np.exp(y - y.max()))
        p = np.array(rows)
        return p if "sigmoid" in entry["scores"] else p / p.sum(1, keepdims=True)

    classes = len((shared_data / entry["labels"]).read_text().splitlines())
    tried = candidates(
        1 if held["channel_order"] == "GRAY" else 3,
        tuple(held["size"]),
        held["layout"],
        held["dtype"],
        classes,
        entry["onnx"]["producer"],
    )
    folder = shared_data / "images" / ("mnist" if entry["task"] == "digits" else "imagenet")
    pictures = [read_picture(path) for path in sorted(folder.iterdir())[5:60:9]]
    assert len(pictures) > 5
    for used in ([pictures[0]], [pictures[3]], pictures):
        preset = choose(tried, used, run).preset
        order, values = MODELS[name]
        made = numbers(preset)
        assert preset.channel_order == order
        assert made == pytest.approx(values, abs=0.03 * np.ptp(values))


def numbers(preset: Preset) -> list[float]:
    return [(x * preset.scale - preset.mean[0]) / preset.std[0] for x in (0, 128, 255)]


def test_yes_and_no_of_a_single_unit_count_alike() -> None:
    """A unit that is sure of yes is no surer than one that is sure of no."""

    def says(batch: np.ndarray) -> np.ndarray:
        return np.array([[0.97 + 0.02 * np.tanh(x.mean())] for x in batch])

    tried = [PRESETS["raw-1"], PRESETS["imagenet"], PRESETS["raw-255"]]
    tried = [preset.replace(size=(32, 32)) for preset in tried]
    yes = choose(tried, [smooth(1)], says)
    no = choose(tried, [smooth(1)], lambda batch: 1 - says(batch))
    assert [row.name for row in yes.rows] == [row.name for row in no.rows]
    assert [row.share for row in yes.rows] == pytest.approx([row.share for row in no.rows])


def test_answers_are_exclusive_for_all_candidates_or_for_none() -> None:
    """One candidate whose independent answers happen to add up to 1 is not measured otherwise."""

    def says(batch: np.ndarray) -> np.ndarray:
        return np.array([[0.9, 0.1] if x.max() <= 1.01 else [0.9, 0.1001] for x in batch])

    def apart(batch: np.ndarray) -> np.ndarray:
        return np.array([[0.9, 0.1] if x.max() <= 1.01 else [0.9, 0.9] for x in batch])

    tried = [PRESETS[n].replace(size=(32, 32)) for n in ("raw-1", "raw-255")]
    alike, other = choose(tried, [smooth(1)], says), choose(tried, [smooth(1)], apart)
    usual = [row.share for row in alike.rows]
    assert [row.name for row in other.rows] == [row.name for row in alike.rows]
    assert [row.share for row in other.rows] == pytest.approx(usual, abs=1e-3)
