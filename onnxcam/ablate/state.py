"""How a tensor of the head differs from the untouched run when unit k is switched off.

| state | meaning |
|---|---|
| (none) | it does not: the tensor is independent of the feature map |
| `Lane` | only the elements of unit k differ; one tensor holds what they become, for every k |
| `Delta` | it is base − part_k; the parts are stacked over the units |
| `Outer` | the same, the part being kept as a product of two factors |
| `Batch` | anything: stacked over the units |

Stacks put the units in front of the batch on the batch axis: row k · N + n is image n, unit k off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.graph.emit import Emitter


@dataclass(frozen=True)
class Lane:
    """Only the elements of unit k differ from the untouched tensor.

    Attributes:
        off: what every element becomes when its own unit is off; None means zero.
        axis: the axis on which the units lie.
        outer, inner: that axis holds outer × units × inner elements, in this order.
    """

    off: gs.Tensor | None
    axis: int
    outer: int = 1
    inner: int = 1


@dataclass(frozen=True)
class Delta:
    """The tensor is base − part_k, `part` being stacked over the units."""

    part: gs.Tensor


@dataclass(frozen=True)
class Factor:
    """One of two factors: `t` (B, 1 or size, …); `full` says along which axes it extends."""

    t: gs.Tensor
    full: tuple[bool, ...]


@dataclass(frozen=True)
class Outer:
    """The tensor is base − left_k · right_k, broadcast against each other; units first."""

    left: Factor
    right: Factor


@dataclass(frozen=True)
class Batch:
    """The whole tensor, stacked over the units."""

    full: gs.Tensor


State: TypeAlias = Lane | Delta | Outer | Batch | None
Rule: TypeAlias = Callable[["Walk", gs.Node, list[State]], State]


class Stuck(Exception):
    """The walk does not understand the graph: the literal way must be taken."""


@dataclass
class Walk:
    """What the rules work with.

    Attributes:
        e: the emitter of the graph.
        units: number of units of the feature map.
        chosen: int64 tensor (B,) of the units to switch off, or None for all of them in order.
    """

    e: Emitter
    units: int
    chosen: gs.Tensor | None

    @property
    def count(self) -> gs.Tensor | list[int]:
        """How many units are switched off: an int64 tensor of one element."""
        return [self.units] if self.chosen is None else self.e.Shape(self.chosen)

    def batch_axis(self, t: gs.Tensor) -> int | None:
        """The axis of `t` that holds the batch, or None if it holds none."""
        if isinstance(t, gs.Constant):
            return None
        if t.shape is None:
            raise Stuck(f"the shape of {t.name!r} is not known")
        marks = [i for i, n in enumerate(t.shape) if not isinstance(n, int)]
        if len(marks) > 1:
            raise Stuck(f"more than the batch is free in the shape of {t.name!r}")
        return marks[0] if marks else None

    def dims(self, t: gs.Tensor) -> list[int]:
        """The shape of `t` with the batch as −1: the target of a Reshape, for any stack of it."""
        self.batch_axis(t)
        return [n if isinstance(n, int) else -1 for n in t.shape]

    def merge(self, t: gs.Tensor, like: gs.Tensor) -> gs.Tensor:
        """(B, shape of `like`) → the stacked form: units and batch on the batch axis."""
        axis = self.batch_axis(like)
        if axis is None:
            raise Stuck(f"{like.name!r} holds no batch")
        if axis:
            perm = [*range(1, axis + 1), 0, *range(axis + 1, len(like.shape) + 1)]
            t = self.e.Transpose(t, perm=perm)
        return self.e.Reshape(t, self.dims(like))

    def unmerge(self, t: gs.Tensor, like: gs.Tensor) -> gs.Tensor:
        """The stacked form → (B, shape of `like`); the batch must be on axis 0."""
        if self.batch_axis(like) != 0:
            raise Stuck(f"the batch of {like.name!r} is not its first axis")
        target = self.e.Concat(self.e.tensor(self.count), [-1, *self.dims(like)[1:]], axis=0)
        return self.e.Reshape(t, target)

    def stack(self, t: gs.Tensor) -> gs.Tensor:
        """An untouched tensor, once for every unit, in the stacked form."""
        axis = self.batch_axis(t)
        if axis is None:
            return t
        ones = [1] * len(t.shape)
        target = self.e.Concat(
            *([ones[:axis]] if axis else []), self.e.tensor(self.count), ones[axis:], axis=0
        )
        tall = self.e.Expand(self.e.axes("Unsqueeze", t, [axis]), target)
        return self.e.Reshape(tall, self.dims(t))

    def full(self, t: gs.Tensor, state: State) -> gs.Tensor:
        """`t` in the stacked form, whatever its state."""
        if state is None:
            return self.stack(t)
        if isinstance(state, Batch):
            return state.full
        if isinstance(state, Outer):
            difference = self.e.Sub(t, self.e.Mul(state.left.t, state.right.t))
            return self.merge(difference, t)
        if isinstance(state, Delta):
            if self.batch_axis(t) == 0:
                return self.e.Reshape(self.e.Sub(t, self.unmerge(state.part, t)), self.dims(t))
            return self.e.Sub(self.stack(t), state.part)
        off = self.e.tensor(0.0, t.dtype) if state.off is None else state.off
        return self.merge(self.e.Where(self.mask(t, state), off, t), t)

    def mask(self, t: gs.Tensor, lane: Lane) -> gs.Tensor:
        """Which elements belong to unit k: bool (B, 1, …, elements of the unit axis, …, 1)."""
        owner = np.tile(np.repeat(np.arange(self.units, dtype=np.int64), lane.inner), lane.outer)
        shape = [1] * (len(t.shape) + 1)
        shape[lane.axis + 1] = owner.size
        chosen = self.chosen
        if chosen is None:
            chosen = self.e.tensor(np.arange(self.units, dtype=np.int64))
        column = self.e.Reshape(chosen, [-1] + [1] * len(t.shape))
        return self.e.Equal(column, owner.reshape(shape))

    def zeros(self, t: gs.Tensor, lane: Lane) -> gs.Tensor:
        """What the elements become, as a tensor of the shape of `t`."""
        return self.e.Sub(t, t) if lane.off is None else lane.off

    def difference(self, t: gs.Tensor, lane: Lane) -> gs.Tensor:
        """What switching the own unit off takes away from every element."""
        if lane.off is None:
            return t
        rest = self.e.Sub(t, lane.off)
        rest.shape = list(t.shape)
        return rest

    def by_unit(self, t: gs.Tensor, axis: int, lane: Lane) -> gs.Tensor:
        """Splits `axis` of `t`: (…, outer · units · inner, …) → (B, …, outer · inner, …)."""
        rank = len(t.shape)
        after = [n if isinstance(n, int) else -1 for n in t.shape[axis + 1 :]]
        e, o, k, i = self.e, lane.outer, self.units, lane.inner
        t = e.Reshape(t, [0] * axis + [o, k, i] + after)
        perm = [axis + 1, *range(axis + 1), *range(axis + 2, rank + 2)]
        t = e.Transpose(t, perm=perm)
        # Now (units, …, outer, inner, …): a 0 in a Reshape copies the axis of the same position.
        t = e.Reshape(t, [0] * (axis + 1) + [o * i] + after)
        return t if self.chosen is None else e.Gather(t, self.chosen, axis=0)
