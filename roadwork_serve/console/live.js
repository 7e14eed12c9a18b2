// The live page: load and statistics of the server, and charts of the last half hour that this tab was here.

import { getJson } from "./api.js";
import { lineChart } from "./chart.js";
import { barWidth, every, explain, make } from "./page.js";
import { Series } from "./series.js";
import { ms, percent, REASONS, stageName } from "./words.js";

const INTERVAL_MS = 2000;
const series = new Series(); // kept while other pages are shown
const byId = (id) => root.querySelector(`#${id}`);
let root = null;

export function start(main, signal) {
  root = main;
  charts();
  every(INTERVAL_MS, load, signal);
}

function trouble(error) {
  byId("trouble").hidden = !error;
  byId("trouble").textContent = error ? explain(error) : "";
}

async function load() {
  try {
    const stats = await getJson("/v1/stats");
    series.add(stats.replicas);
    charts();
    facts(stats.replicas);
    exits(stats.replicas);
    stages(stats.replicas);
    trouble(null);
  } catch (error) {
    trouble(error);
  }
}

function charts() {
  const rate = (value) => `${value && value < 10 ? value.toFixed(value < 1 ? 2 : 1) : Math.round(value)}/s`, line = (name, key) => ({ name, points: series.points(key) });
  const byStage = (prefix) => series.names(prefix).map((key) => line(stageName(key.slice(prefix.length)), key));
  const refusals = series.names("refused:").map((key) => line(key.slice("refused:".length).replaceAll("-", " "), key));
  byId("charts").replaceChildren(...(series.samples.length ? [
    lineChart("Verdicts and refusals a second", [line("verdicts", "verdicts"), line("refused", "refused")], rate),
    lineChart("Exits a second, by stage", byStage("exit:"), rate),
    lineChart("Latency, 95th percentile of the last thousand items, ms", [line("whole verdict", "elapsed"), ...byStage("latency:")], ms),
    lineChart("Refusals a second, by reason", refusals, rate),
    lineChart("Drift: mean probability of the last thousand verdicts", [line("mean probability", "probability")], (value) => percent(value), 1),
  ] : [make("p", { class: "quiet" }, "Charts begin with the next measurement.")]));
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
    "Degradation level": Math.max(0, ...replicas.map((replica) => replica.degradation_level)),
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
  const names = (replicas[0]?.stages ?? []).map((stage) => stage.stage);
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
