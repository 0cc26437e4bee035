"""The reproduction of the papers' tables: its measures, its judgement, its page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import reproduce
import reproduce_lines as lines
import reproduce_page as pages
from reproduce_papers import KEPT, PLACED

from onnxcam.errors import OutputError
from onnxcam.evaluate.judge import Judge
from onnxcam.evaluate.trial import Trial, View
from onnxcam.image import Geometry, read_picture

NOWHERE = Path("nowhere")


def found(
    first: Sequence[float], second: Sequence[float], metric: str = "drop-soft", **more: Any
) -> lines.Found:
    """A study whose two methods have these values."""
    rows = [
        {
            "picture": str(number), "target": 0, "predicted": 0, "probability": 1.0,
            "methods": {
                method: {"values": {metric: values[number]}}
                for method, values in (("grad-cam++", first), ("ablation-cam", first),
                                       ("grad-cam", second))
            },
        }
        for number in range(len(first))
    ]  # fmt: skip
    given = {"net": "a net", "head": "FC", "set": "a set", "data": "one", "truth": {}, "like": {}}
    return lines.Found(rows=tuple(rows), **(given | more))


def trial(values: Sequence[Sequence[float]], boxes: Sequence[tuple[float, ...]]) -> Trial:
    """A map as large as its picture."""
    heat = np.array(values, np.float32)
    side = heat.shape[0]
    geometry = Geometry((0, 0, side, side), (side, side), (0, 0), (side, side))
    x = np.zeros((3, side, side), np.float32)
    return Trial(View(x, x, 1.0, 1.0, (side, side), geometry, tuple(boxes)), heat)


def test_the_overlap_is_the_papers() -> None:
    one = trial([[2, 1.5], [1, 1]], [(0, 0, 1, 2)])  # the smallest value is 0, as in the paper
    measured = {metric.name: metric.measure(one) for metric in reproduce.OWN}
    assert measured["loc-0"] == pytest.approx(1 / 3)  # of three pixels: one in both, one in each
    assert measured["loc-25"] == pytest.approx(1 / 3)
    assert measured["loc-50"] == pytest.approx(1 / 2)  # 1.5 is half way, and not above
    assert measured["covered"] == 50 and measured["wide"] == 100
    zero = trial([[0, 0], [0, 0]], [(0, 0, 1, 2)])
    assert {m.name: m.measure(zero) for m in reproduce.OWN}["loc-0"] == 0


def test_instances_reached() -> None:
    values = np.zeros((4, 4))
    values[0, 0], values[3, 3] = 1, 0.4
    reached = next(metric for metric in reproduce.OWN if metric.name == "reached")
    boxes = [(0.0, 0.0, 2.0, 2.0), (2.0, 2.0, 4.0, 4.0)]
    assert reached.measure(trial(values.tolist(), boxes)) == 50
    values[3, 3] = 0.6
    assert reached.measure(trial(values.tolist(), boxes)) == 100


def test_scenes_hold_what_they_say(tmp_path: Path) -> None:
    samples = reproduce.scene_samples(tmp_path, 3, 4)
    assert [len(sample.boxes) for sample in samples] == [3] * 4
    for sample in samples:
        assert sample.mask is not None
        mask = read_picture(sample.mask).pixels.any(axis=-1)
        boxed = np.zeros(mask.shape, bool)
        for x0, y0, x1, y1 in sample.boxes:
            boxed[int(y0) : int(y1), int(x0) : int(x1)] = True
        assert mask.any() and not (mask & ~boxed).any()
        assert read_picture(sample.path).pixels.shape == (reproduce.SIDE, reproduce.SIDE, 3)
    again = reproduce.scene_samples(tmp_path / "again", 3, 4)
    assert [s.path.read_bytes() for s in again] == [s.path.read_bytes() for s in samples]


def test_a_study_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[str] = []
    whole = Judge.__call__

    def counted(self: Judge, sample: Any, *given: Any) -> Any:
        judged.append(sample.name)
        return whole(self, sample, *given)

    monkeypatch.setattr(Judge, "__call__", counted)
    two = ("grad-cam", "grad-cam++")

    def study(limit: int, methods: Sequence[str] = two) -> lines.Found:
        net = reproduce.NETS["residual"]
        return reproduce.study(net, "one", tmp_path, NOWHERE, 9, limit, lambda line: None, methods)

    study(2)
    more = study(3)
    assert len(judged) == len(set(judged)) == len(more.rows) == 3
    assert set(more.rows[0]["methods"]) == set(two)
    assert more.like["cam"] == pytest.approx(1, abs=1e-6)  # CAM's map, up to a factor
    assert more.like["ablation-cam"] is not None and 0.9 < more.like["ablation-cam"] < 0.9999
    line = lines.methods_on(more, "loc-25", "grad-cam++")
    assert line is not None and line.pair.count == len(more.said) > 0
    with pytest.raises(OutputError, match="methods"):
        study(3, ("grad-cam", "eigen-cam"))


def test_no_shared_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="name the shared folder with --shared"):
        reproduce.study(
            reproduce.NETS["cifar"], "cifar10", tmp_path, tmp_path / "none", 1, 1, print
        )


def test_the_judgement_follows_the_numbers() -> None:
    low, high = list(range(1, 21)), list(range(3, 23))
    agrees = lines.methods_on(found(low, high), "drop-soft", "grad-cam++")
    differs = lines.methods_on(found(high, low), "drop-soft", "grad-cam++")
    same = lines.methods_on(found(low, low), "drop-soft", "grad-cam++")
    few = lines.methods_on(found(low[:4], high[:4]), "drop-soft", "grad-cam++")
    assert agrees and differs and same and few
    assert [line.verdict for line in (agrees, differs, same, few)] == [
        lines.AGREES, lines.DIFFERS, lines.OPEN, lines.OPEN,
    ]  # fmt: skip
    more = lines.methods_on(found(low, high, "energy"), "energy", "grad-cam++")
    assert more is not None and more.verdict == lines.DIFFERS  # there more is better
    sections = [pages.section("kept", [found(*pair)]) for pair in ((low, high), (high, low))]
    assert "Average Drop %: 1 of 1 agree" in sections[0]
    assert "Average Drop %: 0 of 1 agree" in sections[1]
    assert pages.WHY["kept"][lines.AGREES] in sections[0]
    assert pages.WHY["kept"][lines.DIFFERS] in sections[1]
    assert pages.WHY["kept"][lines.DIFFERS] not in sections[0]


def test_models_are_compared_where_both_are_right() -> None:
    names = lines.PAIRS[0]
    strong, weak = (
        found([drop] * 20, [drop] * 20, net=name) for name, drop in zip(names, (1, 2), strict=True)
    )
    for row in weak.rows[:5]:
        row["probability"] = 0.2
    line = lines.two_models(strong, weak, "grad-cam", "drop-soft")
    assert line is not None and line.pair.count == 15 and line.verdict == lines.AGREES


def test_a_photograph_is_right_by_its_label() -> None:
    one = found([1, 2], [1, 2], truth={"0": 0, "1": 5})
    assert [row["picture"] for row in one.right] == ["0"] and len(one.said) == 2


def test_equal_area_is_judged_by_the_numbers() -> None:
    low, high = [float(n) for n in range(1, 21)], [float(n) for n in range(3, 23)]

    def both(soft: bool, equal: bool) -> str:
        one = found(*((low, high) if soft else (high, low)))
        for row, a, b in zip(one.rows, *((low, high) if equal else (high, low)), strict=True):
            row["methods"]["grad-cam++"]["values"]["drop-30"] = a
            row["methods"]["grad-cam"]["values"]["drop-30"] = b
        return pages.section("kept", [one])

    assert "ahead in 0 studies, behind in 1, where it is ahead in 1" in both(True, False)
    assert "width is not what decides" in both(True, True)


def test_scattered_pixels_are_named_where_they_are() -> None:
    grows = found([1.0] * 3, [1.0] * 3, "drop-30")
    for row in grows.rows:
        for method in row["methods"].values():
            method["values"]["drop-50"] = 9.0
    assert "(9.00 after 1.00)" in pages.scattered([grows])
    for row in grows.rows:
        row["methods"]["grad-cam"]["values"]["drop-50"] = 0.5
    assert pages.scattered([grows]).startswith("Nowhere")


def test_gains_are_those_of_the_same_number() -> None:
    one, several = (
        found(first, [5.0] * 20, "loc-25", data=data)
        for first, data in (([6.0] * 20, "one"), ([8.0] * 20, "several"))
    )
    line = lines.gains(one, several, "loc-25")
    assert line is not None and line.verdict == lines.AGREES
    assert (line.a.mean, line.b.mean, line.pair.difference) == (3, 1, 2)
    back = lines.gains(several, one, "loc-25")
    assert back is not None and back.verdict == lines.DIFFERS


def test_wins_are_tested_by_sign() -> None:
    first, second = [1.0] * 18 + [99.0, 5.0], [2.0] * 18 + [3.0, 5.0]
    mean, win = (
        lines.methods_on(found(first, second), metric, "grad-cam++")
        for metric in ("drop-soft", f"{lines.WIN}-drop-soft")
    )
    assert mean is not None and mean.verdict == lines.OPEN and mean.pair.difference > 0
    assert win is not None and win.verdict == lines.AGREES
    assert (win.a.mean, win.b.mean, win.pair.ties) == (90, 5, 1)


def test_the_theory_of_averaging_heads() -> None:
    """What the page says of the weights, on the demo net: Ablation-CAM's are g · ΣA / y."""
    explainer = reproduce.explainer_of(reproduce.NETS["residual"], NOWHERE)
    picture = reproduce.ROOT / "models" / "demo_scene.png"
    found = explainer.compare(picture, ["ablation-cam", "grad-cam", "grad-cam++"])
    weights = [np.asarray(one.weights, np.float64).reshape(-1) for one in found]
    model = onnx.load(reproduce.ROOT / "models" / "demo_residual.onnx")
    model.graph.output.append(onnx.helper.make_tensor_value_info("features", 1, None))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    tensor = found[0].preset.tensor(read_picture(picture))
    features = session.run(["features"], {"image": tensor})[0].astype(np.float64)
    total, cells = features.sum(axis=(2, 3)).reshape(-1), features[0, 0].size
    score, g = float(found[0].target_score.item()), weights[1]
    assert np.allclose(weights[0], g * total / score, atol=1e-5)
    positive = np.maximum(g, 0)
    assert np.allclose(weights[2], cells * positive / (2 + positive * total), rtol=1e-4, atol=1e-7)


