"""Attributions to pixels, from gradients for the image.

Raw is signed and by channel, (N, M, C, H, W); the map is one number for each pixel, not negative.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxcam.graph.emit import Emitter
from onnxcam.methods.table import Needs, Number, Result, method
from onnxcam.perturb.scaling import min_max, resized

RECTIFIERS = ("relu", "all")
"""Which activations the rules of guided backpropagation and deconvnet are for."""


def largest(e: Emitter, raw: gs.Tensor) -> Result:
    """The largest magnitude over the channels."""
    return Result(raw, map=e.axes("ReduceMax", e.Abs(raw), [2], keepdims=0), by_channel=True)


def added(e: Emitter, raw: gs.Tensor) -> Result:
    """The magnitude of the sum over the channels: the share of the whole pixel."""
    shown = e.Abs(e.axes("ReduceSum", raw, [2], keepdims=0))
    return Result(raw, map=shown, by_channel=True)


@method("saliency", "Gradient saliency", needs=("pixels",), pixels=True)
def saliency(e: Emitter, needs: Needs) -> Result:
    """Shows the gradient of the score for every pixel.

    Simonyan et al., Deep Inside Convolutional Networks, 2013, section 3.1: max over channels of
    |∂y/∂x|.
    """
    assert needs.pixels is not None
    return largest(e, needs.pixels)


@method("input-x-gradient", "Input × Gradient", needs=("pixels", "image"), pixels=True)
def input_x_gradient(e: Emitter, needs: Needs) -> Result:
    """Multiplies the gradient with the input.

    Shrikumar et al., Not Just a Black Box, 2016: x ⊙ ∂y/∂x, x being the image as the model takes
    it. The map is the magnitude of its sum over the channels.
    """
    assert needs.pixels is not None and needs.image is not None
    return added(e, e.Mul(needs.pixels, e.axes("Unsqueeze", needs.image, [1])))


@method(
    "guided-backprop",
    "Guided Backpropagation",
    needs=("guided",),
    options={"rectifiers": RECTIFIERS},
    pixels=True,
)
def guided_backprop(e: Emitter, needs: Needs, rectifiers: str = "relu") -> Result:
    """Shows the gradient through positive paths alone.

    Springenberg et al., Striving for Simplicity, ICLR workshop 2015: at every Relu the gradient
    passes only where it is positive and the input was. The map is the maximum over channels of its
    magnitude.

    * `rectifiers="relu"`, the paper's: Relu nodes alone.
    * `rectifiers="all"`: f′(z) · max(g, 0) at every activation like it, too (ReLU6,
      LeakyReLU, SiLU, GELU, …). An extension of ours.
    """
    assert needs.guided is not None
    return largest(e, needs.guided)


@method(
    "deconvnet", "Deconvnet", needs=("deconv",), options={"rectifiers": RECTIFIERS}, pixels=True
)
def deconvnet(e: Emitter, needs: Needs, rectifiers: str = "relu") -> Result:
    """Shows the gradient with a deconvnet's rectifiers.

    Zeiler & Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014: at every Relu
    what comes back passes where it is positive, whatever the input was; max pools by their
    switches. The map is the maximum over channels of its magnitude.

    * `rectifiers` as for Guided Backpropagation.
    """
    assert needs.deconv is not None
    return largest(e, needs.deconv)


@method(
    "integrated-gradients",
    "Integrated Gradients",
    needs=("path", "gain"),
    options={"steps": Number(32, 1, whole=True), "baseline": ("zero", "mean")},
    pixels=True,
)
def integrated_gradients(
    e: Emitter, needs: Needs, steps: int = 32, baseline: str = "zero"
) -> Result:
    """Sums the gradient up on the straight way from a baseline to the image.

    Sundararajan et al., Axiomatic Attribution for Deep Networks, ICML 2017, Eq. 3 with the midpoint
    rule: (x − x′) ⊙ mean over α of ∂y/∂x at x′ + α (x − x′), α = (i + ½) / steps. The attributions
    add up to y(x) − y(x′) but for the completeness gap, which is reported. The map is the magnitude
    of their sum over the channels.

    * `steps`: gradients taken.
    * `baseline`: "zero", in the values that the model takes, or "mean", the image's mean colour.
    """
    assert needs.path is not None and needs.gain is not None
    whole = e.axes("ReduceSum", needs.path, [2, 3, 4], keepdims=0)
    return added(e, needs.path)._replace(gap=e.Sub(whole, needs.gain))


@method(
    "smoothgrad",
    "SmoothGrad",
    needs=("noisy",),
    options={
        "samples": Number(50, 1, whole=True),
        "noise": Number(0.15, 0, 10),
        "seed": Number(0, 0, whole=True),
        "squared": ("no", "yes"),
    },
    pixels=True,
)
def smoothgrad(
    e: Emitter, needs: Needs, samples: int = 50, noise: float = 0.15, seed: int = 0,
    squared: str = "no",
) -> Result:  # fmt: skip
    """Averages the gradient over noisy copies of the image.

    Smilkov et al., SmoothGrad, 2017: the mean of ∂y/∂x over x + N(0, σ²), σ being `noise` times the
    range of the image's values. The map is the maximum over channels of its magnitude.

    * `samples`, `seed`: how many copies, and which ones.
    * `squared="yes"`: the mean of squares (Hooker et al., A Benchmark for Interpretability, 2019).
    """
    assert needs.noisy is not None
    return largest(e, needs.noisy)


@method("fullgrad", "FullGrad", needs=("pixels", "image", "terms"), pixels=True)
def fullgrad(e: Emitter, needs: Needs) -> Result:
    """Adds input × gradient and bias × gradient of every layer with a grid.

    Srinivas & Fleuret, Full-Gradient Representation, NeurIPS 2019, Eq. 3: ψ(x ⊙ ∂y/∂x) +
    Σ over layers and channels of ψ(bias × ∂y/∂output), ψ being magnitude, brought to 0 … 1 and to
    the image's size (bilinear). Biases are those of convolutions and batch norms, as they stand in
    the file.
    """
    assert needs.pixels is not None and needs.image is not None
    raw = e.Mul(needs.pixels, e.axes("Unsqueeze", needs.image, [1]))
    size = needs.image.shape[2:]
    total = min_max(e, e.Abs(e.axes("ReduceSum", raw, [2], keepdims=0)), [2, 3])
    for term in needs.terms:  # (N, M, channels, h, w)
        each = min_max(e, e.Abs(term), [3, 4])
        summed = e.axes("ReduceSum", each, [2], keepdims=0)
        total = e.Add(total, resized(e, summed, term.shape[3:], size))
    return Result(raw, map=total, by_channel=True)
