"""Update the tables of benchmark results in the pages: `python -m benchmarks.tables`; `--check` only compares.

A page marks a table with `<!-- table: NAME -->` and `<!-- end -->`. The text between the two is generated from the
results; the rest of the page is not changed.
"""

import argparse
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from benchmarks.markdown import Result, read, table
from benchmarks.peers.workloads import BUNDLED, CASCADE, as_shipped
from benchmarks.robustness import attacks, drive, soak, watch
from benchmarks.server import ROOT

RESULTS = ROOT / "benchmarks/results"
PAGES = (ROOT / "README.md", ROOT / "docs/benchmarks.md")
EARLIER = "earlier"  # a folder of the results
OURS = "roadwork-serve"  # also the first part of the names of its variants
#: Roles of processes in the comparison of servers, and their names in the table.
PROCESSES = {
    "Backbone": "replicas of stage 1",
    "SignReader": "replicas of the sign reader",
    "Ingress": "ingress",
    "roadwork_serve.media.decode_worker": "decoders",
    "Journal": "journal",
    "haproxy": "HAProxy and Serve's proxies",
    "HAProxyManager": "HAProxy and Serve's proxies",
    "ProxyActor": "HAProxy and Serve's proxies",
}
_REST = "the rest of Ray and Serve"
LOOP_TARGETS = {"bundled": 0.5, "vit-s": 0.85, "vit-l": 0.95}
_BLOCK = re.compile(r"(<!-- table: ([a-z-]+) -->\n).*?(<!-- end -->)", re.S)
T = TypeVar("T")


def update_page(page: str, results: Path = RESULTS) -> str:
    """Return the page with its tables updated. Raises KeyError for an unknown table."""
    return _BLOCK.sub(lambda found: found[1] + TABLES[found[2]](results) + found[3], page)


def throughput(results: Path) -> str:
    """Return the saturated throughput of every server, relative to the bare loop."""
    rows = _rows(results)
    servers = _unique(row["server"] for row in rows)
    lines: list[list[str]] = []
    for model, size in _unique((row["model"], row["size"]) for row in rows):
        here = {row["server"]: row for row in rows if (row["model"], row["size"]) == (model, size)}
        bare = statistics.median(pace["per_s"] for row in here.values() for pace in row["bare"])
        lines.append([f"{model}, {size}", f"{bare:.3g}", *(_share(here.get(server)) for server in servers)])
    return table(["model, JPEG", "bare loop, images per second", *servers], lines)


def resources(results: Path) -> str:
    """Return processor time, memory and startup time of every server, with JPEGs of the first size."""
    rows = _rows(results)
    times = ["CPU ms per answer", "of which at the margin", "CPU ms per second at rest"]
    return table(
        ["model", "server", *times, "memory, MiB", "startup, s"],
        [
            [row["model"], row["server"], *_cost(row), f"{row['start_s']:.0f}"]
            for row in rows
            if row["size"] == rows[0]["size"]
        ],
    )


def processes(results: Path) -> str:
    """Return the processor time of this server's processes per answer, and that of the best other, by workload."""
    rows = [row for row in _rows(results) if row["server"] == OURS and row.get("cpu_ms_by_role")]
    spent: list[dict[str, float]] = []
    for row in rows:
        times = dict.fromkeys([*PROCESSES.values(), _REST], 0.0)
        for role, ms in row["cpu_ms_by_role"].items():
            times[PROCESSES.get(role, _REST)] += ms
        spent.append(times)
    lines = [[name, *(f"{times[name]:.1f}" for times in spent)] for name in spent[0]] if spent else []
    totals = {"all": "cpu_ms", "all, at the margin": "marginal_cpu_ms"}
    lines += [[name, *(f"{row[key]:.1f}" for row in rows)] for name, key in totals.items()]
    best: list[str] = []
    for row in rows:
        beside = [each for each in _rows(results) if (each["model"], each["size"]) == (row["model"], row["size"])]
        times = _marginal(beside)
        best.append("{1:.1f}, {0}".format(*_best_other(times, lowest=True)) if _has_both(times) else "")
    lines.append(["best other server, at the margin", *best])
    return table(["ms of a core per answer", *(f"{row['model']}, {row['size']}" for row in rows)], lines)


