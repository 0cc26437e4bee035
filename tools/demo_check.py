"""What the demo models are worth: held-out quality, through ONNX Runtime, and where they look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from demo_nets import Net
from numpy.typing import NDArray
from scenes import Floats, Pixels, Scene, mark_box
from torch import Tensor

SIZE, SCALE, MEAN, STD = 96, 1 / 255, 0.5, 0.25
Probabilities = NDArray[np.float32]


def tensor(pixels: Pixels) -> NDArray[np.float32]:
    """Pictures (N, 96, 96, 3) uint8 as the networks want them, (N, 3, 96, 96) float32."""
    x = (pixels.astype(np.float32) * np.float32(SCALE) - np.float32(MEAN)) / np.float32(STD)
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def predict(path: Path, pixels: Pixels) -> Probabilities:
    """Probabilities (N, 10) of an exported model for pictures (N, 96, 96, 3) uint8."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    blocks = [pixels[i : i + 100] for i in range(0, len(pixels), 100)]
    return np.concatenate([session.run(None, {"image": tensor(b)})[0] for b in blocks])


def average_precision(truth: Floats, scores: Floats) -> float:
    """Area under the precision-recall curve of one class: mean precision at each hit."""
    hits = truth[np.argsort(-scores, kind="stable")] > 0
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].mean())


def quality(truth: Floats, probabilities: Floats) -> dict[str, float]:
    """Multi-label quality at a threshold of 0.5; truth and probabilities (N, 10)."""
    said, real = probabilities > 0.5, truth > 0
    both = (said & real).sum()
    per_class = [average_precision(truth[:, c], probabilities[:, c]) for c in range(truth.shape[1])]
    return {
        "scenes": len(truth),
        "mean_average_precision": round(float(np.mean(per_class)), 4),
        "worst_average_precision": round(min(per_class), 4),
        "f1_micro": round(float(2 * both / (said.sum() + real.sum())), 4),
        "label_accuracy": round(float((said == real).mean()), 4),
        "all_labels_right": round(float((said == real).all(axis=1).mean()), 4),
    }


def grad_cam(net: Net, x: Tensor, kind: int) -> NDArray[np.float32]:
    """Grad-CAM of a class on `net.features`, enlarged to the picture: (N, 96, 96), not negative."""
    with torch.no_grad():
        features = net.features(x)
    features.requires_grad_()
    net.head(features)[:, kind].sum().backward()
    assert features.grad is not None
    weights = features.grad.mean((2, 3), keepdim=True)
    cam = torch.relu((weights * features.detach()).sum(1, keepdim=True))
    large = torch.nn.functional.interpolate(cam, (SIZE, SIZE), mode="bilinear")
    return np.asarray(large[:, 0].numpy(), np.float32)


def localisation(net: Net, scenes: list[Scene]) -> dict[str, Any]:
    """How much of each present class's Grad-CAM falls on objects of that class.

    Only scenes with two classes or more count, so that the map has to tell objects apart. The
    chance figures are those of a uniform map.
    """
    rows = []
    for scene in (s for s in scenes if s.labels.sum() > 1):
        x = torch.from_numpy(tensor(scene.pixels[None]))
        for kind in np.flatnonzero(scene.labels):
            cam = grad_cam(net, x, int(kind))[0]
            mask, box, others = (np.zeros((SIZE, SIZE), bool) for _ in range(3))
            for object_ in scene.objects:
                if object_.kind == kind:
                    x0, y0, x1, y1 = object_.box
                    mask |= object_.mask
                    box[y0:y1, x0:x1] = True
                else:
                    others |= object_.mask
            total = float(cam.sum()) or 1.0
            peak = np.unravel_index(int(cam.argmax()), cam.shape)
            rows.append(
                (
                    cam[mask].sum() / total, mask.mean(), cam[box].sum() / total, box.mean(),
                    cam[others & ~mask].sum() / total, (others & ~mask).mean(), box[peak],
                )
            )  # fmt: skip
    names = (
        "energy_in_mask", "energy_in_mask_chance", "energy_in_box", "energy_in_box_chance",
        "energy_on_other_objects", "energy_on_other_objects_chance", "peak_in_box",
    )  # fmt: skip
    means = np.mean(np.array(rows, np.float64), axis=0)
    figures = {name: round(float(mean), 4) for name, mean in zip(names, means, strict=True)}
    return {"method": "Grad-CAM on `features`, 12 x 12", "maps": len(rows), **figures}


def mark_figures(net: Net, pixels: Pixels, kind: int) -> dict[str, float]:
    """How much of a class's Grad-CAM lies at the corner mark; marked pixels (N, 96, 96, 3).

    "Near" is within 16 pixels, two cells of the map: a cell sees about that far.
    """
    x0, y0, x1, y1 = mark_box(SIZE)
    near = np.zeros((SIZE, SIZE), bool)
    near[max(0, y0 - 16) : y1 + 16, max(0, x0 - 16) : x1 + 16] = True
    cams = grad_cam(net, torch.from_numpy(tensor(pixels)), kind)
    totals = np.maximum(cams.sum(axis=(1, 2)), 1e-9)
    peaks = cams.reshape(len(cams), -1).argmax(axis=1)
    return {
        "energy_near_mark": round(float((cams[:, near].sum(axis=1) / totals).mean()), 4),
        "energy_near_mark_chance": round(float(near.mean()), 4),
        "peak_near_mark": round(float(near.reshape(-1)[peaks].mean()), 4),
    }
