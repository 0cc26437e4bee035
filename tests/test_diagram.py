"""The picture of the path: well-formed whatever the names are, and no text leaves its place."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from xml.etree import ElementTree

import pytest

import onnxcam
from models import LIGHT, tiny
from onnxcam.diagram import EM, WIDTH, shortened, svg
from onnxcam.graph.chain import chain_of

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</text><script>alert(1)</script>&\"'\x00\x1b[31m\n" + "界" * 40 + "x" * 200


def page(source: object, layer: str | int | None = None, title: str = "t") -> ElementTree.Element:
    classifier = onnxcam.load(source)  # type: ignore[arg-type]
    taken = classifier.default if layer is None else classifier.layer(layer)
    return ElementTree.fromstring(svg(chain_of(classifier, taken), title, ["one", title], [title]))


def texts(root: ElementTree.Element) -> list[str]:
    """What is written on the page, tooltips left out."""
    return ["".join([t.text or "", *(c.tail or "" for c in t)]) for t in root.iter(f"{SVG}text")]


def spans(root: ElementTree.Element) -> list[tuple[float, float, str]]:
    """Left and right end of every text, and the text."""
    found = []
    for element, shown in zip(root.iter(f"{SVG}text"), texts(root), strict=True):
        kinds = element.get("class", "").split()
        size = 17 if "title" in kinds else 11 if "op" in kinds else 12
        columns = sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in shown)
        x, wide = float(element.get("x", "nan")), columns * size * EM
        share = {"start": 0.0, "middle": 0.5, "end": 1.0}[element.get("text-anchor", "")]
        found.append((x - share * wide, x + (1 - share) * wide, shown))
    return found


def test_it_shows_the_path_and_the_cut() -> None:
    root = page(tiny(), title="the model")
    shown = texts(root)
    for text in ("the model", "image", "Conv", "Relu", "map -1: a", "GlobalAveragePool", "score",
                 "features", "head", "N × 6 × 8 × 8", "N × 4"):  # fmt: skip
        assert text in shown, text
    line = next(p for p in root.iter(f"{SVG}path") if p.get("class") == "cut")
    at = float(line.get("d", "").split()[1].split("H")[0])
    rows = {t: float(e.get("y", "")) for e, t in zip(root.iter(f"{SVG}text"), shown, strict=True)}
    assert rows["image"] < rows["Relu"] < rows["map -1: a"] < at < rows["GlobalAveragePool"]
    assert rows["features"] < at < rows["head"]
    (taken,) = [g for g in root.iter(f"{SVG}g") if g[0].get("class") == "taken"]
    assert (taken[1].text or "").endswith(": a (N × 6 × 8 × 8), feature map -1")


def test_without_a_cut_there_is_no_line() -> None:
    classifier = onnxcam.load(tiny())
    root = ElementTree.fromstring(svg(chain_of(classifier, None), "t"))
    assert not {"features", "head"} & set(texts(root))
    assert not [p for p in root.iter() if p.get("class") in ("cut", "taken")]


def test_a_cut_in_a_branch_lies_between_its_operators(goldens: Path) -> None:
    root = page(goldens / "tiny_vit/ts17.onnx")
    assert [p.get("class") for p in root.iter(f"{SVG}path")].count("cut") == 1
    at = next(float(p.get("d", "").split()[1].split("H")[0]) for p in root.iter(f"{SVG}path")
              if p.get("class") == "cut")  # fmt: skip
    chips = [(float(g[0].get("y", "")), g[0].get("class")) for g in root.iter(f"{SVG}g")]
    place = next(i for i, (_, kind) in enumerate(chips) if kind == "taken")
    assert all(y + 22 <= at for y, _ in chips[: place + 1])
    assert all(y > at for y, _ in chips[place + 1 :])


def test_hostile_names_do_no_harm() -> None:
    proto = tiny()
    proto.graph.name = HOSTILE
    for node in proto.graph.node:
        node.name = HOSTILE + node.output[0]
        node.output[0] = HOSTILE + node.output[0]
        if node.op_type != "Conv":
            node.input[0] = HOSTILE + node.input[0]
    proto.graph.output[0].name = HOSTILE + "y"
    root = page(proto, title=HOSTILE)
    assert not [e for e in root.iter() if "script" in e.tag]
    whole = ElementTree.tostring(root, "unicode")
    assert not any(c in whole for c in "\x00\x1b")
    titles = [t.text or "" for t in root.iter(f"{SVG}title")]
    assert any("<script>alert(1)</script>" in t and "x" * 200 in t for t in titles)
    assert any("…" in text for text in texts(root))
    for left, right, text in spans(root):
        assert left >= 0 and right <= WIDTH + 1, text


@pytest.mark.parametrize(
    "net", ["light_resnet50", "light_densenet121", "light_inception_v2", "light_shufflenet"]
)
def test_no_text_leaves_the_page_or_its_chip(net: str) -> None:
    root = page(LIGHT / f"{net}.onnx", title="m" * 300)
    for left, right, text in spans(root):
        assert left >= 0 and right <= WIDTH + 1, text
    for group in root.iter(f"{SVG}g"):
        rect, (left, right, _) = group[0], spans(group)[0]
        start = float(rect.get("x", ""))
        assert start <= left and right <= start + float(rect.get("width", "")) + 1
    lowest = max(
        float(r.get("y", "0")) + float(r.get("height", "")) for r in root.iter(SVG + "rect")
    )
    assert lowest <= float(root.get("height", ""))


@pytest.mark.parametrize(
    ("text", "most", "short"),
    [
        ("abcdef", 6, "abcdef"),
        ("abcdefg", 6, "abc…fg"),
        ("abcdefg", 1, "…"),
        ("界界界界", 5, "界…界"),
        ("a\nb", 9, "a\ufffdb"),
    ],
)
def test_texts_are_cut_in_their_middle(text: str, most: int, short: str) -> None:
    assert shortened(text, most) == short
