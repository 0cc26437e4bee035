"""Explains the decisions of ONNX image classifiers with heat maps, on ONNX Runtime alone.

The names below are imported when they are first used, so that `import onnxcam` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxcam.api import Explainer, explain
    from onnxcam.calls import Cancel
    from onnxcam.comparison import Comparison
    from onnxcam.errors import (
        Cancelled,
        LayerError,
        ModelError,
        OnnxcamError,
        OpError,
        OptionError,
        OutputError,
        PictureError,
        PresetError,
        RuntimeFailure,
        TargetError,
        Timeout,
    )
    from onnxcam.explanation import Explanation, PictureExplanation
    from onnxcam.exporting import export
    from onnxcam.loading import gradient, load, split

__version__ = "0.1.0"

__all__ = [
    "Cancel",
    "Cancelled",
    "Comparison",
    "Explainer",
    "Explanation",
    "LayerError",
    "ModelError",
    "OnnxcamError",
    "OpError",
    "OptionError",
    "OutputError",
    "PictureError",
    "PictureExplanation",
    "PresetError",
    "RuntimeFailure",
    "TargetError",
    "Timeout",
    "__version__",
    "explain",
    "export",
    "gradient",
    "load",
    "split",
]

_ELSEWHERE = dict.fromkeys(("Explainer", "explain"), "api")
_ELSEWHERE |= {"Cancel": "calls", "Comparison": "comparison", "export": "exporting"}
_ELSEWHERE |= dict.fromkeys(("gradient", "load", "split"), "loading")
_ELSEWHERE |= dict.fromkeys(("Explanation", "PictureExplanation"), "explanation")


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'onnxcam' has no attribute {name!r}")
    value = getattr(import_module(f"onnxcam.{_ELSEWHERE.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
