"""What explaining costs at deployment: an explainer file against the plain model file.

    python tools/bench_deploy.py resnet50.onnx vgg16.onnx
    python tools/bench_deploy.py --torchvision resnet50 densenet121 --keep zoo --threads 1

Each model is exported with `onnxcam.export`, and from there on only ONNX Runtime runs: one session
on the model as it is, one on the explainer, by turns in one process, on the same random pictures.
The ratio is the median over pairs of neighbours, the range behind it holds the middle half of them.
Peaks of memory are those of fresh processes with one session each. Figures only, no verdict: the
machine matters.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import MIB, ChildFailed, child, exported

SESSIONS = Path(__file__).resolve().with_name("bench_sessions.py")
METHODS = ("ablation-cam", "grad-cam")
TARGETS = ("top1", "given")
BATCHES = (1, 8, 32)
SETTINGS = ("provider", "threads", "repeats", "seconds", "seed", "layer", "memory_runs")
HEAD = (
    "| model | method | target | batch | images/s plain | explained | ratio (middle half) "
    "| p50 / p99 plain, ms | explained | peak plain, MiB | explained | pairs |\n"
    "|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
)


def rows(path: Path, given: argparse.Namespace, scratch: Path) -> Iterator[dict[str, Any]]:
    """The figures of one model: a row for each method, target and batch; failures have "failed"."""
    job: dict[str, Any] = {
        "model": str(path),
        "explainer": str(scratch / "explainer.onnx"),
        **{n: getattr(given, n) for n in SETTINGS},
    }
    plain: dict[int, int] = {}
    for method in given.methods:
        for targets in given.targets:
            about = {"model": path.name, "method": method, "target": targets}
            try:
                facts = child("export", {**job, "method": method, "targets": targets}, SESSIONS)
            except ChildFailed as failure:
                yield {**about, "failed": str(failure)}
                continue
            for batch in given.batches:
                if facts["batch"] not in (None, batch):
                    continue  # the model takes that many pictures and no others
                one = {**job, **facts, "batch": batch}
                yield {**about, "batch": batch, **measured(one, plain)}


def measured(job: dict[str, Any], plain: dict[int, int]) -> dict[str, Any]:
    """Times and memory of one explainer at one batch; what plain inference takes is kept."""
    batch = job["batch"]
    try:
        found = child("pair", job, SESSIONS)
        if batch not in plain:
            plain[batch] = child("memory", {**job, "file": job["model"]}, SESSIONS)["peak"]
        peak = child("memory", {**job, "file": job["explainer"]}, SESSIONS)["peak"]
    except ChildFailed as failure:
        return {"failed": str(failure)}
    return {**found, "bytes": job["bytes"], "peak": {"plain": plain[batch], "explained": peak}}


def line(row: dict[str, Any]) -> str:
    """A row of the Markdown table."""
    name = row["model"].removesuffix(".onnx")
    about = f"| {name} | {row['method']} | {row['target']} | {row.get('batch', '')} |"
    if "failed" in row:
        return f"{about} failed: {row['failed'].replace('|', '/')} |" + " |" * 7
    plain, explained, peak = row["plain"], row["explained"], row["peak"]
    low, high = row["ratio_range"]
    return (
        f"{about} {plain['images_per_s']:.1f} | {explained['images_per_s']:.1f} "
        f"| {row['ratio']:.2f} ({low:.2f}–{high:.2f}) | {_latency(plain)} | {_latency(explained)} "
        f"| {peak['plain'] / MIB:.0f} | {peak['explained'] / MIB:.0f} | {row['pairs']} |"
    )


def _latency(one: dict[str, float]) -> str:
    return f"{1e3 * one['p50_s']:.1f} / {1e3 * one['p99_s']:.1f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures the models named on the command line; 1 if anything failed."""
    given = _arguments(arguments)
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        try:
            paths = [*given.models, *exported(given.torchvision, given.keep or scratch)]
        except ChildFailed as failure:
            print(f"error: {failure}", file=sys.stderr)
            return 1
        if not given.json:
            print(f"{given.threads} threads, the CPU provider of ONNX Runtime\n\n{HEAD}")
        for path in paths:
            for row in rows(path, given, scratch):
                found.append(row)
                if not given.json:
                    print(line(row), flush=True)
    if given.json:
        print(json.dumps(found, indent=2))
    failed = [row for row in found if "failed" in row]
    for row in failed:
        print(f"error: {row['model']}, {row['method']}: {row['failed']}", file=sys.stderr)
    return 1 if failed else 0


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measures explainer files against the plain model files.",
        epilog="example: python tools/bench_deploy.py resnet50.onnx --batches 1 8",
    )
    add = parser.add_argument
    add("models", nargs="*", type=Path, metavar="MODEL", help="ONNX files")
    add("--torchvision", nargs="+", default=[], metavar="NAME", help="export these and measure")
    add("--keep", type=Path, metavar="DIR", help="keep the exports here, and take those there are")
    add("--methods", nargs="+", default=METHODS, metavar="NAME", help=f"default: {METHODS}")
    add("--targets", nargs="+", default=TARGETS, metavar="WHAT", help=f"default: {TARGETS}")
    add("--batches", nargs="+", type=int, default=BATCHES, metavar="N", help=f"default: {BATCHES}")
    add("--layer", help="feature map by tensor or node (default: the model's)")
    add("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    add("--repeats", type=int, default=200, help="at most so many pairs (default: %(default)s)")
    add(
        "--seconds", type=float, default=30.0,
        help="about how long a row may take; at least 5 pairs are run (default: %(default)s)",
    )  # fmt: skip
    add("--memory-runs", type=int, default=3, help="runs behind a peak of memory")
    add("--seed", type=int, default=0, help="of the random pictures")
    add("--json", action="store_true", help="all figures as JSON")
    given = parser.parse_args(arguments)
    given.provider = "cpu"  # tools/bench_gpu.py is for the others
    if not given.models and not given.torchvision:
        parser.error("name a MODEL, or models to export with --torchvision")
    return given


if __name__ == "__main__":
    sys.exit(main())
