"""Scores are found behind what models do with them at their end."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from kinds import body, exact_is_literal, explain, net, same
from onnx import helper

from onnxcam import ModelError, load

PLAIN = body("x", "z")
TAILS = {  # tail → outputs, (logit, probability, activation), what is left out
    "s = Softmax(z) y = Mul(s, hundred)": ("float[N,4] y", ("z", "s", "softmax"), "Mul"),
    "s = Softmax(z) y = Clip(s, nought, one)": ("float[N,4] y", ("z", "s", "softmax"), "Clip"),
    "s = Sigmoid(z) t = Mul(s, hundred) y = Round(t)": (
        *("float[N,4] y", ("z", "s", "sigmoid"), "Mul, Round"),
    ),
    "s = Sigmoid(z) q = Greater(s, half) y = Cast <to = 7> (q)": (
        *("int64[N,4] y", ("z", "s", "sigmoid"), "Greater"),
    ),
    "s = Sigmoid(z) y = Less(half, s)": ("bool[N,4] y", ("z", "s", "sigmoid"), "Less"),
    "s = Sigmoid(z) q = Greater(s, half) y = Where(q, one, nought)": (
        *("float[N,4] y", ("z", "s", "sigmoid"), "Where, Greater"),
    ),
    "s = Sigmoid(z) q = Greater(s, half) y = Where(q, s, nought)": (
        *("float[N,4] y", ("z", "s", "sigmoid"), "Where"),
    ),
    "s = Sigmoid(z) q = Greater(s, half) d = Cast <to = 1> (q) y = Mul(s, d)": (
        *("float[N,4] y", ("z", "s", "sigmoid"), "Mul"),
    ),
    "y = Greater(z, nought)": ("bool[N,4] y", ("z", None, None), "Greater"),
    "s = Softmax(z) y = ArgMax <axis = 1> (s)": ("int64[N,1] y", ("z", "s", "softmax"), "ArgMax"),
    "s = Softmax(z) y, i = TopK <axis = 1> (s, k)": (
        *("float[N,3] y, int64[N,3] i", ("z", "s", "softmax"), "TopK"),
    ),
    "s = Softmax(z) i = ArgMax <axis = 1, keepdims = 0> (s)": (
        *("int64[N] i, float[N,4] s", ("z", "s", "softmax"), ""),
    ),
    "s = LogSoftmax(z) y = Exp(s)": ("float[N,4] y", ("z", "y", "softmax"), ""),
    "s = Softmax(z) y = ReduceMax <keepdims = 0> (s, axis)": (
        *("float[N] y", ("z", "s", "softmax"), "ReduceMax"),
    ),
    "s = Softmax(z) i = ArgMax <axis = 1, keepdims = 0> (s) y = Gather(ids, i)": (
        *("int64[N] y", ("z", "s", "softmax"), "Gather, ArgMax"),
    ),
    "y = Hardmax <axis = 1> (z)": ("float[N,4] y", ("z", None, None), "Hardmax"),
    # What follows is no decision: it belongs to the score.
    "y = Div(z, hundred)": ("float[N,4] y", ("y", None, None), ""),
    "y = Clip(z, nought, one)": ("float[N,4] y", ("y", None, None), ""),
    "s = Softmax(z) y = Sub(one, s)": ("float[N,4] y", ("y", None, None), ""),
    "s = Softmax(z) y = Mul(s, weights)": ("float[N,4] y", ("y", None, None), ""),
}
MORE = {
    "k": np.array([3]),
    "axis": np.array([1]),
    "ids": np.array([7, 8, 9, 10]),
    "weights": np.array([1, 2, 3, 4], np.float32),
}


@pytest.mark.parametrize("tail", TAILS)
def test_tails(tail: str) -> None:
    outputs, score, left_out = TAILS[tail]
    used = {k: v for k, v in MORE.items() if k in tail}
    classifier = load(net(PLAIN + tail, outputs=outputs, **used))
    found = classifier.score
    assert (found.logit, found.probability, found.activation) == score
    assert ", ".join(sorted(found.stripped)) == ", ".join(
        sorted(filter(None, left_out.split(", ")))
    )
    told = [n for n in classifier.notes if n.startswith("left out behind the score")]
    assert bool(told) == bool(left_out)
    assert classifier.classes == 4


def test_explanations_are_those_of_the_logits() -> None:
    plain = net(body("x", "y"))
    tails = [t for t, (_, score, _) in TAILS.items() if score[0] == "z"]
    assert len(tails) > 10
    for tail in tails[::3]:
        proto = net(PLAIN + tail, outputs=TAILS[tail][0],
                    **{k: v for k, v in MORE.items() if k in tail})  # fmt: skip
        for method in ("ablation-cam", "saliency"):
            same(explain(proto, method=method), explain(plain, method=method), 1e-6)


@pytest.mark.parametrize("opset", [11, 13, 17])
def test_tails_of_older_opsets(opset: int) -> None:
    text = PLAIN + "s = Sigmoid(z) q = Greater(s, half) y = Cast <to = 1> (q)"
    exact_is_literal(net(text, opset=opset))


def test_constants_in_nodes() -> None:
    text = PLAIN + (
        "h = Constant <value = float {0.5}> () s = Sigmoid(z) q = Greater(s, h)"
        " y = Cast <to = 1> (q)"
    )
    assert load(net(text)).score.logit == "z"


def test_a_mask_from_elsewhere_stays() -> None:
    text = PLAIN + "s = Softmax(z) y = Where(allowed, s, nought)"
    proto = net(text, allowed=np.array([True, True, False, True]))
    assert load(proto).score.logit == "y"


def test_labels_and_zipmap() -> None:
    """Label and probabilities as Custom Vision and skl2onnx write them; names out of the graph."""
    proto = net(
        PLAIN + "s = Softmax(z) i = ArgMax <axis = 1, keepdims = 0> (s)",
        outputs="int64[N] i, float[N,4] s",
    )
    names = ["cat", "dog", "fish", "tree"]
    proto.opset_import.add(domain="ai.onnx.ml", version=3)
    proto.graph.initializer.append(
        helper.make_tensor("names", onnx.TensorProto.STRING, [4], [n.encode() for n in names])
    )
    ml: dict[str, Any] = {"domain": "ai.onnx.ml"}
    proto.graph.node.extend([
        helper.make_node("ArrayFeatureExtractor", ["names", "i"], ["label"], **ml),
        helper.make_node("ZipMap", ["s"], ["loss"], classlabels_strings=names, **ml),
    ])  # fmt: skip
    del proto.graph.output[:]
    proto.graph.output.extend([
        helper.make_tensor_value_info("label", onnx.TensorProto.STRING, [None, 1]),
        onnx.ValueInfoProto(
            name="loss",
            type=helper.make_sequence_type_proto(
                helper.make_map_type_proto(
                    onnx.TensorProto.STRING, helper.make_tensor_type_proto(1, [])
                )
            ),
        ),
    ])  # fmt: skip
    found = explain(proto)
    same(found, explain(net(body("x", "y"))), 1e-6)
    assert found.labels == names


def test_several_heads_are_listed_with_their_shapes() -> None:
    text = body("x", "y") + "u = Gemm(f, v2, c)"
    proto = net(text, outputs="float[N,4] y, float[N,4] u", v2=np.ones((8, 4), np.float32))
    with pytest.raises(ModelError, match=r"'y' \(N, 4\), 'u' \(N, 4\).*--output y"):
        load(proto)
    assert load(proto, output="u").score.logit == "u"


def test_maps_beside_the_logits_are_left_out() -> None:
    outputs = "float[N,6,12,12] r1, float[N,8,6,6] r2, float[N,4] y"
    assert load(net(body("x", "y"), outputs=outputs)).score.logit == "y"


CONVS = (
    "p1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1) r1 = Relu(p1)"
    " q = Conv <pads = [1, 1, 1, 1]> (r1, w2, b2)"
)


@pytest.mark.parametrize(
    ("text", "outputs", "match"),
    [
        (CONVS, "float[N,8,12,12] q", r"'q' has shape \(N, 8, 12, 12\).*segmenter.*12×12.*mean"),
        (
            CONVS + " y = ArgMax <axis = 1, keepdims = 0> (q)",
            "int64[N,12,12] y",
            r"'q' has shape.*segmenter.*--output; its other outputs: 'y' \(N, 12, 12\)",
        ),
        (
            CONVS + " t = Reshape(q, sh) boxes = Transpose <perm = [0, 2, 1]> (t)",
            "float[N,144,8] boxes",
            r"'boxes' has shape \(N, 144, 8\).*detector or an encoder.*144 rows of 8.*--output",
        ),
        (
            CONVS.replace("w2", "w3").replace("b2", "b3"),
            "float[N,3,12,12] q",
            r"from images to images.*--output",
        ),
    ],
    ids=["segmenter", "segmenter with labels", "detector", "filter"],
)
def test_no_classifiers(text: str, outputs: str, match: str) -> None:
    more: dict[str, Any] = {}
    if "sh" in text:
        more["sh"] = np.array([0, 8, -1])
    if "w3" in text:
        more |= {"w3": np.ones((3, 6, 3, 3), np.float32), "b3": np.ones(3, np.float32)}
    with pytest.raises(ModelError, match=match):
        load(net(text, outputs=outputs, **more))
