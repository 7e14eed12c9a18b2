"""Threads for blocking work, such as inference and decoding, that stop soon after their caller is cancelled."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_cancelled: ContextVar[threading.Event | None] = ContextVar("cancelled", default=None)


class CallCancelledError(Exception):
    """Raised inside a call whose caller has been cancelled."""


def stop_if_cancelled() -> None:
    """Raise CallCancelledError if the caller of `CancellableThread.run` has been cancelled.

    Call it between forward passes, images and tokens. Outside a `CancellableThread` it does nothing.
    """
    if (cancelled := _cancelled.get()) and cancelled.is_set():
        raise CallCancelledError


class CancellableThread:
    """Runs blocking calls on threads of its own, one at a time by default."""

    def __init__(self, name: str, threads: int = 1) -> None:
        """Create the executor.

        Args:
            name: Prefix of the threads' names.
            threads: Largest number of concurrent calls.
        """
        self._threads = ThreadPoolExecutor(max_workers=threads, thread_name_prefix=name)

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the call on a thread and return its result.

        A thread cannot be interrupted, so a cancelled call ends at its next `stop_if_cancelled` or when it is done.
        `run` waits for that, so that counts of calls in flight stay accurate. A queued call is dropped.
        """
        cancelled = threading.Event()

        def work() -> T:
            token = _cancelled.set(cancelled)
            try:
                return call(*args, **kwargs)
            finally:
                _cancelled.reset(token)

        job = self._threads.submit(work)
        done = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            if not job.cancel():
                cancelled.set()
                await asyncio.gather(done, return_exceptions=True)
            raise

    async def aclose(self) -> None:
        """Wait for running calls and end the threads. Queued calls are dropped."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
