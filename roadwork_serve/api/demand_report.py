"""The demand of one ingress replica on the deployments that scale."""

from collections.abc import Mapping

from roadwork_serve.api.deployment_names import deployment_of
from roadwork_serve.api.observers import VerdictEvent, VerdictObserver
from roadwork_serve.autoscaling.arrivals import ArrivalStats
from roadwork_serve.autoscaling.metrics import Metrics, metrics_of
from roadwork_serve.autoscaling.replicas import Demand, ScalableEngine
from roadwork_serve.cascade.batcher import Batcher
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.profile import Profile
from roadwork_serve.profiles.stage_kinds import StageName
from roadwork_serve.profiles.stage_spec import StageSpec
from roadwork_serve.schema import Verdict


class DemandObserver(VerdictObserver):
    """Feeds the arrival statistics of autoscaling."""

    def __init__(self, arrivals: ArrivalStats) -> None:
        self._arrivals = arrivals

    def on_arrival(self) -> None:
        """Count an arrival."""
        self._arrivals.record_arrival()

    async def on_verdict(self, event: VerdictEvent) -> None:
        """Count the stages that the item needed."""
        record_verdict(self._arrivals, event.verdict, event.policy)


def slots_per_replica(profile: Profile) -> dict[str, int]:
    """Return the number of items that one replica processes at a time, by stage.

    An engine with batching of its own takes each item in a call of its own.
    """
    return {name: _concurrency(profile.engine_of(name), spec) for name, spec in profile.stages.items()}


def record_verdict(arrivals: ArrivalStats, verdict: Verdict, policy: Policy) -> None:
    """Count the stages that an item needed: those that ran, and the one that was skipped for lack of time."""
    needed = [report.stage for report in verdict.stages if report.outcome != "skipped"]
    if verdict.exit.reason == "deadline":
        reported = {report.stage for report in verdict.stages}
        needed += [step.stage for step in policy.steps(verdict.media) if step.stage not in reported][:1]
    arrivals.record_exit(needed)
    for report in verdict.stages:
        if report.batch_size:
            arrivals.record_inference(
                report.stage, (report.preprocess_ms + report.compute_ms) / 1000, report.batch_size
            )


def replica_demand(profile: Profile, arrivals: ArrivalStats, batchers: Mapping[str, Batcher]) -> Metrics:
    """Return the demand on every deployment that scales, by name."""
    found: Metrics = {}
    for names in profile.processes():
        engine = profile.engines[names[0]]
        if engine.scales:
            users = profile.users()
            stages: dict[StageName, StageSpec] = {stage: spec for name in names for stage, spec in users[name].items()}
            found |= metrics_of(deployment_of(stages), _engine(engine, stages), _demand(stages, arrivals, batchers))
    return found


def _engine(engine: EngineSpec, stages: Mapping[StageName, StageSpec]) -> ScalableEngine:
    slots = max(_concurrency(engine, spec) for spec in stages.values())
    return ScalableEngine(
        engine.num_gpus, slots, engine.replicas, engine.max_replicas or engine.replicas, engine.scale_to_zero
    )


def _demand(stages: Mapping[StageName, StageSpec], arrivals: ArrivalStats, batchers: Mapping[str, Batcher]) -> Demand:
    return Demand(
        sum(arrivals.load(stage) for stage in stages),
        sum(batchers[stage].queued * arrivals.item_s(stage) for stage in stages),
        min(arrivals.idle_s(stage) for stage in stages),
    )


def _concurrency(engine: EngineSpec, spec: StageSpec) -> int:
    return spec.slots if engine.backend in ("vllm", "openai") else 1
