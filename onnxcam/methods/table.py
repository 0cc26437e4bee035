"""The table itself, and the decorator that adds a row to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx_graphsurgeon as gs

from onnxcam.errors import OptionError, close_matches
from onnxcam.graph.emit import Emitter

Emit = Callable[..., tuple[gs.Tensor, gs.Tensor]]


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        name: as users write it.
        title: as pictures and lists show it.
        needs: what the explainer must provide: "drop" (y − y_k of every unit), "blank" (the
            feature map of an all-zero image).
        extra: needs that a value of an option adds, by (option, value).
        options: allowed values of each option, the default first.
        emit: `emit(e, needs, **options)` → weights (N, M, K) and map (N, M, h, w), before ReLU.
        summary: first sentence of its docstring.
    """

    name: str
    title: str
    needs: tuple[str, ...]
    options: Mapping[str, tuple[Any, ...]]
    emit: Emit
    summary: str
    extra: Mapping[tuple[str, Any], str]

    def needed(self, settings: Mapping[str, Any]) -> set[str]:
        """What must be provided under these settings."""
        return {*self.needs, *(self.extra[s] for s in settings.items() if s in self.extra)}

    def settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All options with the given ones filled in.

        Raises:
            OptionError: the method has no such option, or not that value.
        """
        for key, value in given.items():
            if key not in self.options:
                known = ", ".join(self.options) or "none"
                raise OptionError(
                    f"{self.name} has no option {key!r}{close_matches(key, self.options)}; "
                    f"its options: {known}"
                )
            if value not in self.options[key]:
                raise OptionError(
                    f"{self.name} takes {key} = {' | '.join(map(str, self.options[key]))}, "
                    f"not {value!r}"
                )
        return {key: given.get(key, values[0]) for key, values in self.options.items()}


@dataclass(frozen=True)
class Needs:
    """What a method works on.

    Attributes:
        feature: the feature map as (N, K, h, w), its shape noted.
        score: the scores of the target classes, (N, M).
        drop: y − y_k, (N, M, K), if needed.
        blank: the feature map of an all-zero image, (1, K, h, w), if needed.
    """

    feature: gs.Tensor
    score: gs.Tensor
    drop: gs.Tensor | None = None
    blank: gs.Tensor | None = None


METHODS: dict[str, Method] = {}


@dataclass(frozen=True)
class method:
    """Adds a row to the table; the docstring of the function gives formula and source."""

    name: str
    title: str
    needs: tuple[str, ...]
    options: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    extra: Mapping[tuple[str, Any], str] = field(default_factory=dict)

    def __call__(self, emit: Emit) -> Emit:
        """Registers `emit`."""
        summary = (emit.__doc__ or "").strip().splitlines()[0].rstrip(".")
        row = Method(self.name, self.title, self.needs, self.options, emit, summary, self.extra)
        METHODS[self.name] = row
        return emit


def method_named(name: str) -> Method:
    """The row of a method.

    Raises:
        OptionError: there is none of that name.
    """
    row = METHODS.get(name.lower().replace("_", "-"))
    if row is None:
        raise OptionError(
            f"there is no method {name!r}{close_matches(name, METHODS)}; "
            f"'onnxcam methods' lists them: {', '.join(METHODS)}"
        )
    return row


def weighted_sum(e: Emitter, weights: gs.Tensor, feature: gs.Tensor) -> gs.Tensor:
    """Σ_k w_k A_k: weights (N, M, K) and a feature map (N, K, h, w) give (N, M, h, w)."""
    flat = e.Reshape(feature, [0, 0, -1])
    return e.Reshape(e.MatMul(weights, flat), [0, 0, *feature.shape[2:]])


__all__ = ["METHODS", "Emitter", "Method", "Needs", "method", "method_named", "weighted_sum"]
