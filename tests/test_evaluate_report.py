"""The report: all numbers are there, no name of other people breaks it, its sorting is right."""

from __future__ import annotations

import json
import math
import re
import subprocess
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from typing import Any

import browsing
import pytest

from onnxcam.evaluate import gallery, markup, plots
from onnxcam.evaluate.report import best_and_near, page

VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta"}
HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)>&\"'{{data}}\x00\u202e\udc80"
)
METRICS = [
    {"name": "drop-20", "title": "Average Drop %, top 20 %", "group": "Average Drop",
     "better": "less", "unit": "%", "formula": "100 · max(0, Y − O) / Y", "source": "Sec. 5.1"},
    {"name": "insertion", "title": "Insertion AUC", "group": "Curves", "better": "more",
     "unit": "", "formula": "area", "source": "RISE"},
]  # fmt: skip
METHODS = [{"name": "grad-cam", "title": "Grad-CAM"}, {"name": "ablation-cam", "title": "Ablation"}]
NOTHING_AT_ALL: dict[str, list[Any]] = {
    key: []
    for key in ("metrics", "methods", "summary", "tests", "bands", "curves", "rows", "failures")
}


def values(number: int, method: int) -> dict[str, float | None]:
    """Of picture `number`; the fourth has no drop."""
    drop = None if number == 3 else 10.0 * ((number * 7) % 10) + method
    return {"drop-20": drop, "insertion": 0.1 * number + 0.01 * method}


def study(models: int = 1, pictures: int = 5, **changed: Any) -> dict[str, Any]:
    names = [f"model{i}.onnx" for i in range(models)]
    rows = [
        {"model": model, "picture": f"photo{i}.jpg", "method": method["name"], "target": 200 + i,
         "target_name": f"dog {i}", "predicted_name": "cat" if i == 1 else f"dog {i}",
         "probability": 0.875, "values": values(i, j)}
        for i, model, (j, method) in product(range(pictures), names, enumerate(METHODS))
    ]  # fmt: skip
    summary = [
        {"model": model, "method": method["name"], "metric": metric["name"], "mean": 12.5 + i + j,
         "low": 10.25 + i + j, "high": 14.75 + i + j, "count": 71}
        for model, (i, metric), (j, method) in product(
            names, enumerate(METRICS), enumerate(METHODS))
    ]  # fmt: skip
    tests = [
        {"model": model, "metric": metric["name"], "a": "grad-cam", "b": "ablation-cam",
         "difference": -1.0, "low": -2.5, "high": 0.5, "p": p, "count": 69, "wins": 40,
         "ties": 2, "losses": 27}
        for model in names for metric, p in zip(METRICS, (0.03, 0.25), strict=True)
    ]  # fmt: skip
    curves = [
        {"model": model, "method": method["name"], "name": name, "x": [0.0, 0.5, 1.0],
         "y": [0.0, 0.5, 0.9], "low": [0.0, 0.4, 0.8], "high": [0.1, 0.6, 1.0]}
        for model, name, method in product(names, ("insertion-blur", "deletion-mean"), METHODS)
    ]  # fmt: skip
    bands = [
        {"model": model, "low": low, "high": high, "pictures": pictures, "few": few,
         **{key: [{k: v for k, v in row.items() if k != "model"} for row in rows_
                  if row["model"] == model] for key, rows_ in held.items()}}
        for model, (low, high, pictures, few) in product(
            names, ((0.5, 0.9, 3, True), (0.99, 1.0, 68, False)))
        for held in ({"summary": summary, "tests": tests},)
    ]  # fmt: skip
    return {
        "onnxcam": "0.1.0", "made": "2026-11-27T10:00:00", "command": "onnxcam evaluate m.onnx d",
        "models": [{"name": name, "file": f"/m/{name}", "layer": "relu5", "classes": 1000,
                    "preset": "imagenet"} for name in names],
        "data": {"source": "photos", "kind": "folder", "pictures": pictures, "with_boxes": 3,
                 "explained": "the labelled class"},
        "settings": {"seed": 0, "limit": None, "cached": True},
        "metrics": METRICS, "methods": METHODS, "summary": summary, "tests": tests,
        "bands": bands, "curves": curves, "rows": rows,
        "failures": [{"picture": "x.jpg", "reason": "truncated"}],
        "inferences": 12345, "seconds": 67.8, "throughput": 0.83, **changed,
    }  # fmt: skip


