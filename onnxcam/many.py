"""Many pictures: read in the background while the model runs, and put together into batches."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np

from onnxcam.errors import Cancelled, OnnxcamError, Timeout
from onnxcam.explanation import Explanation, PictureExplanation
from onnxcam.image import Picture, Preset, read_picture

FOR_THE_PRESET = 4
"""Pictures that a preset is guessed from, where nothing states one."""
ENOUGH_PIXELS = 50_000_000
"""Fewer pictures if they are as large as this together: they are in memory at once."""

S = TypeVar("S")
T = TypeVar("T")
Run: TypeAlias = Callable[[np.ndarray], Sequence[Explanation | OnnxcamError]]
"""Tensors (N, …) in, one explanation or error for each out."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A picture ready to be explained: as it was given, as it was read, and its tensor (1, …)."""

    given: Any
    picture: Picture
    preset: Preset
    reason: str
    tensor: np.ndarray

    def explained(self, found: Explanation) -> PictureExplanation:
        """What was found, with the picture."""
        return PictureExplanation(
            **{name: getattr(found, name) for name in found.__dataclass_fields__},
            picture=self.picture,
            geometry=self.preset.geometry(self.picture.width, self.picture.height),
            preset=self.preset,
            preset_reason=self.reason,
        )


def read(given: Any, max_pixels: int) -> Picture:
    """The picture, read if need be.

    Raises:
        PictureError: it cannot be read.
    """
    return given if isinstance(given, Picture) else read_picture(given, max_pixels=max_pixels)


def some_read(given: Iterable[Any], max_pixels: int) -> list[Picture | OnnxcamError]:
    """The first of the pictures, read: enough of them for a guess; the error where one is none."""
    found: list[Picture | OnnxcamError] = []
    count = pixels = 0
    for one in given:
        picture = tried(lambda one: read(one, max_pixels), one, one)
        found.append(picture)
        if isinstance(picture, Picture):
            count, pixels = count + 1, pixels + picture.width * picture.height
            if count == FOR_THE_PRESET or pixels > ENOUGH_PIXELS:
                break
    return found


def tried(work: Callable[[S], T], item: S, given: Any = None) -> T | OnnxcamError:
    """`work(item)`, or the error in its place, which then says which picture was `given`.

    Raises:
        Cancelled: that ends all of it.
    """
    try:
        return work(item)
    except Cancelled:
        raise
    except OnnxcamError as error:
        return blamed(error, given)


def blamed(error: OnnxcamError, given: Any) -> OnnxcamError:
    """The error, with the picture that it is about."""
    error.picture = given
    return error


def explained(
    given: Iterable[Any], prepare: Callable[[Any], Prepared], run: Run, most: int
) -> Iterator[PictureExplanation | OnnxcamError]:
    """For each picture, in order, its explanation, or the error in its place.

    Args:
        given: pictures; errors among them are passed on.
        prepare: reads and prepares one; called in another thread.
        run: explains a batch.
        most: pictures in a batch.

    Raises:
        Cancelled: `run` was cancelled.
    """

    def prepared(one: Any) -> Prepared | OnnxcamError:
        return one if isinstance(one, OnnxcamError) else tried(prepare, one, one)

    with closing(ahead(prepared, given, most)) as items:
        for batch in batches(items, most):
            if isinstance(batch[0], OnnxcamError):
                yield batch[0]
            else:
                yield from _explained([p for p in batch if isinstance(p, Prepared)], run)


def _explained(batch: Sequence[Prepared], run: Run) -> Iterator[PictureExplanation | OnnxcamError]:
    found = tried(run, np.concatenate([one.tensor for one in batch]))
    if not isinstance(found, OnnxcamError):
        for one, each in zip(batch, found, strict=True):
            if isinstance(each, OnnxcamError):
                yield blamed(each, one.given)
            else:
                yield one.explained(each)
    elif len(batch) == 1 or isinstance(found, Timeout):
        yield from (blamed(copy.copy(found), one.given) for one in batch)
    else:  # too many at once, or one that spoils it for the others
        for one in batch:
            yield from _explained([one], run)


def ahead(work: Callable[[S], T], items: Iterable[S], most: int) -> Generator[T]:
    """`map(work, items)`, the work done in another thread and up to `most` items ahead.

    `items` are asked for in the caller's thread. Once the iterator is closed, no work goes on.
    """
    pool = ThreadPoolExecutor(1, "onnxcam-read")
    waiting: deque[Future[T]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def batches(
    items: Iterable[Prepared | OnnxcamError], most: int
) -> Iterator[list[Prepared | OnnxcamError]]:
    """Neighbours of one shape, up to `most` together; an error alone."""
    held: list[Prepared | OnnxcamError] = []
    for item in items:
        if held and (len(held) == most or _shape(item) != _shape(held[0]) or not _shape(item)):
            yield held
            held = []
        held.append(item)
    if held:
        yield held


def _shape(item: Prepared | OnnxcamError) -> tuple[int, ...]:
    return () if isinstance(item, OnnxcamError) else item.tensor.shape
