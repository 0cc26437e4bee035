"""The ten object classes of the demo scenes, drawn as polygons.

A shape is a list of parts (role, points), drawn in order, in a box of about [-1, 1] with x to the
right and y down.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Point = tuple[float, float]

# Roles of a pixel inside an object; a hole is looked through.
HOLE, EDGE, FILL, TRIM, DARK = 0, 1, 2, 3, 4
Part = tuple[int, Sequence[Point]]


def _oval(x: float, y: float, rx: float, ry: float | None = None, n: int = 28) -> list[Point]:
    ry = rx if ry is None else ry
    steps = [2 * math.pi * i / n for i in range(n)]
    return [(x + rx * math.cos(t), y + ry * math.sin(t)) for t in steps]


def _rect(x0: float, y0: float, x1: float, y1: float) -> list[Point]:
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def _polar(radii: Sequence[float]) -> list[Point]:
    steps = [2 * math.pi * i / len(radii) for i in range(len(radii))]
    return [(r * math.sin(t), -r * math.cos(t)) for r, t in zip(radii, steps, strict=True)]


def _heart() -> list[Point]:
    steps = [2 * math.pi * i / 40 for i in range(40)]
    return [
        (
            0.95 * math.sin(t) ** 3,
            -0.06 * (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t))
            - 0.1,
        )
        for t in steps
    ]


def _mirror(points: Sequence[Point]) -> list[Point]:
    return [(-x, y) for x, y in points]


def _both(role: int, points: Sequence[Point]) -> list[Part]:
    return [(role, points), (role, _mirror(points))]


def _petal(i: int) -> Part:
    t = 2 * math.pi * i / 6
    return FILL, _oval(0.58 * math.cos(t), 0.58 * math.sin(t), 0.37)


CAR: list[Part] = [
    (FILL, [(-1, 0.4), (-1, 0.02), (-0.62, -0.1), (-0.36, -0.52), (0.34, -0.52), (0.64, -0.1),
            (0.96, 0.0), (1, 0.4)]),
    (TRIM, [(-0.46, -0.1), (-0.27, -0.4), (-0.04, -0.4), (-0.04, -0.1)]),
    (TRIM, [(0.06, -0.1), (0.06, -0.4), (0.27, -0.4), (0.47, -0.1)]),
    *_both(DARK, _oval(-0.54, 0.4, 0.26)),
    *_both(TRIM, _oval(-0.54, 0.4, 0.11)),
]  # fmt: skip
CAT: list[Part] = [
    *_both(FILL, [(-0.78, 0.05), (-0.76, -0.92), (-0.12, -0.5)]),
    (FILL, _oval(0, 0.12, 0.84, 0.72)),
    *_both(TRIM, _oval(-0.32, 0.0, 0.17, 0.2)),
    *_both(DARK, _oval(-0.32, 0.0, 0.07, 0.17)),
    (DARK, [(-0.12, 0.28), (0.12, 0.28), (0, 0.44)]),
    *_both(DARK, [(-0.2, 0.42), (-0.98, 0.3), (-0.98, 0.36), (-0.2, 0.48)]),
    *_both(DARK, [(-0.2, 0.52), (-0.95, 0.62), (-0.95, 0.68), (-0.2, 0.58)]),
]
CUP: list[Part] = [
    (FILL, _oval(0.5, 0.02, 0.48)),
    (HOLE, _oval(0.54, 0.02, 0.26)),
    (FILL, [(-0.8, -0.62), (0.5, -0.62), (0.36, 0.72), (0.2, 0.82), (-0.5, 0.82), (-0.66, 0.72)]),
    (TRIM, _oval(-0.15, -0.62, 0.65, 0.2)),
    (DARK, _oval(-0.15, -0.59, 0.5, 0.12)),
]
FISH: list[Part] = [
    (FILL, [(0.4, 0.0), (1.0, -0.52), (0.86, 0.0), (1.0, 0.52)]),
    (TRIM, [(-0.35, -0.35), (0.1, -0.75), (0.3, -0.3)]),
    (FILL, _oval(-0.18, 0, 0.8, 0.48)),
    (TRIM, [(-0.12, 0.05), (0.28, -0.1), (0.28, 0.24)]),
    (TRIM, _oval(-0.62, -0.1, 0.13)),
    (DARK, _oval(-0.64, -0.1, 0.07)),
]
FLOWER: list[Part] = [*(_petal(i) for i in range(6)), (TRIM, _oval(0, 0, 0.34))]
HEART: list[Part] = [(FILL, _heart())]
HOUSE: list[Part] = [
    (FILL, _rect(0.36, -0.8, 0.58, -0.2)),
    (FILL, _rect(-0.68, -0.15, 0.68, 0.8)),
    (TRIM, [(-0.95, -0.1), (0, -0.9), (0.95, -0.1)]),
    (DARK, _rect(-0.42, 0.22, -0.08, 0.8)),
    (DARK, _rect(0.12, 0.12, 0.5, 0.46)),
]
KEY: list[Part] = [
    (FILL, _rect(-0.3, -0.11, 1, 0.11)),
    (FILL, _rect(0.52, 0.0, 0.68, 0.42)),
    (FILL, _rect(0.82, 0.0, 1, 0.34)),
    (FILL, _oval(-0.56, 0, 0.44)),
    (HOLE, _oval(-0.62, 0, 0.22)),
]
STAR: list[Part] = [(FILL, _polar([1.0, 0.44] * 5))]
TREE: list[Part] = [
    (DARK, _rect(-0.15, 0.4, 0.15, 1)),
    (FILL, [(-0.78, 0.62), (0, -0.2), (0.78, 0.62)]),
    (FILL, [(-0.64, 0.12), (0, -0.62), (0.64, 0.12)]),
    (FILL, [(-0.48, -0.34), (0, -1), (0.48, -0.34)]),
]

# Class name -> (largest tilt in degrees, parts); the order is the order of the model's outputs.
CLASSES: dict[str, tuple[float, list[Part]]] = {
    "car": (15, CAR),
    "cat": (25, CAT),
    "cup": (20, CUP),
    "fish": (35, FISH),
    "flower": (180, FLOWER),
    "heart": (30, HEART),
    "house": (12, HOUSE),
    "key": (180, KEY),
    "star": (180, STAR),
    "tree": (15, TREE),
}
LABELS = list(CLASSES)
