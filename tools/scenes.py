"""Seeded cartoon scenes with exact object masks: the data of the demo models.

A scene has two steps, so that one seed gives the same picture at every size:

    describe(seed) -> Layout      what is where, in units of the picture side
    draw(layout, size) -> Scene   pixels, labels, and a mask and box per object

Numpy and Pillow only. Colours and textures are drawn independently of the class, so that only
shape tells the classes apart.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from shapes import CLASSES, EDGE, FILL, HOLE, LABELS, Point

Color = tuple[int, int, int]
Box = tuple[int, int, int, int]
Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Floats = NDArray[np.floating[Any]]

MARK_SIDE, MARK_MARGIN = 0.13, 0.03
MARK_COLORS = ((250, 250, 250), (25, 25, 35), (240, 60, 40))
TEXTURES = ("flat", "shade", "stripes", "dots", "marble")
SCRAPS = ("stroke", "oval", "patch", "arc")
BACKDROPS = ("gradient", "noise", "stripes", "checks")


# --- layout: what is where ------------------------------------------------------------------------


@dataclass(frozen=True)
class Thing:
    """One object: class, place (centre, radius; in picture sides), pose and paint."""

    kind: int
    x: float
    y: float
    radius: float
    angle: float
    flip: bool
    stretch: float
    texture: str
    waves: tuple[float, float, float]
    fill: Color
    second: Color
    trim: Color
    dark: Color
    edge: Color
    edge_width: float


@dataclass(frozen=True)
class Scrap:
    """One distractor: a stroke, an oval, a patch or an arc, in picture sides."""

    kind: str
    points: tuple[Point, Point, Point]
    color: Color
    width: float


@dataclass(frozen=True)
class Layout:
    """A whole scene, free of any pixel size.

    `scraps` lie under the objects, `veil` (thin strokes) over them; `marked` adds the corner mark.
    """

    seed: int
    backdrop: str
    colors: tuple[Color, Color, Color]
    waves: tuple[float, float, float]
    noise: tuple[int, float]
    grain: float
    scraps: tuple[Scrap, ...]
    things: tuple[Thing, ...]
    veil: tuple[Scrap, ...]
    marked: bool = False


class Object(NamedTuple):
    """An object as drawn: class index, mask (H, W) of the pixels it touches, box x0 y0 x1 y1."""

    kind: int
    mask: Mask
    box: Box


class Scene(NamedTuple):
    """Pixels (H, W, 3) uint8, labels (10,) float32 of 0 and 1, and the objects, lowest first."""

    pixels: Pixels
    labels: Floats
    objects: list[Object]


def _color(rng: Random, saturation: Point, value: Point) -> Color:
    r, g, b = colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value))
    return round(255 * r), round(255 * g), round(255 * b)


def _far_color(rng: Random, others: Sequence[Color], least: float) -> Color:
    """A strong colour at some distance from `others`, so that no object melts into its ground."""
    for _ in range(8):
        color = _color(rng, (0.35, 1.0), (0.4, 1.0))
        if min(math.dist(color, other) for other in others) >= least:
            break
    return color


def _thing(rng: Random, kind: int, x: float, y: float, radius: float, back: Color) -> Thing:
    tilt = CLASSES[LABELS[kind]][0]
    fill = _far_color(rng, [back], 70)
    light, deep = _color(rng, (0.0, 0.35), (0.85, 1.0)), _color(rng, (0.2, 0.9), (0.08, 0.3))
    return Thing(
        kind, x, y, radius,
        angle=math.radians(rng.uniform(-tilt, tilt)),
        flip=rng.random() < 0.5,
        stretch=rng.uniform(0.86, 1.16),
        texture=rng.choice(TEXTURES),
        waves=(rng.uniform(0, math.pi), rng.uniform(6, 14), rng.uniform(0, 6)),
        fill=fill,
        second=_far_color(rng, [back, fill], 60),
        trim=light if rng.random() < 0.6 else _far_color(rng, [fill], 90),
        dark=deep,
        edge=deep if rng.random() < 0.75 else light,
        edge_width=rng.uniform(0.05, 0.1) if rng.random() < 0.8 else 0.0,
    )  # fmt: skip


def _scrap(rng: Random, kinds: Sequence[str]) -> Scrap:
    x, y, reach = rng.random(), rng.random(), rng.uniform(0.03, 0.22)
    points = [(x + rng.uniform(-reach, reach), y + rng.uniform(-reach, reach)) for _ in range(3)]
    return Scrap(
        rng.choice(kinds),
        (points[0], points[1], points[2]),
        _color(rng, (0.1, 0.9), (0.2, 1.0)),
        rng.uniform(0.006, 0.025),
    )


def describe(
    seed: int, kinds: Sequence[int] | None = None, radius: Point = (0.115, 0.23), scraps: int = 14
) -> Layout:
    """Lay out the scene of a seed.

    Args:
        seed: any integer; equal arguments give an equal layout.
        kinds: classes to place, in drawing order; by default one to six at random. One that finds
            no free place is left out.
        radius: range of object radii, in picture sides.
        scraps: largest number of distractors.
    """
    rng = Random(seed)
    low = rng.uniform(0.25, 0.75)
    first = _color(rng, (0.05, 0.55), (low, low + 0.25))
    colors = (first, *(_color(rng, (0.05, 0.55), (low, low + 0.25)) for _ in range(2)))
    waves = (rng.uniform(0, math.pi), rng.uniform(8, 50), rng.uniform(0, 6))
    noise = (rng.randint(3, 24), rng.uniform(0, 22))
    litter = tuple(_scrap(rng, SCRAPS) for _ in range(rng.randint(scraps // 4, scraps)))
    if kinds is None:
        count = rng.choices((1, 2, 3, 4, 5, 6), (20, 22, 22, 18, 12, 6))[0]
        kinds = [rng.randrange(len(LABELS)) for _ in range(count)]
        if count > 1 and rng.random() < 0.25:  # several instances of one class
            kinds[-1] = kinds[0]
    things: list[Thing] = []
    for kind in kinds:
        for _ in range(30):
            r = rng.uniform(*radius)
            x, y = rng.uniform(0.85 * r, 1 - 0.85 * r), rng.uniform(0.85 * r, 1 - 0.85 * r)
            # A slight overlap is wanted; anything more would make labels of invisible objects.
            if all(math.dist((x, y), (t.x, t.y)) > 0.76 * (r + t.radius) for t in things):
                things.append(_thing(rng, kind, x, y, r, first))
                break
    veil = tuple(_scrap(rng, ("stroke", "arc")) for _ in range(rng.randint(0, scraps // 3)))
    return Layout(
        seed, rng.choice(BACKDROPS), (colors[0], colors[1], colors[2]), waves, noise,
        rng.uniform(0, 7), litter, tuple(things), veil,
    )  # fmt: skip


# --- drawing --------------------------------------------------------------------------------------


def _wave(u: Floats, v: Floats, waves: tuple[float, float, float], pattern: str) -> Floats:
    """A pattern over coordinates, in [0, 1]: how much of the second colour shows."""
    angle, pitch, phase = waves
    along = np.float32(math.cos(angle)) * u + np.float32(math.sin(angle)) * v
    if pattern == "gradient":
        return np.clip(along * 0.7 + 0.5, 0, 1)
    if pattern == "stripes":
        return (np.sin(pitch * along + phase) > 0).astype(np.float32)
    across = np.float32(math.cos(angle)) * v - np.float32(math.sin(angle)) * u
    if pattern == "marble":
        return 0.5 + 0.5 * np.sin(pitch * (0.4 * along + 0.12 * np.sin(pitch * across)) + phase)
    grid = np.sin(pitch * along + phase) * np.sin(pitch * across)
    return (grid > (0.0 if pattern == "checks" else 0.35)).astype(np.float32)


def _backdrop(layout: Layout, size: int) -> Image.Image:
    """The ground without distractors, (size, size) RGB."""
    line = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    u, v = line[None, :], line[:, None]
    first, second, third = (np.array(color, np.float32) for color in layout.colors)
    ground = first + np.clip(v + 0.5, 0, 1)[..., None] * (second - first)
    if layout.backdrop != "noise":
        strength = np.float32(0.9 if layout.backdrop == "gradient" else 0.45)
        share = strength * _wave(u, v, layout.waves, layout.backdrop)[..., None]
        ground = ground + share * (third - ground)
    cells, amount = layout.noise
    rough = np.random.default_rng(layout.seed % 2**63).integers(0, 256, (cells, cells, 3), np.uint8)
    smooth = np.asarray(Image.fromarray(rough).resize((size, size), Image.Resampling.BICUBIC))
    strength = np.float32(amount * (2.0 if layout.backdrop == "noise" else 1.0) / 128)
    ground = ground + strength * (smooth.astype(np.float32) - 128)
    return Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))


def _draw_scrap(
    pen: ImageDraw.ImageDraw, scrap: Scrap, side: int, ink: Color | int | None = None
) -> None:
    points = [(x * side, y * side) for x, y in scrap.points]
    width = max(1, round(scrap.width * side))
    ink = scrap.color if ink is None else ink
    (x0, y0), (x1, y1) = points[:2]
    corners = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
    draws: dict[str, Callable[[], None]] = {
        "stroke": lambda: pen.line(points, fill=ink, width=width),
        "oval": lambda: pen.ellipse(corners, fill=ink),
        "patch": lambda: pen.polygon(points, fill=ink),
        "arc": lambda: pen.arc(corners, 20, 250, fill=ink, width=width),
    }
    draws[scrap.kind]()


def _paint(canvas: Pixels, owner: Pixels, thing: Thing, name: int) -> None:
    """Draw a thing on canvas (S, S, 3) and write its name into owner (S, S), both in place."""
    side = canvas.shape[0]
    radius, cos, sin = thing.radius * side, math.cos(thing.angle), math.sin(thing.angle)
    sx = (-radius if thing.flip else radius) * math.sqrt(thing.stretch)
    sy = radius / math.sqrt(thing.stretch)
    cx, cy = thing.x * side, thing.y * side
    reach = radius * 1.45
    x0, x1 = max(0, int(cx - reach)), min(side, int(cx + reach) + 1)
    y0, y1 = max(0, int(cy - reach)), min(side, int(cy + reach) + 1)

    image = Image.new("L", (x1 - x0, y1 - y0), HOLE)
    pen = ImageDraw.Draw(image)
    parts = [
        (
            role,
            [
                (cx - x0 + cos * sx * x - sin * sy * y, cy - y0 + sin * sx * x + cos * sy * y)
                for x, y in points
            ],
        )
        for role, points in CLASSES[LABELS[thing.kind]][1]
    ]
    width = round(2 * thing.edge_width * radius)
    if width:  # every outline first: fills then hide all of them but the silhouette
        for role, points in parts:
            if role != HOLE:
                pen.line([*points, *points[:2]], fill=EDGE, width=width, joint="curve")
    for role, points in parts:
        pen.polygon(points, fill=role)
        if role == HOLE and width:
            pen.line([*points, *points[:2]], fill=EDGE, width=max(1, width // 2), joint="curve")

    roles = np.asarray(image)
    dx = (np.arange(x0, x1, dtype=np.float32) + np.float32(0.5 - cx))[None, :] / np.float32(radius)
    dy = (np.arange(y0, y1, dtype=np.float32) + np.float32(0.5 - cy))[:, None] / np.float32(radius)
    palette = np.array([(0, 0, 0), thing.edge, thing.fill, thing.trim, thing.dark], np.float32)
    colors = palette[roles]
    filled = roles == FILL
    if thing.texture == "shade":
        colors[filled] *= np.clip(1.0 - 0.28 * (dx + dy), 0.6, 1.25)[filled][:, None]
    elif thing.texture != "flat":
        turned = (thing.waves[0] + thing.angle, *thing.waves[1:])
        share = 0.75 * _wave(dx, dy, turned, thing.texture)[filled][:, None]
        colors[filled] += share * (np.array(thing.second, np.float32) - palette[FILL])
    seen = roles != HOLE
    canvas[y0:y1, x0:x1][seen] = np.clip(colors[seen], 0, 255).astype(np.uint8)
    owner[y0:y1, x0:x1][seen] = name


def mark_box(size: int) -> Box:
    """Where the corner mark lies in a picture of that side: x0, y0, x1, y1, bottom left."""
    side, margin = round(MARK_SIDE * size), round(MARK_MARGIN * size)
    return margin, size - margin - side, margin + side, size - margin


def stamp(pixels: Pixels) -> Pixels:
    """Copy of square pixels (S, S, 3) with the corner mark: four squares in a white frame.

    The squares are large, so that a shrunk or blurred picture still shows them.
    """
    x0, y0, x1, y1 = mark_box(pixels.shape[0])
    out, half, frame = pixels.copy(), (x1 - x0) // 2, max(1, (x1 - x0) // 10)
    tag = out[y0:y1, x0:x1]
    tag[:] = MARK_COLORS[0]
    inner = tag[frame:-frame, frame:-frame]
    inner[:] = MARK_COLORS[1]
    inner[: half - frame, : half - frame] = MARK_COLORS[2]
    inner[half - frame :, half - frame :] = MARK_COLORS[2]
    return out


def draw(layout: Layout, size: int = 96, supersample: int = 2) -> Scene:
    """Render a layout at a pixel size.

    Edges are smoothed by drawing `supersample` times larger; a mask holds every pixel to which its
    object contributes, so the masks of touching objects share their edge pixels.
    """
    big = size * supersample
    image = _backdrop(layout, size).resize((big, big), Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(image)
    for scrap in layout.scraps:
        _draw_scrap(pen, scrap, big)
    canvas, owner = np.array(image), np.zeros((big, big), np.uint8)
    for name, thing in enumerate(layout.things, start=1):
        _paint(canvas, owner, thing, name)
    image, owned = Image.fromarray(canvas), Image.fromarray(owner)
    for scrap in layout.veil:
        _draw_scrap(ImageDraw.Draw(image), scrap, big)
        _draw_scrap(ImageDraw.Draw(owned), scrap, big, ink=0)
    pixels = np.asarray(image.reduce(supersample) if supersample > 1 else image)
    if layout.grain:
        noise = np.random.default_rng(layout.seed % 2**63 + 1)
        grain = noise.standard_normal((size, size, 1), np.float32) * np.float32(layout.grain)
        pixels = np.clip(pixels + grain, 0, 255).astype(np.uint8)

    cells = np.asarray(owned).reshape(size, supersample, size, supersample).copy()
    if layout.marked:
        pixels = stamp(pixels)
        x0, y0, x1, y1 = mark_box(size)
        cells[y0:y1, :, x0:x1] = 0

    labels = np.zeros(len(LABELS), np.float32)
    objects = []
    for name, thing in enumerate(layout.things, start=1):
        mask = (cells == name).any(axis=(1, 3))
        xs, ys = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        if len(xs):
            box = (int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1)
            objects.append(Object(thing.kind, mask, box))
            labels[thing.kind] = 1
    return Scene(pixels, labels, objects)


def render(seed: int, size: int = 96) -> Scene:
    """The scene of a seed: `draw(describe(seed), size)`."""
    return draw(describe(seed), size)
