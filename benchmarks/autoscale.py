"""Compare the cascade's autoscaling with Ray Serve's own policy: `python -m benchmarks.autoscale`.

Both policies see the same simulated days and place replicas on the same GPUs. Ray's policy is the code of the installed
Ray. It scales each deployment separately, with its default delays and with shorter ones. Its target is swept, which
gives a curve of missed deadlines over GPU-hours. The cascade's policy is compared with that curve at equal GPU-hours
and at an equal share of missed deadlines. All service times and the traffic are assumptions, recorded in the result.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.table import Table

from benchmarks.autoscaling_sim.policies import Cascade, RayDefault, RaySettings
from benchmarks.autoscaling_sim.simulate import Day, Simulation
from benchmarks.autoscaling_sim.world import DAY_S, World, traffic
from benchmarks.environment import Environment
from benchmarks.server import ROOT
from roadwork_serve.autoscaling.replicas import DEFAULT_SCALING, ScalingSettings

RESULT = ROOT / "benchmarks/results/autoscale.json"
UTILISATIONS = (0.9, 0.8, 0.7, 0.6, 0.5)
TARGETS = (1.2, 1.0, 0.85, 0.7, 0.6, 0.5)
DELAYS = {"Ray, default delays": (30.0, 600.0), "Ray, delays of 0 and 300 s": (0.0, 300.0)}
OURS = "cascade"


@dataclass(frozen=True, slots=True)
class Point:
    """A policy with one setting, averaged over the days."""

    policy: str
    #: Target utilization of the cascade's policy, or target of Ray's.
    setting: float
    #: GPU shares reserved by replicas, per day.
    gpu_hours: float
    #: Hours of GPUs with at least one replica, per day.
    occupied_gpu_hours: float
    missed_share: float
    #: Replicas started.
    starts: float
    p99_s: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The cascade's policy as shipped, compared with one of Ray's curves."""

    #: Name of Ray's curve.
    curve: str
    #: Fraction of missed deadlines saved at equal GPU-hours, or at Ray's minimum if that is higher.
    missed_reduction: float
    #: Fraction of GPU-hours saved at an equal share of missed deadlines.
    gpu_hours_reduction: float


def main() -> None:
    """Simulate, print the results, and write them with a plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=3, help="number of days, with seeds 1 to N")
    parser.add_argument("--length", type=float, default=DAY_S, help="length of a day in seconds")
    parser.add_argument("--out", type=Path, default=RESULT, help="result file; the plot is written beside it")
    args = parser.parse_args()
    world, seeds = World(), range(1, args.days + 1)
    environment = Environment.here("python -m benchmarks.autoscale")
    points, shipped = run_sweep(world, seeds, args.length)
    comparisons = [compare(points, name) for name in DELAYS]
    show(points, comparisons)
    result = {
        "environment": asdict(environment),
        "assumptions": asdict(world) | {"days": args.days, "length_s": args.length},
        "shipped": asdict(DEFAULT_SCALING),
        "points": [asdict(point) for point in points],
        "comparisons": [asdict(each) for each in comparisons],
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    plot(points, shipped, args.out.with_suffix(".png"))


def run_sweep(world: World, seeds: Sequence[int], length_s: float) -> tuple[list[Point], Day]:
    """Simulate every policy with every setting. Returns the points and the first day under the cascade's as shipped."""
    settings: list[tuple[str, float]] = [(OURS, each) for each in UTILISATIONS]
    settings += [(name, each) for name in DELAYS for each in TARGETS]
    runs = [(world, seed, length_s, name, setting) for name, setting in settings for seed in seeds]
    with ProcessPoolExecutor() as pool:
        days = dict(zip([run[1:] for run in runs], pool.map(_day, runs), strict=True))
    points = [
        _point(name, setting, [days[seed, length_s, name, setting] for seed in seeds]) for name, setting in settings
    ]
    return points, days[seeds[0], length_s, OURS, DEFAULT_SCALING.target_utilization]


