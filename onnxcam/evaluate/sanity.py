"""Whether a method notices that a model's weights are random.

Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018, section 3.1: layers are randomised
from the output to the input, one after the other and all before it too ("cascading"), or each alone
("independent"), and each time the maps are compared with the original model's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from onnxcam.api import Explainer
from onnxcam.batches import fitting
from onnxcam.calls import Cancel, Progress
from onnxcam.errors import ModelError, OptionError, RuntimeFailure
from onnxcam.evaluate.randomise import MODES, MOST, draws, replaced, steps, weighted_layers
from onnxcam.evaluate.similarity import MEASURES
from onnxcam.explanation import Explanation
from onnxcam.graph import Classifier
from onnxcam.loading import Source
from onnxcam.targets import Target, for_each

ALIKE = {"rank": 0.5, "ssim": 0.5}
"""Maps still are the original's where the mean of each of these reaches its limit.

The paper looks at the curves and names no number. At a rank correlation of 0.5 the one map still
tells a quarter of the variance of the other's ranks. Each of the two has a weakness that the other
has not: sparse maps that have nothing to do with one another can have a high SSIM, and maps that
fade to the border alike a high rank correlation (`Sanity.unrelated` tells), so both have to reach
it. HOG is reported only: the grid of a CAM has too few cells for it to decide.
"""
SAME = {"rank": 0.9, "ssim": 0.9}
"""With one layer randomised alone, maps count as unchanged where both means reach these.

