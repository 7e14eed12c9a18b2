"""A stage's replica, in this process."""

import asyncio
import logging
import math
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest

from deployments.app import build_app
from deployments.stage_replica import StageReplica
from roadwork_serve.api.deployment_names import DEPLOYMENTS
from roadwork_serve.cancellable_thread import stop_if_cancelled
from roadwork_serve.cascade.prediction import Item, StagePrediction
from roadwork_serve.cascade.threaded_stage import ThreadedStage
from roadwork_serve.errors import ModelError, StageFailed
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.load import load_profile
from roadwork_serve.profiles.stage_kinds import STAGES
from roadwork_serve.profiles.stage_spec import StageSpec
from roadwork_serve.stages.health import PROBE_AFTER_S
from tests.recording_lock import PausePoint

ENGINE = EngineSpec(backend="transformers", model="fake", threads=3)
SPEC = StageSpec(engine="fake", timeout_s=1)


class FakeStage:
    name = "vlm"
    sees = "images"

    def __init__(self) -> None:
        self.warmed = 0
        self.error: Exception | None = None
        self.logit = 1.0
        self.items: Sequence[Item] = ()
        self.go = threading.Event()
        self.go.set()

    def warm(self) -> None:
        self.warmed += 1
        self.threads = os.environ["OMP_NUM_THREADS"]

    def predict(self, items: Sequence[Item]) -> list[StagePrediction]:
        self.items = items
        self.go.wait(5)
        if self.error:
            raise self.error
        return [StagePrediction(self.logit, "fake") for _ in items]


@pytest.fixture
def stage() -> FakeStage:
    return FakeStage()


@pytest.fixture
async def replica(stage: FakeStage, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StageReplica]:
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(variable, "1")
    replica = StageReplica.__new__(StageReplica)  # as Serve does it, to await the constructor
    await replica.__init__({"e": ENGINE}, {"e": {"vlm": SPEC}}, lambda engine, users: {"vlm": ThreadedStage(stage)})
    yield replica
    stage.go.set()
    await replica.aclose()
    logging.getLogger("ray.serve").filters.clear()


async def test_weights_are_downloaded_before_the_gpu_is_locked(stage: FakeStage, monkeypatch: pytest.MonkeyPatch):
    steps: list[str] = []

    @contextmanager
    def lock(engine: EngineSpec) -> Iterator[None]:
        steps.append(f"lock for {engine.model}")
        yield
        steps.append("unlock")

    monkeypatch.setattr("deployments.stage_replica.lower_priority", lambda niceness: steps.append("nice"))
    monkeypatch.setattr("deployments.stage_replica.keep_compiled", lambda: steps.append("caches"))
    monkeypatch.setattr("deployments.stage_replica._download", lambda engines, tell: tell("downloading"))
    monkeypatch.setattr("deployments.stage_replica.gpu_load_lock", lock)
    monkeypatch.setattr("deployments.stage_replica.report_progress", lambda name, text: steps.append(f"{name}: {text}"))
    gpu = ENGINE.model_copy(update={"device": "cuda", "num_gpus": 0.5})
    replica = StageReplica.__new__(StageReplica)
    await replica.__init__({"e": gpu}, {"e": {"vlm": SPEC}}, lambda engine, users: {"vlm": ThreadedStage(stage)})
    await replica.aclose()
    logging.getLogger("ray.serve").filters.clear()
    assert steps == [
        "caches", "FastVLM: downloading", "FastVLM: waiting to load fake", "lock for fake", "FastVLM: loading fake",
        "unlock", "FastVLM: ",
    ], "and it keeps its priority, so that the GPU does not wait for a core"  # fmt: skip


def item(deadline_s: float = 0.0) -> Item:
    return Item("r", "photo", (b"jpeg",), np.zeros((0, 16, 16, 3), np.uint8), (0.0,), deadline_s)


