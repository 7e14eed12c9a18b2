"""Autoscaling metrics: the format in which an ingress replica reports demand, and how the policy reads it back."""

from roadwork_serve.autoscaling.replicas import Demand, ScalableEngine

Metrics = dict[str, float]


def metrics_of(deployment: str, engine: ScalableEngine, demand: Demand) -> Metrics:
    """What an ingress replica tells of a deployment, as `record_autoscaling_stats` takes it."""
    return {
        f"{deployment}.load": demand.load,
        f"{deployment}.backlog_s": demand.backlog_s,
        f"{deployment}.quiet_s": demand.quiet_s,
        f"{deployment}.gpus": engine.gpus,
        f"{deployment}.slots": float(engine.slots),
        f"{deployment}.may_sleep": float(engine.scale_to_zero),
    }


def engine_from(told: Metrics, name: str, min_replicas: int, max_replicas: int) -> ScalableEngine:
    """Return the engine of a deployment, as `metrics_of` described it."""
    return ScalableEngine(
        told.get(f"{name}.gpus", 0.0),
        int(told.get(f"{name}.slots", 1)),
        min_replicas,
        max_replicas,
        told.get(f"{name}.may_sleep", 0.0) > 0,
    )


def demand_from(told: list[Metrics], name: str) -> Demand:
    """Return the demand for a deployment, added up over all ingress replicas."""
    own = [each for each in told if f"{name}.load" in each]
    return Demand(
        sum(each[f"{name}.load"] for each in own),
        sum(each[f"{name}.backlog_s"] for each in own),
        min(each[f"{name}.quiet_s"] for each in own),
    )
