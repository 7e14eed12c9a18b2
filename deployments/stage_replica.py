"""The stages as Ray Serve deployments: one class, one deployment an engine, which most stages have to themselves."""

import contextlib
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig
from ray.serve.metrics import Histogram

from deployments.autoscaling import DOWNSCALE_S, UPSCALE_S
from deployments.loopback import stay_on_loopback
from roadwork_serve.api.deployment_names import deployment_of
from roadwork_serve.cascade.gpu_time_slicing import GpuTimeSlicer, Sleepable, TimeSlicedStage
from roadwork_serve.cascade.prediction import Item, Stage, StageInput, StagePrediction
from roadwork_serve.engines.gpu_lock import exclusive_gpu_load
from roadwork_serve.errors import RoadworkError, StageFailed
from roadwork_serve.profiles.profile import EngineSpec, StageName, StageSpec
from roadwork_serve.stages.health import HealthMonitor
from roadwork_serve.stages.load import Opener

_LOG = logging.getLogger("ray.serve.roadwork.stages")
_SIDE = 224  # of thumbs, where no profile has told the engine, pixels
_LOADING, _SERVING = 5, 10  # niceness: one that is missed goes before those at work, and the ingress before all
_SPARE_CALLS = 4  # beside the slots: calls in flight must not keep probes out
# A replica that is to go may finish what it is at. Most calls take less; one that hangs must not hold the card longer.
_FINISH_S = 15.0


class StageReplica:
    """One process of an engine: loads its model, then judges batches for the stages that ask it."""

    async def __init__(
        self, engines: Mapping[str, EngineSpec], users: Mapping[str, Mapping[StageName, StageSpec]], opener: Opener
    ) -> None:
        """Ready when this returns: the models are loaded and every stage has run once. Serve awaits it.

        engines: one, or several that take turns on one card. users: the stages that ask each.
        """
        stay_on_loopback()
        give_way(_LOADING)
        _compute_with(max(engine.threads for engine in engines.values()))
        logging.getLogger("ray.serve").addFilter(_is_no_call)
        began = time.monotonic()
        opened: dict[str, Mapping[StageName, Stage]] = {}
        for name, engine in engines.items():
            if opened:
                await _sleeper(opened[list(opened)[-1]]).sleep()
            with exclusive_gpu_load(engine.device):
                opened[name] = opener(engine, users[name])
                for stage in opened[name].values():
                    await stage.warm()
        specs: dict[StageName, StageSpec] = {name: spec for using in users.values() for name, spec in using.items()}
        self._stages: dict[StageName, Stage] = {}
        turns = await _turns(opened) if len(opened) > 1 else None
        for name, stages in opened.items():
            self._stages |= {
                at: TimeSlicedStage(stage, name, turns, specs[at].timeout_s) if turns else stage
                for at, stage in stages.items()
            }
        side = max(engine.features.side or _SIDE for engine in engines.values())
        self._health = HealthMonitor(self._stages, {name: spec.timeout_s for name, spec in specs.items()}, side)
        # Serve calls this when the calls in flight have ended. Not the class's own: Python would call it, not await it.
        self.__del__ = self.aclose
        give_way(_SERVING)
        told = ", ".join(f"{', '.join(stages)} with {engines[name].model}" for name, stages in opened.items())
        _LOG.info("Warm after %.1f s: %s.", time.monotonic() - began, told)

    async def introduce(self, name: StageName) -> StageInput:
        """What the stage looks at. That it answers says that it lives."""
        return self._stages[name].sees

    async def judge(self, name: StageName, items: list[Item], left_s: list[float]) -> list[StagePrediction]:
        """The stage's opinions, one an item, in order.

        left_s: seconds each item had left when it was sent; its own deadline is on the sender's clock.
        Raises StageFailed when the model raises, or answers with what is no number.
        """
        now = time.monotonic()
        timed = [replace(item, deadline_s=now + left) for item, left in zip(items, left_s, strict=True)]
        with self._health.counted(name):
            try:
                return self._health.sound(name, await self._stages[name].judge(timed))
            except Exception as error:  # only text leaves: the caller need not be able to import what raised it
                _LOG.exception("Stage %s failed on %d items.", name, len(items))
                told = str(error) if isinstance(error, RoadworkError) else f"{type(error).__name__}; its log has more"
                raise StageFailed(told) from None

    async def check_health(self) -> None:
        """Raises when the engine has died, hangs, or no longer judges: see `HealthMonitor`.

        Serve asks every two seconds, and after three failures replaces the process.
        """
        await self._health.check()

    async def aclose(self) -> None:
        """Let go of the models, once what they are at is done."""
        await self._health.aclose()
        for name, stage in self._stages.items():
            try:
                await stage.aclose()
            except Exception:
                _LOG.exception("Stage %s does not close.", name)


