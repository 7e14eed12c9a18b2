"""Engines that take turns on one card."""

import asyncio
import time
from collections.abc import AsyncGenerator

import pytest

from roadwork_serve.cascade.gpu_time_slicing import GpuTimeSlicer, TimeSlicedStage
from roadwork_serve.cascade.prediction import Item, StagePrediction
from tests.cascade.fakes import item


class Engine:
    """Sleeps or is awake; says so when it is asked in its sleep."""

    def __init__(self, awake: bool, cost_s: float = 0.0) -> None:
        self.awake, self.cost_s = awake, cost_s
        self.busy = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()
        self.broken = False

    async def sleep(self) -> None:
        assert self.awake and not self.busy.is_set()
        self.awake = False

    async def wake(self) -> None:
        if self.broken:
            raise RuntimeError("no memory")
        await asyncio.sleep(self.cost_s)
        self.awake = True


class Stage:
    """Judges with an engine, which must be awake."""

    def __init__(self, name: str, engine: Engine) -> None:
        self.name, self.sees, self.engine = name, "images", engine
        self.together = 0

    async def warm(self) -> None:
        assert self.engine.awake

    async def judge(self, items: list[Item]) -> list[StagePrediction]:
        assert self.engine.awake
        self.together += 1
        self.engine.busy.set()
        await self.engine.go.wait()
        self.engine.busy.clear()
        self.together -= 1
        return [StagePrediction(1.0, self.name) for _ in items]

    async def check(self) -> None: ...

    async def aclose(self) -> None: ...


class Card:
    """A card with two engines, of which `photos` is awake, and the turns they took."""

    def __init__(self, cost_s: float = 0.0) -> None:
        self.engines = {"photos": Engine(True, cost_s), "clips": Engine(False, cost_s)}
        self.taken: list[str] = []
        self.turns = GpuTimeSlicer(self.engines, "photos", lambda name, cost_s: self.taken.append(name))
        self.photos, self.clips = (
            TimeSlicedStage(Stage(name, engine), name, self.turns, timeout_s=60)  # type: ignore[arg-type]
            for name, engine in self.engines.items()
        )


@pytest.fixture
async def card() -> AsyncGenerator[Card]:
    card = Card()
    yield card
    await card.turns.aclose()


async def test_the_one_awake_is_asked_at_once(card: Card) -> None:
    assert [opinion.model for opinion in await card.photos.judge([item()])] == ["photos"]
    assert card.taken == []


async def test_an_idle_engine_gives_its_turn_away(card: Card) -> None:
    assert [opinion.model for opinion in await card.clips.judge([item()])] == ["clips"]
    assert card.taken == ["clips"]
    assert not card.engines["photos"].awake


async def test_what_has_begun_is_finished_first(card: Card) -> None:
    card.engines["photos"].go.clear()
    photo = asyncio.create_task(card.photos.judge([item()]))
    await card.engines["photos"].busy.wait()
    clip = asyncio.create_task(card.clips.judge([item(left_s=0.1)]))  # presses, and must wait all the same
    await asyncio.sleep(0.05)
    assert not clip.done() and card.taken == []
    card.engines["photos"].go.set()
    await photo
    await clip
    assert card.taken == ["clips"]


async def test_all_that_wait_are_answered_in_one_phase(card: Card) -> None:
    card.engines["photos"].go.clear()
    photo = asyncio.create_task(card.photos.judge([item()]))
    await card.engines["photos"].busy.wait()
    clips = [asyncio.create_task(card.clips.judge([item()])) for _ in range(5)]
    await asyncio.sleep(0)
    card.engines["photos"].go.set()
    await asyncio.gather(photo, *clips)
    assert card.taken == ["clips"]


async def test_a_pressing_deadline_closes_the_door_to_a_stream_of_others(card: Card) -> None:
    answered = 0

    async def stream() -> None:
        nonlocal answered
        while not clip.done():
            await asyncio.gather(*(card.photos.judge([item()]) for _ in range(2)))
            answered += 1
            await asyncio.sleep(0)

    clip = asyncio.create_task(card.clips.judge([item(left_s=0.4)]))
    async with asyncio.timeout(5):
        await asyncio.gather(stream(), clip)
    assert answered and "clips" in card.taken


