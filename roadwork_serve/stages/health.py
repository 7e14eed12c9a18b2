"""Health checks of the stages of a process: calls must end, and an idle stage must answer a synthetic item."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO

import numpy as np
from PIL import Image

from roadwork_serve.cascade.gpu_time_slicing import TimeSlicedStage
from roadwork_serve.cascade.prediction import Item, Stage, StagePrediction
from roadwork_serve.errors import ModelError, StageFailed
from roadwork_serve.profiles.stage_kinds import StageName

PROBE_AFTER_S = 20.0  # an idle stage is probed this long after its last good answer
STUCK_TIMEOUTS = 3  # a call that takes this many times the stage's timeout is considered stuck
_SILENT_TIMEOUTS = 1.5  # so is a stage that has calls and answers none of them for this long
_STALLED_S, _STALLED_CALLS = 5.0, 4  # a stage stalls without an answer for this long, and for that many slow calls
_IDLE_S = 2.0  # calls with a longer break between them are not one series
_SIDE, _FRAMES = (320, 240), 4
_LOG = logging.getLogger("ray.serve.roadwork.health")


@dataclass(slots=True, eq=False)
class _StageHealth:
    """The health of one stage. All times are on the clock of the monitor, in seconds."""

    timeout_s: float
    #: Time of the last good answer.
    good_s: float
    #: Start times of the calls in flight.
    calls: dict[object, float] = field(default_factory=dict)
    #: End of the last call.
    ended_s: float = -math.inf
    #: Duration of the slowest call that was answered; None before the first.
    slowest_s: float | None = None
    #: Time since which there have been calls and none was answered; None after an answer.
    silent_since_s: float | None = None
    #: True if it has been silent for too long, until it answers.
    stalled: bool = False
    probe: asyncio.Task[None] | None = None
    #: Start time of the probe.
    probe_s: float = 0.0
    #: Failure of the last probe; None after a good answer.
    failure: str | None = None

    def silent_s(self, now_s: float) -> float:
        """Return for how long the stage has had calls and has answered none."""
        return 0.0 if self.silent_since_s is None else now_s - self.silent_since_s


class HealthMonitor:
    """Monitors the stages of one process, which have just been warmed up. Needs a running event loop."""

    def __init__(
        self,
        stages: Mapping[StageName, Stage],
        timeouts_s: Mapping[StageName, float],
        side: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create the monitor.

        Args:
            stages: The stages by name.
            timeouts_s: Timeout of each stage in seconds.
            side: Side of the thumbnails of stage 1 in pixels.
            clock: Returns the time in seconds.
        """
        self._stages, self._side, self._clock = stages, side, clock
        self._health: dict[StageName, _StageHealth] = {name: _StageHealth(timeouts_s[name], clock()) for name in stages}

    @contextmanager
    def track(self, name: StageName) -> Iterator[None]:
        """Track a real call. It cancels running probes, so that it need not wait for them."""
        for health in self._health.values():
            if health.probe:
                health.probe.cancel()
        health, token, began = self._health[name], object(), self._clock()
        if health.silent_since_s is None or not (health.calls or health.stalled or began - health.ended_s < _IDLE_S):
            health.silent_since_s = began
        health.calls[token] = began
        answered = True
        try:
            yield
        except asyncio.CancelledError:
            answered = False
            raise
        finally:
            del health.calls[token]
            health.ended_s = self._clock()
            if answered:
                health.slowest_s = max(health.slowest_s or 0.0, health.ended_s - began)
                self._answered(health, health.ended_s)

    def check_stalled(self, name: StageName) -> None:
        """Raise StageFailed if the stage has answered no call for far longer than its slowest calls took.

        Calls whose callers have given up count. Unlike a failed `check` it does not replace the process, since the
        stage may continue: a probe then finds out.
        """
        health, now = self._health[name], self._clock()
        usual_s = health.timeout_s
        if health.slowest_s is not None and not isinstance(self._stages[name], TimeSlicedStage):
            usual_s = min(usual_s, max(_STALLED_S, _STALLED_CALLS * health.slowest_s))
        silent_s = health.silent_s(now)
        if silent_s <= usual_s:
            return
        health.stalled = health.stalled or bool(health.calls)
        if not health.calls and not health.probe:
            self._start_probe(name, now)
        if health.stalled:
            raise StageFailed(f"{name} has calls and has answered none for {silent_s:.0f} s")

    @staticmethod
    def _answered(health: _StageHealth, now_s: float) -> None:
        health.silent_since_s = now_s if health.calls else None
        health.stalled = False

    def validate(self, name: StageName, predictions: Sequence[StagePrediction]) -> list[StagePrediction]:
        """Return the predictions, and record that the stage works if there are any.

        Raises:
            ModelError: A logit is NaN or infinite.
        """
        for prediction in predictions:
            if prediction.logit is not None and not math.isfinite(prediction.logit):
                raise ModelError(
                    f"{prediction.model} returns {prediction.logit}: set dtype: bfloat16, or float32 on a CPU; with "
                    "these dtypes its weights are damaged"
                )
        if predictions:
            health = self._health[name]
            health.good_s, health.failure = self._clock(), None
            self._answered(health, health.good_s)
        return list(predictions)

    async def check(self) -> None:
        """Check all stages, and start the probes that are due without waiting for them.

        Raises:
            RuntimeError: A call is stuck, a stage answers none of its calls, or the last probe of a stage failed or
                takes too long.
            Exception: Any error of `Stage.check`.
        """
        now = self._clock()
        for name, health in self._health.items():
            for began in health.calls.values():
                if now - began > STUCK_TIMEOUTS * health.timeout_s:
                    raise RuntimeError(f"a call to {name} has not ended for {now - began:.0f} s")
            silent_s = health.silent_s(now) if health.calls or health.stalled else 0.0
            if silent_s > _SILENT_TIMEOUTS * health.timeout_s:
                raise RuntimeError(f"{name} has calls and has answered none for {silent_s:.0f} s")
            if health.probe and now - health.probe_s > health.timeout_s:
                raise RuntimeError(f"a health probe of {name} has not ended for {now - health.probe_s:.0f} s")
        for stage in self._stages.values():
            await stage.check()
        failures = [health.failure for health in self._health.values() if health.failure]
        for name, health in self._health.items():
            due = health.failure or now - health.good_s > PROBE_AFTER_S
            if due and not health.calls and not health.probe:
                self._start_probe(name, now)
        if failures:
            raise RuntimeError("; ".join(failures))

    async def aclose(self) -> None:
        """Cancel running probes."""
        probes = [health.probe for health in self._health.values() if health.probe]
        for probe in probes:
            probe.cancel()
        await asyncio.gather(*probes, return_exceptions=True)

    def _start_probe(self, name: StageName, now: float) -> None:
        health = self._health[name]

        def ended(_: asyncio.Task[None]) -> None:
            health.probe = None

        health.probe_s, health.probe = now, asyncio.create_task(self._probe(name), name=f"probe of {name}")
        health.probe.add_done_callback(ended)

    async def _probe(self, name: StageName) -> None:
        """Run a stage on a synthetic item, unless another engine of its time_slice_group is awake."""
        stage, health = self._stages[name], self._health[name]
        try:
            if not isinstance(stage, TimeSlicedStage) or stage.active:
                item = synthetic_item(name, self._side, health.timeout_s).slim(stage.sees)  # as in real calls
                self.validate(name, await stage.predict([item]))
        except Exception as error:
            health.failure = f"{name} fails on a synthetic item: {type(error).__name__}: {error}"
            _LOG.exception("Stage %s fails on a synthetic item.", name)


def synthetic_item(name: StageName, side: int, left_s: float) -> Item:
    """Return a grey photo, or a grey clip for the video stage.

    Args:
        name: Name of the stage.
        side: Side of the thumbnails in pixels.
        left_s: Time until its deadline in seconds.
    """
    count = _FRAMES if name == "video" else 1
    file = BytesIO()
    Image.new("RGB", _SIDE, "grey").save(file, "JPEG")
    return Item(
        "synthetic",
        "clip" if count > 1 else "photo",
        (file.getvalue(),) * count,
        np.full((count, side, side, 3), 128, np.uint8),
        tuple(at / 4 for at in range(count)),
        time.monotonic() + left_s,
    )
