"""Metrics of localisation: whether the heat lies on the object, where that is known."""

from __future__ import annotations

import numpy as np

from onnxcam.evaluate.metric import Metric
from onnxcam.evaluate.trial import Trial

TOLERANCE = 15
"""Pixels of the stored picture by which a maximum may miss the object (Zhang et al. 2018)."""


def _pointing(trial: Trial) -> float | None:
    """Whether the hottest pixel lies on the object or within the tolerance of it."""
    thing, heat = trial.object, trial.shown
    if thing is None:
        return None
    if not heat.any():
        return 0.0
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    rows, columns = np.nonzero(thing)
    return 100.0 * bool((((rows - y) ** 2 + (columns - x) ** 2) <= TOLERANCE**2).any())


def _energy(trial: Trial) -> float | None:
    thing, heat = trial.object, trial.shown.astype(np.float64)
    if thing is None:
        return None
    return 100.0 * float(heat[thing].sum() / heat.sum()) if heat.any() else 0.0


def _overlap(trial: Trial, threshold: float) -> float | None:
    """Intersection over union of the object with what is at least so hot."""
    thing, hot = trial.object, trial.shown >= threshold
    if thing is None:
        return None
    return float((thing & hot).sum() / (thing | hot).sum())


def _overlaps(share: int) -> Metric:
    return Metric(
        f"iou-{share}", f"IoU of what is hotter than {share} %", "more",
        lambda trial: _overlap(trial, share / 100),
        f"of the object with the pixels whose heat is at least {share} % of the largest",
        "Chattopadhay et al., Grad-CAM++, WACV 2018, Sec. 5.3", needs="object",
    )  # fmt: skip


PLACES = (
    Metric(
        "pointing", "Pointing game", "more", _pointing,
        "100 · [the hottest pixel lies on the object, or within 15 pixels of it]",
        "Zhang et al., Top-down Neural Attention, IJCV 2018, Sec. 4", unit="%", needs="object",
    ),
    Metric(
        "energy", "Energy-based pointing game", "more", _energy,
        "100 · heat on the object / all heat", "Wang et al., Score-CAM, CVPR-W 2020, Sec. 4.3",
        unit="%", needs="object",
    ),
    _overlaps(25),
    _overlaps(50),
)  # fmt: skip
