// The live page: load and statistics of the server, and informative cases to label with one key.

import { getJson, mediaUrl, sendJson } from "./api.js";
import { barWidth, explain, make, ms, percent, REASONS, stageName } from "./page.js";
import { verdictCard } from "./verdict.js";

const INTERVAL_MS = 2000, JOURNAL_INTERVAL_MS = 5000;
const LABELS = { r: ["roadwork", "Road work"], n: ["none", "None"], u: ["unclear", "Unclear"] };
const byId = (id) => root.querySelector(`#${id}`);
let root = null, cases = [], shownCase = null, shownUrl = null, journalUnavailable = false;

export function start(main, signal) {
  root = main;
  shownCase = null;
  journalUnavailable = false;
  document.addEventListener("keydown", onKey, { signal });
  every(INTERVAL_MS, load, signal);
  every(JOURNAL_INTERVAL_MS, recent, signal);
  loadCases();
}

// Repeat while the page is visible, one call at a time, until it is left.
async function every(wait, work, signal) {
  while (!signal.aborted) {
    if (!document.hidden) await work();
    await new Promise((done) => setTimeout(done, wait));
  }
}

function trouble(error) {
  byId("trouble").hidden = !error;
  byId("trouble").textContent = error ? explain(error) : "";
}

async function load() {
  try {
    const stats = await getJson("/v1/stats");
    facts(stats.replicas);
    exits(stats.replicas);
    stages(stats.replicas);
    trouble(null);
  } catch (error) {
    trouble(error);
  }
}

function sum(replicas, value) {
  return replicas.reduce((total, replica) => total + (value(replica) ?? 0), 0);
}

function facts(replicas) {
  const seconds = Math.max(1, ...replicas.map((replica) => replica.requests?.uptime_s ?? 0));
  const verdicts = sum(replicas, (replica) => replica.requests?.verdicts);
  const rejected = sum(replicas, (replica) => Object.values(replica.requests?.rejected ?? {}).reduce((a, b) => a + b, 0));
  const versions = [...new Set(replicas.map((replica) => replica.policy_version))];
  const values = {
    "Verdicts": `${verdicts.toLocaleString("en")} (${(verdicts / seconds).toFixed(2)} per second)`,
    "In flight": sum(replicas, (replica) => replica.in_flight),
    "Rejected": rejected.toLocaleString("en"),
    "Deadline exits": sum(replicas, (replica) => replica.requests?.deadline_exits),
    "Degraded": sum(replicas, (replica) => replica.requests?.degraded),
    "Policy": versions.join(", "),
    "Degradation level": Math.max(...replicas.map((replica) => replica.degradation_level)),
    "Ingress replicas": replicas.length,
    "Journal": journalState(replicas),
  };
  byId("facts").replaceChildren(...Object.entries(values).map(([name, value]) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, String(value)))));
}

function journalState(replicas) {
  const journals = replicas.map((replica) => replica.journal).filter(Boolean);
  if (!journals.length) return "disabled";
  const pending = journals.reduce((total, journal) => total + journal.pending, 0);
  const dropped = journals.reduce((total, journal) => total + journal.dropped, 0);
  const down = journals.find((journal) => !journal.up);
  const state = down ? `unavailable (${down.error})` : "up";
  return `${state}, ${pending} pending${dropped ? `, ${dropped} dropped` : ""}`;
}

function exits(replicas) {
  const counts = new Map();
  for (const exit of replicas.flatMap((replica) => replica.requests?.exits ?? [])) {
    const name = `${stageName(exit.stage)}: ${REASONS[exit.reason]}`;
    counts.set(name, (counts.get(name) ?? 0) + exit.verdicts);
  }
  const total = [...counts.values()].reduce((a, b) => a + b, 0);
  const rows = [...counts].sort((a, b) => b[1] - a[1]).map(([name, count]) =>
    make("li", {}, make("span", {}, name), barWidth(make("span", { class: "mix" }), count / total),
      make("span", { class: "number" }, `${percent(count / total)} (${count.toLocaleString("en")})`)));
  byId("exits").replaceChildren(rows.length ? make("ul", { class: "mixes" }, ...rows) : make("p", { class: "quiet" }, "No verdicts yet."));
}

// Over several replicas: the weighted mean of their medians, and the highest of their 95th percentiles.
function percentiles(stats, name) {
  const distributions = stats.map((each) => each[name]).filter(Boolean);
  if (!distributions.length) return [null, null];
  const n = distributions.reduce((total, each) => total + each.n, 0);
  return [distributions.reduce((total, each) => total + each.p50 * each.n, 0) / n, Math.max(...distributions.map((each) => each.p95))];
}

