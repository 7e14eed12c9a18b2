"""Journal answers as rows to calibrate, tune and compare with."""

from collections.abc import Iterable
from dataclasses import replace

from roadwork_serve.cascade.log_odds import logit
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.datasets.samples import SampleMetadata
from roadwork_serve.evaluation.replay import full_cascade_posterior
from roadwork_serve.evaluation.rows import EvaluationRow, StageRecord
from roadwork_serve.journal.record import JournalRow
from roadwork_serve.schema import StageReport


def journal_rows(cases: Iterable[JournalRow], policy: Policy) -> list[EvaluationRow]:
    """A row for each answer that was drawn for a survey and that every stage has judged since.

    Drawn by lot, they stand for all of the traffic: a row's weight is one over the chance. What people said is true;
    where nobody looked, what all stages of the policy say together is taken for it, and the row is marked so. Answers
    with one key, or on one file, are a group.
    """
    rows: list[EvaluationRow] = []
    for case in cases:
        if case.entry.audit is not None and case.audit is not None:
            row = journal_row(case, policy)
            asked = {step.stage for step in policy.steps(row.about.kind)}
            if asked <= {look.stage for look in row.looks}:
                rows.append(row)
    return rows


def journal_row(case: JournalRow, policy: Policy) -> EvaluationRow:
    """What is known of one answer, by whichever stages spoke."""
    entry, verdict = case.entry, case.entry.verdict
    reports = (*verdict.stages, *(case.audit or ()))
    looks = tuple(_look(report) for report in reports if report.outcome in ("answered", "abstained"))
    label = None if case.mark is None else case.mark.label
    about = SampleMetadata(
        name=entry.id,
        kind=verdict.media,
        label=label == "roadwork",
        scored=case.mark is None or label is not None,
        group=entry.key or entry.sha256,
        source="journal",
        taught=case.mark is None,
    )
    row = EvaluationRow(
        about,
        verdict.probability,
        verdict.label == "roadwork",
        verdict.exit.stage,
        verdict.exit.reason,
        verdict.degraded,
        looks,
        weight=1 / (entry.audit or 1.0),
    )
    if case.mark is not None:
        return row
    taught = full_cascade_posterior(row, policy).posterior >= policy.decision_threshold
    return replace(row, about=replace(about, label=taught))


def _look(report: StageReport) -> StageRecord:
    return StageRecord(
        report.stage,
        None if report.probability is None else logit(report.probability),
        report.posterior,
        report.model or "",
        report.miniature,
        report.evidence.text_probability,
        report.tokens,
        report.compute_ms / max(1, report.batch_size),
    )
