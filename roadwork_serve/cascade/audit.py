"""Asking everyone: a share of the items is shown, once answered, to every stage that the answer did not need.

What comes of it tells what earlier exits cost, and is what calibration and thresholds are fitted to. The share is drawn
by lot, whatever the answer was, so each item so judged stands for one over the share of all.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from roadwork_serve.cascade.background_tasks import BackgroundTasks
from roadwork_serve.cascade.batcher import Batcher
from roadwork_serve.cascade.calls import StageAnswer
from roadwork_serve.cascade.policy import Step
from roadwork_serve.cascade.prediction import Item
from roadwork_serve.cascade.rollout import Audit
from roadwork_serve.cascade.stage_reports import report_of
from roadwork_serve.errors import RoadworkError
from roadwork_serve.schema import StageReport, Verdict

OnAudited = Callable[[Verdict, tuple[StageReport, ...]], None]


@dataclass(slots=True)
class AuditCounts:
    """Items that every stage has judged, and those given up: too many at once, or a stage was busy or failed."""

    judged: int = 0
    abandoned: int = 0


class AuditRunner:
    """The surveys at work. told: of every answer and of what the stages said that it had not asked."""

    def __init__(self, told: OnAudited | None = None) -> None:
        self.tally = AuditCounts()
        self._told = told
        self._beside = BackgroundTasks()

    def takes(self, audit: Audit, request_id: str) -> bool:
        """Whether every stage is to judge the item now: it is of the share, and there is room."""
        if not audit.takes(request_id):
            return False
        if self._beside.count >= audit.max_concurrent:
            self.tally.abandoned += 1
            return False
        return True

    def start(
        self,
        answered: Verdict,
        item: Item,
        steps: Sequence[Step],
        stages: Mapping[str, Batcher],
        known: Mapping[str, StageAnswer],
    ) -> None:
        """Show the item to those of the steps' stages that have not seen it. known: what the others said."""
        late = replace(item, deadline_s=self._beside.deadline_s())
        rest = [step for step in steps if step.stage not in known]
        self._beside.start(self._ask(answered, late, rest, stages), f"survey of {item.request_id}")

    async def aclose(self) -> None:
        """End those at work."""
        await self._beside.aclose()

    async def _ask(self, answered: Verdict, item: Item, steps: Sequence[Step], stages: Mapping[str, Batcher]) -> None:
        """Nobody waits for it: by its late deadline every queue lets others go first."""
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(_one(step, item, stages)) for step in steps]
        reports = [task.result() for task in asked]
        if any(report is None for report in reports):
            self.tally.abandoned += 1
            return
        self.tally.judged += 1
        if self._told is not None:
            self._told(answered, tuple(report for report in reports if report is not None))


async def _one(step: Step, item: Item, stages: Mapping[str, Batcher]) -> StageReport | None:
    if step.stage not in stages:
        return None
    try:
        return report_of(step, await stages[step.stage].submit(replace(item, head=step.head)))
    except RoadworkError:
        return None