def no_picture(name: str, method: str) -> bytes | None:
    return None


class Balanced(HTMLParser):
    """Reads a page and refuses one whose tags are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open, self.words = list[str](), list[str]()
        self.scripts, self.ids = list[tuple[dict[str, str | None], str]](), list[str]()
        self.heads = list[dict[str, str | None]]()
        self.attributes = list[tuple[str, str, str]]()
        self.feed(html)
        self.close()
        assert not self.open, self.open
        assert len(set(self.ids)) == len(self.ids)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert len(found) == len(attrs), (tag, attrs)
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        self.ids += [value for key, value in attrs if key == "id" and value]
        if tag == "th":
            self.heads.append(found)
        if tag == "script":
            self.scripts.append((found, ""))
        if tag not in VOID and not (self.get_starttag_text() or "").endswith("/>"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag, (tag, self.open)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            attrs, text = self.scripts[-1]
            self.scripts[-1] = attrs, text + data
        elif self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)

    def blob(self, name: str) -> Any:
        """The JSON of a script element; JavaScript's parser knows no NaN either."""

        def refuse(constant: str) -> None:
            raise AssertionError(constant)

        (found,) = (text for attrs, text in self.scripts if attrs.get("id") == name)
        return json.loads(found, parse_constant=refuse)


def read(study_: Mapping[str, Any], pictures: gallery.Pictures = no_picture) -> Balanced:
    html = page(study_, pictures)
    html.encode("utf-8")
    return Balanced(html)


def test_everything_is_there() -> None:
    found = read(study())
    for words in (
        "model0.onnx", "5 pictures of photos (folder, 3 with boxes)", "Grad-CAM", "Ablation",
        "12\u202f345 inferences in 1 min 8 s at 83\u00a0%", "12.5\u00a0%", "10.2 to 14.8, n = 71",
        "13.500", "14.500", "11.250 to 15.750", "100 · max(0, Y − O) / Y", "Sec. 5.1",
        "0.030", "0.250", "−1.0\u00a0%", "−2.5 to 0.5", "−2.500 to 0.500", "x.jpg", "truncated",
        "2 tests, 1 with p < 0.05", "seed", "cached", "yes", "onnxcam evaluate m.onnx d", "relu5",
        "Insertion (blur)", "share of pixels taken away",
    ):  # fmt: skip
        assert words in found.text, words
    (row,) = re.findall(r"<td class=.n.>40.*?</tr>", page(study(), no_picture).split("0.250")[1])
    assert re.findall(r"\d+", row.replace('"n"', "")) == ["40", "2", "27", "69"]
    data = found.blob("data")
    assert [one["name"] for one in data["pictures"]] == [f"photo{i}.jpg" for i in range(5)]
    (block,) = data["pictures"][2]["blocks"]
    assert block["values"] == [[40.0, 0.2], [41.0, 0.21]]
    assert (block["target"], block["index"], block["probability"]) == ("dog 2", 202, 0.875)
    assert all(head.get("scope") for head in found.heads)
    assert ("html", "lang", "en") in found.attributes
    links = {value[1:] for _, key, value in found.attributes if key == "href" and value[0] == "#"}
    assert links <= set(found.ids)


