"""Explains whole model zoos, checks every explanation, and writes the table: docs/zoo.md.

    python tools/zoo.py                          # everything; goes on where it was stopped
    python tools/zoo.py --family timm --only 'swin*'
    python tools/zoo.py --again --only resnet18  # forgets what is known of these, and checks anew
    python tools/zoo.py --table                  # only writes the page from what is known

Each framework gets an environment of its own (made once, under the work folder). A maker there
builds one model with random weights, exports it and writes the framework's own feature map and
gradients; then each export is checked by itself (`zoo_check.py`) where onnxcam is installed. One
model is handled at a time, in processes that are ended if they pass the memory limit. Every result
is appended to a file at once: a run that was interrupted goes on with what is missing. The rows
behind the page are kept beside it, dated, as docs/zoo.jsonl.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import zoo_table

TOOLS = Path(__file__).resolve().parent
ROOT = TOOLS.parent
GIB = 1 << 30

TORCH = ("torch==2.13.0", "onnx", "onnxscript", "onnxruntime", "numpy", "sympy")
TIMM = ("pillow", "pyyaml", "safetensors", "huggingface_hub")
SKLEARN = ("pillow", "scikit-learn", "skl2onnx")
JAX = ("jax", "flax", "equinox", "jax2onnx")
JAX_NETS = ("jmp", "tabulate", "h5py", "requests", "regex", "loguru", "lz4", "semver", "pillow")
MAKERS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    # family → module of its maker, what it needs, what is installed without its dependencies
    "torchvision": ("zoo_torchvision", (*TORCH, "pillow"), ("torchvision",)),
    "timm": ("zoo_timm", (*TORCH, *TIMM), ("torchvision", "timm==1.0.31")),
    "transformers": ("zoo_transformers", (*TORCH, "pillow", "transformers"), ("torchvision",)),
    "keras.applications": ("zoo_keras", ("tensorflow-cpu", "tf2onnx", "onnx"), ()),
    "paddle": ("zoo_paddle", ("paddlepaddle", "paddle2onnx", "packaging"), ()),
    "jax": ("zoo_jax", (*JAX, *JAX_NETS), ("dm-haiku", "equimo", "flaxmodels")),
    "scikit-learn": ("zoo_sklearn", (*TORCH, *SKLEARN), ("torchvision",)),
    "onnx": ("zoo_onnx", ("onnx", "onnxruntime", "numpy"), ()),
    "variants": ("zoo_variants", (*TORCH, "pillow"), ("torchvision",)),
}  # fmt: skip

Row = dict[str, Any]


def key(row: Row) -> tuple[str, str, str, int]:
    """What a row is about."""
    return row["family"], row["model"], row["exporter"], row["opset"]


class Results:
    """The rows so far, in a file of one JSON object a line; the last about a thing counts."""

    def __init__(self, path: Path, before: Path | None = None) -> None:
        """Reads what is there, after the rows of `before`; a half-written last line is left out."""
        self.path, self._lock = path, Lock()
        self.rows: dict[tuple[str, str, str, int], Row] = {}
        for one in (before, path):
            for line in one.read_text("utf-8").splitlines() if one and one.is_file() else []:
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                self.rows[key(row)] = row
        if path.is_file() and not path.read_bytes().endswith(b"\n"):
            path.write_bytes(path.read_bytes() + b"\n")  # else the next row would be lost with it

    def add(self, row: Row) -> None:
        """Keeps a row with its date, on the disk before it returns."""
        row = {"date": time.strftime("%Y-%m-%d"), **row}
        with self._lock, self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
            self.rows[key(row)] = row


def python_of(family: str, given: argparse.Namespace) -> Path:
    """The interpreter of a family's environment, made if it is not there."""
    named = dict(pair.split("=", 1) for pair in given.python)
    if family in named:
        return Path(named[family])
    maker, needs, bare = MAKERS[family]
    return environment(given.work / "env" / maker.removeprefix("zoo_"), needs, bare)


