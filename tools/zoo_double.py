"""Gradients of one model in float64: of the image, and Grad-CAM.

    python tools/zoo_double.py model.onnx reference.npz gradient gradcam     # one line of JSON

In float32 a rectifier whose input lies within rounding of zero may fall to either side, and the
gradient of a whole picture with it. Such a difference from the framework says nothing about the
rules. So the graph that onnxcam derives is evaluated with every float in it made a double, by the
onnx package's own evaluator (with convolutions and pools of our own: faster, and right).

Rounded weights, into which exporters fold norms, turn an image gradient in float64, too. Its slope
along a direction is therefore compared with the difference of two scores of the model itself, a
tiny step apart. The map of Grad-CAM, behind which little is left to turn, is compared with the
framework's.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.ops.op_conv import Conv as StockConv
from onnx.reference.ops.op_conv_transpose import ConvTranspose as StockConvTranspose
from onnx.reference.ops.op_max_pool import MaxPool as StockMaxPool
from onnx.reference.ops.op_pad import Pad_18 as StockPad
from zoo_check import golden_gradcam, relative

Array = NDArray[Any]


def doubled(proto: onnx.ModelProto) -> onnx.ModelProto:
    """`proto` with every float32 as float64."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    graph = copy.graph
    del graph.value_info[:]
    for tensor in graph.initializer:
        _widen(tensor)
    for node in graph.node:
        if node.op_type == "GroupNormalization":  # evaluated as a function, which casts to this
            kept = [a for a in node.attribute if a.name != "stash_type"]
            kept.append(onnx.helper.make_attribute("stash_type", TensorProto.DOUBLE))
            del node.attribute[:]
            node.attribute.extend(kept)
    for attribute in (a for node in graph.node for a in node.attribute):
        if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.DOUBLE
        elif attribute.type == AttributeProto.TENSOR:
            _widen(attribute.t)
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    return copy


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        array = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _windows(image: Array, kernel: Any, strides: Any, dilations: Any, grid: Any) -> Any:
    """For each place in the kernel the view of a padded image (N, C, …) that lies under it."""
    for place in itertools.product(*map(range, kernel)):
        steps = zip(place, dilations, grid, strides, strict=True)
        cut = [slice(i * d, i * d + (n - 1) * s + 1, s) for i, d, n, s in steps]
        yield place, image[(Ellipsis, *cut)]  # type: ignore[arg-type]


def _mixed(weight: Any, x: Array, group: int) -> Array:
    """(group, out, in) weights of one place times x (N, group * in, …)."""
    flat = x.reshape(len(x), group, -1, int(np.prod(x.shape[2:])))
    each = weight * flat if weight.shape[1:] == (1, 1) else weight @ flat
    mixed: Array = each.reshape(len(x), -1, *x.shape[2:])
    return mixed


