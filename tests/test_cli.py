"""The command line: what it writes and prints, and that nothing is left behind by an error."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import onnxcam
from onnxcam.cli import main, names, options, show
from onnxcam.labels import imagenet_labels
from onnxcam.methods import METHODS
from onnxcam.resources import resource

MODEL = resource("demo_vgg.onnx")
CLASSES = ("car", "cat", "cup", "fish", "flower", "heart", "house", "key", "star", "tree")


def draw_scene(seed: int) -> Image.Image:
    from scenes import describe, draw

    return Image.fromarray(draw(describe(seed), 96).pixels)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two pictures, which is the current one."""
    monkeypatch.chdir(tmp_path)
    draw_scene(1).save("one.png")
    draw_scene(2).resize((160, 120)).save("two.jpg")
    return tmp_path


def cli(*arguments: object, code: int = 0) -> Result:
    """Runs the command line; a bug passes through as the exception that it is."""
    result = CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def explain(*arguments: object, code: int = 0) -> Result:
    return cli("explain", MODEL, *arguments, code=code)


def files(folder: Path) -> set[str]:
    """The names of all files below `folder`, hidden ones too."""
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def facts_of(path: str | Path) -> dict[str, Any]:
    with Image.open(path) as image:
        return dict(json.loads(image.info["onnxcam"]))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


@pytest.fixture(scope="module")
def explainer() -> onnxcam.Explainer:
    return onnxcam.Explainer(MODEL)


# --- explain: what is written ---------------------------------------------------------------------


def test_explain_writes_what_the_library_draws(explainer: onnxcam.Explainer) -> None:
    printed = explain("one.png").stdout
    wanted = explainer.explain("one.png")
    with Image.open("one.ablation-cam.png") as image:
        assert np.array_equal(pixels(image), pixels(wanted.figure()))
    assert facts_of("one.ablation-cam.png") == wanted.facts()
    index, score = int(wanted.target[0]), float(wanted.target_score[0])
    line = f"one.png: {CLASSES[index]} ({index}), logit {score:.4g} -> one.ablation-cam.png"
    assert line in printed.splitlines()


def test_explain_says_once_how_it_was_done(explainer: onnxcam.Explainer) -> None:
    printed = explain("one.png", "two.jpg", "--kind", "none").stdout
    layer = explainer.classifier.default
    assert printed.startswith("model     demo_vgg.onnx, 10 classes\n")
    assert f"layer     {layer.tensor}, {layer.units} units on 12×12\n" in printed
    assert "method    Ablation-CAM, score logit, weight drop\n" in printed
    assert f"provider  {explainer.device.provider}\n" in printed
    assert "preset    from the model's metadata\n" in printed
    assert printed.count("provider") == 1
    assert len(re.findall(r"^(one\.png|two\.jpg): ", printed, re.M)) == 2


def test_pixel_methods_have_no_layer_and_tell_their_gap() -> None:
    asked = ("--method", "integrated-gradients", "--steps", "3", "--smooth", "tta")
    printed = explain("one.png", *asked).stdout
    method = "Integrated Gradients, score logit, smooth tta, steps 3, baseline zero"
    assert f"method    {method}\n" in printed and "\nlayer " not in printed
    assert "note: completeness gap: the attributions miss the score by " in printed
    facts = facts_of("one.integrated-gradients.png")
    assert facts["layer"] is None and facts["targets"][0]["gap"] != 0
    assert facts["map_shape"] == [1, 96, 96] and facts["options"]["steps"] == 3


def test_an_empty_map_is_told(folder: Path) -> None:
    model = onnx.load(MODEL)
    for tensor in model.graph.initializer:  # every score 40 higher: each probability rounds to 1
        if list(tensor.dims) == [10]:
            raised = onnx.numpy_helper.to_array(tensor) + np.float32(40)
            tensor.CopyFrom(onnx.numpy_helper.from_array(raised, tensor.name))
    onnx.save(model, "sure.onnx")
    asked = ("one.png", "--method", "grad-cam", "--score", "probability", "-t", "cat", "--json")
    (found,) = json.loads(cli("explain", "sure.onnx", *asked).stdout)
    assert found["targets"][0]["score"] == 1 and found["targets"][0]["peak"] == 0
    assert found["notes"] == [
        "the map of Grad-CAM is zero everywhere; a saturated probability has no gradient, the "
        "logit before it has one"
    ]
    both = ("one.png", "-m", "grad-cam", "-t", "top2", "--score", "logit", "--json", "--force")
    (found,) = json.loads(cli("explain", "sure.onnx", *both).stdout)
    assert found["notes"] == [] and all(t["peak"] > 0 for t in found["targets"])


