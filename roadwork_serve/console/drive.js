// The drives page: the frames of a recording on a timeline, its map, and the whole answer of a frame with its labels.

import { getJson } from "./api.js";
import { draw } from "./chart.js";
import { wholeAnswer } from "./entry.js";
import { Labelling } from "./labelling.js";
import { readMap } from "./map_files.js";
import { explain, make, narrow } from "./page.js";
import { labelName, loadTask, task } from "./task.js";
import { percent } from "./words.js";

const NAME = /^(.*) (\d+(?:\.\d+)?)s\.(?:jpg|mp4)$/s; // as `roadwork drive` names what it sends
const ON_A_PAGE = 200, MAX_PAGES = 100, SETTLE_MS = 120;
const HEIGHT = 150, LEFT = 44, BOTTOM = 18, TOP = 8, MOST_HEIGHT = 300, EDGE = 24;
const width = () => (narrow() ? 480 : 960);
const byId = (id) => root.querySelector(`#${id}`);
let root = null, work = null, policy = null, frames = [], map = { features: [], segments: [] }, recording = "", at = 0, shown = null, seen = null, timer = null, latest = 0;

export async function start(main, signal) {
  root = main;
  work = new Labelling();
  policy = shown = seen = null;
  frames = [];
  map = { features: [], segments: [] };
  byId("ask").addEventListener("submit", (event) => { event.preventDefault(); ask(byId("ask").elements.recording.value.trim()); }, { signal });
  byId("map").addEventListener("change", load, { signal });
  byId("at").addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(() => select(Number(byId("at").value)), SETTLE_MS); }, { signal });
  signal.addEventListener("abort", () => { clearTimeout(timer); shown?.release(); latest += 1; });
  await loadTask();
  if (signal.aborted) return;
  byId("keys").replaceChildren(...[task.positive, task.negative, "unclear"].map((label) =>
    make("button", { type: "button", "data-label": label, onclick: () => give(label) }, labelName(label))));
  suggest();
  const asked = new URLSearchParams(location.search).get("recording");
  if (asked) ask(byId("ask").elements.recording.value = asked);
}

// Offers the recordings of the newest frames.
async function suggest() {
  try {
    const page = await getJson(`/v1/journal?filename=s.jpg&limit=${ON_A_PAGE}`);
    const names = new Set(page.entries.map((entry) => NAME.exec(entry.filename ?? "")?.[1]).filter(Boolean));
    byId("recordings")?.append(...[...names].map((name) => make("option", { value: name })));
  } catch (error) {
    say(explain(error), true);
  }
}

function say(text, trouble = false) {
  byId("message").textContent = text;
  byId("message").className = trouble ? "trouble" : "quiet";
}

// Loads all frames of a recording, and shows the most certain one.
async function ask(name) {
  const mine = (latest += 1), found = new Map();
  history.replaceState(history.state, "", `${location.pathname}?${new URLSearchParams({ recording: name })}`);
  try {
    policy ??= (await getJson("/v1/info")).policy;
    let cursor = "";
    for (let pages = 0; pages < MAX_PAGES && cursor !== null; pages += 1) {
      const query = new URLSearchParams({ filename: `${name} `, limit: ON_A_PAGE, ...(cursor && { cursor }) });
      const page = await getJson(`/v1/journal?${query}`);
      if (mine !== latest) return;
      for (const entry of page.entries) {
        const [, of, time] = NAME.exec(entry.filename ?? "") ?? [];
        if (of === name && !found.has(entry.filename)) found.set(entry.filename, { time: Number(time), entry }); // the newest counts
      }
      cursor = page.next_cursor ?? null;
      say(`Loading: ${found.size} frames`);
    }
    recording = name;
    frames = [...found.values()].sort((one, other) => one.time - other.time);
    say(!frames.length ? "No frame of this recording is in the journal."
      : `${frames.length} frames and clips, ${clock(frames.at(-1).time)} long.${cursor === null ? "" : " There are more, which are not shown."}`);
    show(frames.reduce((best, frame, index) => (frame.entry.verdict.probability > frames[best].entry.verdict.probability ? index : best), 0));
  } catch (error) {
    if (mine === latest) say(explain(error), true);
  }
}

// Reads the files of a map.
async function load() {
  try {
    map = await readMap([...byId("map").files]);
    say(`Lines and places: ${map.features.length}, segments: ${map.segments.length}.`);
  } catch (error) {
    say(error.message, true);
  }
  show(at);
}

function show(index) {
  const any = frames.length > 0;
  for (const id of ["timeline", "place", "keys"]) byId(id).hidden = !any;
  byId("track").hidden = !map.features.length;
  byId("track").replaceChildren(...(map.features.length ? track() : []));
  byId("timeline").replaceChildren(...(any ? timeline() : []));
  byId("at").max = Math.max(0, frames.length - 1);
  if (any) select(Math.min(index, frames.length - 1));
  else byId("one").replaceChildren();
}

