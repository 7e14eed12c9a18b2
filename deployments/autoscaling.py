"""How many replicas every deployment has: Ray Serve's application-level policy over `cascade.scaling`.

`autoscaling_policy` of serve_config.yaml names it. Serve pickles this module into its controller, which calls it a few
times a second; what it imports has to be installed there, too. The ingress tells what is asked of every deployment, for
it alone knows what waits and what is still to come: see `reported`.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from deployments.names import INGRESS
from roadwork_serve.cascade.scaling import Demand, Engine, checked, held, placed, wanted

UPSCALE_S, DOWNSCALE_S = 0.0, 30.0  # Serve's own delays: a replica more counts at once, one less a while later
_LOOK_EVERY_S = 10.0  # at the nodes

Metrics = dict[str, float]


class AsOne:
    """Scales the cascade as one.

    settings: fields of `scaling.Settings`, as `policy_kwargs` of serve_config.yaml holds them. Raises ValueError for
    one that makes no sense.
    """

    cards: Callable[[], list[float]]
    clock = staticmethod(time.monotonic)

    def __init__(self, **settings: float) -> None:
        self.cards = _cards
        chosen = checked(settings)
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
            engines = {name.name: _engine(told[0], name.name, context) for name, context in known.items()}
            wants = {name: wanted(engine, _demand(told, name), self._settings) for name, engine in engines.items()}
            most, self._peaks = held(wants, self._peaks, now_s, self._settings)
            running = {name.name: context.target_num_replicas for name, context in known.items()}
            given = placed(most, engines, self._look(now_s), running)
            targets |= {name: given[name.name] for name in known}
        return targets, {}

    def _look(self, now_s: float) -> list[float]:
        if now_s >= self._looked_s + _LOOK_EVERY_S:
            self._room, self._looked_s = self.cards(), now_s
        return self._room


def reported(deployment: str, engine: Engine, demand: Demand) -> Metrics:
    """What an ingress replica tells of a deployment, as `record_autoscaling_stats` takes it."""
    return {
        f"{deployment}.load": demand.load,
        f"{deployment}.backlog_s": demand.backlog_s,
        f"{deployment}.quiet_s": demand.quiet_s,
        f"{deployment}.gpus": engine.gpus,
        f"{deployment}.slots": float(engine.slots),
        f"{deployment}.may_sleep": float(engine.may_sleep),
    }


def _latest(raw: Mapping[str, Mapping[Any, Any]] | None) -> list[Metrics]:
    """The last of every metric, by ingress replica."""
    replicas: dict[Any, Metrics] = {}
    for metric, series in (raw or {}).items():
        for replica, samples in series.items():
            if samples:
                replicas.setdefault(replica, {})[metric] = samples[-1].value
    return list(replicas.values())


def _engine(told: Metrics, name: str, context: Any) -> Engine:
    return Engine(
        told.get(f"{name}.gpus", 0.0),
        int(told.get(f"{name}.slots", 1)),
        context.capacity_adjusted_min_replicas,
        context.capacity_adjusted_max_replicas,
        told.get(f"{name}.may_sleep", 0.0) > 0,
    )


def _demand(told: list[Metrics], name: str) -> Demand:
    """Of all ingress replicas together."""
    own = [each for each in told if f"{name}.load" in each]
    return Demand(
        sum(each[f"{name}.load"] for each in own),
        sum(each[f"{name}.backlog_s"] for each in own),
        min(each[f"{name}.quiet_s"] for each in own),
    )


def _cards() -> list[float]:
    """The cards of all nodes, each whole: what else runs on them is not known here."""
    import ray

    return [1.0] * sum(int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"])
