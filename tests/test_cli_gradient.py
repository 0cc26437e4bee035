"""`onnxcam gradient`: the file it writes gives the derivatives, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner, Result

import onnxcam
from onnxcam.cli import main
from onnxcam.graph.model import Model
from onnxcam.resources import resource

MODEL = resource("demo_residual.onnx")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def gradient(*arguments: object, code: int = 0, out: str = "g.onnx") -> Result:
    """Runs `onnxcam gradient`; a bug passes through as the exception it is."""
    words = ["gradient", str(MODEL), out, *map(str, arguments)]
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def run(path: str, **feeds: np.ndarray) -> dict[str, np.ndarray]:
    """All outputs of a model by name."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def images(batch: int = 2) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(batch, 3, 96, 96)).astype(np.float32)


def test_the_file_gives_the_gradient_of_the_logit() -> None:
    printed = gradient().stdout
    assert printed == (
        "g.onnx  image (N, 3, 96, 96), target (N) -> probabilities (N, 10), "
        "image/gradient (N, 3, 96, 96)\n"
    )
    onnx.checker.check_model("g.onnx", full_check=True)
    x, classes = images(), np.array([3, 7])
    found = run("g.onnx", image=x, target=classes)
    assert set(found) == {"probabilities", "image/gradient"}
    np.testing.assert_allclose(
        found["probabilities"], run(str(MODEL), image=x)["probabilities"], rtol=1e-4, atol=1e-6
    )
    g = found["image/gradient"]
    step = 2e-2 * g / np.sqrt((g * g).sum(axis=(1, 2, 3), keepdims=True))

    def logit(at: np.ndarray) -> np.ndarray:
        scores = onnxcam.Explainer(MODEL, "saliency", provider="cpu")(at, classes).scores
        return scores[np.arange(2), classes].astype(np.float64)

    rise = logit(x + step) - logit(x - step)  # along the gradient: its own length, twice the step
    np.testing.assert_allclose(rise, 2 * (g * step).sum(axis=(1, 2, 3)), rtol=0.03)


def test_tensors_nodes_and_positions() -> None:
    classifier = onnxcam.load(MODEL)
    layer = classifier.layer(-2)
    result = gradient("--wrt", "-1", "--wrt", layer.tensor, "--wrt", "image", "--json")
    found = json.loads(result.stdout)
    assert [one["name"] for one in found["inputs"]] == ["image", "target"]
    named = ["features/gradient", f"{layer.tensor}/gradient", "image/gradient"]
    assert [one["name"] for one in found["outputs"]] == ["probabilities", *named]
    assert found["file"] == "g.onnx" and found["outputs"][1]["shape"] == ["N", 96, 12, 12]
    x, classes = images(), np.array([1, 1])
    grads = run("g.onnx", image=x, target=classes)
    one = onnxcam.Explainer(MODEL, "grad-cam", provider="cpu")(x, 1)
    mean = grads["features/gradient"].mean(axis=(2, 3))
    np.testing.assert_allclose(mean, one.weights, rtol=1e-4, atol=1e-7)


def test_a_cotangent_and_another_tensor() -> None:
    gradient("--of", "features", "--cotangent")
    seeds = np.random.default_rng(1).normal(size=(2, 96, 12, 12)).astype(np.float32)
    found = run("g.onnx", image=images(), cotangent=seeds)
    assert found["image/gradient"].shape == (2, 3, 96, 96)
    twice = run("g.onnx", image=images(), cotangent=2 * seeds)
    np.testing.assert_allclose(
        twice["image/gradient"], 2 * found["image/gradient"], rtol=1e-4, atol=1e-6
    )


def test_variants() -> None:
    found = {}
    for variant in ("standard", "guided", "deconv"):
        gradient("--variant", variant, "--force")
        found[variant] = run("g.onnx", image=images(), target=np.array([1, 2]))["image/gradient"]
    explained = onnxcam.Explainer(MODEL, "guided-backprop", provider="cpu")
    raw = explained(images(), [1, 2]).raw
    np.testing.assert_allclose(found["guided"], raw, rtol=1e-3, atol=1e-5)
    for other in ("guided", "deconv"):
        assert np.abs(found[other] - found["standard"]).max() > 1e-3


def test_large_weights_stand_beside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxcam.graph.model._PROTO_LIMIT", 1000)
    monkeypatch.setattr("onnxcam.graph.weights.INLINE_BYTES", 1000)
    held = Model.files

    def files(self: Model, name: str) -> dict[str, bytes]:
        assert self.weights, "nothing was kept beside the graph"
        return held(self, name)

    monkeypatch.setattr(Model, "files", files)
    gradient(out="deep/g.onnx")
    assert {path.name for path in (folder / "deep").iterdir()} == {"g.onnx", "g.onnx.data"}
    found = run("deep/g.onnx", image=images(), target=np.array([1, 2]))
    assert np.isfinite(found["image/gradient"]).all() and found["image/gradient"].any()
    assert "--force" in gradient(out="deep/g.onnx", code=1).stderr


WRONG: list[tuple[tuple[str, ...], int, str]] = [
    (("--wrt", "nothing"), 1, "no tensor or node 'nothing'"),
    (("--wrt", "-99"), 1, "no feature map -99"),
    (("--of", "feature"), 1, "'features'"),
    (("--of", "features"), 1, "give a cotangent instead"),
    (("--of", "features", "--wrt", "logits"), 1, "cotangent"),
    (("--variant", "guidd"), 1, "'guided'"),
    (("--input", "picture"), 1, "no input 'picture'"),
]


@pytest.mark.parametrize(("arguments", "code", "says"), WRONG, ids=lambda v: str(v)[:40])
def test_errors(folder: Path, arguments: tuple[str, ...], code: int, says: str) -> None:
    result = gradient(*arguments, code=code)
    assert result.stdout == "" and says in result.stderr
    assert list(folder.iterdir()) == []


def test_nothing_is_overwritten(folder: Path) -> None:
    Path("g.onnx").write_bytes(b"mine")
    assert "g.onnx exists already" in gradient(code=1).stderr
    assert Path("g.onnx").read_bytes() == b"mine"
    Path("m.onnx").write_bytes(MODEL.read_bytes())
    result = CliRunner().invoke(main, ["gradient", "m.onnx", "./m.onnx", "--force"])
    assert result.exit_code == 1 and "would replace what is read" in result.stderr
    assert Path("m.onnx").read_bytes() == MODEL.read_bytes()
    gradient("--force")
    onnx.checker.check_model("g.onnx")
