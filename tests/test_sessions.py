"""How sessions are made: options that reach them, sessions of the user's own, what is logged."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

import models
from models import close, images, tiny
from onnxcam import Explainer, OptionError, RuntimeFailure
from onnxcam.runtime import Device, Session, choose

X = images(2, 3, 8, 8)
WANT = Explainer(tiny(), provider="cpu")(X, 1)


def spying(monkeypatch: pytest.MonkeyPatch) -> list[ort.SessionOptions]:
    """The options of every session made from now on."""
    seen: list[ort.SessionOptions] = []
    real = ort.InferenceSession

    def seeing(model: Any, options: Any, *more: Any, **named: Any) -> Any:
        seen.append(options)
        return real(model, options, *more, **named)

    monkeypatch.setattr(ort, "InferenceSession", seeing)
    return seen


def test_options_reach_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = spying(monkeypatch)
    options = {
        "intra_op_num_threads": 2,
        "graph_optimization_level": "ORT_ENABLE_BASIC",
        "execution_mode": ort.ExecutionMode.ORT_PARALLEL,
        "session.intra_op.allow_spinning": False,
        "session.disable_prepacking": "1",
    }
    explainer = Explainer(tiny(), provider="cpu", threads=1, memory=1, session_options=options)
    close(explainer(X, 1).map, WANT.map, tolerance=1e-6)
    assert len(seen) > 1  # one for each stage
    for one in seen:
        assert one.intra_op_num_threads == 2
        assert one.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        assert one.execution_mode == ort.ExecutionMode.ORT_PARALLEL
        assert one.get_session_config_entry("session.intra_op.allow_spinning") == "0"
        assert one.get_session_config_entry("session.disable_prepacking") == "1"
        assert not one.enable_mem_pattern  # ours, which nothing above replaced


def test_a_function_makes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def made() -> ort.SessionOptions:
        options = ort.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.inter_op_num_threads = 3
        return options

    seen = spying(monkeypatch)
    explainer = Explainer(tiny(), provider="cpu", threads=2, memory=1, session_options=made)
    close(explainer(X, 1).map, WANT.map, tolerance=1e-6)
    assert len({id(one) for one in seen}) == len(seen) > 1
    for one in seen:
        assert (one.inter_op_num_threads, one.intra_op_num_threads) == (3, 2)
        assert one.get_session_config_entry("session.intra_op.allow_spinning") == "0"
        assert not one.enable_mem_pattern and one.log_severity_level == 4


def test_memory_patterns_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = spying(monkeypatch)
    explainer = Explainer(tiny(), provider="cpu", session_options={"enable_mem_pattern": True})
    close(explainer(X, 1).map, WANT.map, tolerance=1e-6)
    assert seen[0].enable_mem_pattern


def test_weights_beside_the_graph_stay_there() -> None:
    """Options of the user's leave the weights where they lie: they reach every session."""
    rows = {"intra_op_num_threads": 1}
    for given in (rows, ort.SessionOptions):
        proto = models.model(
            "p = Conv(x, w) a = Relu(p) f = Flatten(a) h = Gemm(f, v) r = Relu(h) y = Gemm(r, o)",
            {
                "w": models.weight(6, 3, 3, 3),
                "v": models.weight(216, 99),
                "o": models.weight(99, 4),
            },
            "float[N,3,8,8] x",
            "float[N,4] y",
        )
        held = Explainer(proto, provider="cpu", memory=1, session_options=given)
        assert held.program().inline.whole.weights
        want = Explainer(proto, provider="cpu")(X, 1)
        close(held(X, 1).weights, want.weights, tolerance=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"session_options": ort.SessionOptions()}, "an explainer makes several sessions"),
        ({"session_options": lambda: {}}, "a function that makes one"),
        ({"session_options": {"intra_op_num_thread": 1}}, "did you mean 'intra_op_num_threads'"),
        ({"session_options": {"intra_op_num_threads": "many"}}, "does not take 'many'"),
        ({"session_options": {"graph_optimization_level": "ALL"}}, "does not take 'ALL'"),
        ({"session_options": {"add_initializer": 1}}, "has no 'add_initializer'"),
        ({"run_options": {"terminated": True}}, "did you mean 'terminate'"),
        ({"provider_options": {"device_id": 1}, "provider": "auto"}, "name it"),
        ({"provider_options": {"device_id": 1}}, "the CPU has none"),
    ],
)
def test_wrong_options_are_said_at_once(options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said) as caught:
        Explainer(tiny(), **{"provider": "cpu", **options})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("memory", [None, 1])
def test_run_options_reach_the_run(memory: int | None) -> None:
    entry = "memory.enable_memory_arena_shrinkage"
    for where, fine in (("cpu:0", True), ("cpu:7", False)):
        explainer = Explainer(tiny(), provider="cpu", memory=memory, run_options={entry: where})
        if fine:
            close(explainer(X, 1).map, WANT.map, tolerance=1e-6)
        else:
            with pytest.raises(RuntimeFailure, match="cpu:7"):
                explainer(X, 1)


