import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roadwork_serve.cascade.batcher import Batcher
from roadwork_serve.cascade.calls import StageAnswer
from roadwork_serve.cascade.prediction import Item, StagePrediction
from roadwork_serve.errors import DeadlineExceeded, Overloaded, StageDown, StageFailed, StageLost
from tests.cascade import clock
from tests.cascade.clock import Clock
from tests.cascade.fakes import GatedClient, InstantClient, batcher, item, prediction, settle


def waiting_for(stage, *ids: str, left_s: float = 60.0) -> list[asyncio.Task[StageAnswer]]:
    return [asyncio.create_task(stage.submit(item(each, left_s))) for each in ids]


async def outcomes(tasks) -> list[str]:
    """Return the model that answered each task, or the name of the error."""
    done = await asyncio.gather(*tasks, return_exceptions=True)
    return [each.prediction.model if isinstance(each, StageAnswer) else type(each).__name__ for each in done]


async def test_an_idle_stage_never_waits():
    stage = batcher(client := GatedClient())
    (task,) = waiting_for(stage, "a")
    await settle()  # no time passes
    assert [call.ids for call in client.calls] == [["a"]]
    assert (stage.queued, stage.in_flight) == (0, 1)
    client.calls[0].answer(logit=1.5)
    answer = await task
    assert (answer.prediction.logit, answer.batch_size) == (1.5, 1)
    await settle()
    assert (stage.queued, stage.in_flight) == (0, 0)


async def test_items_that_arrive_together_share_a_batch():
    stage = batcher(client := InstantClient(lambda _: prediction()))
    await asyncio.gather(*waiting_for(stage, *"abcde"))
    assert client.batches == [["a", "b", "c", "d", "e"]]


async def test_a_free_slot_takes_all_queued_items_up_to_the_limit():
    stage = batcher(client := GatedClient(), max_batch=3)
    tasks = waiting_for(stage, "a")
    await settle()
    for each in "bcdef":  # one after the other, while the stage is busy
        tasks += waiting_for(stage, each)
        await settle()
    assert (stage.queued, len(client.calls)) == (5, 1)
    for _ in range(3):
        client.calls[-1].answer()
        await settle()
    assert [call.ids for call in client.calls] == [["a"], ["b", "c", "d"], ["e", "f"]]
    assert await outcomes(tasks) == ["a", "b", "c", "d", "e", "f"]


async def test_slots_bound_the_calls_in_flight():
    stage = batcher(client := GatedClient(), max_batch=1, slots=2)
    tasks = waiting_for(stage, *"abc")
    await settle()
    assert [call.ids for call in client.calls] == [["a"], ["b"]]
    client.calls[1].answer()
    await settle()
    assert [call.ids for call in client.calls] == [["a"], ["b"], ["c"]]
    client.calls[0].answer()
    client.calls[2].answer()
    assert await outcomes(tasks) == ["a", "b", "c"]


async def test_the_earliest_deadline_goes_first_even_if_it_arrived_last():
    stage = batcher(client := GatedClient(), max_batch=2)
    tasks = waiting_for(stage, "busy")
    await settle()
    for name, left_s in [("late", 50), ("soon", 20), ("sooner", 10), ("later", 55)]:
        tasks += waiting_for(stage, name, left_s=left_s)
    await settle()
    for _ in range(3):
        client.calls[-1].answer()
        await settle()
    assert [call.ids for call in client.calls[1:]] == [["sooner", "soon"], ["late", "later"]]
    await asyncio.gather(*tasks)


async def test_an_item_cancelled_in_the_queue_is_not_sent():
    stage = batcher(client := GatedClient())
    (busy,) = waiting_for(stage, "busy")
    await settle()
    gone, there = waiting_for(stage, "gone", "there")
    await settle()
    gone.cancel()
    client.calls[0].answer()
    await settle()
    assert client.calls[1].ids == ["there"]
    client.calls[1].answer()
    assert await outcomes([busy, gone, there]) == ["busy", "CancelledError", "there"]


async def test_a_call_continues_until_its_last_item_is_cancelled():
    stage = batcher(client := GatedClient())
    one, other = waiting_for(stage, "one", "other")
    await settle()
    one.cancel()
    await settle()
    assert not client.calls[0].cancelled
    other.cancel()
    await settle()
    assert client.calls[0].cancelled
    assert (stage.queued, stage.in_flight) == (0, 0)
    (task,) = waiting_for(stage, "next")
    await settle()
    client.calls[1].answer()
    assert await outcomes([task]) == ["next"]


