"""Several models on one data set: which pictures count, what tells the models apart."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from scenes import describe, draw

from models import ONE_UNIT, one_unit
from onnxcam import Explainer
from onnxcam.cli import main
from onnxcam.errors import OptionError
from onnxcam.evaluate.judge import Judge
from onnxcam.evaluate.metrics import metrics_named
from onnxcam.evaluate.report import page
from onnxcam.evaluate.results import distinct
from onnxcam.evaluate.samples import Sample, by_picture
from onnxcam.evaluate.selection import both_right, compared, verdicts
from onnxcam.evaluate.statistics import holm

MODELS = Path(__file__).parents[1] / "models"
RESIDUAL, VGG = MODELS / "demo_residual.onnx", MODELS / "demo_vgg.onnx"


def row(picture: str, right: bool | None, **values: float | None) -> dict[str, Any]:
    return {"picture": picture, "right": right, "methods": {"cam": {"values": values}}}


def cli(*arguments: Any) -> Any:
    from click.testing import CliRunner

    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)], catch_exceptions=False)


def test_holm_after_the_paper() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == pytest.approx([1.0, 1.0]) and holm([]) == []
    ps = list(np.random.default_rng(1).random(30) ** 3)
    found = holm(ps)
    rejected, left = set(), sorted(range(30), key=ps.__getitem__)
    for place in list(left):  # the stepwise procedure itself
        if ps[place] > 0.05 / len(left):
            break
        rejected.add(left.pop(0))
    assert {i for i, p in enumerate(found) if p <= 0.05} == rejected


def test_pictures_that_both_classify_right() -> None:
    a = [row("1", True), row("2", False), row("3", True), row("4", None)]
    b = [row("3", True), row("1", True), row("2", True), row("5", True), row("4", None)]
    of_a, of_b = both_right(a, b)
    assert [r["picture"] for r in of_a] == [r["picture"] for r in of_b] == ["1", "3", "4"]


def test_a_better_model_is_named_and_only_then() -> None:
    names = [str(i) for i in range(20)]
    noise = np.random.default_rng(2).random(20)
    a = [row(n, True, **{"drop-soft": 10 + v, "energy": 50 + v, "sparseness": v})
         for n, v in zip(names, noise, strict=True)]  # fmt: skip
    b = [row(n, True, **{"drop-soft": 30 + v, "energy": 50 + noise[-i - 1], "sparseness": 9.0})
         for i, (n, v) in enumerate(zip(names, noise, strict=True))]  # fmt: skip
    b[0]["methods"]["cam"]["values"]["energy"] = None
    found = compared({"A": a, "B": b}, ["cam"], ["drop-soft", "energy", "sparseness"], 0)
    drop, energy, _ = found
    assert drop["difference"] == pytest.approx(-20) and drop["wins"] == 20 and drop["p"] < 1e-3
    assert drop["mean_a"] - drop["mean_b"] == pytest.approx(-20)
    assert energy["count"] == 19  # one has no value: neither mean knows the picture
    assert energy["mean_a"] == pytest.approx(50 + noise[1:].mean())
    faithful, placed = verdicts(found)
    assert faithful["better"] == "A" and faithful["wins"] == {"A": 1, "B": 0}
    assert faithful["sentence"].startswith("maps of A are more faithful than those of B: 1 of 1")
    assert placed["better"] is None and "none of 1 tests" in placed["sentence"]
    assert verdicts(found[2:]) == []  # how a map looks decides nothing


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/model.onnx", "b.onnx"], ["model.onnx", "b.onnx"]),
        (["a/model.onnx", "b/model.onnx"], ["a/model.onnx", "b/model.onnx"]),
        (["a/c/m.onnx", "b/c/m.onnx", "n.onnx"], ["a/c/m.onnx", "b/c/m.onnx", None]),
    ],
)
def test_models_of_one_name_are_told_apart(paths: list[str], names: list[str | None]) -> None:
    for found, name in zip(distinct(paths), names, strict=True):
        assert name is None or found == name
    with pytest.raises(OptionError, match="named twice"):
        distinct([*paths, paths[0]])


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of scenes; each is labelled with what the residual network sees but the last."""
    folder = tmp_path_factory.mktemp("scenes")
    explainer = Explainer(RESIDUAL, provider="cpu")
    with (folder / "list.csv").open("w", newline="") as stream:
        write = csv.writer(stream).writerow
        write(["file", "label", "x0", "y0", "x1", "y1"])
        for seed in range(4):
            Image.fromarray(draw(describe(seed), 96).pixels).save(folder / f"{seed}.png")
            target = int(explainer.explain(folder / f"{seed}.png").target[0])
            write([f"{seed}.png", (target + (seed == 3)) % 10, 10, 10, 50, 50])
    return folder


