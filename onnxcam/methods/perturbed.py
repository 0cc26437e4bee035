"""Maps from the scores of changed inputs: no gradient, the model is run again and again."""

from __future__ import annotations

from onnxcam.graph.emit import Emitter
from onnxcam.methods.parts import weighted
from onnxcam.methods.table import Needs, Number, Result, method
from onnxcam.perturb.scaling import min_max

FILLS = ("zero", "mean")
"""What muted pixels become: 0 in the values that the model takes, or the image's mean colour."""


@method("score-cam", "Score-CAM", needs=("masked",), smooths=True)
def score_cam(e: Emitter, needs: Needs) -> Result:
    """Weights each unit by the score of the image seen through the unit's own map.

    Wang et al., Score-CAM, CVPR workshop 2020: w = softmax over k of y(x ⊙ M_k), M_k being unit k
    brought to the image's size (bilinear, pixel centres aligned) and to 0 … 1; all zero for a
    constant unit. A baseline score would cancel in the softmax. One run of the model for each unit.
    """
    assert needs.masked is not None
    return weighted(e, needs, e.Softmax(needs.masked, axis=2))


@method("recipro-cam", "Recipro-CAM", needs=("placed",), options={"kernel": ("gaussian", "single")})
def recipro_cam(e: Emitter, needs: Needs, kernel: str = "gaussian") -> Result:
    """Scores the feature map with all but one place cleared, place after place.

    Byun & Lee, Recipro-CAM, CVPR workshop 2024: the map at (i, j) is the score of A ⊙ M^ij, brought
    to 0 … 1 over the places. Class and register tokens of a transformer stay. One run of the head
    for each place.

    * `kernel="gaussian"`: M^ij is a 3 × 3 Gaussian around (i, j) (¼, ⅛, 1/16).
    * `kernel="single"`: it is 1 at (i, j) alone.
    """
    assert needs.placed is not None and needs.feature is not None
    raw = e.Reshape(needs.placed, [0, 0, *needs.feature.shape[2:]])
    return Result(raw, map=min_max(e, raw, [2, 3]))


@method(
    "occlusion",
    "Occlusion",
    needs=("occluded", "coverage"),
    options={
        "window": Number(0.15, 0.001, 1),
        "stride": Number(0.05, 0.001, 1),
        "muted": FILLS,
    },
    pixels=True,
)
def occlusion(
    e: Emitter, needs: Needs, window: float = 0.15, stride: float = 0.05, muted: str = "zero"
) -> Result:
    """Mutes one window of pixels after the other and shows what the score loses.

    Zeiler & Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014, section 4.2.
    Every pixel gets the mean of y − y(without window) over the windows that cover it, and 0 where
    none does; the map is the positive part. One run of the model for each window.

    * `window`, `stride`: side of the window and step, as shares of the image's sides.
    * `muted`: what muted pixels become: 0 in the values that the model takes, or the mean colour.
    """
    assert needs.occluded is not None
    rows, columns = needs.coverage
    grid = e.Reshape(needs.occluded, [0, 0, len(rows), len(columns)])
    spread = e.MatMul(e.MatMul(rows.T.copy(), grid), columns)
    covered = rows.sum(0)[:, None] * columns.sum(0)[None]
    return Result(e.Div(spread, covered.clip(1).astype("float32")))


@method(
    "rise",
    "RISE",
    needs=("sampled",),
    options={
        "masks": Number(4000, 1, whole=True),
        "cells": Number(7, 1, 64, whole=True),
        "keep": Number(0.5, 0.01, 0.99),
        "seed": Number(0, 0, whole=True),
        "muted": FILLS,
    },
    pixels=True,
)
def rise(
    e: Emitter, needs: Needs, masks: int = 4000, cells: int = 7, keep: float = 0.5, seed: int = 0,
    muted: str = "zero",
) -> Result:  # fmt: skip
    """Averages random masks, each weighted by the score of the image seen through it.

    Petsiuk et al., RISE, BMVC 2018, Eq. 6: (1 / (E[M] · masks)) Σ_i y(x ⊙ M_i) M_i. A mask is a
    grid of `cells` × `cells`, each kept with probability `keep`, enlarged bilinearly and shifted at
    random. The paper weighs by probabilities: take score="probability" where the model has them.
    One run of the model for each mask.

    * `masks`, `seed`: how many, and which ones; the paper takes 4000 to 8000.
    * `muted`: what muted pixels become, as for Occlusion.
    """
    assert needs.sampled is not None
    raw = e.Mul(needs.sampled, 1 / (masks * keep))
    return Result(raw, map=min_max(e, raw, [2, 3]))
