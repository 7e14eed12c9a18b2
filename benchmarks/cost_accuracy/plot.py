"""Plots accuracy over compute, one panel for each set of items."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.cost_accuracy.comparison import Comparison

# Okabe and Ito, distinguishable for colour-blind readers.
COLOURS = ("#000000", "#56b4e9", "#cc79a7", "#009e73", "#e69f00", "#d55e00", "#0072b2", "#0072b2")
MARKS = ("o", "s", "^", "h", "X", "v", "*", "D")
LINES = {"frugal": ("FrugalGPT, by budget", "#d55e00"), "bands": ("the policy, by exit bands", "#0072b2")}


def plot(results: Mapping[str, Comparison], path: Path) -> None:
    """Write the plot as PNG. The keys of `results` are the titles of the panels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.6 * len(results), 6.4), layout="constrained", dpi=110)
    panels = figure.subplots(1, len(results), squeeze=False)[0]
    for axes, (title, result) in zip(panels, results.items(), strict=True):
        _panel(axes, title, result)
    handles = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    columns = 2 * len(results)
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    figure.savefig(path)


def _panel(axes: Any, title: str, result: Comparison) -> None:
    for part, (label, colour) in LINES.items():
        front = getattr(result, part)
        axes.plot([p.tflop for p in front], [p.accuracy for p in front], ".-", color=colour, alpha=0.35, label=label)
    for each, colour, mark in zip(result.methods, COLOURS, MARKS, strict=False):
        interval = [[each.accuracy - each.low], [each.high - each.accuracy]]
        axes.errorbar(
            [each.tflop], [each.accuracy], interval, fmt=mark, color=colour, markersize=8, elinewidth=1, label=each.name
        )
    if result.majority_baseline > min(each.accuracy for each in result.methods):
        axes.axhline(result.majority_baseline, color="0.4", linestyle=":", label="majority class")
    axes.set_title(title, fontsize=10)
    axes.set(xlabel="TFLOP per item, production models", ylabel="accuracy, miniatures", xscale="log")
    axes.set_xticks(ticks := [0.1, 0.2, 0.5, 1, 2, 5, 10, 20], [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
