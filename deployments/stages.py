"""The stages as Ray Serve deployments: one class, one deployment a stage, everything else is in its spec."""

import logging
import os
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace

from ray import serve
from ray.serve import Application

from deployments.loopback import stay_on_loopback
from roadwork_serve.cascade.local import LocalClient
from roadwork_serve.cascade.opinion import Item, Opinion, Sees, Stage
from roadwork_serve.errors import StageFailed
from roadwork_serve.profiles.profile import StageSpec

Opener = Callable[[str, StageSpec], Stage]

DEPLOYMENTS = {
    "backbone": "Backbone",
    "signs": "SignReader",
    "vlm": "FastVLM",
    "reasoner": "Reasoner",
    "video": "VideoReasoner",
}

_LOG = logging.getLogger("ray.serve.roadwork.stages")
_SPARE_CALLS = 4  # beside the slots: a call in flight must not keep probes out


class StageReplica:
    """One process of a stage: loads its model, then judges batches in a worker thread."""

    def __init__(self, name: str, spec: StageSpec, opener: Opener) -> None:
        """Ready when this returns: the model is loaded and has run once."""
        stay_on_loopback()
        _compute_with(spec.threads)
        logging.getLogger("ray.serve").addFilter(_is_no_probe)
        began = time.monotonic()
        stage = opener(name, spec)
        stage.warm()
        self._name = name
        self._sees: Sees = stage.sees
        self._stuck_s = 3 * spec.timeout_s
        self._local = LocalClient(stage)
        self._since: dict[object, float] = {}  # when each call in flight began
        _LOG.info("Stage %s is warm with %s after %.1f s.", name, spec.model, time.monotonic() - began)

    async def introduce(self) -> Sees:
        """What the stage looks at. That it answers says that it lives."""
        return self._sees

    async def judge(self, items: list[Item], left_s: list[float]) -> list[Opinion]:
        """One opinion an item, in order.

        left_s: seconds each item had left when it was sent; its own deadline is on the sender's clock.
        Raises StageFailed when the model raises.
        """
        now = time.monotonic()
        timed = [replace(item, deadline_s=now + left) for item, left in zip(items, left_s, strict=True)]
        with self._counted():
            try:
                return await self._local.judge(timed)
            except Exception as error:  # only text leaves: the caller need not be able to import what raised it
                _LOG.exception("Stage %s failed on %d items.", self._name, len(items))
                raise StageFailed(f"{type(error).__name__}: {error}") from None

    async def check_health(self) -> None:
        """Raises when a call has run for so long that the model must be stuck; Serve then replaces the process."""
        oldest_s = time.monotonic() - min(self._since.values(), default=time.monotonic())
        if oldest_s > self._stuck_s:
            raise RuntimeError(f"a call to {self._name} has not ended for {oldest_s:.0f} s")

    @contextmanager
    def _counted(self):
        token = object()
        self._since[token] = time.monotonic()
        try:
            yield
        finally:
            del self._since[token]


def stage_app(name: str, spec: StageSpec, opener: Opener, callers: int = 1) -> Application:
    """The deployment of a stage. callers: ingress replicas, each of which keeps its own slots."""
    resources = {"num_cpus": spec.num_cpus, "num_gpus": spec.num_gpus}
    if spec.memory_mb:
        resources["memory"] = spec.memory_mb * 2**20
    deployed = serve.deployment(
        name=DEPLOYMENTS[name],
        num_replicas=spec.replicas,
        ray_actor_options=resources,
        max_ongoing_requests=spec.slots * callers + _SPARE_CALLS,
        health_check_period_s=2,
        health_check_timeout_s=30,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=10,
    )(StageReplica)
    return deployed.bind(name, spec, opener)


def _compute_with(threads: int) -> None:
    """Tell the maths libraries, before they are imported, how many threads a model computes with.

    Ray has set OMP_NUM_THREADS to the CPUs it books, which may be a fraction.
    """
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(threads)


def _is_no_probe(record: logging.LogRecord) -> bool:
    """Keeps the access log to calls that mean something: each ingress probes every second."""
    return not (getattr(record, "serve_access_log", False) and "introduce" in record.getMessage())
