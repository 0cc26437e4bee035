"""Every error that a user can cause, in one tree.

    OnnxcamError
    ├── ModelError        the file is no ONNX model, or no classifier that can be explained
    │   └── OpError       an operator stands in the way (names the op and the node)
    ├── LayerError        the feature map asked for does not exist or does not lead to the score
    ├── TargetError       the class asked for does not exist
    ├── PictureError      the picture cannot be read or used
    ├── PresetError       the preprocessing is unknown, contradictory or does not fit the model
    ├── OptionError       an option has a value that it cannot have
    ├── RuntimeFailure    ONNX Runtime cannot run the graph, or the provider asked for
    ├── Timeout           a call took longer than its time limit
    ├── Cancelled         a call was cancelled by another thread
    └── OutputError       a result cannot be written

Each message says what was met, where, and what to do next. The library raises them; the command
line prints them in one line and exits with 1. Anything else that escapes is a bug.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class OnnxcamError(Exception):
    """Base of every error that onnxcam raises on purpose.

    Attributes:
        picture: of an error that `Explainer.explain_many` gives in place of an explanation, the
            picture as it was given.
    """

    picture: Any = None


class ModelError(OnnxcamError):
    """The model cannot be loaded, or is not a classifier that can be explained."""


class OpError(ModelError):
    """An operator that onnxcam cannot handle; the message names op and node."""


class LayerError(OnnxcamError):
    """The feature map asked for does not exist or does not lead to the score."""


class TargetError(OnnxcamError):
    """The class asked for does not exist."""


class PictureError(OnnxcamError):
    """The picture cannot be read, or not within the limits."""


class PresetError(OnnxcamError):
    """The preprocessing is unknown, contradictory, or does not fit the model."""


class OptionError(OnnxcamError, ValueError):
    """An option has a value that it cannot have."""


class RuntimeFailure(OnnxcamError):
    """ONNX Runtime cannot run the graph, or the provider that was asked for."""


class Timeout(OnnxcamError, TimeoutError):
    """A call took longer than its time limit."""


class Cancelled(OnnxcamError):
    """A call was cancelled by another thread."""


class OutputError(OnnxcamError):
    """A result cannot be written."""


def close_matches(word: str, words: Iterable[str], most: int = 3) -> str:
    """` (did you mean 'a', 'b'?)` for the words nearest to `word`, or an empty string."""
    known = {w.casefold(): w for w in words}
    near = [known[w] for w in difflib.get_close_matches(word.casefold(), known, most, 0.5)]
    inside = [w for low, w in known.items() if word.casefold() in low and w not in near]
    near = (near + inside)[:most]
    return f" (did you mean {', '.join(repr(w) for w in near)}?)" if near else ""
