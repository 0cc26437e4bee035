"""Which methods explain a model, and what stands in the way of the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from onnxcam.errors import ModelError
from onnxcam.explainer.bench import Bench, bench, score_name
from onnxcam.explainer.needs import BUILDERS
from onnxcam.explainer.recipe import Recipe
from onnxcam.graph.emit import Emitter
from onnxcam.graph.feature import FeatureMap
from onnxcam.graph.load import Classifier
from onnxcam.graph.rerun import rerun_rows
from onnxcam.methods import METHODS

Trial: TypeAlias = Callable[[Bench, Recipe], Any]

NO_MAP = (
    "the model has no feature map: no tensor with a grid larger than 1×1 that every path from "
    "image to score passes through"
)


def availability(
    classifier: Classifier, layer: FeatureMap | None = None, score: str = "logit"
) -> dict[str, str | None]:
    """Why a method cannot explain the classifier, or None where it can, for every method.

    What methods need is emitted once, on one graph that is then thrown away; nothing is compiled
    or run. Options have their defaults. Fusions (guided-NAME) are left out: one works where NAME
    and guided-backprop do.

    Args:
        classifier: what would be explained.
        layer: the feature map; None for the default, if there is one.
        score: "logit" or "probability".
    """
    layer = layer or classifier.default
    trials = _Trials(classifier, layer, score)
    found: dict[str, str | None] = {}
    for row in METHODS.values():
        if row.on_layer and layer is None:
            found[row.name] = NO_MAP
        elif not row.fused:
            what = Recipe(row, layer, score, settings=tuple(row.settings({}).items()))
            reasons = (trials.met(what, need) for need in row.needs)
            found[row.name] = next((why for why in reasons if why is not None), None)
    return {name: why for name, why in found.items() if not METHODS[name].fused}


def other_methods(what: Recipe, classifier: Classifier) -> list[str]:
    """The methods that would do where that of `what` does not."""
    found = availability(classifier, what.layer, what.score)
    return [name for name, why in found.items() if why is None and name != what.method.name]


class _Trials:
    """What stands in the way of needs: each is tried once."""

    def __init__(self, classifier: Classifier, layer: FeatureMap | None, score: str) -> None:
        self.classifier, self.kind = classifier, score
        self.layers = set() if layer is None else {layer.tensor}
        self._benches: dict[bool, Bench] = {}
        self._met: dict[Trial, str | None] = {}

    def met(self, what: Recipe, need: str) -> str | None:
        """The reason why a need cannot be met, or None."""
        trials = _TRIALS[need] if need in _TRIALS else (BUILDERS[need],)
        for trial in trials:
            if trial not in self._met:
                b = self._bench(need == "terms")
                b.notes.clear()  # an error tells those of its own walk
                try:
                    trial(b, what)
                    self._met[trial] = None
                except ModelError as error:
                    self._met[trial] = str(error)
            if self._met[trial] is not None:
                return self._met[trial]
        return None

    def _bench(self, whole: bool) -> Bench:
        """One on which scores of other classes may leave early, or, for `terms`, may not."""
        if whole not in self._benches:
            e, name = Emitter(self.classifier.graph()), score_name(self.classifier, self.kind)
            stop = {*self.layers, *([name] if whole else [])}
            self._benches[whole] = bench(self.classifier, e, self.kind, 1, stop, blocks=False)
        return self._benches[whole]


def _head_again(b: Bench, what: Recipe) -> None:
    """Runs the head on other versions of the feature map: also how units go off at the worst."""
    feature = b.tensor(what.feature_map.tensor)
    rerun_rows(b.e, feature, feature, b.asked, b.chosen.name)


def _model_again(b: Bench, what: Recipe) -> None:
    """Runs the model on other versions of the image."""
    rerun_rows(b.e, b.image, b.image, b.asked, b.chosen.name)


_TRIALS: dict[str, tuple[Trial, ...]] = {
    **dict.fromkeys(("feature", "coverage"), ()),
    **dict.fromkeys(("drop", "placed"), (_head_again,)),
    **dict.fromkeys(("masked", "occluded", "sampled", "gain"), (_model_again,)),
    **dict.fromkeys(("path", "noisy"), (_model_again, BUILDERS["pixels"])),
    # Their rows stand in for rules of rectifiers and need no more than those.
    **dict.fromkeys(("guided", "deconv"), (BUILDERS["pixels"],)),
}
"""What shows that a need can be met where building it would take long; else its builder does."""
