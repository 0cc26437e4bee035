// An explainer file in the browser: what its metadata say, pictures into tensors, one run.

const DIST = new URL("node_modules/onnxruntime-web/dist/", import.meta.url);

/** Loads a file and what is noted in it; `backend`: "wasm", "webgpu", or "" for the best there is. */
export async function load(bytes, backend = "") {
  const facts = metadata(bytes);
  if (!("onnxcam.method" in facts)) throw new Error("this is no explainer: write one with `onnxcam export`");
  const gpu = backend === "webgpu" || (backend === "" && (await navigator.gpu?.requestAdapter()));
  const ort = await import(new URL(gpu ? "ort.webgpu.min.mjs" : "ort.wasm.min.mjs", DIST)).catch(() => {
    throw new Error("ONNX Runtime Web is missing: run `npm install` in the folder of this page");
  });
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = 1; // more need a server that sets COOP and COEP headers
  const session = await ort.InferenceSession.create(bytes, { executionProviders: gpu ? ["webgpu", "wasm"] : ["wasm"] });
  if (!session.outputNames.includes("map")) throw new Error("the explainer gives no `map`: export it without --prefix");
  const image = session.inputMetadata.find((input) => input.name !== "target");
  const preset = facts["onnxcam.preset"] && JSON.parse(facts["onnxcam.preset"]);
  const labels = facts["onnxcam.labels"] && JSON.parse(facts["onnxcam.labels"]);
  return { ort, session, facts, labels, image, backend: gpu ? "WebGPU" : "WebAssembly", preset: preset ?? guess(image) };
}

/** Explains a picture (ImageData): scores, the class explained, its map, and where the map lies. */
export async function explain({ ort, session, image, preset }, pixels, target = -1) {
  const [h, w] = preset.layout === "NHWC" ? image.shape.slice(1, 3) : image.shape.slice(2, 4);
  const place = laid(pixels.width, pixels.height, preset, [h, w]);
  const data = tensor(pixels, place, preset, image);
  const dims = preset.layout === "NHWC" ? [1, h, w, data.length / h / w] : [1, data.length / h / w, h, w];
  const feeds = { [image.name]: new ort.Tensor(image.type, data, dims) };
  if (session.inputNames.includes("target")) feeds.target = new ort.Tensor("int64", [BigInt(target)], [1]);
  const found = await session.run(feeds);
  const [high, wide] = found.map.dims.slice(-2);
  const own = session.outputNames.find((name) => found[name].type.startsWith("float") && name !== "map");
  return {
    scores: percentages(Array.from(found[own].data, Number)),
    classes: Array.from(found.class.data, Number), // several where the file explains several
    maps: Array.from(found.class.data, (_, i) => found.map.data.slice(i * high * wide, (i + 1) * high * wide)),
    size: [high, wide], fine: high === h && wide === w, place,
  };
}

/** `metadata_props` of an ONNX file (field 14 of its protobuf message, pairs of strings). */
export function metadata(bytes) {
  const facts = {}, text = new TextDecoder();
  for (const [field, part] of fields(bytes)) {
    if (field !== 14) continue;
    const pair = Object.fromEntries(fields(part));
    facts[text.decode(pair[1])] = text.decode(pair[2]);
  }
  return facts;
}

function* fields(bytes) {
  let at = 0;
  const number = () => {
    let value = 0, unit = 1;
    for (;;) {
      if (at >= bytes.length) throw new Error("the file is cut short, or no ONNX file");
      const byte = bytes[at++];
      value += (byte & 127) * unit;
      if (byte < 128) return value;
      unit *= 128;
    }
  };
  while (at < bytes.length) {
    const tag = number(), kind = tag & 7;
    if (kind === 0) number();
    else if (kind === 1 || kind === 5) at += kind === 1 ? 8 : 4;
    else if (kind === 2) {
      const length = number();
      yield [tag >>> 3, bytes.subarray(at, at + length)];
      at += length;
    } else throw new Error("this is no ONNX file");
  }
}

