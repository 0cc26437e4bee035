"""The benchmark and the export tool: what they report hangs together. Nothing is timed."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import bench
import bench_gradient
import bench_measure
import export_torchvision
import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxcam

MIB = 1 << 20
QUICK = ("--repeats", "1", "--warmup", "0", "--memory-runs", "1")


def run(root: Path, tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "tools" / tool), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)


@pytest.fixture(scope="module")
def model(root: Path) -> Path:
    """The smallest of the demo models."""
    return min((root / "models").glob("demo_*.onnx"), key=lambda path: path.stat().st_size)


@pytest.fixture(scope="module")
def figures(root: Path, model: Path) -> dict[str, Any]:
    """What the benchmark says about `model`, the literal path included."""
    done = run(root, "bench.py", str(model), *QUICK, "--literal", "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def test_what_was_measured(figures: dict[str, Any], model: Path) -> None:
    shape = [d.dim_value for d in onnx.load(model).graph.input[0].type.tensor_type.shape.dim]
    assert figures["model"] == model.name
    assert figures["bytes"] == model.stat().st_size
    assert figures["input"] == [1, *shape[1:]]
    assert figures["units"] > 1 and len(figures["grid"]) == 2 and min(figures["grid"]) > 1
    assert figures["layer"] and figures["mode"] == "one run" and figures["classes"] == 10
    assert (figures["threads"], figures["repeats"], figures["notes"]) == (2, 1, [])


@pytest.mark.parametrize("way", ["exact", "literal"])
def test_figures_hang_together(figures: dict[str, Any], way: str) -> None:
    part = figures if way == "exact" else figures["literal"]
    time, memory = part["time"], part["memory"]
    (pair,) = time["pairs_s"]
    assert [time["plain_s"], time["explain_s"]] == pair and min(pair) > 0
    ratio = pair[1] / pair[0]
    assert time["ratio"] == time["ratio_of_fastest"] == pytest.approx(ratio)
    assert time["ratio_range"] == pytest.approx([ratio, ratio])
    for side in ("plain", "explain"):
        assert 10 * MIB < memory[side]["imported"] <= memory[side]["peak"] < 4096 * MIB
    assert memory["ratio"] == pytest.approx(memory["explain"]["peak"] / memory["plain"]["peak"])
    assert memory["runs"] == 1


def test_the_literal_path_goes_in_blocks(figures: dict[str, Any]) -> None:
    literal = figures["literal"]
    assert literal["blocks"] >= 1 and literal["mode"].endswith(("block", "blocks"))
    assert literal["units_measured"] == figures["units"] and not literal["estimated"]


def test_a_long_literal_path_is_estimated(model: Path) -> None:
    given = bench._arguments([str(model), *QUICK, "--literal", "--literal-limit", "0"])
    found = bench.bench(model, given)
    literal = found["literal"]
    assert (
        literal["estimated"] and literal["units_measured"] == 2 * bench_measure.FEW < found["units"]
    )
    small, large = literal["measured"]
    assert (small["units"], large["units"]) == (bench_measure.FEW, 2 * bench_measure.FEW)
    assert literal["time"]["explain_s"] >= large["explain_s"]
    text = "\n".join(bench.details(found))
    assert f"{2 * bench_measure.FEW} of {found['units']} units were run" in text


def test_the_table_fits_100_columns(figures: dict[str, Any]) -> None:
    long_name = figures | {"layer": "layer/" * 30}
    lines = [
        *bench.HEAD.splitlines(),
        bench.row("a_name_that_is_far_too_long_for_the_table", figures["units"], long_name),
        bench.row("  literal", figures["units"], figures["literal"]),
        *bench.details(long_name),
    ]
    assert max(map(len, lines)) <= 100
    assert "one run" in lines[2] and f"{bench._short(figures['time']['ratio'])} (" in lines[2]


@pytest.fixture(scope="module")
def gradients(root: Path, model: Path) -> dict[str, Any]:
    """What the benchmark says about the gradients of `model`, at its last feature map but one."""
    done = run(root, "bench.py", str(model), *QUICK, "--gradient", "--layer", "-2", "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def test_gradients(gradients: dict[str, Any], model: Path) -> None:
    classifier = onnxcam.load(model)
    time, nodes = gradients["time"], gradients["nodes"]
    assert gradients["model"] == model.name and gradients["torch"] == {}
    assert gradients["input"] == [1, *classifier.image.shape(1)[1:]]
    assert gradients["layer"] == classifier.tensor(-2) != classifier.default.tensor
    assert nodes["image"] > nodes["map"] > nodes["plain"]
    assert min(gradients["build"].values()) > 0
    runs = time["runs_s"]
    assert [*runs] == ["plain", "image", "map"] and [time["plain_s"]] == runs["plain"]
    for name in ("image", "map"):
        part, ratio = time[name], runs[name][0] / runs["plain"][0]
        assert [part["s"]] == runs[name] and runs[name][0] > 0
        assert part["ratio"] == part["ratio_of_fastest"] == pytest.approx(ratio)
        assert part["ratio_range"] == pytest.approx([ratio, ratio])


def test_the_table_of_gradients_fits_100_columns(gradients: dict[str, Any]) -> None:
    torch = {"version": "2.13.0+cpu", "time": gradients["time"]}
    long_name = gradients | {"model": "long" * 20, "layer": "layer/" * 30, "torch": torch}
    lines = [*bench_gradient.HEAD.splitlines(), *bench_gradient.lines(long_name)]
    assert max(map(len, lines)) <= 100
    assert f"{gradients['time']['image']['ratio']:.2f} (" in lines[2]
    assert f"{gradients['time']['plain_s'] * 1e3:.1f} ms" in lines[-1]
    assert len(bench_gradient.lines(gradients)) == len(lines) - 3


def test_ratios_keep_three_figures() -> None:
    assert [bench._short(r) for r in (1.049, 9.996, 15.14, 99.96, 2009.4)] == [
        "1.05", "10.0", "15.1", "100", "2009",
    ]  # fmt: skip


def test_units_are_spread_evenly() -> None:
    assert bench_measure._spread(2048, 4) == [0, 512, 1024, 1536]
    assert bench_measure._spread(5, 5) == [0, 1, 2, 3, 4]


def test_a_file_that_is_no_model(root: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"no model")
    done = run(root, "bench.py", str(bad), "--json")
    assert done.returncode == 1 and not done.stdout
    assert "bad.onnx" in done.stderr and "Traceback" not in done.stderr


def test_export_help(root: Path) -> None:
    done = run(root, "export_torchvision.py", "--help")
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("--to", "--opset", "--exporter", "--batch"))


@pytest.mark.parametrize("name", ["torch", "torchvision"])
def test_export_says_what_to_install(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def find_spec(asked: str) -> object:
        return None if asked == name else object()

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    assert export_torchvision.main(["resnet18", "--to", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert f"needs {name}, which is not installed: pip install" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
def test_an_export_is_a_classifier_with_live_signals(tmp_path: Path) -> None:
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    path = export_torchvision.export("squeezenet1_1", tmp_path, opset=17, size=64)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    noise = np.random.default_rng(0).standard_normal((3, 3, 64, 64), np.float32)
    (scores,) = session.run(None, {"image": noise})
    assert scores.shape == (3, 1000)
    assert 0.1 < scores.std() < 10
    again = export_torchvision.export("squeezenet1_1", tmp_path / "again", opset=17, size=64)
    assert again.read_bytes() == path.read_bytes()
    with pytest.raises(ValueError, match="no classifier 'resnet5'"):
        export_torchvision.export("resnet5", tmp_path)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
def test_gradients_of_pytorch() -> None:
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    job = {"threads": 1, "repeats": 2, "warmup": 0, "seed": 0, "input": [2, 3, 64, 64]}
    found = bench_gradient.measure_torch({**job, "path": "zoo/squeezenet1_1.dynamo.onnx"})
    assert [len(times) for times in found["time"]["runs_s"].values()] == [2, 2]
    assert bench_gradient.measure_torch({**job, "path": "zoo/squeeze.onnx"}) == {}