function timeline() {
  const end = Math.max(1, frames.at(-1).time), x = (time) => LEFT + (time / end) * (width() - LEFT - 6), y = (share) => HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP);
  const own = map.segments.filter((segment) => segment.file === recording);
  const bands = own.map(({ begin, end: last, zone }) => draw("rect", { x: x(Math.max(0, begin)), y: TOP, width: Math.max(2, x(Math.min(end, last)) - x(Math.max(0, begin))), height: HEIGHT - BOTTOM - TOP, class: "band-of", "data-zone": zone }));
  const grid = [0, 0.5, 1].flatMap((share) => [draw("line", { x1: LEFT, x2: width(), y1: y(share), y2: y(share), class: "axis" }), draw("text", { x: LEFT - 6, y: y(share) + 4, class: "tick", "text-anchor": "end" }, percent(share))]);
  const ends = [[0, "start"], [end, "end"]].map(([time, anchor]) => draw("text", { x: x(time), y: HEIGHT - 4, class: "tick", "text-anchor": anchor }, clock(time)));
  const dots = frames.map(({ time, entry }) => draw("circle", { cx: x(time).toFixed(1), cy: y(entry.verdict.probability).toFixed(1), r: 2.5, class: entry.verdict.positive ? "dot yes" : "dot" }));
  const chart = draw("svg", { viewBox: `0 0 ${width()} ${HEIGHT}`, role: "img", "aria-label": `Probability of ${task.description} over time; choose a frame below` }, ...bands, ...grid, ...ends, ...dots, draw("line", { id: "now", y1: TOP, y2: HEIGHT - BOTTOM }));
  chart.addEventListener("click", (event) => {
    const box = chart.getBoundingClientRect(), time = ((((event.clientX - box.left) / box.width) * width() - LEFT) / (width() - LEFT - 6)) * end;
    select(nearest(time));
  });
  return [make("figcaption", {}, `Probability of ${task.description}${own.length ? ", with the segments of the map" : ""}`), chart];
}

// The lines and zones of the map, north up. A zone's number leads to its best frame.
function track() {
  const points = map.features.flatMap(({ points }) => points); // a hundred thousand in a long drive
  const [west, south, east, north] = points.reduce(([w, s, e, n], [lon, lat]) => [Math.min(w, lon), Math.min(s, lat), Math.max(e, lon), Math.max(n, lat)], [180, 90, -180, -90]), narrowing = Math.cos(((south + north) * Math.PI) / 360);
  const scale = Math.min((width() - 2 * EDGE) / Math.max(1e-6, (east - west) * narrowing), (MOST_HEIGHT - 2 * EDGE) / Math.max(1e-6, north - south));
  const left = (width() - (east - west) * narrowing * scale) / 2;
  const place = ([lon, lat]) => [left + (lon - west) * narrowing * scale, EDGE + (north - lat) * scale].map((each) => each.toFixed(1));
  const height = Math.ceil(2 * EDGE + (north - south) * scale);
  const lines = map.features.filter(({ kind }) => kind !== "zone").map(({ kind, points }) => draw("polyline", { points: points.map((each) => place(each).join(",")).join(" "), class: kind }));
  const zones = map.features.filter(({ kind }) => kind === "zone").map(({ number, points: [point] }) => {
    const [x, y] = place(point), open = () => choose(number);
    const mark = draw("g", { class: "zone", tabindex: 0, role: "button", "aria-label": `Zone ${number}`, transform: `translate(${x} ${y})` }, draw("circle", { r: 9 }), draw("text", { y: 4, "text-anchor": "middle" }, number));
    mark.addEventListener("click", open);
    mark.addEventListener("keydown", (event) => { if (event.key === "Enter") open(); });
    return mark;
  });
  return [make("figcaption", {}, "Map"), draw("svg", { viewBox: `0 0 ${width()} ${height}`, role: "group", "aria-label": "Map of the drives" }, ...lines, ...zones)];
}

// Goes to the best frame of a zone, in another recording if need be.
async function choose(zone) {
  const sights = map.segments.filter((segment) => segment.zone === zone), sight = sights.find((segment) => segment.file === recording) ?? sights[0];
  if (!sight) return say(`Zone ${zone}: choose segments.csv, too, to see its frames.`);
  if (sight.file !== recording) await ask(byId("ask").elements.recording.value = sight.file);
  if (frames.length && sight.file === recording) select(nearest(sight.best));
}

function nearest(time) {
  return frames.reduce((best, frame, index) => (Math.abs(frame.time - time) < Math.abs(frames[best].time - time) ? index : best), 0);
}

async function select(index) {
  const { time, entry } = frames[index], before = shown, mine = (shown = { release: () => {} });
  at = index;
  seen = null; // labels have no effect until the frame is there
  before?.release();
  byId("at").value = index;
  byId("time").textContent = `${clock(time)}, ${index + 1} of ${frames.length}`;
  const end = Math.max(1, frames.at(-1).time), x = LEFT + (time / end) * (width() - LEFT - 6);
  for (const name of ["x1", "x2"]) byId("now").setAttribute(name, x);
  const { card, release } = await wholeAnswer(entry, policy);
  if (shown !== mine) return release();
  mine.release = release;
  byId("one").replaceChildren(card);
  seen = frames[index];
  mark(entry);
}

function mark(entry) {
  for (const button of byId("keys").children) button.setAttribute("aria-pressed", String(button.dataset.label === entry.human_label));
}

async function give(label) {
  const frame = seen;
  if (!frame) return;
  try {
    await work.label(frame.entry, label);
    say(`Labelled: ${labelName(label)}.`);
    if (seen === frame) mark(frame.entry);
  } catch (error) {
    say(explain(error), true);
  }
}

function clock(seconds) {
  return `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, "0")}`;
}
