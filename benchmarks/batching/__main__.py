"""`python -m benchmarks.batching`: the batcher alone, against Ray Serve's `@serve.batch` and the best there is.

The model is only a time: a call takes so long and so much more an item, one call at a time, 16 items at most. Three
shapes of it get Poisson arrivals at shares of what they do in full batches. All contenders see the very same arrivals,
each from a model at rest, after others that are not counted; latency counts from when an item is due. Time is virtual,
so what a batcher takes of the processor itself is not in the latencies, and stands beside them.

The best possible knows all arrivals beforehand, and nobody can have a lower mean (see `bound.best`). How near one can
come without knowing is shown by the best simple rule: wait for so many items, or take so many at most, whichever number
turned out best for the model and load. `@serve.batch` has its default wait, none, and the one that turned out best of
a sweep, anew for each model and load, which nobody could set beforehand; what it holds when its wait is over stays a
batch of that size, however long the model is still busy. It is spared the limit of ongoing requests that a replica has.
Deadlines are ample and nothing fails, so neither is tried here.
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

from benchmarks.batching.figures import BEST, NAMES, OURS, RAYS, RAYS_NONE, RAYS_TUNED, RULE, WARM, Cell, Row
from benchmarks.batching.model import MODELS, Model
from benchmarks.environment import Environment
from benchmarks.server import ROOT
from roadwork_serve.atomic_write import write_json

OUT = ROOT / "benchmarks/results/batching.json"
SHARES, COUNT, SEEDS = (0.3, 0.5, 0.7, 0.85, 0.95), 3000, 5
QUICK = ((0.5, 0.85), 300, 2)
STYLES = {
    BEST: ("black", "--", ""), RULE: ("#009e73", ":", ""), OURS: ("#0072b2", "-", "o"),
    RAYS_TUNED: ("#e69f00", "-", "s"), RAYS: ("#d55e00", "-", "D"), RAYS_NONE: ("#cc79a7", "-", "^"),
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write the JSON and a picture beside it."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.batching", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="seconds in place of minutes, into build/")
    parser.add_argument("--out", type=Path, help="JSON; benchmarks/results/batching.json, or build/batching.json")
    chosen = parser.parse_args(arguments)
    out: Path = chosen.out or (ROOT / "build/batching.json" if chosen.quick else OUT)
    shares, count, seeds = QUICK if chosen.quick else (SHARES, COUNT, SEEDS)
    command = shlex.join(["python", "-m", "benchmarks.batching", *(sys.argv[1:] if arguments is None else arguments)])
    environment, console, began = Environment.here(command), Console(width=150), time.monotonic()
    rows: list[Row] = []
    for model in MODELS:
        for share in shares:
            console.print(f"{model.name} at {share:.0%} ...")
            rows += Cell.of(model, share, count, seeds).rows()
    for model in MODELS:
        console.print(table(model, [row for row in rows if row.model == model.name]))
    result = {
        "environment": asdict(environment),
        "items": count,
        "warm": WARM,
        "seeds": seeds,
        "models": [asdict(model) | {"full_per_s": round(model.full_per_s, 2)} for model in MODELS],
        "rows": [asdict(row) for row in rows],
    }
    write_json(out, result)
    plot(rows, out.with_suffix(".png"))
    console.print(f"Written to {out}, with a picture beside it, after {time.monotonic() - began:.0f} s.")
    return 0


def table(model: Model, rows: Sequence[Row]) -> Table:
    """For people: of each contender the mean latency, that over the best possible's, and items a call."""
    title = (
        f"{model.name}: {model.fixed_us / 1000:g} ms + {model.item_us / 1000:g} ms an item, {model.full_per_s:.0f}/s"
    )
    view = Table("load", *NAMES, title=title + "; mean latency, over the best possible's, items a call")
    for share in sorted({row.share for row in rows}):
        named = {row.contender: row for row in rows if row.share == share}
        view.add_row(f"{share:.0%}", *(_cell(named[name]) for name in NAMES))
    return view


def _cell(row: Row) -> str:
    setting = f"\n{row.setting}" if row.setting else ""
    if not row.keeps_up:
        return f"falls behind\n{row.batch.median:.1f} a call{setting}"
    over = f" ({row.over_best.median:.2f}x)" if row.contender != BEST else ""
    return f"{row.mean_ms.median:.1f} ms{over}\n{row.batch.median:.1f} a call{setting}"


def plot(rows: Sequence[Row], path: Path) -> None:
    """Mean latency against load, a panel a model. Who falls behind stands at the upper edge."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5.2), layout="constrained", dpi=110)
    panels = figure.subplots(1, len(MODELS))
    for panel, model in zip(panels, MODELS, strict=True):
        own = [row for row in rows if row.model == model.name]
        kept = [row.mean_ms.median for row in own if row.keeps_up]
        low, high = min(kept) / 1.2, 2.0 * max(kept)
        for order, (name, (colour, line, marker)) in enumerate(STYLES.items()):
            mine = [row for row in own if row.contender == name]
            level = [row.mean_ms.median if row.keeps_up else math.nan for row in mine]
            drawn = {"color": colour, "marker": marker, "ms": 6, "mfc": "none", "zorder": 9 - order}
            panel.plot([100 * row.share for row in mine], level, line, label=name, **drawn)
            lost = [100 * row.share for row in mine if not row.keeps_up]
            panel.plot(lost, [high / 1.08 ** (NAMES.index(name) + 1)] * len(lost), "x", color=colour, ms=6)
        panel.set(yscale="log", ylim=(low, high), xlim=(27, 98), xlabel="load, % of what full batches do")
        ticks = [each for each in (20, 30, 40, 50, 70, 100, 150, 200, 300, 400, 600) if low <= each <= high]
        panel.set_yticks(ticks, [str(each) for each in ticks])
        panel.set_yticks([], minor=True)
        panel.set_title(
            f"{model.name}: {model.fixed_us / 1000:g} ms + {model.item_us / 1000:g} ms an item", fontsize=10
        )
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("mean latency, ms")
    handles, labels = panels[0].get_legend_handles_labels()
    title = "a cross: falls further behind the longer it runs"
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9, title=title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


if __name__ == "__main__":
    sys.exit(main())
