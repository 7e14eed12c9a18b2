// A grid of pictures to label: one is chosen, with the arrow keys or a click, and the keys of the page label it.

import { nameOf } from "./entry.js";
import { make } from "./page.js";
import { labelName } from "./task.js";
import { inBrief, percent } from "./words.js";

export class LabelGrid {
  // `choose` is called with the entry that was clicked.
  constructor(element, thumbnails, choose) {
    this.element = element;
    this.thumbnails = thumbnails;
    this.choose = choose;
    this.tiles = new Map(); // by entry
    this.moves = { arrowright: () => 1, arrowleft: () => -1, arrowdown: () => this.columns(), arrowup: () => -this.columns(), s: () => 1 };
  }

  show(entries, at, blind) {
    this.blind = blind;
    this.tiles = new Map(entries.map((entry) => [entry, this.tiles.get(entry) ?? this.tile(entry)]));
    for (const entry of entries) this.refresh(entry);
    if (this.element.childElementCount !== entries.length || this.element.firstElementChild !== this.tiles.get(entries[0])) {
      this.element.replaceChildren(...this.tiles.values());
    }
    this.mark(entries[at]);
  }

  tile(entry) {
    const button = make("button", { type: "button", class: "tile", "data-id": entry.id, onclick: () => { this.choose(entry); this.mark(entry); } },
      this.thumbnails.of(entry), make("span", { class: "name" }), make("span", { class: "model" }), make("span", { class: "human" }));
    return make("li", {}, button);
  }

  // Puts the texts of an entry into its tile.
  refresh(entry) {
    const tile = this.tiles.get(entry);
    if (!tile) return;
    const { verdict, human_label: human } = entry, shown = !this.blind || human;
    const differs = human && human !== "unclear" && human !== verdict.label;
    tile.querySelector(".name").textContent = nameOf(entry);
    tile.querySelector(".model").textContent = shown ? `${inBrief(verdict)}, ${percent(verdict.probability)}` : "";
    tile.querySelector(".human").textContent = human ? `you: ${labelName(human)}${differs ? " (differs)" : ""}` : "";
    tile.firstElementChild.dataset.human = human ? (differs ? "differs" : human === "unclear" ? "unclear" : "agrees") : "";
  }

  mark(entry) {
    for (const [each, tile] of this.tiles) tile.firstElementChild.setAttribute("aria-pressed", String(each === entry));
    const chosen = this.tiles.get(entry)?.firstElementChild;
    chosen?.scrollIntoView({ block: "nearest" });
    if (this.element.contains(document.activeElement)) chosen?.focus();
  }

  columns() {
    return getComputedStyle(this.element).gridTemplateColumns.split(" ").length;
  }
}
