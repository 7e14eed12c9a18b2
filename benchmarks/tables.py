"""`python -m benchmarks.tables`: writes what pages quote of `benchmarks/results/` into them; `--check` only compares.

A page says where with `<!-- table: NAME -->` and `<!-- end -->`: what stands between the two is made from the results,
and nothing else is touched.
"""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.server import ROOT

RESULTS = ROOT / "benchmarks/results"
PAGES = (ROOT / "README.md", ROOT / "docs/benchmarks.md")
EARLIER = "earlier"  # a folder of the results
OURS = "roadwork-serve, fast"
WANTED_OF_LOOP = {"bundled": 0.5, "vit-s": 0.85, "vit-l": 0.95}
_BLOCK = re.compile(r"(<!-- table: ([a-z-]+) -->\n).*?(<!-- end -->)", re.S)
Result = dict[str, Any]
T = TypeVar("T")


def written(page: str, results: Path = RESULTS) -> str:
    """Return the page with its tables as the results have them. Raises KeyError for a table that nobody makes."""
    return _BLOCK.sub(lambda found: found[1] + TABLES[found[2]](results) + found[3], page)


def shares(results: Path) -> str:
    """Answers a second of every server while saturated, of the bare loop."""
    rows = _rows(results)
    servers = _unique(row["server"] for row in rows)
    lines: list[list[str]] = []
    for model, size in _unique((row["model"], row["size"]) for row in rows):
        here = {row["server"]: row for row in rows if (row["model"], row["size"]) == (model, size)}
        bare = statistics.median(pace["per_s"] for row in here.values() for pace in row["bare"])
        lines.append([f"{model}, {size}", f"{bare:.3g}", *(_share(here.get(server)) for server in servers)])
    return _table(["model, JPEG", "bare loop, a second", *servers], lines)


def costs(results: Path) -> str:
    """Return processor time, memory and start-up time of every server, with JPEGs of the first size."""
    rows = _rows(results)
    return _table(
        ["model", "server", "processor ms an answer", "memory, MiB", "ready after, s"],
        [
            [row["model"], row["server"], *_cost(row), f"{row['start_s']:.0f}"]
            for row in rows
            if row["size"] == rows[0]["size"]
        ],
    )


def curves(results: Path) -> str:
    """Rates that are kept, latencies, and goodput under overload."""
    works = _read(results, "peers")["works"]
    lines: list[list[str]] = []
    for curve in _of(results, "curves"):
        middle, over = curve["points"][1], curve["overload"]
        lines.append(
            [
                f"{curve['model']}, {curve['size']}, {1000 * works[curve['model']]['limit_s']:.0f} ms",
                curve["server"],
                f"{curve['saturated']:.1f}",
                "none" if curve["kept"] is None else f"{curve['kept']:.1f}",
                f"{middle['p50_ms']:.0f}, {middle['p99_ms']:.0f} ms, {middle['kept']:.1%}",
                f"{over['in_time']:.1f} ({curve['goodput']:.2f})",
            ]
        )
    heads = [
        "model, JPEG, limit",
        "server",
        "saturated",
        "99 % in time up to",
        "p50, p99, in time at 0.7",
        "in time at 1.5x",
    ]
    return _table(heads, lines)


def limit(results: Path) -> str:
    """Where the time of a core goes, a column a model."""
    rows: list[Result] = _read(results, "overhead")["rows"]
    times = {
        "answers a second, of the bare loop": [f"{row['share']:.2f}" for row in rows],
        "bare loop: ms of a core an image": [f"{row['bare_cpu_ms']:.1f}" for row in rows],
        "of it decoding": [f"{row['decoding_ms']:.1f}" for row in rows],
    }
    for role in _unique(role for row in rows for role in row["cpu_ms"]):
        times[f"server: {role}"] = [f"{row['cpu_ms'].get(role, 0):.1f}" for row in rows]
    times["server: cores idle"] = [f"{row['idle_ms']:.1f}" for row in rows]
    times["server at rest, a second"] = [f"{sum(row['rest_ms'].values()):.0f}" for row in rows]
    for doing in _unique(doing for row in rows for doing in row["ingress"]):
        times[f"ingress: {doing}"] = [f"{row['ingress'].get(doing, 0) * row['cpu_ms']['ingress']:.2f}" for row in rows]
    times["ingress: stacks that tell"] = [f"{row['stacks']}" for row in rows]
    for part in ("queue", "batch", "compute", "hop", "answer"):
        times[f"a verdict's ms: {part}"] = [f"{row['times'][part]:.0f}" for row in rows]
    times["items in a batch"] = [f"{row['times']['batch_size']:.1f}" for row in rows]
    return _table(["", *(row["model"] for row in rows)], [[name, *values] for name, values in times.items()])


