"""Checks one exported classifier of the zoo: is it understood, and are its explanations right?

    python tools/zoo_check.py model.onnx reference.npz     # one line of JSON
    python tools/zoo_check.py model.onnx reference.npz near

Runs where onnxcam is installed. `reference.npz` is what a maker wrote (see `zoo_maker`): pictures,
logits, the expert's feature map and the framework's own gradients. Without it (`-`) only what can
be told from the file is checked. All differences are relative to the largest value of the
reference; of several pictures the median counts, for a rectifier within rounding of zero may fall
to the other side in a single one. With `near` the model is a variant of the reference, quantised or
in half precision: its feature map is the expert's if no tensor in the file correlates better.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from bench_measure import peak_bytes

UNITS = 6
"""Units that are switched off literally, one by one."""

PAIRS = 3
"""Pairs of runs behind a ratio of times."""

ENOUGH = 2.0
"""Seconds after which no further pair is begun."""

METHODS = ("ablation-cam", "grad-cam", "saliency")


NEAR = 0.02
"""How much less than the best of its tensors a variant's map may correlate with the expert's."""


class Case(NamedTuple):
    """What each step of the check is about: `onnxcam`, which is imported late, and one file.

    Attributes:
        classifier, layer: what onnxcam makes of the file, and the default feature map.
        path, held: the file, and its reference.
        row: where the step writes what it finds.
    """

    onnxcam: Any
    classifier: Any
    layer: Any
    path: str
    held: Mapping[str, Any]
    row: dict[str, Any]


def check(path: str, reference: str, near: str = "") -> dict[str, Any]:
    """All that is found out about one file; what fails is named under "failed"."""
    held = dict(np.load(reference)) if reference != "-" else {}
    if near and _half(path):
        WITHOUT.append("MatmulTransposeFusion")
    row: dict[str, Any] = {"failed": {}}
    if near:
        row["near"] = True
    plain_peak = _in_a_child(lambda: _plain_peak(path, held))
    started = time.perf_counter()
    import onnxcam.graph.exporter
    from onnxcam import runtime  # noqa: F401  imported here: what follows is the model's own cost

    base = peak_bytes()
    row["import_s"] = time.perf_counter() - started
    try:
        explainer = _explained(onnxcam, path, held, row)
    except onnxcam.OnnxcamError as error:
        row["failed"]["load"] = _line(error)
        return row
    if isinstance(plain_peak, int):
        row["memory"] = (peak_bytes() - base) / max(1, plain_peak)
    layer = explainer.recipe.feature_map
    case = Case(onnxcam, explainer.classifier, layer, path, held, row)
    del explainer  # each holds the weights in sessions of its own: never more than one at a time
    steps: tuple[Callable[..., None], ...] = (_layer, _split, _literal, _gradients, _times)
    for step in steps:
        try:
            step(case)
        except onnxcam.OnnxcamError as error:
            row["failed"][step.__name__[1:]] = _line(error)
    return row


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]


def _in_a_child(work: Callable[[], int]) -> int | None:
    """What `work` gives, done in a fork: its memory is not that of this process."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.write(write, str(work()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as stream:
        text = stream.read()
    os.waitpid(child, 0)
    return int(text) if text else None


WITHOUT: list[str] = []
"""Optimisers that plain sessions do without: in half precision one ends the process."""


def _half(path: str) -> bool:
    import onnx

    tensors = onnx.load(path).graph.initializer
    return any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in tensors)


def _session(model: str | bytes, fused: bool = True) -> Any:
    import onnxruntime as ort

    ort.set_default_logger_severity(4)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    if not fused:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(
        model, options, providers=["CPUExecutionProvider"], disabled_optimizers=WITHOUT
    )


def _pictures(session: Any, held: Mapping[str, Any], count: int) -> Any:
    value = session.get_inputs()[0]
    if "x" in held:
        return held["x"][:count].astype(np.float16 if "float16" in value.type else np.float32)
    shape = [n if isinstance(n, int) else count if i == 0 else 224
             for i, n in enumerate(value.shape)]  # fmt: skip
    random = np.random.default_rng(0)
    if value.type == "tensor(uint8)":
        return random.integers(0, 256, shape).astype(np.uint8)
    kind = np.float16 if value.type == "tensor(float16)" else np.float32
    return random.standard_normal(shape).astype(kind)


def _plain_peak(path: str, held: Mapping[str, Any]) -> int:
    import onnxruntime  # noqa: F401

    base = peak_bytes()
    session = _session(path)
    images = _pictures(session, held, 1)
    session.run(None, {session.get_inputs()[0].name: images})
    return peak_bytes() - base


