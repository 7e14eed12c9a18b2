"""Shadow policies and A/B arms, tested through the router."""

import asyncio

import pytest

from roadwork_serve.cascade.policy import Policy, Step
from roadwork_serve.cascade.prediction import StagePrediction
from roadwork_serve.cascade.rollout import Rollout, ShadowPolicy, TrafficSplit
from roadwork_serve.cascade.router import Router
from roadwork_serve.errors import StageFailed
from roadwork_serve.schema import Verdict
from tests.cascade.fakes import GatedClient, InstantClient, batcher, item, prediction, settle

ONE_STAGE = Policy(
    version="main", photo=(Step(stage="backbone", exit=(0.5, 0.5)),), clip=(Step(stage="backbone", exit=(0.5, 0.5)),)
)
TWO_STAGES = Policy(
    version="trial",
    photo=(Step(stage="backbone", exit=(0.0, 1.0)), Step(stage="vlm", exit=(0.5, 0.5))),
    clip=ONE_STAGE.clip,
)


class Watched:
    """A router with a shadow policy, and the pairs of verdicts that it reported."""

    def __init__(self, shadow: ShadowPolicy, **clients: object) -> None:
        self.received: list[tuple[Verdict, Verdict]] = []
        self.clients = clients
        stages = {name: batcher(client, name=name) for name, client in clients.items()}
        self.stages = stages
        self.router = Router(
            stages,
            Rollout(policy=ONE_STAGE, shadow=shadow),
            "mini",
            lambda *verdicts: self.received.append(verdicts),
        )

    @property
    def counts(self) -> tuple[int, int, int]:
        counts = self.router.shadows.counts(self.router.rollout.shadow.policy.version)  # type: ignore[union-attr]
        return counts.compared, counts.agreed, counts.abandoned


def returning(logit: float | None, **fields: object) -> InstantClient:
    return InstantClient(lambda _: prediction(logit, **fields))


async def test_a_shadow_changes_no_verdict_and_is_reported_separately():
    watched = Watched(ShadowPolicy(policy=TWO_STAGES, share=1.0), backbone=returning(1.0), vlm=returning(-5.0))
    verdict = await watched.router.classify_item(item("r1"))
    assert (verdict.label, verdict.policy_version, verdict.shadow) == ("roadwork", "main", "trial")
    assert [report.stage for report in verdict.stages] == ["backbone"]
    assert watched.received == []
    await settle()
    ((live, shadow),) = watched.received
    assert live == verdict
    assert (shadow.request_id, shadow.label, shadow.policy_version) == ("r1", "none", "trial")
    assert watched.clients["backbone"].batches == [["r1"]], "known answers are reused"
    assert watched.counts == (1, 0, 0)


async def test_the_verdict_does_not_wait_for_its_shadow():
    watched = Watched(ShadowPolicy(policy=TWO_STAGES, share=1.0), backbone=returning(1.0), vlm=(slow := GatedClient()))
    await watched.router.classify_item(item("r1"))
    await settle()
    assert slow.calls[0].ids == ["r1"]
    await watched.router.classify_item(item("r2"))
    await settle()
    assert len(slow.calls) == 1, "one at once"
    assert watched.counts == (0, 0, 1)
    slow.calls[0].answer(2.0)
    await settle()
    assert watched.counts == (1, 1, 1)


async def test_a_shadow_queries_no_busy_stage():
    watched = Watched(ShadowPolicy(policy=TWO_STAGES, share=1.0), backbone=returning(1.0), vlm=(busy := GatedClient()))
    work = asyncio.create_task(watched.stages["vlm"].submit(item("work")))
    await settle()
    await watched.router.classify_item(item("r1"))
    await settle()
    assert [call.ids for call in busy.calls] == [["work"]]
    assert watched.counts == (0, 0, 1)
    busy.calls[0].answer()
    await work


