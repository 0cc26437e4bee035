"""The measuring processes of the benchmark: each does one thing in an interpreter of its own.

    python tools/bench_measure.py time|literal|memory JOB   # JOB is JSON, and so is the answer

Nothing heavy is imported up here: a process reports its own peak of memory.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PAUSE = 0.01  # seconds: the other session's threads spin on for a while after a run
FEW = 8  # units of the first look at the literal way


def peak_bytes() -> int:
    """The largest resident memory that this process had, in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss outlives exec on Linux: it would hold the parent's as well
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that `work` took, and its result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def pictures(image: Any, batch: int | None, job: dict[str, Any]) -> Any:
    """Random pictures of the shape and type that a model takes as `image`."""
    import numpy as np

    random, shape = np.random.default_rng(job["seed"]), image.shape(batch or job["batch"])
    if np.issubdtype(image.dtype, np.integer):
        return random.integers(0, 256, shape).astype(image.dtype)
    return random.standard_normal(shape).astype(image.dtype)


class Plain:
    """Plain inference: a session on the file itself."""

    def __init__(self, job: dict[str, Any]) -> None:
        """Makes the session."""
        import onnxruntime as ort

        ort.set_default_logger_severity(4)
        options = ort.SessionOptions()
        options.intra_op_num_threads = job["threads"]
        self.imported = peak_bytes()
        self.session_s, self.session = timed(
            lambda: ort.InferenceSession(job["path"], options, providers=["CPUExecutionProvider"])
        )
        self.name = job["image"]

    def run(self, images: Any) -> None:
        """One inference."""
        self.session.run(None, {self.name: images})


class Explaining:
    """An explainer made ready, and what getting ready took."""

    def __init__(
        self, job: dict[str, Any], way: str, images: Any, units: Sequence[int] | None = None
    ) -> None:
        """Loads and compiles the model, and explains once: sessions are made on the first call."""
        import onnxcam

        _ = onnxcam.Explainer  # imported on first use
        self.imported = peak_bytes()
        self.blocks = 0
        self.load_s, self.explainer = timed(
            lambda: onnxcam.Explainer(
                job["path"],
                provider="cpu",
                layer=job["layer"],
                ablation=way,
                units=units,
                memory=job["memory"],
                threads=job["threads"],
            )
        )
        classifier = self.explainer.classifier
        if images is None:
            images = pictures(classifier.image, classifier.batch, job)
        self.images = images
        self.compile_s, _ = timed(lambda: self.explainer.program(1))
        self.first_s, self.found = timed(self.run)

    def run(self, _: Any = None) -> Any:
        """One explanation."""
        self.blocks = 0

        def block(done: int, of: int) -> None:
            self.blocks += 1

        return self.explainer(self.images, progress=block)

    def facts(self) -> dict[str, Any]:
        """What is explained, and how."""
        found, classifier = self.found, self.explainer.classifier
        return {
            "layer": found.layer,
            "units": classifier.layer(found.layer).units,
            "grid": list(found.map.shape[-2:]),
            "classes": classifier.classes,
            "input": [*self.images.shape],
            "dtype": str(self.images.dtype),
            "image": classifier.image.name,
            **self.way(),
        }

    def way(self) -> dict[str, Any]:
        """How the last explanation ran."""
        return {
            "mode": _mode(self.blocks),
            "blocks": self.blocks,
            "notes": list(self.found.notes),
        }


def _mode(blocks: int) -> str:
    return "one run" if blocks == 0 else "1 block" if blocks == 1 else f"{blocks} blocks"


def by_turns(
    plain: Plain, explain: Explaining, job: dict[str, Any], limit: float | None = None
) -> dict[str, Any]:
    """Plain inference and explanation in turn, `job["repeats"]` pairs of them."""
    images = explain.images
    pairs: list[list[float]] = []
    for _ in range(job["warmup"]):
        plain.run(images)
        explain.run()
    start = time.perf_counter()
    while len(pairs) < job["repeats"]:
        pair: list[float] = []
        for run in (plain.run, explain.run):
            time.sleep(PAUSE)
            pair.append(timed(lambda run=run: run(images))[0])  # type: ignore[misc]
        pairs.append(pair)
        if limit is not None and time.perf_counter() - start > limit:
            break
    ratios = [b / a for a, b in pairs]
    return {
        "plain_s": statistics.median(a for a, _ in pairs),
        "explain_s": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(ratios),
        "ratio_range": middle_half(ratios),
        "ratio_of_fastest": min(b for _, b in pairs) / min(a for a, _ in pairs),
        "pairs_s": pairs,
    }


