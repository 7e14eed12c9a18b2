"""The two policies side by side: the cascade's own, and Ray Serve's by its own code."""

from collections import deque
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import ray.serve.autoscaling_policy as rays
from ray.serve._private.common import DeploymentID
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from benchmarks.autoscaling_sim.simulate import Line
from benchmarks.autoscaling_sim.world import World
from roadwork_serve.autoscaling.arrivals import ArrivalStats
from roadwork_serve.autoscaling.replicas import (
    Demand,
    ScalableEngine,
    ScalingSettings,
    apply_downscale_delay,
    desired_replicas,
    place_replicas,
)

LEAST = 1


class Cascade:
    """`roadwork_serve.autoscaling.replicas`, as the server runs it."""

    def __init__(self, world: World, settings: ScalingSettings) -> None:
        self._settings = settings
        self._now_s = 0.0
        self._flow = ArrivalStats({name: stage.slots for name, stage in world.stages}, lambda: self._now_s)
        self._engines = {
            name: ScalableEngine(stage.gpus, stage.slots, LEAST, stage.most) for name, stage in world.stages
        }
        self._cards = [1.0] * world.cards
        self._peaks: dict[str, list[tuple[float, int]]] = {}

    def record_arrival(self, now_s: float) -> None:
        self._now_s = now_s
        self._flow.record_arrival()

    def record_inference(self, stage: str, took_s: float, batch: int) -> None:
        self._flow.record_inference(stage, took_s, batch)

    def record_exit(self, stages: list[str]) -> None:
        self._flow.record_exit(stages)

    def targets(self, now_s: float, lines: dict[str, Line]) -> dict[str, int]:
        self._now_s = now_s
        wants = {}
        for name, engine in self._engines.items():
            backlog_s = len(lines[name].waiting) * self._flow.item_s(name)
            demand = Demand(self._flow.load(name), backlog_s, self._flow.idle_s(name))
            wants[name] = desired_replicas(engine, demand, self._settings)
        most, self._peaks = apply_downscale_delay(wants, self._peaks, now_s, self._settings)
        running = {name: lines[name].target for name in lines}
        return place_replicas(most, self._engines, self._cards, running)


@dataclass(frozen=True, slots=True)
class RaySettings:
    """target: ongoing items a replica, as a share of what one has in work when all of its slots hold full batches."""

    target: float
    upscale_delay_s: float = 30.0
    downscale_delay_s: float = 600.0


class _Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def time(self) -> float:
        return self.now_s


class Default:
    """`replica_queue_length_autoscaling_policy` of the Ray that is installed, each deployment by itself.

    It is shown more than a handle would show it: what waits in the ingress counts as ongoing, too.
    """

    def __init__(self, world: World, settings: RaySettings) -> None:
        self._clock = _Clock()
        self._configs = {
            name: AutoscalingConfig(
                min_replicas=LEAST,
                max_replicas=stage.most,
                target_ongoing_requests=max(0.1, settings.target * stage.slots * stage.max_batch),
                upscale_delay_s=settings.upscale_delay_s,
                downscale_delay_s=settings.downscale_delay_s,
            )
            for name, stage in world.stages
        }
        self._seen: dict[str, deque[tuple[float, int]]] = {name: deque() for name in self._configs}
        self._state: dict[str, dict[str, Any]] = {name: {} for name in self._configs}
        self._policy = rays._apply_autoscaling_config(rays.replica_queue_length_autoscaling_policy)

    def record_arrival(self, now_s: float) -> None:
        """Do nothing: this policy uses queue lengths only."""

    def record_inference(self, stage: str, took_s: float, batch: int) -> None:
        """Do nothing: this policy uses queue lengths only."""

    def record_exit(self, stages: list[str]) -> None:
        """Do nothing: this policy uses queue lengths only."""

    def targets(self, now_s: float, lines: dict[str, Line]) -> dict[str, int]:
        self._clock.now_s = now_s
        with patch.object(rays, "time", self._clock):
            return {name: self._target(name, lines[name], now_s) for name in lines}

    def _target(self, name: str, line: Line, now_s: float) -> int:
        config, seen = self._configs[name], self._seen[name]
        seen.append((now_s, line.ongoing))
        while seen[0][0] < now_s - config.look_back_period_s:
            seen.popleft()
        context = AutoscalingContext(
            deployment_id=DeploymentID(name, "day"),
            deployment_name=name,
            app_name="day",
            current_num_replicas=line.running,
            target_num_replicas=line.target,
            running_replicas=[],
            total_num_requests=sum(ongoing for _, ongoing in seen) / len(seen),
            total_queued_requests=None,
            aggregated_metrics=None,
            raw_metrics=None,
            capacity_adjusted_min_replicas=config.min_replicas,
            capacity_adjusted_max_replicas=config.max_replicas or 1,
            policy_state=self._state[name],
            last_scale_up_time=None,
            last_scale_down_time=None,
            current_time=now_s,
            config=config,
        )
        target, self._state[name] = self._policy(context)
        return max(config.min_replicas, min(config.max_replicas or 1, int(target)))
