"""Gradients of a Scan, which runs a subgraph step by step.

One Scan runs the body again and notes, for every step, what its derivative takes from there; a
second one goes through the steps backwards with the differentiated body, and carries the
cotangents of the states. Both count upwards along axis 0: some runtimes know no other way.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.diff.vjp.table import fixed, float_type, known, zeros
from onnxcam.diff.vjp.views import LAST
from onnxcam.errors import OpError
from onnxcam.graph.emit import Emitter
from onnxcam.graph.paths import reached
from onnxcam.graph.shapes import annotate

T: TypeAlias = gs.Tensor
Differentiate: TypeAlias = Callable[[Emitter, list[tuple[T, T]], list[T]], list[T | None]]
"""(emitter, tensors with their cotangents, tensors differentiated for) → a gradient for each."""


def emit_scan(
    e: Emitter,
    inner: Emitter,
    nodes: Sequence[gs.Node],
    states: Sequence[tuple[T, T, T]],
    streams: Sequence[tuple[T, T]],
    shown: Sequence[T],
    backwards: bool = False,
) -> list[gs.Variable]:
    """Emits a Scan.

    Args:
        e: emitter of the graph.
        inner: emitter of the body, its prefix a name of `e`.
        nodes: those of the body, in topological order.
        states: for each state the tensor in the body, its start, and what it is after a step.
        streams: for each sequence the tensor in the body, and the sequence: steps on axis 0.
        shown: tensors of the body that are stacked, one for each step.
        backwards: whether the last step is taken first.

    Returns:
        The states after the last step, then the stacks.
    """
    body = gs.Graph(list(nodes), name=inner.prefix, opset=e.graph.opset)
    body.inputs = [*(t for t, _, _ in states), *(t for t, _ in streams)]
    results = [*(t for _, _, t in states), *shown]
    made = {t.name for n in nodes for t in n.outputs}
    for t in results:  # an input as it is, or a result that is one already, has to be a copy
        result = t
        if t.name not in made:
            result = like(inner, t)
            body.nodes.append(gs.Node("Identity", result.name, {}, [t], [result]))
        made.discard(t.name)
        body.outputs.append(result)
    attributes: dict[str, Any] = {"body": body, "num_scan_inputs": len(streams)}
    if backwards:
        attributes["scan_input_directions"] = [1] * len(streams)
        attributes["scan_output_directions"] = [1] * len(shown)
    inputs = [*(start for _, start, _ in states), *(t for _, t in streams)]
    outputs = e.op("Scan", inputs, attributes, len(results))
    steps = streams[0][1].shape
    for i, (new, t) in enumerate(zip(outputs, results, strict=True)):
        new.dtype, new.shape = t.dtype, t.shape
        if i >= len(states):
            new.shape = None if steps is None or t.shape is None else [steps[0], *t.shape]
    return outputs


def like(e: Emitter, t: T) -> gs.Variable:
    """A new tensor of the type and shape of `t`."""
    return gs.Variable(e.name("step"), t.dtype, t.shape)


def scan_gradients(
    e: Emitter,
    node: gs.Node,
    cotangents: Sequence[T | None],
    needed: Container[str],
    differentiate: Differentiate,
) -> list[T | None]:
    """Emits the gradients of a Scan.

    Args:
        e: emitter of the graph, its shapes annotated.
        node: the Scan.
        cotangents: one for each output, or None.
        needed: names of the tensors that a gradient is needed for.
        differentiate: the walk, for the body.

    Returns:
        A gradient for each input, or None where it is not needed or nothing flows.

    Raises:
        OpError: the Scan, or an operator in it, has no rule.
    """
    part = _opened(e, node, needed)
    count = len(node.inputs) - node.attrs["num_scan_inputs"]  # of states; sequences follow them
    inner, forward = Emitter(part, e.name("Scan")), list(part.nodes)
    turned = _turner(e)
    into, out = _backwards(node, "input", count), _backwards(node, "output", count)
    pairs = list(enumerate(zip(part.inputs, node.inputs, strict=True)))

    # The body, differentiated: from cotangents of what it gives to those of what it takes.
    of_states = {
        i: _cotangent(inner, part.inputs[i]) for i in _carried(part, node, cotangents, needed)
    }
    given = {i: (_cotangent(inner, t), g) for i, t in enumerate(part.outputs)
             if (g := cotangents[i]) is not None and i >= count}  # fmt: skip
    flows = [(part.outputs[i], g) for i, g in of_states.items()]
    flows += [(part.outputs[i], g) for i, (g, _) in given.items()]
    wrt = [*of_states, *(i for i, (_, x) in pairs if i >= count and x.name in needed)]
    answers = differentiate(inner, flows, [part.inputs[i] for i in wrt])
    found = {i: g for i, g in zip(wrt, answers, strict=True) if g is not None}
    found |= {i: zeros(inner, g) for i, g in of_states.items() if i not in found}
    if not found:
        return [None] * len(node.inputs)
    nodes = _leading_to(part.nodes[len(forward) :], found.values())

    # What that takes from a step: slices, states that stay as they are, and what has to be noted.
    streams = [(g, x if i in out else turned(x)) for i, (g, x) in given.items()]
    kept: list[tuple[T, T, T]] = []
    noted: list[tuple[T, T]] = []
    copies: dict[str, T] = {}
    places = {t.name: i for i, (t, _) in pairs}
    for t in _taken(nodes, found.values(), {g.name for _, g in flows}):
        copy = copies[t.name] = like(inner, t)
        i = places.get(t.name, -1)
        if i >= count:
            streams.append((copy, node.inputs[i] if i in into else turned(node.inputs[i])))
        elif i >= 0 and _stays(part, i):
            kept.append((copy, node.inputs[i], copy))
        else:
            noted.append((copy, t))
    for user in nodes:
        user.inputs = [copies.get(t.name, t) for t in user.inputs]
    found = {i: copies.get(g.name, g) for i, g in found.items()}
    if noted:
        again = [(t, x, part.outputs[i]) for i, (t, x) in pairs if i < count]
        fed = [(t, turned(x) if i in into else x) for i, (t, x) in pairs if i >= count]
        stacks = emit_scan(e, inner, forward, again, fed, [t for _, t in noted])[count:]
        streams += [(t, turned(x)) for (t, _), x in zip(noted, stacks, strict=True)]
    streams = streams or [(like(inner, part.inputs[count]), node.inputs[count])]

    ends = {i: zeros(e, node.inputs[i]) if (g := cotangents[i]) is None else g for i in of_states}
    states = [(g, ends[i], found[i]) for i, g in of_states.items()]
    shown = {i: g for i, g in found.items() if i >= count}
    made = emit_scan(e, inner, nodes, [*states, *kept], streams, list(shown.values()))
    results = dict(zip(of_states, made, strict=False))
    for i, g in zip(shown, made[len(states) + len(kept) :], strict=True):
        results[i] = g if i in into else turned(g)
    return [results.get(i) if x.name in needed else None for i, (_, x) in pairs]


def _opened(e: Emitter, node: gs.Node, needed: Container[str]) -> gs.Graph:
    """A copy of the body, shapes annotated."""
    axes = [a for k in ("input", "output") for a in node.attrs.get(f"scan_{k}_axes", [])]
    if any(axes):
        raise OpError("a Scan along other axes than the first has no gradient rule")
    part = node.attrs["body"].copy()
    outside = [t for t in part._foreign_tensors() if t]
    outside += [t.name for t in part.tensors().values() if t.name in needed]
    if outside:
        raise OpError(f"a Scan whose body takes {outside[0]!r} from outside has no gradient rule")
    part.opset = e.graph.opset
    for t in part.tensors().values():
        if isinstance(t, gs.Variable):
            t.shape = None
    count = len(node.inputs) - node.attrs["num_scan_inputs"]
    for i, (t, x) in enumerate(zip(part.inputs, node.inputs, strict=True)):
        if i >= count:
            fixed(x, 0)
        t.shape, t.dtype = known(x)[i >= count :], x.dtype
    annotate(part.nodes, part.opset)
    return part


def _carried(
    part: gs.Graph, node: gs.Node, cotangents: Sequence[T | None], needed: Container[str]
) -> list[int]:
    """The states, of floats, that depend on what is needed and that what has a cotangent needs."""
    count = len(node.inputs) - node.attrs["num_scan_inputs"]
    steps = [(s.name, new.name, reached(part, s.name))
             for s, new in zip(part.inputs[:count], part.outputs, strict=False)]  # fmt: skip
    sources = {t.name for t, x in zip(part.inputs, node.inputs, strict=True) if x.name in needed}
    behind = set().union(*(reached(part, name) for name in sources))
    ahead = {t.name for t, g in zip(part.outputs, cotangents, strict=True) if g is not None}
    for _ in steps:  # what one step tells of a state may tell of another in the next
        for old, new, names in steps:
            behind |= names if new in behind or old in behind else set()
            ahead |= {new} if names & ahead else set()
    return [i for i, (old, new, _) in enumerate(steps)
            if {old, new} & behind and new in ahead
            and np.dtype(part.inputs[i].dtype).kind == "f"]  # fmt: skip


def _cotangent(inner: Emitter, t: T) -> gs.Variable:
    g = like(inner, t)
    g.dtype = float_type(t)
    return g


def _stays(part: gs.Graph, i: int) -> bool:
    """Whether the state at position `i` never changes."""
    new = part.outputs[i]
    while new.inputs and new.inputs[0].op == "Identity":
        new = new.inputs[0].inputs[0]
    return bool(new.name == part.inputs[i].name)


def _leading_to(nodes: Sequence[gs.Node], results: Iterable[T]) -> list[gs.Node]:
    """Those of `nodes` that `results` are made by."""
    names, found = {t.name for t in results}, []
    for node in reversed(nodes):
        if any(t.name in names for t in node.outputs):
            found.append(node)
            names.update(t.name for t in node.inputs)
    return found[::-1]


def _taken(nodes: Sequence[gs.Node], results: Iterable[T], own: Container[str]) -> list[T]:
    """What `nodes` and `results` take from other nodes, each once."""
    made = {t.name for n in nodes for t in n.outputs}
    used = {t.name: t for t in (*(t for n in nodes for t in n.inputs), *results)}
    others = [t for name, t in used.items() if name and name not in made and name not in own]
    return [t for t in others if not isinstance(t, gs.Constant)]


def _backwards(node: gs.Node, kind: str, count: int) -> set[int]:
    """Positions of the inputs or outputs whose last step comes first."""
    ways = node.attrs.get(f"scan_{kind}_directions") or []
    return {count + i for i, way in enumerate(ways) if way}


def _turner(e: Emitter) -> Callable[[T], T]:
    """What gives a sequence from its last step to its first; one set of constants serves all."""
    last, before, axis = (e.tensor([n]) for n in (-1, -LAST, 0))

    def turned(x: T) -> T:
        result = e.Slice(x, last, before, axis, last)
        result.shape = x.shape
        return result

    return turned
