"""`onnxcam inspect`: origin, methods with reasons, models without a feature map, the picture."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

import models
import onnxcam
from models import tiny, weight
from onnxcam.cli import main
from onnxcam.explainer.ways import NO_MAP
from onnxcam.methods import METHODS
from onnxcam.resources import resource

MODEL = resource("demo_vgg.onnx")
PLAIN = [row for row in METHODS.values() if not row.fused]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def inspect(*arguments: object, code: int = 0) -> Result:
    words = ["inspect", *map(str, arguments)]
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def saved(proto: onnx.ModelProto, name: str = "m.onnx") -> Path:
    Path(name).write_bytes(proto.SerializeToString())
    return Path(name)


def flat() -> Path:
    """A model without a grid."""
    return saved(models.model("f = Flatten(x) y = Gemm(f, v)", {"v": weight(90, 5)}))


def test_the_origin_with_its_evidence() -> None:
    told = inspect(MODEL).stdout
    assert "\norigin   PyTorch, torch.onnx.export, dynamo (producer 'pytorch', version 2." in told
    found = json.loads(inspect(MODEL, "--json").stdout)
    assert (found["framework"], found["exporter"]) == ("PyTorch", "torch.onnx.export, dynamo")
    assert found["evidence"][1] == "node names such as 'node_conv2d'"
    assert found["rewritten_by"] == []


def test_an_unknown_origin_and_a_quantiser() -> None:
    proto = tiny()
    proto.producer_name = "onnx.quantize"
    told = inspect(saved(proto)).stdout
    assert "origin   unknown: neither the producer nor names in the file tell" in told
    assert "\n         rewritten by ONNX Runtime's quantiser (producer 'onnx.quantize')" in told
    found = json.loads(inspect("m.onnx", "--json").stdout)
    assert found["framework"] is found["exporter"] is None and found["evidence"] == []
    assert [one["tool"] for one in found["rewritten_by"]] == ["ONNX Runtime's quantiser"]


def test_methods_and_why_not_the_others() -> None:
    explainer = onnxcam.Explainer(MODEL, provider="cpu")
    found = json.loads(inspect(MODEL, "--json").stdout)["methods"]
    assert found == explainer.methods() and list(found) == [row.name for row in PLAIN]
    assert "CAM needs a head" in found["cam"]
    told = inspect(MODEL).stdout
    (able,) = re.findall(r"^methods that can explain it \(20 of 21\)\n  (.*)$", told, re.M)
    assert able.split(", ") == [name for name in found if name != "cam"]
    assert f"methods that cannot, and why\n  cam: {found['cam']}\n" in told


def test_methods_at_another_layer(goldens: Path) -> None:
    model = goldens / "tiny_resnet/ts17.onnx"
    assert json.loads(inspect(model, "--json").stdout)["methods"]["cam"] is None
    found = json.loads(inspect(model, "--layer", "-4", "--json").stdout)
    assert "CAM needs a head" in found["methods"]["cam"]
    assert found["layer"] == found["layers"][-4]["tensor"]


def test_methods_with_the_same_reason_share_a_line() -> None:
    body = (
        "p = Conv <pads = [1, 1, 1, 1]> (x, w) a = Relu(p) g = GlobalAveragePool(a) r = Flatten(g)"
        " h = Unsqueeze(r, z) s, t = GRU <hidden_size = 3, clip = 9.0> (h, gw, gr)"
        " q = Squeeze(t, z) y = Gemm(q, v)"
    )
    weights: dict[str, Any] = {"w": weight(3, 3, 3, 3), "v": weight(3, 5), "z": np.array([0])}
    weights |= {"gw": weight(1, 9, 3), "gr": weight(1, 9, 3)}
    told = inspect(saved(models.model(body, weights))).stdout
    assert "(6 of 21)\n  ablation-cam, eigen-cam, score-cam, recipro-cam, occlusion, rise\n" in told
    assert re.search(
        r"^  grad-cam, .*, fullgrad: node '.*' \(GRU\): a GRU with clip has no grad", told, re.M
    )


def test_a_model_without_a_feature_map() -> None:
    told = inspect(flat()).stdout
    assert "layer    none: no tensor with a grid larger than 1×1" in told
    assert "feature maps, the last one first" not in told
    assert "can explain it (9 of 21)\n  occlusion, rise, saliency, " in told
    found = json.loads(inspect("m.onnx", "--json").stdout)
    assert (found["layer"], found["layers"], found["classes"]) == (None, [], 5)
    for row in PLAIN:
        assert found["methods"][row.name] == (NO_MAP if row.on_layer else None)
    inspect("m.onnx", "--graph", "p.svg")
    assert "there is no split" in Path("p.svg").read_text("utf-8")


def test_a_feature_map_that_does_not_exist() -> None:
    assert "no tensor or node 'b'" in inspect(flat(), "--layer", "b", code=1).stderr


def test_the_picture_is_written_whole(folder: Path) -> None:
    told = inspect(MODEL, "--graph", "path.svg", "--layer", "-3").stdout
    assert told.endswith("drawn: path.svg\n")
    root = ElementTree.parse("path.svg").getroot()
    words = " ".join(root.itertext())
    layer = onnxcam.load(MODEL).layer(-3).tensor
    assert f"feature map: {layer}" in words and "demo_vgg.onnx" in words
    assert "PyTorch, torch.onnx.export, dynamo; opset 18; 10 classes" in words
    assert [p.name for p in folder.iterdir()] == ["path.svg"]
    found = json.loads(inspect(MODEL, "--graph", "new.svg", "--json").stdout)
    assert found["graph"] == "new.svg" and Path("new.svg").is_file()


def test_files_are_replaced_only_if_asked() -> None:
    Path("path.svg").write_text("mine")
    assert "exists already" in inspect(MODEL, "--graph", "path.svg", code=1).stderr
    assert Path("path.svg").read_text() == "mine"
    inspect(MODEL, "--graph", "path.svg", "--force")
    assert Path("path.svg").read_text("utf-8").startswith("<svg ")


def test_other_kinds_of_files_are_refused(folder: Path) -> None:
    assert "ends in .svg, not path.png" in inspect(MODEL, "--graph", "path.png", code=2).stderr
    assert not list(folder.iterdir())


def test_long_lists_are_wrapped_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxcam.cli import show

    monkeypatch.setattr(show, "width", lambda: 60)
    told = inspect(MODEL).stdout
    names = told.split("(20 of 21)\n")[1].split("  and guided-NAME")[0].splitlines()
    assert len(names) > 3 and all(len(line) <= 60 and line[:2] == "  " for line in names)
