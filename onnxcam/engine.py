"""Runs compiled explainers: sessions on a device, in one run or block by block within a budget."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from time import perf_counter
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from onnxcam.calls import Call
from onnxcam.errors import OptionError
from onnxcam.events import event
from onnxcam.explainer import TARGET, Plan, Program, Stage
from onnxcam.graph import Model
from onnxcam.pool import Pool
from onnxcam.runtime import Device, Session, free_memory

MEMORY = 1 << 30
"""Default budget, in bytes, for the switched-off copies that are in memory at once."""

MOST_ROWS = 1024
"""Items run at once at most: beyond it nothing is gained, and progress would not be seen."""

Results = dict[str, np.ndarray]
"""Arrays by the names of `Plan.outputs`."""


class Engine:
    """Sessions for the programs of one explainer. Safe to call from several threads."""

    def __init__(self, device: Device, memory: int | None = None) -> None:
        """Takes `memory` bytes as the budget for copies (GPU: half of the free memory)."""
        if memory is not None and memory < 0:
            raise OptionError(f"memory is a number of bytes, not {memory}")
        self.device = device
        self.memory = memory if memory is not None else (free_memory(device) or 2 * MEMORY) // 2
        self.provider = device.provider  # the one that really runs, once there is a session
        self._lock = threading.Lock()
        # The sessions of a plan go with it.
        self._pools: WeakKeyDictionary[Plan, Pool[Session]] = WeakKeyDictionary()

    def session(self, model: Model, part: str) -> Session:
        """A new session of `model`, which is that part of something."""
        start = perf_counter()
        session = Session(model.unnoted(), model.weights, self.device)
        self.provider = session.provider
        event(
            logging.INFO, "session", part=part, provider=session.provider,
            nodes=len(model.proto.graph.node), seconds=perf_counter() - start,
        )  # fmt: skip
        return session

    def _kept(self, plan: Plan, part: str, stage: Stage) -> Session:
        """The session of a part of `plan`, made once."""
        with self._lock:
            pool = self._pools.setdefault(plan, Pool())
        return pool.get(part, lambda: self.session(stage.model, part))

    def run(self, program: Program, images: np.ndarray, target: np.ndarray, call: Call) -> Results:
        """Explains a batch: scores, chosen classes, and what each recipe gives, by output name.

        Images go through together where the budget allows, else in smaller batches; if one image
        passes it alone, its units go through in blocks. Where the model insists on a batch, the
        last image fills it up.

        Raises:
            RuntimeFailure: a run failed.
            Cancelled, Timeout: the call is to end.
        """
        fixed = program.classifier.batch
        plan = program.plan()
        together = fixed or self.memory // max(1, plan.bytes)
        if together < 1 and program.drops:
            plan = program.plan(blocks=True)
        if plan.bodies:  # their items make the batch: one image (or fixed batch) after the other
            together = fixed or 1
        together = max(1, together)
        given = len(images)
        images, target = full_batches(images, fixed), full_batches(target, fixed)
        starts = range(0, len(images), together)
        call.check()
        call.begin(len(starts) * plan.items)
        run = self._staged if plan.bodies else self._whole
        found = _joined(
            [run(plan, images[i : i + together], target[i : i + together], call) for i in starts]
        )
        return {n: array[:given] for n, array in found.items()} if len(images) > given else found

    def _whole(self, plan: Plan, images: np.ndarray, target: np.ndarray, call: Call) -> Results:
        session = self._kept(plan, "whole", plan.first)
        feeds = {plan.image: images, TARGET: target}
        return dict(zip(plan.outputs, session.run(feeds, plan.outputs, call), strict=True))

    def _staged(self, plan: Plan, images: np.ndarray, target: np.ndarray, call: Call) -> Results:
        feeds: dict[str, Any] = {plan.image: images, TARGET: target}
        trunk = self._kept(plan, "trunk", plan.first)
        # Features and whatever else crosses stay on the device, in the form they came out in.
        kept = {**feeds, **dict(zip(trunk.outputs, trunk.keep(feeds, call=call), strict=True))}
        for number, stage in enumerate(plan.bodies):
            body = self._kept(plan, f"body {number}", stage)
            result = self._blocks(plan, stage, body, kept, len(images), call)
            assert stage.stack is not None
            kept[stage.stack.result] = result
        results = {n: kept[n] for n in plan.outputs if n in kept}
        if plan.finish is not None:
            finish = self._kept(plan, "finish", plan.finish)
            ending = {name: kept[name] for name in finish.inputs}
            results |= dict(zip(finish.outputs, finish.run(ending, call=call), strict=True))
        return {n: r if isinstance(r, np.ndarray) else r.numpy() for n, r in results.items()}

    def _blocks(
        self, plan: Plan, stage: Stage, body: Session, kept: dict[str, Any], images: int,
        call: Call,
    ) -> np.ndarray:  # fmt: skip
        stack = stage.stack
        assert stack is not None
        crossing = {name: kept[name] for name in body.inputs if name != stack.name}
        every = stack.items.count
        size = self.memory // max(1, stage.item_bytes * images)
        size = 1 if plan.batch is not None else max(1, min(size, every, MOST_ROWS))
        parts: list[np.ndarray] = []
        for start in range(0, every, size):
            block = stack.items.make(start, min(every, start + size))
            part = body.run({**crossing, stack.name: block}, call=call)[0]
            if stack.summed and parts:
                parts[0] = parts[0] + part
            else:
                parts.append(part)
            call.advance(len(block))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)


def full_batches(rows: np.ndarray, size: int | None) -> np.ndarray:
    """`rows` with the last one repeated up to a multiple of `size`; as they are without a size."""
    missing = -len(rows) % size if size else 0
    return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)]) if missing else rows


def _joined(batches: Sequence[Results]) -> Results:
    if len(batches) == 1:
        return batches[0]
    return {n: np.concatenate([b[n] for b in batches]) for n in batches[0]}
