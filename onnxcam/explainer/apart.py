"""Square weights that a file multiplies with in both orders, given to each order as its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnx import GraphProto, NodeProto, helper

from onnxcam.graph.model import Model

PRODUCTS = ("Gemm", "MatMul")


def told_apart(model: Model) -> Model:
    """`model`, being spent, with no square matrix of weights read both as it is and transposed.

    OpenVINO (2026.4 at least) keeps what it prepares of a weight by the weight's memory and the
    shape of the result: of a square one that a gradient reads transposed, it takes the wrong one
    and gives a wrong map in silence. Negated twice, it is the same numbers in other memory.
    Runtimes fold both negations when they load the file.
    """
    graph = model.proto.graph
    # tensor → the weight that it is, and whether it is transposed
    known = {t.name: (t.name, 0) for t in graph.initializer if _square(t.dims)}
    first: dict[str, int] = {}  # weight → the order in which it is read first
    made: dict[str, str] = {}
    nodes: list[NodeProto] = []
    for node in graph.node:
        for product in _products(node):
            name = product.input[1]
            if name not in known:
                continue
            weight, turned = known[name]
            order = turned ^ next((a.i for a in product.attribute if a.name == "transB"), 0)
            if order == first.setdefault(weight, order):
                continue
            if name not in made:
                half, made[name] = f"{name}/negated", f"{name}/apart"
                for source, result in ((name, half), (half, made[name])):
                    nodes.append(helper.make_node("Neg", [source], [result], result))
            product.input[1] = made[name]
        nodes.append(node)
        if node.op_type == "Transpose" and node.input[0] in known and len(node.attribute) < 2:
            weight, turned = known[node.input[0]]
            perm = [list(a.ints) for a in node.attribute if a.name == "perm"]
            known[node.output[0]] = weight, turned ^ (perm != [[0, 1]])
    kept = [NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    return model


def _square(dims: Sequence[int]) -> bool:
    return len(dims) == 2 and dims[0] == dims[1]


def _products(node: NodeProto) -> Iterator[NodeProto]:
    """The matrix products in a node: itself, or those in its bodies."""
    if node.op_type in PRODUCTS:
        yield node
    for attribute in node.attribute:
        body: GraphProto = attribute.g
        for inner in body.node:
            yield from _products(inner)
