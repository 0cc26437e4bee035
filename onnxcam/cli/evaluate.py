"""`onnxcam evaluate`: how faithful and how well placed maps are, measured on a data set."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxcam.cli import options, show
from onnxcam.cli.explain import headline
from onnxcam.cli.options import option
from onnxcam.errors import OptionError, PictureError

if TYPE_CHECKING:
    from onnxcam.api import Explainer
    from onnxcam.evaluate.samples import DataSet, Sample
    from onnxcam.image import Picture
    from onnxcam.methods import Method

DEFAULT = "ablation-cam,grad-cam,grad-cam++,layer-cam,eigen-cam"
NEEDS = {
    "object": "boxes or masks",
    "others": "pictures with boxes or masks of two classes of the model",
}
SANITY_PICTURES, FOR_THE_PRESET, SHOWN = 8, 16, 10
_DATA, _METHOD, _RESULT = "Data set", "Method", "Results"


@click.command(cls=options.MethodCommand)
@click.argument("model", type=click.Path())
@click.argument("dataset", type=click.Path())
@option(
    *("--methods", "-m"), metavar="NAME,NAME,…", default=DEFAULT, section=_METHOD,
    help="Methods to compare ('onnxcam methods' lists them) [default: "
    f"{DEFAULT.replace(',', ', ')}].",
)  # fmt: skip
@option(
    "--metrics", metavar="NAME,NAME,…", section=_METHOD,
    help="Metrics or kinds of them, such as drop,insertion,road, or all that the data set allows; "
    "'list' prints them [default: the papers' Average Drop and % Increase, insertion, deletion, "
    "sparseness, and with boxes or masks the pointing games, IoU, MaxBoxAcc and class "
    "discrimination].",
)  # fmt: skip
@option(
    "--explain", "which", type=click.Choice(["predicted", "label"]), section=_METHOD,
    help="The class that is explained: the model's best, or the one of the data set [default: "
    "label where there are boxes or masks].",
)  # fmt: skip
@option(
    "--sanity", is_flag=True, section=_METHOD,
    help="Also randomise the model's layers from the output on and compare the maps: methods that "
    "do not notice are named (Adebayo et al. 2018).",
)  # fmt: skip
@options.how_options
@option(
    "--curve-steps", type=click.IntRange(2, 1000), metavar="NUMBER", default=32, show_default=True,
    section=_METHOD, help="Of insertion and deletion curves.",
)  # fmt: skip
@option(
    "--pictures", "-p", type=click.Path(), metavar="DIR", section=_DATA,
    help="Where the pictures of a list or of annotations are [default: beside it].",
)  # fmt: skip
@option(
    "--label-offset", type=int, metavar="NUMBER", default=0, section=_DATA,
    help="Added to class indices of the data set: 1 for models with a background class.",
)  # fmt: skip
@option(
    "--limit", type=click.IntRange(min=1), metavar="NUMBER", section=_DATA,
    help="Only so many pictures, drawn by --study-seed, of all classes alike.",
)  # fmt: skip
@option("--study-seed", type=int, metavar="NUMBER", default=0, show_default=True, section=_DATA,
        help="Of all that is drawn.")  # fmt: skip
@option(
    *("--to", "-o"), type=click.Path(), metavar="DIR", section=_RESULT,
    help="A folder for report.html, results.csv, summary.json and the rows, which a run that was "
    "stopped goes on from [default: evaluation].",
)  # fmt: skip
@option(*("--json", "as_json"), is_flag=True, section=_RESULT, help="Print the summary as JSON.")
@option("--force", is_flag=True, section=_RESULT,
        help="Begin anew where the folder has results of other settings.")  # fmt: skip
@option(*("--quiet", "-q"), is_flag=True, section=_RESULT, help="Print errors only.")
@options.running_options
@option(
    "--batch", type=click.IntRange(min=1), metavar="NUMBER", default=16, show_default=True,
    section="Running", help="Altered pictures that go through the model at once.",
)  # fmt: skip
@options.layer_option
@options.labels_option
@options.model_options
@options.preset_options
def evaluate(model: str, dataset: str, **given: Any) -> None:
    """Measure how faithful explanations are.

    DATASET is a folder with a folder of pictures for each class, a folder of pictures, a .csv or
    .json list, or COCO or VOC annotations. Means come with 95 % bootstrap intervals, differences
    with a paired test; pictures that cannot be read are named at the end.

    \b
    Examples:
      onnxcam evaluate model.onnx photos/
      onnxcam evaluate model.onnx photos/ --methods grad-cam,rise --limit 100
      onnxcam evaluate model.onnx coco.json --pictures val/ --metrics energy
      onnxcam evaluate model.onnx list.csv --metrics road,insertion
    """
    from onnxcam.evaluate.judge import Judge
    from onnxcam.evaluate.metrics import DEFAULTS, METRICS, metrics_named
    from onnxcam.evaluate.results import Results
    from onnxcam.evaluate.samples import data_set, limited
    from onnxcam.evaluate.study import Rows, run

    if given["metrics"] == "list":
        listed = [(m.name, m.better, m.title, m.source) for m in METRICS.values()]
        show.table(("metric", "better", "title", "source"), listed)
        return
    methods = options.methods_named(given["methods"])
    own = options.of_methods(given, methods)
    names = [name.strip() for name in (given["metrics"] or ",".join(DEFAULTS)).split(",")]
    metrics = metrics_named([name for name in names if name])
    explainer = options.explainer_of(model, methods[0], given["layer"], own, given)
    pictures = Path(given["pictures"]) if given["pictures"] else None
    data = data_set(
        dataset, explainer.labels, explainer.classifier.classes, pictures=pictures,
        label_offset=given["label_offset"],
    )  # fmt: skip
    samples = limited(data.samples, given["limit"], given["study_seed"])
    placed = any(sample.has("object") for sample in samples)
    asked_for = {name for name in names if name != "all"} if given["metrics"] else set()
    for need, what in NEEDS.items():
        if not any(sample.has(need) for sample in samples):
            homeless = [metric for metric in metrics if metric.needs == need]
            if named := [m.name for m in homeless if asked_for & {m.name, m.group}]:
                raise OptionError(
                    f"{', '.join(named)}: {what} are needed, and {dataset} has none of them"
                )
            metrics = [metric for metric in metrics if metric not in homeless]
    which = given["which"] or ("label" if placed else "predicted")
    if which == "label" and all(sample.label is None for sample in samples):
        raise OptionError(f"--explain label: {dataset} names no classes; leave the option out")
    judge = Judge(
        explainer, [m.name for m in methods], metrics, given["layer"], own,
        given["curve_steps"], given["batch"], given["study_seed"],
    )  # fmt: skip
    asked = _asked(samples, which)
    _settle_preset(explainer, samples)
    results = Results(judge, data, len(asked), which, {"limit": given["limit"]}, _command())
    rows = Rows(Path(given["to"] or "evaluation"), results.settings(), given["force"])
    if not given["quiet"] and not given["as_json"]:
        _headline(explainer, data, asked, results, len(rows.rows))
    known = sum(sample.name in rows.rows for sample in asked)
    with show.Bar(len(asked), given["quiet"]) as bar:
        bar.skip(known)
        failed = run(judge, asked, rows, lambda number, sample: bar.start(number, sample.name))
    failed = [*data.skipped, *failed]
    if not rows.rows:
        name, reason = failed[0]
        raise PictureError(f"no picture could be judged; {name}: {reason}")
    document = results.write(rows, failed)
    if given["sanity"]:
        document["sanity"] = _sanity(explainer, methods, own, given, asked, rows.folder)
    if given["as_json"]:
        show.document(document)
    elif not given["quiet"]:
        _tell(document, rows.folder)


def _sanity(
    explainer: Explainer, methods: Sequence[Method], own: dict[str, Any], given: dict[str, Any],
    samples: Sequence[Sample], folder: Path,
) -> list[dict[str, Any]]:  # fmt: skip
    """The checks of all methods on the first pictures; written as sanity.json and sanity.svg."""
    import json
    from dataclasses import replace

    import numpy as np

    from onnxcam.evaluate.sanity import sanity
    from onnxcam.evaluate.sanity_plot import plot
    from onnxcam.files import write_atomic

    seen = [one for _, one in islice(_opened(explainer, samples), SANITY_PICTURES)]
    if not seen:
        return []
    tensors = [explainer.preset_for([one])[0].tensor(one) for one in seen]
    if explainer.classifier.image.free:
        tensors = [one for one in tensors if one.shape == tensors[0].shape]
    source = explainer.path or explainer.classifier
    found = []
    with show.Bar(len(methods), given["quiet"], "map") as bar:
        for number, row in enumerate(methods):
            bar.start(number, f"randomised weights, {row.name}")

            def made(model: Any, layer: Any, row: Method = row) -> Explainer:
                return options.explainer_of(model, row, layer, own, {**given, "no_cache": True})

            check = sanity(
                made, source, np.concatenate(tensors), layer=given["layer"],
                seed=given["study_seed"], progress=bar,
            )  # fmt: skip
            found.append(replace(check, model=explainer.classifier.name))
    facts = [check.facts() for check in found]
    write_atomic(folder / "sanity.json", (json.dumps(facts, indent=2) + "\n").encode(), force=True)
    write_atomic(folder / "sanity.svg", plot(found).encode(), force=True)
    return facts


def _asked(samples: Sequence[Sample], which: str) -> list[Sample]:
    """The samples with the class that is explained; of several entries of a picture one is enough
    where the model's best class is."""
    from dataclasses import replace

    if which == "label":
        return list(samples)
    first = {sample.path: sample for sample in reversed(samples)}
    bare: dict[str, Any] = {"label": None, "mask": None}
    bare |= dict.fromkeys(("boxes", "others", "other_masks"), ())
    return [replace(sample, **bare) for sample in samples if first[sample.path] is sample]


