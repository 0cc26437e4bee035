"""Several explanations of one decision side by side."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

from onnxcam import __version__
from onnxcam.errors import OutputError
from onnxcam.explanation import PICTURES, PictureExplanation
from onnxcam.files import write_atomic
from onnxcam.image import CELL, Cell, grid, panel, save_image


@dataclass(frozen=True, eq=False)
class Comparison(Sequence[PictureExplanation]):
    """The explanations of one decision by several methods, in the order asked for.

    Attributes:
        explanations: one for each method and, where it works on one, feature map.
    """

    explanations: tuple[PictureExplanation, ...]

    @overload
    def __getitem__(self, index: int) -> PictureExplanation: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[PictureExplanation, ...]: ...
    def __getitem__(self, index: Any) -> Any:
        return self.explanations[index]

    def __len__(self) -> int:
        return len(self.explanations)

    def __iter__(self) -> Iterator[PictureExplanation]:
        return iter(self.explanations)

    def figure(self, colormap: str | None = None, alpha: float = 0.5) -> Any:
        """A sheet with a row for each class and a cell for each explanation, as a PIL image."""
        first = self.explanations[0]
        layers = list(dict.fromkeys(e.layer for e in self.explanations if e.layer))
        blocks = []
        for number, target in enumerate(first.facts()["targets"]):
            said = (target["label"], f"{first.score} {target['score']:.4g}")
            cells = [Cell(panel(first.picture, None, longest=CELL), said)]
            for one in self.explanations:
                shown = panel(
                    one.picture, one.heat(number), longest=CELL, colormap=colormap, alpha=alpha,
                    seen=one.seen,
                )  # fmt: skip
                at = [one.layer] if one.layer and len(layers) > 1 else []
                cells.append(Cell(shown, (one.title or one.method, *at)))
            blocks.append(cells)
        lines = [f"{first.model} on {first.picture.name}"]
        lines += [f"at {layers[0]}"] if len(layers) == 1 else []
        return grid(blocks, lines)

    def facts(self) -> dict[str, Any]:
        """What a machine wants to read: the facts of every explanation."""
        return {"explanations": [one.facts() for one in self.explanations]}

    def arrays(self) -> dict[str, np.ndarray]:
        """Scores and classes, and the arrays of every explanation under "<number>.<method>.…"."""
        first = self.explanations[0]
        found = {"scores": first.scores, "target": first.target}
        for number, one in enumerate(self.explanations):
            found |= {
                f"{number}.{one.method}.{name}": array
                for name, array in one.arrays().items()
                if name not in found
            }
        return found

    def save(
        self,
        path: str | os.PathLike[str],
        force: bool = False,
        *,
        colormap: str | None = None,
        alpha: float = 0.5,
    ) -> Path:
        """Writes the comparison; the extension says as what.

        `.png`, `.jpg`, `.webp`: the sheet, with `facts()` in the file; `.npz`: all arrays; `.json`:
        `facts()`.

        Raises:
            OutputError: the file exists or cannot be written.
        """
        suffix = Path(path).suffix.lower()
        if suffix in PICTURES:
            first = self.explanations[0]
            facts = {
                "Title": f"{first.model} on {first.picture.name}",
                "Software": f"onnxcam {__version__}",
                "onnxcam": json.dumps(self.facts()),
            }
            return save_image(self.figure(colormap, alpha), path, facts, force)
        if suffix == ".json":
            return write_atomic(path, (json.dumps(self.facts(), indent=2) + "\n").encode(), force)
        if suffix != ".npz":
            raise OutputError(
                f"cannot save {path}: the extension must be one of .npz, .json, "
                f"{', '.join(PICTURES)}"
            )
        stream = io.BytesIO()
        arrays: dict[str, Any] = self.arrays()
        np.savez_compressed(stream, allow_pickle=False, **arrays)
        return write_atomic(path, stream.getvalue(), force)

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        self.figure().save(stream, "PNG")
        return stream.getvalue()
