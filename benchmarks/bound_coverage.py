"""`python -m benchmarks.bound_coverage`: how often `roadwork tune` breaks its promise.

The whole of `tune` is repeated on fresh rows from worlds of which everything is known, and the share of the traffic
that the bands it chose really lose is read off half a million items of the same world. At a bound of 1 % and a
confidence of 0.9 no more than one run in ten may lose more, give or take the luck of that many runs (the binomial's
99.9th percentile). Beside it stands the choice without a proof: the most eager bands whose losses on the rows are
within the bound.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import binom, binomtest

from benchmarks.environment import Environment
from benchmarks.server import ROOT
from roadwork_serve.calibration.threshold_path import threshold_path
from roadwork_serve.calibration.thresholds import TuningSettings, tune
from roadwork_serve.calibration.trajectories import Trajectories
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.datasets.samples import SampleMetadata
from roadwork_serve.evaluation.rows import EvaluationRow, StageRecord
from roadwork_serve.profiles.flops import flops

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
STAGES = ("backbone", "vlm", "reasoner")
_STEPS = [{"stage": stage, "exit": [0, 1], "calibration": {"prior_weight": 0}} for stage in STAGES]
POLICY = Policy.parse({"version": "world", "photo": _STEPS, "clip": [_STEPS[0]]})
WORLD = 500_000  # items that the truth is read off


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """logits: [n, 3], NaN where the stage abstains. truth, weight, group: [n]; a group of -1 is an item by itself."""

    logits: Floats
    truth: Bools
    weight: Floats
    group: NDArray[np.int64]


Draw = Callable[[np.random.Generator, int], Items]


def smooth(rng: np.random.Generator, n: int) -> Items:
    """Every score differs. Each stage knows more than the one before; none is calibrated, and all err."""
    truth = rng.random(n) < 0.4
    sign = np.where(truth, 1.0, -1.0)[:, None]
    logits = rng.normal(np.array([1.4, 2.4, 3.5]) * sign, np.array([1.3, 1.5, 1.6]), (n, 3))
    return Items(logits, truth, np.ones(n), np.full(n, -1))


def tied(rng: np.random.Generator, n: int) -> Items:
    """Scores of six values alone, and a first stage that abstains on a third of the items."""
    made = smooth(rng, n)
    p = np.clip(np.round(5 / (1 + np.exp(-made.logits))) / 5, 0.02, 0.98)
    logits = np.log(p) - np.log1p(-p)
    logits[rng.random(n) < 1 / 3, 0] = math.nan
    return Items(logits, made.truth, made.weight, made.group)


def weighed(rng: np.random.Generator, n: int) -> Items:
    """As `smooth`, but what stage 1 doubts was four times as likely to be drawn as what it is sure of."""
    made = smooth(rng, 4 * n)
    chance = np.where(np.abs(made.logits[:, 0]) < 1, 1.0, 0.25)
    taken = np.flatnonzero(rng.random(4 * n) < chance)[:n]
    return Items(made.logits[taken], made.truth[taken], 1 / chance[taken], made.group[taken])


def grouped(rng: np.random.Generator, n: int) -> Items:
    """As `smooth`, in groups of three that share one truth and most of what the stages say of it."""
    one, own = smooth(rng, -(-n // 3)), rng.normal(0, 0.3, (n, 3))
    which = np.arange(n) // 3
    return Items(one.logits[which] + own, one.truth[which], np.ones(n), which)


DRAWS: dict[str, Draw] = {"smooth": smooth, "tied": tied, "weighed": weighed, "grouped": grouped}
ROWS = {"smooth": 1500, "tied": 1500, "weighed": 2500, "grouped": 3000}  # of each run; the last two test a part of them
TRAFFIC = {"smooth": smooth, "tied": tied, "weighed": smooth, "grouped": grouped}  # that the promise is of


@dataclass(frozen=True, slots=True)
class Coverage:
    """The results of repeated tuning in one world.

    `promised` counts runs with a certificate, `broken` runs whose bands exceed the limit, of which `allowed` are
    expected at most. `naive_broken` counts bands chosen without a test. `p_value` is the probability of so many
    violations if the bound were true. `lost` and `saved` are the mean true error and the mean share of
    FLOPs saved by certified bands.
    """

    world: str
    rows: int
    runs: int
    risk_limit: float
    confidence: float
    promised: int
    broken: int
    allowed: int
    p_value: float
    naive_broken: int
    lost: float
    saved: float
    seconds: float


def as_rows(items: Items, run: int) -> list[EvaluationRow]:
    """Rows as an evaluation writes them, under names that no other run has."""
    rows: list[EvaluationRow] = []
    for at, (logits, truth, weight, group) in enumerate(
        zip(items.logits.tolist(), items.truth.tolist(), items.weight.tolist(), items.group.tolist(), strict=True)
    ):
        records = [
            StageRecord(s, None if math.isnan(x) else x, None, "m", True) for s, x in zip(STAGES, logits, strict=True)
        ]
        metadata = SampleMetadata(f"{run}-{at}", "photo", truth, group="" if group < 0 else f"{run}-group-{group}")
        rows.append(EvaluationRow(metadata, 0.5, True, "reasoner", "last_stage", False, tuple(records), weight))
    return rows


def as_courses(items: Items) -> Trajectories:
    """Return the same as `courses` of the rows, all at once."""
    said = ~np.isnan(items.logits)
    logodds = items.logits.copy()
    for step in range(len(STAGES)):  # who abstains leaves the belief as it was
        before = logodds[:, step - 1] if step else np.zeros(len(logodds))
        logodds[:, step] = np.where(said[:, step], logodds[:, step], before)
    price = np.cumsum([flops([stage], "photo") for stage in STAGES])
    posterior = 1 / (1 + np.exp(-np.clip(logodds, -30, 30)))
    return Trajectories(posterior, said, np.tile(price, (len(logodds), 1)), items.truth, POLICY.decision_threshold)


def covered(
    world: str, runs: int, rows: int, risk_limit: float, confidence: float, seed: int = 7, items: int = WORLD
) -> Coverage:
    """Tune on `rows` fresh rows, `runs` times over."""
    rng, began = np.random.default_rng(seed), time.monotonic()
    traffic = as_courses(TRAFFIC[world](rng, items))
    promised = broken = naive = 0
    lost: list[float] = []
    saved: list[float] = []
    for run in range(runs):
        drawn = DRAWS[world](rng, rows)
        tuned = tune(as_rows(drawn, run), POLICY, TuningSettings(risk_limit, confidence))
        if tuned.policy.certificate is not None:
            steps = tuned.policy.photo
            predictions, cost, _ = traffic.apply_bands(
                np.array([s.low for s in steps]), np.array([s.high for s in steps])
            )
            lost.append(float(traffic.early_exit_errors(predictions).mean()))
            saved.append(1 - float(cost.mean() / traffic.cost[:, -1].mean()))
            promised += 1
            broken += lost[-1] > risk_limit
        naive += _naive(as_courses(drawn), drawn.weight, traffic, risk_limit)
    allowed = int(binom.ppf(0.999, runs, 1 - confidence))
    p_value = float(binomtest(broken, runs, 1 - confidence, alternative="greater").pvalue)
    means = (float(np.mean(each)) if each else math.nan for each in (lost, saved))
    seconds = round(time.monotonic() - began, 1)
    return Coverage(
        world, rows, runs, risk_limit, confidence, promised, broken, allowed, p_value, naive, *means, seconds
    )


def _naive(whole: Trajectories, weight: Floats, traffic: Trajectories, risk_limit: float) -> bool:
    """Whether the most eager bands with few enough losses on the rows lose too many of the traffic."""
    for bands in reversed(threshold_path(whole)):
        if np.average(whole.early_exit_errors(whole.apply_bands(*bands)[0]), weights=weight) <= risk_limit:
            return bool(traffic.early_exit_errors(traffic.apply_bands(*bands)[0]).mean() > risk_limit)
    return False


def table(found: Sequence[Coverage]) -> Table:
    """For people."""
    view = Table(title="Promises broken, of as many runs of `tune` on fresh rows")
    heads = ("scores", "rows", "runs", "promised", "broken", "allowed", "naive breaks", "really lost", "FLOPs saved")
    for heading in heads:
        view.add_column(heading, justify="left" if heading == "scores" else "right")
    for each in found:
        view.add_row(
            each.world, f"{each.rows:,}", f"{each.runs:,}", f"{each.promised:,}", f"{each.broken:,}",
            f"{each.allowed:,}", f"{each.naive_broken:,}", f"{each.lost:.2%}", f"{each.saved:.0%}",
        )  # fmt: skip
    return view


def main(arguments: list[str] | None = None) -> int:
    """Return 0 if no bound was violated more often than allowed, and bands without a test were worse in every world."""
    parser = argparse.ArgumentParser("python -m benchmarks.bound_coverage", description=__doc__)
    parser.add_argument("--runs", type=int, default=500, help="number of `tune` runs in each world")
    parser.add_argument("--risk-limit", type=float, default=0.01)
    parser.add_argument("--confidence", type=float, default=0.9)
    parser.add_argument("--items", type=int, default=WORLD, help="that the truth is read off")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/bound_coverage.json")
    chosen = parser.parse_args(arguments)
    command = " ".join(["python -m benchmarks.bound_coverage", *(sys.argv[1:] if arguments is None else arguments)])
    environment, console = Environment.here(command), Console(width=110)
    found: list[Coverage] = []
    for world in DRAWS:
        found.append(covered(world, chosen.runs, ROWS[world], chosen.risk_limit, chosen.confidence, items=chosen.items))
        console.print(f"{world}: {found[-1].broken} of {chosen.runs} broken, {found[-1].seconds:.0f} s")
    console.print(table(found))
    result = {"environment": asdict(environment), "worlds": [asdict(each) for each in found]}
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    console.print(f"Written to {chosen.out}.")
    held = all(each.broken <= each.allowed and each.broken < each.naive_broken for each in found)
    telling = any(each.naive_broken > each.allowed for each in found)  # else the simulation could not have failed
    return 0 if held and telling else 1


if __name__ == "__main__":
    sys.exit(main())
