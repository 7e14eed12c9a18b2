import asyncio
import math

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
from tests.cascade.fakes import GatedClient, InstantClient, batcher, item, opinion, settle
from tests.cascade.strategies import logits, policies, shares

PHOTO = (
    Step("backbone", 0.03, 0.97),
    Step("signs", 0.05, 0.95, min_text_probability=0.4),
    Step("vlm", 0.1, 0.9, Calibrator(scale=2.0, prior_weight=0.5, bias=0.25), min_time_left_ms=50),
    Step("reasoner", 0.5, 0.5, min_time_left_ms=100),
)
CLIP = (Step("backbone", 0.03, 0.97), Step("video", 0.5, 0.5))
POLICY = Policy("test-1", PHOTO, CLIP)


def router(policy: Policy = POLICY, **stages: StagePrediction | Exception | object) -> Router:
    """A router over stages that say this, raise this, or are this client."""

    def client(said):
        return InstantClient(lambda _: said) if isinstance(said, StagePrediction | Exception) else said

    return Router({name: batcher(client(said), name=name) for name, said in stages.items()}, Rollout(policy), "mini")


def way(verdict: Verdict) -> list[tuple[str, str]]:
    return [(report.stage, report.outcome) for report in verdict.stages]


async def test_a_clear_case_leaves_at_the_first_stage():
    verdict = await router(backbone=opinion(5.0), signs=opinion(-9.0)).judge(item("r7"))
    assert verdict.probability == pytest.approx(sigmoid(5.0))
    assert (verdict.label, verdict.media, verdict.request_id) == ("roadwork", "photo", "r7")
    assert (verdict.exit.stage, verdict.exit.reason) == ("backbone", "above_band")
    assert (verdict.policy_version, verdict.profile, verdict.degraded) == ("test-1", "mini", False)
    assert way(verdict) == [("backbone", "answered")]


async def test_a_clear_no_leaves_below_the_band():
    verdict = await router(backbone=opinion(-5.0)).judge(item())
    assert (verdict.label, verdict.exit.reason) == ("none", "below_band")


async def test_the_evidence_of_the_stages_adds_up_to_the_posterior():
    asked = router(backbone=opinion(0.5), signs=opinion(1.0), vlm=opinion(-0.75), reasoner=opinion(3.0))
    verdict = await asked.judge(item())
    after_vlm = 0.5 * (0.5 + 1.0) + 2.0 * -0.75 + 0.25
    assert [report.posterior for report in verdict.stages] == pytest.approx(
        [sigmoid(0.5), sigmoid(1.5), sigmoid(after_vlm), sigmoid(after_vlm + 3.0)]
    )
    assert [report.probability for report in verdict.stages] == pytest.approx(
        [sigmoid(0.5), sigmoid(1.0), sigmoid(-0.75), sigmoid(3.0)]
    )
    assert verdict.probability == verdict.stages[-1].posterior
    assert (verdict.exit.stage, verdict.exit.reason) == ("reasoner", "above_band")


async def test_a_clip_takes_its_own_way():
    verdict = await router(backbone=opinion(0.0), video=opinion(-2.0)).judge(item(kind="clip"))
    assert way(verdict) == [("backbone", "answered"), ("video", "answered")]
    assert (verdict.media, verdict.label) == ("clip", "none")


async def test_doubt_at_the_last_stage_is_said_to_be_doubt():
    verdict = await router(backbone=opinion(0.0), video=opinion(0.0)).judge(item(kind="clip"))
    assert (verdict.exit.stage, verdict.exit.reason) == ("video", "last_stage")
    assert verdict.label == "roadwork"  # from decide_at up


async def test_a_report_tells_what_the_stage_saw_and_took():
    evidence = Evidence(thought="cones, a worker", other_token_mass=0.01)
    said = StagePrediction(
        4.0, "mini:vlm", miniature=True, evidence=evidence, preprocess_ms=3.0, compute_ms=40.0, tokens=12
    )
    report = (await router(backbone=said).judge(item())).stages[0]
    assert (report.model, report.miniature, report.tokens) == ("mini:vlm", True, 12)
    assert (report.preprocess_ms, report.compute_ms, report.batch_size) == (3.0, 40.0, 1)
    assert report.evidence == evidence


