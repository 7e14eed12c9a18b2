"""A path of exit bands from no early exits to always exiting, each narrower than the one before.

An exit is worth its saving divided by its risk. The risk of exiting a stage at some distance from the decision
threshold is fitted, per stage and side, by logistic regression; along the path the accepted risk per unit of saving
grows. If savings and risks are as estimated, no other bands save more at the same risk (the condition of Lagrange).
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from roadwork_serve.calibration.logistic import fit_logistic
from roadwork_serve.calibration.trajectories import Trajectories
from roadwork_serve.cascade.log_odds import clamp, sigmoid
from roadwork_serve.cascade.log_odds import logit as logit_of
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.schema import MediaKind

Floats = NDArray[np.float64]
Bands = tuple[Floats, Floats]
STEPS = 90
_DIGITS = 6
_MIN_SLOPE = 0.05  # errors never become likelier with the distance from the threshold
_RISKS = (-14.0, 4.0)  # log-odds of the risk accepted for an exit that saves all the cost


def threshold_path(rows: Trajectories) -> list[Bands]:
    """Return low [m] and high [m] of each band pair, from the widest; pairs that change nothing are left out."""
    m = rows.posterior.shape[1]
    threshold = logit_of(rows.decision_threshold)
    logodds = logit(np.clip(rows.posterior, 1e-13, 1 - 1e-13))
    full_cost = float(np.mean(rows.cost[:, -1])) or 1.0
    fits: list[tuple[int, int, float, float, float]] = []  # step, side, intercept and slope of the risk, saving
    for step in range(m - 1):
        for side in (-1, 1):
            side_rows = rows.spoke[:, step] & (side * (logodds[:, step] - threshold) > 0)
            if not side_rows.any():
                continue
            errors = rows.early_exit_errors(np.where(side_rows, side > 0, rows.truth))[side_rows]
            intercept, slope = _risk(np.abs(logodds[side_rows, step] - threshold), errors)
            saving = float(np.mean(rows.cost[side_rows, -1] - rows.cost[side_rows, step])) / full_cost
            if saving > 0:
                fits.append((step, side, intercept, slope, saving))
    bands: list[Bands] = []
    previous: bytes | None = None
    for risk in np.linspace(*_RISKS, STEPS):
        low, high = np.zeros(m), np.ones(m)
        for step, side, intercept, slope, saving in fits:
            risk_logit = float(logit(min(1 - 1e-9, expit(risk) * saving)))
            distance = (intercept - risk_logit) / slope
            edge = sigmoid(clamp(threshold + side * max(0.0, distance)))
            if side < 0:
                low[step] = min(math.floor(edge * 10**_DIGITS) / 10**_DIGITS, rows.decision_threshold)
            else:
                high[step] = max(math.ceil(edge * 10**_DIGITS) / 10**_DIGITS, rows.decision_threshold)
        exit_steps = rows.exit_steps(low, high).tobytes()
        if exit_steps != previous:
            bands.append((low, high))
        previous = exit_steps
    return bands


def with_bands(policy: Policy, kind: MediaKind, low: Sequence[float], high: Sequence[float]) -> Policy:
    """Return the policy with these exit bands for one media type. Every item exits at its last stage."""
    steps = policy.steps(kind)
    edges = [*zip(low[:-1], high[:-1], strict=True), (policy.decision_threshold, policy.decision_threshold)]
    new = [step.with_band(float(a), float(b)) for step, (a, b) in zip(steps, edges, strict=True)]
    return policy.with_steps(kind, new)


def _risk(distance: Floats, errors: NDArray[np.bool_]) -> tuple[float, float]:
    """Return intercept and slope of the log-odds of an early-exit error: intercept - slope x distance.

    Ridge logistic regression towards 0 and 1, with a slope of at least _MIN_SLOPE.
    """
    x = np.stack([np.ones_like(distance), -distance], axis=1)
    intercept, slope = fit_logistic(x, errors, np.array([0.0, 1.0]))
    if slope < _MIN_SLOPE:
        slope = _MIN_SLOPE
        (intercept,) = fit_logistic(x[:, :1], errors, np.array([0.0]), offset=slope * x[:, 1])
    return float(intercept), float(slope)
