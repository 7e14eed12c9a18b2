"""Shadow evaluation: another policy, or a second head, on live traffic, at a bounded cost and without delay for anyone.

A shadow starts after the verdict. It reuses the predictions already made for the item. It queries further stages only
while they are idle, and yields to live traffic.
"""

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any

from roadwork_serve.cascade.background_tasks import BackgroundTasks
from roadwork_serve.cascade.batcher import Batcher
from roadwork_serve.cascade.calls import StageAnswer
from roadwork_serve.cascade.policy import Step
from roadwork_serve.cascade.prediction import Item
from roadwork_serve.cascade.rollout import ShadowPolicy
from roadwork_serve.errors import RoadworkError
from roadwork_serve.schema import Verdict

OnShadowed = Callable[[Verdict, Verdict], None]
KnownAnswers = Mapping[tuple[str, str | None], StageAnswer]  # by stage and head

_MAX_VERSIONS = 8


class _Abandoned(RoadworkError):
    """The shadow would delay live traffic, or a prediction that it needs is missing."""


@dataclass(slots=True)
class ShadowCounts:
    """Results of a shadow policy."""

    #: Items with a verdict of the shadow policy.
    compared: int = 0
    #: Of these, items with the same label as the live verdict.
    agreed: int = 0
    #: Items without: too many at the same time, a stage was busy or failed, or there is no second head.
    abandoned: int = 0
    #: Sum of the absolute differences between the probabilities of compared items.
    total_difference: float = 0.0


class ShadowRunner:
    """Runs shadow evaluations. `on_shadowed` receives the live verdict and the shadow's."""

    def __init__(self, on_shadowed: OnShadowed | None = None) -> None:
        self._on_shadowed = on_shadowed
        self._tasks = BackgroundTasks()
        self._counts: dict[str, ShadowCounts] = {}

    def counts(self, version: str) -> ShadowCounts:
        """Return the results of the shadow policy with this version; those of older versions are dropped."""
        if version not in self._counts:
            self._counts[version] = ShadowCounts()
            for old in list(self._counts)[:-_MAX_VERSIONS]:
                del self._counts[old]
        return self._counts[version]

    def should_run(self, shadow: ShadowPolicy, request_id: str) -> bool:
        """Return whether to evaluate the item now: it is sampled, and the limit of concurrent items is not reached."""
        if not shadow.samples(request_id):
            return False
        if self._tasks.count >= shadow.max_concurrent:
            self.counts(shadow.policy.version).abandoned += 1
            return False
        return True

    def deadline_s(self) -> float:
        """Return the deadline of an evaluation that starts now."""
        return self._tasks.deadline_s()

    def query_with(
        self, shadow: ShadowPolicy, stages: Mapping[str, Batcher], item: Item, known: KnownAnswers
    ) -> Callable[[Step], Awaitable[StageAnswer]]:
        """Return the function that queries a stage for the shadow policy, given the answers `known` for the item."""

        async def query(step: Step) -> StageAnswer:
            answer = known.get((step.stage, step.head))
            if answer is None:
                if not stages[step.stage].idle:
                    raise _Abandoned(f"{step.stage} is busy")
                answer = await stages[step.stage].submit(replace(item, head=step.head), best_effort=True)
            if not shadow.second_head or step.stage != "backbone":
                return answer
            if answer.prediction.second_logit is None:
                raise _Abandoned("stage 1 has no second head")
            return replace(answer, prediction=replace(answer.prediction, logit=answer.prediction.second_logit))

        return query

    def start(self, verdict: Verdict, evaluation: Coroutine[Any, Any, Verdict]) -> None:
        """Start the shadow's evaluation of an item with this live verdict."""
        self._tasks.start(self._evaluate(verdict, evaluation), f"shadow of {verdict.request_id}")

    async def aclose(self) -> None:
        """Cancel running evaluations."""
        await self._tasks.aclose()

    async def _evaluate(self, verdict: Verdict, evaluation: Coroutine[Any, Any, Verdict]) -> None:
        counts = self.counts(verdict.shadow or "")
        try:
            shadow = await evaluation
        except RoadworkError:
            counts.abandoned += 1
            return
        if shadow.degraded:  # a stage failed: the comparison would be unfair
            counts.abandoned += 1
            return
        counts.compared += 1
        counts.agreed += shadow.label == verdict.label
        counts.total_difference += abs(shadow.probability - verdict.probability)
        if self._on_shadowed is not None:
            self._on_shadowed(verdict, shadow)
