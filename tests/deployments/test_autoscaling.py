"""Autoscaling decisions from the demand that ingress replicas report, over Ray's own contexts."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from ray.serve import Application

from deployments.app import build_app
from deployments.autoscaling import CascadeAutoscalingPolicy
from roadwork_serve.api.demand_report import record_verdict, replica_demand, slots_per_replica
from roadwork_serve.autoscaling.arrivals import ArrivalStats
from roadwork_serve.autoscaling.metrics import metrics_of
from roadwork_serve.autoscaling.replicas import Demand, ScalableEngine
from roadwork_serve.cascade.policy_file import load_policy
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.schema import Exit
from tests.journal.made import report, verdict


@dataclass(frozen=True)
class Name:
    name: str
    app_name: str = "roadwork"


@dataclass
class Sample:
    value: float


@dataclass
class Context:
    """The attributes of Serve's AutoscalingContext that the policy reads."""

    target_num_replicas: int = 1
    capacity_adjusted_min_replicas: int = 1
    capacity_adjusted_max_replicas: int = 4
    raw_metrics: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)


def reported(*replicas: dict[str, float]) -> dict[str, dict[str, list[Sample]]]:
    found: dict[str, dict[str, list[Sample]]] = {}
    for number, metrics in enumerate(replicas):
        for metric, value in metrics.items():
            found.setdefault(metric, {})[f"ingress-{number}"] = [Sample(99.0), Sample(value)]
    return found


def policy(gpu_count: int = 2, **settings: float) -> CascadeAutoscalingPolicy:
    made = CascadeAutoscalingPolicy(**settings)
    made.gpus = lambda: [1.0] * gpu_count
    now = iter(range(10_000))
    made.clock = lambda: float(next(now))  # type: ignore[method-assign]
    return made


def decide(scaled: CascadeAutoscalingPolicy, contexts: dict[str, Context]) -> dict[str, int]:
    targets, _ = scaled({Name(name): context for name, context in contexts.items()})
    return {deployment.name: count for deployment, count in targets.items()}


VLM = ScalableEngine(0.65, 16)


def test_the_loads_of_all_ingress_replicas_add_up():
    one = metrics_of("FastVLM", VLM, Demand(0.5, 0.0, 3.0))
    ingress = Context(2, 2, 2, reported(one, one))
    assert decide(policy(), {"Ingress": ingress, "FastVLM": Context()}) == {"Ingress": 2, "FastVLM": 2}


def test_replicas_never_exceed_the_gpus():
    ingress = Context(raw_metrics=reported(metrics_of("FastVLM", VLM, Demand(9.0))))
    assert decide(policy(gpu_count=2), {"Ingress": ingress, "FastVLM": Context()})["FastVLM"] == 2
    assert decide(policy(gpu_count=3), {"Ingress": ingress, "FastVLM": Context()})["FastVLM"] == 3


def test_a_deployment_without_demand_reports_keeps_its_replicas():
    vlm = Context(target_num_replicas=3)
    assert decide(policy(), {"Ingress": Context(), "FastVLM": vlm})["FastVLM"] == 3
    assert decide(policy(), {"FastVLM": vlm})["FastVLM"] == 3
    other = Context(raw_metrics=reported(metrics_of("Backbone", VLM, Demand(9.0))))
    assert decide(policy(), {"Ingress": other, "FastVLM": vlm})["FastVLM"] == 3


def test_a_lull_scales_down_only_after_the_delay():
    scaled = policy(downscale_delay_s=40)
    busy, calm = (Context(raw_metrics=reported(metrics_of("FastVLM", VLM, Demand(load)))) for load in (1.2, 0.1))
    assert decide(scaled, {"Ingress": busy, "FastVLM": Context()})["FastVLM"] == 2
    seen = [decide(scaled, {"Ingress": calm, "FastVLM": Context(2)})["FastVLM"] for _ in range(12)]
    assert seen == [2] * 9 + [1] * 3, "ten seconds here, and Serve waits for another thirty"