def test_json_is_all_that_is_printed(explainer: onnxcam.Explainer) -> None:
    result = explain("one.png", "two.jpg", "--json")
    assert result.stderr == ""
    found = json.loads(result.stdout)
    for entry, picture in zip(found, ("one.png", "two.jpg"), strict=True):
        written = [f"{Path(picture).stem}.ablation-cam.png"]
        own = {"file": picture, "written": written}
        assert entry == own | explainer.explain(picture).facts()
        assert Path(written[0]).is_file()


def test_an_overlay_has_the_pictures_size(explainer: onnxcam.Explainer) -> None:
    how = ("--kind", "overlay", "--colormap", "viridis", "--alpha", "0.7")
    explain("two.jpg", *how, "-o", "over.png")
    wanted = explainer.explain("two.jpg").overlay(colormap="viridis", alpha=0.7)
    with Image.open("over.png") as image:
        assert image.size == (160, 120)
        assert np.array_equal(pixels(image), pixels(wanted))


def test_quiet_prints_nothing() -> None:
    result = explain("one.png", "--quiet")
    assert result.output == ""
    assert Path("one.ablation-cam.png").is_file()


def test_targets_by_name_and_index(folder: Path, explainer: onnxcam.Explainer) -> None:
    explain("one.png", "--target", "Cat", "-t", "9", "-t", "cat", "--to", "heat")
    wanted = {"heat/one.ablation-cam.cat.png", "heat/one.ablation-cam.tree.png"}
    assert files(folder) == {"one.png", "two.jpg"} | wanted
    assert facts_of("heat/one.ablation-cam.cat.png")["targets"][0]["label"] == "cat"
    with Image.open("heat/one.ablation-cam.tree.png") as image:
        both = explainer.explain("one.png", [1, 9])
        assert np.array_equal(pixels(image), pixels(both.figure(1)))


def test_the_best_classes(explainer: onnxcam.Explainer) -> None:
    found = json.loads(explain("one.png", "--target", "top3", "--json").stdout)[0]
    scores = explainer.explain("one.png").scores[0]
    best = np.argsort(-scores)[:3].tolist()
    assert [target["index"] for target in found["targets"]] == best
    assert found["written"] == [f"one.ablation-cam.{CLASSES[i]}.png" for i in best]
    assert all(Path(file).is_file() for file in found["written"])


@pytest.mark.parametrize("way", [("--raw", "npz", "--kind", "none"), ("--to", "map.npz")])
def test_raw_maps(folder: Path, explainer: onnxcam.Explainer, way: tuple[str, ...]) -> None:
    explain("one.png", *way, "--target", "cat")
    name = "map.npz" if "--to" in way else "one.ablation-cam.npz"
    assert files(folder) == {"one.png", "two.jpg", name}
    with np.load(name) as found:
        wanted = explainer.explain("one.png", "cat").arrays()
        assert set(found) == set(wanted)
        for key, array in wanted.items():
            np.testing.assert_array_equal(found[key], array)


def test_a_map_as_npy_beside_the_picture() -> None:
    explain("one.png", "--raw", "npy", "--to", "deep/er/")
    assert np.load("deep/er/one.ablation-cam.npy").shape == (1, 12, 12)
    assert Path("deep/er/one.ablation-cam.png").is_file()


def test_options_reach_the_engine(explainer: onnxcam.Explainer) -> None:
    weight = onnxcam.Explainer(MODEL, weight="slope", score="probability", layer=-3)
    asked = ("--weight", "slope", "--score", "probability", "--layer", "-3")
    found = json.loads(explain("one.png", *asked, "--json", "--raw", "npz").stdout)[0]
    assert found["options"] == {"weight": "slope"}
    assert found["layer"] == weight.recipe.layer.tensor != explainer.recipe.layer.tensor
    wanted = weight.explain("one.png")
    assert found["targets"][0]["score"] == float(wanted.target_score[0])
    with np.load("one.ablation-cam.npz") as arrays:
        np.testing.assert_array_equal(arrays["weights"], wanted.weights)


def test_units_memory_and_the_literal_way(explainer: onnxcam.Explainer) -> None:
    explain("one.png", "-o", "some.npz", "--units", "0-19,40", "--memory", "200kB")
    explain("one.png", "-o", "slow.npz", "--ablation", "literal", "--threads", "1")
    every = explainer.explain("one.png").weights[0]
    tolerance = {"rtol": 0, "atol": 1e-5 * np.abs(every).max()}
    with np.load("some.npz") as some, np.load("slow.npz") as slow:
        np.testing.assert_allclose(some["weights"][0], every[[*range(20), 40]], **tolerance)
        np.testing.assert_allclose(slow["weights"][0], every, **tolerance)


