"""Combines the prior and a stage's log-odds into a posterior, with weights from logistic regression."""

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.calibration.logistic import fit_logistic
from roadwork_serve.cascade.curve import Curve
from roadwork_serve.cascade.log_odds import Calibrator

Floats = NDArray[np.float64]


def fit_calibrator(
    prior: Floats, logits: Floats, truth: NDArray[np.bool_], weight: Floats | None = None, curve: Curve | None = None
) -> Calibrator:
    """Fit the labels by logistic regression on the prior and the stage's log-odds; weights are not negative.

    Args:
        prior: log-odds before the stage, shape [n].
        logits: log-odds of the stage, shape [n]; already through the curve, if there is one.
        truth: labels, shape [n].
        weight: of each item, shape [n]; 1 by default.
        curve: the curve to put into the calibration.

    There is a small pull towards scale 1, prior weight 1 and bias 0. A weight that would be negative is fixed at 0 and
    the others are fitted again.

    """
    features = np.stack([logits, prior, np.ones_like(logits)], axis=1)
    rest = np.array([1.0, 1.0, 0.0])
    free = np.array([True, True, True])
    while True:
        weights = np.where(free, rest, 0.0)
        weights[free] = fit_logistic(features[:, free], truth, rest[free], weight)
        negative = np.where(weights[:2] < 0, weights[:2], 0.0)
        if not negative.any():
            scale, prior_weight, bias = (round(float(weight), 4) for weight in weights)
            return Calibrator(scale=scale, prior_weight=prior_weight, bias=bias, curve=curve)
        free[int(np.argmin(negative))] = False
