// A verdict on a page: the answer in words, the picture with what was seen, the way through the cascade.

import { make, ms, percent, REASONS, stageName, barWidth } from "./page.js";

const TIMES = [["queue_ms", "queue"], ["preprocess_ms", "batch"], ["compute_ms", "compute"], ["rpc_ms", "hop"]];

export function inWords(verdict) {
  const p = verdict.probability;
  if (verdict.label === "roadwork") {
    if (p >= 0.95) return "There is active road work here.";
    if (p >= 0.75) return "There is probably active road work here.";
    return "There may be active road work here; it is a close call.";
  }
  if (p <= 0.05) return "There is no active road work here.";
  if (p <= 0.25) return "There is probably no active road work here.";
  return "There is probably no active road work here, but it is a close call.";
}

export function leftBecause(verdict) {
  return `It left at the ${stageName(verdict.exit.stage).toLowerCase()}: ${REASONS[verdict.exit.reason]}.`;
}

export function verdictCard(verdict, name, media) {
  const marks = [];
  if (verdict.degraded) marks.push(make("span", { class: "mark warn" }, "a stage was missing"));
  if (verdict.gear) marks.push(make("span", { class: "mark warn" }, `load gear ${verdict.gear}`));
  if (verdict.stages.some((stage) => stage.miniature)) marks.push(make("span", { class: "mark" }, "miniature models"));
  return make("article", { class: "card verdict", "data-label": verdict.label },
    make("h3", {}, name),
    make("div", { class: "sides" },
      media ? shown(verdict, media) : null,
      make("div", { class: "told" },
        make("p", { class: "answer" }, inWords(verdict)),
        make("p", {}, "Probability ", make("strong", {}, percent(verdict.probability, 1)), ". ", leftBecause(verdict)),
        gauge(verdict),
        make("p", { class: "marks" }, ...marks),
        make("p", { class: "quiet" }, `${ms(verdict.elapsed_ms)} ms · policy ${verdict.policy_version} · profile ${verdict.profile}`))),
    way(verdict),
    make("details", {}, make("summary", {}, "The whole answer"), make("pre", { tabindex: 0 }, JSON.stringify(verdict, null, 2))));
}

function gauge(verdict) {
  return barWidth(make("div", { class: "gauge", role: "img", "aria-label": `probability ${percent(verdict.probability, 1)}` },
    make("span")), verdict.probability);
}

// The stages in the order in which they were asked, with where the time went.
function way(verdict) {
  const most = Math.max(1, ...verdict.stages.map((stage) => TIMES.reduce((sum, [time]) => sum + stage[time], 0)));
  const steps = verdict.stages.map((stage) => {
    const left = stage.stage === verdict.exit.stage;
    return make("li", { class: `step ${stage.outcome}`, "data-stage": stage.stage, "data-exit": left },
      make("h4", {}, stageName(stage.stage), stage.outcome === "answered" ? null : ` ${stage.outcome}`),
      make("p", { class: "quiet" }, stage.model ? `${short(stage.model)}${stage.miniature ? ", a miniature" : ""}` : null),
      stage.probability == null ? null : make("p", {}, `It says ${percent(stage.probability, 1)}`),
      stage.posterior == null ? null : make("p", {}, `Belief after it: ${percent(stage.posterior, 1)}`),
      stage.detail ? make("p", { class: "quiet" }, stage.detail) : null,
      stage.batch_size ? times(stage, most) : null,
      seen(stage),
      left ? make("p", { class: "exit" }, `Left here: ${REASONS[verdict.exit.reason]}`) : null);
  });
  return make("div", {}, make("h4", { class: "spoken" }, "The way through the cascade"), make("ol", { class: "way" }, ...steps));
}

function times(stage, most) {
  const parts = TIMES.map(([time, name]) =>
    barWidth(make("span", { class: name, title: `${name} ${ms(stage[time])} ms` }), stage[time] / most));
  const words = TIMES.map(([time, name]) => `${name} ${ms(stage[time])}`).join(", ");
  return make("div", { class: "times" }, make("div", { class: "bar", "aria-hidden": "true" }, ...parts),
    make("p", { class: "quiet" }, `${words} ms · batch of ${stage.batch_size}${stage.tokens ? ` · ${stage.tokens} tokens` : ""}`));
}

function seen(stage) {
  const { words, thought } = stage.evidence;
  const inside = [];
  if (words.length) {
    inside.push(make("p", {}, "Read: ", ...words.flatMap((word, index) => [index ? ", " : "",
      make("q", { class: word.meaning && word.meaning !== "neutral" ? "telling" : null }, word.text),
      word.meaning && word.meaning !== "neutral" ? ` (${word.meaning})` : ""])));
  }
  if (thought) inside.push(make("details", {}, make("summary", {}, "What it thought"), make("p", { class: "thought" }, thought)));
  return inside.length ? make("div", {}, ...inside) : null;
}

// The picture with the boxes of signs, or the clip with its frames' scores on a time line.
function shown(verdict, media) {
  if (media.clip) return clip(verdict, media.url);
  const boxes = verdict.stages.flatMap((stage) => stage.evidence.words.filter((word) => word.frame === 0)).map((word) => {
    const box = make("div", { class: "box" }, make("span", {}, word.text));
    const { x0, y0, x1, y1 } = word.box;
    for (const [side, value] of Object.entries({ left: x0, top: y0, width: x1 - x0, height: y1 - y0 })) box.style[side] = `${100 * value}%`;
    return box;
  });
  return make("div", { class: "picture" }, make("img", { src: media.url, alt: "the picture that was sent" }),
    make("div", { "aria-hidden": "true" }, ...boxes));
}

function clip(verdict, url) {
  const video = make("video", { src: url, controls: true, muted: true, playsinline: true, "aria-label": "the clip that was sent" });
  const scores = verdict.stages.map((stage) => stage.evidence.frames).find((frames) => frames.length) ?? [];
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
