"""Metrics of place: boxes at the best threshold, the class's own objects, bands of confidence."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scenes import describe, draw

from models import images
from onnxcam.cli import main
from onnxcam.evaluate.bands import FEW, bands
from onnxcam.evaluate.boxes import (
    GRID,
    THRESHOLDS,
    fits,
    inside,
    iou,
    levels,
    parts,
    resolved,
    unlike,
)
from onnxcam.evaluate.metrics import METRICS
from onnxcam.evaluate.places import V1, V2
from onnxcam.evaluate.samples import data_set
from onnxcam.evaluate.study import columns, settled
from onnxcam.evaluate.trial import Trial, View
from onnxcam.image import Geometry

MODEL = Path(__file__).parents[1] / "models" / "demo_residual.onnx"


def trial(heat: np.ndarray, **more: Any) -> Trial:
    """A trial on a picture as large as its map."""
    height, width = heat.shape
    whole = Geometry((0, 0, width, height), (height, width), (0, 0), (height, width))
    plain: dict[str, Any] = {
        "x": images(1, 3, height, width, seed=1)[0], "black": np.zeros((3, height, width)),
        "logit": 4.0, "probability": 0.5, "size": (height, width), "geometry": whole,
    }  # fmt: skip
    return Trial(View(**plain | more), heat.astype(np.float32))


def measured(name: str, heat: np.ndarray, **more: Any) -> Any:
    return METRICS[name].measure(trial(heat, **more))


def flooded(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    """The parts of a mask, pixel by pixel, in the order of their first pixels."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    found = []
    while left:
        start = min(left)
        left.remove(start)
        part, edge = {start}, [start]
        while edge:
            y, x = edge.pop()
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            part |= near
            edge += near
        found.append(part)
    return found


def around(part: set[tuple[int, int]]) -> tuple[int, int, int, int]:
    rows, columns_ = zip(*part, strict=True)
    return min(columns_), min(rows), max(columns_) + 1, max(rows) + 1


def overlap(a: Any, b: Any) -> float:
    """IoU of two boxes of whole numbers, by counting pixels."""
    cells = [{(y, x) for y in range(y0, y1) for x in range(x0, x1)} for x0, y0, x1, y1 in (a, b)]
    return len(cells[0] & cells[1]) / len(cells[0] | cells[1])


@st.composite
def masks(draw_: Any) -> np.ndarray:
    count, height, width = (draw_(st.integers(1, most)) for most in (3, 9, 9))
    share = draw_(st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.9, 1.0]))
    seed = draw_(st.integers(0, 2**32 - 1))
    return np.asarray(np.random.default_rng(seed).random((count, height, width)) < share)


@given(masks())
def test_parts_are_those_of_a_flood(marked: np.ndarray) -> None:
    place, boxes, sizes = parts(marked)
    found = [(int(i), *map(int, box), int(n))
             for i, box, n in zip(place, boxes, sizes, strict=True)]  # fmt: skip
    wanted = [(i, *around(part), len(part))
              for i, mask in enumerate(marked) for part in flooded(mask)]  # fmt: skip
    assert found == wanted


def test_parts_of_figures_that_wind() -> None:
    spiral = np.array([[c == "#" for c in line] for line in (
        "#########", "........#", "#######.#", "#.....#.#", "#.###.#.#", "#.#...#.#", "#.#####.#",
        "#.......#", "#########",
    )])  # fmt: skip
    comb = np.zeros((9, 9), bool)
    comb[:, ::2] = comb[8] = True
    place, boxes, sizes = parts(np.stack([spiral, comb, comb[::-1], ~spiral]))
    assert place.tolist()[:3] == [0, 1, 2] and sizes[:3].tolist() == [spiral.sum(), *[49] * 2]
    assert boxes[:3].tolist() == [[0, 0, 9, 9]] * 3
    assert [around(part) for part in flooded(~spiral)] == [tuple(b) for b in boxes[3:].tolist()]
    assert [len(one) for one in parts(np.zeros((2, 3, 3), bool))] == [0, 0, 0]


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12), st.booleans())
def test_fits_are_those_of_a_flood_at_each_threshold(
    seed: int, height: int, width: int, coarse: bool
) -> None:
    rng = np.random.default_rng(seed)
    heat = rng.random((height, width)) ** 2
    heat = np.float32(np.round(5 * heat) / 5 if coarse else heat)
    if heat.any():
        heat /= heat.max()
    boxes = []
    for _ in range(2):
        (x0, y0), size = (int(rng.integers(0, n)) for n in (width, height)), rng.integers(1, 5, 2)
        boxes.append((x0, y0, min(width, x0 + int(size[0])), min(height, y0 + int(size[1]))))
    largest, most = fits(heat, np.array(boxes, np.float64))
    for threshold, one, any_one in zip(THRESHOLDS, largest, most, strict=True):
        found = flooded(heat > threshold)
        best = [max(overlap(around(part), box) for box in boxes) for part in found]
        sizes = [len(part) for part in found]
        assert any_one == pytest.approx(max(best, default=0))
        assert one == pytest.approx(best[sizes.index(max(sizes))] if best else 0)


