"""What a metric is: a row of the table in `metrics`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnxcam.evaluate.trial import Trial

Measure = Callable[[Trial], float | str | None]


@dataclass(frozen=True)
class Metric:
    """A row of the table.

    Attributes:
        name: how users ask for it.
        title: as the tables of papers head it.
        better: "less" or "more".
        measure: the value for one picture, or None where it has none. Text where a threshold is
            chosen over the whole data set: see `boxes.levels`.
        formula, source: in words, and the paper.
        probes: names of the altered pictures that it needs, see `probes.probe`.
        unit: "%" or "".
        needs: "" or what a sample must have, see `Sample.has`.
        again: whether it needs maps of disturbed pictures.
        limits: of values that are text, how many limits it counts.
    """

    name: str
    title: str
    better: str
    measure: Measure
    formula: str
    source: str
    probes: tuple[str, ...] = ()
    unit: str = ""
    needs: str = ""
    again: bool = False
    limits: int = 0

    @property
    def group(self) -> str:
        """What users name to get all rows of a kind: "drop" for "drop-20" and its kin."""
        return self.name.split("-")[0]