async def test_a_shadow_yields_to_live_traffic():
    watched = Watched(ShadowPolicy(policy=TWO_STAGES, share=1.0), backbone=returning(1.0), vlm=(slow := GatedClient()))
    await watched.router.classify_item(item("r1"))
    await settle()
    assert slow.calls[0].ids == ["r1"]
    work = asyncio.create_task(watched.stages["vlm"].submit(item("work")))
    await settle()
    assert slow.calls[0].cancelled
    slow.calls[1].answer()
    assert (await work).prediction.model == "work"
    assert watched.counts == (0, 0, 1)


async def test_counts_of_an_old_shadow_do_not_remove_those_of_the_new_one():
    watched = Watched(ShadowPolicy(policy=TWO_STAGES, share=1.0), backbone=returning(1.0), vlm=returning(1.0))
    shadows = watched.router.shadows
    shadows.counts("new").compared = 500
    shadows.counts("old").compared += 1
    assert shadows.counts("new").compared == 500
    for number in range(20):
        shadows.counts(str(number))
    assert len(shadows._counts) == 8


async def test_a_shadow_whose_stage_fails_is_not_compared():
    failing = InstantClient(lambda _: StageFailed("broken"))
    watched = Watched(ShadowPolicy(policy=TWO_STAGES, share=1.0), backbone=returning(1.0), vlm=failing)
    await watched.router.classify_item(item("r1"))
    await settle()
    assert watched.received == []
    assert watched.counts == (0, 0, 1)


async def test_a_second_head_replaces_the_first_without_another_call():
    shadow = ShadowPolicy(policy=ONE_STAGE.named("head"), share=1.0, second_head=True)
    watched = Watched(shadow, backbone=InstantClient(lambda _: StagePrediction(3.0, "fake", second_logit=-3.0)))
    verdict = await watched.router.classify_item(item("r1"))
    await settle()
    ((_, shadow),) = watched.received
    assert (verdict.label, shadow.label) == ("roadwork", "none")
    assert shadow.stages[0].probability == pytest.approx(1 - verdict.probability)
    assert verdict.stages[0].second_probability == shadow.stages[0].probability
    assert watched.clients["backbone"].batches == [["r1"]]


async def test_without_a_second_head_there_is_nothing_to_compare():
    watched = Watched(
        ShadowPolicy(policy=ONE_STAGE.named("head"), share=1.0, second_head=True), backbone=returning(3.0)
    )
    await watched.router.classify_item(item("r1"))
    await settle()
    assert watched.counts == (0, 0, 1)


async def test_items_that_are_not_sampled_have_no_shadow():
    watched = Watched(ShadowPolicy(policy=TWO_STAGES, share=0.0), backbone=returning(1.0), vlm=returning(1.0))
    assert (await watched.router.classify_item(item("r1"))).shadow is None
    await settle()
    assert watched.counts == (0, 0, 0)


async def test_shadows_end_with_the_router():
    watched = Watched(ShadowPolicy(policy=TWO_STAGES, share=1.0), backbone=returning(1.0), vlm=(slow := GatedClient()))
    await watched.router.classify_item(item("r1"))
    await settle()
    await watched.router.aclose()
    await settle()
    assert slow.calls[0].cancelled
    assert watched.received == []


async def test_a_key_stays_in_its_arm_and_verdicts_name_it():
    other = Policy(version="other", photo=(Step(stage="backbone", exit=(0.5, 0.5)),), clip=ONE_STAGE.clip, prior=0.2)
    router = Router(
        {"backbone": batcher(returning(1.0))},
        Rollout(policy=ONE_STAGE, split=TrafficSplit(policy=other, share=0.5)),
        "mini",
    )
    for key in map(str, range(20)):
        first, second = await router.classify_item(item("r1"), key), await router.classify_item(item("r2"), key)
        assert first.arm == second.arm
        assert first.policy_version == second.policy_version == {"a": "main", "b": "other"}[first.arm or ""]
    assert {(await router.classify_item(item(str(each)))).arm for each in range(40)} == {"a", "b"}
