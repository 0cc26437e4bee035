"""Altered pictures that the model is asked about: what metrics of faithfulness are made of."""

from __future__ import annotations

import re

import numpy as np

from onnxcam.errors import OptionError
from onnxcam.evaluate.trial import BLACK, Altered, Trial

ROAD_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)
"""Shares removed in ROAD, as the figures of Rong et al. 2022 have them."""
SUBSETS = 32
"""Random subsets that sensitivity-n correlates over."""
CELLS = 14
"""Subsets are drawn of a grid of so many cells a side: single pixels hardly move a score."""


def probe(name: str, steps: int) -> Altered:
    """The probe of that name.

    Args:
        name: "kept-20" (the hottest 20 % kept, the rest black), "soft" (L∘I), "insertion-HOW",
            "deletion-HOW", "most-HOW", "least-HOW" (most or least relevant removed first, HOW an
            imputation) or "subsets".
        steps: of insertion and deletion.

    Raises:
        OptionError: there is no such probe.
    """
    found = re.fullmatch(r"(kept|insertion|deletion|most|least)-([\w-]+)|soft|subsets", name)
    if found is None:
        raise OptionError(f"there is no way {name!r} to alter a picture")
    kind, how = found[1], found[2]
    if kind == "kept":
        return lambda t: _filled(t, ~t.hottest(int(how) / 100), BLACK)[None]
    if name == "soft":
        return lambda t: (t.view.black + t.heat * (t.view.x - t.view.black))[None]
    if name == "subsets":
        return lambda t: np.stack([_filled(t, cells, BLACK) for cells in subsets(t)])
    if kind in ("most", "least"):
        pick = Trial.hottest if kind == "most" else Trial.coolest
        return lambda t: np.stack([_filled(t, pick(t, share), how) for share in ROAD_SHARES])
    return lambda t: _stepwise(t, how, steps, kind == "insertion")


def subsets(trial: Trial) -> np.ndarray:
    """Random sets of pixels, (SUBSETS, H, W), bool: half of the cells of a grid each."""
    height, width = trial.heat.shape
    rows, columns = min(CELLS, height), min(CELLS, width)
    draws = trial.view.rng().random((SUBSETS, rows * columns))
    chosen = draws.argsort(axis=1).argsort(axis=1) < rows * columns // 2
    y, x = np.arange(height) * rows // height, np.arange(width) * columns // width
    return np.asarray(chosen.reshape(SUBSETS, rows, columns)[:, y][:, :, x])


def _filled(trial: Trial, removed: np.ndarray, how: str) -> np.ndarray:
    return trial.view.imputations[how](trial.view.x, removed)


def _stepwise(trial: Trial, how: str, steps: int, insertion: bool) -> np.ndarray:
    """(steps + 1, C, H, W): ever more of the hottest pixels put in, or taken away.

    One imputation of all pixels is the other picture where it does not depend on which are known.
    """
    x, shares = trial.view.x, np.arange(steps + 1) / steps
    if how.endswith("linear"):
        removed = [trial.hottest(share) ^ insertion for share in shares]
        return np.stack([_filled(trial, one, how) for one in removed])
    away = _filled(trial, np.ones(trial.heat.shape, bool), how)
    first, then = (away, x) if insertion else (x, away)
    return np.stack([np.where(trial.hottest(share), then, first) for share in shares])
