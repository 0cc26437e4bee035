"""Makes the Keras part of the zoo: every architecture of keras.applications, nothing downloaded.

    python tools/zoo_keras.py make Xception FOLDER

Needs tensorflow, tf2onnx and onnx. Exports by tf2onnx, and by Keras' own `model.export`. Pictures
are channels-last except in the groups `NAME-nchw`, which tf2onnx was told to turn around. The
reference is TensorFlow's, in float64, on a second copy of the model without the final softmax.

ConvNeXt cannot be exported as it is: tf2onnx knows neither Erfc (the exact GELU) nor the compiled
call that Keras wraps around a grouped convolution. The exporter `tf2onnx-rewritten` takes the same
model with its grouped convolutions as depthwise layers, and tells tf2onnx what Erfc is.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported
os.environ.setdefault("TF2ONNX_CATCH_ERRORS", "FALSE")  # else each optimiser copies all weights

import numpy as np
import zoo_maker
from zoo_maker import Array, Group, Made

FAMILY = "keras.applications"
# Architecture: side of the picture, what its preparation makes of grey values, feature map.
# The larger EfficientNets get smaller pictures than they were made for: the graph is the same.
NETS: dict[str, tuple[int, str, str]] = {
    "Xception": (299, "tf", "block14_sepconv2_act"),
    "VGG16": (224, "caffe", "block5_conv3"),
    "VGG19": (224, "caffe", "block5_conv4"),
    **{f"ResNet{n}": (224, "caffe", "conv5_block3_out") for n in (50, 101, 152)},
    **{f"ResNet{n}V2": (224, "tf", "post_relu") for n in (50, 101, 152)},
    "InceptionV3": (299, "tf", "mixed10"),
    "InceptionResNetV2": (299, "tf", "conv_7b_ac"),
    "MobileNet": (224, "tf", "conv_pw_13_relu"),
    "MobileNetV2": (224, "tf", "out_relu"),
    "MobileNetV3Small": (224, "bytes", "activation_17"),
    "MobileNetV3Large": (224, "bytes", "activation_19"),
    **{f"DenseNet{n}": (224, "torch", "relu") for n in (121, 169, 201)},
    "NASNetMobile": (224, "tf", "activation_187"),
    "NASNetLarge": (331, "tf", "activation_259"),
    **{
        f"EfficientNetB{n}": (side, "bytes", "top_activation")
        for n, side in enumerate((224, 240, 260, 300, 224, 224, 224, 224))
    },
    **{
        f"EfficientNetV2{n}": (side, "bytes", "top_activation")
        for n, side in zip(
            ("B0", "B1", "B2", "B3", "S", "M", "L"),
            (224, 240, 260, 300, 224, 224, 224),
            strict=True,
        )
    },
    **{
        f"ConvNeXt{n}": (224, "bytes", layer)
        for n, layer in zip(
            ("Tiny", "Small", "Base", "Large", "XLarge"), ("add_17", *["add_35"] * 4), strict=True
        )
    },
}
OWN_EXPORT = (
    *("Xception", "EfficientNetB0", "MobileNetV3Small", "MobileNetV3Large", "DenseNet121"),
    *("NASNetMobile", "ResNet50V2", "InceptionV3", "ConvNeXtTiny", "VGG16"),
)
NCHW = ("ResNet50", "MobileNetV2")
SEVENTEEN = ("ConvNeXt", "EfficientNetV2")  # exported with opset 17, all others with 15
LARGE = 100_000_000  # parameters; beyond, the reference is in float32


def groups() -> list[Group]:
    """Every architecture once, and two of them channels-first."""
    made: list[Group] = []
    for name, (_, _, layer) in NETS.items():
        exporter = "tf2onnx-rewritten" if name.startswith("ConvNeXt") else "tf2onnx"
        exports = [(exporter, 17 if name.startswith(SEVENTEEN) else 15)]
        if name == "ConvNeXtTiny":
            exports.append(("tf2onnx", 17))
        if name in OWN_EXPORT:
            exports.append(("keras", 18))
        made.append(Group(FAMILY, name, tuple(exports), layer))
    made += [Group(FAMILY, f"{name}-nchw", (("tf2onnx", 15),), NETS[name][2]) for name in NCHW]
    return made


def pictures(name: str, count: int, side: int, kind: str) -> Array:
    """Pictures as the architecture wants them, NHWC: float32."""
    random = zoo_maker.generator(f"pictures {name} {count}")
    drawn = zoo_maker.images(random, count, side)
    grey = zoo_maker.bytes_of(drawn)
    prepared: dict[str, Array] = {
        "bytes": grey,
        "tf": grey / 127.5 - 1,
        "caffe": grey[..., ::-1] - np.array([103.939, 116.779, 123.68]),
        "torch": (grey / 255 - [0.485, 0.456, 0.406]) / np.array([0.229, 0.224, 0.225]),
    }
    return prepared[kind].astype(np.float32)


def architecture(name: str, side: int, activation: str | None) -> Any:
    """A model of keras.applications with fresh weights and the names that a first model has."""
    import keras

    keras.utils.clear_session()
    net = getattr(keras.applications, name)(
        weights=None, input_shape=(side, side, 3), classifier_activation=activation
    )
    for layer in net.layers:
        if not isinstance(layer, keras.layers.Normalization):
            continue
        if layer.input_mean is None:
            layer.adapt_mean.assign([0.485, 0.456, 0.406])
            layer.adapt_variance.assign([0.229**2, 0.224**2, 0.225**2])
            layer.finalize_state()
    return net


def built(name: str, side: int, activation: str | None) -> Any:
    """The model that is made: the architecture, ConvNeXt without grouped convolutions."""
    net = architecture(name, side, activation)
    net = ungrouped(net) if name.startswith("ConvNeXt") else net
    for layer in net.layers:
        if hasattr(layer, "input_mean"):  # as tensors, exporters make further inputs of them
            layer.mean, layer.variance = np.asarray(layer.mean), np.asarray(layer.variance)
    return net


def ungrouped(net: Any) -> Any:
    """The same model with depthwise layers for convolutions that have a group for each channel.

    TensorFlow cannot do grouped convolutions on a CPU uncompiled, and compiled they are slow.
    """
    import keras

    def layer(old: Any) -> Any:
        if not isinstance(old, keras.layers.Conv2D) or old.groups == 1:
            return old.__class__.from_config(old.get_config())
        names = ("name", "kernel_size", "strides", "padding", "use_bias", "activation")
        config = {name: value for name, value in old.get_config().items() if name in names}
        return keras.layers.DepthwiseConv2D(**config)

    return keras.models.clone_model(net, clone_function=layer)


def calibrate(net: Any, name: str, batch: Array) -> None:
    """Draws weights and scales them, layer by layer in the order they run, on a batch.

    The last layer with weights is made blind to what all pictures of the batch have in common.
    """
    import keras

    random = zoo_maker.generator(f"weights {name}")
    last = [layer for layer in net.layers if layer.weights][-1]
    linear = keras.activations.linear

    def weigh(layer: Any, x: Any) -> Any:
        activation, layer.activation = layer.activation, linear
        separable = hasattr(layer, "pointwise_kernel")
        kernel = layer.pointwise_kernel if separable else layer.kernel
        depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        shape = tuple(kernel.shape)
        fan_in = np.prod(shape[:2] if depthwise else shape[:-1])
        kernel.assign(random.normal(0, np.sqrt(2 / fan_in), shape))
        if separable:
            window = tuple(layer.depthwise_kernel.shape)
            layer.depthwise_kernel.assign(random.normal(0, 1 / np.sqrt(window[0]), window))
        if layer.bias is not None:
            layer.bias.assign(random.normal(0, 0.05, tuple(layer.bias.shape)))
        if layer is last:
            flat = np.asarray(x).reshape(len(batch), -1)
            matrix = zoo_maker.centred(np.asarray(kernel).reshape(-1, shape[-1]), flat)
            kernel.assign(matrix.reshape(shape))
            layer.activation = activation
            return layer(x)
        y = np.asarray(layer(x))
        kernel.assign(np.asarray(kernel) / y.std())
        if layer.bias is not None:
            layer.bias.assign(np.asarray(layer.bias) / y.std())
        layer.activation = activation
        return layer(x)

    def norm(layer: Any, x: Any) -> Any:
        if layer.gamma is not None:
            layer.gamma.assign(random.uniform(0.5, 1.5, tuple(layer.gamma.shape)))
        layer.beta.assign(random.normal(0, 0.3, tuple(layer.beta.shape)))
        if hasattr(layer, "moving_mean"):
            flat = np.asarray(x).reshape(-1, x.shape[-1])
            layer.moving_mean.assign(flat.mean(0))
            layer.moving_variance.assign(flat.var(0).clip(1e-3))
        return layer(x, training=False)

    def visit(layer: Any) -> Any:
        if isinstance(layer, keras.Sequential):
            return lambda x, **_: chain(layer.layers, x)
        if hasattr(layer, "kernel") or hasattr(layer, "pointwise_kernel"):
            return lambda x, **_: weigh(layer, x)
        if hasattr(layer, "beta"):
            return lambda x, **_: norm(layer, x)
        if type(layer).__name__ == "LayerScale":  # 1e-6 before training: the block would do nothing
            layer.gamma.assign(np.full(tuple(layer.gamma.shape), 0.2))
        return layer

    def chain(layers: Sequence[Any], x: Any) -> Any:
        for layer in layers:
            x = visit(layer)(x)
        return x

    net._run_through_graph(keras.ops.convert_to_tensor(batch), operation_fn=visit)


def feature_map(net: Any) -> Any:
    """The tensor in front of the pooling that ends the grid."""
    import keras

    pools = keras.layers.GlobalAveragePooling2D | keras.layers.MaxPooling2D
    return [layer for layer in net.layers if isinstance(layer, pools)][-1].input


def reference(net: Any, weights: Sequence[Array], name: str, side: int, kind: str) -> Any:
    """TensorFlow's own answers in float64, picture by picture, and the layer they are of.

    `dx32` is the image gradient once more in float32; a large model is done in float32 only.
    """
    arrays, layer = differentiated(net, weights, name, side, kind, "float32")
    if sum(w.size for w in weights) <= LARGE:
        single = arrays["dx"]
        arrays, layer = differentiated(net, weights, name, side, kind, "float64")
        arrays["dx32"] = single
    return arrays, layer


def differentiated(
    net: Any, weights: Sequence[Array], name: str, side: int, kind: str, kept: str
) -> tuple[dict[str, Array], str]:
    """The arrays of a reference, computed in the floats of type `kept`."""
    import keras
    import tensorflow as tf

    keras.config.set_floatx(kept)
    twin = built(name, side, None)
    twin.set_weights(weights)
    features = feature_map(twin)
    both = keras.Model(twin.input, [features, twin.output])
    x = pictures(name, zoo_maker.COUNT, side, kind)
    rows: list[tuple[Array, ...]] = []
    for picture in x.astype(kept):
        image = tf.constant(picture[None])
        with tf.GradientTape() as tape:
            tape.watch(image)
            grid, logits = both(image, training=False)
            target = int(np.argmax(logits))
            score = logits[0, target]
        slopes = tape.gradient(score, [grid, image])
        held = (logits, np.array([target]), grid, *slopes)
        rows.append(tuple(np.asarray(value) for value in held))
    keras.config.set_floatx("float32")
    logits, classes, grid, slope, image_slope = map(np.concatenate, zip(*rows, strict=True))
    arrays: dict[str, Array] = {
        "x": x,
        "logits": logits,
        "out": zoo_maker.softmax(logits),
        "target": classes,
        "A": grid.transpose(0, 3, 1, 2),
        "dA": slope.transpose(0, 3, 1, 2),
        "dx": image_slope,
    }
    return arrays, features._keras_history.operation.name


def convert(net: Any, side: int, exporter: str, opset: int, path: Path, turned: bool) -> None:
    """Writes a model with tf2onnx."""
    import tensorflow as tf
    import tf2onnx

    node = tf2onnx.graph.Node
    if not hasattr(node, "written"):
        node.written, node.update_proto = None, thrifty(node.update_proto)
    signature = [tf.TensorSpec((None, side, side, 3), tf.float32, name="image")]
    call = tf.function(lambda image: net(image, training=False), input_signature=signature)
    tf2onnx.convert.from_function(
        call,
        input_signature=signature,
        opset=opset,
        inputs_as_nchw=["image"] if turned else None,
        output_path=str(path),
        custom_op_handlers={"Erfc": (erfc, [])} if exporter == "tf2onnx-rewritten" else None,
    )


def thrifty(update: Any) -> Any:
    """tf2onnx's `Node.update_proto`, which writes what it has not written before.

    Each pass calls it for every node, weights among them, and a message never frees what it
    replaces: a model's weights were held forty times.
    """

    def updated(node: Any, storage: Any = None) -> None:
        value = node.attr.get("value")
        if value is None or node.written is not value:
            update(node, storage)
            node.written = value
        else:
            del node._op.output[:]
            node._op.output.extend(node.output)

    return updated


def erfc(graph: Any, node: Any, name: str, args: Any) -> None:
    """Tells tf2onnx that Erfc(x) is 1 − Erf(x)."""
    one = graph.make_const(f"{name}_one", np.ones((), np.float32)).output[0]
    erf = graph.make_node("Erf", node.input).output[0]
    kind, shape, outputs = graph.get_dtype(node.output[0]), graph.get_shape(erf), node.output
    graph.remove_node(node.name)
    graph.make_node("Sub", [one, erf], outputs=outputs, dtypes=[kind], shapes=[shape])


def complain(path: Path) -> None:
    """An error where a file has operators that ONNX does not know: tf2onnx only logs them."""
    import onnx

    nodes = onnx.load(str(path), load_external_data=False).graph.node
    foreign = sorted({n.op_type for n in nodes if not n.domain and not onnx.defs.has(n.op_type)})
    if foreign:
        raise ValueError(f"tf2onnx leaves TensorFlow operators: {', '.join(foreign)}")


def build(group: Group) -> Made:
    """The model of a group, calibrated, with its reference."""
    import keras
    import tensorflow as tf

    name, _, turned = group.model.partition("-")
    side, kind, _ = NETS[name]
    net = built(name, side, "softmax")
    calibrate(net, name, pictures(name, 6, side, kind))
    arrays, layer = reference(net, net.get_weights(), name, side, kind)
    if turned:
        arrays |= {key: arrays[key].transpose(0, 3, 1, 2) for key in ("x", "dx", "dx32")}

    def write(exporter: str, opset: int, path: Path) -> None:
        as_it_is = name.startswith("ConvNeXt") and exporter != "tf2onnx-rewritten"
        asked = architecture(name, side, "softmax") if as_it_is else net
        if exporter == "keras":
            asked(np.zeros((1, side, side, 3), np.float32))  # one never called is refused
            asked.export(str(path), format="onnx", opset_version=opset, verbose=False)
        else:
            convert(asked, side, exporter, opset, path, bool(turned))
        complain(path)

    releases = (("keras", keras.__version__), ("tensorflow", tf.__version__))
    converter = ("tf2onnx", importlib.metadata.version("tf2onnx"))
    framework = " / ".join(f"{which} {version}" for which, version in (*releases, converter))
    return Made(framework, layer, arrays, write)


if __name__ == "__main__":
    sys.exit(zoo_maker.run(groups(), build, "Makes models of keras.applications."))
