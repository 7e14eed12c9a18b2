"""Count how often `roadwork tune` violates its error bound: `python -m benchmarks.bound_coverage`.

`tune` is repeated on fresh rows from simulated score distributions. The true error rate of the chosen bands is computed
on half a million items of the same distribution. With a confidence of 0.9, at most one run in ten may exceed the risk
limit, plus sampling noise (the 99.9th percentile of the binomial). For comparison, bands are also chosen without a
test: the ones with the most early exits whose error rate on the rows is within the limit.
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
POLICY = Policy.parse({"version": "simulation", "photo": _STEPS, "clip": [_STEPS[0]]})
TRAFFIC_ITEMS = 500_000  # items from which true error rates are computed


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """Simulated items: scores of all stages, and the truth."""

    #: [n, 3]; NaN where the stage abstains.
    logits: Floats
    #: [n]
    truth: Bools
    #: [n], inverse sampling probabilities.
    weight: Floats
    #: [n]; -1 for an item that belongs to no group.
    group: NDArray[np.int64]


Draw = Callable[[np.random.Generator, int], Items]


def smooth(rng: np.random.Generator, n: int) -> Items:
    """Draw continuous scores. Each stage is better than the one before; none is calibrated, and all make errors."""
    truth = rng.random(n) < 0.4
    sign = np.where(truth, 1.0, -1.0)[:, None]
    logits = rng.normal(np.array([1.4, 2.4, 3.5]) * sign, np.array([1.3, 1.5, 1.6]), (n, 3))
    return Items(logits, truth, np.ones(n), np.full(n, -1))


def tied(rng: np.random.Generator, n: int) -> Items:
    """Draw scores with only six values, from a first stage that abstains on a third of the items."""
    smooth_items = smooth(rng, n)
    p = np.clip(np.round(5 / (1 + np.exp(-smooth_items.logits))) / 5, 0.02, 0.98)
    logits = np.log(p) - np.log1p(-p)
    logits[rng.random(n) < 1 / 3, 0] = math.nan
    return Items(logits, smooth_items.truth, smooth_items.weight, smooth_items.group)


def weighted(rng: np.random.Generator, n: int) -> Items:
    """Draw as `smooth`, with items that stage 1 doubts four times as likely to be drawn as the others."""
    smooth_items = smooth(rng, 4 * n)
    chance = np.where(np.abs(smooth_items.logits[:, 0]) < 1, 1.0, 0.25)
    drawn = np.flatnonzero(rng.random(4 * n) < chance)[:n]
    return Items(smooth_items.logits[drawn], smooth_items.truth[drawn], 1 / chance[drawn], smooth_items.group[drawn])


def grouped(rng: np.random.Generator, n: int) -> Items:
    """Draw as `smooth`, in groups of three that share one label and most of their scores."""
    shared, noise = smooth(rng, -(-n // 3)), rng.normal(0, 0.3, (n, 3))
    group = np.arange(n) // 3
    return Items(shared.logits[group] + noise, shared.truth[group], np.ones(n), group)


SCENARIOS: dict[str, Draw] = {"smooth": smooth, "tied": tied, "weighted": weighted, "grouped": grouped}
# Per run. The last two scenarios test only a part of them.
ROWS = {"smooth": 1500, "tied": 1500, "weighted": 2500, "grouped": 3000}
TRAFFIC = {"smooth": smooth, "tied": tied, "weighted": smooth, "grouped": grouped}  # to which the bound applies


@dataclass(frozen=True, slots=True)
class Coverage:
    """The results of repeated tuning in one scenario."""

    scenario: str
    rows: int
    runs: int
    risk_limit: float
    confidence: float
    #: Runs with a certificate.
    certified: int
    #: Runs whose bands exceed the risk limit.
    violations: int
    #: Highest number of violations that is compatible with the bound.
    max_violations: int
    #: Probability of at least this many violations if the bound holds.
    p_value: float
    #: Violations by bands chosen without a test.
    naive_violations: int
    #: Mean true error rate of certified bands.
    error_rate: float
    #: Mean share of FLOPs that certified bands save.
    flops_saved: float
    seconds: float


def to_rows(items: Items, run: int) -> list[EvaluationRow]:
    """Return rows as an evaluation writes them, with names that are unique to the run."""
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


def to_trajectories(items: Items) -> Trajectories:
    """Return the same as `trajectories` of the rows, vectorized."""
    answered = ~np.isnan(items.logits)
    logodds = items.logits.copy()
    for step in range(len(STAGES)):  # an abstention leaves the posterior unchanged
        before = logodds[:, step - 1] if step else np.zeros(len(logodds))
        logodds[:, step] = np.where(answered[:, step], logodds[:, step], before)
    price = np.cumsum([flops([stage], "photo") for stage in STAGES])
    posterior = 1 / (1 + np.exp(-np.clip(logodds, -30, 30)))
    return Trajectories(posterior, answered, np.tile(price, (len(logodds), 1)), items.truth, POLICY.decision_threshold)


def measure_coverage(
    scenario: str, runs: int, rows: int, risk_limit: float, confidence: float, seed: int = 7, items: int = TRAFFIC_ITEMS
) -> Coverage:
    """Run `tune` `runs` times on `rows` fresh rows and return its coverage."""
    rng, began = np.random.default_rng(seed), time.monotonic()
    traffic = to_trajectories(TRAFFIC[scenario](rng, items))
    certified = violations = naive = 0
    error_rate: list[float] = []
    flops_saved: list[float] = []
    for run in range(runs):
        drawn = SCENARIOS[scenario](rng, rows)
        tuned = tune(to_rows(drawn, run), POLICY, TuningSettings(risk_limit, confidence))
        if tuned.policy.certificate is not None:
            steps = tuned.policy.photo
            predictions, cost, _ = traffic.apply_bands(
                np.array([s.low for s in steps]), np.array([s.high for s in steps])
            )
            error_rate.append(float(traffic.early_exit_errors(predictions).mean()))
            flops_saved.append(1 - float(cost.mean() / traffic.cost[:, -1].mean()))
            certified += 1
            violations += error_rate[-1] > risk_limit
        naive += _naive(to_trajectories(drawn), drawn.weight, traffic, risk_limit)
    max_violations = int(binom.ppf(0.999, runs, 1 - confidence))
    p_value = float(binomtest(violations, runs, 1 - confidence, alternative="greater").pvalue)
    means = (float(np.mean(each)) if each else math.nan for each in (error_rate, flops_saved))
    seconds = round(time.monotonic() - began, 1)
    return Coverage(
        scenario, rows, runs, risk_limit, confidence, certified, violations, max_violations, p_value, naive, *means,
        seconds,
    )  # fmt: skip


def _naive(whole: Trajectories, weight: Floats, traffic: Trajectories, risk_limit: float) -> bool:
    """Return whether bands chosen without a test exceed the risk limit on the traffic."""
    for bands in reversed(threshold_path(whole)):
        if np.average(whole.early_exit_errors(whole.apply_bands(*bands)[0]), weights=weight) <= risk_limit:
            return bool(traffic.early_exit_errors(traffic.apply_bands(*bands)[0]).mean() > risk_limit)
    return False


def table(found: Sequence[Coverage]) -> Table:
    """Return a table of the results."""
    view = Table(title="Violations of the bound by `tune` on fresh rows")
    names = (
        "scores",
        "rows",
        "runs",
        "certified",
        "violations",
        "allowed",
        "untested bands",
        "error rate",
        "FLOPs saved",
    )
    for heading in names:
        view.add_column(heading, justify="left" if heading == "scores" else "right")
    for each in found:
        view.add_row(
            each.scenario, f"{each.rows:,}", f"{each.runs:,}", f"{each.certified:,}", f"{each.violations:,}",
            f"{each.max_violations:,}", f"{each.naive_violations:,}", f"{each.error_rate:.2%}",
            f"{each.flops_saved:.0%}",
        )  # fmt: skip
    return view


def main(arguments: list[str] | None = None) -> int:
    """Run the simulation. Returns 0 if the bound held and bands chosen without a test did worse in every scenario."""
    parser = argparse.ArgumentParser("python -m benchmarks.bound_coverage", description=__doc__)
    parser.add_argument("--runs", type=int, default=500, help="number of `tune` runs in each scenario")
    parser.add_argument("--risk-limit", type=float, default=0.01, help="risk limit of `tune`")
    parser.add_argument("--confidence", type=float, default=0.9, help="confidence of `tune`")
    parser.add_argument(
        "--items", type=int, default=TRAFFIC_ITEMS, help="items from which true error rates are computed"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/bound_coverage.json")
    args = parser.parse_args(arguments)
    command = " ".join(["python -m benchmarks.bound_coverage", *(sys.argv[1:] if arguments is None else arguments)])
    environment, console = Environment.here(command), Console(width=110)
    found: list[Coverage] = []
    for scenario in SCENARIOS:
        found.append(
            measure_coverage(scenario, args.runs, ROWS[scenario], args.risk_limit, args.confidence, items=args.items)
        )
        console.print(f"{scenario}: {found[-1].violations} violations in {args.runs} runs, {found[-1].seconds:.0f} s")
    console.print(table(found))
    result = {"environment": asdict(environment), "scenarios": [asdict(each) for each in found]}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    console.print(f"Written to {args.out}.")
    within_bound = all(
        each.violations <= each.max_violations and each.violations < each.naive_violations for each in found
    )
    # Otherwise the simulation could not detect a wrong bound.
    sensitive = any(each.naive_violations > each.max_violations for each in found)
    return 0 if within_bound and sensitive else 1


if __name__ == "__main__":
    sys.exit(main())
