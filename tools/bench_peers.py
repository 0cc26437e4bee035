"""Other libraries that explain classifiers, and onnxcam, each in an environment of its own.

    python tools/bench_peers.py                                 # everything, one table
    python tools/bench_peers.py --library captum --method saliency --model mobilenet_v2

The environments are made once under the work folder, by pip, by name; after that nothing is
downloaded. All libraries get the same model (random weights, from torchvision), the same picture,
the same class, one thread on one core, and as many masks where they draw any. Each measurement is a
process of its own that runs plain inference and explanations by turns; those of one method follow
each other. What cannot be installed or fails has a line that says so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo import GIB, environment, limited, pip

TOOLS = Path(__file__).resolve().parent
ROOT = TOOLS.parent
WORK = TOOLS / "bench_peers_work.py"
MIB = 1 << 20
OURS = "onnxcam"


@dataclass(frozen=True)
class Peer:
    """A library: what is installed for it (and without dependencies), and what it is asked for.

    torchvision always goes in without dependencies: only its definitions of networks are used.
    """

    needs: tuple[str, ...]
    bare: tuple[str, ...]
    runtime: str
    methods: tuple[str, ...]


TORCH = ("torch==2.13.0", "numpy", "pillow")
GRAD_CAM = ("tqdm", "opencv-python-headless", "matplotlib", "scikit-learn", "scipy", "ttach")
MAKER = ((*TORCH, "onnx", "onnxscript"), ("torchvision",))
PEERS = {
    OURS: Peer(
        (str(ROOT),), (), "ONNX Runtime",
        ("grad-cam", "ablation-cam", "score-cam", "recipro-cam", "saliency", "occlusion", "rise"),
    ),
    "grad-cam": Peer(
        (*TORCH, *GRAD_CAM), ("torchvision", "grad-cam"), "PyTorch",
        ("grad-cam", "ablation-cam", "score-cam"),
    ),
    "captum": Peer(
        (*TORCH, "captum"), ("torchvision",), "PyTorch",
        ("grad-cam", "ablation-cam", "saliency", "occlusion"),
    ),
    "torchcam": Peer(
        (*TORCH, "torchcam"), ("torchvision",), "PyTorch", ("grad-cam", "score-cam")
    ),
    "openvino-xai": Peer(("openvino-xai",), (), "OpenVINO", ("recipro-cam", "rise")),
    "dianna": Peer(("torch==2.13.0", "dianna"), (), "ONNX Runtime", ("rise",)),
    "onnx-ad": Peer(("onnx-ad", "onnxruntime"), (), "ONNX Runtime", ("saliency",)),
}  # fmt: skip
METHODS = PEERS[OURS].methods
MODELS = ("resnet50", "mobilenet_v2")
HEAD = (
    "| model | method | library | runtime | plain, ms | explained, ms | over its plain "
    "| over onnxcam | peak, MiB | install, MiB | like onnxcam's |\n"
    "|---|---|---|---|--:|--:|--:|--:|--:|--:|--:|"
)


class Failed(Exception):
    """Something of a peer went wrong; the message is one line."""


def interpreters(given: argparse.Namespace, libraries: Sequence[str]) -> dict[str, Path | str]:
    """For each library its interpreter, or one line that says why there is none."""
    named = dict(pair.split("=", 1) for pair in given.python)
    found: dict[str, Path | str] = {}
    for name in libraries:
        if name in named:
            found[name] = Path(named[name])
            continue
        needs, bare = MAKER if name == "models" else (PEERS[name].needs, PEERS[name].bare)
        try:
            python = environment(given.work / "env" / name, needs, bare)
            if name == OURS:  # as it is now
                pip(python, "--no-deps", "--force-reinstall", str(ROOT))
            found[name] = python
        except subprocess.CalledProcessError as error:
            lines = (error.stderr or str(error)).strip().splitlines()
            found[name] = f"could not be installed: {lines[-1] if lines else error}"
    return found


def install_size(python: Path) -> int:
    """Bytes of all that is installed beside an interpreter, pip and setuptools left out."""
    folder = python.parent.parent.resolve() / "lib"
    total = 0
    for packages in folder.glob("python*/site-packages"):
        for path in packages.rglob("*"):
            first = path.relative_to(packages).parts[0].partition("-")[0]
            if first not in ("pip", "setuptools", "_distutils_hack") and path.is_file():
                total += 0 if path.is_symlink() else path.stat().st_size
    return total


def worked(command: Sequence[Any], given: argparse.Namespace) -> dict[str, Any]:
    """What the last line of a worker's output says.

    Raises:
        Failed: it ended with an error, or passed the limit of memory or time.
    """
    code, out, why, _ = limited(command, given.limit * GIB, given.minutes * 60)
    if code:
        raise Failed(why)
    answer: dict[str, Any] = json.loads(out.splitlines()[-1])
    return answer


def rows(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row after the other; those of libraries that fail have "failed".

    Raises:
        Failed: the models cannot be made.
    """
    pythons = interpreters(given, ["models", *given.library])
    maker = pythons.pop("models")
    if isinstance(maker, str):
        raise Failed(f"the environment that makes the models {maker}")
    able = {name: python for name, python in pythons.items() if isinstance(python, Path)}
    for name, python in pythons.items():
        if name not in able:
            yield {"model": "", "method": "", "library": name, "failed": python}
    for model in given.model:
        made = worked([maker, WORK, "make", model, given.work / "models"], given)
        yield from measured(made, able, given)


