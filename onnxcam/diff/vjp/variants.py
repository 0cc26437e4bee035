"""The rows that guided backpropagation and deconvnet put in place of the rectifiers' own.

* "guided" (Springenberg et al., Striving for Simplicity, 2015): the gradient of Relu, of which the
  negative part is cut off. "deconv" (Zeiler & Fergus, 2014): the cotangent without its negative
  part, whatever the input was.
* "guided-all" and "deconv-all" extend this to every rectifier-like activation f, an extension of
  ours: f′(z) · max(g, 0), and max(g, 0). Gates (x · Sigmoid(x) in parts) count as one activation;
  the gates of squeeze-and-excitation keep their gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeAlias

import onnx_graphsurgeon as gs

from onnxcam.diff.vjp.table import VARIANTS, VJP, Answer, Rule, vjp
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
    return VJP["Clip"].function(e, g if _gates(y) else e.Relu(g), y, x, *bounds)


@vjp("Clip", variant="deconv-all")
def deconv_clip(e: Emitter, g: T, y: T, x: T, *bounds: T) -> Answers:
    return VJP["Clip"].function(e, g, y, x, *bounds) if _gates(y) else [e.Relu(g)]


@vjp("Mul", variant="guided-all", broadcasts=True)
def guided_mul(e: Emitter, g: T, y: T, a: T, b: T) -> Answers:
    gated = _made_of(a, b) or _made_of(b, a)
    return VJP["Mul"].function(e, e.Relu(g) if gated else g, y, a, b)


@vjp("Mul", variant="deconv-all", broadcasts=True)
def deconv_mul(e: Emitter, g: T, y: T, a: T, b: T) -> Answers:
    if _made_of(a, b):
        return [None, e.Relu(g)]
    return [e.Relu(g), None] if _made_of(b, a) else VJP["Mul"].function(e, g, y, a, b)


def _made_of(gate: T, x: T) -> bool:
    """Whether `gate` follows from `x` alone, element by element."""
    while gate is not x:
        node = gate.inputs[0] if gate.inputs else None
        given = [] if node is None else [t for t in node.inputs if not isinstance(t, gs.Constant)]
        if node is None or node.op not in _IN_GATES or len({id(t) for t in given}) != 1:
            return False
        gate = given[0]
    return True


def _gates(y: T) -> bool:
    """Whether `y`, but for a constant factor, is multiplied with another tensor."""
    for node in y.outputs:
        if node.op in ("Mul", "Div"):
            plain = any(isinstance(t, gs.Constant) for t in node.inputs)
            if not plain or _gates(node.outputs[0]):
                return True
    return False
