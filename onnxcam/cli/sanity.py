"""Sanity checks of `onnxcam evaluate`: methods on models with randomised weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxcam.cli import options, show

if TYPE_CHECKING:
    from onnxcam.api import Explainer
    from onnxcam.evaluate.results import Study
    from onnxcam.evaluate.samples import Sample
    from onnxcam.image import Picture
    from onnxcam.methods import Method

SANITY = {
    "cascading": ("cascading",),
    "independent": ("independent",),
    "both": ("cascading", "independent"),
}
DRAWN = {"cascading": "sanity.svg", "independent": "sanity-independent.svg"}
PICTURES = 8


def randomised(
    study: Study, methods: Sequence[Method], own: dict[str, Any], given: dict[str, Any],
    folder: Path,
) -> list[dict[str, Any]]:  # fmt: skip
    """The checks of all methods on the first pictures; written as sanity.json and drawn."""
    import json
    from dataclasses import replace

    import numpy as np

    from onnxcam.evaluate.sanity import sanity
    from onnxcam.evaluate.sanity_plot import plot
    from onnxcam.files import write_atomic

    explainer = study.judge.explainer
    seen = [one for _, one in islice(readable(explainer, study.samples), PICTURES)]
    if not seen:
        return []
    tensors = [explainer.preset_for([one])[0].tensor(one) for one in seen]
    if explainer.classifier.image.free:
        tensors = [one for one in tensors if one.shape == tensors[0].shape]
    source = explainer.path or explainer.classifier
    found = []
    asked = [(mode, row) for mode in SANITY[given["sanity"]] for row in methods]
    with show.Bar(len(asked), given["quiet"], "map") as bar:
        for number, (mode, row) in enumerate(asked):
            bar.start(number, f"{study.name}, randomised weights, {row.name}, {mode}")

            def made(model: Any, layer: Any, row: Method = row) -> Explainer:
                return options.explainer_of(model, row, layer, own, {**given, "no_cache": True})

            check = sanity(
                made, source, np.concatenate(tensors), layer=given["layer"], mode=mode,
                seed=given["study_seed"], progress=bar,
            )  # fmt: skip
            found.append(replace(check, model=study.name))
    facts = [check.facts() for check in found]
    write_atomic(folder / "sanity.json", (json.dumps(facts, indent=2) + "\n").encode(), force=True)
    for mode in SANITY[given["sanity"]]:
        drawn = plot([check for check in found if check.mode == mode])
        write_atomic(folder / DRAWN[mode], drawn.encode(), force=True)
    return facts


def readable(explainer: Explainer, samples: Iterable[Sample]) -> Iterator[tuple[Sample, Picture]]:
    """The samples whose pictures can be read, with these."""
    from onnxcam.image import Picture
    from onnxcam.many import read, tried

    for sample in samples:
        picture = tried(lambda path: read(path, explainer.max_pixels), sample.path)
        if isinstance(picture, Picture):
            yield sample, picture
