import asyncio
import gc
import threading

import pytest

from roadwork_serve.cascade.prediction import Item, StagePrediction
from roadwork_serve.cascade.threaded_stage import ThreadedStage
from roadwork_serve.errors import StageFailed
from tests.cascade.fakes import BlockedStage, FakeStage, batcher, item, prediction, settle


async def test_a_stage_runs_in_one_thread_of_its_own():
    threads: set[threading.Thread] = set()

    def respond(each):
        threads.add(threading.current_thread())
        return prediction(1.0, model=each.request_id)

    client = ThreadedStage(FakeStage(respond=respond))
    batches = await asyncio.gather(*(client.predict([item(a), item(b)]) for a, b in ["ab", "cd", "ef"]))
    assert [[each.model for each in batch] for batch in batches] == [["a", "b"], ["c", "d"], ["e", "f"]]
    assert len(threads) == 1
    assert threading.main_thread() not in threads
    await client.aclose()
    assert not any(thread.is_alive() for thread in threads)


def refuse(each: Item) -> StagePrediction:
    raise ValueError("cannot read it")


async def test_errors_of_the_stage_reach_the_caller():
    client = ThreadedStage(FakeStage(respond=refuse))
    with pytest.raises(ValueError, match="cannot read it"):
        await client.predict([item()])
    with pytest.raises(StageFailed, match="fake raised ValueError: cannot read it"):
        await batcher(client).submit(item())
    await client.aclose()


async def test_the_event_loop_is_free_while_the_stage_computes():
    client = ThreadedStage(stage := BlockedStage())
    task = asyncio.create_task(client.predict([item()]))
    await asyncio.to_thread(stage.entered.wait, 30)
    stage.leave.set()
    assert (await task)[0].logit == 1.0
    await client.aclose()


@pytest.mark.parametrize("respond", [lambda _: prediction(1.0), refuse])
async def test_a_cancelled_call_ends_only_when_the_stage_has_finished(respond):
    complaints: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    queue = batcher(client := ThreadedStage(stage := BlockedStage(respond)))
    task = asyncio.create_task(queue.submit(item()))
    await asyncio.to_thread(stage.entered.wait, 30)
    task.cancel()
    await settle()
    assert task.cancelled()
    assert queue.in_flight == 1
    stage.leave.set()
    await queue.aclose()
    assert (queue.in_flight, len(stage.batches)) == (0, 1)
    await client.aclose()
    del task
    gc.collect()
    assert complaints == []  # its late error is ignored


async def test_a_call_that_never_reached_the_stage_is_withdrawn():
    client = ThreadedStage(stage := BlockedStage())
    first = asyncio.create_task(client.predict([item("first")]))
    await asyncio.to_thread(stage.entered.wait, 30)
    second = asyncio.create_task(client.predict([item("second")]))
    await settle()
    second.cancel()
    await settle()
    assert second.cancelled()
    stage.leave.set()
    await first
    await client.aclose()
    assert stage.batches == [["first"]]