def checked(mode: str = "cascading", **changed: Any) -> list[dict[str, Any]]:
    """Facts of two methods, the second of which notices nothing; a gap at the second layer."""

    def alike(mean: float | None) -> dict[str, Any]:
        return {"mean": mean, "error": None if mean is None else 0.0625, "count": 4}

    found = []
    for method, means in (("grad-cam", (0.25, None, -0.125)), ("ablation-cam", (1.0, 0.75, 0.5))):
        steps = [
            {"layer": f"conv{3 - i}", "randomised": i + 1, "kept": 1, "blank": 2, "failed": 0,
             "alike": dict.fromkeys(("ssim", "rank", "hog"), alike(mean))}
            for i, mean in enumerate(means)
        ]  # fmt: skip
        word = "notices" if method == "grad-cam" else "does NOT notice"
        found.append({
            "method": method, "model": "model0.onnx", "mode": mode, "layers": 5, "pictures": 4,
            "notices": method == "grad-cam", "verdict": f"{method} {word} randomised weights",
            "unrelated": {"ssim": alike(0.375)}, "steps": steps, **changed,
        })  # fmt: skip
    return found


def test_sanity_checks_have_verdicts_plots_and_tables() -> None:
    html = page(study(sanity=[*checked(), *checked("independent")]), no_picture)
    found = Balanced(html)
    assert "Sanity checks" not in page(study(), no_picture)
    assert "#sanity" in [value for _, key, value in found.attributes if key == "href"]
    inside = html.split('<section id="sanity">')[1].split("</section>")[0]
    assert '<li class="wrong">ablation-cam does NOT notice randomised weights</li>' in inside
    assert "<li>grad-cam notices randomised weights</li>" in inside
    assert inside.count("<figure>") == 2 * 3 and inside.count("<details>") == 2 * 2
    for words in ("SSIM", "Rank correlation", "HOG correlation", "conv3", "0.250 ", "± 0.062",
                  "−0.125", "at 3 of 5 layers", "maps of different pictures", "0.375"):  # fmt: skip
        assert words in Balanced(inside).text, words
    first = inside.split("<figure>")[1]
    assert first.count('<path class="curve c0"') == 2 + 1  # two runs beside the gap, the legend
    assert first.count("<circle") == 2 + 3
    assert "style=" not in inside and "<style" not in inside


def test_sanity_checks_bear_any_names_and_gaps() -> None:
    nasty = '</svg><script>"&'
    checks = checked(model=nasty, verdict=nasty, unrelated={})
    for check in checks:
        check["steps"] = [{**step, "layer": nasty * 9} for step in check["steps"][1:2]]
        nothing = {"mean": None, "error": None, "count": 0}
        check["steps"][0]["alike"] = {name: nothing for name in ("ssim", "rank", "hog")}
    found = read(study(2, sanity=checks))
    assert nasty * 9 in found.text and f"one after the other ({nasty})" in found.text
    assert len(found.scripts) == len(read(study(2)).scripts)
    read(study(sanity=[{**check, "steps": []} for check in checks]))


def test_hostile_names_do_no_harm() -> None:
    def everywhere(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: everywhere(one) for key, one in part.items()}
        if isinstance(part, list):
            return [everywhere(one) for one in part]
        keep = {"less", "more", "%", "", "2026-11-27T10:00:00"}
        return part + HOSTILE if isinstance(part, str) and part not in keep else part

    plain, hostile = read(study(2)), read(everywhere(study(2)))
    assert len(hostile.scripts) == len(plain.scripts)
    assert [a for a, _ in hostile.scripts] == [a for a, _ in plain.scripts]
    assert [t for t, *_ in hostile.attributes] == [t for t, *_ in plain.attributes]
    assert [k for _, k, _ in hostile.attributes] == [k for _, k, _ in plain.attributes]
    assert "photo1.jpg</script><script>alert(1)" in hostile.blob("data")["pictures"][1]["name"]
    assert "{{data}}" in hostile.text
    assert not {"\x00", "\u202e", "\udc80"} & set(hostile.text + str(hostile.blob("data")))


