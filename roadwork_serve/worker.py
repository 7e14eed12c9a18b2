"""One thread for work that blocks: models and readers that know nothing of asyncio."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Worker:
    """Runs calls one after the other in a thread of its own."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the call returns or raises.

        A thread cannot be interrupted, so a cancelled call ends when the thread is done with it: whoever counts
        calls in flight counts right. One that has not begun is dropped.
        """
        job = self._thread.submit(call, *args, **kwargs)
        work = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            if not job.cancel():
                await asyncio.gather(work, return_exceptions=True)
            raise

    async def aclose(self) -> None:
        """Wait for the call that runs and end the thread."""
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)
