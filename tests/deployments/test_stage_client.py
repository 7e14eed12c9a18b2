"""The client of a stage: down until it answers, down after a lost call, up again after a probe."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator

import numpy as np
import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from deployments.stage_client import RayStageClient
from roadwork_serve.cascade.prediction import Item
from roadwork_serve.errors import StageFailed
from tests.deployments.fakes import FakeHandle, until


def item(left_s: float = 5.0) -> Item:
    return Item("r", "photo", (b"jpeg",), np.zeros((1, 16, 16, 3), np.uint8), (0.0,), time.monotonic() + left_s)


@pytest.fixture
async def handle() -> FakeHandle:
    return FakeHandle()


@pytest.fixture
async def client(handle: FakeHandle) -> AsyncIterator[RayStageClient]:
    client = RayStageClient("vlm", handle, timeout_s=0.3, probe_s=0.02)  # type: ignore[arg-type]
    yield client
    await client.aclose()


async def test_a_stage_is_down_until_it_has_answered(client: RayStageClient, handle: FakeHandle):
    with pytest.raises(StageFailed, match="vlm is down"):
        await client.predict([item()])
    await client.warm()
    assert client.up
    assert [prediction.logit for prediction in await client.predict([item(), item()])] == [4.0, 4.0]
    assert len(handle.seen) == 2


@pytest.mark.parametrize(("sees", "images", "thumbs"), [("thumbs", 0, 1), ("images", 1, 0), ("both", 1, 1)])
async def test_only_the_media_that_the_stage_needs_are_sent_with_the_time_left(sees: str, images: int, thumbs: int):
    handle = FakeHandle(sees)
    client = RayStageClient("vlm", handle, timeout_s=1)  # type: ignore[arg-type]
    await client.warm()
    await client.predict([item(left_s=5.0)])
    [(seen, left_s)] = handle.seen
    assert (len(seen.images), len(seen.thumbs)) == (images, thumbs)
    assert 4.0 < left_s <= 5.0
    await client.aclose()


async def test_an_error_that_the_stage_returns_leaves_it_up(client: RayStageClient, handle: FakeHandle):
    await client.warm()
    handle.error = RayTaskError("judge", "a long traceback", StageFailed("ValueError: no"))
    with pytest.raises(StageFailed, match="vlm failed: ValueError: no") as raised:
        await client.predict([item()])
    assert client.up
    assert "traceback" not in str(raised.value)


async def test_a_dead_process_takes_the_stage_down_until_a_probe_answers(client: RayStageClient, handle: FakeHandle):
    await client.warm()
    handle.error = ActorDiedError()
    with pytest.raises(StageFailed, match="vlm is lost"):
        await client.predict([item()])
    asked = len(handle.seen)
    with pytest.raises(StageFailed, match="vlm is down"):
        await client.predict([item()])
    assert len(handle.seen) == asked
    handle.error = None
    await until(lambda: client.up)
    assert len(await client.predict([item()])) == 1


async def test_one_slow_call_does_not_fail_the_calls_queued_behind_it(handle: FakeHandle):
    client = RayStageClient("vlm", handle, timeout_s=0.05, probe_s=60)  # type: ignore[arg-type]
    await client.warm()
    handle.hangs = True
    with pytest.raises(StageFailed, match="no answer"):
        await client.predict([item()])
    assert not client.up
    handle.let_go()
    assert len(await client.predict([item()])) == 1
    await client.aclose()


async def test_a_lost_call_does_not_fail_calls_to_other_processes(handle: FakeHandle):
    client = RayStageClient("vlm", handle, timeout_s=5, probe_s=60)  # type: ignore[arg-type]
    await client.warm()
    handle.hangs = True
    slow = asyncio.create_task(client.predict([item()]))
    await handle.asked.wait()
    handle.error = ActorDiedError()
    with pytest.raises(StageFailed):
        await client.predict([item()])
    assert not slow.done()
    handle.let_go()
    assert len(await slow) == 1
    await client.aclose()


async def test_a_call_that_takes_too_long_is_cancelled_and_takes_the_stage_down(handle: FakeHandle):
    unheard: list[dict] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    client = RayStageClient("vlm", handle, timeout_s=0.05, probe_s=60)  # type: ignore[arg-type]
    await client.warm()
    handle.hangs = True
    assert "no answer in 0.05 s" in await complaint(client)
    assert not client.up
    await until(lambda: handle.cancelled == 1)
    await client.aclose()
    gc.collect()
    assert unheard == []


async def complaint(client: RayStageClient) -> str:
    """Return an error. A stack frame that referenced it would keep its objects alive."""
    try:
        await client.predict([item()])
    except StageFailed as error:
        return str(error)
    raise AssertionError("judging did not fail")


async def test_a_silent_death_is_found_by_a_probe_and_fails_the_calls_in_flight(
    client: RayStageClient, handle: FakeHandle
):
    await client.warm()
    handle.hangs = True
    began = time.monotonic()
    with pytest.raises(StageFailed, match="the stage went down"):
        await client.predict([item()])
    assert time.monotonic() - began < 0.25  # before its own timeout
    handle.hangs = False
    await until(lambda: client.up)


async def test_a_stage_that_reports_to_answer_nothing_is_down(handle: FakeHandle):
    client = RayStageClient("vlm", handle, timeout_s=5, probe_s=0.02)  # type: ignore[arg-type]
    await client.warm()
    handle.probe_error = RayTaskError("describe", "", StageFailed("vlm has calls and has answered none for 6 s"))
    await until(lambda: not client.up)
    for _ in range(5):
        probes = handle.probes
        await until(lambda probes=probes: handle.probes > probes)
        assert not client.up
    with pytest.raises(StageFailed, match="vlm is down"):
        await client.predict([item(left_s=0.0)])
    handle.probe_error = None
    await until(lambda: client.up)
    await client.aclose()


async def test_a_slow_probe_blocks_new_calls_and_keeps_those_in_flight(handle: FakeHandle):
    client = RayStageClient("vlm", handle, timeout_s=5, probe_s=0.2)  # type: ignore[arg-type]
    await client.warm()
    handle.hangs = True
    waiting = asyncio.create_task(client.predict([item()]))
    await until(lambda: not client.up)
    assert not waiting.done()
    handle.let_go()
    assert [prediction.logit for prediction in await waiting] == [4.0]
    await until(lambda: client.up)
    await client.aclose()


async def test_a_call_that_the_replica_drops_has_failed(client: RayStageClient, handle: FakeHandle):
    await client.warm()
    handle.error = asyncio.CancelledError()
    with pytest.raises(StageFailed, match="dropped the call"):
        await client.predict([item()])


async def test_a_cancelled_call_is_cancelled_in_the_stage(handle: FakeHandle):
    client = RayStageClient("vlm", handle, timeout_s=5, probe_s=60)  # type: ignore[arg-type]
    await client.warm()
    handle.hangs = True
    call = asyncio.create_task(client.predict([item()]))
    await handle.asked.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert handle.cancelled == 1
    assert client.up
    await client.aclose()


async def test_closing_fails_calls_in_flight_and_stops_probing(client: RayStageClient, handle: FakeHandle):
    await client.warm()
    handle.hangs = True
    call = asyncio.create_task(client.predict([item()]))
    await handle.asked.wait()
    await client.aclose()
    with pytest.raises(StageFailed):
        await call
    assert not client.up
    with pytest.raises(StageFailed):
        await client.predict([item()])


async def test_odd_errors_do_not_end_the_probing(client: RayStageClient, handle: FakeHandle):
    await client.warm()
    handle.error = ZeroDivisionError("odd")
    await until(lambda: not client.up)
    handle.error = None
    await until(lambda: client.up)
    assert len(await client.predict([item()])) == 1


async def test_an_idle_stage_that_scales_to_zero_is_not_probed(handle: FakeHandle):
    client = RayStageClient("vlm", handle, timeout_s=1, probe_s=0.01, idle_after_s=0.1)  # type: ignore[arg-type]
    await client.warm()
    await asyncio.sleep(0.2)
    left_alone = handle.probes
    await asyncio.sleep(0.1)
    assert handle.probes == left_alone and client.up, "a probe would wake it"
    assert len(await client.predict([item()])) == 1
    await until(lambda: handle.probes > left_alone)
    await asyncio.sleep(0.05)
    assert handle.probes > left_alone + 1, "while it is in use it is probed"
    await client.aclose()


async def test_a_stage_that_has_never_answered_is_probed_even_if_idle(handle: FakeHandle):
    handle.error = ActorDiedError()
    client = RayStageClient("vlm", handle, timeout_s=1, probe_s=0.01, idle_after_s=0.02)  # type: ignore[arg-type]
    await asyncio.sleep(0.1)
    handle.error = None
    async with asyncio.timeout(1):
        await client.warm()
    assert client.up
    await client.aclose()


async def test_a_stage_without_calls_is_probed_less_often_until_the_next_call(
    handle: FakeHandle, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("deployments.stage_client._QUIET_AFTER_S", 0.1)
    client = RayStageClient("vlm", handle, timeout_s=1, probe_s=0.05)  # type: ignore[arg-type]
    await client.warm()
    await asyncio.sleep(0.3)
    quiet = handle.probes
    await asyncio.sleep(1.0)
    assert 2 <= handle.probes - quiet <= 6  # one in 0.25 s, where there would have been 20
    quiet = handle.probes
    await client.predict([item()])
    await until(lambda: handle.probes > quiet)  # at once
    await client.aclose()
