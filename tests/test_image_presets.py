"""Presets: tensors worked out by hand, geometry against torchvision's formulas, every source."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import onnxcam.image.geometry
from onnxcam.errors import PresetError
from onnxcam.image import (
    PRESETS,
    Picture,
    Preset,
    adapt,
    find_sidecar,
    from_config,
    from_metadata,
    load_preset,
    read_picture,
)

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def flat(colour: tuple[int, int, int], width: int = 8, height: int = 8) -> Picture:
    return Picture(np.full((height, width, 3), colour, np.uint8))


def gradient(width: int, height: int) -> Picture:
    rng = np.random.default_rng(width * 1000 + height)
    small = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8))
    return Picture(np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)))


def torchvision(picture: Picture, side: int, crop: int, how: int) -> np.ndarray:
    """Resize(side) and CenterCrop(crop), transcribed from torchvision's functional.py."""
    image = Image.fromarray(picture.pixels)
    width, height = image.size
    short, long = (width, height) if width <= height else (height, width)
    other = int(side * long / short)
    image = image.resize((side, other) if width <= height else (other, side), how)
    width, height = image.size
    if crop > width or crop > height:
        pad_l, pad_t = max((crop - width) // 2, 0), max((crop - height) // 2, 0)
        pad_r, pad_b = max((crop - width + 1) // 2, 0), max((crop - height + 1) // 2, 0)
        padded = np.pad(np.asarray(image), ((pad_t, pad_b), (pad_l, pad_r), (0, 0)))
        image = Image.fromarray(padded)
        width, height = image.size
    top, left = round((height - crop) / 2.0), round((width - crop) / 2.0)
    return np.asarray(image.crop((left, top, left + crop, top + crop)))


def test_imagenet_by_hand() -> None:
    x = PRESETS["imagenet"].replace(size=(4, 4)).tensor(flat((255, 0, 51)))
    assert x.shape == (1, 3, 4, 4) and x.dtype == np.float32
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225]
    np.testing.assert_allclose(x[0, :, 2, 1], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("keras-tf", [1.0, -1.0, -0.6]),
        ("keras-caffe", [51 - 103.939, -116.779, 255 - 123.68]),
        ("caffe", [51 - 103.939, -116.779, 255 - 123.68]),
        ("raw-1", [1.0, 0.0, 0.2]),
        ("raw-255", [255, 0, 51]),
        ("raw-255-bgr", [51, 0, 255]),
        ("custom-vision", [51, 0, 255]),
        ("caffe-scaled", [(51 - 103.94) * 0.017, -116.78 * 0.017, (255 - 123.68) * 0.017]),
        ("imagenet-bgr", [(0.2 - 0.406) / 0.225, -0.456 / 0.224, (1 - 0.485) / 0.229]),
        ("grey-255", [82]),  # ITU-R 601: 0.299 * 255 + 0.114 * 51 = 82.06
        ("mnist", [(82 / 255 - 0.1307) / 0.3081]),
    ],
)
def test_numbers_of_the_table(name: str, expected: list[float]) -> None:
    x = PRESETS[name].replace(size=(8, 8), layout="NHWC").tensor(flat((255, 0, 51)))
    np.testing.assert_allclose(x[0, 3, 5], expected, rtol=1e-5)


def test_layout_order_and_dtype() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    raw = Preset(resize="none")
    assert (raw.tensor(Picture(pixels))[0] == pixels.transpose(2, 0, 1)).all()
    nhwc = raw.replace(layout="NHWC", channel_order="bgr", dtype="uint8").tensor(Picture(pixels))
    assert nhwc.dtype == np.uint8 and (nhwc[0] == pixels[:, :, ::-1]).all()
    assert nhwc.flags.c_contiguous
    # Integers are rounded and clipped, not wrapped.
    int8 = raw.replace(mean=128, std=0.5, dtype="int8").tensor(flat((128, 150, 255)))
    assert int8[0, :, 0, 0].tolist() == [0, 44, 127]
    assert raw.replace(dtype="float16").tensor(Picture(pixels)).dtype == np.float16


