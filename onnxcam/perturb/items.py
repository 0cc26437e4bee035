"""What a stack runs over, made on the host in blocks: windows, random masks, noise, steps.

Masks are kept packed, a row of numbers each, and unpacked in the graph (`stacks.windows`,
`stacks.random_masks`): thousands of them are then small enough to stand in a file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Make = Callable[[int, int], np.ndarray]
"""The items from `start` to `stop` as an array (B, …); the same whatever the blocks are."""


@dataclass(frozen=True)
class Items:
    """The items of a stack.

    Attributes:
        count: how many there are.
        shape: the shape of one.
        dtype: element type.
        make: makes a block of them.
        origin: the function of this module that gave them, and its arguments: what makes them
            again.
    """

    count: int
    shape: tuple[int, ...]
    dtype: np.dtype
    make: Make
    origin: tuple[str, tuple[Any, ...]]


def indices(count: int, chosen: tuple[int, ...] | None = None) -> Items:
    """The numbers from 0 to `count` − 1, or the chosen ones of them."""
    every = np.arange(count, dtype=np.int64) if chosen is None else np.array(chosen, np.int64)
    origin = ("indices", (count, chosen))
    return Items(len(every), (), np.dtype(np.int64), lambda a, b: every[a:b], origin)


def midpoints(steps: int) -> Items:
    """(i + ½) / steps."""

    def make(start: int, stop: int) -> np.ndarray:
        return ((np.arange(start, stop) + 0.5) / steps).astype(np.float32)

    return Items(steps, (), np.dtype(np.float32), make, ("midpoints", (steps,)))


def noise(samples: int, shape: tuple[int, ...], seed: int) -> Items:
    """Standard normal noise."""

    def make(start: int, stop: int) -> np.ndarray:
        draws = [np.random.default_rng([seed, i]) for i in range(start, stop)]
        return np.stack([d.standard_normal(shape, np.float32) for d in draws])

    origin = ("noise", (samples, shape, seed))
    return Items(samples, shape, np.dtype(np.float32), make, origin)


def cover(size: int, window: float, stride: float) -> np.ndarray:
    """Which of the windows covers which of `size` pixels in a row: (windows, size), 0 or 1.

    Window and stride are shares of the row. The last window ends with it, so that every pixel is
    covered where the stride is not larger than the window.
    """
    wide = min(size, max(1, round(window * size)))
    step = max(1, round(stride * size))
    starts = [*range(0, size - wide, step), size - wide]
    line = np.arange(size)
    return np.stack([(line >= s) & (line < s + wide) for s in starts]).astype(np.float32)


def windows(rows: np.ndarray, columns: np.ndarray) -> Items:
    """One window after the other, row by row: which rows and which columns it covers, H + W."""
    across = len(columns)

    def make(start: int, stop: int) -> np.ndarray:
        every = np.arange(start, stop)
        return np.concatenate([rows[every // across], columns[every % across]], axis=1)

    wide = rows.shape[1] + columns.shape[1]
    origin = ("windows", (rows, columns))
    return Items(len(rows) * across, (wide,), np.dtype(np.float32), make, origin)


def random_masks(count: int, size: tuple[int, int], cells: int, keep: float, seed: int) -> Items:
    """RISE's masks, packed: a random grid of kept cells (cells²), and how far to shift it (2).

    Petsiuk et al., RISE, BMVC 2018, section 3.2: cells × cells values, 1 with probability `keep`,
    enlarged to (cells + 1) cell sizes, of which H × W from a random offset within one cell is cut.
    """
    steps = [-(-n // cells) for n in size]

    def one(index: int) -> np.ndarray:
        draw = np.random.default_rng([seed, index])
        grid = draw.random((cells, cells)) < keep
        return np.array([*grid.reshape(-1), *(draw.integers(step) for step in steps)], np.float32)

    def make(start: int, stop: int) -> np.ndarray:
        return np.stack([one(i) for i in range(start, stop)])

    origin = ("random_masks", (count, size, cells, keep, seed))
    return Items(count, (cells * cells + 2,), np.dtype(np.float32), make, origin)


def enlarging(cells: int, size: int) -> np.ndarray:
    """The matrix that enlarges a row of `cells` to (cells + 1) cell sizes, bilinearly."""
    return _bilinear(cells, (cells + 1) * -(-size // cells))


def _bilinear(before: int, after: int) -> np.ndarray:
    """The matrix (after, before) that enlarges a row bilinearly, pixel centres aligned."""
    at = np.clip((np.arange(after) + 0.5) * before / after - 0.5, 0, before - 1)
    low = np.minimum(at.astype(int), max(0, before - 2))
    part = (at - low).astype(np.float32)
    matrix = np.zeros((after, before), np.float32)
    matrix[np.arange(after), low] = 1 - part
    matrix[np.arange(after), np.minimum(low + 1, before - 1)] += part
    return matrix


MAKERS: dict[str, Callable[..., Items]] = {
    make.__name__: make for make in (indices, midpoints, noise, windows, random_masks)
}
"""By name, what `Items.origin` may say."""