def _explained(onnxcam: Any, path: str, held: Mapping[str, Any], row: dict[str, Any]) -> Any:
    """The default explainer, after its first run."""
    started = time.perf_counter()
    explainer = onnxcam.Explainer(path, provider="cpu", threads=1)
    row["load_s"] = time.perf_counter() - started
    classifier = explainer.classifier
    row["batch"] = classifier.batch
    row["notes"] = list(classifier.notes)
    row["classes"] = classifier.classes
    origin = onnxcam.graph.exporter.origin_of(classifier.source.proto)
    row["origin"] = ", ".join(filter(None, [origin.framework, origin.exporter]))
    row["methods"] = explainer.methods()
    images = _fitting(classifier, held, 1)
    row["nodes"] = len(classifier.model.proto.graph.node)
    explainer(images)
    return explainer


def _fitting(classifier: Any, held: Mapping[str, Any], count: int) -> Any:
    image = classifier.image
    count = classifier.batch or count
    if "x" in held and len(held["x"]) >= count:
        return held["x"][:count].astype(image.dtype)
    random = np.random.default_rng(0)
    if np.issubdtype(image.dtype, np.integer):
        return random.integers(0, 256, image.shape(count)).astype(image.dtype)
    return random.standard_normal(image.shape(count)).astype(image.dtype)


def _every(held: Mapping[str, Any]) -> int:
    return len(held["x"]) if "x" in held else 1


def relative(found: Any, golden: Any) -> float:
    """Largest difference over the largest value, the median over pictures."""
    each = [
        float(np.abs(f - g).max() / (np.abs(g).max() or 1.0))
        for f, g in zip(np.asarray(found, np.float64), np.asarray(golden, np.float64), strict=True)
    ]
    return statistics.median(each)


def _layer(case: Case) -> None:
    """Is the default feature map the expert's? Told by values, not by names."""
    classifier, layer, held, row = case.classifier, case.layer, case.held, case.row
    row["layer"] = {
        "tensor": layer.tensor,
        "units": layer.units,
        "grid": list(layer.grid),
        "layout": layer.layout,
        "prefix": layer.prefix,
        "node": layer.node,
    }
    if "A" not in held:
        return
    golden = held["A"]
    features, _ = case.onnxcam.split(classifier)
    images = _fitting(classifier, held, _every(held))
    count = classifier.batch or len(images)
    feed = {classifier.image.name: images}
    found = _session_of(features).run([layer.tensor], feed)[0]
    found = _grid(np.asarray(found, np.float32), layer)
    row["expert"] = list(golden.shape[1:])
    if found.shape[1:] != golden.shape[1:]:
        row["right"] = False
        return
    row["layer_error"] = relative(found, golden[:count])
    row["alike"] = _correlation(found, golden[:count])
    if row.get("near"):
        row["best_alike"] = max(row["alike"], _best_alike(case.path, images, golden[:count], layer))
        row["right"] = row["alike"] >= row["best_alike"] - NEAR
    else:
        row["right"] = row["layer_error"] <= 1e-2


def _best_alike(path: str, images: Any, golden: Any, layer: Any) -> float:
    """Highest correlation with the expert's map of any tensor in the file that has its shape."""
    import onnx

    proto = onnx.load(path)
    names = [name for node in proto.graph.node for name in node.output if name]
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session, best = _session_of(proto), 0.0
    feed = {session.get_inputs()[0].name: images}
    for t in map(np.asarray, session.run(names, feed)):
        tokens = (len(golden), layer.prefix + layer.grid[0] * layer.grid[1], golden.shape[1])
        if t.shape == golden.shape:
            best = max(best, _correlation(t, golden))
        elif layer.layout == "NTC" and t.shape == tokens:
            best = max(best, _correlation(_grid(t, layer), golden))
    return best


def _correlation(found: Any, golden: Any) -> float:
    """Of the values of each picture, the median over pictures."""
    each = zip(np.asarray(found, np.float64), golden, strict=True)
    return statistics.median(float(np.corrcoef(f.ravel(), g.ravel())[0, 1]) for f, g in each)


def _session_of(model: Any, fused: bool = True) -> Any:
    return _session(model.SerializeToString(), fused)


def _grid(t: Any, layer: Any) -> Any:
    h, w = layer.grid
    if layer.layout == "NHWC":
        return t.transpose(0, 3, 1, 2)
    if layer.layout == "NTC":
        patches = t[:, layer.prefix : layer.prefix + h * w]
        return patches.transpose(0, 2, 1).reshape(len(t), -1, h, w)
    return t


