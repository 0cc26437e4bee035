"""One method of one library on one model: the measuring process of bench_peers.py.

    python tools/bench_peers_work.py make NAME FOLDER    # where torch, torchvision and onnx are
    python tools/bench_peers_work.py LIBRARY JOB         # JOB is JSON, and so is the answer

Runs in the library's own environment and imports nothing else that is heavy; nothing is downloaded.
Each library is used as its own manual has it, with its own defaults for what is not in the job.
A map comes back small, as means over a 7×7 grid, to see that the libraries explain the same thing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import statistics
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench_gradient import by_turns
from bench_measure import peak_bytes, timed

Job = Mapping[str, Any]
BLOCK = 16  # perturbed pictures at once, where a library wants to be told
CELLS, KEEP = 8, 0.5  # of RISE's masks
WINDOW, STRIDE = 0.25, 0.125  # of occlusion, in sides of the picture: 49 windows
GRID = 7
LONG = 3


@dataclass(frozen=True)
class Ready:
    """A library made ready: plain inference of its runtime, and an explanation (its map)."""

    plain: Callable[[], Any]
    explain: Callable[[], Any]


def make(name: str, folder: Path) -> dict[str, Any]:
    """Writes a model for all libraries: ONNX file, torch's weights, a picture and its class."""
    import numpy as np
    from export_torchvision import drawn, images, write_onnx

    torch, net, side = drawn(name)
    pictures = images(torch, 3, side)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {kind: folder / f"{name}.{kind}" for kind in ("onnx", "pt", "npy")}
    torch.save(net.state_dict(), paths["pt"])
    write_onnx(torch, net, pictures, paths["onnx"], opset=17, exporter="torchscript")
    np.save(paths["npy"], pictures[2:].numpy())
    with torch.no_grad():
        target = int(net(pictures[2:]).argmax())
    return {"model": name, "target": target, **{k: str(path) for k, path in paths.items()}}


def picture(job: Job) -> Any:
    """The picture, (1, 3, h, w)."""
    import numpy as np

    return np.load(job["npy"])


def torch_net(job: Job) -> tuple[Any, Any, Any, Any, Callable[[], Any]]:
    """The module torch, the network, its feature map's layer, the picture, and plain inference."""
    import zoo_torch
    from export_torchvision import OPTIONS, load_torchvision
    from zoo_torchvision import layer_of

    torch, models = load_torchvision(("torch", "torchvision"))
    torch.set_num_threads(job["threads"])
    name, device = job["model"], job.get("device", "cpu")
    net = models.get_model(name, weights=None, **OPTIONS.get(name, {})).eval()
    net.load_state_dict(torch.load(job["pt"], weights_only=True, mmap=True), assign=True)
    net, x = net.to(device), torch.from_numpy(picture(job)).to(device)

    def plain() -> None:
        with torch.no_grad():
            net(x)
        if device == "cuda":
            torch.cuda.synchronize()

    return torch, net, zoo_torch.at(net, layer_of(name)), x, plain


def grad_cam(job: Job) -> Ready:
    """pytorch-grad-cam: hooks are set and taken away in each explanation, as its manual does."""
    _, net, layer, x, plain = torch_net(job)
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    names = {"grad-cam": "GradCAM", "ablation-cam": "AblationCAM", "score-cam": "ScoreCAM"}
    kind = getattr(pytorch_grad_cam, names[job["method"]])

    def explain() -> Any:
        with kind(model=net, target_layers=[layer]) as cam:
            return cam(input_tensor=x, targets=[ClassifierOutputTarget(job["target"])])[0]

    return Ready(plain, explain)


