"""The benchmarks of files, libraries and GPUs: their tables hang together. Nothing is timed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import bench_deploy
import bench_gpu
import bench_inner
import bench_peers
import bench_peers_work
import bench_sessions
import numpy as np
import onnx
import pytest
import zoo

import models
from onnxcam import runtime
from onnxcam.graph import load, split
from onnxcam.loading import probe

QUICK = ["--repeats", "1", "--seconds", "1", "--memory-runs", "1", "--threads", "1"]


@pytest.fixture(scope="module")
def model(root: Path) -> Path:
    """The smallest of the demo models whose head is dense layers."""
    return root / "models" / "demo_alexnet.onnx"


def tables(text: str) -> list[list[list[str]]]:
    """The Markdown tables in a text: their rows without head, each a list of cells."""
    found: list[list[list[str]]] = []
    inside = False
    for line in text.splitlines():
        if line.startswith("|---"):
            found.append([])
        elif line.startswith("|") and inside and found:
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        inside = line.startswith("|")
    return found


def test_explainer_files(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [str(model), *QUICK, "--methods", "grad-cam", "--targets", "given", "--batches", "2"]
    assert bench_deploy.main([*asked, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["model"], row["method"], row["target"]) == (model.name, "grad-cam", "given")
    assert row["batch"] == 2 and row["pairs"] == 1
    assert row["ratio"] == pytest.approx(row["explained"]["p50_s"] / row["plain"]["p50_s"])
    assert row["plain"]["images_per_s"] == pytest.approx(2 / row["plain"]["p50_s"])
    assert all(1 << 23 < peak < 1 << 32 for peak in row["peak"].values())
    ((cells,),) = tables(f"{bench_deploy.HEAD}\n{bench_deploy.line(row)}")
    assert len(cells) == 12 and cells[:4] == ["demo_alexnet", "grad-cam", "given", "2"]
    assert cells[6].startswith(f"{row['ratio']:.2f} (")


def test_files_that_cannot_be_exported_have_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"no model")
    assert bench_deploy.main([str(bad), *QUICK, "--methods", "grad-cam", "--targets", "top1"]) == 1
    said = capsys.readouterr()
    (((name, *_, failed),),) = [[row[:5] for row in table] for table in tables(said.out)]
    assert name == "bad" and failed.startswith("failed: ")
    assert "bad.onnx" in said.err and "Traceback" not in said.err


def test_percentiles() -> None:
    found = bench_sessions.side([i / 1000 for i in range(200, 0, -1)], batch=4)
    assert found["p50_s"] == pytest.approx(0.1005) and found["p99_s"] == pytest.approx(0.198)
    assert found["images_per_s"] == pytest.approx(4 / 0.1005)
    assert bench_sessions.side([3.0, 1.0, 2.0], batch=1)["p99_s"] == 3.0


def event(op: str, size: int, name: str = "n_kernel_time") -> dict[str, Any]:
    return {"cat": "Node", "name": name, "args": {"op_name": op, "output_size": str(size)}}


def test_copies_are_counted() -> None:
    run = [
        event("Conv", 4000), event("MemcpyToHost", 8), event("MemcpyToHost", 64),
        event("MemcpyFromHost", 16), event("MemcpyFromHost", 999, "n_fence_before"),
        {"cat": "Session", "name": "model_run", "args": {}},
    ]  # fmt: skip
    found = bench_sessions.copies(run * 2, runs=2)
    assert found == {"nodes": 4, "to_host": 2, "from_host": 1, "largest": 64}


def test_operations_of_a_head() -> None:
    body = (
        "p = Conv <pads = [1, 1, 1, 1]> (x, k) a = Relu(p)"
        " q = Conv <strides = [2, 2], group = 2> (a, l) b = Relu(q)"
        " f = Flatten(b) h = Gemm <transB = 1> (f, m) y = MatMul(h, c)"
    )
    held = {
        "k": models.weight(4, 3, 3, 3), "l": models.weight(6, 2, 3, 3),
        "m": models.weight(5, 6 * 9), "c": models.weight(5, 7),
    }  # fmt: skip
    proto = models.model(body, held, "float[N,3,8,8] x", "float[N,7] y")
    classifier = load(proto, probe=probe)
    assert bench_inner.inner_layer(classifier) == "a"
    _, head = split(classifier, "a")
    found = bench_inner.operations(head, {"a": (1, 4, 8, 8)})
    assert found == 2 * (6 * 9 * 2 * 9 + 5 * 6 * 9 + 7 * 5)


def test_a_dry_run_of_the_gpu(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [str(model), *QUICK, "--provider", "cpu", "--batches", "2", "--side", "64"]
    asked += ["--precisions", "fp16", "--methods", "grad-cam", "--ways", "exact"]
    assert bench_gpu.main([*asked, "--parts", "explained", "inner", "copies"]) == 0
    explained, inner, copies = tables(capsys.readouterr().out)
    ((name, method, target, batch, *figures),) = explained
    assert (name, method, target, batch) == ("demo_alexnet.fp16", "grad-cam", "top1", "2")
    assert float(figures[0]) > 0 and "–" in figures[2]
    ((_, layer, units, way, *rest),) = inner
    assert way == "exact" and int(units) > 1 and "×" in layer
    floor, seconds, ratio = map(float, rest[2:])
    assert ratio == pytest.approx(seconds / floor, rel=0.1)
    assert [(row[2], row[4], row[5]) for row in copies] == [
        ("plain", "0", "0"), ("explainer", "0", "0"),
    ]  # fmt: skip
    assert int(copies[1][3]) > int(copies[0][3]) > 3


def test_without_a_gpu(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if runtime.works("cuda"):
        pytest.skip("this machine has a GPU")
    assert bench_gpu.main([str(model)]) == 1
    said = capsys.readouterr()
    assert not said.out and len(said.err.splitlines()) == 1 and "'cuda' cannot run" in said.err


def test_libraries_side_by_side(model: Path, tmp_path: Path) -> None:
    shape = [d.dim_value or 1 for d in onnx.load(model).graph.input[0].type.tensor_type.shape.dim]
    picture = np.random.default_rng(0).random([1, *shape[1:]], np.float32)
    np.save(tmp_path / "x.npy", picture)
    made = {"model": "demo", "target": 2, "onnx": str(model), "npy": str(tmp_path / "x.npy")}
    given = bench_peers._arguments(
        ["--method", "rise", "saliency", "--masks", "4", "--repeats", "1", "--seconds", "60"]
    )
    here = Path(sys.executable)
    found = [*bench_peers.measured(made, {"onnxcam": here, "dianna": here}, given)]
    wanted = [("rise", "onnxcam"), ("rise", "dianna"), ("saliency", "onnxcam")]
    assert [(row["method"], row["library"]) for row in found] == wanted
    ours, theirs, _ = found
    assert ours["over_ours"] == 1 and ours["alike"] == pytest.approx(1)
    assert ours["explained_s"] > 0 and ours["peak"] > 1 << 25 and ours["install"] > 1 << 20
    assert np.shape(ours["map"]) == (7, 7)
    assert "No module named" in theirs["failed"]
    lines = tables("\n".join([bench_peers.HEAD, *map(bench_peers.line, found)]))[0]
    assert {len(cells) for cells in lines} == {11}
    assert lines[1][2] == "dianna" and lines[1][4].startswith("failed: ")


def test_what_cannot_be_installed_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import subprocess

    def refuse(folder: Path, needs: Any, bare: Any = ()) -> Path:
        raise subprocess.CalledProcessError(1, "pip", stderr="WARNING\nERROR: no such package\n")

    monkeypatch.setattr(bench_peers, "environment", refuse)
    named = ["--python", f"models={sys.executable}", "--work", str(tmp_path), "--model"]
    assert bench_peers.main(["--library", "dianna", *named]) == 0
    (row,) = tables(capsys.readouterr().out)[0]
    assert row[2] == "dianna" and row[4] == "could not be installed: ERROR: no such package"


def test_environments_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(zoo.subprocess, "run", lambda c, **_: ran.append([*map(str, c)]))
    folder = tmp_path / "env"
    monkeypatch.setattr(zoo.shutil, "rmtree", lambda *_, **__: folder.mkdir())
    python = zoo.environment(folder, ("one",), ("two",))
    assert [command[-1] for command in ran] == [str(folder), "one", "two"]
    assert "--no-deps" in ran[2] and "--no-deps" not in ran[1]
    assert zoo.environment(folder, ("one",), ("two",)) == python and len(ran) == 3


@pytest.mark.parametrize("library", [*bench_peers.PEERS])
def test_every_library_has_a_worker(library: str) -> None:
    assert library in bench_peers_work.LIBRARIES
    assert set(bench_peers.PEERS[library].methods) <= set(bench_peers.METHODS)


def test_maps_on_a_coarse_grid() -> None:
    found = np.array(bench_peers_work.coarse(np.arange(14 * 14.0).reshape(1, 14, 14)))
    assert found.shape == (7, 7) and found[-1, -1] == 1
    assert found[0, 0] == pytest.approx(7.5 / 187.5)
