"""Request statistics of an ingress replica, in /v1/stats and in Ray's metrics."""

from collections import defaultdict
from typing import Any

import pytest

from deployments.metrics import IngressMetrics
from roadwork_serve.api.observers import VerdictEvent
from roadwork_serve.api.request_context import RequestContext
from roadwork_serve.api.stats import RequestStatsCollector, distribution
from roadwork_serve.cascade.policy_file import load_policy
from roadwork_serve.cascade.router import RoutedVerdict
from roadwork_serve.profiles.flops import stage_flops, verdict_costs
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.schema import Exit, StageReport, Verdict
from tests.journal.made import verdict

PROFILE = load_profile("gpu-24gb", {"ingress": {"gpu_hour_price": 1.8}})
POLICY = load_policy("mini")
VLM_GPUS = PROFILE.engine_of("vlm").num_gpus


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stats(clock: Clock) -> RequestStatsCollector:
    return RequestStatsCollector(PROFILE, clock)


def answered(stage: str, compute_ms: float = 100.0, batch: int = 4, tokens: int = 0, **fields: Any) -> StageReport:
    given = {"outcome": "answered", "probability": 0.5, "queue_ms": 1.0, "preprocess_ms": 2.0, "rpc_ms": 3.0}
    return StageReport(
        stage=stage, compute_ms=compute_ms, batch_size=batch, tokens=tokens, **(given | fields)  # type: ignore[arg-type]
    )  # fmt: skip


def skipped(stage: str) -> StageReport:
    return StageReport(stage=stage, outcome="skipped", detail="it is down")


def verdict_of(name: str, *reports: StageReport, reason: str = "above_band", **fields: Any) -> Verdict:
    where = Exit(stage=reports[-1].stage, reason=reason)  # type: ignore[arg-type]
    return verdict(name, stages=reports, exit=where, **fields)


def event(verdict: Verdict) -> VerdictEvent:
    """Return the event that observers get for a verdict."""
    gpus = {name: PROFILE.engine_of(name).num_gpus for name in PROFILE.stages}
    costs = verdict_costs(verdict, gpus)
    return VerdictEvent(RoutedVerdict(verdict, None), b"", RequestContext(), POLICY, 1, costs)


ANSWERS = (
    verdict_of("a", answered("backbone")),
    verdict_of("b", answered("backbone"), answered("vlm", 2000.0, batch=2, tokens=1), elapsed_ms=3.0),
    verdict_of("c", answered("backbone"), skipped("vlm"), reason="deadline", degraded=True, probability=0.2),
    verdict_of("d", answered("video", tokens=9), media="clip", probability=0.1),
)


async def test_verdicts_are_counted_by_exit_stage_and_reason(stats: RequestStatsCollector, clock: Clock) -> None:
    for answer in ANSWERS:
        await stats.on_verdict(event(answer))
    stats.on_rejected("overloaded")
    stats.on_rejected("overloaded")
    clock.now += 60
    found = stats.snapshot()
    assert (found.uptime_s, found.verdicts, found.photos, found.clips) == (60, 4, 3, 1)
    assert (found.roadwork, found.degraded, found.deadline_exits) == (2, 1, 1)
    assert found.rejected == {"overloaded": 2}
    exits = [(each.stage, each.reason, each.verdicts) for each in found.exits]
    assert exits == [
        ("backbone", "above_band", 1), ("vlm", "above_band", 1), ("vlm", "deadline", 1), ("video", "above_band", 1),
    ]  # fmt: skip
    assert found.elapsed_ms is not None and (found.elapsed_ms.n, found.elapsed_ms.p95) == (4, 3.0)


async def test_a_stage_reports_its_latency_tokens_and_gpu_share(stats: RequestStatsCollector) -> None:
    for answer in ANSWERS:
        await stats.on_verdict(event(answer))
    found = stats.snapshot()
    stages = {each.stage: each for each in found.stages}
    vlm = stages["vlm"]
    assert (vlm.outcomes, vlm.tokens) == ({"answered": 1, "skipped": 1}, 1)
    assert vlm.compute_ms is not None and (vlm.compute_ms.n, vlm.compute_ms.p50) == (1, 2000.0)
    assert vlm.gpu_seconds == pytest.approx(VLM_GPUS * 2.0 / 2), "its share of what the batch took"
    price = stage_flops()["vlm"].photo
    assert price is not None and vlm.gflops == pytest.approx(price / 1e9)
    assert found.gpu_seconds == pytest.approx(sum(each.gpu_seconds for each in found.stages))
    assert found.cost_per_1000 == pytest.approx(1000 * found.gpu_seconds / 3600 * 1.8 / 4)


