"""The path from image to score as a chain: what follows what, where it branches, what repeats.

The tensors that every path passes through cut the path into stretches. Stretches are gathered in
sections (a residual block, the layers on one grid), and sections that repeat are folded into one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from onnxcam.graph.feature import MIXING, POOLS, FeatureMap
from onnxcam.graph.load import Classifier
from onnxcam.graph.paths import cuts, data_inputs, path_nodes

LONGEST = 6
"""Sections in a pattern that is looked for again behind itself, at most."""

_NORMS = {
    "BatchNormalization",
    "LayerNormalization",
    "GroupNormalization",
    "InstanceNormalization",
    "RMSNormalization",
    "SkipLayerNormalization",
    "SimplifiedLayerNormalization",
    "LRN",
}


@dataclass(frozen=True)
class Step:
    """A node on the path.

    Attributes:
        op: its operator.
        node: its name.
        tensor: the name of what it gives.
        shape: of that; None where it is not known.
        position: of a feature map to choose from, its number from the end, such as -2.
        split: the model is cut behind it.
    """

    op: str
    node: str
    tensor: str
    shape: tuple[int | str, ...] | None
    position: int | None = None
    split: bool = False


@dataclass(frozen=True)
class Stretch:
    """What lies between two tensors that every path passes through.

    Attributes:
        branches: the nodes of each branch, in topological order; none where one node follows
            the other.
        around: one more branch leads around them all, without a node of its own.
        steps: the node that joins the branches, or the nodes in a row.
    """

    branches: tuple[tuple[Step, ...], ...]
    around: bool
    steps: tuple[Step, ...]

    def every(self) -> list[Step]:
        """All nodes."""
        return [*(s for branch in self.branches for s in branch), *self.steps]


@dataclass(frozen=True)
class Section:
    """Stretches that belong together."""

    stretches: tuple[Stretch, ...]

    @property
    def end(self) -> Step:
        """The last node."""
        return self.stretches[-1].steps[-1]

    def every(self) -> list[Step]:
        """All nodes."""
        return [s for stretch in self.stretches for s in stretch.every()]

    def kind(self) -> object:
        """Equal for sections that do the same on grids of the same size."""
        ops = [
            (tuple(tuple(s.op for s in b) for b in one.branches), one.around,
             tuple(s.op for s in one.steps))
            for one in self.stretches
        ]  # fmt: skip
        return (tuple(ops), _grid(self.end), any(s.split for s in self.every()[:-1]))


@dataclass(frozen=True)
class Run:
    """Sections, and how many times they come in a row; these are the last ones."""

    sections: tuple[Section, ...]
    times: int = 1


@dataclass(frozen=True)
class Chain:
    """The path of a classifier.

    Attributes:
        image: name and shape of the input.
        runs: from the image to the score before a final activation.
        final: the nodes from there to the probabilities.
        split: the feature map that the model is cut at, if any.
    """

    image: tuple[str, tuple[int | str, ...] | None]
    runs: tuple[Run, ...]
    final: tuple[Step, ...]
    split: FeatureMap | None


def chain_of(classifier: Classifier, layer: FeatureMap | None) -> Chain:
    """The chain of a classifier that is cut at `layer`."""
    graph, image, score = classifier.graph(), classifier.image.name, classifier.score
    numbers = {m.tensor: i - len(classifier.maps) for i, m in enumerate(classifier.maps)}
    split = None if layer is None else layer.tensor

    path = path_nodes(graph, image, score.logit)
    ends = {t.name for t in cuts(path, image)}

    def step(node: gs.Node) -> Step:
        out = node.outputs[0]
        for t in node.outputs:
            out = t if t.name in ends or t.name == split or t.name in numbers else out
        shape = None if out.shape is None else tuple("?" if n is None else n for n in out.shape)
        return Step(node.op, node.name, out.name, shape, numbers.get(out.name), out.name == split)

    stretches, start, source = [], 0, image
    for i, node in enumerate(path):
        end = next((t.name for t in node.outputs if t.name in ends), None)
        if end is not None:
            inside = [(n, step(n)) for n in path[start : i + 1]]
            stretches.append(_stretch(inside, source))
            start, source = i + 1, end
    last = score.probability
    final = path_nodes(graph, score.logit, last) if last is not None else []
    first = graph.tensors()[image].shape
    return Chain(
        (image, None if first is None else tuple(first)),
        tuple(_folded(_sections(stretches))),
        tuple(step(node) for node in final),
        layer,
    )


def _stretch(inside: list[tuple[gs.Node, Step]], source: str) -> Stretch:
    """The branches of a stretch: nodes that only the source and the last node connect."""
    plain = len(inside) == 1 or not any(node.op in MIXING for node, _ in inside[:-1])
    if plain:  # an activation written out, such as x · sigmoid(x)
        return Stretch((), False, tuple(step for _, step in inside))
    group: dict[str, int] = {}
    members: dict[int, list[Step]] = {}
    for number, (node, step) in enumerate(inside[:-1]):
        met = {group[t.name] for t in data_inputs(node) if t.name in group}
        joined = [s for g in sorted(met) for s in members.pop(g)] + [step]
        members[number] = joined
        group = {name: number if g in met else g for name, g in group.items()}
        group.update({t.name: number for t in node.outputs})
    order = {id(step): i for i, (_, step) in enumerate(inside)}
    branches = [tuple(sorted(b, key=lambda s: order[id(s)])) for b in members.values()]
    branches.sort(key=lambda b: order[id(b[0])])
    last, end = inside[-1]
    return Stretch(tuple(branches), any(t.name == source for t in data_inputs(last)), (end,))


def _sections(stretches: Sequence[Stretch]) -> list[Section]:
    found: list[list[Stretch]] = []
    for stretch in stretches:
        before = found[-1][-1] if found else None
        first = stretch.steps[0]
        new = (
            before is None
            or bool(stretch.branches)
            or before.steps[-1].split
            or _grid(before.steps[-1]) != _grid(first)
            or (any(s.branches for s in found[-1]) and first.op in MIXING | POOLS | _NORMS)
        )
        if new:
            found.append([])
        found[-1].append(stretch)
    return [Section(tuple(each)) for each in found]


def _grid(step: Step) -> tuple[int | str, ...]:
    """The sides of the grid, or nothing where there is but one place."""
    sides = step.shape[2:] if step.shape is not None and len(step.shape) == 4 else ()
    return () if sides == (1, 1) else sides


def _folded(sections: list[Section]) -> list[Run]:
    """Runs: at each place the pattern that covers most by repeating itself, if any does."""
    kinds = [s.kind() for s in sections]
    hard = [i for i, s in enumerate(sections) if s.end.split]  # no run goes on behind the cut
    runs, at = [], 0
    while at < len(sections):
        stop = next((i + 1 for i in hard if i >= at), len(sections))
        best, times = 1, 1
        for length in range(1, LONGEST + 1):
            pattern, count = kinds[at : at + length], 1
            while (
                at + (count + 1) * length <= stop
                and kinds[at + count * length : at + (count + 1) * length] == pattern
            ):
                count += 1
            if count > 1 and count * length > best * times:
                best, times = length, count
        at += best * times
        runs.append(Run(tuple(sections[at - best : at]), times))
    return runs
