"""Plots the figures of all servers."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.peers.results import Curve, Row


def plot(path: Path, rows: Sequence[Row], curves: Sequence[Curve]) -> None:
    """Plot throughput relative to the bare loop above, and latency over rate below; one panel per model."""
    models = list(dict.fromkeys(row.model for row in rows))
    servers = list(dict.fromkeys(row.server for row in rows))
    colours = {server: f"C{at}" for at, server in enumerate(servers)}
    figure = Figure(figsize=(4.6 * max(2, len(models)), 8.5), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, len(models), squeeze=False)
    for column, model in enumerate(models):
        _shares(grid[0][column], [row for row in rows if row.model == model], servers, colours)
        _latencies(grid[1][column], [curve for curve in curves if curve.model == model], colours)
        grid[0][column].set_title(model)
    handles = [grid[0][0].bar(0, 0, color=colours[server], label=server) for server in servers]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=100)


def _shares(axes: Axes, rows: Sequence[Row], servers: Sequence[str], colours: dict[str, str]) -> None:
    sizes = list(dict.fromkeys(row.size for row in rows))
    width = 0.85 / len(servers)
    for row in rows:
        at = sizes.index(row.size) + (servers.index(row.server) - (len(servers) - 1) / 2) * width
        axes.bar(at, row.relative_throughput, width, color=colours[row.server])
    axes.axhline(1.0, color="grey", linewidth=0.8)
    axes.set_xticks(range(len(sizes)), sizes)
    axes.set(ylabel="throughput relative to the bare loop", xlabel="JPEG")


def _latencies(axes: Axes, curves: Sequence[Curve], colours: dict[str, str]) -> None:
    if not curves:
        axes.set_axis_off()
        return
    for curve in curves:
        colour, every = colours[curve.server], [*curve.points, curve.overload]
        p99_ms = [math.nan if point.p99_ms is None else point.p99_ms for point in every]
        axes.plot([point.offered_per_s for point in every], p99_ms, "o-", color=colour, ms=3)
        axes.plot([curve.overload.offered_per_s], p99_ms[-1:], "X", color=colour, ms=9)
        axes.annotate(
            f"{curve.overload.in_time_per_s:.3g}", (curve.overload.offered_per_s, p99_ms[-1]),
            textcoords="offset points", xytext=(5, 5), fontsize=8, color=colour,
        )  # fmt: skip
    axes.set(
        xlabel=f"offered rate per second, {curves[0].size}\nX: at 1.5x, with its goodput per second",
        ylabel="p99 latency of answers, ms",
        yscale="log",
    )
    axes.grid(alpha=0.3)
