import asyncio
import time
from typing import Any

import pytest

from roadwork_serve.errors import DeadlineExceeded, StageFailed, StageLost
from roadwork_serve.miner.forward import ForwardCache
from roadwork_serve.miner.priority import PrioritySemaphore
from roadwork_serve.miner.protocol import CallRejected
from roadwork_serve.schema import Exit, Verdict
from tests.miner.calls import FakeCascade


async def test_concurrent_calls_with_the_same_image_share_one_prediction() -> None:
    cascade = FakeCascade()
    cascade.gate = asyncio.Event()
    answers = ForwardCache(cascade, PrioritySemaphore(8, 8))
    asking = [asyncio.create_task(answers.classify(b"one", time.monotonic() + 9, str(at), "k")) for at in range(5)]
    await cascade.begun.wait()
    cascade.probability = 0.2
    asking.pop(0).cancel()  # the first caller leaves; the others still get their answer
    cascade.gate.set()
    found = await asyncio.gather(*asking)
    assert len(cascade.asked) == 1
    assert {verdict.probability for verdict, _ in found} == {0.2} and all(known for _, known in found)
    assert not (await answers.classify(b"two", time.monotonic() + 9, "x", "k"))[1]


async def test_the_cache_expires_after_a_minute() -> None:
    cascade, times = FakeCascade(), [0.0]
    answers = ForwardCache(cascade, PrioritySemaphore(8, 8), lambda: times[-1])
    for at_s, asked in ((0.0, 1), (59.0, 1), (61.0, 2)):
        times.append(at_s)
        await answers.classify(b"one", time.monotonic() + 9, "x", "k")
        assert len(cascade.asked) == asked


async def test_errors_are_not_cached_and_a_deadline_ends_only_its_own_wait() -> None:
    cascade = FakeCascade()
    answers = ForwardCache(cascade, PrioritySemaphore(8, 8))
    cascade.error = StageFailed("gone")
    with pytest.raises(StageFailed):
        await answers.classify(b"one", time.monotonic() + 9, "x", "k")
    cascade.error, cascade.gate = None, asyncio.Event()
    with pytest.raises(TimeoutError):
        await answers.classify(b"one", time.monotonic() + 0.01, "x", "k")
    cascade.gate.set()
    verdict, known = await answers.classify(b"one", time.monotonic() + 9, "x", "k")
    assert (verdict.probability, known, len(cascade.asked)) == (0.9, True, 2)
    await answers.aclose()


async def test_a_patient_caller_gets_no_deadline_exit_of_a_hasty_one() -> None:
    cascade = FakeCascade()
    cascade.stalls = True
    answers = ForwardCache(cascade, PrioritySemaphore(8, 8))
    now = time.monotonic()
    hasty = asyncio.create_task(answers.classify(b"one", now + 0.6, "a", "k"))
    await cascade.begun.wait()
    cascade.stalls, cascade.probability = False, 0.7
    patient = asyncio.create_task(answers.classify(b"one", now + 9, "b", "k"))
    await asyncio.sleep(0)
    cascade.probability = 0.2
    assert (await hasty)[0].exit.reason == "deadline"
    found, known = await patient
    assert (found.exit.reason, known, len(cascade.asked)) == ("above_band", False, 2)


async def test_a_caller_retries_after_a_shared_call_misses_its_deadline() -> None:
    cascade = FakeCascade()
    cascade.gate, cascade.error = asyncio.Event(), DeadlineExceeded("over")
    answers = ForwardCache(cascade, PrioritySemaphore(8, 8))
    now = time.monotonic()
    hasty = asyncio.create_task(answers.classify(b"one", now + 2, "a", "k"))
    patient = asyncio.create_task(answers.classify(b"one", now + 9, "b", "k"))
    await cascade.begun.wait()
    cascade.gate.set()
    with pytest.raises(DeadlineExceeded):
        await hasty
    cascade.error = None
    assert (await patient)[0].probability == 0.9


@pytest.mark.parametrize("fields", [{"degraded": True}, {"exit": Exit(stage="backbone", reason="deadline")}])
async def test_deadline_exits_and_degraded_answers_are_not_cached(fields: dict[str, Any]) -> None:
    class Short(FakeCascade):
        async def classify(self, data: bytes, deadline_ms: int, request_id: str, key: str) -> Verdict:
            return (await super().classify(data, deadline_ms, request_id, key)).model_copy(update=fields)

    cascade = Short()
    answers = ForwardCache(cascade, PrioritySemaphore(8, 8))
    for asked in (1, 2):
        assert not (await answers.classify(b"one", time.monotonic() + 9, "x", "k"))[1]
        assert len(cascade.asked) == asked


async def test_a_cancelled_prediction_is_an_error_for_its_caller() -> None:
    class Cancelled(FakeCascade):
        async def classify(self, data: bytes, deadline_ms: int, request_id: str, key: str) -> Verdict:
            raise asyncio.CancelledError

    with pytest.raises(StageLost, match="cancelled"):
        await ForwardCache(Cancelled(), PrioritySemaphore(8, 8)).classify(b"one", time.monotonic() + 9, "x", "k")


async def test_a_cached_answer_needs_no_slot() -> None:
    cascade, semaphore = FakeCascade(), PrioritySemaphore(1, 0)
    answers = ForwardCache(cascade, semaphore)
    await answers.classify(b"one", time.monotonic() + 9, "x", "k")
    async with semaphore.slot(0.0):
        assert (await answers.classify(b"one", time.monotonic() + 9, "x", "k"))[1]
        with pytest.raises(CallRejected, match="too many"):
            await answers.classify(b"two", time.monotonic() + 9, "x", "k")
