"""Heat maps on pictures: the right place, the right colours, and files that keep their facts."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import onnxcam.files
from onnxcam.errors import OptionError, OutputError
from onnxcam.image import (
    PRESETS,
    Picture,
    Preset,
    colormap_names,
    colour,
    figure,
    lay_on,
    normalise,
    overlay,
    save_image,
    seen,
)
from onnxcam.image.draw import PANEL, UNSEEN
from onnxcam.image.text import fit, font

NO_CROP = Preset(resize="stretch")


def plain(width: int, height: int, colour: int = 200) -> Picture:
    return Picture(np.full((height, width, 3), colour, np.uint8))


@pytest.mark.parametrize(
    "name", ["imagenet", "clip", "letterbox", "raw-255", "custom-vision", "imagenet-stretch"]
)
@pytest.mark.parametrize(("width", "height"), [(640, 427), (300, 500), (90, 90)])
def test_a_marker_comes_back_to_its_place(name: str, width: int, height: int) -> None:
    """A bright patch, seen through the preset and laid back as a map, is where it was."""
    preset = PRESETS[name].replace(size=(224, 224), scale=1, mean=0, std=1, fill=0)
    for x, y in ((width // 2, height // 2), (width // 3, int(height * 0.4))):
        pixels = np.zeros((height, width, 3), np.uint8)
        reach = max(width, height) // 40
        pixels[y - reach : y + reach + 1, x - reach : x + reach + 1] = 255
        picture = Picture(pixels)
        raw = preset.tensor(picture)[0].mean(0)
        assert raw.max() > 100  # the crop has not lost it
        # As coarse as a network's last layer.
        coarse = raw.reshape(28, 8, 28, 8).mean((1, 3))
        for of, tolerance in ((raw, 0.6), (coarse, 1.5)):
            laid = lay_on(of, preset.geometry(width, height), width, height)
            rows, columns = np.mgrid[:height, :width]
            found = (laid * columns).sum() / laid.sum(), (laid * rows).sum() / laid.sum()
            assert found == pytest.approx((x, y), abs=tolerance)


def test_lay_on_by_hand() -> None:
    raw = np.array([[0.0, 1.0]])
    laid = lay_on(raw, NO_CROP.replace(size=(8, 8)).geometry(4, 2), 4, 2)
    # Cell centres at x = 1 and x = 3; pixel centres at 0.5, 1.5, 2.5, 3.5.
    assert laid.tolist() == [[0.0, 0.25, 0.75, 1.0]] * 2
    assert laid.dtype == np.float32


def test_lay_on_and_seen_outside_the_crop() -> None:
    # 8 x 4, cut to its middle 4 x 4: two columns on either side were never seen.
    geometry = PRESETS["custom-vision"].replace(size=(4, 4)).geometry(8, 4)
    laid = lay_on(np.ones((2, 2)), geometry, 8, 4)
    assert laid.tolist() == [[0, 0, 1, 1, 1, 1, 0, 0]] * 4
    assert (seen(geometry, 8, 4) == (laid > 0)).all()
    # Letterbox: everything seen, the bars' part of the map is left out.
    geometry = PRESETS["letterbox"].replace(size=(8, 8)).geometry(8, 4)
    raw = np.zeros((8, 8))
    raw[0], raw[2] = 9, 1  # a bar, and the picture's first row
    laid = lay_on(raw, geometry, 8, 4)
    assert laid.tolist() == [[1] * 8, [0] * 8, [0] * 8, [0] * 8]
    assert seen(geometry, 8, 4).all()


def test_lay_on_wants_one_map() -> None:
    with pytest.raises(OptionError, match="take it out first"):
        lay_on(np.zeros((1, 7, 7)), NO_CROP.geometry(4, 4), 4, 4)


def test_normalise() -> None:
    assert normalise(np.array([0.0, 2.0, 4.0])).tolist() == [0, 0.5, 1]
    assert normalise(np.array([-8.0, 2.0, 4.0])).tolist() == [0, 0.5, 1]
    assert normalise(np.array([-8.0, 2.0, 4.0]), signed=True).tolist() == [-1, 0.25, 0.5]
    assert normalise(np.zeros((2, 2))).tolist() == [[0, 0], [0, 0]]
    assert normalise(np.full(3, -1.0)).tolist() == [0, 0, 0]
    assert normalise(np.array([0, 1e-44], np.float32)).tolist() == [0, 1]  # subnormal
    for bad in (np.nan, np.inf):
        with pytest.raises(OptionError, match="NaN or infinite"):
            normalise(np.array([0.0, bad]))


def test_colours() -> None:
    ramp = np.array([[0.0, 0.5, 1.0, 7.0, -1.0]])
    # The ends of matplotlib's viridis and inferno, as published.
    viridis = colour(ramp, "viridis")[0].tolist()
    assert viridis[0] == [68, 1, 84] == viridis[4] and viridis[2] == [253, 231, 37] == viridis[3]
    inferno = colour(ramp)[0].tolist()
    assert inferno[0] == [0, 0, 4] and inferno[2] == [252, 255, 164]
    light = colour(np.linspace(0, 1, 256)[None])[0] @ [0.299, 0.587, 0.114]
    assert (np.diff(light) > -0.8).all() and light[-1] - light[0] > 200  # hotter is lighter
    signed = colour(np.array([[-1.0, 0.0, 1.0]]), signed=True)[0].astype(int)
    assert signed[0, 2] > signed[0, 0] and signed[2, 0] > signed[2, 2]  # blue, red
    assert signed[1].min() > 240


def test_colormap_names() -> None:
    names = colormap_names()
    assert {"viridis", "inferno", "turbo", "RdBu"} <= set(names) and names == sorted(names)
    with pytest.raises(OptionError, match=r"no colormap 'viridus' \(did you mean 'viridis'"):
        colour(np.zeros((1, 1)), "viridus")


def test_overlay_by_hand() -> None:
    picture = plain(2, 1, 100)
    image = overlay(picture, np.array([[0.0, 1.0]]), "gray", 0.25)
    assert np.asarray(image).tolist() == [[[75] * 3, [139] * 3]]  # 75 + 63.75
    assert (np.asarray(overlay(picture, np.zeros((1, 2)), alpha=0)) == 100).all()
    assert np.asarray(overlay(picture, np.ones((1, 2)), "gray", 1)).tolist() == [[[255] * 3] * 2]


def test_overlay_fades_what_was_not_seen() -> None:
    red = Picture(np.tile(np.array([200, 0, 0], np.uint8), (2, 600, 1)))
    mask = np.ones((2, 600), bool)
    mask[1, 300:] = False
    out = np.asarray(overlay(red, np.zeros((2, 600)), "gray", 0.5, seen=mask)).astype(int)
    assert out[0, 0].tolist() == [100, 0, 0] == out[1, 299].tolist()
    faded = out[1, 300]
    assert faded.min() > 120 and np.ptp(faded) <= 20  # light, and nearly grey
    untouched = np.asarray(overlay(red, np.zeros((2, 600)), "gray", 0.5))
    assert (untouched == [100, 0, 0]).all()


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_overlay_refuses(alpha: float) -> None:
    with pytest.raises(OptionError, match="alpha"):
        overlay(plain(2, 2), np.zeros((2, 2)), alpha=alpha)
    with pytest.raises(OptionError, match="lay the map on the picture first"):
        overlay(plain(2, 2), np.zeros((7, 7)))


def panels(image: Image.Image, colour: tuple[int, int, int]) -> list[tuple[int, int]]:
    """(left, width) of the runs of a colour along the image's busiest row."""
    match = (np.asarray(image) == colour).all(2)
    row = np.flatnonzero(match[match.sum(1).argmax()])
    runs = np.split(row, np.flatnonzero(np.diff(row) > 1) + 1)
    return [(int(run[0]), len(run)) for run in runs]


