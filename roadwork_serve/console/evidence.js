// The picture of a verdict with the evidence over it: regions and heat map of a photo, text of signs, frames of a clip.

import { barWidth, make } from "./page.js";
import { percent } from "./words.js";

const KINDS = { cone: "cone or barrier", machine: "machine", worker: "worker", sign: "work sign" };

export function picture(verdict, media) {
  return media.clip ? clip(verdict, media.url) : photo(verdict, media);
}

// `instead` returns the URL of another picture, for formats that the browser cannot show.
function photo(verdict, { url, instead }) {
  const found = verdict.stages.map((stage) => stage.evidence);
  const seen = found.findLast((evidence) => evidence.heat_map?.length); // the closer look's, if there was one
  const over = [...heatMap(seen?.heat_map ?? []), ...(seen?.regions ?? []).map(region), ...textLines(verdict).map(sign)];
  const image = make("img", { src: url, alt: "the classified photo" });
  if (instead) image.addEventListener("error", async () => { image.src = await instead(); }, { once: true });
  return withEvidence(image, over, seen ? "Tint and boxes: where evidence was found; yellow: text that was read." : "Boxes: text that was read.");
}

function textLines(verdict) {
  return verdict.stages.flatMap((stage) => stage.evidence.text_lines);
}

function region({ kind, probability, box }) {
  return placed(make("div", { class: "box region" }, make("span", {}, `${KINDS[kind] ?? kind} ${percent(probability)}`)), box);
}

function sign(line) {
  return placed(make("div", { class: "box" }, make("span", {}, line.text)), line.box);
}

// The media with boxes over it, which a check box hides.
function withEvidence(media, over, legend) {
  const layer = make("div", { class: "evidence", "aria-hidden": "true" }, ...over);
  const box = make("input", { type: "checkbox", checked: true, onchange: () => { layer.hidden = !box.checked; } });
  return make("div", {}, make("div", { class: "picture" }, media, layer),
    over.length ? make("p", { class: "quiet" }, make("label", { class: "check" }, box, "Show evidence"), legend) : null);
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

// The sampled frames are the middles of as many equal parts of the clip. A box is shown during its frame's part.
function clip(verdict, url) {
  const video = make("video", { src: url, controls: true, muted: true, playsinline: true, "aria-label": "the classified clip" });
  const scores = verdict.stages.map((stage) => stage.evidence.frame_probabilities).find((frames) => frames.length) ?? [];
  const regions = verdict.stages.flatMap((stage) => stage.evidence.regions ?? []), lines = textLines(verdict);
  const found = [...regions, ...lines], boxes = [...regions.map(region), ...lines.map(sign)];
  const count = Math.max(scores.length, ...found.map((each) => each.frame + 1));
  const frames = scores.map((score, frame) => frameButton(video, frame, count, score, found.some((each) => each.frame === frame)));
  const mark = () => {
    const now = Math.min(count - 1, Math.floor((count * video.currentTime) / (video.duration || 1)));
    frames.forEach((each, frame) => each.toggleAttribute("data-now", frame === now));
    boxes.forEach((box, index) => { box.hidden = found[index].frame !== now; });
  };
  for (const event of ["loadedmetadata", "timeupdate", "seeked"]) video.addEventListener(event, mark);
  mark();
  return make("div", {}, withEvidence(video, boxes, "Boxes: evidence that was found, in the frames marked with a dot."),
    frames.length ? make("div", {}, make("p", { class: "quiet" }, "Probability in the sampled frames, first to last"), make("ol", { class: "frames" }, ...frames)) : null);
}

function frameButton(video, frame, count, score, marked) {
  const jump = () => { if (Number.isFinite(video.duration)) video.currentTime = ((frame + 0.5) / count) * video.duration; };
  return make("li", { "data-found": marked }, barWidth(make("button", {
    type: "button", onclick: jump, title: percent(score), "aria-label": `frame ${frame + 1} of ${count}: ${percent(score)}${marked ? ", with evidence" : ""}`,
  }), score));
}