async def test_turns_that_cost_much_are_taken_seldom() -> None:
    card = Card(cost_s=0.05)
    try:
        await card.clips.judge([item()])
        began = time.monotonic()
        await card.photos.judge([item()])
        assert time.monotonic() - began > 5 * 0.05  # a phase is ten times what a turn costs
        assert card.taken == ["clips", "photos"]
    finally:
        await card.turns.aclose()


async def test_a_deadline_that_cannot_be_met_takes_no_turn(card: Card) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await card.clips.judge([item(left_s=-1)])
    assert card.taken == []
    assert (await card.photos.judge([item()]))[0].model == "photos"


async def test_who_gives_up_waiting_is_forgotten(card: Card) -> None:
    card.engines["photos"].go.clear()
    photo = asyncio.create_task(card.photos.judge([item()]))
    await card.engines["photos"].busy.wait()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await card.clips.judge([item()])
    card.engines["photos"].go.set()
    await photo
    await asyncio.sleep(0.05)
    assert card.taken == []


async def test_an_engine_that_does_not_wake_fails_its_callers_and_the_health_check(card: Card) -> None:
    card.engines["clips"].broken = True
    with pytest.raises(RuntimeError, match="no memory"):
        await card.clips.judge([item()])
    with pytest.raises(RuntimeError, match="no memory"):
        await card.photos.check()


async def test_warming_waits_for_a_turn_without_a_deadline(card: Card) -> None:
    await card.clips.warm()
    assert card.taken == ["clips"]


async def test_two_that_press_are_both_answered() -> None:
    card = Card(cost_s=0.1)
    try:
        await card.clips.judge([item()])  # now it knows what a turn costs
        card.engines["clips"].go.clear()
        clip = asyncio.create_task(card.clips.judge([item()]))
        await card.engines["clips"].busy.wait()
        photo = asyncio.create_task(card.photos.judge([item(left_s=0.6)]))
        await asyncio.sleep(0.2)
        another = asyncio.create_task(card.clips.judge([item(left_s=1.0)]))
        card.engines["clips"].go.set()
        async with asyncio.timeout(5):
            await asyncio.gather(clip, photo, another)
        assert card.taken.count("photos") == 1
    finally:
        await card.turns.aclose()


async def test_an_answer_does_not_wait_for_the_turn_after_it() -> None:
    card = Card(cost_s=1.0)
    try:
        card.engines["photos"].go.clear()
        photo = asyncio.create_task(card.photos.judge([item()]))
        await card.engines["photos"].busy.wait()
        clip = asyncio.create_task(card.clips.judge([item()]))
        await asyncio.sleep(0)
        began = time.monotonic()
        card.engines["photos"].go.set()
        await photo
        assert time.monotonic() - began < 0.5
        await clip
    finally:
        await card.turns.aclose()


async def test_an_engine_that_hangs_in_its_sleep_ends_the_turns(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roadwork_serve.cascade.gpu_time_slicing.MAX_SLICE_S", 0.05)
    card.engines["clips"].cost_s = 60
    with pytest.raises(TimeoutError):
        await card.clips.judge([item()])
    with pytest.raises(TimeoutError):
        await card.clips.check()


async def test_a_stage_that_gives_up_early_presses_early(card: Card) -> None:
    impatient = TimeSlicedStage(Stage("clips", card.engines["clips"]), "clips", card.turns, timeout_s=0.4)  # type: ignore[arg-type]
    done = asyncio.Event()

    async def stream() -> None:
        while not done.is_set():
            await card.photos.judge([item()])
            await asyncio.sleep(0)

    streaming = asyncio.create_task(stream())
    async with asyncio.timeout(2):
        assert [each.model for each in await impatient.judge([item(left_s=600)])] == ["clips"]
    done.set()
    await streaming
