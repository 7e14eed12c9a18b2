"""Full-cascade audits: after the verdict, a share of the items is sent to every stage that the verdict did not need.

Audits measure the cost of early exits, and calibration and thresholds are fitted to them. Items are sampled at random,
independently of the verdict, so each audited item represents one over the share of all items.
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
    """Results of audits."""

    #: Items with a prediction of every stage.
    completed: int = 0
    #: Items without: too many at the same time, or a stage was busy or failed.
    abandoned: int = 0


class AuditRunner:
    """Runs audits. `on_audited` receives the verdict and the reports of the stages that it had not needed."""

    def __init__(self, on_audited: OnAudited | None = None) -> None:
        self.counts = AuditCounts()
        self._on_audited = on_audited
        self._tasks = BackgroundTasks()

    def should_run(self, audit: Audit, request_id: str) -> bool:
        """Return whether to audit the item now: it is sampled, and the limit of concurrent audits is not reached."""
        if not audit.samples(request_id):
            return False
        if self._tasks.count >= audit.max_concurrent:
            self.counts.abandoned += 1
            return False
        return True

    def start(
        self,
        verdict: Verdict,
        item: Item,
        steps: Sequence[Step],
        stages: Mapping[str, Batcher],
        known: Mapping[str, StageAnswer],
    ) -> None:
        """Send the item to the stages of the steps that are not among the `known` answers."""
        late = replace(item, deadline_s=self._tasks.deadline_s())
        rest = [step for step in steps if step.stage not in known]
        self._tasks.start(self._audit(verdict, late, rest, stages), f"audit of {item.request_id}")

    async def aclose(self) -> None:
        """Cancel running audits."""
        await self._tasks.aclose()

    async def _audit(self, verdict: Verdict, item: Item, steps: Sequence[Step], stages: Mapping[str, Batcher]) -> None:
        """Query the stages. The item's late deadline gives other items precedence in every queue."""
        async with asyncio.TaskGroup() as group:
            queries = [group.create_task(_query(step, item, stages)) for step in steps]
        reports = [query.result() for query in queries]
        if any(report is None for report in reports):
            self.counts.abandoned += 1
            return
        self.counts.completed += 1
        if self._on_audited is not None:
            self._on_audited(verdict, tuple(report for report in reports if report is not None))


async def _query(step: Step, item: Item, stages: Mapping[str, Batcher]) -> StageReport | None:
    if step.stage not in stages:
        return None
    try:
        return report_of(step, await stages[step.stage].submit(replace(item, head=step.head)))
    except RoadworkError:
        return None