def test_an_engine_that_scales_to_zero_ends_its_last_replica():
    asleep = metrics_of("FastVLM", ScalableEngine(0.65, 16, 0, 2, scale_to_zero=True), Demand(0.0, 0.0, 5000.0))
    sleeper = Context(1, 0, 2)
    ingress = Context(raw_metrics=reported(asleep))
    assert decide(policy(), {"Ingress": ingress, "FastVLM": sleeper})["FastVLM"] == 0


def test_an_invalid_setting_is_rejected():
    with pytest.raises(ValueError, match="speed is not a scaling setting"):
        CascadeAutoscalingPolicy(speed=3)


class Batcher:
    def __init__(self, queued: int) -> None:
        self.queued = queued


def test_a_verdict_counts_towards_the_demand_of_its_stages():
    profile = load_profile("mini", {"engines": {"qwen3-vl": {"max_replicas": 3}}})
    flow = ArrivalStats(slots_per_replica(profile), lambda: 1.0)
    words = [report("backbone", 0.5, batch_size=4, compute_ms=80.0), report("signs", None, outcome="skipped")]
    late: dict[str, Any] = {"stages": words, "exit": Exit(stage="backbone", reason="deadline")}
    policy = load_policy("mini")
    flow.record_arrival()
    record_verdict(flow, verdict("a", 0.5).model_copy(update=late), policy)
    assert flow.item_s("backbone") == pytest.approx(0.02)
    assert (flow.share("backbone"), flow.share("signs"), flow.share("vlm")) == (1.0, 0.0, 1.0)
    record_verdict(
        flow,
        verdict("b", 0.9, (report("backbone", 0.9, batch_size=1), report("vlm", 0.9, batch_size=1, compute_ms=500.0))),
        policy,
    )
    asked: Any = {name: Batcher(6) for name in profile.stages}
    metrics = replica_demand(profile, flow, asked)
    assert set(metrics) == {
        f"FastVLM.{word}" for word in ("load", "backlog_s", "idle_s", "gpus", "slots", "scale_to_zero")
    }
    assert metrics["FastVLM.backlog_s"] == pytest.approx(3.0)
    assert metrics["FastVLM.load"] > 0


def test_a_profile_without_replica_ranges_reports_no_demand():
    profile = load_profile("mini")
    assert replica_demand(profile, ArrivalStats(slots_per_replica(profile)), {}) == {}


def test_a_profile_with_replica_ranges_autoscales_and_fixes_the_ingress():
    deployments = built({"max_replicas": 3})
    assert (deployments["FastVLM"].min_replicas, deployments["FastVLM"].max_replicas) == (1, 3)
    ingress = deployments["Ingress"]
    assert (ingress.min_replicas, ingress.max_replicas) == (1, 1)
    assert deployments["Backbone"] is None


def test_an_engine_that_scales_to_zero_starts_with_a_replica():
    vlm = built({"scale_to_zero": True})["FastVLM"]
    assert (vlm.min_replicas, vlm.initial_replicas, vlm.max_replicas) == (0, 1, 1)


def test_without_replica_ranges_nothing_scales():
    assert set(built({}).values()) == {None}


def built(changes: dict[str, Any]) -> dict[str, Any]:
    """Return the autoscaling config of every deployment of profile mini, with one engine changed."""
    app = build_app(load_profile("mini", {"engines": {"qwen3-vl": changes}}))
    found: dict[str, Any] = {}
    todo = [app]
    while todo:
        bound = todo.pop()._bound_deployment
        found[bound.name] = bound._deployment_config.autoscaling_config
        given = [
            *bound.init_args,
            *(value for arg in bound.init_args if isinstance(arg, dict) for value in arg.values()),
        ]
        todo += [each for each in given if isinstance(each, Application)]
    return found
