// A verdict on a page: the result in words, the image with its evidence, and the stages that ran.

import { make, ms, percent, REASONS, stageName, barWidth } from "./page.js";

const TIMES = [["queue_ms", "queue"], ["preprocess_ms", "preprocess"], ["compute_ms", "compute"], ["rpc_ms", "rpc"]];

const KINDS = { cone: "cone or barrier", machine: "machine", worker: "worker", sign: "work sign" };

export function inWords(verdict) {
  const p = verdict.probability;
  if (verdict.label === "roadwork") {
    if (p >= 0.95) return "There is active road work here.";
    if (p >= 0.75) return "There is probably active road work here.";
    return "There may be active road work here; the result is uncertain.";
  }
  if (p <= 0.05) return "There is no active road work here.";
  if (p <= 0.25) return "There is probably no active road work here.";
  return "There is probably no active road work here, but the result is uncertain.";
}

export function exitText(verdict) {
  return `Exit at the ${stageName(verdict.exit.stage).toLowerCase()}: ${REASONS[verdict.exit.reason]}.`;
}

export function verdictCard(verdict, name, media) {
  const marks = [];
  if (verdict.degraded) marks.push(make("span", { class: "mark warn" }, "a stage was unavailable"));
  if (verdict.degradation_level) marks.push(make("span", { class: "mark warn" }, `degradation level ${verdict.degradation_level}`));
  if (verdict.stages.some((stage) => stage.miniature)) marks.push(make("span", { class: "mark" }, "miniature models"));
  return make("article", { class: "card verdict", "data-label": verdict.label },
    make("h3", {}, name),
    make("div", { class: "sides" },
      media ? preview(verdict, media) : null,
      make("div", { class: "summary" },
        make("p", { class: "answer" }, inWords(verdict)),
        make("p", {}, "Probability ", make("strong", {}, percent(verdict.probability, 1)), ". ", exitText(verdict)),
        gauge(verdict),
        make("p", { class: "marks" }, ...marks),
        make("p", { class: "quiet" }, `${ms(verdict.elapsed_ms)} ms · policy ${verdict.policy_version} · profile ${verdict.profile}`))),
    stages(verdict),
    make("details", {}, make("summary", {}, "Full response"), make("pre", { tabindex: 0 }, JSON.stringify(verdict, null, 2))));
}

function gauge(verdict) {
  return barWidth(make("div", { class: "gauge", role: "img", "aria-label": `probability ${percent(verdict.probability, 1)}` },
    make("span")), verdict.probability);
}

// The stages in the order in which they ran, with a breakdown of the latency.
function stages(verdict) {
  const longest = Math.max(1, ...verdict.stages.map((stage) => TIMES.reduce((sum, [time]) => sum + stage[time], 0)));
  const steps = verdict.stages.map((stage) => {
    const exit = stage.stage === verdict.exit.stage;
    return make("li", { class: `step ${stage.outcome}`, "data-stage": stage.stage, "data-exit": exit },
      make("h4", {}, stageName(stage.stage), stage.outcome === "answered" ? null : ` ${stage.outcome}`),
      make("p", { class: "quiet" }, stage.model ? `${short(stage.model)}${stage.miniature ? ", a miniature" : ""}` : null),
      stage.probability == null ? null : make("p", {}, `Prediction: ${percent(stage.probability, 1)}`),
      stage.posterior == null ? null : make("p", {}, `Posterior: ${percent(stage.posterior, 1)}`),
      stage.detail ? make("p", { class: "quiet" }, stage.detail) : null,
      stage.batch_size ? times(stage, longest) : null,
      evidence(stage),
      exit ? make("p", { class: "exit" }, `Exit: ${REASONS[verdict.exit.reason]}`) : null);
  });
  return make("div", {}, make("h4", { class: "spoken" }, "Stages"), make("ol", { class: "stages" }, ...steps));
}

function times(stage, longest) {
  const parts = TIMES.map(([time, name]) =>
    barWidth(make("span", { class: name, title: `${name} ${ms(stage[time])} ms` }), stage[time] / longest));
  const text = TIMES.map(([time, name]) => `${name} ${ms(stage[time])}`).join(", ");
  return make("div", { class: "times" }, make("div", { class: "bar", "aria-hidden": "true" }, ...parts),
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

// The image with its regions, text lines and heat map, or the clip with the probabilities of its frames on a time line.
function preview(verdict, media) {
  if (media.clip) return clip(verdict, media.url);
  const found = verdict.stages.map((stage) => stage.evidence);
  const seen = found.findLast((evidence) => evidence.heat_map?.length); // the closer look's, if there was one
  const boxes = [
    ...(seen?.regions ?? []).map((region) =>
      placed(make("div", { class: "box region" }, make("span", {}, `${KINDS[region.kind] ?? region.kind} ${percent(region.probability)}`)), region.box)),
    ...found.flatMap((evidence) => evidence.text_lines.filter((line) => line.frame === 0)).map((line) =>
      placed(make("div", { class: "box" }, make("span", {}, line.text)), line.box)),
  ];
  const heat = heatMap(seen?.heat_map ?? []);
  return make("div", {}, make("div", { class: "picture" }, make("img", { src: media.url, alt: "the uploaded image" }),
    make("div", { "aria-hidden": "true" }, ...heat, ...boxes)),
  heat.length ? make("p", { class: "quiet" }, "Tint and boxes: where the backbone found evidence of road work.") : null);
}

function placed(element, { x0, y0, x1, y1 }) {
  for (const [side, value] of Object.entries({ left: x0, top: y0, width: x1 - x0, height: y1 - y0 })) element.style[side] = `${100 * value}%`;
  return element;
}

// One translucent cell for each value of the grid that is not zero.
function heatMap(rows) {
  return rows.flatMap((row, y) => row.map((value, x) => {
    if (!value) return null;
    const cell = placed(make("div", { class: "heat" }), {
      x0: x / row.length, y0: y / rows.length, x1: (x + 1) / row.length, y1: (y + 1) / rows.length,
    });
    cell.style.opacity = `${value / 200}`;
    return cell;
  })).filter(Boolean);
}

function clip(verdict, url) {
  const video = make("video", { src: url, controls: true, muted: true, playsinline: true, "aria-label": "the uploaded clip" });
  const scores = verdict.stages.map((stage) => stage.evidence.frame_probabilities).find((frames) => frames.length) ?? [];
  const frames = scores.map((score, index) => {
    const at = scores.length < 2 ? 0 : index / (scores.length - 1);
    const jump = () => { if (Number.isFinite(video.duration)) video.currentTime = at * video.duration; };
    return make("li", {}, barWidth(make("button", {
      type: "button", onclick: jump, title: percent(score), "aria-label": `frame ${index + 1} of ${scores.length}: ${percent(score)}`,
    }), score));
  });
  return make("div", { class: "picture" }, video,
    frames.length ? make("div", {}, make("p", { class: "quiet" }, "Sampled frames, first to last"), make("ol", { class: "frames" }, ...frames)) : null);
}

function short(model) {
  return model.split("/").slice(-2).join("/");
}
