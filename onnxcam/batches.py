"""What goes into an explainer and what comes out, looked at: shapes, finite numbers, views."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from onnxcam.errors import ModelError, RuntimeFailure
from onnxcam.explainer import Recipe
from onnxcam.graph import Image
from onnxcam.graph.score import Score

FACTORS = (0.9, 1.0, 1.1)
"""Contrasts of the views that test-time augmentation averages over."""


def fitting(image: Image, images: Any) -> np.ndarray:
    """`images` as a batch that the model takes, (N, …).

    Raises:
        ModelError: their shape or type is not the model's.
    """
    try:
        batch = np.asarray(images)
    except ValueError:
        raise ModelError(
            f"the model takes images of shape {image.shape()}, and rows of different lengths "
            "were given"
        ) from None
    if batch.ndim == 3:
        batch = batch[None]
    expected = [n for n in image.shape()][1:]
    free = {1, 2} if image.layout == "NHWC" else {2, 3}
    fits = (
        batch.ndim == 4
        and len(batch) > 0
        and all(
            got == want or (image.free and axis in free and got > 0)
            for axis, (got, want) in enumerate(zip(batch.shape[1:], expected, strict=False), 1)
        )
    )
    if not fits:
        shown = [str(n) for n in expected]
        if image.free:
            shown = [
                {1: "H", 2: "W"}.get(i - min(free) + 1, n) if i in free else n
                for i, n in enumerate(shown, 1)
            ]
        raise ModelError(
            f"the model takes images of shape (N, {', '.join(shown)}) "
            f"[{image.layout}, {image.dtype}], not {np.shape(images)}; "
            "explain(picture) reads and fits any picture"
        )
    if batch.dtype != image.dtype:
        floats = np.issubdtype(batch.dtype, np.floating) and np.issubdtype(image.dtype, np.floating)
        if not floats and not np.can_cast(batch.dtype, image.dtype):
            raise ModelError(f"the model takes {image.dtype} images, not {batch.dtype}")
        batch = batch.astype(image.dtype)
    return np.ascontiguousarray(batch)


def size_of(images: np.ndarray, layout: str) -> tuple[int, int]:
    """Height and width of a batch."""
    h, w = images.shape[2:4] if layout == "NCHW" else images.shape[1:3]
    return int(h), int(w)


def as_probabilities(out: np.ndarray, score: Score, classes: int) -> np.ndarray:
    """Class probabilities (N, classes) from what the model gives."""
    if score.activation == "log-softmax":
        return np.asarray(np.exp(out))
    return out if score.probability is not None else of_logits(out, classes == 1)


def of_logits(logits: np.ndarray, each: bool) -> np.ndarray:
    """Class probabilities (N, classes): a sigmoid of `each` logit, or a softmax over all."""
    if each:
        return np.asarray(1 / (1 + np.exp(-logits.clip(-500, 500))))
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def check_finite(what: Recipe, scores: np.ndarray, raw: np.ndarray) -> None:
    """Refuses NaN and infinity.

    Raises:
        RuntimeFailure: there are some; the message says where they come from.
    """
    if not np.isfinite(scores).all():
        raise RuntimeFailure(
            "the model gives NaN or infinity as a score for this image; check the "
            "preprocessing ('onnxcam inspect --image' shows what each preset would predict)"
        )
    if not np.isfinite(raw).all():
        reason = "what the method works on is NaN or infinite for this image"
        if "drop" in what.needed:
            reason = "the scores of switched-off units are NaN or infinite"
        raise RuntimeFailure(f"{reason}, so there is no map; another --layer or --method may do")


def notes_on(
    what: Recipe,
    scores: np.ndarray,
    negated: np.ndarray,
    gap: np.ndarray | None,
    shown: np.ndarray,
    one_unit: bool = False,
) -> list[str]:
    """What the user should know of the numbers, in sentences.

    Args:
        what: what was computed.
        scores: the scores explained, (N, M).
        negated: which of them are of negative decisions.
        gap: by how much attributions miss them.
        shown: the maps.
        one_unit: whether the model's head is a single unit, a yes or no.
    """
    notes = [what.layer.note] if what.layer is not None and what.layer.note else []
    maps = shown.reshape(-1, shown.shape[-2] * shown.shape[-1])
    empty = int((maps == 0).all(axis=1).sum())
    if empty:
        which = "the map" if len(maps) == 1 else f"{empty} of {len(maps)} maps"
        verb = "is" if empty == 1 else "are"
        notes.append(f"{which} of {what.method.title} {verb} zero everywhere")
        if what.score == "probability":
            notes[-1] += "; a saturated probability has no gradient, the logit before it has one"
    if gap is not None:
        worst = float(np.abs(gap).max())
        notes.append(f"completeness gap: the attributions miss the score by {worst:.3g} at most")
    if what.needed == {"feature"} and negated.any():
        notes.append(
            f"{what.method.title} asks about no class: the map is the same for any decision"
        )
    middle = 0.5 if what.score == "probability" else 0.0
    unasked = one_unit and not negated.any()
    for value in np.unique(scores[scores < middle]) if unasked else ():
        notes.append(
            f"the {what.score} {value:.4g} is below {middle:g}: the model says no; target not:0 "
            "explains that decision"
        )
    settings = dict(what.settings)
    if "drop" not in what.needed or settings.get("weight") == "slope":
        return notes
    for value in np.unique(scores[scores < 1e-30]):
        if abs(value) < 1e-30:
            notes.append("a score is 0: its weights are the drops themselves, not divided by it")
        else:
            notes.append(
                f"the score {value:.4g} is negative: dividing by it turns the signs of the "
                "weights around, as the paper's formula says (weight=slope does not divide)"
            )
    return notes


def views(images: np.ndarray, layout: str) -> Iterator[tuple[np.ndarray, bool]]:
    """The batch mirrored or not, in three contrasts, and whether it is mirrored.

    The six views of pytorch-grad-cam's `aug_smooth`; the first one is the batch itself.
    """
    width = 3 if layout == "NCHW" else 2
    factors = sorted(FACTORS, key=lambda f: f != 1)
    for mirrored in (False, True):
        turned = np.flip(images, width) if mirrored else images
        for factor in factors:
            scaled = turned if factor == 1 else turned * factor
            if images.dtype.kind != "f":
                limits = np.iinfo(images.dtype)
                scaled = np.clip(np.rint(scaled), limits.min, limits.max)
            yield np.ascontiguousarray(scaled.astype(images.dtype)), mirrored
