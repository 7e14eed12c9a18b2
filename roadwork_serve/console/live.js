// What the server is at, and hard cases to label with one key.

import { ask, picture, send } from "./api.js";
import { barWidth, explain, header, make, ms, percent, REASONS, stageName } from "./page.js";
import { verdictCard } from "./way.js";

const EVERY_MS = 2000, JOURNAL_EVERY_MS = 5000;
const WORDS = { r: ["roadwork", "Road work"], n: ["none", "None"], u: ["unclear", "Unclear"] };
const byId = (id) => document.getElementById(id);
let cases = [], shownCase = null, shownUrl = null, journalStops = false;

header();
every(EVERY_MS, load);
every(JOURNAL_EVERY_MS, recent);
hard();

// Again and again while somebody looks, never two at a time.
async function every(wait, work) {
  for (;;) {
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
    const stats = await ask("/v1/stats");
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
  const seconds = Math.max(1, ...replicas.map((replica) => replica.answered?.seconds ?? 0));
  const answers = sum(replicas, (replica) => replica.answered?.answers);
  const refused = sum(replicas, (replica) => Object.values(replica.answered?.refused ?? {}).reduce((a, b) => a + b, 0));
  const versions = [...new Set(replicas.map((replica) => replica.policy_version))];
  const told = {
    "Answers": `${answers.toLocaleString("en")} (${(answers / seconds).toFixed(2)} a second)`,
    "In work": sum(replicas, (replica) => replica.in_flight),
    "Refused": refused.toLocaleString("en"),
    "Late": sum(replicas, (replica) => replica.answered?.late),
    "A stage missed": sum(replicas, (replica) => replica.answered?.degraded),
    "Policy": versions.join(", "),
    "Load gear": Math.max(...replicas.map((replica) => replica.gear)),
    "Ingress replicas": replicas.length,
    "Journal": journalWord(replicas),
  };
  byId("facts").replaceChildren(...Object.entries(told).map(([name, value]) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, String(value)))));
}

function journalWord(replicas) {
  const journals = replicas.map((replica) => replica.journal).filter(Boolean);
  if (!journals.length) return "none is kept";
  const waiting = journals.reduce((total, journal) => total + journal.waiting, 0);
  const dropped = journals.reduce((total, journal) => total + journal.dropped, 0);
  const word = journals.every((journal) => journal.up) ? "up" : "does not answer";
  return `${word}, ${waiting} wait${dropped ? `, ${dropped} lost` : ""}`;
}

function exits(replicas) {
  const counts = new Map();
  for (const exit of replicas.flatMap((replica) => replica.answered?.exits ?? [])) {
    const name = `${stageName(exit.stage)}: ${REASONS[exit.reason]}`;
    counts.set(name, (counts.get(name) ?? 0) + exit.answers);
  }
  const total = [...counts.values()].reduce((a, b) => a + b, 0);
  const rows = [...counts].sort((a, b) => b[1] - a[1]).map(([name, count]) =>
    make("li", {}, make("span", {}, name), barWidth(make("span", { class: "mix" }), count / total),
      make("span", { class: "number" }, `${percent(count / total)} (${count.toLocaleString("en")})`)));
  byId("exits").replaceChildren(rows.length ? make("ul", { class: "mixes" }, ...rows) : make("p", { class: "quiet" }, "Nothing has been answered yet."));
}

// Of several replicas: the mean of their medians by how many each rests on, and the worst of their 95th percentiles.
function spread(works, name) {
  const spreads = works.map((work) => work[name]).filter(Boolean);
  if (!spreads.length) return [null, null];
  const n = spreads.reduce((total, each) => total + each.n, 0);
  return [spreads.reduce((total, each) => total + each.p50 * each.n, 0) / n, Math.max(...spreads.map((each) => each.p95))];
}

function stages(replicas) {
  const number = (value) => make("td", { class: "number" }, String(value));
  const names = replicas[0].stages.map((stage) => stage.stage);
  byId("stages").tBodies[0].replaceChildren(...names.map((name) => {
    const loads = replicas.flatMap((replica) => replica.stages.filter((stage) => stage.stage === name));
    const works = replicas.flatMap((replica) => (replica.answered?.stages ?? []).filter((work) => work.stage === name));
    const asked = works.reduce((total, work) => total + Object.values(work.outcomes).reduce((a, b) => a + b, 0), 0);
    const failed = works.reduce((total, work) => total + (work.outcomes.failed ?? 0), 0);
    const [queue50, queue95] = spread(works, "queue_ms"), [compute50, compute95] = spread(works, "compute_ms");
    const batches = works.map((work) => work.batch_size).filter(Boolean);
    const batch = batches.length ? (batches.reduce((t, b) => t + b.mean * b.n, 0) / batches.reduce((t, b) => t + b.n, 0)).toFixed(1) : "–";
    const up = loads.every((load) => load.up), resting = loads.some((load) => load.breaker !== "closed");
    return make("tr", { "data-stage": name }, make("th", { scope: "row" }, stageName(name)),
      make("td", {}, make("span", { class: `mark ${up && !resting ? "good" : "warn"}` }, !up ? "down" : resting ? "rests" : "up")),
      number(sum(loads, (load) => load.waiting)), number(sum(loads, (load) => load.in_flight)),
      number(ms(queue50)), number(ms(queue95)), number(ms(compute50)), number(ms(compute95)), number(batch), number(asked), number(failed));
  }));
}

