"""Reliability and Pareto diagrams."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from roadwork_serve.calibration.pareto import ParetoFront
from roadwork_serve.calibration.reliability import Panel, bins

# The palette of Okabe and Ito, which colour-blind readers can distinguish.
_BEFORE, _AFTER, _LINE = "#999999", "#0072b2", "#56b4e9"
_POINTS = {"all stages": "#000000", "today": "#e69f00", "tuned": "#009e73", "stage 1 alone": "#cc79a7"}
_OTHER = "#d55e00"
_WIDE = 4  # panels beside each other


def reliability(panels: Sequence[Panel], path: Path) -> None:
    """Write a PNG with a reliability diagram for each stage and the cascade."""
    wide = max(1, min(_WIDE, len(panels)))
    high = max(1, -(-len(panels) // wide))
    figure = Figure(figsize=(3.1 * wide, 3.3 * high), layout="constrained", dpi=110)
    grid = figure.subplots(high, wide, squeeze=False, sharex=True, sharey=True)
    for axes, panel in zip(grid.flat, panels, strict=False):
        axes.plot([0, 1], [0, 1], color="0.8", linewidth=1, zorder=0)
        axes.set_title(f"{panel.media}: {panel.stage} (n = {panel.quality_after.n:,})", fontsize=9)
        for name, probability, quality, colour in (
            ("before", panel.before, panel.quality_before, _BEFORE),
            ("after", panel.after, panel.quality_after, _AFTER),
        ):
            _curve(axes, panel, probability, f"{name}: ECE {quality.ece:.3f}, log loss {quality.log_loss:.3f}", colour)
        axes.legend(frameon=False, fontsize=7, loc="upper left")
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    figure.supxlabel("predicted probability; points show the share of positives with its 90 % interval", fontsize=9)
    figure.supylabel("share with active road work", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def pareto(fronts: Sequence[ParetoFront], path: Path, unit: str, per: float = 1.0) -> None:
    """Write a PNG of accuracy against mean cost per item. unit: label of the cost axis; per: cost of one unit."""
    figure = Figure(figsize=(5.5 * max(1, len(fronts)), 4.2), layout="constrained", dpi=110)
    grid = figure.subplots(1, max(1, len(fronts)), squeeze=False)
    for axes, front in zip(grid.flat, fronts, strict=False):
        path_points = sorted((point.cost / per, point.accuracy) for point in front.path)
        axes.plot(
            *zip(*path_points, strict=True), color=_LINE, linewidth=1.5, marker=".", markersize=3, label="exit bands"
        )
        for point in front.points:
            colour = _POINTS.get(point.name, _OTHER)
            size, marker = (90, "*") if point.name == "tuned" else (40, "o")
            axes.scatter(point.cost / per, point.accuracy, s=size, marker=marker, color=colour,
                         label=f"{point.name}: {point.accuracy:.1%} at {point.cost / per:,.4g}", zorder=3)  # fmt: skip
        axes.set(title=f"{front.media}s", xlabel=f"{unit} per item", ylabel="accuracy")
        axes.set_xscale("log")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _curve(axes: Axes, panel: Panel, probability: object, label: str, colour: str) -> None:
    found = bins(panel.truth, probability)  # pyright: ignore[reportArgumentType]
    x, y = [each.mean_probability for each in found], [each.positive_share for each in found]
    # an interval around a share at its edge may miss the share by a rounding error
    below = [max(0.0, each.positive_share - each.low) for each in found]
    above = [max(0.0, each.high - each.positive_share) for each in found]
    axes.errorbar(x, y, yerr=[below, above], color=colour, linewidth=1.2, elinewidth=0.6, marker="o", markersize=3,
                  label=label)  # fmt: skip
