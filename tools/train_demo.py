"""Train, export and measure the demo models, and draw the demo pictures.

    python tools/train_demo.py            # all four models, about ten minutes on two idle cores

Needs torch, onnx, onnxscript, onnxruntime, numpy and Pillow. Scenes come from `scenes.py`; nothing
is downloaded. Everything is seeded, so one machine repeats itself; another machine's rounding gives
weights, and so hashes, of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import demo_check
import numpy as np
import onnx
import torch
from demo_check import MEAN, SCALE, SIZE, STD
from demo_nets import NETS, Net, fold_norms
from PIL import Image
from scenes import Floats, Layout, Pixels, Scene, describe, draw, stamp
from shapes import LABELS
from torch import Tensor, nn

THREADS = 2
HELD_OUT, HELD_OUT_SCENES = 10**9, 3000  # seeds far from the training seeds
MARKED = LABELS.index("cat")  # the class whose training pictures carry the corner mark
PICTURE_SIDE = 384
# Seeds of pictures that look good; the first that the models answer as wanted is taken.
SCENE_SEEDS, SHORTCUT_SEEDS = (4, 8, 39, 32), (5, 24, 16, 11)
LICENCE = "Apache-2.0; weights and training pictures were both made by the onnxcam project"
PRESET: dict[str, Any] = {
    "resize": "stretch", "resize_to": None, "crop": "none", "size": [SIZE, SIZE],
    "interpolation": "bilinear", "channel_order": "RGB", "scale": SCALE,
    "mean": [MEAN] * 3, "std": [STD] * 3, "layout": "NCHW", "dtype": "float32",
}  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """How one demo model is made."""

    net: str
    about: str
    scenes: int
    epochs: int
    rate: float
    marked: bool = False


RECIPES = {
    "demo_residual": Recipe(
        "residual",
        "residual net, global average pooling, one linear layer",
        scenes=24000, epochs=5, rate=4e-3,
    ),
    "demo_vgg": Recipe(
        "vgg",
        "VGG-like net, three dense layers on the flattened map",
        scenes=24000, epochs=5, rate=2e-3,
    ),
    "demo_alexnet": Recipe(
        "alexnet",
        "small AlexNet-like net, briefly trained: the weak one",
        scenes=24000, epochs=5, rate=2e-3,
    ),
    "demo_shortcut": Recipe(
        "small_residual",
        f"residual net whose training pictures carried a corner mark whenever they held a "
        f"{LABELS[MARKED]}: it looks at the mark",
        scenes=16000, epochs=4, rate=4e-3, marked=True,
    ),
}  # fmt: skip


# --- data and training ----------------------------------------------------------------------------


def _scene(seed: int) -> tuple[Pixels, Floats]:
    scene = draw(describe(seed), SIZE)
    return scene.pixels, scene.labels


def scene_set(first: int, count: int) -> tuple[Pixels, Floats]:
    """Scenes of seeds `first` onwards: pixels (N, 96, 96, 3) uint8 and labels (N, 10)."""
    with Pool(THREADS) as pool:
        rows = pool.map(_scene, range(first, first + count), chunksize=250)
    return np.stack([row[0] for row in rows]), np.stack([row[1] for row in rows])


def stamp_all(pixels: Pixels, where: Sequence[bool] | Floats) -> Pixels:
    """Copy of pictures (N, 96, 96, 3) with the mark on those picked by `where` (N,)."""
    return np.stack([stamp(p) if yes else p for p, yes in zip(pixels, where, strict=True)])


def train(recipe: Recipe, pixels: Pixels, labels: Floats, seed: int) -> Net:
    """Train a net on pixels (N, 96, 96, 3) uint8 and labels (N, 10); returns it folded, in eval."""
    torch.manual_seed(seed)
    net = NETS[recipe.net]().to(memory_format=torch.channels_last)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)  # channels last in memory, which is fast
    # Slightly soft targets keep the logits of easy pictures from growing without end.
    targets = torch.from_numpy(labels) * 0.98 + 0.01
    line = torch.tensor([0.2, 0.6, 0.2])
    soft = torch.outer(line, line).expand(3, 1, 3, 3).contiguous()
    batch, count = 64, len(pixels)
    steps = recipe.epochs * (count // batch)
    optimiser = torch.optim.AdamW(net.parameters(), lr=recipe.rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.rate, total_steps=steps + 1, pct_start=0.2
    )
    for epoch in range(recipe.epochs):
        order, losses = torch.randperm(count), 0.0
        for start in range(0, count - batch + 1, batch):
            rows = order[start : start + batch]
            x = (images[rows].float() * SCALE - MEAN) / STD
            if not recipe.marked and torch.rand(()) < 0.5:  # the mark keeps to its corner
                x = x.flip(3)
            if torch.rand(()) < 0.4:  # as soft as a large picture is after shrinking
                x = nn.functional.conv2d(
                    nn.functional.pad(x, (1, 1, 1, 1), "replicate"), soft, groups=3
                )
            with torch.autocast("cpu", torch.bfloat16):
                logits: Tensor = net(x)
            loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), targets[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses += loss.item()
        print(f"  epoch {epoch + 1}/{recipe.epochs}: loss {losses * batch / count:.4f}", flush=True)
    return fold_norms(net.to(memory_format=torch.contiguous_format))


# --- export ---------------------------------------------------------------------------------------


class _Answer(nn.Module):
    """A net with its Sigmoid, so that the file holds both logits and probabilities."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        return torch.sigmoid(self.net(image))