def decode(results: Path) -> str:
    """Ways to decode a large JPEG."""
    told = _read(results, "decode")["sides"]
    return _table(
        ["way", *(f"{side} px: ms, times faster" for side in told)],
        [
            [way, *(f"{told[side][way]['median_ms']:.0f}, {told[side][way]['times_faster']:.1f}" for side in told)]
            for way in next(iter(told.values()))
        ],
    )


def batching(results: Path) -> str:
    """Mean latency over the least possible, and the mean batch, by load."""
    rows: list[Result] = _read(results, "batching")["rows"]
    shown = _unique(row["share"] for row in rows)
    lines: list[list[str]] = []
    for model, contender in _unique((row["model"], row["contender"]) for row in rows):
        here = {row["share"]: row for row in rows if (row["model"], row["contender"]) == (model, contender)}
        lines.append([model, contender, *(_batching(here.get(share)) for share in shown)])
    return _table(["model", "batching", *(f"{share:.0%}" for share in shown)], lines)


def worth(results: Path) -> str:
    """Accuracy over compute of every way to judge rendered scenes. Of photographs no pooled figure is quoted."""
    lines: list[list[str]] = []
    for place in _read(results, "cost_accuracy")["judged"]["rendered scenes"]["places"]:
        interval = f"{place['low']:.3f} to {place['high']:.3f}"
        lines.append([place["name"], f"{place['tflop']:.2f}", f"{place['accuracy']:.3f}", interval])
    return _table(["way", "TFLOP an item", "accuracy", "95 %"], lines)


def photographs(results: Path) -> str:
    """Return the results on real photographs that the models were not trained on, of stage 1 and of the cascade."""
    lines: list[list[str]] = []
    for label, run in _read(results, "real-photos")["runs"].items():
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
    return _table(heads, lines)


def cards(results: Path) -> str:
    """Return the measurements on GPUs, with the name of the GPU."""
    lines: list[list[str]] = []
    for file in sorted(results.glob("gpu-*.json")):
        told = json.loads(file.read_text())
        for row in told["rows"]:
            case = row["case"]
            what = f"{case['model']} {case['what']}, {case['mode']}, batch {case['batch']}, {case['side']} px"
            lines.append([told["card"], what, f"{row['timing']['median_ms']:.1f}", f"{row['per_s']:.1f}"])
    if not lines:
        return "Nothing has been measured on a GPU yet.\n"
    return _table(["card", "what", "ms, median", "a second"], lines)


def summary(results: Path) -> str:
    """Return the few lines that the README has: this server beside the best of the others."""
    rows = _rows(results)
    lines: list[list[str]] = []
    most = 0
    for model, size in _unique((row["model"], row["size"]) for row in rows):
        here = {row["server"]: row for row in rows if (row["model"], row["size"]) == (model, size)}
        others = [row for server, row in here.items() if not server.startswith("roadwork-serve")]
        if OURS in here and others:
            best = max(others, key=lambda row: row["of_bare"])
            most = max(most, len(others))
            lines.append([f"{model}, {size}", _share(here[OURS]), f"{best['server']}: {_share(best)}"])
    return _table(["model, JPEG", "of a bare loop (a second)", f"the best of {most} other servers"], lines)