def test_large_pictures_are_looked_at_on_a_grid() -> None:
    y, x = np.mgrid[:900, :1500]
    heat = np.exp(-(((x - 700) / 300) ** 2 + ((y - 400) / 150) ** 2))
    box = np.array([[100.0, 100, 1300, 700]])
    largest, most = fits(np.float32(heat), box)
    exact = []
    for threshold in THRESHOLDS[1:]:
        rows, places = (np.flatnonzero((heat > threshold).any(axis=i)) for i in (1, 0))
        around_it = np.array([[places[0], rows[0], places[-1] + 1, rows[-1] + 1]])
        exact.append(iou(around_it, box)[0, 0])
    cell = 1500 / GRID
    assert np.abs(largest[1:] - exact).max() < 2 * cell / 600  # half a cell on each of four edges
    np.testing.assert_array_equal(largest, most)


def test_boxes() -> None:
    boxes = np.array([[0.0, 0, 2, 2], [1, 1, 3, 3], [5, 5, 6, 6]])
    assert iou(boxes, boxes) == pytest.approx(np.array([[1, 1 / 7, 0], [1 / 7, 1, 0], [0, 0, 1]]))
    cut = inside([(-3.0, 1.0, 4.0, 99.0), (10.0, 0.0, 12.0, 3.0)], (5, 8))
    assert cut.tolist() == [[0, 1, 4, 5]]  # the other one lies to the right of the picture
    assert inside([], (5, 8)).shape == (0, 4)


def test_the_largest_part_and_any_part() -> None:
    heat = np.zeros((40, 60))
    heat[10:14, 20:24] = 1.0
    heat[30:40, 40:60] = 0.6
    small, large = (20.0, 10.0, 24.0, 14.0), (40.0, 30.0, 60.0, 40.0)
    v1, v2 = (measured(f"maxboxacc-v{v}", heat, boxes=(small,)) for v in (1, 2))
    assert v1 == "0" * 60 + "1" * 40  # from 0.6 on only the small part is there
    assert v2 == "3" * 100
    assert measured("maxboxacc-v1", heat, boxes=(large,)) == "1" * 60 + "0" * 40
    assert measured("maxboxacc-v1", heat, boxes=(small, large)) == "1" * 100
    half = (20.0, 10.0, 24.0, 18.0)
    assert measured("maxboxacc-v2", heat, boxes=(half,)) == "2" * 100  # IoU 0.5 reaches the limit
    assert measured("maxboxacc-v1", 0 * heat, boxes=(small,)) == "0" * 100
    assert measured("maxboxacc-v1", heat) is None
    outside = (70.0, 0.0, 80.0, 9.0)
    assert measured("maxboxacc-v1", heat, boxes=(outside,)) is None


def test_the_boxes_of_a_mask_are_those_of_its_parts() -> None:
    heat, mask = np.zeros((40, 60)), np.zeros((40, 60), bool)
    heat[10:20, 10:20] = 1.0
    mask[10:20, 10] = mask[10, 10:20] = mask[30:35, 40:59] = True
    assert measured("maxboxacc-v2", heat, mask=mask) == "3" * 100
    wrong = (30.0, 0.0, 40.0, 9.0)
    assert measured("maxboxacc-v2", heat, mask=mask, boxes=(wrong,)) == "0" * 100
    assert measured("maxboxacc-v2", heat, mask=0 * mask) is None


def test_levels() -> None:
    assert levels(np.array([0.0, 0.29, 0.3, 0.5, 0.69, 0.7, 1.0]), V2) == "0012233"
    assert levels(np.array([0.49, 0.5]), V1) == "01"


