"""Measure what the cache saves: whole processes, from start to end, a first and a second one.

    python tools/bench_start.py resnet50.onnx vit_b_16.onnx --rounds 5

For each model and round, one after the other, each on one thread: a bare process that makes the
session of the model and runs it once; `onnxcam explain` without a cache, with an empty one, and
with what that one kept. Printed are the medians of the seconds on the clock and of the processor's
(user and system), which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

PLAIN = """
import sys
import numpy as np
import onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
image = session.get_inputs()[0]
shape = [n if isinstance(n, int) else 1 if i == 0 else 224 for i, n in enumerate(image.shape)]
session.run(None, {image.name: np.zeros(shape, np.float32)})
"""
KINDS = ("plain session", "explain --no-cache", "explain, first", "explain, second")


def seconds(command: Sequence[str], cache: Path) -> tuple[float, float]:
    """Seconds on the clock and of the processor that a process takes.

    Raises:
        CalledProcessError: it failed.
    """
    before, start = os.times(), time.perf_counter()
    environment = {**os.environ, "ONNXCAM_CACHE": str(cache)}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    after = os.times()
    used = after.children_user + after.children_system
    return time.perf_counter() - start, used - before.children_user - before.children_system


def measured(model: str, picture: str, method: str, rounds: int) -> dict[str, list[float]]:
    """Median seconds, on the clock and of the processor, by kind of process."""
    explain = [sys.executable, "-m", "onnxcam", "explain", model, picture, "--method", method]
    explain += ["--preset", "imagenet", "--kind", "none", "--json"]
    explain += ["--threads", "1", "--provider", "cpu"]
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            cache = Path(folder) / "cache"
            for kind in KINDS:
                plain = [sys.executable, "-c", PLAIN, model]
                more = ["--no-cache"] if kind.endswith("--no-cache") else []
                command = plain if kind == KINDS[0] else [*explain, *more]
                found[kind].append(seconds(command, cache))
    return {
        kind: [statistics.median(column) for column in zip(*rows, strict=True)]
        for kind, rows in found.items()
    }


def main() -> None:
    """Measures the models named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--method", default="grad-cam")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        from PIL import Image

        picture = str(Path(folder) / "picture.png")
        Image.linear_gradient("L").convert("RGB").save(picture)
        for model in given.models:
            print(f"{Path(model).name}, {given.method}, seconds on the clock (of the processor):")
            for kind, row in measured(model, picture, given.method, given.rounds).items():
                print(f"  {kind:20s} {row[0]:7.2f} ({row[1]:.2f})", flush=True)


if __name__ == "__main__":
    main()
