// The policy's exit bands on sliders, and what moving them would have changed.

import { ask, send } from "./api.js";
import { barWidth, explain, header, make, percent, stageName } from "./page.js";

const SETTLE_MS = 350;
const byId = (id) => document.getElementById(id);
let state = null, edited = null, timer = null, latest = 0;

header();
read();

async function read() {
  try {
    state = await ask("/v1/policy");
    start();
  } catch (error) {
    byId("told").textContent = explain(error);
  }
}

function start() {
  edited = structuredClone(state.rules.policy);
  byId("in-force").replaceChildren("In force: ", make("strong", {}, state.version), `, edition ${state.number}.`,
    state.rules.split ? " An A/B test runs; it stays." : "", state.rules.shadow ? " A shadow runs; it stays." : "");
  byId("promise").textContent = edited.certificate
    ? "Its bands carry a proven bound on the extra error of leaving early. Other bands carry none until `roadwork tune` proves one."
    : "Its bands carry no proven bound.";
  byId("version").value = fresh(state.version);
  byId("apply").disabled = true;
  byId("effect").replaceChildren(make("p", { class: "quiet" }, "Move a slider to see."));
  byId("steps").replaceChildren(...["photo", "clip"].map((kind) =>
    make("fieldset", {}, make("legend", {}, kind === "photo" ? "Photos" : "Clips"), ...edited[kind].map((step, index) => band(kind, step, index)))));
  byId("history").tBodies[0].replaceChildren(...[...state.history].reverse().map((edition) => make("tr", {},
    make("td", { class: "number" }, String(edition.number)), make("td", {}, edition.version),
    make("td", {}, edition.restores ? `rollback to ${edition.restores}` : edition.origin), make("td", {}, edition.by),
    make("td", {}, new Date(edition.at).toLocaleString()))));
}

// A version says what answered; another policy needs another one.
function fresh(version) {
  const used = new Set(state.history.map((edition) => edition.version));
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
    return make("label", { for: id }, make("span", {}, end === "low" ? "none below" : "road work above"), slider, exact);
  });
  return make("div", { class: "band" }, make("h3", {}, stageName(step.stage)), ...ends);
}

function rounded(value) {
  return Math.round(10_000 * value) / 10_000;
}

function rules() {
  const policy = { ...edited, version: byId("version").value.trim() };
  delete policy.certificate; // it is of other bands
  return { ...state.rules, policy };
}

function changed() {
  byId("apply").disabled = true;
  clearTimeout(timer);
  timer = setTimeout(look, SETTLE_MS);
}

async function look() {
  const number = (latest += 1);
  try {
    const told = await send(`/v1/policy/preview?last=${byId("last").value}`, rules());
    if (number !== latest) return;
    effect(told);
    byId("apply").disabled = JSON.stringify([edited.photo, edited.clip]) === JSON.stringify([state.rules.policy.photo, state.rules.policy.clip]);
  } catch (error) {
    if (number !== latest) return;
    byId("effect").replaceChildren(make("p", { class: "trouble", role: "alert" }, explain(error)));
    // Without a journal, or its key, nothing can be shown before; a policy that makes no sense is not to be sent.
    byId("apply").disabled = error.status === 422 || error.status === 400 || error.status === 0;
  }
}

function effect(told) {
  if (!told.answers) {
    byId("effect").replaceChildren(make("p", {}, "The journal holds no answers yet, so nothing can be said of the effect."));
    return;
  }
  const cell = (count) => make("td", {}, barWidth(make("span", { class: "mix" }), count / told.answers), ` ${count}`);
  const rows = told.exits.map((exit) => make("tr", { "data-stage": exit.stage }, make("th", { scope: "row" }, `leave at ${stageName(exit.stage)}`), cell(exit.now), cell(exit.then)));
  rows.push(make("tr", {}, make("th", { scope: "row" }, "go on to a stage that did not judge them"), cell(told.unknown_now), cell(told.unknown)));
  const lines = [`${told.turned} get the other label.`];
  if (told.marked) lines.push(`Of ${told.marked} that people have labelled ${told.right_now} are right now, ${told.right_then} then.`);
  if (told.gflops_now) lines.push(`Compute an answer, where the whole way is known: ${Math.round(told.gflops_now).toLocaleString("en")} GFLOP now, ${Math.round(told.gflops_then).toLocaleString("en")} then.`);
  byId("effect").replaceChildren(
    make("table", {}, make("thead", {}, make("tr", {}, make("th", { scope: "col" }, `of the latest ${told.answers} answers`), make("th", { scope: "col" }, "now"), make("th", { scope: "col" }, "then"))),
      make("tbody", {}, ...rows)),
    make("p", {}, lines.join(" ")));
}

byId("last").addEventListener("change", () => look());
byId("reset").addEventListener("click", () => { start(); byId("told").textContent = ""; });
byId("bands").addEventListener("submit", async (event) => {
  event.preventDefault();
  await change(() => send("/v1/policy", rules(), "PUT"));
});
byId("back").addEventListener("click", () => change(() => ask("/v1/policy/rollback", { method: "POST" })));

async function change(act) {
  try {
    const done = await act();
    await read();
    byId("told").textContent = `${done.version} is in force: edition ${done.number}, on ${done.replicas} ${done.replicas === 1 ? "replica" : "replicas"}.`;
    byId("told").className = "good";
  } catch (error) {
    byId("told").textContent = explain(error);
    byId("told").className = "trouble";
  }
}