async function recent() {
  if (journalStops) return;
  try {
    const { answers } = await ask("/v1/journal?limit=20");
    byId("recent-said").textContent = answers.length ? "" : "The journal holds no answers yet.";
    byId("recent").tBodies[0].replaceChildren(...answers.map((answer) => make("tr", {},
      make("td", {}, new Date(answer.at).toLocaleTimeString()),
      make("td", {}, answer.verdict.media, answer.kept ? "" : make("span", { class: "quiet" }, " (not kept)")),
      make("td", {}, answer.verdict.label === "roadwork" ? "road work" : "none"),
      make("td", { class: "number" }, percent(answer.verdict.probability, 1)),
      make("td", {}, `${stageName(answer.verdict.exit.stage)}: ${REASONS[answer.verdict.exit.reason]}`),
      make("td", { class: "number" }, ms(answer.verdict.elapsed_ms)),
      make("td", {}, answer.said ?? "–"))));
  } catch (error) {
    journalStops = [401, 403, 404].includes(error.status); // it would be the same again
    byId("recent-said").textContent = explain(error);
  }
}

async function hard() {
  try {
    cases = (await ask("/v1/journal/hard?limit=24")).answers;
    next(cases.length ? "" : "Nothing is left to label: every answer of late has been, or there are none yet.");
  } catch (error) {
    byId("hard-said").textContent = explain(error);
  }
}

// The next case, with its picture if it is kept. Until it is there to be seen no key counts.
async function next(word) {
  shownCase = null;
  const answer = cases.shift(), before = shownUrl;
  let media = null, told = word;
  if (answer?.kept) {
    try {
      media = await picture(`/v1/journal/${encodeURIComponent(answer.id)}/media`);
    } catch (error) {
      told = explain(error);
    }
  }
  shownUrl = media?.url ?? null;
  byId("hard").replaceChildren(...(answer ? hardCase(answer, media) : [make("button", { type: "button", class: "second", onclick: hard }, "Look for more")]));
  byId("hard-said").textContent = told;
  if (before) URL.revokeObjectURL(before);
  shownCase = answer ?? null;
}

function hardCase(answer, media) {
  const why = Object.entries(answer.why).map(([name, strength]) => `${name} ${strength.toFixed(2)}`).join(", ");
  const buttons = Object.entries(WORDS).map(([letter, [label, name]]) =>
    make("button", { type: "button", "data-label": label, onclick: () => say(answer, label) }, name, " ", make("kbd", {}, letter.toUpperCase())));
  const lines = [`Hardness ${answer.hardness.toFixed(2)}: ${why || "no reason"}. ${cases.length} more wait.`];
  if (!answer.kept) lines.push("The file is not kept, so there is nothing to look at: set journal.media_cap_gib in the profile.");
  return [
    make("p", { class: "row" }, ...buttons,
      make("button", { type: "button", class: "second", onclick: () => next("Skipped.") }, "Skip ", make("kbd", {}, "S"))),
    ...lines.map((line) => make("p", { class: "quiet" }, line)),
    verdictCard(answer.verdict, new Date(answer.at).toLocaleString(), media),
  ];
}

async function say(answer, label) {
  if (answer !== shownCase) return;
  shownCase = null; // a second key in haste is not for the next one
  try {
    await send(`/v1/journal/${encodeURIComponent(answer.id)}/label`, { label }, "PUT");
    await next(`Labelled: ${label}.`);
    await recent();
  } catch (error) {
    shownCase = answer;
    byId("hard-said").textContent = explain(error);
  }
}

document.addEventListener("keydown", (event) => {
  if (!shownCase || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.target.closest("input, textarea, select, dialog")) return;
  const letter = event.key.toLowerCase();
  if (letter in WORDS) say(shownCase, WORDS[letter][0]);
  else if (letter === "s") next("Skipped.");
});
