"""Drives one item through the stages to a verdict."""

import time
from collections.abc import Mapping

from roadwork_serve.cascade.batcher import Answer, Batcher
from roadwork_serve.cascade.evidence import sigmoid
from roadwork_serve.cascade.opinion import Item
from roadwork_serve.cascade.policy import Leave, Policy, Progress, Skip
from roadwork_serve.errors import DeadlineExceeded, NoOpinion, Overloaded, StageFailed
from roadwork_serve.schema import Exit, ExitReason, Outcome, StageReport, Verdict


class Router:
    """Asks stages in the order of the policy until the item is settled.

    stages: by name; a stage that the policy names and this lacks counts as failed.
    policy: may be replaced at any time; an item keeps the one it started with.
    """

    def __init__(self, stages: Mapping[str, Batcher], policy: Policy, profile_name: str) -> None:
        self.policy = policy
        self._stages = stages
        self._profile_name = profile_name

    async def judge(self, item: Item) -> Verdict:
        """The verdict on the item, by its deadline.

        Raises Overloaded when the first stage's queue is full, or when no stage spoke and a queue was
        full; DeadlineExceeded when the deadline passes before any stage has spoken; NoOpinion when
        every stage failed or abstained.
        """
        began = time.monotonic()
        policy = self.policy
        progress = policy.start()
        reports: list[StageReport] = []
        reason: ExitReason | None = None
        shed: Overloaded | None = None
        while reason is None:
            move = policy.next_step(item.kind, progress, item.left_s())
            if isinstance(move, Leave):
                reason = move.reason
            elif isinstance(move, Skip):
                reports.append(StageReport(stage=move.step.stage, outcome="skipped", detail=move.why))
                progress = progress.past()
            elif (stage := self._stages.get(move.step.stage)) is None:
                reports.append(StageReport(stage=move.step.stage, outcome="failed", detail="not deployed"))
                progress = progress.past(failed=True)
            else:
                asked = time.monotonic()
                try:
                    answer = await stage.submit(item)
                    opinion = answer.opinion
                    progress = progress.after(move.step, opinion.logit, opinion.saw.words_likely)
                    reports.append(_report(move.step.stage, answer, progress))
                except DeadlineExceeded as error:  # late, not broken: the answer is marked `deadline`, not `degraded`
                    reports.append(_silence(move.step.stage, "skipped", error, asked))
                    reason = "deadline"
                except (Overloaded, StageFailed) as error:
                    if isinstance(error, Overloaded):
                        shed = error
                        if progress.position == 0:
                            raise
                    reports.append(_silence(move.step.stage, "failed", error, asked))
                    progress = progress.past(failed=True)
        if progress.spoken is None:
            if reason == "deadline":
                raise DeadlineExceeded("the deadline passed before any stage could speak; allow more time")
            said = "; ".join(f"{report.stage}: {report.detail or report.outcome}" for report in reports)
            raise shed or NoOpinion(f"no stage could speak: {said}")
        return Verdict(
            request_id=item.request_id,
            media=item.kind,
            label="roadwork" if progress.posterior >= policy.decide_at else "none",
            probability=progress.posterior,
            exit=Exit(stage=progress.spoken.stage, reason=reason),
            degraded=any(report.outcome == "failed" for report in reports),
            stages=reports,
            policy_version=policy.version,
            profile=self._profile_name,
            elapsed_ms=(time.monotonic() - began) * 1000,
        )


def _report(stage: str, answer: Answer, progress: Progress) -> StageReport:
    opinion = answer.opinion
    return StageReport(
        stage=stage,
        outcome="abstained" if opinion.logit is None else "answered",
        model=opinion.model,
        miniature=opinion.miniature,
        probability=None if opinion.logit is None else sigmoid(opinion.logit),
        posterior=progress.posterior,
        queue_ms=answer.queue_ms,
        batch_ms=opinion.batch_ms,
        compute_ms=opinion.compute_ms,
        hop_ms=answer.hop_ms,
        batch_size=answer.batch_size,
        tokens=opinion.tokens,
        saw=opinion.saw,
    )


def _silence(stage: str, outcome: Outcome, error: Exception, asked: float) -> StageReport:
    waited_ms = (time.monotonic() - asked) * 1000
    return StageReport(stage=stage, outcome=outcome, detail=f"{error} (after {waited_ms:.0f} ms)")
