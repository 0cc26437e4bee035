"""The rows that guided backpropagation and deconvnet put in place of the rectifiers' own.

* "guided" (Springenberg et al., Striving for Simplicity, 2015): the gradient of Relu, of which the
  negative part is cut off. "deconv" (Zeiler & Fergus, 2014): the cotangent without its negative
  part, whatever the input was.
* "guided-all" and "deconv-all" extend this to every rectifier-like activation f, an extension of
  ours: f′(z) · max(g, 0), and max(g, 0). Gates (x · Sigmoid(x) in parts) count as one activation;
  the gates of squeeze-and-excitation keep their gradient, and so does what is in a gate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeAlias

import onnx_graphsurgeon as gs

from onnxcam.diff.vjp.table import VARIANTS, VJP, Answer, Rule, known, vjp
from onnxcam.graph.emit import Emitter

T: TypeAlias = gs.Tensor
Answers: TypeAlias = Sequence[Answer]

_LIKE_RELU = (
    *("LeakyRelu", "PRelu", "ThresholdedRelu", "Elu", "Selu", "Celu", "HardSwish", "Swish"),
    *("Mish", "Gelu"),
)
_IN_GATES = {
    *("Sigmoid", "HardSigmoid", "Erf", "Tanh", "Softplus", "Clip", "Relu", "Min", "Max"),
    *("Add", "Sub", "Mul", "Div", "Pow", "Identity", "Cast", "Neg", "Exp", "Reciprocal"),
}
_LEVEL = {"Sigmoid", "HardSigmoid", "Erf", "Tanh", "Clip", "Min"}
"""A gate has at least one of these: they level off for large inputs."""


@vjp("Relu", variant="guided")
def guided_relu(e: Emitter, g: T, y: T, x: T) -> Answers:
    return VJP["Relu"].function(e, e.Relu(g), y, x)


@vjp("Relu", variant="deconv")
def deconv_relu(e: Emitter, g: T, y: T, x: T) -> Answers:
    return [e.Relu(g)]


def _guided(rule: Callable[..., Answers]) -> Callable[..., Answers]:
    @wraps(rule)
    def guided(e: Emitter, g: T, y: T, *inputs: T, **attributes: Any) -> Answers:
        return rule(e, e.Relu(g), y, *inputs, **attributes)

    return guided


def _deconv(e: Emitter, g: T, y: T, x: T, *others: T, **attributes: Any) -> Answers:
    return [e.Relu(g), *[None] * len(others)]


for _op in _LIKE_RELU:
    _rule = VJP[_op]
    VARIANTS.setdefault("guided-all", {})[_op] = _rule._replace(function=_guided(_rule.function))
    VARIANTS.setdefault("deconv-all", {})[_op] = Rule(_deconv)
for _whole, _paper in (("guided-all", "guided"), ("deconv-all", "deconv")):
    VARIANTS[_whole].update(VARIANTS[_paper])


@vjp("Clip", variant="guided-all")
def guided_clip(e: Emitter, g: T, y: T, x: T, *bounds: T) -> Answers:
    return VJP["Clip"].function(e, g if _gates(e, y) else e.Relu(g), y, x, *bounds)


@vjp("Clip", variant="deconv-all")
def deconv_clip(e: Emitter, g: T, y: T, x: T, *bounds: T) -> Answers:
    return VJP["Clip"].function(e, g, y, x, *bounds) if _gates(e, y) else [e.Relu(g)]


@vjp("Mul", variant="guided-all", broadcasts=True)
def guided_mul(e: Emitter, g: T, y: T, a: T, b: T) -> Answers:
    gated = _gated(a, b) or _gated(b, a)
    return VJP["Mul"].function(e, e.Relu(g) if gated else g, y, a, b)


@vjp("Mul", variant="deconv-all", broadcasts=True)
def deconv_mul(e: Emitter, g: T, y: T, a: T, b: T) -> Answers:
    # The gate counts as open: constant factors beside it, as in x / 2 · (1 + Erf(x / √2)), stay.
    if _gated(a, b):
        return [None, lambda: e.Mul(e.Relu(g), _opened(e, a, _unscaled(b)))]
    if _gated(b, a):
        return [lambda: e.Mul(e.Relu(g), _opened(e, b, _unscaled(a))), None]
    return VJP["Mul"].function(e, g, y, a, b)


def _gated(gate: T, x: T) -> bool:
    """Whether `gate` · `x` is an activation: the gate depends on x alone, and levels off."""
    return bool(_between(gate, _unscaled(x), {}) & _LEVEL)


def _between(t: T, x: T, seen: dict[int, set[str]]) -> set[str]:
    """The operators that make `t` of `x`, element by element; none if anything else enters."""
    if t is x or isinstance(t, gs.Constant) or not t.name:
        return {"Identity"}
    if id(t) not in seen:
        node = t.inputs[0] if t.inputs else None
        found = [] if node is None else [_between(source, x, seen) for source in node.inputs]
        plain = node is not None and node.op in _IN_GATES and all(found)
        seen[id(t)] = {node.op}.union(*found) if node is not None and plain else set()
    return seen[id(t)]


def _unscaled(x: T) -> T:
    """What `x` is a constant multiple of."""
    while x.inputs and x.inputs[0].op in ("Mul", "Div"):
        sources = [t for t in x.inputs[0].inputs if not isinstance(t, gs.Constant)]
        if len(sources) != 1:
            break
        x = sources[0]
    return x


def _opened(e: Emitter, t: T, x: T) -> T:
    """The value of the gate `t` for large `x`."""
    if t is x:
        return e.tensor(1e4, x.dtype)
    if isinstance(t, gs.Constant) or not t.name:
        return t
    node = t.inputs[0]
    return e.op(node.op, [_opened(e, source, x) for source in node.inputs], node.attrs)[0]


def _gates(e: Emitter, y: T) -> bool:
    """Whether `y` is a gate: but for constants it multiplies a larger tensor, or what it is of."""
    for node in y.outputs:
        if node.op not in ("Mul", "Div") or node.name.startswith(f"{e.prefix}/"):
            continue  # what the emitter made is the gradient of what follows
        others = [t for t in node.inputs if t is not y and not isinstance(t, gs.Constant)]
        if others:
            smaller = known(y) != known(node.outputs[0])
            if node.op == "Mul" and (smaller or _gated(y, others[0])):
                return True
        elif any(t is not y for t in node.inputs) and _gates(e, node.outputs[0]):
            return True
    return False
