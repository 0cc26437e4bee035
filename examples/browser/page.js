// The page: pictures in, the five best classes and the heat map out. ?model=FILE&picture=FILE&backend=wasm

import { explain, load } from "./explainer.js";

const WIDEST = 1200; // of the canvas; the model sees the picture's own pixels
const EXTREME = 0.995; // in a map of pixels, the share of values below which heat is told apart
const HEAT = [[0, 0, 8], [70, 12, 98], [165, 40, 92], [232, 96, 40], [250, 176, 48], [252, 250, 190]];

const $ = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search);
let explainer, file, photo, shown;
let queue = Promise.resolve(); // one run at a time

/** Runs `work` after what is already under way; what goes wrong is said in one line. */
function enqueue(work) {
  queue = queue.then(async () => {
    document.body.dataset.state = "busy";
    $("stage").classList.add("busy");
    $("error").hidden = true;
    await new Promise((done) => setTimeout(done)); // let the page show it
    try {
      await work();
    } catch (error) {
      $("error").textContent = String(error?.message ?? error).split("\n")[0];
      $("error").hidden = false;
    }
    $("stage").classList.remove("busy");
    document.body.dataset.state = "idle";
  });
}

async function use(bytes, name) {
  file = new Uint8Array(bytes);
  explainer = await load(file, query.get("backend") ?? "");
  const { facts, preset } = explainer;
  $("model").textContent = `${name}: ${facts["onnxcam.method"]}` +
    (facts["onnxcam.layer"] ? ` at ${facts["onnxcam.layer"]}` : "") +
    (preset.guessed ? ". It names no preset: ImageNet’s is taken; export with --preset" : "");
  $("hint").hidden = !explainer.session.inputNames.includes("target");
  if (photo) await run();
}

async function fetched(path) {
  const answer = await fetch(path).catch(() => null);
  if (!answer) throw new Error(`${path} cannot be read: serve this folder with \`python -m http.server\``);
  if (!answer.ok) throw new Error(`there is no ${path}: put it beside this page, or drop an .onnx file here`);
  return answer.blob();
}

async function look(blob, name) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" }).catch(() => {
    throw new Error(`${name} is no picture that this browser can read`);
  });
  const { width, height } = bitmap;
  const all = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  all.fillStyle = "white"; // behind transparent pixels
  all.fillRect(0, 0, width, height);
  all.drawImage(bitmap, 0, 0);
  photo = all.getImageData(0, 0, width, height);
  const scale = Math.min(1, WIDEST / Math.max(width, height));
  for (const canvas of [$("below"), $("heat")])
    [canvas.width, canvas.height] = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
  $("below").getContext("2d").drawImage(all.canvas, 0, 0, $("below").width, $("below").height);
  $("empty").hidden = true;
  $("picture").hidden = $("again").hidden = false;
  shown = null;
  $("classes").replaceChildren();
  await run();
}

async function run(target = -1) {
  if (!explainer) throw new Error("no model yet: put explainer.onnx beside this page, or drop one here");
  const given = explainer.session.inputNames.includes("target");
  if (!shown || given) {
    const start = performance.now();
    shown = await explain(explainer, photo, target).catch(async (error) => {
      if (explainer.backend !== "WebGPU") throw error;
      explainer = await load(file, "wasm"); // operators that WebGPU has not, such as places of a MaxPool
      return explain(explainer, photo, target);
    });
    $("facts").textContent = `${Math.round(performance.now() - start)} ms on ${explainer.backend}`;
  }
  const which = given || target < 0 ? 0 : shown.classes.indexOf(target);
  if (which < 0) throw new Error(`this file explains ${shown.classes.map(named).join(", ")} only: export with --targets given`);
  list(shown.scores, shown.classes[which]);
  paint(shown, shown.maps[which]);
}

const named = (c) => explainer.labels?.[c] ?? `class ${c}`;

