"""Full-cascade audits, tested through the router."""

import asyncio

import pytest

from roadwork_serve.cascade.policy import Policy, Step
from roadwork_serve.cascade.rollout import Audit, Rollout
from roadwork_serve.cascade.router import Router
from roadwork_serve.errors import StageFailed
from roadwork_serve.schema import StageReport, Verdict
from tests.cascade.fakes import GatedClient, InstantClient, batcher, item, prediction, settle

EAGER = Policy(
    version="eager",
    photo=(
        Step(stage="backbone", exit=(0.4, 0.6)),
        Step(stage="signs", exit=(0.0, 1.0), min_text_probability=0.5),
        Step(stage="vlm", exit=(0.5, 0.5)),
    ),
    clip=(Step(stage="backbone", exit=(0.4, 0.6)), Step(stage="video", exit=(0.5, 0.5))),
)


class Audited:
    """A router with audits, and the results that it reported."""

    def __init__(self, audit: Audit, policy: Policy = EAGER, **clients: object) -> None:
        self.results: list[tuple[Verdict, tuple[StageReport, ...]]] = []
        self.clients = clients
        stages = {name: batcher(client, name=name) for name, client in clients.items()}
        rollout = Rollout(policy=policy, audit=audit)
        self.router = Router(stages, rollout, "mini", on_audit=lambda *result: self.results.append(result))

    @property
    def counts(self) -> tuple[int, int]:
        return self.router.audits.counts.completed, self.router.audits.counts.abandoned


def returning(logit: float | None, **fields: object) -> InstantClient:
    return InstantClient(lambda _: prediction(logit, **fields))


async def test_an_early_exit_is_sent_to_all_other_stages_after_the_verdict():
    audited = Audited(Audit(share=1.0), backbone=returning(3.0), signs=returning(None), vlm=returning(-5.0))
    verdict = await audited.router.classify_item(item("r1"))
    assert ([report.stage for report in verdict.stages], verdict.audit_rate) == (["backbone"], 1.0)
    assert audited.results == []
    await settle()
    ((live, reports),) = audited.results
    assert live is verdict
    assert [(report.stage, report.outcome, report.posterior) for report in reports] == [
        ("signs", "abstained", None),
        ("vlm", "answered", None),
    ]
    assert reports[1].probability == pytest.approx(0.0067, abs=1e-4)
    assert audited.clients["backbone"].batches == [["r1"]], "known answers are reused"
    assert audited.counts == (1, 0)


async def test_skipped_stages_are_queried_too():
    audited = Audited(
        Audit(share=1.0), backbone=returning(0.0, text_probability=0.1), signs=returning(2.0), vlm=returning(1.0)
    )
    verdict = await audited.router.classify_item(item("r1"))
    assert [report.outcome for report in verdict.stages] == ["answered", "skipped", "answered"]
    await settle()
    assert [report.stage for report in audited.results[0][1]] == ["signs"]


async def test_an_item_with_all_predictions_is_audited_without_cost():
    audited = Audited(Audit(share=1.0), backbone=returning(0.0), signs=returning(0.0), vlm=returning(1.0))
    await audited.router.classify_item(item("r1"))
    await settle()
    assert (audited.results[0][1], audited.counts) == ((), (1, 0))


async def test_its_share_is_sampled_and_recorded():
    audited = Audited(Audit(share=0.2), backbone=returning(3.0), signs=returning(0.0), vlm=returning(0.0))
    verdicts = [await audited.router.classify_item(item(f"r{number}")) for number in range(300)]
    drawn = [verdict.audit_rate for verdict in verdicts if verdict.audit_rate is not None]
    assert set(drawn) == {0.2} and len(drawn) == pytest.approx(60, abs=25)


async def test_sampling_does_not_depend_on_the_verdict():
    audit = Audit(share=0.3)
    sure, unsure = (
        Audited(audit, backbone=returning(logit), signs=returning(0.0), vlm=returning(0.0)) for logit in (9.0, 0.0)
    )
    for number in range(100):
        one, other = [await each.router.classify_item(item(f"r{number}")) for each in (sure, unsure)]
        assert one.audit_rate == other.audit_rate
        await settle()


@pytest.mark.parametrize("vlm", [InstantClient(lambda _: StageFailed("no memory")), None])
async def test_an_audit_is_abandoned_if_a_stage_fails(vlm: InstantClient | None):
    audited = Audited(Audit(share=1.0), backbone=returning(3.0), signs=returning(0.0), **({"vlm": vlm} if vlm else {}))
    await audited.router.classify_item(item("r1"))
    await settle()
    await settle()  # for the retry
    assert (audited.results, audited.counts) == ([], (0, 1))


async def test_concurrent_audits_are_limited():
    audited = Audited(
        Audit(share=1.0, max_concurrent=2), backbone=returning(3.0), signs=returning(0.0), vlm=(slow := GatedClient())
    )
    rates = [(await audited.router.classify_item(item(f"r{number}"))).audit_rate for number in range(3)]
    await settle()
    assert rates == [1.0, 1.0, None]
    assert audited.counts == (0, 1)
    assert slow.calls[0].ids == ["r0"]


async def test_live_traffic_takes_precedence():
    audited = Audited(Audit(share=1.0), backbone=returning(3.0), signs=returning(0.0), vlm=(slow := GatedClient()))
    for number in range(3):
        await audited.router.classify_item(item(f"r{number}"))
    await settle()
    audited.clients["backbone"].respond = lambda _: prediction(0.0)
    waiting = asyncio.create_task(audited.router.classify_item(item("now", left_s=5.0)))
    await settle()
    slow.calls[0].answer(1.0)
    await settle()
    assert slow.calls[1].ids[0] == "now"
    waiting.cancel()
    await audited.router.aclose()


async def test_closing_cancels_audits():
    audited = Audited(Audit(share=1.0), backbone=returning(3.0), signs=returning(0.0), vlm=(slow := GatedClient()))
    await audited.router.classify_item(item("r1"))
    await settle()
    await audited.router.aclose()
    assert slow.calls[0].cancelled and audited.results == []


async def test_a_policy_can_name_the_head_of_stage_1():
    seen: list[str | None] = []

    def respond(each):
        seen.append(each.head)
        return prediction(3.0)

    headed = Policy(version="headed", photo=(Step(stage="backbone", exit=(0.4, 0.6), head="heads/2"),), clip=EAGER.clip)
    verdict = await Router({"backbone": batcher(InstantClient(respond))}, Rollout(policy=headed), "mini").classify_item(
        item()
    )
    assert (seen, verdict.stages[0].head) == (["heads/2"], "heads/2")
