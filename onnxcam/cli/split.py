"""`onnxcam split`: features and head as files of their own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxcam.cli import names, options, show
from onnxcam.files import write_together

if TYPE_CHECKING:
    from onnxcam.graph import Model


@click.command(cls=options.Command)
@click.argument("model", type=click.Path())
@click.argument("features", type=click.Path())
@click.argument("head", type=click.Path())
@options.layer_option
@options.force_option
@options.json_option
@options.model_options
def split(model: str, features: str, head: str, force: bool, as_json: bool, **given: Any) -> None:
    """Cut a model at a feature map into two.

    FEATURES goes from the image to the feature map, HEAD from there to the scores.

    Running FEATURES and then HEAD gives the scores of MODEL. Where paths go around the feature
    map, they are further outputs of FEATURES and inputs of HEAD. Beyond 2 GB a file's weights go
    into a second one beside it, named FILE.data.

    \b
    Examples:
      onnxcam split model.onnx features.onnx head.onnx
      onnxcam split model.onnx features.onnx head.onnx --layer -3
    """
    from onnxcam import graph
    from onnxcam.loading import load

    if Path(features).absolute() == Path(head).absolute():
        raise click.UsageError("FEATURES and HEAD are the same file")
    names.check([Path(features), Path(head)], [Path(model)], force)
    classifier = load(model, **options.loading(given))
    parts = graph.split(classifier, given["layer"])
    contents: dict[Path, bytes] = {}
    for path, part in zip((Path(features), Path(head)), parts, strict=True):
        contents |= {path.parent / name: data for name, data in part.files(path.name).items()}
    names.check(list(contents), [Path(model)], force)
    write_together(contents, force)
    if as_json:
        paths = [features, head]
        show.document([{"file": p, **ends(m)} for p, m in zip(paths, parts, strict=True)])
        return
    layer = classifier.layer(given["layer"])
    show.facts(
        [
            ("layer", f"{layer.tensor}, {layer.units} units on {layer.grid[0]}×{layer.grid[1]}"),
            *((path, told(part)) for path, part in zip((features, head), parts, strict=True)),
        ]
    )


def ends(part: Model) -> dict[str, list[dict[str, Any]]]:
    """Names and shapes of what goes into a model and what comes out."""

    def listed(values: Any) -> list[dict[str, Any]]:
        return [
            {
                "name": value.name,
                "shape": [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim],
            }
            for value in values
        ]

    return {"inputs": listed(part.proto.graph.input), "outputs": listed(part.proto.graph.output)}


def told(part: Model) -> str:
    """What goes into a model and what comes out, in a line."""
    sides = [
        ", ".join(f"{end['name']} ({', '.join(map(str, end['shape']))})" for end in ends)
        for ends in ends(part).values()
    ]
    return " -> ".join(sides)
