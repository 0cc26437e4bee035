"""Providers that really work, and a terminal that stays clean."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import conftest
import numpy as np
import pytest

import models
from models import close, images, tiny
from onnxcam import Explainer, OptionError
from onnxcam.errors import RuntimeFailure
from onnxcam.pool import Pool
from onnxcam.runtime import PROVIDERS, Device, Session, choose, free_memory, works


def no_gpu() -> bool:
    return bool(conftest.why_no_gpu())


def test_the_cpu_always_works() -> None:
    assert works("cpu")
    assert choose("cpu") == choose("CPU") == choose("CPUExecutionProvider") == Device("cpu")
    assert choose("cpu", threads=3).threads == 3


def test_auto_takes_what_works() -> None:
    assert choose("auto").provider == ("cpu" if no_gpu() else "cuda")
    assert Explainer(tiny())(images(1, 3, 8, 8)).provider == choose("auto").provider


@pytest.mark.parametrize("name", ["cuda", "tensorrt", "rocm", "directml", "coreml", "openvino"])
def test_a_provider_that_cannot_run_is_an_error(name: str) -> None:
    """It names what is wrong and those that can; it never falls back in silence."""
    if works(name):
        pytest.skip(f"{name} runs here")
    with pytest.raises(RuntimeFailure, match=rf"provider '{name}' cannot run .*can: cpu") as caught:
        Explainer(tiny(), provider=name)
    text = str(caught.value)
    assert "\n" not in text and "--provider auto" in text


def test_cuda_without_a_gpu_says_so() -> None:
    if not no_gpu():
        pytest.skip("there is a GPU")
    with pytest.raises(RuntimeFailure, match=r"NVIDIA|without it|libraries"):
        choose("cuda")


def test_unknown_providers() -> None:
    with pytest.raises(OptionError, match=r"no provider 'cuds' \(did you mean 'cuda'") as e:
        choose("cuds")
    assert all(name in str(e.value) for name in PROVIDERS)
    with pytest.raises(OptionError, match="did you mean 'tensorrt'"):
        choose("TensorRTT")


def quiet(code: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


SETUP = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
"""


def test_auto_is_silent() -> None:
    """Nothing on the terminal, not even from C++, neither on loading nor on running."""
    done = quiet(
        f"""{SETUP}
import models
from onnxcam import Explainer
for options in ({{}}, {{"memory": 1}}, {{"ablation": "literal"}}):
    Explainer(models.tiny(), **options)(models.images(2, 3, 8, 8))
print("done")
"""
    )
    assert done.stdout == "done\n"
    assert done.stderr == ""


def test_failures_are_silent_too() -> None:
    """ONNX Runtime's own words come as exceptions only."""
    done = quiet(
        f"""{SETUP}
import models
import numpy as np
from onnxcam import Explainer, OnnxcamError
bad = models.tiny()
bad.graph.node[0].op_type = "Nonexistent"
for call in (lambda: Explainer(models.tiny(), provider="cuda"),
             lambda: Explainer(bad, provider="cpu")(models.images(1, 3, 8, 8)),
             lambda: Explainer(b"nonsense")):
    try:
        call()
    except OnnxcamError as error:
        assert str(error)
"""
    )
    assert done.stderr == "" and done.stdout == ""


def test_the_callers_logging_is_not_touched_by_others(capfd: Any) -> None:
    """Weights of old exports that are graph inputs draw no warnings."""
    proto = tiny(opset=9, ir=3)
    for t in proto.graph.initializer:
        proto.graph.input.append(
            models.onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims)
        )
    Explainer(proto)(images(1, 3, 8, 8))
    out, err = capfd.readouterr()
    assert out == "" and err == ""


def session() -> Session:
    proto = tiny()
    return Session(proto.SerializeToString(), {}, Device("cpu"))


def test_sessions_give_what_is_asked_for() -> None:
    s = session()
    assert s.inputs == ["x"] and s.outputs == ["y"]
    x = images(2, 3, 8, 8)
    close(s.run({"x": x})[0], models.run(tiny(), {"x": x})[0])
    (kept,) = s.keep({"x": x})
    close(kept.numpy(), s.run({"x": x}, ["y"])[0], tolerance=1e-7)
    close(s.run({"x": kept.__class__.ortvalue_from_numpy(x)})[0], kept.numpy(), tolerance=1e-7)


def test_weights_are_used_where_they_lie() -> None:
    """External initializers are given as arrays; no copy of them goes through the message."""
    proto = tiny()
    arrays = {}
    for t in proto.graph.initializer:
        arrays[t.name] = models.numpy_helper.to_array(t).copy()
        t.ClearField("raw_data")
        t.data_location = models.onnx.TensorProto.EXTERNAL
        t.external_data.add(key="location", value="elsewhere")
    s = Session(proto.SerializeToString(), arrays, Device("cpu"))
    x = images(2, 3, 8, 8)
    close(s.run({"x": x})[0], models.run(tiny(), {"x": x})[0], tolerance=1e-6)


def test_failures_have_one_line() -> None:
    with pytest.raises(RuntimeFailure, match="refuses the graph") as caught:
        Session(b"nonsense", {}, Device("cpu"))
    assert "\n" not in str(caught.value) and "ONNXRuntimeError" not in str(caught.value)
    with pytest.raises(RuntimeFailure, match="failed while running") as caught:
        session().run({"x": images(2, 4, 8, 8)})
    assert "\n" not in str(caught.value)
    with pytest.raises(RuntimeFailure):
        session().keep({"x": images(2, 4, 8, 8)})


def test_the_pool_makes_each_once() -> None:
    pool, made = Pool(), []
    for key in ("a", "b", "a", "a"):
        pool.get(key, lambda key=key: made.append(key) or key)
    assert made == ["a", "b"]


def test_memory_of_the_cpu_is_not_asked_for() -> None:
    assert free_memory(Device("cpu")) is None


def test_threads_do_not_change_results() -> None:
    x = images(2, 3, 8, 8)
    want = Explainer(tiny(), provider="cpu", threads=1)(x).weights
    for threads in (0, 2, 3):
        close(Explainer(tiny(), provider="cpu", threads=threads)(x).weights, want, tolerance=1e-6)


@pytest.mark.gpu
def test_cuda_equals_cpu() -> None:
    x = images(2, 3, 8, 8)
    for options in ({}, {"memory": 1}, {"ablation": "literal"}):
        want = Explainer(tiny(), provider="cpu", **options)(x)
        found = Explainer(tiny(), provider="cuda", **options)(x)
        assert found.provider == "cuda"
        assert np.abs(found.weights - want.weights).max() <= 1e-3 * np.abs(want.weights).max()
