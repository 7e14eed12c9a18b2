// Shared by all pages: navigation, the API key dialog, and functions that build elements.

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

export function barWidth(element, share) {
  element.style.setProperty("--share", Math.max(0, Math.min(1, share)));
  return element;
}

const PAGES = [
  ["/", "Classify"], ["/console/history.html", "History"], ["/console/label.html", "Label"], ["/console/drive.html", "Drives"],
  ["/console/live.html", "Live"], ["/console/policy.html", "Policy"], ["/console/help.html", "Help"],
];

export function openKey(reason = "") {
  const dialog = document.getElementById("key-dialog");
  dialog.querySelector("#key-reason").textContent = reason;
  if (!dialog.open) dialog.showModal();
}

// Whether the window is as narrow as a phone's; see console.css.
export function narrow() {
  return matchMedia("(max-width: 46rem)").matches;
}

// Repeats while the page is visible, one call at a time, until it is left.
export async function every(wait, work, signal) {
  while (!signal.aborted) {
    if (!document.hidden) await work();
    await new Promise((done) => setTimeout(done, wait));
  }
}

// Fills the header once. Returns a function that marks the link of a page as the current one.
export function header(onKey) {
  const links = PAGES.map(([path, name]) => make("a", { href: path }, name));
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
  if (error.status === 401) openKey(error.message);
  else if (error.status === 403 && key()) openKey(error.message);
  return error.message;
}
