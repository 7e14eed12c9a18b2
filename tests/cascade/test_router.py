import asyncio
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roadwork_serve.cascade.log_odds import Calibrator, logit, sigmoid
from roadwork_serve.cascade.policy import DegradationLevel, Policy, Step
from roadwork_serve.cascade.prediction import StagePrediction
from roadwork_serve.cascade.rollout import Rollout
from roadwork_serve.cascade.router import Router
from roadwork_serve.errors import DeadlineExceeded, NoOpinion, Overloaded, RoadworkError, StageFailed
from roadwork_serve.schema import Evidence, Verdict
from tests.cascade import clock
from tests.cascade.clock import Clock
from tests.cascade.fakes import GatedClient, InstantClient, batcher, item, prediction, settle
from tests.cascade.strategies import logits, policies, shares

PHOTO = (
    Step(stage="backbone", exit=(0.03, 0.97)),
    Step(stage="signs", exit=(0.05, 0.95), min_text_probability=0.4),
    Step(
        stage="vlm",
        exit=(0.1, 0.9),
        calibration=Calibrator(scale=2.0, prior_weight=0.5, bias=0.25),
        min_time_left_ms=50,
    ),
    Step(stage="reasoner", exit=(0.5, 0.5), min_time_left_ms=100),
)
CLIP = (Step(stage="backbone", exit=(0.03, 0.97)), Step(stage="video", exit=(0.5, 0.5)))
POLICY = Policy(version="test-1", photo=PHOTO, clip=CLIP)


def router(policy: Policy = POLICY, **stages: StagePrediction | Exception | object) -> Router:
    """Return a router over stages that have this prediction, this error or this client."""

    def client(outcome):
        return InstantClient(lambda _: outcome) if isinstance(outcome, StagePrediction | Exception) else outcome

    return Router(
        {name: batcher(client(outcome), name=name) for name, outcome in stages.items()}, Rollout(policy=policy), "mini"
    )


def way(verdict: Verdict) -> list[tuple[str, str]]:
    return [(report.stage, report.outcome) for report in verdict.stages]


async def test_a_clear_case_exits_at_the_first_stage():
    verdict = await router(backbone=prediction(5.0), signs=prediction(-9.0)).classify_item(item("r7"))
    assert verdict.probability == pytest.approx(sigmoid(5.0))
    assert (verdict.label, verdict.media, verdict.request_id) == ("roadwork", "photo", "r7")
    assert (verdict.exit.stage, verdict.exit.reason) == ("backbone", "above_band")
    assert (verdict.policy_version, verdict.profile, verdict.degraded) == ("test-1", "mini", False)
    assert way(verdict) == [("backbone", "answered")]


@pytest.mark.parametrize("incomplete", [False, True])
async def test_a_verdict_on_a_part_of_a_clip_says_so(incomplete: bool):
    clip = replace(item("r7"), kind="clip", incomplete=incomplete)
    verdict = await router(backbone=prediction(5.0)).classify_item(clip)
    assert verdict.incomplete is incomplete
    assert Verdict.model_validate_json(verdict.model_dump_json()).incomplete is incomplete


async def test_a_clear_negative_exits_below_the_band():
    verdict = await router(backbone=prediction(-5.0)).classify_item(item())
    assert (verdict.label, verdict.exit.reason) == ("none", "below_band")


async def test_the_evidence_of_the_stages_adds_up_to_the_posterior():
    asked = router(backbone=prediction(0.5), signs=prediction(1.0), vlm=prediction(-0.75), reasoner=prediction(3.0))
    verdict = await asked.classify_item(item())
    after_vlm = 0.5 * (0.5 + 1.0) + 2.0 * -0.75 + 0.25
    assert [report.posterior for report in verdict.stages] == pytest.approx(
        [sigmoid(0.5), sigmoid(1.5), sigmoid(after_vlm), sigmoid(after_vlm + 3.0)]
    )
    assert [report.probability for report in verdict.stages] == pytest.approx(
        [sigmoid(0.5), sigmoid(1.0), sigmoid(-0.75), sigmoid(3.0)]
    )
    assert verdict.probability == verdict.stages[-1].posterior
    assert (verdict.exit.stage, verdict.exit.reason) == ("reasoner", "above_band")


