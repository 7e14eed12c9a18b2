"""The two autoscaling policies: the cascade's own, and Ray Serve's, run by Ray's code."""

from collections import deque
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import ray.serve.autoscaling_policy as ray_policy
from ray.serve._private.common import DeploymentID
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from benchmarks.autoscaling_sim.simulate import StageState
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

MIN_REPLICAS = 1


class Cascade:
    """The policy of `roadwork_serve.autoscaling.replicas`, as the server runs it."""

    def __init__(self, world: World, settings: ScalingSettings) -> None:
        self._settings = settings
        self._now_s = 0.0
        self._arrivals = ArrivalStats({name: stage.slots for name, stage in world.stages}, lambda: self._now_s)
        self._engines = {
            name: ScalableEngine(stage.gpus, stage.slots, MIN_REPLICAS, stage.max_replicas)
            for name, stage in world.stages
        }
        self._gpus = [1.0] * world.gpu_count
        self._peaks: dict[str, list[tuple[float, int]]] = {}

    def record_arrival(self, now_s: float) -> None:
        self._now_s = now_s
        self._arrivals.record_arrival()

    def record_inference(self, stage: str, took_s: float, batch: int) -> None:
        self._arrivals.record_inference(stage, took_s, batch)

    def record_exit(self, stages: list[str]) -> None:
        self._arrivals.record_exit(stages)

    def targets(self, now_s: float, states: dict[str, StageState]) -> dict[str, int]:
        self._now_s = now_s
        wants = {}
        for name, engine in self._engines.items():
            backlog_s = len(states[name].waiting) * self._arrivals.item_s(name)
            demand = Demand(self._arrivals.load(name), backlog_s, self._arrivals.idle_s(name))
            wants[name] = desired_replicas(engine, demand, self._settings)
        wants, self._peaks = apply_downscale_delay(wants, self._peaks, now_s, self._settings)
        running = {name: states[name].target for name in states}
        return place_replicas(wants, self._engines, self._gpus, running)


@dataclass(frozen=True, slots=True)
class RaySettings:
    """The settings of Ray's policy."""

    #: Ongoing items per replica, as a share of those in flight when all its slots hold full batches.
    target: float
    upscale_delay_s: float = 30.0
    downscale_delay_s: float = 600.0


class _Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def time(self) -> float:
        return self.now_s


class RayDefault:
    """The `replica_queue_length_autoscaling_policy` of the installed Ray, for each deployment separately.

    It sees more than a deployment handle reports: items queued in the ingress count as ongoing, too.
    """

    def __init__(self, world: World, settings: RaySettings) -> None:
        self._clock = _Clock()
        self._configs = {
            name: AutoscalingConfig(
                min_replicas=MIN_REPLICAS,
                max_replicas=stage.max_replicas,
                target_ongoing_requests=max(0.1, settings.target * stage.slots * stage.max_batch),
                upscale_delay_s=settings.upscale_delay_s,
                downscale_delay_s=settings.downscale_delay_s,
            )
            for name, stage in world.stages
        }
        self._history: dict[str, deque[tuple[float, int]]] = {name: deque() for name in self._configs}
        self._state: dict[str, dict[str, Any]] = {name: {} for name in self._configs}
        self._policy = ray_policy._apply_autoscaling_config(ray_policy.replica_queue_length_autoscaling_policy)

    def record_arrival(self, now_s: float) -> None:
        """Do nothing: this policy uses queue lengths only."""

    def record_inference(self, stage: str, took_s: float, batch: int) -> None:
        """Do nothing: this policy uses queue lengths only."""

    def record_exit(self, stages: list[str]) -> None:
        """Do nothing: this policy uses queue lengths only."""

    def targets(self, now_s: float, states: dict[str, StageState]) -> dict[str, int]:
        self._clock.now_s = now_s
        with patch.object(ray_policy, "time", self._clock):
            return {name: self._target(name, states[name], now_s) for name in states}

    def _target(self, name: str, state: StageState, now_s: float) -> int:
        config, history = self._configs[name], self._history[name]
        history.append((now_s, state.ongoing))
        while history[0][0] < now_s - config.look_back_period_s:
            history.popleft()
        context = AutoscalingContext(
            deployment_id=DeploymentID(name, "day"),
            deployment_name=name,
            app_name="day",
            current_num_replicas=state.running,
            target_num_replicas=state.target,
            running_replicas=[],
            total_num_requests=sum(ongoing for _, ongoing in history) / len(history),
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
