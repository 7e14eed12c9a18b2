"""Threads for work that blocks: models and readers that know nothing of asyncio, but stop when nobody waits."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_given_up: ContextVar[threading.Event | None] = ContextVar("abandoned", default=None)


class GivenUp(Exception):
    """Raised in a call that nobody waits for any more."""


def stop_if_cancelled() -> None:
    """Raises GivenUp when the caller of `CancellableThread.run` has been cancelled. Call it between passes, pictures, tokens.

    In a call that no worker runs it does nothing.
    """
    if (abandoned := _given_up.get()) and abandoned.is_set():
        raise GivenUp


class CancellableThread:
    """Runs calls in threads of its own: in one, one after the other, unless it is given more."""

    def __init__(self, name: str, threads: int = 1) -> None:
        self._threads = ThreadPoolExecutor(max_workers=threads, thread_name_prefix=name)

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the call returns or raises.

        A thread cannot be interrupted. So a cancelled call ends at its next `stop_if_cancelled`, or when it is done,
        and not before: whoever counts calls in flight counts right. One that has not begun is dropped.
        """
        abandoned = threading.Event()

        def work() -> T:
            token = _given_up.set(abandoned)
            try:
                return call(*args, **kwargs)
            finally:
                _given_up.reset(token)

        job = self._threads.submit(work)
        done = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            if not job.cancel():
                abandoned.set()
                await asyncio.gather(done, return_exceptions=True)
            raise

    async def aclose(self) -> None:
        """Wait for the calls that run and end the threads."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
