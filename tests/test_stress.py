"""Many threads on one explainer: every result is what one thread gets, and nothing piles up."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxcam
from models import close, images, tiny
from onnxcam import Explainer, engine
from onnxcam.cache import keep
from onnxcam.core import MOST_PROGRAMS
from onnxcam.pool import Pool

THREADS = 8
METHODS: dict[str, dict[str, Any]] = {
    "ablation-cam": {},
    "grad-cam": {"memory": 1},
    "eigen-cam": {"smooth": "tta"},
    "rise": {"masks": 12, "memory": 20_000},
    "saliency": {},
}
JOBS = st.tuples(
    st.sampled_from(sorted(METHODS)),
    st.integers(1, 4),  # images
    st.sampled_from([(8, 8), (9, 12)]),
    st.sampled_from([None, 1, "not:2", [3, 0]]),
)


@pytest.fixture(autouse=True)
def hasty() -> Iterator[None]:
    """Threads change often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


@cache
def classifier() -> Any:
    return onnxcam.load(tiny(size="S"))


def explainers() -> dict[str, Explainer]:
    return {
        name: Explainer(classifier(), name, provider="cpu", threads=1, **options)
        for name, options in METHODS.items()
    }


@cache
def alone() -> dict[str, Explainer]:
    """The explainers that one thread uses."""
    return explainers()


def asked(those: dict[str, Explainer], job: Any) -> Any:
    name, count, size, target = job
    several = [target] * count if isinstance(target, list) else target
    return those[name](images(count, 3, *size, seed=count), several)


def together(work: Callable[[Any], Any], jobs: list[Any]) -> list[Any]:
    """`work` of all jobs by eight threads that begin at once."""
    start = threading.Barrier(THREADS)

    def part(number: int) -> list[Any]:
        start.wait()
        return [work(job) for job in jobs[number::THREADS]]

    with ThreadPoolExecutor(THREADS) as pool:
        parts = list(pool.map(part, range(THREADS)))
    return [parts[i % THREADS][i // THREADS] for i in range(len(jobs))]


@settings(max_examples=2)
@given(st.lists(JOBS, min_size=16, max_size=16))
def test_any_mixture_of_calls(jobs: list[Any]) -> None:
    shared = explainers()  # fresh: they are compiled while the threads race
    want = [asked(alone(), job) for job in jobs]
    found = together(lambda job: asked(shared, job), jobs)
    for job, one, other in zip(jobs, found, want, strict=True):
        assert one.decisions == other.decisions, job
        for name, array in other.arrays().items():
            close(one.arrays()[name], array, tolerance=1e-5)


def test_each_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: Counter[Any] = Counter()
    sessions: Counter[str] = Counter()
    compiling, making = keep.compile_program, engine.Session

    def slowly(classifier: Any, recipes: Any) -> Any:
        compiled[classifier.image.size, recipes[0].targets] += 1
        time.sleep(0.01)
        return compiling(classifier, recipes)

    def session(model: bytes, *more: Any) -> Any:
        sessions[model.hex()] += 1
        time.sleep(0.01)
        return making(model, *more)

    monkeypatch.setattr(keep, "compile_program", slowly)
    monkeypatch.setattr(engine, "Session", session)
    for options in ({}, {"memory": 1}):
        counts = []
        for run in (lambda work, jobs: [work(job) for job in jobs], together):
            compiled.clear()
            sessions.clear()
            explainer = Explainer(classifier(), provider="cpu", threads=1, **options)

            def work(job: Any, explainer: Explainer = explainer) -> None:
                explainer(images(1, 3, job[0], job[0]), job[1])

            run(work, [(s, target) for s in (8, 9) for target in (None, "top2")] * THREADS)
            assert compiled == {((s, s), targets): 1 for s in (8, 9) for targets in (1, 2)}
            counts.append(sessions.copy())
        assert counts[0] == counts[1] and len(counts[0]) >= 4


def test_a_preset_is_guessed_once() -> None:
    explainer = Explainer(tiny(), provider="cpu", threads=1)
    asked: list[int] = []
    real = explainer._preparation.choice

    def choice(pictures: Any) -> Any:
        asked.append(len(pictures))
        time.sleep(0.01)
        return real(pictures)

    explainer._preparation.choice = choice  # type: ignore[method-assign]
    pictures = [images(9, 9, 3, seed=i).clip(0, 1) for i in range(THREADS)]
    pictures = [(255 * p).astype("uint8") for p in pictures]
    found = together(explainer.explain, pictures)
    assert asked == [1] and len({one.preset for one in found}) == 1


def test_while_one_is_made_others_can_be_had() -> None:
    pool: Pool[int] = Pool()
    making, go_on = threading.Event(), threading.Event()

    def slowly() -> int:
        making.set()
        assert go_on.wait(300)
        return 1

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(pool.get, "slow", slowly)
        assert making.wait(300)
        assert pool.get("quick", lambda: 2) == 2
        second = threads.submit(pool.get, "slow", lambda: 3)
        go_on.set()
        assert (first.result(), second.result()) == (1, 1)


def test_what_fails_is_tried_again() -> None:
    pool: Pool[int] = Pool()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            pool.get("a", lambda: 1 // 0)
    assert pool.get("a", lambda: 7) == pool.get("a", lambda: 8) == 7


def test_the_pool_keeps_what_is_used() -> None:
    pool: Pool[int] = Pool(2)
    for key in "abacada":
        pool.get(key, lambda key=key: ord(key))
    assert len(pool) == 2
    assert pool.get("a", lambda: 0) == ord("a")
    assert pool.get("b", lambda: 0) == 0


def test_of_many_sizes_the_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service for pictures of any size does not fill up with sessions."""
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    real = engine.Session

    def session(*args: Any) -> Any:
        made = real(*args)
        alive.add(made)
        return made

    monkeypatch.setattr(engine, "Session", session)
    explainer = Explainer(classifier(), "saliency", provider="cpu", threads=1)
    for side in range(8, 8 + MOST_PROGRAMS + 4):
        explainer(images(1, 3, 8, side), 1)
    gc.collect()
    assert len(alive) == MOST_PROGRAMS
    want = Explainer(classifier(), "saliency", provider="cpu")(images(1, 3, 8, 8), 1)
    close(explainer(images(1, 3, 8, 8), 1).map, want.map, tolerance=1e-6)


MEMORY = """
import sys
sys.path.insert(0, {tests!r})
import models
from onnxcam import Cancel, Explainer

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

explainer = Explainer(models.tiny(), "grad-cam", provider="cpu", threads=1)
blocks = Explainer(explainer.classifier, provider="cpu", threads=1, memory=1)
x, token = models.images(1, 3, 8, 8), Cancel()
for number in range(1, {calls} + 1):
    explainer(x, number % 4)
    if number % 50 == 0:
        blocks(x)
        explainer(x, timeout=1000, cancel=token)
    if number == 1000:
        early = resident()
print(resident() - early, len(token._calls))
"""


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="resident memory is read on Linux"
)
def test_ten_thousand_calls_take_no_memory() -> None:
    code = MEMORY.format(tests=str(Path(__file__).parent), calls=10_000)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    grown, registered = map(int, done.stdout.split())
    assert grown < 4 << 20
    assert registered == 0
