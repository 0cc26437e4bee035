"""The front door: shapes of what comes back, threads, sessions, files, notebooks."""

from __future__ import annotations

import base64
import io
import json
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

import models
import onnxcam
from models import close, drops, images, run, tiny, weight
from onnxcam import Explainer, OptionError, OutputError
from onnxcam.explanation import Explanation, PictureExplanation

NAMES = ["cat", "dog", "red fox", "eel"]
X = images(3, 3, 8, 8)
PLAIN = {"size": [8, 8], "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}


def wide() -> onnx.ModelProto:
    """A head that keeps a stack of units: dense layers over the flattened map."""
    weights = {"w": weight(6, 3, 3, 3), "v": weight(216, 9, seed=1), "o": weight(9, 4, seed=2)}
    return models.model(
        "p = Conv(x, w) a = Relu(p) f = Flatten(a) h = Gemm(f, v) r = Relu(h) y = Gemm(r, o)",
        weights,
        "float[N,3,8,8] x",
        "float[N,4] y",
    )


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer(wide(), provider="cpu", class_names=NAMES, weight="slope")


@pytest.fixture(scope="module")
def reference() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores (3, 4), slopes (3, 4, 6), raw maps (3, 4, 6, 6)."""
    value, y, d = drops(wide(), "a", "y", {"x": X})
    w = d / np.sqrt((value**2).sum((2, 3)))[:, None]
    return y, w, np.einsum("nck,nkhw->nchw", w, value)


ROWS = np.arange(3)


@pytest.mark.parametrize(
    ("target", "classes"),
    [
        (None, "top"),
        (2, [2, 2, 2]),
        (np.int64(1), [1, 1, 1]),
        ("dog", [1, 1, 1]),
        ("Red Fox", [2, 2, 2]),
        ("3", [3, 3, 3]),
        ([0, 3, 1], [0, 3, 1]),
        (np.array([0, 3, 1], np.uint8), [0, 3, 1]),
        (["cat", 1, "eel"], [0, 1, 3]),
        ([[0, 1], [2, 3], [1, 1]], [[0, 1], [2, 3], [1, 1]]),
        (np.array([[3], [2], [1]]), [[3], [2], [1]]),
        ("top1", "top"),
        ("top3", "top3"),
        ("TOP4", "top4"),
    ],
    ids=str,
)
def test_targets(explainer: Explainer, reference: Any, target: Any, classes: Any) -> None:
    y, w, raw = reference
    ranked = np.argsort(-y, axis=1)
    if classes == "top":
        classes = ranked[:, 0]
    elif isinstance(classes, str):
        classes = ranked[:, : int(classes[3:])]
    classes = np.array(classes)
    found = explainer(X, target)
    at = ROWS if classes.ndim == 1 else ROWS[:, None]
    assert found.target.dtype == np.int64
    assert (found.target == classes).all() and found.target.shape == classes.shape
    close(found.scores, y)
    close(found.target_score, y[at, classes])
    close(found.weights, w[at, classes], base=w)
    close(found.raw, raw[at, classes], base=raw)
    close(found.map, np.maximum(raw[at, classes], 0), base=raw)
    for array in (found.scores, found.weights, found.raw, found.map):
        assert array.dtype == np.float32


def test_one_image_without_its_batch(explainer: Explainer) -> None:
    alone = explainer(X[1])
    assert alone.map.shape == (1, 6, 6)
    close(alone.map, explainer(X).map[1:2])


def test_arrays_of_other_kinds(explainer: Explainer) -> None:
    want = explainer(X).weights
    for x in (X.astype(np.float64), X.tolist(), np.asfortranarray(X), X[:, ::-1][:, ::-1]):
        close(explainer(x).weights, want)
    whole = np.round(X * 9)
    close(explainer(whole.astype(np.int16)).weights, explainer(whole).weights)


def test_inputs_are_left_alone(explainer: Explainer) -> None:
    x, target = X.copy(), np.array([[0, 1], [2, 3], [1, 1]])
    kept = target.copy()
    x.flags.writeable = target.flags.writeable = False
    explainer(x, target)
    assert (x == X).all() and (target == kept).all()


def test_results_are_the_callers_own(explainer: Explainer) -> None:
    """Writing into a result changes no later one."""
    first = explainer(X)
    want = first.map.copy()
    first.map[:] = first.weights[:] = first.scores[:] = 7
    close(explainer(X).map, want, tolerance=1e-7)


def test_facts(explainer: Explainer) -> None:
    found = explainer(X, [0, 3, 1])
    assert (found.method, found.layer, found.score) == ("ablation-cam", "a", "logit")
    assert found.provider == "cpu" and found.model == "model" and found.labels == NAMES
    facts = json.loads(json.dumps(found.facts()))
    assert [t["index"] for t in facts["targets"]] == [0, 3, 1]
    assert [t["label"] for t in facts["targets"]] == ["cat", "eel", "dog"]
    close(np.array([t["score"] for t in facts["targets"]]), found.target_score)
    assert facts["map_shape"] == [3, 6, 6]
    assert facts["onnxcam"] == onnxcam.__version__


def test_eight_threads(explainer: Explainer) -> None:
    """One explainer, many threads, several shapes: every result is what one thread would get."""
    for shared in (
        Explainer(wide(), provider="cpu"),
        Explainer(wide(), provider="cpu", memory=1),
        Explainer(tiny(size="S"), provider="cpu"),
    ):
        fresh = Explainer(shared.classifier, provider="cpu", memory=shared._core.engine.memory)
        sizes = [8, 8, 9, 8, 12, 9, 8, 8] if shared.classifier.image.free else [8] * 8
        jobs = [(images(1 + i % 3, 3, s, s, seed=i), i % 4) for i, s in enumerate(sizes)]
        want = [fresh(x, t) for x, t in jobs]
        start = threading.Barrier(8)

        def work(job: tuple[np.ndarray, int], shared: Any = shared, start: Any = start) -> Any:
            start.wait()
            return [shared(*job) for _ in range(3)]

        with ThreadPoolExecutor(8) as pool:
            for repeats, one in zip(pool.map(work, jobs), want, strict=True):
                for found in repeats:
                    close(found.weights, one.weights, tolerance=1e-6)
                    close(found.map, one.map, tolerance=1e-6)


def test_sessions_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = onnxruntime.InferenceSession

    def counting(*args: Any, **kwargs: Any) -> Any:
        made.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(onnxruntime, "InferenceSession", counting)
    explainer = Explainer(wide(), provider="cpu")
    for _ in range(4):
        explainer(X, 1)
    assert len(made) == 1
    explainer(X, "top2")
    assert len(made) == 2  # two classes an image are another graph
    explainer(X[:2], [[0, 1], [2, 3]])
    assert len(made) == 2


def test_a_classifier_loaded_before(explainer: Explainer) -> None:
    classifier = onnxcam.load(wide())
    close(Explainer(classifier, provider="cpu", weight="slope")(X).map, explainer(X).map)


def test_the_message_is_never_changed() -> None:
    proto = wide()
    before = proto.SerializeToString(deterministic=True)
    explainer = Explainer(proto, provider="cpu", memory=1)
    explainer(X)
    onnxcam.split(proto)
    assert proto.SerializeToString(deterministic=True) == before


def test_the_message_may_be_changed_afterwards() -> None:
    """What the caller does to the message later does not reach the explainer."""
    proto = wide()
    explainer = Explainer(proto, provider="cpu")
    want = Explainer(wide(), provider="cpu")(X).map
    del proto.graph.node[:]
    proto.graph.initializer[0].raw_data = b""
    close(explainer(X).map, want, tolerance=1e-7)


# Pictures.


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "p.png"
    pixels = np.random.default_rng(3).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def found(picture: Path) -> PictureExplanation:
    return Explainer(wide(), provider="cpu", class_names=NAMES, preset=PLAIN).explain(
        picture, "eel"
    )


def test_a_picture_from_anywhere(picture: Path, found: PictureExplanation) -> None:
    explainer = Explainer(wide(), provider="cpu", preset=PLAIN)
    with Image.open(picture) as opened:
        image = opened.convert("RGB")
    for source in (str(picture), picture.read_bytes(), image, np.asarray(image)):
        close(explainer.explain(source, 3).map, found.map, tolerance=1e-7)
    close(onnxcam.explain(wide(), picture, 3, provider="cpu", preset=PLAIN).map, found.map)


def test_a_picture_is_what_the_preset_makes_of_it(picture: Path, found: PictureExplanation) -> None:
    explainer = Explainer(wide(), provider="cpu", preset=PLAIN)
    with Image.open(picture) as opened:
        small = found.preset.tensor(onnxcam.image.read_picture(opened.convert("RGB")))
    close(explainer(small, 3).map, found.map, tolerance=1e-7)
    assert found.target.tolist() == [3] and found.map.shape == (1, 6, 6)
    assert found.heatmap.shape == (20, 30) and found.heatmap.dtype == np.float32
    assert found.heatmap.min() >= 0 and found.heatmap.max() == 1
    assert found.overlay().size == (30, 20)
    assert found.preset_reason


def test_several_classes_of_a_picture(picture: Path) -> None:
    explainer = Explainer(wide(), provider="cpu", class_names=NAMES, preset=PLAIN)
    top = explainer.explain(picture, "top3")
    assert top.target.shape == (1, 3) and top.map.shape == (1, 3, 6, 6)
    assert (np.diff(top.target_score[0]) <= 0).all()
    assert (top.target[0] == np.argsort(-top.scores[0])[:3]).all()
    named = explainer.explain(picture, ["dog", 0])
    assert named.target.tolist() == [[1, 0]]
    for i in range(2):
        alone = explainer.explain(picture, int(named.target[0, i]))
        close(named.of(i), alone.of(), tolerance=1e-5, base=named.raw)
        close(named.heat(i), alone.heatmap, tolerance=1e-3)
    with pytest.raises(OptionError, match="2 classes were explained"):
        named.of(2)


def test_npz_npy_and_json(tmp_path: Path, found: PictureExplanation) -> None:
    assert found.save(tmp_path / "e.npz") == tmp_path / "e.npz"
    with np.load(tmp_path / "e.npz") as arrays:
        assert set(arrays) == {"scores", "target", "negated", "map", "raw", "weights"}
        for name in arrays:
            assert (arrays[name] == getattr(found, name)).all()
            assert arrays[name].dtype == getattr(found, name).dtype
    found.save(tmp_path / "e.npy")
    assert (np.load(tmp_path / "e.npy") == found.map).all()
    found.save(tmp_path / "e.json")
    facts = json.loads((tmp_path / "e.json").read_text("utf-8"))
    assert facts == json.loads(json.dumps(found.facts()))
    assert facts["targets"][0]["label"] == "eel"
    assert facts["picture"] and facts["picture_size"] == [30, 20]
    source = found.preset.source
    assert onnxcam.image.Preset.from_json(facts["preset"], source) == found.preset


def test_png_carries_the_facts(tmp_path: Path, found: PictureExplanation) -> None:
    for kind in ("figure", "overlay"):
        path = found.save(tmp_path / f"{kind}.png", kind=kind)
        with Image.open(path) as image:
            image.load()
            assert json.loads(image.text["onnxcam"]) == json.loads(json.dumps(found.facts()))
            assert "eel" in image.text["Title"]
    with Image.open(tmp_path / "overlay.png") as image:
        close(np.asarray(image.convert("RGB")), np.asarray(found.overlay().convert("RGB")))
    for name in ("f.jpg", "f.webp"):
        with Image.open(found.save(tmp_path / name)) as image:
            image.load()
    with pytest.raises(OptionError, match="kind is figure or overlay"):
        found.save(tmp_path / "x.png", kind="both")


def test_nothing_is_overwritten(tmp_path: Path, found: PictureExplanation) -> None:
    for name in ("e.npz", "e.npy", "e.json", "e.png"):
        (tmp_path / name).write_bytes(b"mine")
        with pytest.raises(OutputError, match="--force"):
            found.save(tmp_path / name)
        assert (tmp_path / name).read_bytes() == b"mine"
        found.save(tmp_path / name, force=True)
        assert (tmp_path / name).stat().st_size > 50


def test_what_cannot_be_saved(
    tmp_path: Path, explainer: Explainer, found: PictureExplanation
) -> None:
    for name in ("e.txt", "e", "e.npz.bak"):
        with pytest.raises(OutputError, match="extension must be one of"):
            found.save(tmp_path / name)
    with pytest.raises(OutputError, match="pictures need"):
        explainer(X).save(tmp_path / "e.png")
    with pytest.raises(OutputError):
        found.save(tmp_path / "none" / "e.npz")
    with pytest.raises(onnxcam.OnnxcamError):
        found.save(tmp_path / "e.png", index=5)
    assert list(tmp_path.glob("e*")) == []


def test_a_notebook_shows_the_figure(found: PictureExplanation) -> None:
    png = found._repr_png_()
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        assert np.asarray(image.convert("RGB")).std() > 10
        shown = np.asarray(image.convert("RGB"))
    close(shown, np.asarray(found.figure().convert("RGB")))
    assert base64.b64encode(png)
    assert not hasattr(Explanation, "_repr_png_")


def test_explanations_can_be_pickled(found: PictureExplanation) -> None:
    again = pickle.loads(pickle.dumps(found))
    assert (again.map == found.map).all() and again.labels == found.labels


def test_public_names() -> None:
    for name in onnxcam.__all__:
        assert getattr(onnxcam, name) is not None
    assert set(onnxcam.__all__) <= set(dir(onnxcam))
    with pytest.raises(AttributeError, match="nothing"):
        _ = onnxcam.nothing


def test_split_in_one_line() -> None:
    features, head = onnxcam.split(wide(), "p")
    (p,) = run(features, {"x": X})
    close(run(head, {"p": p})[0], run(wide(), {"x": X})[0], tolerance=1e-6)
