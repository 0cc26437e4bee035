"""Model repositories: right by Triton's own schema, and by what Triton asks of their shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from click.testing import CliRunner

from models import images, mixed, tiny
from onnxcam.cli import main
from onnxcam.errors import OptionError
from onnxcam.exporting import exported
from onnxcam.triton import fitting_name, manifest, repository

DEMO = Path(__file__).parent.parent / "models"


def config(files: dict[str, bytes], name: str) -> Any:
    """The configuration, read by the published schema."""
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    from google.protobuf import text_format

    return text_format.Parse(files[f"{name}/config.pbtxt"].decode(), schema.ModelConfig())


@pytest.mark.parametrize("targets", ["given", "top1", "top3"])
def test_a_repository(targets: str, tmp_path: Path) -> None:
    files = repository(exported(DEMO / "demo_vgg.onnx", targets=targets, heatmap=True), "net", 16)
    held = config(files, "net")
    assert (held.name, held.backend, held.max_batch_size) == ("net", "onnxruntime", 16)
    assert held.HasField("dynamic_batching")
    for path, data in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    session = ort.InferenceSession(tmp_path / "net" / "1" / "model.onnx")
    kinds = {"tensor(float)": "TYPE_FP32", "tensor(int64)": "TYPE_INT64"}
    for stated, real in (
        (held.input, session.get_inputs()),
        (held.output, session.get_outputs()),
    ):
        assert [e.name for e in stated] == [e.name for e in real]
        for one, end in zip(stated, real, strict=True):
            field = one.DESCRIPTOR.fields_by_name["data_type"]
            assert field.enum_type.values_by_number[one.data_type].name == kinds[end.type]
            shape = list(one.reshape.shape) if one.HasField("reshape") else list(one.dims)
            assert shape == end.shape[1:] and isinstance(end.shape[0], str)
    labelled = [o.name for o in held.output if o.label_filename == "labels.txt"]
    assert labelled == ["probabilities"]
    assert len(files["net/labels.txt"].decode().splitlines()) == 10


def test_a_fixed_batch_is_stated_whole() -> None:
    held = config(repository(exported(mixed(), "grad-cam"), "net"), "net")
    assert held.max_batch_size == 0 and not held.HasField("dynamic_batching")
    assert [list(e.dims) for e in held.input] == [[2, 3, 8, 8], [2]]
    assert not any(o.label_filename for o in held.output)


def test_names() -> None:
    assert fitting_name("my net (v2).final") == "my-net-v2-.final" and fitting_name("ü") != ""
    with pytest.raises(OptionError, match="no name for a model"):
        repository(exported(tiny()), "../up")
    with pytest.raises(OptionError, match="with its scheme"):
        manifest("net", "bucket/repository")


def test_the_command(tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    asked = ["export", str(DEMO / "demo_vgg.onnx"), "--triton", str(folder), "--name", "My_net",
             "--kserve", "s3://bucket/models", "--targets", "top1", "--json"]  # fmt: skip
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 0, done.output
    written = [Path(f) for f in json.loads(done.output)["files"]]
    assert sorted(written) == sorted(p for p in tmp_path.rglob("*") if p.is_file())
    yaml = pytest.importorskip("yaml")
    service = yaml.safe_load((tmp_path / "My_net.kserve.yaml").read_text())
    assert service["metadata"]["name"] == "my-net"
    model = service["spec"]["predictor"]["model"]
    assert model["storageUri"] == "s3://bucket/models"
    assert (model["runtime"], model["protocolVersion"]) == ("kserve-tritonserver", "v2")
    session = ort.InferenceSession(folder / "My_net" / "1" / "model.onnx")
    assert session.run(["map"], {"image": images(2, 3, 96, 96)})[0].shape == (2, 12, 12)
    assert np.isfinite(session.run(["map"], {"image": images(1, 3, 96, 96)})[0]).all()


@pytest.mark.parametrize(
    ("given", "said"), [([], "name the file"), (["--kserve", "s3://b"], "goes with --triton")]
)
def test_what_is_missing_is_said(given: list[str], said: str) -> None:
    out = ["e.onnx"] if given else []
    done = CliRunner().invoke(main, ["export", str(DEMO / "demo_vgg.onnx"), *out, *given])
    assert done.exit_code == 2 and said in done.output
