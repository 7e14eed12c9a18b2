"""Several opinions to one posterior: the belief so far and the stage's word, weighed by logistic regression."""

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.cascade.curve import Curve
from roadwork_serve.cascade.log_odds import Calibrator

_RIDGE = 1.0  # as if one item spoke for scale 1, carry 1 and bias 0

Floats = NDArray[np.float64]


def fit_calibrator(
    prior: Floats, said: Floats, truth: NDArray[np.bool_], weight: Floats | None = None, curve: Curve | None = None
) -> Calibrator:
    """Logistic regression of the truth on the belief so far and the stage's logit, scale and carry not negative.

    prior, said: log-odds of shape [n], the latter through the curve already, if there is one, which the calibrator is
    to have. weight: of each item, 1 by default. Newton's method with a small pull towards scale 1, carry 1, bias 0; a
    weight that would turn negative is held at 0 and the others are fitted again.
    """
    features = np.stack([said, prior, np.ones_like(said)], axis=1)
    weight = np.ones_like(said) if weight is None else weight
    rest = np.array([1.0, 1.0, 0.0])
    free = np.array([True, True, True])
    while True:
        weights = np.where(free, rest, 0.0)
        weights[free] = _newton(features[:, free], truth.astype(np.float64), weight, rest[free])
        negative = np.where(weights[:2] < 0, weights[:2], 0.0)
        if not negative.any():
            scale, prior_weight, bias = (round(float(weight), 4) for weight in weights)
            return Calibrator(scale, prior_weight, bias, curve)
        free[int(np.argmin(negative))] = False


def _newton(features: Floats, truth: Floats, weight: Floats, rest: Floats, steps: int = 100) -> Floats:
    """Minimise the log loss plus half the squared distance to `rest`, halving steps that overshoot."""

    def loss(weights: Floats) -> float:
        logodds = features @ weights
        pull = weights - rest
        return float(np.sum(weight * (np.logaddexp(0, logodds) - truth * logodds)) + 0.5 * _RIDGE * pull @ pull)

    weights = rest.copy()
    for _ in range(steps):
        p = 0.5 * (1 + np.tanh(0.5 * features @ weights))
        slope = features.T @ (weight * (p - truth)) + _RIDGE * (weights - rest)
        curve = (features * (weight * p * (1 - p))[:, None]).T @ features + _RIDGE * np.eye(len(rest))
        move = np.linalg.solve(curve, slope)
        share, before = 1.0, loss(weights)
        while loss(weights - share * move) > before and share > 1e-6:
            share /= 2
        weights = weights - share * move
        if np.max(np.abs(share * move)) < 1e-9:
            break
    return weights
