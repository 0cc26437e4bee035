"""Rules for a difference that is a product of two small factors, kept as the product.

Switching unit k off in front of a linear layer takes away an outer product: what the unit was at
each position, times its row of weights. Written out for every unit it is as large as the layer's
output once for each unit; as two factors it is next to nothing. Attention is where it pays: queries
and keys meet in a product again, and the factors never have to be multiplied out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.ablate.state import Batch, Delta, Factor, Outer, State, Walk
from onnxcam.graph.model import array_of

OuterRule: TypeAlias = Callable[[Walk, gs.Node, list[State]], "list[State] | None"]


def written_out(w: Walk, t: gs.Tensor, state: Outer) -> Delta:
    """The difference as one tensor."""
    return Delta(w.merge(w.e.Mul(state.left.t, state.right.t), t))


def binary(w: Walk, node: gs.Node, states: list[State]) -> list[State] | None:
    """x + y, x − y, and x · y or x / y by something untouched."""
    if len(node.inputs) != 2:
        return None
    out = node.outputs[0]
    for i, (t, state) in enumerate(zip(node.inputs, states, strict=True)):
        if not isinstance(state, Outer) or states[1 - i] is not None or t.shape != out.shape:
            continue
        if node.op in ("Add", "Sum") or (node.op == "Sub" and i == 0):
            return [state]
        if node.op == "Sub":
            return [Outer(Factor(w.e.Neg(state.left.t), state.left.full), state.right)]
        by = node.inputs[1 - i]
        if node.op == "Mul" or (node.op == "Div" and i == 0):
            w.batch_axis(by)
            dims = [1] * (len(out.shape) - len(by.shape)) + list(by.shape)
            full = tuple(f or n != 1 for f, n in zip(state.right.full, dims, strict=True))
            return [Outer(state.left, Factor(w.e.op(node.op, [state.right.t, by])[0], full))]
    return None


def view(w: Walk, node: gs.Node, states: list[State]) -> list[State] | None:
    """Reshape, Squeeze, Unsqueeze: of each factor, group of axes by group."""
    state, before, after = states[0], node.inputs[0].shape, node.outputs[0].shape
    assert isinstance(state, Outer)
    w.batch_axis(node.outputs[0])
    groups = _groups(before, after)
    if groups is None:
        return None
    factors = []
    for factor in (state.left, state.right):
        full, missing = [False] * len(after), []
        for old, new in groups:
            kinds = {factor.full[axis] for axis in old}
            if len(kinds) > 1:  # axes that are merged: the factor must extend along all of them
                missing += [axis for axis in old if not factor.full[axis]]
            for axis in new:
                full[axis] = True in kinds
        target = [n if isinstance(n, int) else -1 for n in after]
        target = [0, *(n if f else 1 for f, n in zip(full, target, strict=True))]
        wide = _widened(w, factor.t, node.inputs[0], missing) if missing else factor.t
        factors.append(Factor(w.e.Reshape(wide, target), tuple(full)))
    return [Outer(*factors)]


def _widened(w: Walk, t: gs.Tensor, like: gs.Tensor, axes: list[int]) -> gs.Tensor:
    """A factor made to extend along `axes` of the tensor `like`."""
    sizes = [[n] if isinstance(n, int) else None for n in like.shape]
    parts: list[gs.Tensor | list[int]] = [[1]]
    for axis, size in enumerate(sizes):
        known = [1] if axis not in axes else size
        parts.append(known or w.e.Gather(w.e.Shape(like), [axis], axis=0))
    return w.e.Expand(t, w.e.Concat(*parts, axis=0))


def _groups(before: list[object], after: list[object]) -> list[tuple[list[int], list[int]]] | None:
    """Runs of axes on both sides that hold the same elements; axes of size 1 are in none."""
    marks = [[n for n in shape if not isinstance(n, int)] for shape in (before, after)]
    volumes = [
        int(np.prod([n for n in s if isinstance(n, int)], dtype=np.int64)) for s in (before, after)
    ]
    if len(marks[0]) != 1 or len(marks[1]) != 1:
        return None
    # The batch counts 1; where it is merged with something, that is what the other side has more.
    merged = [1, 1]
    for side in (0, 1):
        if marks[side] != ["N"] and marks[1 - side] == ["N"]:
            merged[side] = volumes[1 - side] // volumes[side]
    sides = [
        [
            (axis, n if isinstance(n, int) else merged[side], not isinstance(n, int))
            for axis, n in enumerate(shape)
            if n != 1
        ]
        for side, shape in enumerate((before, after))
    ]
    groups = []
    while sides[0] or sides[1]:
        runs: list[list[tuple[int, int, bool]]] = [[], []]
        while True:
            sizes = [int(np.prod([n for _, n, _ in run], dtype=np.int64)) for run in runs]
            batch = [sum(marked for *_, marked in run) for run in runs]
            if runs[0] and runs[1] and sizes[0] == sizes[1] and batch[0] == batch[1]:
                break
            behind = (
                0 if (sizes[0], batch[0], len(runs[0])) <= (sizes[1], batch[1], len(runs[1])) else 1
            )
            if not sides[behind]:
                return None
            runs[behind].append(sides[behind].pop(0))
        groups.append(([axis for axis, *_ in runs[0]], [axis for axis, *_ in runs[1]]))
    return groups


def transpose(w: Walk, node: gs.Node, states: list[State]) -> list[State] | None:
    """A permutation of axes."""
    state = states[0]
    assert isinstance(state, Outer)
    perm = list(node.attrs.get("perm", range(len(state.left.full))[::-1]))
    return [
        Outer(
            *(
                Factor(
                    w.e.Transpose(f.t, perm=[0, *(p + 1 for p in perm)]),
                    tuple(f.full[p] for p in perm),
                )
                for f in (state.left, state.right)
            )
        )
    ]


def pick(w: Walk, node: gs.Node, states: list[State]) -> list[State] | None:
    """Gather of one constant index, and Slice along one axis."""
    state, source = states[0], node.inputs[0]
    assert isinstance(state, Outer)
    rank = len(source.shape)
    if node.op == "Gather":
        index = array_of(node.inputs[1])
        axis = node.attrs.get("axis", 0) % rank
        if index is None or index.ndim or w.batch_axis(source) == axis:
            return None
        return [Outer(*(_picked(w, f, axis, int(index)) for f in (state.left, state.right)))]
    held = [array_of(t) if t.name else None for t in node.inputs[1:5]]
    if len(held) < 3 or any(a is None or a.size != 1 for a in held):
        return None
    first, last, at, step = (*(int(a.reshape(-1)[0]) for a in held if a is not None), 1)[:4]
    if step != 1:
        return None
    if w.batch_axis(source) == at % rank:
        return None
    return [Outer(*(_sliced(w, f, at % rank, first, last) for f in (state.left, state.right)))]


def _picked(w: Walk, f: Factor, axis: int, index: int) -> Factor:
    full = f.full[:axis] + f.full[axis + 1 :]
    index_here = np.array(index if f.full[axis] else 0)
    return Factor(w.e.Gather(f.t, index_here, axis=axis + 1), full)


def _sliced(w: Walk, f: Factor, axis: int, first: int, last: int) -> Factor:
    return Factor(w.e.Slice(f.t, [first], [last], [axis + 1]), f.full) if f.full[axis] else f


def split(w: Walk, node: gs.Node, states: list[State]) -> list[State] | None:
    """Split along one axis."""
    state, source = states[0], node.inputs[0]
    assert isinstance(state, Outer)
    axis = node.attrs.get("axis", 0) % len(source.shape)
    if w.batch_axis(source) == axis:
        return None
    found: list[State] = []
    start = 0
    for out in node.outputs:
        end = start + out.shape[axis]
        found.append(Outer(*(_sliced(w, f, axis, start, end) for f in (state.left, state.right))))
        start = end
    return found


def matmul(w: Walk, node: gs.Node, states: list[State]) -> list[State] | None:
    """x @ y: factors stay factors, or meet a stack without being multiplied out."""
    (a, b), (x, y) = node.inputs, states
    if isinstance(x, Outer) and y is None and w.batch_axis(b) is None and len(b.shape) == 2:
        one, other = (x.left, x.right) if x.left.full[-1] else (x.right, x.left)
        if other.full[-1]:
            return None
        return [Outer(other, Factor(w.e.MatMul(one.t, b), (*one.full[:-1], True)))]
    if not isinstance(y, Outer) or x is None or len(a.shape) != len(b.shape):
        return None
    if w.batch_axis(a) != 0 or w.batch_axis(node.outputs[0]) != 0:
        return None
    # x @ (base − f · g) = x @ base − (x @ f) · g, where g does not extend along what is summed.
    f, g = (y.left, y.right) if y.left.full[-2] else (y.right, y.left)
    if g.full[-2] or not f.full[-2]:
        return None
    tall = w.unmerge(w.full(a, x), a)
    taken = w.e.Mul(w.e.MatMul(tall, f.t), g.t)
    return [Batch(w.merge(w.e.Sub(_against(w, tall, a, b), taken), node.outputs[0]))]


def _against(w: Walk, tall: gs.Tensor, a: gs.Tensor, b: gs.Tensor) -> gs.Tensor:
    """(B, …, r, c) @ (…, c, s): with one row, all units become the rows of one product."""
    if a.shape[-2] != 1:
        return w.e.MatMul(tall, b)
    rank = len(a.shape)
    lead = list(range(1, rank - 1))
    rows = w.e.Transpose(tall, perm=[rank - 1, *lead, 0, rank])  # (1, …, B, c)
    product = w.e.MatMul(w.e.axes("Squeeze", rows, [0]), b)  # (…, B, s)
    units = rank - 2
    first = w.e.Transpose(product, perm=[units, *range(units), units + 1])
    return w.e.axes("Unsqueeze", first, [rank - 1])


OUTER_RULES: dict[str, OuterRule] = {
    **dict.fromkeys(("Add", "Sum", "Sub", "Mul", "Div"), binary),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), view),
    "Transpose": transpose,
    **dict.fromkeys(("Gather", "Slice"), pick),
    "Split": split,
    "MatMul": matmul,
}