def test_nothing_is_loaded_from_elsewhere() -> None:
    found = read(study(), lambda name, method: b"\xff\xd8")
    (policy,) = [v for t, k, v in found.attributes if k == "content" and "default-src" in v]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    loaded = [v for t, k, v in found.attributes if k in ("src", "href", "action", "data")]
    assert all(value.startswith(("#", "data:")) for value in loaded)
    assert not [k for _, k, _ in found.attributes if k == "style" or k.startswith("on")]
    assert "http" not in "".join(text for _, text in found.scripts)


def test_pictures_are_asked_for_once_and_may_be_missing() -> None:
    asked = []

    def pictures(name: str, method: str) -> bytes | None:
        asked.append((name, method))
        return None if (name, method) == ("photo1.jpg", "grad-cam") else f"{name}{method}".encode()

    found = read(study(), pictures)
    assert len(asked) == len(set(asked)) == 5 * 3
    first, second = found.blob("p0"), found.blob("p1")
    assert len(first) == 3 and None not in first and len(set(first)) == 3
    assert second[1] is None and second[0] and second[2]


def test_overlays_of_further_models() -> None:
    many = study(2)
    assert read(many, lambda n, m: b"x").blob("p0")[1:] == ["eA==", "eA==", None, None]
    for row in many["rows"]:
        if row["model"] == "model1.onnx":
            row["overlay"] = f"1/{row['method']}"
    asked = list[str]()
    read(many, lambda n, m: asked.append(m))  # type: ignore[func-returns-value]
    assert asked[:5] == ["", "grad-cam", "ablation-cam", "1/grad-cam", "1/ablation-cam"]


def test_several_models_have_a_block_each() -> None:
    found = read(study(3))
    html = page(study(3), no_picture)
    assert html.count('<table class="summary">') == 3
    assert html.count("<figure>") == 3 * 2
    assert [block["model"] for block in found.blob("data")["pictures"][0]["blocks"]] == [0, 1, 2]


def test_bands_of_confidence() -> None:
    html = page(study(2), no_picture)
    shown = html.split('<section id="bands">')[1].split("</section>")[0]
    assert shown.count("<table") == 2 and "2 bands on model1.onnx" in shown
    heads = re.findall(r"([\d.]+ to [\d.]+)<small>([^<]*)", shown)
    assert heads == [("0.5 to 0.9", "3 pictures, too few"), ("0.99 to 1", "68 pictures")] * 2
    first, second = shown.split("<table")[1].split("</tr>")[2:4]
    assert [first.count('class="n"'), first.count('class="n best"')] == [1, 1]  # not among few
    assert second.count("best") == 0 and "13.5\u00a0%" in second
    assert '<section id="bands">' not in page(study(bands=[]), no_picture)


@pytest.mark.parametrize("models", [1, 2])
def test_with_nothing_found(models: int) -> None:
    found = read(study(models, **NOTHING_AT_ALL, inferences=None, seconds=None, throughput=None))
    assert found.blob("data")["pictures"] == []
    assert not {"summary", "curves", "tests", "bands", "failures", "metrics"} & set(found.ids)
    assert "None" not in found.text


def test_one_method_and_one_metric_have_no_best() -> None:
    alone = study(methods=METHODS[:1], metrics=METRICS[:1], tests=[])
    html = page(alone, no_picture)
    Balanced(html)
    assert 'class="n best"' not in html and "best mean" not in html
    assert best_and_near(alone, "model0.onnx", METRICS[0]) == (set(), set())


