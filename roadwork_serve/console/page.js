// Shared by all pages: navigation, the API key dialog, and helpers to build elements.

import { setKey, key } from "./api.js";

// make("p", { class: "quiet" }, "text", otherElement)
export function make(tag, attributes = {}, ...inside) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...inside.filter((each) => each != null));
  return element;
}

export function percent(share, digits = 0) {
  if (digits === 0 && share > 0.99 && share < 1) return "over 99 %";
  if (digits === 0 && share < 0.01 && share > 0) return "under 1 %";
  return `${(100 * share).toFixed(digits)} %`;
}

export function ms(value) {
  return value == null ? "–" : value < 10 ? value.toFixed(1) : Math.round(value).toLocaleString("en");
}

export const STAGES = {
  backbone: "Backbone",
  closeup: "Closer look",
  signs: "Sign reader",
  vlm: "Fast VLM",
  reasoner: "Reasoner",
  video: "Video reasoner",
};

export function stageName(stage) {
  return STAGES[stage] ?? stage;
}

export const REASONS = {
  above_band: "confident of road work",
  below_band: "confident of no road work",
  last_stage: "no further stage",
  deadline: "deadline reached",
  failed: "later stages failed",
};

export function barWidth(element, share) {
  element.style.setProperty("--share", Math.max(0, Math.min(1, share)));
  return element;
}

const PAGES = [["/", "Classify"], ["/console/live.html", "Live"], ["/console/policy.html", "Policy"]];

export function openKey(reason = "") {
  const dialog = document.getElementById("key-dialog");
  dialog.querySelector("#key-reason").textContent = reason;
  if (!dialog.open) dialog.showModal();
}

// Fills the header once. Returns a function that marks the link of a page as the current one.
export function header(onLink, onKey) {
  const links = PAGES.map(([path, name]) => make("a", { href: path, onclick: (event) => {
    if (event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    onLink(path);
  } }, name));
  const input = make("input", { type: "password", id: "key", autocomplete: "off", spellcheck: "false" });
  const dialog = make("dialog", { id: "key-dialog", "aria-labelledby": "key-title" },
    make("form", { method: "dialog", onsubmit: () => { setKey(input.value.trim()); onKey(); } },
      make("h2", { id: "key-title" }, "Key"),
      make("p", { id: "key-reason" }),
      make("label", { for: "key" }, "API key"), input,
      make("p", { class: "quiet" }, "The key is kept in the memory of this tab, until you reload or close it."),
      make("p", { class: "row" }, make("button", {}, "Use key"),
        make("button", { type: "button", class: "second", onclick: () => dialog.close() }, "Cancel"))));
  document.getElementById("top").append(
    make("nav", { "aria-label": "Pages" },
      make("span", { class: "brand" }, make("img", { src: "/console/icon.svg", alt: "", width: 24, height: 24 }), "roadwork-serve"),
      make("ul", {}, ...links.map((link) => make("li", {}, link)), make("li", {}, make("a", { href: "/docs", target: "_blank", rel: "noopener" }, "API"))),
      make("button", { type: "button", class: "second", onclick: () => openKey() }, "Key…")),
    dialog);
  return (here) => links.forEach((link) => {
    if (link.getAttribute("href") === here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  });
}

// Returns the message of an error; opens the key dialog if a key is missing.
export function explain(error) {
  if (error.status === 401) openKey("This server requires an API key.");
  else if (error.status === 403 && key()) openKey(error.message);
  return error.message;
}
