"""Every row's course through all stages of a policy at once, so that many exit bands can be tried on it quickly.

Bands only say where a course is cut off: what is believed at a stage does not depend on them. `cut` agrees with
`replay.replay` on every row, for every band that holds `decide_at`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.cascade.policy import ExitCascade, Policy, Skip
from roadwork_serve.errors import ConfigError
from roadwork_serve.evaluation.rows import EvaluationRow
from roadwork_serve.profiles.flops import flops
from roadwork_serve.schema import MediaKind

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Price = Callable[[EvaluationRow, str], float]


@dataclass(frozen=True, slots=True)
class Trajectories:
    """n rows and m steps. posterior, spoke, cost: [n, m], after each step; cost in all so far. truth: [n].

    spoke: the step's stage said something that an exit could follow.
    """

    posterior: Floats
    spoke: Bools
    cost: Floats
    truth: Bools
    decision_threshold: float

    def cut(self, low: Floats, high: Floats) -> tuple[Bools, Floats, NDArray[np.int64]]:
        """What is said, what it costs and the step it leaves after, each [n], under bands [m] and [m]."""
        out = self.spoke & ((self.posterior < low) | (self.posterior > high))
        out[:, -1] = True
        left = out.argmax(axis=1)
        at = np.arange(len(left))
        return self.posterior[at, left] >= self.decision_threshold, self.cost[at, left], left

    @property
    def never(self) -> tuple[Floats, Floats]:
        """Bands that let nobody leave early."""
        m = self.posterior.shape[1]
        return np.zeros(m), np.ones(m)

    def losses(self, said: Bools) -> Bools:
        """Wrong for having left early: all stages together would have been right."""
        return (said != self.truth) & ((self.posterior[:, -1] >= self.decision_threshold) == self.truth)

    def part(self, which: Bools) -> "Trajectories":
        """Of some rows."""
        return Trajectories(
            self.posterior[which], self.spoke[which], self.cost[which], self.truth[which], self.decision_threshold
        )


def flops_cost(row: EvaluationRow, stage: str) -> float:
    """FLOPs of one look, at the size of the production models."""
    return flops([stage], row.about.kind)


def latency_cost(row: EvaluationRow, stage: str) -> float:
    """Milliseconds that the stage's model took for the item."""
    look = row.look(stage)
    return 0.0 if look is None else look.ms


def without_early_exits(policy: Policy, kind: MediaKind) -> Policy:
    """The policy with bands that let nobody leave early."""
    steps = tuple(replace(step, low=0.0, high=1.0) for step in policy.steps(kind))
    return replace(policy, photo=steps) if kind == "photo" else replace(policy, clip=steps)


def trajectories(
    rows: Sequence[EvaluationRow], policy: Policy, kind: MediaKind, price: Price = flops_cost
) -> Trajectories:
    """The courses of rows of one kind. Raises ConfigError where a stage did not speak on one."""
    steps = policy.steps(kind)
    shape = len(rows), len(steps)
    posterior, spoke, cost = np.empty(shape), np.zeros(shape, dtype=bool), np.zeros(shape)
    whole = without_early_exits(policy, kind)
    for at, row in enumerate(rows):
        progress, spent = whole.start(), 0.0
        while not isinstance(move := whole.next_step(kind, progress, math.inf), ExitCascade):
            column = progress.position
            if isinstance(move, Skip):
                progress = progress.past()
            elif (look := row.look(move.step.stage)) is not None:
                progress = progress.after(move.step, look.logit, look.text_probability)
                spoke[at, column] = look.logit is not None
                spent += price(row, move.step.stage)
            else:
                raise ConfigError(
                    f"{move.step.stage} did not speak on {row.about.name}; take rows of `roadwork evaluate "
                    "--ask-everyone`, or of a journal with a survey"
                )
            posterior[at, column], cost[at, column] = progress.posterior, spent
    truth = np.array([row.about.label for row in rows], dtype=bool)
    return Trajectories(posterior, spoke, cost, truth, policy.decision_threshold)
