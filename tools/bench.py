"""What an explanation costs: its time and memory over plain inference of the same model.

    python tools/bench.py                          # the models in models/
    python tools/bench.py resnet50.onnx --literal  # any file; the one-unit-at-a-time reference too
    python tools/bench.py --torchvision resnet50 vgg16 --keep zoo
    python tools/bench.py --gradient zoo/*.onnx    # gradients in place of explanations

Plain inference is an ONNX Runtime session on the file as it is. Both are run in one process, by
turns, on the same random picture and with the same number of threads; a ratio is the median over
pairs of neighbours, and the range behind it holds the middle half of them (on a busy machine look
at the ratio of the fastest runs too). A peak of memory is that of a fresh process which does
nothing else. Figures only, no verdict: the machine matters.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bench_gradient

ROOT = Path(__file__).resolve().parent.parent
ON_THE_SPOT = (
    "resnet50", "mobilenet_v2", "densenet121", "vgg16", "mobilenet_v3_large", "efficientnet_b0",
    "squeezenet1_1", "convnext_tiny",
)  # fmt: skip
MIB = 1 << 20
MEASURE = Path(__file__).resolve().with_name("bench_measure.py")
GRADIENT = Path(__file__).resolve().with_name("bench_gradient.py")


class ChildFailed(Exception):
    """A measuring process ended with an error; the message is its last line."""


def child(what: str, job: dict[str, Any], script: Path = MEASURE) -> dict[str, Any]:
    """Runs a measurement of bench_measure.py (or of `script`) in a fresh interpreter.

    Raises:
        ChildFailed: it ended with an error.
    """
    command = [sys.executable, str(script), what, json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}"]
        raise ChildFailed(lines[-1])
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def bench(path: Path, given: argparse.Namespace) -> dict[str, Any]:
    """All figures of one model."""
    job = {
        **_job(path, given),
        "memory": None if given.memory is None else given.memory * MIB,
        "memory_runs": given.memory_runs,
        "literal_limit": given.literal_limit,
    }
    exact = child("time", job)
    job |= {n: exact[n] for n in ("image", "input", "dtype", "units")}
    exact["memory"] = _compared(job, "exact")
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
        result["literal"] = {**literal, "memory": _compared(job, "literal", plain)}
    return result


def gradient(path: Path, given: argparse.Namespace) -> dict[str, Any]:
    """All figures of the gradients of one model; "torch" is empty where it has no such model."""
    job = _job(path, given)
    found = child("onnx", job, GRADIENT)
    job["input"] = found["input"]
    torch = child("torch", job, GRADIENT)
    return {
        "model": path.name,
        **{n: getattr(given, n) for n in ("threads", "repeats")},
        **found,
        "torch": torch,
    }


def _job(path: Path, given: argparse.Namespace) -> dict[str, Any]:
    return {
        "path": str(path),
        **{n: getattr(given, n) for n in ("threads", "repeats", "warmup", "batch", "seed")},
        "layer": int(given.layer) if _is_int(given.layer) else given.layer,
    }


def _is_int(text: str | None) -> bool:
    return text is not None and text.lstrip("-").isdigit()


def _compared(
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


def lines_of(result: dict[str, Any]) -> list[str]:
    """The lines of the table for one model."""
    lines = [row(result["model"].removesuffix(".onnx"), result["units"], result)]
    if "literal" in result:
        lines.append(row("  literal", result["units"], result["literal"]))
    return lines + details(result)


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
                f"threads, batch {given.batch}; medians, range: middle half of the pairs\n\n"
                f"{bench_gradient.HEAD if given.gradient else HEAD}"
            )
        for path in paths:
            try:
                result = gradient(path, given) if given.gradient else bench(path, given)
            except (ChildFailed, OSError) as failure:
                print(f"error: {path}: {failure}", file=sys.stderr)
                return 1
            results.append(result)
            if not given.json:
                lines = bench_gradient.lines(result) if given.gradient else lines_of(result)
                print("\n".join(lines), flush=True)
    if given.json:
        print(json.dumps(results, indent=2))
    return 0


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measures explanations or gradients against plain inference of the same model.",
        epilog="example: python tools/bench.py resnet50.onnx --repeats 15 --literal",
    )
    add = parser.add_argument
    add("models", nargs="*", type=Path, metavar="MODEL", help="ONNX files (default: models/)")
    add("--repeats", type=_positive, default=9, help="pairs of runs (default: %(default)s)")
    add("--warmup", type=int, default=2, help="pairs before them (default: %(default)s)")
    add("--threads", type=_positive, default=2, help="CPU threads (default: %(default)s)")
    add("--batch", type=_positive, default=1, help="pictures at once (default: %(default)s)")
    add("--layer", help="feature map by tensor, node or position (default: the model's)")
    add("--gradient", action="store_true", help="measure gradients in place of explanations")
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
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


if __name__ == "__main__":
    sys.exit(main())
