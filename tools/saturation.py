"""The saturation case: how much of a map is left when the score is a saturated probability.

    python tools/saturation.py --to docs/saturation.png

Explains the tree on the demo picture with the demo AlexNet, whose scores end in a sigmoid, once by
the logit and once by the probability, and draws both maps of a method on one scale: that of the
logit's map.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from onnxcam import Explainer, PictureExplanation
from onnxcam.image import CELL, Cell, grid, lay_on, panel, save_image
from onnxcam.resources import resource

MODEL, PICTURE, CLASS = "demo_alexnet.onnx", "demo_scene.png", "tree"
SHARED = "demo_vgg.onnx", "demo_shortcut.png", "heart"  # a score that no single unit carries
METHODS = {"grad-cam": "Grad-CAM", "ablation-cam": "Ablation-CAM"}


class Case(NamedTuple):
    """One method asked about the logit and about the probability."""

    logit: PictureExplanation
    probability: PictureExplanation

    @property
    def left(self) -> float:
        """The peak of the probability's map over the peak of the logit's."""
        return float(self.probability.of().max() / self.logit.of().max())


def cases(model: str = MODEL, picture: str = PICTURE, label: str = CLASS) -> dict[str, Case]:
    """Both maps of each method."""
    found = {}
    for method in METHODS:
        by_score = [
            Explainer(resource(model), method, score=score, provider="cpu").explain(
                resource(picture), label
            )
            for score in ("logit", "probability")
        ]
        found[method] = Case(*by_score)
    return found


def sheet(found: dict[str, Case]) -> Any:
    """The maps, one row for each method; both maps of a row on the scale of the first."""
    blocks = []
    for method, case in found.items():
        first = case.logit
        cells = [Cell(panel(first.picture, None, longest=CELL), (METHODS[method],))]
        for one in case:
            value = float(one.target_score.reshape(-1)[0])
            laid = lay_on(one.of(), one.geometry, one.picture.width, one.picture.height)
            heat = np.clip(laid / first.of().max(), 0, 1)
            said = (f"{one.score} {value:.5g}", f"peak {one.of().max():.3g}")
            cells.append(Cell(panel(one.picture, heat, longest=CELL, seen=one.seen), said))
        blocks.append(cells)
    return grid(blocks, [f"{CLASS}, explained by its logit and by its probability"])


def main() -> None:
    """Draws the sheet and prints the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--to", type=Path, default=Path("docs/saturation.png"))
    to = parser.parse_args().to
    found = cases()
    for method, case in found.items():
        print(f"{METHODS[method]}: {case.left:.2g} of the map is left")
    save_image(sheet(found), to, {"Title": "Saturation"}, force=True)
    print(to)


if __name__ == "__main__":
    main()