def environment(folder: Path, needs: Sequence[str], bare: Sequence[str] = ()) -> Path:
    """The interpreter of an environment of its own, made if it is not there.

    Args:
        folder: where it is.
        needs: what pip installs.
        bare: what it then installs without dependencies.

    Raises:
        subprocess.CalledProcessError: pip failed; "stderr" tells why.
    """
    python = folder / "bin" / "python"
    if not (folder / "ready").is_file():
        print(f"making an environment in {folder}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        for asked_for, options in ((needs, ()), (bare, ("--no-deps",))):
            if asked_for:
                pip(python, *options, *asked_for)
        (folder / "ready").touch()
    return python


def pip(python: Path, *arguments: str) -> None:
    """Installs something into an environment.

    Raises:
        subprocess.CalledProcessError: pip failed; "stderr" tells why.
    """
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, *arguments], check=True, capture_output=True, text=True)


def groups(family: str, python: Path) -> list[Row]:
    """The models of a family with their exports."""
    script = TOOLS / f"{MAKERS[family][0]}.py"
    done = subprocess.run(
        [python, script, "list"], capture_output=True, text=True, check=True, env=_environment()
    )
    listed: list[Row] = json.loads(done.stdout.splitlines()[-1])
    return listed


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": ""}


def limited(command: Sequence[Any], limit: float, seconds: float) -> tuple[int, str, str, int]:
    """Runs a command; ends it beyond `limit` bytes (with its children) or `seconds`.

    Returns:
        exit code, standard output, the last line of the errors (or why it was ended), peak bytes.
    """
    import tempfile

    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            [str(c) for c in command], stdout=out, stderr=err, env=_environment(),
            start_new_session=True,
        )  # fmt: skip
        peak, ended, start = 0, "", time.monotonic()
        while process.poll() is None:
            now = _resident(process.pid)
            peak = max(peak, now)
            if now > limit:
                ended = f"ended: it took more than {limit / GIB:.0f} GiB"
            elif time.monotonic() - start > seconds:
                ended = f"ended: it took more than {seconds / 60:.0f} minutes"
            if ended:
                os.killpg(process.pid, 9)
                process.wait()
            time.sleep(0.2)
        out.seek(0), err.seek(0)
        last = (err.read().strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        return process.returncode, out.read(), ended or last[:300], peak


def _resident(leader: int) -> int:
    """Resident bytes of a process and its children."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[2]) == leader:  # its process group
                total += int(fields[21]) * 4096
        except (OSError, IndexError, ValueError):
            continue
    return total


def handle(group: Row, python: Path, results: Results, given: argparse.Namespace) -> None:
    """Makes one model and checks those of its exports that have no row yet."""
    family, model = group["family"], group["model"]
    about = {"family": family, "model": model, "expert_layer": group["layer"]}
    wanted = [
        (e, o) for e, o in group["exports"]
        if (family, model, e, o) not in results.rows and asked(f"{e}-{o}", given.export)
    ]  # fmt: skip
    if not wanted:
        return
    folder = given.work / "models" / f"{family}-{model}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    script = TOOLS / f"{MAKERS[family][0]}.py"
    names = [f"{e}-{o}" for e, o in wanted]
    limit, seconds = given.limit * GIB, given.minutes * 60
    code, _, why, peak = limited([python, script, "make", model, folder, *names], limit, seconds)
    made = folder / "made.json"
    facts = json.loads(made.read_text("utf-8")) if made.is_file() else {"exports": []}
    about |= {"framework": facts.get("framework"), "making_peak": peak}
    exports = {(e["exporter"], e["opset"]): e for e in facts["exports"]}
    for exporter, opset in wanted:
        row = {**about, "exporter": exporter, "opset": opset}
        export = exports.get((exporter, opset), {"error": why if code else "not made"})
        if "error" in export:
            results.add({**row, "export_error": export["error"]})
        else:
            near = family == "variants"
            results.add({**row, **checked(folder / export["file"], folder, limit, seconds, near)})
        print(zoo_table.line(results.rows[key({**row})]), flush=True)
    if not given.keep:
        shutil.rmtree(folder, ignore_errors=True)


def checked(path: Path, folder: Path, limit: float, seconds: float, near: bool) -> Row:
    """What `zoo_check.py` finds, in a process of its own."""
    reference: Any = folder / "reference.npz"
    command = [
        sys.executable,
        TOOLS / "zoo_check.py",
        path,
        reference if reference.is_file() else "-",
    ]
    if near:
        command.append("near")
    code, out, why, peak = limited(command, limit, seconds)
    row: Row = {"bytes": sum(f.stat().st_size for f in folder.glob(f"{path.name}*"))}
    if code:
        return {**row, "failed": {"check": why}, "peak": peak}
    row |= {**json.loads(out.splitlines()[-1]), "peak": peak}
    off = [what for what in zoo_table.DECIDES if row.get(what, 0) > zoo_table.CLOSE]
    if off and not near:  # rounding, or a wrong rule?
        double = [sys.executable, TOOLS / "zoo_double.py", path, reference, *off]
        code, out, why, _ = limited(double, limit, seconds)
        row |= {"double_failed": why} if code else json.loads(out.splitlines()[-1])
    return row


def chosen(given: argparse.Namespace, family: str, listed: Iterable[Row]) -> list[Row]:
    """The groups that the command line asks for."""
    return [g for g in listed if asked(g["model"], given.only)]


def asked(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name fits one of the patterns, or there are none."""
    return not patterns or any(fnmatch.fnmatch(name, p) for p in patterns)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what is missing, and writes the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--family", action="append", choices=list(MAKERS), help="default: all")
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN",
                        help="models by name")  # fmt: skip
    parser.add_argument("--export", action="append", default=[], metavar="PATTERN",
                        help="exports by name, as in 'dynamo-*'")  # fmt: skip
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "zoo", metavar="DIR")
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "zoo.md", metavar="FILE")
    parser.add_argument("--table", action="store_true", help="write the page, run nothing")
    parser.add_argument("--again", action="store_true", help="check these models anew")
    parser.add_argument("--failed", action="store_true", help="of the known, only those not right")
    parser.add_argument("--keep", action="store_true", help="keep the exported models")
    parser.add_argument("--limit", type=float, default=8, metavar="GIB")
    parser.add_argument("--minutes", type=float, default=15, help="for one process")
    parser.add_argument("--jobs", type=int, default=1, help="models at once (default: 1)")
    parser.add_argument("--python", action="append", default=[], metavar="FAMILY=PATH",
                        help="an interpreter that has what the family needs")  # fmt: skip
    given = parser.parse_args(arguments)
    given.work.mkdir(parents=True, exist_ok=True)
    results = Results(given.work / "results.jsonl", given.to.with_suffix(".jsonl"))
    if not given.table:
        work: list[tuple[Row, Path]] = []
        for family in given.family or MAKERS:
            try:
                python = python_of(family, given)
                for group in chosen(given, family, groups(family, python)):
                    forget(group, results, given)
                    work.append((group, python))
            except subprocess.CalledProcessError as error:
                print(
                    f"error: {family}: {str(error.stderr or error).strip()[-300:]}", file=sys.stderr
                )
        with ThreadPoolExecutor(given.jobs) as pool:
            for future in [pool.submit(handle, g, p, results, given) for g, p in work]:
                future.result()
    rows = zoo_table.kept(results.rows.values())
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    given.to.with_suffix(".jsonl").write_text("".join(lines), encoding="utf-8")
    given.to.write_text(zoo_table.page(rows), encoding="utf-8")
    print(f"{given.to}: {len(results.rows)} rows")
    return 0


def forget(group: Row, results: Results, given: argparse.Namespace) -> None:
    """Drops the rows of a group that are to be made anew."""
    for exporter, opset in group["exports"]:
        about = (group["family"], group["model"], exporter, opset)
        row = results.rows.get(about)
        if row is not None and (given.again or (given.failed and not zoo_table.good(row))):
            del results.rows[about]


if __name__ == "__main__":
    sys.exit(main())
