// The label page: a queue of journal entries, one at a time or as a grid of pictures, labelled with the keyboard.

import { getJson } from "./api.js";
import { wholeAnswer } from "./entry.js";
import { LabelGrid } from "./label_grid.js";
import { Labelling } from "./labelling.js";
import { explain, make, narrow } from "./page.js";
import { Thumbnails } from "./thumbnails.js";
import { labelName, loadTask, task } from "./task.js";
import { percent } from "./words.js";

// The keys of the labels: R for the positive one, N for the negative one.
const labels = () => ({ r: task.positive, n: task.negative, u: "unclear" });
const capital = (text) => text[0].toUpperCase() + text.slice(1);
const MOVES = { s: 1, arrowright: 1, arrowleft: -1 };
const byId = (id) => root.querySelector(`#${id}`);
let root = null, work = null, grid = null, policy = null, at = 0, shown = null, busy = false;

export function start(main, signal) {
  root = main;
  work = new Labelling();
  policy = null;
  shown = null;
  busy = false;
  at = 0;
  grid = new LabelGrid(byId("grid"), new Thumbnails(signal), (entry) => { at = work.entries.indexOf(entry); });
  const asked = new URLSearchParams(location.search);
  byId("mode").value = asked.get("mode") === "grid" ? "grid" : "one";
  if (asked.has("queue")) byId("queue").value = asked.get("queue");
  for (const [id, act] of [["mode", show], ["queue", () => load(true)], ["blind", show]]) {
    byId(id).addEventListener("change", (event) => { event.target.blur(); address(); act(); }, { signal }); // keys label again
  }
  byId("more").addEventListener("click", () => load(false), { signal });
  loadTask().then(keys);
  document.addEventListener("keydown", onKey, { signal });
  signal.addEventListener("abort", () => shown?.release());
  load(true);
}

// The buttons, with the labels of the task.
function keys() {
  const key = (text, letter, act, attributes) => make("button", { type: "button", onclick: act, ...attributes }, text, " ", make("kbd", {}, letter));
  byId("keys").replaceChildren(
    ...Object.entries(labels()).map(([letter, label]) => key(capital(labelName(label)), letter.toUpperCase(), () => give(label), { "data-label": label })),
    key("Skip", "S", () => move(1), { class: "second" }), key("Undo", "Z", undo, { class: "second" }));
}

function inGrid() {
  return byId("mode").value === "grid";
}

function address() {
  const query = new URLSearchParams({ mode: byId("mode").value, queue: byId("queue").value });
  history.replaceState(history.state, "", `${location.pathname}?${query}`);
}

function say(text, trouble = false) {
  byId("message").textContent = text;
  byId("message").className = trouble ? "trouble" : "quiet";
}

async function load(again) {
  if (again) {
    work.restart(byId("queue").value);
    at = 0;
    say("Loading…");
  }
  try {
    policy ??= (await getJson("/v1/info")).policy;
    const before = work.entries.length, fresh = await work.load();
    if (fresh.length) at = before;
    say(fresh.length ? "" : "Nothing more to label: all recent entries of this queue have labels, or there are none yet.");
    await show();
  } catch (error) {
    say(explain(error), true);
  }
}

// Shows the entry or the grid. Labels have no effect until it is there.
async function show() {
  count();
  const blind = byId("blind").checked;
  byId("grid").hidden = !inGrid();
  byId("one").hidden = inGrid();
  byId("more").hidden = !inGrid() && at < work.entries.length;
  const before = shown, mine = (shown = { entry: null, release: () => {} });
  before?.release();
  byId("one").replaceChildren();
  if (inGrid()) return grid.show(work.entries, at, blind);
  const entry = work.entries[at];
  if (!entry) return;
  const { card, release } = await wholeAnswer(entry, policy);
  if (shown !== mine) return release();
  Object.assign(mine, { entry, release });
  if (blind) card.replaceChildren(...[...card.querySelectorAll("h3, .picture")]);
  card.classList.toggle("blind", blind);
  byId("one").replaceChildren(card, reasons(entry, blind));
  if (narrow()) byId("keys").scrollIntoView(); // with the picture below them
}

function reasons(entry, blind) {
  const parts = [`${at + 1} of ${work.entries.length}.`];
  if (entry.human_label) parts.push(`Labelled: ${labelName(entry.human_label)}.`);
  if (entry.informativeness != null && !blind) {
    const why = Object.entries(entry.reasons).map(([name, strength]) => `${name.replaceAll("_", " ")} ${strength.toFixed(2)}`).join(", ");
    parts.push(`Informativeness ${entry.informativeness.toFixed(2)}: ${why || "no reason"}.`);
  }
  return make("p", { class: "quiet" }, parts.join(" "));
}

function count() {
  const { labelled, sure, agreed } = work.agreement;
  byId("tally").textContent = `${work.left} to label, ${labelled} labelled here.`
    + (sure ? ` The model agrees with ${agreed} of ${sure} (${percent(agreed / sure)}).` : "");
}

function current() {
  return inGrid() ? work.entries[at] : shown?.entry;
}

// Runs one act at a time: a second key press must not label the next entry.
async function alone(act) {
  if (busy) return;
  busy = true;
  try {
    await act();
  } catch (error) {
    say(explain(error), true);
  } finally {
    busy = false;
  }
}

function give(label) {
  const entry = current();
  if (!entry) return;
  alone(async () => {
    await work.label(entry, label);
    const opinion = label === "unclear" ? "" : label === entry.verdict.label ? " The model agrees." : " The model says otherwise.";
    say(`Labelled: ${labelName(label)}.${opinion}`);
    grid.refresh(entry);
    await go(1);
  });
}

function undo() {
  alone(async () => {
    const entry = await work.undo();
    if (!entry) return say("Nothing to undo.");
    say(`The label of ${entry.filename || "the last entry"} is withdrawn.`);
    grid.refresh(entry);
    if (work.entries.includes(entry)) at = work.entries.indexOf(entry);
    await show();
  });
}

function move(by) {
  alone(async () => {
    say("");
    await go(by);
  });
}

// Goes on to another entry; behind the last, more are loaded.
async function go(by) {
  const next = Math.max(0, at + by);
  if (inGrid() && next >= work.entries.length) return show();
  at = Math.min(next, work.entries.length);
  if (at === work.entries.length && !inGrid()) {
    const said = byId("message").textContent;
    const fresh = await work.load();
    say(fresh.length ? said : `${said} Nothing more to label.`.trim());
  }
  await show();
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.target.closest("input:not([type=checkbox]), textarea, select, dialog, video")) return;
  const key = event.key.toLowerCase();
  if (key in labels()) give(labels()[key]);
  else if (key === "z") undo();
  else if (inGrid() && key in grid.moves) move(grid.moves[key]());
  else if (key in MOVES) move(MOVES[key]);
  else return;
  event.preventDefault();
}
