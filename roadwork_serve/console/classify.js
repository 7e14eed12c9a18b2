// Drop, paste or pick a file; get the verdict.

import { ask } from "./api.js";
import { explain, header, make } from "./page.js";
import { inWords, verdictCard } from "./way.js";

const AT_ONCE = 2, MOST = 24;
const drop = document.getElementById("drop"), results = document.getElementById("results");
const said = document.getElementById("said"), waiting = [];
let running = 0;

header();

ask("/v1/info").then((info) => {
  const { max_bytes: bytes, max_seconds: seconds } = info.limits;
  document.getElementById("limits").textContent =
    `JPEG, PNG, WebP, MP4, WebM or MOV, up to ${Math.round(bytes / 2 ** 20)} MiB; clips up to ${seconds} s. Profile ${info.profile}.`;
}).catch((error) => { said.textContent = explain(error); said.className = "trouble"; });

fetch("/console/samples/samples.json").then((response) => response.json()).then((samples) => {
  document.getElementById("samples").append(...samples.map((sample) =>
    make("li", {}, make("button", { type: "button", class: "sample", onclick: () => trySample(sample) },
      make("img", { src: `/console/samples/${sample.still ?? sample.file}`, alt: "", loading: "lazy", width: 192, height: 128 }),
      make("span", {}, sample.name)))));
});

async function trySample(sample) {
  const blob = await (await fetch(`/console/samples/${sample.file}`)).blob();
  take([new File([blob], sample.name, { type: blob.type })]);
}

document.getElementById("files").addEventListener("change", (event) => {
  take([...event.target.files]);
  event.target.value = "";
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) take([...event.clipboardData.files]);
});
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
for (const kind of ["dragleave", "drop"]) document.addEventListener(kind, () => drop.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  take([...event.dataTransfer.files]);
});

function take(files) {
  if (files.length > MOST) {
    said.textContent = `${files.length} files at once are too many here; the first ${MOST} are taken. For more use /v1/classify/batch.`;
  }
  document.getElementById("results-title").hidden = false;
  for (const file of files.slice(0, MOST)) {
    const place = make("div", {}, make("article", { class: "card", "aria-busy": "true" }, make("h3", {}, file.name), make("p", {}, "Looking…")));
    results.prepend(place);
    waiting.push([file, place]);
  }
  go();
}

async function go() {
  while (running < AT_ONCE && waiting.length) {
    running += 1;
    const [file, place] = waiting.shift();
    classify(file, place).finally(() => { running -= 1; go(); });
  }
}

async function classify(file, place) {
  const name = file.name || "a pasted picture";
  try {
    const type = /^(image|video)\//.test(file.type) ? file.type : "application/octet-stream"; // the bytes say what it is
    const verdict = await ask("/v1/classify", { method: "POST", body: file, headers: { "Content-Type": type } });
    const media = { url: URL.createObjectURL(file), clip: verdict.media === "clip" };
    place.replaceChildren(verdictCard(verdict, name, media));
    said.textContent = `${name}: ${inWords(verdict)}`;
  } catch (error) {
    place.replaceChildren(make("article", { class: "card" }, make("h3", {}, name), make("p", { class: "trouble", role: "alert" }, explain(error)),
      make("p", {}, make("button", { type: "button", class: "second", onclick: () => { waiting.push([file, place]); go(); } }, "Try again"))));
  }
}