async def test_a_clip_has_its_own_steps():
    verdict = await router(backbone=prediction(0.0), video=prediction(-2.0)).classify_item(item(kind="clip"))
    assert way(verdict) == [("backbone", "answered"), ("video", "answered")]
    assert (verdict.media, verdict.label) == ("clip", "none")


async def test_an_uncertain_item_exits_at_the_last_stage():
    verdict = await router(backbone=prediction(0.0), video=prediction(0.0)).classify_item(item(kind="clip"))
    assert (verdict.exit.stage, verdict.exit.reason) == ("video", "last_stage")
    assert verdict.label == "roadwork"  # from decision_threshold up


async def test_a_report_has_the_evidence_and_timing_of_the_stage():
    evidence = Evidence(reasoning="cones, a worker", other_token_mass=0.01)
    full_prediction = StagePrediction(
        4.0, "bundled:vlm", miniature=True, evidence=evidence, preprocess_ms=3.0, compute_ms=40.0, tokens=12
    )
    report = (await router(backbone=full_prediction).classify_item(item())).stages[0]
    assert (report.model, report.miniature, report.tokens) == ("bundled:vlm", True, 12)
    assert (report.preprocess_ms, report.compute_ms, report.batch_size) == (3.0, 40.0, 1)
    assert report.evidence == evidence


@pytest.mark.parametrize(("text_probability", "outcome"), [(0.1, "skipped"), (0.9, "answered"), (None, "answered")])
async def test_the_sign_stage_is_skipped_where_text_is_unlikely(text_probability, outcome):
    asked = router(
        backbone=prediction(0.0, text_probability=text_probability), signs=prediction(6.0), vlm=prediction(6.0)
    )
    verdict = await asked.classify_item(item())
    assert way(verdict)[1] == ("signs", outcome)
    assert not verdict.degraded
    assert (verdict.stages[1].detail is not None) == (outcome == "skipped")


async def test_a_stage_that_abstains_changes_nothing():
    verdict = await router(backbone=prediction(1.0), signs=prediction(None), vlm=prediction(4.0)).classify_item(item())
    assert way(verdict) == [("backbone", "answered"), ("signs", "abstained"), ("vlm", "answered")]
    signs = verdict.stages[1]
    assert (signs.probability, signs.posterior) == (None, pytest.approx(sigmoid(1.0)))
    assert not verdict.degraded


async def test_without_a_trained_head_no_item_exits_early_at_any_prior():
    rare = Policy(version="rare", photo=PHOTO, clip=CLIP, prior=0.001)
    verdict = await router(rare, backbone=prediction(None), signs=prediction(None), vlm=prediction(9.0)).classify_item(
        item()
    )
    assert verdict.exit.stage == "vlm"
    assert verdict.probability == pytest.approx(sigmoid(0.5 * logit(0.001) + 18.25))


@pytest.mark.parametrize("broken", [StageFailed("its process died"), ValueError("bad shape"), prediction(math.nan)])
async def test_a_stage_that_fails_is_skipped_and_the_verdict_marked(broken):
    verdict = await router(backbone=prediction(0.0), signs=broken, vlm=prediction(4.0)).classify_item(item())
    assert way(verdict) == [("backbone", "answered"), ("signs", "failed"), ("vlm", "answered")]
    assert verdict.degraded
    assert (verdict.exit.stage, verdict.exit.reason) == ("vlm", "above_band")
    assert verdict.stages[1].detail


async def test_a_stage_that_is_not_deployed_counts_as_failed():
    verdict = await router(backbone=prediction(0.0), vlm=prediction(4.0)).classify_item(item())
    assert way(verdict) == [("backbone", "answered"), ("signs", "failed"), ("vlm", "answered")]
    assert verdict.degraded
    assert verdict.stages[1].detail == "not deployed"


