"""Shadows and A/B arms, by the router that they watch."""

import asyncio

import pytest

from roadwork_serve.cascade.policy import Policy, Step
from roadwork_serve.cascade.prediction import StagePrediction
from roadwork_serve.cascade.rollout import Rollout, ShadowPolicy, TrafficSplit
from roadwork_serve.cascade.router import Router
from roadwork_serve.errors import StageFailed
from roadwork_serve.schema import Verdict
from tests.cascade.fakes import GatedClient, InstantClient, batcher, item, opinion, settle

ONE_LOOK = Policy("main", (Step("backbone", 0.5, 0.5),), (Step("backbone", 0.5, 0.5),))
TWO_LOOKS = Policy("trial", (Step("backbone", 0.0, 1.0), Step("vlm", 0.5, 0.5)), ONE_LOOK.clip)


class Watched:
    """A router whose rules have a shadow, and what was told of it."""

    def __init__(self, shadow: ShadowPolicy, **clients: object) -> None:
        self.told: list[tuple[Verdict, Verdict]] = []
        self.clients = clients
        stages = {name: batcher(client, name=name) for name, client in clients.items()}
        self.stages = stages
        self.router = Router(
            stages, Rollout(ONE_LOOK, shadow=shadow), "mini", lambda verdict, said: self.told.append((verdict, said))
        )

    @property
    def tally(self) -> tuple[int, int, int]:
        tally = self.router.shadows.tally(self.router.rules.shadow.policy.version)  # type: ignore[union-attr]
        return tally.judged, tally.agreed, tally.abandoned


def saying(logit: float | None, **fields: object) -> InstantClient:
    return InstantClient(lambda _: opinion(logit, **fields))


async def test_a_shadow_changes_no_answer_and_is_told_beside_it():
    watched = Watched(ShadowPolicy(TWO_LOOKS, 1.0), backbone=saying(1.0), vlm=saying(-5.0))
    verdict = await watched.router.judge(item("r1"))
    assert (verdict.label, verdict.policy_version, verdict.shadow) == ("roadwork", "main", "trial")
    assert [report.stage for report in verdict.stages] == ["backbone"]
    assert watched.told == []
    await settle()
    ((answered, said),) = watched.told
    assert answered == verdict
    assert (said.request_id, said.label, said.policy_version) == ("r1", "none", "trial")
    assert watched.clients["backbone"].batches == [["r1"]], "what is known is not asked again"
    assert watched.tally == (1, 0, 0)


async def test_the_answer_does_not_wait_for_its_shadow():
    watched = Watched(ShadowPolicy(TWO_LOOKS, 1.0), backbone=saying(1.0), vlm=(slow := GatedClient()))
    await watched.router.judge(item("r1"))
    await settle()
    assert slow.calls[0].ids == ["r1"]
    await watched.router.judge(item("r2"))
    await settle()
    assert len(slow.calls) == 1, "one at once"
    assert watched.tally == (0, 0, 1)
    slow.calls[0].answer(2.0)
    await settle()
    assert watched.tally == (1, 1, 1)


async def test_a_shadow_asks_no_stage_that_has_something_to_do():
    watched = Watched(ShadowPolicy(TWO_LOOKS, 1.0), backbone=saying(1.0), vlm=(busy := GatedClient()))
    work = asyncio.create_task(watched.stages["vlm"].submit(item("work")))
    await settle()
    await watched.router.judge(item("r1"))
    await settle()
    assert [call.ids for call in busy.calls] == [["work"]]
    assert watched.tally == (0, 0, 1)
    busy.calls[0].answer()
    await work


async def test_a_shadow_makes_room_for_whoever_comes_next():
    watched = Watched(ShadowPolicy(TWO_LOOKS, 1.0), backbone=saying(1.0), vlm=(slow := GatedClient()))
    await watched.router.judge(item("r1"))
    await settle()
    assert slow.calls[0].ids == ["r1"]
    work = asyncio.create_task(watched.stages["vlm"].submit(item("work")))
    await settle()
    assert slow.calls[0].cancelled
    slow.calls[1].answer()
    assert (await work).opinion.model == "work"
    assert watched.tally == (0, 0, 1)


async def test_what_began_before_a_swap_does_not_wipe_what_came_after():
    watched = Watched(ShadowPolicy(TWO_LOOKS, 1.0), backbone=saying(1.0), vlm=saying(1.0))
    shadows = watched.router.shadows
    shadows.tally("new").judged = 500
    shadows.tally("old").judged += 1
    assert shadows.tally("new").judged == 500
    for number in range(20):
        shadows.tally(str(number))
    assert len(shadows._tallies) == 8


async def test_a_shadow_whose_stage_fails_is_not_compared():
    failing = InstantClient(lambda _: StageFailed("broken"))
    watched = Watched(ShadowPolicy(TWO_LOOKS, 1.0), backbone=saying(1.0), vlm=failing)
    await watched.router.judge(item("r1"))
    await settle()
    assert watched.told == []
    assert watched.tally == (0, 0, 1)


async def test_a_second_head_is_heard_in_place_of_the_first_at_no_further_call():
    shadow = ShadowPolicy(ONE_LOOK.named("head"), 1.0, second_head=True)
    watched = Watched(shadow, backbone=InstantClient(lambda _: StagePrediction(3.0, "fake", second_logit=-3.0)))
    verdict = await watched.router.judge(item("r1"))
    await settle()
    ((_, said),) = watched.told
    assert (verdict.label, said.label) == ("roadwork", "none")
    assert said.stages[0].probability == pytest.approx(1 - verdict.probability)
    assert verdict.stages[0].second_probability == said.stages[0].probability
    assert watched.clients["backbone"].batches == [["r1"]]


async def test_without_a_second_head_there_is_nothing_to_compare():
    watched = Watched(ShadowPolicy(ONE_LOOK.named("head"), 1.0, second_head=True), backbone=saying(3.0))
    await watched.router.judge(item("r1"))
    await settle()
    assert watched.tally == (0, 0, 1)


async def test_what_is_not_of_its_share_has_no_shadow():
    watched = Watched(ShadowPolicy(TWO_LOOKS, 0.0), backbone=saying(1.0), vlm=saying(1.0))
    assert (await watched.router.judge(item("r1"))).shadow is None
    await settle()
    assert watched.tally == (0, 0, 0)


async def test_shadows_end_with_the_router():
    watched = Watched(ShadowPolicy(TWO_LOOKS, 1.0), backbone=saying(1.0), vlm=(slow := GatedClient()))
    await watched.router.judge(item("r1"))
    await settle()
    await watched.router.aclose()
    await settle()
    assert slow.calls[0].cancelled
    assert watched.told == []


async def test_an_ab_test_answers_a_key_by_its_arm_and_says_which():
    other = Policy("other", (Step("backbone", 0.5, 0.5),), ONE_LOOK.clip, prior=0.2)
    router = Router({"backbone": batcher(saying(1.0))}, Rollout(ONE_LOOK, TrafficSplit(other, 0.5)), "mini")
    for key in map(str, range(20)):
        first, second = await router.judge(item("r1"), key), await router.judge(item("r2"), key)
        assert first.arm == second.arm
        assert first.policy_version == second.policy_version == {"a": "main", "b": "other"}[first.arm or ""]
    assert {(await router.judge(item(str(each)))).arm for each in range(40)} == {"a", "b"}
