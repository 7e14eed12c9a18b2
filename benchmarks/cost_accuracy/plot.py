"""Accuracy against compute as a picture, a panel for each set of items."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.cost_accuracy.places import Found

# Okabe and Ito: told apart by colour-blind readers, too.
COLOURS = ("#000000", "#56b4e9", "#cc79a7", "#009e73", "#e69f00", "#d55e00", "#0072b2", "#0072b2")
MARKS = ("o", "s", "^", "h", "X", "v", "*", "D")
LINES = {"frugal": ("FrugalGPT, each budget", "#d55e00"), "bands": ("the policy, hasty to careful", "#0072b2")}


def plot(judged: Mapping[str, Found], path: Path) -> None:
    """Write a PNG. judged: by the title of its panel."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.6 * len(judged), 6.4), layout="constrained", dpi=110)
    panels = figure.subplots(1, len(judged), squeeze=False)[0]
    for axes, (title, found) in zip(panels, judged.items(), strict=True):
        _panel(axes, title, found)
    named = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    columns = 2 * len(judged)
    figure.legend(named.values(), named, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    figure.savefig(path)


def _panel(axes: Any, title: str, found: Found) -> None:
    for part, (label, colour) in LINES.items():
        line = getattr(found, part)
        axes.plot([p.tflop for p in line], [p.accuracy for p in line], ".-", color=colour, alpha=0.35, label=label)
    for each, colour, mark in zip(found.places, COLOURS, MARKS, strict=False):
        reach = [[each.accuracy - each.low], [each.high - each.accuracy]]
        axes.errorbar(
            [each.tflop], [each.accuracy], reach, fmt=mark, color=colour, markersize=8, elinewidth=1, label=each.name
        )
    if found.always > min(each.accuracy for each in found.places):
        axes.axhline(found.always, color="0.4", linestyle=":", label="always the commoner answer")
    axes.set_title(title, fontsize=10)
    axes.set(xlabel="TFLOP an item, of the production models", ylabel="accuracy, of the miniatures", xscale="log")
    axes.set_xticks(ticks := [0.1, 0.2, 0.5, 1, 2, 5, 10, 20], [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
