"""The pictures of the report."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from onnxcam.evaluate.markup import Study, known, text

Pictures: TypeAlias = Callable[[str, str], bytes | None]
"""From the name of a picture and of a method, "" for the picture itself, to a JPEG."""

MANY, EACH = 200, 50
"""With more than MANY pictures the gallery holds the EACH best and the EACH worst."""


def gallery(study: Study, pictures: Pictures) -> tuple[dict[str, Any], list[list[Any]], str]:
    """What the page's script shows.

    Args:
        study: see `report.page`.
        pictures: asked once for each picture that is shown, and once for each of its overlays.

    Returns:
        Names and numbers; the JPEGs of each card in base64, first the photograph, then by block
        and method; and as HTML a note on the pictures that are left out, if any are.
    """
    methods = {method["name"]: index for index, method in enumerate(study["methods"])}
    models = {model["name"]: index for index, model in enumerate(study["models"])}
    names = [metric["name"] for metric in study["metrics"]]
    by_picture: dict[str, list[Mapping[str, Any]]] = {}
    for row in study["rows"]:
        if row["method"] in methods and row["model"] in models:
            by_picture.setdefault(row["picture"], []).append(row)
    kept, note = _kept(study, by_picture)
    cards, sources = [], []
    for picture in kept:
        blocks: dict[tuple[int, Any], dict[str, Any]] = {}
        asked: dict[tuple[int, Any], list[str | None]] = {}
        for row in by_picture[picture]:
            key, at = (models[row["model"]], row["target"]), methods[row["method"]]
            block = blocks.setdefault(key, _block(row, key[0], len(methods)))
            block["values"][at] = [row["values"].get(name) for name in names]
            overlay = row.get("overlay", None if key[0] else row["method"])
            asked.setdefault(key, [None] * len(methods))[at] = overlay
        cards.append({"name": picture, "blocks": list(blocks.values())})
        wanted = ["", *(name for each in asked.values() for name in each)]
        sources.append([None if name is None else pictures(picture, name) for name in wanted])
    shown = {
        "methods": [method["title"] for method in study["methods"]],
        "metrics": [{key: metric[key] for key in ("title", "better", "unit")}
                    for metric in study["metrics"]],
        "models": list(models),
        "pictures": cards,
    }  # fmt: skip
    encoded = [[base64.b64encode(jpeg).decode() if jpeg else None for jpeg in one]
               for one in sources]  # fmt: skip
    return shown, encoded, note


def _block(row: Mapping[str, Any], model: int, methods: int) -> dict[str, Any]:
    """What a model says of a picture, before any method's values."""
    name = row["target_name"]
    return {
        "model": model,
        "target": str(name) if name else f"class {row['target']}",
        "index": row["target"] if name else None,
        "predicted": row["predicted_name"],
        "probability": row["probability"],
        "values": [None] * methods,
    }


def _kept(study: Study, by_picture: Mapping[str, Sequence[Any]]) -> tuple[list[str], str]:
    """The pictures of the gallery: all, or the best and worst by the first metric."""
    everything = list(by_picture)
    if len(everything) <= MANY:
        return everything, ""
    means = {}
    metric = study["metrics"][0] if study["metrics"] else {}
    for picture, rows in by_picture.items():
        values = [row["values"].get(metric.get("name")) for row in rows]
        held = [value for value in values if known(value)]
        if held:
            means[picture] = sum(held) / len(held)
    if len(means) <= 2 * EACH:  # no ends to speak of
        kept = [*means, *(picture for picture in everything if picture not in means)][: 2 * EACH]
        return kept, f"<p>Of {len(everything)} pictures these are the first {len(kept)}.</p>"
    order = sorted(means, key=means.__getitem__, reverse=metric["better"] == "more")
    ends = set(order[:EACH] + order[-EACH:])
    kept = [picture for picture in everything if picture in ends]
    return kept, (
        f"<p>Of {len(everything)} pictures these are the {EACH} best and the {EACH} worst by "
        f"{text(metric['title'])}, as the mean over methods and models.</p>"
    )
