"""Metrics of faithfulness, held against their formulas written out, and whole studies."""

from __future__ import annotations

import csv
import io
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from scenes import describe, draw

from models import close, images
from onnxcam import Explainer
from onnxcam.cli import main
from onnxcam.errors import OptionError, OutputError
from onnxcam.evaluate.impute import NEIGHBOURS, blurred, linear, mean
from onnxcam.evaluate.judge import Judge
from onnxcam.evaluate.metrics import DEFAULTS, METRICS, area, metrics_named
from onnxcam.evaluate.parquet import as_parquet
from onnxcam.evaluate.probes import ROAD_SHARES, probe, subsets
from onnxcam.evaluate.samples import Sample
from onnxcam.evaluate.statistics import mean_of, paired
from onnxcam.evaluate.study import Rows, columns, run
from onnxcam.evaluate.trial import Trial, View
from onnxcam.image import Geometry, Picture

MODEL = Path(__file__).parents[1] / "models" / "demo_residual.onnx"
PICTURE = Path(__file__).parents[1] / "models" / "demo_scene.png"


def trial(heat: np.ndarray, **more: Any) -> Trial:
    """A trial on a random picture as large as its map."""
    height, width = heat.shape
    whole = Geometry((0, 0, width, height), (height, width), (0, 0), (height, width))
    given: dict[str, Any] = {
        "x": images(1, 3, height, width, seed=1)[0], "black": np.full((3, height, width), -2.0),
        "logit": 4.0, "probability": 0.5, "size": (height, width), "geometry": whole,
    }  # fmt: skip
    return Trial(View(**given | more), heat.astype(np.float32))


def judged(name: str, logit: float, probability: float) -> Trial:
    one = trial(np.ones((4, 4)))
    for key in METRICS[name].probes:
        one.judged[key] = np.array([logit]), np.array([probability])
    return one


@pytest.mark.parametrize(
    ("name", "logit", "probability", "value"),
    [
        ("drop-soft", 9, 0.4, 20.0),
        ("drop-20", 9, 0.6, 0.0),  # an increase is no negative drop
        ("drop-30-score", 3, 0.9, 25.0),
        ("drop-50-score", -1, 0.9, 125.0),
        ("increase-soft", 1, 0.6, 100.0),
        ("increase-50", 9, 0.5, 0.0),
        ("increase-20-score", 4.5, 0.1, 100.0),
    ],
)
def test_drops_and_increases(name: str, logit: float, probability: float, value: float) -> None:
    assert METRICS[name].measure(judged(name, logit, probability)) == pytest.approx(value)


def test_a_score_below_zero_has_no_drop() -> None:
    one = judged("drop-soft-score", 1, 0.5)
    one.view.logit = -1.0
    assert METRICS["drop-soft-score"].measure(one) is None


def test_what_is_kept() -> None:
    heat = np.arange(100.0).reshape(10, 10)
    one = trial(heat)
    (kept,) = probe("kept-20", 8)(one)
    there = heat >= 80
    np.testing.assert_array_equal(kept[:, there], one.view.x[:, there])
    assert (kept[:, ~there] == -2).all()
    (soft,) = probe("soft", 8)(one)
    close(soft, -2 + (heat / 99) * (one.view.x + 2), tolerance=1e-6)


def test_curves_begin_and_end_with_the_picture_or_without() -> None:
    one = trial(np.arange(64.0).reshape(8, 8))
    x, gone = one.view.x, mean(one.view.x, np.ones((8, 8), bool))
    away = probe("deletion-mean", 4)(one)
    close(away[0], x), close(away[-1], gone)
    assert [(step != x).any(axis=0).sum() for step in away] == [0, 16, 32, 48, 64]
    back = probe("insertion-blur", 4)(one)
    close(back[-1], x), close(back[0], blurred(x))
    hottest = np.arange(64).reshape(8, 8) >= 48
    np.testing.assert_array_equal(back[1][:, hottest], x[:, hottest])
    filled, noisy = (probe(f"insertion-{how}", 4)(one) for how in ("linear", "noisy-linear"))
    for step in (filled[1], noisy[1]):
        np.testing.assert_array_equal(step[:, hottest], x[:, hottest])
    off = (noisy[1] - filled[1])[:, ~hottest]
    assert 0.5 < off.std() / (0.1 * x.std()) < 1.5  # the noise, and nothing else


