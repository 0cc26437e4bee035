"""The compiled explainer: `image, target → scores, chosen classes, and each recipe's results`.

One graph does everything in one run. What runs over many items (masks, noisy copies, steps, or
switched-off units that would pass the memory budget) is a stack: the graph is then cut into stages
(trunk, one body for each stack, finish), and a body is run block by block.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import onnx_graphsurgeon as gs

from onnxcam.ablate.state import Stuck
from onnxcam.errors import OpError
from onnxcam.explainer.bench import TARGET, Bench, Stack, bench, score_name
from onnxcam.explainer.needs import provide
from onnxcam.explainer.plan import Plan, Stage
from onnxcam.explainer.recipe import Recipe
from onnxcam.explainer.ways import other_methods
from onnxcam.graph.cost import peak_bytes
from onnxcam.graph.early import pick_early
from onnxcam.graph.emit import Emitter
from onnxcam.graph.load import Classifier
from onnxcam.graph.model import Model
from onnxcam.graph.paths import every_input, reached
from onnxcam.graph.shapes import Shape, bound
from onnxcam.graph.split import extract
from onnxcam.methods import Result

Find: TypeAlias = "Callable[[Program, bool], Plan]"
"""Gives the plan of a program, as `Program.plan` does."""

SCORES, CHOSEN = "onnxcam/scores", "onnxcam/chosen"
RESULTS = ("raw", "map", "weights", "gap")

_BUILDING = threading.RLock()  # one for all: Python builds graphs one at a time anyway
T = TypeVar("T")


class once(cached_property[T]):
    """A cached property that is computed once, however many threads ask."""

    if not TYPE_CHECKING:  # for type checkers it is what it is made of

        def __get__(self, instance: object, owner: type[Any] | None = None) -> Any:
            with _BUILDING:
                return super().__get__(instance, owner)


class Form:
    """One way to compute a program: the composed graph, and its stages.

    Attributes:
        outputs: names of what the whole gives, "onnxcam/scores", "onnxcam/0/map", …
        targets: how many classes are asked about.
        fine: for each recipe whether its map is of pixels, with a value for each channel behind it.
        stacks: what is run block by block; none: the whole is one run.
        notes: what the user should know.
        views: by name, how weights were made that are others in another order.
    """

    def __init__(
        self,
        classifier: Classifier,
        recipes: Sequence[Recipe],
        blocks: bool,
        own: Sequence[str] = (),
    ) -> None:
        """Composes the graph; with `blocks`, units are switched off block by block.

        `own` names tensors of the classifier that are outputs, too.
        """
        self.classifier, self.targets = classifier, recipes[0].targets
        b, found, self.fine = _compose(classifier, recipes, blocks)
        self.outputs = [*own, *found]
        self._graph = b.e.graph.toposort()
        self.stacks, self.notes, self.views = b.stacks, b.notes, b.e.views

    @once
    def whole(self) -> Model:
        """One model: image, target → outputs."""
        return extract(
            self._graph, [*self._inputs, *self._items], self.outputs, self.classifier.model
        )

    @once
    def bytes(self) -> int:
        """Memory that one image takes in the whole, stacks left out, about."""
        inside = set().union(*map(self._behind, self._items)) if self.stacks else set()
        return peak_bytes(self.whole, _made(self.whole) - inside, self._shapes)

    @once
    def trunk(self) -> Stage:
        """What comes before the stacks: image, target → what they need, and outputs."""
        late = self._late
        wanted = [n for n in self.outputs if n not in late]
        for stack in self.stacks:
            wanted += [n for n in self._into(stack) if n not in wanted]
        wanted += [n for n in self._into_finish if n not in wanted]
        wanted = [n for n in wanted if n not in self._inputs]
        return Stage(extract(self._graph, self._inputs, wanted, self.classifier.model))

    @once
    def bodies(self) -> list[Stage]:
        """The stacks: what a body needs, items → result."""
        found = []
        for stack in self.stacks:
            given = [*self._into(stack), stack.name]
            model = extract(self._graph, given, [stack.result], self.classifier.model)
            inside = self._inside(stack)
            found.append(Stage(model, stack, peak_bytes(self.whole, inside, self._shapes)))
        return found

    @once
    def finish(self) -> Stage | None:
        """What comes behind the stacks: results … → outputs."""
        late = [n for n in self.outputs if n in self._late]
        if not late:
            return None
        given = [*self._into_finish, *(s.result for s in self.stacks)]
        return Stage(extract(self._graph, given, late, self.classifier.model))

    @once
    def plan(self) -> Plan:
        """What is run: the whole, or the stages where there are stacks."""
        return Plan(
            image=self.classifier.image.name,
            batch=self.classifier.batch,
            outputs=tuple(self.outputs),
            bytes=self.bytes,
            first=self.trunk if self.stacks else Stage(self.whole),
            bodies=tuple(self.bodies),
            finish=self.finish if self.stacks else None,
            notes=tuple(self.notes),
        )

    @once
    def _shapes(self) -> dict[str, Shape]:
        """What the loader found out about the model's own tensors, for one image."""
        every = self._graph.tensors().items()
        return {n: shape for n, t in every if (shape := bound(t.shape, 1)) is not None}

    @property
    def _inputs(self) -> list[str]:
        return [self.classifier.image.name, TARGET]

    @property
    def _items(self) -> list[str]:
        return [s.name for s in self.stacks]

    def _behind(self, name: str) -> set[str]:
        return reached(self._graph, name, through=every_input)

    def _inside(self, stack: Stack) -> set[str]:
        return (self._behind(stack.name) - self._behind(stack.result)) | {stack.result}

    @once
    def _late(self) -> set[str]:
        return set().union(*(self._behind(s.result) for s in self.stacks))

    def _into(self, stack: Stack) -> list[str]:
        return _borders(self._graph, self._inside(stack), {stack.name}, stack.result)

    @once
    def _into_finish(self) -> list[str]:
        results = {s.result for s in self.stacks}
        made = [n for n in self.outputs if n in self._late]
        found: list[str] = []
        for name in made:
            found += [
                n for n in _borders(self._graph, self._late - results, results, name)
                if n not in found
            ]  # fmt: skip
        return found


