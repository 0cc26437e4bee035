"""A small residual network in torch with its ONNX file, for comparisons with other libraries."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest


def residual_net(path: Path, root: Path, x: Any, spread: float = 0.0) -> Any:
    """The network in torch, on pictures of the size of `x` (N, 3, H, W), written to `path`.

    Its second part is the last feature map. With `spread` the scores of `x` are brought to mean 0
    and that standard deviation, so that probabilities differ. Skips without torch or torchvision.
    """
    torch = pytest.importorskip("torch")
    sys.path.insert(0, str(root / "tools"))
    try:
        from export_torchvision import Missing, load_torchvision

        try:
            load_torchvision()
        except Missing:
            pytest.skip("the peers need torchvision")
    finally:
        sys.path.pop(0)
    torch.manual_seed(0)

    class Block(torch.nn.Module):
        def __init__(self, before: int, after: int, stride: int) -> None:
            super().__init__()
            self.a = torch.nn.Conv2d(before, after, 3, stride, 1)
            self.b = torch.nn.Conv2d(after, after, 3, 1, 1)
            self.skip = torch.nn.Conv2d(before, after, 1, stride)
            self.relu, self.last = torch.nn.ReLU(), torch.nn.ReLU()

        def forward(self, x: Any) -> Any:
            return self.last(self.b(self.relu(self.a(x))) + self.skip(x))

    model = torch.nn.Sequential(
        Block(3, 12, 2),
        Block(12, 24, 2),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(24, 16),
        torch.nn.Softplus(),
        torch.nn.Linear(16, 6),
    ).eval()
    if spread:
        with torch.no_grad():
            scores = model(torch.tensor(x))
            model[-1].weight *= spread / scores.std(0, keepdim=True).T
            model[-1].bias -= model(torch.tensor(x)).mean(0)
    torch.onnx.export(
        model, (torch.tensor(x),), path, dynamo=False, opset_version=17,
        input_names=["image"], output_names=["scores"],
        dynamic_axes={"image": {0: "N"}, "scores": {0: "N"}},
    )  # fmt: skip
    return model