@pytest.mark.parametrize(("text_probability", "outcome"), [(0.1, "skipped"), (0.9, "answered"), (None, "answered")])
async def test_the_sign_reader_is_left_out_where_words_are_unlikely(text_probability, outcome):
    asked = router(backbone=opinion(0.0, text_probability=text_probability), signs=opinion(6.0), vlm=opinion(6.0))
    verdict = await asked.judge(item())
    assert way(verdict)[1] == ("signs", outcome)
    assert not verdict.degraded
    assert (verdict.stages[1].detail is not None) == (outcome == "skipped")


async def test_a_stage_that_abstains_changes_nothing():
    verdict = await router(backbone=opinion(1.0), signs=opinion(None), vlm=opinion(4.0)).judge(item())
    assert way(verdict) == [("backbone", "answered"), ("signs", "abstained"), ("vlm", "answered")]
    signs = verdict.stages[1]
    assert (signs.probability, signs.posterior) == (None, pytest.approx(sigmoid(1.0)))
    assert not verdict.degraded


async def test_without_a_trained_head_everything_goes_on_whatever_the_prior():
    rare = Policy("rare", PHOTO, CLIP, prior=0.001)
    verdict = await router(rare, backbone=opinion(None), signs=opinion(None), vlm=opinion(9.0)).judge(item())
    assert verdict.exit.stage == "vlm"
    assert verdict.probability == pytest.approx(sigmoid(0.5 * logit(0.001) + 18.25))


@pytest.mark.parametrize("broken", [StageFailed("its process died"), ValueError("bad shape"), opinion(math.nan)])
async def test_a_stage_that_fails_is_skipped_and_the_verdict_marked(broken):
    verdict = await router(backbone=opinion(0.0), signs=broken, vlm=opinion(4.0)).judge(item())
    assert way(verdict) == [("backbone", "answered"), ("signs", "failed"), ("vlm", "answered")]
    assert verdict.degraded
    assert (verdict.exit.stage, verdict.exit.reason) == ("vlm", "above_band")
    assert verdict.stages[1].detail


async def test_a_stage_that_is_not_deployed_counts_as_failed():
    verdict = await router(backbone=opinion(0.0), vlm=opinion(4.0)).judge(item())
    assert way(verdict) == [("backbone", "answered"), ("signs", "failed"), ("vlm", "answered")]
    assert verdict.degraded
    assert verdict.stages[1].detail == "not deployed"


async def test_a_stage_that_was_not_needed_is_not_missed():
    verdict = await router(backbone=opinion(9.0)).judge(item())
    assert not verdict.degraded


async def test_without_the_first_stage_the_next_ones_answer():
    verdict = await router(signs=opinion(6.0)).judge(item())
    assert way(verdict) == [("backbone", "failed"), ("signs", "answered")]
    assert verdict.degraded


async def test_the_best_answer_so_far_is_given_when_all_later_stages_fail():
    verdict = await router(backbone=opinion(1.0), video=RuntimeError("no memory")).judge(item(kind="clip"))
    assert (verdict.exit.stage, verdict.exit.reason) == ("backbone", "failed")
    assert verdict.probability == pytest.approx(sigmoid(1.0))
    assert verdict.degraded


async def test_it_is_an_error_if_no_stage_can_speak():
    with pytest.raises(NoOpinion, match=r"backbone: abstained; video: video raised RuntimeError: no memory"):
        await router(backbone=opinion(None), video=RuntimeError("no memory")).judge(item(kind="clip"))
    with pytest.raises(NoOpinion, match="backbone: not deployed"):
        await router().judge(item())


async def full(name: str):
    """A batcher that refuses whatever comes, and the tasks that keep it so."""
    stage = batcher(GatedClient(), max_queue=1, max_batch=1, name=name)
    tasks = []
    for each in ("runs", "waits"):
        tasks.append(asyncio.create_task(stage.submit(item(each))))
        await settle()
    assert (stage.in_flight, stage.waiting) == (1, 1)
    return stage, tasks