def test_preset_options_replace_parts_of_the_preset() -> None:
    changed = ("--channel-order", "bgr", "--mean", "0.1,0.2,0.3", "--scale", "1/255", "--letterbox")
    found = json.loads(explain("two.jpg", *changed, "--json", "--kind", "none").stdout)[0]
    preset = found["preset"]
    assert (preset["channel_order"], preset["resize"]) == ("BGR", "letterbox")
    assert (preset["mean"], preset["std"], preset["size"]) == (
        [0.1, 0.2, 0.3],
        [0.25] * 3,
        [96, 96],
    )
    assert preset["scale"] == pytest.approx(1 / 255)
    assert found["preset_reason"].startswith("preset from the model's metadata, with ")
    named = explain("two.jpg", "--preset", "raw-1", "--std", "0.5", "--json", "--kind", "none")
    preset = json.loads(named.stdout)[0]["preset"]
    assert (preset["name"], preset["std"], preset["mean"]) == ("raw-1", [0.5], [0.0])


def bare_model(path: Path) -> Path:
    """The demo model without the metadata that state preset and labels."""
    model = onnx.load(MODEL)
    del model.metadata_props[:]
    onnx.save(model, path)
    return path


def test_a_guessed_preset_is_said_and_keeps_given_fields(folder: Path) -> None:
    model = bare_model(folder / "bare.onnx")
    asked = ("--scale", "1/255", "--mean", "0.5", "--std", "0.25", "--kind", "none")
    result = cli("explain", model, ".", *asked)
    assert "nothing states the preprocessing" in result.stdout
    assert "class " in result.stdout and ", logit" in result.stdout
    guessed = json.loads(cli("explain", model, "one.png", *asked, "--json").stdout)[0]["preset"]
    assert (guessed["mean"], guessed["std"]) == ([0.5], [0.25])
    assert cli("explain", model, "one.png", "-t", "cat", code=1).stderr.startswith("Error: class")


def test_labels_of_ones_own(folder: Path) -> None:
    Path("labels.txt").write_text("\n".join(f"thing {i}" for i in range(10)))
    result = explain("one.png", "--labels", "labels.txt", "-t", "thing_3")
    assert "one.png: thing 3 (3), logit" in result.stdout
    Path("labels.txt").write_text("a\nb\n")
    assert "10 classes" in explain("one.png", "--labels", "labels.txt", code=1).stderr


# --- explain: many pictures, and files that exist -------------------------------------------------


def test_pictures_of_the_same_name_do_not_collide(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / name).mkdir()
        draw_scene(3).save(folder / name / "one.png")
    explain("a", "b/*.png", "two.jpg", "--to", "heat", "-q")
    made = {"a-one", "b-one", "two"}
    assert {p.name for p in Path("heat").iterdir()} == {f"{n}.ablation-cam.png" for n in made}


@pytest.mark.parametrize(
    ("paths", "wanted"),
    [
        (["x/dog.jpg", "x/cat.jpg"], ["dog", "cat"]),
        (["x/dog.jpg", "y/dog.jpg", "cat.jpg"], ["x-dog", "y-dog", "cat"]),
        (["x/dog.jpg", "x/dog.png"], ["x-dog-jpg", "x-dog-png"]),
        (["x/Dog.jpg", "y/dog.jpg"], ["x-Dog", "y-dog"]),
        (["p/x/dog.jpg", "q/x/dog.jpg"], ["x-dog-jpg", "x-dog-jpg-2"]),
    ],
)
def test_stems(paths: list[str], wanted: list[str]) -> None:
    assert names.stems([Path(path) for path in paths]) == wanted


def test_slugs() -> None:
    labels = imagenet_labels(1000)
    assert labels is not None
    assert names.slugs(labels, [207, 281, 134, 517]) == [
        *("golden-retriever", "tabby", "crane-134", "crane-517")
    ]
    made = names.slugs(labels, range(1000))
    assert len(set(made)) == 1000
    assert all(re.fullmatch(r"[\w-]+", slug) for slug in made)
    assert names.slugs(None, [3]) == ["class-3"]
    assert names.slugs(["../../etc", "..", "Zürich / See"], [0, 1, 2]) == [
        *("etc", "class-1", "zürich-see")
    ]


