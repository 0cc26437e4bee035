"""`onnxcam export`: an explainer as one ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxcam.cli import names, options, show
from onnxcam.cli.split import ends, told
from onnxcam.files import write_together

_FILE, _SERVER = "The file", "For servers"
_SHAPE = ("size", "heatmap", "weights", "prefix", "opset", "float16")
_HOW = ("score", "ablation", "units", "patches_only", "smooth")


@click.command(cls=options.MethodCommand)
@click.argument("model", type=click.Path())
@click.argument("out", type=click.Path(), required=False)
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
@options.option(
    "--float16", is_flag=True, section=_FILE,
    help="Half precision up to the feature map: about half the size, fast on GPUs.",
)  # fmt: skip
@options.force_option
@options.json_option
@options.how_options
@options.option(
    "--memory", type=options.BYTES, section=_FILE,
    help="For switched-off copies, or one turn of a loop, e.g. 512MB [default: 1GB].",
)  # fmt: skip
@options.option(
    "--triton", type=click.Path(), metavar="DIR", section=_SERVER,
    help="Write a Triton model repository in DIR, beside or in place of OUT.",
)  # fmt: skip
@options.option("--name", metavar="NAME", section=_SERVER,
                help="Of the model in the repository [default: MODEL's].")  # fmt: skip
@options.option(
    "--max-batch", type=click.IntRange(min=1), default=32, show_default=True, metavar="NUMBER",
    section=_SERVER, help="Images that the server may join into one run.",
)  # fmt: skip
@options.option(
    "--kserve", metavar="URI", section=_SERVER,
    help="Also write NAME.kserve.yaml beside DIR: an InferenceService that finds the repository at "
    "URI, such as s3://bucket/models.",
)  # fmt: skip
@options.labels_option
@options.model_options
@options.preset_options
def export(model: str, out: str | None, force: bool, as_json: bool, **given: Any) -> None:
    """Write an explainer: one ONNX file that classifies and explains, in any ONNX runtime.

    OUT takes the model's own image and gives its own outputs, unchanged and first, then 'map', the
    explanation over the feature map's grid, and 'class', the class explained. It consists of
    standard operators and shares the model's weights. Beyond 2 GB these go into OUT.data.

    \b
    Examples:
      onnxcam export model.onnx explainer.onnx
      onnxcam export model.onnx explainer.onnx --targets top1 --heatmap
      onnxcam export model.onnx explainer.onnx --method grad-cam --targets top5
      onnxcam export model.onnx --triton repository --kserve s3://bucket/models
    """
    from onnxcam.engine import MEMORY
    from onnxcam.exporting import exported
    from onnxcam.methods import method_named
    from onnxcam.triton import fitting_name, manifest, repository

    folder = given["triton"]
    if out is None and folder is None:
        raise click.UsageError("name the file to write, OUT, or a repository with --triton")
    if given["kserve"] and folder is None:
        raise click.UsageError("--kserve goes with --triton: the manifest serves a repository")
    names.check([Path(out)] if out else [], [Path(model)], force)
    own = options.of_methods(given, [method_named(given["method"])])
    asked = given["targets"] or ("given",)
    picturing = options.picturing(given)
    del picturing["max_pixels"]
    made = exported(
        model, given["method"], given["layer"],
        targets=asked[0] if len(asked) == 1 else list(asked),
        memory=given["memory"] or MEMORY, class_names=options.class_names(given),
        **{name: given[name] for name in (*_SHAPE, *_HOW)},
        **options.loading(given), **picturing, **own,
    )  # fmt: skip
    contents = made.contents(out) if out else {}
    if folder is not None:
        name = given["name"] or fitting_name(Path(model).stem)
        files = repository(made, name, given["max_batch"])
        contents |= {Path(folder) / file: data for file, data in files.items()}
        if given["kserve"]:
            beside = Path(folder).absolute().parent / f"{name}.kserve.yaml"
            contents[beside] = manifest(name, given["kserve"]).encode()
    names.check(list(contents), [Path(model)], force)
    write_together(contents, force)
    written, what = [str(path) for path in contents], made.recipe
    size, before = made.model.file_bytes, made.source.file_bytes
    if as_json:
        facts = {"method": what.method.name, "layer": what.layer and what.layer.tensor}
        sizes = {"bytes": size, "bytes_of_model": before, "notes": made.notes}
        show.document({"files": written, **facts, **ends(made.model), **sizes})
        return
    show.facts([
        ("written", ", ".join(written)),
        ("explainer", told(made.model)),
        ("method", what.method.title + (f" at {what.layer.tensor}" if what.layer else "")),
        ("size", f"{size / 1e6:.1f} MB, {size / before:.3f} × the model"),
        *(("note", note) for note in made.notes),
    ])  # fmt: skip