async def close(stage, tasks):
    await stage.aclose()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_full_first_stage_sheds_the_item():
    stage, tasks = await full("backbone")
    instant = batcher(InstantClient(lambda _: opinion(9.0)))
    with pytest.raises(Overloaded) as caught:
        await Router({"backbone": stage, "video": instant}, Rollout(POLICY), "mini").judge(item(kind="clip"))
    assert caught.value.retry_after_s > 0
    await close(stage, tasks)


async def test_a_full_later_stage_degrades_the_answer_instead():
    stage, tasks = await full("video")
    first = batcher(InstantClient(lambda _: opinion(1.0)))
    verdict = await Router({"backbone": first, "video": stage}, Rollout(POLICY), "mini").judge(item(kind="clip"))
    assert way(verdict) == [("backbone", "answered"), ("video", "failed")]
    assert (verdict.degraded, verdict.exit.reason) == (True, "failed")
    await close(stage, tasks)


async def test_a_full_later_stage_sheds_the_item_if_nobody_else_could_speak():
    stage, tasks = await full("video")
    first = batcher(InstantClient(lambda _: opinion(None)))
    with pytest.raises(Overloaded):
        await Router({"backbone": first, "video": stage}, Rollout(POLICY), "mini").judge(item(kind="clip"))
    await close(stage, tasks)


def test_at_the_deadline_the_best_answer_so_far_is_given():
    async def main(time: Clock) -> None:
        asked = router(backbone=opinion(1.0), video=(client := GatedClient()))
        began = time.now
        verdict = await asked.judge(item(kind="clip", left_s=2.0))
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


def test_a_stage_is_not_entered_without_the_time_it_needs():
    async def main(time: Clock) -> None:
        asked = router(backbone=opinion(0.5), signs=opinion(None), vlm=opinion(9.0))
        verdict = await asked.judge(item(left_s=0.04))
        assert (verdict.exit.stage, verdict.exit.reason) == ("backbone", "deadline")
        assert [report.stage for report in verdict.stages] == ["backbone", "signs"]

    clock.run(main)


@pytest.mark.parametrize("left_s", [0.0, 2.0])
def test_a_deadline_before_any_answer_is_an_error(left_s):
    async def main(time: Clock) -> None:
        began = time.now
        with pytest.raises(DeadlineExceeded, match="no stage could speak in time"):
            await router(backbone=GatedClient()).judge(item(left_s=left_s))
        assert time.now == began + left_s
        await settle()

    clock.run(main)


async def test_a_client_that_hangs_up_takes_its_item_back():
    asked = router(backbone=(client := GatedClient()))
    task = asyncio.create_task(asked.judge(item()))
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settle()
    assert client.calls[0].cancelled


async def test_an_item_keeps_the_policy_it_started_with():
    asked = router(backbone=(client := GatedClient()), video=opinion(1.0))
    task = asyncio.create_task(asked.judge(item(kind="clip")))
    await settle()
    asked.rules = Rollout(Policy("test-2", PHOTO, (Step("backbone", 0.5, 0.5),)))
    client.calls[0].answer(logit=0.5)
    old = await task
    assert (old.policy_version, old.exit.stage) == ("test-1", "video")
    task = asyncio.create_task(asked.judge(item(kind="clip")))
    await settle()
    client.calls[1].answer(logit=0.5)
    new = await task
    assert (new.policy_version, new.exit.stage) == ("test-2", "backbone")


said = st.builds(opinion, st.none() | logits | st.just(math.nan), text_probability=st.none() | shares)
behaviours = said | st.sampled_from([StageFailed("died"), ValueError("bad"), "missing", "hangs"])


