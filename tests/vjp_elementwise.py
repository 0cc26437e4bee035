"""The test table of the rules for arithmetic, activations, reductions and normalisations."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
from gradcheck import Spec

from models import rng


def x(*shape: int, seed: int = 0) -> np.ndarray:
    """Random numbers."""
    return rng(seed + sum(shape)).normal(size=shape)


def inside(low: float, high: float, *shape: int, but: tuple[float, ...] = ()) -> np.ndarray:
    """Random numbers between two bounds, none nearer to a kink than 0.02."""
    values = rng(int(np.prod(shape))).uniform(low, high, size=shape)
    for kink in but:
        near = np.abs(values - kink) < 0.02
        values = np.where(near, values + 0.05, values)
    return values


def apart(*shape: int, step: float = 0.3) -> np.ndarray:
    """Numbers in random order, no two equal or nearly, none 0."""
    size = int(np.prod(shape))
    return (rng(size).permutation(size).reshape(shape) - size / 2 + 0.25) * step


def i(*values: Any) -> np.ndarray:
    """A list of int64."""
    return np.array(values, np.int64)


def f(value: float) -> np.ndarray:
    """A number."""
    return np.array(value)


def named(attributes: dict[str, Any]) -> str:
    """Attributes as part of a name."""
    return " ".join(f"{k} {v}" for k, v in attributes.items())


# Operator → low and high end of its inputs, kinks to stay away from.
UNARY: dict[str, tuple[float, float, tuple[float, ...]]] = {
    **dict.fromkeys(("Identity", "Neg", "Exp", "Erf", "Sigmoid", "Tanh", "Softplus"), (-2, 2, ())),
    **dict.fromkeys(("Sin", "Cos", "Atan", "Sinh", "Cosh", "Asinh"), (-2, 2, ())),
    **dict.fromkeys(("Abs", "Softsign", "Relu", "LeakyRelu", "Elu", "Selu"), (-2, 2, (0,))),
    "Dropout": (-2, 2, (0,)),
    **dict.fromkeys(("Mish", "Gelu"), (-5, 5, ())),
    **dict.fromkeys(("Asin", "Acos", "Atanh"), (-0.8, 0.8, ())),
    **dict.fromkeys(("Sqrt", "Log", "Reciprocal"), (0.5, 2, ())),
    "Tan": (-1, 1, ()),
    "Acosh": (1.5, 3, ()),
    "HardSigmoid": (-4, 4, (-2.5, 2.5)),
    "HardSwish": (-5, 5, (-3, 3)),
    "ThresholdedRelu": (-1, 4, (1, 2)),
    "Shrink": (-3, 3, (-1.5, -0.5, 0.5, 1.5)),
}
ATTRIBUTES: dict[str, list[dict[str, Any]]] = {
    "LeakyRelu": [{"alpha": 0.1}, {"alpha": 0.0}],
    "Elu": [{"alpha": 2.0}],
    "Selu": [{"alpha": 2.0, "gamma": 3.0}],
    "Gelu": [{"approximate": "tanh"}, {"approximate": "none"}],
    "HardSigmoid": [{"alpha": 0.5, "beta": 0.6}, {"alpha": 1 / 6, "beta": 0.5}],
    "ThresholdedRelu": [{"alpha": 2.0}],
    "Shrink": [{"lambd": 1.5}, {"lambd": 1.5, "bias": 1.5}],
    "Dropout": [{"seed": 0}],
}
# The evaluator computes their error function in float32.
COARSE = {"Erf": {"step": 1e-3, "tolerance": 2e-4}, "Gelu": {"step": 1e-3, "tolerance": 2e-4}}


def unary() -> list[Spec]:
    """Functions of one input, each with its defaults and the attributes above."""
    return [
        Spec(op, (inside(low, high, 2, 3, 4, but=kinks),), attributes, named(attributes),
             batch=True, **({} if attributes == {"approximate": "tanh"} else COARSE.get(op, {})))
        for op, (low, high, kinks) in UNARY.items()
        for attributes in [{}, *ATTRIBUTES.get(op, [])]
    ]  # fmt: skip


def others() -> list[Spec]:
    """Functions of one tensor with further inputs or types."""
    relu6 = inside(-2, 8, 2, 3, 4, but=(0, 6))
    clips = [(f(0.0), f(6.0)), (f(0.5), None), (None, f(0.5)), (None, None), (f(3.0), f(1.0))]
    clips = [tuple(None if b is None else b + 0.01 for b in pair) for pair in clips]  # no kink hit
    yes, no = np.array(True), np.array(False)
    bent = inside(-2, 2, 2, 3, 4, but=(0,))
    return [
        *(Spec("Clip", (relu6, *b), note=f"from {b[0]} to {b[1]}", batch=True) for b in clips),
        Spec("Clip", (relu6, f(0.01), f(6.01)), note="constant bounds", constant=(1, 2)),
        Spec("Clip", (relu6, f(-np.inf), f(np.inf)), note="endless", constant=(1, 2), batch=True),
        Spec("Dropout", (x(2, 3), f(0.1)), note="ratio", constant=(1,)),
        Spec("Dropout", (x(2, 3), f(0.1), no), note="mask", constant=(1,), outputs=2),
        Spec("Dropout", (x(2, 3), f(0.0), yes), note="training at ratio 0", constant=(1,)),
        Spec("Dropout", (x(2, 3), f(0.75), no), note="not training", constant=(1,), opset=24),
        Spec("Cast", (x(2, 3),), {"to": 1}, "narrower", step=1e-2, tolerance=1e-4, batch=True),
        Spec("Cast", (x(2, 3),), {"to": 11}, "the same", runtime=False),
        Spec("Cast", (x(2, 3),), {"to": 10}, "half", step=0.5, tolerance=2e-3, runtime=False),
        Spec("CastLike", (x(2, 3), np.zeros(1, np.float32)), note="narrower", constant=(1,),
             step=1e-2, tolerance=1e-4),
        *(Spec("Celu", (bent.astype(np.float32),), a, f"single {named(a)}", step=1e-2,
               tolerance=2e-4, batch=True) for a in ({}, {"alpha": 2.0})),
        *(Spec("Celu", (bent,), a, f"opset 28 {named(a)}", opset=28, runtime=False)
          for a in ({}, {"alpha": 2.0})),
        Spec("Swish", (x(2, 3, 4),), note="opset 24", opset=24, batch=True, runtime=False),
        Spec("Swish", (x(2, 3, 4),), {"alpha": 1.7}, "alpha", opset=24, runtime=False),
    ]  # fmt: skip


# Shapes that are broadcast together: as the node tests have them, and to both sides.
PAIRS: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((2, 3, 4), (2, 3, 4)), ((2, 3, 4), (4,)), ((2, 3, 4), (3, 1)), ((2, 3, 4), ()),
    ((2, 3, 4), (1, 1, 1)), ((2, 1, 4), (3, 1)), ((3, 1), (2, 1, 4)), ((4,), (2, 3, 4)),
    ((), (2, 3)), ((1, 3), (2, 3)), ((3,), (3,)), ((), ()),
]  # fmt: skip


def sizes(*shapes: tuple[int, ...]) -> str:
    """Shapes as part of a name: 2x3x4 by 4."""
    return " by ".join("x".join(map(str, s)) or "scalar" for s in shapes)


def pair(op: str, a: tuple[int, ...], b: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Operands of an operator of two, away from its kinks."""
    if op == "Pow":
        return inside(0.5, 2, *a), inside(-2, 2, *b)
    if op == "Mod":  # the quotient stays away from whole numbers
        return np.sign(apart(*a)) * inside(2.1, 2.8, *a), inside(0.95, 1.05, *b)
    if op in ("Max", "Min"):
        both = apart(int(np.prod(a, dtype=int) + np.prod(b, dtype=int)))
        size = int(np.prod(a, dtype=int))
        return both[:size].reshape(a), both[size:].reshape(b)
    second = inside(0.5, 2, *b) if op == "Div" else x(*b, seed=5)
    return x(*a, seed=3), second


