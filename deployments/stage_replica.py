"""The stages as Ray Serve deployments: one deployment for each engine, which most stages do not share."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig
from ray.serve.metrics import Histogram

from deployments.autoscaling import DOWNSCALE_S, UPSCALE_S
from deployments.gpus import gpu_options
from deployments.load_progress import report_progress
from deployments.loopback import stay_on_loopback
from deployments.priority import lower_priority
from deployments.replica_logs import configure_logs
from roadwork_serve.api.deployment_names import deployment_of
from roadwork_serve.cascade.gpu_time_slicing import GpuTimeSlicer, Sleepable, TimeSlicedStage
from roadwork_serve.cascade.prediction import Item, Stage, StageInput, StagePrediction
from roadwork_serve.engines.compile_caches import keep_compiled
from roadwork_serve.engines.gpu_lock import gpu_load_lock
from roadwork_serve.errors import RoadworkError, StageFailed
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.stage_kinds import StageName
from roadwork_serve.profiles.stage_spec import StageSpec
from roadwork_serve.stages.health import HealthMonitor
from roadwork_serve.stages.load import Opener

_LOG = logging.getLogger("ray.serve.roadwork.stage_replica")
_SIDE = 224  # of thumbnails in pixels, unless the profile sets it
# Niceness of replicas on a CPU: loading takes precedence over serving, and the ingress over both. Those that feed a GPU
# keep 0.
_LOADING, _SERVING = 5, 10
_SPARE_CALLS = 4  # beside the slots, so that calls in flight do not block probes
_SHUTDOWN_S = 15.0  # for the calls in flight. Most take less; one that hangs must not block the GPU longer.


class StageReplica:
    """One process of an engine: loads its model, then runs batches for the stages that use it."""

    async def __init__(
        self, engines: Mapping[str, EngineSpec], users: Mapping[str, Mapping[StageName, StageSpec]], opener: Opener
    ) -> None:
        """Load the models and run every stage once. Serve awaits this before it sends calls.

        Args:
            engines: One engine, or several that share a GPU by time slicing, or just the process.
            users: The stages that use each engine.
            opener: Opens an engine and makes the stages that use it.
        """
        stay_on_loopback()
        configure_logs()
        on_gpu = any(engine.device == "cuda" for engine in engines.values())
        sliced = any(engine.time_slice_group for engine in engines.values())
        if on_gpu:
            keep_compiled()
        else:
            lower_priority(_LOADING)
        _set_threads(max(engine.threads for engine in engines.values()))
        logging.getLogger("ray.serve").addFilter(_no_access_log)
        began = time.monotonic()
        opened: dict[str, Mapping[StageName, Stage]] = {}
        specs: dict[StageName, StageSpec] = {name: spec for using in users.values() for name, spec in using.items()}
        tell = partial(report_progress, deployment_of(specs))
        await asyncio.to_thread(_download, list(engines.values()), tell)
        for name, engine in engines.items():
            if opened and sliced:
                await _sleepable(opened[list(opened)[-1]]).sleep()
            tell(f"waiting to load {engine.model}")
            with gpu_load_lock(engine):
                tell(f"loading {engine.model}")
                opened[name] = opener(engine, users[name])
                for stage in opened[name].values():
                    await stage.warm()
        self._stages: dict[StageName, Stage] = {}
        slicer = await _time_slicer(opened) if sliced else None
        for name, stages in opened.items():
            self._stages |= {
                at: TimeSlicedStage(stage, name, slicer, specs[at].timeout_s) if slicer else stage
                for at, stage in stages.items()
            }
        side = max(engine.features.side or _SIDE for engine in engines.values())
        self._health = HealthMonitor(self._stages, {name: spec.timeout_s for name, spec in specs.items()}, side)
        # Serve awaits it when the calls in flight have ended. As a method of the class, Python would call it too.
        self.__del__ = self.aclose
        if not on_gpu:  # a GPU would wait for a thread that waits for a core
            lower_priority(_SERVING)
        tell("")
        loaded = ", ".join(f"{', '.join(stages)} with {engines[name].model}" for name, stages in opened.items())
        _LOG.info("Warm after %.1f s: %s.", time.monotonic() - began, loaded)

    async def describe(self, name: StageName) -> StageInput:
        """Return the input that the stage needs. Clients call it to probe whether the stage answers.

        Raises StageFailed if it has calls and answers none of them.
        """
        self._health.check_stalled(name)
        return self._stages[name].sees

    async def predict(self, name: StageName, items: list[Item], left_s: list[float]) -> list[StagePrediction]:
        """Return one prediction for each item, in order.

        Raises StageFailed if the model raises an error, or returns something that is not a number.

        Args:
            name: Name of the stage.
            items: The items.
            left_s: Seconds that each item had left when it was sent; its deadline is on the sender's clock.
        """
        now = time.monotonic()
        timed = [replace(item, deadline_s=now + left) for item, left in zip(items, left_s, strict=True)]
        with self._health.track(name):
            try:
                return self._health.validate(name, await self._stages[name].predict(timed))
            except Exception as error:  # only text leaves: the caller need not be able to import what raised it
                _LOG.exception("Stage %s failed on %d items.", name, len(items))
                message = str(error) if isinstance(error, RoadworkError) else f"{type(error).__name__}; see its log"
                raise StageFailed(message) from None

    async def check_health(self) -> None:
        """Raise an error if the engine has died, hangs, or returns no predictions: see `HealthMonitor`.

        Serve calls it every two seconds, and replaces the process after three failures.
        """
        await self._health.check()

    async def aclose(self) -> None:
        """Finish the running batches and unload the models."""
        await self._health.aclose()
        for name, stage in self._stages.items():
            try:
                await stage.aclose()
            except Exception:
                _LOG.exception("Stage %s could not be closed.", name)


def process_app(
    engines: Mapping[str, EngineSpec],
    users: Mapping[str, Mapping[StageName, StageSpec]],
    opener: Opener,
    callers: int = 1,
) -> Application:
    """Return the deployment of a process, named after the stages that use its engines.

    Args:
        engines: One engine, or several that share a GPU by time slicing, or just the process.
        users: The stages that use each engine.
        opener: Opens an engine inside the replica; must pickle.
        callers: Ingress replicas, each of which has its own slots.
    """
    every = list(engines.values())
    resources: dict[str, Any] = {"num_cpus": sum(engine.num_cpus for engine in every), **gpu_options(every[0])}
    if memory_mb := sum(engine.memory_mb for engine in every):
        resources["memory"] = memory_mb * 2**20
    specs: dict[StageName, StageSpec] = {name: spec for using in users.values() for name, spec in using.items()}
    slots = sum(spec.slots for spec in specs.values())
    most = every[0].max_replicas or every[0].replicas
    deployed = serve.deployment(
        name=deployment_of(specs),
        **_replicas(every[0], slots * callers),
        ray_actor_options=resources,
        # As many as all callers may send at the most replicas: calls queued in Serve's handle would block probes.
        max_ongoing_requests=slots * callers * most + _SPARE_CALLS,
        # Of each caller, while no replica accepts calls. An ingress never sends more than its slots, because its own
        # queues, which know deadlines, hold the rest; other callers with a handle get an error.
        max_queued_requests=slots * most + _SPARE_CALLS,
        max_surge_percent=100 * _surges(every[0]),
        health_check_period_s=2,
        health_check_timeout_s=30,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=_SHUTDOWN_S,
    )(StageReplica)
    return deployed.bind(dict(engines), {name: dict(using) for name, using in users.items()}, opener)


def _download(engines: Sequence[EngineSpec], tell: Callable[[str], None]) -> None:
    """Download the weights of engines, before any waits for its GPU. Replicas do this at the same time."""
    for engine in engines:
        if engine.backend in ("transformers", "vllm") and "/" in engine.model:
            from roadwork_serve.engines.downloads import download_weights

            download_weights(engine, tell)


def _surges(engine: EngineSpec) -> bool:
    """Return whether a new replica starts before the one it replaces ends. A GPU may have no room for both."""
    return engine.device == "cpu" if engine.rolling_surge is None else engine.rolling_surge


def _replicas(engine: EngineSpec, calls: int) -> dict[str, Any]:
    """Return the number of replicas as Serve takes it: fixed, or a range for the application's autoscaling policy.

    Args:
        engine: The engine.
        calls: Target of calls in flight per replica; Serve uses it without such a policy.
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