def test_the_papers_figures() -> None:
    for row in KEPT:
        assert all(0 < value < 100 for pair in (row.drop, row.increase, row.win) for value in pair)
        assert row.drop[0] < row.drop[1] and row.win[0] > row.win[1]
    odd = [row.table for row in KEPT if abs(sum(row.win) - 100) > 0.01]
    assert odd == ["Table 2"] and "100.91" in pages.ABOUT["kept"]
    assert all(row.overlap[0] > row.overlap[1] for row in PLACED)


def test_the_page_has_all_of_it(root: Path) -> None:
    page = (root / "docs" / "reproduction.md").read_text("utf-8")
    for row in KEPT:
        for a, b in (row.drop, row.increase, row.win):
            assert f"{a:.2f} / {b:.2f}" in page
    for placed in PLACED:
        assert all(f"| {value:.2f} |" in page for value in placed.overlap)
    for section in pages.SECTIONS.values():
        assert f"## {section.title}\n" in page
    for net, data in reproduce.STUDIES:
        one = reproduce.NETS[net]
        assert f"| {one.title} ({one.head}), {reproduce.SETS[data]} |" in page
    told = sum(page.count(f", {verdict} |") for verdict in lines.VERDICTS)
    claimed = re.findall(r"^- .*: (\d+) of (\d+) agree, (\d+) do not, (\d+) open$", page, re.M)
    assert told > 200 and len(claimed) > 20
    assert all(int(a) + int(b) + int(c) == int(n) for a, n, b, c in claimed)