async def test_a_missing_stage_that_is_not_needed_does_not_matter():
    verdict = await router(backbone=prediction(9.0)).classify_item(item())
    assert not verdict.degraded


async def test_without_the_first_stage_later_stages_answer():
    verdict = await router(signs=prediction(6.0)).classify_item(item())
    assert way(verdict) == [("backbone", "failed"), ("signs", "answered")]
    assert verdict.degraded


async def test_the_best_answer_so_far_is_returned_when_all_later_stages_fail():
    verdict = await router(backbone=prediction(1.0), video=RuntimeError("no memory")).classify_item(item(kind="clip"))
    assert (verdict.exit.stage, verdict.exit.reason) == ("backbone", "failed")
    assert verdict.probability == pytest.approx(sigmoid(1.0))
    assert verdict.degraded


async def test_it_is_an_error_if_no_stage_answers():
    with pytest.raises(NoOpinion, match=r"backbone: abstained; video: video raised RuntimeError: no memory"):
        await router(backbone=prediction(None), video=RuntimeError("no memory")).classify_item(item(kind="clip"))
    with pytest.raises(NoOpinion, match="backbone: not deployed"):
        await router().classify_item(item())


async def full(name: str):
    """Return a batcher with a full queue, and the tasks that keep it full."""
    stage = batcher(GatedClient(), max_queue=1, max_batch=1, name=name)
    tasks = []
    for each in ("runs", "waits"):
        tasks.append(asyncio.create_task(stage.submit(item(each))))
        await settle()
    assert (stage.in_flight, stage.queued) == (1, 1)
    return stage, tasks


async def close(stage, tasks):
    await stage.aclose()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_full_first_stage_sheds_the_item():
    stage, tasks = await full("backbone")
    instant = batcher(InstantClient(lambda _: prediction(9.0)))
    with pytest.raises(Overloaded) as caught:
        await Router({"backbone": stage, "video": instant}, Rollout(policy=POLICY), "mini").classify_item(
            item(kind="clip")
        )
    assert caught.value.retry_after_s > 0
    await close(stage, tasks)


async def test_a_full_later_stage_degrades_the_verdict_instead():
    stage, tasks = await full("video")
    first = batcher(InstantClient(lambda _: prediction(1.0)))
    verdict = await Router({"backbone": first, "video": stage}, Rollout(policy=POLICY), "mini").classify_item(
        item(kind="clip")
    )
    assert way(verdict) == [("backbone", "answered"), ("video", "failed")]
    assert (verdict.degraded, verdict.exit.reason) == (True, "failed")
    await close(stage, tasks)


async def test_a_full_later_stage_sheds_the_item_if_no_other_stage_answered():
    stage, tasks = await full("video")
    first = batcher(InstantClient(lambda _: prediction(None)))
    with pytest.raises(Overloaded):
        await Router({"backbone": first, "video": stage}, Rollout(policy=POLICY), "mini").classify_item(
            item(kind="clip")
        )
    await close(stage, tasks)


def test_at_the_deadline_the_best_answer_so_far_is_returned():
    async def main(time: Clock) -> None:
        asked = router(backbone=prediction(1.0), video=(client := GatedClient()))
        began = time.now
        verdict = await asked.classify_item(item(kind="clip", left_s=2.0))
        assert time.now == began + 2.0
        assert (verdict.exit.stage, verdict.exit.reason) == ("backbone", "deadline")
        assert verdict.probability == pytest.approx(sigmoid(1.0))
        assert way(verdict) == [("backbone", "answered"), ("video", "skipped")]
        assert verdict.stages[1].detail == "the deadline passed inside video; allow more time (after 2000 ms)"
        assert verdict.elapsed_ms == pytest.approx(2000)
        assert not verdict.degraded
        await settle()
        assert client.calls[0].cancelled

    clock.run(main)


