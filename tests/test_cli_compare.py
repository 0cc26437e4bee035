"""`onnxcam compare`: the sheet it writes, what it prints, and what it refuses."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import onnxcam
from onnxcam.cli import main, options
from onnxcam.cli.compare import DEFAULT, SLOW
from onnxcam.cli.methods import COUNTED, NEEDS, counted
from onnxcam.methods import METHODS, Number
from onnxcam.resources import resource

MODEL = resource("demo_residual.onnx")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a picture, which is the current one."""
    from scenes import describe, draw

    monkeypatch.chdir(tmp_path)
    Image.fromarray(draw(describe(1), 96).pixels).save("one.png")
    return tmp_path


def compare(*arguments: object, code: int = 0, model: Path = MODEL) -> Result:
    """Runs `onnxcam compare` on the picture; a bug passes through as the exception it is."""
    words = ["compare", str(model), "one.png", *map(str, arguments)]
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def facts(*arguments: object) -> dict[str, Any]:
    return dict(json.loads(compare(*arguments, "--json", "--force").stdout))


def test_the_default_methods_on_a_sheet(folder: Path) -> None:
    printed = compare().stdout
    assert sorted(path.name for path in folder.iterdir()) == ["one.compare.png", "one.png"]
    wanted = onnxcam.Explainer(MODEL).compare("one.png", DEFAULT.split(","))
    with Image.open("one.compare.png") as image:
        assert np.array_equal(np.asarray(image), np.asarray(wanted.figure()))
        assert json.loads(image.info["onnxcam"]) == wanted.facts()
    titles = ", ".join(METHODS[name].title for name in DEFAULT.split(","))
    assert f"methods   {titles}\n" in printed
    assert "model     demo_residual.onnx, 10 classes\n" in printed
    assert "score     logit\n" in printed
    assert "preset    from the model's metadata\n" in printed
    label, score = wanted[0].label(int(wanted[0].target[0])), float(wanted[0].target_score[0])
    line = rf"^one\.png: {label} \(\d\), logit {score:.4g} -> one\.compare\.png$"
    assert re.search(line, printed, re.M)


def test_methods_classes_layers_and_options_are_passed_on() -> None:
    found = facts(
        *("--methods", "ablation-cam,Score_CAM,grad-cam", "--layers", "-2,-1", "-t", "cat"),
        *("-o", "x.npz", "--units", "0-9"),
    )
    layers = [one["layer"] for one in found["explanations"]]
    assert layers == layers[:2] * 3 and layers[0] != layers[1]
    assert found["written"] == "x.npz"
    found = facts(
        *("--methods", "rise,ablation-cam,GradCAM,rise", "-t", "cat", "-t", "9", "--masks", "9"),
        *("--weight", "slope", "--score", "probability", "--seed", "3"),
    )
    assert [t["label"] for t in found["targets"]] == ["cat", "tree"]
    each = found["explanations"]
    assert [one["method"] for one in each] == ["rise", "ablation-cam", "grad-cam"]
    assert (each[0]["options"]["masks"], each[0]["options"]["seed"]) == (9, 3)
    assert each[1]["options"] == {"weight": "slope"} and each[2]["options"] == {}
    assert found["score_kind"] == "probability" and found["left_out"] == {}


def test_all_are_the_quick_methods_that_work(folder: Path) -> None:
    quick = {
        name for name, row in METHODS.items() if not row.fused and not SLOW & set(row.needs)
    } | {"guided-grad-cam"}
    found = facts("--methods", "all")
    assert {one["method"] for one in found["explanations"]} == quick
    assert found["left_out"] == {}
    found = json.loads(
        compare("-m", "all", "--json", "--force", model=resource("demo_vgg.onnx")).stdout
    )
    assert set(found["left_out"]) == {"cam"} and "global average" in found["left_out"]["cam"]
    assert {one["method"] for one in found["explanations"]} == quick - {"cam"}
    printed = compare("-m", "all", "--force", model=resource("demo_vgg.onnx")).stdout
    assert "note: left out: cam: CAM needs a head" in printed
    named = compare("-m", "grad-cam,cam", "--force", code=1, model=resource("demo_vgg.onnx"))
    assert "CAM needs a head" in named.stderr  # asked for by name: an error


def test_a_layer_that_is_not_there_stops_all_too() -> None:
    error = compare("-m", "all", "--layers", "-99", code=1).stderr
    assert "no feature map -99" in error


@pytest.mark.parametrize("ending", [".jpg", ".webp", ".json", ".npz"])
def test_endings(ending: str, folder: Path) -> None:
    compare("--to", f"deep/er/sheet{ending}", "--methods", "grad-cam,saliency", "--quiet")
    path = folder / "deep" / "er" / f"sheet{ending}"
    if ending == ".npz":
        with np.load(path) as found:
            assert {"scores", "target", "0.grad-cam.map", "1.saliency.raw"} <= set(found)
    elif ending == ".json":
        assert json.loads(path.read_text())["explanations"][1]["method"] == "saliency"
    else:
        with Image.open(path) as image:
            assert image.width > 3 * 192


def test_a_guessed_preset_is_said(folder: Path) -> None:
    model = onnx.load(MODEL)
    del model.metadata_props[:]
    onnx.save(model, folder / "bare.onnx")
    printed = compare("--methods", "saliency", model=folder / "bare.onnx").stdout
    assert "nothing states the preprocessing" in printed


