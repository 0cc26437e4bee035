"""`onnxcam evaluate`: how faithful and how well placed maps are, measured on a data set."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxcam.cli import options, show
from onnxcam.cli.explain import headline
from onnxcam.cli.options import option
from onnxcam.cli.sanity import DRAWN, SANITY, randomised, readable
from onnxcam.errors import OptionError, PictureError

if TYPE_CHECKING:
    from onnxcam.api import Explainer
    from onnxcam.evaluate.judge import Judge
    from onnxcam.evaluate.metric import Metric
    from onnxcam.evaluate.results import Study
    from onnxcam.evaluate.samples import Sample
    from onnxcam.evaluate.study import Rows

DEFAULT = "ablation-cam,grad-cam,grad-cam++,layer-cam,eigen-cam"
NEEDS = {
    "object": "boxes or masks",
    "others": "pictures with boxes or masks of two classes of the model",
}
FOR_THE_PRESET, SHOWN = 16, 10
_DATA, _METHOD, _RESULT = "Data set", "Method", "Results"


class EvaluateCommand(options.MethodCommand):
    """A command whose `--sanity` may stand alone, before a path too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Gives a lone `--sanity` its value: what follows is a value only if it names one."""
        pairs = zip(args, [*args[1:], ""], strict=True)
        alone = {"--sanity": "--sanity=cascading"}
        args = [one if after in SANITY else alone.get(one, one) for one, after in pairs]
        return super().parse_args(ctx, args)


@click.command(cls=EvaluateCommand)
@click.argument("models", type=click.Path(), nargs=-1, required=True, metavar="MODEL…")
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
    "--sanity", type=click.Choice(list(SANITY)), section=_METHOD,
    help="Also randomise the model's layers and compare the maps: methods that do not notice are "
    "named (Adebayo et al. 2018). From the output on, one after the other (cascading, which "
    "--sanity alone means), or each by itself (independent).",
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
    "--label-offset", metavar="NUMBER", default="0", section=_DATA,
    help="Added to class indices of the data set: 1 for models with a background class; with "
    "several models one for all, or one each: 0,1.",
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
@option(
    "--parquet", is_flag=True, section=_RESULT,
    help="Also write results.parquet; needs pyarrow: pip install 'onnxcam[parquet]'.",
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
def evaluate(models: tuple[str, ...], dataset: str, **given: Any) -> None:
    """Measure how faithful explanations are.

    DATASET is a folder with a folder of pictures for each class, a folder of pictures, a .csv or
    .json list, or COCO or VOC annotations. Means come with 95 % bootstrap intervals, differences
    with a paired test; pictures that cannot be read are named at the end. Several models are
    compared, too, on the pictures that they classify correctly.

    \b
    Examples:
      onnxcam evaluate model.onnx photos/
      onnxcam evaluate model.onnx photos/ --methods grad-cam,rise --limit 100
      onnxcam evaluate model.onnx coco.json --pictures val/ --metrics energy
      onnxcam evaluate model.onnx other.onnx photos/ --methods ablation-cam
    """
    from onnxcam.evaluate.judge import Judge
    from onnxcam.evaluate.metrics import DEFAULTS, METRICS, metrics_named
    from onnxcam.evaluate.parquet import check_parquet
    from onnxcam.evaluate.results import Results, distinct
    from onnxcam.evaluate.study import Rows

    if given["metrics"] == "list":
        listed = [(m.name, m.better, m.title, m.source) for m in METRICS.values()]
        show.table(("metric", "better", "title", "source"), listed)
        return
    if given["parquet"]:
        check_parquet()
    methods = options.methods_named(given["methods"])
    own = options.of_methods(given, methods)
    names = [name.strip() for name in (given["metrics"] or ",".join(DEFAULTS)).split(",")]
    metrics = metrics_named([name for name in names if name])
    _no_pictures(models)
    studies: list[Study] = []
    offsets = _offsets(given["label_offset"], len(models))
    for model, name, offset in zip(models, distinct(models), offsets, strict=True):
        explainer = options.explainer_of(model, methods[0], given["layer"], own, given)
        judge = Judge(
            explainer, [m.name for m in methods], metrics, given["layer"], own,
            given["curve_steps"], given["batch"], given["study_seed"],
        )  # fmt: skip
        studies.append(_study(name, judge, dataset, offset, given, studies))
    for study in studies:  # a model may know none of the classes whose boxes there are
        others = [other.judge.metrics for other in studies]
        study.judge.metrics = [metric for metric in metrics if all(metric in o for o in others)]
    held = []
    to = Path(given["to"] or "evaluation")
    for study in studies:
        _settle_preset(study.judge.explainer, study.samples)
        folder = to / study.name.replace("/", "-") if len(studies) > 1 else to
        held.append((study, Rows(folder, study.settings(), given["force"])))
    if not given["quiet"] and not given["as_json"]:
        for study, rows in held:
            _headline(study, len(rows.rows))
    _run(held, given["quiet"])
    results = Results(held, {"limit": given["limit"]}, _command(), given["parquet"])
    document = results.write(to)
    if given["sanity"]:
        document["sanity"] = [
            check
            for study, rows in held
            for check in randomised(study, methods, own, given, rows.folder)
        ]
        results.write(to, document)
    if given["as_json"]:
        show.document(document)
    elif not given["quiet"]:
        _tell(document, to, given["parquet"])


def _no_pictures(models: Sequence[str]) -> None:
    """Refuses what a shell makes of a pattern that is not quoted."""
    from onnxcam.image.find import EXTENSIONS

    if found := [path for path in models if Path(path).suffix.lower() in EXTENSIONS]:
        raise OptionError(
            f"{found[0]} is a picture, and all but the last argument are models; quote a pattern "
            f"of pictures: '{Path(found[0]).parent / ('*' + Path(found[0]).suffix)}'"
        )


def _offsets(text: str, models: int) -> list[int]:
    """What is added to class indices, for each model."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        raise OptionError(f"--label-offset {text}: whole numbers are needed, as 1 or 0,1") from None
    if len(found) not in (1, models):
        raise OptionError(f"--label-offset {text}: {len(found)} numbers for {models} models")
    return found * models if len(found) == 1 else found


