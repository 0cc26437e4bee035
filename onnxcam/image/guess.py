"""Choosing a preset where nothing states one: by what is usual, and by how the model takes it.

A wrong preset rarely breaks a classifier, it blurs it: scores flatten, or saturate on anything,
and change when the picture is moved a little. So each candidate is tried on a few views of the
user's picture, and three things are measured, in nats:

    decided    the entropy of the probabilities on the picture is low
    steady     the views of one picture (plain, enlarged, moved) agree on the class
    discerning the entropy on the picture with its blocks shuffled is high: a network driven into
               saturation by far too large values is as sure of rubbish as of the picture

Their weighted sum is taken as log-odds and added to those of the candidates' order. The weights
come from a conditional logit fit over four ImageNet networks (MobileNetV2 twice, SqueezeNet twice;
RGB and BGR, unit and byte scale) and 75 photographs, and were then halved: between
near neighbours, such as two means, one picture says little, and what is usual should decide until
several pictures speak against it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnxcam.errors import PresetError
from onnxcam.image.presets import PRESETS, adapt
from onnxcam.image.read import Picture
from onnxcam.image.recipe import Preset

Run = Callable[[NDArray[Any]], NDArray[Any]]

DECIDED, STEADY, DISCERNING = 0.3, 0.5, 0.35
VIEWS = 3  # of the picture as it is; the shuffled one comes after them
MOST_PICTURES = 16  # beyond these the choice no longer changes, only the wait grows
# With few classes, rubbish is often sure of a class and a larger contrast always surer of one: an
# error that all pictures share, so that they count as one.
FEW_CLASSES = 100
SMALL = 64  # longest side of an input that is no ImageNet network's
IMAGENET_CLASSES = (1000, 1001)

# How usual the first, second, ... candidate is.
USUAL = (0.72, 0.09, 0.06, 0.04, 0.03, 0.02, 0.02, 0.02)

# What models of a kind usually expect, most usual first. Every name is in PRESETS, so that a
# guess can be repeated by name.
ORDERS: dict[str, tuple[str, ...]] = {
    "imagenet": (
        *("imagenet", "inception", "raw-1-crop", "caffe", "raw-255-crop"),
        *("raw-255-bgr", "imagenet-bgr", "raw-1-bgr"),
    ),
    "tensorflow": (
        *("keras-tf", "keras-torch", "raw-1-crop", "raw-255-crop", "keras-caffe"),
        *("raw-255-bgr", "imagenet-bgr", "raw-1-bgr"),
    ),
    "caffe": (
        *("caffe", "imagenet", "raw-255-crop", "raw-255-bgr", "imagenet-bgr"),
        *("raw-1-crop", "raw-1-bgr", "inception"),
    ),
    "windows": (
        *("custom-vision", "raw-255", "caffe", "imagenet", "raw-1", "signed"),
        "raw-1-bgr",
    ),
    "own": (
        *("imagenet-stretch", "raw-1", "signed", "raw-255", "raw-255-bgr", "imagenet-bgr"),
        "raw-1-bgr",
    ),
    "own tensorflow": (
        *("raw-1", "signed", "raw-255", "imagenet-stretch", "raw-255-bgr", "keras-caffe"),
    ),
    "small": (
        *("cifar10", "signed", "raw-1", "imagenet-stretch", "raw-255", "raw-255-bgr"),
        "raw-1-bgr",
    ),
    "grey": ("grey-1", "mnist", "grey-signed", "grey-255"),
    "grey windows": ("grey-255", "grey-1", "mnist", "grey-signed"),
    "bytes": ("raw-255", "raw-255-bgr"),
    "bytes imagenet": ("raw-255-crop", "raw-255-bgr"),
    "grey bytes": ("grey-255",),
    # Models that normalise pictures themselves.
    "pixels 255": ("raw-255", "raw-255-bgr"),
    "pixels 1": ("raw-1", "raw-1-bgr"),
    "pixels 255 imagenet": ("raw-255-crop", "raw-255-bgr"),
    "pixels 1 imagenet": ("raw-1-crop", "raw-1-bgr"),
    "grey pixels 255": ("grey-255",),
    "grey pixels 1": ("grey-1",),
}

# Words in an ONNX file's producer that tell a kind.
PRODUCERS = {
    "caffe": ("caffe",),
    "windows": ("onnxmltools", "coreml", "cntk", "winml"),
    "tensorflow": ("tf2onnx", "keras", "tensorflow"),
}


class Row(NamedTuple):
    """One candidate's part in a choice.

    Attributes:
        name: The preset's.
        top: The class that the model puts first on the first picture.
        probability: Of that class.
        share: The choice's belief in this candidate; the shares sum to 1.
    """

    name: str
    top: int
    probability: float
    share: float


NOT_FINITE = (
    "no known preset makes the model give finite probabilities; state the preprocessing with "
    "--preset"
)
LEAST = 1e-6
"""Probability below which a class counts as missed: how far it was missed tells nothing more."""


@dataclass(frozen=True)
class Choice:
    """A guessed preset, why it was chosen, and how every candidate fared (best first)."""

    preset: Preset
    reason: str
    rows: tuple[Row, ...]


def kind_of(
    channels: int | None,
    size: tuple[int | None, int | None],
    layout: str,
    dtype: str,
    classes: int | None,
    producer: str,
    pixels: int | None = None,
    resizes: bool = False,
) -> str:
    """Which row of ORDERS a model belongs to, from facts of its input and output alone."""
    maker = producer.casefold()
    made_by = [kind for kind, words in PRODUCERS.items() if any(word in maker for word in words)]
    imagenet = classes in IMAGENET_CLASSES
    if dtype in ("uint8", "int8"):
        if channels == 1:
            return "grey bytes"
        return "bytes imagenet" if imagenet and not resizes else "bytes"
    if pixels is not None and "windows" not in made_by:
        kind = f"pixels {pixels}"
        if channels == 1:
            return f"grey {kind}"
        return f"{kind} imagenet" if imagenet and not resizes else kind
    if channels == 1:
        return "grey windows" if "windows" in made_by else "grey"
    if made_by and made_by[0] in ("caffe", "windows"):
        return made_by[0]
    if max(side or 0 for side in size) in range(1, SMALL + 1):
        return "small"
    # PyTorch exports are NCHW; 1001 classes is TensorFlow's count, with a background.
    if layout == "NHWC" or classes == 1001 or made_by:
        return "tensorflow" if imagenet else "own tensorflow"
    return "imagenet" if imagenet else "own"


def candidates(
    channels: int | None,
    size: tuple[int | None, int | None],
    layout: str,
    dtype: str,
    classes: int | None = None,
    producer: str = "",
    pixels: int | None = None,
    resizes: bool = False,
) -> list[Preset]:
    """The presets worth trying on a model, the most usual first, fitted to its input.

    Args:
        channels, size, layout, dtype: Of the model's image input, as in `adapt`.
        classes: How many classes it has.
        producer: The ONNX file's `producer_name`.
        pixels: The white, 255 or 1, that the model takes off itself, where it normalises.
        resizes: The model brings pictures to size itself.
    """
    kind = kind_of(channels, size, layout, dtype, classes, producer, pixels, resizes)
    return [adapt(PRESETS[name], channels, size, layout, dtype) for name in ORDERS[kind]]


def choose(tried: Sequence[Preset], pictures: Sequence[Picture], run: Run) -> Choice:
    """Try candidates on pictures and choose.

    Args:
        tried: The candidates, the most usual first.
        pictures: At least one; more make the choice surer.
        run: Takes a batch of input tensors, called once per candidate; gives probabilities
            (N, classes), after softmax, or after sigmoid for independent classes.

    Raises:
        PresetError: No candidate gives finite probabilities.
    """
    if not tried or not pictures:
        raise PresetError("a preset can only be guessed from candidates and at least one picture")
    used = list(pictures)[:MOST_PICTURES]
    usual = np.log(np.array([USUAL[min(i, len(USUAL) - 1)] for i in range(len(tried))]))
    given = []
    for preset in tried:
        batch = np.concatenate([_views(preset, picture) for picture in used])
        given.append(np.asarray(run(batch), np.float64).reshape(len(used), VIEWS + 1, -1))
    finite = [bool(np.isfinite(p).all()) for p in given]
    # Of a head that is a single unit every answer may happen to be 1.
    exclusive = given[0].shape[2] > 1 and all(
        np.allclose(p.sum(-1), 1, atol=0.05) for p, fine in zip(given, finite, strict=True) if fine
    )
    scores = [
        log_usual + _evidence(p, exclusive) if fine else -np.inf
        for p, fine, log_usual in zip(given, finite, usual, strict=True)
    ]
    first = [p[0, 0] for p in given]
    if not np.isfinite(scores).any():
        raise PresetError(NOT_FINITE)
    belief = np.exp(np.array(scores) - max(scores))
    belief /= belief.sum()
    order = np.argsort(-belief, kind="stable")
    rows = tuple(
        Row(tried[i].name, *_top(first[i]), share=float(belief[i])) for i in order.tolist()
    )
    best = tried[int(order[0])]
    return Choice(best, _reason(rows, len(used)), rows)


def choose_by_labels(
    tried: Sequence[Preset], pictures: Sequence[Picture], labels: Sequence[int], run: Run
) -> tuple[Preset, str]:
    """The candidate that gives pictures their own classes the most, and the reason in words.

    Args:
        tried, run: as for `choose`.
        pictures: at least one.
        labels: the class of each; of a head of one unit 0 for it, 1 for the decision against it.

    Raises:
        PresetError: no candidate gives finite probabilities.
    """
    found = []
    for preset in tried:
        given = [np.asarray(run(preset.tensor(one)))[0] for one in pictures]
        given = [np.append(p, 1 - p) if len(p) == 1 else p for p in given]
        own = np.array([p[label] for p, label in zip(given, labels, strict=True)])
        right = sum(int(p.argmax()) == label for p, label in zip(given, labels, strict=True))
        if np.isfinite(own).all():
            found.append((float(np.log(np.maximum(own, LEAST)).mean()), right, preset))
    if not found:
        raise PresetError(NOT_FINITE)
    found.sort(key=lambda row: row[0], reverse=True)
    _, right, best = found[0]
    then = "".join(f", then {preset.name!r} with {many}" for _, many, preset in found[1:2])
    return best, (
        f"nothing states the preprocessing; of {len(found)} candidates tried on {len(pictures)} "
        f"labelled pictures, {best.name!r} fits the labels best: {right} right{then}"
    )


def _reason(rows: Sequence[Row], count: int) -> str:
    pictures = "1 picture" if count == 1 else f"{count} pictures"
    if len(rows) == 1:
        return f"nothing states the preprocessing; {rows[0].name!r} is the only one that fits"
    best, second = rows[:2]
    return (
        f"nothing states the preprocessing; of {len(rows)} candidates tried on {pictures},"
        f" {best.name!r} fits best ({best.share:.0%}, then {second.name!r} with {second.share:.0%})"
    )


def _top(p: NDArray[np.float64]) -> tuple[int, float]:
    finite = np.nan_to_num(p, nan=-1.0, posinf=-1.0, neginf=-1.0)
    index = int(finite.argmax())
    return index, float(p[index])


def _evidence(p: NDArray[np.float64], exclusive: bool) -> float:
    """Log-odds, up to a constant, for the candidate that gave p, (pictures, views + 1, classes).

    Independent classes are a yes or no each; exclusive ones are one question with many answers.
    """
    classes, p = p.shape[2], np.clip(p, 0, 1)
    p = p[:, :, None, :] if exclusive else np.stack([p, 1 - p], axis=-1)
    entropy = -(p * np.log(p + 1e-12)).sum((-2, -1))
    least = 1 / p.shape[-1]  # two views that disagree utterly count as two blind guesses
    agree = [
        np.log((p[:, a] * p[:, b]).sum(-1) + least).sum(-1) for a in range(VIEWS) for b in range(a)
    ]
    decided, steady = -entropy[:, :VIEWS].mean(1), np.mean(agree, axis=0)
    evidence = DECIDED * decided + STEADY * steady + DISCERNING * entropy[:, VIEWS]
    return float(evidence.mean() if classes < FEW_CLASSES else evidence.sum())


def _views(preset: Preset, picture: Picture) -> NDArray[Any]:
    """(VIEWS + 1, ...) input tensors: the picture plain, enlarged, moved, and shuffled."""
    # The pixels once through the preset's geometry, as bytes; then each view through its numbers.
    plain = preset.replace(
        channel_order="GRAY" if preset.channels == 1 else "RGB",
        scale=1.0,
        mean=0.0,
        std=1.0,
        layout="NHWC",
        dtype="uint8",
    ).tensor(picture)[0]
    pixels = plain[:, :, 0] if plain.shape[2] == 1 else plain
    views = [pixels, _part(pixels, 1, 13, 1, 13), _part(pixels, 0, 13, 1, 14), _shuffled(pixels)]
    return np.concatenate([preset.normalised(view) for view in views])


def _part(
    pixels: NDArray[np.uint8], left: int, right: int, top: int, bottom: int
) -> NDArray[np.uint8]:
    """A part of the picture, given in fourteenths of its sides, at the size of the whole."""
    image = Image.fromarray(pixels)
    x, y = image.width / 14, image.height / 14
    box = (left * x, top * y, right * x, bottom * y)
    return np.asarray(image.resize(image.size, Image.Resampling.BILINEAR, box=box))


def _shuffled(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture cut into 8 x 8 blocks in another order: its colours without its objects."""
    side_y, side_x = max(1, pixels.shape[0] // 8), max(1, pixels.shape[1] // 8)
    corners = [
        (y, x)
        for y in range(0, pixels.shape[0] - side_y + 1, side_y)
        for x in range(0, pixels.shape[1] - side_x + 1, side_x)
    ]
    out = pixels.copy()
    for (y, x), (from_y, from_x) in zip(
        corners, np.random.default_rng(0).permutation(corners).tolist(), strict=True
    ):
        block = pixels[from_y : from_y + side_y, from_x : from_x + side_x]
        out[y : y + side_y, x : x + side_x] = block
    return out