async def test_without_a_price_or_a_verdict_there_is_no_cost(clock: Clock, stats: RequestStatsCollector) -> None:
    assert stats.snapshot().cost_per_1000 is None
    free = RequestStatsCollector(load_profile("mini"), clock)
    await free.on_verdict(event(ANSWERS[0]))
    assert free.snapshot().cost_per_1000 is None


async def test_the_snapshot_is_computed_at_most_once_a_second(stats: RequestStatsCollector, clock: Clock) -> None:
    assert stats.snapshot().verdicts == 0
    await stats.on_verdict(event(ANSWERS[0]))
    assert stats.snapshot().verdicts == 0
    clock.now += 1.1
    assert stats.snapshot().verdicts == 1


async def test_percentiles_cover_the_last_thousand_values(stats: RequestStatsCollector, clock: Clock) -> None:
    for _ in range(1000):
        await stats.on_verdict(event(verdict_of("x", answered("backbone", compute_ms=500.0))))
    for _ in range(1000):
        await stats.on_verdict(event(verdict_of("x", answered("backbone", compute_ms=5.0))))
    clock.now += 2
    compute = next(each for each in stats.snapshot().stages if each.stage == "backbone").compute_ms
    assert compute is not None and (compute.n, compute.p95) == (1000, 5.0)


@pytest.mark.parametrize(
    ("values", "p50", "p95"), [([7.0], 7.0, 7.0), ([2.0, 1.0], 1.0, 2.0), (list(range(1, 101)), 50, 95)]
)
def test_percentiles_by_hand(values: list[float], p50: float, p95: float) -> None:
    found = distribution(values)
    assert found is not None and (found.p50, found.p95, found.n) == (p50, p95, len(values))
    assert distribution([]) is None


class Recorded:
    """Stands in for Ray's counter, gauge and histogram; sums the recorded values by tags."""

    all: "dict[str, Recorded]"

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...] = (), boundaries: object = None) -> None:
        self.keys = tag_keys
        self.sums: defaultdict[tuple[str, ...], float] = defaultdict(float)
        self.counts: defaultdict[tuple[str, ...], int] = defaultdict(int)
        Recorded.all[name] = self

    def inc(self, value: float = 1.0, tags: dict[str, str] | None = None) -> None:
        assert value > 0, "Ray refuses to count nothing"
        self.observe(value, tags)

    def observe(self, value: float, tags: dict[str, str] | None = None) -> None:
        assert set(tags or {}) == set(self.keys)
        where = tuple((tags or {})[key] for key in self.keys)
        self.sums[where] += value
        self.counts[where] += 1


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> dict[str, Recorded]:
    Recorded.all = {}
    for kind in ("Counter", "Gauge", "Histogram"):
        monkeypatch.setattr(f"deployments.metrics.{kind}", Recorded)
    return Recorded.all


async def test_ray_metrics_report_the_same_numbers(stats: RequestStatsCollector, recorded: dict[str, Recorded]) -> None:
    metrics = IngressMetrics(PROFILE)
    for answer in ANSWERS:
        await metrics.on_verdict(event(answer))
        await stats.on_verdict(event(answer))
    found = stats.snapshot()
    assert sum(recorded["roadwork_verdicts"].counts.values()) == found.verdicts
    assert recorded["roadwork_stage_items"].sums["vlm", "skipped"] == 1
    for stage in found.stages:
        times = recorded["roadwork_stage_seconds"]
        if stage.compute_ms is not None:
            assert times.counts[stage.stage, "compute"] == stage.compute_ms.n
            assert times.sums[stage.stage, "compute"] == pytest.approx(
                stage.compute_ms.mean * stage.compute_ms.n / 1000
            )
        for name, value in (
            ("tokens", stage.tokens),
            ("flops", 1e9 * stage.gflops),
            ("gpu_seconds", stage.gpu_seconds),
        ):
            assert recorded[f"roadwork_{name}"].sums[stage.stage,] == pytest.approx(value)
    assert found.cost_per_1000 is not None
    assert recorded["roadwork_cost"].sums[()] == pytest.approx(found.cost_per_1000 * found.verdicts / 1000)