@settings(deadline=None, max_examples=200)
@given(
    policies(), st.fixed_dictionaries({step: behaviours for step in ("backbone", "signs", "vlm", "reasoner", "video")})
)
def test_whatever_stages_do_the_verdict_tells_it_truly(policy, stages):
    async def main(time: Clock) -> None:
        clients = {name: GatedClient() if did == "hangs" else did for name, did in stages.items() if did != "missing"}
        asked = router(policy, **clients)
        shown = item(left_s=20.0)
        try:
            verdict = await asked.judge(shown)
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


def test_under_load_bands_narrow_and_the_verdict_says_so():
    geared = Policy("geared", PHOTO, CLIP, degradation_levels=(DegradationLevel(500, 0.1),))

    async def main(time: Clock) -> None:
        video = batcher(client := GatedClient(), name="video", max_batch=1)
        asked = Router(
            {"backbone": batcher(InstantClient(lambda _: opinion(1.0))), "video": video}, Rollout(geared), "m"
        )
        tasks = []
        for _ in range(6):  # to learn how slow it is
            tasks.append(asyncio.create_task(asked.judge(item(kind="clip"))))
            await settle()
            await asyncio.sleep(1.0)
            client.calls[-1].answer(1.0)
            await settle()
        assert {task.result().degradation_level for task in tasks} == {0}
        held = asyncio.create_task(asked.judge(item(kind="clip")))
        await settle()
        verdict = await asked.judge(item(kind="clip"))
        assert (verdict.degradation_level, verdict.exit.stage, verdict.policy_version) == (1, "backbone", "geared")
        assert asked.degradation_level == 1
        client.calls[-1].answer(1.0)
        assert (await held).exit.stage == "video"

    clock.run(main)


def test_a_stage_too_slow_for_what_is_left_is_not_entered():
    async def main(time: Clock) -> None:
        video = batcher(client := GatedClient(), name="video")
        asked = Router(
            {"backbone": batcher(InstantClient(lambda _: opinion(1.0))), "video": video}, Rollout(POLICY), "m"
        )
        for _ in range(6):
            task = asyncio.create_task(asked.judge(item(kind="clip")))
            await settle()
            await asyncio.sleep(2.0)
            client.calls[-1].answer(1.0)
            await task
        began = time.now
        verdict = await asked.judge(item(kind="clip", left_s=1.0))
        assert (time.now, len(client.calls)) == (began, 6)
        assert (verdict.exit.stage, verdict.exit.reason, verdict.degraded) == ("backbone", "deadline", False)
        assert verdict.stages[1].detail and "video takes up to 2000 ms" in verdict.stages[1].detail
        with asked.booked(began + 1.0):
            pass  # stage 1 could look
        with pytest.raises(DeadlineExceeded), asked.booked(began - 1.0):
            pass

    clock.run(main)


async def test_what_was_booked_is_let_in_where_it_was_booked_and_nowhere_else():
    stage, tasks = await full("backbone")
    video, videos = await full("video")
    router = Router({"backbone": stage, "video": video}, Rollout(POLICY), "mini")
    with pytest.raises(Overloaded):
        await router.look(item("late"))
    with pytest.raises(Overloaded):
        await router.look(item("late"), booked="video")
    asked = asyncio.create_task(router.look(item("booked"), booked="backbone"))
    await settle()
    assert (stage.waiting, asked.done()) == (2, False)
    await close(stage, tasks)
    await close(video, videos)
    await asyncio.gather(asked, return_exceptions=True)


async def test_where_stage_1_rests_nothing_is_booked():
    stage = batcher(InstantClient(lambda _: opinion()))
    router = Router({"backbone": stage}, Rollout(POLICY), "mini")
    with router.booked(item().deadline_s) as name:
        assert name == "backbone"
        assert not stage.idle
    assert stage.idle
    await stage.aclose()
    with router.booked(item().deadline_s) as name:
        assert name is None


async def test_before_work_is_done_on_a_file_a_full_first_stage_refuses_it():
    stage, tasks = await full("backbone")
    with pytest.raises(Overloaded), Router({"backbone": stage}, Rollout(POLICY), "mini").booked(item().deadline_s):
        pass
    with Router({}, Rollout(POLICY), "mini").booked(item().deadline_s):
        pass  # others may speak
    await close(stage, tasks)
