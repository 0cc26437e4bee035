"""docs/deploy.md: in each runtime that is found, an explainer file gives what the library gives.

Runtimes may live elsewhere: ONNXCAM_OPENVINO_PYTHON and ONNXCAM_OPENCV_PYTHON name interpreters,
ONNXCAM_NODE_MODULES a folder node_modules with onnxruntime-node and onnxruntime-web.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import browsing
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from conftest import ROOT, shared_folder
from scenes import describe, draw

import onnxcam
from onnxcam.image.presets import PRESETS
from onnxcam.image.read import read_picture

pytestmark = pytest.mark.deploy

PAGE = (ROOT / "docs" / "deploy.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))
SQUEEZENET = "imagenet_squeezenet1.1_fp32"
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ablation-cam": ("demo_residual", "ablation-cam", {}),
    "ablation-cam, dense": ("demo_vgg", "ablation-cam", {}),
    "ablation-cam, a loop": ("demo_vgg", "ablation-cam", {"memory": 1_000_000}),
    "grad-cam": ("demo_vgg", "grad-cam", {}),
    "layer-cam": ("demo_residual", "layer-cam", {}),
    "saliency": ("demo_vgg", "saliency", {}),
    "saliency, strides": ("demo_residual", "saliency", {}),
    "guided-grad-cam": ("demo_vgg", "guided-grad-cam", {}),
    "integrated-gradients": ("demo_residual", "integrated-gradients", {"steps": 6}),
    "score-cam": ("demo_vgg", "score-cam", {}),
    "real, ablation-cam": (SQUEEZENET, "ablation-cam", {}),
    "real, grad-cam": (SQUEEZENET, "grad-cam", {}),
}
OF_FILE = ("memory",)  # options that the library's own way has not


class Case(NamedTuple):
    """A file, what goes in, and what the library and the model give."""

    folder: Path
    name: str
    image: np.ndarray
    target: np.ndarray
    wanted: dict[str, np.ndarray]

    def alone(self, i: int) -> Case:
        """The case of image i alone."""
        return self._replace(image=self.image[i : i + 1], target=self.target[i : i + 1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("deploy")


@cache
def made(folder: Path, title: str) -> Case:
    """The case of a title, built once."""
    model, method, options = CASES[title]
    place = folder / re.sub(r"\W+", "-", title)
    place.mkdir()
    if model == SQUEEZENET:
        data = shared_folder("data")
        path = data / "models" / f"{model}.onnx"
        photos = [data / "images" / "open_photos" / f"{n}.jpg" for n in ("bird", "bee")]
        pictures = [PRESETS["imagenet"].tensor(read_picture(p)) for p in photos]
        image = np.concatenate(pictures)
    else:
        path = ROOT / "models" / f"{model}.onnx"
        scenes = np.stack([draw(describe(seed), 96).pixels for seed in (3, 4)])
        image = (scenes.transpose(0, 3, 1, 2) / 255 * 4 - 2).astype(np.float32)
    onnxcam.export(path, place / "explainer.onnx", method, **options)
    session = ort.InferenceSession(path)
    given = session.get_inputs()[0].name
    (score,) = session.get_outputs()
    scores = np.concatenate([session.run(None, {given: one[None]})[0] for one in image])
    own = {k: v for k, v in options.items() if k not in OF_FILE}
    chosen = [int(scores[0].argmax()), 3]
    found = onnxcam.Explainer(path, method, **own)(image, chosen)
    assert found.map.max() > 0
    image.tofile(place / "image.f32")
    wanted = {score.name: scores, "map": found.map, "class": np.array(chosen)}
    return Case(place, given, image, np.array([-1, 3]), wanted)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, folder: Path) -> Case:
    return made(folder, request.param)


def recipe(title: str, language: str) -> str:
    """The code of a section of the page."""
    (code,) = re.findall(rf"^```{language}\n(.*?)^```$", SECTIONS[title], re.M | re.S)
    return str(code)


def same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    """The numbers that the page promises."""
    assert found.keys() == wanted.keys()
    score, shown, chosen = wanted
    np.testing.assert_array_equal(np.ravel(found[chosen]), wanted[chosen])
    near = {score: 1e-5 * max(1.0, np.abs(wanted[score]).max()),
            shown: 1e-4 * wanted[shown].max(axis=(1, 2), keepdims=True)}  # fmt: skip
    for name, most in near.items():
        assert (np.abs(found[name].reshape(wanted[name].shape) - wanted[name]) <= most).all(), name


@pytest.mark.parametrize("title", ["ONNX Runtime, Python", "The onnx package"])
def test_beside_the_library(title: str, case: Case) -> None:
    names: dict[str, Any] = {}
    exec(compile(recipe(title, "python"), "deploy.md", "exec"), names)
    same(
        names["explain"](str(case.folder / "explainer.onnx"), case.image, case.target), case.wanted
    )


def in_python(module: str, code: str, case: Case) -> dict[str, np.ndarray]:
    """What a recipe gives in the interpreter that has `module`."""
    python = os.environ.get(f"ONNXCAM_{module.upper()}_PYTHON", sys.executable)
    package = {"opencv": "cv2"}.get(module, module)
    wanted = f"import importlib.util as u, sys; sys.exit(u.find_spec({package!r}) is None)"
    if subprocess.run([python, "-c", wanted], check=False).returncode:
        pytest.skip(f"{module} is not installed; ONNXCAM_{module.upper()}_PYTHON can say where")
    np.savez(case.folder / "in.npz", image=case.image, target=case.target)
    code += (
        "\nimport numpy\ngiven = numpy.load('in.npz')\n"
        "found = explain('explainer.onnx', given['image'], given['target'])\n"
        f"numpy.savez('out.npz', **{{name: found[name] for name in {list(case.wanted)}}})\n"
    )
    done = subprocess.run([python, "-c", code], cwd=case.folder, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    out = np.load(case.folder / "out.npz")
    return {name: out[name] for name in out.files}


def test_openvino(case: Case) -> None:
    same(in_python("openvino", recipe("OpenVINO", "python"), case), case.wanted)


def test_opencv(case: Case) -> None:
    """One image at a time, as the page says."""
    code = recipe("OpenCV", "python").replace('"image"', repr(case.name))
    for i in range(len(case.image)):
        wanted = {name: a[i : i + 1] for name, a in case.wanted.items()}
        same(in_python("opencv", code, case.alone(i)), wanted)


def modules(*packages: str) -> Path:
    """The folder node_modules."""
    given = os.environ.get("ONNXCAM_NODE_MODULES", str(ROOT / "examples/browser/node_modules"))
    for package in packages:
        if not (Path(given) / package).is_dir():
            pytest.skip(f"no {package} in {given}: ONNXCAM_NODE_MODULES names a node_modules")
    return Path(given)


def as_arrays(found: dict[str, dict[str, Any]]) -> dict[str, np.ndarray]:
    return {name: np.reshape(t["data"], t["dims"]) for name, t in found.items()}


TOLD = "Object.fromEntries(Object.entries(await found).map(([name, t]) => [name, {dims: t.dims, \
data: Array.from(t.data, Number)}]))"


def test_node(case: Case, tmp_path: Path) -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    (tmp_path / "node_modules").symlink_to(modules("onnxruntime-node").resolve())
    ask = [list(case.image.shape), case.target.tolist()]
    (tmp_path / "run.mjs").write_text(
        f"""{recipe("ONNX Runtime, Node", "js")}
