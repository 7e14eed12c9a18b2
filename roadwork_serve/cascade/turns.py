"""Engines that do not fit a card together take turns on it, in phases: one is awake, the others' prompts wait."""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from roadwork_serve.cascade.opinion import Item, Opinion, Sees, Stage

LONG = 10  # a phase lasts at least this many times what a turn costs, unless a deadline presses
MARGIN_S = 0.25
_LONGEST_NAP_S = 3600.0


class Sleeper(Protocol):
    """What takes turns."""

    async def sleep(self) -> None:
        """Give the card back. Called only when it has nothing to do."""
        ...

    async def wake(self) -> None:
        """Take the card again."""
        ...


class Turns:
    """Who is awake. A turn begins when those that wait would else miss a deadline, or when the one awake is idle and
    its phase has lasted LONG times the cost of a turn. Whoever waits is then answered together with all the others
    that wait for the same engine. Needs a running event loop.

    awake: by name; the others sleep already. on_turn: told the name that woke and what the turn cost, seconds.
    """

    def __init__(self, sleepers: Mapping[str, Sleeper], awake: str, on_turn: Callable[[str, float], None]) -> None:
        self.awake = awake
        self._sleepers = sleepers
        self._on_turn = on_turn
        self._waiting: dict[str, list[float]] = {name: [] for name in sleepers}  # deadlines
        self._working = 0
        self._turning = False
        self._cost_s = 0.0  # of the last turn
        self._work_s = dict.fromkeys(sleepers, 0.0)  # of a call, a moving mean
        self._since_s = time.monotonic()
        self._changed = asyncio.Condition()
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
        finally:
            took = time.monotonic() - began
            self._work_s[name] = took if not self._work_s[name] else 0.8 * self._work_s[name] + 0.2 * took
            self._working -= 1
            await asyncio.shield(self._tell())

    def check(self) -> None:
        """Raises what ended the turns, when an engine could not be woken."""
        if self._keeper.done() and not self._keeper.cancelled():
            self._keeper.result()

    async def aclose(self) -> None:
        """End the turns; whoever waits is cancelled by its caller."""
        self._keeper.cancel()
        await asyncio.wait([self._keeper])

    async def _enter(self, name: str, deadline_s: float) -> None:
        self._waiting[name].append(deadline_s)
        try:
            async with self._changed:
                self._changed.notify_all()
                while self.awake != name or self._turning:
                    self.check()
                    await self._changed.wait()
                self._working += 1
        finally:
            self._waiting[name].remove(deadline_s)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _keep(self) -> None:
        try:
            async with self._changed:
                while True:
                    name, in_s = self._next()
                    if name is not None and in_s <= 0:
                        await self._take(name)
                        continue
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(min(in_s, _LONGEST_NAP_S)):
                            await self._changed.wait()
        finally:
            await self._tell()

    def _next(self) -> tuple[str | None, float]:
        """Who has the next turn, and in how many seconds; nobody while nobody waits."""
        now = time.monotonic()
        best: tuple[str | None, float] = (None, math.inf)
        for name, deadlines in self._waiting.items():
            needs_s = self._cost_s + self._work_s[name] + MARGIN_S
            hopeful = [deadline for deadline in deadlines if deadline - now > self._cost_s]
            if name == self.awake or not hopeful:
                continue
            presses_in_s = min(hopeful) - needs_s - now
            idle = not self._working and not self._waiting[self.awake]
            phase_in_s = self._since_s + LONG * self._cost_s - now if idle else presses_in_s
            in_s = max(0.0, min(presses_in_s, phase_in_s))
            if in_s < best[1]:
                best = (name, in_s)
        return best

    async def _take(self, name: str) -> None:
        """Let the one awake finish what it has begun, then turn. The lock is held, but for the wait."""
        self._turning = True
        await self._changed.wait_for(lambda: not self._working)
        began = time.monotonic()
        await self._sleepers[self.awake].sleep()
        await self._sleepers[name].wake()
        self._since_s = time.monotonic()
        self._cost_s = self._since_s - began
        self.awake, self._turning = name, False
        self._on_turn(name, self._cost_s)
        self._changed.notify_all()


class TakingTurns:
    """A Stage that is asked when its engine is awake."""

    def __init__(self, stage: Stage, engine: str, turns: Turns) -> None:
        self.name = stage.name
        self.sees: Sees = stage.sees
        self._stage, self._engine, self._turns = stage, engine, turns

    async def warm(self) -> None:
        """See `Stage`."""
        async with self._turns.turn(self._engine, math.inf):
            await self._stage.warm()

    async def judge(self, items: Sequence[Item]) -> list[Opinion]:
        """See `Stage`."""
        async with self._turns.turn(self._engine, min((item.deadline_s for item in items), default=math.inf)):
            return await self._stage.judge(items)

    async def check(self) -> None:
        """See `Stage`. Raises too when an engine could not be woken."""
        self._turns.check()
        await self._stage.check()

    async def aclose(self) -> None:
        """See `Stage`."""
        await self._turns.aclose()
        await self._stage.aclose()
