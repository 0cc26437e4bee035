"""What explaining costs on a GPU: time, throughput, memory, copies, and the floor of the card.

    python tools/bench_gpu.py --torchvision --keep zoo          # the four models of the page
    python tools/bench_gpu.py resnet50.onnx --batches 1 16 64 --methods ablation-cam
    python tools/bench_gpu.py model.onnx --provider cpu         # a dry run, for any machine

Four tables: explainer files against plain model files, in float32 and float16, as
tools/bench_deploy.py measures them on the CPU, with images and results left on the device;
Ablation-CAM at an inner layer against the arithmetic floor; copies between host and device in
ONNX Runtime's own profile; and pytorch-grad-cam on the same card, if it and torch are there. The
memory is what the device has less, so nothing else should run on it. float16 models are made from
float32 ones with ONNX Runtime's converter, before the explainer is made.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import bench_deploy
import bench_peers
from bench import ChildFailed, child, exported
from bench_deploy import SESSIONS

INNER = Path(__file__).resolve().with_name("bench_inner.py")
NAMES = ("resnet50", "vgg16", "efficientnet_b0", "vit_b_16")
BATCHES = (1, 2, 4, 8, 16, 32, 64)
PRECISIONS = ("fp32", "fp16")
PARTS = ("explained", "inner", "copies", "torch")


def halved(path: Path, folder: Path) -> Path:
    """The model in float16, inputs and outputs too."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    to = folder / f"{path.stem}.fp16.onnx"
    if not to.is_file():
        onnx.save(convert_float_to_float16(onnx.load(path)), to)
    return to


def variants(paths: Sequence[Path], given: argparse.Namespace, folder: Path) -> Iterator[Path]:
    """The models in each precision that is asked for."""
    for path in paths:
        for precision in given.precisions:
            yield path if precision == "fp32" else halved(path, folder)


