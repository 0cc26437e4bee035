"""Makes the papers' tables on what is at hand, and the page that sets both side by side.

    python tools/reproduce.py                    # everything; goes on where it was stopped
    python tools/reproduce.py --only placed      # one table, printed
    python tools/reproduce.py --limit 20 --only kept

The demo models are asked about rendered scenes (`scenes.py`) with exact masks, the models of the
shared folder (beside the checkout, or where ONNXCAM_SHARED says) about its photographs. Each pair
of a model and a set is a study; its rows are kept as they come.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import reproduce_lines
import reproduce_page
from PIL import Image
from scenes import describe, draw
from shapes import LABELS

from onnxcam import Explainer
from onnxcam.evaluate.judge import Judge
from onnxcam.evaluate.metric import Metric
from onnxcam.evaluate.metrics import METRICS
from onnxcam.evaluate.samples import Sample
from onnxcam.evaluate.study import Rows, run
from onnxcam.evaluate.trial import Trial, covered
from onnxcam.files import write_atomic
from onnxcam.image import read_picture

ROOT = Path(__file__).resolve().parent.parent
SIDE, FIRST_SEED = 224, 2 * 10**9
"""Of the scenes: pixels of a side, and a seed that no model was trained or tested with."""
RADIUS = (0.115, 0.17)
"""Of the objects, in sides: so that four find room."""
SCENES, ALIKE = 500, 40
"""Scenes of a set, and pictures by which maps are compared with each other."""
METHODS = ("ablation-cam", "grad-cam", "grad-cam++")


# --- what is measured -----------------------------------------------------------------------------


def _overlap(trial: Trial, threshold: float) -> float | None:
    if not trial.view.boxes:
        return None
    low = float(trial.map.min() / trial.map.max()) if trial.map.max() > 0 else 0.0
    heat = (trial.shown - low) / max(1 - low, 1e-12)
    hot, thing = heat > threshold, covered(trial.view.boxes, trial.view.size)
    return float((hot & thing).sum() / (hot | thing).sum())


def _reached(trial: Trial) -> float | None:
    if not trial.view.boxes:
        return None
    each = (trial.shown[covered([box], trial.view.size)] for box in trial.view.boxes)
    return 100 * float(np.mean([heat.max() >= 0.5 for heat in each]))


def _wide(trial: Trial) -> float:
    return 100 * float((trial.shown >= 0.25).mean())


def _covered(trial: Trial) -> float | None:
    if not trial.view.boxes:
        return None
    return 100 * float(covered(trial.view.boxes, trial.view.size).mean())


def _loc(threshold: float) -> Metric:
    return Metric(
        f"loc-{round(100 * threshold)}", f"Loc(δ = {threshold:g})", "more",
        lambda trial: _overlap(trial, threshold),
        "pixels in the boxes hotter than δ, over the boxes' and the other pixels that are; the "
        "map's smallest value counts as 0, its largest as 1",
        "Chattopadhay et al., Grad-CAM++, WACV 2018, section on localisation", needs="object",
    )  # fmt: skip


OWN = (
    *(_loc(threshold) for threshold in (0.0, 0.25, 0.5)),
    Metric(
        "reached", "Instances reached %", "more", _reached,
        "100 · share of the class's boxes in which the heat reaches half of its largest value",
        "onnxcam", unit="%", needs="object",
    ),
    Metric(
        "covered", "Boxes' share of the picture %", "more", _covered,
        "100 · pixels in the boxes / all; the same for all methods", "onnxcam", unit="%",
        needs="object",
    ),
    Metric(
        "wide", "Map's share of the picture %", "less", _wide,
        "100 · pixels of at least a quarter of the largest heat / all", "onnxcam", unit="%",
    ),
)  # fmt: skip
_KEPT = [f"{kind}-{how}{score}" for score in ("", "-score") for how in ("soft", "20", "30", "50")
         for kind in ("drop", "increase")]  # fmt: skip
MEASURED = (
    *(METRICS[name] for name in _KEPT),
    *(METRICS[name] for name in ("pointing", "energy", "iou-25", "iou-50", "maxboxacc-v2")),
    *OWN,
)


# --- models and pictures --------------------------------------------------------------------------


@dataclass(frozen=True)
class Net:
    """A model.

    Attributes:
        file: in the checkout's or the shared folder's `models`.
        title, head: as the page names it; its head is "FC" or "GAP".
        shared: whether it lies in the shared folder.
        offset: of its class indices.
    """

    file: str
    title: str
    head: str
    shared: bool = False
    offset: int = 0


NETS = {
    "residual": Net("demo_residual.onnx", "demo residual net", "GAP"),
    "vgg": Net("demo_vgg.onnx", "demo VGG", "FC"),
    "alexnet": Net("demo_alexnet.onnx", "demo AlexNet", "FC"),
    "mobilenet": Net(
        "imagenet_mobilenetv2_tf_nhwc_fp32.onnx", "MobileNetV2", "GAP", True, offset=1
    ),
    "squeezenet": Net("imagenet_squeezenet1.1_fp32.onnx", "SqueezeNet 1.1", "GAP", True),
    "cifar": Net("cifar10_winml_cnn_fc.onnx", "small CIFAR-10 CNN", "FC", True),
}
SETS = {
    "one": "scenes, one instance",
    "several": "scenes, three instances",
    "imagenet": "ImageNet photographs",
    "coco": "COCO photographs",
    "cifar10": "CIFAR-10 pictures",
}
STUDIES = (
    *((net, scenes) for scenes in ("one", "several") for net in ("vgg", "alexnet", "residual")),
    *((net, photos) for photos in ("imagenet", "coco") for net in ("mobilenet", "squeezenet")),
    ("cifar", "cifar10"),
)


@dataclass(frozen=True)
class Pictures:
    """Samples of a set, and the class that each shows where the one asked about may be another."""

    samples: tuple[Sample, ...]
    truth: Mapping[str, int]


@cache
def scene_samples(folder: Path, instances: int, count: int) -> tuple[Sample, ...]:
    """Scenes with so many objects of a class and one of another, drawn where they are missing.

    Args:
        folder: for pictures and masks.
        instances: objects of the class that is asked about.
        count: how many scenes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found: list[Sample] = []
    seed = FIRST_SEED
    while len(found) < count:
        rng = Random(seed)
        kind, other = rng.sample(range(len(LABELS)), 2)
        layout = describe(seed, [kind] * instances + [other], RADIUS)
        seed += 1
        if [thing.kind for thing in layout.things] != [kind] * instances + [other]:
            continue
        scene = draw(layout, SIDE)
        own = [thing for thing in scene.objects if thing.kind == kind]
        if len(own) < instances:
            continue
        name = f"{instances}-{len(found):05d}"
        path, mask = folder / f"{name}.png", folder / f"{name}-mask.png"
        if not mask.exists():
            _save(scene.pixels, path)
            _save(np.any([thing.mask for thing in own], axis=0), mask)
        boxes = tuple((float(a), float(b), float(c), float(d)) for *_, (a, b, c, d) in own)
        found.append(Sample(name, path, kind, boxes, mask))
    return tuple(found)


