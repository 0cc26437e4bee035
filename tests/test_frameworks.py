"""docs/frameworks.md: each export runs where the framework is installed, and is then explained.

A framework that cannot live beside onnxcam may have an interpreter of its own: an environment
variable such as ONNXCAM_PADDLE_PYTHON names it.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from onnxcam.cli import main
from onnxcam.resources import resource

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "frameworks.md").read_text("utf-8")
SECTIONS = {
    title: text for title, text in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
}
NEEDS = {  # title → what the export imports, and the variable that names an interpreter
    "PyTorch": ("torch torchvision onnxscript", "TORCH"),
    "PyTorch, the TorchScript exporter": ("torch torchvision", "TORCH"),
    "timm": ("torch torchvision timm onnxscript", "TORCH"),
    "Hugging Face transformers": ("torch transformers", "TORCH"),
    "Keras and TensorFlow": ("tensorflow keras tf2onnx", "KERAS"),
    "JAX and Flax": ("jax flax jax2onnx", "JAX"),
    "PaddlePaddle": ("paddle paddle2onnx", "PADDLE"),
    "scikit-learn behind a CNN": ("torch torchvision sklearn skl2onnx", "SKLEARN"),
    "Quantised by ONNX Runtime": ("onnxruntime", ""),
}
TORCH = (  # a CPU torch beside a torchvision that was made for GPUs: see export_torchvision
    f"import sys; sys.path.insert(0, {str(ROOT / 'tools')!r});"
    "from export_torchvision import load_torchvision; load_torchvision();"
)


def test_every_section_is_run() -> None:
    assert SECTIONS.keys() == NEEDS.keys()


@pytest.mark.parametrize("title", SECTIONS)
def test_an_export_is_explained(
    title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scenes import describe, draw

    monkeypatch.chdir(tmp_path)
    Path("full.onnx").write_bytes(resource("demo_residual.onnx").read_bytes())
    Image.fromarray(draw(describe(3), 128).pixels).save("picture.jpg")
    modules, variable = NEEDS[title]
    python = os.environ.get(f"ONNXCAM_{variable}_PYTHON", sys.executable)
    start = TORCH if "torchvision" in modules else ""
    wanted = (
        f"import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, {modules.split()})))"
    )
    if subprocess.run([python, "-c", wanted], check=False).returncode:
        pytest.skip(f"one of {modules.replace(' ', ', ')} is not installed")
    (code,) = re.findall(r"^```python\n(.*?)^```$", SECTIONS[title], re.M | re.S)
    Path("block.py").write_text(code, "utf-8")
    run = [python, "-c", f"{start}exec(compile(open('block.py').read(), 'block', 'exec'))"]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    (command,) = re.findall(r"^\$ onnxcam (.*)$", SECTIONS[title], re.M)
    result = CliRunner().invoke(main, shlex.split(command), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    with Image.open("picture.ablation-cam.png") as picture:
        assert picture.text["Title"]
