"""Checks gradients by central differences in float64, run by the onnx package's own evaluator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx.reference import ReferenceEvaluator

from models import rng, session
from onnxcam.diff import gradients
from onnxcam.graph.emit import Emitter
from onnxcam.graph.model import Model
from onnxcam.graph.shapes import annotate
from onnxcam.graph.split import extract


@dataclass(frozen=True, eq=False)
class Spec:
    """A row of a test table: one operator, with inputs and attributes, and how `check` takes it."""

    op: str
    inputs: tuple[np.ndarray | None, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    """What this row is about; becomes part of the name of its test."""
    outputs: int = 1
    output: int = 0
    domain: str = ""
    opset: int = 21
    constant: tuple[int, ...] = ()
    tolerance: float = 1e-6
    runtime: bool = True
    batch: bool | tuple[int, ...] = False
    evaluator: bool = True
    step: float = 1e-6

    @property
    def id(self) -> str:
        """The name that pytest shows."""
        return f"{self.op}-{self.note}" if self.note else self.op

    def check(self) -> None:
        """Runs `check` on this row."""
        apart = ("op", "inputs", "attributes", "note")
        options = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in apart}
        check(self.op, self.inputs, self.attributes, **options)


def node_model(
    op: str,
    inputs: Sequence[np.ndarray | None],
    attributes: dict[str, Any] | None = None,
    outputs: int = 1,
    domain: str = "",
    opset: int = 21,
    constant: Sequence[int] = (),
) -> onnx.ModelProto:
    """A model of one node. Arrays of floats become inputs x0, x1, …; all others initializers.

    `constant`: positions of arrays of floats that become initializers nevertheless.
    """
    names = ["" if a is None else f"x{i}" for i, a in enumerate(inputs)]
    outs = [f"y{i}" for i in range(outputs)]
    node = onnx.helper.make_node(op, names, outs, name="it", domain=domain, **(attributes or {}))
    graph = onnx.GraphProto(name="one")
    graph.node.append(node)
    for name, array in zip(names, inputs, strict=True):
        if array is None:
            continue
        if array.dtype.kind == "f" and int(name[1:]) not in constant:
            kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            graph.input.append(onnx.helper.make_tensor_value_info(name, kind, array.shape))
        else:
            graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    graph.output.extend(onnx.ValueInfoProto(name=n) for n in outs)
    imports = [onnx.helper.make_opsetid("", opset)]
    imports += [onnx.helper.make_opsetid(domain, 1)] if domain else []
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)


def gradient_model(
    proto: onnx.ModelProto,
    shapes: dict[str, Sequence[int | str]] | None = None,
    output: int = 0,
    variant: str = "standard",
    constant: Sequence[str] = (),
    cotangent_name: str = "cotangent",
    whole: bool = True,
) -> onnx.ModelProto:
    """The gradients of output `output` for every float input: inputs and `cotangent` in.

    Args:
        shapes: of inputs as the rules should see them, e.g. {"x0": ["N", 3]} for a free batch.
        constant: the inputs that are not differentiated.
        cotangent_name: another name for the input that is added.
        whole: every input must have a gradient; else those without one are left out.
    """
    graph = gs.import_onnx(proto)
    for t in graph.inputs:
        t.shape = list((shapes or {}).get(t.name, t.shape))
    annotate(graph.nodes, graph.opset)
    e = Emitter(graph)
    y = graph.outputs[output]
    cotangent = gs.Variable(cotangent_name, y.dtype, y.shape)
    wrt = [t for t in graph.inputs if t.name not in constant]
    found = gradients(e, y, cotangent, wrt, variant)
    inputs = [t.name for t in graph.inputs]
    graph.inputs.append(cotangent)
    graph.outputs = []
    names = []
    for t, g in zip(wrt, found, strict=True):
        assert g is not None or not whole, f"no gradient for {t.name}"
        if g is not None:
            names.append(f"d_{cotangent_name}_{t.name}")
            graph.nodes.append(gs.Node("Identity", "", {}, [g], [gs.Variable(names[-1], g.dtype)]))
    graph.toposort()
    return extract(graph, [*inputs, cotangent_name], names, Model(proto)).complete()


def differences(
    f: Callable[[list[np.ndarray]], np.ndarray],
    inputs: list[np.ndarray],
    cotangent: np.ndarray,
    which: int,
    step: float = 1e-6,
) -> np.ndarray:
    """Σ cotangent · ∂f/∂inputs[which] by central differences, one element after the other."""
    shape = inputs[which].shape
    return along(f, inputs, cotangent, which, each(shape), step).reshape(shape)


def each(shape: tuple[int, ...]) -> np.ndarray:
    """For each element of an array a direction in which only it moves."""
    size = int(np.prod(shape))
    return np.eye(size).reshape(size, *shape)


def along(
    f: Callable[[list[np.ndarray]], np.ndarray],
    inputs: list[np.ndarray],
    cotangent: np.ndarray,
    which: int,
    ways: np.ndarray,
    step: float,
) -> np.ndarray:
    """The slope of Σ cotangent · f in each of `ways`, directions in which one input moves."""
    base, slopes = inputs[which], []
    for way in ways:
        moved = [np.asarray(base + sign * step * way, base.dtype) for sign in (1, -1)]
        ends = [f([*inputs[:which], m, *inputs[which + 1 :]]) for m in moved]
        slopes.append(((ends[0] - ends[1]) * cotangent).sum() / (2 * step))
    return np.array(slopes)


def check(
    op: str,
    inputs: Sequence[np.ndarray | None],
    attributes: dict[str, Any] | None = None,
    *,
    outputs: int = 1,
    output: int = 0,
    domain: str = "",
    opset: int = 21,
    constant: Sequence[int] = (),
    tolerance: float = 1e-6,
    runtime: bool = True,
    batch: bool | tuple[int, ...] = False,
    evaluator: bool = True,
    step: float = 1e-6,
) -> None:
    """Compares the gradients of one operator for all its float inputs with central differences.

    Args:
        op, attributes, outputs, domain, opset: the node.
        inputs: float64 arrays (differentiated), integer arrays (constants), None (left out).
        output: the output differentiated.
        constant: positions of float inputs that become initializers, not differentiated.
        tolerance: of the largest gradient.
        runtime: also run the gradient in ONNX Runtime, in float32, and compare.
        batch: let the first axis of the first input be free, as in a loaded classifier; or of the
            inputs at these positions.
        evaluator: False runs model and gradient in ONNX Runtime alone, in float32 with large
            steps: for (piecewise) linear operators that the evaluator gets wrong.
        step: of the differences; larger where the evaluator computes in float32 inside.
    """
    proto = node_model(op, inputs, attributes, outputs, domain, opset, constant)
    names = [t.name for t in proto.graph.input]
    arrays = [np.asarray(inputs[int(n[1:])]) for n in names]
    if not evaluator:
        proto, arrays = in_float32(proto), [a.astype(np.float32) for a in arrays]
    start = ReferenceEvaluator if evaluator else session
    if not evaluator:
        step, tolerance = 0.25, max(tolerance, 1e-5)
    forward = start(proto)

    def f(values: list[np.ndarray]) -> np.ndarray:
        return np.asarray(forward.run(None, dict(zip(names, values, strict=True)))[output])

    y = f(arrays)
    cotangent = rng(7).normal(size=y.shape).astype(y.dtype)
    free = (0,) if batch is True else batch or ()
    shapes = {n: ["N", *a.shape[1:]] for n, a in zip(names, arrays, strict=True)
              if int(n[1:]) in free}  # fmt: skip
    model = gradient_model(proto, shapes, output)
    feeds = {**dict(zip(names, arrays, strict=True)), "cotangent": cotangent}
    got = start(model).run(None, feeds)
    for i, (name, g) in enumerate(zip(names, got, strict=True)):
        shape = arrays[i].shape
        assert g.shape == shape, f"{name}: {g.shape} for {shape}"
        # Eight random directions find an error as surely as each element does, and sooner; with
        # large steps of all elements at once some would cross a kink.
        many = g.size > 16 and step < 1e-4
        ways = rng(9).normal(size=(8, *shape)) if many else each(shape)
        want = along(f, arrays, cotangent, i, ways, step)
        got_along = (ways * g).reshape(len(ways), -1).sum(1)
        scale = max(float(np.abs(want).max(initial=0)), 1e-3)
        worst = float(np.abs(got_along - want).max(initial=0)) / scale
        assert worst <= tolerance, f"gradient for {name} is off by {worst:.1e} of {scale:.3g}"
    if runtime and evaluator:
        single = {k: v.astype(np.float32) for k, v in feeds.items()}
        proto32 = in_float32(proto)
        ran = session(gradient_model(proto32, shapes, output)).run(None, single)
        for name, g, want in zip(names, ran, got, strict=True):
            scale = max(float(np.abs(want).max(initial=0)), 1e-3)
            worst = float(np.abs(g - want).max(initial=0)) / scale
            assert worst <= 1e-4, f"ONNX Runtime's gradient for {name} is off by {worst:.1e}"


def in_float32(proto: onnx.ModelProto) -> onnx.ModelProto:
    """`proto` with every float64 as float32."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for info in copy.graph.input:
        if info.type.tensor_type.elem_type == onnx.TensorProto.DOUBLE:
            info.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    for tensor in copy.graph.initializer:
        if tensor.data_type == onnx.TensorProto.DOUBLE:
            array = onnx.numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return copy


