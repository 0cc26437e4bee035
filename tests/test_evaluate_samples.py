"""Data sets of `evaluate`: every kind, from real files; what cannot be used; the choice of some."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from onnxcam.errors import OptionError, PictureError
from onnxcam.evaluate.samples import DataSet, Sample, data_set, limited
from onnxcam.labels import imagenet_labels, read_labels

NAMES = ["cat, house cat", "dog", "golden retriever", "crane", "n01440764 tench, Tinca tinca"]


def picture(path: Path) -> Path:
    """A small real picture; its folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (200, 30, 30)).save(path, "PNG")
    return path


def pictures(folder: Path, *names: str) -> None:
    for name in names:
        picture(folder / name)


def written(path: Path, content: Any) -> Path:
    if not isinstance(content, str | bytes):
        content = json.dumps(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(source: Any, names: list[str] | None = NAMES, **options: Any) -> DataSet:
    found = data_set(source, names, len(NAMES), **options)
    assert len({sample.name for sample in found.samples}) == len(found.samples)
    assert all(sample.path.is_file() for sample in found.samples)
    return found


def brief(found: DataSet) -> list[tuple[Any, ...]]:
    return [(s.name, s.label, *([s.boxes] if s.boxes else [])) for s in found.samples]


# --- folders and pictures ------------------------------------------------------------------------


def test_class_folders(tmp_path: Path) -> None:
    folders = ["1", "House_Cat", "golden_retriever", "3_crane", "2-x", ".git"]
    folders += ["n01440764", "n01440764_tench"]
    pictures(tmp_path, *(f"{name}/a.png" for name in folders), "1/deep er/ü b#2.PNG", "1/.no.png")
    written(tmp_path / "1" / "notes.txt", "no picture")
    found = read(tmp_path)
    assert (found.source, found.kind, found.skipped) == (str(tmp_path), "folder", ())
    assert brief(found) == [
        ("1/a.png", 1),
        ("1/deep er/ü b#2.PNG", 1),
        ("2-x/a.png", 2),
        ("3_crane/a.png", 3),
        ("House_Cat/a.png", 0),
        ("golden_retriever/a.png", 2),
        ("n01440764/a.png", 4),
        ("n01440764_tench/a.png", 4),
    ]
    assert read(tmp_path) == found


def test_folders_that_are_no_class_are_named_once(tmp_path: Path) -> None:
    pictures(tmp_path, "dog/a.png", "golden retreiver/a.png", "golden retreiver/b.png")
    pictures(tmp_path, "9/a.png", "1_crane/a.png", "n99999999/a.png", "z.png", "y.png")
    (tmp_path / "cat").mkdir()
    found = read(tmp_path)
    assert brief(found) == [("dog/a.png", 1)]
    why = dict(found.skipped)
    assert len(why) == len(found.skipped) == 6
    assert "did you mean 'golden retriever'?" in why["golden retreiver"]
    assert why["golden retreiver"].endswith("; 2 pictures")
    assert "the model has 5 classes, 0 to 4" in why["9"]
    assert "different classes, 1 and 3" in why["1_crane"] and "--label-offset" in why["1_crane"]
    assert "not among the model's 5 classes" in why["n99999999"]
    assert why["cat"] == "no pictures in this folder"
    assert why["y.png"] == "lies outside of the class folders, as do 1 more"


def test_an_offset_moves_numbers_only(tmp_path: Path) -> None:
    pictures(tmp_path, "1/a.png", "dog/a.png", "2_dog/a.png", "0/a.png")
    found = read(tmp_path, label_offset=-1)
    assert brief(found) == [("1/a.png", 0), ("2_dog/a.png", 1), ("dog/a.png", 1)]
    assert found.skipped[0][0] == "0" and "(0 with the offset -1)" in found.skipped[0][1]


def test_numbered_folders_need_no_names(tmp_path: Path) -> None:
    pictures(tmp_path, "000/a.png", "4_whatever/a.png", "dog/a.png")
    found = read(tmp_path, names=None)
    assert brief(found) == [("000/a.png", 0), ("4_whatever/a.png", 4)]
    assert "--labels" in found.skipped[0][1]


def test_a_folder_of_splits_says_which_to_name(tmp_path: Path) -> None:
    pictures(tmp_path, "train/dog/a.png", "val/dog/a.png")
    with pytest.raises(OptionError, match="if the folders in it are the classes, name it instead"):
        read(tmp_path)


def test_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path, "b.png", "ü [1].png", "a b.png", "old/c.png")
    found = read(tmp_path)
    assert found.kind == "pictures"
    assert brief(found) == [("a b.png", None), ("b.png", None), ("ü [1].png", None)]
    assert [name for name, _ in found.skipped] == ["old"]
    deep = read(f"{tmp_path}/**/*.png")
    assert brief(deep) == sorted([*brief(found), ("old/c.png", None)])
    assert brief(read(tmp_path / "ü [1].png")) == [("ü [1].png", None)]
    monkeypatch.chdir(tmp_path)
    some = read([Path("b.png"), "old", "b.png", str(written(tmp_path / "list.csv", ""))])
    assert (some.source[:11], some.kind) == ("b.png, old,", "pictures")
    assert brief(some) == [("b.png", None), ("old/c.png", None)]
    assert "a data set of its own" in some.skipped[0][1]


