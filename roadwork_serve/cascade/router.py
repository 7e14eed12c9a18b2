"""Drives one item through the stages to a verdict."""

import time
import uuid
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.cascade.audit import AuditRunner, OnAudited
from roadwork_serve.cascade.batcher import Batcher
from roadwork_serve.cascade.calls import StageAnswer
from roadwork_serve.cascade.load_shedding import LoadShedder
from roadwork_serve.cascade.policy import ExitCascade, Policy, Skip, Step
from roadwork_serve.cascade.prediction import Item
from roadwork_serve.cascade.rollout import Rollout
from roadwork_serve.cascade.shadow import OnShadowed, ShadowRunner
from roadwork_serve.cascade.stage_reports import failure_report, report_of
from roadwork_serve.errors import DeadlineExceeded, NoOpinion, Overloaded, StageFailed
from roadwork_serve.schema import Exit, ExitReason, StageReport, Verdict

QueryStage = Callable[[Step], Awaitable[StageAnswer]]


@dataclass(frozen=True, slots=True, eq=False)
class RoutedVerdict:
    """A verdict, and what stage 1 made of the item before any head: float16 [frames, width], None where it did not."""

    verdict: Verdict
    features: NDArray[np.float16] | None = None


class _InForce:
    """Rules, and the gear each of their policies is in: what is swapped when they are."""

    def __init__(self, rules: Rollout) -> None:
        self.rules = rules
        self.boxes = {arm: LoadShedder(split.policy) for arm, split in (("a", rules), ("b", rules.split)) if split}