async def test_a_call_cancelled_before_it_started_frees_its_slot():
    stage = batcher(client := InstantClient(lambda _: prediction()))
    (task,) = waiting_for(stage, "a")
    await asyncio.sleep(0)  # the item is submitted
    await asyncio.sleep(0)  # a slot has taken it
    assert (stage.in_flight, client.batches) == (1, [])
    task.cancel()
    assert await outcomes([task]) == ["CancelledError"]
    await asyncio.gather(*waiting_for(stage, "b"))
    assert client.batches[-1] == ["b"]


def test_an_item_that_expires_in_the_queue_fails_at_once_and_is_not_sent():
    async def main(time: Clock) -> None:
        stage = batcher(client := GatedClient())
        busy = waiting_for(stage, "busy")
        await settle()
        began = time.now
        with pytest.raises(DeadlineExceeded, match="in the queue of fake"):
            await stage.submit(item("late", left_s=2.0))
        assert time.now == began + 2.0
        assert stage.queued == 0
        client.calls[0].answer()
        assert await outcomes(busy) == ["busy"]
        assert len(client.calls) == 1

    clock.run(main)


def test_an_item_that_expires_inside_the_stage_does_not_wait_for_the_rest_of_its_batch():
    async def main(time: Clock) -> None:
        stage = batcher(client := GatedClient())
        hasty, patient = waiting_for(stage, "hasty", left_s=1.0) + waiting_for(stage, "patient", left_s=9.0)
        await settle()
        assert client.calls[0].ids == ["hasty", "patient"]
        began = time.now
        with pytest.raises(DeadlineExceeded, match="inside fake"):
            await hasty
        assert time.now == began + 1.0
        client.calls[0].answer()
        assert await outcomes([patient]) == ["patient"]

    clock.run(main)


def test_a_call_ends_with_the_latest_deadline_in_it():
    async def main(time: Clock) -> None:
        stage = batcher(client := GatedClient(), timeout_s=100.0)
        tasks = waiting_for(stage, "a", left_s=1.0) + waiting_for(stage, "b", left_s=2.0)
        began = time.now
        assert await outcomes(tasks) == ["DeadlineExceeded", "DeadlineExceeded"]
        await settle()
        assert client.calls[0].cancelled
        assert time.now == began + 2.0
        assert stage.in_flight == 0

    clock.run(main)


async def test_an_expired_deadline_is_rejected_before_the_queue():
    stage = batcher(client := GatedClient())
    with pytest.raises(DeadlineExceeded, match="had passed"):
        await stage.submit(item(left_s=0.0))
    assert client.calls == []


def test_a_call_that_takes_too_long_fails():
    async def main(time: Clock) -> None:
        stage = batcher(client := GatedClient(), timeout_s=3.0)
        began = time.now
        with pytest.raises(StageFailed, match="fake took longer than 3 s"):
            await stage.submit(item())
        await settle()
        assert time.now == began + 3.0
        assert client.calls[0].cancelled
        assert stage.in_flight == 0

    clock.run(main)


async def test_an_item_may_have_no_deadline():
    stage = batcher(InstantClient(lambda _: prediction(2.0)))
    assert (await stage.submit(item(left_s=float("inf")))).prediction.logit == 2.0


@pytest.mark.parametrize(
    ("error", "message"),
    [(StageFailed("replica died"), "^replica died$"), (ValueError("bad shape"), "^fake raised ValueError: bad shape$")],
)
async def test_an_item_that_fails_a_batch_harms_only_itself(error, message):
    client = InstantClient(lambda each: error if "bad" in each.request_id else prediction(model="fake"))
    a, bad, b = waiting_for(stage := batcher(client), "a", "bad", "b")
    assert await outcomes([a, b]) == ["fake", "fake"]
    with pytest.raises(StageFailed, match=message) as caught:
        await bad
    assert caught.value.__cause__ is error
    assert client.batches == [["a", "bad", "b"], ["a"], ["bad"], ["b"]]
    assert await outcomes(waiting_for(stage, "c")) == ["fake"]


async def test_items_of_a_lost_call_are_retried_together():
    stage = batcher(client := GatedClient())
    tasks = waiting_for(stage, "a", "b")
    await settle()
    client.calls[0].gate.set_exception(StageLost("its process died"))
    await settle()
    assert client.calls[1].ids == ["a", "b"]
    client.calls[1].gate.set_exception(StageLost("and the next"))
    await settle()
    assert len(client.calls) == 2
    for task in tasks:
        with pytest.raises(StageFailed, match="and the next"):
            await task


