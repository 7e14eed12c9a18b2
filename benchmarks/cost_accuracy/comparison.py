"""Where ways of judging stand: accuracy, compute, and what sets them apart."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.cost_accuracy.frugal import Frugal
from benchmarks.cost_accuracy.ways import Bools, Judged, Way, alone, by_hand, tuned, under
from roadwork_serve.calibration.threshold_path import threshold_path
from roadwork_serve.calibration.trajectories import trajectories, without_early_exits
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.evaluation.intervals import paired_low, wilson
from roadwork_serve.evaluation.rows import EvaluationRow

_SURE = 0.975  # on either side: intervals of 95 %


@dataclass(frozen=True, slots=True)
class Place:
    """tflop: of a mean item. low, high: a 95 % interval of the accuracy, NaN where items come in groups."""

    name: str
    tflop: float
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Versus:
    """The shipped policy compared with another method, item by item."""

    name: str
    #: Items on which only the shipped policy is correct.
    gained: int
    #: Items on which only the other method is correct.
    lost: int
    #: 95 % interval of the difference of accuracies, low to high; NaN if items come in groups.
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Part:
    """Items of one kind. right: how many of them each way has right."""

    n: int
    roadwork: int
    right: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Found:
    """All ways on one set of items. always: the accuracy of always giving the commoner answer.

    parts: scenes by the cheapest stage that can know them, photographs by group, hard negatives once more.
    frugal, bands: the lines, from the cheapest.
    """

    n: int
    always: float
    places: tuple[Place, ...]
    versus: tuple[Versus, ...]
    frugal: tuple[Place, ...]
    bands: tuple[Place, ...]
    parts: Mapping[str, Part]


class Field:
    """All ways, with whatever they learn fitted to rows of other items.

    base: the policy that ships. ways: by name, the policy that ships among them as `ours`.
    """

    def __init__(self, rows: Sequence[EvaluationRow], base: Policy) -> None:
        self.base, self.ours, self.frugal = base, f"{base.version}, as it ships", Frugal(rows)
        self.bands = threshold_path(trajectories(rows, base, "photo"))[::-1]
        self.ways: dict[str, Way] = {
            "stage 1 alone": alone("backbone"),
            "fast VLM on all": alone("vlm"),
            "reasoner on all": alone("reasoner"),
            f"all stages of {base.version}": under(without_early_exits(base, "photo")),
            "hand-set cascade": by_hand,
        }
        budget = float(under(base)(rows).flop.mean())
        self.ways[f"FrugalGPT, budget of {base.version}"] = self.frugal.judge(self.frugal.within(budget).thresholds)
        self.ways[self.ours] = under(base)
        if (better := tuned(rows, base)) is not None:
            self.ways["calibrated and tuned anew"] = under(better)

    def on(self, rows: Sequence[EvaluationRow]) -> Found:
        """Where they stand on these rows."""
        truth = np.array([row.metadata.label for row in rows], dtype=bool)
        judged = {name: way(rows) for name, way in self.ways.items()}
        right = {name: each.said == truth for name, each in judged.items()}
        whole, parts = trajectories(rows, self.base, "photo"), defaultdict[str, list[int]](list)
        for at, row in enumerate(rows):
            parts[row.metadata.needs or row.metadata.group].append(at)
            if row.metadata.hard_negative:
                parts["hard negatives"].append(at)
        return Found(
            len(rows),
            round(max(truth.mean(), 1 - truth.mean()), 4),
            tuple(place(name, rows, each) for name, each in judged.items()),
            tuple(versus(name, rows, right[self.ours], each) for name, each in right.items() if name != self.ours),
            tuple(place("FrugalGPT", rows, self.frugal.judge(each.thresholds)(rows)) for each in self.frugal.line),
            tuple(place("bands", rows, Judged(*whole.apply_bands(*bands)[:2])) for bands in self.bands),
            {
                part: Part(len(at), int(truth[at].sum()), {name: int(each[at].sum()) for name, each in right.items()})
                for part, at in sorted(parts.items())
            },
        )


def place(name: str, rows: Sequence[EvaluationRow], judged: Judged) -> Place:
    """Where a way stands that judged these rows so."""
    right = int(sum(said == row.metadata.label for said, row in zip(judged.said.tolist(), rows, strict=True)))
    low, high = (math.nan, math.nan) if _grouped(rows) else wilson(right, len(rows), _SURE)
    tflop = float(judged.flop.mean()) / 1e12
    return Place(name, round(tflop, 3), round(right / len(rows), 4), round(low, 4), round(high, 4))


def versus(name: str, rows: Sequence[EvaluationRow], ours: Bools, other: Bools) -> Versus:
    """Of two ways, which rows each has right: [n], [n]."""
    gained, lost, n = int((ours & ~other).sum()), int((other & ~ours).sum()), len(rows)
    low, high = paired_low(gained, lost, n, _SURE), -paired_low(lost, gained, n, _SURE)
    if _grouped(rows):
        low = high = math.nan
    return Versus(name, gained, lost, round(low, 4), round(high, 4))


def _grouped(rows: Sequence[EvaluationRow]) -> bool:
    """Frames of one drive are alike, so that there is less to go by than their number says."""
    return any(row.metadata.group for row in rows)
