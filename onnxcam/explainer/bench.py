"""The graph under construction: classifier, scores asked about, and what methods share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.diff import gradients
from onnxcam.errors import OpError
from onnxcam.graph.emit import Emitter
from onnxcam.graph.feature import FeatureMap
from onnxcam.graph.load import Classifier
from onnxcam.graph.narrow import narrow
from onnxcam.graph.shapes import annotate
from onnxcam.perturb.items import Items

T: TypeAlias = gs.Tensor
V = TypeVar("V")
TARGET = "onnxcam/target"


@dataclass(frozen=True)
class Stack:
    """A run over many items, block by block.

    Attributes:
        items: what is run over; the input tensor `name` takes a block of them.
        name: of that input.
        result: name of the tensor that a block gives: (N, M, B, …), or a sum over the block.
        shape: of the result behind its first axes: (N, M, B, …), or (N, M, …) where it is summed.
        summed: whether results of blocks are added up; else they are joined on axis 2.
    """

    items: Items
    name: str
    result: str
    shape: tuple[int, ...]
    summed: bool


@dataclass
class Bench:
    """What builders of needs work with.

    Attributes:
        classifier: what is explained.
        e: the emitter of its graph, to which everything is added.
        score: the score tensor, (N, classes) or with axes of 1.
        flat: the same as (N, classes).
        chosen: the classes asked about, int64 (N, M).
        asked: the scores explained, (N, M): of the classes, or of the decisions against them.
        targets: M.
        start: how many nodes there were before anything was added.
        blocks: units are switched off in blocks, not all in one run.
        stacks: the runs over many items.
        notes: what the user should know.
    """

    classifier: Classifier
    e: Emitter
    score: T
    flat: T
    chosen: T
    asked: T
    targets: int
    start: int
    blocks: bool
    stacks: list[Stack] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _made: dict[Hashable, Any] = field(default_factory=dict)
    _noted: int = 0

    def once(self, key: Hashable, make: Callable[[], V]) -> V:
        """What `make` gives, made once for each key."""
        if key not in self._made:
            self._made[key] = make()
        made: V = self._made[key]
        return made

    def tensor(self, name: str) -> T:
        """The tensor of that name."""
        return self.once(("tensor", name), lambda: self.e.graph.tensors()[name])

    @property
    def image(self) -> T:
        """The image input."""
        return self.tensor(self.classifier.image.name)

    def channels_first(self, t: T, ahead: int = 1) -> T:
        """An image-shaped tensor in float32 as (…, C, H, W), `ahead` axes before; shape noted."""
        info, e = self.classifier.image, self.e
        t = e.cast(t, np.float32)
        if info.layout == "NHWC":
            t = e.Transpose(t, perm=[*range(ahead), ahead + 2, ahead, ahead + 1])
        h, w = info.size
        t.shape = [*(["N", self.targets][:ahead]), info.channels, h, w]
        return t

    def gradients(
        self, asked: T, wrt: Sequence[T], variant: str = "standard"
    ) -> list[list[T | None]]:
        """For each of the classes asked about the gradients of its score: [class][wrt].

        `asked` is (rows, M), of the classifier itself or of a rerun; a gradient has the shape of
        its tensor, or is None where nothing arrives.

        Raises:
            OpError: an operator on the way has no rule.
        """
        e, found = self.e, []
        for m in range(self.targets):
            one = np.zeros((1, self.targets), asked.dtype)
            one[0, m] = 1
            cotangent = e.Expand(one, e.Shape(asked))
            cotangent.dtype, cotangent.shape = np.dtype(asked.dtype), asked.shape
            found.append(gradients(e, asked, cotangent, wrt, variant, self.notes, self.chosen.name))
        return found

    def gradient(self, asked: T, wrt: T, variant: str = "standard") -> T:
        """∂(each of `asked`)/∂wrt: (rows, M, …) in float32.

        Raises:
            OpError: an operator on the way has no rule, or nothing arrives.
        """
        return self.by_class([one for (one,) in self.gradients(asked, [wrt], variant)], wrt)

    def by_class(self, each: Sequence[T | None], wrt: T) -> T:
        """Gradients for `wrt`, one for each class, as one tensor (rows, M, …) in float32."""
        e, parts = self.e, []
        for g in each:
            if g is None:
                raise OpError(
                    f"no gradient of the score arrives at {wrt.name!r}: "
                    + ("; ".join(self.notes) or "operators on the way let none through")
                )
            parts.append(e.axes("Unsqueeze", e.cast(g, np.float32), [1]))
        return parts[0] if len(parts) == 1 else e.Concat(*parts, axis=1)

    def annotated(self) -> None:
        """Notes the shapes of all that was added since the last time: for their gradients."""
        nodes = self.e.graph.nodes
        annotate(nodes[max(self.start, self._noted) :], self.e.graph.opset)
        self._noted = len(nodes)

    def stack(
        self,
        key: Hashable,
        items: Items,
        run: Callable[[T], T],
        shape: tuple[int, ...] = (),
        summed: bool = False,
    ) -> T:
        """The result of a run over many items: `run(block)` emits it for a block of them.

        Args:
            key: the same for runs that are the same.
            items: what is run over.
            run: items (B, …) → (N, M, B, …), or (N, M, …) summed over the block.
            shape: of what stands for "…".
            summed: results of blocks are added up; else joined on axis 2.
        """

        def make() -> T:
            number = len(self.stacks)
            block = gs.Variable(f"onnxcam/items_{number}", items.dtype, ["B", *items.shape])
            self.e.graph.inputs.append(block)
            result = self.named(self.e.cast(run(block), np.float32), f"onnxcam/result_{number}")
            self.stacks.append(Stack(items, block.name, result.name, shape, summed))
            return result

        return self.once(("stack", key), make)

    def named(self, t: T, name: str) -> T:
        """A tensor of that very name: for inputs and outputs of the cut parts."""
        result = gs.Variable(name, t.dtype, t.shape)
        self.e.graph.nodes.append(gs.Node("Identity", name, {}, [t], [result]))
        return result


def score_name(classifier: Classifier, kind: str) -> str:
    """The tensor that holds scores of a kind; logits where the model has no probabilities."""
    held = classifier.score
    return held.probability if kind == "probability" and held.probability else held.logit


def bench(
    classifier: Classifier,
    e: Emitter,
    kind: str,
    targets: int,
    stop: Collection[str],
    blocks: bool,
) -> Bench:
    """The bench for `targets` classes of a score of a kind: "logit" or "probability".

    `stop` names tensors before which scores of other classes must stay: those worked on. With
    `blocks` units are switched off in blocks.
    """
    name = score_name(classifier, kind)
    score = e.graph.tensors()[name]
    if name == classifier.score.probability and classifier.score.activation == "log-softmax":
        shape, score = score.shape, e.Exp(score)
        score.shape = list(shape)
    rows = "N" if classifier.batch is None else classifier.batch
    target = gs.Variable(TARGET, np.dtype(np.int64), [rows, targets])
    e.graph.inputs.append(target)
    start = len(e.graph.nodes)
    flat = e.Reshape(score, [0, classifier.classes])
    flat.shape = [rows, classifier.classes]
    plain, negated = _decoded(e, target, classifier.classes)
    chosen = _resolve(e, flat, plain, targets)
    chosen.shape = [rows, targets]
    asked = narrow(e, score, chosen, targets, stop=stop)
    asked.shape = [rows, targets]
    asked = _signed(e, asked, negated, kind)
    annotate(e.graph.nodes[start:], e.graph.opset)
    asked.shape = [rows, targets]
    return Bench(classifier, e, score, flat, chosen, asked, targets, start, blocks)


def _decoded(e: Emitter, target: T, classes: int) -> tuple[T, T]:
    """Codes of targets without their negation (k or −r), and 1 where there was one, else 0.

    A code that is a negation lies farther from 0 by the number of classes (see `targets`).
    """
    above = e.cast(e.Greater(target, classes - 1), np.int64)
    below = e.cast(e.Less(target, -classes), np.int64)
    shift = e.Mul(e.Sub(above, below), classes)
    return e.Sub(target, shift), e.Add(above, below)


def _signed(e: Emitter, asked: T, negated: T, kind: str) -> T:
    """The scores of decisions: negated, a logit y is −y and a probability p is 1 − p."""
    no = e.cast(negated, asked.dtype)
    sign = e.Sub(e.tensor(1.0, asked.dtype), e.Mul(no, 2.0))
    no.shape = sign.shape = asked.shape
    signed = e.Mul(asked, sign)
    signed.shape = asked.shape
    return e.Add(signed, no) if kind == "probability" else signed


def _resolve(e: Emitter, scores: T, target: T, targets: int) -> T:
    """Class indices for `target`, in which −r (r ≤ targets) stands for the r-th best class."""
    most = min(targets, scores.shape[1])  # a class and the decision against it are two targets
    ranked = e.op("TopK", [e.cast(scores, np.float32), [most]], {"axis": 1}, outputs=2)[1]
    ranked.dtype = np.dtype(np.int64)
    place = e.Max(e.Sub(e.Neg(target), 1), e.tensor(np.array(0, np.int64)))
    return e.Where(e.Less(target, 0), e.GatherElements(ranked, place, axis=1), target)


def as_grid(e: Emitter, t: T, layer: FeatureMap, ahead: int = 1) -> T:
    """A tensor in the layout of a feature map, `ahead` axes before it, as (…, K, h, w)."""
    rank = range(ahead)
    if layer.layout == "NHWC":
        return e.Transpose(t, perm=[*rank, ahead + 2, ahead, ahead + 1])
    if layer.layout == "NTC":
        h, w = layer.grid
        patches = e.Slice(t, [layer.prefix], [layer.prefix + h * w], [ahead])
        turned = e.Transpose(patches, perm=[*rank, ahead + 1, ahead])
        return e.Reshape(turned, [*([0] * ahead), layer.units, h, w])
    return t
