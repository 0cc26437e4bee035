"""An explainer in a service: warm-up, time limits, cancelling, sessions, logs, many threads."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

import models
import onnxcam
from models import close, images, tiny, weight
from onnxcam import Cancel, Cancelled, Explainer, OptionError, Timeout

X = images(2, 3, 8, 8)


@cache
def slow() -> Any:
    """A net of many equal layers: one run takes seconds, each node little of that."""
    layers = " ".join(f"t{i + 1} = Conv <pads = [1, 1, 1, 1]> (t{i}, k)" for i in range(100))
    return models.model(
        f"p = Conv <pads = [1, 1, 1, 1]> (x, w) t0 = Relu(p) {layers} a = Relu(t100)"
        " g = GlobalAveragePool(a) f = Flatten(g) y = Gemm(f, v)",
        {"w": weight(8, 3, 3, 3), "k": weight(8, 8, 3, 3), "v": weight(8, 4)},
        "float[N,3,64,64] x",
        "float[N,4] y",
    )


MANY = images(64, 3, 64, 64)


# Warm-up.


def made_sessions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by one with every session made."""
    made: list[int] = []
    real = ort.InferenceSession

    def counting(*args: Any, **kwargs: Any) -> Any:
        made.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(ort, "InferenceSession", counting)
    return made


