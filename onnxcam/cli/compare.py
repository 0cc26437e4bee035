"""`onnxcam compare`: many methods on one picture, on one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxcam.cli import names, options, show
from onnxcam.cli.explain import headline, question, target_of
from onnxcam.cli.methods import counted
from onnxcam.cli.options import option
from onnxcam.errors import ModelError, OpError, OptionError
from onnxcam.files import make_folder

if TYPE_CHECKING:
    from onnxcam.api import Explainer
    from onnxcam.comparison import Comparison
    from onnxcam.methods import Method

DEFAULT = "ablation-cam,grad-cam,grad-cam++,layer-cam,eigen-cam,guided-grad-cam"
ALL, FUSION = "all", "guided-grad-cam"
SLOW = {"masked", "occluded", "sampled", "noisy", "path"}
"""Needs that take many runs of the whole model: 'all' leaves out the methods that have them."""
SUFFIXES = (*names.PICTURES, ".npz", ".json")
_METHOD, _RESULT = "Method", "Results"


@click.command(cls=options.MethodCommand)
@click.argument("model", type=click.Path())
@click.argument("picture", type=click.Path())
@option(
    *("--methods", "-m"), metavar="NAME,NAME,…", default=DEFAULT, section=_METHOD,
    help="Methods in the order of the sheet ('onnxcam methods' lists them), or all: the quick ones "
    f"that work on the model [default: {DEFAULT.replace(',', ', ')}].",
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
      onnxcam compare model.onnx dog.jpg --methods all -o all.webp
    """
    import numpy as np

    from onnxcam.image import colour

    rows = _rows(given["methods"])
    own = options.of_methods(given, rows)
    layers = [_layer(text) for text in (given["layers"] or "").split(",") if text.strip()]
    if layers and not any(row.on_layer for row in rows):
        raise click.UsageError(
            f"--layers is for methods on a feature map, not for {', '.join(r.name for r in rows)}"
        )
    if given["colormap"]:
        colour(np.zeros((1, 1)), given["colormap"])  # a wrong name is said before the work
    to = Path(given["to"] or f"{Path(picture).stem}.compare.png")
    if to.suffix.lower() not in SUFFIXES:
        raise click.UsageError(f"--to {to}: the ending must be one of {', '.join(SUFFIXES)}")
    names.check([to], [Path(model), Path(picture)], given["force"])
    explainer, rows, left_out = _explainer(model, rows, layers or [None], own, given)
    asked = target_of(given["target"], explainer)
    target: Any = (asked if isinstance(asked, str) else list(asked.values())) or None
    item = counted({need for row in rows for need in row.needed(own)})
    with show.Bar(1, given["quiet"], item) as bar:
        bar.start(0, Path(picture).name)
        kept = {k: v for k, v in own.items() if any(k in row.options for row in rows)}
        found = explainer.compare(
            Path(picture), [row.name for row in rows], target, layers or [None], bar, **kept
        )
    make_folder(to.parent)
    found.save(to, given["force"], colormap=given["colormap"], alpha=given["alpha"])
    if given["as_json"]:
        show.document({"file": picture, "written": str(to), **found.facts(), "left_out": left_out})
    elif not given["quiet"]:
        _tell(explainer, picture, found, to, left_out)


def _rows(text: str) -> list[Method]:
    """The methods named, each once."""
    from onnxcam.methods import METHODS

    if [name.strip() for name in text.split(",") if name.strip()] == [ALL]:
        return [m for m in METHODS.values()
                if m.name == FUSION or not (m.fused or SLOW.intersection(m.needs))]  # fmt: skip
    return options.methods_named(text)


def _explainer(
    model: str, rows: list[Method], layers: Sequence[str | int | None], own: dict[str, Any],
    given: dict[str, Any],
) -> tuple[Explainer, list[Method], dict[str, str]]:  # fmt: skip
    """An explainer, the methods without those that the model does not allow, and why they fail.

    Only of 'all' some are left out; a method that was named and fails is an error.
    """

    def made(row: Method, known: Explainer | None = None) -> Explainer:
        source = known.classifier if known is not None else model
        return options.explainer_of(source, row, layers[0], own, given)

    if given["methods"].strip() != ALL:
        return made(rows[0]), rows, {}
    explainer: Explainer | None = None
    kept: list[Method] = []
    left_out: dict[str, str] = {}
    for row in rows:
        try:
            one = made(row, explainer)
            one.program()
        except (ModelError, OpError, OptionError) as refused:
            left_out[row.name] = str(refused)
            if row is rows[-1] and explainer is None:
                raise
            continue
        kept.append(row)
        explainer = explainer or one
    assert explainer is not None
    return explainer, kept, left_out


def _layer(text: str) -> str | int:
    text = text.strip()
    return int(text) if text.lstrip("-").isdigit() else text


def _tell(
    explainer: Explainer, picture: str, found: Comparison, to: Path, left_out: dict[str, str]
) -> None:
    layers = list(dict.fromkeys(one.layer for one in found if one.layer))
    titles = list(dict.fromkeys(one.title for one in found))
    more = [("layer" if not i else "", layer) for i, layer in enumerate(layers)]
    more += [("methods", ", ".join(titles)), ("score", ", ".join(question(explainer))[6:])]
    show.facts(headline(explainer, more))
    click.echo()
    first = found[0].facts()
    for number, target in enumerate(first["targets"]):
        which = show.label(target["label"], target["index"], target["negated"])
        arrow = "" if number else f" -> {to}"
        show.line(f"{picture}: {which}, {first['score_kind']} {target['score']:.4g}{arrow}")
    for note in dict.fromkeys(f"{note}" for one in found for note in one.notes):
        show.line(f"note: {note}")
    for name, why in left_out.items():
        show.line(f"note: left out: {name}: {why}")
