"""Runs labelled samples through the cascade in this process."""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from roadwork_serve.cascade.calls import StageAnswer
from roadwork_serve.datasets.samples import Sample
from roadwork_serve.errors import RoadworkError
from roadwork_serve.evaluation.rows import EvaluationRow, StageRecord, stage_records
from roadwork_serve.local_cascade import LocalCascade, read_item

IN_FLIGHT = 32
_DEADLINE_S = 24 * 3600.0  # never reached: an evaluation measures accuracy, not speed


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that got no verdict."""

    name: str
    message: str


async def evaluate_samples(
    samples: Iterable[Sample],
    cascade: LocalCascade,
    also: Collection[str] = (),
    on_done: Callable[[], None] = lambda: None,
) -> tuple[list[EvaluationRow], list[Failure]]:
    """Return the rows, in the order of the samples, and the files that failed.

    also: stages that also run on items that exit before them, for comparison; the verdict stays as it is. Only stages
        that the policy has for the media kind.
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
                results[index] = await _evaluate(sample, cascade, also)
            except RoadworkError as error:
                results[index] = Failure(sample.metadata.name, str(error))
            on_done()

    async with asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(work())
    ordered = [results[index] for index in sorted(results)]
    return [r for r in ordered if isinstance(r, EvaluationRow)], [r for r in ordered if isinstance(r, Failure)]


async def _evaluate(sample: Sample, cascade: LocalCascade, also: Collection[str]) -> EvaluationRow:
    metadata = sample.metadata
    item = await read_item(sample.data, cascade.profile.media, metadata.name, time.monotonic() + _DEADLINE_S)
    verdict = await cascade.router.classify_item(item)
    records = list(stage_records(verdict.stages))
    done = {record.stage for record in records}
    for step in cascade.policy.steps(item.kind):
        if step.stage in also and step.stage not in done and step.stage in cascade.stages:
            answer = await cascade.stages[step.stage].submit(item)
            records.append(_record(step.stage, answer))
    return EvaluationRow(
        metadata,
        verdict.probability,
        verdict.positive,
        verdict.exit.stage,
        verdict.exit.reason,
        verdict.degraded,
        tuple(records),
    )


def _record(stage: str, answer: StageAnswer) -> StageRecord:
    prediction = answer.prediction
    return StageRecord(
        stage=stage,
        logit=prediction.logit,
        posterior=None,
        model=prediction.model,
        miniature=prediction.miniature,
        text_probability=prediction.evidence.text_probability,
        tokens=prediction.tokens,
        ms=prediction.compute_ms / answer.batch_size,
    )