def _save(pixels: np.ndarray, path: Path) -> None:
    """Writes a PNG at once: a run that is stopped leaves no half of it."""
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    write_atomic(path, stream.getvalue(), force=True)


@cache
def manifest(shared: Path) -> dict[str, dict[str, Any]]:
    """What the shared folder holds, by file.

    Raises:
        SystemExit: there is no such folder.
    """
    try:
        text = (shared / "data" / "manifest.json").read_text("utf-8")
    except OSError as error:
        raise SystemExit(
            f"{error.filename}: {error.strerror}; name the shared folder with --shared"
        ) from None
    return {entry["file"]: entry for entry in json.loads(text)["entries"]}


def photographs(shared: Path, data: str, net: Net, explainer: Explainer) -> Pictures:
    """The photographs of a set as a model is asked about them.

    Of labelled photographs the model's own best class is explained, as in the papers. An object
    with boxes is asked about if one of the classes that count as it is among the model's five
    best; the best of these is explained.
    """
    samples, truth = [], {}
    for file, entry in manifest(shared).items():
        if entry.get("dataset") != data:
            continue
        path = shared / "data" / file
        if data != "coco":
            samples.append(Sample(path.name, path))
            truth[path.name] = entry["label_index"] + net.offset
            continue
        picture = read_picture(path)
        scores = explainer.scores(explainer.preset_for([picture])[0].tensor(picture))[0][0]
        best = set(np.argsort(-scores)[:5].tolist())
        for target in entry["pointing_targets"]:
            own = [box for box in entry["boxes"] if box["label_name"] == target]
            classes = [index + net.offset for index in own[0]["imagenet_indices"]]
            if named := sorted(best & set(classes), key=lambda index: -scores[index]):
                boxes = tuple(tuple(box["box_xyxy"]) for box in own)
                samples.append(Sample(f"{path.name} {target}", path, named[0], boxes))
    return Pictures(tuple(samples), truth)


# --- running --------------------------------------------------------------------------------------


class Plain(Judge):
    """A judge that keeps no small pictures: thousands of rows, and no report to show them."""

    def __call__(self, *given: Any, **more: Any) -> tuple[dict[str, Any], dict[str, bytes]]:
        """The row alone."""
        return super().__call__(*given, **more)[0], {}


def explainer_of(net: Net, shared: Path) -> Explainer:
    """The explainer of a model, with the preprocessing that the manifest states."""
    preset = None
    path = ROOT / "models" / net.file
    if net.shared:
        path = shared / "data" / "models" / net.file
        stated = manifest(shared)[f"models/{net.file}"]["preprocessing"]
        preset = {name: value for name, value in stated.items() if name != "formula"}
    return Explainer(path, provider="cpu", threads=1, preset=preset)


