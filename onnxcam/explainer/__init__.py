"""Compiles explainers: classifier and recipes in, one graph `image, target → scores, maps` out."""

from __future__ import annotations

from onnxcam.explainer.bench import TARGET
from onnxcam.explainer.plan import Plan, Stage
from onnxcam.explainer.program import Form, Program, compile_program
from onnxcam.explainer.recipe import Recipe, recipe
from onnxcam.explainer.ways import availability

__all__ = [
    "TARGET",
    "Form",
    "Plan",
    "Program",
    "Recipe",
    "Stage",
    "availability",
    "compile_program",
    "recipe",
]
