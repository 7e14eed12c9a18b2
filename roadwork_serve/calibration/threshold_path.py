"""Exit bands from never leaving early to always: one line of them, each more eager than the one before.

An exit is worth its saving over its risk. The risk of leaving a stage at some distance from the decision is fitted, per
stage and side, by logistic regression; along the line the risk that is taken per unit of saving grows. Where savings
and risks are what they seem, no other bands save more at the same risk (the condition of Lagrange).
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.calibration.trajectories import Trajectories
from roadwork_serve.cascade.log_odds import MAX_LOGODDS, sigmoid
from roadwork_serve.cascade.log_odds import logit as logit_of
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.schema import MediaKind

Floats = NDArray[np.float64]
Bands = tuple[Floats, Floats]
STEPS = 90
_DIGITS = 6
_RISKS = (-14.0, 4.0)  # log-odds of the risk taken where an exit saves all that can be saved


def threshold_path(design: Trajectories) -> list[Bands]:
    """Low [m] and high [m] of each, from the least eager; bands that change nothing on the design are left out."""
    m = design.posterior.shape[1]
    decide = logit_of(design.decision_threshold)
    logodds = np.log(np.clip(design.posterior, 1e-13, 1)) - np.log(np.clip(1 - design.posterior, 1e-13, 1))
    full = float(np.mean(design.cost[:, -1])) or 1.0
    fits: list[tuple[int, int, float, float, float]] = []  # step, side, intercept and slope of the risk, saving
    for step in range(m - 1):
        for side in (-1, 1):
            mine = design.spoke[:, step] & (side * (logodds[:, step] - decide) > 0)
            if not mine.any():
                continue
            wrong = design.losses(np.where(mine, side > 0, design.truth))[mine]
            intercept, slope = _risk(np.abs(logodds[mine, step] - decide), wrong)
            saving = float(np.mean(design.cost[mine, -1] - design.cost[mine, step])) / full
            if saving > 0:
                fits.append((step, side, intercept, slope, saving))
    bands: list[Bands] = []
    seen: bytes | None = None
    for risk in np.linspace(*_RISKS, STEPS):
        low, high = np.zeros(m), np.ones(m)
        for step, side, intercept, slope, saving in fits:
            taken = _log_odds(min(1 - 1e-9, sigmoid(float(risk)) * saving))
            distance = (intercept - taken) / slope
            edge = sigmoid(max(-MAX_LOGODDS, min(MAX_LOGODDS, decide + side * max(0.0, distance))))
            if side < 0:
                low[step] = min(math.floor(edge * 10**_DIGITS) / 10**_DIGITS, design.decision_threshold)
            else:
                high[step] = max(math.ceil(edge * 10**_DIGITS) / 10**_DIGITS, design.decision_threshold)
        now = design.cut(low, high)[2].tobytes()
        if now != seen:
            bands.append((low, high))
        seen = now
    return bands


def with_bands(policy: Policy, kind: MediaKind, low: Sequence[float], high: Sequence[float]) -> Policy:
    """The policy with these exit bands for one kind of media. Its last stage ends everything."""
    steps = policy.steps(kind)
    edges = [*zip(low[:-1], high[:-1], strict=True), (policy.decision_threshold, policy.decision_threshold)]
    new = tuple(replace(s, low=float(a), high=float(b)) for s, (a, b) in zip(steps, edges, strict=True))
    return replace(policy, photo=new) if kind == "photo" else replace(policy, clip=new)


def _risk(distance: Floats, wrong: NDArray[np.bool_], rounds: int = 50) -> tuple[float, float]:
    """Log-odds of a loss as intercept - slope x distance, by ridge regression towards 0 and 1; slope above 0."""
    x = np.stack([np.ones_like(distance), -distance], axis=1)
    rest, weights = np.array([0.0, 1.0]), np.array([0.0, 1.0])
    for _ in range(rounds):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -40, 40)))
        slope = x.T @ (p - wrong) + (weights - rest)
        curve = (x * (p * (1 - p))[:, None]).T @ x + np.eye(2)
        move = np.linalg.solve(curve, slope)
        weights = weights - move
        weights[1] = max(weights[1], 0.05)
        if np.max(np.abs(move)) < 1e-9:
            break
    return float(weights[0]), float(weights[1])


def _log_odds(p: float) -> float:
    return math.log(p) - math.log1p(-p)