def _settle_preset(explainer: Explainer, samples: Sequence[Sample]) -> None:
    """A preset that nothing states is guessed: by the labels, else as for any pictures."""
    from onnxcam.image import Picture
    from onnxcam.many import some_read

    if explainer.preset is not None:
        return
    labelled = {s.path: s for s in reversed(samples) if s.label is not None}
    first = [s for s in samples if labelled.get(s.path) is s]
    if found := list(islice(_opened(explainer, first), FOR_THE_PRESET)):
        labels = [sample.label for sample, _ in found if sample.label is not None]
        explainer.preset_by_labels([picture for _, picture in found], labels)
        return
    opened = some_read((sample.path for sample in samples), explainer.max_pixels)
    if seen := [one for one in opened if isinstance(one, Picture)]:
        explainer.preset_for(seen)


def _opened(explainer: Explainer, samples: Iterable[Sample]) -> Iterator[tuple[Sample, Picture]]:
    """The samples whose pictures can be read, with these."""
    from onnxcam.image import Picture
    from onnxcam.many import read, tried

    for sample in samples:
        picture = tried(lambda path: read(path, explainer.max_pixels), sample.path)
        if isinstance(picture, Picture):
            yield sample, picture


def _command() -> str:
    return shlex.join(["onnxcam", *sys.argv[1:]])


