"""Explains and judges one picture after another: the numbers of every method and metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from onnxcam.api import Explainer
from onnxcam.calls import Progress
from onnxcam.errors import PictureError
from onnxcam.evaluate.metric import Metric
from onnxcam.evaluate.metrics import CURVES
from onnxcam.evaluate.probes import probe
from onnxcam.evaluate.samples import Sample
from onnxcam.evaluate.trial import Trial, View
from onnxcam.explanation import PictureExplanation
from onnxcam.image import Picture, jpeg, panel, read_picture
from onnxcam.targets import signed

DISTURBED, RADIUS = 8, 0.02
"""Copies of a picture for max-sensitivity, and the noise's bound as a share of the range."""
SIDE = 240
"""Longest side of the pictures of a report."""


@dataclass
class Cost:
    """What a run took.

    Attributes:
        inferences: pictures that went through the model, explained ones counted once a method.
        model, whole: seconds in the plain model, and of everything.
        judged: of the inferences, those in the plain model.
    """

    inferences: int = 0
    judged: int = 0
    model: float = 0.0
    whole: float = 0.0


@dataclass(eq=False)
class Judge:
    """Judges the maps of several methods on one model.

    Attributes:
        explainer: of the model, with its preset and layer.
        methods: names of the methods.
        metrics: rows of the metric table.
        layer: feature map of the methods that work on one; None for the default.
        options: of the methods, as `Explainer.compare` takes them.
        steps: of insertion and deletion curves.
        batch: altered pictures that go through the model at once.
        seed: of all that is drawn.
        predicted: explain the model's best class, whatever the sample's is.
    """

    explainer: Explainer
    methods: Sequence[str]
    metrics: Sequence[Metric]
    layer: str | int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    steps: int = 32
    batch: int = 16
    seed: int = 0
    predicted: bool = False
    cost: Cost = field(default_factory=Cost)

    def __call__(
        self, sample: Sample, progress: Progress | None = None
    ) -> tuple[dict[str, Any], dict[str, bytes]]:
        """The row of a picture, and small JPEGs by method, "" for the picture itself.

        Raises:
            OnnxcamError: the picture cannot be read or explained.
        """
        start = perf_counter()
        picture = read_picture(sample.path, max_pixels=self.explainer.max_pixels)
        tensor = self.explainer.preset_for([picture])[0].tensor(picture)
        logits, probabilities = self._run(tensor)
        best = self._best(logits[0])
        code = best if self.predicted or sample.label is None else sample.label
        found = self.explainer.compare(
            picture, self.methods, self._asked(code), [self.layer], progress, **self.options
        )
        self.cost.inferences += len(self.methods)
        first = found[0]
        labels = {entry.label for entry in sample.entries} - {None}
        label = best if self.predicted and best in labels else sample.label
        view = self._view(sample, first, tensor, code, (logits, probabilities))
        own = {one.method: self._measured(Trial(view, one.of()), tensor, code, one)
               for one in found}  # fmt: skip
        row = {
            "picture": sample.name,
            "target": code,
            "target_name": first.decision(code),
            "predicted": best,
            "predicted_name": first.decision(best),
            "label": label,
            "right": best == label if labels else None,
            "logit": _rounded(view.logit),
            "probability": _rounded(view.probability),
            "methods": own,
        }
        self.cost.whole += perf_counter() - start
        return row, {"": _jpeg(picture), **{one.method: _jpeg(picture, one) for one in found}}

    @property
    def _classes(self) -> int:
        return self.explainer.classifier.classes

    def _best(self, logits: np.ndarray) -> int:
        """The model's best decision; of a head of one unit that may be the one against it."""
        return int(logits[0] <= 0) if self._classes == 1 else int(logits.argmax())

    def _asked(self, code: int) -> int | str:
        """A decision as `Explainer` takes it."""
        return code if code < self._classes else f"not:{code - self._classes}"

    def _view(
        self,
        sample: Sample,
        found: PictureExplanation,
        tensor: np.ndarray,
        code: int,
        scores: tuple[np.ndarray, np.ndarray],
    ) -> View:
        size = found.picture.height, found.picture.width
        black = found.preset.tensor(Picture(np.zeros((*size, 3), np.uint8)))
        logits, probabilities = self._own(scores, code)
        mine = next((e for e in sample.entries if e.label in (None, code)), Sample("", sample.path))
        mask = None if mine.mask is None else self._mask(mine.mask, size)
        others = [self._mask(one, size) for one in mine.other_masks]
        return View(
            self._planes(tensor)[0], self._planes(black)[0], float(logits[0]),
            float(probabilities[0]), size, found.geometry, mine.boxes, mask, self.seed,
            mine.others, np.logical_or.reduce(others) if others else None,
        )  # fmt: skip

    def _mask(self, path: Path, size: tuple[int, int]) -> np.ndarray:
        pixels = read_picture(path, max_pixels=self.explainer.max_pixels).pixels
        if pixels.shape[:2] != size:
            raise PictureError(
                f"{path}: the mask is {pixels.shape[1]}×{pixels.shape[0]} and its picture "
                f"{size[1]}×{size[0]}; they must be of one size"
            )
        return np.asarray(pixels.any(axis=-1))

    def _measured(
        self, trial: Trial, tensor: np.ndarray, code: int, found: PictureExplanation
    ) -> dict[str, Any]:
        """All metrics of one map, and the curves behind them."""
        self._judge(trial, code)
        if any(metric.again for metric in self.metrics):
            trial.again = self._again(tensor, code, found)
        return {
            "values": {metric.name: _written(metric.measure(trial)) for metric in self.metrics},
            "curves": {
                name: [_rounded(value) for value in probabilities]
                for name, (_, probabilities) in trial.judged.items()
                if name.split("-")[0] in CURVES
            },
        }

    def _judge(self, trial: Trial, code: int) -> None:
        """Runs all altered pictures of a trial, in batches across its probes."""
        names = dict.fromkeys(name for metric in self.metrics for name in metric.probes)
        altered = {name: probe(name, self.steps)(trial) for name in names}
        if not altered:
            return
        every = self._tensor(np.concatenate(list(altered.values())))
        parts = [
            self._own(self._run(every[i : i + self.batch]), code)
            for i in range(0, len(every), self.batch)
        ]
        logits, probabilities = (np.concatenate(kind) for kind in zip(*parts, strict=True))
        start = 0
        for name, pictures in altered.items():
            own = slice(start, start := start + len(pictures))
            trial.judged[name] = logits[own], probabilities[own]

    def _again(self, tensor: np.ndarray, code: int, found: PictureExplanation) -> np.ndarray:
        """Maps (DISTURBED, h, w) of the picture under a little noise."""
        planes, rng = self._planes(tensor), np.random.default_rng(self.seed)
        reach = RADIUS * float(np.ptp(planes))
        noise = rng.uniform(-reach, reach, (DISTURBED, *planes.shape[1:])).astype(np.float32)
        disturbed = self._tensor(planes + noise)
        own = {name: value for name, value in self.options.items() if name in found.options}
        self.cost.inferences += DISTURBED
        layers = [None if found.layer is None else self.layer]
        asked = [self._asked(code)] * DISTURBED
        one = self.explainer.compare_batch(disturbed, [found.method], asked, layers, **own)
        return one[0].map

    def _planes(self, tensor: np.ndarray) -> np.ndarray:
        """(N, C, H, W) in float32, whatever the model takes."""
        layout = self.explainer.classifier.image.layout
        moved = tensor if layout == "NCHW" else tensor.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(moved, np.float32)

    def _tensor(self, planes: np.ndarray) -> np.ndarray:
        """The other way round."""
        image = self.explainer.classifier.image
        moved = planes if image.layout == "NCHW" else planes.transpose(0, 2, 3, 1)
        if image.dtype.kind in "iu":
            limits = np.iinfo(image.dtype)
            moved = np.clip(np.rint(moved), limits.min, limits.max)
        return np.ascontiguousarray(moved, image.dtype)

    def _run(self, tensor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits and probabilities, (N, classes) each, of the plain model."""
        start = perf_counter()
        found = self.explainer.scores(tensor)
        self.cost.model += perf_counter() - start
        self.cost.inferences += len(tensor)
        self.cost.judged += len(tensor)
        return found

    def _own(
        self, scores: tuple[np.ndarray, np.ndarray], code: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Those of one decision, (N,) each."""
        target, negated = code % self._classes, np.asarray(code >= self._classes)
        logits, probabilities = (kind[:, target] for kind in scores)
        return signed(logits, negated, "logit"), signed(probabilities, negated, "probability")


def _written(value: float | str | None) -> float | str | None:
    return value if isinstance(value, str) else _rounded(value)


def _rounded(value: float | None) -> float | None:
    """A number as it is written down: six digits are more than any of them is worth."""
    return None if value is None or not np.isfinite(value) else float(f"{value:.6g}")


def _jpeg(picture: Picture, found: PictureExplanation | None = None) -> bytes:
    """The picture, or the heat on it; maps of single pixels alone, which a picture below hides."""
    if found is None:
        return jpeg(panel(picture, None, longest=SIDE))
    alpha = None if found.fine else 0.5
    return jpeg(panel(picture, found.heat(), longest=SIDE, alpha=alpha, seen=found.seen))
