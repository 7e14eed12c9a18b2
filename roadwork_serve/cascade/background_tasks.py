"""Background tasks that start after an item's verdict, with a common deadline."""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

MAX_S = 30.0  # for one item, whose bytes stay in memory until then


class BackgroundTasks:
    """Tasks without a caller that waits for them. Starting one needs a running event loop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def count(self) -> int:
        """Running tasks."""
        return len(self._tasks)

    def deadline_s(self) -> float:
        """Return the deadline of a task that starts now, on the clock of `time.monotonic()`."""
        return time.monotonic() + MAX_S

    def start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Start a task."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """Cancel all tasks and wait until they have ended."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