def captum(job: Job) -> Ready:
    """Captum; it has no Ablation-CAM, but its ablation of a layer gives the weights."""
    torch, net, layer, x, plain = torch_net(job)
    from captum import attr

    target, side = job["target"], x.shape[-1]

    def ablation() -> Any:
        with torch.no_grad():
            maps = attr.LayerActivation(net, layer).attribute(x)
            units = torch.arange(maps.shape[1]).view(1, -1, 1, 1)
            drops = attr.LayerFeatureAblation(net, layer).attribute(
                x, target=target, layer_mask=units, perturbations_per_eval=BLOCK
            )
            return (drops * maps).sum(1)[0].relu()

    def occlusion() -> Any:
        window, stride = round(WINDOW * side), round(STRIDE * side)
        return (
            attr.Occlusion(net)
            .attribute(
                x, (3, window, window), (3, stride, stride), target=target,
                perturbations_per_eval=BLOCK,
            )[0, 0]
            .relu()
        )  # fmt: skip

    ways: dict[str, Callable[[], Any]] = {
        "grad-cam": lambda: attr.LayerGradCam(net, layer).attribute(x, target)[0, 0].relu(),
        "saliency": lambda: attr.Saliency(net).attribute(x.clone().requires_grad_(), target)[0]
        .amax(0),
        "ablation-cam": ablation,
        "occlusion": occlusion,
    }  # fmt: skip
    return Ready(plain, lambda: ways[job["method"]]().detach().cpu().numpy())


def torchcam(job: Job) -> Ready:
    """torch-cam."""
    torch, net, layer, x, plain = torch_net(job)
    from torchcam import methods

    kind = {"grad-cam": methods.GradCAM, "score-cam": methods.ScoreCAM}[job["method"]]

    def explain() -> Any:
        with kind(net, layer) as extractor, torch.set_grad_enabled(job["method"] == "grad-cam"):
            scores = net(x)
            return extractor(job["target"], scores)[0][0].detach().cpu().numpy()

    return Ready(plain, explain)


def openvino_xai(job: Job) -> Ready:
    """OpenVINO XAI: an OpenVINO model with a branch that explains, or the model under masks."""
    import openvino
    import openvino_xai as xai
    from openvino_xai.explainer import ExplainMode

    x, black = picture(job), job["method"] == "rise"
    model = openvino.Core().read_model(job["onnx"])
    model.reshape([*x.shape])
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": 1})
    explainer = xai.Explainer(
        model.clone(),
        task=xai.Task.CLASSIFICATION,
        explain_mode=ExplainMode.BLACKBOX if black else ExplainMode.WHITEBOX,
        explain_method=xai.Method.RISE if black else xai.Method.RECIPROCAM,
        postprocess_fn=lambda found: found[0],
    )
    more = {"num_masks": job["masks"], "num_cells": CELLS, "prob": KEEP} if black else {}

    def explain() -> Any:
        found = explainer(x, targets=[job["target"]], colormap=False, resize=False, **more)
        return found.saliency_map[job["target"]]

    return Ready(lambda: compiled(x), explain)


