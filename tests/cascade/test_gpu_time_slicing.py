"""Engines that share a GPU in time slices."""

import asyncio
import time
from collections.abc import AsyncGenerator

import pytest

from roadwork_serve.cascade.gpu_time_slicing import GpuTimeSlicer, TimeSlicedStage
from roadwork_serve.cascade.prediction import Item, StagePrediction
from tests.cascade.fakes import item


class Engine:
    """An engine that fails calls in its sleep."""

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
    """A stage whose engine must be awake."""

    def __init__(self, name: str, engine: Engine) -> None:
        self.name, self.sees, self.engine = name, "images", engine
        self.together = 0

    async def warm(self) -> None:
        assert self.engine.awake

    async def predict(self, items: list[Item]) -> list[StagePrediction]:
        assert self.engine.awake
        self.together += 1
        self.engine.busy.set()
        await self.engine.go.wait()
        self.engine.busy.clear()
        self.together -= 1
        return [StagePrediction(1.0, self.name) for _ in items]

    async def check(self) -> None: ...

    async def aclose(self) -> None: ...


class Gpu:
    """A GPU with two engines, of which `photos` is awake, and the switches."""

    def __init__(self, cost_s: float = 0.0) -> None:
        self.engines = {"photos": Engine(True, cost_s), "clips": Engine(False, cost_s)}
        self.taken: list[str] = []
        self.slicer = GpuTimeSlicer(self.engines, "photos", lambda name, cost_s: self.taken.append(name))
        self.photos, self.clips = (
            TimeSlicedStage(Stage(name, engine), name, self.slicer, timeout_s=60)  # type: ignore[arg-type]
            for name, engine in self.engines.items()
        )


@pytest.fixture
async def gpu() -> AsyncGenerator[Gpu]:
    gpu = Gpu()
    yield gpu
    await gpu.slicer.aclose()


async def test_the_active_engine_runs_at_once(gpu: Gpu) -> None:
    assert [each.model for each in await gpu.photos.predict([item()])] == ["photos"]
    assert gpu.taken == []


async def test_an_idle_engine_yields_the_gpu(gpu: Gpu) -> None:
    assert [each.model for each in await gpu.clips.predict([item()])] == ["clips"]
    assert gpu.taken == ["clips"]
    assert not gpu.engines["photos"].awake


async def test_running_calls_finish_before_a_switch(gpu: Gpu) -> None:
    gpu.engines["photos"].go.clear()
    photo = asyncio.create_task(gpu.photos.predict([item()]))
    await gpu.engines["photos"].busy.wait()
    clip = asyncio.create_task(gpu.clips.predict([item(left_s=0.1)]))  # is urgent, but must still wait
    await asyncio.sleep(0.05)
    assert not clip.done() and gpu.taken == []
    gpu.engines["photos"].go.set()
    await photo
    await clip
    assert gpu.taken == ["clips"]


async def test_all_waiting_calls_run_in_one_time_slice(gpu: Gpu) -> None:
    gpu.engines["photos"].go.clear()
    photo = asyncio.create_task(gpu.photos.predict([item()]))
    await gpu.engines["photos"].busy.wait()
    clips = [asyncio.create_task(gpu.clips.predict([item()])) for _ in range(5)]
    await asyncio.sleep(0)
    gpu.engines["photos"].go.set()
    await asyncio.gather(photo, *clips)
    assert gpu.taken == ["clips"]


async def test_a_close_deadline_ends_a_stream_of_other_calls(gpu: Gpu) -> None:
    answered = 0

    async def stream() -> None:
        nonlocal answered
        while not clip.done():
            await asyncio.gather(*(gpu.photos.predict([item()]) for _ in range(2)))
            answered += 1
            await asyncio.sleep(0)

    clip = asyncio.create_task(gpu.clips.predict([item(left_s=0.4)]))
    async with asyncio.timeout(5):
        await asyncio.gather(stream(), clip)
    assert answered and "clips" in gpu.taken