def latency(results: Path) -> str:
    """Return sustained rates, latencies, and goodput under overload."""
    workloads = read(results, "peers")["workloads"]
    lines: list[list[str]] = []
    for curve in _of(results, "curves"):
        middle, over = curve["points"][1], curve["overload"]
        spread = _range(", {} to {}", curve.get("goodput_by_round"), 2)
        lines.append(
            [
                f"{curve['model']}, {curve['size']}, {1000 * workloads[curve['model']]['limit_s']:.0f} ms",
                curve["server"],
                f"{curve['saturated_per_s']:.1f}",
                "none" if curve["sustained_per_s"] is None else f"{curve['sustained_per_s']:.1f}",
                f"{middle['p50_ms']:.0f}, {middle['p99_ms']:.0f} ms, {middle['in_time_share']:.1%}",
                f"{over['in_time_per_s']:.1f} ({curve['goodput']:.2f}{spread})",
            ]
        )
    header = [
        "model, JPEG, latency limit",
        "server",
        "saturated, per second",
        "99 % in time up to, per second",
        "p50, p99, share in time at 0.7x",
        "in time at 1.5x, per second (relative)",
    ]
    return table(header, lines)


def overhead(results: Path) -> str:
    """Return the breakdown of core time and latency, one column per model."""
    rows: list[Result] = read(results, "overhead")["rows"]
    times = {
        "throughput relative to the bare loop": [f"{row['relative_throughput']:.2f}" for row in rows],
        "bare loop: core ms per image": [f"{row['bare_cpu_ms']:.1f}" for row in rows],
        "bare loop: of which decoding": [f"{row['decoding_ms']:.1f}" for row in rows],
    }
    for role in _unique(role for row in rows for role in row["cpu_ms"]):
        times[f"core ms per verdict: {role}"] = [f"{row['cpu_ms'].get(role, 0):.1f}" for row in rows]
    times["core ms per verdict: unused"] = [f"{row['unused_ms']:.1f}" for row in rows]
    times["server without load: core ms per second"] = [f"{sum(row['no_load_ms'].values()):.0f}" for row in rows]
    for activity in _unique(activity for row in rows for activity in row["ingress"]):
        times[f"ingress, core ms per verdict: {activity}"] = [
            f"{row['ingress'].get(activity, 0) * row['cpu_ms']['ingress']:.2f}" for row in rows
        ]
    times["ingress: stack samples"] = [f"{row['stack_samples']}" for row in rows]
    parts = {
        "queue": "queue_ms",
        "preprocessing": "preprocess_ms",
        "compute": "compute_ms",
        "RPC": "rpc_ms",
        "total at the client": "client_ms",
    }
    for name, key in parts.items():
        times[f"latency in ms: {name}"] = [f"{row['latency'][key]:.0f}" for row in rows]
    times["items per batch"] = [f"{row['latency']['batch_size']:.1f}" for row in rows]
    return table(["", *(row["model"] for row in rows)], [[name, *values] for name, values in times.items()])


def decode(results: Path) -> str:
    """Return the decoders of large JPEGs."""
    sides = read(results, "decode")["sides"]
    return table(
        ["decoder", *(f"{side} px: ms, speedup" for side in sides)],
        [
            [decoder, *(f"{side[decoder]['median_ms']:.0f}, {side[decoder]['speedup']:.1f}" for side in sides.values())]
            for decoder in next(iter(sides.values()))
        ],
    )


def batching(results: Path) -> str:
    """Return the mean latency relative to the lowest possible, and the mean batch size, by load."""
    rows: list[Result] = read(results, "batching")["rows"]
    loads = _unique(row["load"] for row in rows)
    lines: list[list[str]] = []
    for model, contender in _unique((row["model"], row["contender"]) for row in rows):
        here = {row["load"]: row for row in rows if (row["model"], row["contender"]) == (model, contender)}
        lines.append([model, contender, *(_batching(here.get(load)) for load in loads)])
    return table(["model", "batcher", *(f"{load:.0%}" for load in loads)], lines)