def measured(
    made: Mapping[str, Any], pythons: Mapping[str, Path], given: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """The rows of one model: method after method, and of each method all libraries that have it."""
    sizes = {name: install_size(python) for name, python in pythons.items()}
    job = {**made, **{n: getattr(given, n) for n in ("threads", "masks", "repeats", "seconds")}}
    for method in given.method:
        ours: dict[str, Any] = {}
        one = json.dumps({**job, "method": method})
        for name, python in pythons.items():
            if method not in PEERS[name].methods:
                continue
            row = {"model": made["model"], "method": method, "library": name}
            row["install"] = sizes[name]
            try:
                row |= worked([python, WORK, name, one], given)
            except Failed as failure:
                yield {**row, "failed": f"failed: {failure}"}
                continue
            ours = row if name == OURS else ours
            yield {**row, **compared(row, ours)}


def compared(row: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, float | None]:
    """Time over that of onnxcam, and how alike the two maps are (their correlation)."""
    if not ours:
        return {"over_ours": None, "alike": None}
    import numpy as np

    a, b = (np.ravel(one["map"]) for one in (row, ours))
    alike = float(np.corrcoef(a, b)[0, 1]) if a.std() and b.std() else None
    return {"over_ours": row["explained_s"] / ours["explained_s"], "alike": alike}


def line(row: Mapping[str, Any]) -> str:
    """A row of the Markdown table."""
    runtime = PEERS[row["library"]].runtime
    about = f"| {row['model']} | {row['method']} | {row['library']}"
    if "failed" in row:
        return f"{about} | {runtime} | {row['failed'].replace('|', '/')} |" + " |" * 6
    over, alike = row["over_ours"], row["alike"]
    return (
        f"{about} {row['version']} | {runtime} | {1e3 * row['plain_s']:.1f} "
        f"| {1e3 * row['explained_s']:.1f} | {row['ratio']:.2f} "
        f"| {'' if over is None else f'{over:.2f}'} | {row['peak'] / MIB:.0f} "
        f"| {row['install'] / MIB:.0f} | {'' if alike is None else f'{alike:.3f}'} |"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures the libraries; 1 if the models cannot be made."""
    given = _arguments(arguments)
    given.work.mkdir(parents=True, exist_ok=True)
    found = []
    try:
        if not given.json:
            print(
                f"{given.threads} thread(s) on one core, {given.masks} masks for RISE, medians of "
                f"at most {given.repeats} runs\n\n{HEAD}"
            )
        for row in rows(given):
            found.append(row)
            if not given.json:
                print(line(row), flush=True)
    except Failed as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    if given.json:
        print(json.dumps(found, indent=2))
    return 0


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measures other explanation libraries and onnxcam on the same models.",
        epilog="example: python tools/bench_peers.py --library onnxcam grad-cam --method grad-cam",
    )
    add = parser.add_argument
    add("--library", nargs="+", choices=PEERS, default=[*PEERS], help="default: all")
    add("--method", nargs="+", choices=METHODS, default=[*METHODS], help="default: all")
    add("--model", nargs="*", default=[*MODELS], metavar="NAME", help=f"default: {MODELS}")
    add("--masks", type=int, default=256, help="of RISE (default: %(default)s)")
    add("--threads", type=int, default=1, help="default: %(default)s")
    add("--repeats", type=int, default=15, help="at most so many runs (default: %(default)s)")
    add("--seconds", type=float, default=20.0, help="about how long a row takes, if it can")
    add("--work", type=Path, default=ROOT / "out" / "peers", metavar="DIR", help="environments")
    add("--python", action="append", default=[], metavar="LIBRARY=PATH",
        help="an interpreter that has it; 'models' stands for what makes the models")  # fmt: skip
    add("--limit", type=float, default=6, metavar="GIB", help="memory of one process")
    add("--minutes", type=float, default=30, help="of one process")
    add("--json", action="store_true", help="all figures as JSON")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
