"""The layers, sizes and docstrings of the package, read from its sources, and its lazy imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import onnxcam

PACKAGE = Path(onnxcam.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
LINES = 450

GRAPHS = {"numpy", "onnx", "onnx_graphsurgeon"}
# What a layer may import: layers of onnxcam below it, and packages outside the standard library.
LAYERS: dict[str, tuple[set[str], set[str]]] = {
    "errors": (set(), set()),
    "files": ({"errors"}, set()),
    "resources": ({"errors"}, set()),
    "labels": ({"errors", "resources"}, set()),
    "events": (set(), set()),
    "pool": (set(), set()),
    "calls": ({"errors"}, set()),
    "runtime": ({"errors", "calls"}, {"numpy", "onnx", "onnxruntime"}),
    "image": ({"errors", "files", "resources"}, {"numpy", "PIL", "cmap"}),
    "graph": ({"errors"}, GRAPHS | {"google"}),
    "diff": ({"errors", "graph"}, GRAPHS),
    "ablate": ({"errors", "graph"}, GRAPHS),
    "perturb": ({"errors", "graph"}, GRAPHS),
    "methods": ({"errors", "graph", "diff", "ablate", "perturb"}, GRAPHS),
}
LAYERS["diagram"] = ({"errors", "graph"}, set())
LAYERS["explainer"] = ({*LAYERS["methods"][0], "methods"}, GRAPHS)
LAYERS["loading"] = ({"errors", "graph", "diff", "runtime"}, {"numpy", "onnx"})
LAYERS["feeding"] = ({"errors", "graph", "image", "loading"}, {"numpy"})
LAYERS["targets"] = ({"errors", "labels"}, {"numpy"})
LAYERS["engine"] = (
    {*LAYERS["explainer"][0], "explainer", "runtime", "calls", "events", "pool"},
    {"numpy"},
)
LAYERS["cache"] = (
    {*LAYERS["explainer"][0], "explainer", "loading", "runtime"},
    GRAPHS | {"platformdirs"},
)
LAYERS["batches"] = ({*LAYERS["explainer"][0], "explainer"}, {"numpy"})
LAYERS["explanation"] = ({"errors", "files", "image", "labels", "targets"}, {"numpy"})
LAYERS["comparison"] = ({*LAYERS["explanation"][0], "explanation"}, {"numpy"})
LAYERS["asking"] = ({"errors", "methods"}, set())
LAYERS["preparing"] = ({"errors", "graph", "feeding", "image"}, {"numpy"})
LAYERS["many"] = ({*LAYERS["explanation"][0], "explanation"}, {"numpy"})
LAYERS["core"] = (
    {*LAYERS["engine"][0], "engine", "cache", "asking", "batches", "many", *LAYERS["many"][0]},
    {"numpy"},
)
LAYERS["api"] = ({*LAYERS}, {"numpy"})
LAYERS["exporting"] = ({*LAYERS}, set())
LAYERS["triton"] = ({"errors", "exporting"}, {"onnx"})
for top in ("serve", "evaluate"):
    LAYERS[top] = ({*LAYERS} - {"serve", "evaluate"}, {"numpy", "onnx"})
LAYERS["evaluate"][1].add("pyarrow")  # an extra, for Parquet alone
LAYERS["cli"] = ({*LAYERS}, {"numpy", "click", "rich"})
LAYERS["__main__"] = ({"cli"}, set())
LAYERS["__init__"] = (
    {"api", "calls", "comparison", "explanation", "exporting", "loading", "errors"},
    set(),
)  # by name, for type checkers only


def imports(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything imported, wherever it stands in the source."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            home = ".".join(package.split(".")[: -node.level + 1 or None]) if node.level else ""
            base = ".".join(filter(None, [home, node.module]))
            for alias in node.names:  # `from onnxcam import graph` imports onnxcam.graph
                yield node.lineno, f"{base}.{alias.name}" if base == "onnxcam" else base
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else None
            called = node.func.id if isinstance(node.func, ast.Name) else called
            if called in {"import_module", "__import__"}:
                yield node.lineno, str(node.args[0].value)


def broken_rules(source: str, layer: str, package: str = "onnxcam") -> list[str]:
    """What a module of `layer` imports against the table, as lines of text."""
    below, outside = LAYERS[layer]
    broken = []
    for line, name in imports(ast.parse(source), package):
        root, _, rest = name.partition(".")
        if root == "onnxcam":
            if rest and (part := rest.split(".")[0]) not in below | {layer, "__version__"}:
                broken.append(f"line {line}: {layer} may not import onnxcam.{part}")
        elif root not in sys.stdlib_module_names and root not in outside:
            broken.append(f"line {line}: {layer} may not import {root}")
    return broken


def undocumented(source: str) -> list[str]:
    """Public functions, classes and methods without a docstring.

    Rows of an operator table (`@vjp("Sigmoid")`) need none: the operator's name is their story.
    """

    def row(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
        names = [d.args[0] for d in node.decorator_list if isinstance(d, ast.Call) and d.args]
        texts = [n.value for n in names if isinstance(n, ast.Constant)]
        return any(isinstance(text, str) and text[:1].isupper() for text in texts)

    def overload(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
        return any(ast.unparse(d) in {"overload", "typing.overload"} for d in node.decorator_list)

    def walk(body: list[ast.stmt], home: str) -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.If):
                yield from walk(node.body + node.orelse, home)
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            if node.name.startswith("_"):
                continue
            if isinstance(node, ast.ClassDef):
                yield from walk(node.body, f"{home}{node.name}.")
            elif row(node) or overload(node):
                continue
            if not ast.get_docstring(node):
                yield f"line {node.lineno}: {home}{node.name} has no docstring"

    return list(walk(ast.parse(source).body, ""))


def layer_of(path: Path) -> str:
    """The layer a file belongs to: the name right under onnxcam/."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def fresh(code: str) -> set[str]:
    """The modules loaded in a new interpreter after `code`."""
    code += "\nprint('modules:', *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", "import sys\n" + code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("modules:")[2].split())