def _study(
    name: str, judge: Judge, dataset: str, offset: int, given: dict[str, Any],
    before: Sequence[Study],
) -> Study:  # fmt: skip
    """What is asked of a model: pictures, classes and metrics that the data set allows.

    The first model's choice of pictures is that of all.
    """
    from onnxcam.evaluate.results import Study
    from onnxcam.evaluate.samples import by_picture, data_set, limited

    explainer = judge.explainer
    pictures = Path(given["pictures"]) if given["pictures"] else None
    data = data_set(
        dataset, explainer.labels, explainer.classifier.classes, pictures=pictures,
        label_offset=offset, opposite=explainer.opposite,
    )  # fmt: skip
    placed = any(sample.has("object") for sample in data.samples)
    which = given["which"] or (before[0].which if before else "label" if placed else "predicted")
    if which == "label" and all(sample.label is None for sample in data.samples):
        raise OptionError(f"--explain label: {dataset} names no classes; leave the option out")
    judge.predicted = which == "predicted"
    samples = by_picture(data.samples) if judge.predicted else data.samples
    if before:
        chosen = {sample.name for sample in before[0].samples}
        samples = tuple(sample for sample in samples if sample.name in chosen)
    else:
        samples = limited(samples, given["limit"], given["study_seed"])
    judge.metrics = _measurable(judge.metrics, samples, dataset, given["metrics"])
    return Study(name, judge, data, samples, list(data.skipped))


def _measurable(
    metrics: Sequence[Metric], samples: Sequence[Sample], dataset: str, named: str | None
) -> list[Metric]:
    """The metrics that the samples allow.

    Raises:
        OptionError: one that the user named, not only with all others, is not among them.
    """
    asked = {name.strip() for name in (named or "").split(",")}
    kept = list(metrics)
    for need, what in NEEDS.items():
        if any(entry.has(need) for sample in samples for entry in sample.entries):
            continue
        homeless = [metric for metric in kept if metric.needs == need]
        if wanted := [m.name for m in homeless if asked & {m.name, m.group}]:
            raise OptionError(
                f"{', '.join(wanted)}: {what} are needed, and {dataset} has none of them"
            )
        kept = [metric for metric in kept if metric not in homeless]
    return kept