def process_app(
    engines: Mapping[str, EngineSpec],
    users: Mapping[str, Mapping[StageName, StageSpec]],
    opener: Opener,
    callers: int = 1,
) -> Application:
    """The deployment of a process, named after the stages that ask its engines.

    engines: one, or several that take turns. callers: ingress replicas, each of which keeps its own slots.
    """
    every = list(engines.values())
    resources = {"num_cpus": sum(engine.num_cpus for engine in every), "num_gpus": every[0].num_gpus}
    if memory_mb := sum(engine.memory_mb for engine in every):
        resources["memory"] = memory_mb * 2**20
    specs: dict[StageName, StageSpec] = {name: spec for using in users.values() for name, spec in using.items()}
    slots = sum(spec.slots for spec in specs.values())
    most = every[0].max_replicas or every[0].replicas
    deployed = serve.deployment(
        name=deployment_of(specs),
        **_replicas(every[0], slots * callers),
        ray_actor_options=resources,
        # As many as all callers may send when there are more replicas: what waits in Serve's handle keeps probes out.
        max_ongoing_requests=slots * callers * most + _SPARE_CALLS,
        # Of each caller, while no replica takes calls. An ingress never sends more than its slots, for its own queues,
        # which know deadlines, hold the rest; whoever else has a handle is told to come back.
        max_queued_requests=slots * most + _SPARE_CALLS,
        max_surge_percent=100 * _surges(every[0]),
        health_check_period_s=2,
        health_check_timeout_s=30,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=_FINISH_S,
    )(StageReplica)
    return deployed.bind(dict(engines), {name: dict(using) for name, using in users.items()}, opener)


def _surges(engine: EngineSpec) -> bool:
    """Whether a replica of another version starts before the one it replaces ends. On a card there may be no room."""
    return engine.device == "cpu" if engine.surge is None else engine.surge


def _replicas(engine: EngineSpec, calls: int) -> dict[str, Any]:
    """How many, as Serve takes it: a fixed number, or a range that the application's policy decides in.

    calls: that one replica is meant to have in flight, which Serve goes by where no such policy is named.
    """
    if not engine.scales:
        return {"num_replicas": engine.replicas}
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=0 if engine.scale_to_zero else engine.replicas,
            initial_replicas=engine.replicas,
            max_replicas=engine.max_replicas or engine.replicas,
            target_ongoing_requests=calls,
            upscale_delay_s=UPSCALE_S,
            downscale_delay_s=DOWNSCALE_S,
        )
    }


async def _turns(opened: Mapping[str, Mapping[StageName, Stage]]) -> GpuTimeSlicer:
    """Turns of engines of which all but the last opened sleep. What each turn costs goes to Serve's metrics."""
    seconds = Histogram(
        "roadwork_turn_seconds",
        description="What it took to let one engine sleep and wake another on the same card.",
        boundaries=[0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32],
        tag_keys=("engine",),
    )

    def told(name: str, cost_s: float) -> None:
        seconds.observe(cost_s, {"engine": name})
        _LOG.info("%s has the card after a turn of %.2f s.", name, cost_s)

    sleepers = {name: _sleeper(stages) for name, stages in opened.items()}
    first, last = next(iter(opened)), list(opened)[-1]
    began = time.monotonic()
    await sleepers[last].sleep()
    await sleepers[first].wake()
    cost_s = time.monotonic() - began
    told(first, cost_s)
    return GpuTimeSlicer(sleepers, first, told, cost_s)


def _sleeper(stages: Mapping[StageName, Stage]) -> Sleepable:
    """What lets the engine sleep that these stages share."""
    return cast(Sleepable, next(iter(stages.values())))  # the profile lets language models alone take turns


def give_way(niceness: int) -> None:
    """Where cores are short let those go first that take requests and answer them.

    Of this thread, those it starts from now on, and those it started when it gave way last. Linux counts by thread:
    Ray's own stay as they are.
    """
    before = os.getpriority(os.PRIO_PROCESS, 0)
    for thread in {0} | ({int(name) for name in os.listdir("/proc/self/task")} if before else set()):
        with contextlib.suppress(OSError):  # it has ended
            if before <= os.getpriority(os.PRIO_PROCESS, thread) < niceness:
                os.setpriority(os.PRIO_PROCESS, thread, niceness)


def _compute_with(threads: int) -> None:
    """Tell the libraries that the models bring in how many threads to compute with.

    Ray has set OMP_NUM_THREADS to the CPUs it books, which may be a fraction.
    """
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(threads)


def _is_no_call(record: logging.LogRecord) -> bool:
    """Keeps the access log to the ingress: a line a batch says less than the verdicts, and each ingress probes too."""
    return not getattr(record, "serve_access_log", False)