def cost_accuracy(results: Path) -> str:
    """Return accuracy and compute of every method on rendered scenes. No pooled figure of photographs is quoted."""
    lines: list[list[str]] = []
    for method in read(results, "cost_accuracy")["results"]["rendered scenes"]["methods"]:
        interval = f"{method['low']:.3f} to {method['high']:.3f}"
        lines.append([method["name"], f"{method['tflop']:.2f}", f"{method['accuracy']:.3f}", interval])
    return table(["method", "TFLOP per item", "accuracy", "95 % interval"], lines)


def photographs(results: Path) -> str:
    """Return the results on real photographs that the models were not trained on, of stage 1 and of the cascade."""
    lines: list[list[str]] = []
    for label, run in read(results, "real-photos")["runs"].items():
        for each in run["sets"]:
            for name, model in (("stage 1", "stage1"), ("cascade", "cascade")):
                part = each["photos"][model]
                lines.append([f"{label}: {name}", each["name"], *_photographs(part["overall"], part["macro"])])
    heads = [
        "run",
        "photos",
        "n (road work)",
        "AUC",
        "balanced accuracy",
        "accuracy",
        "accuracy, mean over sources",
        "hard / plain negatives called road work",
        "ECE",
        "confident, wrong among them",
    ]
    return table(heads, lines)


def text_gate(results: Path) -> str:
    """Return what is lost where the sign reader is asked only about photos with likely text."""
    lines: list[list[str]] = []
    for row in read(results, "text-gate")["rows"]:
        gate = row["min_text_probability"]
        cells = [f"{row['n']} ({row['positives']})", f"{row['asked']} of {row['unsure']}", f"{row['telling']}"]
        scores = [f"{row[name]:.3f}" for name in ("accuracy", "auc", "ece")]
        lines.append([row["photos"], "none" if gate is None else f"{gate:g}", *cells, *scores, f"{row['changed']}"])
    heads = ["photos", "`min_text_probability`", "n (road work)", "asked", "with a telling sign"]
    return table([*heads, "accuracy", "AUC", "ECE", "labels changed"], lines)


def vllm_server(results: Path) -> str:
    """Return this server over vLLM, and vLLM's own server."""
    rows = read(results, "vllm-server")["rows"]
    servers = {name: [row for row in rows if row["server"] == name] for name in _unique(row["server"] for row in rows)}
    per_s = {name: [each for row in rounds for each in row["per_s"]] for name, rounds in servers.items()}
    first = statistics.median(next(iter(per_s.values())))
    lines: list[list[str]] = []
    for name, rounds in servers.items():
        found = statistics.median(per_s[name])
        times = ("alone_ms", "cpu_ms", "margin_cpu_ms")
        mean = [f"{statistics.fmean(row[key] for row in rounds):,.0f}" for key in (*times, "memory_mib")]
        spread = _median_and_range(per_s[name], 1)
        differs, refused = max(row["difference"] for row in rounds), sum(row["refused"] for row in rounds)
        lines.append([name, spread, f"{found / first:.2f}", *mean, f"{differs:.3f}", f"{refused}"])
    heads = ["server", "answers per second", "relative", "one client, ms", "CPU ms per answer", "above that at rest"]
    return table([*heads, "memory, MiB", "largest difference of a probability", "requests without an answer"], lines)


def summary(results: Path) -> str:
    """Return the table of the README: this server and the best of the others."""
    rows = _rows(results)
    lines: list[list[str]] = []
    count = 0
    for model, size in _unique((row["model"], row["size"]) for row in rows):
        here = {row["server"]: row for row in rows if (row["model"], row["size"]) == (model, size)}
        others = [row for server, row in here.items() if not server.startswith(OURS)]
        if OURS in here and others:
            best = max(others, key=lambda row: row["relative_throughput"])
            count = max(count, len(others))
            cells = [_share(here[OURS]), f"{best['server']}: {_share(best)}", _marginal_cell(here)]
            lines.append([f"{model}, {size}", *cells])
    shares = ["relative to a bare loop (per second)", f"best of {count} other servers"]
    return table(["model, JPEG", *shares, "CPU ms at the margin, best other"], lines)


