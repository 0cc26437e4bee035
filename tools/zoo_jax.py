"""Classifiers from JAX libraries for the zoo, exported by jax2onnx.

    python tools/zoo_jax.py make haiku-ResNet18 out/zoo/ResNet18

Runs in an environment of its own: jax, flax, equinox, jax2onnx, and three libraries of networks,
dm-haiku, flaxmodels (Flax's older form) and equimo (Equinox). Two examples that come with jax2onnx
stand for Flax's present form. Nothing is downloaded: weights are the libraries' own random ones,
but what starts at all zeros or all ones is drawn, so that it matters. The reference is by
`jax.grad`, in float64 wherever a library lets it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
from zoo_maker import COUNT, Array, Group, Made, centred, generator, images, run, softmax

FAMILY = "jax"
EXPORTS = (("jax2onnx", 18), ("jax2onnx", 23))
CLASSES = 90
"""No hidden layer is as wide: the last one is known by its shape."""

ALIKE = 1e-3
"""Most by which an export may differ from the model and still count as one."""

BATCHES = 3
"""Passes in training mode, until running statistics are those of the batch."""


@dataclass(frozen=True)
class Net:
    """A model of a library, and where its last feature map can be got hold of.

    Attributes:
        library: A key of LIBRARIES.
        name: What the library calls the model.
        tap: A function or method, `module:name`. Its last call returns the map.
        later: Calls of the same function that come behind the map's.
        taken: The map is not what the call returns but what it takes.
        options: What the model's maker is told.
        shape: Of one picture, as the model takes it.
        end: What the export makes of the logits.
    """

    library: str
    name: str
    tap: str
    later: int = 0
    taken: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = (224, 224, 3)
    end: Callable[[Array], Array] = np.asarray


_FIRST = (3, 224, 224)
_GREY = (28, 28, 1)
_EXAMPLES = "jax2onnx.plugins.examples.nnx"
_VIT = {"height": 28, "width": 28, "num_hiddens": 256, "num_layers": 6, "num_heads": 8,
        "mlp_dim": 512, "num_classes": 10}  # fmt: skip  # as in the example's own tests
_GROUPS = "haiku._src.nets.resnet:BlockGroup.__call__"
_SEPARABLE = "haiku._src.nets.mobilenetv1:MobileNetV1Block.__call__"
NETS = {
    "haiku-ResNet18": Net("haiku", "ResNet18", _GROUPS),
    "haiku-ResNet50": Net("haiku", "ResNet50", _GROUPS),
    "haiku-MobileNetV1": Net("haiku", "MobileNetV1", _SEPARABLE),
    "flaxmodels-ResNet18": Net("flaxmodels", "ResNet18",
                               "flaxmodels.resnet.resnet:BasicBlock.__call__"),
    "flaxmodels-VGG16": Net("flaxmodels", "VGG16", "flax.linen:relu", later=2, end=softmax,
                            options={"kernel_init": jax.nn.initializers.he_normal()}),
    "nnx-CNN": Net("nnx", f"{_EXAMPLES}.cnn:CNN", "flax.nnx:relu", later=1, shape=_GREY),
    "nnx-VisionTransformer": Net("nnx", f"{_EXAMPLES}.vit:VisionTransformer",
                                 f"{_EXAMPLES}.vit:MultiHeadAttention.__call__", taken=True,
                                 options=_VIT, shape=_GREY, end=lambda t: np.log(softmax(t))),
    "equimo-convnext_t": Net("equimo", "convnext_t", "equimo.layers.generic:BlockChunk.__call__",
                             options={"layer_scale_init_value": 1.0}, shape=_FIRST),
    "equimo-mobilenetv3_small": Net("equimo", "mobilenetv3_small",
                                    "equimo.layers.convolution:MBConv.__call__", shape=_FIRST),
    "equimo-vit_tiny": Net("equimo", "vit_tiny_patch16_224",
                           "equimo.layers.attention:Attention.__call__", taken=True,
                           options={"global_pool": "token"}, shape=_FIRST),
}  # fmt: skip

Call = Callable[[Any, Any], Any]  # weights, pictures → logits


@dataclass(frozen=True)
class Built:
    """A model as a function of its weights."""

    weights: Any
    call: Call
    entry: Callable[[Any], Any]  # weights → what jax2onnx is given
    each: bool = False  # `call` takes one picture


def groups() -> list[Group]:
    """The models and their exports."""
    return [Group(FAMILY, name, EXPORTS, _layer(net)) for name, net in NETS.items()]


def _layer(net: Net) -> str:
    name = net.tap.partition(":")[2].removesuffix(".__call__")
    return f"{name}[{-1 - net.later}]{', its input' if net.taken else ''}"


def at(path: str) -> tuple[Any, str]:
    """What holds the thing that `module:name.name` names, and its last name there."""
    module, _, names = path.partition(":")
    *owners, last = names.split(".")
    held = importlib.import_module(module)
    for name in owners:
        held = getattr(held, name)
    return held, last


@contextmanager
def writable_pools(owner: Any) -> Iterator[None]:
    """Puts pools that jax2onnx writes rightly in place of `owner.max_pool`.

    Of Flax's, it loses padding that is given in numbers: "SAME" stands for it. Haiku's it writes as
    a pool over four axes, which ONNX Runtime does not run: Flax's does the same.
    """
    from flax import linen

    pool = linen.max_pool

    def max_pool(x: Any, window_shape: Any, strides: Any, padding: Any = "VALID") -> Any:
        window_shape, strides = (n[1:3] if len(n) == 4 else n for n in (window_shape, strides))
        padding = padding if isinstance(padding, str) else "SAME"
        return pool(x, window_shape=window_shape, strides=strides, padding=padding)

    with patch.object(owner, "max_pool", max_pool):
        yield


def haiku_net(net: Net, batch: Array) -> Built:
    """One of Haiku's; its statistics are those of the batch."""
    import haiku as hk

    def forward(x: Any, training: bool) -> Any:
        with writable_pools(at("haiku._src.nets.resnet:hk.max_pool")[0]):
            return getattr(hk.nets, net.name)(num_classes=CLASSES, **net.options)(x, training)

    pure = hk.transform_with_state(forward)
    parameters, state = pure.init(jax.random.key(0), batch, True)
    parameters = drawn(parameters, net.name)
    for _ in range(BATCHES):
        _, state = pure.apply(parameters, state, None, batch, True)

    def call(weights: Any, x: Any) -> Any:
        return pure.apply(*weights, None, x, False)[0]

    return Built((parameters, state), call, lambda weights: lambda x: call(weights, x))


