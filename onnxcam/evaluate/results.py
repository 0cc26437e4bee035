"""What a study comes to: settings, summary, tests and curves, as a document, a table and a page."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from onnxcam import __version__
from onnxcam.errors import OptionError
from onnxcam.evaluate.bands import bands
from onnxcam.evaluate.judge import Judge
from onnxcam.evaluate.parquet import as_parquet
from onnxcam.evaluate.report import page
from onnxcam.evaluate.samples import DataSet, Sample
from onnxcam.evaluate.selection import compared, verdicts
from onnxcam.evaluate.study import Rows, curves, settled, summary, tests
from onnxcam.files import write_atomic
from onnxcam.methods import method_named

ASKED = {"predicted": "the model's best class", "label": "the labelled class"}
COLUMNS: dict[str, type] = {
    **dict.fromkeys(("model", "picture", "method"), str),
    "target": int,
    **dict.fromkeys(("target_name", "predicted_name"), str),
    "probability": float,
    "right": bool,
}
"""Of results.csv and results.parquet, before those of the metrics."""


@dataclass(eq=False)
class Study:
    """One model on a data set.

    Attributes:
        name: of the model, unlike those of the others.
        judge: what judges.
        data: the data set, with the model's classes.
        samples: of it, those that are asked for.
        failed: name and reason of those that could not be judged.
    """

    name: str
    judge: Judge
    data: DataSet
    samples: Sequence[Sample]
    failed: list[tuple[str, str]] = field(default_factory=list)

    @property
    def which(self) -> str:
        """Which class is explained."""
        return "predicted" if self.judge.predicted else "label"

    @property
    def titles(self) -> dict[str, str]:
        """The titles of the methods, by name."""
        return {name: method_named(name).title for name in self.judge.methods}

    @cached_property
    def _digest(self) -> str | None:
        """Of the model's file, read once: it may be large."""
        path = self.judge.explainer.path
        if path is None:
            return None
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def settings(self) -> dict[str, Any]:
        """All that the numbers of a row depend on."""
        judge, explainer = self.judge, self.judge.explainer
        preset = explainer.preset
        return {
            "onnxcam": __version__,
            "model": explainer.classifier.name,
            "sha256": self._digest,
            "preset": None if preset is None else preset.to_json(),
            "explain": self.which,
            "methods": list(judge.methods),
            "options": judge.options,
            "layer": judge.layer,
            "score": explainer.recipe.score,
            "smooth": explainer.smooth,
            "metrics": [metric.name for metric in judge.metrics],
            "steps": judge.steps,
            "seed": judge.seed,
        }

    def facts(self, rows: Rows) -> dict[str, Any]:
        """The model, as the report shows it."""
        explainer = self.judge.explainer
        layer, preset = explainer.recipe.layer, explainer.preset
        right = [row["right"] for row in rows.rows.values() if row["right"] is not None]
        return {
            "name": self.name,
            "file": str(explainer.path or ""),
            "layer": "" if layer is None else layer.tensor,
            "classes": explainer.classifier.classes,
            "preset": "" if preset is None else preset.name,
            "right": sum(right) if right else None,
            "labelled": len(right),
        }


