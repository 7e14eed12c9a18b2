// Verdicts and their numbers in words. The words claim no more than the number and the reason of the exit.

import { labelName, task } from "./task.js";

export const STAGES = {
  backbone: "Backbone",
  closeup: "Closer look",
  signs: "Sign reader",
  vlm: "Fast VLM",
  reasoner: "Reasoner",
  video: "Video reasoner",
};

export const REASONS = {
  above_band: "clearly positive",
  below_band: "clearly negative",
  last_stage: "no further stage",
  deadline: "deadline reached",
  failed: "later stages failed",
};

const UNDECIDED = 0.65; // below it the label is little more than a coin's

export function stageName(stage) {
  return STAGES[stage] ?? stage;
}

// A number that is neither 0 nor 1 is shown as neither.
export function percent(share, digits = 0) {
  const step = 10 ** -digits;
  if (share < 1 && 100 * share > 100 - step) return `over ${(100 - step).toFixed(digits)} %`;
  if (share > 0 && 100 * share < step) return `under ${step.toFixed(digits)} %`;
  return `${(100 * share).toFixed(digits)} %`;
}

export function ms(value) {
  return value == null ? "–" : value < 10 ? value.toFixed(1) : Math.round(value).toLocaleString("en");
}

// The probability of the label that the verdict has.
function support({ positive, probability }) {
  return positive ? probability : 1 - probability;
}

// Whether the posterior stayed between the ends of the band, or close to even odds.
function leaning(verdict) {
  return !["above_band", "below_band"].includes(verdict.exit.reason) || support(verdict) < UNDECIDED;
}

// A description without its article: "no pothole", not "no a pothole".
function bare(description) {
  return description.replace(/^(an?|the) /, "");
}

export function inWords(verdict) {
  const it = verdict.positive ? task.description : `no ${bare(task.description)}`, p = support(verdict);
  if (leaning(verdict)) return `Undecided, leaning towards ${it}.`;
  if (p >= 0.95) return `There is ${it} here.`;
  return p >= 0.75 ? `There is probably ${it} here.` : `There may be ${it} here.`;
}

export function inBrief(verdict) {
  return `${leaning(verdict) ? "leaning to " : ""}${labelName(verdict.label)}`;
}

export function exitText(verdict) {
  return `Exit at the ${stageName(verdict.exit.stage).toLowerCase()}: ${REASONS[verdict.exit.reason]}.`;
}
