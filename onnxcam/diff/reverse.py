"""The walk: from a score back to what it depends on, one rule for each operator on the way."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import onnx_graphsurgeon as gs

from onnxcam.diff.bodies import written_out
from onnxcam.diff.scan import scan_gradients
from onnxcam.diff.vjp import CONSTANT, STEPS, VARIANTS, VJP, Rule
from onnxcam.diff.vjp.table import float_type, known, unbroadcast
from onnxcam.errors import OpError, OptionError, close_matches
from onnxcam.graph.emit import Emitter
from onnxcam.graph.paths import path_nodes

OPSET = 16
"""The operator set that emitted gradients need (sums in ScatterElements)."""


def gradients(
    e: Emitter,
    of: gs.Tensor,
    cotangent: gs.Tensor,
    wrt: Sequence[gs.Tensor],
    variant: str = "standard",
    notes: list[str] | None = None,
    but: str | None = None,
) -> list[gs.Tensor | None]:
    """Emits the gradients Σ cotangent · ∂of/∂wrt, by reverse mode.

    Args:
        e: emitter of a graph in topological order, its shapes annotated.
        of: the tensor differentiated.
        cotangent: in the shape of `of`.
        wrt: the tensors differentiated for; they may depend on each other.
        variant: "standard", or a name of `VARIANTS`: rows that stand in for the table's.
        notes: what got lost on the way is added here, in sentences.
        but: name of a tensor that counts as constant, although it depends on `wrt`.

    Returns:
        For each of `wrt` a tensor of its shape and type (float32 for integers), or None where
        `of` does not depend on it.

    Raises:
        OpError: an operator on the way has no rule; the message names operator and node.
        OptionError: there is no such variant.
    """
    if variant not in VARIANTS:
        raise OptionError(
            f"there is no variant {variant!r} of the gradient{close_matches(variant, VARIANTS)}; "
            f"choose {', '.join(VARIANTS)}"
        )
    if e.graph.opset < OPSET:
        raise OpError(
            f"the model stays in opset {e.graph.opset}, and gradients need {OPSET} or later; "
            "export it anew with a later opset"
        )
    walk = _Walk(e, VARIANTS[variant], notes if notes is not None else [])
    return walk.through([(of, cotangent)], wrt, but)


class _Walk:
    """The cotangents met so far, by tensor name, and how one more node is passed."""

    def __init__(self, e: Emitter, rows: dict[str, Rule], notes: list[str]) -> None:
        self.e, self.rows, self.notes = e, rows, notes
        self.needed: set[str] = set()
        self._given: dict[str, list[gs.Tensor]] = {}

    def through(
        self,
        given: Sequence[tuple[gs.Tensor, gs.Tensor]],
        wrt: Sequence[gs.Tensor],
        but: str | None = None,
    ) -> list[gs.Tensor | None]:
        """From tensors with their cotangents to the cotangents of `wrt`."""
        inside: set[int] = set()
        for t in wrt:
            self.needed.add(t.name)
            for of, _ in given:
                inside.update(id(n) for n in path_nodes(self.e.graph, t.name, of.name, but))
        nodes = [n for n in self.e.graph.nodes if id(n) in inside]
        self.needed.update(t.name for n in nodes for t in n.outputs)
        for of, g in given:
            self.give(of, g)
        self.back(nodes)
        return [self.cotangent(t) for t in wrt]

    def give(self, t: gs.Tensor, g: gs.Tensor) -> None:
        """Adds to the cotangent of `t`."""
        self._given.setdefault(t.name, []).append(self.e.cast(g, float_type(t)))

    def cotangent(self, t: gs.Tensor) -> gs.Tensor | None:
        """All that `t` was given, summed; it is kept."""
        given = self._given.get(t.name)
        if given is None:
            return None
        if len(given) > 1:
            total = self.e.Add(*given) if len(given) == 2 else self.e.Sum(*given)
            given[:] = [total]
        given[0].shape = t.shape
        return given[0]

    def back(self, nodes: Sequence[gs.Node]) -> None:
        """Passes `nodes`, the last first."""
        for node in reversed(nodes):
            if any(t.name in self._given for t in node.outputs):
                self._pass(node)

    def _pass(self, node: gs.Node) -> None:
        if node.op in CONSTANT and not node.domain:
            return
        if node.op in STEPS and not node.domain:
            note = (
                f"node {node.name!r} ({node.op}) passes no gradient: its derivative is 0 everywhere"
            )
            self.notes += [note] if note not in self.notes else []
            return
        rule = (self.rows.get(node.op) or VJP.get(node.op)) if not node.domain else None
        try:
            if node.op == "Scan" and not node.domain:
                self._go_through_steps(node)
            elif rule is None:
                self._write_out(node)
            else:
                self._ask(rule, node)
        except OpError as error:
            at = f"node {node.name!r} ({node.op}): "
            raise OpError(f"{'' if at in str(error) else at}{error}") from error

    def _ask(self, rule: Rule, node: gs.Node) -> None:
        inputs = [t if t.name else None for t in node.inputs]
        attributes = _attributes(rule, node)
        cotangents = [self.cotangent(t) for t in node.outputs]
        if rule.many:
            answers = rule.function(self.e, cotangents, node.outputs, *inputs, **attributes)
        elif cotangents[0] is None:
            return
        else:
            answers = rule.function(self.e, cotangents[0], node.outputs[0], *inputs, **attributes)
        for t, answer in zip(inputs, answers, strict=False):
            if t is None or answer is None or t.name not in self.needed:
                continue
            g = answer if isinstance(answer, gs.Tensor) else answer()
            if g is None:
                continue
            if rule.broadcasts:
                g = unbroadcast(self.e, g, known(node.outputs[0]), t)
            self.give(t, g)

    def _go_through_steps(self, node: gs.Node) -> None:
        """A rule that needs the walk itself, for the subgraph."""

        def inside(
            e: Emitter, given: list[tuple[gs.Tensor, gs.Tensor]], wrt: list[gs.Tensor]
        ) -> list[gs.Tensor | None]:
            return _Walk(e, self.rows, self.notes).through(given, wrt)

        cotangents = [self.cotangent(t) for t in node.outputs]
        answers = scan_gradients(self.e, node, cotangents, self.needed, inside)
        for t, g in zip(node.inputs, answers, strict=True):
            if g is not None:
                self.give(t, g)

    def _write_out(self, node: gs.Node) -> None:
        """Goes through the body of an operator without a rule, written beside it."""
        start = len(self.e.graph.nodes)
        outputs = written_out(self.e, node)
        if outputs is None:
            raise OpError("there is no gradient rule for this operator")
        body = self.e.graph.nodes[start:]
        for inner in body:
            if any(t.name in self.needed for t in inner.inputs):
                self.needed.update(t.name for t in inner.outputs)
        for outer, inner in zip(node.outputs, outputs, strict=False):
            g = self.cotangent(outer)
            if g is not None:
                self.give(inner, g)
        self.back(body)


def _attributes(rule: Rule, node: gs.Node) -> dict[str, Any]:
    known_ones = inspect.signature(rule.function).parameters
    free = any(p.kind is p.VAR_KEYWORD for p in known_ones.values())
    strange = [] if free else [a for a in node.attrs if a not in known_ones]
    if strange:
        raise OpError(f"the gradient rule does not know its attribute {strange[0]!r}")
    return dict(node.attrs)