def headline(results: Path) -> str:
    """Return the README's main table: the cascade and single models, on rendered stills."""
    scenes = read(results, "scenes")
    cascade, saved, early = scenes["gflops_per_still"], scenes["flops_ratio"], scenes["exit_mix"]["backbone"]
    methods = read(results, "cost_accuracy")["results"]["rendered scenes"]["methods"]
    (stage1,) = (method["tflop"] for method in methods if method["name"] == "stage 1 alone")
    return table(
        ["", "accuracy", "compute per image"],
        [
            ["stage 1 alone", f"{scenes['accuracy_stage1']:.3f}", f"{stage1:.2f} TFLOP"],
            ["fast VLM on every image", f"{scenes['accuracy_vlm_all']:.3f}", f"{cascade * saved / 1000:.2f} TFLOP"],
            [
                "**cascade**",
                f"**{scenes['accuracy']:.3f}**",
                f"**{cascade / 1000:.2f} TFLOP, {saved:.1f}x less**; {early:.0%} exit at stage 1",
            ],
        ],
    )


def rendered_scenes(results: Path) -> str:
    """Return the accuracy, the exits and the compute on rendered stills and clips."""
    scenes = read(results, "scenes")
    shares = [
        " / ".join(f"{100 * share:.0f}" for share in scenes[mix].values()) + " %"
        for mix in ("exit_mix", "exit_mix_clips")
    ]
    return table(
        ["", f"{scenes['n_stills']:,} stills", f"{scenes['n_clips']:,} clips"],
        [
            ["accuracy of the cascade", f"{scenes['accuracy']:.3f}", f"{scenes['accuracy_clips']:.3f}"],
            ["accuracy of stage 1 alone", f"{scenes['accuracy_stage1']:.3f}", ""],
            ["accuracy of the fast VLM on every still", f"{scenes['accuracy_vlm_all']:.3f}", ""],
            ["Brier score, ECE", f"{scenes['brier']:.3f}, {scenes['ece']:.3f}", ""],
            ["exits at backbone / signs / vlm / reasoner, or video", *shares],
            [
                "compute saved against the fast VLM (or video model) on every item, at production model sizes",
                *(f"{scenes[ratio]:.2f}x" for ratio in ("flops_ratio", "flops_ratio_clips")),
            ],
        ],
    )


def goals(results: Path) -> str:
    """Return the goals with their results."""
    rows = [[name, f"{goal.target:g}", *goal.cells()] for name, goal in _goals(results).items()]
    return table(["goal", "target", "measured", ""], rows)


def starts(results: Path) -> str:
    """Return what a server of each profile takes to start, holds, and needs to recover, beside an earlier run."""
    earlier = {each["profile"]: each for each in read(results / EARLIER, "defaults")["starts"]}
    now, rows = read(results, "defaults")["starts"], []
    for profile in _unique(each["profile"] for each in now):
        each, was = [start for start in now if start["profile"] == profile], earlier[profile]
        rows.append([
            f"`{profile}`",
            *(f"{was[name]:,.0f}" for name in ("ready_s", "memory_mb")),
            f"{len(each)}",
            *(_median_and_range([start[name] for start in each], digits)
              for name, digits in (("ready_s", 1), ("memory_mb", 0), ("back_s", 1))),
        ])  # fmt: skip
    heading = ["profile", "ready, s, earlier", "MB, earlier", "starts", "ready, s", "MB", "back after a kill, s"]
    return table(heading, rows)


