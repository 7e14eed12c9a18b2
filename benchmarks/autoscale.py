"""`python -m benchmarks.autoscale`: the cascade scaled as one against Ray Serve's own policy, over simulated days.

Both see the same items in the same days and place replicas on the same cards. Ray's policy is the code of the Ray that
is installed, deployment by deployment, with its delays as they are by default and with quicker ones; how much it keeps
free is swept, so that it has a curve of missed deadlines over GPU-hours, and the cascade's is held against that curve
at equal GPU-hours and at equal misses. Every service time and the day itself are assumptions, and stand in the result.
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

from benchmarks.autoscaling_sim.policies import Cascade, Default, RaySettings
from benchmarks.autoscaling_sim.simulate import Day, Simulation
from benchmarks.autoscaling_sim.world import DAY_S, World, traffic
from benchmarks.environment import Environment
from benchmarks.server import ROOT
from roadwork_serve.autoscaling.replicas import DEFAULT_SCALING, ScalingSettings

RESULT = ROOT / "benchmarks/results/autoscale.json"
UTILISATIONS = (0.9, 0.8, 0.7, 0.6, 0.5)
TARGETS = (1.2, 1.0, 0.85, 0.7, 0.6, 0.5)
DELAYS = {"Ray, its own delays": (30.0, 600.0), "Ray, delays of 0 and 300 s": (0.0, 300.0)}
OURS = "cascade"


@dataclass(frozen=True, slots=True)
class Point:
    """A policy with one setting: the mean of its days."""

    policy: str
    setting: float
    gpu_hours: float
    card_hours: float
    missed_share: float
    starts: float
    p99_s: float


@dataclass(frozen=True, slots=True)
class Against:
    """The cascade as it ships, compared with a curve of Ray's."""

    curve: str
    #: Share of missed deadlines saved at equal GPU-hours, or at Ray's minimum if that is higher.
    fewer_missed: float
    #: Share of GPU-hours saved at equal misses.
    fewer_hours: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=3, help="seeds 1 to N")
    parser.add_argument("--length", type=float, default=DAY_S, help="of a day, seconds")
    parser.add_argument("--json", type=Path, default=RESULT)
    args = parser.parse_args()
    world, seeds = World(), range(1, args.days + 1)
    environment = Environment.here("python -m benchmarks.autoscale")
    points, shipped = measured(world, seeds, args.length)
    told = [against(points, name) for name in DELAYS]
    show(points, told)
    result = {
        "environment": asdict(environment),
        "assumed": asdict(world) | {"days": args.days, "length_s": args.length},
        "shipped": asdict(DEFAULT_SCALING),
        "points": [asdict(point) for point in points],
        "against": [asdict(each) for each in told],
    }
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(result, indent=2) + "\n")
    plot(points, shipped, args.json.with_suffix(".png"))


def measured(world: World, seeds: Sequence[int], length_s: float) -> tuple[list[Point], Day]:
    """Every policy with every setting, and the first day under the cascade's as it ships."""
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
        policy = Default(world, RaySettings(setting, *DELAYS[name]))
    return Simulation(world, policy).run(traffic(world, seed, length_s))


def _point(name: str, setting: float, days: Sequence[Day]) -> Point:
    return Point(
        name,
        setting,
        gpu_hours=fmean(day.gpu_hours for day in days),
        card_hours=fmean(day.card_hours for day in days),
        missed_share=fmean(day.missed_share for day in days),
        starts=fmean(day.starts for day in days),
        p99_s=fmean(day.waits_s[1] for day in days),
    )


def against(points: Sequence[Point], curve: str, settings: ScalingSettings = DEFAULT_SCALING) -> Against:
    """Return the cascade's point as it ships, held against a curve."""
    ours = next(point for point in points if point.policy == OURS and point.setting == settings.target_utilization)
    theirs = [(point.gpu_hours, point.missed_share) for point in points if point.policy == curve]
    missed = between(best(theirs), ours.gpu_hours)
    hours = between(best([(miss, hours) for hours, miss in theirs]), ours.missed_share)
    return Against(curve, 1 - ours.missed_share / missed, 1 - ours.gpu_hours / hours)


def best(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those that no other beats in both coordinates, by the first; less is better."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not front or y < front[-1][1]:
            front.append((x, y))
    return front


def between(curve: Sequence[tuple[float, float]], x: float) -> float:
    """Return the linear interpolation of a curve at x; beyond its ends, the value of the end."""
    if x <= curve[0][0]:
        return curve[0][1]
    for (x0, y0), (x1, y1) in pairwise(curve):
        if x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return curve[-1][1]


def show(points: Sequence[Point], told: Sequence[Against]) -> None:
    """Print both."""
    table = Table("policy", "setting", "GPU-hours", "card-hours", "missed", "starts", "p99, s")
    for point in points:
        table.add_row(
            point.policy, f"{point.setting:g}", f"{point.gpu_hours:.1f}", f"{point.card_hours:.1f}",
            f"{point.missed_share:.3%}", f"{point.starts:.0f}", f"{point.p99_s:.1f}",
        )  # fmt: skip
    console = Console(width=120)
    console.print(table)
    for each in told:
        console.print(
            f"Against {each.curve}: {each.fewer_missed:.0%} fewer missed deadlines at equal GPU-hours, "
            f"{each.fewer_hours:.0%} fewer GPU-hours at equal misses."
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
    left.set(xlabel="GPU-hours a day", ylabel="deadlines missed, %", yscale="log")
    left.legend(frameon=False)
    hours = [at / 4 for at in range(len(day.hours))]
    right.plot(hours, [rate for rate, _, _ in day.hours], color="0.6", label="items a second")
    right.set(xlabel="hour of the day", ylabel="items a second", xlim=(0, max(1.0, math.ceil(hours[-1]))))
    cards = right.twinx()
    cards.step(hours, [held for _, held, _ in day.hours], color="#0072b2", where="post", label="cards held")
    cards.set_ylabel("cards held", color="#0072b2")
    cards.set_ylim(bottom=0)
    for axes in (left, right, cards):
        axes.spines["top"].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


if __name__ == "__main__":
    sys.exit(main())
