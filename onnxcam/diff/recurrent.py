"""Recurrent operators, written out step by step for sequences of a fixed length."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.diff.vjp.table import fixed
from onnxcam.errors import OpError
from onnxcam.graph.emit import Emitter

_ACTIVATIONS = ["Sigmoid", "Tanh", "Tanh"]
_OPTIONS = ("clip", "input_forget", "layout")


def lstm(e: Emitter, node: gs.Node) -> list[gs.Tensor]:
    """The body of an LSTM: sequence (T, N, I) → Y (T, directions, N, H), last h, last c.

    h = o · tanh(c), c = f · c₋₁ + i · z, with the gates i, o, f and z of W x + R h₋₁ + b.
    """
    x, w, r, b, lengths, h0, c0, peepholes = [
        t if t is not None and t.name else None for t in [*node.inputs, *[None] * 5][:8]
    ]
    strange = [k for k in _OPTIONS if node.attrs.get(k)]
    strange += ["sequence_lens"] * (lengths is not None) + ["peepholes"] * (peepholes is not None)
    activations = list(node.attrs.get("activations", _ACTIVATIONS))
    if activations != _ACTIVATIONS * (len(activations) // 3):
        strange.append("activations")
    if strange:
        raise OpError(f"an LSTM with {strange[0]} has no gradient rule")
    assert x is not None and w is not None and r is not None
    steps, hidden = fixed(x, 0), fixed(r, 2)
    rows, last_h, last_c = [], [], []
    for d in range(fixed(w, 0)):
        here = e.tensor(np.array(d, np.int64))
        fed = e.MatMul(x, e.Transpose(e.Gather(w, here, axis=0), perm=[1, 0]))
        back = e.Transpose(e.Gather(r, here, axis=0), perm=[1, 0])
        if b is not None:
            both = e.Reshape(e.Gather(b, here, axis=0), [2, 4 * hidden])
            fed = e.Add(fed, e.axes("ReduceSum", both, [0], keepdims=0))
        parts = e.op("Split", [fed, [1] * steps], {"axis": 0}, steps)
        h, c = (None if t is None else e.Gather(t, [d], axis=0) for t in (h0, c0))
        shown: dict[int, gs.Tensor] = {}
        turned = d == 1 or node.attrs.get("direction", "forward") == "reverse"
        for t in reversed(range(steps)) if turned else range(steps):
            gates = parts[t] if h is None else e.Add(parts[t], e.MatMul(h, back))
            i, o, f, z = e.op("Split", [gates, [hidden] * 4], {"axis": -1}, 4)
            new = e.Mul(e.Sigmoid(i), e.Tanh(z))
            c = new if c is None else e.Add(e.Mul(e.Sigmoid(f), c), new)
            h = shown[t] = e.Mul(e.Sigmoid(o), e.Tanh(c))
        rows.append(e.axes("Unsqueeze", e.Concat(*(shown[t] for t in range(steps)), axis=0), [1]))
        last_h.append(h)
        last_c.append(c)
    results = [e.Concat(*rows, axis=1), e.Concat(*last_h, axis=0), e.Concat(*last_c, axis=0)]
    return results[: len(node.outputs)]
