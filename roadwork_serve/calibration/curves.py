"""Fits calibration curves (temperature, Platt, beta, isotonic) and chooses among them."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.isotonic import IsotonicRegression

from roadwork_serve.cascade.curve import MAX_KNOTS, Beta, Curve, Isotonic, Linear
from roadwork_serve.evaluation.splits import folds

Floats = NDArray[np.float64]
Truth = NDArray[np.bool_]
Fit = Callable[[Floats, Truth, Floats], Curve]

_RIDGE = 1.0  # as strong as one item, towards the identity; needed when all items are of one class
_MIN_PROBABILITY = 1e-4  # isotonic probabilities stay this far from 0 and 1, and at least half an item of their block
_FOLDS = 5
_MIN_ITEMS = 20  # items below which the logits are left uncalibrated


def temperature(logits: Floats, truth: Truth, weight: Floats) -> Curve:
    """Fit temperature scaling: a factor on the logit (Guo et al., 2017)."""
    (slope,) = _fitted(lambda w: w[0] * logits, np.array([1.0]), truth, weight, [(0, 100)])
    return Linear(slope=slope)


def platt(logits: Floats, truth: Truth, weight: Floats) -> Curve:
    """Fit Platt scaling: a non-decreasing line (Platt, 1999)."""
    slope, offset = _fitted(
        lambda w: w[0] * logits + w[1], np.array([1.0, 0.0]), truth, weight, [(0, 100), (-100, 100)]
    )
    return Linear(slope=slope, offset=offset)


def beta(logits: Floats, truth: Truth, weight: Floats) -> Curve:
    """Fit beta calibration (Kull et al., 2017): logistic regression on ln p and -ln(1 - p), weights not negative."""
    left, right = -np.logaddexp(0, -logits), np.logaddexp(0, logits)
    bounds = [(0, 100), (0, 100), (-100, 100)]
    a, b, c = _fitted(lambda w: w[0] * left + w[1] * right + w[2], np.array([1.0, 1.0, 0.0]), truth, weight, bounds)
    return Beta(a=a, b=b, c=c)


def isotonic(logits: Floats, truth: Truth, weight: Floats) -> Curve:
    """Fit isotonic regression; the probability of a block stays at least half an item from 0 and 1."""
    model = IsotonicRegression(out_of_bounds="clip").fit(logits, truth.astype(np.float64), sample_weight=weight)
    at, to = np.asarray(model.X_thresholds_), np.asarray(model.y_thresholds_)
    fitted = model.predict(logits)
    items = np.array([weight[np.isclose(fitted, y)].sum() for y in to])
    floor = np.maximum(_MIN_PROBABILITY, 0.5 / np.maximum(items, 1))
    clipped = np.maximum.accumulate(np.clip(to, floor, 1 - floor))
    x, first = np.unique(np.round(at, 4), return_index=True)
    y = np.log(clipped[first]) - np.log1p(-clipped[first])
    chosen = np.unique(np.linspace(0, len(x) - 1, min(len(x), MAX_KNOTS)).astype(int))
    return Isotonic(x=tuple(float(v) for v in x[chosen]), y=tuple(round(float(v), 4) for v in y[chosen]))


FITS: Mapping[str, Fit] = {
    "temperature": temperature,
    "platt": platt,
    "beta": beta,
    "isotonic": isotonic,
}  # simplest first


@dataclass(frozen=True, slots=True)
class CurveChoice:
    """The curve chosen by cross-validation: the simplest within one standard error of the best."""

    name: str
    #: None for no curve.
    curve: Curve | None
    #: Out-of-fold log loss of each curve, by name.
    log_loss: Mapping[str, float]
    #: Standard error of the best log loss.
    standard_error: float


def choose_curve(logits: Floats, truth: Truth, weight: Floats, groups: Sequence[str], seed: int = 0) -> CurveChoice:
    """Choose the curve for a stage's logits [n] by grouped cross-validation."""
    candidates: dict[str, Fit | None] = {"none": None, **FITS}
    losses = {name: np.full(len(logits), math.nan) for name in candidates}
    group_count = len(set(groups)) if all(groups) else len(logits)
    if len(logits) < _MIN_ITEMS or truth.all() or not truth.any() or group_count < _FOLDS:
        return CurveChoice("none", None, {}, math.nan)
    for train, test in folds(groups, truth, _FOLDS, seed):
        for name, fit in candidates.items():
            curve = None if fit is None else fit(logits[train], truth[train], weight[train])
            losses[name][test] = log_losses(apply_curve(curve, logits[test]), truth[test])
    means = {name: float(np.average(loss, weights=weight)) for name, loss in losses.items()}
    best = min(means, key=means.__getitem__)
    standard_error = float(np.std(losses[best]) / math.sqrt(len(logits)))
    name = next(name for name in candidates if means[name] <= means[best] + standard_error)
    fit = candidates[name]
    return CurveChoice(name, None if fit is None else _rounded(fit(logits, truth, weight)), means, standard_error)


def apply_curve(curve: Curve | None, logits: Floats) -> Floats:
    """Return calibrated log-odds [n]."""
    return logits if curve is None else np.array([curve(float(each)) for each in logits])


def log_losses(logodds: Floats, truth: Truth) -> Floats:
    """Return the log loss of each item, in nats."""
    return np.logaddexp(0, np.where(truth, -logodds, logodds))


def _fitted(
    model: Callable[[Floats], Floats], rest: Floats, truth: Truth, weight: Floats, bounds: Sequence[tuple[float, float]]
) -> list[float]:
    """Return the weights of least log loss, with a small pull towards the identity."""

    def loss(weights: Floats) -> float:
        return float(np.sum(weight * log_losses(model(weights), truth)) + 0.5 * _RIDGE * np.sum((weights - rest) ** 2))

    with warnings.catch_warnings(action="ignore"):  # about line searches that end early
        found = minimize(loss, rest, method="L-BFGS-B", bounds=bounds)
    return [float(each) for each in found.x]


def _rounded(curve: Curve) -> Curve:
    match curve:
        case Linear():
            return Linear(slope=round(curve.slope, 4), offset=round(curve.offset, 4))
        case Beta():
            return Beta(a=round(curve.a, 4), b=round(curve.b, 4), c=round(curve.c, 4))
        case Isotonic():
            return curve
