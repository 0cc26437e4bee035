"""The rule table: the vector-Jacobian product of every operator, grouped by kind of operator."""

from __future__ import annotations

from onnxcam.diff.vjp import (
    convolution,
    gathering,
    linear,
    norms,
    pointwise,
    pools,
    quantised,
    rectifiers,
    reductions,
    variants,
    views,
)
from onnxcam.diff.vjp.table import CONSTANT, STEPS, VARIANTS, VJP, Rule, vjp

__all__ = [
    "CONSTANT",
    "STEPS",
    "VARIANTS",
    "VJP",
    "Rule",
    "convolution",
    "gathering",
    "linear",
    "norms",
    "pointwise",
    "pools",
    "quantised",
    "rectifiers",
    "reductions",
    "variants",
    "views",
    "vjp",
]
