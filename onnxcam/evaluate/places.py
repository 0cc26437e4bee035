"""Metrics of localisation: whether the heat lies on the object, where that is known."""

from __future__ import annotations

from typing import Any

import numpy as np

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


PLACES: list[dict[str, Any]] = [
    {
        "name": "pointing", "title": "Pointing game", "better": "more", "unit": "%",
        "measure": _pointing, "formula": "100 · [the hottest pixel lies on the object, or within "
        "15 pixels of it]", "source": "Zhang et al., Top-down Neural Attention, IJCV 2018, Sec. 4",
    },
    {
        "name": "energy", "title": "Energy-based pointing game", "better": "more", "unit": "%",
        "measure": _energy, "formula": "100 · heat on the object / all heat",
        "source": "Wang et al., Score-CAM, CVPR-W 2020, Sec. 4.3",
    },
    *(
        {
            "name": f"iou-{share}", "title": f"IoU of what is hotter than {share} %",
            "better": "more", "measure": lambda trial, t=share / 100: _overlap(trial, t),
            "formula": f"of the object with the pixels whose heat is at least {share} % of the "
            "largest", "source": "Chattopadhay et al., Grad-CAM++, WACV 2018, Sec. 5.3",
        }
        for share in (25, 50)
    ),
]  # fmt: skip