async def test_a_stage_that_is_down_is_not_called_twice():
    stage = batcher(client := InstantClient(lambda _: StageDown("it is down")))
    with pytest.raises(StageFailed, match="it is down"):
        await stage.submit(item("a"))
    assert client.batches == [["a"]]
    assert stage.breaker == "closed"


@pytest.mark.parametrize("sent", [False, True], ids=["waiting", "inside"])
def test_a_stage_that_failed_and_was_too_slow_in_the_retry_has_failed(sent: bool):
    async def main(_: Clock) -> None:
        stage = batcher(client := GatedClient(), slots=1, max_batch=1)
        waiting = asyncio.create_task(stage.submit(item("a", 5)))
        await asyncio.sleep(1)
        if not sent:
            sooner = asyncio.create_task(stage.submit(item("sooner", 4)))
            await settle()
        client.calls[0].gate.set_exception(StageLost("its process died"))
        with pytest.raises(StageFailed, match="fake failed, and the deadline passed during the retry"):
            await waiting
        assert sum("a" in call.ids for call in client.calls) == 1 + sent
        if not sent:
            assert await outcomes([sooner]) == ["DeadlineExceeded"]

    clock.run(main)


async def test_an_item_cancelled_before_the_retry_is_not_sent_again():
    stage = batcher(client := GatedClient())
    gone, there = waiting_for(stage, "gone", "there")
    await settle()
    gone.cancel()
    client.calls[0].gate.set_exception(StageLost("its process died"))
    await settle()
    assert client.calls[1].ids == ["there"]
    client.calls[1].answer()
    assert await outcomes([gone, there]) == ["CancelledError", "there"]
    assert (stage.queued, stage.in_flight) == (0, 0)


def test_a_stage_that_fails_repeatedly_is_tested_with_one_call_after_a_cooldown():
    async def main(time: Clock) -> None:
        stage = batcher(client := GatedClient(), max_batch=1, slots=4)
        failing = waiting_for(stage, *"abcd") + waiting_for(stage, "waits")
        await settle()
        for call in client.calls[:4]:
            call.gate.set_exception(ValueError("broken"))
        await settle()
        for call in client.calls[4:]:
            call.gate.set_exception(ValueError("still broken"))
        assert set(await outcomes(failing)) <= {"StageFailed", "StageDown"}
        assert stage.breaker == "open"
        asked = len(client.calls)
        with pytest.raises(StageDown, match=r"fake failed 5 times or more in a row; it is called again in 1\.0 s"):
            await stage.submit(item())
        await asyncio.sleep(1.5)
        assert (stage.breaker, len(client.calls)) == ("half_open", asked)
        (trial,) = waiting_for(stage, "trial")
        await settle()
        with pytest.raises(StageDown):
            await stage.submit(item("too early"))
        client.calls[-1].gate.set_exception(ValueError("as before"))
        assert await outcomes([trial]) == ["StageFailed"]
        await asyncio.sleep(1.5)
        assert stage.breaker == "open", "the second rest is longer"
        await asyncio.sleep(1.0)
        (trial,) = waiting_for(stage, "well again")
        await settle()
        client.calls[-1].answer()
        assert await outcomes([trial]) == ["well again"]
        assert stage.breaker == "closed"
        assert len(client.calls) == asked + 2

    clock.run(main)


def test_a_test_call_that_finds_the_stage_down_does_not_keep_the_breaker_open():
    async def main(time: Clock) -> None:
        saying: StagePrediction | Exception = StageFailed("broken")
        stage = batcher(InstantClient(lambda _: saying))
        for _ in range(5):
            await outcomes(waiting_for(stage, "a"))
        assert stage.breaker == "open"
        saying = StageDown("it is being replaced")
        await asyncio.sleep(1.5)
        assert await outcomes(waiting_for(stage, "trial")) == ["StageFailed"]
        saying = prediction(model="well again")
        assert await outcomes(waiting_for(stage, "b")) == ["well again"]
        assert stage.breaker == "closed"

    clock.run(main)


@pytest.mark.parametrize("bad", range(8))
async def test_any_number_of_items_may_fail_a_batch_and_the_others_are_answered(bad):
    def respond(each: Item) -> StagePrediction | Exception:
        return ValueError("bad item") if each.request_id.startswith("bad") else prediction(model="fake")

    stage = batcher(InstantClient(respond))
    batch = waiting_for(stage, *(f"bad {at}" for at in range(bad)), *(f"good {at}" for at in range(8 - bad)))
    assert await outcomes(batch) == ["StageFailed"] * bad + ["fake"] * (8 - bad)
    assert stage.breaker == "closed"