def test_numbers_that_are_not_there() -> None:
    holes = study()
    for row in (*holes["summary"], *holes["tests"]):
        row.update(dict.fromkeys(("mean", "low", "high", "p", "difference"), math.nan))
    for row in holes["rows"]:
        row.update(probability=math.inf, target_name=None, predicted_name=None)
        row["values"] = {"drop-20": math.nan}
    holes["curves"] = [{**curve, "y": [None, 0.5, math.nan], "low": None, "high": None}
                       for curve in holes["curves"]]  # fmt: skip
    found = read(holes)
    assert "nan" not in found.text.lower().replace("resonan", "") and "–" in found.text
    (block,) = found.blob("data")["pictures"][0]["blocks"]
    assert block["values"] == [[None, None]] * 2
    assert (block["probability"], block["target"], block["index"]) == (None, "class 200", None)


def test_the_best_and_what_is_not_told_apart() -> None:
    name = "model0.onnx"
    assert best_and_near(study(), name, METRICS[0]) == ({"grad-cam"}, set())
    assert best_and_near(study(), name, METRICS[1]) == ({"ablation-cam"}, {"grad-cam"})
    assert best_and_near(study(), name, {**METRICS[1], "better": ""}) == (set(), set())
    equal = study()
    for row in equal["summary"]:
        row["mean"] = 1.0
    both = {"grad-cam", "ablation-cam"}
    assert best_and_near(equal, name, METRICS[1]) == (both, set())
    html = page(study(bands=[]), no_picture)
    assert re.findall(r'<span class="near">([^<]*)</span><span', html) == ["13.500"]
    assert re.findall(r"<td[^>]*><b>([^<]*)</b>", html) == ["12.5\u00a0%", "14.500", "0.030"]


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (None, "", "–"),
        (math.nan, "%", "–"),
        (math.inf, "", "–"),
        (0, "", "0"),
        (-0.0, "", "0"),
        (-0.001, "%", "0.0\u00a0%"),
        (12.34, "%", "12.3\u00a0%"),
        (-0.5, "", "−0.500"),
        (123.456, "", "123.5"),
        (12345.6, "", "12346"),
        (0.00012345, "", "1.23e−4"),
        (-2e7, "", "−2.00e7"),
    ],
)
def test_numbers_as_people_read_them(value: float | None, unit: str, shown: str) -> None:
    assert markup.number(value, unit) == shown


def test_of_many_pictures_the_ends_are_kept() -> None:
    rows = study(pictures=gallery.MANY + 1)["rows"]
    for row in rows:
        row["values"]["drop-20"] = float(row["target"])
    found = read(study(rows=rows))
    names = [one["name"] for one in found.blob("data")["pictures"]]
    last = gallery.MANY + 1
    kept = [*range(gallery.EACH), *range(last - gallery.EACH, last)]
    assert names == [f"photo{i}.jpg" for i in kept]
    assert "Of 201 pictures these are the 50 best and the 50 worst by Average Drop" in found.text
    for row in rows:
        row["values"] = {}
    found = read(study(rows=rows))
    assert len(found.blob("data")["pictures"]) == 2 * gallery.EACH
    assert "the first 100" in found.text


def test_ticks_hold_what_is_drawn() -> None:
    assert plots.ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    for low, high in ((0, 0.037), (-3, 812), (0.5, 0.5), (0, 0), (-1e-9, 1e-9), (9e5, 3e6)):
        found = plots.ticks(low, high)
        assert found[0] <= low and found[-1] >= high and 2 <= len(found) <= 9
        assert len(set(found)) == len(found)


def test_curves_have_gaps_and_stay_within_their_axes() -> None:
    curve = {"x": [0, 0.25, 0.5, 0.75, 1], "y": [0.1, 0.9, None, 0.2, 0.4]}
    drawn = plots.curve_figure("insertion", "t", [(0, "a", curve), (9, "b", {"x": [], "y": []})])
    Balanced(drawn)
    lines = re.findall(r'class="curve c0" d="M([^"]*)"', drawn.split("<ul")[0])
    assert [line.count("L") + 1 for line in lines] == [2, 2]
    for x, y in (point.split() for line in lines for point in line.split("L")):
        assert plots.LEFT <= float(x) <= plots.WIDTH - plots.RIGHT
        assert plots.TOP <= float(y) <= plots.HEIGHT - plots.BOTTOM
    assert ">b<" not in drawn
    assert plots.curve_figure("insertion", "t", []) == ""


