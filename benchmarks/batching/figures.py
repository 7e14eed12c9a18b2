"""Figures of every batcher with one model at one load."""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np
from ray import serve

from benchmarks.batching.bound import latencies_us, optimal_schedule, threshold_schedule
from benchmarks.batching.contenders import Contender, SimulatedRun, roadwork_batcher, serve_batch, simulate
from benchmarks.batching.model import Model, arrivals

WARMUP = 200  # items before the measured ones
DEFAULT_S: float = inspect.signature(serve.batch).parameters["batch_wait_timeout_s"].default
SWEEP = tuple(
    fraction / 32 for fraction in (1, 2, 4, 8, 12, 16, 24, 28, 32, 40, 48)
)  # waits of the sweep, as fractions of a full call
SWEEP_SEEDS = 2  # seeds used to choose the wait
MAX_LAG_CALLS, MAX_LAG_SHARE = 4, 0.05  # in full calls, and as a fraction of the run; see Row.keeps_up

BEST, RULE, OURS = "best possible", "best simple rule", "roadwork-serve"
SERVE_BATCH, SERVE_BATCH_NO_WAIT, SERVE_BATCH_TUNED = (
    f"@serve.batch, {1000 * DEFAULT_S:g} ms",
    "@serve.batch, 0 ms",
    "@serve.batch, tuned",
)
NAMES = (BEST, RULE, OURS, SERVE_BATCH_TUNED, SERVE_BATCH, SERVE_BATCH_NO_WAIT)


@dataclass(frozen=True, slots=True)
class Spread:
    """The spread of a figure over the seeds."""

    median: float
    minimum: float
    maximum: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(*(round(pick(values), 4) for pick in (median, min, max)))


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of one batcher with one model at one load."""

    model: str
    #: Arrival rate relative to the rate of full batches.
    load: float
    contender: str
    #: The parameters that were chosen for this model and load.
    setting: str
    mean_ms: Spread
    #: Mean latency relative to the best possible schedule for the same arrivals.
    over_best: Spread
    p99_ms: Spread
    #: Items per call.
    batch_size: Spread
    #: False if the queue keeps growing: the last item takes longer than MAX_LAG_CALLS and MAX_LAG_SHARE allow. The
    #: latencies then depend on the length of the run.
    keeps_up: bool
    #: Processor time per item, including the event loop; the minimum over the seeds.
    cpu_us: float | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """A model at a load, with the arrivals of several seeds."""

    model: Model
    load: float
    #: Arrival times for each seed.
    due_us: tuple[tuple[int, ...], ...]
    #: Arrival times of the warm-up before them.
    warmup_us: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, model: Model, load: float, count: int, seeds: int) -> "Cell":
        due_us = (arrivals(model, load, count, seed) for seed in range(1, seeds + 1))
        warmup_us = (arrivals(model, load, WARMUP, 1000 + seed) for seed in range(1, seeds + 1))
        return cls(model, load, tuple(due_us), tuple(warmup_us))

    def run_schedule(self, due_us: Sequence[int], sizes: tuple[int, ...]) -> SimulatedRun:
        """Return the run of a given schedule, computed without the simulation."""
        return SimulatedRun(tuple(took / 1e6 for took in latencies_us(due_us, sizes, self.model)), sizes)

    def best_rule(self) -> tuple[str, list[SimulatedRun]]:
        """Return the simple rule with the lowest mean latency over all seeds, and its runs."""
        largest = self.model.max_batch
        rules = [
            (1, largest),
            *((count, largest) for count in range(2, largest + 1)),
            *((1, cap) for cap in range(1, largest)),
        ]
        runs = [
            [self.run_schedule(due, threshold_schedule(due, self.model, *rule)) for due in self.due_us]
            for rule in rules
        ]
        (count, cap), chosen = min(zip(rules, runs, strict=True), key=lambda each: _mean_s(each[1]))
        return f"batches of {count} or more, at most {cap}", chosen

    def best_wait_s(self) -> float:
        """Return the wait with which `@serve.batch` has the lowest mean latency on the first seeds."""
        waits = (0.0, DEFAULT_S, *(fraction * self.model.full_s for fraction in SWEEP))
        return min(waits, key=lambda wait_s: _mean_s(self.simulate(serve_batch(wait_s), SWEEP_SEEDS)))

    def simulate(self, contender: Contender, seeds: int | None = None) -> list[SimulatedRun]:
        """Return the runs of a batcher on the first seeds, by default on all."""
        runs = list(zip(self.due_us, self.warmup_us, strict=True))[:seeds]
        return [simulate(contender, self.model, due, warmup) for due, warmup in runs]

    def rows(self) -> Iterator[Row]:
        """Yield the rows in the order of NAMES."""
        bound = [self.run_schedule(due, optimal_schedule(due, self.model)) for due in self.due_us]
        setting, rule = self.best_rule()
        wait_s = self.best_wait_s()
        yield self.row(BEST, "", bound, bound)
        yield self.row(RULE, setting, rule, bound)
        yield self.row(OURS, "", self.simulate(roadwork_batcher), bound)
        yield self.row(SERVE_BATCH_TUNED, f"{1000 * wait_s:.3g} ms", self.simulate(serve_batch(wait_s)), bound)
        yield self.row(SERVE_BATCH, "", self.simulate(serve_batch(DEFAULT_S)), bound)
        yield self.row(SERVE_BATCH_NO_WAIT, "", self.simulate(serve_batch(0.0)), bound)

    def row(self, name: str, setting: str, runs: list[SimulatedRun], bound: list[SimulatedRun]) -> Row:
        """Return the row of one batcher, from its runs, one per seed."""
        means = [fmean(run.latencies_s) for run in runs]
        over = [mean / fmean(lowest.latencies_s) for mean, lowest in zip(means, bound, strict=True)]
        allowed_s = [max(MAX_LAG_CALLS * self.model.full_s, MAX_LAG_SHARE * due[-1] / 1e6) for due in self.due_us]
        # Batches are in order, so the last item to arrive finishes last.
        lag = median(run.latencies_s[-1] / each for run, each in zip(runs, allowed_s, strict=True))
        cpu_us = [run.cpu_us for run in runs if run.cpu_us is not None]
        return Row(
            self.model.name, self.load, name, setting,
            mean_ms=Spread.of([1000 * mean for mean in means]),
            over_best=Spread.of(over),
            p99_ms=Spread.of([1000 * float(np.quantile(run.latencies_s, 0.99)) for run in runs]),
            batch_size=Spread.of([len(run.latencies_s) / len(run.sizes) for run in runs]),
            keeps_up=lag < 1,
            cpu_us=round(min(cpu_us)) if cpu_us else None,
        )  # fmt: skip


def _mean_s(runs: Sequence[SimulatedRun]) -> float:
    return fmean(fmean(run.latencies_s) for run in runs)
