"""What an ingress replica tells Ray's metrics; Ray tags each with deployment, replica and application."""

from typing import Any

from ray.serve.metrics import Counter, Gauge

from roadwork_serve.schema import ReplicaLoad, Verdict

_STATES = {"closed": 0, "half_open": 1, "open": 2}


class Metrics:
    """Counters as things happen, gauges when they are looked at."""

    def __init__(self) -> None:
        self._verdicts = Counter(
            "roadwork_verdicts",
            description="Verdicts given.",
            tag_keys=_keys("label", "stage", "reason", "degraded", "policy", "arm", "gear"),
        )
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
        self._up = Gauge("roadwork_stage_up", description="Whether the stage answers.", tag_keys=_keys("stage"))

    def answered(self, verdict: Verdict) -> None:
        """A verdict was given."""
        tags = {"label": verdict.label, "stage": verdict.exit.stage, "reason": verdict.exit.reason}
        tags |= {"degraded": str(verdict.degraded).lower(), "policy": verdict.policy_version}
        self._verdicts.inc(tags=tags | {"arm": verdict.arm or "", "gear": str(verdict.gear)})

    def refused(self, problem: str) -> None:
        """A file or request got a problem of this slug."""
        self._refused.inc(tags={"problem": problem})

    def shadowed(self, answered: Verdict, said: Verdict) -> None:
        """A shadow judged what had been answered."""
        agreed = str(said.label == answered.label).lower()
        self._shadows.inc(tags={"policy": said.policy_version, "agreed": agreed})

    def load(self, load: ReplicaLoad) -> None:
        """The load at the moment."""
        self._gear.set(load.gear)
        self._edition.set(load.policy_number)
        self._in_work.set(load.in_work)
        self._reading.set(load.reading)
        for stage in load.stages:
            tags = {"stage": stage.stage}
            self._waiting.set(stage.waiting, tags)
            self._flying.set(stage.in_flight, tags)
            self._breaker.set(_STATES[stage.breaker], tags)
            self._up.set(int(stage.up), tags)


def _keys(*names: str) -> Any:
    return names  # Serve declares a tuple of one