def alike(explainer: Explainer, samples: Sequence[Sample], other: str) -> float | None:
    """Mean cosine of a method's maps with those of Grad-CAM; None where it cannot explain."""
    if explainer.methods()[other]:
        return None
    cosines = []
    for sample in samples[:ALIKE]:
        a, b = (
            one.of().astype(np.float64).reshape(-1)
            for one in explainer.compare(sample.path, [other, "grad-cam"], sample.label)
        )
        size = float(np.linalg.norm(a) * np.linalg.norm(b))
        if size:
            cosines.append(float(a @ b) / size)
    return float(np.mean(cosines)) if cosines else None


def study(
    net: Net, data: str, work: Path, shared: Path, scenes: int, limit: int | None,
    watch: Callable[[str], None], methods: Sequence[str] = METHODS,
) -> reproduce_lines.Found:  # fmt: skip
    """Judges the maps of a model on a set, going on with the rows of an earlier run.

    Args:
        net, data, methods: the model, a name of `SETS`, and whose maps.
        work, shared: folders: for rows and scenes, and of models and photographs.
        scenes, limit: how many scenes a set has, and at most how many pictures are taken.
        watch: called with a line of progress.

    Raises:
        OutputError: the folder has rows of other settings.
        SystemExit: there is no shared folder, or a picture failed.
    """
    explainer = explainer_of(net, shared)
    if data in ("one", "several"):
        count = min(scenes, limit or scenes)
        watch(f"{count} {SETS[data]}")
        instances = 1 if data == "one" else 3
        given = Pictures(scene_samples(work / "scenes", instances, count), {})
    else:
        given = photographs(shared, data, net, explainer)
    samples = given.samples[:limit]
    assert explainer.path is not None
    settings = {
        "model": hashlib.sha256(explainer.path.read_bytes()).hexdigest(),
        "data": [data, SIDE, FIRST_SEED, RADIUS],
        "methods": list(methods),
        "metrics": [metric.name for metric in MEASURED],
    }
    rows = Rows(work / f"{Path(net.file).stem}-{data}", settings)
    placed = bool(samples) and bool(samples[0].boxes)
    judge = Plain(explainer, methods, [m for m in MEASURED if placed or not m.needs])
    failed = run(
        judge, samples, rows,
        lambda number, sample: watch(f"{net.title}, {SETS[data]}: {number} of {len(samples)}"),
    )  # fmt: skip
    if failed:
        raise SystemExit(f"{failed[0][0]}: {failed[0][1]} ({len(failed)} pictures failed)")
    others = [name for name in ("cam", *METHODS) if name != "grad-cam"]
    like = {name: alike(explainer, samples, name) for name in others}
    own = [rows.rows[sample.name] for sample in samples]
    return reproduce_lines.Found(
        net.title, net.head, SETS[data], data, tuple(own), dict(given.truth), like
    )


def many(text: str) -> int:
    """A number of pictures, from the command line."""
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of pictures")
    return int(text)


def shown(line: str) -> None:
    """A line of progress in place of the one before; nothing where nobody watches."""
    if sys.stdout.isatty():
        print(f"\r\033[K{line}", end="", flush=True)


def main() -> None:
    """Runs the studies that are missing and writes the page, or prints one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", choices=reproduce_page.SECTIONS, help="one table, printed")
    parser.add_argument("--limit", type=many, help="at most so many pictures of each set")
    parser.add_argument("--scenes", type=many, default=SCENES, help="scenes of a set")
    parser.add_argument("--work", type=Path, default=Path("out/reproduce"), help="for rows")
    shared = Path(os.environ.get("ONNXCAM_SHARED") or ROOT.parent / "shared")
    parser.add_argument("--shared", type=Path, default=shared, help="the folder of photographs")
    parser.add_argument("--to", type=Path, default=Path("docs/reproduction.md"), help="the page")
    given = parser.parse_args()
    wanted = [
        (net, data) for net, data in STUDIES
        if given.only is None or data in reproduce_page.SECTIONS[given.only].data
    ]  # fmt: skip
    if any(NETS[net].shared for net, _ in wanted):
        manifest(given.shared)  # now, and not after the demo models
    folders, counts = (given.work, given.shared), (given.scenes, given.limit)
    found = [study(NETS[net], data, *folders, *counts, shown) for net, data in wanted]
    shown("")
    if given.only:
        print(reproduce_page.section(given.only, found))
        return
    more = f" --limit {given.limit}" if given.limit else ""
    more += f" --scenes {given.scenes}" if given.scenes != SCENES else ""
    page = reproduce_page.page(found, f"python tools/reproduce.py{more}")
    given.to.write_text(page, "utf-8")
    print(given.to)


if __name__ == "__main__":
    main()
