"""Blocking work in threads of its own."""

import asyncio
import threading

import pytest

from roadwork_serve.cancellable_thread import CallCancelledError, CancellableThread, stop_if_cancelled
from tests.recording_lock import PausePoint


async def test_a_cancelled_call_stops_at_its_next_check_and_the_next_call_runs() -> None:
    worker, pause, raised = CancellableThread("test"), PausePoint(at=3), list[type[BaseException]]()

    def work() -> None:
        try:
            for _ in range(1000):
                stop_if_cancelled()
                pause()
        except BaseException as error:
            raised.append(type(error))
            raise

    await pause.cancel_there(worker.run(work))
    assert pause.steps == 3 and raised == [CallCancelledError]
    await worker.run(stop_if_cancelled)
    await worker.aclose()


async def test_a_call_without_checks_runs_to_its_end() -> None:
    worker, pause = CancellableThread("test"), PausePoint()
    await pause.cancel_there(worker.run(pause))
    assert pause.steps == 1
    await worker.aclose()


async def test_work_outside_of_a_worker_is_never_stopped() -> None:
    finished = list[str]()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stop_if_cancelled()
            finished.append("went on")

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() and finished == ["went on"]


async def test_several_threads_work_at_once() -> None:
    worker, together = CancellableThread("test", threads=2), threading.Barrier(2)
    assert sorted(await asyncio.gather(*(worker.run(together.wait, 30) for _ in range(2)))) == [0, 1]
    await worker.aclose()


async def test_errors_of_a_call_reach_the_caller() -> None:
    worker = CancellableThread("test")
    with pytest.raises(ValueError, match="wrong"):
        await worker.run(int, "wrong")
    await worker.aclose()
