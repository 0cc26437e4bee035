"""What an explanation costs: its time and memory over plain inference of the same model.

    python tools/bench.py                          # the models in models/
    python tools/bench.py resnet50.onnx --literal  # any file; the one-unit-at-a-time reference too
    python tools/bench.py --torchvision resnet50 vgg16 --keep zoo

Plain inference is an ONNX Runtime session on the file as it is. Both are run in one process, by
turns, on the same random picture and with the same number of threads; a ratio is the median over
pairs of neighbours, and the range behind it holds the middle half of them (on a busy machine look
at the ratio of the fastest runs too). A peak of memory is that of a fresh process which does
nothing else. Figures only, no verdict: the machine matters.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Children report their own peak, so nothing heavy is imported up here.

ROOT = Path(__file__).resolve().parent.parent
ON_THE_SPOT = (
    "resnet50", "mobilenet_v2", "densenet121", "vgg16", "mobilenet_v3_large", "efficientnet_b0",
    "squeezenet1_1", "convnext_tiny",
)  # fmt: skip
PAUSE = 0.01  # seconds: the other session's threads spin on for a while after a run
FEW = 8  # units of the first look at the literal way
MIB = 1 << 20


class ChildFailed(Exception):
    """A measuring process ended with an error; the message is its last line."""


# In the measuring processes.


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
        self.images = self.pictures(job) if images is None else images
        self.compile_s, _ = timed(lambda: self.explainer.program(1, self.images))
        self.first_s, self.found = timed(self.run)

    def pictures(self, job: dict[str, Any]) -> Any:
        """Random pictures of the model's own shape and type."""
        import numpy as np

        image, random = self.explainer.classifier.image, np.random.default_rng(job["seed"])
        shape = image.shape(self.explainer.classifier.batch or job["batch"])
        if np.issubdtype(image.dtype, np.integer):
            return random.integers(0, 256, shape).astype(image.dtype)
        return random.standard_normal(shape).astype(image.dtype)

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
        "ratio_range": _middle_half(ratios),
        "ratio_of_fastest": min(b for _, b in pairs) / min(a for a, _ in pairs),
        "pairs_s": pairs,
    }


def _middle_half(values: Sequence[float]) -> list[float]:
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


# In the process that the user starts.


def child(what: str, job: dict[str, Any]) -> dict[str, Any]:
    """Runs one of CHILDREN in a fresh interpreter.

    Raises:
        ChildFailed: it ended with an error.
    """
    command = [sys.executable, str(Path(__file__).resolve()), "--child", what, json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}"]
        raise ChildFailed(lines[-1])
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def bench(path: Path, given: argparse.Namespace) -> dict[str, Any]:
    """All figures of one model."""
    job = {
        "path": str(path),
        **{n: getattr(given, n) for n in ("threads", "repeats", "warmup", "batch", "seed")},
        "layer": int(given.layer) if _is_int(given.layer) else given.layer,
        "memory": None if given.memory is None else given.memory * MIB,
        "memory_runs": given.memory_runs,
        "literal_limit": given.literal_limit,
    }
    exact = child("time", job)
    job |= {n: exact[n] for n in ("image", "input", "dtype", "units")}
    exact["memory"] = _compared(child, job, "exact")
    result = {
        "model": path.name,
        "bytes": path.stat().st_size,
        "threads": given.threads,
        "repeats": given.repeats,
        **exact,
    }
    if given.literal:
        literal = child("literal", job)
        job["units_measured"] = literal["units_measured"]
        plain = exact["memory"]["plain"]
        result["literal"] = {**literal, "memory": _compared(child, job, "literal", plain)}
    return result


def _is_int(text: str | None) -> bool:
    return text is not None and text.lstrip("-").isdigit()


def _compared(
    child: Callable[..., dict[str, Any]],
    job: dict[str, Any],
    way: str,
    plain: dict[str, int] | None = None,
) -> dict[str, Any]:
    """Peak memory of plain inference (unless known) and of explaining, and their ratio."""
    plain = plain or child("memory", {**job, "way": "plain"})
    explain = child("memory", {**job, "way": way})
    return {
        "runs": job["memory_runs"],
        "plain": plain,
        "explain": explain,
        "ratio": explain["peak"] / plain["peak"],
    }


HEAD = (
    f"{'':26}{'':>7}{'':>11}{'time, ms':>17}  {'':17}{'peak, MiB':>16}\n"
    f"{'model':26}{'units':>7}{'mode':>11}{'plain':>8}{'explain':>9}  "
    f"{'ratio (range)':17}{'plain':>6}{'explain':>8}{'ratio':>6}"
)


def row(name: str, units: int, part: dict[str, Any]) -> str:
    """A line of the table."""
    spent, memory = part["time"], part["memory"]
    span = spent.get("ratio_range")
    behind = " estimated" if span is None else f" ({'–'.join(map(_short, span))})"
    return (
        f"{_cut(name, 25):26}{units:>7}{part['mode']:>11}{1e3 * spent['plain_s']:>8.1f}"
        f"{1e3 * spent['explain_s']:>9.1f}  {_short(spent['ratio']) + behind:17}"
        f"{memory['plain']['peak'] / MIB:>6.0f}{memory['explain']['peak'] / MIB:>8.0f}"
        f"{memory['ratio']:>6.2f}"
    )