@given(st.integers(1, 6), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_the_threshold_is_the_best_for_all_pictures(count: int, at: int, seed: int) -> None:
    digits = np.random.default_rng(seed).integers(0, 4, (count, at))
    found = resolved(["".join(map(str, row)) for row in digits], 3)
    best = [max((digits[:, i] >= k).mean() for i in range(at)) for k in (1, 2, 3)]
    assert found.mean() == pytest.approx(100 * np.mean(best))  # the formula of the paper
    assert set(np.round(found * 3 / 100, 6)) <= {0, 1, 2, 3}


def test_values_are_resolved_in_rows() -> None:
    texts = ["011", "010", None, "001", "010"]
    rows = [{"methods": {"a": {"values": {"maxboxacc-v1": text, "energy": value}}}}
            for text, value in zip(texts, (1.5, None, 3.0, 4.0, 5.0), strict=True)]  # fmt: skip
    np.testing.assert_array_equal(columns(rows, "a", "maxboxacc-v1"), [100, 100, np.nan, 0, 100])
    plain = settled(rows)
    assert [row["methods"]["a"]["values"]["maxboxacc-v1"] for row in plain] == [
        100, 100, None, 0, 100
    ]  # fmt: skip
    assert [row["methods"]["a"]["values"]["energy"] for row in plain] == [1.5, None, 3, 4, 5]
    assert rows[0]["methods"]["a"]["values"]["maxboxacc-v1"] == "011" and settled(plain) == plain
    assert columns(rows[3:4], "a", "maxboxacc-v1").tolist() == [100]  # another set, another best
    assert settled([]) == []


# --- the class's own objects ---------------------------------------------------------------------

OWN, OTHER = (2.0, 2.0, 12.0, 12.0), (20.0, 2.0, 30.0, 22.0)


def both(heat: np.ndarray, **more: Any) -> tuple[Any, Any]:
    asked: dict[str, Any] = {"boxes": (OWN,), "others": (OTHER,), **more}
    return (measured("discrimination-share", heat, **asked),
            measured("discrimination-mean", heat, **asked))  # fmt: skip


def test_discrimination() -> None:
    heat = np.zeros((24, 32))
    heat[2:12, 2:12] = 0.6
    heat[2:22, 20:30] = 0.4
    heat[15:, :10] = 1.0  # neither's
    assert both(heat) == (pytest.approx(100 * 60 / (60 + 80)), 100)  # the larger has more heat
    assert both(heat, boxes=(OTHER,), others=(OWN,)) == (pytest.approx(100 * 80 / 140), 0)
    assert both(heat, others=()) == (None, None) and both(heat, boxes=()) == (None, None)
    assert both(0 * heat) == (0, 0) and both(np.ones((24, 32)))[1] == 0
    mask = np.zeros((24, 32), bool)
    mask[15:, :10] = True
    assert both(heat, mask=mask)[0] == pytest.approx(100 * 90 / 170)
    assert both(heat, other_mask=mask) == (pytest.approx(100 * 60 / 230), 100 * (0.6 > 170 / 290))
    assert both(heat, other_mask=mask, others=()) == (pytest.approx(100 * 60 / 150), 0)


def test_pixels_of_both_are_left_out() -> None:
    heat = np.zeros((24, 32))
    heat[2:12, 2:12] = 1.0
    heat[2:12, 7:12] = 0.2
    over = (7.0, 2.0, 17.0, 12.0)
    assert both(heat, others=(over,)) == (100, 100)
    assert both(heat, others=((3.0, 3.0, 12.0, 12.0),)) == (None, None)  # lies within
    assert both(heat, others=((2.0, 2.0, 30.0, 22.0),)) == (None, None)  # lies around


NAMES = ["cat", "dog", "crane", "heron", "car"]


def listed(tmp_path: Path, entries: list[dict[str, Any]]) -> dict[str, Any]:
    for file in {one[key] for one in entries for key in ("file", "mask") if key in one}:
        Image.new("RGB", (40, 30)).save(tmp_path / file)
    (tmp_path / "list.json").write_text(json.dumps(entries), "utf-8")
    return {sample.name: sample for sample in data_set(tmp_path / "list.json", NAMES, 5).samples}


def test_other_classes_in_the_picture(tmp_path: Path) -> None:
    found = listed(tmp_path, [
        {"file": "a.png", "label": "cat", "boxes": [OWN]},
        {"file": "a.png", "label": "dog", "boxes": [OTHER]},
        {"file": "a.png", "label": "cat", "boxes": [[1, 15, 9, 25]]},
        {"file": "a.png", "label": "car"},
        {"file": "a.png", "boxes": [[0, 0, 5, 5]]},
        {"file": "b.png", "label": "cat", "boxes": [OWN]},
    ])  # fmt: skip
    cats = (OWN, (1.0, 15.0, 9.0, 25.0))
    assert [one.others for one in found.values()] == [(OTHER,), cats, (*cats, OTHER), (), ()]
    assert [one.has("others") for one in found.values()] == [True, True, *[False] * 3]
    assert [one.has("object") for one in found.values()] == [True, True, False, True, True]


def test_one_object_of_several_names_is_no_other(tmp_path: Path) -> None:
    near = (2.0, 2.1, 12.0, 12.2)
    found = listed(tmp_path, [
        *({"file": "a.png", "label": name, "boxes": [box]}
          for name, box in (("crane", OWN), ("heron", near), ("dog", OTHER))),
        {"file": "a.png", "label": "crane", "boxes": [[0, 20, 9, 29]]},
        {"file": "a.png", "label": "heron", "boxes": [[0, 20, 9, 29]]},
    ])  # fmt: skip
    crane, heron, dog = found.values()
    assert crane.others == heron.others == (OTHER,)
    assert len(dog.others) == 3
    assert unlike([(0.0, 0.0, 10.0, 9.0), (0.0, 0.0, 10.0, 8.9)], [(0.0, 0.0, 10.0, 10.0)]) == (
        (0.0, 0.0, 10.0, 8.9),
    )


def test_real_boxes_of_many_classes_of_imagenet(tmp_path: Path, shared_data: Path) -> None:
    manifest = json.loads((shared_data / "manifest.json").read_text("utf-8"))
    entries = [e for e in manifest["entries"] if e.get("dataset") == "coco"]
    rows, named = [], dict[tuple[str, int], set[str]]()
    for file, one in ((entry["file"], one) for entry in entries for one in entry["boxes"]):
        for index in one["imagenet_indices"] or ():
            rows.append({"file": file, "label": index, "boxes": [one["box_xyxy"]]})
            named.setdefault((file, index), set()).add(one["label_name"])
    (tmp_path / "list.json").write_text(json.dumps(rows), "utf-8")
    found = data_set(tmp_path / "list.json", None, 1000, pictures=shared_data).samples
    assert len(found) == len(named)
    alone = others = 0
    for sample in found:
        file = sample.path.relative_to(shared_data).as_posix()
        own = named[file, sample.label or 0]
        rest = set[str]().union(*(names for (f, _), names in named.items() if f == file)) - own
        assert sample.has("others") == bool(rest), (file, own, rest)
        others, alone = others + bool(rest), alone + (not rest)
        assert not set(sample.others) & set(sample.boxes)
    assert others > 100 and alone > 100


def test_masks_of_other_classes(tmp_path: Path) -> None:
    found = listed(tmp_path, [
        {"file": "a.png", "label": "cat", "mask": "m1.png", "boxes": [OWN]},
        {"file": "a.png", "label": "dog", "mask": "m2.png"},
        {"file": "a.png", "label": "crane", "mask": "m2.png"},
        {"file": "a.png", "label": "car", "boxes": [OTHER]},
    ])  # fmt: skip
    names = [[mask.name for mask in one.other_masks] for one in found.values()]
    assert names == [["m2.png"], ["m1.png"], ["m1.png"], ["m1.png", "m2.png"]]
    assert [one.others for one in found.values()] == [(OTHER,), (OTHER,), (OTHER,), ()]


# --- whole studies -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of eight scenes of two classes, with masks."""
    folder = tmp_path_factory.mktemp("scenes")
    rows = [("file", "label", "mask")]
    for seed in range(8):
        scene = draw(describe(seed, [seed % 5, 5 + seed % 4]), 96)
        Image.fromarray(scene.pixels).save(folder / f"{seed}.png")
        for one in scene.objects:
            mask = f"{seed}-{one.kind}.png"
            Image.fromarray(one.mask).save(folder / mask)
            rows.append((f"{seed}.png", str(one.kind), mask))
    with (folder / "list.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
    return folder


def cli(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)], catch_exceptions=False)


