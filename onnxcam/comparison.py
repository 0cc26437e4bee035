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

    A sequence of `PictureExplanation`.

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
        """The sheet as a PIL image: a row for each class and feature map, a column for each method.

        Maps of single pixels are drawn alone, since a picture below hides them; a method on pixels
        stands in the first row of its class.
        """
        first = self[0]
        found = {(one.method, one.layer): one for one in self}
        layers: list[str | None] = list(dict.fromkeys(one.layer for one in self if one.layer))
        picture = panel(first.picture, None, longest=CELL)
        blocks = []
        for number, target in enumerate(first.facts()["targets"]):
            said = (target["label"], f"{first.score} {target['score']:.4g}")
            for layer in layers or [None]:
                cells = [Cell(picture, said)]
                for method in dict.fromkeys(one.method for one in self):
                    one = found.get((method, layer))
                    if one is None and layer in layers[:1]:
                        one = found.get((method, None))
                    cells.append(Cell(None) if one is None else _cell(one, number, colormap, alpha))
                blocks.append(cells)
        smooth = f", smooth {first.smooth}" if first.smooth != "none" else ""
        return grid(blocks, [f"{first.model} on {first.picture.name}{smooth}"])

    def facts(self) -> dict[str, Any]:
        """What a machine wants to read: what all share, and `explanations` with the rest of each.

        These are method, options, layer, map_shape and notes, and by class the peaks and gaps.
        """
        own = ("method", "options", "layer", "map_shape", "notes")
        shared = {key: value for key, value in self[0].facts().items() if key not in own}
        each = []
        for one in self:
            facts = one.facts()
            each.append({key: facts[key] for key in own})
            for kind in ("peak", "gap"):
                if kind in facts["targets"][0]:
                    each[-1][f"{kind}s"] = [target[kind] for target in facts["targets"]]
        for target in shared["targets"]:
            del target["peak"]
            target.pop("gap", None)
        return {**shared, "explanations": each}

    def arrays(self) -> dict[str, np.ndarray]:
        """Scores and classes, and the arrays of every explanation under "<number>.<method>.…"."""
        first = self.explanations[0]
        found = {"scores": first.scores, "target": first.target, "negated": first.negated}
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


def _cell(one: PictureExplanation, index: int, colormap: str | None, alpha: float) -> Cell:
    shown = panel(
        one.picture, one.heat(index), longest=CELL, colormap=colormap,
        alpha=None if one.fine else alpha, seen=one.seen,
    )  # fmt: skip
    return Cell(shown, (one.title or one.method, *([f"at {one.layer}"] if one.layer else [])))
