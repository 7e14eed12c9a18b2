"""Labelled samples through the cascade, in this process, to rows."""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from roadwork_serve import media
from roadwork_serve.cascade.calls import StageAnswer
from roadwork_serve.cascade.log_odds import logit
from roadwork_serve.cascade.prediction import Item
from roadwork_serve.datasets.samples import Sample
from roadwork_serve.errors import RoadworkError
from roadwork_serve.evaluation.rows import EvaluationRow, StageRecord
from roadwork_serve.local_cascade import LocalCascade
from roadwork_serve.schema import StageReport

IN_FLIGHT = 32
_DEADLINE_S = 24 * 3600.0  # far enough never to bite: what is measured is what the cascade can know


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that got no verdict, and why."""

    name: str
    message: str


async def judge_samples(
    samples: Iterable[Sample],
    cascade: LocalCascade,
    also: Collection[str] = (),
    on_done: Callable[[], None] = lambda: None,
) -> tuple[list[EvaluationRow], list[Failure]]:
    """The rows, in the order of the samples, and what failed.

    also: stages that must speak on every item of a kind their policy names them for, whether the
        cascade reached them or not; for comparison, and never part of the verdict.
    on_done: called after every item.
    """
    results: dict[int, EvaluationRow | Failure] = {}
    supply = enumerate(samples)
    taking = asyncio.Lock()

    async def work() -> None:
        while True:
            async with taking:
                index, sample = await asyncio.to_thread(next, supply, (-1, None))
            if sample is None:
                return
            try:
                results[index] = await _judge(sample, cascade, also)
            except RoadworkError as error:
                results[index] = Failure(sample.about.name, str(error))
            on_done()

    async with asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(work())
    ordered = [results[index] for index in sorted(results)]
    return [r for r in ordered if isinstance(r, EvaluationRow)], [r for r in ordered if isinstance(r, Failure)]


async def _judge(sample: Sample, cascade: LocalCascade, also: Collection[str]) -> EvaluationRow:
    about = sample.about
    read = await asyncio.to_thread(media.read, sample.data, cascade.profile.media)
    item = Item.of(read, about.name, time.monotonic() + _DEADLINE_S)
    verdict = await cascade.router.judge(item)
    looks = list(_routed(verdict.stages))
    asked = {look.stage for look in looks}
    for step in cascade.policy.steps(item.kind):
        if step.stage in also and step.stage not in asked and step.stage in cascade.stages:
            answer = await cascade.stages[step.stage].submit(item)
            looks.append(_aside(step.stage, answer))
    return EvaluationRow(
        about,
        verdict.probability,
        verdict.label == "roadwork",
        verdict.exit.stage,
        verdict.exit.reason,
        verdict.degraded,
        tuple(looks),
    )


def _routed(reports: list[StageReport]) -> Iterator[StageRecord]:
    for report in reports:
        if report.outcome in ("answered", "abstained"):
            said = None if report.probability is None else logit(report.probability)
            yield StageRecord(
                report.stage,
                said,
                report.posterior,
                report.model or "",
                report.miniature,
                report.evidence.text_probability,
                report.tokens,
                report.compute_ms / max(1, report.batch_size),
            )


def _aside(stage: str, answer: StageAnswer) -> StageRecord:
    said = answer.opinion
    ms = said.compute_ms / answer.batch_size
    return StageRecord(
        stage, said.logit, None, said.model, said.miniature, said.evidence.text_probability, said.tokens, ms
    )
