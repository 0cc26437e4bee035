"""What an explainer returns: scores, weights and map, and what to do with them."""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from onnxcam import __version__
from onnxcam.errors import OptionError, OutputError
from onnxcam.files import write_atomic
from onnxcam.image import (
    Geometry,
    Picture,
    Preset,
    figure,
    lay_on,
    most_seen,
    normalise,
    overlay,
    save_image,
    seen,
)
from onnxcam.targets import coded, signed

RAW = (".npz", ".npy")
PICTURES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True, eq=False)
class Explanation:
    """The explanation of one batch. M stands for classes asked about; without M for one class.

    Attributes:
        scores: class scores, (N, classes), float32; logits or probabilities as `score` says.
        target: the classes explained, (N,) or (N, M).
        negated: where the decision explained is the negative one, that it is not that class;
            bool, in the shape of `target`.
        map: the map, (N, h, w) or (N, M, h, w), after the method's last step (its ReLU);
            not normalised. Of pixels for methods on pixels: h × w is then the image's size.
        raw: the map before that, in the shape of `map`; of methods on pixels signed and by
            channel, (N, C, H, W) or (N, M, C, H, W).
        weights: the weight of each unit, (N, K) or (N, M, K); None where the method has none.
        gap: for attributions that add up to the score: by how much they miss it, (N,) or (N, M).
        method, layer, score, provider: how it was made: name of the method, of the feature map's
            tensor (None for methods on pixels), "logit" or "probability", and where it ran.
        labels: class names, where known.
        opposite: of a head of one unit the name of the negative decision, where it has one.
        notes: what the user should know, in sentences.
        model: name of the model.
        options: options of the method, all of them.
        smooth: "none", "pca", "tta" or "pca+tta", see `Explainer`.
    """

    scores: np.ndarray
    target: np.ndarray
    negated: np.ndarray
    map: np.ndarray
    raw: np.ndarray
    method: str
    layer: str | None
    score: str
    provider: str
    weights: np.ndarray | None = None
    gap: np.ndarray | None = None
    labels: list[str] | None = None
    opposite: str | None = None
    notes: tuple[str, ...] = ()
    model: str = "model"
    title: str = field(default="", repr=False)
    options: dict[str, Any] = field(default_factory=dict)
    smooth: str = "none"

    @property
    def fine(self) -> bool:
        """Whether the map is of single pixels, with a value for each channel behind it."""
        return self.raw.ndim > self.map.ndim

    @property
    def peak(self) -> np.ndarray:
        """The greatest value of each map, in the shape of `target`: what drawing divides by."""
        return np.asarray(self.map.max(axis=(-2, -1)))

    @property
    def target_score(self) -> np.ndarray:
        """The scores explained, in the shape of `target`.

        That of a negative decision is −y for a logit y, and 1 − p for a probability p.
        """
        rows = self.target.reshape(len(self.scores), -1)
        own = np.take_along_axis(self.scores, rows, axis=1).reshape(self.target.shape)
        return signed(own, self.negated, self.score)

    def label(self, index: int) -> str:
        """The name of a class, or "class 7"."""
        known = self.labels is not None and 0 <= index < len(self.labels)
        return self.labels[index] if known and self.labels else f"class {index}"

    @property
    def decisions(self) -> list[str]:
        """What was explained, in the order of `target`: "cat", or "not cat"."""
        codes = coded(self.target, self.negated, self.scores.shape[-1])
        return [self.decision(int(code)) for code in codes.reshape(-1)]

    def decision(self, code: int) -> str:
        """The name of what a code of `targets` asks about: "cat", or "not cat"."""
        classes = self.scores.shape[-1]
        if code < classes:
            return self.label(code)
        return self.opposite if self.opposite is not None else f"not {self.label(code - classes)}"

    def facts(self) -> dict[str, Any]:
        """What a machine wants to read: settings, classes and scores, without the arrays."""
        own = [{"peak": float(peak)} for peak in self.peak.reshape(-1)]
        if self.gap is not None:
            for one, gap in zip(own, self.gap.reshape(-1), strict=True):
                one["gap"] = float(gap)
        return {
            "model": self.model,
            "method": self.method,
            "options": self.options,
            "smooth": self.smooth,
            "layer": self.layer,
            "score_kind": self.score,
            "provider": self.provider,
            "targets": [
                {"index": int(t), "negated": bool(no), "label": name, "score": float(s), **more}
                for t, no, name, s, more in zip(
                    self.target.reshape(-1),
                    self.negated.reshape(-1),
                    self.decisions,
                    self.target_score.reshape(-1),
                    own,
                    strict=True,
                )
            ],
            "map_shape": list(self.map.shape),
            "notes": list(self.notes),
            "onnxcam": __version__,
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name, as `save` writes them to an .npz file."""
        names = ("scores", "target", "negated", "map", "raw", "weights", "gap")
        held = {name: getattr(self, name) for name in names}
        return {name: array for name, array in held.items() if array is not None}

    def save(self, path: str | os.PathLike[str], force: bool = False) -> Path:
        """Writes the explanation; the extension says as what.

        `.npz`: all arrays; `.npy`: the map; `.json`: `facts()`. Never overwrites without `force`.

        Raises:
            OutputError: the file exists or cannot be written.
        """
        suffix = Path(path).suffix.lower()
        stream = io.BytesIO()
        if suffix == ".npz":
            np.savez_compressed(stream, allow_pickle=False, **self.arrays())
        elif suffix == ".npy":
            np.save(stream, self.map, allow_pickle=False)
        elif suffix == ".json":
            stream.write((json.dumps(self.facts(), indent=2) + "\n").encode())
        else:
            raise OutputError(
                f"cannot save {path}: the extension must be one of "
                f"{', '.join((*RAW, '.json', *PICTURES))}"
                + (", and pictures need explain(picture)" if suffix in PICTURES else "")
            )
        return write_atomic(path, stream.getvalue(), force)


@dataclass(frozen=True, eq=False)
class PictureExplanation(Explanation):
    """The explanation of one picture: the map laid on it.

    Attributes:
        picture: the picture as it was read.
        geometry: which part of it the model saw.
        preset: how it became a tensor.
        preset_reason: where the preset came from, in words.
    """

    picture: Picture = field(kw_only=True)
    geometry: Geometry = field(kw_only=True)
    preset: Preset = field(kw_only=True)
    preset_reason: str = field(default="", kw_only=True)

    def of(self, index: int = 0) -> np.ndarray:
        """The map (h, w) of the `index`-th class asked about."""
        maps = self.map.reshape(-1, *self.map.shape[-2:])
        if not -len(maps) <= index < len(maps):
            raise OptionError(f"{len(maps)} classes were explained; there is no number {index}")
        return np.asarray(maps[index])

    @cached_property
    def heatmap(self) -> np.ndarray:
        """The first map on the picture: (H, W), float32, from 0 to 1; 0 where nothing was seen."""
        return self.heat(0)

    def heat(self, index: int = 0) -> np.ndarray:
        """The heat map, (H, W), of the `index`-th class asked about, from 0 to 1.

        In maps of single pixels a few stand out so far that they alone would be seen: from the
        99.5th percentile on all values count as 1. `map` and `raw` are left as they are.
        """
        shown = self.of(index)
        if self.fine:
            shown = np.minimum(shown, most_seen(shown))
        return normalise(lay_on(shown, self.geometry, self.picture.width, self.picture.height))

    @property
    def seen(self) -> np.ndarray:
        """(H, W): which pixels of the picture the model saw."""
        return seen(self.geometry, self.picture.width, self.picture.height)

    def overlay(self, index: int = 0, colormap: str | None = None, alpha: float = 0.5) -> Any:
        """The heat map over the picture, as a PIL image; what the model never saw is faded."""
        return overlay(
            self.picture, self.heat(index), colormap=colormap, alpha=alpha, seen=self.seen
        )

    def figure(self, index: int = 0, colormap: str | None = None, alpha: float = 0.5) -> Any:
        """Picture, heat map and overlay side by side with what they show, as a PIL image."""
        value = float(self.target_score.reshape(-1)[index])
        smooth = f", smooth {self.smooth}" if self.smooth != "none" else ""
        lines = [
            f"{self.decisions[index]}  ({self.score} {value:.4g})",
            f"{self.title or self.method}" + (f" at {self.layer}" if self.layer else "") + smooth,
            f"{self.model} on {self.picture.name}",
        ]
        return figure(
            self.picture,
            self.heat(index),
            lines,
            colormap=colormap,
            alpha=alpha,
            seen=self.seen,
        )

    def facts(self) -> dict[str, Any]:
        """As for `Explanation`, with picture and preset."""
        return {
            **super().facts(),
            "picture": self.picture.name,
            "picture_size": [self.picture.width, self.picture.height],
            "preset": self.preset.to_json(),
            "preset_reason": self.preset_reason,
        }

    def save(
        self,
        path: str | os.PathLike[str],
        force: bool = False,
        *,
        index: int = 0,
        kind: str = "figure",
        colormap: str | None = None,
        alpha: float = 0.5,
    ) -> Path:
        """Writes the explanation; the extension says as what.

        `.png`, `.jpg`, `.webp`: the figure, or the overlay alone with `kind="overlay"`, of the
        `index`-th class asked about; the file carries `facts()`. Others as for `Explanation`.

        Raises:
            OutputError: the file exists or cannot be written.
        """
        if Path(path).suffix.lower() not in PICTURES:
            return super().save(path, force)
        if kind not in ("figure", "overlay"):
            raise OptionError(f"kind is figure or overlay, not {kind!r}")
        self.of(index)  # says so if there is no such class
        draw = self.figure if kind == "figure" else self.overlay
        target = self.facts()["targets"][index]
        facts = {
            "Title": f"{target['label']} ({self.score} {target['score']:.4g})",
            "Software": f"onnxcam {__version__}",
            "onnxcam": json.dumps(self.facts()),
        }
        return save_image(draw(index, colormap, alpha), path, facts, force)

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        self.figure().save(stream, "PNG")
        return stream.getvalue()
