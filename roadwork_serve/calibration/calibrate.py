"""What each stage's word is worth: a curve for the stage by itself, and how it adds to the belief before it.

Stage by stage, in the order of the policy, on the items that reach the stage under the bands of the policy. Rows are
those in which every stage spoke.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from roadwork_serve.calibration.curves import apply_curve, choose_curve, log_losses
from roadwork_serve.calibration.stacker import fit_calibrator
from roadwork_serve.cascade.log_odds import Calibrator, sigmoid
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
_LEAST = 20


@dataclass(frozen=True, slots=True)
class Quality:
    """How well probabilities are to be believed: log loss in nats, expected calibration error, Brier score."""

    n: int
    log_loss: float
    ece: float
    brier: float


@dataclass(frozen=True, slots=True)
class StageFit:
    """One stage of one kind of media. curve: its name; tried: log loss of each out of fold.

    stacked: weighing the belief before was better, out of fold, than adding to it.
    """

    media: MediaKind
    stage: str
    curve: str
    tried: Mapping[str, float]
    stacked: bool
    calibrate: Calibrator


@dataclass(frozen=True, slots=True)
class CalibrationResult:
    """before, after: of the posteriors on leaving, by kind; the latter out of fold, with all fitted on the other folds.

    reliability: truth and probability before and after, to draw.
    """

    fits: tuple[StageFit, ...]
    before: Mapping[str, Quality]
    after: Mapping[str, Quality]
    reliability: Mapping[str, tuple[Truth, Floats, Floats]]


def calibrate(
    rows: Sequence[EvaluationRow], base: Policy, version: str, seed: int = 0
) -> tuple[Policy, CalibrationResult]:
    """The policy with its stages' calibrators fitted, bands as they are, and how good that is. It promises nothing."""
    fitted, fits = _fit(rows, base, seed)
    before: dict[str, Quality] = {}
    after: dict[str, Quality] = {}
    drawn: dict[str, tuple[Truth, Floats, Floats]] = {}
    for kind in ("photo", "clip"):
        mine = [row for row in rows if row.about.kind == kind and row.about.scored]
        groups = [row.about.group for row in mine]
        if len(set(fill_group_names(groups))) < max(_FOLDS, _LEAST):
            continue
        truth, weight = _truth(mine), _weight(mine)
        out = np.empty(len(mine))
        for train, test in folds(groups, truth, _FOLDS, seed):
            part, _ = _fit([mine[at] for at in train], base, seed)
            out[test] = [replay(mine[at], part).progress.logodds for at in test]
        now = np.array([replay(row, base).progress.logodds for row in mine])
        before[kind], after[kind] = quality(now, truth, weight), quality(out, truth, weight)
        drawn[kind] = truth, _sigmoid(now), _sigmoid(out)
    return replace(fitted, version=version, certificate=None), CalibrationResult(tuple(fits), before, after, drawn)


def quality(logodds: Floats, truth: Truth, weight: Floats) -> Quality:
    """Of log-odds [n]."""
    p = _sigmoid(logodds)
    return Quality(
        len(truth),
        float(np.average(log_losses(logodds, truth), weights=weight)),
        metrics.ece(truth, p),
        metrics.brier(truth, p),
    )


def _fit(rows: Sequence[EvaluationRow], base: Policy, seed: int) -> tuple[Policy, list[StageFit]]:
    policy, fits = base, list[StageFit]()
    for kind in ("photo", "clip"):
        mine = [row for row in rows if row.about.kind == kind and row.about.scored]
        done: tuple[Step, ...] = ()
        for step in base.steps(kind) if mine else ():
            with threadpool_limits(1):  # on matrices of three columns threads of BLAS only wait for each other
                fit = _fit_step(mine, _with(policy, kind, done), kind, step, seed)
            if fit is not None:
                fits.append(fit)
                step = replace(step, calibrate=fit.calibrate)
            done += (step,)
        policy = _with(policy, kind, done) if mine else policy
    return policy, fits


def _fit_step(rows: Sequence[EvaluationRow], so_far: Policy, kind: MediaKind, step: Step, seed: int) -> StageFit | None:
    """Fitted to the items that reach the step and on which its stage spoke; None where they are too few."""
    ways = [way for way in (replay(row, so_far) for row in rows) if not way.done and _spoke(way, step)]
    truth, weight = _truth([way.row for way in ways]), _weight([way.row for way in ways])
    if len(ways) < _LEAST or truth.all() or not truth.any():
        return None
    said = np.clip([_logit(way, step) for way in ways], -30, 30)
    prior = np.array([way.progress.logodds for way in ways])
    groups = [way.row.about.group for way in ways]
    choice = choose_curve(said, truth, weight, groups, seed)
    word = apply_curve(choice.curve, said)
    stacked = fit_calibrator(prior, word, truth, weight, choice.curve)
    summed = Calibrator(curve=choice.curve)
    better = _better(prior, word, truth, weight, groups, seed)
    return StageFit(kind, step.stage, choice.name, choice.log_loss, better, stacked if better else summed)


def _better(prior: Floats, word: Floats, truth: Truth, weight: Floats, groups: Sequence[str], seed: int) -> bool:
    """Whether weighing beats adding, on items that the weights were not fitted to."""
    if len(set(fill_group_names(groups))) < _FOLDS:
        return False
    stacked = np.empty(len(truth))
    for train, test in folds(groups, truth, _FOLDS, seed):
        fitted = fit_calibrator(prior[train], word[train], truth[train], weight[train])
        stacked[test] = fitted.prior_weight * prior[test] + fitted.scale * word[test] + fitted.bias
    losses = [float(np.average(log_losses(each, truth), weights=weight)) for each in (stacked, prior + word)]
    return losses[0] < losses[1]


def _spoke(way: Replay, step: Step) -> bool:
    look, wanted, likely = way.row.look(step.stage), step.min_text_probability, way.progress.text_probability
    return look is not None and look.logit is not None and (wanted is None or likely is None or likely >= wanted)


def _logit(way: Replay, step: Step) -> float:
    look = way.row.look(step.stage)
    return 0.0 if look is None or look.logit is None else look.logit


def _with(policy: Policy, kind: MediaKind, steps: tuple[Step, ...]) -> Policy:
    return replace(policy, photo=steps) if kind == "photo" else replace(policy, clip=steps)


def _truth(rows: Sequence[EvaluationRow]) -> Truth:
    return np.array([row.about.label for row in rows], dtype=bool)


def _weight(rows: Sequence[EvaluationRow]) -> Floats:
    return np.array([row.weight for row in rows], dtype=np.float64)


def _sigmoid(logodds: Floats) -> Floats:
    return np.array([sigmoid(float(each)) for each in logodds])