async def test_expensive_switches_are_rare() -> None:
    gpu = Gpu(cost_s=0.05)
    try:
        await gpu.clips.predict([item()])
        began = time.monotonic()
        await gpu.photos.predict([item()])
        assert time.monotonic() - began > 5 * 0.05  # a time slice is at least ten times the cost of a switch
        assert gpu.taken == ["clips", "photos"]
    finally:
        await gpu.slicer.aclose()


async def test_an_infeasible_deadline_causes_no_switch(gpu: Gpu) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await gpu.clips.predict([item(left_s=-1)])
    assert gpu.taken == []
    assert (await gpu.photos.predict([item()]))[0].model == "photos"


async def test_a_cancelled_caller_is_removed(gpu: Gpu) -> None:
    gpu.engines["photos"].go.clear()
    photo = asyncio.create_task(gpu.photos.predict([item()]))
    await gpu.engines["photos"].busy.wait()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await gpu.clips.predict([item()])
    gpu.engines["photos"].go.set()
    await photo
    await asyncio.sleep(0.05)
    assert gpu.taken == []


async def test_an_engine_that_does_not_wake_fails_its_callers_and_the_health_check(gpu: Gpu) -> None:
    gpu.engines["clips"].broken = True
    with pytest.raises(RuntimeError, match="no memory"):
        await gpu.clips.predict([item()])
    with pytest.raises(RuntimeError, match="no memory"):
        await gpu.photos.check()


async def test_warm_up_waits_for_a_time_slice_without_a_deadline(gpu: Gpu) -> None:
    await gpu.clips.warm()
    assert gpu.taken == ["clips"]


async def test_two_close_deadlines_are_both_met() -> None:
    gpu = Gpu(cost_s=0.1)
    try:
        await gpu.clips.predict([item()])  # measures the cost of a switch
        gpu.engines["clips"].go.clear()
        clip = asyncio.create_task(gpu.clips.predict([item()]))
        await gpu.engines["clips"].busy.wait()
        photo = asyncio.create_task(gpu.photos.predict([item(left_s=0.6)]))
        await asyncio.sleep(0.2)
        another = asyncio.create_task(gpu.clips.predict([item(left_s=1.0)]))
        gpu.engines["clips"].go.set()
        async with asyncio.timeout(5):
            await asyncio.gather(clip, photo, another)
        assert gpu.taken.count("photos") == 1
    finally:
        await gpu.slicer.aclose()


async def test_an_answer_does_not_wait_for_the_next_switch() -> None:
    gpu = Gpu(cost_s=1.0)
    try:
        gpu.engines["photos"].go.clear()
        photo = asyncio.create_task(gpu.photos.predict([item()]))
        await gpu.engines["photos"].busy.wait()
        clip = asyncio.create_task(gpu.clips.predict([item()]))
        await asyncio.sleep(0)
        began = time.monotonic()
        gpu.engines["photos"].go.set()
        await photo
        assert time.monotonic() - began < 0.5
        await clip
    finally:
        await gpu.slicer.aclose()


async def test_an_engine_that_hangs_in_sleep_ends_the_scheduler(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roadwork_serve.cascade.gpu_time_slicing.MAX_SWITCH_S", 0.05)
    gpu.engines["clips"].cost_s = 60
    with pytest.raises(TimeoutError):
        await gpu.clips.predict([item()])
    with pytest.raises(TimeoutError):
        await gpu.clips.check()


async def test_a_stage_with_a_short_timeout_switches_early(gpu: Gpu) -> None:
    impatient = TimeSlicedStage(Stage("clips", gpu.engines["clips"]), "clips", gpu.slicer, timeout_s=0.4)  # type: ignore[arg-type]
    done = asyncio.Event()

    async def stream() -> None:
        while not done.is_set():
            await gpu.photos.predict([item()])
            await asyncio.sleep(0)

    streaming = asyncio.create_task(stream())
    async with asyncio.timeout(2):
        assert [each.model for each in await impatient.predict([item(left_s=600)])] == ["clips"]
    done.set()
    await streaming