def test_pixels_of_equal_heat_are_drawn_the_same_for_all() -> None:
    a, b = (trial(np.zeros((6, 6))) for _ in range(2))
    np.testing.assert_array_equal(a.order, b.order)
    assert (a.order != np.arange(36)).any()
    assert a.hottest(0.25).sum() == a.coolest(0.25).sum() == 9
    assert not (a.hottest(0.5) & a.coolest(0.5)).any()


def test_area() -> None:
    assert area(np.array([1.0, 0.5, 0.0])) == pytest.approx(0.5)
    assert area(np.array([1.0, 1.0]), np.array([0.1, 0.9])) == pytest.approx(1.0)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_linear_imputation_solves_its_equations(share: float) -> None:
    rng = np.random.default_rng(3)
    x, removed = rng.standard_normal((2, 9, 7)).astype(np.float32), rng.random((9, 7)) < share
    found = linear(x, removed)
    np.testing.assert_array_equal(found[:, ~removed], x[:, ~removed])
    places = [tuple(p) for p in np.argwhere(removed)]
    system, right = np.zeros((len(places), len(places))), np.zeros((len(places), 2))
    for row, (i, j) in enumerate(places):
        for (dy, dx), weight in NEIGHBOURS.items():
            at = (i + dy, j + dx)
            if not (0 <= at[0] < 9 and 0 <= at[1] < 7):
                continue
            system[row, row] += weight
            if removed[at]:
                system[row, places.index(at)] -= weight
            else:
                right[row] += weight * x[:, at[0], at[1]]
    close(found[:, removed], np.linalg.solve(system, right).T, tolerance=1e-5)


def test_linear_imputation_at_its_ends() -> None:
    x = images(1, 3, 6, 6, seed=2)[0]
    np.testing.assert_array_equal(linear(x, np.zeros((6, 6), bool)), x)
    close(linear(x, np.ones((6, 6), bool)), mean(x, np.ones((6, 6), bool)))
    noisy = [linear(x, x[0] > 0, 0.1, np.random.default_rng(4)) for _ in range(2)]
    np.testing.assert_array_equal(*noisy)
    assert 0 < np.abs(noisy[0] - linear(x, x[0] > 0)).max() < 1


def test_a_blur_keeps_what_is_even() -> None:
    close(blurred(np.full((3, 20, 9), 7.0)), np.full((3, 20, 9), 7.0))
    step = np.zeros((1, 31, 31), np.float64)
    step[:, 15, 15] = 1
    found = blurred(step, 2.0)
    assert found.sum() == pytest.approx(1, abs=1e-3)
    ys = np.arange(31) - 15
    assert (found[0].sum(axis=1) * ys**2).sum() == pytest.approx(4, rel=0.05)


def test_road() -> None:
    one = trial(np.arange(400.0).reshape(20, 20))
    most, least = probe("most-noisy-linear", 8)(one), probe("least-noisy-linear", 8)(one)
    changed = [(step != one.view.x).any(axis=0).sum() for step in most]
    assert changed == [round(share * 400) for share in ROAD_SHARES] and len(least) == len(most)
    one.judged["most-noisy-linear"] = np.zeros(7), np.full(7, 0.2)
    one.judged["least-noisy-linear"] = np.zeros(7), np.linspace(0.9, 0.3, 7)
    found = [METRICS[f"road-{kind}"].measure(one) for kind in ("most", "least", "both")]
    assert found == pytest.approx([0.2, 0.6, 0.2])


