"""The table itself, the decorator that adds a row to it, and what rules share.

A rule takes the emitter, the cotangent `g` of the output `y`, `y`, the inputs, then the attributes
as keywords with their ONNX defaults. It gives one answer for each input: a tensor; None where no
gradient flows (indices, shapes); or a function that emits the tensor if it is asked for. Rules
know nothing of accumulation and names, and those with `broadcasts` nothing of broadcasting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.errors import OpError
from onnxcam.graph.emit import Emitter
from onnxcam.graph.model import array_of

Dim: TypeAlias = "int | str | None"
Answer: TypeAlias = "gs.Tensor | Callable[[], gs.Tensor | None] | None"


class Rule(NamedTuple):
    """A row: the function, and how it is called.

    Attributes:
        function: gives the answers.
        broadcasts: the inputs were broadcast to the shape of the output; the walk sums that up.
        many: the operator has several outputs: the rule gets lists of cotangents and outputs.
    """

    function: Callable[..., Sequence[Answer]]
    broadcasts: bool = False
    many: bool = False


VJP: dict[str, Rule] = {}
VARIANTS: dict[str, dict[str, Rule]] = {"standard": {}}
"""Rows that stand in for those of VJP, by variant."""

CONSTANT = {  # operators through which no gradient flows: shapes, positions and decisions
    *("Shape", "Size", "ConstantOfShape", "Range", "EyeLike", "OneHot", "NonZero", "ArgMax"),
    *("ArgMin", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Not", "And", "Or"),
    *("Xor", "IsNaN", "IsInf", "Hardmax", "RandomNormalLike", "RandomUniformLike", "Bernoulli"),
    *("Multinomial", "Unique", "NonMaxSuppression", "BitwiseAnd", "BitwiseOr", "BitwiseNot"),
    *("BitwiseXor", "BitShift"),
}
STEPS = {"Floor", "Ceil", "Round", "Sign"}
"""Operators with the derivative 0: what comes through them is lost, and the walk says so."""


def vjp(
    *ops: str, broadcasts: bool = False, many: bool = False, variant: str = "standard"
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds the decorated rule to the table, for each of `ops`."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        table = VJP if variant == "standard" else VARIANTS.setdefault(variant, {})
        table.update(dict.fromkeys(ops, Rule(function, broadcasts, many)))
        return function

    return add


def known(x: gs.Tensor) -> list[Dim]:
    """The shape of `x`: integers, and "N" or None on the axis of the batch.

    Raises:
        OpError: it is not known.
    """
    if x.shape is None:
        raise OpError(f"the shape of tensor {x.name!r} is not known, and its gradient needs it")
    return list(x.shape)


def dims(shape: Sequence[Dim]) -> list[int]:
    """A shape as Reshape takes it, −1 standing for the batch."""
    return [n if isinstance(n, int) else -1 for n in shape]


def fixed(x: gs.Tensor, axis: int) -> int:
    """The size of `x` along an axis.

    Raises:
        OpError: the axis is the free batch.
    """
    size = known(x)[axis]
    if not isinstance(size, int):
        raise OpError(f"tensor {x.name!r} works along the batch, which is free; fix the batch")
    return size


def ints(t: gs.Tensor | Sequence[int] | int | None) -> list[int] | None:
    """The integers of a constant or of an attribute; None for none.

    Raises:
        OpError: they are computed when the model runs.
    """
    if t is None:
        return None
    array = array_of(t) if isinstance(t, gs.Tensor) else np.asarray(t)
    if array is None:
        name = getattr(t, "name", "")
        raise OpError(f"{name!r} must be constant for a gradient")
    return [int(n) for n in array.reshape(-1)]


def shaped(e: Emitter, g: gs.Tensor, like: gs.Tensor) -> gs.Tensor:
    """`g` in the shape of `like`, which has as many elements."""
    return e.Reshape(g, dims(known(like)))


def zeros(e: Emitter, like: gs.Tensor, dtype: Any = None) -> gs.Tensor:
    """Zeros in the shape of `like`."""
    zero = np.zeros(1, float_type(like) if dtype is None else dtype)
    shape = e.Shape(like)
    result = e.ConstantOfShape(shape, value=gs.Constant("value", zero))
    result.dtype, result.shape = zero.dtype, like.shape
    return result


def float_type(x: gs.Tensor) -> np.dtype:
    """The type of the cotangent of `x`: its own, or float32 for integers and floats of 8 bits."""
    dtype = np.dtype(x.dtype or np.float32)
    return dtype if dtype.kind == "f" and dtype.itemsize > 1 else np.dtype(np.float32)


def addable(e: Emitter, g: gs.Tensor) -> gs.Tensor:
    """`g` in a type that ONNX Runtime scatters with sums: on the CPU not float16."""
    return e.cast(g, np.float32) if g.dtype == np.float16 else g


def unbroadcast(e: Emitter, g: gs.Tensor, shape: Sequence[Dim], x: gs.Tensor) -> gs.Tensor:
    """Sums a cotangent of the given shape up to the shape of `x`, which was broadcast to it."""
    target = known(x)
    ahead = len(shape) - len(target)
    stretched = [i for i, n in enumerate(shape) if i < ahead or (target[i - ahead] == 1 and n != 1)]
    if not stretched:
        return g
    g = e.axes("ReduceSum", g, stretched, keepdims=1)
    return e.Reshape(g, dims(target)) if ahead else g


def along(e: Emitter, g: gs.Tensor, axis: int, matrix: np.ndarray, rank: int) -> gs.Tensor:
    """`g` times `matrix` (before, after) along an axis: a linear map of that axis alone."""
    back = [i for i in range(rank) if i != axis] + [axis]
    if axis == rank - 1:
        return e.MatMul(g, matrix.astype(g.dtype))
    product = e.MatMul(e.Transpose(g, perm=back), matrix.astype(g.dtype))
    return e.Transpose(product, perm=list(np.argsort(back)))