function list(scores, explained) {
  const best = scores.map((_, i) => i).sort((a, b) => scores[b] - scores[a]).slice(0, 5);
  if (!best.includes(explained) && explained < scores.length) best.push(explained);
  $("classes").replaceChildren(...best.map((c) => {
    const item = document.createElement("li"), button = item.appendChild(document.createElement("button"));
    button.style.setProperty("--share", `${scores[c] * 100}%`);
    button.ariaPressed = String(c === explained);
    button.title = named(c);
    for (const text of [named(c), `${(scores[c] * 100).toFixed(1)} %`])
      button.appendChild(document.createElement("span")).textContent = text;
    button.onclick = () => enqueue(() => run(c));
    return item;
  }));
}

/** Draws a map where the model's input lies on the photograph; between cell centres it is interpolated. */
function paint({ size: [h, w], fine, place }, map) {
  const canvas = $("heat"), context = canvas.getContext("2d"), { width, height } = canvas;
  const image = context.createImageData(width, height);
  const sorted = fine && Float32Array.from(map).sort();
  let most = fine ? sorted[Math.round(EXTREME * (map.length - 1))] : 0;
  if (!(most > 0)) most = map.reduce((a, b) => Math.max(a, b), 0) || 1;
  const [left, top, wide, high] = place.box, scale = photo.width / width;
  const between = (i, start, length, cells) => {
    const at = (((i + 0.5) * scale - start) / length) * cells;
    if (at < 0 || at > cells) return null; // the model did not see it
    const clipped = Math.min(cells - 1, Math.max(0, at - 0.5)), low = Math.floor(clipped);
    return [low, Math.min(low + 1, cells - 1), clipped - low];
  };
  const columns = Array.from({ length: width }, (_, x) => between(x, left, wide, w));
  for (let y = 0; y < height; y++) {
    const row = between(y, top, high, h);
    for (let x = 0; x < width; x++) {
      if (!row || !columns[x]) continue;
      const [x0, x1, s] = columns[x], [y0, y1, t] = row;
      const above = map[y0 * w + x0] * (1 - s) + map[y0 * w + x1] * s;
      const below = map[y1 * w + x0] * (1 - s) + map[y1 * w + x1] * s;
      const heat = Math.min(1, Math.max(0, (above * (1 - t) + below * t) / most)) * (HEAT.length - 1);
      const low = Math.min(HEAT.length - 2, Math.floor(heat)), share = heat - low, at = (y * width + x) * 4;
      for (let c = 0; c < 3; c++) image.data[at + c] = HEAT[low][c] * (1 - share) + HEAT[low + 1][c] * share;
      image.data[at + 3] = 255;
    }
  }
  context.putImageData(image, 0, 0);
}

function taken(file) {
  if (!file) return;
  if (file.name.endsWith(".onnx")) enqueue(async () => use(await file.arrayBuffer(), file.name));
  else enqueue(() => look(file, file.name));
}

for (const id of ["photo", "other", "file"])
  $(id).onchange = ({ target }) => {
    taken(target.files[0]);
    target.value = ""; // so that the same one can be taken again
  };
document.ondragover = (event) => {
  event.preventDefault();
  $("stage").classList.add("over");
};
document.ondragleave = (event) => event.relatedTarget ?? $("stage").classList.remove("over");
document.ondrop = (event) => {
  event.preventDefault();
  $("stage").classList.remove("over");
  for (const file of event.dataTransfer.files) taken(file);
};
document.onpaste = ({ clipboardData }) => taken(clipboardData.files[0]);
$("opacity").oninput = ({ target }) => ($("heat").style.opacity = target.value / 100);
$("heat").style.opacity = $("opacity").value / 100;

const model = query.get("model") ?? "explainer.onnx", picture = query.get("picture");
enqueue(async () => {
  $("model").textContent = "No model yet";
  await use(await (await fetched(model)).arrayBuffer(), model);
});
if (picture) enqueue(async () => look(await fetched(picture), picture));
