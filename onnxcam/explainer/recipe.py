"""What to compile: a method, a feature map, a score, and the options, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnxcam.errors import OptionError
from onnxcam.graph.feature import FeatureMap
from onnxcam.graph.load import Classifier
from onnxcam.methods import Method, method_named

SCORES = ("logit", "probability")
ABLATIONS = ("exact", "literal")
SMOOTHS = ("none", "pca")


@dataclass(frozen=True)
class Recipe:
    """What to compile.

    Attributes:
        method: its row of the table.
        layer: the feature map; None where the method needs none.
        score: "logit" or "probability".
        targets: how many classes are asked about for each image.
        ablation: "exact" or "literal".
        units: the units asked about, or None for all.
        patches_only: on tokens, switch units off in patch tokens only.
        smooth: "none", or "pca": the first principal component in place of the sum over units.
        settings: options of the method.
    """

    method: Method
    layer: FeatureMap | None
    score: str = "logit"
    targets: int = 1
    ablation: str = "exact"
    units: tuple[int, ...] | None = None
    patches_only: bool = False
    smooth: str = "none"
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def feature_map(self) -> FeatureMap:
        """The feature map of a method that works on one."""
        assert self.layer is not None
        return self.layer

    @property
    def needed(self) -> set[str]:
        """What the method needs under its settings."""
        return self.method.needed(dict(self.settings))


def recipe(
    classifier: Classifier,
    method: str = "ablation-cam",
    layer: str | int | None = None,
    score: str = "logit",
    targets: int = 1,
    ablation: str = "exact",
    units: Sequence[int] | None = None,
    patches_only: bool = False,
    smooth: str = "none",
    options: Mapping[str, Any] | None = None,
) -> Recipe:
    """A checked recipe.

    Raises:
        OptionError: an option has a value that it cannot have.
        LayerError: there is no such feature map.
        ModelError: the method works on a feature map, and the model has none.
    """
    row = method_named(method)
    checks = (("score", score, SCORES), ("ablation", ablation, ABLATIONS))
    for name, value, allowed in (*checks, ("smooth", smooth, SMOOTHS)):
        if value not in allowed:
            raise OptionError(f"{name} is {' or '.join(allowed)}, not {value!r}")
    found = classifier.layer(layer) if row.on_layer else None
    if found is None and layer is not None:
        raise OptionError(f"{row.name} works on pixels, not on a feature map: leave out --layer")
    if score == "probability" and classifier.score.probability is None:
        raise OptionError(
            "score 'probability' is not to be had: the model ends in its logits; take 'logit'"
        )
    if smooth == "pca" and not row.smooths:
        raise OptionError(f"smooth 'pca' needs a sum over units, and {row.name} has none")
    if units is not None:
        if found is None:
            raise OptionError(f"{row.name} works on pixels: it has no units to choose from")
        wrong = [u for u in units if not 0 <= u < found.units]
        if wrong or not units or len(set(units)) != len(units):
            raise OptionError(
                f"units must be different numbers from 0 to {found.units - 1}, "
                f"not {list(wrong or units)[:5]}"
            )
    settings = tuple(row.settings(options or {}).items())
    chosen = None if units is None else tuple(int(u) for u in units)
    return Recipe(row, found, score, targets, ablation, chosen, patches_only, smooth, settings)
