// A small line chart over time, as SVG.

import { make } from "./page.js";

const SVG = "http://www.w3.org/2000/svg", WIDTH = 480, HEIGHT = 130, LEFT = 44, BOTTOM = 18, TOP = 8;

export function draw(tag, attributes, ...inside) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...inside);
  return element;
}

// Returns a figure. Each line is { name, points: [[seconds, value or null], ...] }; `say` puts a value into words.
export function lineChart(title, lines, say, top = 0) {
  const times = [0, ...lines.flatMap((line) => line.points.map(([time]) => time))].slice(lines.length ? 1 : 0), values = lines.flatMap((line) => line.points.map(([, value]) => value ?? 0));
  const end = Math.max(...times), span = Math.max(60, end - Math.min(...times)), highest = top || roundUp(Math.max(...values, 0));
  const x = (time) => LEFT + ((time - end + span) / span) * (WIDTH - LEFT - 4), y = (value) => HEIGHT - BOTTOM - (value / highest) * (HEIGHT - BOTTOM - TOP);
  const latest = lines.map((line) => `${line.name} ${last(line) == null ? "–" : say(last(line))}`);
  const grid = [0, highest / 2, highest].flatMap((value) => [
    draw("line", { x1: LEFT, x2: WIDTH, y1: y(value), y2: y(value), class: "axis" }),
    draw("text", { x: LEFT - 6, y: y(value) + 4, class: "tick", "text-anchor": "end" }, say(value)),
  ]);
  const ends = [[end - span, `${Math.round(span / 60)} min ago`, "start"], [end, "now", "end"]].map(([time, text, anchor]) =>
    draw("text", { x: x(time), y: HEIGHT - 4, class: "tick", "text-anchor": anchor }, text));
  const paths = lines.map((line, index) => draw("path", { d: path(line.points, x, y), class: `line c${index % 6}` }));
  return make("figure", { class: "chart" },
    make("figcaption", {}, title),
    draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}: ${latest.join(", ") || "nothing yet"}` }, ...grid, ...ends, ...paths),
    make("ul", { class: "legend" }, ...lines.map((line, index) => make("li", {}, make("span", { class: `key c${index % 6}` }), latest[index]))));
}

function last(line) {
  return line.points.at(-1)?.[1] ?? null;
}

// A line through the points, broken where there is no value.
function path(points, x, y) {
  let drawn = "", broken = true;
  for (const [time, value] of points) {
    if (value !== null) drawn += `${broken ? "M" : "L"}${x(time).toFixed(1)} ${y(value).toFixed(1)}`;
    broken = value === null;
  }
  return drawn;
}

// The next of 1, 2, 5, 10, 20 and so on.
function roundUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].find((factor) => factor * power >= value) * power;
}