def middle_half(values: Sequence[float]) -> list[float]:
    """The range that the middle half of the values lies in."""
    if len(values) < 2:
        return [*values, *values]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return [low, high]


def measure_time(job: dict[str, Any]) -> dict[str, Any]:
    """The fast path against plain inference."""
    explain = Explaining(job, "exact", None)
    job = {**job, "image": explain.explainer.classifier.image.name}
    plain = Plain(job)
    first_s, _ = timed(lambda: plain.run(explain.images))
    return {
        **explain.facts(),
        "time": by_turns(plain, explain, job),
        "ready": {
            "plain_session_s": plain.session_s,
            "plain_first_s": first_s,
            "load_s": explain.load_s,
            "compile_s": explain.compile_s,
            "first_s": explain.first_s,  # sessions are made in it
        },
    }


def measure_literal(job: dict[str, Any]) -> dict[str, Any]:
    """The literal path: all units, or as many as the limit allows and the rest reckoned.

    Time is taken as a + b × units, from two numbers of units.
    """
    few, every = Explaining(job, "literal", None, list(range(min(FEW, job["units"])))), job["units"]
    plain = Plain(job)
    plain.run(few.images)
    fixed = statistics.median(timed(lambda: plain.run(few.images))[0] for _ in range(3))
    slope = max(0.0, timed(few.run)[0] - fixed) / len(few.explainer.recipe.units or ())
    # As many runs as there will be: the first, the warm-up, the repeats.
    runs = 1 + job["warmup"] + job["repeats"]
    room = int(max(0.0, job["literal_limit"] / runs - fixed) / max(slope, 1e-9))
    measured = min(every, max(2 * FEW, room))
    units = None if measured == every else _spread(every, measured)
    explain = Explaining(job, "literal", few.images, units)
    time_ = by_turns(plain, explain, job, 2 * job["literal_limit"])
    result = {"units_measured": measured, "estimated": measured < every, **explain.way()}
    if measured < every:
        small = by_turns(plain, few, job, job["literal_limit"])
        count = min(FEW, every)
        slope = (time_["explain_s"] - small["explain_s"]) / (measured - count)
        for entry in (time_, small):
            del entry["ratio_range"], entry["ratio_of_fastest"]
        seconds = time_["explain_s"] + max(0.0, slope) * (every - measured)
        ratio = seconds / time_["plain_s"]
        result["measured"] = [{"units": count, **small}, {"units": measured, **time_}]
        time_ = {"plain_s": time_["plain_s"], "explain_s": seconds, "ratio": ratio}
    return {**result, "time": time_}


def _spread(every: int, count: int) -> list[int]:
    """`count` units spread evenly over all."""
    return sorted({i * every // count for i in range(count)})


def measure_memory(job: dict[str, Any]) -> dict[str, Any]:
    """Peak memory of this process, which does nothing but one way, `memory_runs` times."""
    if job["way"] == "plain":
        import numpy as np

        plain = Plain(job)
        dtype = np.dtype(job["dtype"])
        images = np.random.default_rng(job["seed"]).random(job["input"], np.float32).astype(dtype)
        for _ in range(job["memory_runs"]):
            plain.run(images)
        return {"peak": peak_bytes(), "imported": plain.imported}
    literal = job["way"] == "literal"
    part = literal and job["units_measured"] < job["units"]
    units = _spread(job["units"], job["units_measured"]) if part else None
    explain = Explaining(job, "literal" if literal else "exact", None, units)
    for _ in range(job["memory_runs"] - 1):
        explain.run()
    return {"peak": peak_bytes(), "imported": explain.imported}


CHILDREN = {"time": measure_time, "literal": measure_literal, "memory": measure_memory}


if __name__ == "__main__":
    print(json.dumps(CHILDREN[sys.argv[1]](json.loads(sys.argv[2]))))