def flaxmodels_net(net: Net, batch: Array) -> Built:
    """One of flaxmodels', in Flax's older form, the parameters apart."""
    import flaxmodels
    from flax import linen

    options = {"pretrained": None, "normalize": False, "num_classes": CLASSES, **net.options}

    def module(output: str, x: Any) -> Any:
        return getattr(flaxmodels, net.name)(output=output, dtype=str(x.dtype), **options)

    variables = module("logits", batch).init(jax.random.key(0), batch, train=False)
    variables = {**variables, "params": drawn(variables["params"], net.name)}
    for _ in range(BATCHES if "batch_stats" in variables else 0):
        _, new = module("logits", batch).apply(variables, batch, mutable=["batch_stats"])
        variables |= new

    def call(weights: Any, x: Any, output: str = "logits") -> Any:
        with writable_pools(linen):
            return module(output, x).apply(weights, x, train=False)

    output = "softmax" if net.end is softmax else "logits"
    return Built(variables, call, lambda weights: lambda x: call(weights, x, output))


def nnx_net(net: Net, batch: Array) -> Built:
    """An example of jax2onnx, in Flax's present form."""
    from flax import nnx

    owner, name = at(net.name)
    model = getattr(owner, name)(**net.options, rngs=nnx.Rngs(0))
    graph, weights, rest = nnx.split(model, nnx.Param, ...)

    def call(weights: Any, x: Any) -> Any:
        with patch.object(nnx, "log_softmax", lambda logits: logits):  # with which one ends
            return nnx.merge(graph, weights, rest)(x)

    return Built(drawn(weights, net.name), call, lambda w: nnx.merge(graph, w, rest))


def equimo_net(net: Net, batch: Array) -> Built:
    """One of equimo's, in Equinox: it takes one picture, and the batch comes by vmap."""
    import equimo.models
    import equinox

    model = getattr(equimo.models, net.name)(num_classes=CLASSES, **net.options)
    weights, rest = equinox.partition(model, equinox.is_inexact_array)

    def call(weights: Any, x: Any) -> Any:
        one = equinox.combine(weights, rest)
        # Its dropouts split keys even where they are off, and random numbers have no ONNX form.
        with (
            patch.object(jax.random, "split", lambda key, num=2: [key] * num),
            patch.object(jax.random, "fold_in", lambda key, data: key),
        ):
            return one(x, key=jax.random.PRNGKey(0), inference=True)

    return Built(
        drawn(weights, net.name), call, lambda w: jax.vmap(lambda x: call(w, x)), each=True
    )


LIBRARIES: dict[str, tuple[Callable[[Net, Array], Built], tuple[str, ...]]] = {
    "haiku": (haiku_net, ("dm-haiku",)),
    "flaxmodels": (flaxmodels_net, ("flaxmodels", "flax")),
    "nnx": (nnx_net, ("flax",)),
    "equimo": (equimo_net, ("equimo", "equinox")),
}


def drawn(weights: Any, name: str) -> Any:
    """The weights, with random ones in place of all zeros and all ones."""
    random = generator(f"weights {name}")

    def one(leaf: Any) -> Any:
        if leaf.min() != leaf.max() or leaf.min() not in (0, 1):
            return leaf
        if leaf.min() == 1:
            return jnp.asarray(random.uniform(0.5, 1.5, leaf.shape), leaf.dtype)
        return jnp.asarray(random.normal(0, 0.1, leaf.shape), leaf.dtype)

    return jax.tree.map(one, weights)


