"""Ensembles: nets side by side whose results meet where no grid is left.

No tensor with a grid lies on all paths then. Each of the nets is searched as if it were alone; a
branch counts as a net of its own (a trunk) only if it mixes channels on its own grid at least twice
and more often than what the branches share, and shares no such layer with the others. An SE gate,
an auxiliary head or a block of two branches is none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.graph.feature import MIXING, FeatureMap, spatial_of
from onnxcam.graph.paths import cuts, data_inputs

Nodes = list[gs.Node]
Find = Callable[[Nodes], tuple[list[FeatureMap], FeatureMap | None]]
"""The feature maps on a path, and the default among them."""


def trunk_maps(path: Nodes, image: str, find: Find) -> tuple[list[FeatureMap], FeatureMap | None]:
    """All feature maps of an ensemble, and the last one of the trunk that does most of the work.

    Nothing and None where `path` has no trunks.

    Args:
        path: the nodes from image to score, in order.
        image: name of the image input.
        find: searches a path on which all but one trunk were left out.
    """
    merging, trunks = _trunks(path, image)
    inside = [{id(n) for n in trunk} for trunk in trunks]
    found: dict[str, FeatureMap] = {}
    lasts: list[tuple[float, FeatureMap]] = []
    for trunk, own in zip(trunks, inside, strict=True):
        others = set().union(*(ids for ids in inside if ids is not own))
        maps, default = find([n for n in path if id(n) not in others])
        found |= {m.tensor: m for m in maps if m.tensor not in found}
        if default is not None:
            lasts.append((sum(map(_cost, trunk)), default))
    if not lasts or merging is None:
        return [], None
    place = f"{merging.name!r} ({merging.op})" if merging.name else merging.op
    names = [m.tensor for _, m in lasts]
    for _, last in lasts:
        why = last.reason.replace("every path to the score", "every path through that trunk")
        rest = " or ".join(f"--layer {n}" for n in names if n != last.tensor)
        found[last.tensor] = replace(
            last,
            reason=f"the last map of one of {len(trunks)} trunks that meet at {place}; "
            f"the other{'s' if len(trunks) > 2 else ''}: {rest}; {why}",
            note=f"{last.tensor!r} is a map of one of {len(trunks)} trunks that meet at {place}: "
            f"it tells about that part only ({rest} shows another); methods on pixels, "
            "such as occlusion or saliency, see all",
        )
    best = max(range(len(lasts)), key=lambda i: (lasts[i][0], -i))
    position = {t.name: i for i, n in enumerate(path) for t in n.outputs}
    every = sorted(found.values(), key=lambda m: position[m.tensor])
    return every, found[names[best]]


def _trunks(path: Nodes, image: str) -> tuple[gs.Node | None, list[Nodes]]:
    """The node where trunks meet, and the nodes of each; none if there are none."""
    found = cuts(path, image)
    position = {t.name: i for i, n in enumerate(path) for t in n.outputs}
    last = max((i for i, t in enumerate(found) if spatial_of(t) is not None), default=-1)
    if last + 1 >= len(found):
        return None, []
    start = position[found[last].name] + 1 if last >= 0 else 0
    end = position[found[last + 1].name]
    region, shared = path[start:end], path[:start]
    merging = path[end]
    branches = [_ahead(region, t.name) for t in _different(merging)]
    while sum(map(bool, branches)) == 1:  # a stack of logits is reduced: they met before it
        only = next(b for b in branches if b)
        merging = only[-1]
        region = only[:-1]
        branches = [_ahead(region, t.name) for t in _different(merging)]
    branches = [b for b in branches if any(n.op in MIXING for n in b)]
    ids = [{id(n) for n in b} for b in branches]
    apart = all(not a & b for i, a in enumerate(ids) for b in ids[:i])
    least = max(2, 1 + sum(map(_on_grid, shared)))
    if len(branches) < 2 or not apart or any(sum(map(_on_grid, b)) < least for b in branches):
        return None, []
    return merging, branches


def _different(node: gs.Node) -> list[gs.Tensor]:
    return list({t.name: t for t in data_inputs(node)}.values())


def _ahead(region: Nodes, sink: str) -> Nodes:
    """The nodes of `region` that `sink` depends on, in order."""
    wanted, kept = {sink}, []
    for node in reversed(region):
        if any(t.name in wanted for t in node.outputs):
            kept.append(node)
            wanted.update(t.name for t in data_inputs(node))
    return kept[::-1]


def _on_grid(node: gs.Node) -> bool:
    """Whether a node mixes channels on a grid (of tokens, if it is no convolution)."""
    if node.op not in MIXING:
        return False
    shape = node.outputs[0].shape or []
    return spatial_of(node.outputs[0]) is not None or len(shape) == 3


def _cost(node: gs.Node) -> float:
    """Multiplications of a mixing node, about: its weight for every position of its result."""
    if node.op not in MIXING:
        return 0.0
    weights = [t.shape for t in node.inputs if isinstance(t, gs.Constant)]
    size = max((float(np.prod(s)) for s in weights), default=1.0)
    shape = [n for n in node.outputs[0].shape or [] if isinstance(n, int)]
    sides = shape[1:] if len(shape) > 2 or node.op.endswith("Conv") else shape[:-1]
    return size * float(np.prod(sides))