@pytest.mark.parametrize(
    ("width", "height"), [(500, 375), (375, 500), (224, 224), (301, 1000), (640, 101), (3, 5)]
)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pixels_are_torchvisions(width: int, height: int, interpolation: str) -> None:
    picture = gradient(width, height)
    preset = PRESETS["imagenet"].replace(
        scale=1, mean=0, std=1, dtype="uint8", layout="NHWC", interpolation=interpolation
    )
    how = Image.Resampling[interpolation.upper()]
    for side, crop in ((256, 224), (64, 64), (40, 60), (33, 20)):
        got = preset.replace(resize_to=side, size=(crop, crop)).tensor(picture)[0].astype(int)
        expected = torchvision(picture, side, crop, how).astype(int)
        assert (got == expected).all(), (side, crop)


def test_crop_fraction_scales_with_the_input() -> None:
    # 224 comes from 256, 299 from 341: torchvision's and timm's floor(size / fraction).
    for size, side in ((224, 256), (299, 341), (32, 36)):
        left, top, right, bottom = (
            PRESETS["imagenet"].replace(size=(size, size)).geometry(1000, 1000).box
        )
        assert (left, top) == (round((side - size) / 2) * 1000 / side,) * 2
        assert right - left == pytest.approx(1000 * size / side) == bottom - top


@given(
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.integers(1, 400),
    st.integers(1, 400),
    st.sampled_from(
        ["imagenet", "clip", "letterbox", "raw-1", "custom-vision", "keras-tf", "imagenet-bgr"]
    ),
)
def test_geometry_is_sound(width: int, height: int, h: int, w: int, name: str) -> None:
    geometry = PRESETS[name].replace(size=(h, w)).geometry(width, height)
    left, top, right, bottom = geometry.seen
    assert 0 <= left < right <= width + 1e-6 and 0 <= top < bottom <= height + 1e-6
    box = geometry.box
    if name == "letterbox":
        assert (left, top, right, bottom) == (0, 0, width, height)
        assert geometry.scaled[0] == h or geometry.scaled[1] == w
    if name == "raw-1":
        assert box == (0, 0, width, height)
    if name == "custom-vision":
        assert right - left == bottom - top == min(width, height)
    # Input and picture have the same middle, to within one pixel of either.
    unit_x, unit_y = (box[2] - box[0]) / w, (box[3] - box[1]) / h
    assert math.isclose(box[0] + box[2], width, abs_tol=max(2 * unit_x, 1.01))
    assert math.isclose(box[1] + box[3], height, abs_tol=max(2 * unit_y, 1.01))


def test_letterbox() -> None:
    preset = PRESETS["letterbox"].replace(size=(8, 8), scale=1)
    x = preset.tensor(flat((10, 20, 30), 8, 4))[0]
    assert x[:, 0, 0].tolist() == [114] * 3 == x[:, 7, 7].tolist()
    assert x[:, 2, 0].tolist() == [10, 20, 30] == x[:, 5, 7].tolist()
    assert preset.geometry(8, 4).box == (0, -2, 8, 6)


def test_padding_crop_is_black_before_the_normalisation() -> None:
    preset = Preset(resize="none", crop="center", size=(4, 6), mean=1.0)
    x = preset.tensor(flat((5, 5, 5), 2, 2))[0, 0]
    assert x.tolist() == [[-1] * 6, [-1, -1, 4, 4, -1, -1], [-1, -1, 4, 4, -1, -1], [-1] * 6]
    assert preset.geometry(2, 2).box == (-2, -1, 4, 3)


