"""Where a model comes from: told by marks in the file, and never without one."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from models import LIGHT, tiny
from onnxcam.graph.exporter import Origin, origin_of
from onnxcam.graph.read import read_model

TORCHSCRIPT, DYNAMO = "torch.onnx.export, TorchScript", "torch.onnx.export, dynamo"


def made(producer: str = "", graph: str = "g", nodes: dict[str, str] | None = None) -> Origin:
    """The origin of the little model under another producer and other names (operator → name)."""
    proto = tiny()
    proto.producer_name, proto.graph.name = producer, graph
    for node in proto.graph.node:
        node.name = (nodes or {}).get(node.op_type, "")
    return origin_of(proto)


SCRIPT_NAMES = {"Conv": "/stem/Conv", "Relu": "/stem/act/Relu_1", "Gemm": "/fc/Gemm"}


@pytest.mark.parametrize("start", ["ts", "dy"])
def test_both_exporters_of_pytorch_are_told_apart(goldens: Path, start: str) -> None:
    files = sorted(goldens.glob(f"*/{start}*.onnx"))
    assert len(files) > 20
    for file in files:
        origin = origin_of(read_model(file).proto)
        wanted = TORCHSCRIPT if start == "ts" else DYNAMO
        assert (origin.framework, origin.exporter) == ("PyTorch", wanted), file
        assert origin.evidence[0].startswith("producer 'pytorch', version 2")
        assert not origin.rewriters


@pytest.mark.parametrize(
    ("file", "framework", "exporter"),
    [
        ("mnist-8_cntk", "CNTK", "CNTK"),
        ("cifar10_winml_cnn_fc", "PyTorch", TORCHSCRIPT),
        ("leafsnap30_cnn_fc", "PyTorch", TORCHSCRIPT),
        ("imagenet_squeezenet_caffe2_fp16", "Caffe2", "onnx-caffe2"),
        ("customvision_computer_multilabel", "Microsoft Custom Vision", "onnxmltools"),
        ("imagenet_mobilenetv2-12-qdq", "PyTorch", TORCHSCRIPT),
        ("imagenet_mobilenetv2_tf_nhwc_fp32", "TensorFlow Lite", "tf2onnx"),
        ("imagenet_squeezenet1.1_fp32", None, None),
    ],
)
def test_real_models(
    shared_data: Path, file: str, framework: str | None, exporter: str | None
) -> None:
    origin = origin_of(read_model(shared_data / f"models/{file}.onnx").proto)
    assert (origin.framework, origin.exporter) == (framework, exporter)
    assert bool(origin.evidence) == (framework is not None)
    quantised = [one.tool for one in origin.rewriters if "quantiser" in one.tool]
    assert quantised == (["ONNX Runtime's quantiser"] if "qdq" in file else [])


def test_models_of_caffe2() -> None:
    origin = origin_of(read_model(LIGHT / "light_vgg19.onnx").proto)
    assert (origin.framework, origin.evidence) == ("Caffe2", ("producer 'onnx-caffe2'",))


@pytest.mark.parametrize(
    ("producer", "graph", "nodes", "framework", "exporter"),
    [
        ("pytorch", "g", {}, "PyTorch", "torch.onnx.export"),
        ("pytorch", "g", {"Conv": "Conv_0", "Relu": "Relu_1"}, "PyTorch", TORCHSCRIPT),
        ("pytorch", "g", {"Conv": "node_conv2d", "Relu": "node_relu"}, "PyTorch", DYNAMO),
        ("", "torch-jit-export", {}, "PyTorch", TORCHSCRIPT),
        ("tf2onnx", "g", {}, "TensorFlow or Keras", "tf2onnx"),
        ("tf2onnx", "g", {"Conv": "m/sequential_1/conv2d/Conv2D"}, "Keras", "tf2onnx"),
        ("tf2onnx", "g", {"Conv": "jax2tf_net_/Conv"}, "JAX", "tf2onnx"),
        ("keras2onnx", "g", {}, "Keras", "keras2onnx"),
        ("jax2onnx", "g", {}, "JAX", "jax2onnx"),
        ("PaddlePaddle", "g", {}, "PaddlePaddle", "paddle2onnx"),
        ("", "g", {"Conv": "p2o.Conv.0", "Relu": "p2o.Relu.0"}, "PaddlePaddle", "paddle2onnx"),
        ("", "mxnet_converted_model", {}, "MXNet", "mx2onnx"),
        ("Chainer", "g", {}, "Chainer", "onnx-chainer"),
        ("skl2onnx", "g", {}, "scikit-learn", "skl2onnx"),
        ("WinMLTools", "g", {}, None, "winmltools"),
        ("OnnxMLTools", "g", {}, None, "onnxmltools"),
        ("somebody", "main_graph", {"Conv": "Conv_0", "Relu": "Relu_1"}, None, None),
        ("", "", {}, None, None),
    ],
)
def test_rows(
    producer: str, graph: str, nodes: dict[str, str], framework: str | None, exporter: str | None
) -> None:
    origin = made(producer, graph, nodes)
    assert (origin.framework, origin.exporter) == (framework, exporter)
    assert bool(origin.evidence) == (exporter is not None)


@pytest.mark.parametrize("ending", ["", "_quant"])
def test_a_quantiser_does_not_hide_the_exporter(ending: str) -> None:
    origin = made("onnx.quantize", "g", {op: n + ending for op, n in SCRIPT_NAMES.items()})
    assert (origin.framework, origin.exporter) == ("PyTorch", TORCHSCRIPT)
    assert origin.evidence == ("node names such as '/stem/Conv'",)
    assert [one.tool for one in origin.rewriters] == ["ONNX Runtime's quantiser"]


def test_one_name_alone_is_no_evidence() -> None:
    names = dict.fromkeys(("Relu", "GlobalAveragePool", "Flatten", "Gemm"), "layer")
    assert made("onnx.quantize", "g", {**names, "Conv": "/stem/Conv"}).exporter is None


def test_metadata_of_nodes_tells_without_a_producer() -> None:
    proto = tiny()
    proto.graph.node[0].metadata_props.append(
        onnx.StringStringEntryProto(key="pkg.torch.onnx.name_scopes", value="[]")
    )
    origin = origin_of(proto)
    assert origin.exporter == DYNAMO
    assert origin.evidence == ("metadata 'pkg.torch.onnx.name_scopes' of nodes",)


def test_rewriters_are_found() -> None:
    proto = tiny()
    proto.producer_name = "onnxruntime.transformers"
    proto.opset_import.append(onnx.helper.make_opsetid("com.microsoft.nchwc", 1))
    proto.graph.node[0].name = "graph_input_cast0"
    assert [one.tool for one in origin_of(proto).rewriters] == [
        "ONNX Runtime's transformer optimiser",
        "ONNX Runtime's graph optimiser",
        "converter to float16",
    ]
