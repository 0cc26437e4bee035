"""Negative decisions and heads of one unit on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from models import ONE_UNIT, close, one_unit
from onnxcam import Explainer
from onnxcam.cli import main, names, show
from onnxcam.resources import resource

MODEL = resource("demo_vgg.onnx")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a picture, two heads of one unit, one sure and one not, and names."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("a.png")
    for name, bias in (("yes", 9), ("no", -9)):
        onnx.save(one_unit(*ONE_UNIT["squeezed, sigmoid"][:2], bias=bias), f"{name}.onnx")
    Path("two.txt").write_text("cat\ndog\n", "utf-8")
    return tmp_path


def cli(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def test_files_lines_and_facts_say_not(folder: Path) -> None:
    asked = ("--target", "not:cat", "--target", "cat", "--target", "NOT:1", "--target", "not:tree")
    done = cli("explain", MODEL, "a.png", "-m", "grad-cam", *asked)
    found = Explainer(MODEL, "grad-cam").explain("a.png", ["cat", "tree"])
    cat, tree = found.target_score[0]
    for what in (
        f"a.png: not cat (not:1), logit {-cat:.4g} -> a.grad-cam.not-cat.png",
        f"a.png: cat (1), logit {cat:.4g} -> a.grad-cam.cat.png",
        f"a.png: not tree (not:9), logit {-tree:.4g} -> a.grad-cam.not-tree.png",
    ):
        assert what in done.stdout
    assert len(list(folder.glob("a.grad-cam.*"))) == 3
    with Image.open("a.grad-cam.not-tree.png") as image:
        assert image.info["Title"] == f"not tree (logit {-tree:.4g})"
        facts = json.loads(image.info["onnxcam"])["targets"]
    assert [(t["index"], t["negated"], t["label"]) for t in facts] == [
        (1, True, "not cat"),
        (1, False, "cat"),
        (9, True, "not tree"),
    ]
    close(np.array([t["score"] for t in facts]), np.array([-cat, cat, -tree]))


def test_probabilities_and_the_best_two() -> None:
    asked = ("--target", "not:top2", "--score", "probability", "--json", "--kind", "none")
    (facts,) = json.loads(cli("explain", MODEL, "a.png", *asked).stdout)
    best = Explainer(MODEL, score="probability").explain("a.png", "top2")
    assert [t["index"] for t in facts["targets"]] == best.target[0].tolist()
    assert all(t["negated"] for t in facts["targets"])
    close(np.array([t["score"] for t in facts["targets"]]), 1 - best.target_score[0])


def test_arrays_and_comparisons_hold_the_sign() -> None:
    ask = ("--target", "not:cat", "--target", "cat", "--to")
    cli("explain", MODEL, "a.png", "-m", "hires-cam", *ask, "one.npz")
    with np.load("one.npz") as arrays:
        assert arrays["negated"].tolist() == [[True, False]]
        close(arrays["raw"][0, 0], -arrays["raw"][0, 1])
    done = cli("compare", MODEL, "a.png", "--methods", "hires-cam,eigen-cam", *ask, "both.npz")
    assert "a.png: not cat (not:1), logit" in done.stdout
    assert "note: Eigen-CAM asks about no class: the map is the same for any" in done.stdout
    with np.load("both.npz") as arrays:
        assert arrays["negated"].tolist() == [[True, False]]
        close(arrays["0.hires-cam.raw"][0, 0], -arrays["0.hires-cam.raw"][0, 1])
        close(arrays["1.eigen-cam.raw"][0, 0], arrays["1.eigen-cam.raw"][0, 1])


def test_a_head_of_one_unit() -> None:
    says = "the model says no; target not:0 explains that decision"
    ask = ("a.png", "--preset", "cifar10", "--labels", "two.txt", "--force")
    done = cli("explain", "no.onnx", *ask)
    assert says in done.stdout and "a.png: dog (0), logit -" in done.stdout
    assert "no.onnx, 1 class\n" in done.stdout
    for target in ("not:0", "cat", "not:dog"):
        done = cli("explain", "no.onnx", *ask, "--target", target)
        assert "says no" not in done.stdout and "is negative" not in done.stdout
        assert "a.png: cat (not:0), logit " in done.stdout
    assert "says no" not in cli("explain", "yes.onnx", *ask).stdout
    done = cli("explain", "yes.onnx", *ask, "--target", "cat", "--target", "dog")
    assert "a.ablation-cam.cat.png" in done.stdout and "a.ablation-cam.dog.png" in done.stdout


@pytest.mark.parametrize(
    ("model", "target", "message"),
    [
        (MODEL, "not:10", "class 10 does not exist: the model has 10 classes"),
        (MODEL, "not:ca", "class 'ca' is not among the model's 10 classes (did you mean 'cat'"),
        (MODEL, "not:top11", "write top1 to top10"),
        ("no.onnx", "top2", "the model has one class; write top1"),
        ("no.onnx", "1", "class 1 does not exist: the model has one class, 0"),
    ],
)
def test_errors(folder: Path, model: Path | str, target: str, message: str) -> None:
    before = set(folder.iterdir())
    done = cli("explain", model, "a.png", "--preset", "raw-1", "--target", target, code=1)
    assert message in done.stderr and set(folder.iterdir()) == before


def test_the_best_stand_alone() -> None:
    done = cli("explain", MODEL, "a.png", "--target", "not:top2", "--target", "1", code=2)
    assert "--target topN stands alone" in done.stderr


def test_slugs_and_lines_of_decisions() -> None:
    labels = ["cat, tom", "not cat", ""]
    made = names.slugs(labels, [0, 0, 1, 2, 2], [False, True, True, False, True])
    assert made == ["cat", "not-class-0", "not-not-cat", "class-2", "not-class-2"]
    assert names.slugs(["dog"], [0, 0], [False, True], "cat") == ["dog", "cat"]
    assert names.slugs(["dog"], [0, 0], [False, True], "Dog") == ["dog", "not-class-0"]
    assert show.label("not bee", 309, True) == "not bee (not:309)"
    assert show.label("not class 3", 3, True) == "not class 3"
    assert show.label("not tabby, tabby cat, and some more names", 7, True) == "not tabby (not:7)"


def test_a_real_model_of_many_answers(shared_data: Path) -> None:
    """A keyboard, and no laptop: asked about as such, the second turns its map round."""
    model = shared_data / "models/customvision_computer_multilabel.onnx"
    picture = shared_data / "images/imagenet/508_n03085013.jpg"
    labels = ("--labels", shared_data / "labels/customvision_computer.txt")
    ask = ("--target", "keyboard", "--target", "not:laptop", "--target", "laptop")
    how = ("-m", "grad-cam", "--to", "k.npz", "--json")
    (facts,) = json.loads(cli("explain", model, picture, *labels, *ask, *how).stdout)
    scores = {t["label"]: t["score"] for t in facts["targets"]}
    assert scores["keyboard"] == pytest.approx(8.637, abs=0.01)
    assert scores["not laptop"] == pytest.approx(12.26, abs=0.01) == -scores["laptop"]
    with np.load("k.npz") as arrays:
        close(arrays["raw"][0, 1], -arrays["raw"][0, 2], tolerance=1e-4)
        assert arrays["map"][0, 1].max() > 0
