"""Plots a run: the duration of every request over time, and the kills."""

from pathlib import Path

from benchmarks.chaos.drive import ChaosRun
from benchmarks.chaos.outcomes import Record

# Okabe and Ito, distinguishable for colour-blind readers.
COLOURS = {
    "answered": "#0072b2",
    "degraded": "#e69f00",
    "refused": "#999999",
    "client error": "#009e73",
    "broken": "#d55e00",
}
_OUTCOMES = {"refused": "refused", "cut off": "refused", "client error": "client error"}


def plot(run: ChaosRun, deadline_s: float, path: Path) -> None:
    """Write the plot as PNG. Raises ImportError without matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained", dpi=110)
    axes = figure.subplots()
    for category, colour in COLOURS.items():
        found = [record for record in run.observations.records if _category(record) == category]
        if found:
            sent, durations = [r.sent_s for r in found], [max(r.took_s, 1e-3) for r in found]
            axes.scatter(
                sent, durations, s=5, color=colour, label=f"{category} ({len(found)})", linewidths=0, alpha=0.7
            )
    for span in run.spans:
        if span.name.endswith("faults"):
            axes.axvspan(span.began_s, span.ended_s, color="0.93", zorder=0)
        axes.text((span.began_s + span.ended_s) / 2, 1.01, span.name.replace(" ", "\n"), ha="center", fontsize=8,
                  transform=axes.get_xaxis_transform())  # fmt: skip
    for kill in run.observations.kills:
        axes.axvline(kill.killed_s, color="0.25", linewidth=0.8)
        axes.text(kill.killed_s, 0.01, f" {kill.target}", rotation=90, fontsize=7, va="bottom", ha="right",
                  transform=axes.get_xaxis_transform())  # fmt: skip
        if kill.recovered_s is not None:
            axes.axvline(kill.recovered_s, color="0.25", linewidth=0.6, linestyle=":")
    axes.axhline(deadline_s, color="0.4", linewidth=0.8, linestyle="--")
    axes.set_yscale("log")
    axes.set(xlabel="seconds; solid: a process is killed, dotted: it has recovered", ylabel="duration of a request, s")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, ncols=5, loc="upper center", bbox_to_anchor=(0.5, -0.1), markerscale=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _category(record: Record) -> str:
    if record.outcome == "answered":
        return "degraded" if record.verdict and record.verdict.degraded else "answered"
    return _OUTCOMES.get(record.outcome, "broken")