def session(job: Job, model: str | bytes) -> Any:
    """ONNX Runtime alone, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = job["threads"]
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def dianna(job: Job) -> Ready:
    """DIANNA, given a function: from a path it would load the model anew for every block."""
    import dianna

    x, plain = picture(job), session(job, job["onnx"])

    def explain() -> Any:
        return dianna.explain_image(
            lambda images: plain.run(None, {"image": images})[0], x[0], "RISE", [job["target"]],
            n_masks=job["masks"], feature_res=CELLS, p_keep=KEEP, axis_labels={0: "channels"},
        )[0]  # fmt: skip

    return Ready(lambda: plain.run(None, {"image": x}), explain)


def onnx_ad(job: Job) -> Ready:
    """onnx-ad: the gradient for the picture, of a model of fixed batch (it takes no other)."""
    import numpy as np
    import onnx
    import onnx_ad

    x, model = picture(job), onnx.load(job["onnx"])
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    model = onnx.shape_inference.infer_shapes(model)
    plain = session(job, model.SerializeToString())
    reverse = session(job, onnx_ad.reverse(model, layout="onnx").SerializeToString())
    classes = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    seed = np.zeros((1, classes, 1), np.float32)
    seed[0, job["target"]] = 1
    feeds = {"image": x, "adj_scores": seed}
    taken = {i.name: feeds.get(i.name) for i in reverse.get_inputs()}

    def explain() -> Any:
        return np.abs(reverse.run(["adj_image"], taken)[0].reshape(x.shape)[0]).max(0)

    return Ready(lambda: plain.run(None, {"image": x}), explain)


def onnxcam(job: Job) -> Ready:
    """onnxcam, as a library; plain inference is ONNX Runtime's of the file as it is."""
    import onnxcam

    options: dict[str, dict[str, Any]] = {
        "rise": {"masks": job["masks"], "cells": CELLS, "keep": KEEP},
        "occlusion": {"window": WINDOW, "stride": STRIDE},
        "recipro-cam": {"kernel": "single"},  # as OpenVINO XAI has it
    }
    method, x = job["method"], picture(job)
    explainer = onnxcam.Explainer(
        job["onnx"], method, provider=job.get("device", "cpu"), threads=job["threads"],
        **options.get(method, {}),
    )  # fmt: skip
    explainer.program(1)  # compiled here; its session is made in the run that warms up
    if job.get("device", "cpu") == "cpu":
        plain = session(job, job["onnx"])
        return Ready(
            lambda: plain.run(None, {"image": x}), lambda: explainer(x, job["target"]).map[0]
        )
    from bench_sessions import File

    one = File(job["onnx"], {"image": x}, {**job, "provider": job["device"]})
    return Ready(one.run, lambda: explainer(x, job["target"]).map[0])


LIBRARIES: dict[str, Callable[[Job], Ready]] = {
    "onnxcam": onnxcam,
    "grad-cam": grad_cam,
    "captum": captum,
    "torchcam": torchcam,
    "openvino-xai": openvino_xai,
    "dianna": dianna,
    "onnx-ad": onnx_ad,
}


def measured(library: str, job: Job) -> dict[str, Any]:
    """Times, peak memory, and the map on a coarse grid.

    The first explanation warms up; one that takes more than LONG times "seconds" is the only one.
    """
    ready = LIBRARIES[library](job)
    ready.plain()
    first_s, found = timed(ready.explain)
    if first_s > LONG * job["seconds"]:
        plain_s = statistics.median(timed(ready.plain)[0] for _ in range(3))
        times = {"plain_s": plain_s, "explained_s": first_s, "ratio": first_s / plain_s, "runs": 1}
    else:
        runs = max(1, min(job["repeats"], int(job["seconds"] / first_s)))
        both = by_turns(
            {"plain": ready.plain, "explained": ready.explain}, {"warmup": 0, "repeats": runs}
        )
        explained = both["explained"]
        times = {"plain_s": both["plain_s"], "explained_s": explained["s"], "runs": runs}
        times["ratio"] = explained["ratio"]
    return {**times, "peak": peak_bytes(), "version": version(library), "map": coarse(found)}


def coarse(found: Any) -> list[list[float]]:
    """A map as means over a grid, its largest value 1."""
    import numpy as np

    every = np.asarray(found, np.float64)
    every = every.reshape(every.shape[-2:])
    for axis in (0, 1):
        every = np.stack([p.mean(axis) for p in np.array_split(every, GRID, axis)], axis)
    rows: list[list[float]] = (every / max(np.abs(every).max(), 1e-30)).round(5).tolist()
    return rows


def main(arguments: list[str]) -> int:
    """Makes a model or measures one thing; prints JSON."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    what, *rest = arguments
    with contextlib.redirect_stdout(sys.stderr):
        if what == "make":
            answer = make(rest[0], Path(rest[1]))
        else:
            job = json.loads(rest[0])
            if job["threads"] == 1 and job.get("device", "cpu") == "cpu":
                # Not every library has an option for its threads: one core is one thread.
                os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
            answer = measured(what, job)
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
