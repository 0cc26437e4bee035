"""What the papers report: the figures that `reproduce.py` sets ours against."""

from __future__ import annotations

from typing import NamedTuple

GRAD_CAM_PP = "Chattopadhay et al., Grad-CAM++, WACV 2018, in the arXiv version (1710.11063)"
ABLATION_CAM = "Desai & Ramaswamy, Ablation-CAM, WACV 2020"


class Kept(NamedTuple):
    """What maps keep of a score, L∘I: Grad-CAM++ first, Grad-CAM second, in %."""

    table: str
    model: str
    head: str
    pictures: str
    drop: tuple[float, float]
    increase: tuple[float, float]
    win: tuple[float, float]


class Placed(NamedTuple):
    """Mean overlap with boxes above a threshold δ: Grad-CAM++ first, Grad-CAM second."""

    table: str
    model: str
    pictures: str
    threshold: float
    overlap: tuple[float, float]


_IMAGENET, _VOC = "ImageNet 2012, validation", "Pascal VOC 2007, validation"
KEPT = (
    Kept("Table 1", "VGG-16", "FC", _IMAGENET, (36.84, 46.56), (17.05, 13.42), (70.72, 29.28)),
    Kept("Table 8", "AlexNet", "FC", _IMAGENET, (62.75, 82.86), (8.24, 3.16), (86.56, 13.44)),
    Kept("Table 10", "ResNet-50", "GAP", _IMAGENET, (28.90, 30.36), (22.16, 22.11), (60.51, 39.49)),
    Kept("Table 2", "VGG-16", "FC", _VOC, (19.53, 28.54), (18.96, 21.43), (61.47, 39.44)),
    Kept("Table 9", "AlexNet", "FC", _VOC, (29.16, 45.82), (19.76, 14.38), (72.79, 27.21)),
    Kept("Table 11", "ResNet-50", "GAP", _VOC, (16.19, 20.86), (19.52, 21.99), (58.61, 41.39)),
)
_VOC_2012 = "Pascal VOC 2012, validation"
PLACED = (
    Placed("Table 3", "VGG-16", _VOC_2012, 0.0, (0.34, 0.33)),
    Placed("Table 3", "VGG-16", _VOC_2012, 0.25, (0.38, 0.28)),
    Placed("Table 3", "VGG-16", _VOC_2012, 0.5, (0.28, 0.16)),
)
