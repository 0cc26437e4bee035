"""Runs compiled explainers: sessions on a device, in one run or block by block within a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from onnxcam.errors import OptionError, RuntimeFailure
from onnxcam.explainer import DROP, OUTPUTS, TARGET, UNITS, Program
from onnxcam.graph import Model
from onnxcam.runtime import Device, Pool, Session, free_memory

MEMORY = 1 << 30
"""Default budget, in bytes, for the switched-off copies that are in memory at once."""

Progress = Callable[[int, int], None]
"""Called with (units done, units in all) while blocks of units run."""

Results = tuple[np.ndarray, ...]


class Engine:
    """Sessions for the programs of one explainer. Safe to call from several threads."""

    def __init__(self, device: Device, memory: int | None = None) -> None:
        """Takes `memory` bytes as the budget for copies (GPU: half of the free memory)."""
        if memory is not None and memory < 0:
            raise OptionError(f"memory is a number of bytes, not {memory}")
        self.device = device
        self.memory = memory if memory is not None else (free_memory(device) or 2 * MEMORY) // 2
        self._pool = Pool()

    def session(self, key: Any, model: Model) -> Session:
        """The session of `model`, made once and kept under `key`."""
        return self._pool.get(
            key, lambda: Session(model.proto.SerializeToString(), model.weights, self.device)
        )

    def run(
        self, program: Program, images: np.ndarray, target: np.ndarray, progress: Progress | None
    ) -> Results:
        """Explains a batch: scores, chosen classes, weights, raw map, map (see explainer.OUTPUTS).

        Images go through together where the budget allows, else in smaller batches; if one image
        passes it alone, its units go through in blocks.
        """
        count, fixed = len(images), program.classifier.batch
        if program.way == "literal":
            together = fixed or 1
        else:
            together = self.memory // max(1, program.whole_bytes)
        if program.way == "literal" or together < 1:
            return self._each(program, images, target, max(1, together), progress)
        batches = [
            self._whole(program, images[i : i + together], target[i : i + together])
            for i in range(0, count, together)
        ]
        return _joined(batches)

    def _whole(self, program: Program, images: np.ndarray, target: np.ndarray) -> Results:
        session = self.session((id(program), "whole"), program.whole)
        feeds = {program.classifier.image.name: images, TARGET: target}
        return tuple(session.run(feeds, OUTPUTS))

    def _each(
        self,
        program: Program,
        images: np.ndarray,
        target: np.ndarray,
        together: int,
        progress: Progress | None,
    ) -> Results:
        if len(images) % together:
            raise RuntimeFailure(
                f"the model insists on batches of {together} images, and {len(images)} were given; "
                "give a multiple, or export it with a free batch dimension"
            )
        steps, done = len(images) // together * len(_units(program)), 0

        def step(n: int) -> None:
            nonlocal done
            done += n
            if progress is not None:
                progress(done, steps)

        return _joined(
            [
                self._blocks(program, images[i : i + together], target[i : i + together], step)
                for i in range(0, len(images), together)
            ]
        )

    def _blocks(
        self,
        program: Program,
        images: np.ndarray,
        target: np.ndarray,
        step: Callable[[int], None],
    ) -> Results:
        trunk, body, finish = (
            self.session((id(program), name), model)
            for name, model in zip(("trunk", "body", "finish"), program.parts, strict=True)
        )
        feeds = {program.classifier.image.name: images, TARGET: target}
        # Features and whatever else crosses stay on the device, in the form they came out in.
        kept: dict[str, Any] = dict(zip(trunk.outputs, trunk.keep(feeds), strict=True))
        crossing = {name: kept[name] for name in body.inputs if name != UNITS}
        units, drops = _units(program), []
        size = self.memory // max(1, program.unit_bytes * len(images))
        size = 1 if program.classifier.batch is not None else max(1, min(size, len(units)))
        for start in range(0, len(units), size):
            block = units[start : start + size]
            drops.append(body.run({**crossing, UNITS: block})[0])
            step(len(block))
        ending = {name: kept[name] for name in finish.inputs if name != DROP}
        drop = np.concatenate(drops, axis=2)
        results = dict(zip(finish.outputs, finish.run({**ending, DROP: drop}), strict=True))
        return tuple(results[n] if n in results else kept[n].numpy() for n in OUTPUTS)


def _units(program: Program) -> np.ndarray:
    asked = program.recipe.units
    return np.arange(program.recipe.layer.units) if asked is None else np.array(asked, np.int64)


def _joined(batches: Sequence[Results]) -> Results:
    if len(batches) == 1:
        return batches[0]
    return tuple(np.concatenate(parts) for parts in zip(*batches, strict=True))
