"""Sanity checks: likeness of maps against hand and reference, weights drawn anew, verdicts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from models import images, model, run, tiny, weight
from onnxcam import Cancel, Cancelled, Explainer, ModelError, OptionError, load
from onnxcam.evaluate.randomise import (
    HOWS,
    MODES,
    draws,
    randomised,
    replaced,
    steps,
    weighted_layers,
)
from onnxcam.evaluate.sanity import Alike, Sanity, Step, sanity
from onnxcam.evaluate.sanity_plot import plot
from onnxcam.evaluate.similarity import (
    MEASURES,
    cell_of,
    hog,
    hog_similarity,
    rank_correlation,
    scaled,
    ssim,
)
from onnxcam.graph.read import read_model
from onnxcam.image import read_picture


def maps(h: int, w: int) -> tuple[np.ndarray, np.ndarray]:
    """Two maps that are a little alike, with ties among their values."""
    y, x = np.mgrid[:h, :w]
    a = np.maximum(np.sin(x * 0.7 + y * 0.3) + np.cos(y * 1.1 - x * 0.2), 0)
    return a, np.round(np.abs(np.sin(x * 0.5 - y * 0.4) + 0.3 * a), 1)


FROZEN: dict[tuple[int, int], tuple[float, float, float, float]] = {
    # shape: ssim, rank, rank of |m − 0.6|, hog; scikit-image 0.26.0 and scipy 1.17.1
    (7, 7): (0.24678410667120035, 0.20114925799110595, 0.2280561575350883, 0.1567585023456008),
    (5, 9): (0.41093309636990394, 0.21811579779055182, 0.15493129343601414, 0.09410465065718226),
    (13, 13): (0.20611810098283145, 0.05694818996230753, 0.1146997718026022, 0.1406760408441217),
    (40, 56): (0.04887640397478489, 0.02492899966577109, 0.06716721713460014, 0.10846968260010757),
}
each_shape = pytest.mark.parametrize("shape", FROZEN, ids=str)


@each_shape
def test_the_measures_are_those_of_the_references(shape: tuple[int, int]) -> None:
    a, b = maps(*shape)
    found = ssim(a, b), rank_correlation(a, b), rank_correlation(a - 0.6, b - 0.6, True)
    np.testing.assert_allclose((*found, hog_similarity(a, b)), FROZEN[shape], atol=1e-6)


@each_shape
def test_the_references_say_so_today(shape: tuple[int, int]) -> None:
    metrics = pytest.importorskip("skimage.metrics")
    feature, stats = pytest.importorskip("skimage.feature"), pytest.importorskip("scipy.stats")
    a, b = maps(*shape)
    x, y = scaled(a), scaled(b)
    side = min(7, *shape)
    side -= 1 - side % 2
    want = metrics.structural_similarity(x, y, win_size=side, data_range=1)
    assert ssim(a, b) == pytest.approx(want, abs=1e-9)
    assert rank_correlation(a, b) == pytest.approx(stats.spearmanr(a.flat, b.flat).statistic)
    cell = cell_of(shape)
    block = tuple(min(2, n // cell) for n in shape)
    for m in (x, y):
        want = feature.hog(m, 9, (cell, cell), block, "L2-Hys")
        np.testing.assert_allclose(hog(m), want, atol=1e-6)


def test_ssim_by_hand() -> None:
    a, b = np.array([[0.0, 1.0], [2.0, 4.0]]), np.array([[1.0, 0.0], [2.0, 4.0]])
    x, y = a / 4, b / 4  # too small for a window of 3: cell by cell, without a variance
    want = np.mean((2 * x * y + 1e-4) / (x**2 + y**2 + 1e-4))
    assert ssim(a, b) == pytest.approx(want)
    rng = np.random.default_rng(0)
    c, d = (scaled(rng.random((3, 3))) for _ in range(2))  # one window
    (var_c, both), (_, var_d) = np.cov(c.flat, d.flat)
    top = (2 * c.mean() * d.mean() + 1e-4) * (2 * both + 9e-4)
    want = top / ((c.mean() ** 2 + d.mean() ** 2 + 1e-4) * (var_c + var_d + 9e-4))
    assert ssim(c, d) == pytest.approx(want)


def test_rank_correlation_by_hand() -> None:
    a = np.array([[1.0, 2.0], [3.0, 10.0]])
    assert rank_correlation(a, a**3) == pytest.approx(1)
    assert rank_correlation(a, -a) == pytest.approx(-1)
    assert rank_correlation(a, -a, absolute=True) == pytest.approx(1)
    # ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: Σ d² is no use with ties, Pearson's is 4.5 / √(4.5 · 5)
    assert rank_correlation(np.array([[0, 5, 5, 9]]), np.array([[1, 2, 3, 4]])) == pytest.approx(
        4.5 / np.sqrt(4.5 * 5)
    )


def test_hog_sees_the_direction_of_edges() -> None:
    flat = np.tile(np.arange(16.0), (16, 1))
    across = hog(scaled(flat)).reshape(-1, 9)
    assert (across[:, 0] > 0).all() and not across[:, 1:].any()  # 0°: all change is to the right
    down = hog(scaled(flat.T)).reshape(-1, 9)
    assert (down[:, 4] > 0).all() and not np.delete(down, 4, 1).any()  # 80° to 100°
    assert hog_similarity(flat, flat) == pytest.approx(1)
    assert hog_similarity(flat, flat[:, ::-1]) == pytest.approx(1)  # without sign, as in the paper
    assert hog_similarity(flat, flat.T) == pytest.approx(-1 / 8)


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_measures_know_a_map_itself_in_other_units(measure: Callable[..., float | None]) -> None:
    a, b = maps(13, 11)
    assert measure(a, a) == pytest.approx(1) and measure(a, 7 * a + 3) == pytest.approx(1)
    assert measure(a, b) == pytest.approx(measure(b, a))
    assert measure(a * 1e-300, b * 1e300) == pytest.approx(measure(a, b))


@pytest.mark.parametrize("shape", [(7, 7), (1, 1), (1, 9), (2, 2), (3, 5), (20, 20)], ids=str)
@pytest.mark.parametrize("value", [0.0, 3.0])
def test_blank_maps_give_no_nan(shape: tuple[int, int], value: float) -> None:
    blank = np.full(shape, value)
    other = np.random.default_rng(0).random(shape)
    for a, b in ((blank, blank), (blank, other), (other, blank)):
        assert np.isfinite(ssim(a, b))
        assert rank_correlation(a, b) is None and hog_similarity(a, b) is None
    assert ssim(blank, blank) == pytest.approx(1)
    tiny_map = hog_similarity(other, other)
    assert tiny_map is None if max(shape) < 3 or min(shape) < 2 else tiny_map == pytest.approx(1)


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (np.zeros((3, 3)), np.zeros((3, 4)), r"\(3, 3\) and \(3, 4\)"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "cannot be compared"),
        (np.full((3, 3), np.nan), np.zeros((3, 3)), "NaN or infinity"),
        (np.zeros((3, 3)), np.full((3, 3), np.inf), "NaN or infinity"),
    ],
)
def test_bad_maps_are_refused(measure: Any, a: np.ndarray, b: np.ndarray, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        measure(a, b)


# Weights


def arrays(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}


def names(proto: Any, **options: Any) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    return [(la.op, la.kernels, la.biases) for la in weighted_layers(proto, **options)]


def test_layers_stand_from_the_output_to_the_input() -> None:
    assert names(tiny()) == [("Gemm", ("v",), ("c",)), ("Conv", ("w",), ("b",))]
    first, last = weighted_layers(tiny())
    assert first.shape == (6, 4) and last.shape == (6, 3, 3, 3) and last.node == "p"
    assert weighted_layers(load(tiny())) == [first, last]
    assert weighted_layers(tiny().SerializeToString()) == [first, last]


def test_what_is_no_layer_is_left_alone() -> None:
    body = (
        "p = Conv <pads = [1, 1, 1, 1]> (x, w) q = Add(p, b)"
        " n = BatchNormalization(q, s, o, m, r) a = Relu(n)"
        " t = Transpose <perm = [0, 2, 3, 1]> (a) r1 = Reshape(t, flat)"
        " wt = Transpose(v) f = MatMul(r1, wt) y = Add(f, c)"
        " k = MatMul(v, v2) z = Gemm(f, u)"  # of constants alone; leads to no output
    )
    weights = {"w": weight(4, 3, 3, 3), "b": weight(1, 4, 1, 1), "v": weight(5, 120)}
    weights |= {n: weight(4, seed=i) for i, n in enumerate("som")} | {"r": np.ones(4, np.float32)}
    weights |= {"c": weight(5), "v2": weight(120, 5), "u": weight(5, 5)}
    proto = model(body, weights | {"flat": np.array([-1, 120])})
    assert names(proto) == [("MatMul", ("v",), ("c",)), ("Conv", ("w",), ("b",))]
    proto.graph.output.append(onnx.ValueInfoProto(name="z"))
    assert names(proto)[0] == ("Gemm", ("u",), ())
    assert names(proto, output="y") == [("MatMul", ("v",), ("c",)), ("Conv", ("w",), ("b",))]
    with pytest.raises(ModelError, match="'nothing'"):
        weighted_layers(proto, output="nothing")


def test_a_shared_weight_is_drawn_once() -> None:
    body = (
        "p = Conv <pads = [1, 1, 1, 1]> (x, w, b) q = Conv <pads = [1, 1, 1, 1]> (p, w, b)"
        " g = GlobalAveragePool(q) y = Flatten(g)"
    )
    proto = model(body, {"w": weight(3, 3, 3, 3), "b": weight(3)}, outputs="float[N,3] y")
    (layer,) = weighted_layers(proto)
    assert (layer.node, layer.weights) == ("q", ("w", "b"))


def test_steps_are_even_and_hold_both_ends() -> None:
    layers = weighted_layers(tiny()) * 13
    assert steps(layers, 100) == list(range(26))
    assert steps(layers, 2) == [0, 25] and steps(layers[:1]) == [0]
    chosen = steps(layers)
    assert len(chosen) == 12 and (chosen[0], chosen[-1]) == (0, 25)
    assert set(np.diff(chosen)) <= {2, 3}
    with pytest.raises(OptionError, match="at least 2"):
        steps(layers, 1)


@pytest.mark.parametrize("how", HOWS)
def test_weights_are_drawn_anew_and_the_model_is_left_as_it_is(how: str) -> None:
    proto = tiny(classes=200)
    before = proto.SerializeToString()
    layers = weighted_layers(proto)
    new = randomised(proto, layers, 3, how)
    assert proto.SerializeToString() == before
    old, found = arrays(proto), arrays(new)
    for name in "wbvc":
        assert found[name].shape == old[name].shape and found[name].dtype == old[name].dtype
        assert not np.array_equal(found[name], old[name])
        if how == "permuted":
            np.testing.assert_array_equal(np.sort(found[name].flat), np.sort(old[name].flat))
    assert found["v"].mean() == pytest.approx(old["v"].mean(), abs=0.05)
    assert found["v"].std() == pytest.approx(old["v"].std(), rel=0.1)
    feeds = {"x": images(2, 3, 8, 8)}
    changed = run(new, feeds)[0]
    assert np.abs(changed - run(proto, feeds)[0]).max() > 0.01
    again = randomised(proto.SerializeToString(), layers, 3, how)
    assert again.SerializeToString() == new.SerializeToString()
    assert not np.array_equal(arrays(randomised(proto, layers, 4, how))["w"], found["w"])
    onnx.checker.check_model(new)


def test_a_draw_does_not_depend_on_the_mode() -> None:
    read = read_model(tiny())
    layers = weighted_layers(read)
    cascade, alone = (dict(draws(read, layers, [0, 1], mode)) for mode in MODES)
    assert set(cascade[0]) == {"v", "c"} and set(cascade[1]) == set("wbvc")
    assert set(alone[0]) == {"v", "c"} and set(alone[1]) == {"w", "b"}
    for name, array in cascade[1].items():
        np.testing.assert_array_equal(array, (alone[0] | alone[1])[name])
    one = arrays(randomised(read, layers[1:]))
    np.testing.assert_array_equal(one["w"], cascade[1]["w"])
    np.testing.assert_array_equal(one["v"], arrays(tiny())["v"])
    (at, all_at_once), *_ = draws(read, layers, [1], "cascading")
    assert at == 1 and set(all_at_once) == set("wbvc")  # those between two steps, too


def test_half_precision_and_weights_in_another_file(tmp_path: Path) -> None:
    proto = model(
        "p = Conv <pads = [1, 1, 1, 1]> (x, w) g = GlobalAveragePool(p) y = Flatten(g)",
        {"w": (weight(64, 3, 3, 3) * 30000).astype(np.float16)},
        "float16[N,3,8,8] x",
        "float16[N,64] y",
    )
    old, path = arrays(proto)["w"], tmp_path / "m.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="m.data", size_threshold=0)
    before = path.read_bytes(), (tmp_path / "m.data").read_bytes()
    (layer,) = weighted_layers(path)
    new = randomised(path, [layer])
    (tensor,) = new.graph.initializer
    assert tensor.data_location == onnx.TensorProto.DEFAULT
    found = numpy_helper.to_array(tensor)
    assert found.dtype == np.float16 and found.shape == old.shape and np.isfinite(found).all()
    assert found.astype(float).std() == pytest.approx(old.astype(float).std(), rel=0.1)
    assert (path.read_bytes(), (tmp_path / "m.data").read_bytes()) == before


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize("how", HOWS)
def test_quantised_weights_stay_in_their_range(kind: type, how: str) -> None:
    rng = np.random.default_rng(0)
    held = rng.integers(-127, 128, (8, 3, 3, 3)) + (128 if kind is np.uint8 else 0)
    weights = {
        "w": held.astype(kind),
        "s": np.float32(0.01),
        "z": kind(128 if kind != np.int8 else 0),
    }
    weights |= {"b": rng.integers(-900, 900, 8).astype(np.int32), "sb": np.float32(1e-4)}
    weights |= {"v": rng.integers(-50, 51, (8, 5)).astype(np.int8), "zb": np.int32(0)}
    body = (
        "k = DequantizeLinear(w, s, z) d = DequantizeLinear(b, sb, zb)"
        " p = Conv(x, k, d) g = GlobalAveragePool(p) f = Flatten(g)"
        " m = DequantizeLinear(v, s) y = MatMul(f, m)"
    )
    proto = model(body, weights)
    layers = weighted_layers(proto)
    assert names(proto) == [("MatMul", ("v",), ()), ("Conv", ("w",), ("b",))]
    old, new = arrays(proto), arrays(randomised(proto, layers, how=how))
    for name in "wvb":
        assert new[name].dtype == old[name].dtype and not np.array_equal(new[name], old[name])
        assert old[name].min() <= new[name].min() and new[name].max() <= old[name].max()
    for name in ("s", "z", "sb", "zb"):
        np.testing.assert_array_equal(new[name], old[name])


def test_bad_requests_are_refused() -> None:
    layers = weighted_layers(tiny())
    with pytest.raises(OptionError, match="normal or permuted, not 'zero'"):
        randomised(tiny(), layers, how="zero")
    for seed in (-1, 1.5, True, "x"):
        with pytest.raises(OptionError, match="seed is a whole number"):
            randomised(tiny(), layers, seed)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="another model's"):
        randomised(tiny(), [replace(layers[0], kernels=("other",))])
    with pytest.raises(OptionError, match="cascading or independent"):
        next(draws(read_model(tiny()), layers, [0], "both"))
    with pytest.raises(ModelError, match="no file"):
        weighted_layers("nothing.onnx")


# Verdicts


def alike(mean: float | None, count: int = 4) -> Alike:
    return Alike(mean, 0.05, count) if mean is not None else Alike(None, None, 0)


def check(values: Sequence[tuple[float | None, float | None]], **fields: Any) -> Sanity:
    """A check whose steps have these rank correlations and SSIMs."""
    found = tuple(
        Step(f"layer{i}", i + 1, {"rank": alike(r), "ssim": alike(s), "hog": alike(r)}, 0, 0, 0)
        for i, (r, s) in enumerate(values)
    )
    whole = Sanity(
        "grad-cam", "net.onnx", "a", "cascading", "normal", 0, len(found), 4, 0, {}, found
    )
    return replace(whole, **fields)


def test_a_method_that_notices() -> None:
    one = check([(0.6, 0.4), (0.3, 0.2), (0.1, 0.0)])
    assert one.notices is True and one.average == pytest.approx({"rank": 1 / 3, "ssim": 0.2})
    assert one.verdict == (
        "grad-cam notices randomised weights: rank correlation 0.33 and SSIM 0.20 with the "
        "original's maps on average over the cascade, 0.10 and 0.00 when every layer is random"
    )


@pytest.mark.parametrize(
    ("values", "notices"),
    [
        ([(0.9, 0.9), (0.9, 0.9), (0.2, 0.1)], False),  # most of the way
        ([(0.1, 0.1), (0.1, 0.1), (0.7, 0.6)], False),  # at the end
        ([(0.9, 0.4), (0.9, 0.4), (0.9, 0.4)], True),  # both measures have to say so
        ([(0.4, 0.9), (0.4, 0.9), (0.4, 0.9)], True),
        ([(0.5, 0.5), (0.5, 0.5), (0.5, 0.5)], False),
        ([(0.9, 0.9), (None, None), (None, None)], None),  # a third of the layers says nothing
        ([(0.9, 0.9), (0.1, 0.1), (None, None)], False),
        ([(None, None)] * 3, None),
    ],
)
def test_when_a_cascade_is_noticed(values: Any, notices: bool | None) -> None:
    one = check(values)
    assert one.notices is notices
    word = {True: " notices ", False: " does NOT notice ", None: " cannot be told"}[notices]
    assert word in one.verdict
    assert "nan" not in json.dumps(one.facts(), allow_nan=False)


def test_few_pictures_do_not_decide() -> None:
    one = check([(0.9, 0.9), (0.1, 0.1)])
    lone = replace(one.steps[1], alike={m: alike(0.1, 1) for m in MEASURES}, blank=3)
    assert replace(one, steps=(one.steps[0], lone)).judged == one.steps[:1]
    single = replace(one, pictures=1, steps=(lone,), layers=2)
    assert single.judged == (lone,) and single.notices is True


def test_single_layers_that_go_unnoticed_are_named() -> None:
    one = check([(0.95, 0.97), (0.95, 0.3), (0.2, 0.1)], mode="independent")
    assert one.unnoticed == ("layer0",) and one.notices is False
    assert one.verdict.startswith("grad-cam does NOT notice 1 of 3 layers randomised one at a time")
    assert one.verdict.endswith("unnoticed: 'layer0'")
    kept = replace(one.steps[0], kept=3)  # where the model decides as before, the map may stay
    assert replace(one, steps=(kept, *one.steps[1:])).verdict.startswith(
        "grad-cam notices each of 3 layers"
    )


def test_what_was_left_out_is_said() -> None:
    one = check([(0.1, 0.1), (0.1, 0.1)], blank=1)
    blank = replace(one.steps[1], blank=2, failed=1)
    text = replace(one, steps=(one.steps[0], blank)).verdict
    assert "1 of 4 maps of the model itself are blank" in text
    assert "2 of 8 maps of randomised models are blank" in text and "1 of 8 gave NaN" in text


# The whole check


def explainers(method: str, **options: Any) -> Callable[..., Explainer]:
    def make(model: Any, layer: Any) -> Explainer:
        return Explainer(model, method, layer, provider="cpu", threads=1, **options)

    return make


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", ["grad-cam", "saliency"])
def test_a_check_of_a_little_model(method: str, mode: str) -> None:
    proto, seen = tiny(size=16), list[tuple[int, int]]()
    before = proto.SerializeToString()
    x = images(5, 3, 16, 16)
    told: dict[str, Any] = {"mode": mode, "batch": 2, "seed": 1}
    one = sanity(
        explainers(method),
        proto,
        x,
        **told,
        progress=lambda done, every: seen.append((done, every)),
    )
    assert proto.SerializeToString() == before
    assert seen[-1] == (15, 15) and len(seen) == 9
    assert (one.method, one.mode, one.pictures, one.layers) == (method, mode, 5, 2)
    assert one.feature_map == ("a" if method == "grad-cam" else None)
    assert [s.randomised for s in one.steps] == ([1, 2] if mode == "cascading" else [1, 1])
    assert sanity(explainers(method), proto, x, **told) == one
    # the first step by hand
    layers = weighted_layers(proto)
    original = Explainer(proto, method, provider="cpu")(x)
    random = Explainer(randomised(proto, layers[:1], 1), method, provider="cpu")
    shown = random(x, original.target.tolist())
    pairs = [
        (a, b)
        for a, b in zip(original.map, shown.map, strict=True)
        if np.ptp(a) > 0 and np.ptp(b) > 0
    ]
    step = one.steps[0]
    assert (
        step.alike["rank"].count == len(pairs)
        and step.blank == (np.ptp(shown.map, (1, 2)) == 0).sum()
    )
    for name, measure in MEASURES.items():
        values = np.array([measure(a, b) for a, b in pairs])
        found = step.alike[name]
        assert found.mean == pytest.approx(values.mean())
        assert found.error == pytest.approx(values.std(ddof=1) / np.sqrt(len(values)))
    assert step.kept == (original.scores.argmax(1) == shown.scores.argmax(1)).sum()


def test_targets_and_one_picture() -> None:
    x = images(3, 3, 8, 8)
    one = sanity(explainers("hires-cam"), tiny(), x, ["not:1", 2, 0])
    assert one.pictures == 3
    same = sanity(explainers("hires-cam"), tiny(), x[0], "not:1")
    assert same.pictures == 1 and same.unrelated["rank"] == Alike(None, None, 0)
    assert all(s.alike["rank"].error is None for s in same.steps)
    for target in ("top2", [[0, 1]] * 3):
        with pytest.raises(OptionError, match="one class of each picture"):
            sanity(explainers("grad-cam"), tiny(), x, target)


def test_scores_that_overflow_are_counted() -> None:
    """A model whose maps are finite as it stands, and infinite for some pictures once permuted."""
    v = np.zeros((6, 4), np.float32)
    v[0, 0] = 3e38
    proto = tiny()
    for tensor in proto.graph.initializer:
        if tensor.name == "v":
            tensor.CopyFrom(numpy_helper.from_array(v, "v"))
        if tensor.name == "w":
            w = np.abs(numpy_helper.to_array(tensor))
            w[0] = 0
            tensor.CopyFrom(numpy_helper.from_array(w * 40, "w"))
        if tensor.name == "b":
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(6, np.float32), "b"))
    x = np.abs(images(3, 3, 8, 8))
    one = sanity(explainers("grad-cam"), proto, x, 0, how="permuted", mode="independent")
    assert sum(s.failed for s in one.steps) >= 3
    assert "gave NaN or infinity" in one.verdict and one.blank == 3


def test_a_cancelled_check_stops() -> None:
    stop = Cancel()
    stop.cancel()
    with pytest.raises(Cancelled):
        sanity(explainers("grad-cam"), tiny(), images(2, 3, 8, 8), cancel=stop)


def test_a_check_that_cannot_be_made_is_refused() -> None:
    x = images(2, 3, 8, 8)
    for told, said in [
        ({"mode": "both"}, "mode is"),
        ({"batch": 0}, "batch is"),
        ({"most": 1}, "most is"),
        ({"how": "zeros"}, "how is"),
    ]:
        with pytest.raises(OptionError, match=said):
            sanity(explainers("grad-cam"), tiny(), x, **told)  # type: ignore[arg-type]
    plain = model(
        "a = Relu(x) g = GlobalAveragePool(a) y = Flatten(g)",
        {},
        "float[N,3,8,8] x",
        "float[N,3] y",
    )
    with pytest.raises(ModelError, match="no layer with weights"):
        sanity(explainers("saliency"), plain, x)


def test_guided_backpropagation_is_named_and_grad_cam_is_not(root: Path) -> None:
    import scenes

    path = root / "models" / "demo_alexnet.onnx"
    explainer = Explainer(path, provider="cpu", threads=1)
    preset = explainer.preset
    assert preset is not None
    pictures = [read_picture(scenes.render(100 + i).pixels) for i in range(6)]
    x = np.concatenate([preset.tensor(picture) for picture in pictures])
    grad, guided = (sanity(explainers(m), path, x, most=4) for m in ("grad-cam", "guided-backprop"))
    assert grad.notices is True and guided.notices is False
    assert [s.layer for s in grad.steps] == [s.layer for s in guided.steps]
    assert grad.average and guided.average and guided.average["rank"] > grad.average["rank"] + 0.3


# The picture

SVG = "{http://www.w3.org/2000/svg}"


def test_the_plot_shows_lines_bars_and_verdicts() -> None:
    one = check([(0.6, 0.4), (None, None), (0.1, -0.3)])
    other = replace(one, method="saliency")
    root = ElementTree.fromstring(plot([one, other]))
    shown = ["".join(t.itertext()) for t in root.iter(f"{SVG}text")]
    for text in (
        "SSIM",
        "rank correlation",
        "HOG correlation",
        "saliency",
        "layer2",
        "1.00",
        "-0.50",
    ):
        assert text in shown, text
    assert any(text.startswith("grad-cam notices") for text in shown)
    lines = [p for p in root.iter(f"{SVG}path") if p.get("class") == "line"]
    assert len(lines) == 2 + 2 * 3
    assert lines[2].get("d", "").count("M") == 2  # a gap where nothing could be compared
    assert len(list(root.iter(f"{SVG}circle"))) == 2 * 3 * 2
    height = float(root.get("height", "0"))
    assert all(0 < float(c.get("cy", "-1")) < height for c in root.iter(f"{SVG}circle"))


def test_the_plot_bears_any_names_and_any_number() -> None:
    nasty = "</text><script>&\x00" + "x" * 90
    one = check([(0.5, 0.5)], model=nasty, method=nasty)
    one = replace(one, steps=(replace(one.steps[0], layer=nasty),))
    text = plot([replace(one, method=f"{nasty}{i}") for i in range(20)])
    assert ElementTree.fromstring(text) is not None and "<script" not in text
    with pytest.raises(OptionError, match="at least one"):
        plot([])
    with pytest.raises(OptionError, match="not about the same layers"):
        plot([one, replace(one, mode="independent")])


def test_replaced_shares_what_it_leaves() -> None:
    read = read_model(tiny(classes=200))
    new = replaced(read, {"b": np.zeros(6, np.float32)})
    assert new.weights["v"] is read.weights["v"]
    assert not arrays(new.complete())["b"].any() and arrays(read.complete())["b"].any()
