"""Every contender with one model at one load, in numbers."""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np
from ray import serve

from benchmarks.batching.bound import best, eager, latencies_us
from benchmarks.batching.contenders import Contender, Served, ours, rays, served
from benchmarks.batching.model import Model, arrivals

WARM = 200  # items before those that count
DEFAULT_S: float = inspect.signature(serve.batch).parameters["batch_wait_timeout_s"].default
PARTS = tuple(part / 32 for part in (1, 2, 4, 8, 12, 16, 24, 28, 32, 40, 48))  # of a full call, to sweep waits over
SWEEP_SEEDS = 2  # of the seeds, those by which a wait is chosen
CALLS_LATE, LATE = 4, 0.05  # full calls, and a part of the run, see Row.keeps_up

BEST, RULE, OURS = "best possible", "best simple rule", "roadwork-serve"
RAYS, RAYS_NONE, RAYS_TUNED = f"@serve.batch, {1000 * DEFAULT_S:g} ms", "@serve.batch, 0 ms", "@serve.batch, tuned"
NAMES = (BEST, RULE, OURS, RAYS_TUNED, RAYS, RAYS_NONE)


@dataclass(frozen=True, slots=True)
class Spread:
    """Over the seeds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(*(round(pick(values), 4) for pick in (median, min, max)))


@dataclass(frozen=True, slots=True)
class Row:
    """One contender with one model at one load.

    setting: what it is told, where that was chosen. over_best: its mean latency over the best possible of the same
    arrivals. batch: items a call. keeps_up: false where it falls further behind the longer it runs, told by the last
    item, which takes longer than CALLS_LATE and LATE allow; its latencies are then of this length of run. own_us:
    processor time an item, the loop's included, least of the seeds.
    """

    model: str
    share: float
    contender: str
    setting: str
    mean_ms: Spread
    over_best: Spread
    p99_ms: Spread
    batch: Spread
    keeps_up: bool
    own_us: float | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """A model at a load, with arrivals of several seeds, and what comes before them."""

    model: Model
    share: float
    dues: tuple[tuple[int, ...], ...]
    warms: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, model: Model, share: float, count: int, seeds: int) -> "Cell":
        dues = (arrivals(model, share, count, seed) for seed in range(1, seeds + 1))
        warms = (arrivals(model, share, WARM, 1000 + seed) for seed in range(1, seeds + 1))
        return cls(model, share, tuple(dues), tuple(warms))

    def planned(self, due_us: Sequence[int], sizes: tuple[int, ...]) -> Served:
        """Return a schedule, as arithmetic has it."""
        return Served(tuple(took / 1e6 for took in latencies_us(due_us, sizes, self.model)), sizes)

    def rule(self) -> tuple[str, list[Served]]:
        """Return the simple rule of the least mean latency over all seeds."""
        most = self.model.max_batch
        rules = [(1, most), *((least, most) for least in range(2, most + 1)), *((1, cap) for cap in range(1, most))]
        runs = [[self.planned(due, eager(due, self.model, *rule)) for due in self.dues] for rule in rules]
        (least, cap), chosen = min(zip(rules, runs, strict=True), key=lambda each: _mean_s(each[1]))
        return f"of {least} or more, at most {cap}", chosen

    def tuned_s(self) -> float:
        """Return the wait with which `@serve.batch` has the least mean latency on the first seeds."""
        waits = (0.0, DEFAULT_S, *(part * self.model.full_s for part in PARTS))
        return min(waits, key=lambda wait_s: _mean_s(self.served(rays(wait_s), SWEEP_SEEDS)))

    def served(self, contender: Contender, seeds: int | None = None) -> list[Served]:
        """By a contender, on the first seeds or all."""
        runs = list(zip(self.dues, self.warms, strict=True))[:seeds]
        return [served(contender, self.model, due, warm) for due, warm in runs]

    def rows(self) -> Iterator[Row]:
        """In the order of NAMES."""
        bound = [self.planned(due, best(due, self.model)) for due in self.dues]
        setting, rule = self.rule()
        wait_s = self.tuned_s()
        yield self.row(BEST, "", bound, bound)
        yield self.row(RULE, setting, rule, bound)
        yield self.row(OURS, "", self.served(ours), bound)
        yield self.row(RAYS_TUNED, f"{1000 * wait_s:.3g} ms", self.served(rays(wait_s)), bound)
        yield self.row(RAYS, "", self.served(rays(DEFAULT_S)), bound)
        yield self.row(RAYS_NONE, "", self.served(rays(0.0)), bound)

    def row(self, name: str, setting: str, runs: list[Served], bound: list[Served]) -> Row:
        """Of the runs of one contender, a seed each."""
        means = [fmean(run.latencies_s) for run in runs]
        over = [mean / fmean(least.latencies_s) for mean, least in zip(means, bound, strict=True)]
        allowed_s = [max(CALLS_LATE * self.model.full_s, LATE * due[-1] / 1e6) for due in self.dues]
        # Batches are in order: whoever came last is done last.
        late = median(run.latencies_s[-1] / each for run, each in zip(runs, allowed_s, strict=True))
        own = [run.own_us for run in runs if run.own_us is not None]
        return Row(
            self.model.name, self.share, name, setting,
            mean_ms=Spread.of([1000 * mean for mean in means]),
            over_best=Spread.of(over),
            p99_ms=Spread.of([1000 * float(np.quantile(run.latencies_s, 0.99)) for run in runs]),
            batch=Spread.of([len(run.latencies_s) / len(run.sizes) for run in runs]),
            keeps_up=late < 1,
            own_us=round(min(own)) if own else None,
        )  # fmt: skip


def _mean_s(runs: Sequence[Served]) -> float:
    return fmean(fmean(run.latencies_s) for run in runs)
