"""Accuracy against cost: the front that exit bands reach, and the points of policies and single stages."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.calibration.threshold_path import threshold_path
from roadwork_serve.calibration.trajectories import CostFunction, Trajectories, flops_cost, trajectories
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.evaluation.rows import EvaluationRow
from roadwork_serve.schema import MediaKind

Floats = NDArray[np.float64]
_ALONE: dict[MediaKind, str] = {"photo": "vlm", "clip": "video"}


@dataclass(frozen=True, slots=True)
class ParetoPoint:
    """Accuracy and cost of a policy or stage."""

    name: str
    #: Mean cost per item.
    cost: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class ParetoFront:
    """The Pareto front of one media type."""

    media: MediaKind
    #: Exit bands fitted to these rows, from the widest; without any guarantee.
    path: tuple[ParetoPoint, ...]
    #: Named policies and stages.
    points: tuple[ParetoPoint, ...]


def pareto_fronts(
    rows: Sequence[EvaluationRow], today: Policy, tuned: Policy, cost_function: CostFunction = flops_cost
) -> list[ParetoFront]:
    """Return the front of each media type in the rows, which must hold every stage of today's policy.

    `vlm on all` and `video on all` use the stage's raw probability at 0.5. A tuned policy must have the same stages as
    today's.
    """
    found: list[ParetoFront] = []
    for kind in ("photo", "clip"):
        kept = [row for row in rows if row.metadata.kind == kind and not row.metadata.ignore]
        if kept:
            weight = np.array([row.weight for row in kept])
            full = trajectories(kept, today, kind, cost_function)
            path = tuple(_point("", full, *bands, weight) for bands in (full.no_exit_bands, *threshold_path(full)))
            points = [
                _point("all stages", full, *full.no_exit_bands, weight),
                _point("today", full, *_bands(today, kind), weight),
                _stage_one(full, weight),
                *_alone(kept, kind, cost_function, weight),
            ]
            if tuned is not today:
                points.insert(
                    2, _point("tuned", trajectories(kept, tuned, kind, cost_function), *_bands(tuned, kind), weight)
                )
            found.append(ParetoFront(kind, path, tuple(points)))
    return found


def _bands(policy: Policy, kind: MediaKind) -> tuple[Floats, Floats]:
    steps = policy.steps(kind)
    return np.array([step.low for step in steps]), np.array([step.high for step in steps])


def _point(name: str, full: Trajectories, low: Floats, high: Floats, weight: Floats) -> ParetoPoint:
    predicted, cost, _ = full.apply_bands(low, high)
    return ParetoPoint(
        name, float(np.average(cost, weights=weight)), float(np.average(predicted == full.truth, weights=weight))
    )


def _stage_one(full: Trajectories, weight: Floats) -> ParetoPoint:
    predicted = full.posterior[:, 0] >= full.decision_threshold
    right = float(np.average(predicted == full.truth, weights=weight))
    return ParetoPoint("stage 1 alone", float(np.average(full.cost[:, 0], weights=weight)), right)


def _alone(
    rows: Sequence[EvaluationRow], kind: MediaKind, cost_function: CostFunction, weight: Floats
) -> list[ParetoPoint]:
    stage = _ALONE[kind]
    records = [row.record(stage) for row in rows]
    if any(record is None or record.logit is None for record in records):
        return []
    predicted = np.array([record is not None and record.logit is not None and record.logit >= 0 for record in records])
    truth = np.array([row.metadata.label for row in rows])
    cost = float(np.average([cost_function(row, stage) for row in rows], weights=weight))
    return [ParetoPoint(f"{stage} on all", cost, float(np.average(predicted == truth, weights=weight)))]
