"""Odd inputs: preprocessing inside, no batch axis, decoders, fixed batches, several pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from kinds import X, body, exact_is_literal, explain, net, same, scores_kept
from PIL import Image

import models
from models import rng, run, weight
from onnxcam import Explainer, ModelError, OnnxcamError, OpError, load
from onnxcam.cli import main

MEAN, STD = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
PREPARE = {
    "white": np.array(255, np.float32),
    "mean": np.array(MEAN, np.float32),
    "std": np.array(STD, np.float32),
    "sizes": np.array([12, 12]),
    "first": np.array([0]),
}
SCALED = " xd = Div(xf, white) xs = Sub(xd, mean) xm = Div(xs, std)"
LAST = "xt = Transpose <perm = [0, 3, 1, 2]> (xm)" + body("xt", "y")
ALONE = "xt = Transpose <perm = [2, 0, 1]> (xm) xu = Unsqueeze(xt, first)" + body("xu", "y")
RESIZE = 'Resize <mode = "linear", axes = [{}]>'


def bytes_of(*shape: int) -> np.ndarray:
    return rng(5).integers(0, 256, shape).astype(np.uint8)


def prepared(text: str, inputs: str, outputs: str = "float[N,4] y") -> Any:
    return net(text, inputs, outputs, **{k: v for k, v in PREPARE.items() if k in text})


INSIDE = {
    "bytes": ("xf = Cast <to = 1> (x)" + SCALED + LAST, "uint8[N,12,12,3] x"),
    "floats": ("xf = Identity(x)" + SCALED + LAST, "float[N,12,12,3] x"),
    "fixed batch": ("xf = Cast <to = 1> (x)" + SCALED + LAST, "uint8[1,12,12,3] x"),
    "any size": (
        f"xc = Cast <to = 1> (x) xf = {RESIZE.format('1, 2')} (xc, , , sizes)" + SCALED + LAST,
        "uint8[N,H,W,3] x",
    ),
    "no batch": ("xf = Cast <to = 1> (x)" + SCALED + ALONE, "uint8[12,12,3] x"),
    "no batch, any size": (
        f"xc = Cast <to = 1> (x) xf = {RESIZE.format('0, 1')} (xc, , , sizes)" + SCALED + ALONE,
        "uint8[H,W,3] x",
    ),
}


@pytest.mark.parametrize("kind", INSIDE)
def test_preprocessing_inside(kind: str) -> None:
    text, inputs = INSIDE[kind]
    proto = prepared(text, inputs, "float[1,4] y" if "[N" not in inputs else "float[N,4] y")
    x = bytes_of(1, 20, 15, 3) if "H,W" in inputs else bytes_of(1, 12, 12, 3)
    x = x.astype(np.float32) if kind == "floats" else x
    x = x[0] if "batch" in kind and kind.startswith("no") else x
    classifier = load(proto)
    assert classifier.layer().tensor == "r2" and classifier.batch is None
    assert classifier.image.prepared.pixels == 255
    assert classifier.image.prepared.resizes == ("size" in kind)
    if "H,W" not in inputs:
        scores_kept(proto, {"x": x}, "y")
    found = exact_is_literal(proto, x)
    assert found.scores == pytest.approx(run(proto, {"x": x}, ["y"])[0], rel=1e-4)
    explainer = Explainer(proto, "saliency", provider="cpu")
    picture = Image.fromarray(bytes_of(20, 15, 3))
    shown = explainer.explain(picture)
    preset = shown.preset
    assert (preset.name, preset.scale, preset.channel_order) == ("raw-255", 1.0, "RGB")
    assert (preset.mean, preset.std) == ((0.0,), (1.0,))
    assert np.abs(shown.map).max() > 0
    assert shown.map.shape[1:] == ((20, 15) if "size" in kind else (12, 12))


def test_the_gradient_for_bytes_is_that_of_the_pixels() -> None:
    """As of the float behind the Cast, against the same net on floats."""
    text, inputs = INSIDE["bytes"]
    x = bytes_of(2, 12, 12, 3)
    floats = prepared(text, inputs.replace("uint8", "float"))
    same(
        explain(prepared(text, inputs), x, "saliency"),
        explain(floats, x.astype(np.float32), "saliency"),
    )


@pytest.mark.parametrize(
    ("text", "pixels"),
    [
        ("xs = Sub(x, m3) xt = Div(xs, s3)", 1),
        ("xt = Mul(x, small)", 255),
        ("xt = Sub(x, caffe)", 255),
        ("k = Gather <axis = 1> (x, bgr) xt = Mul(k, small)", 255),
        ("xt = Mul(x, one)", None),
        ("a = Mul(x, small) b = Sigmoid(a) xt = Mul(b, one)", None),
    ],
)
def test_white_that_is_taken_off(text: str, pixels: int | None) -> None:
    more = {
        "m3": np.array(MEAN, np.float32).reshape(3, 1, 1),
        "s3": np.array(STD, np.float32).reshape(3, 1, 1),
        "small": np.array(1 / 255, np.float32),
        "caffe": np.array([104, 117, 123], np.float32).reshape(3, 1, 1),
        "bgr": np.array([2, 1, 0]),
    }
    used = {k: v for k, v in more.items() if k in text}
    assert load(net(text + body("xt", "y"), **used)).image.prepared.pixels == pixels


def test_pictures_without_batch_in_other_forms() -> None:
    """Channels first; the batch added by Reshape and dropped at the end; and in no known way."""
    first = "xf = Cast <to = 1> (x) xd = Div(xf, white) xu = Reshape(xd, whole)"
    shape = np.array([1, 3, 12, 12])
    for text, outputs in (
        (body("xu", "y"), "float[1,4] y"),
        (body("xu", "z") + "y = Squeeze(z, first)", "float[4] y"),
        (body("xu", "z") + "q = Squeeze(z, first) y = Softmax <axis = 0> (q)", "float[4] y"),
    ):
        more = {k: v for k, v in PREPARE.items() if k in first + text}
        proto = net(first + text, "uint8[3,12,12] x", outputs, whole=shape, **more)
        assert load(proto).batch is None
        scores_kept(proto, {"x": bytes_of(3, 12, 12)}, "y")
        exact_is_literal(proto, bytes_of(3, 12, 12))
    odd = "xf = Cast <to = 1> (x) q = ReduceMax <keepdims = 1> (xf, first) xs = Sub(xf, q)"
    proto = prepared(odd + " xu = Unsqueeze(xs, first)" + body("xu", "y"), "uint8[3,12,12] x")
    assert load(proto).batch == 1
    scores_kept(proto, {"x": bytes_of(3, 12, 12)}, "y")
    exact_is_literal(proto, bytes_of(3, 12, 12))


def decoding() -> Any:
    text, _ = INSIDE["no batch, any size"]
    text = "d = DecodeImage(b) " + text.replace("(x)", "(d)")
    proto = net(
        text, "uint8[B] b", "float[1,4] y", imports=', "com.microsoft.extensions" : 1',
        **{k: v for k, v in PREPARE.items() if k in text},
    )  # fmt: skip
    next(
        n for n in proto.graph.node if n.op_type == "DecodeImage"
    ).domain = "com.microsoft.extensions"
    return proto


def test_a_decoder_inside_can_be_left_out() -> None:
    with pytest.raises(OpError, match=r"DecodeImage.*ONNX Runtime Extensions.*--input d"):
        load(decoding())
    x = bytes_of(20, 15, 3)
    text, inputs = INSIDE["no batch, any size"]
    same(explain(decoding(), x, image="d"), explain(prepared(text, inputs, "float[1,4] y"), x))


def test_any_tensor_inside_may_be_the_image() -> None:
    text, inputs = INSIDE["bytes"]
    proto = prepared(text, inputs)
    classifier = load(proto, image="xt")
    assert (classifier.image.layout, classifier.image.shape()) == ("NCHW", (1, 3, 12, 12))
    same(explain(proto, X, image="xt"), explain(net(body("xt", "y"), "float[N,3,12,12] xt"), X))
    with pytest.raises(ModelError, match=r"'f' .* is no image"):
        load(proto, image="f")


MIXED = body("x", "z") + "q = ReduceMean <keepdims = 1> (f, first) e = Sub(f, q) y = Gemm(e, v, c)"


def test_a_batch_that_stays_fixed_is_filled_up() -> None:
    proto = net(MIXED, "float[8,3,12,12] x", "float[8,4] y", first=np.array([0]))
    explainer = Explainer(proto, provider="cpu", threads=1)
    assert explainer.classifier.batch == 8
    assert any("stays fixed to 8" in n for n in explainer.classifier.notes)
    x = models.images(3, 3, 12, 12)
    full = np.concatenate([x, np.repeat(x[-1:], 5, axis=0)])
    for method in ("grad-cam", "saliency", "ablation-cam"):
        few, whole = (explain(proto, batch, method) for batch in (x, full))
        assert len(few.map) == len(few.scores) == 3
        models.close(few.scores, run(proto, {"x": full}, ["y"])[0][:3])
        models.close(few.raw, whole.raw[:3])
    picture = Image.fromarray(bytes_of(20, 15, 3))
    assert explainer.explain(picture).map.shape == (1, 6, 6)
    freed = net(body("x", "y").replace("Flatten(g)", "Reshape(g, eight)"), "float[8,3,12,12] x",
                "float[8,4] y", eight=np.array([8, 8]))  # fmt: skip
    assert load(freed).batch is None
    same(exact_is_literal(freed, X), explain(net(body("x", "y")), X))


TWO = body("x", "y1", "A") + body("u", "y2", "B") + "y = Add(y1, y2)"
VIEWS = "float[N,3,12,12] x, float[N,3,12,12] u"
DEPTH = "k = Concat <axis = 1> (x, d) q = Conv(k, wd)" + body("q", "y")


def test_several_pictures(tmp_path: Path) -> None:
    proto = net(TWO, VIEWS)
    with pytest.raises(ModelError, match=r"'x' \(N, 3, 12, 12\), 'u'.*--input x --feed u=VALUE"):
        load(proto)
    with pytest.raises(ModelError, match=r"further inputs: 'u' \(N, 3, 12, 12\).*--feed u=VALUE"):
        load(proto, image="x")
    other = models.images(1, 3, 12, 12, seed=9)
    found = exact_is_literal(proto, image="x", inputs={"u": other})
    want = run(proto, {"x": X, "u": np.repeat(other, 2, axis=0)}, ["y"])[0]
    models.close(found.scores, want)
    number = explain(proto, image="x", inputs={"u": 0.5})
    want = run(proto, {"x": X, "u": np.full_like(X, 0.5)}, ["y"])[0]
    models.close(number.scores, want)
    np.savez(tmp_path / "u.npz", other)
    same(explain(proto, image="x", inputs={"u": tmp_path / "u.npz"}), found, 1e-6)
    with pytest.raises(ModelError, match=r"input 'u' has shape \(1, 3, 5, 5\).*takes"):
        load(proto, image="x", inputs={"u": np.zeros((1, 3, 5, 5))})


def test_a_second_picture_from_a_file(tmp_path: Path) -> None:
    proto = net(DEPTH, "float[N,3,12,12] x, float[N,1,12,12] d", wd=weight(3, 4, 1, 1))
    grey = bytes_of(24, 24)
    Image.fromarray(grey).save(tmp_path / "depth.png")
    found = explain(proto, image="x", inputs={"d": str(tmp_path / "depth.png")})
    assert found.notes[0] == "input 'd' is held at depth.png, prepared as 'grey-1'"
    small = np.asarray(Image.fromarray(grey).resize((12, 12), Image.Resampling.BILINEAR))
    depth = (small / 255).astype(np.float32).reshape(1, 1, 12, 12)
    models.close(
        found.scores, explain(proto, image="x", inputs={"d": depth}).scores, tolerance=1e-2
    )
    stated = explain(proto, image="x", inputs={"d": tmp_path / "depth.png"}, preset="raw-255")
    assert "'raw-255'" in stated.notes[0]
    models.close(stated.scores, explain(proto, image="x", inputs={"d": depth * 255}).scores,
                 tolerance=1e-2)  # fmt: skip
    with pytest.raises(OnnxcamError, match="takes no picture"):
        scalar = net(body("x", "z") + "y = Mul(z, t)", "float[N,3,12,12] x, float t")
        Explainer(scalar, inputs={"t": tmp_path / "depth.png"})


def test_feeds_of_the_command_line(tmp_path: Path, capsys: Any) -> None:
    onnx.save(net(TWO, VIEWS), tmp_path / "two.onnx")
    Image.fromarray(bytes_of(20, 15, 3)).save(tmp_path / "a.png")
    call = ["explain", str(tmp_path / "two.onnx"), str(tmp_path / "a.png"), "--input", "x",
            "--to", str(tmp_path / "out.png"), "--feed"]  # fmt: skip
    main([*call, f"u={tmp_path / 'a.png'}"], standalone_mode=False)
    assert "input 'u' is held at a.png" in capsys.readouterr().out
    assert (tmp_path / "out.png").is_file()
    with pytest.raises(Exception, match="picture file"):
        main([*call, "u=nothing"], standalone_mode=False)


@pytest.mark.parametrize("sides", ["H,W", "?,?", "-1,-1"])
def test_free_sides(sides: str) -> None:
    proto = net(body("x", "y"), "float[N,3,H,W] x")
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    for dim in dims[2:]:
        if sides == "?,?":
            dim.Clear()
        if sides == "-1,-1":
            dim.dim_value = -1
    explainer = Explainer(proto, provider="cpu", threads=1)
    for h, w in ((20, 12), (9, 31)):
        found = explainer.explain(Image.fromarray(bytes_of(h, w, 3)))
        assert found.map.shape == (1, h // 2, w // 2)
