"""What a study comes to: settings, summary, tests and curves, as a document, a table and a page."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxcam import __version__
from onnxcam.evaluate.bands import bands
from onnxcam.evaluate.judge import Judge
from onnxcam.evaluate.report import page
from onnxcam.evaluate.samples import DataSet
from onnxcam.evaluate.study import Rows, curves, settled, summary, tests
from onnxcam.files import write_atomic
from onnxcam.methods import method_named

ASKED = {"predicted": "the model's best class is explained", "label": "the labelled class"}


@dataclass(eq=False)
class Results:
    """The results of a study.

    Attributes:
        judge: what judged.
        data: the data set.
        count: pictures that were asked for.
        which: "predicted" or "label".
        more: further settings, for the page.
        command: what repeats it.
    """

    judge: Judge
    data: DataSet
    count: int
    which: str
    more: Mapping[str, Any]
    command: str

    @property
    def explained(self) -> str:
        """In words, which class is explained."""
        return ASKED[self.which]

    @property
    def titles(self) -> dict[str, str]:
        """The titles of the methods, by name."""
        return {name: method_named(name).title for name in self.judge.methods}

    def settings(self) -> dict[str, Any]:
        """All that the numbers of a row depend on."""
        judge, explainer = self.judge, self.judge.explainer
        path, preset = explainer.path, explainer.preset
        recipe = explainer.recipe
        return {
            "onnxcam": __version__,
            "model": explainer.classifier.name,
            "sha256": None if path is None else _digest(path),
            "preset": None if preset is None else preset.to_json(),
            "explain": self.which,
            "methods": list(judge.methods),
            "options": judge.options,
            "layer": judge.layer,
            "score": recipe.score,
            "smooth": explainer.smooth,
            "metrics": [metric.name for metric in judge.metrics],
            "steps": judge.steps,
            "seed": judge.seed,
        }

    def document(self, rows: Rows, failed: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Everything but the rows, as `report.page` and summary.json have it."""
        judge, seed = self.judge, self.judge.seed
        held = settled(list(rows.rows.values()))
        names = [metric.name for metric in judge.metrics]
        model = judge.explainer.classifier.name
        own = {"model": model}
        return {
            "onnxcam": __version__,
            "made": time.strftime("%Y-%m-%dT%H:%M:%S"),
            "command": self.command,
            "models": [self._model()],
            "data": {
                "source": self.data.source,
                "kind": self.data.kind,
                "pictures": len(held),
                "with_boxes": sum(bool(s.boxes or s.mask) for s in self.data.samples),
                "explained": self.explained,
            },
            "settings": {**self.settings(), **self.more},
            "metrics": [
                {n: getattr(m, n) for n in
                 ("name", "title", "group", "better", "unit", "formula", "source")}
                for m in judge.metrics
            ],
            "methods": [{"name": name, "title": title} for name, title in self.titles.items()],
            "summary": [own | row for row in summary(held, judge.methods, names, seed)],
            "tests": [own | row for row in tests(held, judge.methods, names, seed)],
            "bands": [own | band for band in bands(held, judge.methods, names, seed)],
            "curves": [own | row for row in curves(held, judge.methods, seed)],
            "failures": [{"picture": name, "reason": reason} for name, reason in failed],
            "cost": self._cost(),
        }  # fmt: skip

    def _model(self) -> dict[str, Any]:
        explainer = self.judge.explainer
        layer, preset = explainer.recipe.layer, explainer.preset
        return {
            "name": explainer.classifier.name,
            "file": str(explainer.path or ""),
            "layer": "" if layer is None else layer.tensor,
            "classes": explainer.classifier.classes,
            "preset": "" if preset is None else preset.name,
        }

    def _cost(self) -> dict[str, Any]:
        """Inferences and seconds, and their rate over that of the plain model in the same run.

        No rate where most inferences were explanations: methods share theirs.
        """
        cost = self.judge.cost
        rate = cost.inferences / cost.whole if cost.whole else 0.0
        plain = cost.judged / cost.model if cost.model else 0.0
        return {
            "inferences": cost.inferences,
            "seconds": cost.whole,
            "throughput": rate / plain if 2 * cost.judged > cost.inferences else None,
        }

    def write(self, rows: Rows, failed: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Writes summary.json, results.csv and report.html into the folder of the rows.

        Returns:
            The document of summary.json.

        Raises:
            OutputError: the system refuses.
        """
        found = self.document(rows, failed)
        text = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
        write_atomic(rows.folder / "summary.json", text.encode(), force=True)
        long = self._long(rows)
        write_atomic(rows.folder / "results.csv", self._csv(long), force=True)
        by_name = rows.rows

        def picture(name: str, method: str) -> bytes | None:
            path = rows.picture(by_name[name], method)
            return path.read_bytes() if path.is_file() else None

        html = page({**found, **found["cost"], "rows": long}, picture)
        write_atomic(rows.folder / "report.html", html.encode(), force=True)
        return found

    def _long(self, rows: Rows) -> list[dict[str, Any]]:
        """A row for each picture and method."""
        shared = ("picture", "target", "target_name", "predicted_name", "probability")
        return [
            {
                "model": self.judge.explainer.classifier.name,
                "method": method,
                **{name: row[name] for name in shared},
                "values": own["values"],
            }
            for row in settled(list(rows.rows.values()))
            for method, own in row["methods"].items()
        ]

    def _csv(self, rows: Sequence[Mapping[str, Any]]) -> bytes:
        stream = io.StringIO(newline="")
        names = [metric.name for metric in self.judge.metrics]
        writer = csv.writer(stream, lineterminator="\n")
        head = ["picture", "method", "target", "target_name", "predicted_name", "probability"]
        writer.writerow([*head, *names])
        for row in rows:
            writer.writerow([row[n] for n in head] + [row["values"][n] for n in names])
        return stream.getvalue().encode()


def _digest(path: Path) -> str:
    with path.open("rb") as stream:  # in parts: the file may be large
        return hashlib.file_digest(stream, "sha256").hexdigest()