def test_a_stage_does_not_run_without_enough_time():
    async def main(time: Clock) -> None:
        asked = router(backbone=prediction(0.5), signs=prediction(None), vlm=prediction(9.0))
        verdict = await asked.classify_item(item(left_s=0.04))
        assert (verdict.exit.stage, verdict.exit.reason) == ("backbone", "deadline")
        assert [report.stage for report in verdict.stages] == ["backbone", "signs"]

    clock.run(main)


@pytest.mark.parametrize("left_s", [0.0, 2.0])
def test_a_deadline_before_any_answer_is_an_error(left_s):
    async def main(time: Clock) -> None:
        began = time.now
        with pytest.raises(DeadlineExceeded, match="no stage answered in time"):
            await router(backbone=GatedClient()).classify_item(item(left_s=left_s))
        assert time.now == began + left_s
        await settle()

    clock.run(main)


async def test_a_client_that_hangs_up_withdraws_its_item():
    asked = router(backbone=(client := GatedClient()))
    task = asyncio.create_task(asked.classify_item(item()))
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settle()
    assert client.calls[0].cancelled


async def test_an_item_keeps_the_policy_it_started_with():
    asked = router(backbone=(client := GatedClient()), video=prediction(1.0))
    task = asyncio.create_task(asked.classify_item(item(kind="clip")))
    await settle()
    asked.rollout = Rollout(
        policy=Policy(version="test-2", photo=PHOTO, clip=(Step(stage="backbone", exit=(0.5, 0.5)),))
    )
    client.calls[0].answer(logit=0.5)
    old = await task
    assert (old.policy_version, old.exit.stage) == ("test-1", "video")
    task = asyncio.create_task(asked.classify_item(item(kind="clip")))
    await settle()
    client.calls[1].answer(logit=0.5)
    new = await task
    assert (new.policy_version, new.exit.stage) == ("test-2", "backbone")


any_prediction = st.builds(prediction, st.none() | logits | st.just(math.nan), text_probability=st.none() | shares)
behaviours = any_prediction | st.sampled_from([StageFailed("died"), ValueError("bad"), "missing", "hangs"])


@settings(deadline=None, max_examples=200)
@given(
    policies(), st.fixed_dictionaries({step: behaviours for step in ("backbone", "signs", "vlm", "reasoner", "video")})
)
def test_the_verdict_is_consistent_with_any_behaviour_of_the_stages(policy, stages):
    async def main(time: Clock) -> None:
        clients = {name: GatedClient() if did == "hangs" else did for name, did in stages.items() if did != "missing"}
        asked = router(policy, **clients)
        shown = item(left_s=20.0)
        try:
            verdict = await asked.classify_item(shown)
        except RoadworkError as error:
            assert isinstance(error, NoOpinion | DeadlineExceeded)
            await settle()
            return
        finally:
            assert time.now <= shown.deadline_s
        steps = {step.stage: step for step in policy.photo}
        asked_for = [report.stage for report in verdict.stages]
        assert asked_for == [step.stage for step in policy.photo][: len(asked_for)]
        spoke = [report for report in verdict.stages if report.outcome == "answered"]
        assert verdict.exit.stage == spoke[-1].stage
        assert verdict.probability == spoke[-1].posterior
        assert verdict.degraded == any(report.outcome == "failed" for report in verdict.stages)
        assert verdict.label == ("roadwork" if verdict.probability >= policy.decision_threshold else "none")
        last = steps[verdict.exit.stage]
        match verdict.exit.reason:
            case "above_band":
                assert verdict.probability > last.high
            case "below_band":
                assert verdict.probability < last.low
            case "failed":
                assert verdict.degraded
            case "deadline":
                assert time.now == shown.deadline_s or len(asked_for) < len(policy.photo)
            case "last_stage":
                assert asked_for[-1] == policy.photo[-1].stage
        if verdict.exit.reason not in ("above_band", "below_band"):
            assert last.low <= verdict.probability <= last.high
        await settle()

    clock.run(main)


