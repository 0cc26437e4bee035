"""The test table of the rules for convolutions and pools: operators with windows."""

from __future__ import annotations

from typing import Any

import numpy as np
from gradcheck import Spec

from models import rng


def x(*shape: int, seed: int = 0) -> np.ndarray:
    """Random numbers."""
    return rng(seed + sum(shape)).normal(size=shape)


def apart(*shape: int) -> np.ndarray:
    """Whole numbers in random order: no two are equal, or nearly."""
    size = int(np.prod(shape))
    return rng(size).permutation(size).reshape(shape) - size / 2


def i(*values: Any) -> np.ndarray:
    """A list of int64."""
    return np.array(values, np.int64)


def named(attributes: dict[str, Any]) -> str:
    """Attributes as part of a name: strides 2-1 pads 0-1-2-1."""
    words = {
        k: "-".join(map(str, v)) if isinstance(v, list) else str(v) for k, v in attributes.items()
    }
    return " ".join(f"{k} {v}" for k, v in words.items())


def sizes(*shapes: tuple[int, ...]) -> str:
    """Shapes as part of a name: 2x3x7x5 by 4x3x3x3."""
    return " by ".join("x".join(map(str, s)) for s in shapes)


# Batch, channels and grid of the image; weights; attributes.
CONVOLUTIONS: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((2, 3, 5, 4), (4, 3, 3, 3), {}),
    ((2, 1, 5, 5), (2, 1, 3, 3), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    ((2, 2, 7, 5), (3, 2, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ((2, 2, 6, 6), (3, 2, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ((2, 2, 7, 5), (3, 2, 3, 3), {"strides": [2, 2]}),
    ((2, 2, 6, 5), (3, 2, 3, 3), {"strides": [2, 2]}),
    ((2, 1, 7, 5), (2, 1, 3, 3), {"pads": [1, 0, 1, 0], "strides": [2, 2]}),
    ((2, 1, 6, 7), (2, 1, 3, 2), {"pads": [0, 1, 2, 1], "strides": [2, 2]}),
    ((2, 1, 6, 5), (2, 1, 3, 3), {"pads": [0, 1, 2, 1]}),
    ((2, 1, 9, 8), (2, 1, 5, 5), {"pads": [2, 2, 2, 2], "strides": [2, 2]}),
    ((2, 1, 9, 8), (2, 1, 7, 7), {"pads": [3, 3, 3, 3], "strides": [2, 2]}),
    ((2, 1, 6, 8), (2, 1, 4, 4), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ((2, 1, 6, 4), (2, 1, 2, 2), {"strides": [2, 2]}),
    ((2, 1, 5, 7), (2, 1, 2, 2), {"strides": [2, 2]}),
    ((2, 1, 6, 5), (2, 1, 3, 1), {"strides": [2, 2]}),
    ((2, 1, 8, 7), (2, 1, 3, 3), {"strides": [3, 3]}),
    ((2, 1, 8, 7), (2, 1, 2, 2), {"strides": [3, 3]}),
    ((2, 1, 7, 8), (2, 1, 3, 3), {"strides": [2, 1]}),
    ((2, 1, 7, 8), (2, 1, 3, 3), {"pads": [1, 1, 1, 1], "strides": [1, 3]}),
    ((2, 1, 7, 8), (2, 1, 3, 2), {"pads": [1, 0, 2, 1], "strides": [3, 2]}),
    ((2, 1, 7, 6), (2, 1, 3, 3), {"dilations": [2, 2]}),
    ((2, 1, 7, 6), (2, 1, 3, 3), {"dilations": [2, 1], "pads": [2, 1, 2, 1]}),
    ((2, 1, 8, 7), (2, 1, 3, 3), {"dilations": [2, 2], "pads": [2, 2, 2, 2], "strides": [2, 2]}),
    ((2, 1, 8, 7), (2, 1, 2, 2), {"dilations": [2, 3], "strides": [3, 2]}),
    ((2, 1, 5, 5), (2, 1, 3, 3), {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    ((2, 1, 6, 5), (2, 1, 3, 3), {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    ((2, 1, 6, 5), (2, 1, 3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ((2, 1, 6, 5), (2, 1, 3, 3), {"auto_pad": "VALID", "strides": [2, 2]}),
    ((2, 1, 5, 4), (2, 1, 2, 2), {"auto_pad": "SAME_UPPER"}),
    ((2, 1, 5, 4), (2, 1, 2, 2), {"auto_pad": "SAME_LOWER"}),
    ((2, 1, 7, 6), (2, 1, 2, 3), {"auto_pad": "SAME_UPPER", "strides": [3, 3]}),
    ((2, 1, 7, 6), (2, 1, 1, 1), {"auto_pad": "SAME_UPPER", "strides": [3, 2]}),
    ((2, 1, 4, 3), (2, 1, 2, 2), {"pads": [3, 3, 3, 3]}),
    ((2, 1, 4, 4), (2, 1, 2, 2), {"pads": [3, 2, 3, 4], "strides": [2, 2]}),
    ((2, 1, 4, 4), (2, 1, 3, 3), {"pads": [4, 4, 4, 4], "strides": [2, 2]}),
    ((2, 1, 4, 4), (2, 1, 2, 2), {"pads": [0, 0, 3, 4], "strides": [2, 2]}),
    ((2, 1, 4, 4), (2, 1, 2, 2), {"pads": [3, 3, 3, 3], "strides": [3, 3]}),
    ((2, 2, 7), (3, 2, 3), {}),
    ((2, 2, 9), (3, 2, 3), {"dilations": [2], "pads": [1, 2], "strides": [2]}),
    ((2, 2, 9), (3, 2, 1), {"strides": [2]}),
    ((2, 2, 8), (2, 1, 3), {"pads": [1, 1], "group": 2}),
    ((2, 1, 3, 4, 3), (2, 1, 2, 2, 2), {"strides": [1, 2, 1]}),
    ((2, 1, 4, 4, 5), (2, 1, 3, 3, 3), {"pads": [1] * 6, "strides": [2, 2, 2]}),
    ((2, 1, 3, 4, 3), (2, 1, 1, 1, 1), {"strides": [2, 2, 2]}),
    ((2, 1, 3, 3, 3), (2, 1, 2, 3, 2), {"pads": [1, 1, 0, 0, 1, 1]}),
    ((2, 3, 4, 3), (2, 3, 1, 1), {}),
    ((2, 2, 5, 4), (3, 2, 1, 1), {"strides": [2, 2]}),
    ((2, 2, 4, 5), (3, 2, 1, 1), {"strides": [1, 2]}),
    ((2, 2, 5, 4), (3, 2, 1, 1), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ((2, 2, 7, 8), (3, 2, 1, 1), {"strides": [3, 3]}),
    ((2, 2, 4, 4), (3, 2, 1, 1), {"pads": [1, 1, 1, 1]}),
    ((2, 4, 5, 4), (2, 2, 1, 1), {"strides": [2, 2], "group": 2}),
    ((2, 2, 4, 3), (3, 2, 4, 3), {}),
    ((2, 2, 4, 3), (3, 2, 4, 3), {"strides": [4, 3]}),
    ((2, 2, 3, 3), (3, 2, 5, 5), {"pads": [1, 1, 1, 1]}),
    ((2, 2, 3, 3), (3, 2, 5, 5), {"pads": [2, 2, 2, 2], "strides": [2, 2]}),
    ((2, 4, 5, 4), (6, 2, 3, 3), {"pads": [1, 1, 1, 1], "group": 2}),
    ((2, 4, 5, 4), (4, 2, 3, 3), {"pads": [1, 1, 1, 1], "group": 2, "strides": [2, 2]}),
    ((2, 4, 6, 5), (4, 2, 2, 2), {"group": 2, "strides": [3, 2]}),
    ((2, 3, 5, 4), (3, 1, 3, 3), {"pads": [1, 1, 1, 1], "group": 3}),
    ((2, 3, 5, 6), (3, 1, 3, 3), {"pads": [1, 1, 1, 1], "group": 3, "strides": [2, 2]}),
    ((2, 3, 6, 6), (3, 1, 5, 5), {"pads": [1, 1, 2, 2], "group": 3, "strides": [2, 2]}),
    ((2, 3, 7, 6), (3, 1, 3, 3), {"group": 3, "dilations": [2, 2], "pads": [2, 2, 2, 2]}),
    ((2, 3, 5, 4), (6, 1, 3, 3), {"pads": [1, 1, 1, 1], "group": 3}),
    ((2, 3, 5, 4), (6, 1, 3, 3), {"pads": [1, 1, 1, 1], "group": 3, "strides": [2, 2]}),
    ((2, 2, 5, 5), (4, 1, 2, 2), {"group": 2, "strides": [2, 2]}),
    ((2, 1, 5, 4), (3, 1, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
]


def convolutions() -> list[Spec]:
    """Each with weights that are computed, and constant: there the image's gradient is faster."""
    rows = []
    for image, weights, attributes in CONVOLUTIONS:
        inputs = (x(*image), x(*weights, seed=1))
        note = f"{sizes(image, weights)} {named(attributes)}"
        # The evaluator runs groups of several channels for one image only.
        single = attributes.get("group", 1) in (1, image[1]) and weights[1] in (1, image[1])
        single = single and weights[0] == attributes.get("group", weights[0])
        options: dict[str, Any] = {"batch": True, "evaluator": single}
        rows.append(Spec("Conv", inputs, attributes, f"computed {note}", **options))
        rows.append(Spec("Conv", inputs, attributes, f"constant {note}", constant=(1,), **options))
    biased = (x(2, 2, 4, 4), x(3, 2, 3, 3), x(3))
    rows.append(Spec("Conv", biased, note="bias"))
    rows.append(Spec("Conv", biased, {"strides": [2, 2]}, "opset 16", opset=16, constant=(1, 2)))
    return rows


# Image, weights, attributes.
TRANSPOSED: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((2, 1, 3, 3), (1, 2, 3, 3), {}),
    ((2, 2, 3), (2, 2, 3), {}),
    ((2, 1, 2, 3, 2), (1, 2, 3, 2, 3), {}),
    ((2, 1, 3, 3), (1, 2, 3, 3), {"output_shape": [10, 8], "strides": [3, 2]}),
    ((2, 1, 3, 3), (1, 2, 3, 3), {"output_shape": [8, 6], "strides": [3, 2]}),
    (
        (2, 1, 3, 3),
        (1, 2, 3, 3),
        {"auto_pad": "SAME_UPPER", "output_shape": [8, 6], "strides": [3, 2]},
    ),
    ((2, 1, 3, 3), (1, 2, 3, 3), {"output_padding": [1, 1], "strides": [3, 2]}),
    ((2, 1, 3, 3), (1, 2, 3, 3), {"output_padding": [2, 1], "strides": [3, 2], "pads": [1] * 4}),
    (
        (2, 1, 3, 3),
        (1, 2, 3, 3),
        {
            "kernel_shape": [3, 3],
            "output_padding": [1, 1],
            "output_shape": [10, 8],
            "strides": [3, 2],
        },
    ),
    ((2, 1, 3, 3), (1, 2, 3, 3), {"pads": [1, 2, 1, 2], "strides": [3, 2]}),
    ((2, 1, 3, 3), (1, 2, 3, 3), {"pads": [0, 1, 2, 0], "strides": [2, 2]}),
    ((2, 1, 3, 3), (1, 1, 2, 2), {"dilations": [2, 2]}),
    ((2, 1, 3, 3), (1, 1, 2, 2), {"dilations": [2, 3], "strides": [3, 2], "pads": [1, 1, 0, 2]}),
    ((2, 1, 3, 3), (1, 2, 3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ((2, 1, 3, 3), (1, 2, 3, 3), {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    ((2, 1, 3, 3), (1, 2, 3, 3), {"auto_pad": "VALID", "strides": [2, 2]}),
    ((2, 1, 3, 3), (1, 2, 1, 2), {"strides": [2, 3]}),
    ((2, 1, 3, 3), (1, 2, 2, 2), {"strides": [2, 2]}),
    ((2, 2, 3, 3), (2, 1, 3, 3), {"group": 2}),
    ((3, 2, 3, 3), (2, 1, 3, 3), {"group": 2, "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ((2, 4, 3, 2), (4, 3, 2, 2), {"group": 2, "strides": [2, 2]}),
    (
        (2, 3, 3, 2),
        (3, 2, 3, 3),
        {"group": 3, "dilations": [2, 1], "output_padding": [1, 0], "strides": [2, 1]},
    ),
]


def transposed() -> list[Spec]:
    rows = []
    for image, weights, attributes in TRANSPOSED:
        # The evaluator knows neither groups for several images nor an output that is cut.
        plain = "group" not in attributes and attributes.get("output_shape") != [8, 6]
        inputs, note = (
            (x(*image), x(*weights, seed=1)),
            f"{sizes(image, weights)} {named(attributes)}",
        )
        rows.append(Spec("ConvTranspose", inputs, attributes, note, batch=True, evaluator=plain))
    biased = (x(2, 2, 3, 3), x(2, 3, 3, 3), x(3))
    return [*rows, Spec("ConvTranspose", biased, note="bias")]


# Shape, attributes.
WINDOWS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((2, 1, 5, 5), {"kernel_shape": [5, 5], "pads": [2, 2, 2, 2]}),
    ((2, 2, 5, 5), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ((2, 1, 4, 6), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ((2, 1, 5, 5), {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ((2, 1, 6, 5), {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    ((2, 1, 6, 5), {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "VALID"}),
    ((2, 2, 8), {"kernel_shape": [2]}),
    ((2, 2, 8), {"kernel_shape": [3], "strides": [2], "pads": [1, 1]}),
    ((2, 2, 4, 5), {"kernel_shape": [2, 2]}),
    ((2, 1, 3, 4, 3), {"kernel_shape": [2, 2, 2]}),
    ((2, 1, 4, 4, 5), {"kernel_shape": [2, 2, 2], "strides": [2, 2, 2]}),
    ((2, 2, 4, 5), {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER"}),
    ((2, 2, 4, 5), {"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER"}),
    ((2, 2, 4, 5), {"kernel_shape": [3, 3], "pads": [2, 2, 2, 2]}),
    ((2, 1, 8, 8), {"kernel_shape": [5, 5], "strides": [3, 3]}),
    ((2, 1, 6, 7), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ((2, 1, 6, 7), {"kernel_shape": [3, 2], "strides": [2, 3], "pads": [0, 1, 2, 0]}),
    ((2, 1, 7, 7), {"kernel_shape": [2, 2], "strides": [3, 3]}),
    ((2, 1, 4, 4), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    ((2, 1, 5, 7), {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ((2, 1, 2, 2), {"kernel_shape": [1, 1], "strides": [2, 2], "ceil_mode": 1}),
    ((2, 1, 5, 7), {"kernel_shape": [4, 4], "strides": [3, 3], "ceil_mode": 1}),
    ((2, 1, 5, 6), {"kernel_shape": [3, 3], "strides": [3, 3], "ceil_mode": 1}),
    ((2, 1, 6, 7), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "pads": [1] * 4}),
    ((2, 1, 2, 2), {"kernel_shape": [3, 3], "strides": [3, 3], "ceil_mode": 1, "pads": [1] * 4}),
    ((2, 1, 4, 4), {"kernel_shape": [2, 2], "strides": [1, 1], "dilations": [2, 2]}),
    ((2, 1, 7, 8), {"kernel_shape": [2, 2], "strides": [2, 2], "dilations": [2, 3]}),
    ((2, 1, 4, 4, 4), {"kernel_shape": [2] * 3, "strides": [1] * 3, "dilations": [2] * 3}),
    (
        (1, 1, 10, 10, 10),
        {"kernel_shape": [3] * 3, "strides": [3] * 3, "dilations": [2] * 3, "ceil_mode": 1},
    ),
    ((2, 2, 4, 3), {"kernel_shape": [4, 3]}),
]


LP_WINDOWS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((2, 2, 8), {"kernel_shape": [2], "p": 3, "strides": [1]}),
    ((2, 2, 3, 4), {"kernel_shape": [2, 2], "p": 4}),
    ((2, 2, 3, 4), {"kernel_shape": [2, 2], "p": 1}),
    ((2, 1, 3, 3, 3), {"kernel_shape": [2, 2, 2], "p": 3}),
    ((2, 1, 4, 5), {"kernel_shape": [2, 2], "p": 2, "auto_pad": "SAME_UPPER"}),
    ((2, 1, 4, 5), {"kernel_shape": [2, 2], "p": 4, "auto_pad": "SAME_LOWER"}),
    ((2, 1, 4, 5), {"kernel_shape": [3, 3], "p": 3, "pads": [2, 2, 2, 2]}),
    ((2, 1, 8, 8), {"kernel_shape": [5, 5], "p": 2, "strides": [3, 3]}),
    ((2, 1, 4, 4), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ((2, 1, 4, 4), {"kernel_shape": [2, 2], "p": 2, "strides": [1, 1], "dilations": [2, 2]}),
]


def pools() -> list[Spec]:
    rows = []
    for shape, attributes in WINDOWS:
        ceil = "ceil_mode" in attributes
        # Before opset 22 onnx infers one cell too many where the last window starts in the padding.
        options: dict[str, Any] = {"batch": True, "opset": 22 if ceil else 21}
        # The evaluator knows the places of the maxima only here.
        steps = [*attributes.get("strides", []), *attributes.get("dilations", [])]
        placed = max(steps, default=1) > 1 and not ceil and "auto_pad" not in attributes
        inputs, note = (apart(*shape),), f"{sizes(shape)} {named(attributes)}"
        rows.append(Spec("MaxPool", inputs, attributes, note, evaluator=placed, **options))
        for counted in (0, 1):
            counting = {**attributes, "count_include_pad": counted}
            note = f"{sizes(shape)} {named(counting)}"
            rows.append(
                Spec("AveragePool", (x(*shape),), counting, note, evaluator=not ceil, **options)
            )
    return rows


# fmt: off
POOLS = [
    *pools(),
    Spec("MaxPool", (apart(2, 1, 5, 5),), {"kernel_shape": [2, 2], "strides": [2, 2]},
         "two outputs", outputs=2, batch=True),
    Spec("MaxPool", (apart(2, 1, 5, 5),),
         {"kernel_shape": [2, 2], "strides": [2, 2], "storage_order": 1}, "columns first",
         outputs=2, batch=True),
    *(
        Spec("LpPool", (x(*shape),), attributes, f"{sizes(shape)} {named(attributes)}", batch=True)
        for shape, attributes in LP_WINDOWS
    ),
    Spec("LpPool", (apart(2, 1, 4, 4) + 0.5,),
         {"kernel_shape": [3, 3], "p": 1, "strides": [2, 2], "ceil_mode": 1}, "ceil",
         batch=True, evaluator=False),
    *(  # no kernel in the evaluator; the steps are small beside these numbers
        Spec("GlobalLpPool", (apart(2, 2, 3, 4) + 0.5,), {"p": p}, f"p {p}", batch=True,
             evaluator=False, tolerance=1e-4)
        for p in (1, 2, 3)
    ),
    *(
        Spec(f"Global{kind}Pool", (apart(*shape),), note=sizes(shape), batch=True,
             evaluator=kind == "Average" or len(shape) == 4)
        for kind in ("Average", "Max")
        for shape in ((2, 3, 5, 4), (2, 1, 3, 3), (2, 2, 6), (2, 2, 2, 3, 2))
    ),
    Spec("MaxUnpool", (x(1, 1, 2, 2), i([[[5, 7], [13, 15]]])),
         {"kernel_shape": [2, 2], "strides": [2, 2]}),
    Spec("MaxUnpool", (x(2, 1, 2), i([[0, 3]], [[5, 6]]), i(2, 1, 4)),
         {"kernel_shape": [2], "strides": [2]}, "output shape, two images"),
    Spec("MaxUnpool", (x(1, 1, 2, 2), i([[[5, 7], [13, 15]]]), i(1, 1, 5, 5)),
         {"kernel_shape": [2, 2], "strides": [2, 2]}, "larger output shape", evaluator=False),
]
# fmt: on

# Blocks (batch, channels · cells of a block, blocks), size of the image, of a block, attributes.
BLOCKS: list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((2, 8, 12), (4, 5), (2, 2), {}),
    ((2, 18, 4), (3, 3), (3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ((2, 6, 2), (5, 6), (3, 2), {"dilations": [2, 1], "pads": [0, 1, 1, 0], "strides": [2, 3]}),
    ((2, 6, 3), (5,), (3,), {}),
]


def columns() -> list[Spec]:
    rows = []
    for shape, image, block, attributes in BLOCKS:
        inputs = (x(*shape), i(*image), i(*block))
        note = f"{sizes(shape, image, block)} {named(attributes)}"
        rows.append(Spec("Col2Im", inputs, attributes, note, batch=True))
    return rows


SPECS: list[Spec] = [*convolutions(), *transposed(), *columns(), *POOLS]