More is asked than of a cascade: most of what was learnt is still there, and on residual models maps
may well stay alike.
"""

Make: TypeAlias = Callable[[Any, str | int | None], Explainer]
"""Makes the explainer of a model at a feature map, e.g.
`lambda model, layer: Explainer(model, "grad-cam", layer, provider="cpu")`."""


@dataclass(frozen=True)
class Alike:
    """How alike maps are by one measure.

    Attributes:
        mean: over the pictures that could be compared; None if there were none.
        error: its standard error; None for fewer than two pictures.
        count: how many they were.
    """

    mean: float | None
    error: float | None
    count: int


@dataclass(frozen=True)
class Step:
    """What was found with some layers randomised.

    Attributes:
        layer: the layer randomised last, or alone.
        randomised: how many are.
        alike: by measure ("ssim", "rank", "hog"), the maps and the original's.
        blank: pictures whose map is the same everywhere, which cannot be compared.
        failed: pictures for which the model or the method gave NaN or infinity.
        kept: of the other pictures, how many the model still puts into the same class.
    """

    layer: str
    randomised: int
    alike: dict[str, Alike]
    blank: int
    failed: int
    kept: int


@dataclass(frozen=True)
class Sanity:
    """The sanity check of one method on one model.

    Attributes:
        method, model: their names.
        feature_map: tensor that the maps are of; None for methods on pixels.
        mode: "cascading" or "independent".
        how, seed: how weights were drawn, see `randomised`.
        layers: how many layers with weights the model has.
        pictures: how many were explained.
        blank: those of them whose map is the same everywhere on the original model already.
        unrelated: by measure, how alike the original's maps of different pictures are: what maps
            share that have nothing to do with one another.
        steps: from the output to the input.
    """

    method: str
    model: str
    feature_map: str | None
    mode: str
    how: str
    seed: int
    layers: int
    pictures: int
    blank: int
    unrelated: dict[str, Alike]
    steps: tuple[Step, ...]

    @property
    def judged(self) -> tuple[Step, ...]:
        """The steps at which enough pictures could be compared: two of them, and a quarter."""
        least = max(min(self.pictures, 2), self.pictures / 4)
        return tuple(s for s in self.steps if all(s.alike[m].count >= least for m in ALIKE))

    @property
    def average(self) -> dict[str, float] | None:
        """By measure, the mean over the judged steps: of a cascade the area under its curve.

        None where it cannot be told: no step is judged, or of a cascade none that reaches half of
        the layers.
        """
        steps = self.judged
        if not steps or (self.mode == "cascading" and 2 * steps[-1].randomised < self.layers):
            return None
        return {m: float(np.mean([_known(step, m) for step in steps])) for m in ALIKE}

    @property
    def unnoticed(self) -> tuple[str, ...]:
        """The layers whose random weights change the decision on most pictures, but not the map.

        Of a check of single layers: `SAME` says when a map is unchanged. Of a cascade: none.
        """
        if self.mode == "cascading":
            return ()
        return tuple(
            step.layer
            for step in self.judged
            if _reach(step, SAME) and 2 * step.kept < self.pictures - step.failed
        )

    @property
    def notices(self) -> bool | None:
        """Whether the method notices random weights; None where that cannot be told.

        In a cascade it does not if its maps still are the original's (`ALIKE`) on average over the
        steps, or at the end. The average counts, since a method that reads edges off the first
        layers follows the picture until these are random, too: of Guided Backpropagation the paper
        found no change for most of the way. Of single layers it has to notice each.
        """
        average = self.average
        if average is None:
            return None
        if self.mode == "independent":
            return not self.unnoticed
        alike = all(average[m] >= least for m, least in ALIKE.items())
        return not (alike or _reach(self.judged[-1], ALIKE))

    @property
    def verdict(self) -> str:
        """One line that says it with its numbers, and what was left out."""
        average, judged = self.average, self.judged
        if average is None:
            return (
                f"{self.method}: whether it notices randomised weights cannot be told, too few maps"
                f" could be compared{self._left_out}"
            )
        word = "notices" if self.notices else "does NOT notice"
        numbers = (
            f"rank correlation {average['rank']:.2f} and SSIM {average['ssim']:.2f} with the "
            "original's maps on average over"
        )
        if self.mode == "independent":
            missed, every = self.unnoticed, f"{len(judged)} layers randomised one at a time"
            which = f"{len(missed)} of " if missed else "each of "
            names = ", ".join(map(repr, missed[:3])) + (", …" if len(missed) > 3 else "")
            names = f"; unnoticed: {names}" if missed else ""
            return f"{self.method} {word} {which}{every}: {numbers} them{names}{self._left_out}"
        last = judged[-1]
        when = f"{last.randomised} of {self.layers} layers are"
        when = "every layer is" if last.randomised == self.layers else when
        still = "" if self.notices else "still "
        return (
            f"{self.method} {word} randomised weights: {numbers} the cascade, "
            f"{still}{_known(last, 'rank'):.2f} and {_known(last, 'ssim'):.2f} when {when} random"
            f"{self._left_out}"
        )

    @property
    def _left_out(self) -> str:
        blank, failed = (sum(getattr(s, what) for s in self.steps) for what in ("blank", "failed"))
        every = f"of {self.pictures * len(self.steps)}"
        parts = [f"{self.blank} of {self.pictures} maps of the model itself are blank"]
        parts = parts if self.blank else []
        parts += [f"{blank} {every} maps of randomised models are blank"] if blank else []
        parts += [f"{failed} {every} gave NaN or infinity"] if failed else []
        return f" (left out: {', '.join(parts)})" if parts else ""

    def facts(self) -> dict[str, Any]:
        """All of it for JSON, `notices` and `verdict` included."""
        said = {name: getattr(self, name) for name in ("average", "notices", "verdict")}
        return asdict(self) | {"unnoticed": list(self.unnoticed)} | said


def sanity(
    make: Make,
    model: Source,
    pictures: Any,
    target: Target = None,
    *,
    layer: str | int | None = None,
    mode: str = "cascading",
    how: str = "normal",
    seed: int = 0,
    most: int = MOST,
    batch: int = 8,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> Sanity:
    """Explains pictures with the model and with its weights randomised, and compares the maps.

    All maps are of the classes that the original model was asked about, on the same feature map,
    and compared on their own grid, brought to 0 … 1 (those of pixels are magnitudes).

    Args:
        make: makes the explainer: of the model as it is given and `layer`, then once for each
            randomised model, a message, and the feature map that the first one took.
        model: what `make` takes: path, bytes or message of an ONNX classifier, or one loaded.
        pictures: an array (N, …) as the model takes it.
        target: one class for each picture, as for calling an `Explainer`; None for the top ones.
        layer: the feature map.
        mode: "cascading" or "independent".
        how, seed: how weights are drawn, see `randomised`.
        most: steps at most; of more layers some are chosen evenly, and in a cascade the ones
            between are randomised with them.
        batch: pictures explained at once.
        progress: called with (maps done, maps in all) after each batch.
        cancel: what ends it from another thread.

    Raises:
        OptionError: `mode`, `how`, `seed`, `most` or `batch` is no such thing, or several classes
            of a picture are asked about.
        ModelError: the model has no layers with weights.
        RuntimeFailure: the original model, or the method on it, gives NaN or infinity.
        OnnxcamError: as for making and calling the explainer.
    """
    if mode not in MODES:
        raise OptionError(f"mode is {' or '.join(MODES)}, not {mode!r}")
    if batch < 1:
        raise OptionError(f"batch is a number of pictures, at least 1, not {batch}")
    explainer = make(model, layer)
    classifier = explainer.classifier
    images = fitting(classifier.image, pictures)
    layers = weighted_layers(classifier, _score_in_file(classifier))
    if not layers:
        raise ModelError(
            f"{classifier.name} has no layer with weights that could be randomised: no "
            "convolution, dense layer or product with a constant matrix leads to its score"
        )
    chosen = steps(layers, most)
    parts = [slice(i, i + batch) for i in range(0, len(images), batch)]
    done, every = 0, (len(chosen) + 1) * len(images)

    def advance(part: slice) -> None:
        nonlocal done
        done += len(images[part])
        if progress is not None:
            progress(done, every)

    originals, codes = list[_Found](), list[int | str]()
    for part, asked in zip(parts, _asked(explainer, target, parts, len(images)), strict=True):
        found = explainer(images[part], asked, cancel=cancel)
        originals += _each(found)
        pairs = zip(found.target, found.negated, strict=True)
        codes += [f"not:{t}" if no else int(t) for t, no in pairs]
        advance(part)
    taken = None if explainer.recipe.layer is None else explainer.recipe.layer.tensor
    found_steps = list[Step]()
    for at, anew in draws(classifier.source, layers, chosen, mode, seed, how):
        random = make(replaced(classifier.source, anew).complete(), taken)
        maps = list[_Found]()
        for part in parts:
            maps += _explained(random, images[part], codes[part], cancel)
            advance(part)
        number = at + 1 if mode == "cascading" else 1
        found_steps.append(_step(layers[at].node, number, originals, maps))
    others = originals[1:] + originals[:1] if len(originals) > 2 else originals[1:]
    return Sanity(
        method=explainer.recipe.method.name,
        model=classifier.name,
        feature_map=taken,
        mode=mode,
        how=how,
        seed=seed,
        layers=len(layers),
        pictures=len(images),
        blank=sum(one.blank for one in originals),
        unrelated=_alike(originals, others),
        steps=tuple(found_steps),
    )


class _Found(NamedTuple):
    """The map (h, w) of a picture, if there is one, and the class that the model puts it into."""

    map: np.ndarray | None
    top: int

    @property
    def blank(self) -> bool:
        return self.map is not None and bool(self.map.min() == self.map.max())


def _score_in_file(classifier: Classifier) -> str | None:
    """The score's name, where the file knows it by that, too: other outputs have no say."""
    given = {name for node in classifier.source.proto.graph.node for name in node.output}
    return classifier.score.logit if classifier.score.logit in given else None


