"""A sample of the zoo: real exports, checked as tools/zoo.py checks them; and its page."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zoo
import zoo_double
import zoo_onnx
import zoo_table
from onnx.reference import ReferenceEvaluator

import models

TOOLS = Path(zoo.__file__).parent
LIMIT = 8 * zoo.GIB


def made(maker: str, model: str, folder: Path, *exports: str) -> dict[str, Any]:
    """What a maker wrote into the folder."""
    command = [sys.executable, TOOLS / f"{maker}.py", "make", model, folder, *exports]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    found: dict[str, Any] = json.loads((folder / "made.json").read_text("utf-8"))
    return found


@pytest.mark.parametrize(
    "model",
    ["light_bvlc_alexnet", "light_squeezenet", "light_shufflenet", "light_inception_v1",
     "light_resnet50"],
)  # fmt: skip
def test_models_of_the_onnx_package(model: str, tmp_path: Path) -> None:
    made("zoo_onnx", model, tmp_path)
    row = zoo.checked(tmp_path / "onnx-9.onnx", tmp_path, LIMIT, 600, near=False)
    assert row["right"] and row["layer"]["tensor"] == zoo_onnx.MODELS[model]
    assert row["split"] <= 1e-5 and row["ablation"] <= 1e-3 and row["way_exact"] == "exact"
    assert zoo_table.remark(row) == ""


@pytest.mark.torch
@pytest.mark.parametrize("export", ["torchscript-17", "dynamo-23"])
def test_an_export_of_torchvision(export: str, tmp_path: Path) -> None:
    pytest.importorskip("torchvision", exc_type=ImportError)
    made("zoo_torchvision", "resnet18", tmp_path, export)
    row = zoo.checked(tmp_path / f"{export}.onnx", tmp_path, LIMIT, 600, near=False)
    assert row["right"] and row["gradcam"] <= 1e-4 and row["gradient"] <= 1e-3
    assert zoo_table.remark(row) == ""


ROW: dict[str, Any] = {
    "family": "timm", "model": "net", "exporter": "dynamo", "opset": 23, "date": "2026-11-02",
    "expert_layer": "last",
    "failed": {}, "right": True, "split": 1e-7, "ablation": 1e-6, "gradcam": 1e-6,
    "gradient": 1e-6, "layer": {"tensor": "t", "units": 8, "grid": [7, 7]}, "expert": [8, 7, 7],
    "origin": "PyTorch", "methods": {"grad-cam": None, "cam": "two linear layers"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, ""),
        ({"gradient": 2e-3, "double_failed": "memory"}, "gradient off by 2.0e-03"),
        ({"gradient": 2e-2, "slope64": 1e-6}, ""),
        ({"gradient": 2e-2, "slope64": 2e-3}, "gradient off by 2.0e-02"),
        ({"gradcam": 2e-3, "slope64": 1e-6}, "gradcam off by 2.0e-03"),
        ({"gradcam": 2e-3, "double_failed": "memory"}, "gradcam off by 2.0e-03"),
        ({"gradcam": 2e-3, "gradcam64": 2e-3}, "gradcam off by 2.0e-03"),
        ({"gradcam": 2e-3, "gradcam64": 1e-6}, ""),
        ({"gradcam": 2e-3, "gradcam64": 1e-6, "gradient": 2e-2, "slope64": 1e-6}, ""),
        ({"right": False}, "layer t [8, 7, 7] is not the expert's [8, 7, 7]"),
        ({"failed": {"grad-cam": "no rule"}}, "grad-cam: no rule"),
        ({"export_error": "refused"}, "not exported: refused"),
        ({"near": True, "gradient": 0.3, "gradient_alike": 0.95}, ""),
        ({"near": True, "alike": 0.9995, "gradcam_alike": 0.5}, "Grad-CAM at a cosine of 0.50"),
        ({"near": True, "alike": 0.97, "gradcam_alike": 0.5}, ""),
        ({"near": True, "ablation": 0.1, "ablation_of_score": 1e-3}, ""),
        ({"near": True, "ablation": 0.1, "ablation_of_score": 0.1}, "ablation off by 1.0e-01"),
    ],
)
def test_what_is_wrong_with_a_row(change: dict[str, Any], said: str) -> None:
    assert zoo_table.remark({**ROW, **change}) == said
    assert zoo_table.good({**ROW, **change}) == (not said)


def test_the_page_counts() -> None:
    rows = [
        ROW,
        {**ROW, "model": "other", "right": False, "date": "2026-10-09"},
        {**ROW, "opset": 17, "gradient": 1.0, "slope64": 1.0},
    ]
    unmade = {name: ROW[name] for name in ("family", "model", "exporter", "expert_layer", "date")}
    page = zoo_table.page([*rows, {**unmade, "opset": 11, "export_error": "a | b"}])
    counts = "2 | 3 of 4 | 3 of 3 | 2 of 3 | 3 of 3 | 2 of 3 | 3 of 3"
    assert f"| timm | {counts} | 2026-10-09 to 2026-11-02 |" in page
    assert "- timm `other` (dynamo 23): layer t [8, 7, 7] is not the expert's" in page
    assert page.partition("## Not exported")[2].startswith("\n\n- timm `net` (dynamo 11): a / b\n")
    assert "| `t` 8×7×7 **no** |" in page and "| 1 of 2, not cam |" in page


@pytest.mark.parametrize(
    "body",
    [
        "y = Conv <pads = [1, 0, 2, 1], strides = [2, 1], dilations = [1, 2]> (x, w, b)",
        "y = Conv <group = 2> (x, v)",
        "y = ConvTranspose <pads = [1, 0, 1, 1], strides = [2, 3], output_padding = [1, 0]> (x, t)",
        "y = ConvTranspose <group = 4, dilations = [2, 1]> (x, d)",
        "m, y = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [1, 1]> (x)",
        "m, y = MaxPool <kernel_shape = [2, 3], strides = [2, 1], dilations = [1, 2]> (x)",
        "m, y = MaxPool <kernel_shape = [3, 2], ceil_mode = 1, strides = [2, 3]> (x)",
        "m, y = MaxPool <kernel_shape = [2, 2], ceil_mode = 1, strides = [1, 1]> (x)",
        "y = Pad(x, p, , a)",
    ],
)
def test_operators_of_the_float64_check(body: str) -> None:
    """Ours stand in for those of the onnx package: slow, and of maxima at stride 1 wrong."""
    shapes = {"w": (6, 4, 3, 2), "b": (6,), "v": (4, 2, 3, 3), "t": (4, 5, 3, 2), "d": (4, 1, 3, 3)}
    held = {n: models.weight(*shape) for n, shape in shapes.items() if f" {n})" in body}
    held |= {n: models.weight(*shapes[n]) for n in "w" if f" {n}, b)" in body}
    kind = "int64" if "MaxPool" in body else "float"
    held |= {"p": np.array([-1, 2, 3, -2]), "a": np.array([2, 3])} if "Pad" in body else {}
    proto = models.model(body, held, "float[2,4,9,8] x", f"{kind}[A,B,C,D] y")
    x = models.images(2, 4, 9, 8)
    (wanted,) = models.run(proto, {"x": x})
    (found,) = ReferenceEvaluator(proto, new_ops=zoo_double.OPS).run(None, {"x": x})
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_the_float64_check_forgets_only_what_nothing_needs() -> None:
    body = """
        a = Relu(x)
        p = Exp(x)
        y = Loop(n, , a) <body = step (int64 i, bool c, float s) => (bool d, float t) {
            d = Identity(c)
            b = Mul(s, p)
            t = Add(b, half)
        }>
        z = Add(y, a)"""
    held = {"n": np.array(2), "half": np.array(0.5, np.float32)}
    proto = models.model(body, held, "float[2,3] x", "float[2,3] z")
    x = models.images(2, 3)
    frugal = zoo_double._Frugal(proto)
    (found,) = frugal.run(["z"], {"x": x})
    (wanted,) = ReferenceEvaluator(proto).run(None, {"x": x})
    np.testing.assert_array_equal(found, wanted)
    kept, found = frugal.run(["p", "z"], {"x": x})
    np.testing.assert_array_equal(kept, np.exp(x))


def test_results_survive(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    zoo.Results(path).add(ROW)
    zoo.Results(path).add({**ROW, "split": 0.5})
    with path.open("a") as stream:
        stream.write('{"family": "tim')  # the process was ended here
    zoo.Results(path).add({**ROW, "model": "next"})
    found = zoo.Results(path).rows.values()
    assert [(row["model"], row["split"]) for row in found] == [("net", 0.5), ("next", 1e-7)]
    later = zoo.Results(tmp_path / "later.jsonl", before=path)
    later.add({**ROW, "model": "next", "split": 0.25})
    assert [row["split"] for row in later.rows.values()] == [0.5, 0.25]
    assert len(zoo.Results(tmp_path / "later.jsonl").rows) == 1


def test_a_process_is_ended_at_its_limits() -> None:
    hungry = "x = bytearray(300 << 20); import time; time.sleep(30)"
    code, _, why, peak = zoo.limited([sys.executable, "-c", hungry], 150 << 20, 20)
    assert code and "GiB" in why and peak > 150 << 20
    code, out, why, _ = zoo.limited(
        [sys.executable, "-c", "print(7); raise SystemExit('no')"], LIMIT, 20
    )
    assert (code, out.strip(), why) == (1, "7", "no")
