"""`onnxcam gradient`: a model with its derivatives as further outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxcam.cli import names, options, show
from onnxcam.cli.split import ends, told
from onnxcam.files import write_together


@click.command(cls=options.Command)
@click.argument("model", type=click.Path())
@click.argument("out", type=click.Path())
@options.option(
    "--wrt", multiple=True, metavar="TENSOR",
    help="What to differentiate for: a tensor, a node, a weight, or a feature map by its position "
    "(-1). Repeatable [default: the image].",
)  # fmt: skip
@options.option(
    "--of", metavar="TENSOR",
    help="What is differentiated [default: the class scores before a softmax or sigmoid].",
)  # fmt: skip
@options.option(
    "--variant", default="standard", show_default=True, metavar="NAME",
    help="guided or deconv: the rules of guided backpropagation or deconvnet at Relu; guided-all, "
    "deconv-all: at every activation like it.",
)  # fmt: skip
@options.option(
    "--cotangent", is_flag=True,
    help="An input 'cotangent' in the shape of --of in place of 'target'.",
)  # fmt: skip
@options.force_option
@options.json_option
@options.model_options
def gradient(model: str, out: str, force: bool, as_json: bool, **given: Any) -> None:
    """Differentiate a model: write it with its gradients as further outputs.

    OUT takes the image and 'target', a class index for each image, and gives the outputs of MODEL
    and '<tensor>/gradient' for each --wrt. It consists of standard operators and runs wherever
    MODEL does; the batch stays free. Beyond 2 GB its weights go into OUT.data.

    \b
    Examples:
      onnxcam gradient model.onnx gradient.onnx
      onnxcam gradient model.onnx gradient.onnx --wrt -1 --wrt -2
      onnxcam gradient model.onnx guided.onnx --variant guided
    """
    from onnxcam.loading import differentiated

    names.check([Path(out)], [Path(model)], force)
    made = differentiated(
        model, given["of"], [_place(text) for text in given["wrt"]], given["variant"],
        cotangent=given["cotangent"], **options.loading(given),
    )  # fmt: skip
    folder = Path(out).parent
    contents = {folder / name: data for name, data in made.files(Path(out).name).items()}
    names.check(list(contents), [Path(model)], force)
    write_together(contents, force)
    if as_json:
        show.document({"file": out, **ends(made)})
    else:
        show.facts([(out, told(made))])


def _place(text: str) -> str | int:
    return int(text) if text.lstrip("-").isdigit() else text
