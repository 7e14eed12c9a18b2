"""The router: sends one item through the stages, as the policy says, to a verdict."""

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
from roadwork_serve.cascade.policy import Policy, Skip, Step, Walk
from roadwork_serve.cascade.prediction import Item
from roadwork_serve.cascade.rollout import Rollout
from roadwork_serve.cascade.shadow import OnShadowed, ShadowRunner
from roadwork_serve.cascade.stage_reports import failure_report, report_of, skip_report
from roadwork_serve.errors import DeadlineExceeded, NoOpinion, Overloaded, StageFailed
from roadwork_serve.profiles.task import Task, default_task
from roadwork_serve.schema import Exit, StageReport, Verdict

QueryStage = Callable[[Step], Awaitable[StageAnswer]]


@dataclass(frozen=True, slots=True, eq=False)
class RoutedVerdict:
    """A verdict and the features of stage 1."""

    verdict: Verdict
    #: Features before any head: float16 [frames, width]; None if stage 1 did not run or returned none.
    features: NDArray[np.float16] | None = None


class _ActiveRollout:
    """A rollout and the load shedding of its policies; both are replaced together."""

    def __init__(self, rollout: Rollout) -> None:
        self.rollout = rollout
        self.shedders = {"a": LoadShedder(rollout.policy)}
        if rollout.split is not None:
            self.shedders["b"] = LoadShedder(rollout.split.policy)


