// A verdict on a page: the result in words, the picture with its evidence, and the stages that ran.

import { picture } from "./evidence.js";
import { barWidth, make } from "./page.js";
import { labelName, task } from "./task.js";
import { exitText, inWords, ms, percent, REASONS, stageName } from "./words.js";

const TIMES = [["queue_ms", "queue"], ["preprocess_ms", "preprocess"], ["compute_ms", "compute"], ["rpc_ms", "rpc"]];

// With the active policy, stages that were not reached and the bands are shown, too.
export function verdictCard(verdict, name, media, policy = null) {
  const marks = [];
  if (verdict.degraded) marks.push(make("span", { class: "mark warn" }, "a stage was unavailable"));
  if (verdict.incomplete) marks.push(make("span", { class: "mark warn" }, "only a part of the clip could be read"));
  if (verdict.degradation_level) marks.push(make("span", { class: "mark warn" }, `degradation level ${verdict.degradation_level}`));
  if (verdict.stages.some((stage) => stage.miniature)) marks.push(make("span", { class: "mark" }, "miniature models"));
  const steps = policy?.[verdict.media] ?? [];
  // The bands of another policy, or those narrowed under load, were not these.
  const bands = policy?.version === verdict.policy_version && !verdict.degradation_level
    ? Object.fromEntries(steps.map((step) => [step.stage, step.exit])) : {};
  return make("article", { class: "card verdict", "data-label": verdict.label },
    make("h3", {}, name),
    make("div", { class: "sides" },
      media ? picture(verdict, media) : null,
      make("div", { class: "summary" },
        make("p", { class: "answer" }, inWords(verdict)),
        make("p", {}, `Probability of ${task.description} `, make("strong", {}, percent(verdict.probability, 1)), ". ", exitText(verdict)),
        belief(verdict.probability, bands[verdict.exit.stage], true),
        make("p", { class: "marks" }, ...marks),
        make("p", { class: "quiet" }, `${ms(verdict.elapsed_ms)} ms · policy ${verdict.policy_version} · profile ${verdict.profile}`))),
    stages(verdict, steps, bands),
    make("details", {}, make("summary", {}, "Full response"), make("pre", { tabindex: 0 }, JSON.stringify(verdict, null, 2))));
}

// A probability as a mark on a scale from the negative label to the positive one, with the exit band, inside of which nothing is decided.
export function belief(probability, band, named = false) {
  const scale = make("div", { class: "belief", role: "img", "aria-label":
    `probability ${percent(probability, 1)}${band ? `; undecided from ${percent(band[0], 1)} to ${percent(band[1], 1)}` : ""}` },
  band ? make("span", { class: "undecided" }) : null, make("span", { class: "needle" }));
  const style = { "--at": probability, "--low": band?.[0] ?? 0, "--high": band?.[1] ?? 0 };
  for (const [name, value] of Object.entries(style)) scale.style.setProperty(name, value);
  const ends = [labelName(task.negative), band ? "undecided in the grey part" : "", labelName(task.positive)];
  return named ? make("div", {}, scale, make("p", { class: "ends", "aria-hidden": "true" }, ...ends.map((end) => make("span", {}, end)))) : scale;
}

// The stages in the order in which they ran, each with its belief and its time.
function stages(verdict, all, bands) {
  const longest = Math.max(1, ...verdict.stages.map((stage) => TIMES.reduce((sum, [time]) => sum + stage[time], 0)));
  const steps = verdict.stages.map((stage) => {
    const exit = stage.stage === verdict.exit.stage;
    return make("li", { class: `step ${stage.outcome}`, "data-stage": stage.stage, "data-exit": exit },
      make("h4", {}, stageName(stage.stage), stage.outcome === "answered" ? null : ` ${stage.outcome}`),
      make("p", { class: "quiet" }, stage.model ? `${short(stage.model)}${stage.miniature ? ", a miniature" : ""}` : null),
      stage.probability == null ? null : make("p", {}, `Own prediction: ${percent(stage.probability, 1)}`),
      stage.posterior == null ? null : make("p", {}, `Posterior: ${percent(stage.posterior, 1)}`),
      stage.posterior == null ? null : belief(stage.posterior, bands[stage.stage]),
      stage.detail ? make("p", { class: "quiet" }, stage.detail) : null,
      evidence(stage),
      exit ? make("p", { class: "exit" }, `Exit: ${REASONS[verdict.exit.reason]}`) : null,
      stage.batch_size ? times(stage, longest) : null);
  });
  const ran = new Set(verdict.stages.map((stage) => stage.stage));
  const rest = all.filter((step) => !ran.has(step.stage)).map((step) =>
    make("li", { class: "step unreached", "data-unreached": step.stage }, make("h4", {}, stageName(step.stage)), make("p", { class: "quiet" }, "not needed")));
  return make("div", {}, make("h4", { class: "spoken" }, "Stages"), make("ol", { class: "stages" }, ...steps, ...rest));
}

function times(stage, longest) {
  const parts = TIMES.map(([time, name]) =>
    barWidth(make("span", { class: name, title: `${name} ${ms(stage[time])} ms` }), stage[time] / longest));
  const total = TIMES.reduce((sum, [time]) => sum + stage[time], 0), text = TIMES.map(([time, name]) => `${name} ${ms(stage[time])}`).join(", ");
  return make("div", { class: "times" }, make("p", {}, `Time: ${ms(total)} ms`), make("div", { class: "bar", "aria-hidden": "true" }, ...parts),
    make("p", { class: "quiet" }, `${text} ms · batch of ${stage.batch_size}${stage.tokens ? ` · ${stage.tokens} tokens` : ""}`));
}

function evidence(stage) {
  const { text_lines: lines, reasoning } = stage.evidence;
  const inside = [];
  if (lines.length) {
    inside.push(make("p", {}, "Text: ", ...lines.flatMap((line, index) => [index ? ", " : "",
      make("q", { class: line.meaning && line.meaning !== "neutral" ? "relevant" : null }, line.text),
      line.meaning && line.meaning !== "neutral" ? ` (${line.meaning})` : ""])));
  }
  if (reasoning) inside.push(make("details", {}, make("summary", {}, "Reasoning"), make("p", { class: "reasoning" }, reasoning)));
  return inside.length ? make("div", {}, ...inside) : null;
}

function short(model) {
  return model.split("/").slice(-2).join("/");
}
