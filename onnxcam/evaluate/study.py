"""A whole study: every picture judged, rows kept as they come, and what they add up to."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from onnxcam.errors import Cancelled, OnnxcamError, OutputError
from onnxcam.evaluate.boxes import resolved
from onnxcam.evaluate.judge import Judge
from onnxcam.evaluate.metrics import METRICS
from onnxcam.evaluate.probes import ROAD_SHARES
from onnxcam.evaluate.samples import Sample
from onnxcam.evaluate.statistics import mean_of, paired
from onnxcam.files import make_folder, reason, write_atomic

ROWS, PICTURES = "rows.jsonl", "pictures"


class Rows:
    """The rows of a study in a folder: on the disk as soon as they are there.

    The first line holds the settings: rows of other settings are not gone on with.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], force: bool = False) -> None:
        """Opens what an earlier run left, or begins.

        Args:
            folder: made if it does not exist.
            settings: all that the numbers depend on.
            force: begin anew where the folder has rows of other settings.

        Raises:
            OutputError: it has, and `force` is off; or the system refuses.
        """
        make_folder(folder / PICTURES)
        self.folder, self.path = folder, folder / ROWS
        self.rows: dict[str, dict[str, Any]] = {}
        head = json.dumps({"settings": settings}, sort_keys=True)
        lines = self._lines()
        if lines and lines[0] != json.loads(head):
            if not force:
                raise OutputError(
                    f"{self.path} holds rows of other settings{_different(lines[0], settings)}; "
                    "name another folder with --to, or begin anew with --force"
                )
            lines = []
        if lines:
            self.rows = {row["picture"]: row for row in lines[1:]}
        else:
            write_atomic(self.path, (head + "\n").encode(), force=True)

    def _lines(self) -> list[dict[str, Any]]:
        """What is there; a last line that was not finished is cut off."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise OutputError(f"cannot read {self.path}: {reason(error)}") from None
        whole, _, rest = data.rpartition(b"\n")
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
        except ValueError:
            raise OutputError(
                f"{self.path} is damaged: begin anew with --force, or name another folder"
            ) from None
        if rest:
            write_atomic(self.path, whole + b"\n" if whole else b"", force=True)
        return lines

    def add(self, row: dict[str, Any], pictures: Mapping[str, bytes]) -> None:
        """Keeps a row and its pictures, on the disk before it returns.

        Raises:
            OutputError: the system refuses, as on a full disk; what was there is not lost.
        """
        row["number"] = len(self.rows)
        for method, data in pictures.items():
            write_atomic(self.picture(row, method), data, force=True)
        try:
            with self.path.open("ab") as stream:
                stream.write(json.dumps(row).encode() + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {reason(error)}") from None
        self.rows[row["picture"]] = row

    def picture(self, row: Mapping[str, Any], method: str) -> Path:
        """Where the small picture of a row is; method "" for the picture itself."""
        return self.folder / PICTURES / f"{row['number']:05d}{method and '-'}{method}.jpg"


def _different(first: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    old, new = first.get("settings", {}), json.loads(json.dumps(settings))
    names = [name for name in new if old.get(name) != new[name]]
    return f" ({', '.join(names)})" if names else ""


def run(
    judge: Judge,
    samples: Sequence[Sample],
    rows: Rows,
    watch: Callable[[int, Sample], None] = lambda number, sample: None,
) -> list[tuple[str, str]]:
    """Judges the samples that have no row yet.

    Args:
        judge: what judges them.
        samples: all of the study.
        rows: where the rows go.
        watch: called before each sample with how many went before it.

    Returns:
        (name, reason) of those that could not be read or explained: they stop nothing.

    Raises:
        OutputError: a row cannot be written.
        Cancelled: from `watch`.
    """
    failed = []
    for number, sample in enumerate(samples):
        watch(number, sample)
        if sample.name in rows.rows:
            continue
        try:
            row, pictures = judge(sample)
        except (OutputError, Cancelled):
            raise
        except OnnxcamError as error:
            failed.append((sample.name, str(error)))
            continue
        rows.add(row, pictures)
    return failed


def columns(rows: Sequence[Mapping[str, Any]], method: str, metric: str) -> np.ndarray:
    """The values (N,) of a method in a metric; NaN where a picture has none.

    Of a metric with a threshold, at the one that is best for the method on these rows.
    """
    values = [row["methods"][method]["values"][metric] for row in rows]
    row = METRICS.get(metric)  # others' own metrics are numbers
    return resolved(values, row.limits if row else 0)


def settled(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows with a number or None for each value, thresholds chosen over all of them."""
    found = [deepcopy(dict(row)) for row in rows]
    for method, own in rows[0]["methods"].items() if rows else ():
        for metric in own["values"]:
            for row, value in zip(found, columns(rows, method, metric), strict=True):
                plain = None if np.isnan(value) else float(value)
                row["methods"][method]["values"][metric] = plain
    return found


def summary(
    rows: Sequence[Mapping[str, Any]], methods: Sequence[str], metrics: Sequence[str], seed: int
) -> list[dict[str, Any]]:
    """The mean of each method in each metric, with its interval."""
    found = []
    for metric in metrics:
        for method in methods:
            mean = mean_of(columns(rows, method, metric), seed)
            if mean is not None:
                found.append({"method": method, "metric": metric, **asdict(mean)})
    return found


def tests(
    rows: Sequence[Mapping[str, Any]], methods: Sequence[str], metrics: Sequence[str], seed: int
) -> list[dict[str, Any]]:
    """Every two methods compared in each metric, picture by picture."""
    found = []
    for metric in metrics:
        own = {method: columns(rows, method, metric) for method in methods}
        for a, b in combinations(methods, 2):
            pair = paired(own[a], own[b], METRICS[metric].better, seed)
            if pair is not None:
                found.append({"metric": metric, "a": a, "b": b, **asdict(pair)})
    return found


def curves(
    rows: Sequence[Mapping[str, Any]], methods: Sequence[str], seed: int
) -> Iterator[dict[str, Any]]:
    """The mean curves of each method, with intervals at every point."""
    if not rows:
        return
    for name in rows[0]["methods"][methods[0]]["curves"]:
        for method in methods:
            values = np.array([row["methods"][method]["curves"][name] for row in rows], np.float64)
            means = [mean_of(column, seed) for column in values.T]
            road = name.split("-")[0] in ("most", "least")
            at = np.array(ROAD_SHARES) if road else np.linspace(0, 1, len(means))
            kept = [(float(x), m) for x, m in zip(at, means, strict=True) if m is not None]
            yield {
                "method": method, "name": name, "x": [x for x, _ in kept],
                **{part: [getattr(m, part) for _, m in kept] for part in ("low", "high")},
                "y": [m.mean for _, m in kept],
            }  # fmt: skip
