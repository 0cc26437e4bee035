"""The library's front door: `Explainer`, and `explain` as a one-liner."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from onnxcam import many, runtime
from onnxcam.asking import Asked, asked_of
from onnxcam.batches import fitting
from onnxcam.cache import Cache
from onnxcam.calls import Call, Cancel, Progress
from onnxcam.comparison import Comparison
from onnxcam.core import Core
from onnxcam.engine import Engine
from onnxcam.errors import OnnxcamError, OptionError
from onnxcam.explainer import Program, Recipe, availability
from onnxcam.explanation import Explanation, PictureExplanation
from onnxcam.feeding import fed
from onnxcam.graph import Classifier
from onnxcam.graph.read import MAX_BYTES
from onnxcam.image import MAX_PIXELS, Choice, Picture, Preset
from onnxcam.loading import Source
from onnxcam.many import Prepared
from onnxcam.preparing import Preparation
from onnxcam.runtime import MakeSession, SessionOptions
from onnxcam.targets import Target, for_each, one_for_all

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
        session_options: SessionOptions = None,
        provider_options: Mapping[str, Any] | None = None,
        run_options: Mapping[str, Any] | None = None,
        make_session: MakeSession | None = None,
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
            session_options: attributes of `onnxruntime.SessionOptions` and its config entries, e.g.
                `{"intra_op_num_threads": 1, "session.intra_op.allow_spinning": 0}`; or a function
                that makes one for each session.
            provider_options: of the provider named, e.g. `{"device_id": 1}`.
            run_options: attributes and config entries of `onnxruntime.RunOptions`.
            make_session: called in place of `onnxruntime.InferenceSession`, with the same arguments
                (model, options, providers); gives such a session, or an object with its `run`,
                `get_inputs` and `get_outputs`.
            max_bytes, max_pixels: largest model file and picture accepted.
            cache: keep what loading and compiling found out for the next process: True in the
                user's cache folder or the one that ONNXCAM_CACHE names, or a folder (see `Cache`).
            options: options of the method, e.g. `weight="slope"`.

        Raises:
            OnnxcamError: the model, or a setting, is not usable.
        """
        self.path = Path(model) if isinstance(model, str | os.PathLike) else None
        start = perf_counter()
        notes: tuple[str, ...] = ()
        kept = Cache(cache)
        if not isinstance(model, Classifier):
            inputs, notes = fed(model, inputs or {}, preset, self.path, max_bytes)
            told = {"image": image, "output": output, "inputs": inputs, "max_bytes": max_bytes}
            model = kept.load(model, **told)
        self.classifier: Classifier = model
        self.device = runtime.choose(
            provider, threads, session_options=session_options, run_options=run_options,
            provider_options=provider_options, make_session=make_session,
        )  # fmt: skip
        self.max_pixels = max_pixels
        if smooth not in SMOOTHS:
            raise OptionError(f"smooth is {', '.join(SMOOTHS)}, not {smooth!r}")
        self.smooth = smooth
        common = {
            "score": score,
            "ablation": ablation,
            "units": units,
            "patches_only": patches_only,
            "smooth": "pca" if "pca" in smooth else "none",
        }
        engine = Engine(self.device, memory)
        self._core = Core(model, engine, kept, smooth, common, class_names, notes)
        self._asked: Asked = (method, layer, tuple(sorted(options.items())))
        self._core.log(logging.INFO, "loaded", start, classes=model.classes)
        self.recipe: Recipe = self._core.recipe(model, self._asked, 1)
        self._preparation = Preparation(
            model, preset, dict(preset_fields or {}), self.path, self._core.probabilities
        )

    def _run(
        self, batch: np.ndarray, wanted: np.ndarray, call: Call | None, asked: Sequence[Asked] = ()
    ) -> list[Explanation]:
        return self._core.run(batch, wanted, call, asked or [self._asked])

    @property
    def labels(self) -> list[str] | None:
        """The class names: given, from the model's metadata, or ImageNet's for 1000 and 1001."""
        return self._core.names[0]

    @property
    def opposite(self) -> str | None:
        """Of a head of one unit with two names, that of the negative decision."""
        return self._core.names[1]

    def __call__(
        self,
        images: Any,
        target: Target = None,
        progress: Progress | None = None,
        *,
        timeout: float | None = None,
        cancel: Cancel | None = None,
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
            progress: called with (done, all) while blocks of units run; what it raises ends the
                call.
            timeout: seconds that the call may take. Runs are stopped between two nodes; compiling,
                which `warm_up` does before, is not interrupted.
            cancel: what ends the call from another thread.

        Raises:
            TargetError: a class does not exist.
            ModelError: the array does not fit, or the model gives NaN or infinity.
            RuntimeFailure: the run failed.
            Timeout, Cancelled: the call was ended; the explainer goes on working.
        """
        with Call(progress, timeout, cancel) as call:
            return self._run(*self._about(images, target), call)[0]

    def _about(self, images: Any, target: Target) -> tuple[np.ndarray, np.ndarray]:
        """The batch, and the codes of what is asked about each image of it."""
        batch, classes = fitting(self.classifier.image, images), self.classifier.classes
        return batch, for_each(target, self.labels, classes, len(batch), self.opposite)

    def warm_up(
        self, targets: int = 1, batch: int = 1, size: tuple[int, int] | None = None
    ) -> float:
        """Does what the first call would have to: compiles, makes sessions, and runs on zeros.

        Args:
            targets: how many classes of an image later calls ask about.
            batch: how many images they have.
            size: height and width, where the model leaves them free.

        Returns:
            The seconds it took.

        Raises:
            OnnxcamError: as for calling the explainer.
        """
        start, image = perf_counter(), self.classifier.image
        shape = replace(image, size=size or image.size).shape(batch)
        zeros = fitting(image, np.zeros(shape, image.dtype))
        ranks = for_each(f"top{targets}", None, self.classifier.classes, batch)
        if self.preset is None:
            self.probabilities(zeros)
        with Call() as call:
            self._core.found(zeros, ranks, call, [self._asked])
        return perf_counter() - start

    def explain(
        self,
        picture: Any,
        target: Target = None,
        progress: Progress | None = None,
        *,
        timeout: float | None = None,
        cancel: Cancel | None = None,
    ) -> PictureExplanation:
        """Explains the decision on one picture.

        Args:
            picture: path, bytes, file, PIL image, array (H, W, 3), or a `Picture`.
            target: a class by index or name, "top5", or several of them; None for the top class;
                with "not:" before it the decision against a class.
            progress, timeout, cancel: as for calling the explainer.

        Raises:
            OnnxcamError: the picture, the class or the preprocessing is not usable, or the call was
                ended.
        """
        with Call(progress, timeout, cancel) as call:
            return self._pictured(picture, target, call, [self._asked])[0]

    def explain_many(
        self,
        pictures: Iterable[Any],
        target: Target = None,
        progress: Progress | None = None,
        *,
        batch: int = 8,
        timeout: float | None = None,
        cancel: Cancel | None = None,
    ) -> Iterator[PictureExplanation | OnnxcamError]:
        """Explains pictures as they come, read in a background thread while the model runs.

        Args:
            pictures: any iterable of what `explain` takes.
            target: as for `explain`, for all of them.
            progress: as for calling the explainer, for each batch.
            batch: how many go through the model at once, where their tensors have one shape; so
                many pictures are also read ahead.
            timeout: seconds for each batch.
            cancel: what ends it from another thread.

        Returns:
            An iterator. In the order of the pictures it gives an explanation each, or in its place
            the error, whose `picture` is the one given; it goes on after errors.

        Raises:
            TargetError: a class does not exist.
            Cancelled: from the iterator.
        """
        if batch < 1:
            raise OptionError(f"batch is a number of pictures, at least 1, not {batch}")
        one = one_for_all(target, self.labels, self.classifier.classes, self.opposite)
        Call(None, timeout, cancel)  # what is wrong with them is said now

        def run(tensors: np.ndarray) -> list[Explanation | OnnxcamError]:
            wanted = np.broadcast_to(one, (len(tensors), *one.shape))
            with Call(progress, timeout, cancel) as call:
                return self._core.rows(tensors, wanted, call, self._asked)

        return self._many(iter(pictures), run, batch)

    def _many(
        self, given: Iterator[Any], run: many.Run, batch: int
    ) -> Iterator[PictureExplanation | OnnxcamError]:
        first: list[Picture | OnnxcamError] = []
        if self.preset is None:
            first = many.some_read(given, self.max_pixels)
            if seen := [one for one in first if isinstance(one, Picture)]:
                self.preset_for(seen)
        yield from many.explained(chain(first, given), self._prepared, run, batch)

    def compare(
        self,
        picture: Any,
        methods: Sequence[str],
        target: Target = None,
        layers: Sequence[str | int | None] = (None,),
        progress: Progress | None = None,
        *,
        timeout: float | None = None,
        cancel: Cancel | None = None,
        **options: Any,
    ) -> Comparison:
        """Explains the decision on one picture by several methods, which share their work.

        Args:
            picture, target, progress, timeout, cancel: as for `explain`.
            methods: names of the method table.
            layers: feature maps; each method that works on one is asked about all of them.
            options: options of methods; each goes to the methods that have it.

        Returns:
            An explanation for each method, and for each of its feature maps.

        Raises:
            OnnxcamError: as for `explain`; an option that none of the methods has.
        """
        asked = asked_of(methods, layers, options)
        with Call(progress, timeout, cancel) as call:
            return Comparison(tuple(self._pictured(picture, target, call, asked)))

    def compare_batch(
        self,
        images: Any,
        methods: Sequence[str],
        target: Target = None,
        layers: Sequence[str | int | None] = (None,),
        **options: Any,
    ) -> list[Explanation]:
        """As calling the explainer, by several methods, which share their work.

        Args:
            images, target: as for calling the explainer.
            methods, layers, options: as for `compare`.
        """
        return self._run(*self._about(images, target), None, asked_of(methods, layers, options))

    def _pictured(
        self, picture: Any, target: Target, call: Call, asked: Sequence[Asked]
    ) -> list[PictureExplanation]:
        one = one_for_all(target, self.labels, self.classifier.classes, self.opposite)
        prepared = self._prepared(picture)
        found = self._run(prepared.tensor, one[None], call, asked)
        return [prepared.explained(each) for each in found]

    def _prepared(self, given: Any) -> Prepared:
        picture = many.read(given, self.max_pixels)
        preset, reason = self.preset_for([picture])
        tensor = fitting(self.classifier.image, preset.tensor(picture))
        return Prepared(given, picture, preset, reason, tensor)

    @property
    def preset(self) -> Preset | None:
        """How a picture becomes a tensor; None where nothing states it and none was guessed yet."""
        return self._preparation.preset

    @property
    def preset_reason(self) -> str:
        """Where the preset came from, in words; empty while there is none."""
        return self._preparation.reason

    def preset_for(self, pictures: Iterable[Picture]) -> tuple[Preset, str]:
        """The preset for the model's input and where it came from; guessed from `pictures` if need.

        A guess is made once and kept. Where there is no need, `pictures` is not iterated.
        """
        return self._preparation.preset_for(pictures)

    def preset_choice(self, pictures: Sequence[Picture]) -> Choice:
        """How every candidate preset would do on `pictures`, and which is chosen."""
        return self._preparation.choice(pictures)

    def preset_by_labels(self, pictures: Sequence[Picture], labels: Sequence[int]) -> None:
        """Guesses the preset, if need be: the one that gives the pictures' own classes the most."""
        self._preparation.by_labels(pictures, labels)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Class probabilities (N, classes): after softmax, or sigmoid where the model says so.

        The only unit of a head of one takes a sigmoid, too.
        """
        return self._core.probabilities(images)

    def scores(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits and probabilities, (N, classes) each, of one run."""
        return self._core.scores(images)

    def methods(self, layer: str | int | None = None) -> dict[str, str | None]:
        """Why each method cannot explain the model at `layer`, or None where it can.

        Without `layer` at the explainer's own feature map, else at the default one.
        """
        asked = self.recipe.layer if layer is None else self.classifier.layer(layer)
        return availability(self.classifier, asked, self.recipe.score)

    def program(self, targets: int = 1) -> Program:
        """The compiled explainer for `targets` classes an image."""
        return self._core.program(targets, self.classifier.image.size, [self._asked])


def explain(
    model: Source,
    picture: Any,
    target: Target = None,
    *,
    timeout: float | None = None,
    cancel: Cancel | None = None,
    **options: Any,
) -> PictureExplanation:
    """Explains the decision of `model` on `picture`; options as for `Explainer`."""
    return Explainer(model, **options).explain(picture, target, timeout=timeout, cancel=cancel)
