"""The stages as Ray Serve deployments: one class, one deployment an engine, which most stages have to themselves."""

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from ray import serve
from ray.serve import Application

from deployments.loopback import stay_on_loopback
from roadwork_serve.cascade.opinion import Item, Opinion, Sees
from roadwork_serve.errors import RoadworkError, StageFailed
from roadwork_serve.profiles.profile import EngineSpec, StageName, StageSpec
from roadwork_serve.stages.load import Opener

DEPLOYMENTS: dict[StageName, str] = {
    "backbone": "Backbone",
    "signs": "SignReader",
    "vlm": "FastVLM",
    "reasoner": "Reasoner",
    "video": "VideoReasoner",
}

_LOG = logging.getLogger("ray.serve.roadwork.stages")
_SPARE_CALLS = 4  # beside the slots: calls in flight must not keep probes out


class StageReplica:
    """One process of an engine: loads its model, then judges batches for the stages that ask it."""

    async def __init__(self, engine: EngineSpec, users: Mapping[StageName, StageSpec], opener: Opener) -> None:
        """Ready when this returns: the model is loaded and every stage has run once. Serve awaits it."""
        stay_on_loopback()
        _compute_with(engine.threads)
        logging.getLogger("ray.serve").addFilter(_is_no_probe)
        began = time.monotonic()
        self._stages = opener(engine, users)
        for stage in self._stages.values():
            await stage.warm()
        self._stuck_s = {name: 3 * spec.timeout_s for name, spec in users.items()}
        self._since: dict[object, tuple[StageName, float]] = {}  # when each call in flight began
        told = ", ".join(users)
        _LOG.info("%s warm with %s after %.1f s.", told, engine.model, time.monotonic() - began)

    async def introduce(self, name: StageName) -> Sees:
        """What the stage looks at. That it answers says that it lives."""
        return self._stages[name].sees

    async def judge(self, name: StageName, items: list[Item], left_s: list[float]) -> list[Opinion]:
        """The stage's opinions, one an item, in order.

        left_s: seconds each item had left when it was sent; its own deadline is on the sender's clock.
        Raises StageFailed when the model raises.
        """
        now = time.monotonic()
        timed = [replace(item, deadline_s=now + left) for item, left in zip(items, left_s, strict=True)]
        with self._counted(name):
            try:
                return await self._stages[name].judge(timed)
            except Exception as error:  # only text leaves: the caller need not be able to import what raised it
                _LOG.exception("Stage %s failed on %d items.", name, len(items))
                told = str(error) if isinstance(error, RoadworkError) else f"{type(error).__name__}; its log has more"
                raise StageFailed(told) from None

    async def check_health(self) -> None:
        """Raises when the engine has died, or a call has run for so long that the model must be stuck.

        Serve then replaces the process.
        """
        now = time.monotonic()
        for name, began in self._since.values():
            if now - began > self._stuck_s[name]:
                raise RuntimeError(f"a call to {name} has not ended for {now - began:.0f} s")
        for stage in self._stages.values():
            await stage.check()

    @contextmanager
    def _counted(self, name: StageName) -> Iterator[None]:
        token = object()
        self._since[token] = name, time.monotonic()
        try:
            yield
        finally:
            del self._since[token]


def engine_app(
    engine: EngineSpec, users: Mapping[StageName, StageSpec], opener: Opener, callers: int = 1
) -> Application:
    """The deployment of an engine, named after the stages that ask it.

    callers: ingress replicas, each of which keeps its own slots.
    """
    resources = {"num_cpus": engine.num_cpus, "num_gpus": engine.num_gpus}
    if engine.memory_mb:
        resources["memory"] = engine.memory_mb * 2**20
    slots = sum(spec.slots for spec in users.values())
    deployed = serve.deployment(
        name="-".join(DEPLOYMENTS[name] for name in users),
        num_replicas=engine.replicas,
        ray_actor_options=resources,
        max_ongoing_requests=slots * callers + _SPARE_CALLS,
        health_check_period_s=2,
        health_check_timeout_s=30,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=10,
    )(StageReplica)
    return deployed.bind(engine, dict(users), opener)


def _compute_with(threads: int) -> None:
    """Tell the libraries that the models bring in how many threads to compute with.

    Ray has set OMP_NUM_THREADS to the CPUs it books, which may be a fraction.
    """
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(threads)


def _is_no_probe(record: logging.LogRecord) -> bool:
    """Keeps the access log to calls that mean something: each ingress probes every second."""
    return not (getattr(record, "serve_access_log", False) and "introduce" in record.getMessage())
