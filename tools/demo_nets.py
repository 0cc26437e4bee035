"""The demo classifiers' architectures (torch). Each has `features` (image -> map) and `head`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

CLASSES = 10


class Unit(nn.Module):
    """Convolution, batch normalisation, and a rectifier unless `relu` is off."""

    def __init__(
        self, inputs: int, outputs: int, stride: int = 1, kernel: int = 3, relu: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs)
        self.act = nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.norm(self.conv(x)))
        return y


class Block(nn.Module):
    """Residual block: two units and a shortcut, rectified after the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = Unit(inputs, outputs, stride)
        self.second = Unit(outputs, outputs, relu=False)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else Unit(inputs, outputs, stride, 1, relu=False)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.second(self.first(x)) + self.shortcut(x))
        return y


class Net(nn.Module):
    """Image (N, 3, 96, 96) -> features (N, K, 12, 12) -> logits (N, 10)."""

    def __init__(self, features: Sequence[nn.Module], head: Sequence[nn.Module]) -> None:
        super().__init__()
        self.features = nn.Sequential(*features)
        self.head = nn.Sequential(*head)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x))
        return logits


def residual() -> Net:
    """Residual net, global average pooling and one linear layer."""
    return Net(
        [
            Unit(3, 24, 2),
            Block(24, 32, 2), Block(32, 32),
            Block(32, 64, 2), Block(64, 64), Block(64, 96),
        ],
        [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, CLASSES)],
    )  # fmt: skip


def vgg() -> Net:
    """VGG-like net: stacked 3x3 convolutions, then three dense layers."""
    return Net(
        [
            Unit(3, 16), nn.MaxPool2d(2),
            Unit(16, 24), nn.MaxPool2d(2),
            Unit(24, 48), Unit(48, 48), nn.MaxPool2d(2),
            Unit(48, 80), Unit(80, 80),
        ],
        [
            nn.MaxPool2d(3), nn.Flatten(),
            nn.Linear(80 * 16, 128), nn.ReLU(),
            nn.Linear(128, 128), nn.ReLU(),
            nn.Linear(128, CLASSES),
        ],
    )  # fmt: skip


def alexnet() -> Net:
    """Small AlexNet-like net: large first kernels, overlapping pools, no normalisation."""
    net = Net(
        [
            nn.Conv2d(3, 24, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
            nn.Conv2d(24, 48, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
            nn.Conv2d(48, 64, 3, 1, 1), nn.ReLU(),
            nn.Conv2d(64, 48, 3, 1, 1), nn.ReLU(),
        ],
        [
            nn.MaxPool2d(3, 2), nn.Flatten(),
            nn.Linear(48 * 25, 96), nn.ReLU(),
            nn.Linear(96, CLASSES),
        ],
    )  # fmt: skip
    for layer in net.modules():  # without normalisation, torch's own start is too timid to learn
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return net


def small_residual() -> Net:
    """Residual net whose cells see little around them, which keeps its maps sharp."""
    return Net(
        [Unit(3, 24, 2), Block(24, 32, 2), Block(32, 48), Block(48, 72, 2)],
        [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(72, CLASSES)],
    )


NETS: dict[str, Callable[[], Net]] = {
    "residual": residual,
    "vgg": vgg,
    "alexnet": alexnet,
    "small_residual": small_residual,
}


def fold_norms(net: Net) -> Net:
    """Fold every batch normalisation into its convolution, in place; for inference only."""
    net.eval()
    for unit in net.modules():
        if isinstance(unit, Unit) and isinstance(unit.norm, nn.BatchNorm2d):
            unit.conv = torch.nn.utils.fuse_conv_bn_eval(unit.conv, unit.norm)
            unit.norm = nn.Identity()
    return net