def test_names_that_no_report_could_hold(tmp_path: Path) -> None:
    names = ["a\nb.png", "a\udcffb.png", "a\\nb.png"]
    try:
        pictures(tmp_path, *names)
    except OSError:
        pytest.skip("this file system takes no such names")
    found = read(tmp_path)
    assert {s.path.name for s in found.samples} == set(names)
    assert all(s.name.encode() and "\n" not in s.name for s in found.samples)
    listed = read(written(tmp_path / "l.json", [{"file": name, "label": 0} for name in names]))
    assert len(listed.samples) == 3


# --- tables --------------------------------------------------------------------------------------

TABLE = """image,Class,x0,y0,x1,y1,remark
a.png,dog,1,1,4,5,
sub dir/ü.png,"golden retriever",,,,,"one, two"

a.png,1,2,2.5,6,6,
a.png,dog,1,1,4,5,again
a.png,3,0,0,1,1,
b.png,,,,,,
"""
ROWS = [
    ("a.png", 1, ((1, 1, 4, 5), (2, 2.5, 6, 6))),
    ("sub dir/ü.png", 2),
    ("a.png#2", 3, ((0, 0, 1, 1),)),
    ("b.png", None),
]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("l.csv", TABLE),
        ("l.CSV", "\ufeff" + TABLE.replace("\n", "\r\n")),
        ("l.csv", "\r\n\r\n" + TABLE.replace("\n", "\r\n")),
        ("l.csv", TABLE.replace(",", ", ")),
        ("l.csv", TABLE.replace("one, two", "").replace(",", ";")),
        ("l.tsv", TABLE.replace("one, two", "").replace(",", "\t")),
        ("l.csv", TABLE.replace("sub dir/ü", "sub dir\\ü")),
        ("l.csv", TABLE.replace("ü", "u\u0308")),
        ("l.csv", TABLE.replace("a.png,1,", "a.png,1.0,").replace("a.png,3", "./a.png,3")),
        ("l.csv", TABLE.replace("x0,y0,x1,y1", "xmin,YMIN,xmax,ymax")),
    ],
)
def test_tables(name: str, content: str, tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png", "sub dir/ü.png")
    found = read(written(tmp_path / name, content))
    assert (found.kind, found.skipped) == ("csv", ())
    assert brief(found) == ROWS
    assert found.samples[0].path == tmp_path / "a.png"


def test_boxes_as_sizes_and_sizes_of_pictures(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    sized = written(tmp_path / "l.csv", "file,x,y,width,height\na.png,1,2,3,4\n")
    assert brief(read(sized)) == [("a.png", None, ((1, 2, 4, 6),))]
    tf = "filename,width,height,class,xmin,ymin,xmax,ymax\na.png,8,6,dog,1,2,5,6\n"
    assert brief(read(written(tmp_path / "t.csv", tf))) == [("a.png", 1, ((1, 2, 5, 6),))]


def test_a_table_without_header(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b,c.png")
    absolute = picture(tmp_path / "elsewhere" / "d.png")
    rows = f'a.png,dog\n"b,c.png",0\n{absolute},3\na.png,1,2\n'
    found = read(written(tmp_path / "in" / "l.csv", rows), pictures=tmp_path)
    assert brief(found) == [("a.png", 1), ("b,c.png", 0), ("elsewhere/d.png", 3)]
    assert found.skipped == (("a.png", "line 4: 3 columns instead of 2"),)
    assert brief(read(written(tmp_path / "one.csv", "a.png\n"))) == [("a.png", None)]


def test_masks(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png", "m/a.png", "m/b.png")
    rows = "path,label,mask\na.png,1,m/a.png\nb.png,1,none.png\na.png,1,\na.png,1,m/b.png\n"
    found = read(written(tmp_path / "l.csv", rows))
    assert found.samples == (Sample("a.png", tmp_path / "a.png", 1, (), tmp_path / "m" / "a.png"),)
    assert found.skipped == (
        ("b.png", "mask none.png: there is no such file"),
        ("a.png", "mask b.png: the picture has the mask a.png"),
    )


@pytest.mark.parametrize(
    ("box", "why"),
    [
        ("1,1,1,5", "no area"),
        ("4,1,1,5", "no area"),
        ("nan,1,4,5", "finite"),
        ("1,1,inf,5", "finite"),
        ("1,1,1e999,5", "finite"),
        ("1,one,4,5", "four numbers"),
        ("1,,4,5", "four numbers"),
        ("-9,-9,0,3", "outside"),
    ],
)
def test_bad_boxes(box: str, why: str, tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png")
    rows = f"file,label,x0,y0,x1,y1\na.png,dog,{box}\nb.png,dog,{box}\nb.png,dog,-1,0,2,2\n"
    found = read(written(tmp_path / "l.csv", rows))
    assert brief(found) == [("b.png", 1, ((-1, 0, 2, 2),))]
    assert [name for name, _ in found.skipped] == ["a.png", "b.png"]
    assert all(why in reason for _, reason in found.skipped)
    assert found.skipped[0][1].startswith("line 2: box ")


def test_entries_that_cannot_be_used(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    (tmp_path / "folder.png").mkdir()
    rows = ["gone.png,dog", "gone.png,0", "a.png,dgo", "b.png,dgo", "a.png,dgo", "a.png,5", ",dog"]
    rows += ["folder.png,dog", "a.png," + "x" * 9000, "y" * 9000 + ",dog", "a.png,crane"]
    found = read(written(tmp_path / "l.csv", "\n".join(["file,label", *rows])))
    assert brief(found) == [("a.png", 3)]
    assert [(name[:12], reason[:60]) for name, reason in found.skipped] == [
        ("line 8", "names no file (as 'file')"),
        ("gone.png", "there is no such file"),
        ("folder.png", "there is no such file"),
        ("y" * 12, "there is no such file"),
        ("a.png", "class 'dgo' is not among the model's 5 classes (did you mean"),
        ("a.png", "class 5 does not exist: the model has 5 classes, 0 to 4"),
        ("a.png", "class 'xxxxxxxxxxxxxxxxxxxx…': a name of 9000 characters"),
    ]
    assert "2 more entries of this class" in found.skipped[4][1]


def test_thousands_of_unknown_classes_take_no_time(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    rows = "".join(f"a.png,a caption of number {i}\n" for i in range(20_000))
    source = written(tmp_path / "l.csv", f"file,label\n{rows}a.png,House_CAT\na.png,tench x\n")
    names = [*NAMES, *(f"some class number {i}" for i in range(95))]
    found = data_set(source, names, 100)
    assert brief(found) == [("a.png", 0)]
    assert len(found.skipped) == 20_001
    assert "did you mean" in found.skipped[0][1] and "did you mean" not in found.skipped[-1][1]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("l.csv", b"file,label\n\xff\xfe,1\n", "save it as UTF-8"),
        ("l.csv", "img,label\na,1\n", "columns img, label; the first line must name the columns"),
        ("l.csv", "a.png,1,2,3,4,dog\n", "6 columns and no header"),
        ("l.csv", 'file,label\n"a.png,dog\na.png,dog\n', "line 3: not valid CSV"),
        ("l.csv", "file\n" + "a" * 200_000, "line 2: not valid CSV"),
        ("l.csv", "", "it lists none"),
        ("l.csv", "file,label\n", "it lists none"),
        (
            "l.csv",
            "file,label\nb.png,dog\nc.png,dog\n",
            "b.png: there is no such file; c.png:.*--pi",
        ),
        ("l.csv", "file,label\n" + "".join(f"{i}.png,dog\n" for i in range(9)), "; and 6 more"),
        ("l.csv", "file,label\na.png,dgo\n", "did you mean 'dog'"),
        ("l.json", "[1, 2", "not valid JSON"),
        ("l.json", "[" * 100_000, "not valid JSON"),
        ("l.json", "9" * 5000, "not valid JSON"),
        ("l.json", '{"images": []}', "expected a list of objects with 'file'.*COCO"),
        ("l.json", "[1, null]", "entry 1: expected an object"),
        ("l.jsonl", '{"file": \n', "line 1: not valid JSON"),
        ("l.json", {"images": [], "annotations": [], "categories": []}, "it lists none"),
        ("l.txt", "a.png dog\n", "neither a picture nor a list"),
        ("l.xml", "<annotation/>", "it lists none"),
        ("l.xml", "<html/>", "no annotation of Pascal VOC: its root is <'html'>"),
    ],
)
def test_lists_of_no_use(name: str, content: Any, words: str, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    with pytest.raises(OptionError, match=words) as caught:
        read(written(tmp_path / name, content))
    assert "\n" not in str(caught.value) and str(tmp_path / name) in str(caught.value)


def test_sources_of_no_use(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    picture(tmp_path / "a.png")
    for source in ("emtpy", "empty", "*.jpg"):
        with pytest.raises(PictureError):
            read(tmp_path / source)
    with pytest.raises(OptionError, match="no data set was named"):
        read([])
    with pytest.raises(OptionError, match="nowhere: there is no such folder"):
        read(written(tmp_path / "l.csv", "a.png"), pictures=tmp_path / "nowhere")
    with pytest.raises(OptionError, match="is no list whose pictures lie elsewhere"):
        read(tmp_path, pictures=tmp_path)


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(OptionError, match="permission denied"):
        read(tmp_path)


# --- JSON and COCO -------------------------------------------------------------------------------


def test_json(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png", "c.png")
    entries = [
        {"file": "a.png", "label": "dog", "boxes": [[1, 1, 4, 5], [2, 2, 6, 6]]},
        {"Path": "b.png", "class": 0, "boxes": [], "mask": None},
        {"image": "a.png", "label": 1.0, "x0": 0, "y0": 0, "x1": 1, "y1": 1},
        "c.png",
        {"file": "b.png", "label": True},
        {"file": "b.png", "label": ["dog"]},
        {"file": 7, "label": "dog"},
        {"file": "b.png", "label": 3, "boxes": [[1, 1, 2, 2], [1, 1, 2], [True, 0, 1, 1], "x"]},
        {"file": "b.png", "label": 4, "boxes": [[1, 1, float("nan"), 2]]},
        {"file": "b.png", "label": 4, "boxes": 3},
        {"file": "b.png", "label": 4, "bbox": [1, 1, 2, 2]},
        {"file": "b.png", "label": 4, "x0": 1, "y0": 1, "x1": 2},
        {"file": "a\u0000.png", "label": 4},
        {"file": "\ud800.png", "label": 10**300},
        {"file": "a.png", "mask": 3},
        [],
    ]
    expected = [
        ("a.png", 1, ((1, 1, 4, 5), (2, 2, 6, 6), (0, 0, 1, 1))),
        ("b.png", 0),
        ("c.png", None),
        ("b.png#2", 3, ((1, 1, 2, 2),)),
    ]
    whole = read(written(tmp_path / "l.json", entries))
    lines = read(written(tmp_path / "l.jsonl", "\n\n".join(map(json.dumps, entries)) + "\r\n{\n"))
    assert (whole.kind, lines.kind) == ("json", "json")
    assert brief(whole) == brief(lines) == expected
    assert len(whole.skipped) == 14 and len(lines.skipped) == 15
    for name, reason in whole.skipped:
        assert name.encode() and len(reason) < 120 and "\n" not in reason


def coco(**changes: Any) -> dict[str, Any]:
    return {
        "info": {},
        "images": [
            {"id": 7, "file_name": "val/b.png", "width": 8, "height": 6},
            {"id": 9, "file_name": "a.png"},
            {"id": 10, "file_name": "gone.png"},
            {"id": 11, "file_name": "bare.png"},
        ],
        "categories": [
            {"id": 1, "name": "dog"},
            {"id": 90, "name": "cat"},
            {"id": 3, "name": "hair drier"},
        ],
        "annotations": [
            {"image_id": 9, "category_id": 90, "bbox": [0, 0, 2, 2], "iscrowd": 0},
            {"image_id": 9, "category_id": 1, "bbox": [1, 1, 3.5, 4], "segmentation": [[1, 2]]},
            {"image_id": 7, "category_id": 1, "bbox": [0, 0, 1, 1]},
            {"image_id": 9, "category_id": 1.0, "bbox": [2, 2, 1, 1]},
            {"image_id": 7, "category_id": 90, "bbox": [0, 0, 8, 6], "iscrowd": 1},
            {"image_id": 7, "category_id": 3, "bbox": [0, 0, 8, 6]},
            {"image_id": 9, "category_id": 3, "bbox": [0, 0, 8, 6]},
            {"image_id": 10, "category_id": 1, "bbox": [0, 0, 8, 6]},
            {"image_id": 7, "category_id": 90, "bbox": [0, 0, 0, 6]},
            {"image_id": 8, "category_id": 1, "bbox": [0, 0, 8, 6]},
            {"image_id": 7, "category_id": 4, "bbox": [0, 0, 8, 6]},
            {"image_id": [7], "category_id": {}, "bbox": None},
            {"image_id": 7, "category_id": 90},
            "nothing",
        ],
        **changes,
    }


def test_coco(tmp_path: Path) -> None:
    pictures(tmp_path, "val/b.png", "a.png", "bare.png")
    found = read(written(tmp_path / "instances.json", coco()))
    assert found.kind == "coco"
    assert brief(found) == [
        ("val/b.png", 1, ((0, 0, 1, 1),)),
        ("a.png", 0, ((0, 0, 2, 2),)),
        ("a.png#2", 1, ((1, 1, 4.5, 5), (2, 2, 3, 3))),
    ]
    assert found.skipped == (
        ("val/b.png", "cat: box (0, 0, 0, 6): it has no area; x0 < x1 and y0 < y1 are needed"),
        ("annotation 10", "there is no image 8 with a file_name"),
        ("val/b.png", "there is no category 4 with a name"),
        ("annotation 12", "there is no image [7] with a file_name"),
        ("val/b.png", "cat: box None: expected four numbers"),
        ("annotation 14", "expected an object"),
        ("gone.png", "there is no such file"),
        (
            "val/b.png",
            "class 'hair drier' is not among the model's 5 classes; 1 more entries of this class",
        ),
    )


@pytest.mark.parametrize(
    "places",
    [
        ("json/val/b.png", "json/a.png"),
        ("json/b.png", "json/a.png"),
        ("elsewhere/b.png", "elsewhere/a.png"),
        ("elsewhere/val/b.png", "json/a.png"),
    ],
)
def test_where_the_pictures_of_coco_are(places: tuple[str, ...], tmp_path: Path) -> None:
    pictures(tmp_path, *places)
    (tmp_path / "elsewhere").mkdir(exist_ok=True)
    source = written(tmp_path / "json" / "l.json", coco())
    found = read(source, pictures=tmp_path / "elsewhere")
    assert [s.path for s in found.samples] == [tmp_path / places[i] for i in (0, 1, 1)]


def test_pictures_of_one_name_do_not_stand_for_each_other(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    images = [{"id": 7, "file_name": "x/a.png"}, {"id": 9, "file_name": "y/a.png"}]
    objects = [{"image_id": 7, "category_id": 1, "bbox": [0, 0, 1, 1]}]
    content = coco(images=images, annotations=objects)
    with pytest.raises(OptionError, match=r"x/a\.png: there is no such file"):
        read(written(tmp_path / "l.json", content))
    content["images"].pop()
    assert brief(read(written(tmp_path / "l.json", content))) == [("a.png", 1, ((0, 0, 1, 1),))]


# --- Pascal VOC ----------------------------------------------------------------------------------


def voc(*objects: tuple[Any, ...], filename: str = "a.png", head: str = "") -> str:
    """An annotation; an object is a name, whether it is difficult, and its corners."""
    text = "".join(
        f"<object><name>{name}</name><difficult>{hard}</difficult><part><name>head</name><bndbox>"
        "<xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part><bndbox>"
        f"<xmax>{x1}</xmax><xmin>{x0}</xmin><ymin>{y0}</ymin><ymax>{y1}</ymax></bndbox></object>"
        for name, hard, x0, y0, x1, y1 in objects
    )
    return f"{head}<annotation><filename>{filename}</filename>{text}</annotation>"


def test_voc(tmp_path: Path) -> None:
    pictures(tmp_path / "JPEGImages", "a.png", "b.JPG", "c.png", "d.png")
    xml = tmp_path / "Annotations"
    objects = [("dog", 0, 1, 1, 8, 6), ("cat", 0, 2, 2, 2, 4.5), ("dog", 1, 1, 1, 2, 2)]
    written(xml / "a.xml", voc(*objects, ("dog", 0, 0, 0, 3, 3), ("crane", 1, 1, 1, 2, 2)))
    written(xml / "b.xml", voc(("crane", 1, 3, 3, 5, 5), filename="a.png"))  # renamed since
    written(xml / "c.xml", voc(("zebra", 0, 3, 3, 5, 5), filename="c"))
    written(
        xml / "d.xml", voc(("dog", 0, 5, 1, 3, 2), ("", 0, 1, 1, 2, 2), ("dog", 0, "", 1, 1, 1))
    )
    written(xml / "e.xml", voc(("dog", 0, 1, 1, 2, 2), filename="e.png"))
    written(xml / "f.xml", "<annotation><object>")
    written(xml / "notes.txt", "")
    found = read(tmp_path)
    assert found.kind == "voc"
    assert brief(found) == [
        ("a.png", 1, ((0, 0, 8, 6), (0, 0, 3, 3))),
        ("a.png#2", 0, ((1, 1, 2, 4.5),)),
        ("b.JPG", 2 + 1, ((2, 2, 5, 5),)),
    ]
    assert [(name, reason[:38]) for name, reason in found.skipped] == [
        ("d.png", "d.xml: dog: box (4, 0, 3, 2): it has n"),
        ("d.png", "d.xml: dog: box ['', '1', '1', '1']: e"),
        ("f.xml", "not valid XML (no element found: line "),
        ("e.png", "there is no such file"),
        ("c.png", "class 'zebra' is not among the model's"),
        ("d.png", "the class has no name"),
    ]


def test_voc_beside_the_pictures(tmp_path: Path) -> None:
    pictures(tmp_path, "x y/ü.png")
    source = written(tmp_path / "x y" / "ü.xml", voc(("dog", 0, 1, 1, 8, 6), filename=""))
    expected = [("ü.png", 1, ((0, 0, 8, 6),))]
    assert brief(read(tmp_path / "x y")) == brief(read(source)) == expected
    written(tmp_path / "none" / "ü.xml", source.read_bytes())
    assert brief(read(tmp_path / "none" / "ü.xml", pictures=tmp_path / "x y")) == expected


def test_an_xml_file_among_pictures_is_not_enough(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    written(tmp_path / "settings.xml", "<settings/>")
    assert read(tmp_path).kind == "pictures"


LAUGHS = '<!DOCTYPE a [<!ENTITY a0 "ha">' + "".join(
    f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12)
)
OUTSIDE = '<?xml version="1.0"?>\n<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
GOOD = voc(("dog", 0, 1, 1, 8, 6))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (f"{LAUGHS}]>" + GOOD.replace("dog", "&a11;"), "DOCTYPE"),
        (OUTSIDE + GOOD.replace("dog", "&e;"), "DOCTYPE"),
        ((f"{LAUGHS}]>" + GOOD.replace("dog", "&a11;")).encode("utf-16"), "DOCTYPE"),
        ('<!DOCTYPE a SYSTEM "http://localhost/a.dtd">' + GOOD, "DOCTYPE"),
        (GOOD + " " * (1 << 20), "too many for one annotation"),
        ("<annotation>" + "<a>" * 140_000 + "</a>" * 140_000 + "</annotation>", "bytes|none"),
        (GOOD.replace("dog", "&unknown;"), "not valid XML"),
        ('<?xml version="1.0" encoding="no-such"?>' + GOOD, "not valid XML"),
        (b"\0\1\2", "not valid XML"),
        (b"", "not valid XML"),
    ],
)
def test_hostile_xml(content: str | bytes, why: str, tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png")
    written(tmp_path / "a.xml", content)
    with pytest.raises(OptionError, match=why):
        read(tmp_path / "a.xml")
    written(tmp_path / "b.xml", GOOD)
    assert [s.name for s in read(tmp_path).samples] == ["b.png"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "iso-8859-1"])
def test_encodings_of_xml(encoding: str, tmp_path: Path) -> None:
    pictures(tmp_path, "ü.png")
    head = f'<?xml version="1.0" encoding="{encoding.removesuffix("-sig")}"?>'
    content = voc(("dog", 0, 1, 1, 8, 6), filename="ü.png", head=head).encode(encoding)
    assert brief(read(written(tmp_path / "x.xml", content)))[0][:2] == ("ü.png", 1)


# --- a choice of some ----------------------------------------------------------------------------


def numbered(counts: dict[int | None, int]) -> list[Sample]:
    names = [(f"{label}/{i}", label) for label, count in counts.items() for i in range(count)]
    return [Sample(name, Path(name), label) for name, label in names]


def test_a_limit_spreads_over_the_classes() -> None:
    samples = numbered({0: 50, 1: 3, None: 20, 2: 1})
    for limit, expected in [
        (4, {0: 1, 1: 1, None: 1, 2: 1}),
        (7, {0: 2, 1: 2, None: 2, 2: 1}),
        (12, {0: 4, 1: 3, None: 4, 2: 1}),
    ]:
        found = limited(samples, limit, 5)
        assert Counter(s.label for s in found) == expected
        assert list(found) == [s for s in samples if s in found]
        assert set(found) <= set(limited(samples, limit + 1, 5))
        assert found == limited(samples, limit, 5)
    assert limited(samples, None, 5) == tuple(samples) == limited(samples, 1000, 5)
    assert limited([], 3, 5) == ()
    with pytest.raises(OptionError, match="1 or more"):
        limited(samples, 0, 5)


def test_the_seed_decides() -> None:
    samples = numbered({label: 20 for label in range(10)})
    chosen = [sample for seed in range(400) for sample in limited(samples, 5, seed)]
    picked, labels = Counter(s.name for s in chosen), Counter(s.label for s in chosen)
    assert len(picked) == 200  # 10 each are expected; every sample has its chance
    assert max(picked.values()) < 30
    assert max(labels.values()) - min(labels.values()) < 80  # 200 each are expected


def test_the_choice_is_the_same_everywhere() -> None:
    samples = numbered({0: 9, 1: 9})
    assert [s.name for s in limited(samples, 4, 0)] == ["0/2", "0/5", "1/1", "1/6"]


# --- real data -----------------------------------------------------------------------------------


def test_cifar_as_class_folders(tmp_path: Path, shared_data: Path) -> None:
    names = read_labels(shared_data / "labels" / "cifar10.txt", 10)
    for path in sorted((shared_data / "images" / "cifar10").glob("*.jpg")):
        _, name, number = path.stem.split("_")
        (tmp_path / name).mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / name / f"{number}.jpg")
    found = data_set(tmp_path, names, 10)
    assert (found.kind, len(found.samples), found.skipped) == ("folder", 100, ())
    assert all(names[s.label or 0] == s.path.parent.name for s in found.samples)
    some = limited(found.samples, 20, 1)
    assert set(Counter(s.label for s in some).values()) == {2}


def test_real_boxes_as_coco_json_and_table(tmp_path: Path, shared_data: Path) -> None:
    manifest = json.loads((shared_data / "manifest.json").read_text("utf-8"))
    entries = [e for e in manifest["entries"] if e.get("dataset") == "coco" and e["boxes"]]
    labels = read_labels(shared_data / "labels" / "coco80.txt", 80)
    held: dict[str, list[Any]] = {
        "images": [{"id": i, "file_name": Path(e["file"]).name} for i, e in enumerate(entries)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(labels)],
        "annotations": [],
    }
    rows = []
    for number, entry in enumerate(entries):
        for one in entry["boxes"]:
            x0, y0, x1, y1 = one["box_xyxy"]
            held["annotations"].append(
                {
                    "image_id": number,
                    "category_id": one["label_index"],
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                }
            )
            corners = {"x0": x0, "y0": y0, "x1": x1, "y1": y1}
            rows.append({"file": Path(entry["file"]).name, "label": one["label_name"], **corners})
    folder = shared_data / "images" / "coco"
    table = "\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)])
    whole = data_set(written(tmp_path / "c.json", held), labels, 80, pictures=folder)
    plain = data_set(written(tmp_path / "l.json", rows), labels, 80, pictures=folder)
    listed = data_set(written(tmp_path / "l.csv", table), labels, 80, pictures=folder)
    pairs = {(e["file"], one["label_name"]) for e in entries for one in e["boxes"]}
    assert len(whole.samples) == len(pairs) > 30 and not whole.skipped
    assert plain.samples == listed.samples
    for one, other in zip(whole.samples, plain.samples, strict=True):
        assert (one.name, one.path, one.label) == (other.name, other.path, other.label)
        for box, same in zip(one.boxes, other.boxes, strict=True):
            assert box == pytest.approx(same)
    known = data_set(tmp_path / "c.json", imagenet_labels(1000), 1000, pictures=folder)
    assert 0 < len(known.samples) < len(pairs)
    assert any("class 'person' is not among" in reason for _, reason in known.skipped)
