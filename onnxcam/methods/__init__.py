"""The method table: every way to explain a decision, by name.

A method is a function that emits the operators which turn what it needs into weights and a map. It
declares its needs and options in its row; explainer, command line and documentation read the table.
"""

from __future__ import annotations

from onnxcam.methods import ablation
from onnxcam.methods.table import METHODS, Method, method_named

__all__ = ["METHODS", "Method", "ablation", "method_named"]