import {{ readFileSync, writeFileSync }} from "node:fs";
const bytes = readFileSync({json.dumps(str(case.folder / "image.f32"))});
const image = new Float32Array(new Uint8Array(bytes).buffer);
const file = {json.dumps(str(case.folder / "explainer.onnx"))};
const found = explain(file, image, ...{json.dumps(ask)});
writeFileSync("found.json", JSON.stringify({TOLD}));
""",
        "utf-8",
    )
    done = subprocess.run(["node", "run.mjs"], cwd=tmp_path, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    same(as_arrays(json.loads((tmp_path / "found.json").read_text())), case.wanted)


@pytest.fixture(scope="module", params=["wasm", "webgpu"])
def browser(request: pytest.FixtureRequest, folder: Path) -> Iterator[tuple[str, browsing.Browser]]:
    if browsing.CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    folders = {"node_modules": modules("onnxruntime-web"), "cases": folder,
               "page": ROOT / "examples" / "browser"}  # fmt: skip
    flags = browsing.WEBGPU if request.param == "webgpu" else ()
    running = browsing.Browser(folders, flags)
    try:
        if request.param == "webgpu" and not running.run(
            "export const result = (async () => !!(await navigator.gpu?.requestAdapter()))()"
        ):
            pytest.skip("this browser has no WebGPU")
        yield request.param, running
    finally:
        running.close()


@pytest.mark.browser
def test_browser(browser: tuple[str, browsing.Browser], case: Case) -> None:
    backend, running = browser
    ask = [list(case.image.shape), case.target.tolist()]
    script = f"""{recipe("ONNX Runtime, browser", "js")}
