"""Classifiers and plans as bytes, without the weights of the model, and back.

A packed graph names its weights, and says of each where it comes from: a weight of the model that
the user holds, a view of such weights in another order, made again in a moment, or, for the few
that loading or compiling computed, an array packed with it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import onnx

from onnxcam.explainer import Plan, Stage
from onnxcam.explainer.bench import Stack
from onnxcam.graph import Classifier, FeatureMap, Image, Model, Score
from onnxcam.graph.emit import View
from onnxcam.graph.fold import fold
from onnxcam.graph.model import array_of
from onnxcam.graph.prepared import Prepared
from onnxcam.perturb.items import MAKERS

Arrays = dict[str, np.ndarray]
_FACTS = "facts"


class Packer:
    """Gathers arrays while facts are written down that refer to them."""

    def __init__(self, weights: Mapping[str, np.ndarray], views: Mapping[str, View]) -> None:
        """Weights that are there when it is unpacked, and how others are made of them."""
        self.arrays: Arrays = {}
        self._views = views
        self._given = {id(array): name for name, array in weights.items()}
        self._held: dict[int, str] = {}

    def packed(self, facts: Mapping[str, Any]) -> bytes:
        """Facts and the arrays that they refer to."""
        text = np.frombuffer(json.dumps(facts, ensure_ascii=False).encode(), np.uint8)
        stream = io.BytesIO()
        parts: dict[str, Any] = {_FACTS: text, **self.arrays}
        np.savez(stream, **parts)
        return stream.getvalue()

    def model(self, model: Model, noted: bool = False) -> dict[str, Any]:
        """A model; with `noted` the shapes noted in it, too."""
        graph = model.proto.SerializeToString() if noted else model.unnoted()
        weights = {name: self._source(name, w) for name, w in model.weights.items()}
        return {"graph": self.array(np.frombuffer(graph, np.uint8)), "weights": weights}

    def array(self, array: np.ndarray) -> str:
        """The name under which an array is packed."""
        name = self._held.setdefault(id(array), f"array{len(self._held)}")
        self.arrays.setdefault(name, array)
        return name

    def _source(self, name: str, array: np.ndarray) -> list[Any]:
        if id(array) in self._given:
            return ["given", self._given[id(array)]]
        if name not in self._views:
            return ["packed", self.array(array)]
        op, inputs, attributes = self._views[name]
        sources = []
        for t in inputs:
            held = array_of(t)
            sources.append(None if held is None else self._source(t.name, held))
        return ["view", op, sources, attributes]


class Unpacker:
    """Reads facts, and finds the arrays that they refer to.

    Raises, here and in all its methods, whatever a damaged or foreign entry provokes.
    """

    def __init__(self, data: bytes, weights: Mapping[str, np.ndarray]) -> None:
        """What was packed, and the weights that were there then."""
        with np.load(io.BytesIO(data), allow_pickle=False) as held:
            self.arrays: Arrays = {name: held[name] for name in held.files}
        self.facts: dict[str, Any] = json.loads(self.arrays.pop(_FACTS).tobytes())
        self._weights = weights
        self._viewed: dict[str, np.ndarray] = {}

    def model(self, facts: Mapping[str, Any]) -> Model:
        """A model."""
        proto = onnx.ModelProto.FromString(self.arrays[facts["graph"]].tobytes())
        return Model(proto, {name: self._from(source) for name, source in facts["weights"].items()})

    def _from(self, source: list[Any]) -> np.ndarray:
        kind, what, *more = source
        if kind == "given":
            return self._weights[what]
        if kind == "packed":
            return self.arrays[what]
        key = json.dumps(source)
        if key not in self._viewed:  # several stages may have the same
            inputs = [None if one is None else self._from(one) for one in more[0]]
            made = fold(what, inputs, more[1])
            if made is None:
                raise ValueError(f"no view {what}")
            self._viewed[key] = made
        return self._viewed[key]


def pack_classifier(classifier: Classifier) -> bytes:
    """All of it but its source, its name and its options."""
    packer = Packer(classifier.source.weights, {})
    image, default = asdict(classifier.image), classifier.default
    return packer.packed(
        {
            "model": packer.model(classifier.model, noted=True),
            "image": {**image, "dtype": str(classifier.image.dtype)},
            "score": asdict(classifier.score),
            "classes": classifier.classes,
            "batch": classifier.batch,
            "maps": [asdict(one) for one in classifier.maps],
            "default": None if default is None else asdict(default),
            "notes": classifier.notes,
        }
    )


def unpack_classifier(data: bytes, source: Model, **own: Any) -> Classifier:
    """The classifier of `source`; `own` is what is not packed."""
    unpacker = Unpacker(data, source.weights)
    facts, image = unpacker.facts, unpacker.facts["image"]
    default = facts["default"]
    about = {
        "size": tuple(image["size"]),
        "dtype": np.dtype(image["dtype"]),
        "prepared": Prepared(**image["prepared"]),
    }
    return Classifier(
        model=unpacker.model(facts["model"]),
        image=Image(**{**image, **about}),
        score=Score(**{**facts["score"], "stripped": tuple(facts["score"]["stripped"])}),
        classes=facts["classes"],
        batch=facts["batch"],
        maps=[_feature_map(one) for one in facts["maps"]],
        default=None if default is None else _feature_map(default),
        notes=facts["notes"],
        source=source,
        **own,
    )


def _feature_map(facts: Mapping[str, Any]) -> FeatureMap:
    return FeatureMap(**{**facts, "grid": tuple(facts["grid"])})


def pack_plan(
    plan: Plan, classifier: Classifier, views: Mapping[str, View], about: Mapping[str, Any]
) -> bytes:
    """A plan, and facts about its program."""
    packer = Packer(classifier.model.weights, views)
    return packer.packed(
        {
            "about": dict(about),
            "image": plan.image,
            "batch": plan.batch,
            "outputs": plan.outputs,
            "bytes": plan.bytes,
            "first": _packed_stage(packer, plan.first),
            "bodies": [_packed_stage(packer, stage) for stage in plan.bodies],
            "finish": None if plan.finish is None else _packed_stage(packer, plan.finish),
            "notes": plan.notes,
        }
    )


def unpack_plan(data: bytes, classifier: Classifier) -> tuple[Plan, dict[str, Any]]:
    """A plan for `classifier`, and the facts about its program."""
    unpacker = Unpacker(data, classifier.model.weights)
    facts = unpacker.facts
    finish = facts["finish"]
    plan = Plan(
        image=facts["image"],
        batch=facts["batch"],
        outputs=tuple(facts["outputs"]),
        bytes=facts["bytes"],
        first=_stage(unpacker, facts["first"]),
        bodies=tuple(_stage(unpacker, one) for one in facts["bodies"]),
        finish=None if finish is None else _stage(unpacker, finish),
        notes=tuple(facts["notes"]),
    )
    return plan, facts["about"]


def _packed_stage(packer: Packer, stage: Stage) -> dict[str, Any]:
    stack = stage.stack
    facts = {"model": packer.model(stage.model), "item_bytes": stage.item_bytes, "stack": None}
    if stack is not None:
        maker, given = stack.items.origin
        told = [{"array": packer.array(g)} if isinstance(g, np.ndarray) else g for g in given]
        plain = {n: getattr(stack, n) for n in ("name", "result", "shape", "summed")}
        facts["stack"] = {**plain, "items": [maker, told]}
    return facts


def _stage(unpacker: Unpacker, facts: Mapping[str, Any]) -> Stage:
    stack = facts["stack"]
    if stack is not None:
        maker, told = stack["items"]
        given = [unpacker.arrays[g["array"]] if isinstance(g, dict) else _tuples(g) for g in told]
        parts = {"items": MAKERS[maker](*given), "shape": tuple(stack["shape"])}
        stack = Stack(**{**stack, **parts})
    return Stage(unpacker.model(facts["model"]), stack, facts["item_bytes"])


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
