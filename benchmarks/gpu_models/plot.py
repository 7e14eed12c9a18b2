"""Plots the results of a GPU: stage 1 by batch, and the latency of each stage."""

from pathlib import Path
from typing import Any

from benchmarks.gpu_models.results import Cascade, Estimate, Results

COLOURS = ("#0072b2", "#009e73", "#d55e00")  # Okabe and Ito, distinguishable for colour-blind readers
STYLES = {"eager": ":", "compiled": "-", "graphs": "--", "tensorrt": "-."}
MODES = {"eager": "eager", "compiled": "torch.compile", "graphs": "torch.compile, CUDA graphs", "tensorrt": "TensorRT"}


def plot(results: Results, path: Path) -> None:
    """Write the plot as PNG. Raises ImportError without matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5.2), layout="constrained", dpi=150)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.1))
    _stage1(left, results)
    _stages(right, results)
    last = results.runs[-1]
    figure.suptitle(
        f"{results.gpu}: random weights at full size, {last.dtype}"
        if "tiny" not in results.gpu
        else f"{results.gpu}: a rehearsal with toy models; the numbers mean nothing"
    )
    figure.savefig(path)


def _stage1(axes: Any, results: Results) -> None:
    rows = [row for row in results.rows if row.case.part == "stage1"]
    sides = sorted({row.case.side for row in rows})
    for side, colour in zip(sides, COLOURS, strict=False):
        for mode, style in STYLES.items():
            line = sorted((r.case.batch, r.per_s) for r in rows if (r.case.side, r.case.mode) == (side, mode))
            if line:
                axes.plot(*zip(*line, strict=True), style, marker="o", markersize=3, color=colour)
    for side, colour in zip(sides, COLOURS, strict=False):
        axes.plot([], [], "-", color=colour, label=f"{side} px")
    for mode in dict.fromkeys(row.case.mode for row in rows):
        axes.plot([], [], STYLES[mode], color="0.3", label=MODES[mode])
    batches = sorted({row.case.batch for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(batches, [str(b) for b in batches])
    axes.set_ylim(bottom=0)
    axes.set(title="Stage 1, sequential batches", xlabel="batch", ylabel="images per second")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if rows:
        axes.legend(frameon=False, fontsize=9, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.12))


def _stages(axes: Any, results: Results) -> None:
    bars = _bars(results.cascade) if results.cascade else _single(results)
    names, values, colours = [list(column) for column in zip(*bars, strict=True)] if bars else ([], [], [])
    chart = axes.barh(range(len(bars)), values, color=colours, height=0.7)
    axes.bar_label(chart, [f"{ms:.3g} ms" if ms < 1000 else f"{ms / 1000:.2f} s" for ms in values], padding=4)
    axes.set_yticks(range(len(bars)), names)
    axes.invert_yaxis()
    axes.margins(x=0.16)
    axes.set(title="Latency of one item with transformers, without queueing", xlabel="milliseconds")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)


def _bars(cascade: Cascade) -> list[tuple[str, float, str]]:
    """Return (name, milliseconds, colour): the measured stages, then the computed total of a still or a clip."""
    bars: list[tuple[str, float, str]] = []
    kinds: tuple[tuple[str, Estimate, str], ...] = (("still", cascade.photo, COLOURS[0]),
                                                    ("clip", cascade.clip, COLOURS[2]))  # fmt: skip
    for kind, result, colour in kinds:
        bars += [(f"{stage}, {kind}", ms, colour) for stage, ms in result.stage_ms.items()]
        mean = result.mean_ms if result.mean_ms is not None else result.upper.mean_ms
        bars.append((f"whole cascade, {kind}\n(computed mean)", mean, "0.45"))
    return bars


def _single(results: Results) -> list[tuple[str, float, str]]:
    """Return a bar for each case with one item, except stage 1, if there is no estimate."""
    return [
        (f"{row.case.part}, {row.case.side} px, {row.case.new_tokens} tokens", row.timing.median_ms, COLOURS[0])
        for row in results.rows
        if row.case.batch == 1 and row.case.part != "stage1"
    ]
