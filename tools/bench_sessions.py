"""Measuring processes that know ONNX Runtime and two files: a model, and an explainer of it.

    python tools/bench_sessions.py export|pair|memory|copies|rate JOB   # JOB and answer are JSON

The files are run as a user without onnxcam would run them: `export` alone imports it, to write the
explainer. On a GPU images and results stay on the device, and its memory is what is reported.
Nothing heavy is imported up here, as in bench_measure.py.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench_gradient import by_turns
from bench_measure import peak_bytes, timed

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
FEWEST = 5  # pairs of runs, however long they take


class File:
    """A session on an ONNX file, with images (and targets) ready to run."""

    def __init__(
        self, path: str | bytes, feeds: Mapping[str, Any], job: Mapping[str, Any], profile: str = ""
    ) -> None:
        """Makes the session.

        Args:
            path: the file, or its bytes.
            feeds: arrays by the name of the input; those that the file does not take are left out.
            job: "provider" and "threads".
            profile: where ONNX Runtime writes what it ran, if anywhere.

        Raises:
            RuntimeError: the session would run on another provider.
        """
        import onnxruntime as ort

        ort.set_default_logger_severity(4)
        options, wanted = ort.SessionOptions(), PROVIDERS[job["provider"]]
        options.log_severity_level = 4
        options.intra_op_num_threads = job["threads"]
        if profile:
            options.enable_profiling, options.profile_file_prefix = True, profile
        cuda = job["provider"] == "cuda"
        if cuda and hasattr(ort, "preload_dlls"):
            ort.preload_dlls()
        # What is asked for and no more: else the arena grows to the next power of two.
        settings = [{"arena_extend_strategy": "kSameAsRequested"}] if cuda else [{}]
        self.session = ort.InferenceSession(path, options, [wanted], settings)
        if self.session.get_providers()[0] != wanted:
            raise RuntimeError(f"ONNX Runtime does not run it with {wanted}")
        taken = {i.name for i in self.session.get_inputs()}
        self.feeds = {name: array for name, array in feeds.items() if name in taken}
        self.binding = None
        if cuda:
            self.binding = self.session.io_binding()
            for name, array in self.feeds.items():
                held = ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0)
                self.binding.bind_ortvalue_input(name, held)
            for output in self.session.get_outputs():
                self.binding.bind_output(output.name, "cuda")

    def run(self) -> Any:
        """One run; on a GPU it has ended when this returns."""
        if self.binding is None:
            return self.session.run(None, self.feeds)
        return self.session.run_with_iobinding(self.binding)


def feeds_of(job: Mapping[str, Any]) -> dict[str, Any]:
    """Random pictures, and class 0 for each where the explainer is told the target."""
    import numpy as np

    random = np.random.default_rng(job["seed"])
    shape = [job["batch"], *job["input"][1:]]
    if np.issubdtype(job["dtype"], np.integer):
        images = random.integers(0, 256, shape).astype(job["dtype"])
    else:
        images = random.standard_normal(shape, np.float32).astype(job["dtype"])
    return {job["image"]: images, "target": np.zeros(job["batch"], np.int64)}


def measure_export(job: dict[str, Any]) -> dict[str, Any]:
    """Writes the explainer, and says what the model takes."""
    import onnxcam

    seconds, classifier = timed(lambda: onnxcam.load(job["model"], every_output=True))
    export_s, _ = timed(
        lambda: onnxcam.export(
            classifier, job["explainer"], job["method"], job["layer"], targets=job["targets"],
            force=True,
        )
    )  # fmt: skip
    image = classifier.image
    return {
        "image": image.name,
        "dtype": str(image.dtype),
        "input": [int(side) for side in image.shape(1)],
        "batch": classifier.batch,  # None: any number
        "load_s": seconds,
        "export_s": export_s,
        "bytes": {name: Path(job[name]).stat().st_size for name in ("model", "explainer")},
    }


def measure_pair(job: dict[str, Any]) -> dict[str, Any]:
    """Runs of the model and of its explainer by turns, as many as go into "seconds"."""
    feeds = feeds_of(job)
    plain, explained = (File(job[name], feeds, job) for name in ("model", "explainer"))
    first = [timed(plain.run)[0], timed(explained.run)[0]]
    pair = timed(plain.run)[0] + timed(explained.run)[0]
    repeats = min(job["repeats"], max(FEWEST, int(job["seconds"] / pair)))
    runs: dict[str, Callable[[], Any]] = {"plain": plain.run, "explained": explained.run}
    found = by_turns(runs, {"warmup": 1, "repeats": repeats})
    sides = {name: side(times, job["batch"]) for name, times in found["runs_s"].items()}
    return {**found["explained"], **sides, "pairs": repeats, "first_s": first}


def side(times: list[float], batch: int) -> dict[str, float]:
    """Throughput and latency; the 99th percentile of less than a hundred runs is the slowest."""
    middle, late = statistics.median(times), sorted(times)[math.ceil(0.99 * len(times)) - 1]
    return {"images_per_s": batch / middle, "p50_s": middle, "p99_s": late}


def measure_memory(job: dict[str, Any]) -> dict[str, int]:
    """Memory that one file takes, run in a process of its own.

    On the CPU the largest resident memory of the process; on a GPU what the device has less.
    """
    free = _free(job)
    one = File(job["file"], feeds_of(job), job)
    for _ in range(job["memory_runs"]):
        one.run()
    left = _free(job)
    return {"peak": peak_bytes() if free is None or left is None else free - left}


def _free(job: Mapping[str, Any]) -> int | None:
    """Free memory of the GPU, its context made; None on the CPU."""
    if job["provider"] == "cpu":
        return None
    from onnxcam import runtime

    runtime.works(job["provider"])  # makes a session, and with it the context
    return runtime.free_memory(runtime.Device(job["provider"]))


def measure_copies(job: dict[str, Any]) -> dict[str, Any]:
    """Copies between host and device in one run of a file, from ONNX Runtime's profile."""
    with tempfile.TemporaryDirectory() as folder:
        one = File(job["file"], feeds_of(job), job, profile=str(Path(folder) / "run"))
        for _ in range(2):
            one.run()
        events = json.loads(Path(one.session.end_profiling()).read_text("utf-8"))
    return copies(events, runs=2)