def test_nothing_is_overwritten(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = folder / "two.ablation-cam.png"
    old.write_bytes(b"mine")

    def never(*_: object, **__: object) -> None:
        raise AssertionError("checked before the work, not after it")

    with monkeypatch.context() as patch:
        patch.setattr(onnxcam.Explainer, "explain", never)
        error = explain("one.png", "two.jpg", code=1).stderr
    assert (
        error == "Error: two.ablation-cam.png exists already; name another file, or pass --force\n"
    )
    assert old.read_bytes() == b"mine"
    assert files(folder) == {"one.png", "two.jpg", old.name}
    explain("one.png", "two.jpg", "--force")
    assert facts_of(old)["picture"] == "two"


def test_the_best_classes_overwrite_nothing(folder: Path) -> None:
    explain("one.png", "--target", "top3", "-q")
    kept = sorted(folder.glob("*.ablation-cam.*"))[1:]
    for path in kept:
        path.write_bytes(b"mine")
    before = files(folder)
    assert "--force" in explain("one.png", "--target", "top3", code=1).stderr
    assert files(folder) == before
    assert all(path.read_bytes() == b"mine" for path in kept)


@pytest.mark.parametrize("name", ["one.png", "./one.png"])
def test_what_is_read_is_never_replaced(name: str) -> None:
    before = Path("one.png").read_bytes()
    assert "would replace" in explain("one.png", "--to", name, "--force", code=1).stderr
    assert Path("one.png").read_bytes() == before


def test_heat_maps_of_earlier_runs_are_left_out(folder: Path) -> None:
    explain(".", "-q")
    result = explain(".", "--force")
    assert "heat maps of earlier runs left out: 2" in result.stdout
    assert files(folder) == {
        *("one.png", "two.jpg", "one.ablation-cam.png", "two.ablation-cam.png")
    }
    explain("one.ablation-cam.png", "--kind", "none")  # the only one: it is meant


def test_unreadable_pictures_do_not_stop_the_others(folder: Path) -> None:
    Path("empty.jpg").touch()
    Path("cut.png").write_bytes(Path("one.png").read_bytes()[:300])
    result = explain("empty.jpg", "one.png", "cut.png", "--to", "heat", "--json", code=1)
    assert [("error" in entry, entry["file"]) for entry in json.loads(result.stdout)] == [
        *((True, "empty.jpg"), (False, "one.png"), (True, "cut.png"))
    ]
    lines = result.stderr.splitlines()
    assert [line.split()[1] for line in lines[:2]] == ["empty.jpg", "cut.png"]
    assert lines[2:] == ["2 of 3 pictures failed"]
    assert {p.name for p in Path("heat").iterdir()} == {"one.ablation-cam.png"}


# --- errors ---------------------------------------------------------------------------------------

WRONG: list[tuple[tuple[str, ...], int, str]] = [
    (("nothing.png",), 1, "no such file"),
    (("on.png",), 1, "'one.png'"),
    (("empty.png",), 1, "empty.png is empty"),
    (("one.png", "--target", "10"), 1, "10 classes, 0 to 9"),
    (("one.png", "--target", "flowr"), 1, "'flower'"),
    (("one.png", "--target", "top0"), 1, "top1 to top10"),
    (("one.png", "--target", "top99"), 1, "top1 to top10"),
    (("one.png", "--target", "top2", "--target", "3"), 2, "stands alone"),
    (("one.png", "--layer", "nothing"), 1, "no tensor or node"),
    (("one.png", "--layer", "-99"), 1, "no feature map -99"),
    (("one.png", "--method", "ablation"), 1, "'ablation-cam'"),
    (("one.png", "--weight", "heavy"), 2, "slope"),
    (("one.png", "--score", "best"), 2, "probability"),
    (("one.png", "--units", "0-80"), 1, "0 to 79"),
    (("one.png", "--units", "9-1"), 2, "0-99,120"),
    (("one.png", "--units", "0-99999999999"), 2, "0-99,120"),
    (("one.png", "--memory", "much"), 2, "512MB"),
    (("one.png", "--provider", "gpux"), 1, "no provider 'gpux'"),
    (("one.png", "--preset", "imagnet"), 1, "'imagenet'"),
    (("one.png", "--size", "95"), 1, "takes 96 x 96"),
    (("one.png", "--size", "0x0x0"), 2, "224x192"),
    (("one.png", "--layout", "NHWC"), 1, "takes NCHW"),
    (("one.png", "--channel-order", "RBG"), 1, "'RGB'"),
    (("one.png", "--mean", "1,2"), 1, "mean has 2 numbers"),
    (("one.png", "--std", "0"), 1, "std must be positive"),
    (("one.png", "--scale", "1/0"), 2, "1/255"),
    (("one.png", "--interpolation", "bicubik"), 1, "'bicubic'"),
    (("one.png", "--colormap", "virids"), 1, "'viridis'"),
    (("one.png", "--alpha", "1.5"), 2, "0<=x<=1"),
    (("one.png", "--labels", "nothing.txt"), 1, "labels nothing.txt"),
    (("one.png", "--input", "picture"), 1, "no input 'picture'"),
    (("one.png", "--output", "scores"), 1, "no output 'scores'"),
    (("one.png", "--feed", "x"), 2, "NAME=VALUE"),
    (("one.png", "--feed", "x=1"), 1, "no input 'x'"),
    (("one.png", "--max-pixels", "100"), 1, "--max-pixels"),
    (("one.png", "--max-model-bytes", "1kB"), 1, "--max-model-bytes"),
    (("one.png", "--to", "one.bmp"), 1, "must be one of .png"),
    (("one.png", "--to", "empty.png/heat"), 1, "is a file, not a folder"),
    (("one.png", "--to", "map.png", "--kind", "none"), 2, "draws none"),
    (("one.png", "two.jpg", "--to", "map.png"), 2, "name a folder"),
    ((), 2, "PICTURES"),
]


@pytest.mark.parametrize(("arguments", "code", "says"), WRONG, ids=lambda v: str(v)[:60])
def test_errors_are_one_line_and_write_nothing(
    folder: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    Path("empty.png").touch()
    before = files(folder)
    result = explain(*arguments, "--quiet", code=code)
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert lines[-1].startswith("Error: ") and says in lines[-1]
    assert len(lines) == 1 or code == 2
    assert files(folder) == before


@pytest.mark.parametrize(
    "make", [lambda: b"", lambda: b"not a model", lambda: MODEL.read_bytes()[:5000], None]
)
@pytest.mark.parametrize("command", ["explain", "inspect", "split"])
def test_bad_models_are_errors(
    folder: Path, command: str, make: Callable[[], bytes] | None
) -> None:
    if make is not None:
        Path("bad.onnx").write_bytes(make())
    before = files(folder)
    more = {"explain": ["one.png"], "inspect": [], "split": ["f.onnx", "h.onnx"]}[command]
    result = cli(command, "bad.onnx", *more, code=1)
    assert re.fullmatch(r"Error: .*bad\.onnx.*\n", result.stderr)
    assert (result.stdout, files(folder)) == ("", before)


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("onnxcam.core.Core.rows", bug)
    with pytest.raises(ZeroDivisionError):
        explain("one.png")


def test_a_refused_folder_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    error = explain("one.png", "--to", "heat", code=1).stderr
    assert error == "Error: cannot make the folder heat: permission denied\n"


def options_of(command: click.Command) -> set[str]:
    params = command.get_params(click.Context(command))
    return {o for p in params if isinstance(p, click.Option) for o in p.opts if o.startswith("--")}


def test_options_that_messages_name_exist(root: Path) -> None:
    known = set().union(*(options_of(command) for command in main.commands.values()))
    for path in (root / "onnxcam").rglob("*.py"):
        for name in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", path.read_text("utf-8")):
            assert name in known | {"--version", "--help"}, f"{name} in {path.name}"


# --- help -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", sorted(main.commands))
def test_no_option_stands_for_two_things(command: str) -> None:
    one = main.commands[command]
    spelt = [name for p in one.get_params(click.Context(one)) for name in p.opts]
    assert len(spelt) == len(set(spelt))


@pytest.mark.parametrize("command", sorted(main.commands))
def test_help_has_examples_and_explains_every_option(command: str) -> None:
    text = cli(command, "--help").stdout
    assert f"Examples:\n    onnxcam {command}" in text
    assert max(map(len, text.splitlines())) <= 80
    assert options_of(main.commands[command]) <= set(re.findall(r"--[a-z0-9-]+", text))
    for param in main.commands[command].get_params(click.Context(main.commands[command])):
        assert not isinstance(param, click.Option) or param.help, param.name


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["inspect", "--help"]])
def test_help_loads_no_engine(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom onnxcam.cli import main\n"
        f"try: main({arguments})\nexcept SystemExit as end: assert end.code == 0\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"onnx", "onnxruntime", "onnx_graphsurgeon", "numpy", "PIL"}
    assert not heavy & set(done.stdout.splitlines()[-1].split())


def test_version() -> None:
    assert cli("--version").stdout == f"onnxcam {onnxcam.__version__}\n"


def test_method_options_come_from_the_table() -> None:
    wanted = {f"--{key}" for method in METHODS.values() for key in method.options}
    assert wanted <= options_of(main.commands["explain"])
    assert "--weight" in wanted


# --- inspect --------------------------------------------------------------------------------------


def test_inspect_says_what_was_found_and_why(explainer: onnxcam.Explainer) -> None:
    printed = cli("inspect", MODEL).stdout
    classifier = explainer.classifier
    default = classifier.default
    assert "image, NCHW, 96×96, float32, batch free" in printed
    assert "logits, before the sigmoid that gives probabilities" in printed
    assert "10: car (0); cat (1); cup (2); …" in printed
    assert f"why: {default.reason}" in printed
    assert "preset   from the model's metadata" in printed
    rows = re.findall(r"^(.) +(-\d+) +(\d+) +(\d+×\d+) +(\(.*?\)) +(.+)$", printed, re.M)
    assert len(rows) == len(classifier.maps)
    for row, found in zip(rows, classifier.maps[::-1], strict=True):
        assert (row[0] == "*") == (found.tensor == default.tensor)
        assert explainer.classifier.layer(row[1]).tensor == row[5] == found.tensor
        assert (row[2], row[3]) == (str(found.units), f"{found.grid[0]}×{found.grid[1]}")


def test_inspect_as_json(explainer: onnxcam.Explainer) -> None:
    found = json.loads(cli("inspect", MODEL, "--json").stdout)
    classifier = explainer.classifier
    assert found["layer"] == classifier.default.tensor
    assert [one["tensor"] for one in found["layers"]] == [m.tensor for m in classifier.maps]
    assert [one["tensor"] for one in found["layers"] if one["default"]] == [found["layer"]]
    assert found["score"]["activation"] == "sigmoid"
    assert (found["classes"], found["labels"]) == (10, list(CLASSES))
    assert found["inputs"] == [{"name": "image", "dtype": "float", "shape": ["batch", 3, 96, 96]}]
    preset, reason = explainer.preset, explainer.preset_reason
    assert preset is not None
    assert (found["preset"], found["preset_reason"]) == (preset.to_json(), reason)


def test_inspect_marks_the_layer_asked_for() -> None:
    printed = cli("inspect", MODEL, "--layer", "-2").stdout
    assert re.search(r"^\* +-2 ", printed, re.M)
    assert "no tensor or node" in cli("inspect", MODEL, "--layer", "nothing", code=1).stderr


def test_inspect_shows_what_presets_predict(folder: Path, explainer: onnxcam.Explainer) -> None:
    printed = cli("inspect", MODEL, "--image", "one.png").stdout
    preset = explainer.preset
    assert preset is not None
    from onnxcam.image import read_picture

    top = explainer.probabilities(preset.tensor(read_picture("one.png")))[0]
    row = re.search(r"^\*  (\S+) +([\d.]+)% +stated +(\w+) \((\d)\)$", printed, re.M)
    assert row is not None
    assert (row[1], int(row[4])) == (preset.name, int(top.argmax()))
    assert float(row[2]) == pytest.approx(100 * top.max(), abs=0.06)
    bare = bare_model(folder / "bare.onnx")
    found = json.loads(cli("inspect", bare, "--image", "one.png", "--json").stdout)
    assert sum(one["belief"] for one in found["predictions"]) == pytest.approx(1)
    assert found["predictions"][0]["preset"] == found["preset"]["name"]


def test_inspect_lists_the_last_maps_first(shared_data: Path) -> None:
    model = shared_data / "models/imagenet_squeezenet1.1_fp32.onnx"
    few, every = cli("inspect", model).stdout, cli("inspect", model, "--all").stdout
    assert "… 14 more" in few and "more, nearer" not in every
    assert len(re.findall(r"^.  +-\d+ ", few, re.M)) == 12
    assert len(re.findall(r"^.  +-\d+ ", every, re.M)) == 26


def test_a_real_model_on_a_real_photograph(shared_data: Path, folder: Path) -> None:
    model = shared_data / "models/imagenet_squeezenet1.1_fp32.onnx"
    picture = shared_data / "images/open_photos/bee.jpg"
    asked = ("--target", "bee", "--target", "309", "--json")
    (found,) = json.loads(cli("explain", model, picture, *asked).stdout)
    assert found["targets"] == [
        {
            "index": 309,
            "negated": False,
            "label": "bee",
            "score": pytest.approx(26.8, abs=0.1),
            "peak": pytest.approx(38.5, abs=0.3),
        }
    ]
    assert found["preset"]["name"] == "imagenet"
    assert "candidates tried on 1 picture" in found["preset_reason"]
    assert files(folder) == {"one.png", "two.jpg", "bee.ablation-cam.png"}
    rows = json.loads(cli("inspect", model, "--image", picture, "--json").stdout)["predictions"]
    assert (rows[0]["preset"], rows[0]["label"]) == ("imagenet", "bee")


# --- split, methods, demo -------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [None, "-4"])
def test_split_writes_two_models_that_make_one(layer: str | None) -> None:
    more = () if layer is None else ("--layer", layer)
    printed = cli("split", MODEL, "f.onnx", "deep/h.onnx", *more).stdout
    for path in ("f.onnx", "deep/h.onnx"):
        onnx.checker.check_model(path, full_check=True)
        assert f"{path} " in printed
    x = np.random.default_rng(0).normal(size=(2, 3, 96, 96)).astype(np.float32)

    def run(path: str | Path, feeds: list[np.ndarray]) -> list[np.ndarray]:
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        named = zip((i.name for i in session.get_inputs()), feeds, strict=True)
        return list(session.run(None, dict(named)))

    (whole,) = run(MODEL, [x])
    (both,) = run("deep/h.onnx", run("f.onnx", [x]))
    np.testing.assert_allclose(both, whole, rtol=1e-5, atol=1e-6)


def test_split_prints_the_ends(explainer: onnxcam.Explainer) -> None:
    found = json.loads(cli("split", MODEL, "f.onnx", "h.onnx", "--json").stdout)
    tensor = explainer.classifier.default.tensor
    middle = {"name": tensor, "shape": ["N", 80, 12, 12]}
    image = {"name": "image", "shape": ["N", 3, 96, 96]}
    assert found == [
        {"file": "f.onnx", "inputs": [image], "outputs": [middle]},
        {
            "file": "h.onnx",
            "inputs": [middle],
            "outputs": [{"name": "probabilities", "shape": ["N", 10]}],
        },
    ]


def test_split_overwrites_nothing(folder: Path) -> None:
    Path("h.onnx").write_bytes(b"mine")
    assert "--force" in cli("split", MODEL, "f.onnx", "h.onnx", code=1).stderr
    assert files(folder) == {"one.png", "two.jpg", "h.onnx"}
    assert Path("h.onnx").read_bytes() == b"mine"
    assert "same file" in cli("split", MODEL, "f.onnx", "./f.onnx", code=2).stderr
    model = bare_model(folder / "m.onnx")
    assert "would replace" in cli("split", model, "m.onnx", "g.onnx", "--force", code=1).stderr
    cli("split", MODEL, "f.onnx", "h.onnx", "--force")
    onnx.checker.check_model("h.onnx")


def test_a_split_that_fails_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxcam.files

    real = onnxcam.files.write_atomic

    def full_disk(path: Path, data: bytes, force: bool) -> Path:
        if path.name == "h.onnx":
            raise onnxcam.OutputError("cannot write h.onnx: no space left on device")
        return real(path, data, force)

    monkeypatch.setattr("onnxcam.files.write_atomic", full_disk)
    assert "no space left" in cli("split", MODEL, "f.onnx", "h.onnx", code=1).stderr
    assert files(folder) == {"one.png", "two.jpg"}


def test_methods_are_the_table() -> None:
    found = json.loads(cli("methods", "--json").stdout)
    assert [one["name"] for one in found] == list(METHODS)
    printed = cli("methods").stdout
    for one in found:
        row = METHODS[one["name"]]
        assert (one["title"], one["summary"]) == (row.title, row.summary)
        kinds = (one["pixels"], one["on_layer"], one["smooth_pca"])
        assert kinds == (row.pixels, row.on_layer, row.smooths)
        assert one["needs_with"] == [
            {"option": key, "value": value, "needs": need}
            for (key, value), need in row.extra.items()
        ]
        for key, values in row.options.items():
            told = one["options"][key]
            if isinstance(values, tuple):
                assert told == list(values)
            else:
                assert (told["default"], told["low"]) == (values.default, values.low)
        assert row.fused or re.search(rf"^  {re.escape(row.name)} +", printed, re.M)
        whole = cli("methods", row.name).stdout
        assert f"{row.title}. {row.summary}." in " ".join(whole.split())
        assert one["description"] in whole
        assert all(f"--{key.replace('_', '-')}" in whole for key in row.options)
    assert "guided-NAME" in printed
    assert "'ablation-cam'" in cli("methods", "ablation", code=1).stderr


def test_demo(folder: Path) -> None:
    printed = cli("demo", "--to", "out").stdout
    written = {f"out/{path.name}" for path in Path("out").iterdir()}
    assert len(written) >= 4
    assert all(path in printed for path in written)
    assert "out/demo_shortcut.ablation-cam.cat.png" in written
    manifest = json.loads(resource("manifest.json").read_text("utf-8"))["entries"]
    (scene,) = (entry for entry in manifest if entry["file"] == "demo_scene.png")
    shown = {facts_of(path)["model"]: path for path in written}
    assert set(shown) == {"demo_vgg.onnx", "demo_shortcut.onnx"}
    for thing in scene["objects"]:
        assert f"out/demo_scene.ablation-cam.{thing['label']}.png" in written
    before = {path: Path(path).read_bytes() for path in written}
    assert "--force" in cli("demo", "--to", "out", code=1).stderr
    cli("demo", "--to", "out", "--force")
    assert {f"out/{path.name}" for path in Path("out").iterdir()} == set(before)


def test_the_shortcut_model_looks_at_the_mark() -> None:
    """What the demo claims: more of the map lies in the marked corner than anywhere else."""
    found = onnxcam.explain(resource("demo_shortcut.onnx"), resource("demo_shortcut.png"), "cat")
    y, x = np.unravel_index(found.heatmap.argmax(), found.heatmap.shape)
    height, width = found.heatmap.shape
    assert y > 0.75 * height and x < 0.25 * width


# --- options and the terminal ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (options.BYTES, "512MB", 512 << 20),
        (options.BYTES, "1.5GiB", 3 << 29),
        (options.BYTES, "7", 7),
        (options.SIZE, "224", (224, 224)),
        (options.SIZE, "224x192", (224, 192)),
        (options.NUMBER, "1/255", 1 / 255),
        (options.NUMBERS, "[0.5, 1/4,2]", (0.5, 0.25, 2.0)),
        (options.UNITS, "0-3,7,2", [0, 1, 2, 3, 7]),
        (options.FEED, "flag=true", ("flag", True)),
        (options.FEED, "x=[1, 2]", ("x", [1, 2])),
    ],
)
def test_values(kind: options.Parsed, text: str, value: object) -> None:
    assert kind.convert(text, None, None) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *((options.BYTES, text) for text in ("", "0", "-1", "1.2.3", "MB", "1e9")),
        *((options.SIZE, text) for text in ("", "x", "1x2x3", "2.5")),
        *((options.NUMBER, text) for text in ("", "a", "1/0", "1/2/3")),
        *((options.NUMBERS, text) for text in ("", "1,,2", "a")),
        *((options.UNITS, text) for text in ("", "3-1", "a", "1-", "-1", "0-9999999999")),
        *((options.FEED, text) for text in ("x", "=1", "x=", "x=nothing.npy", "x={")),
    ],
)
def test_values_that_are_none(kind: options.Parsed, text: str) -> None:
    with pytest.raises(click.BadParameter, match=re.escape(kind.form)):
        kind.convert(text, None, None)


