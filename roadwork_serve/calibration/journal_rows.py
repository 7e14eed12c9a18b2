"""Evaluation rows from the predictions in a journal."""

from collections.abc import Iterable
from dataclasses import replace

from roadwork_serve.cascade.policy import Policy
from roadwork_serve.datasets.samples import SampleMetadata
from roadwork_serve.evaluation.replay import full_cascade_posterior
from roadwork_serve.evaluation.rows import EvaluationRow, stage_records
from roadwork_serve.journal.record import JournalRow


def journal_rows(cases: Iterable[JournalRow], policy: Policy) -> list[EvaluationRow]:
    """Return a row for each audited prediction that every stage of the policy has processed.

    Audits are a random sample, so a row's weight is 1 / sampling probability. Human labels are taken as the truth; rows
    without one get the decision of the full cascade as a pseudo-label. Predictions with the same key, or of the same
    file, form a group.
    """
    rows: list[EvaluationRow] = []
    for case in cases:
        if case.prediction.audit_rate is not None and case.audit is not None:
            row = journal_row(case, policy)
            stages = {step.stage for step in policy.steps(row.metadata.kind)}
            if stages <= {record.stage for record in row.records}:
                rows.append(row)
    return rows


def journal_row(case: JournalRow, policy: Policy) -> EvaluationRow:
    """Return the row of one prediction, with the records of the stages that ran."""
    entry, verdict = case.prediction, case.prediction.verdict
    positive = case.human_positive
    metadata = SampleMetadata(
        name=entry.id,
        kind=verdict.media,
        label=positive is True,
        ignore=case.annotation is not None and positive is None,
        group=entry.key or entry.sha256,
        source="journal",
        pseudo_labeled=case.annotation is None,
    )
    row = EvaluationRow(
        metadata=metadata,
        probability=verdict.probability,
        predicted_label=verdict.positive,
        exit_stage=verdict.exit.stage,
        exit_reason=verdict.exit.reason,
        degraded=verdict.degraded,
        records=stage_records((*verdict.stages, *(case.audit or ()))),
        weight=1 / (entry.audit_rate or 1.0),
    )
    if case.annotation is not None:
        return row
    pseudo_label = full_cascade_posterior(row, policy).posterior >= policy.decision_threshold
    return replace(row, metadata=replace(metadata, label=pseudo_label))
