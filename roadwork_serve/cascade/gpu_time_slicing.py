"""GPU time slicing: engines that do not fit on a GPU together use it one after the other.

One engine is active; the inputs of the others wait until it is their time slice. Experimental: not yet run on a GPU.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from roadwork_serve.cascade.prediction import Item, Stage, StageInput, StagePrediction

MIN_SLICE_SWITCHES = 10  # a time slice lasts at least this many times the cost of a switch, unless a deadline is close
MARGIN_S = 0.25
MAX_SWITCH_S = 120.0  # an engine that takes longer to sleep, and the other to wake, is stuck
_MAX_WAIT_S = 3600.0


class Sleepable(Protocol):
    """An engine that can release the GPU and take it again."""

    async def sleep(self) -> None:
        """Release the GPU. Called only while the engine is idle."""
        ...

    async def wake(self) -> None:
        """Take the GPU again."""
        ...


@dataclass(eq=False, slots=True)
class _Waiter:
    deadline_s: float
    admitted: asyncio.Future[None]


class GpuTimeSlicer:
    """Decides which engine is active. Needs a running event loop.

    It switches when a waiting caller would otherwise miss its deadline, or when the active engine is idle and its time
    slice has lasted MIN_SLICE_SWITCHES times the cost of a switch. All callers that wait for an engine are admitted
    together when it becomes active, and finish before the next switch.

    Args:
        engines: by name.
        active: name of the active engine; the others are asleep already.
        on_switch: called with the name of the new active engine and the seconds that the switch took.
        switch_s: estimated seconds of a switch.
    """

    def __init__(
        self,
        engines: Mapping[str, Sleepable],
        active: str,
        on_switch: Callable[[str, float], None],
        switch_s: float = 0.0,
    ) -> None:
        self.active = active
        self._engines = engines
        self._on_switch = on_switch
        self._waiting: dict[str, list[_Waiter]] = {name: [] for name in engines}
        self._running = 0
        self._switching = False
        self._switch_s = switch_s
        self._call_s = dict.fromkeys(engines, 0.0)  # moving average
        self._active_since_s = time.monotonic()
        self._changed = asyncio.Event()
        self._scheduler = asyncio.create_task(self._schedule(), name="gpu time slices")

    @asynccontextmanager
    async def time_slice(self, name: str, deadline_s: float) -> AsyncGenerator[None]:
        """Enter while the engine is active. `deadline_s` is that of the call, on the clock of `time.monotonic()`.

        Raises the error that ended the scheduler, if an engine could not be woken.
        """
        await self._enter(name, deadline_s)
        began = time.monotonic()
        try:
            yield
            took = time.monotonic() - began
            self._call_s[name] = took if not self._call_s[name] else 0.8 * self._call_s[name] + 0.2 * took
        finally:
            self._exit()

    def is_active(self, name: str) -> bool:
        """Return whether this engine has the GPU and new calls can enter."""
        return name == self.active and not self._switching

    def check(self) -> None:
        """Raise the error that ended the scheduler, if an engine could not be woken."""
        if self._scheduler.done() and not self._scheduler.cancelled():
            self._scheduler.result()

    async def aclose(self) -> None:
        """Stop the scheduler; waiting callers are cancelled."""
        self._scheduler.cancel()
        await asyncio.wait([self._scheduler])

    async def _enter(self, name: str, deadline_s: float) -> None:
        self.check()
        if self.is_active(name):
            self._running += 1
            return
        waiter = _Waiter(deadline_s, asyncio.get_running_loop().create_future())
        self._waiting[name].append(waiter)
        self._changed.set()
        try:
            await waiter.admitted
        except asyncio.CancelledError:
            if waiter.admitted.done() and not waiter.admitted.cancelled():  # admitted at the same moment
                self._exit()
            raise
        finally:
            self._waiting[name].remove(waiter)

    def _exit(self) -> None:
        self._running -= 1
        self._changed.set()

    async def _schedule(self) -> None:
        try:
            while True:
                self._changed.clear()
                name, in_s = self._next()
                if name is not None and in_s <= 0:
                    await self._switch_to(name)
                    continue
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(in_s, _MAX_WAIT_S)):
                        await self._changed.wait()
        except BaseException as error:
            for waiter in (waiter for waiters in self._waiting.values() for waiter in waiters):
                if not waiter.admitted.done():
                    if isinstance(error, Exception):
                        waiter.admitted.set_exception(error)
                    else:
                        waiter.admitted.cancel()
            raise

    def _next(self) -> tuple[str | None, float]:
        """Return the next engine and the seconds until the switch, negative if overdue; None while no caller waits."""
        now = time.monotonic()
        best: tuple[str | None, float] = (None, math.inf)
        for name, waiters in self._waiting.items():
            feasible = [waiter.deadline_s for waiter in waiters if waiter.deadline_s - now > self._switch_s]
            if name == self.active or not feasible:
                continue
            in_s = min(feasible) - (self._switch_s + self._call_s[name] + MARGIN_S) - now
            if not self._running:
                in_s = min(in_s, self._active_since_s + MIN_SLICE_SWITCHES * self._switch_s - now)
            if in_s < best[1]:
                best = (name, in_s)
        return best

    async def _switch_to(self, name: str) -> None:
        """Wait for the running calls, switch, and admit all waiting callers. Raises TimeoutError."""
        self._switching = True
        while self._running:
            self._changed.clear()
            await self._changed.wait()
        began = time.monotonic()
        async with asyncio.timeout(MAX_SWITCH_S):
            await self._engines[self.active].sleep()
            await self._engines[name].wake()
        self._active_since_s = time.monotonic()
        self._switch_s = self._active_since_s - began
        self.active, self._switching = name, False
        for waiter in self._waiting[name]:
            if not waiter.admitted.done():
                self._running += 1
                waiter.admitted.set_result(None)
        self._on_switch(name, self._switch_s)


class TimeSlicedStage:
    """A Stage that runs in the time slices of its engine. Its callers time out after `timeout_s`."""

    def __init__(self, stage: Stage, engine: str, slicer: GpuTimeSlicer, timeout_s: float) -> None:
        self.name = stage.name
        self.sees: StageInput = stage.sees
        self._stage, self._engine, self._slicer, self._timeout_s = stage, engine, slicer, timeout_s

    @property
    def active(self) -> bool:
        """True if a call now needs no switch."""
        return self._slicer.is_active(self._engine)

    async def warm(self) -> None:
        """Warm the stage up in its time slice."""
        async with self._slicer.time_slice(self._engine, math.inf):
            await self._stage.warm()

    async def predict(self, items: Sequence[Item]) -> list[StagePrediction]:
        """Return a prediction for each item, from the next time slice of the engine."""
        latest_s = time.monotonic() + self._timeout_s
        async with self._slicer.time_slice(self._engine, min([latest_s, *(item.deadline_s for item in items)])):
            return await self._stage.predict(items)

    async def check(self) -> None:
        """Raise an error if the stage's engine has died, or an engine could not be woken."""
        self._slicer.check()
        await self._stage.check()

    async def aclose(self) -> None:
        """Stop the time slices and release the model."""
        await self._slicer.aclose()
        await self._stage.aclose()