class Conv(StockConv):
    """The evaluator's operator, by one matrix product for each place in the kernel."""

    op_domain = ""

    def _run(self, x: Any, w: Any, b: Any = None, **named: Any) -> tuple[Array]:  # type: ignore[override]
        if named["auto_pad"] not in (None, "NOTSET"):
            return tuple(super()._run(x, w, b, **named))  # type: ignore[no-untyped-call]
        pads, strides, dilations, group = _window(named, x.ndim - 2)
        padded = np.pad(x, [(0, 0), (0, 0), *pads])
        sizes = zip(padded.shape[2:], w.shape[2:], strides, dilations, strict=True)
        grid = [(n - (k - 1) * d - 1) // s + 1 for n, k, s, d in sizes]
        weights = w.reshape(group, -1, *w.shape[1:])
        found = np.zeros((len(x), len(w), *grid), x.dtype)
        for place, under in _windows(padded, w.shape[2:], strides, dilations, grid):
            found += _mixed(weights[(Ellipsis, *place)], under, group)
        return (_biased(found, b),)


class ConvTranspose(StockConvTranspose):
    """The evaluator's operator, by one matrix product for each place in the kernel."""

    op_domain = ""

    def _run(self, x: Any, w: Any, b: Any = None, **named: Any) -> tuple[Array]:  # type: ignore[override]
        if named["auto_pad"] not in (None, "NOTSET") or named["output_shape"]:
            return tuple(super()._run(x, w, b, **named))  # type: ignore[no-untyped-call]
        pads, strides, dilations, group = _window(named, x.ndim - 2)
        extra = named["output_padding"] or [0] * len(strides)
        sizes = zip(x.shape[2:], w.shape[2:], strides, dilations, extra, strict=True)
        sides = [(n - 1) * s + (k - 1) * d + 1 + e for n, k, s, d, e in sizes]
        weights = w.reshape(group, -1, *w.shape[1:]).swapaxes(1, 2)
        found: Any = np.zeros((len(x), group * w.shape[1], *sides), x.dtype)
        for place, under in _windows(found, w.shape[2:], strides, dilations, x.shape[2:]):
            under += _mixed(weights[(Ellipsis, *place)], x, group)
        cut = [slice(a, n - b) for (a, b), n in zip(pads, sides, strict=True)]
        return (_biased(found[(Ellipsis, *cut)], b),)


class MaxPool(StockMaxPool):
    """The evaluator's operator, with places of maxima that are right at stride 1, too."""

    op_domain = ""

    def _run(self, x: Any, **named: Any) -> tuple[Array, ...]:  # type: ignore[override]
        if named["auto_pad"] not in (None, "NOTSET"):
            return tuple(super()._run(x, **named))  # type: ignore[no-untyped-call]
        pads, strides, dilations, _ = _window({**named, "group": 1}, x.ndim - 2)
        grid, edge = [], [(0, 0), (0, 0)]
        sizes = zip(x.shape[2:], pads, named["kernel_shape"], strides, dilations, strict=True)
        for n, (begin, end), k, s, d in sizes:
            reach, up = (k - 1) * d + 1, s - 1 if named["ceil_mode"] else 0
            many = (begin + n + end - reach + up) // s + 1
            many -= (many - 1) * s >= begin + n  # no window begins in the end's padding
            grid.append(many)
            edge.append((begin, max(end, (many - 1) * s + reach - begin - n)))
        padded = np.pad(x, edge, constant_values=-np.inf)
        places = np.pad(np.arange(x.size).reshape(x.shape), edge)
        found = np.full((*x.shape[:2], *grid), -np.inf, x.dtype)
        indices = np.zeros(found.shape, np.int64)
        for under, at in zip(
            _windows(padded, named["kernel_shape"], strides, dilations, grid),
            _windows(places, named["kernel_shape"], strides, dilations, grid),
            strict=True,
        ):
            larger = under[1] > found
            found, indices = np.where(larger, under[1], found), np.where(larger, at[1], indices)
        return found, indices


class Pad(StockPad):
    """The evaluator's operator, which does not know that negative pads cut."""

    op_domain = ""

    def _run(self, data: Any, pads: Any, *more: Any, **named: Any) -> tuple[Array, ...]:
        axes = more[1] if len(more) > 1 and more[1] is not None else range(data.ndim)
        cut, added = [slice(None)] * data.ndim, np.maximum(pads, 0)
        for axis, begin, end in zip(axes, *np.split(np.minimum(pads, 0), 2), strict=True):
            cut[axis] = slice(-begin, end or None)
        padded: Any = super()._run(data[tuple(cut)], added, *more, **named)  # type: ignore[no-untyped-call]
        return tuple(padded)


OPS: Any = [Conv, ConvTranspose, MaxPool, Pad]
"""What stands in for the evaluator's own operators."""


def _window(named: dict[str, Any], axes: int) -> tuple[list[Any], list[int], list[int], int]:
    """Pads (before, after), strides, dilations of each axis, and groups."""
    pads = named["pads"] or [0] * 2 * axes
    strides, dilations = (named[name] or [1] * axes for name in ("strides", "dilations"))
    return [*zip(pads[:axes], pads[axes:], strict=True)], strides, dilations, named["group"] or 1


def _biased(found: Any, bias: Any) -> Any:
    return found if bias is None else found + bias.reshape(-1, *[1] * (found.ndim - 2))


STEPS = (1e-9, 1e-8, 1e-7, 1e-6, 1e-5)
"""How far the pixels are moved: at first so little that hardly any kink is crossed. Some of the
evaluator's operators are not smooth that far down, and then a longer step tells more."""

ENOUGH = 1e-5


def slope_error(path: str, held: dict[str, Any]) -> float:
    """How far the slope of the first picture's score is off its central difference, relatively.

    The direction is the gradient itself and as much of noise. The best of the steps counts: a wrong
    slope agrees at none.
    """
    from onnxcam.graph.split import extract

    classifier, gradient = _explained(path, "saliency")
    image, logit = classifier.image, classifier.score.logit
    plain = extract(classifier.graph(), [image.name], [logit], classifier.model)
    model = _evaluator(plain)
    x, target = held["x"][:1].astype(np.float64), held["target"][:1]
    raw = gradient(x, target)[:, 0]
    if image.layout == "NHWC":
        raw = raw.transpose(0, 2, 3, 1)
    noise = np.random.default_rng(0).standard_normal(raw.shape)
    direction = raw / np.abs(raw).max() + noise / np.abs(noise).max()
    slope, best = (raw * direction).sum(), np.inf
    for step in STEPS:
        ahead, behind = (
            np.asarray(model.run([logit], {image.name: x + side * step * direction})).reshape(-1)
            for side in (1, -1)
        )
        difference = (ahead - behind)[int(target[0])] / (2 * step)
        best = min(best, float(abs(slope - difference) / abs(difference)))
        if best <= ENOUGH:
            break
    return best


def gradcam_error(path: str, held: dict[str, Any]) -> float:
    """How far Grad-CAM is off the framework's: of the largest value, the median of the pictures."""
    _, gradcam = _explained(path, "grad-cam")
    x = held["x"].astype(np.float64)
    found = [
        gradcam(x[i : i + 1], held["target"][i : i + 1])[:, 0]  # one at a time: less memory
        for i in range(len(x))
    ]
    return relative(np.concatenate(found), golden_gradcam(held))


def _explained(path: str, method: str) -> tuple[Any, Callable[[Array, Array], Array]]:
    """The classifier, and `method` in float64: (images, targets) → raw (N, 1, …)."""
    import onnxcam

    explainer = onnxcam.Explainer(path, method, provider="cpu", threads=1)
    classifier = explainer.classifier
    graph = _evaluator(explainer.program(1).inline.whole)

    def run(x: Array, target: Array) -> Array:
        feeds = {classifier.image.name: x, "onnxcam/target": target.reshape(-1, 1)}
        found: Any = graph.run(["onnxcam/0/raw"], feeds)
        return np.asarray(found[0])

    return classifier, run


class _Frugal:
    """The onnx package's evaluator; what no node needs any more is not kept."""

    def __init__(self, proto: onnx.ModelProto, weights: dict[str, Array] | None = None) -> None:
        self.evaluator = ReferenceEvaluator(proto, new_ops=OPS)
        self.weights = weights or {}
        self.last = {
            name: place for place, node in enumerate(proto.graph.node) for name in _read(node)
        }

    def run(self, wanted: list[str], feeds: dict[str, Array]) -> list[Array]:
        """The values of the names that are wanted."""
        held: dict[str, Any] = {"": None, **self.evaluator.rt_inits_, **self.weights, **feeds}
        for place, node in enumerate(self.evaluator.rt_nodes_):
            inputs = [held[name] for name in node.input]
            more = {"context": held} if node.need_context() else {}
            held.update(zip(node.output, node.run(*inputs, **more), strict=False))
            for name in {*node.input, *node.output} - {"", *wanted}:
                if self.last.get(name, -1) <= place:
                    held.pop(name, None)
        return [held[name] for name in wanted]


def _read(node: onnx.NodeProto) -> set[str]:
    """The names that a node reads, and all that its subgraphs read."""
    graphs = [a.g for a in node.attribute if a.type == AttributeProto.GRAPH]
    names = set(node.input)
    for graph in graphs:
        names |= {v.name for v in graph.output}.union(*map(_read, graph.node))
    return names


def _evaluator(model: Any) -> _Frugal:
    """Large weights go in as arrays: a message would hold each of them once more."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    inside = [t for t in proto.graph.initializer if t.name not in model.weights]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(inside)
    wide = {name: _wide(array) for name, array in model.weights.items()}
    return _Frugal(doubled(proto), wide)


def _wide(array: Array) -> Array:
    return array.astype(np.float64) if array.dtype == np.float32 else array


JUDGES = {"gradient": ("slope64", slope_error), "gradcam": ("gradcam64", gradcam_error)}
"""What can be off → the number that decides it, and how it is found."""


def judged(path: str, reference: str, *asked: str) -> dict[str, float]:
    """The deciding numbers of what is asked for."""
    held = dict(np.load(reference))
    return {name: judge(path, held) for name, judge in (JUDGES[what] for what in asked)}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    print(json.dumps(judged(*sys.argv[1:])))
