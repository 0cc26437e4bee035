"""Stacks in a file: what the library runs block by block becomes a Loop of standard operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxcam.explainer.bench import Stack
from onnxcam.explainer.plan import Stage
from onnxcam.explainer.program import Form
from onnxcam.graph.emit import View
from onnxcam.graph.model import Model, array_of, check
from onnxcam.graph.weights import INLINE_BYTES, external


def in_one(form: Form, memory: int, most: int) -> Model:
    """A form as one model, image, target → outputs: its stages in a row, the bodies in Loops.

    Weights and whatever else a body uses stay outside of it and are seen from within. The items
    that a stack runs over are constants of the model.

    Args:
        form: what is put into one.
        memory: about how many bytes the items of one turn may take.
        most: how many items there are in one turn at the most.
    """
    return _shared(_joined(form, memory, most) if form.stacks else form.whole, form.views)


def _joined(form: Form, memory: int, most: int) -> Model:
    stages = [form.trunk, *form.bodies, *([form.finish] if form.finish else [])]
    proto, weights = onnx.ModelProto(), dict[str, np.ndarray]()
    proto.CopyFrom(form.trunk.model.proto)
    graph = proto.graph
    for field in (graph.node, graph.output, graph.value_info, graph.initializer):
        del field[:]
    held: dict[str, TensorProto] = {}
    ends = {o.name: o for stage in stages for o in stage.model.proto.graph.output}
    for stage in stages:
        weights |= stage.model.weights
        part = stage.model.proto.graph
        held |= {t.name: t for t in part.initializer}
        if stage.stack is None:
            graph.node.extend(part.node)
            continue
        size = _divisor(stage.stack.items.count, min(most, memory // max(1, stage.item_bytes)))
        nodes, constants = _loop(stage, stage.stack, size, form)
        graph.node.extend(nodes)
        for name, array in constants.items():
            _hold(name, array, held, weights)
    graph.initializer.extend(held.values())
    graph.output.extend(ends[name] for name in form.outputs)
    model = Model(proto, weights)
    check(model)
    return model


def _shared(model: Model, views: Mapping[str, View]) -> Model:
    """`model` with weights that are others in another order made of those by operators.

    Runtimes fold them when they load the model: it costs no time in a run, and weights stand in
    the file but once.
    """
    proto, weights = onnx.ModelProto(), dict(model.weights)
    proto.CopyFrom(model.proto)
    graph = proto.graph
    held = {t.name: t for t in graph.initializer}
    nodes: list[NodeProto] = []
    made: set[str] = set()

    def settle(name: str, array: np.ndarray) -> None:
        """Makes a constant by operators, where it is a view of weights; else holds it."""
        view = views.get(name)
        if view is None or array.nbytes <= INLINE_BYTES:
            if name not in held:
                _hold(name, array, held, weights)
        elif name not in made:
            made.add(name)
            held.pop(name, None)
            weights.pop(name, None)
            for t in view.inputs:
                given = array_of(t)
                assert given is not None  # else it would not be a view
                settle(t.name, given)
            names = [t.name for t in view.inputs]
            nodes.append(_node(view.op, names, name, **view.attributes))

    for name in [n for n in views if n in model.weights]:
        settle(name, model.weights[name])
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(held.values())
    graph.node.extend([*nodes, *model.proto.graph.node])
    return Model(proto, weights)


def _hold(
    name: str, array: np.ndarray, held: dict[str, TensorProto], weights: dict[str, np.ndarray]
) -> None:
    """Adds a constant to those of a graph, beside it if it is large."""
    if array.nbytes > INLINE_BYTES:
        held[name], weights[name] = external(name, array), array
    else:
        held[name] = numpy_helper.from_array(array, name)


def _divisor(count: int, most: int) -> int:
    """The largest number up to `most` that divides `count`: all turns of a Loop are alike."""
    return next(n for n in range(max(1, min(count, most)), 0, -1) if count % n == 0)


def _loop(
    stage: Stage, stack: Stack, size: int, form: Form
) -> tuple[list[NodeProto], dict[str, np.ndarray]]:
    """The nodes that give the result of a stack, `size` items in each turn, and their constants."""
    name = partial("{}/{}".format, stack.name)
    items, turns = stack.items, stack.items.count // size
    constants = {
        name("items"): items.make(0, items.count).reshape(turns, size, *items.shape),
        name("turns"): np.array(turns, np.int64),
        name("go"): np.array(True),
        name("shape"): np.array([size, *items.shape], np.int64),
    }
    body = [  # OpenCV counts turns in a vector: what it gathers has an axis too many
        _node("Gather", [name("items"), name("turn")], name("gathered"), axis=0),
        _node("Reshape", [name("gathered"), name("shape")], stack.name),
    ]
    for node in stage.model.proto.graph.node:
        body.append(NodeProto())
        body[-1].CopyFrom(node)  # a name may stand but once, in the body and outside together
        body[-1].output[:] = [name("part") if n == stack.result else n for n in node.output]
    body.append(_node("Identity", [name("going")], name("goes on")))
    given = [_end(name("turn"), TensorProto.INT64, []), _end(name("going"), TensorProto.BOOL, [])]
    back = [_end(name("goes on"), TensorProto.BOOL, [])]
    ahead = [form.classifier.batch, form.targets]
    if stack.summed:
        shape = [*ahead, *stack.shape]
        given.append(_end(name("so far"), TensorProto.FLOAT, shape))
        body.append(_node("Add", [name("so far"), name("part")], name("sum")))
        back.append(_end(name("sum"), TensorProto.FLOAT, shape))
        before = _zeros(form, stack, name, constants)
        taken, gives, after = [name("zeros")], stack.result, []
    else:
        body.append(
            _node("Transpose", [name("part")], name("turned"), perm=_turned(stack, 2, 0, 1))
        )
        back.append(_end(name("turned"), TensorProto.FLOAT, [size, *ahead, *stack.shape]))
        before, taken, gives = [], [], name("parts")
        after = _in_a_row(stack, name, constants)
    inner = helper.make_graph(body, name("body"), given, back)
    loop = _node("Loop", [name("turns"), name("go"), *taken], gives, body=inner)
    return [*before, loop, *after], constants


Name: TypeAlias = Callable[[str], str]


def _zeros(
    form: Form, stack: Stack, name: Name, constants: dict[str, np.ndarray]
) -> list[NodeProto]:
    """Nodes that give zeros (N, M, …), which a sum starts from."""
    facts = {"first": [0], "second": [1], "behind": [form.targets, *stack.shape]}
    constants |= {name(key): np.array(value, np.int64) for key, value in facts.items()}
    constants[name("zero")] = np.zeros((), np.float32)
    return [
        _node("Shape", [form.classifier.image.name], name("sizes")),
        _node("Slice", [name("sizes"), name("first"), name("second")], name("images")),
        _node("Concat", [name("images"), name("behind")], name("all sizes"), axis=0),
        _node("Expand", [name("zero"), name("all sizes")], name("zeros")),
    ]


def _in_a_row(stack: Stack, name: Name, constants: dict[str, np.ndarray]) -> list[NodeProto]:
    """Nodes that make (N, M, items, …) of the turns' results, (turns, B, N, M, …).

    The evaluator of the onnx package joins the turns on the first axis, where the standard stacks
    them on a new one: what comes out of either is taken.
    """
    facts = {"behind items": [-2 - len(stack.shape)], "end": [2**31], "count": [stack.items.count]}
    constants |= {name(key): np.array(value, np.int64) for key, value in facts.items()}
    return [
        _node("Shape", [name("parts")], name("sizes")),
        _node("Slice", [name("sizes"), name("behind items"), name("end")], name("rest")),
        _node("Concat", [name("count"), name("rest")], name("all sizes"), axis=0),
        _node("Reshape", [name("parts"), name("all sizes")], name("row")),
        _node("Transpose", [name("row")], stack.result, perm=_turned(stack, 1, 2, 0)),
    ]


def _turned(stack: Stack, *first: int) -> list[int]:
    """The order of axes that begins with `first` and leaves the others where they are."""
    return [*first, *range(len(first), len(first) + len(stack.shape))]


def _node(op: str, inputs: Sequence[str], output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(op, inputs, [output], output, **attributes)


def _end(name: str, kind: int, shape: Sequence[int | None]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)