def check_again(spec: Spec) -> None:
    """Differentiates the gradients of `spec` once more, and compares along one random direction.

    That shows that the rules emit nothing that they cannot differentiate.
    """
    proto = node_model(spec.op, spec.inputs, spec.attributes, spec.outputs, spec.domain,
                       spec.opset, spec.constant)  # fmt: skip
    first = gradient_model(proto, output=spec.output)
    random = rng(8)
    feeds = {t.name: np.asarray(spec.inputs[int(t.name[1:])]) for t in proto.graph.input}
    y = ReferenceEvaluator(proto).run(None, feeds)[spec.output]
    feeds["cotangent"] = random.normal(size=np.shape(y)).astype(np.asarray(y).dtype)
    forward = ReferenceEvaluator(first)
    for k, g in enumerate(forward.run(None, feeds)):
        weights = random.normal(size=g.shape).astype(g.dtype)
        known = {"cotangent": np.shape(y)}
        second = gradient_model(first, known, k, cotangent_name="again", whole=False)
        names = [t.name.removeprefix("d_again_") for t in second.graph.output]
        found = dict(zip(names, ReferenceEvaluator(second).run(None, {**feeds, "again": weights}),
                         strict=True)) if names else {}  # fmt: skip
        for name, value in feeds.items():
            way = random.normal(size=value.shape).astype(value.dtype)
            ends = [forward.run(None, {**feeds, name: value + s * spec.step * way})[k]
                    for s in (1, -1)]  # fmt: skip
            want = ((ends[0] - ends[1]) * weights).sum() / (2 * spec.step)
            got = (found[name] * way).sum() if name in found else 0.0
            scale = max(abs(want), float(np.abs(weights * g).sum()), 1e-3)
            assert abs(got - want) <= 10 * spec.tolerance * scale, (
                f"the gradient of output {k} for {name} is {got:.6g}, not {want:.6g}"
            )
