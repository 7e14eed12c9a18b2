"""Comparison of methods: accuracy, compute, and differences between them."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.cost_accuracy.frugal import Frugal
from benchmarks.cost_accuracy.methods import (
    Bools,
    Method,
    Predictions,
    by_policy,
    hand_set_cascade,
    single_stage,
    tuned,
)
from roadwork_serve.calibration.threshold_path import threshold_path
from roadwork_serve.calibration.trajectories import trajectories, without_early_exits
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.evaluation.intervals import paired_low, wilson
from roadwork_serve.evaluation.rows import EvaluationRow

_QUANTILE = 0.975  # two-sided intervals of 95 %


@dataclass(frozen=True, slots=True)
class Score:
    """The accuracy and cost of a method."""

    name: str
    #: Mean per item.
    tflop: float
    accuracy: float
    #: 95 % interval of the accuracy, low to high; NaN if items come in groups.
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """The shipped policy compared with another method, item by item."""

    name: str
    #: Items on which only the shipped policy is correct.
    only_shipped: int
    #: Items on which only the other method is correct.
    only_other: int
    #: 95 % interval of the difference of accuracies, low to high; NaN if items come in groups.
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Subset:
    """Items of one kind."""

    n: int
    #: Items with road work.
    roadwork: int
    #: Correct items by method.
    correct: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Comparison:
    """All methods on one set of items."""

    n: int
    #: Accuracy of always predicting the more frequent class.
    majority_baseline: float
    methods: tuple[Score, ...]
    differences: tuple[PairedDifference, ...]
    #: FrugalGPT for each budget, from the cheapest.
    frugal: tuple[Score, ...]
    #: The policy with each set of bands, from the cheapest.
    bands: tuple[Score, ...]
    #: Scenes by the cheapest stage that can classify them, photographs by group, and hard negatives.
    subsets: Mapping[str, Subset]


class MethodComparison:
    """All methods, fitted to rows of other items. `ours` is the name of the shipped policy among `methods`."""

    def __init__(self, rows: Sequence[EvaluationRow], base: Policy) -> None:
        self.base, self.ours, self.frugal = base, f"{base.version}, as shipped", Frugal(rows)
        self.bands = threshold_path(trajectories(rows, base, "photo"))[::-1]
        self.methods: dict[str, Method] = {
            "stage 1 alone": single_stage("backbone"),
            "fast VLM on every item": single_stage("vlm"),
            "reasoner on every item": single_stage("reasoner"),
            f"all stages of {base.version}": by_policy(without_early_exits(base, "photo")),
            "hand-set cascade": hand_set_cascade,
        }
        budget = float(by_policy(base)(rows).cost_flops.mean())
        self.methods[f"FrugalGPT, with the budget of {base.version}"] = self.frugal.method(
            self.frugal.within(budget).thresholds
        )
        self.methods[self.ours] = by_policy(base)
        if (better := tuned(rows, base)) is not None:
            self.methods["recalibrated and retuned"] = by_policy(better)

    def evaluate(self, rows: Sequence[EvaluationRow]) -> Comparison:
        """Return the scores of all methods on these rows."""
        truth = np.array([row.metadata.label for row in rows], dtype=bool)
        predictions = {name: method(rows) for name, method in self.methods.items()}
        correct = {name: each.roadwork == truth for name, each in predictions.items()}
        whole, subsets = trajectories(rows, self.base, "photo"), defaultdict[str, list[int]](list)
        for at, row in enumerate(rows):
            subsets[row.metadata.needs or row.metadata.group].append(at)
            if row.metadata.hard_negative:
                subsets["hard negatives"].append(at)
        return Comparison(
            len(rows),
            round(max(truth.mean(), 1 - truth.mean()), 4),
            tuple(score(name, rows, each) for name, each in predictions.items()),
            tuple(
                paired_difference(name, rows, correct[self.ours], each)
                for name, each in correct.items()
                if name != self.ours
            ),
            tuple(score("FrugalGPT", rows, self.frugal.method(each.thresholds)(rows)) for each in self.frugal.front),
            tuple(score("bands", rows, Predictions(*whole.apply_bands(*bands)[:2])) for bands in self.bands),
            {
                part: Subset(
                    len(at), int(truth[at].sum()), {name: int(each[at].sum()) for name, each in correct.items()}
                )
                for part, at in sorted(subsets.items())
            },
        )


def score(name: str, rows: Sequence[EvaluationRow], predictions: Predictions) -> Score:
    """Return the score of a method from its predictions on these rows."""
    labels = np.array([row.metadata.label for row in rows], dtype=bool)
    correct = int((predictions.roadwork == labels).sum())
    low, high = (math.nan, math.nan) if _grouped(rows) else wilson(correct, len(rows), _QUANTILE)
    tflop = float(predictions.cost_flops.mean()) / 1e12
    return Score(name, round(tflop, 3), round(correct / len(rows), 4), round(low, 4), round(high, 4))


def paired_difference(name: str, rows: Sequence[EvaluationRow], ours: Bools, other: Bools) -> PairedDifference:
    """Compare two methods, given for each row whether it is correct: [n], [n]."""
    only_shipped, only_other, n = int((ours & ~other).sum()), int((other & ~ours).sum()), len(rows)
    low, high = paired_low(only_shipped, only_other, n, _QUANTILE), -paired_low(only_other, only_shipped, n, _QUANTILE)
    if _grouped(rows):
        low = high = math.nan
    return PairedDifference(name, only_shipped, only_other, round(low, 4), round(high, 4))


def _grouped(rows: Sequence[EvaluationRow]) -> bool:
    """Return whether items come in groups. Frames of one drive are alike, so an interval would be too narrow."""
    return any(row.metadata.group for row in rows)
