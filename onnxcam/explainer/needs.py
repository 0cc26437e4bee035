"""Builds what methods need, by name: the one table between the methods and the engines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam import ablate
from onnxcam.diff import gradients
from onnxcam.errors import ModelError
from onnxcam.explainer import pixels
from onnxcam.explainer.bench import Bench, as_grid
from onnxcam.explainer.recipe import Recipe
from onnxcam.graph.emit import Emitter
from onnxcam.graph.feature import FeatureMap
from onnxcam.graph.model import array_of
from onnxcam.graph.paths import path_nodes
from onnxcam.graph.rerun import rerun_rows, stacked_rows, unstacked
from onnxcam.methods import Needs
from onnxcam.perturb import items, stacks

T: TypeAlias = gs.Tensor
Builder = Callable[[Bench, Recipe], Any]


def provide(b: Bench, what: Recipe) -> Needs:
    """All that the method of a recipe works on, and nothing more."""
    feature = feature_of(b, what) if what.layer is not None else None
    made = {name: BUILDERS[name](b, what) for name in sorted(what.needed) if name != "feature"}
    return Needs(feature, b.e.cast(b.asked, np.float32), what.smooth, **made)


def feature_of(b: Bench, what: Recipe) -> T:
    """The units asked about of the feature map, (N, K, h, w), its shape noted."""
    layer = what.feature_map
    return b.once(
        ("feature", layer.tensor, what.units),
        lambda: _units(b, as_grid(b.e, b.tensor(layer.tensor), layer), what, ["N"]),
    )


def _units(b: Bench, t: T, what: Recipe, ahead: list[int | str]) -> T:
    """The units asked about of (…, K, h, w), as float32, the shape noted."""
    layer, t = what.feature_map, b.e.cast(t, np.float32)
    count = layer.units
    if what.units is not None:
        count = len(what.units)
        t = b.e.Gather(t, np.array(what.units, np.int64), axis=len(ahead))
    t.shape = [*ahead, count, *layer.grid]
    return t


def _drop(b: Bench, what: Recipe) -> T:
    layer = what.feature_map
    key = ("drop", layer.tensor, what.units, what.patches_only, what.ablation)
    emit = ablate.exact if what.ablation == "exact" else ablate.literal

    def all_at_once() -> T:
        units = None if what.units is None else b.e.tensor(np.array(what.units, np.int64))
        drop = emit(b.e, layer, b.asked, b.chosen, units, what.patches_only)
        return b.e.cast(drop, np.float32)

    if what.ablation == "exact" and not b.blocks:
        return b.once(key, all_at_once)
    return b.stack(
        key,
        items.indices(layer.units, what.units),
        lambda units: emit(b.e, layer, b.asked, b.chosen, units, what.patches_only),
    )


def _blank(b: Bench, what: Recipe) -> T:
    """The feature map of an all-zero image: the features once more, on a constant."""
    layer, e = what.feature_map, b.e
    image = b.classifier.image

    def make() -> T:
        zero = np.zeros(image.shape(b.classifier.batch or 1), image.dtype)
        stack = e.tensor(zero[None])
        rows = stacked_rows(e, stack, b.image)
        return rerun_rows(e, b.image, rows, b.tensor(layer.tensor))

    blank = b.once(("blank", layer.tensor), make)
    return _units(b, as_grid(e, blank, layer), what, [1])


def _raw_gradients(b: Bench, what: Recipe) -> list[T | None]:
    layer = what.feature_map
    wrt = b.tensor(layer.tensor)
    return b.once(
        ("gradient", layer.tensor), lambda: [one for (one,) in b.gradients(b.asked, [wrt])]
    )


def _gradient(b: Bench, what: Recipe) -> T:
    layer = what.feature_map

    def make() -> T:
        whole = b.by_class(_raw_gradients(b, what), b.tensor(layer.tensor))
        return _units(b, as_grid(b.e, whole, layer, 2), what, ["N", b.targets])

    return b.once(("gradient grid", layer.tensor, what.units), make)


def _curvature(b: Bench, what: Recipe) -> T | None:
    """H·A; None where no score bends."""
    layer, slopes = what.feature_map, _raw_gradients(b, what)
    wrt = b.tensor(layer.tensor)

    def make() -> T | None:
        b.annotated()
        each = [
            None
            if g is None
            else gradients(b.e, g, wrt, [wrt], notes=b.notes, but=b.chosen.name)[0]
            for g in slopes
        ]
        if all(h is None for h in each):
            return None
        whole = b.by_class([b.e.Sub(wrt, wrt) if h is None else h for h in each], wrt)
        return _units(b, as_grid(b.e, whole, layer, 2), what, ["N", b.targets])

    return b.once(("curvature", layer.tensor, what.units), make)


def _derivatives(b: Bench, what: Recipe) -> tuple[T | None, T | None]:
    """∂²y/∂A² and ∂³y/∂A³ for every cell, by one run of the head for each cell."""
    if _curvature(b, what) is None:
        return None, None
    layer, e = what.feature_map, b.e
    wrt, (h, w) = b.tensor(layer.tensor), layer.grid
    cells = layer.units * h * w
    units = range(layer.units) if what.units is None else what.units
    chosen = tuple(unit * h * w + place for unit in units for place in range(h * w))

    def run(block: T) -> T:
        ones = e.OneHot(block, e.tensor(np.array(cells, np.int64)), np.array([0, 1], np.float32))
        ones = _from_grid(e, e.Reshape(ones, [-1, layer.units, h, w]), layer)
        stack = e.Expand(e.axes("Unsqueeze", wrt, [0]), _ahead(e, block, 1 + len(wrt.shape)))
        rows = stacked_rows(e, stack, wrt)
        wide = e.Expand(e.axes("Unsqueeze", ones, [1]), e.Shape(stack))
        direction = e.cast(stacked_rows(e, wide, wrt), wrt.dtype)
        direction.shape, axes = wrt.shape, list(range(1, len(wrt.shape)))

        def along(g: T) -> T:
            product = e.axes("ReduceSum", e.Mul(g, direction), axes, keepdims=0)
            product.shape, product.dtype = [rows.shape[0]], wrt.dtype
            return product

        asked = rerun_rows(e, wrt, rows, b.asked, b.chosen.name)
        each = []
        for (g,) in b.gradients(asked, [rows]):
            orders, line = [], g
            for _ in range(2):
                b.annotated()
                slope = None if line is None else along(line)
                if slope is not None:
                    one = e.Expand(e.tensor(np.ones(1, wrt.dtype)), e.Shape(slope))
                    one.shape, one.dtype = slope.shape, slope.dtype
                    b.annotated()
                    (line,) = gradients(e, slope, one, [rows], notes=b.notes, but=b.chosen.name)
                value = None if line is None else along(line)
                zero = e.Mul(along(rows), 0.0)
                orders.append(e.axes("Unsqueeze", zero if value is None else value, [1]))
            each.append(e.axes("Unsqueeze", e.Concat(*orders, axis=1), [1]))
        found = e.Concat(*each, axis=1) if len(each) > 1 else each[0]  # (B · N, M, 2)
        return e.Transpose(unstacked(e, found, wrt), perm=[1, 2, 0, 3])

    every = items.indices(cells, chosen)
    both = b.stack(("derivatives", layer.tensor, what.units), every, run, shape=(2,))
    second, third = (e.Gather(both, np.array(i, np.int64), axis=3) for i in (0, 1))
    shape = [0, 0, len(units), h, w]
    return e.Reshape(second, shape), e.Reshape(third, shape)


def _ahead(e: Emitter, block: T, rank: int) -> T:
    """The shape that stretches the first of `rank` axes to the length of a block."""
    return e.Concat(e.Shape(block), [1] * (rank - 1), axis=0)


def _from_grid(e: Emitter, t: T, layer: FeatureMap) -> T:
    """(B, K, h, w) in the layout of the feature map; class tokens get zeros."""
    if layer.layout == "NHWC":
        return e.Transpose(t, perm=[0, 2, 3, 1])
    if layer.layout == "NTC":
        tokens = e.Transpose(e.Reshape(t, [0, 0, -1]), perm=[0, 2, 1])
        return e.Pad(tokens, [0, layer.prefix, 0, 0, 0, 0])
    return t


def _linear(b: Bench, what: Recipe) -> T:
    """The weights of the linear layer: what the score gains with the average of a unit."""
    layer = what.feature_map
    _refuse_unless_linear(b, layer)
    cells = layer.grid[0] * layer.grid[1]
    slope = b.e.axes("ReduceMean", _gradient(b, what), [3, 4], keepdims=0)
    return b.e.Mul(slope, float(cells))


_VIEWS = {"Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Transpose", "Cast"}
_LAYER = {"Gemm", "MatMul", "Conv", "Add", "Sub"}


def _refuse_unless_linear(b: Bench, layer: FeatureMap) -> None:
    path = path_nodes(b.e.graph, layer.tensor, b.score.name)
    work = [n for n in path if n.op not in _VIEWS]
    first = work[0] if work else None
    pools = first is not None and (
        first.op == "GlobalAveragePool"
        or (first.op in ("ReduceMean", "AveragePool") and _whole_grid(first, layer))
    )
    wrong = None if pools else first
    for node in work[1:] if pools else []:
        held = [t for t in node.inputs if t.name and array_of(t) is not None]
        if node.op not in _LAYER or len(held) != sum(bool(t.name) for t in node.inputs) - 1:
            wrong = wrong or node
    if wrong is not None or not pools:
        met = f"node {wrong.name!r} ({wrong.op})" if wrong is not None else "nothing"
        raise ModelError(
            f"CAM needs a head that is a global average and one linear layer, and behind "
            f"{layer.tensor!r} stands {met}; grad-cam gives the same map for such heads and "
            "asks for none"
        )


def _whole_grid(node: gs.Node, layer: FeatureMap) -> bool:
    """Whether a pool or mean takes the average over the whole grid and nothing else."""
    before, after = node.inputs[0].shape, node.outputs[0].shape
    if before is None or after is None or layer.layout == "NTC":
        return False
    counts = [int(np.prod([n for n in s if isinstance(n, int)])) for s in (before, after)]
    return counts[0] == counts[1] * layer.grid[0] * layer.grid[1] and counts[1] == layer.units


def _masked(b: Bench, what: Recipe) -> T:
    layer, info = what.feature_map, b.classifier.image
    feature = _units(b, as_grid(b.e, b.tensor(layer.tensor), layer), what, ["N"])
    count = items.indices(len(what.units) if what.units is not None else layer.units)

    def run(units: T) -> T:
        masks = stacks.unit_masks(b.e, feature, units, info.size)
        return pixels.scores(b, b.image, stacks.seen_through(b.e, b.image, info, masks))

    return b.stack(("masked", layer.tensor, what.units), count, run)


def _placed(b: Bench, what: Recipe) -> T:
    layer, kernel = what.feature_map, dict(what.settings)["kernel"]
    feature = b.tensor(layer.tensor)

    def run(places: T) -> T:
        return pixels.scores(b, feature, stacks.placed(b.e, feature, layer, places, kernel))

    every = items.indices(layer.grid[0] * layer.grid[1])
    return b.stack(("placed", layer.tensor, kernel), every, run)


BUILDERS: dict[str, Builder] = {
    "drop": _drop,
    "blank": _blank,
    "gradient": _gradient,
    "curvature": _curvature,
    "derivatives": _derivatives,
    "linear": _linear,
    "masked": _masked,
    "placed": _placed,
    "image": pixels.image,
    "pixels": pixels.pixels,
    "guided": pixels.guided,
    "deconv": pixels.deconv,
    "path": pixels.path,
    "gain": pixels.gain,
    "noisy": pixels.noisy,
    "terms": pixels.terms,
    "occluded": pixels.occluded,
    "coverage": pixels.coverage,
    "sampled": pixels.sampled,
}
"""How each of `Needs` is made."""
