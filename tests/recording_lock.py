"""A point at which tests can pause blocking work."""

import asyncio
import threading
from collections.abc import Awaitable
from typing import Any


class PausePoint:
    """A callable for every step of the work: counts the steps and blocks at step `at`."""

    def __init__(self, at: int = 1) -> None:
        self.at, self.steps = at, 0
        self._entered, self._leave = threading.Event(), threading.Event()

    def __call__(self, *_: Any) -> None:
        self.steps += 1
        if self.steps == self.at:
            self._entered.set()
            assert self._leave.wait(30)

    async def cancel_there(self, work: Awaitable[Any]) -> None:
        """Cancel the work while it is paused, and check that the call ends only after the work has."""
        task = asyncio.ensure_future(work)
        assert await asyncio.to_thread(self._entered.wait, 30)
        task.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not task.done()
        self._leave.set()
        await asyncio.wait([task])
        assert task.cancelled()
