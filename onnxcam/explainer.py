"""Composes the explainer: the graph `image, target → scores, target, weights, map`.

One graph does everything in one run. Where its stack of switched-off units would pass the memory
budget, the same graph is cut into three (trunk, body, finish) and the body is run block by block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam import ablate
from onnxcam.ablate.state import Stuck
from onnxcam.errors import OptionError
from onnxcam.graph.cost import peak_bytes
from onnxcam.graph.early import pick_early
from onnxcam.graph.emit import Emitter
from onnxcam.graph.feature import FeatureMap
from onnxcam.graph.load import Classifier
from onnxcam.graph.model import Model
from onnxcam.graph.narrow import narrow
from onnxcam.graph.paths import every_input, reached
from onnxcam.graph.split import extract
from onnxcam.methods import Method, method_named
from onnxcam.methods.table import Needs

SCORES = ("logit", "probability")
ABLATIONS = ("exact", "literal")
TARGET, UNITS, DROP = "onnxcam/target", "onnxcam/units", "onnxcam/drop"
OUTPUTS = ("onnxcam/scores", "onnxcam/chosen", "onnxcam/weights", "onnxcam/raw", "onnxcam/map")


@dataclass(frozen=True)
class Recipe:
    """What to compile.

    Attributes:
        method: its row of the table.
        layer: the feature map.
        score: "logit" or "probability".
        targets: how many classes are asked about for each image.
        ablation: "exact" or "literal".
        units: the units asked about, or None for all.
        patches_only: on tokens, switch units off in patch tokens only.
        settings: options of the method.
    """

    method: Method
    layer: FeatureMap
    score: str = "logit"
    targets: int = 1
    ablation: str = "exact"
    units: tuple[int, ...] | None = None
    patches_only: bool = False
    settings: tuple[tuple[str, Any], ...] = ()


def recipe(
    classifier: Classifier,
    method: str = "ablation-cam",
    layer: str | int | None = None,
    score: str = "logit",
    targets: int = 1,
    ablation: str = "exact",
    units: Sequence[int] | None = None,
    patches_only: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Recipe:
    """A checked recipe.

    Raises:
        OptionError: an option has a value that it cannot have.
        LayerError: there is no such feature map.
    """
    row = method_named(method)
    found = classifier.layer(layer)
    for name, value, allowed in (("score", score, SCORES), ("ablation", ablation, ABLATIONS)):
        if value not in allowed:
            raise OptionError(f"{name} is {' or '.join(allowed)}, not {value!r}")
    if score == "probability" and classifier.score.probability is None:
        raise OptionError(
            "score 'probability' is not to be had: the model ends in its logits; take 'logit'"
        )
    if units is not None:
        wrong = [u for u in units if not 0 <= u < found.units]
        if wrong or not units or len(set(units)) != len(units):
            raise OptionError(
                f"units must be different numbers from 0 to {found.units - 1}, "
                f"not {list(wrong or units)[:5]}"
            )
    settings = tuple(row.settings(options or {}).items())
    chosen = None if units is None else tuple(int(u) for u in units)
    return Recipe(row, found, score, targets, ablation, chosen, patches_only, settings)


class Program:
    """The compiled explainer; its graphs are built when they are first asked for.

    Attributes:
        classifier: what is explained.
        recipe: how.
        way: "exact" or "literal".
        notes: what the user should know, in sentences.
    """

    def __init__(
        self, classifier: Classifier, what: Recipe, way: str, notes: tuple[str, ...]
    ) -> None:
        self.classifier, self.recipe, self.way, self.notes = classifier, what, way, notes

    @cached_property
    def whole(self) -> Model:
        """One model for all units: image, target → outputs."""
        graph = _compose(self.classifier, self.recipe, self.way, blocks=False)
        inputs = [self.classifier.image.name, TARGET]
        return extract(graph, inputs, OUTPUTS, self.classifier.model)

    @cached_property
    def whole_bytes(self) -> int:
        """Memory that the switched-off copies of all units take in `whole` for one image, about."""
        own = {t.name for n in self.classifier.graph().nodes for t in n.outputs}
        added = {t for n in self.whole.proto.graph.node for t in n.output} - own
        return peak_bytes(self.whole, added)

    @cached_property
    def _blocks(self) -> gs.Graph:
        return _compose(self.classifier, self.recipe, self.way, blocks=True)

    def _behind(self, name: str) -> set[str]:
        return reached(self._blocks, name, through=every_input)

    @cached_property
    def parts(self) -> tuple[Model, Model, Model]:
        """The same in three: trunk (image, target → …), body (…, units → drop), finish."""
        graph, like = self._blocks, self.classifier.model
        inputs = [self.classifier.image.name, TARGET]
        ending = self._behind(DROP)
        into_body = _borders(graph, self._behind(UNITS) - ending, {UNITS})
        into_finish = _borders(graph, (ending | set(OUTPUTS)) - {DROP}, {DROP})
        early = [n for n in OUTPUTS if n not in ending]
        late = [n for n in OUTPUTS if n in ending]
        trunk = extract(graph, inputs, sorted({*into_body, *into_finish, *early}), like)
        body = extract(graph, [*into_body, UNITS], [DROP], like)
        return trunk, body, extract(graph, [*into_finish, DROP], late, like)

    @cached_property
    def unit_bytes(self) -> int:
        """Memory that one switched-off unit of one image takes in the body, about."""
        inputs = [self.classifier.image.name, TARGET, UNITS]
        every = extract(self._blocks, inputs, OUTPUTS, self.classifier.model)
        return peak_bytes(every, self._behind(UNITS) - self._behind(DROP))


def compile_program(classifier: Classifier, what: Recipe) -> Program:
    """Builds the explainer of `what`; see `recipe`.

    Where the exact engine does not understand the head, the literal way is taken and noted.
    """
    if what.ablation == "literal":
        return Program(classifier, what, "literal", ())
    if classifier.batch is not None:
        note = "the model's batch is fixed, so units are switched off one by one: this takes long"
        return Program(classifier, what, "literal", (note,))
    program = Program(classifier, what, "exact", ())
    try:
        program.whole  # noqa: B018  builds it
    except Stuck as stuck:
        note = (
            f"the exact engine does not understand the head ({stuck}); units are switched off in "
            "copies of the whole head instead, which takes long"
        )
        return Program(classifier, what, "literal", (note,))
    return program


def _compose(classifier: Classifier, what: Recipe, way: str, blocks: bool) -> gs.Graph:
    graph = classifier.graph()
    graph.outputs = []
    e = Emitter(graph)
    logit, probability = classifier.score.logit, classifier.score.probability
    name = probability if what.score == "probability" and probability else logit
    if way == "exact":
        pick_early(e, what.layer.tensor, name)
    tensors = graph.tensors()
    score = tensors[name]
    target = gs.Variable(TARGET, np.dtype(np.int64), [_rows(classifier), what.targets])
    graph.inputs.append(target)
    flat = e.Reshape(score, [0, classifier.classes])
    chosen = _resolve(e, flat, target, what.targets)
    chosen.shape = ["N", what.targets]
    asked = narrow(e, score, chosen, what.targets, stop=what.layer.tensor)
    feature = _as_grid(e, tensors[what.layer.tensor], what.layer)
    units = None
    if blocks:
        units = gs.Variable(UNITS, np.dtype(np.int64), ["B"])
        graph.inputs.append(units)
    elif what.units is not None or way == "literal":
        every = range(what.layer.units) if what.units is None else what.units
        units = e.tensor(np.array(every, np.int64))
    emit = ablate.exact if way == "exact" else ablate.literal
    drop = e.cast(emit(e, what.layer, asked, chosen, units, what.patches_only), np.float32)
    drop = _rename(e, drop, DROP)
    settings = dict(what.settings)
    feature, blank = _asked(e, feature, what, "N"), None
    if "blank" in what.method.needed(settings):
        blank = _asked(e, _blank(e, classifier, what.layer), what, 1)
    needs = Needs(feature, e.cast(asked, np.float32), drop, blank)
    weights, raw = what.method.emit(e, needs, **settings)
    results = [e.cast(flat, np.float32), chosen, weights, raw, e.Relu(raw)]
    for result, name in zip(results, OUTPUTS, strict=True):
        graph.outputs.append(_rename(e, result, name))
    return graph.toposort()


def _rows(classifier: Classifier) -> str | int:
    return "N" if classifier.batch is None else classifier.batch


def _resolve(e: Emitter, scores: gs.Tensor, target: gs.Tensor, targets: int) -> gs.Tensor:
    """Class indices for `target`, in which −r (r ≤ targets) stands for the r-th best class."""
    ranked = e.op("TopK", [e.cast(scores, np.float32), [targets]], {"axis": 1}, outputs=2)[1]
    ranked.dtype = np.dtype(np.int64)
    place = e.Max(e.Sub(e.Neg(target), 1), e.tensor(np.array(0, np.int64)))
    return e.Where(e.Less(target, 0), e.GatherElements(ranked, place, axis=1), target)


def _as_grid(e: Emitter, t: gs.Tensor, layer: FeatureMap) -> gs.Tensor:
    """The feature map as (N, K, h, w)."""
    if layer.layout == "NHWC":
        return e.Transpose(t, perm=[0, 3, 1, 2])
    if layer.layout == "NTC":
        h, w = layer.grid
        patches = e.Slice(t, [layer.prefix], [layer.prefix + h * w], [1])
        return e.Reshape(e.Transpose(patches, perm=[0, 2, 1]), [0, layer.units, h, w])
    return t


def _asked(e: Emitter, t: gs.Tensor, what: Recipe, batch: str | int) -> gs.Tensor:
    """The units asked about of a feature map (N, K, h, w), as float32, the shape noted."""
    t, count = e.cast(t, np.float32), what.layer.units
    if what.units is not None:
        t, count = e.Gather(t, np.array(what.units, np.int64), axis=1), len(what.units)
    t.shape = [batch, count, *what.layer.grid]
    return t


def _blank(e: Emitter, classifier: Classifier, layer: FeatureMap) -> gs.Tensor:
    """The feature map of an all-zero image: the features once more, on a constant."""
    source = classifier.graph()
    zero = np.zeros(classifier.image.shape(classifier.batch or 1), classifier.image.dtype)
    stacked: dict[str, gs.Tensor] = {classifier.image.name: e.tensor(zero)}
    tensors = e.graph.tensors()
    for node in source.nodes:
        if layer.tensor in stacked:
            break
        if not node.outputs or all(t.name in stacked for t in node.outputs):
            continue
        original = tensors[node.outputs[0].name].inputs[0]
        if not any(t.name in stacked for t in original.inputs):
            continue
        outputs = e.again(original, [stacked.get(t.name, t) for t in original.inputs])
        stacked.update({t.name: o for t, o in zip(original.outputs, outputs, strict=True)})
    return _as_grid(e, stacked[layer.tensor], layer)


def _rename(e: Emitter, t: gs.Tensor, name: str) -> gs.Tensor:
    """A tensor of that very name: for inputs and outputs of the cut parts."""
    result = gs.Variable(name, t.dtype)
    e.graph.nodes.append(gs.Node("Identity", name, {}, [t], [result]))
    return result


def _borders(graph: gs.Graph, inside: set[str], given: set[str]) -> list[str]:
    """Tensors from outside that the nodes making `inside` use."""
    found: list[str] = []
    for node in graph.nodes:
        if any(t.name in inside for t in node.outputs):
            for t in node.inputs:
                outside = t.name and t.name not in inside | given and not isinstance(t, gs.Constant)
                if outside and t.name not in found:
                    found.append(t.name)
    return found
