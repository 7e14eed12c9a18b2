"""Calibration curves, fitted: temperature, Platt, beta, isotonic; and which of them to take."""

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

_PULL = 1.0  # as strong as one item: towards the curve that changes nothing, where all items are of one class
_EDGE = 1e-4  # isotonic regression promises nothing surer than this, and half an item of its block
_FOLDS = 5
_LEAST = 20  # items, below which nothing is chosen and the stage is believed as it is


def temperature(logits: Floats, truth: Truth, weight: Floats) -> Curve:
    """One number that the logit is multiplied with (Guo et al., 2017)."""
    (slope,) = _fitted(lambda w: w[0] * logits, np.array([1.0]), truth, weight, [(0, 100)])
    return Linear(slope)


def platt(logits: Floats, truth: Truth, weight: Floats) -> Curve:
    """A line (Platt, 1999), which must not fall."""
    slope, offset = _fitted(
        lambda w: w[0] * logits + w[1], np.array([1.0, 0.0]), truth, weight, [(0, 100), (-100, 100)]
    )
    return Linear(slope, offset)


def beta(logits: Floats, truth: Truth, weight: Floats) -> Curve:
    """Beta calibration (Kull et al., 2017): logistic regression on ln p and -ln(1 - p), neither weight negative."""
    left, right = -np.logaddexp(0, -logits), np.logaddexp(0, logits)
    bounds = [(0, 100), (0, 100), (-100, 100)]
    a, b, c = _fitted(lambda w: w[0] * left + w[1] * right + w[2], np.array([1.0, 1.0, 0.0]), truth, weight, bounds)
    return Beta(a, b, c)


def isotonic(logits: Floats, truth: Truth, weight: Floats) -> Curve:
    """The best curve that does not fall; a block of items is never surer than half an item of it allows."""
    model = IsotonicRegression(out_of_bounds="clip").fit(logits, truth.astype(np.float64), sample_weight=weight)
    at, to = np.asarray(model.X_thresholds_), np.asarray(model.y_thresholds_)
    fitted = model.predict(logits)
    held = np.array([weight[np.isclose(fitted, y)].sum() for y in to])
    sure = np.maximum(_EDGE, 0.5 / np.maximum(held, 1))
    clipped = np.maximum.accumulate(np.clip(to, sure, 1 - sure))
    x, first = np.unique(np.round(at, 4), return_index=True)
    y = np.log(clipped[first]) - np.log1p(-clipped[first])
    keep = np.unique(np.linspace(0, len(x) - 1, min(len(x), MAX_KNOTS)).astype(int))
    return Isotonic(tuple(float(v) for v in x[keep]), tuple(round(float(v), 4) for v in y[keep]))


FITS: Mapping[str, Fit] = {
    "temperature": temperature,
    "platt": platt,
    "beta": beta,
    "isotonic": isotonic,
}  # simplest first


@dataclass(frozen=True, slots=True)
class CurveChoice:
    """log_loss: by name, of items that the curve was not fitted to; `as it is` for none. error: its standard error.

    name: of the curve chosen, the simplest within one standard error of the best.
    """

    name: str
    curve: Curve | None
    log_loss: Mapping[str, float]
    error: float


def choose_curve(logits: Floats, truth: Truth, weight: Floats, groups: Sequence[str], seed: int = 0) -> CurveChoice:
    """The curve for a stage's logits [n], by grouped cross-validation."""
    ways: dict[str, Fit | None] = {"as it is": None, **FITS}
    losses = {name: np.full(len(logits), math.nan) for name in ways}
    there = len(set(groups)) if all(groups) else len(logits)
    if len(logits) < _LEAST or truth.all() or not truth.any() or there < _FOLDS:
        return CurveChoice("as it is", None, {}, math.nan)
    for train, test in folds(groups, truth, _FOLDS, seed):
        for name, fit in ways.items():
            curve = None if fit is None else fit(logits[train], truth[train], weight[train])
            losses[name][test] = log_losses(apply_curve(curve, logits[test]), truth[test])
    means = {name: float(np.average(loss, weights=weight)) for name, loss in losses.items()}
    best = min(means, key=means.__getitem__)
    error = float(np.std(losses[best]) / math.sqrt(len(logits)))
    name = next(name for name in ways if means[name] <= means[best] + error)
    fit = ways[name]
    return CurveChoice(name, None if fit is None else _rounded(fit(logits, truth, weight)), means, error)


def apply_curve(curve: Curve | None, logits: Floats) -> Floats:
    """Calibrated log-odds [n]."""
    return logits if curve is None else np.array([curve(float(each)) for each in logits])


def log_losses(logodds: Floats, truth: Truth) -> Floats:
    """Of each item, in nats."""
    return np.logaddexp(0, np.where(truth, -logodds, logodds))


def _fitted(
    model: Callable[[Floats], Floats], rest: Floats, truth: Truth, weight: Floats, bounds: Sequence[tuple[float, float]]
) -> list[float]:
    """Weights of least log loss, held a little towards those that change nothing."""

    def loss(weights: Floats) -> float:
        return float(np.sum(weight * log_losses(model(weights), truth)) + 0.5 * _PULL * np.sum((weights - rest) ** 2))

    with warnings.catch_warnings(action="ignore"):  # of line searches that end early
        found = minimize(loss, rest, method="L-BFGS-B", bounds=bounds)
    return [float(each) for each in found.x]


def _rounded(curve: Curve) -> Curve:
    match curve:
        case Linear():
            return Linear(round(curve.slope, 4), round(curve.offset, 4))
        case Beta():
            return Beta(round(curve.a, 4), round(curve.b, 4), round(curve.c, 4))
        case Isotonic():
            return curve
