"""What became of probabilities: a stage's own and the cascade's, before and after calibration, out of fold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.calibration.calibrate import CalibrationResult, Quality, quality
from roadwork_serve.calibration.curves import FITS, apply_curve
from roadwork_serve.cascade.log_odds import sigmoid
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
    """n items whose probabilities lie together: their mean, the share that is true, and that share's 90 % interval."""

    n: int
    told: float
    true: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """One stage of one kind of media, or the cascade (`stage` is then "cascade"). truth, before, after: [n]."""

    media: MediaKind
    stage: str
    truth: Truth
    before: Floats
    after: Floats
    quality_before: Quality
    quality_after: Quality


def reliability_panels(rows: Sequence[EvaluationRow], policy: Policy, calibrated: CalibrationResult) -> list[Panel]:
    """Every stage that was fitted and the cascade as a whole, from the rows that `policy` was calibrated on.

    A stage: its own word on the items that reach it under the policy, as it is, and through a curve of the kind chosen
    for it that was fitted on other groups.
    """
    found: list[Panel] = []
    for fit in calibrated.fits:
        steps = policy.steps(fit.media)
        position = [step.stage for step in steps].index(fit.stage)
        before_it = replace(policy, **{fit.media: steps[:position]})
        reached = [
            (row, look.logit)
            for row in rows
            if row.about.kind == fit.media and row.about.scored
            if _reaches(row, before_it, steps[position])
            if (look := row.look(fit.stage)) is not None and look.logit is not None
        ]
        truth = np.array([row.about.label for row, _ in reached], dtype=bool)
        weight = np.array([row.weight for row, _ in reached])
        raw = np.clip([logit for _, logit in reached], -_MAX_LOGIT, _MAX_LOGIT)
        groups = [row.about.group for row, _ in reached]
        if len(set(fill_group_names(groups))) < _FOLDS:
            continue
        after = _out_of_fold(raw, truth, weight, groups, fit.curve)
        found.append(
            Panel(
                fit.media,
                fit.stage,
                truth,
                _sigmoid(raw),
                _sigmoid(after),
                quality(raw, truth, weight),
                quality(after, truth, weight),
            )
        )
    for kind, (truth, before, after) in calibrated.reliability.items():
        media: MediaKind = "clip" if kind == "clip" else "photo"
        found.append(Panel(media, "cascade", truth, before, after, calibrated.before[kind], calibrated.after[kind]))
    return found


def by_source(rows: Sequence[EvaluationRow], panel: Panel) -> Mapping[str, tuple[Quality, Quality]]:
    """Of the cascade, before and after, by where items come from; hard negatives apart."""
    mine = [row for row in rows if row.about.kind == panel.media and row.about.scored]
    names = [("hard negatives of " if row.about.hard_negative else "") + row.about.source for row in mine]
    weight = np.array([row.weight for row in mine])
    before, after = _logodds(panel.before), _logodds(panel.after)
    parts = {name: np.array([each == name for each in names]) for name in sorted(set(names))}
    return {
        name: (quality(before[at], panel.truth[at], weight[at]), quality(after[at], panel.truth[at], weight[at]))
        for name, at in parts.items()
    }


def bins(truth: Truth, probability: Floats, count: int = 10) -> list[Bin]:
    """Bins of equal width that hold anything."""
    which = np.minimum((probability * count).astype(np.int64), count - 1)
    found: list[Bin] = []
    for each in range(count):
        if n := int(np.sum(mine := which == each)):
            low, high = wilson(float(truth[mine].sum()), n, 0.95)
            found.append(Bin(n, float(probability[mine].mean()), float(truth[mine].mean()), low, high))
    return found


def _reaches(row: EvaluationRow, before_it: Policy, step: Step) -> bool:
    way = replay(row, before_it)
    wanted, likely = step.min_text_probability, way.progress.text_probability
    return not way.done and (wanted is None or likely is None or likely >= wanted)


def _out_of_fold(raw: Floats, truth: Truth, weight: Floats, groups: Sequence[str], curve: str) -> Floats:
    after = raw.copy()
    if (fit := FITS.get(curve)) is not None:
        for train, test in folds(groups, truth, _FOLDS):
            after[test] = apply_curve(fit(raw[train], truth[train], weight[train]), raw[test])
    return after


def _sigmoid(logodds: Floats) -> Floats:
    return np.array([sigmoid(float(each)) for each in logodds])


def _logodds(probability: Floats) -> Floats:
    held = np.clip(probability, 1e-13, 1 - 1e-13)
    return np.log(held) - np.log1p(-held)
