"""Engines that do not fit a card together take turns on it, in phases: one is awake, the others' prompts wait."""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from roadwork_serve.cascade.prediction import Item, Stage, StageInput, StagePrediction

LONG = 10  # a phase lasts at least this many times what a turn costs, unless a deadline presses
MARGIN_S = 0.25
MAX_SLICE_S = 120.0  # an engine that takes longer to sleep and the other to wake hangs
_LONGEST_NAP_S = 3600.0


class Sleepable(Protocol):
    """What takes turns."""

    async def sleep(self) -> None:
        """Give the card back. Called only when it has nothing to do."""
        ...

    async def wake(self) -> None:
        """Take the card again."""
        ...


@dataclass(eq=False, slots=True)
class _Waiter:
    deadline_s: float
    let_in: asyncio.Future[None]


class GpuTimeSlicer:
    """Who is awake. A turn begins when those that wait would else miss a deadline, or when the one awake is idle and
    its phase has lasted LONG times the cost of a turn. All that wait for an engine when it wakes are let in together
    and finished before the next turn. Needs a running event loop.

    awake: by name; the others sleep already. cost_s: of a turn, as far as is known. on_turn: told the name that woke
    and what the turn cost, seconds.
    """

    def __init__(
        self,
        sleepers: Mapping[str, Sleepable],
        awake: str,
        on_turn: Callable[[str, float], None],
        cost_s: float = 0.0,
    ) -> None:
        self.awake = awake
        self._sleepers = sleepers
        self._on_turn = on_turn
        self._waiting: dict[str, list[_Waiter]] = {name: [] for name in sleepers}
        self._working = 0
        self._turning = False
        self._cost_s = cost_s
        self._work_s = dict.fromkeys(sleepers, 0.0)  # of a call, a moving mean
        self._since_s = time.monotonic()
        self._changed = asyncio.Event()
        self._keeper = asyncio.create_task(self._keep(), name="turns")

    @asynccontextmanager
    async def turn(self, name: str, deadline_s: float) -> AsyncGenerator[None]:
        """Enter when the engine is awake. deadline_s: of what it is to do, on the clock of `time.monotonic()`.

        Raises what ended the turns, when an engine could not be woken.
        """
        await self._enter(name, deadline_s)
        began = time.monotonic()
        try:
            yield
            took = time.monotonic() - began
            self._work_s[name] = took if not self._work_s[name] else 0.8 * self._work_s[name] + 0.2 * took
        finally:
            self._leave()

    def is_awake(self, name: str) -> bool:
        """Whether that engine has the card and keeps it for whoever enters now."""
        return name == self.awake and not self._turning

    def check(self) -> None:
        """Raises what ended the turns, when an engine could not be woken."""
        if self._keeper.done() and not self._keeper.cancelled():
            self._keeper.result()

    async def aclose(self) -> None:
        """End the turns; whoever waits is cancelled."""
        self._keeper.cancel()
        await asyncio.wait([self._keeper])

    async def _enter(self, name: str, deadline_s: float) -> None:
        self.check()
        if self.is_awake(name):
            self._working += 1
            return
        waiter = _Waiter(deadline_s, asyncio.get_running_loop().create_future())
        self._waiting[name].append(waiter)
        self._changed.set()
        try:
            await waiter.let_in
        except asyncio.CancelledError:
            if waiter.let_in.done() and not waiter.let_in.cancelled():  # it was let in at the same moment
                self._leave()
            raise
        finally:
            self._waiting[name].remove(waiter)

    def _leave(self) -> None:
        self._working -= 1
        self._changed.set()

    async def _keep(self) -> None:
        try:
            while True:
                self._changed.clear()
                name, in_s = self._next()
                if name is not None and in_s <= 0:
                    await self._take(name)
                    continue
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(in_s, _LONGEST_NAP_S)):
                        await self._changed.wait()
        except BaseException as error:
            for waiter in (waiter for waiters in self._waiting.values() for waiter in waiters):
                if not waiter.let_in.done():
                    told = error if isinstance(error, Exception) else None
                    waiter.let_in.set_exception(told) if told else waiter.let_in.cancel()
            raise

    def _next(self) -> tuple[str | None, float]:
        """Who has the next turn, and in how many seconds; below zero when overdue; nobody while nobody waits."""
        now = time.monotonic()
        best: tuple[str | None, float] = (None, math.inf)
        for name, waiters in self._waiting.items():
            hopeful = [waiter.deadline_s for waiter in waiters if waiter.deadline_s - now > self._cost_s]
            if name == self.awake or not hopeful:
                continue
            in_s = min(hopeful) - (self._cost_s + self._work_s[name] + MARGIN_S) - now
            if not self._working:
                in_s = min(in_s, self._since_s + LONG * self._cost_s - now)
            if in_s < best[1]:
                best = (name, in_s)
        return best

    async def _take(self, name: str) -> None:
        """Let the one awake finish what it has begun, then turn, and let in all that wait. Raises TimeoutError."""
        self._turning = True
        while self._working:
            self._changed.clear()
            await self._changed.wait()
        began = time.monotonic()
        async with asyncio.timeout(MAX_SLICE_S):
            await self._sleepers[self.awake].sleep()
            await self._sleepers[name].wake()
        self._since_s = time.monotonic()
        self._cost_s = self._since_s - began
        self.awake, self._turning = name, False
        for waiter in self._waiting[name]:
            if not waiter.let_in.done():
                self._working += 1
                waiter.let_in.set_result(None)
        self._on_turn(name, self._cost_s)


class TimeSlicedStage:
    """A Stage that is asked when its engine is awake. timeout_s: after which its callers give up."""

    def __init__(self, stage: Stage, engine: str, turns: GpuTimeSlicer, timeout_s: float) -> None:
        self.name = stage.name
        self.sees: StageInput = stage.sees
        self._stage, self._engine, self._turns, self._timeout_s = stage, engine, turns, timeout_s

    @property
    def awake(self) -> bool:
        """Whether a call now would take no other engine's turn."""
        return self._turns.is_awake(self._engine)

    async def warm(self) -> None:
        """See `Stage`."""
        async with self._turns.turn(self._engine, math.inf):
            await self._stage.warm()

    async def judge(self, items: Sequence[Item]) -> list[StagePrediction]:
        """See `Stage`."""
        latest_s = time.monotonic() + self._timeout_s
        async with self._turns.turn(self._engine, min([latest_s, *(item.deadline_s for item in items)])):
            return await self._stage.judge(items)

    async def check(self) -> None:
        """See `Stage`. Raises too when an engine could not be woken."""
        self._turns.check()
        await self._stage.check()

    async def aclose(self) -> None:
        """See `Stage`."""
        await self._turns.aclose()
        await self._stage.aclose()