def test_lines_differ_in_more_than_colour() -> None:
    looks = {(i % plots.COLOURS, plots.DASHES[i % len(plots.DASHES)]) for i in range(42)}
    assert len(looks) == 42


def test_the_style_is_readable() -> None:
    """Text has a contrast of 4.5 : 1 and lines one of 3 : 1, in the light and in the dark."""
    style = page(study(), no_picture).split("<style>")[1].split("</style>")[0]
    for scheme in style.split(":root {")[1:]:
        named = dict(re.findall(r"--(\w+): #(\w{6})", scheme.split("}")[0]))

        def light(name: str, named: dict[str, str] = named) -> float:
            parts = (int(named[name][i : i + 2], 16) / 255 for i in (0, 2, 4))
            r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
            return 0.2126 * r + 0.7152 * g + 0.0722 * b

        def contrast(a: str, b: str, light: Any = light) -> float:
            low, high = sorted((light(a), light(b)))
            return float((high + 0.05) / (low + 0.05))

        for ground, text in product(("page", "box", "best"), ("text", "faint", "link", "warn")):
            assert contrast(text, ground) >= 4.5, (text, ground)
        assert all(contrast(f"c{i}", "page") >= 3 for i in range(plots.COLOURS))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browsing.Browser]:
    if browsing.CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    folder = tmp_path_factory.mktemp("page")
    for name, told in (
        ("one", study(pictures=30, sanity=checked())),
        ("two", study(2)),
        ("none", study(rows=[])),
    ):
        (folder / f"{name}.html").write_bytes(page(told, no_picture).encode())
    running = browsing.Browser({"page": folder})
    try:
        yield running
    finally:
        running.close()


FRAME = """
const frame = document.createElement("iframe");
frame.width = 1200;
const loaded = new Promise((resolve) => frame.addEventListener("load", resolve));
frame.src = "/page/NAME.html";
document.body.append(frame);
await loaded;
const page = frame.contentDocument, get = (id) => page.getElementById(id);
const set = (id, value) => {
  get(id).value = value;
  get(id).dispatchEvent(new Event(id === "find" ? "input" : "change"));
};
const names = () => [...page.querySelectorAll(".card")].map((one) => Number(
  one.dataset.name.match(/[0-9]+/)[0]));
const texts = (query) => [...page.querySelectorAll(query)].map((one) => one.textContent);
"""


def in_page(browser: browsing.Browser, name: str, script: str) -> Any:
    start = FRAME.replace("NAME", name)
    return browser.run(f"export const result = (async () => {{ {start}\n{script} }})();")


def order(metric: str, method: int | None, sign: int, count: int = 30) -> list[int]:
    """The pictures as they should come: by value, those without last, ties as they are listed."""
    methods = range(len(METHODS)) if method is None else [method]

    def key(i: int) -> tuple[bool, float]:
        held = [v for m in methods if (v := values(i, m)[metric]) is not None]
        return not held, sign * sum(held) / len(held) if held else 0.0

    return sorted(range(count), key=key)


