"""Fusions: guided backpropagation, seen through the map of any method on a feature map."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from onnxcam.graph.emit import Emitter
from onnxcam.methods.pixel import RECTIFIERS, largest
from onnxcam.methods.table import METHODS, Emit, Method, Needs, Result
from onnxcam.perturb.scaling import resized


def guided(row: Method) -> Method:
    """The row of guided backpropagation times the map of another row."""
    return replace(
        row,
        name=f"guided-{row.name}",
        title=f"Guided {row.title}",
        needs=(*row.needs, "guided"),
        options={**row.options, "rectifiers": RECTIFIERS},
        emit=_times_guided(row),
        summary=f"Guided Backpropagation times the map of {row.title}",
        pixels=True,
        fused=True,
    )


def _times_guided(row: Method) -> Emit:
    def emit(e: Emitter, needs: Needs, rectifiers: str = "relu", **settings: Any) -> Result:
        assert needs.guided is not None and needs.feature is not None
        coarse = row.emit(e, needs, **settings)
        shown = e.Relu(coarse.raw) if coarse.map is None else coarse.map
        large = resized(e, shown, needs.feature.shape[2:], needs.guided.shape[3:])
        fine = e.axes("Unsqueeze", large, [2])
        return largest(e, e.Mul(needs.guided, fine))._replace(weights=coarse.weights)

    emit.__doc__ = f"""Multiplies Guided Backpropagation with the map of {row.title}.

    Selvaraju et al., Grad-CAM, ICCV 2017, section 3.2 (there for Grad-CAM): the map, enlarged to
    the image's size (bilinear, pixel centres aligned), times the guided gradient of every pixel and
    channel. What is shown is the maximum over channels of the magnitude.

    * `rectifiers` as for guided-backprop; all other options as for {row.name}.
    """
    return emit


def register() -> None:
    """Adds a fusion for every row of a method on a feature map; called when all are there."""
    rows = [row for row in METHODS.values() if not row.pixels]
    METHODS.update({row.name: row for row in map(guided, rows)})
