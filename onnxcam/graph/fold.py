"""Values that a graph computes from constants and known shapes, found without running it.

Exporters write shape arithmetic into the graph (Shape, Gather, Concat, …, Reshape). With image
size and batch bound to numbers all of it is constant; this table evaluates the operators that
occur there, on small arrays, in numpy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx

MOST_BYTES = 1 << 22
"""Results beyond this size are left in the graph."""


def _ints(values: Any) -> tuple[int, ...]:
    return tuple(int(v) for v in np.atleast_1d(values))


def _reshape(x: np.ndarray, shape: np.ndarray, allowzero: int = 0) -> np.ndarray:
    target = [x.shape[i] if n == 0 and not allowzero else int(n) for i, n in enumerate(shape)]
    return x.reshape(target)


def _squeeze(x: np.ndarray, axes: Any = None) -> np.ndarray:
    return x.squeeze(None if axes is None else _ints(axes))


def _slice(
    x: np.ndarray, starts: Any, ends: Any, axes: Any = None, steps: Any = None
) -> np.ndarray:
    axes = range(len(_ints(starts))) if axes is None else _ints(axes)
    steps = [1] * len(_ints(starts)) if steps is None else _ints(steps)
    index = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, _ints(starts), _ints(ends), steps, strict=True):
        stop = None if step < 0 and end <= -(x.shape[axis] + 1) else end
        index[axis] = slice(start, stop, step)
    return x[tuple(index)]


def _div(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if not np.issubdtype(np.asarray(x).dtype, np.integer):
        return np.asarray(np.divide(x, y))
    return np.asarray(np.trunc(np.divide(x, y)).astype(x.dtype))  # ONNX truncates towards zero


def _cast(x: np.ndarray, to: Any, saturate: int = 1) -> np.ndarray:
    known = isinstance(to, int) and not isinstance(to, bool)
    return x.astype(onnx.helper.tensor_dtype_to_np_dtype(to) if known else to)


def _constant_of_shape(shape: np.ndarray, value: Any = None) -> np.ndarray:
    fill = np.zeros(1, np.float32) if value is None else np.asarray(value)
    size = int(np.prod(np.asarray(shape, np.float64)))
    if size * fill.itemsize > MOST_BYTES:
        raise ValueError("too large to fold")
    return np.full(_ints(shape) if len(shape) else (), fill.reshape(-1)[0], fill.dtype)


def _expand(x: np.ndarray, shape: np.ndarray) -> np.ndarray:
    target = np.broadcast_shapes(x.shape, _ints(shape))
    if np.prod(target, dtype=np.float64) * x.itemsize > MOST_BYTES:
        raise ValueError("too large to fold")
    return np.broadcast_to(x, target).copy()


def _range(start: np.ndarray, limit: np.ndarray, delta: np.ndarray) -> np.ndarray:
    if abs((float(limit) - float(start)) / float(delta)) > MOST_BYTES:
        raise ValueError("too large to fold")
    return np.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def _clip(x: np.ndarray, low: Any = None, high: Any = None) -> np.ndarray:
    x = x if low is None else np.maximum(x, low)  # ONNX lets `high` win where the limits cross
    return x if high is None else np.minimum(x, high)


def _one_hot(indices: Any, depth: Any, values: np.ndarray, axis: int = -1) -> np.ndarray:
    size = int(np.asarray(depth).reshape(-1)[0])
    if np.size(indices) * size * values.itemsize > MOST_BYTES:
        raise ValueError("too large to fold")
    places = np.asarray(indices, np.int64)[..., None]
    places = np.where((places < -size) | (places >= size), size, places % size)
    return np.moveaxis(np.where(places == np.arange(size), values[1], values[0]), -1, axis)


def _reduce(function: Callable[..., Any]) -> Callable[..., np.ndarray]:
    def reduce(
        x: np.ndarray, axes: Any = None, keepdims: int = 1, noop_with_empty_axes: int = 0
    ) -> np.ndarray:
        if axes is None and noop_with_empty_axes:
            return x
        axis = None if axes is None else _ints(axes)
        return np.asarray(function(x, axis=axis, keepdims=bool(keepdims)))

    return reduce


FOLD: dict[str, Callable[..., np.ndarray]] = {
    "Identity": lambda x: x,
    "Transpose": lambda x, perm=None: x.transpose(perm),
    "Reshape": _reshape,
    "Unsqueeze": lambda x, axes: np.expand_dims(x, _ints(axes)),
    "Squeeze": _squeeze,
    "Gather": lambda x, indices, axis=0: np.asarray(x.take(indices, axis=axis)),
    "Concat": lambda *xs, axis=0: np.concatenate(xs, axis=axis),
    "Slice": _slice,
    "Cast": _cast,
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": _div,
    "Mod": lambda x, y, fmod=0: np.fmod(x, y) if fmod else np.mod(x, y),
    "Neg": np.negative,
    "Floor": np.floor,
    "Ceil": np.ceil,
    "Sqrt": np.sqrt,
    "Min": lambda *xs: functools.reduce(np.minimum, xs),
    "Max": lambda *xs: functools.reduce(np.maximum, xs),
    "Clip": _clip,
    "OneHot": _one_hot,
    "Equal": np.equal,
    "Less": np.less,
    "Greater": np.greater,
    "Not": np.logical_not,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Where": np.where,
    "Expand": _expand,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
}


def fold(op: str, arrays: list[np.ndarray | None], attributes: dict[str, Any]) -> np.ndarray | None:
    """The result of `op` on constant inputs, or None where it cannot be had here."""
    rule = FOLD.get(op)
    if rule is None:
        return None
    try:
        return np.asarray(rule(*arrays, **attributes))
    except (TypeError, ValueError, IndexError, AttributeError, ZeroDivisionError):
        return None  # a form that the table does not know: leave the node alone
