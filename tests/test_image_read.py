"""Reading pictures: every mode, orientation and kind of damage, with pixels known beforehand."""

from __future__ import annotations

import io
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxcam.errors import PictureError
from onnxcam.image import find_pictures, read_picture

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def corners() -> Image.Image:
    """6 x 4 black, with a red pixel at the top left and a green one at the top right."""
    image = Image.new("RGB", (6, 4))
    image.putpixel((0, 0), RED)
    image.putpixel((5, 0), GREEN)
    return image


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_orientation(kind: str) -> None:
    # Where EXIF's definition puts the stored top left and top right pixel: (row, column).
    stored = {
        1: ((0, 0), (0, 5)),
        2: ((0, 5), (0, 0)),
        3: ((3, 5), (3, 0)),
        4: ((3, 0), (3, 5)),
        5: ((0, 0), (5, 0)),
        6: ((0, 3), (5, 3)),
        7: ((5, 3), (0, 3)),
        8: ((5, 0), (0, 0)),
    }
    options = {"lossless": True} if kind == "WEBP" else {}
    for orientation, (red, green) in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture = read_picture(saved(corners(), kind, exif=exif, **options))
        assert (picture.height, picture.width) == ((4, 6) if orientation < 5 else (6, 4))
        assert tuple(picture.pixels[red]) == RED, orientation
        assert tuple(picture.pixels[green]) == GREEN, orientation
        assert picture.pixels.sum() == 510


def test_orientation_of_an_unloaded_pillow_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    corners().save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as image:
        picture = read_picture(image)
        assert image.size == (6, 4)  # the caller's image is as it was
    assert tuple(picture.pixels[0, 3]) == RED
    assert picture.name == "turned"


def test_damaged_exif_is_passed_over() -> None:
    data = saved(corners(), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f garbage")
    assert tuple(read_picture(data).pixels[0, 0]) == RED


@pytest.mark.parametrize(
    ("image", "kind", "expected"),
    [
        pytest.param(Image.new("L", (2, 1), 77), "PNG", (77, 77, 77), id="L"),
        pytest.param(Image.new("1", (2, 1), 1), "PNG", WHITE, id="1"),
        pytest.param(Image.new("RGB", (2, 1), (1, 2, 3)), "PNG", (1, 2, 3), id="RGB"),
        # 255 * (1 - a) + colour * a, rounded: 128 of 255 is 0.50196
        pytest.param(Image.new("RGBA", (2, 1), (0, 99, 200, 128)), "PNG", (127, 177, 227), id="A"),
        pytest.param(Image.new("RGBA", (2, 1), (9, 9, 9, 0)), "PNG", WHITE, id="RGBA clear"),
        pytest.param(Image.new("LA", (2, 1), (100, 51)), "PNG", (224, 224, 224), id="LA"),
        pytest.param(Image.new("I;16", (2, 1), 65535), "PNG", WHITE, id="I;16 white"),
        pytest.param(Image.new("I;16", (2, 1), 257 * 40), "PNG", (40, 40, 40), id="I;16"),
        pytest.param(Image.new("I;16", (2, 1), 257 * 40), "TIFF", (40, 40, 40), id="I;16 TIFF"),
        pytest.param(Image.new("I", (2, 1), 257 * 40), "TIFF", (40, 40, 40), id="I"),
        pytest.param(Image.new("F", (2, 1), 0.4), "TIFF", (102, 102, 102), id="F"),
        pytest.param(Image.new("CMYK", (2, 1), (0, 255, 255, 0)), "TIFF", RED, id="CMYK"),
        pytest.param(Image.new("YCbCr", (2, 1), (76, 85, 255)), "TIFF", (254, 0, 0), id="YCbCr"),
        pytest.param(Image.new("LAB", (2, 1), (255, 128, 128)), "TIFF", WHITE, id="LAB"),
    ],
)
def test_modes(
    image: Image.Image, kind: str, expected: tuple[int, int, int], tmp_path: Path
) -> None:
    path = tmp_path / f"picture.{kind.lower()}"
    image.save(path)
    for picture in (read_picture(path), read_picture(image)):
        assert picture.pixels.dtype == np.uint8
        assert picture.pixels.shape == (1, 2, 3)
        assert np.abs(picture.pixels.astype(int) - expected).max() <= (kind == "TIFF")


@pytest.mark.parametrize("mode", ["La", "RGBa", "PA", "RGBX", "HSV", "I;16B"])
def test_modes_in_memory(mode: str) -> None:
    source = {"La": "LA", "RGBa": "RGBA", "PA": "P", "I;16B": "I;16"}.get(mode, "RGB")
    grey = 128 * 257 if source == "I;16" else 128
    bands = len(Image.new(source, (1, 1)).getbands())
    opaque = {"LA": (128, 255), "RGBA": (128, 128, 128, 255)}.get(source, (128,) * bands)
    image = Image.new(source, (3, 2), opaque if bands > 1 else grey)
    if source == "P":
        image.putpalette([i for i in range(256) for _ in range(3)])
    if mode == "I;16B":
        image = Image.frombytes("I;16B", (3, 2), struct.pack(">6H", *[grey] * 6))
    else:
        image = image.convert(mode)
    assert read_picture(image).pixels.tolist() == [[[128] * 3] * 3] * 2


def test_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "p.png", transparency=0)
    assert read_picture(tmp_path / "p.png").pixels.tolist() == [[list(WHITE), list(BLUE)]]


