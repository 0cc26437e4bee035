"""The table itself, the decorator that adds a row to it, and what methods work on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.errors import OptionError, close_matches


@dataclass(frozen=True)
class Number:
    """An option that is a number: its default, its limits, and whether it is a whole one."""

    default: float
    low: float
    high: float = float("inf")
    whole: bool = False

    def fits(self, value: Any) -> bool:
        """Whether `value` is a number of this kind within the limits."""
        if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
            return False
        finite = self.low <= value <= self.high and value not in (float("inf"), float("-inf"))
        return bool(finite and (not self.whole or value == int(value)))

    def __str__(self) -> str:
        kind = "whole number" if self.whole else "number"
        top = f" to {self.high:g}" if self.high != float("inf") else " or more"
        return f"a {kind}, {self.low:g}{top}"


Values: TypeAlias = "tuple[Any, ...] | Number"
"""What an option may be: one of several values, the default first, or a number."""


class Result(NamedTuple):
    """What a method makes.

    Attributes:
        raw: the map before the method's last step: (N, M, h, w), or, of pixels, signed and by
            channel, (N, M, C, H, W).
        weights: the weight of each unit, (N, M, K), where the method has such.
        map: the map, (N, M, h, w); None for ReLU(raw).
        gap: what attributions that should add up to the score miss of it, (N, M).
        by_channel: whether raw has the axis C.
    """

    raw: gs.Tensor
    weights: gs.Tensor | None = None
    map: gs.Tensor | None = None
    gap: gs.Tensor | None = None
    by_channel: bool = False


Emit = Callable[..., Result]


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        name: as users write it.
        title: as pictures and lists show it.
        needs: what the explainer must provide: names of `Needs`.
        extra: needs that a value of an option adds, by (option, value).
        options: allowed values of each option.
        emit: `emit(e, needs, **options)` → `Result`.
        summary: first sentence of its docstring.
        pixels: the map is of pixels, not of the grid of a feature map.
        smooths: products of units and weights are summed up, so `smooth="pca"` can stand in.
        fused: the row is made from another one and guided backpropagation.
    """

    name: str
    title: str
    needs: tuple[str, ...]
    options: Mapping[str, Values]
    emit: Emit
    summary: str
    extra: Mapping[tuple[str, Any], str]
    pixels: bool = False
    smooths: bool = False
    fused: bool = False

    @property
    def on_layer(self) -> bool:
        """Whether the method works on a feature map."""
        return not self.pixels or self.fused

    def needed(self, settings: Mapping[str, Any]) -> set[str]:
        """What must be provided under these settings."""
        return {*self.needs, *(self.extra[s] for s in settings.items() if s in self.extra)}

    def settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All options with the given ones filled in.

        Raises:
            OptionError: the method has no such option, or not that value.
        """
        for key in given:
            if key not in self.options:
                known = ", ".join(self.options) or "none"
                raise OptionError(
                    f"{self.name} has no option {key!r}{close_matches(key, self.options)}; "
                    f"its options: {known}"
                )
        return {key: self._value(key, given) for key in self.options}

    def _value(self, key: str, given: Mapping[str, Any]) -> Any:
        values = self.options[key]
        if isinstance(values, Number):
            value = given.get(key, values.default)
            if not values.fits(value):
                raise OptionError(f"{self.name} takes {key} = {values}, not {value!r}")
            return int(value) if values.whole else float(value)
        value = given.get(key, values[0])
        if value not in values:
            shown = " | ".join(map(str, values))
            raise OptionError(f"{self.name} takes {key} = {shown}, not {value!r}")
        return value


@dataclass(frozen=True)
class Needs:
    """What a method works on; it gets what its row declares, and always the first two.

    M classes are asked about, K units of the feature map lie on a grid of h × w, and the image has
    C channels of H × W pixels (channels first, whatever the model takes).

    Attributes:
        feature: the feature map, (N, K, h, w), its shape noted.
        score: the scores of the target classes, (N, M).
        smooth: "none", or "pca" for the first principal component in place of a sum.
        drop: y − y_k of every unit, (N, M, K).
        blank: the feature map of an all-zero image, (1, K, h, w).
        gradient: ∂y/∂A, (N, M, K, h, w).
        curvature: H·A, the Hessian of y for A times A, (N, M, K, h, w).
        derivatives: second and third derivatives ∂²y/∂A² and ∂³y/∂A³, element by element,
            (N, M, K, h, w) each, or None where they are zero everywhere.
        linear: the weights of a linear head behind a global average, (N, M, K).
        masked: the scores of the image times each unit's own map, (N, M, K).
        placed: the scores of the feature map cut down to one place after the other, (N, M, h·w).
        image: the image, (N, C, H, W).
        pixels: ∂y/∂image, (N, M, C, H, W); `guided` and `deconv` the same by other rules.
        path: image − baseline, times the mean of ∂y/∂image on the way, (N, M, C, H, W).
        gain: y − y(baseline), (N, M).
        noisy: the mean of ∂y/∂image over noisy copies, or of its square.
        terms: the terms of the full gradient: gradient times bias of every layer, shapes noted.
        occluded: y − y of the image without one window after the other, (N, M, windows).
        sampled: Σ score · mask over random masks, (N, M, H, W).
        coverage: which window covers which rows and columns, matrices (windows, H), (windows, W).
    """

    feature: gs.Tensor | None
    score: gs.Tensor
    smooth: str = "none"
    drop: gs.Tensor | None = None
    blank: gs.Tensor | None = None
    gradient: gs.Tensor | None = None
    curvature: gs.Tensor | None = None
    derivatives: tuple[gs.Tensor | None, gs.Tensor | None] | None = None
    linear: gs.Tensor | None = None
    masked: gs.Tensor | None = None
    placed: gs.Tensor | None = None
    image: gs.Tensor | None = None
    pixels: gs.Tensor | None = None
    guided: gs.Tensor | None = None
    deconv: gs.Tensor | None = None
    path: gs.Tensor | None = None
    gain: gs.Tensor | None = None
    noisy: gs.Tensor | None = None
    terms: Any = None
    occluded: gs.Tensor | None = None
    sampled: gs.Tensor | None = None
    coverage: Any = None


METHODS: dict[str, Method] = {}


@dataclass(frozen=True)
class method:
    """Adds a row to the table; the docstring of the function gives formula and source."""

    name: str
    title: str
    needs: tuple[str, ...]
    options: Mapping[str, Values] = field(default_factory=dict)
    extra: Mapping[tuple[str, Any], str] = field(default_factory=dict)
    pixels: bool = False
    smooths: bool = False

    def __call__(self, emit: Emit) -> Emit:
        """Registers `emit`."""
        summary = (emit.__doc__ or "").strip().splitlines()[0].rstrip(".")
        METHODS[self.name] = Method(
            self.name, self.title, self.needs, self.options, emit, summary, self.extra,
            self.pixels, self.smooths,
        )  # fmt: skip
        return emit


def method_named(name: str) -> Method:
    """The row of a method; hyphens, underscores and case do not matter.

    Raises:
        OptionError: there is none of that name.
    """
    plain = {_plain(known): row for known, row in METHODS.items()}
    row = plain.get(_plain(name))
    if row is None:
        raise OptionError(
            f"there is no method {name!r}{close_matches(name, METHODS)}; "
            f"'onnxcam methods' lists them: {', '.join(METHODS)}"
        )
    return row


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