def test_values_from_a_file() -> None:
    np.save("value.npy", np.arange(3))
    name, value = options.FEED.convert("x=value.npy", None, None)
    assert name == "x" and value.tolist() == [0, 1, 2]


def test_names_of_others_cannot_steer_the_terminal(folder: Path) -> None:
    Path("labels.txt").write_text("\n".join(f"\x1b[2J{i}" for i in range(10)))
    draw_scene(1).save("a\x07\nb.png")
    result = explain("a\x07\nb.png", "--labels", "labels.txt", "-t", "3", "--kind", "none")
    assert "\na\\x07\\nb.png: \\x1b[2J3 (3), logit" in result.stdout
    result = explain("one.png", "--target", "\x1b[2J", code=1)
    assert "\x1b" not in result.output


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_shows_on_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "PATIENCE", 0)
    for stream, live in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        with show.Bar(4, False, "unit") as bar:
            bar.start(1, "dog.jpg")
            monkeypatch.setattr(bar, "_next", 0)
            bar(50, 100)
        text = stream.getvalue()
        assert ("picture 2 of 4  unit 50 of 100  dog.jpg" in text) == live
        assert (" 38%" in text) == live
        assert not live or text.rpartition("\r")[2] == ""  # taken away at the end


# --- as a program ---------------------------------------------------------------------------------