def test_transparent_colour_of_an_rgb_file(tmp_path: Path) -> None:
    corners().save(tmp_path / "key.png", transparency=GREEN)
    pixels = read_picture(tmp_path / "key.png").pixels
    assert tuple(pixels[0, 5]) == WHITE
    assert tuple(pixels[0, 0]) == RED


def test_wide_ranges_are_stretched() -> None:
    ints = Image.fromarray(np.array([[-10, 0, 90]], np.int32))
    assert read_picture(ints).pixels[0, :, 0].tolist() == [0, 26, 255]
    floats = Image.fromarray(np.array([[0, 50, 200]], np.float32))
    assert read_picture(floats).pixels[0, :, 0].tolist() == [0, 64, 255]
    same = Image.fromarray(np.full((1, 2), -3.0, np.float32))
    assert read_picture(same).pixels.tolist() == [[[0] * 3] * 2]


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (3, 3), colour) for colour in (RED, BLUE)]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert read_picture(data).pixels.tolist() == [[list(RED)] * 3] * 3


def test_adobe_cmyk_jpeg() -> None:
    """Pillow writes CMYK JPEGs with Adobe's marker, inverted, and must find the red again."""
    data = saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100)
    assert b"Adobe" in data
    assert np.abs(read_picture(data).pixels.astype(int) - RED).max() <= 3


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[0, 200]], np.uint8), [[0] * 3, [200] * 3]),
        (np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8), [[1, 2, 3], [4, 5, 6]]),
        (np.array([[[0, 0, 0, 0], [9, 8, 7, 255]]], np.uint8), [[255] * 3, [9, 8, 7]]),
        (np.array([[[0.0], [1.0]]], np.float64), [[0] * 3, [255] * 3]),
        (np.array([[0.5, 1.0]], np.float16), [[128] * 3, [255] * 3]),
        (np.array([[257, 65535]], np.uint16), [[1] * 3, [255] * 3]),
        (np.array([[257, 65535]], ">u2"), [[1] * 3, [255] * 3]),
        (np.array([[False, True]]), [[0] * 3, [255] * 3]),
    ],
)
def test_arrays(array: np.ndarray, expected: list[list[int]]) -> None:
    picture = read_picture(array)
    assert picture.pixels.tolist() == [expected]
    assert picture.name == "picture"
    before = picture.pixels.copy()
    array[:] = 0
    assert (picture.pixels == before).all()  # a copy: later changes do not reach the picture


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.full((2, 2), np.nan), "NaN"),
        (np.full((2, 2), 200.0), "0 to 1"),
        (np.zeros((2, 2), np.int64), "int64"),
        (np.zeros((3, 8, 8), np.uint8), "channels last"),
        (np.zeros((1, 8, 8, 3), np.uint8), "channels last"),
        (np.zeros(5, np.uint8), "channels last"),
    ],
)
def test_arrays_that_are_no_picture(array: np.ndarray, words: str) -> None:
    with pytest.raises(PictureError, match=words):
        read_picture(array)


def test_one_pixel_and_names(tmp_path: Path) -> None:
    path = tmp_path / "tiny.dot.png"
    Image.new("RGB", (1, 1), BLUE).save(path)
    assert read_picture(path).pixels.tolist() == [[list(BLUE)]]
    assert read_picture(str(path)).name == "tiny.dot"
    with path.open("rb") as stream:
        assert read_picture(stream).name == "tiny.dot"
    assert read_picture(io.BytesIO(path.read_bytes())).name == "picture"