async def test_a_best_effort_call_yields_to_other_items():
    stage = batcher(client := GatedClient())
    spare = asyncio.create_task(stage.submit(item("spare"), best_effort=True))
    await settle()
    assert stage.queue_wait_s() == 0.0
    (wanted,) = waiting_for(stage, "wanted")
    await settle()
    assert client.calls[0].cancelled
    assert client.calls[1].ids == ["wanted"]
    client.calls[1].answer()
    assert await outcomes([spare, wanted]) == ["StageFailed", "wanted"]
    assert (stage.queued, stage.in_flight, stage.breaker) == (0, 0, "closed")


def test_a_call_beyond_its_estimate_is_not_expected_to_end_at_once():
    async def main(time: Clock) -> None:
        stage = batcher(client := GatedClient())
        await paced(client, time, stage, 1.0)
        tasks = waiting_for(stage, "hangs")
        await settle()
        await asyncio.sleep(5.0)
        assert stage.queue_wait_s() == pytest.approx(4.0)
        for each in tasks:
            each.cancel()

    clock.run(main)


def paced(client: GatedClient, time: Clock, stage: Batcher, takes_s: float, calls: int = 6):
    async def run() -> None:
        for _ in range(calls):
            (task,) = waiting_for(stage, "earlier")
            await settle()
            await asyncio.sleep(takes_s)
            client.calls[-1].answer()
            await task

    return run()


async def measure(client: GatedClient, stage: Batcher, full: int) -> None:
    """Record that a full batch takes 2 s, and one item half a second."""
    for size, takes_s in ((full, 2.0), (1, 0.5)):
        for _ in range(5):
            tasks = waiting_for(stage, *"abcd"[:size])
            await settle()
            await asyncio.sleep(takes_s)
            client.calls[-1].answer()
            await asyncio.gather(*tasks)


def test_items_for_which_the_stage_is_too_slow_are_not_sent():
    async def main(time: Clock) -> None:
        stage = batcher(client := GatedClient())
        await paced(client, time, stage, 2.0)
        began = time.now
        with pytest.raises(DeadlineExceeded, match="fake takes up to 2000 ms and 1500 ms are left"):
            await stage.submit(item(left_s=1.5))
        assert time.now == began
        assert len(client.calls) == 6
        await asyncio.sleep(1.5)  # no call for a while: the stage may have become faster
        (trial,) = waiting_for(stage, "trial", left_s=1.5)
        await settle()
        client.calls[-1].answer()
        assert await outcomes([trial]) == ["trial"]
        await asyncio.sleep(40.0)
        assert stage.p90_s is None, "calls of half a minute ago do not count"

    clock.run(main)


def test_an_item_that_would_wait_too_long_is_rejected_at_once_with_a_retry_time():
    async def main(time: Clock) -> None:
        stage = batcher(client := GatedClient(), max_batch=1)
        await paced(client, time, stage, 1.0)
        tasks = waiting_for(stage, *"abcd", left_s=4.1)
        await settle()
        await asyncio.sleep(0.25)
        assert stage.queue_wait_s() == pytest.approx(
            3.75
        )  # three items are queued, and three quarters of the running call are left
        with pytest.raises(
            Overloaded, match="3 items are queued for fake, too many for the time that is left"
        ) as caught:
            await stage.submit(item(left_s=4.0))
        assert caught.value.retry_after_s == pytest.approx(3.0)
        for each in tasks:
            each.cancel()

    clock.run(main)


def test_a_batch_is_no_larger_than_its_first_item_has_time_for():
    async def main(time: Clock) -> None:
        stage = batcher(client := GatedClient(), max_batch=4)
        await measure(client, stage, full=4)
        busy = waiting_for(stage, "busy")
        await settle()
        tasks = waiting_for(stage, "hurry", left_s=1.0) + waiting_for(stage, *"efg")
        await settle()
        await asyncio.sleep(0.1)
        client.calls[-1].answer()
        await settle()
        assert client.calls[-1].ids == ["hurry", "e"], "four would take 2 s; two are reckoned to take what one does"
        client.calls[-1].answer()
        await settle()
        assert client.calls[-1].ids == ["f", "g"]
        client.calls[-1].answer()
        await asyncio.gather(*busy, *tasks)

    clock.run(main)