function stages(replicas) {
  const number = (value) => make("td", { class: "number" }, String(value));
  const names = replicas[0].stages.map((stage) => stage.stage);
  byId("stages").tBodies[0].replaceChildren(...names.map((name) => {
    const loads = replicas.flatMap((replica) => replica.stages.filter((stage) => stage.stage === name));
    const stats = replicas.flatMap((replica) => (replica.requests?.stages ?? []).filter((each) => each.stage === name));
    const items = stats.reduce((total, each) => total + Object.values(each.outcomes).reduce((a, b) => a + b, 0), 0);
    const failed = stats.reduce((total, each) => total + (each.outcomes.failed ?? 0), 0);
    const [queue50, queue95] = percentiles(stats, "queue_ms"), [compute50, compute95] = percentiles(stats, "compute_ms");
    const batches = stats.map((each) => each.batch_size).filter(Boolean);
    const batch = batches.length ? (batches.reduce((t, b) => t + b.mean * b.n, 0) / batches.reduce((t, b) => t + b.n, 0)).toFixed(1) : "–";
    const up = loads.every((load) => load.up), tripped = loads.some((load) => load.breaker !== "closed");
    return make("tr", { "data-stage": name }, make("th", { scope: "row" }, stageName(name)),
      make("td", {}, make("span", { class: `mark ${up && !tripped ? "good" : "warn"}` }, !up ? "down" : tripped ? "paused" : "up")),
      number(sum(loads, (load) => load.queued)), number(sum(loads, (load) => load.in_flight)),
      number(ms(queue50)), number(ms(queue95)), number(ms(compute50)), number(ms(compute95)), number(batch), number(items), number(failed));
  }));
}

async function recent() {
  if (journalUnavailable) return;
  try {
    const { entries } = await getJson("/v1/journal?limit=20");
    byId("recent-message").textContent = entries.length ? "" : "The journal is empty.";
    byId("recent").tBodies[0].replaceChildren(...entries.map((entry) => make("tr", {},
      make("td", {}, new Date(entry.created_at).toLocaleTimeString()),
      make("td", {}, entry.verdict.media, entry.media_available ? "" : make("span", { class: "quiet" }, " (not stored)")),
      make("td", {}, entry.verdict.label === "roadwork" ? "road work" : "none"),
      make("td", { class: "number" }, percent(entry.verdict.probability, 1)),
      make("td", {}, `${stageName(entry.verdict.exit.stage)}: ${REASONS[entry.verdict.exit.reason]}`),
      make("td", { class: "number" }, ms(entry.verdict.elapsed_ms)),
      make("td", {}, entry.human_label ?? "–"))));
  } catch (error) {
    journalUnavailable = [401, 403, 404].includes(error.status); // a retry would not help
    byId("recent-message").textContent = explain(error);
  }
}

async function loadCases() {
  try {
    cases = (await getJson("/v1/journal?sort=informativeness&limit=24")).entries;
    next(cases.length ? "" : "Nothing to label: all recent entries have labels, or there are none yet.");
  } catch (error) {
    byId("cases-message").textContent = explain(error);
  }
}

// Show the next case, with its file if it is stored. Keys have no effect until it is shown.
async function next(message) {
  shownCase = null;
  const entry = cases.shift(), before = shownUrl;
  let media = null, text = message;
  if (entry?.media_available) {
    try {
      media = await mediaUrl(`/v1/journal/${encodeURIComponent(entry.id)}/media`);
    } catch (error) {
      text = explain(error);
    }
  }
  shownUrl = media?.url ?? null;
  byId("cases").replaceChildren(...(entry ? caseCard(entry, media) : [make("button", { type: "button", class: "second", onclick: loadCases }, "Load more")]));
  byId("cases-message").textContent = text;
  if (before) URL.revokeObjectURL(before);
  shownCase = entry ?? null;
}

function caseCard(entry, media) {
  const reasons = Object.entries(entry.reasons).map(([name, strength]) => `${name} ${strength.toFixed(2)}`).join(", ");
  const buttons = Object.entries(LABELS).map(([letter, [label, name]]) =>
    make("button", { type: "button", "data-label": label, onclick: () => setLabel(entry, label) }, name, " ", make("kbd", {}, letter.toUpperCase())));
  const lines = [`Informativeness ${entry.informativeness.toFixed(2)}: ${reasons || "no reason"}. ${cases.length} more to label.`];
  if (!entry.media_available) lines.push("The file is not stored; set journal.max_media_gib in the profile to store files.");
  return [
    make("p", { class: "row" }, ...buttons,
      make("button", { type: "button", class: "second", onclick: () => next("Skipped.") }, "Skip ", make("kbd", {}, "S"))),
    ...lines.map((line) => make("p", { class: "quiet" }, line)),
    verdictCard(entry.verdict, new Date(entry.created_at).toLocaleString(), media),
  ];
}

async function setLabel(entry, label) {
  if (entry !== shownCase) return;
  shownCase = null; // a second key press must not label the next case
  try {
    await sendJson(`/v1/journal/${encodeURIComponent(entry.id)}/label`, { label }, "PUT");
    await next(`Labeled: ${label}.`);
    await recent();
  } catch (error) {
    shownCase = entry;
    byId("cases-message").textContent = explain(error);
  }
}

function onKey(event) {
  if (!shownCase || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.target.closest("input, textarea, select, dialog")) return;
  const letter = event.key.toLowerCase();
  if (letter in LABELS) setLabel(shownCase, LABELS[letter][0]);
  else if (letter === "s") next("Skipped.");
}
