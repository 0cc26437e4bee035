"""What stands in a picture's place where it is taken away: ways to fill in removed pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

Impute: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(C, H, W) and which pixels are removed, (H, W) bool → (C, H, W)."""

BLUR = 5.0
"""Standard deviation in pixels, at 224 pixels a side, of the blur that insertion starts from
(Petsiuk et al. 2018 take a kernel of 11 pixels and 5)."""

NEIGHBOURS = {
    **{(dy, dx): 1 / 6 for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0))},
    **{(dy, dx): 1 / 12 for dy, dx in ((1, 1), (1, -1), (-1, 1), (-1, -1))},
}
"""How much each neighbour counts in noisy linear imputation (Rong et al. 2022, Sec. 4.2)."""


def mean(x: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """The mean colour of the picture."""
    return np.where(removed, x.mean(axis=(1, 2), keepdims=True), x)


def blur(x: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """The picture blurred by a Gaussian, its edges repeated outwards."""
    return np.where(removed, blurred(x), x)


def blurred(x: np.ndarray, sigma: float | None = None) -> np.ndarray:
    """(C, H, W) through a Gaussian, as separable sums; by default as wide as `BLUR` asks for."""
    found = x.astype(np.float64)
    for axis in (1, 2):
        length = x.shape[axis]
        own = sigma or BLUR * length / 224
        reach = max(1, min(round(3 * own), length))
        steps = np.arange(-reach, reach + 1)
        kernel = np.exp(-(steps**2) / (2 * own**2))
        kernel /= kernel.sum()
        padded = np.pad(found, [(reach, reach) if a == axis else (0, 0) for a in range(3)], "edge")
        parts = (padded.take(range(i, i + length), axis) * k for i, k in enumerate(kernel))
        found = sum(parts, np.zeros_like(found))
    return found.astype(x.dtype)


def linear(
    x: np.ndarray,
    removed: np.ndarray,
    noise: float = 0.0,
    rng: np.random.Generator | None = None,
    tolerance: float = 1e-7,
) -> np.ndarray:
    """Noisy linear imputation: each removed pixel is the weighted mean of its eight neighbours.

    What the mask leaves to be seen of its own shape is little, which is the point of ROAD (Rong et
    al., A Consistent and Efficient Evaluation Strategy for Attribution Methods, ICML 2022,
    Sec. 4.2). The equations of all removed pixels hold together; they are symmetric and positive,
    and solved by conjugate gradients.

    Args:
        x: (C, H, W).
        removed: (H, W), bool. Where all is removed nothing is known: the mean colour is taken.
        noise: standard deviation of what is added, in units of `x`.
        rng: draws the noise.
        tolerance: of the largest residual, over the range of `x`.
    """
    if not removed.any():
        return x.copy()
    if removed.all():
        return mean(x, removed)
    known = np.where(removed, 0.0, x.astype(np.float64))
    inside = _summed(np.ones((1, *removed.shape)))  # less than 1 at the picture's edges
    right = np.where(removed, _summed(known), 0.0)

    def apply(v: np.ndarray) -> np.ndarray:
        return np.where(removed, inside * v - _summed(v), 0.0)

    v = np.where(removed, _grown(x, removed), 0.0)
    residual = right - apply(v)
    step, power = residual.copy(), (residual**2).sum()
    scale = max(float(np.ptp(x)), 1e-30)
    for _ in range(4 * sum(removed.shape)):
        if np.abs(residual).max() <= tolerance * scale:
            break
        turned = apply(step)
        length = power / max(float((step * turned).sum()), 1e-300)
        v += length * step
        residual -= length * turned
        before, power = power, (residual**2).sum()
        step = residual + power / before * step
    if noise and rng is not None:
        v += noise * rng.standard_normal(v.shape)
    return np.where(removed, v, x).astype(x.dtype)


def _summed(v: np.ndarray) -> np.ndarray:
    """The weighted sum of each pixel's neighbours, those outside of the picture left out."""
    height, width = v.shape[1:]
    padded = np.pad(v, [(0, 0), (1, 1), (1, 1)])
    parts = (
        weight * padded[:, 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
        for (dy, dx), weight in NEIGHBOURS.items()
    )
    return sum(parts, np.zeros_like(v))


def _grown(x: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """A first guess: means over ever larger squares, each from the least that knows anything."""
    known = np.where(removed, 0.0, x.astype(np.float64))
    counted = (~removed).astype(np.float64)[None]
    found, done = np.empty(x.shape), ~removed
    found[:] = x.astype(np.float64)[:, ~removed].mean(axis=1)[:, None, None]
    for reach in (1, 2, 4, 8, 16, 32):
        sums, counts = _boxed(known, reach), _boxed(counted, reach)
        new = (counts[0] > 0) & ~done
        found[:, new] = (sums / np.maximum(counts, 1))[:, new]
        done = done | new
    return found


def _boxed(v: np.ndarray, reach: int) -> np.ndarray:
    """Sums over squares of 2·reach + 1 pixels a side."""
    for axis in (1, 2):
        length = v.shape[axis]
        low = np.clip(np.arange(length) - reach, 0, length)
        high = np.clip(np.arange(length) + reach + 1, 0, length)
        sums = np.cumsum(np.pad(v, [(1, 0) if a == axis else (0, 0) for a in range(3)]), axis)
        v = sums.take(high, axis) - sums.take(low, axis)
    return v


IMPUTATIONS: Mapping[str, Impute] = {"mean": mean, "blur": blur, "linear": linear}
