"""Explainers as files: `export` writes one ONNX model that explains wherever ONNX models run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxcam import __version__
from onnxcam.api import Explainer
from onnxcam.engine import MEMORY
from onnxcam.errors import OptionError
from onnxcam.explainer import Recipe
from onnxcam.explainer.file import Ends, explainer_model
from onnxcam.feeding import fed, given_preset
from onnxcam.files import write_together
from onnxcam.graph import Classifier, Model
from onnxcam.graph.half import halved
from onnxcam.graph.read import MAX_BYTES
from onnxcam.loading import Source, load
from onnxcam.targets import Target, one_for_all

GIVEN = "given"
MARK = "onnxcam."
"""What the metadata keys of an explainer file begin with."""


@dataclass(frozen=True)
class Exported:
    """An explainer made ready to be written.

    Attributes:
        model: the explainer.
        recipe: how it explains.
        source: the model that it explains, as it was read.
        notes: what the user should know, in sentences.
    """

    model: Model
    recipe: Recipe
    source: Model
    notes: tuple[str, ...]

    def contents(self, path: str | os.PathLike[str]) -> dict[Path, bytes]:
        """What has to be written: `path`, and beyond 2 GiB `path`.data with the weights."""
        file = Path(path)
        return {file.parent / name: data for name, data in self.model.files(file.name).items()}


def export(
    model: Source,
    path: str | os.PathLike[str],
    method: str = "ablation-cam",
    layer: str | int | None = None,
    *,
    force: bool = False,
    **options: Any,
) -> Path:
    """Writes an explainer as one ONNX file of standard operators: image in, scores and map out.

    The file gives the outputs of the model, unchanged and first, then `map` (N, h, w) and `class`
    (N,), what was explained; with several targets (N, M, h, w) and (N, M). It runs in any ONNX
    runtime that has its operators.

    Args:
        model: path, bytes or message of an ONNX classifier, or one already loaded.
        path: the file to write.
        method: a name of the method table.
        layer: feature map by tensor, node or position; None for the default.
        force: replace a file that exists.
        options: as for `exported`, and options of the method.

    Returns:
        The path.

    Raises:
        OnnxcamError: the model or an option is not usable, or the file cannot be written.
    """
    write_together(exported(model, method, layer, **options).contents(path), force)
    return Path(path)


def exported(
    model: Source,
    method: str = "ablation-cam",
    layer: str | int | None = None,
    *,
    targets: Target = GIVEN,
    size: tuple[int, int] | None = None,
    heatmap: bool = False,
    weights: bool = False,
    prefix: str = "",
    opset: int | None = None,
    float16: bool = False,
    memory: int = MEMORY,
    preset: Any = None,
    image: str | None = None,
    output: str | None = None,
    inputs: Mapping[str, Any] | None = None,
    max_bytes: int = MAX_BYTES,
    **settings: Any,
) -> Exported:
    """As `export`, without writing.

    Args:
        model, method, layer: as for `export`.
        targets: "given": an input `target`, int64 (N,), names a class for each image, −1 standing
            for the best one; else what is explained once and for all, as for `Explainer`: None or
            "top1", "top5", an index, a name, "not:cat", or several of these.
        size: height and width of the images, where the model leaves them free.
        heatmap: an output `heatmap`, the map normalised to 0 … 1 in the size of the image.
        weights: an output `weights`, those of the units, where the method has such.
        prefix: stands before the names of inputs and outputs that are added.
        opset: version of the operator set; None for 18, or the model's own if higher.
        float16: weights and computation up to the feature map are in half precision, head and
            explanation in float32; of methods on pixels up to the default feature map.
        memory: about how many bytes may be taken for switched-off copies, or one turn of a loop.
        preset: as for `Explainer`; written into the metadata, with the class names, where known.
        image, output, inputs, max_bytes: as for `onnxcam.load`.
        settings: `score`, `ablation`, `units`, `patches_only`, `smooth` (not "tta"),
            `preset_fields` and `class_names` as for `Explainer`, and options of the method.

    Raises:
        OnnxcamError: the model or an option is not usable.
    """
    path = Path(model) if isinstance(model, str | os.PathLike) else None
    if "tta" in settings.get("smooth", ""):
        raise OptionError("smooth 'tta' runs the model on six views: an explainer file has one run")
    fed_notes: tuple[str, ...] = ()
    if not isinstance(model, Classifier):
        values, fed_notes = fed(model, inputs or {}, preset, path, max_bytes)
        model = load(
            model, image=image, output=output, inputs=values, max_bytes=max_bytes,
            every_output=True, opset=opset,
        )  # fmt: skip
    classifier = _sized(model, size)
    if float16:
        classifier = _halved(classifier, layer)
    explainer = Explainer(
        classifier, method, layer, provider="cpu", preset=given_preset(preset, path), **settings
    )
    asked = None
    if targets != GIVEN:
        asked = one_for_all(targets, explainer.labels, classifier.classes, explainer.opposite)
    program = explainer.program(1 if asked is None else asked.size)
    own, notes = _own_outputs(classifier)
    made = explainer_model(program, own, Ends(asked, heatmap, weights, prefix), memory)
    _note(made, explainer, targets)
    what = explainer.recipe.method
    if float16 and not (what.on_layer and not what.fused):
        notes.append(
            "gradients for pixels in half precision are some percent off: rectifiers near zero "
            "fall to the other side"
        )
    return Exported(made, explainer.recipe, classifier.source, (*fed_notes, *notes, *program.notes))


def _sized(classifier: Classifier, size: tuple[int, int] | None) -> Classifier:
    image = classifier.image
    if size is None or size == image.size:
        return classifier
    if not image.free:
        raise OptionError(
            f"the model takes images of {image.size[0]}×{image.size[1]} only, not "
            f"{size[0]}×{size[1]}: leave out --size"
        )
    return classifier.resized(size)


def _halved(classifier: Classifier, layer: str | int | None) -> Classifier:
    """The classifier with its features in half precision."""
    found = classifier.default if layer is None else classifier.layer(layer)
    until = classifier.score.logit if found is None else found.tensor
    return replace(classifier, model=halved(classifier.model, classifier.image.name, until))


def _own_outputs(classifier: Classifier) -> tuple[list[str], list[str]]:
    """The outputs that are kept, in the order of the model, and a note on those that are not."""
    stated = [o.name for o in classifier.source.proto.graph.output]
    held = [o.name for o in classifier.model.proto.graph.output]
    kept, lost = [n for n in stated if n in held], [n for n in stated if n not in held]
    if not lost:
        return kept, []
    instead = [n for n in held if n not in stated]
    note = f"outputs that standard operators do not make are left out: {', '.join(lost)}"
    note += f"; {', '.join(instead)} is given in their place" if instead else ""
    return [*kept, *instead], [note]


def _note(model: Model, explainer: Explainer, targets: Any) -> None:
    """Writes into the metadata what the explainer is, and what its model's users need."""
    what, preset, names = explainer.recipe, explainer.preset, explainer.labels
    if names is not None and explainer.opposite is not None:
        names = [explainer.opposite, *names]
    facts: dict[str, Any] = {
        "version": __version__,
        "method": what.method.name,
        "layer": None if what.layer is None else what.layer.tensor,
        "score": what.score,
        "targets": targets if isinstance(targets, str) else json.dumps(targets, default=str),
        "options": json.dumps(dict(what.settings)),
        "preset": None if preset is None else json.dumps(preset.to_json()),
        "labels": None if names is None else json.dumps(names),
    }
    held = model.proto.metadata_props
    kept = [p for p in held if p.key.removeprefix(MARK) not in facts or not p.key.startswith(MARK)]
    del model.proto.metadata_props[:]
    model.proto.metadata_props.extend(kept)
    for key, value in facts.items():
        if value is not None:
            model.proto.metadata_props.add(key=MARK + key, value=value)