def test_a_study_of_places(scenes: Path, tmp_path: Path) -> None:
    asked = ("--methods", "grad-cam,eigen-cam", "--metrics", "maxboxacc,discrimination")
    found = cli(MODEL, scenes / "list.csv", *asked, "--to", tmp_path)
    assert found.exit_code == 0, found.output
    document = json.loads((tmp_path / "summary.json").read_text("utf-8"))
    means = {(row["method"], row["metric"]): row["mean"] for row in document["summary"]}
    # Eigen-CAM has one map for both classes: it is hotter on one of them, and wrong on the other.
    assert means["eigen-cam", "discrimination-mean"] == pytest.approx(50)
    assert means["grad-cam", "discrimination-mean"] > 90
    assert means["grad-cam", "maxboxacc-v1"] > means["eigen-cam", "maxboxacc-v1"]
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text("utf-8").splitlines()]
    texts = [row["methods"]["grad-cam"]["values"]["maxboxacc-v2"] for row in rows[1:]]
    assert all(len(text) == len(THRESHOLDS) for text in texts)
    every = np.array([[int(digit) for digit in text] for text in texts])
    best = [(every >= k).mean(axis=0).max() for k in (1, 2, 3)]
    assert means["grad-cam", "maxboxacc-v2"] == pytest.approx(100 * np.mean(best))
    table = list(csv.DictReader((tmp_path / "results.csv").read_text("utf-8").splitlines()))
    own = [float(row["maxboxacc-v2"]) for row in table if row["method"] == "grad-cam"]
    assert np.mean(own) == pytest.approx(means["grad-cam", "maxboxacc-v2"])
    assert sum(band["pictures"] for band in document["bands"]) in (0, len(texts))


