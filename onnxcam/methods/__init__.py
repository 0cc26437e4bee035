"""The method table: every way to explain a decision, by name.

A method is a function that emits the operators which turn what it needs into a map. It declares
its needs and options in its row; explainer, command line and documentation read the table.
"""

from __future__ import annotations

from onnxcam.methods import ablation, eigen, fusion, gradient, perturbed, pixel
from onnxcam.methods.table import METHODS, Method, Needs, Number, Result, method_named

__all__ = [
    "METHODS",
    "Method",
    "Needs",
    "Number",
    "Result",
    "ablation",
    "eigen",
    "fusion",
    "gradient",
    "method_named",
    "perturbed",
    "pixel",
]

_SHOWN = [module.__name__ for module in (ablation, gradient, eigen, perturbed, pixel)]
_rows = sorted(METHODS.values(), key=lambda row: _SHOWN.index(row.emit.__module__))
METHODS.clear()
METHODS.update({row.name: row for row in _rows})
fusion.register()
