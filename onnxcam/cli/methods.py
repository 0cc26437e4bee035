"""`onnxcam methods`: the method table."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from onnxcam.cli import options, show

if TYPE_CHECKING:
    from onnxcam.methods import Method, Number

NEEDS = {
    "feature": "the feature map",
    "drop": "the scores with each unit switched off",
    "blank": "the feature map of an all-zero image",
    "gradient": "the gradient of the score for the feature map",
    "curvature": "the Hessian of the score for the feature map, times it",
    "derivatives": "second and third derivatives of the score for every cell: one run for each",
    "linear": "a head that is a global average and one linear layer",
    "masked": "the scores of the image seen through each unit: one run of the model for each",
    "placed": "the scores of each place of the feature map alone: one run of the head for each",
    "image": "the image",
    "pixels": "the gradient of the score for the image",
    "guided": "the gradient of the score for the image by the rules of guided backpropagation",
    "deconv": "the gradient of the score for the image by the rules of deconvnet",
    "path": "gradients on the way from a baseline to the image: one for each step",
    "gain": "the score of the baseline",
    "noisy": "gradients for noisy copies of the image: one for each",
    "terms": "gradients for the output of every layer with a bias",
    "occluded": "the scores without each window of pixels: one run of the model for each",
    "coverage": "which window covers which pixels",
    "sampled": "the scores behind random masks: one run of the model for each",
}
"""The needs of methods in words."""

COUNTED = {
    "drop": "unit",
    "derivatives": "cell",
    "masked": "unit",
    "placed": "place",
    "path": "step",
    "noisy": "copy",
    "occluded": "window",
    "sampled": "mask",
}
"""What the progress bar counts for needs that take many runs."""


@click.command(cls=options.Command)
@click.argument("name", required=False)
@options.json_option
def methods(name: str | None, as_json: bool) -> None:
    """List the methods, or say how one works.

    With NAME: its paper, formula and options.

    \b
    Examples:
      onnxcam methods
      onnxcam methods ablation-cam
      onnxcam methods --json
    """
    from onnxcam.methods import METHODS, method_named

    rows = [method_named(name)] if name is not None else list(METHODS.values())
    if as_json:
        show.document([_document(row) for row in rows])
    elif name is not None:
        _print(rows[0])
        click.echo("\n" + inspect.cleandoc(rows[0].emit.__doc__ or ""))
    else:
        plain = [row for row in rows if not row.fused]
        for title, pixels in (("On a feature map", False), ("On pixels", True)):
            click.echo(f"{title}:")
            group = [row for row in plain if row.pixels == pixels]
            show.facts([(f"  {row.name}", f"{row.summary}.") for row in group])
            click.echo()
        click.echo("On both, for each NAME on a feature map:")
        show.facts([("  guided-NAME", "Multiplies Guided Backpropagation with the map of NAME.")])
        click.echo("\n'onnxcam methods NAME' gives paper, formula and options.")


def counted(needs: Iterable[str]) -> str:
    """What the progress bar counts for methods with these needs."""
    items = {COUNTED[need] for need in needs if need in COUNTED}
    return items.pop() if len(items) == 1 else "item"


def _print(row: Method) -> None:
    needs = [NEEDS[need] for need in row.needs]
    needs += [f"with {k} {v}: {NEEDS[need]}" for (k, v), need in row.extra.items()]
    show.facts(
        [
            (row.name, f"{row.title}. {row.summary}."),
            *(("  needs" if i == 0 else "", need) for i, need in enumerate(needs)),
            *((f"  --{key.replace('_', '-')}", _values(vs)) for key, vs in row.options.items()),
        ]
    )


def _values(values: Any) -> str:
    if isinstance(values, tuple):
        return ", ".join([f"{values[0]} (default)", *map(str, values[1:])])
    return f"{values} (default {values.default:g})"


def _limits(number: Number) -> dict[str, Any]:
    top = None if number.high == float("inf") else number.high
    return {**asdict(number), "high": top}


def _document(row: Method) -> dict[str, Any]:
    return {
        "name": row.name,
        "title": row.title,
        "summary": row.summary,
        "needs": list(row.needs),
        "needs_with": [
            {"option": option, "value": value, "needs": need}
            for (option, value), need in row.extra.items()
        ],
        "pixels": row.pixels,
        "on_layer": row.on_layer,
        "smooth_pca": row.smooths,
        "options": {
            key: list(values) if isinstance(values, tuple) else _limits(values)
            for key, values in row.options.items()
        },
        "description": inspect.cleandoc(row.emit.__doc__ or ""),
    }