@pytest.mark.parametrize("options", [{}, {"memory": 1}, {"method": "rise", "masks": 20}])
def test_after_the_warm_up_nothing_is_made(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = made_sessions(monkeypatch)
    explainer = Explainer(tiny(), provider="cpu", preset={"size": [8, 8]}, **options)
    assert not made
    assert explainer.warm_up() > 0
    warm = len(made)
    assert warm
    explainer(X)
    explainer.explain(np.zeros((9, 9, 3), np.uint8), 1)
    assert len(made) == warm
    explainer.warm_up(targets=3)
    assert len(made) == 2 * warm
    explainer(X, "top3")
    explainer(X[:1], [[0, 1, 2]])
    assert len(made) == 2 * warm


def test_warm_up_of_free_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    made = made_sessions(monkeypatch)
    explainer = Explainer(tiny(size="S"), provider="cpu", preset={"size": [12, 10]})
    explainer.warm_up(batch=3, size=(12, 10))
    warm = len(made)
    explainer(images(3, 3, 12, 10))
    assert len(made) == warm
    with pytest.raises(onnxcam.ModelError, match="takes images of shape"):
        Explainer(tiny(), provider="cpu").warm_up(size=(9, 9))
    with pytest.raises(onnxcam.TargetError, match="4 classes"):
        explainer.warm_up(targets=9)


# Time limits and cancelling.


class Telling(ort.InferenceSession):
    """A session that says when a run begins; with `patient`, it begins when it is to end."""

    begun = threading.Event()
    patient = False
    ended = 0

    def run(self, names: Any, feeds: Any, options: Any) -> Any:
        Telling.begun.set()
        last = time.monotonic() + 60
        while Telling.patient and not options.terminate and time.monotonic() < last:
            time.sleep(0.001)
        Telling.ended += options.terminate
        return super().run(names, feeds, options)


@pytest.fixture
def telling(monkeypatch: pytest.MonkeyPatch) -> type[Telling]:
    monkeypatch.setattr(Telling, "begun", threading.Event())
    monkeypatch.setattr(Telling, "patient", False)
    monkeypatch.setattr(Telling, "ended", 0)
    return Telling


def test_a_run_is_stopped_on_time(telling: type[Telling]) -> None:
    """Within the run: the graph is one piece, and there are no blocks to stop between."""
    explainer = Explainer(tiny(), provider="cpu", make_session=telling)
    explainer.warm_up()
    telling.patient = True
    while not telling.ended:  # on a busy machine the time may be up before the run
        with pytest.raises(Timeout, match=r"longer than its 0\.3 s; allow more \(timeout=\)"):
            explainer(X, timeout=0.3)
    with pytest.raises(TimeoutError):
        explainer.explain(np.zeros((8, 8, 3), np.uint8), 0, timeout=1e-6)
    telling.patient = False
    want = Explainer(tiny(), provider="cpu")(X, 1)
    close(explainer(X, 1, timeout=500).map, want.map, tolerance=1e-6)


def test_a_run_is_cancelled_from_another_thread(telling: type[Telling]) -> None:
    explainer = Explainer(slow(), provider="cpu", threads=1, memory=1 << 40, make_session=telling)
    explainer.warm_up()
    telling.begun.clear()
    stop = Cancel()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(explainer, MANY, cancel=stop)
        assert telling.begun.wait(300)
        stop.cancel()
        with pytest.raises(Cancelled, match=r"was cancelled$"):
            waiting.result()
    assert stop.cancelled
    with pytest.raises(Cancelled):
        explainer(MANY, cancel=stop)
    assert explainer(MANY[:1], 1).map.shape == (1, 64, 64)


def test_what_was_done_is_said() -> None:
    explainer = Explainer(tiny(), "rise", provider="cpu", threads=1, masks=4000, memory=1)
    stop, seen = Cancel(), list[int]()

    def progress(done: int, every: int) -> None:
        seen.append(done)
        if done == 3:
            stop.cancel()

    with pytest.raises(Cancelled, match="cancelled, with 3 of 4000 items done"):
        explainer(X[:1], 1, progress, cancel=stop)
    assert seen == [1, 2, 3]


def test_a_token_stops_all_that_have_it() -> None:
    explainer = Explainer(tiny(), "rise", provider="cpu", threads=1, masks=100_000, memory=1)
    stop, begun = Cancel(), threading.Barrier(4)

    def work(_: int) -> type[BaseException]:
        first = iter([True])
        with pytest.raises(Cancelled) as caught:
            explainer(
                X[:1], 1, lambda *_: begun.wait(300) if next(first, None) else None, cancel=stop
            )
        return caught.type

    with ThreadPoolExecutor(3) as pool:
        waiting = pool.map(work, range(3))
        begun.wait(300)
        stop.cancel()
        assert list(waiting) == [Cancelled] * 3
    assert not stop._calls


def test_a_progress_that_raises_ends_the_call() -> None:
    explainer = Explainer(tiny(), "rise", provider="cpu", masks=30, memory=1)
    want = explainer(X, 1).map
    seen = []

    def progress(done: int, every: int) -> None:
        seen.append((done, every))
        if done == 3:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        explainer(X, 1, progress)
    assert seen == [(1, 60), (2, 60), (3, 60)]
    close(explainer(X, 1).map, want, tolerance=1e-7)


def test_progress_of_views_is_that_of_all() -> None:
    seen: list[tuple[int, int]] = []
    explainer = Explainer(tiny(), provider="cpu", memory=1, smooth="tta")
    explainer(X[:1], 1, lambda *counts: seen.append(counts))
    assert seen == [(i, 36) for i in range(1, 37)]


def test_limits_hold_for_every_way_to_ask() -> None:
    explainer = Explainer(tiny(), provider="cpu", preset={"size": [8, 8]})
    picture, stop = np.zeros((9, 9, 3), np.uint8), Cancel()
    stop.cancel()
    for ask in (explainer.explain, lambda p, **more: explainer.compare(p, ["grad-cam"], **more)):
        with pytest.raises(Cancelled):
            ask(picture, cancel=stop)
        with pytest.raises(Timeout):
            ask(picture, timeout=1e-9)
        ask(picture, cancel=Cancel(), timeout=float("inf"))
    with pytest.raises(Cancelled):
        onnxcam.explain(tiny(), picture, provider="cpu", cancel=stop)
    with pytest.raises(Timeout):
        onnxcam.explain(tiny(), picture, provider="cpu", timeout=1e-9)


@pytest.mark.parametrize("timeout", [0, -1, "2", float("nan"), [1]])
def test_wrong_limits(timeout: Any) -> None:
    with pytest.raises(OptionError, match="timeout is a positive number of seconds"):
        Explainer(tiny(), provider="cpu")(X, timeout=timeout)
    with pytest.raises(OptionError, match=r"cancel is an onnxcam\.Cancel"):
        Explainer(tiny(), provider="cpu")(X, cancel=threading.Event())


def test_no_thread_is_left_behind() -> None:
    explainer = Explainer(tiny(), provider="cpu")
    before = threading.active_count()
    for _ in range(20):
        explainer(X, timeout=1000)
    end = time.monotonic() + 300
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() <= before
