"""The library's front door: `Explainer`, and `explain` and `split` as one-liners."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx

from onnxcam import graph, labels, runtime
from onnxcam.engine import Engine, Progress
from onnxcam.errors import ModelError, OptionError, PresetError, RuntimeFailure
from onnxcam.explainer import Program, Recipe, compile_program, recipe
from onnxcam.explainer.program import CHOSEN, RESULTS, SCORES
from onnxcam.explanation import Explanation, PictureExplanation
from onnxcam.graph import Classifier, Model
from onnxcam.graph.read import MAX_BYTES
from onnxcam.image import (
    MAX_PIXELS,
    Choice,
    Picture,
    Preset,
    adapt,
    candidates,
    choose,
    find_sidecar,
    from_metadata,
    load_preset,
    read_picture,
)
from onnxcam.targets import Target, for_each, one_for_all

Source: TypeAlias = "str | os.PathLike[str] | bytes | onnx.ModelProto | Classifier"


def probe(model: Model, feeds: dict[str, np.ndarray], outputs: list[str]) -> list[np.ndarray]:
    """Runs `model` on the CPU with any of its tensors as outputs; how shapes are told at last."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    known = {o.name for o in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=n) for n in outputs if n not in known)
    session = runtime.Session(proto.SerializeToString(), model.weights, runtime.Device("cpu"))
    return session.run(feeds, outputs)


def load(source: Source, **options: Any) -> Classifier:
    """A classifier from a path, bytes or message; see `onnxcam.graph.load` for the options."""
    if isinstance(source, Classifier):
        return source
    return graph.load(source, probe=probe, **options)


