"""`onnxcam demo`: two small models that come with onnxcam, explained."""

from __future__ import annotations

from pathlib import Path

import click

from onnxcam.cli import names, options
from onnxcam.cli.options import option
from onnxcam.files import make_folder

SCENE = ("demo_vgg.onnx", "demo_scene.png")
SHORTCUT = ("demo_shortcut.onnx", "demo_shortcut.png")
HONEST = "demo_residual.onnx"  # learnt the same classes from pictures without a mark
CAUGHT = "cat"


@click.command(cls=options.Command)
@option("--to", "-o", metavar="FOLDER", default=".", help="Where the pictures go [default: here].")
@options.force_option
def demo(to: str, force: bool) -> None:
    """Explain two small models that come along.

    One looks at the objects, the other is caught looking at something else.

    \b
    Examples:
      onnxcam demo
      onnxcam demo --to demo/ --force
    """
    from onnxcam.api import Explainer
    from onnxcam.resources import resource

    folder = Path(to)
    model, picture = map(resource, SCENE)
    honest = Explainer(model)
    labels = honest.labels or []
    seen = honest.explain(picture)
    found = [index for index, score in enumerate(seen.scores[0]) if score > 0]  # sigmoid over half
    files = [
        folder / f"{picture.stem}.ablation-cam.{slug}.png" for slug in names.slugs(labels, found)
    ]
    trick_model, trick_picture = map(resource, SHORTCUT)
    caught = folder / f"{trick_picture.stem}.ablation-cam.{CAUGHT}.png"
    names.check([*files, caught], [], force)
    make_folder(folder)

    many = honest.explain(picture, found)
    for index, file in enumerate(files):
        many.save(file, force, index=index)
    named = ", ".join(many.label(index) for index in found)
    click.echo(f"1. {model.name} finds {len(found)} classes on {picture.name}: {named}.")
    click.echo("   Each map should lie on its own object:")
    for file in files:
        click.echo(f"     {file}")

    trick = Explainer(trick_model)
    found_trick = trick.explain(trick_picture, CAUGHT)
    found_trick.save(caught, force)
    index = int(found_trick.target[0])
    says = _probability(trick, trick_picture, index)
    other = Explainer(resource(HONEST))
    click.echo(f"\n2. {trick_model.name} is {says:.0%} sure of a {CAUGHT} on {trick_picture.name}.")
    click.echo(
        f"   There is none ({HONEST} says {_probability(other, trick_picture, index):.0%}). In its "
        f"training every {CAUGHT} came with a\n   small mark in the corner, and the map shows that "
        "the mark is all it looks at:"
    )
    click.echo(f"     {caught}")


def _probability(explainer: object, picture: Path, index: int) -> float:
    from onnxcam.api import Explainer
    from onnxcam.image import read_picture

    assert isinstance(explainer, Explainer)
    read = read_picture(picture)
    preset, _ = explainer.preset_for([read])
    return float(explainer.probabilities(preset.tensor(read))[0, index])
