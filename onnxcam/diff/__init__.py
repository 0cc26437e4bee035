"""Differentiates ONNX graphs: reverse mode, from graph to graph, in standard operators.

`reverse` walks back from a score and asks the rule table (`vjp`) at every operator for its
vector-Jacobian product.
"""

from __future__ import annotations

from onnxcam.diff.reverse import gradients
from onnxcam.diff.vjp import VARIANTS, VJP

__all__ = ["VARIANTS", "VJP", "gradients"]