def test_sensitivity_n_of_an_additive_model_is_one() -> None:
    heat = np.random.default_rng(5).random((28, 28))
    one = trial(heat)
    lost = (subsets(one) * one.heat).sum(axis=(1, 2))
    one.judged["subsets"] = one.view.logit - 0.1 * lost, np.zeros(len(lost))
    assert METRICS["sensitivity-n"].measure(one) == pytest.approx(1)
    assert {int(s.sum()) for s in subsets(one)} == {28 * 28 // 2}
    one.judged["subsets"] = np.zeros(len(lost)), np.zeros(len(lost))
    assert METRICS["sensitivity-n"].measure(one) is None


def test_max_sensitivity() -> None:
    one = trial(np.array([[3.0, 4.0]]))
    one.again = np.array([[[3.0, 4.0]], [[0.0, 4.0]], [[3.0, 5.0]]])
    assert METRICS["max-sensitivity"].measure(one) == pytest.approx(3 / 5)


def test_complexity_and_sparseness() -> None:
    even, one_hot = trial(np.ones((4, 4))), trial(np.eye(1, 16).reshape(4, 4))
    assert METRICS["complexity"].measure(even) == pytest.approx(np.log(16))
    assert METRICS["complexity"].measure(one_hot) == 0
    assert METRICS["sparseness"].measure(even) == pytest.approx(0)
    assert METRICS["sparseness"].measure(one_hot) == pytest.approx(15 / 16)
    values = np.random.default_rng(6).random(16)
    pairs = np.abs(values[:, None] - values[None]).sum() / (2 * 16 * values.sum())
    found = METRICS["sparseness"].measure(trial(values.reshape(4, 4)))
    assert found == pytest.approx(pairs)  # the Gini index as a mean difference
    for name in ("complexity", "sparseness"):
        assert METRICS[name].measure(trial(np.zeros((4, 4)))) is None


def test_places() -> None:
    heat = np.zeros((40, 60))
    heat[10, 20] = heat[30, 50] = 1.0
    heat[30, 50] = 0.5
    one = trial(heat, boxes=((18.0, 8.0, 24.0, 14.0),))
    values = {n: METRICS[n].measure(one) for n in ("pointing", "energy", "iou-25", "iou-50")}
    assert values == pytest.approx(
        {"pointing": 100, "energy": 100 * 2 / 3, "iou-25": 1 / 37, "iou-50": 1 / 37}
    )
    near = trial(heat, boxes=((35.0, 10.0, 40.0, 12.0),))
    assert METRICS["pointing"].measure(near) == 100  # 15 pixels to the right of the maximum
    assert METRICS["pointing"].measure(trial(heat, boxes=((36.0, 10.0, 40.0, 12.0),))) == 0
    assert METRICS["pointing"].measure(trial(heat)) is None
    mask = np.zeros((40, 60), bool)
    mask[30, 50] = True
    assert METRICS["energy"].measure(trial(heat, mask=mask)) == pytest.approx(100 / 3)
    assert METRICS["energy"].measure(trial(0 * heat, mask=mask)) == 0


def test_metrics_are_found_by_name_and_kind() -> None:
    assert [m.name for m in metrics_named(["iou", "iou-25"])] == ["iou-25", "iou-50"]
    assert len(metrics_named(["all"])) == len(METRICS) >= 30
    assert set(DEFAULTS) <= set(METRICS)
    with pytest.raises(OptionError, match=r"no metric 'insertoin'.*insertion"):
        metrics_named(["insertoin"])
    with pytest.raises(OptionError, match="no way 'kept'"):
        probe("kept", 8)


def test_means_and_pairs() -> None:
    values = np.array([1.0, 2.0, np.nan, 6.0])
    found = mean_of(values)
    assert found is not None and found.mean == 3 and found.count == 3
    assert 1 <= found.low < 3 < found.high <= 6
    assert mean_of(np.array([np.nan])) is None
    rng = np.random.default_rng(7)
    wide = [mean_of(rng.standard_normal(60), seed) for seed in range(200)]
    inside = sum(m.low <= 0 <= m.high for m in wide if m) / len(wide)
    assert 0.88 < inside < 0.99
    a, b = rng.standard_normal((2, 7))
    b[3] = a[3]
    pair = paired(a, b, "less")
    assert pair is not None and (pair.wins, pair.ties) == (int((a < b).sum()), 1)
    gain = (a - b)[a != b]
    sums = [abs(sum(s * g for s, g in zip(signs, gain, strict=True)))
            for signs in itertools.product((-1, 1), repeat=6)]  # fmt: skip
    expected = np.mean([one >= abs(gain.sum()) - 1e-12 for one in sums])
    assert pair.p == pytest.approx(float(expected))
    many = rng.standard_normal(40)
    drawn, same = paired(many + 1, many, "more"), paired(many, many, "more")
    assert drawn is not None and drawn.p < 1e-3 and drawn.wins == 40
    assert same is not None and same.p == 1 and same.ties == 40


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of pictures: two scenes, one damaged."""
    folder = tmp_path / "photos"
    folder.mkdir()
    scene = Image.open(PICTURE).convert("RGB")
    scene.save(folder / "a.png")
    scene.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "b.png")
    (folder / "c.png").write_bytes(PICTURE.read_bytes()[:200])
    return folder


def cli(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)], catch_exceptions=False)


def test_a_study_from_the_command_line(photos: Path, tmp_path: Path) -> None:
    to = tmp_path / "study"
    asked = (MODEL, photos, "--methods", "grad-cam,eigen-cam", "--curve-steps", 4, "--to", to)
    found = cli(*asked)
    assert found.exit_code == 0, found.output
    assert "left out: c.png" in found.output and "pointing" not in found.output
    document = json.loads((to / "summary.json").read_text("utf-8"))
    rows = list(csv.DictReader((to / "results.csv").read_text("utf-8").splitlines()))
    assert [(row["picture"], row["method"]) for row in rows] == [
        (picture, method) for picture in ("a.png", "b.png") for method in ("grad-cam", "eigen-cam")
    ]
    for row in document["summary"]:
        own = [float(r[row["metric"]]) for r in rows if r["method"] == row["method"]]
        assert row["mean"] == pytest.approx(sum(own) / 2)
    page = (to / "report.html").read_text("utf-8")
    assert "Average Drop" in page and "a.png" in page
    kept = (to / "rows.jsonl").read_bytes()
    again = cli(*asked, "--json")
    assert again.exit_code == 0 and (to / "rows.jsonl").read_bytes() == kept
    assert json.loads(again.stdout)["summary"] == document["summary"]
    other = cli(*asked, "--study-seed", 1)
    assert other.exit_code == 1 and "other settings (seed)" in other.output
    assert (to / "rows.jsonl").read_bytes() == kept
    assert cli(*asked, "--study-seed", 1, "--force").exit_code == 0


def test_methods_that_do_not_notice_random_weights_are_named(photos: Path, tmp_path: Path) -> None:
    to = tmp_path / "study"
    methods = ("--methods", "grad-cam,guided-backprop")
    found = cli("--sanity", MODEL, photos, *methods, "--metrics", "sparseness", "--to", to)
    assert found.exit_code == 0, found.output
    assert "grad-cam notices randomised weights" in found.output
    assert "guided-backprop does NOT notice" in found.output
    assert found.output.rstrip().endswith("summary.json, sanity.svg")
    checks = json.loads((to / "sanity.json").read_text("utf-8"))
    assert [(one["method"], one["notices"]) for one in checks] == [
        ("grad-cam", True), ("guided-backprop", False)
    ]  # fmt: skip
    assert (to / "sanity.svg").read_text("utf-8").startswith("<svg")
    assert json.loads((to / "summary.json").read_text("utf-8"))["sanity"] == checks
    page = (to / "report.html").read_text("utf-8")
    assert '<li class="wrong">guided-backprop does NOT notice' in page


@pytest.mark.parametrize(
    ("mode", "modes"),
    [
        ((), ["cascading"]),
        (("cascading",), ["cascading"]),
        (("independent",), ["independent"]),
        (("both",), ["cascading", "independent"]),
    ],
)
def test_layers_are_randomised_in_one_way_or_both(
    mode: tuple[str, ...], modes: list[str], photos: Path, tmp_path: Path
) -> None:
    to = tmp_path / "study"
    asked = ("--sanity", *mode, "--methods", "grad-cam", "--metrics", "sparseness", "--to", to)
    found = cli(MODEL, photos, *asked, "--json")
    assert found.exit_code == 0, found.output
    assert [check["mode"] for check in json.loads(found.stdout)["sanity"]] == modes
    assert len(json.loads((to / "sanity.json").read_text("utf-8"))) == len(modes)
    names = {"cascading": "sanity.svg", "independent": "sanity-independent.svg"}
    assert {p.name for p in to.glob("*.svg")} == {names[mode] for mode in modes}


def test_sanity_takes_no_other_mode(photos: Path) -> None:
    found = cli(MODEL, photos, "--sanity=all")
    assert found.exit_code == 2 and "'cascading', 'independent', 'both'" in found.output


def test_parquet_has_the_table_of_the_csv(photos: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pip install -e '.[parquet]'")
    to = tmp_path / "study"
    asked = ("--methods", "grad-cam", "--metrics", "drop-soft,complexity", "--parquet", "--to", to)
    found = cli(MODEL, photos, *asked)
    assert found.exit_code == 0 and "results.csv, results.parquet, summary" in found.output
    table = parquet.read_table(to / "results.parquet")
    rows = list(csv.DictReader((to / "results.csv").read_text("utf-8").splitlines()))
    assert [{k: "" if v is None else str(v) for k, v in row.items()}
            for row in table.to_pylist()] == rows  # fmt: skip
    kinds = {name: str(table.schema.field(name).type) for name in table.column_names}
    assert (kinds["picture"], kinds["target"], kinds["complexity"]) == ("string", "int64", "double")


def test_parquet_columns_keep_their_types() -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pip install -e '.[parquet]'")
    columns = {"name": str, "count": int, "mean": float, "none": float}
    rows = [{"name": "Übel\n", "count": 3, "mean": float("nan"), "more": 1}, {"mean": 2}]
    table = parquet.read_table(io.BytesIO(as_parquet(rows, columns)))
    assert table.to_pylist() == [
        {"name": "Übel\n", "count": 3, "mean": None, "none": None},
        {"name": None, "count": None, "mean": 2.0, "none": None},
    ]
    assert [str(kind) for kind in table.schema.types] == ["string", "int64", "double", "double"]
    assert parquet.read_table(io.BytesIO(as_parquet([], columns))).schema == table.schema


def test_parquet_without_pyarrow_is_refused_before_the_work(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    found = cli(MODEL, photos, "--parquet", "--to", tmp_path / "study")
    assert found.exit_code == 1 and "pip install 'onnxcam[parquet]'" in found.output
    assert not (tmp_path / "study").exists()


def test_labels_tell_the_preset(tmp_path: Path) -> None:
    proto = onnx.load(MODEL)
    stated = {p.key: p.value for p in proto.metadata_props}
    del proto.metadata_props[:]
    proto.metadata_props.add(key="onnxcam.labels", value=stated["onnxcam.labels"])
    onnx.save(proto, tmp_path / "bare.onnx")
    told, bare = Explainer(MODEL), Explainer(tmp_path / "bare.onnx")
    pictures = [Picture(draw(describe(seed), 96).pixels) for seed in range(6)]
    found = [told.explain(one).target[0] for one in pictures]
    bare.preset_by_labels(pictures, [int(target) for target in found])
    assert bare.preset is not None and "best: 6 right" in bare.preset_reason
    assert [bare.explain(one).target[0] for one in pictures] == found


def test_metrics_are_listed() -> None:
    found = cli("model.onnx", "photos", "--metrics", "list")
    assert found.exit_code == 0
    assert {line.split()[0] for line in found.output.splitlines()[1:]} == set(METRICS)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--metrics", "pointing"), "pointing: boxes or masks are needed"),
        (("--explain", "label"), "names no classes"),
        (("--metrics", "drops"), "there is no metric 'drops' (did you mean"),
        (("--methods", "cam2"), "there is no method 'cam2'"),
    ],
)
def test_what_cannot_be_measured_is_said(
    more: tuple[str, ...], said: str, photos: Path, tmp_path: Path
) -> None:
    found = cli(MODEL, photos, *more, "--to", tmp_path / "study")
    assert found.exit_code == 1 and said in found.output
    assert not (tmp_path / "study").exists()


def test_a_study_without_a_picture_fails(photos: Path, tmp_path: Path) -> None:
    found = cli(MODEL, photos / "c.png", "--to", tmp_path / "study")
    assert found.exit_code == 1 and "no picture could be judged; c.png" in found.output


def judge(**more: Any) -> Judge:
    methods = ("ablation-cam", "saliency")
    metrics = metrics_named(["drop-soft", "deletion-mean", "max-sensitivity", "iou"])
    explainer = Explainer(MODEL, provider="cpu", threads=1)
    return Judge(explainer, methods, metrics, steps=4, **more)


def test_the_numbers_are_those_of_the_model(photos: Path) -> None:
    one = judge()
    row, pictures = one(Sample("a.png", photos / "a.png", boxes=((0.0, 0.0, 30.0, 30.0),)))
    explanation = one.explainer.explain(photos / "a.png")
    x = explanation.preset.tensor(explanation.picture)
    target = int(explanation.target[0])
    _, probabilities = one.explainer.scores(x)
    assert row["logit"] == pytest.approx(float(explanation.target_score[0]), rel=1e-4)
    assert row["probability"] == pytest.approx(one.explainer.probabilities(x)[0, target], rel=1e-4)
    close(one.explainer.probabilities(x), probabilities, tolerance=1e-6)
    gone = np.broadcast_to(x.mean(axis=(2, 3), keepdims=True), x.shape).astype(np.float32)
    after = one.explainer.probabilities(gone)[0, target]
    assert row["methods"]["ablation-cam"]["curves"]["deletion-mean"][-1] == pytest.approx(
        after, rel=1e-5
    )
    values = row["methods"]["saliency"]["values"]
    assert values["max-sensitivity"] > 0 and 0 <= values["iou-25"] <= 1
    assert {*pictures} == {"", "ablation-cam", "saliency"}
    assert all(data[:2] == b"\xff\xd8" for data in pictures.values())
    assert one.cost.inferences == 2 + 1 + 2 * (1 + 5 + 8) and one.cost.judged == 1 + 2 * 6


def test_a_run_that_was_stopped_goes_on(photos: Path, tmp_path: Path) -> None:
    samples = [Sample(name, photos / name) for name in ("a.png", "c.png", "b.png")]
    settings = {"seed": 0}
    whole = Rows(tmp_path / "whole", settings)
    assert [name for name, _ in run(judge(), samples, whole)] == ["c.png"]
    part = Rows(tmp_path / "part", settings)
    run(judge(), samples[:1], part)
    with part.path.open("ab") as stream:
        stream.write(b'{"picture": "b.png", "meth')  # the process was ended here
    resumed = Rows(tmp_path / "part", settings)
    run(judge(), samples, resumed)
    assert resumed.path.read_bytes() == whole.path.read_bytes()
    values = columns(list(resumed.rows.values()), "saliency", "drop-soft")
    assert values.shape == (2,) and np.isfinite(values).all()
    whole.path.write_bytes(b"no rows\n")
    with pytest.raises(OutputError, match="damaged"):
        Rows(tmp_path / "whole", settings)


def test_a_mask_of_another_size_is_told(photos: Path, tmp_path: Path) -> None:
    Image.new("L", (5, 5), 255).save(tmp_path / "mask.png")
    sample = Sample("a.png", photos / "a.png", mask=tmp_path / "mask.png")
    ((_, reason),) = run(judge(), [sample], Rows(tmp_path / "rows", {}))
    assert "the mask is 5×5" in reason
