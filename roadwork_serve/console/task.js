// The task of the server: its labels, and what the positive one stands for. Until /v1/info has told it, that of road work.

import { getJson } from "./api.js";

export const task = { positive: "roadwork", negative: "none", description: "active road work" };
// Names of the server's stages.
export const stages = [];
let told = null;

// Ask the server once. Without an answer, as without a key, the words stay those of road work.
export function loadTask() {
  told ??= getJson("/v1/info").then((info) => {
    Object.assign(task, info.task);
    stages.push(...info.stages.map((each) => each.stage));
  }, () => { told = null; });
  return told;
}

// A label in words.
export function labelName(label) {
  return label === "roadwork" ? "road work" : (label ?? "–").replaceAll(/[_-]/g, " ");
}
