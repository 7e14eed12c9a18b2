"""What one ingress replica asks of the deployments that scale."""

from collections.abc import Mapping

from roadwork_serve.api.deployment_names import deployment_of
from roadwork_serve.autoscaling.arrivals import ArrivalStats
from roadwork_serve.autoscaling.metrics import Metrics, metrics_of
from roadwork_serve.autoscaling.replicas import Demand, ScalableEngine
from roadwork_serve.cascade.batcher import Batcher
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.profiles.profile import EngineSpec, Profile, StageName, StageSpec
from roadwork_serve.schema import Verdict


def slots_per_replica(profile: Profile) -> dict[str, int]:
    """Items that one replica works on at once, by stage: an engine with batches of its own takes a call each."""
    return {name: _at_once(profile.engine_of(name), spec) for name, spec in profile.stages.items()}


def record_verdict(flow: ArrivalStats, verdict: Verdict, policy: Policy) -> None:
    """Count an answer: the stages it was shown to, and the one that it was not shown to for lack of time."""
    wanted = [report.stage for report in verdict.stages if report.outcome != "skipped"]
    if verdict.exit.reason == "deadline":
        asked = {report.stage for report in verdict.stages}
        wanted += [step.stage for step in policy.steps(verdict.media) if step.stage not in asked][:1]
    flow.left(wanted)
    for report in verdict.stages:
        if report.batch_size:
            flow.judged(report.stage, (report.preprocess_ms + report.compute_ms) / 1000, report.batch_size)


def replica_demand(profile: Profile, flow: ArrivalStats, batchers: Mapping[str, Batcher]) -> Metrics:
    """Of every deployment that scales, by name."""
    told: Metrics = {}
    for names in profile.processes():
        engine = profile.engines[names[0]]
        if engine.scales:
            users = profile.users()
            stages: dict[StageName, StageSpec] = {stage: spec for name in names for stage, spec in users[name].items()}
            told |= metrics_of(deployment_of(stages), _engine(engine, stages), _demand(stages, flow, batchers))
    return told


def _engine(engine: EngineSpec, stages: Mapping[StageName, StageSpec]) -> ScalableEngine:
    slots = max(_at_once(engine, spec) for spec in stages.values())
    return ScalableEngine(
        engine.num_gpus, slots, engine.replicas, engine.max_replicas or engine.replicas, engine.scale_to_zero
    )


def _demand(stages: Mapping[StageName, StageSpec], flow: ArrivalStats, batchers: Mapping[str, Batcher]) -> Demand:
    return Demand(
        sum(flow.load(stage) for stage in stages),
        sum(batchers[stage].waiting * flow.item_s(stage) for stage in stages),
        min(flow.quiet_s(stage) for stage in stages),
    )


def _at_once(engine: EngineSpec, spec: StageSpec) -> int:
    return spec.slots if engine.runs in ("vllm", "openai") else 1
