"""Which framework and exporter made an ONNX file, as far as the file tells.

A table: each row names a framework, an exporter, and the marks that show it. Nothing is claimed
without a mark, and every mark found is given as evidence. Tools that rewrite models (quantisers,
optimisers) put their own name over the exporter's; they have a table of their own, and what the
exporter left in names still shows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias

import onnx

from onnxcam.graph.quantised import QUANTISERS

MOST_NODES = 2000
"""Nodes whose names are read: the first ones tell."""

ENOUGH = 1 / 3
"""The share of the named nodes that must follow a pattern, so that it counts as an exporter's."""


@dataclass(frozen=True)
class Rewriter:
    """A tool that rewrote the model after its export, and what shows it."""

    tool: str
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class Origin:
    """Where a model comes from.

    Attributes:
        framework: in which the model was made, or None where nothing tells.
        exporter: what wrote it as ONNX, or None where nothing tells.
        evidence: what in the file shows both, in words.
        rewriters: the tools that rewrote it later.
    """

    framework: str | None
    exporter: str | None
    evidence: tuple[str, ...]
    rewriters: tuple[Rewriter, ...] = ()


def origin_of(proto: onnx.ModelProto) -> Origin:
    """The origin of a model: the first row with a mark, and every rewriter with one."""
    traces = _Traces(proto)
    rewriters = tuple(
        Rewriter(tool, found) for tool, marks in _REWRITERS if (found := traces.found(marks))
    )
    for row in _EXPORTERS:
        found, more = traces.found(row.marks), traces.found(row.must)
        if found and (more or not row.must):
            evidence = tuple(dict.fromkeys((*found, *more)))
            return Origin(row.framework, row.exporter, evidence, rewriters)
    return Origin(None, None, (), rewriters)


class _Traces:
    """What a model's file says about its making."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto, self.nodes = proto, list(proto.graph.node)[:MOST_NODES]

    @cached_property
    def names(self) -> list[tuple[str, str]]:
        """Name and operator of the nodes; a quantiser's own nodes and endings are left out."""
        named = [(n.name, n.op_type) for n in self.nodes if n.name]
        rest = [(n, op) for n, op in named if op not in QUANTISERS]
        return [(re.sub(r"_quant$", "", name), op) for name, op in rest]

    def found(self, marks: Iterable[Mark]) -> tuple[str, ...]:
        """The evidence for any of the marks."""
        return tuple(dict.fromkeys(e for mark in marks if (e := mark(self)) is not None))


Mark: TypeAlias = Callable[[_Traces], str | None]


class _Row(NamedTuple):
    framework: str | None
    exporter: str
    marks: tuple[Mark, ...]
    must: tuple[Mark, ...] = ()


def _producer(pattern: str) -> Mark:
    def mark(t: _Traces) -> str | None:
        name, version = t.proto.producer_name, t.proto.producer_version
        if not re.fullmatch(pattern, name, re.IGNORECASE):
            return None
        return f"producer {name!r}" + (f", version {version}" if version else "")

    return mark


def _graph(pattern: str) -> Mark:
    def mark(t: _Traces) -> str | None:
        name = t.proto.graph.name
        return f"graph name {name!r}" if re.fullmatch(pattern, name) else None

    return mark


def _nodes(pattern: str, share: float = ENOUGH) -> Mark:
    """Names of nodes; `{op}` in the pattern stands for the node's operator."""

    def mark(t: _Traces) -> str | None:
        hits = [n for n, op in t.names if re.match(pattern.replace("{op}", re.escape(op)), n)]
        if not hits or len(hits) < share * len(t.names):
            return None
        return f"node names such as {_short(hits[0])!r}"

    return mark


def _tensors(pattern: str) -> Mark:
    def mark(t: _Traces) -> str | None:
        every = (name for node in t.nodes for name in (*node.output, *node.input, node.name))
        hit = next((name for name in every if re.search(pattern, name)), None)
        return None if hit is None else f"names such as {_short(hit)!r}"

    return mark


def _outputs(*names: str) -> Mark:
    def mark(t: _Traces) -> str | None:
        held = {o.name for o in t.proto.graph.output}
        return f"outputs {', '.join(map(repr, names))}" if held == set(names) else None

    return mark


def _node_metadata(start: str) -> Mark:
    def mark(t: _Traces) -> str | None:
        keys = (p.key for n in t.nodes for p in n.metadata_props)
        hit = next((key for key in keys if key.startswith(start)), None)
        return None if hit is None else f"metadata {hit!r} of nodes"

    return mark


