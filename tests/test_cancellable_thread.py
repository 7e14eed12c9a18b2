"""Blocking work in threads of its own."""

import asyncio
import threading

import pytest

from roadwork_serve.cancellable_thread import CallCancelledError, CancellableThread, stop_if_cancelled
from tests.recording_lock import Held


async def test_a_cancelled_call_stops_at_the_next_chance_and_the_one_after_it_runs() -> None:
    worker, held, told = CancellableThread("test"), Held(at=3), list[type[BaseException]]()

    def work() -> None:
        try:
            for _ in range(1000):
                stop_if_cancelled()
                held()
        except BaseException as error:
            told.append(type(error))
            raise

    await held.cancelled_there(worker.run(work))
    assert held.steps == 3 and told == [CallCancelledError]
    await worker.run(stop_if_cancelled)
    await worker.aclose()


async def test_a_call_that_gives_no_chance_ends_when_it_is_done() -> None:
    worker, held = CancellableThread("test"), Held()
    await held.cancelled_there(worker.run(held))
    assert held.steps == 1
    await worker.aclose()


async def test_work_that_no_worker_runs_is_never_given_up() -> None:
    told = list[str]()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stop_if_cancelled()
            told.append("went on")

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() and told == ["went on"]


async def test_several_threads_work_at_once() -> None:
    worker, together = CancellableThread("test", threads=2), threading.Barrier(2)
    assert sorted(await asyncio.gather(*(worker.run(together.wait, 30) for _ in range(2)))) == [0, 1]
    await worker.aclose()


async def test_what_a_call_raises_reaches_the_caller() -> None:
    worker = CancellableThread("test")
    with pytest.raises(ValueError, match="wrong"):
        await worker.run(int, "wrong")
    await worker.aclose()
