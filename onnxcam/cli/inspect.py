"""`onnxcam inspect`: what was found in a model, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from onnxcam.cli import names, options, show
from onnxcam.cli.options import option
from onnxcam.files import write_together

if TYPE_CHECKING:
    from onnxcam.api import Explainer
    from onnxcam.graph import FeatureMap
    from onnxcam.graph.exporter import Origin
    from onnxcam.image import Choice

ROWS = 12
"""Feature maps that are listed without --all."""


class Found(NamedTuple):
    """What was found out, besides what the explainer holds.

    Attributes:
        explainer: of a method on pixels.
        layer: the feature map taken, if there is one.
        origin: framework and exporter.
        methods: by method: why it cannot explain the model, or None.
    """

    explainer: Explainer
    layer: FeatureMap | None
    origin: Origin
    methods: dict[str, str | None]


@click.command(cls=options.Command)
@click.argument("model", type=click.Path())
@option("--image", metavar="PICTURE", help="Also show what each preset would predict on it.")
@option("--all", "everything", is_flag=True, help="List all feature maps, not the last ones only.")
@option(
    "--graph",
    metavar="FILE.svg",
    help="Draw the path from image to score, the split marked; opens in a browser.",
)
@options.force_option
@options.layer_option
@options.labels_option
@options.json_option
@options.model_options
@options.preset_options
def inspect(
    model: str,
    image: str | None,
    everything: bool,
    graph: str | None,
    force: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Show what was found in a model, and why.

    Where it comes from, the image input, the class score, the feature maps to choose from, the
    methods that can explain it, and the preset.

    \b
    Examples:
      onnxcam inspect model.onnx
      onnxcam inspect model.onnx --all
      onnxcam inspect model.onnx --image dog.jpg
      onnxcam inspect model.onnx --graph model.svg
      onnxcam inspect model.onnx --json
    """  # fmt: skip
    from onnxcam.api import Explainer
    from onnxcam.graph.exporter import origin_of
    from onnxcam.image import read_picture

    if graph is not None:
        if Path(graph).suffix.lower() != ".svg":
            raise click.UsageError(
                f"--graph writes SVG: name a file that ends in .svg, not {graph}"
            )
        names.check([Path(graph)], [Path(model), *([Path(image)] if image else [])], force)
    explainer = Explainer(  # by a method that needs no feature map: the model may have none
        model, "occlusion", provider="cpu", class_names=options.class_names(given),
        **options.loading(given), **options.picturing(given),
    )  # fmt: skip
    classifier, asked = explainer.classifier, given["layer"]
    layer = classifier.default if asked is None else classifier.layer(asked)
    found = Found(explainer, layer, origin_of(classifier.source.proto), explainer.methods(asked))
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
    if graph is not None:
        write_together({Path(graph): _drawn(found).encode("utf-8", "replace")}, force)
    if as_json:
        document = _document(model, found, choice, stated)
        show.document(document | ({"graph": graph} if graph is not None else {}))
        return
    _print_facts(found)
    _print_maps(found, everything)
    _print_methods(found)
    if image is not None and choice is not None:
        _print_choice(explainer, image, choice, stated)
    for note in classifier.notes:
        show.line(f"note: {note}")
    if graph is not None:
        show.line(f"drawn: {graph}")


def _print_facts(found: Found) -> None:
    from onnxcam.loading import inputs_of

    explainer, layer = found.explainer, found.layer
    classifier = explainer.classifier
    proto, image, score = classifier.source.proto, classifier.image, classifier.score
    labels = explainer.labels
    producer = f"{proto.producer_name} {proto.producer_version}".strip() or "unknown producer"
    batch = "free" if classifier.batch is None else f"fixed to {classifier.batch}"
    ends = "the model ends in it"
    if score.activation is not None:
        ends = f"before the {score.activation} that gives {score.probability}"
    if score.stripped:
        ends += f"; behind it, left out: {', '.join(score.stripped)}"
    known = "names not known (--labels gives them)"
    if labels is not None:
        known = "; ".join(show.label(name, i) for i, name in enumerate(labels[:3]))
        known += "; …" if len(labels) > 3 else ""
    unstated = (
        "none is stated: it is guessed from the pictures; "
        "--image PICTURE shows what each would predict"
    )
    rows = [
        ("model", f"{classifier.name}: {producer}, opset {classifier.source.opset}"),
        *_origin_rows(found.origin),
        *(("input", _tensor(value)) for value in inputs_of(classifier)),
        ("image", f"{image.name}, {image.layout}, {_side(image)}, {image.dtype}, batch {batch}"),
        ("score", f"{score.logit}, {ends}"),
        ("classes", f"{classifier.classes}: {known}"),
        *_layer_rows(layer),
        ("preset", explainer.preset_reason.removeprefix("preset ") or unstated),
    ]  # fmt: skip
    show.facts(rows)