async def test_it_warms_up_and_starts_its_threads_before_it_is_ready(replica: StageReplica, stage: FakeStage):
    assert (stage.warmed, stage.threads) == (1, "3")
    assert await replica.describe("vlm") == "images"


async def test_deadlines_are_converted_to_its_own_clock(replica: StageReplica, stage: FakeStage):
    predictions = await replica.predict("vlm", [item(deadline_s=-1e9), item(deadline_s=1e9)], [2.0, 0.5])
    assert [prediction.logit for prediction in predictions] == [1.0, 1.0]
    assert [round(each.left_s(), 1) for each in stage.items] == pytest.approx([2.0, 0.5], abs=0.2)


async def test_health_checks_answer_during_a_prediction(replica: StageReplica, stage: FakeStage):
    stage.go.clear()
    call = asyncio.create_task(replica.predict("vlm", [item()], [1.0]))
    await asyncio.sleep(0)
    await replica.check_health()
    assert await replica.describe("vlm") == "images"
    assert not call.done()
    stage.go.set()
    await call


async def test_a_stuck_model_fails_its_health_check(
    replica: StageReplica, stage: FakeStage, monkeypatch: pytest.MonkeyPatch
):
    stage.go.clear()
    call = asyncio.create_task(replica.predict("vlm", [item()], [1.0]))
    await asyncio.sleep(0)
    monkeypatch.setattr(replica._health, "_clock", lambda: time.monotonic() + 4)
    with pytest.raises(RuntimeError, match="has not ended for 4 s"):
        await replica.check_health()
    stage.go.set()
    await call
    await replica.check_health()


async def test_a_model_that_hangs_is_down_though_its_process_answers(
    replica: StageReplica, stage: FakeStage, monkeypatch: pytest.MonkeyPatch
):
    """All callers give up before the stage's timeout, so that no call is ever reported as failed."""
    stage.go.clear()
    calls = [asyncio.create_task(replica.predict("vlm", [item()], [1.0])) for _ in range(3)]
    await asyncio.sleep(0.05)
    for call in calls:
        call.cancel()
    await asyncio.sleep(0.05)
    assert await replica.describe("vlm") == "images"
    monkeypatch.setattr(replica._health, "_clock", lambda: time.monotonic() + 1.2)
    with pytest.raises(StageFailed, match="vlm has calls and has answered none for 1 s"):
        await replica.describe("vlm")
    monkeypatch.setattr(replica._health, "_clock", lambda: time.monotonic() + 2)
    with pytest.raises(RuntimeError, match="answered none for 2 s"):
        await replica.check_health()
    monkeypatch.undo()
    stage.go.set()
    await asyncio.wait(calls)
    assert (await replica.predict("vlm", [item()], [1.0]))[0].logit == 1.0
    assert await replica.describe("vlm") == "images"


async def test_errors_of_the_model_are_sent_as_text(replica: StageReplica, stage: FakeStage):
    stage.error = type("ExoticError", (Exception,), {})("out of luck")
    with pytest.raises(StageFailed, match=r"^ExoticError; see its log$") as raised:
        await replica.predict("vlm", [item()], [1.0])
    assert raised.value.__cause__ is None
    stage.error = ModelError("the head does not fit; train one")
    with pytest.raises(StageFailed, match="the head does not fit; train one"):
        await replica.predict("vlm", [item()], [1.0])


async def test_a_logit_that_is_not_a_number_is_a_failure(replica: StageReplica, stage: FakeStage):
    stage.logit = math.nan
    with pytest.raises(StageFailed, match="fake returns nan: set dtype: bfloat16"):
        await replica.predict("vlm", [item()], [1.0])


async def test_an_idle_replica_whose_model_no_longer_works_fails_its_health_check(
    replica: StageReplica, stage: FakeStage, monkeypatch: pytest.MonkeyPatch
):
    await replica.check_health()
    assert stage.items == ()
    stage.error = RuntimeError("CUDA error")
    monkeypatch.setattr(replica._health, "_clock", lambda: time.monotonic() + PROBE_AFTER_S + 1)
    await replica.check_health()
    with pytest.raises(RuntimeError, match="vlm fails on a synthetic item: RuntimeError: CUDA error"):
        while True:
            await asyncio.sleep(0)
            await replica.check_health()