def test_missing_folder_and_text_mode(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="no such file"):
        read_picture(tmp_path / "none.jpg")
    with pytest.raises(PictureError, match="local files"):
        read_picture("https://example.org/dog.jpg")
    with pytest.raises(PictureError, match="is a folder"):
        read_picture(tmp_path)
    with pytest.raises(PictureError, match="cannot be opened"):
        read_picture("a\0b.png")
    with pytest.raises(PictureError, match="binary mode"):
        read_picture(io.StringIO("text"))  # type: ignore[arg-type]
    with pytest.raises(PictureError, match="from int"):
        read_picture(7)  # type: ignore[arg-type]


def test_empty_and_foreign_files(tmp_path: Path) -> None:
    empty, text = tmp_path / "empty.png", tmp_path / "text.jpg"
    empty.touch()
    text.write_text("this is no picture at all, whatever its name says\n" * 20)
    with pytest.raises(PictureError, match="empty"):
        read_picture(empty)
    with pytest.raises(PictureError, match="not a picture"):
        read_picture(text)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7])
def test_truncated(kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = saved(Image.fromarray(noise), kind)
    with pytest.raises(PictureError, match=r"damaged|not a picture") as error:
        read_picture(data[: int(len(data) * share)])
    assert "\n" not in str(error.value)


def test_max_pixels_is_asked_before_decoding() -> None:
    # 10 GB once decoded, and damaged: only the header can have been read.
    with pytest.raises(PictureError, match=r"60000 x 60000 = 3,600,000,000 .*--max-pixels"):
        read_picture(png_header(60000, 60000))
    with pytest.raises(PictureError, match="--max-pixels"):
        read_picture(np.zeros((10, 11, 3), np.uint8), max_pixels=109)
    with pytest.raises(PictureError, match="--max-pixels"):
        read_picture(corners(), max_pixels=23)
    assert read_picture(corners(), max_pixels=24).width == 6


def test_pillows_own_limit_does_not_interfere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither Pillow's warning (an error in this suite) nor its exception comes through."""
    for kind in ("PNG", "TIFF", "GIF", "WEBP", "BMP"):
        data = saved(corners().resize((60, 40)), kind)
        for limit in (1500, 100):  # warns from 1500, raises from 2 * 100
            monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
            if kind in ("TIFF", "WEBP") and limit == 100:  # these plugins ask by themselves
                with pytest.raises(PictureError, match="larger than Pillow"):
                    read_picture(data)
            else:
                assert read_picture(data).width == 60
            assert limit == Image.MAX_IMAGE_PIXELS


def test_threads_read_the_same() -> None:
    data = saved(corners(), "PNG")
    sums: list[int] = []
    threads = [
        threading.Thread(target=lambda: sums.append(int(read_picture(data).pixels.sum())))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sums == [510] * 8


@pytest.fixture
def album(tmp_path: Path) -> Path:
    for name in ("b.png", "a.JPG", "deep/c.webp", "deep/.hidden.png", "notes.txt", ".git/d.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def test_find_pictures(album: Path) -> None:
    def names(*arguments: Path | str, **options: bool) -> list[str]:
        return [str(p.relative_to(album)) for p in find_pictures(arguments, **options)]

    assert names(album) == ["a.JPG", "b.png", "deep/c.webp"]
    assert names(album, recursive=False) == ["a.JPG", "b.png"]
    assert names(f"{album}/*") == ["a.JPG", "b.png"]
    assert names(f"{album}/**/*.webp") == ["deep/c.webp"]
    assert names(album / "b.png", album, album / "notes.txt") == [
        "b.png",
        "a.JPG",
        "deep/c.webp",
        "notes.txt",
    ]


def test_find_pictures_that_are_not_there(album: Path) -> None:
    with pytest.raises(PictureError, match=r"did you mean 'b\.png'"):
        find_pictures([album / "bb.png"])
    with pytest.raises(PictureError, match="matches nothing"):
        find_pictures([f"{album}/*.gif"])
    with pytest.raises(PictureError, match="none of them a picture"):
        find_pictures([f"{album}/*.txt"])
    (album / "void").mkdir()
    with pytest.raises(PictureError, match="no pictures in this folder"):
        find_pictures([album / "void"])
    odd = album / "a[1].png"
    odd.write_bytes(b"x")
    assert find_pictures([odd]) == [odd]  # a name that looks like a pattern
