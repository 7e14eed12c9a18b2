// The files that `roadwork drive` writes, as a person chooses them: zones.geojson and segments.csv.

const MOST_BYTES = 64 * 2 ** 20, LINES = { LineString: (c) => c, Point: (c) => [c] };

// Returns { features: [{ kind, number, points }], segments: [{ file, zone, begin, end, best }] }, in seconds of the file.
export async function readMap(files) {
  const map = { features: [], segments: [] };
  for (const file of files) {
    if (file.size > MOST_BYTES) throw new Error(`${file.name} is too large`);
    const text = await file.text();
    try {
      if (file.name.endsWith(".csv")) map.segments.push(...segments(text));
      else map.features.push(...features(JSON.parse(text)));
    } catch {
      throw new Error(`${file.name} is not a file that roadwork drive wrote`);
    }
  }
  return map;
}

function features(collection) {
  return collection.features.map(({ geometry, properties }) => {
    const points = LINES[geometry.type](geometry.coordinates).map(([lon, lat]) => [Number(lon), Number(lat)]);
    if (!points.length || !points.flat().every(Number.isFinite)) throw new Error("places");
    return { kind: ["zone", "way"].includes(properties.kind) ? properties.kind : "track", number: Number(properties.zone), points };
  });
}

function segments(text) {
  const [head, ...lines] = rows(text);
  const value = (line, name) => {
    if (!head.includes(name)) throw new Error(name);
    return line[head.indexOf(name)];
  };
  return lines.map((line) => {
    const number = (name) => Number(value(line, name)), offset = number("best_s") - number("best_in_file_s");
    return { file: value(line, "file"), zone: number("zone"), begin: number("begin_s") - offset, end: number("end_s") - offset, best: number("best_in_file_s") };
  });
}

// The cells of a CSV (RFC 4180).
function rows(text) {
  const found = [[]];
  for (const [, quoted, plain, end] of text.matchAll(/(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r?\n|$)/g)) {
    found.at(-1).push(quoted === undefined ? plain : quoted.replaceAll('""', '"'));
    if (end === "") break;
    if (end !== ",") found.push([]);
  }
  return found.filter((row) => row.length > 1);
}