def _day(run: tuple[World, int, float, str, float]) -> Day:
    world, seed, length_s, name, setting = run
    if name == OURS:
        policy = Cascade(world, replace(DEFAULT_SCALING, target_utilization=setting))
    else:
        policy = RayDefault(world, RaySettings(setting, *DELAYS[name]))
    return Simulation(world, policy).run(traffic(world, seed, length_s))


def _point(name: str, setting: float, days: Sequence[Day]) -> Point:
    return Point(
        name,
        setting,
        gpu_hours=fmean(day.gpu_hours for day in days),
        occupied_gpu_hours=fmean(day.occupied_gpu_hours for day in days),
        missed_share=fmean(day.missed_share for day in days),
        starts=fmean(day.starts for day in days),
        p99_s=fmean(day.latency_s[1] for day in days),
    )


def compare(points: Sequence[Point], curve: str, settings: ScalingSettings = DEFAULT_SCALING) -> Comparison:
    """Return the comparison of the cascade's policy, as shipped, with one of Ray's curves."""
    ours = next(point for point in points if point.policy == OURS and point.setting == settings.target_utilization)
    theirs = [(point.gpu_hours, point.missed_share) for point in points if point.policy == curve]
    missed = interpolate(pareto_front(theirs), ours.gpu_hours)
    hours = interpolate(pareto_front([(miss, hours) for hours, miss in theirs]), ours.missed_share)
    return Comparison(curve, 1 - ours.missed_share / missed, 1 - ours.gpu_hours / hours)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points that no other beats in both coordinates, sorted by the first; lower is better."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not front or y < front[-1][1]:
            front.append((x, y))
    return front


def interpolate(curve: Sequence[tuple[float, float]], x: float) -> float:
    """Return the linear interpolation of a curve at x; beyond its ends, the value of the end."""
    if x <= curve[0][0]:
        return curve[0][1]
    for (x0, y0), (x1, y1) in pairwise(curve):
        if x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return curve[-1][1]


def show(points: Sequence[Point], comparisons: Sequence[Comparison]) -> None:
    """Print the points and the comparisons."""
    table = Table("policy", "setting", "GPU-hours", "GPU-hours in use", "deadlines missed", "replica starts", "p99, s")
    for point in points:
        table.add_row(
            point.policy, f"{point.setting:g}", f"{point.gpu_hours:.1f}", f"{point.occupied_gpu_hours:.1f}",
            f"{point.missed_share:.3%}", f"{point.starts:.0f}", f"{point.p99_s:.1f}",
        )  # fmt: skip
    console = Console(width=120)
    console.print(table)
    for each in comparisons:
        console.print(
            f"Comparison {each.curve}: {each.missed_reduction:.0%} fewer missed deadlines at equal GPU-hours, "
            f"{each.gpu_hours_reduction:.0%} fewer GPU-hours at an equal share of missed deadlines."
        )


def plot(points: Sequence[Point], day: Day, path: Path) -> None:
    """Plot the curves, and one day under the cascade's policy."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.5), layout="constrained", dpi=110)
    left, right = figure.subplots(1, 2)
    for name, colour, marker in zip((OURS, *DELAYS), ("#0072b2", "#d55e00", "#e69f00"), "osD", strict=True):
        own = [point for point in points if point.policy == name]
        left.plot(
            [p.gpu_hours for p in own], [100 * p.missed_share for p in own], marker + "-", color=colour, label=name
        )
    left.set(xlabel="GPU-hours per day", ylabel="deadlines missed, %", yscale="log")
    left.legend(frameon=False)
    hours = [at / 4 for at in range(len(day.quarters))]
    right.plot(hours, [rate for rate, _, _ in day.quarters], color="0.6", label="items per second")
    right.set(xlabel="hour of the day", ylabel="items per second", xlim=(0, max(1.0, math.ceil(hours[-1]))))
    gpus = right.twinx()
    gpus.step(
        hours, [reserved for _, reserved, _ in day.quarters], color="#0072b2", where="post", label="GPUs reserved"
    )
    gpus.set_ylabel("GPUs reserved", color="#0072b2")
    gpus.set_ylim(bottom=0)
    for axes in (left, right, gpus):
        axes.spines["top"].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


if __name__ == "__main__":
    sys.exit(main())