def test_two_models_from_the_command_line(scenes: Path, tmp_path: Path) -> None:
    to, data = tmp_path / "study", scenes / "list.csv"
    how = ("--methods", "ablation-cam,grad-cam", "--metrics", "drop-20,energy")
    asked = (RESIDUAL, VGG, data, *how, "--explain", "predicted", "--to", to)
    found = cli(*asked)
    assert found.exit_code == 0, found.output
    assert "3 of 4 labelled pictures classified right" in found.output
    assert "demo_residual.onnx / demo_vgg.onnx" in found.output
    document = json.loads((to / "summary.json").read_text("utf-8"))
    assert [model["name"] for model in document["models"]] == [RESIDUAL.name, VGG.name]
    kept = {
        model.name: [json.loads(line) for line in
                     (to / model.name / "rows.jsonl").read_text("utf-8").splitlines()[1:]]
        for model in (RESIDUAL, VGG)
    }  # fmt: skip
    both = {r["picture"] for r in kept[RESIDUAL.name] if r["right"]} & {
        r["picture"] for r in kept[VGG.name] if r["right"]
    }
    assert both and {one["pictures"] for one in document["verdicts"]} == {len(both)}
    for one in document["selection"]:
        for side in "ab":
            values = [r["methods"][one["method"]]["values"][one["metric"]]
                      for r in kept[one[side]] if r["picture"] in both]  # fmt: skip
            assert one[f"mean_{side}"] == pytest.approx(np.mean(values))
    rows = list(csv.DictReader((to / "results.csv").read_text("utf-8").splitlines()))
    assert {(r["model"], r["picture"]) for r in rows} == {
        (model.name, f"{seed}.png") for model in (RESIDUAL, VGG) for seed in range(4)
    }
    html = (to / "report.html").read_text("utf-8")
    assert "Models compared" in html and document["verdicts"][0]["sentence"][:20] in html
    again = cli(*asked, "--json")
    assert json.loads(again.stdout)["selection"] == document["selection"]
    assert json.loads(again.stdout)["cost"]["inferences"] == 0


def test_the_predicted_class_has_its_boxes_where_it_is_labelled(scenes: Path) -> None:
    explainer = Explainer(RESIDUAL, provider="cpu", threads=1)
    target = int(explainer.explain(scenes / "0.png").target[0])
    other = Sample("a", scenes / "0.png", (target + 1) % 10, boxes=((0.0, 0.0, 96.0, 96.0),))
    own = Sample("a#2", scenes / "0.png", target, boxes=((10.0, 10.0, 50.0, 50.0),))
    (one,) = by_picture([other, own])
    assert one.name == "a" and one.entries[1] == own
    judge = Judge(explainer, ["grad-cam"], metrics_named(["energy"]), predicted=True)
    values = {}
    for name, sample in {"both": one, "other": other, "own": own}.items():
        row, _ = judge(sample)
        values[name] = row["right"], row["methods"]["grad-cam"]["values"]["energy"]
    assert values["both"] == values["own"] and values["own"][0] is True
    assert values["other"] == (False, None)  # boxes of a class that is not explained
    row, _ = Judge(explainer, ["saliency"], metrics_named(["energy"]))(other)
    assert row["right"] is False and row["target"] == other.label
    assert row["methods"]["saliency"]["values"]["energy"] == 100


@pytest.mark.parametrize("tail", ["sigmoid (N, 1)", "logit (N,)"])
def test_a_head_of_one_unit_has_two_decisions(tail: str, scenes: Path, tmp_path: Path) -> None:
    path, names = tmp_path / "one.onnx", tmp_path / "names.txt"
    onnx.save(one_unit(*ONE_UNIT[tail][:2], bias=-9.0), path)
    names.write_text("sound\nbroken\n")
    (tmp_path / "list.csv").write_text("file,label\n0.png,0\n1.png,broken\n2.png,sound\n")
    how = ("--pictures", scenes, "--preset", "raw-1", "--metrics", "drop-soft", "--methods")
    asked = (path, tmp_path / "list.csv", *how, "ablation-cam", "--to", tmp_path / "study")
    found = cli(*asked, "--labels", names)
    assert found.exit_code == 0, found.output
    assert "2 of 3 labelled pictures classified right" in found.output
    lines = (tmp_path / "study" / "rows.jsonl").read_text("utf-8").splitlines()[1:]
    explainer = Explainer(path, "ablation-cam", preset="raw-1", class_names=["sound", "broken"])
    for line, right in zip(lines, (True, False, True), strict=True):
        held = json.loads(line)
        assert (held["target"], held["target_name"], held["right"]) == (1, "sound", right)
        against = explainer.explain(scenes / held["picture"], "not:0")
        assert held["logit"] == pytest.approx(float(against.target_score[0]), rel=1e-4)
        unit = explainer.probabilities(against.preset.tensor(against.picture))[0, 0]
        assert held["probability"] == pytest.approx(1 - unit, rel=1e-5) and unit < 0.5
    labelled = cli(*asked, "--labels", names, "--explain", "label", "--force", "--json")
    rows = list(csv.DictReader((tmp_path / "study" / "results.csv").read_text().splitlines()))
    assert labelled.exit_code == 0 and [row["target"] for row in rows] == ["1", "0", "1"]
    unnamed = cli(*asked, "--force")
    assert "the class names are not known; give an index from 0 to 1" in unnamed.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("a.jpg", "b.jpg"), "a.jpg is a picture, and all but the last argument are models"),
        ((RESIDUAL, RESIDUAL, "photos"), "named twice"),
        ((RESIDUAL, VGG, "photos", "--label-offset", "0,1,2"), "3 numbers for 2 models"),
        ((RESIDUAL, "photos", "--label-offset", "one"), "whole numbers are needed"),
    ],
)
def test_what_is_wrong_with_several_models_is_said(arguments: tuple[Any, ...], said: str) -> None:
    found = cli(*arguments)
    assert found.exit_code == 1 and said in found.output


def test_a_report_of_one_model_compares_none() -> None:
    study = {
        "onnxcam": "0", "made": "", "command": "", "models": [{"name": "m", "right": None}],
        "data": {"source": "", "kind": "", "pictures": 0, "explained": ""}, "settings": {},
        "inferences": 0, "seconds": 0, "throughput": None, "verdicts": [],
        **{key: [] for key in ("metrics", "methods", "summary", "tests", "bands", "selection",
                               "curves", "rows", "failures")},
    }  # fmt: skip
    assert "Models compared" not in page(study, lambda *_: None)
