"""Items that every stage judges, by the router that answers them."""

import asyncio

import pytest

from roadwork_serve.cascade.policy import Policy, Step
from roadwork_serve.cascade.rollout import Audit, Rollout
from roadwork_serve.cascade.router import Router
from roadwork_serve.errors import StageFailed
from roadwork_serve.schema import StageReport, Verdict
from tests.cascade.fakes import GatedClient, InstantClient, batcher, item, opinion, settle

EAGER = Policy(
    "eager",
    (Step("backbone", 0.4, 0.6), Step("signs", 0.0, 1.0, min_text_probability=0.5), Step("vlm", 0.5, 0.5)),
    (Step("backbone", 0.4, 0.6), Step("video", 0.5, 0.5)),
)


class Surveyed:
    """A router whose rules have a survey, and what was told of it."""

    def __init__(self, audit: Audit, policy: Policy = EAGER, **clients: object) -> None:
        self.told: list[tuple[Verdict, tuple[StageReport, ...]]] = []
        self.clients = clients
        stages = {name: batcher(client, name=name) for name, client in clients.items()}
        rules = Rollout(policy, audit=audit)
        self.router = Router(stages, rules, "mini", on_survey=lambda *told: self.told.append(told))

    @property
    def tally(self) -> tuple[int, int]:
        return self.router.audits.tally.judged, self.router.audits.tally.abandoned


def saying(logit: float | None, **fields: object) -> InstantClient:
    return InstantClient(lambda _: opinion(logit, **fields))


async def test_what_left_early_is_shown_to_everyone_once_it_has_been_answered():
    asked = Surveyed(Audit(1.0), backbone=saying(3.0), signs=saying(None), vlm=saying(-5.0))
    verdict = await asked.router.judge(item("r1"))
    assert ([report.stage for report in verdict.stages], verdict.audit) == (["backbone"], 1.0)
    assert asked.told == []
    await settle()
    ((answered, reports),) = asked.told
    assert answered is verdict
    assert [(report.stage, report.outcome, report.posterior) for report in reports] == [
        ("signs", "abstained", None),
        ("vlm", "answered", None),
    ]
    assert reports[1].probability == pytest.approx(0.0067, abs=1e-4)
    assert asked.clients["backbone"].batches == [["r1"]], "who has spoken is not asked again"
    assert asked.tally == (1, 0)


async def test_a_stage_that_the_policy_skipped_speaks_too():
    asked = Surveyed(Audit(1.0), backbone=saying(0.0, text_probability=0.1), signs=saying(2.0), vlm=saying(1.0))
    verdict = await asked.router.judge(item("r1"))
    assert [report.outcome for report in verdict.stages] == ["answered", "skipped", "answered"]
    await settle()
    assert [report.stage for report in asked.told[0][1]] == ["signs"]


async def test_an_item_that_all_have_seen_is_surveyed_at_no_cost():
    asked = Surveyed(Audit(1.0), backbone=saying(0.0), signs=saying(0.0), vlm=saying(1.0))
    await asked.router.judge(item("r1"))
    await settle()
    assert (asked.told[0][1], asked.tally) == ((), (1, 0))


async def test_it_takes_its_share_and_says_which():
    asked = Surveyed(Audit(0.2), backbone=saying(3.0), signs=saying(0.0), vlm=saying(0.0))
    verdicts = [await asked.router.judge(item(f"r{number}")) for number in range(300)]
    drawn = [verdict.audit for verdict in verdicts if verdict.audit is not None]
    assert set(drawn) == {0.2} and len(drawn) == pytest.approx(60, abs=25)


async def test_the_share_does_not_depend_on_the_answer():
    audit = Audit(0.3)
    sure, unsure = (Surveyed(audit, backbone=saying(logit), signs=saying(0.0), vlm=saying(0.0)) for logit in (9.0, 0.0))
    for number in range(100):
        one, other = [await each.router.judge(item(f"r{number}")) for each in (sure, unsure)]
        assert one.audit == other.audit
        await settle()


@pytest.mark.parametrize("vlm", [InstantClient(lambda _: StageFailed("no memory")), None])
async def test_an_item_that_some_stage_cannot_judge_is_given_up(vlm: InstantClient | None):
    asked = Surveyed(Audit(1.0), backbone=saying(3.0), signs=saying(0.0), **({"vlm": vlm} if vlm else {}))
    await asked.router.judge(item("r1"))
    await settle()
    await settle()  # it is asked twice
    assert (asked.told, asked.tally) == ([], (0, 1))


async def test_no_more_than_so_many_at_once():
    asked = Surveyed(Audit(1.0, max_concurrent=2), backbone=saying(3.0), signs=saying(0.0), vlm=(slow := GatedClient()))
    marks = [(await asked.router.judge(item(f"r{number}"))).audit for number in range(3)]
    await settle()
    assert marks == [1.0, 1.0, None]
    assert asked.tally == (0, 1)
    assert slow.calls[0].ids == ["r0"]


async def test_who_waits_for_an_answer_goes_first():
    asked = Surveyed(Audit(1.0), backbone=saying(3.0), signs=saying(0.0), vlm=(slow := GatedClient()))
    for number in range(3):
        await asked.router.judge(item(f"r{number}"))
    await settle()
    asked.clients["backbone"].say = lambda _: opinion(0.0)
    waiting = asyncio.create_task(asked.router.judge(item("now", left_s=5.0)))
    await settle()
    slow.calls[0].answer(1.0)
    await settle()
    assert slow.calls[1].ids[0] == "now"
    waiting.cancel()
    await asked.router.aclose()


async def test_closing_ends_surveys():
    asked = Surveyed(Audit(1.0), backbone=saying(3.0), signs=saying(0.0), vlm=(slow := GatedClient()))
    await asked.router.judge(item("r1"))
    await settle()
    await asked.router.aclose()
    assert slow.calls[0].cancelled and asked.told == []


async def test_a_policy_may_name_the_head_that_stage_1_speaks_with():
    seen: list[str | None] = []

    def say(each):
        seen.append(each.head)
        return opinion(3.0)

    headed = Policy("headed", (Step("backbone", 0.4, 0.6, head="heads/2"),), EAGER.clip)
    verdict = await Router({"backbone": batcher(InstantClient(say))}, Rollout(headed), "mini").judge(item())
    assert (seen, verdict.stages[0].head) == (["heads/2"], "heads/2")
