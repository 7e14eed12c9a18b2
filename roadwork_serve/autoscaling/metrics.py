"""Autoscaling metrics: the format in which an ingress replica reports demand, and how the policy reads it."""

from roadwork_serve.autoscaling.replicas import Demand, ScalableEngine

Metrics = dict[str, float]


def metrics_of(deployment: str, engine: ScalableEngine, demand: Demand) -> Metrics:
    """Return an ingress replica's metrics of a deployment, as `record_autoscaling_stats` takes them."""
    return {
        f"{deployment}.load": demand.load,
        f"{deployment}.backlog_s": demand.backlog_s,
        f"{deployment}.idle_s": demand.idle_s,
        f"{deployment}.gpus": engine.gpus,
        f"{deployment}.slots": float(engine.slots),
        f"{deployment}.scale_to_zero": float(engine.scale_to_zero),
    }


def engine_from(metrics: Metrics, name: str, min_replicas: int, max_replicas: int) -> ScalableEngine:
    """Return the engine of a deployment, as `metrics_of` described it."""
    return ScalableEngine(
        gpus=metrics.get(f"{name}.gpus", 0.0),
        slots=int(metrics.get(f"{name}.slots", 1)),
        min_replicas=min_replicas,
        max_replicas=max_replicas,
        scale_to_zero=metrics.get(f"{name}.scale_to_zero", 0.0) > 0,
    )


def demand_from(metrics: list[Metrics], name: str) -> Demand:
    """Return the demand for a deployment, summed over all ingress replicas."""
    own = [each for each in metrics if f"{name}.load" in each]
    return Demand(
        load=sum(each[f"{name}.load"] for each in own),
        backlog_s=sum(each[f"{name}.backlog_s"] for each in own),
        idle_s=min(each[f"{name}.idle_s"] for each in own),
    )
