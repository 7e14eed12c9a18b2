"""Ridge logistic regression by Newton's method."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

Floats = NDArray[np.float64]
_MAX_STEPS = 100
_TOLERANCE = 1e-9


def fit_logistic(
    features: Floats,
    truth: NDArray[np.bool_],
    anchor: Floats,
    weight: Floats | None = None,
    offset: Floats | float = 0.0,
    ridge: float = 1.0,
) -> Floats:
    """Return the coefficients [k] that minimise the log loss plus half the squared distance to `anchor` times `ridge`.

    Args:
        features: shape [n, k], without an implicit intercept.
        truth: shape [n].
        anchor: shape [k], the coefficients without any data.
        weight: of each item, shape [n]; 1 by default.
        offset: log-odds added to each item's, shape [n] or a number.
        ridge: strength of the pull towards the anchor, in items.

    """
    target = truth.astype(np.float64)
    weight = np.ones_like(target) if weight is None else weight

    def loss(coefficients: Floats) -> float:
        logodds = features @ coefficients + offset
        pull = coefficients - anchor
        return float(np.sum(weight * (np.logaddexp(0, logodds) - target * logodds)) + 0.5 * ridge * pull @ pull)

    coefficients = anchor.astype(np.float64)
    for _ in range(_MAX_STEPS):
        p = expit(features @ coefficients + offset)
        gradient = features.T @ (weight * (p - target)) + ridge * (coefficients - anchor)
        hessian = (features * (weight * p * (1 - p))[:, None]).T @ features + ridge * np.eye(len(anchor))
        step = np.linalg.solve(hessian, gradient)
        share, before = 1.0, loss(coefficients)
        while loss(coefficients - share * step) > before and share > 1e-6:  # halve steps that overshoot
            share /= 2
        coefficients = coefficients - share * step
        if np.max(np.abs(share * step)) < _TOLERANCE:
            break
    return coefficients