async def test_work_that_was_cancelled_stops(replica: StageReplica, stage: FakeStage, monkeypatch: pytest.MonkeyPatch):
    pause = PausePoint(at=2)

    def predict(items: Sequence[Item]) -> list[StagePrediction]:
        for _ in items:
            stop_if_cancelled()
            pause()
        return []

    monkeypatch.setattr(stage, "predict", predict)
    await pause.cancel_there(replica.predict("vlm", [item()] * 20, [1.0] * 20))
    assert pause.steps == 2


async def test_it_finishes_its_calls_and_ends_its_threads_when_serve_stops_it(replica: StageReplica, stage: FakeStage):
    stage.go.clear()
    call = asyncio.create_task(replica.predict("vlm", [item()], [1.0]))
    while not stage.items:  # noqa: ASYNC110 - set by a thread
        await asyncio.sleep(0)
    stop = asyncio.create_task(replica.__del__())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not stop.done()  # running calls are finished
    stage.go.set()
    assert len(await call) == 1
    await stop
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("vlm")]


def test_calls_are_filtered_from_the_access_log_and_other_messages_are_not(replica: StageReplica):
    logger = logging.getLogger("ray.serve")
    record = logger.makeRecord(logger.name, logging.INFO, "", 0, "CALL judge OK 1ms", (), None)
    assert logger.filter(record)
    record.serve_access_log = True
    assert not logger.filter(record)


def test_each_stage_is_a_deployment_with_the_resources_of_its_spec():
    overrides = {
        "ingress": {"replicas": 2, "num_cpus": 0.75},
        "engines": {"qwen3-vl": {"device": "cuda", "num_gpus": 0.5, "memory_mb": 100, "replicas": 3}},
        "stages": {"vlm": {"slots": 2}},
    }
    app = build_app(load_profile("mini", overrides))
    ingress = app._bound_deployment
    profile, stages, journal_app = ingress.init_args
    assert ingress.name == "Ingress" and ingress.num_replicas == 2
    assert journal_app._bound_deployment.name == "Journal"
    assert ingress.ray_actor_options["num_cpus"] == 0.75
    assert ingress.max_ongoing_requests > profile.ingress.max_ongoing_requests
    assert {name: stage._bound_deployment.name for name, stage in stages.items()} == {
        name: deployment for name, deployment in DEPLOYMENTS.items() if name != "closeup"
    }
    vlm = stages["vlm"]._bound_deployment
    assert (vlm.num_replicas, vlm.ray_actor_options["num_gpus"]) == (3, 0.5)
    assert vlm.ray_actor_options["memory"] == 100 * 2**20
    assert vlm.max_ongoing_requests > 2 * 2
    assert vlm.max_ongoing_requests > vlm.max_queued_requests > 2 * 3


def test_a_rolling_update_starts_the_new_version_first_where_both_fit():
    on_card = {"device": "cuda", "num_gpus": 0.5}
    overrides = {
        "engines": {"qwen3-vl": on_card, "molmo2": on_card | {"rolling_surge": True}, "ocr": {"rolling_surge": False}}
    }
    ingress = build_app(load_profile("mini", overrides))._bound_deployment
    surge = {name: stage._bound_deployment for name, stage in ingress.init_args[1].items()} | {"ingress": ingress}
    assert {name: each._deployment_config.max_surge_percent for name, each in surge.items()} == {
        "backbone": 100, "signs": 0, "vlm": 0, "reasoner": 100, "video": 100, "ingress": 100
    }  # fmt: skip


