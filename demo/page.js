// The page: pictures and switches in, two answers out.

import { classify, load } from "./networks.js";
import { read, squareOf, throughJpeg } from "./pictures.js";
import { noisy, resize, rounded, toImageData } from "./pixels.js";

const SEEN = 32; // px: all that the preprocessing leaves of any picture
const DELIVERED = 1080; // px, as in the study
const SWITCHES = ["preprocessing", "carried", "enlarged", "noise", "jpeg"];
const at = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const switches = at("switches");
const state = { picture: "", name: "", square: null, small: null }; // `small` is the square at 32×32, not rounded
let about = null;
let stream = null;
let [taken, asked] = [0, 0]; // count pictures and answers, so that only the last is shown

// How the picture is delivered to both networks. The order is that of the study: noise, JPEG, shrinking, enlarging.
async function deliver({ carried, enlarged, noise, jpeg }) {
  if (carried === "native" && !+noise && !+jpeg) return state.square;
  let picture = rounded(state.small);
  if (+noise) picture = noisy(picture, +noise);
  if (+jpeg) picture = await throughJpeg(toImageData(picture), +jpeg);
  if (carried !== "native") picture = rounded(resize(picture, +carried));
  if (enlarged === "no") return picture;
  return rounded(resize(picture, DELIVERED, enlarged === "blocks" ? "nearest" : "bicubic"));
}

async function answer() {
  if (!about || !state.square) return;
  const turn = ++asked;
  const started = performance.now();
  const set = Object.fromEntries(new FormData(switches));
  remember(set);
  try {
    const delivered = await deliver(set);
    const seen = delivered === state.square ? state.small : resize(delivered, SEEN);
    const answers = [];
    for (const model of about.models) answers.push(await ask(model, delivered, seen, set.preprocessing));
    if (turn !== asked) return;
    show(delivered, seen, answers, set);
    const all = performance.now() - started;
    const each = answers.map(({ model, milliseconds }) => `${model.title} ${milliseconds.toFixed(0)} ms`);
    at("time").textContent = `Answered in ${all.toFixed(0)} ms, of which ${each.join(", ")}.`;
    const told = answers.map(({ probabilities, milliseconds }) => ({ probabilities, milliseconds }));
    document.body.dataset.answer = JSON.stringify({ all, told }); // what the tests read
  } catch (error) {
    fail(error);
  }
}

async function ask(model, delivered, seen, preprocessing) {
  const bypassed = model.name === "mobilenet_v2" && preprocessing !== "on";
  const input = bypassed ? resize(delivered, model.size, preprocessing, false) : resize(seen, model.size);
  const started = performance.now();
  const probabilities = await classify(model, input);
  return { model, bypassed, input, probabilities, milliseconds: performance.now() - started };
}

function show(delivered, seen, answers, set) {
  const { input, bypassed } = answers.find(({ model }) => model.name === "mobilenet_v2");
  draw("square", delivered, `The centre square, ${delivered.size}×${delivered.size} px, as both models get it`);
  draw("pixels", seen, "The 32×32 px that the preprocessing makes of it");
  const how = bypassed ? `past the preprocessing, by ${set.preprocessing}` : "enlarged from the 32×32 px by bicubic";
  draw("input", input, `MobileNetV2’s input, ${input.size}×${input.size} px, ${how}`);
  const told = answers.map(({ model, probabilities }, i) => {
    const best = probabilities.indexOf(Math.max(...probabilities));
    const outside = probabilities[best] < model.threshold;
    const table = at("results").children[i];
    const says = `${model.title}: ${about.classes[best]}, ${percent(probabilities[best])}`;
    const warning = outside ? "Probably a picture of none of the ten classes." : "";
    table.querySelector("strong").textContent = says;
    table.querySelector(".warning").textContent = warning;
    [...table.tBodies[0].rows].forEach((row, k) => {
      row.className = k === best ? "top" : "";
      row.querySelector("meter").value = probabilities[k];
      row.lastElementChild.textContent = percent(probabilities[k]);
    });
    return `${says}. ${warning}`;
  });
  at("why").textContent = why(set.preprocessing);
  at("status").textContent = `${state.name}. ${told.join(" ")}`;
}

// What the study measured, in one sentence.
function why(preprocessing) {
  const { n, resolution } = about.study.on;
  const pictures = `${n.toLocaleString("en")} test images shrunk to ${resolution} px and enlarged in sharp blocks`;
  const right = Object.fromEntries(Object.entries(about.study).map(([key, row]) => [key, percent(row.accuracy)]));
  return preprocessing === "on"
    ? `The preprocessing smooths any picture down to 32×32 px: of ${pictures} MobileNetV2 gets ${right.on} right.`
    : `Past its preprocessing MobileNetV2 gets blocks, which no training picture had: of ${pictures} it gets ` +
        `${right[preprocessing]} right, and ${right.on} with the preprocessing, which removes the blocks.`;
}

