"""Models that are no image classifiers: what they look like instead, and what can be done."""

from __future__ import annotations

from collections.abc import Sequence

from onnxcam.errors import ModelError
from onnxcam.graph.normal import Image


def no_classes(
    name: str,
    shape: Sequence[int | str],
    image: Image,
    outputs: Sequence[tuple[str, str]],
    operators: set[str],
) -> ModelError:
    """The error for a score without a single axis of classes.

    Args:
        name, shape: of the score.
        image: the image input.
        outputs: name and shape of every output of the model.
        operators: the operators of the model.
    """
    shown = f"({', '.join(map(str, shape))})"
    looks, way = _looks(shape, image, operators)
    others = [f"{n!r} {dims}" for n, dims in outputs if n != name]
    rest = f"; its other outputs: {', '.join(others)}" if others else ""
    return ModelError(
        f"the output {name!r} has shape {shown}: no single axis of classes, so this is no image "
        f"classifier ({looks}); {way}name a score tensor with --output{rest}"
    )


def _looks(shape: Sequence[int | str], image: Image, operators: set[str]) -> tuple[str, str]:
    if "NonMaxSuppression" in operators:
        return "a detector: it suppresses boxes", ""
    sides = [n for n in shape[1:] if n != 1]
    if len(shape) == 4 and len(sides) == 3:
        if shape[1] == image.channels and tuple(shape[2:]) == tuple(image.size):
            return "from images to images, it seems", ""
        return (
            f"a segmenter, it seems: scores for each of {shape[2]}×{shape[3]} places",
            "append a mean over the places to the model to explain a class as a whole, or ",
        )
    if len(shape) == 3:
        return f"a detector or an encoder, it seems: {shape[1]} rows of {shape[2]} values", ""
    return "a detector or segmenter?", ""