def test_what_needs_two_classes(scenes: Path, tmp_path: Path) -> None:
    rows = (scenes / "list.csv").read_text("utf-8").splitlines()
    alone = scenes / "alone.csv"
    alone.write_text("\n".join(rows[:2]), "utf-8")
    named = cli(MODEL, alone, "--metrics", "energy,discrimination", "--to", tmp_path / "no")
    assert named.exit_code == 1
    assert "discrimination-share, discrimination-mean: pictures with boxes or" in named.output
    assert not (tmp_path / "no").exists()
    every = ("--metrics", "all", "--methods", "grad-cam", "--curve-steps", 2)
    assert cli(MODEL, alone, *every, "--to", tmp_path / "all").exit_code == 0
    document = json.loads((tmp_path / "all" / "summary.json").read_text("utf-8"))
    left = {metric["name"] for metric in document["metrics"]}
    assert set(METRICS) - left == {"discrimination-share", "discrimination-mean"}
    assert document["bands"] == []  # of one picture


def test_a_mask_of_another_class_must_fit(scenes: Path, tmp_path: Path) -> None:
    lines = (scenes / "list.csv").read_text("utf-8").splitlines()[:3]
    for line in lines[1:]:
        file, _, mask = line.split(",")
        for name, size in ((file, 96), (mask, 96)):
            Image.new("L", (size, size), 90).save(tmp_path / name)
    Image.new("L", (5, 5), 255).save(tmp_path / mask)
    (tmp_path / "list.csv").write_text("\n".join(lines), "utf-8")
    asked = ("--methods", "grad-cam", "--metrics", "energy", "--to", tmp_path / "to")
    found = cli(MODEL, tmp_path / "list.csv", *asked)
    assert found.exit_code == 1
    assert f"no picture could be judged; {file}: " in found.output
    assert f"{mask}: the mask is 5×5 and its picture 96×96" in found.output


# --- bands of confidence -------------------------------------------------------------------------


def confident(probabilities: list[float | None]) -> list[dict[str, Any]]:
    """Rows whose method b is as good as a, but for 10 where the model is sure."""
    return [
        {"probability": p, "methods": {
            "a": {"values": {"energy": 50.0 + i % 3, "maxboxacc-v1": "10"}},
            "b": {"values": {"energy": 50.0 + i % 3 - 10 * ((p or 0) >= 0.99),
                             "maxboxacc-v1": "01" if i else "00"}},
        }}
        for i, p in enumerate(probabilities)
    ]  # fmt: skip


def test_bands() -> None:
    rows = confident([0.1, 0.5, None, *[0.95] * FEW, 0.99, *[1.0] * FEW])
    found = bands(rows, ("a", "b"), ("energy", "maxboxacc-v1"), 0)
    assert [(b["low"], b["high"], b["pictures"], b["few"]) for b in found] == [
        (0.0, 0.5, 1, True), (0.5, 0.9, 1, True), (0.9, 0.99, FEW, False),
        (0.99, 1.0, FEW + 1, False),
    ]  # fmt: skip
    tests = [one for band in found for one in band["tests"] if one["metric"] == "energy"]
    assert [one["difference"] for one in tests] == pytest.approx([0, 0, 0, 10])
    assert tests[2]["p"] == 1 and tests[3]["p"] < 0.01 and tests[3]["count"] == FEW + 1
    accuracy = [[row["mean"] for row in band["summary"] if row["metric"] == "maxboxacc-v1"]
                for band in found]  # fmt: skip
    assert accuracy == [[100, 0], [100, 100], [100, 100], [100, 100]]  # thresholds of the whole set


@pytest.mark.parametrize("held", [[], [0.2], [0.91, 0.95], [None, 0.3]])
def test_one_band_is_none(held: list[float | None]) -> None:
    assert bands(confident(held), ("a", "b"), ("energy",), 0) == []
