"""Metrics of localisation: whether the heat lies on the object, where that is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxcam.evaluate.boxes import levels
from onnxcam.evaluate.metric import Measure, Metric
from onnxcam.evaluate.trial import Trial

WSOL = (
    "Choe et al., Evaluating Weakly Supervised Object Localization Methods Right, CVPR 2020, Sec."
)
TWO_CLASSES = "in place of people's answers in Selvaraju et al., Grad-CAM, ICCV 2017, Sec. 5.1"
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


V1, V2 = (0.5,), (0.3, 0.5, 0.7)
"""Limits of the IoU: of MaxBoxAcc, and of MaxBoxAccV2."""


def _box_accuracy(which: int, limits: Sequence[float]) -> Measure:
    def measure(trial: Trial) -> str | None:
        return None if trial.fits is None else levels(trial.fits[which], limits)

    return measure


LEAST = 0.1
"""Share of its own pixels that an object must have for itself to be told from another."""


def _apart(trial: Trial) -> tuple[np.ndarray, np.ndarray] | None:
    """The heat on the class's objects and on those of others, pixels of both left out."""
    own, others = trial.object, trial.others
    if own is None or others is None:
        return None
    both = own & others
    if both.sum() > (1 - LEAST) * min(own.sum(), others.sum()):
        return None
    heat = trial.shown.astype(np.float64)
    return heat[own & ~both], heat[others & ~both]


def _share_of_own(trial: Trial) -> float | None:
    heats = _apart(trial)
    if heats is None:
        return None
    own, others = (heat.sum() for heat in heats)
    return float(100 * own / (own + others)) if own else 0.0


def _stays_on_own(trial: Trial) -> float | None:
    heats = _apart(trial)
    return None if heats is None else 100.0 * bool(heats[0].mean() > heats[1].mean())


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
    Metric(
        "maxboxacc-v1", "MaxBoxAcc", "more", _box_accuracy(0, V1),
        "100 · [IoU ≥ 0.5] of an object's box with the box around the largest connected part of "
        "what is hotter than τ; the τ that is best for all pictures", WSOL + " 4.1", unit="%",
        needs="object", limits=len(V1),
    ),
    Metric(
        "maxboxacc-v2", "MaxBoxAccV2", "more", _box_accuracy(1, V2),
        "mean over δ = 0.3, 0.5, 0.7 of 100 · [IoU ≥ δ] of an object's box with the box around any "
        "connected part of what is hotter than τ; for each δ the τ that is best for all pictures",
        "Choe et al., Evaluation for WSOL, TPAMI 2022", unit="%", needs="object", limits=len(V2),
    ),
    Metric(
        "discrimination-share", "Class discrimination, share of heat", "more", _share_of_own,
        "100 · heat on the class's objects / heat on these and on objects of other classes; pixels "
        "of both left out", TWO_CLASSES, unit="%", needs="others",
    ),
    Metric(
        "discrimination-mean", "Class discrimination, hotter on own", "more", _stays_on_own,
        "100 · [mean heat on the class's objects > mean heat on objects of other classes]; pixels "
        "of both left out", TWO_CLASSES, unit="%", needs="others",
    ),
)  # fmt: skip