def explained(paths: Sequence[Path], given: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The table of explainers against plain models, line by line."""
    yield from ("", "### Explained against plain inference", "", *bench_deploy.HEAD.splitlines())
    for path in variants(paths, given, folder):
        yield from map(bench_deploy.line, bench_deploy.rows(path, given, folder))


def copied(paths: Sequence[Path], given: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The table of copies between host and device."""
    yield from (
        "", "### Copies between host and device in one run", "",
        "| model | method | file | nodes run | to host | from host | largest, bytes |",
        "|---|---|---|--:|--:|--:|--:|",
    )  # fmt: skip
    for path in paths:
        for method in given.methods:
            job = {**_job(path, given), "method": method, "targets": "top1", "layer": None}
            job |= {"explainer": str(folder / "explainer.onnx")}
            about = f"| {path.stem} | {method} |"
            try:
                job |= child("export", job, SESSIONS)
                job["batch"] = job["batch"] or 2
                for name in ("model", "explainer"):
                    found = child("copies", {**job, "file": job[name]}, SESSIONS)
                    yield (
                        f"{about} {'plain' if name == 'model' else name} | {found['nodes']} "
                        f"| {found['to_host']} | {found['from_host']} | {found['largest']} |"
                    )
            except ChildFailed as failure:
                yield f"{about} failed: {failure} | | | | |"


def inner(path: Path, given: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The table of Ablation-CAM at an inner layer."""
    yield from (
        "", "### Ablation-CAM at an inner layer, one picture, against the floor of the device", "",
        "| model | layer | units | way | operations of the head | 10¹²/s of the device | floor, ms "
        "| explained, ms | over the floor |",
        "|---|---|--:|---|--:|--:|--:|--:|--:|",
    )  # fmt: skip
    rates: dict[str, float] = {}
    for model in variants([path], given, folder):
        for way in given.ways:
            about = f"| {model.stem} |"
            job = {**_job(model, given), "layer": given.inner, "way": way, "repeats": 3}
            try:
                found = child("inner", job, INNER)
                kind = found["dtype"]
                if kind not in rates:
                    asked = {"side": given.side, "dtype": kind, "repeats": 10}
                    rates[kind] = 1e12 * given.tflops if given.tflops else (
                        child("rate", {**job, **asked}, SESSIONS)["per_s"]
                    )  # fmt: skip
            except ChildFailed as failure:
                yield f"{about} failed: {failure} | | | | | | | |"
                continue
            floor = found["units"] * found["operations"] / rates[kind]
            yield (
                f"{about} `{found['layer']}` {'×'.join(map(str, found['grid']))} "
                f"| {found['units']} | {way} | {found['operations'] / 1e9:.3f}·10⁹ "
                f"| {rates[kind] / 1e12:.2f} | {1e3 * floor:.1f} | {1e3 * found['seconds']:.1f} "
                f"| {found['seconds'] / floor:.2f} |"
            )


def against_torch(given: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The table of pytorch-grad-cam on the same device, or a line that says why there is none."""
    yield from ("", "### pytorch-grad-cam on the same device, ResNet-50, one picture, float32", "")
    python = given.torch_python
    if python is None:
        missing = [n for n in ("torch", "torchvision", "pytorch_grad_cam")
                   if importlib.util.find_spec(n) is None]  # fmt: skip
        if missing:
            yield f"Not measured: {', '.join(missing)} not installed here (--torch-python names "
            yield "an interpreter that has torch, torchvision and grad-cam)."
            return
        python = Path(sys.executable)
    limits = argparse.Namespace(limit=64, minutes=30)
    work = bench_peers.WORK
    try:
        made = bench_peers.worked([python, work, "make", "resnet50", folder], limits)
    except bench_peers.Failed as failure:
        yield f"Not measured: {failure}"
        return
    yield "| method | library | plain, ms | explained, ms | over its plain | over onnxcam |"
    yield "|---|---|--:|--:|--:|--:|"
    job = {**made, "device": given.provider, "threads": given.threads, "masks": 0}
    job |= {"repeats": 15, "seconds": 30.0}
    for method in ("grad-cam", "ablation-cam"):
        ours: dict[str, Any] = {}
        for name, own in (("onnxcam", Path(sys.executable)), ("grad-cam", python)):
            one = json.dumps({**job, "method": method})
            try:
                row = bench_peers.worked([own, work, name, one], limits)
            except bench_peers.Failed as failure:
                yield f"| {method} | {name} | failed: {failure} | | | |"
                continue
            ours = ours or row
            yield (
                f"| {method} | {name} {row['version']} | {1e3 * row['plain_s']:.2f} "
                f"| {1e3 * row['explained_s']:.2f} | {row['ratio']:.2f} "
                f"| {row['explained_s'] / ours['explained_s']:.2f} |"
            )


def _job(path: Path, given: argparse.Namespace) -> dict[str, Any]:
    return {"model": str(path), **{n: getattr(given, n) for n in ("provider", "threads", "seed")}}


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the tables; 1 where the provider cannot run."""
    from onnxcam import OnnxcamError, runtime

    given = _arguments(arguments)
    try:
        runtime.choose(given.provider)
    except OnnxcamError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        names = NAMES if given.torchvision == [] else given.torchvision or ()
        try:
            paths = [*given.models, *exported(names, given.keep or folder)]
        except ChildFailed as failure:
            print(f"error: {failure}", file=sys.stderr)
            return 1
        parts = {
            "explained": lambda: explained(paths, given, folder),
            "inner": lambda: inner(paths[0], given, folder),
            "copies": lambda: copied(paths, given, folder),
            "torch": lambda: against_torch(given, folder),
        }
        for name in given.parts:
            for line in parts[name]():
                print(line, flush=True)
    return 0


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measures explainers on a GPU against plain inference there.",
        epilog="example: python tools/bench_gpu.py --torchvision --keep zoo",
    )
    add = parser.add_argument
    add("models", nargs="*", type=Path, metavar="MODEL", help="ONNX files in float32")
    add("--torchvision", nargs="*", metavar="NAME", help=f"export these (none named: {NAMES})")
    add("--keep", type=Path, metavar="DIR", help="keep the exports here, and take those there are")
    add("--provider", choices=("cuda", "cpu"), default="cuda", help="default: %(default)s")
    add("--parts", nargs="+", choices=PARTS, default=PARTS, help="which tables (default: all)")
    add("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    add("--methods", nargs="+", default=bench_deploy.METHODS, metavar="NAME")
    add("--targets", nargs="+", default=["top1"], metavar="WHAT")
    add("--batches", nargs="+", type=int, default=BATCHES, metavar="N", help=f"default: {BATCHES}")
    add("--inner", metavar="TENSOR", help="of the first model; default: the last finer feature map")
    add("--ways", nargs="+", choices=("exact", "literal"), default=["exact", "literal"])
    add("--tflops", type=float, help="speed of the card, in place of a measured matrix product")
    add("--side", type=int, default=8192, help="of that product (default: %(default)s)")
    add("--torch-python", type=Path, metavar="PATH", help="an interpreter that has grad-cam")
    add("--threads", type=int, default=0, help="CPU threads (default: all cores)")
    add("--repeats", type=int, default=100, help="at most so many pairs (default: %(default)s)")
    add("--seconds", type=float, default=10.0, help="about how long a row takes, if it can")
    add("--memory-runs", type=int, default=3, help="runs behind a figure of memory")
    add("--seed", type=int, default=0, help="of the random pictures")
    given = parser.parse_args(arguments)
    given.layer = None
    if not given.models and given.torchvision is None:
        parser.error("name a MODEL, or models to export with --torchvision")
    return given


if __name__ == "__main__":
    sys.exit(main())
