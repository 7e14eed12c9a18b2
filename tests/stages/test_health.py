"""Health checks of the stages of a process."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from roadwork_serve.cascade.gpu_time_slicing import GpuTimeSlicer, TimeSlicedStage
from roadwork_serve.cascade.prediction import Item, Stage, StagePrediction
from roadwork_serve.errors import ModelError, StageFailed
from roadwork_serve.profiles.stage_kinds import STAGES, StageName
from roadwork_serve.stages.health import PROBE_AFTER_S, STUCK_TIMEOUTS, HealthMonitor, synthetic_item
from tests import untrained
from tests.stages.items import opened

TIMEOUT_S = 8.0


@dataclass
class Judge:
    """A stage that returns `logit` or raises `error` once `go` is set."""

    name: StageName = "vlm"
    sees: str = "images"
    logit: float | None = 1.0
    error: Exception | None = None
    dead: bool = False
    seen: list[Item] = field(default_factory=list)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: int = 0

    async def predict(self, items: Sequence[Item]) -> list[StagePrediction]:
        self.seen += items
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error:
            raise self.error
        return [StagePrediction(self.logit, "judge") for _ in items]

    async def warm(self) -> None: ...

    async def check(self) -> None:
        if self.dead:
            raise RuntimeError("its engine has died")

    async def aclose(self) -> None: ...

    async def sleep(self) -> None: ...

    async def wake(self) -> None: ...


class Checked:
    """A stage, its health, and the time."""

    def __init__(self, stage: Judge) -> None:
        self.stage, self.now = stage, 1000.0
        stage.go.set()
        self.health = HealthMonitor({stage.name: stage}, {stage.name: TIMEOUT_S}, 32, lambda: self.now)  # type: ignore[dict-item]

    async def check(self, after_s: float = 2.0) -> None:
        """Run a health check some time later, and let its probe run."""
        self.now += after_s
        try:
            await self.health.check()
        finally:
            for _ in range(5):
                await asyncio.sleep(0)

    async def call(self) -> None:
        """Make a real call."""
        with self.health.track(self.stage.name):
            self.health.validate(self.stage.name, await self.stage.predict([synthetic_item("vlm", 32, 1.0)]))


@pytest.fixture
def checked() -> Checked:
    return Checked(Judge())


async def test_an_idle_stage_is_probed_periodically(checked: Checked) -> None:
    for _ in range(60):
        await checked.check()
    assert len(checked.stage.seen) == pytest.approx(120 / PROBE_AFTER_S, abs=1)


async def test_a_stage_that_answers_calls_is_not_probed(checked: Checked) -> None:
    for _ in range(60):
        await checked.call()
        checked.stage.seen.clear()
        await checked.check()
        assert checked.stage.seen == []


async def test_no_probe_runs_during_a_call(checked: Checked) -> None:
    checked.stage.go.clear()
    checked.now += PROBE_AFTER_S
    call = asyncio.create_task(checked.call())
    await asyncio.sleep(0)
    await checked.check()
    assert len(checked.stage.seen) == 1
    checked.stage.go.set()
    await call


async def test_a_call_cancels_a_running_probe(checked: Checked) -> None:
    checked.stage.go.clear()
    await checked.check(PROBE_AFTER_S + 1)
    call = asyncio.create_task(checked.call())
    for _ in range(5):
        await asyncio.sleep(0)
    assert checked.stage.cancelled == 1
    checked.stage.go.set()
    await call
    await checked.check()


async def test_a_call_that_arrives_with_the_check_prevents_the_probe(checked: Checked) -> None:
    checked.now += PROBE_AFTER_S + 1
    await checked.health.check()
    await checked.call()
    assert len(checked.stage.seen) == 1
    for _ in range(5):
        await asyncio.sleep(0)
    await checked.check(PROBE_AFTER_S + 1)
    assert len(checked.stage.seen) == 2


@pytest.mark.parametrize(
    ("logit", "error", "message"),
    [
        (math.nan, None, "vlm fails on a synthetic item: ModelError: judge returns nan: set dtype"),
        (math.inf, None, "returns inf"),
        (1.0, RuntimeError("CUDA error"), "vlm fails on a synthetic item: RuntimeError: CUDA error"),
    ],
)
async def test_a_broken_model_fails_three_checks_until_it_recovers(
    checked: Checked, logit: float, error: Exception | None, message: str
) -> None:
    checked.stage.logit, checked.stage.error = logit, error
    await checked.check(PROBE_AFTER_S + 1)
    for _ in range(3):
        with pytest.raises(RuntimeError, match=message):
            await checked.check()
    checked.stage.logit, checked.stage.error = 1.0, None
    with pytest.raises(RuntimeError, match=message):
        await checked.check()
    await checked.check()


async def test_a_stage_that_abstains_is_healthy(checked: Checked) -> None:
    checked.stage.logit = None
    await checked.check(PROBE_AFTER_S + 1)
    await checked.check()
    assert len(checked.stage.seen) == 1


async def test_a_slow_probe_fails_the_check_and_is_not_repeated(
    checked: Checked,
) -> None:
    checked.stage.go.clear()
    await checked.check(PROBE_AFTER_S + 1)
    await checked.check(TIMEOUT_S - 1)
    for _ in range(3):
        with pytest.raises(RuntimeError, match=r"a health probe of vlm has not ended for \d+ s"):
            await checked.check()
    assert len(checked.stage.seen) == 1
    await checked.health.aclose()
    assert checked.stage.cancelled == 1


async def test_a_call_that_hangs_fails_the_check_though_others_are_answered(checked: Checked) -> None:
    checked.stage.go.clear()
    call = asyncio.create_task(checked.call())
    await asyncio.sleep(0)
    for _ in range(STUCK_TIMEOUTS):
        await checked.check(TIMEOUT_S - 0.1)
        checked.health.validate("vlm", [StagePrediction(1.0, "judge")])
    with pytest.raises(RuntimeError, match="a call to vlm has not ended for 26 s"):
        await checked.check()
    call.cancel()
    await asyncio.wait([call])
    await checked.check()


async def test_a_stage_that_answers_nothing_fails_the_check_earlier(checked: Checked) -> None:
    checked.stage.go.clear()
    call = asyncio.create_task(checked.call())
    await asyncio.sleep(0)
    await checked.check(1.5 * TIMEOUT_S - 1)
    with pytest.raises(RuntimeError, match="vlm has calls and has answered none for 13 s"):
        await checked.check()
    checked.stage.go.set()
    await call
    await checked.check()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def give_up(checked: Checked) -> None:
    """Make a call whose caller gives up after four seconds."""
    call = asyncio.create_task(checked.call())
    await settled()
    checked.now += 4
    checked.health.check_stalled("vlm")
    call.cancel()
    await asyncio.wait([call])


async def test_a_stage_whose_callers_all_give_up_stalls_until_it_answers(checked: Checked) -> None:
    await checked.call()
    checked.stage.go.clear()
    await give_up(checked)
    call = asyncio.create_task(checked.call())
    await settled()
    checked.now += 2
    for _ in range(2):
        with pytest.raises(StageFailed, match="vlm has calls and has answered none for 6 s"):
            checked.health.check_stalled("vlm")
    call.cancel()
    await asyncio.wait([call])
    checked.now += 60
    with pytest.raises(StageFailed, match="none for 66 s"):  # it starts a probe, which hangs
        checked.health.check_stalled("vlm")
    with pytest.raises(RuntimeError, match="none for 68 s"):
        await checked.check()
    checked.stage.go.set()
    await settled()
    checked.health.check_stalled("vlm")
    await checked.check()


async def test_a_stage_whose_callers_gave_up_long_ago_is_probed_and_stays_up(checked: Checked) -> None:
    await checked.call()
    checked.stage.go.clear()
    await give_up(checked)
    checked.stage.go.set()
    checked.stage.seen.clear()
    checked.now += 5
    checked.health.check_stalled("vlm")
    await settled()
    assert len(checked.stage.seen) == 1
    checked.now += 100
    checked.health.check_stalled("vlm")
    assert len(checked.stage.seen) == 1


async def test_a_break_between_calls_is_no_stall(checked: Checked) -> None:
    await checked.call()
    checked.stage.go.clear()
    await give_up(checked)
    checked.now += 100  # nobody asked in the meantime
    call = asyncio.create_task(checked.call())
    await settled()
    checked.health.check_stalled("vlm")
    checked.stage.go.set()
    await call


async def test_slow_stages_stall_later(checked: Checked) -> None:
    checked.stage.go.clear()
    for lasted_s, silent_s in ((None, TIMEOUT_S), (0.1, 5.0), (1.5, 6.0), (30.0, TIMEOUT_S)):
        if lasted_s is not None:
            call = asyncio.create_task(checked.call())
            await settled()
            checked.now += lasted_s
            checked.stage.go.set()
            await call
            checked.stage.go.clear()
        call = asyncio.create_task(checked.call())
        await settled()
        checked.now += silent_s - 0.01
        checked.health.check_stalled("vlm")
        checked.now += 0.02
        with pytest.raises(StageFailed):
            checked.health.check_stalled("vlm")
        call.cancel()
        await asyncio.wait([call])


async def test_a_dead_engine_fails_the_check(checked: Checked) -> None:
    checked.stage.dead = True
    with pytest.raises(RuntimeError, match="its engine has died"):
        await checked.check()


async def test_a_logit_that_is_not_a_number_fails_the_check(checked: Checked) -> None:
    checked.stage.logit = math.nan
    with pytest.raises(ModelError, match="judge returns nan"):
        await checked.call()


async def test_no_engine_is_woken_for_a_probe() -> None:
    vlm, video = Judge("vlm"), Judge("video")
    slicer, now_s = GpuTimeSlicer({"a": vlm, "b": video}, "a", lambda *_: None), [1000.0]
    vlm.go.set()
    video.go.set()
    stages: dict[StageName, Stage] = {
        "vlm": TimeSlicedStage(vlm, "a", slicer, TIMEOUT_S),  # type: ignore[arg-type]
        "video": TimeSlicedStage(video, "b", slicer, TIMEOUT_S),  # type: ignore[arg-type]
    }
    health = HealthMonitor(stages, dict.fromkeys(stages, TIMEOUT_S), 32, lambda: now_s[0])
    for _ in range(40):
        now_s[0] += 2
        await health.check()
        for _ in range(5):
            await asyncio.sleep(0)
    assert len(vlm.seen) >= 3 and video.seen == []
    assert slicer.active == "a"
    await slicer.aclose()


@pytest.mark.parametrize("name", STAGES)
async def test_every_stage_can_predict_its_synthetic_item(name: StageName) -> None:
    folders = {
        "backbone": untrained.backbone,
        "closeup": untrained.backbone,
        "signs": untrained.florence,
        "video": untrained.video,
    }
    stage = opened(name, folders.get(name, untrained.vlm)())
    item = synthetic_item(name, 224, 60.0)
    assert len(item.images) == len(item.thumbs) == len(item.timestamps_s) == (4 if name == "video" else 1)
    (prediction,) = await stage.predict([item])
    assert prediction.logit is None or math.isfinite(prediction.logit)
    assert name == "signs" or prediction.logit is not None
    await stage.aclose()


@pytest.mark.parametrize(("sees", "images", "thumbs"), [("images", 1, 0), ("thumbs", 0, 1), ("both", 1, 1)])
async def test_synthetic_items_have_the_media_of_real_ones(sees: str, images: int, thumbs: int):
    checked = Checked(Judge(sees=sees))
    await checked.check(after_s=PROBE_AFTER_S + 1)
    (item,) = checked.stage.seen
    assert (len(item.images), len(item.thumbs)) == (images, thumbs)