def binary() -> list[Spec]:
    """Operators of two inputs that are broadcast to each other."""
    ops = ("Add", "Sub", "Mul", "Div", "Pow", "Mod", "Max", "Min", "Sum", "Mean")
    rows = []
    for op, (a, b) in itertools.product(ops, PAIRS):
        # The first axis is free where it is the batch of both or of a tensor in front.
        wide = [k for k, s in enumerate((a, b)) if len(s) == 3 and s[0] == 2]
        attributes = {"fmod": 1} if op == "Mod" else {}
        # The evaluator does not broadcast the first operand of a Mean.
        known = op != "Mean" or np.broadcast_shapes(a, b) == a
        rows.append(Spec(op, pair(op, a, b), attributes, sizes(a, b), batch=tuple(wide),
                         evaluator=known))  # fmt: skip
    return rows


def several() -> list[Spec]:
    """Operators of any number of inputs, choices, and powers that are not plain."""
    three = (apart(3, 3, 4)[0], apart(2, 3, 4) + 0.05, apart(4) + 0.1)
    yes = rng(2).normal(size=(2, 3, 4)) > 0
    rows = [
        *(Spec(op, three, note="three", batch=(1,), evaluator=op != "Mean")
          for op in ("Max", "Min", "Sum", "Mean")),
        *(Spec(op, three[:1], note="one", batch=True) for op in ("Max", "Min", "Sum", "Mean")),
        *(Spec("Where", (c, x(*a), x(*b, seed=1)), note=sizes(c.shape, a, b)) for c, a, b in [
            (yes, (2, 3, 4), (2, 3, 4)), (yes, (), (4,)), (yes[0, 0], (3, 1), (2, 1, 1)),
            (yes[:, :1], (3, 4), ()), (yes[0, 0, :1], (2, 3), (2, 3))]),
        Spec("Where", (yes[0], x(2, 3, 4), x(2, 3, 4, seed=1)), note="batch", batch=(1, 2)),
        Spec("Pow", (x(2, 3, 4), i(2)), note="whole 2", batch=True),
        Spec("Pow", (x(2, 3, 4), i(3)), note="whole 3", batch=True),
        Spec("Pow", (x(2, 3), i([0, 1, 2])), note="whole, several"),
        Spec("Pow", (x(2, 3), f(2.0)), note="square", constant=(1,), batch=True),
        Spec("Pow", (x(2, 3), f(3.0)), note="cube", constant=(1,), batch=True),
        Spec("Pow", (inside(0.5, 2, 2, 3), f(0.5)), note="root", constant=(1,)),
        Spec("Pow", (inside(0.5, 2, 2, 3), f(-1.5)), note="negative", constant=(1,)),
        Spec("Pow", (np.array([[0.0, 1.5]]), f(0.0)), note="of 0 to 0", constant=(1,),
             evaluator=False),
        Spec("Pow", (np.array([[0.0, 1.5]]), f(1.0)), note="of 0 to 1", constant=(1,),
             evaluator=False),
        *(Spec("PRelu", (inside(-2, 2, 2, 3, 4, but=(0,)), x(*b)), note=sizes((2, 3, 4), b),
               batch=True) for b in [(2, 3, 4), (4,), (3, 1), (1, 1, 1), ()] if b[:1] != (2,)),
        Spec("PRelu", (inside(-2, 2, 2, 3, 4, but=(0,)), x(2, 3, 4)), note="whole", batch=(0, 1)),
        Spec("Mod", (x(2, 3) + 5, f(1.5)), {"fmod": 0}, "of floats", opset=28, runtime=False),
    ]  # fmt: skip
    return rows


