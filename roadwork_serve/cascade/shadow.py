"""Judging beside: what another policy, or a second head, would have said, at a bounded cost and to nobody's delay.

The answer is on its way before its shadow begins. The shadow has for nothing what the stages said of the item already;
of any other stage it asks one that is idle, and gives up when somebody else comes.
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
KnownAnswers = Mapping[tuple[str, str | None], StageAnswer]  # by stage, and the head it spoke with

_KEPT = 8  # tallies


class _Abandoned(RoadworkError):
    """The shadow would cost others something, or has nothing to go by."""


@dataclass(slots=True)
class ShadowCounts:
    """What came of a shadow policy. judged: items; agreed: of these with the same label as the answer.

    given_up: items not judged, because too many were at once, a stage was busy or failed, or there is no second head.
    difference: between the probabilities, summed over the items judged.
    """

    judged: int = 0
    agreed: int = 0
    abandoned: int = 0
    difference: float = 0.0


class ShadowRunner:
    """The shadows at work. told: of every answer and of what its shadow made of it."""

    def __init__(self, told: OnShadowed | None = None) -> None:
        self._told = told
        self._beside = BackgroundTasks()
        self._tallies: dict[str, ShadowCounts] = {}

    def tally(self, version: str) -> ShadowCounts:
        """Of the shadow policy with this version; those of the last few are kept."""
        if version not in self._tallies:
            self._tallies[version] = ShadowCounts()
            for old in list(self._tallies)[:-_KEPT]:
                del self._tallies[old]
        return self._tallies[version]

    def takes(self, shadow: ShadowPolicy, request_id: str) -> bool:
        """Whether an item is to be judged now: it is of the share, and there is room."""
        if not shadow.takes(request_id):
            return False
        if self._beside.count >= shadow.max_concurrent:
            self.tally(shadow.policy.version).abandoned += 1
            return False
        return True

    def deadline_s(self) -> float:
        """By when a shadow that begins now is to end."""
        return self._beside.deadline_s()

    def asking(
        self, shadow: ShadowPolicy, stages: Mapping[str, Batcher], item: Item, known: KnownAnswers
    ) -> Callable[[Step], Awaitable[StageAnswer]]:
        """How a shadow asks a stage. known: what the stages have said of the item."""

        async def ask(step: Step) -> StageAnswer:
            answer = known.get((step.stage, step.head))
            if answer is None:
                if not stages[step.stage].idle:
                    raise _Abandoned(f"{step.stage} is busy")
                answer = await stages[step.stage].submit(replace(item, head=step.head), spare=True)
            if not shadow.second_head or step.stage != "backbone":
                return answer
            if answer.opinion.second_logit is None:
                raise _Abandoned("stage 1 has no second head")
            return replace(answer, opinion=replace(answer.opinion, logit=answer.opinion.second_logit))

        return ask

    def start(self, answered: Verdict, judging: Coroutine[Any, Any, Verdict]) -> None:
        """Let a shadow judge what has been answered."""
        self._beside.start(self._judge(answered, judging), f"shadow of {answered.request_id}")

    async def aclose(self) -> None:
        """End those at work."""
        await self._beside.aclose()

    async def _judge(self, answered: Verdict, judging: Coroutine[Any, Any, Verdict]) -> None:
        tally = self.tally(answered.shadow or "")
        try:
            said = await judging
        except RoadworkError:
            tally.abandoned += 1
            return
        if said.degraded:  # a stage failed: it would be compared with what it is not
            tally.abandoned += 1
            return
        tally.judged += 1
        tally.agreed += said.label == answered.label
        tally.difference += abs(said.probability - answered.probability)
        if self._told is not None:
            self._told(answered, said)