async function draw(id, picture, caption) {
  const canvas = at(id);
  canvas.nextElementSibling.textContent = caption;
  if (canvas.picture === picture) return; // a large photograph takes long to draw
  canvas.picture = picture;
  const side = Math.min(picture.size, DELIVERED);
  const options = { resizeWidth: side, resizeHeight: side, resizeQuality: "medium" };
  const image = await createImageBitmap(toImageData(picture), options);
  canvas.width = canvas.height = side;
  canvas.getContext("2d").drawImage(image, 0, 0);
}

// A picture comes in: `get` resolves to its centre square.
async function take(name, picture, get) {
  const turn = ++taken;
  try {
    const square = await get();
    if (turn !== taken) return;
    at("error").hidden = true;
    Object.assign(state, { name, picture, square, small: resize(square, SEEN) });
    for (const button of at("samples").children) button.ariaPressed = String(button.value === picture);
  } catch (error) {
    return turn === taken && fail(error);
  }
  await answer();
}

async function takeFiles(files) {
  if (!files.length) return fail(new Error("Nothing that was given is a file: save the picture, then choose or drop it."));
  const several = files.length > 1 ? ` (the first of ${files.length} files)` : "";
  return take(files[0].name + several, "own", () => read(files[0], files[0].name));
}

const takeSample = (sample) => take(`Our ${sample.name}`, sample.name, () => read(sample.blob, sample.file));

function fail(error) {
  at("error").textContent = error.message;
  at("error").hidden = false;
}

// The address restores the picture, if it is one of ours, and the switches; what it cannot hold stays as it is.
function remember(set) {
  history.replaceState(null, "", `#${new URLSearchParams({ picture: state.picture, ...set })}`);
}

async function restore() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  for (const name of SWITCHES) {
    const field = switches.elements[name];
    const choices = [...(field.options ?? field)].map(({ value }) => value); // of a menu, or of radio buttons
    field.value = choices.includes(wanted.get(name)) ? wanted.get(name) : choices[0];
  }
  adjust();
  const picture = wanted.get("picture");
  if (picture === "own" && state.picture === "own") return answer();
  await takeSample(about.pictures.find(({ name }) => name === picture) ?? about.pictures[0]);
  if (picture === "own") fail(new Error("This address was made with somebody’s own picture, which stayed on their device."));
}

function adjust() {
  const { carried, noise, jpeg, enlarged } = switches.elements;
  enlarged.disabled = carried.value === "native" && noise.value === "0" && jpeg.value === "0";
  at("explained").textContent = enlarged.disabled
    ? "The picture is delivered as it is."
    : "Noise and JPEG act on 32×32 pixels, as in the study. What is left is carried and enlarged, and both models get it.";
}

async function startCamera() {
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    at("viewfinder").hidden = false;
    at("viewfinder").firstElementChild.srcObject = stream;
    await at("viewfinder").firstElementChild.play();
    at("shoot").focus();
  } catch (error) {
    stopCamera();
    fail(new Error(`The camera cannot be used (${error.name ?? "unknown"}): allow it in the browser, or choose a file.`));
  }
}

function stopCamera() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  at("viewfinder").hidden = true;
  at("camera").focus();
}

function build() {
  for (const sample of about.pictures) {
    const button = Object.assign(document.createElement("button"), { type: "button", value: sample.name });
    const image = Object.assign(new Image(), { src: URL.createObjectURL(sample.blob), alt: "" });
    button.append(image, sample.name);
    button.onclick = () => takeSample(sample);
    at("samples").append(button);
  }
  for (const name of ["noise", "jpeg"]) {
    for (const setting of about[name]) {
      const text = name === "noise" ? `${percent(setting)} of white` : `${setting}`;
      switches.elements[name].append(new Option(text, setting));
    }
  }
  for (const _ of about.models) {
    const table = at("result").content.cloneNode(true);
    for (const label of about.classes) {
      const row = table.querySelector("tbody").insertRow();
      row.innerHTML = `<th scope="row">${label}</th><td><meter max="1" aria-hidden="true"></meter></td><td></td>`;
    }
    at("results").append(table);
  }
}

function listen() {
  switches.oninput = () => (adjust(), answer());
  switches.onsubmit = (event) => event.preventDefault();
  switches.onreset = () => setTimeout(() => (adjust(), answer())); // the fields change after the event
  at("file").onchange = ({ target }) => takeFiles([...target.files]).finally(() => (target.value = ""));
  at("camera").onclick = startCamera;
  at("stop").onclick = stopCamera;
  at("shoot").onclick = async () => {
    await take("Picture of the camera", "own", async () => squareOf(at("viewfinder").firstElementChild));
    stopCamera();
  };
  document.onpaste = ({ clipboardData }) => takeFiles([...clipboardData.files]);
  document.ondragover = (event) => (event.preventDefault(), document.body.classList.add("dropping"));
  document.ondragleave = () => document.body.classList.remove("dropping");
  document.ondrop = (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    takeFiles([...event.dataTransfer.files]);
  };
  window.onhashchange = restore;
}

async function start() {
  try {
    about = await load();
    build();
    listen();
    await restore();
    document.body.dataset.ready = `${performance.now()}`; // milliseconds since the page was asked for
  } catch (error) {
    at("status").textContent = "The page cannot work like this.";
    fail(error);
  }
}

start();