REDUCE = {  # operator → low and high end of its inputs
    **dict.fromkeys(("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"), (-2, 2)),
    **dict.fromkeys(("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp"), (-2, 2)),
    "ReduceLogSum": (0.5, 2),
}


def reductions() -> list[Spec]:
    """Every reduction: axes as an attribute and as an input, kept and dropped, all and none."""
    rows = []
    for op, (low, high) in REDUCE.items():
        values = inside(low, high, 2, 3, 4, but=(0,))
        values = apart(2, 3, 4) if op in ("ReduceMax", "ReduceMin") else values
        where = [(1,), (-2,), (1, 2), (2, 1), (0, 2), (0, 1, 2)]
        for axes, keep in itertools.product(where, (1, 0)):
            free = 0 not in axes
            note = f"axes {axes} keepdims {keep}"
            rows.append(Spec(op, (values, i(*axes)), {"keepdims": keep}, note, batch=free))
            if op != "ReduceSum" and len(axes) < 3:
                old = {"axes": list(axes), "keepdims": keep}
                rows.append(Spec(op, (values,), old, f"{note}, opset 16", opset=16, batch=free))
        for keep in (1, 0):
            rows.append(Spec(op, (values,), {"keepdims": keep}, f"all, keepdims {keep}", opset=18))
            rows.append(Spec(op, (values,), {"keepdims": keep}, f"all {keep} at 16", opset=16))
        rows.append(Spec(op, (values, i()), {}, "empty axes"))
        rows.append(Spec(op, (values, i()), {"noop_with_empty_axes": 1}, "no axes", batch=True))
        rows.append(Spec(op, (values, i(1)), {}, "opset 24", opset=24))
    zeros = inside(-2, 2, 3, 4)
    zeros[0, 1] = zeros[1, 0] = zeros[1, 3] = 0
    rows.append(Spec("ReduceProd", (zeros, i(1)), {}, "of one 0, of two, of none", batch=True))
    return rows


