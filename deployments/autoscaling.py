"""How many replicas every deployment has: Ray Serve's application-level policy over `cascade.scaling`.

`autoscaling_policy` of serve_config.yaml names it. Serve pickles this module into its controller, which calls it a few
times a second; what it imports has to be installed there, too. The ingress tells what is asked of every deployment, for
it alone knows what waits and what is still to come: see `autoscaling.metrics`.
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

UPSCALE_S, DOWNSCALE_S = 0.0, 30.0  # Serve's own delays: a replica more counts at once, one less a while later
_LOOK_EVERY_S = 10.0  # at the nodes


class CascadeAutoscalingPolicy:
    """Scales the cascade as one.

    settings: fields of `scaling.Settings`, as `policy_kwargs` of serve_config.yaml holds them. Raises ValueError for
    one that makes no sense.
    """

    cards: Callable[[], list[float]]
    clock = staticmethod(time.monotonic)

    def __init__(self, **settings: float) -> None:
        self.cards = _cards
        chosen = scaling_settings(settings)
        self._settings = replace(chosen, hold_s=max(0.0, chosen.hold_s - DOWNSCALE_S))
        self._peaks: dict[str, list[tuple[float, int]]] = {}
        self._room: list[float] = []
        self._looked_s = float("-inf")

    def __call__(self, contexts: Mapping[Any, Any]) -> tuple[dict[Any, int], dict[Any, dict[str, Any]]]:
        """Replicas by deployment. One of which nothing has been told keeps what it has."""
        now_s = self.clock()
        targets = {deployment: context.target_num_replicas for deployment, context in contexts.items()}
        ingress = next((context for name, context in contexts.items() if name.name == INGRESS), None)
        told = [] if ingress is None else _latest(ingress.raw_metrics)
        known = {name: context for name, context in contexts.items() if any(f"{name.name}.load" in m for m in told)}
        if known:
            engines = {
                name.name: engine_from(
                    told[0], name.name, context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
                )
                for name, context in known.items()
            }
            wants = {
                name: desired_replicas(engine, demand_from(told, name), self._settings)
                for name, engine in engines.items()
            }
            most, self._peaks = apply_downscale_delay(wants, self._peaks, now_s, self._settings)
            running = {name.name: context.target_num_replicas for name, context in known.items()}
            given = place_replicas(most, engines, self._look(now_s), running)
            targets |= {name: given[name.name] for name in known}
        return targets, {}

    def _look(self, now_s: float) -> list[float]:
        if now_s >= self._looked_s + _LOOK_EVERY_S:
            self._room, self._looked_s = self.cards(), now_s
        return self._room


def _latest(raw: Mapping[str, Mapping[Any, Any]] | None) -> list[Metrics]:
    """The last of every metric, by ingress replica."""
    replicas: dict[Any, Metrics] = {}
    for metric, series in (raw or {}).items():
        for replica, samples in series.items():
            if samples:
                replicas.setdefault(replica, {})[metric] = samples[-1].value
    return list(replicas.values())


def _cards() -> list[float]:
    """The cards of all nodes, each whole: what else runs on them is not known here."""
    import ray

    return [1.0] * sum(int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"])
