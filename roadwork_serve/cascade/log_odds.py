"""Log-odds: how a stage's prediction updates the probability of active road work."""

import math

from pydantic import Field

from roadwork_serve.cascade.curve import FAR, Curve, Logit, Weight
from roadwork_serve.errors import StageFailed
from roadwork_serve.validation import ConfigModel

MAX_LOGODDS = 30.0  # a probability within 1e-13 of 0 or 1: no stage has reason to be more certain


def clamp(logodds: float) -> float:
    """Return the log-odds, limited to MAX_LOGODDS in both directions."""
    return max(-MAX_LOGODDS, min(MAX_LOGODDS, logodds))


def sigmoid(logodds: float) -> float:
    """Return the probability with these log-odds, without overflow at either end."""
    if logodds >= 0:
        return 1.0 / (1.0 + math.exp(-logodds))
    odds = math.exp(logodds)
    return odds / (1.0 + odds)


def logit(probability: float) -> float:
    """Return the log-odds of a probability, clamped at 0 and 1. Raises ValueError outside [0, 1]."""
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"{probability} is not a probability")
    if probability in (0.0, 1.0):
        return MAX_LOGODDS if probability else -MAX_LOGODDS
    return clamp(math.log(probability) - math.log1p(-probability))


class Calibrator(ConfigModel):
    """Combines a stage's logit with the prior, with weights fitted to the items that reach the stage."""

    scale: Weight = Field(
        default=1.0, description="weight of the stage's log-odds; above 1 for a stage that is underconfident"
    )
    prior_weight: Weight = Field(
        default=1.0,
        description="weight of the log-odds so far; below 1 for a stage that uses the same cues as earlier ones",
    )
    bias: Logit = Field(default=0.0, description="log-odds added because the item reached the stage")
    curve: Curve | None = Field(
        default=None, description="calibration curve, applied to the stage's log-odds first; none by default"
    )

    def update(self, prior: float, logit: float) -> float:
        """Return the posterior log-odds, given the log-odds so far and the stage's raw logit, which may be infinite.

        Raises StageFailed if the logit is NaN.
        """
        if math.isnan(logit):
            raise StageFailed("the stage returned NaN; check its model and precision")
        raw = max(-FAR, min(FAR, logit))
        calibrated = raw if self.curve is None else self.curve(raw)
        return clamp(self.prior_weight * prior + self.scale * calibrated + self.bias)