def _median_and_range(values: Sequence[float], digits: int) -> str:
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def rest(results: Path) -> str:
    """Return what a server without requests costs, in milliseconds of a core a second, by process and run."""
    runs: dict[str, Result] = read(results, "rest")["runs"]
    spent = {label: {each["name"]: each["ms_per_s"] for each in run["processes"]} for label, run in runs.items()}
    most = {name: max(each.get(name, 0.0) for each in spent.values()) for each in spent.values() for name in each}
    shown = sorted((name for name, ms in most.items() if ms >= 1), key=lambda name: (-most[name], name))
    rows = [[name, *(f"{each.get(name, 0.0):.0f}" for each in spent.values())] for name in shown]
    rows.append(["all processes", *(f"{run['ms_per_s']:.0f}" for run in runs.values())])
    return table(["process", *runs], rows)


@dataclass(frozen=True, slots=True)
class _Goal:
    """A goal, met if `measured` reaches the target."""

    target: float
    measured: float
    #: The best other server, if it is the reference.
    competitor: str = ""

    def cells(self) -> tuple[str, str]:
        competitor = f" ({self.competitor})" if self.competitor else ""
        return f"{self.measured:.2f}{competitor}", "met" if self.measured >= self.target else "missed"


def _goals(results: Path) -> dict[str, _Goal]:
    """Return the goals by name."""
    found = {
        f"throughput relative to the bare loop, {row['model']}": _Goal(
            LOOP_TARGETS[row["model"]], row["relative_throughput"]
        )
        for row in read(results, "overhead")["rows"]
    }
    found |= dict(_comparisons(results))
    for curve in _of(results, "curves"):
        if curve["server"] == OURS:
            found[f"goodput at 1.5x, share of the saturated rate, {curve['model']}"] = _Goal(0.8, curve["goodput"])
    fastest = min(side["roadwork-serve"]["speedup"] for side in read(results, "decode")["sides"].values())
    found["decoding 12 megapixels, speedup over a full decode"] = _Goal(3.0, fastest)
    return found


TABLES: dict[str, Callable[[Path], str]] = {
    each.__name__.replace("_", "-"): each
    for each in (
        throughput,
        resources,
        processes,
        latency,
        overhead,
        decode,
        batching,
        cost_accuracy,
        photographs,
        text_gate,
        vllm_server,
        summary,
        headline,
        rendered_scenes,
        goals,
        starts,
        rest,
        soak,
        attacks,
        drive,
        watch,
    )
}


def _photographs(overall: Result, macro: Result) -> list[str]:
    """Return the cells of a set of photos; those that it does not define are empty."""

    def cell(value: float | None, form: str = ".3f") -> str:
        return "" if value is None else format(value, form)

    errors = cell(overall["confident_errors"], ".0%")
    return [
        f"{overall['n']} ({overall['positives']})",
        *(cell(overall[name]) for name in ("auc", "balanced_accuracy", "accuracy")),
        f"{cell(macro['accuracy'])} ({macro['sources']})",
        " / ".join(cell(overall[name], ".2f") for name in ("hard_false_positives", "plain_false_positives")),
        cell(overall["ece"]),
        f"{overall['confident']}" + (f", {errors}" if errors else ""),
    ]


def _cost(row: Result) -> list[str]:
    """Return processor times and memory; unknown if not all processes were found, blank if not measured."""
    if row["cpu_ms"] < 1:
        return ["unknown"] * 4
    names = ("marginal_cpu_ms", "rest_ms_per_s")
    marginal, rest = ("" if row.get(name) is None else f"{row[name]:.1f}" for name in names)
    return [f"{row['cpu_ms']:.1f}", marginal, rest, f"{row['memory_mib']:.0f}"]


def _marginal(rows: Iterable[Result]) -> dict[str, float]:
    """Return the processor time per answer beyond that at rest, by server; without those where it is not known."""
    known = (row for row in rows if row["cpu_ms"] >= 1 and row.get("marginal_cpu_ms") is not None)
    return {row["server"]: row["marginal_cpu_ms"] for row in known}


