"""Work that begins once an answer is on its way, so much of it at once and no more."""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

ALLOWED_S = 30.0  # for one item; it holds its bytes for so long at most


class BackgroundTasks:
    """Tasks that nobody waits for. Needs a running event loop when one is started."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def count(self) -> int:
        """Tasks at work."""
        return len(self._tasks)

    def deadline_s(self) -> float:
        """By when one that begins now is to end."""
        return time.monotonic() + ALLOWED_S

    def start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Let it run."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """End those at work."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
