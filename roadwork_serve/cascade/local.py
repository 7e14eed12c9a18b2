"""A stage in this process: offline scoring, tests and the command line run the same router over it."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from roadwork_serve.cascade.opinion import Item, Opinion, Stage


class LocalClient:
    """A StageClient whose stage runs in one worker thread of its own."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=stage.name)

    async def judge(self, items: Sequence[Item]) -> list[Opinion]:
        """One opinion an item, in order. Raises whatever the stage raises.

        A thread cannot be interrupted, so a cancelled call ends when the stage is done with it:
        whoever counts calls in flight counts right.
        """
        job = self._thread.submit(self._stage.judge, items)
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