class Router:
    """Queries stages in the order of the policy until the item exits.

    Args:
        stages: by name. A stage that the policy names and that is missing here counts as failed.
        rollout: can be replaced at any time; an item keeps the one it started with.
        profile_name: for verdicts.
        on_shadow: called with each live verdict that has a shadow verdict, and that one.
        on_audit: called with each audited verdict, and the reports of the stages that it had not needed.
        task: the task with the labels; active road work by default.
    """

    def __init__(
        self,
        stages: Mapping[str, Batcher],
        rollout: Rollout,
        profile_name: str,
        on_shadow: OnShadowed | None = None,
        on_audit: OnAudited | None = None,
        task: Task | None = None,
    ) -> None:
        self._active = _ActiveRollout(rollout)
        self._stages = stages
        self._profile_name = profile_name
        self._task = task or default_task()
        self.shadows = ShadowRunner(on_shadow)
        self.audits = AuditRunner(on_audit)

    @property
    def rollout(self) -> Rollout:
        """The active rollout."""
        return self._active.rollout

    @rollout.setter
    def rollout(self, rollout: Rollout) -> None:
        self._active = _ActiveRollout(rollout)

    @property
    def degradation_level(self) -> int:
        """Degradation level of the active policy; 0 is none."""
        return self._active.shedders["a"].degradation_level

    def queue_wait_s(self) -> float:
        """Return the longest estimated queueing time of a stage for an item that arrives now, seconds."""
        return max((stage.queue_wait_s() for stage in self._stages.values()), default=0.0)

    @contextmanager
    def reserve(self, deadline_s: float) -> Generator[str | None]:
        """Reserve a place in the queue of stage 1 while a file is decoded. Yields the stage, for `classify`.

        Raises Overloaded or DeadlineExceeded, before any work on the file, if stage 1 could not answer in time.
        """
        name = self.rollout.policy.photo[0].stage  # sensible policies begin with the same stage for clips
        with ExitStack() as reservation:
            try:
                if (first := self._stages.get(name)) is None:
                    raise StageFailed(f"{name} is not deployed")
                reservation.enter_context(first.reserve(deadline_s))
            except StageFailed:  # other stages may still answer
                yield None
            else:
                yield name

    async def classify_item(self, item: Item, key: str | None = None) -> Verdict:
        """Return the verdict on the item; see `classify`."""
        return (await self.classify(item, key)).verdict

    async def classify(self, item: Item, key: str | None = None, reserved: str | None = None) -> RoutedVerdict:
        """Return the verdict on the item, by its deadline, and start its shadow evaluation and audit, if any.

        Args:
            item: the decoded photo or clip.
            key: items with the same key stay in the same arm of an A/B test; by default the request id.
            reserved: the stage that `reserve` yielded.

        Raises:
            Overloaded: the first stage's queue is full, or no stage answered and a queue was full.
            DeadlineExceeded: the deadline passed before any stage answered, or the first stage is too slow for it.
            NoOpinion: every stage failed or abstained.
        """
        active = self._active
        arm = active.rollout.arm(key or item.request_id)
        shedder = active.shedders[arm or "a"]
        policy = shedder.policy_for(self.queue_wait_s() if shedder.degradation_levels else 0.0)
        known: dict[tuple[str, str | None], StageAnswer] = {}

        async def query(step: Step) -> StageAnswer:
            sent = item if step.head is None else replace(item, head=step.head)
            nonlocal reserved
            has_place, reserved = step.stage == reserved, None  # the reservation is for the first query
            known[step.stage, step.head] = answer = await self._stages[step.stage].submit(sent, reserved=has_place)
            return answer

        level = shedder.degradation_level
        verdict = await self._run_policy(item, policy, query, degradation_level=level, arm=arm)
        features = next((a.prediction.features for a in known.values() if a.prediction.features is not None), None)
        shadow, audit = active.rollout.shadow, active.rollout.audit
        if shadow is not None and self.shadows.should_run(shadow, item.request_id):
            verdict = verdict.model_copy(update={"shadow": shadow.policy.version})
            late = replace(item, deadline_s=self.shadows.deadline_s())
            shadow_query = self.shadows.query_with(shadow, self._stages, late, known)
            self.shadows.start(verdict, self._run_policy(late, shadow.policy, shadow_query))
        if audit is not None and self.audits.should_run(audit, item.request_id):
            verdict = verdict.model_copy(update={"audit_rate": audit.share})
            answered = {stage: answer for (stage, _), answer in known.items()}
            self.audits.start(verdict, item, policy.steps(item.kind), self._stages, answered)
        return RoutedVerdict(verdict, features)

    async def aclose(self) -> None:
        """Cancel running shadow evaluations and audits."""
        await self.shadows.aclose()
        await self.audits.aclose()

    async def _run_policy(self, item: Item, policy: Policy, query: QueryStage, **fields: Any) -> Verdict:
        """Return the verdict of a policy. `fields` are added to it."""
        began = time.monotonic()
        walk = Walk(policy, item.kind, item.left_s)
        reports: list[StageReport] = []
        shed: Overloaded | None = None
        late: DeadlineExceeded | None = None
        for move in walk:
            step = move.step
            if isinstance(move, Skip):
                reports.append(skip_report(move))
                continue
            if step.stage not in self._stages:
                reports.append(StageReport(stage=step.stage, outcome="failed", detail="not deployed"))
                continue
            sent = time.monotonic()
            try:
                answer = await query(step)
                walk.record(step, answer.prediction.logit, answer.prediction.evidence.text_probability)
                reports.append(report_of(step, answer, walk.progress.posterior))
            except DeadlineExceeded as error:  # the item is late and no stage is broken: `deadline`, not `degraded`
                reports.append(failure_report(step.stage, "skipped", error, sent))
                late = error
                break
            except (Overloaded, StageFailed) as error:
                if isinstance(error, Overloaded):
                    shed = error
                    if walk.progress.position == 0:
                        raise
                reports.append(failure_report(step.stage, "failed", error, sent))
        progress, reason = walk.progress, walk.reason or "deadline"
        if progress.last_answered is None:
            if reason == "deadline":
                cause = late or "the policy queries no stage in so little time; allow more"
                raise DeadlineExceeded(f"no stage answered in time: {cause}")
            details = "; ".join(f"{report.stage}: {report.detail or report.outcome}" for report in reports)
            raise shed or NoOpinion(f"no stage answered: {details}")
        positive = progress.posterior >= policy.decision_threshold
        return Verdict(
            answer_id=uuid.uuid4().hex,
            request_id=item.request_id,
            media=item.kind,
            label=self._task.label(positive),
            positive=positive,
            probability=progress.posterior,
            exit=Exit(stage=progress.last_answered.stage, reason=reason),
            degraded=any(report.outcome == "failed" for report in reports),
            incomplete=item.incomplete,
            stages=reports,
            policy_version=policy.version,
            profile=self._profile_name,
            elapsed_ms=(time.monotonic() - began) * 1000,
            **fields,
        )
