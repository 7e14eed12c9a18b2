// Moves between the pages without loading a document, so that the key in memory survives.

import { header } from "./page.js";

const SCRIPTS = {
  "/": "./classify.js",
  "/console/drive.html": "./drive.js",
  "/console/help.html": "./help.js",
  "/console/history.html": "./history.js",
  "/console/label.html": "./label.js",
  "/console/live.html": "./live.js",
  "/console/policy.html": "./policy.js",
};
const mark = header(start); // with a new key, the page starts again
let leaving = new AbortController(), latest = 0;

window.addEventListener("popstate", () => show(here()));
document.addEventListener("click", (event) => {
  const href = event.target.closest("a:not([target])")?.getAttribute("href");
  if (!href || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  const { pathname, search, hash } = new URL(href, location);
  if (href.startsWith("#") || !(pathname in SCRIPTS)) return;
  event.preventDefault();
  show(pathname + search, hash);
});
start();

function here() {
  return location.pathname + location.search;
}

async function show(path, hash = "") {
  let text;
  try {
    text = await (await fetch(path, { headers: { Accept: "text/html" } })).text();
  } catch {
    return location.assign(path); // the browser explains why the server cannot be reached
  }
  const next = new DOMParser().parseFromString(text, "text/html");
  if (path !== here()) history.pushState(null, "", path);
  document.title = next.title;
  document.querySelector("main").replaceWith(document.adoptNode(next.querySelector("main")));
  document.getElementById(hash.slice(1))?.scrollIntoView();
  await start();
}

async function start() {
  const number = (latest += 1);
  mark(location.pathname);
  const page = await import(SCRIPTS[location.pathname] ?? "./classify.js");
  if (number !== latest) return;
  leaving.abort();
  leaving = new AbortController();
  page.start(document.querySelector("main"), leaving.signal);
}