def _imports(start: str) -> Mark:
    def mark(t: _Traces) -> str | None:
        domains = (o.domain for o in t.proto.opset_import)
        hit = next((domain for domain in domains if domain.startswith(start)), None)
        return None if hit is None else f"operator set {hit!r} is imported"

    return mark


def _short(name: str, most: int = 48) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


_TORCH = "PyTorch"
_TORCH_JIT = (
    _graph(r"torch[-_]jit([-_]export)?"),
    _nodes(r"/(.*/)?{op}(_\d+)?$"),  # /layer/Conv: modules by name, from PyTorch 1.13 on
)
_TORCH_DYNAMO = (_node_metadata("pkg.torch."), _imports("pkg.onnxscript.torch_lib"))
_PYTORCH = (_producer("pytorch"),)
_TF2ONNX = (_producer("tf2onnx"), _graph("tf2onnx"), _tensors(r"^const_fold_opt__\d+$"))

_EXPORTERS: tuple[
    _Row, ...
] = (  # framework, exporter, its marks, and marks of which one is needed besides
    _Row(_TORCH, "torch.onnx.export, dynamo", (*_PYTORCH, *_TORCH_DYNAMO), _TORCH_DYNAMO),
    _Row(_TORCH, "torch.onnx.export, TorchScript", (*_PYTORCH, *_TORCH_JIT), _TORCH_JIT),
    _Row(_TORCH, "torch.onnx.export, dynamo", _PYTORCH, (_nodes(r"node_\w"),)),
    _Row(_TORCH, "torch.onnx.export, TorchScript", _PYTORCH, (_nodes(r"{op}_\d+$"),)),
    _Row(_TORCH, "torch.onnx.export", _PYTORCH),
    _Row("JAX", "tf2onnx", _TF2ONNX, (_tensors(r"(^|/)jax2tf_"),)),
    _Row("Keras", "tf2onnx", _TF2ONNX, (_tensors(r"(^|/)(sequential|functional)(_\d+)*/"),)),
    _Row("TensorFlow Lite", "tf2onnx", _TF2ONNX, (_tensors(r"\w;\w+/"),)),
    _Row("TensorFlow or Keras", "tf2onnx", _TF2ONNX),
    _Row("Keras", "keras2onnx", (_producer("keras2onnx"),)),
    _Row("JAX", "jax2onnx", (_producer("jax2onnx"),)),
    _Row(
        "PaddlePaddle",
        "paddle2onnx",
        (
            _producer("paddlepaddle|paddle2onnx|paddle-onnx"),
            _graph(r"(Model from )?PaddlePaddle.*|paddle-onnx"),
            _nodes(r"p2o\."),
        ),
    ),
    _Row("CNTK", "CNTK", (_producer("cntk"), _graph("CNTKGraph"))),
    _Row("Caffe2", "onnx-caffe2", (_producer("(onnx-)?caffe2"),)),
    _Row("MXNet", "mx2onnx", (_graph("mxnet_converted_model"), _producer("mxnet"))),
    _Row("Chainer", "onnx-chainer", (_producer("chainer"),)),
    _Row("MATLAB", "exportONNXNetwork", (_producer(r".*(matlab|mathworks).*"),)),
    _Row("MindSpore", "MindSpore", (_producer("mindspore"),)),
    _Row("ML.NET", "ML.NET", (_producer(r"ml\.net"),)),
    _Row("scikit-learn", "skl2onnx", (_producer("skl2onnx"),)),
    _Row(
        "Microsoft Custom Vision",
        "onnxmltools",
        (_producer("onnxmltools|winmltools|customvision"),),
        (_outputs("classLabel", "loss"),),
    ),
    _Row(None, "winmltools", (_producer("winmltools"),)),
    _Row(None, "onnxmltools", (_producer("onnxmltools"),)),
    _Row("Microsoft Custom Vision", "Custom Vision", (_producer(r"custom[ .]?vision.*"),)),
)

_REWRITERS: tuple[tuple[str, tuple[Mark, ...]], ...] = (
    ("ONNX Runtime's quantiser", (_producer("onnx.quantize|onnx-quantizer"),)),
    ("AMD Quark's quantiser", (_producer(r"(quark|vai_q)[._]onnx.*"),)),
    ("ONNX Runtime's transformer optimiser", (_producer(r"onnxruntime\.transformers"),)),
    ("ONNX Runtime's graph optimiser", (_imports("com.microsoft.nchwc"),)),
    ("converter to float16", (_tensors(r"^graph_(in|out)put_cast_?\d+$"),)),
    ("onnxcam", (_producer("onnxcam"),)),
)
