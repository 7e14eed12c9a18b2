// Moves between the pages without loading a document, so that the key in memory survives.

import { header } from "./page.js";

const SCRIPTS = { "/console/live.html": "./live.js", "/console/policy.html": "./policy.js" };
const mark = header(show, start); // with a new key, the page starts again
let leaving = new AbortController(), latest = 0;

window.addEventListener("popstate", () => show(location.pathname));
start();

async function show(path) {
  let text;
  try {
    text = await (await fetch(path, { headers: { Accept: "text/html" } })).text();
  } catch {
    return location.assign(path); // the browser explains why the server cannot be reached
  }
  const next = new DOMParser().parseFromString(text, "text/html");
  if (path !== location.pathname) history.pushState(null, "", path);
  document.title = next.title;
  document.querySelector("main").replaceWith(document.adoptNode(next.querySelector("main")));
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
