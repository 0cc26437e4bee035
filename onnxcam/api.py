"""The library's front door: `Explainer`, and `explain` as a one-liner."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from onnxcam import labels, runtime
from onnxcam.batches import as_probabilities, check_finite, fitting, notes_on, size_of, views
from onnxcam.cache import Cache
from onnxcam.comparison import Comparison
from onnxcam.engine import Engine, Progress, full_batches, part_done
from onnxcam.errors import OptionError, PresetError
from onnxcam.explainer import Asked, Program, Recipe, availability, each_asked, recipe
from onnxcam.explainer.program import CHOSEN, RESULTS, SCORES
from onnxcam.explanation import Explanation, PictureExplanation
from onnxcam.feeding import fed, given_preset
from onnxcam.graph import Classifier
from onnxcam.graph.read import MAX_BYTES
from onnxcam.image import (
    MAX_PIXELS,
    Choice,
    Picture,
    Preset,
    adapt,
    candidates,
    choose,
    from_metadata,
    read_picture,
)
from onnxcam.loading import Source
from onnxcam.targets import Target, coded, for_each, negative, one_for_all

SMOOTHS = ("none", "pca", "tta", "pca+tta")


class Explainer:
    """Explains the decisions of one classifier.

    Sessions are made once and reused. Safe to call from several threads.
    """

    def __init__(
        self,
        model: Source,
        method: str = "ablation-cam",
        layer: str | int | None = None,
        score: str = "logit",
        provider: str = "auto",
        *,
        preset: Preset | str | os.PathLike[str] | Mapping[str, Any] | None = None,
        preset_fields: Mapping[str, Any] | None = None,
        class_names: Sequence[str] | None = None,
        ablation: str = "exact",
        units: Sequence[int] | None = None,
        patches_only: bool = False,
        smooth: str = "none",
        memory: int | None = None,
        threads: int = 0,
        image: str | None = None,
        output: str | None = None,
        inputs: Mapping[str, Any] | None = None,
        max_bytes: int = MAX_BYTES,
        max_pixels: int = MAX_PIXELS,
        cache: bool | str | os.PathLike[str] = False,
        **options: Any,
    ) -> None:
        """Loads the model and checks the settings; sessions are made on the first call.

        Args:
            model: path, bytes or message of an ONNX classifier, or one already loaded.
            method: a name of the method table ('onnxcam methods' lists them).
            layer: feature map by tensor name, node name or position from the end; None for the
                default.
            score: "logit" (before a final softmax or sigmoid) or "probability".
            provider: "auto", "cpu", "cuda", "tensorrt", …
            preset: how a picture becomes a tensor: a `Preset`, a name, a JSON file, or its fields;
                None looks beside and inside the model, and then at the picture.
            preset_fields: fields that replace the preset's, e.g. `{"channel_order": "BGR"}`.
            class_names: names of the classes in index order.
            ablation: "exact", or "literal" for the slow reference.
            units: the units to weigh, or None for all.
            patches_only: on token models, leave class tokens untouched when a unit goes off.
            smooth: "none"; "pca", the first principal component in place of the sum over units;
                "tta", the mean over six mirrored and rescaled views; or "pca+tta".
            memory: bytes for switched-off copies at once (default: 1 GiB, or half of the free
                GPU memory).
            threads: CPU threads, 0 for all cores.
            image, output, inputs: as for `onnxcam.load`; a value of `inputs` may also be the path
                of a picture, a .npy or a .npz file.
            max_bytes, max_pixels: largest model file and picture accepted.
            cache: keep what loading and compiling found out for the next process: True in the
                user's cache folder or the one that ONNXCAM_CACHE names, or a folder (see `Cache`).
            options: options of the method, e.g. `weight="slope"`.

        Raises:
            OnnxcamError: the model, or a setting, is not usable.
        """
        self.path = Path(model) if isinstance(model, str | os.PathLike) else None
        self._fed: tuple[str, ...] = ()
        self._cache = Cache(cache)
        if not isinstance(model, Classifier):
            inputs, self._fed = fed(model, inputs or {}, preset, self.path, max_bytes)
            told = {"image": image, "output": output, "inputs": inputs, "max_bytes": max_bytes}
            model = self._cache.load(model, **told)
        self.classifier: Classifier = model
        self.device = runtime.choose(provider, threads)
        self.max_pixels = max_pixels
        if smooth not in SMOOTHS:
            raise OptionError(f"smooth is {', '.join(SMOOTHS)}, not {smooth!r}")
        self.smooth = smooth
        self._common: dict[str, Any] = {
            "score": score,
            "ablation": ablation,
            "units": units,
            "patches_only": patches_only,
            "smooth": "pca" if "pca" in smooth else "none",
        }
        self._asked: Asked = (method, layer, tuple(sorted(options.items())))
        self.recipe: Recipe = self._recipe(self.classifier, self._asked, 1)
        self._engine = Engine(self.device, memory)
        self._programs: dict[Hashable, Program] = {}
        self._class_names = list(class_names) if class_names is not None else None
        if self._class_names is not None:
            labels.check_count(self._class_names, self.classifier.classes)
        self._preset_fields = dict(preset_fields or {})
        self._preset, self._preset_reason = self._stated_preset(preset)

    @property
    def labels(self) -> list[str] | None:
        """The class names: given, from the model's metadata, or ImageNet's for 1000 and 1001."""
        return self._names[0]

    @property
    def opposite(self) -> str | None:
        """Of a head of one unit with two names, that of the negative decision."""
        return self._names[1]

    @cached_property
    def _names(self) -> tuple[list[str] | None, str | None]:
        classes, held = self.classifier.classes, self._class_names
        if held is None:
            source = self.classifier.source
            held = labels.from_metadata(source.metadata, classes)
            held = held or labels.from_nodes(source.proto, classes)
        return labels.split(held or labels.imagenet_labels(classes), classes)

    def __call__(
        self, images: Any, target: Target = None, progress: Progress | None = None
    ) -> Explanation:
        """Explains a batch of images, an array shaped and scaled like the model's input.

        Args:
            images: (N, C, H, W) or (N, H, W, C) as the model takes it; one image may come without
                its batch axis.
            target: None for the top class of each image, an index or name for all, "top5", a
                sequence (N,) with one class for each image, or an array (N, M) with several.
                "not:cat", "not:3" or "not:top1" asks about the negative decision: −y of a logit y
                is explained, 1 − p of a probability p. Of a head of one unit the target 0 is that
                unit, not:0 the decision against it.
            progress: called with (done, all) while blocks of units run.

        Raises:
            TargetError: a class does not exist.
            ModelError: the array does not fit, or the model gives NaN or infinity.
            RuntimeFailure: the run failed.
        """
        batch = fitting(self.classifier.image, images)
        wanted = for_each(target, self.labels, self.classifier.classes, len(batch), self.opposite)
        return self._run(batch, wanted, progress)[0]

    def _run(
        self,
        batch: np.ndarray,
        wanted: np.ndarray,
        progress: Progress | None,
        asked: Sequence[Asked] = (),
    ) -> list[Explanation]:
        """One explanation for each of `asked`; none: for the explainer's own method."""
        run = self._averaged if "tta" in self.smooth else self._once
        return run(batch, wanted, progress, asked or [self._asked])

    def _once(
        self,
        batch: np.ndarray,
        wanted: np.ndarray,
        progress: Progress | None,
        asked: Sequence[Asked],
    ) -> list[Explanation]:
        targets = wanted.shape[-1] if wanted.ndim > 1 else 1
        program = self._program(targets, size_of(batch, self.classifier.image.layout), asked)
        rows = wanted.reshape(len(batch), -1)
        found = self._engine.run(program, batch, rows, progress)
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
            provider=self.device.provider,
            labels=self.labels,
            opposite=self.opposite,
            model=self.classifier.name,
            title=what.method.title,
            options=dict(what.settings),
            smooth=self.smooth,
        )
        values, negated = explained.target_score, explained.negated
        notes = notes_on(what, values, negated, kinds["gap"], kinds["map"], classes == 1)
        return replace(explained, notes=(*self._fed, *program.notes, *notes))

    def _averaged(
        self,
        batch: np.ndarray,
        wanted: np.ndarray,
        progress: Progress | None,
        asked: Sequence[Asked],
    ) -> list[Explanation]:
        """The means of the maps over mirrored and rescaled views, all about the same classes."""
        whole: list[Explanation] = []
        every = list(views(batch, self.classifier.image.layout))
        for number, (view, mirrored) in enumerate(every):
            onward = progress and partial(part_done, progress, number, len(every))
            if whole:
                wanted = coded(whole[0].target, whole[0].negated, self.classifier.classes)
            found = self._once(view, wanted, onward, asked)
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

    def explain(
        self, picture: Any, target: Target = None, progress: Progress | None = None
    ) -> PictureExplanation:
        """Explains the decision on one picture.

        Args:
            picture: path, bytes, file, PIL image, array (H, W, 3), or a `Picture`.
            target: a class by index or name, "top5", or several of them; None for the top class;
                with "not:" before it the decision against a class.
            progress: as for calling the explainer.

        Raises:
            OnnxcamError: the picture, the class or the preprocessing is not usable.
        """
        return self._pictured(picture, target, progress, [self._asked])[0]

    def compare(
        self,
        picture: Any,
        methods: Sequence[str],
        target: Target = None,
        layers: Sequence[str | int | None] = (None,),
        progress: Progress | None = None,
        **options: Any,
    ) -> Comparison:
        """Explains the decision on one picture by several methods, which share their work.

        Args:
            picture, target, progress: as for `explain`.
            methods: names of the method table.
            layers: feature maps; each method that works on one is asked about all of them.
            options: options of methods; each goes to the methods that have it.

        Returns:
            An explanation for each method, and for each of its feature maps.

        Raises:
            OnnxcamError: as for `explain`; an option that none of the methods has.
        """
        asked = each_asked(methods, layers, options)
        found = self._pictured(picture, target, progress, asked)
        return Comparison(tuple(found))

    def _pictured(
        self, picture: Any, target: Target, progress: Progress | None, asked: Sequence[Asked]
    ) -> list[PictureExplanation]:
        taken = (
            picture
            if isinstance(picture, Picture)
            else read_picture(picture, max_pixels=self.max_pixels)
        )
        preset, reason = self.preset_for([taken])
        one = one_for_all(target, self.labels, self.classifier.classes, self.opposite)
        batch = fitting(self.classifier.image, preset.tensor(taken))
        return [
            PictureExplanation(
                **{name: getattr(found, name) for name in found.__dataclass_fields__},
                picture=taken,
                geometry=preset.geometry(taken.width, taken.height),
                preset=preset,
                preset_reason=reason,
            )
            for found in self._run(batch, one[None], progress, asked)
        ]

    @property
    def preset(self) -> Preset | None:
        """How a picture becomes a tensor; None where nothing states it and none was guessed yet."""
        return self._preset

    @property
    def preset_reason(self) -> str:
        """Where the preset came from, in words; empty while there is none."""
        return self._preset_reason

    def preset_for(self, pictures: Iterable[Picture]) -> tuple[Preset, str]:
        """The preset for the model's input and where it came from; guessed from `pictures` if need.

        A guess is made once and kept. Where there is no need, `pictures` is not iterated.
        """
        if self._preset is None:
            choice = self.preset_choice(list(pictures))
            self._preset, self._preset_reason = choice.preset, choice.reason
        return self._preset, self._preset_reason

    def preset_choice(self, pictures: Sequence[Picture]) -> Choice:
        """How every candidate preset would do on `pictures`, and which is chosen."""
        image, classifier = self.classifier.image, self.classifier
        size = (None, None) if image.free else image.size
        dtype = str(image.dtype)
        producer = classifier.source.proto.producer_name
        form = (image.channels, size, image.layout, dtype, classifier.classes, producer)
        tried = candidates(*form, image.prepared.pixels, image.prepared.resizes)
        different: dict[Preset, Preset] = {}
        for preset in map(self._fitted, tried):  # given fields can make two the same: keep one
            different.setdefault(preset.replace(name="", source=""), preset)
        return choose(list(different.values()), pictures, self.probabilities)

    def _fitted(self, preset: Preset) -> Preset:
        """`preset` with the fields that were given, fitted to the model's input."""
        image, given = self.classifier.image, self._preset_fields
        changed = preset.replace(**given)
        if "layout" in given and changed.layout != image.layout:
            raise PresetError(f"the model takes {image.layout} images, not {changed.layout}")
        size = (None, None) if image.free else image.size
        return adapt(changed, image.channels, size, image.layout, str(image.dtype))

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Class probabilities (N, classes): after softmax, or sigmoid where the model says so.

        The only unit of a head of one takes a sigmoid, too.
        """
        classifier, name = self.classifier, self.classifier.image.name
        size = size_of(images, classifier.image.layout)
        free = classifier.image.free
        resized = self._cache.resized(classifier, size) if free else classifier
        session = self._engine.session(("plain", size), resized.model)
        step = classifier.batch or len(images)
        filled = full_batches(images, classifier.batch)
        rows = [session.run({name: filled[i : i + step]})[0] for i in range(0, len(filled), step)]
        out = np.concatenate(rows).reshape(len(filled), -1)[: len(images)].astype(np.float64)
        return as_probabilities(out, classifier.score, classifier.classes)

    def methods(self, layer: str | int | None = None) -> dict[str, str | None]:
        """Why each method cannot explain the model at `layer`, or None where it can.

        Without `layer` at the explainer's own feature map, else at the default one.
        """
        asked = self.recipe.layer if layer is None else self.classifier.layer(layer)
        return availability(self.classifier, asked, self.recipe.score)

    def program(self, targets: int = 1) -> Program:
        """The compiled explainer for `targets` classes an image."""
        return self._program(targets, self.classifier.image.size, [self._asked])

    def _program(self, targets: int, size: tuple[int, int], asked: Sequence[Asked]) -> Program:
        """The program for images of a size, made once."""
        key = (targets, size, tuple(asked))
        if key not in self._programs:
            classifier = self._cache.resized(self.classifier, size)
            recipes = [self._recipe(classifier, one, targets) for one in asked]
            self._programs.setdefault(key, self._cache.program(classifier, recipes))
        return self._programs[key]

    def _recipe(self, classifier: Classifier, asked: Asked, targets: int) -> Recipe:
        method, layer, settings = asked
        return recipe(
            classifier, method, layer, targets=targets, options=dict(settings), **self._common
        )

    def _stated_preset(self, preset: Any) -> tuple[Preset | None, str]:
        found = given_preset(preset, self.path)
        if found is not None:
            where = f"from {found.source}" if preset is None else f"{found.name!r}, as asked for"
            reason = f"preset {where}"
        else:
            found = from_metadata(self.classifier.source.metadata)
            reason = "preset from the model's metadata"
        if found is None:
            return None, ""
        if self._preset_fields:
            reason += f", with {', '.join(self._preset_fields)} as given"
        return self._fitted(found), reason


def explain(
    model: Source, picture: Any, target: Target = None, **options: Any
) -> PictureExplanation:
    """Explains the decision of `model` on `picture`; options as for `Explainer`."""
    return Explainer(model, **options).explain(picture, target)
