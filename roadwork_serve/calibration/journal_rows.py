"""Journal answers as rows to calibrate, tune and compare with."""

from collections.abc import Iterable
from dataclasses import replace

from roadwork_serve.cascade.log_odds import logit
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.datasets.samples import About
from roadwork_serve.evaluation.replay import together
from roadwork_serve.evaluation.rows import Look, Row
from roadwork_serve.journal.record import Case
from roadwork_serve.schema import StageReport


def rows_of(cases: Iterable[Case], policy: Policy) -> list[Row]:
    """A row for each answer that was drawn for a survey and that every stage has judged since.

    Drawn by lot, they stand for all of the traffic: a row's weight is one over the chance. What people said is true;
    where nobody looked, what all stages of the policy say together is taken for it, and the row is marked so. Answers
    with one key, or on one file, are a group.
    """
    rows: list[Row] = []
    for case in cases:
        if case.entry.survey is not None and case.survey is not None:
            row = row_of(case, policy)
            asked = {step.stage for step in policy.steps(row.about.kind)}
            if asked <= {look.stage for look in row.looks}:
                rows.append(row)
    return rows


def row_of(case: Case, policy: Policy) -> Row:
    """What is known of one answer, by whichever stages spoke."""
    entry, verdict = case.entry, case.entry.verdict
    reports = (*verdict.stages, *(case.survey or ()))
    looks = tuple(_look(report) for report in reports if report.outcome in ("answered", "abstained"))
    label = None if case.mark is None else case.mark.label
    about = About(
        name=entry.id,
        kind=verdict.media,
        label=label == "roadwork",
        scored=case.mark is None or label is not None,
        group=entry.key or entry.sha256,
        source="journal",
        taught=case.mark is None,
    )
    row = Row(
        about,
        verdict.probability,
        verdict.label == "roadwork",
        verdict.exit.stage,
        verdict.exit.reason,
        verdict.degraded,
        looks,
        weight=1 / (entry.survey or 1.0),
    )
    if case.mark is not None:
        return row
    taught = together(row, policy).posterior >= policy.decide_at
    return replace(row, about=replace(about, label=taught))


def _look(report: StageReport) -> Look:
    return Look(
        report.stage,
        None if report.probability is None else logit(report.probability),
        report.posterior,
        report.model or "",
        report.miniature,
        report.saw.words_likely,
        report.tokens,
        report.compute_ms / max(1, report.batch_size),
    )
