"""What is asked of a model: methods, feature maps, and the options that go to each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from onnxcam.errors import OptionError
from onnxcam.methods import method_named

Asked: TypeAlias = tuple[str, str | int | None, tuple[tuple[str, Any], ...]]
"""A method, a feature map, and the options of the method."""


def asked_of(
    methods: Sequence[str], layers: Sequence[str | int | None], options: Mapping[str, Any]
) -> list[Asked]:
    """Each method at each feature map, once, with the options that it has.

    Raises:
        OptionError: no method, no such method, or an option or feature maps that none of them has.
    """
    rows = [method_named(name) for name in methods]
    if not rows:
        raise OptionError("no method was named; give at least one")
    if any(layer is not None for layer in layers) and not any(row.on_layer for row in rows):
        raise OptionError(
            f"layers were given, but {', '.join(r.name for r in rows)} "
            f"work{'s' if len(rows) == 1 else ''} on pixels, not on a feature map"
        )
    for key in options:
        if not any(key in row.options for row in rows):
            raise OptionError(f"none of {', '.join(r.name for r in rows)} has an option {key!r}")
    asked: list[Asked] = []
    for row in rows:
        own = tuple(sorted((k, v) for k, v in options.items() if k in row.options))
        for layer in layers if row.on_layer else (None,):
            asked.append((row.name, layer, own))
    return list(dict.fromkeys(asked))
