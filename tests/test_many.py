"""Many pictures at once: in order, errors in their places, read ahead."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models import close, tiny
from onnxcam import Cancel, Cancelled, Explainer, OptionError, PictureError, Timeout
from onnxcam.errors import OnnxcamError, RuntimeFailure, TargetError
from onnxcam.explanation import PictureExplanation
from onnxcam.many import ahead

PLAIN = {"size": [8, 8], "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}


def pixels(seed: int, *size: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*(size or (9, 7)), 3), np.uint8)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    for i in range(7):
        Image.fromarray(pixels(i)).save(tmp_path / f"{i}.png")
    return sorted(tmp_path.iterdir())


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("target", [None, 2, "top2", ["not:1", 0]], ids=str)
def test_each_is_what_explain_gives(paths: list[Path], batch: int, target: Any) -> None:
    explainer = Explainer(tiny(), provider="cpu", preset=PLAIN)
    found = list(explainer.explain_many(paths, target, batch=batch))
    assert len(found) == len(paths)
    for path, one in zip(paths, found, strict=True):
        assert isinstance(one, PictureExplanation)
        want = explainer.explain(path, target)
        assert one.picture.name == path.stem and one.preset == want.preset
        assert one.decisions == want.decisions and one.map.shape == want.map.shape
        assert one.notes == want.notes and one.heatmap.shape == (9, 7)
        for name, array in want.arrays().items():
            close(one.arrays()[name], array, tolerance=1e-5)


@pytest.mark.parametrize("options", [{"memory": 1}, {"smooth": "tta"}, {"method": "saliency"}])
def test_other_ways_to_run(paths: list[Path], options: dict[str, Any]) -> None:
    explainer = Explainer(tiny(), provider="cpu", preset=PLAIN, **options)
    for path, one in zip(paths, explainer.explain_many(paths, 1), strict=True):
        assert isinstance(one, PictureExplanation)
        close(one.raw, explainer.explain(path, 1).raw, tolerance=1e-5)


def test_errors_stand_in_their_places(paths: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    given: list[Any] = [broken, paths[0], pixels(9), tmp_path / "none.png", 5, paths[1], broken]
    explainer = Explainer(tiny(), provider="cpu", preset=PLAIN)
    found = list(explainer.explain_many(given, batch=2))
    assert [isinstance(one, PictureError) for one in found] == [
        *(True, False, False, True, True, False, True)
    ]
    for what, one in zip(given, found, strict=True):
        if isinstance(one, OnnxcamError):
            assert one.picture is what and str(one)


def test_what_fails_in_a_run_fails_alone(paths: list[Path]) -> None:
    """A picture whose scores are infinite says so; its neighbours in the batch are explained."""
    explainer = Explainer(tiny(), provider="cpu", preset=PLAIN)
    real = explainer._core.engine.run

    def run(program: Any, batch: np.ndarray, *more: Any) -> Any:
        found = real(program, batch, *more)
        bad = np.abs(batch - spoilt).max((1, 2, 3)) < 1e-6
        found["onnxcam/scores"][bad] = np.inf
        return found

    spoilt = explainer._prepared(paths[1]).tensor
    explainer._core.engine.run = run  # type: ignore[method-assign]
    found = list(explainer.explain_many(paths[:4], batch=4))
    assert [type(one) for one in found] == [
        *(PictureExplanation, RuntimeFailure, PictureExplanation, PictureExplanation)
    ]
    assert found[1].picture == paths[1]


def test_a_batch_that_fails_is_tried_one_by_one(paths: list[Path]) -> None:
    explainer = Explainer(tiny(), provider="cpu", preset=PLAIN)
    real, sizes = explainer._core.engine.run, []

    def run(program: Any, batch: np.ndarray, *more: Any) -> Any:
        sizes.append(len(batch))
        if len(batch) > 1:
            raise RuntimeFailure("memory ran out")
        return real(program, batch, *more)

    explainer._core.engine.run = run  # type: ignore[method-assign]
    found = list(explainer.explain_many(paths[:3], batch=4))
    assert sizes == [3, 1, 1, 1]
    assert all(isinstance(one, PictureExplanation) for one in found)


def test_pictures_of_several_sizes(tmp_path: Path) -> None:
    """A model of free size: neighbours of one shape go together."""
    explainer = Explainer(tiny(size="S"), provider="cpu", preset={"mean": 0.5, "std": 0.5})
    given = [pixels(i, *((12, 10) if i % 3 else (9, 9))) for i in range(7)]
    for one, picture in zip(explainer.explain_many(given, 1), given, strict=True):
        assert isinstance(one, PictureExplanation)
        close(one.map, explainer.explain(picture, 1).map, tolerance=1e-5)


def test_a_preset_is_guessed_once_from_several(paths: list[Path], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("no picture")
    explainer = Explainer(tiny(), provider="cpu")
    asked: list[int] = []
    real = explainer._preparation.choice

    def choice(pictures: Any) -> Any:
        asked.append(len(pictures))
        return real(pictures)

    explainer._preparation.choice = choice  # type: ignore[method-assign]
    found = list(explainer.explain_many([tmp_path / "a.txt", *paths]))
    assert asked == [4]
    assert [isinstance(one, PictureExplanation) for one in found] == [False] + [True] * 7
    assert list(Explainer(tiny(), provider="cpu").explain_many([])) == []
    (lost,) = Explainer(tiny(), provider="cpu").explain_many([tmp_path / "a.txt"])
    assert isinstance(lost, PictureError)


def test_it_reads_only_some_ahead() -> None:
    """Pictures are asked for as they are used, in the caller's thread; none of them is kept."""
    taken: list[int] = []

    def endless() -> Iterator[np.ndarray]:
        while True:
            assert threading.current_thread() is threading.main_thread()
            taken.append(len(taken))
            yield pixels(taken[-1])

    found = Explainer(tiny(), provider="cpu", preset=PLAIN).explain_many(endless(), batch=2)
    for _ in range(5):
        assert isinstance(next(found), PictureExplanation)
    assert len(taken) <= 5 + 2 * 2 + 2
    found.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("onnxcam-read")]


def test_work_is_done_in_another_thread_in_order() -> None:
    def work(i: int) -> tuple[int, bool]:
        return i, threading.current_thread() is threading.main_thread()

    assert list(ahead(work, range(9), 3)) == [(i, False) for i in range(9)]

    def fails(i: int) -> int:
        return 1 // (3 - i)

    items = ahead(fails, range(9), 2)
    assert [next(items) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(items)


def test_limits(paths: list[Path]) -> None:
    explainer = Explainer(tiny(), provider="cpu", preset=PLAIN)
    found = list(explainer.explain_many(paths[:3], batch=2, timeout=1e-9))
    assert [type(one) for one in found] == [Timeout] * 3
    assert [one.picture for one in found] == paths[:3]
    stop = Cancel()
    items = explainer.explain_many(paths, batch=1, cancel=stop)
    assert isinstance(next(items), PictureExplanation)
    stop.cancel()
    with pytest.raises(Cancelled):
        list(items)


def test_wrong_questions_are_said_at_once(paths: list[Path]) -> None:
    explainer = Explainer(tiny(), provider="cpu", preset=PLAIN)
    with pytest.raises(TargetError):
        explainer.explain_many(paths, 9)
    with pytest.raises(OptionError, match="at least 1"):
        explainer.explain_many(paths, batch=0)
    with pytest.raises(OptionError, match="timeout"):
        explainer.explain_many(paths, timeout=0)