def test_ingress_replicas_that_are_spread_over_nodes_are_replaced_one_by_one():
    overrides = {"ingress": {"replicas": 2, "max_per_node": 1}}
    ingress = build_app(load_profile("mini", overrides))._bound_deployment
    assert ingress._replica_config.max_replicas_per_node == 1
    assert ingress._deployment_config.max_surge_percent == 0


def test_every_stage_of_a_profile_has_a_deployment():
    assert set(DEPLOYMENTS) == set(STAGES)


def test_stages_of_one_engine_are_one_deployment():
    app = build_app(load_profile("mini", {"stages": {"reasoner": {"engine": "qwen3-vl"}}}))
    _, stages, _ = app._bound_deployment.init_args
    shared = stages["vlm"]._bound_deployment
    assert shared.name == "FastVLM-Reasoner" and stages["reasoner"] is stages["vlm"]
    engines, users, _ = shared.init_args
    assert [engine.model for engine in engines.values()] == ["bundled:vlm"]
    assert [list(using) for using in users.values()] == [["vlm", "reasoner"]]


SLICED = {"backend": "transformers", "time_slice_group": "gpu"}
TIME_SLICED = {"engines": {"qwen3-vl-thinking": SLICED, "molmo2": SLICED}}


def test_time_sliced_engines_are_one_deployment_with_one_share():
    app = build_app(load_profile("mini", TIME_SLICED))
    _, stages, _ = app._bound_deployment.init_args
    shared = stages["video"]._bound_deployment
    assert shared.name == "Reasoner-VideoReasoner" and stages["reasoner"] is stages["video"]
    assert shared.ray_actor_options["num_cpus"] == 0.5


async def test_engines_that_share_a_process_stay_awake():
    app = build_app(load_profile("cpu"))
    _, stages, _ = app._bound_deployment.init_args
    shared = stages["video"]._bound_deployment
    assert shared.name == "FastVLM-Reasoner-VideoReasoner" and stages["vlm"] is stages["video"]
    assert shared.ray_actor_options["num_cpus"] == 0.5
    engines, users, _ = shared.init_args
    opened = {name: ThreadedStage(FakeStage()) for using in users.values() for name in using}
    replica = StageReplica.__new__(StageReplica)
    await replica.__init__(engines, users, lambda engine, using: {name: opened[name] for name in using})
    logging.getLogger("ray.serve").filters.clear()
    assert replica._stages == opened
    await replica.aclose()


class Sleepy(FakeStage):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.awake = name, True

    async def warm(self) -> None:  # type: ignore[override]
        assert self.awake

    async def predict(self, items: Sequence[Item]) -> list[StagePrediction]:  # type: ignore[override]
        assert self.awake
        return [StagePrediction(1.0, self.name) for _ in items]

    async def sleep(self) -> None:
        self.awake = False

    async def wake(self) -> None:
        self.awake = True

    async def check(self) -> None: ...


async def test_a_replica_time_slices_its_engines(monkeypatch: pytest.MonkeyPatch):
    switched: list[str] = []
    monkeypatch.setattr(
        "deployments.stage_replica.Histogram.observe", lambda _, cost_s, tags: switched.append(tags["engine"])
    )
    stages = {"reasoner": Sleepy("reasoner"), "video": Sleepy("video")}
    replica = StageReplica.__new__(StageReplica)
    users = {"thinking": {"reasoner": SPEC}, "molmo2": {"video": SPEC}}
    sliced = ENGINE.model_copy(update={"time_slice_group": "gpu"})
    await replica.__init__(
        {"thinking": sliced, "molmo2": sliced}, users, lambda engine, using: {name: stages[name] for name in using}
    )
    logging.getLogger("ray.serve").filters.clear()
    assert [stage.awake for stage in stages.values()] == [True, False]  # after a switch that measured its cost
    for name in ("video", "reasoner", "video"):
        (prediction,) = await replica.predict(name, [item()], [60.0])
        assert prediction.model == name
    await replica.check_health()
    assert switched == ["thinking", "molmo2", "thinking", "molmo2"]