def _marginal_cell(rows: Mapping[str, Result]) -> str:
    """Return this server's time at the margin and that of the best other; blank if one is not known."""
    times = _marginal(rows.values())
    if not _has_both(times):
        return ""
    best, _ = _best_other(times, lowest=True)
    own, other = (
        f"{times[server]:.1f}" + _range(" ({} to {})", rows[server].get("marginal_cpu_ms_by_round"), 1)
        for server in (OURS, best)
    )
    return f"{own}, {best}: {other}"


def _range(form: str, values: Sequence[float] | None, digits: int) -> str:
    """Return the least and the most of several rounds in this form; blank for one round, and of earlier results."""
    if not values or len(values) == 1:
        return ""
    return form.format(f"{min(values):.{digits}f}", f"{max(values):.{digits}f}")


def _batching(row: Result | None) -> str:
    if row is None:
        return ""
    if not row["keeps_up"]:
        return "falls behind"
    return f"{row['over_best']['median']:.2f}, {row['batch_size']['median']:.1f}"


def _share(row: Result | None) -> str:
    if row is None:
        return ""
    lowest, middle, highest = (f(row["throughputs"]) for f in (min, statistics.median, max))
    refused = ", some unanswered" if row["refused"] else ""
    return f"{row['relative_throughput']:.2f} ({middle:.3g}, {lowest:.3g} to {highest:.3g}{refused})"


def _rows(results: Path) -> list[Result]:
    """Return the rows of all servers with all models."""
    return _of(results, "rows")


def _of(results: Path, kind: str) -> list[Result]:
    """Return the rows or curves of all servers with all models."""
    return [each for run in read(results, "peers")["runs"] for each in run[kind]]


def _comparisons(results: Path) -> Iterator[tuple[str, _Goal]]:
    """Yield the goals that refer to the best other server, as far as they were measured, by name.

    Throughput is relative to the bare loop, which ran before and after each server, because the speed of the machine
    varies.
    """
    size = _rows(results)[0]["size"]

    def measured(model: str) -> list[Result]:
        return [row for row in _rows(results) if (row["model"], row["size"]) == (model, size)]

    for name in (BUNDLED, CASCADE):
        rates = {row["server"]: row["relative_throughput"] for row in measured(as_shipped(name))}
        if _has_both(rates):
            server, best = _best_other(rates)
            goal = _Goal(1.0, rates[OURS] / best, server)
            yield f"saturated throughput as shipped, {name}, relative to the best other server", goal
    for model in (BUNDLED, CASCADE):
        times = _marginal(measured(model))
        if _has_both(times):
            server, best = _best_other(times, lowest=True)
            goal = _Goal(0.95, best / times[OURS], server)
            yield f"marginal cost, equal engines, {model}: the best other server's relative to this one's", goal
    goodput = {curve["server"]: curve["goodput"] for curve in _of(results, "curves") if curve["model"] == BUNDLED}
    if _has_both(goodput):
        server, best = _best_other(goodput)
        yield "goodput at 1.5x, bundled, relative to the best other server", _Goal(2.0, goodput[OURS] / best, server)


def _has_both(values: Mapping[str, float]) -> bool:
    """Return whether there are figures of this server and of another one."""
    return OURS in values and not all(server.startswith(OURS) for server in values)


def _best_other(values: Mapping[str, float], *, lowest: bool = False) -> tuple[str, float]:
    """Return the best of the other servers and its figure, the highest or the lowest."""
    others = [(server, value) for server, value in values.items() if not server.startswith(OURS)]
    return (min if lowest else max)(others, key=lambda each: each[1])


def _unique(values: Iterable[T]) -> list[T]:
    return list(dict.fromkeys(values))


def main() -> int:
    """Update or check all pages. Returns 1 if --check finds one that is out of date, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if a page is out of date")
    check = parser.parse_args().check
    outdated = [page for page in PAGES if update_page(page.read_text()) != page.read_text()]
    for page in outdated:
        if check:
            print(f"{page} does not match benchmarks/results: run `make tables`", file=sys.stderr)
        else:
            page.write_text(update_page(page.read_text()))
    return int(check and bool(outdated))


if __name__ == "__main__":
    sys.exit(main())