def copies(events: list[dict[str, Any]], runs: int) -> dict[str, Any]:
    """The copies in a profile: how many in a run, and the bytes of the largest."""
    found: dict[str, Any] = {"nodes": 0, "to_host": 0, "from_host": 0, "largest": 0}
    for event in events:
        facts = event.get("args", {})
        if event.get("cat") != "Node" or "op_name" not in facts:
            continue
        if not event.get("name", "").endswith("_kernel_time"):
            continue
        found["nodes"] += 1
        kind = {"MemcpyToHost": "to_host", "MemcpyFromHost": "from_host"}.get(facts["op_name"])
        if kind:
            found[kind] += 1
            found["largest"] = max(found["largest"], int(facts.get("output_size") or 0))
    for name in ("nodes", "to_host", "from_host"):
        found[name] = -(-found[name] // runs)
    return found


def measure_rate(job: dict[str, Any]) -> dict[str, float]:
    """Operations a second of a large matrix product: the speed that the device has at best."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    n, dtype = job["side"], np.dtype(job["dtype"])
    random = np.random.default_rng(0)
    a, b = (random.standard_normal((n, n), np.float32).astype(dtype) for _ in range(2))
    kind = helper.np_dtype_to_tensor_dtype(dtype)
    x, y = (helper.make_tensor_value_info(name, kind, [n, n]) for name in ("x", "y"))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "b"], ["y"])], "product", [x], [y],
        [numpy_helper.from_array(b, "b")],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(proto)
    one = File(proto.SerializeToString(), {"x": a}, job)
    one.run()
    best = min(timed(one.run)[0] for _ in range(job["repeats"]))
    return {"side": n, "per_s": 2 * n**3 / best}


CHILDREN = {
    "export": measure_export,
    "pair": measure_pair,
    "memory": measure_memory,
    "copies": measure_copies,
    "rate": measure_rate,
}


if __name__ == "__main__":
    print(json.dumps(CHILDREN[sys.argv[1]](json.loads(sys.argv[2]))))
