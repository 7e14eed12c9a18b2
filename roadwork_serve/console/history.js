// The history page: pages of journal entries, filters that are kept in the address, and the whole answer of a row.

import { getJson } from "./api.js";
import { disagreement, nameOf, timeOf, wholeAnswer } from "./entry.js";
import { explain, make, narrow } from "./page.js";
import { labelName, loadTask, stages, task } from "./task.js";
import { Thumbnails } from "./thumbnails.js";
import { belief } from "./verdict.js";
import { exitText, inBrief, ms, percent, stageName, STAGES } from "./words.js";

const ON_A_PAGE = 24, SETTLE_MS = 400;
const STEPS = { ArrowLeft: -1, ArrowRight: 1 };
const byId = (id) => root.querySelector(`#${id}`);
let root = null, thumbnails = null, policy = null, entries = [], opened = null, latest = 0, timer = null;

export async function start(main, signal) {
  root = main;
  await loadTask();
  if (signal.aborted) return;
  entries = [];
  opened = null;
  policy = null;
  thumbnails = new Thumbnails(signal);
  byId("labels").append(...[task.positive, task.negative].map((label) => make("option", { value: label }, labelName(label))));
  byId("exit_stage").replaceChildren(make("option", { value: "" }, "any stage"),
    ...[...new Set([...Object.keys(STAGES), ...stages])].map((stage) => make("option", { value: stage }, stageName(stage))));
  const form = byId("filters"), asked = new URLSearchParams(location.search);
  for (const field of form.elements) if (field.name && asked.has(field.name)) field.value = asked.get(field.name);
  byId("fold").open = !narrow() || filters().length > 0;
  form.addEventListener("submit", (event) => event.preventDefault(), { signal });
  form.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(() => go(new URLSearchParams(filters())), SETTLE_MS); }, { signal });
  byId("clear").addEventListener("click", () => {
    for (const field of form.elements) if (field.name) field.value = "";
    go(new URLSearchParams());
  }, { signal });
  byId("newest").addEventListener("click", () => go(new URLSearchParams(filters())), { signal });
  byId("newer").addEventListener("click", () => history.back(), { signal });
  byId("refresh").addEventListener("click", load, { signal });
  const dialog = byId("answer");
  byId("close").addEventListener("click", () => dialog.close(), { signal });
  byId("before").addEventListener("click", () => step(-1), { signal });
  byId("after").addEventListener("click", () => step(1), { signal });
  dialog.addEventListener("keydown", (event) => { if (event.key in STEPS && !event.target.closest("video, input, pre")) step(STEPS[event.key]); }, { signal });
  dialog.addEventListener("close", close, { signal });
  signal.addEventListener("abort", () => { clearTimeout(timer); close(); });
  load();
}

// The filters that are set, as pairs for a query.
function filters() {
  return [...byId("filters").elements].filter((field) => field.name && field.value).map((field) => [field.name, field.value]);
}

// Shows a page, and puts its query into the address.
function go(query, depth = 0) {
  const text = query.toString();
  history.pushState({ depth }, "", location.pathname + (text ? `?${text}` : ""));
  load();
}

// The query of the API. Days are those of the reader's clock.
function question() {
  const query = new URLSearchParams({ limit: ON_A_PAGE });
  for (const [name, value] of new URLSearchParams(location.search)) {
    if (name === "since" || name === "until") {
      const day = new Date(`${value}T00:00`);
      if (name === "until") day.setDate(day.getDate() + 1); // the day is included
      if (!Number.isNaN(day.getTime())) query.set(name, day.toISOString());
    } else if (name === "cursor" || byId("filters").elements.namedItem(name)) query.set(name, value);
  }
  return query;
}

async function load() {
  const number = (latest += 1), query = question();
  byId("message").textContent = "Loading…";
  byId("message").className = "quiet";
  try {
    const page = await getJson(`/v1/journal?${query}`);
    policy ??= (await getJson("/v1/info")).policy;
    if (number === latest) show(page, query.has("cursor"));
  } catch (error) {
    if (number !== latest) return;
    byId("message").textContent = explain(error);
    byId("message").className = "trouble";
  }
}

function show(page, later) {
  entries = page.entries;
  byId("rows").replaceChildren(...entries.map(row));
  byId("entries").hidden = !entries.length;
  const more = page.next_cursor != null, filtered = filters().length > 0;
  byId("message").textContent = entries.length === ON_A_PAGE || (entries.length && !more) ? ""
    : more ? "Few entries match so far. The search looks at ten thousand at a time: continue with Older."
      : filtered || later ? "No more entries match." : "The journal is empty. Classify a file, and it is listed here.";
  byId("newest").hidden = !later;
  byId("newer").hidden = !history.state?.depth;
  byId("older").hidden = !more;
  byId("older").onclick = () => {
    go(new URLSearchParams([...filters(), ["cursor", page.next_cursor]]), (history.state?.depth ?? 0) + 1);
    scrollTo(0, 0);
  };
}

function row(entry, index) {
  const { verdict } = entry, human = entry.human_label;
  const open = make("button", { type: "button", class: "link", onclick: () => openAnswer(index) }, nameOf(entry));
  const mark = human ? make("span", { class: `mark ${human === "unclear" ? "" : human === verdict.label ? "good" : "warn"}` }, labelName(human)) : "–";
  return make("tr", { "data-id": entry.id, onclick: (event) => { if (!event.target.closest("button")) openAnswer(index); } },
    make("td", { class: "shot" }, thumbnails.of(entry)),
    make("td", { class: "name" }, open, make("p", { class: "quiet" }, timeOf(entry))),
    make("td", {}, `${inBrief(verdict)}, ${percent(verdict.probability, 1)}`, belief(verdict.probability)),
    make("td", { title: exitText(verdict) }, stageName(verdict.exit.stage), disagreement(entry) ? make("p", {}, make("span", { class: "mark warn" }, "stages disagree")) : null),
    make("td", { class: "number" }, `${ms(verdict.elapsed_ms)} ms`),
    make("td", {}, make("span", { class: "quiet narrow" }, "human label: "), mark));
}

// Shows the whole answer of an entry over the page.
async function openAnswer(index) {
  const entry = entries[index], before = opened, mine = (opened = { index, release: () => {} });
  before?.release();
  byId("before").disabled = index === 0;
  byId("after").disabled = index === entries.length - 1;
  byId("place").textContent = `${index + 1} of ${entries.length} on this page`;
  byId("whole").replaceChildren(make("p", {}, "Loading…"));
  if (!byId("answer").open) byId("answer").showModal();
  const { card, release } = await wholeAnswer(entry, policy);
  if (opened !== mine) return release();
  mine.release = release;
  byId("whole").replaceChildren(card);
}

function step(by) {
  if (opened && entries[opened.index + by]) openAnswer(opened.index + by);
}

function close() {
  opened?.release();
  opened = null;
  byId("whole")?.replaceChildren();
}