def inputs_of(classifier: Classifier) -> list[tuple[str, str, list[int | str]]]:
    """Name, type and shape of every input of the model, as its file states them."""
    found = []
    for value in classifier.source.proto.graph.input:
        kind = value.type.tensor_type
        shape = [d.dim_param or (d.dim_value if d.HasField("dim_value") else "?")
                 for d in kind.shape.dim]  # fmt: skip
        found.append((value.name, onnx.TensorProto.DataType.Name(kind.elem_type).lower(), shape))
    return found


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
            smooth: "none", or "pca": the first principal component in place of the sum over units.
            memory: bytes for switched-off copies at once (default: 1 GiB, or half of the free
                GPU memory).
            threads: CPU threads, 0 for all cores.
            image, output, inputs: as for `onnxcam.load`.
            max_bytes, max_pixels: largest model file and picture accepted.
            options: options of the method, e.g. `weight="slope"`.

        Raises:
            OnnxcamError: the model, or a setting, is not usable.
        """
        self.classifier = (
            load(model, image=image, output=output, inputs=inputs, max_bytes=max_bytes)
            if not isinstance(model, Classifier)
            else model
        )
        self.device = runtime.choose(provider, threads)
        self.path = Path(model) if isinstance(model, str | os.PathLike) else None
        self.max_pixels = max_pixels
        self._options: dict[str, Any] = {
            "method": method,
            "layer": layer,
            "score": score,
            "ablation": ablation,
            "units": units,
            "patches_only": patches_only,
            "smooth": smooth,
            "options": options,
        }
        self.recipe: Recipe = recipe(self.classifier, **self._options)
        self._engine = Engine(self.device, memory)
        self._programs: dict[tuple[int, tuple[int, int]], Program] = {}
        self._class_names = list(class_names) if class_names is not None else None
        if self._class_names is not None and len(self._class_names) != self.classifier.classes:
            raise OptionError(
                f"{len(self._class_names)} class names were given, but the model has "
                f"{self.classifier.classes} classes"
            )
        self._preset_fields = dict(preset_fields or {})
        self._preset, self._preset_reason = self._stated_preset(preset)

    @cached_property
    def labels(self) -> list[str] | None:
        """The class names: given, from the model's metadata, or ImageNet's for 1000 and 1001."""
        classes = self.classifier.classes
        if self._class_names is not None:
            return self._class_names
        held = labels.from_metadata(self.classifier.source.metadata, classes)
        return held or labels.imagenet_labels(classes)

    def __call__(
        self, images: Any, target: Target = None, progress: Progress | None = None
    ) -> Explanation:
        """Explains a batch of images, an array shaped and scaled like the model's input.

        Args:
            images: (N, C, H, W) or (N, H, W, C) as the model takes it; one image may come without
                its batch axis.
            target: None for the top class of each image, an index or name for all, "top5", a
                sequence (N,) with one class for each image, or an array (N, M) with several.
            progress: called with (done, all) while blocks of units run.

        Raises:
            TargetError: a class does not exist.
            ModelError: the array does not fit, or the model gives NaN or infinity.
            RuntimeFailure: the run failed.
        """
        batch = self._fitting(images)
        wanted = for_each(target, self.labels, self.classifier.classes, len(batch))
        return self._run(batch, wanted, progress)

    def _run(self, batch: np.ndarray, wanted: np.ndarray, progress: Progress | None) -> Explanation:
        program = self.program(wanted.shape[-1] if wanted.ndim > 1 else 1, batch)
        rows = wanted.reshape(len(batch), -1)
        found = self._engine.run(program, batch, rows, progress)
        scores, chosen = found[SCORES], found[CHOSEN]
        kinds: dict[str, Any] = {kind: found.get(f"onnxcam/0/{kind}") for kind in RESULTS}
        self._finite(scores, kinds["raw"])
        shape = wanted.shape
        what = program.recipes[0]
        shaped: dict[str, Any] = {k: None if v is None else v.reshape(*shape, *v.shape[2:])
                  for k, v in kinds.items()}  # fmt: skip
        return Explanation(
            scores=scores,
            target=chosen.reshape(shape),
            **shaped,
            method=what.method.name,
            layer=None if what.layer is None else what.layer.tensor,
            score=what.score,
            provider=self.device.provider,
            labels=self.labels,
            notes=(*program.notes, *self._score_notes(scores, chosen)),
            model=self.classifier.name,
            title=what.method.title,
            options=dict(what.settings),
        )

    def explain(
        self, picture: Any, target: Target = None, progress: Progress | None = None
    ) -> PictureExplanation:
        """Explains the decision on one picture.

        Args:
            picture: path, bytes, file, PIL image, array (H, W, 3), or a `Picture`.
            target: a class by index or name, "top5", or several of them; None for the top class.
            progress: as for calling the explainer.

        Raises:
            OnnxcamError: the picture, the class or the preprocessing is not usable.
        """
        taken = (
            picture
            if isinstance(picture, Picture)
            else read_picture(picture, max_pixels=self.max_pixels)
        )
        preset, reason = self.preset_for([taken])
        one = one_for_all(target, self.labels, self.classifier.classes)
        found = self._run(self._fitting(preset.tensor(taken)), one[None], progress)
        fields = {name: getattr(found, name) for name in found.__dataclass_fields__}
        return PictureExplanation(
            **fields,
            picture=taken,
            geometry=preset.geometry(taken.width, taken.height),
            preset=preset,
            preset_reason=reason,
        )

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
        tried = candidates(image.channels, size, image.layout, dtype, classifier.classes, producer)
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
        """Class probabilities (N, classes): after softmax, or sigmoid where the model says so."""
        classifier, name = self.classifier, self.classifier.image.name
        size = _size(images, classifier.image.layout)
        resized = classifier.resized(size) if classifier.image.free else classifier
        session = self._engine.session(("plain", size), resized.model)
        step = classifier.batch or len(images)
        rows = [session.run({name: images[i : i + step]})[0] for i in range(0, len(images), step)]
        out = np.concatenate(rows).reshape(len(images), -1).astype(np.float64)
        if classifier.score.activation == "log-softmax":
            return np.asarray(np.exp(out))
        if classifier.score.probability is not None:
            return out
        out = np.exp(out - out.max(axis=1, keepdims=True))
        return np.asarray(out / out.sum(axis=1, keepdims=True))

    def program(self, targets: int = 1, images: np.ndarray | None = None) -> Program:
        """The compiled explainer for `targets` classes an image, made once for each size."""
        size = self.classifier.image.size
        if images is not None:
            size = _size(images, self.classifier.image.layout)
        key = (targets, size)
        if key not in self._programs:
            classifier = self.classifier.resized(size)
            what = recipe(classifier, targets=targets, **self._options)
            self._programs.setdefault(key, compile_program(classifier, [what]))
        return self._programs[key]

    def _stated_preset(self, preset: Any) -> tuple[Preset | None, str]:
        if isinstance(preset, Mapping):
            preset = Preset.from_json(dict(preset), "the fields given")
        found = load_preset(preset) if isinstance(preset, str | os.PathLike) else preset
        reason = f"preset {found.name!r}, as asked for" if found is not None else ""
        if found is None and self.path is not None:
            found = find_sidecar(self.path)
            reason = f"preset from {found.source}" if found is not None else ""
        if found is None:
            found = from_metadata(self.classifier.source.metadata)
            reason = "preset from the model's metadata" if found is not None else ""
        if found is None:
            return None, ""
        if self._preset_fields:
            reason += f", with {', '.join(self._preset_fields)} as given"
        return self._fitted(found), reason

    def _fitting(self, images: Any) -> np.ndarray:
        image = self.classifier.image
        try:
            batch = np.asarray(images)
        except ValueError:
            raise ModelError(
                f"the model takes images of shape {image.shape()}, and rows of different lengths "
                "were given"
            ) from None
        if batch.ndim == 3:
            batch = batch[None]
        expected = [n for n in image.shape()][1:]
        free = {1, 2} if image.layout == "NHWC" else {2, 3}
        fits = (
            batch.ndim == 4
            and len(batch) > 0
            and all(
                got == want or (image.free and axis in free and got > 0)
                for axis, (got, want) in enumerate(zip(batch.shape[1:], expected, strict=False), 1)
            )
        )
        if not fits:
            shown = [str(n) for n in expected]
            if image.free:
                shown = [
                    {1: "H", 2: "W"}.get(i - min(free) + 1, n) if i in free else n
                    for i, n in enumerate(shown, 1)
                ]
            raise ModelError(
                f"the model takes images of shape (N, {', '.join(shown)}) "
                f"[{image.layout}, {image.dtype}], not {np.shape(images)}; "
                "explain(picture) reads and fits any picture"
            )
        if batch.dtype != image.dtype:
            floats = np.issubdtype(batch.dtype, np.floating) and np.issubdtype(
                image.dtype, np.floating
            )
            if not floats and not np.can_cast(batch.dtype, image.dtype):
                raise ModelError(f"the model takes {image.dtype} images, not {batch.dtype}")
            batch = batch.astype(image.dtype)
        return np.ascontiguousarray(batch)

    def _finite(self, scores: np.ndarray, raw: np.ndarray) -> None:
        if not np.isfinite(scores).all():
            raise RuntimeFailure(
                "the model gives NaN or infinity as a score for this image; check the "
                "preprocessing ('onnxcam inspect --image' shows what each preset would predict)"
            )
        if not np.isfinite(raw).all():
            raise RuntimeFailure(
                "the scores of switched-off units are NaN or infinite, so there is no map; "
                "another --layer may do"
            )

    def _score_notes(self, scores: np.ndarray, chosen: np.ndarray) -> list[str]:
        if dict(self.recipe.settings).get("weight") == "slope":
            return []
        values = scores[np.arange(len(scores))[:, None], chosen]
        if (values >= 1e-30).all():
            return []
        notes = []
        for value in np.unique(values):
            if abs(value) < 1e-30:
                notes.append(
                    "a score is 0: its weights are the drops themselves, not divided by it"
                )
            elif value < 0:
                notes.append(
                    f"the score {value:.4g} is negative: dividing by it turns the signs of the "
                    "weights around, as the paper's formula says"
                )
        return notes


def _size(images: np.ndarray, layout: str) -> tuple[int, int]:
    h, w = images.shape[2:4] if layout == "NCHW" else images.shape[1:3]
    return int(h), int(w)


def explain(
    model: Source, picture: Any, target: Target = None, **options: Any
) -> PictureExplanation:
    """Explains the decision of `model` on `picture`; options as for `Explainer`."""
    return Explainer(model, **options).explain(picture, target)


def split(
    model: Source, layer: str | int | None = None, **options: Any
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Features and head of a classifier as complete ONNX models; options as for `onnxcam.load`."""
    features, head = graph.split(load(model, **options), layer)
    return features.complete(), head.complete()
