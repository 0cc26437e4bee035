"""The saturation study: what the metrics are where the model is more or less sure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from onnxcam.evaluate.study import settled, summary, tests

LIMITS = (0.0, 0.5, 0.9, 0.99, 1.0)
"""Probabilities between which bands lie; each band holds its lower limit, the last one 1, too."""
FEW = 10
"""Bands with fewer pictures are marked: of 5 pictures no test finds p < 0.05."""


def bands(
    rows: Sequence[Mapping[str, Any]], methods: Sequence[str], metrics: Sequence[str], seed: int
) -> list[dict[str, Any]]:
    """Means, intervals and paired tests of the pictures in each band of confidence.

    Where the probability nears 1 its gradient nears 0, and methods that weigh by gradients are said
    to fail there (Desai & Ramaswamy, Ablation-CAM, WACV 2020). Thresholds of metrics that
    have one are chosen over all rows, not anew in each band.

    Args:
        rows: of one model; a row's `probability` is that of the class which is explained.
        methods, metrics: names.
        seed: of resampling and tests.

    Returns:
        For each band that holds pictures, from the lowest: `low` and `high`, how many `pictures`,
        whether these are `few`, and its `summary` and `tests` as those of `study`. Nothing where
        there are not two such bands.
    """
    held = [row for row in settled(rows) if row["probability"] is not None]
    places = np.digitize([row["probability"] for row in held], LIMITS[1:-1])
    found = []
    for band, (low, high) in enumerate(pairwise(LIMITS)):
        own = [row for row, place in zip(held, places, strict=True) if place == band]
        if own:
            found.append({
                "low": low, "high": high, "pictures": len(own), "few": len(own) < FEW,
                "summary": summary(own, methods, metrics, seed),
                "tests": tests(own, methods, metrics, seed),
            })  # fmt: skip
    return found if len(found) > 1 else []
