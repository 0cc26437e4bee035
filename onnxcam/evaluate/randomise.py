"""A classifier with some of its weights drawn anew, for the sanity checks of explanations.

Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018, section 3.1: a map that stays the
same when the weights are random cannot say what the model has learnt.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from onnxcam.errors import ModelError, OptionError
from onnxcam.graph import Classifier, Model
from onnxcam.graph.quantised import QUANTISERS
from onnxcam.graph.read import read_model
from onnxcam.loading import Source

HOWS = ("normal", "permuted")
"""How a tensor is drawn anew."""
MODES = ("cascading", "independent")
"""What a check randomises: layers from the output on, one after the other, or each alone."""
MOST = 12
"""Steps that a check takes at most: a model of hundreds of layers is loaded so many times."""

_WEIGHTS = {  # op → positions of its kernels and of its biases among its inputs
    **dict.fromkeys(("Conv", "ConvTranspose", "FusedConv"), ((1,), (2,))),
    **dict.fromkeys(("Gemm", "FusedGemm"), ((0, 1), (2,))),
    **dict.fromkeys(("MatMul", "FusedMatMul", "MatMulInteger"), ((0, 1), ())),
    "ConvInteger": ((1,), ()),
    "DeformConv": ((1,), (3,)),
    "QLinearConv": ((3,), (8,)),
    "QLinearMatMul": ((0, 3), ()),
    "QGemm": ((0, 3), (6,)),
    **dict.fromkeys(("RNN", "GRU", "LSTM"), ((1, 2), (3,))),
}
_DRESSED = {  # what may stand between an operator and its weight: the weight is the first input
    *("Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast"),
    *QUANTISERS,
}
_WHOLE = {
    getattr(onnx.TensorProto, kind)
    for kind in ("INT4", "UINT4", "INT8", "UINT8", "INT16", "UINT16", "INT32", "INT64")
}


@dataclass(frozen=True)
class Weighted:
    """A layer with weights of its own.

    Attributes:
        node: name of its node, or of the tensor that it gives where it has none.
        op: its operator.
        kernels, biases: names of its initialisers.
        shape: of the first kernel, as it lies in the file.
    """

    node: str
    op: str
    kernels: tuple[str, ...]
    biases: tuple[str, ...]
    shape: tuple[int, ...]

    @property
    def weights(self) -> tuple[str, ...]:
        """All its initialisers."""
        return self.kernels + self.biases


def weighted_layers(model: Source | Model, output: str | None = None) -> list[Weighted]:
    """The layers with weights, from the output to the input of the graph.

    Layers are the operators that mix channels by constants: convolutions, dense layers and
    products with a matrix, recurrent cells, and their quantised forms; where one has no bias, an
    Add of a constant behind it is that. A layer stands after those that it feeds; of branches the
    one later in the file comes first. Only what leads from an input of the model to an output
    counts. A weight that several layers share belongs to the one nearest to the output. Left alone:
    BatchNormalization and other norms (one folded into its convolution is randomised with it),
    embeddings, and what lies inside If, Loop and Scan.

    Args:
        model: path, bytes or message of an ONNX model, or one that was read or loaded.
        output: a tensor of the file that layers have to lead to; None for any output.

    Raises:
        ModelError: the model cannot be read, or has no such tensor.
    """
    graph = as_read(model).proto.graph
    makers = {name: node for node in graph.node for name in node.output if name}
    shapes = {t.name: tuple(t.dims) for t in graph.initializer}
    if output is not None and output not in makers:
        raise ModelError(f"no node of the model gives a tensor {output!r}")
    live, wanted = _live(graph), {output} if output else {o.name for o in graph.output}

    def weight(name: str) -> str | None:
        while name not in shapes and name in makers and makers[name].op_type in _DRESSED:
            name = makers[name].input[0]
        return name if name in shapes and shapes[name] != () else None

    readers: dict[str, list[onnx.NodeProto]] = {}
    found, taken = list[Weighted](), set[str]()
    for node in reversed(graph.node):
        if wanted.isdisjoint(node.output):
            continue
        for name in _all_inputs(node):
            wanted.add(name)
            readers.setdefault(name, []).append(node)
        if node.op_type not in _WEIGHTS or live.isdisjoint(node.output):
            continue
        places = _WEIGHTS[node.op_type]
        given = [[node.input[i] for i in at if i < len(node.input)] for at in places]
        given[1] = given[1] or _added(node.output[0], readers, shapes)
        kernels, biases = (
            tuple(dict.fromkeys(w for w in map(weight, names) if w and w not in taken))
            for names in given
        )
        taken.update(kernels + biases)
        if kernels:
            name = node.name or node.output[0]
            found.append(Weighted(name, node.op_type, kernels, biases, shapes[kernels[0]]))
    return found


def steps(layers: Sequence[Weighted], most: int = MOST) -> list[int]:
    """Which layers a check stops at: at most `most`, evenly, the first and the last among them.

    Raises:
        OptionError: `most` is below 2.
    """
    if most < 2:
        raise OptionError(f"most is a number of layers, at least 2, not {most}")
    last = len(layers) - 1
    return sorted({round(i) for i in np.linspace(0, last, min(most, last + 1))})


def randomised(
    model: Source | Model, layers: Iterable[Weighted], seed: int = 0, how: str = "normal"
) -> onnx.ModelProto:
    """A copy of a model in which the weights of `layers` are drawn anew; the model stays as it is.

    The paper draws from what the training began with, which no file says. Shapes and types stay.

    Args:
        model: path, bytes or message of an ONNX model, or one that was read or loaded.
        layers: some of `weighted_layers(model)`; the first ones for a cascade.
        seed: each tensor is drawn by the seed and its own name, whatever else is randomised.
        how: "normal", independent numbers with the mean and the standard deviation of the tensor
            (integers are rounded and stay within the tensor's own range); or "permuted", its own
            values in another order.

    Raises:
        ModelError: the model cannot be read, has no such weight, or is larger than 2 GiB.
        OptionError: `how` or `seed` is no such thing.
    """
    read = as_read(model)
    return replaced(read, drawn(read, layers, seed, how)).complete()


def drawn(
    model: Model, layers: Iterable[Weighted], seed: int = 0, how: str = "normal"
) -> dict[str, np.ndarray]:
    """The new weights alone, by initialiser name; as `randomised`."""
    if how not in HOWS:
        raise OptionError(f"how is {' or '.join(HOWS)}, not {how!r}")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise OptionError(f"seed is a whole number, not negative, not {seed!r}")
    held = {t.name: t for t in model.proto.graph.initializer}
    new: dict[str, np.ndarray] = {}
    for name in (name for layer in layers for name in layer.weights):
        if name not in held:
            raise ModelError(f"the model has no weight {name!r}; the layers are another model's")
        kept = model.weights.get(name)
        array = numpy_helper.to_array(held[name]) if kept is None else kept
        rng = np.random.default_rng([int(seed), zlib.crc32(name.encode())])
        if how == "permuted":
            new[name] = rng.permutation(array.reshape(-1)).reshape(array.shape)
        else:
            new[name] = _normal(array, rng, held[name].data_type in _WHOLE)
    return new


def draws(
    model: Model,
    layers: Sequence[Weighted],
    chosen: Iterable[int],
    mode: str,
    seed: int = 0,
    how: str = "normal",
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """The new weights of each step of a check; a layer's are the same in both modes.

    Args:
        model, seed, how: as for `drawn`.
        layers: as `weighted_layers` gives them.
        chosen: as `steps` gives them.
        mode: "cascading", with the weights of all layers before, too; or "independent".

    Returns:
        Pairs of the position of the step's layer, and the weights by name.

    Raises:
        OptionError: `mode` is neither.
    """
    if mode not in MODES:
        raise OptionError(f"mode is {' or '.join(MODES)}, not {mode!r}")
    anew: dict[str, np.ndarray] = {}
    before = 0
    for at in chosen:
        if mode == "cascading":
            anew = anew | drawn(model, layers[before : at + 1], seed, how)
            before = at + 1
        else:
            anew = drawn(model, [layers[at]], seed, how)
        yield at, anew


def replaced(model: Model, weights: Mapping[str, np.ndarray]) -> Model:
    """The model with other arrays for some weights, of the same shapes and types."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for tensor in proto.graph.initializer:
        if tensor.name in weights and tensor.name not in model.weights:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    large = {name: weights.get(name, array) for name, array in model.weights.items()}
    return Model(proto, large)


def as_read(model: Source | Model) -> Model:
    """A model as its file states it, with its weights beside it.

    Raises:
        ModelError: it cannot be read.
    """
    if isinstance(model, Classifier):
        return model.source
    return model if isinstance(model, Model) else read_model(model)


def _normal(array: np.ndarray, rng: np.random.Generator, whole: bool) -> np.ndarray:
    double = array.dtype.itemsize > 4
    values = array.astype(np.float64 if double else np.float32)
    mean, spread = values.mean(dtype=np.float64), values.std(dtype=np.float64)
    new: Any = rng.standard_normal(array.shape, np.float64 if double else np.float32)
    new *= spread
    new += mean
    if whole:
        new = np.rint(new).clip(values.min(), values.max())
    elif array.dtype == np.float16:
        new = new.clip(np.finfo(np.float16).min, np.finfo(np.float16).max)
    return np.asarray(new.astype(array.dtype))


def _added(
    name: str,
    readers: Mapping[str, Sequence[onnx.NodeProto]],
    shapes: Mapping[str, tuple[int, ...]],
) -> list[str]:
    """The constant of the Add that alone reads a tensor, if it is one number for each unit."""
    way = readers.get(name, ())
    while len(way) == 1 and way[0].op_type in QUANTISERS:
        way = readers.get(way[0].output[0], ())
    if len(way) != 1 or way[0].op_type != "Add":
        return []
    wide = [(n, [s for s in shapes[n] if s != 1]) for n in way[0].input if n in shapes]
    return [name for name, sides in wide if len(sides) == 1]


def _live(graph: onnx.GraphProto) -> set[str]:
    """The tensors that depend on an input of the model."""
    live = {i.name for i in graph.input}
    for node in graph.node:
        if not live.isdisjoint(_all_inputs(node)):
            live.update(n for n in node.output if n)
    return live


def _all_inputs(node: onnx.NodeProto) -> set[str]:
    """What a node reads, and what the graphs within it take from outside."""
    names = {n for n in node.input if n}
    for inner in (g for a in node.attribute for g in (a.g, *a.graphs)):
        names.update(*(_all_inputs(n) for n in inner.node)) if inner.node else None
        names.update(o.name for o in inner.output)
    return names