def test_batches_stay_full_while_more_items_are_queued_than_fit_in_one():
    async def main(time: Clock) -> None:
        stage = batcher(client := GatedClient(), max_batch=2)
        await measure(client, stage, full=2)
        busy = waiting_for(stage, "busy")
        await settle()
        tasks = waiting_for(stage, "hurry", left_s=1.9) + waiting_for(stage, *"efg")
        await settle()
        await asyncio.sleep(0.1)
        client.calls[-1].answer()
        await settle()
        assert client.calls[-1].ids == ["e", "f"], "alone `hurry` would be in time, and make all others late"
        client.calls[-1].answer()
        await settle()
        client.calls[-1].answer()
        assert await outcomes(busy + tasks) == ["busy", "Overloaded", "e", "f", "g"]

    clock.run(main)


def test_one_item_too_many_does_not_starve_all_others():
    async def main(time: Clock) -> None:
        stage = batcher(client := GatedClient(), max_batch=2)
        await measure(client, stage, full=2)
        busy = waiting_for(stage, "busy")
        await settle()
        tasks = [asyncio.create_task(stage.submit(item(each, 1.9), reserved=True)) for each in "efg"]
        await settle()
        await asyncio.sleep(0.1)
        client.calls[-1].answer()
        await settle()
        assert client.calls[-1].ids == ["f"], "two would take 2 s"
        client.calls[-1].answer()
        await settle()
        client.calls[-1].answer()
        assert await outcomes(busy + tasks) == ["busy", "Overloaded", "f", "g"]

    clock.run(main)


def test_an_isolated_retry_needs_the_time_of_one_item():
    async def main(time: Clock) -> None:
        stage = batcher(client := GatedClient(), max_batch=2)
        await measure(client, stage, full=2)
        tasks = waiting_for(stage, *"cd", left_s=3.5)
        await settle()
        tasks += waiting_for(stage, *"efg")
        await settle()
        await asyncio.sleep(2.5)
        client.calls[-1].gate.set_exception(ValueError("a bad batch"))
        await settle()
        assert client.calls[-1].ids == ["c"], "five wait, and one second is left"
        for _ in range(4):
            client.calls[-1].answer()
            await settle()
        assert await outcomes(tasks) == ["c", "d", "e", "f", "g"]

    clock.run(main)


def test_reserved_places_count_as_queued():
    async def main(time: Clock) -> None:
        stage = batcher(client := GatedClient(), max_batch=1)
        await paced(client, time, stage, 1.0)
        deadline_s = time.now + 2.5
        with stage.reserve(deadline_s), stage.reserve(deadline_s):
            with (
                pytest.raises(Overloaded, match="2 items are queued for fake, too many for the time that is left"),
                stage.reserve(deadline_s),
            ):
                pass
            stage.admit(deadline_s - 1.0)  # it would run first
        assert stage.queue_wait_s() == 0.0
        with stage.reserve(deadline_s):
            pass

    clock.run(main)


def test_an_item_with_a_reservation_is_rejected_only_if_it_cannot_be_in_time():
    async def main(time: Clock) -> None:
        stage = batcher(client := GatedClient(), max_batch=1)
        await paced(client, time, stage, 1.0)
        busy = waiting_for(stage, "busy")
        await settle()
        late = item("late", 1.9)
        with pytest.raises(Overloaded):
            stage.admit(late.deadline_s)
        booked = asyncio.create_task(stage.submit(late, reserved=True))
        await settle()
        await asyncio.sleep(0.8)  # the call before takes less than was to be expected
        client.calls[-1].answer()
        await settle()
        client.calls[-1].answer()
        assert await outcomes([*busy, booked]) == ["busy", "late"]
        with pytest.raises(DeadlineExceeded):
            await stage.submit(item(left_s=-1.0), reserved=True)

    clock.run(main)


async def test_reservations_fill_the_queue():
    stage = batcher(GatedClient(), max_queue=1)
    with stage.reserve(item().deadline_s), pytest.raises(Overloaded, match="1 items are queued for fake"):
        stage.admit(item().deadline_s)
    stage.admit(item().deadline_s)


def test_a_cancelled_call_still_shows_how_slow_the_stage_is():
    async def main(time: Clock) -> None:
        stage = batcher(GatedClient())
        for _ in range(5):
            assert await outcomes(waiting_for(stage, "a", left_s=3.0)) == ["DeadlineExceeded"]
            await settle()
        assert stage.p90_s == pytest.approx(3.0)

    clock.run(main)


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_the_wrong_number_of_predictions_is_a_failure(count):
    class Miscounting:
        async def predict(self, items: Sequence[Item]) -> list[StagePrediction]:
            return [prediction()] * count

    tasks = waiting_for(batcher(Miscounting()), "a", "b")
    await asyncio.wait(tasks)
    if count == 1:  # correct when the items are sent one by one
        assert await outcomes(tasks) == ["fake", "fake"]
        return
    with pytest.raises(StageFailed, match=f"fake returned {count} predictions for 1 items"):
        await tasks[0]
    assert await outcomes(tasks) == ["StageFailed", "StageFailed"]


