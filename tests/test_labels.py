"""Class names: every source, and what a user can call a class."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onnxcam.errors import OptionError, TargetError
from onnxcam.labels import from_metadata, imagenet_labels, read_labels, resolve_target

ANIMALS = ["tabby, tabby cat", "Egyptian cat", "crane", "crane, machine", "golden_retriever"]


def test_imagenet() -> None:
    names = imagenet_labels(1000)
    assert names is not None and len(names) == 1000
    assert names[207] == "golden retriever" and names[281] == "tabby, tabby cat"
    shifted = imagenet_labels(1001)
    assert shifted is not None and shifted[0] == "background" and shifted[1:] == names
    assert imagenet_labels(10) is None


@pytest.mark.parametrize(
    "text",
    [
        "cat\ndog\n",
        "\ufeffcat\r\n dog \r\n\r\n",
        '["cat", "dog"]',
        '{"1": "dog", "0": "cat"}',
        '{"id2label": {"0": "cat", "1": "dog"}, "label2id": {}}',
        '{"labels": ["cat", "dog"]}',
    ],
)
def test_read_labels(text: str, tmp_path: Path) -> None:
    path = tmp_path / "labels"
    path.write_text(text, "utf-8")
    assert read_labels(path, 2) == ["cat", "dog"] == read_labels(path)
    with pytest.raises(OptionError, match="2 names, but the model has 3 classes"):
        read_labels(path, 3)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no names"),
        (b"\n \n", "no names"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"[1, 2", "not valid JSON"),
        (b'[["a"], "b"]', "one plain name"),
        (b'{"0": "a", "2": "b"}', "none for index 1"),
        (b'{"cat": 0}', "class indices"),
        (b'{"labels": 3}', "expected a list"),
    ],
)
def test_bad_label_files(data: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "labels"
    path.write_bytes(data)
    with pytest.raises(OptionError, match=words):
        read_labels(path, 2)


def test_missing_label_file(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no such file"):
        read_labels(tmp_path / "none", 2)


def test_metadata() -> None:
    assert from_metadata({}) is None
    own = {"onnxcam.labels": json.dumps(["cat", "dog"]), "names": "{0: 'x', 1: 'y'}"}
    assert from_metadata(own, 2) == ["cat", "dog"]
    with pytest.raises(OptionError, match="2 names"):
        from_metadata(own, 3)
    with pytest.raises(OptionError, match="not usable"):
        from_metadata({"onnxcam.labels": "["})
    names = {"names": "{0: 'cat', 1: \"dog's\"}"}
    assert from_metadata(names, 2) == ["cat", "dog's"]
    assert from_metadata(names, 5) is None
    for text in ("__import__('os')", "{0:", "7", "{'a': 'b'}", "(" * 500):
        assert from_metadata({"names": text}, 2) is None


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("1", 1),
        (3, 3),
        (" 0 ", 0),
        ("egyptian CAT", 1),
        ("Tabby", 0),
        ("tabby cat", 0),
        ("tabby, tabby cat", 0),
        ("crane", 2),  # the whole name wins over a synonym
        ("machine", 3),
        ("Golden Retriever", 4),
    ],
)
def test_resolve_target(text: str | int, index: int) -> None:
    assert resolve_target(text, ANIMALS, 5) == index


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("5", "5 classes, 0 to 4"),
        (-1, "0 to 4"),
        ("tabi cat", "did you mean 'tabby cat'"),
        ("zebra", "not among the model's 5 classes$"),
        ("", "not among"),
    ],
)
def test_unknown_targets(text: str | int, words: str) -> None:
    with pytest.raises(TargetError, match=words):
        resolve_target(text, ANIMALS, 5)


def test_ambiguous_and_nameless_targets() -> None:
    with pytest.raises(TargetError, match=r"ambiguous: 0 \(crane\), 1 \(crane\)"):
        resolve_target("crane", ["crane", "crane"], 2)
    with pytest.raises(TargetError, match="--labels"):
        resolve_target("cat", None, 2)
    assert resolve_target("1", None, 2) == 1
