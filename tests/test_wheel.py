"""The wheel and the source archive carry all they should, and the wheel works where it lands."""

from __future__ import annotations

import email
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

import onnxcam
from onnxcam.resources import resource, resource_names


def run(*command: str, **options: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    run(*pip, "--quiet", "--wheel-dir", str(folder), str(root))
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def carried(root: Path) -> dict[str, Path]:
    """Path in the wheel and file in the repository of all that is not Python."""
    files = [p for suffix in ("onnx", "json", "png") for p in (root / "models").glob(f"*.{suffix}")]
    found = {f"onnxcam/models/{path.name}": path for path in files}
    data = (p for p in (root / "onnxcam/data").rglob("*") if p.is_file())
    found |= {p.relative_to(root).as_posix(): p for p in data if "__pycache__" not in p.parts}
    return found | {"onnxcam/py.typed": root / "onnxcam/py.typed"}


def test_wheel_carries_the_package(wheel: zipfile.ZipFile, root: Path) -> None:
    sources = {p.relative_to(root).as_posix() for p in (root / "onnxcam").rglob("*.py")}
    inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert any(name.startswith("onnxcam/models/") and name.endswith(".onnx") for name in inside)
    assert inside == sources | set(carried(root))
    for name, path in carried(root).items():
        assert wheel.read(name) == path.read_bytes(), name


def test_wheel_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    info = f"onnxcam-{onnxcam.__version__}.dist-info"
    assert Path(str(wheel.filename)).name == f"onnxcam-{onnxcam.__version__}-py3-none-any.whl"
    assert f"{info}/licenses/LICENSE" in wheel.namelist()
    assert "onnxcam = onnxcam.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()
    metadata = email.message_from_bytes(wheel.read(f"{info}/METADATA"))
    assert metadata["Version"] == onnxcam.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert {"cuda", "dev", "export", "parquet", "peers"} == set(
        metadata.get_all("Provides-Extra", [])
    )


@pytest.mark.parametrize(
    ("system", "machine", "wanted"),
    [
        ("linux", "x86_64", "onnxruntime-gpu"),
        ("win32", "AMD64", "onnxruntime-gpu"),
        ("win32", "ARM64", "onnxruntime"),
        ("linux", "aarch64", "onnxruntime"),
        ("darwin", "arm64", "onnxruntime"),
        ("darwin", "x86_64", "onnxruntime"),
    ],
)
def test_each_platform_gets_one_runtime(
    wheel: zipfile.ZipFile, system: str, machine: str, wanted: str
) -> None:
    from packaging.requirements import Requirement

    text = wheel.read(f"onnxcam-{onnxcam.__version__}.dist-info/METADATA")
    place = {"sys_platform": system, "platform_machine": machine, "extra": ""}
    lines = email.message_from_bytes(text).get_all("Requires-Dist", [])
    needed = [Requirement(line) for line in lines]
    names = [r.name for r in needed if r.marker is None or r.marker.evaluate(place)]
    assert [name for name in names if name.startswith("onnxruntime")] == [wanted]
    assert "torch" not in names


def test_an_unpacked_wheel_finds_its_files(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path / "site")
    code = (
        "import onnxcam, onnxcam.resources as r\n"
        "print(onnxcam.__file__, *[r.resource(name) for name in r.resource_names()], sep='\\n')"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    printed = run(sys.executable, "-c", code, cwd=tmp_path, env=environment).splitlines()
    paths = [Path(line) for line in printed]
    assert all(path.is_relative_to(tmp_path / "site/onnxcam") for path in paths), printed
    assert [path.name for path in paths[1:]] == names_carried(wheel)
    assert any(path.suffix == ".onnx" for path in paths)


def names_carried(wheel: zipfile.ZipFile) -> list[str]:
    """The names of all files right under models/ and data/ of the wheel."""
    parts = [name.split("/") for name in wheel.namelist()]
    return sorted({p[2] for p in parts if len(p) == 3 and p[1] in {"models", "data"}})


def test_a_checkout_finds_its_files(root: Path) -> None:
    names = resource_names(".onnx")
    assert names
    assert {resource(name).parent for name in names} <= {root / "models", root / "onnxcam/data"}


@pytest.mark.parametrize("name", ["nothing.onnx", "", ".", "..", "../pyproject.toml", "/etc/hosts"])
def test_an_unknown_file_is_an_error(name: str) -> None:
    with pytest.raises(onnxcam.OptionError, match="comes with onnxcam"):
        resource(name)


def test_source_archive(root: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path), cwd=root)
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md", "onnxcam/__init__.py"}
    assert wanted <= names
    assert any(name.startswith("models/") and name.endswith(".onnx") for name in names)
    assert not {name.split("/")[0] for name in names} & {".venv", "out", "dist", "shared", ".git"}
