"""Reliability of the probabilities of each stage and of the cascade, before and after calibration, out of fold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from roadwork_serve.calibration.calibrate import CalibrationResult, Quality, quality
from roadwork_serve.calibration.curves import FITS, apply_curve
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.cascade.step import Step
from roadwork_serve.evaluation.intervals import wilson
from roadwork_serve.evaluation.replay import replay
from roadwork_serve.evaluation.rows import EvaluationRow
from roadwork_serve.evaluation.splits import fill_group_names, folds
from roadwork_serve.schema import MediaKind

Floats = NDArray[np.float64]
Truth = NDArray[np.bool_]
_FOLDS = 5
_MAX_LOGIT = 30.0


@dataclass(frozen=True, slots=True)
class Bin:
    """A bin of a reliability diagram."""

    n: int
    mean_probability: float
    #: Share of positives.
    positive_share: float
    #: 90 % interval of the share of positives.
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """The reliability of one stage, or of the cascade, for one media type; arrays are [n]."""

    media: MediaKind
    #: Name of the stage, or "cascade".
    stage: str
    truth: Truth
    before: Floats
    after: Floats
    quality_before: Quality
    quality_after: Quality


def reliability_panels(rows: Sequence[EvaluationRow], policy: Policy, calibrated: CalibrationResult) -> list[Panel]:
    """Return a panel for every fitted stage and for the cascade, from the rows that `policy` was calibrated on.

    The panel of a stage compares its raw probabilities on the items that reach it with those through its chosen type of
    curve, fitted on other groups.
    """
    panels: list[Panel] = []
    for fit in calibrated.fits:
        steps = policy.steps(fit.media)
        position = [step.stage for step in steps].index(fit.stage)
        previous_steps = policy.with_steps(fit.media, steps[:position])
        reached = [
            (row, record.logit)
            for row in rows
            if row.metadata.kind == fit.media and not row.metadata.ignore
            if _reaches(row, previous_steps, steps[position])
            if (record := row.record(fit.stage)) is not None and record.logit is not None
        ]
        truth = np.array([row.metadata.label for row, _ in reached], dtype=bool)
        weight = np.array([row.weight for row, _ in reached])
        raw = np.clip([logit for _, logit in reached], -_MAX_LOGIT, _MAX_LOGIT)
        groups = [row.metadata.group for row, _ in reached]
        if len(set(fill_group_names(groups))) < _FOLDS:
            continue
        after = _out_of_fold(raw, truth, weight, groups, fit.curve)
        panels.append(
            Panel(
                fit.media,
                fit.stage,
                truth,
                expit(raw),
                expit(after),
                quality(raw, truth, weight),
                quality(after, truth, weight),
            )
        )
    for kind, (truth, before, after) in calibrated.reliability.items():
        media: MediaKind = "clip" if kind == "clip" else "photo"
        panels.append(Panel(media, "cascade", truth, before, after, calibrated.before[kind], calibrated.after[kind]))
    return panels


def by_source(rows: Sequence[EvaluationRow], panel: Panel) -> Mapping[str, tuple[Quality, Quality]]:
    """Return the quality of the cascade before and after, by source, with hard negatives as sources of their own."""
    kept = [row for row in rows if row.metadata.kind == panel.media and not row.metadata.ignore]
    names = [("hard negatives of " if row.metadata.hard_negative else "") + row.metadata.source for row in kept]
    weight = np.array([row.weight for row in kept])
    before, after = logit(np.clip(panel.before, 1e-13, 1 - 1e-13)), logit(np.clip(panel.after, 1e-13, 1 - 1e-13))
    parts = {name: np.array([each == name for each in names]) for name in sorted(set(names))}
    return {
        name: (quality(before[at], panel.truth[at], weight[at]), quality(after[at], panel.truth[at], weight[at]))
        for name, at in parts.items()
    }


def bins(truth: Truth, probability: Floats, count: int = 10) -> list[Bin]:
    """Return the non-empty bins of equal width."""
    bin_index = np.minimum((probability * count).astype(np.int64), count - 1)
    panels: list[Bin] = []
    for each in range(count):
        if n := int(np.sum(kept := bin_index == each)):
            low, high = wilson(float(truth[kept].sum()), n, 0.95)
            panels.append(Bin(n, float(probability[kept].mean()), float(truth[kept].mean()), low, high))
    return panels


def _reaches(row: EvaluationRow, previous_steps: Policy, step: Step) -> bool:
    replayed = replay(row, previous_steps)
    return not replayed.done and step.applies(replayed.progress.text_probability)


def _out_of_fold(raw: Floats, truth: Truth, weight: Floats, groups: Sequence[str], curve: str) -> Floats:
    after = raw.copy()
    if (fit := FITS.get(curve)) is not None:
        for train, test in folds(groups, truth, _FOLDS):
            after[test] = apply_curve(fit(raw[train], truth[train], weight[train]), raw[test])
    return after