def test_a_file_beside_the_model_states_the_preset(folder: Path) -> None:
    (folder / "m.onnx").write_bytes(MODEL.read_bytes())
    (folder / "m.preset.json").write_text('{"size": 96, "mean": 0.25, "scale": 0.004}')
    for methods in ("grad-cam", "all"):
        words = ("compare", "m.onnx", "one.png", "--methods", methods, "--json", "--force")
        result = CliRunner().invoke(main, words, catch_exceptions=False)
        assert json.loads(result.stdout)["preset"]["mean"] == [0.25], methods


WRONG: list[tuple[tuple[str, ...], int, str]] = [
    (("--methods", "grad-cam,gradcm"), 1, "'grad-cam'"),
    (("--methods", ","), 2, "names no method"),
    (("--methods", "saliency,rise", "--layers", "-1"), 2, "not for saliency, rise"),
    (("--methods", "saliency,grad-cam", "--weight", "slope"), 2, "--weight is an option of abl"),
    (("--methods", "grad-cam", "--masks", "5"), 2, "--masks is an option of rise, not of grad-cam"),
    (("--methods", "rise", "--masks", "0"), 2, "x>=1"),
    (("--methods", "rise", "--masks", "2.5"), 2, "not a valid int"),
    (("--methods", "rise", "--keep", "nan"), 1, "0.01 to 0.99"),
    (("--methods", "rise", "--muted", "grey"), 2, "mean"),
    (("--layers", "nothing"), 1, "no tensor or node"),
    (("--smooth", "pca"), 1, "eigen-cam has none"),
    (("--methods", "saliency", "--units", "1"), 1, "no units"),
    (("--target", "top2", "--target", "1"), 2, "stands alone"),
    (("--target", "nothing"), 1, "not among"),
    (("--to", "sheet.bmp"), 2, "must be one of .png"),
    (("--to", "sheet.npy"), 2, "must be one of .png"),
    (("--to", "one.png", "--force"), 1, "would replace"),
    (("--colormap", "virids"), 1, "'viridis'"),
]


@pytest.mark.parametrize(("arguments", "code", "says"), WRONG, ids=lambda v: str(v)[:50])
def test_errors(folder: Path, arguments: tuple[str, ...], code: int, says: str) -> None:
    result = compare(*arguments, code=code)
    assert result.stdout == ""
    assert says in result.stderr.strip().splitlines()[-1]
    assert [path.name for path in folder.iterdir()] == ["one.png"]


def test_nothing_is_overwritten(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("one.compare.png").write_bytes(b"mine")

    def never(*_: object, **__: object) -> None:
        raise AssertionError("checked before the work, not after it")

    monkeypatch.setattr(onnxcam.Explainer, "compare", never)
    assert "--force" in compare(code=1).stderr
    assert Path("one.compare.png").read_bytes() == b"mine"


def test_explain_leaves_sheets_out(folder: Path) -> None:
    compare("--methods", "saliency", "-q")
    result = CliRunner().invoke(main, ["explain", str(MODEL), ".", "--kind", "none"])
    assert "heat maps of earlier runs left out: 1" in result.stdout


def test_options_of_methods_that_were_not_asked_for() -> None:
    words = ["explain", str(MODEL), "one.png", "-m", "saliency", "--steps", "4"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert "--steps is an option of integrated-gradients, not of saliency" in result.stderr


@pytest.mark.parametrize("command", ["explain", "compare"])
def test_help_tells_methods_defaults_and_limits(command: str) -> None:
    text = CliRunner().invoke(main, [command, "--help"]).stdout
    section = text.split("Options of methods")[1].split("\n\n")[0]
    told = " ".join(section.split())
    for key, by_method in options.method_takers().items():
        for name, values in by_method.items():
            assert re.search(rf"--{key}\b[^-]*(?:-[^-]+)*{re.escape(name)}", told), (key, name)
            if isinstance(values, Number):
                assert f"[default: {values.default:g}]" in told
    assert "[0.01<=x<=0.99]" in told and "[x>=1]" in told


def test_no_option_is_declared_twice() -> None:
    import click

    for name, command in main.commands.items():
        spelt = [o for p in command.get_params(click.Context(command)) for o in p.opts]
        assert len(spelt) == len(set(spelt)), name


def test_what_the_bar_counts() -> None:
    assert (counted({"drop", "gradient"}), counted({"sampled"})) == ("unit", "mask")
    assert counted({"sampled", "path"}) == counted({"gradient"}) == "item"
    assert counted({"drop", "masked"}) == "unit"
    known = {need for row in METHODS.values() for need in (*row.needs, *row.extra.values())}
    assert known == set(NEEDS) >= set(COUNTED)
    assert set(COUNTED) >= SLOW


def test_the_bar_names_what_it_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    class Bar:
        def __init__(self, pictures: int, quiet: bool, item: str) -> None:
            made.append(item)
            raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["onnxcam.cli.show"], "Bar", Bar)
    compare("--methods", "rise,grad-cam", code=130)
    words = ["explain", str(MODEL), "one.png", "-m", "integrated-gradients"]
    assert CliRunner().invoke(main, words).exit_code == 130
    assert made == ["mask", "step"]