def headline(results: Path) -> str:
    """Return the README's few rows: the cascade beside single models, on rendered stills."""
    scenes = _read(results, "scenes")
    cascade, saved, early = scenes["gflops_per_still"], scenes["flops_ratio"], scenes["exit_mix"]["backbone"]
    places = _read(results, "cost_accuracy")["judged"]["rendered scenes"]["places"]
    (stage1,) = (place["tflop"] for place in places if place["name"] == "stage 1 alone")
    return _table(
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


def goals(results: Path) -> str:
    """Return the goals and the results, with those of an earlier run if there are any."""
    now, earlier = _aims(results), _aims(results / EARLIER) if (results / EARLIER).is_dir() else {}
    return _table(
        ["what", "wanted", "measured", "", "earlier", ""],
        [
            [what, f"{aim.wanted:g}", *aim.told(), *(earlier[what].told() if what in earlier else ("", ""))]
            for what, aim in now.items()
        ],
    )


@dataclass(frozen=True, slots=True)
class _Aim:
    """beside: the best of the others, where it is what counts."""

    wanted: float
    got: float
    beside: str = ""

    def told(self) -> tuple[str, str]:
        return f"{self.got:.2f}{self.beside and f' ({self.beside})'}", "met" if self.got >= self.wanted else "missed"


def _aims(results: Path) -> dict[str, _Aim]:
    """Return the goals by name."""
    aims = {
        f"share of the bare loop, {row['model']}": _Aim(WANTED_OF_LOOP[row["model"]], row["share"])
        for row in _read(results, "overhead")["rows"]
    }
    for what, wanted, ours, (server, best) in _beside(results):
        aims[f"{what}, over the best of the others"] = _Aim(wanted, ours / best, server)
    for curve in _of(results, "curves"):
        if curve["server"] == OURS:
            aims[f"in time at 1.5x, of the saturated rate, {curve['model']}"] = _Aim(0.8, curve["goodput"])
    fastest = min(side["roadwork-serve"]["times_faster"] for side in _read(results, "decode")["sides"].values())
    aims["decoding 12 megapixels, times faster than whole"] = _Aim(3.0, fastest)
    return aims


TABLES: dict[str, Callable[[Path], str]] = {
    each.__name__: each
    for each in (shares, costs, curves, limit, decode, batching, worth, photographs, cards, summary, headline, goals)
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
    """Unknown where not all of its processes were found."""
    return [f"{row['cpu_ms']:.0f}", f"{row['memory_mib']:.0f}"] if row["cpu_ms"] >= 1 else ["unknown", "unknown"]


def _batching(row: Result | None) -> str:
    if row is None:
        return ""
    if not row["keeps_up"]:
        return "falls behind"
    return f"{row['over_best']['median']:.2f}, {row['batch']['median']:.1f}"


def _share(row: Result | None) -> str:
    if row is None:
        return ""
    least, middle, most = (f(row["repeats"]) for f in (min, statistics.median, max))
    refused = ", some unanswered" if row["refused"] else ""
    return f"{row['of_bare']:.2f} ({middle:.3g}, {least:.3g} to {most:.3g}{refused})"


def _rows(results: Path) -> list[Result]:
    """Of all servers over all models."""
    return _of(results, "rows")


def _of(results: Path, kind: str) -> list[Result]:
    """Rows or curves, of all servers over all models."""
    return [each for run in _read(results, "peers")["runs"] for each in run[kind]]


def _beside(results: Path) -> Iterator[tuple[str, float, float, tuple[str, float]]]:
    """Yield comparisons with the best other server: name, wanted ratio, own figure, the best one.

    Rates are shares of the bare loop, which ran before and after each server, because the speed of the machine varies.
    """
    size = _rows(results)[0]["size"]
    for model, wanted in (("bundled", 0.9), ("cascade", 1.0)):
        rates = {
            row["server"]: row["of_bare"] for row in _rows(results) if (row["model"], row["size"]) == (model, size)
        }
        yield f"saturated, {model}", wanted, rates[OURS], _best(rates)
    late = {curve["server"]: curve["goodput"] for curve in _of(results, "curves") if curve["model"] == "bundled"}
    yield "in time at 1.5x, of the saturated rate, bundled", 2.0, late[OURS], _best(late)


def _best(values: dict[str, float]) -> tuple[str, float]:
    """Of the others."""
    others = {server: value for server, value in values.items() if not server.startswith("roadwork-serve")}
    return max(others.items(), key=lambda each: each[1])


def _read(results: Path, name: str) -> Result:
    return json.loads((results / f"{name}.json").read_text())


def _unique(values: Iterable[T]) -> list[T]:
    return list(dict.fromkeys(values))


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    rows = [heads, ["---"] * len(heads), *lines]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def main() -> int:
    """0 when every page has what the results say, or has got it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 when a page is out of date")
    check = parser.parse_args().check
    old = [page for page in PAGES if written(page.read_text()) != page.read_text()]
    for page in old:
        if check:
            print(f"{page} quotes other figures than benchmarks/results has: run `make tables`", file=sys.stderr)
        else:
            page.write_text(written(page.read_text()))
    return int(check and bool(old))


if __name__ == "__main__":
    sys.exit(main())