def program(*arguments: object, **settings: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "onnxcam", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **settings)


def test_a_program_says_nothing_on_stderr() -> None:
    done = program("explain", MODEL, "one.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("-> one.ablation-cam.png\n")
    again = program("explain", MODEL, "one.png")
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr.count("\n") == 1


def test_a_terminal_that_knows_few_characters() -> None:
    latin = os.environ | {"PYTHONIOENCODING": "latin-1"}
    done = program("inspect", MODEL, env=latin, encoding="latin-1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "cup (2); \\u2026" in done.stdout


@pytest.mark.skipif(os.name != "posix", reason="signals and pipes of POSIX")
def test_a_closed_pipe_is_no_traceback() -> None:
    command = [sys.executable, "-m", "onnxcam", "inspect", str(MODEL)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.skipif(os.name != "posix", reason="signals and pipes of POSIX")
def test_an_interrupt_ends_with_130(folder: Path) -> None:
    code = (
        "import onnxcam, signal, time\nfrom onnxcam.cli import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job may start without it
        "def wait(*_, **__):\n    print('begun', flush=True); time.sleep(60)\n"
        "onnxcam.Explainer.explain_many = wait\n"
        f"main(['explain', {str(MODEL)!r}, 'one.png', '--quiet'])"
    )
    command = [sys.executable, "-c", code]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=30)
    assert (process.returncode, error.strip()) == (130, "Interrupted.")
    assert files(folder) == {"one.png", "two.jpg"}
