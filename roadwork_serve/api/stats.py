"""What an ingress replica has answered and what that took, in numbers that need no Prometheus."""

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable

from roadwork_serve.profiles.flops import stage_flops
from roadwork_serve.profiles.profile import STAGES, Profile
from roadwork_serve.schema import Distribution, ExitCount, Outcome, RequestStats, StageReport, StageStats, Verdict

_LAST = 1000  # values that a spread is of
_TIMES = ("queue_ms", "preprocess_ms", "compute_ms", "rpc_ms")
_FRESH_S = 1.0
_HOUR_S = 3600.0


class RequestStatsCollector:
    """Counts since the replica began, and spreads over the last thousand. clock: seconds."""

    def __init__(self, profile: Profile, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began_s = clock()
        self._price = profile.ingress.gpu_hour_price
        self._work = {name: _Work(name, profile.engine_of(name).num_gpus) for name in profile.stages}
        self._exits: Counter[tuple[str, str]] = Counter()
        self._media: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._roadwork = self._degraded = 0
        self._elapsed = _Last()
        self._probability = _Last()
        self._told: RequestStats | None = None
        self._told_s = 0.0

    def answered(self, verdict: Verdict) -> None:
        """Count a verdict, and what each stage did for it."""
        self._exits[verdict.exit.stage, verdict.exit.reason] += 1
        self._media[verdict.media] += 1
        self._roadwork += verdict.label == "roadwork"
        self._degraded += verdict.degraded
        self._elapsed.add(verdict.elapsed_ms)
        self._probability.add(verdict.probability)
        for report in verdict.stages:
            if report.stage in self._work:
                self._work[report.stage].add(report, gflops(report, verdict.media))

    def refused(self, problem: str) -> None:
        """Count what got no verdict, by the slug of its problem."""
        self._refused[problem] += 1

    def told(self) -> RequestStats:
        """All of it, as of at most a second ago: anybody may ask, and spreads take a millisecond."""
        if self._told is None or self._clock() - self._told_s > _FRESH_S:
            self._told, self._told_s = self._now(), self._clock()
        return self._told

    def _now(self) -> RequestStats:
        answers = self._exits.total()
        gpu_seconds = sum(work.gpu_seconds for work in self._work.values())
        return RequestStats(
            seconds=self._clock() - self._began_s,
            answers=answers,
            photos=self._media["photo"],
            clips=self._media["clip"],
            roadwork=self._roadwork,
            degraded=self._degraded,
            late=sum(count for (_, reason), count in self._exits.items() if reason == "deadline"),
            refused=dict(self._refused),
            exits=[
                ExitCount(stage=stage, reason=reason, answers=count)  # type: ignore[arg-type]
                for (stage, reason), count in sorted(self._exits.items(), key=lambda each: _place(each[0][0]))
            ],
            elapsed_ms=self._elapsed.spread(),
            probability=self._probability.spread(),
            gflops=sum(work.gflops for work in self._work.values()),
            gpu_seconds=gpu_seconds,
            cost_per_1000=1000 * gpu_seconds / _HOUR_S * self._price / answers if self._price and answers else None,
            stages=[work.told() for work in self._work.values()],
        )


class _Work:
    """Of one stage. gpus: the share of a card that one of its replicas holds."""

    def __init__(self, name: str, gpus: float) -> None:
        self._name = name
        self._gpus = gpus
        self._outcomes: Counter[Outcome] = Counter()
        self._times = {time: _Last() for time in _TIMES}
        self._batches = _Last()
        self._tokens = 0
        self.gflops = 0.0
        self.gpu_seconds = 0.0

    def add(self, report: StageReport, spent: float) -> None:
        self._outcomes[report.outcome] += 1
        if not report.batch_size:
            return
        for time, last in self._times.items():
            last.add(getattr(report, time))
        self._batches.add(report.batch_size)
        self._tokens += report.tokens
        self.gflops += spent
        self.gpu_seconds += gpu_seconds(report, self._gpus)

    def told(self) -> StageStats:
        times = {time: last.spread() for time, last in self._times.items()}
        return StageStats(
            stage=self._name,
            outcomes=dict(self._outcomes),
            batch_size=self._batches.spread(),
            tokens=self._tokens,
            gflops=self.gflops,
            gpu_seconds=self.gpu_seconds,
            **times,
        )


class _Last:
    """The last values of something."""

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=_LAST)

    def add(self, value: float) -> None:
        self._values.append(value)

    def spread(self) -> Distribution | None:
        return distribution(self._values)


def distribution(values: Iterable[float]) -> Distribution | None:
    """Their mean, median and 95th percentile (nearest rank); None of nothing."""
    ordered = sorted(values)
    if not ordered:
        return None

    def at(share: float) -> float:
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

    return Distribution(n=len(ordered), mean=sum(ordered) / len(ordered), p50=at(0.5), p95=at(0.95))


def gflops(report: StageReport, media: str) -> float:
    """What a look costs at the size of the production model, see `profiles/prices.yaml`; 0 for one without a price."""
    price = stage_flops().get(report.stage)
    look = None if price is None else (price.photo if media == "photo" else price.clip)
    return (look or 0.0) / 1e9 if report.batch_size else 0.0


def gpu_seconds(report: StageReport, gpus: float) -> float:
    """Its share of what the batch took, times the share of a card that the stage holds."""
    return gpus * report.compute_ms / 1000 / max(1, report.batch_size)


def _place(stage: str) -> int:
    return STAGES.index(stage) if stage in STAGES else len(STAGES)  # type: ignore[arg-type]
