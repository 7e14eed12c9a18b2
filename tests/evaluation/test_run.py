import threading
from collections.abc import Iterator, Mapping

import pytest

from roadwork_serve.cascade.policy_file import load_policy
from roadwork_serve.cascade.prediction import Stage
from roadwork_serve.cascade.threaded_stage import ThreadedStage
from roadwork_serve.datasets.samples import Sample, SampleMetadata
from roadwork_serve.errors import ModelError
from roadwork_serve.evaluation.run import evaluate_samples
from roadwork_serve.local_cascade import local_cascade
from roadwork_serve.profiles.engine_spec import EngineSpec
from roadwork_serve.profiles.stage_kinds import STAGES, StageName
from roadwork_serve.profiles.stage_spec import StageSpec
from tests.evaluation import fakes
from tests.evaluation.fakes import BLUE, GREY, PALE, PINK, POLICY, RED, ByColour, jpeg, mp4, open_by_colour


def photo(name: str, colour: tuple[int, int, int], label: bool = True) -> Sample:
    return Sample(SampleMetadata(name, "photo", label), jpeg(colour))


async def test_rows_keep_the_order_and_contain_the_exit_stage() -> None:
    samples = [photo("red", RED), photo("pink", PINK), photo("pale", PALE, False), photo("blue", BLUE, False)]
    async with local_cascade(fakes.profile(), POLICY, open_by_colour) as cascade:
        rows, failed = await evaluate_samples(samples, cascade)
    assert not failed
    assert [(row.metadata.name, row.exit_stage, row.predicted_label) for row in rows] == [
        ("red", "backbone", True),
        ("pink", "vlm", True),
        ("pale", "vlm", False),
        ("blue", "backbone", False),
    ]
    assert rows[1].entered == ("backbone", "vlm")


async def test_the_vlm_runs_for_comparison_without_changing_the_verdict() -> None:
    async with local_cascade(fakes.profile(), POLICY, open_by_colour) as cascade:
        alone, _ = await evaluate_samples([photo("red", RED)], cascade)
        compared, _ = await evaluate_samples([photo("red", RED)], cascade, also=["vlm"])
    vlm = compared[0].record("vlm")
    assert alone[0].record("vlm") is None
    assert vlm is not None and vlm.posterior is None and vlm.logit is not None and vlm.logit > 5
    assert (compared[0].probability, compared[0].entered) == (alone[0].probability, ("backbone",))


async def test_all_stages_run_on_request_on_their_media_type() -> None:
    samples = [photo("grey", GREY), Sample(SampleMetadata("clip", "clip", True), mp4(RED))]
    async with local_cascade(fakes.profile(), POLICY, open_by_colour) as cascade:
        rows, failed = await evaluate_samples(samples, cascade, also=STAGES)
    assert not failed
    assert [{record.stage for record in row.records} for row in rows] == [
        {"backbone", "signs", "vlm", "reasoner"},
        {"backbone", "video"},
    ]


async def test_a_broken_file_fails_alone() -> None:
    samples = [photo("red", RED), Sample(SampleMetadata("broken", "photo", True), b"no picture"), photo("blue", BLUE)]
    done: list[None] = []
    async with local_cascade(fakes.profile(), POLICY, open_by_colour) as cascade:
        rows, failed = await evaluate_samples(samples, cascade, on_done=lambda: done.append(None))
    assert [row.metadata.name for row in rows] == ["red", "blue"]
    assert [failure.name for failure in failed] == ["broken"]
    assert len(done) == 3


async def test_samples_are_consumed_lazily() -> None:
    async with local_cascade(fakes.profile(), POLICY, open_by_colour) as cascade:
        taken: list[int] = []

        def endless() -> Iterator[Sample]:
            for index in range(200):
                taken.append(index)
                yield photo(str(index), RED)

        ahead: list[int] = []
        rows, _ = await evaluate_samples(endless(), cascade, on_done=lambda: ahead.append(len(taken) - len(ahead)))
    assert len(rows) == 200
    assert max(ahead) <= 40


async def test_only_stages_of_the_policy_are_opened_and_warmed_up() -> None:
    opened: dict[str, ByColour] = {}

    def opening(engine: EngineSpec, users: Mapping[StageName, StageSpec]) -> dict[StageName, Stage]:
        opened.update({name: ByColour(name, engine) for name in users})
        return {name: ThreadedStage(opened[name]) for name in users}

    one_step = load_policy("mini").to_mapping() | {
        kind: [{"stage": "backbone", "exit": [0.5, 0.5]}] for kind in ("photo", "clip")
    }
    policy = type(POLICY).parse(one_step)
    async with local_cascade(fakes.profile(), policy, opening) as cascade:
        assert set(cascade.stages) == {"backbone"}
    assert {name: stage.warmed for name, stage in opened.items()} == {"backbone": 1}


async def test_a_model_that_cannot_be_loaded_is_an_error_and_leaves_no_thread() -> None:
    def opening(engine: EngineSpec, users: Mapping[StageName, StageSpec]) -> dict[StageName, Stage]:
        if "vlm" in users:
            raise ModelError("no weights; fetch them")
        return fakes.open_by_colour(engine, users)

    before = {thread.name for thread in threading.enumerate()}
    with pytest.raises(ModelError, match="fetch them"):
        async with local_cascade(fakes.profile(), POLICY, opening):
            pass
    left = {thread.name for thread in threading.enumerate()} - before
    assert not {name for name in left if name.startswith(("backbone", "signs"))}
