"""`onnxcam inspect`: what was found in a model, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxcam.cli import options, show
from onnxcam.cli.options import option

if TYPE_CHECKING:
    from onnxcam.api import Explainer
    from onnxcam.graph import FeatureMap
    from onnxcam.image import Choice

ROWS = 12
"""Feature maps that are listed without --all."""


@click.command(cls=options.Command)
@click.argument("model", type=click.Path())
@option("--image", metavar="PICTURE", help="Also show what each preset would predict on it.")
@option("--all", "everything", is_flag=True, help="List all feature maps, not the last ones only.")
@options.layer_option
@options.labels_option
@options.json_option
@options.model_options
@options.preset_options
def inspect(model: str, image: str | None, everything: bool, as_json: bool, **given: Any) -> None:
    """Show what was found in a model, and why.

    The image input, the class score, the feature maps to choose from, and the preset.

    \b
    Examples:
      onnxcam inspect model.onnx
      onnxcam inspect model.onnx --all
      onnxcam inspect model.onnx --image dog.jpg
      onnxcam inspect model.onnx --json
    """
    from onnxcam.api import Explainer
    from onnxcam.image import read_picture

    explainer = Explainer(
        model, layer=given["layer"], provider="cpu", class_names=options.class_names(given),
        **options.loading(given), **options.picturing(given),
    )  # fmt: skip
    choice = stated = None
    if image is not None:
        picture = read_picture(image, max_pixels=explainer.max_pixels)
        preset = explainer.preset
        choice = explainer.preset_choice([picture])
        if preset is not None:
            row = explainer.probabilities(preset.tensor(picture))[0]
            stated = (preset.name, int(row.argmax()), float(row.max()))
        else:
            explainer.preset_for([picture])
    if as_json:
        show.document(_document(model, explainer, choice, stated))
        return
    _print_facts(explainer)
    _print_maps(explainer, everything)
    if image is not None and choice is not None:
        _print_choice(explainer, image, choice, stated)
    for note in explainer.classifier.notes:
        show.line(f"note: {note}")


def _print_facts(explainer: Explainer) -> None:
    from onnxcam.loading import inputs_of

    classifier = explainer.classifier
    proto, image, score = classifier.source.proto, classifier.image, classifier.score
    names, layer = explainer.labels, explainer.recipe.feature_map
    producer = f"{proto.producer_name} {proto.producer_version}".strip() or "unknown producer"
    batch = "free" if classifier.batch is None else f"fixed to {classifier.batch}"
    ends = "the model ends in it"
    if score.activation is not None:
        ends = f"before the {score.activation} that gives {score.probability}"
    if score.stripped:
        ends += f"; behind it, left out: {', '.join(score.stripped)}"
    known = "names not known (--labels gives them)"
    if names is not None:
        known = "; ".join(show.label(name, i) for i, name in enumerate(names[:3]))
        known += "; …" if len(names) > 3 else ""
    unstated = (
        "none is stated: it is guessed from the pictures; "
        "--image PICTURE shows what each would predict"
    )
    rows = [
        ("model", f"{classifier.name}: {producer}, opset {classifier.source.opset}"),
        *(("input", _tensor(value)) for value in inputs_of(classifier)),
        ("image", f"{image.name}, {image.layout}, {_side(image)}, {image.dtype}, batch {batch}"),
        ("score", f"{score.logit}, {ends}"),
        ("classes", f"{classifier.classes}: {known}"),
        ("layer", f"{layer.tensor}, {layer.units} units on {layer.grid[0]}×{layer.grid[1]}"),
        ("", f"made by {layer.node}"),
        ("", f"why: {layer.reason}"),
        ("preset", explainer.preset_reason.removeprefix("preset ") or unstated),
    ]  # fmt: skip
    show.facts(rows)


def _print_maps(explainer: Explainer, everything: bool) -> None:
    maps, chosen = explainer.classifier.maps, explainer.recipe.feature_map.tensor
    first = 0 if everything else max(0, len(maps) - ROWS)
    click.echo(f"\nfeature maps, the last one first; * marks the one taken ({len(maps)} in all)")
    rows = [
        (
            "*" if found.tensor == chosen else "",
            str(number - len(maps)),
            str(found.units),
            f"{found.grid[0]}×{found.grid[1]}",
            _shape(found),
            found.tensor,
        )
        for number, found in reversed(list(enumerate(maps))[first:])
    ]
    show.table(("", "#", "units", "grid", "shape", "tensor"), rows, right="# units grid")
    if first:
        click.echo(f"… {first} more, nearer to the image: --all lists them")
    click.echo()


def _print_choice(
    explainer: Explainer, image: str, choice: Choice, stated: tuple[str, int, float] | None
) -> None:
    names = explainer.labels
    show.line(f"what the presets would predict on {Path(image).name}; * marks the one taken")
    rows = []
    if stated is not None:
        name, top, probability = stated
        rows.append(("*", name, f"{probability:.1%}", "stated", _label(names, top)))
    for number, row in enumerate(choice.rows):
        mark = "*" if number == 0 and stated is None else ""
        rows.append((mark, row.name, f"{row.probability:.1%}", f"{row.share:.1%}",
                     _label(names, row.top)))  # fmt: skip
    header = ("", "preset", "probability", "belief", "top class")
    show.table(header, rows, right="probability belief")
    click.echo()


def _document(
    model: str, explainer: Explainer, choice: Choice | None, stated: tuple[str, int, float] | None
) -> dict[str, Any]:
    from onnxcam.loading import inputs_of

    classifier = explainer.classifier
    proto, image, score = classifier.source.proto, classifier.image, classifier.score
    preset, reason = explainer.preset, explainer.preset_reason
    found: dict[str, Any] = {
        "file": model,
        "model": classifier.name,
        "producer": f"{proto.producer_name} {proto.producer_version}".strip(),
        "opset": classifier.source.opset,
        "inputs": [
            {"name": name, "dtype": dtype, "shape": shape}
            for name, dtype, shape in inputs_of(classifier)
        ],
        "image": {
            "name": image.name,
            "layout": image.layout,
            "channels": image.channels,
            "size": list(image.size),
            "free_size": image.free,
            "dtype": str(image.dtype),
        },
        "batch": classifier.batch,
        "score": {
            "logit": score.logit,
            "probability": score.probability,
            "activation": score.activation,
            "stripped": list(score.stripped),
        },
        "classes": classifier.classes,
        "labels": explainer.labels,
        "layer": explainer.recipe.feature_map.tensor,
        "layers": [
            {
                "position": number - len(classifier.maps),
                "tensor": one.tensor,
                "layout": one.layout,
                "units": one.units,
                "grid": list(one.grid),
                "tokens_before": one.prefix,
                "node": one.node,
                "reason": one.reason,
                "default": one == classifier.default,
            }
            for number, one in enumerate(classifier.maps)
        ],
        "preset": preset.to_json() if preset is not None else None,
        "preset_reason": reason,
        "notes": classifier.notes,
    }
    if choice is not None:
        tried = [(row.name, row.top, row.probability, row.share) for row in choice.rows]
        told = [(*stated, None)] if stated is not None else []
        found["predictions"] = [
            {
                "preset": name,
                "index": top,
                "label": explainer.labels[top] if explainer.labels else f"class {top}",
                "probability": probability,
                "belief": share,
            }
            for name, top, probability, share in [*told, *tried]
        ]
    return found


def _tensor(value: tuple[str, str, list[int | str]]) -> str:
    name, dtype, shape = value
    return f"{name}, {dtype} ({', '.join(map(str, shape))})"


def _side(image: Any) -> str:
    return "any size" if image.free else f"{image.size[0]}×{image.size[1]}"


def _shape(found: FeatureMap) -> str:
    h, w = found.grid
    shapes = {
        "NCHW": f"(N, {found.units}, {h}, {w})",
        "NHWC": f"(N, {h}, {w}, {found.units})",
        "NTC": f"(N, {found.prefix}+{h * w}, {found.units})",
    }
    return shapes[found.layout]


def _label(names: list[str] | None, index: int) -> str:
    return show.label(names[index] if names and index < len(names) else "", index)
