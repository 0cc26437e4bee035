"""The test table of the rules for operators that move, gather, weigh and pool elements."""

from __future__ import annotations

import itertools
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
        options = {
            "batch": True,
            "evaluator": attributes.get("group", 1) in (1, min(image[1], weights[0])),
        }
        rows.append(Spec("Conv", inputs, attributes, f"computed {note}", **options))
        rows.append(Spec("Conv", inputs, attributes, f"constant {note}", constant=(1,), **options))
    biased = (x(2, 2, 4, 4), x(3, 2, 3, 3), x(3))
    return [*rows, Spec("Conv", biased, note="bias"),
            Spec("Conv", biased, {"strides": [2, 2]}, "opset 16", opset=16, constant=(1, 2))]  # fmt: skip


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
    ((2, 3, 3, 2), (3, 2, 3, 3), {"group": 3, "strides": [2, 1], "output_padding": [1, 0]}),
]


def transposed() -> list[Spec]:
    rows = []
    for image, weights, attributes in TRANSPOSED:
        rows.append(
            Spec(
                "ConvTranspose",
                (x(*image), x(*weights, seed=1)),
                attributes,
                f"{sizes(image, weights)} {named(attributes)}",
                batch=True,
                evaluator="group" not in attributes and attributes.get("output_shape") != [8, 6],
            )  # fmt: skip
        )
    biased = (x(2, 2, 3, 3), x(2, 3, 3, 3), x(3))
    return [*rows, Spec("ConvTranspose", biased, note="bias")]


# Inputs and attributes.
PRODUCTS = [
    Spec("Gemm", (x(3, 5), x(5, 4)), note="no bias", batch=True),
    *(
        Spec("Gemm", (x(3, 5), x(5, 4), c), note=f"bias {sizes(c.shape)}", batch=True)
        for c in (x(1, 4), x(), x(1), x(4), x(3, 1))
    ),
    Spec("Gemm", (x(3, 5), x(5, 4), x(3, 4)), note="bias 3x4"),
    Spec("Gemm", (x(6, 3), x(6, 4), x(1, 4)), {"transA": 1}, "transA"),
    Spec("Gemm", (x(3, 6), x(4, 6), x(1, 4)), {"transB": 1}, "transB", batch=True),
    Spec("Gemm", (x(3, 5), x(5, 4), x(1, 4)), {"alpha": 0.5}, "alpha", batch=True),
    Spec("Gemm", (x(3, 5), x(5, 4), x(1, 4)), {"beta": 0.5}, "beta", batch=True),
    Spec(
        "Gemm", (x(4, 3), x(5, 4), x(1, 5)),
        {"alpha": 0.25, "beta": 0.35, "transA": 1, "transB": 1}, "all attributes",
    ),
    Spec("Gemm", (x(3, 5), x(5, 4), x(4)), note="constant weights", batch=True, constant=(1, 2)),
    *(
        Spec("MatMul", (x(*a), x(*b, seed=1)), note=sizes(a, b))
        for a, b in [
            ((3, 4), (4, 3)), ((2, 3, 4), (2, 4, 3)), ((1, 2, 3, 4), (1, 2, 4, 3)),
            ((3, 1, 3, 4), (1, 2, 4, 2)), ((4,), (2, 4, 1)), ((1, 2, 4, 3), (3,)), ((3,), (3,)),
            ((4,), (4, 3)), ((3, 4), (4,)), ((3,), (2, 3, 3, 2)), ((2, 3, 4), (4, 2)),
            ((3, 4), (2, 4, 2)), ((2, 1, 3, 4), (3, 4, 2)), ((2, 3, 1), (1, 2)), ((1, 1), (1, 3)),
        ]
    ),
    Spec("MatMul", (x(2, 3, 4), x(4, 2)), note="free batch", batch=True),
    Spec("MatMul", (x(2, 3, 4), x(4, 2)), note="constant weights", batch=True, constant=(1,)),
    Spec("MatMul", (x(2, 3, 4), x(2, 4, 2)), note="two free batches", batch=(0, 1)),
    Spec("MatMul", (x(2, 4), x(4)), note="free batch, vector", batch=True),
    Spec("MatMul", (x(4), x(2, 4, 3)), note="vector, free batch", batch=(1,)),
    *(
        Spec("Einsum", tuple(x(*s, seed=k) for k, s in enumerate(shapes)), {"equation": equation},
             equation, batch=batch)  # fmt: skip
        for equation, shapes, batch in [
            ("ij->ji", [(3, 4)], True), ("ij->i", [(3, 4)], True), ("...ii ->...i", [(3, 4, 4)], True),
            ("i,i", [(5,), (5,)], False), ("bij, bjk -> bik", [(3, 2, 3), (3, 3, 2)], (0, 1)),
            ("->", [()], False), ("ij->", [(3, 4)], False), ("ii->", [(3, 3)], False),
            ("iij->ij", [(3, 3, 2)], False), ("iij,j->i", [(3, 3, 2), (2,)], False),
            ("ij,jk", [(2, 3), (3, 4)], True), ("ba,cb", [(2, 3), (4, 2)], False),
            ("...ij,...jk->...ik", [(2, 3, 2), (2, 2, 2)], (0, 1)),
            ("...ij,...jk->...ki", [(2, 3, 3, 2), (2, 1, 2, 2)], (0, 1)),
            ("...ij,jk", [(2, 3, 2), (2, 2)], True), ("i...,...->...i", [(2, 3), (3,)], True),
            ("bhid,bhjd->bhij", [(2, 2, 3, 2), (2, 2, 2, 2)], (0, 1)),
            ("bhwc,hkc->bhwk", [(2, 3, 2, 2), (3, 2, 2)], True),
            ("ij,ij->ij", [(2, 3), (2, 1)], (0, 1)), ("i,j->ij", [(2,), (3,)], True),
            ("ij,jk,kl->il", [(2, 3), (3, 2), (2, 2)], True), ("ij,k->k", [(2, 3), (2,)], False),
        ]
    ),
]  # fmt: skip

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


def pools() -> list[Spec]:
    rows = []
    for shape, attributes in WINDOWS:
        note = f"{sizes(shape)} {named(attributes)}"
        uneven = any(n > 1 for n in attributes.get("strides", []) + attributes.get("dilations", []))
        if "ceil_mode" in attributes or "auto_pad" in attributes:
            uneven = False
        # The evaluator knows the places of the maxima only here.
        rows.append(
            Spec("MaxPool", (apart(*shape),), attributes, note, batch=True, evaluator=uneven)
        )
        for counted in (0, 1):
            all_of_them = {**attributes, "count_include_pad": counted}
            rows.append(
                Spec(
                    "AveragePool",
                    (x(*shape),),
                    all_of_them,
                    f"{sizes(shape)} {named(all_of_them)}",
                    batch=True,
                    evaluator="ceil_mode" not in attributes,
                )  # fmt: skip
            )
    return rows


POOLS = [
    *pools(),
    Spec(
        "MaxPool",
        (apart(2, 1, 5, 5),),
        {"kernel_shape": [2, 2], "strides": [2, 2]},
        "two outputs",
        outputs=2,
        batch=True,
    ),
    Spec(
        "MaxPool",
        (apart(2, 1, 5, 5),),
        {"kernel_shape": [2, 2], "strides": [2, 2], "storage_order": 1},
        "columns first",
        outputs=2,
        batch=True,
    ),
]

SPECS: list[Spec] = [*convolutions(), *transposed(), *PRODUCTS, *POOLS]