@pytest.mark.browser
def test_sorting(browser: browsing.Browser) -> None:
    found = in_page(browser, "one", """
const result = { first: names(), status: get("status").textContent };
result.model = get("model").checkVisibility();
get("more").click();
result.all = names(); result.hidden = get("more").hidden;
get("worst").click(); get("more").click(); result.worst = names();
get("best").click(); result.again = names();
set("metric", "1"); set("method", "1"); set("order", "-1"); result.insertion = names();
set("order", "1"); result.ascending = names();
set("metric", "-1"); result.listed = names();
set("method", "spread"); set("metric", "0"); set("order", "-1"); get("more").click();
result.spread = names(); result.without = get("best").disabled;
set("find", "DOG 13"); result.found = names(); result.told = get("status").textContent;
set("find", "cat"); result.predicted = names();
return result;""")  # fmt: skip
    best = order("drop-20", None, 1)
    assert found["first"] == found["again"] == best[:24]
    assert found["status"] == "24 of 30 pictures" and not found["model"]
    assert (found["all"], found["hidden"]) == (best, True)
    assert found["worst"] == order("drop-20", None, -1)
    assert best[-1] == found["worst"][-1] == 3
    assert found["insertion"] == order("insertion", 1, -1)[:24]
    assert found["ascending"] == found["listed"] == list(range(24))
    assert (found["spread"][-1], found["without"]) == (3, True)
    assert (found["found"], found["predicted"]) == ([13], [1])
    assert found["told"] == "1 of 1 picture found among 30"


@pytest.mark.browser
def test_cards(browser: browsing.Browser) -> None:
    found = in_page(browser, "two", """
set("metric", "0"); set("find", "photo2");
page.querySelector(".card details").open = true;
await new Promise((resolve) => setTimeout(resolve, 100));
return {
  captions: texts(".card figcaption"), words: texts(".card p"), models: texts("#model option"),
  table: texts(".card table td, .card table th"), shown: get("model").checkVisibility(),
  wide: frame.contentDocument.documentElement.scrollWidth <= 1200,
};""")  # fmt: skip
    assert found["captions"] == ["Photograph", *["Grad-CAM40.0\u00a0%", "Ablation41.0\u00a0%"] * 2]
    assert found["words"][0] == "model0.onnx: dog 2 (class 202) · probability 0.875"
    assert found["models"] == ["model0.onnx", "model1.onnx"] and found["shown"]
    assert found["table"][:3] == ["", "Grad-CAM", "Ablation"]
    assert found["table"][3:6] == ["Average Drop %, top 20 %", "40.0\u00a0%", "41.0\u00a0%"]
    assert found["wide"]


@pytest.mark.browser
def test_on_a_phone_only_tables_scroll(browser: browsing.Browser) -> None:
    wide = in_page(
        browser,
        "two",
        """
frame.width = 360;
await new Promise((resolve) => setTimeout(resolve, 200));
return [...page.querySelectorAll("body *")].filter((one) => !one.closest(".scroll, .unseen")
  && one.getBoundingClientRect().right > 360.5).map((one) => one.outerHTML.slice(0, 80));""",
    )
    assert wide == []


@pytest.mark.browser
def test_without_pictures_the_gallery_is_hidden(browser: browsing.Browser) -> None:
    assert in_page(browser, "none", 'return get("gallery").hidden') is True


@pytest.mark.browser
def test_numbers_are_shown_alike_by_the_script(browser: browsing.Browser, root: Path) -> None:
    script = (root / "onnxcam/data/evaluation.html").read_text("utf-8")
    shown = script[script.index("const shown = ") : script.index("const ways = ")]
    every = [0, 1e-9, 0.00012345, 0.4567, -0.4567, 12.345, 123.456, 12345.6, -2e7, 99.96]
    asked = [(value, unit) for value in every for unit in ("", "%")]
    found = browser.run(
        f"{shown}\nexport const result = {json.dumps(asked)}.map((a) => shown(...a))"
    )
    assert found == [markup.number(value, unit) for value, unit in asked]


@pytest.mark.browser
def test_it_opens_from_a_file_without_a_complaint(tmp_path: Path) -> None:
    if browsing.CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    file = tmp_path / "a report.html"
    file.write_bytes(page(study(sanity=checked()), no_picture).encode())
    done = subprocess.run(
        [browsing.CHROMIUM, "--headless=new", "--no-sandbox", "--disable-dev-shm-usage",
         "--no-first-run", f"--user-data-dir={tmp_path}/profile", "--enable-logging=stderr",
         "--dump-dom", file.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert done.stdout.count('<article class="card"') == 5