async def _time_slicer(opened: Mapping[str, Mapping[StageName, Stage]]) -> GpuTimeSlicer:
    """Return the time slicer of engines, all of which but the last opened are asleep. Switches are measured."""
    seconds = Histogram(
        "roadwork_gpu_switch_seconds",
        description="Time to put one engine to sleep and wake another one on the same GPU, in seconds.",
        boundaries=[0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32],
        tag_keys=("engine",),
    )

    def on_switch(name: str, cost_s: float) -> None:
        seconds.observe(cost_s, {"engine": name})
        _LOG.info("Engine %s has the GPU after a switch of %.2f s.", name, cost_s)

    sleepables = {name: _sleepable(stages) for name, stages in opened.items()}
    first, last = next(iter(opened)), list(opened)[-1]
    began = time.monotonic()
    await sleepables[last].sleep()
    await sleepables[first].wake()
    cost_s = time.monotonic() - began
    on_switch(first, cost_s)
    return GpuTimeSlicer(sleepables, first, on_switch, cost_s)


def _sleepable(stages: Mapping[StageName, Stage]) -> Sleepable:
    """Return the sleep control of the engine that these stages share."""
    return cast(Sleepable, next(iter(stages.values())))  # a profile allows time slicing for language models only


def _set_threads(threads: int) -> None:
    """Set the number of threads of the numerical libraries, which the models import later.

    Ray has set OMP_NUM_THREADS to the CPUs it reserves, which may be a fraction.
    """
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(threads)


def _no_access_log(record: logging.LogRecord) -> bool:
    """Filter out access logs, which only the ingress needs: here they would be a line for each batch and probe."""
    return not getattr(record, "serve_access_log", False)