def _short(ratio: float) -> str:
    return f"{ratio:.{2 if ratio < 9.995 else 1 if ratio < 99.95 else 0}f}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def details(result: dict[str, Any]) -> list[str]:
    """What does not fit on the line of the table."""
    ready, literal = result["ready"], result.get("literal")
    lines = [
        f"  layer {_cut(result['layer'], 46)} on {'×'.join(map(str, result['grid']))}; "
        f"ratio of the fastest runs {result['time']['ratio_of_fastest']:.2f}",
        f"  ready, s: plain session {ready['plain_session_s']:.2f}, run "
        f"{ready['plain_first_s']:.2f}; explainer load {ready['load_s']:.2f}, compile "
        f"{ready['compile_s']:.2f}, first run {ready['first_s']:.2f}",
    ]
    if literal and literal["estimated"]:
        lines.append(
            f"  literal: {literal['units_measured']} of {result['units']} units were run, and all "
            "reckoned from them (time = a + b × units);\n"
            f"  its memory is that of {literal['units_measured']} units"
        )
    return lines + [f"  note: {note}" for note in result["notes"]]


def exported(names: Sequence[str], folder: Path) -> list[Path]:
    """Models of torchvision, exported to `folder` in a process of their own.

    Raises:
        ChildFailed: torch or torchvision is missing, or the export fails.
    """
    paths = [folder / f"{name}.onnx" for name in names]
    missing = [p.stem for p in paths if not p.is_file()]
    if missing:
        tool = Path(__file__).resolve().parent / "export_torchvision.py"
        command = [sys.executable, str(tool), *missing, "--to", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ChildFailed(done.stderr.strip().splitlines()[-1].removeprefix("error: "))
    return paths


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures the models named on the command line."""
    given = _arguments(arguments)
    if given.child:
        what, job = given.child
        print(json.dumps(CHILDREN[what](json.loads(job))))
        return 0
    names = [*given.torchvision, *(ON_THE_SPOT if given.models_on_the_spot else ())]
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        try:
            paths = [*given.models, *exported(names, given.keep or Path(scratch))]
        except ChildFailed as failure:
            print(f"error: {failure}", file=sys.stderr)
            return 1
        paths = paths or sorted((ROOT / "models").glob("*.onnx"))
        if not given.json:
            print(
                f"{given.repeats} pairs of runs after {given.warmup} to warm up, {given.threads} "
                f"threads, batch {given.batch}; medians, range: middle half of the pairs\n\n{HEAD}"
            )
        for path in paths:
            try:
                result = bench(path, given)
            except (ChildFailed, OSError) as failure:
                print(f"error: {path}: {failure}", file=sys.stderr)
                return 1
            results.append(result)
            if not given.json:
                print(row(path.name.removesuffix(".onnx"), result["units"], result))
                if given.literal:
                    print(row("  literal", result["units"], result["literal"]))
                print("\n".join(details(result)), flush=True)
    if given.json:
        print(json.dumps(results, indent=2))
    return 0


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measures explanations against plain inference of the same model.",
        epilog="example: python tools/bench.py resnet50.onnx --repeats 15 --literal",
    )
    add = parser.add_argument
    add("models", nargs="*", type=Path, metavar="MODEL", help="ONNX files (default: models/)")
    add("--repeats", type=_positive, default=9, help="pairs of runs (default: %(default)s)")
    add("--warmup", type=int, default=2, help="pairs before them (default: %(default)s)")
    add("--threads", type=_positive, default=2, help="CPU threads (default: %(default)s)")
    add("--batch", type=_positive, default=1, help="pictures at once (default: %(default)s)")
    add("--layer", help="feature map by tensor, node or position (default: the model's)")
    add("--memory", type=_positive, metavar="MIB", help="budget for switched-off copies")
    add("--memory-runs", type=_positive, default=3, help="runs behind a peak of memory")
    add("--literal", action="store_true", help="measure the literal path, unit by unit, too")
    add(
        "--literal-limit", type=float, default=60.0, metavar="SECONDS",
        help="about how long to measure it; what goes beyond is estimated (default: 60)",
    )  # fmt: skip
    add("--torchvision", nargs="+", default=[], metavar="NAME", help="export these and measure")
    add(
        "--models-on-the-spot", action="store_true",
        help=f"the same for {', '.join(ON_THE_SPOT)}",
    )  # fmt: skip
    add("--keep", type=Path, metavar="DIR", help="keep the exports here, and take those there are")
    add("--seed", type=int, default=0, help="of the random picture")
    add("--json", action="store_true", help="all figures as JSON")
    add("--child", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


if __name__ == "__main__":
    sys.exit(main())
