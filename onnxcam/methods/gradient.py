"""Class activation maps from gradients: each unit, or each cell of it, weighed by ∂y/∂A."""

from __future__ import annotations

from onnxcam.graph.emit import Emitter
from onnxcam.methods.parts import over, summed, weighted
from onnxcam.methods.table import Needs, Result, method


@method("cam", "CAM", needs=("linear",), smooths=True)
def cam(e: Emitter, needs: Needs) -> Result:
    """Weights each unit by its weight in the linear layer behind the global average.

    Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016, Eq. 2:
    M_c = Σ_k w_k^c A_k. Only for heads that are a global average and one linear layer.
    """
    assert needs.linear is not None
    return weighted(e, needs, needs.linear)


@method("grad-cam", "Grad-CAM", needs=("gradient",), smooths=True)
def grad_cam(e: Emitter, needs: Needs) -> Result:
    """Weights each unit by the mean of its gradient.

    Selvaraju et al., Grad-CAM, ICCV 2017, Eq. 1 and 2: w_k = mean_ij ∂y/∂A_k^ij, and the map is
    ReLU(Σ_k w_k A_k).
    """
    assert needs.gradient is not None
    return weighted(e, needs, e.axes("ReduceMean", needs.gradient, [3, 4], keepdims=0))


@method(
    "grad-cam++",
    "Grad-CAM++",
    needs=("gradient",),
    options={"form": ("closed", "general")},
    extra={("form", "general"): "derivatives"},
    smooths=True,
)
def grad_cam_plus_plus(e: Emitter, needs: Needs, form: str = "closed") -> Result:
    """Weights each unit by its positive gradients, each with a share α of its own.

    Chattopadhyay et al., Grad-CAM++, WACV 2018: w_k = Σ_ij α_k^ij ReLU(g_k^ij), with Y = exp(y),
    whose common factor exp(y) is left out, g = ∂y/∂A and S_k = Σ_ij A_k^ij.

    * `form="closed"`: α = g² / (2 g² + S g³), for a head that is linear in pieces; 0 where g is 0.
    * `form="general"`: from the second and third derivatives of Y for every cell of A,
      α = Y″ / (2 Y″ + S Y‴), for heads that bend (Softmax, GELU, Sigmoid, …). Where all of them
      vanish it is the closed form at no cost; else it runs the head once for every cell: long.

    Nothing is added to a denominator; α is 0 where it is 0.
    """
    assert needs.gradient is not None and needs.feature is not None
    g = needs.gradient
    total = e.axes("Unsqueeze", e.axes("ReduceSum", needs.feature, [2, 3], keepdims=1), [1])
    positive = e.Relu(g)
    if form == "closed" or all(d is None for d in needs.derivatives or ()):
        # α · ReLU(g) with g² cancelled: g / (2 + S g).
        shares = over(e, positive, e.Add(e.Mul(total, positive), 2.0))
    else:
        assert needs.derivatives is not None
        bend, third = needs.derivatives
        # Y = exp(y): Y″ / Y = g² + y″, Y‴ / Y = g³ + 3 g y″ + y‴.
        square = e.Mul(g, g)
        second, last = square, e.Mul(square, g)
        if bend is not None:
            second = e.Add(square, bend)
            last = e.Add(last, e.Mul(e.Mul(g, bend), 3.0))
        last = last if third is None else e.Add(last, third)
        below = e.Add(e.Mul(second, 2.0), e.Mul(total, last))
        shares = e.Mul(over(e, second, below), positive)
    return weighted(e, needs, e.axes("ReduceSum", shares, [3, 4], keepdims=0))


@method("xgrad-cam", "XGrad-CAM", needs=("gradient",), smooths=True)
def xgrad_cam(e: Emitter, needs: Needs) -> Result:
    """Weights each unit by its gradient, averaged with the unit's own activations as weights.

    Fu et al., Axiom-based Grad-CAM, BMVC 2020, Eq. 7: w_k = Σ_ij A_k^ij g_k^ij / Σ_ij A_k^ij, 0 for
    a unit whose sum is 0.
    """
    assert needs.gradient is not None and needs.feature is not None
    tall = e.axes("Unsqueeze", needs.feature, [1])
    product = e.axes("ReduceSum", e.Mul(needs.gradient, tall), [3, 4], keepdims=0)
    return weighted(e, needs, over(e, product, e.axes("ReduceSum", tall, [3, 4], keepdims=0)))


@method("hires-cam", "HiResCAM", needs=("gradient",), smooths=True)
def hires_cam(e: Emitter, needs: Needs) -> Result:
    """Multiplies every cell by its gradient.

    Draelos & Carin, Use HiResCAM instead of Grad-CAM, 2020, Eq. 2: Σ_k g_k ⊙ A_k.
    """
    assert needs.gradient is not None and needs.feature is not None
    tall = e.axes("Unsqueeze", needs.feature, [1])
    return Result(summed(e, needs, e.Mul(needs.gradient, tall)))


@method("layer-cam", "LayerCAM", needs=("gradient",), smooths=True)
def layer_cam(e: Emitter, needs: Needs) -> Result:
    """Multiplies every cell by its gradient where that is positive.

    Jiang et al., LayerCAM, IEEE TIP 2021, Eq. 6 to 8: ReLU(Σ_k ReLU(g_k) ⊙ A_k).
    """
    assert needs.gradient is not None and needs.feature is not None
    tall = e.axes("Unsqueeze", needs.feature, [1])
    return Result(summed(e, needs, e.Mul(e.Relu(needs.gradient), tall)))


@method("shapley-cam", "ShapleyCAM", needs=("gradient", "curvature"), smooths=True)
def shapley_cam(e: Emitter, needs: Needs) -> Result:
    """Weights each unit by its gradient, corrected for the bend of the score.

    Cai, CAMs as Shapley Value-based Explainers, 2025: w_k = mean_ij (g − ½ H·A)_k^ij, with the
    Hessian H of y for A; of a Taylor expansion of the unit's Shapley value the first two terms.
    With a head that is linear in pieces H is 0 and the method is Grad-CAM.
    """
    assert needs.gradient is not None
    slope = needs.gradient
    if needs.curvature is not None:
        slope = e.Sub(slope, e.Mul(needs.curvature, 0.5))
    return weighted(e, needs, e.axes("ReduceMean", slope, [3, 4], keepdims=0))