def test_centre_square_then_stretch() -> None:
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:, 2:4], pixels[:, 4:6], pixels[:, 6:] = 50, 100, 200
    x = PRESETS["custom-vision"].replace(size=(2, 2), interpolation="nearest")
    assert x.tensor(Picture(pixels))[0, 0].tolist() == [[50, 100], [50, 100]]
    assert x.geometry(8, 4).box == (2, 0, 6, 4)


def test_free_sizes() -> None:
    picture = flat((0, 0, 0), 50, 30)
    assert PRESETS["raw-1"].tensor(picture).shape == (1, 3, 30, 50)
    assert PRESETS["imagenet"].tensor(picture).shape == (1, 3, 224, 224)
    assert Preset(resize="shortest_side", resize_to=60).tensor(picture).shape == (1, 3, 60, 100)
    assert PRESETS["custom-vision"].tensor(picture).shape == (1, 3, 30, 30)


def test_long_pictures_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A 100000 x 1 picture resized whole would be 256 x 25,600,000."""
    picture = gradient(640, 350)
    whole = PRESETS["raw-255-crop"].tensor(picture)
    with monkeypatch.context() as patch:
        patch.setattr(onnxcam.image.geometry, "WHOLE", 0)
        assert np.abs(PRESETS["raw-255-crop"].tensor(picture) - whole).max() <= 1
    x = PRESETS["imagenet"].tensor(flat((255, 255, 255), 100_000, 1))
    np.testing.assert_allclose(x[0, 0], (1 - 0.485) / 0.229, rtol=1e-6)


def test_resize_none_refuses_another_size() -> None:
    preset = Preset(name="exact", resize="none", size=(32, 32))
    assert preset.tensor(flat((1, 1, 1), 32, 32)).shape == (1, 3, 32, 32)
    with pytest.raises(PresetError, match=r"'exact'.*50 x 30.*stretch"):
        preset.tensor(flat((1, 1, 1), 50, 30))


def test_round_trip_of_the_whole_table() -> None:
    for name, preset in PRESETS.items():
        assert name == preset.name and len(preset.source) > 10
        text = json.dumps(preset.to_json())
        assert Preset.from_json(json.loads(text), preset.source) == preset


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"chanel_order": "RGB"}, r"no field 'chanel_order' \(did you mean 'channel_order'"),
        ({"resize": "shortest"}, r"did you mean 'shortest_side'"),
        ({"channel_order": "RBG"}, "RGB, BGR, GRAY"),
        ({"interpolation": "linearr"}, "interpolation cannot be 'linearr'"),
        ({"mean": [1, 2]}, "mean has 2 numbers"),
        ({"std": 0}, "std must be positive"),
        ({"std": [1, -1, 1]}, "std must be positive"),
        ({"mean": "0"}, "mean must be a number"),
        ({"mean": []}, "mean must hold"),
        ({"scale": float("nan")}, "finite"),
        ({"scale": 0}, "must not be 0"),
        ({"scale": True}, "must be a number"),
        ({"size": [224]}, r"size must be \[height, width\]"),
        ({"size": [0, 224]}, "from 1 to"),
        ({"size": [2.5, 224]}, "whole number"),
        ({"resize_to": 10**9}, "from 1 to"),
        ({"crop_fraction": 1.5}, "0.01 to 1"),
        ({"crop_fraction": 0.5, "resize_to": 9}, "same thing"),
        ({"fill": 256}, "from 0 to 255"),
        ({"dtype": "int64"}, "dtype cannot be"),
        ({"name": 5}, "name must be text"),
    ],
)
def test_bad_fields_are_named(fields: dict[str, object], words: str) -> None:
    with pytest.raises(PresetError, match=words) as error:
        Preset.from_json(fields, "file.json")
    assert "file.json" in str(error.value)


def test_replace() -> None:
    preset = PRESETS["imagenet"].replace(resize_to=300, size=200, crop="centre")
    assert (preset.resize_to, preset.crop_fraction, preset.size) == (300, None, (200, 200))
    assert preset.replace(crop_fraction=0.9).resize_to is None
    assert PRESETS["imagenet"].crop_fraction == 0.875  # the table is as it was
    with pytest.raises(PresetError, match="no field 'mena'"):
        preset.replace(mena=0)


def test_load_preset(tmp_path: Path) -> None:
    assert load_preset("clip") is PRESETS["clip"]
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"preprocessing": {"mean": 5, "formula": "x"}, "other": 1}))
    assert load_preset(own).mean == (5.0,) and str(own) in load_preset(own).source
    own.write_text(json.dumps({"scale": 2}))
    assert load_preset(str(own)).scale == 2
    own.write_text(json.dumps({"do_normalize": False, "do_resize": False}))
    assert load_preset(own).resize == "none"
    for text, words in (("{", "not valid JSON"), ("[]", "JSON object"), ('{"a": 1}', "field 'a'")):
        own.write_text(text)
        with pytest.raises(PresetError, match=words):
            load_preset(own)
    with pytest.raises(PresetError, match="did you mean 'imagenet'"):
        load_preset("imagnet")
    with pytest.raises(PresetError, match="no such file"):
        load_preset(tmp_path / "none.json")


def test_metadata() -> None:
    assert from_metadata({"author": "x"}) is None
    own = from_metadata({"onnxcam.preset": json.dumps(PRESETS["clip"].to_json())})
    assert own is not None and own.mean == PRESETS["clip"].mean
    with pytest.raises(PresetError, match=r"onnxcam\.preset"):
        from_metadata({"onnxcam.preset": "{"})

    windows = from_metadata({"Image.BitmapPixelFormat": "Bgr8"})
    assert windows is not None and windows.resize == "center_square_then_stretch"
    x = windows.replace(size=(2, 2)).tensor(flat((255, 0, 51)))
    assert x[0, :, 0, 0].tolist() == [51, 0, 255]
    for spread, expected in (
        ("Normalized_0_1", [1, 0, 0.2]),
        ("Normalized_1_1", [1, -1, -0.6]),
        ("NominalRange_16_235", [235, 16, 16 + 0.2 * 219]),
    ):
        keys = {"Image.BitmapPixelFormat": "Rgb8", "Image.NominalPixelRange": spread}
        preset = from_metadata(keys)
        assert preset is not None
        x = preset.replace(size=(2, 2)).tensor(flat((255, 0, 51)))
        np.testing.assert_allclose(x[0, :, 0, 0], expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(PresetError, match="Linear"):
        from_metadata({"Image.BitmapPixelFormat": "Bgr8", "Image.ColorSpaceGamma": "Linear"})

    yolo = from_metadata({"task": "classify", "imgsz": "[320, 320]", "names": "{0: 'a'}"})
    assert yolo is not None and (yolo.size, yolo.scale, yolo.crop) == (
        (320, 320),
        1 / 255,
        "center",
    )
    assert from_metadata({"task": "detect", "imgsz": "[320, 320]"}) is None


HALF = [0.5, 0.5, 0.5]
CONFIGS = {
    "vit": (
        {
            "do_normalize": True,
            "do_resize": True,
            "image_mean": HALF,
            "image_std": HALF,
            "resample": 2,
            "size": {"height": 224, "width": 224},
            "image_processor_type": "ViTImageProcessor",
        },
        {"resize": "stretch", "size": (224, 224), "mean": (0.5,) * 3, "interpolation": "bilinear"},
    ),
    "vit, old": (
        {"do_resize": True, "size": 384, "image_mean": HALF, "image_std": HALF, "resample": 3},
        {"resize": "stretch", "size": (384, 384), "crop": "none", "interpolation": "bicubic"},
    ),
    "clip": (
        {
            "do_center_crop": True,
            "crop_size": 224,
            "do_resize": True,
            "size": 224,
            "image_mean": HALF,
            "image_std": HALF,
            "feature_extractor_type": "CLIPFeatureExtractor",
        },
        {"resize": "shortest_side", "resize_to": 224, "crop": "center", "size": (224, 224)},
    ),
    "deit": (
        {
            "do_center_crop": True,
            "crop_size": {"height": 224, "width": 224},
            "do_resize": True,
            "size": {"height": 256, "width": 256},
            "do_normalize": True,
            "image_mean": HALF,
            "image_std": HALF,
        },
        {"resize": "stretch", "resize_to": 256, "crop": "center", "size": (224, 224)},
    ),
    "convnext": (
        {
            "do_resize": True,
            "size": {"shortest_edge": 224},
            "crop_pct": 0.875,
            "image_mean": HALF,
            "image_std": HALF,
            "image_processor_type": "ConvNextImageProcessor",
        },
        {"resize": "shortest_side", "crop_fraction": 0.875, "crop": "center", "size": (224, 224)},
    ),
    "convnext 384": (
        {"do_resize": True, "size": {"shortest_edge": 384}, "crop_pct": 0.875},
        {"resize": "stretch", "size": (384, 384), "mean": (0.0,)},
    ),
    "mobilevit": (
        {
            "do_flip_channel_order": True,
            "do_normalize": False,
            "do_resize": True,
            "size": {"shortest_edge": 288},
            "do_center_crop": True,
            "crop_size": {"height": 256, "width": 256},
            "rescale_factor": 0.00392156862745098,
        },
        {"channel_order": "BGR", "resize_to": 288, "size": (256, 256), "scale": 1 / 255},
    ),
    "timm": (
        {
            "architecture": "resnet50",
            "pretrained_cfg": {
                "input_size": [3, 224, 224],
                "interpolation": "bicubic",
                "crop_pct": 0.95,
                "crop_mode": "center",
                "mean": list(IMAGENET_MEAN),
                "std": list(IMAGENET_STD),
            },
        },
        {"resize": "shortest_side", "crop_fraction": 0.95, "mean": IMAGENET_MEAN},
    ),
    "timm squash": (
        {
            "input_size": [3, 384, 384],
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "mean": HALF,
            "std": HALF,
        },
        {"resize": "stretch", "size": (384, 384), "interpolation": "bicubic"},
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configs(name: str) -> None:
    config, expected = CONFIGS[name]
    preset = from_config(config, name)
    assert preset is not None
    assert {key: getattr(preset, key) for key in expected} == expected
    assert preset.source == name
    assert preset.tensor(gradient(400, 300)).shape[2:] == preset.size


def test_timm_squash_sees_the_whole_picture() -> None:
    preset = from_config(CONFIGS["timm squash"][0], "x")
    assert preset is not None and preset.geometry(400, 300).box == (0, 0, 400, 300)


def test_config_without_preprocessing() -> None:
    assert from_config({"architectures": ["ViT"], "id2label": {}}, "config.json") is None


def test_find_sidecar(tmp_path: Path) -> None:
    folder = tmp_path / "onnx"
    folder.mkdir()
    model = folder / "model.onnx"
    assert find_sidecar(model) is None
    (folder / "config.json").write_text(json.dumps({"architectures": ["ViT"]}))
    assert find_sidecar(model) is None  # anybody's config
    # From the least to the most particular; each hides the one before.
    hub = tmp_path / "preprocessor_config.json"
    hub.write_text(json.dumps(CONFIGS["vit"][0]))
    timm = folder / "config.json"
    timm.write_text(json.dumps(CONFIGS["timm"][0]))
    stem, full = folder / "model.preset.json", folder / "model.onnx.preset.json"
    timm_text = timm.read_text()
    timm.unlink()
    found = find_sidecar(model)
    assert found is not None and found.source == str(hub)
    timm.write_text(timm_text)
    found = find_sidecar(model)
    assert found is not None and found.source == str(timm)
    stem.write_text(json.dumps({"scale": 2}))
    found = find_sidecar(model)
    assert found is not None and found.scale == 2
    full.write_text(json.dumps({"preprocessing": {"scale": 3}}))
    found = find_sidecar(model)
    assert found is not None and found.scale == 3
    full.write_text("{")
    with pytest.raises(PresetError, match=r"model\.onnx\.preset\.json: not valid JSON"):
        find_sidecar(model)


def test_adapt() -> None:
    imagenet = PRESETS["imagenet"]
    fitted = adapt(imagenet, 3, (299, 299), "NHWC", "float16")
    assert (fitted.size, fitted.layout, fitted.dtype) == ((299, 299), "NHWC", "float16")
    assert fitted.mean == IMAGENET_MEAN
    assert adapt(imagenet, 3, (None, None), "NCHW", "float32").size is None
    assert adapt(imagenet, None, (None, 96), "NCHW", "float32").size == (96, 96)

    grey = adapt(imagenet, 1, (28, 28), "NCHW", "float32")
    assert grey.channel_order == "GRAY" and grey.mean[0] == pytest.approx(0.449)
    assert grey.tensor(flat((255, 255, 255))).shape == (1, 1, 28, 28)

    bytes_ = adapt(imagenet, 3, (224, 224), "NHWC", "uint8")
    assert bytes_.tensor(flat((255, 0, 51)))[0, 9, 9].tolist() == [255, 0, 51]
    assert "uint8" in bytes_.source
    signed = adapt(imagenet, 3, (224, 224), "NHWC", "int8")
    assert signed.tensor(flat((255, 0, 51)))[0, 9, 9].tolist() == [127, -128, -77]


@pytest.mark.parametrize(
    ("fields", "channels", "size", "dtype", "words"),
    [
        ({"size": 224}, 3, (299, 299), "float32", "224 x 224.*takes 299 x 299"),
        ({"channel_order": "GRAY"}, 3, (9, 9), "float32", "one grey channel"),
        ({}, 4, (9, 9), "float32", "4 channels"),
        ({}, 3, (9, 9), "int64", "dtype"),
    ],
)
def test_adapt_contradictions(
    fields: dict[str, object], channels: int, size: tuple[int, int], dtype: str, words: str
) -> None:
    with pytest.raises(PresetError, match=words):
        adapt(Preset(**fields), channels, size, "NCHW", dtype)  # type: ignore[arg-type]


def test_manifest_presets(shared_data: Path) -> None:
    """The collector's own words for real models are read, and say what they say there."""
    entries = json.loads((shared_data / "manifest.json").read_text())["entries"]
    models = [entry for entry in entries if "preprocessing" in entry]
    assert len(models) > 5
    for entry in models:
        preset = Preset.from_json(entry["preprocessing"], entry["file"])
        size = preset.size or (224, 224)
        x = preset.tensor(flat((200, 100, 50), size[1], size[0]))
        pixel = np.array(
            {"RGB": [200, 100, 50], "BGR": [50, 100, 200], "GRAY": [124]}[
                entry["preprocessing"]["channel_order"]
            ]
        )
        held = entry["preprocessing"]
        expected = (pixel * held["scale"] - held["mean"]) / held["std"]
        middle = (
            x[0, size[0] // 2, size[1] // 2]
            if held["layout"] == "NHWC"
            else x[0, :, size[0] // 2, size[1] // 2]
        )
        np.testing.assert_allclose(middle, expected, rtol=2e-3)
        assert x.dtype == held["dtype"]


def test_real_picture_through_a_real_preset(shared_data: Path) -> None:
    path = min((shared_data / "images" / "imagenet").glob("207_*"))
    picture = read_picture(path)
    x = PRESETS["imagenet"].tensor(picture)
    pixels = torchvision(picture, 256, 224, Image.Resampling.BILINEAR)
    expected = ((pixels / 255 - IMAGENET_MEAN) / IMAGENET_STD).transpose(2, 0, 1)
    assert np.abs(x[0] - expected).max() < 0.02  # one step of a byte