class Router:
    """Asks stages in the order of the policy until the item is settled.

    stages: by name; a stage that the policy names and this lacks counts as failed.
    rules: may be replaced at any time; an item keeps those it started with.
    on_shadow: told of every answer that a shadow judged too, and of what the shadow made of it.
    on_survey: told of every answer on an item that all stages have judged, and of what those said that it did not need.
    """

    def __init__(
        self,
        stages: Mapping[str, Batcher],
        rules: Rollout,
        profile_name: str,
        on_shadow: OnShadowed | None = None,
        on_survey: OnAudited | None = None,
    ) -> None:
        self._in_force = _InForce(rules)
        self._stages = stages
        self._profile_name = profile_name
        self.shadows = ShadowRunner(on_shadow)
        self.audits = AuditRunner(on_survey)

    @property
    def rules(self) -> Rollout:
        """What it goes by."""
        return self._in_force.rules

    @rules.setter
    def rules(self, rules: Rollout) -> None:
        self._in_force = _InForce(rules)

    @property
    def degradation_level(self) -> int:
        """Of the policy in force; 0 while it is calm."""
        return self._in_force.boxes["a"].degradation_level

    def wait_s(self) -> float:
        """The longest that an item would wait for some stage if it came now, seconds."""
        return max((stage.wait_s() for stage in self._stages.values()), default=0.0)

    @contextmanager
    def booked(self, deadline_s: float) -> Generator[str | None]:
        """While a file is read: it counts among those that wait for stage 1. Yields the stage, for `look`.

        Raises Overloaded or DeadlineExceeded, before any work is done on it, when stage 1 could not look in time.
        """
        name = self.rules.policy.photo[0].stage  # of clips as well, in policies that make sense
        with ExitStack() as held:
            try:
                if (first := self._stages.get(name)) is None:
                    raise StageFailed(f"{name} is not deployed")
                held.enter_context(first.booked(deadline_s))
            except StageFailed:  # others may speak
                yield None
            else:
                yield name

    async def judge(self, item: Item, key: str | None = None) -> Verdict:
        """The verdict on the item; see `look`."""
        return (await self.look(item, key)).verdict

    async def look(self, item: Item, key: str | None = None, booked: str | None = None) -> RoutedVerdict:
        """The verdict on the item, by its deadline, and what it leaves behind.

        key: what an A/B test keeps together, by default the request id. booked: the stage where it was counted until
        now among those that wait. Raises Overloaded when the first stage's queue is full, or when no stage spoke and a
        queue was full; DeadlineExceeded when the deadline passes before any stage has spoken, or the first stage is too
        slow for it; NoOpinion when every stage failed or abstained.
        """
        force = self._in_force
        arm = force.rules.arm(key or item.request_id)
        box = force.boxes[arm or "a"]
        policy = box.shift(self.wait_s() if box.degradation_levels else 0.0)
        known: dict[tuple[str, str | None], StageAnswer] = {}

        async def ask(step: Step) -> StageAnswer:
            asked = item if step.head is None else replace(item, head=step.head)
            nonlocal booked
            counted, booked = step.stage == booked, None  # it holds for the first stage that is asked
            known[step.stage, step.head] = answer = await self._stages[step.stage].submit(asked, booked=counted)
            return answer

        verdict = await self._walk(item, policy, ask, degradation_level=box.degradation_level, arm=arm)
        features = next((a.opinion.features for a in known.values() if a.opinion.features is not None), None)
        shadow, audit = force.rules.shadow, force.rules.audit
        if shadow is not None and self.shadows.takes(shadow, item.request_id):
            verdict = verdict.model_copy(update={"shadow": shadow.policy.version})
            late = replace(item, deadline_s=self.shadows.deadline_s())
            watching = self.shadows.asking(shadow, self._stages, late, known)
            self.shadows.start(verdict, self._walk(late, shadow.policy, watching))
        if audit is not None and self.audits.takes(audit, item.request_id):
            verdict = verdict.model_copy(update={"audit": audit.share})
            told = {stage: answer for (stage, _), answer in known.items()}
            self.audits.start(verdict, item, policy.steps(item.kind), self._stages, told)
        return RoutedVerdict(verdict, features)

    async def aclose(self) -> None:
        """End what shadows and surveys still do."""
        await self.shadows.aclose()
        await self.audits.aclose()

    async def _walk(self, item: Item, policy: Policy, ask: QueryStage, **marks: Any) -> Verdict:
        began = time.monotonic()
        progress = policy.start()
        reports: list[StageReport] = []
        reason: ExitReason | None = None
        shed: Overloaded | None = None
        late: DeadlineExceeded | None = None
        while reason is None:
            move = policy.next_step(item.kind, progress, item.left_s())
            if isinstance(move, ExitCascade):
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
                    progress = progress.after(move.step, opinion.logit, opinion.evidence.text_probability)
                    reports.append(report_of(move.step, answer, progress.posterior))
                except DeadlineExceeded as error:  # late, not broken: the answer is marked `deadline`, not `degraded`
                    reports.append(failure_report(move.step.stage, "skipped", error, asked))
                    reason, late = "deadline", error
                except (Overloaded, StageFailed) as error:
                    if isinstance(error, Overloaded):
                        shed = error
                        if progress.position == 0:
                            raise
                    reports.append(failure_report(move.step.stage, "failed", error, asked))
                    progress = progress.past(failed=True)
        if progress.spoken is None:
            if reason == "deadline":
                why = late or "the policy asks no stage for which there is so little time; allow more"
                raise DeadlineExceeded(f"no stage could speak in time: {why}")
            said = "; ".join(f"{report.stage}: {report.detail or report.outcome}" for report in reports)
            raise shed or NoOpinion(f"no stage could speak: {said}")
        return Verdict(
            answer_id=uuid.uuid4().hex,
            request_id=item.request_id,
            media=item.kind,
            label="roadwork" if progress.posterior >= policy.decision_threshold else "none",
            probability=progress.posterior,
            exit=Exit(stage=progress.spoken.stage, reason=reason),
            degraded=any(report.outcome == "failed" for report in reports),
            stages=reports,
            policy_version=policy.version,
            profile=self._profile_name,
            elapsed_ms=(time.monotonic() - began) * 1000,
            **marks,
        )
