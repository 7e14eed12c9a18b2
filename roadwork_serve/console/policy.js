// The policy page: exit bands as sliders, and a preview of their effect on recent journal entries.

import { getJson, sendJson } from "./api.js";
import { barWidth, explain, make } from "./page.js";
import { Thumbnails } from "./thumbnails.js";
import { labelName } from "./task.js";
import { percent, stageName } from "./words.js";

const SETTLE_MS = 350;
const byId = (id) => root.querySelector(`#${id}`);
let root = null, thumbnails = null, state = null, edited = null, timer = null, latest = 0;

export function start(main, signal) {
  root = main;
  thumbnails = new Thumbnails(signal);
  byId("message").textContent = "";
  byId("last").addEventListener("change", () => loadPreview(), { signal });
  byId("reset").addEventListener("click", () => { reset(); byId("message").textContent = ""; }, { signal });
  byId("bands").addEventListener("submit", async (event) => {
    event.preventDefault();
    await change(() => sendJson("/v1/policy", rollout(), "PUT"));
  }, { signal });
  byId("back").addEventListener("click", () => change(() => getJson("/v1/policy/rollback", { method: "POST" })), { signal });
  read();
}

async function read() {
  try {
    state = await getJson("/v1/policy");
    reset();
  } catch (error) {
    byId("message").textContent = explain(error);
  }
}

function reset() {
  edited = structuredClone(state.rollout.policy);
  byId("active").replaceChildren("Active policy: ", make("strong", {}, state.version), `, revision ${state.revision}.`,
    state.rollout.split ? " An A/B test is running; it continues." : "", state.rollout.shadow ? " A shadow policy is running; it continues." : "");
  byId("certificate").textContent = edited.certificate
    ? "Its exit bands have a certified bound on early-exit errors. Other bands have none until `roadwork tune` certifies them."
    : "Its exit bands have no certified error bound.";
  byId("version").value = fresh(state.version);
  byId("apply").disabled = true;
  byId("effect").replaceChildren(make("p", { class: "quiet" }, "Move a slider to see the effect."));
  byId("flips").replaceChildren();
  byId("steps").replaceChildren(...["photo", "clip"].map((kind) =>
    make("fieldset", {}, make("legend", {}, kind === "photo" ? "Photos" : "Clips"), ...edited[kind].map((step, index) => band(kind, step, index)))));
  byId("history").tBodies[0].replaceChildren(...[...state.history].reverse().map((revision) => make("tr", {},
    make("td", { class: "number" }, String(revision.revision)), make("td", {}, revision.version),
    make("td", {}, revision.rollback_of ? `rollback to ${revision.rollback_of}` : revision.origin), make("td", {}, revision.author),
    make("td", {}, new Date(revision.created_at).toLocaleString()))));
}

// Verdicts record the version, so a different policy needs a different one.
function fresh(version) {
  const used = new Set(state.history.map((revision) => revision.version));
  const base = version.replace(/\+\d+$/, "");
  let number = 1;
  while (used.has(`${base}+${number}`) || `${base}+${number}` === version) number += 1;
  return `${base}+${number}`;
}

function band(kind, step, index) {
  const ends = ["low", "high"].map((end, side) => {
    const id = `${kind}-${step.stage}-${end}`;
    const settings = { min: 0, max: 1, step: "any" }, name = `${kind}, ${stageName(step.stage)}: ${end} end`;
    const slider = make("input", { type: "range", id, ...settings, value: step.exit[side], "aria-label": `${name} of the band` });
    const exact = make("input", { type: "number", ...settings, value: rounded(step.exit[side]), "aria-label": `${name}, exactly` });
    const move = (value) => {
      const bands = edited[kind][index].exit, number = Math.min(1, Math.max(0, Number(value)));
      if (!Number.isFinite(number)) return;
      bands[side] = rounded(side ? Math.max(number, bands[0]) : Math.min(number, bands[1]));
      slider.value = exact.value = bands[side];
      slider.setAttribute("aria-valuetext", `${percent(bands[side], 1)}`);
      changed();
    };
    slider.addEventListener("input", () => move(slider.value));
    exact.addEventListener("change", () => move(exact.value));
    return make("label", { for: id }, make("span", {}, end === "low" ? "negative below" : "positive above"), slider, exact);
  });
  return make("div", { class: "band" }, make("h3", {}, stageName(step.stage)), ...ends);
}

