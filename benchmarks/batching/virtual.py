"""An event loop in virtual time.

Its clock jumps to the next timer when nothing is ready, so that the load of the machine does not affect measurements.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar
from unittest.mock import patch

TICK_S = 1e-9
T = TypeVar("T")


class Clock(selectors.DefaultSelector):
    """A selector for the event loop that also provides the clocks of `time`.

    Each iteration of the loop takes TICK_S, so that code that waits for the clock to advance makes progress.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now_s += TICK_S
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise RuntimeError("deadlock: every task is waiting and no timer is left")
        self.now_s += timeout
        return []


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` and return its result. Inside it `time.monotonic` and `time.time` return the loop's time."""
    clock = Clock()
    with (
        patch("time.monotonic", lambda: clock.now_s),
        patch("time.time", lambda: clock.now_s),
        asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(clock)) as runner,
    ):
        return runner.run(main)
