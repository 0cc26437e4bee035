"""The test table of the rules for operators that weigh, move and gather elements."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import vjp_windows
from gradcheck import Spec
from vjp_windows import i, named, sizes, x


def moved(op: str, shape: tuple[int, ...], *others: Any, note: str = "", **options: Any) -> Spec:
    """One operator on an image, with constants; named by the shapes and what is given."""
    attributes = options.pop("attributes", {})
    lists = " ".join(str(o.tolist()) for o in others if o is not None)
    named_so = " ".join(filter(None, [note, sizes(shape), lists, named(attributes)]))
    batch = options.pop("batch", True)
    return Spec(op, (x(*shape), *others), attributes, named_so, batch=batch, **options)


TRANSFORMS = ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners",
              "asymmetric", "tf_crop_and_resize"]  # fmt: skip
ROUNDINGS = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
WAYS = [{"mode": "nearest", "nearest_mode": r} for r in ROUNDINGS]
WAYS += [{"mode": "linear"}, {"mode": "cubic"}]
SIZES = [[2.0, 3.0], [0.6, 0.6], [2.3, 1.7], [3, 3], [1, 3], [8, 10]]
"""Of the 4 by 5 cells of an image: scales where they are broken numbers, else cells."""


def resized(
    size: list[Any], attributes: dict[str, Any], grid: tuple[int, int] = (4, 5), **options: Any
) -> Spec:
    """A Resize; in ONNX Runtime alone where the evaluator rounds in another way."""
    axes = attributes.get("axes")
    rest = [] if axes else [1, 1]
    scaled = isinstance(size[0], float)
    roi = None
    if attributes.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        roi = np.array([0.4, 0.6, 0.8, 1.1] if axes else [0, 0, 0.4, 0.6, 1, 1, 0.8, 1.1])
    scales = np.array(rest + size, np.float32) if scaled else None
    inputs = (x(1, 1, *grid), roi, scales, None if scaled else i(*rest, *size))
    constant = tuple(k for k in (1, 2) if inputs[k] is not None)
    whole = size in ([2.0, 3.0], [8, 10]) and "antialias" not in attributes
    whole = whole and min(axes or [0]) >= 0
    options = {"evaluator": whole, "constant": constant, **options}
    note = f"{size} of {list(grid)} {named(attributes)}".replace("coordinate_transformation_", "")
    return Spec("Resize", inputs, attributes, note, batch=scaled or bool(axes), **options)


# fmt: off
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
             equation, batch=batch)
        for equation, shapes, batch in [
            ("ij->ji", [(3, 4)], True), ("ij->i", [(3, 4)], True),
            ("...ii ->...i", [(3, 4, 4)], True),
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
]

RESIZES = [
    *(
        resized(size, {**way, "coordinate_transformation_mode": transform})
        for way, transform, size in itertools.product(WAYS, TRANSFORMS, SIZES)
    ),
    *(
        resized(size, {"mode": mode, "antialias": 1, "coordinate_transformation_mode": transform,
                       "exclude_outside": excluded}, (6, 7))
        for mode, transform, excluded, size in itertools.product(
            ("linear", "cubic"), ("half_pixel", "align_corners"), (0, 1),
            ([0.6, 0.3], [3, 3], [2, 9]),
        )
    ),
    resized([0.6, 0.6], {"mode": "linear", "antialias": 1}, (4, 4), evaluator=True),
    resized([3, 3], {"mode": "cubic", "antialias": 1}, (4, 4), evaluator=True, tolerance=1e-5),
    *(
        resized(size, {"mode": "cubic", "cubic_coeff_a": -0.5, "exclude_outside": 1},
                evaluator=True)
        for size in ([2.0, 2.0], [0.8, 0.8])
    ),
    *(
        resized(size, {**kind, "axes": axes})
        for size, axes in itertools.product(([2.0, 3.0], [7, 8]), ([2, 3], [3, 2], [-1, -2]))
        for kind in ({"mode": "nearest"}, {"mode": "linear",
                     "coordinate_transformation_mode": "tf_crop_and_resize"})
    ),
    *(
        resized(size, {"mode": mode, "axes": [2, 3], "keep_aspect_ratio_policy": policy}, grid)
        for mode, policy in itertools.product(("nearest", "linear"), ("not_larger", "not_smaller"))
        for size, grid in (([7, 8], (2, 2)), ([1, 3], (2, 4)), ([7, 8], (4, 5)))
    ),
    moved("Resize", (2, 2, 3), None, np.array([1, 1, 2], np.float32), constant=(2,)),
    moved("Resize", (2, 1, 2, 3, 2), None, np.array([1, 1, 2, 2, 1], np.float32),
          attributes={"mode": "linear"}, constant=(2,), evaluator=False),
]

PADS = [
    moved("Pad", (2, 3, 2, 3), i(0, 0, 1, 3, 0, 0, 2, 4)),
    moved("Pad", (2, 2, 2, 3), i(0, 0, 1, 3, 0, 0, 2, 4), x(), note="with a value"),
    moved("Pad", (2, 2, 2, 3), i(0, 0, -1, 3, 0, 0, 2, -2), x(), note="with a value",
          evaluator=False),
    moved("Pad", (2, 2, 4, 5), i(0, -1, -1, 2, 0, 0, 1, -2), evaluator=False),
    moved("Pad", (2, 2, 2, 3), i(0, 3, 0, 4), None, i(1, 3)),
    moved("Pad", (2, 2, 2, 3), i(0, 3, 0, 4), None, i(-3, -1)),
    *(
        moved("Pad", (2, 2, 4, 5), pads, None, axes, attributes={"mode": mode}, evaluator=plain)
        for mode in ("edge", "reflect", "wrap")
        for pads, axes, plain in ((i(0, 0, 1, 1, 0, 0, 1, 1), None, True),
                                  (i(2, 0, 3, 1), i(-2, 3), True),
                                  (i(-1, 2, 2, -2), i(2, 3), False))
    ),
]

SLICES = [
    moved("Slice", (4, 3, 2), i(0, 0), i(3, 10), i(0, 1), i(1, 1), batch=False),
    moved("Slice", (2, 4, 2), i(0), i(-1), i(1), i(1)),
    moved("Slice", (2, 4, 2), i(1000), i(1000), i(1), i(1)),
    moved("Slice", (2, 4, 2), i(1), i(1000), i(1), i(1)),
    moved("Slice", (4, 3, 5), i(0, 0, 3), i(4, 3, 4), batch=False),
    moved("Slice", (4, 3, 5), i(0, 0, 3), i(4, 3, 4), i(0, 1, 2), batch=False),
    moved("Slice", (4, 5, 5), i(20, 10, 4), i(0, 0, 1), i(0, 1, 2), i(-1, -3, -2), batch=False),
    moved("Slice", (2, 4, 5), i(0, 0, 3), i(2**63 - 1, 20, 4), i(0, -2, -1)),
    moved("Slice", (2, 5), i(-1), i(-(2**63)), i(1), i(-1)),
    moved("Slice", (2, 5), i(4), i(-5), i(1), i(-2)),
    moved("Slice", (2, 5), i(-4), i(-1), i(1), i(1)),
    moved("Slice", (2, 1, 4, 6), i(0, 1), i(2**31 - 1, 2**31 - 1), i(2, 3), i(2, 2)),
    moved("Slice", (2, 1, 5, 7), i(1, 2), i(4, 7), i(2, 3), i(2, 3)),
]

SPLITS = [
    *(
        moved("Split", shape, *(() if parts is None else (parts,)), note=f"output {output}",
              attributes=attributes, outputs=outputs, output=output, batch=free, opset=opset)
        for shape, parts, attributes, outputs, free, opset in [
            ((6,), None, {"axis": 0, "num_outputs": 3}, 3, False, 21),
            ((2, 6), None, {"axis": 1}, 2, True, 17),
            ((6,), i(2, 4), {}, 2, False, 21),
            ((2, 6), i(2, 4), {"axis": 1}, 2, True, 21),
            ((2, 3, 6), i(1, 0, 5), {"axis": -1}, 3, True, 21),
            ((7,), None, {"num_outputs": 4}, 4, False, 21),
            ((2, 8), None, {"axis": 1, "num_outputs": 3}, 3, True, 21),
            ((2, 3), None, {"axis": 1, "num_outputs": 1}, 1, True, 21),
        ]
        for output in {0, outputs - 1}
    ),
]

CONCATS = [
    *(
        Spec("Concat", tuple(x(*s, seed=k) for k, s in enumerate(shapes)), {"axis": axis},
             f"{sizes(*shapes)} axis {axis}", batch=free)
        for shapes, axis, free in [
            ([(2,), (3,)], 0, False), ([(2,), (3,)], -1, False), ([(2, 2), (3, 2)], 0, False),
            ([(2, 2), (2, 3)], 1, (0, 1)), ([(2, 2), (2, 3), (2, 1)], -1, (0, 1, 2)),
            ([(2, 2, 2), (2, 1, 2)], 1, (0, 1)), ([(2, 2, 3), (2, 2, 1)], 2, (0, 1)),
            ([(1, 2, 2), (2, 2, 2)], -3, False), ([(2, 2, 2), (2, 1, 2)], -2, (0, 1)),
            ([(2, 3)], 1, True),
        ]
    ),
]

PLACES = [
    moved("Gather", (4, 3, 2), i(0, 1, 3), batch=False),
    moved("Gather", (2, 4, 3), i(0, 1, 3), attributes={"axis": 1}),
    moved("Gather", (3, 3), i([0, 2]), attributes={"axis": 1}),
    moved("Gather", (2, 3, 4), i([0, 2], [2, 2]), attributes={"axis": 1}),
    moved("Gather", (2, 3, 4), i([0, 2], [2, -1]), attributes={"axis": -1}),
    moved("Gather", (10,), i(0, -9, -10), batch=False),
    moved("Gather", (3, 2), i(2, 2, 0, 2), batch=False),
    moved("Gather", (2, 3, 4), np.array(1), attributes={"axis": 1}),
    moved("Gather", (2, 3, 4), np.array(-1), attributes={"axis": 2}),
    moved("Gather", (3, 4), np.array(0), batch=False),
    moved("Gather", (2, 3, 4), i(2), attributes={"axis": 1}),
    moved("Gather", (2, 3, 4), i([2]), attributes={"axis": 2}),
    moved("Gather", (2, 3, 4), np.array(1, np.int32), attributes={"axis": 1}, note="int32"),
    moved("Gather", (2, 3, 4), np.array([1, -2], np.int32), attributes={"axis": 1}, note="int32"),
    moved("GatherElements", (2, 2), i([0, 0], [1, 0]), attributes={"axis": 1}),
    moved("GatherElements", (3, 3), i([1, 2, 0], [2, 0, 0]), attributes={"axis": 0}),
    moved("GatherElements", (3, 3), i([-1, -2, 0], [-2, 0, 0]), attributes={"axis": 0}),
    # The evaluator knows no such axis.
    moved("GatherElements", (2, 4), i([1, 1, 3], [-1, 0, -1]), attributes={"axis": -1},
          evaluator=False),
    Spec("ScatterElements", (x(2, 4), i([0, 3], [2, 1]), x(2, 2)), {"axis": -1}, "axis -1",
         batch=True, evaluator=False),
    moved("GatherND", (2, 2), i([0, 0], [1, 1]), batch=False),
    moved("GatherND", (2, 2), i([1, 0], [1, 0]), batch=False),
    moved("GatherND", (2, 2, 2), i([[0, 1]], [[1, 0]]), batch=False),
    moved("GatherND", (3, 2), i([-1], [0], [2]), batch=False),
    moved("GatherND", (2, 2, 2), i([1], [0]), attributes={"batch_dims": 1}),
    moved("GatherND", (2, 3, 2), i([[1], [1]], [[0], [2]]), attributes={"batch_dims": 1}),
    moved("GatherND", (2, 2, 3, 2), i([[[1, 0]], [[2, 1]]], [[[0, 0]], [[2, 1]]]),
          attributes={"batch_dims": 2}),
    *(
        Spec(op, (x(*shape), where, x(*patch, seed=1)), attributes,
             f"{sizes(shape)} {where.tolist()} {named(attributes)}", batch=free)
        for op, shape, where, patch, attributes, free in [
            ("ScatterND", (3, 2, 2), i([0], [2]), (2, 2, 2), {}, False),
            ("ScatterND", (3, 2, 2), i([0], [0]), (2, 2, 2), {"reduction": "add"}, False),
            ("ScatterND", (2, 2), i([0, 0], [1, 1]), (2,), {}, False),
            ("ScatterND", (2, 2), i([0, 0], [1, 1], [0, 0]), (3,), {"reduction": "add"}, False),
            ("ScatterND", (2, 3), i([[0, -1]], [[1, 0]]), (2, 1), {}, True),
            ("ScatterElements", (3, 3), i([1, 0, 2], [0, 2, 1]), (2, 3), {}, False),
            ("ScatterElements", (1, 5), i([1, 3]), (1, 2), {"axis": 1}, False),
            ("ScatterElements", (1, 5), i([1, -3]), (1, 2), {"axis": 1}, False),
            ("ScatterElements", (1, 5), i([1, 1]), (1, 2), {"axis": 1, "reduction": "add"}, False),
        ]
    ),
]

VIEWS = [
    *(
        moved("Reshape", (2, 3, 4), shape, batch=free)
        for shape, free in [
            (i(4, 2, 3), False), (i(2, 4, 3), False), (i(2, 12), False), (i(2, 3, 2, 2), False),
            (i(24), False), (i(2, -1, 2), False), (i(-1, 2, 3, 4), False), (i(2, 0, 4, 1), False),
            (i(2, 0, 1, -1), False), (i(0, -1), True), (i(-1, 4), True), (i(-1, 3, 2, 2), True),
            (i(0, 0, 2, 2), True),
        ]
    ),
    moved("Reshape", (2, 3, 4), i(3, 8), attributes={"allowzero": 1}, batch=False),
    *(moved("Flatten", (2, 3, 2, 2), attributes={"axis": a}, batch=a > 0) for a in range(5)),
    *(moved("Flatten", (2, 3, 2, 2), attributes={"axis": a}, batch=a > -4) for a in range(-4, 0)),
    moved("Flatten", (3, 2, 2, 2)),
    moved("Squeeze", (1, 3, 2, 2), i(0), batch=False),
    moved("Squeeze", (2, 3, 1, 2), i(-2)),
    moved("Squeeze", (2, 1, 1, 2), i(1, 2)),
    moved("Squeeze", (1, 3, 1, 2), batch=False),
    *(
        moved("Unsqueeze", (2, 3, 2), axes)
        for axes in (i(0), i(1), i(2), i(1, 4), i(2, 4, 5), i(5, 4, 2), i(-2))
    ),
    moved("Transpose", (2, 3, 4)),
    *(
        moved("Transpose", (2, 3, 4), attributes={"perm": list(perm)})
        for perm in itertools.permutations(range(3))
    ),
    moved("Expand", (3, 1), i(2, 1, 6), batch=False),
    moved("Expand", (3, 1), i(3, 4), batch=False),
    moved("Expand", (2, 3, 1), i(1, 1, 4)),
    moved("Expand", (3, 1), i(2, 1, 1)),
    moved("Expand", (1, 3), i(2, 3), batch=False),
    moved("Expand", (), i(2, 3), batch=False),
    moved("Tile", (2, 2), i(2, 2), batch=False),
    moved("Tile", (2, 3, 2, 1), i(3, 1, 2, 4), batch=False),
    moved("Tile", (2, 3, 2), i(1, 2, 3)),
    moved("Tile", (2, 3), i(2, 1)),
    *(
        moved("DepthToSpace", (2, 8, 2, 3), attributes={"blocksize": 2, "mode": mode})
        for mode in ("DCR", "CRD")
    ),
    moved("DepthToSpace", (2, 9, 1, 2), attributes={"blocksize": 3}),
    moved("SpaceToDepth", (2, 2, 6, 6), attributes={"blocksize": 2}),
    moved("SpaceToDepth", (1, 1, 6, 3), attributes={"blocksize": 3}),
    *(
        moved("Trilu", shape, *([] if k is None else [np.array(k)]), attributes={"upper": upper})
        for shape, k, upper in [
            ((4, 5), None, 1), ((4, 5), -1, 1), ((4, 5), -7, 1), ((4, 5), 2, 1), ((4, 5), 6, 1),
            ((2, 3, 3), None, 1), ((2, 3, 3), -1, 1), ((3, 1, 5), 1, 1), ((4, 5), None, 0),
            ((4, 5), -1, 0), ((4, 5), -7, 0), ((4, 5), 2, 0), ((4, 5), 6, 0), ((2, 3, 3), None, 0),
            ((2, 3, 3), -1, 0), ((3, 1, 5), None, 0),
        ]
    ),
]
# fmt: on

SPECS: list[Spec] = [
    *vjp_windows.SPECS, *PRODUCTS, *RESIZES, *PADS, *SLICES, *SPLITS, *CONCATS, *PLACES, *VIEWS,
]  # fmt: skip