def _headline(
    explainer: Explainer, data: DataSet, samples: Sequence[Sample], results: Any, known: int
) -> None:
    many = f"{len(samples)} picture{'s' if len(samples) != 1 else ''}"
    about = f"{data.source} ({data.kind}), {many}, {results.explained}"
    more = [("data", about), ("methods", ", ".join(results.titles.values()))]
    show.facts(headline(explainer, more))
    if known:
        show.line(f"{known} of them were judged before and are not judged again")
    click.echo()


def _tell(document: Mapping[str, Any], folder: Path) -> None:
    methods = [method["name"] for method in document["methods"]]
    held = {(row["method"], row["metric"]): row for row in document["summary"]}
    rows = []
    for metric in document["metrics"]:
        means = [held.get((method, metric["name"])) for method in methods]
        known = [row["mean"] for row in means if row]
        if not known:
            continue
        best = (min if metric["better"] == "less" else max)(known)
        cells = [
            f"{row['mean']:.4g}{'*' if row['mean'] == best else ' '}" if row else "-"
            for row in means
        ]
        rows.append((metric["name"], metric["better"], *cells))
    show.table(("metric", "better", *methods), rows, " ".join(methods))
    click.echo()
    show.line("* the best mean; intervals and paired tests are in the report")
    failures = document["failures"]
    for failure in failures[:SHOWN]:
        show.line(f"left out: {failure['picture']}: {failure['reason']}")
    if len(failures) > SHOWN:
        show.line(f"left out, too: {len(failures) - SHOWN} more, named in the report")
    cost = document["cost"]
    if cost["inferences"]:
        rate = cost["throughput"]
        share = "" if rate is None else f", {rate:.2f} of the throughput of plain inference"
        show.line(f"{cost['inferences']} inferences in {cost['seconds']:.1f} s{share}")
    for check in document.get("sanity", ()):
        show.line(check["verdict"])
    drawn = ", sanity.svg" if document.get("sanity") else ""
    show.line(f"-> {folder / 'report.html'}, results.csv, summary.json{drawn}")