class Program:
    """What was compiled; its forms are built when they are first asked for.

    Attributes:
        classifier: what is explained.
        recipes: how: one result for each.
        way: "exact" or "literal", where units are switched off.
        said: what the user should know about the way, in sentences.
        find: gives its plans where they are kept (`onnxcam.cache`); else they are made.
    """

    def __init__(
        self,
        classifier: Classifier,
        recipes: Sequence[Recipe],
        way: str,
        said: tuple[str, ...] = (),
        find: Find | None = None,
        plans: Mapping[bool, Plan] | None = None,
    ) -> None:
        """What is given; `plans` are those that are there already, as `plan` gives them."""
        self.classifier, self.recipes, self.way = classifier, tuple(recipes), way
        self.said, self.find = said, find
        self._plans = dict(plans or {})

    def form(self, blocks: bool = False) -> Form:
        """`inline`, or with `blocks` `blocked`."""
        return self.blocked if blocks else self.inline

    def plan(self, blocks: bool = False) -> Plan:
        """What is run of a form."""
        with _BUILDING:
            if blocks not in self._plans:
                made = self.find(self, blocks) if self.find else self.form(blocks).plan
                self._plans[blocks] = made
            return self._plans[blocks]

    @once
    def inline(self) -> Form:
        """Switched-off units all in one run."""
        return Form(self.classifier, self.recipes, blocks=False)

    @once
    def blocked(self) -> Form:
        """Switched-off units block by block."""
        return Form(self.classifier, self.recipes, blocks=True)

    @property
    def drops(self) -> bool:
        """Whether units are switched off by the exact engine: only then the forms differ."""
        return self.way == "exact" and any("drop" in r.needed for r in self.recipes)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know, in sentences."""
        return (*self.said, *(self._plans[False].notes if False in self._plans else ()))


def compile_program(classifier: Classifier, recipes: Sequence[Recipe]) -> Program:
    """Builds the explainer of `recipes`, which ask about the same score and as many classes.

    Where the exact engine does not understand the head, the literal way is taken and noted.

    Raises:
        OpError: an operator has no gradient rule, and a method needs its gradient.
    """
    literal = partial(_literal, classifier, recipes)
    drops = any("drop" in r.needed for r in recipes)
    if drops and all(r.ablation == "literal" for r in recipes):
        return literal(())
    if drops and classifier.batch is not None:
        note = "the model's batch is fixed, so units are switched off one by one: this takes long"
        return literal((note,))
    program = Program(classifier, recipes, "exact")
    try:
        program.inline  # noqa: B018  builds it
    except Stuck as stuck:
        note = (
            f"the exact engine does not understand the head ({stuck}); units are switched off in "
            "copies of the whole head instead, which takes long"
        )
        return literal((note,))
    return program


def _literal(classifier: Classifier, recipes: Sequence[Recipe], notes: tuple[str, ...]) -> Program:
    from dataclasses import replace

    recipes = [replace(r, ablation="literal") for r in recipes]
    program = Program(classifier, recipes, "literal", notes)
    program.inline  # noqa: B018  builds it
    return program


def _compose(
    classifier: Classifier, recipes: Sequence[Recipe], blocks: bool
) -> tuple[Bench, list[str], list[bool]]:
    graph = classifier.graph()
    graph.outputs = []
    e, first = Emitter(graph), recipes[0]
    name = score_name(classifier, first.score)
    layers = {r.layer.tensor for r in recipes if r.layer is not None}
    exact = any("drop" in r.needed and r.ablation == "exact" for r in recipes)
    if exact and len(layers) == 1:
        pick_early(e, next(iter(layers)), name)
    # The biases of a last convolution that gives the classes are terms of the full gradient.
    stop = {*layers, *([name] if any("terms" in r.needed for r in recipes) else [])}
    b = bench(classifier, e, first.score, first.targets, stop, blocks)
    results, fine = {SCORES: e.cast(b.flat, np.float32), CHOSEN: b.chosen}, []
    for number, what in enumerate(recipes):
        made = _emitted(b, what)
        shown = e.Relu(made.raw) if made.map is None else made.map
        kinds = {"raw": made.raw, "map": shown, "weights": made.weights, "gap": made.gap}
        results |= {f"onnxcam/{number}/{k}": t for k, t in kinds.items() if t is not None}
        fine.append(made.by_channel)
    for name, t in results.items():
        graph.outputs.append(b.named(t, name))
    return b, list(results), fine


def _emitted(b: Bench, what: Recipe) -> Result:
    try:
        return what.method.emit(b.e, provide(b, what), **dict(what.settings))
    except OpError as error:
        others = ", ".join(other_methods(what, b.classifier)) or "none"
        name = what.method.name
        raise OpError(f"{error}, and {name} needs it; methods that do not: {others}") from error


def _made(model: Model) -> set[str]:
    return {t for n in model.proto.graph.node for t in n.output}


def _borders(graph: gs.Graph, inside: set[str], given: set[str], sink: str) -> list[str]:
    """Tensors from outside that the nodes of `inside` on which `sink` depends use."""
    found: list[str] = []
    wanted = {sink}
    for node in reversed(graph.nodes):
        if not any(t.name in wanted and t.name in inside for t in node.outputs):
            continue
        for t in node.inputs:
            if t.name in inside:
                wanted.add(t.name)
            outside = t.name and t.name not in inside | given and not isinstance(t, gs.Constant)
            if outside and t.name not in found:
                found.append(t.name)
    return found