function rounded(value) {
  return Math.round(10_000 * value) / 10_000;
}

function rollout() {
  const policy = { ...edited, version: byId("version").value.trim() };
  delete policy.certificate; // it is of other bands
  return { ...state.rollout, policy };
}

function changed() {
  byId("apply").disabled = true;
  clearTimeout(timer);
  timer = setTimeout(loadPreview, SETTLE_MS);
}

async function loadPreview() {
  const number = (latest += 1);
  try {
    const preview = await sendJson(`/v1/policy/preview?last=${byId("last").value}`, rollout());
    if (number !== latest) return;
    effect(preview);
    byId("apply").disabled = JSON.stringify([edited.photo, edited.clip]) === JSON.stringify([state.rollout.policy.photo, state.rollout.policy.clip]);
  } catch (error) {
    if (number !== latest) return;
    byId("effect").replaceChildren(make("p", { class: "trouble", role: "alert" }, explain(error)));
    byId("flips").replaceChildren();
    // Without a journal, or its key, there is no preview; an invalid policy cannot be activated.
    byId("apply").disabled = error.status === 422 || error.status === 400 || error.status === 0;
  }
}

function effect(preview) {
  if (!preview.entries) {
    byId("effect").replaceChildren(make("p", {}, "The journal is empty, so there is no preview."));
    byId("flips").replaceChildren();
    return;
  }
  const cell = (count) => make("td", {}, barWidth(make("span", { class: "mix" }), count / preview.entries), ` ${count}`);
  const rows = preview.exits.map((exit) => make("tr", { "data-stage": exit.stage }, make("th", { scope: "row" }, `exit at ${stageName(exit.stage)}`), cell(exit.current), cell(exit.proposed)));
  rows.push(make("tr", {}, make("th", { scope: "row" }, "unknown: a stage has no recorded prediction"), cell(preview.unknown_current), cell(preview.unknown_proposed)));
  const lines = [`${preview.flipped || "No"} ${preview.flipped === 1 ? "label" : "labels"} would change.`];
  if (preview.labeled) lines.push(`Of ${preview.labeled} entries with a human label, the current policy gets ${preview.correct_current} right, the proposed one ${preview.correct_proposed}.`);
  if (preview.gflops_current) lines.push(`Mean compute per verdict, where both are known: ${Math.round(preview.gflops_current).toLocaleString("en")} GFLOP now, ${Math.round(preview.gflops_proposed).toLocaleString("en")} with the proposed policy.`);
  byId("effect").replaceChildren(
    make("table", {}, make("thead", {}, make("tr", {}, make("th", { scope: "col" }, `latest ${preview.entries} entries`), make("th", { scope: "col" }, "current"), make("th", { scope: "col" }, "proposed"))),
      make("tbody", {}, ...rows)),
    make("p", {}, lines.join(" ")));
  byId("flips").replaceChildren(...flips(preview));
}

// The entries whose label would change, with their pictures.
function flips({ flipped, flipped_entries: entries }) {
  if (!entries.length) return [];
  const tiles = entries.map((entry) => make("li", { class: "tile", "data-id": entry.id },
    thumbnails.of({ ...entry, verdict: entry }), make("span", { class: "name" }, entry.filename || entry.media),
    make("span", {}, `would be ${labelName(entry.proposed)}`),
    entry.human_label ? make("span", { class: `human ${entry.human_label === entry.proposed ? "good" : "trouble"}` }, `a person: ${labelName(entry.human_label)}`) : null));
  const text = flipped === entries.length ? "These labels would change:" : `The latest ${entries.length} of the ${flipped} labels that would change:`;
  return [make("p", {}, text), make("ul", { class: "grid" }, ...tiles)];
}

async function change(act) {
  try {
    const done = await act();
    await read();
    byId("message").textContent = `${done.version} is active: revision ${done.revision}, on ${done.replicas} ${done.replicas === 1 ? "replica" : "replicas"}.`;
    byId("message").className = "good";
  } catch (error) {
    byId("message").textContent = explain(error);
    byId("message").className = "trouble";
  }
}
