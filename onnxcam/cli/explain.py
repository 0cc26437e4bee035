"""`onnxcam explain`: heat maps for pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxcam.cli import names, options, show
from onnxcam.cli.methods import counted
from onnxcam.cli.options import option
from onnxcam.errors import OnnxcamError, PictureError, PresetError, RuntimeFailure
from onnxcam.files import make_folder

if TYPE_CHECKING:
    from onnxcam.api import Explainer
    from onnxcam.explanation import PictureExplanation

_METHOD, _RESULT = "Method", "Results"


@click.command(cls=options.MethodCommand)
@click.argument("model", type=click.Path())
@click.argument("pictures", nargs=-1, required=True, type=click.Path())
@option(
    *("--method", "-m"),
    metavar="NAME",
    default="ablation-cam",
    show_default=True,
    section=_METHOD,
    help="How to explain ('onnxcam methods' lists them).",
)
@options.question_options
@option(
    *("--to", "-o"),
    metavar="PATH",
    section=_RESULT,
    help="A folder, or for one picture a file: .png .jpg .webp, or .npz .npy .json for data alone "
    "[default: <picture>.<method>.png in the current folder].",
)
@option(
    "--kind",
    type=click.Choice(["figure", "overlay", "none"]),
    default="figure",
    show_default=True,
    section=_RESULT,
    help="Picture, heat map and overlay side by side; the overlay alone; or no picture.",
)
@options.drawing_options
@option(
    "--raw",
    type=click.Choice(["npz", "npy"]),
    section=_RESULT,
    help="Also write the raw map: .npz with scores and weights, .npy the map alone.",
)
@option(
    *("--json", "as_json"),
    is_flag=True,
    section=_RESULT,
    help="Print the facts as JSON, and nothing else.",
)
@option("--force", is_flag=True, section=_RESULT, help="Replace files that exist.")
@option(*("--quiet", "-q"), is_flag=True, section=_RESULT, help="Print errors only.")
@options.running_options
@options.layer_option
@options.labels_option
@options.model_options
@options.preset_options
@click.pass_context
def explain(ctx: click.Context, /, model: str, pictures: tuple[str, ...], **given: Any) -> None:
    """Draw what a classifier looked at.

    PICTURES are files, folders or patterns such as 'photos/**/*.jpg'.

    \b
    Examples:
      onnxcam explain model.onnx dog.jpg
      onnxcam explain model.onnx dog.jpg --target "golden retriever" --target 281
      onnxcam explain model.onnx photos/ --target top5 --to heat/
      onnxcam explain model.onnx dog.jpg --layer -2 --kind overlay -o heat.jpg
      onnxcam explain model.onnx dog.jpg --preset imagenet --channel-order BGR
      onnxcam explain model.onnx dog.jpg --json --kind none
    """  # fmt: skip
    import numpy as np

    from onnxcam.api import Explainer
    from onnxcam.image import colour, find_pictures
    from onnxcam.methods import method_named

    own = options.of_methods(given, [method_named(given["method"])])
    paths = find_pictures(pictures)
    explainer = Explainer(
        model, given["method"], given["layer"], **options.asking(given), **options.loading(given),
        **options.picturing(given), **own,
    )  # fmt: skip
    if given["colormap"]:
        colour(np.zeros((1, 1)), given["colormap"])  # a wrong name is said before the work
    method = explainer.recipe.method.name
    paths, left_out = _without_results(paths)
    target = target_of(given["target"], explainer)
    places = names.places(paths, given["to"], method, given["kind"], given["raw"])
    if not isinstance(target, str):  # the files of the best five are known when they are
        slugs = _slugs(explainer, target) or ["top1"]
        files = [file for place in places for file in place.files(slugs)]
        names.check(files, [Path(model), *paths], given["force"])
    names.check_folder(Path(places[0].base).parent)
    job = _Job(explainer, target, given, [Path(model), *paths])
    with show.Bar(len(paths), given["quiet"], counted(explainer.recipe.needed)) as bar:
        job.run(paths, places, bar, left_out)
    if given["as_json"]:
        show.document(job.facts)
    if job.failed:
        for path, error in job.failed:
            click.echo(show.clean(f"Error: {_told(path, error)}"), err=True)
        if len(paths) > 1:
            click.echo(f"{len(job.failed)} of {len(paths)} pictures failed", err=True)
        ctx.exit(1)


class _Job:
    """All pictures of one call, one after the other."""

    def __init__(
        self, explainer: Explainer, target: str | dict[int, str], given: dict[str, Any],
        read: list[Path],
    ) -> None:  # fmt: skip
        self.explainer, self.target, self.given, self.read = explainer, target, given, read
        self.facts: list[dict[str, Any]] = []
        self.failed: list[tuple[Path, Exception]] = []
        self._silent = given["quiet"] or given["as_json"]
        self._noted: set[str] = set()

    def run(
        self,
        paths: Sequence[Path],
        places: Sequence[names.Place],
        bar: show.Bar,
        left_out: int,
    ) -> None:
        """Explains the pictures; those that cannot be read or run are kept for the end."""
        from onnxcam.image import Picture
        from onnxcam.many import some_read

        explainer = self.explainer
        if explainer.preset is None:
            read = some_read(paths, explainer.max_pixels)
            if seen := [one for one in read if isinstance(one, Picture)]:
                explainer.preset_for(seen)
        self._headline(left_out)
        asked = [self.target] if isinstance(self.target, str) else list(self.target.values())
        target = asked if len(asked) > 1 else next(iter(asked), None)
        # One by one: on the CPU larger batches gain little, and results come as they are made.
        items = explainer.explain_many(paths, target, bar, batch=1)
        for number, (path, place) in enumerate(zip(paths, places, strict=True)):
            bar.start(number, path.name)
            try:
                found = next(items)
                if isinstance(found, OnnxcamError):
                    raise found
                written = self._write(found, place)
            except (PictureError, PresetError, RuntimeFailure) as error:
                self.failed.append((path, error))
                self.facts.append({"file": str(path), "error": _told(path, error)})
                continue
            bar.clear()
            self._tell(path, found, written)

    def _headline(self, left_out: int) -> None:
        if self._silent:
            return
        explainer = self.explainer
        layer, more = explainer.recipe.layer, list[tuple[str, str]]()
        if layer is not None:
            height, width = layer.grid
            more.append(("layer", f"{layer.tensor}, {layer.units} units on {height}×{width}"))
        own = [f"{key} {value}" for key, value in explainer.recipe.settings]
        said = [explainer.recipe.method.title, *question(explainer), *own]
        more.append(("method", ", ".join(said)))
        rows = headline(explainer, more)
        if left_out:
            rows.append(("note", f"heat maps of earlier runs left out: {left_out}"))
        show.facts(rows)
        click.echo()

    def _write(self, found: PictureExplanation, place: names.Place) -> list[str]:
        given = self.given
        classes = found.target.reshape(-1).tolist()
        slugs = names.slugs(
            found.labels, classes, found.negated.reshape(-1).tolist(), found.opposite
        )
        files = place.files(slugs)
        names.check(files, self.read, given["force"])
        for file in files:
            make_folder(file.parent)
        for index, file in enumerate(files):
            if place.picture is None or index == len(classes):  # the arrays, of all classes
                found.save(file, given["force"])
            else:
                how = {key: given[key] for key in ("kind", "colormap", "alpha")}
                found.save(file, given["force"], index=index, **how)
        return [str(file) for file in files]

    def _tell(self, path: Path, found: PictureExplanation, written: list[str]) -> None:
        self.facts.append({"file": str(path), "written": written, **found.facts()})
        if self._silent:
            return
        targets = found.facts()["targets"]
        for number, target in enumerate(targets):
            which = show.label(target["label"], target["index"], target["negated"])
            own = written[number:] if number == len(targets) - 1 else written[number : number + 1]
            if len(written) < len(targets):  # data alone: one file for all
                own = written if number == 0 else []
            arrow = f" -> {', '.join(own)}" if own else ""
            show.line(f"{path}: {which}, {found.score} {target['score']:.4g}{arrow}")
        for note in found.notes:
            if note not in self._noted:
                self._noted.add(note)
                show.line(f"note: {note}")


def headline(explainer: Explainer, more: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """How the explanations are made: names and values for `show.facts`, `more` among them."""
    classifier, reason = explainer.classifier, explainer.preset_reason
    many = classifier.classes
    return [
        ("model", f"{classifier.name}, {many} class{'es' if many != 1 else ''}"),
        *more,
        ("provider", explainer.device.provider),
        *([("preset", reason.removeprefix("preset "))] if reason else []),
    ]


def question(explainer: Explainer) -> list[str]:
    """What is asked of any method: which score, and how it is smoothed."""
    smooth = explainer.smooth
    return [f"score {explainer.recipe.score}", *([f"smooth {smooth}"] if smooth != "none" else [])]


def target_of(texts: Sequence[str], explainer: Explainer) -> str | dict[int, str]:
    """What is asked about, by code, in the order given; or "topN"; or nothing for the best."""
    from onnxcam.targets import is_top, one_for_all

    if any(map(is_top, texts)):
        if len(texts) > 1:
            raise click.UsageError("--target topN stands alone, without further --target")
        return texts[0]
    classes, asked = explainer.classifier.classes, dict[int, str]()
    for text in texts:
        code = one_for_all(text, explainer.labels, classes, explainer.opposite)
        asked.setdefault(int(code), text)
    return asked


def _slugs(explainer: Explainer, asked: dict[int, str]) -> list[str]:
    classes = explainer.classifier.classes
    indices, negated = [code % classes for code in asked], [code >= classes for code in asked]
    return names.slugs(explainer.labels, indices, negated, explainer.opposite)


def _without_results(paths: list[Path]) -> tuple[list[Path], int]:
    """The pictures without heat maps that earlier runs left among them, and how many those are."""
    from onnxcam.methods import METHODS

    kept = [path for path in paths if not names.is_result(path, list(METHODS))]
    return (kept, len(paths) - len(kept)) if kept else (paths, 0)


def _told(path: Path, error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if str(path) in text else f"{path}: {text}"
