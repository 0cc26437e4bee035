"""Builds what methods on pixels need: gradients for the image, and scores of changed images."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.explainer.bench import Bench
from onnxcam.explainer.recipe import Recipe
from onnxcam.graph.model import array_of
from onnxcam.graph.paths import path_nodes
from onnxcam.graph.rerun import rerun, rerun_rows, stacked_rows, unstacked
from onnxcam.perturb import items, stacks

T: TypeAlias = gs.Tensor


def scores(b: Bench, source: T, stack: T) -> T:
    """The scores of the classes asked about for every version of `source`: float32 (N, M, B)."""
    found = rerun(b.e, source, stack, b.asked, b.chosen.name)
    # Cast first: of a Transpose, a Cast and a MatMul in a row ONNX Runtime's optimiser crashes.
    return b.e.Transpose(b.e.cast(found, np.float32), perm=[1, 2, 0])


def image(b: Bench, what: Recipe) -> T:
    """The image, (N, C, H, W)."""
    return b.once("image", lambda: b.channels_first(b.image))


def pixels(b: Bench, what: Recipe) -> T:
    """∂y/∂image, (N, M, C, H, W)."""
    return _of_pixels(b, "standard")


def guided(b: Bench, what: Recipe) -> T:
    """∂y/∂image by the rules of guided backpropagation."""
    return _of_pixels(b, _rules("guided", what))


def deconv(b: Bench, what: Recipe) -> T:
    """∂y/∂image by the rules of deconvnet."""
    return _of_pixels(b, _rules("deconv", what))


def _rules(paper: str, what: Recipe) -> str:
    return f"{paper}-all" if dict(what.settings)["rectifiers"] == "all" else paper


def _of_pixels(b: Bench, variant: str) -> T:
    def make() -> T:
        if variant in ("guided", "deconv"):
            _note_without_relu(b)
        return b.channels_first(b.gradient(b.asked, b.image, variant), 2)

    return b.once(("pixels", variant), make)


def _note_without_relu(b: Bench) -> None:
    way = path_nodes(b.e.graph, b.image.name, b.asked.name)
    if not any(n.op == "Relu" for n in way):
        b.notes.append(
            "the model has no Relu, so the guided gradient is the plain one; rectifiers=all takes "
            "other activations for rectifiers, too"
        )


def path(b: Bench, what: Recipe) -> T:
    """(x − x′) ⊙ the mean gradient between baseline x′ and image x, (N, M, C, H, W)."""
    settings, e = dict(what.settings), b.e
    steps, kind = settings["steps"], settings["baseline"]
    ground = stacks.background(e, b.image, b.classifier.image, kind)
    real = e.cast(b.image, np.float32)

    def run(shares: T) -> T:
        moved = stacks.along_path(e, real, ground, shares)
        return _slopes(b, moved)

    key = ("path", steps, kind)
    info = b.classifier.image
    shape = (info.channels, *info.size)
    total = b.stack(key, items.midpoints(steps), run, shape, summed=True)
    total.shape = ["N", b.targets, *shape]
    way = b.channels_first(e.Sub(real, ground))
    return e.Mul(e.Mul(total, 1 / steps), e.axes("Unsqueeze", way, [1]))


def _slopes(b: Bench, versions: T, squared: bool = False) -> T:
    """Σ over versions (B, N, …) of the image of gradients, or their squares: (N, M, C, H, W)."""
    e = b.e
    rows = _as_taken(b, stacked_rows(e, versions, b.image))
    asked = rerun_rows(e, b.image, rows, b.asked, b.chosen.name)
    slopes = b.channels_first(b.gradient(asked, rows), 2)
    if squared:
        slopes = e.Mul(slopes, slopes)
    return e.axes("ReduceSum", unstacked(e, slopes, b.image), [0], keepdims=0)


def _as_taken(b: Bench, rows: T) -> T:
    """Rows of images in float32 as the model takes them.

    Of a model that makes reals of its integers first of all, it can go on from reals.
    """
    own = [n for n in b.e.graph.nodes[: b.start] if any(t is b.image for t in n.inputs)]
    if b.classifier.image.dtype.kind == "f" or any(n.op != "Cast" for n in own):
        rows = stacks.taken(b.e, rows, b.classifier.image)
    rows.shape = b.image.shape
    return rows


def gain(b: Bench, what: Recipe) -> T:
    """y − y(baseline), (N, M)."""
    e = b.e
    ground = stacks.background(e, b.image, b.classifier.image, dict(what.settings)["baseline"])
    blank = _as_taken(b, e.Expand(ground, e.Shape(b.image)))
    found = rerun_rows(e, b.image, blank, b.asked, b.chosen.name)
    return e.Sub(e.cast(b.asked, np.float32), e.cast(found, np.float32))


def noisy(b: Bench, what: Recipe) -> T:
    """The mean gradient over noisy copies of the image, or of its square, (N, M, C, H, W)."""
    s, e, info = dict(what.settings), b.e, b.classifier.image
    real = e.cast(b.image, np.float32)
    squared = s["squared"] == "yes"
    shape = (info.channels, *info.size)
    draws = items.noise(s["samples"], shape, s["seed"])

    def run(block: T) -> T:
        if info.layout == "NHWC":
            block = e.Transpose(block, perm=[0, 2, 3, 1])
        return _slopes(b, stacks.noisy(e, real, block, s["noise"]), squared)

    total = b.stack(("noisy", *what.settings), draws, run, shape, summed=True)
    return e.Mul(total, 1 / s["samples"])


def terms(b: Bench, what: Recipe) -> list[T]:
    """Gradient × bias of every convolution and batch norm with a grid, the shapes noted.

    Each is (N, M, channels, h, w).
    """
    way = path_nodes(b.e.graph, b.image.name, b.asked.name)
    found = [(n.outputs[0], bias) for n in way if (bias := _bias(b, n)) is not None]

    def make() -> list[T]:
        by_class = b.gradients(b.asked, [t for t, _ in found])
        terms = []
        for i, (t, bias) in enumerate(found):
            column = b.e.Reshape(b.e.cast(bias, np.float32), [1, 1, -1, 1, 1])
            terms.append(b.e.Mul(b.by_class([g[i] for g in by_class], t), column))
            terms[-1].shape = ["N", b.targets, *t.shape[1:]]
        return terms

    return b.once("terms", make)


def _bias(b: Bench, node: gs.Node) -> T | None:
    """What a convolution or batch norm adds to each channel; None where it adds nothing."""
    shape = node.outputs[0].shape
    if shape is None or len(shape) != 4 or shape[2:] == [1, 1]:
        return None
    if node.op in ("Conv", "ConvTranspose") and len(node.inputs) > 2:
        return node.inputs[2]  # of a quantised model it comes from a DequantizeLinear
    held = [array_of(t) for t in node.inputs]
    if node.op == "BatchNormalization" and all(a is not None for a in held[1:]):
        scale, offset, mean, var = (np.asarray(a, np.float64) for a in held[1:5])
        epsilon = node.attrs.get("epsilon", 1e-5)
        return b.e.tensor(np.asarray(offset - mean * scale / np.sqrt(var + epsilon), np.float32))
    return None


def coverage(b: Bench, what: Recipe) -> tuple[np.ndarray, np.ndarray]:
    """Which window covers which rows and which columns: (windows, H) and (windows, W)."""
    s, (h, w) = dict(what.settings), b.classifier.image.size
    return items.cover(h, s["window"], s["stride"]), items.cover(w, s["window"], s["stride"])


def occluded(b: Bench, what: Recipe) -> T:
    """y − y without one window after the other, (N, M, windows)."""
    e, info = b.e, b.classifier.image
    ground = stacks.background(e, b.image, info, dict(what.settings)["muted"])

    def run(packed: T) -> T:
        wide = e.axes("Unsqueeze", stacks.windows(e, packed, info.size), [1])
        found = scores(b, b.image, stacks.seen_through(e, b.image, info, wide, ground))
        return e.Sub(e.axes("Unsqueeze", e.cast(b.asked, np.float32), [2]), found)

    return b.stack(("occluded", *what.settings), items.windows(*coverage(b, what)), run)


def sampled(b: Bench, what: Recipe) -> T:
    """Σ score · mask over random masks, (N, M, H, W)."""
    s, e, info = dict(what.settings), b.e, b.classifier.image
    ground = stacks.background(e, b.image, info, s["muted"])
    h, w = info.size

    def run(packed: T) -> T:
        masks = stacks.random_masks(e, packed, info.size, s["cells"])
        wide = e.axes("Unsqueeze", masks, [1])
        found = scores(b, b.image, stacks.seen_through(e, b.image, info, wide, ground))
        flat = e.Reshape(masks, [-1, h * w])
        return e.Reshape(e.MatMul(found, flat), [0, 0, h, w])

    masks = items.random_masks(s["masks"], info.size, s["cells"], s["keep"], s["seed"])
    return b.stack(("sampled", *what.settings), masks, run, info.size, summed=True)
