"""Virtual time: an event loop whose clock jumps to the next timer instead of sleeping."""

import asyncio
import gc
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from unittest import mock

T = TypeVar("T")


class Clock(selectors.DefaultSelector):
    """Stands in for the loop's selector and for `time.monotonic`.

    before_jump: called whenever nothing more can happen at the present instant.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.before_jump: Callable[[], None] = lambda: None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        assert timeout is not None, "everything waits and nothing is left that could happen"
        self.before_jump()
        self.now += timeout
        return []


def run(main: Callable[[Clock], Coroutine[Any, Any, T]]) -> T:
    """Run `main` in virtual time and return its result. Fails if a task or an unseen exception is left behind."""
    clock = Clock()
    complaints: list[dict[str, Any]] = []

    async def guarded() -> T:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        result = await main(clock)
        for _ in range(3):  # whatever was cancelled last may end
            await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return result

    with (
        mock.patch("time.monotonic", lambda: clock.now),
        asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(clock)) as runner,
    ):
        result = runner.run(guarded())
        gc.collect(1)
    assert not complaints
    return result
