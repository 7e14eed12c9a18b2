// The classify page: drop, paste or choose files, and get verdicts.

import { getJson } from "./api.js";
import { explain, make } from "./page.js";
import { inWords, verdictCard } from "./verdict.js";

const MAX_CONCURRENT = 2, MAX_FILES = 24;
const byId = (id) => root.querySelector(`#${id}`);
const queue = [];
let root = null, running = 0;

export function start(main, signal) {
  root = main;
  byId("announcement").textContent = "";
  byId("announcement").className = "spoken";
  limits();
  samples();
  listen(signal);
}

async function limits() {
  try {
    const { limits: { max_bytes: bytes, max_seconds: seconds }, profile } = await getJson("/v1/info");
    byId("limits").textContent =
      `JPEG, PNG, WebP, MP4, WebM or MOV, up to ${Math.round(bytes / 2 ** 20)} MiB; clips up to ${seconds} s. Profile ${profile}.`;
  } catch (error) {
    byId("announcement").textContent = explain(error);
    byId("announcement").className = "trouble";
  }
}

async function samples() {
  const list = byId("samples"), found = await (await fetch("/console/samples/samples.json")).json();
  list.replaceChildren(...found.map((sample) =>
    make("li", {}, make("button", { type: "button", class: "sample", onclick: () => trySample(sample) },
      make("img", { src: `/console/samples/${sample.still ?? sample.file}`, alt: "", loading: "lazy", width: 192, height: 128 }),
      make("span", {}, sample.name, sample.credit ? make("small", {}, sample.credit) : null)))));
}

async function trySample(sample) {
  const blob = await (await fetch(`/console/samples/${sample.file}`)).blob();
  take([new File([blob], sample.name, { type: blob.type })]);
}

function listen(signal) {
  const drop = byId("drop");
  byId("files").addEventListener("change", (event) => {
    take([...event.target.files]);
    event.target.value = "";
  }, { signal });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) take([...event.clipboardData.files]);
  }, { signal });
  for (const kind of ["dragenter", "dragover"]) {
    document.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); }, { signal });
  }
  for (const kind of ["dragleave", "drop"]) document.addEventListener(kind, () => drop.classList.remove("over"), { signal });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    take([...event.dataTransfer.files]);
  }, { signal });
}

function take(files) {
  if (files.length > MAX_FILES) {
    byId("announcement").textContent = `${files.length} files are too many for this page; only the first ${MAX_FILES} are classified. For more, use /v1/classify/batch.`;
  }
  byId("results-title").hidden = false;
  for (const file of files.slice(0, MAX_FILES)) {
    const place = make("div", {}, make("article", { class: "card", "aria-busy": "true" }, make("h3", {}, file.name), make("p", {}, "Classifying…")));
    byId("results").prepend(place);
    queue.push([file, place]);
  }
  go();
}

async function go() {
  while (running < MAX_CONCURRENT && queue.length) {
    running += 1;
    const [file, place] = queue.shift();
    classify(file, place).finally(() => { running -= 1; go(); });
  }
}

async function classify(file, place) {
  const name = file.name || "pasted image";
  try {
    const type = /^(image|video)\//.test(file.type) ? file.type : "application/octet-stream"; // the server detects the format
    const verdict = await getJson("/v1/classify", { method: "POST", body: file, headers: { "Content-Type": type } });
    const media = { url: URL.createObjectURL(file), clip: verdict.media === "clip" };
    place.replaceChildren(verdictCard(verdict, name, media));
    byId("announcement").textContent = `${name}: ${inWords(verdict)}`;
  } catch (error) {
    place.replaceChildren(make("article", { class: "card" }, make("h3", {}, name), make("p", { class: "trouble", role: "alert" }, explain(error)),
      make("p", {}, make("button", { type: "button", class: "second", onclick: () => { queue.push([file, place]); go(); } }, "Try again"))));
  }
}
