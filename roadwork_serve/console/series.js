// Measurements over time, from the counters of /v1/stats, in the memory of the tab.

const KEPT = 900; // samples: half an hour
const GAP_S = 15; // without samples, after which a line is broken

export class Series {
  constructor() {
    this.samples = [];
    this.counters = new Map(); // of the sample before, by replica
    this.time = null;
  }

  // Adds a sample. Counters of a replica that has just come count from the next one on.
  add(replicas, time_s = performance.now() / 1000) {
    const seconds = this.time === null ? null : time_s - this.time, before = this.counters;
    this.counters = new Map(replicas.filter((each) => each.requests).map((each) => [each.replica, countersOf(each.requests)]));
    this.time = time_s;
    if (!(seconds > 0)) return;
    if (seconds > GAP_S) return void this.push({ time: time_s });
    const rates = {};
    for (const [replica, counters] of this.counters) {
      const old = before.get(replica);
      if (!old) continue;
      for (const [name, count] of Object.entries(counters)) {
        rates[name] = (rates[name] ?? 0) + Math.max(0, count - (old[name] ?? 0)) / seconds;
      }
    }
    this.push({ time: time_s, ...rates, ...gauges(replicas) });
  }

  push(sample) {
    this.samples.push(sample);
    if (this.samples.length > KEPT) this.samples.shift();
  }

  // Points of one measurement; null where it was not measured.
  points(name) {
    return this.samples.map((sample) => [sample.time, sample[name] ?? null]);
  }

  // Names of measurements with this beginning, such as "exit:", in their first order.
  names(prefix) {
    return [...new Set(this.samples.flatMap((sample) => Object.keys(sample).filter((name) => name.startsWith(prefix))))];
  }
}

function countersOf(requests) {
  const counters = { verdicts: requests.verdicts, refused: Object.values(requests.rejected).reduce((sum, count) => sum + count, 0) };
  for (const exit of requests.exits) counters[`exit:${exit.stage}`] = (counters[`exit:${exit.stage}`] ?? 0) + exit.verdicts;
  for (const [slug, count] of Object.entries(requests.rejected)) counters[`refused:${slug}`] = count;
  return counters;
}

// Over several replicas the largest latency counts, and the mean of the probabilities.
function gauges(replicas) {
  const found = {}, requests = replicas.map((each) => each.requests).filter(Boolean);
  const largest = (name, value) => { if (value != null) found[name] = Math.max(found[name] ?? 0, value); };
  for (const each of requests) {
    largest("elapsed", each.elapsed_ms?.p95);
    for (const stage of each.stages) {
      if (stage.compute_ms) largest(`latency:${stage.stage}`, stage.queue_ms.p95 + stage.preprocess_ms.p95 + stage.compute_ms.p95 + stage.rpc_ms.p95);
    }
  }
  const beliefs = requests.map((each) => each.probability).filter(Boolean), n = beliefs.reduce((sum, each) => sum + each.n, 0);
  if (n) found.probability = beliefs.reduce((sum, each) => sum + each.mean * each.n, 0) / n;
  return found;
}
