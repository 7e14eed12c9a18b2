// Labels that a person gives to journal entries: a queue of entries, what was done, and how often the model agrees.

import { getJson, sendJson } from "./api.js";

const AT_ONCE = 24, MAX_PAGES = 10;
const QUEUES = { informative: "sort=informativeness", newest: "labeled=false", differing: "disagreement=true&labeled=false" };

export class Labelling {
  constructor() {
    this.entries = []; // all that were loaded, with `human_label` as it is now
    this.done = []; // entries that were labelled here, the latest last, for undo
    this.order = "informative";
    this.cursor = null;
  }

  get left() {
    return this.entries.filter((entry) => !entry.human_label).length;
  }

  // Of the entries labelled here as positive or negative: how many, and how many as the model did.
  get agreement() {
    const sure = this.done.filter((entry) => entry.human_label !== "unclear");
    return { labelled: this.done.length, sure: sure.length, agreed: sure.filter((entry) => entry.human_label === entry.verdict.label).length };
  }

  // Begins a queue in another order. What was labelled stays counted.
  restart(order) {
    this.order = order in QUEUES ? order : "informative";
    this.entries = [];
    this.cursor = null;
  }

  // Loads more entries, and returns those that are new. A page that found none may have a next one.
  async load() {
    const known = new Set(this.entries.map((entry) => entry.id));
    let fresh = [];
    for (let pages = 0; pages < MAX_PAGES && !fresh.length; pages += 1) {
      const next = this.cursor === null ? "" : `&cursor=${encodeURIComponent(this.cursor)}`;
      const page = await getJson(`/v1/journal?${QUEUES[this.order]}&limit=${AT_ONCE}${next}`);
      this.cursor = page.next_cursor ?? null;
      fresh = page.entries.filter((entry) => !known.has(entry.id));
      if (this.cursor === null) break;
    }
    this.entries.push(...fresh);
    return fresh;
  }

  async label(entry, label) {
    await sendJson(path(entry), { label }, "PUT");
    entry.human_label = label;
    this.done = [...this.done.filter((each) => each !== entry), entry];
  }

  // Withdraws the latest label given here, and returns its entry; null if there is none.
  async undo() {
    const entry = this.done.at(-1);
    if (!entry) return null;
    const now = await getJson(path(entry), { method: "DELETE" });
    entry.human_label = now.human_label ?? null;
    this.done.pop();
    return entry;
  }
}

function path(entry) {
  return `/v1/journal/${encodeURIComponent(entry.id)}/label`;
}
