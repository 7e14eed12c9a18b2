"""What an ingress replica tells Ray's metrics; Ray tags each with deployment, replica and application."""

from collections import Counter as TallyOf
from collections.abc import Mapping, Sequence
from typing import Any

from ray.serve.metrics import Counter, Gauge, Histogram

from roadwork_serve.api.stats import gflops, gpu_seconds
from roadwork_serve.journal.record import DeferredResult, PredictionRecord
from roadwork_serve.profiles.profile import Profile
from roadwork_serve.schema import ReplicaStats, StageReport, Verdict

_MS = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4]
_SHARES = [0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99]
_BATCHES = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]
_STATES = {"closed": 0, "half_open": 1, "open": 2}


class IngressMetrics:
    """Counters and histograms as things happen, gauges when they are looked at."""

    def __init__(self, profile: Profile) -> None:
        self._gpus = {name: profile.engine_of(name).num_gpus for name in profile.stages}
        self._price = profile.ingress.gpu_hour_price
        self._verdicts = Counter(
            "roadwork_verdicts",
            description="Verdicts given.",
            tag_keys=_keys("label", "stage", "reason", "degraded", "policy", "arm", "degradation_level"),
        )
        self._elapsed = Histogram(
            "roadwork_ms", description="From reading to verdict, by exit.", boundaries=_MS, tag_keys=_keys("stage")
        )
        self._probability = Histogram(
            "roadwork_probability",
            description="Of active road work, by exit.",
            boundaries=_SHARES,
            tag_keys=_keys("stage"),
        )
        self._looks = Counter(
            "roadwork_stage_looks", description="Items by what came of a stage.", tag_keys=_keys("stage", "outcome")
        )
        self._times = Histogram(
            "roadwork_stage_ms",
            description="Of an item at a stage: queue, batch, compute, hop.",
            boundaries=_MS,
            tag_keys=_keys("stage", "part"),
        )
        self._batches = Histogram(
            "roadwork_stage_batch", description="Items in a batch.", boundaries=_BATCHES, tag_keys=_keys("stage")
        )
        self._tokens = Counter("roadwork_tokens", description="Tokens written by a VLM.", tag_keys=_keys("stage"))
        self._gflops = Counter(
            "roadwork_gflops", description="Spent, at the size of the production models.", tag_keys=_keys("stage")
        )
        self._gpu_seconds = Counter(
            "roadwork_gpu_seconds", description="Of whole cards, while the model computed.", tag_keys=_keys("stage")
        )
        self._cost = Counter("roadwork_cost", description="Of that, in the currency of ingress.gpu_hour_price.")
        self._refused = Counter(
            "roadwork_refused", description="Files and requests without a verdict.", tag_keys=_keys("problem")
        )
        self._shadows = Counter(
            "roadwork_shadow", description="Items that a shadow judged too.", tag_keys=_keys("policy", "agreed")
        )
        self._gear = Gauge("roadwork_gear", description="How far load has narrowed the exit bands; 0 is not at all.")
        self._edition = Gauge("roadwork_policy_number", description="Number of the edition of the rules in force.")
        self._in_work = Gauge("roadwork_in_work", description="Requests in work.")
        self._reading = Gauge("roadwork_reading", description="Files that are decoded, or wait to be.")
        self._waiting = Gauge(
            "roadwork_stage_waiting", description="Items that wait for a stage.", tag_keys=_keys("stage")
        )
        self._flying = Gauge("roadwork_stage_calls", description="Calls in flight.", tag_keys=_keys("stage"))
        self._breaker = Gauge(
            "roadwork_stage_breaker", description="0 closed, 1 half open, 2 open.", tag_keys=_keys("stage")
        )
        self._surveys = Gauge("roadwork_surveyed", description="Items that every stage has judged.")
        self._spooled = Gauge("roadwork_journal_waiting", description="Records that the journal has not taken yet.")
        self._dropped = Gauge("roadwork_journal_dropped", description="Records lost because too many waited.")
        self._up = Gauge("roadwork_stage_up", description="Whether the stage answers.", tag_keys=_keys("stage"))

    def answered(self, verdict: Verdict) -> None:
        """A verdict was given."""
        tags = {"label": verdict.label, "stage": verdict.exit.stage, "reason": verdict.exit.reason}
        tags |= {"degraded": str(verdict.degraded).lower(), "policy": verdict.policy_version}
        self._verdicts.inc(tags=tags | {"arm": verdict.arm or "", "degradation_level": str(verdict.degradation_level)})
        self._elapsed.observe(verdict.elapsed_ms, {"stage": verdict.exit.stage})
        self._probability.observe(verdict.probability, {"stage": verdict.exit.stage})
        for report in verdict.stages:
            self._looked(report, verdict.media)

    def _looked(self, report: StageReport, media: str) -> None:
        stage = {"stage": report.stage}
        self._looks.inc(tags=stage | {"outcome": report.outcome})
        if not report.batch_size:
            return
        for part in ("queue", "batch", "compute", "hop"):
            self._times.observe(getattr(report, f"{part}_ms"), stage | {"part": part})
        self._batches.observe(report.batch_size, stage)
        took = gpu_seconds(report, self._gpus.get(report.stage, 0.0))
        for counter, amount in ((self._tokens, report.tokens), (self._gpu_seconds, took)):
            if amount:
                counter.inc(amount, stage)
        if spent := gflops(report, media):
            self._gflops.inc(spent, stage)
        if took and self._price:
            self._cost.inc(took / 3600 * self._price)

    def refused(self, problem: str) -> None:
        """A file or request got a problem of this slug."""
        self._refused.inc(tags={"problem": problem})

    def shadowed(self, answered: Verdict, said: Verdict) -> None:
        """A shadow judged what had been answered."""
        agreed = str(said.label == answered.label).lower()
        self._shadows.inc(tags={"policy": said.policy_version, "agreed": agreed})

    def load(self, load: ReplicaStats) -> None:
        """The load at the moment."""
        self._gear.set(load.degradation_level)
        self._edition.set(load.policy_revision)
        self._in_work.set(load.in_flight)
        self._reading.set(load.reading)
        if load.audit is not None:
            self._surveys.set(load.audit.judged)
        if load.journal is not None:
            self._spooled.set(load.journal.waiting)
            self._dropped.set(load.journal.dropped)
        for stage in load.stages:
            tags = {"stage": stage.stage}
            self._waiting.set(stage.waiting, tags)
            self._flying.set(stage.in_flight, tags)
            self._breaker.set(_STATES[stage.breaker], tags)
            self._up.set(int(stage.up), tags)


class JournalMetrics:
    """What the journal tells Ray's metrics."""

    def __init__(self) -> None:
        self._committed = Counter(
            "roadwork_journal_records", description="Records written down.", tag_keys=_keys("kind")
        )
        self._drift = Gauge(
            "roadwork_drift",
            description="How far the last answers are from those before: stability indices, and means of features.",
            tag_keys=_keys("of"),
        )

    def committed(self, records: Sequence[PredictionRecord | DeferredResult]) -> None:
        """They have been written."""
        for kind, count in TallyOf(
            "answer" if isinstance(each, PredictionRecord) else each.kind for each in records
        ).items():
            self._committed.inc(count, {"kind": kind})

    def drifted(self, numbers: Mapping[str, float]) -> None:
        """How far what comes is from what came."""
        for name, value in numbers.items():
            self._drift.set(value, {"of": name})


def _keys(*names: str) -> Any:
    return names  # Serve declares a tuple of one