def _asked(
    explainer: Explainer, target: Target, parts: Sequence[slice], images: int
) -> list[Target]:
    """What is asked about the pictures of each batch."""
    classes, names = explainer.classifier.classes, explainer.labels
    if for_each(target, names, classes, images, explainer.opposite).ndim > 1:
        raise OptionError(f"a sanity check asks about one class of each picture, not {target!r}")
    if target is None or isinstance(target, str | int | np.integer):
        return [target] * len(parts)
    return [list(target[part]) for part in parts]


def _explained(
    explainer: Explainer, images: np.ndarray, codes: Sequence[int | str], cancel: Cancel | None
) -> list[_Found]:
    """What is found for each picture; nothing where the numbers are not finite."""
    try:
        return _each(explainer(images, codes, cancel=cancel))
    except RuntimeFailure:  # random weights may well overflow; one picture spoils a batch
        if len(images) == 1:
            return [_Found(None, -1)]
        rows = [slice(i, i + 1) for i in range(len(images))]
        return [one for i in rows for one in _explained(explainer, images[i], codes[i], cancel)]


def _each(found: Explanation) -> list[_Found]:
    """The map of each picture, and the class that the model puts it into."""
    tops = found.scores.argmax(axis=1)
    if found.scores.shape[1] == 1:  # one unit: yes or no
        tops = found.scores[:, 0] > (0.5 if found.score == "probability" else 0)
    return [_Found(shown, int(top)) for shown, top in zip(found.map, tops, strict=True)]


def _step(layer: str, number: int, originals: Sequence[_Found], found: Sequence[_Found]) -> Step:
    got = [one.map is not None for one in found]
    kept = sum(a.top == b.top for a, b in zip(originals, found, strict=True))
    blank = sum(one.blank for one in found)
    return Step(layer, number, _alike(originals, found), blank, got.count(False), kept)


def _known(step: Step, measure: str) -> float:
    mean = step.alike[measure].mean
    assert mean is not None  # of a judged step
    return mean


def _reach(step: Step, limits: Mapping[str, float]) -> bool:
    return all(_known(step, m) >= least for m, least in limits.items())


def _alike(some: Sequence[_Found], others: Sequence[_Found]) -> dict[str, Alike]:
    pairs = [
        (a.map, b.map)
        for a, b in zip(some, others, strict=False)
        if a.map is not None and b.map is not None and not a.blank and not b.blank
    ]
    found = {}
    for name, measure in MEASURES.items():
        values = [v for v in (measure(a, b) for a, b in pairs) if v is not None]
        many = len(values) > 1
        error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if many else None
        found[name] = Alike(float(np.mean(values)) if values else None, error, len(values))
    return found
