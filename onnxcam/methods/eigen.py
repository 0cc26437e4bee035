"""Maps by principal components of the feature map."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxcam.graph.emit import Emitter
from onnxcam.methods.parts import principal
from onnxcam.methods.table import Needs, Result, method


@method("eigen-cam", "Eigen-CAM", needs=("feature",), options={"centre": ("no", "yes")})
def eigen_cam(e: Emitter, needs: Needs, centre: str = "no") -> Result:
    """Projects the feature map on its first principal component; no class is asked about.

    Muhammad & Yeasin, Eigen-CAM, IJCNN 2020: A = U Σ Vᵀ over positions × units, the map is A v₁.

    * `centre="no"`, the paper's; its sign is the one with which the map's sum is not negative.
    * `centre="yes"`: each unit's mean is subtracted first; the sign goes along with Σ_k A_k.
    """
    feature = needs.feature
    assert feature is not None
    tall = e.axes("Unsqueeze", feature, [1])
    along = e.axes("ReduceSum", tall, [2], keepdims=0) if centre == "yes" else None
    raw = principal(e, tall, feature.shape[1:], centre == "yes", along)
    return Result(_for_each_class(e, raw, needs))


@method(
    "eigengrad-cam", "EigenGrad-CAM", needs=("gradient",), options={"centre": ("no", "yes")}
)  # fmt: skip
def eigengrad_cam(e: Emitter, needs: Needs, centre: str = "no") -> Result:
    """Projects gradient times feature map on its first principal component.

    Eigen-CAM of g ⊙ A, which knows the class: introduced by pytorch-grad-cam, without a paper.

    * `centre` as for Eigen-CAM; with "yes" the sign goes along with Σ_k g_k ⊙ A_k.
    """
    assert needs.gradient is not None and needs.feature is not None
    product = e.Mul(needs.gradient, e.axes("Unsqueeze", needs.feature, [1]))
    along = e.axes("ReduceSum", product, [2], keepdims=0) if centre == "yes" else None
    return Result(principal(e, product, needs.feature.shape[1:], centre == "yes", along))


def _for_each_class(e: Emitter, x: gs.Tensor, needs: Needs) -> gs.Tensor:
    """(N, 1, h, w) → (N, M, h, w)."""
    return e.Expand(x, e.Concat(e.Shape(needs.score), [1, 1], axis=0))