def told_apart(call: Call, weights: Any, batch: Any) -> Any:
    """The weights, the last layer's made blind to what all pictures have in common."""
    leaves, tree = jax.tree.flatten(weights)
    classes = jax.eval_shape(call, weights, batch).shape[1]
    (at,) = (i for i, leaf in enumerate(leaves) if leaf.ndim == 2 and classes in leaf.shape)

    def first_logits(kernel: Any) -> Any:
        return call(tree.unflatten([*leaves[:at], kernel, *leaves[at + 1 :]]), batch)[:, 0]

    axis = leaves[at].shape.index(classes)
    slope = np.asarray(jax.jacrev(first_logits)(leaves[at]))  # a linear layer's is what it gets
    inputs = slope.take(0, 1 + axis)
    kernel = centred(np.moveaxis(np.asarray(leaves[at]), axis, 1), inputs)
    leaves[at] = jnp.asarray(np.moveaxis(kernel, 1, axis), leaves[at].dtype)
    return tree.unflatten(leaves)


def tapped(net: Net, call: Call, number: int) -> Callable[[Any, Any, Any], tuple[Any, list[Any]]]:
    """The model with `add` added to the map in the tap's call of that number, and all its maps."""
    owner, name = at(net.tap)
    original = getattr(owner, name)

    def through(weights: Any, x: Any, add: Any) -> tuple[Any, list[Any]]:
        maps: list[Any] = []

        def passing(*given: Any, **options: Any) -> Any:
            value = given[1] if net.taken else original(*given, **options)
            maps.append(value)
            value = value + add if len(maps) - 1 == number else value
            return original(given[0], value, *given[2:], **options) if net.taken else value

        with patch.object(owner, name, passing):
            return call(weights, x), maps

    return through


def differentiated(net: Net, built: Built, weights: Any, x: Any) -> dict[str, Array]:
    """Logits, the feature map and the gradients of the top class of each picture."""
    one = x[0] if built.each else x
    _, maps = jax.eval_shape(lambda x: tapped(net, built.call, -1)(weights, x, 0), one)
    number = len(maps) - 1 - net.later
    shape = maps[number].shape
    through = tapped(net, built.call, number)
    if built.each:
        through, shape = jax.vmap(through, (None, 0, 0)), (len(x), *shape)

    logits, maps = through(weights, x, jnp.zeros(shape, x.dtype))
    target = logits.argmax(1)

    def score(x: Any, add: Any) -> Any:
        return through(weights, x, add)[0][jnp.arange(len(x)), target].sum()

    image_slope, slope = jax.grad(score, (0, 1))(x, jnp.zeros(shape, x.dtype))
    first = x.shape[1] < x.shape[3]
    found = {"x": x, "logits": logits, "target": target, "A": gridded(maps[number], first),
             "dA": gridded(slope, first), "dx": image_slope}  # fmt: skip
    return {name: np.asarray(value) for name, value in found.items()}


def gridded(t: Any, first: bool) -> Any:
    """A map as (N, K, h, w); tokens lose what comes before the patches."""
    if t.ndim == 3:
        side = math.isqrt(t.shape[1])
        patches = t[:, t.shape[1] - side * side :]
        return patches.transpose(0, 2, 1).reshape(len(t), -1, side, side)
    return t if first else t.transpose(0, 3, 1, 2)


def answers_alike(path: Path, arrays: Mapping[str, Array]) -> None:
    """Fails if ONNX Runtime does not run the file, or finds other answers than the model's."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = arrays["x"].astype(np.float32)
    (found,) = session.run(None, {session.get_inputs()[0].name: x})
    off = np.abs(found - arrays["out"]).max() / np.abs(arrays["out"]).max()
    if off > ALIKE:
        raise ValueError(f"the file answers otherwise than the model, by {off:.1g} of the largest")


def build(group: Group) -> Made:
    """One model with random weights."""
    net = NETS[group.model]
    first = net.shape[0] < net.shape[2]
    channels = net.shape[0 if first else 2]
    drawn = images(generator(group.model), COUNT + 8, net.shape[1])[..., :channels]
    pictures = (drawn.transpose(0, 3, 1, 2) if first else drawn).astype(np.float32)
    x, batch = pictures[:COUNT], pictures[COUNT:]
    maker, packages = LIBRARIES[net.library]
    built = maker(net, jnp.asarray(batch))
    call = jax.vmap(built.call, (None, 0)) if built.each else built.call
    weights = told_apart(call, built.weights, batch)
    arrays = differentiated(net, built, weights, jnp.asarray(x))
    single = arrays["dx"]
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda w: jnp.asarray(w, jnp.float64), weights)
        arrays = differentiated(net, built, exact, jnp.asarray(x, jnp.float64))
    arrays |= {"dx32": single, "out": net.end(arrays["logits"])}

    def write(exporter: str, opset: int, path: Path) -> None:
        import jax2onnx

        shapes = [("B", *net.shape)]
        jax2onnx.to_onnx(built.entry(weights), shapes, opset=opset, return_mode="file",
                         output_path=str(path))  # fmt: skip
        answers_alike(path, arrays)

    names = (*packages, "jax", "jax2onnx")
    framework = " / ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return Made(framework, group.layer, arrays, write)


if __name__ == "__main__":
    sys.exit(run(groups(), build, __doc__ or ""))
