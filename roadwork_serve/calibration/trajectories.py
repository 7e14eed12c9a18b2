"""The path of every row through all stages of a policy, so that many exit bands can be evaluated quickly.

Exit bands only decide where a path ends: the posterior after a stage does not depend on them. `apply_bands` agrees with
`replay.replay` on every row, for all bands that contain the decision threshold.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.cascade.policy import Policy, Query, Walk
from roadwork_serve.errors import ConfigError
from roadwork_serve.evaluation.rows import EvaluationRow
from roadwork_serve.profiles.flops import flops
from roadwork_serve.schema import MediaKind

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
#: Returns the cost of running a stage on a row.
CostFunction = Callable[[EvaluationRow, str], float]


@dataclass(frozen=True, slots=True)
class Trajectories:
    """The paths of n rows through m steps."""

    #: Posterior after each step, [n, m].
    posterior: Floats
    #: Whether the stage of a step ran and did not abstain, so that the item may exit after it, [n, m].
    spoke: Bools
    #: Cumulative cost after each step, [n, m].
    cost: Floats
    #: Labels, [n].
    truth: Bools
    decision_threshold: float

    def apply_bands(self, low: Floats, high: Floats) -> tuple[Bools, Floats, NDArray[np.int64]]:
        """Return predicted labels, costs and exit steps, each [n], under bands low [m] and high [m]."""
        step = self.exit_steps(low, high)
        index = np.arange(len(step))
        return self.posterior[index, step] >= self.decision_threshold, self.cost[index, step], step

    def exit_steps(self, low: Floats, high: Floats) -> NDArray[np.int64]:
        """Return the exit steps [n] under bands low [m] and high [m]."""
        exits = self.spoke & ((self.posterior < low) | (self.posterior > high))
        exits[:, -1] = True
        return exits.argmax(axis=1)

    @property
    def no_exit_bands(self) -> tuple[Floats, Floats]:
        """Exit bands without early exits."""
        m = self.posterior.shape[1]
        return np.zeros(m), np.ones(m)

    def early_exit_errors(self, predicted: Bools) -> Bools:
        """Return which predictions [n] are wrong because of an early exit: all stages together would be correct."""
        return (predicted != self.truth) & ((self.posterior[:, -1] >= self.decision_threshold) == self.truth)

    def part(self, which: Bools) -> "Trajectories":
        """Return the paths of some rows."""
        return Trajectories(
            self.posterior[which], self.spoke[which], self.cost[which], self.truth[which], self.decision_threshold
        )


def flops_cost(row: EvaluationRow, stage: str) -> float:
    """Return the FLOPs of one inference, for a model of production size."""
    return flops([stage], row.metadata.kind)


def latency_cost(row: EvaluationRow, stage: str) -> float:
    """Return the milliseconds that the stage's model took for the item."""
    record = row.record(stage)
    return 0.0 if record is None else record.ms


def without_early_exits(policy: Policy, kind: MediaKind) -> Policy:
    """Return the policy without early exits."""
    return policy.with_steps(kind, [step.with_band(0.0, 1.0) for step in policy.steps(kind)])


def trajectories(
    rows: Sequence[EvaluationRow], policy: Policy, kind: MediaKind, cost_function: CostFunction = flops_cost
) -> Trajectories:
    """Return the paths of rows of one media type. Raises ConfigError when a stage has no prediction for a row."""
    steps = policy.steps(kind)
    shape = len(rows), len(steps)
    posterior, spoke, cost = np.empty(shape), np.zeros(shape, dtype=bool), np.zeros(shape)
    full = without_early_exits(policy, kind)
    for at, row in enumerate(rows):
        walk, total = Walk(full, kind), 0.0
        for column, move in enumerate(walk):
            if isinstance(move, Query):
                if (record := row.record(move.step.stage)) is None:
                    raise ConfigError(
                        f"{move.step.stage} has no prediction for {row.metadata.name}; take rows of `roadwork evaluate "
                        "--all-stages`, or of a journal with audits"
                    )
                walk.record(move.step, record.logit, record.text_probability)
                spoke[at, column] = record.logit is not None
                total += cost_function(row, move.step.stage)
            posterior[at, column], cost[at, column] = walk.progress.posterior, total
    truth = np.array([row.metadata.label for row in rows], dtype=bool)
    return Trajectories(posterior, spoke, cost, truth, policy.decision_threshold)