def along() -> list[Spec]:
    """What works along one axis."""
    rows = []
    for op, axis in itertools.product(("Softmax", "LogSoftmax"), (0, 1, 2, -1, -2)):
        rows.append(Spec(op, (x(2, 3, 4),), {"axis": axis}, f"axis {axis}", batch=axis != 0))
    large = np.array([[0.0, 1, 2, 3], [1e4, 10001, 10002, 10003]])
    for op in ("Softmax", "LogSoftmax"):
        rows.append(Spec(op, (x(1, 3),), note="default axis", batch=True))
        rows.append(Spec(op, (large,), note="large numbers", tolerance=1e-5))
    for axis, reverse, exclusive in itertools.product((0, 1, -1), (0, 1), (0, 1)):
        attributes = {"reverse": reverse, "exclusive": exclusive}
        note = f"axis {axis} {named(attributes)}"
        free = axis != 0
        rows.append(Spec("CumSum", (x(2, 3, 4), np.array(axis)), attributes, note, batch=free))
    rows.append(Spec("CumSum", (x(5), np.array(0, np.int32)), note="of a vector"))
    for axis, largest, ordered in itertools.product((0, 1, -1), (1, 0), (1, 0)):
        attributes = {"axis": axis, "largest": largest, "sorted": ordered}
        rows.append(Spec("TopK", (apart(3, 4), i(2)), attributes, named(attributes), outputs=2,
                         batch=axis != 0, runtime=bool(ordered)))  # fmt: skip
    rows.append(Spec("TopK", (apart(3, 4), i(2)), note="opset 24", outputs=2, opset=24))
    return rows


def norms() -> list[Spec]:
    """Normalisations."""
    three = (x(3), x(3, seed=1))
    rows = []
    for shape in ((2, 3, 2, 2), (2, 3), (2, 3, 4)):
        inputs = (x(*shape), *three, x(3, seed=2), inside(0.5, 2, 3))
        for attributes in ({}, {"epsilon": 0.01}):
            note = f"{sizes(shape)} {named(attributes)}"
            rows.append(Spec("BatchNormalization", inputs, attributes, note, batch=True))
    rows.append(Spec("BatchNormalization", inputs, note="constant", constant=(1, 2, 3, 4),
                     batch=True, opset=16))  # fmt: skip
    for shape in ((2, 3, 2, 2), (1, 2, 1, 5), (2, 3, 5)):
        weights = (x(shape[1]), x(shape[1], seed=1))
        for attributes in ({}, {"epsilon": 0.01}):
            note = f"{sizes(shape)} {named(attributes)}"
            inputs = (x(*shape), *weights)
            rows.append(Spec("InstanceNormalization", inputs, attributes, note, batch=True))
    for shape, epsilon in (((2, 3, 2, 3), None), ((3, 4), None), ((2, 3, 5), 0.1)):
        for axis in range(-len(shape), len(shape)):
            attributes = {"axis": axis, **({} if epsilon is None else {"epsilon": epsilon})}
            inputs = (x(*shape), x(*shape[axis:]), x(*shape[axis:], seed=1))
            note = f"{sizes(shape)} axis {axis}"
            free = axis not in (0, -len(shape))
            rows.append(Spec("LayerNormalization", inputs, attributes, note, batch=free))
    token, scale, shift = x(2, 3, 4), x(4), x(4, seed=1)
    rows += [
        Spec("LayerNormalization", (token, scale), note="no bias", batch=True),
        Spec("LayerNormalization", (token, scale, shift), note="default", batch=True),
        Spec("LayerNormalization", (token, x(3, 1), x(1, 4)), note="broadcast", batch=True),
        Spec("LayerNormalization", (token, scale, shift), note="mean and deviation beside",
             outputs=3, batch=True),
        *(Spec("LayerNormalization", (token, scale, shift), note=f"output {k}", outputs=3,
               output=k, constant=(1, 2)) for k in (1, 2)),
        *(Spec("LpNormalization", (inside(0.2, 2, 3, 4, 3),), {"p": 1, "axis": a}, f"p 1 axis {a}",
               batch=a != 0) for a in (0, 1, -1)),
        *(Spec("LpNormalization", (x(3, 4, 3),), {"p": 2, "axis": a}, f"p 2 axis {a}",
               batch=a != 0) for a in (0, 1, -1)),
        Spec("LpNormalization", (x(2, 3, 2),), note="default", opset=22, batch=True,
             runtime=False),
        # The evaluator takes the number of images for that of channels.
        *(Spec("LRN", (x(4, 4, 2, 1),), a, named(a), batch=True) for a in [
            {"size": 3}, {"size": 3, "alpha": 0.2, "beta": 0.5, "bias": 2.0},
            {"size": 5, "alpha": 1.0}, {"size": 2, "alpha": 1.0}, {"size": 4, "alpha": 1.0}]),
    ]  # fmt: skip
    return rows


def older() -> list[Spec]:
    """One row of each that sums, in the opset where axes still were attributes."""
    first = {s.op: s for s in (*norms(), *along())}
    return [replace(s, opset=17, note=f"{s.note} opset 17") for s in first.values()]


SPECS: list[Spec] = [
    *unary(), *others(), *binary(), *several(), *reductions(), *along(), *norms(), *older(),
]  # fmt: skip