def test_another_provider_in_place_of_the_one_asked_for_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """ONNX Runtime falls back to the CPU by itself; we say so."""
    real = ort.InferenceSession
    asked: list[Any] = []

    def cpu_only(model: Any, options: Any, providers: Any, **named: Any) -> Any:
        asked.append(providers)
        assert named == {"enable_fallback": 0}
        return real(model, options, ["CPUExecutionProvider"])

    monkeypatch.setattr(ort, "InferenceSession", cpu_only)
    device = Device("cuda", provider_options={"device_id": 1})
    with pytest.raises(RuntimeFailure, match="CPUExecutionProvider in place of CUDAExec"):
        Session(tiny().SerializeToString(), {}, device)
    device = Device("tensorrt", provider_options={"device_id": 1})
    with pytest.raises(RuntimeFailure, match="in place of Tensorrt"):
        Session(tiny().SerializeToString(), {}, device)
    cuda, own = "CUDAExecutionProvider", {"device_id": 1}
    assert asked == [[(cuda, own)], [("TensorrtExecutionProvider", own), (cuda, own)]]


# Sessions of the user's own.


@pytest.mark.parametrize("memory", [None, 1])
def test_a_session_class_of_ones_own(memory: int | None) -> None:
    class Mine(ort.InferenceSession):
        made = 0

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            Mine.made += 1

    explainer = Explainer(tiny(), provider="cpu", memory=memory, make_session=Mine)
    found = explainer(X, 1)
    close(found.map, WANT.map, tolerance=1e-6)
    assert Mine.made and found.provider == "cpu"


@pytest.mark.parametrize("options", [{}, {"memory": 1}, {"method": "rise", "masks": 5}])
def test_an_object_with_run_is_enough(options: dict[str, Any]) -> None:
    class Wrapped:
        def __init__(self, model: bytes, options: Any, providers: list[Any]) -> None:
            assert providers == ["CPUExecutionProvider"]
            self._inner = ort.InferenceSession(model, options, providers=providers)
            self.runs = 0

        def get_inputs(self) -> Any:
            return self._inner.get_inputs()

        def get_outputs(self) -> Any:
            return self._inner.get_outputs()

        def run(self, names: Any, feeds: dict[str, np.ndarray], run_options: Any) -> Any:
            self.runs += 1
            assert all(isinstance(feed, np.ndarray) for feed in feeds.values())
            return self._inner.run(names, feeds, run_options)

    made: list[Wrapped] = []

    def make(*args: Any) -> Wrapped:
        made.append(Wrapped(*args))
        return made[-1]

    explainer = Explainer(tiny(), provider="cpu", make_session=make, **options)
    close(
        explainer(X, 1).map, Explainer(tiny(), provider="cpu", **options)(X, 1).map, tolerance=1e-6
    )
    assert made and all(one.runs for one in made)


def test_the_provider_is_that_of_the_session() -> None:
    class Elsewhere(ort.InferenceSession):
        def get_providers(self) -> list[str]:
            return ["ChipExecutionProvider", "CPUExecutionProvider"]

    explainer = Explainer(tiny(), provider="cpu", make_session=Elsewhere)
    assert explainer(X, 1).provider == "ChipExecutionProvider"


def test_a_session_that_cannot_be_made() -> None:
    def fails(*_: Any) -> Any:
        raise ValueError("the pool is empty")

    with pytest.raises(RuntimeFailure, match="the pool is empty"):
        Explainer(tiny(), provider="cpu", make_session=fails)(X)


def test_devices_without_options_are_equal() -> None:
    assert choose("cpu") == Device("cpu") and choose("cpu").number == 0


# Logs.


def events(caplog: pytest.LogCaptureFixture, name: str) -> list[logging.LogRecord]:
    return [r for r in caplog.records if r.name == "onnxcam" and getattr(r, "event", "") == name]


def test_events_have_their_fields(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "onnxcam")
    explainer = Explainer(tiny(), "grad-cam", provider="cpu")
    explainer(X)
    explainer(X[:1], "top2")
    (loaded,) = events(caplog, "loaded")
    assert (loaded.levelno, loaded.model, loaded.classes) == (logging.INFO, "model", 4)
    compiled = events(caplog, "compiled")
    assert [c.targets for c in compiled] == [1, 2]
    for one in compiled:
        assert (one.method, one.layer, one.size) == ("grad-cam", "a", (8, 8))
        assert one.nodes >= 5 and one.levelno == logging.INFO
    sessions = events(caplog, "session")
    assert [(s.part, s.provider, s.levelno) for s in sessions] == [("whole", "cpu", 20)] * 2
    runs = events(caplog, "run")
    assert [(r.images, r.targets, r.provider, r.method) for r in runs] == [
        (2, 1, "cpu", "grad-cam"),
        (1, 2, "cpu", "grad-cam"),
    ]
    assert {r.levelno for r in runs} == {logging.DEBUG}
    for record in caplog.records:
        assert record.seconds >= 0
        assert record.getMessage().startswith(f"{record.event}: ")


def test_a_slower_way_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    proto = models.model(  # its batch of one is squeezed away, and cannot be freed
        "p = Conv(x, w) a = Relu(p) g = GlobalAveragePool(a) s = Squeeze(g, axes)"
        " t = MatMul(s, v) y = Unsqueeze(t, axis)",
        {
            "w": models.weight(6, 3, 1, 1),
            "v": models.weight(6, 4),
            "axes": np.array([0, 2, 3]),
            "axis": np.array([0]),
        },
        "float[1,3,8,8] x",
        "float[1,4] y",
    )
    explainer = Explainer(proto, provider="cpu")
    found = explainer(X)
    (note,) = events(caplog, "note")
    assert note.levelno == logging.WARNING and note.note in found.notes
    assert "one by one" in note.note and note.method == "ablation-cam"