/** For files without a preset: ImageNet's numbers, on the whole picture. */
function guess({ shape }) {
  const imagenet = { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
  const layout = shape[3] <= 4 && shape[1] > 4 ? "NHWC" : "NCHW";
  const grey = (layout === "NHWC" ? shape[3] : shape[1]) === 1;
  return { resize: "stretch", crop: "none", interpolation: "bilinear", scale: 1 / 255, layout, fill: 0, guessed: true,
    channel_order: grey ? "GRAY" : "RGB", ...(grey ? { mean: [0.5], std: [0.5] } : imagenet) };
}

/** How picture and input lie on each other: the part cut out, the size it gets, where the input begins. */
function laid(width, height, { resize, resize_to, crop_fraction, crop }, [h, w]) {
  let cut = [0, 0, width, height], scaled = [h, w];
  if (resize === "none") scaled = [height, width];
  else if (resize === "letterbox") {
    const factor = Math.min(h / height, w / width);
    scaled = [Math.max(1, Math.round(height * factor)), Math.max(1, Math.round(width * factor))];
  } else if (resize === "shortest_side") {
    const share = crop_fraction ?? 1;
    const [high, wide] = resize_to ? [resize_to, resize_to] : [Math.floor(h / share), Math.floor(w / share)];
    scaled = high * width >= wide * height
      ? [high, Math.max(1, Math.floor((high * width) / height))]
      : [Math.max(1, Math.floor((wide * height) / width)), wide];
  } else {
    if (resize === "center_square_then_stretch") {
      const side = Math.min(width, height);
      cut = [(width - side) >> 1, (height - side) >> 1, side, side];
    }
    if (resize_to) scaled = [resize_to, resize_to];
    else if (crop_fraction) scaled = [Math.floor(h / crop_fraction), Math.floor(w / crop_fraction)];
  }
  if (crop === "none" && resize !== "letterbox" && (scaled[0] !== h || scaled[1] !== w))
    throw new Error(`the model takes ${w} × ${h} pixels, its preset makes ${scaled[1]} × ${scaled[0]} of this picture`);
  const offset = [begin(scaled[0], h), begin(scaled[1], w)];
  const unit = [cut[3] / scaled[0], cut[2] / scaled[1]];
  const box = [cut[0] + offset[1] * unit[1], cut[1] + offset[0] * unit[0], w * unit[1], h * unit[0]];
  return { cut, scaled, offset, size: [h, w], box };
}

/** Where an input begins in a resized picture: a half rounded to even, or what is padded. */
function begin(scaled, size) {
  const half = (scaled - size) / 2;
  return half < 0 ? -Math.floor(-half) : half % 1 ? 2 * Math.round(half / 2) : half;
}

const KERNELS = { // by distance, and how far they reach; pictures made smaller widen them
  bilinear: [1, (d) => Math.max(0, 1 - d)],
  bicubic: [2, (d) => (d < 1 ? (1.5 * d - 2.5) * d * d + 1 : d < 2 ? ((-0.5 * d + 2.5) * d - 4) * d + 2 : 0)],
  box: [0.5, (d) => (d <= 0.5 ? 1 : 0)],
};

/** For each of `count` pixels from `offset` on: which source pixels make it, with what shares. */
function shares(start, length, scaled, offset, count, interpolation) {
  const unit = length / scaled, wide = Math.max(unit, 1);
  return Array.from({ length: count }, (_, i) => {
    const centre = (i + offset + 0.5) * unit;
    if (i + offset < 0 || i + offset >= scaled) return null;
    if (interpolation === "nearest") return [start + Math.floor(centre), [1]];
    const [reach, kernel] = KERNELS[interpolation] ?? KERNELS.bilinear;
    const low = Math.max(0, Math.floor(centre - reach * wide + 0.5));
    const high = Math.min(length, Math.floor(centre + reach * wide + 0.5));
    const parts = Array.from({ length: high - low }, (_, j) => kernel(Math.abs(low + j + 0.5 - centre) / wide));
    const sum = parts.reduce((a, b) => a + b, 0);
    return [start + low, parts.map((p) => p / sum)];
  });
}

/** The picture as the model's input: resized, cropped, scaled and shifted. */
function tensor(pixels, { cut, scaled, offset, size: [h, w] }, preset, image) {
  const columns = shares(cut[0], cut[2], scaled[1], offset[1], w, preset.interpolation);
  const rows = shares(cut[1], cut[3], scaled[0], offset[0], h, preset.interpolation);
  const first = new Float32Array(pixels.height * w * 3); // resized along rows
  for (let y = 0; y < pixels.height; y++)
    for (let x = 0; x < w; x++) {
      if (!columns[x]) continue;
      const [low, parts] = columns[x], to = (y * w + x) * 3;
      for (let j = 0; j < parts.length; j++)
        for (let c = 0; c < 3; c++) first[to + c] += parts[j] * pixels.data[(y * pixels.width + low + j) * 4 + c];
    }
  const grey = preset.channel_order === "GRAY";
  const order = preset.channel_order === "BGR" ? [2, 1, 0] : [0, 1, 2], channels = grey ? 1 : 3;
  const Kind = { float32: Float32Array, float16: globalThis.Float16Array, uint8: Uint8Array }[image.type];
  if (!Kind) throw new Error(`this browser cannot feed a model that takes ${image.type}`);
  const data = new Kind(channels * h * w), rgb = [0, 0, 0];
  for (let y = 0; y < h; y++)
    for (let x = 0; x < w; x++) {
      for (let c = 0; c < 3; c++) {
        rgb[c] = preset.fill;
        if (!rows[y] || !columns[x]) continue;
        const [low, parts] = rows[y];
        const sum = parts.reduce((total, p, j) => total + p * first[((low + j) * w + x) * 3 + c], 0);
        rgb[c] = Math.min(255, Math.max(0, Math.round(sum)));
      }
      for (let k = 0; k < channels; k++) {
        const value = grey ? Math.round(0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]) : rgb[order[k]];
        const mean = preset.mean[k] ?? preset.mean[0], std = preset.std[k] ?? preset.std[0];
        const at = preset.layout === "NHWC" ? (y * w + x) * channels + k : (k * h + y) * w + x;
        data[at] = (value * preset.scale - mean) / std;
      }
    }
  return data;
}

/** Scores as shares: as they are where they are from 0 to 1, else by a softmax. */
function percentages(scores) {
  if (scores.every((s) => s >= 0 && s <= 1.0001)) return scores;
  const most = scores.reduce((a, b) => Math.max(a, b)), powers = scores.map((s) => Math.exp(s - most));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((p) => p / sum);
}
