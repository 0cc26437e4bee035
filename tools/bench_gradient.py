"""What gradients cost over plain inference of the same model: the mode --gradient of bench.py.

    python tools/bench_gradient.py onnx|torch JOB   # JOB is JSON, and so is the answer

Measured are the graphs that `onnxcam.gradient` makes, forward pass included: one with the gradient
for the picture, one with that for a feature map. Where torch and torchvision are installed and the
file is named after one of torchvision's models, PyTorch's own forward and backward pass of that
model are measured too, in a process of their own.

Nothing heavy is imported up here, as in bench_measure.py.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench_measure import Plain, middle_half, pictures, timed

PAUSE = 0.05  # seconds: the threads of the session before spin on for a while


def by_turns(runs: Mapping[str, Callable[[], Any]], job: dict[str, Any]) -> dict[str, Any]:
    """Times of each of `runs`, in turn with the first; what follows the first is compared to it."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(job["warmup"] + job["repeats"]):
        for name, run in runs.items():
            time.sleep(PAUSE)
            seconds, _ = timed(run)
            if turn >= job["warmup"]:
                times[name].append(seconds)
    base, *others = runs
    found: dict[str, Any] = {f"{base}_s": statistics.median(times[base]), "runs_s": times}
    for name in others:
        ratios = [a / b for a, b in zip(times[name], times[base], strict=True)]
        found[name] = {
            "s": statistics.median(times[name]),
            "ratio": statistics.median(ratios),
            "ratio_range": middle_half(ratios),
            "ratio_of_fastest": min(times[name]) / min(times[base]),
        }
    return found


def measure_onnx(job: dict[str, Any]) -> dict[str, Any]:
    """Plain inference, and gradients for the picture and for the feature map."""
    import numpy as np

    import onnxcam
    from onnxcam.loading import differentiated
    from onnxcam.runtime import Device, Session

    load_s, classifier = timed(lambda: onnxcam.load(job["path"]))
    layer = classifier.tensor(job["layer"])
    images = pictures(classifier.image, classifier.batch, job)
    plain = Plain({**job, "image": classifier.image.name})
    plain.run(images)
    runs: dict[str, Callable[[], Any]] = {"plain": lambda: plain.run(images)}
    build: dict[str, Any] = {"load_s": load_s}
    nodes = {"plain": len(classifier.model.proto.graph.node)}
    for name, wrt in (("image", []), ("map", [layer])):
        build[f"{name}_s"], model = timed(lambda wrt=wrt: differentiated(classifier, wrt=wrt))  # type: ignore[misc]
        nodes[name] = len(model.proto.graph.node)
        session = Session(
            model.proto.SerializeToString(), model.weights, Device("cpu", job["threads"])
        )
        feeds = {classifier.image.name: images, "target": np.zeros(len(images), np.int64)}
        runs[name] = lambda s=session, f=feeds: s.run(f)  # type: ignore[misc]
    return {
        "layer": layer,
        "input": [*images.shape],
        "nodes": nodes,
        "build": build,
        "time": by_turns(runs, job),
    }


def measure_torch(job: dict[str, Any]) -> dict[str, Any]:
    """The same of PyTorch, {} if it is not installed or torchvision has no model of that name.

    Evaluation mode, no gradient for parameters; the weights are drawn as in the exports.
    """
    import export_torchvision as exports

    try:
        torch, models = exports.load_torchvision()
    except exports.Missing:
        return {}
    name = Path(job["path"]).name.split(".")[0]
    if name not in models.list_models(module=models):
        return {}
    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    net = models.get_model(name, weights=None, **exports.OPTIONS.get(name, {})).eval()
    exports.calibrate(torch, net, exports.images(torch, 8, job["input"][-1]))
    net.requires_grad_(False)
    images = torch.randn(job["input"])

    def forward() -> None:
        with torch.no_grad():
            net(images)

    def backward() -> None:
        x = images.clone().requires_grad_()
        net(x)[:, 0].sum().backward()

    return {
        "version": torch.__version__,
        "time": by_turns({"plain": forward, "image": backward}, job),
    }


HEAD = (
    f"{'':22}{'nodes':>13}{'build':>8}{'plain':>9}{'for the picture':>21}{'for the map':>22}\n"
    f"{'model':22}{'plain':>6}{'grad':>7}{'s':>8}{'ms':>9}{'ms':>9}  {'ratio (range)':18}"
    f"{'ms':>9}  ratio"
)


def lines(found: dict[str, Any]) -> list[str]:
    """The lines of the table for one model."""
    name, nodes, build = found["model"].removesuffix(".onnx"), found["nodes"], found["build"]
    time_ = found["time"]
    image, at_map = time_["image"], time_["map"]
    low, high = image["ratio_range"]
    ratio = f"{image['ratio']:.2f} ({low:.2f}–{high:.2f})"
    result = [
        f"{name[:22]:22}{nodes['plain']:>6}{nodes['image']:>7}{build['image_s']:>8.2f}"
        f"{time_['plain_s'] * 1e3:>9.1f}{image['s'] * 1e3:>9.1f}  {ratio:18}"
        f"{at_map['s'] * 1e3:>9.1f}  {at_map['ratio']:.2f}",
        f"  ratios of the fastest runs {image['ratio_of_fastest']:.2f} and "
        f"{at_map['ratio_of_fastest']:.2f}; loaded in {build['load_s']:.2f} s; "
        f"map {found['layer'][-30:]}",
    ]
    if found["torch"]:
        torch = found["torch"]["time"]
        result.append(
            f"  PyTorch {found['torch']['version']}: forward {torch['plain_s'] * 1e3:.1f} ms, "
            f"with backward {torch['image']['s'] * 1e3:.1f} ms, ratio {torch['image']['ratio']:.2f}"
        )
    return result


CHILDREN = {"onnx": measure_onnx, "torch": measure_torch}


if __name__ == "__main__":
    print(json.dumps(CHILDREN[sys.argv[1]](json.loads(sys.argv[2]))))