def _split(case: Case) -> None:
    """head(features(x)) == model(x), with no operators fused: across a cut none can be.

    What fusing changes in the last digits, a deep network's softmax can make a thousandth of.
    """
    classifier, held, row = case.classifier, case.held, case.row
    features, head = case.onnxcam.split(classifier)
    images = _fitting(classifier, held, 1)
    session = _session_of(features, fused=False)
    names = [o.name for o in session.get_outputs()]
    middle = dict(zip(names, session.run(names, {classifier.image.name: images}), strict=True))
    del session, features
    session = _session_of(head, fused=False)
    found = session.run(None, {i.name: middle[i.name] for i in session.get_inputs()})[0]
    del session
    plain = _session(case.path, fused=False)
    outputs = [_numbers(o) for o in plain.run(None, {plain.get_inputs()[0].name: images})]
    wanted = next((o for o in outputs if np.size(o) == np.size(found)), outputs[0])
    row["split"] = relative(
        np.reshape(found, (len(images), -1)), np.reshape(wanted, (len(images), -1))
    )


def _numbers(output: Any) -> Any:
    """An output as it is, or what a ZipMap made into a dictionary for each picture."""
    mapped = isinstance(output, list) and output and isinstance(output[0], dict)
    return np.array([list(each.values()) for each in output]) if mapped else output


def _literal(case: Case) -> None:
    """Exact Ablation-CAM against the literal way, for a few units."""
    classifier, layer, held, row = case.classifier, case.layer, case.held, case.row
    units = sorted({i * layer.units // UNITS for i in range(UNITS)})
    images = _fitting(classifier, held, 1)
    found = {}
    for way in ("exact", "literal"):
        one = case.onnxcam.Explainer(
            classifier, provider="cpu", threads=1, ablation=way, units=units
        )
        result = one(images)
        found[way] = result.weights * result.target_score[:, None]  # y − y_k
        row[f"way_{way}"] = one.program(1).way
        row.setdefault("ablation_notes", list(result.notes))
        del one
    scale = float(np.abs(result.target_score).max()) or 1.0
    largest = max(float(np.abs(found["literal"]).max()), 1e-3 * scale)
    off = float(np.abs(found["exact"] - found["literal"]).max())
    row["ablation"], row["ablation_of_score"] = off / largest, off / scale


def _gradients(case: Case) -> None:
    """Grad-CAM and the gradient for the image against the framework's own."""
    classifier, held, row = case.classifier, case.held, case.row
    images = _fitting(classifier, held, _every(held))
    count = len(images)
    target = held["target"][:count] if "target" in held else None
    for method in ("grad-cam", "saliency"):
        try:
            found = case.onnxcam.Explainer(classifier, method, provider="cpu", threads=1)(
                images, target
            )
        except case.onnxcam.OnnxcamError as error:
            row["failed"][method] = _line(error)
            continue
        if method == "grad-cam":
            row["gradcam_finite"] = bool(np.isfinite(found.raw).all())
            if "dA" not in held or not row.get("right"):
                continue
            golden = golden_gradcam(held)[:count]
            row["gradcam"] = relative(found.raw, golden)
            row["gradcam_alike"] = _alike(found.raw, golden)
        elif "dx" in held:
            golden = held["dx"][:count]
            if classifier.image.layout == "NHWC":
                golden = golden.transpose(0, 3, 1, 2)
            row["gradient"] = relative(found.raw, golden)
            if "dx32" in held:  # what rounding alone does, in the framework itself
                row["own"] = relative(held["dx32"][:count], held["dx"][:count])
            row["gradient_alike"] = _alike(found.raw, golden)


def golden_gradcam(held: Mapping[str, Any]) -> Any:
    """The framework's own map of each picture, before the rectifier: (N, h, w)."""
    weights = held["dA"].mean(axis=(2, 3), keepdims=True, dtype=np.float64)
    return (weights * held["A"]).sum(axis=1)


def _alike(found: Any, golden: Any) -> float:
    """Cosine of the angle between the two, the median over pictures."""
    return statistics.median(
        float(np.vdot(f, g) / (np.linalg.norm(f) * np.linalg.norm(g) or 1))
        for f, g in zip(found, golden, strict=True)
    )


def _times(case: Case) -> None:
    """Explanation over plain inference, processor time on one thread."""
    classifier, held, row = case.classifier, case.held, case.row
    images = _fitting(classifier, held, 1)
    plain = _session(case.path)
    feed = {plain.get_inputs()[0].name: images}
    for method in METHODS:
        if method in row["failed"]:
            continue
        one = case.onnxcam.Explainer(classifier, method, provider="cpu", threads=1)
        one(images)
        plain.run(None, feed)
        ratios: list[float] = []
        spent = 0.0
        while len(ratios) < PAIRS and spent < ENOUGH:
            a = _spent(lambda: plain.run(None, feed))
            b = _spent(lambda one=one: one(images))  # type: ignore[misc]
            ratios.append(b / max(a, 1e-9))
            spent += a + b
        row.setdefault("times", {})[method] = statistics.median(ratios)
        del one


def _spent(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    print(json.dumps(check(*sys.argv[1:4])))