def test_under_load_bands_narrow_and_the_verdict_has_the_level():
    geared = Policy(
        version="geared",
        photo=PHOTO,
        clip=CLIP,
        degradation_levels=(DegradationLevel(queue_wait_ms=500, band_factor=0.1),),
    )

    async def main(time: Clock) -> None:
        video = batcher(client := GatedClient(), name="video", max_batch=1)
        asked = Router(
            {"backbone": batcher(InstantClient(lambda _: prediction(1.0))), "video": video}, Rollout(policy=geared), "m"
        )
        tasks = []
        for _ in range(6):  # to measure how slow it is
            tasks.append(asyncio.create_task(asked.classify_item(item(kind="clip"))))
            await settle()
            await asyncio.sleep(1.0)
            client.calls[-1].answer(1.0)
            await settle()
        assert {task.result().degradation_level for task in tasks} == {0}
        waiting = asyncio.create_task(asked.classify_item(item(kind="clip")))
        await settle()
        verdict = await asked.classify_item(item(kind="clip"))
        assert (verdict.degradation_level, verdict.exit.stage, verdict.policy_version) == (1, "backbone", "geared")
        assert asked.degradation_level == 1
        client.calls[-1].answer(1.0)
        assert (await waiting).exit.stage == "video"

    clock.run(main)


def test_a_stage_too_slow_for_the_time_left_does_not_run():
    async def main(time: Clock) -> None:
        video = batcher(client := GatedClient(), name="video")
        asked = Router(
            {"backbone": batcher(InstantClient(lambda _: prediction(1.0))), "video": video}, Rollout(policy=POLICY), "m"
        )
        for _ in range(6):
            task = asyncio.create_task(asked.classify_item(item(kind="clip")))
            await settle()
            await asyncio.sleep(2.0)
            client.calls[-1].answer(1.0)
            await task
        began = time.now
        verdict = await asked.classify_item(item(kind="clip", left_s=1.0))
        assert (time.now, len(client.calls)) == (began, 6)
        assert (verdict.exit.stage, verdict.exit.reason, verdict.degraded) == ("backbone", "deadline", False)
        assert verdict.stages[1].detail and "video takes up to 2000 ms" in verdict.stages[1].detail
        with asked.reserve(began + 1.0):
            pass  # stage 1 could run
        with pytest.raises(DeadlineExceeded), asked.reserve(began - 1.0):
            pass

    clock.run(main)


async def test_a_reservation_is_valid_for_its_stage_only():
    stage, tasks = await full("backbone")
    video, videos = await full("video")
    router = Router({"backbone": stage, "video": video}, Rollout(policy=POLICY), "mini")
    with pytest.raises(Overloaded):
        await router.classify(item("late"))
    with pytest.raises(Overloaded):
        await router.classify(item("late"), reserved="video")
    asked = asyncio.create_task(router.classify(item("booked"), reserved="backbone"))
    await settle()
    assert (stage.queued, asked.done()) == (2, False)
    await close(stage, tasks)
    await close(video, videos)
    await asyncio.gather(asked, return_exceptions=True)


async def test_nothing_is_reserved_during_the_cooldown_of_stage_1():
    stage = batcher(InstantClient(lambda _: prediction()))
    router = Router({"backbone": stage}, Rollout(policy=POLICY), "mini")
    with router.reserve(item().deadline_s) as name:
        assert name == "backbone"
        assert not stage.idle
    assert stage.idle
    await stage.aclose()
    with router.reserve(item().deadline_s) as name:
        assert name is None


async def test_a_full_first_stage_rejects_a_file_before_any_work_on_it():
    stage, tasks = await full("backbone")
    with (
        pytest.raises(Overloaded),
        Router({"backbone": stage}, Rollout(policy=POLICY), "mini").reserve(item().deadline_s),
    ):
        pass
    with Router({}, Rollout(policy=POLICY), "mini").reserve(item().deadline_s):
        pass  # others may run
    await close(stage, tasks)
