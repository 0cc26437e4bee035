"""What the engine runs of an explainer: plain data, which can be kept and read again."""

from __future__ import annotations

from dataclasses import dataclass

from onnxcam.explainer.bench import Stack
from onnxcam.graph.model import Model


@dataclass(frozen=True, eq=False)
class Stage:
    """A part of an explainer.

    Attributes:
        model: its graph.
        stack: for a body, what it runs over.
        item_bytes: for a body, the memory that one item of one image takes, about.
    """

    model: Model
    stack: Stack | None = None
    item_bytes: int = 0


@dataclass(frozen=True, eq=False)
class Plan:
    """All that is run: one stage, or a trunk, a body for each stack, and a finish.

    Attributes:
        image: name of the image input.
        batch: None if the batch is free, else the size that the model insists on.
        outputs: names of what comes out, "onnxcam/scores", "onnxcam/0/map", …
        bytes: memory that one image takes, stacks left out, about.
        first: image, target → outputs; before stacks also what these need.
        bodies: what a body needs, items → result, block by block.
        finish: results … → outputs; None where nothing is behind the stacks.
        notes: what the user should know, in sentences.
    """

    image: str
    batch: int | None
    outputs: tuple[str, ...]
    bytes: int
    first: Stage
    bodies: tuple[Stage, ...] = ()
    finish: Stage | None = None
    notes: tuple[str, ...] = ()

    @property
    def items(self) -> int:
        """How many items the bodies run over, all together."""
        return sum(stage.stack.items.count for stage in self.bodies if stage.stack is not None)

    @property
    def nodes(self) -> int:
        """How many nodes all stages have together."""
        stages = (self.first, *self.bodies, *([self.finish] if self.finish else []))
        return sum(len(stage.model.proto.graph.node) for stage in stages)
