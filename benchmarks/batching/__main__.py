"""Compare the batcher with Ray Serve's `@serve.batch` and with the best possible: `python -m benchmarks.batching`.

The model is only a service time: a call takes a fixed time plus a time per item, one call at a time, at most 16 items.
Three such models receive Poisson arrivals at several loads, relative to their rate with full batches. All batchers see
the same arrivals. Each run starts with an idle model, after warm-up items that are not counted. Latency is counted from
the time an item is due. Time is virtual, so the processor time of a batcher is not in the latencies; it is reported
separately.

The best possible schedule knows all arrivals in advance; no batcher can have a lower mean (see
`bound.optimal_schedule`). The best simple rule shows what can be reached without that knowledge: wait for a number of
items, or take at most a number, whichever number is best for the model and load. `@serve.batch` runs with its default
wait, with none, and with the best of a sweep for each model and load, which nobody could set in advance. Once its wait
is over, a batch keeps its size, however long the model is still busy. It runs without the limit on ongoing requests
that a replica has. Deadlines are ample and nothing fails, so neither is tested here.
"""

import argparse
import math
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.batching.figures import (
    BEST,
    NAMES,
    OURS,
    RULE,
    SERVE_BATCH,
    SERVE_BATCH_NO_WAIT,
    SERVE_BATCH_TUNED,
    WARMUP,
    Cell,
    Row,
)
from benchmarks.batching.model import MODELS, Model
from benchmarks.environment import Environment
from benchmarks.server import ROOT
from roadwork_serve.atomic_write import write_json

OUT = ROOT / "benchmarks/results/batching.json"
LOADS, COUNT, SEEDS = (0.3, 0.5, 0.7, 0.85, 0.95), 3000, 5
QUICK = ((0.5, 0.85), 300, 2)
STYLES = {
    BEST: ("black", "--", ""), RULE: ("#009e73", ":", ""), OURS: ("#0072b2", "-", "o"),
    SERVE_BATCH_TUNED: ("#e69f00", "-", "s"), SERVE_BATCH: ("#d55e00", "-", "D"),
    SERVE_BATCH_NO_WAIT: ("#cc79a7", "-", "^"),
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the results, and write them with a plot."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.batching", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a run of seconds, written to build/")
    parser.add_argument(
        "--out", type=Path, help="result file; benchmarks/results/batching.json, or build/batching.json with --quick"
    )
    args = parser.parse_args(arguments)
    out: Path = args.out or (ROOT / "build/batching.json" if args.quick else OUT)
    loads, count, seeds = QUICK if args.quick else (LOADS, COUNT, SEEDS)
    command = shlex.join(["python", "-m", "benchmarks.batching", *(sys.argv[1:] if arguments is None else arguments)])
    environment, console, began = Environment.here(command), Console(width=150), time.monotonic()
    rows: list[Row] = []
    for model in MODELS:
        for load in loads:
            console.print(f"{model.name} at {load:.0%} ...")
            rows += Cell.of(model, load, count, seeds).rows()
    for model in MODELS:
        console.print(table(model, [row for row in rows if row.model == model.name]))
    result = {
        "environment": asdict(environment),
        "items": count,
        "warmup_items": WARMUP,
        "seeds": seeds,
        "models": [asdict(model) | {"full_per_s": round(model.full_per_s, 2)} for model in MODELS],
        "rows": [asdict(row) for row in rows],
    }
    write_json(out, result)
    plot(rows, out.with_suffix(".png"))
    console.print(f"Written to {out}, with a plot beside it, after {time.monotonic() - began:.0f} s.")
    return 0


def table(model: Model, rows: Sequence[Row]) -> Table:
    """Return a table: for each batcher the mean latency, relative to the best possible, and items per call."""
    service_time = f"{model.fixed_us / 1000:g} ms + {model.item_us / 1000:g} ms per item"
    title = f"{model.name}: {service_time}, at most {model.full_per_s:.0f}/s"
    view = Table("load", *NAMES, title=title + "; mean latency, relative to the best possible, items per call")
    for load in sorted({row.load for row in rows}):
        named = {row.contender: row for row in rows if row.load == load}
        view.add_row(f"{load:.0%}", *(_cell(named[name]) for name in NAMES))
    return view


def _cell(row: Row) -> str:
    setting = f"\n{row.setting}" if row.setting else ""
    if not row.keeps_up:
        return f"falls behind\n{row.batch_size.median:.1f} per call{setting}"
    over = f" ({row.over_best.median:.2f}x)" if row.contender != BEST else ""
    return f"{row.mean_ms.median:.1f} ms{over}\n{row.batch_size.median:.1f} per call{setting}"


def plot(rows: Sequence[Row], path: Path) -> None:
    """Plot mean latency over load, one panel per model. Batchers that cannot keep up are marked at the upper edge."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5.2), layout="constrained", dpi=110)
    panels = figure.subplots(1, len(MODELS))
    for panel, model in zip(panels, MODELS, strict=True):
        own = [row for row in rows if row.model == model.name]
        stable = [row.mean_ms.median for row in own if row.keeps_up]
        low, high = min(stable) / 1.2, 2.0 * max(stable)
        for order, (name, (colour, line, marker)) in enumerate(STYLES.items()):
            selected = [row for row in own if row.contender == name]
            level = [row.mean_ms.median if row.keeps_up else math.nan for row in selected]
            style = {"color": colour, "marker": marker, "ms": 6, "mfc": "none", "zorder": 9 - order}
            panel.plot([100 * row.load for row in selected], level, line, label=name, **style)
            overloaded = [100 * row.load for row in selected if not row.keeps_up]
            panel.plot(overloaded, [high / 1.08 ** (NAMES.index(name) + 1)] * len(overloaded), "x", color=colour, ms=6)
        panel.set(yscale="log", ylim=(low, high), xlim=(27, 98), xlabel="load, % of the rate of full batches")
        ticks = [each for each in (20, 30, 40, 50, 70, 100, 150, 200, 300, 400, 600) if low <= each <= high]
        panel.set_yticks(ticks, [str(each) for each in ticks])
        panel.set_yticks([], minor=True)
        panel.set_title(
            f"{model.name}: {model.fixed_us / 1000:g} ms + {model.item_us / 1000:g} ms per item", fontsize=10
        )
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("mean latency, ms")
    handles, labels = panels[0].get_legend_handles_labels()
    title = "a cross: cannot keep up, so the queue keeps growing"
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9, title=title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


if __name__ == "__main__":
    sys.exit(main())
