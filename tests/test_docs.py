"""The README runs: its commands and its Python do what they say, its lists are complete."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from PIL import Image

from onnxcam.cli import main
from onnxcam.methods import METHODS
from onnxcam.resources import resource

README = (Path(__file__).resolve().parent.parent / "README.md").read_text("utf-8")
COMMANDS = [line.removeprefix("$ ") for line in re.findall(r"^\$ onnxcam .*$", README, re.M)]


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the README speaks of: a model, a picture, a folder of photos."""
    from scenes import describe, draw

    monkeypatch.chdir(tmp_path)
    Path("model.onnx").write_bytes(resource("demo_vgg.onnx").read_bytes())
    Path("photos").mkdir()
    for seed, name in enumerate(("picture.jpg", "photos/one.jpg", "photos/two.png")):
        Image.fromarray(draw(describe(seed), 128).pixels).save(name)
    return tmp_path


def blocks(language: str) -> list[str]:
    """The code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)


def section(title: str) -> str:
    """The text under a heading."""
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_all_commands_are_found() -> None:
    assert len(COMMANDS) == sum(block.count("onnxcam ") for block in blocks("console"))
    assert {shlex.split(command)[1] for command in COMMANDS} == set(main.commands)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run(command: str, files: Path) -> None:
    before = set(files.rglob("*"))
    result = CliRunner().invoke(main, shlex.split(command)[1:], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    made = {path.name for path in set(files.rglob("*")) - before}
    words = shlex.split(command)
    if "--to" in words:
        assert words[words.index("--to") + 1].rstrip("/") in made
    elif "--graph" in words:
        assert made == {words[words.index("--graph") + 1]}
    elif words[1] == "split":
        assert made == {"features.onnx", "head.onnx"}
    elif "--triton" in words:
        assert {"config.pbtxt", "model.onnx", "model.kserve.yaml"} <= made
    elif words[1] in ("gradient", "export"):
        assert made == {words[3]}
    elif words[1] == "compare":
        assert made == {"picture.compare.png"}
    elif words[1] == "explain" and "none" not in words:
        assert made == {"picture.ablation-cam.png"}
    else:
        assert not made


def test_the_pages_run(files: Path, root: Path) -> None:
    (files / "models").symlink_to(root / "models")
    pages = {path: path.read_text("utf-8") for path in (root / "docs").glob("*.md")}
    commands = [
        line for page in pages.values() for line in re.findall(r"^\$ onnxcam (.*)$", page, re.M)
    ]
    assert pages and commands
    for command in commands:
        result = CliRunner().invoke(main, shlex.split(command), catch_exceptions=False)
        assert (result.exit_code, result.stderr) == (0, ""), result.output
    for path, page in pages.items():
        tools = re.findall(r"^\$ python (\S+)", page, re.M)
        pictures = re.findall(r"\]\((\S+\.(?:png|jpg))\)", page)
        assert all((root / tool).is_file() for tool in tools)
        for picture in pictures:
            assert (path.parent / picture).stat().st_size < 300_000


def test_python_runs(files: Path) -> None:
    names: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert {"cat.png", "methods.png"} <= {path.name for path in files.iterdir()}


def test_every_command_is_listed() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", section("Command line"), re.M)
    assert rows == [
        (name, command.get_short_help_str(200)) for name, command in main.commands.items()
    ]


def test_every_option_is_listed() -> None:
    explain = main.commands["explain"]
    params = explain.get_params(click.Context(explain))
    known = [o for p in params if isinstance(p, click.Option) for o in p.opts if o[:2] == "--"]
    table = section("Command line").split("| about | options |")[1]
    listed = re.findall(r"`(--[a-z-]+)`", table)
    assert sorted(listed) == sorted(set(known) - {"--help"})


def test_options_in_the_text_exist() -> None:
    known: set[str] = set()
    for command in main.commands.values():
        params = command.get_params(click.Context(command))
        known.update(o for p in params if isinstance(p, click.Option) for o in p.opts)
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) <= known | {"--help"}


def test_every_method_is_listed() -> None:
    rows = re.findall(r"^\| `([\w+-]+)` \| (.+) \|$", section("Methods"), re.M)
    assert rows == [(m.name, m.summary) for m in METHODS.values() if not m.fused]


def test_make_targets_exist(root: Path) -> None:
    targets = re.findall(r"^([a-z]+):", (root / "Makefile").read_text("utf-8"), re.M)
    assert set(re.findall(r"`make (\w+)`", README)) <= set(targets)


def test_files_exist(root: Path) -> None:
    for name in re.findall(r"\b(?:tools|tests|docs|\.ci)/\w+(?:\.\w+)?", README):
        assert (root / name).is_file(), name
