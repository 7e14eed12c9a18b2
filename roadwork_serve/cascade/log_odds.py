"""Log-odds: how a stage's raw word moves the belief that there is active road work."""

import math
from dataclasses import dataclass

from roadwork_serve.cascade.curve import FAR, Curve
from roadwork_serve.errors import ConfigError, StageFailed

MAX_LOGODDS = 30.0  # a probability within 1e-13 of 0 or 1: surer than any stage has reason to be


def clamp(logodds: float) -> float:
    """The log-odds, held within what the cascade is willing to believe."""
    return max(-MAX_LOGODDS, min(MAX_LOGODDS, logodds))


def sigmoid(logodds: float) -> float:
    """The probability with these log-odds, with no overflow at either end."""
    if logodds >= 0:
        return 1.0 / (1.0 + math.exp(-logodds))
    odds = math.exp(logodds)
    return odds / (1.0 + odds)


def logit(probability: float) -> float:
    """The log-odds of a probability, clamped at 0 and 1. Raises ValueError outside [0, 1]."""
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"{probability} is not a probability")
    if probability in (0.0, 1.0):
        return MAX_LOGODDS if probability else -MAX_LOGODDS
    return clamp(math.log(probability) - math.log1p(-probability))


@dataclass(frozen=True, slots=True)
class Calibrator:
    """Turns a stage's logit into evidence, fitted on the items that reach the stage.

    scale: what a unit of the stage's logit is worth; above 1 where it is too timid.
    carry: how much of the earlier belief is kept; below 1 where the stage has seen the same cues.
    bias: what reaching the stage says by itself.
    curve: what the stage's logit is made into before; None leaves it as it is.
    """

    scale: float = 1.0
    prior_weight: float = 1.0
    bias: float = 0.0
    curve: Curve | None = None

    def __post_init__(self) -> None:
        for name, value in (("scale", self.scale), ("prior_weight", self.prior_weight), ("bias", self.bias)):
            if not -FAR <= value <= FAR:  # false for NaN too
                raise ConfigError(f"{name} is {value}; write a finite number of at most {FAR:g}")
            if value < 0 and name != "bias":
                raise ConfigError(f"{name} is {value}; a negative one would turn the evidence round, write 0 or more")

    def update(self, prior: float, logit: float) -> float:
        """Posterior log-odds from the log-odds so far and the stage's raw logit, which may be infinite.

        Raises StageFailed when the logit is NaN.
        """
        if math.isnan(logit):
            raise StageFailed("the stage answered NaN; look at its model and precision")
        said = max(-FAR, min(FAR, logit))
        return clamp(
            self.prior_weight * prior + self.scale * (said if self.curve is None else self.curve(said)) + self.bias
        )
