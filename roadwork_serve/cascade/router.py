"""Drives one item through the stages to a verdict."""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from roadwork_serve.cascade.batcher import Batcher
from roadwork_serve.cascade.calls import Answer
from roadwork_serve.cascade.evidence import sigmoid
from roadwork_serve.cascade.gears import Gearbox
from roadwork_serve.cascade.opinion import Item
from roadwork_serve.cascade.policy import Leave, Policy, Progress, Skip, Step
from roadwork_serve.cascade.rules import Rules
from roadwork_serve.cascade.shadow import Shadows, Told
from roadwork_serve.errors import DeadlineExceeded, NoOpinion, Overloaded, StageFailed
from roadwork_serve.schema import Exit, ExitReason, Outcome, StageReport, Verdict

Ask = Callable[[Step], Awaitable[Answer]]


class _InForce:
    """Rules, and the gear each of their policies is in: what is swapped when they are."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.boxes = {arm: Gearbox(split.policy) for arm, split in (("a", rules), ("b", rules.split)) if split}


class Router:
    """Asks stages in the order of the policy until the item is settled.

    stages: by name; a stage that the policy names and this lacks counts as failed.
    rules: may be replaced at any time; an item keeps those it started with.
    on_shadow: told of every answer that a shadow judged too, and of what the shadow made of it.
    """

    def __init__(
        self, stages: Mapping[str, Batcher], rules: Rules, profile_name: str, on_shadow: Told | None = None
    ) -> None:
        self._in_force = _InForce(rules)
        self._stages = stages
        self._profile_name = profile_name
        self.shadows = Shadows(on_shadow)

    @property
    def rules(self) -> Rules:
        """What it goes by."""
        return self._in_force.rules

    @rules.setter
    def rules(self, rules: Rules) -> None:
        self._in_force = _InForce(rules)

    @property
    def gear(self) -> int:
        """Of the policy in force; 0 while it is calm."""
        return self._in_force.boxes["a"].gear

    def wait_s(self) -> float:
        """The longest that an item would wait for some stage if it came now, seconds."""
        return max((stage.wait_s() for stage in self._stages.values()), default=0.0)

    def admit(self, deadline_s: float) -> None:
        """Before work is done on a file: raises Overloaded or DeadlineExceeded when stage 1 could not look in time."""
        first = self.rules.policy.photo[0].stage  # of clips as well, in every policy that makes sense
        try:
            if (stage := self._stages.get(first)) is not None:
                stage.admit(deadline_s)
        except StageFailed:
            pass  # others may speak

    async def judge(self, item: Item, key: str | None = None) -> Verdict:
        """The verdict on the item, by its deadline.

        key: what an A/B test keeps together, by default the request id. Raises Overloaded when the first stage's queue
        is full, or when no stage spoke and a queue was full; DeadlineExceeded when the deadline passes before any stage
        has spoken, or the first stage is too slow for it; NoOpinion when every stage failed or abstained.
        """
        force = self._in_force
        arm = force.rules.arm(key or item.request_id)
        box = force.boxes[arm or "a"]
        policy = box.shift(self.wait_s() if box.gears else 0.0)
        known: dict[str, Answer] = {}

        async def ask(step: Step) -> Answer:
            known[step.stage] = answer = await self._stages[step.stage].submit(item)
            return answer

        verdict = await self._walk(item, policy, ask, gear=box.gear, arm=arm)
        shadow = force.rules.shadow
        if shadow is None or not self.shadows.takes(shadow, item.request_id):
            return verdict
        verdict = verdict.model_copy(update={"shadow": shadow.policy.version})
        late = replace(item, deadline_s=self.shadows.deadline_s())
        watching = self.shadows.asking(shadow, self._stages, late, known)
        self.shadows.start(verdict, self._walk(late, shadow.policy, watching))
        return verdict

    async def aclose(self) -> None:
        """End what shadows still do."""
        await self.shadows.aclose()

    async def _walk(self, item: Item, policy: Policy, ask: Ask, **marks: Any) -> Verdict:
        began = time.monotonic()
        progress = policy.start()
        reports: list[StageReport] = []
        reason: ExitReason | None = None
        shed: Overloaded | None = None
        late: DeadlineExceeded | None = None
        while reason is None:
            move = policy.next_step(item.kind, progress, item.left_s())
            if isinstance(move, Leave):
                reason = move.reason
            elif isinstance(move, Skip):
                reports.append(StageReport(stage=move.step.stage, outcome="skipped", detail=move.why))
                progress = progress.past()
            elif move.step.stage not in self._stages:
                reports.append(StageReport(stage=move.step.stage, outcome="failed", detail="not deployed"))
                progress = progress.past(failed=True)
            else:
                asked = time.monotonic()
                try:
                    answer = await ask(move.step)
                    opinion = answer.opinion
                    progress = progress.after(move.step, opinion.logit, opinion.saw.words_likely)
                    reports.append(_report(move.step.stage, answer, progress))
                except DeadlineExceeded as error:  # late, not broken: the answer is marked `deadline`, not `degraded`
                    reports.append(_silence(move.step.stage, "skipped", error, asked))
                    reason, late = "deadline", error
                except (Overloaded, StageFailed) as error:
                    if isinstance(error, Overloaded):
                        shed = error
                        if progress.position == 0:
                            raise
                    reports.append(_silence(move.step.stage, "failed", error, asked))
                    progress = progress.past(failed=True)
        if progress.spoken is None:
            if reason == "deadline":
                why = late or "the policy asks no stage for which there is so little time; allow more"
                raise DeadlineExceeded(f"no stage could speak in time: {why}")
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
            **marks,
        )


def _report(stage: str, answer: Answer, progress: Progress) -> StageReport:
    opinion = answer.opinion
    return StageReport(
        stage=stage,
        outcome="abstained" if opinion.logit is None else "answered",
        model=opinion.model,
        miniature=opinion.miniature,
        probability=None if opinion.logit is None else sigmoid(opinion.logit),
        second_probability=None if opinion.second_logit is None else sigmoid(opinion.second_logit),
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
