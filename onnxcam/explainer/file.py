"""An explainer as a model of its own, with ends that users meet: `image, target → …, map`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.errors import ModelError, OptionError
from onnxcam.explainer.apart import told_apart
from onnxcam.explainer.bench import TARGET
from onnxcam.explainer.loops import in_one
from onnxcam.explainer.program import CHOSEN, Form, Program
from onnxcam.graph.emit import Emitter
from onnxcam.graph.model import Model, to_graph, to_model
from onnxcam.perturb.scaling import resized

EXTREME = 0.995
"""In a map of pixels, the share of values below which heat is told apart (as `explain` draws)."""

TURN = 64
"""Items in one turn of a Loop at the most: a file does not know the machine that it will run on."""


@dataclass(frozen=True)
class Ends:
    """What goes into an explainer file beside the image, and what comes out beside the scores.

    Attributes:
        target: codes of the decisions explained (see `targets`), () or (M,); None: an input.
        heatmap: an output with each map normalised, in the size of the model's input.
        weights: an output with the weights of the units.
        prefix: stands before the names of what is added.
    """

    target: np.ndarray | None = None
    heatmap: bool = False
    weights: bool = False
    prefix: str = ""


def explainer_model(program: Program, own: Sequence[str], ends: Ends, memory: int) -> Model:
    """The file: `image[, target] → own outputs, map, class[, heatmap][, weights]`.

    Args:
        program: what explains, by one recipe.
        own: names of the model's own outputs, which come first and stay what they are.
        ends: what else goes in and comes out.
        memory: about how many bytes switched-off copies, or what a Loop works on, may take.

    Returns:
        Outputs, M being left out where one decision is explained: `map` (N, M, h, w), after the
        method's ReLU; `class` (N, M), int64, what was explained; `heatmap` (N, M, H, W), from 0 to
        1, the map over its largest value, brought to the image's size with pixel centres aligned;
        `weights` (N, M, K).

    Raises:
        OptionError: the method has no weights.
        ModelError: the model has an end of one of these names already.
    """
    classifier, what = program.classifier, program.recipes[0]
    form = Form(classifier, program.recipes, blocks=False, own=own)
    if program.drops and form.bytes > memory:
        form = Form(classifier, program.recipes, blocks=True, own=own)
    graph = to_graph(in_one(form, memory, TURN))
    graph.outputs = [t for t in graph.outputs if t.name in own]
    e, tensors = Emitter(graph), graph.tensors()
    size = classifier.image.size
    grid = size if what.layer is None or form.fine[0] else what.layer.grid
    shown = tensors["onnxcam/0/map"]
    given = {"map": (shown, grid), "class": (tensors[CHOSEN], ())}
    if ends.heatmap:
        given["heatmap"] = _heat(e, shown, grid, size, form.fine[0]), size
    if ends.weights:
        if what.layer is None or "onnxcam/0/weights" not in tensors:
            raise OptionError(f"{what.method.name} gives no weights of units: leave out --weights")
        units = what.layer.units if what.units is None else len(what.units)
        given["weights"] = tensors["onnxcam/0/weights"], (units,)
    _free_names(e, [ends.prefix + name for name in (*given, "target")])
    rows = "N" if classifier.batch is None else classifier.batch
    _ask(e, tensors[TARGET], tensors[classifier.image.name], rows, ends)
    one = form.targets == 1 and (ends.target is None or ends.target.ndim == 0)
    for name, (t, shape) in given.items():
        end = e.axes("Squeeze", t, [1]) if one else e.Identity(t)
        end.name, end.dtype = ends.prefix + name, t.dtype
        end.shape = [rows, *([] if one else [form.targets]), *shape]
        graph.outputs.append(end)
    graph.cleanup(remove_unused_graph_inputs=False).toposort()
    model = to_model(graph, classifier.model)
    # "N" in a shape stands for copies of images, too, and runtimes take one name for one size.
    del model.proto.graph.value_info[:]
    return told_apart(model)


def _free_names(e: Emitter, names: Sequence[str]) -> None:
    """Renames tensors inside that have one of `names`.

    Raises:
        ModelError: an input or output has.
    """
    for t in (*e.graph.inputs, *e.graph.outputs):
        if t.name in names:
            raise ModelError(
                f"the model has an input or output {t.name!r} already; give --prefix, which then "
                "stands before the names of what is added"
            )
    for name in {*names} & {*e.graph.tensors()}:
        e.graph.tensors()[name].name = e.name(name)


def _ask(e: Emitter, asked: gs.Variable, image: gs.Tensor, rows: str | int, ends: Ends) -> None:
    """Makes what the explainer asks about from the input `target`, or from what is fixed."""
    e.graph.inputs.remove(asked)
    if ends.target is None:
        target = gs.Variable(ends.prefix + "target", np.dtype(np.int64), [rows])
        e.graph.inputs.append(target)
        made = e.axes("Unsqueeze", target, [1])
    else:
        codes = ends.target.reshape(1, -1)
        images = e.Slice(e.Shape(image), [0], [1], [0])
        made = e.Expand(codes, e.Concat(images, [codes.shape[1]], axis=0))
    made.inputs[0].outputs = [asked]


def _heat(
    e: Emitter, shown: gs.Tensor, grid: tuple[int, int], size: tuple[int, int], fine: bool
) -> gs.Tensor:
    """Maps (N, M, h, w) over their largest values, in the size of the image."""
    if fine:  # as `explain` draws: from a high percentile on all values look the same
        area = size[0] * size[1]
        flat = e.Reshape(shown, [0, 0, area])
        place = EXTREME * (area - 1)
        below, share = int(place), place - int(place)
        top, places = e.op("TopK", [flat, [area - below]], {"axis": 2}, outputs=2)
        places.dtype = np.dtype(np.int64)
        high, low = (e.Slice(top, [-i], [1 - i or 1 << 30], [2]) for i in (2, 1))
        most = e.Add(low, e.Mul(e.Sub(high, low), share))
        most = e.Where(e.Greater(most, 0.0), most, e.axes("ReduceMax", flat, [2], keepdims=1))
        shown = e.Min(shown, e.axes("Unsqueeze", most, [3]))
    large = resized(e, shown, grid, size)
    most = e.axes("ReduceMax", large, [2, 3], keepdims=1)
    return e.Div(large, e.Where(e.Greater(most, 0.0), most, 1.0))