const read = async (name) => (await fetch("/cases/{case.folder.name}/" + name)).arrayBuffer();
const image = new Float32Array(await read("image.f32"));
const file = new Uint8Array(await read("explainer.onnx"));
const dist = "/node_modules/onnxruntime-web/dist";
const found = explain(dist, {json.dumps(backend)}, file, image, ...{json.dumps(ask)});
export const result = {TOLD};
"""
    nodes = onnx.load(case.folder / "explainer.onnx").graph.node
    if backend == "webgpu" and any(n.op_type == "MaxPool" and len(n.output) > 1 for n in nodes):
        with pytest.raises(AssertionError, match="The Indices output is not supported"):
            running.run(script)  # as the page says
    else:
        same(as_arrays(running.run(script)), case.wanted)


VISIT = """
const frame = document.createElement("iframe");
frame.width = 1000; frame.height = 700;
frame.src = "/page/index.html?" + new URLSearchParams(%s);
document.body.append(frame);
await new Promise((done) => (frame.onload = done));
const page = frame.contentDocument, view = frame.contentWindow;
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const idle = async () => {
  do await pause(100); while (page.body.dataset.state !== "idle");
};
const drop = async (path) => {
  const data = new DataTransfer();
  data.items.add(new File([await (await fetch(path)).blob()], path.split("/").pop()));
  page.dispatchEvent(new view.DragEvent("drop", { dataTransfer: data }));
  await pause(50);
  await idle();
};
const buttons = () => [...page.querySelectorAll("#classes button")];
const seen = () => ({
  error: page.getElementById("error").hidden ? "" : page.getElementById("error").innerText,
  facts: page.getElementById("facts").innerText,
  model: page.getElementById("model").innerText,
  rows: buttons().map((b) => [...b.children].map((s) => s.innerText)),
  pressed: buttons().findIndex((b) => b.ariaPressed === "true"),
});
const brightest = () => {
  const heat = page.getElementById("heat");
  const { data, width, height } = heat.getContext("2d").getImageData(0, 0, heat.width, heat.height);
  let best = [-1];
  for (let i = 0; i < width * height; i++) {
    const light = data[4 * i] + data[4 * i + 1] + data[4 * i + 2];
    if (light > best[0]) best = [light, (i %% width) / width, Math.floor(i / width) / height];
  }
  return best.slice(1);
};
"""


@pytest.mark.browser
def test_the_example_page(browser: tuple[str, browsing.Browser], folder: Path) -> None:
    """A picture is dropped, a class is clicked: as the library has it."""
    backend, running = browser
    path, scene = ROOT / "models" / "demo_vgg.onnx", folder / "scene.png"
    scene.write_bytes((ROOT / "models" / "demo_scene.png").read_bytes())
    onnxcam.export(path, folder / "page.onnx", force=True)
    (folder / "no.png").write_text("no picture")
    asked = {"model": "/cases/page.onnx", "backend": backend}
    found = running.run(
        VISIT % json.dumps(asked)
        + """await idle();
await drop("/cases/scene.png");
const first = seen(), peak = brightest();
buttons()[2].click();
await pause(50);
await idle();
const second = seen(), other = brightest();
await drop("/cases/no.png");
const third = seen();
export const result = { first, peak, second, other, third };"""
    )
    first, second = found["first"], found["second"]
    own = onnxcam.Explainer(path)
    best = own.explain(scene, target="top3")
    scores, labels = own.explain(scene).scores[0], own.labels
    assert labels is not None
    order, shares = np.argsort(-scores, kind="stable")[:5], 100 / (1 + np.exp(-scores))
    assert not first["error"] and "ablation-cam at features" in first["model"]
    assert [name for name, _ in first["rows"]] == [labels[i] for i in order]
    for (_, share), i in zip(first["rows"], order, strict=True):
        assert float(share.split()[0]) == pytest.approx(shares[i], abs=0.5)
    assert (first["pressed"], second["pressed"]) == (0, 2) and not second["error"]
    assert ("WebGPU" if backend == "webgpu" else "WebAssembly") in first["facts"]
    for (x, y), heat in zip((found["peak"], found["other"]),
                            (best.heat(0), best.heat(2)), strict=True):  # fmt: skip
        high, wide = heat.shape
        assert heat[int(y * high), int(x * wide)] > 0.9
    assert "is no picture" in found["third"]["error"]


@pytest.mark.browser
def test_the_example_page_takes_webassembly_for_what_webgpu_has_not(
    browser: tuple[str, browsing.Browser], folder: Path
) -> None:
    backend, running = browser
    (folder / "scene.png").write_bytes((ROOT / "models" / "demo_scene.png").read_bytes())
    onnxcam.export(ROOT / "models" / "demo_vgg.onnx", folder / "g.onnx", "grad-cam", force=True)
    script = VISIT % json.dumps({"model": "/cases/g.onnx", "backend": backend})
    found = running.run(
        script + 'await idle();\nawait drop("/cases/scene.png");\nexport const result = seen();'
    )
    assert not found["error"] and len(found["rows"]) == 5 and "WebAssembly" in found["facts"]


@pytest.mark.browser
def test_the_example_page_says_what_is_missing(
    browser: tuple[str, browsing.Browser], folder: Path
) -> None:
    _, running = browser
    (folder / "plain.onnx").write_bytes((ROOT / "models" / "demo_vgg.onnx").read_bytes())
    for name, said in (("none.onnx", "there is no"), ("plain.onnx", "this is no explainer")):
        script = VISIT % json.dumps({"model": f"/cases/{name}"})
        found = running.run(script + "await idle();\nexport const result = seen();")
        assert said in found["error"]
