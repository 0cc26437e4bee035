"""Small models in ONNX text syntax, and reference runs of them that share no code with onnxcam."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import conftest
import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from onnx import ModelProto, numpy_helper

from onnxcam import load
from onnxcam.graph import Classifier

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"

ort.set_default_logger_severity(4)


def model(
    body: str,
    weights: Mapping[str, Any] | None = None,
    inputs: str = "float[N,3,6,5] x",
    outputs: str = "float[N,5] y",
    opset: int = 18,
    ir: int = 8,
    imports: str = "",
) -> ModelProto:
    """The model of a graph `body` in ONNX text syntax; `weights` become initializers."""
    header = f'<ir_version: {ir}, opset_import: ["" : {opset}{imports}]>'
    proto = onnx.parser.parse_model(f"{header} test ({inputs}) => ({outputs}) {{ {body} }}")
    for name, array in (weights or {}).items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return proto


def rng(seed: int = 0) -> np.random.Generator:
    """Random numbers that are the same on every run."""
    return np.random.default_rng(seed)


def weight(*shape: int, seed: int = 0) -> np.ndarray:
    """Random float32 weights, scaled as a network's."""
    fan = int(np.prod(shape[1:])) or 1
    return (rng(seed).normal(size=shape) / np.sqrt(fan)).astype(np.float32)


def images(*shape: int, seed: int = 1) -> np.ndarray:
    """Random float32 pictures."""
    return rng(seed).normal(size=shape).astype(np.float32)


def tiny(classes: int = 4, size: int | str = 8, batch: int | str = "N", **options: Any) -> Any:
    """A little classifier: convolution, ReLU (tensor `a`, 6 units), mean, dense layer."""
    weights = {"w": weight(6, 3, 3, 3, seed=2), "b": weight(6, seed=3)}
    weights |= {"v": weight(6, classes, seed=4), "c": weight(classes, seed=5)}
    return model(
        "p = Conv <pads = [1, 1, 1, 1]> (x, w, b) a = Relu(p) g = GlobalAveragePool(a)"
        " f = Flatten(g) y = Gemm(f, v, c)",
        weights,
        inputs=f"float[{batch},3,{size},{size}] x",
        outputs=f"float[{batch},{classes}] y",
        **options,
    )


def mixed(batch: int = 2) -> ModelProto:
    """A classifier that takes the mean over its images away, and so insists on their number."""
    weights = {"w": weight(4, 3, 3, 3, seed=1), "v": weight(4, 5, seed=2), "o": np.array([0])}
    body = (
        "p = Conv <pads = [1, 1, 1, 1]> (x, w) a = Tanh(p) g = GlobalAveragePool(a) f = Flatten(g)"
        " z = MatMul(f, v) s = ReduceMean <keepdims = 1> (z, o) y = Sub(z, s)"
    )
    return model(body, weights, f"float[{batch},3,8,8] x", f"float[{batch},5] y")


ONE_UNIT = {
    "sigmoid (N, 1)": ("y = Sigmoid(z)", "N,1", True),
    "sigmoid, squeezed": ("s = Sigmoid(z) y = Squeeze(s, last)", "N", True),
    "squeezed, sigmoid": ("s = Squeeze(z, last) y = Sigmoid(s)", "N", True),
    "reshaped, sigmoid": ("s = Reshape(z, last) y = Sigmoid(s)", "N", True),
    "logit (N, 1)": ("y = Identity(z)", "N,1", False),
    "logit (N,)": ("y = Squeeze(z, last)", "N", False),
}
"""Tails of heads of one unit, what they give, and whether it is a probability."""


def one_unit(tail: str, shape: str, batch: str = "N", bias: float = 0.0) -> ModelProto:
    """A head of one unit: conv, ReLU (tensor `a`, 6 units), mean, dense `z`, and a tail."""
    body = (
        "p = Conv <pads = [1, 1, 1, 1]> (x, w, b) a = Relu(p) g = GlobalAveragePool(a)"
        " f = Flatten(g) z = Gemm(f, v, c) "
    )
    weights = {"w": weight(6, 3, 3, 3, seed=2), "b": weight(6, seed=3), "v": weight(6, 1, seed=4)}
    weights |= {"c": np.array([bias], np.float32)}
    weights |= {"last": np.array([-1])} if "last" in tail else {}
    return model(
        body + tail,
        weights,
        inputs=f"float[{batch},3,8,8] x",
        outputs=f"float[{shape.replace('N', batch)}] y",
    )


