// The classify page: drop, paste or choose files, and get verdicts. Several files get a table; its rows open the verdicts.

import { getJson } from "./api.js";
import { explain, make } from "./page.js";
import { labelName, loadTask, task } from "./task.js";
import { verdictCard } from "./verdict.js";
import { inBrief, inWords, ms, percent, stageName } from "./words.js";

const MAX_CONCURRENT = 2;
const byId = (id) => root.querySelector(`#${id}`);
const entries = []; // { file, name, truth, verdict, problem, row }, in the order in which they were dropped
const queue = [];
let root = null, running = 0, order = null, shown = null;

export function start(main, signal) {
  if (main !== root) { // with a new key the page starts again and keeps its files
    root = main;
    entries.length = queue.length = 0;
    shown = null;
  }
  byId("announcement").textContent = "";
  byId("announcement").className = "spoken";
  limits();
  samples();
  listen(signal);
}

async function limits() {
  try {
    const { limits: { max_bytes: bytes, max_seconds: seconds }, profile, policy } = await getJson("/v1/info");
    order = policy;
    await loadTask();
    root.querySelector("h1").textContent = `Is there ${task.description}?`;
    byId("limits").textContent =
      `JPEG, PNG, WebP, HEIC, AVIF, TIFF, BMP or GIF photos; clips as MP4, MOV, 3GP, WebM, MKV, MPEG-TS, MPEG-PS or AVI; up to ${Math.round(bytes / 2 ** 20)} MiB; clips up to ${seconds} s. Profile ${profile}.`;
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
  take([new File([blob], sample.name, { type: blob.type })], sample.label);
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
  byId("export").addEventListener("click", saveCsv, { signal });
  signal.addEventListener("abort", () => { if (!root.isConnected) queue.length = 0; });
}

// `truth` is the label that samples should get.
function take(files, truth = null) {
  if (!files.length) return;
  for (const file of files) {
    const entry = { file, name: file.name || "pasted image", truth, verdict: null, problem: "" };
    entry.row = make("tr", {});
    entries.push(entry);
    queue.push(entry);
    byId("rows").append(entry.row);
    fill(entry);
  }
  byId("found").hidden = false;
  byId("summary").hidden = entries.length < 2;
  show(entries.at(-files.length));
  count();
  byId("found").scrollIntoView({ block: "start" });
  go();
}

async function go() {
  while (running < MAX_CONCURRENT && queue.length) {
    running += 1;
    classify(queue.shift()).finally(() => { running -= 1; go(); });
  }
}

async function classify(entry) {
  entry.problem = "";
  try {
    const { file } = entry;
    const type = /^(image|video)\//.test(file.type) ? file.type : "application/octet-stream"; // the server detects the format
    const headers = { "Content-Type": type };
    if (file.name) headers["X-File-Name"] = encodeURIComponent(file.name.replace(/\p{Surrogate}/gu, "?")); // for the journal
    entry.verdict = await getJson("/v1/classify", { method: "POST", body: file, headers });
    byId("announcement").textContent = `${entry.name}: ${inWords(entry.verdict)}`;
  } catch (error) {
    entry.problem = explain(error);
  }
  fill(entry);
  count();
  if (shown === entry) show(entry);
}

// The row of an entry.
function fill(entry) {
  const { verdict, problem, row } = entry;
  const open = make("button", { type: "button", class: "link", onclick: () => show(entry) }, entry.name);
  const cells = verdict
    ? [inBrief(verdict), percent(verdict.probability, 1), stageName(verdict.exit.stage), ms(verdict.elapsed_ms)]
    : [problem ? "not classified" : "…", "", problem, ""];
  row.className = problem ? "trouble" : "";
  row.replaceChildren(make("td", {}, open), ...cells.map((cell, at) => make("td", { class: at % 2 ? "number" : null }, cell)));
}

// The verdict of one entry, in place of the one before.
function show(entry) {
  for (const each of entries) each.row.toggleAttribute("aria-current", each === entry);
  if (shown?.url) URL.revokeObjectURL(shown.url);
  shown = entry;
  const { name, verdict, problem, file } = entry;
  let card;
  if (verdict) {
    entry.url = URL.createObjectURL(file);
    card = verdictCard(verdict, name, { url: entry.url, clip: verdict.media === "clip" }, order);
    if (entry.truth) card.querySelector(".marks").append(checkOf(entry));
  } else if (problem) {
    const again = () => { queue.push(entry); entry.problem = ""; fill(entry); show(entry); go(); };
    card = make("article", { class: "card" }, make("h3", {}, name), make("p", { class: "trouble", role: "alert" }, problem),
      make("p", {}, make("button", { type: "button", class: "second", onclick: again }, "Try again")));
  } else {
    card = make("article", { class: "card", "aria-busy": "true" }, make("h3", {}, name), make("p", {}, "Classifying…"));
  }
  byId("results").replaceChildren(card);
}

// Whether the answer to a sample is right.
function checkOf({ truth, verdict }) {
  const right = truth === verdict.label, shows = `this sample shows ${truth === "none" ? "no " : ""}road work`;
  return make("span", { class: `mark ${right ? "good" : "warn"}` }, `${right ? "right" : "a mistake"}: ${shows}`);
}

function count() {
  const done = entries.filter((each) => each.verdict), failed = entries.filter((each) => each.problem).length;
  const works = done.filter((each) => each.verdict.positive).length;
  byId("progress").textContent = `${done.length} of ${entries.length} classified: ${works} with ${labelName(task.positive)}, ${done.length - works} without`
    + (failed ? `; ${failed} not classified.` : ".");
}

function saveCsv() {
  const lines = [["file", "label", "probability", "exit_stage", "elapsed_ms", "answer_id", "problem"], ...entries.map(({ name, verdict: v, problem }) =>
    v ? [name, v.label, v.probability, v.exit.stage, v.elapsed_ms, v.answer_id, ""] : [name, "", "", "", "", "", problem])];
  // A spreadsheet would run a cell that begins like a formula.
  const cell = (value) => `"${String(value).replace(/^[=+\-@\t\r]/, "'$&").replaceAll('"', '""')}"`;
  const url = URL.createObjectURL(new Blob([lines.map((line) => line.map(cell).join(",")).join("\r\n") + "\r\n"], { type: "text/csv" }));
  make("a", { href: url, download: "verdicts.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
