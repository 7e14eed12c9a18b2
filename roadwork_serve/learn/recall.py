"""From the journal to learning: answers as rows to calibrate, tune and compare with, and as features for heads."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from roadwork_serve.cascade.evidence import logit
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.errors import ConfigError
from roadwork_serve.journal.record import Case
from roadwork_serve.learn.features import FeatureSet
from roadwork_serve.learn.replay import together
from roadwork_serve.learn.rows import Look, Row
from roadwork_serve.learn.samples import About
from roadwork_serve.schema import StageReport

_MEANS_NOTHING = (None, "neutral")


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


def features_of(cases: Iterable[Case], policy: Policy) -> FeatureSet:
    """Photos with what stage 1 made of them, and what others said: to train a head on.

    The target is what people said, else what the stages behind stage 1 say together; stage 1's own word is left out, so
    that a head never learns from heads before it, and photos that nobody but stage 1 has judged are left out with it.
    Clips are left out too: what is true of a clip need not be true of each of its frames. Raises ConfigError where
    nothing is left, or where features are of several backbones.
    """
    kept: list[tuple[Case, float, bool, float]] = []
    for case in cases:
        if case.entry.features is None or case.entry.verdict.media != "photo":
            continue
        if case.mark is not None:
            if case.mark.label is not None:
                kept.append((case, float(case.mark.label == "roadwork"), True, _words(case)))
            continue
        progress = together(row_of(case, policy), policy, without="backbone")
        if progress.spoken is not None:
            kept.append((case, progress.posterior, False, _words(case)))
    if not kept:
        raise ConfigError(
            "the journal holds no photo with features that people or later stages have judged; let some traffic "
            "through, with journal.features: true"
        )
    models = {case.entry.features_model for case, *_ in kept}
    if len(models) > 1:
        raise ConfigError(f"the journal's features are of {', '.join(sorted(models))}; take a window with one of them")
    return FeatureSet(
        model=models.pop(),
        recipe="cls",
        x=np.concatenate([np.asarray(case.entry.features, np.float32) for case, *_ in kept]),
        target=np.array([target for _, target, _, _ in kept], np.float32),
        by_people=np.array([people for _, _, people, _ in kept], dtype=bool),
        weight=np.ones(len(kept), np.float32),
        words=np.array([words for *_, words in kept], np.float32),
        group=tuple(case.entry.key or case.entry.sha256 for case, *_ in kept),
        name=tuple(case.entry.id for case, *_ in kept),
        origin=("journal",),
    )


def _words(case: Case) -> float:
    """1 or 0, NaN where the sign reader did not look."""
    report = case.report("signs")
    if report is None:
        return np.nan
    return float(any(words.meaning not in _MEANS_NOTHING for words in report.saw.words))


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
