"""Paths of data through a graph: what depends on what, and what everything passes through."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import onnx_graphsurgeon as gs

Inputs = Callable[[gs.Node], Iterable[gs.Tensor]]


def data_inputs(node: gs.Node) -> Iterable[gs.Tensor]:
    """The inputs through which picture data flows: none where only a shape is taken."""
    return () if node.op in ("Shape", "Size") else every_input(node)


def every_input(node: gs.Node) -> Iterable[gs.Tensor]:
    """All that a node uses: its inputs, and what its subgraphs take from outside."""
    inner = [g for g in node.attrs.values() if isinstance(g, gs.Graph)]
    return [*node.inputs, *(t for g in inner for t in g._foreign_tensors().values())]


def reached(
    graph: gs.Graph, source: str, but: str | None = None, through: Inputs = data_inputs
) -> set[str]:
    """Names of `source` and of every tensor computed from its data, unless through `but`."""
    names = {source}
    for node in graph.nodes:
        if any(t.name in names for t in through(node)):
            names.update(t.name for t in node.outputs if t.name and t.name != but)
    return names


def path_nodes(
    graph: gs.Graph,
    source: str,
    sink: str,
    but: str | None = None,
    through: Inputs = data_inputs,
) -> list[gs.Node]:
    """The nodes on the paths of data from `source` to `sink`, in topological order.

    Paths through the tensor `but` do not count; with `through=every_input` paths through shapes do.
    """
    forward = reached(graph, source, but, through)
    wanted, path = {sink}, []
    for node in reversed(graph.nodes):
        if any(t.name in wanted and t.name in forward for t in node.outputs):
            if any(t.name in forward for t in through(node)):
                path.append(node)
            wanted.update(t.name for t in through(node) if t.name in forward)
    return path[::-1]


def cuts(path: list[gs.Node], source: str) -> list[gs.Tensor]:
    """The tensors that every path of data passes through, in order; without `source`.

    One sweep finds them: right after such a tensor is computed, nothing else is alive.
    """
    uses: dict[str, int] = {}
    for node in path:
        for tensor in data_inputs(node):
            uses[tensor.name] = uses.get(tensor.name, 0) + 1
    alive = {source}
    found = []
    for node in path:
        for tensor in data_inputs(node):
            if tensor.name in uses:
                uses[tensor.name] -= 1
                if not uses[tensor.name]:
                    alive.discard(tensor.name)
        produced = [t for t in node.outputs if t.name in uses]
        alive.update(t.name for t in produced)
        if len(alive) == 1 and produced and produced[0].name in alive:
            found.append(produced[0])
    if path:  # nothing consumes the sink
        found.append(path[-1].outputs[0])
    return found
