"""Whether the stages of a process still judge. Real calls tell; where none comes, a made-up item is judged."""

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
from roadwork_serve.errors import ModelError
from roadwork_serve.profiles.profile import StageName

PROVE_S = 20.0  # after its last good answer a stage that has nothing to do is asked again
STUCK = 3  # times a stage's timeout: a call that has not ended after so long hangs
_SIDE, _FRAMES = (320, 240), 4
_LOG = logging.getLogger("ray.serve.roadwork.health")


@dataclass(slots=True, eq=False)
class _Pulse:
    """Of a stage: its calls in flight, when it last answered well, and the proof that runs, all by the clock."""

    timeout_s: float
    good_s: float
    calls: dict[object, float] = field(default_factory=dict)
    proof: asyncio.Task[None] | None = None
    proof_s: float = 0.0
    failure: str | None = None


class HealthMonitor:
    """Of the stages of one process, which have just been warmed up. Needs a running event loop.

    timeouts_s: of each stage. side: of the thumbs that stage 1 sees, pixels. clock: seconds.
    """

    def __init__(
        self,
        stages: Mapping[StageName, Stage],
        timeouts_s: Mapping[StageName, float],
        side: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stages, self._side, self._clock = stages, side, clock
        self._pulses: dict[StageName, _Pulse] = {name: _Pulse(timeouts_s[name], clock()) for name in stages}

    @contextmanager
    def counted(self, name: StageName) -> Iterator[None]:
        """Around a real call. It need not wait for proofs: they end where they are."""
        for pulse in self._pulses.values():
            if pulse.proof:
                pulse.proof.cancel()
        pulse, token = self._pulses[name], object()
        pulse.calls[token] = self._clock()
        try:
            yield
        finally:
            del pulse.calls[token]

    def sound(self, name: StageName, opinions: Sequence[StagePrediction]) -> list[StagePrediction]:
        """The opinions; if there are any, the stage judges. Raises ModelError when one is no number."""
        for opinion in opinions:
            if opinion.logit is not None and not math.isfinite(opinion.logit):
                raise ModelError(
                    f"{opinion.model} answers {opinion.logit}: set dtype: bfloat16, or float32 on a CPU; if it is so, "
                    "its weights are damaged"
                )
        if opinions:
            pulse = self._pulses[name]
            pulse.good_s, pulse.failure = self._clock(), None
        return list(opinions)

    async def check(self) -> None:
        """Raises RuntimeError when a call hangs or the last made-up item was not judged well or in time.

        Starts the proofs that are due and waits for none. Raises too what `Stage.check` raises.
        """
        now = self._clock()
        for name, pulse in self._pulses.items():
            for began in pulse.calls.values():
                if now - began > STUCK * pulse.timeout_s:
                    raise RuntimeError(f"a call to {name} has not ended for {now - began:.0f} s")
            if pulse.proof and now - pulse.proof_s > pulse.timeout_s:
                raise RuntimeError(f"{name} has been at a made-up item for {now - pulse.proof_s:.0f} s")
        for stage in self._stages.values():
            await stage.check()
        failures = [pulse.failure for pulse in self._pulses.values() if pulse.failure]
        for name, pulse in self._pulses.items():
            overdue = pulse.failure or now - pulse.good_s > PROVE_S
            if overdue and not pulse.calls and not pulse.proof:
                self._begin(name, now)
        if failures:
            raise RuntimeError("; ".join(failures))

    async def aclose(self) -> None:
        """End the proofs that run."""
        proofs = [pulse.proof for pulse in self._pulses.values() if pulse.proof]
        for proof in proofs:
            proof.cancel()
        await asyncio.gather(*proofs, return_exceptions=True)

    def _begin(self, name: StageName, now: float) -> None:
        pulse = self._pulses[name]

        def ended(_: asyncio.Task[None]) -> None:
            pulse.proof = None

        pulse.proof_s, pulse.proof = now, asyncio.create_task(self._prove(name), name=f"proof of {name}")
        pulse.proof.add_done_callback(ended)

    async def _prove(self, name: StageName) -> None:
        """Let a stage judge a made-up item, unless that would take another engine's turn."""
        stage, pulse = self._stages[name], self._pulses[name]
        try:
            if not isinstance(stage, TimeSlicedStage) or stage.awake:
                item = synthetic_item(name, self._side, pulse.timeout_s).slim(stage.sees)  # as real ones come
                self.sound(name, await stage.judge([item]))
        except Exception as error:
            pulse.failure = f"{name} cannot judge a made-up item: {type(error).__name__}: {error}"
            _LOG.exception("Stage %s cannot judge a made-up item.", name)


def synthetic_item(name: StageName, side: int, left_s: float) -> Item:
    """A grey photo, or a grey clip for the stage that sees clips. side: of its thumbs, pixels."""
    count = _FRAMES if name == "video" else 1
    file = BytesIO()
    Image.new("RGB", _SIDE, "grey").save(file, "JPEG")
    return Item(
        "made-up",
        "clip" if count > 1 else "photo",
        (file.getvalue(),) * count,
        np.full((count, side, side, 3), 128, np.uint8),
        tuple(at / 4 for at in range(count)),
        time.monotonic() + left_s,
    )