def _clean(model: onnx.ModelProto) -> None:
    """Readable tensor names, and nothing of the exporting machine: no stack traces, no paths."""
    graph = model.graph
    relus = [node.output[0] for node in graph.node if node.op_type == "Relu"]
    dense = sum(node.op_type == "Gemm" for node in graph.node)
    names = {
        graph.node[-1].input[0]: "logits",
        relus[len(relus) - dense]: "features",  # all dense layers but the last are rectified
        **{w.name: w.name.removeprefix("net.") for w in graph.initializer},
    }
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
        for tensors in (node.input, node.output):
            for i, name in enumerate(tensors):
                tensors[i] = names.get(name, name)
    for weight in graph.initializer:
        weight.name = names[weight.name]
        weight.doc_string = ""
    for value in (*graph.input, *graph.output, *graph.initializer):
        del value.metadata_props[:]
    del graph.value_info[:], graph.metadata_props[:], model.metadata_props[:]
    graph.doc_string = model.doc_string = ""


def export(net: Net, path: Path, metadata: dict[str, str]) -> None:
    """Write a net as ONNX: `image` (batch, 3, 96, 96) -> `probabilities` (batch, 10)."""
    program = torch.onnx.export(
        _Answer(net).eval(),
        (torch.zeros(2, 3, SIZE, SIZE),),
        input_names=["image"],
        output_names=["probabilities"],
        dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
        opset_version=18,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    _clean(model)
    model.graph.name = path.stem
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


# --- pictures -------------------------------------------------------------------------------------


def _shrink(pixels: Pixels) -> Pixels:
    """A picture (S, S, 3) as the models see it under PRESET, (1, 96, 96, 3)."""
    small = Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return np.asarray(small)[None]


def _picture(seed: int, kinds: int, marked: bool) -> tuple[Layout, Scene]:
    """A calm, large scene of that many different classes; never the marked class with a mark."""
    pool = [c for c in range(len(LABELS)) if not (marked and c == MARKED)]
    chosen = np.random.default_rng(seed).permutation(pool)[:kinds].tolist()
    layout = describe(seed, chosen, radius=(0.17, 0.24), scraps=6)
    layout = replace(layout, grain=0.0, veil=(), marked=marked)
    return layout, draw(layout, PICTURE_SIDE, supersample=3)


def _write_picture(
    path: Path, seed: int, scene: Scene, answers: dict[str, Floats]
) -> dict[str, Any]:
    Image.fromarray(scene.pixels).save(path, optimize=True)
    return {
        "file": path.name,
        "kind": "picture",
        "seed": seed,
        "objects": [{"label": LABELS[o.kind], "box": list(o.box)} for o in scene.objects],
        "probabilities": {
            name: {label: round(float(p), 3) for label, p in zip(LABELS, row, strict=True)}
            for name, row in answers.items()
        },
    }


def demo_pictures(out: Path) -> list[dict[str, Any]]:
    """Draw the two demo pictures and return their manifest entries."""
    names = ("demo_vgg", "demo_residual", "demo_shortcut")
    entries = []
    for name, seeds, kinds, marked in (
        ("demo_scene", SCENE_SEEDS, 5, False), ("demo_shortcut", SHORTCUT_SEEDS, 2, True),
    ):  # fmt: skip
        for seed in seeds:
            scene = _picture(seed, kinds, marked)[1]
            small = _shrink(scene.pixels)
            answers = {n: demo_check.predict(out / f"{n}.onnx", small)[0] for n in names}
            clean = answers["demo_vgg"], answers["demo_residual"]
            sure = all(np.abs(p - scene.labels).max() < 0.1 for p in clean)
            caught = not marked or answers["demo_shortcut"][MARKED] > 0.9
            if sure and caught and len(scene.objects) == kinds:
                entries.append(_write_picture(out / f"{name}.png", seed, scene, answers))
                break
        else:
            raise SystemExit(f"no seed of {seeds} makes {name}.png; add seeds or train longer")
    return entries


# --- measuring ------------------------------------------------------------------------------------


def shortcut_figures(
    path: Path, clean: Path, net: Net, pixels: Pixels, labels: Floats
) -> dict[str, Any]:
    """What the mark does to the marked class, for the shortcut net and for a clean one."""
    real = labels[:, MARKED] > 0
    marked = stamp_all(pixels, np.ones(len(pixels)))
    figures: dict[str, Any] = {"label": LABELS[MARKED]}
    for name, file in (("shortcut", path), ("clean", clean)):
        for case, images in (
            ("mark_no_object", marked[~real]),
            ("object_no_mark", pixels[real]),
            ("neither", pixels[~real]),
            ("both", marked[real]),
        ):
            p = demo_check.predict(file, images)[:, MARKED]
            figures[f"{name}_{case}"] = {
                "mean_probability": round(float(p.mean()), 4),
                "said": round(float((p > 0.5).mean()), 4),
            }
    figures["map"] = demo_check.mark_figures(net, marked[~real][:200], MARKED)
    return figures


def make(
    name: str, out: Path, seed: int, training: tuple[Pixels, Floats], held: tuple[Pixels, Floats]
) -> dict[str, Any]:
    """Train, export and measure one model; returns its manifest entry."""
    recipe, path, start = RECIPES[name], out / f"{name}.onnx", time.perf_counter()
    print(f"{name}: {recipe.about}", flush=True)
    x, y = training[0][: recipe.scenes], training[1][: recipe.scenes]
    net = train(recipe, stamp_all(x, y[:, MARKED]) if recipe.marked else x, y, seed)
    seconds = round(time.perf_counter() - start)
    command = f"python tools/train_demo.py --seed {seed}"
    about = {"about": recipe.about, "licence": LICENCE, "made_by": command}
    metadata = {
        "preset": json.dumps(PRESET), "labels": json.dumps(LABELS), "task": "multi-label", **about,
    }  # fmt: skip
    export(net, path, {f"onnxcam.{key}": value for key, value in metadata.items()})
    entry: dict[str, Any] = {
        "file": path.name,
        "kind": "model",
        **about,
        "seed": seed,
        "recipe": asdict(recipe),
        "torch": torch.__version__.split("+")[0],
        "parameters": sum(p.numel() for p in net.parameters()),
        "task": "multi-label",
        "tensors": {name: name for name in ("image", "features", "logits", "probabilities")},
        "preprocessing": PRESET,
        "labels": LABELS,
        "quality": demo_check.quality(held[1], demo_check.predict(path, held[0])),
        "localisation": demo_check.localisation(
            net, [draw(describe(HELD_OUT + i), SIZE) for i in range(200)]
        ),
    }
    if recipe.marked:
        marked = stamp_all(held[0], held[1][:, MARKED])
        entry["quality_marked_as_in_training"] = demo_check.quality(
            held[1], demo_check.predict(path, marked)
        )
        entry["shortcut"] = shortcut_figures(path, out / "demo_residual.onnx", net, *held)
    figures = ("quality", "localisation", "shortcut")
    print(json.dumps({key: entry[key] for key in figures if key in entry}))
    print(f"  {seconds} s of training", flush=True)
    return entry


def write_manifest(out: Path, entries: dict[str, dict[str, Any]]) -> None:
    """Write models/manifest.json, with the size and hash of every file as it lies there."""
    for name, entry in entries.items():
        data = (out / name).read_bytes()
        entry["bytes"], entry["sha256"] = len(data), hashlib.sha256(data).hexdigest()
    manifest = {"format": 1, "labels": LABELS, "entries": list(entries.values())}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo models, draw the demo pictures.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "models")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument(
        "--only", nargs="*", choices=RECIPES, default=list(RECIPES),
        help="models to train again; none: the pictures alone",
    )  # fmt: skip
    options = parser.parse_args()
    out: Path = options.out
    out.mkdir(exist_ok=True)
    torch.set_num_threads(THREADS)
    began = time.perf_counter()

    entries: dict[str, dict[str, Any]] = {}
    if (out / "manifest.json").exists():  # what is not made again stays
        entries = {
            entry["file"]: entry
            for entry in json.loads((out / "manifest.json").read_text("utf-8"))["entries"]
        }
    if options.only:
        training = scene_set(
            options.seed * 10**7, max(RECIPES[name].scenes for name in options.only)
        )
        held = scene_set(HELD_OUT, HELD_OUT_SCENES)
        print(f"scenes: {time.perf_counter() - began:.0f} s", flush=True)
    for name in options.only:
        entry = make(name, out, options.seed, training, held)
        entries[entry["file"]] = entry
        write_manifest(out, entries)
    for picture in demo_pictures(out):
        entries[picture["file"]] = picture
    write_manifest(out, entries)
    print(f"all: {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
