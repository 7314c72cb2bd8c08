// Load the two networks and ask them.

import { loadAndCompile, loadLiteRt, Tensor } from "./runtime/core.js";

// Resolves to what about.json says, each model with its compiled `network` and each picture with its `blob`, so that
// nothing is fetched later; an error names the file.
export async function load() {
  if (typeof WebAssembly !== "object") {
    throw new Error("This browser has no WebAssembly, which the networks need. A current Firefox, Chrome or Safari has.");
  }
  const about = await (await fetched("about.json")).json();
  const [files] = await Promise.all([
    Promise.all(about.models.map(async ({ name }) => new Uint8Array(await (await fetched(`${name}.tflite`)).arrayBuffer()))),
    Promise.all(about.pictures.map(async (picture) => (picture.blob = await (await fetched(picture.file)).blob()))),
    loadLiteRt(new URL("runtime/", import.meta.url).href).catch((error) => {
      throw new Error(`The runtime could not be started from the folder runtime/ (${error.message ?? "a file is missing"}).`);
    }),
  ]);
  for (const [i, model] of about.models.entries()) {
    try {
      model.network = await loadAndCompile(files[i], { accelerator: "wasm" });
    } catch (error) {
      throw new Error(`The network ${model.name}.tflite is damaged (${error.message}).`);
    }
  }
  return about;
}

// Ten probabilities for a picture of the network's own input size, not rounded.
export async function classify({ network, size }, picture) {
  const pixels = new Tensor(picture.data, [1, size, size, 3]);
  try {
    const [answer] = await network.run(pixels);
    const probabilities = [...answer.toTypedArray()];
    answer.delete();
    return probabilities;
  } finally {
    pixels.delete();
  }
}

async function fetched(file) {
  const response = await fetch(new URL(file, import.meta.url)).catch(() => ({ status: "no connection" }));
  if (!response.ok) throw new Error(`The file ${file} could not be loaded (${response.status}).`);
  return response;
}
