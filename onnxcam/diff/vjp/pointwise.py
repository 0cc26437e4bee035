"""Arithmetic and smooth functions, element by element."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TypeAlias

import onnx
import onnx_graphsurgeon as gs

from onnxcam.diff.vjp.table import Answer, vjp
from onnxcam.errors import OpError
from onnxcam.graph.emit import Emitter
from onnxcam.graph.model import array_of

T: TypeAlias = gs.Tensor
Answers: TypeAlias = Sequence[Answer]


@vjp("Identity")
def identity(e: Emitter, g: T, y: T, x: T) -> Answers:
    return [g]


@vjp("Dropout")
def dropout(
    e: Emitter, g: T, y: T, x: T, ratio: T | float = 0.5, training: T | None = None, seed: int = 0
) -> Answers:
    off = [array_of(t) for t in (training, ratio) if isinstance(t, gs.Tensor)]
    if training is not None and all(a is None or a.any() for a in off):
        raise OpError("Dropout in training mode has no gradient that could be repeated")
    return [g, None, None]


def _number(value: T | float | None) -> float | None:
    """The one number of an attribute or constant; not a number where it is computed."""
    if not isinstance(value, gs.Tensor):
        return value
    array = array_of(value)
    return math.nan if array is None else float(array.item())


@vjp("Cast")
def cast(
    e: Emitter, g: T, y: T, x: T, to: int = 1, saturate: int = 1, round_mode: str = "up"
) -> Answers:
    # The walk casts cotangents to their tensor's type. Rounding counts as no change; a Boolean is a
    # decision.
    return [None if to == onnx.TensorProto.BOOL else g]


@vjp("CastLike")
def cast_like(e: Emitter, g: T, y: T, x: T, like: T, saturate: int = 1) -> Answers:
    return [None if y.dtype == bool else g, None]


@vjp("Neg")
def neg(e: Emitter, g: T, y: T, x: T) -> Answers:
    return [e.Neg(g)]


@vjp("Abs")
def absolute(e: Emitter, g: T, y: T, x: T) -> Answers:
    return [e.Mul(g, e.Sign(x))]


@vjp("Sqrt")
def sqrt(e: Emitter, g: T, y: T, x: T) -> Answers:
    return [e.Div(e.Mul(g, 0.5), y)]


@vjp("Exp")
def exp(e: Emitter, g: T, y: T, x: T) -> Answers:
    return [e.Mul(g, y)]


@vjp("Log")
def log(e: Emitter, g: T, y: T, x: T) -> Answers:
    return [e.Div(g, x)]


@vjp("Reciprocal")
def reciprocal(e: Emitter, g: T, y: T, x: T) -> Answers:
    return [e.Neg(e.Mul(g, e.Mul(y, y)))]


@vjp("Erf")
def erf(e: Emitter, g: T, y: T, x: T) -> Answers:
    return [e.Mul(g, e.Mul(e.Exp(e.Neg(e.Mul(x, x))), 2 / math.sqrt(math.pi)))]


@vjp("Sigmoid")
def sigmoid(e: Emitter, g: T, y: T, x: T) -> Answers:
    return [e.Mul(g, e.Mul(y, e.Sub(1.0, y)))]


@vjp("Tanh")
def tanh(e: Emitter, g: T, y: T, x: T) -> Answers:
    return [e.Mul(g, e.Sub(1.0, e.Mul(y, y)))]


@vjp("Softplus")
def softplus(e: Emitter, g: T, y: T, x: T) -> Answers:
    return [e.Mul(g, e.Sigmoid(x))]


@vjp("Softsign")
def softsign(e: Emitter, g: T, y: T, x: T) -> Answers:
    below = e.Add(e.Abs(x), 1.0)
    return [e.Div(g, e.Mul(below, below))]


@vjp("Sin")
def sin(e: Emitter, g: T, y: T, x: T) -> Answers:
    return [e.Mul(g, e.Cos(x))]


@vjp("Cos")
def cos(e: Emitter, g: T, y: T, x: T) -> Answers:
    return [e.Neg(e.Mul(g, e.Sin(x)))]


@vjp("Tan")
def tan(e: Emitter, g: T, y: T, x: T) -> Answers:
    return [e.Mul(g, e.Add(e.Mul(y, y), 1.0))]


@vjp("Asin")
def asin(e: Emitter, g: T, y: T, x: T) -> Answers:
    return [e.Div(g, e.Sqrt(e.Sub(1.0, e.Mul(x, x))))]


@vjp("Acos")
def acos(e: Emitter, g: T, y: T, x: T) -> Answers:
    return [e.Neg(e.Div(g, e.Sqrt(e.Sub(1.0, e.Mul(x, x)))))]


@vjp("Atan")
def atan(e: Emitter, g: T, y: T, x: T) -> Answers:
    return [e.Div(g, e.Add(e.Mul(x, x), 1.0))]


@vjp("Sinh")
def sinh(e: Emitter, g: T, y: T, x: T) -> Answers:
    return [e.Mul(g, e.Cosh(x))]


@vjp("Cosh")
def cosh(e: Emitter, g: T, y: T, x: T) -> Answers:
    return [e.Mul(g, e.Sinh(x))]


@vjp("Asinh")
def asinh(e: Emitter, g: T, y: T, x: T) -> Answers:
    return [e.Div(g, e.Sqrt(e.Add(e.Mul(x, x), 1.0)))]


@vjp("Acosh")
def acosh(e: Emitter, g: T, y: T, x: T) -> Answers:
    return [e.Div(g, e.Sqrt(e.Sub(e.Mul(x, x), 1.0)))]


@vjp("Atanh")
def atanh(e: Emitter, g: T, y: T, x: T) -> Answers:
    return [e.Div(g, e.Sub(1.0, e.Mul(x, x)))]


@vjp("Add", broadcasts=True)
def add(e: Emitter, g: T, y: T, a: T, b: T) -> Answers:
    return [g, g]


@vjp("Sub", broadcasts=True)
def sub(e: Emitter, g: T, y: T, a: T, b: T) -> Answers:
    return [g, lambda: e.Neg(g)]


@vjp("Mul", broadcasts=True)
def mul(e: Emitter, g: T, y: T, a: T, b: T) -> Answers:
    return [lambda: e.Mul(g, b), lambda: e.Mul(g, a)]


@vjp("Div", broadcasts=True)
def div(e: Emitter, g: T, y: T, a: T, b: T) -> Answers:
    return [lambda: e.Div(g, b), lambda: e.Neg(e.Div(e.Mul(g, y), b))]


@vjp("Pow", broadcasts=True)
def power(e: Emitter, g: T, y: T, a: T, b: T) -> Answers:
    def base() -> T:
        exponent = array_of(b)
        if exponent is not None and exponent.size == 1 and exponent.item() == 2:
            return e.Mul(g, e.Mul(a, 2.0))
        p = b if exponent is None else e.tensor(exponent.astype(a.dtype))
        p = e.cast(p, a.dtype)
        slope = e.Mul(e.Pow(a, e.Sub(p, 1.0)), p)
        # 0 · 0^(0 − 1) is no number; the derivative of x^0 is 0.
        return e.Mul(g, e.Where(e.Equal(p, 0.0), 0.0, slope))

    def exponent() -> T:
        positive = e.Greater(a, 0.0)
        return e.Mul(g, e.Where(positive, e.Mul(y, e.Log(e.Where(positive, a, 1.0))), 0.0))

    return [base, exponent]


@vjp("Sum", broadcasts=True)
def total(e: Emitter, g: T, y: T, *xs: T) -> Answers:
    return [g] * len(xs)


@vjp("Mean", broadcasts=True)
def mean(e: Emitter, g: T, y: T, *xs: T) -> Answers:
    return [e.Mul(g, 1 / len(xs))] * len(xs)


@vjp("Max", "Min", broadcasts=True)
def extreme(e: Emitter, g: T, y: T, *xs: T) -> Answers:
    if len(xs) == 1:
        return [g]
    hits = [e.Equal(x, y) for x in xs]  # among equals the first has it

    def of(i: int) -> T:
        earlier = hits[:i]
        alone = hits[i]
        if earlier:
            alone = e.And(alone, e.Not(functools.reduce(e.Or, earlier)))
        return e.Where(alone, g, 0.0)

    return [functools.partial(of, i) for i in range(len(xs))]


@vjp("Where", broadcasts=True)
def where(e: Emitter, g: T, y: T, condition: T, a: T, b: T) -> Answers:
    return [
        None,
        lambda: e.Where(condition, g, 0.0),
        lambda: e.Where(condition, e.tensor(0.0, g.dtype), g),
    ]


@vjp("Mod", broadcasts=True)
def modulo(e: Emitter, g: T, y: T, a: T, b: T, fmod: int = 0) -> Answers:
    return [g, lambda: e.Neg(e.Mul(g, e.cast(e.Div(e.Sub(a, y), b), g.dtype)))]
