"""The op table: how the difference that a switched-off unit makes travels through an operator.

A rule takes the walk, the node and the states of its inputs, and returns the state of its output;
None means that the rule has no cheap answer and the operator is run on the stack, which is always
right. An operator without a row goes that way too.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.ablate.mixing import conv, gemm, matmul
from onnxcam.ablate.state import Batch, Delta, Lane, Rule, State, Walk
from onnxcam.graph.axes import axes_of
from onnxcam.graph.model import array_of
from onnxcam.graph.quantised import QUANTISERS

_FLOATS = (np.float16, np.float32, np.float64)


def _is_linear(node: gs.Node) -> bool:
    rounds = node.op == "Cast" and node.outputs[0].dtype not in _FLOATS
    return node.op in ("Identity", "Neg", "Cast", "Dropout") and not rounds


_ZERO_STAYS = {  # f(0) = 0
    "Identity",
    "Neg",
    "Cast",
    "Dropout",
    "Relu",
    "LeakyRelu",
    "Elu",
    "Selu",
    "Celu",
    "Gelu",
    "HardSwish",
    "Mish",
    "Tanh",
    "Erf",
    "Softsign",
    "Abs",
    "Sqrt",
    "Sign",
    "Floor",
    "Ceil",
    "Round",
    "ThresholdedRelu",
    "Swish",
    "Sin",
    "Atan",
}
_POINTWISE = _ZERO_STAYS | {
    "Sigmoid",
    "HardSigmoid",
    "Softplus",
    "Exp",
    "Log",
    "Reciprocal",
    "Cos",
    "Clip",
    "Shrink",
    *QUANTISERS,
}


def pointwise(w: Walk, node: gs.Node, states: list[State]) -> State:
    """f(x), element by element."""
    x = states[0]
    if any(s is not None for s in states[1:]) or _by_channel(node):
        return None
    if isinstance(x, Lane):
        if x.off is None and (node.op in _ZERO_STAYS or _clips_around_zero(node)):
            return x
        return Lane(_again(w, node, w.zeros(node.inputs[0], x)), x.axis, x.outer, x.inner)
    if isinstance(x, Delta) and _is_linear(node):
        return Delta(_again(w, node, x.part))
    return None


def _clips_around_zero(node: gs.Node) -> bool:
    if node.op != "Clip":
        return False
    low, high = (
        array_of(t) if t is not None and t.name else np.array(default)
        for t, default in zip(
            [*node.inputs[1:3], None, None][:2],
            (node.attrs.get("min", -np.inf), node.attrs.get("max", np.inf)),
            strict=True,
        )
    )
    return low is not None and high is not None and bool((low <= 0).all() and (high >= 0).all())


def _by_channel(node: gs.Node) -> bool:
    """A quantiser with one scale for each channel is not the same function everywhere."""
    return node.op in QUANTISERS and bool(node.inputs[1].shape)


def pool(w: Walk, node: gs.Node, states: list[State]) -> State:
    """Pools and resizes: channel by channel; a mean is linear."""
    x = states[0]
    if isinstance(x, Lane):
        if (x.axis, x.outer, x.inner) != (1, 1, 1):
            return None
        return x if x.off is None else Lane(_again(w, node, x.off), 1)
    if isinstance(x, Delta) and node.op in ("AveragePool", "GlobalAveragePool"):
        return Delta(_again(w, node, x.part))
    return None


def batch_norm(w: Walk, node: gs.Node, states: list[State]) -> State:
    """y = scale · (x − mean) / sqrt(var + epsilon) + bias, channel by channel."""
    x = states[0]
    if isinstance(x, Lane) and (x.axis, x.outer, x.inner) == (1, 1, 1):
        return Lane(_again(w, node, w.zeros(node.inputs[0], x)), 1)
    if isinstance(x, Delta):
        e, shape = w.e, [1, -1] + [1] * (len(node.inputs[0].shape) - 2)
        _, scale, _, _, var = node.inputs
        gain = e.Div(scale, e.Sqrt(e.Add(var, node.attrs.get("epsilon", 1e-5))))
        return Delta(e.Mul(x.part, e.Reshape(gain, shape)))
    return None


def binary(w: Walk, node: gs.Node, states: list[State]) -> State:
    """x ∘ y with broadcasting, for the arithmetic operators."""
    if len(node.inputs) != 2:
        return None
    (a, b), (x, y) = node.inputs, states
    out = node.outputs[0]
    if isinstance(x, Lane) or isinstance(y, Lane):
        return _binary_lane(w, node, x, y)
    if node.op in ("Add", "Sum", "Sub"):
        if isinstance(x, Delta) and isinstance(y, Delta) and a.shape == b.shape:
            return Delta(_op(w, node.op, x.part, y.part))
        if isinstance(x, Delta) and y is None and a.shape == out.shape:
            return x
        if isinstance(y, Delta) and x is None and b.shape == out.shape:
            return Delta(w.e.Neg(y.part)) if node.op == "Sub" else y
    if node.op in ("Mul", "Div") and isinstance(x, Delta) and y is None and a.shape == out.shape:
        return _scaled(w, node.op, x.part, a, b)
    if node.op == "Mul" and isinstance(y, Delta) and x is None and b.shape == out.shape:
        return _scaled(w, "Mul", y.part, b, a)
    return None


def _scaled(w: Walk, op: str, part: gs.Tensor, like: gs.Tensor, by: gs.Tensor) -> State:
    if w.batch_axis(by) is None:
        return Delta(_op(w, op, part, by))
    if w.batch_axis(like) != 0:
        return None
    return Delta(w.e.Reshape(_op(w, op, w.unmerge(part, like), by), w.dims(like)))


def _binary_lane(w: Walk, node: gs.Node, x: State, y: State) -> State:
    rank = len(node.outputs[0].shape)
    lanes = []
    for t, s in zip(node.inputs, (x, y), strict=True):
        if isinstance(s, Lane):
            axis = s.axis + rank - len(t.shape)
            if t.shape[s.axis] != node.outputs[0].shape[axis]:
                return None
            lanes.append((axis, s.outer, s.inner))
        elif s is not None:
            return None
    if len(set(lanes)) != 1:
        return None
    zero_x = isinstance(x, Lane) and x.off is None
    zero_y = isinstance(y, Lane) and y.off is None
    both = zero_x and zero_y
    stays = {"Mul": zero_x or zero_y, "Div": zero_x and y is None}
    stays |= dict.fromkeys(("Add", "Sum", "Sub"), both)
    if stays.get(node.op, False):
        return Lane(None, *lanes[0])
    sides = [
        w.zeros(t, s) if isinstance(s, Lane) else t
        for t, s in zip(node.inputs, (x, y), strict=True)
    ]
    return Lane(_op(w, node.op, *sides, **node.attrs), *lanes[0])


def view(w: Walk, node: gs.Node, states: list[State]) -> State:
    """Reshape, Flatten, Squeeze, Unsqueeze: the elements in the same order."""
    x, source, out = states[0], node.inputs[0], node.outputs[0]
    if isinstance(x, Delta):
        return Delta(w.e.Reshape(x.part, w.dims(out)))
    if not isinstance(x, Lane):
        return None
    stride = x.inner * _volume(source.shape[x.axis + 1 :])
    for axis, size in enumerate(out.shape):
        after = _volume(out.shape[axis + 1 :])
        if not isinstance(size, int) or stride % after:
            continue
        inner = stride // after
        outer, rest = divmod(size, w.units * inner)
        if outer and not rest and (axis == 0 or after * size >= stride * w.units):
            off = None if x.off is None else w.e.Reshape(x.off, w.dims(out))
            return Lane(off, axis, outer, inner)
    return None


def _volume(shape: list[int | str | None]) -> int:
    return int(np.prod([n for n in shape if isinstance(n, int)], dtype=np.int64))


def transpose(w: Walk, node: gs.Node, states: list[State]) -> State:
    """A permutation of axes."""
    x = states[0]
    if isinstance(x, Lane):
        perm = node.attrs.get("perm", list(range(len(node.inputs[0].shape)))[::-1])
        off = None if x.off is None else _again(w, node, x.off)
        return Lane(off, list(perm).index(x.axis), x.outer, x.inner)
    return Delta(_again(w, node, x.part)) if isinstance(x, Delta) else None


def reduce(w: Walk, node: gs.Node, states: list[State]) -> State:
    """Reduce…: over other axes than that of the units; mean and sum are linear."""
    x, gone = states[0], axes_of(node, len(node.inputs[0].shape))
    if gone is None:
        return None
    if isinstance(x, Lane) and x.axis not in gone:
        off = None if x.off is None else _again(w, node, x.off)
        kept = node.attrs.get("keepdims", 1)
        axis = x.axis if kept else x.axis - sum(g < x.axis for g in gone)
        return Lane(off, axis, x.outer, x.inner)
    linear = node.op in ("ReduceMean", "ReduceSum")
    if isinstance(x, Delta) and linear and w.batch_axis(node.inputs[0]) not in gone:
        return Delta(_again(w, node, x.part))
    return None


def pick(w: Walk, node: gs.Node, states: list[State]) -> State:
    """Gather and Slice along other axes than that of the units."""
    x, source, out = states[0], node.inputs[0], node.outputs[0]
    rank = len(source.shape)
    if any(s is not None for s in states[1:]):
        return None
    if node.op == "Gather":
        touched = {node.attrs.get("axis", 0) % rank}
    else:
        axes = axes_of(node, rank, place=3) if len(node.inputs) > 3 else set(range(rank))
        if axes is None:
            return None
        touched = axes
    if isinstance(x, Lane) and x.axis not in touched:
        off = None if x.off is None else _again(w, node, x.off)
        moved = len(out.shape) - rank if min(touched) < x.axis else 0
        return Lane(off, x.axis + moved, x.outer, x.inner)
    if isinstance(x, Delta) and w.batch_axis(source) not in touched:
        return Delta(_again(w, node, x.part))
    return None


def gather_elements(w: Walk, node: gs.Node, states: list[State]) -> State:
    """Picks the scores of the target classes."""
    if isinstance(states[0], Delta) and states[1] is None:
        return Delta(w.e.again(node, [states[0].part, w.stack(node.inputs[1])])[0])
    return None


RULES: dict[str, Rule] = {
    **dict.fromkeys(_POINTWISE, pointwise),
    **dict.fromkeys(
        (
            "MaxPool",
            "AveragePool",
            "LpPool",
            "GlobalAveragePool",
            "GlobalMaxPool",
            "GlobalLpPool",
        ),
        pool,
    ),
    "BatchNormalization": batch_norm,
    **dict.fromkeys(("Add", "Sum", "Sub", "Mul", "Div", "Max", "Min", "Pow", "PRelu"), binary),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), view),
    "Transpose": transpose,
    **dict.fromkeys(
        ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSumSquare"),
        reduce,
    ),
    **dict.fromkeys(("Gather", "Slice"), pick),
    "GatherElements": gather_elements,
    "MatMul": matmul,
    "Gemm": gemm,
    "Conv": conv,
}


def on_stack(w: Walk, node: gs.Node, states: list[State]) -> list[State]:
    """Runs the operator on the stack of all switched-off runs: always right."""
    if node.op in ("Reshape", "Flatten", "Squeeze", "Unsqueeze"):
        full = w.full(node.inputs[0], states[0])
        return [Batch(w.e.Reshape(full, w.dims(node.outputs[0])))]
    if node.op == "Expand":
        shape = [max(n, 1) for n in w.dims(node.outputs[0])]
        return [Batch(w.e.Expand(w.full(node.inputs[0], states[0]), shape))]
    inputs = [w.full(t, s) if t.name else t for t, s in zip(node.inputs, states, strict=True)]
    return [Batch(t) for t in w.e.again(node, inputs)]


def _again(w: Walk, node: gs.Node, first: gs.Tensor) -> gs.Tensor:
    return w.e.again(node, [first, *node.inputs[1:]])[0]


def _op(w: Walk, op: str, *operands: gs.Tensor, **attributes: object) -> gs.Tensor:
    return w.e.op(op, operands, attributes)[0]