async def test_a_client_that_cancels_itself_has_failed():
    class Quitter:
        async def predict(self, items: Sequence[Item]) -> list[StagePrediction]:
            raise asyncio.CancelledError

    with pytest.raises(StageFailed, match="the call to fake was cancelled"):
        await batcher(Quitter()).submit(item())


async def test_a_result_that_is_not_a_prediction_is_a_failure():
    class Stranger:
        async def predict(self, items: Sequence[Item]) -> list[StagePrediction]:
            return ["yes"]  # type: ignore[list-item]

    with pytest.raises(StageFailed, match="fake raised AttributeError"):
        await batcher(Stranger()).submit(item())


class Stubborn(GatedClient):
    """Ends a cancelled call only once it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.released = asyncio.Event()

    async def predict(self, items: Sequence[Item]) -> list[StagePrediction]:
        try:
            return await super().predict(items)
        except asyncio.CancelledError:
            await self.released.wait()
            raise


async def test_a_slot_stays_taken_until_its_call_has_really_ended():
    stage = batcher(client := Stubborn())
    gone = waiting_for(stage, "gone")
    await settle()
    gone[0].cancel()
    tasks = waiting_for(stage, "next")
    await settle()
    assert (stage.in_flight, len(client.calls)) == (1, 1)
    client.released.set()
    await settle()
    client.calls[1].answer()
    assert await outcomes(tasks) == ["next"]


async def test_a_call_is_cancelled_once_and_left_to_wind_down():
    stage = batcher(client := Stubborn())
    gone = waiting_for(stage, "gone")
    await settle()
    gone[0].cancel()
    await settle()
    closing = asyncio.create_task(stage.aclose())
    await settle()
    assert (stage.in_flight, closing.done()) == (1, False)
    client.released.set()
    await closing
    assert stage.in_flight == 0


def test_an_item_that_expired_while_the_loop_was_blocked_is_not_sent():
    async def main(time: Clock) -> None:
        stage = batcher(client := GatedClient())
        busy = waiting_for(stage, "busy")
        await settle()
        tasks = waiting_for(stage, "late", left_s=1.0) + waiting_for(stage, "in time")
        await settle()
        client.calls[0].answer()
        await asyncio.sleep(0)  # the call returns
        await asyncio.sleep(0)  # its slot is free
        assert stage.in_flight == 0
        time.now += 2.0  # and no timer has had a chance to run
        await settle()
        assert [call.ids for call in client.calls] == [["busy"], ["in time"]]
        client.calls[1].answer()
        assert await outcomes(busy + tasks) == ["busy", "DeadlineExceeded", "in time"]

    clock.run(main)


def test_a_full_queue_rejects_with_a_retry_time():
    async def main(time: Clock) -> None:
        stage = batcher(client := GatedClient(), max_queue=4, max_batch=2)
        tasks = waiting_for(stage, "a", "b", left_s=99.0)
        await settle()
        tasks += waiting_for(stage, *"cdef", left_s=99.0)
        await settle()
        with pytest.raises(Overloaded, match="4 items are queued for fake") as caught:
            await stage.submit(item("g"))
        assert caught.value.retry_after_s == 1.0  # there is no estimate yet

        await asyncio.sleep(6.0)
        client.calls[0].answer()  # 3 s an item
        await settle()
        tasks += waiting_for(stage, "g", "h", left_s=99.0)
        await settle()
        with pytest.raises(Overloaded) as caught:
            await stage.submit(item("i"))
        assert caught.value.retry_after_s == pytest.approx(12.0)
        for index in (1, 2, 3):
            client.calls[index].answer()
            await settle()
        assert await outcomes(tasks) == list("abcdefgh")

    clock.run(main)


async def test_cancelled_items_do_not_pile_up_behind_a_stage_that_hangs():
    stage = batcher(client := GatedClient(), max_queue=2)
    busy = waiting_for(stage, "busy")
    await settle()
    for _ in range(50):
        gone = waiting_for(stage, "x", "y")
        await settle()
        for task in gone:
            task.cancel()
        assert await outcomes(gone) == ["CancelledError", "CancelledError"]
    assert len(stage._heap) <= 5
    client.calls[0].answer()
    assert await outcomes(busy) == ["busy"]


async def test_the_order_is_kept_when_cancelled_items_are_removed():
    stage = batcher(client := GatedClient(), max_queue=3, max_batch=1)
    tasks = waiting_for(stage, "busy")
    await settle()
    tasks += waiting_for(stage, "second", left_s=20.0) + waiting_for(stage, "first", left_s=10.0)
    for _ in range(4):
        gone = waiting_for(stage, "gone", left_s=50.0)
        await settle()
        gone[0].cancel()
        await settle()
    tasks += waiting_for(stage, "third", left_s=50.0)
    await settle()
    assert len(stage._heap) == 3
    for index in range(4):
        client.calls[index].answer()
        await settle()
    assert [call.ids for call in client.calls] == [["busy"], ["first"], ["second"], ["third"]]
    await asyncio.gather(*tasks)


def test_times_are_measured_and_add_up():
    async def main(time: Clock) -> None:
        class Slow:
            async def predict(self, items: Sequence[Item]) -> list[StagePrediction]:
                await asyncio.sleep(1.0)
                return [prediction(preprocess_ms=100.0, compute_ms=700.0) for _ in items]

        stage = batcher(Slow())
        first = waiting_for(stage, "a")
        await asyncio.sleep(0.25)
        second = waiting_for(stage, "b")
        a, b = await asyncio.gather(*first, *second)
        assert (a.queue_ms, a.rpc_ms) == pytest.approx((0.0, 200.0))
        assert (b.queue_ms, b.rpc_ms) == pytest.approx((750.0, 200.0))

    clock.run(main)


async def test_a_stage_that_claims_more_time_than_passed_gets_no_negative_rpc_time():
    stage = batcher(InstantClient(lambda _: prediction(compute_ms=1e9)))
    assert (await stage.submit(item())).rpc_ms == 0.0


async def test_closing_fails_queued_items_and_cancels_calls():
    stage = batcher(client := GatedClient(), max_batch=1)
    tasks = waiting_for(stage, "runs", "waits")
    await settle()
    await stage.aclose()
    assert client.calls[0].cancelled
    assert await outcomes(tasks) == ["StageFailed", "StageFailed"]
    assert (stage.queued, stage.in_flight) == (0, 0)
    with pytest.raises(StageFailed, match="fake is shut down"):
        await stage.submit(item())
    await stage.aclose()


# Property test in virtual time: these invariants hold for any sequence of events.

ticks = st.integers(0, 8).map(lambda n: n / 4)


@dataclass(frozen=True)
class Arrival:
    """An item. after_s: time since the previous one. cancel_s: time until its client hangs up, if it does."""

    after_s: float
    left_s: float
    cancel_s: float | None


@dataclass(frozen=True)
class Plan:
    """Duration and end of a call. stubborn: it ends some time after its cancellation."""

    lasts_s: float
    end: str
    stubborn: bool


arrivals = st.lists(
    st.builds(Arrival, ticks, st.integers(1, 16).map(lambda n: n / 4), st.none() | ticks), min_size=1, max_size=24
)
plans = st.lists(
    st.builds(Plan, ticks, st.sampled_from(["answer", "answer", "raise", "short", "cancel", "hang"]), st.booleans()),
    min_size=1,
    max_size=6,
)


class Watched:
    """A client that follows the plans and checks invariants at every call."""

    def __init__(self, time: Clock, plans: list[Plan], max_batch: int, slots: int) -> None:
        self.time, self.plans, self.max_batch, self.slots = time, plans, max_batch, slots
        self.waiting: dict[str, tuple[float, float]] = {}  # id -> submitted at, deadline
        self.hung_up: dict[str, float] = {}
        self.plan_of: dict[str, Plan] = {}  # of the last call each was in
        self.tries: Counter[str] = Counter()
        self.calls = 0
        self.running = 0
        self.broken: list[str] = []

    def check(self, holds: bool, rule: str) -> None:
        if not holds:  # an exception here would count as a failing stage
            self.broken.append(rule)

    async def predict(self, items: Sequence[Item]) -> list[StagePrediction]:
        ids = [each.request_id for each in items]
        self.check(1 <= len(ids) <= self.max_batch, "no batch is empty or too large")
        self.check(len(ids) == len(set(ids)), "nothing is in a batch twice")
        for each in ids:
            earlier = self.plan_of.get(each)
            self.check(earlier is None or earlier.end not in ("answer", "hang"), "only what failed is sent again")
        self.tries.update(ids)
        self.check(max(self.tries.values()) <= 2, "nothing is sent three times")
        hung_up = [each for each in ids if self.hung_up.get(each, self.time.now) < self.time.now]
        self.check(not hung_up, "nobody is sent who hung up before")
        for each in ids:
            self.waiting.pop(each, None)
        latest = max(each.deadline_s for each in items)
        self.check(self.time.now < min(each.deadline_s for each in items), "nothing is sent that has expired")
        for submitted, deadline in self.waiting.values():
            if submitted < self.time.now < deadline:
                self.check(latest <= deadline, "the earliest deadlines go first")
        plan = self.plans[self.calls % len(self.plans)]
        self.calls += 1
        self.plan_of |= dict.fromkeys(ids, plan)
        self.running += 1
        self.check(self.running <= self.slots, "no more calls run than there are slots")
        try:
            await asyncio.sleep(1e6 if plan.end == "hang" else plan.lasts_s)
        except asyncio.CancelledError:
            if plan.stubborn:
                await asyncio.sleep(0.25)
            raise
        finally:
            self.running -= 1
        if plan.end == "raise":
            raise RuntimeError("as planned")
        if plan.end == "cancel":
            raise asyncio.CancelledError
        results = [StagePrediction(0.0, model=each) for each in ids]
        return results[1:] if plan.end == "short" else results


@settings(deadline=None, max_examples=300)
@given(
    arrivals,
    plans,
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 6),
    st.sampled_from([0.75, 2.0, 100.0]),
    st.none() | st.integers(0, 40).map(lambda n: n / 4),
)
def test_no_item_is_lost_or_answered_twice(arrivals, plans, max_batch, slots, max_queue, timeout_s, close_s):
    async def main(time: Clock) -> None:
        client = Watched(time, plans, max_batch, slots)
        stage = batcher(client, max_batch=max_batch, slots=slots, max_queue=max_queue, timeout_s=timeout_s)
        closed = False

        def no_slot_is_idle_while_something_waits() -> None:
            idle = stage.in_flight < slots and (stage.breaker == "closed" or stage.in_flight == 0)
            assert closed or not idle or (stage.queued == 0 and not client.waiting)

        time.before_jump = no_slot_is_idle_while_something_waits

        async def one(name: str, arrival: Arrival) -> str:
            shown = item(name, arrival.left_s)
            began, full = time.now, stage.queued >= max_queue
            client.waiting[name] = (began, shown.deadline_s)
            try:
                answer = await stage.submit(shown)
            except Overloaded as error:
                assert full or client.calls >= 5, "only what is known of the pace refuses where there is room"
                assert error.retry_after_s > 0
                return "overloaded"
            except DeadlineExceeded:
                assert time.now == shown.deadline_s or client.calls >= 5
                return "expired"
            except StageFailed as error:
                if isinstance(error, StageDown):
                    assert client.calls >= 5
                elif "retry" in str(error):  # at the deadline, or earlier where the pace is known to be too slow
                    assert client.tries[name] and (time.now == shown.deadline_s or client.calls >= 5)
                elif not closed and "longer than" not in str(error):
                    assert client.plan_of[name].end not in ("answer", "hang")
                return "failed"
            else:
                assert answer.prediction.model == name, "every item gets its own answer"
                assert client.plan_of[name].end == "answer"
                assert answer.batch_size <= max_batch
                return "answered"
            finally:
                client.waiting.pop(name, None)
                assert time.now <= shown.deadline_s, "nobody is kept beyond the deadline"

        async def hang_up(task: asyncio.Task[str], name: str, after_s: float) -> None:
            await asyncio.sleep(after_s)
            if task.cancel():
                client.hung_up[name] = time.now
                client.waiting.pop(name, None)

        async def close() -> None:
            nonlocal closed
            await asyncio.sleep(close_s if close_s is not None else 1e9)
            closed = True
            await stage.aclose()

        closing = asyncio.create_task(close())
        tasks: list[asyncio.Task[str]] = []
        others: list[asyncio.Task[None]] = []
        for number, arrival in enumerate(arrivals):
            await asyncio.sleep(arrival.after_s)
            tasks.append(asyncio.create_task(one(str(number), arrival)))
            if arrival.cancel_s is not None:
                others.append(asyncio.create_task(hang_up(tasks[-1], str(number), arrival.cancel_s)))
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        for each in ended:
            if isinstance(each, Exception):
                raise each
        await asyncio.gather(*others)
        assert client.broken == []
        assert stage.queued == 0
        closing.cancel()
        await stage.aclose()
        assert (stage.queued, stage.in_flight, client.running) == (0, 0, 0)

    clock.run(main)
