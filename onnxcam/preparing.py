"""How pictures become tensors of a classifier: the preset that is stated, or guessed and kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxcam.errors import PresetError
from onnxcam.feeding import given_preset
from onnxcam.graph import Classifier
from onnxcam.image import (
    Choice,
    Picture,
    Preset,
    adapt,
    candidates,
    choose,
    choose_by_labels,
    from_metadata,
)


class Preparation:
    """The preset of one classifier. Safe to use from several threads."""

    def __init__(
        self,
        classifier: Classifier,
        preset: Any,
        fields: Mapping[str, Any],
        path: Path | None,
        probabilities: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        """Looks where a preset is stated.

        Args:
            classifier: whose images are prepared.
            preset: as for `given_preset`.
            fields: fields that replace the preset's.
            path: the model's file, where it has one.
            probabilities: runs the classifier, for guesses.

        Raises:
            PresetError: there is no such preset, or it does not fit.
        """
        self._classifier, self._fields, self._probabilities = classifier, fields, probabilities
        self._lock = threading.Lock()
        self._found: tuple[Preset | None, str] = self._stated(preset, path)

    @property
    def preset(self) -> Preset | None:
        """The preset; None where nothing states it and none was guessed yet."""
        return self._found[0]

    @property
    def reason(self) -> str:
        """Where it came from, in words; empty while there is none."""
        return self._found[1]

    def preset_for(self, pictures: Iterable[Picture]) -> tuple[Preset, str]:
        """The preset and where it came from; guessed from `pictures`, once, if need be."""
        with self._lock:
            if self._found[0] is None:
                choice = self.choice(list(pictures))
                self._found = choice.preset, choice.reason
            preset, reason = self._found
        assert preset is not None
        return preset, reason

    def choice(self, pictures: Sequence[Picture]) -> Choice:
        """How every candidate preset would do on `pictures`, and which is chosen."""
        return choose(self._candidates(), pictures, self._probabilities)

    def by_labels(self, pictures: Sequence[Picture], labels: Sequence[int]) -> None:
        """Takes the candidate that gives the pictures' own classes the most, if none is there yet.

        Args:
            pictures: at least one.
            labels: the class of each.

        Raises:
            PresetError: no candidate gives finite probabilities.
        """
        with self._lock:
            if self._found[0] is not None:
                return
            tried = self._candidates()
            self._found = choose_by_labels(tried, pictures, labels, self._probabilities)

    def _candidates(self) -> list[Preset]:
        image, classifier = self._classifier.image, self._classifier
        size = (None, None) if image.free else image.size
        dtype = str(image.dtype)
        producer = classifier.source.proto.producer_name
        form = (image.channels, size, image.layout, dtype, classifier.classes, producer)
        tried = candidates(*form, image.prepared.pixels, image.prepared.resizes)
        different: dict[Preset, Preset] = {}
        for preset in map(self._fitted, tried):  # given fields can make two the same: keep one
            different.setdefault(preset.replace(name="", source=""), preset)
        return list(different.values())

    def _fitted(self, preset: Preset) -> Preset:
        """`preset` with the fields that were given, fitted to the model's input."""
        image, given = self._classifier.image, self._fields
        changed = preset.replace(**given)
        if "layout" in given and changed.layout != image.layout:
            raise PresetError(f"the model takes {image.layout} images, not {changed.layout}")
        size = (None, None) if image.free else image.size
        return adapt(changed, image.channels, size, image.layout, str(image.dtype))

    def _stated(self, preset: Any, path: Path | None) -> tuple[Preset | None, str]:
        found = given_preset(preset, path)
        if found is not None:
            where = f"from {found.source}" if preset is None else f"{found.name!r}, as asked for"
            reason = f"preset {where}"
        else:
            found = from_metadata(self._classifier.source.metadata)
            reason = "preset from the model's metadata"
        if found is None:
            return None, ""
        if self._fields:
            reason += f", with {', '.join(self._fields)} as given"
        return self._fitted(found), reason
