"""What all tests share: the shared folder, skips for what a machine lacks, fixed random choices.

The modules of tools/ can be imported by name (`import train_demo`).
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator
from functools import cache
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

# The same examples on every run and every machine, however slow it is.
settings.register_profile(
    "onnxcam",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("onnxcam")

SHARED = Path(os.environ.get("ONNXCAM_SHARED") or ROOT.parent / "shared")
SHARED_FIXTURES = {"shared": "", "shared_data": "data", "goldens": "goldens"}


@cache
def why_no_gpu() -> str:
    """Why ONNX Runtime cannot make a CUDA session here; empty if it can."""
    import onnxruntime as ort
    from onnx import TensorProto, helper

    cuda = "CUDAExecutionProvider"
    if cuda not in ort.get_available_providers():
        return "this onnxruntime has no CUDA provider"
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Abs", ["x"], ["y"])], "probe", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    ort.set_default_logger_severity(4)
    try:
        with contextlib.redirect_stdout(None), warnings.catch_warnings(action="ignore"):
            ort.preload_dlls()
            session = ort.InferenceSession(model.SerializeToString(), options, providers=[cuda])
            session.run(None, {"x": np.ones(1, np.float32)})
    except Exception as error:
        return f"the CUDA provider of ONNX Runtime fails: {str(error).splitlines()[0]}"
    finally:
        ort.set_default_logger_severity(2)
    return "" if session.get_providers()[0] == cuda else "ONNX Runtime finds no GPU, or no CUDA"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what uses the shared folder, so that `-m "not shared"` finds it."""
    for item in items:
        if SHARED_FIXTURES.keys() & getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.shared)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what this machine cannot run."""
    if item.get_closest_marker("torch") and importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed: pip install -e '.[export]'")
    if item.get_closest_marker("gpu") and (why := why_no_gpu()):
        pytest.skip(why)
    for name in SHARED_FIXTURES.keys() & getattr(item, "fixturenames", ()):
        shared_folder(SHARED_FIXTURES[name])  # here, so that the summary gathers these skips


@pytest.fixture(scope="session", autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Iterator[Path]]:
    """Folders for caches, not made yet; the user's own is never touched."""
    base = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONNXCAM_CACHE", str(base / "of-fixtures"))
        yield (base / str(number) for number in count())


@pytest.fixture(autouse=True)
def cache_folder(caches: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of this test, not made yet: no test sees what another one kept."""
    folder = next(caches)
    monkeypatch.setenv("ONNXCAM_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


def shared_folder(name: str = "") -> Path:
    """A folder of the shared files, or a skip that says what is missing."""
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}: ONNXCAM_SHARED can say where the shared folder is")
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared files: `../shared`, or where ONNXCAM_SHARED says."""
    return shared_folder()


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Small models with reference maps computed in float64."""
    return shared_folder("goldens")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real models, pictures and label lists."""
    return shared_folder("data")
