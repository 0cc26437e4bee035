"""Recurrent operators, written out as a Scan over the steps of a sequence of fixed length.

Equations and the order of the gates: https://onnx.ai/onnx/operators/onnx__LSTM.html, …__GRU.html
and …__RNN.html.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.diff.scan import emit_scan, like
from onnxcam.diff.vjp.table import fixed
from onnxcam.errors import OpError
from onnxcam.graph.emit import Emitter

T: TypeAlias = gs.Tensor
_OPTIONS = ("clip", "input_forget", "layout")
_DEFAULT = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}


class Cell(NamedTuple):
    """One step.

    Attributes:
        step: (emitter, what the input gives to the gates (N, gates · H), states (N, H) each, and
            what stays the same in all steps) → new states, the first one being shown.
        gates: how many; each has H rows of the weights.
        states: how many.
        parts: gates in each part that the recurrent weight is cut into.
        apart: the recurrent bias is not added to that of the input, but to what the state gives.
    """

    step: Callable[..., Sequence[T]]
    gates: int
    states: int = 1
    parts: tuple[int, ...] = ()
    apart: bool = False


def _split(e: Emitter, x: T, hidden: int, *gates: int) -> list[gs.Variable]:
    return e.op("Split", [x, [hidden * n for n in gates]], {"axis": -1}, len(gates))


def _lstm(e: Emitter, hidden: int, fed: T, h: T, c: T, r: T) -> Sequence[T]:
    sums, z = _split(e, e.Gemm(h, r, fed, transB=1), hidden, 3, 1)
    i, o, f = _split(e, e.Sigmoid(sums), hidden, 1, 1, 1)
    c = e.Add(e.Mul(f, c), e.Mul(i, e.Tanh(z)))
    return [e.Mul(o, e.Tanh(c)), c]


def _gru(e: Emitter, hidden: int, fed: T, h: T, r_gates: T, r_new: T) -> Sequence[T]:
    sums, new = _split(e, fed, hidden, 2, 1)
    z, r = _split(e, e.Sigmoid(e.Gemm(h, r_gates, sums, transB=1)), hidden, 1, 1)
    new = e.Tanh(e.Gemm(e.Mul(r, h), r_new, new, transB=1))
    return [e.Add(new, e.Mul(z, e.Sub(h, new)))]


def _gru_linear(e: Emitter, hidden: int, fed: T, h: T, *r_and_bias: T) -> Sequence[T]:
    (sums, new), (back, back_new) = (
        _split(e, t, hidden, 2, 1) for t in (fed, e.Gemm(h, *r_and_bias, transB=1))
    )
    z, r = _split(e, e.Sigmoid(e.Add(sums, back)), hidden, 1, 1)
    new = e.Tanh(e.Add(new, e.Mul(r, back_new)))
    return [e.Add(new, e.Mul(z, e.Sub(h, new)))]


def _rnn(activation: str) -> Callable[..., Sequence[T]]:
    def step(e: Emitter, hidden: int, fed: T, h: T, r: T) -> Sequence[T]:
        return e.op(activation, [e.Gemm(h, r, fed, transB=1)])

    return step


CELLS: dict[tuple[str, ...], Cell] = {
    ("LSTM", *_DEFAULT["LSTM"]): Cell(_lstm, 4, states=2),
    ("GRU", *_DEFAULT["GRU"]): Cell(_gru, 3, parts=(2, 1)),
    ("linear GRU", *_DEFAULT["GRU"]): Cell(_gru_linear, 3, apart=True),
    **{("RNN", a): Cell(_rnn(a), 1) for a in ("Tanh", "Relu")},
}
"""By operator and activations. Linear: `linear_before_reset`."""


def recurrent(e: Emitter, node: gs.Node) -> list[T]:
    """The body of an LSTM, GRU or RNN: sequence (T, N, I) → Y (T, directions, N, H), last states.

    Raises:
        OpError: it has a form that is not in the table.
    """
    x, w, r, b, lengths, h0, c0, peepholes = [
        t if t is not None and t.name else None for t in [*node.inputs, *[None] * 5][:8]
    ]
    assert x is not None and w is not None and r is not None
    hidden = fixed(r, 2)
    strange = ["sequence_lens"] * (lengths is not None) + ["peepholes"] * (peepholes is not None)
    rows, last = [], []
    for d, cell in enumerate(_cells(node, fixed(w, 0), strange)):
        fed = e.MatMul(x, e.Transpose(_at(e, w, d), perm=[1, 0]))
        held = [_at(e, r, d)]
        if cell.parts:
            sizes = [n * hidden for n in cell.parts]
            held = [*e.op("Split", [*held, sizes], {"axis": 0}, len(sizes))]
        if b is not None:
            both = e.Reshape(_at(e, b, d), [2, cell.gates * hidden])
            if cell.apart:
                held.append(_at(e, both, 1))
            added = _at(e, both, 0) if cell.apart else e.axes("ReduceSum", both, [0], keepdims=0)
            fed = e.Add(fed, added)
        starts = [_zeros(e, x, hidden) if t is None else _at(e, t, d)
                  for t in (h0, c0)[: cell.states]]  # fmt: skip
        turned = d == 1 or node.attrs.get("direction", "forward") == "reverse"
        shown, *ends = _steps(e, cell, hidden, fed, starts, held, turned)
        rows.append(e.axes("Unsqueeze", shown, [1]))
        last.append([e.axes("Unsqueeze", t, [0]) for t in ends])
    results = [e.Concat(*rows, axis=1), *(e.Concat(*ts, axis=0) for ts in zip(*last, strict=True))]
    return results[: len(node.outputs)]


def _cells(node: gs.Node, directions: int, strange: list[str]) -> list[Cell]:
    """The cell of each direction; `strange`: inputs that no cell takes."""
    kind = "linear GRU" if node.attrs.get("linear_before_reset") else node.op
    default = _DEFAULT[node.op]
    given = list(node.attrs.get("activations", default * directions))
    each = [tuple(given[i : i + len(default)]) for i in range(0, len(given), len(default))]
    strange = [k for k in _OPTIONS if node.attrs.get(k)] + strange
    if len(each) != directions or any((kind, *a) not in CELLS for a in each):
        strange.append("activations")
    if strange:
        article = "a" if node.op == "GRU" else "an"
        raise OpError(f"{article} {node.op} with {strange[0]} has no gradient rule")
    return [CELLS[kind, *a] for a in each]


def _at(e: Emitter, x: T, place: int) -> gs.Variable:
    return e.Gather(x, e.tensor(np.array(place, np.int64)), axis=0)


def _zeros(e: Emitter, x: T, hidden: int) -> T:
    """The start of a state (N, H)."""
    shape = e.Concat(e.Slice(e.Shape(x), [1], [2]), [hidden], axis=0)
    zero = np.zeros(1, x.dtype)
    start = e.ConstantOfShape(shape, value=gs.Constant("value", zero))
    start.dtype = zero.dtype
    return start


def _steps(
    e: Emitter, cell: Cell, hidden: int, fed: T, starts: list[T], held: list[T], turned: bool
) -> list[T]:
    """The states shown, (T, N, H), and the last of each, (N, H)."""
    inner = Emitter(gs.Graph(opset=e.graph.opset), e.name("Scan"))
    states, kept, (now,) = ([like(inner, t) for t in ts] for ts in (starts, held, [fed]))
    news = cell.step(inner, hidden, now, *states, *kept)
    made = emit_scan(
        e,
        inner,
        inner.graph.nodes,
        [*zip(states, starts, news, strict=True), *zip(kept, held, kept, strict=True)],
        [(now, fed)],
        news[:1],
        turned,
    )
    return [made[-1], *made[: cell.states]]
