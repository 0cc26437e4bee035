"""One classifier and what is asked of it: arrays in, explanations out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from time import perf_counter
from typing import Any

import numpy as np

from onnxcam import labels
from onnxcam.asking import Asked
from onnxcam.batches import as_probabilities, check_finite, notes_on, of_logits, size_of, views
from onnxcam.cache import Cache
from onnxcam.calls import Call
from onnxcam.engine import Engine, Results, full_batches
from onnxcam.errors import OnnxcamError
from onnxcam.events import event
from onnxcam.explainer import Program, Recipe, recipe
from onnxcam.explainer.program import CHOSEN, RESULTS, SCORES
from onnxcam.explanation import Explanation
from onnxcam.graph import Classifier, logits
from onnxcam.many import tried
from onnxcam.pool import Pool
from onnxcam.runtime import Session
from onnxcam.targets import coded, negative

MOST_PROGRAMS = 16
"""Compiled explainers kept: of a free image size each size has its own, with its sessions."""


class Core:
    """Compiles for what is asked, once, and runs it. Safe to use from several threads."""

    def __init__(
        self,
        classifier: Classifier,
        engine: Engine,
        cache: Cache,
        smooth: str,
        common: Mapping[str, Any],
        class_names: Sequence[str] | None,
        notes: tuple[str, ...],
    ) -> None:
        """Compiles nothing yet.

        Args:
            classifier: what is explained.
            engine: what runs it.
            cache: what compiles for it.
            smooth: as for `Explainer`.
            common: options of the recipes of all methods.
            class_names: the names of its classes, where they were given.
            notes: sentences that go with every explanation.
        """
        self.classifier, self.engine, self.smooth = classifier, engine, smooth
        self._cache = cache
        self._common, self._notes = common, notes
        self._class_names = list(class_names) if class_names is not None else None
        if self._class_names is not None:
            labels.check_count(self._class_names, classifier.classes)
        self._programs: Pool[Program] = Pool(MOST_PROGRAMS)
        self._plain: Pool[Session] = Pool(MOST_PROGRAMS)

    @cached_property
    def names(self) -> tuple[list[str] | None, str | None]:
        """The class names, and that of the negative decision of a head of one unit."""
        classes, held = self.classifier.classes, self._class_names
        if held is None:
            source = self.classifier.source
            held = labels.from_metadata(source.metadata, classes)
            held = held or labels.from_nodes(source.proto, classes)
        return labels.split(held or labels.imagenet_labels(classes), classes)

    def log(self, level: int, name: str, start: float, **facts: Any) -> None:
        """Logs an event that began at `start`."""
        event(level, name, model=self.classifier.name, **facts, seconds=perf_counter() - start)

    def run(
        self,
        batch: np.ndarray,
        wanted: np.ndarray,
        call: Call | None,
        asked: Sequence[Asked],
    ) -> list[Explanation]:
        """One explanation of `wanted` (N,) or (N, M), for each of `asked`."""
        run = self._averaged if "tta" in self.smooth else self._once
        return run(batch, wanted, call or Call(), asked)

    def _once(
        self, batch: np.ndarray, wanted: np.ndarray, call: Call, asked: Sequence[Asked]
    ) -> list[Explanation]:
        return self._explanations(*self.found(batch, wanted, call, asked), wanted)

    def found(
        self, batch: np.ndarray, wanted: np.ndarray, call: Call, asked: Sequence[Asked]
    ) -> tuple[Program, Results]:
        """What the compiled explainer gives, by output name, and that explainer."""
        targets = wanted.shape[-1] if wanted.ndim > 1 else 1
        program = self.program(targets, size_of(batch, self.classifier.image.layout), asked)
        start = perf_counter()
        found = self.engine.run(program, batch, wanted.reshape(len(batch), -1), call)
        self.log(
            logging.DEBUG, "run", start, method=_names(asked), images=len(batch), targets=targets,
            provider=self.engine.provider,
        )  # fmt: skip
        return program, found

    def _explanations(
        self, program: Program, found: Results, wanted: np.ndarray
    ) -> list[Explanation]:
        explained = []
        for number, what in enumerate(program.recipes):
            kinds = {kind: found.get(f"onnxcam/{number}/{kind}") for kind in RESULTS}
            explained.append(self._explained(program, what, found, kinds, wanted))
        return explained

    def _explained(
        self,
        program: Program,
        what: Recipe,
        found: Mapping[str, np.ndarray],
        kinds: Mapping[str, Any],
        wanted: np.ndarray,
    ) -> Explanation:
        scores, chosen = found[SCORES], found[CHOSEN]
        check_finite(what, scores, kinds["raw"])
        classes, shape = self.classifier.classes, wanted.shape
        shaped: dict[str, Any] = {
            kind: None if array is None else array.reshape(*shape, *array.shape[2:])
            for kind, array in kinds.items()
        }
        explained = Explanation(
            scores=scores,
            target=chosen.reshape(shape),
            negated=negative(wanted, classes),
            **shaped,
            method=what.method.name,
            layer=None if what.layer is None else what.layer.tensor,
            score=what.score,
            provider=self.engine.provider,
            labels=self.names[0],
            opposite=self.names[1],
            model=self.classifier.name,
            title=what.method.title,
            options=dict(what.settings),
            smooth=self.smooth,
        )
        values, negated = explained.target_score, explained.negated
        notes = notes_on(what, values, negated, kinds["gap"], kinds["map"], classes == 1)
        return replace(explained, notes=(*self._notes, *program.notes, *notes))

    def _averaged(
        self, batch: np.ndarray, wanted: np.ndarray, call: Call, asked: Sequence[Asked]
    ) -> list[Explanation]:
        """The means of the maps over mirrored and rescaled views, all about the same classes."""
        whole: list[Explanation] = []
        every = list(views(batch, self.classifier.image.layout))
        for number, (view, mirrored) in enumerate(every):
            call.part(number, len(every))
            if whole:
                wanted = coded(whole[0].target, whole[0].negated, self.classifier.classes)
            found = self._once(view, wanted, call, asked)
            for i, one in enumerate(found):
                if not number:
                    whole.append(one)
                    continue
                raw, shown = (np.flip(m, -1) if mirrored else m for m in (one.raw, one.map))
                whole[i] = replace(
                    whole[i],
                    raw=whole[i].raw + (raw - whole[i].raw) / (number + 1),
                    map=whole[i].map + (shown - whole[i].map) / (number + 1),
                )
        return whole

    def rows(
        self, batch: np.ndarray, wanted: np.ndarray, call: Call, asked: Asked
    ) -> list[Explanation | OnnxcamError]:
        """An explanation, or an error, for each image by itself."""
        rows = [slice(i, i + 1) for i in range(len(batch))]
        if "tta" in self.smooth:
            return [
                tried(lambda i: self.run(batch[i], wanted[i], call, [asked])[0], i) for i in rows
            ]
        program, found = self.found(batch, wanted, call, [asked])
        parts = [({n: array[i] for n, array in found.items()}, wanted[i]) for i in rows]
        return [tried(lambda part: self._explanations(program, *part)[0], p) for p in parts]

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Class probabilities (N, classes): after softmax, or sigmoid where the model says so.

        The only unit of a head of one takes a sigmoid, too.
        """
        out = self._classified(images, "plain")
        return as_probabilities(out, self.classifier.score, self.classifier.classes)

    def scores(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits and probabilities, (N, classes) each, of one run; as `probabilities` has them."""
        score = self.classifier.score
        found = self._classified(images, "plain" if score.probability is None else "logits")
        each = score.activation == "sigmoid" or self.classifier.classes == 1
        return found, of_logits(found, each)

    def _classified(self, images: np.ndarray, part: str) -> np.ndarray:
        """What the model gives for each image, (N, classes): its outputs, or its logits."""
        classifier, name = self.classifier, self.classifier.image.name
        size = size_of(images, classifier.image.layout)

        def made() -> Session:
            resized = self._cache.resized(classifier, size)
            return self.engine.session(logits(resized) if part == "logits" else resized.model, part)

        session = self._plain.get((part, size), made)
        step = classifier.batch or len(images)
        filled = full_batches(images, classifier.batch)
        rows = [session.run({name: filled[i : i + step]})[0] for i in range(0, len(filled), step)]
        return np.concatenate(rows).reshape(len(filled), -1)[: len(images)].astype(np.float64)

    def program(self, targets: int, size: tuple[int, int], asked: Sequence[Asked]) -> Program:
        """The program for images of a size, made once."""

        def made() -> Program:
            start = perf_counter()
            classifier = self._cache.resized(self.classifier, size)
            recipes = [self.recipe(classifier, one, targets) for one in asked]
            program = self._cache.program(classifier, recipes)
            layer, method = recipes[0].layer, _names(asked)
            self.log(
                logging.INFO, "compiled", start, method=method, layer=layer and layer.tensor,
                targets=targets, size=size, nodes=program.plan().nodes,
            )  # fmt: skip
            for note in program.notes:
                event(logging.WARNING, "note", model=classifier.name, method=method, note=note)
            return program

        return self._programs.get((targets, size, tuple(asked)), made)

    def recipe(self, classifier: Classifier, asked: Asked, targets: int) -> Recipe:
        """How `asked` is computed for a classifier, and so many classes of each image."""
        method, layer, settings = asked
        return recipe(
            classifier, method, layer, targets=targets, options=dict(settings), **self._common
        )


def _names(asked: Sequence[Asked]) -> str:
    return ", ".join(dict.fromkeys(name for name, _, _ in asked))
