"""Autoscaling of all deployments: Ray Serve's application-level policy over `roadwork_serve.autoscaling`.

`autoscaling_policy` of serve_config.yaml names it. Serve pickles this module into its controller, which calls it a few
times a second; its imports must be installed there too. The ingress reports the demand on every deployment, because it
alone knows the queues and the arrivals: see `autoscaling.metrics`.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from roadwork_serve.api.deployment_names import INGRESS
from roadwork_serve.autoscaling.metrics import Metrics, demand_from, engine_from
from roadwork_serve.autoscaling.replicas import (
    apply_downscale_delay,
    desired_replicas,
    place_replicas,
    scaling_settings,
)

UPSCALE_S, DOWNSCALE_S = 0.0, 30.0  # Serve's own delays
_NODES_INTERVAL_S = 10.0  # of checks of the nodes


class CascadeAutoscalingPolicy:
    """Scales all deployments of the cascade together.

    Args:
        settings: Fields of the scaling settings, as in `policy_kwargs` of serve_config.yaml. Raises ValueError for an
            invalid one.
    """

    gpus: Callable[[], list[float]]
    clock = staticmethod(time.monotonic)

    def __init__(self, **settings: float) -> None:
        self.gpus = _node_gpus
        chosen = scaling_settings(settings)
        self._settings = replace(chosen, downscale_delay_s=max(0.0, chosen.downscale_delay_s - DOWNSCALE_S))
        self._peaks: dict[str, list[tuple[float, int]]] = {}
        self._free: list[float] = []
        self._checked_s = float("-inf")

    def __call__(self, contexts: Mapping[Any, Any]) -> tuple[dict[Any, int], dict[Any, dict[str, Any]]]:
        """Return the target replicas by deployment. A deployment without metrics stays as it is."""
        now_s = self.clock()
        targets = {deployment: context.target_num_replicas for deployment, context in contexts.items()}
        ingress = next((context for name, context in contexts.items() if name.name == INGRESS), None)
        metrics = [] if ingress is None else _latest(ingress.raw_metrics)
        known = {name: context for name, context in contexts.items() if any(f"{name.name}.load" in m for m in metrics)}
        if known:
            engines = {
                name.name: engine_from(
                    metrics[0],
                    name.name,
                    context.capacity_adjusted_min_replicas,
                    context.capacity_adjusted_max_replicas,
                )
                for name, context in known.items()
            }
            wants = {
                name: desired_replicas(engine, demand_from(metrics, name), self._settings)
                for name, engine in engines.items()
            }
            most, self._peaks = apply_downscale_delay(wants, self._peaks, now_s, self._settings)
            running = {name.name: context.target_num_replicas for name, context in known.items()}
            given = place_replicas(most, engines, self._gpus_at(now_s), running)
            targets |= {name: given[name.name] for name in known}
        return targets, {}

    def _gpus_at(self, now_s: float) -> list[float]:
        if now_s >= self._checked_s + _NODES_INTERVAL_S:
            self._free, self._checked_s = self.gpus(), now_s
        return self._free


def _latest(raw: Mapping[str, Mapping[Any, Any]] | None) -> list[Metrics]:
    """Return the latest value of every metric, by ingress replica."""
    replicas: dict[Any, Metrics] = {}
    for metric, series in (raw or {}).items():
        for replica, samples in series.items():
            if samples:
                replicas.setdefault(replica, {})[metric] = samples[-1].value
    return list(replicas.values())


def _node_gpus() -> list[float]:
    """Return the GPUs of all nodes, each as wholly free: other work on them is unknown here."""
    import ray

    return [1.0] * sum(int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"])
