"""`onnxcam export`: an explainer as one ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxcam.cli import names, options, show
from onnxcam.cli.split import ends, told
from onnxcam.files import write_together

_FILE = "The file"
_HOW = ("score", "ablation", "units", "patches_only", "smooth")


@click.command(cls=options.MethodCommand)
@click.argument("model", type=click.Path())
@click.argument("out", type=click.Path())
@options.option(
    "--method", "-m", default="ablation-cam", show_default=True, metavar="NAME", section="Method",
    help="How to explain ('onnxcam methods' lists them).",
)  # fmt: skip
@options.option(
    *("--targets", "-t"), multiple=True, metavar="WHICH", section="Method",
    help="given: an input 'target' takes a class index for each image, -1 for the best. Else what "
    "the file always explains: top1, top5 (a map for each), or a class as in 'explain', repeatable "
    "[default: given].",
)  # fmt: skip
@options.layer_option
@options.option("--heatmap", is_flag=True, section=_FILE,
                help="Another output: the map from 0 to 1, in the size of the image.")  # fmt: skip
@options.option("--weights", is_flag=True, section=_FILE,
                help="Another output: the weights of the units.")  # fmt: skip
@options.option("--prefix", default="", metavar="TEXT", section=_FILE,
                help="Before the names of added inputs and outputs.")  # fmt: skip
@options.option(
    "--opset", type=click.IntRange(min=11), metavar="NUMBER", section=_FILE,
    help="Version of the operator set [default: 18, or the model's if higher].",
)  # fmt: skip
@options.force_option
@options.json_option
@options.how_options
@options.option(
    "--memory", type=options.BYTES, section=_FILE,
    help="For switched-off copies, or one turn of a loop, e.g. 512MB [default: 1GB].",
)  # fmt: skip
@options.labels_option
@options.model_options
@options.preset_options
def export(model: str, out: str, force: bool, as_json: bool, **given: Any) -> None:
    """Write an explainer: one ONNX file that classifies and explains, in any ONNX runtime.

    OUT takes the model's own image and gives its own outputs, unchanged and first, then 'map', the
    explanation over the feature map's grid, and 'class', the class explained. It consists of
    standard operators and shares the model's weights. Beyond 2 GB these go into OUT.data.

    \b
    Examples:
      onnxcam export model.onnx explainer.onnx
      onnxcam export model.onnx explainer.onnx --targets top1 --heatmap
      onnxcam export model.onnx explainer.onnx --method grad-cam --targets top5
    """
    from onnxcam.engine import MEMORY
    from onnxcam.exporting import exported
    from onnxcam.methods import method_named

    names.check([Path(out)], [Path(model)], force)
    own = options.of_methods(given, [method_named(given["method"])])
    asked = given["targets"] or ("given",)
    picturing = options.picturing(given)
    del picturing["max_pixels"]
    made = exported(
        model, given["method"], given["layer"],
        targets=asked[0] if len(asked) == 1 else list(asked),
        memory=given["memory"] or MEMORY, class_names=options.class_names(given),
        **{name: given[name] for name in ("size", "heatmap", "weights", "prefix", "opset", *_HOW)},
        **options.loading(given), **picturing, **own,
    )  # fmt: skip
    contents = made.contents(out)
    names.check(list(contents), [Path(model)], force)
    write_together(contents, force)
    written, read = sum(map(len, contents.values())), made.source.file_bytes
    what = made.recipe
    if as_json:
        facts = {"method": what.method.name, "layer": what.layer and what.layer.tensor}
        sizes = {"bytes": written, "bytes_of_model": read, "notes": made.notes}
        show.document({"file": out, **facts, **ends(made.model), **sizes})
        return
    show.facts([
        (out, told(made.model)),
        ("method", what.method.title + (f" at {what.layer.tensor}" if what.layer else "")),
        ("size", f"{written / 1e6:.1f} MB, {written / read:.3f} × the model"),
        *(("note", note) for note in made.notes),
    ])  # fmt: skip