def session(proto: ModelProto | Path | str) -> ort.InferenceSession:
    """A session that runs the graph as it is written."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = proto.SerializeToString() if isinstance(proto, ModelProto) else str(proto)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run(
    proto: ModelProto, feeds: Mapping[str, np.ndarray], names: Sequence[str] | None = None
) -> list[np.ndarray]:
    """The outputs of a model, or the values of any of its tensors."""
    if names is not None:
        copy = ModelProto()
        copy.CopyFrom(proto)
        known = {o.name for o in copy.graph.output}
        copy.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in known)
        proto = copy
    return list(session(proto).run(names, dict(feeds)))


def masked(proto: ModelProto, tensor: str, dtype: int = onnx.TensorProto.FLOAT) -> ModelProto:
    """`proto` with a second input `mask` that every use of `tensor` is multiplied by."""
    copy = ModelProto()
    copy.CopyFrom(proto)
    at = next(i for i, n in enumerate(copy.graph.node) if tensor in n.output)
    for node in copy.graph.node:
        for i, name in enumerate(node.input):
            if name == tensor:
                node.input[i] = "masked"
    product = onnx.helper.make_node("Mul", [tensor, "mask"], ["masked"])
    copy.graph.node.insert(at + 1, product)
    copy.graph.input.append(onnx.helper.make_tensor_value_info("mask", dtype, None))
    return copy


def drops(
    proto: ModelProto,
    tensor: str,
    score: str,
    feeds: Mapping[str, np.ndarray],
    units: Sequence[int] | None = None,
    axis: int = 1,
    only: slice | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The feature map, scores y (N, C), and y − y_k (N, C, units) by masking unit after unit.

    `only`: the positions on axis 1 that are switched off (for token models).
    """
    value, y = run(proto, feeds, [tensor, score])
    kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
    cut = masked(proto, tensor, kind)
    cut.graph.output.extend([onnx.ValueInfoProto(name=score)])
    runner = session(cut)
    shape = [1] * value.ndim
    shape[axis] = value.shape[axis]
    if only is not None:
        shape[1] = value.shape[1]
    results = []
    for unit in range(value.shape[axis]) if units is None else units:
        mask = np.ones(shape, value.dtype)
        place: list[Any] = [slice(None)] * value.ndim
        place[axis] = unit
        if only is not None:
            place[1] = only
        mask[tuple(place)] = 0
        results.append(runner.run([score], {**feeds, "mask": mask})[0])
    flat = y.reshape(len(y), -1)
    off = np.stack(results, -1).reshape(*flat.shape, -1)
    return value, flat, flat[..., None] - off


def close(got: np.ndarray, want: np.ndarray, base: Any = 0.0, tolerance: float = 1e-5) -> None:
    """Asserts |got − want| ≤ tolerance × the largest of `want` and `base`."""
    assert got.shape == want.shape
    scale = max(float(np.abs(want).max(initial=0)), float(np.abs(base).max(initial=0)))
    worst = float(np.abs(got.astype(np.float64) - want).max(initial=0))
    assert worst <= tolerance * scale, f"off by {worst:.2e}, that is {worst / scale:.1e} of {scale}"


@cache
def golden_index() -> dict[str, Any]:
    """`index.json` of the goldens."""
    folder = conftest.SHARED / "goldens"
    path = folder / "index.json"
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


@cache
def golden_classifier(name: str, file: str) -> Classifier:
    """A golden model, loaded once for all tests."""
    return load(conftest.SHARED / "goldens" / name / file)


@cache
def golden_arrays(name: str, file: str) -> dict[str, np.ndarray]:
    """The arrays of a golden set."""
    with np.load(conftest.SHARED / "goldens" / name / file) as arrays:
        return dict(arrays)


def each_golden(sets: bool = False, of: Collection[str] | None = None) -> Any:
    """Parametrizes a test by `name, file` of every golden model (and `arrays`, its golden sets).

    `of` names the models, if not all are meant.
    """
    rows = [(n, f, s) for n, m in golden_index().items() for f in m["files"] for s in m["goldens"]
            if of is None or n in of]  # fmt: skip
    if not sets:
        rows = list(dict.fromkeys((n, f) for n, f, _ in rows))
    names = ("name", "file", "arrays") if sets else ("name", "file")
    rows = rows or [("",) * len(names)]  # one test that says what is missing
    ids = ["-".join(part.partition(".")[0] for part in row) for row in rows]
    return pytest.mark.parametrize(names, rows, ids=ids)
