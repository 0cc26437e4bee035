"""Ablation-CAM: the weight of a unit is what the score loses without it."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxcam.graph.emit import Emitter
from onnxcam.methods.parts import over, weighted
from onnxcam.methods.table import Needs, Result, method

_NO_SCORE = 1e-30
"""Scores nearer to zero than this do not divide: the weights are then the drops themselves."""


@method(
    "ablation-cam",
    "Ablation-CAM",
    needs=("drop",),
    options={"weight": ("drop", "slope", "blank-baseline")},
    extra={("weight", "blank-baseline"): "blank"},
    smooths=True,
)
def ablation_cam(e: Emitter, needs: Needs, weight: str = "drop") -> Result:
    """Weights each unit by what the class score loses when the unit is switched off.

    Desai & Ramaswamy, Ablation-CAM, WACV 2020. y is the class score, y_k the score with every
    value of unit k set to zero; the map is ReLU(Σ_k w_k A_k) (Eq. 4).

    * `weight="drop"` (Eq. 3): w_k = (y − y_k) / y. For a negative score the sign flips, as the
      formula says, so that y and −y have one map; where |y| < 1e-30 the drop is not divided.
    * `weight="slope"` (Eq. 2): w_k = (y − y_k) / ‖A_k‖, 0 for a unit that is zero everywhere.
    * `weight="blank-baseline"`: the drop times 1 − min(1, ‖A⁰_k‖ / ‖A_k‖), A⁰ being the feature map
      of an all-zero image. An approximation of ours, not of the paper: a unit that is as active
      on a blank image says little about this one. It costs one more run of the features.
    """
    assert needs.drop is not None and needs.feature is not None
    weights = needs.drop
    if weight == "slope":
        weights = over(e, weights, e.axes("Unsqueeze", _norm(e, needs.feature), [1]))
    else:
        score = e.axes("Unsqueeze", needs.score, [2])
        tiny = e.Less(e.Abs(score), e.tensor(_NO_SCORE, score.dtype))
        weights = e.Div(weights, e.Where(tiny, e.tensor(1.0, score.dtype), score))
    if weight == "blank-baseline":
        assert needs.blank is not None
        ratio = over(e, _norm(e, needs.blank), _norm(e, needs.feature))
        keep = e.Sub(e.tensor(1.0, ratio.dtype), e.Min(ratio, e.tensor(1.0, ratio.dtype)))
        weights = e.Mul(weights, e.axes("Unsqueeze", keep, [1]))
    return weighted(e, needs, weights)


def _norm(e: Emitter, feature: gs.Tensor) -> gs.Tensor:
    """‖A_k‖ over the grid: (N, K, h, w) → (N, K)."""
    return e.Sqrt(e.axes("ReduceSum", e.Mul(feature, feature), [2, 3], keepdims=0))
