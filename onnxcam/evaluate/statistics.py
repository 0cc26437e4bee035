"""What a mean over pictures is worth: bootstrap intervals, paired tests, wins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
SHARE = 0.95
ALPHA = 0.05
"""A difference whose p is below is taken to be one."""
MOST_AT_ONCE = 1_000_000
"""Values drawn at once: what a resampling holds in memory."""
EXACT = 13
"""Up to so many differences every pattern of signs is tried; beyond it RESAMPLES·5 random ones."""


@dataclass(frozen=True)
class Mean:
    """A mean with its interval.

    Attributes:
        mean, low, high: the mean and the ends of its 95 % bootstrap interval.
        count: of how many values.
    """

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Paired:
    """Two methods on the same pictures.

    Attributes:
        difference, low, high: mean of a − b, and its 95 % bootstrap interval.
        p: of the two-sided sign-flip permutation test that it is 0.
        count: pictures that both have a value for.
        wins, ties, losses: of the first: pictures where its value is the better one, and so on.
    """

    difference: float
    low: float
    high: float
    p: float
    count: int
    wins: int
    ties: int
    losses: int


def mean_of(values: np.ndarray, seed: int = 0) -> Mean | None:
    """The mean with its percentile bootstrap interval (Efron & Tibshirani 1993, Ch. 13).

    Args:
        values: (N,); NaN stands for a picture without a value and is left out.
        seed: of the resampling.

    Returns:
        None where no value is left.
    """
    held = values[~np.isnan(values)]
    if not len(held):
        return None
    low, high = _interval(held, seed)
    return Mean(float(held.mean()), low, high, len(held))


def paired(a: np.ndarray, b: np.ndarray, better: str, seed: int = 0) -> Paired | None:
    """Two columns of values of the same pictures, compared picture by picture.

    The test flips the signs of the differences at random (Good 2005, Ch. 3): exact where there are
    few. Equal values are ties; the papers' "Win %" counts wins alone, and so do we, which makes
    wins, ties and losses of a pair add up to all pictures.

    Args:
        a, b: (N,) each; pictures where either is NaN are left out.
        better: "less" or "more".
        seed: of all that is drawn.
    """
    both = ~(np.isnan(a) | np.isnan(b))
    if not both.any():
        return None
    gain = (a - b)[both]
    low, high = _interval(gain, seed)
    good = gain < 0 if better == "less" else gain > 0
    ties = int((gain == 0).sum())
    return Paired(
        float(gain.mean()), low, high, _flipped(gain, seed), len(gain),
        int(good.sum()), ties, len(gain) - ties - int(good.sum()),
    )  # fmt: skip


def holm(ps: Sequence[float]) -> list[float]:
    """p-values corrected for the number of tests (Holm, Scand. J. Statist. 6, 1979).

    Args:
        ps: of the tests of one family, in any order.

    Returns:
        The corrected ones, in the same order: one below α keeps the chance of any false finding in
        the family below α.
    """
    adjusted, least = [1.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        least = max(least, min(1.0, (len(ps) - rank) * ps[place]))
        adjusted[place] = least
    return adjusted


def _interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    count, means = len(values), np.empty(RESAMPLES)
    rows = max(1, MOST_AT_ONCE // count)
    for i in range(0, RESAMPLES, rows):
        drawn = values[rng.integers(0, count, (min(rows, RESAMPLES - i), count))]
        means[i : i + rows] = drawn.mean(axis=1)
    low, high = np.quantile(means, ((1 - SHARE) / 2, (1 + SHARE) / 2))
    return float(low), float(high)


def _flipped(gain: np.ndarray, seed: int) -> float:
    """The share of sign patterns whose mean lies as far from 0; of drawn ones, the seen counts."""
    moved = gain[gain != 0]  # a difference of 0 has no sign to flip
    if not len(moved):
        return 1.0
    seen = abs(moved.sum()) * (1 - 1e-12)
    if len(moved) <= EXACT:
        bits = np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved)) & 1
        return float((np.abs((1 - 2 * bits) @ moved) >= seen).mean())
    rng = np.random.default_rng(seed)
    signs = rng.integers(0, 2, (5 * RESAMPLES, len(moved)), dtype=np.int8) * 2 - 1
    return float(((np.abs(signs @ moved) >= seen).sum() + 1) / (5 * RESAMPLES + 1))