def test_figure_shows_three_panels() -> None:
    picture = Picture(np.full((20, 30, 3), (0, 200, 0), np.uint8))
    image = figure(picture, np.ones((20, 30)), ["title"], colormap="gray", alpha=1.0)
    scale = PANEL // 30
    ((left, width),) = panels(image, (0, 200, 0))
    assert width == 30 * scale
    white = np.asarray(image)[image.height // 2]
    assert image.width > 3 * width and (white[left + width + 20] == 255).all()
    # A title takes room, ink and nothing else.
    bare = figure(picture, np.ones((20, 30)), colormap="gray", alpha=1.0)
    assert image.height > bare.height and image.width == bare.width
    head = np.asarray(image)[: image.height - bare.height]
    assert head.min() < 60 < 255 == head.max()


def test_figure_greys_what_was_not_seen() -> None:
    picture = plain(200, 100)
    mask = np.zeros((100, 200), bool)
    mask[:, 50:150] = True
    image = figure(picture, np.ones((100, 200)), seen=mask)
    (_, before), (_, after) = panels(image, UNSEEN)
    assert before == after == PANEL // 4  # 50 of 200 pixels on either side, in one panel only


@pytest.mark.parametrize(
    ("width", "height"), [(1, 1), (32, 32), (3000, 40), (40, 3000), (99, 101), (400, 400)]
)
def test_figure_of_any_shape(width: int, height: int) -> None:
    lines = ["a class name that goes on and on, " * 20, "日本語 \0 \n مرحبا ∆ 🐕", ""]
    image = figure(plain(width, height), np.zeros((height, width)), lines)
    assert image.width <= 3 * PANEL + 150 and image.height <= 3 * PANEL + 300
    longest = (200, 200, 200)
    assert (np.asarray(image) == longest).all(2).sum() >= 300  # the picture can be seen


def test_text_fits() -> None:
    width = 200
    for text in ("short", "words " * 50, "onelongword" * 50, "日本語" * 90):
        lines = fit(text, 14, width)
        assert 1 <= len(lines) <= 2
        assert all(font(14).getlength(line) <= width for line in lines)
        whole = "".join("".join(lines).split())
        assert whole == text or whole.endswith("...")
    assert fit("a b", 14, width) == ["a b"] and fit("", 14, width) == []


def test_saved_facts(tmp_path: Path) -> None:
    facts = {"Model": "mobilenet.onnx", "Class": "Schäferhund 日本", "Schlüssel": "x"}
    image = overlay(plain(3, 3), np.zeros((3, 3)))
    with Image.open(save_image(image, tmp_path / "a.png", facts)) as png:
        assert png.text == facts
        assert (np.asarray(png) == np.asarray(image)).all()
    for name in ("a.jpg", "a.webp"):
        with Image.open(save_image(image, tmp_path / name, facts)) as other:
            exif = other.getexif()
            assert json.loads(exif[0x010E]) == facts and exif[0x0131] == "onnxcam"
    assert sorted(os.listdir(tmp_path)) == ["a.jpg", "a.png", "a.webp"]


def test_save_refuses(tmp_path: Path) -> None:
    image = Image.new("RGB", (2, 2))
    for name in ("a.bmp", "a", "png"):
        with pytest.raises(OutputError, match=r"\.png, \.jpg"):
            save_image(image, tmp_path / name)
    with pytest.raises(OutputError, match="make it first"):
        save_image(image, tmp_path / "none" / "a.png")
    with pytest.raises(OutputError, match=r"try \.png"):
        save_image(image, tmp_path / "a.jpg", {"long": "x" * 70_000})
    assert os.listdir(tmp_path) == []


def test_save_never_overwrites_unasked(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"precious")
    with pytest.raises(OutputError, match="--force"):
        save_image(Image.new("RGB", (2, 2)), path)
    assert path.read_bytes() == b"precious"
    save_image(Image.new("RGB", (2, 2), "red"), path, force=True)
    with Image.open(path) as image:
        assert image.getpixel((0, 0)) == (255, 0, 0)


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    kept = tmp_path / "kept.png"
    kept.write_bytes(b"old")
    monkeypatch.setattr(onnxcam.files.os, "fsync", full)
    for path, force in ((tmp_path / "new.png", False), (kept, True)):
        with pytest.raises(OutputError, match="no space left"):
            save_image(Image.new("RGB", (2, 2)), path, force=force)
    assert os.listdir(tmp_path) == ["kept.png"] and kept.read_bytes() == b"old"