each_module = pytest.mark.parametrize(
    "path", MODULES, ids=[path.relative_to(PACKAGE).as_posix() for path in MODULES]
)


@each_module
def test_imports_follow_the_layers(path: Path) -> None:
    layer = layer_of(path)
    assert layer in LAYERS, f"new part {layer!r}: give it a row in LAYERS of {Path(__file__).name}"
    package = ".".join(["onnxcam", *path.relative_to(PACKAGE).parts[:-1]])
    assert not broken_rules(path.read_text("utf-8"), layer, package)


@each_module
def test_modules_are_small(path: Path) -> None:
    lines = len(path.read_text("utf-8").splitlines())
    assert lines <= LINES, f"{lines} lines: split it by topic"


@each_module
def test_public_names_have_docstrings(path: Path) -> None:
    assert not undocumented(path.read_text("utf-8"))


@pytest.mark.parametrize(
    ("layer", "source", "found"),
    [
        ("graph", "import onnx, os\nfrom onnxcam.errors import ModelError", 0),
        ("graph", "import onnxruntime.capi", 1),
        ("graph", "def f():\n    import onnxruntime", 1),
        ("graph", "from onnxcam.diff.vjp import vjp", 1),
        ("graph", "from onnxcam import errors, diff", 1),
        ("graph", "from . import emit\nfrom .load import load\nfrom ..errors import OpError", 0),
        ("graph", "from ..diff import vjp\nfrom .. import runtime", 2),
        ("graph", "import importlib\nimportlib.import_module('torch')", 1),
        ("api", "import onnxruntime\nimport PIL.Image\nimport click", 3),
        ("api", "from onnxcam import image, runtime, explainer, __version__", 0),
        ("cli", "from onnxcam.api import explain\nimport click", 0),
        ("image", "from PIL import Image\nfrom onnxcam.files import read", 0),
        ("image", "from onnxcam.runtime import Session", 1),
    ],
)
def test_broken_rules_are_seen(layer: str, source: str, found: int) -> None:
    assert len(broken_rules(source, layer, f"onnxcam.{layer}")) == found


def test_missing_docstrings_are_seen() -> None:
    source = '''
@vjp("Relu")
def relu(e, g, y, x): return [g]
@method("cam")
def cam(): pass
class Map:
    """One."""
    def save(self): pass
    def _hidden(self): pass
def fine():
    """One."""
'''
    assert [line.split()[2] for line in undocumented(source)] == ["cam", "Map.save"]


def test_the_tables_have_no_cycle() -> None:
    order = list(LAYERS)
    for layer, (below, _) in LAYERS.items():
        assert all(order.index(lower) < order.index(layer) for lower in below), layer


def test_only_one_layer_sees_each_of_these() -> None:
    for package, layer in {"onnxruntime": "runtime", "PIL": "image", "click": "cli"}.items():
        assert [name for name, (_, outside) in LAYERS.items() if package in outside] == [layer]


def test_import_loads_nothing_heavy() -> None:
    heavy = {"numpy", "onnx", "onnx_graphsurgeon", "onnxruntime", "PIL", "click", "cmap"}
    assert not heavy & fresh("import onnxcam; dir(onnxcam); onnxcam.OnnxcamError")


def test_help_loads_no_engine() -> None:
    code = "from onnxcam.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert not {"onnx", "onnx_graphsurgeon", "onnxruntime"} & fresh(code)


@pytest.mark.parametrize("name", onnxcam.__all__)
def test_public_names_resolve(name: str) -> None:
    assert name in dir(onnxcam)
    assert not isinstance(getattr(onnxcam, name), ModuleType)


def test_all_errors_are_public() -> None:
    from onnxcam import errors

    own = {v for v in vars(errors).values() if getattr(v, "__module__", "") == errors.__name__}
    assert {v.__name__ for v in own if isinstance(v, type)} <= set(onnxcam.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = onnxcam.nothing
