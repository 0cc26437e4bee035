"""`onnxcam compare`: many methods on one picture, on one sheet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxcam.cli import names, options, show
from onnxcam.cli.explain import target_of
from onnxcam.cli.options import option

DEFAULT = "ablation-cam,grad-cam,grad-cam++,layer-cam,eigen-cam,guided-grad-cam"
SUFFIXES = (*names.PICTURES, ".npz", ".json")
_METHOD, _RESULT = "Method", "Results"


@click.command(cls=options.MethodCommand)
@click.argument("model", type=click.Path())
@click.argument("picture", type=click.Path())
@option(
    *("--methods", "-m"), metavar="NAME,NAME,…", default=DEFAULT, section=_METHOD,
    help="Methods in the order of the sheet ('onnxcam methods' lists them) [default: "
    f"{DEFAULT.replace(',', ', ')}].",
)  # fmt: skip
@option(
    "--layers", metavar="LAYER,LAYER,…", section=_METHOD,
    help="Feature maps, as for --layer of explain: each method that works on one is asked about "
    "all of them [default: the last one].",
)  # fmt: skip
@options.question_options
@option(
    *("--to", "-o"), metavar="FILE", section=_RESULT,
    help="A picture (.png .jpg .webp), .npz for all arrays, .json for the facts [default: "
    "<picture>.compare.png in the current folder].",
)  # fmt: skip
@options.drawing_options
@option(*("--json", "as_json"), is_flag=True, section=_RESULT, help="Print the facts as JSON.")
@option("--force", is_flag=True, section=_RESULT, help="Replace a file that exists.")
@option(*("--quiet", "-q"), is_flag=True, section=_RESULT, help="Print errors only.")
@options.running_options
@options.labels_option
@options.model_options
@options.preset_options
def compare(model: str, picture: str, **given: Any) -> None:
    """Draw several methods' maps of one decision side by side.

    The methods share one run of the model's features, and what else they have in common.

    \b
    Examples:
      onnxcam compare model.onnx dog.jpg
      onnxcam compare model.onnx dog.jpg --methods grad-cam,rise --masks 500
      onnxcam compare model.onnx dog.jpg --target top3 --layers -1,-2
    """
    import numpy as np

    from onnxcam.api import Explainer
    from onnxcam.image import colour

    chosen = [name.strip() for name in given["methods"].split(",") if name.strip()]
    if not chosen:
        raise click.UsageError("--methods names no method")
    if given["colormap"]:
        colour(np.zeros((1, 1)), given["colormap"])  # a wrong name is said before the work
    to = Path(given["to"] or f"{Path(picture).stem}.compare.png")
    if to.suffix.lower() not in SUFFIXES:
        raise click.UsageError(f"--to {to}: the ending must be one of {', '.join(SUFFIXES)}")
    names.check([to], [Path(model), Path(picture)], given["force"])
    explainer = Explainer(
        model, chosen[0], **options.asking(given), **options.loading(given),
        **options.picturing(given),
    )  # fmt: skip
    target: Any = target_of(given["target"], explainer) or None
    layers = [_layer(text) for text in (given["layers"] or "").split(",") if text.strip()]
    with show.Bar(1, given["quiet"]) as bar:
        bar.start(0, Path(picture).name)
        found = explainer.compare(
            Path(picture), chosen, target, layers or [None], bar, **options.of_methods(given)
        )  # fmt: skip
    names.make_folder(to.parent)
    drawing = {key: given[key] for key in ("colormap", "alpha")}
    found.save(to, given["force"], **drawing)
    if given["as_json"]:
        show.document({"file": picture, "written": str(to), **found.facts()})
    elif not given["quiet"]:
        _tell(picture, found, to)


def _layer(text: str) -> str | int:
    text = text.strip()
    return int(text) if text.lstrip("-").isdigit() else text


def _tell(picture: str, found: Any, to: Path) -> None:
    first = found[0].facts()
    for target in first["targets"]:
        which = show.label(target["label"], target["index"])
        show.line(f"{picture}: {which}, {first['score_kind']} {target['score']:.4g}")
    titles = [f"{one.title}{f' at {one.layer}' if one.layer else ''}" for one in found]
    show.line(f"{len(found)} maps: {', '.join(titles)} -> {to}")
    for note in dict.fromkeys(note for one in found for note in one.notes):
        show.line(f"note: {note}")
