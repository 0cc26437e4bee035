"""Versions of image and feature map, (B, N, …), one for each item of a block."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.graph.emit import Emitter
from onnxcam.graph.feature import FeatureMap
from onnxcam.graph.normal import Image
from onnxcam.perturb.items import enlarging
from onnxcam.perturb.scaling import min_max, resized

T: TypeAlias = gs.Tensor


def background(e: Emitter, image: T, info: Image, fill: str) -> T:
    """What muted pixels become, broadcastable to `image` in float32: zero, or its mean colour."""
    if fill == "zero":
        return e.tensor(np.zeros(1, np.float32))
    axes = [2, 3] if info.layout == "NCHW" else [1, 2]
    return e.axes("ReduceMean", e.cast(image, np.float32), axes, keepdims=1)


def seen_through(e: Emitter, image: T, info: Image, masks: T, ground: T | None = None) -> T:
    """The image where a mask is 1 and `ground` (default zero) where it is 0, mixed between.

    Args:
        e: the emitter.
        image: (N, …) as the model takes it.
        info: its layout.
        masks: (B, 1 or N, H, W).
        ground: as `background` gives it.

    Returns:
        (B, N, …), in the type of the image.
    """
    channel = 2 if info.layout == "NCHW" else 4
    wide, real = e.axes("Unsqueeze", masks, [channel]), e.cast(image, np.float32)
    if ground is not None:
        return taken(e, e.Add(e.Mul(e.Sub(real, ground), wide), ground), info)
    return taken(e, e.Mul(real, wide), info)


def taken(e: Emitter, x: T, info: Image) -> T:
    """Images in float32 in the type that the model takes: of integers the nearest that there is."""
    if info.dtype.kind != "f":
        limits = np.iinfo(info.dtype)
        x = e.Clip(e.Round(x), float(limits.min), float(limits.max))
    return e.cast(x, info.dtype)


def windows(e: Emitter, packed: T, size: tuple[int, int]) -> T:
    """Masks (B, H, W) that are 0 in a window and 1 elsewhere, from `items.windows`."""
    rows = e.axes("Unsqueeze", e.Slice(packed, [0], [size[0]], [1]), [2])
    columns = e.axes("Unsqueeze", e.Slice(packed, [size[0]], [sum(size)], [1]), [1])
    return e.Sub(e.tensor(1.0, packed.dtype), e.Mul(rows, columns))


def random_masks(e: Emitter, packed: T, size: tuple[int, int], cells: int) -> T:
    """RISE's masks (B, H, W) from `items.random_masks`."""
    area = cells * cells
    grid = e.Reshape(e.Slice(packed, [0], [area], [1]), [-1, cells, cells])
    sides = []
    for axis, length in enumerate(size):
        offset = e.cast(e.Slice(packed, [area + axis], [area + axis + 1], [1]), np.int64)
        line = e.Add(offset, np.arange(length)[None])  # (B, length)
        sides.append(e.Gather(enlarging(cells, length), line, axis=0))  # (B, length, cells)
    return e.MatMul(e.MatMul(sides[0], grid), e.Transpose(sides[1], perm=[0, 2, 1]))


def unit_masks(e: Emitter, feature: T, units: T, size: tuple[int, int]) -> T:
    """Each unit brought to the image's size and to 0 … 1, 0 if constant: (B, N, H, W).

    The shape of `feature`, (N, K, h, w), is noted.
    """
    chosen = e.Transpose(e.Gather(feature, units, axis=1), perm=[1, 0, 2, 3])
    # In this order: it is the extremes of the large one that count.
    return min_max(e, resized(e, chosen, feature.shape[2:], size), [2, 3])


def placed(e: Emitter, feature: T, layer: FeatureMap, places: T, kernel: str) -> T:
    """The feature map with all but one place of its grid cleared: (B, N, …), in its own layout.

    `kernel`: "single", or "gaussian" for a 3 × 3 Gaussian around the place (Recipro-CAM).
    """
    h, w = layer.grid
    y, x = np.divmod(np.arange(h * w), w)
    away = (np.abs(y[:, None] - y[None]), np.abs(x[:, None] - x[None]))
    near = np.array([1, 0, 0] if kernel == "single" else [0.5, 0.25, 0], np.float32)
    table = near[np.minimum(away[0], 2)] * near[np.minimum(away[1], 2)]
    if kernel == "single":
        table = np.eye(h * w, dtype=np.float32)
    if layer.layout == "NTC":
        prefix = np.ones((h * w, layer.prefix), np.float32)  # class tokens stay
        table = np.concatenate([prefix, table], axis=1)
        shape = [-1, 1, layer.prefix + h * w, 1]
    else:
        shape = [-1, 1, 1, h, w] if layer.layout == "NCHW" else [-1, 1, h, w, 1]
    masks = e.Reshape(e.Gather(table.astype(feature.dtype), places, axis=0), shape)
    return e.Mul(e.axes("Unsqueeze", feature, [0]), masks)


def along_path(e: Emitter, image: T, ground: T, shares: T) -> T:
    """ground + share · (image − ground) for every share (B,): (B, N, …)."""
    column = e.Reshape(shares, [-1, 1, 1, 1, 1])
    return e.Add(e.Mul(e.Sub(image, ground), column), ground)


def noisy(e: Emitter, image: T, draws: T, level: float) -> T:
    """image + level · (its range of values) · draws (B, …): (B, N, …)."""
    axes = [1, 2, 3]
    top = e.axes("ReduceMax", image, axes, keepdims=1)
    spread = e.Sub(top, e.axes("ReduceMin", image, axes, keepdims=1))
    return e.Add(e.Mul(e.axes("Unsqueeze", draws, [1]), e.Mul(spread, level)), image)
