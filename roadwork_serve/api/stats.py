"""In-process request statistics for /v1/stats; they need no Prometheus."""

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable

from roadwork_serve.api.observers import VerdictEvent, VerdictObserver
from roadwork_serve.profiles.flops import StageCost
from roadwork_serve.profiles.profile import Profile
from roadwork_serve.profiles.stage_kinds import STAGES
from roadwork_serve.schema import Distribution, ExitCount, Outcome, RequestStats, StageReport, StageStats

_WINDOW = 1000  # values that a distribution covers
_TIMES = ("queue_ms", "preprocess_ms", "compute_ms", "rpc_ms")
_CACHE_S = 1.0
_HOUR_S = 3600.0


class RequestStatsCollector(VerdictObserver):
    """Counts since the replica started, and distributions over the last thousand values.

    Args:
        profile: The profile of the server.
        clock: Returns seconds.
    """

    def __init__(self, profile: Profile, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started_s = clock()
        self._price = profile.ingress.gpu_hour_price
        self._stages = {name: _StageCollector(name) for name in profile.stages}
        self._exits: Counter[tuple[str, str]] = Counter()
        self._media: Counter[str] = Counter()
        self._rejected: Counter[str] = Counter()
        self._roadwork = self._degraded = 0
        self._elapsed = _Window()
        self._probability = _Window()
        self._cached: RequestStats | None = None
        self._cached_s = 0.0

    async def on_verdict(self, event: VerdictEvent) -> None:
        """Count a verdict, and the cost of each stage."""
        verdict = event.verdict
        self._exits[verdict.exit.stage, verdict.exit.reason] += 1
        self._media[verdict.media] += 1
        self._roadwork += verdict.positive
        self._degraded += verdict.degraded
        self._elapsed.add(verdict.elapsed_ms)
        self._probability.add(verdict.probability)
        for report, cost in zip(verdict.stages, event.costs, strict=True):
            if report.stage in self._stages:
                self._stages[report.stage].add(report, cost)

    def on_rejected(self, slug: str) -> None:
        """Count a file or request without a verdict."""
        self._rejected[slug] += 1

    def snapshot(self) -> RequestStats:
        """Return the statistics, at most a second old: anybody may ask, and the distributions take a millisecond."""
        if self._cached is None or self._clock() - self._cached_s > _CACHE_S:
            self._cached, self._cached_s = self._compute(), self._clock()
        return self._cached

    def _compute(self) -> RequestStats:
        verdicts = self._exits.total()
        gpu_seconds = sum(stage.gpu_seconds for stage in self._stages.values())
        return RequestStats(
            uptime_s=self._clock() - self._started_s,
            verdicts=verdicts,
            photos=self._media["photo"],
            clips=self._media["clip"],
            roadwork=self._roadwork,
            degraded=self._degraded,
            deadline_exits=sum(count for (_, reason), count in self._exits.items() if reason == "deadline"),
            rejected=dict(self._rejected),
            exits=[
                ExitCount(stage=stage, reason=reason, verdicts=count)  # type: ignore[arg-type]
                for (stage, reason), count in sorted(self._exits.items(), key=lambda each: _position(each[0][0]))
            ],
            elapsed_ms=self._elapsed.distribution(),
            probability=self._probability.distribution(),
            gflops=sum(stage.gflops for stage in self._stages.values()),
            gpu_seconds=gpu_seconds,
            cost_per_1000=1000 * gpu_seconds / _HOUR_S * self._price / verdicts if self._price and verdicts else None,
            stages=[stage.snapshot() for stage in self._stages.values()],
        )


class _StageCollector:
    """The statistics of one stage."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._outcomes: Counter[Outcome] = Counter()
        self._times = {time: _Window() for time in _TIMES}
        self._batches = _Window()
        self._tokens = 0
        self.gflops = 0.0
        self.gpu_seconds = 0.0

    def add(self, report: StageReport, cost: StageCost) -> None:
        self._outcomes[report.outcome] += 1
        if not report.batch_size:
            return
        for time, window in self._times.items():
            window.add(getattr(report, time))
        self._batches.add(report.batch_size)
        self._tokens += report.tokens
        self.gflops += cost.gflops
        self.gpu_seconds += cost.gpu_seconds

    def snapshot(self) -> StageStats:
        times = {time: window.distribution() for time, window in self._times.items()}
        return StageStats(
            stage=self._name,
            outcomes=dict(self._outcomes),
            batch_size=self._batches.distribution(),
            tokens=self._tokens,
            gflops=self.gflops,
            gpu_seconds=self.gpu_seconds,
            **times,
        )


class _Window:
    """The last values of a quantity."""

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=_WINDOW)

    def add(self, value: float) -> None:
        self._values.append(value)

    def distribution(self) -> Distribution | None:
        return distribution(self._values)


def distribution(values: Iterable[float]) -> Distribution | None:
    """Return mean, median and 95th percentile (nearest rank) of the values; None if there are none."""
    ordered = sorted(values)
    if not ordered:
        return None

    def at(share: float) -> float:
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

    return Distribution(n=len(ordered), mean=sum(ordered) / len(ordered), p50=at(0.5), p95=at(0.95))


def _position(stage: str) -> int:
    return STAGES.index(stage) if stage in STAGES else len(STAGES)