def _origin_rows(origin: Origin) -> list[tuple[str, str]]:
    told = "unknown: neither the producer nor names in the file tell"
    if origin.exporter is not None:
        told = f"{_made_by(origin)} ({'; '.join(origin.evidence)})"
    later = [f"rewritten by {one.tool} ({'; '.join(one.evidence)})" for one in origin.rewriters]
    return [("origin", told), *(("", line) for line in later)]


def _made_by(origin: Origin) -> str:
    if origin.exporter is None:
        return "unknown exporter"
    return ", ".join(filter(None, [origin.framework, origin.exporter]))


def _layer_rows(layer: FeatureMap | None) -> list[tuple[str, str]]:
    if layer is None:
        return [
            ("layer", "none: no tensor with a grid larger than 1×1 lies on every path from image "
             "to score"),
            ("", "methods on pixels need none; --layer takes a tensor by name"),
        ]  # fmt: skip
    return [
        ("layer", f"{layer.tensor}, {layer.units} units on {layer.grid[0]}×{layer.grid[1]}"),
        ("", f"made by {layer.node}"),
        ("", f"why: {layer.reason}"),
    ]


def _print_methods(found: Found) -> None:
    able = [name for name, why in found.methods.items() if why is None]
    click.echo(f"methods that can explain it ({len(able)} of {len(found.methods)})")
    show.paragraph(", ".join(able) or "none")
    if "guided-backprop" in able and found.layer is not None:
        show.paragraph("and guided-NAME for each of them on a feature map")
    by_reason: dict[str, list[str]] = {}
    for name, why in found.methods.items():
        if why is not None:
            by_reason.setdefault(why, []).append(name)
    if by_reason:
        click.echo("\nmethods that cannot, and why")
    for why, those in by_reason.items():
        show.paragraph(f"{', '.join(those)}: {why}")
    click.echo()


def _drawn(found: Found) -> str:
    from onnxcam.diagram import svg
    from onnxcam.graph.chain import chain_of

    classifier = found.explainer.classifier
    stripped, origin = classifier.score.stripped, found.origin
    made = [_made_by(origin), *(f"rewritten by {one.tool}" for one in origin.rewriters)]
    below = [f"left out behind the score: {', '.join(stripped)}"] if stripped else []
    facts = [
        f"{', '.join(made)}; opset {classifier.source.opset}; {classifier.classes} classes",
        "feature map: none, so there is no split" if found.layer is None
        else f"feature map: {found.layer.tensor}",
    ]  # fmt: skip
    return svg(chain_of(classifier, found.layer), classifier.name, facts, below)


def _print_maps(found: Found, everything: bool) -> None:
    maps = found.explainer.classifier.maps
    chosen = None if found.layer is None else found.layer.tensor
    if not maps:
        click.echo()
        return
    first = 0 if everything else max(0, len(maps) - ROWS)
    click.echo(f"\nfeature maps, the last one first; * marks the one taken ({len(maps)} in all)")
    rows = [
        (
            "*" if one.tensor == chosen else "",
            str(number - len(maps)),
            str(one.units),
            f"{one.grid[0]}×{one.grid[1]}",
            _shape(one),
            one.tensor,
        )
        for number, one in reversed(list(enumerate(maps))[first:])
    ]
    show.table(("", "#", "units", "grid", "shape", "tensor"), rows, right="# units grid")
    if first:
        click.echo(f"… {first} more, nearer to the image: --all lists them")
    click.echo()


def _print_choice(
    explainer: Explainer, image: str, choice: Choice, stated: tuple[str, int, float] | None
) -> None:
    labels = explainer.labels
    show.line(f"what the presets would predict on {Path(image).name}; * marks the one taken")
    rows = []
    if stated is not None:
        name, top, probability = stated
        rows.append(("*", name, f"{probability:.1%}", "stated", _label(labels, top)))
    for number, row in enumerate(choice.rows):
        mark = "*" if number == 0 and stated is None else ""
        rows.append((mark, row.name, f"{row.probability:.1%}", f"{row.share:.1%}",
                     _label(labels, row.top)))  # fmt: skip
    header = ("", "preset", "probability", "belief", "top class")
    show.table(header, rows, right="probability belief")
    click.echo()


def _document(
    model: str, known: Found, choice: Choice | None, stated: tuple[str, int, float] | None
) -> dict[str, Any]:
    from onnxcam.loading import inputs_of

    explainer, origin = known.explainer, known.origin
    classifier = explainer.classifier
    proto, image, score = classifier.source.proto, classifier.image, classifier.score
    preset, reason = explainer.preset, explainer.preset_reason
    found: dict[str, Any] = {
        "file": model,
        "model": classifier.name,
        "producer": f"{proto.producer_name} {proto.producer_version}".strip(),
        "framework": origin.framework,
        "exporter": origin.exporter,
        "evidence": list(origin.evidence),
        "rewritten_by": [
            {"tool": one.tool, "evidence": list(one.evidence)} for one in origin.rewriters
        ],
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
        "layer": None if known.layer is None else known.layer.tensor,
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
        "methods": known.methods,
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


def _label(labels: list[str] | None, index: int) -> str:
    return show.label(labels[index] if labels and index < len(labels) else "", index)
