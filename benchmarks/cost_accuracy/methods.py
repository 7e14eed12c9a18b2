"""Ways to judge stills from what every stage said of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roadwork_serve.calibration.calibrate import calibrate
from roadwork_serve.calibration.thresholds import TuningSettings, holdout_mask, tune
from roadwork_serve.calibration.trajectories import trajectories
from roadwork_serve.cascade.policy import Policy
from roadwork_serve.errors import ConfigError
from roadwork_serve.evaluation.rows import EvaluationRow
from roadwork_serve.profiles.flops import flops

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
LEAVE = 0.15, 0.85  # the hand-set cascade's


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What is said of n rows, and what each costs in FLOPs at the size of the production models. said, flop: [n]."""

    said: Bools
    flop: Floats


Way = Callable[[Sequence[EvaluationRow]], Judged]


def price(stage: str) -> float:
    """FLOPs of one look at a still."""
    return flops([stage], "photo")


def logits(rows: Sequence[EvaluationRow], stage: str) -> Floats:
    """Of the stage's own word, [n]; 0 where it abstained. Raises ConfigError where it was not asked."""
    records = [row.record(stage) for row in rows]
    for row, record in zip(rows, records, strict=True):
        if record is None:
            raise ConfigError(f"{stage} did not speak on {row.metadata.name}; make the rows with --all-stages")
    return np.array([0.0 if record is None or record.logit is None else record.logit for record in records])


def alone(stage: str) -> Way:
    """Return a stage by its own word, from a probability of 0.5 up."""
    return lambda rows: Judged(logits(rows, stage) >= 0, np.full(len(rows), price(stage)))


def by_hand(rows: Sequence[EvaluationRow]) -> Judged:
    """Return the usual cascade, with thresholds that somebody thought of."""
    first, words, fast, slow = (logits(rows, stage) for stage in ("backbone", "signs", "vlm", "reasoner"))
    score = 1 / (1 + np.exp(-first))
    early = (score < LEAVE[0]) | (score > LEAVE[1])
    torn = ~early & (words != 0) & ((words > 0) != (fast >= 0))
    said = np.where(early, score > 0.5, np.where(torn, slow, fast) >= 0)
    flop = price("backbone") + ~early * (price("signs") + price("vlm")) + torn * price("reasoner")
    return Judged(said, flop)


def under(policy: Policy) -> Way:
    """By a policy of this project."""
    low, high = (np.array([getattr(step, edge) for step in policy.photo]) for edge in ("low", "high"))

    def judged(rows: Sequence[EvaluationRow]) -> Judged:
        said, flop, _ = trajectories(rows, policy, "photo").apply_bands(low, high)
        return Judged(said, flop)

    return judged


def tuned(rows: Sequence[EvaluationRow], base: Policy) -> Policy | None:
    """Return the policy that `calibrate` and `tune` fit to these rows by default; None without a certificate."""
    settings = TuningSettings()
    kept = [row for row, held in zip(rows, holdout_mask(rows, settings.test_share), strict=True) if not held]
    made = tune(rows, calibrate(kept, base, "calibrated")[0], settings).policy
    return None if made.certificate is None else made