def _run(held: Sequence[tuple[Study, Rows]], quiet: bool) -> None:
    """Judges what has no row yet, one model after the other.

    Raises:
        PictureError: nothing could be judged.
    """
    from onnxcam.evaluate.study import run

    every = sum(len(study.samples) for study, _ in held)
    before = 0
    with show.Bar(every, quiet) as bar:
        for study, rows in held:
            known = sum(sample.name in rows.rows for sample in study.samples)
            bar.skip(before + known)
            on = f"{study.name}: " if len(held) > 1 else ""

            def watch(number: int, sample: Sample, first: int = before, on: str = on) -> None:
                bar.start(first + number, on + sample.name)

            study.failed += run(study.judge, study.samples, rows, watch)
            before += len(study.samples)
            if not rows.rows:
                name, reason = study.failed[0]
                raise PictureError(f"{on}no picture could be judged; {name}: {reason}")


def _settle_preset(explainer: Explainer, samples: Sequence[Sample]) -> None:
    """A preset that nothing states is guessed: by the labels, else as for any pictures."""
    from onnxcam.image import Picture
    from onnxcam.many import some_read

    if explainer.preset is not None:
        return
    labelled = {s.path: s for s in reversed(samples) if s.label is not None}
    first = [s for s in samples if labelled.get(s.path) is s]
    if found := list(islice(readable(explainer, first), FOR_THE_PRESET)):
        labels = [sample.label for sample, _ in found if sample.label is not None]
        explainer.preset_by_labels([picture for _, picture in found], labels)
        return
    opened = some_read((sample.path for sample in samples), explainer.max_pixels)
    if seen := [one for one in opened if isinstance(one, Picture)]:
        explainer.preset_for(seen)


def _command() -> str:
    return shlex.join(["onnxcam", *sys.argv[1:]])


def _headline(study: Study, known: int) -> None:
    from onnxcam.evaluate.markup import counted
    from onnxcam.evaluate.results import ASKED

    data, many = study.data, counted(len(study.samples), "picture")
    about = f"{data.source} ({data.kind}), {many}, {ASKED[study.which]} is explained"
    more = [("data", about), ("methods", ", ".join(study.titles.values()))]
    show.facts(headline(study.judge.explainer, more))
    if known:
        show.line(f"{known} of them were judged before and are not judged again")
    click.echo()


def _tell(document: Mapping[str, Any], folder: Path, parquet: bool) -> None:
    from onnxcam.evaluate.markup import counted

    models, several = document["models"], len(document["models"]) > 1
    for model in models:
        if several:
            show.line(model["name"])
        _means(document, model["name"])
        if model["right"] is not None:
            right = f"{model['right']} of {counted(model['labelled'], 'labelled picture')}"
            show.line(f"{right} classified right")
        click.echo()
    if several:
        _models_compared(document)
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
    checks = document.get("sanity", ())
    for check in checks:
        show.line(f"{check['model']}: {check['verdict']}" if several else check["verdict"])
    files = ["results.csv", *["results.parquet"] * parquet, "summary.json"]
    files += [] if several else dict.fromkeys(DRAWN[check["mode"]] for check in checks)
    show.line(f"-> {folder / 'report.html'}, {', '.join(files)}")


def _means(document: Mapping[str, Any], model: str) -> None:
    """The means of a model's methods in each metric."""
    methods = [method["name"] for method in document["methods"]]
    held = {(r["method"], r["metric"]): r for r in document["summary"] if r["model"] == model}
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


def _models_compared(document: Mapping[str, Any]) -> None:
    """Both means of every two models on the pictures that both classify right, and the verdicts."""
    methods = [method["name"] for method in document["methods"]]
    better = {metric["name"]: metric["better"] for metric in document["metrics"]}
    pairs: dict[tuple[str, str], dict[tuple[str, str], Mapping[str, Any]]] = {}
    for row in document["selection"]:
        pairs.setdefault((row["a"], row["b"]), {})[row["metric"], row["method"]] = row
    for (a, b), held in pairs.items():
        show.line(f"{a} / {b}")
        rows = []
        for metric, which in better.items():
            cells = [_both(held.get((metric, method)), which) for method in methods]
            if any(cell != "-" for cell in cells):
                rows.append((metric, which, *cells))
        show.table(("metric", "better", *methods), rows, " ".join(methods))
        click.echo()
    for verdict in document["verdicts"]:
        show.line(verdict["sentence"])
    click.echo()


def _both(row: Mapping[str, Any] | None, better: str) -> str:
    if row is None:
        return "-"
    a, b = row["mean_a"], row["mean_b"]
    best = (min if better == "less" else max)(a, b)
    return " / ".join(f"{mean:.4g}{'*' if mean == best else ' '}" for mean in (a, b))
