"""Accuracy against cost: what exit bands can reach, and where policies and single stages stand."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.calibration.threshold_path import threshold_path
from roadwork_serve.calibration.trajectories import Price, Trajectories, flops_cost, trajectories
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.evaluation.rows import EvaluationRow
from roadwork_serve.schema import MediaKind

Floats = NDArray[np.float64]
_ALONE: dict[MediaKind, str] = {"photo": "vlm", "clip": "video"}


@dataclass(frozen=True, slots=True)
class ParetoPoint:
    """cost: of a mean item."""

    name: str
    cost: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class ParetoFront:
    """line: bands of these rows from the least eager, with no promise. places: policies and stages by name."""

    media: MediaKind
    line: tuple[ParetoPoint, ...]
    places: tuple[ParetoPoint, ...]


def pareto_fronts(
    rows: Sequence[EvaluationRow], today: Policy, tuned: Policy, price: Price = flops_cost
) -> list[ParetoFront]:
    """Of each kind of media that has rows in which every stage of today's policy spoke.

    `vlm on all` and `video on all` go by the stage's own word, from a probability of 0.5 up. A tuned policy asks the
    same stages as today's.
    """
    found: list[ParetoFront] = []
    for kind in ("photo", "clip"):
        mine = [row for row in rows if row.about.kind == kind and row.about.scored]
        if mine:
            weight = np.array([row.weight for row in mine])
            whole = trajectories(mine, today, kind, price)
            track = tuple(_place("", whole, *bands, weight) for bands in (whole.never, *threshold_path(whole)))
            places = [
                _place("all stages", whole, *whole.never, weight),
                _place("today", whole, *_bands(today, kind), weight),
                _stage_one(whole, weight),
                *_alone(mine, kind, price, weight),
            ]
            if tuned is not today:
                places.insert(2, _place("tuned", trajectories(mine, tuned, kind, price), *_bands(tuned, kind), weight))
            found.append(ParetoFront(kind, track, tuple(places)))
    return found


def _bands(policy: Policy, kind: MediaKind) -> tuple[Floats, Floats]:
    steps = policy.steps(kind)
    return np.array([step.low for step in steps]), np.array([step.high for step in steps])


def _place(name: str, whole: Trajectories, low: Floats, high: Floats, weight: Floats) -> ParetoPoint:
    said, cost, _ = whole.cut(low, high)
    return ParetoPoint(
        name, float(np.average(cost, weights=weight)), float(np.average(said == whole.truth, weights=weight))
    )


def _stage_one(whole: Trajectories, weight: Floats) -> ParetoPoint:
    said = whole.posterior[:, 0] >= whole.decision_threshold
    right = float(np.average(said == whole.truth, weights=weight))
    return ParetoPoint("stage 1 alone", float(np.average(whole.cost[:, 0], weights=weight)), right)


def _alone(rows: Sequence[EvaluationRow], kind: MediaKind, price: Price, weight: Floats) -> list[ParetoPoint]:
    stage = _ALONE[kind]
    looks = [row.look(stage) for row in rows]
    if any(look is None or look.logit is None for look in looks):
        return []
    said = np.array([look is not None and look.logit is not None and look.logit >= 0 for look in looks])
    truth = np.array([row.about.label for row in rows])
    cost = float(np.average([price(row, stage) for row in rows], weights=weight))
    return [ParetoPoint(f"{stage} on all", cost, float(np.average(said == truth, weights=weight)))]
