"""Methods that classify stills from the predictions of all stages."""

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
EXIT = 0.15, 0.85  # of the hand-set cascade


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """Predictions for n rows, with their costs at the size of the production models."""

    #: [n]
    roadwork: Bools
    #: [n]
    cost_flops: Floats


Method = Callable[[Sequence[EvaluationRow]], Predictions]


def stage_flops(stage: str) -> float:
    """Return the FLOPs of one inference of a stage on a still."""
    return flops([stage], "photo")


def logits(rows: Sequence[EvaluationRow], stage: str) -> Floats:
    """Return the logits of a stage, [n]; 0 where it abstained. Raises ConfigError for rows without the stage."""
    records = [row.record(stage) for row in rows]
    for row, record in zip(rows, records, strict=True):
        if record is None:
            raise ConfigError(f"{stage} was not run on {row.metadata.name}; make the rows with --all-stages")
    return np.array([0.0 if record is None or record.logit is None else record.logit for record in records])


def single_stage(stage: str) -> Method:
    """Return the method that thresholds one stage at a probability of 0.5."""
    return lambda rows: Predictions(logits(rows, stage) >= 0, np.full(len(rows), stage_flops(stage)))


def hand_set_cascade(rows: Sequence[EvaluationRow]) -> Predictions:
    """Classify with a conventional cascade with hand-set thresholds."""
    first, sign_logits, fast, slow = (logits(rows, stage) for stage in ("backbone", "signs", "vlm", "reasoner"))
    score = 1 / (1 + np.exp(-first))
    early = (score < EXIT[0]) | (score > EXIT[1])
    contradictory = ~early & (sign_logits != 0) & ((sign_logits > 0) != (fast >= 0))
    roadwork = np.where(early, score > 0.5, np.where(contradictory, slow, fast) >= 0)
    second = stage_flops("signs") + stage_flops("vlm")
    cost_flops = stage_flops("backbone") + ~early * second + contradictory * stage_flops("reasoner")
    return Predictions(roadwork, cost_flops)


def by_policy(policy: Policy) -> Method:
    """Return the method that applies a policy of this project."""
    low, high = (np.array([getattr(step, edge) for step in policy.photo]) for edge in ("low", "high"))

    def predict(rows: Sequence[EvaluationRow]) -> Predictions:
        roadwork, cost_flops, _ = trajectories(rows, policy, "photo").apply_bands(low, high)
        return Predictions(roadwork, cost_flops)

    return predict


def tuned(rows: Sequence[EvaluationRow], base: Policy) -> Policy | None:
    """Return the policy that `calibrate` and `tune` fit to these rows by default; None without a certificate."""
    settings = TuningSettings()
    in_test_set = holdout_mask(rows, settings.test_share)
    calibration_rows = [row for row, held_out in zip(rows, in_test_set, strict=True) if not held_out]
    tuned_policy = tune(rows, calibrate(calibration_rows, base, "calibrated")[0], settings).policy
    return None if tuned_policy.certificate is None else tuned_policy