@dataclass(eq=False)
class Results:
    """The results of studies of one or several models with the same methods and metrics.

    Attributes:
        studies: of each model, with its rows.
        more: further settings, for the page.
        command: what repeats it.
        parquet: whether results.parquet is written beside results.csv.
    """

    studies: Sequence[tuple[Study, Rows]]
    more: Mapping[str, Any]
    command: str
    parquet: bool = False

    def document(self) -> dict[str, Any]:
        """Everything but the rows, as `report.page` and summary.json have it."""
        first = self.studies[0][0]
        methods, metrics, seed = first.judge.methods, first.judge.metrics, first.judge.seed
        names = [metric.name for metric in metrics]
        tables = {study.name: list(rows.rows.values()) for study, rows in self.studies}
        found: dict[str, list[Any]] = {"summary": [], "tests": [], "bands": [], "curves": []}
        for model, every in tables.items():
            own, held = {"model": model}, settled(every)
            found["summary"] += [own | row for row in summary(held, methods, names, seed)]
            found["tests"] += [own | row for row in tests(held, methods, names, seed)]
            found["bands"] += [own | band for band in bands(held, methods, names, seed)]
            found["curves"] += [own | row for row in curves(held, methods, seed)]
        settings: dict[str, Any] = {study.name: study.settings() for study, _ in self.studies}
        selection = compared(tables, methods, names, seed)
        return {
            "onnxcam": __version__,
            "made": time.strftime("%Y-%m-%dT%H:%M:%S"),
            "command": self.command,
            "models": [study.facts(rows) for study, rows in self.studies],
            "data": {
                "source": first.data.source,
                "kind": first.data.kind,
                "pictures": len({row["picture"] for held in tables.values() for row in held}),
                "with_boxes": sum(sample.has("object") for sample in first.samples),
                "explained": ASKED[first.which],
            },
            "settings": {**(settings if len(settings) > 1 else settings[first.name]), **self.more},
            "metrics": [
                {n: getattr(m, n) for n in
                 ("name", "title", "group", "better", "unit", "formula", "source")}
                for m in metrics
            ],
            "methods": [{"name": name, "title": title} for name, title in first.titles.items()],
            **found,
            "selection": selection,
            "verdicts": verdicts(selection),
            "failures": self._failures(),
            "cost": self._cost(),
        }  # fmt: skip

    def _failures(self) -> list[dict[str, str]]:
        """What failed; with several models, of which, unless it did alike with all."""
        by: dict[tuple[str, str], list[str]] = {}
        for study, _ in self.studies:
            for one in dict.fromkeys(study.failed):
                by.setdefault(one, []).append(study.name)
        return [
            {"picture": name, "reason": why if len(models) == len(self.studies)
             else f"{', '.join(models)}: {why}"}
            for (name, why), models in by.items()
        ]  # fmt: skip

    def _cost(self) -> dict[str, Any]:
        """Inferences and seconds, and their rate over that of the plain model in the same run.

        No rate where most inferences were explanations: methods share theirs.
        """
        costs = [study.judge.cost for study, _ in self.studies]
        inferences, judged = (sum(getattr(c, n) for c in costs) for n in ("inferences", "judged"))
        whole = sum(cost.whole for cost in costs)
        plain = sum(c.model * c.inferences / c.judged for c in costs if c.judged)
        return {
            "inferences": inferences,
            "seconds": whole,
            "throughput": plain / whole if whole and 2 * judged > inferences else None,
        }

    def write(self, folder: Path, found: dict[str, Any] | None = None) -> dict[str, Any]:
        """Writes summary.json, results.csv and report.html into a folder.

        And results.parquet, where it is asked for.

        Args:
            folder: which exists.
            found: the document of an earlier call with something added, such as "sanity" (facts
                of sanity checks); made anew if it is left out.

        Returns:
            The document of summary.json.

        Raises:
            OutputError: the system refuses.
            OptionError: results.parquet is asked for, and pyarrow is not installed.
        """
        if found is None:
            found = self.document()
        text = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
        write_atomic(folder / "summary.json", text.encode(), force=True)
        long = self._long()
        columns = COLUMNS | {metric.name: float for metric in self.studies[0][0].judge.metrics}
        flat = [row | row["values"] for row in long]
        write_atomic(folder / "results.csv", _csv(flat, columns), force=True)
        if self.parquet:
            table = as_parquet(flat, columns)
            write_atomic(folder / "results.parquet", table, force=True)
        html = page({**found, **found["cost"], "rows": long}, self._picture)
        write_atomic(folder / "report.html", html.encode(), force=True)
        return found

    def _picture(self, name: str, overlay: str) -> bytes | None:
        """The JPEG of a picture for `report.page`; an overlay is a model's number and a method."""
        number, _, method = overlay.partition("/")
        for _, rows in [self.studies[int(number)]] if overlay else self.studies:
            if name in rows.rows:
                path = rows.picture(rows.rows[name], method)
                return path.read_bytes() if path.is_file() else None
        return None

    def _long(self) -> list[dict[str, Any]]:
        """A row for each model, picture and method."""
        return [
            {
                "model": study.name,
                "method": method,
                **{name: row[name] for name in COLUMNS if name in row},
                "values": own["values"],
                "overlay": f"{number}/{method}",
            }
            for number, (study, rows) in enumerate(self.studies)
            for row in settled(list(rows.rows.values()))
            for method, own in row["methods"].items()
        ]


def _csv(rows: Sequence[Mapping[str, Any]], columns: Iterable[str]) -> bytes:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(columns), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


def distinct(paths: Sequence[str]) -> list[str]:
    """A name for each of several model files: its own, with as many folders as tell all apart.

    Raises:
        OptionError: a file is named twice.
    """
    parts = [Path(os.path.abspath(path)).parts for path in paths]
    if len(set(parts)) < len(parts):
        twice = next(path for i, path in enumerate(paths) if parts.index(parts[i]) < i)
        raise OptionError(f"{twice} is named twice; name each model once")
    names = [part[-1] for part in parts]
    depth = 1
    while len(set(names)) < len(names):
        depth += 1
        names = ["/".join(part[-depth:]) for part in parts]
    return names
