"""Fits the calibration of every stage: a curve for its logits, and the weights that combine them with the prior.

Stages are fitted in the order of the policy, each on the items that reach it under the policy's exit bands. The rows
must hold a prediction of every stage.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from threadpoolctl import threadpool_limits

from roadwork_serve.calibration.curves import apply_curve, choose_curve, log_losses
from roadwork_serve.calibration.stacker import fit_calibrator
from roadwork_serve.cascade.log_odds import Calibrator
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.cascade.step import Step
from roadwork_serve.evaluation import metrics
from roadwork_serve.evaluation.replay import Replay, replay
from roadwork_serve.evaluation.rows import EvaluationRow
from roadwork_serve.evaluation.splits import fill_group_names, folds
from roadwork_serve.schema import MediaKind

Floats = NDArray[np.float64]
Truth = NDArray[np.bool_]
_FOLDS = 5
_MIN_ITEMS = 20


@dataclass(frozen=True, slots=True)
class Quality:
    """Quality of probabilities."""

    #: Number of items.
    n: int
    #: In nats.
    log_loss: float
    #: Expected calibration error.
    ece: float
    brier: float


@dataclass(frozen=True, slots=True)
class StageFit:
    """The calibration fitted for one stage and media type."""

    media: MediaKind
    stage: str
    #: Name of the curve chosen.
    curve: str
    #: Out-of-fold log loss of each curve, by name.
    log_losses: Mapping[str, float]
    #: True when weighting the prior was better, out of fold, than adding log-odds.
    stacked: bool
    calibration: Calibrator


@dataclass(frozen=True, slots=True)
class CalibrationResult:
    """The outcome of a calibration; mappings are by media type."""

    fits: tuple[StageFit, ...]
    #: Quality of the final posteriors under the policy given.
    before: Mapping[str, Quality]
    #: Quality of the final posteriors, out of fold.
    after: Mapping[str, Quality]
    #: Labels, probabilities before and probabilities after, for reliability diagrams.
    reliability: Mapping[str, tuple[Truth, Floats, Floats]]


def calibrate(
    rows: Sequence[EvaluationRow], base: Policy, version: str, seed: int = 0
) -> tuple[Policy, CalibrationResult]:
    """Return the policy with fitted calibration and without a certificate, and the quality of the fit."""
    fitted, fits = _fit(rows, base, seed)
    before: dict[str, Quality] = {}
    after: dict[str, Quality] = {}
    curves: dict[str, tuple[Truth, Floats, Floats]] = {}
    for kind in ("photo", "clip"):
        kept = [row for row in rows if row.metadata.kind == kind and not row.metadata.ignore]
        groups = [row.metadata.group for row in kept]
        if len(set(fill_group_names(groups))) < max(_FOLDS, _MIN_ITEMS):
            continue
        truth, weight = _truth(kept), _weight(kept)
        out = np.empty(len(kept))
        for train, test in folds(groups, truth, _FOLDS, seed):
            part, _ = _fit([kept[at] for at in train], base, seed)
            out[test] = [replay(kept[at], part).progress.logodds for at in test]
        uncalibrated = np.array([replay(row, base).progress.logodds for row in kept])
        before[kind], after[kind] = quality(uncalibrated, truth, weight), quality(out, truth, weight)
        curves[kind] = truth, expit(uncalibrated), expit(out)
    policy = fitted.model_copy(update={"version": version, "certificate": None})
    return policy, CalibrationResult(tuple(fits), before, after, curves)


def quality(logodds: Floats, truth: Truth, weight: Floats) -> Quality:
    """Compute the quality of log-odds [n]."""
    p = expit(logodds)
    return Quality(
        len(truth),
        float(np.average(log_losses(logodds, truth), weights=weight)),
        metrics.ece(truth, p),
        metrics.brier(truth, p),
    )


def _fit(rows: Sequence[EvaluationRow], base: Policy, seed: int) -> tuple[Policy, list[StageFit]]:
    policy, fits = base, list[StageFit]()
    for kind in ("photo", "clip"):
        kept = [row for row in rows if row.metadata.kind == kind and not row.metadata.ignore]
        done: tuple[Step, ...] = ()
        for step in base.steps(kind) if kept else ():
            with threadpool_limits(1):  # BLAS threads only slow down matrices of three columns
                fit = _fit_step(kept, policy.with_steps(kind, done), kind, step, seed)
            if fit is not None:
                fits.append(fit)
                step = step.model_copy(update={"calibration": fit.calibration})
            done += (step,)
        policy = policy.with_steps(kind, done) if kept else policy
    return policy, fits


def _fit_step(rows: Sequence[EvaluationRow], fitted: Policy, kind: MediaKind, step: Step, seed: int) -> StageFit | None:
    """Fit a step on the items that reach it and on which its stage did not abstain; None when there are too few."""
    replays = [
        replayed for replayed in (replay(row, fitted) for row in rows) if not replayed.done and _applies(replayed, step)
    ]
    truth, weight = _truth([replayed.row for replayed in replays]), _weight([replayed.row for replayed in replays])
    if len(replays) < _MIN_ITEMS or truth.all() or not truth.any():
        return None
    logits = np.clip([_logit(replayed, step) for replayed in replays], -30, 30)
    prior = np.array([replayed.progress.logodds for replayed in replays])
    groups = [replayed.row.metadata.group for replayed in replays]
    choice = choose_curve(logits, truth, weight, groups, seed)
    calibrated = apply_curve(choice.curve, logits)
    stacked = fit_calibrator(prior, calibrated, truth, weight, choice.curve)
    added = Calibrator(curve=choice.curve)
    weighted = _weighting_helps(prior, calibrated, truth, weight, groups, seed)
    return StageFit(kind, step.stage, choice.name, choice.log_loss, weighted, stacked if weighted else added)


def _weighting_helps(
    prior: Floats, calibrated: Floats, truth: Truth, weight: Floats, groups: Sequence[str], seed: int
) -> bool:
    """Return whether weighting the prior beats adding log-odds, out of fold."""
    if len(set(fill_group_names(groups))) < _FOLDS:
        return False
    stacked = np.empty(len(truth))
    for train, test in folds(groups, truth, _FOLDS, seed):
        fitted = fit_calibrator(prior[train], calibrated[train], truth[train], weight[train])
        stacked[test] = fitted.prior_weight * prior[test] + fitted.scale * calibrated[test] + fitted.bias
    losses = [float(np.average(log_losses(each, truth), weights=weight)) for each in (stacked, prior + calibrated)]
    return losses[0] < losses[1]


def _applies(replayed: Replay, step: Step) -> bool:
    record = replayed.row.record(step.stage)
    return record is not None and record.logit is not None and step.applies(replayed.progress.text_probability)


def _logit(replayed: Replay, step: Step) -> float:
    record = replayed.row.record(step.stage)
    return 0.0 if record is None or record.logit is None else record.logit


def _truth(rows: Sequence[EvaluationRow]) -> Truth:
    return np.array([row.metadata.label for row in rows], dtype=bool)


def _weight(rows: Sequence[EvaluationRow]) -> Floats:
    return np.array([row.weight for row in rows], dtype=np.float64)
